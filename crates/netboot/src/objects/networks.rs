//! BareMetalNetworks as their watch brought them: in which one an address is, which machines are neighbours, whether they may share what they write, and which DHCP
//! service they get.
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

use api::{BareMetalNetwork, DhcpMode, ImageSharing};
use kube::ResourceExt;
use lifecycle::address::Prefix;
use tokio::sync::Notify;

use super::cache::is_newer;
use crate::limits::source_of;

struct Known {
    name: Arc<str>,
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
    changed: Notify,
}

/// The network with the longest prefix that holds an address; of two with one prefix the first by name, so that all requests get the same answer.
fn find(table: &HashMap<String, Known>, address: IpAddr) -> Option<&Known> {
    let length = |known: &Known| known.prefixes.iter().filter(|p| p.contains(address)).map(Prefix::length).max();
    let found = table.values().filter_map(|known| Some((length(known)?, known)));
    let best = found.max_by_key(|(length, known)| (*length, std::cmp::Reverse(known.name.clone())))?;
    Some(best.1)
}

impl Networks {
    /// Whether all networks are known.
    pub(crate) fn are_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    /// A whole list was seen.
    pub(crate) fn listed(&self) {
        self.listed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until something may have changed. For one waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The network of an address, and which DHCP service it gets. `None`: nobody described it, or the networks are not known yet.
    pub(crate) fn dhcp(&self, address: IpAddr) -> Option<(Arc<str>, DhcpMode)> {
        find(&self.read(), address).map(|known| (known.name.clone(), known.network.spec.dhcp))
    }

    /// Networks in which addresses are given out.
    pub(crate) fn full(&self) -> Vec<Arc<BareMetalNetwork>> {
        let table = self.read();
        let all = table.values().map(|known| &known.network);
        all.filter(|network| network.spec.dhcp == DhcpMode::Full).cloned().collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<BareMetalNetwork>> {
        self.read().values().map(|known| known.network.clone()).collect()
    }

    /// As the watch brought it. An older revision never replaces a newer one, which a write's answer may have brought.
    pub(crate) fn apply(&self, network: BareMetalNetwork) {
        self.put(network, |old, new| old.is_none_or(|old| is_newer(old, new)));
    }

    /// As a write of ours was answered. One that the watch does not show any more is gone, whatever the answer says.
    pub(crate) fn written(&self, network: BareMetalNetwork) {
        self.put(network, |old, new| {
            old.is_some_and(|old| old.metadata.uid == new.metadata.uid && is_newer(old, new))
        });
    }

    fn put(&self, network: BareMetalNetwork, may: impl Fn(Option<&BareMetalNetwork>, &BareMetalNetwork) -> bool) {
        let name = network.name_any();
        let plans = [&network.spec.ipv4, &network.spec.ipv6].into_iter().flatten();
        let known = Known {
            name: name.as_str().into(),
            // One that is none is told by the operator, on the network itself.
            prefixes: plans.filter_map(|plan| Prefix::parse(&plan.prefix)).collect(),
            network: Arc::new(network),
        };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if !may(table.get(&name).map(|old| old.network.as_ref()), &known.network) {
            return;
        }
        table.insert(name, known);
        drop(table);
        self.changed.notify_one();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.changed.notify_one();
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
        find(&self.read(), address.to_canonical()).map(|known| known.network.clone())
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
        let sharing = if self.are_listed() {
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

    #[test]
    fn an_older_revision_replaces_nothing_and_a_writes_answer_brings_nothing_back() {
        let networks = Networks::default();
        let revision = |uid: &str, version: &str| {
            let mut network = network("rack", "10.1.2.0/23", ImageSharing::Enabled);
            network.metadata.uid = Some(uid.to_owned());
            network.metadata.resource_version = Some(version.to_owned());
            network
        };
        let known = || networks.named("rack").and_then(|network| network.resource_version());
        networks.written(revision("a", "7"));
        assert_eq!(known(), None, "the watch shows no such network");
        networks.apply(revision("a", "7"));
        networks.written(revision("a", "9"));
        networks.apply(revision("a", "8"));
        assert_eq!(known().as_deref(), Some("9"));
        networks.apply(revision("b", "3"));
        networks.written(revision("a", "10"));
        assert_eq!(known().as_deref(), Some("3"), "it was deleted and made anew");
    }
}
