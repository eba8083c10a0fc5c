//! BareMetalDiscovery: what was seen of one machine. Netboot writes it; nobody decides in it.

use agent_protocol::{
    identity::{MacAddress, SystemUuid},
    inventory::Inventory,
    order::{OrderKind, OrderResult, Progress},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{bmc::BmcUserResult, timeline::BootTimeline};

/// What was seen of one machine.
///
/// All of it stands in `status`, and there is no status subresource: one write can say everything, which matters when a thousand
/// machines are switched on at once. The name is opaque and stable.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalDiscovery",
    plural = "baremetaldiscoveries",
    singular = "baremetaldiscovery",
    shortname = "bmd",
    category = "baremetal",
    status = "BareMetalDiscoveryStatus",
    derive = "PartialEq",
    doc = "What was seen of one machine: identity, inventory, agent session, accepted order with progress and result, boot timeline. Written by netboot only.",
    printcolumn = r#"{"name":"Product","type":"string","jsonPath":".status.inventory.system.product"}"#,
    printcolumn = r#"{"name":"CPUs","type":"integer","jsonPath":".status.inventory.cpu.threads"}"#,
    printcolumn = r#"{"name":"Memory","type":"integer","format":"int64","jsonPath":".status.inventory.memory.bytes","priority":1}"#,
    printcolumn = r#"{"name":"Firmware","type":"string","jsonPath":".status.inventory.firmware.mode"}"#,
    printcolumn = r#"{"name":"BMC","type":"string","jsonPath":".status.inventory.bmc.address","priority":1}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.session.address"}"#,
    printcolumn = r#"{"name":"Order","type":"string","jsonPath":".status.acceptedOrder.kind"}"#,
    printcolumn = r#"{"name":"Result","type":"string","jsonPath":".status.result.outcome"}"#,
    printcolumn = r#"{"name":"Step","type":"string","jsonPath":".status.progress.step","priority":1}"#,
    printcolumn = r#"{"name":"Last boot","type":"date","jsonPath":".status.lastBoot"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalDiscoverySpec {}

/// Everything that was seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalDiscoveryStatus {
    /// What the machine said of itself at its latest session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// The latest agent session. It stays here when the agent is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<AgentSession>,
    /// The order this machine accepted last, noted before it was handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_order: Option<AcceptedOrder>,
    /// How far that order is: a hint, written within a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// How the latest finished order ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<OrderResult>,
    /// When `result` was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_time: Option<Time>,
    /// When the machine last asked what to boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_boot: Option<Time>,
    /// The latest boots, newest last, at most eight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boots: Vec<BootRecord>,
    /// The latest boots step by step, newest last, at most four: for people who look for the place at which one stopped. A machine that never reached the agent has these and no inventory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timelines: Vec<BootTimeline>,
    /// The guest helper of the installed system, where it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
    /// What became of the user that the agent was asked to make in the BMC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc_user: Option<BmcUserResult>,
    /// `AgentConnected`, `IdentityConflict`, `SessionRefused`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How sure the server is that a session comes from the machine it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IdentityProof {
    /// UUID and MAC were claimed; anybody on the LAN can claim them.
    Asserted,
    /// Our own power driver commanded this very boot, or a pinned TPM key answered.
    Proven,
}

/// One agent session: one boot into the agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSession {
    /// Session id.
    pub id: String,
    /// Nonce of the boot token it redeemed. A second key for the same nonce is refused.
    pub nonce: String,
    /// When that token was issued, milliseconds since the epoch. An older token than this is refused.
    pub token_issued_at: i64,
    /// SHA-256 over both public keys, lower-case hexadecimal.
    pub thumbprint: String,
    /// Base64 Ed25519 public key.
    pub signing_key: String,
    /// Base64 X25519 public key.
    pub sealing_key: String,
    /// MAC it booted from.
    pub boot_mac: MacAddress,
    /// UUID its boot request named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<SystemUuid>,
    /// Address it came from.
    pub address: String,
    /// Netboot replica that its agent asks.
    pub replica: String,
    /// When it was opened.
    pub opened_at: Time,
    /// Agent version.
    pub agent_version: String,
    /// How sure its identity is.
    pub proof: IdentityProof,
}

/// An order that was handed out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedOrder {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: OrderKind,
    /// UID of the claim it serves; empty without one.
    #[serde(default)]
    pub claim_uid: String,
    /// The session it was handed to.
    pub session: String,
    /// When.
    pub accepted_at: Time,
    /// Whether that session was given the order's seed. It is given once, and noted before it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seed_served: bool,
}

/// What the boot server told a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BootAnswer {
    /// Load the agent.
    Agent,
    /// Boot the own disk.
    LocalDisk,
}

/// One boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootRecord {
    /// When it asked.
    pub time: Time,
    /// What it was told.
    pub answer: BootAnswer,
    /// Why, in a CamelCase word.
    pub reason: String,
    /// The instance whose disk it was told to boot; empty without one.
    #[serde(default)]
    pub instance_uid: String,
}

/// What the guest helper said when it registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestReport {
    /// UID of the instance it belongs to.
    pub instance_uid: String,
    /// Nonce of the token it redeemed.
    pub nonce: String,
    /// Base64 Ed25519 public key.
    pub signing_key: String,
    /// Host name of the installed system.
    pub hostname: String,
    /// Its addresses in CIDR form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Its boot id.
    pub boot_id: String,
    /// When it registered.
    pub registered_at: Time,
    /// When this boot of it began, where the helper told for how long it had been running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted_at: Option<Time>,
    /// Whether the boot before it was told to leave for the agent, and this one came instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub came_instead: bool,
    /// How many boots in a row came instead.
    #[serde(default, skip_serializing_if = "crate::timeline::is_zero")]
    pub times_instead: u32,
}
