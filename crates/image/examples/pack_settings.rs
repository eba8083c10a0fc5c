//! Chunk size and compression level of packed images, by measurement: `pack_settings IMAGE [SIZE-KiB,... [LEVEL,...]]`.
//!
//! Every chunk of the image that is not all zeros is compressed and decompressed in one thread with each setting. Times are processor time,
//! so that a busy machine does not blur them: wall time is that by the number of cores. Stored bytes are without frames that occur twice.
#![allow(missing_docs, clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::HashSet;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;

use image::pack::{self, DirSource, PackOptions};
use image::{Digest, FileSource};
use rustix::time::{ClockId, clock_gettime};

fn seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn numbers(text: Option<&String>, default: &str) -> Result<Vec<usize>, Box<dyn Error>> {
    let text = text.map_or(default, String::as_str);
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = arguments.first().ok_or("which image?")?;
    let sizes = numbers(arguments.get(1), "256,512,1024,2048,4096")?;
    let levels = numbers(arguments.get(2), "1,3,6,9,12")?;

    // Through a pack of small chunks to a sparse file: any format is taken.
    let home = tempfile::tempdir_in(".")?;
    let digest = Digest::sha256_of(&std::fs::read(path)?);
    let image = image::open(Box::new(FileSource::open(path.as_ref())?), &digest, None, &pack::packing_limit())?;
    let options = PackOptions {
        level: 1,
        ..PackOptions::default()
    };
    let folder = home.path().join("pack");
    let manifest = pack::pack(image, &folder, &options, &mut |_| std::ops::ControlFlow::Continue(()))?.manifest;
    let raw = home.path().join("raw");
    pack::unpack(&manifest, &DirSource::open(&folder)?.1, &raw, &|_| {})?;
    let raw = File::open(raw)?;

    println!(
        "| chunk | level | chunks | plain MiB | stored MiB | compress s | decompress s | decompress MiB/s | MiB fetched after a change in each 4 MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for size in sizes {
        for &level in &levels {
            measure(&raw, manifest.disk_bytes(), size * 1024, level as i32)?;
        }
    }
    Ok(())
}

fn measure(raw: &File, disk_bytes: u64, size: usize, level: i32) -> Result<(), Box<dyn Error>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    let (mut plain, mut back, mut stored) = (vec![0; size], vec![0; size], Vec::with_capacity(size * 2));
    let (mut chunks, mut bytes, mut stored_bytes, mut compress, mut decompress) = (0u64, 0u64, 0u64, 0.0, 0.0);
    let mut seen = HashSet::new();
    let mut at = 0;
    while at < disk_bytes {
        let length = size.min((disk_bytes - at) as usize);
        raw.read_exact_at(&mut plain[..length], at)?;
        at += length as u64;
        let plain = &plain[..length];
        if image::device::is_zero(plain) {
            continue;
        }
        let start = seconds();
        stored.clear();
        compressor.compress_to_buffer(plain, &mut stored)?;
        let middle = seconds();
        let count = decompressor.decompress_to_buffer(&stored, &mut back)?;
        decompress += seconds() - middle;
        compress += middle - start;
        assert!(back[..count] == *plain, "what was compressed comes back");
        chunks += 1;
        bytes += length as u64;
        if seen.insert(blake3::hash(&stored)) {
            stored_bytes += stored.len() as u64;
        }
    }
    let mebi = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    // One small change in each 4 MiB of data touches so many chunks.
    let touched = (bytes as f64 / 4_194_304.0).min(chunks as f64) / chunks as f64;
    println!(
        "| {} KiB | {level} | {chunks} | {:.1} | {:.1} | {compress:.1} | {decompress:.2} | {:.0} | {:.1} |",
        size / 1024,
        mebi(bytes),
        mebi(stored_bytes),
        mebi(bytes) / decompress,
        mebi(stored_bytes) * touched
    );
    Ok(())
}
