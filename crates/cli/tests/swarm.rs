//! A small swarm with every fault there is, and one whose machines are switched by simulated BMCs and plugs, against the real program.

use std::{path::PathBuf, time::Duration};

use bmc_simulator::faults::{Fault, Operation, What, Which};
use lab::{
    bmc::{Controllers, Way},
    swarm::{Options, Power, faults::Plan, machine::Timing},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_machines_with_every_fault_come_to_running_and_back() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let temporary = tempfile::tempdir().unwrap();
    let report = lab::swarm::run(&Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_kube-baremetal")),
        state: temporary.path().join("swarm"),
        machines: 40,
        plan: Plan::many(20),
        timing: Timing::default(),
        apart: None,
        power: None,
        addresses: true,
        ramp: Duration::from_secs(1),
        patience: Duration::from_secs(120),
        log: "warn".to_owned(),
        verbose: false,
    })
    .await
    .unwrap_or_else(|problem| panic!("{problem:#}"));
    println!("{report}");
    assert!(report.struck > 40, "only {} faults struck", report.struck);
    assert_eq!(report.gaps, 0, "the judge saw everything");
}

fn fault(name: &str, seed: u64, operation: Operation, what: What) -> Fault {
    Fault {
        machines: Which {
            share: Some(0.3),
            seed,
            ..Which::default()
        },
        operation,
        times: Some(2),
        ..Fault::new(name, what)
    }
}

/// Each machine is discovered, accepted, idle and switched off; claimed, switched on by its BMC or plug, installed, given back and erased.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_machines_are_switched_off_while_nobody_needs_them_and_on_when_somebody_does() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let temporary = tempfile::tempdir().unwrap();
    let busy = What::Status {
        code: 503,
        retry_after: None,
    };
    let options = bmc_simulator::Options {
        timing: bmc_simulator::host::Timing::short(),
        ..bmc_simulator::Options::default()
    };
    let report = lab::swarm::run(&Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_kube-baremetal")),
        state: temporary.path().join("swarm"),
        machines: 30,
        plan: Plan::none(3),
        timing: Timing::default(),
        apart: None,
        power: Some(Power {
            controllers: Controllers {
                ways: Way::ALL.to_vec(),
                control: None,
                faults: vec![
                    fault("busy", 1, Operation::Reset, busy),
                    fault("slow", 2, Operation::Any, What::Latency { ms: 400 }),
                    fault("away", 3, Operation::State, What::Closed),
                    fault("spoilt", 4, Operation::State, What::WrongKinds),
                ],
                simulator: options,
            },
            idle_seconds: 1,
            starts_per_minute: 600,
        }),
        addresses: true,
        ramp: Duration::from_secs(1),
        patience: Duration::from_secs(90),
        log: "warn".to_owned(),
        verbose: false,
    })
    .await
    .unwrap_or_else(|problem| panic!("{problem:#}"));
    println!("{report}");
    let bmcs = report.bmcs.expect("they have BMCs");
    // Once by their buttons, once by their drivers.
    assert!(bmcs.boots >= 60, "{bmcs}");
    assert!(bmcs.struck > 20, "{bmcs}");
    assert_eq!(report.gaps, 0, "the judge saw everything");
}
