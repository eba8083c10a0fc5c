//! DHCP servers that are none of ours, on networks where we are the one: told in the log, a metric, and a condition of the BareMetalNetwork.
//!
//! Three things give one away: its answers to clients, as they come by on the wire; a client that takes its offer, and says so to everybody; and its answer to a DISCOVER of ours, sent at the
//! start and again and again. One that offers no address (ProxyDHCP) is none.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::identity::MacAddress;
use api::{BareMetalNetworkStatus, conditions};
use dhcp::v4::{
    Destination,
    probe::{PROBER, Probe},
    wire::{MessageType, Packet, SERVER_PORT},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tokio_util::sync::CancellationToken;

use super::{full::Full, socket::Socket, wire};
use crate::{error::chain, metrics::Metrics};

/// How often all servers are asked who they are.
const ASK: Duration = Duration::from_secs(120);
/// The first times, because a server may come up together with us.
const ASK_AT_FIRST: Duration = Duration::from_secs(10);
/// A server of which nothing was heard for so long is gone.
const GONE: Duration = Duration::from_secs(300);
/// How often conditions are compared with what was seen.
const LOOK: Duration = Duration::from_secs(2);
/// A condition is written no more often than that.
const REST: Duration = Duration::from_secs(30);
/// Addresses of this host and its interfaces are asked of the kernel no more often than that, however many packets come.
const FRESH: Duration = Duration::from_secs(1);
/// Servers that are named on one network: more than any has.
const MOST: usize = 8;

struct Server {
    mac: Option<MacAddress>,
    at: Instant,
}

/// See the module.
pub(crate) struct Others {
    full: Arc<Full>,
    metrics: Arc<Metrics>,
    seen: Mutex<BTreeMap<Arc<str>, BTreeMap<Ipv4Addr, Server>>>,
    /// This host's addresses, and when they were asked for.
    own: Mutex<Option<(Instant, Vec<IpAddr>)>>,
}

impl Others {
    pub(crate) fn new(full: Arc<Full>, metrics: Arc<Metrics>) -> Self {
        Self {
            full,
            metrics,
            seen: Mutex::default(),
            own: Mutex::default(),
        }
    }

    /// A server that calls itself so was heard on a network that we serve.
    pub(super) fn seen(&self, network: &Arc<str>, server: Ipv4Addr, mac: Option<[u8; 6]>) {
        if self.is_just_seen(network, server, mac.is_some()) {
            self.metrics.dhcp_other_servers.inc();
            return;
        }
        if server.is_unspecified() || self.full.is_peer(server.into()) || self.is_own(server) {
            return;
        }
        self.metrics.dhcp_other_servers.inc();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = seen.entry(network.clone()).or_default();
        let at = Instant::now();
        let mac = mac.map(MacAddress);
        let is_full = servers.len() >= MOST;
        match servers.get_mut(&server) {
            Some(known) => (known.mac, known.at) = (mac.or(known.mac), at),
            None if !is_full => {
                tracing::warn!(network = &**network, %server, mac = mac.map(|m| m.to_string()).unwrap_or_default(), "another DHCP server gives out addresses on a network of which netboot is the only one: machines may get addresses from both");
                servers.insert(server, Server { mac, at });
            }
            None => {}
        }
    }

    fn is_own(&self, server: Ipv4Addr) -> bool {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, addresses) = match own.take() {
            Some(fresh) if fresh.0.elapsed() < FRESH => own.insert(fresh),
            _ => own.insert((Instant::now(), wire::addresses(None).unwrap_or_default())),
        };
        addresses.contains(&server.into())
    }

    /// With as much about it as is known now.
    fn is_just_seen(&self, network: &Arc<str>, server: Ipv4Addr, with_mac: bool) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get(network).and_then(|servers| servers.get(&server));
        known.is_some_and(|known| (known.mac.is_some() || !with_mac) && known.at.elapsed() < FRESH)
    }

    /// Listens on an interface until the token is cancelled. `socket` is the one on which clients are answered.
    pub(super) async fn listen(&self, interface: &str, mut listener: wire::Listener, socket: &Socket, stop: CancellationToken) {
        let probe = async {
            let mut rounds = 0;
            loop {
                self.ask(interface, socket);
                tokio::time::sleep(if rounds < 3 { ASK_AT_FIRST } else { ASK }).await;
                rounds += 1;
            }
        };
        let hear = async {
            let (mut asked, mut network) = (Instant::now(), self.network(interface));
            loop {
                let (mac, source, payload) = listener.next().await;
                if asked.elapsed() >= FRESH {
                    (asked, network) = (Instant::now(), self.network(interface));
                }
                if let Some(network) = &network {
                    self.heard(network, mac, source, payload);
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = async { tokio::join!(probe, hear) } => {}
        }
    }

    /// The network of an interface, if addresses are given out there.
    fn network(&self, interface: &str) -> Option<Arc<str>> {
        let found = wire::addresses(Some(interface))
            .unwrap_or_default()
            .into_iter()
            .filter(IpAddr::is_ipv4)
            .find_map(|address| self.full.networks.dhcp(address));
        found.filter(|(_, mode)| *mode == api::DhcpMode::Full).map(|(name, _)| name)
    }

    fn ask(&self, interface: &str, socket: &Socket) {
        if self.network(interface).is_none() {
            return;
        }
        let mut random = [0; 9];
        if getrandom::fill(&mut random).is_err() {
            return;
        }
        let [a, b, c, d, e, f, g, h, i] = random;
        // Locally administered, so it is nobody's card.
        let probe = Probe {
            machine_id: Some(PROBER),
            ..Probe::discover(u32::from_be_bytes([f, g, h, i]), [2, a, b, c, d, e])
        };
        if let Err(error) = socket.send(&probe.bytes(), Destination::Broadcast(SERVER_PORT)) {
            tracing::debug!(interface, %error, "other DHCP servers could not be asked");
        }
    }

    fn heard(&self, network: &Arc<str>, mac: [u8; 6], source: Ipv4Addr, payload: &[u8]) {
        let Ok(packet) = Packet::parse(payload) else { return };
        let gives = matches!(packet.message_type(), Some(MessageType::Offer | MessageType::Ack));
        if packet.is_request() || !gives || packet.yiaddr().is_unspecified() {
            return;
        }
        self.seen(network, packet.server_id().unwrap_or(source), Some(mac));
    }

    /// Keeps the conditions. Never ends.
    pub(crate) async fn run(self: Arc<Self>) {
        let started = Instant::now();
        let mut tick = tokio::time::interval(LOOK);
        let mut written: HashMap<String, Instant> = HashMap::new();
        loop {
            tick.tick().await;
            for network in self.full.networks.full() {
                let name = network.name_any();
                // Replicas that see different things are not to argue.
                if written.get(&name).is_some_and(|at| at.elapsed() < REST) {
                    continue;
                }
                let mut status = network.status.clone().unwrap_or_default();
                let before = status.conditions.iter().find(|c| c.type_ == conditions::OTHER_DHCP_SERVER);
                let told = before.filter(|c| c.status == "True").map_or(BTreeMap::new(), |c| read(&c.message));
                let seen = self.present(&name);
                let (is_there, reason, message) = if seen.is_empty() {
                    // Nothing is taken back before we would have seen it ourselves.
                    if told.is_empty() || started.elapsed() < GONE {
                        continue;
                    }
                    (false, "NotSeen", "No other DHCP server was heard for some minutes".to_owned())
                } else {
                    if seen.keys().all(|server| told.contains_key(server)) {
                        continue;
                    }
                    // What another replica saw stays.
                    let message = write(told.into_iter().chain(seen));
                    // It names as many as it can; those beyond change nothing.
                    if before.is_some_and(|c| c.status == "True" && c.message == message) {
                        continue;
                    }
                    (true, "Seen", message)
                };
                let now = Time(Timestamp::now());
                let (kind, generation) = (conditions::OTHER_DHCP_SERVER, network.metadata.generation);
                conditions::set(&mut status.conditions, kind, is_there, reason, &message, generation, &now);
                self.write(&network, status).await;
                written.insert(name, Instant::now());
            }
        }
    }

    async fn write(&self, network: &api::BareMetalNetwork, status: BareMetalNetworkStatus) {
        let wanted = api::BareMetalNetwork {
            status: Some(status),
            ..network.clone()
        };
        match self.full.store.replace_network_status(&wanted).await {
            Ok(written) => self.full.networks.written(written),
            // The watch brings what somebody else wrote, and then it is looked at again.
            Err(error) if error.is_conflict() || error.is_not_found() => {}
            Err(error) => tracing::warn!(network = network.name_any(), error = %chain(&error), "a network's condition cannot be written"),
        }
    }

    /// The servers that are there, each with its MAC address as far as it is known.
    fn present(&self, network: &str) -> BTreeMap<Ipv4Addr, String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(servers) = seen.get_mut(network) else {
            return BTreeMap::new();
        };
        servers.retain(|_, server| server.at.elapsed() < GONE);
        let mac = |server: &Server| server.mac.map(|mac| mac.to_string()).unwrap_or_default();
        servers.iter().map(|(address, server)| (*address, mac(server))).collect()
    }
}

const BEGIN: &str = "Addresses are also given out by ";
const END: &str = ": switch that server off there, or set spec.dhcp to Proxy";

/// The condition's message, for people.
fn write(servers: impl Iterator<Item = (Ipv4Addr, String)>) -> String {
    let servers: BTreeMap<Ipv4Addr, String> = servers.collect();
    let named = servers.iter().take(MOST).map(|(address, mac)| match mac.as_str() {
        "" => address.to_string(),
        mac => format!("{address} ({mac})"),
    });
    format!("{BEGIN}{}{END}", named.collect::<Vec<_>>().join(", "))
}

/// Which servers a message names.
fn read(message: &str) -> BTreeMap<Ipv4Addr, String> {
    let list = message
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.strip_suffix(END))
        .unwrap_or_default();
    let servers = list.split(", ").filter_map(|server| {
        let (address, mac) = server.split_once(' ').unwrap_or((server, ""));
        Some((address.parse().ok()?, mac.trim_matches(['(', ')']).to_owned()))
    });
    servers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_servers_and_can_be_read_again() {
        let servers = BTreeMap::from([
            (Ipv4Addr::new(10, 0, 0, 1), String::new()),
            (Ipv4Addr::new(10, 0, 0, 66), "02:00:00:00:00:01".to_owned()),
        ]);
        let message = write(servers.clone().into_iter());
        assert!(message.contains("by 10.0.0.1, 10.0.0.66 (02:00:00:00:00:01): switch"), "{message}");
        assert_eq!(read(&message), servers);
        assert!(read("No other DHCP server was heard").is_empty());
        // More than it names: the same message again and again.
        let many: BTreeMap<_, _> = (1..=12).map(|last| (Ipv4Addr::new(10, 0, 0, last), String::new())).collect();
        let message = write(many.clone().into_iter());
        assert_eq!(read(&message).len(), MOST);
        assert_eq!(write(read(&message).into_iter().chain(many)), message);
    }
}
