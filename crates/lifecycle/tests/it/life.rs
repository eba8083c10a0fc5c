//! The whole life of a machine, with its ways aside: lost status, rebinding, forced release, deletion at every point.

use agent_protocol::{
    disk::{ContentsState, DiskContents},
    order::{FaultReason, OrderKind, Outcome, RebootTarget},
};
use api::{HardwarePhase, InstancePhase, conditions, discovery::BootAnswer, hardware::EraseConsent, instance::RunningEvidence};

use crate::world::{World, foreign, instance, marked};

#[test]
fn a_blank_machine_is_ready_at_once_and_within_budget() {
    let world = World::ready();
    assert!(world.status().last_erase.is_none(), "nothing was erased, nothing is claimed");
    // Session, and one status.
    assert_eq!(world.writes, 2);
}

#[test]
fn an_instance_runs_and_its_deletion_frees_the_machine_with_evidence() {
    let mut world = World::running();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(world.instance_status(0).evidence, Some(RunningEvidence::GuestReported));
    assert!(world.sealed.is_some(), "the seed goes with the claim");
    let to_running = world.writes;
    assert!(to_running <= 2 + 18, "{to_running} writes to Running");

    world.delete(0);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Releasing);
    assert!(world.sealed.is_none());
    assert_eq!(world.boot_request(), BootAnswer::Agent, "the machine is wanted back");
    world.agent_boots();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Cleaning);
    world.obey(&order);
    world.settle();
    assert!(world.instances.is_empty(), "the finalizer is gone");
    assert_eq!(world.phase(), HardwarePhase::Ready);
    let status = world.status();
    let erase = status.last_erase.expect("evidence");
    assert_eq!((erase.order_id, erase.claim_uid.as_str()), (order.id, "uid-1"));
    assert!(world.hardware.spec.claim_ref.is_none());
    let released = world.writes - to_running;
    assert!(released <= 12, "{released} writes from deletion to Ready");

    // And the next one.
    world.instances.push(instance("next", "uid-2"));
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Image);
    world.obey(&order);
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Booting);
}

#[test]
fn foreign_data_waits_for_its_own_consent() {
    let mut world = World::new();
    world.disk = foreign("photos");
    world.agent_boots();
    world.settle();
    assert_eq!(
        (world.phase(), world.status().reason.as_str()),
        (HardwarePhase::Inspecting, "ForeignData")
    );
    let (_, message) = world.condition(conditions::FOREIGN_DATA).unwrap();
    assert!(
        message.contains("kubectl patch bmh") && message.contains(&world.disk.fingerprint),
        "{message}"
    );
    assert!(message.contains("ext4 \"photos\""), "{message}");
    assert_eq!(world.poll().kind, OrderKind::Wait);

    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: vec![foreign("other").fingerprint],
        at_acceptance: false,
    });
    world.settle();
    assert_eq!(world.poll().kind, OrderKind::Wait, "consent to other data is none");

    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: vec![world.disk.fingerprint.clone()],
        at_acceptance: false,
    });
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Cleaning);
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.settle();
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.condition(conditions::FOREIGN_DATA).is_none());
}

#[test]
fn consent_at_acceptance_covers_only_what_was_there_then() {
    let mut world = World::new();
    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: Vec::new(),
        at_acceptance: true,
    });
    world.disk = foreign("old");
    world.agent_boots();
    world.settle();
    assert_eq!(world.poll().kind, OrderKind::Erase);
    // Before the erase, somebody plugs the family's disk in.
    world.disk = foreign("photos");
    world.agent_boots();
    world.settle();
    assert_eq!(world.status().reason, "ForeignData");
    assert_eq!(world.poll().kind, OrderKind::Wait);
}

#[test]
fn consent_at_acceptance_never_covers_an_installation_of_ours() {
    let mut world = World::running();
    // A backup from before the claim, without status; the machine is in use, and reboots.
    world.instances.clear();
    world.hardware.status = None;
    world.hardware.spec.claim_ref = None;
    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: Vec::new(),
        at_acceptance: true,
    });
    *world.seen() = api::BareMetalDiscoveryStatus::default();
    world.agent_boots();
    world.settle();
    assert_eq!(world.status().reason, "ForeignData");
    assert!(world.status().message.contains("of the installation for default/web"));
    assert_eq!(world.poll().kind, OrderKind::Wait);
}

#[test]
fn an_interrupted_erase_goes_on_and_a_blank_look_before_its_end_proves_nothing() {
    let mut world = World::new();
    world.hardware.spec.erase_consent = Some(EraseConsent {
        fingerprints: Vec::new(),
        at_acceptance: true,
    });
    world.disk = foreign("old");
    world.agent_boots();
    world.settle();
    let order = world.poll();
    world.settle();
    world.disk = DiskContents::blank();
    world.agent_boots();
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Cleaning);
    let again = world.poll();
    assert_eq!(again.id, order.id);
    world.disk = marked(&order, "", ContentsState::Interrupted);
    world.agent_boots();
    world.settle();
    let again = world.poll();
    assert_eq!(again.kind, OrderKind::Erase);
    world.obey(&again);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.status().last_erase.is_some());
}

#[test]
fn an_image_that_stands_is_not_written_again_when_its_result_was_lost() {
    let mut world = World::ready();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    world.settle();
    // Written, and the machine lost its power before the result was stored.
    world.disk = marked(&order, &order.image.as_ref().unwrap().digest.clone(), ContentsState::Marked);
    world.agent_boots();
    assert_eq!(
        world.poll().kind,
        OrderKind::Wait,
        "not handed out again, even before the operator knows"
    );
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    let told = world.poll();
    assert_eq!((told.kind, told.reboot), (OrderKind::Reboot, Some(RebootTarget::Disk)));
}

#[test]
fn status_lost_from_a_backup_neither_frees_nor_rewrites_a_machine_in_use() {
    let mut world = World::running();
    world.hardware.status = None;
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk, "netboot knows from the result");
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    // All is lost but the specs: the disk's marker tells.
    world.hardware.status = None;
    world.instances[0].status = None;
    let seen = world.seen();
    seen.result = None;
    seen.accepted_order = None;
    seen.guest = None;
    world.settle();
    assert_ne!(world.phase(), HardwarePhase::Ready);
    let sequence = world.status().order_sequence;
    world.agent_boots();
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(world.poll().kind, OrderKind::Reboot);
    assert_eq!(world.status().order_sequence, sequence, "no order was made for what stands");
}

#[test]
fn a_lost_claim_is_restored_by_its_instance() {
    let mut world = World::running();
    let ready = World::ready();
    world.hardware.spec.claim_ref = None;
    world.hardware.status = ready.hardware.status;
    // Another instance would like the machine.
    world.instances.push(instance("eager", "uid-2"));
    world.settle();
    let claim = world.hardware.spec.claim_ref.clone().expect("restored");
    assert_eq!(claim.uid, "uid-1");
    assert_eq!(world.instance_phase(1), InstancePhase::Pending);
    assert_eq!(world.phase(), HardwarePhase::InUse);
}

#[test]
fn a_machine_whose_older_backup_says_free_is_still_erased_after_its_instance() {
    let mut world = World::running();
    let ready = World::ready();
    world.hardware.spec.claim_ref = None;
    world.hardware.status = ready.hardware.status;
    world.delete(0);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Releasing, "not free without evidence");
    world.agent_boots();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.obey(&order);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.instances.is_empty());
}

#[test]
fn a_claim_with_another_uid_is_rebound_by_the_marker_and_never_erased() {
    let mut world = World::running();
    // Everything was restored into another cluster: a new uid, no status.
    world.instances[0].metadata.uid = Some("uid-new".to_owned());
    world.instances[0].status = None;
    world.hardware.status = None;
    let old_disk = world.disk.clone();
    let seen = world.seen();
    seen.result = None;
    seen.accepted_order = None;
    seen.session = None;
    seen.inventory = None;
    seen.guest = None;
    world.settle();
    assert_eq!(world.status().reason, "ClaimantReplaced");
    assert_eq!(world.poll().kind, OrderKind::Wait);
    world.agent_boots();
    world.settle();
    assert_eq!(world.hardware.spec.claim_ref.as_ref().unwrap().uid, "uid-new");
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(world.disk, old_disk);
    // And its release erases what carries the old uid.
    world.delete(0);
    world.settle();
    world.agent_boots();
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.settle();
    assert_eq!((world.phase(), world.disk.state), (HardwarePhase::Ready, ContentsState::Blank));
}

#[test]
fn a_missing_instance_stops_everything_until_a_person_decides() {
    let mut world = World::running();
    world.instances.clear();
    world.settle();
    assert_eq!(
        (world.phase(), world.status().reason.as_str()),
        (HardwarePhase::InUse, "ClaimantMissing")
    );
    world.agent_boots();
    world.settle();
    assert!(world.status().order.is_none());
    // A person gives the data up: claim off, consent on.
    world.hardware.spec.claim_ref = None;
    world.hardware.metadata.generation = Some(9);
    world.settle();
    assert_eq!(world.status().reason, "ForeignData");
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
}

#[test]
fn a_forced_release_ends_the_deletion_and_leaves_the_machine_quarantined() {
    let mut world = World::running();
    world.delete(0);
    world.settle();
    world.pass(3 * 60);
    world.settle();
    let (_, message) = world.condition(conditions::POWER_CYCLE_NEEDED).expect("somebody is asked");
    for word in ["Dell Inc.", "OptiPlex 7010", "B5TXM12", "52:54:00:00:00:01", "switch1 port 14"] {
        assert!(message.contains(word), "{word} in {message}");
    }
    assert!(conditions::is_true(
        &world.instance_status(0).conditions,
        conditions::POWER_CYCLE_NEEDED
    ));
    world.instances[0].spec.force_release = true;
    world.settle();
    assert!(world.instances.is_empty());
    assert_eq!(world.phase(), HardwarePhase::Quarantined);
    world.instances.push(instance("next", "uid-2"));
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Pending, "never silently free");
    // A person asks for a cleaning.
    world.hardware.spec.retry_token = Some("1".to_owned());
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Cleaning);
    world.agent_boots();
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    world.obey(&order);
    world.settle();
    assert_eq!(world.disk.state, ContentsState::Blank);
    assert_eq!(world.instance_status(0).hardware_claim(), (true, InstancePhase::Provisioning));
}

trait Claimed {
    fn hardware_claim(&self) -> (bool, InstancePhase);
}

impl Claimed for api::BareMetalInstanceStatus {
    fn hardware_claim(&self) -> (bool, InstancePhase) {
        (self.claimed, self.phase)
    }
}

#[test]
fn deleting_an_instance_before_anything_was_ordered_needs_no_erase() {
    let mut world = World::ready();
    world.images.clear();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    assert_eq!(
        (world.phase(), world.status().reason.as_str()),
        (HardwarePhase::Reserved, "ImageNotFound")
    );
    world.delete(0);
    world.settle();
    assert!(world.instances.is_empty());
    assert_eq!(world.phase(), HardwarePhase::Ready);
    assert!(world.hardware.spec.claim_ref.is_none() && world.status().last_erase.is_none());
}

#[test]
fn deletion_protection_holds_until_it_is_taken_off() {
    let mut world = World::running();
    world.instances[0].spec.deletion_protection = true;
    world.delete(0);
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    assert_eq!(world.instance_status(0).reason, "DeletionProtected");
    world.instances[0].spec.deletion_protection = false;
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::Releasing);
}

#[test]
fn without_a_guest_helper_silence_is_the_evidence_and_it_lasts() {
    let mut world = World::ready();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.settle();
    world.pass(2);
    world.boot_request();
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Booting);
    world.pass(3 * 60);
    world.settle();
    assert_eq!(world.instance_status(0).evidence, Some(RunningEvidence::LocalBootObserved));
    // It restarts by itself a day later.
    world.pass(86_400);
    assert_eq!(world.boot_request(), BootAnswer::LocalDisk);
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Running);
}

#[test]
fn a_stopped_instance_is_told_to_switch_off_and_its_release_still_works() {
    let mut world = World::running();
    world.instances[0].spec.running = false;
    world.settle();
    assert_eq!(world.instance_phase(0), InstancePhase::Stopped);
    assert_eq!(
        lifecycle::agent::guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        agent_protocol::guest::GuestAction::PowerOff
    );
    world.delete(0);
    world.settle();
    assert_eq!(
        lifecycle::agent::guest_action(Some(&world.hardware), Some(&world.discovery), "uid-1", world.now),
        agent_protocol::guest::GuestAction::RebootToAgent
    );
}

#[test]
fn addresses_go_when_the_old_system_is_known_to_be_off() {
    let mut world = World::running();
    world.addresses_held = true;
    world.delete(0);
    world.settle();
    assert!(world.addresses_held, "the old system may still be on");
    world.pass(5);
    world.agent_boots();
    world.settle();
    assert!(!world.addresses_held);
}

#[test]
fn maintenance_gives_no_order_and_leaves_a_machine_in_use_alone() {
    let mut world = World::running();
    world.hardware.spec.maintenance = true;
    world.settle();
    assert_eq!(world.phase(), HardwarePhase::InUse);
    let mut free = World::ready();
    free.hardware.spec.maintenance = true;
    free.settle();
    assert_eq!(free.phase(), HardwarePhase::Maintenance);
    free.instances.push(instance("web", "uid-1"));
    free.settle();
    assert!(
        free.instance_status(0).message.contains("1 in maintenance"),
        "{}",
        free.instance_status(0).message
    );
    free.hardware.spec.maintenance = false;
    free.settle();
    assert_eq!(free.poll().kind, OrderKind::Image);
}

mod anything {
    //! Whatever happens in whatever order, the operator comes to rest, and what it decides twice it decides once.

    use agent_protocol::order::{FaultReason, OrderKind, Outcome};
    use api::discovery::BootAnswer;
    use proptest::prelude::*;

    use crate::world::{World, foreign, image, instance};

    #[derive(Clone, Debug)]
    enum Event {
        Boots,
        Works,
        Fails(bool),
        Time(i64),
        Create,
        Delete,
        Force,
        Stop(bool),
        Image(bool),
        LosesHardwareStatus,
        LosesInstanceStatus,
        LosesClaim,
        ForeignDisk,
        Maintenance(bool),
        Retry(u8),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Boots),
            6 => Just(Event::Works),
            1 => any::<bool>().prop_map(Event::Fails),
            2 => (1i64..4000).prop_map(Event::Time),
            3 => Just(Event::Create),
            2 => Just(Event::Delete),
            1 => Just(Event::Force),
            1 => any::<bool>().prop_map(Event::Stop),
            1 => any::<bool>().prop_map(Event::Image),
            1 => Just(Event::LosesHardwareStatus),
            1 => Just(Event::LosesInstanceStatus),
            1 => Just(Event::LosesClaim),
            1 => Just(Event::ForeignDisk),
            1 => any::<bool>().prop_map(Event::Maintenance),
            1 => any::<u8>().prop_map(Event::Retry),
        ]
    }

    fn happen(world: &mut World, event: &Event, created: &mut u32) {
        match event {
            Event::Boots => {
                if world.boot_request() == BootAnswer::Agent {
                    world.agent_boots();
                }
            }
            Event::Works => {
                let order = world.poll();
                if matches!(order.kind, OrderKind::Erase | OrderKind::Image) {
                    world.obey(&order);
                }
            }
            Event::Fails(says) => {
                let order = world.poll();
                if matches!(order.kind, OrderKind::Erase | OrderKind::Image) {
                    let contents = says.then(|| world.disk.clone());
                    world.fail(&order, Outcome::Failed, FaultReason::DiskIO, contents);
                }
            }
            Event::Time(seconds) => world.pass(*seconds),
            Event::Create => {
                if world.instances.len() < 2 {
                    *created += 1;
                    world.instances.push(instance(&format!("i{created}"), &format!("uid-{created}")));
                }
            }
            Event::Delete => {
                if !world.instances.is_empty() {
                    if world.instances[0].metadata.finalizers.is_none() {
                        world.instances.remove(0);
                    } else {
                        world.delete(0);
                    }
                }
            }
            Event::Force => world.instances.iter_mut().take(1).for_each(|i| i.spec.force_release = true),
            Event::Stop(stop) => world.instances.iter_mut().for_each(|i| i.spec.running = !stop),
            Event::Image(there) => world.images = if *there { vec![image("debian-13")] } else { Vec::new() },
            Event::LosesHardwareStatus => world.hardware.status = None,
            Event::LosesInstanceStatus => world.instances.iter_mut().for_each(|i| i.status = None),
            Event::LosesClaim => world.hardware.spec.claim_ref = None,
            Event::ForeignDisk => world.disk = foreign("photos"),
            Event::Maintenance(on) => world.hardware.spec.maintenance = *on,
            Event::Retry(token) => world.hardware.spec.retry_token = Some(token.to_string()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn the_operator_comes_to_rest(events in prop::collection::vec(event(), 1..40)) {
            let mut world = World::new();
            let mut created = 0;
            for event in &events {
                happen(&mut world, event, &mut created);
                // Panics when it does not come to rest, or reports a status that is the same.
                world.settle();
                let again = world.hardware_decision();
                prop_assert!(again.status.is_none() && again.spec.is_none(), "after {:?}: {:?}", event, again);
                prop_assert_eq!(again.events.len(), 0);
            }
        }
    }
}

#[test]
fn an_older_backup_during_a_release_does_not_free_a_machine_that_was_written() {
    let mut world = World::ready();
    let free = world.status();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.delete(0);
    world.settle();
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    // Accepted, not done; and now the status comes back from before the claim.
    world.hardware.status = Some(free);
    world.settle();
    assert_ne!(world.phase(), HardwarePhase::Ready, "nothing proves that the disk is clean");
    assert_eq!(world.instances.len(), 1);
}

#[test]
fn a_release_goes_on_after_an_interrupted_erase_without_a_claim() {
    let mut world = World::ready();
    world.instances.push(instance("web", "uid-1"));
    world.settle();
    let order = world.poll();
    world.obey(&order);
    world.delete(0);
    world.settle();
    // The machine never left the agent, and what it finds is the rest of an erase that nobody's claim stood behind.
    let order = world.poll();
    assert_eq!(order.kind, OrderKind::Erase);
    let mut rest = marked(&order, "", ContentsState::Interrupted);
    if let Some(marker) = &mut rest.marker {
        marker.instance_uid.clear();
        marker.instance.clear();
        "m-aaaaaaaaaa".clone_into(&mut marker.hardware);
        "m-aaaaaaaaaa-0-0".clone_into(&mut marker.order_id);
    }
    world.fail(&order, Outcome::Refused, FaultReason::UnexpectedContents, Some(rest.clone()));
    world.settle();
    world.pass(3600);
    world.settle();
    let again = world.poll();
    assert!(again.disk.is_some_and(|d| d.permits(&again.id, &rest)), "{:?}", world.status());
}

#[test]
fn a_machine_that_a_cache_has_not_seen_yet_is_not_taken_for_deleted() {
    let mut world = World::running();
    world.delete(0);
    let decide = |world: &World| {
        lifecycle::instance::decide(&lifecycle::instance::InstanceFacts {
            instance: &world.instances[0],
            hardware: None,
            discovery: None,
            endpoints: &[],
            image: None,
            placement: None,
            synced: true,
            config: &world.config,
            now: world.now,
        })
    };
    let first = decide(&world);
    assert!(first.change.is_none() && first.requeue_after.is_some(), "{first:?}");
    world.pass(120);
    assert_eq!(decide(&world).change, Some(lifecycle::instance::InstanceChange::RemoveFinalizer));
}
