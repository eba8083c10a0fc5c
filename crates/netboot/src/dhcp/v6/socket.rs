//! A UDP socket for DHCPv6 on one interface: it hears what is sent to all servers and relay agents there, and tells to which address a datagram was sent.

use std::{
    io::{self, IoSliceMut},
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
};

use dhcp::v6::wire::{CLIENT_PORT, SERVER_PORT};
use nix::{
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::{io::Interest, net::UdpSocket};

use crate::config::LanPorts;

/// All_DHCP_Relay_Agents_and_Servers (RFC 8415, 7.1).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// All_DHCP_Servers (RFC 8415, 7.1), to which relay agents may send.
const ALL_SERVERS_OF_SITE: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);
/// Bytes of messages that may wait: those of a rack of machines that is switched on at once.
const QUEUE: usize = 8 << 20;

/// See the module.
pub(crate) struct Socket {
    socket: UdpSocket,
    ports: LanPorts,
}

impl Socket {
    /// Listens at a port of all addresses of an interface, and at the groups of DHCPv6 servers. Other servers on this host may do so, too.
    ///
    /// # Errors
    /// When the kernel refuses: without IPv6, or where the interface has none.
    pub(super) fn open(interface: &str, port: u16, ports: LanPorts) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let socket = socket2::Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_only_v6(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        // As much as is allowed: beyond what is set for all only with CAP_NET_ADMIN.
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).is_err() {
            socket.set_recv_buffer_size(QUEUE)?;
        }
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        for group in [ALL_SERVERS, ALL_SERVERS_OF_SITE] {
            socket.join_multicast_v6(&group, index)?;
        }
        socket.bind(&SockAddr::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            ports,
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram, if one waits: its length, its sender, and the address that it was sent to.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddrV6, Ipv6Addr)> {
        loop {
            match self.socket.try_io(Interest::READABLE, || self.take(buffer)) {
                Ok(Some(taken)) => return Some(taken),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                // An interface that was taken down says so once.
                Err(error) => {
                    tracing::debug!(%error, "a DHCPv6 message could not be received");
                    return None;
                }
            }
        }
    }

    fn take(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddrV6, Ipv6Addr)>> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrIn6>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
        let Some(source) = message.address else { return Ok(None) };
        let asked = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
            _ => None,
        });
        let Some(asked) = asked else { return Ok(None) };
        Ok(Some((message.bytes, source.into(), asked)))
    }

    /// # Errors
    /// When the kernel does not take it.
    pub(in crate::dhcp) fn send(&self, bytes: &[u8], mut destination: SocketAddrV6) -> io::Result<()> {
        destination.set_port(match destination.port() {
            CLIENT_PORT => self.ports.client_v6,
            SERVER_PORT => self.ports.dhcp_v6,
            other => other,
        });
        self.socket.try_send_to(bytes, destination.into()).map(drop)
    }
}
