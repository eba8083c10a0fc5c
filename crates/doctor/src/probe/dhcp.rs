//! Who answers a DHCPDISCOVER on an interface.
//!
//! It is sent from a made-up MAC address as each kind of machine would, and nothing that is offered is taken. Answers are read from frames, so that a firewall of this host hides none and the
//! sender's MAC address is known. A server on this host is heard by the socket instead: the kernel hands a host its own broadcasts, and keeps them from those who listen to frames.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use ::dhcp::{
    arch::BootClass,
    v4::{
        frame::datagram,
        probe::{PROBER, Probe},
        wire::{CLIENT_PORT, MessageType, Packet, SERVER_PORT, code::option},
    },
};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Asker, Offer, ProbeError, Settings, link};
use crate::printable;

/// IPv4 in a frame (IEEE 802, EtherType).
const ETHERTYPE_IPV4: u16 = 0x0800;
/// Offers that are looked at: more servers than any network has.
const MAX_OFFERS: usize = 64;
/// How often each question is sent, because any may get lost.
const TIMES: u32 = 2;

/// Asks, and listens for [`Settings::patience`].
pub(super) fn discover(settings: &Settings) -> Result<Vec<Offer>, ProbeError> {
    let refused = |what| {
        move |source| ProbeError::Socket {
            what,
            interface: settings.interface.clone(),
            source,
        }
    };
    let index = if_nametoindex(settings.interface.as_str()).map_err(|error| refused("finding the interface")(error.into()))?;
    let frames = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETHERTYPE_IPV4.to_be()))))
        .map_err(refused("listening to frames"))?;
    frames
        .set_read_timeout(Some(Duration::from_millis(50)))
        .map_err(refused("listening to frames"))?;
    let sender = sender(&settings.interface).map_err(refused("sending from port 68"))?;
    let questions = questions().map_err(refused("making up a MAC address"))?;
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    let mut offers: Vec<Offer> = Vec::new();
    let start = Instant::now();
    let mut sent = 0;
    let mut buffer = vec![0; 64 << 10];
    while start.elapsed() < settings.patience {
        if sent < TIMES && start.elapsed() >= settings.patience * sent / (TIMES + 1) {
            for (probe, _) in questions.values() {
                sender
                    .send_to(&probe.bytes(), everybody)
                    .map_err(refused("sending a DHCPDISCOVER"))?;
            }
            sent += 1;
        }
        let mut found = Vec::new();
        while let Ok((length, SocketAddr::V4(from))) = sender.recv_from(&mut buffer) {
            if link::is_here(*from.ip()) {
                found.extend(read(&buffer[..length], *from.ip(), None, &questions));
            }
        }
        match recvfrom::<LinkAddr>(frames.as_raw_fd(), &mut buffer) {
            Ok((length, Some(from))) if from.ifindex() == index as usize => {
                let mac = from.addr().filter(|mac| *mac != [0; 6]);
                if let Some((source, payload)) = datagram(&buffer[..length], CLIENT_PORT) {
                    found.extend(read(payload, source, mac, &questions));
                }
            }
            Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(refused("listening to frames")(error.into())),
        }
        for offer in found {
            if !offers.contains(&offer) && offers.len() < MAX_OFFERS {
                offers.push(offer);
            }
        }
    }
    offers.sort_by_key(|offer| (offer.server(), offer.asker as u8));
    Ok(offers)
}

/// Port 68 of the interface, beside whatever DHCP client this host has; another one where that client keeps it for itself. Servers answer to port 68 all the same.
fn sender(interface: &str) -> io::Result<UdpSocket> {
    match from_port(interface, CLIENT_PORT) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => from_port(interface, 0),
        opened => opened,
    }
}

fn from_port(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Questions by their transaction ids.
fn questions() -> io::Result<HashMap<u32, (Probe, Asker)>> {
    let mut questions = HashMap::new();
    for asker in Asker::ALL {
        let mut random = [0; 9];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let [a, b, c, d, e, f, g, h, i] = random;
        // Locally administered, so it is nobody's card.
        let probe = Probe {
            boot: match asker {
                Asker::System => None,
                Asker::Bios | Asker::Ipxe => Some((BootClass::Pxe, 0)),
                Asker::UefiX64 => Some((BootClass::Pxe, 7)),
            },
            ipxe: asker == Asker::Ipxe,
            machine_id: (asker != Asker::System).then_some(PROBER),
            ..Probe::discover(u32::from_be_bytes([f, g, h, i]), [2, a, b, c, d, e])
        };
        questions.insert(probe.xid, (probe, asker));
    }
    Ok(questions)
}

fn read(payload: &[u8], from: Ipv4Addr, mac: Option<[u8; 6]>, questions: &HashMap<u32, (Probe, Asker)>) -> Option<Offer> {
    let packet = Packet::parse(payload).ok()?;
    let (probe, asker) = questions.get(&packet.xid())?;
    if packet.is_request() || packet.message_type() != Some(MessageType::Offer) || packet.mac() != Some(probe.mac) {
        return None;
    }
    let given = |address: Ipv4Addr| Some(address).filter(|address| !address.is_unspecified());
    let file = packet
        .option(option::BOOT_FILE)
        .filter(|file| !file.is_empty())
        .unwrap_or(packet.file());
    let end = file.iter().position(|byte| *byte == 0).unwrap_or(file.len());
    Some(Offer {
        asker: *asker,
        from,
        mac: mac.map(|mac| agent_protocol::identity::MacAddress(mac).to_string()),
        server_id: packet.server_id(),
        address: given(packet.yiaddr()),
        next_server: given(packet.siaddr()),
        boot_file: printable(&file[..end], 128),
        class: printable(packet.vendor_class().unwrap_or_default(), 32),
        mtu: packet
            .option(option::MTU)
            .and_then(|mtu| Some(u16::from_be_bytes(mtu.try_into().ok()?))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_known_by_its_transaction_and_says_what_it_boots() {
        let questions = questions().unwrap();
        let (probe, asker) = questions.values().find(|(_, asker)| *asker == Asker::UefiX64).unwrap();
        let mut reply = probe.bytes();
        reply[0] = 2;
        reply[16..20].copy_from_slice(&[10, 77, 0, 100]);
        reply[20..24].copy_from_slice(&[10, 77, 0, 9]);
        reply[108..118].copy_from_slice(b"other\x1b.efi");
        let options = 240;
        reply.truncate(options);
        reply.extend_from_slice(&[53, 1, 2, 54, 4, 10, 77, 0, 1, 26, 2, 0x05, 0xdc, 255]);
        let source = Ipv4Addr::new(10, 77, 0, 1);
        let offer = read(&reply, source, Some([0x52, 0x54, 0, 0, 0, 1]), &questions).unwrap();
        assert_eq!((offer.asker, offer.server()), (*asker, source));
        assert_eq!(offer.address, Some(Ipv4Addr::new(10, 77, 0, 100)));
        assert_eq!((offer.boot_file.as_str(), offer.mtu), ("other?.efi", Some(1500)));
        assert_eq!(offer.mac.as_deref(), Some("52:54:00:00:00:01"));
        // Somebody else's conversation.
        reply[4] ^= 1;
        assert_eq!(read(&reply, source, None, &questions), None);
    }
}
