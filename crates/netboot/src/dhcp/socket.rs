//! A UDP socket on one interface that tells by which of its addresses a datagram came, and can broadcast.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use dhcp::v4::{
    Arrival, Destination,
    wire::{CLIENT_PORT, SERVER_PORT},
};
use nix::{
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::config::LanPorts;

/// Bytes of packets that may wait: those of a rack of machines that is switched on at once, each of which otherwise asks again only after seconds.
const QUEUE: usize = 8 << 20;

pub(super) struct Socket {
    socket: UdpSocket,
    role: u16,
    ports: LanPorts,
}

impl Socket {
    /// Listens at a port of all addresses of an interface. Other replicas, and a DHCP server that does the same, may do so on this host, too. `role` is the well-known port that it stands for,
    /// `ports` says where those really are.
    pub(super) fn open(interface: &str, port: u16, role: u16, ports: LanPorts) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        // As much as is allowed: beyond what is set for all only with CAP_NET_ADMIN.
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).is_err() {
            socket.set_recv_buffer_size(QUEUE)?;
        }
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        socket.bind(&SockAddr::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            role,
            ports,
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram, if one is there and can be answered: an interface without an address cannot.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(usize, Arrival)> {
        loop {
            match self.socket.try_io(Interest::READABLE, || self.take(buffer)) {
                Ok(Some(arrived)) => return Some(arrived),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // An ICMP message about something sent before, or memory that is short for a moment: the next readiness tells more.
                Err(error) => {
                    tracing::debug!(%error, "a DHCP datagram could not be read");
                    return None;
                }
            }
        }
    }

    fn take(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Arrival)>> {
        let mut control = nix::cmsg_space!(libc::in_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
        let Some(source) = message.address else { return Ok(None) };
        let info = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        });
        let Some(info) = info else { return Ok(None) };
        let address = |raw: libc::in_addr| Ipv4Addr::from(raw.s_addr.to_ne_bytes());
        let (asked, local) = (address(info.ipi_addr), address(info.ipi_spec_dst));
        if local.is_unspecified() {
            return Ok(None);
        }
        let arrival = Arrival {
            local,
            port: self.role,
            source: source.into(),
            broadcast: asked != local,
        };
        Ok(Some((message.bytes, arrival)))
    }

    pub(super) fn send(&self, bytes: &[u8], destination: Destination) -> io::Result<()> {
        let to = match destination {
            Destination::Unicast(to) => to,
            Destination::Broadcast(port) => SocketAddrV4::new(Ipv4Addr::BROADCAST, port),
            // Whoever cannot send frames broadcasts.
            Destination::Link { address, .. } => SocketAddrV4::new(Ipv4Addr::BROADCAST, address.port()),
        };
        let port = match to.port() {
            CLIENT_PORT => self.ports.client,
            SERVER_PORT => self.ports.dhcp,
            other => other,
        };
        let to = SocketAddrV4::new(*to.ip(), port);
        self.socket.try_send_to(bytes, to.into()).map(drop)
    }
}
