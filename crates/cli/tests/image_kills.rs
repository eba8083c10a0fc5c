//! `kill -9` of a real `kube-baremetal image write` at random points: packed and streamed, from a web server, onto a file and, with
//! `--features long-tests` and root's rights, onto a loop device with direct I/O.
//!
//! After each kill the first sector is looked at: it is the old one, and then the whole disk is, or it says that a write is under way, or the whole
//! disk is the image. The same command started again ends in a disk that is the image, byte by byte. `IMAGE_KILLS` says how many kills there are for each
//! way and target; `make test-power-cuts` asks for 25, which makes one hundred.
#![allow(missing_docs)]

#[path = "../../image/tests/support/bad_server.rs"]
mod bad_server;

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bad_server::{Behaviour, Server};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::Value;

const MIB: usize = 1 << 20;
const DISK: usize = 48 * MIB;
/// Kills of each way and target when nobody asks for more.
const FEW: usize = 4;
const KILLED: i32 = 9;

fn kills_wanted() -> usize {
    std::env::var("IMAGE_KILLS").map_or(FEW, |text| text.parse().expect("IMAGE_KILLS is a number"))
}

/// A bootable disk without a table: data, and nothing in between.
fn image(chance: &mut StdRng) -> Vec<u8> {
    let mut image = vec![0; DISK];
    chance.fill_bytes(&mut image);
    image[..1024].fill(0);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    image[5 * MIB..9 * MIB].fill(0);
    image[30 * MIB + 512..31 * MIB].fill(0);
    image
}

fn command(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kube-baremetal"));
    command
        .current_dir(home)
        .args(["--log", "error", "image"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The image in both forms, behind a web server.
struct Served {
    home: tempfile::TempDir,
    image: Vec<u8>,
    server: Server,
    raw: String,
    packed: String,
}

impl Served {
    fn new(chance: &mut StdRng) -> Self {
        let home = tempfile::Builder::new().tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = image(chance);
        fs::write(home.path().join("image.raw"), &image).unwrap();
        // Small chunks, so that there are many of them.
        let pack = ["pack", "image.raw", "-o", "pack", "--chunk-size", "128", "--json"];
        let packed = answer(&command(home.path(), &pack).output().unwrap());
        let read = |name: &str| fs::read(home.path().join(name)).unwrap();
        let files = ["image.raw", "pack/manifest.json", "pack/chunks"].map(|name| (name.to_owned(), read(name)));
        // Good manners, without a copy of the file for each answer.
        let manners = Behaviour {
            only: "no such path",
            ..Behaviour::default()
        };
        Self {
            server: Server::with_files(files, manners),
            raw: image::Digest::sha256_of(&image).to_string(),
            packed: packed["digest"].as_str().unwrap().to_owned(),
            home,
            image,
        }
    }

    fn write(&self, packed: bool, disk: &Path) -> Child {
        let (url, digest) = if packed {
            (self.server.url_of("pack/manifest.json"), &self.packed)
        } else {
            (self.server.url_of("image.raw"), &self.raw)
        };
        let disk = disk.to_str().unwrap();
        let arguments = ["write", url.as_str(), disk, "--digest", digest, "--yes", "--no-progress", "--json"];
        command(self.home.path(), &arguments).spawn().unwrap()
    }
}

fn read(disk: &Path) -> Vec<u8> {
    let mut bytes = vec![0; DISK];
    fs::File::open(disk).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Garbage everywhere, with a boot sector that firmware would start.
fn spoil(disk: &Path, chance: &mut StdRng) -> Vec<u8> {
    let mut garbage = vec![0; DISK];
    chance.fill_bytes(&mut garbage);
    garbage[510..512].copy_from_slice(&[0x55, 0xaa]);
    let file = fs::File::options().write(true).open(disk).unwrap();
    file.write_all_at(&garbage, 0).unwrap();
    file.sync_all().unwrap();
    garbage
}

#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    before_the_first_write: usize,
    marked: usize,
    whole: usize,
    completed: usize,
    reused: u64,
}

fn kill_at_random(served: &Served, packed: bool, disk: &Path, chance: &mut StdRng) {
    let wanted = kills_wanted();
    let began = Instant::now();
    answer(&served.write(packed, disk).wait_with_output().unwrap());
    let mut usual = began.elapsed();
    assert!(read(disk) == served.image);
    let mut tally = Tally::default();
    let mut old = spoil(disk, chance);
    while tally.kills < wanted || tally.completed == 0 {
        let began = Instant::now();
        let mut writer = served.write(packed, disk);
        // After some kills of one write it may end.
        let kill = tally.kills < wanted && chance.random_range(0..4) > 0;
        if kill {
            std::thread::sleep(Duration::from_secs_f64(usual.as_secs_f64() * chance.random_range(0.0..1.0)));
            writer.kill().unwrap();
        }
        let output = writer.wait_with_output().unwrap();
        let found = read(disk);
        if output.status.signal() == Some(KILLED) {
            tally.kills += 1;
            let marked = image::marker::decode(&found[..512]).is_some();
            if found == old {
                tally.before_the_first_write += 1;
            } else if marked {
                assert!(found[510..512] != [0x55, 0xaa]);
                tally.marked += 1;
            } else {
                assert!(
                    found == served.image,
                    "after kill {}: neither old, nor marked, nor whole",
                    tally.kills
                );
                tally.whole += 1;
            }
            continue;
        }
        let evidence = answer(&output);
        assert!(
            found == served.image,
            "after {} kills: success, and the disk is not the image",
            tally.kills
        );
        // The first one may have had to wait for a busy host.
        usual = usual.min(began.elapsed());
        tally.completed += 1;
        tally.reused += evidence["reusedBytes"].as_u64().unwrap();
        old = spoil(disk, chance);
    }
    println!(
        "{}, {}, usually {usual:.0?}: {tally:?}",
        if packed { "packed" } else { "streamed" },
        disk.display()
    );
    assert!(packed || tally.reused == 0);
    if wanted >= 20 {
        assert!(
            tally.marked * 2 > tally.kills,
            "most of a write is between its first and its last sector"
        );
        assert!(!packed || tally.reused > 0, "nothing of what was durable was used again");
    }
}

fn blank_file(home: &Path) -> PathBuf {
    let path = home.join("disk");
    fs::File::create(&path).unwrap().set_len(DISK as u64).unwrap();
    path
}

#[test]
fn a_killed_writer_never_leaves_half_an_image_on_a_file() {
    let mut chance = StdRng::seed_from_u64(1);
    let served = Served::new(&mut chance);
    let disk = blank_file(served.home.path());
    for packed in [true, false] {
        kill_at_random(&served, packed, &disk, &mut chance);
    }
}

/// A loop device with direct I/O, which is given back at the end.
#[cfg(feature = "long-tests")]
struct Loop(PathBuf);

#[cfg(feature = "long-tests")]
impl Loop {
    fn over(file: &Path) -> Self {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "a loop device with direct I/O needs root and a kernel that has them: {output:?}"
        );
        let device = Self(String::from_utf8(output.stdout).unwrap().trim().into());
        let direct = Command::new("losetup")
            .args(["--noheadings", "--output", "DIO"])
            .arg(&device.0)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&direct.stdout).trim(),
            "1",
            "{} has no direct I/O",
            device.0.display()
        );
        device
    }
}

#[cfg(feature = "long-tests")]
impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.0).status();
        if !detached.is_ok_and(|status| status.success()) {
            eprintln!("{} was not detached: losetup --detach {}", self.0.display(), self.0.display());
        }
    }
}

#[cfg(feature = "long-tests")]
#[test]
fn a_killed_writer_never_leaves_half_an_image_on_a_loop_device() {
    let mut chance = StdRng::seed_from_u64(2);
    let served = Served::new(&mut chance);
    let device = Loop::over(&blank_file(served.home.path()));
    for packed in [true, false] {
        kill_at_random(&served, packed, &device.0, &mut chance);
    }
}
