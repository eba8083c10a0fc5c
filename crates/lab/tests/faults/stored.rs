//! A packed image from the image store, through the real agent; then the same image again, in place, because the instance asks for it.

use agent_protocol::order::{ImageEvidence, ImageFormat, OrderKind};
use api::{BareMetalImageSpec, BareMetalInstance, HardwarePhase, InstancePhase};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::{
    disk_image::{MIB, TinyOs},
    world::{LONG, World, disk},
};

/// Large enough to be seen being written.
const IMAGE: u64 = 96;
const DISK: u64 = 160;

/// Waits until the order to write the image is in force, and holds it to be a packed one.
async fn packed_order(world: &World, hardware: &str, before: &str) -> String {
    let ordered = |h: &api::BareMetalHardware| {
        let order = h.status.as_ref().and_then(|s| s.order.as_ref());
        order.is_some_and(|o| o.kind == OrderKind::Image && o.id != before)
    };
    let found = world.until_hardware(hardware, "an order for the image", LONG, ordered).await;
    let order = found.status.unwrap().order.unwrap();
    let packed = order
        .image
        .unwrap()
        .packed
        .expect("the order names the image as the store packed it");
    assert!(packed.digest.starts_with("blake3:") && !packed.urls.is_empty(), "{packed:?}");
    order.id
}

async fn is_shown_writing(world: &World, name: &str) {
    let shown = |i: &BareMetalInstance| {
        let status = i.status.as_ref();
        status.is_some_and(|s| s.phase == InstancePhase::Imaging && s.progress_text.as_ref().is_some_and(|t| t.contains('%')))
    };
    let seen = world.until_instance(name, "progress is shown", LONG, shown).await;
    world.tell(&format!("{name}: {}", seen.status.unwrap().progress_text.unwrap()));
}

fn evidence(instance: &BareMetalInstance) -> ImageEvidence {
    instance
        .status
        .as_ref()
        .and_then(|s| s.image.clone())
        .expect("evidence of the image")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_image_is_written_and_written_anew_by_difference() {
    let world = World::start_with(&["--image-store"]).await;
    world.accept_all().await;
    let os = TinyOs::with_quiet_ends("stored", IMAGE);
    let served = world.images.put("stored.raw", os.bytes.clone(), None);
    let spec = BareMetalImageSpec {
        // The store fetches it, not the machine.
        url: world.images.url_from_here("stored.raw"),
        digest: os.digest(),
        format: ImageFormat::Raw,
        ..BareMetalImageSpec::default()
    };
    world.image_of("stored", spec).await;
    let machine = world.machine("stored", vec![disk("STORED", DISK)]);
    world.power_on(&machine).await;
    let (hardware, session) = world.session_of(&machine, "").await;
    world.until_ready(&hardware).await;
    machine.throttle_writes(0, 12).await.unwrap();
    let uid = world.instance("stored", "stored", &hardware).await;
    let first = packed_order(&world, &hardware, "").await;
    is_shown_writing(&world, "stored").await;
    machine.throttle_writes(0, 0).await.unwrap();
    let running = world.until_running("stored", &machine, &os).await;
    os.assert_installed(&machine.disk_path(0), &uid);
    let whole = evidence(&running);
    let fetched = whole.fetched_bytes.expect("this agent says what it fetched");
    assert!(fetched > (IMAGE - 8) * MIB, "{whole:?}");
    assert_eq!((whole.order_id.as_str(), whole.reused_bytes), (first.as_str(), Some(0)));
    assert_eq!(served.requests(), 1, "the store fetched it once, and no machine did");

    // The same once more, in place. There is no guest helper in a boot sector: somebody presses the button.
    let before = world.hardware().get(&hardware).await.unwrap();
    world
        .instances()
        .patch(
            "stored",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"reinstallToken": "once more"}})),
        )
        .await
        .unwrap();
    let waits = |h: &api::BareMetalHardware| {
        h.status
            .as_ref()
            .is_some_and(|s| s.phase == HardwarePhase::Reserved && s.replacing.is_some())
    };
    world.until_hardware(&hardware, "the machine is waited for", 30, waits).await;
    machine.reset().await.unwrap();
    world.session_of(&machine, &session).await;
    let second = packed_order(&world, &hardware, &first).await;
    let again = |i: &BareMetalInstance| {
        let status = i.status.as_ref();
        status.is_some_and(|s| s.phase == InstancePhase::Running && s.image.as_ref().is_some_and(|e| e.order_id == second))
    };
    let running = world.until_instance("stored", "Running again", LONG, again).await;
    os.assert_installed(&machine.disk_path(0), &uid);
    let by_difference = evidence(&running);
    world.tell(&format!(
        "first {} KiB fetched in {} ms, again {} KiB in {} ms",
        fetched >> 10,
        whole.duration_ms,
        by_difference.fetched_bytes.unwrap() >> 10,
        by_difference.duration_ms
    ));
    assert!(by_difference.fetched_bytes.unwrap() <= MIB, "{by_difference:?}");
    assert!(by_difference.reused_bytes.unwrap() > (IMAGE - 8) * MIB, "{by_difference:?}");
    let after = world.hardware().get(&hardware).await.unwrap();
    assert_eq!(after.spec.claim_ref, before.spec.claim_ref, "the machine stays with its instance");
    let (old, new) = (before.status.unwrap(), after.status.unwrap());
    assert_eq!(new.last_erase, old.last_erase, "nothing was erased");
    assert!(new.replacing.is_none());
    assert_eq!(served.requests(), 1, "the store still has it");
    assert!(world.boots_from(&machine.disk_path(0), &os).await);
    world.server.stop().await.unwrap();
}
