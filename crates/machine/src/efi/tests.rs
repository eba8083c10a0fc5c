//! Boot entries on a folder that plays efivarfs, and loaders on FAT file systems that are whole or not.

use std::io::{Cursor, Write};

use image::device::sim::{Faults, SimDisk};
use proptest::prelude::*;

use super::*;

struct Store {
    folder: tempfile::TempDir,
    variables: EfiVariables,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let variables = EfiVariables::at(folder.path());
        Self { folder, variables }
    }

    fn put(&self, name: &str, value: &[u8]) {
        let bytes = [&[7, 0, 0, 0], value].concat();
        std::fs::write(self.folder.path().join(format!("{name}-{EFI_GLOBAL}")), bytes).unwrap();
    }

    fn entry(&self, number: u16, description: &str) {
        let option = LoadOption {
            attributes: 1,
            description: description.to_owned(),
            partition: None,
            file: None,
        };
        self.put(&format!("Boot{number:04X}"), &option.encode());
    }

    fn order(&self, order: &[u16]) {
        self.put("BootOrder", &order.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>());
    }
}

fn fat(files: &[&str], size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    fatfs::format_volume(Cursor::new(&mut bytes[..]), fatfs::FormatVolumeOptions::new()).unwrap();
    {
        let fs = fatfs::FileSystem::new(Cursor::new(&mut bytes[..]), fatfs::FsOptions::new()).unwrap();
        for path in files {
            for (at, _) in path.match_indices('/') {
                fs.root_dir().create_dir(&path[..at]).unwrap();
            }
            fs.root_dir().create_file(path).unwrap().write_all(b"MZ").unwrap();
        }
    }
    bytes
}

/// A GPT disk of 16 MiB whose first partition is an ESP with these files.
fn disk(files: &[&str]) -> SimDisk {
    let mut bytes = vec![0; 16 << 20];
    let at = |lba: usize| lba * 512;
    bytes[at(1)..at(1) + 8].copy_from_slice(b"EFI PART");
    bytes[at(1) + 72] = 2;
    bytes[at(1) + 80] = 128;
    bytes[at(1) + 84] = 128;
    let esp = uuid::Uuid::parse_str("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").unwrap().to_bytes_le();
    bytes[at(2)..at(2) + 16].copy_from_slice(&esp);
    bytes[at(2) + 16..at(2) + 32].copy_from_slice(&[9; 16]);
    bytes[at(2) + 32..at(2) + 40].copy_from_slice(&2048u64.to_le_bytes());
    bytes[at(2) + 40..at(2) + 48].copy_from_slice(&18431u64.to_le_bytes());
    let file_system = fat(files, 8 << 20);
    bytes[1 << 20..9 << 20].copy_from_slice(&file_system);
    SimDisk::new(bytes, 512, Faults::default())
}

#[test]
fn network_stays_first_and_our_new_entry_comes_second_without_the_stale_one() {
    let store = Store::new();
    store.entry(0, "UiApp");
    store.entry(1, "UEFI PXEv4 (MAC:525400123456)");
    store.entry(2, "kube-baremetal: ubuntu");
    store.entry(3, "kube-baremetal-like, but not ours");
    store.order(&[2, 0, 1, 3]);
    store.put("BootCurrent", &1u16.to_le_bytes());
    let device = disk(&["EFI/BOOT/BOOTX64.EFI", "EFI/debian/grubx64.efi", "EFI/debian/shimx64.efi"]);
    let entry = install(&store.variables, &device, BootOrder::NetworkFirst).unwrap().unwrap();
    assert_eq!(
        (entry.number, entry.path.as_str(), entry.boot_current),
        (2, "\\EFI\\debian\\shimx64.efi", Some(1))
    );
    assert_eq!(store.variables.boot_order().unwrap(), [1, 2, 0, 3]);
    assert!(!entry.is_first && !entry.to_string().ends_with("first"));
    let option = LoadOption::parse(&store.variables.read("Boot0002").unwrap().unwrap()).unwrap();
    assert_eq!(option.description, "kube-baremetal: debian");
    let partition = option.partition.unwrap();
    assert_eq!(
        (partition.number, partition.first_lba, partition.sectors, partition.guid),
        (1, 2048, 16384, [9; 16])
    );

    assert_eq!(remove_ours(&store.variables).unwrap(), 1);
    assert_eq!(store.variables.boot_order().unwrap(), [1, 0, 3]);
    assert!(store.variables.read("Boot0002").unwrap().is_none());
}

#[test]
fn the_disk_comes_first_where_it_is_asked_for_and_the_network_stays_behind_it() {
    let store = Store::new();
    store.entry(1, "UEFI PXEv4 (MAC:525400123456)");
    store.entry(2, "UEFI shell");
    store.order(&[2, 1]);
    store.put("BootCurrent", &1u16.to_le_bytes());
    let device = disk(&["EFI/BOOT/BOOTX64.EFI"]);
    let entry = install(&store.variables, &device, BootOrder::DiskFirst).unwrap().unwrap();
    assert_eq!(store.variables.boot_order().unwrap(), [0, 1, 2]);
    assert_eq!(entry.to_string(), "Boot0000 \\EFI\\BOOT\\BOOTX64.EFI, first");
    // The next image may be asked for otherwise.
    let entry = install(&store.variables, &device, BootOrder::NetworkFirst).unwrap().unwrap();
    assert_eq!((entry.is_first, store.variables.boot_order().unwrap()), (false, vec![1, 0, 2]));
}

#[test]
fn after_an_erase_the_network_can_be_put_first() {
    let store = Store::new();
    store.entry(1, "UEFI PXEv4 (MAC:525400123456)");
    store.order(&[2, 1, 0]);
    assert!(
        !network_first(&store.variables).unwrap(),
        "firmware does not say what led to the agent"
    );
    assert_eq!(store.variables.boot_order().unwrap(), [2, 1, 0]);
    store.put("BootCurrent", &1u16.to_le_bytes());
    assert!(network_first(&store.variables).unwrap());
    assert_eq!(store.variables.boot_order().unwrap(), [1, 2, 0]);
}

#[test]
fn the_fallback_loader_is_used_when_there_is_no_other() {
    let device = disk(&["EFI/BOOT/BOOTX64.EFI"]);
    let loader = find_loader(&device, 1 << 20, 8 << 20).unwrap();
    assert_eq!(loader.path, "\\EFI\\BOOT\\BOOTX64.EFI");
    assert_eq!(find_loader(&disk(&["readme.txt"]), 1 << 20, 8 << 20), None);
}

#[test]
fn boot_next_needs_an_entry_that_is_there() {
    let store = Store::new();
    store.entry(7, "net");
    assert_eq!(our_entry(&store.variables).unwrap(), None);
    store.entry(9, "kube-baremetal: debian");
    assert_eq!(our_entry(&store.variables).unwrap(), Some(9));
    store.variables.set_boot_next(7).unwrap();
    assert_eq!(store.variables.read("BootNext").unwrap().unwrap(), [7, 0]);
    let error = store.variables.set_boot_next(8).unwrap_err();
    assert!(error.to_string().contains("Boot0008"), "{error}");
}

#[test]
fn secure_boot_is_read_and_absence_is_not_off() {
    let store = Store::new();
    assert_eq!(store.variables.secure_boot(), None);
    store.put("SecureBoot", &[1]);
    assert_eq!(store.variables.secure_boot(), Some(true));
    store.put("SecureBoot", &[0]);
    assert_eq!(store.variables.secure_boot(), Some(false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_keeps_every_entry_once(order in proptest::collection::vec(0u16..20, 0..20), network in proptest::option::of(0u16..20), ours in 0u16..20, disk_first: bool) {
        // A new entry has a number that no other has.
        prop_assume!(network != Some(ours));
        let wanted = if disk_first { BootOrder::DiskFirst } else { BootOrder::NetworkFirst };
        let new = order_with(&order, network, ours, wanted);
        for number in order.iter().chain([&ours]) {
            prop_assert_eq!(new.iter().filter(|n| *n == number).count(), 1);
        }
        prop_assert!(new.iter().position(|n| *n == ours).unwrap() <= 1);
        if let Some(network) = network {
            prop_assert_eq!((new[usize::from(disk_first)], new[usize::from(!disk_first)]), (network, ours));
        }
    }

    #[test]
    fn damaged_file_systems_mean_no_loader_or_one_and_never_a_panic(
        damage in proptest::collection::vec((0usize..(8 << 20), any::<u8>()), 0..4),
        head in proptest::collection::vec((0usize..65_536, any::<u8>()), 1..60),
    ) {
        let mut bytes = fat(&["EFI/BOOT/BOOTX64.EFI", "EFI/debian/shimx64.efi"], 8 << 20);
        for (at, value) in damage.into_iter().chain(head) {
            bytes[at] = value;
        }
        find_loader(&SimDisk::new(bytes, 512, Faults::default()), 0, 8 << 20);
    }
}
