//! Agent or own disk?

use api::{HardwarePhase, conditions, discovery::BootAnswer};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    boot::{self, BootFacts},
    config::{Config, UnacceptedPolicy},
    identity::Match,
};

use crate::world::{NAME, World, instance};

fn ask(world: &World, matched: &Match, accepted: bool, unaccepted: UnacceptedPolicy, conflict_known: bool) -> boot::BootDecision {
    let config = Config {
        unaccepted,
        ..Config::default()
    };
    boot::decide(&BootFacts {
        matched,
        discovery: matches!(matched, Match::Known(_)).then_some(&world.discovery),
        hardware: accepted.then_some(&world.hardware),
        conflict_known,
        has_media: true,
        config: &config,
        now: world.now,
    })
}

#[test]
fn a_machine_that_nobody_accepted_is_looked_at_and_then_left_alone() {
    use UnacceptedPolicy::{Hold, Ignore, Inventory};
    let mut world = World::new();
    let known = Match::Known(NAME.to_owned());
    for (policy, unknown, early, late) in [
        (Ignore, BootAnswer::LocalDisk, BootAnswer::LocalDisk, BootAnswer::LocalDisk),
        (Inventory, BootAnswer::Agent, BootAnswer::Agent, BootAnswer::LocalDisk),
        (Hold, BootAnswer::Agent, BootAnswer::Agent, BootAnswer::Agent),
    ] {
        world.discovery.metadata.creation_timestamp = Some(Time(world.now));
        assert_eq!(ask(&world, &Match::New, false, policy, false).answer, unknown, "{policy:?}");
        assert_eq!(ask(&world, &known, false, policy, false).answer, early, "{policy:?}");
        world.pass(600);
        assert_eq!(ask(&world, &known, false, policy, false).answer, late, "{policy:?}");
    }
}

#[test]
fn doubt_leads_to_the_agent_once_and_then_to_the_own_disk() {
    let world = World::new();
    let unclear = Match::Unclear {
        names: vec![NAME.to_owned()],
        message: String::new(),
    };
    assert_eq!(
        ask(&world, &unclear, false, UnacceptedPolicy::Inventory, false).answer,
        BootAnswer::Agent
    );
    assert_eq!(
        ask(&world, &unclear, false, UnacceptedPolicy::Inventory, true).answer,
        BootAnswer::LocalDisk
    );
}

#[test]
fn a_machine_that_no_kernel_is_there_for_boots_its_own_disk_and_that_is_no_evidence() {
    let world = World::ready();
    let (matched, config) = (Match::Known(NAME.to_owned()), Config::default());
    let decide = |has_media| {
        boot::decide(&BootFacts {
            matched: &matched,
            discovery: Some(&world.discovery),
            hardware: Some(&world.hardware),
            conflict_known: false,
            has_media,
            config: &config,
            now: world.now,
        })
    };
    assert_eq!((decide(true).answer, decide(true).reason), (BootAnswer::Agent, "Accepted"));
    let without = decide(false);
    assert_eq!(
        (without.answer, without.reason, without.record),
        (BootAnswer::LocalDisk, boot::NO_BOOT_MEDIA, false)
    );
    // One that is given back, or doubted, boots its old system no more.
    let mut released = World::running();
    released.delete(0);
    released.settle();
    let decision = boot::decide(&BootFacts {
        matched: &matched,
        discovery: Some(&released.discovery),
        hardware: Some(&released.hardware),
        conflict_known: false,
        has_media: false,
        config: &config,
        now: released.now,
    });
    assert_eq!((decision.answer, decision.reason), (BootAnswer::Agent, "Releasing"));
    // Who boots its disk anyway is told why as ever.
    let mut out = world;
    out.hardware.spec.maintenance = true;
    let decision = boot::decide(&BootFacts {
        matched: &matched,
        discovery: Some(&out.discovery),
        hardware: Some(&out.hardware),
        conflict_known: false,
        has_media: false,
        config: &config,
        now: out.now,
    });
    assert_eq!(decision.reason, "Maintenance");
}

#[test]
fn a_machine_in_use_boots_its_disk_and_that_is_evidence() {
    let mut world = World::ready();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(world.boot_request(), BootAnswer::Agent, "nothing was written yet");
    let order = world.poll();
    world.obey(&order);
    // Before the operator has read the result.
    world.pass(1);
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
    let boots = world.seen().boots.clone();
    assert_eq!((boots.len(), boots[0].instance_uid.as_str()), (1, "uid-1"));
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
    assert_eq!(world.seen().boots.len(), 1, "asked twice in a breath, recorded once");
    world.pass(120);
    world.boot_request();
    assert_eq!(world.seen().boots.len(), 2);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
}

#[test]
fn a_lost_agent_is_shown_and_is_not_given_an_image() {
    let mut world = World::ready();
    let now = Time(world.now);
    conditions::set(
        &mut world.seen().conditions,
        conditions::AGENT_CONNECTED,
        false,
        "Silent",
        "No poll for 90 s",
        None,
        &now,
    );
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert!(
        world.instance_status(0).message.contains("1 not answering"),
        "{}",
        world.instance_status(0).message
    );
    assert_eq!(world.config.power_cycle_after, SignedDuration::from_mins(2));
}

#[test]
fn an_accepted_erase_speaks_louder_than_an_old_view_of_the_hardware() {
    let mut world = World::running();
    let old = world.hardware.clone();
    world.delete(0);
    world.settle();
    world.agent_boots();
    let order = world.poll();
    assert_eq!(order.kind, agent_protocol::order::OrderKind::Erase);
    // A replica whose cache still says that the instance's installation stands.
    let present = std::mem::replace(&mut world.hardware, old.clone());
    let known = Match::Known(NAME.to_owned());
    let answer = ask(&world, &known, true, UnacceptedPolicy::Hold, false);
    assert_eq!(answer.answer, BootAnswer::Agent, "{answer:?}");

    // And one that slept through all of it, while the machine is written for the next instance.
    world.hardware = present;
    world.obey(&order);
    world.settle();
    world.instances.push(instance("next", "uid-2"));
    world.settle();
    assert_eq!(world.poll().kind, agent_protocol::order::OrderKind::Image);
    world.hardware = old;
    let answer = ask(&world, &known, true, UnacceptedPolicy::Hold, false);
    assert_eq!(answer.answer, BootAnswer::Agent, "{answer:?}");
}
