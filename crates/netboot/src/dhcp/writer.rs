//! What goes on beside the answers: leases written, networks looked at again, and the word to other replicas that this one is there.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::{
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{
    full::{Full, Job, map_name},
    peers::{self, Said},
    served::Answer,
    wire,
};
use crate::{
    error::{Error, chain},
    objects::{store::Store, watch},
};

/// Writes that are under way at a time, each of another block: a burst of clients is not to keep the API server from everybody else.
const AT_ONCE: usize = 16;
/// How often what runs out by itself is looked at.
const TICK: Duration = Duration::from_secs(5);
/// Changes that come together are one.
const TOGETHER: Duration = Duration::from_millis(100);
/// Value of the label of ConfigMaps with leases.
const LEASES: &str = "leases";

/// Everything that a replica does which may give out addresses on these interfaces. Never ends.
pub(crate) async fn run(full: Arc<Full>, interfaces: Vec<String>) {
    let store = full.store.clone();
    let (by_leases, by_addresses) = (full.clone(), full.clone());
    tokio::join!(
        watch::follow_dhcp(&store, &full, move || by_leases.leases_listed()),
        watch::follow_addresses(&store, &full.taken, move || by_addresses.addresses_listed()),
        write(&full, &store),
        configure(&full),
        say_so(&full, &store, &interfaces),
    );
}

/// A new ConfigMap of ours.
fn map(name: String, kind: &str, version: Option<String>, owner: Option<OwnerReference>) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(api::LABEL_DHCP.to_owned(), kind.to_owned())].into()),
            owner_references: owner.map(|owner| vec![owner]),
            resource_version: version,
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

async fn write(full: &Full, store: &Store) {
    let mut under_way = FuturesUnordered::new();
    loop {
        if under_way.len() < AT_ONCE {
            under_way.extend(
                full.take_writes(AT_ONCE - under_way.len())
                    .into_iter()
                    .map(|job| write_one(full, store, job)),
            );
        }
        let wait = full.next_due().map_or(TICK, |due| due.saturating_duration_since(Instant::now()));
        // A write that is due while none may begin waits for one that ends.
        let wait = if under_way.len() < AT_ONCE { wait } else { TICK };
        tokio::select! {
            () = full.due.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(()) = under_way.next() => {}
        }
    }
}

/// Writes one block, tells those who wait, or finds out why it could not be written.
async fn write_one(full: &Full, store: &Store, job: Job) {
    let Job { network, uid, write } = job;
    let block = write.block;
    let name = map_name(&network, block);
    // The leases go with the network.
    let owner = uid.map(|uid| OwnerReference {
        api_version: "kube-baremetal.io/v1alpha1".to_owned(),
        kind: "BareMetalNetwork".to_owned(),
        name: network.to_string(),
        uid,
        ..OwnerReference::default()
    });
    let mut wanted = map(name.clone(), LEASES, write.version, owner);
    wanted.data = Some(write.data);
    let outcome = store.put_config_map(&wanted).await;
    match outcome {
        Ok(written) => {
            for held in full.written(&network, block, &written) {
                if let Some(Err(error)) = held.written().map(Answer::send) {
                    tracing::warn!(%error, "a DHCP answer could not be sent");
                }
            }
        }
        Err(error) if error.is_conflict() || error.is_not_found() => match store.config_map(&name).await {
            Ok(there) => full.overtaken(&network, block, Some(&there)),
            Err(error) if error.is_not_found() => full.overtaken(&network, block, None),
            Err(error) => not_written(full, &network, block, &error),
        },
        Err(error) => not_written(full, &network, block, &error),
    }
}

fn not_written(full: &Full, network: &str, block: IpAddr, error: &Error) {
    // That the API is away was said once already.
    if full.store.is_reachable() {
        tracing::warn!(network, %block, error = %chain(error), "leases could not be written and are tried again; clients with new ones are not answered until then");
    }
    full.failed(network, block);
}

/// Looks again at networks, addresses, peers and this host's own addresses when something may have changed.
async fn configure(full: &Full) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = full.changed.notified() => {}
            () = full.networks.changed() => {}
            () = full.taken.changed() => {}
        }
        tokio::time::sleep(TOGETHER).await;
        match wire::addresses(None) {
            Ok(ours) => full.configure(&ours.into_iter().collect()),
            // An address of our own must not be given out.
            Err(error) => tracing::warn!(%error, "our own addresses are not known; networks are left as they are"),
        }
        full.count();
    }
}

/// Says that this replica is there, as long as there is a network for which that matters to somebody.
async fn say_so(full: &Full, store: &Store, interfaces: &[String]) {
    let mut tick = tokio::time::interval(peers::HEARTBEAT);
    let mut version = None;
    let mut beats = 0;
    let mut said_before = Said::default();
    loop {
        tick.tick().await;
        let addresses: BTreeSet<IpAddr> = interfaces
            .iter()
            .flat_map(|name| wire::addresses(Some(name)).unwrap_or_default())
            .collect();
        let said = Said {
            networks: full.heard(&addresses),
            addresses,
        };
        if said.networks.is_empty() && said_before.networks.is_empty() {
            continue;
        }
        beats += 1;
        let mut beat = map(full.me().to_owned(), peers::LABEL, version.take(), None);
        beat.data = Some(said.data(beats));
        match store.put_config_map(&beat).await {
            Ok(written) => version = written.metadata.resource_version,
            // It is from before the last start, or was deleted.
            Err(error) if error.is_conflict() => match store.config_map(full.me()).await {
                Ok(there) => {
                    version = there.metadata.resource_version;
                    tick.reset_immediately();
                }
                Err(error) => tracing::debug!(error = %chain(&error), "this replica's word to others is not there"),
            },
            Err(error) => tracing::debug!(error = %chain(&error), "other replicas are not told that this one is there"),
        }
        said_before = said;
    }
}
