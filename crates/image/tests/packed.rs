//! Writing packed images: what arrives, what is fetched again after an interruption and between two versions, and what a source
//! of bad manners brings about.
#![allow(missing_docs)]

mod common;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::pack::{CHUNK, Pack};
use common::*;
use image::device::ZeroMethod;
use image::device::sim::{Faults, SimDisk};
use image::{BlockDevice, FaultKind};

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
            // In flight: what was fetched ahead and what the threads held, and a segment that was not durable yet, with one being made durable. The
            // first MiB is zeroed.
            let in_flight = 8 * (256 << 10) + 4 * CHUNK as u64 + 2 * (256 << 10) + (MIB + CHUNK) as u64;
            assert!(
                first + again <= total + total * 3 / 100 + in_flight,
                "cut before {cut}: {first} + {again} of {total}"
            );
            turns += 1;
        }
    }
    assert!(turns >= 20, "{turns} turns");
}

/// Counts what was written and is not durable; its flushes take long.
struct SlowFlushes {
    disk: SimDisk,
    volatile: AtomicU64,
    most: AtomicU64,
}

impl BlockDevice for SlowFlushes {
    fn name(&self) -> &str {
        "slow flushes"
    }

    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write_at(offset, data)?;
        let volatile = self.volatile.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
        self.most.fetch_max(volatile, Ordering::Relaxed);
        Ok(())
    }

    fn zero_range(&self, offset: u64, length: u64, method: ZeroMethod) -> io::Result<()> {
        self.disk.zero_range(offset, length, method)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        let before = self.volatile.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(25));
        self.disk.flush()?;
        self.volatile.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_disk_that_flushes_slowly_has_no_more_to_lose() {
    let image = gpt_image(16 * MIB);
    let pack = Pack::new(&image);
    let disk = SlowFlushes {
        disk: sim(used_disk(20 * MIB)),
        volatile: AtomicU64::new(0),
        most: AtomicU64::new(0),
    };
    let request = busy(true);
    let segment = request.tuning.segment_bytes.unwrap();
    pack.write(&disk, &request).unwrap();
    assert_written(&image, &disk.disk);
    let most = disk.most.load(Ordering::Relaxed);
    // One segment that is being made durable, most of another one, and of each thread a chunk that made either longer.
    let bound = 2 * segment + 4 * 2 * CHUNK as u64;
    assert!(most <= bound, "{most} bytes were volatile at once, more than {bound}");
    assert!(most > segment, "{most} bytes: nothing was written while a flush was under way");
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
fn a_frame_that_holds_something_else_than_the_manifest_says_is_the_image_s_fault() {
    let mut image = gpt_image(6 * MIB);
    // A chunk that is written in one piece, one with a hole that is zeroed by itself, and the one with the image's own backup table.
    let (whole, holed, last) = (3 * MIB / CHUNK, 4 * MIB / CHUNK, image.len() / CHUNK - 1);
    let chunk_bytes = 2 * CHUNK;
    image[holed * CHUNK + CHUNK..(holed + 2) * CHUNK].fill(0);
    for place in [whole, holed, last] {
        let index = (place * CHUNK / chunk_bytes) as u32;
        let pack = Pack::altered(&image, chunk_bytes, |chunk| {
            if chunk.index == index {
                chunk.plain = blake3::hash(b"something else");
            }
        });
        let disk = sim(used_disk(8 * MIB));
        let error = pack.write(&disk, &busy(true)).unwrap_err();
        assert_eq!(error.kind(), FaultKind::DigestMismatch, "{error}");
        assert!(error.to_string().contains(&format!("chunk {index} (plain bytes)")), "{error}");
        assert!(disk.contents()[510..512] != [0x55, 0xaa], "the disk does not boot");
    }
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
