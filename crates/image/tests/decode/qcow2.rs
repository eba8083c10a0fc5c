//! Our qcow2 reader beside QEMU's: images that `qemu-img` and `qemu-io` make at random must read as `qemu-img convert` reads them.
//!
//! `QCOW2_IMAGES` says how many; `make test-qcow2` takes 500.

use std::path::{Path, PathBuf};
use std::process::Command;

use image::{Digest, FaultKind, FileSource, Format, MemorySource};

use crate::collect::{read, read_from};

/// A generator of which every image has its own, so that one can be made again alone.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_of<'a, T: ?Sized>(&mut self, these: &[&'a T]) -> &'a T {
        these[self.below(these.len() as u64) as usize]
    }
}

fn tool(name: &str, arguments: &[&str]) -> bool {
    let output = Command::new(name).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs {name}, which `make setup` installs: {error}"));
    output.status.success()
}

struct Made {
    path: PathBuf,
    how: String,
}

/// Makes an image: options at random, then operations at random.
fn make(folder: &Path, seed: u64) -> Made {
    let mut random = Random::new(seed);
    let path = folder.join(format!("{seed}.qcow2"));
    let name = path.to_str().unwrap();
    let cluster_bits = 9 + random.below(13);
    let version_2 = random.below(4) == 0;
    let mut options = format!(
        "compat={},cluster_size={}",
        if version_2 { "0.10" } else { "1.1" },
        1u64 << cluster_bits
    );
    let extended = !version_2 && cluster_bits >= 14 && random.below(3) == 0;
    if extended {
        options += ",extended_l2=on";
    }
    if !version_2 && random.below(2) == 0 {
        options += ",compression_type=zstd";
    }
    if !version_2 && random.below(4) == 0 {
        options += ",lazy_refcounts=on";
    }
    if random.below(4) == 0 {
        options += random.one_of(&[",preallocation=metadata", ",preallocation=falloc", ",preallocation=full"]);
    }
    let size = (1 + random.below(6 << 11)) * 512;
    assert!(
        tool(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", &options, name, &size.to_string()]
        ),
        "{options}"
    );
    let mut operations = Vec::new();
    let cluster = 1u64 << cluster_bits;
    for _ in 0..1 + random.below(12) {
        let unit = if random.below(2) == 0 { 512 } else { cluster };
        let at = random.below(size.div_ceil(unit)) * unit;
        let length = ((1 + random.below(8)) * unit.max(4096)).min(size - at);
        let pattern = 1 + random.below(255);
        operations.push(match random.below(7) {
            0 | 1 => format!("write -q -P {pattern} {at} {length}"),
            2 => format!("write -q -z {at} {length}"),
            3 => format!("write -q -z -u {at} {length}"),
            4 => format!("discard -q {at} {length}"),
            _ => {
                let at = at / cluster * cluster;
                format!("write -q -c -P {pattern} {at} {}", cluster.min(size - at))
            }
        });
    }
    // Not every one is possible everywhere (a compressed cluster over a plain one): what counts is what is in the image afterwards.
    let commands: Vec<&str> = operations.iter().flat_map(|operation| ["-c", operation.as_str()]).collect();
    tool("qemu-io", &[&["-f", "qcow2", "-d", "unmap"], &commands[..], &[name]].concat());
    if random.below(8) == 0 {
        // What is written behind a snapshot is what counts.
        assert!(tool("qemu-img", &["snapshot", "-c", "before", name]));
        tool(
            "qemu-io",
            &[
                "-f",
                "qcow2",
                "-c",
                &format!("write -q -P 7 0 {}", size.min(70_000) / 512 * 512),
                name,
            ],
        );
    }
    let mut how = format!("seed {seed}: {options}, {size} bytes: {operations:?}");
    if random.below(4) == 0 {
        // Once more through the program that most published images come from.
        let converted = folder.join(format!("{seed}.converted"));
        let type_option = if options.contains("zstd") {
            "compression_type=zstd"
        } else {
            "compat=1.1"
        };
        let order = random.one_of(&["-W", "-q"]);
        let arguments = [
            "convert",
            "-q",
            order,
            "-c",
            "-f",
            "qcow2",
            "-O",
            "qcow2",
            "-o",
            type_option,
            name,
            converted.to_str().unwrap(),
        ];
        assert!(tool("qemu-img", &arguments), "{how}");
        std::fs::rename(&converted, &path).unwrap();
        how += &format!(", then {arguments:?}");
    }
    Made { path, how }
}

fn as_qemu_reads(made: &Made) -> Vec<u8> {
    let raw = made.path.with_extension("raw");
    let arguments = [
        "convert",
        "-q",
        "-f",
        "qcow2",
        "-O",
        "raw",
        made.path.to_str().unwrap(),
        raw.to_str().unwrap(),
    ];
    assert!(tool("qemu-img", &arguments), "{}", made.how);
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}

#[test]
fn random_images_read_as_qemu_reads_them() {
    let count = std::env::var("QCOW2_IMAGES").map_or(60, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    for seed in 1..=count {
        let made = make(folder.path(), seed);
        let expected = as_qemu_reads(&made);
        let stored = std::fs::read(&made.path).unwrap();
        let ours = read(&stored, Some(Format::Qcow2)).unwrap_or_else(|error| panic!("{}: {error}", made.how));
        assert!(ours == expected, "{}", made.how);
        let source = Box::new(FileSource::open(&made.path).unwrap());
        assert!(
            read_from(source, &Digest::sha256_of(&stored), None).unwrap() == expected,
            "{}",
            made.how
        );
        std::fs::remove_file(&made.path).unwrap();
    }
}

/// Cut short and damaged: never another image under the digest of the good one, and whatever is made of it otherwise, no panic.
#[test]
fn damaged_images_are_told_from_good_ones() {
    let folder = tempfile::tempdir().unwrap();
    for seed in [3u64, 5, 8, 13, 21, 34, 55, 89, 144, 233] {
        let made = make(folder.path(), seed);
        let good = std::fs::read(&made.path).unwrap();
        let digest = Digest::sha256_of(&good);
        let under_good_digest = |bytes: Vec<u8>, what: &str| {
            let error = read_from(Box::new(MemorySource::new("image", bytes)), &digest, None).err();
            let error = error.unwrap_or_else(|| panic!("{what} of {} passed", made.how));
            let told = matches!(
                error.kind(),
                FaultKind::DigestMismatch | FaultKind::UnsupportedImage | FaultKind::TooLarge
            );
            assert!(told, "{what} of {}: {error}", made.how);
        };
        let mut random = Random::new(seed);
        let cluster = 4096;
        for border in (0..good.len()).step_by(cluster).skip(1).step_by(1 + good.len() / cluster / 20) {
            for length in [border - 1, border, border + 1] {
                let cut = good[..length.min(good.len() - 1)].to_vec();
                // Perhaps an error, perhaps zeros at the end: no panic is what counts.
                read(&cut, None).ok();
                under_good_digest(cut, "the start");
            }
        }
        for _ in 0..40 {
            let mut damaged = good.clone();
            // Mostly in the header, and where tables are.
            let end = if random.below(2) == 0 { 112 } else { good.len() as u64 };
            let at = random.below(end) as usize;
            damaged[at] ^= 1 << random.below(8);
            read(&damaged, None).ok();
            if damaged.starts_with(b"QFI\xfb") {
                under_good_digest(damaged, "a damaged copy");
            }
        }
    }
}
