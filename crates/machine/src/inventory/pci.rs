//! PCI devices: counted by class, and the graphics devices that are worth choosing a machine by.

use std::collections::BTreeMap;

use agent_protocol::{
    inventory::{PciClass, PciDevice},
    limits::{MAX_LIST, MAX_NICS},
};

use super::tree::{Tree, is_pci_address};

const FOLDER: &str = "sys/bus/pci/devices";

/// Vendors whose display controllers are a BMC's or a hypervisor's frame buffer: ASPEED, Matrox, Silicon Motion, XGI, Huawei's BMC, QEMU
/// (standard VGA, QXL, virtio), Cirrus as QEMU plays it, VMware, Hyper-V, VirtualBox.
const FRAME_BUFFERS: &[&str] = &[
    "1a03", "102b", "126f", "18ca", "19e5", "1234", "1b36", "1af4", "1013", "15ad", "1414", "80ee",
];

fn devices(tree: &Tree) -> Vec<(String, String)> {
    tree.list(FOLDER)
        .into_iter()
        .filter(|address| is_pci_address(address))
        .filter_map(|address| {
            let class = hexadecimal(&tree.text(format!("{FOLDER}/{address}/class"))?, 6)?;
            Some((address, class))
        })
        .collect()
}

pub(super) fn classes(tree: &Tree) -> Vec<PciClass> {
    let mut counts = BTreeMap::new();
    for (_, class) in devices(tree) {
        *counts.entry(class[..4].to_owned()).or_insert(0u32) += 1;
    }
    counts
        .into_iter()
        .take(MAX_LIST)
        .map(|(class, count)| PciClass { class, count })
        .collect()
}

pub(super) fn gpus(tree: &Tree) -> Vec<PciDevice> {
    devices(tree)
        .into_iter()
        .filter(|(_, class)| class.starts_with("03"))
        .filter_map(|(address, _)| {
            let id = ids(tree, &address)?;
            let driver = tree.link_name(format!("{FOLDER}/{address}/driver"));
            (!FRAME_BUFFERS.contains(&&id[..4])).then_some(PciDevice { address, id, driver })
        })
        .take(MAX_NICS)
        .collect()
}

/// `8086:10d3`.
pub(super) fn ids(tree: &Tree, address: &str) -> Option<String> {
    let read = |what: &str| hexadecimal(&tree.text(format!("{FOLDER}/{address}/{what}"))?, 4);
    Some(format!("{}:{}", read("vendor")?, read("device")?))
}

/// `0x8086` as `8086`.
fn hexadecimal(text: &str, digits: usize) -> Option<String> {
    let bare = text.strip_prefix("0x")?;
    (bare.len() == digits && bare.bytes().all(|b| b.is_ascii_hexdigit())).then(|| bare.to_ascii_lowercase())
}
