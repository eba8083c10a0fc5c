//! The plug is pulled at ten points of writing an image. What is left is never a half image that firmware would start; and the machine comes back by
//! network boot, finishes, and runs.
//!
//! The points are chosen by what stands on the disk's file on the host, which sees each write of the guest at once: QEMU's host cache is the disk's own
//! cache here, and outlives the machine, so that nothing that was written is lost, flushed or not. (What happens when unflushed writes are lost or reordered is
//! tested on a block device double in the `image` crate.) Early points are held open by the image's web server, late ones by a disk that does two writes
//! per second.

use agent_protocol::order::ImageFormat;
use lab::qemu::Machine;

use crate::{
    disk_image::{self, HEAD, MIB, TinyOs},
    http::Served,
    world::{World, console, console_length, disk},
};

const IMAGE: u64 = 24;
const DISK: u64 = 64;
/// A writer holds back at most so much of what has been downloaded.
const HELD_BACK: u64 = 2 * MIB;

/// Where the plug is pulled, in the order of the writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// The first write: sector 0 says that a write is under way.
    Marker,
    /// Both ends are zeroed: a stale backup table is gone.
    EndsCleared,
    /// A tenth of the image is written.
    Tenth,
    /// Half of it.
    Half,
    /// All but the last piece.
    AlmostAll,
    /// The whole image is written and is being read back.
    Verifying,
    /// The first write of the config drive.
    ConfigDrive,
    /// The backup partition table.
    BackupTable,
    /// The first sectors but sector 0.
    FirstSectors,
    /// Sector 0: from here on the disk is whole, and nobody was told yet.
    SectorZero,
}

/// Which part of the image the web server gives before it waits.
fn held_at(point: Point) -> u64 {
    match point {
        Point::Marker | Point::EndsCleared => 0,
        Point::Tenth => IMAGE * MIB / 10,
        Point::Half => IMAGE * MIB / 2,
        Point::AlmostAll | Point::Verifying | Point::ConfigDrive | Point::BackupTable | Point::FirstSectors | Point::SectorZero => {
            IMAGE * MIB - 64 * 1024
        }
    }
}

/// Whether the machine is at the point, as its disk shows it.
fn is_at(point: Point, machine: &Machine, since: u64, os: &TinyOs) -> bool {
    let disk = machine.disk_path(0);
    // A piece of it is enough to be looked at every few milliseconds; the whole is compared when the plug is pulled.
    let written = |until: u64| os.has_range(&disk, until - HELD_BACK - 4096, until - HELD_BACK);
    match point {
        Point::Marker => disk_image::is_marked_in_progress(&disk),
        Point::EndsCleared => !disk_image::has_gpt_header(&disk, -1),
        Point::Tenth => os.has_range(&disk, HEAD, MIB),
        Point::Half | Point::AlmostAll => written(held_at(point)),
        Point::Verifying => console(machine, since).contains("order image verifying"),
        Point::ConfigDrive => disk_image::find_config_drive(&disk, IMAGE * MIB).is_some(),
        Point::BackupTable => disk_image::has_gpt_header(&disk, -1),
        Point::FirstSectors => disk_image::has_gpt_header(&disk, 1),
        Point::SectorZero => disk_image::is_bootable(&disk),
    }
}

/// Runs a machine to a point, pulls the plug there, and judges the disk.
async fn cut(world: &World, machine: &Machine, served: &Served, point: Point, os: &TinyOs, since: u64) {
    let name = &machine.spec.name;
    let disk = machine.disk_path(0);
    // It has opened the image, looked at its first bytes, and waits. Nothing is written before that.
    let at = held_at(point);
    let waits = || (served.requests() > 0 && served.sent() >= at).then_some(());
    world.until_seen(&format!("{name}: downloads up to byte {at}"), waits).await;
    let later_than = |other: Point| point as u8 > other as u8;
    if later_than(Point::ConfigDrive) {
        // The config drive is many writes; what follows it is few.
        machine.throttle_writes(0, 8).await.unwrap();
        served.release();
        let whole = || disk_image::has_config_drive_marker(&disk, IMAGE * MIB).then_some(());
        world.until_seen(&format!("{name}: the config drive is written"), whole).await;
        machine.throttle_writes(0, 2).await.unwrap();
    } else if !matches!(point, Point::Tenth | Point::Half | Point::AlmostAll) {
        machine.throttle_writes(0, 2).await.unwrap();
        served.release();
    }
    world
        .until_seen(&format!("{name}: at {point:?}"), || is_at(point, machine, since, os).then_some(()))
        .await;
    machine.power_off().await.unwrap();
    world.tell(&format!("{name}: plug pulled"));

    if point == Point::SectorZero {
        assert!(disk_image::is_bootable(&disk));
        return;
    }
    assert!(
        disk_image::is_marked_in_progress(&disk),
        "{point:?}: sector 0 does not say that a write is under way"
    );
    assert!(!disk_image::is_bootable(&disk), "{point:?}: sector 0 has a boot signature");
    if later_than(Point::AlmostAll) {
        assert!(os.has_data(&disk), "{point:?}: reached before all data was written");
    } else if at > HELD_BACK {
        assert!(
            os.has_range_but_zeros(&disk, HEAD, at - HELD_BACK),
            "{point:?}: what was written is not the image's"
        );
    }
    assert_eq!(
        disk_image::has_gpt_header(&disk, 1),
        later_than(Point::BackupTable),
        "{point:?}: primary table"
    );
    if matches!(point, Point::Half | Point::FirstSectors) {
        assert!(!world.boots_from(&disk, os).await, "{point:?}: firmware boots a half image");
        world.tell(&format!("{name}: with the disk alone, firmware finds nothing to boot"));
    }
}

/// One machine through some of the points, then to the end.
async fn machine_through(world: &World, name: &str, points: &[Point]) {
    let os = TinyOs::new(name, IMAGE);
    let file = format!("{name}.raw");
    let mut served = world.images.put(&file, os.bytes.clone(), None);
    world.image(name, &file, &os.digest(), ImageFormat::Raw).await;
    let machine = world.machine(name, vec![disk(&format!("CUT-{name}"), DISK)]);
    world.power_on(&machine).await;
    let (hardware, mut session) = world.session_of(&machine, "").await;
    world.until_ready(&hardware).await;
    let mut uid = String::new();
    let mut since = 0;
    for point in points {
        served.hold_at(held_at(*point).max(1));
        if uid.is_empty() {
            uid = world.instance(name, name, &hardware).await;
        } else {
            world.power_on(&machine).await;
            session = world.session_of(&machine, &session).await.1;
        }
        cut(world, &machine, &served, *point, &os, since).await;
        since = console_length(&machine);
        // Counts requests anew.
        served = world.images.put(&file, os.bytes.clone(), None);
        if *point == Point::SectorZero {
            continue;
        }
        // Whatever comes next owes nothing to this write: only its marker stays. What an earlier system may have left is there too, a backup table that
        // firmware would restore the primary one from.
        let (file, size) = (machine.disk_path(0), DISK * MIB);
        disk_image::write(&file, MIB, &vec![0x5a; usize::try_from(size - MIB).unwrap()]);
        disk_image::write(&file, size - 33 * 512, &os.bytes[os.bytes.len() - 33 * 512..]);
    }
    world.power_on(&machine).await;
    world.until_running(name, &machine, &os).await;
    os.assert_installed(&machine.disk_path(0), &uid);
    if points.last() == Some(&Point::SectorZero) {
        assert_eq!(served.requests(), 0, "a whole image was written again");
    } else {
        assert_eq!(served.requests(), 1, "the image was fetched more than once after the last cut");
    }
    assert!(
        world.boots_from(&machine.disk_path(0), &os).await,
        "the finished disk does not boot alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_never_leaves_half_an_image_that_boots() {
    let world = World::start().await;
    world.accept_all().await;
    let early = [Point::Marker, Point::EndsCleared, Point::Tenth, Point::Half, Point::AlmostAll];
    let late = [
        Point::Verifying,
        Point::ConfigDrive,
        Point::BackupTable,
        Point::FirstSectors,
        Point::SectorZero,
    ];
    tokio::join!(machine_through(&world, "early", &early), machine_through(&world, "late", &late));
    world.server.stop().await.unwrap();
}
