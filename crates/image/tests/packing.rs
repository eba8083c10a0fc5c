//! Images are packed, and the packs are read again: every format, order and size; what is damaged, and what a crash leaves.
#![allow(missing_docs)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use common::*;
use image::pack::{self, ChunkSize, DirSource, Manifest, PackOptions, Packed, SectorFit};
use image::{Digest, FaultKind, FileSource, Format, ImageError, MemorySource, Source};
use proptest::prelude::*;

fn pack_source(source: Box<dyn Source>, digest: &Digest, folder: &Path, options: &PackOptions) -> Result<Packed, ImageError> {
    let image = image::open(source, digest, None, &pack::packing_limit())?;
    pack::pack(image, folder, options, &mut |_| ControlFlow::Continue(()))
}

fn pack_bytes(stored: &[u8], folder: &Path, options: &PackOptions) -> Result<Packed, ImageError> {
    pack_source(
        Box::new(MemorySource::new("test image", stored)),
        &Digest::sha256_of(stored),
        folder,
        options,
    )
}

fn unpacked(folder: &Path) -> Vec<u8> {
    let (manifest, source) = DirSource::open(folder).unwrap();
    pack::verify(&manifest, &source, &|_| {}).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("disk");
    pack::unpack(&manifest, &source, &path, &|_| {}).unwrap();
    fs::read(path).unwrap()
}

fn small() -> PackOptions {
    PackOptions {
        chunk_size: ChunkSize::Exactly(64 << 10),
        ..PackOptions::default()
    }
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

fn folder_bytes(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    (
        fs::read(folder.join(pack::MANIFEST_FILE)).unwrap(),
        fs::read(folder.join(pack::CHUNKS_FILE)).unwrap(),
    )
}

#[test]
fn every_format_gives_the_same_chunks_and_any_number_of_cores_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let disk = gpt_image(5 * MIB);
    let raw = home.path().join("disk.raw");
    fs::write(&raw, &disk).unwrap();
    let mut stored = vec![
        (Format::Raw, disk.clone()),
        (Format::Gzip, gzipped(&disk)),
        (Format::Zstd, zstd::bulk::compress(&disk, 1).unwrap()),
    ];
    let mut xz = liblzma::read::XzEncoder::new(disk.as_slice(), 1);
    let mut bytes = Vec::new();
    xz.read_to_end(&mut bytes).unwrap();
    stored.push((Format::Xz, bytes));
    for (name, compressed) in [("plain.qcow2", false), ("compressed.qcow2", true)] {
        let path = home.path().join(name);
        let mut command = Command::new("qemu-img");
        command.args(["convert", "-f", "raw", "-O", "qcow2"]);
        command.args(compressed.then_some("-c"));
        assert!(command.arg(&raw).arg(&path).status().expect("qemu-img is there").success());
        stored.push((Format::Qcow2, fs::read(path).unwrap()));
    }
    let mut first: Option<Vec<u8>> = None;
    for (place, (format, stored)) in stored.iter().enumerate() {
        let mut before = None;
        for workers in [1, 2, 5] {
            let folder = home.path().join(format!("{place}-{workers}"));
            let options = PackOptions {
                workers: Some(workers),
                ..small()
            };
            let packed = pack_bytes(stored, &folder, &options).unwrap();
            let manifest = &packed.manifest;
            assert_eq!(manifest.source().format, *format);
            assert_eq!(manifest.source().digest, Digest::sha256_of(stored).to_string());
            assert_eq!((manifest.disk_bytes(), manifest.sector_bytes()), (5 * MIB as u64, Some(512)));
            assert_eq!(packed.source_bytes, stored.len() as u64);
            let (bytes, chunks) = folder_bytes(&folder);
            assert_eq!(Manifest::parse(&bytes).as_ref(), Ok(manifest));
            assert!(first.get_or_insert_with(|| chunks.clone()) == &chunks, "{format} gave other frames");
            assert!(
                before.get_or_insert_with(|| bytes.clone()) == &bytes,
                "{workers} workers gave another manifest"
            );
            assert!(unpacked(&folder) == disk, "{format}");
        }
    }
    // 300 KiB of zeros from the first MiB on, four whole chunks, are absent.
    let (manifest, _) = DirSource::open(&home.path().join("0-1")).unwrap();
    assert_eq!((manifest.chunk(16), manifest.chunk(19), manifest.chunks().len()), (None, None, 76));
}

#[test]
fn clusters_in_any_order_wait_in_the_scratch_file() {
    // Written backwards by a guest: clusters lie in the file in the reverse order of the disk.
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("backwards.qcow2");
    let create = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg("80M")
        .status();
    assert!(create.expect("qemu-img is there").success());
    let mut expected = vec![0; 80 * MIB];
    let mut io = Command::new("qemu-io");
    io.args(["-f", "qcow2"]).arg(&path);
    // Half of each chunk first, so that none of them becomes whole before all were begun.
    for half in [1, 0] {
        for chunk in (0..40usize).rev() {
            let (at, byte) = (chunk * 2 * MIB + half * 512 * 1024, (chunk * 2 + half + 1) as u8);
            io.args(["-c", &format!("write -q -P {byte} {at} 512k")]);
            expected[at..at + 512 * 1024].fill(byte);
        }
    }
    assert!(io.status().expect("qemu-io is there").success());
    let digest = Digest::sha256_of(&fs::read(&path).unwrap());
    let folder = home.path().join("pack");
    let options = PackOptions {
        fit: SectorFit::Any,
        ..PackOptions::default()
    };
    let source = Box::new(FileSource::open(&path).unwrap());
    let opened = image::open(source, &digest, None, &image::pack::packing_limit()).unwrap();
    let mut most = 0;
    let packed = image::pack::pack(opened, &folder, &options, &mut |so_far| {
        most = most.max(so_far.scratch_bytes);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(packed.scratch_used);
    assert!(
        most > 0,
        "what waits on the disk is told of, so that whoever has a quota can count it"
    );
    assert!(unpacked(&folder) == expected);
    // The same disk, in order.
    let raw = home.path().join("raw");
    let in_order = pack_bytes(&expected, &raw, &options).unwrap();
    assert!(!in_order.scratch_used);
    assert!(folder_bytes(&raw).1 == folder_bytes(&folder).1);
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_stream_that_turns_out_long_gets_the_chunks_of_its_size() {
    // Four gibibytes and a bit, as gzip, which says nothing of its length: nearly all of it one member of zeros, again and again.
    let home = tempfile::tempdir().unwrap();
    let member = gzipped(&vec![0; 64 * MIB]);
    let mut stored = gzipped(&noise(MIB, 5));
    for _ in 0..64 {
        stored.extend_from_slice(&member);
    }
    let folder = home.path().join("pack");
    let options = PackOptions {
        chunk_size: ChunkSize::AtLeast(64 << 10),
        ..PackOptions::default()
    };
    let manifest = pack_bytes(&stored, &folder, &options).unwrap().manifest;
    assert_eq!((manifest.chunk_bytes(), manifest.disk_bytes()), (128 << 10, (4 << 30) + MIB as u64));
    assert_eq!(manifest.chunks().len(), 8);
    let (read, source) = DirSource::open(&folder).unwrap();
    assert_eq!(read, manifest);
    pack::verify(&manifest, &source, &|_| {}).unwrap();
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn what_fails_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("pack");
    let disk = gpt_image(3 * MIB);
    let source = Box::new(MemorySource::new("test image", disk.clone()));
    let error = pack_source(source, &Digest::sha256_of(b"other"), &folder, &small()).unwrap_err();
    assert_eq!(error.kind(), FaultKind::DigestMismatch);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);

    let gz = gzipped(&disk);
    let error = pack_bytes(&gz[..gz.len() - 100], &folder, &small()).unwrap_err();
    assert_eq!(error.kind(), FaultKind::Truncated, "{error}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);

    let image = image::open(
        Box::new(MemorySource::new("test image", noise(200 * MIB, 1))),
        &Digest::sha256_of(b""),
        None,
        &pack::packing_limit(),
    );
    let slow = PackOptions {
        level: 19,
        ..PackOptions::default()
    };
    let error = pack::pack(image.unwrap(), &folder, &slow, &mut |_| ControlFlow::Break(())).unwrap_err();
    assert_eq!(error.kind(), FaultKind::Cancelled, "{error}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);

    pack_bytes(&disk, &folder, &small()).unwrap();
    let error = pack_bytes(&disk, &folder, &small()).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
}

#[test]
fn damage_is_found() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("pack");
    let packed = pack_bytes(&gpt_image(3 * MIB), &folder, &small()).unwrap();
    let chunks = folder.join(pack::CHUNKS_FILE);
    let good = fs::read(&chunks).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    fs::write(&chunks, &bad).unwrap();
    let (manifest, source) = DirSource::open(&folder).unwrap();
    assert_eq!(manifest, packed.manifest);
    let error = pack::verify(&manifest, &source, &|_| {}).unwrap_err();
    assert!(
        error.kind() == FaultKind::DigestMismatch && error.to_string().contains("stored bytes"),
        "{error}"
    );
    let error = pack::unpack(&manifest, &source, &home.path().join("disk"), &|_| {}).unwrap_err();
    assert_eq!(error.kind(), FaultKind::DigestMismatch, "{error}");
    assert!(!home.path().join("disk").exists());
    fs::write(&chunks, &good[..good.len() - 1]).unwrap();
    assert_eq!(DirSource::open(&folder).err().unwrap().kind(), FaultKind::Truncated);
    fs::write(&chunks, [&good[..], &[0]].concat()).unwrap();
    assert_eq!(DirSource::open(&folder).err().unwrap().kind(), FaultKind::UnsupportedImage);
}

#[test]
fn a_layout_is_the_same_image() {
    let home = tempfile::tempdir().unwrap();
    let disk = gpt_image(3 * MIB);
    let mut digests = Vec::new();
    for name in ["1", "2"] {
        let (folder, layout) = (home.path().join("pack"), home.path().join(name));
        let packed = pack_bytes(&disk, &folder, &small()).unwrap();
        digests.push(pack::oci::into_layout(&folder, &layout).unwrap());
        assert!(!folder.exists());
        let (manifest, source) = pack::oci::open_layout(&layout).unwrap();
        assert_eq!(manifest, packed.manifest);
        pack::verify(&manifest, &source, &|_| {}).unwrap();
        // Whatever is named by a digest has it.
        for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let digest = Digest::sha256_of(&fs::read(blob.path()).unwrap()).to_string();
            assert_eq!(digest, format!("sha256:{}", blob.file_name().to_str().unwrap()));
        }
    }
    assert_eq!(digests[0], digests[1]);
    let index = home.path().join("1/index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("sha256:", "sha256:../")).unwrap();
    assert_eq!(
        pack::oci::open_layout(&home.path().join("1")).err().unwrap().kind(),
        FaultKind::UnsupportedImage
    );
}

#[test]
fn two_images_are_compared_by_their_manifests() {
    let home = tempfile::tempdir().unwrap();
    let first = gpt_image(4 * MIB);
    let mut second = first.clone();
    second[2 * MIB] ^= 1;
    second[3 * MIB..3 * MIB + 128 * 1024].fill(0);
    let one = pack_bytes(&first, &home.path().join("1"), &small()).unwrap().manifest;
    let two = pack_bytes(&second, &home.path().join("2"), &small()).unwrap().manifest;
    let difference = pack::difference(&one, &two);
    assert_eq!(
        (difference.changed_chunks, difference.zeroed_chunks, difference.same_chunks),
        (1, 2, 61)
    );
    let length = two.chunk(32).unwrap().length;
    assert_eq!((difference.fetch_bytes, difference.write_bytes), (length.into(), 64 << 10));
    let none = pack::difference(&two, &two);
    assert_eq!((none.fetch_bytes, none.same_chunks), (0, 64));
}

#[test]
fn a_disk_is_held_against_the_image() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("pack");
    let stored = gpt_image(8 * MIB);
    pack_bytes(&stored, &folder, &small()).unwrap();
    let (manifest, source) = DirSource::open(&folder).unwrap();
    let disk = sim(used_disk(16 * MIB));
    write(&stored, None, &disk, &request(false)).unwrap();
    let medium = disk.contents();
    let compare = |bytes: Vec<u8>| pack::compare_disk(&manifest, &source, &sim(bytes), &|_| {}).unwrap();
    let same = compare(medium.clone());
    assert_eq!(
        (same.differing_chunks, same.read_bytes, same.left_out.len()),
        (0, 8 * MIB as u64, 2)
    );
    // In a chunk of data, in one of zeros, and in the first one behind the first sectors.
    for at in [5 * MIB + 7, MIB + 64 * 1024, 30_000] {
        let mut other = medium.clone();
        other[at] ^= 1;
        let found = compare(other);
        let chunk = (at / 65_536 * 65_536) as u64;
        assert_eq!(found.differing_chunks, 1);
        assert_eq!(found.differing.first(), Some(&(chunk..chunk + 65_536)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any layout of data and zeros on a disk of any length comes back as it was.
    #[test]
    fn any_sparse_image_comes_back(
        length in 1usize..1_500_000,
        extents in proptest::collection::vec((0usize..1_500_000, 1usize..150_000, any::<u64>()), 0..12),
        shift in 16u32..20,
        compress in any::<bool>(),
    ) {
        let mut disk = vec![0; length];
        // No partition table, and nothing that looks like another format.
        for (at, count, seed) in extents {
            let at = (at % length).max(1024.min(length));
            let count = count.min(length - at);
            let content = if seed % 3 == 0 { vec![seed as u8; count] } else { noise(count, seed) };
            disk[at..at + count].copy_from_slice(&content);
        }
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("pack");
        let stored = if compress { gzipped(&disk) } else { disk.clone() };
        let options = PackOptions { chunk_size: ChunkSize::Exactly(1 << shift), workers: Some(3), level: 1, ..PackOptions::default() };
        let packed = pack_bytes(&stored, &folder, &options).unwrap();
        prop_assert_eq!(packed.manifest.sector_bytes(), None);
        prop_assert!(unpacked(&folder) == disk);
    }
}
