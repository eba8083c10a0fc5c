//! BareMetalHardware: one accepted machine, and what was decided about it.

use std::collections::BTreeMap;

use agent_protocol::{
    disk::{DiskIdentity, DiskKind},
    identity::MacAddress,
    order::{BootOrder, EraseEvidence, EraseMethod, Order},
};
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, Time},
    },
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bmc::{BmcUserStatus, FromBmc},
    bmc_inventory::BmcInventory,
    boot_loader::{BootLoader, MAX_BOOT_LOADERS},
    boot_network::BootNetwork,
    common::{NetworkRef, Taint},
    gate::Gate,
    idle::{IdlePolicy, IdleStatus},
    power::{PowerSpec, PowerStatus},
};

/// One accepted machine.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalHardware",
    plural = "baremetalhardware",
    singular = "baremetalhardware",
    shortname = "bmh",
    category = "baremetal",
    status = "BareMetalHardwareStatus",
    derive = "PartialEq",
    doc = "One accepted machine: which one it is, what may be done with it, who claims it, and what state it is in.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.reason"}"#,
    printcolumn = r#"{"name":"CPUs","type":"string","jsonPath":".status.capacity.cpu"}"#,
    printcolumn = r#"{"name":"Memory","type":"string","jsonPath":".status.capacity.memory"}"#,
    printcolumn = r#"{"name":"Disk","type":"string","jsonPath":".status.capacity.disk"}"#,
    printcolumn = r#"{"name":"Instance","type":"string","jsonPath":".spec.claimRef.name"}"#,
    printcolumn = r#"{"name":"Namespace","type":"string","jsonPath":".spec.claimRef.namespace","priority":1}"#,
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.class","priority":1}"#,
    printcolumn = r#"{"name":"Erase","type":"string","jsonPath":".status.lastErase.strength","priority":1}"#,
    printcolumn = r#"{"name":"Power","type":"string","jsonPath":".status.power.state","priority":1}"#,
    printcolumn = r#"{"name":"Paused","type":"boolean","jsonPath":".spec.paused"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.idlePolicy) || self.idlePolicy != 'PowerOff' || has(self.powerFromBmc) || has(self.power) && !has(self.power.manual)").message("idlePolicy PowerOff needs a driver that switches the machine on again: name it in spec.power (manual is a person)"))]
pub struct BareMetalHardwareSpec {
    /// Name of the BareMetalDiscovery of this machine.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("discoveryName is immutable: delete this object and create one for the other machine"))]
    pub discovery_name: String,
    /// Which disk takes the operating system. Left out: the smallest disk that is neither removable, remote, read-only nor protected; NVMe and SSD before HDD at the same size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<DiskHint>,
    /// Disks that are never touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub protected_disks: Vec<DiskIdentity>,
    /// Foreign data on the root disk that may be erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase_consent: Option<EraseConsent>,
    /// How to erase.
    #[serde(default)]
    pub erase_method: EraseMethodChoice,
    /// NICs and the networks they are plugged into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub nics: Vec<NicAssignment>,
    /// How the agent goes on after the machine's firmware. Left out: as the network says that firmware booted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_network: Option<BootNetwork>,
    /// What this machine's firmware is given to boot, where it is not what its network says or netboot would choose. It holds on every network, for the MAC addresses in the machine's inventory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_BOOT_LOADERS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["firmware"]))]
    pub boot_loaders: Vec<BootLoader>,
    /// Which of its boot entries the machine's firmware tries first once an image was written or its disk erased. The agent sets it under UEFI; under BIOS a person does (condition
    /// `BootOrder`). Left out: the network first after an image, and nothing is touched after an erase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<BootOrder>,
    /// By what the machine is switched. Left out: its guest helper or a person does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerSpec>,
    /// What becomes of the machine while nobody needs it. Left out: what its class says, else it stays in the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_policy: Option<IdlePolicy>,
    /// Sets `power` up from the BMC that the agent finds, where it is left out: a user is made in the BMC, its password kept in a Secret of the operator's namespace that `spec.power` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_from_bmc: Option<FromBmc>,
    /// Keeps instances away unless they tolerate it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub taints: Vec<Taint>,
    /// A size or purpose that instances can ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub class: Option<String>,
    /// Steps that wait for other controllers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["conditionType"]))]
    pub gates: Vec<Gate>,
    /// Take the machine out of service: no new instance, no order; a machine in use stays in use.
    #[serde(default)]
    pub maintenance: bool,
    /// While true, nothing is decided about the machine: no order is given or handed out, no claim taken or ended. What is seen of it is still written down, an order that was
    /// handed out before is finished, and a machine in use boots its own disk as ever. Set while objects are moved to another API; `kube-baremetal resume` ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Changing this text asks for a new cleaning of a Quarantined machine, or for another try of an order that was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub retry_token: Option<String>,
    /// Who has the machine. Written by the operator; restored by it when a replace or a restored backup lost it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_ref: Option<ClaimRef>,
}

/// Chooses one disk. Every part that is present must match; more than one match is an error, not a guess.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskHint {
    /// World Wide Name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub wwn: Option<String>,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub serial: Option<String>,
    /// Model, whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub model: Option<String>,
    /// Place, in udev's `by-path` form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub by_path: Option<String>,
    /// Kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<DiskKind>,
    /// Smallest size in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_size_bytes: Option<u64>,
}

/// What foreign data may be erased.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EraseConsent {
    /// Fingerprints of the contents that are given up, as the condition `ForeignData` and the BareMetalDiscovery show them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub fingerprints: Vec<String>,
    /// Whatever the root disk held when the machine was accepted, an installation of ours excepted. Set by a policy that allows it where no root disk could be chosen yet (else it names the
    /// fingerprint); never covers data that appeared later.
    #[serde(default)]
    pub at_acceptance: bool,
}

/// How to erase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EraseMethodChoice {
    /// Discard where it is proven to work, else overwrite.
    #[default]
    Quick,
    /// Overwrite every byte.
    Overwrite,
}

impl From<EraseMethodChoice> for EraseMethod {
    fn from(choice: EraseMethodChoice) -> Self {
        match choice {
            EraseMethodChoice::Quick => Self::Quick,
            EraseMethodChoice::Overwrite => Self::Overwrite,
        }
    }
}

/// One NIC and its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NicAssignment {
    /// Permanent MAC.
    pub mac: MacAddress,
    /// The network it is plugged into.
    pub network_ref: NetworkRef,
}

/// The instance that has a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// UID by which the system on the disk knows the instance, where that is another one: the instance was moved to another API or restored from a backup, and has a new one. It stands on
    /// the disk's marker and in the guest helper's token, and stays the same over any number of moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation_uid: Option<String>,
}

impl ClaimRef {
    /// As an event's related object.
    pub fn object_reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some(format!("{}/{}", crate::GROUP, crate::VERSION)),
            kind: Some("BareMetalInstance".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum HardwarePhase {
    /// Accepted; nothing decided yet.
    #[default]
    Discovered,
    /// Its inventory is being read, or its root disk is being chosen.
    Inspecting,
    /// Its root disk is being erased.
    Cleaning,
    /// Free.
    Ready,
    /// Claimed; addresses and seed are being prepared.
    Reserved,
    /// An image is being written.
    Provisioning,
    /// An instance runs on it, or was told to boot.
    InUse,
    /// Its instance is gone; waiting for the machine to come back, then erasing.
    Releasing,
    /// Something could not be proven; a person decides.
    Quarantined,
    /// Taken out of service by a person.
    Maintenance,
}

/// What was decided about a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalHardwareStatus {
    /// Where it is in its life.
    #[serde(default)]
    pub phase: HardwarePhase,
    /// Why it waits, in one CamelCase word; empty when it does not.
    #[serde(default)]
    pub reason: String,
    /// The same in a sentence that names the remedy.
    #[serde(default)]
    pub message: String,
    /// When the phase was entered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// Generation of the spec that this status reflects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `cpu` (threads), `memory`, `disk` (root disk), as an instance can request them. Before the agent has reported: as far as the BMC tells, with its smallest drive for a disk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, Quantity>,
    /// The chosen root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_disk: Option<SelectedDisk>,
    /// Fingerprint of what the root disk held when the machine was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_contents: Option<String>,
    /// UID of the claim that this status reflects; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_uid: Option<String>,
    /// Whether an image order was ever issued for that claim: from then on the disk may hold its data.
    #[serde(default)]
    pub written: bool,
    /// The verified installation on the root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed: Option<InstalledImage>,
    /// The installation that is being written over in place, because its instance asked for that. It counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacing: Option<InstalledImage>,
    /// The instance's `spec.reinstallToken` that was acted on, or that its first image came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_reinstall_token: Option<String>,
    /// The instance's generation at that time: an older view of it asks for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_reinstall_generation: Option<i64>,
    /// Whether the machine should be off, because its instance says `running: false`.
    #[serde(default)]
    pub power_off: bool,
    /// What was done about its power; only with `spec.power`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerStatus>,
    /// That it was switched off because nobody needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleStatus>,
    /// The user that the agent is asked to make in the BMC; only until `spec.power` is set from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc_user: Option<BmcUserStatus>,
    /// What its BMC says that the machine is; only with `spec.power.redfish`. The agent's inventory, in the BareMetalDiscovery, counts once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc_inventory: Option<BmcInventory>,
    /// UIDs of the claims released last, newest last. A released claim is never taken up again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub released_claims: Vec<String>,
    /// The order in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Grows with each order; part of its id.
    #[serde(default)]
    pub order_sequence: u64,
    /// Consecutive failures of the present kind of order.
    #[serde(default)]
    pub order_failures: u32,
    /// Not before this time is a failed order tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Time>,
    /// `spec.retryToken` that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_retry_token: Option<String>,
    /// Proof of the latest erase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_erase: Option<EraseEvidence>,
    /// When that erase was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_erase_time: Option<Time>,
    /// `Accepted`, `Inspected`, `Ready`, `ForeignData`, `OrderFailed`, `PowerCycleNeeded`, `AgentConnected`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The disk that takes the operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelectedDisk {
    /// What names it.
    pub identity: DiskIdentity,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector size in bytes.
    pub logical_sector_bytes: u32,
}

/// How it is known that an image stands on a disk, whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum InstalledEvidence {
    /// The order's result said so, with read-back evidence.
    OrderResult,
    /// The marker of a finished installation was found on the disk.
    DiskMarker,
    /// The installed system's guest helper showed the token that was written for this claim.
    GuestReport,
}

/// A verified installation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstalledImage {
    /// UID of the claim it was written for.
    pub claim_uid: String,
    /// The order that wrote it; empty where nothing tells.
    pub order_id: String,
    /// Digest of the image as served; empty where nothing tells.
    pub image_digest: String,
    /// How it is known.
    pub evidence: InstalledEvidence,
    /// When it became known.
    pub since: Time,
}
