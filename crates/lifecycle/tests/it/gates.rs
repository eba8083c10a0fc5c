//! Gates: each step waits until its condition is True, says for whom, and is asked once per life.

use agent_protocol::order::OrderKind;
use api::{
    HardwarePhase, InstancePhase, conditions,
    discovery::BootAnswer,
    gate::{Gate, GateStep},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::world::{World, foreign, instance};

const GATE: &str = "example.com/switch-port";

fn gated(mut world: World, before: GateStep) -> World {
    world.hardware.spec.gates = vec![Gate {
        condition_type: GATE.to_owned(),
        before,
    }];
    world
}

fn answer(found: &mut Vec<Condition>, open: bool, now: jiff::Timestamp) {
    conditions::set(found, GATE, open, "Answered", "port 14", None, &Time(now));
}

fn on_instance(world: &mut World, open: bool) {
    let now = world.now;
    answer(&mut world.instances[0].status.get_or_insert_default().conditions, open, now);
    world.settle();
}

fn on_hardware(world: &mut World, open: bool) {
    let now = world.now;
    answer(&mut world.hardware.status.get_or_insert_default().conditions, open, now);
    world.settle();
}

/// It waits at the gate, and names the condition and the object that it must be set on.
fn assert_waits(world: &World, phase: HardwarePhase, subject: &str) {
    let status = world.status();
    assert_eq!((status.phase, status.reason.as_str()), (phase, "GateClosed"), "{}", status.message);
    assert!(
        status.message.contains(GATE) && status.message.contains(subject),
        "{}",
        status.message
    );
}

#[test]
fn a_machine_is_left_alone_until_it_may_be_accepted() {
    let mut world = gated(World::new(), GateStep::Accept);
    world.disk = foreign("old");
    world.hardware.spec.erase_consent = Some(api::hardware::EraseConsent {
        fingerprints: vec![world.disk.fingerprint.clone()],
        at_acceptance: false,
    });
    world.agent_boots();
    world.settle();
    assert_waits(&world, HardwarePhase::Inspecting, "BareMetalHardware m-aaaaaaaaaa");
    assert_eq!(world.poll().kind, OrderKind::Wait);
    on_hardware(&mut world, false);
    assert_waits(&world, HardwarePhase::Inspecting, "It says: port 14");
    on_hardware(&mut world, true);
    assert_eq!(world.phase(), HardwarePhase::Cleaning);
    let order = world.poll();
    // What has begun goes on.
    on_hardware(&mut world, false);
    assert_eq!(world.phase(), HardwarePhase::Cleaning);
    world.obey(&order);
    on_hardware(&mut world, true);
    assert_eq!(world.phase(), HardwarePhase::Ready);
    on_hardware(&mut world, false);
    assert_waits(&world, HardwarePhase::Inspecting, GATE);
}

#[test]
fn an_image_is_ordered_when_its_gate_is_open_and_each_instance_has_its_own() {
    let mut world = gated(World::ready(), GateStep::Provision);
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_waits(&world, HardwarePhase::Reserved, "BareMetalInstance default/web");
    assert_eq!(world.poll().kind, OrderKind::Wait);
    let told = world.instance_status(0);
    assert_eq!((told.phase, told.reason.as_str()), (InstancePhase::Provisioning, "GateClosed"));
    assert!(told.message.contains(GATE), "{}", told.message);
    on_instance(&mut world, true);
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    // The order is in force: the gate is passed.
    on_instance(&mut world, false);
    assert_eq!(world.phase(), HardwarePhase::Provisioning);
    assert!(world.status().reason.is_empty());
    world.obey(&order);
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Booting);
    let kept = world.instance_status(0).conditions;
    assert!(
        kept.iter().any(|c| c.type_ == GATE),
        "the operator keeps a condition that is not its own"
    );

    world.delete(0);
    world.settle();
    world.agent_boots();
    let order = world.poll();
    world.obey(&order);
    world.settle();
    world.instances.push(instance("next", "uid-2"));
    world.settle();
    assert_waits(&world, HardwarePhase::Reserved, "BareMetalInstance default/next");
}

#[test]
fn a_written_system_is_first_booted_when_its_gate_is_open() {
    let mut world = gated(World::ready(), GateStep::Run);
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    world.obey(&order);
    // Before the operator has read the result, too.
    assert_eq!(world.poll().kind, OrderKind::Wait);
    world.settle();
    world.pass(24 * 3600);
    world.settle();
    assert!(!world.status().message.contains("console"), "it is not the machine that is late");
    assert_waits(&world, HardwarePhase::Provisioning, "BareMetalInstance default/web");
    assert_eq!(world.instance_status(0).reason, "GateClosed");
    assert_eq!(world.poll().kind, OrderKind::Wait);
    assert_eq!(world.boot_request(), BootAnswer::Agent, "a restart does not go around it");
    world.agent_boots();
    world.settle();
    assert_waits(&world, HardwarePhase::Provisioning, GATE);
    on_instance(&mut world, true);
    assert_eq!(world.poll().kind, OrderKind::Reboot);
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
    world.guest_reports("uid-1");
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Running);
    on_instance(&mut world, false);
    assert_eq!(world.phase(), HardwarePhase::InUse, "what runs is past its gate");
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
}

#[test]
fn a_disk_is_erased_when_the_release_may_go_on_or_is_forced() {
    for forced in [false, true] {
        let mut world = gated(World::running(), GateStep::Release);
        world.delete(0);
        world.settle();
        assert_waits(&world, HardwarePhase::Releasing, "BareMetalInstance default/web");
        let told = world.instance_status(0);
        assert_eq!((told.phase, told.reason.as_str()), (InstancePhase::Terminating, "GateClosed"));
        assert_eq!(world.boot_request(), BootAnswer::Agent, "the machine is called back meanwhile");
        world.agent_boots();
        world.settle();
        assert_eq!(world.poll().kind, OrderKind::Wait);
        if forced {
            world.instances[0].spec.force_release = true;
            world.settle();
            assert!(world.instances.is_empty(), "a deletion always ends");
            assert_eq!(world.phase(), HardwarePhase::Quarantined);
            continue;
        }
        on_instance(&mut world, true);
        let order = world.poll();
        assert_eq!(order.kind, OrderKind::Erase);
        world.obey(&order);
        world.settle();
        assert!(world.instances.is_empty());
        assert_eq!(world.phase(), HardwarePhase::Ready);
    }
}

#[test]
fn nothing_is_released_around_the_gate_before_anything_was_written() {
    let mut world = gated(World::ready(), GateStep::Release);
    world.hardware.spec.gates.push(Gate {
        condition_type: "example.com/other".to_owned(),
        before: GateStep::Provision,
    });
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(world.status().reason, "GateClosed");
    world.delete(0);
    world.settle();
    assert_waits(&world, HardwarePhase::Releasing, GATE);
    on_instance(&mut world, true);
    assert!(world.instances.is_empty());
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.status().last_erase.is_none(), "nothing was ever written");
}
