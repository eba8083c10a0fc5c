//! What is an agent (or a guest helper) told right now?
//!
//! A destructive order is never made here: it is the one the operator wrote into `BareMetalHardware.status.order`, or none. This
//! function decides only whether that order may be handed to this session now. The caller reads both objects freshly before it hands
//! out anything destructive, and writes [`Instruction::accept`] by compare and swap first.

use agent_protocol::{
    disk::{ContentsState, Disk},
    guest::GuestAction,
    order::{DiskTarget, Order, OrderKind, RebootTarget},
};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalHardwareStatus, HardwarePhase,
    discovery::{AcceptedOrder, IdentityProof},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    boot, boot_order,
    config::{Config, UnacceptedPolicy},
    view,
};

/// What is known when a session asks for its order.
#[derive(Debug, Clone, Copy)]
pub struct SessionFacts<'a> {
    /// The machine's discovery.
    pub discovery: &'a BareMetalDiscovery,
    /// Its hardware, where somebody accepted it.
    pub hardware: Option<&'a BareMetalHardware>,
    /// Id of the session that asks.
    pub session: &'a str,
    /// Times and choices.
    pub config: &'a Config,
    /// The server's clock.
    pub now: Timestamp,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What to do.
    pub order: Order,
    /// Phase and reason in one line, for the console.
    pub note: String,
    /// To be stored in the discovery before the order is handed out. `None`: nothing destructive, or already noted for this session.
    pub accept: Option<AcceptedOrder>,
}

fn simple(kind: OrderKind, facts: &SessionFacts<'_>, note: impl Into<String>) -> Instruction {
    let word = match kind {
        OrderKind::Reboot => "reboot",
        OrderKind::PowerOff => "off",
        OrderKind::Wait | OrderKind::Erase | OrderKind::Image => "",
    };
    Instruction {
        order: Order {
            // One order per session and kind: asked again, the agent sees that it is the same.
            id: if word.is_empty() {
                String::new()
            } else {
                format!("{word}-{}", facts.session)
            },
            kind,
            hardware: facts.hardware.and_then(|h| h.metadata.name.clone()).unwrap_or_default(),
            reboot: (kind == OrderKind::Reboot).then_some(RebootTarget::Disk),
            ..Order::wait()
        },
        note: note.into(),
        accept: None,
    }
}

/// Decides what the session is told.
pub fn instruction(facts: &SessionFacts<'_>) -> Instruction {
    let wait = |note: String| simple(OrderKind::Wait, facts, note);
    let seen = facts.discovery.status.as_ref();
    let Some(session) = seen.and_then(|s| s.session.as_ref()).filter(|s| s.id == facts.session) else {
        return wait("This session is not the machine's latest".to_owned());
    };
    let Some(hardware) = facts.hardware else {
        let over =
            facts.config.unaccepted == UnacceptedPolicy::Inventory && boot::hold_is_over(Some(facts.discovery), facts.config, facts.now);
        return if over {
            simple(OrderKind::Reboot, facts, "Nobody accepted this machine; it boots its own disk")
        } else {
            wait("Waiting for a policy or a person to accept this machine".to_owned())
        };
    };
    let status = hardware.status.clone().unwrap_or_default();
    let place = if status.reason.is_empty() {
        format!("{:?}", status.phase)
    } else {
        format!("{:?}: {}", status.phase, status.reason)
    };
    if Some(&hardware.spec.discovery_name) != facts.discovery.metadata.name.as_ref() {
        return wait("The hardware object names another machine".to_owned());
    }
    if hardware.spec.paused {
        return wait("Paused: nothing is decided about this machine until spec.paused is false".to_owned());
    }
    let claim = hardware.spec.claim_ref.as_ref();
    let releasing = view::is_releasing(hardware);
    if let Some(claim) = claim
        && !releasing
        && status.phase != HardwarePhase::Quarantined
        && view::is_installed(hardware, Some(facts.discovery))
    {
        let owner = format!("{}/{}", claim.namespace, claim.name);
        return if status.power_off {
            simple(OrderKind::PowerOff, facts, format!("Installed for {owner}, which is stopped"))
        } else {
            simple(OrderKind::Reboot, facts, format!("Installed for {owner}; booting it"))
        };
    }
    // Nobody needed the machine. One that is needed again is looked at anew: this session was given up.
    if let Some(idle) = &status.idle
        && !view::session_counts(&status, session)
        && !hardware.spec.maintenance
    {
        return if idle.asleep && claim.is_none() {
            simple(
                OrderKind::PowerOff,
                facts,
                "Nobody needs this machine; it is switched off until somebody does",
            )
        } else {
            Instruction {
                order: Order {
                    id: format!("anew-{}", facts.session),
                    reboot: Some(RebootTarget::Agent),
                    ..simple(OrderKind::Reboot, facts, "").order
                },
                ..simple(OrderKind::Reboot, facts, "Needed again before it was off; looking again")
            }
        };
    }
    // An order failed and could not say what it left on the disk, or was taken back before it was handed out: look again.
    let look_again = || Instruction {
        order: Order {
            id: format!("look-{}", facts.session),
            reboot: Some(RebootTarget::Agent),
            ..simple(OrderKind::Reboot, facts, "").order
        },
        ..simple(
            OrderKind::Reboot,
            facts,
            "Nothing tells what the last order left on the disk; looking again",
        )
    };
    let unknown = view::needs_new_look(Some(facts.discovery)) || was_withdrawn(facts, &status);
    let Some(order) = status.order.as_ref().filter(|o| o.kind.is_destructive()) else {
        return if unknown { look_again() } else { wait(place) };
    };
    if let Some(why) = reason_not_to_hand_out(facts, hardware, order, session.proof) {
        return if unknown { look_again() } else { wait(format!("{place} ({why})")) };
    }
    let noted = seen
        .and_then(|s| s.accepted_order.as_ref())
        .is_some_and(|a| a.id == order.id && a.session == facts.session);
    Instruction {
        order: order.clone(),
        note: place,
        accept: (!noted).then(|| AcceptedOrder {
            id: order.id.clone(),
            kind: order.kind,
            claim_uid: order.claim.as_ref().map(|c| c.uid.clone()).unwrap_or_default(),
            session: facts.session.to_owned(),
            accepted_at: Time(facts.now),
            seed_served: false,
        }),
    }
}

/// Whether this session noted an order that was taken back before it was handed out. A session that asks works on nothing, so nothing will ever be reported of that
/// order, and what was known of the disk before it counts no more: only a new look can tell.
fn was_withdrawn(facts: &SessionFacts<'_>, status: &BareMetalHardwareStatus) -> bool {
    let accepted = facts.discovery.status.as_ref().and_then(|s| s.accepted_order.as_ref());
    accepted.is_some_and(|a| {
        a.session == facts.session
            && status.order.as_ref().is_none_or(|o| o.id != a.id)
            && view::result_of(Some(facts.discovery), &a.id).is_none()
    })
}

/// Whether the session's inventory has this disk, in this size, once.
fn has_disk(discovery: &BareMetalDiscovery, target: &DiskTarget) -> bool {
    let inventory = discovery.status.as_ref().and_then(|s| s.inventory.as_ref());
    let same = |d: &&Disk| d.identity.same_disk(&target.identity) && d.size_bytes == target.size_bytes;
    inventory.is_some_and(|i| i.disks.iter().filter(same).count() == 1)
}

/// Every condition under which a written order stays in the drawer. `None`: hand it out.
fn reason_not_to_hand_out(
    facts: &SessionFacts<'_>,
    hardware: &BareMetalHardware,
    order: &Order,
    proof: IdentityProof,
) -> Option<&'static str> {
    if Some(&order.hardware) != hardware.metadata.name.as_ref() {
        return Some("the order is for other hardware");
    }
    if hardware.spec.maintenance {
        return Some("in maintenance");
    }
    if view::result_of(Some(facts.discovery), &order.id).is_some() {
        return Some("its result is stored");
    }
    let Some(target) = &order.disk else {
        return Some("the order names no disk");
    };
    // The machine would refuse too, and first wait for a seed that nobody seals for a disk that is not there.
    if !has_disk(facts.discovery, target) {
        return Some("this machine does not have the disk that the order names");
    }
    let claim = hardware.spec.claim_ref.as_ref();
    let accepted = facts.discovery.status.as_ref().and_then(|s| s.accepted_order.as_ref());
    let serves = match (claim, &order.claim) {
        (None, None) => true,
        (Some(claim), Some(served)) if claim.uid == served.uid => true,
        // The claim was re-identified. The order is about to be replaced by one that says so, but for a session that works on it already.
        (Some(claim), Some(served)) => {
            view::Uids::of(claim).has(&served.uid) && accepted.is_some_and(|a| a.id == order.id && a.session == facts.session)
        }
        _ => false,
    };
    if !serves {
        return Some("the order serves another claim");
    }
    if order.kind == OrderKind::Image {
        let Some(claim) = claim else {
            return Some("an image needs a claim");
        };
        if view::is_releasing(hardware) {
            return Some("the claim is being released");
        }
        if proof == IdentityProof::Asserted && !facts.config.allow_asserted_identity {
            return Some("this session's identity is not proven");
        }
        let stands = match hardware.status.as_ref().filter(|s| s.replacing.is_some()) {
            None => view::marked_for(Some(facts.discovery), view::Uids::of(claim)).is_some(),
            // A re-install is written over the installation before it, and over no later one; by what is known of the disk now, not when the session began.
            Some(status) => {
                let disk = status.root_disk.as_ref();
                let found = disk.and_then(|d| view::contents(Some(facts.discovery), status, d));
                let marker = found.filter(|f| f.state == ContentsState::Marked).and_then(|f| f.marker);
                marker.is_some_and(|m| view::comes_after_the_replaced(status, &m.order_id))
            }
        };
        if stands {
            return Some("the image already stands on the disk");
        }
    }
    None
}

/// What the guest helper of an instance is told. `instance_uid` is the one that its token names: it may be an earlier one of the instance. A system that came instead of the agent
/// again and again is not sent away at once: firmware that does not keep to its boot order would start it over and over.
pub fn guest_action(
    hardware: Option<&BareMetalHardware>,
    discovery: Option<&BareMetalDiscovery>,
    instance_uid: &str,
    now: Timestamp,
) -> GuestAction {
    match wanted_of_guest(hardware, discovery, instance_uid) {
        GuestAction::RebootToAgent if boot_order::is_to_rest(discovery, now) => GuestAction::Wait,
        action => action,
    }
}

fn wanted_of_guest(hardware: Option<&BareMetalHardware>, discovery: Option<&BareMetalDiscovery>, instance_uid: &str) -> GuestAction {
    let Some(hardware) = hardware.filter(|h| !h.spec.paused) else {
        return GuestAction::Wait;
    };
    let status = hardware.status.as_ref();
    let claim = hardware.spec.claim_ref.as_ref();
    if claim.is_some_and(|c| view::Uids::of(c).has(instance_uid)) {
        if view::is_releasing(hardware) {
            return GuestAction::RebootToAgent;
        }
        // Its system is to be written over; the one that was written instead stays.
        if status.is_some_and(|s| s.replacing.is_some()) && !view::is_installed(hardware, discovery) {
            return GuestAction::RebootToAgent;
        }
        if status.is_some_and(|s| s.power_off && s.claim_uid.as_ref() == claim.map(|c| &c.uid)) {
            return GuestAction::PowerOff;
        }
        return GuestAction::Wait;
    }
    // Released (by force) while it could not be reached: it must not go on running.
    if status.is_some_and(|s| s.released_claims.iter().any(|u| u == instance_uid)) {
        return GuestAction::RebootToAgent;
    }
    GuestAction::Wait
}
