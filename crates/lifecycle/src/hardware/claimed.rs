//! A machine with a claim: rebinding, image order, use, release.

use agent_protocol::{
    disk::{ContentsState, DiskContents, DiskMarker},
    order::{Claim, ExpectedContents, FaultReason, Order, OrderKind, PackedSource},
};
use api::{
    BareMetalImage, BareMetalInstance, HardwarePhase, InstancePhase, conditions,
    gate::GateStep,
    hardware::{ClaimRef, InstalledEvidence, InstalledImage, SelectedDisk},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Readiness, SpecChange,
    draft::{Draft, Standing},
    free, gates,
};
use crate::{
    image::{Way, way},
    orders,
    power::{Runs, Want},
    view::{self, Uids},
};

/// How many released claims a machine remembers.
pub const REMEMBERED_RELEASES: usize = 8;

pub(super) fn decide(draft: &mut Draft<'_>, claim: &ClaimRef) {
    let facts = draft.facts;
    if draft.old.released_claims.contains(&claim.uid) {
        // The release has ended and is on record; what is left is to take the claim off.
        keep_waiting(draft);
        draft.spec = Some(SpecChange::ClearClaim);
        draft.release_addresses = true;
        return;
    }
    let known = draft.old.claim_uid.as_deref() == Some(claim.uid.as_str());
    if known && draft.old.phase == HardwarePhase::Releasing {
        // A release that has begun goes on, whatever an older view of the instance says.
        return release(draft, claim, facts.claimant);
    }
    let Some(instance) = facts.claimant else {
        return claimant_missing(draft, claim, known);
    };
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    if uid != claim.uid {
        return claimant_replaced(draft, claim, instance, known);
    }
    if !known {
        adopt_claim(draft, claim, instance);
    }
    if instance.metadata.deletion_timestamp.is_some() {
        if instance.spec.deletion_protection && !instance.spec.force_release {
            keep_waiting(draft);
            return live(draft, claim, instance);
        }
        return release(draft, claim, Some(instance));
    }
    live(draft, claim, instance);
}

/// The status speaks of this claim from now on.
fn adopt_claim(draft: &mut Draft<'_>, claim: &ClaimRef, instance: &BareMetalInstance) {
    let renamed = draft.old.installed.clone().filter(|i| {
        // The claim was re-identified: same installation, new uid.
        Some(&i.claim_uid) == draft.old.claim_uid.as_ref() && !draft.old.released_claims.contains(&i.claim_uid)
    });
    // A status that never saw a claim, on a machine that was seen free, knows that nothing was written. One that was lost does not.
    // Nor does an older one that a backup brought back, which the instance's own status shows. Without its acknowledgement no order was given.
    let started = instance
        .status
        .as_ref()
        .is_some_and(|s| s.claimed && (s.image.is_some() || !matches!(s.phase, InstancePhase::Pending | InstancePhase::Provisioning)));
    let knows = draft.old.phase == HardwarePhase::Ready && renamed.is_none() && !started;
    draft.new.claim_uid = Some(claim.uid.clone());
    draft.new.written = !knows;
    // Whatever stands there, or is being written, came with this text, as far as anybody knows: only a later change asks for another.
    observe_reinstall(draft, instance);
    draft.new.installed = renamed.map(|i| InstalledImage {
        claim_uid: claim.uid.clone(),
        ..i
    });
    if knows {
        draft.drop_order();
    }
}

fn keep_waiting(draft: &mut Draft<'_>) {
    draft.new.reason.clone_from(&draft.old.reason);
    draft.new.message.clone_from(&draft.old.message);
}

/// The claim's instance is not there at all.
fn claimant_missing(draft: &mut Draft<'_>, claim: &ClaimRef, known: bool) {
    let since = draft.old.phase_since.as_ref().map_or(draft.facts.now, |t| t.0);
    let then = since.saturating_add(draft.facts.config.missing_claimant_grace).unwrap_or(since);
    let phase = draft.old.phase;
    let untouched = if known { !draft.old.written } else { phase == HardwarePhase::Ready };
    if untouched && !view::may_hold_data_of(draft.facts.discovery, Uids::of(claim)) {
        // Nothing was ever ordered for it.
        keep_waiting(draft);
        if draft.due(then) {
            draft.spec = Some(SpecChange::ClearClaim);
        }
        return;
    }
    orphan(
        draft,
        phase,
        "ClaimantMissing",
        format!(
            "The instance {}/{} (uid {}) that has this machine does not exist. Nothing is erased for it. Restore the instance; or, to give its data up, remove spec.claimRef of BareMetalHardware {} and consent to the contents that are then shown",
            claim.namespace,
            claim.name,
            claim.uid,
            draft.name()
        ),
    );
}

/// Another instance has the name that the claim names.
fn claimant_replaced(draft: &mut Draft<'_>, claim: &ClaimRef, instance: &BareMetalInstance, known: bool) {
    let uid = instance.metadata.uid.clone().unwrap_or_default();
    let wants = instance.spec.hardware_name.as_deref() == Some(draft.name());
    let under = recognised(draft, claim).filter(|_| wants && !draft.old.released_claims.contains(&uid));
    if let Some(under) = under {
        keep_waiting(draft);
        draft.new = draft.old.clone();
        draft.transient = true;
        draft.spec = Some(SpecChange::SetClaim(ClaimRef {
            installation_uid: (under != uid).then_some(under),
            uid,
            ..claim.clone()
        }));
        draft.event(
            false,
            "Rebound",
            format!(
                "Instance {}/{} has a new uid; its installation was recognised",
                claim.namespace, claim.name
            ),
        );
        return;
    }
    if known && !draft.old.written && !view::may_hold_data_of(draft.facts.discovery, Uids::of(claim)) {
        keep_waiting(draft);
        draft.spec = Some(SpecChange::ClearClaim);
        return;
    }
    let phase = draft.old.phase;
    orphan(
        draft,
        phase,
        "ClaimantReplaced",
        format!(
            "The instance {}/{} has uid {uid}, the claim names uid {}, and neither the disk's marker was seen nor its guest helper heard. Nothing is erased for it. Set the instance's spec.hardwareName to {} and boot the machine into the agent; or remove spec.claimRef to give the data up",
            claim.namespace,
            claim.name,
            claim.uid,
            draft.name()
        ),
    );
}

/// The uid under which the claim's system was installed, where it is known to stand: by our own record, by the marker on the disk, or by the word of its guest helper.
fn recognised(draft: &Draft<'_>, claim: &ClaimRef) -> Option<String> {
    let known = draft.old.installed.as_ref().or(draft.old.replacing.as_ref());
    if known.is_some_and(|i| i.claim_uid == claim.uid) {
        return Some(claim.installation_uid.as_ref().unwrap_or(&claim.uid).clone());
    }
    if let Some(marker) = marker(draft, claim) {
        return Some(marker.instance_uid.clone());
    }
    guest_report(draft, claim)?;
    view::seen(draft.facts.discovery)?.guest.as_ref().map(|g| g.instance_uid.clone())
}

/// The marker of a finished installation for the claim: by one of its uids, or by the instance's name.
fn marker<'a>(draft: &Draft<'a>, claim: &ClaimRef) -> Option<&'a DiskMarker> {
    let inventory = view::seen(draft.facts.discovery)?.inventory.as_ref()?;
    inventory.disks.iter().find_map(|d| {
        let marker = d.contents.marker.as_ref().filter(|_| d.contents.state == ContentsState::Marked)?;
        let ours = Uids::of(claim).has(&marker.instance_uid)
            || (names(marker, claim) && !marker.instance_uid.is_empty() && !draft.old.released_claims.contains(&marker.instance_uid));
        ours.then_some(marker)
    })
}

/// The same, unless the installation that left it is being replaced. An inventory older than what was written since tells of an even earlier one, so then what is known of the disk counts, and
/// not what the latest inventory said.
fn present_marker(draft: &Draft<'_>, claim: &ClaimRef) -> Option<DiskMarker> {
    if draft.old.replacing.is_none() {
        return marker(draft, claim).cloned();
    }
    let found = draft.contents(draft.old.root_disk.as_ref()?)?;
    let marker = found.marker.filter(|_| found.state == ContentsState::Marked)?;
    (Uids::of(claim).has(&marker.instance_uid) && view::comes_after_the_replaced(&draft.old, &marker.order_id)).then_some(marker)
}

/// A claim that nobody stands for: no order, and a person decides.
fn orphan(draft: &mut Draft<'_>, phase: HardwarePhase, reason: &str, message: String) {
    draft.drop_order();
    if draft.old.reason != reason {
        draft.event(true, "ClaimUnclear", message.clone());
    }
    let phase = if phase == HardwarePhase::InUse {
        phase
    } else {
        HardwarePhase::Reserved
    };
    draft.wait(phase, reason, message);
}

fn names(marker: &DiskMarker, claim: &ClaimRef) -> bool {
    marker.instance == format!("{}/{}", claim.namespace, claim.name)
}

/// The installation that the guest helper vouches for: it showed the token that was written for this claim, and no agent looked at the disk since. Of use where status was lost.
fn guest_report(draft: &Draft<'_>, claim: &ClaimRef) -> Option<InstalledImage> {
    let guest = view::seen(draft.facts.discovery)?.guest.as_ref()?;
    let vouches = Uids::of(claim).has(&guest.instance_uid)
        && draft.old.order.is_none()
        && !view::session_since(draft.facts.discovery, guest.registered_at.0);
    vouches.then(|| InstalledImage {
        claim_uid: claim.uid.clone(),
        order_id: String::new(),
        image_digest: String::new(),
        evidence: InstalledEvidence::GuestReport,
        since: guest.registered_at.clone(),
    })
}

/// The installation for this claim, where it is known to be whole, and the uid that it was written under, where that is another one.
fn installation(draft: &Draft<'_>, claim: &ClaimRef) -> Option<(InstalledImage, Option<String>)> {
    let under = |uid: &str| (uid != claim.uid).then(|| uid.to_owned());
    let uids = Uids::of(claim);
    if let Some(known) = draft.new.installed.clone().filter(|i| i.claim_uid == claim.uid) {
        return Some((known, uids.installed().map(str::to_owned)));
    }
    let now = Time(draft.facts.now);
    let seen = view::seen(draft.facts.discovery)?;
    if let Some(result) = view::present_image_result(Some(&draft.old), draft.facts.discovery, uids)
        && let Some(image) = &result.image
    {
        let installed = InstalledImage {
            claim_uid: claim.uid.clone(),
            order_id: result.order_id.clone(),
            image_digest: image.digest.clone(),
            evidence: InstalledEvidence::OrderResult,
            since: now,
        };
        return Some((installed, seen.accepted_order.as_ref().and_then(|a| under(&a.claim_uid))));
    }
    if let Some(marker) = present_marker(draft, claim) {
        let installed = InstalledImage {
            claim_uid: claim.uid.clone(),
            order_id: marker.order_id.clone(),
            image_digest: marker.image_digest.clone(),
            evidence: InstalledEvidence::DiskMarker,
            since: now,
        };
        return Some((installed, under(&marker.instance_uid)));
    }
    if draft.old.replacing.is_some() {
        // The helper that vouches is that of the system before.
        return None;
    }
    let guest = seen.guest.as_ref().and_then(|g| under(&g.instance_uid));
    guest_report(draft, claim).map(|installed| (installed, guest))
}

/// The instance is there and wants the machine.
fn live(draft: &mut Draft<'_>, claim: &ClaimRef, instance: &BareMetalInstance) {
    draft.new.power_off = !instance.spec.running;
    if let Some((installed, under)) = installation(draft, claim) {
        if under.is_some() && under != claim.installation_uid {
            // Written down first, where no lost status takes it away.
            keep_waiting(draft);
            draft.new = draft.old.clone();
            draft.transient = true;
            draft.spec = Some(SpecChange::SetClaim(ClaimRef {
                installation_uid: under,
                ..claim.clone()
            }));
            return;
        }
        let booted = draft.new.installed.as_ref().is_some_and(|i| i.claim_uid == claim.uid);
        if !booted && gates::before(draft, HardwarePhase::Provisioning, GateStep::Run, instance) {
            return;
        }
        if draft.old.phase != HardwarePhase::InUse {
            draft.event(
                false,
                "Installed",
                format!("The image for {}/{} stands on the disk, verified", claim.namespace, claim.name),
            );
        }
        let reinstall = booted && draft.old.phase == HardwarePhase::InUse && view::reinstall_is_asked(&draft.old, instance);
        draft.new.installed = Some(installed);
        draft.new.replacing = None;
        draft.new.written = true;
        draft.drop_order();
        draft.clear(conditions::FOREIGN_DATA);
        draft.clear(conditions::POWER_CYCLE_NEEDED);
        draft.set(conditions::INSPECTED, true, "InUse", "The root disk holds the instance");
        draft.phase(HardwarePhase::InUse);
        if !draft.facts.hardware.spec.maintenance {
            draft.power_want = if draft.new.power_off {
                Want::Off
            } else {
                Want::On(Runs {
                    was_off: draft.old.power_off,
                    heard: view::last_heard(draft.facts.discovery),
                })
            };
        }
        if reinstall {
            begin_reinstall(draft, claim, instance);
        }
        return;
    }
    provision(draft, claim, instance);
}

fn observe_reinstall(draft: &mut Draft<'_>, instance: &BareMetalInstance) {
    draft.new.observed_reinstall_token.clone_from(&instance.spec.reinstall_token);
    draft.new.observed_reinstall_generation = instance.metadata.generation;
}

/// The installation counts no more; from here on it is as if the image had not been written yet. The system goes on running until everything that its successor needs is there.
fn begin_reinstall(draft: &mut Draft<'_>, claim: &ClaimRef, instance: &BareMetalInstance) {
    let facts = draft.facts;
    if facts.hardware.spec.maintenance {
        return draft.wait(
            HardwarePhase::InUse,
            "Maintenance",
            "A re-install is asked for; it begins when spec.maintenance is false",
        );
    }
    if let Err((reason, message)) = prerequisites(draft, instance) {
        return draft.wait(
            HardwarePhase::InUse,
            reason.as_str(),
            format!("A re-install is asked for. {message}"),
        );
    }
    draft.new.replacing = draft.new.installed.take();
    observe_reinstall(draft, instance);
    draft.event(
        false,
        "Reinstalling",
        format!(
            "The image {} is written over the installation of {}/{}, because spec.reinstallToken was changed",
            instance.spec.image, claim.namespace, claim.name
        ),
    );
    draft.wait(
        HardwarePhase::Reserved,
        "Reinstalling",
        "Waiting for the machine to boot into the agent, to be written anew",
    );
}

/// What must be there before an image is ordered, whatever the machine does: the way that the image takes, addresses, what the seed is made of. Else the reason to wait, and its sentence.
fn prerequisites(draft: &Draft<'_>, instance: &BareMetalInstance) -> Result<Option<PackedSource>, (String, String)> {
    let facts = draft.facts;
    let Some(image) = facts.image else {
        return Err((
            "ImageNotFound".to_owned(),
            format!(
                "There is no BareMetalImage {}: create it, or correct spec.image of the instance",
                instance.spec.image
            ),
        ));
    };
    let packed = match image_way(draft, image) {
        Way::Stream => None,
        Way::Packed(source) => Some(source),
        Way::Wait { reason, message } => return Err((reason.to_owned(), message)),
    };
    for ready in [facts.endpoints, facts.seed_input] {
        if let Readiness::Waiting { reason, message } = ready {
            return Err((reason.clone(), message.clone()));
        }
    }
    Ok(packed)
}

fn provision(draft: &mut Draft<'_>, claim: &ClaimRef, instance: &BareMetalInstance) {
    let facts = draft.facts;
    let waiting_phase = if draft.old.order.is_some() && draft.old.phase == HardwarePhase::Provisioning {
        HardwarePhase::Provisioning
    } else {
        HardwarePhase::Reserved
    };
    if !instance.status.as_ref().is_some_and(|s| s.claimed) {
        // The instance's own acknowledgement comes within moments; it is what a deletion waits on.
        draft.wait(
            HardwarePhase::Reserved,
            "AwaitingInstance",
            "Waiting for the instance to acknowledge the claim",
        );
        draft.transient = draft.old.phase == HardwarePhase::Ready;
        return;
    }
    if facts.hardware.spec.maintenance {
        draft.wait(
            waiting_phase,
            "Maintenance",
            "No order is given while spec.maintenance is true; set it to false to go on",
        );
        return;
    }
    let packed = match prerequisites(draft, instance) {
        Ok(packed) => packed,
        Err((reason, message)) => return draft.wait(waiting_phase, &reason, message),
    };
    let Some(image) = facts.image else { return };
    if draft.in_flight().is_none() && view::reinstall_is_asked(&draft.old, instance) {
        // What is ordered from here on is what was asked for last.
        observe_reinstall(draft, instance);
    }
    let ordered = draft.new.order.as_ref().is_some_and(|o| o.kind == OrderKind::Image);
    if !ordered && gates::before(draft, waiting_phase, GateStep::Provision, instance) {
        return;
    }
    let Some(disk) = draft.inspect(true) else {
        draft.wait_for_inspection(waiting_phase);
        return;
    };
    if draft.trusted_session().is_none() {
        if draft.session().is_some() {
            draft.wait(
                waiting_phase,
                "IdentityNotProven",
                "The machine's identity is only asserted, and asserted identities are not allowed here: power-cycle it through its BMC, or allow asserted identities",
            );
            return;
        }
        let since = draft.old.phase_since.as_ref().map_or(facts.now, |t| t.0);
        let asked = draft.watch_for_return(since);
        draft.wait(
            waiting_phase,
            if asked { "PowerCycleNeeded" } else { "AgentNotConnected" },
            format!("Waiting for the machine to boot into the agent: {}", draft.describe()),
        );
        return;
    }
    draft.clear(conditions::POWER_CYCLE_NEEDED);
    let Some(expected) = image_expects(draft, claim, &disk, waiting_phase) else {
        return;
    };
    draft.clear(conditions::FOREIGN_DATA);
    let boot_order = draft.boot_order(instance.spec.guest_helper && instance.spec.config_drive);
    let wanted = orders::image(
        facts.hardware,
        served(draft, claim, OrderKind::Image),
        &disk,
        expected,
        image,
        packed,
        instance.spec.config_drive,
    );
    let wanted = Order { boot_order, ..wanted };
    let standing = draft.put_in_force(wanted);
    draft.new.written = true;
    draft.seed_wanted = standing == Standing::InForce;
    match draft.order_fault() {
        Some((reason, message)) => draft.wait(HardwarePhase::Provisioning, &reason, message),
        None => draft.phase(HardwarePhase::Provisioning),
    }
}

/// The way that the image takes. An order that is worked on keeps the one that it was given with, as long as it is about the same bytes.
fn image_way(draft: &Draft<'_>, image: &BareMetalImage) -> Way {
    let working = draft.in_flight().and_then(|o| o.image);
    match working.filter(|i| i.url == image.spec.url && i.digest == image.spec.digest) {
        Some(parameters) => parameters.packed.map_or(Way::Stream, Way::Packed),
        None => way(image, draft.facts.config),
    }
}

/// The claim as the order names it. An order that is worked on keeps the uid that it was given with, also when the claim was re-identified meanwhile.
fn served(draft: &Draft<'_>, claim: &ClaimRef, kind: OrderKind) -> Claim {
    let working = draft.in_flight().filter(|o| o.kind == kind).and_then(|o| o.claim);
    working
        .filter(|c| Uids::of(claim).has(&c.uid))
        .unwrap_or_else(|| orders::claim(claim))
}

/// What the disk may hold when the image is written; `None` when that must wait (the reason is noted).
fn image_expects(
    draft: &mut Draft<'_>,
    claim: &ClaimRef,
    disk: &SelectedDisk,
    waiting_phase: HardwarePhase,
) -> Option<Vec<ExpectedContents>> {
    if let Some(order) = draft.in_flight().filter(|o| o.kind == OrderKind::Image) {
        return order.disk.map(|d| d.expected);
    }
    let Some(found) = draft.contents(disk) else {
        draft.wait(
            waiting_phase,
            "NoInventory",
            "Waiting for the machine to boot into the agent and report what its root disk holds",
        );
        return None;
    };
    let mut expected = vec![orders::blank(), orders::interrupted(&claim.uid)];
    expected.extend(Uids::of(claim).installed().map(orders::interrupted));
    if permitted(&found, claim, draft) {
        return Some(expected);
    }
    if let Some(uid) = replaceable(&found, claim, draft) {
        expected.push(orders::marked(&uid));
        return Some(expected);
    }
    if !draft.consented(&found) {
        draft.foreign_data(waiting_phase, disk, &found);
        return None;
    }
    let marker_uid = found.marker.as_ref().map(|m| m.instance_uid.as_str());
    match found.state {
        ContentsState::Foreign => expected.push(orders::foreign(&found.fingerprint)),
        ContentsState::Marked => expected.extend(marker_uid.map(orders::marked)),
        ContentsState::Interrupted => expected.extend(marker_uid.map(orders::interrupted)),
        ContentsState::Blank | ContentsState::Unreadable => {}
    }
    Some(expected)
}

/// What an image may be written over without asking anybody.
fn permitted(found: &DiskContents, claim: &ClaimRef, draft: &Draft<'_>) -> bool {
    match found.state {
        ContentsState::Blank => true,
        ContentsState::Interrupted => found
            .marker
            .as_ref()
            .is_some_and(|m| Uids::of(claim).has(&m.instance_uid) || draft.new.order.as_ref().is_some_and(|o| o.id == m.order_id)),
        ContentsState::Foreign | ContentsState::Marked | ContentsState::Unreadable => false,
    }
}

/// The uid on the marker of the installation that is to be replaced, where that is what the disk holds. Any other one of this instance came after it, and counts ([`installation`]).
fn replaceable(found: &DiskContents, claim: &ClaimRef, draft: &Draft<'_>) -> Option<String> {
    let replaced = draft.new.replacing.as_ref()?;
    let marker = found.marker.as_ref().filter(|_| found.state == ContentsState::Marked)?;
    let is_it = replaced.order_id.is_empty() || replaced.order_id == marker.order_id;
    (is_it && Uids::of(claim).has(&marker.instance_uid)).then(|| marker.instance_uid.clone())
}

/// Records the end of a release. The claim is taken off by the next decision.
fn end_release(draft: &mut Draft<'_>, claim: &ClaimRef) {
    // Whatever still knows the instance by an earlier uid (its guest helper, its disk) is released with it.
    let earlier = Uids::of(claim).installed().map(str::to_owned);
    draft.new.released_claims.extend(earlier.into_iter().chain([claim.uid.clone()]));
    let surplus = draft.new.released_claims.len().saturating_sub(REMEMBERED_RELEASES);
    draft.new.released_claims.drain(..surplus);
    draft.new.written = false;
    draft.new.installed = None;
    draft.new.replacing = None;
    draft.new.observed_reinstall_token = None;
    draft.new.observed_reinstall_generation = None;
    draft.new.power_off = false;
    draft.release_addresses = true;
    draft.drop_order();
    draft.clear(conditions::POWER_CYCLE_NEEDED);
    draft.clear(conditions::FOREIGN_DATA);
    // As the next decision, without the claim, will see it: then that one changes nothing.
    draft.inspect(false);
}

fn release(draft: &mut Draft<'_>, claim: &ClaimRef, instance: Option<&BareMetalInstance>) {
    let facts = draft.facts;
    draft.new.power_off = false;
    if instance.is_some_and(|i| i.spec.force_release && i.metadata.deletion_timestamp.is_some()) {
        end_release(draft, claim);
        draft.event(
            true,
            "ReleaseForced",
            "The release was forced; nothing proves that the disk is clean",
        );
        draft.wait(
            HardwarePhase::Quarantined,
            "ReleaseForced",
            format!(
                "The release of {}/{} was forced before its disk was erased. Boot the machine into the agent and change spec.retryToken to clean it",
                claim.namespace, claim.name
            ),
        );
        return;
    }
    let ordered = draft
        .old
        .order
        .as_ref()
        .is_some_and(|o| o.kind == OrderKind::Erase && o.claim.as_ref().is_some_and(|c| Uids::of(claim).has(&c.uid)));
    // An instance that was taken away by force took its gates along: a deletion always ends.
    if let Some(instance) = instance.filter(|_| !ordered)
        && gates::before(draft, HardwarePhase::Releasing, GateStep::Release, instance)
    {
        draft.drop_order();
        draft.new.installed = None;
        draft.new.replacing = None;
        return;
    }
    if draft.new.claim_uid.as_deref() == Some(claim.uid.as_str())
        && !draft.new.written
        && !view::may_hold_data_of(facts.discovery, Uids::of(claim))
    {
        // No image order was ever issued: the disk is as it was when the machine was free.
        end_release(draft, claim);
        draft.phase(HardwarePhase::Ready);
        return;
    }
    draft.new.installed = None;
    draft.new.replacing = None;
    draft.phase(HardwarePhase::Releasing);
    if instance.is_some_and(|i| !i.status.as_ref().is_some_and(|s| s.claimed)) {
        // Until it has acknowledged the claim, the instance may go at any moment; nothing destructive is done for an instance that is gone.
        draft.wait(
            HardwarePhase::Releasing,
            "AwaitingInstance",
            "Waiting for the instance to acknowledge the claim",
        );
        return;
    }
    let Some(disk) = release_disk(draft, claim) else {
        draft.wait_for_inspection(HardwarePhase::Releasing);
        wait_for_machine(draft, instance);
        return;
    };
    if let Some(order) = draft.old.order.clone()
        && let Some(evidence) = view::result_of(facts.discovery, &order.id).and_then(|r| free::proven_erase(&order, r))
        && order.claim.as_ref().is_some_and(|c| Uids::of(claim).has(&c.uid))
    {
        draft.new.last_erase = Some(evidence.clone());
        draft.new.last_erase_time = Some(Time(facts.now));
        end_release(draft, claim);
        draft.event(
            false,
            "Released",
            format!(
                "{}/{} was released and its disk erased ({:?})",
                claim.namespace, claim.name, evidence.strength
            ),
        );
        draft.phase(HardwarePhase::Ready);
        return;
    }
    if facts.hardware.spec.maintenance {
        draft.wait(
            HardwarePhase::Releasing,
            "Maintenance",
            "No order is given while spec.maintenance is true; set it to false to go on",
        );
        return;
    }
    let found = draft.contents(&disk);
    // What the machine saw after the release began: in a new session, or when it looked for an order of this release and refused it.
    let looked = view::seen(facts.discovery)
        .and_then(|s| s.accepted_order.as_ref())
        .is_some_and(|a| {
            a.kind == OrderKind::Erase && Uids::of(claim).has(&a.claim_uid) && view::result_of(facts.discovery, &a.id).is_some()
        });
    let fresh = looked || view::session_since(facts.discovery, released_at(draft, instance));
    let (expected, foreign) = match draft.in_flight().filter(|o| o.kind == OrderKind::Erase) {
        Some(order) => (order.disk.map(|d| d.expected).unwrap_or_default(), false),
        None => release_expects(draft, claim, found.as_ref().filter(|_| fresh)),
    };
    let boot_order = draft.boot_order(true);
    let wanted = orders::erase(
        facts.hardware,
        Some(served(draft, claim, OrderKind::Erase)),
        &disk,
        expected,
        facts.hardware.spec.erase_method.into(),
        boot_order,
    );
    let standing = draft.put_in_force(wanted);
    if foreign && let Some(found) = &found {
        draft.foreign_data(HardwarePhase::Releasing, &disk, found);
        return;
    }
    draft.clear(conditions::FOREIGN_DATA);
    if standing == Standing::Failed {
        let unproven = view::result_of(facts.discovery, &draft.new.order.as_ref().map(|o| o.id.clone()).unwrap_or_default())
            .and_then(|r| r.fault.as_ref())
            .is_some_and(|f| f.reason == FaultReason::EraseNotProven);
        let (reason, message) = draft.order_fault().unwrap_or_default();
        if unproven && draft.new.order_failures >= facts.config.erase_attempts {
            // The deletion ends; the machine is not free.
            end_release(draft, claim);
            draft.event(true, "Quarantined", message.clone());
            draft.wait(
                HardwarePhase::Quarantined,
                &reason,
                format!("{message}. Then change spec.retryToken to clean it again"),
            );
            return;
        }
    }
    match draft.order_fault() {
        Some((reason, message)) => draft.wait(HardwarePhase::Releasing, &reason, message),
        None => wait_for_machine(draft, instance),
    }
}

/// What the disk may hold when a release erases it, and whether it holds something else that nobody gave up.
fn release_expects(draft: &Draft<'_>, claim: &ClaimRef, found: Option<&DiskContents>) -> (Vec<ExpectedContents>, bool) {
    let known = Uids::of(claim);
    let mut expected = vec![orders::marked(&claim.uid), orders::interrupted(&claim.uid), orders::blank()];
    expected.extend(
        known
            .installed()
            .into_iter()
            .flat_map(|u| [orders::marked(u), orders::interrupted(u)]),
    );
    let Some(found) = found else {
        return (expected, false);
    };
    let marker = found.marker.as_ref();
    // An erase without a claim that did not end: it was allowed when it began, and nothing was written since.
    let own_rest =
        found.state == ContentsState::Interrupted && marker.is_some_and(|m| m.instance_uid.is_empty() && m.hardware == draft.name());
    let ours = own_rest || marker.is_some_and(|m| known.has(&m.instance_uid) || names(m, claim));
    let given_up = ours || draft.consented(found);
    let extra = match found.state {
        ContentsState::Blank => return (expected, false),
        ContentsState::Foreign if draft.consented(found) => Some(orders::foreign(&found.fingerprint)),
        ContentsState::Marked if given_up => marker.map(|m| orders::marked(&m.instance_uid)),
        ContentsState::Interrupted if given_up => marker.map(|m| orders::interrupted(&m.instance_uid)),
        ContentsState::Foreign | ContentsState::Marked | ContentsState::Interrupted | ContentsState::Unreadable => None,
    };
    let foreign = extra.is_none();
    let extra = extra.filter(|e| !expected.contains(e));
    expected.extend(extra);
    (expected, foreign)
}

/// When the release began.
fn released_at(draft: &Draft<'_>, instance: Option<&BareMetalInstance>) -> Timestamp {
    instance
        .and_then(|i| i.metadata.deletion_timestamp.as_ref())
        .or(draft.old.phase_since.as_ref())
        .map_or(draft.facts.now, |t| t.0)
}

fn wait_for_machine(draft: &mut Draft<'_>, instance: Option<&BareMetalInstance>) {
    let since = released_at(draft, instance);
    if view::session_since(draft.facts.discovery, since) {
        // The old system is off: its addresses may be given to others.
        draft.release_addresses = true;
        draft.clear(conditions::POWER_CYCLE_NEEDED);
        return;
    }
    if draft.session().is_some() {
        // It never left the agent.
        draft.clear(conditions::POWER_CYCLE_NEEDED);
        return;
    }
    let asked = draft.watch_for_return(since);
    if draft.new.reason.is_empty() {
        draft.wait(
            HardwarePhase::Releasing,
            if asked { "PowerCycleNeeded" } else { "AwaitingMachine" },
            format!(
                "Waiting for the machine to boot into the agent, to be erased: {}. To end the deletion without that, set spec.forceRelease of the instance to true; the machine is then quarantined",
                draft.describe()
            ),
        );
    }
}

/// The disk that the claim's data stands on: the selected one; where that was lost, the one that carries the marker.
fn release_disk(draft: &mut Draft<'_>, claim: &ClaimRef) -> Option<SelectedDisk> {
    if let Some(disk) = draft.old.root_disk.clone() {
        return Some(disk);
    }
    let marked = view::marked_for(draft.facts.discovery, Uids::of(claim)).map(crate::disks::selected);
    if let Some(disk) = marked {
        draft.new.root_disk = Some(disk.clone());
        return Some(disk);
    }
    draft.inspect(false)
}
