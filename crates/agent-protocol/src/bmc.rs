//! A baseboard management controller as its own machine sees it: what the agent read through the machine's own interfaces, on no network.
//!
//! Numbers and their meanings are those of the IPMI specification, version 2.0 revision 1.1; the host interface is that of DMTF DSP0270.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::MacAddress;

/// Most channels of one controller: the specification has numbers for eleven.
pub const MAX_CHANNELS: usize = 11;
/// Most IPv6 addresses of one channel that are told.
pub const MAX_IPV6: usize = 8;
/// Most cipher suites of one channel that are told.
pub const MAX_CIPHER_SUITES: usize = 32;

/// A baseboard management controller seen from inside: SMBIOS types 38 and 42, and what the controller said through the kernel's IPMI device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bmc {
    /// `ipmi` or `redfish-host-interface`.
    pub interface: String,
    /// Address on a network, without prefix: that of the first LAN channel that has one. An agent from before channels were read tells the address of the Redfish host interface here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How the machine speaks with it, as SMBIOS says: `KCS`, `SMIC`, `BT`, `SSIF`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_interface: Option<String>,
    /// Who made it: a private enterprise number of IANA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer_id: Option<u32>,
    /// Which product of that manufacturer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_id: Option<u32>,
    /// Version of its firmware, `2.10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// Version of IPMI that it speaks, `2.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipmi_version: Option<String>,
    /// The system's GUID as the controller knows it; its own where it knows no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// Its LAN channels, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 11))]
    pub channels: Vec<BmcChannel>,
    /// A Redfish service that this machine reaches by a network of its own with the controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redfish: Option<RedfishHostInterface>,
    /// What could not be read, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// One LAN channel of a controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BmcChannel {
    /// Its number.
    pub number: u8,
    /// Its MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Its IPv4 address in CIDR form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where that comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<AddressSource>,
    /// Default gateway for IPv4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// VLAN that it tags its packets with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Its active IPv6 addresses in CIDR form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ipv6: Vec<String>,
    /// Cipher suites of RMCP+ sessions that it offers, by number (table 22-20), where it lists them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub cipher_suites: Vec<u8>,
}

/// Where a channel has its IPv4 address from (table 23-4, parameter 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum AddressSource {
    /// Nobody says.
    Unspecified,
    /// Set by hand.
    Static,
    /// DHCP.
    DHCP,
    /// Loaded by the machine's firmware.
    Firmware,
    /// Another protocol.
    Other,
}

/// The Redfish service behind a network host interface (SMBIOS type 42, record `Redfish over IP`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedfishHostInterface {
    /// `USB` or `PCI`, where it is one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The service's address on that interface: often a link-local one, which nobody else reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// VLAN of that interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// UUID of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_uuid: Option<String>,
    /// The address that this machine is to have there, where the table gives it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is too much, and the field that is named.
    type Field = (fn(&mut Bmc), &'static str);
    use crate::{
        inventory::Inventory,
        limits::{Bounded, LimitError},
    };

    #[test]
    fn what_an_agent_from_before_says_is_still_read_and_what_is_not_known_is_not_sent() {
        let old: Bmc = serde_json::from_str(r#"{"interface":"ipmi","address":"169.254.0.17"}"#).unwrap();
        assert_eq!((old.address.as_deref(), old.channels.len()), (Some("169.254.0.17"), 0));
        let least = Bmc {
            interface: "ipmi".to_owned(),
            ..Bmc::default()
        };
        assert_eq!(serde_json::to_string(&least).unwrap(), r#"{"interface":"ipmi"}"#);
    }

    #[test]
    fn a_stranger_cannot_send_more_than_a_controller_has() {
        let with = |change: fn(&mut Bmc)| {
            let mut bmc = Bmc {
                interface: "ipmi".to_owned(),
                channels: vec![BmcChannel::default(); MAX_CHANNELS],
                redfish: Some(RedfishHostInterface::default()),
                ..Bmc::default()
            };
            change(&mut bmc);
            let inventory = Inventory {
                bmc: Some(bmc),
                ..Inventory::default()
            };
            match inventory.check_bounds() {
                Err(LimitError::Field { field, .. }) => Some(field),
                Err(other) => panic!("{other}"),
                Ok(()) => None,
            }
        };
        assert_eq!(with(|_| {}), None);
        assert_eq!(
            with(|b| b.channels.push(BmcChannel::default())).as_deref(),
            Some("inventory.bmc.channels")
        );
        let fields: [Field; 5] = [
            (
                |b| b.channels[3].ipv6 = vec![String::new(); MAX_IPV6 + 1],
                "inventory.bmc.channels[3].ipv6",
            ),
            (
                |b| b.channels[0].cipher_suites = vec![0; MAX_CIPHER_SUITES + 1],
                "inventory.bmc.channels[0].cipherSuites",
            ),
            (
                |b| b.channels[10].gateway = Some("x".repeat(257)),
                "inventory.bmc.channels[10].gateway",
            ),
            (|b| b.guid = Some("a\nb".to_owned()), "inventory.bmc.guid"),
            (
                |b| b.redfish.as_mut().unwrap().hostname = Some("x".repeat(257)),
                "inventory.bmc.redfish.hostname",
            ),
        ];
        for (change, field) in fields {
            assert_eq!(with(change).as_deref(), Some(field));
        }
    }
}
