//! Machines with a power driver: what it is told, when it is told again, and when a person is asked all the same.

use api::{
    HardwarePhase, conditions,
    power::{ManualPower, PowerAct, PowerActKind, PowerSpec, PowerState},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::power::{Can, Ended, PowerFacts, TRIES};

use crate::world::World;

const ALL: Can = Can {
    boot_agent: true,
    medium: false,
    on: true,
    shut_down: true,
    off: true,
};

fn with(can: Can, mut world: World) -> World {
    world.power = Some(PowerFacts {
        can,
        state: PowerState::On,
        ..PowerFacts::default()
    });
    world.settle();
    world
}

fn act(world: &World) -> Option<PowerAct> {
    world.status().power.and_then(|p| p.act)
}

/// The driver carries the act in force out, or says why not.
fn ends(world: &mut World, fault: Option<&str>) -> PowerActKind {
    let act = act(world).expect("an act is in force");
    let at = world.now;
    let power = world.power.as_mut().unwrap();
    power.ended = Some(Ended {
        id: act.id,
        at,
        fault: fault.map(str::to_owned),
    });
    // One that never tells does not tell now.
    if fault.is_none() && power.state != PowerState::Unknown {
        match act.kind {
            PowerActKind::On | PowerActKind::BootAgent => power.state = PowerState::On,
            PowerActKind::Off => power.state = PowerState::Off,
            // Whether the system listens is another question.
            PowerActKind::ShutDown => {}
        }
    }
    world.settle();
    act.kind
}

fn asked(world: &World) -> Option<String> {
    world.condition(conditions::POWER_CYCLE_NEEDED).map(|(_, message)| message)
}

/// A release with its machine still in its system.
fn releasing(can: Can) -> World {
    let mut world = with(can, World::running());
    world.delete(0);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Releasing);
    world
}

#[test]
fn a_released_machine_is_booted_into_the_agent() {
    let mut world = releasing(ALL);
    assert_eq!(act(&world), None, "a guest helper that is quick needs no driver");
    world.pass(11);
    world.settle();
    let told = act(&world).expect("its driver is told");
    assert_eq!(told.kind, PowerActKind::BootAgent);
    world.pass(30);
    world.settle();
    assert_eq!(act(&world), Some(told), "it is told once");
    ends(&mut world, None);
    assert_eq!(act(&world), None);
    world.pass(120);
    world.settle();
    assert_eq!((act(&world), asked(&world)), (None, None), "it has time to boot");
    world.agent_boots();
    world.settle();
    let power = world.status().power.unwrap();
    assert_eq!((power.act, power.failures), (None, 0));
    let order = world.poll();
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.events.iter().any(|e| e.contains("PowerAct")), "{:?}", world.events);
}

#[test]
fn a_machine_that_does_not_come_is_told_again_and_then_a_person_is_asked() {
    let mut world = releasing(ALL);
    for _ in 0..=TRIES {
        world.pass(60 * 60);
        world.settle();
        assert_eq!(ends(&mut world, None), PowerActKind::BootAgent);
    }
    let message = asked(&world).expect("its driver does not help");
    assert!(
        message.contains("did not boot into the agent") && message.contains("OptiPlex"),
        "{message}"
    );
    world.pass(60 * 60);
    world.settle();
    assert_eq!(act(&world).map(|a| a.kind), Some(PowerActKind::BootAgent), "it is not given up");
    ends(&mut world, None);
    world.agent_boots();
    world.settle();
    assert_eq!(asked(&world), None);
}

#[test]
fn a_machine_that_is_still_off_is_told_again_soon() {
    let mut world = releasing(ALL);
    world.pass(11);
    world.settle();
    assert_eq!(ends(&mut world, None), PowerActKind::BootAgent);
    // It was going off when it was told, and stays off.
    world.power.as_mut().unwrap().state = PowerState::Off;
    world.pass(100);
    world.settle();
    assert_eq!(act(&world), None, "power takes its time");
    world.pass(30);
    world.settle();
    assert_eq!(act(&world).map(|act| act.kind), Some(PowerActKind::BootAgent));
}

#[test]
fn a_driver_that_fails_is_tried_again_after_a_while_and_named() {
    let mut world = releasing(ALL);
    world.pass(11);
    world.settle();
    ends(&mut world, Some("the controller does not answer"));
    assert_eq!(act(&world), None, "not at once");
    assert!(world.status().power.unwrap().retry_after.is_some());
    for _ in 1..TRIES {
        assert_eq!(asked(&world), None);
        world.pass(15 * 60);
        world.settle();
        ends(&mut world, Some("the controller does not answer"));
    }
    world.pass(15 * 60);
    world.settle();
    let message = asked(&world).expect("a person is asked");
    assert!(message.contains("cannot: the controller does not answer"), "{message}");
    assert!(world.events.iter().any(|e| e.contains("PowerFailed")), "{:?}", world.events);
    // The person mends the cable.
    ends(&mut world, None);
    assert_eq!(world.status().power.unwrap().fault, "");
}

#[test]
fn a_driver_that_cannot_boot_a_machine_leaves_it_to_a_person() {
    let only_on = Can {
        on: true,
        ..Can::default()
    };
    let mut world = releasing(only_on);
    world.pass(3 * 60);
    world.settle();
    assert_eq!(act(&world), None);
    assert!(asked(&world).is_some());
}

#[test]
fn a_machine_that_is_claimed_and_away_is_booted_into_the_agent() {
    let mut world = with(ALL, World::ready());
    world.seen().session = None;
    world.instances.push(crate::world::instance("web", "uid-1"));
    world.settle();
    world.pass(11);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Reserved);
    assert_eq!(ends(&mut world, None), PowerActKind::BootAgent);
    world.agent_boots();
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Provisioning);
}

#[test]
fn an_instance_that_is_stopped_is_shut_down_and_one_that_does_not_listen_is_switched_off() {
    let mut world = with(ALL, World::running());
    assert_eq!(act(&world), None, "it is on, and is to be on");
    world.instances[0].spec.running = false;
    world.settle();
    assert_eq!(ends(&mut world, None), PowerActKind::ShutDown);
    world.pass(60);
    world.settle();
    assert_eq!(act(&world), None, "it has time");
    world.pass(3 * 60);
    world.settle();
    assert_eq!(ends(&mut world, None), PowerActKind::Off);
    world.pass(60 * 60);
    world.settle();
    let power = world.status().power.unwrap();
    assert_eq!((power.state, power.act, power.failures), (PowerState::Off, None, 0));
    world.instances[0].spec.running = true;
    world.settle();
    assert_eq!(ends(&mut world, None), PowerActKind::On);
    assert_eq!(world.phase(), HardwarePhase::InUse);
}

#[test]
fn a_driver_that_cannot_tell_switches_a_stopped_instance_on_until_something_is_heard_of_it() {
    let only_on = Can {
        on: true,
        ..Can::default()
    };
    let mut world = with(only_on, World::running());
    world.power.as_mut().unwrap().state = PowerState::Unknown;
    world.pass(60);
    world.settle();
    assert_eq!(act(&world), None, "nothing says that it is off");
    world.instances[0].spec.running = false;
    world.settle();
    assert_eq!(act(&world), None, "its guest helper does that");
    world.pass(60);
    world.instances[0].spec.running = true;
    world.settle();
    world.settle();
    assert_eq!(act(&world).map(|a| a.kind), Some(PowerActKind::On));
    let told = act(&world).unwrap().id;
    ends(&mut world, None);
    world.power.as_mut().unwrap().state = PowerState::Unknown;
    world.settle();
    assert_eq!(act(&world), None, "it has time");
    world.pass(5 * 60);
    world.settle();
    let again = act(&world).expect("nothing was heard of it");
    assert_eq!((again.kind, again.id == told), (PowerActKind::On, false));
    ends(&mut world, None);
    world.power.as_mut().unwrap().state = PowerState::Unknown;
    world.pass(2);
    let now = Time(world.now);
    world.seen().guest.as_mut().expect("a guest helper").registered_at = now;
    world.pass(60 * 60);
    world.settle();
    let power = world.status().power.unwrap();
    assert_eq!((power.act, power.failures), (None, 0), "it runs");
}

#[test]
fn a_stopped_instance_is_started_also_where_the_first_attempt_fails_or_the_power_has_to_go_first() {
    let only_on = Can {
        on: true,
        ..Can::default()
    };
    let on_and_off = Can { off: true, ..only_on };
    for can in [only_on, on_and_off] {
        let mut world = with(can, World::running());
        world.power.as_mut().unwrap().state = PowerState::Unknown;
        world.pass(60);
        world.instances[0].spec.running = false;
        world.settle();
        if can.off {
            assert_eq!(ends(&mut world, None), PowerActKind::Off);
            world.power.as_mut().unwrap().state = PowerState::Unknown;
        }
        world.pass(60);
        world.instances[0].spec.running = true;
        world.settle();
        if can.off {
            assert_eq!(ends(&mut world, None), PowerActKind::Off);
            world.power.as_mut().unwrap().state = PowerState::Unknown;
            world.settle();
        }
        assert_eq!(ends(&mut world, Some("the Secret is not there")), PowerActKind::On);
        assert!(world.status().power.unwrap().fault.contains("Secret"));
        world.pass(10 * 60);
        world.settle();
        assert_eq!(ends(&mut world, None), PowerActKind::On, "{can:?}");
        world.power.as_mut().unwrap().state = PowerState::Unknown;
        world.pass(2);
        let now = Time(world.now);
        world.seen().guest.as_mut().expect("a guest helper").registered_at = now;
        world.settle();
        let power = world.status().power.unwrap();
        assert_eq!((power.act, power.starting, power.failures), (None, None, 0), "it runs");
    }
}

#[test]
fn a_machine_in_use_that_lost_power_is_switched_on_unless_a_person_works_on_it() {
    let mut world = with(ALL, World::running());
    world.hardware.spec.maintenance = true;
    world.power.as_mut().unwrap().state = PowerState::Off;
    world.settle();
    assert_eq!(act(&world), None);
    world.hardware.spec.maintenance = false;
    world.settle();
    assert_eq!(ends(&mut world, None), PowerActKind::On);
}

#[test]
fn an_answer_to_an_earlier_act_counts_for_nothing() {
    let mut world = releasing(ALL);
    world.pass(11);
    world.settle();
    let told = act(&world).unwrap();
    world.power.as_mut().unwrap().ended = Some(Ended {
        id: "0-earlier".to_owned(),
        at: world.now,
        fault: None,
    });
    world.settle();
    assert_eq!(act(&world), Some(told));
}

#[test]
fn without_a_driver_nothing_is_written_about_power() {
    let mut world = World::running();
    world.delete(0);
    world.pass(3 * 60);
    world.settle();
    assert_eq!(world.status().power, None);
    assert!(asked(&world).is_some());
}

#[test]
fn a_person_is_told_how_to_switch_it() {
    let mut world = World::running();
    let instructions = "second shelf, switch at the back".to_owned();
    world.hardware.spec.power = Some(PowerSpec {
        manual: Some(ManualPower { instructions }),
        ..PowerSpec::default()
    });
    world.settle();
    world.delete(0);
    world.settle();
    world.pass(3 * 60);
    world.settle();
    let message = asked(&world).expect("a person is asked");
    assert!(
        message.starts_with("Switch this machine off and on") && message.contains("(second shelf, switch at the back)"),
        "{message}"
    );
}

/// One that a person wrote down.
fn unseen(can: Can) -> World {
    let mut world = World::new();
    world.hardware.metadata.creation_timestamp = Some(Time(world.now));
    with(can, world)
}

#[test]
fn a_machine_that_nobody_has_seen_is_booted_from_its_medium_and_no_other_one_is() {
    for medium in [false, true] {
        let mut world = unseen(Can { medium, ..ALL });
        world.pass(60);
        world.settle();
        assert_eq!(world.phase(), HardwarePhase::Inspecting);
        assert_eq!(act(&world).map(|a| a.kind), medium.then_some(PowerActKind::BootAgent));
        if !medium {
            continue;
        }
        ends(&mut world, None);
        world.pass(60);
        world.settle();
        assert_eq!(act(&world), None, "it has time to boot");
        world.agent_boots();
        world.settle();
        assert_eq!((act(&world), asked(&world)), (None, None));
        assert_ne!(world.phase(), HardwarePhase::Inspecting);
    }
}

#[test]
fn a_person_is_asked_where_the_medium_does_not_help() {
    let mut world = unseen(Can { medium: true, ..ALL });
    for _ in 0..=TRIES {
        world.pass(60 * 60);
        world.settle();
        assert_eq!(ends(&mut world, None), PowerActKind::BootAgent);
    }
    assert!(asked(&world).is_some_and(|message| message.contains("did not boot into the agent")));
}
