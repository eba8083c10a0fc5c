//! BareMetalHardwareClass: what holds for every machine of a class.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::idle::ClassIdle;

/// What holds for the machines whose `spec.class` is this object's name. A class needs no such object; without one its machines have the defaults.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalHardwareClass",
    plural = "baremetalhardwareclasses",
    singular = "baremetalhardwareclass",
    shortname = "bmhc",
    category = "baremetal",
    derive = "PartialEq",
    doc = "What holds for the machines of a class: what becomes of idle ones, and how many are switched on at once.",
    printcolumn = r#"{"name":"Idle","type":"string","jsonPath":".spec.idle.policy"}"#,
    printcolumn = r#"{"name":"Warm","type":"integer","jsonPath":".spec.idle.warm"}"#,
    printcolumn = r#"{"name":"Starts per minute","type":"integer","jsonPath":".spec.power.startsPerMinute"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalHardwareClassSpec {
    /// What becomes of machines that nobody needs. Left out: they stay in the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<ClassIdle>,
    /// How its machines are switched.
    #[serde(default)]
    pub power: ClassPower,
}

/// How the machines of a class are switched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassPower {
    /// So many of its machines are switched on, or off and on, in a minute; the others wait for their turn. Left out: no limit but the operator's for all machines and for a rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub starts_per_minute: Option<u32>,
    /// The same for those of its machines that stand in one rack, by their label `kube-baremetal.io/rack`, where it is fewer than the operator's limit for a rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub starts_per_minute_per_rack: Option<u32>,
}
