//! Prints the speed of each format into a file or a disk: `cargo run -p image --release --example write_speed -- [MiB] [target]`.
//! The image is half noise of little entropy and half holes. Needs `qemu-img` for qcow2.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use image::{Digest, Disk, FileSource, WriteRequest};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mebibytes: usize = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let target = arguments.next().map_or_else(|| folder.path().join("disk"), Into::into);
    let raw = folder.path().join("raw");
    let mut file = std::fs::File::create(&raw)?;
    let mut state = 1u64;
    for index in 0..mebibytes {
        let mut chunk = vec![0u8; 1 << 20];
        if index % 2 == 0 {
            for byte in &mut chunk {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                *byte = b"etaoin shrdlucmfw"[(state >> 60) as usize];
            }
        }
        file.write_all(&chunk)?;
    }
    drop(file);
    if !target.exists() {
        std::fs::File::create(&target)?.set_len((mebibytes as u64 + 4) << 20)?;
    }
    let stored = |name: &str| folder.path().join(name);
    {
        let mut reader = std::fs::File::open(&raw)?;
        let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(stored("gz"))?, flate2::Compression::fast());
        std::io::copy(&mut reader, &mut gz)?;
        gz.finish()?;
        let mut reader = std::fs::File::open(&raw)?;
        let mut xz = liblzma::write::XzEncoder::new(std::fs::File::create(stored("xz"))?, 0);
        std::io::copy(&mut reader, &mut xz)?;
        xz.finish()?;
        zstd::stream::copy_encode(std::fs::File::open(&raw)?, std::fs::File::create(stored("zst"))?, 3)?;
    }
    let mut images = vec![raw.clone(), stored("gz"), stored("xz"), stored("zst")];
    for (name, options) in [
        ("qcow2", &[][..]),
        ("qcow2-zlib", &["-c"][..]),
        ("qcow2-zstd", &["-c", "-o", "compression_type=zstd"]),
    ] {
        let mut command = Command::new("qemu-img");
        command
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .args(options)
            .arg(&raw)
            .arg(stored(name));
        match command.status() {
            Ok(status) if status.success() => images.push(stored(name)),
            _ => eprintln!("{name}: left out, qemu-img is missing or failed"),
        }
    }
    for path in images {
        one(&path, &target)?;
    }
    Ok(())
}

fn one(path: &Path, target: &Path) -> Result<(), Box<dyn std::error::Error>> {
    // One sentinel digest pass, so that only the write is timed.
    let mut hasher = Digest::sha256_of(b"").hasher();
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = std::io::Read::read(&mut file, &mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    let digest = hasher.finish();
    let disk = Disk::open(target)?;
    let image = image::open(Box::new(FileSource::open(path)?), &digest, None, &image::limit_of(&disk))?;
    let evidence = image::write_image(image, &disk, &WriteRequest::default(), &mut |_| ControlFlow::Continue(()))?;
    let steps: Vec<String> = evidence
        .steps
        .iter()
        .map(|step| format!("{} {:.2} s", step.step, step.seconds))
        .collect();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    println!(
        "{name:12} {:8.0} MiB/s  {:6.2} s  ({})",
        evidence.mebibytes_per_second,
        evidence.seconds,
        steps.join(", ")
    );
    Ok(())
}
