//! A disk double that behaves as badly as disks may at a power cut.
//!
//! Writes stay in a volatile cache until a flush. When the power is cut, each sector of each write that was not flushed may or
//! may not have reached the medium, whatever the order in which they were issued; sectors are atomic. [`SimDisk::after_cut`]
//! gives the medium as it is after one such choice. Faults are data ([`Faults`]), so that a test can enumerate them.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::whole::transfer;
use super::{BlockDevice, ZeroMethod, check_range};

/// What goes wrong, and when. Operations are writes, zeroings and flushes, numbered together from 0.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The power fails before this operation: it and every later call fails.
    pub cut_before: Option<usize>,
    /// This flush, numbered from 0, is acknowledged but does nothing.
    pub ignored_flush: Option<usize>,
    /// Reads that touch this byte return it changed: a medium that rots or lies.
    pub corrupt_byte: Option<u64>,
    /// Zeroing by offload is acknowledged but does nothing, from this one on, numbered from 0. From 0 it is QEMU's `discard=ignore`; from 1
    /// it is a disk that looks honest when it is tried.
    pub zeroing_lies_from: Option<usize>,
    /// This operation fails, with this error number (`EIO`, `ENOSPC`); the ones after it are carried out.
    pub failing: Option<(usize, i32)>,
    /// This read, numbered from 0, fails, with this error number.
    pub failing_read: Option<(usize, i32)>,
    /// This operation is acknowledged but does nothing: a write that is lost.
    pub lost: Option<usize>,
    /// This operation, a write or zeroing, is acknowledged, but one bit of it reaches the medium changed.
    pub damaged: Option<usize>,
    /// Calls are interrupted or end short, by chance with this seed.
    pub short_calls: Option<u64>,
    /// Each operation takes so long.
    pub slow: Duration,
}

/// One write that was not flushed.
#[derive(Debug, Clone)]
struct Pending {
    offset: usize,
    data: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    medium: Vec<u8>,
    pending: Vec<Pending>,
    faults: Faults,
    operations: usize,
    flushes: usize,
    reads: usize,
    offloads: usize,
    cached_reads: usize,
    dead: bool,
    /// Of the generator behind short calls.
    chance: u64,
    /// Calls in a row that did less than they were asked to.
    shorts: u32,
}

/// A kernel that interrupts and shortens calls gets on all the same: after so many in a row one is whole.
const MOST_SHORTS: u32 = 6;

impl State {
    /// A number from 0 to 3; never the same sequence for two seeds.
    fn chance(&mut self) -> u64 {
        self.chance = self
            .chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.chance >> 62
    }

    /// One call for `left` bytes: how many it moved.
    fn call(&mut self, left: usize) -> io::Result<usize> {
        if self.faults.short_calls.is_none() {
            return Ok(left);
        }
        let chance = if self.shorts == MOST_SHORTS { 3 } else { self.chance() };
        self.shorts = if chance == 3 { 0 } else { self.shorts + 1 };
        match chance {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 => Ok((left / 2).max(1)),
            2 => Ok(left.saturating_sub(100).max(1)),
            _ => Ok(left),
        }
    }
}

/// The double.
#[derive(Debug)]
pub struct SimDisk {
    size: u64,
    sector_size: u32,
    state: Mutex<State>,
}

impl SimDisk {
    /// A disk that holds these bytes.
    pub fn new(medium: Vec<u8>, sector_size: u32, faults: Faults) -> Self {
        let size = medium.len() as u64;
        Self {
            size,
            sector_size,
            state: Mutex::new(State {
                medium,
                chance: faults.short_calls.unwrap_or(0),
                faults,
                ..State::default()
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes, zeroings and flushes so far.
    pub fn operations(&self) -> usize {
        self.state().operations
    }

    /// Flushes so far, ignored ones included.
    pub fn flushes(&self) -> usize {
        self.state().flushes
    }

    /// Reads that were answered, in part, out of the volatile cache: they prove nothing about the medium.
    pub fn cached_reads(&self) -> usize {
        self.state().cached_reads
    }

    /// How many sector writes were not made durable.
    pub fn pending_sectors(&self) -> usize {
        let sector = self.sector_size as usize;
        self.state().pending.iter().map(|write| write.data.len() / sector).sum()
    }

    /// How many writes were not made durable.
    pub fn pending_writes(&self) -> usize {
        self.state().pending.len()
    }

    /// The medium after a power cut: `survives(write, sector)` decides which sectors of which pending write made it, with writes
    /// counted from 0 in the order of their issue. Of one sector written several times the last surviving one is there.
    pub fn after_cut(&self, mut survives: impl FnMut(usize, usize) -> bool) -> Vec<u8> {
        let state = self.state();
        let sector = self.sector_size as usize;
        let mut medium = state.medium.clone();
        for (index, write) in state.pending.iter().enumerate() {
            for (number, bytes) in write.data.chunks(sector).enumerate() {
                if survives(index, number) {
                    let at = write.offset + number * sector;
                    medium[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        medium
    }

    /// The medium with everything written so far.
    pub fn contents(&self) -> Vec<u8> {
        self.after_cut(|_, _| true)
    }

    /// Cuts the power before the operation that has so many before it from now on.
    pub fn cut_after(&self, operations: usize) {
        let mut state = self.state();
        state.faults.cut_before = Some(state.operations + operations);
    }

    /// Whether the power was cut: every call fails.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    fn operation(&self, write: Option<Pending>) -> io::Result<()> {
        let mut state = self.state();
        if !state.faults.slow.is_zero() {
            let slow = state.faults.slow;
            drop(state);
            std::thread::sleep(slow);
            state = self.state();
        }
        if state.faults.cut_before == Some(state.operations) {
            state.dead = true;
        }
        if state.dead {
            return Err(gone());
        }
        let number = state.operations;
        state.operations += 1;
        if let Some((_, code)) = state.faults.failing.filter(|(failing, _)| *failing == number) {
            return Err(io::Error::from_raw_os_error(code));
        }
        if state.faults.lost == Some(number) {
            return Ok(());
        }
        let Some(mut write) = write else {
            return Ok(());
        };
        if state.faults.damaged == Some(number)
            && let Some(byte) = write.data.last_mut()
        {
            *byte ^= 0x04;
        }
        let sector = self.sector_size as usize;
        transfer(write.data.len(), sector, |done| {
            let moved = state.call(write.data.len() - done)?;
            state.pending.push(Pending {
                offset: write.offset + done,
                // What a call moved beyond its last whole sector did not reach the disk.
                data: write.data[done..done + moved / sector * sector].to_vec(),
            });
            Ok(moved)
        })
    }
}

fn gone() -> io::Error {
    io::Error::other("No such device or address: the device is gone")
}

impl BlockDevice for SimDisk {
    fn name(&self) -> &str {
        "simulated disk"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self, offset, buffer.len() as u64)?;
        let mut state = self.state();
        if state.dead {
            return Err(gone());
        }
        let number = state.reads;
        state.reads += 1;
        if let Some((_, code)) = state.faults.failing_read.filter(|(failing, _)| *failing == number) {
            return Err(io::Error::from_raw_os_error(code));
        }
        let start = offset as usize;
        let end = start + buffer.len();
        // What a call that ends short does not fill stays as it was.
        transfer(buffer.len(), self.sector_size as usize, |done| {
            let moved = state.call(buffer.len() - done)?;
            buffer[done..done + moved].copy_from_slice(&state.medium[start + done..start + done + moved]);
            Ok(moved)
        })?;
        let mut cached = false;
        for write in &state.pending {
            let (from, to) = (write.offset.max(start), (write.offset + write.data.len()).min(end));
            if from < to {
                cached = true;
                buffer[from - start..to - start].copy_from_slice(&write.data[from - write.offset..to - write.offset]);
            }
        }
        state.cached_reads += usize::from(cached);
        if let Some(byte) = state.faults.corrupt_byte
            && (offset..offset + buffer.len() as u64).contains(&byte)
        {
            buffer[(byte - offset) as usize] ^= 0x40;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self, offset, data.len() as u64)?;
        self.operation(Some(Pending {
            offset: offset as usize,
            data: data.to_vec(),
        }))
    }

    fn zero_range(&self, offset: u64, length: u64, method: ZeroMethod) -> io::Result<()> {
        check_range(self, offset, length)?;
        if method == ZeroMethod::Offload {
            let mut state = self.state();
            let number = state.offloads;
            state.offloads += 1;
            let lies = state.faults.zeroing_lies_from.is_some_and(|first| number >= first);
            drop(state);
            if lies {
                return self.operation(None);
            }
        }
        self.operation(Some(Pending {
            offset: offset as usize,
            data: vec![0; length as usize],
        }))
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self, offset, length)?;
        self.operation(None)
    }

    fn flush(&self) -> io::Result<()> {
        self.operation(None)?;
        let mut state = self.state();
        let number = state.flushes;
        state.flushes += 1;
        if state.faults.ignored_flush == Some(number) {
            return Ok(());
        }
        let State { medium, pending, .. } = &mut *state;
        for write in pending.drain(..) {
            medium[write.offset..write.offset + write.data.len()].copy_from_slice(&write.data);
        }
        Ok(())
    }
}
