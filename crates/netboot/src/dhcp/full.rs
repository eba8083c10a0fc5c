//! Addresses given out: the networks whose objects say so, their leases, and what is written of them.
//!
//! * One server per network and address family decides ([`Served`]), under one lock for all interfaces of this replica.
//! * Nobody is answered before the leases were loaded.
//! * An answer that leases something goes out when its lease is written ([`super::ledger`]), many in one write. An offer promises nothing and goes out at once.
//! * Without the API a client keeps what it has: the renewal of a lease that was written is confirmed from memory and written later. Nobody gets an address that could not be written.
//! * Replicas with the same objects choose the same address for the same client; who answers first, they know without a word ([`super::peers`]).

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use api::BareMetalNetwork;
use dhcp::{
    Time,
    v4::{
        Arrival, Client, Ignored,
        server::{BootSite, Outcome, Reply, Server},
        wire::{MessageType, Packet},
    },
    v6::{self as dhcp_v6, server as server_v6, wire as wire_v6},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use tokio::sync::Notify;

use super::{
    ledger::Write,
    peers::{self, Peers},
    plan,
    served::{Answer, Before, Held, Inputs, LeaseServer, Served},
    socket::Socket,
    v6,
};
use crate::{
    metrics::{LeaseState, Metrics},
    objects::{addresses::TakenAddresses, networks::Networks, store::Store, watch::DhcpMaps},
};

/// A network counts as reached through a relay agent for so long after a packet from it.
const RELAYED: Duration = Duration::from_secs(600);
/// Beginning of the names of the ConfigMaps with leases; network and block follow.
const PREFIX: &str = "dhcp-leases.";

/// Name of the ConfigMap with a block of a network's leases: 8 hexadecimal digits for IPv4, 32 for IPv6.
pub(super) fn map_name(network: &str, block: IpAddr) -> String {
    match block {
        IpAddr::V4(block) => format!("{PREFIX}{network}.{:08x}", u32::from(block)),
        IpAddr::V6(block) => format!("{PREFIX}{network}.{:032x}", u128::from(block)),
    }
}

fn of_map(name: &str) -> Option<(&str, IpAddr)> {
    let (network, block) = name.strip_prefix(PREFIX)?.rsplit_once('.')?;
    let block = match block.len() {
        8 => Ipv4Addr::from(u32::from_str_radix(block, 16).ok()?).into(),
        32 => Ipv6Addr::from(u128::from_str_radix(block, 16).ok()?).into(),
        _ => return None,
    };
    Some((network, block))
}

/// A DHCPv4 packet, and what is known about it.
#[derive(Clone, Copy)]
pub(super) struct Question<'q> {
    pub(super) packet: &'q Packet<'q>,
    pub(super) client: &'q Client,
    pub(super) arrival: &'q Arrival,
    /// What there is to boot.
    pub(super) site: &'q BootSite<'q>,
}

/// A DHCPv6 message, and what is known about it.
#[derive(Clone, Copy)]
pub(super) struct QuestionV6<'q> {
    pub(super) datagram: &'q wire_v6::Datagram<'q>,
    pub(super) client: &'q dhcp_v6::Client,
    pub(super) arrival: &'q dhcp_v6::Arrival,
    /// What there is to boot.
    pub(super) site: &'q server_v6::BootSite<'q>,
}

/// What to do about a DHCPv4 packet.
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
    pub(super) write: Write<IpAddr>,
}

type Table<S> = HashMap<Arc<str>, Served<S>>;

fn served<'t, S: LeaseServer>(table: &'t mut Table<S>, name: &str) -> &'t mut Served<S> {
    if !table.contains_key(name) {
        table.insert(name.into(), Served::default());
    }
    table.entry(name.into()).or_default()
}

struct State {
    v4: Table<Server>,
    v6: Table<server_v6::Server>,
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
                v4: HashMap::new(),
                v6: HashMap::new(),
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

    /// A relay agent sent something from a network: other replicas are told, the first time.
    fn note_relayed<S: LeaseServer>(&self, network: &mut Served<S>, moment: Instant) {
        let before = network.relayed.replace(moment);
        if before.is_none_or(|before| moment.duration_since(before) > RELAYED) {
            self.changed.notify_one();
        }
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
        let (now, moment) = (state.now(), Instant::now());
        let network = state.v4.get_mut(name).ok_or(Ignored::NotKept)?;
        let server = network.server.as_mut().ok_or(Ignored::NotKept)?;
        let outcome = server.handle(packet, client, arrival, Some(site), now, out);
        if !packet.giaddr().is_unspecified() {
            self.note_relayed(network, moment);
        }
        let given_back = match outcome {
            Ok(Outcome::Released(address) | Outcome::Declined(address)) => Some(address),
            _ => None,
        };
        if network.note_changes(|address| given_back == Some(address), now, moment) || given_back.is_some() {
            self.due.notify_one();
        }
        let reply = match outcome? {
            Outcome::Send(reply) => reply,
            Outcome::Probe(address) => return Ok(Step::Probe(address)),
            Outcome::Declined(address) => {
                self.declined(name, address.into());
                return Ok(Step::Done);
            }
            Outcome::Released(_) => return Ok(Step::Done),
        };
        let lease = match reply.kind {
            MessageType::Offer => false,
            MessageType::Ack => true,
            _ => return Ok(Step::Send(reply)),
        };
        match network.before([reply.address].into_iter(), lease, self.store.is_reachable(), now) {
            Before::Nothing => Ok(Step::Send(reply)),
            Before::Refuse => Err(Ignored::NotKept),
            Before::Writes(writes) => {
                network.hold(writes, Answer::V4(socket.clone(), out.clone(), reply.destination), moment);
                Ok(Step::Held)
            }
        }
    }

    /// The same for DHCPv6. `None`: the answer follows when its leases are written.
    pub(super) fn handle_v6(
        &self,
        name: &str,
        question: &QuestionV6<'_>,
        socket: &Arc<v6::Socket>,
        out: &mut Vec<u8>,
    ) -> Result<Option<server_v6::Reply>, dhcp_v6::Ignored> {
        let QuestionV6 {
            datagram,
            client,
            arrival,
            site,
        } = *question;
        let not_kept = dhcp_v6::Ignored::NotKept;
        if !self.is_loaded() {
            return Err(not_kept);
        }
        let mut state = self.lock();
        let (now, moment) = (state.now(), Instant::now());
        let network = state.v6.get_mut(name).ok_or(not_kept)?;
        let server = network.server.as_mut().ok_or(not_kept)?;
        let outcome = server.handle(datagram, client, arrival, Some(site), now, out);
        if !datagram.relays.is_empty() {
            self.note_relayed(network, moment);
        }
        let kind = datagram.message.kind;
        let gives_back = matches!(kind, wire_v6::MessageType::Release | wire_v6::MessageType::Decline);
        if network.note_changes(|_| gives_back, now, moment) || gives_back {
            self.due.notify_one();
        }
        let reply = outcome?;
        if kind == wire_v6::MessageType::Decline {
            let mut addresses = datagram.message.associations().flat_map(|association| association.addresses());
            self.declined(name, addresses.next().unwrap_or(Ipv6Addr::UNSPECIFIED).into());
        }
        let lease = reply.kind == wire_v6::MessageType::Reply;
        match network.before(reply.granted.addresses(), lease, self.store.is_reachable(), now) {
            Before::Nothing => Ok(Some(reply)),
            Before::Refuse => Err(not_kept),
            Before::Writes(writes) => {
                network.hold(writes, Answer::V6(socket.clone(), out.clone(), reply.destination), moment);
                Ok(None)
            }
        }
    }

    fn declined(&self, network: &str, address: IpAddr) {
        self.metrics.dhcp_conflicts.inc();
        tracing::warn!(network, %address, "a machine found somebody else on the address that it was given; it is not given out for a while");
    }

    /// Says whether somebody uses an IPv4 address. IPv6 clients find that out themselves.
    pub(super) fn probed(&self, name: &str, address: Ipv4Addr, in_use: bool) {
        let mut state = self.lock();
        let now = state.now();
        let Some(network) = state.v4.get_mut(name) else { return };
        let Some(server) = &mut network.server else { return };
        server.probed(address, in_use, now);
        if in_use {
            self.metrics.dhcp_conflicts.inc();
            tracing::warn!(network = name, %address, "somebody uses an address of a dynamic range who has no lease of it; it is not given out for a while");
            network.note_changes(|_| false, now, Instant::now());
        }
    }

    /// Makes servers of the networks that say so, as they and the addresses in them are now. `ours`: this host's addresses.
    pub(super) fn configure(&self, ours: &BTreeSet<IpAddr>) {
        let objects = self.networks.full();
        if !self.is_loaded() {
            return;
        }
        let mut state = self.lock();
        let (now, moment) = (state.now(), Instant::now());
        let State { v4, v6, peers, .. } = &mut *state;
        let inputs = |object: &BareMetalNetwork, is_of: fn(&IpAddr) -> bool| {
            let name = object.name_any();
            let mut taken = self.taken.of(&name);
            taken.retain(|taken| is_of(&taken.address));
            Inputs {
                spec: object.spec.clone(),
                taken,
                ours: ours.iter().copied().filter(is_of).collect(),
                peers: peers.on(&name, moment),
                duid: peers::duid(&self.me),
            }
        };
        self.configure_family(v4, &objects, |object| inputs(object, IpAddr::is_ipv4), now);
        self.configure_family(v6, &objects, |object| inputs(object, IpAddr::is_ipv6), now);
    }

    fn configure_family<S: LeaseServer>(
        &self,
        table: &mut Table<S>,
        objects: &[Arc<BareMetalNetwork>],
        inputs: impl Fn(&BareMetalNetwork) -> Inputs,
        now: Time,
    ) {
        let names: HashSet<String> = objects.iter().map(|object| object.name_any()).collect();
        for (name, network) in table.iter_mut().filter(|(name, _)| !names.contains(&***name)) {
            network.inputs = None;
            if network.server.take().is_some() {
                self.metrics.forget_addresses(name, S::FAMILY);
                tracing::info!(network = &**name, family = ?S::FAMILY, "addresses are not given out on this network any more");
            }
        }
        for object in objects {
            let name = object.name_any();
            let inputs = inputs(object);
            let network = served(table, &name);
            network.uid = object.metadata.uid.clone();
            if network.inputs.as_ref() == Some(&inputs) {
                continue;
            }
            match network.set_up(object, &inputs, peers::number(&self.me), now) {
                Ok(true) => tracing::info!(
                    network = name, family = ?S::FAMILY,
                    reservations = inputs.taken.len(),
                    peers = inputs.peers.len(),
                    "addresses are given out on this network"
                ),
                Ok(false) => self.metrics.forget_addresses(&name, S::FAMILY),
                Err(problem) => {
                    tracing::error!(network = name, family = ?S::FAMILY, %problem, "addresses cannot be given out on this network as it is described");
                    self.metrics.forget_addresses(&name, S::FAMILY);
                }
            }
            network.inputs = Some(inputs);
        }
    }

    /// Networks whose clients this replica hears: those of its interfaces, and those that a relay agent sent something from.
    pub(super) fn heard(&self, local: &BTreeSet<IpAddr>) -> BTreeSet<String> {
        let objects = self.networks.full();
        let state = self.lock();
        let relayed = |name: &str| {
            let moments = [
                state.v4.get(name).and_then(|network| network.relayed),
                state.v6.get(name).and_then(|network| network.relayed),
            ];
            moments.into_iter().flatten().any(|at| at.elapsed() < RELAYED)
        };
        let here = |object: &BareMetalNetwork| local.iter().any(|address| plan::holds(object, *address));
        let heard = objects.iter().filter(|object| here(object) || relayed(&object.name_any()));
        heard.map(|object| object.name_any()).collect()
    }

    /// Whether an address is that of another replica.
    pub(super) fn is_peer(&self, address: IpAddr) -> bool {
        self.lock().peers.is_known(address)
    }

    /// What is to be written now.
    pub(super) fn take_writes(&self, most: usize) -> Vec<Job> {
        let mut state = self.lock();
        let mut jobs = Vec::new();
        let State { v4, v6, .. } = &mut *state;
        self.take_writes_of(v4, most, &mut jobs);
        self.take_writes_of(v6, most, &mut jobs);
        jobs
    }

    fn take_writes_of<S: LeaseServer>(&self, table: &mut Table<S>, most: usize, jobs: &mut Vec<Job>) {
        let moment = Instant::now();
        for (name, network) in table.iter_mut().filter(|(_, network)| network.server.is_some()) {
            let dropped = network.drop_late(moment);
            self.metrics.dhcp_not_kept.inc_by(dropped);
            for write in network.take_writes(most - jobs.len(), moment) {
                jobs.push(Job {
                    network: name.clone(),
                    uid: network.uid.clone(),
                    write: Write {
                        block: write.block.into(),
                        version: write.version,
                        data: write.data,
                    },
                });
            }
        }
    }

    /// When there is something to write next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let state = self.lock();
        let v4 = state.v4.values().filter_map(Served::next_due);
        v4.chain(state.v6.values().filter_map(Served::next_due)).min()
    }

    /// A write was done. Returns the answers that waited for it.
    pub(super) fn written(&self, name: &str, block: IpAddr, map: &ConfigMap) -> Vec<Arc<Held>> {
        let mut state = self.lock();
        match block {
            IpAddr::V4(block) => served(&mut state.v4, name).written(block, map),
            IpAddr::V6(block) => served(&mut state.v6, name).written(block, map),
        }
    }

    /// A write was not done.
    pub(super) fn failed(&self, name: &str, block: IpAddr) {
        let (mut state, moment) = (self.lock(), Instant::now());
        match block {
            IpAddr::V4(block) => served(&mut state.v4, name).failed(block, moment),
            IpAddr::V6(block) => served(&mut state.v6, name).failed(block, moment),
        }
    }

    /// The ConfigMap of a block is gone.
    fn gone(&self, name: &str, block: IpAddr) {
        let (mut state, moment) = (self.lock(), Instant::now());
        match block {
            IpAddr::V4(block) => served(&mut state.v4, name).gone(block, moment),
            IpAddr::V6(block) => served(&mut state.v6, name).gone(block, moment),
        }
    }

    /// A write came too late: `map` stands there, or nothing.
    pub(super) fn overtaken(&self, name: &str, block: IpAddr, map: Option<&ConfigMap>) {
        match map {
            Some(map) => self.take_over(name, block, map, true),
            None => {
                self.gone(name, block);
                // Where it cannot be made either, as without our namespace, it is not tried as fast as the API answers.
                self.failed(name, block);
            }
        }
    }

    /// Takes over what stands in a ConfigMap.
    fn take_over(&self, name: &str, block: IpAddr, map: &ConfigMap, lost: bool) {
        let mut state = self.lock();
        let (now, moment) = (state.now(), Instant::now());
        let look = match block {
            IpAddr::V4(block) => served(&mut state.v4, name).take_over(block, map, lost, now, moment),
            IpAddr::V6(block) => served(&mut state.v6, name).take_over(block, map, lost, now, moment),
        };
        if look {
            self.due.notify_one();
        }
    }

    /// Ends what has run out, and counts.
    pub(super) fn count(&self) {
        let mut state = self.lock();
        let now = state.now();
        let State { v4, v6, .. } = &mut *state;
        self.count_family(v4, now);
        self.count_family(v6, now);
    }

    fn count_family<S: LeaseServer>(&self, table: &mut Table<S>, now: Time) {
        let moment = Instant::now();
        for (name, network) in table {
            let Some(counts) = network.count(now, moment) else { continue };
            self.metrics.set_addresses(
                name,
                S::FAMILY,
                [
                    (LeaseState::Free, counts.free),
                    (LeaseState::Bound, counts.bound),
                    (LeaseState::Quarantined, counts.quarantined),
                ],
            );
        }
    }
}

impl DhcpMaps for Full {
    fn apply(&self, map: ConfigMap) {
        let name = map.name_any();
        if Peers::is_one(&name) {
            self.lock().peers.apply(&map, Instant::now());
            self.changed.notify_one();
        } else if let Some((network, block)) = of_map(&name) {
            self.take_over(network, block, &map, false);
        }
    }

    fn delete(&self, name: &str) {
        if Peers::is_one(name) {
            self.lock().peers.remove(name);
        } else if let Some((network, block)) = of_map(name) {
            self.gone(network, block);
            self.due.notify_one();
        }
    }

    fn retain(&self, names: &HashSet<String>) {
        fn retain<S: LeaseServer>(table: &mut Table<S>, names: &HashSet<String>) {
            for (name, network) in table {
                network.retain(|block| names.contains(&map_name(name, block.into())), Instant::now());
            }
        }
        let mut state = self.lock();
        state.peers.retain(|name| names.contains(name));
        retain(&mut state.v4, names);
        retain(&mut state.v6, names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_map_says_whose_leases_are_in_it() {
        for (block, name) in [
            ("10.0.1.0", "dhcp-leases.lab.house.0a000100"),
            ("2001:db8::100", "dhcp-leases.lab.house.20010db8000000000000000000000100"),
        ] {
            let block: IpAddr = block.parse().unwrap();
            assert_eq!(map_name("lab.house", block), name);
            assert_eq!(of_map(name), Some(("lab.house", block)));
        }
        assert_eq!(of_map("dhcp-leases.x"), None);
        assert_eq!(of_map("netboot-keys"), None);
    }
}
