//! What a machine says of itself when it registers. Read-only observation; nothing here is proof.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    bmc::Bmc,
    disk::Disk,
    identity::{MacAddress, SystemUuid},
    link::Connection,
};

/// Everything an agent found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    /// SMBIOS identity.
    pub system: SystemIdentity,
    /// Processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Disks, sorted by kernel name.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Network interfaces, sorted by kernel name.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// How the agent reached its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// PCI devices counted by class.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pci: Vec<PciClass>,
    /// Display and 3D controllers that are more than a BMC's frame buffer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<PciDevice>,
    /// Firmware mode and Secure Boot.
    pub firmware: Firmware,
    /// TPM, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// BMC, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<Bmc>,
}

/// SMBIOS types 0 to 3 (DMTF DSP0134). Placeholders such as "To Be Filled By O.E.M." are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemIdentity {
    /// System UUID as firmware shows it; may be bogus (see [`SystemUuid::is_usable`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<SystemUuid>,
    /// System manufacturer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// System product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// System serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Baseboard serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_serial: Option<String>,
    /// Chassis asset tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asset_tag: Option<String>,
    /// Firmware vendor, version and date in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bios: Option<String>,
}

/// Processors of the whole machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Go's name of the architecture, as Kubernetes labels use it: `amd64`, `arm64`.
    pub architecture: String,
    /// Populated sockets.
    pub sockets: u32,
    /// Physical cores in all.
    pub cores: u32,
    /// Hardware threads in all: what a request for `cpu` is measured against.
    pub threads: u32,
    /// Model name of the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Flags worth choosing by: `vmx`, `svm`, `avx2`, `avx512f`, `aes`, `sha_ni`, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
}

/// Memory of the whole machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Installed bytes: the sum of the DIMMs where SMBIOS tells, else what the kernel sees.
    pub bytes: u64,
    /// SMBIOS type 17 entries that hold a module.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dimms: Vec<Dimm>,
}

/// One memory module (SMBIOS type 17).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dimm {
    /// Slot as the board labels it.
    pub locator: String,
    /// Size in bytes.
    pub bytes: u64,
    /// `DDR4`, `DDR5`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Configured speed in MT/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mega_transfers: Option<u32>,
    /// Module serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

/// One physical network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// The kernel's name at this boot.
    pub name: String,
    /// Permanent MAC (ETHTOOL_GPERMADDR), else the present one.
    pub mac: MacAddress,
    /// Kernel driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Link speed in Mbit/s, where the link is up and tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_mbps: Option<u32>,
    /// Whether there is a carrier.
    pub link: bool,
    /// Whether this is the interface the machine booted from.
    pub boot: bool,
    /// PCI address and ids, `0000:00:03.0 1af4:1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
    /// Addresses in CIDR form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Switch and port as LLDP says, where it was heard: `switch1 port 14`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch_port: Option<String>,
}

/// Number of PCI devices of one class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PciClass {
    /// Class and subclass in hexadecimal, `0200`.
    pub class: String,
    /// How many.
    pub count: u32,
}

/// One PCI device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PciDevice {
    /// Address, `0000:01:00.0`.
    pub address: String,
    /// Vendor and device id, `10de:2204`.
    pub id: String,
    /// Driver, where one is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

/// How the firmware started us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FirmwareMode {
    /// Legacy BIOS or CSM: what says nothing of UEFI.
    #[default]
    BIOS,
    /// UEFI.
    UEFI,
}

/// Firmware state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Firmware {
    /// BIOS or UEFI.
    pub mode: FirmwareMode,
    /// UEFI `SecureBoot` variable; absent under BIOS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
}

/// A TPM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tpm {
    /// `1.2` or `2.0`.
    pub version: String,
}
