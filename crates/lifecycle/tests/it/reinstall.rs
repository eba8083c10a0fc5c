//! Writing the image anew over an installation, because its instance asks for it; and everything that must not lead there.

use agent_protocol::{
    disk::ContentsState,
    guest::GuestAction,
    order::{FaultReason, OrderKind, Outcome},
};
use api::{HardwarePhase, InstancePhase, conditions, discovery::BootAnswer, hardware::InstalledImage, instance::RunningEvidence};
use lifecycle::{
    agent::guest_action,
    hardware::Readiness,
    orders,
    view::{self, Uids},
};

use crate::world::{World, marked};

fn ask(world: &mut World, token: &str) {
    world.pass(60);
    world.instances[0].spec.reinstall_token = Some(token.to_owned());
    world.instances[0].metadata.generation = world.instances[0].metadata.generation.map(|g| g + 1);
    world.settle();
}

fn action(world: &World) -> GuestAction {
    guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now)
}

fn installed_by(world: &World) -> String {
    world.status().installed.expect("an installation").order_id
}

#[test]
fn a_changed_text_writes_the_image_anew_without_an_erase_and_for_the_same_claim() {
    let mut world = World::running();
    let (before, claim) = (installed_by(&world), world.hardware.spec.claim_ref.clone());
    ask(&mut world, "2026-11-30");
    assert_eq!(world.phase(), HardwarePhase::Reserved);
    assert_eq!(world.instance_phase(0), InstancePhase::Provisioning);
    assert!(world.instance_status(0).evidence.is_none());
    assert_eq!(action(&world), GuestAction::RebootToAgent, "its own system brings it back");
    assert!(world.status().order.is_none(), "nothing is ordered before the agent is there");

    world.pass(1);
    assert_eq!(world.boot_request(), BootAnswer::Agent);
    world.agent_boots();
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    let expected = &order.disk.as_ref().unwrap().expected;
    assert!(expected.contains(&orders::marked("uid-1")), "{expected:?}");
    assert!(expected.iter().all(|e| e.state != ContentsState::Foreign), "{expected:?}");
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Imaging);
    world.obey(&order);
    // The new system may be up before the operator has read the result.
    assert_eq!(action(&world), GuestAction::Wait);
    world.settle();
    assert_eq!((world.phase(), installed_by(&world)), (HardwarePhase::InUse, order.id.clone()));
    assert_ne!(installed_by(&world), before);
    assert_eq!(world.hardware.spec.claim_ref, claim);
    assert!(world.status().last_erase.is_none() && world.status().replacing.is_none());

    // The helper of the system before is no evidence of this one.
    assert_eq!(world.instance_phase(0), InstancePhase::Booting);
    world.starts_to_run();
    assert_eq!(world.instance_status(0).evidence, Some(RunningEvidence::GuestReported));
    let events = world.events.iter().filter(|e| *e == "Reinstalling").count();
    assert_eq!(events, 1, "{:?}", world.events);

    // The same text again is no new wish.
    world.pass(600);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    ask(&mut world, "2026-12-01");
    assert_eq!(world.phase(), HardwarePhase::Reserved);
}

#[test]
fn nothing_else_leads_to_a_re_install() {
    let mut world = World::running();
    let before = installed_by(&world);
    // Another image by itself; the text says what to do about it.
    world.images[0].spec.digest = format!("sha256:{}", "e".repeat(64));
    world.instances[0].spec.image = "another".to_owned();
    world.settle();
    // The text taken away, or never set.
    world.instances[0].spec.reinstall_token = None;
    world.settle();
    // Status lost: whatever the text is, it is what stands there.
    world.instances[0].spec.reinstall_token = Some("lost-with-the-status".to_owned());
    world.hardware.status = None;
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(installed_by(&world), before);
    assert_eq!(action(&world), GuestAction::Wait);

    // Set from the start: it is the first installation's.
    let mut world = World::ready();
    let mut instance = crate::world::instance("web", "uid-1");
    instance.spec.reinstall_token = Some("first".to_owned());
    world.instances.push(instance);
    world.settle();
    let order = world.poll();
    // Changed before anything was written: there is still only one installation to make.
    world.obey(&order);
    world.settle();
    world.pass(600);
    world.settle();
    assert_eq!(installed_by(&world), order.id);
}

#[test]
fn the_system_runs_on_until_its_successor_can_be_written() {
    let mut world = World::running();
    let images = std::mem::take(&mut world.images);
    ask(&mut world, "again");
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(world.instance_phase(0), InstancePhase::Running);
    assert_eq!(world.status().reason, "ImageNotFound");
    assert_eq!(world.instance_status(0).reason, "ImageNotFound", "its owner is told");
    assert_eq!(action(&world), GuestAction::Wait);

    world.images = images;
    world.seed_input = Readiness::Waiting {
        reason: "SecretNotFound".to_owned(),
        message: "There is no Secret".to_owned(),
    };
    world.settle();
    assert_eq!(world.status().reason, "SecretNotFound");
    world.seed_input = Readiness::Ready;
    world.hardware.spec.maintenance = true;
    world.settle();
    assert_eq!(
        (world.phase(), world.status().reason.as_str()),
        (HardwarePhase::InUse, "Maintenance")
    );
    world.hardware.spec.maintenance = false;
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Reserved);
    assert_eq!(world.status().observed_reinstall_token.as_deref(), Some("again"));
}

#[test]
fn a_request_that_a_backup_brought_back_does_not_touch_what_was_written_since() {
    let mut world = World::running();
    let backup = world.hardware.status.clone();
    ask(&mut world, "again");
    world.agent_boots();
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.settle();
    assert_eq!(installed_by(&world), order.id);
    // The machine's status is that of the time before; the request in the spec looks new.
    world.hardware.status = backup;
    world.settle();
    assert_eq!(
        world.phase(),
        HardwarePhase::InUse,
        "the stored result is of an order that came later"
    );
    // The same where that is lost too: the disk's marker tells, once the machine is in the agent.
    world.hardware.status.as_mut().unwrap().installed.as_mut().unwrap().order_id = "m-1-00000001".to_owned();
    world.seen().result = None;
    world.seen().accepted_order = None;
    world.agent_boots();
    ask(&mut world, "once-more");
    assert_eq!((world.phase(), installed_by(&world)), (HardwarePhase::InUse, order.id));
    assert_ne!(world.poll().kind, OrderKind::Image);
}

#[test]
fn a_re_install_that_fails_or_is_interrupted_goes_on_and_its_deletion_ends() {
    let mut world = World::running();
    ask(&mut world, "again");
    world.agent_boots();
    world.settle();
    let first = world.poll();
    // Half way: power is lost, and the agent is back with an interrupted disk.
    let digest = first.image.as_ref().unwrap().digest.clone();
    world.disk = marked(&first, &digest, ContentsState::Interrupted);
    assert_eq!(world.boot_request(), BootAnswer::Agent);
    world.agent_boots();
    world.settle();
    let again = world.poll();
    assert_eq!(again.kind, OrderKind::Image);
    let contents = world.disk.clone();
    world.fail(&again, Outcome::Failed, FaultReason::ImageUnreachable, Some(contents));
    world.settle();
    assert!(world.condition(conditions::ORDER_FAILED).is_some());

    world.delete(0);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Releasing);
    let erase = world.poll();
    assert_eq!(erase.kind, OrderKind::Erase);
    world.obey(&erase);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.instances.is_empty());
    let status = world.status();
    assert!(status.replacing.is_none() && status.observed_reinstall_token.is_none());
}

#[test]
fn an_older_view_of_the_instance_asks_for_nothing() {
    let mut world = World::running();
    ask(&mut world, "one");
    let old = world.instances[0].clone();
    ask(&mut world, "two");
    world.agent_boots();
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.settle();
    assert_eq!(installed_by(&world), order.id, "two wishes before anything was written are one");
    let known = world.instances[0].clone();
    world.instances[0].spec = old.spec;
    world.instances[0].metadata = old.metadata;
    assert!(!world.step_hardware());
    world.instances[0] = known;
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
}

#[test]
fn an_older_view_does_not_boot_what_is_being_written_over() {
    let mut world = World::running();
    let old = world.hardware.clone();
    ask(&mut world, "again");
    world.agent_boots();
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    world.hardware = old;
    assert_eq!(world.boot_request(), BootAnswer::Agent, "the accepted order outweighs it");
    world.obey(&order);
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
}

#[test]
fn views_of_different_times_are_told_apart() {
    let mut world = World::running();
    let (old, first) = (world.discovery.clone(), world.status().installed.unwrap());
    let before = world.status();
    let uids = Uids::one("uid-1");
    assert!(!view::is_apart_from(&first, Some(&old), uids));

    ask(&mut world, "again");
    let asking = world.instances[0].clone();
    for (phase, outdated) in [(InstancePhase::Booting, true), (InstancePhase::Running, false)] {
        assert_eq!(view::is_before_the_reinstall(&before, &asking, phase), outdated, "{phase:?}");
        assert!(
            !view::is_before_the_reinstall(&world.status(), &asking, phase),
            "this view has taken note of it"
        );
    }

    world.agent_boots();
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.settle();
    let second = world.status().installed.unwrap();
    assert!(
        view::is_apart_from(&second, Some(&old), uids),
        "the record is older than the installation"
    );
    assert!(view::is_apart_from(&first, Some(&world.discovery), uids), "and the other way round");
    assert!(!view::is_apart_from(&second, Some(&world.discovery), uids));
    let untold = InstalledImage {
        order_id: String::new(),
        ..first
    };
    assert!(
        !view::is_apart_from(&untold, Some(&world.discovery), uids),
        "nobody knows which order wrote it"
    );
}
