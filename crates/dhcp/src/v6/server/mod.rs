//! A DHCPv6 server in memory: addresses (IA_NA), parameters, what to boot (RFC 5970), relay agents.
//!
//! Leases are kept and shared between replicas as in [`v4::server`](crate::v4::server): changes out, records in, and the same client is offered the same address by
//! every replica. A client is a DUID with an IAID; firmware and the system it boots send different ones and so have different addresses, unless one is reserved by
//! the MAC address.
//!
//! Not here: temporary addresses and delegated prefixes (refused politely), reconfiguration, authentication, server unicast (RFC 9915 has taken it out). Addresses are not
//! probed: clients do that themselves, always (RFC 4862, 5.4).

mod request;
mod subnet;

use std::net::{Ipv6Addr, SocketAddrV6};

pub use self::subnet::{ConfigError, Options, Reservation, Subnet, Times, Who};
use self::{request::MAX_ASSOCIATIONS, subnet::Served};
use super::wire::MessageType;
use crate::{Counts, Replicas, Time, arch::Tables, book::Record};

/// What holds for all networks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our DUID.
    pub duid: Vec<u8>,
    /// Those of the other replicas.
    pub peers: Vec<Vec<u8>>,
}

/// What is booted, where a client wants to boot. URLs in the tables have to be such that an IPv6 client reaches them.
#[derive(Debug, Clone, Copy)]
pub struct BootSite<'s> {
    /// Where TFTP is served.
    pub tftp: Ipv6Addr,
    /// What there is to boot.
    pub tables: Tables<'s>,
}

/// Addresses that a reply offers or leases: one for each association of the message that gets one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Granted([Option<Ipv6Addr>; MAX_ASSOCIATIONS]);

impl Granted {
    /// Each of them.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.0.iter().filter_map(|address| *address)
    }
}

/// A reply; its bytes are in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// ADVERTISE or REPLY.
    pub kind: MessageType,
    /// Where it goes.
    pub destination: SocketAddrV6,
    /// What it gives.
    pub granted: Granted,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    /// By their first addresses.
    subnets: Vec<Served>,
    replicas: Option<Replicas>,
}

impl Server {
    /// A server without leases.
    pub fn new(settings: Settings, subnets: Vec<Subnet>) -> Result<Self, ConfigError> {
        let mut served = subnets.into_iter().map(Served::new).collect::<Result<Vec<_>, _>>()?;
        served.sort_by_key(|s| s.network);
        if let Some(pair) = served.windows(2).find(|pair| pair[1].network <= pair[0].last) {
            return Err(ConfigError::Overlap(pair[0].network.into(), pair[1].network.into()));
        }
        Ok(Self {
            settings,
            subnets: served,
            replicas: None,
        })
    }

    /// Serves other networks, or the same ones changed. Leases of addresses that still are to be given away are kept.
    pub fn reconfigure(&mut self, settings: Settings, subnets: Vec<Subnet>, now: Time) -> Result<(), ConfigError> {
        let mut new = Self::new(settings, subnets)?;
        let unsaved = self.take_changes();
        for record in self.records() {
            new.load(&record, now);
        }
        for record in unsaved {
            if let Some((subnet, place)) = new.find(record.address) {
                subnet.book.note(place);
            }
        }
        new.replicas = self.replicas.take();
        *self = new;
        Ok(())
    }

    /// Who else answers on these networks; nobody, unless it is said.
    pub fn set_replicas(&mut self, replicas: Option<Replicas>) {
        self.replicas = replicas;
    }

    fn subnet(&self, address: Ipv6Addr) -> Option<usize> {
        let at = self.subnets.partition_point(|s| s.network <= u128::from(address)).checked_sub(1)?;
        self.subnets[at].contains(address).then_some(at)
    }

    fn find(&mut self, address: Ipv6Addr) -> Option<(&mut Served, u32)> {
        let at = self.subnet(address)?;
        let place = self.subnets[at].place(address)?;
        Some((&mut self.subnets[at], place))
    }

    /// The next moment at which something ends.
    pub fn next_deadline(&self) -> Option<Time> {
        self.subnets.iter().filter_map(|s| s.book.next_deadline()).min()
    }

    /// Ends what has run out.
    pub fn expire(&mut self, now: Time) {
        for subnet in &mut self.subnets {
            subnet.book.expire(now);
        }
    }

    /// The addresses whose leases changed since this was asked last, each once, with what holds now.
    pub fn take_changes(&mut self) -> Vec<Record<Ipv6Addr>> {
        let mut records = Vec::new();
        for subnet in &mut self.subnets {
            for place in subnet.book.take_changed() {
                records.push(subnet.book.record(place, subnet.address(place)));
            }
        }
        records
    }

    /// What lasts of one address; `None` if it is none that is given away here.
    pub fn record(&self, address: Ipv6Addr) -> Option<Record<Ipv6Addr>> {
        let subnet = &self.subnets[self.subnet(address)?];
        Some(subnet.book.record(subnet.place(address)?, address))
    }

    /// Whether an address is reserved for one client.
    pub fn is_reserved(&self, address: Ipv6Addr) -> bool {
        let subnet = self.subnet(address).map(|at| &self.subnets[at]);
        subnet.is_some_and(|subnet| subnet.place(address).is_some_and(|place| subnet.is_reserved(place)))
    }

    /// What is in use.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for subnet in &self.subnets {
            subnet.book.count(&mut counts);
        }
        counts
    }

    /// Everything that lasts.
    pub fn records(&self) -> impl Iterator<Item = Record<Ipv6Addr>> {
        self.subnets
            .iter()
            .flat_map(|subnet| subnet.book.recorded().map(|place| subnet.book.record(place, subnet.address(place))))
    }

    /// Takes a record over: from before the last start, or from another replica. One whose address is not given away here is left out.
    pub fn load(&mut self, record: &Record<Ipv6Addr>, now: Time) {
        if let Some((subnet, place)) = self.find(record.address) {
            subnet.book.load(place, record, now);
        }
    }
}

fn seconds(count: u32) -> Time {
    Time::from_secs(count.into())
}
