//! Which ranges of a written disk are its own, and not the image's: two disks that were written from one image are the same but for these.
//!
//! A function of the plan without I/O. It names sectors that were changed or placed for this disk, and those behind the image that nobody wrote.

use serde::Serialize;

use super::plan::{END_BYTES, Plan};

/// A part of a disk that is not the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum OwnPart {
    /// Sector 0, where the protective or the real master boot record was changed for this disk.
    BootSector,
    /// Sectors of the primary GPT that were changed for this disk.
    PrimaryTable,
    /// The config drive's partition.
    ConfigDrive,
    /// The backup GPT, at the end of this disk.
    BackupTable,
    /// Behind the image: holds what it held before.
    Unwritten,
}

/// A range of such a part, in sectors of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnRange {
    /// What it is.
    pub part: OwnPart,
    /// First sector.
    pub first_lba: u64,
    /// Last sector; it belongs to the range.
    pub last_lba: u64,
}

/// Where the zeroed end of a disk begins.
pub(crate) fn end_zone(size: u64, sector: u64) -> u64 {
    ((size - END_BYTES) / sector * sector).max(END_BYTES)
}

/// All of them, in the order of the disk, for a disk of `size` bytes and an image of `image_bytes`.
pub(crate) fn own_ranges(plan: &Plan, size: u64, sector: u32, image_bytes: u64) -> Vec<OwnRange> {
    let sector = u64::from(sector);
    let range = |part, start: u64, end: u64| OwnRange {
        part,
        first_lba: start / sector,
        last_lba: end.div_ceil(sector).saturating_sub(1),
    };
    let mut ranges: Vec<OwnRange> = Vec::new();
    let head = plan.image_head.chunks(sector as usize).zip(plan.final_head.chunks(sector as usize));
    for (lba, _) in (0..).zip(head).filter(|(_, (image, this))| image != this) {
        let part = if lba == 0 { OwnPart::BootSector } else { OwnPart::PrimaryTable };
        match ranges.last_mut() {
            Some(last) if last.part == part && last.last_lba + 1 == lba => last.last_lba = lba,
            _ => ranges.push(range(part, lba * sector, (lba + 1) * sector)),
        }
    }
    let placed = plan
        .config_drive
        .map(|drive| (OwnPart::ConfigDrive, drive.offset, drive.offset + drive.length));
    let backup = plan.backup.as_ref();
    let backup = backup.map(|(offset, bytes)| (OwnPart::BackupTable, *offset, *offset + bytes.len() as u64));
    ranges.extend(
        [placed, backup]
            .into_iter()
            .flatten()
            .map(|(part, start, end)| range(part, start, end)),
    );
    // What the image, the zeroed ends and the config drive leave.
    let (start, end) = (image_bytes.next_multiple_of(sector).max(END_BYTES), end_zone(size, sector));
    let (drive_start, drive_end) = placed.map_or((end, end), |(_, start, end)| (start, end));
    for (start, end) in [(start, drive_start.min(end)), (drive_end.max(start), end)] {
        if start < end {
            ranges.push(range(OwnPart::Unwritten, start, end));
        }
    }
    ranges.sort_by_key(|range| range.first_lba);
    ranges
}
