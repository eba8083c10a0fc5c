//! Whatever a document has beside, instead of or in another form than the standard says: a power action that could have been done is still found.

use power::{
    Operation, PowerState,
    inventory::{Inventory, LONGEST_TEXT, MOST_DRIVES, MOST_INTERFACES},
    redfish::{
        inventory::{self, Sum},
        quirks,
        reader::{self, Link},
        system::{self, Drive, System},
    },
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// A document as the schema has it.
fn document() -> Value {
    json!({
        "@odata.id": "/redfish/v1/Systems/1", "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem", "Id": "1", "Name": "node", "UUID": "27946b59-9e44-4fa7-8e91-f3527a1ef094",
        "SerialNumber": "S1", "Manufacturer": "Acme", "PowerState": "On", "Status": {"State": "Enabled", "Health": "OK"}, "IndicatorLED": "Lit",
        "MemorySummary": {"TotalSystemMemoryGiB": 96, "Status": {"Health": "OK"}}, "ProcessorSummary": {"Count": 2},
        "Boot": {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None", "BootSourceOverrideMode": "UEFI",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Cd", "Hdd"]},
        "Links": {"ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}], "Chassis": [{"@odata.id": "/redfish/v1/Chassis/1"}]},
        "@Redfish.Settings": {"SettingsObject": {"@odata.id": "/redfish/v1/Systems/1/SD"}},
        "VirtualMedia": {"@odata.id": "/redfish/v1/Systems/1/VirtualMedia"},
        "Actions": {"#ComputerSystem.Reset": {"target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "ForceRestart"]}}
    })
}

pub fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[A-Za-z@#.]{0,10}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
        ]
    })
}

/// Something that is done to a member, chosen by a number: the members are counted as they are walked.
#[derive(Debug, Clone)]
pub enum Change {
    /// Gone, null, or anything.
    Becomes(Option<Value>),
    /// Beside it there is another one.
    Joined(String, Value),
}

pub fn change() -> impl Strategy<Value = (usize, Change)> {
    let kinds = prop_oneof![
        Just(Change::Becomes(None)),
        Just(Change::Becomes(Some(Value::Null))),
        anything().prop_map(|value| Change::Becomes(Some(value))),
        ("[A-Z][a-z]{0,8}", anything()).prop_map(|(name, value)| Change::Joined(name, value)),
    ];
    (0..60_usize, kinds)
}

/// Whether a power action stands or falls with a member: the action's own words, and what it is called.
fn matters(path: &str) -> bool {
    path.contains("ResetType@Redfish.AllowableValues")
}

pub fn apply(value: &mut Value, path: &str, count: &mut usize, change: &(usize, Change)) {
    let Value::Object(members) = value else { return };
    let names: Vec<String> = members.keys().cloned().collect();
    for name in names {
        let path = format!("{path}/{name}");
        if *count == change.0 && !matters(&path) {
            match &change.1 {
                Change::Becomes(None) => {
                    members.remove(&name);
                }
                // What an absent target means is known; one that leads elsewhere is what the service says.
                Change::Becomes(Some(value)) if !(name == "target" && value.is_string()) => {
                    members.insert(name.clone(), value.clone());
                }
                Change::Becomes(Some(_)) => {}
                Change::Joined(name, value) => {
                    members.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        *count += 1;
        if let Some(member) = members.get_mut(&name) {
            apply(member, &path, count, change);
        }
    }
}

/// Numbers and booleans as text, links absolute or without their slash.
pub fn reword(value: &mut Value, how: u8) {
    match value {
        Value::Object(members) => members.values_mut().for_each(|member| reword(member, how)),
        Value::Array(items) => items.iter_mut().for_each(|item| reword(item, how)),
        Value::Number(_) | Value::Bool(_) if how & 1 != 0 => *value = Value::from(value.to_string()),
        Value::String(text) if text.starts_with("/redfish") => match how >> 1 & 3 {
            0 => {}
            1 => *text = format!("https://10.1.2.3:443{text}"),
            2 => *text = text.trim_start_matches('/').to_owned(),
            _ => *text = format!("http://bmc.invalid{text}#/here"),
        },
        _ => {}
    }
}

/// Documents of an inventory as the schemas have them, in one: each reader takes its own members.
fn machine() -> Value {
    let mut machine = document();
    let members = json!({
        "Model": "Node 9", "BiosVersion": "2.1", "AssetTag": "A-7", "ProcessorSummary": {"Count": 2, "Model": "CPU", "CoreCount": 32, "LogicalProcessorCount": 64},
        "ProcessorType": "CPU", "TotalCores": 16, "TotalThreads": 32, "InstructionSet": "x86-64", "CapacityMiB": 32768,
        "PermanentMACAddress": "AA:BB:CC:00:00:01", "MACAddress": "AA:BB:CC:00:00:01", "LinkStatus": "LinkUp", "SpeedMbps": 25000,
        "CapacityBytes": 480_103_981_056_u64, "MediaType": "SSD", "Protocol": "NVMe", "Identifiers": [{"DurableNameFormat": "NAA", "DurableName": "5002538E00000001"}],
        "Devices": [{"Name": "SATA 1", "Model": "X", "CapacityBytes": 1_000_204_886_016_u64}]
    });
    for (name, value) in members.as_object().into_iter().flatten() {
        machine[name] = value.clone();
    }
    machine
}

/// Everything that can be read of a document, as each kind that it can be.
fn taken(document: &Value) -> Inventory {
    let (mut found, mut sum) = (Inventory::default(), Sum::default());
    inventory::read_system(document, quirks::of("Dell Inc."), &mut found);
    inventory::read_processor(document, &mut sum, &mut found);
    inventory::add_up(&sum, &mut found);
    inventory::read_module(document, &mut found);
    inventory::read_interface(document, &mut found);
    inventory::read_drive(document, &mut found);
    inventory::read_simple_storage(document, &mut found);
    found
}

fn is_bounded(found: &Inventory) -> bool {
    let short = |text: &Option<String>| {
        text.as_ref()
            .is_none_or(|text| !text.is_empty() && text.chars().count() <= LONGEST_TEXT && !text.contains(char::is_control))
    };
    let names = [
        &found.vendor,
        &found.product,
        &found.serial,
        &found.uuid,
        &found.asset_tag,
        &found.firmware,
        &found.processors.model,
    ];
    let drives = found
        .drives
        .iter()
        .flat_map(|drive| [&drive.model, &drive.serial, &drive.wwn, &drive.protocol]);
    names.into_iter().chain(drives).all(short) && found.interfaces.len() <= MOST_INTERFACES && found.drives.len() <= MOST_DRIVES
}

fn here() -> Link {
    Link::parse("/redfish/v1/Systems/1").expect("a link")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_power_action_that_could_be_done_is_found(changes in prop::collection::vec(change(), 0..6), how in any::<u8>()) {
        let mut odd = document();
        for change in &changes {
            apply(&mut odd, "", &mut 0, change);
        }
        reword(&mut odd, how);
        let system = System::read(here(), &odd);
        prop_assert_eq!(system.reset.as_str(), "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset");
        for (operation, best) in [(Operation::On, "On"), (Operation::OffHard, "ForceOff"), (Operation::OffSoft, "GracefulShutdown"), (Operation::Cycle, "ForceRestart")] {
            let words = system::resets(operation, system.resets.as_deref());
            prop_assert_eq!(words.map(|words| words[0].clone()), Ok(best.to_owned()));
        }
    }

    #[test]
    fn forms_do_not_matter(how in any::<u8>()) {
        let mut odd = document();
        reword(&mut odd, how);
        let (plain, odd) = (System::read(here(), &document()), System::read(here(), &odd));
        prop_assert_eq!(&plain, &odd);
        prop_assert_eq!(plain.power, PowerState::On);
        prop_assert_eq!(plain.managers.len(), 1);
    }

    #[test]
    fn what_a_machine_is_stands_there_in_every_form(how in any::<u8>()) {
        let mut odd = machine();
        reword(&mut odd, how);
        let (plain, odd) = (taken(&machine()), taken(&odd));
        prop_assert_eq!(&plain, &odd);
        prop_assert_eq!(plain.processors.threads, Some(32));
        prop_assert_eq!(plain.memory_bytes, Some(128 << 30));
        prop_assert_eq!((plain.interfaces.len(), plain.drives.len()), (1, 2));
    }

    /// What is odd about one member costs that member and those that stand for it, and no other.
    #[test]
    fn a_member_that_is_odd_costs_itself_and_no_other(changes in prop::collection::vec(change(), 1..6), how in any::<u8>()) {
        let mut odd = machine();
        for change in &changes {
            apply(&mut odd, "", &mut 0, change);
        }
        let untouched = |name: &str| odd.get(name) == machine().get(name);
        let (product, firmware, mac, processors) = (untouched("Model"), untouched("BiosVersion"), untouched("PermanentMACAddress"),
            ["TotalCores", "TotalThreads", "ProcessorType", "Status"].into_iter().all(untouched));
        let (ethernet, links) = (odd.get("Ethernet").is_none(), untouched("Links"));
        reword(&mut odd, how);
        let found = taken(&odd);
        prop_assert!(is_bounded(&found), "{found:?}");
        if product {
            prop_assert_eq!(found.product.as_deref(), Some("Node 9"));
        }
        if firmware {
            prop_assert_eq!(found.firmware.as_deref(), Some("2.1"));
        }
        if processors {
            prop_assert_eq!((found.processors.cores, found.processors.threads), (Some(16), Some(32)));
        }
        if mac && processors && ethernet && links {
            prop_assert_eq!(found.interfaces[0].mac.as_str(), "AA:BB:CC:00:00:01");
        }
    }

    #[test]
    fn anything_at_all_is_read(document in anything()) {
        let system = System::read(here(), &document);
        prop_assert!(system.is_called("1"));
        let _drive = Drive::read(here(), &document);
        let _members = reader::members(&document);
        let _listed = system::listed_resets(&document);
        let _said = reader::complaint(&document);
        prop_assert!(is_bounded(&taken(&document)));
        let _whole = (inventory::is_whole(&document), inventory::expansion(&document));
    }
}
