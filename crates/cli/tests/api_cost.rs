//! What a machine costs the API: requests of both roles, counted from the audit log of a real API server, with 800 simulated machines and agents that speak the real protocol
//! (`make bench-api-cost`).
//!
//! Events are counted. Hints of progress are not, but may be at most 50 a second in all. The Lease and netboot's question whether the API is there belong to processes, not to machines.

mod cluster;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use rig::{accounts::user_name, audit, audit::Call};

use cluster::{Cluster, NETBOOT, SYSTEM};

/// Most requests of a machine: from first boot to Ready, from its claim to Running, from deletion to Ready again.
const BARS: [f64; 3] = [10.0, 12.0, 12.0];
/// An address of ours is three objects' writes more (BareMetalEndpoint, its status, BareMetalAddress), and one less to go.
const BARS_WITH_ADDRESSES: [f64; 3] = [10.0, 15.0, 13.0];
const IDLE: Duration = Duration::from_secs(60);

/// How many hints of progress were sent so far, by both roles.
async fn hints(fleet: &cluster::Fleet) -> Result<f64> {
    let mut sum = 0.0;
    for plan in fleet.plans() {
        let (_, text) = rig::roles::page(plan.monitor, "/metrics").await.context("no metrics")?;
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((name, value)) = line.split_once(' ') else { continue };
            if name.ends_with("_progress_written_total") {
                sum += value.parse::<f64>()?;
            }
        }
    }
    Ok(sum)
}

fn is_of_a_process(call: &Call) -> bool {
    call.resource == "leases" || (call.resource == "secrets" && call.name == "netboot-keys") || call.verb == "watch" || call.verb == "list"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_costs_few_requests() {
    for (addresses, bars) in [(false, BARS), (true, BARS_WITH_ADDRESSES)] {
        println!(
            "\n== instances {}",
            if addresses { "with an address of ours each" } else { "by DHCP" }
        );
        measure(addresses, bars).await.unwrap();
    }
}

async fn measure(addresses: bool, bars: [f64; 3]) -> Result<()> {
    let machines: usize = std::env::var("KBM_MACHINES")
        .map_or(Ok(800), |n| n.parse())
        .context("KBM_MACHINES")?;
    let cluster = Cluster::start(1, false, &[]).await?;
    let fleet = cluster.fleet(1, 1, machines).await?;
    let mut swarm = cluster.swarm(machines);
    swarm.apart = Some(IDLE);
    swarm.addresses = addresses;
    let mut samples: Vec<(Timestamp, f64)> = Vec::new();
    let boot = cluster.boot(1);
    let report = {
        let mut living = std::pin::pin!(lab::swarm::drive(&swarm, &cluster.client, boot, &fleet));
        loop {
            tokio::select! {
                report = &mut living => break report?,
                () = tokio::time::sleep(Duration::from_secs(1)) => samples.push((Timestamp::now(), hints(&fleet).await?)),
            }
        }
    };
    samples.push((Timestamp::now(), hints(&fleet).await?));
    println!("{report}");

    let users = [user_name(SYSTEM.0, SYSTEM.1), user_name(NETBOOT.0, NETBOOT.1)];
    let calls: Vec<Call> = audit::read(&cluster.plane.audit_log())?
        .into_iter()
        .filter(|c| users.contains(&c.user) && !is_of_a_process(c))
        .collect();
    let marks: Vec<String> = report.marks.iter().map(Timestamp::to_string).collect();
    ensure!(marks.len() == 5, "the ways were not told apart");
    let (calls, marks) = (&calls, &marks);
    let between = |from: usize| calls.iter().filter(move |c| c.at >= marks[from] && c.at < marks[from + 1]);
    let hints_until = |mark: Timestamp| samples.iter().rfind(|(at, _)| *at <= mark).map_or(0.0, |(_, hints)| *hints);
    let mut short = Vec::new();
    let per_machine = |count: f64| count / machines as f64;
    for (name, from, bar) in [
        ("first boot to Ready", 0, bars[0]),
        ("claim to Running", 2, bars[1]),
        ("deletion to Ready", 3, bars[2]),
    ] {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for call in between(from) {
            let role = if call.user == users[0] { "operator" } else { "netboot" };
            *kinds.entry(format!("{role} {} {}", call.verb, call.resource)).or_default() += 1;
        }
        let hints = hints_until(report.marks[from + 1]) - hints_until(report.marks[from]);
        let count = per_machine(kinds.values().sum::<usize>() as f64 - hints);
        println!(
            "\n{name}: {count:.2} requests a machine, and {:.2} hints of progress",
            per_machine(hints)
        );
        for (kind, count) in &kinds {
            println!("  {:>7.3}  {kind}", per_machine(*count as f64));
        }
        if count > bar {
            short.push(format!("{name}: {count:.2} requests a machine, at most {bar} are allowed"));
        }
    }
    let hints = samples.last().map_or(0.0, |(_, hints)| *hints);
    let idle = between(1).count() as f64 / (IDLE.as_secs_f64() / 60.0);
    let conflicts = calls.iter().filter(|c| c.code == 409).count() as f64 / calls.len().max(1) as f64;
    let took = report.to_ready.unwrap_or_default() + report.to_running + report.to_released;
    let hints_per_second = hints / took.as_secs_f64();
    println!("\nidle: {:.4} requests a machine and minute", per_machine(idle));
    for call in between(1).take(10) {
        println!("  {} {} {} {} {}", call.at, call.verb, call.resource, call.name, call.code);
    }
    let mut codes: BTreeMap<u16, usize> = BTreeMap::new();
    for call in calls {
        *codes.entry(call.code).or_default() += 1;
    }
    println!("answers by status: {codes:?}");
    println!("conflicts: {:.2} %", conflicts * 100.0);
    println!("hints of progress: {hints} in all, {hints_per_second:.1} a second");
    println!("all requests of a life: {:.2}, hints included", per_machine(calls.len() as f64));
    println!(
        "first boot to Ready: {:.1} s (goal: 25 s for 800 machines)",
        report.to_ready.unwrap_or_default().as_secs_f64()
    );
    if idle > 0.0 {
        short.push(format!("idle machines cost {idle} requests a minute"));
    }
    if conflicts >= 0.01 {
        short.push(format!("{:.2} % of the requests were conflicts", conflicts * 100.0));
    }
    if hints_per_second > 50.0 {
        short.push(format!("{hints_per_second} hints a second"));
    }
    ensure!(short.is_empty(), "short of the bars:\n  {}", short.join("\n  "));
    Ok(())
}
