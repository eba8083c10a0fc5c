//! Machines and instances find each other: once each, and again after objects were lost.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    Bench, bench, gone, instance_at, instance_until,
    machine::{Machine, Place},
    phase_is, until,
};
use agent_protocol::order::OrderKind;
use api::{BareMetalAddress, BareMetalHardware, BareMetalInstance, HardwarePhase, InstancePhase, common::NetworkRef};
use kube::{Api, ResourceExt, api::ListParams};

async fn machines(bench: &Bench, names: &[&str]) -> Vec<Machine> {
    let mut all = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let mut machine = Machine::new(&bench.client, name, number as u8);
        machine.open_session().await;
        machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
        all.push(machine);
    }
    all
}

fn claims(all: &[BareMetalHardware]) -> Vec<(String, String)> {
    all.iter()
        .filter_map(|h| Some((h.name_any(), h.spec.claim_ref.as_ref()?.uid.clone())))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preset_machine_is_taken_and_a_second_instance_for_it_waits() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut all = machines(&bench, &["m-a", "m-b"]).await;
    bench.create_instance("first", |s| s.hardware_name = Some("m-b".to_owned())).await;
    instance_at(&bench, &mut all[1], "first", InstancePhase::Running).await;
    bench.create_instance("second", |s| s.hardware_name = Some("m-b".to_owned())).await;
    let waits = instance_until(&bench, &mut all[1], "second", "HardwareTaken", |i| {
        i.status.as_ref().is_some_and(|s| s.reason == "HardwareTaken")
    })
    .await;
    let status = waits.status.unwrap();
    assert_eq!(status.phase, InstancePhase::Pending);
    assert!(status.message.contains("default/first"), "{}", status.message);
    // When the first one goes, the second gets the machine, after an erase.
    bench.delete_instance("first").await;
    gone(&bench, &mut all[1], "first").await;
    instance_at(&bench, &mut all[1], "second", InstancePhase::Running).await;
    let kinds: Vec<_> = all[1].obeyed.iter().map(|o| o.0).collect();
    assert_eq!(kinds, [OrderKind::Image, OrderKind::Erase, OrderKind::Image]);
    assert!(all[0].obeyed.is_empty());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_machines_leave_an_instance_pending_and_say_why() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut all = machines(&bench, &["m-only"]).await;
    bench.create_instance("a", |_| {}).await;
    instance_at(&bench, &mut all[0], "a", InstancePhase::Running).await;
    bench.create_instance("b", |_| {}).await;
    bench
        .create_instance("c", |s| {
            let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity("64Gi".to_owned());
            s.requests.insert("memory".to_owned(), quantity);
        })
        .await;
    let message = |part: &'static str| move |i: &BareMetalInstance| i.status.as_ref().is_some_and(|s| s.message.contains(part));
    let b = instance_until(&bench, &mut all[0], "b", "why pending", message("0/1 machines fit: 1 in use")).await;
    instance_until(&bench, &mut all[0], "c", "why pending", message("1 has too little memory")).await;
    assert!(b.spec.hardware_name.is_none());
    bench.delete_instance("a").await;
    gone(&bench, &mut all[0], "a").await;
    instance_at(&bench, &mut all[0], "b", InstancePhase::Running).await;
    // A pending instance is deleted at once.
    bench.delete_instance("c").await;
    gone(&bench, &mut all[0], "c").await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_instances_never_share_a_machine() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let names: Vec<String> = (0..24).map(|n| format!("m-{n:02}")).collect();
    let mut lives = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let mut machine = Machine::new(&bench.client, name, number as u8);
        lives.push(tokio::spawn(async move {
            machine.idle = Duration::from_millis(150);
            machine.open_session().await;
            machine
                .live_until(90, "an instance runs", |h| phase_is(HardwarePhase::InUse)(h))
                .await;
            for _ in 0..20 {
                machine.step().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            machine.place
        }));
    }
    for n in 0..24 {
        bench.create_instance(&format!("i-{n:02}"), |_| {}).await;
    }
    for life in lives {
        assert_eq!(life.await.unwrap(), Place::Disk);
    }
    let hardware: Api<BareMetalHardware> = Api::all(bench.client.clone());
    let all = hardware.list(&ListParams::default()).await.unwrap().items;
    let uids: BTreeSet<String> = claims(&all).into_iter().map(|c| c.1).collect();
    assert_eq!(uids.len(), 24, "each claim is another instance's");
    let instances = bench.instances().list(&ListParams::default()).await.unwrap().items;
    let named: BTreeSet<String> = instances.iter().filter_map(|i| i.spec.hardware_name.clone()).collect();
    assert_eq!(named.len(), 24, "each instance names another machine");
    let (conflicts, fine) = (
        bench.metrics.reconciles("BareMetalHardware", "conflict") + bench.metrics.reconciles("BareMetalInstance", "conflict"),
        bench.metrics.reconciles("BareMetalHardware", "ok") + bench.metrics.reconciles("BareMetalInstance", "ok"),
    );
    println!("{conflicts} conflicts, {fine} reconciles without");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_network_is_named_and_a_freed_address_is_used() {
    let bench = bench().await;
    crate::support::network(&bench, "tiny", "192.0.2.0/28", "192.0.2.4", "192.0.2.4").await;
    bench.policy(|p| p.network_ref = Some(NetworkRef::network("tiny"))).await;
    bench.image("debian").await;
    let mut all = machines(&bench, &["m-a", "m-b"]).await;
    bench.create_instance("one", |s| s.hardware_name = Some("m-a".to_owned())).await;
    instance_at(&bench, &mut all[0], "one", InstancePhase::Running).await;
    bench.create_instance("two", |s| s.hardware_name = Some("m-b".to_owned())).await;
    let waits = instance_until(&bench, &mut all[1], "two", "AddressesExhausted", |i| {
        i.status.as_ref().is_some_and(|s| s.reason == "AddressesExhausted")
    })
    .await;
    assert!(waits.status.unwrap().message.contains("spec.ipv4.ranges"));
    bench.delete_instance("one").await;
    gone(&bench, &mut all[0], "one").await;
    let two = instance_at(&bench, &mut all[1], "two", InstancePhase::Running).await;
    assert_eq!(two.status.unwrap().addresses, ["192.0.2.4/28"]);
    let addresses: Api<BareMetalAddress> = Api::all(bench.client.clone());
    let held = addresses.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(held.iter().map(|a| a.spec.instance.as_str()).collect::<Vec<_>>(), ["default/two"]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_half_of_the_binding_is_restored_and_nothing_is_erased() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut all = machines(&bench, &["m-a", "m-b"]).await;
    bench.create_instance("web", |s| s.hardware_name = Some("m-a".to_owned())).await;
    let instance = instance_at(&bench, &mut all[0], "web", InstancePhase::Running).await;
    let uid = instance.uid().unwrap();
    let obeyed = all[0].obeyed.clone();

    // A replace lost the machine's half.
    bench.store.edit("baremetalhardware", "", "m-a", |h| {
        h["spec"].as_object_mut().unwrap().remove("claimRef");
        h["metadata"]["finalizers"] = serde_json::json!([]);
    });
    let restored = all[0]
        .live_until(30, "the claim again", |h| h.spec.claim_ref.as_ref().is_some_and(|c| c.uid == uid))
        .await;
    assert_eq!(restored.finalizers(), [api::FINALIZER_CLAIM]);

    // A restored backup lost the instance's half.
    bench.store.edit("baremetalinstances", "default", "web", |i| {
        i["spec"].as_object_mut().unwrap().remove("hardwareName");
    });
    let restored = instance_until(&bench, &mut all[0], "web", "its machine again", |i| i.spec.hardware_name.is_some()).await;
    assert_eq!(
        restored.spec.hardware_name.as_deref(),
        Some("m-a"),
        "the machine it has, not the free one"
    );

    // The hardware's status is lost, claim and spec are there.
    bench.store.edit("baremetalhardware", "", "m-a", |h| {
        h.as_object_mut().unwrap().remove("status");
    });
    all[0].live_until(30, "InUse again", phase_is(HardwarePhase::InUse)).await;
    for _ in 0..30 {
        all[0].step().await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(all[0].obeyed, obeyed, "no order was given for any of it");
    assert!(all[1].hardware().await.unwrap().spec.claim_ref.is_none());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_list_changes_nothing() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut all = machines(&bench, &["m-a"]).await;
    bench.create_instance("web", |_| {}).await;
    instance_at(&bench, &mut all[0], "web", InstancePhase::Running).await;
    // Another operator takes over, with empty caches and memories.
    let bench = bench.restart(|_| {}).await;
    for _ in 0..40 {
        all[0].step().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let writes: Vec<String> = bench.take_log().into_iter().filter(|r| !r.starts_with("GET")).collect();
    assert_eq!(writes, Vec::<String>::new(), "everything stands as it should");
    bench.delete_instance("web").await;
    gone(&bench, &mut all[0], "web").await;
    until("Ready", || async {
        all[0].hardware().await.filter(|h| phase_is(HardwarePhase::Ready)(h))
    })
    .await;
    bench.end().await;
}
