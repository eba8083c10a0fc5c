//! Partition tables of images: read from the first bytes, checked, and rewritten for the disk they go to.
//!
//! Functions from bytes to bytes; nothing here touches a disk. Anything out of bounds in a table is a refusal with the reason.

pub mod gpt;
pub mod mbr;

use gpt::Gpt;
use mbr::Mbr;

/// The partition table of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// GUID partition table.
    Gpt(Box<Gpt>),
    /// Master boot record.
    Mbr(Mbr),
    /// None: a file system or something else over the whole disk.
    None,
}

impl Table {
    /// Reads the table in the first bytes of an image. The error is the reason for which the table is refused.
    pub fn parse(head: &[u8]) -> Result<Self, String> {
        if let Some(gpt) = Gpt::parse(head)? {
            return Ok(Self::Gpt(Box::new(gpt)));
        }
        Ok(Mbr::parse(head).map_or(Self::None, Self::Mbr))
    }

    /// `gpt`, `mbr` or `none`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gpt(_) => "gpt",
            Self::Mbr(_) => "mbr",
            Self::None => "none",
        }
    }

    /// Where the last partition ends, in bytes.
    pub fn partitions_end(&self) -> u64 {
        match self {
            Self::Gpt(gpt) => gpt.partitions_end(),
            Self::Mbr(mbr) => mbr.partitions_end(),
            Self::None => 0,
        }
    }
}
