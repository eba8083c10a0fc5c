//! A machine without a claim: inspection, first cleaning, Ready; Quarantined and Maintenance.

use agent_protocol::{
    disk::{ContentsState, DiskContents},
    order::{EraseEvidence, FaultReason, Order, OrderKind, OrderResult, Outcome},
};
use api::{
    HardwarePhase, conditions,
    hardware::{ClaimRef, SelectedDisk},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    SpecChange,
    draft::{Draft, Standing},
    gates,
};
use crate::{orders, view};

pub(super) fn decide(draft: &mut Draft<'_>) {
    let facts = draft.facts;
    draft.new.installed = None;
    draft.new.power_off = false;
    if draft.new.idle.is_none() {
        draft.clear(conditions::POWER_CYCLE_NEEDED);
    }
    if draft.old.claim_uid.as_ref().is_some_and(|u| draft.old.released_claims.contains(u)) {
        draft.release_addresses = true;
    }
    if restores_claim(draft) {
        return;
    }
    if facts.hardware.spec.maintenance {
        draft.drop_order();
        draft.clear(conditions::FOREIGN_DATA);
        draft.wait(
            HardwarePhase::Maintenance,
            "Maintenance",
            "Out of service because spec.maintenance is true; set it to false to bring the machine back",
        );
        return;
    }
    if draft.old.phase == HardwarePhase::Quarantined && !draft.retry_asked && draft.old.order.is_none() {
        let (reason, message) = (draft.old.reason.clone(), draft.old.message.clone());
        draft.wait(HardwarePhase::Quarantined, &reason, message);
        return;
    }
    let Some(disk) = draft.inspect(false) else {
        draft.drop_order();
        draft.wait_for_inspection(HardwarePhase::Inspecting);
        draft.call_by_medium();
        return;
    };
    if draft.old.order.is_none() && gates::before_accept(draft) {
        return;
    }
    if collect_erase(draft, &disk) {
        become_ready(draft);
        return;
    }
    let found = draft.contents(&disk);
    if let Some(order) = unfinished_erase(draft, &disk, found.as_ref()) {
        draft.put_in_force(order);
        match draft.order_fault() {
            Some((reason, message)) => draft.wait(HardwarePhase::Cleaning, &reason, message),
            None => draft.phase(HardwarePhase::Cleaning),
        }
        return;
    }
    let Some(found) = found else {
        draft.wait(
            HardwarePhase::Inspecting,
            "NoInventory",
            "Waiting for the machine to boot into the agent and report what its root disk holds",
        );
        draft.call_by_medium();
        return;
    };
    if draft.new.accepted_contents.is_none() {
        draft.new.accepted_contents = Some(found.fingerprint.clone());
    }
    if found.state == ContentsState::Blank {
        draft.drop_order();
        become_ready(draft);
        return;
    }
    clean(draft, &disk, &found);
}

/// The erase without a claim that has begun and not ended. It keeps its order while it is worked on, and when a later look finds the disk blank: that
/// proves nothing before the end. Unless a person changed disk or method.
fn unfinished_erase(draft: &Draft<'_>, disk: &SelectedDisk, found: Option<&DiskContents>) -> Option<Order> {
    let discovery = draft.facts.discovery;
    let order = draft.old.order.clone()?;
    let method = draft.facts.hardware.spec.erase_method.into();
    let same = order.kind == OrderKind::Erase
        && order.claim.is_none()
        && order.erase.as_ref().is_some_and(|e| e.method == method)
        && order
            .disk
            .as_ref()
            .is_some_and(|t| t.identity == disk.identity && t.size_bytes == disk.size_bytes);
    let accepted = view::seen(discovery).and_then(|s| s.accepted_order.as_ref());
    let begun = accepted.is_some_and(|a| a.id == order.id) && view::result_of(discovery, &order.id).is_none();
    let blank = found.is_some_and(|f| f.state == ContentsState::Blank);
    (same && begun && (blank || view::in_flight(discovery, &order.id))).then_some(order)
}

fn become_ready(draft: &mut Draft<'_>) {
    draft.clear(conditions::FOREIGN_DATA);
    // What stands in the way of the spec's wish is said while there is time to change it.
    draft.boot_order(true);
    draft.phase(HardwarePhase::Ready);
    if draft.old.phase != HardwarePhase::Ready && draft.old.released_claims.is_empty() {
        draft.event(false, "Ready", "The machine is free");
    }
    let facts = draft.facts;
    let Some(instance) = facts.claimant else {
        return;
    };
    let uid = instance.metadata.uid.clone().unwrap_or_default();
    let ours = instance.spec.hardware_name.as_deref() == Some(draft.name());
    let held = instance.metadata.finalizers.iter().flatten().any(|f| f == api::FINALIZER_RELEASE);
    let alive = instance.metadata.deletion_timestamp.is_none();
    let leaving = facts.hardware.metadata.deletion_timestamp.is_some();
    if ours && held && alive && !leaving && !uid.is_empty() && !draft.old.released_claims.contains(&uid) {
        draft.spec = Some(SpecChange::SetClaim(ClaimRef {
            namespace: instance.metadata.namespace.clone().unwrap_or_default(),
            name: instance.metadata.name.clone().unwrap_or_default(),
            uid,
            installation_uid: None,
        }));
    }
}

/// An instance acknowledged its claim, or the disk holds its installation, and the claim is gone without a release: a replace or a restored
/// backup lost it.
fn restores_claim(draft: &mut Draft<'_>) -> bool {
    let Some(instance) = draft.facts.claimant else {
        return false;
    };
    let uid = instance.metadata.uid.clone().unwrap_or_default();
    let ours = instance.spec.hardware_name.as_deref() == Some(draft.name());
    let acknowledged = instance.status.as_ref().is_some_and(|s| s.claimed);
    let full_name = format!(
        "{}/{}",
        instance.metadata.namespace.as_deref().unwrap_or_default(),
        instance.metadata.name.as_deref().unwrap_or_default()
    );
    let inventory = view::seen(draft.facts.discovery).and_then(|s| s.inventory.as_ref());
    let on_disk = inventory.iter().flat_map(|i| &i.disks).find_map(|d| {
        let marker = d.contents.marker.as_ref().filter(|_| d.contents.state == ContentsState::Marked)?;
        let ours = marker.instance == full_name && !draft.old.released_claims.contains(&marker.instance_uid);
        ours.then(|| marker.instance_uid.clone())
    });
    if !ours || !(acknowledged || on_disk.is_some()) || uid.is_empty() || draft.old.released_claims.contains(&uid) {
        return false;
    }
    // Nothing of the status is changed by this decision, so that the claim is written at once.
    draft.new = draft.old.clone();
    draft.transient = true;
    draft.spec = Some(SpecChange::SetClaim(ClaimRef {
        namespace: instance.metadata.namespace.clone().unwrap_or_default(),
        name: instance.metadata.name.clone().unwrap_or_default(),
        installation_uid: on_disk.filter(|under| *under != uid && !under.is_empty()),
        uid,
    }));
    draft.event(
        true,
        "ClaimRestored",
        "The claim of an instance that has this machine was lost, and is restored",
    );
    true
}

/// The evidence of a successful erase, if it proves just this order for just this claim on just this disk.
pub(super) fn proven_erase<'a>(order: &Order, result: &'a OrderResult) -> Option<&'a EraseEvidence> {
    let evidence = result.erase.as_ref()?;
    let target = order.disk.as_ref()?;
    let claim = order.claim.as_ref().map(|c| c.uid.as_str()).unwrap_or_default();
    (result.outcome == Outcome::Succeeded
        && result.kind == OrderKind::Erase
        && order.kind == OrderKind::Erase
        && result.order_id == order.id
        && evidence.order_id == order.id
        && evidence.claim_uid == claim
        && evidence.disk.same_disk(&target.identity)
        && evidence.size_bytes == target.size_bytes)
        .then_some(evidence)
}

/// Takes in the evidence of a cleaning without a claim. Whether the disk is clean now.
fn collect_erase(draft: &mut Draft<'_>, disk: &SelectedDisk) -> bool {
    let Some(order) = draft.old.order.clone().filter(|o| o.claim.is_none()) else {
        return false;
    };
    let Some(evidence) = view::result_of(draft.facts.discovery, &order.id).and_then(|r| proven_erase(&order, r)) else {
        return false;
    };
    let same = evidence.disk.same_disk(&disk.identity) && evidence.size_bytes == disk.size_bytes;
    draft.new.last_erase = Some(evidence.clone());
    draft.new.last_erase_time = Some(Time(draft.facts.now));
    draft.drop_order();
    same
}

/// Erases what was given up; stops before anything else.
fn clean(draft: &mut Draft<'_>, disk: &SelectedDisk, found: &DiskContents) {
    let facts = draft.facts;
    let marker_uid = found.marker.as_ref().map(|m| m.instance_uid.as_str());
    let hardware = draft.name();
    // An erase without a claim that did not end: it was allowed when it began. So is what a released instance left behind; where its release was
    // forced, the machine is here only because a person asked to clean it.
    let own_rest = found.state == ContentsState::Interrupted
        && found
            .marker
            .as_ref()
            .is_some_and(|m| m.instance_uid.is_empty() && m.hardware == hardware);
    let released_rest = matches!(found.state, ContentsState::Marked | ContentsState::Interrupted)
        && marker_uid.is_some_and(|u| draft.old.released_claims.iter().any(|r| r == u));
    if !(own_rest || released_rest || draft.consented(found)) {
        draft.drop_order();
        draft.foreign_data(HardwarePhase::Inspecting, disk, found);
        return;
    }
    draft.clear(conditions::FOREIGN_DATA);
    let mut expected = vec![orders::blank(), orders::interrupted("")];
    match found.state {
        ContentsState::Foreign => expected.push(orders::foreign(&found.fingerprint)),
        ContentsState::Marked => expected.extend(marker_uid.map(orders::marked)),
        ContentsState::Interrupted => expected.extend(marker_uid.filter(|u| !u.is_empty()).map(orders::interrupted)),
        ContentsState::Blank | ContentsState::Unreadable => {}
    }
    let method = facts.hardware.spec.erase_method.into();
    let boot_order = draft.boot_order(true);
    let wanted = orders::erase(facts.hardware, None, disk, expected, method, boot_order);
    match draft.put_in_force(wanted) {
        Standing::InForce => match draft.order_fault() {
            Some((reason, message)) => draft.wait(HardwarePhase::Cleaning, &reason, message),
            None => draft.phase(HardwarePhase::Cleaning),
        },
        Standing::Failed => {
            let unproven = view::result_of(facts.discovery, &draft.new.order.as_ref().map(|o| o.id.clone()).unwrap_or_default())
                .and_then(|r| r.fault.as_ref())
                .is_some_and(|f| f.reason == FaultReason::EraseNotProven);
            let (reason, message) = draft.order_fault().unwrap_or_default();
            if unproven && draft.new.order_failures >= facts.config.erase_attempts {
                draft.new.order = None;
                draft.new.retry_after = None;
                draft.event(true, "Quarantined", message.clone());
                draft.wait(
                    HardwarePhase::Quarantined,
                    &reason,
                    format!("{message}. Then change spec.retryToken to clean it again"),
                );
            } else {
                draft.wait(HardwarePhase::Cleaning, &reason, message);
            }
        }
    }
}
