//! A time without an API server, refused connections first and then a server that hangs: machines in use that restart meanwhile reach their own disks, also by netboot replicas that were
//! started in that time and know nothing; machines without a system keep asking, and are served when the API is back.
//!
//! `KBM_OUTAGE_SECONDS` says how long it takes, `KBM_OUTAGE_MACHINES` how many machines are in use (`make test-outage`: five minutes and fifty).

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::config::Kubeconfig;
use lab::swarm::tenant;
use rig::roles::page;

use crate::{
    cluster::{Cluster, Fleet},
    gate::{Gate, Way},
    herd::{Herd, turn},
};

const OPERATORS: usize = 1;
const NETBOOTS: usize = 2;
/// Machines that nobody uses.
const FREE: usize = 4;
/// Longest time from a machine's question to the answer that leads to its disk.
const ANSWER: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_in_use_reach_their_disks_without_an_api_server() {
    run().await.unwrap();
}

fn setting(name: &str, usual: usize) -> Result<usize> {
    std::env::var(name).map_or(Ok(usual), |n| n.parse()).context(name.to_owned())
}

async fn run() -> Result<()> {
    let _turn = turn().await;
    let outage = Duration::from_secs(setting("KBM_OUTAGE_SECONDS", 24)? as u64);
    let used = setting("KBM_OUTAGE_MACHINES", 12)?;
    let all = used + FREE;

    let mut cluster = Cluster::start(NETBOOTS, false, &[]).await?;
    let [port] = lab::ports::free(Ipv4Addr::LOCALHOST)?;
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let gate = Gate::open(here, server(&cluster)?);
    cluster.api = Some(here);
    let fleet = cluster.fleet(OPERATORS, NETBOOTS, all).await?;
    tenant::prepare(&cluster.client, true).await?;
    let mut herd = Herd::start(all, 31, cluster.boot(NETBOOTS));
    tenant::create(&cluster.client, used).await?;
    herd.running(&cluster.client, used).await?;
    let in_use: BTreeSet<usize> = herd.installed().into_keys().collect();
    ensure!(in_use.len() == used, "{} machines have a system", in_use.len());

    let (begun, before) = (Instant::now(), herd.now());
    gate.set(Way::Refused)?;
    // Replicas that know every machine.
    herd = restart(herd, &in_use, "while the replicas know them").await?;
    // Replicas that know none: each is killed and started anew.
    for place in OPERATORS..OPERATORS + NETBOOTS {
        fleet.lock()[place].kill()?;
        let again = fleet.lock()[place].plan.start()?;
        fleet.lock()[place] = again;
    }
    own_disk_from_each(&cluster).await?;
    herd = restart(herd, &in_use, "after the replicas were restarted").await?;
    tokio::time::sleep((outage / 2).saturating_sub(begun.elapsed())).await;
    gate.set(Way::Silent)?;
    own_disk_from_each(&cluster).await?;
    herd = restart(herd, &in_use, "while the server hangs").await?;
    tokio::time::sleep(outage.saturating_sub(begun.elapsed())).await;
    ensure!(before.in_agent().is_empty(), "a session without an API server");
    ensure!(before.begun().is_empty(), "an order without an API server: {:?}", before.begun());

    let after = herd.now();
    gate.set(Way::Open)?;
    revive(&fleet).await?;
    herd.until("in the agent again", async || {
        let found: BTreeSet<usize> = after.in_agent();
        Ok(if found.len() == FREE { Ok(()) } else { Err(format!("{found:?}")) })
    })
    .await?;
    ensure!(
        after.in_agent().is_disjoint(&in_use),
        "a machine in use went to the agent: {:?}",
        after.in_agent()
    );
    tenant::create(&cluster.client, all).await?;
    herd.running(&cluster.client, all).await?;
    let written: BTreeSet<usize> = after.begun().into_keys().collect();
    ensure!(written.is_disjoint(&in_use), "a disk in use was written: {:?}", after.begun());
    println!(
        "{used} machines restarted three times in {:.0} s without an API server",
        begun.elapsed().as_secs_f64()
    );
    herd.end().await
}

/// The API server's own address.
fn server(cluster: &Cluster) -> Result<SocketAddr> {
    let config = Kubeconfig::read_from(cluster.plane.kubeconfig())?;
    let url = config.clusters.first().and_then(|c| c.cluster.as_ref()?.server.clone());
    let url = url.context("the kubeconfig names no server")?;
    Ok(url.trim_start_matches("https://").trim_end_matches('/').parse()?)
}

/// The power fails and comes back; every machine in use has to reach its disk.
async fn restart(herd: Herd, in_use: &BTreeSet<usize>, when: &str) -> Result<Herd> {
    let dark = herd.unplug().await;
    let herd = dark.plug_in();
    let (begun, since) = (Instant::now(), herd.now());
    herd.until(&format!("on their own disks {when}"), async || {
        let missing: Vec<usize> = in_use.difference(&since.ran()).copied().collect();
        Ok(if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("machines {missing:?} are not"))
        })
    })
    .await?;
    ensure!(begun.elapsed() < ANSWER, "{when}: the last one took {:?}", begun.elapsed());
    Ok(herd)
}

/// Asked by a machine, each replica says "your own disk", within the time that there is.
async fn own_disk_from_each(cluster: &Cluster) -> Result<()> {
    for replica in cluster.boot(NETBOOTS) {
        let begun = Instant::now();
        let question = "/boot/ipxe?uuid=30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05&mac=52-54-00-12-34-56&platform=pcbios&buildarch=x86_64";
        let script = loop {
            match page(replica, question).await {
                Some((200, script)) => break script,
                other => ensure!(begun.elapsed() < ANSWER, "{replica} answered {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        ensure!(
            script.contains("booting the local disk") && script.contains("goto retry") && !script.contains("kbm.token"),
            "{replica} answered {script}"
        );
        let (status, grub) = page(replica, "/boot/grub?mac=52-54-00-12-34-56")
            .await
            .context("no answer for GRUB")?;
        ensure!(status == 200 && !grub.contains("kbm.token"), "{replica} answered {status} {grub}");
    }
    Ok(())
}

/// An operator that lost its Lease has ended, and is started again as its pod would be.
async fn revive(fleet: &Fleet) -> Result<()> {
    for process in fleet.lock().iter_mut() {
        if let Some(status) = process.ended()? {
            let words = process.last_words();
            ensure!(words.contains("was lost"), "{} ended with {status}: {words}", process.plan.name);
            let again = process.plan.start()?;
            *process = again;
        }
    }
    Ok(())
}
