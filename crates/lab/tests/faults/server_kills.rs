//! One machine's life, in which the server is killed (SIGKILL) while the image is being written, between the verified image and `Running`, and while the
//! disk is being erased. It is started again on the same state; everything ends right, and what was done is not done again.

use agent_protocol::order::{ImageFormat, OrderKind, Outcome};
use api::InstancePhase;
use kube::api::DeleteParams;

use crate::{
    disk_image::{self, MIB, TinyOs},
    world::{LONG, World, console, disk},
};

const IMAGE: u64 = 24;

/// Kills the server, and starts it again.
async fn kill_server(world: &mut World, when: &str) {
    world.server.kill().await.unwrap();
    world.tell(&format!("server killed {when}"));
}

async fn start_again(world: &mut World) {
    world.server.start_again().await.unwrap();
    world.client = world.server.client().await.unwrap();
    world.tell("server started again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_outlives_three_deaths_of_the_server() {
    let mut world = World::start().await;
    world.accept_all().await;
    let os = TinyOs::new("kills", IMAGE);
    let served = world.images.put("kills.raw", os.bytes.clone(), None);
    world.image("tiny", "kills.raw", &os.digest(), ImageFormat::Raw).await;
    let machine = world.machine("kills", vec![disk("KILLS-1", 64)]);
    let file = machine.disk_path(0);
    world.power_on(&machine).await;
    let (hardware, session) = world.session_of(&machine, "").await;
    world.until_ready(&hardware).await;

    // While the image is being written.
    served.hold_at(IMAGE * MIB / 2);
    let uid = world.instance("one", "tiny", &hardware).await;
    world
        .until_seen("half of the image is on the disk", || {
            os.has_range(&file, MIB, IMAGE * MIB / 2 - 2 * MIB).then_some(())
        })
        .await;
    kill_server(&mut world, "while the image is being written").await;
    start_again(&mut world).await;
    // A step like this is written when there is time, by the server that comes after if need be.
    world
        .until_instance("one", "Imaging", 30, |i| {
            i.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Imaging)
        })
        .await;

    // Between the verified image and Running. The disk is whole, and nobody knows but the machine.
    served.release();
    world
        .until_seen("the first sector is in place", || disk_image::is_bootable(&file).then_some(()))
        .await;
    kill_server(&mut world, "before the machine could tell that its disk is whole").await;
    world
        .until_seen("the machine waits for somebody to tell", || {
            console(&machine, 0).contains("result not stored yet").then_some(())
        })
        .await;
    start_again(&mut world).await;
    world.until_running("one", &machine, &os).await;
    os.assert_installed(&file, &uid);
    let timeline = world.instances().get("one").await.unwrap().status.unwrap().timeline;
    let phases: Vec<InstancePhase> = timeline.iter().map(|t| t.phase).collect();
    let (mut once, times) = (phases.clone(), phases.len());
    once.sort();
    once.dedup();
    assert_eq!(once.len(), times, "a phase was entered twice: {phases:?}");
    assert_eq!(served.requests(), 1, "the image was fetched more than once");
    let order = world
        .discoveries()
        .get(&hardware)
        .await
        .unwrap()
        .status
        .unwrap()
        .accepted_order
        .unwrap();
    assert_eq!((order.kind, order.session.as_str()), (OrderKind::Image, session.as_str()));
    assert_eq!(console(&machine, 0).matches("order image id=").count(), 1, "one order, begun once");

    // While the disk is being erased. Nobody brings a boot sector back to the agent, so a person presses the button.
    world.instances().delete("one", &DeleteParams::default()).await.unwrap();
    world
        .until_instance("one", "Terminating", 30, |i| {
            i.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Terminating)
        })
        .await;
    machine.throttle_writes(0, 2).await.unwrap();
    machine.reset().await.unwrap();
    world
        .until_seen("the erase has begun", || disk_image::is_marked_in_progress(&file).then_some(()))
        .await;
    kill_server(&mut world, "while the disk is being erased").await;
    start_again(&mut world).await;
    machine.throttle_writes(0, 0).await.unwrap();
    let freed = world.until_ready(&hardware).await;
    let evidence = freed.status.unwrap().last_erase.unwrap();
    assert_eq!(evidence.claim_uid, uid);
    assert!(disk_image::is_blank(&file), "the machine is Ready and its disk is not blank");
    world
        .until("the instance is gone", LONG, async || {
            match world.instances().get_opt("one").await {
                Ok(None) => Ok(()),
                Ok(Some(_)) => Err("it is there".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    let seen = world.discoveries().get(&hardware).await.unwrap().status.unwrap();
    let result = seen.result.unwrap();
    assert_eq!(
        (result.kind, result.outcome, result.order_id),
        (OrderKind::Erase, Outcome::Succeeded, evidence.order_id)
    );
    assert_eq!(served.requests(), 1, "nothing was written again");
    world.server.stop().await.unwrap();
}
