//! What SMBIOS says of a management controller: type 38 (IPMI system interface) and type 42 (host interface, DMTF DSP0134 and DSP0270).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_protocol::bmc::RedfishHostInterface;

use super::smbios::Structure;
use crate::text::{clean_bytes, guid};

/// An IPMI system interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SystemInterface {
    /// Its kind, where it is one of those that the specification names.
    pub(super) kind: Option<&'static str>,
    /// Major and minor version of IPMI.
    pub(super) version: Option<(u8, u8)>,
}

/// Type 38 (DSP0134, 7.39).
pub(super) fn ipmi(s: &Structure<'_>) -> Option<SystemInterface> {
    let kind = match s.byte(4)? {
        1 => Some("KCS"),
        2 => Some("SMIC"),
        3 => Some("BT"),
        4 => Some("SSIF"),
        _ => None,
    };
    let version = s.byte(5).map(|v| (v >> 4, v & 0x0f)).filter(|v| *v != (0, 0));
    Some(SystemInterface { kind, version })
}

/// Type 42: a network host interface (0x40) with a Redfish over IP record (4), and what that says.
pub(super) fn redfish(s: &Structure<'_>) -> Option<RedfishHostInterface> {
    if s.byte(4)? != 0x40 {
        return None;
    }
    let specific = usize::from(s.byte(5)?);
    let device = s.byte(6).filter(|_| specific > 0).and_then(|device| match device {
        2 | 4 => Some("USB"),
        3 | 5 => Some("PCI"),
        _ => None,
    });
    let (count, mut records) = s.body.get(6 + specific..)?.split_first()?;
    for _ in 0..*count {
        let [kind, length, ..] = *records else { return None };
        let data = records.get(2..2 + usize::from(length))?;
        if kind == 4 {
            return Some(RedfishHostInterface {
                device: device.map(str::to_owned),
                ..service(data)
            });
        }
        records = &records[2 + usize::from(length)..];
    }
    None
}

/// The record's data (DSP0270, table 2). A short one tells what it has room for.
fn service(data: &[u8]) -> RedfishHostInterface {
    let le16 = |at: usize| Some(u16::from_le_bytes(*data.get(at..)?.first_chunk()?));
    let vlan = data.get(86..).and_then(|d| d.first_chunk()).map(|d| u32::from_le_bytes(*d));
    let hostname = data.get(90).and_then(|length| data.get(91..91 + usize::from(*length)));
    RedfishHostInterface {
        device: None,
        address: address(data, 51),
        port: le16(84).filter(|port| *port != 0),
        vlan: vlan.and_then(|v| u16::try_from(v).ok()).filter(|v| (1..=4094).contains(v)),
        hostname: hostname.and_then(clean_bytes),
        service_uuid: data.get(..16).and_then(guid),
        // Of the ways in which the machine gets an address, one names it: it is fixed.
        host_address: data.get(16).filter(|how| **how == 1).and_then(|_| address(data, 17)),
    }
}

/// An address behind its format.
fn address(data: &[u8], format: usize) -> Option<String> {
    let address = data.get(format + 1..)?.first_chunk::<16>()?;
    let address: IpAddr = match data.get(format)? {
        1 => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
        2 => Ipv6Addr::from(*address).into(),
        _ => return None,
    };
    (!address.is_unspecified()).then(|| address.to_string())
}
