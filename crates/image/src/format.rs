//! Image formats and how they are told apart by their first bytes.
//!
//! Sniffing is authoritative for what happens to the bytes; a declared format only ever has to agree with it. That closes the
//! door on images that claim to be one thing and are parsed as another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ImageError;

/// How many first bytes [`sniff`] wants to see (fewer are fine when the file is shorter).
pub const SNIFF_BYTES: usize = 512;

/// A supported image format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// gzip of a raw image, one or more members.
    #[serde(rename = "gz", alias = "gzip")]
    Gzip,
    /// xz of a raw image, one or more streams.
    Xz,
    /// Zstandard of a raw image, one or more frames.
    #[serde(rename = "zst", alias = "zstd")]
    Zstd,
    /// QEMU's copy-on-write format, versions 2 and 3, without a backing file.
    Qcow2,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Gzip, Self::Xz, Self::Zstd, Self::Qcow2];

    /// The name by which the format is declared.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Gzip => "gz",
            Self::Xz => "xz",
            Self::Zstd => "zst",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "raw" => Ok(Self::Raw),
            "gz" | "gzip" => Ok(Self::Gzip),
            "xz" => Ok(Self::Xz),
            "zst" | "zstd" => Ok(Self::Zstd),
            "qcow2" => Ok(Self::Qcow2),
            other => Err(format!("unknown image format {other:?}; allowed are raw, gz, xz, zst, qcow2")),
        }
    }
}

/// What the first bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// One of ours. Anything without a known magic number is raw.
    Supported(Format),
    /// Something known that is no disk image this crate writes.
    Unsupported(&'static str),
}

impl fmt::Display for Sniffed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Supported(format) => f.write_str(format.as_str()),
            Self::Unsupported(name) => f.write_str(name),
        }
    }
}

/// Tells the format by the first [`SNIFF_BYTES`] bytes.
pub fn sniff(head: &[u8]) -> Sniffed {
    const UNSUPPORTED: &[(usize, &[u8], &str)] = &[
        (0, b"BZh", "bzip2"),
        (0, b"PK\x03\x04", "zip"),
        (0, b"\x04\x22\x4d\x18", "lz4"),
        (0, b"7z\xbc\xaf\x27\x1c", "7z"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk Descriptor", "vmdk descriptor"),
        (0, b"vhdxfile", "vhdx"),
        (0, b"conectix", "vhd"),
        (0, b"QED\0", "qed"),
        (0x40, b"\x7f\x10\xda\xbe", "vdi"),
        (257, b"ustar", "tar"),
        (0, b"<!DOCTYPE", "an HTML page"),
        (0, b"<!doctype", "an HTML page"),
        (0, b"<html", "an HTML page"),
    ];
    if head.starts_with(b"\x1f\x8b") {
        return Sniffed::Supported(Format::Gzip);
    }
    if head.starts_with(b"\xfd7zXZ\0") {
        return Sniffed::Supported(Format::Xz);
    }
    // A Zstandard file may begin with skippable frames (magic 0x184D2A5?).
    if head.starts_with(b"\x28\xb5\x2f\xfd") || (head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == *b"\x2a\x4d\x18") {
        return Sniffed::Supported(Format::Zstd);
    }
    if head.starts_with(b"QFI\xfb") {
        return Sniffed::Supported(Format::Qcow2);
    }
    for (offset, magic, name) in UNSUPPORTED {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)) {
            return Sniffed::Unsupported(name);
        }
    }
    Sniffed::Supported(Format::Raw)
}

/// Sniffs, and holds the result against what was declared.
pub fn check(source_name: &str, head: &[u8], declared: Option<Format>) -> Result<Format, ImageError> {
    let sniffed = sniff(head);
    match (sniffed, declared) {
        (Sniffed::Supported(found), Some(declared)) if found != declared => Err(ImageError::FormatMismatch {
            source_name: source_name.to_owned(),
            declared,
            found: found.to_string(),
        }),
        (Sniffed::Supported(found), _) => Ok(found),
        (Sniffed::Unsupported(name), Some(declared)) => Err(ImageError::FormatMismatch {
            source_name: source_name.to_owned(),
            declared,
            found: name.to_owned(),
        }),
        (Sniffed::Unsupported(name), None) => Err(unsupported(source_name, name)),
    }
}

/// Refuses a container inside a compressed stream: only a raw disk image may be in there.
pub(crate) fn check_inner(source_name: &str, head: &[u8], outer: Format) -> Result<(), ImageError> {
    match sniff(head) {
        Sniffed::Supported(Format::Raw) => Ok(()),
        inner => Err(unsupported(source_name, &format!("{inner} inside {outer}"))),
    }
}

fn unsupported(source_name: &str, found: &str) -> ImageError {
    ImageError::Unsupported {
        source_name: source_name.to_owned(),
        reason: format!("it holds {found}"),
        remedy: "publish a raw disk image (optionally compressed with gzip, xz or zstd) or a qcow2 image".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_magic_is_told_apart() {
        assert_eq!(sniff(b""), Sniffed::Supported(Format::Raw));
        assert_eq!(sniff(&[0; 512]), Sniffed::Supported(Format::Raw));
        assert_eq!(sniff(b"\x1f\x8b\x08"), Sniffed::Supported(Format::Gzip));
        assert_eq!(sniff(b"\xfd7zXZ\0rest"), Sniffed::Supported(Format::Xz));
        assert_eq!(sniff(b"\x28\xb5\x2f\xfd"), Sniffed::Supported(Format::Zstd));
        assert_eq!(sniff(b"\x50\x2a\x4d\x18"), Sniffed::Supported(Format::Zstd));
        assert_eq!(sniff(b"QFI\xfb\0\0\0\x03"), Sniffed::Supported(Format::Qcow2));
        let mut tar = [0u8; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert_eq!(sniff(&tar), Sniffed::Unsupported("tar"));
    }

    #[test]
    fn a_wrong_declaration_names_both() {
        let error = check("image", b"\x1f\x8b\x08", Some(Format::Qcow2)).unwrap_err();
        assert_eq!(error.kind(), crate::FaultKind::FormatMismatch);
        let text = error.to_string();
        assert!(text.contains("qcow2") && text.contains("gz"), "{text}");
        assert_eq!(check("image", b"\x1f\x8b\x08", None).unwrap(), Format::Gzip);
        assert!(check("image", b"PK\x03\x04", None).unwrap_err().to_string().contains("zip"));
    }

    #[test]
    fn names_parse_back() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse::<Format>().unwrap(), format);
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(serde_json::from_str::<Format>(&json).unwrap(), format);
        }
    }
}
