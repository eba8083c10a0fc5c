//! `kube-baremetal image`, as somebody uses it: the whole round from a disk image to a disk, and what is refused.
#![allow(missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const MIB: usize = 1 << 20;

fn run(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kube-baremetal"));
    command
        .current_dir(home)
        .args(["--log", "warn", "image"])
        .args(arguments)
        .stdin(Stdio::null());
    command.output().unwrap()
}

fn answer(home: &Path, arguments: &[&str]) -> Value {
    let output = run(home, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The message, and the one object on standard output.
fn refusal(home: &Path, arguments: &[&str]) -> (String, Value) {
    let output = run(home, &[arguments, &["--json"]].concat());
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    let object = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (String::from_utf8_lossy(&output.stderr).into_owned(), object)
}

/// A disk without partition table: some data, much nothing.
fn disk(seed: u8) -> Vec<u8> {
    let mut disk = vec![0; 12 * MIB + 4096];
    for (at, byte) in disk[2 * MIB..5 * MIB].iter_mut().enumerate() {
        *byte = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[5];
    }
    disk[4 * MIB..5 * MIB].fill(seed);
    disk[12 * MIB..].fill(7);
    disk
}

#[test]
fn from_an_image_to_a_disk() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    fs::write(home.join("one.raw"), disk(1)).unwrap();
    fs::write(home.join("two.raw"), disk(2)).unwrap();

    let one = answer(home, &["pack", "one.raw", "-o", "one"]);
    assert_eq!(one["diskBytes"], 12 * MIB + 4096);
    assert_eq!(
        (&one["chunks"], &one["chunksWithData"], &one["sectorBytes"]),
        (&13.into(), &4.into(), &Value::Null)
    );
    let name = one["digest"].as_str().unwrap();
    answer(home, &["pack", "two.raw", "-o", "oci:two"]);
    for image in ["one", "oci:two"] {
        answer(home, &["verify", image]);
    }
    assert_eq!(answer(home, &["inspect", "one", "--digest", name])["digest"], name);
    let text = run(home, &["inspect", "one"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains(name));

    let difference = answer(home, &["diff", "one", "oci:two"]);
    assert_eq!((&difference["changedChunks"], &difference["sameChunks"]), (&1.into(), &12.into()));

    answer(home, &["unpack", "one", "-o", "back.raw"]);
    assert!(fs::read(home.join("back.raw")).unwrap() == disk(1));

    // A used disk, by the pack and by the image itself.
    for (source, digest) in [("one", name), ("one.raw", one["source"]["digest"].as_str().unwrap())] {
        fs::write(home.join("disk"), vec![0xee; 16 * MIB]).unwrap();
        let evidence = answer(home, &["write", source, "disk", "--digest", digest, "--yes", "--no-progress"]);
        assert_eq!(evidence["imageBytes"], 12 * MIB + 4096);
        assert!(evidence["steps"].as_array().is_some_and(|steps| steps.len() >= 4), "{evidence}");
        assert!(fs::read(home.join("disk")).unwrap()[..12 * MIB + 4096] == disk(1)[..], "{source}");
        answer(home, &["write", "one", "disk", "--verify"]);
    }
    let (message, object) = refusal(home, &["write", "oci:two", "disk", "--verify"]);
    let place = format!("{} to {}", 4 * MIB, 5 * MIB);
    assert!(
        message.contains(&place) && object["error"].as_str().is_some_and(|text| text.contains(&place)),
        "{message}"
    );
}

#[test]
fn what_is_refused_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    fs::write(home.join("one.raw"), disk(1)).unwrap();
    fs::write(home.join("disk"), vec![0xee; 16 * MIB]).unwrap();
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (arguments, part) in [
        (vec!["write", "one.raw", "disk"], "--yes"),
        (vec!["write", "one.raw", "missing", "--yes"], "missing"),
        (vec!["write", "-", "disk", "--yes"], "--digest"),
        (vec!["write", "http://127.0.0.1:9/image.raw", "disk", "--yes"], "--digest"),
        (vec!["write", "one.raw", "disk", "--verify"], "image pack"),
        (
            vec!["pack", "one.raw", "-o", "pack", "--digest", wrong.as_str()],
            "expected sha256:0000",
        ),
        (vec!["pack", "one.raw", "-o", "pack", "--format", "qcow2"], "declared as qcow2"),
        (vec!["pack", "one.raw", "-o", "pack", "--chunk-size", "100"], "power of two"),
        (
            vec!["pack", "-", "-o", "pack", "--digest", wrong.as_str()],
            "standard input has digest",
        ),
        (vec!["inspect", "one.raw"], "no packed image"),
        (vec!["verify", "."], "manifest.json"),
    ] {
        let (message, object) = refusal(home, &arguments);
        assert!(message.contains(part), "{arguments:?}: {message}");
        assert!(object["error"].is_string(), "{arguments:?}: {object}");
    }
    let names: Vec<_> = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "something was left: {names:?}");
    assert!(fs::read(home.join("disk")).unwrap() == vec![0xee; 16 * MIB]);
}
