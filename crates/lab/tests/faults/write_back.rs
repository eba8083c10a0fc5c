//! The power of QEMU machines is cut while the real agent writes an image to a disk with a write-back cache, ten times at random points, and what had
//! not been flushed is lost in part, in any order. No disk that is left would start half an image; each machine comes back by network boot, goes on, and
//! runs.
//!
//! The disk's cache is the test's own ([`crate::nbd`]): QEMU tells the guest that there is one and hands each flush on. One machine is left alone first. It tells
//! how many operations a write has, and in the end the disks of the others are held against its disk, by their status and by a program that knows nothing of this
//! code (`tests/immutability/compare.py`).

use std::path::{Path, PathBuf};

use agent_protocol::order::ImageFormat;
use sha2::{Digest, Sha256};

use crate::{
    disk_image::{self, MIB, TinyOs},
    nbd::CachedDisk,
    world::{LONG, Powered, World, disk},
};

const IMAGE: u64 = 24;
const DISK: u64 = 64;
const CUTS: usize = 5;
/// Operations that each attempt has, whatever the disk holds of the image: marker, ends, config drive, tables, first sectors, and their flushes.
const LEAST_OPERATIONS: usize = 12;

/// Numbers that are the same in each run.
struct Chance {
    name: String,
    drawn: u64,
}

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.drawn += 1;
        let digest = Sha256::new()
            .chain_update(&self.name)
            .chain_update(self.drawn.to_le_bytes())
            .finalize();
        let number = u64::from_le_bytes(digest[..8].try_into().unwrap());
        usize::try_from(number % end as u64).unwrap()
    }
}

/// A machine whose disk is at a socket.
struct Cached {
    machine: Powered,
    socket: PathBuf,
    medium: Vec<u8>,
}

impl Cached {
    fn new(world: &World, name: &str) -> Self {
        let socket = world.folder().join(format!("{name}.nbd"));
        let mut spec = disk(&format!("WB-{name}"), DISK);
        spec.nbd = Some(socket.clone());
        Self {
            machine: world.machine(name, vec![spec]),
            socket,
            medium: vec![0; usize::try_from(DISK * MIB).unwrap()],
        }
    }

    /// Its medium as a file, for those who look at files.
    fn as_file(&self, world: &World) -> PathBuf {
        let path = world.folder().join(format!("{}.medium", self.machine.spec.name));
        std::fs::write(&path, &self.medium).unwrap();
        path
    }

    async fn power_on(&mut self, world: &World) -> CachedDisk {
        let disk = CachedDisk::serve(&self.socket, std::mem::take(&mut self.medium));
        world.power_on(&self.machine).await;
        disk
    }

    /// Runs to the end, and gives the status' proof as a file.
    async fn finish(&mut self, world: &World, disk: &CachedDisk, os: &TinyOs, uid: &str) -> PathBuf {
        let name = self.machine.spec.name.clone();
        let instance = world.until_running(&name, &self.machine, os).await;
        assert_eq!(disk.pending_sectors(), 0, "{name}: it runs, and something was not flushed");
        self.machine.power_off().await.unwrap();
        self.medium = disk.after_cut(|_, _| false);
        let file = self.as_file(world);
        os.assert_installed(&file, uid);
        assert!(world.boots_from(&file, os).await, "{name}: the finished disk does not boot alone");
        let status = file.with_extension("status");
        let evidence = instance.status.unwrap().image.unwrap();
        assert!(!evidence.own_ranges.is_empty(), "{name}: status lists nothing");
        std::fs::write(&status, serde_json::to_vec(&evidence).unwrap()).unwrap();
        status
    }
}

/// One machine that nobody disturbs: the number of operations of its write, its disk and its status.
async fn undisturbed(world: &World, os: &TinyOs) -> (usize, PathBuf, PathBuf) {
    let mut calm = Cached::new(world, "calm");
    let disk = calm.power_on(world).await;
    let (hardware, _) = world.session_of(&calm.machine, "").await;
    world.until_ready(&hardware).await;
    let before = disk.operations();
    let uid = world.instance("calm", "packed", &hardware).await;
    let status = calm.finish(world, &disk, os, &uid).await;
    let operations = disk.operations() - before;
    world.tell(&format!("calm: {operations} operations, {} of them flushes", disk.flushes()));
    assert!(disk.flushes() >= 6, "flushes do not reach the disk");
    (operations, calm.as_file(world), status)
}

/// Whether the state of a disk after a cut is one that may be.
fn judge(world: &World, cached: &Cached, before: &[u8], os: &TinyOs, uid: &str) -> &'static str {
    let file = cached.as_file(world);
    if cached.medium == before {
        assert!(!disk_image::is_bootable(&file), "nothing arrived, and it was bootable before");
        "as before"
    } else if disk_image::is_marked_in_progress(&file) {
        assert!(!disk_image::is_bootable(&file), "marked, with a boot signature");
        "marked"
    } else {
        os.assert_installed(&file, uid);
        "whole"
    }
}

/// A machine whose power is cut five times while it writes an image.
async fn disturbed(world: &World, name: &str, os: &TinyOs, operations: usize) -> (PathBuf, PathBuf) {
    let mut chance = Chance {
        name: name.to_owned(),
        drawn: 0,
    };
    let mut cached = Cached::new(world, name);
    let mut disk = cached.power_on(world).await;
    let (hardware, _) = world.session_of(&cached.machine, "").await;
    world.until_ready(&hardware).await;
    let mut before = disk.after_cut(|_, _| true);
    // Behind the last operation the disk is whole, and there would be nothing left to cut. A streamed write has fewer of them than the packed one that was counted: 56 of 66 were seen.
    let mut left = operations * 3 / 4;
    let mut uid = String::new();
    for cut in 1..=CUTS {
        if cut > 1 {
            disk = cached.power_on(world).await;
        }
        // What was written of a packed image is not written again: the next attempt may be so much shorter.
        let after = chance.below(left.max(LEAST_OPERATIONS));
        if name == "packed" {
            left = left.saturating_sub(after);
        }
        // Nothing but the agent writes.
        disk.cut_after(after);
        if cut == 1 {
            uid = world.instance(name, name, &hardware).await;
        }
        world
            .until(&format!("{name}: cut {cut}, before operation {after}"), LONG, async || {
                if disk.is_cut() {
                    Ok(())
                } else {
                    Err(format!("{} operations", disk.operations()))
                }
            })
            .await;
        cached.machine.power_off().await.unwrap();
        let arrives = [0, 20, 50, 98, 100][chance.below(5)];
        let pending = disk.pending_sectors();
        cached.medium = disk.after_cut(|_, _| chance.below(100) < arrives);
        let state = judge(world, &cached, &before, os, &uid);
        world.tell(&format!(
            "{name}: cut {cut}: {arrives} % of {pending} sectors in the cache arrived; {state}"
        ));
        if cut == CUTS && state == "marked" {
            assert!(!world.boots_from(&cached.as_file(world), os).await, "firmware boots half an image");
        }
        before.clone_from(&cached.medium);
    }
    disk = cached.power_on(world).await;
    let status = cached.finish(world, &disk, os, &uid).await;
    (cached.as_file(world), status)
}

fn assert_same(one: (&Path, &Path), other: (&Path, &Path)) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/immutability/compare.py");
    let mut command = std::process::Command::new("/usr/bin/python3");
    command.arg(program).arg((IMAGE * MIB).to_string());
    for (disk, status) in [one, other] {
        command.args([disk, status]);
    }
    let output = command.output().expect("python3 is there");
    assert!(output.status.success(), "{output:?}");
    println!("{}", String::from_utf8_lossy(&output.stdout).trim());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_with_a_write_back_cache_end_in_the_same_disk() {
    let world = World::start_with(&["--image-store"]).await;
    world.accept_all().await;
    let os = TinyOs::new("write-back", IMAGE);
    world.images.put("tiny.raw", os.bytes.clone(), None);
    world.image("streamed", "tiny.raw", &os.digest(), ImageFormat::Raw).await;
    world.packed_image("packed", "tiny.raw", &os.digest(), ImageFormat::Raw).await;
    let (operations, calm, calm_status) = undisturbed(&world, &os).await;
    let (streamed, packed) = tokio::join!(
        disturbed(&world, "streamed", &os, operations),
        disturbed(&world, "packed", &os, operations)
    );
    for (disk, status) in [&streamed, &packed] {
        assert_same((&calm, &calm_status), (disk, status));
    }
    world.server.stop().await.unwrap();
}
