//! What a DHCPv6 server is told about a network, checked once.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv6Addr,
};

use crate::{
    book::Book,
    v4::server::MAX_PLACES,
    v6::{
        Client,
        wire::{Encoder, MAX_DUID, Message, option},
    },
};

/// A network that is served. Without a range and reservations it is served with parameters only.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// Its first address.
    pub network: Ipv6Addr,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Addresses for whoever comes: the first, and how many.
    pub range: Option<(Ipv6Addr, u32)>,
    /// Addresses that are for one client.
    pub reservations: Vec<Reservation>,
    /// Addresses that nobody gets.
    pub excluded: Vec<Ipv6Addr>,
    /// What clients are told.
    pub options: Options,
    /// For how long.
    pub times: Times,
    /// Whether a client that asks for it gets its address in two messages instead of four. Not where replicas answer side by side: each would keep an address for it.
    pub rapid_commit: bool,
}

impl Subnet {
    /// A network that is served with parameters only, until it has a range or reservations.
    pub fn new(network: Ipv6Addr, prefix: u8) -> Self {
        Self {
            network,
            prefix,
            range: None,
            reservations: Vec::new(),
            excluded: Vec::new(),
            options: Options::default(),
            times: Times::default(),
            rapid_commit: false,
        }
    }
}

/// An address for one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Whose.
    pub who: Who,
    /// The address, within the network; it may lie in the range.
    pub address: Ipv6Addr,
}

/// How a reservation knows its client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// By the MAC address, as [`Client`] finds it.
    Mac([u8; 6]),
    /// By the DUID.
    Duid(Vec<u8>),
}

/// Durations, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// For which an address is preferred. T1 is half of it, T2 four fifths (RFC 8415, 21.4).
    pub preferred: u32,
    /// For which it is valid.
    pub valid: u32,
    /// For which an offer is kept.
    pub offer: u32,
    /// For which a declined address is not given away.
    pub quarantine: u32,
    /// After which those without a lease ask for parameters again.
    pub refresh: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            preferred: 3600,
            valid: 7200,
            offer: 60,
            quarantine: 600,
            refresh: 86_400,
        }
    }
}

/// What clients are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Option 23.
    pub dns: Vec<Ipv6Addr>,
    /// Option 24: names of domains.
    pub domains: Vec<String>,
    /// Option 31.
    pub sntp: Vec<Ipv6Addr>,
    /// Others: code and value.
    pub more: Vec<(u16, Vec<u8>)>,
}

/// Why a network cannot be served as it was described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The prefix.
    #[error("{0}/{1} is no network: the prefix is 16 to 126, and the address has no bits beyond it")]
    Network(Ipv6Addr, u8),
    /// Two networks have addresses in common.
    #[error("the networks that begin with {0} and {1} overlap")]
    Overlap(Ipv6Addr, Ipv6Addr),
    /// The range.
    #[error("the range of {1} addresses from {0} is empty, leaves its network, or has more than {MAX_PLACES}")]
    Range(Ipv6Addr, u32),
    /// A reservation.
    #[error("the reserved address {0} is none that a client can have in its network, or its DUID is too long")]
    Reservation(Ipv6Addr),
    /// Reservations that contradict each other.
    #[error("the address {0} is reserved twice, or its client has another one too")]
    Twice(Ipv6Addr),
    /// Times.
    #[error("addresses must be preferred for at least 60 s, and valid for at least as long")]
    Times,
    /// An option.
    #[error("option {0} cannot be set: it belongs to the protocol, or its value is malformed or longer than 1000 bytes")]
    Option(u16),
}

/// Room for a key: a DUID with an IAID.
pub(super) type KeyRoom = [u8; MAX_DUID + 4];

/// Codes and values that are ready for the wire, the more important first.
type CompiledOptions = Vec<(u16, Box<[u8]>)>;

/// A network being served.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) network: u128,
    pub(super) last: u128,
    pub(super) times: Times,
    pub(super) rapid_commit: bool,
    first: u128,
    count: u32,
    /// Reserved addresses outside the range.
    outside: HashMap<u128, u32>,
    outside_addresses: Vec<u128>,
    /// Places that are for one client.
    reserved: HashSet<u32>,
    by_mac: HashMap<[u8; 6], u32>,
    by_duid: HashMap<Box<[u8]>, u32>,
    options: CompiledOptions,
    pub(super) book: Book,
}

impl Served {
    pub(super) fn new(subnet: Subnet) -> Result<Self, ConfigError> {
        let network = u128::from(subnet.network);
        let wrong = || ConfigError::Network(subnet.network, subnet.prefix);
        let mask = match subnet.prefix {
            16..=126 => u128::MAX << (128 - u32::from(subnet.prefix)),
            _ => return Err(wrong()),
        };
        if network & !mask != 0 {
            return Err(wrong());
        }
        let last = network | !mask;
        if subnet.times.preferred < 60 || subnet.times.valid < subnet.times.preferred {
            return Err(ConfigError::Times);
        }
        // The first address of a network is every router's (RFC 4291, 2.6.1).
        let usable = |a: u128| a > network && a <= last;
        let (first, count) = match subnet.range {
            Some((first, count)) => {
                let a = u128::from(first);
                let fits = count > 0 && count <= MAX_PLACES && usable(a) && usable(a.saturating_add(u128::from(count) - 1));
                if !fits {
                    return Err(ConfigError::Range(first, count));
                }
                (a, count)
            }
            None => (0, 0),
        };
        let mut served = Self {
            network,
            last,
            times: subnet.times,
            rapid_commit: subnet.rapid_commit,
            first,
            count,
            outside: HashMap::new(),
            outside_addresses: Vec::new(),
            reserved: HashSet::new(),
            by_mac: HashMap::new(),
            by_duid: HashMap::new(),
            options: compile(&subnet.options)?,
            book: Book::new(0, 0, |_| false),
        };
        for reservation in subnet.reservations {
            let address = u128::from(reservation.address);
            let too_long = matches!(&reservation.who, Who::Duid(duid) if !(3..=MAX_DUID).contains(&duid.len()));
            if !usable(address) || too_long {
                return Err(ConfigError::Reservation(reservation.address));
            }
            let place = match served.place(reservation.address) {
                Some(place) => place,
                None => {
                    let place = count + served.outside_addresses.len() as u32;
                    served.outside.insert(address, place);
                    served.outside_addresses.push(address);
                    place
                }
            };
            let earlier = match reservation.who {
                Who::Mac(mac) => served.by_mac.insert(mac, place),
                Who::Duid(duid) => served.by_duid.insert(duid.into(), place),
            };
            if earlier.is_some() || !served.reserved.insert(place) {
                return Err(ConfigError::Twice(reservation.address));
            }
        }
        let excluded: HashSet<u32> = subnet.excluded.iter().filter_map(|address| served.place(*address)).collect();
        let size = count + served.outside_addresses.len() as u32;
        let reserved = &served.reserved;
        served.book = Book::new(size, count, |n| n < count && !reserved.contains(&n) && !excluded.contains(&n));
        Ok(served)
    }

    pub(super) fn contains(&self, address: Ipv6Addr) -> bool {
        (self.network..=self.last).contains(&address.into())
    }

    pub(super) fn place(&self, address: Ipv6Addr) -> Option<u32> {
        let address = u128::from(address);
        match address.checked_sub(self.first) {
            Some(offset) if offset < u128::from(self.count) => Some(offset as u32),
            _ => self.outside.get(&address).copied(),
        }
    }

    pub(super) fn address(&self, place: u32) -> Ipv6Addr {
        match place.checked_sub(self.count) {
            None => (self.first + u128::from(place)).into(),
            Some(outside) => self.outside_addresses[outside as usize].into(),
        }
    }

    pub(super) fn is_reserved(&self, place: u32) -> bool {
        self.reserved.contains(&place)
    }

    /// The place reserved for a client.
    pub(super) fn reservation(&self, client: &Client, duid: &[u8]) -> Option<u32> {
        client
            .mac
            .and_then(|mac| self.by_mac.get(&mac))
            .or_else(|| self.by_duid.get(duid))
            .copied()
    }

    /// Writes what the client would like to have of what there is.
    pub(super) fn put_options(&self, encoder: &mut Encoder<'_>, message: &Message<'_>) {
        for (code, value) in &self.options {
            if message.wants(*code) {
                encoder.put(*code, value);
            }
        }
    }
}

fn compile(options: &Options) -> Result<CompiledOptions, ConfigError> {
    let addresses = |list: &[Ipv6Addr]| list.iter().flat_map(|a| a.octets()).collect::<Vec<u8>>();
    let mut domains = Vec::new();
    for name in &options.domains {
        for label in name.trim_end_matches('.').split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(ConfigError::Option(option::DOMAINS));
            }
            domains.push(label.len() as u8);
            domains.extend_from_slice(label.as_bytes());
        }
        domains.push(0);
    }
    let mut list = vec![
        (option::DNS, addresses(&options.dns)),
        (option::DOMAINS, domains),
        (option::SNTP, addresses(&options.sntp)),
    ];
    list.retain(|(_, value)| !value.is_empty());
    for (code, value) in &options.more {
        let ours = *code <= option::INTERFACE_ID
            || matches!(
                *code,
                option::IA_PD | option::REFRESH | option::BOOT_FILE_URL..=option::ARCHITECTURE | option::CLIENT_LINK_LAYER
            );
        if ours || list.iter().any(|(c, _)| c == code) {
            return Err(ConfigError::Option(*code));
        }
        list.push((*code, value.clone()));
    }
    if let Some((code, _)) = list.iter().find(|(_, value)| value.len() > 1000) {
        return Err(ConfigError::Option(*code));
    }
    Ok(list.into_iter().map(|(code, value)| (code, value.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet() -> Subnet {
        let mut subnet = Subnet::new("2001:db8::".parse().unwrap(), 64);
        subnet.range = Some(("2001:db8::1000".parse().unwrap(), 100));
        subnet
    }

    #[test]
    fn places_and_addresses_are_the_same_thing() {
        let mut subnet = subnet();
        subnet.reservations = vec![
            Reservation {
                who: Who::Mac([2, 0, 0, 0, 0, 1]),
                address: "2001:db8::5".parse().unwrap(),
            },
            Reservation {
                who: Who::Duid(vec![0, 4, 1]),
                address: "2001:db8::1001".parse().unwrap(),
            },
        ];
        subnet.excluded = ["2001:db8::1002", "2001:db8::1"].map(|a| a.parse().unwrap()).to_vec();
        let served = Served::new(subnet).unwrap();
        for place in 0..101 {
            assert_eq!(served.place(served.address(place)), Some(place));
        }
        assert_eq!(served.book.free_count(), 98, "one is reserved, one excluded");
        assert!(served.is_reserved(1) && served.is_reserved(100) && !served.is_reserved(2));
        assert_eq!(served.place("2001:db8::1064".parse().unwrap()), None);
    }

    #[test]
    fn descriptions_that_make_no_sense_are_refused() {
        let check = |change: &dyn Fn(&mut Subnet)| {
            let mut subnet = subnet();
            change(&mut subnet);
            Served::new(subnet).map(|_| ()).unwrap_err()
        };
        let at = |last: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        assert_eq!(check(&|s| s.prefix = 127), ConfigError::Network(at(0), 127));
        assert_eq!(check(&|s| s.network = at(1)), ConfigError::Network(at(1), 64));
        assert_eq!(check(&|s| s.range = Some((at(0), 1))), ConfigError::Range(at(0), 1));
        assert_eq!(check(&|s| s.range = Some((at(1), 0))), ConfigError::Range(at(1), 0));
        assert_eq!(
            check(&|s| s.range = Some((at(1), MAX_PLACES + 1))),
            ConfigError::Range(at(1), MAX_PLACES + 1)
        );
        let twice = Reservation {
            who: Who::Mac([2; 6]),
            address: at(7),
        };
        assert_eq!(
            check(&|s| s.reservations = vec![twice.clone(), twice.clone()]),
            ConfigError::Twice(at(7))
        );
        assert_eq!(check(&|s| s.options.domains = vec!["a..b".to_owned()]), ConfigError::Option(24));
        assert_eq!(check(&|s| s.options.more = vec![(59, vec![])]), ConfigError::Option(59));
        assert_eq!(check(&|s| s.times.valid = 10), ConfigError::Times);
    }
}
