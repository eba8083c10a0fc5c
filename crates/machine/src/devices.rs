//! How an order gets at a disk: by the kernel's name that the inventory of this boot gave it.

use std::path::PathBuf;

use agent_protocol::disk::Disk;
use image::{BlockDevice, DiskOperation, ImageError};

/// Opens disks.
pub trait Devices {
    /// Opens for writing, exclusively.
    ///
    /// # Errors
    /// [`ImageError::DiskIo`] when the kernel refuses, for instance because the disk is in use.
    fn open(&self, disk: &Disk) -> Result<Box<dyn BlockDevice>, ImageError>;
}

/// The block devices of this machine.
#[derive(Debug, Clone)]
pub struct KernelDevices {
    folder: PathBuf,
}

impl Default for KernelDevices {
    fn default() -> Self {
        Self::at("/dev")
    }
}

impl KernelDevices {
    /// With the device nodes (or regular files that play disks) in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl Devices for KernelDevices {
    fn open(&self, disk: &Disk) -> Result<Box<dyn BlockDevice>, ImageError> {
        let opened = image::Disk::open(&self.folder.join(&disk.name))?;
        let device: Box<dyn BlockDevice> = Box::new(opened.with_sector_size(disk.logical_sector_bytes));
        if device.size() == disk.size_bytes {
            return Ok(device);
        }
        // The kernel's name went to another disk since the inventory.
        let text = format!("it has {} bytes now and had {} in the inventory", device.size(), disk.size_bytes);
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, text);
        Err(ImageError::DiskIo {
            operation: DiskOperation::Inspect,
            disk: disk.name.clone(),
            offset: 0,
            source,
        })
    }
}
