//! The replica looks at itself as machines would see it, with the doctor's own eyes and judgement (crate `doctor`), and says what it found on the BareMetalNetwork: a report of its own in
//! `status.netboot`, and the condition `NetbootHealthy` over the reports of all replicas.
//!
//! * It looks at the start, when the interface's addresses, the network or the other replicas change, and every ten minutes. A look takes some seconds in a thread of its own and one small file over the
//!   loopback interface; whoever answers machines never waits for it.
//! * On an interface without a BareMetalNetwork, or on which netboot says nothing, there is nobody to tell and nothing to look at. Of two interfaces in one network the first one is looked at.
//! * Each replica applies its report under a field manager of its own, so replicas never write over each other. The condition follows from the reports alone, so they agree about it. Nothing is written
//!   that is there already, but for a sign of life four times a day: the report of a replica that gave none for twice that long is taken away by another one, and does not count.
//! * A replica that is told to end takes its report away.
//!
//! What it cannot see: what a firewall or a switch does to others. That is what `kube-baremetal netboot doctor` on another host is for.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{DhcpMode, network::NetbootReport};
use dhcp::arch::Loaders;
use doctor::{
    judge,
    probe::{self, ProbeError, link},
    recipes::Plan,
};
use jiff::Timestamp;
use kube::ResourceExt;

use self::report::{Looked, wanted};
use crate::{
    config::{LanConfig, LanInterface, UefiLoader},
    error::chain,
    netboot::Addresses,
    objects::{networks::Networks, store::Store},
};

/// How often it is looked at whether there is a reason to look.
const TICK: Duration = Duration::from_secs(5);
/// How often it looks without one.
const LOOK: Duration = Duration::from_secs(600);
/// It looks no more often than that, whatever changes.
const REST: Duration = Duration::from_secs(20);
/// For how long DHCP servers may answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// A write that failed is tried again after so long.
const RETRY: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Health {
    replica: String,
    interfaces: Vec<LanInterface>,
    uefi: UefiLoader,
    addresses: Addresses,
    networks: Arc<Networks>,
    store: Arc<Store>,
}

/// What a look depends on: another one is worth while when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scene {
    own: Vec<Ipv4Addr>,
    network: String,
    mode: DhcpMode,
    peers: BTreeSet<Ipv4Addr>,
}

impl Health {
    /// `None` where DHCP is on ports of a test's own: the doctor asks those that machines ask.
    pub(crate) fn new(
        lan: &LanConfig,
        replica: &str,
        uefi: UefiLoader,
        addresses: Addresses,
        networks: &Arc<Networks>,
        store: &Arc<Store>,
    ) -> Option<Self> {
        (lan.ports == crate::config::LanPorts::default()).then(|| Self {
            replica: replica.to_owned(),
            interfaces: lan.interfaces.clone(),
            uefi,
            addresses,
            networks: networks.clone(),
            store: store.clone(),
        })
    }

    /// Looks again and again. Never ends; [`Health::withdraw`] is for the end.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut seen: BTreeMap<String, (Scene, Instant)> = BTreeMap::new();
        let mut found: BTreeMap<String, Looked> = BTreeMap::new();
        let mut not_before = Instant::now();
        loop {
            tick.tick().await;
            let mut networks = BTreeSet::new();
            for interface in &self.interfaces {
                let Some(scene) = self.scene(interface) else {
                    if let Some((scene, _)) = seen.remove(&interface.name) {
                        found.remove(&interface.name);
                        self.forget(&scene.network, &self.replica).await;
                    }
                    continue;
                };
                if !networks.insert(scene.network.clone()) {
                    continue;
                }
                let due = match seen.get(&interface.name) {
                    None => true,
                    Some((before, at)) => at.elapsed() >= if *before == scene { LOOK } else { REST },
                };
                if due {
                    if let Some((before, _)) = seen.get(&interface.name)
                        && before.network != scene.network
                    {
                        self.forget(&before.network, &self.replica).await;
                    }
                    if let Some(looked) = self.look(interface, &scene).await {
                        looked.tell(found.get(&interface.name));
                        found.insert(interface.name.clone(), looked);
                    }
                    seen.insert(interface.name.clone(), (scene.clone(), Instant::now()));
                }
                let now = Instant::now();
                if let Some(looked) = found.get(&interface.name)
                    && now >= not_before
                    && self.store.is_reachable()
                    && !self.write(&scene.network, looked).await
                {
                    not_before = now + RETRY;
                }
            }
        }
    }

    /// Takes this replica's reports away, at its end.
    pub(crate) async fn withdraw(&self) {
        let reported = self.networks.all().into_iter().filter(|network| {
            let mine = |report: &NetbootReport| report.replica == self.replica;
            network.status.as_ref().is_some_and(|status| status.netboot.iter().any(mine))
        });
        for network in reported {
            self.forget(&network.name_any(), &self.replica).await;
        }
    }

    /// The interface's network, where netboot is to say something there.
    fn scene(&self, interface: &LanInterface) -> Option<Scene> {
        // An interface that is gone has no addresses.
        let own: Vec<Ipv4Addr> = link::read(&interface.name).map_or(Vec::new(), |link| link.addresses.iter().map(|a| a.address).collect());
        let network = own.iter().find_map(|address| self.networks.containing((*address).into()))?;
        let mode = interface.mode(network.spec.dhcp);
        if mode == DhcpMode::Off {
            return None;
        }
        let status = network.status.clone().unwrap_or_default();
        let others = report::fresh(&status, Timestamp::now()).filter(|report| report.replica != self.replica);
        Some(Scene {
            own,
            network: network.name_any(),
            mode,
            peers: others.filter_map(|report| report.address.parse().ok()).collect(),
        })
    }

    async fn look(&self, interface: &LanInterface, scene: &Scene) -> Option<Looked> {
        let settings = probe::Settings {
            interface: interface.name.clone(),
            server: None,
            http_port: self.addresses.http.port(),
            tls_port: self.addresses.tls.port(),
            patience: PATIENCE,
        };
        let facts = tokio::task::spawn_blocking(move || probe::look(&settings)).await.ok()?;
        let facts = match facts {
            Ok(facts) => facts,
            Err(error @ (ProbeError::Socket { .. } | ProbeError::Interface { .. })) => {
                tracing::info!(interface = interface.name, error = %chain(&error), "this replica cannot look at itself there, and says nothing about its health");
                return None;
            }
        };
        let address = facts.boot_server.as_ref().map(|server| server.address)?;
        let loaders = match self.uefi {
            UefiLoader::Ipxe => Loaders::Ipxe,
            UefiLoader::Signed => Loaders::SecureBoot,
        };
        let plan = Plan::new(address.into(), self.addresses.http.port(), loaders, true)
            .inspect_err(|error| tracing::error!(%address, %error, "the table of what machines boot cannot be made"))
            .ok()?;
        let findings = judge::judge(&facts, plan.table(), &scene.peers, None);
        Some(Looked::new(&self.replica, &interface.name, address, &findings))
    }

    /// Writes what is not there yet. False: it could not be written.
    async fn write(&self, name: &str, looked: &Looked) -> bool {
        let now = Timestamp::now();
        // As it is now, some seconds after the look began.
        let Some(network) = self.networks.named(name) else { return true };
        for silent in report::silent(&network, &self.replica, now) {
            tracing::info!(
                network = name,
                replica = silent,
                "a replica has given no sign of life for half a day; its report is taken away"
            );
            self.forget(name, &silent).await;
        }
        let Some(status) = wanted(&network, looked, now) else { return true };
        match self.store.apply_network_status(name, &manager(&self.replica), &status).await {
            Ok(written) => {
                self.networks.apply(written);
                true
            }
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                tracing::warn!(network = name, error = %chain(&error), "a network's condition NetbootHealthy cannot be written; it is tried again");
                false
            }
        }
    }

    /// Takes a replica's report away, in its name.
    async fn forget(&self, network: &str, replica: &str) {
        let Some(known) = self.networks.named(network) else { return };
        let left = report::withdrawn(&known, replica, Timestamp::now());
        match self.store.apply_network_status(network, &manager(replica), &left).await {
            Ok(written) => self.networks.apply(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => tracing::debug!(network, replica, error = %chain(&error), "a report could not be taken away"),
        }
    }
}

/// The field manager of a replica, of at most 128 characters as the API wants it.
fn manager(replica: &str) -> String {
    format!("netboot/{}", replica.chars().take(100).collect::<String>())
}
