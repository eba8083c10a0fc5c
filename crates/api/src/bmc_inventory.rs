//! What a machine's BMC says that it is: an inventory without booting.

use agent_protocol::{
    disk::DiskKind,
    identity::MacAddress,
    inventory::{Cpu, Memory, SystemIdentity},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// By what a BMC told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BmcInventorySource {
    /// By its Redfish service.
    Redfish,
}

/// What a machine's BMC says of it, in the shape of an agent's inventory as far as a BMC knows it.
///
/// It is the weaker word: once the machine's agent has reported, that counts, and of this only what names the machine is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcInventory {
    /// By what it was told.
    pub source: BmcInventorySource,
    /// The BMC that was asked: `spec.power.redfish.address` at that time.
    pub address: String,
    /// Which of its machines: `spec.power.redfish.system` at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// When it was read.
    pub read_at: Time,
    /// Whether only what names the machine is here, because its agent tells the rest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub identity_only: bool,
    /// Names and numbers. `serial` is that of the system; of the board a BMC says nothing here.
    pub system: SystemIdentity,
    /// Processors. What is 0, or empty, was not told.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory. Of 0 bytes it was not told.
    #[serde(default)]
    pub memory: Memory,
    /// Network interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub nics: Vec<BmcNic>,
    /// Drives. Behind a RAID controller a system sees others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub drives: Vec<BmcDrive>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub missing: Vec<String>,
}

/// A network interface, as a BMC tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcNic {
    /// What the BMC calls it.
    pub name: String,
    /// Its permanent MAC address, else the present one.
    pub mac: MacAddress,
    /// Whether there is a carrier, where the BMC tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// Link speed in Mbit/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
}

/// A drive, as a BMC tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcDrive {
    /// What the BMC calls it.
    pub name: String,
    /// Serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// World Wide Name, as the BMC writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Size in bytes; 0: it was not told.
    pub size_bytes: u64,
    /// How it keeps data.
    pub kind: DiskKind,
    /// Transport in lower case: `sata`, `sas`, `nvme`, ...; empty: it was not told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub transport: String,
}
