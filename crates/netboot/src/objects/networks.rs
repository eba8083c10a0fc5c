//! BareMetalNetworks as their watch brought them: in which one an address is, which machines are neighbours, and whether they may share what they write.
//!
//! A machine belongs to the network with the longest prefix that its address is of. Where there is none, the machines of a /24 (IPv4) or a /64
//! (IPv6) are taken for neighbours: that is what most networks are, and a machine refuses whoever is not of its own prefix anyway.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use api::{BareMetalNetwork, ImageSharing};
use kube::ResourceExt;
use lifecycle::address::Prefix;

use crate::limits::source_of;

struct Known {
    prefixes: Vec<Prefix>,
    network: Arc<BareMetalNetwork>,
}

/// Who is whose neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Neighbourhood {
    /// A BareMetalNetwork, by name.
    Network(String),
    /// An address with the host's part cleared.
    Around(IpAddr),
}

/// See the module.
#[derive(Default)]
pub(crate) struct Networks {
    table: RwLock<HashMap<String, Known>>,
    listed: AtomicBool,
}

impl Networks {
    /// A whole list was seen.
    pub(crate) fn listed(&self) {
        self.listed.store(true, Ordering::Release);
    }

    pub(crate) fn apply(&self, network: BareMetalNetwork) {
        let name = network.name_any();
        let plans = [&network.spec.ipv4, &network.spec.ipv6].into_iter().flatten();
        let known = Known {
            // One that is none is told by the operator, on the network itself.
            prefixes: plans.filter_map(|plan| Prefix::parse(&plan.prefix)).collect(),
            network: Arc::new(network),
        };
        self.table.write().unwrap_or_else(PoisonError::into_inner).insert(name, known);
    }

    pub(crate) fn remove(&self, name: &str) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(crate) fn retain(&self, names: &HashSet<String>) {
        self.table
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| names.contains(name));
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Known>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn named(&self, name: &str) -> Option<Arc<BareMetalNetwork>> {
        self.read().get(name).map(|known| known.network.clone())
    }

    /// The network that an address is of.
    pub(crate) fn containing(&self, address: IpAddr) -> Option<Arc<BareMetalNetwork>> {
        let table = self.read();
        let address = address.to_canonical();
        let length = |known: &Known| known.prefixes.iter().filter(|p| p.contains(address)).map(Prefix::length).max();
        let found = table.iter().filter_map(|(name, known)| Some((length(known)?, name, known)));
        // Of two networks with one prefix the first by name, so that all requests get the same answer.
        let (_, _, known) = found.max_by_key(|(length, name, _)| (*length, std::cmp::Reverse(name.as_str())))?;
        Some(known.network.clone())
    }

    /// Where a machine of this address is, and whether machines share there. Until the networks are known nobody does.
    pub(crate) fn of(&self, address: IpAddr) -> (Neighbourhood, ImageSharing) {
        if let Some(network) = self.containing(address) {
            return (Neighbourhood::Network(network.name_any()), network.spec.image_sharing);
        }
        let around = match source_of(address) {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                IpAddr::V4(Ipv4Addr::new(a, b, c, 0))
            }
            v6 @ IpAddr::V6(_) => v6,
        };
        let sharing = if self.listed.load(Ordering::Acquire) {
            ImageSharing::Enabled
        } else {
            ImageSharing::Disabled
        };
        (Neighbourhood::Around(around), sharing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{BareMetalNetworkSpec, network::AddressPlan};

    fn network(name: &str, ipv4: &str, sharing: ImageSharing) -> BareMetalNetwork {
        let plan = AddressPlan {
            prefix: ipv4.to_owned(),
            ..AddressPlan::default()
        };
        let spec = BareMetalNetworkSpec {
            ipv4: Some(plan),
            image_sharing: sharing,
            ..BareMetalNetworkSpec::default()
        };
        BareMetalNetwork::new(name, spec)
    }

    fn at(networks: &Networks, address: &str) -> (Neighbourhood, ImageSharing) {
        networks.of(address.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_says_whose_neighbour_a_machine_is() {
        let networks = Networks::default();
        networks.apply(network("site", "10.0.0.0/8", ImageSharing::Disabled));
        networks.apply(network("rack", "10.1.2.0/23", ImageSharing::Enabled));
        let rack = (Neighbourhood::Network("rack".to_owned()), ImageSharing::Enabled);
        assert_eq!(at(&networks, "10.1.2.9"), rack);
        assert_eq!(at(&networks, "10.1.3.9"), rack);
        assert_eq!(
            at(&networks, "10.9.9.9"),
            (Neighbourhood::Network("site".to_owned()), ImageSharing::Disabled)
        );
        networks.remove("site");
        networks.retain(&HashSet::from(["rack".to_owned()]));
        assert_eq!(at(&networks, "10.9.9.9").1, ImageSharing::Disabled, "not all are known yet");
        networks.listed();
        let around = |text: &str| (Neighbourhood::Around(text.parse().unwrap()), ImageSharing::Enabled);
        assert_eq!(at(&networks, "10.9.9.9"), around("10.9.9.0"));
        assert_eq!(at(&networks, "::ffff:10.9.9.9"), around("10.9.9.0"));
        assert_eq!(at(&networks, "2001:db8:0:1:2::3"), around("2001:db8:0:1::"));
    }
}
