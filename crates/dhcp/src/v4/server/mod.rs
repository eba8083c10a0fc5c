//! A full DHCPv4 server in memory (RFC 2131): packets and the time in, decisions and bytes out.
//!
//! **Leases kept.** What changed is told by [`Server::take_changes`]: each address once, with what holds now. Who wants a lease to outlive the process
//! stores the changes before it sends the replies that they came with; a batch of packets is one batch of changes. [`Server::load`] takes records back,
//! at the start or from another replica.
//!
//! **Replicas.** Those with the same networks and the same records offer the same client the same address, because a hash of the client chooses it.
//! Who answers first is [`Replicas`]' to say. A REQUEST that names another replica ([`Settings::peers`]) tells that the address is taken, before the
//! record of it comes. Where two were bound to one address after all, [`Server::load`] lets the same client keep it everywhere, and the other one is refused
//! when it renews.
//!
//! **Probing.** Before a client is offered an address that it never had, the answer may be [`Outcome::Probe`]: the caller looks whether somebody uses it (by ARP or
//! ICMP), says so by [`Server::probed`], and hands in the same packet again. Until it is said, the same question comes back.
//!
//! Not here: several networks on one segment (each interface or relay address leads to one), BOOTP without DHCP, leasequery, forced renewal, host names.

mod request;
mod subnet;

use std::net::Ipv4Addr;

use self::subnet::Served;
pub use self::subnet::{ConfigError, Identity, MAX_PLACES, Options, Reservation, Route, Subnet, Times, Who};
use super::{
    Ignored,
    boot::{self, Vendor},
    client::Client,
    destination::{Arrival, Destination},
    wire::{Encoder, Head, MessageType, Packet, code::option},
};
use crate::{
    Replicas, Time,
    arch::{Boot, Tables},
    book::{Counts, Record, State},
};

/// What holds for all networks.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Server identifiers of the other replicas.
    pub peers: Vec<Ipv4Addr>,
    /// Whether a client may choose its network by option 118 (RFC 3011). It could then take addresses of networks it is not in.
    pub subnet_selection: bool,
}

/// What is booted, where a client wants to boot.
#[derive(Debug, Clone, Copy)]
pub struct BootSite<'s> {
    /// Where TFTP is served.
    pub tftp: Ipv4Addr,
    /// What there is to boot.
    pub tables: Tables<'s>,
}

/// A reply; its bytes are in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// OFFER, ACK or NAK.
    pub kind: MessageType,
    /// The client's address; 0.0.0.0 in a NAK and where only parameters were asked for.
    pub address: Ipv4Addr,
    /// Where it goes.
    pub destination: Destination,
}

/// What to do about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Send the reply.
    Send(Reply),
    /// Find out whether somebody uses this address, say so, and hand the packet in again.
    Probe(Ipv4Addr),
    /// The client gave its address back.
    Released(Ipv4Addr),
    /// The client found somebody else on its address. It stays in quarantine.
    Declined(Ipv4Addr),
}

/// The server.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    /// By their first addresses.
    subnets: Vec<Served>,
    replicas: Option<Replicas>,
    scratch: Vec<u8>,
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
            scratch: Vec::new(),
        })
    }

    /// Serves other networks, or the same ones changed. Leases of addresses that still are to be given away are kept.
    pub fn reconfigure(&mut self, settings: Settings, subnets: Vec<Subnet>, now: Time) -> Result<(), ConfigError> {
        let mut new = Self::new(settings, subnets)?;
        // Changes that were not fetched yet must not get lost.
        let unsaved = self.take_changes();
        for record in self.records() {
            new.load(&record, now);
        }
        for record in unsaved {
            new.remember_change(record.address);
        }
        new.replicas = self.replicas.take();
        *self = new;
        Ok(())
    }

    /// Who else answers on these networks; nobody, unless it is said.
    pub fn set_replicas(&mut self, replicas: Option<Replicas>) {
        self.replicas = replicas;
    }

    fn subnet(&self, address: Ipv4Addr) -> Option<usize> {
        let at = self.subnets.partition_point(|s| s.network <= u32::from(address)).checked_sub(1)?;
        self.subnets[at].contains(address).then_some(at)
    }

    fn subnet_of(&self, packet: &Packet<'_>, arrival: &Arrival) -> Result<usize, Ignored> {
        let address = link_address(packet, arrival, self.settings.subnet_selection);
        self.subnet(address).ok_or(Ignored::NoNetwork(address))
    }

    /// The next moment at which a lease, an offer or a quarantine ends, so that [`Server::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.subnets.iter().filter_map(|s| s.book.next_deadline()).min()
    }

    /// Ends what has run out.
    pub fn expire(&mut self, now: Time) {
        for subnet in &mut self.subnets {
            subnet.book.expire(now);
        }
    }

    /// Says whether somebody uses an address that [`Outcome::Probe`] asked about.
    pub fn probed(&mut self, address: Ipv4Addr, in_use: bool, now: Time) {
        let Some(subnet) = self.subnet(address).map(|at| &mut self.subnets[at]) else {
            return;
        };
        let Some(place) = subnet.place(address) else { return };
        // What came meanwhile counts more: a client that was bound to it answers probes by rights.
        if subnet.book.place(place).state != State::Offered {
            return;
        }
        if in_use {
            subnet.book.quarantine(place, now, now + seconds(subnet.times.quarantine));
        } else {
            subnet.book.probed(place);
        }
    }

    /// The addresses whose leases changed since this was asked last, each once, with what holds now.
    pub fn take_changes(&mut self) -> Vec<Record<Ipv4Addr>> {
        let mut records = Vec::new();
        for subnet in &mut self.subnets {
            for place in subnet.book.take_changed() {
                records.push(subnet.book.record(place, subnet.address(place)));
            }
        }
        records
    }

    /// What lasts of one address; `None` if it is none that is given away here.
    pub fn record(&self, address: Ipv4Addr) -> Option<Record<Ipv4Addr>> {
        let subnet = &self.subnets[self.subnet(address)?];
        Some(subnet.book.record(subnet.place(address)?, address))
    }

    /// Whether an address is reserved for one client.
    pub fn is_reserved(&self, address: Ipv4Addr) -> bool {
        let subnet = self.subnet(address).map(|at| &self.subnets[at]);
        subnet.is_some_and(|subnet| subnet.place(address).is_some_and(|place| subnet.is_reserved(place)))
    }

    fn remember_change(&mut self, address: Ipv4Addr) {
        if let Some(subnet) = self.subnet(address).map(|at| &mut self.subnets[at])
            && let Some(place) = subnet.place(address)
        {
            subnet.book.note(place);
        }
    }

    /// Everything that lasts: what a new process would have to load.
    pub fn records(&self) -> impl Iterator<Item = Record<Ipv4Addr>> {
        self.subnets
            .iter()
            .flat_map(|subnet| subnet.book.recorded().map(|place| subnet.book.record(place, subnet.address(place))))
    }

    /// Takes a record over: from before the last start, or from another replica. One whose address is not given away here is left out.
    pub fn load(&mut self, record: &Record<Ipv4Addr>, now: Time) {
        let Some(subnet) = self.subnet(record.address).map(|at| &mut self.subnets[at]) else {
            return;
        };
        let Some(place) = subnet.place(record.address) else { return };
        subnet.book.load(place, record, now);
    }

    /// What is in use.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for subnet in &self.subnets {
            subnet.book.count(&mut counts);
        }
        counts
    }
}

/// An address of the link that a client is on: what its relay agent says (RFC 3527; RFC 2131, 4.3.1), then what it chooses if it may (RFC 3011), then its own, then ours on the
/// interface that its packet came by.
pub fn link_address(packet: &Packet<'_>, arrival: &Arrival, subnet_selection: bool) -> Ipv4Addr {
    let given = |address: Ipv4Addr| Some(address).filter(|address| !address.is_unspecified());
    let relay = packet.relay().and_then(|relay| relay.link_selection());
    let chosen = || packet.subnet_selection().filter(|_| subnet_selection);
    // A client that renews writes to us alone, from anywhere.
    let renews = || given(packet.ciaddr()).filter(|_| !arrival.broadcast);
    relay
        .or_else(chosen)
        .or_else(|| given(packet.giaddr()))
        .or_else(renews)
        .unwrap_or(arrival.local)
}

fn seconds(count: u32) -> Time {
    Time::from_secs(count.into())
}

/// The reply being made: what all kinds of it have in common.
struct Answer<'a> {
    packet: &'a Packet<'a>,
    client: &'a Client,
    arrival: &'a Arrival,
    site: Option<&'a BootSite<'a>>,
}

impl Answer<'_> {
    /// The server identifier: our address, or what the relay agent wants the client to take for it.
    fn server_id(&self) -> Ipv4Addr {
        self.packet
            .relay()
            .and_then(|relay| relay.server_id_override())
            .unwrap_or(self.arrival.local)
    }

    /// OFFER or ACK. `lease` in seconds: none with parameters only.
    fn grant(
        &self,
        subnet: &Served,
        kind: MessageType,
        address: Ipv4Addr,
        lease: Option<u32>,
        out: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Reply {
        let boot = self.boot();
        let head = Head {
            // An OFFER has none (RFC 2131, table 3).
            ciaddr: if kind == MessageType::Ack {
                self.packet.ciaddr()
            } else {
                Ipv4Addr::UNSPECIFIED
            },
            yiaddr: address,
            siaddr: boot.map_or(Ipv4Addr::UNSPECIFIED, |(boot, site)| boot.tftp_server(site.tftp)),
            force_broadcast: false,
        };
        let mut encoder = Encoder::reply(self.packet, &head, kind, out);
        encoder.put(option::SERVER_ID, &self.server_id().octets());
        if let Some(lease) = lease {
            encoder.put(option::LEASE_TIME, &lease.to_be_bytes());
            encoder.put(option::RENEWAL, &(lease / 2).to_be_bytes());
            encoder.put(option::REBINDING, &(lease - lease / 8).to_be_bytes());
        }
        if let Some((boot, site)) = boot {
            // Without class and vendor options UEFI and BIOS take the file from an ordinary offer; with the class alone, EDK2 would ask at port 4011.
            let class = self.client.class.filter(|_| matches!(boot, Boot::Http(_) | Boot::RaspberryPi));
            boot::put(&mut encoder, boot, class, Vendor::None, site.tftp, scratch);
        }
        subnet.put_options(&mut encoder, self.packet);
        self.echo(&mut encoder);
        encoder.finish(self.packet);
        let destination = Destination::of(self.packet, self.arrival, kind, address);
        Reply {
            kind,
            address,
            destination,
        }
    }

    /// What the client is given to boot, if it wants to.
    fn boot(&self) -> Option<(&Boot, &BootSite<'_>)> {
        let (site, firmware) = (self.site?, self.client.firmware?);
        Some((site.tables.choose(firmware)?, site))
    }

    fn refuse(&self, why: &str, out: &mut Vec<u8>) -> Reply {
        let head = Head {
            force_broadcast: !self.packet.giaddr().is_unspecified(),
            ..Head::default()
        };
        let mut encoder = Encoder::reply(self.packet, &head, MessageType::Nak, out);
        encoder.put(option::SERVER_ID, &self.server_id().octets());
        encoder.put(option::MESSAGE, why.as_bytes());
        self.echo(&mut encoder);
        encoder.finish(self.packet);
        let address = Ipv4Addr::UNSPECIFIED;
        Reply {
            kind: MessageType::Nak,
            address,
            destination: Destination::of(self.packet, self.arrival, MessageType::Nak, address),
        }
    }

    /// What a client knows its answer by.
    fn echo(&self, encoder: &mut Encoder<'_>) {
        // RFC 6842, 3; PXE 2.1, table 2-2; RFC 3011, 2.
        for code in [option::CLIENT_ID, option::MACHINE_ID, option::SUBNET_SELECTION] {
            if let Some(value) = self.packet.option(code) {
                encoder.put(code, value);
            }
        }
    }
}
