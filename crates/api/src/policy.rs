//! BareMetalDiscoveryPolicy: which machines are accepted, and how.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bmc::PolicyPower,
    boot_network::BootNetwork,
    common::{NetworkRef, Taint},
    gate::Gate,
};

/// A rule for machines that nobody accepted yet.
///
/// Policies are tried by falling priority, then by name; the first whose expression is true decides.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalDiscoveryPolicy",
    plural = "baremetaldiscoverypolicies",
    singular = "baremetaldiscoverypolicy",
    shortname = "bmdp",
    category = "baremetal",
    derive = "PartialEq",
    doc = "A CEL rule over an inventory: accept or hold a machine, label it, assign networks, and whether foreign data may be erased (default no).",
    printcolumn = r#"{"name":"Priority","type":"integer","jsonPath":".spec.priority"}"#,
    printcolumn = r#"{"name":"Action","type":"string","jsonPath":".spec.action"}"#,
    printcolumn = r#"{"name":"Erase foreign data","type":"boolean","jsonPath":".spec.eraseForeignData"}"#,
    printcolumn = r#"{"name":"When","type":"string","jsonPath":".spec.when","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalDiscoveryPolicySpec {
    /// Higher is tried earlier.
    #[serde(default)]
    pub priority: i32,
    /// CEL over `inventory` (as in the BareMetalDiscovery's status) that must give a boolean, for example
    /// `inventory.memory.bytes >= 8589934592 && inventory.system.vendor == "Dell Inc."`. An optional field must be asked for with `has()`.
    #[schemars(length(min = 1, max = 4096))]
    pub when: String,
    /// What to do.
    #[serde(default)]
    pub action: PolicyAction,
    /// Labels for the BareMetalHardware.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Taints for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub taints: Vec<Taint>,
    /// Class for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub class: Option<String>,
    /// Network into which the NIC it booted from is plugged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_ref: Option<NetworkRef>,
    /// How the agent goes on after the machine's firmware, from its next boot on, for the BareMetalHardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_network: Option<BootNetwork>,
    /// How the machine is switched, for the BareMetalHardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PolicyPower>,
    /// Gates for the BareMetalHardware.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["conditionType"]))]
    pub gates: Vec<Gate>,
    /// Whether what the root disk holds at acceptance may be erased. Never covers removable, remote or protected disks, nor data that appears later.
    #[serde(default)]
    pub erase_foreign_data: bool,
    /// While true, a machine that it matches waits. Set while objects are moved to another API; `kube-baremetal resume` ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// What to do with a machine that matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PolicyAction {
    /// Create its BareMetalHardware.
    #[default]
    Accept,
    /// Leave it to a person.
    Hold,
}
