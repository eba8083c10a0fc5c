//! The form of an archive: lines of JSON.
//!
//! | line | what |
//! |---|---|
//! | first | `{"format":"kube-baremetal-archive","version":1,"id":...,"made":...,"product":...}` |
//! | each other | one Kubernetes object with `apiVersion`, `kind`, `metadata` (its old uid too), `spec` or `data`, and `status`, in the order in which they are made again |
//! | last | `{"end":true,"objects":N,"sha256":...}`; the digest is that of all lines before it, line ends included |
//!
//! An archive without its last line, or with another digest, is refused: it was cut off or changed. It is as secret as what it holds: netboot's keys, and the user data of tenants.

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail, ensure};
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FORMAT: &str = "kube-baremetal-archive";
const VERSION: u32 = 1;
/// Longest line: no object of any API server is larger.
const MAX_LINE: u64 = 8 << 20;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: String,
    version: u32,
    /// Names this export, so that an import that is run again knows its own.
    pub id: String,
    /// When it was made.
    pub made: jiff::Timestamp,
    /// The version of the product that made it.
    pub product: String,
}

impl Header {
    /// Of an export that is made now.
    pub fn now() -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            id: format!("{:016x}", rand::random::<u64>()),
            made: jiff::Timestamp::now(),
            product: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: bool,
    objects: usize,
    sha256: String,
}

/// Writes an archive.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    digest: Sha256,
    objects: usize,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// What writing says.
    pub fn new(out: W, header: &Header) -> Result<Self> {
        let mut this = Self {
            out,
            digest: Sha256::new(),
            objects: 0,
        };
        this.line(header)?;
        Ok(this)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).context("an object does not become JSON")?;
        line.push(b'\n');
        self.digest.update(&line);
        self.out.write_all(&line).context("writing the archive")
    }

    /// Adds an object.
    ///
    /// # Errors
    /// What writing says.
    pub fn object(&mut self, object: &DynamicObject) -> Result<()> {
        self.objects += 1;
        self.line(object)
    }

    /// Ends it, and gives back what was written to.
    ///
    /// # Errors
    /// What writing says.
    pub fn end(mut self) -> Result<W> {
        let end = End {
            end: true,
            objects: self.objects,
            sha256: hex::encode(self.digest.clone().finalize()),
        };
        self.line(&end)?;
        self.out.flush().context("writing the archive")?;
        Ok(self.out)
    }
}

/// A whole archive.
#[derive(Debug)]
pub struct Archive {
    /// Its first line.
    pub header: Header,
    /// Its objects.
    pub objects: Vec<DynamicObject>,
}

impl Archive {
    /// Reads it to its end.
    ///
    /// # Errors
    /// In words for a person, when it is none, is cut off, was changed, or is of a newer form.
    pub fn read(from: &mut impl BufRead) -> Result<Self> {
        let mut digest = Sha256::new();
        let mut line = Vec::new();
        let mut next = |line: &mut Vec<u8>| -> Result<bool> {
            line.clear();
            let read = std::io::Read::take(&mut *from, MAX_LINE).read_until(b'\n', line);
            Ok(read.context("reading the archive")? > 0 && line.ends_with(b"\n"))
        };
        ensure!(
            next(&mut line)?,
            "this is no archive of `kube-baremetal export`: it is empty, or its first line does not end"
        );
        let header: Header =
            serde_json::from_slice(&line).context("this is no archive of `kube-baremetal export`: its first line is another one")?;
        ensure!(
            header.format == FORMAT,
            "this is no archive of `kube-baremetal export`, but {:?}",
            header.format
        );
        ensure!(
            header.version == VERSION,
            "this archive has form {}, and this version reads form {VERSION}: import it with the version that made it ({})",
            header.version,
            header.product
        );
        digest.update(&line);
        let mut objects = Vec::new();
        while next(&mut line)? {
            if let Ok(end) = serde_json::from_slice::<End>(&line) {
                let found = hex::encode(digest.finalize());
                if !end.end || end.objects != objects.len() || end.sha256 != found {
                    bail!("the archive was changed after it was written: its digest is another one. Export again");
                }
                ensure!(
                    !next(&mut line)? && line.is_empty(),
                    "something follows the archive's end: it was changed after it was written"
                );
                return Ok(Self { header, objects });
            }
            digest.update(&line);
            let object =
                serde_json::from_slice(&line).with_context(|| format!("line {} of the archive is no object", objects.len() + 2))?;
            objects.push(object);
        }
        bail!(
            "the archive ends after {} objects without its last line: it was cut off. Export again",
            objects.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &Header::now()).unwrap();
        for name in ["a", "b"] {
            let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "uid": "u"}});
            writer.object(&serde_json::from_value(object).unwrap()).unwrap();
        }
        writer.end().unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let read = Archive::read(&mut archive().as_slice()).unwrap();
        assert_eq!(read.objects.len(), 2);
        assert_eq!(read.objects[1].metadata.name.as_deref(), Some("b"));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_noticed() {
        let whole = archive();
        for cut in 0..whole.len() {
            assert!(Archive::read(&mut &whole[..cut]).is_err(), "cut after {cut}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(
                Archive::read(&mut changed.as_slice()).is_err(),
                "byte {at} of {}",
                String::from_utf8_lossy(&whole)
            );
        }
        let mut longer = whole.clone();
        longer.extend_from_slice(&whole);
        assert!(Archive::read(&mut longer.as_slice()).is_err(), "two archives in one");
    }

    #[test]
    fn other_files_and_newer_forms_are_told_apart() {
        let said = |text: &str| format!("{:#}", Archive::read(&mut text.as_bytes()).unwrap_err());
        assert!(said("apiVersion: v1\n").contains("no archive"));
        assert!(said("").contains("empty"));
        let header = Header {
            version: 2,
            ..Header::now()
        };
        let text = serde_json::to_string(&header).unwrap() + "\n";
        assert!(said(&text).contains("form 2"));
    }
}
