//! Whatever a document has beside, instead of or in another form than the standard says: a power action that could have been done is still found.

use power::{
    Operation, PowerState,
    redfish::{
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
    fn anything_at_all_is_read(document in anything()) {
        let system = System::read(here(), &document);
        prop_assert!(system.is_called("1"));
        let _drive = Drive::read(here(), &document);
        let _members = reader::members(&document);
        let _listed = system::listed_resets(&document);
        let _said = reader::complaint(&document);
    }
}
