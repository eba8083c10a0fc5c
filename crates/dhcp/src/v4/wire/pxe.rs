//! The inside of option 43 between PXE clients and boot servers (PXE 2.1, tables 2-1 and 2-3), and what option 175 says.

use std::net::Ipv4Addr;

use super::{code::option, packet::Packet, relay::Suboptions};

/// PXE_DISCOVERY_CONTROL (6): no discovery, no menu; the boot file named in this packet is loaded at once.
pub const USE_BOOT_FILE: u8 = 8;

const DISCOVERY_CONTROL: u8 = 6;
const DISCOVERY_MULTICAST: u8 = 7;
const BOOT_SERVERS: u8 = 8;
const BOOT_MENU: u8 = 9;
const MENU_PROMPT: u8 = 10;
const BOOT_ITEM: u8 = 71;
const IPXE_HTTP: u8 = 0x13;

/// PXE_BOOT_ITEM (71): which boot server type a client asks for, and which of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootItem {
    /// Type of the boot server, as the boot menu listed it. 0 is the first.
    pub kind: u16,
    /// Layer: 0 the first file. The highest bit asks for credentials.
    pub layer: u16,
}

/// What is said in option 43.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PxeVendor<'p> {
    /// Suboption 6.
    pub discovery_control: Option<u8>,
    /// Suboption 7.
    pub discovery_multicast: Option<Ipv4Addr>,
    /// Suboption 8, as it is: type, count, addresses, and so on.
    pub boot_servers: Option<&'p [u8]>,
    /// Suboption 9, as it is: type, length, text, and so on.
    pub boot_menu: Option<&'p [u8]>,
    /// Suboption 10, as it is: seconds, then text.
    pub menu_prompt: Option<&'p [u8]>,
    /// Suboption 71.
    pub boot_item: Option<BootItem>,
}

impl<'p> PxeVendor<'p> {
    /// Reads the value of option 43. Whatever is not understood is left out.
    pub fn parse(value: &'p [u8]) -> Self {
        let mut vendor = Self::default();
        for (code, value) in (Suboptions { rest: value }) {
            match code {
                option::END => break,
                DISCOVERY_CONTROL => vendor.discovery_control = value.first().copied(),
                DISCOVERY_MULTICAST => vendor.discovery_multicast = value.first_chunk::<4>().map(|a| Ipv4Addr::from(*a)),
                BOOT_SERVERS => vendor.boot_servers = Some(value),
                BOOT_MENU => vendor.boot_menu = Some(value),
                MENU_PROMPT => vendor.menu_prompt = Some(value),
                BOOT_ITEM => {
                    vendor.boot_item = value.first_chunk::<4>().map(|[a, b, c, d]| BootItem {
                        kind: u16::from_be_bytes([*a, *b]),
                        layer: u16::from_be_bytes([*c, *d]),
                    });
                }
                _ => {}
            }
        }
        vendor
    }

    /// Appends the value of an option 43 that says this. A value of more than 255 bytes is split by the encoder, a suboption of more is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut put = |code: u8, value: &[u8]| {
            if let Ok(length) = u8::try_from(value.len()) {
                out.extend_from_slice(&[code, length]);
                out.extend_from_slice(value);
            }
        };
        if let Some(control) = self.discovery_control {
            put(DISCOVERY_CONTROL, &[control]);
        }
        if let Some(group) = self.discovery_multicast {
            put(DISCOVERY_MULTICAST, &group.octets());
        }
        for (code, value) in [
            (BOOT_SERVERS, self.boot_servers),
            (BOOT_MENU, self.boot_menu),
            (MENU_PROMPT, self.menu_prompt),
        ] {
            if let Some(value) = value {
                put(code, value);
            }
        }
        if let Some(item) = self.boot_item {
            let ([a, b], [c, d]) = (item.kind.to_be_bytes(), item.layer.to_be_bytes());
            put(BOOT_ITEM, &[a, b, c, d]);
        }
        out.push(option::END);
    }
}

impl Packet<'_> {
    /// Option 43 as PXE has it. Says nothing with a client of another vendor class: ask for [`Packet::vendor_class`] first.
    pub fn pxe_vendor(&self) -> PxeVendor<'_> {
        PxeVendor::parse(self.option(option::VENDOR).unwrap_or_default())
    }

    /// Whether option 175 says that this iPXE speaks HTTP; nothing where there is no such option.
    pub fn ipxe_has_http(&self) -> Option<bool> {
        let features = self.option(option::IPXE)?;
        Some(Suboptions { rest: features }.any(|(code, value)| code == IPXE_HTTP && value.first().is_some_and(|v| *v != 0)))
    }
}
