//! Whole services with vendors' manners, whose documents are changed on their way to us: members that nobody knows, nulls, members and collections that are missing,
//! numbers as text, links absolute and relative. A power action that could have been done is done.
//!
//! What is left as it is, is what makes the action one that could be done: the machine's place in its collection, where the session begins and where it is reset (a link
//! that leads elsewhere is what the service says), the power state and the list of resets (a wrong one is what the service says, too), and whether a task is done.

use std::sync::{Arc, Mutex, PoisonError};

use bmc_simulator::{Options, Simulator, host::Timing, profile};
use power::{
    Driver, Off,
    inventory::{Depth, Survey},
    redfish::{Redfish, Settings},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::Value;

use crate::lenient::{Change, anything, reword};

/// What is done to every document: to the members of these numbers, as they are counted.
type Plan = (Vec<(usize, Change)>, u8);

/// Members that say what is, or where it is.
const MEANT: [&str; 9] = [
    "Members",
    "@odata.id",
    "href",
    "target",
    "Sessions",
    "PowerState",
    "ResetType@Redfish.AllowableValues",
    "Parameters",
    "@Redfish.ActionInfo",
];

fn matters(path: &str, name: &str, new: &Change) -> bool {
    // That something is missing, or null, is another matter: the standard says where it is.
    let gone = matches!(new, Change::Becomes(None | Some(Value::Null)));
    let needed = [
        "Members",
        "PowerState",
        "TaskState",
        "ResetType@Redfish.AllowableValues",
        "Parameters",
    ]
    .contains(&name)
        || path.contains("/Members")
        || path.contains("/Parameters")
        || path.contains("ResetType@Redfish.AllowableValues");
    needed || (MEANT.contains(&name) && !gone)
}

fn change(value: &mut Value, path: &str, count: &mut usize, plan: &[(usize, Change)]) {
    let members = match value {
        Value::Object(members) => members,
        Value::Array(items) => {
            items.iter_mut().for_each(|item| change(item, path, count, plan));
            return;
        }
        _ => return,
    };
    let names: Vec<String> = members.keys().cloned().collect();
    for name in names {
        let here = format!("{path}/{name}");
        for (number, new) in plan {
            if number % 97 != *count % 97 || matters(&here, &name, new) {
                continue;
            }
            match new {
                Change::Becomes(None) => {
                    members.remove(&name);
                }
                // An object in whose place something else is may hold what is meant: then it is missing.
                Change::Becomes(Some(_)) if members.get(&name).is_some_and(Value::is_object) => {
                    members.insert(name.clone(), Value::Null);
                }
                Change::Becomes(Some(new)) => {
                    members.insert(name.clone(), new.clone());
                }
                Change::Joined(name, new) => {
                    members.entry(name.clone()).or_insert_with(|| new.clone());
                }
            }
        }
        *count += 1;
        if let Some(member) = members.get_mut(&name) {
            change(member, &here, count, plan);
        }
    }
}

fn changed(mut document: Value, plan: &Plan) -> Value {
    change(&mut document, "", &mut 0, &plan.0);
    reword(&mut document, plan.1);
    document
}

fn plan() -> impl Strategy<Value = Plan> {
    let kinds = prop_oneof![
        Just(Change::Becomes(None)),
        Just(Change::Becomes(Some(Value::Null))),
        anything().prop_map(|value| Change::Becomes(Some(value))),
        ("[A-Z][a-z]{0,8}", anything()).prop_map(|(name, value)| Change::Joined(name, value)),
    ];
    (prop::collection::vec((0_usize..97, kinds), 0..8), any::<u8>())
}

/// What the machine is, whatever else is written: the way through the documents always ends, within its bounds.
async fn surveyed(simulator: &Simulator, driver: &Redfish) -> Result<(), String> {
    let before = simulator.bmc(0).requests();
    for _ in 0..100 {
        let part = driver.survey(Depth::Everything).await.map_err(|fault| format!("survey: {fault}"))?;
        if let Survey::Done(_) = part {
            let requests = simulator.bmc(0).requests() - before;
            // A session, redirects, and each document twice where a service promises more than it sends.
            return if requests < 900 {
                Ok(())
            } else {
                Err(format!("{requests} requests"))
            };
        }
    }
    Err("it is never read".to_owned())
}

async fn switched(simulator: &Simulator) -> Result<(), String> {
    let bmc = simulator.bmc(0);
    let driver = Redfish::new(Settings {
        url: simulator.url(0),
        trust: None,
        user: "admin".to_owned(),
        password: "simulated-Pass-1".to_owned().into(),
        system: (!bmc.profile.paths.besides.is_empty()).then(|| bmc.system_id(0)),
    })
    .map_err(|fault| fault.to_string())?;
    let said = |what: &str, done: Result<(), power::Fault>| done.map_err(|fault| format!("{what}: {fault}"));
    let waited = async |on: bool| {
        for _ in 0..500 {
            if bmc.hosts[0].power()
                == if on {
                    bmc_simulator::host::Power::On
                } else {
                    bmc_simulator::host::Power::Off
                }
            {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        Err(format!("it is {:?}", bmc.hosts[0].power()))
    };
    surveyed(simulator, &driver).await?;
    said("on", driver.on().await)?;
    waited(true).await?;
    let before = bmc.hosts[0].version();
    said("cycle", driver.cycle().await)?;
    waited(true).await?;
    if bmc.hosts[0].version() == before {
        return Err("it was not cycled".to_owned());
    }
    said("off", driver.off(Off::Hard).await)?;
    waited(false).await?;
    said("close", driver.close().await)
}

#[test]
fn a_power_action_that_could_be_done_is_done_whatever_else_a_service_writes() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for profile in profile::ALL.iter() {
        let plan_now: Arc<Mutex<Plan>> = Arc::default();
        let reads = Arc::clone(&plan_now);
        let instant = Timing {
            on: std::time::Duration::ZERO,
            off: std::time::Duration::ZERO,
            shut_down: std::time::Duration::ZERO,
            boot: std::time::Duration::ZERO,
        };
        let options = Options {
            profiles: vec![Arc::clone(profile)],
            timing: instant,
            rewrite: Some(Arc::new(move |_: &str, document: Value| {
                changed(document, &reads.lock().unwrap_or_else(PoisonError::into_inner))
            })),
            ..Options::default()
        };
        let simulator = runtime.block_on(Simulator::start(options)).expect("it starts");
        // A reset that is a task is waited for by seconds.
        let cases = if profile.power.task.is_some() { 3 } else { 40 };
        let mut runner = TestRunner::new(Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        });
        let outcome = runner.run(&plan(), |plan| {
            *plan_now.lock().unwrap_or_else(PoisonError::into_inner) = plan;
            runtime.block_on(switched(&simulator)).map_err(TestCaseError::fail)
        });
        if let Err(error) = outcome {
            panic!("{}: {error}", profile.name);
        }
    }
}
