//! What the watches brought, indexed by everything a request can name. Every lookup and every event costs the same however many machines there are.
//!
//! Objects also come here from our own writes, so that the next request sees them at once; an older revision never replaces a newer one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use agent_protocol::identity::{MacAddress, SystemUuid};
use api::{BareMetalDiscovery, BareMetalHardware, conditions};
use kube::{Resource, ResourceExt};
use lifecycle::{
    bmc_inventory,
    identity::{Identity, Index, Match},
};

#[derive(Default)]
struct Tables {
    discoveries: HashMap<String, Arc<BareMetalDiscovery>>,
    hardware: HashMap<String, Arc<BareMetalHardware>>,
    /// Name of a discovery to the name of its hardware.
    hardware_of: HashMap<String, String>,
    index: Index,
    /// Machines that their BMCs told of and that were not seen yet, by the name under which they are to register.
    expected: Index,
    guests: HashMap<String, String>,
    /// Discoveries with hardware.
    accepted: usize,
    /// Discoveries without an inventory.
    unfinished: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Cache {
    tables: RwLock<Tables>,
}

/// Whether `new` may replace `old`: equal and newer revisions may. Revisions that are not numbers are taken as they come.
pub(super) fn is_newer<K: Resource>(old: &K, new: &K) -> bool {
    if old.meta().uid != new.meta().uid {
        return true;
    }
    let number = |o: &K| o.meta().resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    match (number(old), number(new)) {
        (Some(old), Some(new)) => new >= old,
        _ => true,
    }
}

impl Cache {
    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn discovery(&self, name: &str) -> Option<Arc<BareMetalDiscovery>> {
        self.read().discoveries.get(name).cloned()
    }

    pub(crate) fn hardware_of(&self, discovery: &str) -> Option<Arc<BareMetalHardware>> {
        let tables = self.read();
        tables.hardware_of.get(discovery).and_then(|h| tables.hardware.get(h)).cloned()
    }

    pub(crate) fn hardware(&self, name: &str) -> Option<Arc<BareMetalHardware>> {
        self.read().hardware.get(name).cloned()
    }

    /// The discovery whose guest belongs to this instance.
    pub(crate) fn guest(&self, instance_uid: &str) -> Option<Arc<BareMetalDiscovery>> {
        let tables = self.read();
        tables.guests.get(instance_uid).and_then(|n| tables.discoveries.get(n)).cloned()
    }

    /// Packed images that orders name, by their hexadecimal digits.
    pub(crate) fn packs_in_orders(&self) -> HashSet<String> {
        let tables = self.read();
        let orders = tables.hardware.values().filter_map(|h| h.status.as_ref()?.order.as_ref());
        let packs = orders.filter_map(|o| o.image.as_ref()?.packed.as_ref()?.hex().map(str::to_owned));
        packs.collect()
    }

    /// Discoveries without hardware.
    pub(crate) fn unaccepted(&self) -> usize {
        let tables = self.read();
        tables.discoveries.len().saturating_sub(tables.accepted)
    }

    /// Discoveries of machines whose agent was never heard.
    pub(crate) fn unfinished(&self) -> usize {
        self.read().unfinished
    }

    /// Whose UUID and MAC these are.
    ///
    /// A machine that its BMC told of is known by it before it was ever seen: its discovery is not there yet.
    pub(crate) fn match_boot(&self, uuid: Option<SystemUuid>, mac: MacAddress) -> Match {
        let tables = self.read();
        match tables.index.match_boot(uuid, mac) {
            Match::New => match tables.expected.match_boot(uuid, mac) {
                Match::Known(name) => Match::Known(name),
                // Its agent tells more.
                Match::New | Match::Unclear { .. } => Match::New,
            },
            seen => seen,
        }
    }

    /// Under which name a machine that was never seen is to register, because its BMC told of it: marks as BMCs know them.
    pub(crate) fn expected(&self, identity: &Identity) -> Option<String> {
        match self.read().expected.match_inventory(identity) {
            Match::Known(name) => Some(name),
            // Where it may be one of several, or only may be, a person decides: it is not accepted as another one meanwhile.
            Match::New | Match::Unclear { .. } => None,
        }
    }

    /// Whose marks these are.
    pub(crate) fn match_inventory(&self, identity: &Identity) -> Match {
        self.read().index.match_inventory(identity)
    }

    /// Whether a person was already asked about one of these machines.
    pub(crate) fn conflict_known(&self, names: &[String]) -> bool {
        let tables = self.read();
        names.iter().filter_map(|n| tables.discoveries.get(n)).any(|d| {
            d.status
                .as_ref()
                .is_some_and(|s| conditions::is_true(&s.conditions, conditions::IDENTITY_CONFLICT))
        })
    }

    pub(crate) fn apply_discovery(&self, new: BareMetalDiscovery) {
        let name = new.name_any();
        let mut tables = self.write();
        if tables.discoveries.get(&name).is_some_and(|old| !is_newer(old.as_ref(), &new)) {
            return;
        }
        tables.remove_discovery(&name);
        match Identity::of_discovery(&new) {
            Some(identity) => tables.index.upsert(&name, identity),
            None => tables.unfinished += 1,
        }
        if let Some(guest) = new.status.as_ref().and_then(|s| s.guest.as_ref()) {
            tables.guests.insert(guest.instance_uid.clone(), name.clone());
        }
        tables.accepted += usize::from(tables.hardware_of.contains_key(&name));
        tables.discoveries.insert(name.clone(), Arc::new(new));
        tables.expect(&name);
    }

    pub(crate) fn remove_discovery(&self, name: &str) {
        let mut tables = self.write();
        tables.remove_discovery(name);
        tables.expect(name);
    }

    /// Returns the name of the discovery that this concerns.
    pub(crate) fn apply_hardware(&self, new: BareMetalHardware) -> String {
        let (name, discovery) = (new.name_any(), new.spec.discovery_name.clone());
        let mut tables = self.write();
        if tables.hardware.get(&name).is_some_and(|old| !is_newer(old.as_ref(), &new)) {
            return discovery;
        }
        tables.remove_hardware(&name);
        tables.accepted += usize::from(tables.discoveries.contains_key(&discovery) && !tables.hardware_of.contains_key(&discovery));
        tables.hardware_of.insert(discovery.clone(), name.clone());
        tables.hardware.insert(name, Arc::new(new));
        tables.expect(&discovery);
        discovery
    }

    pub(crate) fn remove_hardware(&self, name: &str) {
        self.write().remove_hardware(name);
    }

    /// Forgets what a new list does not name. Returns the names that went.
    pub(crate) fn retain_discoveries(&self, names: &HashSet<String>) -> Vec<String> {
        let gone: Vec<String> = self.read().discoveries.keys().filter(|n| !names.contains(*n)).cloned().collect();
        gone.iter().for_each(|n| self.remove_discovery(n));
        gone
    }

    pub(crate) fn retain_hardware(&self, names: &HashSet<String>) -> Vec<String> {
        let gone: Vec<String> = self.read().hardware.keys().filter(|n| !names.contains(*n)).cloned().collect();
        gone.iter().for_each(|n| self.remove_hardware(n));
        gone
    }

    /// Discoveries whose live session this replica opened.
    pub(crate) fn sessions_of(&self, replica: &str) -> Vec<Arc<BareMetalDiscovery>> {
        let opened_here = |d: &&Arc<BareMetalDiscovery>| {
            d.status
                .as_ref()
                .and_then(|s| s.session.as_ref())
                .is_some_and(|s| s.replica == replica)
        };
        self.read().discoveries.values().filter(opened_here).cloned().collect()
    }
}

impl Tables {
    /// Looks anew whether the machine of this discovery was told of and not seen.
    fn expect(&mut self, discovery: &str) {
        let hardware = self.hardware_of.get(discovery).and_then(|name| self.hardware.get(name));
        let seen = self.discoveries.get(discovery);
        match hardware.and_then(|hardware| bmc_inventory::expected(hardware, seen.map(AsRef::as_ref))) {
            Some(identity) => self.expected.upsert(discovery, identity),
            None => self.expected.remove(discovery),
        }
    }

    fn remove_discovery(&mut self, name: &str) {
        let Some(old) = self.discoveries.remove(name) else { return };
        self.unfinished -= usize::from(Identity::of_discovery(&old).is_none());
        self.index.remove(name);
        if let Some(guest) = old.status.as_ref().and_then(|s| s.guest.as_ref())
            && self.guests.get(&guest.instance_uid).is_some_and(|n| n == name)
        {
            self.guests.remove(&guest.instance_uid);
        }
        self.accepted -= usize::from(self.hardware_of.contains_key(name));
    }

    fn remove_hardware(&mut self, name: &str) {
        let Some(old) = self.hardware.remove(name) else { return };
        let discovery = &old.spec.discovery_name;
        if self.hardware_of.get(discovery).is_some_and(|h| h == name) {
            self.hardware_of.remove(discovery);
            self.expected.remove(discovery);
            self.accepted -= usize::from(self.discoveries.contains_key(discovery));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::inventory::{Inventory, Nic, SystemIdentity};
    use api::{BareMetalDiscoverySpec, BareMetalDiscoveryStatus, BareMetalHardwareSpec};

    fn inventory(uuid: &str, mac: u8) -> Inventory {
        Inventory {
            system: SystemIdentity {
                uuid: uuid.parse().ok(),
                ..SystemIdentity::default()
            },
            nics: vec![Nic {
                name: "eth0".to_owned(),
                mac: MacAddress([2, 0, 0, 0, 0, mac]),
                link: true,
                boot: true,
                ..Nic::default()
            }],
            ..Inventory::default()
        }
    }

    fn discovery(name: &str, version: u64, inventory: Inventory) -> BareMetalDiscovery {
        let mut d = BareMetalDiscovery::new(name, BareMetalDiscoverySpec {});
        d.metadata.uid = Some(format!("uid-{name}"));
        d.metadata.resource_version = Some(version.to_string());
        d.status = Some(BareMetalDiscoveryStatus {
            inventory: Some(inventory),
            ..BareMetalDiscoveryStatus::default()
        });
        d
    }

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn a_machine_is_found_by_each_of_its_names_and_in_both_byte_orders() {
        let cache = Cache::default();
        cache.apply_discovery(discovery("a", 1, inventory(UUID, 1)));
        let uuid: SystemUuid = UUID.parse().unwrap();
        let other = MacAddress([2, 0, 0, 0, 0, 9]);
        let known = Match::Known("a".to_owned());
        assert_eq!(cache.match_boot(Some(uuid.swapped()), MacAddress([2, 0, 0, 0, 0, 1])), known);
        assert_eq!(cache.match_boot(None, MacAddress([2, 0, 0, 0, 0, 1])), known);
        assert_eq!(cache.match_boot(None, other), Match::New);
        // The NIC was changed: the old one names nobody any more.
        cache.apply_discovery(discovery("a", 2, inventory(UUID, 2)));
        assert_eq!(cache.match_boot(None, MacAddress([2, 0, 0, 0, 0, 1])), Match::New);
        assert_eq!(cache.match_boot(None, MacAddress([2, 0, 0, 0, 0, 2])), known);
    }

    #[test]
    fn an_older_revision_never_replaces_a_newer_one() {
        let cache = Cache::default();
        cache.apply_discovery(discovery("a", 10, inventory(UUID, 1)));
        cache.apply_discovery(discovery("a", 9, inventory(UUID, 2)));
        assert_eq!(cache.discovery("a").unwrap().metadata.resource_version.as_deref(), Some("10"));
    }

    #[test]
    fn machines_that_never_reached_the_agent_are_counted_and_named_by_nothing() {
        let cache = Cache::default();
        let mut unfinished = discovery("a", 1, inventory(UUID, 1));
        unfinished.status.as_mut().unwrap().inventory = None;
        cache.apply_discovery(unfinished.clone());
        unfinished.metadata.resource_version = Some("2".to_owned());
        cache.apply_discovery(unfinished.clone());
        assert_eq!(cache.unfinished(), 1);
        assert_eq!(cache.match_boot(UUID.parse().ok(), MacAddress([2, 0, 0, 0, 0, 1])), Match::New);
        cache.apply_discovery(discovery("a", 3, inventory(UUID, 1)));
        assert_eq!(cache.unfinished(), 0, "its agent was heard");
        cache.remove_discovery("a");
        assert_eq!(cache.unfinished(), 0);
    }

    #[test]
    fn the_count_of_unaccepted_machines_follows_every_order_of_events() {
        let hardware = |name: &str, of: &str| {
            BareMetalHardware::new(
                name,
                BareMetalHardwareSpec {
                    discovery_name: of.to_owned(),
                    ..BareMetalHardwareSpec::default()
                },
            )
        };
        let cache = Cache::default();
        cache.apply_hardware(hardware("a", "a"));
        assert_eq!(cache.unaccepted(), 0);
        cache.apply_discovery(discovery("a", 1, inventory(UUID, 1)));
        cache.apply_discovery(discovery("b", 1, inventory(UUID, 2)));
        assert_eq!(cache.unaccepted(), 1);
        cache.apply_hardware(hardware("b", "b"));
        cache.apply_hardware(hardware("b", "b"));
        assert_eq!(cache.unaccepted(), 0);
        cache.apply_discovery(discovery("b", 2, inventory(UUID, 2)));
        cache.remove_hardware("a");
        assert_eq!(cache.unaccepted(), 1);
        cache.retain_discoveries(&HashSet::from(["b".to_owned()]));
        assert_eq!(cache.unaccepted(), 0);
        cache.retain_hardware(&HashSet::new());
        assert_eq!(cache.unaccepted(), 1);
        cache.remove_discovery("b");
        assert_eq!(cache.unaccepted(), 0);
    }
}
