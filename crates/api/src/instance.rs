//! BareMetalInstance: somebody asks for a machine with an operating system on it.

use std::collections::BTreeMap;

use agent_protocol::order::{ImageEvidence, Progress};
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, LabelSelector, Time},
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{LocalSecretKey, NetworkRef, Toleration};

/// A machine with an operating system, as somebody asks for it.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalInstance",
    plural = "baremetalinstances",
    singular = "baremetalinstance",
    shortname = "bmi",
    category = "baremetal",
    namespaced,
    status = "BareMetalInstanceStatus",
    derive = "PartialEq",
    doc = "A machine with an operating system on it, as a tenant asks for it.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"Image","type":"string","jsonPath":".spec.image"}"#,
    printcolumn = r#"{"name":"Hardware","type":"string","jsonPath":".spec.hardwareName"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.addresses[0]"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progressText"}"#,
    printcolumn = r#"{"name":"Evidence","type":"string","jsonPath":".status.evidence","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("!has(oldSelf.spec.hardwareName) || (has(self.spec.hardwareName) && self.spec.hardwareName == oldSelf.spec.hardwareName)")
        .message("spec.hardwareName cannot be changed once it is set: an instance never moves; delete it and create another"),
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalInstanceSpec {
    /// Name of the BareMetalImage. A change takes effect as long as no image was written and verified; after that, together with a change of `reinstallToken`.
    #[schemars(length(min = 1, max = 253))]
    pub image: String,
    /// Changing this text once an image stands on the machine writes `spec.image` over it, in place: the machine reboots, stays with this instance, keeps its addresses, and fetches only what
    /// differs. Everything that the system kept on its root disk is lost. Setting it together with the instance, or changing nothing but `spec.image`, does nothing to a machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub reinstall_token: Option<String>,
    /// What the machine must have at least: `cpu` (hardware threads), `memory`, `disk`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[x_kube(validation = Rule::new("self.all(k, k in ['cpu', 'memory', 'disk'])").message("requests may name cpu, memory and disk"))]
    #[schemars(extend("maxProperties" = 3))]
    pub requests: BTreeMap<String, Quantity>,
    /// Labels that the BareMetalHardware must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_selector: Option<LabelSelector>,
    /// Class that the BareMetalHardware must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub class: Option<String>,
    /// Taints it puts up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub tolerations: Vec<Toleration>,
    /// Host name. Left out: the name of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub hostname: Option<String>,
    /// SSH public keys for the image's default user, one per entry in `authorized_keys` form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 8192), regex(pattern = "^[^\\r\\n]+$")))]
    pub ssh_keys: Vec<String>,
    /// User data for cloud-init or a kin, in a Secret of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<LocalSecretKey>,
    /// Networks, in the order of the machine's NICs. Left out: the machine's own assignments; none at all: DHCP on the NIC it booted from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub networks: Vec<InstanceNetwork>,
    /// Whether the machine should be on.
    #[serde(default = "yes")]
    pub running: bool,
    /// While true, deleting the object waits.
    #[serde(default)]
    pub deletion_protection: bool,
    /// Whether the guest helper is installed by vendor data: it brings the machine back when the instance is deleted, without a BMC.
    #[serde(default = "yes")]
    pub guest_helper: bool,
    /// Whether a config drive is written.
    #[serde(default = "yes")]
    pub config_drive: bool,
    /// Ends a deletion although the machine does not answer. The machine is left Quarantined, never silently free.
    #[serde(default)]
    pub force_release: bool,
    /// The machine. Set once: by the scheduler, or beforehand by whoever wants a given machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub hardware_name: Option<String>,
}

fn yes() -> bool {
    true
}

/// One network of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceNetwork {
    /// Which network.
    pub network_ref: NetworkRef,
    /// Addresses wished for; left out: any free one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 45)))]
    pub addresses: Vec<String>,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum InstancePhase {
    /// Waiting for a machine.
    #[default]
    Pending,
    /// Has a machine; addresses, seed and order are being prepared.
    Provisioning,
    /// The image is being written.
    Imaging,
    /// Written and verified; told to boot.
    Booting,
    /// Runs, by the evidence in `status.evidence`.
    Running,
    /// Switched off on request.
    Stopped,
    /// Deleted; waiting for the machine to come back.
    Terminating,
    /// Deleted; the disk is being erased.
    Cleaning,
}

/// Why an instance is believed to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunningEvidence {
    /// The guest helper registered from the installed system.
    GuestReported,
    /// It was told to boot its disk, and has not asked again since.
    LocalBootObserved,
    /// It should be running by now; nothing was heard.
    Unconfirmed,
}

/// State of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalInstanceStatus {
    /// Where it is in its life.
    #[serde(default)]
    pub phase: InstancePhase,
    /// Why it waits, in one CamelCase word; empty when it does not.
    #[serde(default)]
    pub reason: String,
    /// The same in a sentence that names the remedy.
    #[serde(default)]
    pub message: String,
    /// Generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The machine's `claimRef` was seen to name this instance. From here on a deletion waits for the machine's release, and not before
    /// here is an image order issued.
    #[serde(default)]
    pub claimed: bool,
    /// Addresses in CIDR form; the first is the one to reach it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Progress of the present order: a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The same for people: `Writing 42%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_text: Option<String>,
    /// By what evidence it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<RunningEvidence>,
    /// Proof of the written image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageEvidence>,
    /// When each phase was entered, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub timeline: Vec<PhaseTime>,
    /// `Scheduled`, `AddressesReady`, `SeedReady`, `Imaged`, `Running`, `PowerCycleNeeded`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// When a phase was entered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseTime {
    /// Which phase.
    pub phase: InstancePhase,
    /// When.
    pub entered: Time,
}
