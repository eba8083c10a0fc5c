//! Each fault ends in a condition that names it and its remedy; correcting the named spec goes on without other help.

use agent_protocol::{
    disk::ContentsState,
    order::{FaultReason, OrderKind, Outcome},
};
use api::{
    HardwarePhase, InstancePhase, conditions,
    hardware::{DiskHint, EraseConsent},
};

use crate::world::{World, disk, foreign, image, instance, inventory, marked};

fn interrupted(world: &mut World, order: &agent_protocol::order::Order) -> agent_protocol::disk::DiskContents {
    world.disk = marked(order, "", ContentsState::Interrupted);
    world.disk.clone()
}

#[test]
fn every_image_fault_names_itself_and_the_spec_to_correct() {
    let faults = [
        (FaultReason::ImageTruncated, "spec.url"),
        (FaultReason::ImageDigestMismatch, "spec.digest"),
        (FaultReason::ImageFormatMismatch, "spec.format"),
        (FaultReason::ImageTooLarge, "spec.image"),
        (FaultReason::ImageUnreachable, "spec.url"),
        (FaultReason::SectorSizeMismatch, "spec.image"),
        (FaultReason::NoRoomForConfigDrive, "spec.configDrive"),
        (FaultReason::DiskNotFound, "spec.rootDisk"),
        (FaultReason::DiskSizeMismatch, "spec.rootDisk"),
    ];
    for (fault, field) in faults {
        let (mut world, order) = World::imaging();
        let left = interrupted(&mut world, &order);
        world.fail(&order, Outcome::Failed, fault, Some(left));
        world.settle();
        let (reason, message) = world.condition(conditions::ORDER_FAILED).expect("a condition");
        assert_eq!(reason, format!("{fault:?}"));
        assert!(message.contains(field), "{message} names {field}");
        let told = world.instance_status(0);
        assert!(
            conditions::is_true(&told.conditions, conditions::ORDER_FAILED),
            "the tenant sees it too"
        );
        assert!(told.message.contains(field), "{}", told.message);
        assert_eq!(world.poll().kind, OrderKind::Wait, "nothing is handed out before it is due");

        // Correcting the image, or naming another, is all that is needed.
        if fault == FaultReason::ImageTooLarge {
            world.instances[0].spec.image = "debian-12".to_owned();
        } else {
            world.images[0].spec.url = "http://images.example/corrected.raw".to_owned();
        }
        world.settle();
        let again = world.poll();
        assert_eq!(again.kind, OrderKind::Image);
        assert_ne!(again.id, order.id);
        assert!(world.condition(conditions::ORDER_FAILED).is_none());
        world.obey(&again);
        world.settle();
        assert_eq!(world.phase(), HardwarePhase::InUse);
    }
}

#[test]
fn without_a_correction_it_is_tried_again_later_and_later() {
    let (mut world, mut order) = World::imaging();
    let mut waits = Vec::new();
    for failure in 1..=10u32 {
        let left = interrupted(&mut world, &order);
        world.fail(&order, Outcome::Failed, FaultReason::ImageUnreachable, Some(left));
        world.settle();
        assert_eq!(world.status().order_failures, failure);
        let due = world.status().retry_after.expect("a time").0;
        let wait = due.duration_since(world.now).as_secs();
        let asked = world.hardware_decision().requeue_after.expect("asks to be called again");
        assert!(asked.as_secs() <= wait);
        waits.push(wait);
        world.pass(wait);
        world.settle();
        let next = world.poll();
        assert_eq!(next.kind, OrderKind::Image);
        assert_ne!(next.id, order.id);
        order = next;
    }
    assert_eq!(&waits[..4], [10, 20, 40, 80]);
    assert_eq!(waits[9], 900, "bounded");
    world.obey(&order);
    world.settle();
    assert_eq!(world.status().order_failures, 0);
}

#[test]
fn a_retry_token_shortens_the_wait() {
    let (mut world, order) = World::imaging();
    world.fail(&order, Outcome::Refused, FaultReason::ImageUnreachable, None);
    world.settle();
    assert_eq!(world.poll().kind, OrderKind::Wait);
    world.hardware.spec.retry_token = Some("now".to_owned());
    world.settle();
    assert_eq!(world.poll().kind, OrderKind::Image);
}

#[test]
fn a_missing_image_is_named() {
    let mut world = World::ready();
    let mut web = instance("web", "uid-1");
    web.spec.image = "debian-14".to_owned();
    world.instances.push(web);
    world.settle();
    assert!(world.instance_status(0).message.contains("debian-14"));
    world.images.push(image("debian-14"));
    world.settle();
    assert_eq!(world.poll().kind, OrderKind::Image);
}

#[test]
fn two_disks_with_one_hint_are_an_error_until_the_hint_names_one() {
    let mut world = World::new();
    world.hardware.spec.root_disk = Some(DiskHint {
        model: Some("Model".to_owned()),
        ..DiskHint::default()
    });
    let mut two = inventory();
    two.disks.push(disk("sdb", "S3Z00002", 128));
    world.agent_boots_with(two.clone());
    world.settle();
    assert_eq!(world.status().reason, "DiskAmbiguous");
    assert!(world.status().message.contains("S3Z00001") && world.status().message.contains("spec.rootDisk"));
    world.hardware.spec.root_disk = Some(DiskHint {
        serial: Some("S3Z00002".to_owned()),
        ..DiskHint::default()
    });
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert_eq!(world.status().root_disk.unwrap().size_bytes, 128 << 30);
}

#[test]
fn a_disk_that_went_missing_while_claimed_is_named_and_not_replaced_by_another() {
    let (mut world, _) = World::imaging();
    let mut swapped = inventory();
    swapped.disks = vec![disk("sda", "OTHER0001", 32)];
    world.agent_boots_with(swapped);
    world.settle();
    let status = world.status();
    assert_eq!(status.reason, "DiskNotFound");
    assert!(
        status.message.contains("S3Z00001") && status.message.contains("OTHER0001"),
        "{}",
        status.message
    );
    let order = world.poll();
    assert_eq!(
        order.kind,
        OrderKind::Wait,
        "neither the new disk by itself, nor the old one that is not there"
    );
    world.hardware.spec.root_disk = Some(DiskHint {
        serial: Some("OTHER0001".to_owned()),
        ..DiskHint::default()
    });
    world.settle();
    let order = world.poll();
    assert_eq!(order.disk.unwrap().identity.serial.as_deref(), Some("OTHER0001"));
}

#[test]
fn the_same_name_with_another_size_is_another_disk() {
    let (mut world, _) = World::imaging();
    let mut swapped = inventory();
    let before = swapped.disks[0].size_bytes;
    swapped.disks[0].size_bytes = before / 2;
    world.agent_boots_with(swapped);
    world.settle();
    assert_eq!(world.status().reason, "DiskSizeMismatch");
    let told = world.instance_status(0).message;
    assert!(
        told.contains("S3Z00001") && told.contains("Put that one back") && told.contains("spec.rootDisk"),
        "{told}"
    );
    let order = world.poll();
    assert_eq!(
        order.kind,
        OrderKind::Wait,
        "neither the new disk by itself, nor the old one that is not there"
    );
    world.hardware.spec.root_disk = Some(DiskHint {
        serial: Some("S3Z00001".to_owned()),
        ..DiskHint::default()
    });
    world.settle();
    assert_eq!(world.poll().disk.unwrap().size_bytes, before / 2);
}

#[test]
fn a_root_disk_that_is_protected_under_a_claim_is_left_alone_and_the_order_says_so_to_the_machine() {
    let (mut world, order) = World::imaging();
    assert!(order.protected.is_empty());
    let entry = inventory().disks[0].identity.clone();
    world.hardware.spec.protected_disks = vec![entry];
    let left = interrupted(&mut world, &order);
    world.fail(&order, Outcome::Failed, FaultReason::ImageTruncated, Some(left));
    world.settle();
    assert_eq!(world.status().reason, "DiskProtected");
    assert!(world.status().message.contains("spec.protectedDisks"), "{}", world.status().message);
    assert_eq!(world.poll().kind, OrderKind::Wait);
    let another = agent_protocol::disk::DiskIdentity {
        serial: Some("KEEP".to_owned()),
        ..agent_protocol::disk::DiskIdentity::default()
    };
    world.hardware.spec.protected_disks = vec![another.clone()];
    world.settle();
    assert_eq!(world.poll().protected, [another]);
}

#[test]
fn an_instance_never_falls_back_between_the_stored_result_and_the_boot() {
    let (mut world, order) = World::imaging();
    assert_eq!(world.instance_phase(0), InstancePhase::Imaging);
    world.obey(&order);
    // The instance is decided first, on what the machine's own decision has not taken in yet.
    world.step_instance(0);
    assert_eq!(world.instance_phase(0), InstancePhase::Imaging);
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Booting);
}

#[test]
fn foreign_data_that_appears_under_a_claim_is_not_touched_without_consent() {
    let mut world = World::ready();
    world.images.clear();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    world.disk = foreign("photos");
    world.agent_boots();
    world.images.push(image("debian-13"));
    world.settle();
    assert_eq!(world.status().reason, "ForeignData");
    assert_eq!(world.poll().kind, OrderKind::Wait);
    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: vec![world.disk.fingerprint.clone()],
        at_acceptance: false,
    });
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
}

#[test]
fn contents_that_appear_after_the_order_was_written_are_refused_and_shown() {
    let (mut world, order) = World::imaging();
    world.disk = foreign("photos");
    world.obey(&order);
    world.settle();
    assert_eq!(world.disk.state, ContentsState::Foreign, "untouched");
    assert_eq!(world.status().reason, "ForeignData");
    let (_, message) = world.condition(conditions::FOREIGN_DATA).unwrap();
    assert!(message.contains(&world.disk.fingerprint));
}

#[test]
fn what_a_tenant_left_behind_without_marker_stops_the_release_until_it_is_given_up() {
    let mut world = World::running();
    world.disk = foreign("repartitioned");
    world.delete(0);
    world.settle();
    world.pass(5);
    world.agent_boots();
    let order = world.poll();
    if order.kind == OrderKind::Erase {
        world.obey(&order);
    }
    world.settle();
    assert_eq!(world.disk.state, ContentsState::Foreign);
    assert_eq!(
        (world.phase(), world.status().reason.as_str()),
        (HardwarePhase::Releasing, "ForeignData")
    );
    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: vec![world.disk.fingerprint.clone()],
        at_acceptance: false,
    });
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.instances.is_empty());
}

#[test]
fn an_erase_that_cannot_be_proven_quarantines_and_the_deletion_still_ends() {
    let mut world = World::running();
    world.delete(0);
    world.settle();
    world.pass(5);
    world.agent_boots();
    for _ in 0..3 {
        let order = world.poll();
        assert_eq!(order.kind, OrderKind::Erase);
        let left = world.disk.clone();
        world.fail(&order, Outcome::Failed, FaultReason::EraseNotProven, Some(left));
        world.settle();
        world.pass(3600);
        world.settle();
    }
    assert_eq!(world.phase(), HardwarePhase::Quarantined);
    assert!(world.instances.is_empty());
    assert!(world.status().last_erase.is_none(), "nothing is claimed");
    assert!(world.status().message.contains("Overwrite") && world.status().message.contains("spec.retryToken"));
}

#[test]
fn evidence_of_another_order_claim_or_disk_proves_nothing() {
    let mut world = World::running();
    world.delete(0);
    world.settle();
    world.pass(5);
    world.agent_boots();
    let order = world.poll();
    world.obey(&order);
    let honest = world.seen().result.clone().unwrap();
    let lies: [fn(&mut agent_protocol::order::EraseEvidence); 4] = [
        |e| e.order_id = "another".to_owned(),
        |e| e.claim_uid = "another".to_owned(),
        |e| e.disk.serial = Some("another".to_owned()),
        |e| e.size_bytes = 1,
    ];
    for lie in lies {
        let mut told = honest.clone();
        lie(told.erase.as_mut().unwrap());
        world.seen().result = Some(told);
        let kept = world.hardware.clone();
        world.settle();
        assert_eq!(world.phase(), HardwarePhase::Releasing);
        assert!(world.status().last_erase.is_none());
        world.hardware = kept;
    }
    world.seen().result = Some(honest);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
}

#[test]
fn a_disk_that_could_not_be_looked_at_is_looked_at_anew() {
    let (mut world, order) = World::imaging();
    world.fail(&order, Outcome::Failed, FaultReason::DiskIO, None);
    world.settle();
    let told = world.poll();
    assert_eq!(
        (told.kind, told.reboot),
        (OrderKind::Reboot, Some(agent_protocol::order::RebootTarget::Agent))
    );
}
