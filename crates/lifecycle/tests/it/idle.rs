//! Machines that nobody needs: which of a class are off, how one goes off and comes back, and what keeps it on.

use agent_protocol::order::{OrderKind, RebootTarget};
use api::{
    HardwarePhase, IdlePolicy, conditions,
    power::{PowerActKind, PowerState},
};
use jiff::{SignedDuration, Timestamp};
use lifecycle::{
    agent::{self, SessionFacts},
    idle::{IdleFacts, Member, Place, Rules, Wanted, idle_since, place, plan},
    power::{Can, Ended, PowerFacts},
    scheduler::{Placement, schedule},
};
use proptest::prelude::*;

use crate::world::{World, instance};

const BMC: Can = Can {
    medium: false,
    boot_agent: true,
    on: true,
    shut_down: true,
    off: true,
};

/// A magic packet.
const PACKET: Can = Can {
    medium: false,
    on: true,
    boot_agent: false,
    shut_down: false,
    off: false,
};

const PLUG: Can = Can {
    medium: false,
    on: true,
    off: true,
    boot_agent: false,
    shut_down: false,
};

fn driven(can: Can, state: PowerState) -> World {
    let mut world = World::ready();
    world.power = Some(PowerFacts {
        can,
        state,
        ..PowerFacts::default()
    });
    world.idle.policy = IdlePolicy::PowerOff;
    world.settle();
    world
}

/// The plan says off.
fn plan_off(world: &mut World) {
    world.idle.wanted = Wanted::Off(idle_since(&world.hardware, Some(&world.discovery)));
    world.settle();
}

fn told(world: &World) -> agent::Instruction {
    let session = world
        .discovery
        .status
        .as_ref()
        .and_then(|s| s.session.as_ref())
        .map(|s| s.id.clone());
    agent::instruction(&SessionFacts {
        discovery: &world.discovery,
        hardware: Some(&world.hardware),
        session: &session.unwrap_or_default(),
        config: &world.config,
        now: world.now,
    })
}

fn act(world: &World) -> Option<PowerActKind> {
    world.status().power.and_then(|p| p.act).map(|act| act.kind)
}

/// The driver carries the act in force out; the machine is in that state afterwards.
fn done(world: &mut World, state: PowerState) -> PowerActKind {
    let act = world.status().power.and_then(|p| p.act).expect("an act is in force");
    let power = world.power.as_mut().unwrap();
    power.ended = Some(Ended {
        id: act.id,
        at: world.now,
        fault: None,
    });
    power.state = state;
    world.settle();
    act.kind
}

/// A machine that went off by its agent's own doing.
fn asleep(can: Can, state: PowerState) -> World {
    let mut world = driven(can, PowerState::On);
    world.pass(60);
    plan_off(&mut world);
    assert_eq!(told(&world).order.kind, OrderKind::PowerOff);
    world.power.as_mut().unwrap().state = state;
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.reason.as_str()), (HardwarePhase::Ready, "PoweredOff"));
    assert!(status.idle.is_some_and(|idle| idle.asleep));
    world
}

#[test]
fn a_machine_that_nobody_needs_switches_itself_off_and_is_no_loss() {
    let mut world = asleep(BMC, PowerState::Off);
    assert_eq!(act(&world), None, "its agent does it");
    let now = world.now;
    conditions::set(
        &mut world.seen().conditions,
        conditions::AGENT_CONNECTED,
        false,
        "Silent",
        "Nothing was heard",
        None,
        &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now),
    );
    world.pass(24 * 60 * 60);
    world.settle();
    let status = world.status();
    assert_eq!(
        (status.phase, status.reason.as_str(), act(&world)),
        (HardwarePhase::Ready, "PoweredOff", None)
    );
    assert!(
        status.conditions.iter().all(|c| c.type_ != conditions::AGENT_CONNECTED),
        "{:?}",
        status.conditions
    );
    assert!(conditions::is_true(&status.conditions, conditions::READY));
    assert!(!conditions::is_true(&status.conditions, conditions::POWER_CYCLE_NEEDED));
    assert!(world.events.iter().any(|e| e == "PoweredOff"), "{:?}", world.events);
}

#[test]
fn an_agent_that_does_not_listen_has_its_power_taken_away() {
    let mut world = asleep(BMC, PowerState::On);
    world.pass(60);
    world.settle();
    assert_eq!(act(&world), None, "it has time");
    world.pass(3 * 60);
    world.settle();
    assert_eq!(done(&mut world, PowerState::On), PowerActKind::ShutDown);
    world.pass(4 * 60);
    world.settle();
    assert_eq!(done(&mut world, PowerState::Off), PowerActKind::Off);
    world.pass(60 * 60);
    world.settle();
    assert_eq!(act(&world), None);
}

#[test]
fn a_machine_that_nothing_switches_on_stays_on_and_says_why() {
    let off_only = Can {
        off: true,
        ..Can::default()
    };
    for (power, why) in [(None, "has no power driver"), (Some(off_only), "cannot switch it on")] {
        let mut world = driven(BMC, PowerState::On);
        world.power = power.map(|can| PowerFacts {
            can,
            state: PowerState::On,
            ..PowerFacts::default()
        });
        world.settle();
        world.pass(60);
        plan_off(&mut world);
        assert_eq!(world.status().idle, None);
        assert_eq!(told(&world).order.kind, OrderKind::Wait);
        let said = world.status().conditions.into_iter().find(|c| c.type_ == conditions::IDLE_POLICY);
        let said = said.expect("it is said");
        assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "NoWayBack"));
        assert!(said.message.contains(why), "{}", said.message);
        world.idle.policy = IdlePolicy::Stay;
        world.settle();
        assert!(world.status().conditions.iter().all(|c| c.type_ != conditions::IDLE_POLICY));
    }
}

#[test]
fn a_plan_of_an_earlier_rest_is_not_followed() {
    let mut world = driven(BMC, PowerState::On);
    world.pass(60);
    let wanted = Wanted::Off(idle_since(&world.hardware, Some(&world.discovery)));
    // A person restarts it meanwhile.
    world.agent_boots();
    world.settle();
    world.idle.wanted = wanted;
    world.settle();
    assert_eq!(world.status().idle, None);
    plan_off(&mut world);
    assert!(world.status().idle.is_some());
}

#[test]
fn a_machine_that_an_instance_named_is_not_switched_off() {
    let mut world = driven(BMC, PowerState::On);
    world.pass(60);
    let mut web = instance("web", "uid-1");
    web.spec.hardware_name = Some(crate::world::NAME.to_owned());
    web.metadata.finalizers = Some(vec![api::FINALIZER_RELEASE.to_owned()]);
    world.instances.push(web);
    plan_off(&mut world);
    assert_eq!(world.status().idle, None);
    assert_eq!(world.phase(), HardwarePhase::Provisioning);
}

#[test]
fn a_claim_wakes_it_and_its_old_session_counts_no_more() {
    let mut world = asleep(BMC, PowerState::Off);
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.order), (HardwarePhase::Reserved, None));
    assert_eq!(status.idle.map(|i| i.asleep), Some(false));
    // The agent that had not gone yet, if there is one, is not given the image: it starts anew.
    let order = told(&world).order;
    assert_eq!((order.kind, order.reboot), (OrderKind::Reboot, Some(RebootTarget::Agent)));
    assert_eq!(done(&mut world, PowerState::On), PowerActKind::BootAgent, "at once");
    world.pass(60);
    world.agent_boots();
    world.settle();
    let status = world.status();
    assert_eq!((status.phase, status.idle), (HardwarePhase::Provisioning, None));
    assert_eq!(told(&world).order.kind, OrderKind::Image);
    assert_eq!(act(&world), None);
}

#[test]
fn a_claim_of_one_that_is_on_its_way_does_not_start_it_again_and_waits_for_nothing_else() {
    let mut world = asleep(BMC, PowerState::Off);
    world.idle.wanted = Wanted::On;
    world.settle();
    let coming = world.status().power.and_then(|p| p.act);
    assert!(coming.is_some());
    world.images.clear();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(world.status().reason, "ImageNotFound");
    assert_eq!(world.status().power.and_then(|p| p.act), coming);
    assert_eq!(done(&mut world, PowerState::On), PowerActKind::BootAgent);
    assert_eq!(act(&world), None, "once");
}

#[test]
fn a_magic_packet_wakes_it_and_is_sent_again() {
    let mut world = asleep(PACKET, PowerState::Unknown);
    world.pass(60 * 60);
    world.settle();
    assert_eq!(act(&world), None, "a packet cannot switch it off");
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(done(&mut world, PowerState::Unknown), PowerActKind::On);
    world.pass(5 * 60);
    world.settle();
    assert_eq!(act(&world), None, "it has time to boot");
    world.pass(6 * 60);
    world.settle();
    assert_eq!(done(&mut world, PowerState::Unknown), PowerActKind::On);
    assert_eq!(world.condition(conditions::POWER_CYCLE_NEEDED), None);
    world.agent_boots();
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Provisioning);
}

#[test]
fn a_packet_that_came_while_it_was_going_off_is_sent_again_when_it_is_off() {
    let mut world = asleep(PACKET, PowerState::Unknown);
    world.pass(30);
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(done(&mut world, PowerState::Unknown), PowerActKind::On);
    world.pass(2 * 60);
    world.settle();
    assert_eq!(act(&world), None, "it may be on its way down");
    world.pass(60);
    world.settle();
    assert_eq!(done(&mut world, PowerState::Unknown), PowerActKind::On, "by now it is off");
    assert_eq!(
        world.status().power.map(|power| power.failures),
        Some(0),
        "the first one was early, which is nobody's failure"
    );
    world.pass(9 * 60);
    world.settle();
    assert_eq!(act(&world), None, "now it has time to boot");
    world.pass(2 * 60);
    world.settle();
    assert_eq!(act(&world), Some(PowerActKind::On));
}

#[test]
fn behind_a_plug_that_is_on_it_is_switched_off_and_on() {
    let mut world = asleep(PLUG, PowerState::On);
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(done(&mut world, PowerState::Off), PowerActKind::Off);
    assert_eq!(done(&mut world, PowerState::On), PowerActKind::On);
    assert_eq!(act(&world), None, "once");
    world.pass(11 * 60);
    world.settle();
    assert_eq!(
        done(&mut world, PowerState::Off),
        PowerActKind::Off,
        "and again where it did not come"
    );
    assert_eq!(done(&mut world, PowerState::On), PowerActKind::On);
    world.agent_boots();
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Provisioning);
}

#[test]
fn one_whose_driver_was_taken_away_is_shown_to_a_person_and_taken_last() {
    let mut world = asleep(BMC, PowerState::Off);
    world.power = None;
    world.settle();
    let (_, message) = world.condition(conditions::POWER_CYCLE_NEEDED).expect("a person is asked");
    assert!(message.starts_with("Switch this machine on,"), "{message}");
    let mut big = World::ready().hardware;
    big.metadata.name = Some("m-zz".to_owned());
    for (_, size) in big.status.as_mut().unwrap().capacity.iter_mut() {
        size.0 = format!("{}0", size.0.trim_end_matches("Mi")) + if size.0.ends_with("Mi") { "Mi" } else { "" };
    }
    let placed = schedule(&instance("web", "uid-1"), [&world.hardware, &big], &Default::default());
    assert_eq!(placed, Placement::Machine("m-zz".to_owned()), "rather one that wastes");
    // Only that one is left: it is named, and somebody is asked.
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(world.status().reason, "PowerCycleNeeded");
    world.agent_boots();
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Provisioning);
    assert_eq!(world.condition(conditions::POWER_CYCLE_NEEDED), None);
}

#[test]
fn of_machines_of_one_size_the_one_that_is_on_is_taken() {
    let off = asleep(BMC, PowerState::Off).hardware;
    let mut on = World::ready().hardware;
    on.metadata.name = Some("m-zz".to_owned());
    let web = instance("web", "uid-1");
    assert_eq!(
        schedule(&web, [&off, &on], &Default::default()),
        Placement::Machine("m-zz".to_owned())
    );
    assert_eq!(
        schedule(&web, [&off], &Default::default()),
        Placement::Machine(crate::world::NAME.to_owned())
    );
}

#[test]
fn whoever_switches_it_on_has_it_for_its_whole_idle_time() {
    let mut world = asleep(BMC, PowerState::Off);
    world.agent_boots();
    world.settle();
    let status = world.status();
    assert_eq!((status.idle, status.reason.as_str()), (None, ""));
    let since = idle_since(&world.hardware, Some(&world.discovery));
    assert_eq!(since, Some(world.now));
    assert_eq!(told(&world).order.kind, OrderKind::Wait);
}

#[test]
fn the_plan_brings_one_back_and_does_not_change_its_mind_on_the_way() {
    let mut world = asleep(BMC, PowerState::Off);
    world.idle.wanted = Wanted::On;
    world.settle();
    assert_eq!(world.status().reason, "Waking");
    assert_eq!(act(&world), Some(PowerActKind::BootAgent));
    assert_eq!(place(&world.hardware, Some(&world.discovery)), Some(Place::Coming));
    world.idle.wanted = Wanted::Off(None);
    world.settle();
    assert_eq!(world.status().idle.map(|i| i.asleep), Some(false));
    assert_eq!(done(&mut world, PowerState::On), PowerActKind::BootAgent);
    // It never comes.
    for _ in 0..4 {
        world.pass(60 * 60);
        world.settle();
        done(&mut world, PowerState::On);
    }
    assert!(world.condition(conditions::POWER_CYCLE_NEEDED).is_some());
    assert_eq!(place(&world.hardware, Some(&world.discovery)), Some(Place::Lost));
    let writes = world.writes;
    world.pass(1);
    world.settle();
    assert_eq!(world.writes, writes, "what is known is not written again");
    world.agent_boots();
    world.settle();
    assert_eq!((world.condition(conditions::POWER_CYCLE_NEEDED), world.status().idle), (None, None));
}

#[test]
fn maintenance_leaves_it_off_and_what_has_to_be_done_in_the_agent_wakes_it() {
    let mut world = asleep(BMC, PowerState::Off);
    world.hardware.spec.maintenance = true;
    world.idle.wanted = Wanted::AsItIs;
    world.settle();
    assert_eq!((world.phase(), act(&world)), (HardwarePhase::Maintenance, None));
    world.hardware.spec.maintenance = false;
    world.settle();
    assert_eq!(world.status().reason, "PoweredOff");
    world.hardware.spec.root_disk = Some(api::hardware::DiskHint {
        serial: Some("another".to_owned()),
        ..api::hardware::DiskHint::default()
    });
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Inspecting);
    assert_eq!(act(&world), Some(PowerActKind::BootAgent));
}

#[test]
fn one_that_waits_for_its_turn_says_so_and_is_not_late() {
    let mut world = asleep(BMC, PowerState::Off);
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let turn = "waits for its turn: 12 machines start before it, of rack r7 (30 a minute)";
    world.power.as_mut().unwrap().turn = turn.to_owned();
    world.settle();
    world.pass(60 * 60);
    world.settle();
    let status = world.status();
    let power = status.power.clone().unwrap();
    assert_eq!((power.turn.as_str(), power.failures), (turn, 0));
    assert!(!status.message.contains("minutes"), "{}", status.message);
    assert_eq!(world.condition(conditions::POWER_CYCLE_NEEDED), None);
    world.power.as_mut().unwrap().turn.clear();
    done(&mut world, PowerState::On);
    assert_eq!(world.status().power.unwrap().turn, "");
    world.pass(9 * 60);
    world.settle();
    assert_eq!(
        world.status().power.unwrap().failures,
        0,
        "its time to boot begins when it was told"
    );
}

fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn member(name: &str, place: Place) -> Member<'_> {
    Member {
        name,
        policy: IdlePolicy::PowerOff,
        place,
        can_come_back: true,
    }
}

fn rules(warm: usize) -> Rules {
    Rules {
        policy: IdlePolicy::PowerOff,
        after: SignedDuration::from_mins(10),
        warm,
    }
}

#[test]
fn so_many_stay_on_and_those_that_cannot_go_off_count() {
    let (long_ago, now) = (start(), start() + SignedDuration::from_hours(1));
    let here = Place::Here(long_ago);
    let off = Wanted::Off(Some(long_ago));
    let mut members = vec![member("a", here), member("b", here), member("c", here), member("d", Place::Off)];
    assert_eq!(plan(&rules(1), &members, now).wanted, [Wanted::On, off, off, Wanted::Off(None)]);
    assert_eq!(plan(&rules(4), &members, now).wanted, [Wanted::On; 4], "the pool is filled");
    members[2].can_come_back = false;
    assert_eq!(plan(&rules(1), &members, now).wanted, [off, off, Wanted::On, Wanted::Off(None)]);
    members[0].place = Place::Here(now);
    let young = plan(&rules(0), &members, now);
    assert_eq!(young.wanted[0], Wanted::On, "not before its time");
    assert_eq!(young.again, Some(now + SignedDuration::from_mins(10)));
    members[3].policy = IdlePolicy::Stay;
    assert_eq!(
        plan(&rules(0), &members, now).wanted[3],
        Wanted::On,
        "it is to stay on, so it comes"
    );
}

/// A class of machines with claims that come and go, in steps of a minute.
#[derive(Debug, Clone)]
struct Fleet {
    names: Vec<String>,
    places: Vec<Option<Place>>,
    came_back: Vec<bool>,
    /// When it went off.
    went: Vec<Option<Timestamp>>,
}

#[derive(Debug, Clone, Copy)]
enum Happening {
    Claim(usize),
    Release(usize),
    Nothing,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..8usize).prop_map(Happening::Claim),
        (0..8usize).prop_map(Happening::Release),
        Just(Happening::Nothing),
        Just(Happening::Nothing),
    ]
}

impl Fleet {
    fn members(&self) -> (Vec<usize>, Vec<Member<'_>>) {
        let free = self.places.iter().enumerate().filter_map(|(at, place)| {
            let member = Member {
                name: &self.names[at],
                policy: IdlePolicy::PowerOff,
                place: (*place)?,
                can_come_back: self.came_back[at],
            };
            Some((at, member))
        });
        free.unzip()
    }
}

proptest! {
    #[test]
    fn a_pool_is_kept_and_nothing_flaps(
        warm in 0..6usize,
        came_back in proptest::collection::vec(prop::bool::weighted(0.8), 8),
        quiet in 1..60usize,
        happenings in proptest::collection::vec(happening(), 0..60),
    ) {
        let rules = rules(warm);
        let mut now = start();
        let mut fleet = Fleet {
            names: (0..8).map(|n| format!("m{n}")).collect(),
            places: vec![Some(Place::Here(now)); 8],
            came_back,
            went: vec![None; 8],
        };
        let silence = std::iter::repeat_n(Happening::Nothing, quiet);
        let mut claimed_at = None;
        for happens in happenings.into_iter().chain(silence) {
            now += SignedDuration::from_mins(1);
            match happens {
                Happening::Claim(at) => {
                    fleet.places[at] = None;
                    claimed_at = Some(now);
                }
                Happening::Release(at) if fleet.places[at].is_none() => fleet.places[at] = Some(Place::Here(now)),
                Happening::Release(_) | Happening::Nothing => {}
            }
            let (which, members) = fleet.members();
            let planned = plan(&rules, &members, now);
            prop_assert_eq!(planned.wanted.len(), members.len());
            prop_assert_eq!(&plan(&rules, &members, now), &planned, "the same facts, the same answer");
            let (mut next, mut went) = (fleet.places.clone(), fleet.went.clone());
            for ((at, member), wanted) in which.iter().zip(&members).zip(&planned.wanted) {
                match (member.place, wanted) {
                    (Place::Here(since), Wanted::Off(of)) => {
                        prop_assert_eq!(*of, Some(since));
                        prop_assert!(member.can_come_back, "no way back");
                        prop_assert!(now.duration_since(since) >= rules.after, "not idle for long enough");
                        next[*at] = Some(Place::Off);
                        went[*at] = Some(now);
                    }
                    (Place::Off, Wanted::On) => {
                        // On again so soon only because somebody took a machine.
                        let since = went[*at].unwrap();
                        prop_assert!(claimed_at.is_some_and(|claimed| claimed > since), "it flaps");
                        next[*at] = Some(Place::Coming);
                    }
                    (Place::Coming, wanted) => {
                        prop_assert_eq!(*wanted, Wanted::On);
                        next[*at] = Some(Place::Here(now));
                    }
                    _ => {}
                }
            }
            let on = |p: &&Option<Place>| matches!(p, Some(Place::Here(_) | Place::Coming));
            let free = next.iter().flatten().count();
            prop_assert!(next.iter().filter(on).count() >= warm.min(free), "the pool is not kept: {next:?}");
            fleet.places = next;
            fleet.went = went;
        }
    }

    #[test]
    fn the_order_of_the_members_does_not_matter(
        places in proptest::collection::vec((0..4u8, any::<bool>()), 1..12),
        warm in 0..8usize,
        turn in 0..12usize,
    ) {
        let now = start() + SignedDuration::from_hours(1);
        let names: Vec<String> = (0..places.len()).map(|n| format!("m{n:02}")).collect();
        let members: Vec<Member<'_>> = places.iter().zip(&names).map(|((place, back), name)| Member {
            can_come_back: *back,
            ..member(name, match place {
                0 => Place::Here(start()),
                1 => Place::Coming,
                2 => Place::Off,
                _ => Place::Lost,
            })
        }).collect();
        let straight: Vec<Wanted> = plan(&rules(warm), &members, now).wanted;
        let mut rotated = members.clone();
        rotated.rotate_left(turn % members.len());
        let mut back = plan(&rules(warm), &rotated, now).wanted;
        back.rotate_right(turn % members.len());
        prop_assert_eq!(straight, back);
    }
}

#[test]
fn without_a_plan_everything_stays_as_it_is() {
    let mut world = asleep(BMC, PowerState::Off);
    world.idle = IdleFacts {
        policy: IdlePolicy::PowerOff,
        wanted: Wanted::AsItIs,
    };
    world.pass(60 * 60);
    world.settle();
    assert_eq!((world.status().reason.as_str(), act(&world)), ("PoweredOff", None));
}
