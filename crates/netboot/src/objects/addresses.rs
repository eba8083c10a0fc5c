//! Addresses that are somebody's: BareMetalAddresses as their watch brought them. Only a replica that may give out addresses asks for them.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{PoisonError, RwLock},
};

use agent_protocol::identity::MacAddress;
use api::BareMetalAddress;
use kube::ResourceExt;
use tokio::sync::Notify;

/// An address that nobody else may get.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Taken {
    pub(crate) address: IpAddr,
    /// Who gets it by DHCP. Nobody does, without.
    pub(crate) mac: Option<MacAddress>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct TakenAddresses {
    /// By the object's name, with the network's.
    table: RwLock<HashMap<String, (String, Taken)>>,
    changed: Notify,
}

impl TakenAddresses {
    pub(crate) fn apply(&self, object: &BareMetalAddress) {
        let Ok(address) = object.spec.address.parse() else { return };
        let taken = Taken {
            address,
            mac: object.spec.mac,
        };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(object.name_any(), (object.spec.network_name.clone(), taken));
        drop(table);
        self.changed.notify_one();
    }

    pub(crate) fn remove(&self, name: &str) {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.changed.notify_one();
    }

    pub(crate) fn retain(&self, names: &HashSet<String>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|name, _| names.contains(name));
        drop(table);
        self.changed.notify_one();
    }

    /// Those of a network, in the order of their addresses.
    pub(crate) fn of(&self, network: &str) -> Vec<Taken> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let of_it = table.values().filter(|(name, _)| name == network);
        let mut taken: Vec<Taken> = of_it.map(|(_, taken)| taken.clone()).collect();
        taken.sort_unstable();
        taken
    }

    /// Waits until something may have changed. For one waiter.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}
