//! How firmware started the machine, and its TPM.

use agent_protocol::inventory::{Firmware, FirmwareMode, Tpm};

use super::tree::Tree;
use crate::efi::EfiVariables;

pub(super) fn read(tree: &Tree) -> Firmware {
    if !tree.exists("sys/firmware/efi") {
        return Firmware {
            mode: FirmwareMode::BIOS,
            secure_boot: None,
        };
    }
    let secure_boot = EfiVariables::at(tree.path("sys/firmware/efi/efivars")).secure_boot();
    Firmware {
        mode: FirmwareMode::UEFI,
        secure_boot,
    }
}

pub(super) fn tpm(tree: &Tree) -> Option<Tpm> {
    let name = tree.list("sys/class/tpm").into_iter().find(|n| n.starts_with("tpm"))?;
    let major = tree.text(format!("sys/class/tpm/{name}/tpm_version_major"));
    let description = tree.text(format!("sys/class/tpm/{name}/device/description")).unwrap_or_default();
    let version = match major.as_deref() {
        Some("2") => "2.0",
        Some("1") => "1.2",
        // Before the kernel told the version (5.5), ACPI's description did.
        _ if description.contains("2.0") => "2.0",
        _ => "1.2",
    };
    Some(Tpm {
        version: version.to_owned(),
    })
}
