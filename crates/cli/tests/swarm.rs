//! A small swarm with every fault there is, against the real program.

use std::{path::PathBuf, time::Duration};

use lab::swarm::{Options, faults::Plan, machine::Timing};

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
