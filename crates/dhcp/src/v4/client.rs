//! Who asks: what a packet says about the machine, whatever is answered.

use super::wire::{Packet, code::option};
use crate::arch::{BootClass, Firmware, architecture_in_class};

/// First three bytes of the MAC addresses of Raspberry Pis.
const RASPBERRY_PI: [[u8; 3]; 6] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
];

/// A client that boots from the network, or one that only wants an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Its UUID in the order it was sent in, which firmware does not agree about.
    pub machine_id: Option<[u8; 16]>,
    /// The class it asked with, if it wants to boot.
    pub class: Option<BootClass>,
    /// What it is, if it wants to boot and says so.
    pub firmware: Option<Firmware>,
}

impl Client {
    /// Looks at a request.
    pub fn of(packet: &Packet<'_>) -> Self {
        let vendor_class = packet.vendor_class().unwrap_or_default();
        let mut client = Self {
            mac: packet.mac(),
            machine_id: packet.machine_id(),
            class: BootClass::of(vendor_class),
            firmware: None,
        };
        if packet.user_classes().any(|class| class == b"iPXE") || packet.option(option::IPXE).is_some() {
            // Its class is of no use for telling iPXE from the firmware that started it; that is what made loops.
            client.class = client.class.or(Some(BootClass::Pxe));
            client.firmware = Some(Firmware::Ipxe);
        } else if let Some(class) = client.class {
            let mut known = None;
            for number in packet.architectures() {
                let firmware = Firmware::new(class, number);
                // The first one that means something to us; the list is by preference (RFC 4578, 2.1).
                match firmware {
                    Firmware::Other(_) => known = known.or(Some(firmware)),
                    _ => {
                        known = Some(firmware);
                        break;
                    }
                }
            }
            let firmware = known.or_else(|| architecture_in_class(vendor_class).map(|number| Firmware::new(class, number)));
            client.firmware = match firmware {
                Some(Firmware::Bios) | None if client.is_raspberry_pi() => Some(Firmware::RaspberryPi),
                // PXE before RFC 4578 was x86 BIOS.
                None if class == BootClass::Pxe => Some(Firmware::Bios),
                other => other,
            };
        }
        client
    }

    /// `RPi4` or `RPi5` at the beginning of its identifier, or its manufacturer's MAC address. There is no BIOS on one.
    fn is_raspberry_pi(&self) -> bool {
        let by_id = self.machine_id.is_some_and(|id| id.starts_with(b"RPi"));
        by_id || self.mac.is_some_and(|mac| RASPBERRY_PI.iter().any(|oui| mac.starts_with(oui)))
    }
}
