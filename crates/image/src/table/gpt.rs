//! GUID partition tables: read with every checksum and bound checked, and moved to a larger disk.

/// Type of the config drive's partition: basic data, which every operating system mounts by what is in it.
const BASIC_DATA: [u8; 16] = [
    0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7,
];
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Largest array of entries: 128 entries of 128 bytes, or fewer of longer ones.
const MAX_ENTRIES_BYTES: u64 = 16 * 1024;

/// A partition to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPartition {
    /// Its own GUID, as stored on disk.
    pub guid: [u8; 16],
    /// First byte, a multiple of the sector size.
    pub offset: u64,
    /// Bytes, a multiple of the sector size.
    pub length: u64,
}

/// The primary table of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    sector_size: u32,
    header: Vec<u8>,
    entries: Vec<u8>,
    entry_size: usize,
    entries_lba: u64,
    first_usable: u64,
    last_usable: u64,
    alternate: u64,
}

/// A table as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocated {
    /// The primary header, one sector, for LBA 1.
    pub primary_header: Vec<u8>,
    /// Where the primary array of entries goes, in bytes.
    pub primary_entries_offset: u64,
    /// The array of entries, whole sectors.
    pub entries: Vec<u8>,
    /// Where the backup goes: array and then header, up to the end of the disk.
    pub backup_offset: u64,
    /// Array and header of the backup.
    pub backup: Vec<u8>,
    /// Number of the added partition, from 1.
    pub added: Option<usize>,
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn header_checksum(header: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[..16]);
    hasher.update(&[0; 4]);
    hasher.update(&header[20..]);
    hasher.finalize()
}

impl Gpt {
    /// Reads the primary table out of the first bytes of an image, for 512-byte or 4096-byte sectors. `None` when there is none;
    /// an error says what is wrong with the one that is there.
    pub fn parse(head: &[u8]) -> Result<Option<Self>, String> {
        for sector_size in [512u32, 4096] {
            let at = sector_size as usize;
            if head.get(at..).is_some_and(|rest| rest.starts_with(SIGNATURE)) {
                return Self::parse_at(head, sector_size).map(Some);
            }
        }
        Ok(None)
    }

    fn parse_at(head: &[u8], sector_size: u32) -> Result<Self, String> {
        let cut = || "its GPT is cut off".to_owned();
        let sector = u64::from(sector_size);
        let header = head.get(sector_size as usize..2 * sector_size as usize).ok_or_else(cut)?;
        let header_size = le32(header, 12).ok_or_else(cut)?;
        if !(92..=sector_size).contains(&header_size) {
            return Err(format!(
                "its GPT header is {header_size} bytes long, 92 to {sector_size} are possible"
            ));
        }
        let header = &header[..header_size as usize];
        if le32(header, 16) != Some(header_checksum(header)) {
            return Err("the checksum of its GPT header is wrong".to_owned());
        }
        let field = |at| le64(header, at).ok_or_else(cut);
        let (own, alternate) = (field(24)?, field(32)?);
        let (first_usable, last_usable, entries_lba) = (field(40)?, field(48)?, field(72)?);
        let count = u64::from(le32(header, 80).ok_or_else(cut)?);
        let entry_size = u64::from(le32(header, 84).ok_or_else(cut)?);
        if own != 1 {
            return Err(format!("its primary GPT header says that it is at LBA {own}"));
        }
        if entry_size < 128 || !entry_size.is_power_of_two() || count == 0 || count.saturating_mul(entry_size) > MAX_ENTRIES_BYTES {
            return Err(format!(
                "its GPT has {count} entries of {entry_size} bytes; at most {MAX_ENTRIES_BYTES} bytes are supported"
            ));
        }
        let entries_bytes = count * entry_size;
        let entries_sectors = entries_bytes.div_ceil(sector);
        // The array must lie among the first sectors, which are written last.
        if entries_lba != 2 {
            return Err(format!("its GPT entries are at LBA {entries_lba}, only LBA 2 is supported"));
        }
        if first_usable < entries_lba + entries_sectors || last_usable < first_usable || alternate <= last_usable {
            return Err(format!(
                "its GPT header contradicts itself (usable from LBA {first_usable} to {last_usable}, backup at LBA {alternate})"
            ));
        }
        // Places are counted in bytes from here on, whatever a sector has.
        if alternate >= (1 << 63) / sector {
            return Err(format!("its GPT spans {alternate} sectors, which no disk has"));
        }
        let start = (entries_lba * sector) as usize;
        let entries = head.get(start..start + entries_bytes as usize).ok_or_else(cut)?;
        if le32(header, 88) != Some(crc32fast::hash(entries)) {
            return Err("the checksum of its GPT entries is wrong".to_owned());
        }
        for (index, entry) in entries.chunks_exact(entry_size as usize).enumerate() {
            let (first, last) = (le64(entry, 32).ok_or_else(cut)?, le64(entry, 40).ok_or_else(cut)?);
            if entry[..16] != [0; 16] && (first < first_usable || last < first || last > last_usable) {
                return Err(format!(
                    "its partition {} spans LBA {first} to {last}, outside of the usable range",
                    index + 1
                ));
            }
        }
        Ok(Self {
            sector_size,
            header: header.to_vec(),
            entries: entries.to_vec(),
            entry_size: entry_size as usize,
            entries_lba,
            first_usable,
            last_usable,
            alternate,
        })
    }

    /// Sector size that the table counts in.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Bytes of a disk image that holds the whole table, backup included.
    pub fn image_bytes(&self) -> u64 {
        (self.alternate + 1) * u64::from(self.sector_size)
    }

    /// Where the image keeps its backup table: from behind the last usable sector to the backup header.
    pub fn backup_range(&self) -> std::ops::Range<u64> {
        let sector = u64::from(self.sector_size);
        (self.last_usable + 1) * sector..(self.alternate + 1) * sector
    }

    /// Where the last partition ends, in bytes.
    pub fn partitions_end(&self) -> u64 {
        let used = self.entries.chunks_exact(self.entry_size).filter(|entry| entry[..16] != [0; 16]);
        let last = used.filter_map(|entry| le64(entry, 40)).max();
        last.map_or(self.first_usable, |last| last + 1) * u64::from(self.sector_size)
    }

    fn backup_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(u64::from(self.sector_size)) + 1
    }

    /// End of what partitions may use on a disk of `disk_bytes`.
    pub fn usable_end(&self, disk_bytes: u64) -> u64 {
        let sector = u64::from(self.sector_size);
        (disk_bytes / sector).saturating_sub(self.backup_sectors()) * sector
    }

    /// Whether one more partition can be entered.
    pub fn has_free_entry(&self) -> bool {
        self.entries.chunks_exact(self.entry_size).any(|entry| entry[..16] == [0; 16])
    }

    /// The table for a disk of `disk_bytes`, with one partition more if asked for. `None` when the disk is too small or no entry is free.
    pub fn relocate(&self, disk_bytes: u64, new: Option<NewPartition>) -> Option<Relocated> {
        let sector = u64::from(self.sector_size);
        let usable_end = self.usable_end(disk_bytes);
        if self.partitions_end() > usable_end || usable_end <= self.first_usable * sector {
            return None;
        }
        let mut entries = self.entries.clone();
        let mut added = None;
        if let Some(new) = new {
            let index = entries.chunks_exact(self.entry_size).position(|entry| entry[..16] == [0; 16])?;
            if new.offset < self.partitions_end() || new.offset.checked_add(new.length)? > usable_end || new.length < sector {
                return None;
            }
            let entry = &mut entries[index * self.entry_size..(index + 1) * self.entry_size];
            entry.fill(0);
            entry[..16].copy_from_slice(&BASIC_DATA);
            entry[16..32].copy_from_slice(&new.guid);
            entry[32..40].copy_from_slice(&(new.offset / sector).to_le_bytes());
            entry[40..48].copy_from_slice(&((new.offset + new.length) / sector - 1).to_le_bytes());
            for (unit, place) in "config-2".encode_utf16().zip(entry[56..128].chunks_exact_mut(2)) {
                place.copy_from_slice(&unit.to_le_bytes());
            }
            added = Some(index + 1);
        }
        let last_lba = disk_bytes / sector - 1;
        let backup_entries_lba = last_lba + 1 - self.backup_sectors();
        let checksum = crc32fast::hash(&entries);
        let header = |own: u64, other: u64, entries_lba: u64| {
            let mut header = self.header.clone();
            header[24..32].copy_from_slice(&own.to_le_bytes());
            header[32..40].copy_from_slice(&other.to_le_bytes());
            header[48..56].copy_from_slice(&(usable_end / sector - 1).to_le_bytes());
            header[72..80].copy_from_slice(&entries_lba.to_le_bytes());
            header[88..92].copy_from_slice(&checksum.to_le_bytes());
            let own_checksum = header_checksum(&header);
            header[16..20].copy_from_slice(&own_checksum.to_le_bytes());
            header.resize(self.sector_size as usize, 0);
            header
        };
        let primary_header = header(1, last_lba, self.entries_lba);
        let backup_header = header(last_lba, 1, backup_entries_lba);
        entries.resize(entries.len().next_multiple_of(self.sector_size as usize), 0);
        let mut backup = entries.clone();
        backup.extend_from_slice(&backup_header);
        Some(Relocated {
            primary_header,
            primary_entries_offset: self.entries_lba * sector,
            entries,
            backup_offset: backup_entries_lba * sector,
            backup,
            added,
        })
    }
}
