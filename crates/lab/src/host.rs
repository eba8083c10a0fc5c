//! What the host must have: programs and firmware files, each with the Debian package that brings it.
//!
//! Nothing is installed from here: whoever lacks something is told the one line that installs all of it.

use std::path::{Path, PathBuf};

use crate::LabError;

/// A program or file and its package.
struct Need {
    package: &'static str,
    any_of: &'static [&'static str],
}

const IPXE_EFI: &str = "/usr/lib/ipxe/snponly.efi";

const NEEDS: [Need; 10] = [
    Need {
        package: "qemu-system-x86",
        any_of: &["/usr/bin/qemu-system-x86_64"],
    },
    Need {
        package: "qemu-utils",
        any_of: &["/usr/bin/qemu-img"],
    },
    Need {
        package: "seabios",
        any_of: &["/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin"],
    },
    Need {
        package: "ovmf",
        any_of: &["/usr/share/OVMF/OVMF_CODE_4M.fd"],
    },
    Need {
        package: "ipxe-qemu",
        any_of: &["/usr/lib/ipxe/qemu/pxe-virtio.rom", "/usr/lib/ipxe/qemu/efi-virtio.rom"],
    },
    Need {
        package: "ipxe",
        any_of: &[IPXE_EFI],
    },
    Need {
        package: "openssh-client",
        any_of: &["/usr/bin/ssh"],
    },
    Need {
        package: "mmdebstrap",
        any_of: &["/usr/bin/mmdebstrap"],
    },
    Need {
        package: "mtools",
        any_of: &["/usr/bin/mcopy"],
    },
    Need {
        package: "gdisk",
        any_of: &["/sbin/sgdisk", "/usr/sbin/sgdisk"],
    },
];

/// Checks that everything a lab needs is installed.
///
/// # Errors
/// [`LabError::Missing`] that names every missing package at once.
pub fn check() -> Result<(), LabError> {
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|n| !n.any_of.iter().any(|p| Path::new(p).exists()))
        .map(|n| n.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::Missing {
        what: missing.join(", "),
        apt: format!("sudo apt-get install --no-install-recommends {}", missing.join(" ")),
    })
}

/// OVMF's code and its variable store: empty, or for Secure Boot with Microsoft's keys.
///
/// # Errors
/// [`LabError::Missing`] when the package is not installed.
pub fn ovmf(secure_boot: bool) -> Result<(PathBuf, PathBuf), LabError> {
    let (code, vars) = if secure_boot {
        ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd")
    } else {
        ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")
    };
    let [code, vars] = [code, vars].map(|name| Path::new("/usr/share/OVMF").join(name));
    if code.exists() && vars.exists() {
        return Ok((code, vars));
    }
    Err(LabError::Missing {
        what: "UEFI firmware for QEMU".to_owned(),
        apt: "sudo apt-get install --no-install-recommends ovmf".to_owned(),
    })
}

/// iPXE as a UEFI program that leaves the NIC to the firmware's own driver. (The one with drivers of its own hangs in OVMF when its script exits to the
/// next boot entry.)
///
/// # Errors
/// [`LabError::Missing`] when the package is not installed.
pub fn ipxe_efi() -> Result<PathBuf, LabError> {
    let path = PathBuf::from(IPXE_EFI);
    if path.exists() {
        return Ok(path);
    }
    Err(LabError::Missing {
        what: "iPXE for UEFI".to_owned(),
        apt: "sudo apt-get install --no-install-recommends ipxe".to_owned(),
    })
}
