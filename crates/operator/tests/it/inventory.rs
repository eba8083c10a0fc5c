//! Machines that were never switched on: their BMCs say what they are. What their agents say later, and what becomes of those that are not who their BMCs say they are.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalHardwareSpec, HardwarePhase,
    bmc_inventory::{BmcInventory, BmcInventorySource},
    conditions,
};
use bmc_simulator::{Options, Simulator, profile};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use crate::{
    embedded::embedded,
    power::credentials,
    support::{Bench, bench, create, machine::Machine, phase_is, until},
};

async fn simulator(controllers: usize) -> Simulator {
    let options = Options {
        controllers,
        profiles: vec![profile::named("idrac-9").expect("a profile")],
        ..Options::default()
    };
    Simulator::start(options).await.expect("it starts")
}

fn hardware(bench: &Bench) -> Api<BareMetalHardware> {
    Api::all(bench.client.clone())
}

/// What a person writes down who knows nothing but the BMC.
async fn written_down(bench: &Bench, name: &str, url: &str) {
    let power = json!({"redfish": {"address": url, "insecure": true, "credentials": {"name": "bmc"}}});
    let spec = BareMetalHardwareSpec {
        discovery_name: name.to_owned(),
        power: serde_json::from_value(power).expect("a spec"),
        ..BareMetalHardwareSpec::default()
    };
    create(&hardware(bench), &BareMetalHardware::new(name, spec)).await;
}

async fn told(bench: &Bench, name: &str) -> BmcInventory {
    until("its BMC has told", async || {
        hardware(bench).get(name).await.ok()?.status?.bmc_inventory
    })
    .await
}

/// A machine that is the one behind a controller.
fn behind(bench: &Bench, simulator: &Simulator, index: usize, name: &str) -> Machine {
    let bmc = simulator.bmc(index);
    let mut machine = Machine::new(&bench.client, name, 7);
    machine.uuid = bmc.uuid(0).parse().ok();
    machine.serial = bmc.serial(0);
    machine.mac = bmc.mac(0, 0).parse().expect("a MAC address");
    machine
}

fn identity(hardware: &BareMetalHardware) -> Option<(String, String)> {
    let conditions = &hardware.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == conditions::BMC_IDENTITY)?;
    Some((found.reason.clone(), found.message.clone()))
}

async fn events(bench: &Bench, reason: &str) -> Vec<String> {
    let all = Api::<Event>::all(bench.client.clone()).list(&ListParams::default()).await.unwrap();
    let of = all.items.iter().filter(|event| event.reason.as_deref() == Some(reason));
    of.filter_map(|event| event.note.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_tells_what_a_machine_is_before_it_ever_booted_and_the_agent_has_the_last_word() {
    let directory = tempfile::tempdir().unwrap();
    let (server, bench) = embedded(&directory).await;
    let simulator = simulator(1).await;
    credentials(&bench, "simulated-Pass-1").await;
    bench.image("debian").await;
    written_down(&bench, "rack1-u12", &simulator.url(0)).await;
    let inventory = told(&bench, "rack1-u12").await;
    let bmc = simulator.bmc(0);
    assert_eq!(
        (inventory.source, &inventory.address),
        (BmcInventorySource::Redfish, &simulator.url(0))
    );
    let system = &inventory.system;
    assert_eq!(
        (system.vendor.as_deref(), system.product.as_deref(), system.serial.clone()),
        (Some("Dell Inc."), Some("PowerEdge R750"), Some(bmc.serial(0)))
    );
    assert_eq!((system.uuid, system.bios.as_deref()), (bmc.uuid(0).parse().ok(), Some("1.4")));
    assert_eq!((inventory.cpu.sockets, inventory.cpu.cores, inventory.cpu.threads), (2, 32, 64));
    assert_eq!((inventory.memory.bytes, inventory.cpu.architecture.as_str()), (64 << 30, "amd64"));
    assert_eq!(
        (inventory.nics.len(), inventory.nics[0].mac.to_string(), inventory.nics[0].link),
        (2, bmc.mac(0, 0), Some(true))
    );
    assert_eq!((inventory.drives.len(), inventory.missing.len()), (6, 0));

    // It has sizes, and is no nearer to an instance by them.
    let shown = until("its sizes are shown", async || {
        let status = hardware(&bench).get("rack1-u12").await.ok()?.status?;
        (status.capacity.len() == 3).then_some(status)
    })
    .await;
    let size = |name: &str| shown.capacity[name].0.clone();
    assert_eq!(
        (size("cpu"), size("memory"), size("disk")),
        ("64".to_owned(), "65536Mi".to_owned(), "457862Mi".to_owned())
    );
    assert_eq!((shown.phase, shown.reason.as_str()), (HardwarePhase::Inspecting, "KnownFromBmc"));
    assert!(
        shown.message.contains("PowerEdge R750") && shown.message.contains(&bmc.serial(0)),
        "{}",
        shown.message
    );
    assert!(!conditions::is_true(&shown.conditions, conditions::READY) && shown.root_disk.is_none());
    assert_eq!(bmc.hosts[0].boots().len(), 0, "nobody booted it");
    let pending = async |name: &str, memory: &str, why: &str| {
        bench
            .create_instance(name, |spec| {
                spec.requests = serde_json::from_value(json!({ "memory": memory })).expect("requests")
            })
            .await;
        until(why, async || {
            let status = bench.instance(name).await.status?;
            status.message.contains(why).then_some(())
        })
        .await;
        bench.delete_instance(name).await;
    };
    pending("small", "1Gi", "1 not ready").await;
    pending("large", "512Gi", "too little memory").await;

    // Its agent comes, and finds less.
    let mut machine = behind(&bench, &simulator, 0, "rack1-u12");
    machine.open_session().await;
    let ready = machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    let status = ready.status.expect("a status");
    assert_eq!(
        (status.capacity["cpu"].0.as_str(), status.capacity["memory"].0.as_str()),
        ("4", "8192Mi")
    );
    let kept = until("what the BMC said is only a name now", async || {
        let kept = machine.hardware().await?.status?.bmc_inventory?;
        kept.identity_only.then_some(kept)
    })
    .await;
    assert_eq!(
        (kept.drives.len(), kept.cpu.threads, kept.system.serial),
        (0, 0, Some(bmc.serial(0)))
    );
    assert_eq!(identity(&machine.hardware().await.expect("it is there")), None);
    assert_eq!(
        hardware(&bench).list(&ListParams::default()).await.unwrap().items.len(),
        1,
        "one machine, one object"
    );
    let before = bmc.requests();
    // A change of the spec that is none of the BMC.
    bench.patch(&hardware(&bench), "rack1-u12", json!({"class": "large"})).await;
    until("that is seen", async || {
        let seen = machine.hardware().await?;
        (seen.status?.observed_generation == seen.metadata.generation).then_some(())
    })
    .await;
    assert!(bmc.requests() - before < 5, "it is not read again");
    bench.end().await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_belongs_to_another_machine_is_named_until_the_right_one_is() {
    let bench = bench().await;
    let simulator = simulator(2).await;
    credentials(&bench, "simulated-Pass-1").await;
    bench.policy(|_| {}).await;
    // It was seen before anybody named a BMC: then only who it is is asked for.
    let mut machine = behind(&bench, &simulator, 1, "m-seen");
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    let power = |url: String| json!({"power": {"redfish": {"address": url, "insecure": true, "credentials": {"name": "bmc"}}}});
    bench.patch(&hardware(&bench), "m-seen", power(simulator.url(0))).await;
    let (reason, message) = until("the wrong BMC is named", async || identity(&machine.hardware().await?)).await;
    assert_eq!(reason, "OtherMachine");
    assert!(
        message.contains(&simulator.bmc(0).uuid(0)) && message.contains(&simulator.bmc(1).uuid(0)),
        "{message}"
    );
    let status = machine.hardware().await.and_then(|h| h.status).expect("a status");
    assert_eq!(
        (status.phase, status.capacity["cpu"].0.as_str()),
        (HardwarePhase::Ready, "4"),
        "the agent's word stands"
    );
    let first = status.bmc_inventory.expect("it was read");
    assert!(first.identity_only && first.drives.is_empty());
    until("an event says so", async || events(&bench, "BmcIdentity").await.pop()).await;
    bench.patch(&hardware(&bench), "m-seen", power(simulator.url(1))).await;
    until("it is the right one", async || {
        let seen = machine.hardware().await?;
        let right = seen.status.as_ref()?.bmc_inventory.as_ref()?.address == simulator.url(1);
        (right && identity(&seen).is_none()).then_some(())
    })
    .await;
    // And it is forgotten with the driver.
    bench.patch(&hardware(&bench), "m-seen", json!({"power": null})).await;
    until("nothing is left of it", async || {
        machine.hardware().await?.status?.bmc_inventory.is_none().then_some(())
    })
    .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_a_bmc_told_of_is_not_accepted_a_second_time() {
    let bench = bench().await;
    let simulator = simulator(1).await;
    credentials(&bench, "simulated-Pass-1").await;
    written_down(&bench, "rack1-u12", &simulator.url(0)).await;
    told(&bench, "rack1-u12").await;
    bench.policy(|_| {}).await;
    // It registers under another name, as one does that came before its BMC was asked.
    let mut machine = behind(&bench, &simulator, 0, "m-early");
    machine.open_session().await;
    let (reason, message) = until("a person is told", async || {
        identity(&hardware(&bench).get("rack1-u12").await.ok()?)
    })
    .await;
    assert_eq!(reason, "KnownAlready");
    assert!(
        message.contains("m-early") && message.contains("discoveryName m-early"),
        "{message}"
    );
    until("the machine is held", async || events(&bench, "Held").await.pop()).await;
    let names =
        |list: kube::core::ObjectList<BareMetalHardware>| list.items.into_iter().filter_map(|h| h.metadata.name).collect::<Vec<_>>();
    assert_eq!(names(hardware(&bench).list(&ListParams::default()).await.unwrap()), ["rack1-u12"]);
    // A stranger is none of that.
    let mut stranger = Machine::new(&bench.client, "m-other", 9);
    stranger.open_session().await;
    stranger.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    // The person decides: the object that was written down goes.
    hardware(&bench).delete("rack1-u12", &DeleteParams::default()).await.unwrap();
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    let seen: Api<BareMetalDiscovery> = Api::all(bench.client.clone());
    assert_eq!(seen.list(&ListParams::default()).await.unwrap().items.len(), 2);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_does_not_tell_is_in_nobodys_way() {
    let bench = bench().await;
    // Once it was found, it can be asked whether it is on; the root, with which an inventory begins, is not there any more.
    let found = AtomicBool::new(false);
    let options = Options {
        profiles: vec![profile::named("idrac-9").expect("a profile")],
        rewrite: Some(Arc::new(move |path: &str, document: Value| {
            if path.starts_with("/redfish/v1/Systems/") {
                found.store(true, Ordering::SeqCst);
            }
            let gone = path == "/redfish/v1" && found.load(Ordering::SeqCst);
            if gone { json!("gone") } else { document }
        })),
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.expect("it starts");
    credentials(&bench, "simulated-Pass-1").await;
    written_down(&bench, "rack1-u12", &simulator.url(0)).await;
    until("it is said that it did not tell", async || {
        events(&bench, "BmcInventoryFailed").await.pop()
    })
    .await;
    let mut machine = behind(&bench, &simulator, 0, "rack1-u12");
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    bench.end().await;
}
