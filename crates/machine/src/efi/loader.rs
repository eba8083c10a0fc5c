//! Finds the boot loader on the EFI system partition of a disk that was just written.
//!
//! The partition comes out of somebody's image: it is only read, at most [`BUDGET`] bytes of it, and a defect of the file system code that
//! its bytes may provoke is caught and means "no loader".

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{BlockDevice, device::AlignedBuffer};

/// Most bytes read from one partition; also what ends a loop in its directories.
const BUDGET: u64 = 64 << 20;
const CACHE: u64 = 64 << 10;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "x64";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "aa64";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the suffix of EFI loaders on this architecture is not known");

/// A loader on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// `\EFI\debian\shimx64.efi`.
    pub path: String,
    /// The folder below `\EFI`, for the entry's description.
    pub vendor: String,
}

/// The best loader in the FAT file system at that place: a vendor's shim, else a vendor's own loader, else the fallback path.
pub fn find_loader(device: &dyn BlockDevice, start: u64, length: u64) -> Option<Loader> {
    let window = Window {
        device,
        start,
        length,
        at: 0,
        left: BUDGET,
        cache: AlignedBuffer::zeroed(CACHE as usize),
        cached: None,
    };
    // fatfs is not hardened against every file system; see the head of this module.
    match catch_unwind(AssertUnwindSafe(|| search(window))) {
        Ok(Ok(loader)) => loader,
        Ok(Err(error)) => {
            tracing::warn!(disk = device.name(), start, %error, "the EFI system partition cannot be read");
            None
        }
        Err(_) => {
            tracing::warn!(disk = device.name(), start, "the EFI system partition is damaged");
            None
        }
    }
}

fn search(window: Window<'_>) -> io::Result<Option<Loader>> {
    let fs = fatfs::FileSystem::new(window, fatfs::FsOptions::new().update_accessed_date(false))?;
    let root = fs.root_dir();
    let Some(efi) = sub_folder(&root, "EFI")? else { return Ok(None) };
    let mut vendors = Vec::new();
    for entry in efi.iter().take(256) {
        let name = entry.as_ref().map_or_else(|_| String::new(), fatfs::DirEntry::file_name);
        if entry?.is_dir() && is_plain(&name) {
            vendors.push(name);
        }
    }
    vendors.sort_unstable_by_key(|name| (name.eq_ignore_ascii_case("boot"), name.to_ascii_lowercase()));
    let mut best: Option<(usize, Loader)> = None;
    for vendor in vendors {
        let Some(folder) = sub_folder(&efi, &vendor)? else { continue };
        let fallback = vendor.eq_ignore_ascii_case("boot");
        for entry in folder.iter().take(256) {
            let entry = entry?;
            let (name, small) = (entry.file_name(), entry.file_name().to_ascii_lowercase());
            let wanted: &[&str] = if fallback { &["boot"] } else { &["shim", "grub", "systemd-boot"] };
            let rank = wanted.iter().position(|stem| small == format!("{stem}{ARCHITECTURE}.efi"));
            let Some(rank) = rank.filter(|_| entry.is_file() && entry.len() > 0) else {
                continue;
            };
            let rank = if fallback { usize::MAX } else { rank };
            if best.as_ref().is_none_or(|(known, _)| rank < *known) {
                best = Some((
                    rank,
                    Loader {
                        path: format!("\\EFI\\{vendor}\\{name}"),
                        vendor: vendor.clone(),
                    },
                ));
            }
        }
    }
    Ok(best.map(|(_, loader)| loader))
}

type Folder<'f, 'd> = fatfs::Dir<'f, Window<'d>>;

/// A folder by name; `None` when there is none. (`open_dir` would also take a file for one.)
fn sub_folder<'f, 'd>(parent: &Folder<'f, 'd>, name: &str) -> io::Result<Option<Folder<'f, 'd>>> {
    for entry in parent.iter().take(256) {
        let entry = entry?;
        if entry.is_dir() && entry.file_name().eq_ignore_ascii_case(name) {
            return Ok(Some(entry.to_dir()));
        }
    }
    Ok(None)
}

/// Names that go into a firmware variable and a report.
fn is_plain(name: &str) -> bool {
    !name.starts_with('.')
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b' '))
}

/// A partition as a file that can only be read.
struct Window<'a> {
    device: &'a dyn BlockDevice,
    start: u64,
    length: u64,
    at: u64,
    left: u64,
    cache: AlignedBuffer,
    cached: Option<(u64, usize)>,
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.length || buffer.is_empty() {
            return Ok(0);
        }
        let block = self.at / CACHE * CACHE;
        let valid = match self.cached {
            Some((cached, valid)) if cached == block => valid,
            _ => {
                let end = self.length.min(self.device.size().saturating_sub(self.start));
                let sector = u64::from(self.device.sector_size());
                // Not above CACHE.
                let count = (CACHE.min(end.saturating_sub(block)) / sector * sector) as usize;
                self.left = self
                    .left
                    .checked_sub(count as u64)
                    .ok_or_else(|| io::Error::other("too much had to be read"))?;
                self.device.read_at(self.start + block, &mut self.cache[..count])?;
                self.cached = Some((block, count));
                count
            }
        };
        let skip = (self.at - block) as usize;
        let Some(bytes) = self.cache.get(skip..valid) else { return Ok(0) };
        let count = bytes.len().min(buffer.len());
        // Cached reads count too: a cycle of directories ends.
        self.left = self
            .left
            .checked_sub(64)
            .ok_or_else(|| io::Error::other("too much had to be read"))?;
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
