//! Names of conditions, and one way to write them.
//!
//! Reasons are CamelCase words made where the decision is made (`lifecycle`); types are the closed list here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// An agent session is open (hardware, discovery).
pub const AGENT_CONNECTED: &str = "AgentConnected";
/// The agent reached its server over the VLAN, bond and MTU that it was told (discovery).
pub const AGENT_NETWORK: &str = "AgentNetwork";
/// A machine's identity is claimed by another object too (discovery).
pub const IDENTITY_CONFLICT: &str = "IdentityConflict";
/// A second key tried to redeem a token, or a stranger claimed a live machine (discovery).
pub const SESSION_REFUSED: &str = "SessionRefused";
/// The root disk was chosen and capacity is known (hardware).
pub const INSPECTED: &str = "Inspected";
/// Free (hardware), usable (image, endpoint).
pub const READY: &str = "Ready";
/// The image store has it packed (image).
pub const PREPARED: &str = "Prepared";
/// The root disk holds data that nobody gave up (hardware).
pub const FOREIGN_DATA: &str = "ForeignData";
/// The latest order was refused or failed (hardware, instance).
pub const ORDER_FAILED: &str = "OrderFailed";
/// The machine must be switched off and on by a person (hardware, instance).
pub const POWER_CYCLE_NEEDED: &str = "PowerCycleNeeded";
/// False: the machine is to be switched off while nobody needs it, and why it is not (hardware).
pub const IDLE_POLICY: &str = "IdlePolicy";
/// A user for the operator was made in the machine's BMC (hardware).
pub const BMC_USER: &str = "BmcUser";
/// False: the machine's BMC tells of another machine, or of one that is known by another name (hardware).
pub const BMC_IDENTITY: &str = "BmcIdentity";
/// Why firmware's boot order is not what `spec.bootOrder` asks for (hardware).
pub const BOOT_ORDER: &str = "BootOrder";
/// The machine was told to boot into the agent, and its own system came instead (hardware).
pub const BOOT_ORDER_IGNORED: &str = "BootOrderIgnored";
/// A machine was found (instance).
pub const SCHEDULED: &str = "Scheduled";
/// Every endpoint has its addresses (instance).
pub const ADDRESSES_READY: &str = "AddressesReady";
/// The seed was rendered and sealed (instance).
pub const SEED_READY: &str = "SeedReady";
/// The image was written and verified (instance).
pub const IMAGED: &str = "Imaged";
/// The system runs (instance).
pub const RUNNING: &str = "Running";
/// The disk was erased with evidence after the release (instance).
pub const RELEASED: &str = "Released";
/// A DHCP server that is none of netboot's gives out addresses beside it (network).
pub const OTHER_DHCP_SERVER: &str = "OtherDHCPServer";
/// Machines get from every replica of netboot what they need to boot (network).
pub const NETBOOT_HEALTHY: &str = "NetbootHealthy";

/// Sets one condition: adds it, or changes it and moves `lastTransitionTime` only when the status changes.
pub fn set(conditions: &mut Vec<Condition>, kind: &str, status: bool, reason: &str, message: &str, generation: Option<i64>, now: &Time) {
    set_or_unknown(conditions, kind, Some(status), reason, message, generation, now);
}

/// The same; a status of `None` is Unknown.
pub fn set_or_unknown(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: Option<bool>,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) {
    let status = match status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let since = match conditions.iter().find(|c| c.type_ == kind) {
        Some(old) if old.status == status => old.last_transition_time.clone(),
        _ => now.clone(),
    };
    let new = Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    match conditions.iter_mut().find(|c| c.type_ == kind) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// Whether a condition is there and True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Removes a condition that does not apply any more.
pub fn clear(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|c| c.type_ != kind);
}
