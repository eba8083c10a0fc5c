//! What was written, in a form that can be compared with what is read back: independent of the order of the writes, located, and
//! of constant size.
//!
//! The disk is divided into at most 65,536 regions. Each keeps the sum of one 128-bit value per granule that is not all zeros: a
//! BLAKE3 digest, multiplied by an odd number made of the granule's place, so that swapped granules do not cancel out. A granule of zeros
//! adds nothing, so a range that was never mentioned is expected to be zeros. This guards against disks that lose, swap
//! or damage writes; against an adversary stands the image's own digest.

use crate::device::is_zero;

const MAX_REGIONS: u64 = 65_536;
const LEAST_REGION: u64 = 1 << 20;

/// Sums over the regions of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RegionDigests {
    granule: usize,
    region: u64,
    sums: Vec<u128>,
}

impl RegionDigests {
    pub(crate) fn new(disk_bytes: u64, granule: u32) -> Self {
        let region = disk_bytes.div_ceil(MAX_REGIONS).max(LEAST_REGION).next_power_of_two();
        let count = disk_bytes.div_ceil(region);
        // At most MAX_REGIONS.
        Self {
            granule: granule as usize,
            region,
            sums: vec![0; count as usize],
        }
    }

    /// Takes in bytes at an offset that is a multiple of the granule. A granule cut short counts as filled up with zeros.
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        let mut padded = [0; 4096];
        for (index, part) in bytes.chunks(self.granule).enumerate() {
            if is_zero(part) {
                continue;
            }
            let number = offset / self.granule as u64 + index as u64;
            let whole = if part.len() == self.granule {
                part
            } else {
                padded[..part.len()].copy_from_slice(part);
                &padded[..self.granule]
            };
            let mut short = [0; 16];
            short.copy_from_slice(&blake3::hash(whole).as_bytes()[..16]);
            let value = u128::from_le_bytes(short).wrapping_mul(u128::from(number) * 2 + 1);
            let region = (number * self.granule as u64 / self.region) as usize;
            if let Some(sum) = self.sums.get_mut(region) {
                *sum = sum.wrapping_add(value);
            }
        }
    }

    /// The first region in which the two differ, as a byte range.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<(u64, u64)> {
        let index = self.sums.iter().zip(&other.sums).position(|(one, two)| one != two)? as u64;
        Some((index * self.region, (index + 1) * self.region))
    }

    /// One digest over everything, for the record.
    pub(crate) fn summary(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.granule as u64).to_le_bytes());
        hasher.update(&self.region.to_le_bytes());
        for sum in &self.sums {
            hasher.update(&sum.to_le_bytes());
        }
        format!("blake3:{}", hasher.finalize().to_hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_but_place_does() {
        let (a, b) = ([1u8; 4096], [2u8; 4096]);
        let digests = |writes: &[(u64, &[u8])]| {
            let mut digests = RegionDigests::new(64 << 20, 4096);
            for (offset, bytes) in writes {
                digests.add(*offset, bytes);
            }
            digests
        };
        let one = digests(&[(0, &a), (8192, &b)]);
        assert_eq!(one, digests(&[(8192, &b), (0, &a)]));
        assert_eq!(one, digests(&[(8192, &b), (4096, &[0; 4096]), (0, &a)]));
        assert_eq!(one.first_difference(&digests(&[(0, &b), (8192, &a)])), Some((0, 1 << 20)));
        assert_eq!(
            one.first_difference(&digests(&[(0, &a), (8192, &b), (40 << 20, &a)])),
            Some((40 << 20, 41 << 20))
        );
        assert_ne!(one.summary(), digests(&[(0, &a)]).summary());
    }

    #[test]
    fn a_short_end_counts_as_padded() {
        let (mut short, mut long) = (RegionDigests::new(8 << 20, 4096), RegionDigests::new(8 << 20, 4096));
        short.add(4096, &[9; 100]);
        let mut padded = [0; 4096];
        padded[..100].fill(9);
        long.add(4096, &padded);
        assert_eq!(short, long);
    }

    #[test]
    fn memory_is_bounded_for_any_disk() {
        let digests = RegionDigests::new(1 << 50, 4096);
        assert!(digests.sums.len() as u64 <= MAX_REGIONS);
    }
}
