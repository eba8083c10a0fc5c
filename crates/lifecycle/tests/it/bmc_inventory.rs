//! Machines that their BMCs tell of.

use agent_protocol::{disk::DiskKind, inventory::Inventory};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalHardwareSpec, BareMetalHardwareStatus,
    bmc_inventory::{BmcDrive, BmcInventory, BmcInventorySource, BmcNic},
    hardware::DiskHint,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    bmc_inventory::{Wanted, capacity, contradiction, expected, kept, problem, twins, wanted},
    identity::{Identity, Verdict, compare},
};

use crate::world::{NAME, inventory, nic};

const BMC: &str = "https://192.0.2.7";

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().expect("a time")
}

/// What the BMC of [`inventory`]'s machine says.
fn told() -> BmcInventory {
    let agent = inventory();
    let drive = |name: &str, serial: &str, bytes: u64, kind: DiskKind| BmcDrive {
        name: name.to_owned(),
        serial: Some(serial.to_owned()),
        model: None,
        wwn: None,
        size_bytes: bytes,
        kind,
        transport: "sata".to_owned(),
    };
    BmcInventory {
        source: BmcInventorySource::Redfish,
        address: BMC.to_owned(),
        machine: None,
        read_at: Time(now()),
        identity_only: false,
        system: agent_protocol::inventory::SystemIdentity {
            board_serial: None,
            ..agent.system
        },
        cpu: agent_protocol::inventory::Cpu {
            threads: 64,
            cores: 32,
            ..agent.cpu
        },
        memory: agent.memory,
        nics: vec![BmcNic {
            name: "1".to_owned(),
            mac: agent.nics[0].mac,
            link: None,
            speed_mbps: None,
        }],
        drives: vec![
            drive("Bay 0", "HDD1", 8 << 40, DiskKind::HDD),
            drive("Bay 1", "SSD1", 480 << 30, DiskKind::SSD),
            drive("Bay 2", "HDD2", 480 << 30, DiskKind::HDD),
            drive("Bay 3", "", 0, DiskKind::Other),
        ],
        missing: Vec::new(),
    }
}

fn hardware(inventory: Option<BmcInventory>) -> BareMetalHardware {
    let power = serde_json::json!({"redfish": {"address": BMC, "credentials": {"name": "s"}}});
    let spec = BareMetalHardwareSpec {
        discovery_name: NAME.to_owned(),
        power: serde_json::from_value(power).expect("a spec"),
        ..BareMetalHardwareSpec::default()
    };
    let mut made = BareMetalHardware::new(NAME, spec);
    made.status = Some(BareMetalHardwareStatus {
        bmc_inventory: inventory,
        ..BareMetalHardwareStatus::default()
    });
    made
}

fn seen(inventory: Inventory) -> BareMetalDiscovery {
    let mut made = BareMetalDiscovery::new("m-seen", api::BareMetalDiscoverySpec {});
    made.status.get_or_insert_default().inventory = Some(inventory);
    made
}

#[test]
fn a_bmc_is_asked_once_and_again_where_something_changed_or_nobody_else_tells() {
    let agent = seen(inventory());
    assert_eq!(wanted(&hardware(None), None, now()), Some(Wanted::Everything));
    assert_eq!(wanted(&hardware(None), Some(&agent), now()), Some(Wanted::Identity));
    let known = hardware(Some(told()));
    assert_eq!(wanted(&known, None, now()), None);
    assert_eq!(wanted(&known, Some(&agent), now()), None);
    let later = |hours: i64| now() + SignedDuration::from_hours(hours);
    assert_eq!(wanted(&known, None, later(23)), None);
    assert_eq!(wanted(&known, None, later(27)), Some(Wanted::Everything));
    assert_eq!(wanted(&known, Some(&agent), later(23)), None, "its agent has told");
    assert_eq!(
        wanted(&known, Some(&agent), later(27)),
        Some(Wanted::Identity),
        "somebody may have swapped the BMC"
    );
    let mut others = inventory();
    others.system.uuid = "11111111-2222-3333-4444-555555555555".parse().ok();
    others.system.serial = Some("OTHER-1".to_owned());
    others.system.board_serial = None;
    others.nics.clear();
    let minutes = |minutes: i64| now() + SignedDuration::from_mins(minutes);
    assert_eq!(wanted(&known, Some(&seen(others.clone())), minutes(9)), None);
    assert_eq!(
        wanted(&known, Some(&seen(others)), minutes(10)),
        Some(Wanted::Identity),
        "until it is the right one"
    );
    let mut other = known.clone();
    if let Some(redfish) = other.spec.power.as_mut().and_then(|p| p.redfish.as_mut()) {
        redfish.system = Some("2".to_owned());
    }
    assert_eq!(
        wanted(&other, None, now()),
        Some(Wanted::Everything),
        "another machine behind the BMC"
    );
    let names = hardware(Some(BmcInventory {
        identity_only: true,
        ..told()
    }));
    assert_eq!(wanted(&names, None, now()), Some(Wanted::Everything), "its discovery was deleted");
    let mut without = known;
    without.spec.power = None;
    assert_eq!(wanted(&without, None, now()), None);
}

#[test]
fn what_is_kept_never_stands_beside_the_agents_word() {
    let (agent, none) = (seen(inventory()), hardware(None));
    assert_eq!(kept(&none, None, Some(&told())), Some(told()));
    let named = kept(&none, Some(&agent), Some(&told())).expect("its names");
    assert!(named.identity_only && named.drives.is_empty() && named.cpu.threads == 0 && named.memory.bytes == 0);
    assert_eq!((named.system, named.nics), (told().system, told().nics));
    // Deciding twice changes nothing.
    for discovery in [None, Some(&agent)] {
        let once = kept(&none, discovery, Some(&told()));
        assert_eq!(kept(&hardware(once.clone()), discovery, Some(&told())), once);
    }
    // By an operator whose clock is behind.
    let newer = BmcInventory {
        read_at: Time(now() - SignedDuration::from_hours(1)),
        memory: agent_protocol::inventory::Memory::default(),
        ..told()
    };
    assert_eq!(kept(&hardware(Some(told())), None, Some(&newer)), Some(newer));
    let elsewhere = BmcInventory {
        address: "https://192.0.2.8".to_owned(),
        ..told()
    };
    assert_eq!(kept(&hardware(Some(elsewhere)), None, None), None, "of another BMC");
}

#[test]
fn capacity_is_that_of_the_drive_that_would_be_the_root_disk() {
    let size = |spec: &BareMetalHardwareSpec, name: &str| capacity(spec, &told()).get(name).map(|q| q.0.clone());
    let mut spec = BareMetalHardwareSpec::default();
    assert_eq!(size(&spec, "cpu").as_deref(), Some("64"));
    assert_eq!(size(&spec, "memory").as_deref(), Some("16384Mi"));
    assert_eq!(size(&spec, "disk").as_deref(), Some("491520Mi"));
    spec.root_disk = Some(DiskHint {
        serial: Some("HDD1".to_owned()),
        ..DiskHint::default()
    });
    assert_eq!(size(&spec, "disk").as_deref(), Some("8388608Mi"));
    spec.root_disk = Some(DiskHint {
        kind: Some(DiskKind::NVMe),
        ..DiskHint::default()
    });
    assert_eq!(size(&spec, "disk"), None);
    let nothing = BmcInventory {
        cpu: agent_protocol::inventory::Cpu::default(),
        memory: agent_protocol::inventory::Memory::default(),
        drives: Vec::new(),
        ..told()
    };
    assert!(capacity(&spec, &nothing).is_empty(), "what is not told is no zero");
}

#[test]
fn the_agent_of_the_machine_that_a_bmc_told_of_is_known_whatever_number_its_board_has() {
    let agent = inventory();
    let verdict = |bmc: &BmcInventory, agent: &Inventory| compare(&Identity::of_bmc(bmc), &Identity::as_bmc_knows(agent, None));
    assert_eq!(verdict(&told(), &agent), Verdict::Same);
    let mut swapped = told();
    swapped.system.uuid = swapped.system.uuid.map(|uuid| uuid.swapped());
    assert_eq!(verdict(&swapped, &agent), Verdict::Same);
    // A BMC that invents a UUID, and knows the rest.
    let mut invented = told();
    invented.system.uuid = "11111111-2222-3333-4444-555555555555".parse().ok();
    assert_eq!(verdict(&invented, &agent), Verdict::Same);
    assert_eq!(contradiction(&invented, &agent), None);
    // One that tells a UUID and nothing else decides nothing.
    let mut alone = told();
    (alone.system.serial, alone.nics) = (None, Vec::new());
    assert_eq!(verdict(&alone, &agent), Verdict::Unclear);
    // A board without a number of the system's: nobody but a person decides, and nobody takes it for two.
    let mut bare = agent.clone();
    (bare.system.serial, bare.nics) = (None, Vec::new());
    assert_eq!(verdict(&told(), &bare), Verdict::Unclear);
    let mut small = told();
    small.system.serial = small.system.serial.map(|serial| serial.to_lowercase());
    assert_eq!(verdict(&small, &agent), Verdict::Same);
    let mut other = agent;
    (other.system.uuid, other.system.serial, other.nics) = (None, Some("XYZ".to_owned()), vec![nic("eth0", 9, true)]);
    assert_eq!(verdict(&told(), &other), Verdict::Different);
    assert!(contradiction(&told(), &other).is_some_and(|why| why.contains("serial number")));
}

#[test]
fn a_machine_is_awaited_until_it_was_seen_and_never_while_somebody_has_it() {
    let known = hardware(Some(told()));
    assert!(expected(&known, None).is_some());
    assert!(expected(&known, Some(&BareMetalDiscovery::new(NAME, api::BareMetalDiscoverySpec {}))).is_some());
    assert!(expected(&known, Some(&seen(inventory()))).is_none());
    let mut claimed = known.clone();
    claimed.spec.claim_ref = Some(api::hardware::ClaimRef::default());
    assert!(expected(&claimed, None).is_none());
    let silent = BmcInventory {
        system: agent_protocol::inventory::SystemIdentity::default(),
        nics: Vec::new(),
        ..told()
    };
    assert!(expected(&hardware(Some(silent)), None).is_none(), "nothing that names it");
}

#[test]
fn a_person_is_told_of_every_doubt() {
    let known = hardware(Some(told()));
    let other = seen(inventory());
    let none: [(&BareMetalDiscovery, Option<String>); 0] = [];
    assert_eq!(problem(&known, None, none.clone()), None);
    assert_eq!(problem(&known, Some(&other), none), None, "the agent agrees");
    let (reason, message) = problem(&known, None, [(&other, Some("m-own".to_owned()))]).expect("it is known");
    assert_eq!(reason, "KnownAlready");
    assert!(message.contains("BareMetalHardware m-own"), "{message}");
    let mut stranger = inventory();
    (stranger.system.uuid, stranger.system.serial, stranger.system.board_serial) =
        ("11111111-2222-3333-4444-555555555555".parse().ok(), Some("ZZZZ".to_owned()), None);
    stranger.nics = vec![nic("eth0", 9, true)];
    let (reason, message) = problem(&known, Some(&seen(stranger.clone())), []).expect("another machine");
    assert!(reason == "OtherMachine" && message.contains(BMC), "{message}");
    assert_eq!(problem(&known, None, [(&seen(stranger.clone()), None)]), None);
    assert_eq!(twins(&inventory(), [&known, &hardware(None)]), [NAME]);
    assert_eq!(twins(&stranger, [&known]), Vec::<String>::new());
}
