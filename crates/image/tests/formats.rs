//! Every format arrives on the disk as the raw image it stands for; every fault of an image is the typed error that names it.
#![allow(missing_docs)]

mod common;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use common::*;
use image::{BlockDevice, Digest, Disk, FaultKind, Format, ImageError, MemorySource, WriteRequest};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

fn kind_of(stored: &[u8], format: Option<Format>, disk_bytes: usize, request: &WriteRequest) -> (FaultKind, String) {
    let old = used_disk(disk_bytes);
    let disk = sim(old);
    let error = write(stored, format, &disk, request).unwrap_err();
    assert_ne!(
        disk.contents()[..512],
        stored[..512.min(stored.len())],
        "nothing of a refused image is bootable"
    );
    (error.kind(), error.to_string())
}

/// The image's bytes between the first sectors and its own backup table are what must be on the disk.
fn assert_arrived(image: &[u8], contents: &[u8], what: &str) {
    let end = image.len() - 33 * 512;
    assert!(contents[34 * 512..end] == image[34 * 512..end], "{what}");
    assert!(gpt_is_valid(contents, 1, 512), "{what}");
    assert!(gpt_is_valid(contents, contents.len() / 512 - 1, 512), "{what}");
}

#[test]
fn compressed_streams_arrive() {
    let image = gpt_image(3 * MIB);
    let (first, second) = image.split_at(MIB + 12_345);
    let joined = |encode: fn(&[u8]) -> Vec<u8>| [encode(first), encode(second)].concat();
    for (format, stored) in [
        (Format::Raw, image.clone()),
        (Format::Gzip, gzip(&image)),
        (Format::Gzip, joined(gzip)),
        (Format::Xz, xz(&image)),
        (Format::Xz, joined(xz)),
        (Format::Zstd, zst(&image)),
        (Format::Zstd, joined(zst)),
    ] {
        let disk = sim(used_disk(6 * MIB));
        let evidence = write(&stored, Some(format), &disk, &request(true)).unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_arrived(&image, &disk.contents(), format.as_str());
        assert_eq!(evidence.format, format.as_str());
        assert_eq!(evidence.image_bytes, image.len() as u64);
        assert_eq!(evidence.stored_bytes, stored.len() as u64);
        assert_eq!(evidence.written_digest, evidence.read_back_digest);
        assert!(evidence.zeroed_bytes >= 256 * 1024, "the hole is zeroed, not written");
    }
}

#[test]
fn faults_of_images_are_named() {
    let image = gpt_image(3 * MIB);
    let none = WriteRequest::default();
    let stored = zst(&image);

    // A wrong digest, for a good image and for one that does not even decompress.
    let mut damaged = stored.clone();
    damaged[1000] ^= 0xff;
    for bytes in [stored.clone(), damaged] {
        let disk = sim(used_disk(6 * MIB));
        let source = MemorySource::new("http://images/debian.zst", bytes);
        let wrong = Digest::sha512_of(b"another file");
        let result = image::open(Box::new(source), &wrong, None, &image::limit_of(&disk))
            .and_then(|image| image::write_image(image, &disk, &none, &mut |_| std::ops::ControlFlow::Continue(())));
        let error = result.unwrap_err();
        assert_eq!(error.kind(), FaultKind::DigestMismatch, "{error}");
        let text = error.to_string();
        assert!(text.contains(&wrong.to_string()) && text.matches("sha512:").count() == 2, "{text}");
        assert_ne!(disk.contents()[510..512], [0x55, 0xaa], "not bootable");
    }

    for (what, stored, format, disk_bytes, expected, parts) in [
        (
            "wrong format",
            zst(&image),
            Some(Format::Raw),
            6 * MIB,
            FaultKind::FormatMismatch,
            ["raw", "zst"],
        ),
        (
            "too large, size known",
            image.clone(),
            None,
            2 * MIB,
            FaultKind::TooLarge,
            ["3145728", "2097152"],
        ),
        (
            "too large, size in the table",
            gzip(&image),
            None,
            2 * MIB + 512,
            FaultKind::TooLarge,
            ["bytes", "2097664"],
        ),
        (
            "a bomb",
            gzip(&vec![0; 40 * MIB]),
            None,
            2 * MIB,
            FaultKind::TooLarge,
            ["simulated disk", "2097152"],
        ),
        (
            "cut off",
            stored[..stored.len() / 2].to_vec(),
            None,
            6 * MIB,
            FaultKind::Truncated,
            ["zst", "incomplete"],
        ),
        (
            "gz cut off",
            gzip(&image)[..100_000].to_vec(),
            None,
            6 * MIB,
            FaultKind::Truncated,
            ["gz", "incomplete"],
        ),
        (
            "xz cut off",
            xz(&image)[..100_000].to_vec(),
            None,
            6 * MIB,
            FaultKind::Truncated,
            ["xz", "incomplete"],
        ),
        (
            "raw cut off",
            image[..2 * MIB].to_vec(),
            None,
            6 * MIB,
            FaultKind::UnsupportedImage,
            ["partitions", "2097152"],
        ),
        (
            "empty",
            Vec::new(),
            None,
            6 * MIB,
            FaultKind::UnsupportedImage,
            ["empty", "damaged"],
        ),
        (
            "nested",
            gzip(&zst(&image)),
            None,
            6 * MIB,
            FaultKind::UnsupportedImage,
            ["zst inside gz", "publish"],
        ),
        (
            "garbage behind",
            [gzip(&image), vec![1; 100]].concat(),
            None,
            6 * MIB,
            FaultKind::UnsupportedImage,
            ["gz", "not valid"],
        ),
    ] {
        let (kind, text) = kind_of(&stored, format, disk_bytes, &none);
        assert_eq!(kind, expected, "{what}: {text}");
        for part in parts {
            assert!(text.contains(part), "{what}: {text}");
        }
    }
}

#[test]
fn windows_above_the_limit_are_refused_with_the_remedy() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&noise(MIB, 1)).unwrap();
    let (kind, text) = kind_of(&encoder.finish().unwrap(), None, 4 * MIB, &WriteRequest::default());
    assert_eq!(kind, FaultKind::UnsupportedImage);
    assert!(text.contains("128 MiB") && text.contains("--long=26"), "{text}");
    // The same window behind a first frame that is fine.
    let mut encoder = zstd::Encoder::new(zst(&noise(MIB, 2)), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&noise(MIB, 1)).unwrap();
    let (kind, text) = kind_of(&encoder.finish().unwrap(), None, 4 * MIB, &WriteRequest::default());
    assert_eq!(kind, FaultKind::UnsupportedImage);
    assert!(text.contains("--long=26"), "{text}");

    let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    options.dict_size(128 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream = liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(&noise(MIB, 1)).unwrap();
    let stored = encoder.finish().unwrap();
    let (kind, text) = kind_of(&stored, None, 4 * MIB, &WriteRequest::default());
    assert_eq!(kind, FaultKind::UnsupportedImage);
    assert!(text.contains("xz -9") && text.contains("image pack"), "{text}");
    // That is possible, because whoever packs takes any window.
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&noise(MIB, 1)).unwrap();
    for stored in [stored, encoder.finish().unwrap()] {
        let disk = sim(used_disk(4 * MIB));
        let source = MemorySource::new("image", stored.clone());
        let opened = image::open_with_any_window(Box::new(source), &Digest::sha256_of(&stored), None, &image::limit_of(&disk)).unwrap();
        let copied = image::write_image(
            opened,
            &disk,
            &WriteRequest::default(),
            &mut |_| std::ops::ControlFlow::Continue(()),
        )
        .unwrap();
        assert_eq!(copied.image_bytes, MIB as u64);
    }
}

#[test]
fn config_drives_that_have_no_place_are_refused_before_the_first_write() {
    let mut full = mbr_image(2 * MIB);
    for slot in 1..4 {
        put(
            &mut full,
            446 + slot * 16,
            &[0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 63, 0, 0, 0, 1, 0, 0, 0],
        );
    }
    for (what, image, disk_bytes, part) in [
        ("no table", bare_image(2 * MIB), 6 * MIB, "no partition table"),
        ("no slot", full, 6 * MIB, "four partition slots"),
        ("no room", gpt_image(3 * MIB), 3 * MIB + 512 * 100, "would have to begin"),
    ] {
        let disk = sim(used_disk(disk_bytes));
        let error = write(&image, None, &disk, &request(true)).unwrap_err();
        assert_eq!(error.kind(), FaultKind::NoRoomForConfigDrive, "{what}: {error}");
        assert!(error.to_string().contains(part), "{what}: {error}");
        assert_eq!(disk.operations(), 0, "{what}: the disk is untouched");
        write(&image, None, &disk, &request(false)).unwrap_or_else(|error| panic!("{what} without a config drive: {error}"));
    }
}

#[test]
fn sector_sizes_must_agree() {
    let mut image = noise(4 * MIB, 5);
    image[..64 * 1024].fill(0);
    add_gpt(&mut image, &[(256, 800)], 4096);
    let disk = image::device::sim::SimDisk::new(used_disk(8 * MIB), 4096, Default::default());
    write(&image, None, &disk, &request(true)).unwrap();
    let contents = disk.contents();
    assert!(gpt_is_valid(&contents, 1, 4096) && gpt_is_valid(&contents, contents.len() / 4096 - 1, 4096));

    let error = write(&image, None, &sim(used_disk(8 * MIB)), &request(false)).unwrap_err();
    assert_eq!(error.kind(), FaultKind::SectorSizeMismatch);
    let disk = image::device::sim::SimDisk::new(used_disk(8 * MIB), 4096, Default::default());
    for image in [gpt_image(2 * MIB), mbr_image(2 * MIB)] {
        let error = write(&image, None, &disk, &request(false)).unwrap_err();
        assert_eq!(error.kind(), FaultKind::SectorSizeMismatch);
        assert!(
            error.to_string().contains("512-byte") && error.to_string().contains("4096-byte"),
            "{error}"
        );
    }
}

#[test]
fn a_cancelled_write_leaves_the_marker() {
    let disk = sim(used_disk(6 * MIB));
    let stored = gpt_image(3 * MIB);
    let source = MemorySource::new("image", stored.clone());
    let image = image::open(Box::new(source), &Digest::sha256_of(&stored), None, &image::limit_of(&disk)).unwrap();
    let mut steps = Vec::new();
    let result = image::write_image(image, &disk, &request(true), &mut |progress| {
        steps.push(progress.step);
        if progress.step == image::Step::Verify {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    });
    assert!(matches!(result, Err(ImageError::Cancelled)));
    assert_eq!(
        steps,
        [image::Step::Mark, image::Step::ClearEnds, image::Step::Write, image::Step::Verify]
    );
    assert!(image::marker::decode(&disk.contents()).is_some());
}

#[test]
fn a_compressed_stream_tells_how_much_of_it_has_come() {
    let plain = gpt_image(3 * MIB);
    for stored in [
        gzip(&plain),
        xz(&plain),
        zst(&plain),
        [zst(&plain[..MIB]), zst(&plain[MIB..])].concat(),
    ] {
        let disk = sim(used_disk(6 * MIB));
        let source = MemorySource::new("image", stored.clone());
        let image = image::open(Box::new(source), &Digest::sha256_of(&stored), None, &image::limit_of(&disk)).unwrap();
        let mut told = Vec::new();
        image::write_image(image, &disk, &request(true), &mut |progress| {
            if progress.step == image::Step::Write {
                told.push(progress);
            }
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert!(!told.is_empty());
        for progress in told {
            assert_eq!(progress.total, Some(stored.len() as u64));
            assert!(progress.done <= stored.len() as u64, "{progress:?}");
        }
    }
}

/// A regular file that plays a disk, with content of an earlier owner.
fn file_disk(path: &Path, length: usize) -> Disk {
    std::fs::write(path, used_disk(length)).unwrap();
    Disk::open(path).unwrap()
}

#[test]
fn a_real_file_gets_the_same_bytes_and_tools_accept_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let disk = file_disk(&path, 8 * MIB);
    let image = gpt_image(3 * MIB);
    write(&image, None, &disk, &request(true)).unwrap();
    let contents = std::fs::read(&path).unwrap();
    assert_arrived(&image, &contents, "file");
    let place = image::device::reads_as_zeros(&disk, MIB as u64, 256 * 1024).unwrap();
    assert!(place, "the hole reads as zeros");
    // Where Debian has it: an ordinary user's PATH does not lead there.
    let sgdisk = |option| {
        let output = Command::new("/sbin/sgdisk").arg(option).arg(&path).output();
        output.expect("this test needs sgdisk; `make setup` installs it")
    };
    let output = sgdisk("-v");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("No problems found"), "{text}");
    let output = sgdisk("-p");
    assert!(String::from_utf8_lossy(&output.stdout).contains("config-2"));
}

fn qemu_img(arguments: &[&str]) -> Option<bool> {
    let output = Command::new("qemu-img").args(arguments).output().ok()?;
    if !output.status.success() {
        eprintln!("qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Some(output.status.success())
}

#[test]
fn qcow2_of_every_kind_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let mut image = gpt_image(9 * MIB + 512);
    image[3 * MIB..6 * MIB].fill(0);
    // Something that compresses.
    for (index, byte) in image[6 * MIB..8 * MIB].iter_mut().enumerate() {
        *byte = (index / 100) as u8;
    }
    std::fs::write(at("raw"), &image).unwrap();
    assert!(
        qemu_img(&["--version"]).is_some(),
        "this test needs qemu-img; `make setup` installs it"
    );
    for options in [
        &["-o", "compat=1.1"][..],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=4k"],
        &["-o", "cluster_size=2M"],
        &["-o", "preallocation=metadata"],
        &["-o", "preallocation=full"],
        &["-o", "lazy_refcounts=on"],
        &["-o", "extended_l2=on"],
        &["-c", "-o", "extended_l2=on,compression_type=zstd"],
        &["-c"],
        &["-c", "-o", "compat=0.10"],
        &["-c", "-o", "cluster_size=2M"],
        &["-c", "-o", "compression_type=zstd"],
        &["-c", "-o", "compression_type=zstd,cluster_size=4k"],
        &["-W", "-c", "-m", "4"],
    ] {
        let target = at("qcow2");
        let raw = at("raw");
        let mut arguments = vec!["convert", "-t", "unsafe", "-f", "raw", "-O", "qcow2"];
        arguments.extend(options);
        arguments.extend([raw.as_str(), target.as_str()]);
        assert_eq!(qemu_img(&arguments), Some(true), "{options:?}");
        // An internal snapshot is none of our business.
        if options == ["-o", "compat=1.1"] {
            assert_eq!(qemu_img(&["snapshot", "-c", "one", &target]), Some(true));
        }
        let stored = std::fs::read(&target).unwrap();
        let disk = sim(used_disk(12 * MIB));
        let evidence = write(&stored, Some(Format::Qcow2), &disk, &request(true)).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        assert_arrived(&image, &disk.contents(), &format!("{options:?}"));
        assert_eq!(evidence.image_bytes, image.len() as u64);
        assert_eq!(evidence.stored_bytes, stored.len() as u64);
    }
    for (options, part) in [
        (&["-o", "data_file=DATA,data_file_raw=on"][..], "another file"),
        (
            &[
                "-o",
                "encrypt.format=luks,encrypt.key-secret=s",
                "--object",
                "secret,id=s,data=secret",
            ],
            "encrypt",
        ),
    ] {
        let (raw, target, data) = (at("raw"), at("refused"), at("data"));
        let options: Vec<String> = options.iter().map(|option| option.replace("DATA", &data)).collect();
        let mut arguments = vec!["convert", "-t", "unsafe", "-f", "raw", "-O", "qcow2"];
        arguments.extend(options.iter().map(String::as_str));
        arguments.extend([raw.as_str(), target.as_str()]);
        // For LUKS it measures how fast this processor derives keys, and now and then gives up ("Unable to get accurate CPU usage").
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while qemu_img(&arguments) != Some(true) {
            assert!(std::time::Instant::now() < patience, "{options:?}");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let (kind, text) = kind_of(&std::fs::read(&target).unwrap(), None, 12 * MIB, &WriteRequest::default());
        assert_eq!(kind, FaultKind::UnsupportedImage);
        assert!(text.contains(part), "{text}");
    }
    let (raw, target) = (at("raw"), at("overlay"));
    assert_eq!(qemu_img(&["create", "-f", "qcow2", "-b", &raw, "-F", "raw", &target]), Some(true));
    let (kind, text) = kind_of(&std::fs::read(&target).unwrap(), None, 12 * MIB, &WriteRequest::default());
    assert_eq!(kind, FaultKind::UnsupportedImage);
    assert!(text.contains("backing file"), "{text}");
}

#[test]
fn reading_helpers_see_the_disk() {
    let disk = sim(used_disk(4 * MIB));
    assert!(!image::device::reads_as_zeros(&disk, 0, 4 * MIB as u64).unwrap());
    disk.zero_range(0, 4 * MIB as u64, image::device::ZeroMethod::Write).unwrap();
    assert!(image::device::reads_as_zeros(&disk, 0, 4 * MIB as u64).unwrap());
    let mut offsets = Vec::new();
    image::device::sample(&disk, 4096, 5, |offset, block| offsets.push((offset, block.len()))).unwrap();
    assert_eq!(offsets.first(), Some(&(0, 4096)));
    assert_eq!(offsets.last(), Some(&(4 * MIB as u64 - 4096, 4096)));
    assert_eq!(offsets.len(), 5);
}
