//! EFI boot entries: firmware's own list of what to boot, kept so that the machine comes back to us and finds its system.
//!
//! After imaging, [`install`] removes our stale entries, adds one for the loader on the new disk, and orders: the entry that led to
//! the agent (the network) first, ours second, the rest as it was. Network first is what brings a machine without a BMC back; the
//! boot server then says "your own disk". Where the order asks for the disk first, these two change places. After an erase that asks for the network first, [`network_first`] puts it there. [`EfiVariables::set_boot_next`] is for the guest helper, for reboots into the agent, and for the first boot of a new system.
//!
//! Invariants: entries of others are never deleted; a new entry is written before the order names it; a stale one leaves the order
//! before it is deleted; nothing on a disk is executed.

mod load_option;
mod loader;
mod variables;

use agent_protocol::order::BootOrder;
use image::BlockDevice;

pub use self::{
    load_option::{LoadOption, LoadOptionError, PartitionPath},
    loader::{Loader, find_loader},
    variables::{EFI_GLOBAL, EfiVariables},
};
use crate::{contents, error::MachineError};

/// What every entry of ours begins with.
pub const DESCRIPTION_PREFIX: &str = "kube-baremetal";
const ACTIVE: u32 = 1;

/// An entry that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// Number, the `####` of `Boot####`.
    pub number: u16,
    /// The loader, `\EFI\debian\shimx64.efi`.
    pub path: String,
    /// The entry that led to the agent, where firmware says it.
    pub boot_current: Option<u16>,
    /// Whether the boot order, read back, begins with it.
    pub is_first: bool,
}

impl std::fmt::Display for BootEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = if self.is_first { ", first" } else { "" };
        write!(f, "Boot{:04X} {}{first}", self.number, self.path)
    }
}

/// Makes the entry for the system on `device`. `None` when the disk has no EFI system partition with a loader: it may be meant for BIOS.
///
/// # Errors
/// [`MachineError::EfiVariable`] when firmware refuses a variable.
pub fn install(variables: &EfiVariables, device: &dyn BlockDevice, order: BootOrder) -> Result<Option<BootEntry>, MachineError> {
    let sector = u64::from(device.sector_size());
    for partition in contents::partitions(device).iter().filter(|p| p.is_esp && p.raw_guid != [0; 16]) {
        let Some(loader) = find_loader(device, partition.start, partition.length) else {
            continue;
        };
        let option = LoadOption {
            attributes: ACTIVE,
            description: format!("{DESCRIPTION_PREFIX}: {}", loader.vendor),
            partition: Some(PartitionPath {
                number: partition.number,
                first_lba: partition.start / sector,
                sectors: partition.length / sector,
                guid: partition.raw_guid,
            }),
            file: Some(loader.path.clone()),
        };
        return put(variables, &option, loader.path, order).map(Some);
    }
    Ok(None)
}

/// Removes every entry of ours: for a disk that was erased.
///
/// # Errors
/// [`MachineError::EfiVariable`] when firmware refuses a variable.
pub fn remove_ours(variables: &EfiVariables) -> Result<usize, MachineError> {
    let entries = variables.boot_entries()?;
    let ours: Vec<u16> = entries
        .iter()
        .filter(|(_, description)| is_ours(description))
        .map(|(number, _)| *number)
        .collect();
    if ours.is_empty() {
        return Ok(0);
    }
    let order = variables.boot_order()?;
    let kept: Vec<u16> = order.iter().copied().filter(|n| !ours.contains(n)).collect();
    if kept != order {
        variables.set_boot_order(&kept)?;
    }
    for number in &ours {
        variables.delete_boot_entry(*number)?;
    }
    Ok(ours.len())
}

/// The entry of ours, which leads to the installed system.
///
/// # Errors
/// [`MachineError::EfiVariable`] when firmware's variables cannot be read.
pub fn our_entry(variables: &EfiVariables) -> Result<Option<u16>, MachineError> {
    let entries = variables.boot_entries()?;
    Ok(entries
        .into_iter()
        .find(|(_, description)| is_ours(description))
        .map(|(number, _)| number))
}

fn is_ours(description: &str) -> bool {
    description
        .strip_prefix(DESCRIPTION_PREFIX)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// Puts the entry that led to the agent first, where firmware says which it was. Whether the boot order, read back, begins with it.
///
/// # Errors
/// [`MachineError::EfiVariable`] when firmware refuses a variable.
pub fn network_first(variables: &EfiVariables) -> Result<bool, MachineError> {
    let Some(network) = variables.boot_current()? else {
        return Ok(false);
    };
    let order = variables.boot_order()?;
    let rest = order.iter().copied().filter(|n| *n != network);
    let new: Vec<u16> = std::iter::once(network).chain(rest).collect();
    if new != order {
        variables.set_boot_order(&new)?;
    }
    Ok(variables.boot_order()?.first() == Some(&network))
}

fn put(variables: &EfiVariables, option: &LoadOption, path: String, wanted: BootOrder) -> Result<BootEntry, MachineError> {
    remove_ours(variables)?;
    let taken: Vec<u16> = variables.boot_entries()?.into_iter().map(|(number, _)| number).collect();
    let number = (0..=u16::MAX).find(|n| !taken.contains(n)).unwrap_or(u16::MAX);
    let boot_current = variables.boot_current()?;
    variables.write_boot_entry(number, &option.encode())?;
    let network = boot_current.filter(|n| taken.contains(n));
    variables.set_boot_order(&order_with(&variables.boot_order()?, network, number, wanted))?;
    Ok(BootEntry {
        number,
        path,
        boot_current,
        is_first: variables.boot_order()?.first() == Some(&number),
    })
}

/// Network first where it is known, then ours, then the rest in its order; or ours before the network.
fn order_with(order: &[u16], network: Option<u16>, ours: u16, wanted: BootOrder) -> Vec<u16> {
    // Without BootCurrent the first entry is the best guess for what brought us here.
    let first = network.or_else(|| order.iter().copied().find(|n| *n != ours));
    let mut new: Vec<u16> = match wanted {
        BootOrder::NetworkFirst => first.into_iter().chain([ours]).collect(),
        BootOrder::DiskFirst => [ours].into_iter().chain(first).collect(),
    };
    for number in order {
        if !new.contains(number) {
            new.push(*number);
        }
    }
    new
}

#[cfg(test)]
mod tests;
