//! Downloads, images and disks that are not what was declared. Each fault becomes a condition that names it and its remedy; the disk does not boot (or is
//! untouched, where the fault is what it holds); and doing what the message says goes on without other help.
//!
//! Two machines at a time: one meets its faults in a single boot into the agent, the other has its disks changed between boots.

use std::io::Write;

use agent_protocol::{disk::DiskIdentity, order::ImageFormat};
use api::{BareMetalHardware, BareMetalHardwareSpec, BareMetalInstance, HardwarePhase, InstancePhase, conditions, hardware::DiskHint};
use flate2::{Compression, write::GzEncoder};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    disk_image::{self, MIB, TinyOs, file_digest},
    world::{World, disk},
};

const IMAGE: u64 = 24;

fn order_failed(instance: &BareMetalInstance) -> Option<&Condition> {
    let conditions = &instance.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|c| c.type_ == conditions::ORDER_FAILED && c.status == "True")
}

/// Waits until the instance says what is wrong with its image; every one of `words` stands in the message.
async fn image_fault(world: &World, instance: &str, reason: &str, words: &[&str]) {
    let found = world
        .until_instance(instance, reason, 120, |i| order_failed(i).is_some_and(|c| c.reason == reason))
        .await;
    let condition = order_failed(&found).unwrap();
    println!("          {}", condition.message);
    for word in words {
        assert!(condition.message.contains(word), "{word:?} is not said: {}", condition.message);
    }
    // The one line that everybody reads says the same.
    let status = found.status.as_ref().unwrap();
    assert_eq!((status.reason.as_str(), &status.message), (reason, &condition.message));
    assert_ne!(status.phase, InstancePhase::Running);
}

/// Waits until the machine says what is wrong with its disks.
async fn disk_fault(world: &World, hardware: &str, reason: &str, words: &[&str]) -> String {
    let is_so = |h: &BareMetalHardware| h.status.as_ref().is_some_and(|s| s.reason == reason);
    let found = world.until_hardware(hardware, reason, 120, is_so).await.status.unwrap();
    println!("          {}", found.message);
    for word in words {
        assert!(found.message.contains(word), "{word:?} is not said: {}", found.message);
    }
    assert!(
        found.conditions.iter().any(|c| c.reason == reason && c.message == found.message),
        "no condition says {reason}"
    );
    found.message
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Two disks for one hint; a disk with somebody's data; a truncated download, wrong bytes, a wrong format, too large an image.
async fn one_boot_many_faults(world: &World) {
    let os = TinyOs::new("right", IMAGE);
    let other = TinyOs::new("other", IMAGE);
    let large = gzip(&TinyOs::new("large", 80).bytes);
    world.images.put("cut.raw", os.bytes.clone(), Some(IMAGE * MIB / 2));
    world.images.put("other.raw", other.bytes.clone(), None);
    world.images.put("large.gz", large.clone(), None);
    world.images.put("right.raw", os.bytes.clone(), None);

    // A disk with a system that somebody once installed and that would boot, and a second one of the same size.
    let machine = world.machine("images", vec![disk("OLD-1", 64), disk("KEEP-1", 64)]);
    let (first, second) = (machine.disk_path(0), machine.disk_path(1));
    let old = TinyOs::new("old", 32);
    disk_image::write(&first, 0, &old.bytes);
    disk_image::write(&second, 5 * MIB, b"nobody may touch this");
    let before = [file_digest(&first), file_digest(&second)];
    world.power_on(&machine).await;
    let (name, _) = world.session_of(&machine, "").await;

    let hint = DiskHint {
        min_size_bytes: Some(60 * MIB),
        ..DiskHint::default()
    };
    let keep = DiskIdentity {
        serial: Some("ANOTHER".to_owned()),
        ..DiskIdentity::default()
    };
    let spec = BareMetalHardwareSpec {
        root_disk: Some(hint),
        protected_disks: vec![keep],
        ..BareMetalHardwareSpec::default()
    };
    world.accept(&name, spec).await;
    let words = [
        "spec.rootDisk matches 2 disks",
        "OLD-1",
        "KEEP-1",
        "Name one of them by wwn, serial or byPath in spec.rootDisk",
    ];
    disk_fault(world, &name, "DiskAmbiguous", &words).await;
    assert_eq!(
        [file_digest(&first), file_digest(&second)],
        before,
        "a disk was changed although none was chosen"
    );

    // As the message says. The next fault shows that it went on.
    world
        .patch_hardware(
            &name,
            json!({ "spec": { "rootDisk": { "minSizeBytes": null, "serial": "OLD-1" } } }),
        )
        .await;
    let words = [
        "serial OLD-1",
        "gpt",
        "nobody gave up; nothing was changed",
        "kubectl patch bmh",
        "eraseConsent",
    ];
    let message = disk_fault(world, &name, "ForeignData", &words).await;
    assert_eq!(
        [file_digest(&first), file_digest(&second)],
        before,
        "data that nobody gave up was touched"
    );
    assert!(world.boots_from(&first, &old).await, "the old system boots as it did");

    // The message holds the very patch.
    let patch = message.split_once("-p '").and_then(|(_, rest)| rest.split_once('\'')).unwrap().0;
    let patch: Value = serde_json::from_str(patch).unwrap();
    world.patch_hardware(&name, patch).await;
    world.until_ready(&name).await;
    assert!(disk_image::is_blank(&first));

    // A person describes an image, and gets one thing after another wrong.
    world.image("os", "cut.raw", &os.digest(), ImageFormat::Raw).await;
    let uid = world.instance("images", "os", &name).await;
    let (half, whole) = ((IMAGE * MIB / 2).to_string(), (IMAGE * MIB).to_string());
    image_fault(
        world,
        "images",
        "ImageTruncated",
        &["cut.raw", &half, &whole, "correct spec.url of the BareMetalImage"],
    )
    .await;
    let not_bootable = |what: &str| assert!(!disk_image::is_bootable(&first), "{what}: the disk has a boot signature");
    not_bootable("truncated download");
    assert!(disk_image::is_marked_in_progress(&first));
    assert!(!world.boots_from(&first, &os).await);

    world.patch_image("os", json!({ "url": world.images.url("other.raw") })).await;
    let words = [
        "other.raw",
        &other.digest(),
        &os.digest(),
        "Correct spec.digest or spec.url of the BareMetalImage",
    ];
    image_fault(world, "images", "ImageDigestMismatch", &words).await;
    not_bootable("wrong digest");
    assert!(!world.boots_from(&first, &other).await);

    world
        .patch_image(
            "os",
            json!({ "url": world.images.url("large.gz"), "digest": disk_image::digest(&large) }),
        )
        .await;
    let words = ["declared as raw", "large.gz holds gz", "Correct spec.format of the BareMetalImage"];
    image_fault(world, "images", "ImageFormatMismatch", &words).await;
    not_bootable("wrong format");

    world.patch_image("os", json!({ "format": "Gzip" })).await;
    let size = (64 * MIB).to_string();
    let words = [
        "large.gz",
        &size,
        "Name a smaller image in the instance's spec.image",
        "larger disk in spec.rootDisk of the BareMetalHardware",
    ];
    image_fault(world, "images", "ImageTooLarge", &words).await;
    not_bootable("too large an image");

    world.image("small", "right.raw", &os.digest(), ImageFormat::Raw).await;
    let patch = Patch::Merge(json!({ "spec": { "image": "small" } }));
    world.instances().patch("images", &PatchParams::default(), &patch).await.unwrap();
    let running = world.until_running("images", &machine, &os).await;
    assert!(order_failed(&running).is_none(), "the fault is still shown");
    os.assert_installed(&first, &uid);
    assert_eq!(file_digest(&second), before[1], "the other disk was changed");
}

/// The root disk is swapped for a smaller one in the middle of a write; then it is missing altogether.
async fn disks_that_change(world: &World) {
    let os = TinyOs::new("disks", IMAGE);
    let served = world.images.put("disks.raw", os.bytes.clone(), None);
    world.image("disks", "disks.raw", &os.digest(), ImageFormat::Raw).await;
    let mut machine = world.machine("disks", vec![disk("SLOT-1", 64)]);
    let (file, aside) = (machine.disk_path(0), machine.disk_path(0).with_extension("aside"));
    world.power_on(&machine).await;
    let (name, session) = world.session_of(&machine, "").await;
    world.accept(&name, BareMetalHardwareSpec::default()).await;
    world.until_ready(&name).await;
    served.hold_at(IMAGE * MIB / 2);
    let uid = world.instance("disks", "disks", &name).await;
    let half_written = |file: &std::path::Path| os.has_range(file, MIB, IMAGE * MIB / 2 - 2 * MIB).then_some(());
    world
        .until_seen("disks: half of the image is written", || half_written(&file))
        .await;
    machine.power_off().await.unwrap();

    // Swapped for a smaller one that has the same name: a replacement that was given the old one's serial number.
    std::fs::rename(&file, &aside).unwrap();
    machine.0.spec.disks = vec![disk("SLOT-1", 48)];
    std::fs::File::create(&file).unwrap().set_len(48 * MIB).unwrap();
    world.power_on(&machine).await;
    let session = world.session_of(&machine, &session).await.1;
    let words = [
        "serial SLOT-1",
        "had 64.0 MiB",
        "has 48.0 MiB now",
        "Put that one back",
        "spec.rootDisk of BareMetalHardware",
    ];
    let message = disk_fault(world, &name, "DiskSizeMismatch", &words).await;
    mirrored(world, "DiskSizeMismatch", &message).await;
    assert!(disk_image::is_blank(&file), "a disk that was never accepted was written to");
    assert!(!disk_image::is_bootable(&aside));
    world
        .patch_hardware(&name, json!({ "spec": { "rootDisk": { "serial": "SLOT-1" } } }))
        .await;
    world
        .until_seen("disks: half of the image is on the smaller disk", || half_written(&file))
        .await;
    machine.power_off().await.unwrap();
    assert!(!disk_image::is_bootable(&file));

    // Missing: another disk stands in its place.
    std::fs::remove_file(&file).unwrap();
    machine.0.spec.disks = vec![disk("SLOT-2", 56)];
    std::fs::File::create(&file).unwrap().set_len(56 * MIB).unwrap();
    world.power_on(&machine).await;
    world.session_of(&machine, &session).await;
    let words = [
        "spec.rootDisk matches no usable disk",
        "serial SLOT-2",
        "56.0 MiB",
        "correct spec.rootDisk",
    ];
    let message = disk_fault(world, &name, "DiskNotFound", &words).await;
    mirrored(world, "DiskNotFound", &message).await;
    assert!(disk_image::is_blank(&file));
    served.release();
    world
        .patch_hardware(&name, json!({ "spec": { "rootDisk": { "serial": "SLOT-2" } } }))
        .await;
    world.until_running("disks", &machine, &os).await;
    os.assert_installed(&file, &uid);
    let phase = world.hardware().get(&name).await.unwrap().status.unwrap().phase;
    assert_eq!(phase, HardwarePhase::InUse);
}

/// The tenant, who cannot see machines, is told the same.
async fn mirrored(world: &World, reason: &str, message: &str) {
    let is_so = |i: &BareMetalInstance| i.status.as_ref().is_some_and(|s| s.reason == reason && s.message == message);
    world.until_instance("disks", &format!("says {reason}"), 10, is_so).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_names_its_remedy_and_the_remedy_works() {
    let world = World::start().await;
    tokio::join!(one_boot_many_faults(&world), disks_that_change(&world));
    world.server.stop().await.unwrap();
}
