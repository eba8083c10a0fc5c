//! Disks: block devices that could hold an operating system.
//!
//! Left out: what is not a medium of its own (loop, RAM, compressed RAM, device mapper, software RAID: all of `devices/virtual` except NVMe
//! subsystems), optical and floppy drives, boot areas of eMMC, hidden paths of multipath NVMe, drives without a medium, and empty slots.

use std::path::{Path, PathBuf};

use agent_protocol::{
    disk::{Disk, DiskContents, DiskIdentity, DiskKind},
    limits::MAX_DISKS,
};

use super::{
    by_path,
    tree::{Tree, parts},
};
use crate::{
    contents,
    text::{clean, clean_bytes},
};

/// How many disks are probed at a time.
const PROBES: usize = 16;

pub(super) fn read(tree: &Tree) -> Vec<Disk> {
    let mut disks: Vec<Disk> = tree.list("sys/block").into_iter().filter_map(|name| disk(tree, &name)).collect();
    // When there are more than a session may tell, built-in ones are told.
    disks.sort_by(|a, b| (a.remote, a.removable, &a.name).cmp(&(b.remote, b.removable, &b.name)));
    disks.truncate(MAX_DISKS);
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    for group in disks.chunks_mut(PROBES) {
        std::thread::scope(|scope| {
            for disk in group {
                scope.spawn(|| disk.contents = look(tree, disk));
            }
        });
    }
    disks
}

fn look(tree: &Tree, disk: &Disk) -> DiskContents {
    match image::Disk::open_read_only(&tree.path("dev").join(&disk.name)) {
        Ok(device) => contents::probe(&device.with_sector_size(disk.logical_sector_bytes)),
        Err(error) => {
            tracing::warn!(disk = disk.name, %error, "the disk cannot be opened");
            contents::unreadable()
        }
    }
}

fn disk(tree: &Tree, name: &str) -> Option<Disk> {
    let folder = PathBuf::from("sys/block").join(name);
    let real = tree.resolve(&folder)?;
    let at = parts(&real);
    let is_nvme = name.starts_with("nvme");
    if ["sr", "fd", "loop", "ram", "zram", "dm-", "md", "mtdblock"]
        .iter()
        .any(|prefix| is_numbered(name, prefix))
        || (name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb")))
        || (at.contains(&"virtual") && !is_nvme && !is_numbered(name, "nbd"))
        || tree.flag(folder.join("hidden"))
    {
        return None;
    }
    let size_bytes = tree.number(folder.join("size"))?.checked_mul(512)?;
    if size_bytes == 0 {
        return None;
    }
    let transport = transport(tree, name, &folder, &at);
    let sector = |what: &str| {
        tree.number(folder.join("queue").join(what))
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| n.is_power_of_two())
    };
    let logical_sector_bytes = sector("logical_block_size").unwrap_or(512);
    let kind = match transport {
        "nvme" | "nvme-of" => DiskKind::NVMe,
        "mmc" => DiskKind::MMC,
        _ => match tree.number(folder.join("queue/rotational")) {
            Some(0) => DiskKind::SSD,
            Some(1) => DiskKind::HDD,
            _ => DiskKind::Other,
        },
    };
    let card = transport == "mmc" && tree.text(folder.join("device/type")).is_some_and(|kind| kind == "SD");
    Some(Disk {
        name: clean(name).filter(|clean| clean == name)?,
        identity: identity(tree, &folder, &real, transport),
        size_bytes,
        logical_sector_bytes,
        physical_sector_bytes: sector("physical_block_size").unwrap_or(logical_sector_bytes),
        kind,
        transport: transport.to_owned(),
        removable: tree.flag(folder.join("removable")) || matches!(transport, "usb" | "firewire") || card,
        remote: matches!(transport, "iscsi" | "fc" | "fcoe" | "nvme-of" | "nbd" | "rbd"),
        read_only: tree.flag(folder.join("ro")),
        discard: tree.number(folder.join("queue/discard_max_bytes")).unwrap_or(0) > 0,
        contents: contents::unreadable(),
    })
}

/// `sr0` is an `sr`, `srv` is not.
fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'_'))
}

fn transport(tree: &Tree, name: &str, folder: &Path, at: &[&str]) -> &'static str {
    let has = |prefix: &str| {
        at.iter()
            .any(|p| p.strip_prefix(prefix).is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit())))
    };
    if name.starts_with("nvme") {
        return nvme_transport(tree, folder);
    }
    if is_numbered(name, "nbd") {
        return "nbd";
    }
    if is_numbered(name, "rbd") {
        return "rbd";
    }
    if name.starts_with("mmcblk") {
        return "mmc";
    }
    if has("usb") {
        return "usb";
    }
    if has("session") {
        return "iscsi";
    }
    if at.iter().any(|p| p.starts_with("rport-")) {
        return if has("fcoe") || at.iter().any(|p| p.starts_with("ctlr_")) {
            "fcoe"
        } else {
            "fc"
        };
    }
    if at
        .iter()
        .any(|p| p.starts_with("fw") && p[2..].starts_with(|c: char| c.is_ascii_digit()))
    {
        return "firewire";
    }
    if at.iter().any(|p| p.starts_with("end_device-")) {
        // A SATA disk behind a SAS controller says ATA in its inquiry; it is plugged into SAS all the same.
        return "sas";
    }
    if has("ata") {
        return "sata";
    }
    if has("virtio") && !has("host") {
        return "virtio";
    }
    "scsi"
}

/// `pcie` is in this box, whatever else is not. With native multipath the disk hangs below a subsystem, which links its controllers.
fn nvme_transport(tree: &Tree, folder: &Path) -> &'static str {
    let device = folder.join("device");
    let mut transports: Vec<String> = tree.text(device.join("transport")).into_iter().collect();
    for name in tree.list(&device) {
        // Controllers (`nvme0`), not namespaces (`nvme0n1`).
        if is_numbered(&name, "nvme") && !name[4..].contains('n') {
            transports.extend(tree.text(device.join(&name).join("transport")));
        }
    }
    if transports.is_empty() || transports.iter().any(|t| t == "pcie") {
        "nvme"
    } else {
        "nvme-of"
    }
}

fn identity(tree: &Tree, folder: &Path, real: &Path, transport: &str) -> DiskIdentity {
    let device = folder.join("device");
    let wwid = [folder.join("wwid"), device.join("wwid")]
        .iter()
        .find_map(|path| tree.line(path))
        .and_then(|text| wwn(&text));
    let identify = tree
        .bytes(device.join("vpd_pg89"))
        .and_then(|page| Some(page.get(60..572)?.to_vec()));
    let ata = |words: std::ops::Range<usize>| identify.as_deref().and_then(|data| ata_text(data, words));
    let wwn = wwid.or_else(|| tree.bytes(device.join("vpd_pg83")).and_then(|page| wwn_of_page(&page)));
    let serial = match transport {
        "virtio" => tree.line(folder.join("serial")),
        _ => None,
    };
    let serial = serial
        .or_else(|| ata(10..20))
        .or_else(|| tree.bytes(device.join("vpd_pg80")).and_then(|page| serial_of_page(&page)))
        .or_else(|| tree.line(device.join("serial")))
        .or_else(|| tree.line(folder.join("serial")))
        .filter(|text| !agent_protocol::inventory::is_placeholder(text));
    // A SCSI inquiry has room for 16 letters; an ATA disk's own answer has 40.
    let model = ata(27..47)
        .or_else(|| tree.line(device.join("model")))
        .or_else(|| tree.line(device.join("name")));
    let vendor = tree.line(device.join("vendor")).filter(|v| v != "ATA" && !v.starts_with("0x"));
    let model = match (vendor, model) {
        (Some(vendor), Some(model)) if !model.starts_with(&vendor) => clean(&format!("{vendor} {model}")),
        (_, model) => model,
    };
    DiskIdentity {
        wwn,
        serial,
        model,
        by_path: by_path::of(tree, real).and_then(|path| clean(&path)),
    }
}

/// `naa.5000...` as `0x5000...`; EUI-64 and UUID names stay. Names that are made of serial and model name nothing more.
fn wwn(text: &str) -> Option<String> {
    let hexadecimal = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_hexdigit()) && t.bytes().any(|b| b != b'0');
    if let Some(digits) = text.strip_prefix("naa.") {
        return hexadecimal(digits).then(|| format!("0x{}", digits.to_ascii_lowercase()));
    }
    if let Some(digits) = text.strip_prefix("eui.") {
        return hexadecimal(digits).then(|| format!("eui.{}", digits.to_ascii_lowercase()));
    }
    text.strip_prefix("uuid.")
        .filter(|id| hexadecimal(&id.replace('-', "")))
        .map(|id| format!("uuid.{}", id.to_ascii_lowercase()))
}

/// Text in the answer to IDENTIFY DEVICE: the letters of each word are swapped.
fn ata_text(identify: &[u8], words: std::ops::Range<usize>) -> Option<String> {
    let bytes = identify.get(words.start * 2..words.end * 2)?;
    clean_bytes(&bytes.chunks_exact(2).flat_map(|word| [word[1], word[0]]).collect::<Vec<u8>>())
}

/// The unit serial number page (0x80): four bytes of head, then text.
fn serial_of_page(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    clean_bytes(page.get(4..(4 + length).min(page.len()))?)
}

/// The first NAA name of the unit itself in the device identification page (0x83).
fn wwn_of_page(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes([*page.get(2)?, *page.get(3)?]));
    let mut descriptors = page.get(4..(4 + length).min(page.len()))?;
    while let [_, kind, _, length, ..] = *descriptors {
        let name = descriptors.get(4..4 + usize::from(length))?;
        // Association 0 (the unit), type 3 (NAA).
        if kind & 0x3f == 0x03 {
            return wwn(&format!("naa.{}", hex::encode(name)));
        }
        descriptors = &descriptors[4 + usize::from(length)..];
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_follow_the_disk_are_taken_from_inquiry_pages() {
        let mut page = vec![0, 0x83, 0, 12 + 8];
        page.extend([0x02, 0x01, 0, 4]);
        page.extend(b"ATA ");
        page.extend([0x01, 0x03, 0, 8, 0x50, 0x00, 0xc5, 0x00, 0xa1, 0xb2, 0xc3, 0xd4]);
        assert_eq!(wwn_of_page(&page).as_deref(), Some("0x5000c500a1b2c3d4"));
        assert_eq!(serial_of_page(b"\0\x80\0\x0a  QM00001 ").as_deref(), Some("QM00001"));
        assert_eq!(wwn("t10.ATA     QEMU HARDDISK QM00001"), None);
        assert_eq!(wwn("naa.0000000000000000"), None);
        assert_eq!(wwn("eui.0025385B71B0A1C2").as_deref(), Some("eui.0025385b71b0a1c2"));
        let mut identify = vec![b' '; 512];
        identify[54..64].copy_from_slice(b"aSsmnu gSS");
        identify[64..66].copy_from_slice(b" D");
        assert_eq!(ata_text(&identify, 27..47).as_deref(), Some("Samsung SSD"));
        assert_eq!(wwn("nvme.1b36-3132-51-00000001"), None);
    }

    proptest! {
        #[test]
        fn no_page_makes_it_panic(page: Vec<u8>, text in "\\PC{0,80}") {
            wwn_of_page(&page);
            serial_of_page(&page);
            ata_text(&page, 27..47);
            wwn(&text);
        }
    }
}
