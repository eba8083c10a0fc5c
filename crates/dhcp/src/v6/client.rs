//! Who asks by DHCPv6.

use super::wire::{Datagram, mac_of};
use crate::arch::{BootClass, Firmware, architecture_in_class};
use std::net::Ipv6Addr;

/// A client that boots from the network, or one that only wants an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its Ethernet address: by the relay agent's word, else from its link-local address, else from its DUID (which may be another interface's).
    pub mac: Option<[u8; 6]>,
    /// Its UUID in the order it was sent in.
    pub machine_id: Option<[u8; 16]>,
    /// The class it asked with, and under whose number, if it wants to boot.
    pub class: Option<(u32, BootClass)>,
    /// What it is, if it wants to boot and says so.
    pub firmware: Option<Firmware>,
}

impl Client {
    /// Looks at a message that came from `source`.
    pub fn of(datagram: &Datagram<'_>, source: Ipv6Addr) -> Self {
        let message = &datagram.message;
        // The last relay agent in the list is the first one on the way.
        let (told, heard_from) = match datagram.relays.last() {
            Some(relay) => (relay.client_mac, relay.peer),
            None => (None, source),
        };
        let class = message
            .vendor_classes()
            .find_map(|(enterprise, text)| Some((enterprise, BootClass::of(text)?, text)));
        let firmware = if message.user_classes().any(|class| class == b"iPXE") {
            Some(Firmware::Ipxe)
        } else {
            class.and_then(|(_, class, text)| {
                let number = message.architectures().next().or_else(|| architecture_in_class(text))?;
                Some(Firmware::new(class, number))
            })
        };
        Self {
            mac: told.or_else(|| mac_of(heard_from)).or_else(|| message.duid_mac()),
            machine_id: message.duid_uuid(),
            class: class.map(|(enterprise, class, _)| (enterprise, class)),
            firmware,
        }
    }
}
