//! Many replicas (`make replicas`): two operators and three netboot replicas on a real API server, under simulated machines that live their whole life; at least 30 times one of them is
//! killed (`kill -9`), the leader among them, and started again after a while. Nothing may be lost, nothing double: the swarm's judge looks at the API's watch streams.

mod cluster;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use lab::swarm::faults;

use cluster::{Cluster, Fleet, SYSTEM};

const OPERATORS: usize = 2;
const NETBOOTS: usize = 3;
const KILLS: usize = 30;

async fn holder(cluster: &Cluster) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM.0);
    let lease = leases.get("kube-baremetal-operator").await?;
    Ok(lease.spec.and_then(|s| s.holder_identity).filter(|h| !h.is_empty()))
}

/// What the killing did.
#[derive(Default)]
struct Deeds {
    leaders: AtomicUsize,
    netboots: AtomicUsize,
    done: AtomicBool,
}

impl Deeds {
    fn kills(&self) -> usize {
        self.leaders.load(Ordering::SeqCst) + self.netboots.load(Ordering::SeqCst)
    }
}

/// Kills one at random after the other, the leader every third time, until enough are killed and the machines are done. Gives the takeovers.
async fn kill(cluster: &Cluster, fleet: &Fleet, deeds: &Deeds) -> Result<Vec<Duration>> {
    let mut takeovers = Vec::new();
    let mut turn = 0usize;
    while !deeds.done.load(Ordering::SeqCst) {
        turn += 1;
        if turn.is_multiple_of(3) {
            let Some(before) = holder(cluster).await? else { continue };
            let place = fleet.plans().iter().position(|p| before.starts_with(&format!("{}_", p.name)));
            let place = place.with_context(|| format!("{before} is none of ours"))?;
            fleet.lock()[place].kill()?;
            deeds.leaders.fetch_add(1, Ordering::SeqCst);
            let begun = Instant::now();
            loop {
                if holder(cluster).await?.is_some_and(|now| now != before) {
                    break;
                }
                ensure!(begun.elapsed() < Duration::from_secs(60), "nobody took over within 60 s");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            takeovers.push(begun.elapsed());
            let again = fleet.lock()[place].plan.start()?;
            fleet.lock()[place] = again;
        } else {
            let place = OPERATORS + rand::random_range(0..NETBOOTS);
            fleet.lock()[place].kill()?;
            deeds.netboots.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(rand::random_range(500..3_000))).await;
            let again = fleet.lock()[place].plan.start()?;
            fleet.lock()[place] = again;
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(200..1_500))).await;
        // Whoever ended without being killed is a fault of its own.
        for process in fleet.lock().iter_mut() {
            if let Some(status) = process.ended()? {
                let words = process.last_words();
                ensure!(words.contains("was lost"), "{} ended with {status}: {words}", process.plan.name);
                // An operator that lost its Lease, as when the API was too slow: its pod would be started again.
                let again = process.plan.start()?;
                *process = again;
            }
        }
    }
    Ok(takeovers)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_and_nothing_is_double() {
    run().await.unwrap();
}

async fn run() -> Result<()> {
    let machines: usize = std::env::var("KBM_MACHINES")
        .map_or(Ok(1000), |n| n.parse())
        .context("KBM_MACHINES")?;
    let cluster = Cluster::start(NETBOOTS, false, &[]).await?;
    let fleet = cluster.fleet(OPERATORS, NETBOOTS, machines).await?;
    let mut swarm = cluster.swarm(machines);
    swarm.plan = faults::Plan::none(4);
    // Long enough that the machines are in flight all the while.
    swarm.timing.disk = Duration::from_secs(20);
    swarm.ramp = Duration::from_secs(120);
    swarm.patience = Duration::from_secs(1_500);
    let deeds = Deeds::default();
    let (client, boot) = (cluster.client.clone(), cluster.boot(NETBOOTS));
    let living = async {
        let report = lab::swarm::drive(&swarm, &client, boot, &fleet).await;
        deeds.done.store(true, Ordering::SeqCst);
        report
    };
    let (report, takeovers) = tokio::join!(living, kill(&cluster, &fleet, &deeds));
    let (report, takeovers) = (report?, takeovers?);
    println!("{report}");
    let longest = takeovers.iter().max().copied().unwrap_or_default();
    println!(
        "{} kills: {} of leaders, {} of netboot replicas; longest takeover {:.1} s; 0 lost, 0 double",
        deeds.kills(),
        deeds.leaders.load(Ordering::SeqCst),
        deeds.netboots.load(Ordering::SeqCst),
        longest.as_secs_f64()
    );
    ensure!(
        deeds.kills() >= KILLS,
        "{} kills only: the machines were done too soon",
        deeds.kills()
    );
    ensure!(longest <= Duration::from_secs(20), "a takeover took {longest:?}");
    Ok(())
}
