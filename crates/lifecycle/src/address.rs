//! Which addresses does an endpoint get? Wishes first, else the lowest free one of each family's ranges.
//!
//! The name of a BareMetalAddress is the network's name, a dot, and the address in fixed-width hexadecimal, so that creating the object is the allocation: of two who choose
//! the same address, one creation fails, and that one chooses again.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use api::{
    BareMetalAddress, BareMetalAddressSpec, BareMetalEndpoint, BareMetalNetwork, BareMetalNetworkSpec, endpoint::EndpointAddress,
    network::AddressPlan,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A field of the network is not what it should be.
    #[error("BareMetalNetwork {network}: {field} {value:?} is not {wanted}")]
    Invalid {
        /// Name of the network.
        network: String,
        /// Path of the field.
        field: &'static str,
        /// What stands there.
        value: String,
        /// What should.
        wanted: &'static str,
    },
    /// A wish that cannot be granted by anybody.
    #[error("the address {address:?} is not one that BareMetalNetwork {network} can give: {problem}")]
    BadWish {
        /// Name of the network.
        network: String,
        /// The wish.
        address: String,
        /// Why.
        problem: &'static str,
    },
    /// A wish that somebody else has.
    #[error("the address {address} of BareMetalNetwork {network} is taken: wish for another, or for none")]
    Taken {
        /// Name of the network.
        network: String,
        /// The wish.
        address: IpAddr,
    },
    /// Nothing left.
    #[error("BareMetalNetwork {network} has no free {family} address left in {ranges}: add a range to spec.{field}.ranges")]
    Exhausted {
        /// Name of the network.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// `ipv4` or `ipv6`.
        field: &'static str,
        /// The ranges, for people.
        ranges: String,
    },
}

impl AddressError {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "NetworkInvalid",
            Self::BadWish { .. } => "AddressInvalid",
            Self::Taken { .. } => "AddressTaken",
            Self::Exhausted { .. } => "AddressesExhausted",
        }
    }
}

/// A network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    network: u128,
    length: u8,
    bits: u8,
}

fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    }
}

fn address_of(number: u128, bits: u8) -> Option<IpAddr> {
    if bits == 32 {
        u32::try_from(number).ok().map(|n| IpAddr::V4(Ipv4Addr::from(n)))
    } else {
        Some(IpAddr::V6(Ipv6Addr::from(number)))
    }
}

impl Prefix {
    /// Reads `192.0.2.0/24` or `2001:db8::/64`; `None` for anything else. Host bits are ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let (number, bits) = number(address.parse().ok()?);
        let length: u8 = length.parse().ok().filter(|l| *l <= bits)?;
        let mask = Self::mask(length, bits);
        Some(Self {
            network: number & mask,
            length,
            bits,
        })
    }

    fn mask(length: u8, bits: u8) -> u128 {
        let host = u32::from(bits - length);
        let all = if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
        if host >= 128 { 0 } else { (all >> host) << host & all }
    }

    /// Whether an address is of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (number, bits) = number(address);
        bits == self.bits && number & Self::mask(self.length, bits) == self.network
    }

    /// Prefix length.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether a host may have the address: not the network's own, nor the broadcast address of an IPv4 network that has one.
    fn is_host(&self, address: IpAddr) -> bool {
        let (number, bits) = number(address);
        let host_bits = bits - self.length;
        if host_bits <= 1 {
            return true;
        }
        let last = number | !Self::mask(self.length, bits) & if bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
        number != self.network && (bits == 128 || number != last)
    }
}

/// The name of the BareMetalAddress for an address.
pub fn object_name(network: &str, address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) => format!("{network}.{:08x}", u32::from(a)),
        IpAddr::V6(a) => format!("{network}.{:032x}", u128::from(a)),
    }
}

struct Family<'a> {
    plan: &'a AddressPlan,
    prefix: Prefix,
    name: &'static str,
    field: &'static str,
}

fn families<'a>(network: &str, spec: &'a BareMetalNetworkSpec) -> Result<Vec<Family<'a>>, AddressError> {
    let mut found = Vec::new();
    let plans = [
        (
            &spec.ipv4,
            32,
            "IPv4",
            "ipv4",
            "spec.ipv4.prefix",
            "an IPv4 prefix such as 192.0.2.0/24",
        ),
        (
            &spec.ipv6,
            128,
            "IPv6",
            "ipv6",
            "spec.ipv6.prefix",
            "an IPv6 prefix such as 2001:db8::/64",
        ),
    ];
    for (plan, bits, name, key, field, wanted) in plans {
        let Some(plan) = plan else { continue };
        let prefix = Prefix::parse(&plan.prefix)
            .filter(|p| p.bits == bits)
            .ok_or_else(|| AddressError::Invalid {
                network: network.to_owned(),
                field,
                value: plan.prefix.clone(),
                wanted,
            })?;
        found.push(Family {
            plan,
            prefix,
            name,
            field: key,
        });
    }
    Ok(found)
}

/// Addresses that no instance may have: the gateway and the name servers.
fn reserved(plan: &AddressPlan) -> BTreeSet<IpAddr> {
    plan.gateway.iter().chain(&plan.dns).filter_map(|a| a.parse().ok()).collect()
}

/// Most addresses of a range that are looked at: a range may be as large as a /64, its taken part is not.
const MAX_STEPS: u128 = 1 << 20;

fn lowest_free(network: &str, family: &Family<'_>, taken: &BTreeSet<String>) -> Result<IpAddr, AddressError> {
    let reserved = reserved(family.plan);
    let invalid = |field, value: &str, wanted| AddressError::Invalid {
        network: network.to_owned(),
        field,
        value: value.to_owned(),
        wanted,
    };
    for range in &family.plan.ranges {
        let read = |text: &str, field| {
            text.parse::<IpAddr>()
                .ok()
                .filter(|a| family.prefix.contains(*a))
                .map(|a| number(a).0)
                .ok_or_else(|| invalid(field, text, "an address of the network's prefix"))
        };
        let first = read(&range.first, "ranges[].first")?;
        let last = read(&range.last, "ranges[].last")?;
        if first > last {
            return Err(invalid("ranges[].last", &range.last, "at or after the range's first address"));
        }
        let end = last.min(first.saturating_add(MAX_STEPS));
        let mut candidate = first;
        loop {
            if let Some(address) = address_of(candidate, family.prefix.bits)
                && family.prefix.is_host(address)
                && !reserved.contains(&address)
                && !taken.contains(&object_name(network, address))
            {
                return Ok(address);
            }
            if candidate >= end {
                break;
            }
            candidate += 1;
        }
    }
    let ranges: Vec<String> = family.plan.ranges.iter().map(|r| format!("{} to {}", r.first, r.last)).collect();
    Err(AddressError::Exhausted {
        network: network.to_owned(),
        family: family.name,
        field: family.field,
        ranges: if ranges.is_empty() {
            "no ranges".to_owned()
        } else {
            ranges.join(", ")
        },
    })
}

/// An address with what a host needs to use it.
fn complete(address: IpAddr, family: &Family<'_>) -> EndpointAddress {
    EndpointAddress {
        address: address.to_string(),
        prefix_length: family.prefix.length(),
        gateway: family.plan.gateway.clone(),
        dns: family.plan.dns.clone(),
    }
}

/// Chooses addresses on a network: every wish; and of each family with ranges and without a wish, the lowest that is free. `taken`: names of existing BareMetalAddresses
/// ([`object_name`]) that belong to others; `own`: addresses that already belong to this endpoint (a crash lay between their creation and the endpoint's status).
///
/// # Errors
/// [`AddressError`] as its variants say.
pub fn allocate(
    network: &BareMetalNetwork,
    taken: &BTreeSet<String>,
    own: &[IpAddr],
    wishes: &[String],
) -> Result<Vec<EndpointAddress>, AddressError> {
    let name = network.metadata.name.clone().unwrap_or_default();
    let families = families(&name, &network.spec)?;
    let mut chosen: Vec<EndpointAddress> = Vec::new();
    let mut served = BTreeSet::new();
    for wish in wishes {
        let bad = |problem| AddressError::BadWish {
            network: name.clone(),
            address: wish.chars().take(64).collect(),
            problem,
        };
        let address: IpAddr = wish.parse().map_err(|_| bad("it is not an IP address"))?;
        let family = families
            .iter()
            .find(|f| f.prefix.contains(address))
            .ok_or_else(|| bad("it lies outside of the network's prefixes"))?;
        if !family.prefix.is_host(address) || reserved(family.plan).contains(&address) {
            return Err(bad("it is the network's own, its gateway's or a name server's address"));
        }
        if taken.contains(&object_name(&name, address)) {
            return Err(AddressError::Taken {
                network: name.clone(),
                address,
            });
        }
        served.insert(family.field);
        let address = complete(address, family);
        if !chosen.contains(&address) {
            chosen.push(address);
        }
    }
    for family in families.iter().filter(|f| !served.contains(f.field)) {
        let mine = own
            .iter()
            .copied()
            .find(|a| family.prefix.contains(*a) && !taken.contains(&object_name(&name, *a)));
        let address = match mine {
            Some(address) => address,
            None if family.plan.ranges.is_empty() => continue,
            None => lowest_free(&name, family, taken)?,
        };
        chosen.push(complete(address, family));
    }
    Ok(chosen)
}

/// The BareMetalAddress that allocates one address for an endpoint.
///
/// # Errors
/// An address that [`allocate`] did not make.
pub fn object(
    network: &BareMetalNetwork,
    address: &EndpointAddress,
    endpoint: &BareMetalEndpoint,
    instance_uid: &str,
) -> Result<BareMetalAddress, AddressError> {
    let network_name = network.metadata.name.clone().unwrap_or_default();
    let ip: IpAddr = address.address.parse().map_err(|_| AddressError::BadWish {
        network: network_name.clone(),
        address: address.address.clone(),
        problem: "it is not an IP address",
    })?;
    let namespace = endpoint.metadata.namespace.clone().unwrap_or_default();
    Ok(BareMetalAddress {
        metadata: ObjectMeta {
            name: Some(object_name(&network_name, ip)),
            ..ObjectMeta::default()
        },
        spec: BareMetalAddressSpec {
            address: ip.to_string(),
            network_name,
            // So that a system that asks DHCP all the same, and the machine's firmware, get this address.
            mac: Some(endpoint.spec.mac),
            hardware_name: endpoint.spec.hardware_name.clone(),
            instance: format!("{namespace}/{}", endpoint.spec.instance_name),
            instance_uid: instance_uid.to_owned(),
            endpoint_name: endpoint.metadata.name.clone().unwrap_or_default(),
        },
    })
}
