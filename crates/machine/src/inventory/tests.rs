//! Inventories of recorded trees. A recording is text, so that it can be read and changed in a review:
//!
//! ```text
//! path = one line of text            path : bytes in hexadecimal
//! path -> target of a symbolic link  path size N (a file of N zero bytes)
//! ```

use std::{fs, path::Path};

use agent_protocol::{
    disk::{ContentsState, DiskKind},
    inventory::FirmwareMode,
    limits::Bounded,
};

use super::*;

const SEABIOS: &str = include_str!("fixtures/qemu-seabios-virtio.tree");
const OVMF: &str = include_str!("fixtures/qemu-ovmf-sata-nvme.tree");
const SERVER: &str = include_str!("fixtures/dual-socket-server.tree");
const BOGUS: &str = include_str!("fixtures/bogus-firmware.tree");

fn unpack(recording: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in recording.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (path, kind) = (words.next().unwrap(), words.next().unwrap());
        let value = words.next().unwrap_or_default();
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match kind {
            "=" => fs::write(path, format!("{value}\n")).unwrap(),
            ":" => fs::write(path, hex::decode(value).unwrap()).unwrap(),
            "->" => std::os::unix::fs::symlink(Path::new(value), path).unwrap(),
            "size" => fs::File::create(path).unwrap().set_len(value.parse().unwrap()).unwrap(),
            other => panic!("{other} in {line}"),
        }
    }
    root
}

fn inventory(recording: &str, boot_mac: Option<&str>) -> Inventory {
    let root = unpack(recording);
    let options = Options {
        boot_mac: boot_mac.map(|m| m.parse().unwrap()),
        ..Options::of_recording(root.path())
    };
    let inventory = collect(&options);
    inventory.check_bounds().unwrap();
    inventory
}

#[test]
fn a_small_virtual_machine() {
    let i = inventory(SEABIOS, Some("52:54:00:12:34:56"));
    assert_eq!(i.system.uuid.unwrap().to_string(), "4c4c4544-0042-3510-8054-b4c04f4d3132");
    assert_eq!((i.system.vendor.as_deref(), i.system.serial.as_deref()), (Some("QEMU"), None));
    assert_eq!(i.system.bios.as_deref(), Some("SeaBIOS 1.16.2-debian-1.16.2-1 04/01/2014"));
    assert_eq!((i.cpu.sockets, i.cpu.cores, i.cpu.threads), (1, 2, 2));
    assert_eq!(i.cpu.flags, ["aes", "lm", "sse4_2", "svm"]);
    assert_eq!(i.memory.bytes, 512 << 20);
    let [disk] = i.disks.as_slice() else { panic!("{:?}", i.disks) };
    assert_eq!(
        (disk.name.as_str(), disk.size_bytes, disk.transport.as_str()),
        ("vda", 8 << 20, "virtio")
    );
    assert_eq!(disk.identity.serial.as_deref(), Some("kbm-disk-1"));
    assert_eq!(disk.identity.by_path.as_deref(), Some("pci-0000:00:04.0"));
    assert_eq!(disk.contents.state, ContentsState::Blank);
    assert!(disk.discard && !disk.removable && !disk.remote && !disk.read_only);
    let [nic] = i.nics.as_slice() else { panic!("{:?}", i.nics) };
    assert_eq!((nic.name.as_str(), nic.boot, nic.link, nic.speed_mbps), ("ens3", true, true, None));
    assert_eq!(
        (nic.driver.as_deref(), nic.pci.as_deref()),
        (Some("virtio_net"), Some("0000:00:03.0 1af4:1000"))
    );
    assert_eq!((i.firmware.mode, i.firmware.secure_boot), (FirmwareMode::BIOS, None));
    assert!(i.gpus.is_empty() && i.tpm.is_none() && i.bmc.is_none());
}

#[test]
fn uefi_with_sata_and_nvme() {
    let i = inventory(OVMF, None);
    assert_eq!((i.firmware.mode, i.firmware.secure_boot), (FirmwareMode::UEFI, Some(true)));
    assert_eq!(i.tpm.unwrap().version, "2.0");
    assert_eq!(i.system.asset_tag.as_deref(), Some("rack-4"));
    let [nvme, sda] = i.disks.as_slice() else { panic!("{:?}", i.disks) };
    assert_eq!(
        (nvme.kind, nvme.transport.as_str(), nvme.logical_sector_bytes),
        (DiskKind::NVMe, "nvme", 4096)
    );
    assert_eq!(
        (nvme.identity.serial.as_deref(), nvme.identity.wwn.as_deref()),
        (Some("deadbeef"), None)
    );
    assert_eq!(nvme.identity.model.as_deref(), Some("QEMU NVMe Ctrl"));
    assert_eq!(nvme.identity.by_path.as_deref(), Some("pci-0000:00:04.0-nvme-1"));
    assert_eq!((sda.kind, sda.transport.as_str()), (DiskKind::HDD, "sata"));
    assert_eq!(
        (sda.identity.serial.as_deref(), sda.identity.model.as_deref()),
        (Some("QM00005"), Some("QEMU HARDDISK"))
    );
    assert_eq!(sda.identity.by_path.as_deref(), Some("pci-0000:00:1f.2-ata-3.0"));
    assert_eq!(i.nics[0].speed_mbps, Some(1000));
}

#[test]
fn a_large_server_with_everything() {
    let i = inventory(SERVER, Some("b0:83:fe:c0:00:00"));
    assert_eq!((i.cpu.sockets, i.cpu.cores, i.cpu.threads), (2, 16, 32));
    assert_eq!((i.memory.bytes, i.memory.dimms.len()), (128 << 30, 8));
    let first = &i.memory.dimms[0];
    assert_eq!(
        (first.locator.as_str(), first.kind.as_deref(), first.mega_transfers),
        ("DIMM_A1", Some("DDR4"), Some(1866))
    );
    assert_eq!(i.system.board_serial.as_deref(), Some("CN7475162B0123"));
    let bmc = i.bmc.unwrap();
    assert_eq!(
        (bmc.interface.as_str(), bmc.address.as_deref()),
        ("ipmi", None),
        "nothing is asked of a recording"
    );
    assert_eq!(bmc.system_interface.as_deref(), Some("KCS"));
    let redfish = bmc.redfish.unwrap();
    assert_eq!(redfish.address.as_deref(), Some("169.254.0.17"), "nobody else reaches it there");
    let names: Vec<&str> = i.nics.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(names, ["eno1", "eno2", "eno3", "eno4"], "neither the virtual function nor the bond");
    assert_eq!(i.nics.iter().filter(|n| n.boot).count(), 1);
    let [gpu] = i.gpus.as_slice() else { panic!("{:?}", i.gpus) };
    assert_eq!((gpu.id.as_str(), gpu.driver.as_deref()), ("10de:1db6", Some("nouveau")));
    assert_eq!(i.pci.iter().find(|c| c.class == "0300").unwrap().count, 1);

    assert_eq!(i.disks.len(), 29);
    let disk = |name: &str| i.disks.iter().find(|d| d.name == name).unwrap_or_else(|| panic!("{name}"));
    let sdc = disk("sdc");
    assert_eq!(
        (sdc.kind, sdc.transport.as_str(), sdc.physical_sector_bytes),
        (DiskKind::HDD, "sas", 4096)
    );
    assert_eq!(
        sdc.identity.by_path.as_deref(),
        Some("pci-0000:06:00.0-sas-exp0x500056b3f2e4c8ff-phy2-lun-0")
    );
    assert_eq!(
        (sdc.identity.wwn.as_deref(), sdc.identity.serial.as_deref()),
        (Some("0x5000c500a1b2c302"), Some("Z4007002"))
    );
    assert_eq!(sdc.identity.model.as_deref(), Some("SEAGATE ST1200MM0088"));
    assert_eq!(
        sdc.contents.state,
        ContentsState::Unreadable,
        "there is no device node: never blank"
    );
    let raid = disk("sdy");
    assert_eq!(raid.identity.by_path.as_deref(), Some("pci-0000:03:00.0-scsi-0:2:0:0"));
    assert_eq!(raid.identity.wwn.as_deref(), Some("0x6848f690ec7a8f0022b1a5e30d8f2c11"));
    let stick = disk("sdz");
    assert_eq!(
        stick.identity.by_path.as_deref(),
        Some("pci-0000:00:14.0-usb-0:2.3:1.0-scsi-0:0:0:0")
    );
    for (name, transport, removable, remote) in [
        ("sdz", "usb", true, false),
        ("sdaa", "iscsi", false, true),
        ("sdab", "fc", false, true),
        ("nvme0n1", "nvme-of", false, true),
    ] {
        let d = disk(name);
        assert_eq!(
            (d.transport.as_str(), d.removable, d.remote),
            (transport, removable, remote),
            "{name}"
        );
    }
    assert_eq!(
        disk("nvme0n1").identity.wwn.as_deref(),
        Some("uuid.0a1b2c3d-1111-4222-8333-444455556666")
    );
}

#[test]
fn nonsense_is_left_out_and_the_rest_stays() {
    let i = inventory(BOGUS, None);
    let uuid = i.system.uuid.unwrap();
    assert_eq!(uuid.to_string(), "03000200-0400-0500-0006-000700080009");
    assert!(!uuid.is_usable());
    let s = &i.system;
    assert_eq!(
        (&s.vendor, &s.product, &s.serial, &s.board_serial, &s.asset_tag),
        (&None, &None, &None, &None, &None)
    );
    assert_eq!(s.bios.as_deref(), Some("American Megatrends Inc. P1.20"));
    assert_eq!(i.memory.dimms.len(), 1, "a module of 2 PiB is none");
    assert_eq!((i.memory.bytes, i.memory.dimms[0].serial.as_deref()), (4 << 30, Some("SER IAL")));
    assert_eq!(i.cpu.model.as_deref(), Some("AMD A8-7600 Radeon R7, 10 Compute Cores 4C+6G"));
    let [disk] = i.disks.as_slice() else { panic!("{:?}", i.disks) };
    assert!(disk.identity.model.as_deref().unwrap().starts_with("OEM [31m"));
    assert_eq!((&disk.identity.serial, &disk.identity.wwn), (&None, &None));
    assert_eq!(i.nics.len(), 1);
    assert_eq!(i.gpus.len(), 1);
}

#[test]
fn an_empty_tree_gives_an_empty_inventory() {
    let root = tempfile::tempdir().unwrap();
    let i = collect(&Options::of_recording(root.path()));
    i.check_bounds().unwrap();
    assert!(i.disks.is_empty() && i.nics.is_empty());
    assert_eq!(i.cpu.threads, 1);
}

#[test]
fn this_machine_is_described_within_bounds() {
    let i = collect(&Options::of_this_machine(None));
    i.check_bounds().unwrap();
    assert!(i.cpu.threads >= 1 && i.memory.bytes > 0);
}
