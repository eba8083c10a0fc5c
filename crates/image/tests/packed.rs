//! Writing packed images: what arrives, what is fetched again after an interruption and between two versions, and what a source or a disk
//! of bad manners brings about.
#![allow(missing_docs)]

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use common::*;
use image::device::sim::{Faults, SimDisk};
use image::pack::{Chunk, ChunkSource, Manifest, Origin, Packer};
use image::{BlockDevice, Evidence, FaultKind, Format, ImageError, Tuning, WriteRequest, marker};
use proptest::prelude::*;

const CHUNK: usize = 64 << 10;

/// A packed image in memory that counts what is asked of it, and may flip a byte of its answers a few times.
struct Pack {
    manifest: Manifest,
    stored: Vec<u8>,
    fetched: AtomicU64,
    damaged_answers: AtomicUsize,
}

impl Pack {
    fn new(image: &[u8]) -> Self {
        let (mut stored, mut chunks) = (Vec::new(), Vec::<Chunk>::new());
        for (index, plain) in image.chunks(CHUNK).enumerate() {
            if plain.iter().all(|&byte| byte == 0) {
                continue;
            }
            let frame = zstd::bulk::compress(plain, 1).unwrap();
            let digest = blake3::hash(&frame);
            let known = chunks.iter().find(|chunk| chunk.stored == digest).map(|chunk| chunk.offset);
            chunks.push(Chunk {
                index: index as u32,
                offset: known.unwrap_or(stored.len() as u64),
                length: frame.len() as u32,
                stored: digest,
                plain: blake3::hash(plain),
            });
            if known.is_none() {
                stored.extend(frame);
            }
        }
        let origin = Origin {
            format: Format::Raw,
            digest: image::Digest::sha256_of(image).to_string(),
        };
        let packer = Packer {
            zstd: "1.5.7".to_owned(),
            level: 1,
        };
        let manifest = Manifest::new(image.len() as u64, 0, CHUNK as u32, origin, packer, chunks).unwrap();
        Self {
            manifest,
            stored,
            fetched: AtomicU64::new(0),
            damaged_answers: AtomicUsize::new(0),
        }
    }

    fn write(&self, disk: &dyn BlockDevice, request: &WriteRequest) -> Result<Evidence, ImageError> {
        image::write_packed(&self.manifest, self, disk, request, &mut |_| ControlFlow::Continue(()))
    }

    /// Bytes asked for since the last call.
    fn take_fetched(&self) -> u64 {
        self.fetched.swap(0, Ordering::Relaxed)
    }

    /// The longest stored chunk.
    fn longest(&self) -> u64 {
        self.manifest
            .chunks()
            .iter()
            .map(|chunk| u64::from(chunk.length))
            .max()
            .unwrap_or(0)
    }
}

impl ChunkSource for Pack {
    fn name(&self) -> &str {
        "a packed image in memory"
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.stored[start..start + buffer.len()]);
        self.fetched.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        let damage = |left: usize| left.checked_sub(1);
        if self
            .damaged_answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, damage)
            .is_ok()
        {
            buffer[0] ^= 1;
        }
        Ok(())
    }
}

/// Threads as on a real machine, and durable in small steps.
fn busy(config_drive: bool) -> WriteRequest {
    WriteRequest {
        tuning: Tuning {
            workers: Some(4),
            segment_bytes: Some(256 << 10),
            overlap: Some(true),
        },
        ..request(config_drive)
    }
}

fn assert_written(image: &[u8], disk: &SimDisk) {
    let contents = disk.contents();
    assert_eq!(disk.pending_writes(), 0, "everything is durable");
    assert_eq!(disk.cached_reads(), 0, "nothing was verified out of the cache");
    assert!(contents[..440] == image[..440], "the boot code");
    let end = image.len() - 33 * 512;
    assert!(contents[34 * 512..end] == image[34 * 512..end], "the image's data");
    assert!(gpt_is_valid(&contents, 1, 512));
    assert!(gpt_is_valid(&contents, contents.len() / 512 - 1, 512));
}

#[test]
fn it_arrives_like_any_other_image() {
    let image = gpt_image(6 * MIB);
    let pack = Pack::new(&image);
    let disk = sim(used_disk(8 * MIB));
    let evidence = pack.write(&disk, &busy(true)).unwrap();
    assert_written(&image, &disk);
    let streamed = sim(used_disk(8 * MIB));
    write(&image, None, &streamed, &request(true)).unwrap();
    assert!(disk.contents()[..6 * MIB] == streamed.contents()[..6 * MIB]);
    assert_eq!(evidence.format, "packed");
    assert_eq!(evidence.image_digest, pack.manifest.digest().to_string());
    assert_eq!((evidence.reused_bytes, evidence.stored_bytes), (0, pack.manifest.stored_bytes()));
    assert_eq!(evidence.written_digest, evidence.read_back_digest);
    assert!(evidence.verified_bytes >= image.len() as u64);
    assert!(evidence.zeroed_bytes >= 256 * 1024, "the hole is zeroed");
}

#[test]
fn a_second_time_only_the_first_chunk_is_fetched() {
    let image = gpt_image(6 * MIB);
    let pack = Pack::new(&image);
    let disk = sim(used_disk(8 * MIB));
    pack.write(&disk, &busy(true)).unwrap();
    pack.take_fetched();
    let evidence = pack.write(&disk, &busy(true)).unwrap();
    assert_written(&image, &disk);
    // The first MiB is zeroed before anything else, and the image's own backup table never is on the disk.
    let ends = (MIB / CHUNK + 1) as u64 * pack.longest();
    assert!(pack.take_fetched() <= ends, "{evidence:?}");
    assert!(evidence.reused_bytes >= 4 * MIB as u64, "{evidence:?}");
    assert_eq!(evidence.written_digest, evidence.read_back_digest);
}

#[test]
fn from_one_version_to_the_next_only_what_differs_is_fetched() {
    let old = gpt_image(6 * MIB);
    let mut new = old.clone();
    // Of the disk's chunks behind the first MiB, every sixteenth, and a hole that was none before.
    let changed: Vec<usize> = (2 * MIB / CHUNK..5 * MIB / CHUNK).step_by(16).collect();
    for &chunk in &changed {
        put(&mut new, chunk * CHUNK + 100, b"changed");
    }
    new[5 * MIB..5 * MIB + 128 * 1024].fill(0);
    let disk = sim(used_disk(8 * MIB));
    Pack::new(&old).write(&disk, &busy(true)).unwrap();
    let pack = Pack::new(&new);
    pack.write(&disk, &busy(true)).unwrap();
    assert_written(&new, &disk);
    let most = (MIB / CHUNK + 1 + changed.len()) as u64 * pack.longest();
    assert!(pack.take_fetched() <= most);
}

#[test]
fn a_stranger_s_disk_costs_a_look_and_no_more() {
    let image = gpt_image(6 * MIB);
    let pack = Pack::new(&image);
    let disk = sim(noise(8 * MIB, 99));
    let evidence = pack.write(&disk, &busy(false)).unwrap();
    assert_eq!(evidence.reused_bytes, 0);
    assert_eq!(pack.take_fetched(), pack.manifest.stored_bytes());
}

#[test]
fn after_a_cut_what_was_durable_is_not_fetched_again() {
    let image = gpt_image(16 * MIB);
    let pack = Pack::new(&image);
    let mut request = busy(true);
    request.tuning.workers = Some(2);
    let whole = sim(used_disk(20 * MIB));
    pack.write(&whole, &request).unwrap();
    let operations = whole.operations();
    let total = pack.take_fetched();
    let mut turns = 0;
    for cut in (operations / 10..operations).step_by((operations / 24).max(1)) {
        let faults = Faults {
            cut_before: Some(cut),
            ..Faults::default()
        };
        let disk = SimDisk::new(used_disk(20 * MIB), 512, faults);
        if pack.write(&disk, &request).is_ok() {
            // With several threads the number of operations differs from run to run.
            continue;
        }
        let first = pack.take_fetched();
        for survives in [false, true] {
            let after = sim(disk.after_cut(|write, sector| survives && (write * 7 + sector) % 3 > 0));
            pack.write(&after, &request).unwrap();
            assert_written(&image, &after);
            let again = pack.take_fetched();
            // In flight: what the threads held, and a segment that was not durable yet, with one being made durable. The first MiB is zeroed.
            let in_flight = 2 * (2 << 20) + 2 * (256 << 10) + (MIB + CHUNK) as u64;
            assert!(
                first + again <= total + total * 3 / 100 + in_flight,
                "cut before {cut}: {first} + {again} of {total}"
            );
            turns += 1;
        }
    }
    assert!(turns >= 20, "{turns} turns");
}

#[test]
fn a_damaged_answer_is_fetched_again_and_a_damaged_source_is_a_fault() {
    let image = gpt_image(3 * MIB);
    let pack = Pack::new(&image);
    pack.damaged_answers.store(2, Ordering::Relaxed);
    let disk = sim(used_disk(4 * MIB));
    pack.write(&disk, &busy(false)).unwrap();
    assert_written(&image, &disk);

    pack.damaged_answers.store(usize::MAX, Ordering::Relaxed);
    let before = used_disk(4 * MIB);
    let disk = sim(before.clone());
    let error = pack.write(&disk, &busy(false)).unwrap_err();
    assert_eq!(error.kind(), FaultKind::DigestMismatch, "{error}");
    assert!(error.to_string().contains("chunk 0"), "{error}");
    assert!(disk.contents() == before, "the first chunk decides before anything is written");
}

#[test]
fn a_wrong_sector_size_or_a_small_disk_is_refused_untouched() {
    let image = gpt_image(3 * MIB);
    let pack = Pack::new(&image);
    for (disk, kind) in [
        (
            SimDisk::new(used_disk(4 * MIB), 4096, Faults::default()),
            FaultKind::SectorSizeMismatch,
        ),
        (sim(used_disk(2 * MIB)), FaultKind::TooLarge),
    ] {
        let before = disk.contents();
        assert_eq!(pack.write(&disk, &busy(false)).unwrap_err().kind(), kind);
        assert!(disk.contents() == before);
    }
}

/// Everything that may be wrong with a disk.
fn faults() -> impl Strategy<Value = Faults> {
    let operation = 0..60usize;
    prop_oneof![
        Just(Faults::default()),
        any::<u64>().prop_map(|seed| Faults {
            short_calls: Some(seed),
            ..Faults::default()
        }),
        (operation.clone(), prop_oneof![Just(5), Just(28)]).prop_map(|failing| Faults {
            failing: Some(failing),
            ..Faults::default()
        }),
        operation.prop_map(|lost| Faults {
            lost: Some(lost),
            ..Faults::default()
        }),
        (0..4 * MIB as u64).prop_map(|byte| Faults {
            corrupt_byte: Some(byte),
            ..Faults::default()
        }),
        (0..60usize).prop_map(|cut| Faults {
            cut_before: Some(cut),
            ..Faults::default()
        }),
        Just(Faults {
            zeroing_lies: true,
            ..Faults::default()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the image and whatever the disk does: the disk is right, or it is an error and the disk does not boot.
    #[test]
    fn right_or_unbootable(
        length in 1_200_000..3_500_000usize,
        holes in prop::collection::vec((0..3_500_000usize, 1..700_000usize), 0..8),
        seed in any::<u64>(),
        workers in 1..5usize,
        packed in any::<bool>(),
        large_sectors in any::<bool>(),
        faults in faults(),
    ) {
        let mut image = noise(length, seed | 1);
        // No partition table, which fits any sector size.
        image[..1024].fill(0);
        for (start, size) in holes {
            let start = start.min(length);
            image[start..(start + size).min(length)].fill(0);
        }
        put(&mut image, 510, &[0x55, 0xaa]);
        let mut request = busy(false);
        request.tuning.workers = Some(workers);
        let disk = SimDisk::new(noise(4 * MIB, seed ^ 5), if large_sectors { 4096 } else { 512 }, faults.clone());
        let result = if packed {
            Pack::new(&image).write(&disk, &request)
        } else {
            write(&image, None, &disk, &request)
        };
        let medium = disk.after_cut(|_, _| false);
        match result {
            Ok(evidence) => {
                // A medium that shows other bytes than it holds is right in what it holds.
                prop_assert!(medium[..length] == image[..], "success, but the disk is another one: {faults:?} {evidence:?}");
                prop_assert_eq!(disk.cached_reads(), 0);
                prop_assert_eq!(evidence.written_digest, evidence.read_back_digest);
            }
            Err(error) => {
                prop_assert!(matches!(error.kind(), FaultKind::DiskIo | FaultKind::VerifyMismatch), "{error}");
                let untouched = medium[..] == noise(4 * MIB, seed ^ 5)[..];
                prop_assert!(untouched || marker::decode(&medium).is_some(), "{error}: neither untouched nor marked");
            }
        }
    }
}
