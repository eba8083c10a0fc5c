//! Two thousand controllers of all kinds, of which a fifth is dead or slow: the state of the others is known in time, with few sockets. Measured beside the same without
//! dead ones, in one run.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bmc_simulator::{
    Options, Simulator,
    faults::{Fault, Operation, What, Which},
};
use futures::future::join_all;
use power::{
    PowerState,
    calls::{Calls, Limits, Machine},
};

use crate::world::redfish;

const CONTROLLERS: usize = 2_000;
/// Sockets at any moment.
const SOCKETS: u64 = 200;
/// Calls at the same time. A socket outlives its call for a moment: with 200 calls there were 242 sockets.
const CALLS: usize = 112;
/// Within which a background check has asked everybody who is alive.
const KNOWN: Duration = Duration::from_secs(120);

/// A round of questions: how long it took those that answered, by when, and how many did not.
#[derive(Debug, Default)]
struct Round {
    alive: Vec<Duration>,
    lost: BTreeMap<String, usize>,
}

impl Round {
    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.alive.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }
}

async fn ask(calls: &Calls, machines: &[Machine]) -> Round {
    let began = Instant::now();
    let asked = machines.iter().map(|machine| async {
        let answer = calls.state(machine).await;
        (answer, began.elapsed())
    });
    let mut round = Round::default();
    for (answer, after) in join_all(asked).await {
        match answer {
            Ok(PowerState::Off) => round.alive.push(after),
            Ok(other) => panic!("a machine that is off is said to be {other:?}"),
            Err(error) => {
                let debug = format!("{:?}", error.fault);
                let kind = debug.split(['(', ' ']).next().unwrap_or_default().to_owned();
                *round.lost.entry(kind).or_default() += 1;
            }
        }
    }
    round
}

fn fault(name: &str, share: f64, seed: u64, what: What) -> Fault {
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

async fn start() -> (Simulator, Calls, Vec<Machine>) {
    let options = Options {
        controllers: CONTROLLERS,
        ..Options::default()
    };
    let simulator = Simulator::start(options).await.expect("it starts");
    let calls = Calls::new(Limits {
        at_once: CALLS,
        ..Limits::default()
    });
    let machines = (0..CONTROLLERS)
        .map(|index| calls.machine(format!("m-{index}"), Arc::new(redfish(&simulator, index, 0))))
        .collect();
    (simulator, calls, machines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_controllers_delay_no_other_and_sockets_are_few() {
    // Without dead ones, first: the second round has its sessions, as a check in the background does.
    let (simulator, calls, machines) = start().await;
    let first = ask(&calls, &machines).await;
    let healthy = ask(&calls, &machines).await;
    let sockets = simulator.fleet().counters().now();
    assert_eq!((healthy.alive.len(), healthy.lost.len()), (CONTROLLERS, 0), "{:?}", healthy.lost);
    assert!(sockets.most_open <= SOCKETS, "{sockets:?}");
    println!(
        "all alive: {} known, first round {:?}, then half within {:?}, 99 of 100 within {:?}, all within {:?}; at most {} sockets",
        healthy.alive.len(),
        first.at(1.0),
        healthy.at(0.5),
        healthy.at(0.99),
        healthy.at(1.0),
        sockets.most_open
    );
    drop((machines, calls, simulator));

    let (simulator, calls, machines) = start().await;
    let faults = simulator.fleet().faults();
    faults.set(fault("silent", 0.1, 1, What::Silent)).expect("good");
    faults.set(fault("closed", 0.05, 2, What::Closed)).expect("good");
    faults.set(fault("slow", 0.06, 3, What::Latency { ms: 4_000 })).expect("good");
    let struck = |what: fn(&What) -> bool| {
        faults
            .list()
            .iter()
            .filter(|listed| what(&listed.fault.what))
            .map(|listed| listed.struck)
            .sum::<u64>()
    };
    let first = ask(&calls, &machines).await;
    let second = ask(&calls, &machines).await;
    let sockets = simulator.fleet().counters().now();
    println!(
        "a fifth dead or slow: {} known, {:?} not, first round {:?}, then half within {:?}, 99 of 100 within {:?}, all within {:?}; at most {} sockets",
        second.alive.len(),
        second.lost,
        first.at(1.0),
        second.at(0.5),
        second.at(0.99),
        second.at(1.0),
        sockets.most_open
    );
    assert!(struck(|what| matches!(what, What::Silent)) > 0 && struck(|what| matches!(what, What::Closed)) > 0);
    let dead: usize = second.lost.values().sum();
    assert!((200..450).contains(&dead), "{dead} controllers are not known");
    assert!(second.alive.len() + dead == CONTROLLERS);
    assert!(sockets.most_open <= SOCKETS, "{sockets:?}");
    assert!(
        second.at(1.0) < KNOWN && first.at(1.0) < KNOWN,
        "{:?}, {:?}",
        first.at(1.0),
        second.at(1.0)
    );
}
