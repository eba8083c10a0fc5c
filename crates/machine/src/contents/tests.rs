//! Disks made by the tools that make them in the field, and disks of arbitrary bytes.

use std::process::Command;

use image::device::sim::{Faults, SimDisk};
use proptest::prelude::*;

use super::*;
use crate::marker::tests::example;

const MIB: usize = 1 << 20;

fn sim(bytes: Vec<u8>) -> SimDisk {
    SimDisk::new(bytes, 512, Faults::default())
}

fn probe_bytes(bytes: Vec<u8>) -> DiskContents {
    probe(&sim(bytes))
}

fn kinds(contents: &DiskContents) -> Vec<(&str, u64)> {
    contents.signatures.iter().map(|s| (s.kind.as_str(), s.offset)).collect()
}

/// A file of that size after a command (its last argument is the file's name).
fn made_by(size: usize, command: &[&str], input: &str) -> Vec<u8> {
    use std::io::Write;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size as u64).unwrap();
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .arg(file.path())
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{} is needed by this test: {e}", command[0]));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command:?}");
    std::fs::read(file.path()).unwrap()
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

#[test]
fn zeros_and_one_repeated_byte_are_blank() {
    assert_eq!(probe_bytes(vec![0; 4 * MIB]), DiskContents::blank());
    assert_eq!(probe_bytes(vec![0xff; 4 * MIB]).state, ContentsState::Blank);
}

#[test]
fn one_odd_byte_at_either_end_is_data() {
    for at in [0, 700_000, 3 * MIB + 5, 4 * MIB - 1] {
        let mut bytes = vec![0; 4 * MIB];
        bytes[at] = 1;
        let found = probe_bytes(bytes);
        assert_eq!(
            (found.state, kinds(&found)),
            (ContentsState::Foreign, vec![("data", 0)]),
            "byte {at}"
        );
    }
}

#[test]
fn a_gpt_disk_with_file_systems_keeps_its_fingerprint_when_it_grows() {
    let script = "label: gpt\nlabel-id: 11111111-2222-4333-8444-555555555555\nstart=2048, size=20480, type=U, uuid=AAAAAAAA-2222-4333-8444-555555555555, name=esp\nstart=24576, size=20480, type=L, name=root\nstart=49152, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios";
    let mut disk = made_by(32 * MIB, &["sfdisk", "-q"], script);
    let esp = made_by(10 * MIB, &["mkfs.vfat", "-n", "EFI"], "");
    let root = made_by(
        10 * MIB,
        &["mkfs.ext4", "-q", "-L", "root", "-U", "6a3b0d1e-1111-4222-8333-444455556666"],
        "",
    );
    put(&mut disk, MIB, &esp);
    put(&mut disk, 12 * MIB, &root);
    let found = probe_bytes(disk.clone());
    assert_eq!(found.state, ContentsState::Foreign);
    assert_eq!(
        kinds(&found),
        [("ext4", 12 << 20), ("gpt", 0), ("partition", 24 << 20), ("vfat", 1 << 20)]
    );
    let gpt = found.signatures.iter().find(|s| s.kind == "gpt").unwrap();
    assert_eq!(gpt.uuid.as_deref(), Some("11111111-2222-4333-8444-555555555555"));
    let root = found.signatures.iter().find(|s| s.kind == "ext4").unwrap();
    assert_eq!(
        (root.label.as_deref(), root.uuid.as_deref()),
        (Some("root"), Some("6a3b0d1e-1111-4222-8333-444455556666"))
    );

    // The same disk, its backup table moved and a mount counted.
    let mut ran = disk.clone();
    ran.resize(40 * MIB, 0);
    let backup = ran[32 * MIB - 33 * 512..32 * MIB].to_vec();
    ran[32 * MIB - 33 * 512..32 * MIB].fill(0);
    let end = ran.len();
    put(&mut ran, end - 33 * 512, &backup);
    ran[12 * MIB + 1024 + 0x34] += 1;
    assert_eq!(probe_bytes(ran).fingerprint, found.fingerprint);

    // The primary table is gone; firmware would restore it from the backup.
    disk[..34 * 512].fill(0);
    let restored = probe_bytes(disk);
    assert!(kinds(&restored).contains(&("ext4", 12 << 20)), "{restored:?}");
    assert!(kinds(&restored).contains(&("gpt", (32 << 20) - 512)), "{restored:?}");
}

#[test]
fn mbr_disks_with_logical_partitions_are_looked_into() {
    let script = "label: dos\nlabel-id: 0xdeadbeef\nstart=2048, size=20480, type=83\nstart=24576, type=5\nstart=26624, size=8192, type=82\nstart=36864, size=8192, type=7";
    let mut disk = made_by(32 * MIB, &["sfdisk", "-q"], script);
    put(&mut disk, MIB, &made_by(10 * MIB, &["mkfs.ext2", "-q"], ""));
    put(&mut disk, 26624 * 512, &made_by(4 * MIB, &["mkswap", "-L", "swap0"], ""));
    put(&mut disk, 36864 * 512 + 3, b"NTFS    ");
    let found = probe_bytes(disk);
    assert_eq!(
        kinds(&found),
        [("ext2", 1 << 20), ("mbr", 0), ("ntfs", 36864 * 512), ("swap", 26624 * 512)]
    );
    assert_eq!(found.signatures[1].uuid.as_deref(), Some("deadbeef"));
}

#[test]
fn members_that_keep_their_metadata_at_the_end_are_found() {
    let size = 64 * MIB;
    let with = |at: usize, what: &[u8]| {
        let mut bytes = vec![0; size];
        put(&mut bytes, at, what);
        probe_bytes(bytes)
    };
    let md0 = 0xa92b_4efcu32.to_le_bytes();
    assert_eq!(kinds(&with((size & !0xffff) - 0x1_0000, &md0)), [("mdraid", 0)]);
    let md1 = [md0.as_slice(), &1u32.to_le_bytes(), &[0; 8], &[7; 16], b"host:0"].concat();
    for at in [0, 4096, (size / 512 - 16) / 8 * 8 * 512] {
        let found = with(at, &md1);
        assert_eq!(kinds(&found), [("mdraid", 0)], "at {at}");
        assert_eq!(found.signatures[0].label.as_deref(), Some("host:0"));
    }
    assert_eq!(kinds(&with(size - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00")), [("imsm", 0)]);
    assert_eq!(kinds(&with(size - 512, &[0xde, 0x11, 0xde, 0x11])), [("ddf", 0)]);
    let label = 256 << 10;
    let nvlist = b"\x01\x01\0\0version pool_guid\0\0\0\0\0\0\x08\0\0\0\x01\0\0\0\0\0\0\x30\x39 vdev_tree";
    for at in [0, label, size - 2 * label, size - label] {
        assert_eq!(kinds(&with(at + (16 << 10), nvlist)), [("zfs", 0)], "label at {at}");
    }
}

#[test]
fn encrypted_and_managed_volumes_are_named() {
    let with = |pieces: &[(usize, &[u8])]| {
        let mut bytes = vec![0; 8 * MIB];
        for (at, what) in pieces {
            put(&mut bytes, *at, what);
        }
        probe_bytes(bytes)
    };
    let luks2 = with(&[
        (0, b"LUKS\xba\xbe\0\x02"),
        (24, b"secret"),
        (168, b"6a3b0d1e-1111-4222-8333-444455556666"),
    ]);
    assert_eq!(kinds(&luks2), [("luks2", 0)]);
    assert_eq!(luks2.signatures[0].uuid.as_deref(), Some("6a3b0d1e-1111-4222-8333-444455556666"));
    assert_eq!(
        kinds(&with(&[(0x4000, b"SKUL\xba\xbe\0\x02")])),
        [("luks2", 0)],
        "the primary header is gone, the second opens it"
    );
    let lvm = with(&[(512, b"LABELONE"), (532, &[32, 0, 0, 0]), (536, b"LVM2 001"), (544, &[b'x'; 32])]);
    assert_eq!(
        (kinds(&lvm), lvm.signatures[0].uuid.as_deref()),
        (vec![("lvm2", 0)], Some("x".repeat(32).as_str()))
    );
    assert_eq!(kinds(&with(&[(0, b"XFSB")])), [("xfs", 0)]);
    assert_eq!(kinds(&with(&[(65_536 + 0x40, b"_BHRfS_M")])), [("btrfs", 0)]);
    assert_eq!(kinds(&with(&[(0x8001, b"CD001")])), [("iso9660", 0)]);
}

#[test]
fn our_markers_say_whose_the_disk_is() {
    let marker = example();
    let mut disk = made_by(
        32 * MIB,
        &["sfdisk", "-q"],
        "label: gpt\nstart=2048, size=8192\nstart=32768, size=8192, name=config-2",
    );
    put(&mut disk, 32768 * 512 + 4 * MIB - MARKER_BYTES, &marker::encode(&marker).unwrap());
    let found = probe_bytes(disk.clone());
    assert_eq!((found.state, found.marker.as_ref()), (ContentsState::Marked, Some(&marker)));

    let payload = crate::erase::in_progress_payload(&marker).unwrap();
    put(&mut disk, 0, &image::marker::encode(&payload).unwrap());
    let found = probe_bytes(disk);
    assert_eq!((found.state, found.marker.as_ref()), (ContentsState::Interrupted, Some(&marker)));
}

#[test]
fn a_disk_that_cannot_be_read_is_never_blank() {
    let disk = SimDisk::new(
        vec![0; 4 * MIB],
        512,
        Faults {
            cut_before: Some(0),
            ..Faults::default()
        },
    );
    disk.write_at(0, &[0; 512]).unwrap_err();
    assert_eq!(probe(&disk).state, ContentsState::Unreadable);
}

#[test]
fn disks_with_large_sectors_are_read_in_whole_ones() {
    let mut bytes = vec![0; 4 * MIB];
    put(&mut bytes, 4096, b"EFI PART");
    let found = probe(&SimDisk::new(bytes, 4096, Faults::default()));
    assert_eq!(kinds(&found), [("gpt", 0)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_it_panic_and_the_answer_is_within_bounds(
        pieces in proptest::collection::vec((0usize..2 * MIB, proptest::collection::vec(any::<u8>(), 0..600)), 0..12),
        magics in proptest::collection::vec(0usize..MAGIC_PLACES.len(), 0..6),
        size in 1usize..2 * MIB,
    ) {
        let mut bytes = vec![0; 2 * MIB + 1024];
        for (at, piece) in &pieces {
            let end = (at + piece.len()).min(bytes.len());
            bytes[*at..end].copy_from_slice(&piece[..end - at]);
        }
        for magic in magics {
            let (at, what) = MAGIC_PLACES[magic];
            put(&mut bytes, at, what);
        }
        bytes.truncate(size.next_multiple_of(512));
        let found = probe_bytes(bytes);
        prop_assert!(found.signatures.len() <= MAX_LIST);
        prop_assert_eq!(found.fingerprint.len(), 64);
        for s in &found.signatures {
            for text in [&s.uuid, &s.label].into_iter().flatten() {
                prop_assert!(text.len() <= 256 && !text.chars().any(char::is_control), "{:?}", s);
            }
        }
    }
}

/// Places that open the parsers' doors, with what follows left to chance.
const MAGIC_PLACES: &[(usize, &[u8])] = &[
    (512, b"EFI PART"),
    (510, &[0x55, 0xaa]),
    (450, &[0x05]),
    (1080, &[0x53, 0xef]),
    (65_600, b"_BHRfS_M"),
    (536, b"LVM2 001"),
    (512, b"LABELONE"),
    (0, b"LUKS\xba\xbe"),
    (4096, &[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]),
    (16_384, b"pool_guid"),
    (16_400, b"vdev_tree\0\0\0\x04name"),
    (0, b"KBM-INPROGRESS\x01\x01"),
    (584, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 0]),
];
