//! Asks a machine's BMC what the machine is, where `lifecycle::bmc_inventory` wants to know it.
//!
//! It has a queue of its own, so that nothing that switches a machine waits for it here; at the BMC and in the number of calls it goes between the others ([`power::calls::Calls::inventory`]). A machine comes
//! here once its driver was seen to work: a dead BMC is never asked. What was read is kept in memory until the machine's own reconcile ([`step`]) has written it down.

use std::{sync::Arc, time::Duration};

use agent_protocol::{
    disk::DiskKind,
    identity::{MacAddress, SystemUuid},
    inventory::{Cpu, Memory, SystemIdentity, is_placeholder},
};
use api::{
    BareMetalDiscovery, BareMetalHardware,
    bmc_inventory::{BmcDrive, BmcInventory, BmcInventorySource, BmcNic},
    conditions,
    power::{PowerSpec, RedfishPower},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use lifecycle::{
    bmc_inventory::{self, Wanted, describe, kept, problem, wanted},
    identity::Identity,
};
use power::inventory::{Depth, Drive, Interface, Inventory, Medium};
use tokio::time::Instant;

use super::{Wired, drivers, refresh};
use crate::{
    cache::Key,
    error::Result,
    events::Notice,
    queue::Next,
    world::{World, index, jittered, reference},
};

/// Machines at once that wait for it, or are read: more than `power::calls` reads.
pub(crate) const AT_ONCE: usize = 64;
/// A pause after the first reading that failed; it doubles with each.
const PAUSE: Duration = Duration::from_secs(300);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// What is known of one machine's readings.
#[derive(Debug, Default)]
pub(super) struct Readings {
    /// The latest, until it is stored.
    pub read: Option<Arc<BmcInventory>>,
    failures: u32,
    /// Of which BMC, and not before when the next try is made.
    after: Option<(PowerSpec, Instant)>,
}

/// Whether this driver can tell.
fn asks(spec: &PowerSpec) -> Option<&RedfishPower> {
    spec.redfish.as_ref()
}

/// The driver was seen to work: is there anything to ask?
pub(super) fn wake(world: &World, hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) {
    let name = hardware.name_any();
    let Some(spec) = hardware.spec.power.as_ref().filter(|spec| asks(spec).is_some()) else {
        return;
    };
    if wanted(&merged(world, hardware, discovery), discovery, Timestamp::now()).is_none() {
        return;
    }
    if !rests(world, &name, spec) {
        world.queues.inventory.add(Key::cluster(name));
    }
}

/// Whether the last reading of this BMC failed a moment ago.
fn rests(world: &World, name: &str, spec: &PowerSpec) -> bool {
    world.power.with(name, |known| {
        let after = known.readings.after.as_ref();
        after.is_some_and(|(of, at)| of == spec && Instant::now() < *at)
    })
}

/// Whether this is what the machine is switched by, still.
fn is_current(world: &World, name: &str, wired: &Wired) -> bool {
    let hardware = world.hardware.get(&Key::cluster(name.to_owned()));
    hardware.is_some()
        && world.power.with(name, |known| {
            known
                .wired
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now.machine.driver(), wired.machine.driver()))
        })
}

/// The machine as it will be once what was read is written down.
fn merged(world: &World, hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> BareMetalHardware {
    let read = world.power.with(&hardware.name_any(), |known| known.readings.read.clone());
    let mut hardware = hardware.clone();
    let kept = kept(&hardware, discovery, read.as_deref());
    hardware.status.get_or_insert_default().bmc_inventory = kept;
    hardware
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(hardware) = world.hardware.get(&key).filter(|hardware| !hardware.spec.paused) else {
        return Ok(Next::Rest);
    };
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name);
    let now = merged(&world, &hardware, discovery.as_deref());
    let Some(depth) = wanted(&now, discovery.as_deref(), Timestamp::now()) else {
        return Ok(Next::Rest);
    };
    let name = hardware.name_any();
    let wired = world.power.with(&name, |known| known.wired.clone());
    // Without a driver there was none to be seen to work; it comes again with the next look.
    let Some(wired) = wired.filter(|wired| Some(&wired.spec) == hardware.spec.power.as_ref()) else {
        return Ok(Next::Rest);
    };
    // It came again while it was read.
    if rests(&world, &name, &wired.spec) {
        return Ok(Next::Rest);
    }
    read(&world, &hardware, &wired, depth).await;
    world.queues.hardware.add(key);
    Ok(Next::Rest)
}

async fn read(world: &World, hardware: &Arc<BareMetalHardware>, wired: &Wired, depth: Wanted) {
    let Some(spec) = asks(&wired.spec) else { return };
    let name = hardware.name_any();
    let of = match depth {
        Wanted::Identity => Depth::Identity,
        Wanted::Everything => Depth::Everything,
    };
    let began = Instant::now();
    let outcome = world.power.calls.inventory(&wired.machine, of).await;
    if !is_current(world, &name, wired) {
        // It took long enough to be outlived; its last part may have opened a session anew.
        world.power.close(wired).await;
        return;
    }
    let first = world.power.with(&name, |known| {
        let readings = &mut known.readings;
        match &outcome {
            Ok(found) => {
                readings.read = Some(Arc::new(translated(spec, depth, found)));
                (readings.failures, readings.after) = (0, None);
                true
            }
            Err(_) => {
                if readings.after.as_ref().is_some_and(|(of, _)| *of != wired.spec) {
                    readings.failures = 0;
                }
                let pause = PAUSE.saturating_mul(1 << readings.failures.min(10)).min(LONGEST);
                readings.after = Some((wired.spec.clone(), Instant::now() + jittered(pause)));
                readings.failures += 1;
                readings.failures == 1
            }
        }
    });
    match outcome {
        Ok(_) => tracing::info!(hardware = name, ?depth, seconds = began.elapsed().as_secs(), "inventory by the BMC"),
        Err(error) => {
            refresh(world, hardware, &error);
            tracing::warn!(hardware = name, %error, "the BMC did not say what the machine is");
            if first {
                let note = format!(
                    "The BMC did not say what the machine is; it is asked again later, and the machine's agent tells it in any case: {error}"
                );
                tell(world, hardware, true, "BmcInventoryFailed", note);
            }
        }
    }
}

/// Text that says something.
fn said(text: Option<&String>) -> Option<String> {
    text.filter(|text| !is_placeholder(text)).cloned()
}

/// A UUID in whatever form a BMC writes it.
fn uuid(text: &str) -> Option<SystemUuid> {
    let digits: String = text
        .chars()
        .filter(|c| !matches!(c, '-' | '{' | '}') && !c.is_whitespace())
        .collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let form = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    form.parse().ok()
}

/// A MAC address in whatever form a BMC writes it.
fn mac(text: &str) -> Option<MacAddress> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let bytes = hex::decode(digits).ok()?;
    Some(MacAddress(bytes.try_into().ok()?)).filter(MacAddress::is_usable)
}

fn nic(interface: &Interface) -> Option<BmcNic> {
    Some(BmcNic {
        name: interface.name.clone(),
        mac: mac(&interface.mac)?,
        link: interface.link,
        speed_mbps: interface.speed_mbps,
    })
}

fn drive(drive: &Drive) -> BmcDrive {
    let transport = drive.protocol.clone().unwrap_or_default();
    let nvme = transport.starts_with("nvme") || transport == "pcie";
    BmcDrive {
        name: drive.name.clone(),
        serial: said(drive.serial.as_ref()),
        model: said(drive.model.as_ref()),
        wwn: said(drive.wwn.as_ref()),
        size_bytes: drive.bytes.unwrap_or_default(),
        kind: match drive.medium {
            _ if nvme => DiskKind::NVMe,
            Some(Medium::Ssd) => DiskKind::SSD,
            Some(Medium::Hdd) => DiskKind::HDD,
            None => DiskKind::Other,
        },
        transport,
    }
}

/// The driver's answer in the shape of the API. Times there have whole seconds.
fn translated(spec: &RedfishPower, depth: Wanted, found: &Inventory) -> BmcInventory {
    let own = &found.processors;
    let now = Timestamp::now();
    BmcInventory {
        source: BmcInventorySource::Redfish,
        address: spec.address.clone(),
        machine: spec.system.clone(),
        read_at: Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
        identity_only: depth == Wanted::Identity,
        system: SystemIdentity {
            uuid: found.uuid.as_deref().and_then(uuid),
            vendor: said(found.vendor.as_ref()),
            product: said(found.product.as_ref()),
            serial: said(found.serial.as_ref()),
            board_serial: None,
            asset_tag: said(found.asset_tag.as_ref()),
            bios: said(found.firmware.as_ref()),
        },
        cpu: Cpu {
            architecture: own.architecture.unwrap_or_default().to_owned(),
            sockets: own.sockets.unwrap_or_default(),
            cores: own.cores.unwrap_or_default(),
            threads: own.threads.unwrap_or_default(),
            model: said(own.model.as_ref()),
            flags: Vec::new(),
        },
        memory: Memory {
            bytes: found.memory_bytes.unwrap_or_default(),
            dimms: Vec::new(),
        },
        nics: found.interfaces.iter().filter_map(nic).collect(),
        drives: found.drives.iter().map(drive).collect(),
        missing: found.missing.clone(),
    }
}

/// Writes down what was read, and whether the BMC is another machine's. Whether anything was written: then the machine is looked at anew.
pub(crate) async fn step(world: &World, hardware: &Arc<BareMetalHardware>, discovery: Option<&BareMetalDiscovery>) -> Result<bool> {
    let can_tell = |spec: &PowerSpec| asks(spec).is_some() && drivers::can(spec).is_some();
    let concerned = hardware.spec.power.as_ref().is_some_and(can_tell);
    if !concerned && hardware.status.as_ref().is_none_or(|s| s.bmc_inventory.is_none()) {
        return Ok(false);
    }
    let new = merged(world, hardware, discovery);
    let problem = world.timed("BareMetalHardware", || {
        problem(&new, discovery, others(world, &new).iter().map(|(d, h)| (d.as_ref(), h.clone())))
    });
    let mut status = new.status.unwrap_or_default();
    let old = hardware.status.clone().unwrap_or_default();
    let known = old.conditions.iter().any(|c| c.type_ == conditions::BMC_IDENTITY);
    match &problem {
        Some((reason, message)) => conditions::set(
            &mut status.conditions,
            conditions::BMC_IDENTITY,
            false,
            reason,
            message,
            None,
            &Time(Timestamp::now()),
        ),
        None => conditions::clear(&mut status.conditions, conditions::BMC_IDENTITY),
    }
    if status == old {
        // It is written down, or counts for nothing.
        if concerned {
            world.power.with(&hardware.name_any(), |known| known.readings.read = None);
        }
        return Ok(false);
    }
    let is_first = old.bmc_inventory.is_none();
    let told = status.bmc_inventory.as_ref().filter(|_| is_first).map(describe);
    world
        .replace_status(&BareMetalHardware {
            status: Some(status),
            ..hardware.as_ref().clone()
        })
        .await?;
    if let Some(machine) = told {
        tell(
            world,
            hardware,
            false,
            "BmcInventory",
            format!("Its BMC says what the machine is: {machine}"),
        );
    }
    if let Some((_, message)) = problem.filter(|_| !known) {
        tell(world, hardware, true, "BmcIdentity", message);
    }
    Ok(true)
}

/// Machines that were seen and share a mark with the one that a BMC tells of, each with the hardware that it is accepted as.
fn others(world: &World, hardware: &BareMetalHardware) -> Vec<(Arc<BareMetalDiscovery>, Option<String>)> {
    let told = hardware.status.as_ref().and_then(|s| s.bmc_inventory.as_ref());
    let Some(told) = told.filter(|told| !told.identity_only) else {
        return Vec::new();
    };
    let identity = Identity::of_bmc(told);
    let mut names: Vec<String> = identity
        .marks()
        .flat_map(|mark| world.discoveries.keys_by(index::MARK, &mark))
        .map(|key| key.name)
        .filter(|name| *name != hardware.spec.discovery_name)
        .collect();
    names.sort();
    names.dedup();
    names
        .iter()
        .filter_map(|name| {
            let accepted = world.hardware.by(index::DISCOVERY, name);
            Some((world.discoveries.by_name(name)?, accepted.first().map(|h| h.name_any())))
        })
        .collect()
}

/// Machines that BMCs told of and that an unaccepted one is, or may be.
pub(crate) fn twins(world: &World, inventory: &agent_protocol::inventory::Inventory) -> Vec<String> {
    let identity = Identity::as_bmc_knows(inventory, None);
    let told: Vec<_> = identity.marks().flat_map(|mark| world.hardware.by(index::MARK, &mark)).collect();
    bmc_inventory::twins(inventory, told.iter().map(AsRef::as_ref))
}

fn tell(world: &World, hardware: &BareMetalHardware, warning: bool, reason: &str, note: String) {
    world.events.tell(Notice {
        regarding: reference(hardware),
        related: None,
        warning,
        reason: reason.to_owned(),
        action: "Asked".to_owned(),
        note,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bmc_writes_in_its_own_form_is_read() {
        let plain: SystemUuid = "4c4c4544-0042-3510-8054-b4c04f4d3132".parse().expect("a UUID");
        for form in [
            "4C4C4544-0042-3510-8054-B4C04F4D3132",
            "4c4c4544004235108054b4c04f4d3132",
            "{4c4c4544-0042-3510-8054-b4c04f4d3132}",
        ] {
            assert_eq!(uuid(form), Some(plain), "{form}");
        }
        for form in ["", "none", "4c4c4544", "é4c4c4544-0042-3510-8054-b4c04f4d31"] {
            assert_eq!(uuid(form), None, "{form}");
        }
        let plain = MacAddress([0xaa, 0xbb, 0xcc, 0, 0, 1]);
        for form in ["AA:BB:CC:00:00:01", "aa-bb-cc-00-00-01", "AABBCC000001"] {
            assert_eq!(mac(form), Some(plain), "{form}");
        }
        assert_eq!(mac("00:00:00:00:00:00"), None);
        assert_eq!(mac("aa:bb"), None);
    }

    #[test]
    fn what_only_holds_a_place_is_no_name() {
        let found = Inventory {
            vendor: Some("To Be Filled By O.E.M.".to_owned()),
            serial: Some("0123456789".to_owned()),
            product: Some("X11".to_owned()),
            drives: vec![Drive {
                protocol: Some("nvme".to_owned()),
                medium: Some(Medium::Ssd),
                bytes: Some(1 << 40),
                ..Drive::default()
            }],
            ..Inventory::default()
        };
        let spec: RedfishPower =
            serde_json::from_value(serde_json::json!({"address": "https://192.0.2.7", "credentials": {"name": "s"}})).expect("a spec");
        let shown = translated(&spec, Wanted::Everything, &found);
        assert_eq!((shown.system.vendor, shown.system.serial), (None, None));
        assert_eq!(shown.system.product.as_deref(), Some("X11"));
        assert_eq!(shown.drives[0].kind, DiskKind::NVMe);
        assert_eq!(shown.read_at.0.subsec_nanosecond(), 0, "as it is stored");
    }
}
