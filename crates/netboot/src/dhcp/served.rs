//! One network in one address family: the server that decides, what it was made from, and its leases as they are written. The same for DHCPv4 and DHCPv6, which differ in their
//! [`LeaseServer`].
//!
//! Nothing is sent here, and nothing written: [`super::full`] asks what to do, [`super::writer`] does it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use api::BareMetalNetwork;
use dhcp::{Counts, Record, Replicas, Time, v4, v6::server as server_v6};
use k8s_openapi::api::core::v1::ConfigMap;

use super::{
    ledger::{Address, Ledger, Standing, Waiting, Write},
    peers::Peer,
    plan,
    socket::Socket,
    v6,
};
use crate::{metrics::IpFamily, objects::addresses::Taken};

/// What a server is made from, besides the network's own object.
#[derive(PartialEq)]
pub(super) struct Inputs {
    pub(super) spec: api::BareMetalNetworkSpec,
    pub(super) taken: Vec<Taken>,
    /// Addresses of this host.
    pub(super) ours: BTreeSet<IpAddr>,
    pub(super) peers: Vec<Peer>,
    /// This replica's DUID.
    pub(super) duid: [u8; 18],
}

impl Inputs {
    /// Addresses of this host and of the other replicas, of one family.
    pub(super) fn servers<A: Ord>(&self, family: impl Fn(&IpAddr) -> Option<A>) -> BTreeSet<A> {
        let peers = self.peers.iter().flat_map(|peer| &peer.addresses);
        self.ours.iter().chain(peers).filter_map(family).collect()
    }
}

/// A server of the crate `dhcp` for one network.
pub(super) trait LeaseServer: Sized {
    type Address: Address;
    /// What the crate calls settings and subnet.
    type Parts;
    const FAMILY: IpFamily;

    /// `None`: the network has no plan of this family.
    fn parts(network: &BareMetalNetwork, inputs: &Inputs) -> Option<Result<Self::Parts, String>>;
    fn make(parts: Self::Parts) -> Result<Self, String>;
    fn change(&mut self, parts: Self::Parts, now: Time) -> Result<(), String>;
    fn set_replicas(&mut self, replicas: Option<Replicas>);
    fn load(&mut self, record: &Record<Self::Address>, now: Time);
    fn record(&self, address: Self::Address) -> Option<Record<Self::Address>>;
    fn is_reserved(&self, address: Self::Address) -> bool;
    fn take_changes(&mut self) -> Vec<Record<Self::Address>>;
    fn expire(&mut self, now: Time);
    fn counts(&self) -> Counts;
}

/// What both crates' servers have under the same names.
macro_rules! lease_server {
    ($server:ty, $address:ty, $settings:ty, $subnet:ty, $plan:ident, $family:path, $parts:path) => {
        impl LeaseServer for $server {
            type Address = $address;
            type Parts = ($settings, $subnet);
            const FAMILY: IpFamily = $family;

            fn parts(network: &BareMetalNetwork, inputs: &Inputs) -> Option<Result<Self::Parts, String>> {
                let plan = network.spec.$plan.as_ref()?;
                Some($parts(&network.spec, plan, inputs).map_err(|error| error.to_string()))
            }
            fn make((settings, subnet): Self::Parts) -> Result<Self, String> {
                Self::new(settings, vec![subnet]).map_err(|error| error.to_string())
            }
            fn change(&mut self, (settings, subnet): Self::Parts, now: Time) -> Result<(), String> {
                self.reconfigure(settings, vec![subnet], now)
                    .map_err(|error| error.to_string())
            }
            fn set_replicas(&mut self, replicas: Option<Replicas>) {
                Self::set_replicas(self, replicas);
            }
            fn load(&mut self, record: &Record<$address>, now: Time) {
                Self::load(self, record, now);
            }
            fn record(&self, address: $address) -> Option<Record<$address>> {
                Self::record(self, address)
            }
            fn is_reserved(&self, address: $address) -> bool {
                Self::is_reserved(self, address)
            }
            fn take_changes(&mut self) -> Vec<Record<$address>> {
                Self::take_changes(self)
            }
            fn expire(&mut self, now: Time) {
                Self::expire(self, now);
            }
            fn counts(&self) -> Counts {
                Self::counts(self)
            }
        }
    };
}

lease_server!(
    v4::server::Server,
    Ipv4Addr,
    v4::server::Settings,
    v4::server::Subnet,
    ipv4,
    IpFamily::IPv4,
    plan::parts
);
lease_server!(
    server_v6::Server,
    Ipv6Addr,
    server_v6::Settings,
    server_v6::Subnet,
    ipv6,
    IpFamily::IPv6,
    v6::plan::parts
);

/// An answer, and the socket by which it goes.
pub(super) enum Answer {
    V4(Arc<Socket>, Vec<u8>, v4::Destination),
    V6(Arc<v6::Socket>, Vec<u8>, SocketAddrV6),
}

impl Answer {
    /// # Errors
    /// When the kernel does not take it, with the destination named.
    pub(super) fn send(&self) -> io::Result<()> {
        match self {
            Self::V4(socket, bytes, destination) => socket
                .send(bytes, *destination)
                .map_err(|error| io::Error::new(error.kind(), format!("to {destination:?}: {error}"))),
            Self::V6(socket, bytes, destination) => socket
                .send(bytes, *destination)
                .map_err(|error| io::Error::new(error.kind(), format!("to {destination}: {error}"))),
        }
    }
}

/// An answer that waits for its leases to be written; a DHCPv6 message may be about several, which lie in different blocks.
pub(super) struct Held {
    answer: Answer,
    /// Leases that are not written yet.
    left: AtomicUsize,
}

impl Held {
    /// One of its leases is written now. The answer, if that was the last one.
    pub(super) fn written(&self) -> Option<&Answer> {
        (self.left.fetch_sub(1, Ordering::AcqRel) == 1).then_some(&self.answer)
    }
}

/// What has to happen before an answer may go out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Before<A> {
    Nothing,
    /// It must not: nobody gets an address that cannot be written.
    Refuse,
    /// These leases are to be written, each with its client.
    Writes(Vec<(A, Arc<[u8]>)>),
}

pub(super) struct Served<S: LeaseServer> {
    /// None: addresses are not given out here, or not any more.
    pub(super) server: Option<S>,
    pub(super) inputs: Option<Inputs>,
    /// The object's UID, to which its ConfigMaps belong.
    pub(super) uid: Option<String>,
    ledger: Ledger<S::Address, Arc<Held>>,
    /// When a relay agent sent something from there.
    pub(super) relayed: Option<Instant>,
}

impl<S: LeaseServer> Default for Served<S> {
    fn default() -> Self {
        Self {
            server: None,
            inputs: None,
            uid: None,
            ledger: Ledger::default(),
            relayed: None,
        }
    }
}

impl<S: LeaseServer> Served<S> {
    /// Makes the server, or changes it, as the network and its surroundings are now. `me`: this replica's number. Whether there is one then.
    ///
    /// # Errors
    /// Why addresses cannot be given out; nobody gets any then.
    pub(super) fn set_up(&mut self, network: &BareMetalNetwork, inputs: &Inputs, me: u64, now: Time) -> Result<bool, String> {
        let outcome = self.apply(network, inputs, me, now);
        if !matches!(outcome, Ok(true)) {
            self.server = None;
        }
        outcome
    }

    fn apply(&mut self, network: &BareMetalNetwork, inputs: &Inputs, me: u64, now: Time) -> Result<bool, String> {
        let Some(parts) = S::parts(network, inputs) else { return Ok(false) };
        let parts = parts?;
        let server = match &mut self.server {
            Some(server) => {
                server.change(parts, now)?;
                server
            }
            empty @ None => {
                let mut server = S::make(parts)?;
                for lease in self.ledger.stored() {
                    server.load(lease, now);
                }
                empty.insert(server)
            }
        };
        let others: Vec<u64> = inputs.peers.iter().map(|peer| peer.number).collect();
        server.set_replicas((!others.is_empty()).then(|| Replicas::new(me, &others)));
        Ok(true)
    }

    /// Takes over what changed in the server. `given_back`: whether a client said so of an address. Whether the writer should look.
    pub(super) fn note_changes(&mut self, given_back: impl Fn(S::Address) -> bool, now: Time, moment: Instant) -> bool {
        let changes = self.server.as_mut().map(S::take_changes).unwrap_or_default();
        let mut hurry = false;
        for lease in changes {
            hurry |= self.ledger.note(&lease, given_back(lease.address), now, moment);
        }
        hurry
    }

    /// What has to happen before a client is told of these addresses. `lease`: they are leased to it, not only offered; `writable`: whether the API is there.
    pub(super) fn before(&self, addresses: impl Iterator<Item = S::Address>, lease: bool, writable: bool, now: Time) -> Before<S::Address> {
        let Some(server) = &self.server else { return Before::Refuse };
        let mut writes = Vec::new();
        for record in addresses.filter_map(|address| server.record(address)) {
            let standing = self.ledger.standing(&record, now);
            if !lease {
                if standing == Standing::New && !writable && !server.is_reserved(record.address) {
                    return Before::Refuse;
                }
            } else if (standing == Standing::New || (standing == Standing::Shorter && writable))
                && let Some(client) = record.client
            {
                writes.push((record.address, client));
            }
        }
        if writes.is_empty() {
            Before::Nothing
        } else {
            Before::Writes(writes)
        }
    }

    /// Keeps an answer until these are written.
    pub(super) fn hold(&mut self, writes: Vec<(S::Address, Arc<[u8]>)>, answer: Answer, since: Instant) {
        let held = Arc::new(Held {
            answer,
            left: AtomicUsize::new(writes.len()),
        });
        for (address, client) in writes {
            self.ledger.wait(Waiting {
                address,
                client,
                since,
                answer: held.clone(),
            });
        }
    }

    /// Forgets answers that waited for too long, and says how many.
    pub(super) fn drop_late(&mut self, moment: Instant) -> u64 {
        self.ledger.drop_late(moment)
    }

    /// What is to be written now, at most so many blocks.
    pub(super) fn take_writes(&mut self, most: usize, moment: Instant) -> Vec<Write<S::Address>> {
        self.ledger.take_writes(most, moment)
    }

    /// When there is something to write next, where addresses are given out.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.server.as_ref().and_then(|_| self.ledger.next_due())
    }

    /// A write was done. Returns the answers that waited for it.
    pub(super) fn written(&mut self, block: S::Address, map: &ConfigMap) -> Vec<Arc<Held>> {
        let none = BTreeMap::new();
        let version = map.metadata.resource_version.clone();
        let ready = self.ledger.written(block, version, map.data.as_ref().unwrap_or(&none));
        if self.server.is_none() {
            // Addresses are not given out there any more.
            return Vec::new();
        }
        ready.into_iter().map(|waiting| waiting.answer).collect()
    }

    /// A write was not done.
    pub(super) fn failed(&mut self, block: S::Address, moment: Instant) {
        self.ledger.failed(block, moment);
    }

    /// The ConfigMap of a block is gone.
    pub(super) fn gone(&mut self, block: S::Address, moment: Instant) {
        self.ledger.gone(block, moment);
    }

    /// The ConfigMaps that are there, but for those that `keep` names, are gone.
    pub(super) fn retain(&mut self, keep: impl Fn(S::Address) -> bool, moment: Instant) {
        let gone: Vec<S::Address> = self.ledger.blocks().filter(|block| !keep(*block)).collect();
        for block in gone {
            self.ledger.gone(block, moment);
        }
    }

    /// Takes over what stands in a ConfigMap. `lost`: a write of ours came too late for it. Whether the writer should look.
    pub(super) fn take_over(&mut self, block: S::Address, map: &ConfigMap, lost: bool, now: Time, moment: Instant) -> bool {
        let none = BTreeMap::new();
        let data = map.data.as_ref().unwrap_or(&none);
        let new = self.ledger.read(block, map.metadata.resource_version.clone(), data);
        let Some(server) = &mut self.server else {
            // Nobody decides anew now; what was not written is kept, or its block would wait for this write for ever.
            if lost {
                self.ledger.failed(block, moment);
            }
            return false;
        };
        for lease in &new {
            server.load(lease, now);
        }
        if lost || !new.is_empty() {
            self.ledger.correct(block, lost, |address| server.record(address), now, moment);
            return true;
        }
        false
    }

    /// Ends what has run out, and counts what is in use.
    pub(super) fn count(&mut self, now: Time, moment: Instant) -> Option<Counts> {
        self.server.as_mut()?.expire(now);
        self.note_changes(|_| false, now, moment);
        self.server.as_ref().map(S::counts)
    }
}
