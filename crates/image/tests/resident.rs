//! Resident memory of the whole way from a stored image to a disk, C libraries and all, for every format and a large sparse image.
//!
//! `SPARSE_GIB` says how large: a quarter of one by default, 64 in `make test-image-memory`. Each image is written by a process of its own,
//! on all processors and on one, and the peak is what the kernel counted for that process.
#![allow(missing_docs)]

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use image::{Digest, Disk, FileSource, WriteRequest};

/// The image is so many bytes again and again.
const UNIT: u64 = 256 << 20;
const BOUND: u64 = 128 << 20;

/// A unit with a MiB of data in every 32.
fn one_unit(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(UNIT).unwrap();
    let mut state = 88_172_645_463_325_252u64;
    for part in 0..8 {
        let mut data = Vec::with_capacity(1 << 20);
        while data.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend_from_slice(&state.to_le_bytes());
        }
        // Nothing that looks like a partition table or a compressed stream.
        file.write_all_at(&data, part * (32 << 20) + (1 << 20)).unwrap();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(
        status
            .unwrap_or_else(|error| panic!("this test needs {program}: {error}"))
            .success()
    );
}

/// Writes the image that `RESIDENT_IMAGE` names, or else a small one, and tells the peak of this process.
#[test]
fn one_image_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let image = std::env::var_os("RESIDENT_IMAGE").map_or_else(
        || {
            let small = folder.path().join("small");
            std::fs::write(&small, vec![0x5a; 3 << 20]).unwrap();
            small
        },
        Into::into,
    );
    let mut hasher = Digest::sha256_of(b"").hasher();
    let mut file = File::open(&image).unwrap();
    let mut buffer = vec![0; 1 << 20];
    while let count @ 1.. = file.read(&mut buffer).unwrap() {
        hasher.update(&buffer[..count]);
    }
    let target = folder.path().join("disk");
    let size = std::env::var("RESIDENT_DISK").map_or(8 << 20, |size| size.parse().unwrap());
    File::create(&target).unwrap().set_len(size).unwrap();
    let disk = Disk::open(&target).unwrap();
    let source = FileSource::open(&image).unwrap();
    let opened = image::open(Box::new(source), &hasher.finish(), None, &image::limit_of(&disk)).unwrap();
    let evidence = image::write_image(opened, &disk, &WriteRequest::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(evidence.written_digest, evidence.read_back_digest);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak = line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024;
    eprintln!("peak={peak} image={} seconds={:.1}", evidence.image_bytes, evidence.seconds);
    assert!(peak <= BOUND, "{peak} bytes resident");
}

/// The same in a process of its own; with `only_one`, on one processor.
fn write_apart(image: &Path, disk: u64, only_one: bool) -> String {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(if only_one { Path::new("taskset") } else { &program });
    if only_one {
        // Whichever this thread may run on: the first of those.
        let allowed = std::fs::read_to_string("/proc/self/status").unwrap();
        let list = allowed
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .unwrap()
            .trim();
        let first: String = list.chars().take_while(char::is_ascii_digit).collect();
        command.args(["-c", &first]).arg(&program);
    }
    command.args(["--exact", "one_image_is_written", "--nocapture"]);
    let output = command
        .env("RESIDENT_IMAGE", image)
        .env("RESIDENT_DISK", disk.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {text}", image.display());
    let line = text.lines().find(|line| line.starts_with("peak="));
    line.unwrap_or_else(|| panic!("nothing was measured: {text}")).to_owned()
}

#[test]
fn the_whole_writer_stays_within_its_bound() {
    let units = std::env::var("SPARSE_GIB").map_or(1, |gib| gib.parse::<u64>().unwrap() * 4);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    one_unit(&at("one"));
    let one = at("one").display().to_string();
    let copies = |name: &str, make: &dyn Fn(&mut File)| {
        let mut part = File::create(at("part")).unwrap();
        make(&mut part);
        let mut all = File::create(at(name)).unwrap();
        for _ in 0..units {
            std::io::copy(&mut File::open(at("part")).unwrap(), &mut all).unwrap();
        }
        at(name)
    };
    let mut images = vec![
        copies("gz", &|part| {
            let mut encoder = flate2::write::GzEncoder::new(part, flate2::Compression::fast());
            std::io::copy(&mut File::open(&one).unwrap(), &mut encoder).unwrap();
            encoder.finish().unwrap();
        }),
        copies("zst", &|part| {
            zstd::stream::copy_encode(File::open(&one).unwrap(), part, 1).unwrap()
        }),
        copies("zst-64M-window", &|part| {
            let mut encoder = zstd::Encoder::new(part, 1).unwrap();
            encoder.window_log(26).unwrap();
            std::io::copy(&mut File::open(&one).unwrap(), &mut encoder).unwrap();
            encoder.finish().unwrap();
        }),
    ];
    for (name, preset, block) in [("xz", 0, 0), ("xz-blocks", 6, 24 << 20), ("xz-64M-dictionary", 9, 192 << 20)] {
        images.push(copies(name, &|part| {
            let stream = if block == 0 {
                liblzma::stream::Stream::new_easy_encoder(preset, liblzma::stream::Check::Crc64).unwrap()
            } else {
                let mut builder = liblzma::stream::MtStreamBuilder::new();
                builder
                    .threads(1)
                    .block_size(block)
                    .preset(preset)
                    .check(liblzma::stream::Check::Crc64);
                builder.encoder().unwrap()
            };
            let mut encoder = liblzma::write::XzEncoder::new_stream(part, stream);
            std::io::copy(&mut File::open(&one).unwrap(), &mut encoder).unwrap();
            encoder.finish().unwrap();
        }));
    }
    // The raw image, as sparse as the others.
    let mut raw = File::create(at("raw")).unwrap();
    raw.set_len(units * UNIT).unwrap();
    let mut data = vec![0; 1 << 20];
    for part in 0..units * 8 {
        File::open(&one)
            .unwrap()
            .read_exact_at(&mut data, part % 8 * (32 << 20) + (1 << 20))
            .unwrap();
        raw.seek(SeekFrom::Start(part * (32 << 20) + (1 << 20))).unwrap();
        raw.write_all(&data).unwrap();
    }
    images.push(at("raw"));
    let raw = at("raw").display().to_string();
    for (name, options) in [
        ("qcow2", &[][..]),
        ("qcow2-zlib", &["-c"]),
        ("qcow2-zstd-2M", &["-c", "-o", "compression_type=zstd,cluster_size=2M"]),
    ] {
        let target = at(name).display().to_string();
        run(
            "qemu-img",
            &[&["convert", "-q", "-f", "raw", "-O", "qcow2"], options, &[&raw, &target]].concat(),
        );
        images.push(at(name));
    }

    for path in images {
        for only_one in [false, true] {
            let line = write_apart(&path, units * UNIT + (4 << 20), only_one);
            let processors = if only_one { "one processor" } else { "all processors" };
            eprintln!("{} on {processors}: {line}", path.file_name().unwrap().to_string_lossy());
            assert!(line.contains(&format!("image={} ", units * UNIT)), "{line}");
        }
    }
}
