//! What a full server is told about a network, checked once, and made ready for answering.

use std::{collections::HashMap, net::Ipv4Addr};

use crate::{
    book::{Book, RESERVED},
    v4::wire::{Encoder, Packet, code::option},
};

/// Places that one network may have: two /16 and some.
pub const MAX_PLACES: u32 = 1 << 18;

/// A network in which addresses are given away.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// Its first address.
    pub network: Ipv4Addr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Ranges for whoever comes, first and last address included.
    pub ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// Addresses in the ranges that are never given away: routers, our own.
    pub excluded: Vec<Ipv4Addr>,
    /// Addresses that are for one client.
    pub reservations: Vec<Reservation>,
    /// What clients are told.
    pub options: Options,
    /// For how long.
    pub times: Times,
    /// Whether this is the only server here. It then refuses what is wrong and confirms addresses that it does not know of but has free, so that machines
    /// keep theirs when leases were lost.
    pub authoritative: bool,
    /// Whether it is looked if somebody uses an address, before a client is offered it for the first time.
    pub probe: bool,
    /// What makes two requests the same client's.
    pub identity: Identity,
}

impl Subnet {
    /// A network of which everything else is as usual: an hour's leases, authoritative, probing, no ranges yet.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Self {
        Self {
            network,
            prefix,
            ranges: Vec::new(),
            excluded: Vec::new(),
            reservations: Vec::new(),
            options: Options::default(),
            times: Times::default(),
            authoritative: true,
            probe: true,
            identity: Identity::default(),
        }
    }
}

/// An address for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Whose.
    pub who: Who,
    /// The address, within the network; it may lie in a range.
    pub address: Ipv4Addr,
}

/// How a reservation knows its client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// By the MAC address, whatever client identifiers its firmware, loader and system send.
    Mac([u8; 6]),
    /// By the value of option 61.
    ClientId(Vec<u8>),
}

/// What makes two requests the same client's, where nothing is reserved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Identity {
    /// The hardware address. A machine's firmware, iPXE, our agent and its installed system send four client identifiers; they are one machine, and get one address.
    #[default]
    HardwareAddress,
    /// The client identifier where one is sent, to the letter of RFC 2131, 4.2: for networks where several systems share a MAC address.
    ClientId,
}

/// Durations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Of a lease, for clients that do not say.
    pub lease: u32,
    /// Shortest lease that a client gets by asking.
    pub shortest: u32,
    /// Longest.
    pub longest: u32,
    /// For which an offer is kept.
    pub offer: u32,
    /// For which an address that was declined, or that somebody answered from, is not given away.
    pub quarantine: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lease: 3600,
            shortest: 300,
            longest: 86_400,
            offer: 60,
            quarantine: 600,
        }
    }
}

/// What clients are told, beside mask and times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 26, in bytes.
    pub mtu: Option<u16>,
    /// Option 121. The default route is added from `routers`, because clients that read this option ignore option 3 (RFC 3442).
    pub routes: Vec<Route>,
    /// Others: code and value.
    pub more: Vec<(u8, Vec<u8>)>,
}

/// A static route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub network: Ipv4Addr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Router.
    pub via: Ipv4Addr,
}

/// Why a network cannot be served as it was described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The prefix.
    #[error("{0}/{1} is no network: the prefix is 1 to 30, and the address has no bits beyond it")]
    Network(Ipv4Addr, u8),
    /// Two networks have addresses in common.
    #[error("the networks that begin with {0} and {1} overlap")]
    Overlap(Ipv4Addr, Ipv4Addr),
    /// A range.
    #[error("the range {0} to {1} runs backwards, or leaves its network")]
    Range(Ipv4Addr, Ipv4Addr),
    /// Ranges with addresses in common.
    #[error("the address {0} lies in two ranges")]
    TwoRanges(Ipv4Addr),
    /// A reservation.
    #[error("the reserved address {0} is none that a client can have in its network")]
    Reservation(Ipv4Addr),
    /// Reservations that contradict each other.
    #[error("the address {0} is reserved twice, or its client has another one too")]
    Twice(Ipv4Addr),
    /// Too many addresses.
    #[error("a network may have {MAX_PLACES} addresses to give away, and this one has {0}")]
    Large(u64),
    /// Times.
    #[error("lease times must be at least 60 s, the shortest at most the usual one, and that at most the longest")]
    Times,
    /// An option.
    #[error("option {0} cannot be set: it belongs to the protocol, or its value is longer than 255 bytes or of a wrong size")]
    Option(u8),
}

/// Room for a key that is put together.
pub(super) type KeyRoom = [u8; 17];

/// Whoever sent a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'k> {
    /// What the book knows it by.
    pub(super) key: &'k [u8],
    /// The place that is reserved for it.
    pub(super) reserved: Option<u32>,
}

/// Codes and values that are ready for the wire, the more important first.
type CompiledOptions = Vec<(u8, Box<[u8]>)>;

/// A network being served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) network: u32,
    pub(super) last: u32,
    pub(super) times: Times,
    pub(super) authoritative: bool,
    pub(super) probe: bool,
    identity: Identity,
    /// First address, last address, number of the first place.
    ranges: Vec<(u32, u32, u32)>,
    /// Reserved addresses outside the ranges.
    outside: HashMap<u32, u32>,
    outside_first: u32,
    outside_addresses: Vec<u32>,
    by_mac: HashMap<[u8; 6], u32>,
    by_client_id: HashMap<Box<[u8]>, u32>,
    /// By place.
    reserved: HashMap<u32, Who>,
    mask: [u8; 4],
    options: CompiledOptions,
    pub(super) book: Book,
}

impl Served {
    pub(super) fn new(subnet: Subnet) -> Result<Self, ConfigError> {
        let network = u32::from(subnet.network);
        let wrong = || ConfigError::Network(subnet.network, subnet.prefix);
        let mask = match subnet.prefix {
            1..=30 => u32::MAX << (32 - subnet.prefix),
            _ => return Err(wrong()),
        };
        if network & !mask != 0 {
            return Err(wrong());
        }
        let last = network | !mask;
        let t = subnet.times;
        if t.shortest < 60 || t.shortest > t.lease || t.lease > t.longest || t.offer == 0 || t.quarantine == 0 {
            return Err(ConfigError::Times);
        }
        let usable = |a: u32| a > network && a < last;
        let mut sorted: Vec<(u32, u32)> = Vec::new();
        for (first, end) in &subnet.ranges {
            let (a, b) = (u32::from(*first), u32::from(*end));
            if a > b || !usable(a) || !usable(b) {
                return Err(ConfigError::Range(*first, *end));
            }
            sorted.push((a, b));
        }
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[1].0 <= pair[0].1) {
            return Err(ConfigError::TwoRanges(pair[1].0.into()));
        }
        let count = sorted.iter().map(|(a, b)| u64::from(b - a) + 1).sum::<u64>() + subnet.reservations.len() as u64;
        if count > u64::from(MAX_PLACES) {
            return Err(ConfigError::Large(count));
        }
        let mut ranges = Vec::new();
        let mut next = 0;
        for (a, b) in sorted {
            ranges.push((a, b, next));
            next += b - a + 1;
        }
        let options = compile(&subnet.options)?;
        let mut served = Self {
            network,
            last,
            times: t,
            authoritative: subnet.authoritative,
            probe: subnet.probe,
            identity: subnet.identity,
            ranges,
            outside: HashMap::new(),
            outside_first: next,
            outside_addresses: Vec::new(),
            by_mac: HashMap::new(),
            by_client_id: HashMap::new(),
            reserved: HashMap::new(),
            mask: mask.to_be_bytes(),
            options,
            book: Book::new(0, 0, |_| false),
        };
        for reservation in subnet.reservations {
            let address = u32::from(reservation.address);
            if !usable(address) {
                return Err(ConfigError::Reservation(reservation.address));
            }
            let place = served.place(reservation.address).unwrap_or_else(|| {
                let place = next + served.outside_addresses.len() as u32;
                served.outside.insert(address, place);
                served.outside_addresses.push(address);
                place
            });
            let earlier = match &reservation.who {
                Who::Mac(mac) => served.by_mac.insert(*mac, place),
                Who::ClientId(id) => served.by_client_id.insert(id.as_slice().into(), place),
            };
            if earlier.is_some() || served.reserved.insert(place, reservation.who).is_some() {
                return Err(ConfigError::Twice(reservation.address));
            }
        }
        let excluded: Vec<u32> = subnet.excluded.iter().filter_map(|address| served.place(*address)).collect();
        let size = next + served.outside_addresses.len() as u32;
        served.book = Book::new(size, next, |n| {
            n < next && !served.reserved.contains_key(&n) && !excluded.contains(&n)
        });
        Ok(served)
    }

    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        (self.network..=self.last).contains(&address.into())
    }

    /// The place of an address that we may give away.
    pub(super) fn place(&self, address: Ipv4Addr) -> Option<u32> {
        let address = u32::from(address);
        let range = self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&address));
        match range {
            Some((first, _, place)) => Some(place + (address - first)),
            None => self.outside.get(&address).copied(),
        }
    }

    pub(super) fn address(&self, place: u32) -> Ipv4Addr {
        if place >= self.outside_first {
            return self.outside_addresses[(place - self.outside_first) as usize].into();
        }
        let at = self.ranges.partition_point(|(_, _, first)| *first <= place) - 1;
        let (first, _, number) = self.ranges[at];
        (first + (place - number)).into()
    }

    /// The place reserved for whoever sent this.
    fn reservation(&self, packet: &Packet<'_>) -> Option<u32> {
        let by_mac = packet.mac().and_then(|mac| self.by_mac.get(&mac));
        let by_id = || {
            packet
                .client_id()
                .filter(|_| !self.by_client_id.is_empty())
                .and_then(|id| self.by_client_id.get(id))
        };
        by_mac.or_else(by_id).copied()
    }

    /// Whether a place is reserved, for whomever.
    pub(super) fn is_reserved(&self, place: u32) -> bool {
        self.reserved.contains_key(&place)
    }

    /// Who sent this. `room` is where the key is put together. `None`: nothing identifies the client.
    pub(super) fn asker<'k>(&self, packet: &'k Packet<'_>, room: &'k mut KeyRoom) -> Option<Asker<'k>> {
        let reserved = self.reservation(packet);
        if let Some(place) = reserved {
            // One key, whichever of its identifiers the client sends: it is one machine with one address.
            room[..2].copy_from_slice(RESERVED);
            room[2..6].copy_from_slice(&self.address(place).octets());
            return Some(Asker { key: &room[..6], reserved });
        }
        let hardware = packet.hardware_address();
        let by_id = self.identity == Identity::ClientId || hardware.is_empty();
        if let Some(key) = packet.client_id().filter(|_| by_id) {
            return Some(Asker { key, reserved });
        }
        if hardware.iter().all(|b| *b == 0) {
            return None;
        }
        room[0] = packet.hardware_type();
        room[1..=hardware.len()].copy_from_slice(hardware);
        Some(Asker {
            key: &room[..=hardware.len()],
            reserved,
        })
    }

    /// Writes mask, routers and so on: what the client asked for, or all if it did not say.
    pub(super) fn put_options(&self, encoder: &mut Encoder<'_>, packet: &Packet<'_>) {
        encoder.put(option::SUBNET_MASK, &self.mask);
        let wanted = packet.parameter_list();
        for (code, value) in &self.options {
            if wanted.is_empty() || *code == option::ROUTER || wanted.contains(code) {
                encoder.put(*code, value);
            }
        }
    }
}

fn compile(options: &Options) -> Result<CompiledOptions, ConfigError> {
    let addresses = |list: &[Ipv4Addr]| list.iter().flat_map(|a| a.octets()).collect::<Vec<u8>>();
    let mut routes = Vec::new();
    let default = options.routers.first().filter(|_| !options.routes.is_empty());
    let default = default.map(|via| Route {
        network: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        via: *via,
    });
    let has_default = options.routes.iter().any(|r| r.prefix == 0);
    for route in options.routes.iter().copied().chain(default.filter(|_| !has_default)) {
        let significant = usize::from(route.prefix.div_ceil(8));
        if route.prefix > 32 {
            return Err(ConfigError::Option(option::STATIC_ROUTES));
        }
        routes.push(route.prefix);
        routes.extend_from_slice(&route.network.octets()[..significant]);
        routes.extend_from_slice(&route.via.octets());
    }
    let mut list = vec![
        (option::ROUTER, addresses(&options.routers)),
        (option::DNS, addresses(&options.dns)),
        (option::STATIC_ROUTES, routes),
        (option::MTU, options.mtu.map(|mtu| mtu.to_be_bytes().to_vec()).unwrap_or_default()),
        (option::DOMAIN_NAME, options.domain.clone().unwrap_or_default().into_bytes()),
        (option::NTP, addresses(&options.ntp)),
    ];
    list.retain(|(_, value)| !value.is_empty());
    for (code, value) in &options.more {
        let ours = matches!(
            *code,
            option::PAD | option::SUBNET_MASK | option::VENDOR | option::REQUESTED_ADDRESS
                ..=option::CLIENT_ID
                    | option::TFTP_SERVER
                    | option::BOOT_FILE
                    | option::RELAY_AGENT
                    | option::ARCHITECTURE
                    | option::MACHINE_ID
                    | option::SUBNET_SELECTION
                    | option::END
        );
        if ours || value.is_empty() || list.iter().any(|(c, _)| c == code) {
            return Err(ConfigError::Option(*code));
        }
        list.push((*code, value.clone()));
    }
    if let Some((code, _)) = list.iter().find(|(_, value)| value.len() > 255) {
        return Err(ConfigError::Option(*code));
    }
    Ok(list.into_iter().map(|(code, value)| (code, value.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet {
        let mut subnet = Subnet::new([10, 0, 0, 0].into(), 24);
        subnet.ranges = vec![
            ([10, 0, 0, 200].into(), [10, 0, 0, 209].into()),
            ([10, 0, 0, 100].into(), [10, 0, 0, 109].into()),
        ];
        subnet
    }

    fn reserve(who: u8, last: u8) -> Reservation {
        Reservation {
            who: Who::Mac([2, 0, 0, 0, 0, who]),
            address: [10, 0, 0, last].into(),
        }
    }

    #[test]
    fn places_and_addresses_are_the_same_thing() {
        let mut subnet = subnet();
        subnet.reservations = vec![reserve(1, 5), reserve(2, 105)];
        subnet.excluded = vec![[10, 0, 0, 100].into(), [10, 0, 0, 1].into()];
        let served = Served::new(subnet).unwrap();
        for place in 0..21 {
            assert_eq!(served.place(served.address(place)), Some(place));
        }
        assert_eq!(served.address(0), Ipv4Addr::new(10, 0, 0, 100));
        assert_eq!(served.address(10), Ipv4Addr::new(10, 0, 0, 200));
        assert_eq!(served.address(20), Ipv4Addr::new(10, 0, 0, 5));
        assert_eq!(served.place([10, 0, 0, 110].into()), None);
        assert_eq!(served.book.free_count(), 18, "one is excluded, one reserved");
    }

    #[test]
    fn descriptions_that_make_no_sense_are_refused() {
        let check = |change: &dyn Fn(&mut Subnet)| {
            let mut subnet = subnet();
            change(&mut subnet);
            Served::new(subnet).map(|_| ()).unwrap_err()
        };
        let at = |last| Ipv4Addr::new(10, 0, 0, last);
        assert_eq!(check(&|s| s.prefix = 31), ConfigError::Network(at(0), 31));
        assert_eq!(check(&|s| s.network = at(1)), ConfigError::Network(at(1), 24));
        assert_eq!(check(&|s| s.ranges.push((at(50), at(40)))), ConfigError::Range(at(50), at(40)));
        assert_eq!(check(&|s| s.ranges.push((at(250), at(255)))), ConfigError::Range(at(250), at(255)));
        assert_eq!(check(&|s| s.ranges.push((at(90), at(100)))), ConfigError::TwoRanges(at(100)));
        assert_eq!(check(&|s| s.reservations = vec![reserve(1, 0)]), ConfigError::Reservation(at(0)));
        assert_eq!(
            check(&|s| s.reservations = vec![reserve(1, 7), reserve(2, 7)]),
            ConfigError::Twice(at(7))
        );
        assert_eq!(
            check(&|s| s.reservations = vec![reserve(1, 7), reserve(1, 8)]),
            ConfigError::Twice(at(8))
        );
        assert_eq!(check(&|s| s.times.lease = 10), ConfigError::Times);
        assert_eq!(check(&|s| s.options.more = vec![(54, vec![1])]), ConfigError::Option(54));
        assert_eq!(check(&|s| s.options.domain = Some("x".repeat(256))), ConfigError::Option(15));
        let large = |s: &mut Subnet| {
            (s.network, s.prefix) = ([10, 0, 0, 0].into(), 8);
            s.ranges = vec![([10, 0, 0, 1].into(), [10, 255, 0, 0].into())];
        };
        assert!(matches!(check(&large), ConfigError::Large(_)));
    }

    #[test]
    fn static_routes_carry_the_default_route_too() {
        let options = Options {
            routers: vec![[10, 0, 0, 1].into()],
            routes: vec![Route {
                network: [10, 229, 0, 128].into(),
                prefix: 25,
                via: [10, 0, 0, 2].into(),
            }],
            ..Options::default()
        };
        let compiled = compile(&options).unwrap();
        // RFC 3442: width, significant octets, router.
        let want = [25, 10, 229, 0, 128, 10, 0, 0, 2, 0, 10, 0, 0, 1];
        assert_eq!(compiled.iter().find(|(c, _)| *c == 121).map(|(_, v)| &v[..]), Some(&want[..]));
    }
}
