//! Writes the timelines of boots that stopped: into the machine's BareMetalDiscovery, or into a new one that has nothing else, so that a machine that never reaches the agent is seen, too.
//!
//! Such an object is named after the MAC address and taken over by the machine's first session. It counts among the unaccepted machines, there are at most [`Quotas::unfinished`] of them, and
//! they share one allowance of creations, because whoever forges a MAC address has no address by which he could be told from others.
//!
//! [`Quotas::unfinished`]: crate::Quotas::unfinished

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::identity::MacAddress;
use api::{BareMetalDiscovery, BareMetalDiscoverySpec, timeline::BootStepKind};
use lifecycle::identity::{Identity, Match, discovery_name};

use super::{Mine, addresses};
use crate::{
    error::chain,
    objects::store::Change,
    state::{Creating, Shared},
};

const TICK: Duration = Duration::from_millis(250);
/// Machines that are looked at in one tick.
const AT_ONCE: usize = 256;
/// Where the kernel shows its IPv4 neighbours.
const NEIGHBOURS: &str = "/proc/net/arp";

/// The name of the object of a machine of which nothing but a MAC address is known.
pub(crate) fn unfinished_name(mac: MacAddress) -> String {
    discovery_name(&Identity::of_boot(mac), 0)
}

/// Looks addresses up and writes, until the process ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    tokio::join!(look_up(&shared), write_stopped(&shared));
}

async fn look_up(shared: &Shared) {
    let Some(mut waiting) = shared.timelines.take_lookups() else {
        return;
    };
    while let Some((address, seen, moment)) = waiting.recv().await {
        // One read serves whatever waits; the table has as many lines as the kernel keeps neighbours.
        let table = tokio::fs::read_to_string(NEIGHBOURS).await.unwrap_or_default();
        let mut next = Some((address, seen, moment));
        while let Some((address, seen, moment)) = next {
            match addresses::neighbour(&table, address) {
                // Anybody may fetch a script to look at it; who fetches a loader boots it.
                Some(mac) if seen.kind == BootStepKind::Tftp || shared.timelines.follows(mac) => {
                    shared.timelines.seen(mac, None, &seen, moment);
                    shared.timelines.learn(mac, address, false, moment);
                }
                _ => tracing::debug!(%address, step = ?seen.kind, "nobody knows which machine has this address"),
            }
            next = waiting.try_recv().ok();
        }
    }
}

async fn write_stopped(shared: &Shared) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !shared.is_ready() || !shared.store.is_reachable() {
            continue;
        }
        for mac in shared.timelines.due(shared.config.boot_stopped_after, AT_ONCE, Instant::now()) {
            if let Some(mine) = shared.timelines.mine(mac) {
                write(shared, &mine).await;
            }
        }
    }
}

async fn write(shared: &Shared, mine: &Mine) {
    let matched = shared.cache.match_boot(mine.uuid, mine.mac);
    let is_new = matched == Match::New;
    let name = match matched {
        Match::Known(name) => name,
        Match::New => unfinished_name(mine.mac),
        // It may be one of several, and a person is asked about that when its agent comes.
        Match::Unclear { .. } => return shared.timelines.forget(mine.mac),
    };
    let mut known = shared.cache.discovery(&name);
    if known.is_none() {
        match create(shared, mine, &name).await {
            Created::Yes => return,
            Created::TooMany => return shared.timelines.forget(mine.mac),
            Created::Failed => return,
            // Another replica was faster.
            Created::Exists => known = shared.store.discovery(&name).await.ok().map(Arc::new),
        }
    }
    let Some(known) = known else { return };
    if is_new && Identity::of_discovery(&known).is_some() {
        // Named after a card that is in another machine now.
        return shared.timelines.forget(mine.mac);
    }
    if !shared.budget.take() {
        // Its turn comes again.
        return;
    }
    let written = shared
        .store
        .update(known, |current| {
            let mut new = current.clone();
            Ok(match mine.merge_into(new.status.get_or_insert_default()) {
                true => Change::Write(Box::new(new), ()),
                false => Change::Keep(()),
            })
        })
        .await;
    match written {
        Ok(()) => {
            shared.metrics.timelines_written.inc();
            shared.timelines.written(mine);
        }
        Err(refusal) => tracing::debug!(discovery = %name, ?refusal, "a boot timeline could not be written; it is tried again"),
    }
}

enum Created {
    Yes,
    Exists,
    TooMany,
    Failed,
}

async fn create(shared: &Shared, mine: &Mine, name: &str) -> Created {
    let full = shared.cache.unfinished() >= shared.config.quotas.unfinished;
    let nobody = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if full || shared.creations.take(nobody, Instant::now()).is_err() {
        shared.metrics.timelines_refused.inc();
        tracing::debug!(mac = %mine.mac, "a boot stopped and is not written down: too many machines began to boot and never reached the agent");
        return Created::TooMany;
    }
    let Some(_place) = Creating::new(shared) else {
        return Created::TooMany;
    };
    if !shared.budget.take() {
        return Created::Failed;
    }
    let mut discovery = BareMetalDiscovery::new(name, BareMetalDiscoverySpec {});
    mine.merge_into(discovery.status.get_or_insert_default());
    match shared.store.create_discovery(&discovery).await {
        Ok(_) => {
            tracing::warn!(discovery = %name, mac = %mine.mac, "a machine began to boot and did not reach the agent; `kube-baremetal timeline` shows how far it came");
            shared.metrics.timelines_written.inc();
            shared.timelines.written(mine);
            Created::Yes
        }
        Err(error) if error.is_conflict() => Created::Exists,
        Err(error) => {
            tracing::debug!(discovery = %name, error = %chain(&error), "a boot timeline could not be written; it is tried again");
            Created::Failed
        }
    }
}
