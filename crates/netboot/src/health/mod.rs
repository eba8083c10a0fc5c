//! The replica looks at itself as machines would see it, with the doctor's own eyes and judgement (crate `doctor`), and says what it found on the BareMetalNetwork: a report of its own in
//! `status.netboot`, and the condition `NetbootHealthy` over the reports of all replicas.
//!
//! * It looks at the start, when the interface's addresses, the network or the other replicas change, and every ten minutes. A look takes some seconds in a thread of its own, for which the end of the
//!   process does not wait; whoever answers machines never waits for it. It costs eight DHCPDISCOVERs (four kinds of machine, each asked for twice), a request at port 4011, and the loader twice over
//!   the loopback interface, in small blocks and in full frames. Where netboot gives out addresses (`Full`), each look holds those that it is offered for a minute, as any offer does.
//! * What is expected is what machines of that network are to be given: its `spec.bootLoaders` before the replica's own loaders. Where addresses are given out by reservation alone, a made-up machine gets
//!   none, and nothing is said about that.
//! * On an interface without a BareMetalNetwork, or on which netboot says nothing, there is nobody to tell and nothing to look at. Of two interfaces in one network the first one is looked at.
//! * Each replica writes by compare and swap: its own report, no report of replicas that gave no sign of life for twice as long as they should, and the condition, which follows from the reports alone, so
//!   replicas agree about it. Nothing is written that is there already, but for a sign of life four times a day.
//! * A report says what the last look found. Where that failed, where the interface has left the network, and at the end of the replica there is none. One that a former process of this replica left
//!   behind goes at the start.
//!
//! What it cannot see: what a firewall or a switch does to others. That is what `kube-baremetal netboot doctor` on another host is for.

mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use api::{BareMetalNetwork, BootLoader, DhcpMode};
use doctor::{
    judge::{self, Expected},
    probe::{self, ProbeError, link},
};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::oneshot;

use self::report::Looked;
use crate::{
    config::{LanConfig, LanInterface},
    dhcp::tables::TableMaker,
    error::{Error, chain},
    loaders::Loaders,
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
    loaders: Arc<Loaders>,
    addresses: Addresses,
    networks: Arc<Networks>,
    store: Arc<Store>,
}

/// What a look depends on: another one is worth while when it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Scene {
    own: Vec<Ipv4Addr>,
    /// The one of them by which machines of the network reach this replica.
    address: Ipv4Addr,
    network: String,
    mode: DhcpMode,
    reserved_only: bool,
    boot_loaders: Vec<BootLoader>,
    peers: BTreeSet<Ipv4Addr>,
}

/// The last look at an interface.
struct Seen {
    scene: Scene,
    at: Instant,
    /// `None`: nothing could be looked at.
    looked: Option<Looked>,
}

/// How writing goes.
struct Writing {
    not_before: Instant,
    /// The right is missing, and that was told.
    refused: bool,
}

impl Health {
    /// `None` where DHCP is on ports of a test's own: the doctor asks those that machines ask.
    pub(crate) fn new(
        lan: &LanConfig,
        replica: &str,
        loaders: &Arc<Loaders>,
        addresses: Addresses,
        networks: &Arc<Networks>,
        store: &Arc<Store>,
    ) -> Option<Self> {
        (lan.ports == crate::config::LanPorts::default()).then(|| Self {
            replica: replica.to_owned(),
            interfaces: lan.interfaces.clone(),
            loaders: loaders.clone(),
            addresses,
            networks: networks.clone(),
            store: store.clone(),
        })
    }

    /// Looks again and again. Never ends; [`Health::withdraw`] is for the end.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (offers, available) = (self.loaders.offers.clone(), self.loaders.available.clone());
        let mut tables = TableMaker::new(self.addresses.http.port(), offers, available);
        let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
        let mut writing = Writing {
            not_before: Instant::now(),
            refused: false,
        };
        loop {
            tick.tick().await;
            // Until then an interface's network may not be known, and its report would seem to be nobody's.
            if !self.networks.are_listed() {
                continue;
            }
            let mut served = BTreeSet::new();
            for interface in &self.interfaces {
                let scene = self.scene(interface).filter(|scene| served.insert(scene.network.clone()));
                let Some(scene) = scene else {
                    seen.remove(&interface.name);
                    continue;
                };
                let before = seen.get(&interface.name);
                let due = before.is_none_or(|seen| seen.at.elapsed() >= if seen.scene == scene { LOOK } else { REST });
                if due {
                    let looked = self.look(interface, &scene, &mut tables).await;
                    if let Some(looked) = &looked {
                        looked.tell(before.and_then(|seen| seen.looked.as_ref()));
                    }
                    let at = Instant::now();
                    seen.insert(interface.name.clone(), Seen { scene, at, looked });
                } else if before.is_some_and(|seen| seen.scene.network != scene.network) {
                    // What was found there says nothing about the other network, which is looked at after a rest.
                    served.remove(&scene.network);
                }
            }
            let found: BTreeMap<&str, &Looked> = seen
                .values()
                .filter(|seen| served.contains(&seen.scene.network))
                .filter_map(|seen| Some((seen.scene.network.as_str(), seen.looked.as_ref()?)))
                .collect();
            self.write_all(&found, &mut writing).await;
        }
    }

    /// Takes this replica's reports away, at its end.
    pub(crate) async fn withdraw(&self) {
        for network in self.networks.all() {
            if let Err(error) = self.write(&network, None).await {
                tracing::warn!(network = network.name_any(), error = %chain(&error), "this replica's report about its health cannot be taken away; another replica does so in half a day");
            }
        }
    }

    /// The interface's network, where netboot is to say something there.
    fn scene(&self, interface: &LanInterface) -> Option<Scene> {
        // An interface that is gone has no addresses.
        let own: Vec<Ipv4Addr> = link::read(&interface.name).map_or(Vec::new(), |link| link.addresses.iter().map(|a| a.address).collect());
        let (address, network) = own
            .iter()
            .find_map(|address| Some((*address, self.networks.containing((*address).into())?)))?;
        let mode = interface.mode(network.spec.dhcp);
        if mode == DhcpMode::Off {
            return None;
        }
        let status = network.status.clone().unwrap_or_default();
        let others = status
            .fresh_reports(Timestamp::now())
            .filter(|report| report.replica != self.replica);
        let plan = network.spec.ipv4.as_ref();
        Some(Scene {
            own,
            address,
            network: network.name_any(),
            mode,
            reserved_only: mode == DhcpMode::Full && plan.is_none_or(|plan| plan.dynamic_ranges.is_empty()),
            boot_loaders: network.spec.boot_loaders.clone(),
            peers: others.filter_map(|report| report.address.parse().ok()).collect(),
        })
    }

    /// `None`: it could not look, and said so in the log.
    async fn look(&self, interface: &LanInterface, scene: &Scene, tables: &mut TableMaker) -> Option<Looked> {
        let settings = probe::Settings {
            interface: interface.name.clone(),
            server: Some(scene.address),
            http_port: self.addresses.http.port(),
            tls_port: self.addresses.tls.port(),
            patience: PATIENCE,
        };
        let (answer, answered) = oneshot::channel();
        // A thread of the runtime's own would hold up the end of the process for as long as the look takes.
        let thread = std::thread::Builder::new().name("health".to_owned()).spawn(move || {
            // Nobody hears it any more when the replica has ended.
            answer.send(probe::look(&settings)).ok();
        });
        let interface = interface.name.as_str();
        if let Err(error) = thread {
            tracing::warn!(interface, %error, "no thread can be started in which this replica looks at itself; nothing is said about its health there");
            return None;
        }
        let facts = match answered.await {
            Ok(Ok(facts)) => facts,
            Ok(Err(error @ (ProbeError::Socket { .. } | ProbeError::Interface { .. }))) => {
                tracing::info!(interface, error = %chain(&error), "this replica cannot look at itself there, and says nothing about its health");
                return None;
            }
            Err(_) => {
                tracing::error!(
                    interface,
                    "this replica's look at itself panicked there; nothing is said about its health"
                );
                return None;
            }
        };
        let expected = Expected {
            table: &tables.tables(scene.address.into(), &[], &scene.boot_loaders).merged(),
            replicas: &scene.peers,
            reserved_only: scene.reserved_only,
        };
        let findings = judge::judge(&facts, expected, None);
        Some(Looked::new(interface, scene.address, &findings))
    }

    /// Makes every network say what was `found` there by this replica, and nothing where that is nothing.
    async fn write_all(&self, found: &BTreeMap<&str, &Looked>, writing: &mut Writing) {
        if Instant::now() < writing.not_before {
            return;
        }
        // As they are now, some seconds after the look began.
        for network in self.networks.all() {
            if !self.store.is_reachable() {
                return;
            }
            let name = network.name_any();
            match self.write(&network, found.get(name.as_str()).copied()).await {
                Ok(false) => {}
                Ok(true) => writing.refused = false,
                Err(error) => {
                    writing.not_before = Instant::now() + RETRY;
                    let refused = error.is_forbidden();
                    if refused && !writing.refused {
                        tracing::warn!(network = name, error = %chain(&error), "a network's condition NetbootHealthy may not be written: apply deploy/rbac/dhcp.yaml; it is tried again without another word");
                    } else if !refused {
                        tracing::warn!(network = name, error = %chain(&error), "a network's condition NetbootHealthy cannot be written; it is tried again");
                    }
                    writing.refused = refused;
                }
            }
        }
    }

    /// Writes what is not there yet; whether that was anything.
    async fn write(&self, network: &Arc<BareMetalNetwork>, looked: Option<&Looked>) -> Result<bool, Error> {
        let now = Timestamp::now();
        let decide = |network: &BareMetalNetwork| report::wanted(network, &self.replica, looked, now);
        let Some(written) = self.store.update_network_status(network.clone(), decide).await? else {
            return Ok(false);
        };
        for replica in report::silent(network, &self.replica, now) {
            let network = network.name_any();
            tracing::info!(
                network,
                replica,
                "a replica has given no sign of life for half a day; its report was taken away"
            );
        }
        self.networks.written(written);
        Ok(true)
    }
}
