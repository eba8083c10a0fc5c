//! The document about packed images is enough to read one: a reader that was written from it alone (`tests/packed-image/reader.py`) gets the
//! same bytes, and refuses what is damaged.
#![allow(missing_docs)]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::*;
use image::pack::{self, ChunkSize, DirSource, Manifest, PackOptions};
use image::{Digest, MemorySource};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/packed-image")
}

fn read_elsewhere(packed: &Path, disk: &Path, name: Option<&str>) -> Output {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(folder().join("reader.py")).arg(packed).arg(disk).args(name);
    command.output().expect("python3 is there")
}

fn pack(disk: &[u8], folder: &Path) -> Manifest {
    let source = MemorySource::new("test image", disk);
    let image = image::open(Box::new(source), &Digest::sha256_of(disk), None, &pack::packing_limit()).unwrap();
    let options = PackOptions {
        chunk_size: ChunkSize::Exactly(64 << 10),
        ..PackOptions::default()
    };
    pack::pack(image, folder, &options, &mut |_| ControlFlow::Continue(()))
        .unwrap()
        .manifest
}

/// The disk of the vector in the document: what it says of it, in code.
fn vector() -> Vec<u8> {
    let mut disk = vec![0; 300_000];
    for (at, byte) in disk[65_536..131_072].iter_mut().enumerate() {
        *byte = (at % 251) as u8;
    }
    disk.copy_within(65_536..131_072, 196_608);
    disk[299_990..].copy_from_slice(b"0123456789");
    disk
}

#[test]
fn an_independent_reader_gets_the_same_disk() {
    let home = tempfile::tempdir().unwrap();
    let mut with_table = vec![0; 256 << 10];
    add_gpt(&mut with_table, &[(40, 400)], 512);
    let disks = [with_table, bare_image(100_001), vector(), vec![0; 70_000]];
    for (place, disk) in disks.iter().enumerate() {
        let (packed, out) = (home.path().join(place.to_string()), home.path().join("disk"));
        let name = pack(disk, &packed).digest().to_string();
        let output = read_elsewhere(&packed, &out, Some(&name));
        assert!(output.status.success(), "{place}: {output:?}");
        assert!(fs::read(&out).unwrap() == *disk, "{place}");
        let output = read_elsewhere(&packed, &out, Some("blake3:00"));
        assert!(!output.status.success(), "{place}: a wrong name was taken");
    }
}

#[test]
fn both_readers_refuse_the_same_damage() {
    let home = tempfile::tempdir().unwrap();
    let (packed, out) = (home.path().join("pack"), home.path().join("disk"));
    pack(&vector(), &packed);
    let (manifest, chunks) = (packed.join(pack::MANIFEST_FILE), packed.join(pack::CHUNKS_FILE));
    let (text, frames) = (fs::read_to_string(&manifest).unwrap(), fs::read(&chunks).unwrap());
    let mut flipped = frames.clone();
    flipped[frames.len() / 2] ^= 1;
    let longer = [frames.as_slice(), b"x"].concat();
    for (what, text, frames) in [
        ("a flipped byte", text.clone(), flipped),
        ("a byte too few", text.clone(), frames[..frames.len() - 1].to_vec()),
        ("a byte too many", text.clone(), longer),
        ("another spelling", text.replace(",\"version\"", ", \"version\""), frames.clone()),
        ("another version", text.replace("\"version\":1", "\"version\":2"), frames.clone()),
        (
            "one more member",
            text.replace("\"version\":1", "\"version\":1,\"more\":1"),
            frames.clone(),
        ),
        (
            "a shorter disk",
            text.replace("\"diskBytes\":300000", "\"diskBytes\":262144"),
            frames.clone(),
        ),
        (
            "a frame that begins elsewhere",
            text.replacen("\"offset\":0", "\"offset\":1", 1),
            frames.clone(),
        ),
        (
            "chunks of another size",
            text.replace("\"chunkBytes\":65536", "\"chunkBytes\":65537"),
            frames.clone(),
        ),
    ] {
        fs::write(&manifest, text).unwrap();
        fs::write(&chunks, frames).unwrap();
        let output = read_elsewhere(&packed, &out, None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("refused"), "{what}: {output:?}");
        let ours = DirSource::open(&packed).and_then(|(manifest, source)| pack::verify(&manifest, &source, &|_| {}));
        assert!(ours.is_err(), "{what} was taken");
    }
}

#[test]
fn the_vector_of_the_document_is_read_by_both() {
    let (home, packed) = (tempfile::tempdir().unwrap(), folder().join("vector"));
    let (manifest, source) = DirSource::open(&packed).unwrap();
    let document = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/packed-image.md")).unwrap();
    let name = manifest.digest().to_string();
    assert!(document.contains(&name), "the document names another one than {name}");
    let out = home.path().join("ours");
    pack::unpack(&manifest, &source, &out, &|_| {}).unwrap();
    assert!(fs::read(&out).unwrap() == vector());
    let out = home.path().join("theirs");
    let output = read_elsewhere(&packed, &out, Some(&name));
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(&out).unwrap() == vector());
    // By the same Zstandard, packing gives the very bytes.
    let again = home.path().join("again");
    let packed_again = pack(&vector(), &again);
    if packed_again.packer() == manifest.packer() {
        assert_eq!(packed_again, manifest);
        assert!(fs::read(again.join(pack::CHUNKS_FILE)).unwrap() == fs::read(packed.join(pack::CHUNKS_FILE)).unwrap());
    }
}
