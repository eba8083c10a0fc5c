//! A machine that its BMC tells of: when the BMC is asked, what becomes of its answer beside an agent's inventory, and which machine it is.
//!
//! * **The agent's word is the stronger one.** Before it has reported, a BMC's answer fills capacity, and the machine is no nearer to Ready by it. Once it has, the answer shrinks to what names the machine.
//! * **One machine, one object.** Netboot knows a machine that its BMC told of by [`Identity::of_bmc`] at its first boot, and has it register under the `discoveryName` that somebody wrote down. Where the
//!   marks say neither yes nor no, nobody decides but a person: the machine registers under a name of its own and is not accepted ([`twins`]).
//! * **A BMC that tells of another machine than the agent** is named: whoever switches it switches somebody else's machine.
//!
//! Nothing here is proof: a BMC is believed as far as somebody wrote it down, a machine's marks as far as they are believed anywhere ([`crate::identity`]).

use std::collections::BTreeMap;

use agent_protocol::{
    disk::{DiskIdentity, DiskKind},
    identity::SystemUuid,
    inventory::{Cpu, Inventory, Memory},
};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalHardwareSpec,
    bmc_inventory::{BmcDrive, BmcInventory},
    power::RedfishPower,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{
    identity::{Identity, Verdict, compare},
    view,
};

/// A BMC is asked anew after this time, since somebody may have swapped it; up to a tenth later, by the machine's name.
const AGAIN: SignedDuration = SignedDuration::from_hours(24);
/// One that tells of another machine than the agent is asked anew after this time: it may have been the network's fault, and be mended.
const AGAIN_IN_DOUBT: SignedDuration = SignedDuration::from_mins(10);

/// How much of a BMC's answer is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Which machine it is: the agent tells the rest.
    Identity,
    /// All of it.
    Everything,
}

fn agents(discovery: Option<&BareMetalDiscovery>) -> Option<&Inventory> {
    view::seen(discovery).and_then(|seen| seen.inventory.as_ref())
}

/// What the BMC that the spec names now has said.
pub fn told(hardware: &BareMetalHardware) -> Option<&BmcInventory> {
    let spec = hardware.spec.power.as_ref()?.redfish.as_ref()?;
    hardware.status.as_ref()?.bmc_inventory.as_ref().filter(|told| is_of(told, spec))
}

/// Whether an answer is of the BMC that the spec names now.
fn is_of(answer: &BmcInventory, spec: &RedfishPower) -> bool {
    answer.address == spec.address && answer.machine == spec.system
}

/// A tenth of the time at most, by the machine's name: what was read at the same time is not read again at the same time.
fn spread(name: &str) -> SignedDuration {
    let sum = name.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    AGAIN.checked_div(1000).unwrap_or_default() * i32::try_from(sum % 100).unwrap_or_default()
}

/// Whether a machine's BMC is to be asked what the machine is.
pub fn wanted(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>, now: Timestamp) -> Option<Wanted> {
    hardware.spec.power.as_ref()?.redfish.as_ref()?;
    let agent = agents(discovery);
    let depth = if agent.is_some() { Wanted::Identity } else { Wanted::Everything };
    let Some(known) = told(hardware) else { return Some(depth) };
    let name = hardware.metadata.name.as_deref().unwrap_or_default();
    let again = match agent {
        Some(agent) if contradiction(known, agent).is_some() => AGAIN_IN_DOUBT,
        None if known.identity_only => SignedDuration::ZERO,
        _ => AGAIN + spread(name),
    };
    (now.duration_since(known.read_at.0) >= again).then_some(depth)
}

/// What of the answers known is kept: the newest of the BMC that the spec names, and no more of it than the agent leaves.
pub fn kept(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>, read: Option<&BmcInventory>) -> Option<BmcInventory> {
    let spec = hardware.spec.power.as_ref()?.redfish.as_ref()?;
    let known = hardware.status.as_ref().and_then(|s| s.bmc_inventory.as_ref());
    let (known, read) = (known.filter(|known| is_of(known, spec)), read.filter(|read| is_of(read, spec)));
    let of_agent = agents(discovery).is_some();
    let newest = match (known, read) {
        // One that has less is no news for a machine of which all is known.
        (Some(known), Some(read)) if read.identity_only && !known.identity_only && !of_agent => known,
        // By its place and not by its time: clocks of two operators differ.
        (known, read) => read.or(known)?,
    };
    Some(if of_agent {
        BmcInventory {
            identity_only: true,
            cpu: Cpu::default(),
            memory: Memory::default(),
            drives: Vec::new(),
            missing: Vec::new(),
            ..newest.clone()
        }
    } else {
        newest.clone()
    })
}

/// What names a drive, as far as hints and protections can be compared with it.
fn identity(drive: &BmcDrive) -> DiskIdentity {
    DiskIdentity {
        serial: drive.serial.clone(),
        ..DiskIdentity::default()
    }
}

/// The drive that would be the root disk, if drives were disks and the agent saw what the BMC sees: the smallest that no protection names, of those that fit the hint's serial number, kind and size.
fn root_drive<'a>(spec: &BareMetalHardwareSpec, inventory: &'a BmcInventory) -> Option<&'a BmcDrive> {
    let hint = spec.root_disk.as_ref();
    let fits = |drive: &&BmcDrive| {
        let protected = spec
            .protected_disks
            .iter()
            .any(|disk| disk.serial.is_some() && disk.serial == drive.serial);
        let serial = hint.and_then(|h| h.serial.as_ref());
        let kind = hint.and_then(|h| h.kind);
        let least = hint.and_then(|h| h.min_size_bytes).unwrap_or(1);
        !protected
            && drive.transport != "usb"
            && drive.size_bytes >= least.max(1)
            && serial.is_none_or(|serial| drive.serial.as_ref() == Some(serial))
            && kind.is_none_or(|kind| drive.kind == kind)
    };
    let rotates = |drive: &BmcDrive| drive.kind == DiskKind::HDD;
    inventory
        .drives
        .iter()
        .filter(fits)
        .min_by_key(|drive| (drive.size_bytes, rotates(drive), identity(drive)))
}

/// `cpu`, `memory` and `disk` as far as the BMC tells them. Cores stand for threads where those are not told.
pub fn capacity(spec: &BareMetalHardwareSpec, inventory: &BmcInventory) -> BTreeMap<String, Quantity> {
    let threads = if inventory.cpu.threads > 0 {
        inventory.cpu.threads
    } else {
        inventory.cpu.cores
    };
    let mebibytes = |bytes: u64| (bytes > 0).then(|| format!("{}Mi", bytes >> 20));
    let told = [
        ("cpu", (threads > 0).then(|| threads.to_string())),
        ("memory", mebibytes(inventory.memory.bytes)),
        ("disk", root_drive(spec, inventory).and_then(|drive| mebibytes(drive.size_bytes))),
    ];
    told.into_iter()
        .filter_map(|(name, amount)| Some((name.to_owned(), Quantity(amount?))))
        .collect()
}

/// The machine in a few words, for people.
pub fn describe(inventory: &BmcInventory) -> String {
    let system = &inventory.system;
    let parts = [&system.vendor, &system.product].into_iter().flatten().cloned();
    let mut parts: Vec<String> = parts
        .chain(system.serial.as_ref().map(|serial| format!("serial {serial}")))
        .collect();
    if parts.is_empty() {
        parts.extend(system.uuid.map(|uuid| format!("UUID {uuid}")));
    }
    if parts.is_empty() {
        return "a machine without a name".to_owned();
    }
    parts.join(", ")
}

fn uuid(known: Option<SystemUuid>) -> Option<SystemUuid> {
    known.filter(SystemUuid::is_usable)
}

/// What contradicts what, where a BMC's machine and an agent's cannot be the same: they have a UUID or a serial number each, and nothing that names a machine is the same. A BMC whose UUID is its own
/// invention is none that contradicts, as long as anything agrees.
pub fn contradiction(bmc: &BmcInventory, agent: &Inventory) -> Option<String> {
    let (told, own) = (&bmc.system, &agent.system);
    let uuids = uuid(told.uuid).zip(uuid(own.uuid));
    let serials: Vec<&String> = own.serial.iter().chain(&own.board_serial).collect();
    let serial = told.serial.as_ref().filter(|_| !serials.is_empty());
    let same = uuids.is_some_and(|(a, b)| a.same_machine(&b))
        || serial.is_some_and(|serial| serials.iter().any(|own| own.trim().eq_ignore_ascii_case(serial.trim())))
        || bmc
            .nics
            .iter()
            .any(|nic| nic.mac.is_usable() && agent.nics.iter().any(|own| own.mac == nic.mac));
    if same {
        return None;
    }
    match (uuids, serial) {
        (Some((a, b)), _) => Some(format!("its UUID is {a}, and that of the machine is {b}")),
        (None, Some(serial)) => Some(format!("its serial number is {serial}, and that of the machine is {}", serials[0])),
        (None, None) => None,
    }
}

/// A sentence for people and the word for it, where a BMC tells of another machine than this object's, or of one that is known by another name.
pub fn problem<'a>(
    hardware: &BareMetalHardware,
    discovery: Option<&BareMetalDiscovery>,
    others: impl IntoIterator<Item = (&'a BareMetalDiscovery, Option<String>)>,
) -> Option<(&'static str, String)> {
    let name = hardware.metadata.name.as_deref().unwrap_or_default();
    let bmc = hardware.status.as_ref()?.bmc_inventory.as_ref()?;
    let whose = describe(bmc);
    if let Some(agent) = agents(discovery) {
        let why = contradiction(bmc, agent)?;
        return Some((
            "OtherMachine",
            format!(
                "The BMC at {} belongs to another machine ({whose}) than the one that its agent runs on: {why}. What is switched by it is not this machine: correct spec.power of BareMetalHardware {name}",
                bmc.address
            ),
        ));
    }
    others.into_iter().find_map(|(other, its_hardware)| {
        let seen = agents(Some(other))?;
        let verdict = compare(&Identity::of_bmc(bmc), &Identity::as_bmc_knows(seen, None));
        let may = match verdict {
            Verdict::Same => "is",
            Verdict::Unclear => "may be",
            Verdict::Different => return None,
        };
        let known = other.metadata.name.as_deref().unwrap_or_default();
        let remedy = its_hardware.map_or_else(
            || format!("delete this object, and create one with discoveryName {known} and this spec.power"),
            |own| format!("write this spec.power into BareMetalHardware {own}, and delete this object"),
        );
        let else_way = match verdict {
            Verdict::Unclear => "; if it is another machine, create a BareMetalHardware for that one by hand",
            Verdict::Same | Verdict::Different => "",
        };
        Some((
            "KnownAlready",
            format!("The machine behind this BMC ({whose}) {may} the one of BareMetalDiscovery {known}, which has registered under that name: {remedy}{else_way}"),
        ))
    })
}

/// Of machines that BMCs told of, those that an unaccepted one is or may be: it is not accepted as another one.
pub fn twins<'a>(inventory: &Inventory, known: impl IntoIterator<Item = &'a BareMetalHardware>) -> Vec<String> {
    let own = Identity::as_bmc_knows(inventory, None);
    let is_twin = |hardware: &&BareMetalHardware| {
        told(hardware)
            .filter(|bmc| !bmc.identity_only)
            .is_some_and(|bmc| compare(&Identity::of_bmc(bmc), &own) != Verdict::Different)
    };
    let mut names: Vec<String> = known
        .into_iter()
        .filter(is_twin)
        .filter_map(|hardware| hardware.metadata.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The marks of a machine that its BMC told of and that was not seen yet: it registers under the object's `discoveryName`. One that somebody has is none: who lost its BareMetalDiscovery has a system on its
/// disk, and comes as it always came. One that boots from its BMC's medium is none either: its token says who it is, and marks, which anybody can forge, are not to be worth as much.
pub fn expected(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> Option<Identity> {
    let bmc = told(hardware)?;
    if hardware.spec.power.as_ref().is_some_and(|power| power.virtual_media().is_some()) {
        return None;
    }
    let free = hardware.spec.claim_ref.is_none() && hardware.metadata.deletion_timestamp.is_none();
    let awaited = !bmc.identity_only && agents(discovery).is_none() && free;
    awaited.then(|| Identity::of_bmc(bmc)).filter(|identity| !identity.is_empty())
}
