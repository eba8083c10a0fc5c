//! The header of a qcow2 image: a function from bytes to facts, and refusals.
//!
//! Refused: backing files, external data files, encryption, images marked corrupt, and every incompatible feature that is not known. Internal snapshots are ignored: only the active state is read.

use crate::decode::Limit;
use crate::error::ImageError;

/// Bytes of the longest header that is looked at, with its extensions.
pub(crate) const HEADER_BYTES: usize = 64 * 1024;

/// Most entries of the first-level table: 2 MiB of it, 128 TiB of disk at 64 KiB clusters.
const MAX_L1_ENTRIES: u64 = 256 * 1024;

/// A 32nd of a cluster is at least a sector.
const EXTENDED_LEAST_CLUSTER_BITS: u32 = 14;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_EXTERNAL_DATA: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Deflate,
    Zstd,
}

/// What matters of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    pub(crate) size: u64,
    pub(crate) l1_offset: u64,
    /// Entries that are needed to cover the size.
    pub(crate) l1_entries: u64,
    pub(crate) compression: Compression,
    /// Second-level entries are twice as long and tell of each of 32 parts of a cluster whether it is there.
    pub(crate) extended_l2: bool,
}

impl Header {
    pub(crate) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of one second-level table.
    pub(crate) fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_bytes()
    }

    /// Bytes of one of its entries.
    pub(crate) fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// What can be there or not: a cluster, or a part of one.
    pub(crate) fn unit(&self) -> u64 {
        self.cluster_size() / if self.extended_l2 { 32 } else { 1 }
    }

    /// Reads a header. `bytes` is the start of the file, up to [`HEADER_BYTES`].
    pub(crate) fn parse(name: &str, bytes: &[u8], limit: &Limit) -> Result<Self, ImageError> {
        let corrupt = |reason: String| ImageError::Corrupt {
            source_name: name.to_owned(),
            reason,
        };
        let unsupported = |reason: &str, remedy: &str| ImageError::Unsupported {
            source_name: name.to_owned(),
            reason: format!("this qcow2 image {reason}"),
            remedy: remedy.to_owned(),
        };
        let u32_at = |offset: usize| be32(bytes, offset).ok_or_else(|| corrupt("its qcow2 header is cut off".to_owned()));
        let u64_at = |offset: usize| be64(bytes, offset).ok_or_else(|| corrupt("its qcow2 header is cut off".to_owned()));
        let convert = "convert it with qemu-img convert -O qcow2";

        let version = u32_at(4)?;
        if !(2..=3).contains(&version) {
            return Err(unsupported(
                &format!("is of version {version}, versions 2 and 3 are known"),
                convert,
            ));
        }
        if u64_at(8)? != 0 || u32_at(16)? != 0 {
            return Err(unsupported("has a backing file", "flatten it with qemu-img convert -O qcow2"));
        }
        let cluster_bits = u32_at(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt(format!(
                "its cluster size is 2^{cluster_bits} bytes, 2^9 to 2^21 are allowed"
            )));
        }
        let size = u64_at(24)?;
        if size == 0 {
            return Err(corrupt("it describes a disk of 0 bytes".to_owned()));
        }
        if u32_at(32)? != 0 {
            return Err(unsupported(
                "is encrypted",
                "publish it decrypted; disks are protected by other means",
            ));
        }
        limit.check(name, size)?;
        let l1_size = u64::from(u32_at(36)?);
        let l1_offset = u64_at(40)?;
        let snapshots = u32_at(60)?;
        let (mut compression, mut extended_l2, mut extensions_at) = (Compression::Deflate, false, 72);
        if version == 3 {
            let incompatible = u64_at(72)?;
            if incompatible & INCOMPATIBLE_CORRUPT != 0 {
                return Err(corrupt("it is marked as corrupt by the program that wrote it".to_owned()));
            }
            if incompatible & INCOMPATIBLE_EXTERNAL_DATA != 0 {
                return Err(unsupported("keeps its data in another file", convert));
            }
            extended_l2 = incompatible & INCOMPATIBLE_EXTENDED_L2 != 0;
            if extended_l2 && cluster_bits < EXTENDED_LEAST_CLUSTER_BITS {
                return Err(corrupt(format!(
                    "it has extended L2 entries with clusters of 2^{cluster_bits} bytes"
                )));
            }
            // Dirty concerns reference counts alone, which are not read here.
            let known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
            if incompatible & !known != 0 {
                return Err(unsupported(
                    &format!("uses unknown incompatible features {:#x}", incompatible & !known),
                    convert,
                ));
            }
            let header_length = u32_at(100)?;
            if header_length < 104 || !header_length.is_multiple_of(8) || u64::from(header_length) > 1 << cluster_bits {
                return Err(corrupt(format!("its qcow2 header length {header_length} is not possible")));
            }
            let named = if header_length > 104 {
                bytes.get(104).copied().unwrap_or(0)
            } else {
                0
            };
            compression = match (incompatible & INCOMPATIBLE_COMPRESSION != 0, named) {
                (false, 0) => Compression::Deflate,
                (true, 1) => Compression::Zstd,
                (_, other) => return Err(unsupported(&format!("uses compression type {other}"), convert)),
            };
            extensions_at = header_length as usize;
        }
        let first_cluster = bytes.get(..bytes.len().min(1 << cluster_bits)).unwrap_or(bytes);
        Self::check_extensions(name, first_cluster, extensions_at)?;
        tracing::debug!(version, cluster_bits, size, snapshots, "qcow2 header");

        let cluster_size = 1u64 << cluster_bits;
        let per_l1 = cluster_size * (cluster_size / if extended_l2 { 16 } else { 8 });
        let l1_entries = size.div_ceil(per_l1);
        if l1_entries > MAX_L1_ENTRIES {
            return Err(unsupported(
                &format!("needs a first-level table of {l1_entries} entries, the limit is {MAX_L1_ENTRIES}"),
                "convert it with qemu-img convert -O qcow2 -o cluster_size=64k",
            ));
        }
        if l1_size < l1_entries {
            return Err(corrupt(format!(
                "its first-level table has {l1_size} entries, its size needs {l1_entries}"
            )));
        }
        if l1_offset == 0 || !l1_offset.is_multiple_of(cluster_size) || l1_offset >> 56 != 0 {
            return Err(corrupt(format!(
                "its first-level table is at offset {l1_offset}, which is not possible"
            )));
        }
        Ok(Self {
            version,
            cluster_bits,
            size,
            l1_offset,
            l1_entries,
            compression,
            extended_l2,
        })
    }

    fn check_extensions(name: &str, bytes: &[u8], mut at: usize) -> Result<(), ImageError> {
        let refuse = |reason: &str| ImageError::Unsupported {
            source_name: name.to_owned(),
            reason: format!("this qcow2 image {reason}"),
            remedy: "convert it with qemu-img convert -O qcow2".to_owned(),
        };
        // Each step moves on by at least eight bytes, so this ends with the first cluster.
        while let (Some(kind), Some(length)) = (be32(bytes, at), be32(bytes, at.saturating_add(4))) {
            match kind {
                0 => break,
                0x4441_5441 => return Err(refuse("names an external data file")),
                0x0537_be77 => return Err(refuse("has an encryption header")),
                _ => {}
            }
            at = at.saturating_add(8).saturating_add((length as usize).saturating_add(7) & !7);
        }
        Ok(())
    }
}

pub(crate) fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(offset..offset.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}
