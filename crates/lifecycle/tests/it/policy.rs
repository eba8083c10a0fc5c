//! Policies: CEL over an inventory.

use api::{BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec, common::NetworkRef, policy::PolicyAction};
use lifecycle::{
    hardware,
    policy::{Answer, evaluate},
};
use proptest::prelude::*;

use crate::world::{foreign, inventory};

fn policy(name: &str, priority: i32, when: &str, action: PolicyAction) -> BareMetalDiscoveryPolicy {
    BareMetalDiscoveryPolicy::new(
        name,
        BareMetalDiscoveryPolicySpec {
            priority,
            when: when.to_owned(),
            action,
            ..BareMetalDiscoveryPolicySpec::default()
        },
    )
}

fn accepted_by(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::Accept(acceptance) => Some(&acceptance.policy),
        Answer::Hold(_) | Answer::NoMatch => None,
    }
}

#[test]
fn the_first_by_priority_then_by_name_decides() {
    let policies = [
        policy("c", 1, "true", PolicyAction::Accept),
        policy("b", 1, "true", PolicyAction::Accept),
        policy("a", 0, "true", PolicyAction::Hold),
        policy("z", 9, "inventory.memory.bytes > 1099511627776", PolicyAction::Hold),
    ];
    let found = evaluate(&policies, &inventory());
    assert_eq!(accepted_by(&found.answer), Some("b"));
    assert!(found.errors.is_empty());
    assert_eq!(evaluate([], &inventory()).answer, Answer::NoMatch);
}

#[test]
fn expressions_see_the_inventory_as_it_is_shown() {
    for when in [
        r#"inventory.memory.bytes >= 8589934592 && inventory.system.vendor == "Dell Inc.""#,
        "inventory.disks.exists(d, d.sizeBytes >= 64 * 1024 * 1024 * 1024 && !d.removable)",
        "inventory.disks.all(d, d.contents.state == 'Blank')",
        "inventory.cpu.threads == 8 && inventory.cpu.architecture == 'amd64'",
        "!has(inventory.bmc) && inventory.firmware.mode == 'UEFI'",
        "inventory.nics.exists(n, n.mac.startsWith('52:54:00'))",
        "inventory.system.product.matches('^OptiPlex [0-9]+$')",
        "size(inventory.disks) == 1",
    ] {
        let found = evaluate([&policy("p", 0, when, PolicyAction::Accept)], &inventory());
        assert_eq!(accepted_by(&found.answer), Some("p"), "{when}: {:?}", found.errors);
    }
}

#[test]
fn a_broken_policy_is_named_and_never_accepts_and_a_broken_hold_holds() {
    for when in [
        "inventory.memory.bytes >",
        "inventory.bmc.address == 'x'",
        "inventory.memory.bytes",
        "nothing == 1",
    ] {
        let broken = policy("broken", 1, when, PolicyAction::Accept);
        let found = evaluate([&broken], &inventory());
        assert_eq!(found.answer, Answer::NoMatch, "{when}");
        let message = found.errors[0].to_string();
        assert!(message.starts_with("BareMetalDiscoveryPolicy broken: spec.when "), "{message}");
        let good = policy("good", 0, "true", PolicyAction::Accept);
        let found = evaluate([&broken, &good], &inventory());
        assert_eq!(accepted_by(&found.answer), Some("good"));
        assert_eq!(found.errors.len(), 1);
        let hold = policy("hold", 1, when, PolicyAction::Hold);
        assert_eq!(evaluate([&hold, &good], &inventory()).answer, Answer::Hold("hold".to_owned()));
    }
}

#[test]
fn a_paused_policy_leaves_what_it_matches_alone() {
    let mut paused = policy("paused", 1, "true", PolicyAction::Accept);
    paused.spec.paused = true;
    let good = policy("good", 0, "true", PolicyAction::Accept);
    assert_eq!(evaluate([&paused, &good], &inventory()).answer, Answer::Hold("paused".to_owned()));
}

#[test]
fn acceptance_makes_the_hardware_object() {
    let mut made = policy("lab", 0, "true", PolicyAction::Accept);
    made.spec.labels = [("rack".to_owned(), "r1".to_owned())].into();
    made.spec.class = Some("small".to_owned());
    made.spec.network_ref = Some(NetworkRef::network("lan"));
    made.spec.erase_foreign_data = true;
    let Answer::Accept(acceptance) = evaluate([&made], &inventory()).answer else {
        panic!("accepts");
    };
    let mut holds_something = inventory();
    for disk in &mut holds_something.disks {
        disk.contents = foreign(&disk.name);
    }
    let hardware = hardware::accepted("m-x", &holds_something, &acceptance);
    assert_eq!(hardware.metadata.name.as_deref(), Some("m-x"));
    assert_eq!(hardware.spec.discovery_name, "m-x");
    assert_eq!(hardware.spec.nics[0].mac, inventory().nics[0].mac);
    let chosen = lifecycle::disks::choose(&hardware.spec, &holds_something).unwrap();
    let consent = hardware.spec.erase_consent.unwrap();
    assert_eq!(
        (consent.fingerprints, consent.at_acceptance),
        (vec![chosen.contents.fingerprint.clone()], false)
    );
    // A blank disk has nothing to give up, and what comes later is not given up; where there is no disk yet, what it will hold at the first look is.
    assert_eq!(hardware::accepted("m-x", &inventory(), &acceptance).spec.erase_consent, None);
    holds_something.disks.clear();
    let consent = hardware::accepted("m-x", &holds_something, &acceptance).spec.erase_consent.unwrap();
    assert!(consent.at_acceptance && consent.fingerprints.is_empty());
    let careful = policy("lab", 0, "true", PolicyAction::Accept);
    let Answer::Accept(acceptance) = evaluate([&careful], &inventory()).answer else {
        panic!("accepts");
    };
    assert!(hardware::accepted("m-x", &inventory(), &acceptance).spec.erase_consent.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_expression_panics(when in "[a-z0-9.()\\[\\]'\"&|!<>=+*/% -]{0,40}") {
        evaluate([&policy("p", 0, &when, PolicyAction::Accept)], &inventory());
    }
}
