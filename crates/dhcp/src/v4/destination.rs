//! Where a reply goes (RFC 2131, 4.1), and where a request came from.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::wire::{CLIENT_PORT, MessageType, PXE_PORT, Packet, SERVER_PORT};

/// How a packet reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Our address on the interface it came by. It is the server identifier of what we answer.
    pub local: Ipv4Addr,
    /// Our port: 67 or 4011.
    pub port: u16,
    /// Sender of the datagram.
    pub source: SocketAddrV4,
    /// Whether it was sent to everybody. A client that renews writes to us alone, perhaps through routers from another network.
    pub broadcast: bool,
}

/// Where a reply goes. It leaves from the port that the request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To an address that the client, or its relay agent, has.
    Unicast(SocketAddrV4),
    /// To everybody on the interface.
    Broadcast(u16),
    /// To a client that does not have its address yet and takes unicast all the same: a frame to its MAC address. Who cannot send frames broadcasts.
    Link {
        /// Ethernet address.
        mac: [u8; 6],
        /// Its address to be.
        address: SocketAddrV4,
    },
}

impl Destination {
    /// For a reply of this kind with this `yiaddr`.
    pub(super) fn of(request: &Packet<'_>, arrival: &Arrival, kind: MessageType, yiaddr: Ipv4Addr) -> Self {
        if arrival.port == PXE_PORT {
            // A client on port 4011 has its address, and listens where it sent from.
            return match arrival.source.ip() {
                none if none.is_unspecified() => Self::Broadcast(arrival.source.port()),
                _ => Self::Unicast(arrival.source),
            };
        }
        let client = |address| SocketAddrV4::new(address, CLIENT_PORT);
        if !request.giaddr().is_unspecified() {
            return Self::Unicast(SocketAddrV4::new(request.giaddr(), SERVER_PORT));
        }
        if kind == MessageType::Nak {
            // What it believes about its address is wrong.
            return Self::Broadcast(CLIENT_PORT);
        }
        if !request.ciaddr().is_unspecified() {
            return Self::Unicast(client(request.ciaddr()));
        }
        match request.mac() {
            Some(mac) if !request.wants_broadcast() && !yiaddr.is_unspecified() => Self::Link {
                mac,
                address: client(yiaddr),
            },
            _ => Self::Broadcast(CLIENT_PORT),
        }
    }
}
