//! The server is killed before and after every write of its API and every answer to a machine, one life for each.

use std::{path::PathBuf, time::Duration};

use lab::swarm::{
    kills::{self, Options},
    machine::Timing,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_ends_right_wherever_the_server_is_killed() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let temporary = tempfile::tempdir().unwrap();
    let report = kills::run(&Options {
        program: PathBuf::from(env!("CARGO_BIN_EXE_kube-baremetal")),
        state: temporary.path().join("kills"),
        timing: Timing::short(),
        parallel: 12,
        patience: Duration::from_secs(90),
    })
    .await
    .unwrap_or_else(|problem| panic!("{problem:#}"));
    println!("{report}");
    assert!(report.writes >= 20 && report.answers >= 12, "this is no whole life: {report}");
    // No two lives are quite alike; but nearly all of the counted points have to come.
    let points = 2 * (report.writes as usize + report.answers);
    assert!(report.lives * 10 >= points * 9, "{report}");
}
