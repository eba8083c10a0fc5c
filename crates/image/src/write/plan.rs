//! What will be on the disk besides the image's data: decided before the first write, from the first bytes of the image and the
//! geometry of the disk. A function without I/O; every refusal that can be known beforehand comes from here.

use super::{ConfigDrive, ConfigDrivePlace};
use crate::error::ImageError;
use crate::table::Table;
use crate::table::gpt::NewPartition;
use crate::table::mbr::Mbr;

/// The first bytes of the disk, which are written last: LBA 0 to 33 of 512-byte sectors, LBA 0 to 5 of 4096-byte ones.
pub(crate) const FIRST_BYTES: usize = 24 * 1024;
/// Both ends of a disk are zeroed over this length first.
pub(crate) const END_BYTES: u64 = 1 << 20;
/// Partitions that are added begin and end at multiples of this.
const PARTITION_ALIGNMENT: u64 = 1 << 20;
/// Largest config drive.
const MAX_CONFIG_DRIVE: usize = 64 << 20;

/// The plan.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) table: &'static str,
    /// The first bytes as they come from the image.
    pub(crate) image_head: Vec<u8>,
    /// The first bytes as they will be.
    pub(crate) final_head: Vec<u8>,
    /// Part of the image that is not written: its own backup table.
    pub(crate) left_out: Option<std::ops::Range<u64>>,
    /// The image must be at least this large, or its partitions are cut off.
    pub(crate) least_image_bytes: u64,
    pub(crate) config_drive: Option<ConfigDrivePlace>,
    /// The backup table for the real end of the disk: offset and bytes.
    pub(crate) backup: Option<(u64, Vec<u8>)>,
}

pub(crate) struct Geometry<'a> {
    pub(crate) disk: &'a str,
    pub(crate) size: u64,
    pub(crate) sector_size: u32,
}

impl Plan {
    pub(crate) fn make(
        source_name: &str,
        head: &[u8],
        image_bytes: Option<u64>,
        config_drive: Option<&ConfigDrive>,
        geometry: &Geometry<'_>,
    ) -> Result<Self, ImageError> {
        let too_large = |needed| ImageError::TooLarge {
            source_name: source_name.to_owned(),
            disk: geometry.disk.to_owned(),
            needed,
            available: geometry.size,
        };
        let least_disk = 2 * END_BYTES;
        if geometry.size < least_disk {
            return Err(too_large(image_bytes.unwrap_or(0).max(least_disk)));
        }
        if let Some(needed) = image_bytes
            && needed > geometry.size
        {
            return Err(too_large(needed));
        }
        let table = Table::parse(head).map_err(|reason| ImageError::Corrupt {
            source_name: source_name.to_owned(),
            reason: format!("of its partition table: {reason}"),
        })?;
        let mut image_head = head[..head.len().min(FIRST_BYTES)].to_vec();
        image_head.resize(FIRST_BYTES, 0);
        let mismatch = |image| ImageError::SectorSizeMismatch {
            source_name: source_name.to_owned(),
            table: if matches!(table, Table::Gpt(_)) { "GPT" } else { "MBR" },
            image,
            disk: geometry.disk.to_owned(),
            actual: geometry.sector_size,
        };
        match &table {
            Table::Gpt(gpt) if gpt.sector_size() != geometry.sector_size => return Err(mismatch(gpt.sector_size())),
            Table::Mbr(_) if geometry.sector_size != 512 => return Err(mismatch(512)),
            _ => {}
        }
        let mut plan = Self {
            table: table.name(),
            final_head: image_head.clone(),
            image_head,
            left_out: None,
            least_image_bytes: table.partitions_end(),
            config_drive: None,
            backup: None,
        };
        if let (Some(image_bytes), true) = (image_bytes, plan.least_image_bytes > 0)
            && image_bytes < plan.least_image_bytes
        {
            return Err(cut_off(source_name, image_bytes, plan.least_image_bytes));
        }
        let placing = Placing {
            plan: &plan,
            geometry,
            config_drive,
        };
        match &table {
            Table::Gpt(gpt) => {
                let usable_end = gpt.usable_end(geometry.size);
                if gpt.partitions_end() > usable_end {
                    return Err(too_large(gpt.partitions_end() + (geometry.size - usable_end)));
                }
                if config_drive.is_some() && !gpt.has_free_entry() {
                    return Err(placing.refused(
                        "all entries of the image's GPT are taken".to_owned(),
                        "use an image with a free partition entry, or an instance without a config drive",
                    ));
                }
                let place = placing.at_the_end_of(usable_end)?;
                let new = place.zip(config_drive).map(|((offset, length), drive)| NewPartition {
                    guid: drive.partition_guid,
                    offset,
                    length,
                });
                let moved = gpt.relocate(geometry.size, new).ok_or_else(|| too_large(gpt.image_bytes()))?;
                let sector = geometry.sector_size as usize;
                plan.final_head[sector..2 * sector].copy_from_slice(&moved.primary_header);
                let at = moved.primary_entries_offset as usize;
                plan.final_head[at..at + moved.entries.len()].copy_from_slice(&moved.entries);
                Mbr::stretch_protective(&mut plan.final_head[..512], geometry.size / u64::from(geometry.sector_size));
                plan.left_out = Some(gpt.backup_range());
                plan.backup = Some((moved.backup_offset, moved.backup));
                plan.config_drive =
                    place
                        .zip(moved.added)
                        .map(|((offset, length), partition)| ConfigDrivePlace { partition, offset, length });
            }
            Table::Mbr(mbr) => {
                if mbr.partitions_end() > geometry.size {
                    return Err(too_large(mbr.partitions_end()));
                }
                // A master boot record cannot point behind 2 TiB.
                let place = placing.at_the_end_of(geometry.size.min(u64::from(u32::MAX) * 512))?;
                if let Some((offset, length)) = place {
                    let slot = mbr.free_slot().ok_or_else(|| {
                        placing.refused(
                            "all four partition slots of the image's MBR are taken".to_owned(),
                            "use an image with a free primary partition or with a GPT, or an instance without a config drive",
                        )
                    })?;
                    if !Mbr::set_slot(&mut plan.final_head[..512], slot, 0x0c, offset, length) {
                        return Err(too_large(offset + length));
                    }
                    plan.config_drive = Some(ConfigDrivePlace {
                        partition: slot + 1,
                        offset,
                        length,
                    });
                }
            }
            Table::None => {
                if config_drive.is_some() {
                    return Err(placing.refused(
                        "the image has no partition table that one could be added to".to_owned(),
                        "use an image with a partition table, or an instance without a config drive",
                    ));
                }
            }
        }
        Ok(plan)
    }
}

pub(crate) fn cut_off(source_name: &str, image_bytes: u64, needed: u64) -> ImageError {
    let reason = format!("it describes a disk of {image_bytes} bytes, but its partitions reach to byte {needed}");
    ImageError::Corrupt {
        source_name: source_name.to_owned(),
        reason,
    }
}

struct Placing<'a> {
    plan: &'a Plan,
    geometry: &'a Geometry<'a>,
    config_drive: Option<&'a ConfigDrive>,
}

impl Placing<'_> {
    fn refused(&self, reason: String, remedy: &str) -> ImageError {
        ImageError::NoRoomForConfigDrive {
            disk: self.geometry.disk.to_owned(),
            needed: self.config_drive.map_or(0, |drive| drive.bytes.len() as u64),
            reason,
            remedy: remedy.to_owned(),
        }
    }

    /// Offset and length of the config drive's partition, as far back as it goes before `end`.
    fn at_the_end_of(&self, end: u64) -> Result<Option<(u64, u64)>, ImageError> {
        let Some(drive) = self.config_drive else {
            return Ok(None);
        };
        if drive.bytes.is_empty() || drive.bytes.len() > MAX_CONFIG_DRIVE {
            let reason = format!("it has {} bytes, 1 to {MAX_CONFIG_DRIVE} are possible", drive.bytes.len());
            return Err(self.refused(reason, "shorten the user data"));
        }
        let length = (drive.bytes.len() as u64).next_multiple_of(PARTITION_ALIGNMENT);
        let floor = self.plan.least_image_bytes.max(PARTITION_ALIGNMENT);
        let start = end.saturating_sub(length) / PARTITION_ALIGNMENT * PARTITION_ALIGNMENT;
        if start < floor {
            let reason = format!(
                "the image's partitions end at byte {}, and the config drive would have to begin at byte {start}",
                self.plan.least_image_bytes
            );
            return Err(self.refused(
                reason,
                "choose a disk at least 2 MiB larger than the image plus the config drive, or a smaller image",
            ));
        }
        Ok(Some((start, length)))
    }
}
