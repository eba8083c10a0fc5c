//! Many BMCs of all kinds, of which a fifth is dead or slow: the state of the others is known in time, that of machines that somebody switches at once where their BMC tells, sockets are few, and machines that have nothing to do with them are decided about as fast as without
//! the dead ones. Both worlds one after the other in one run.
//!
//! `KBM_BMCS=2000` is the size that is promised; a tenth of it is part of every run.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use api::{
    BareMetalHardware, BareMetalHardwareSpec, HardwarePhase,
    power::{PowerEvents, PowerState, PowerStatus},
};
use bmc_simulator::{
    Options, Simulator,
    faults::{Conduct, Fault, Operation, What, Which},
    host::Command,
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    bmc_events::receives,
    power::credentials,
    support::{Bench, bench_with, create, until},
};

/// Machines without a driver, on whose decisions nothing of this may show.
const OTHERS: usize = 50;
/// Between two checks; a hundred seconds outside of tests.
const CHECK: Duration = Duration::from_secs(15);
/// What a check may take on top of that, of all machines.
const MARGIN: Duration = Duration::from_secs(20);
/// After what time a machine that somebody switched is known to be so where its BMC tells.
const TOLD: Duration = Duration::from_secs(10);
/// Machines that somebody switches, where their BMCs tell and where they do not.
const PRESSED: usize = 20;
/// Sockets at any moment, with those by which BMCs send and with streams of events: the operator has so many of these at most.
const SOCKETS: u64 = 200;
const RECEIVED: u64 = 24;
const STREAMS: u64 = 32;

fn controllers() -> usize {
    std::env::var("KBM_BMCS").map_or(200, |text| text.parse().expect("KBM_BMCS is a number"))
}

fn share(name: &str, share: f64, seed: u64, what: What) -> Fault {
    Fault {
        machines: Which {
            share: Some(share),
            seed,
            ..Which::default()
        },
        operation: Operation::Any,
        ..Fault::new(name, what)
    }
}

/// What was measured.
#[derive(Debug)]
struct Seen {
    known: Duration,
    subscribed: Duration,
    told: Duration,
    noticed: Duration,
    half: Duration,
    p99: Duration,
    dead: usize,
    most_open: u64,
}

/// Seconds until the status of all that are waited for is so.
async fn all_are(bench: &Bench, names: &HashSet<String>, wanted: &str, limit: Duration, is_so: impl Fn(&PowerStatus) -> bool) -> Duration {
    let api: Api<BareMetalHardware> = Api::all(bench.client.clone());
    let began = Instant::now();
    loop {
        let listed = api.list(&ListParams::default()).await.unwrap();
        let is_so = |h: &BareMetalHardware| h.status.as_ref().and_then(|s| s.power.as_ref()).is_some_and(&is_so);
        let missing = listed.iter().filter(|h| names.contains(&h.name_any()) && !is_so(h)).count();
        if missing == 0 {
            return began.elapsed();
        }
        assert!(
            began.elapsed() < limit,
            "{missing} of {} are not known to be {wanted} within {limit:?}",
            names.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn press(simulator: &Simulator, names: &HashSet<String>) {
    for name in names {
        let index: usize = name.trim_start_matches("m-").parse().expect("a number");
        simulator.bmc(index).hosts[0].tell(Command::On, Conduct::default());
    }
}

/// How long it takes until a machine that has no driver is in maintenance, one after the other.
async fn decisions(bench: &Bench) -> Vec<Duration> {
    let api: Api<BareMetalHardware> = Api::all(bench.client.clone());
    let mut took = Vec::new();
    for turn in 0..4 {
        for number in 0..OTHERS {
            let name = format!("other-{number}");
            let maintenance = turn % 2 == 0;
            let began = Instant::now();
            bench.patch(&api, &name, json!({ "maintenance": maintenance })).await;
            until("it is decided about", async || {
                let phase = api.get(&name).await.ok()?.status?.phase;
                ((phase == HardwarePhase::Maintenance) == maintenance).then_some(())
            })
            .await;
            took.push(began.elapsed());
        }
    }
    took.sort_unstable();
    took
}

async fn world(faults: Vec<Fault>) -> Seen {
    let options = Options {
        controllers: controllers(),
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.expect("it starts");
    for fault in faults {
        simulator.fleet().faults().set(fault).expect("a good fault");
    }
    let is_dead = |index: usize| {
        let listed = simulator.fleet().faults().list();
        listed
            .iter()
            .any(|listed| listed.fault.machines.fit(index, &format!("bmc-{index}")))
    };
    let alive: HashSet<String> = (0..controllers())
        .filter(|index| !is_dead(*index))
        .map(|index| format!("m-{index}"))
        .collect();
    let bench = bench_with(|config| {
        config.power_check = CHECK;
        receives(config, "https");
    })
    .await;
    credentials(&bench, "simulated-Pass-1").await;
    let api: Api<BareMetalHardware> = Api::all(bench.client.clone());
    let spec = |index: usize, power: Option<serde_json::Value>| BareMetalHardwareSpec {
        power: power.map(|power| serde_json::from_value(power).expect("a spec")),
        discovery_name: format!("seen-{index}"),
        ..BareMetalHardwareSpec::default()
    };
    let began = Instant::now();
    for index in 0..controllers() {
        let bmc = simulator.bmc(index);
        let redfish = json!({"redfish": {"address": simulator.url(index), "insecure": true, "system": bmc.system_id(0), "credentials": {"name": "bmc"}}});
        create(&api, &BareMetalHardware::new(&format!("m-{index}"), spec(index, Some(redfish)))).await;
    }
    for index in 0..OTHERS {
        create(
            &api,
            &BareMetalHardware::new(&format!("other-{index}"), spec(1_000_000 + index, None)),
        )
        .await;
    }
    all_are(&bench, &alive, "off", Duration::from_secs(120), |power| {
        power.state == PowerState::Off
    })
    .await;
    let known = began.elapsed();
    let took = decisions(&bench).await;
    let tells = |name: &&String| {
        let index: usize = name.trim_start_matches("m-").parse().expect("a number");
        simulator.bmc(index).profile.events.is_some()
    };
    let telling: HashSet<String> = alive.iter().filter(tells).cloned().collect();
    let mute: HashSet<String> = alive.iter().filter(|name| !tells(name)).cloned().collect();
    assert!(telling.len() > mute.len() && !mute.is_empty());
    all_are(&bench, &telling, "sending", Duration::from_secs(180), |power| {
        power.events == PowerEvents::Push
    })
    .await;
    let subscribed = began.elapsed();
    // Somebody presses buttons.
    let is_on = |power: &PowerStatus| power.state == PowerState::On;
    let pressed: HashSet<String> = telling.iter().take(PRESSED).cloned().collect();
    press(&simulator, &pressed);
    let told = all_are(&bench, &pressed, "on", TOLD, is_on).await;
    let pressed: HashSet<String> = mute.iter().take(PRESSED).cloned().collect();
    press(&simulator, &pressed);
    let noticed = all_are(&bench, &pressed, "on", CHECK + MARGIN, is_on).await;
    let most_open = simulator.fleet().counters().now().most_open;
    bench.end().await;
    Seen {
        known,
        subscribed,
        told,
        noticed,
        half: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        dead: controllers() - alive.len(),
        most_open,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_bmcs_delay_nobody_else() {
    let healthy = world(Vec::new()).await;
    let struck = world(vec![
        share("silent", 0.1, 1, What::Silent),
        share("closed", 0.05, 2, What::Closed),
        share("slow", 0.06, 3, What::Latency { ms: 4_000 }),
    ])
    .await;
    for (what, seen) in [("all alive", &healthy), ("a fifth dead or slow", &struck)] {
        let Seen {
            known,
            subscribed,
            told,
            noticed,
            half,
            p99,
            dead,
            most_open,
        } = seen;
        println!(
            "{what}: {dead} dead or slow, all others known after {known:?}, all that can send after {subscribed:?}; buttons told of after {told:?}, noticed without events after {noticed:?}; a decision about another machine {half:?}, 99 of 100 {p99:?}; at most {most_open} sockets"
        );
    }
    assert!(struck.dead * 8 > controllers(), "{struck:?}");
    for seen in [&healthy, &struck] {
        assert!(seen.most_open + RECEIVED + STREAMS <= SOCKETS, "{seen:?}");
    }
    // Beside other tests: what is asserted is that nobody waits for a dead one, whose calls take a minute.
    assert!(struck.p99 < healthy.p99 * 4 + Duration::from_millis(500), "{healthy:?}, {struck:?}");
}
