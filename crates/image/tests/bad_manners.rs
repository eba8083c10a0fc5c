//! Every fault of a server, for every kind of source: the outcome is the right disk, or an error of the right kind and a disk that cannot boot. Never a wrong disk,
//! never a success that is none.
#![allow(missing_docs)]

#[path = "support/bad_server.rs"]
mod bad_server;
mod common;
#[path = "support/faults.rs"]
mod faults;

use std::ops::ControlFlow;
use std::process::Command;
use std::time::{Duration, Instant};

use bad_server::Server;
use common::*;
use image::pack::{Chunk, HttpChunks, Manifest, Origin, Packer};
use image::{Digest, Evidence, FaultKind, HttpLimits, HttpSource, ImageError, marker};

/// Longest time without a byte. The product's own is 30 s; the mechanism is the same.
const STALL: Duration = Duration::from_millis(300);

/// How a source is read: what a fault comes to depends on that alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the start to the end, once; a range only to go on after a break.
    Stream,
    /// In ranges.
    Ranges,
    /// In ranges, each with a digest of its own: the chunks of a packed image.
    Chunks,
}

struct Kind {
    name: &'static str,
    way: Way,
    stored: Vec<u8>,
    manifest: Option<Manifest>,
}

/// A packed image, by hand: manifest and chunks.
fn packed(image: &[u8]) -> (Manifest, Vec<u8>) {
    const CHUNK: usize = 256 << 10;
    let (mut stored, mut chunks) = (Vec::new(), Vec::new());
    for (index, plain) in image.chunks(CHUNK).enumerate() {
        if plain.iter().any(|&byte| byte != 0) {
            let frame = zstd::bulk::compress(plain, 1).unwrap();
            chunks.push(Chunk {
                index: index as u32,
                offset: stored.len() as u64,
                length: frame.len() as u32,
                stored: blake3::hash(&frame),
                plain: blake3::hash(plain),
            });
            stored.extend(frame);
        }
    }
    let origin = Origin {
        format: image::Format::Raw,
        digest: Digest::sha256_of(image).to_string(),
    };
    let packer = Packer {
        zstd: "1.5.7".to_owned(),
        level: 1,
    };
    let manifest = Manifest::new(image.len() as u64, 512, CHUNK as u32, origin, packer, chunks).unwrap();
    (manifest, stored)
}

fn compressed(command: &[&str], plain: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain");
    std::fs::write(&path, plain).unwrap();
    let done = Command::new(command[0]).args(&command[1..]).arg(&path).output().unwrap();
    assert!(done.status.success(), "{command:?}");
    done.stdout
}

fn qcow2(options: &[&str], plain: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("qcow2"));
    std::fs::write(&raw, plain).unwrap();
    let mut command = Command::new("qemu-img");
    command
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args(options)
        .arg(&raw)
        .arg(&out);
    assert!(
        command
            .status()
            .expect("this test needs qemu-img; `make setup` installs it")
            .success()
    );
    std::fs::read(&out).unwrap()
}

fn kinds(image: &[u8]) -> Vec<Kind> {
    let kind = |name, way, stored| Kind {
        name,
        way,
        stored,
        manifest: None,
    };
    let (manifest, chunks) = packed(image);
    vec![
        Kind {
            manifest: Some(manifest),
            ..kind("packed", Way::Chunks, chunks)
        },
        kind("raw", Way::Stream, image.to_vec()),
        kind("gz", Way::Stream, compressed(&["gzip", "-c"], image)),
        kind("xz", Way::Stream, compressed(&["xz", "-0", "-c"], image)),
        kind(
            "xz of several blocks",
            Way::Stream,
            compressed(&["xz", "-0", "-T2", "--block-size=512KiB", "-c"], image),
        ),
        kind("zst", Way::Stream, zstd::stream::encode_all(image, 1).unwrap()),
        kind("qcow2", Way::Ranges, qcow2(&[], image)),
        kind("qcow2 with zlib", Way::Ranges, qcow2(&["-c"], image)),
        kind("qcow2 with zstd", Way::Ranges, qcow2(&["-c", "-o", "compression_type=zstd"], image)),
    ]
}

/// What must come of a fault.
#[derive(Debug)]
enum Outcome {
    /// The right disk.
    Correct,
    /// An error of one of these kinds.
    Refused(&'static [FaultKind]),
}

use FaultKind::{DigestMismatch, InvalidRequest, Truncated, Unreachable, UnsupportedImage};
use Outcome::{Correct, Refused};

/// What a fault comes to for a source that is read as a stream, for one that is read in ranges, and for chunks. A head that cannot be one is told of before the digest is
/// known, and before anything is written.
const OUTCOMES: &[(&str, Outcome, Outcome, Outcome)] = &[
    ("good manners", Correct, Correct, Correct),
    ("cut short once", Correct, Correct, Correct),
    ("cut short once, without an entity tag", Correct, Correct, Correct),
    ("cut short every time", Refused(CUT), Refused(CUT), Refused(CUT)),
    (
        "cut short without Content-Length",
        Refused(&[Truncated, DigestMismatch]),
        Refused(&[Truncated, DigestMismatch]),
        Refused(CUT),
    ),
    ("no Content-Length", Correct, Correct, Correct),
    ("one bit flipped", Refused(WRONG), Refused(WRONG), Refused(WRONG)),
    ("one bit flipped near the start", Refused(ODD), Refused(ODD), Refused(WRONG)),
    ("silent for ever", Refused(GONE), Refused(GONE), Refused(GONE)),
    ("silent once", Correct, Correct, Correct),
    (
        "redirects in a circle",
        Refused(&[InvalidRequest]),
        Refused(&[InvalidRequest]),
        Refused(&[InvalidRequest]),
    ),
    (
        "knows no ranges",
        Correct,
        Refused(&[UnsupportedImage]),
        Refused(&[UnsupportedImage]),
    ),
    (
        "ignores ranges that it said it answers",
        Correct,
        Refused(ODD),
        Refused(&[UnsupportedImage]),
    ),
    ("a range that begins elsewhere", Refused(WRONG), Refused(WRONG), Refused(WRONG)),
    ("a range of a longer file", Refused(WRONG), Refused(WRONG), Refused(WRONG)),
    ("a range that is none", Refused(WRONG), Refused(WRONG), Refused(WRONG)),
    (
        "changed in between, with another entity tag",
        Refused(WRONG),
        Refused(WRONG),
        Refused(ODD),
    ),
    (
        "changed in between, and nothing says so",
        Refused(WRONG),
        Refused(ODD),
        Refused(WRONG),
    ),
    ("two answers of 503", Correct, Correct, Correct),
    ("503 for ever", Refused(GONE), Refused(GONE), Refused(GONE)),
    ("404", Refused(GONE), Refused(GONE), Refused(GONE)),
    ("slow, but never silent", Correct, Correct, Correct),
];

const CUT: &[FaultKind] = &[Truncated];
const WRONG: &[FaultKind] = &[DigestMismatch];
const ODD: &[FaultKind] = &[DigestMismatch, UnsupportedImage];
const GONE: &[FaultKind] = &[Unreachable];

fn write_from(server: &Server, kind: &Kind, disk: &dyn image::BlockDevice) -> Result<Evidence, ImageError> {
    // Another test of this process may have been first: then it is there already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let roots: [reqwest::Certificate; 0] = [];
    let client = image::Client::new(STALL, |builder| builder.tls_certs_only(roots)).unwrap();
    let limits = HttpLimits {
        backoff: Duration::from_millis(1),
        max_retries: 3,
        ..HttpLimits::default()
    };
    let progress = &mut |_| ControlFlow::Continue(());
    if let Some(manifest) = &kind.manifest {
        let chunks = HttpChunks::new(&client, &[server.url()], manifest.stored_bytes(), limits)?;
        return image::write_packed(manifest, &chunks, disk, &request(false), progress);
    }
    let source = HttpSource::new(client, &server.url(), limits)?;
    let opened = image::open(Box::new(source), &Digest::sha256_of(&kind.stored), None, &image::limit_of(disk))?;
    image::write_image(opened, disk, &request(false), progress)
}

/// What is wrong with the outcome, if anything.
fn violation(outcome: &Outcome, result: &Result<Evidence, ImageError>, disk: &[u8], old: &[u8], finished: &[u8]) -> Option<String> {
    if result.is_ok() && disk != finished {
        return Some("a success was claimed, but the disk is not the right one".to_owned());
    }
    if result.is_err() && disk != old && marker::decode(disk).is_none() {
        return Some("an error was told, but the disk is neither untouched nor marked".to_owned());
    }
    match (outcome, result) {
        (Correct, Err(error)) => Some(format!("it should have arrived, but: {error}")),
        (Refused(_), Ok(_)) => Some("it should have been refused".to_owned()),
        (Refused(kinds), Err(error)) if !kinds.contains(&error.kind()) => Some(format!("{} instead of {kinds:?}: {error}", error.kind())),
        (Refused(_), Err(error)) if error.to_string().contains("secret") => {
            Some(format!("the message gives the URL's secret away: {error}"))
        }
        _ => None,
    }
}

/// What is wrong with the outcomes of all faults for one kind of source.
fn try_all(kind: &Kind, old: &[u8], finished: &[u8]) -> Vec<String> {
    let faults = faults::faults(kind.stored.len(), STALL);
    assert_eq!(faults.len(), OUTCOMES.len());
    let mut violations = Vec::new();
    for ((fault, behaviour), (named, stream, ranges, chunks)) in faults.into_iter().zip(OUTCOMES) {
        assert_eq!(fault, *named, "the two lists go side by side");
        let outcome = match kind.way {
            Way::Stream => stream,
            Way::Ranges => ranges,
            Way::Chunks => chunks,
        };
        let server = Server::start(kind.stored.clone(), behaviour);
        let disk = sim(old.to_vec());
        let started = Instant::now();
        let result = write_from(&server, kind, &disk);
        println!("{}, {fault}: {:.1} s", kind.name, started.elapsed().as_secs_f64());
        if let Some(violation) = violation(outcome, &result, &disk.contents(), old, finished) {
            violations.push(format!("{}, {fault}: {violation}", kind.name));
        }
    }
    violations
}

#[test]
fn every_fault_ends_in_the_right_disk_or_in_a_clear_error_and_no_disk() {
    let image = gpt_image(3 * MIB);
    let old = used_disk(4 * MIB);
    let finished = {
        let disk = sim(old.clone());
        write(&image, None, &disk, &request(false)).unwrap();
        disk.contents()
    };
    let started = Instant::now();
    let kinds = kinds(&image);
    let rows = kinds.len() * OUTCOMES.len();
    // Most of the time is waiting, so all kinds wait at once.
    let violations: Vec<String> = std::thread::scope(|scope| {
        let tried: Vec<_> = kinds.iter().map(|kind| scope.spawn(|| try_all(kind, &old, &finished))).collect();
        tried.into_iter().flat_map(|kind| kind.join().unwrap()).collect()
    });
    println!("{rows} rows in {:.1} s", started.elapsed().as_secs_f64());
    assert!(
        violations.is_empty(),
        "{} of {rows} rows:\n{}",
        violations.len(),
        violations.join("\n")
    );
}
