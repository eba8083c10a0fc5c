//! What becomes of one accepted machine: inspection, first cleaning, claim, image order, use, release.
//!
//! [`decide`] is level-based: it derives everything from the objects as they stand, so losing a message or deciding twice changes nothing.
//! The caller carries the decision out in the order of [`HardwareDecision`]'s fields, each write with the resourceVersion of the object in the facts (compare and
//! swap), and decides anew when one is refused.
//!
//! Invariants kept here:
//! * an image order exists only for a claim whose instance is there, has acknowledged it (`status.claimed`), and is not being deleted;
//! * a claim is cleared only when `status.released_claims` names it, which is written together with the erase evidence of that claim and order (or
//!   when no image order was ever issued for it, or by force into Quarantined), or when its instance is gone and no image order was ever issued;
//! * a released claim is never taken up again;
//! * a machine is Ready only while its root disk is known to be blank;
//! * a step before which a gate stands is taken only when that gate's condition was seen True ([`gates`]).
//!
//! Not here: doing any of it, and the instance's side ([`crate::instance`]).

mod claimed;
mod draft;
mod free;
mod gates;
mod idle;

pub use claimed::REMEMBERED_RELEASES;

use agent_protocol::{disk::ContentsState, inventory::Inventory};
use api::{
    BareMetalDiscovery, BareMetalHardware, BareMetalHardwareSpec, BareMetalHardwareStatus, BareMetalImage, BareMetalInstance,
    HardwarePhase,
    hardware::{ClaimRef, EraseConsent, NicAssignment},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{config::Config, disks, idle::IdleFacts, policy::Acceptance, power::PowerFacts};
use draft::Draft;

/// Something that is prepared outside and must be there before an image order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Readiness {
    /// It is there (or not needed).
    #[default]
    Ready,
    /// It is not; shown to people.
    Waiting {
        /// CamelCase word.
        reason: String,
        /// Sentence with the remedy.
        message: String,
    },
}

/// For what the stored seed was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFor {
    /// Which order.
    pub order_id: String,
    /// Which session's keys.
    pub thumbprint: String,
}

/// What is known when deciding about a machine. Caches are good enough: every write is compared and swapped.
#[derive(Debug, Clone, Copy)]
pub struct HardwareFacts<'a> {
    /// The machine.
    pub hardware: &'a BareMetalHardware,
    /// What was seen of it.
    pub discovery: Option<&'a BareMetalDiscovery>,
    /// The instance that `claimRef` names by namespace and name; without a claim, [`choose_claimant`] of those whose `spec.hardwareName` is this machine.
    pub claimant: Option<&'a BareMetalInstance>,
    /// The image that the claimant names.
    pub image: Option<&'a BareMetalImage>,
    /// Whether the claimant's endpoints have their addresses.
    pub endpoints: &'a Readiness,
    /// Whether the seed can be rendered (the Secret with the user data is there, ...).
    pub seed_input: &'a Readiness,
    /// For what the seed Secret of this machine was sealed, where there is one.
    pub sealed: Option<&'a SealedFor>,
    /// What is known of its power, where it has a driver.
    pub power: Option<&'a PowerFacts>,
    /// What becomes of it while nobody needs it.
    pub idle: IdleFacts,
    /// Random, drawn anew for each call: goes into the id of an order that this decision creates.
    pub salt: u64,
    /// Times and choices.
    pub config: &'a Config,
    /// The operator's clock.
    pub now: Timestamp,
}

/// A change of the machine's spec; metadata and spec are replaced in one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpecChange {
    /// Set `spec.claimRef` and add [`api::FINALIZER_CLAIM`].
    SetClaim(ClaimRef),
    /// Remove `spec.claimRef` and [`api::FINALIZER_CLAIM`].
    ClearClaim,
}

/// What to do about the seed Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeedAction {
    /// Nothing.
    #[default]
    Keep,
    /// Render the claimant's seed, seal it, store it. **Before** the status is written: an order without its seed only waits.
    SealFor {
        /// Which order.
        order_id: String,
        /// UID of the instance.
        instance_uid: String,
        /// Thumbprint of the session's keys.
        thumbprint: String,
        /// Base64 X25519 public key of the session.
        sealing_key: String,
    },
    /// Delete the Secret.
    Delete,
}

/// An event to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNote {
    /// Whether it is a `Warning`.
    pub warning: bool,
    /// CamelCase word.
    pub reason: &'static str,
    /// Sentence.
    pub message: String,
}

/// What to do, in this order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HardwareDecision {
    /// First: the seed.
    pub seed: SeedAction,
    /// The claimant's addresses may be given to others: its old system is off, or its release has ended. Idempotent.
    pub release_addresses: bool,
    /// Second: the new status, only when it really differs. When it is written, leave `spec` for the next decision.
    pub status: Option<BareMetalHardwareStatus>,
    /// Third, and only when `status` is `None`: a change of the spec.
    pub spec: Option<SpecChange>,
    /// Last: events; publish them only when the write was accepted.
    pub events: Vec<EventNote>,
    /// Decide again after this time even if nothing changes.
    pub requeue_after: Option<SignedDuration>,
}

/// Decides.
pub fn decide(facts: &HardwareFacts<'_>) -> HardwareDecision {
    let mut draft = Draft::new(facts);
    match &facts.hardware.spec.claim_ref {
        Some(claim) => {
            idle::is_needed(&mut draft);
            claimed::decide(&mut draft, claim);
            idle::comes(&mut draft);
        }
        None => {
            free::decide(&mut draft);
            idle::decide(&mut draft);
        }
    }
    draft.finish()
}

/// Of several instances that name one machine, the one that it belongs to: whose claim was acknowledged, then the oldest, then by name.
pub fn choose_claimant<'a>(instances: impl IntoIterator<Item = &'a BareMetalInstance>) -> Option<&'a BareMetalInstance> {
    instances.into_iter().min_by_key(|i| {
        let claimed = i.status.as_ref().is_some_and(|s| s.claimed);
        let created = i.metadata.creation_timestamp.as_ref().map(|t| t.0);
        (!claimed, created, i.metadata.namespace.clone(), i.metadata.name.clone())
    })
}

/// The hardware object for a machine that a policy accepted. Creating it is the acceptance.
pub fn accepted(discovery_name: &str, inventory: &Inventory, acceptance: &Acceptance) -> BareMetalHardware {
    let boot_nic = inventory.nics.iter().find(|n| n.boot).or(inventory.nics.first());
    let nics = acceptance
        .network_ref
        .iter()
        .zip(boot_nic)
        .map(|(network, nic)| NicAssignment {
            mac: nic.mac,
            network_ref: network.clone(),
        })
        .collect();
    let mut hardware = BareMetalHardware {
        metadata: ObjectMeta {
            name: Some(discovery_name.to_owned()),
            labels: (!acceptance.labels.is_empty()).then(|| acceptance.labels.clone()),
            ..ObjectMeta::default()
        },
        spec: BareMetalHardwareSpec {
            discovery_name: discovery_name.to_owned(),
            nics,
            taints: acceptance.taints.clone(),
            class: acceptance.class.clone(),
            boot_network: acceptance.boot_network.clone(),
            power_from_bmc: acceptance.power.as_ref().map(|p| p.from_bmc.clone()),
            gates: acceptance.gates.clone(),
            ..BareMetalHardwareSpec::default()
        },
        status: None,
    };
    hardware.spec.erase_consent = acceptance.erase_foreign_data.then(|| given_up(&hardware.spec, inventory)).flatten();
    hardware
}

/// What a policy gives up: what the root disk holds now, by its fingerprint. In the spec, so that no lost status can widen it to what is there another time.
fn given_up(spec: &BareMetalHardwareSpec, inventory: &Inventory) -> Option<EraseConsent> {
    let Ok(disk) = disks::choose(spec, inventory) else {
        return Some(EraseConsent {
            fingerprints: Vec::new(),
            at_acceptance: true,
        });
    };
    let foreign = matches!(disk.contents.state, ContentsState::Foreign | ContentsState::Interrupted);
    foreign.then(|| EraseConsent {
        fingerprints: vec![disk.contents.fingerprint.clone()],
        at_acceptance: false,
    })
}

/// Whether an instance can be bound to the machine now.
pub fn is_free(hardware: &BareMetalHardware) -> bool {
    hardware.metadata.deletion_timestamp.is_none()
        && hardware.spec.claim_ref.is_none()
        && !hardware.spec.maintenance
        && !hardware.spec.paused
        && hardware.status.as_ref().is_some_and(|s| s.phase == HardwarePhase::Ready)
}
