//! A real disk: opened exclusively and with direct I/O, so that what is read back comes from the device. A regular file can play
//! a disk, for tools and tests; there, exclusiveness is not had, and direct I/O only where the file system can.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::ioctl::{Getter, NoArg, Opcode, Setter, opcode};

use super::aligned::{AlignedBuffer, is_aligned};
use super::whole::transfer;
use super::{BlockDevice, ZeroMethod, check_range};
use crate::error::{DiskOperation, ImageError};

const BLKGETSIZE64: Opcode = opcode::read::<usize>(0x12, 114);
const BLKRRPART: Opcode = opcode::none(0x12, 95);
const BLKDISCARD: Opcode = opcode::none(0x12, 119);
const BLKZEROOUT: Opcode = opcode::none(0x12, 127);
const BLKFLSBUF: Opcode = opcode::none(0x12, 97);

/// Bytes moved through the bounce buffer at once.
const BOUNCE: usize = 1 << 20;
/// Longest range given to one zeroing or discarding command: it cannot be interrupted.
const COMMAND: u64 = 1 << 30;

/// A block device, or a regular file that plays one.
pub struct Disk {
    name: String,
    file: File,
    size: u64,
    sector_size: u32,
    block_device: bool,
    rotational: bool,
    bounce: Mutex<AlignedBuffer>,
}

impl Disk {
    /// Opens for writing. A block device that is mounted or otherwise in use is refused by the kernel (`EBUSY`).
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        Self::open_as(path, true)
    }

    /// Opens for reading alone, without claiming the device.
    pub fn open_read_only(path: &Path) -> Result<Self, ImageError> {
        Self::open_as(path, false)
    }

    fn open_as(path: &Path, write: bool) -> Result<Self, ImageError> {
        let name = path.display().to_string();
        let fault = |operation| {
            let disk = name.clone();
            move |source: io::Error| ImageError::DiskIo {
                operation,
                disk,
                offset: 0,
                source,
            }
        };
        let metadata = std::fs::metadata(path).map_err(fault(DiskOperation::Open))?;
        let block_device = metadata.file_type().is_block_device();
        if !block_device && !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is neither a block device nor a regular file");
            return Err(fault(DiskOperation::Open)(error));
        }
        let mut flags = OFlags::CLOEXEC | if write { OFlags::RDWR } else { OFlags::RDONLY };
        if block_device && write {
            // Without O_CREAT, O_EXCL on a block device claims it against mounts and other claims.
            flags |= OFlags::EXCL;
        }
        let file = match rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty()) {
            // Some file systems have no direct I/O; a disk without it is not one we can verify.
            Err(rustix::io::Errno::INVAL) if !block_device => rustix::fs::open(path, flags, Mode::empty()),
            other => other,
        };
        let file = File::from(file.map_err(|errno| fault(DiskOperation::Open)(errno.into()))?);
        let (size, sector_size) = if block_device {
            let size = device_size(&file).map_err(fault(DiskOperation::Inspect))?;
            let sector = rustix::fs::ioctl_blksszget(&file).map_err(|errno| fault(DiskOperation::Inspect)(errno.into()))?;
            (size, sector)
        } else {
            // A tail that is no whole sector is not part of the disk.
            (metadata.len() / 512 * 512, 512)
        };
        if !(512..=65536).contains(&sector_size) || !sector_size.is_power_of_two() {
            let error = io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it reports a sector size of {sector_size} bytes"),
            );
            return Err(fault(DiskOperation::Inspect)(error));
        }
        let bounce = Mutex::new(AlignedBuffer::zeroed(BOUNCE));
        Ok(Self {
            name,
            file,
            size,
            sector_size,
            block_device,
            rotational: block_device && is_rotational(&metadata),
            bounce,
        })
    }

    /// For regular files: plays a disk with this sector size.
    pub fn with_sector_size(mut self, sector_size: u32) -> Self {
        if !self.block_device && sector_size.is_power_of_two() && (512..=4096).contains(&sector_size) {
            self.sector_size = sector_size;
            self.size -= self.size % u64::from(sector_size);
        }
        self
    }

    /// Direct I/O on a file may ask for more alignment than its pretended sector size. Then the page cache has to do.
    fn without_direct_io<T>(&self, result: io::Result<T>, again: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match result {
            Err(error) if !self.block_device && error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                let flags = rustix::fs::fcntl_getfl(&self.file)?;
                rustix::fs::fcntl_setfl(&self.file, flags & !OFlags::DIRECT)?;
                again()
            }
            other => other,
        }
    }

    fn read_whole(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        transfer(buffer.len(), self.sector_size as usize, |done| {
            self.file.read_at(&mut buffer[done..], offset + done as u64)
        })
    }

    fn write_whole(&self, data: &[u8], offset: u64) -> io::Result<()> {
        transfer(data.len(), self.sector_size as usize, |done| {
            self.file.write_at(&data[done..], offset + done as u64)
        })
    }

    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeros = AlignedBuffer::zeroed(BOUNCE);
        let mut done = 0;
        while done < length {
            let count = usize::try_from(length - done).unwrap_or(usize::MAX).min(BOUNCE);
            self.write_at(offset + done, &zeros[..count])?;
            done += count as u64;
        }
        Ok(())
    }

    fn zero_offload(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.block_device {
            return range_command::<BLKZEROOUT>(&self.file, offset, length);
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, punch, offset, length)?)
    }
}

/// What the kernel says of the disk, where it can know: virtual disks and loop devices call themselves rotational whatever is behind them.
fn is_rotational(metadata: &std::fs::Metadata) -> bool {
    let device = metadata.rdev();
    let folder = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let real = std::fs::canonicalize(&folder).unwrap_or_default();
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if ["loop", "vd", "xvd", "nbd"]
        .iter()
        .any(|virtual_kind| name.starts_with(virtual_kind))
    {
        return false;
    }
    std::fs::read_to_string(real.join("queue/rotational")).is_ok_and(|text| text.trim() == "1")
}

#[allow(unsafe_code)]
fn device_size(file: &File) -> io::Result<u64> {
    // SAFETY: BLKGETSIZE64 writes one u64 through its argument, which is what the getter gives it room for. (Its number is
    // made with size_t for historical reasons, on which the constant agrees with the kernel's header.)
    let size = unsafe { rustix::ioctl::ioctl(file, Getter::<BLKGETSIZE64, u64>::new()) }?;
    Ok(size)
}

#[allow(unsafe_code)]
fn range_command<const OPCODE: Opcode>(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mut done = 0;
    while done < length {
        let count = (length - done).min(COMMAND);
        // SAFETY: BLKZEROOUT and BLKDISCARD, the two commands this is used with, read a `uint64_t[2]` {start, length} through
        // their argument and keep no reference to it.
        unsafe { rustix::ioctl::ioctl(file, Setter::<OPCODE, [u64; 2]>::new([offset + done, count])) }?;
        done += count;
    }
    Ok(())
}

#[allow(unsafe_code)]
fn plain_command<const OPCODE: Opcode>(file: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART and BLKFLSBUF, the two commands this is used with, take no argument.
    Ok(unsafe { rustix::ioctl::ioctl(file, NoArg::<OPCODE>::new()) }?)
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let unsupported = [Errno::OPNOTSUPP, Errno::NOTTY, Errno::INVAL, Errno::NOSYS];
    error
        .raw_os_error()
        .is_some_and(|code| unsupported.iter().any(|errno| errno.raw_os_error() == code))
}

impl BlockDevice for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check_range(self, offset, buffer.len() as u64)?;
        if is_aligned(buffer) {
            let first = self.read_whole(buffer, offset);
            return self.without_direct_io(first, || self.read_whole(buffer, offset));
        }
        let mut bounce = self.bounce.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        for part in buffer.chunks_mut(BOUNCE) {
            let aligned = &mut bounce[..part.len()];
            let first = self.read_whole(aligned, at);
            self.without_direct_io(first, || self.read_whole(aligned, at))?;
            part.copy_from_slice(aligned);
            at += part.len() as u64;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        check_range(self, offset, data.len() as u64)?;
        if is_aligned(data) {
            let first = self.write_whole(data, offset);
            return self.without_direct_io(first, || self.write_whole(data, offset));
        }
        let mut bounce = self.bounce.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at = offset;
        for part in data.chunks(BOUNCE) {
            let aligned = &mut bounce[..part.len()];
            aligned.copy_from_slice(part);
            let first = self.write_whole(aligned, at);
            self.without_direct_io(first, || self.write_whole(aligned, at))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn zero_range(&self, offset: u64, length: u64, method: ZeroMethod) -> io::Result<()> {
        check_range(self, offset, length)?;
        if length == 0 {
            return Ok(());
        }
        match method {
            ZeroMethod::Write => self.write_zeros(offset, length),
            ZeroMethod::Offload => match self.zero_offload(offset, length) {
                Err(error) if is_unsupported(&error) => self.write_zeros(offset, length),
                other => other,
            },
        }
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self, offset, length)?;
        if length == 0 {
            return Ok(());
        }
        if self.block_device {
            range_command::<BLKDISCARD>(&self.file, offset, length)
        } else {
            self.zero_offload(offset, length)
        }
    }

    fn is_rotational(&self) -> bool {
        self.rotational
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.block_device {
            // Pages that others (udev, the kernel's partition scan) read through the page cache must not hide the medium.
            // Needs a privilege that a test may lack; direct reads do not depend on it.
            if let Err(error) = plain_command::<BLKFLSBUF>(&self.file) {
                tracing::debug!(disk = self.name, %error, "the page cache was not dropped");
            }
        }
        Ok(())
    }

    fn reread_partition_table(&self) -> io::Result<()> {
        if self.block_device {
            plain_command::<BLKRRPART>(&self.file)
        } else {
            Ok(())
        }
    }
}
