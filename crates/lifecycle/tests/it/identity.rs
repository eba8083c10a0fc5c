//! Which machine is it? (Bar B7 among others.)

use agent_protocol::{
    identity::{MacAddress, SystemUuid},
    inventory::Inventory,
};
use lifecycle::identity::{Identity, Index, Match, Verdict, compare, discovery_name};
use proptest::prelude::*;

use crate::world::{disk, inventory, nic};

fn machine(uuid: &str, board: Option<&str>, mac: u8, disk_serial: &str) -> Inventory {
    let mut made = inventory();
    made.system.uuid = uuid.parse().ok();
    made.system.serial = None;
    made.system.board_serial = board.map(str::to_owned);
    made.nics = vec![nic("eth0", mac, true)];
    made.disks = vec![disk("sda", disk_serial, 64)];
    made
}

fn id(inventory: &Inventory) -> Identity {
    Identity::of(inventory, None)
}

const GOOD: &str = "4c4c4544-0042-3510-8054-b4c04f4d3132";
const BOGUS: &str = "03000200-0400-0500-0006-000700080009";
const ZERO: &str = "00000000-0000-0000-0000-000000000000";

#[test]
fn bogus_uuids_make_no_two_machines_one_and_a_changed_nic_no_machine_two() {
    let machines = [
        machine(BOGUS, None, 1, "DISK0001"),
        machine(BOGUS, None, 2, "DISK0002"),
        machine(ZERO, None, 3, "DISK0003"),
        machine(GOOD, None, 4, "DISK0004"),
    ];
    let mut index = Index::default();
    for (at, machine) in machines.iter().enumerate() {
        assert_eq!(index.match_inventory(&id(machine)), Match::New, "machine {at} is new");
        index.upsert(&format!("m-{at}"), id(machine));
    }
    let names: std::collections::BTreeSet<_> = machines.iter().map(|m| discovery_name(&id(m), 0)).collect();
    assert_eq!(names.len(), 4);
    // The last one gets another NIC while it is in use.
    let mut changed = machines[3].clone();
    changed.nics = vec![nic("eth0", 9, true)];
    assert_eq!(index.match_inventory(&id(&changed)), Match::Known("m-3".to_owned()));
    // At the boot request the UUID points to it, the MAC to nobody: the agent looks closer.
    let asked = index.match_boot(GOOD.parse().ok(), MacAddress([0x52, 0x54, 0, 0, 0, 9]));
    assert_eq!(
        asked,
        Match::Unclear {
            names: vec!["m-3".to_owned()],
            message: "the UUID and the MAC of this boot request belong to different machines".to_owned()
        }
    );
    index.upsert("m-3", id(&changed));
    let asked = index.match_boot(GOOD.parse().ok(), MacAddress([0x52, 0x54, 0, 0, 0, 9]));
    assert_eq!(asked, Match::Known("m-3".to_owned()));
}

#[test]
fn the_marks_are_weighed_together() {
    let known = machine(GOOD, Some("BOARD1"), 1, "DISK0001");
    let other = "11111111-2222-3333-4444-555555555555";
    let cases = [
        (
            "NIC and disk replaced, board the same by both marks",
            machine(GOOD, Some("BOARD1"), 2, "DISK0002"),
            Verdict::Unclear,
        ),
        ("NIC replaced", machine(GOOD, Some("BOARD1"), 2, "DISK0001"), Verdict::Same),
        ("disk replaced", machine(GOOD, Some("BOARD1"), 1, "DISK0002"), Verdict::Same),
        (
            "UUID shipped twice",
            machine(GOOD, Some("BOARD2"), 2, "DISK0002"),
            Verdict::Different,
        ),
        (
            "UUID shipped twice, no serials",
            machine(GOOD, None, 2, "DISK0002"),
            Verdict::Different,
        ),
        ("disk moved", machine(other, Some("BOARD2"), 2, "DISK0001"), Verdict::Different),
        ("NIC moved", machine(other, Some("BOARD2"), 1, "DISK0002"), Verdict::Different),
        ("board replaced", machine(other, Some("BOARD2"), 1, "DISK0001"), Verdict::Unclear),
        (
            "firmware lost its UUID",
            machine(ZERO, Some("BOARD1"), 1, "DISK0001"),
            Verdict::Same,
        ),
        ("another machine", machine(other, Some("BOARD2"), 2, "DISK0002"), Verdict::Different),
    ];
    for (what, found, verdict) in cases {
        assert_eq!(compare(&id(&known), &id(&found)), verdict, "{what}");
        assert_eq!(compare(&id(&found), &id(&known)), verdict, "{what}, the other way round");
    }
}

#[test]
fn a_conflict_never_becomes_a_second_object() {
    let mut index = Index::default();
    index.upsert("m-a", id(&machine(GOOD, Some("BOARD1"), 1, "DISK0001")));
    let replaced_board = machine("11111111-2222-3333-4444-555555555555", Some("BOARD2"), 1, "DISK0001");
    assert!(matches!(index.match_inventory(&id(&replaced_board)), Match::Unclear { names, .. } if names == ["m-a"]));
}

#[test]
fn serials_that_every_disk_has_are_no_marks() {
    let a = machine(ZERO, None, 1, "QM00001");
    let b = machine(ZERO, None, 2, "QM00001");
    assert_eq!(compare(&id(&a), &id(&b)), Verdict::Different);
}

#[test]
fn names_are_stable_and_salted() {
    let a = id(&inventory());
    assert_eq!(discovery_name(&a, 0), discovery_name(&a, 0));
    assert_ne!(discovery_name(&a, 0), discovery_name(&a, 1));
    let name = discovery_name(&a, 0);
    assert!(name.len() == 12 && name.starts_with("m-") && name[2..].bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
}

fn any_machine() -> impl Strategy<Value = Inventory> {
    let uuid = prop_oneof![Just(ZERO), Just(BOGUS), Just(GOOD), Just("11111111-2222-3333-4444-555555555555")];
    let board = prop_oneof![Just(None), Just(Some("BOARD1")), Just(Some("BOARD2"))];
    let disk = prop_oneof![Just("QM00001"), Just("DISK0001"), Just("DISK0002")];
    (uuid, board, 1u8..4, disk).prop_map(|(u, b, m, d)| machine(u, b, m, d))
}

proptest! {
    #[test]
    fn comparing_is_symmetric_and_reflexive(a in any_machine(), b in any_machine()) {
        prop_assert_eq!(compare(&id(&a), &id(&b)), compare(&id(&b), &id(&a)));
        prop_assert_eq!(compare(&id(&a), &id(&a)), Verdict::Same);
    }

    #[test]
    fn the_byte_order_of_a_uuid_does_not_matter(bytes: [u8; 16]) {
        let mut a = machine(ZERO, None, 1, "QM00001");
        a.system.uuid = Some(SystemUuid(bytes));
        let mut b = a.clone();
        b.system.uuid = Some(SystemUuid(bytes).swapped());
        prop_assert_eq!(id(&a), id(&b));
        let mut index = Index::default();
        index.upsert("m", id(&a));
        prop_assert_eq!(index.match_boot(b.system.uuid, b.nics[0].mac), Match::Known("m".to_owned()));
    }

    #[test]
    fn the_index_answers_as_a_comparison_with_every_machine(all in prop::collection::vec(any_machine(), 0..6), asked in any_machine(), gone in 0usize..6) {
        let mut index = Index::default();
        for (at, machine) in all.iter().enumerate() {
            index.upsert(&format!("m-{at}"), id(machine));
        }
        index.remove(&format!("m-{gone}"));
        let left: Vec<_> = all.iter().enumerate().filter(|(at, _)| *at != gone).collect();
        let verdicts = |v: Verdict| -> Vec<String> {
            left.iter().filter(|(_, m)| compare(&id(m), &id(&asked)) == v).map(|(at, _)| format!("m-{at}")).collect()
        };
        let (same, unclear) = (verdicts(Verdict::Same), verdicts(Verdict::Unclear));
        match index.match_inventory(&id(&asked)) {
            Match::Known(name) => prop_assert_eq!(vec![name], same),
            Match::New => prop_assert!(same.is_empty() && unclear.is_empty()),
            Match::Unclear { names, .. } => prop_assert_eq!(names, if same.is_empty() { unclear } else { same }),
        }
        prop_assert_eq!(index.len(), left.len());
    }
}
