//! What a BareMetalNetwork means for IPv6: to the DHCPv6 server of the crate `dhcp`, and in router advertisements. Pure.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv6Addr},
};

use api::{BareMetalNetwork, BareMetalNetworkSpec, network::AddressPlan};
use dhcp::{
    ra::{Advertisement, Prefix as Advertised},
    v4::server::MAX_PLACES,
    v6::server::{Options, Reservation, Settings, Subnet, Times, Who},
};
use lifecycle::address::Prefix;

use super::super::served::Inputs;
use crate::objects::addresses::Taken;

/// For which a prefix holds without a further advertisement, in seconds: a day.
const VALID: u32 = 86_400;
/// For which addresses made of it are preferred, in seconds.
const PREFERRED: u32 = 14_400;
/// For which name servers hold, in seconds: three times as long as advertisements are apart at most (RFC 8106, 5.1).
const DNS: u32 = 1800;

/// Why addresses of a network cannot be given out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::dhcp) enum PlanError {
    #[error("spec.ipv6.prefix {0:?} is no IPv6 prefix of 16 to 126 bits")]
    Prefix(String),
    #[error("spec.ipv6.dynamicRanges: {0} to {1} is no range of addresses within the prefix")]
    Range(String, String),
    #[error("spec.ipv6.dynamicRanges: {0} ranges are given, and one is possible")]
    Ranges(usize),
    #[error("spec.ipv6.dynamicRanges: the {0} addresses from {1} on are more than the {MAX_PLACES} that can be leased")]
    Size(u128, Ipv6Addr),
    #[error("spec.ipv6.dynamicRanges and spec.ipv6.ranges both hold addresses from {0} on: what instances get, no other machine may lease")]
    Overlap(Ipv6Addr),
    #[error("spec.ipv6.gateway {0:?} is no IPv6 address")]
    Gateway(String),
}

/// Of this family.
fn ipv6_of(address: &IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    }
}

/// All that a server is made from.
pub(in crate::dhcp) fn parts(spec: &BareMetalNetworkSpec, plan: &AddressPlan, inputs: &Inputs) -> Result<(Settings, Subnet), PlanError> {
    let settings = Settings {
        duid: inputs.duid.to_vec(),
        peers: inputs.peers.iter().map(|peer| peer.duid.to_vec()).collect(),
    };
    let mut subnet = subnet(spec, plan, &inputs.taken, &inputs.servers(ipv6_of))?;
    // Replicas side by side would each keep an address for it.
    subnet.rapid_commit = inputs.peers.is_empty();
    Ok((settings, subnet))
}

/// First address and length of the plan's prefix.
fn network_of(plan: &AddressPlan) -> Result<(u128, u8), PlanError> {
    let wrong = || PlanError::Prefix(plan.prefix.clone());
    let (address, _) = plan.prefix.split_once('/').ok_or_else(wrong)?;
    let address: Ipv6Addr = address.parse().map_err(|_| wrong())?;
    let length = Prefix::parse(&plan.prefix)
        .map(|prefix| prefix.length())
        .filter(|length| (16..=126).contains(length))
        .ok_or_else(wrong)?;
    Ok((u128::from(address) >> (128 - length) << (128 - length), length))
}

/// The addresses for whoever comes: the first, and how many.
fn dynamic(plan: &AddressPlan, network: u128, length: u8) -> Result<Option<(Ipv6Addr, u32)>, PlanError> {
    let range = match plan.dynamic_ranges.as_slice() {
        [] => return Ok(None),
        [range] => range,
        more => return Err(PlanError::Ranges(more.len())),
    };
    let wrong = || PlanError::Range(range.first.clone(), range.last.clone());
    let end = |text: &str| text.parse::<Ipv6Addr>().map(u128::from).map_err(|_| wrong());
    // The first address of a network is every router's (RFC 4291, 2.6.1).
    let (first, last) = (end(&range.first)?.max(network + 1), end(&range.last)?);
    if first > last || first >> (128 - length) != network >> (128 - length) || last >> (128 - length) != network >> (128 - length) {
        return Err(wrong());
    }
    // An instance's range that cannot be read gives nobody an address.
    let instances = plan.ranges.iter().filter_map(|range| {
        let (first, last): (Ipv6Addr, Ipv6Addr) = (range.first.parse().ok()?, range.last.parse().ok()?);
        Some((u128::from(first), u128::from(last)))
    });
    if let Some(common) = instances
        .filter(|(from, to)| *from <= last && first <= *to)
        .map(|(from, _)| from.max(first))
        .min()
    {
        return Err(PlanError::Overlap(common.into()));
    }
    let count = last - first + 1;
    match u32::try_from(count) {
        Ok(count) if count <= MAX_PLACES => Ok(Some((first.into(), count))),
        _ => Err(PlanError::Size(count, first.into())),
    }
}

/// `taken`: addresses that are somebody's. `ours`: addresses of the replicas.
fn subnet(spec: &BareMetalNetworkSpec, plan: &AddressPlan, taken: &[Taken], ours: &BTreeSet<Ipv6Addr>) -> Result<Subnet, PlanError> {
    let (network, length) = network_of(plan)?;
    let mut subnet = Subnet::new(network.into(), length);
    subnet.range = dynamic(plan, network, length)?;
    let gateway = plan.gateway.as_ref();
    let gateway = gateway.map(|text| text.parse::<Ipv6Addr>().map_err(|_| PlanError::Gateway(text.clone())));
    subnet.options = Options {
        dns: name_servers(plan).collect(),
        ..Options::default()
    };
    subnet.times = Times {
        // T1 is half of it: a machine renews at half of its lease, as with IPv4.
        preferred: spec.lease_seconds,
        valid: spec.lease_seconds,
        ..Times::default()
    };
    let mut seen = HashSet::new();
    for (address, mac) in taken.iter().filter_map(|taken| Some((ipv6_of(&taken.address)?, taken.mac))) {
        let usable = u128::from(address) != network && u128::from(address) >> (128 - length) == network >> (128 - length);
        match mac {
            // Of two reservations for one machine the lower address counts, in every replica alike.
            Some(mac) if usable && seen.insert(mac) => subnet.reservations.push(Reservation {
                who: Who::Mac(mac.0),
                address,
            }),
            _ => subnet.excluded.push(address),
        }
    }
    subnet.excluded.extend(gateway.transpose()?);
    subnet.excluded.extend(&subnet.options.dns);
    subnet.excluded.extend(ours);
    Ok(subnet)
}

fn name_servers(plan: &AddressPlan) -> impl Iterator<Item = Ipv6Addr> {
    plan.dns.iter().filter_map(|address| address.parse().ok())
}

/// What is advertised on a link with these networks, of which addresses are given out; `None`: none of them has a plan for IPv6.
///
/// We are never a router: the lifetime is 0, and where there is a gateway, it advertises itself. Hosts make addresses of a prefix by themselves (A) only where there is no range for
/// whoever comes; they ask for one (M) where there is, or instances have addresses reserved.
pub(super) fn advertisement(networks: &[impl AsRef<BareMetalNetwork>], mac: Option<[u8; 6]>) -> Option<Advertisement> {
    let mut advertisement = Advertisement {
        hop_limit: 64,
        other: true,
        source: mac,
        dns_lifetime: DNS,
        ..Advertisement::default()
    };
    for network in networks.iter().map(AsRef::as_ref) {
        let Some(plan) = &network.spec.ipv6 else { continue };
        let Ok((first, length)) = network_of(plan) else { continue };
        let stateless = plan.dynamic_ranges.is_empty();
        advertisement.managed |= !stateless || !plan.ranges.is_empty();
        advertisement.mtu = advertisement.mtu.or(network.spec.mtu.map(u32::from));
        advertisement.dns.extend(name_servers(plan));
        advertisement.prefixes.push(Advertised {
            network: first.into(),
            length,
            on_link: true,
            autonomous: stateless && length == 64,
            valid: VALID,
            preferred: PREFERRED,
        });
    }
    (!advertisement.prefixes.is_empty()).then_some(advertisement)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use agent_protocol::identity::MacAddress;
    use api::{DhcpMode, network::AddressRange};
    use dhcp::v6::server::Server;

    use super::*;

    fn at(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, last)
    }

    fn range(first: &str, last: &str) -> AddressRange {
        AddressRange {
            first: first.to_owned(),
            last: last.to_owned(),
        }
    }

    fn spec(change: impl FnOnce(&mut AddressPlan)) -> BareMetalNetworkSpec {
        let mut plan = AddressPlan {
            prefix: "2001:db8:0:7::9/64".to_owned(),
            dynamic_ranges: vec![range("2001:db8:0:7::1000", "2001:db8:0:7::1fff")],
            gateway: Some("2001:db8:0:7::1001".to_owned()),
            dns: vec!["10.7.0.53".to_owned(), at(0x53).to_string()],
            ..AddressPlan::default()
        };
        change(&mut plan);
        BareMetalNetworkSpec {
            ipv6: Some(plan),
            dhcp: DhcpMode::Full,
            mtu: Some(1400),
            lease_seconds: 120,
            ..BareMetalNetworkSpec::default()
        }
    }

    fn of(spec: &BareMetalNetworkSpec, taken: &[Taken]) -> Result<Subnet, PlanError> {
        subnet(spec, spec.ipv6.as_ref().unwrap(), taken, &BTreeSet::from([at(2)]))
    }

    #[test]
    fn an_object_becomes_a_network_that_is_served() {
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let taken = [(at(0x20), Some(mac)), (at(0x21), Some(mac)), (at(0x1002), None)].map(|(address, mac)| Taken {
            address: address.into(),
            mac,
        });
        let subnet = of(&spec(|_| {}), &taken).unwrap();
        assert_eq!((subnet.network, subnet.prefix), (at(0), 64));
        assert_eq!(subnet.range, Some((at(0x1000), 0x1000)));
        assert_eq!(subnet.options.dns, [at(0x53)]);
        assert_eq!((subnet.times.preferred, subnet.times.valid), (120, 120));
        assert_eq!(
            subnet.reservations,
            [Reservation {
                who: Who::Mac(mac.0),
                address: at(0x20)
            }]
        );
        assert_eq!(subnet.excluded, [at(0x21), at(0x1002), at(0x1001), at(0x53), at(2)]);
        let settings = Settings {
            duid: vec![0, 4, 1],
            peers: Vec::new(),
        };
        let server = Server::new(settings, vec![subnet]).unwrap();
        assert_eq!(server.counts().free, 0x1000 - 2, "without the gateway, and somebody's");
    }

    #[test]
    fn what_makes_no_sense_is_told_by_its_field() {
        let refused = |change: &dyn Fn(&mut AddressPlan)| of(&spec(change), &[]).unwrap_err().to_string();
        for (first, last) in [
            ("2001:db8:0:7::9", "2001:db8:0:7::8"),
            ("2001:db8:0:8::1", "2001:db8:0:8::8"),
            ("10.7.0.1", "2001:db8:0:7::8"),
        ] {
            let text = refused(&|plan| plan.dynamic_ranges = vec![range(first, last)]);
            assert!(
                text.starts_with("spec.ipv6.dynamicRanges: ") && text.contains("is no range"),
                "{text}"
            );
        }
        let text = refused(&|plan| plan.dynamic_ranges.push(range("2001:db8:0:7::1", "2001:db8:0:7::2")));
        assert!(text.contains("one is possible"), "{text}");
        let text = refused(&|plan| plan.dynamic_ranges = vec![range("2001:db8:0:7::1", "2001:db8:0:7:1::")]);
        assert!(text.contains("that can be leased"), "{text}");
        let text = refused(&|plan| plan.ranges = vec![range("2001:db8:0:7::1800", "2001:db8:0:7::1801")]);
        assert!(text.contains("both hold addresses from 2001:db8:0:7::1800"), "{text}");
        assert!(refused(&|plan| plan.gateway = Some("10.7.0.1".to_owned())).starts_with("spec.ipv6.gateway"));
        assert!(refused(&|plan| plan.prefix = "10.7.0.0/24".to_owned()).starts_with("spec.ipv6.prefix"));
        assert!(refused(&|plan| plan.prefix = "2001:db8::/127".to_owned()).starts_with("spec.ipv6.prefix"));
    }

    #[test]
    fn we_advertise_prefixes_and_never_a_router() {
        let told = |change: &dyn Fn(&mut AddressPlan)| {
            let network = Arc::new(BareMetalNetwork::new("lab", spec(change)));
            advertisement(&[network], Some([2; 6])).unwrap()
        };
        let stateful = told(&|_| {});
        assert_eq!(
            (stateful.managed, stateful.other, stateful.router_lifetime, stateful.mtu),
            (true, true, 0, Some(1400))
        );
        let prefix = stateful.prefixes[0];
        assert_eq!(
            (prefix.network, prefix.length, prefix.on_link, prefix.autonomous),
            (at(0), 64, true, false)
        );
        assert_eq!((stateful.dns, stateful.source), (vec![at(0x53)], Some([2; 6])));
        let stateless = told(&|plan| plan.dynamic_ranges.clear());
        assert_eq!((stateless.managed, stateless.prefixes[0].autonomous), (false, true));
        let reserved = told(&|plan| {
            plan.dynamic_ranges.clear();
            plan.ranges = vec![range("2001:db8:0:7::5", "2001:db8:0:7::9")];
        });
        assert_eq!(
            (reserved.managed, reserved.prefixes[0].autonomous),
            (true, true),
            "instances ask, others need not"
        );
        let long = told(&|plan| {
            plan.dynamic_ranges.clear();
            plan.prefix = "2001:db8:0:7::/80".to_owned();
        });
        assert!(
            !long.prefixes[0].autonomous,
            "hosts make addresses of 64 bits only (RFC 4862, 5.5.3)"
        );
        let none: [Arc<BareMetalNetwork>; 1] = [Arc::new(BareMetalNetwork::new("v4", BareMetalNetworkSpec::default()))];
        assert_eq!(advertisement(&none, None), None);
    }
}
