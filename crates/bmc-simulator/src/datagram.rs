//! A UDP socket that says at which of our addresses a datagram arrived (`IP_PKTINFO`), and answers from there. Linux only.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd,
};

use nix::{
    libc,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt},
};
use tokio::{io::Interest, net::UdpSocket};

/// The receive buffer, in bytes: thousands of controllers are asked at the same moment.
const BUFFER: usize = 4 << 20;

/// A datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub length: usize,
    pub peer: SocketAddrV4,
    pub local: Ipv4Addr,
}

/// Opens the socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    // As large as the system allows.
    setsockopt(&socket, sockopt::RcvBuf, &BUFFER)?;
    UdpSocket::from_std(socket)
}

/// Waits for a datagram.
pub(crate) async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Arrival> {
    socket
        .async_io(Interest::READABLE, || {
            let mut slices = [IoSliceMut::new(buffer)];
            let mut control = nix::cmsg_space!(libc::in_pktinfo);
            let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty())?;
            let peer = message.address.ok_or(io::ErrorKind::InvalidData)?;
            let local = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes())),
                _ => None,
            });
            Ok(Arrival {
                length: message.bytes,
                peer: peer.into(),
                local: local.ok_or(io::ErrorKind::InvalidData)?,
            })
        })
        .await
}

/// Sends a datagram from one of our addresses.
pub(crate) async fn send(socket: &UdpSocket, local: Ipv4Addr, peer: SocketAddrV4, bytes: &[u8]) -> io::Result<()> {
    socket
        .async_io(Interest::WRITABLE, || {
            let source = libc::in_addr {
                s_addr: u32::from_ne_bytes(local.octets()),
            };
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: source,
                ipi_addr: source,
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(
                socket.as_raw_fd(),
                &[IoSlice::new(bytes)],
                &control,
                MsgFlags::empty(),
                Some(&SockaddrIn::from(peer)),
            )?;
            Ok(())
        })
        .await
}
