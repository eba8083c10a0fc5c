//! The manifest of a packed image.
//!
//! It has one spelling: [`Manifest::parse`] takes exactly the bytes that [`Manifest::to_bytes`] gives, so a digest of the bytes is a
//! digest of what they say. A manifest in hand is valid as a whole: its sizes are bounded, its chunks ascend, its frames lie one behind
//! the other without gap or overlap, and no frame is stored twice.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::ImageError;
use crate::format::Format;

/// What the member `format` says.
const FORMAT: &str = "kube-baremetal.io/packed-image";
/// The version that is written and read.
const VERSION: u32 = 1;

/// Most bytes of a manifest.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// Most chunks of a disk, those of zeros counted.
pub const MAX_CHUNKS: u64 = 65_536;
/// Smallest chunk. The first 64 KiB of a disk, from which a writer makes its plan, are always in chunk 0.
pub const MIN_CHUNK_BYTES: u32 = 64 << 10;
/// Largest chunk.
pub const MAX_CHUNK_BYTES: u32 = 16 << 20;
/// Largest disk: as many of the largest chunks as there may be.
pub const MAX_DISK_BYTES: u64 = MAX_CHUNKS * MAX_CHUNK_BYTES as u64;

/// The name of a packed image: the BLAKE3 digest of its manifest's bytes, `blake3:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackDigest([u8; 32]);

impl PackDigest {
    /// Of a manifest's bytes.
    pub fn of(manifest: &[u8]) -> Self {
        Self(blake3::hash(manifest).into())
    }

    /// The digits alone, as they stand in paths.
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for PackDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", self.to_hex())
    }
}

impl fmt::Debug for PackDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PackDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 32];
        text.strip_prefix("blake3:")
            .and_then(|digits| hex::decode_to_slice(digits, &mut bytes).ok())
            .ok_or_else(|| format!("{text:?} names no packed image; write it as blake3:<64 hex digits>"))?;
        Ok(Self(bytes))
    }
}

/// A chunk of the disk that is not all zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// Which: it begins at `index * chunk_bytes` of the disk.
    pub index: u32,
    /// Where its frame begins in `chunks`.
    pub offset: u64,
    /// Bytes of its frame.
    pub length: u32,
    /// Digest of the frame.
    #[serde(with = "hex_digest")]
    pub stored: blake3::Hash,
    /// Digest of the plain bytes.
    #[serde(with = "hex_digest")]
    pub plain: blake3::Hash,
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Its format.
    pub format: Format,
    /// Its digest: `sha256:` or `sha512:`.
    pub digest: String,
}

/// By which settings it was packed: for whoever wants the same bytes again. A reader needs none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packer {
    /// Version of the Zstandard library.
    pub zstd: String,
    /// Its level.
    pub level: i32,
}

/// A valid manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest(Document);

/// As written, members in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    format: String,
    version: u32,
    disk_bytes: u64,
    sector_bytes: u32,
    chunk_bytes: u32,
    source: Origin,
    packer: Packer,
    stored_bytes: u64,
    chunks: Vec<Chunk>,
}

/// The members that come before everything else: they tell a manifest of another version from a damaged one.
#[derive(Deserialize)]
struct Preamble {
    format: String,
    version: u32,
}

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{member} of its manifest: {reason}")]
pub struct ManifestError {
    /// Which member, as in `chunks[3].offset`; `.` is the whole.
    pub member: String,
    /// What is wrong with it.
    pub reason: String,
}

impl ManifestError {
    fn new(member: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            member: member.into(),
            reason: reason.into(),
        }
    }

    /// As a fault of the image of this name.
    pub fn of_source(self, source_name: &str) -> ImageError {
        ImageError::Corrupt {
            source_name: source_name.to_owned(),
            reason: self.to_string(),
        }
    }
}

impl Manifest {
    /// The manifest of these parts, when they are valid together. `stored_bytes` follows from the chunks.
    pub fn new(
        disk_bytes: u64,
        sector_bytes: u32,
        chunk_bytes: u32,
        source: Origin,
        packer: Packer,
        chunks: Vec<Chunk>,
    ) -> Result<Self, ManifestError> {
        let document = Document {
            format: FORMAT.to_owned(),
            version: VERSION,
            disk_bytes,
            sector_bytes,
            chunk_bytes,
            source,
            packer,
            stored_bytes: super::stored_bytes(&chunks),
            chunks,
        };
        document.check()?;
        Ok(Self(document))
    }

    /// Reads a manifest: these bytes and no other spelling of them.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::new(".", format!("longer than {MAX_MANIFEST_BYTES} bytes")));
        }
        let preamble: Preamble = read(bytes)?;
        if preamble.format != FORMAT {
            return Err(ManifestError::new("format", format!("is not {FORMAT:?}")));
        }
        if preamble.version != VERSION {
            let reason = format!("{} is not known here, only {VERSION}: use a newer program", preamble.version);
            return Err(ManifestError::new("version", reason));
        }
        let document: Document = read(bytes)?;
        document.check()?;
        let manifest = Self(document);
        if manifest.to_bytes() != bytes {
            let reason = "not in the one spelling that is allowed (order of members, no white space, one newline at the end)";
            return Err(ManifestError::new(".", reason));
        }
        Ok(manifest)
    }

    /// The bytes, always the same for the same manifest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512 + 200 * self.0.chunks.len());
        // The types of the document have nothing that could fail: no maps with keys other than text, no own error of a member, and the
        // writer is memory.
        if serde_json::to_writer(&mut bytes, &self.0).is_err() {
            bytes.clear();
        }
        bytes.push(b'\n');
        bytes
    }

    /// The name of the image.
    pub fn digest(&self) -> PackDigest {
        PackDigest::of(&self.to_bytes())
    }

    /// Size of the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes
    }

    /// Size of the sectors that the partition table counts in; `None` when the image fits disks of any.
    pub fn sector_bytes(&self) -> Option<u32> {
        (self.0.sector_bytes != 0).then_some(self.0.sector_bytes)
    }

    /// Size of a chunk; the last one of the disk may be shorter.
    pub fn chunk_bytes(&self) -> u32 {
        self.0.chunk_bytes
    }

    /// What was packed.
    pub fn source(&self) -> &Origin {
        &self.0.source
    }

    /// The packer's settings.
    pub fn packer(&self) -> &Packer {
        &self.0.packer
    }

    /// Size of `chunks`.
    pub fn stored_bytes(&self) -> u64 {
        self.0.stored_bytes
    }

    /// The chunks that are not all zeros, ascending. Chunk 0, if there, holds the first 64 KiB.
    pub fn chunks(&self) -> &[Chunk] {
        &self.0.chunks
    }

    /// How many chunks the disk has, those of zeros counted.
    pub fn chunk_count(&self) -> u32 {
        self.0.chunk_count() as u32
    }

    /// The chunk of this index, unless it is all zeros.
    pub fn chunk(&self, index: u32) -> Option<&Chunk> {
        let place = self.0.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok()?;
        self.0.chunks.get(place)
    }

    /// Where chunk `index` begins on the disk.
    pub fn disk_offset(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.0.chunk_bytes)
    }

    /// Plain bytes of chunk `index`: `chunk_bytes`, or what the disk has left for the last one.
    pub fn plain_length(&self, index: u32) -> usize {
        self.0.plain_length(index) as usize
    }

    /// Plain bytes of all chunks that are not all zeros.
    pub fn data_bytes(&self) -> u64 {
        self.0.chunks.iter().map(|chunk| self.0.plain_length(chunk.index)).sum()
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ManifestError> {
    let mut input = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let member = error.path().to_string();
        ManifestError::new(member, error.into_inner().to_string())
    })
}

impl Document {
    fn chunk_count(&self) -> u64 {
        self.disk_bytes.div_ceil(u64::from(self.chunk_bytes))
    }

    fn plain_length(&self, index: u32) -> u64 {
        let chunk_bytes = u64::from(self.chunk_bytes);
        self.disk_bytes.saturating_sub(u64::from(index) * chunk_bytes).min(chunk_bytes)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let range = |member: &str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(ManifestError::new(member, format!("{value} is not from {low} to {high}")))
        };
        range("diskBytes", self.disk_bytes, 1, MAX_DISK_BYTES)?;
        if !matches!(self.sector_bytes, 0 | 512 | 4096) {
            return Err(ManifestError::new(
                "sectorBytes",
                format!("{} is not 512, 4096 or 0", self.sector_bytes),
            ));
        }
        range(
            "chunkBytes",
            self.chunk_bytes.into(),
            MIN_CHUNK_BYTES.into(),
            MAX_CHUNK_BYTES.into(),
        )?;
        if !self.chunk_bytes.is_power_of_two() {
            return Err(ManifestError::new("chunkBytes", format!("{} is no power of two", self.chunk_bytes)));
        }
        if self.chunk_count() > MAX_CHUNKS {
            let reason = format!(
                "{} cuts the disk into {} chunks, more than {MAX_CHUNKS}",
                self.chunk_bytes,
                self.chunk_count()
            );
            return Err(ManifestError::new("chunkBytes", reason));
        }
        if Digest::parse(&self.source.digest).is_ok_and(|digest| digest.to_string() == self.source.digest) {
            self.packer.check()?;
            self.check_chunks()
        } else {
            Err(ManifestError::new("source.digest", "is not sha256:<hex> or sha512:<hex>"))
        }
    }

    fn check_chunks(&self) -> Result<(), ManifestError> {
        let at = |place: usize, member: &str, reason: String| Err(ManifestError::new(format!("chunks[{place}].{member}"), reason));
        let longest = longest_frame(self.chunk_bytes);
        let (mut least_index, mut end) = (0u64, 0u64);
        let mut by_offset: HashMap<u64, &Chunk> = HashMap::new();
        let mut frames: HashMap<[u8; 32], u64> = HashMap::new();
        for (place, chunk) in self.chunks.iter().enumerate() {
            if u64::from(chunk.index) < least_index {
                return at(place, "index", format!("{} does not ascend", chunk.index));
            }
            least_index = u64::from(chunk.index) + 1;
            if least_index > self.chunk_count() {
                return at(place, "index", format!("{} lies behind the end of the disk", chunk.index));
            }
            if !(1..=longest).contains(&chunk.length) {
                return at(place, "length", format!("{} is not from 1 to {longest}", chunk.length));
            }
            if chunk.offset == end {
                if frames.insert(chunk.stored.into(), chunk.offset).is_some() {
                    return at(place, "stored", "the same frame is stored before".to_owned());
                }
                by_offset.insert(chunk.offset, chunk);
                end += u64::from(chunk.length);
                continue;
            }
            let Some(first) = by_offset.get(&chunk.offset) else {
                let reason = format!(
                    "{} is neither {end}, where the next frame begins, nor where an earlier one does",
                    chunk.offset
                );
                return at(place, "offset", reason);
            };
            if first.length != chunk.length {
                return at(
                    place,
                    "length",
                    format!("{} was {} for the same frame before", chunk.length, first.length),
                );
            }
            if first.stored != chunk.stored {
                return at(place, "stored", "was another one for the same frame before".to_owned());
            }
            if first.plain != chunk.plain || self.plain_length(first.index) != self.plain_length(chunk.index) {
                return at(
                    place,
                    "plain",
                    "was another one, or of another length, for the same frame before".to_owned(),
                );
            }
        }
        if self.stored_bytes != end {
            let reason = format!("{} is not {end}, where the last frame ends", self.stored_bytes);
            return Err(ManifestError::new("storedBytes", reason));
        }
        Ok(())
    }
}

impl Packer {
    fn check(&self) -> Result<(), ManifestError> {
        let spelled = (1..=32).contains(&self.zstd.len()) && self.zstd.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !spelled {
            return Err(ManifestError::new("packer.zstd", "is not 1 to 32 digits and dots"));
        }
        if !(1..=22).contains(&self.level) {
            return Err(ManifestError::new("packer.level", format!("{} is not from 1 to 22", self.level)));
        }
        Ok(())
    }
}

/// Bytes of the longest frame that Zstandard makes of a chunk.
pub(crate) fn longest_frame(chunk_bytes: u32) -> u32 {
    chunk_bytes + chunk_bytes / 256 + 64
}

mod hex_digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &blake3::Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<blake3::Hash, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        blake3::Hash::from_hex(text.as_bytes()).map_err(|_| D::Error::custom("not 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(index: u32, offset: u64, length: u32, seed: u8) -> Chunk {
        Chunk {
            index,
            offset,
            length,
            stored: blake3::hash(&[seed]),
            plain: blake3::hash(&[seed, seed]),
        }
    }

    fn manifest(chunks: Vec<Chunk>) -> Result<Manifest, ManifestError> {
        let source = Origin {
            format: Format::Zstd,
            digest: Digest::sha256_of(b"x").to_string(),
        };
        let packer = Packer {
            zstd: "1.5.7".to_owned(),
            level: 3,
        };
        Manifest::new(10 * 65_536 + 1000, 512, 65_536, source, packer, chunks)
    }

    fn good() -> Manifest {
        manifest(vec![
            chunk(0, 0, 500, 1),
            chunk(3, 500, 65_000, 2),
            chunk(4, 0, 500, 1),
            chunk(10, 65_500, 20, 3),
        ])
        .unwrap()
    }

    #[test]
    fn a_manifest_is_read_back_as_it_was_written() {
        let manifest = good();
        let bytes = manifest.to_bytes();
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(
            text.starts_with(
                r#"{"format":"kube-baremetal.io/packed-image","version":1,"diskBytes":656360,"sectorBytes":512,"chunkBytes":65536,"source":{"format":"zst","digest":"sha256:"#
            ),
            "{text}"
        );
        assert!(text.contains(
            r#""packer":{"zstd":"1.5.7","level":3},"storedBytes":65520,"chunks":[{"index":0,"offset":0,"length":500,"stored":""#
        ));
        assert!(text.ends_with("\"}]}\n"));
        assert_eq!(Manifest::parse(&bytes), Ok(manifest.clone()));
        assert_eq!(manifest.digest(), PackDigest::of(&bytes));
        assert_eq!(manifest.digest().to_string().parse::<PackDigest>(), Ok(manifest.digest()));
        assert_eq!(
            (manifest.chunk_count(), manifest.plain_length(10), manifest.plain_length(3)),
            (11, 1000, 65_536)
        );
        assert_eq!(manifest.data_bytes(), 3 * 65_536 + 1000);
        assert_eq!(manifest.chunk(4), Some(&chunk(4, 0, 500, 1)));
        assert_eq!(manifest.chunk(5), None);
        assert_eq!(manifest.disk_offset(10), 655_360);
    }

    #[test]
    fn an_empty_disk_has_no_chunks() {
        let empty = manifest(Vec::new()).unwrap();
        assert_eq!((empty.stored_bytes(), empty.data_bytes()), (0, 0));
        assert_eq!(Manifest::parse(&empty.to_bytes()), Ok(empty));
    }

    #[test]
    fn what_is_wrong_names_its_member() {
        let text = String::from_utf8(good().to_bytes()).unwrap();
        let digest = blake3::hash(&[1]).to_hex();
        for (from, to, member) in [
            ("packed-image", "packed-images", "format"),
            ("\"version\":1", "\"version\":2", "version"),
            ("\"version\":1,", "", "."),
            ("\"diskBytes\":656360", "\"diskBytes\":0", "diskBytes"),
            ("\"diskBytes\":656360", "\"diskBytes\":1099511627777", "diskBytes"),
            ("\"diskBytes\":656360", "\"diskBytes\":-1", "diskBytes"),
            ("\"diskBytes\":656360", "\"diskBytes\":4294967297", "chunkBytes"),
            ("\"sectorBytes\":512", "\"sectorBytes\":520", "sectorBytes"),
            ("\"chunkBytes\":65536", "\"chunkBytes\":65537", "chunkBytes"),
            ("\"chunkBytes\":65536", "\"chunkBytes\":32768", "chunkBytes"),
            ("\"chunkBytes\":65536", "\"chunkBytes\":33554432", "chunkBytes"),
            ("\"zst\"", "\"vmdk\"", "source.format"),
            ("sha256:", "sha25:", "source.digest"),
            ("\"1.5.7\"", "\"1.5.7\\n\"", "packer.zstd"),
            ("\"level\":3", "\"level\":23", "packer.level"),
            ("\"storedBytes\":65520", "\"storedBytes\":65521", "storedBytes"),
            ("\"index\":3", "\"index\":0", "chunks[1].index"),
            ("\"index\":10", "\"index\":11", "chunks[3].index"),
            ("\"offset\":65500", "\"offset\":65501", "chunks[3].offset"),
            ("\"offset\":500", "\"offset\":499", "chunks[1].offset"),
            ("\"length\":65000", "\"length\":0", "chunks[1].length"),
            ("\"length\":65000", "\"length\":65857", "chunks[1].length"),
            (&digest, "00", "chunks[0].stored"),
            ("\"version\":1,", "\"version\":1, ", "."),
            ("]}\n", "]}", "."),
            ("]}\n", "]}\n\n", "."),
            ("]}\n", "],\"more\":1}\n", "more"),
            ("\"level\":3", "\"level\":3,\"level\":3", "packer"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Manifest::parse(text.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert_eq!(error.member, member, "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn a_frame_is_stored_once_and_says_the_same_each_time() {
        for (second, member) in [
            (chunk(1, 500, 500, 1), "chunks[1].stored"),
            (chunk(1, 0, 499, 1), "chunks[1].length"),
            (chunk(1, 0, 500, 2), "chunks[1].stored"),
            (chunk(10, 0, 500, 1), "chunks[1].plain"),
        ] {
            let error = manifest(vec![chunk(0, 0, 500, 1), second]).unwrap_err();
            assert_eq!(error.member, member, "{error}");
        }
    }

    #[test]
    fn a_name_is_told_from_other_digests() {
        for bad in ["sha256:00", "blake3:00", "00", ""] {
            assert!(bad.parse::<PackDigest>().unwrap_err().contains("64 hex digits"));
        }
    }

    proptest! {
        /// One changed byte gives a refusal or, in the digits of a digest or a number, another valid manifest: then again in its one spelling.
        #[test]
        fn bytes_are_refused_or_kept(at in 0usize..2000, byte in any::<u8>()) {
            let mut bytes = good().to_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(manifest) = Manifest::parse(&bytes) {
                prop_assert_eq!(manifest.to_bytes(), bytes);
            }
        }

        #[test]
        fn noise_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }
    }
}
