//! Machines that nobody needs, over the real API and a Redfish service each: they go off, a claim wakes one, so many stay on, and they start one after another.

use std::time::{Duration, Instant};

use api::{
    BareMetalHardware, BareMetalHardwareClass, BareMetalHardwareClassSpec, HardwarePhase, IdlePolicy, InstancePhase, conditions,
    idle::ClassIdle, power::PowerActKind,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lifecycle::pacing::Limits;
use serde_json::json;

use crate::{
    power::{Bmc, PASSWORD, credentials},
    support::{
        Bench, bench_with, create,
        machine::{Machine, Place},
        phase_is,
    },
};

const CLASS: &str = "small";

/// A machine and what switches it.
struct Switched {
    machine: Machine,
    bmc: Bmc,
    /// How much of what its BMC was told it has followed.
    followed: usize,
    /// When it was started.
    started: Vec<Instant>,
}

impl Switched {
    async fn new(bench: &Bench, number: u8) -> Self {
        let bmc = Bmc::default();
        let url = bmc.start().await;
        let mut machine = Machine::new(&bench.client, &format!("m-{number}"), number);
        machine.open_session().await;
        machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
        let hardware: Api<BareMetalHardware> = Api::all(bench.client.clone());
        let power = json!({"redfish": {"address": url, "insecure": true, "credentials": {"name": "bmc"}}});
        bench.patch(&hardware, &machine.name, json!({ "power": power })).await;
        Self {
            machine,
            bmc,
            followed: 0,
            started: Vec::new(),
        }
    }

    /// Does what its BMC and its agent are told.
    async fn step(&mut self) {
        let was_off = self.machine.place == Place::Off;
        self.machine.step().await;
        if !was_off && self.machine.place == Place::Off {
            self.bmc.is_now(true);
        }
        let resets = self.bmc.resets();
        for reset in resets.iter().skip(self.followed) {
            match reset.as_str() {
                "On" | "ForceRestart" => {
                    self.started.push(Instant::now());
                    // Stored times have whole seconds: a session begins in a later one than that in which the machine was told to go.
                    tokio::time::sleep(Duration::from_millis(1100)).await;
                    self.machine.power_on().await;
                }
                _ => self.machine.place = Place::Off,
            }
        }
        self.followed = resets.len();
    }

    fn is_on(&self) -> bool {
        self.machine.place != Place::Off
    }
}

/// All live until `done`; panics with what they are at after half a minute.
async fn live(machines: &mut [Switched], what: &str, mut done: impl AsyncFnMut(&[Switched]) -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        for machine in machines.iter_mut() {
            machine.step().await;
        }
        if done(machines).await {
            return;
        }
        if Instant::now() > end {
            let mut told = Vec::new();
            for switched in machines.iter() {
                let status = switched.machine.hardware().await.and_then(|h| h.status);
                let status = status.map(|s| (s.phase, s.reason, s.idle, s.power));
                told.push(format!("{} at {:?}: {status:?}", switched.machine.name, switched.machine.place));
            }
            panic!("never: {what}:\n{}", told.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

async fn class(bench: &Bench, warm: u32) {
    let spec = BareMetalHardwareClassSpec {
        idle: Some(ClassIdle {
            policy: IdlePolicy::PowerOff,
            after_seconds: 1,
            warm,
        }),
        ..BareMetalHardwareClassSpec::default()
    };
    create(&Api::all(bench.client.clone()), &BareMetalHardwareClass::new(CLASS, spec)).await;
}

async fn fleet(bench: &Bench, count: u8) -> Vec<Switched> {
    bench.policy(|policy| policy.class = Some(CLASS.to_owned())).await;
    bench.image("debian").await;
    credentials(bench, PASSWORD).await;
    let mut machines = Vec::new();
    for number in 1..=count {
        machines.push(Switched::new(bench, number).await);
    }
    machines
}

fn on(machines: &[Switched]) -> Vec<&str> {
    machines.iter().filter(|m| m.is_on()).map(|m| m.machine.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_nobody_needs_goes_off_and_a_claim_brings_it_back() {
    let bench = bench_with(|_| {}).await;
    let mut machines = fleet(&bench, 1).await;
    class(&bench, 0).await;
    live(&mut machines, "it is off", async |m| !m[0].is_on()).await;
    let status = machines[0].machine.hardware().await.unwrap().status.unwrap();
    assert_eq!((status.phase, status.reason.as_str()), (HardwarePhase::Ready, "PoweredOff"));
    assert!(conditions::is_true(&status.conditions, conditions::READY));
    assert!(machines[0].bmc.resets().is_empty(), "its agent did it");
    bench
        .create_instance("web", |instance| instance.class = Some(CLASS.to_owned()))
        .await;
    live(&mut machines, "the instance runs", async |_| {
        let instance = bench.instance("web").await;
        instance.status.is_some_and(|s| s.phase == InstancePhase::Running)
    })
    .await;
    assert_eq!(machines[0].bmc.resets().len(), 1, "once");
    let status = machines[0].machine.hardware().await.unwrap().status.unwrap();
    assert_eq!(status.idle, None);
    assert_eq!(status.power.unwrap().done.map(|done| done.kind), Some(PowerActKind::BootAgent));
    tokio::time::sleep(Duration::from_secs(2)).await;
    machines[0].step().await;
    assert!(machines[0].is_on(), "one in use is not idle");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_stay_on_and_one_that_is_taken_is_made_up_for() {
    let bench = bench_with(|_| {}).await;
    let mut machines = fleet(&bench, 4).await;
    class(&bench, 2).await;
    live(&mut machines, "two are off", async |m| on(m).len() == 2).await;
    assert_eq!(on(&machines), ["m-1", "m-2"]);
    let quiet = Instant::now() + Duration::from_secs(4);
    live(&mut machines, "nothing more happens", async |m| {
        assert_eq!(on(m), ["m-1", "m-2"]);
        Instant::now() > quiet
    })
    .await;
    bench
        .create_instance("web", |instance| instance.class = Some(CLASS.to_owned()))
        .await;
    live(&mut machines, "the instance runs, and two are on besides", async |m| {
        let instance = bench.instance("web").await;
        instance.status.is_some_and(|s| s.phase == InstancePhase::Running) && on(m).len() == 3
    })
    .await;
    let taken = bench.instance("web").await.spec.hardware_name;
    assert_eq!(taken.as_deref(), Some("m-1"), "one that was on");
    assert_eq!(on(&machines), ["m-1", "m-2", "m-3"]);
    assert!(machines[0].bmc.resets().is_empty(), "it was there at once");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_one_rack_start_one_after_another_and_say_for_whom_they_wait() {
    let bench = bench_with(|config| {
        // One in four seconds.
        config.lifecycle.starts = Limits {
            per_minute: 600,
            per_minute_per_rack: 15,
        };
    })
    .await;
    let mut machines = fleet(&bench, 4).await;
    let hardware: Api<BareMetalHardware> = Api::all(bench.client.clone());
    for machine in &machines[..3] {
        let label = Patch::Merge(json!({"metadata": {"labels": {api::LABEL_RACK: "r7"}}}));
        hardware
            .patch(&machine.machine.name, &PatchParams::default(), &label)
            .await
            .unwrap();
    }
    class(&bench, 0).await;
    live(&mut machines, "all are off", async |m| on(m).is_empty()).await;
    let classes: Api<BareMetalHardwareClass> = Api::all(bench.client.clone());
    bench.patch(&classes, CLASS, json!({"idle": {"warm": 4}})).await;
    let mut said = Vec::new();
    live(&mut machines, "all are on", async |m| {
        for switched in m {
            let power = switched.machine.hardware().await.and_then(|h| h.status?.power);
            let power = power.unwrap_or_default();
            assert_eq!(power.failures, 0, "waiting is no failure");
            if !power.turn.is_empty() {
                said.push(power.turn);
            }
        }
        on(m).len() == 4
    })
    .await;
    let times = |switched: &[Switched]| switched.iter().map(|m| m.started[0]).collect::<Vec<_>>();
    let mut rack = times(&machines[..3]);
    rack.sort_unstable();
    for pair in rack.windows(2) {
        let apart = pair[1].duration_since(pair[0]);
        assert!(apart > Duration::from_secs(3), "{apart:?} apart");
    }
    let other = times(&machines[3..])[0];
    assert!(other < rack[1], "another rack's does not wait for it");
    assert!(
        said.iter()
            .any(|turn| turn.starts_with("waits for its turn: ") && turn.contains("of rack r7 (15 a minute)")),
        "{said:?}"
    );
    assert!(machines.iter().all(|m| m.bmc.resets().len() == 1), "each once");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_a_way_back_stays_on_and_says_so() {
    let bench = bench_with(|_| {}).await;
    bench.policy(|policy| policy.class = Some(CLASS.to_owned())).await;
    class(&bench, 0).await;
    let mut machine = Machine::new(&bench.client, "m-1", 1);
    machine.open_session().await;
    let hardware = machine
        .live_until(30, "it says why it stays on", |h| {
            let status = h.status.as_ref();
            status.is_some_and(|s| s.conditions.iter().any(|c| c.type_ == conditions::IDLE_POLICY))
        })
        .await;
    let conditions = hardware.status.unwrap().conditions;
    let said = conditions.iter().find(|c| c.type_ == conditions::IDLE_POLICY).unwrap();
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "NoWayBack"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    machine.step().await;
    assert_eq!(machine.place, Place::Agent);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_at_the_door() {
    let directory = tempfile::tempdir().unwrap();
    let (server, bench) = crate::embedded::embedded(&directory).await;
    let hardware: Api<BareMetalHardware> = Api::all(bench.client.clone());
    let mut machine = BareMetalHardware::new(
        "m-1",
        api::BareMetalHardwareSpec {
            discovery_name: "m-1".to_owned(),
            idle_policy: Some(IdlePolicy::PowerOff),
            ..api::BareMetalHardwareSpec::default()
        },
    );
    let refused = hardware.create(&PostParams::default(), &machine).await.unwrap_err().to_string();
    assert!(refused.contains("name it in spec.power"), "{refused}");
    machine.spec.power = Some(
        serde_json::from_value(json!({
            "redfish": {"address": "https://192.0.2.7", "credentials": {"name": "bmc"}}
        }))
        .unwrap(),
    );
    create(&hardware, &machine).await;
    let without = Patch::Merge(json!({"spec": {"power": null}}));
    let refused = hardware
        .patch("m-1", &PatchParams::default(), &without)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("name it in spec.power"), "{refused}");
    let classes: Api<BareMetalHardwareClass> = Api::all(bench.client.clone());
    let idle = |policy, warm| BareMetalHardwareClassSpec {
        idle: Some(ClassIdle {
            policy,
            warm,
            ..ClassIdle::default()
        }),
        ..BareMetalHardwareClassSpec::default()
    };
    let stays = BareMetalHardwareClass::new(CLASS, idle(IdlePolicy::Stay, 1));
    let refused = classes.create(&PostParams::default(), &stays).await.unwrap_err().to_string();
    assert!(refused.contains("it needs policy PowerOff"), "{refused}");
    create(&classes, &BareMetalHardwareClass::new(CLASS, idle(IdlePolicy::PowerOff, 1))).await;
    bench.end().await;
    server.shutdown().await;
}
