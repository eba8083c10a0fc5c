//! The client's side of one question: a DHCPDISCOVER or DHCPREQUEST as firmware or a machine sends it, for whoever has to know which servers answer, and what.
//!
//! This is no client: it keeps no lease and no time. What comes back is read with [`Packet`](super::wire::Packet).

use std::net::Ipv4Addr;

use super::wire::{MessageType, code::option};
use crate::arch::BootClass;

/// UUID (option 97) of who asks for the sake of asking, so that nobody takes it for a machine that boots.
pub const PROBER: [u8; 16] = *b"kube-baremetal-?";

/// The magic cookie (RFC 2131, 3).
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Bytes of a BOOTP message (RFC 951), which some relay agents insist on.
const SHORTEST: usize = 300;
/// What firmware asks for (PXE 2.1, table 2-1).
const WANTED: [u8; 13] = [
    option::SUBNET_MASK,
    option::ROUTER,
    option::DNS,
    option::MTU,
    option::VENDOR,
    option::LEASE_TIME,
    option::SERVER_ID,
    option::VENDOR_CLASS,
    option::TFTP_SERVER,
    option::BOOT_FILE,
    option::MACHINE_ID,
    128,
    135,
];

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// DISCOVER or REQUEST.
    pub kind: MessageType,
    /// By which the answers are known.
    pub xid: u32,
    /// The client's Ethernet address.
    pub mac: [u8; 6],
    /// Its UUID (option 97).
    pub machine_id: Option<[u8; 16]>,
    /// What it boots by, and its architecture (options 60 and 93). Without it, it asks for an address alone.
    pub boot: Option<(BootClass, u16)>,
    /// Whether it says that it is iPXE (option 77).
    pub ipxe: bool,
    /// The address that it has.
    pub ciaddr: Ipv4Addr,
    /// The address that it asks for (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server that it asks (option 54).
    pub server: Option<Ipv4Addr>,
}

impl Probe {
    /// A DISCOVER of somebody who wants nothing in particular.
    pub fn discover(xid: u32, mac: [u8; 6]) -> Self {
        Self {
            kind: MessageType::Discover,
            xid,
            mac,
            machine_id: None,
            boot: None,
            ipxe: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
        }
    }

    /// The datagram. Answers are asked for by broadcast, because no card listens to a MAC address that is made up.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 236];
        // BOOTREQUEST, Ethernet, addresses of six bytes.
        out[..3].copy_from_slice(&[1, 1, 6]);
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[10] = 0x80;
        out[12..16].copy_from_slice(&self.ciaddr.octets());
        out[28..34].copy_from_slice(&self.mac);
        out.extend_from_slice(&COOKIE);
        let mut put = |code: u8, value: &[u8]| {
            // Every value here is shorter than 256 bytes.
            out.extend_from_slice(&[code, value.len() as u8]);
            out.extend_from_slice(value);
        };
        put(option::MESSAGE_TYPE, &[self.kind as u8]);
        put(option::MAX_SIZE, &1472u16.to_be_bytes());
        if let Some(address) = self.requested {
            put(option::REQUESTED_ADDRESS, &address.octets());
        }
        if let Some(server) = self.server {
            put(option::SERVER_ID, &server.octets());
        }
        put(option::PARAMETER_LIST, &WANTED);
        if let Some(id) = self.machine_id {
            let mut value = [0; 17];
            value[1..].copy_from_slice(&id);
            put(option::MACHINE_ID, &value);
        }
        if let Some((class, architecture)) = self.boot {
            put(option::ARCHITECTURE, &architecture.to_be_bytes());
            // The network interface is one of UNDI 3.16, as in EDK2.
            put(94, &[1, 3, 16]);
            let name = String::from_utf8_lossy(class.name());
            put(
                option::VENDOR_CLASS,
                format!("{name}:Arch:{architecture:05}:UNDI:003016").as_bytes(),
            );
        }
        if self.ipxe {
            put(option::USER_CLASS, b"iPXE");
        }
        out.push(option::END);
        out.resize(out.len().max(SHORTEST), option::PAD);
        out
    }
}

#[cfg(test)]
mod tests {
    use dhcproto::{Decodable, Decoder, v4};

    use super::*;
    use crate::{
        arch::Firmware,
        v4::{Client, wire::Packet},
    };

    #[test]
    fn what_is_asked_is_understood_by_us_and_by_another_library() {
        let probe = Probe {
            kind: MessageType::Request,
            machine_id: Some([7; 16]),
            boot: Some((BootClass::Pxe, 7)),
            ciaddr: Ipv4Addr::new(192, 0, 2, 9),
            requested: Some(Ipv4Addr::new(192, 0, 2, 10)),
            server: Some(Ipv4Addr::new(192, 0, 2, 1)),
            ..Probe::discover(0xdead_beef, [2, 0, 0, 0, 0, 1])
        };
        let bytes = probe.bytes();
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.is_request() && packet.wants_broadcast());
        assert_eq!((packet.xid(), packet.ciaddr()), (0xdead_beef, probe.ciaddr));
        assert_eq!((packet.requested_address(), packet.server_id()), (probe.requested, probe.server));
        let client = Client::of(&packet);
        assert_eq!((client.mac, client.machine_id), (Some(probe.mac), probe.machine_id));
        assert_eq!(client.firmware, Some(Firmware::UefiX64));
        let theirs = v4::Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!(theirs.opts().msg_type(), Some(v4::MessageType::Request));
        assert_eq!(theirs.chaddr(), probe.mac);
        let ipxe = Probe {
            ipxe: true,
            ..Probe::discover(1, probe.mac)
        };
        let bytes = ipxe.bytes();
        assert_eq!(Client::of(&Packet::parse(&bytes).unwrap()).firmware, Some(Firmware::Ipxe));
        let plain = Probe::discover(1, probe.mac).bytes();
        assert_eq!(Client::of(&Packet::parse(&plain).unwrap()).class, None);
        assert!(plain.len() >= SHORTEST);
    }
}
