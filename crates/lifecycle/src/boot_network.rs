//! How does an agent get onto its network: which VLAN, MTU and bond is it told?
//!
//! What the machine's hardware object says counts whole; else what the network says that firmware booted from. VLAN and MTU are always a network's own: of the one that is named, else of that one.

use agent_protocol::link::Link;
use api::{BareMetalHardware, BareMetalNetwork};

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// What the agent is told.
    pub link: Link,
    /// Prefixes of the network that it goes on in, where its address may be another one than its firmware's.
    pub elsewhere: Vec<String>,
    /// A network that is named and not there: then nothing of it is told, because half of what was meant may be worse than none.
    pub missing: Option<String>,
}

/// Decides. `booted_from` is the network of the address that firmware had, `find` looks one up by its name.
pub fn told<N: AsRef<BareMetalNetwork>>(
    hardware: Option<&BareMetalHardware>,
    booted_from: Option<&BareMetalNetwork>,
    find: impl Fn(&str) -> Option<N>,
) -> Told {
    let of_network = || booted_from?.spec.boot_network.as_ref();
    let wish = hardware.and_then(|h| h.spec.boot_network.as_ref()).or_else(of_network);
    let named = wish.and_then(|w| w.network_name.as_deref());
    let found = named.map(|name| (name, find(name)));
    if let Some((name, None)) = &found {
        return Told {
            missing: Some((*name).to_owned()),
            ..Told::default()
        };
    }
    let found = found.and_then(|(_, network)| network);
    let network = found.as_ref().map(AsRef::as_ref).or(booted_from);
    let bond = wish.and_then(|w| w.bond.clone());
    let name = |network: &BareMetalNetwork| network.metadata.name.clone();
    let stays = bond.is_none() && network.map(name) == booted_from.map(name);
    let plans = network.iter().flat_map(|n| [&n.spec.ipv4, &n.spec.ipv6]).flatten();
    Told {
        elsewhere: if stays {
            Vec::new()
        } else {
            plans.map(|p| p.prefix.clone()).collect()
        },
        link: Link {
            vlan: network.and_then(|n| n.spec.vlan),
            mtu: network.and_then(|n| n.spec.mtu),
            bond,
        },
        missing: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::link::{Bond, BondMode};
    use api::{BareMetalHardwareSpec, BareMetalNetworkSpec, BootNetwork, network::AddressPlan};
    use std::sync::Arc;

    fn network(name: &str, prefix: &str, vlan: Option<u16>, mtu: Option<u16>, boot_network: Option<BootNetwork>) -> Arc<BareMetalNetwork> {
        let spec = BareMetalNetworkSpec {
            ipv4: Some(AddressPlan {
                prefix: prefix.to_owned(),
                ..AddressPlan::default()
            }),
            vlan,
            mtu,
            boot_network,
            ..BareMetalNetworkSpec::default()
        };
        Arc::new(BareMetalNetwork::new(name, spec))
    }

    fn to(name: &str) -> BootNetwork {
        BootNetwork {
            network_name: Some(name.to_owned()),
            bond: None,
        }
    }

    fn bond(mode: BondMode) -> Bond {
        Bond {
            mode,
            members: Vec::new(),
            lacp_rate: None,
            transmit_hash: None,
        }
    }

    fn hardware(boot_network: Option<BootNetwork>) -> BareMetalHardware {
        let spec = BareMetalHardwareSpec {
            boot_network,
            ..BareMetalHardwareSpec::default()
        };
        BareMetalHardware::new("a", spec)
    }

    #[test]
    fn the_machine_outweighs_its_network_and_the_named_network_has_the_numbers() {
        let native = network("native", "10.1.0.0/24", None, None, Some(to("machines")));
        let machines = network("machines", "10.42.0.0/24", Some(42), Some(9000), None);
        let find = |name: &str| {
            [&native, &machines]
                .into_iter()
                .find(|n| n.metadata.name.as_deref() == Some(name))
                .cloned()
        };
        let of = |hardware: Option<&BareMetalHardware>, from: Option<&BareMetalNetwork>| told(hardware, from, find);

        assert_eq!(of(None, None), Told::default(), "an address of no network");
        let unknown = of(None, Some(&native));
        assert_eq!((unknown.link.vlan, unknown.link.mtu), (Some(42), Some(9000)));
        assert_eq!(unknown.elsewhere, ["10.42.0.0/24"]);
        assert_eq!(of(Some(&hardware(None)), Some(&native)), unknown);
        assert_eq!(of(Some(&hardware(Some(BootNetwork::default()))), Some(&native)), Told::default());

        let bonded = BootNetwork {
            network_name: None,
            bond: Some(bond(BondMode::Lacp)),
        };
        let own = of(Some(&hardware(Some(bonded.clone()))), Some(&native));
        assert_eq!((own.link.vlan, own.link.bond), (None, Some(bond(BondMode::Lacp))));
        assert_eq!(own.elsewhere, ["10.1.0.0/24"], "a bond of other NICs gets another address");
        // Firmware tags its frames, so the agent does.
        let tagging = of(None, Some(&machines));
        assert_eq!((tagging.link.vlan, tagging.elsewhere.len()), (Some(42), 0));
    }

    #[test]
    fn a_network_that_is_not_there_is_named_and_nothing_is_told() {
        let wish = BootNetwork {
            bond: Some(bond(BondMode::ActiveBackup)),
            ..to("machnies")
        };
        let told = told(Some(&hardware(Some(wish))), None, |_| None::<Arc<BareMetalNetwork>>);
        assert_eq!((told.missing.as_deref(), told.link), (Some("machnies"), Link::default()));
    }
}
