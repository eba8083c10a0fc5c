//! Master boot records, and the protective one in front of a GPT.

const SECTOR: u64 = 512;

/// The partition table of a master boot record. Always counts in 512-byte sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mbr {
    /// Slots: type, first sector, sectors.
    slots: [(u8, u32, u32); 4],
}

impl Mbr {
    /// Reads the first sector. A boot sector of a file system carries the same signature, but no plausible slots.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let sector = head.get(..512)?;
        if sector[510..] != [0x55, 0xaa] {
            return None;
        }
        let mut slots = [(0, 0, 0); 4];
        let mut used = false;
        for (slot, entry) in slots.iter_mut().zip(sector[446..510].chunks_exact(16)) {
            let kind = entry[4];
            let first = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
            let count = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
            if entry[0] & 0x7f != 0 {
                return None;
            }
            if kind != 0 {
                if first == 0 || count == 0 {
                    return None;
                }
                used = true;
            }
            *slot = (kind, first, count);
        }
        used.then_some(Self { slots })
    }

    /// Where the last partition ends, in bytes.
    pub fn partitions_end(&self) -> u64 {
        let used = self.slots.iter().filter(|(kind, ..)| *kind != 0);
        used.map(|&(_, first, count)| (u64::from(first) + u64::from(count)) * SECTOR)
            .max()
            .unwrap_or(0)
    }

    /// The first free slot, from 0.
    pub fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(|&(kind, ..)| kind == 0)
    }

    /// Writes one slot into a first sector. CHS fields say "see LBA". `false` when the range cannot be expressed.
    pub fn set_slot(sector: &mut [u8], slot: usize, kind: u8, offset: u64, length: u64) -> bool {
        let (Ok(first), Ok(count)) = (u32::try_from(offset / SECTOR), u32::try_from(length / SECTOR)) else {
            return false;
        };
        let at = 446 + slot * 16;
        let Some(entry) = sector.get_mut(at..at + 16) else {
            return false;
        };
        entry[..8].copy_from_slice(&[0, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff]);
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..].copy_from_slice(&count.to_le_bytes());
        true
    }

    /// Lets a protective MBR span a disk of `sectors` logical sectors. A hybrid MBR, which has more than the protective slot, stays as
    /// it is.
    pub fn stretch_protective(sector: &mut [u8], sectors: u64) {
        let Some(table) = sector.get_mut(446..510) else {
            return;
        };
        let mut protective = None;
        for (slot, entry) in table.chunks_exact(16).enumerate() {
            match entry[4] {
                0 => {}
                0xee if protective.is_none() => protective = Some(slot),
                _ => return,
            }
        }
        if let Some(slot) = protective {
            let count = u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX);
            table[slot * 16 + 12..slot * 16 + 16].copy_from_slice(&count.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_one_partition() -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(Mbr::set_slot(&mut sector, 0, 0x83, 1 << 20, 5 << 20));
        sector
    }

    #[test]
    fn slots_are_read_back() {
        let mbr = Mbr::parse(&with_one_partition()).unwrap();
        assert_eq!(mbr.partitions_end(), 6 << 20);
        assert_eq!(mbr.free_slot(), Some(1));
    }

    #[test]
    fn a_file_system_boot_sector_is_no_table() {
        let mut sector = vec![0xf6; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(Mbr::parse(&sector), None);
        let mut empty = vec![0; 512];
        empty[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(Mbr::parse(&empty), None);
    }

    #[test]
    fn only_a_pure_protective_record_is_stretched() {
        let mut sector = with_one_partition();
        sector[446 + 4] = 0xee;
        Mbr::stretch_protective(&mut sector, 1 << 40);
        assert_eq!(sector[446 + 12..446 + 16], [0xff; 4]);
        assert!(Mbr::set_slot(&mut sector, 1, 0x0c, 2 << 20, 1 << 20));
        let hybrid = sector.clone();
        Mbr::stretch_protective(&mut sector, 1000);
        assert_eq!(sector, hybrid);
    }

    #[test]
    fn what_a_slot_cannot_say_is_refused() {
        assert!(!Mbr::set_slot(&mut [0; 512], 0, 0x0c, 3 << 40, 1 << 20));
    }
}
