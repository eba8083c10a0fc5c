//! What does a machine that asks for a boot script get: the agent, or its own disk?
//!
//! Booting the agent harms nothing (it looks, and waits for orders), so doubt about a machine that is *not* known to be in use leads there.
//! A machine that runs an instance, is out of service, or belongs to nobody boots its own disk, and so does one that could not run the agent: a kernel of another architecture
//! helps nobody. No order follows from this decision.

use api::{BareMetalDiscovery, BareMetalHardware, HardwarePhase, discovery::BootAnswer};
use jiff::{SignedDuration, Timestamp};

use crate::{
    config::{Config, UnacceptedPolicy},
    identity::Match,
    view,
};

/// What is known when a machine asks. A cache is good enough.
#[derive(Debug, Clone, Copy)]
pub struct BootFacts<'a> {
    /// Whom the UUID and MAC of the request belong to.
    pub matched: &'a Match,
    /// The matched machine's discovery, for [`Match::Known`].
    pub discovery: Option<&'a BareMetalDiscovery>,
    /// Its hardware, where somebody accepted it.
    pub hardware: Option<&'a BareMetalHardware>,
    /// For [`Match::Unclear`]: whether one of the named discoveries already has the condition `IdentityConflict`.
    pub conflict_known: bool,
    /// Whether there are boot media for the architecture that asks.
    pub has_media: bool,
    /// Times and choices.
    pub config: &'a Config,
    /// The server's clock.
    pub now: Timestamp,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootDecision {
    /// What to boot.
    pub answer: BootAnswer,
    /// Why, in a CamelCase word.
    pub reason: &'static str,
    /// The instance whose disk it is told to boot; empty without one.
    pub instance_uid: String,
    /// Whether the answer must stand in `BareMetalDiscovery.status.boots` **before** it is given: it is evidence for an instance.
    pub record: bool,
}

/// Two boots of one machine within this time need one record only.
const RECORD_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// The reason of a machine that would get the agent if there were boot media for its architecture.
pub const NO_BOOT_MEDIA: &str = "NoBootMedia";

const RELEASING: &str = "Releasing";
const QUARANTINED: &str = "Quarantined";

/// Decides.
pub fn decide(facts: &BootFacts<'_>) -> BootDecision {
    let wanted = wanted(facts);
    // What its disk holds was given up, or is doubted: rather than to boot it, the machine asks again until there are media.
    let waits = matches!(wanted.reason, RELEASING | QUARANTINED);
    if wanted.answer == BootAnswer::Agent && !facts.has_media && !waits {
        return BootDecision {
            answer: BootAnswer::LocalDisk,
            reason: NO_BOOT_MEDIA,
            ..wanted
        };
    }
    wanted
}

/// What it is to boot, if it can.
fn wanted(facts: &BootFacts<'_>) -> BootDecision {
    let plain = |answer, reason| BootDecision {
        answer,
        reason,
        instance_uid: String::new(),
        record: false,
    };
    let (agent, disk) = (
        |reason| plain(BootAnswer::Agent, reason),
        |reason| plain(BootAnswer::LocalDisk, reason),
    );
    match facts.matched {
        Match::New => {
            return match facts.config.unaccepted {
                UnacceptedPolicy::Ignore => disk("UnknownIgnored"),
                UnacceptedPolicy::Inventory | UnacceptedPolicy::Hold => agent("Unknown"),
            };
        }
        // The agent's inventory tells more than a UUID and a MAC; but once a person was asked, the machine is left alone.
        Match::Unclear { .. } if facts.conflict_known => return disk("IdentityConflict"),
        Match::Unclear { .. } => return agent("IdentityUnclear"),
        Match::Known(_) => {}
    }
    let Some(hardware) = facts.hardware else {
        return match facts.config.unaccepted {
            UnacceptedPolicy::Ignore => disk("NotAcceptedIgnored"),
            UnacceptedPolicy::Hold => agent("NotAccepted"),
            UnacceptedPolicy::Inventory if hold_is_over(facts.discovery, facts.config, facts.now) => disk("NotAccepted"),
            UnacceptedPolicy::Inventory => agent("NotAccepted"),
        };
    };
    let phase = hardware.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let Some(claim) = &hardware.spec.claim_ref else {
        return if hardware.spec.maintenance {
            disk("Maintenance")
        } else {
            agent("Accepted")
        };
    };
    if view::is_releasing(hardware) {
        return agent(RELEASING);
    }
    if phase == HardwarePhase::Quarantined {
        return agent(QUARANTINED);
    }
    if view::is_installed(hardware, facts.discovery) {
        return BootDecision {
            instance_uid: claim.uid.clone(),
            record: !recently_recorded(facts, &claim.uid),
            ..disk("Installed")
        };
    }
    let order = hardware.status.as_ref().and_then(|s| s.order.as_ref());
    if hardware.spec.maintenance && order.is_none() {
        return disk("Maintenance");
    }
    agent("Claimed")
}

/// Whether an unaccepted machine has waited long enough.
pub(crate) fn hold_is_over(discovery: Option<&BareMetalDiscovery>, config: &Config, now: Timestamp) -> bool {
    let first_seen = discovery.and_then(|d| d.metadata.creation_timestamp.as_ref());
    first_seen.is_some_and(|t| now.duration_since(t.0) >= config.unaccepted_hold)
}

fn recently_recorded(facts: &BootFacts<'_>, uid: &str) -> bool {
    let Some(seen) = view::seen(facts.discovery) else {
        return false;
    };
    // Only a record after the latest session and result is evidence that the machine left the agent.
    let since = [seen.session.as_ref().map(|s| &s.opened_at), seen.result_time.as_ref()];
    seen.boots.iter().any(|b| {
        b.answer == BootAnswer::LocalDisk
            && b.instance_uid == uid
            && facts.now.duration_since(b.time.0) < RECORD_INTERVAL
            && since.iter().flatten().all(|t| b.time.0 >= t.0)
    })
}
