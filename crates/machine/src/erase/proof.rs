//! What is compared before and after: canaries, blocks that held data, and fresh random blocks.

use std::{collections::BTreeSet, io};

use image::device::{AlignedBuffer, is_zero};

use super::{Disk, END, EraseError};

const BLOCK: u64 = 4096;
/// Blocks of random bytes that are written before.
const CANARIES: usize = 32;
/// Places looked at before the erase; those that hold data are looked at again.
const LOOKED_AT: u64 = 256;
/// Fresh random places looked at on every rung.
const FRESH: u64 = 256;

/// What one rung's proof says.
pub(super) struct Verdict {
    /// Blocks that were read.
    pub(super) checked: u32,
    /// A block that is not zero.
    pub(super) still_there: Option<u64>,
}

/// The places of one erase.
pub(super) struct Proof {
    random: Random,
    blocks: u64,
    /// Offsets of blocks that held data before.
    held_data: BTreeSet<u64>,
    canaries: BTreeSet<u64>,
}

impl Proof {
    /// Reads only. `known` are places where something begins or ends.
    pub(super) fn prepare(disk: &Disk<'_>, known: &[u64]) -> Result<Self, EraseError> {
        let blocks = disk.device.size() / BLOCK;
        let mut proof = Self {
            random: Random::new()?,
            blocks,
            held_data: BTreeSet::new(),
            canaries: BTreeSet::new(),
        };
        let mut places: BTreeSet<u64> = (0..LOOKED_AT).map(|n| spread(n, LOOKED_AT, blocks)).collect();
        places.extend(known.iter().map(|offset| (offset / BLOCK).min(blocks - 1)));
        let mut buffer = AlignedBuffer::zeroed(BLOCK as usize);
        for block in places {
            disk.read(block * BLOCK, &mut buffer)?;
            if !is_zero(&buffer) {
                proof.held_data.insert(block * BLOCK);
            }
        }
        // Canaries within the ends prove nothing: those are written in any case. Between them there are at least 2 MiB.
        let (first, last) = (END / BLOCK, blocks - END / BLOCK);
        while proof.canaries.len() < CANARIES {
            let place = first + proof.random.below(last - first);
            proof.canaries.insert(place * BLOCK);
        }
        Ok(proof)
    }

    /// Writes the canaries, makes them durable, and reads them back: a device that loses writes is found here.
    pub(super) fn plant(&mut self, disk: &Disk<'_>) -> Result<(), EraseError> {
        let mut written = Vec::new();
        for offset in &self.canaries {
            let mut canary = AlignedBuffer::zeroed(BLOCK as usize);
            fill(&mut canary)?;
            disk.write(*offset, &canary)?;
            written.push((*offset, canary));
        }
        disk.flush()?;
        let mut found = AlignedBuffer::zeroed(BLOCK as usize);
        for (offset, canary) in &written {
            disk.read(*offset, &mut found)?;
            if found[..] != canary[..] {
                return Err(EraseError::CanaryLost {
                    disk: disk.device.name().to_owned(),
                    offset: *offset,
                });
            }
        }
        Ok(())
    }

    /// Reads canaries, places that held data, and fresh random places. Sector 0 holds the marker and is left out.
    pub(super) fn check(&mut self, disk: &Disk<'_>) -> Result<Verdict, EraseError> {
        let mut places: BTreeSet<u64> = self.canaries.union(&self.held_data).copied().collect();
        for n in 0..FRESH {
            places.insert(self.random.below(self.blocks) * BLOCK);
            places.insert(spread(n, FRESH, self.blocks) * BLOCK);
        }
        places.remove(&0);
        let mut buffer = AlignedBuffer::zeroed(BLOCK as usize);
        let mut checked = 0;
        for offset in places {
            disk.check_cancelled()?;
            disk.read(offset, &mut buffer)?;
            checked += 1;
            if !is_zero(&buffer) {
                return Ok(Verdict {
                    checked,
                    still_there: Some(offset),
                });
            }
        }
        Ok(Verdict {
            checked,
            still_there: None,
        })
    }

    pub(super) fn canaries(&self) -> u32 {
        // Not above CANARIES.
        self.canaries.len() as u32
    }

    /// About how much a check reads.
    pub(super) fn bytes(&self) -> u64 {
        (self.canaries.len() as u64 + self.held_data.len() as u64 + 2 * FRESH) * BLOCK
    }
}

/// The `n`-th of `count` blocks spread evenly over all, first and last included.
fn spread(n: u64, count: u64, blocks: u64) -> u64 {
    // Below `blocks`, a u64.
    (u128::from(n) * u128::from(blocks - 1) / u128::from((count - 1).max(1))) as u64
}

fn fill(bytes: &mut [u8]) -> Result<(), EraseError> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| EraseError::Random(io::Error::from(errno)))?;
    }
    Ok(())
}

/// SplitMix64 from a random seed: places only have to be unknown to the device beforehand.
struct Random(u64);

impl Random {
    fn new() -> Result<Self, EraseError> {
        let mut seed = [0; 8];
        fill(&mut seed)?;
        Ok(Self(u64::from_le_bytes(seed)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is above zero.
    fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product; its bias is below one in 2^64 / bound.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
