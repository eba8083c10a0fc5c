//! Readings of stored objects that several decisions share. Each answers one question from what stands in the objects, and guesses nothing.

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents},
    order::{OrderKind, OrderResult, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoveryStatus, BareMetalHardware, BareMetalHardwareStatus, BareMetalInstance, InstancePhase, conditions,
    discovery::{AgentSession, BootAnswer},
    gate::GateStep,
    hardware::{ClaimRef, InstalledImage, SelectedDisk},
};
use jiff::Timestamp;

/// The UIDs by which the instance of a claim is known: its present one, and the one that the system on the disk was installed under, where that differs (the instance was moved to
/// another API, or restored). What machines were told before the change, and what stands on their disks, carries the latter for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uids<'a> {
    own: &'a str,
    installed: Option<&'a str>,
}

impl<'a> Uids<'a> {
    /// Of a claim.
    pub fn of(claim: &'a ClaimRef) -> Self {
        Self {
            own: &claim.uid,
            installed: claim.installation_uid.as_deref(),
        }
    }

    /// Of an instance that has no claim: it has one.
    pub fn one(own: &'a str) -> Self {
        Self { own, installed: None }
    }

    /// Whether `uid` is one of them.
    pub fn has(self, uid: &str) -> bool {
        !uid.is_empty() && (uid == self.own || Some(uid) == self.installed)
    }

    /// The one that the system on the disk was installed under, where it is another one.
    pub fn installed(self) -> Option<&'a str> {
        self.installed.filter(|u| *u != self.own && !u.is_empty())
    }
}

/// Status of a discovery, where there is one.
pub fn seen(discovery: Option<&BareMetalDiscovery>) -> Option<&BareMetalDiscoveryStatus> {
    discovery.and_then(|d| d.status.as_ref())
}

/// The stored result of the order with this id.
pub fn result_of<'a>(discovery: Option<&'a BareMetalDiscovery>, order_id: &str) -> Option<&'a OrderResult> {
    seen(discovery)
        .and_then(|s| s.result.as_ref())
        .filter(|r| r.order_id == order_id && !order_id.is_empty())
}

/// The session that may be given work: the latest one, unless the machine was seen to leave the agent since.
pub fn live_session(discovery: Option<&BareMetalDiscovery>) -> Option<&AgentSession> {
    let status = seen(discovery)?;
    let session = status.session.as_ref()?;
    let lost = status
        .conditions
        .iter()
        .any(|c| c.type_ == conditions::AGENT_CONNECTED && c.status == "False");
    let left = status
        .boots
        .iter()
        .any(|b| b.answer == BootAnswer::LocalDisk && b.time.0 > session.opened_at.0);
    (!lost && !left).then_some(session)
}

/// Whether a session is of the machine as it is now: one from before it was switched off, because nobody needed it, is not.
pub fn session_counts(status: &BareMetalHardwareStatus, session: &AgentSession) -> bool {
    status.idle.as_ref().is_none_or(|idle| session.opened_at.0 > idle.since.0)
}

/// Whether a session was opened after `then`.
pub fn session_since(discovery: Option<&BareMetalDiscovery>, then: Timestamp) -> bool {
    seen(discovery)
        .and_then(|s| s.session.as_ref())
        .is_some_and(|s| s.opened_at.0 > then)
}

/// When something was last heard of the machine: it asked what to boot, opened a session, or its guest helper registered.
pub fn last_heard(discovery: Option<&BareMetalDiscovery>) -> Option<Timestamp> {
    let seen = seen(discovery)?;
    let boots = seen.boots.iter().map(|b| b.time.0);
    let session = seen.session.as_ref().map(|s| s.opened_at.0);
    boots.chain(session).chain(seen.guest.as_ref().map(|g| g.registered_at.0)).max()
}

/// The disk of the latest inventory that is the selected one.
pub fn find_disk<'a>(discovery: Option<&'a BareMetalDiscovery>, selected: &SelectedDisk) -> Option<&'a Disk> {
    let inventory = seen(discovery)?.inventory.as_ref()?;
    let mut same = inventory
        .disks
        .iter()
        .filter(|d| d.identity.same_disk(&selected.identity) && d.size_bytes == selected.size_bytes);
    same.next().filter(|_| same.next().is_none())
}

/// Whether this order is being worked on by the latest session.
pub fn in_flight(discovery: Option<&BareMetalDiscovery>, order_id: &str) -> bool {
    let Some(seen) = seen(discovery) else {
        return false;
    };
    let (Some(accepted), Some(session)) = (&seen.accepted_order, &seen.session) else {
        return false;
    };
    accepted.id == order_id && accepted.session == session.id && result_of(discovery, order_id).is_none()
}

/// What is known of a disk's contents. An inventory tells only what was true before a destructive order was accepted in its session; from then
/// on the order's result must tell.
pub fn contents(discovery: Option<&BareMetalDiscovery>, status: &BareMetalHardwareStatus, selected: &SelectedDisk) -> Option<DiskContents> {
    let status_of_machine = seen(discovery)?;
    let inventory = || find_disk(discovery, selected).map(|d| d.contents.clone());
    let (Some(accepted), Some(session)) = (&status_of_machine.accepted_order, &status_of_machine.session) else {
        return inventory();
    };
    if accepted.session != session.id {
        return inventory();
    }
    let target = status.order.as_ref().filter(|o| o.id == accepted.id).and_then(|o| o.disk.as_ref());
    if target.is_some_and(|t| !(t.identity.same_disk(&selected.identity) && t.size_bytes == selected.size_bytes)) {
        // The order worked on another disk.
        return inventory();
    }
    let result = result_of(discovery, &accepted.id)?;
    match result.outcome {
        Outcome::Refused => result.contents.clone().or_else(inventory),
        Outcome::Succeeded if result.erase.as_ref().is_some_and(|e| e.order_id == result.order_id) => Some(DiskContents::blank()),
        Outcome::Succeeded | Outcome::Failed => result.contents.clone(),
    }
}

/// Whether only a new boot into the agent can tell what the disk holds: an order failed in this session and could not say what it left.
pub fn needs_new_look(discovery: Option<&BareMetalDiscovery>) -> bool {
    let Some(seen) = seen(discovery) else {
        return false;
    };
    let (Some(accepted), Some(session)) = (&seen.accepted_order, &seen.session) else {
        return false;
    };
    accepted.session == session.id
        && result_of(discovery, &accepted.id).is_some_and(|r| r.outcome == Outcome::Failed && r.contents.is_none())
}

/// Whether anything that was seen says that the disk may hold data of this claim.
pub fn may_hold_data_of(discovery: Option<&BareMetalDiscovery>, claim: Uids<'_>) -> bool {
    let Some(seen) = seen(discovery) else {
        return false;
    };
    // An erase is given only where something may have been written: that it was accepted does not say that it ended.
    let accepted = seen
        .accepted_order
        .as_ref()
        .is_some_and(|a| a.kind.is_destructive() && claim.has(&a.claim_uid));
    let marked = seen.inventory.iter().flat_map(|i| &i.disks).any(|d| {
        d.contents
            .marker
            .as_ref()
            .is_some_and(|m| claim.has(&m.instance_uid) && !m.image_digest.is_empty())
    });
    accepted || marked
}

/// The disk that carries the marker of a finished installation for this claim.
pub fn marked_for<'a>(discovery: Option<&'a BareMetalDiscovery>, claim: Uids<'_>) -> Option<&'a Disk> {
    let inventory = seen(discovery)?.inventory.as_ref()?;
    inventory
        .disks
        .iter()
        .find(|d| d.contents.state == ContentsState::Marked && d.contents.marker.as_ref().is_some_and(|m| claim.has(&m.instance_uid)))
}

/// The successful image result for this claim, where the Discovery still has it.
pub fn image_result<'a>(discovery: Option<&'a BareMetalDiscovery>, claim: Uids<'_>) -> Option<&'a OrderResult> {
    let seen = seen(discovery)?;
    let result = seen.result.as_ref()?;
    let accepted = seen.accepted_order.as_ref()?;
    let ours = accepted.id == result.order_id && claim.has(&accepted.claim_uid);
    let proven = result.kind == OrderKind::Image
        && result.outcome == Outcome::Succeeded
        && result.image.as_ref().is_some_and(|i| i.order_id == result.order_id);
    (ours && proven).then_some(result)
}

/// Whether the text that asks for a re-install was changed since this machine's status last took note of it.
pub fn reinstall_is_asked(status: &BareMetalHardwareStatus, instance: &BareMetalInstance) -> bool {
    let token = &instance.spec.reinstall_token;
    let newer = instance.metadata.generation.is_none() || instance.metadata.generation > status.observed_reinstall_generation;
    newer && token.is_some() && *token != status.observed_reinstall_token
}

/// Whether the machine's own record and this installation are of different times: they know different orders as the one that wrote the image. Signs of a running system from before the
/// installation may then be of the one that it replaced.
pub fn is_apart_from(installed: &InstalledImage, discovery: Option<&BareMetalDiscovery>, claim: Uids<'_>) -> bool {
    !installed.order_id.is_empty() && image_result(discovery, claim).is_some_and(|r| r.order_id != installed.order_id)
}

/// Whether what was heard of the machine's system may be of the one that is to be replaced: a re-install is asked for, this view has not taken note of it, and no evidence was found before.
pub fn is_before_the_reinstall(status: &BareMetalHardwareStatus, instance: &BareMetalInstance, phase: InstancePhase) -> bool {
    phase != InstancePhase::Running && reinstall_is_asked(status, instance)
}

/// Whether what an order wrote counts while an installation is being replaced: whatever came after that one; where nobody knows which order wrote that, only what the order in force wrote.
pub fn comes_after_the_replaced(status: &BareMetalHardwareStatus, order_id: &str) -> bool {
    match &status.replacing {
        None => true,
        Some(replaced) if replaced.order_id.is_empty() => status.order.as_ref().is_some_and(|o| o.id == order_id),
        Some(replaced) => replaced.order_id != order_id,
    }
}

/// The same, unless the installation that it made is being replaced.
pub fn present_image_result<'a>(
    status: Option<&BareMetalHardwareStatus>,
    discovery: Option<&'a BareMetalDiscovery>,
    claim: Uids<'_>,
) -> Option<&'a OrderResult> {
    image_result(discovery, claim).filter(|r| status.is_none_or(|s| comes_after_the_replaced(s, &r.order_id)))
}

/// Whether the order that the machine accepted last takes away what stood there for a claim, by erasing it, by writing for another claim, or by writing over it: then nothing of it is to
/// be booted, whatever an older view of the hardware says. Not so the order that wrote it (`written_by`), nor one that was refused or has written the whole of another image for this claim,
/// nor one for another claim whose machine has shown since that the installation stands.
pub fn was_taken_away(discovery: Option<&BareMetalDiscovery>, claim: Uids<'_>, written_by: Option<&str>) -> bool {
    let Some(seen) = seen(discovery) else {
        return false;
    };
    let Some(accepted) = seen.accepted_order.as_ref().filter(|a| a.kind.is_destructive()) else {
        return false;
    };
    let ours = claim.has(&accepted.claim_uid);
    if accepted.kind == OrderKind::Image && written_by == Some(accepted.id.as_str()) {
        return false;
    }
    if accepted.kind == OrderKind::Image && ours {
        let over_it = written_by.is_some_and(|by| !by.is_empty());
        return over_it && !result_of(discovery, &accepted.id).is_some_and(|r| matches!(r.outcome, Outcome::Refused | Outcome::Succeeded));
    }
    if ours {
        return true;
    }
    let refused = result_of(discovery, &accepted.id).is_some_and(|r| r.outcome == Outcome::Refused);
    let seen_since = seen.session.as_ref().is_some_and(|s| s.id != accepted.session) && marked_for(discovery, claim).is_some();
    !(refused || seen_since)
}

/// Whether the image for the present claim stands on the disk, verified: by the operator's word, or by a result it has not read yet.
pub fn is_installed(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> bool {
    let Some(claim) = &hardware.spec.claim_ref else {
        return false;
    };
    let uids = Uids::of(claim);
    let status = hardware.status.as_ref();
    let installed = status.and_then(|s| s.installed.as_ref()).filter(|i| i.claim_uid == claim.uid);
    if was_taken_away(discovery, uids, installed.map(|i| i.order_id.as_str())) {
        return false;
    }
    // Where a gate stands before the first boot, only the operator can say that it is open.
    let gated = hardware.spec.gates.iter().any(|g| g.before == GateStep::Run);
    installed.is_some() || (!gated && present_image_result(status, discovery, uids).is_some())
}

/// Whether the present claim is being released, or has been.
pub fn is_releasing(hardware: &BareMetalHardware) -> bool {
    let (Some(claim), Some(status)) = (&hardware.spec.claim_ref, &hardware.status) else {
        return false;
    };
    let ours = status.claim_uid.as_deref() == Some(claim.uid.as_str());
    (ours && status.phase == api::HardwarePhase::Releasing) || status.released_claims.contains(&claim.uid)
}
