//! Bounds: no input makes a parser panic, and none makes the way from source to disk use more than 80 MiB, measured by an
//! allocator that counts. (One test does both in turn: the count is of the whole process. C libraries allocate outside of it, so
//! the resident size is held against the same bound.)
#![allow(missing_docs, unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use common::*;
use image::{Digest, Disk, FileSource, Limit, MemorySource, WriteRequest};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BOUND: usize = 80 << 20;

/// Runs and says by how much the heap grew at most.
fn peak_of<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = run();
    (result, PEAK.load(Ordering::Relaxed).saturating_sub(before))
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Opens and drains; the outcome does not matter, the bounds do.
fn try_image(stored: Vec<u8>, limit: u64) {
    struct Nowhere {
        pool: image::Pool,
        came: AtomicU64,
    }
    impl image::decode::ExtentSink for Nowhere {
        fn block(&self) -> Result<image::Block, image::ImageError> {
            self.pool.take()
        }
        fn data(&self, _: u64, block: image::Block) -> Result<(), image::ImageError> {
            self.zero(0, block.len() as u64)
        }
        fn zero(&self, _: u64, length: u64) -> Result<(), image::ImageError> {
            self.came.fetch_add(length, Ordering::Relaxed);
            Ok(())
        }
    }
    let digest = Digest::sha256_of(&stored);
    let limit = Limit {
        bytes: limit,
        disk: "disk".to_owned(),
    };
    if let Ok(opened) = image::open(Box::new(MemorySource::new("fuzz", stored)), &digest, None, &limit) {
        let sink = Nowhere {
            pool: image::Pool::new(2),
            came: AtomicU64::new(0),
        };
        let copied = opened.copy_to(&sink);
        let came = sink.came.into_inner();
        if let Ok(copied) = copied {
            assert_eq!(came, copied.image_bytes, "every byte is covered once");
        }
        assert!(came <= limit.bytes);
    }
}

/// A small qcow2 image by hand: header, L1 and L2 with given entries, and some clusters.
fn qcow2(version: u32, cluster_bits: u32, size: u64, l2: &[u64]) -> Vec<u8> {
    let cluster = 1usize << cluster_bits;
    let mut file = vec![0; 8 * cluster];
    put(&mut file, 0, b"QFI\xfb");
    put(&mut file, 4, &version.to_be_bytes());
    put(&mut file, 20, &cluster_bits.to_be_bytes());
    put(&mut file, 24, &size.to_be_bytes());
    put(&mut file, 36, &4u32.to_be_bytes());
    put(&mut file, 40, &(cluster as u64).to_be_bytes());
    put(&mut file, 96, &4u32.to_be_bytes());
    put(&mut file, 100, &104u32.to_be_bytes());
    put(&mut file, cluster, &(2 * cluster as u64).to_be_bytes());
    for (index, entry) in l2.iter().take(cluster / 8).enumerate() {
        put(&mut file, 2 * cluster + index * 8, &entry.to_be_bytes());
    }
    file[3 * cluster..].fill(0x5a);
    file
}

#[test]
fn any_input_stays_within_bounds() {
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let entry = prop_oneof![
        Just(0u64),
        Just(1),
        any::<u64>(),
        (0u64..9).prop_map(|n| n << 12),
        (0u64..9).prop_map(|n| 1 << 62 | n << 12)
    ];
    let table = (2u32..4, 8u32..23, 0u64..1 << 22, prop::collection::vec(entry, 0..64));
    let ((), peak) = peak_of(|| {
        runner
            .run(
                &(table, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)),
                |((version, bits, size, l2), flips)| {
                    let mut file = qcow2(version, bits, size, &l2);
                    for (index, value) in flips {
                        // Mostly in the header and the tables.
                        let at = index.index(file.len().min(3 << bits.min(12)));
                        file[at] = value;
                    }
                    try_image(file, 1 << 23);
                    Ok(())
                },
            )
            .unwrap();
    });
    assert!(peak < BOUND, "{peak} bytes for qcow2");

    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let magic = prop_oneof![
        Just(&b"QFI\xfb\0\0\0\x03"[..]),
        Just(&b"QFI\xfb\0\0\0\x02"[..]),
        Just(&b"\x1f\x8b\x08"[..]),
        Just(&b"\xfd7zXZ\0\0\x04"[..]),
        Just(&b"\x28\xb5\x2f\xfd"[..]),
        Just(&b""[..]),
    ];
    let ((), peak) = peak_of(|| {
        runner
            .run(&(magic, prop::collection::vec(any::<u8>(), 0..5000)), |(magic, rest)| {
                let stored = [magic, &rest].concat();
                image::table::Table::parse(&stored).ok();
                image::marker::decode(&stored);
                try_image(stored, 1 << 22);
                Ok(())
            })
            .unwrap();
    });
    assert!(peak < BOUND, "{peak} bytes for anything");

    // Tables that are asked for but not there cost nothing: the largest disk that a first-level table may describe.
    let (_, peak) = peak_of(|| try_image(qcow2(3, 16, 64 << 40, &[]), u64::MAX));
    assert!(peak < 16 << 20, "{peak} bytes for a table that is not there");

    // The whole way with the largest windows, from file to file.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let mut image = gpt_image(2 * MIB);
    image.resize(100 * MIB, 0);
    let mut window = zstd::Encoder::new(std::fs::File::create(path("image.zst")).unwrap(), 1).unwrap();
    window.window_log(26).unwrap();
    window.write_all(&image).unwrap();
    window.finish().unwrap();
    drop(image);
    let stored = std::fs::read(path("image.zst")).unwrap();
    let digest = Digest::sha256_of(&stored);
    drop(stored);
    std::fs::File::create(path("disk")).unwrap().set_len(128 << 20).unwrap();
    let disk = Disk::open(&path("disk")).unwrap();
    let (evidence, peak) = peak_of(|| {
        let source = FileSource::open(&path("image.zst")).unwrap();
        let opened = image::open(Box::new(source), &digest, None, &image::limit_of(&disk)).unwrap();
        image::write_image(opened, &disk, &WriteRequest::default(), &mut |_| ControlFlow::Continue(())).unwrap()
    });
    assert_eq!(evidence.image_bytes, 100 << 20);
    // The Zstandard library's 64 MiB are not in the count.
    assert!(peak + (64 << 20) < BOUND, "{peak} bytes besides the window");
    eprintln!(
        "heap besides C libraries: {peak} bytes; resident at most, fixtures included: {} bytes",
        resident()
    );
}
