//! One machine through its whole life, and what that costs in requests.

use crate::support::{
    Bench, bench, bench_with, gone, instance_at,
    machine::{Machine, NETBOOT, foreign},
    phase_is, until,
};
use agent_protocol::{
    disk::{ContentsState, DiskContents},
    order::OrderKind,
    token::TokenKey,
};
use api::{BareMetalAddress, BareMetalEndpoint, HardwarePhase, InstancePhase, instance::RunningEvidence};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, ResourceExt, api::ListParams};

/// Steps that follow each other within this time cost one write.
const STEPS: std::time::Duration = std::time::Duration::from_secs(4);

/// Lets what is on its way be written, so that it is counted: waits until nothing was asked for a while.
async fn quiet(bench: &Bench) {
    let mut last = usize::MAX;
    loop {
        let now = bench.log.lock().unwrap().len();
        if now == last {
            return;
        }
        last = now;
        tokio::time::sleep(STEPS + std::time::Duration::from_millis(1500)).await;
    }
}

fn count(part: &str, mut log: Vec<String>, writes: u32, budget: usize) {
    // Read once a minute for all machines together.
    log.retain(|r| !r.ends_with("/secrets/netboot-keys"));
    let total = log.len() + writes as usize;
    println!(
        "{part}: {total} requests, {writes} of them netboot's; the operator's:\n  {}",
        log.join("\n  ")
    );
    assert!(total <= budget, "{part} costs {total} requests, budget {budget}: {log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_lives_its_whole_life_within_the_budget() {
    // Long enough that a loaded machine that runs this test passes its steps as fast as a simulated one on an idle one.
    let bench = bench_with(|c| {
        c.step_interval = STEPS;
        c.event_hold = STEPS;
    })
    .await;
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    quiet(&bench).await;
    bench.take_log();

    let mut machine = Machine::new(&bench.client, "m-one", 1);
    machine.contents = foreign("old data");
    machine.open_session().await;
    let hardware = machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    let status = hardware.status.unwrap();
    assert_eq!(machine.obeyed.iter().map(|o| o.0).collect::<Vec<_>>(), [OrderKind::Erase]);
    assert_eq!(status.last_erase.unwrap().order_id, machine.obeyed[0].1);
    quiet(&bench).await;
    count("first boot to Ready", bench.take_log(), std::mem::take(&mut machine.writes), 11);

    bench.create_instance("web", |_| {}).await;
    let instance = instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    let status = instance.status.clone().unwrap();
    assert_eq!(status.evidence, Some(RunningEvidence::GuestReported));
    assert_eq!(instance.spec.hardware_name.as_deref(), Some("m-one"));
    let seed = machine.seed.take().unwrap();
    assert!(seed.files["openstack/latest/meta_data.json"].contains("ssh-ed25519 AAAA test"));
    let guest: agent_protocol::guest::GuestConfig = serde_json::from_str(&seed.files["kube-baremetal/guest.json"]).unwrap();
    let claims = TokenKey::new(&[7; 32]).unwrap().check_guest(&guest.token).unwrap();
    assert_eq!((Some(claims.instance_uid), claims.hardware.as_str()), (instance.uid(), "m-one"));
    quiet(&bench).await;
    // Seven writes that cannot be left out, two events, and netboot's acceptance, result, boot record and guest: 13. A step that comes late on a loaded host is
    // written by itself, so the ceiling is higher.
    count("claim to Running", bench.take_log(), std::mem::take(&mut machine.writes), 16);
    let secrets: Api<Secret> = Api::namespaced(bench.client.clone(), NETBOOT);
    assert!(secrets.get_opt("seed-m-one").await.unwrap().is_some());
    machine.seed = Some(seed);

    bench.delete_instance("web").await;
    gone(&bench, &mut machine, "web").await;
    let hardware = machine
        .live_until(30, "Ready again", |h| {
            phase_is(HardwarePhase::Ready)(h) && h.spec.claim_ref.is_none()
        })
        .await;
    assert!(
        secrets.get_opt("seed-m-one").await.unwrap().is_none(),
        "the seed goes with the claim"
    );
    let status = hardware.status.unwrap();
    let kinds: Vec<_> = machine.obeyed.iter().map(|o| o.0).collect();
    assert_eq!(kinds, [OrderKind::Erase, OrderKind::Image, OrderKind::Erase]);
    let evidence = status.last_erase.unwrap();
    assert_eq!(
        (evidence.order_id, Some(evidence.claim_uid)),
        (machine.obeyed[2].1.clone(), instance.uid())
    );
    assert_eq!(machine.contents.state, ContentsState::Blank);
    assert!(hardware.metadata.finalizers.unwrap_or_default().is_empty());
    quiet(&bench).await;
    count("deletion to Ready", bench.take_log(), machine.writes, 14);

    let events: Api<Event> = Api::all(bench.client.clone());
    let reasons: Vec<String> = events
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .filter_map(|e| e.reason)
        .collect();
    for reason in ["Ready", "Running", "Released"] {
        assert!(reasons.iter().any(|r| r == reason), "{reason} was told: {reasons:?}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_machine_costs_nothing() {
    let bench = bench().await;
    bench.policy(|_| {}).await;
    let mut machine = Machine::new(&bench.client, "m-idle", 1);
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    assert_eq!(machine.contents, DiskContents::blank());
    assert!(machine.obeyed.is_empty(), "a blank disk needs no erase");
    quiet(&bench).await;
    bench.take_log();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(bench.take_log(), Vec::<String>::new());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_on_a_network_gets_an_address_and_gives_it_back() {
    let bench = bench().await;
    crate::support::network(&bench, "lan", "192.0.2.0/28", "192.0.2.4", "192.0.2.5").await;
    bench
        .policy(|p| p.network_ref = Some(api::common::NetworkRef::network("lan")))
        .await;
    bench.image("debian").await;
    let mut machine = Machine::new(&bench.client, "m-net", 1);
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    bench.create_instance("web", |_| {}).await;
    let instance = instance_at(&bench, &mut machine, "web", InstancePhase::Running).await;
    assert_eq!(instance.status.unwrap().addresses, ["192.0.2.4/28"]);
    let network = &machine.seed.as_ref().unwrap().files["openstack/latest/network_data.json"];
    assert!(network.contains("192.0.2.4") && network.contains("52:54:00:00:01:01"), "{network}");
    let addresses: Api<BareMetalAddress> = Api::all(bench.client.clone());
    let held = addresses.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(held.iter().map(|a| a.name_any()).collect::<Vec<_>>(), ["lan.c0000204"]);

    bench.delete_instance("web").await;
    gone(&bench, &mut machine, "web").await;
    until("the address is given back", || async {
        addresses.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    let endpoints: Api<BareMetalEndpoint> = Api::all(bench.client.clone());
    until("the endpoint is collected", || async {
        endpoints.list(&ListParams::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    bench.end().await;
}
