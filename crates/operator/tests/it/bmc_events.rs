//! BMCs that tell: a machine that somebody switches is known at once, by what it sends or by a stream; strangers and floods make for nothing; and what a BMC does not want is told.
//!
//! No background check comes to help here: they are ten minutes apart.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use agent_protocol::token::TokenKey;
use api::{
    BareMetalHardware, BareMetalHardwareSpec,
    power::{PowerEvents, PowerState, PowerStatus},
};
use bmc_simulator::{
    Options, Simulator,
    faults::{Conduct, Fault, Operation, What},
    host::{Command, Timing},
    profile,
};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta},
};
use operator::{BmcEvents, Config, LeaderElection, Operator};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    power::credentials,
    support::{Bench, bench_with, create, until},
};

/// Within which what a BMC told has to be known.
const TOLD: Duration = Duration::from_secs(10);

/// Events come to a port that was free a moment ago.
pub(crate) fn receives(config: &mut Config, scheme: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.bmc_events = Some(BmcEvents {
        url: format!("{scheme}://127.0.0.1:{port}"),
        listen: SocketAddr::from(([127, 0, 0, 1], port)),
        identity: None,
    });
}

fn rarely(config: &mut Config) {
    config.power_check = Duration::from_secs(600);
}

async fn simulated(profiles: &[&str], controllers: usize) -> Simulator {
    Simulator::start(Options {
        controllers,
        profiles: profiles.iter().map(|name| profile::named(name).expect("it is there")).collect(),
        timing: Timing::short(),
        ..Options::default()
    })
    .await
    .expect("it starts")
}

async fn machines(bench: &Bench, simulator: &Simulator) -> Api<BareMetalHardware> {
    credentials(bench, "simulated-Pass-1").await;
    let api: Api<BareMetalHardware> = Api::all(bench.client.clone());
    for bmc in simulator.fleet().all() {
        let redfish = json!({"redfish": {"address": simulator.url(bmc.index), "insecure": true, "system": bmc.system_id(0), "credentials": {"name": "bmc"}}});
        let spec = BareMetalHardwareSpec {
            power: Some(serde_json::from_value(redfish).expect("a spec")),
            discovery_name: format!("seen-{}", bmc.index),
            ..BareMetalHardwareSpec::default()
        };
        create(&api, &BareMetalHardware::new(&format!("m-{}", bmc.index), spec)).await;
    }
    api
}

async fn status(api: &Api<BareMetalHardware>, name: &str) -> PowerStatus {
    let hardware = api.get(name).await.unwrap();
    hardware.status.and_then(|status| status.power).unwrap_or_default()
}

async fn all_tell(api: &Api<BareMetalHardware>, wanted: PowerEvents) {
    until(&format!("events by {wanted:?}"), async || {
        let all = api.list(&ListParams::default()).await.unwrap();
        let told = |hardware: &BareMetalHardware| hardware.status.as_ref()?.power.as_ref().map(|p| p.events);
        all.iter().all(|hardware| told(hardware) == Some(wanted)).then_some(())
    })
    .await;
}

fn press(simulator: &Simulator, index: usize, command: Command) {
    simulator.bmc(index).hosts[0].tell(command, Conduct::default());
}

async fn is_known(api: &Api<BareMetalHardware>, name: &str, state: PowerState) {
    let began = Instant::now();
    until(&format!("{name} is known to be {state:?}"), async || {
        (status(api, name).await.state == state).then_some(())
    })
    .await;
    assert!(began.elapsed() < TOLD, "{name}: {:?}", began.elapsed());
}

/// The status of the answer to a post.
async fn post(url: &str, body: &[u8]) -> u16 {
    let (address, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(body).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered, and closed");
    answer.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_switches_is_known_at_once_where_bmcs_send() {
    let simulator = simulated(&["idrac-9", "openbmc", "ilo-5", "supermicro-x13"], 4).await;
    let bench = bench_with(|config| {
        rarely(config);
        receives(config, "https");
    })
    .await;
    let api = machines(&bench, &simulator).await;
    all_tell(&api, PowerEvents::Push).await;
    for (command, state) in [(Command::On, PowerState::On), (Command::Off, PowerState::Off)] {
        for bmc in simulator.fleet().all() {
            press(&simulator, bmc.index, command);
            is_known(&api, &format!("m-{}", bmc.index), state).await;
        }
    }
    // Each has one, however often it is looked at.
    assert!(simulator.fleet().all().iter().all(|bmc| bmc.subscriptions() == 1));
    // No object, event or metric has the token.
    let tokens: HashSet<String> = simulator.fleet().all().iter().flat_map(|bmc| bmc.destinations()).collect();
    assert_eq!(tokens.len(), 4, "{tokens:?}");
    let objects = serde_json::to_string(&api.list(&ListParams::default()).await.unwrap().items).unwrap();
    for url in &tokens {
        let token = url.rsplit('/').next().expect("a token");
        assert!(token.len() == 64 && !objects.contains(token), "{objects}");
    }
    // The driver goes, and so does the subscription.
    for index in 0..4 {
        bench.patch(&api, &format!("m-{index}"), json!({"power": null})).await;
    }
    until("nothing is left behind", async || {
        simulator.fleet().all().iter().all(|bmc| bmc.subscriptions() == 0).then_some(())
    })
    .await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_url_streams_are_listened_to_and_opened_again() {
    let simulator = simulated(&["lenovo-xcc", "openbmc"], 2).await;
    let bench = bench_with(rarely).await;
    let api = machines(&bench, &simulator).await;
    all_tell(&api, PowerEvents::Stream).await;
    for index in 0..2 {
        press(&simulator, index, Command::On);
        is_known(&api, &format!("m-{index}"), PowerState::On).await;
        assert_eq!(simulator.bmc(index).streams(), 1);
    }
    bench.end().await;
    until("streams end with the operator", async || {
        simulator.fleet().all().iter().all(|bmc| bmc.streams() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_makes_for_few_looks_and_a_stranger_for_none() {
    let simulator = simulated(&["supermicro-x11"], 1).await;
    let bench = bench_with(|config| {
        rarely(config);
        receives(config, "http");
    })
    .await;
    let api = machines(&bench, &simulator).await;
    all_tell(&api, PowerEvents::Push).await;
    let url = simulator.bmc(0).destinations().remove(0);
    let (base, token) = url.rsplit_once('/').expect("a token");
    // What is asked after the start has been asked: of its events, and what the machine is.
    until("its inventory is there", async || {
        let machine = api.get("m-0").await.ok()?;
        machine.status?.bmc_inventory.map(drop)
    })
    .await;
    let before = loop {
        let before = simulator.bmc(0).requests();
        tokio::time::sleep(Duration::from_secs(1)).await;
        if simulator.bmc(0).requests() == before {
            break before;
        }
    };
    let other = |at: usize| {
        let mut other = token.to_owned();
        let digit = if other.as_bytes()[at] == b'0' { "1" } else { "0" };
        other.replace_range(at..=at, digit);
        other
    };
    for stranger in [
        other(0),
        other(31),
        other(32),
        other(63),
        token[..63].to_owned(),
        format!("{token}0"),
        String::new(),
        "../".repeat(30),
    ] {
        assert_eq!(post(&format!("{base}/{stranger}"), b"{}").await, 404, "{stranger}");
    }
    assert_eq!(
        post(&format!("{}/metrics", base.rsplit_once('/').expect("a base").0), b"{}").await,
        404
    );
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(simulator.bmc(0).requests(), before, "nobody was asked anything");

    // Whatever is in it, and however large it is within reason.
    assert_eq!(post(&url, b"no JSON").await, 204);
    assert_eq!(post(&url, &vec![b' '; 100_000]).await, 204);
    let began = Instant::now();
    let url = Arc::new(url);
    let flood: Vec<_> = (0..8)
        .map(|_| {
            let url = Arc::clone(&url);
            tokio::spawn(async move {
                let mut posts = 0;
                while began.elapsed() < Duration::from_secs(4) {
                    assert_eq!(post(&url, b"{}").await, 204);
                    posts += 1;
                }
                posts
            })
        })
        .collect();
    let mut posts = 0;
    for one in flood {
        posts += one.await.expect("it posts");
    }
    let asked = simulator.bmc(0).requests() - before;
    println!("{posts} posts, {asked} requests");
    // A look is one request, in a session that is there: at once, after three seconds, after six more.
    assert!(posts > 100 && (1..=4).contains(&asked), "{posts} posts, {asked} requests");
    // And in the middle of it something happens.
    press(&simulator, 0, Command::On);
    is_known(&api, "m-0", PowerState::On).await;
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_refuses_says_why_and_one_that_forgot_is_told_again() {
    let simulator = simulated(&["openbmc"], 2).await;
    let mut refuses = Fault::new(
        "refuses",
        What::Status {
            code: 403,
            retry_after: None,
        },
    );
    refuses.operation = Operation::Subscribe;
    refuses.machines.names.insert("bmc-0".to_owned());
    simulator.fleet().faults().set(refuses).unwrap();
    let bench = bench_with(|config| {
        config.power_check = Duration::from_millis(300);
        config.bmc_events_check = Duration::from_secs(1);
        receives(config, "https");
    })
    .await;
    let api = machines(&bench, &simulator).await;
    let refused = until("it says why", async || {
        Some(status(&api, "m-0").await).filter(|power| !power.events_fault.is_empty())
    })
    .await;
    assert_eq!(refused.events, PowerEvents::None);
    assert!(
        refused.events_fault.contains("the user may not do this"),
        "{}",
        refused.events_fault
    );
    until("the other one sends", async || {
        (status(&api, "m-1").await.events == PowerEvents::Push).then_some(())
    })
    .await;
    simulator.fleet().faults().set(Fault::new("forgets", What::Forgets)).unwrap();
    simulator.bmc(1).restart();
    assert_eq!(simulator.bmc(1).subscriptions(), 0);
    until("it sends again", async || (simulator.bmc(1).subscriptions() == 1).then_some(())).await;
    assert_eq!(status(&api, "m-1").await.events, PowerEvents::Push);
    // Who may again, does.
    simulator.fleet().faults().remove("refuses");
    all_tell(&api, PowerEvents::Push).await;
    assert_eq!(status(&api, "m-0").await.events_fault, "");
    assert!(
        api.list(&ListParams::default())
            .await
            .unwrap()
            .iter()
            .all(|h| h.name_any().starts_with("m-"))
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_does_not_lead_passes_on_what_it_is_told() {
    // It cannot send, so nobody knows of anything here but by the other replica.
    let simulator = simulated(&["sushy-tools"], 1).await;
    let bench = bench_with(rarely).await;
    let api = machines(&bench, &simulator).await;
    is_known(&api, "m-0", PowerState::Off).await;
    // Somebody else leads, and for long.
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some("taken".to_owned()),
            namespace: Some("kube-baremetal-system".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some("somebody".to_owned()),
            lease_duration_seconds: Some(3_600),
            renew_time: Some(MicroTime(jiff::Timestamp::now())),
            acquire_time: Some(MicroTime(jiff::Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    create(&Api::namespaced(bench.client.clone(), "kube-baremetal-system"), &lease).await;
    let mut config = Config::new(bench.client.clone(), Vec::new());
    receives(&mut config, "http");
    config.leader_election = Some(LeaderElection {
        lease: "taken".to_owned(),
        identity: "two".to_owned(),
        times: operator::lease::Times::default(),
    });
    let base = config.bmc_events.as_ref().expect("it is set").url.clone();
    let (health, metrics, stop) = (Arc::clone(&config.health), Arc::clone(&config.metrics), CancellationToken::new());
    let two = tokio::spawn(Operator::run(config, stop.clone()));
    until("it is ready", async || health.is_ready().then_some(())).await;
    assert!(!health.is_leading());

    let token = TokenKey::new(&[7; 32])
        .expect("a key")
        .derived("bmc-events", simulator.url(0).trim_start_matches("http://"));
    let token: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    press(&simulator, 0, Command::On);
    until("it is on", async || simulator.bmc(0).hosts[0].power().is_on().then_some(())).await;
    assert_eq!(
        post(&format!("{base}/bmc-events/{}", token.replace(&token[60..], "0000")), b"{}").await,
        404
    );
    for _ in 0..20 {
        assert_eq!(post(&format!("{base}/bmc-events/{token}"), b"{}").await, 204);
    }
    is_known(&api, "m-0", PowerState::On).await;
    let (mut registry, mut figures) = (prometheus_client::registry::Registry::default(), String::new());
    metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut figures, &registry).unwrap();
    let patches = figures
        .lines()
        .find(|line| line.contains("kind=\"BareMetalHardware\"") && line.contains("verb=\"patch\"") && line.contains("result=\"ok\""));
    let patches: u64 = patches
        .and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .expect("it was counted");
    assert!((1..=3).contains(&patches), "twenty posts, {patches} writes");
    stop.cancel();
    two.await.expect("no panic").expect("it ends well");
    bench.end().await;
}
