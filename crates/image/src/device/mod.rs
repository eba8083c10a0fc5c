//! Disks, as the writer sees them.
//!
//! [`BlockDevice`] is the smallest interface that lets the order of writes be told: what was written is durable only after a
//! later `flush` succeeded. [`Disk`] is a real one (or a regular file that plays one); [`sim::SimDisk`] is a double that loses and
//! reorders what was not flushed.

mod aligned;
mod disk;
pub mod sim;
mod whole;

use std::io;

pub use aligned::AlignedBuffer;
pub use disk::Disk;

use crate::error::{DiskOperation, ImageError};

/// How a range is made to read as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroMethod {
    /// By the device's own command where it has one. Some devices only say that they did.
    Offload,
    /// By writing zeros.
    Write,
}

/// A disk. Offsets and lengths are multiples of the logical sector size; other ones are refused with `InvalidInput`.
/// Methods take `&self` so that several threads may write to one disk.
pub trait BlockDevice: Send + Sync {
    /// Name for messages, such as `/dev/sda`.
    fn name(&self) -> &str;

    /// Size in bytes.
    fn size(&self) -> u64;

    /// Logical sector size in bytes.
    fn sector_size(&self) -> u32;

    /// Fills the buffer from `offset`, from the medium and not from the host's page cache.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`. Not durable until flushed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes a range read as zeros. Not durable until flushed.
    fn zero_range(&self, offset: u64, length: u64, method: ZeroMethod) -> io::Result<()>;

    /// Tells the device that a range is not needed. Says nothing about what it reads as afterwards.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes everything written before durable.
    fn flush(&self) -> io::Result<()>;

    /// Whether a head has to move between two places, so that reading and writing at the same time costs more than it gains.
    fn is_rotational(&self) -> bool {
        false
    }

    /// Makes the kernel read the partition table again, where there is a kernel between.
    fn reread_partition_table(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Refuses what is not aligned or not on the disk, in the same words for every implementation.
pub(crate) fn check_range(device: &dyn BlockDevice, offset: u64, length: u64) -> io::Result<()> {
    let sector = u64::from(device.sector_size());
    let end = offset.checked_add(length);
    if !offset.is_multiple_of(sector) || !length.is_multiple_of(sector) {
        let text = format!("{length} bytes at {offset} are not whole sectors of {sector} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if end.is_none_or(|end| end > device.size()) {
        let text = format!(
            "{length} bytes at {offset} reach behind the end of the disk, {} bytes",
            device.size()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// A device whose errors are typed.
#[derive(Clone, Copy)]
pub(crate) struct Checked<'a>(pub(crate) &'a dyn BlockDevice);

impl Checked<'_> {
    pub(crate) fn fault(self, operation: DiskOperation, offset: u64) -> impl FnOnce(io::Error) -> ImageError {
        let disk = self.0.name().to_owned();
        move |source| ImageError::DiskIo {
            operation,
            disk,
            offset,
            source,
        }
    }

    pub(crate) fn read(self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.0.read_at(offset, buffer).map_err(self.fault(DiskOperation::Read, offset))
    }

    pub(crate) fn write(self, offset: u64, data: &[u8]) -> Result<(), ImageError> {
        self.0.write_at(offset, data).map_err(self.fault(DiskOperation::Write, offset))
    }

    pub(crate) fn zero(self, offset: u64, length: u64, method: ZeroMethod) -> Result<(), ImageError> {
        self.0
            .zero_range(offset, length, method)
            .map_err(self.fault(DiskOperation::Zero, offset))
    }

    pub(crate) fn flush(self) -> Result<(), ImageError> {
        self.0.flush().map_err(self.fault(DiskOperation::Flush, 0))
    }
}

/// Whether a range reads as zeros. Reads all of it.
pub fn reads_as_zeros(device: &dyn BlockDevice, offset: u64, length: u64) -> io::Result<bool> {
    let mut buffer = AlignedBuffer::zeroed(1 << 20);
    let mut at = offset;
    let end = offset
        .checked_add(length)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        device.read_at(at, &mut buffer[..count])?;
        if !is_zero(&buffer[..count]) {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Reads `count` blocks of `block` bytes spread evenly over the disk, first and last included, and shows each to `visit`.
/// `block` must be a multiple of the sector size. For looking at what an erase left.
pub fn sample(device: &dyn BlockDevice, block: usize, count: u64, mut visit: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let blocks = device.size() / block.max(1) as u64;
    if blocks == 0 || count == 0 {
        return Ok(());
    }
    let mut buffer = AlignedBuffer::zeroed(block);
    let count = count.min(blocks);
    for index in 0..count {
        let number = if count == 1 {
            0
        } else {
            u128::from(index) * u128::from(blocks - 1) / u128::from(count - 1)
        };
        // Not above `blocks`, a u64.
        let offset = number as u64 * block as u64;
        device.read_at(offset, &mut buffer)?;
        visit(offset, &buffer);
    }
    Ok(())
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SIMD comes from the chunks being of a fixed size.
    let mut chunks = bytes.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0) && chunks.remainder().iter().all(|&byte| byte == 0)
}
