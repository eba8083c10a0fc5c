//! Boot loaders for firmware that cannot run a script by itself: iPXE, out of a folder in which a distribution's package has put it.
//!
//! They are read once, at the start, and served from memory over TFTP under the names that DHCP offers: nothing that a machine asks for is ever looked up in
//! a file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use dhcp::arch::{Firmware, file};

/// Largest loader: iPXE has about one MiB.
const MOST: u64 = 16 << 20;

/// What is offered to whom, and where distributions put it; the first file that is there is taken. The card's own driver in the firmware comes first: it works with every card that the firmware
/// could boot from.
const KNOWN: &[(Firmware, &str, &[&str])] = &[
    (Firmware::Bios, file::IPXE_BIOS, &["undionly.kpxe"]),
    (Firmware::UefiX64, file::IPXE_X64, &["ipxe-x64.efi", "snponly.efi", "ipxe.efi"]),
    (Firmware::UefiIa32, file::IPXE_IA32, &["ipxe-ia32.efi", "i386-efi/snponly.efi"]),
    (Firmware::UefiArm64, file::IPXE_ARM64, &["ipxe-arm64.efi", "arm64-efi/snponly.efi"]),
];

/// A loader.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    pub(crate) firmware: Firmware,
    /// As it is asked for.
    pub(crate) name: &'static str,
    pub(crate) content: Bytes,
}

/// Why a loader cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoaderError {
    #[error("there is no boot loader in {}: install the package ipxe, or name a folder with undionly.kpxe and snponly.efi", .0.display())]
    None(PathBuf),
    #[error("{} cannot be read", .0.display())]
    Unreadable(PathBuf, #[source] io::Error),
    #[error("{} is larger than {} MiB and no boot loader", .0.display(), MOST >> 20)]
    TooLarge(PathBuf),
}

/// All loaders of a folder that are known.
pub(crate) fn read(folder: &Path) -> Result<Vec<Loader>, LoaderError> {
    let mut found = Vec::new();
    for (firmware, name, candidates) in KNOWN {
        let Some(path) = candidates.iter().map(|c| folder.join(c)).find(|p| p.is_file()) else {
            tracing::info!(%firmware, folder = %folder.display(), "no boot loader for this firmware; its machines are not answered");
            continue;
        };
        let unreadable = |error| LoaderError::Unreadable(path.clone(), error);
        if fs::metadata(&path).map_err(unreadable)?.len() > MOST {
            return Err(LoaderError::TooLarge(path));
        }
        let content = fs::read(&path).map_err(|error| LoaderError::Unreadable(path.clone(), error))?;
        found.push(Loader {
            firmware: *firmware,
            name,
            content: content.into(),
        });
    }
    if found.is_empty() {
        return Err(LoaderError::None(folder.to_owned()));
    }
    Ok(found)
}
