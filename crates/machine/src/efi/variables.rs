//! efivarfs: one file per variable, four bytes of attributes before the value.
//!
//! The kernel marks most variables immutable against accidents; that mark is taken off for a write and comes back by itself.
//! A value is written by a single call, as efivarfs wants.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::load_option::LoadOption;
use crate::error::MachineError;

/// Vendor GUID of the variables that the UEFI specification defines.
pub const EFI_GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Non-volatile, boot service access, runtime access.
const ATTRIBUTES: u32 = 7;
/// No variable of interest is larger.
const LARGEST: u64 = 64 << 10;

/// A mounted efivarfs.
#[derive(Debug, Clone)]
pub struct EfiVariables {
    folder: PathBuf,
}

impl EfiVariables {
    /// Of this machine: `/sys/firmware/efi/efivars`.
    pub fn of_this_machine() -> Self {
        Self::at("/sys/firmware/efi/efivars")
    }

    /// At another place.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Whether there are variables at all: UEFI, and efivarfs mounted.
    pub fn is_available(&self) -> bool {
        fs::read_dir(&self.folder).is_ok_and(|mut entries| entries.next().is_some())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}-{EFI_GLOBAL}"))
    }

    /// The value of a variable of the specification, without its attributes. `None` when there is none.
    ///
    /// # Errors
    /// [`MachineError::EfiVariable`] when it is there and cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, MachineError> {
        let fault = |source| MachineError::EfiVariable {
            operation: "reading",
            name: name.to_owned(),
            source,
        };
        let file = match File::open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).map_err(fault)?;
        // A variable without a value is about to be deleted.
        Ok(bytes.get(4..).map(<[u8]>::to_vec))
    }

    fn write(&self, name: &str, value: &[u8]) -> Result<(), MachineError> {
        let fault = |source| MachineError::EfiVariable {
            operation: "writing",
            name: name.to_owned(),
            source,
        };
        if self.read(name)?.as_deref() == Some(value) {
            // Variable stores wear, and some firmware collects garbage for seconds.
            return Ok(());
        }
        let path = self.path(name);
        make_mutable(&path).map_err(fault)?;
        let mut bytes = ATTRIBUTES.to_le_bytes().to_vec();
        bytes.extend_from_slice(value);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(fault)?;
        let written = file.write(&bytes).map_err(fault)?;
        if written == bytes.len() {
            Ok(())
        } else {
            Err(fault(io::Error::from(io::ErrorKind::WriteZero)))
        }
    }

    fn delete(&self, name: &str) -> Result<(), MachineError> {
        let fault = |source| MachineError::EfiVariable {
            operation: "deleting",
            name: name.to_owned(),
            source,
        };
        let path = self.path(name);
        make_mutable(&path).map_err(fault)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fault(error)),
            _ => Ok(()),
        }
    }

    /// `SecureBoot`: whether firmware enforces signatures.
    pub fn secure_boot(&self) -> Option<bool> {
        self.read("SecureBoot").ok().flatten()?.first().map(|b| *b == 1)
    }

    /// The entry from which this boot came.
    ///
    /// # Errors
    /// [`MachineError::EfiVariable`].
    pub fn boot_current(&self) -> Result<Option<u16>, MachineError> {
        Ok(self.read("BootCurrent")?.as_deref().and_then(number))
    }

    /// The order in which firmware tries entries.
    ///
    /// # Errors
    /// [`MachineError::EfiVariable`].
    pub fn boot_order(&self) -> Result<Vec<u16>, MachineError> {
        Ok(self
            .read("BootOrder")?
            .unwrap_or_default()
            .chunks_exact(2)
            .filter_map(number)
            .collect())
    }

    /// Sets that order.
    ///
    /// # Errors
    /// [`MachineError::EfiVariable`].
    pub fn set_boot_order(&self, order: &[u16]) -> Result<(), MachineError> {
        self.write("BootOrder", &order.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>())
    }

    /// Has firmware try this entry once, at the next boot only.
    ///
    /// # Errors
    /// [`MachineError::EfiVariable`], also when there is no such entry.
    pub fn set_boot_next(&self, entry: u16) -> Result<(), MachineError> {
        let name = entry_name(entry);
        if self.read(&name)?.is_none() {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no such boot entry any more");
            return Err(MachineError::EfiVariable {
                operation: "reading",
                name,
                source,
            });
        }
        self.write("BootNext", &entry.to_le_bytes())
    }

    /// Number and description of every entry, by number. Entries that cannot be parsed have an empty description.
    ///
    /// # Errors
    /// [`MachineError::EfiVariable`] when the folder cannot be listed.
    pub fn boot_entries(&self) -> Result<Vec<(u16, String)>, MachineError> {
        let fault = |source| MachineError::EfiVariable {
            operation: "listing",
            name: "Boot####".to_owned(),
            source,
        };
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(fault)? {
            let file = file.map_err(fault)?.file_name();
            let Some(number) = file.to_str().and_then(entry_number) else {
                continue;
            };
            let description = match self.read(&entry_name(number)) {
                Ok(value) => value
                    .and_then(|v| LoadOption::parse(&v).ok())
                    .map(|o| o.description)
                    .unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(%error, "a boot entry is left alone");
                    String::new()
                }
            };
            entries.push((number, description));
        }
        entries.sort_unstable();
        Ok(entries)
    }

    pub(super) fn write_boot_entry(&self, number: u16, value: &[u8]) -> Result<(), MachineError> {
        self.write(&entry_name(number), value)
    }

    pub(super) fn delete_boot_entry(&self, number: u16) -> Result<(), MachineError> {
        self.delete(&entry_name(number))
    }
}

fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// The number in `Boot0004-8be4df61-...`.
fn entry_number(file: &str) -> Option<u16> {
    let digits = file.strip_prefix("Boot")?.strip_suffix(EFI_GLOBAL)?.strip_suffix('-')?;
    (digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u16::from_str_radix(digits, 16).ok())?
}

fn number(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// Takes the immutable mark off, where there is a file and a mark. File systems without marks have nothing to take off.
fn make_mutable(path: &Path) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match ioctl_getflags(&file) {
        Ok(flags) if flags.contains(IFlags::IMMUTABLE) => Ok(ioctl_setflags(&file, flags.difference(IFlags::IMMUTABLE))?),
        Ok(_) | Err(rustix::io::Errno::NOTTY | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
