//! Readings of stored objects that several decisions share. Each answers one question from what stands in the objects, and guesses nothing.

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents},
    order::{OrderKind, OrderResult, Outcome},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoveryStatus, BareMetalHardware, BareMetalHardwareStatus, conditions,
    discovery::{AgentSession, BootAnswer},
    hardware::SelectedDisk,
};
use jiff::Timestamp;

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

/// Whether a session was opened after `then`.
pub fn session_since(discovery: Option<&BareMetalDiscovery>, then: Timestamp) -> bool {
    seen(discovery)
        .and_then(|s| s.session.as_ref())
        .is_some_and(|s| s.opened_at.0 > then)
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

/// The newest knowledge of what the selected disk holds: the latest session's inventory, or the result of an order on that disk that came
/// after the session was opened.
pub fn contents<'a>(
    discovery: Option<&'a BareMetalDiscovery>,
    status: &'a BareMetalHardwareStatus,
    selected: &SelectedDisk,
) -> Option<&'a DiskContents> {
    let seen = seen(discovery)?;
    let from_result = || {
        let result = seen.result.as_ref()?;
        let after = match (&seen.result_time, &seen.session) {
            (Some(result), Some(session)) => result.0 >= session.opened_at.0,
            (Some(_), None) => true,
            _ => false,
        };
        let target = status.order.as_ref().filter(|o| o.id == result.order_id)?.disk.as_ref()?;
        let same = target.identity.same_disk(&selected.identity) && target.size_bytes == selected.size_bytes;
        result.contents.as_ref().filter(|_| after && same)
    };
    from_result().or_else(|| find_disk(discovery, selected).map(|d| &d.contents))
}

/// Whether the latest erase of the selected disk came after the latest session was opened, with no image order since: it is blank then,
/// whatever the inventory said.
pub fn erased_since_session(discovery: Option<&BareMetalDiscovery>, status: &BareMetalHardwareStatus, selected: &SelectedDisk) -> bool {
    let Some(session) = seen(discovery).and_then(|s| s.session.as_ref()) else {
        return false;
    };
    match (&status.last_erase, &status.last_erase_time) {
        (Some(erase), Some(time)) => {
            !status.written
                && time.0 >= session.opened_at.0
                && erase.disk.same_disk(&selected.identity)
                && erase.size_bytes == selected.size_bytes
        }
        _ => false,
    }
}

/// The disk that carries the marker of a finished installation for this claim.
pub fn marked_for<'a>(discovery: Option<&'a BareMetalDiscovery>, claim_uid: &str) -> Option<&'a Disk> {
    let inventory = seen(discovery)?.inventory.as_ref()?;
    inventory.disks.iter().find(|d| {
        d.contents.state == ContentsState::Marked
            && d.contents
                .marker
                .as_ref()
                .is_some_and(|m| m.instance_uid == claim_uid && !claim_uid.is_empty())
    })
}

/// The successful image result for this claim, where the Discovery still has it.
pub fn image_result<'a>(discovery: Option<&'a BareMetalDiscovery>, claim_uid: &str) -> Option<&'a OrderResult> {
    let seen = seen(discovery)?;
    let result = seen.result.as_ref()?;
    let accepted = seen.accepted_order.as_ref()?;
    let ours = accepted.id == result.order_id && accepted.claim_uid == claim_uid && !claim_uid.is_empty();
    let proven = result.kind == OrderKind::Image
        && result.outcome == Outcome::Succeeded
        && result.image.as_ref().is_some_and(|i| i.order_id == result.order_id);
    (ours && proven).then_some(result)
}

/// Whether the image for the present claim stands on the disk, verified: by the operator's word, or by a result it has not read yet.
pub fn is_installed(hardware: &BareMetalHardware, discovery: Option<&BareMetalDiscovery>) -> bool {
    let Some(claim) = &hardware.spec.claim_ref else {
        return false;
    };
    let status = hardware.status.as_ref();
    let by_operator = status.and_then(|s| s.installed.as_ref()).is_some_and(|i| i.claim_uid == claim.uid);
    by_operator || image_result(discovery, &claim.uid).is_some()
}

/// Whether the present claim is being released, or has been.
pub fn is_releasing(hardware: &BareMetalHardware) -> bool {
    let (Some(claim), Some(status)) = (&hardware.spec.claim_ref, &hardware.status) else {
        return false;
    };
    let ours = status.claim_uid.as_deref() == Some(claim.uid.as_str());
    (ours && status.phase == api::HardwarePhase::Releasing) || status.released_claims.contains(&claim.uid)
}
