//! Which other replicas give out addresses on which network: each says so every ten seconds, in a ConfigMap of its own.
//!
//! Nobody compares clocks: a replica is there as long as its ConfigMap keeps changing. What follows from it is only who answers first
//! ([`dhcp::Replicas`]), and whose offers a client may take without that being a stranger's; a mistake costs a client seconds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

/// How often a replica says that it is there.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(10);
/// It is gone when it was silent for so long.
const GONE: Duration = Duration::from_secs(35);
/// Beginning of the names of these ConfigMaps.
const PREFIX: &str = "dhcp-replica.";
/// Value of the label.
pub(super) const LABEL: &str = "replica";

const ADDRESSES: &str = "addresses";
const NETWORKS: &str = "networks";
const BEATS: &str = "beats";

/// What a replica says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// By which clients know it.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// BareMetalNetworks whose clients it hears.
    pub(super) networks: BTreeSet<String>,
}

impl Said {
    /// Counts up with every beat.
    pub(super) fn data(&self, beats: u64) -> BTreeMap<String, String> {
        let addresses: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        let networks: Vec<&str> = self.networks.iter().map(String::as_str).collect();
        BTreeMap::from([
            (ADDRESSES.to_owned(), addresses.join(",")),
            (NETWORKS.to_owned(), networks.join(",")),
            (BEATS.to_owned(), beats.to_string()),
        ])
    }

    fn read(data: &BTreeMap<String, String>) -> Self {
        let list = |key: &str| data.get(key).map_or("", String::as_str).split(',').filter(|part| !part.is_empty());
        Self {
            addresses: list(ADDRESSES).filter_map(|address| address.parse().ok()).collect(),
            networks: list(NETWORKS).map(str::to_owned).collect(),
        }
    }
}

/// Name of a replica's ConfigMap: its own, in letters that an object's name may have.
pub(super) fn map_name(replica: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = replica.chars().take(200).map(plain).collect();
    format!("{PREFIX}{}", name.trim_matches('-'))
}

/// The number by which replicas agree on whose turn it is.
pub(super) fn number(map_name: &str) -> u64 {
    let hash = blake3::hash(map_name.as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The DUID by which DHCPv6 clients know a replica: one of the kind that is made of a UUID (RFC 8415, 11.5), the same after every start.
pub(super) fn duid(map_name: &str) -> [u8; 18] {
    let mut duid = [0; 18];
    duid[1] = 4;
    duid[2..].copy_from_slice(&blake3::hash(map_name.as_bytes()).as_bytes()[..16]);
    // A version that says that the UUID is nobody else's scheme (RFC 9562, 5.8).
    duid[8] = duid[8] & 0x0f | 0x80;
    duid[10] = duid[10] & 0x3f | 0x80;
    duid
}

/// Another replica on a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peer {
    pub(super) number: u64,
    pub(super) duid: [u8; 18],
    pub(super) addresses: BTreeSet<IpAddr>,
}

struct Heard {
    said: Said,
    version: Option<String>,
    at: Instant,
}

/// The others.
pub(super) struct Peers {
    me: String,
    heard: BTreeMap<String, Heard>,
}

impl Peers {
    pub(super) fn new(me: String) -> Self {
        Self {
            me,
            heard: BTreeMap::new(),
        }
    }

    /// Whether a ConfigMap is one of these.
    pub(super) fn is_one(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    pub(super) fn apply(&mut self, map: &ConfigMap, now: Instant) {
        let name = map.name_any();
        if name == self.me {
            return;
        }
        let version = map.metadata.resource_version.clone();
        let said = map.data.as_ref().map(Said::read).unwrap_or_default();
        match self.heard.get_mut(&name) {
            // The same again, in a new list: no sign of life.
            Some(heard) if heard.version == version => {}
            Some(heard) => (heard.said, heard.version, heard.at) = (said, version, now),
            None => {
                self.heard.insert(name, Heard { said, version, at: now });
            }
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.heard.remove(name);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.heard.retain(|name, _| keep(name));
    }

    /// Those that are alive and hear a network's clients.
    pub(super) fn on(&self, network: &str, now: Instant) -> Vec<Peer> {
        let alive = self.heard.iter().filter(|(_, heard)| now.duration_since(heard.at) < GONE);
        let there = alive.filter(|(_, heard)| heard.said.networks.contains(network));
        there
            .map(|(name, heard)| Peer {
                number: number(name),
                duid: duid(name),
                addresses: heard.said.addresses.clone(),
            })
            .collect()
    }

    /// Addresses of all that were ever heard: a replica that fell silent is no stranger.
    pub(super) fn is_known(&self, address: IpAddr) -> bool {
        self.heard.values().any(|heard| heard.said.addresses.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(name: &str, version: &str, said: &Said) -> ConfigMap {
        let mut map = ConfigMap {
            data: Some(said.data(1)),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(map_name(name));
        map.metadata.resource_version = Some(version.to_owned());
        map
    }

    #[test]
    fn a_replica_is_there_as_long_as_it_says_something_new() {
        let said = Said {
            addresses: BTreeSet::from(["10.0.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap()]),
            networks: BTreeSet::from(["lab".to_owned()]),
        };
        let now = Instant::now();
        let mut peers = Peers::new(map_name("Node A"));
        peers.apply(&map("Node A", "1", &said), now);
        assert!(peers.on("lab", now).is_empty(), "that is this one");
        peers.apply(&map("b", "1", &said), now);
        assert_eq!(peers.on("lab", now)[0].addresses, said.addresses);
        assert!(peers.on("other", now).is_empty());
        peers.apply(&map("b", "1", &said), now + GONE);
        assert!(peers.on("lab", now + GONE).is_empty());
        assert!(peers.is_known("2001:db8::2".parse().unwrap()));
        peers.apply(&map("b", "2", &said), now + GONE);
        assert_eq!(peers.on("lab", now + GONE).len(), 1);
        assert_eq!(map_name("Node A"), "dhcp-replica.node-a");
        assert_ne!(number("a"), number("b"));
        assert_eq!((duid("a"), &duid("a")[..2]), (duid("a"), &[0, 4][..]));
        assert_ne!(duid("a"), duid("b"));
    }
}
