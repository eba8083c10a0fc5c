//! Erasing a disk, and knowing that it is erased.
//!
//! A ladder of rungs, from fast to certain: discard, zeroing by the device's own command, plain writes. A device may accept either of the
//! first two and keep its data (`discard=ignore` in QEMU, SSDs without deterministic TRIM), so that no rung is believed: canaries
//! of random bytes are written before, blocks that held data are remembered, and afterwards all of them and fresh random blocks are read
//! back from the medium. A rung whose proof fails is followed by the next one.
//!
//! Invariants:
//! * The in-progress marker is in sector 0, and flushed, before any other byte changes; it goes last. An interrupted erase is recognised.
//! * [`EraseStrength::Overwritten`] is said only when every byte was written by plain writes, else [`EraseStrength::Discarded`].
//! * Success means that [`crate::contents::probe`] calls the disk blank.
//!
//! What it does not do: reach spare areas (sanitise and secure erase commands are another rung for later), or decide what may be erased.

mod proof;

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use agent_protocol::{
    disk::{ContentsState, DiskMarker},
    order::{EraseMethod, EraseStrength, FaultReason, Progress, Step},
};
use image::{
    BlockDevice, DiskOperation, ImageError,
    device::{AlignedBuffer, ZeroMethod},
};
use proof::Proof;

use crate::{contents, marker};

/// Both ends, zeroed explicitly on every rung.
const END: u64 = 1 << 20;
/// Discards and zeroings by command, between two looks at `cancel`.
const COMMAND: u64 = 4 << 30;
/// Plain writes.
const WRITE: usize = 4 << 20;
/// The smallest disk that is erased: below, ends and canaries have no room.
const SMALLEST: u64 = 4 << 20;

/// Why an erase did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// The disk failed.
    #[error("{operation} disk {disk} at byte {offset} failed: {source}; check cable, controller and the health of the disk, or replace it")]
    Io {
        /// What was asked.
        operation: DiskOperation,
        /// The disk.
        disk: String,
        /// Where.
        offset: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Writes are acknowledged and lost.
    #[error(
        "disk {disk} acknowledged a canary block at byte {offset} and returns something else; it does not keep what is written: replace it"
    )]
    CanaryLost {
        /// The disk.
        disk: String,
        /// Where.
        offset: u64,
    },
    /// The data is still there.
    #[error(
        "disk {disk} still holds data at byte {offset} after it was overwritten ({checked} blocks were looked at); do not reuse it: destroy or replace it"
    )]
    NotProven {
        /// The disk.
        disk: String,
        /// Where.
        offset: u64,
        /// How many blocks were read.
        checked: u32,
    },
    /// Something is recognised.
    #[error("disk {disk} was erased and yet {found} is found on it; do not reuse it before somebody looked at it")]
    NotBlank {
        /// The disk.
        disk: String,
        /// In words.
        found: String,
    },
    /// Too small to be a disk.
    #[error("disk {disk} has {size} bytes, at least {SMALLEST} are needed; it cannot be a root disk")]
    TooSmall {
        /// The disk.
        disk: String,
        /// Its size.
        size: u64,
    },
    /// No randomness for canaries.
    #[error("the kernel gives no random numbers for canaries: {0}; restart the machine")]
    Random(io::Error),
    /// The in-progress marker cannot be made.
    #[error(transparent)]
    Marker(#[from] ImageError),
    /// The caller asked to stop.
    #[error("the erase was cancelled; the disk is marked as in progress")]
    Cancelled,
}

impl EraseError {
    /// The reason under which it is reported.
    pub fn reason(&self) -> FaultReason {
        match self {
            Self::Io { .. } | Self::CanaryLost { .. } => FaultReason::DiskIO,
            Self::NotProven { .. } | Self::NotBlank { .. } => FaultReason::EraseNotProven,
            Self::TooSmall { .. } => FaultReason::DiskSizeMismatch,
            Self::Random(_) | Self::Marker(_) | Self::Cancelled => FaultReason::Internal,
        }
    }
}

/// What is known after a successful erase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// In words.
    pub method: String,
    /// What it is worth.
    pub strength: EraseStrength,
    /// How long it took.
    pub duration_ms: u64,
    /// Blocks of 4 KiB that were read back on the successful rung.
    pub sampled_blocks: u32,
    /// Canaries that were there before and gone afterwards.
    pub canaries: u32,
}

/// One way to make data go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    Discard,
    ZeroByCommand,
    Write,
}

impl Rung {
    /// The ladder for a method. `discards` says whether the device accepts discards at all.
    fn ladder(method: EraseMethod, discards: bool) -> &'static [Self] {
        match (method, discards) {
            (EraseMethod::Overwrite, _) => &[Self::Write],
            (EraseMethod::Quick, true) => &[Self::Discard, Self::ZeroByCommand, Self::Write],
            (EraseMethod::Quick, false) => &[Self::ZeroByCommand, Self::Write],
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Discard => "BLKDISCARD + zeroed ends",
            Self::ZeroByCommand => "BLKZEROOUT + zeroed ends",
            Self::Write => "write zeros",
        }
    }

    fn strength(self) -> EraseStrength {
        match self {
            Self::Discard | Self::ZeroByCommand => EraseStrength::Discarded,
            Self::Write => EraseStrength::Overwritten,
        }
    }
}

/// Whose erase it is, and how.
#[derive(Debug, Clone, Copy)]
pub struct EraseRequest<'a> {
    /// Goes into the in-progress marker.
    pub marker: &'a DiskMarker,
    /// How strong.
    pub method: EraseMethod,
    /// Whether the device accepts discards.
    pub discards: bool,
    /// Stops between two commands when set.
    pub cancel: &'a AtomicBool,
}

/// Erases a disk. Whoever calls it has made sure that the disk may be erased.
///
/// # Errors
/// [`EraseError`]. Unless it is [`EraseError::TooSmall`] or [`EraseError::Random`], the disk holds the in-progress marker, or less.
pub fn erase(device: &dyn BlockDevice, request: EraseRequest<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Erased, EraseError> {
    let begun = Instant::now();
    let disk = Disk {
        device,
        cancel: request.cancel,
    };
    if device.size() < SMALLEST {
        return Err(EraseError::TooSmall {
            disk: device.name().to_owned(),
            size: device.size(),
        });
    }
    let heads: Vec<u64> = contents::partitions(device)
        .iter()
        .flat_map(|p| [p.start, p.start.saturating_add(p.length)])
        .collect();
    let mut proof = Proof::prepare(&disk, &heads)?;
    let first_sector = in_progress_sector(device, request.marker)?;
    disk.write(0, &first_sector)?;
    disk.flush()?;
    proof.plant(&disk)?;

    let mut last = None;
    for rung in Rung::ladder(request.method, request.discards) {
        match run(*rung, &disk, &heads, progress) {
            // A command that the device refuses is no fault while another rung is left.
            Err(EraseError::Io {
                operation: DiskOperation::Discard | DiskOperation::Zero,
                source,
                ..
            }) if *rung != Rung::Write => {
                tracing::info!(disk = device.name(), ?rung, %source, "the device refuses the command, trying the next way");
                continue;
            }
            other => other?,
        }
        disk.flush()?;
        progress(Progress::of(Step::Sampling, 0, proof.bytes()));
        let verdict = proof.check(&disk)?;
        if let Some(offset) = verdict.still_there {
            tracing::warn!(disk = device.name(), ?rung, offset, "the device says that it erased, and did not");
            last = Some(EraseError::NotProven {
                disk: device.name().to_owned(),
                offset,
                checked: verdict.checked,
            });
            continue;
        }
        progress(Progress::of(Step::Sampling, proof.bytes(), proof.bytes()));
        disk.write(0, &vec![0; first_sector.len()])?;
        disk.flush()?;
        let found = contents::probe(device);
        if found.state != ContentsState::Blank {
            last = Some(EraseError::NotBlank {
                disk: device.name().to_owned(),
                found: contents::in_words(&found),
            });
            disk.write(0, &first_sector)?;
            disk.flush()?;
            continue;
        }
        device
            .reread_partition_table()
            .unwrap_or_else(|error| tracing::warn!(disk = device.name(), %error, "the kernel keeps its old view"));
        return Ok(Erased {
            method: rung.in_words().to_owned(),
            strength: rung.strength(),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            sampled_blocks: verdict.checked,
            canaries: proof.canaries(),
        });
    }
    // The last rung, plain writes, is never skipped, so that there is a reason.
    Err(last.unwrap_or(EraseError::Cancelled))
}

/// The first sector of a disk on which an order of ours is at work.
///
/// # Errors
/// [`ImageError::MarkerTooLarge`] when even the shortened marker does not fit.
pub(crate) fn in_progress_payload(marker: &DiskMarker) -> Result<Vec<u8>, ImageError> {
    let json = |m: &DiskMarker| marker::payload(m).unwrap_or_default();
    let whole = json(marker);
    if image::marker::encode(&whole).is_ok() {
        return Ok(whole);
    }
    // The uid names the instance; its names are for people and may be left out.
    let short = json(&DiskMarker {
        instance: String::new(),
        ..marker.clone()
    });
    image::marker::encode(&short)?;
    Ok(short)
}

fn in_progress_sector(device: &dyn BlockDevice, marker: &DiskMarker) -> Result<Vec<u8>, ImageError> {
    let mut sector = image::marker::encode(&in_progress_payload(marker)?)?.to_vec();
    sector.resize(device.sector_size().max(512) as usize, 0);
    Ok(sector)
}

/// One rung, without its proof. Sector 0 keeps the marker.
fn run(rung: Rung, disk: &Disk<'_>, heads: &[u64], progress: &mut dyn FnMut(Progress)) -> Result<(), EraseError> {
    let size = disk.device.size();
    let first = u64::from(disk.device.sector_size());
    let mut tell = |done| progress(Progress::of(Step::Erasing, done, size));
    tell(0);
    if rung == Rung::Write {
        disk.write_zeros(first, size - first, &mut tell)?;
        return Ok(());
    }
    let mut at = END;
    let end = size / END * END;
    while at < end {
        disk.check_cancelled()?;
        let length = COMMAND.min(end - at);
        let (operation, result) = match rung {
            Rung::Discard => (DiskOperation::Discard, disk.device.discard(at, length)),
            Rung::ZeroByCommand | Rung::Write => (DiskOperation::Zero, disk.device.zero_range(at, length, ZeroMethod::Offload)),
        };
        result.map_err(disk.fault(operation, at))?;
        at += length;
        tell(at);
    }
    // What a command may pass over because it is smaller than its granularity, and what firmware and kernels look for.
    disk.write_zeros(first, END - first, &mut |_| {})?;
    let tail = end.saturating_sub(END).max(END);
    disk.write_zeros(tail, size - tail, &mut |_| {})?;
    for head in heads {
        let from = head.saturating_sub(64 << 10) / 4096 * 4096;
        let from = from.max(END);
        let to = head.saturating_add(128 << 10).min(size) / 4096 * 4096;
        if from < to {
            disk.write_zeros(from, to - from, &mut |_| {})?;
        }
    }
    tell(size);
    Ok(())
}

/// A device whose errors are typed.
struct Disk<'a> {
    device: &'a dyn BlockDevice,
    cancel: &'a AtomicBool,
}

impl Disk<'_> {
    fn fault(&self, operation: DiskOperation, offset: u64) -> impl FnOnce(io::Error) -> EraseError {
        let disk = self.device.name().to_owned();
        move |source| EraseError::Io {
            operation,
            disk,
            offset,
            source,
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), EraseError> {
        self.device.read_at(offset, buffer).map_err(self.fault(DiskOperation::Read, offset))
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), EraseError> {
        self.device.write_at(offset, data).map_err(self.fault(DiskOperation::Write, offset))
    }

    fn flush(&self) -> Result<(), EraseError> {
        self.device.flush().map_err(self.fault(DiskOperation::Flush, 0))
    }

    fn check_cancelled(&self) -> Result<(), EraseError> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(EraseError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Plain writes of zeros.
    fn write_zeros(&self, offset: u64, length: u64, tell: &mut dyn FnMut(u64)) -> Result<(), EraseError> {
        let zeros = AlignedBuffer::zeroed(WRITE);
        let (mut at, end) = (offset, offset + length);
        while at < end {
            self.check_cancelled()?;
            // Aligned after the first piece, so that direct I/O never splits a block.
            let piece = (WRITE as u64 - at % WRITE as u64).min(end - at);
            // Not above WRITE.
            self.write(at, &zeros[..piece as usize])?;
            at += piece;
            tell(at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
