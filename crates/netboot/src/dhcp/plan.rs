//! What the crate `dhcp` is told about a BareMetalNetwork, for IPv4 (for IPv6: [`super::v6`]): pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr},
};

use api::{BareMetalNetwork, BareMetalNetworkSpec, network::AddressPlan};
use dhcp::v4::server::{Options, Reservation, Settings, Subnet, Times, Who};
use lifecycle::address::Prefix;

use super::served::Inputs;
use crate::objects::addresses::Taken;

/// Why addresses of a network cannot be given out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    /// Prefix.
    #[error("spec.ipv4.prefix {0:?} is no IPv4 prefix of at most 30 bits")]
    Prefix(String),
    /// A range.
    #[error("spec.ipv4.dynamicRanges: {0} to {1} is no range of addresses")]
    Range(String, String),
    /// A server, gateway or the like.
    #[error("{0:?} is no IPv4 address")]
    Address(String),
}

fn ipv4(text: &str) -> Result<Ipv4Addr, PlanError> {
    text.parse().map_err(|_| PlanError::Address(text.to_owned()))
}

/// First and last address that a host may have, and the length of the prefix.
fn hosts(plan: &AddressPlan) -> Result<(u32, u32, u8), PlanError> {
    let wrong = || PlanError::Prefix(plan.prefix.clone());
    let (address, _) = plan.prefix.split_once('/').ok_or_else(wrong)?;
    let length = Prefix::parse(&plan.prefix)
        .map(|p| p.length())
        .filter(|l| (1..=30).contains(l))
        .ok_or_else(wrong)?;
    let mask = u32::MAX << (32 - length);
    let network = u32::from(ipv4(address).map_err(|_| wrong())?) & mask;
    Ok((network + 1, (network | !mask) - 1, length))
}

/// Of this family.
pub(super) fn ipv4_of(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// All that a server is made from.
pub(super) fn parts(spec: &BareMetalNetworkSpec, plan: &AddressPlan, inputs: &Inputs) -> Result<(Settings, Subnet), PlanError> {
    let settings = Settings {
        peers: inputs.peers.iter().flat_map(|peer| &peer.addresses).filter_map(ipv4_of).collect(),
        subnet_selection: false,
    };
    Ok((settings, subnet(spec, plan, &inputs.taken, &inputs.servers(ipv4_of))?))
}

/// `taken`: addresses that are somebody's. `ours`: addresses of the replicas.
fn subnet(spec: &BareMetalNetworkSpec, plan: &AddressPlan, taken: &[Taken], ours: &BTreeSet<Ipv4Addr>) -> Result<Subnet, PlanError> {
    let (first, last, length) = hosts(plan)?;
    let mut subnet = Subnet::new((first - 1).into(), length);
    for range in &plan.dynamic_ranges {
        let wrong = || PlanError::Range(range.first.clone(), range.last.clone());
        let end = |text: &str| ipv4(text).map(u32::from).map_err(|_| wrong());
        // Network and broadcast address are nobody's.
        let (from, to) = (end(&range.first)?.max(first), end(&range.last)?.min(last));
        if from > to {
            return Err(wrong());
        }
        subnet.ranges.push((from.into(), to.into()));
    }
    let list = |addresses: &[String]| addresses.iter().map(|a| ipv4(a)).collect::<Result<Vec<_>, _>>();
    subnet.options = Options {
        routers: list(plan.gateway.as_slice())?,
        dns: plan.dns.iter().filter_map(|a| a.parse().ok()).collect(),
        mtu: spec.mtu,
        ..Options::default()
    };
    let lease = spec.lease_seconds;
    subnet.times = Times {
        lease,
        // Nobody may hold an address for longer than the network's admin said.
        longest: lease,
        shortest: lease.min(300),
        ..Times::default()
    };
    let mut seen = HashSet::new();
    let taken = taken.iter().filter_map(|taken| Some((ipv4_of(&taken.address)?, taken.mac)));
    for (address, mac) in taken {
        let usable = (first..=last).contains(&u32::from(address));
        match mac {
            // Of two reservations for one machine the lower address counts, in every replica alike.
            Some(mac) if usable && seen.insert(mac) => subnet.reservations.push(Reservation {
                who: Who::Mac(mac.0),
                address,
            }),
            _ => subnet.excluded.push(address),
        }
    }
    subnet.excluded.extend(&subnet.options.routers);
    subnet.excluded.extend(&subnet.options.dns);
    subnet.excluded.extend(ours);
    Ok(subnet)
}

/// Whether an address lies in one of the network's prefixes.
pub(super) fn holds(network: &BareMetalNetwork, address: IpAddr) -> bool {
    let plans = [&network.spec.ipv4, &network.spec.ipv6].into_iter().flatten();
    let mut prefixes = plans.filter_map(|plan| Prefix::parse(&plan.prefix));
    prefixes.any(|prefix| prefix.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::identity::MacAddress;
    use api::{BareMetalNetworkSpec, DhcpMode, network::AddressRange};

    fn network(first: &str, last: &str) -> BareMetalNetwork {
        let plan = AddressPlan {
            prefix: "10.7.0.9/24".to_owned(),
            dynamic_ranges: vec![AddressRange {
                first: first.to_owned(),
                last: last.to_owned(),
            }],
            gateway: Some("10.7.0.1".to_owned()),
            dns: vec!["10.7.0.53".to_owned(), "2001:db8::53".to_owned()],
            ..AddressPlan::default()
        };
        let spec = BareMetalNetworkSpec {
            ipv4: Some(plan),
            dhcp: DhcpMode::Full,
            mtu: Some(9000),
            lease_seconds: 120,
            ..BareMetalNetworkSpec::default()
        };
        BareMetalNetwork::new("lab", spec)
    }

    fn of(network: &BareMetalNetwork, taken: &[Taken], ours: &BTreeSet<Ipv4Addr>) -> Result<Subnet, PlanError> {
        subnet(&network.spec, network.spec.ipv4.as_ref().unwrap(), taken, ours)
    }

    #[test]
    fn an_object_becomes_a_network_that_is_served() {
        let at = |last| Ipv4Addr::new(10, 7, 0, last);
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let taken = [
            Taken {
                address: at(20).into(),
                mac: Some(mac),
            },
            Taken {
                address: at(21).into(),
                mac: Some(mac),
            },
            Taken {
                address: at(101).into(),
                mac: None,
            },
        ];
        let subnet = of(&network("10.7.0.0", "10.7.0.255"), &taken, &BTreeSet::from([at(2)])).unwrap();
        assert_eq!((subnet.network, subnet.prefix), (at(0), 24));
        assert_eq!(subnet.ranges, [(at(1), at(254))]);
        assert_eq!(subnet.options.routers, [at(1)]);
        assert_eq!((subnet.options.dns.as_slice(), subnet.options.mtu), (&[at(53)][..], Some(9000)));
        assert_eq!((subnet.times.shortest, subnet.times.lease, subnet.times.longest), (120, 120, 120));
        assert_eq!(subnet.reservations.len(), 1);
        assert_eq!(subnet.reservations[0].address, at(20));
        assert_eq!(subnet.excluded, [at(21), at(101), at(1), at(53), at(2)]);
        dhcp::v4::server::Server::new(dhcp::v4::server::Settings::default(), vec![subnet]).unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let refused = |network| of(&network, &[], &BTreeSet::new()).unwrap_err();
        assert!(matches!(refused(network("10.7.0.9", "10.7.0.8")), PlanError::Range(..)));
        assert!(matches!(refused(network("10.8.0.1", "10.8.0.8")), PlanError::Range(..)));
        assert!(matches!(refused(network("::1", "10.7.0.8")), PlanError::Range(..)));
        let mut v6 = network("10.7.0.1", "10.7.0.8");
        v6.spec.ipv4.as_mut().unwrap().prefix = "2001:db8::/64".to_owned();
        assert!(matches!(refused(v6), PlanError::Prefix(_)));
    }
}
