//! What a machine is made of, read from sysfs, procfs, SMBIOS tables and its disks.
//!
//! Invariants: reads only; never fails and never panics: what cannot be read is left out. Every string is printable and every string and
//! list within `agent_protocol::limits`, so that one odd device cannot make a server refuse the whole machine. All paths are below
//! [`Options::root`], so that a recorded tree is as good as a machine.
//! What it does not do: load modules, wait for devices, configure networks, or judge (a bogus UUID is told as it is).

mod bmc;
mod by_path;
mod cpu;
mod disks;
mod firmware;
mod management;
mod nics;
mod pci;
mod smbios;
mod tree;

use std::{collections::BTreeMap, path::PathBuf};

use agent_protocol::{
    identity::MacAddress,
    inventory::{Inventory, Memory},
};
use tree::Tree;

/// What to look at.
#[derive(Debug, Clone)]
pub struct Options {
    /// `/`, or the root of a recorded tree.
    pub root: PathBuf,
    /// The MAC that the machine booted from, as `BOOTIF` says it.
    pub boot_mac: Option<MacAddress>,
    /// Addresses in CIDR form by interface name: whoever configured the network knows them.
    pub addresses: BTreeMap<String, Vec<String>>,
    /// Switch and port by interface name, where LLDP was heard.
    pub switch_ports: BTreeMap<String, String>,
    /// Whether to ask the kernel beyond its files (permanent MAC, BMC). Off for recorded trees.
    pub ask_kernel: bool,
}

impl Options {
    /// This machine.
    pub fn of_this_machine(boot_mac: Option<MacAddress>) -> Self {
        Self {
            root: PathBuf::from("/"),
            boot_mac,
            addresses: BTreeMap::new(),
            switch_ports: BTreeMap::new(),
            ask_kernel: true,
        }
    }

    /// A tree that was recorded on another machine.
    pub fn of_recording(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            ask_kernel: false,
            ..Self::of_this_machine(None)
        }
    }
}

/// Looks at everything. Disks are probed side by side; it takes as long as the slowest, and at most three seconds where that is a BMC.
pub fn collect(options: &Options) -> Inventory {
    let tree = Tree::at(&options.root);
    let tables = smbios::read(&tree);
    let seen_by_kernel = memory_of_kernel(&tree);
    // It is asked while everything else is looked at.
    let bmc = bmc::begin(&tree, &tables, options);
    Inventory {
        cpu: cpu::read(&tree, &tables),
        memory: memory(seen_by_kernel, &tables),
        disks: disks::read(&tree),
        connection: None,
        nics: nics::read(&tree, options),
        pci: pci::classes(&tree),
        gpus: pci::gpus(&tree),
        firmware: firmware::read(&tree),
        tpm: firmware::tpm(&tree),
        bmc: bmc.and_then(bmc::Asked::end),
        system: tables.system,
    }
}

fn memory_of_kernel(tree: &Tree) -> u64 {
    let kib = tree.text("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:").map(str::to_owned))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    kib.unwrap_or(0).saturating_mul(1024)
}

/// The modules' sum, unless it cannot be true: the kernel sees more, or less than a quarter (mirroring takes half).
fn memory(seen_by_kernel: u64, tables: &smbios::Tables) -> Memory {
    let installed = tables.dimms.iter().fold(0u64, |sum, dimm| sum.saturating_add(dimm.bytes));
    let plausible = installed >= seen_by_kernel && (seen_by_kernel == 0 || installed / 4 <= seen_by_kernel);
    let bytes = if plausible && installed > 0 { installed } else { seen_by_kernel };
    Memory {
        bytes,
        dimms: tables.dimms.clone(),
    }
}

#[cfg(test)]
mod tests;
