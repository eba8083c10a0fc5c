//! Where a disk is plugged in, in the words of udev's `path_id`: from the disk's folder in sysfs up to the bus it hangs on.
//!
//! Known: ATA, SAS, plain SCSI, USB, NVMe, virtio, MMC, below PCI or a platform device. Anything else has no path, which is better than
//! one that would change.

use std::path::Path;

use super::tree::{Tree, is_pci_address, parts};

/// The path of the disk whose folder is `device` (below the tree's root).
pub(super) fn of(tree: &Tree, device: &Path) -> Option<String> {
    let parts = parts(device);
    let bus = parts.iter().rposition(|p| is_pci_address(p));
    let parent = match bus {
        Some(at) => format!("pci-{}", parts[at]),
        None => {
            let at = parts.iter().position(|p| *p == "platform")? + 1;
            format!("platform-{}", parts.get(at)?)
        }
    };
    let below = &parts[bus.map_or(0, |at| at + 1)..];
    let folder_of = |count: usize| -> String { parts[..parts.len() - below.len() + count].join("/") };
    let find = |prefix: &str| below.iter().position(|p| p.strip_prefix(prefix).is_some_and(is_number));

    let mut path = vec![parent];
    if let Some(at) = find("nvme") {
        let name = below.last()?;
        let namespace = name.rsplit_once('n').map(|(_, n)| n).filter(|n| is_number(n))?;
        let id = tree
            .text(format!("{}/{name}/nsid", folder_of(at + 1)))
            .unwrap_or_else(|| namespace.to_owned());
        path.push(format!("nvme-{id}"));
        return Some(path.join("-"));
    }
    if find("virtio").is_some() && find("host").is_none() {
        return Some(path.join("-"));
    }
    if find("mmc_host").is_some() || below.contains(&"mmc_host") {
        return Some(path.join("-"));
    }
    if let Some(port) = below.iter().rfind(|p| is_usb_interface(p)) {
        // Behind its bus number: `1-2.3:1.0` is port 2.3, interface 1.0.
        path.push(format!("usb-0:{}", port.split_once('-')?.1));
    }
    let host_at = find("host")?;
    let address = below.iter().rev().find_map(|p| scsi_address(p))?;
    if let Some(ata) = below[..host_at].iter().find(|p| p.strip_prefix("ata").is_some_and(is_number)) {
        let folder = folder_of(below.iter().position(|p| p == ata)? + 1);
        let port = tree
            .text(format!("{folder}/ata_port/{ata}/port_no"))
            .or_else(|| ata.strip_prefix("ata").map(str::to_owned))?;
        let [_, channel, target, _] = address;
        path.push(if channel == 0 {
            format!("ata-{port}.{target}")
        } else {
            format!("ata-{port}.{channel}.0")
        });
    } else if let Some(sas) = sas(tree, below, &folder_of, address[3]) {
        path.push(sas);
    } else if below.iter().any(|p| p.starts_with("session") || p.starts_with("rport-")) {
        return None;
    } else {
        let [host, channel, target, lun] = address;
        let first = tree
            .list(folder_of(host_at))
            .iter()
            .filter_map(|name| name.strip_prefix("host")?.parse::<u64>().ok())
            .min()
            .unwrap_or(host);
        path.push(format!("scsi-{}:{channel}:{target}:{lun}", host.saturating_sub(first)));
    }
    Some(path.join("-"))
}

/// `sas-phy3-lun-0`, or `sas-exp0x5001...-phy3-lun-0` behind an expander.
fn sas(tree: &Tree, below: &[&str], folder_of: &dyn Fn(usize) -> String, lun: u64) -> Option<String> {
    let end_at = below.iter().position(|p| p.starts_with("end_device-"))?;
    let end = below.get(end_at)?;
    let phy = tree.text(format!("{}/sas_device/{end}/phy_identifier", folder_of(end_at + 1)))?;
    let expander = below[..end_at].iter().rposition(|p| p.starts_with("expander-")).and_then(|at| {
        let name = below[at];
        tree.text(format!("{}/sas_device/{name}/sas_address", folder_of(at + 1)))
    });
    Some(match expander {
        Some(address) => format!("sas-exp{address}-phy{phy}-lun-{lun}"),
        None => format!("sas-phy{phy}-lun-{lun}"),
    })
}

/// `2:0:0:1` as host, channel, target, LUN.
fn scsi_address(part: &str) -> Option<[u64; 4]> {
    let numbers: Vec<u64> = part.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// `1-2.3:1.0`.
fn is_usb_interface(part: &str) -> bool {
    let split = || {
        let (bus, rest) = part.split_once('-')?;
        let (port, interface) = rest.split_once(':')?;
        Some((bus, port, interface))
    };
    let dotted = |text: &str| !text.is_empty() && text.split('.').all(is_number);
    split().is_some_and(|(bus, port, interface)| is_number(bus) && dotted(port) && dotted(interface))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}
