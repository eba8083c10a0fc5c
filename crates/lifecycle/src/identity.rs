//! Which machine is it? One pure function compares two identities; an index makes it fast for many machines.
//!
//! The marks, by what they are fixed to: the main board (SMBIOS UUID in either byte order, unless it is one that was shipped on many
//! machines; board serial), the NICs (permanent MACs), the disks (WWN, or serial with model). A changed NIC or disk is the same
//! machine; two machines with one UUID are two. Where the marks contradict each other, the answer is [`Match::Unclear`] and a person
//! decides: never a second object for a machine in use.
//!
//! Nothing here is proof: all marks can be forged by anybody on the LAN (see the sessions of netboot for that side).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use agent_protocol::{
    disk::Disk,
    identity::{MacAddress, SystemUuid},
    inventory::Inventory,
};
use api::{BareMetalDiscovery, bmc_inventory::BmcInventory};
use sha2::{Digest, Sha256};

/// The marks of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// UUID in its canonical byte order; `None` when it says nothing.
    uuid: Option<SystemUuid>,
    /// Board serial, else system serial.
    serial: Option<String>,
    macs: BTreeSet<MacAddress>,
    disks: BTreeSet<String>,
}

/// The smaller of the two byte orders, so that both spellings are one key.
fn canonical(uuid: SystemUuid) -> Option<SystemUuid> {
    uuid.is_usable().then(|| uuid.min(uuid.swapped()))
}

/// Serials that emulators and makers give to every disk alike say nothing.
fn disk_serial_says_something(serial: &str) -> bool {
    let serial = serial.trim();
    let first = serial.chars().next();
    serial.len() >= 4 && !serial.chars().all(|c| Some(c) == first) && !(serial.starts_with("QM0") && serial.len() == 7)
}

fn disk_marks(disk: &Disk) -> impl Iterator<Item = String> + '_ {
    // A removable or remote disk moves between machines by design.
    let fixed = !disk.removable && !disk.remote;
    let wwn = disk
        .identity
        .wwn
        .as_ref()
        .filter(|w| w.trim_start_matches("0x").chars().any(|c| c != '0'));
    let serial = disk.identity.serial.as_ref().filter(|s| disk_serial_says_something(s));
    let model = disk.identity.model.as_deref().unwrap_or_default();
    wwn.map(|w| format!("wwn/{w}"))
        .into_iter()
        .chain(serial.map(|s| format!("serial/{model}/{s}")))
        .filter(move |_| fixed)
}

/// A serial number that may name one machine.
fn serial(text: Option<&String>) -> Option<String> {
    text.map(|s| s.trim().to_owned()).filter(|s| s.len() >= 4)
}

/// The same, to be compared with what others write of it.
fn folded(text: Option<&String>) -> Option<String> {
    serial(text).map(|serial| serial.to_ascii_uppercase())
}

impl Identity {
    /// The marks of an inventory. `boot_mac` counts as a NIC only when the inventory lists none.
    pub fn of(inventory: &Inventory, boot_mac: Option<MacAddress>) -> Self {
        let mut macs: BTreeSet<_> = inventory.nics.iter().map(|n| n.mac).filter(MacAddress::is_usable).collect();
        if macs.is_empty() {
            macs.extend(boot_mac.filter(MacAddress::is_usable));
        }
        let system = &inventory.system;
        Self {
            uuid: system.uuid.and_then(canonical),
            serial: serial(system.board_serial.as_ref().or(system.serial.as_ref())),
            macs,
            disks: inventory.disks.iter().flat_map(disk_marks).collect(),
        }
    }

    /// The marks of a machine that its BMC told of. Drives are none: what a system sees behind a RAID controller has other names.
    pub fn of_bmc(inventory: &BmcInventory) -> Self {
        let system = &inventory.system;
        Self {
            uuid: system.uuid.and_then(canonical),
            serial: folded(system.serial.as_ref()),
            macs: inventory.nics.iter().map(|nic| nic.mac).filter(MacAddress::is_usable).collect(),
            disks: BTreeSet::new(),
        }
    }

    /// The marks of an inventory that a BMC knows too, to be compared with [`Identity::of_bmc`]: its serial number is the system's, never the board's, and
    /// upper and lower case are one.
    pub fn as_bmc_knows(inventory: &Inventory, boot_mac: Option<MacAddress>) -> Self {
        let system = &inventory.system;
        Self {
            serial: folded(system.serial.as_ref()),
            disks: BTreeSet::new(),
            ..Self::of(inventory, boot_mac)
        }
    }

    /// Whether there is no mark at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The marks as words, by which whoever shares one is found.
    pub fn marks(&self) -> impl Iterator<Item = String> + '_ {
        let uuid = self.uuid.map(|uuid| format!("uuid/{uuid}"));
        let serial = self.serial.as_ref().map(|serial| format!("serial/{serial}"));
        let macs = self.macs.iter().map(|mac| format!("mac/{mac}"));
        uuid.into_iter().chain(serial).chain(macs)
    }

    /// What is known of a machine that asked to boot and has not said more: the MAC address that it asked from.
    pub fn of_boot(mac: MacAddress) -> Self {
        Self {
            macs: Some(mac).filter(MacAddress::is_usable).into_iter().collect(),
            ..Self::default()
        }
    }

    /// The marks of a known machine; `None` before its first inventory.
    pub fn of_discovery(discovery: &BareMetalDiscovery) -> Option<Self> {
        let status = discovery.status.as_ref()?;
        Some(Self::of(status.inventory.as_ref()?, status.session.as_ref().map(|s| s.boot_mac)))
    }
}

/// How two identities relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// One machine.
    Same,
    /// Two machines.
    Different,
    /// The marks contradict each other.
    Unclear,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Same,
    Differs,
    Unknown,
}

fn mark<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> Mark {
    match (a, b) {
        (Some(a), Some(b)) if a == b => Mark::Same,
        (Some(_), Some(_)) => Mark::Differs,
        _ => Mark::Unknown,
    }
}

fn marks<T: Ord>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Mark {
    if a.is_empty() || b.is_empty() {
        Mark::Unknown
    } else if a.is_disjoint(b) {
        Mark::Differs
    } else {
        Mark::Same
    }
}

/// Whether two identities are of one machine. Symmetric.
pub fn compare(a: &Identity, b: &Identity) -> Verdict {
    use Mark::{Differs, Same, Unknown};
    use Verdict as V;
    let uuid = mark(a.uuid.as_ref(), b.uuid.as_ref());
    let serial = mark(a.serial.as_ref(), b.serial.as_ref());
    let macs = marks(&a.macs, &b.macs);
    let disks = marks(&a.disks, &b.disks);
    match (uuid, serial) {
        // The board is the same by both marks.
        (Same, Same) => match (macs, disks) {
            (Differs, Differs) => V::Unclear,
            _ => V::Same,
        },
        // The board is the same by the only mark that both have.
        (Same, Unknown) | (Unknown, Same) => match (macs, disks) {
            (Same, _) | (_, Same) => V::Same,
            // Nothing but the board agrees: one UUID on two machines.
            (Differs, Differs) => V::Different,
            _ => V::Unclear,
        },
        // The board's marks contradict each other.
        (Same, Differs) | (Differs, Same) => match (macs, disks) {
            (Same, Differs) | (_, Same) if macs != Same || disks != Same => V::Unclear,
            (Same, _) => V::Same,
            _ => V::Different,
        },
        // Two boards. A NIC or a disk that both know has moved; both together look like a replaced board.
        (Differs, _) | (_, Differs) => match (macs, disks) {
            (Same, Same) => V::Unclear,
            (Same, Unknown) if uuid == Unknown || serial == Unknown => V::Unclear,
            _ => V::Different,
        },
        // The board says nothing.
        (Unknown, Unknown) => match (macs, disks) {
            (Same, _) => V::Same,
            (_, Same) => V::Unclear,
            _ => V::Different,
        },
    }
}

/// The answer of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Nobody knows it.
    New,
    /// It is this BareMetalDiscovery.
    Known(String),
    /// It may be one of these. At a boot request the agent may look closer; at a session a person must decide.
    Unclear {
        /// Names of the BareMetalDiscoveries, sorted.
        names: Vec<String>,
        /// What contradicts what, for people.
        message: String,
    },
}

/// Every known machine, found by any of its marks.
#[derive(Debug, Default)]
pub struct Index {
    machines: HashMap<String, Identity>,
    by_uuid: BTreeMap<SystemUuid, BTreeSet<String>>,
    by_serial: HashMap<String, BTreeSet<String>>,
    by_mac: HashMap<MacAddress, BTreeSet<String>>,
    by_disk: HashMap<String, BTreeSet<String>>,
}

fn drop_name<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<String>>, key: &K, name: &str) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}

impl Index {
    /// Adds a machine, or replaces what was known of it.
    pub fn upsert(&mut self, name: &str, identity: Identity) {
        if self.machines.get(name) == Some(&identity) {
            return;
        }
        self.remove(name);
        let owned = || name.to_owned();
        if let Some(uuid) = identity.uuid {
            self.by_uuid.entry(uuid).or_default().insert(owned());
        }
        if let Some(serial) = &identity.serial {
            self.by_serial.entry(serial.clone()).or_default().insert(owned());
        }
        for mac in &identity.macs {
            self.by_mac.entry(*mac).or_default().insert(owned());
        }
        for disk in &identity.disks {
            self.by_disk.entry(disk.clone()).or_default().insert(owned());
        }
        self.machines.insert(owned(), identity);
    }

    /// Forgets a machine.
    pub fn remove(&mut self, name: &str) {
        let Some(old) = self.machines.remove(name) else {
            return;
        };
        if let Some(uuid) = old.uuid
            && let Some(names) = self.by_uuid.get_mut(&uuid)
        {
            names.remove(name);
            if names.is_empty() {
                self.by_uuid.remove(&uuid);
            }
        }
        if let Some(serial) = &old.serial {
            drop_name(&mut self.by_serial, serial, name);
        }
        for mac in &old.macs {
            drop_name(&mut self.by_mac, mac, name);
        }
        for disk in &old.disks {
            drop_name(&mut self.by_disk, disk, name);
        }
    }

    /// How many machines are known.
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// Which machine has this inventory.
    pub fn match_inventory(&self, identity: &Identity) -> Match {
        let none = BTreeSet::new();
        let mut candidates = BTreeSet::new();
        candidates.extend(identity.uuid.and_then(|u| self.by_uuid.get(&u)).unwrap_or(&none));
        candidates.extend(identity.serial.as_ref().and_then(|s| self.by_serial.get(s)).unwrap_or(&none));
        candidates.extend(identity.macs.iter().filter_map(|m| self.by_mac.get(m)).flatten());
        candidates.extend(identity.disks.iter().filter_map(|d| self.by_disk.get(d)).flatten());
        let (mut same, mut unclear) = (Vec::new(), Vec::new());
        for name in candidates {
            match self.machines.get(name).map(|known| compare(known, identity)) {
                Some(Verdict::Same) => same.push(name.clone()),
                Some(Verdict::Unclear) => unclear.push(name.clone()),
                Some(Verdict::Different) | None => {}
            }
        }
        match (same.as_slice(), unclear.as_slice()) {
            ([one], _) => Match::Known(one.clone()),
            ([], []) => Match::New,
            ([], _) => Match::Unclear {
                message: format!(
                    "this machine shares some marks (UUID, board serial, MAC, disks) with {} and contradicts it in others: if it is the same machine after a repair, delete that BareMetalDiscovery once nothing uses it; if not, give the boards different UUIDs",
                    unclear.join(", ")
                ),
                names: unclear,
            },
            _ => Match::Unclear {
                message: format!("this machine carries the marks of several known ones: {}", same.join(", ")),
                names: same,
            },
        }
    }

    /// Which machine asks what to boot: only its UUID and the MAC of the booting NIC are known.
    pub fn match_boot(&self, uuid: Option<SystemUuid>, mac: MacAddress) -> Match {
        let uuid = uuid.and_then(canonical);
        let by_mac: Vec<&String> = self.by_mac.get(&mac).into_iter().flatten().collect();
        let by_uuid: Vec<&String> = uuid.and_then(|u| self.by_uuid.get(&u)).into_iter().flatten().collect();
        let both: Vec<&String> = by_mac.iter().copied().filter(|n| by_uuid.contains(n)).collect();
        let contradicts = |name: &String| match (uuid, self.machines.get(name).and_then(|m| m.uuid)) {
            (Some(asked), Some(known)) => asked != known,
            _ => false,
        };
        match (both.as_slice(), by_mac.as_slice(), by_uuid.as_slice()) {
            ([one], _, _) => Match::Known((*one).clone()),
            (_, [], []) => Match::New,
            ([], [one], _) if !contradicts(one) => Match::Known((*one).clone()),
            _ => {
                let names: BTreeSet<String> = by_mac.into_iter().chain(by_uuid).cloned().collect();
                Match::Unclear {
                    message: "the UUID and the MAC of this boot request belong to different machines".to_owned(),
                    names: names.into_iter().collect(),
                }
            }
        }
    }
}

/// The name for a new BareMetalDiscovery: stable for the machine's strongest mark, so that two replicas that meet it at once make the same
/// name and one of the two creations fails. When the name is taken by a [`Verdict::Different`] machine, try again with the next `salt`.
pub fn discovery_name(identity: &Identity, salt: u32) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let key = if let Some(uuid) = &identity.uuid {
        format!("uuid/{uuid}")
    } else if let Some(serial) = &identity.serial {
        format!("serial/{serial}")
    } else if let Some(mac) = identity.macs.first() {
        format!("mac/{mac}")
    } else {
        format!("disks/{:?}", identity.disks)
    };
    let digest = Sha256::digest(format!("kube-baremetal discovery\n{key}\n{salt}\n"));
    let name: String = digest.iter().take(10).map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect();
    format!("m-{name}")
}
