//! Instances with a new uid: moved to another API, or restored from a backup. Their systems go on under the uid that they were installed with.

use agent_protocol::{
    disk::ContentsState,
    guest::GuestAction,
    order::{ExpectedContents, OrderKind},
};
use api::{
    BareMetalDiscoveryStatus, HardwarePhase, InstancePhase, discovery::BootAnswer, hardware::InstalledEvidence, instance::RunningEvidence,
};
use lifecycle::{agent::guest_action, view::Uids};

use crate::world::{World, instance};

/// As `kube-baremetal import` writes it: the claim has the new uid everywhere, the machine's own words keep the old one.
fn moved(world: &mut World, to: &str) {
    let from = world.instances[0].metadata.uid.replace(to.to_owned());
    let claim = world.hardware.spec.claim_ref.as_mut().unwrap();
    to.clone_into(&mut claim.uid);
    claim.installation_uid = claim.installation_uid.take().or(from);
    let status = world.hardware.status.as_mut().unwrap();
    status.claim_uid = Some(to.to_owned());
    if let Some(installed) = &mut status.installed {
        installed.claim_uid = to.to_owned();
    }
}

fn installation_uid(world: &World) -> Option<&str> {
    world.hardware.spec.claim_ref.as_ref()?.installation_uid.as_deref()
}

fn knows(world: &World, uid: &str) -> bool {
    world.hardware.spec.claim_ref.as_ref().is_some_and(|c| Uids::of(c).has(uid))
}

fn expects(expected: &[ExpectedContents], state: ContentsState, uid: &str) -> bool {
    expected.iter().any(|e| e.state == state && e.instance_uid.as_deref() == Some(uid))
}

#[test]
fn a_moved_instance_runs_on_and_its_helper_is_heard_and_obeyed_under_its_old_uid() {
    let mut world = World::running();
    moved(&mut world, "uid-2");
    let (disk, sequence) = (world.disk.clone(), world.status().order_sequence);
    world.settle();
    assert_eq!(
        (world.phase(), world.instance_phase(0)),
        (HardwarePhase::InUse, InstancePhase::Running)
    );
    assert_eq!(world.instance_status(0).evidence, Some(RunningEvidence::GuestReported));
    assert_eq!(world.instance_status(0).addresses, ["192.0.2.9/24"]);
    assert_eq!((&world.disk, world.status().order_sequence), (&disk, sequence), "no order was made");
    // And a second move.
    moved(&mut world, "uid-3");
    world.settle();
    assert_eq!(installation_uid(&world), Some("uid-1"));
    for (uid, action) in [
        ("uid-1", GuestAction::Wait),
        ("uid-2", GuestAction::Wait),
        ("uid-3", GuestAction::Wait),
    ] {
        assert_eq!(guest_action(Some(&world.hardware), Some(&world.discovery), uid, world.now), action);
    }
    world.instances[0].spec.running = false;
    world.settle();
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        GuestAction::PowerOff
    );
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-2", world.now),
        GuestAction::Wait,
        "a uid that no system has"
    );
    world.instances[0].spec.running = true;

    world.delete(0);
    world.settle();
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        GuestAction::RebootToAgent
    );
    let order = world.status().order.expect("an erase");
    let expected = &order.disk.as_ref().unwrap().expected;
    assert!(expects(expected, ContentsState::Marked, "uid-1"), "its own marker: {expected:?}");
    assert!(!expects(expected, ContentsState::Marked, "uid-2"), "nothing else: {expected:?}");
    world.agent_boots();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.obey(&order);
    world.settle();
    assert_eq!((world.phase(), world.instances.len()), (HardwarePhase::Ready, 0));
    assert_eq!(world.status().released_claims, ["uid-1", "uid-3"], "released under both");
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        GuestAction::RebootToAgent
    );
}

#[test]
fn an_order_in_work_ends_under_the_uid_that_it_was_given_with() {
    let (mut world, order) = World::imaging();
    moved(&mut world, "uid-2");
    world.settle();
    assert_eq!(
        world.status().order.map(|o| o.id),
        Some(order.id.clone()),
        "not replaced while it is worked on"
    );
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(installation_uid(&world), Some("uid-1"), "that is what the disk says");
    world.starts_to_run();
}

#[test]
fn an_erase_in_work_counts_for_the_moved_claim() {
    let mut world = World::running();
    world.delete(0);
    world.settle();
    world.agent_boots();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.settle();
    moved(&mut world, "uid-2");
    world.settle();
    world.obey(&order);
    world.settle();
    assert_eq!((world.phase(), world.instances.len()), (HardwarePhase::Ready, 0));
    assert_eq!(world.status().order_sequence, 2, "one image, one erase");
}

#[test]
fn an_image_that_was_interrupted_before_the_move_is_written_again_under_the_new_uid() {
    let mut world = World::ready();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    world.settle();
    world.disk = crate::world::marked(&order, "", ContentsState::Interrupted);
    moved(&mut world, "uid-2");
    world.agent_boots();
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    assert!(expects(&order.disk.as_ref().unwrap().expected, ContentsState::Interrupted, "uid-1"));
    assert_eq!(order.claim.as_ref().map(|c| c.uid.as_str()), Some("uid-2"));
    world.settle();
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert!(knows(&world, "uid-2"), "that is what the disk says now");
}

/// Everything but the specs is lost, and the instance has a new uid.
fn restored_without_status(world: &mut World, uid: &str) {
    world.instances[0].metadata.uid = Some(uid.to_owned());
    world.instances[0].status = None;
    world.hardware.status = None;
    *world.seen() = BareMetalDiscoveryStatus::default();
}

#[test]
fn a_running_helper_re_identifies_its_restored_instance_without_a_reboot() {
    let mut world = World::running();
    let disk = world.disk.clone();
    restored_without_status(&mut world, "uid-2");
    world.settle();
    assert_eq!(world.status().reason, "ClaimantReplaced");
    // Netboot takes it: the claim still has the old uid.
    assert!(knows(&world, "uid-1"));
    world.guest_reports("uid-1");
    world.settle();
    assert_eq!(world.hardware.spec.claim_ref.as_ref().unwrap().uid, "uid-2");
    assert_eq!(
        (world.phase(), world.instance_phase(0)),
        (HardwarePhase::InUse, InstancePhase::Running)
    );
    let status = world.status();
    assert_eq!(status.installed.map(|i| i.evidence), Some(InstalledEvidence::GuestReport));
    assert_eq!(status.order_sequence, 0, "no order was made");
    assert_eq!(installation_uid(&world), Some("uid-1"));
    // Its release goes the usual way, though the status never knew the disk.
    world.delete(0);
    world.settle();
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        GuestAction::RebootToAgent
    );
    world.agent_boots();
    world.settle();
    let order = world.poll();
    assert_eq!((order.kind, &world.disk), (OrderKind::Erase, &disk));
    world.obey(&order);
    world.settle();
    assert_eq!((world.phase(), world.disk.state), (HardwarePhase::Ready, ContentsState::Blank));
}

#[test]
fn a_running_helper_vouches_for_its_instance_where_only_status_was_lost() {
    let mut world = World::running();
    restored_without_status(&mut world, "uid-1");
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Reserved, "nothing is known yet, and nothing done");
    world.guest_reports("uid-1");
    world.settle();
    assert_eq!(
        (world.phase(), world.instance_phase(0)),
        (HardwarePhase::InUse, InstancePhase::Running)
    );
    assert_eq!((installation_uid(&world), world.status().order_sequence), (None, 0));
}

#[test]
fn what_the_disk_says_is_kept_with_the_claim_through_a_second_loss() {
    let mut world = World::running();
    for uid in ["uid-2", "uid-3"] {
        restored_without_status(&mut world, uid);
        world.agent_boots();
        world.settle();
        assert_eq!(
            (world.phase(), installation_uid(&world)),
            (HardwarePhase::InUse, Some("uid-1")),
            "{uid}"
        );
    }
    // A claim that was lost altogether comes back with it, too.
    world.hardware.spec.claim_ref = None;
    world.settle();
    assert_eq!(installation_uid(&world), Some("uid-1"));
    // And now the helper alone.
    restored_without_status(&mut world, "uid-4");
    world.guest_reports("uid-1");
    world.settle();
    assert_eq!(
        (world.phase(), world.instance_phase(0)),
        (HardwarePhase::InUse, InstancePhase::Running)
    );
    assert_eq!(world.status().order_sequence, 0, "no order was made");
}

#[test]
fn a_helper_of_another_claim_vouches_for_nothing() {
    let mut world = World::running();
    restored_without_status(&mut world, "uid-2");
    world.guest_reports("uid-0");
    world.settle();
    assert_eq!(world.status().reason, "ClaimantReplaced");
    assert!(!knows(&world, "uid-0"), "nor would netboot take it");
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-0", world.now),
        GuestAction::Wait
    );
}

#[test]
fn a_paused_machine_is_told_to_wait_but_boots_what_it_runs() {
    let mut world = World::running();
    world.hardware.spec.paused = true;
    world.delete(0);
    assert_eq!(
        guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        GuestAction::Wait
    );
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
    world.agent_boots();
    assert_eq!(world.poll().kind, OrderKind::Wait);
    world.hardware.spec.paused = false;
    world.settle();
    assert_eq!(world.poll().kind, OrderKind::Erase);
    world.hardware.spec.paused = true;
    assert_eq!(world.poll().kind, OrderKind::Wait);
}
