//! Addresses given out: the networks whose objects say so, their leases, and what is written of them.
//!
//! * One [`Server`](dhcp::v4::server::Server) per network decides, under one lock for all interfaces of this replica.
//! * Nobody is answered before the leases were loaded.
//! * An ACK goes out when its lease is written ([`super::ledger`]), many in one write. An offer promises nothing and goes out at once.
//! * Without the API a client keeps what it has: the renewal of a lease that was written is confirmed from memory and written later. Nobody gets an address that could not be written.
//! * Replicas with the same objects choose the same address for the same client; who answers first, they know without a word ([`super::peers`]).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use api::BareMetalNetwork;
use dhcp::{
    Replicas, Time,
    v4::{
        Arrival, Client, Destination, Ignored,
        server::{BootSite, Outcome, Reply, Server, Settings},
        wire::{MessageType, Packet},
    },
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use tokio::sync::Notify;

use super::{
    ledger::{Ledger, Standing, Waiting, Write},
    peers::{self, Peer, Peers},
    plan,
    socket::Socket,
};
use crate::{
    metrics::{LeaseState, Metrics},
    objects::{
        addresses::{Taken, TakenAddresses},
        networks::Networks,
        store::Store,
        watch::DhcpMaps,
    },
};

/// A network counts as reached through a relay agent for so long after a packet from it.
const RELAYED: Duration = Duration::from_secs(600);
/// Beginning of the names of the ConfigMaps with leases; network and block follow.
const PREFIX: &str = "dhcp-leases.";

/// Name of the ConfigMap with a block of a network's leases.
pub(super) fn map_name(network: &str, block: u32) -> String {
    format!("{PREFIX}{network}.{block:08x}")
}

fn of_map(name: &str) -> Option<(&str, u32)> {
    let (network, block) = name.strip_prefix(PREFIX)?.rsplit_once('.')?;
    Some((network, u32::from_str_radix(block, 16).ok()?))
}

/// An answer that waits for its lease to be written.
pub(super) struct Held {
    pub(super) socket: Arc<Socket>,
    pub(super) bytes: Vec<u8>,
    pub(super) destination: Destination,
}

/// A packet, and what is known about it.
#[derive(Clone, Copy)]
pub(super) struct Question<'q> {
    pub(super) packet: &'q Packet<'q>,
    pub(super) client: &'q Client,
    pub(super) arrival: &'q Arrival,
    /// What there is to boot.
    pub(super) site: &'q BootSite<'q>,
}

/// What to do about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Send what is in the buffer.
    Send(Reply),
    /// The answer follows when the lease is written.
    Held,
    /// Ask whether somebody uses this address, say so, and come again.
    Probe(Ipv4Addr),
    /// There is no answer to it.
    Done,
}

/// One write to be done.
pub(super) struct Job {
    pub(super) network: Arc<str>,
    /// The object's UID, to which the ConfigMap belongs.
    pub(super) uid: Option<String>,
    pub(super) write: Write,
}

/// What a server was made from.
#[derive(PartialEq)]
struct Inputs {
    spec: api::BareMetalNetworkSpec,
    taken: Vec<Taken>,
    ours: BTreeSet<Ipv4Addr>,
    peers: Vec<Peer>,
}

#[derive(Default)]
struct Network {
    /// None: addresses are not given out here, or not any more.
    server: Option<Server>,
    inputs: Option<Inputs>,
    uid: Option<String>,
    ledger: Ledger<Held>,
    /// When a relay agent sent something from there.
    relayed: Option<Instant>,
}

struct State {
    networks: HashMap<Arc<str>, Network>,
    peers: Peers,
    now: Time,
}

impl State {
    /// The time, which never runs backwards.
    fn now(&mut self) -> Time {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.now = self.now.max(clock);
        self.now
    }

    fn network(&mut self, name: &str) -> &mut Network {
        if !self.networks.contains_key(name) {
            self.networks.insert(name.into(), Network::default());
        }
        self.networks.entry(name.into()).or_default()
    }
}

/// See the module.
pub(crate) struct Full {
    state: Mutex<State>,
    /// Leases, and addresses that are somebody's: whether they were listed.
    loaded: [AtomicBool; 2],
    /// The writer has something to do.
    pub(super) due: Notify,
    /// Networks or peers may have to be looked at again.
    pub(super) changed: Notify,
    me: String,
    metrics: Arc<Metrics>,
    pub(super) store: Arc<Store>,
    pub(super) networks: Arc<Networks>,
    pub(super) taken: Arc<TakenAddresses>,
}

impl Full {
    pub(crate) fn new(replica: &str, networks: Arc<Networks>, store: Arc<Store>, metrics: Arc<Metrics>) -> Self {
        let me = peers::map_name(replica);
        Self {
            state: Mutex::new(State {
                networks: HashMap::new(),
                peers: Peers::new(me.clone()),
                now: Time::ZERO,
            }),
            loaded: Default::default(),
            due: Notify::new(),
            changed: Notify::new(),
            me,
            metrics,
            store,
            networks,
            taken: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name of this replica's ConfigMap.
    pub(super) fn me(&self) -> &str {
        &self.me
    }

    fn is_loaded(&self) -> bool {
        self.loaded.iter().all(|loaded| loaded.load(Ordering::Acquire))
    }

    /// The leases were listed.
    pub(crate) fn leases_listed(&self) {
        self.loaded[0].store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// The addresses that are somebody's were listed.
    pub(crate) fn addresses_listed(&self) {
        self.loaded[1].store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Decides about a packet from a network. The answer is in `out`; one that has to wait goes out by `socket`.
    pub(super) fn handle(&self, name: &str, question: &Question<'_>, socket: &Arc<Socket>, out: &mut Vec<u8>) -> Result<Step, Ignored> {
        let Question {
            packet,
            client,
            arrival,
            site,
        } = *question;
        if !self.is_loaded() {
            return Err(Ignored::NotKept);
        }
        let mut state = self.lock();
        let now = state.now();
        let moment = Instant::now();
        let network = state.networks.get_mut(name).ok_or(Ignored::NotKept)?;
        let server = network.server.as_mut().ok_or(Ignored::NotKept)?;
        if !packet.giaddr().is_unspecified() {
            let before = network.relayed.replace(moment);
            if before.is_none_or(|before| moment.duration_since(before) > RELAYED) {
                self.changed.notify_one();
            }
        }
        let outcome = server.handle(packet, client, arrival, Some(site), now, out);
        let given_back = match outcome {
            Ok(Outcome::Released(address) | Outcome::Declined(address)) => Some(address),
            _ => None,
        };
        let mut hurry = given_back.is_some();
        for lease in server.take_changes() {
            hurry |= network.ledger.note(&lease, given_back == Some(lease.address), now, moment);
        }
        if hurry {
            self.due.notify_one();
        }
        let reply = match outcome? {
            Outcome::Send(reply) => reply,
            Outcome::Probe(address) => return Ok(Step::Probe(address)),
            Outcome::Declined(address) => {
                self.metrics.dhcp_conflicts.inc();
                tracing::warn!(network = name, %address, "a machine found somebody else on the address that it was given; it is not given out for a while");
                return Ok(Step::Done);
            }
            Outcome::Released(_) => return Ok(Step::Done),
        };
        let writable = self.store.is_reachable();
        let Some(lease) = server.record(reply.address) else {
            return Ok(Step::Send(reply));
        };
        match (reply.kind, network.ledger.standing(&lease, now), lease.client) {
            (MessageType::Offer, Standing::New, _) if !writable && !server.is_reserved(reply.address) => Err(Ignored::NotKept),
            (MessageType::Ack, standing, Some(client)) if standing == Standing::New || (standing == Standing::Shorter && writable) => {
                network.ledger.wait(Waiting {
                    address: reply.address,
                    client,
                    since: moment,
                    answer: Held {
                        socket: socket.clone(),
                        bytes: out.clone(),
                        destination: reply.destination,
                    },
                });
                Ok(Step::Held)
            }
            _ => Ok(Step::Send(reply)),
        }
    }

    /// Says whether somebody uses an address.
    pub(super) fn probed(&self, name: &str, address: Ipv4Addr, in_use: bool) {
        let mut state = self.lock();
        let now = state.now();
        let Some(network) = state.networks.get_mut(name) else { return };
        let Some(server) = &mut network.server else { return };
        server.probed(address, in_use, now);
        if in_use {
            self.metrics.dhcp_conflicts.inc();
            tracing::warn!(network = name, %address, "somebody uses an address of a dynamic range who has no lease of it; it is not given out for a while");
            for lease in server.take_changes() {
                network.ledger.note(&lease, false, now, Instant::now());
            }
        }
    }

    /// Makes servers of the networks that say so, as they and the addresses in them are now. `ours`: this host's addresses.
    pub(super) fn configure(&self, ours: &BTreeSet<Ipv4Addr>) {
        let objects = self.networks.full();
        if !self.is_loaded() {
            return;
        }
        let mut state = self.lock();
        let (now, moment) = (state.now(), Instant::now());
        let names: HashSet<String> = objects.iter().map(|object| object.name_any()).collect();
        let State { networks, peers, .. } = &mut *state;
        for (name, network) in networks.iter_mut().filter(|(name, _)| !names.contains(&***name)) {
            if network.server.take().is_some() {
                network.inputs = None;
                self.metrics.forget_addresses(name);
                tracing::info!(network = &**name, "addresses are not given out on this network any more");
            }
        }
        for object in objects {
            let name: Arc<str> = object.name_any().into();
            let network = networks.entry(name.clone()).or_default();
            let inputs = Inputs {
                spec: object.spec.clone(),
                taken: self.taken.of(&name),
                ours: ours.clone(),
                peers: peers.on(&name, moment),
            };
            network.uid = object.metadata.uid.clone();
            if network.inputs.as_ref() == Some(&inputs) {
                continue;
            }
            if let Err(problem) = apply(network, &object, &inputs, peers::number(&self.me), now) {
                tracing::error!(network = &*name, %problem, "addresses cannot be given out on this network as it is described");
                self.metrics.forget_addresses(&name);
                network.server = None;
            } else {
                tracing::info!(
                    network = &*name,
                    reservations = inputs.taken.len(),
                    peers = inputs.peers.len(),
                    "addresses are given out on this network"
                );
            }
            network.inputs = Some(inputs);
        }
    }

    /// Networks whose clients this replica hears: those of its interfaces, and those that a relay agent sent something from.
    pub(super) fn heard(&self, local: &BTreeSet<Ipv4Addr>) -> BTreeSet<String> {
        let objects = self.networks.full();
        let state = self.lock();
        let relayed = |name: &str| {
            let network = state.networks.get(name);
            network.and_then(|network| network.relayed).is_some_and(|at| at.elapsed() < RELAYED)
        };
        let here = |object: &BareMetalNetwork| local.iter().any(|address| plan::holds(object, *address));
        let heard = objects.iter().filter(|object| here(object) || relayed(&object.name_any()));
        heard.map(|object| object.name_any()).collect()
    }

    /// Whether an address is that of another replica.
    pub(super) fn is_peer(&self, address: Ipv4Addr) -> bool {
        self.lock().peers.is_known(address)
    }

    /// What is to be written now.
    pub(super) fn take_writes(&self, most: usize) -> Vec<Job> {
        let mut state = self.lock();
        let moment = Instant::now();
        let mut jobs = Vec::new();
        for (name, network) in state.networks.iter_mut().filter(|(_, network)| network.server.is_some()) {
            let dropped = network.ledger.drop_late(moment);
            self.metrics.dhcp_not_kept.inc_by(dropped);
            let writes = network.ledger.take_writes(most - jobs.len(), moment);
            jobs.extend(writes.into_iter().map(|write| Job {
                network: name.clone(),
                uid: network.uid.clone(),
                write,
            }));
        }
        jobs
    }

    /// When there is something to write next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        let served = state.networks.values().filter(|network| network.server.is_some());
        served.filter_map(|network| network.ledger.next_due()).min()
    }

    /// A write was done. Returns the answers that waited for it.
    pub(super) fn written(&self, name: &str, block: u32, map: &ConfigMap) -> Vec<Held> {
        let none = BTreeMap::new();
        let mut state = self.lock();
        let network = state.network(name);
        let version = map.metadata.resource_version.clone();
        let ready = network.ledger.written(block, version, map.data.as_ref().unwrap_or(&none));
        if network.server.is_none() {
            // Addresses are not given out there any more.
            return Vec::new();
        }
        ready.into_iter().map(|waiting| waiting.answer).collect()
    }

    /// A write was not done.
    pub(super) fn failed(&self, name: &str, block: u32) {
        self.lock().network(name).ledger.failed(block, Instant::now());
    }

    /// A write came too late: `map` stands there, or nothing.
    pub(super) fn overtaken(&self, name: &str, block: u32, map: Option<&ConfigMap>) {
        if map.is_none() {
            let mut state = self.lock();
            let (ledger, moment) = (&mut state.network(name).ledger, Instant::now());
            ledger.gone(block, moment);
            // Where it cannot be made either, as without our namespace, it is not tried as fast as the API answers.
            ledger.failed(block, moment);
            return;
        }
        self.take_over(name, block, map, true);
    }

    /// Takes over what stands in a ConfigMap.
    fn take_over(&self, name: &str, block: u32, map: Option<&ConfigMap>, lost: bool) {
        let none = BTreeMap::new();
        let mut state = self.lock();
        let (now, moment) = (state.now(), Instant::now());
        let network = state.network(name);
        let new = map.map_or_else(Vec::new, |map| {
            let data = map.data.as_ref().unwrap_or(&none);
            network.ledger.read(block, map.metadata.resource_version.clone(), data)
        });
        let Some(server) = &mut network.server else {
            // Nobody decides anew now; what was not written is kept, or its block would wait for this write for ever.
            if lost {
                network.ledger.failed(block, moment);
            }
            return;
        };
        for lease in &new {
            server.load(lease, now);
        }
        if lost || !new.is_empty() {
            network.ledger.correct(block, lost, |address| server.record(address), now, moment);
            self.due.notify_one();
        }
    }

    /// Ends what has run out, and counts.
    pub(super) fn count(&self) {
        let mut state = self.lock();
        let (now, moment) = (state.now(), Instant::now());
        for (name, network) in &mut state.networks {
            let Some(server) = &mut network.server else { continue };
            server.expire(now);
            for lease in server.take_changes() {
                network.ledger.note(&lease, false, now, moment);
            }
            let counts = server.counts();
            self.metrics.set_addresses(
                name,
                [
                    (LeaseState::Free, counts.free),
                    (LeaseState::Bound, counts.bound),
                    (LeaseState::Quarantined, counts.quarantined),
                ],
            );
        }
    }
}

/// Makes a network's server, or changes it.
fn apply(network: &mut Network, object: &BareMetalNetwork, inputs: &Inputs, me: u64, now: Time) -> Result<(), String> {
    let mut ours = inputs.ours.clone();
    ours.extend(inputs.peers.iter().flat_map(|peer| &peer.addresses));
    let subnet = plan::subnet(object, &inputs.taken, &ours).map_err(|error| error.to_string())?;
    let settings = Settings {
        peers: inputs.peers.iter().flat_map(|peer| peer.addresses.iter().copied()).collect(),
        subnet_selection: false,
    };
    let wrong = |error: dhcp::v4::server::ConfigError| error.to_string();
    let server = match &mut network.server {
        Some(server) => {
            server.reconfigure(settings, vec![subnet], now).map_err(wrong)?;
            server
        }
        empty @ None => {
            let mut server = Server::new(settings, vec![subnet]).map_err(wrong)?;
            for lease in network.ledger.stored() {
                server.load(lease, now);
            }
            empty.insert(server)
        }
    };
    let others: Vec<u64> = inputs.peers.iter().map(|peer| peer.number).collect();
    server.set_replicas((!others.is_empty()).then(|| Replicas::new(me, &others)));
    Ok(())
}

impl DhcpMaps for Full {
    fn apply(&self, map: ConfigMap) {
        let name = map.name_any();
        if Peers::is_one(&name) {
            self.lock().peers.apply(&map, Instant::now());
            self.changed.notify_one();
        } else if let Some((network, block)) = of_map(&name) {
            self.take_over(network, block, Some(&map), false);
        }
    }

    fn delete(&self, name: &str) {
        if Peers::is_one(name) {
            self.lock().peers.remove(name);
        } else if let Some((network, block)) = of_map(name) {
            self.lock().network(network).ledger.gone(block, Instant::now());
            self.due.notify_one();
        }
    }

    fn retain(&self, names: &HashSet<String>) {
        let mut state = self.lock();
        state.peers.retain(|name| names.contains(name));
        for (name, network) in &mut state.networks {
            let gone: Vec<u32> = network
                .ledger
                .blocks()
                .filter(|block| !names.contains(&map_name(name, *block)))
                .collect();
            for block in gone {
                network.ledger.gone(block, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_map_says_whose_leases_are_in_it() {
        let name = map_name("lab.house", 0x0a00_0100);
        assert_eq!(name, "dhcp-leases.lab.house.0a000100");
        assert_eq!(of_map(&name), Some(("lab.house", 0x0a00_0100)));
        assert_eq!(of_map("dhcp-leases.x"), None);
        assert_eq!(of_map("netboot-keys"), None);
    }
}
