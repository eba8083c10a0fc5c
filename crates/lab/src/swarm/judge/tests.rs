//! Each planted crime is found; a clean life is acquitted.

use agent_protocol::disk::ContentsState;

use super::*;

fn at(version: u64, name: &str, seen: Seen) -> Record {
    Record {
        at: Duration::from_secs(version),
        version,
        name: name.to_owned(),
        gap: false,
        seen,
    }
}

fn instance(uid: &str, hardware: Option<&str>, phase: InstancePhase) -> Seen {
    let evidence = (phase == InstancePhase::Running).then_some(RunningEvidence::GuestReported);
    Seen::Instance {
        uid: uid.to_owned(),
        hardware: hardware.map(str::to_owned),
        phase,
        evidence,
        deleting: false,
        reason: String::new(),
    }
}

fn hardware(phase: HardwarePhase, claim: Option<&str>, order: Option<(&str, OrderKind)>, erased: Option<&str>) -> Seen {
    Seen::Hardware {
        phase,
        claim: claim.map(str::to_owned),
        order: order.map(|(id, kind)| (id.to_owned(), kind, claim.unwrap_or_default().to_owned())),
        erased: erased.map(str::to_owned),
        installed: None,
        reason: String::new(),
    }
}

fn gone(version: u64, name: &str) -> Record {
    at(version, name, Seen::Gone { kind: Kind::Instance })
}

fn did(seconds: u64, machine: usize, fact: Fact) -> Entry {
    Entry {
        at: Duration::from_secs(seconds),
        machine,
        fact,
    }
}

fn begun(order: &str, kind: OrderKind, claim: &str, held: &str) -> Fact {
    Fact::Begun {
        order: order.to_owned(),
        kind,
        claim: claim.to_owned(),
        state: ContentsState::Blank,
        held: held.to_owned(),
        packed: None,
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// One machine, one instance, from first sight to erased.
fn life() -> (Vec<Record>, Vec<Entry>) {
    use HardwarePhase::{InUse, Provisioning, Ready, Releasing, Reserved};
    let records = vec![
        at(1, "m", Seen::Discovery { mac: Some(MAC) }),
        at(2, "m", hardware(Ready, None, None, None)),
        at(3, "d/i", instance("u", None, InstancePhase::Pending)),
        at(4, "d/i", instance("u", Some("m"), InstancePhase::Provisioning)),
        at(5, "m", hardware(Reserved, Some("u"), None, None)),
        at(6, "m", hardware(Provisioning, Some("u"), Some(("o1", OrderKind::Image)), None)),
        at(7, "m", hardware(InUse, Some("u"), None, None)),
        at(9, "d/i", instance("u", Some("m"), InstancePhase::Running)),
        at(10, "m", hardware(Releasing, Some("u"), Some(("o2", OrderKind::Erase)), None)),
        at(11, "m", hardware(Releasing, Some("u"), None, Some("u"))),
        at(12, "m", hardware(Ready, None, None, Some("u"))),
        gone(13, "d/i"),
    ];
    let entries = vec![
        did(6, 0, begun("o1", OrderKind::Image, "u", "")),
        did(8, 0, Fact::Runs { instance: "u".to_owned() }),
        did(10, 0, Fact::Ends { instance: "u".to_owned() }),
        did(10, 0, begun("o2", OrderKind::Erase, "u", "u")),
    ];
    (records, entries)
}

fn verdict(change: impl FnOnce(&mut Vec<Record>, &mut Vec<Entry>)) -> String {
    let (mut records, mut entries) = life();
    change(&mut records, &mut entries);
    records.sort_by_key(|r| r.version);
    judge(&records, &entries).join("\n")
}

#[test]
fn an_honest_life_is_acquitted() {
    assert_eq!(verdict(|_, _| {}), "");
    assert_eq!(complete(&life().0, &[MAC]), Vec::<String>::new());
}

#[test]
fn a_machine_with_two_instances_is_found() {
    let found = verdict(|r, _| r.push(at(8, "d/other", instance("v", Some("m"), InstancePhase::Provisioning))));
    assert!(found.contains("m is bound to d/other while d/i has it"), "{found}");
    // After the first one is gone, it is nobody's crime.
    assert_eq!(
        verdict(|r, _| r.push(at(14, "d/other", instance("v", Some("m"), InstancePhase::Provisioning)))),
        ""
    );
}

#[test]
fn an_instance_that_moves_is_found() {
    let found = verdict(|r, _| r.push(at(8, "d/i", instance("u", Some("n"), InstancePhase::Booting))));
    assert!(found.contains("d/i was moved from m to n"), "{found}");
}

#[test]
fn a_claim_that_is_stolen_doubled_or_dropped_unerased_is_found() {
    let found = verdict(|r, _| r.push(at(8, "m", hardware(HardwarePhase::Reserved, Some("v"), None, None))));
    assert!(found.contains("m went from the claim u to v at once"), "{found}");
    assert!(found.contains("without evidence"), "{found}");
    let found = verdict(|r, _| r.push(at(8, "n", hardware(HardwarePhase::Reserved, Some("u"), None, None))));
    assert!(found.contains("the claim u is on m and on n"), "{found}");
    let found = verdict(|r, _| r.retain(|r| r.version != 11 && r.version != 12));
    assert_eq!(found, "", "without its end it is merely unfinished");
    let found = verdict(|r, _| {
        r.retain(|r| r.version != 11);
        r.iter_mut()
            .filter(|r| r.version == 12)
            .for_each(|r| r.seen = hardware(HardwarePhase::Ready, None, None, None));
    });
    assert!(found.contains("m lost the claim u without evidence"), "{found}");
}

#[test]
fn an_act_without_an_order_or_on_another_installation_is_found() {
    let found = verdict(|_, e| e.push(did(12, 0, begun("o9", OrderKind::Erase, "u", ""))));
    assert!(found.contains("order o9 never stood in any hardware"), "{found}");
    let found = verdict(|_, e| e.push(did(12, 0, begun("o1", OrderKind::Erase, "u", ""))));
    assert!(found.contains("order o1 is not what stands in its hardware"), "{found}");
    let found = verdict(|_, e| e.push(did(12, 0, begun("o2", OrderKind::Erase, "u", "w"))));
    assert!(found.contains("destroyed the installation of w"), "{found}");
}

#[test]
fn running_before_it_ran_and_running_twice_are_found() {
    let found = verdict(|_, e| e.iter_mut().for_each(|e| e.at += Duration::from_secs(5)));
    assert!(found.contains("is said to run"), "{found}");
    let found = verdict(|_, e| e.insert(2, did(9, 1, Fact::Runs { instance: "u".to_owned() })));
    assert!(found.contains("u runs on machines {0, 1} at once"), "{found}");
}

#[test]
fn the_lost_the_unknown_and_the_unfinished_are_found() {
    let (mut records, _) = life();
    assert!(complete(&records, &[MAC, [9; 6]]).join("\n").contains("1 machines are lost"));
    records.pop();
    assert!(complete(&records, &[MAC]).join("\n").contains("instance d/i is still there"));
    records.push(at(14, "x", Seen::Discovery { mac: Some([7; 6]) }));
    assert!(complete(&records, &[MAC]).join("\n").contains("x is no machine of the swarm"));
    records.push(at(15, "m", hardware(HardwarePhase::Quarantined, None, None, Some("w"))));
    let found = complete(&records, &[MAC]).join("\n");
    assert!(
        found.contains("m is Quarantined") && found.contains("last erased for Some(\"w\")"),
        "{found}"
    );
}

#[test]
fn a_bmc_that_takes_a_system_from_its_instance_is_found() {
    let switched = |instance: &str| Fact::Switched {
        instance: instance.to_owned(),
    };
    let found = verdict(|_, e| e.push(did(9, 0, switched("u"))));
    assert!(found.contains("its BMC switched it while it ran u"), "{found}");
    assert_eq!(verdict(|_, e| e.push(did(9, 0, switched("")))), "", "it ran nobody's system");
    assert_eq!(verdict(|_, e| e.push(did(8, 0, switched("u")))), "", "nobody was told that it runs");
    let accused = |given_back| {
        verdict(|r, e| {
            let mut seen = instance("u", Some("m"), InstancePhase::Running);
            if let Seen::Instance { deleting, .. } = &mut seen {
                *deleting = true;
            }
            r.push(at(given_back, "d/i", seen));
            e.push(did(10, 0, switched("u")));
        })
    };
    assert_eq!(accused(10), "", "it was given back");
    assert!(accused(13).contains("nobody had given back"), "{}", accused(13));
}
