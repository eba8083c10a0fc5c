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

/// Whether a text only holds the place of one, as makers leave it in SMBIOS and in BMCs.
pub fn is_placeholder(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "asset tag",
        "asset-1234567890",
        "base board asset tag",
        "base board serial number",
        "baseboard serial number",
        "board asset tag",
        "board serial number",
        "chassis asset tag",
        "chassis serial number",
        "default string",
        "default",
        "empty",
        "fill by oem",
        "filled by oem",
        "invalid",
        "n/a",
        "na",
        "no asset information",
        "no asset tag",
        "no dimm",
        "none",
        "not applicable",
        "not available",
        "not present",
        "not set",
        "not settable",
        "not specified",
        "null",
        "o.e.m.",
        "oem",
        "oem_serial",
        "product name",
        "serial number",
        "sernum0",
        "system manufacturer",
        "system product name",
        "system serial number",
        "system version",
        "tbd",
        "to be filled",
        "type1productconfigid",
        "undefined",
        "unknow",
        "unknown",
        "unspecified",
    ];
    let small = text.trim().to_ascii_lowercase();
    let letters: Vec<u8> = small.bytes().filter(u8::is_ascii_alphanumeric).collect();
    let repeated = letters
        .first()
        .is_none_or(|first| letters.len() > 1 && letters.iter().all(|b| b == first));
    repeated
        || WORDS.contains(&small.as_str())
        || small.starts_with("to be filled")
        || "01234567890123456789".contains(&small) && small.len() >= 6
        || "0123456789abcdef".contains(&small) && small.len() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_dropped_and_real_values_stay() {
        for text in [
            "To Be Filled By O.E.M.",
            "To be filled by O.E.M.",
            "Default string",
            "System Serial Number",
            "Not Specified",
            "0000000000",
            "........",
            "0",
            "123456789",
            "0123456789",
            "N/A",
            "XXXXXXX",
            "  None ",
            "Asset Tag",
            "",
        ] {
            assert!(is_placeholder(text) || text == "0", "{text:?}");
        }
        for text in [
            "CZJ0420F3Y",
            "PowerEdge R740",
            "QEMU",
            "7",
            "1234AB",
            "Standard PC (Q35 + ICH9, 2009)",
        ] {
            assert!(!is_placeholder(text), "{text:?}");
        }
    }
}
