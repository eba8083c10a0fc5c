//! Firmware's boot order: what an order asks for, and machines that boot something else than they were told.

use agent_protocol::{
    guest::GuestAction,
    inventory::FirmwareMode,
    order::{BootOrder, OrderKind},
};
use api::{conditions, power::PowerState};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    agent::guest_action,
    boot_order::{self, Told},
    power::{Can, Ended, PowerFacts},
};

use crate::world::{World, inventory};

fn with(firmware: FirmwareMode, wanted: BootOrder) -> World {
    let mut world = World::new();
    world.hardware.spec.boot_order = Some(wanted);
    let mut inventory = inventory();
    inventory.firmware.mode = firmware;
    inventory.disks[0].contents = world.disk.clone();
    world.agent_boots_with(inventory);
    world.settle();
    world
}

/// What is in the way of the spec's wish.
fn in_the_way(world: &World) -> Option<String> {
    let status = world.status();
    let found = status.conditions.iter().find(|c| c.type_ == conditions::BOOT_ORDER)?;
    assert_eq!(found.status, "False");
    Some(found.message.clone())
}

fn image_order(world: &mut World) -> agent_protocol::order::Order {
    world.instances.push(crate::world::instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    order
}

#[test]
fn under_uefi_the_order_says_it() {
    for wanted in [BootOrder::DiskFirst, BootOrder::NetworkFirst] {
        let mut world = with(FirmwareMode::UEFI, wanted);
        let order = image_order(&mut world);
        assert_eq!(order.boot_order, Some(wanted));
        assert_eq!(in_the_way(&world), None);
        // Another wish meanwhile is no reason to begin anew.
        world.hardware.spec.boot_order = None;
        world.settle();
        assert_eq!(world.poll().id, order.id);
    }
    let mut world = World::ready();
    assert_eq!(image_order(&mut world).boot_order, None);
}

#[test]
fn under_bios_a_person_is_told_before_the_machine_is_used() {
    for wanted in [BootOrder::DiskFirst, BootOrder::NetworkFirst] {
        let mut world = with(FirmwareMode::BIOS, wanted);
        let message = in_the_way(&world).expect("a person has to do it");
        assert!(message.contains("setup"), "{message}");
        assert_eq!(image_order(&mut world).boot_order, None);
    }
}

#[test]
fn the_disk_is_not_first_where_nothing_would_bring_the_machine_back() {
    let mut world = with(FirmwareMode::UEFI, BootOrder::DiskFirst);
    let mut instance = crate::world::instance("web", "uid-1");
    instance.spec.guest_helper = false;
    world.instances.push(instance);
    world.settle();
    assert_eq!(world.poll().boot_order, Some(BootOrder::NetworkFirst));
    let message = in_the_way(&world).expect("it is said");
    assert!(message.contains("spec.guestHelper"), "{message}");
}

fn ignored(world: &World) -> Option<String> {
    world.condition(conditions::BOOT_ORDER_IGNORED).map(|(_, message)| message)
}

/// A system registers half a minute after its start: what netboot makes of it.
fn registers(world: &mut World, boot_id: &str, told: Option<&str>) {
    registers_after(world, boot_id, told, 30);
}

fn registers_after(world: &mut World, boot_id: &str, told: Option<&str>, running: i64) {
    let came_instead = boot_order::came_instead(world.seen(), told, boot_id);
    let times_instead = boot_order::times_instead(world.seen(), came_instead, boot_id);
    let began = world.now - SignedDuration::from_secs(running);
    world.guest_reports("uid-1");
    let guest = world.seen().guest.as_mut().unwrap();
    guest.boot_id = boot_id.to_owned();
    guest.booted_at = Some(Time(began));
    guest.came_instead = came_instead;
    guest.times_instead = times_instead;
    world.settle();
}

fn released() -> World {
    let mut world = World::running();
    registers(&mut world, "first", None);
    world.pass(60);
    world.delete(0);
    world.settle();
    assert_eq!(ignored(&world), None);
    world.pass(60);
    world
}

#[test]
fn a_system_that_comes_back_after_it_was_told_to_leave_is_noticed_until_the_machine_obeys() {
    let mut world = released();
    registers(&mut world, "second", Some("first"));
    let message = ignored(&world).expect("it is named");
    assert!(message.contains("boot order") && message.contains("OptiPlex"), "{message}");
    assert_eq!(world.events.iter().filter(|e| e.contains("BootOrderIgnored")).count(), 1);
    // Addresses that change, and a person's reboot, take nothing back.
    world.pass(5);
    registers(&mut world, "second", Some("first"));
    assert!(ignored(&world).is_some());
    world.pass(60);
    registers(&mut world, "third", Some("first"));
    assert!(ignored(&world).is_some());
    assert_eq!(world.events.iter().filter(|e| e.contains("BootOrderIgnored")).count(), 1);
    world.pass(60);
    world.agent_boots();
    world.settle();
    assert_eq!(ignored(&world), None, "it obeyed once");
}

#[test]
fn a_system_that_came_instead_is_not_rebooted_over_and_over() {
    let mut world = released();
    let told = |world: &World| guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now);
    assert_eq!(told(&world), GuestAction::RebootToAgent);
    for (boot, before) in [("second", "first"), ("third", "second")] {
        registers(&mut world, boot, Some(before));
        assert_eq!(told(&world), GuestAction::RebootToAgent, "the server may not have been there");
        world.pass(60);
        // Another address of the same boot.
        registers(&mut world, boot, Some(before));
        world.pass(60);
    }
    registers(&mut world, "fourth", Some("third"));
    assert_eq!(told(&world), GuestAction::Wait, "firmware would start it again");
    world.pass(9 * 60);
    world.settle();
    assert_eq!(told(&world), GuestAction::Wait);
    world.pass(2 * 60);
    world.settle();
    assert_eq!(told(&world), GuestAction::RebootToAgent, "somebody may have set it by now");
}

#[test]
fn a_system_that_is_started_again_later_did_nothing_wrong() {
    let mut world = released();
    // It was rebooting when its instance was deleted: nobody had told it anything.
    registers(&mut world, "second", None);
    assert_eq!(ignored(&world), None);
    world.pass(60);
    world.agent_boots();
    world.settle();
    world.pass(60);
    // It obeyed, and is sent back to its disk for whatever reason.
    registers(&mut world, "third", Some("second"));
    assert_eq!(ignored(&world), None);
}

#[test]
fn a_system_that_comes_after_its_driver_switched_the_machine_is_noticed() {
    let mut world = released();
    world.power = Some(PowerFacts {
        can: Can {
            boot_agent: true,
            ..Can::default()
        },
        state: PowerState::On,
        ..PowerFacts::default()
    });
    world.settle();
    let act = world.status().power.unwrap().act.expect("its driver is told");
    world.pass(10);
    // It registers anew before anything was done to it: another address.
    registers(&mut world, "first", None);
    world.pass(30);
    world.power.as_mut().unwrap().ended = Some(Ended {
        id: act.id,
        at: world.now,
        fault: None,
    });
    world.settle();
    assert_eq!(ignored(&world), None);
    // A controller that says yes and does nothing: the same boot as ever.
    world.pass(5);
    registers_after(&mut world, "first", None, 3600);
    assert_eq!(ignored(&world), None);

    world.pass(60);
    registers(&mut world, "second", None);
    let power = world.status().power;
    assert_eq!(boot_order::ignored(Some(&world.discovery), power.as_ref()), Some(Told::Driver));
    assert!(ignored(&world).expect("it is named").contains("power driver"));
    world.pass(60);
    world.agent_boots();
    world.settle();
    assert_eq!(ignored(&world), None);
}
