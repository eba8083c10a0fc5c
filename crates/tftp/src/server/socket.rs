//! Datagrams with what goes along with them: the local address that was asked (`IP_PKTINFO`, `IPV6_RECVPKTINFO`), and batches that the kernel or the
//! network card cuts into datagrams (`UDP_SEGMENT`). Linux only. Nothing here allocates once a transfer has begun.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::AsRawFd,
};

use nix::{
    libc,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use socket2::{MsgHdr, SockAddr, SockRef};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    Time,
    transfer::{Outgoing, Transfer},
    wire::{DATA_HEADER, Packet, data_header},
};

/// Most datagrams in one batch (the kernel's `UDP_MAX_SEGMENTS` of all versions).
const BATCH: usize = 64;

/// Most bytes in one batch: a UDP datagram before it is cut, over IPv4 or IPv6.
const BATCH_BYTES: usize = 65_000;

/// Receive buffer of the listener in bytes: some hundred machines may be switched on at the same moment.
const LISTENER_BUFFER: usize = 1 << 20;

/// The address of ours that a client asked; IPv4 is never mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Local {
    pub(super) address: IpAddr,
    /// Where the address means nothing without it (link-local), else 0: a client is the same one whichever card its packets take.
    interface: u32,
}

/// One datagram.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) length: usize,
    pub(super) peer: SocketAddr,
    /// `None` for a broadcast or multicast, which must not be answered (RFC 1123 section 4.2.3.5).
    pub(super) local: Option<Local>,
}

/// Makes a bound socket the listener's.
pub(super) fn prepare(socket: &std::net::UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let options = SockRef::from(socket);
    // The first way needs a privilege and takes no notice of the system's limit.
    if options.recv_buffer_size()? < LISTENER_BUFFER && setsockopt(socket, sockopt::RcvBufForce, &LISTENER_BUFFER).is_err() {
        options.set_recv_buffer_size(LISTENER_BUFFER)?;
    }
    // Both for IPv6: a socket for both takes IPv4, too, and only IPv4's own message tells a broadcast from an address of ours.
    setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    if socket.local_addr()?.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

/// Room for what goes along with a received datagram.
pub(super) fn control_buffer() -> Vec<u8> {
    nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo)
}

/// Takes one datagram, if there is one.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8], control: &mut [u8]) -> io::Result<Arrival> {
    socket.try_io(Interest::READABLE, || {
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(control), MsgFlags::empty())?;
        let peer = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
        let local = message.cmsgs()?.find_map(|control| match control {
            // What the kernel would answer from is the address that was asked, but for broadcasts.
            ControlMessageOwned::Ipv4PacketInfo(info) if info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr => Some(Local {
                address: IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()),
                interface: 0,
            }),
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                (!address.is_multicast() && address.to_ipv4_mapped().is_none()).then_some(Local {
                    address: address.into(),
                    interface: if address.is_unicast_link_local() { info.ipi6_ifindex } else { 0 },
                })
            }
            _ => None,
        });
        Ok(Arrival {
            length: message.bytes,
            peer,
            local,
        })
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => Some((*v4).into()),
        (_, Some(v6)) => Some((*v6).into()),
        _ => None,
    }
}

/// A socket of a transfer's own: a new port at the address that was asked, open to the client only.
pub(super) fn connected(local: Local, peer: SocketAddr) -> io::Result<UdpSocket> {
    let bind = match local.address {
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, local.interface).into(),
        address => SocketAddr::new(address, 0),
    };
    let socket = std::net::UdpSocket::bind(bind)?;
    socket.set_nonblocking(true)?;
    socket.connect(canonical(peer))?;
    UdpSocket::from_std(socket)
}

/// IPv4 as IPv4, also where it came over an IPv6 socket.
pub(super) fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        IpAddr::V4(address) => SocketAddr::new(address.into(), peer.port()),
        // As it is: a link-local address means nothing without its interface.
        IpAddr::V6(_) => peer,
    }
}

/// Ancillary data of a datagram to send, in the layout of `cmsg(3)`.
#[derive(Debug)]
struct Control {
    bytes: [u8; 80],
    /// The local address.
    address: usize,
    /// That and the size of segments.
    all: usize,
}

impl Control {
    fn new(local: Option<Local>) -> Self {
        let mut control = Self {
            bytes: [0; 80],
            address: 0,
            all: 0,
        };
        match local {
            Some(Local {
                address: IpAddr::V4(address),
                ..
            }) => {
                // in_pktinfo: the interface stays open, so that routing decides.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(Local {
                address: IpAddr::V6(address),
                ..
            }) => {
                // in6_pktinfo; the interface of a link-local peer is in the peer's address.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&address.octets());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        control.address = control.all;
        control
    }

    fn push(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        const WORD: usize = size_of::<usize>();
        let header = WORD + 2 * size_of::<libc::c_int>();
        let start = self.all;
        let mut put = |at: usize, bytes: &[u8]| self.bytes[start + at..start + at + bytes.len()].copy_from_slice(bytes);
        put(0, &(header + data.len()).to_ne_bytes());
        put(WORD, &level.to_ne_bytes());
        put(WORD + size_of::<libc::c_int>(), &kind.to_ne_bytes());
        put(header, data);
        self.all += (header + data.len()).next_multiple_of(WORD);
    }
}

/// How the packets of one transfer leave: over which socket, to whom, from which address.
#[derive(Debug)]
pub(super) struct Sender {
    /// `None`: the socket is connected.
    peer: Option<SockAddr>,
    control: Control,
    /// Whether batches are handed over as one.
    segments: bool,
    scratch: Vec<u8>,
}

/// What became of the packets that were ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All are on their way.
    All,
    /// The socket takes no more for now.
    Blocked,
    /// The client's host says that nobody listens there.
    Closed,
}

impl Sender {
    /// For a connected socket.
    pub(super) fn connected(block_size: u16, segments: bool) -> Self {
        Self::new(None, None, block_size, segments)
    }

    /// For the listener's socket.
    pub(super) fn shared(peer: SocketAddr, local: Local, block_size: u16, segments: bool) -> Self {
        Self::new(Some(peer.into()), Some(local), block_size, segments)
    }

    fn new(peer: Option<SockAddr>, local: Option<Local>, block_size: u16, segments: bool) -> Self {
        let mut control = Control::new(local);
        control.push(
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            &(block_size.saturating_add(DATA_HEADER as u16)).to_ne_bytes(),
        );
        Self {
            peer,
            control,
            segments,
            scratch: Vec::with_capacity(64),
        }
    }

    /// Sends what is ready. A packet that cannot be sent at all counts as one that was lost on the way: the timer sees to it.
    pub(super) fn flush(&mut self, socket: &UdpSocket, transfer: &mut Transfer, now: impl Fn() -> Time) -> Flushed {
        loop {
            let (count, result) = match transfer.packet(0) {
                None => return Flushed::All,
                Some(Outgoing::Data { .. }) => self.data(socket, transfer),
                Some(Outgoing::OptionAck(options)) => (1, self.single(socket, &Packet::OptionAck(*options))),
                Some(Outgoing::Error { code, message }) => (
                    1,
                    self.single(
                        socket,
                        &Packet::Error {
                            code,
                            message: message.as_bytes(),
                        },
                    ),
                ),
            };
            match result {
                Ok(()) => transfer.sent(count, now()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The listener's socket speaks with many; whom it means by that it does not say.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && self.peer.is_none() => return Flushed::Closed,
                // A packet larger than the interface takes, a card that sums nothing: the kernel refuses to cut these batches.
                Err(_) if count > 1 => self.segments = false,
                Err(e) => {
                    tracing::debug!(error = %e, "a TFTP packet could not be sent");
                    transfer.sent(count, now());
                }
            }
        }
    }

    fn data(&self, socket: &UdpSocket, transfer: &Transfer) -> (usize, io::Result<()>) {
        let datagram = DATA_HEADER + usize::from(transfer.terms().block_size);
        let most = if self.segments {
            (BATCH_BYTES / datagram).clamp(1, BATCH)
        } else {
            1
        };
        let count = transfer.ready().min(most);
        let mut headers = [[0; DATA_HEADER]; BATCH];
        let mut contents: [&[u8]; BATCH] = [&[]; BATCH];
        for (index, (header, content)) in headers.iter_mut().zip(&mut contents).enumerate().take(count) {
            if let Some(Outgoing::Data { block, data }) = transfer.packet(index) {
                *header = data_header(block);
                *content = data;
            }
        }
        let mut slices = [IoSlice::new(&[]); 2 * BATCH];
        for ((pair, header), content) in slices.chunks_exact_mut(2).zip(&headers).zip(&contents).take(count) {
            pair[0] = IoSlice::new(header);
            pair[1] = IoSlice::new(content);
        }
        (count, self.send(socket, &slices[..2 * count], count > 1))
    }

    /// One packet that is not part of a batch.
    pub(super) fn single(&mut self, socket: &UdpSocket, packet: &Packet<'_>) -> io::Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        packet.encode(&mut scratch);
        let result = self.send(socket, &[IoSlice::new(&scratch)], false);
        self.scratch = scratch;
        result
    }

    fn send(&self, socket: &UdpSocket, slices: &[IoSlice<'_>], batch: bool) -> io::Result<()> {
        let control = &self.control.bytes[..if batch { self.control.all } else { self.control.address }];
        let mut message = MsgHdr::new().with_buffers(slices);
        if let Some(peer) = &self.peer {
            message = message.with_addr(peer);
        }
        if !control.is_empty() {
            message = message.with_control(control);
        }
        socket
            .try_io(Interest::WRITABLE, || SockRef::from(socket).sendmsg(&message, 0))
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_laid_out_as_the_kernel_reads_them() {
        let local = Local {
            address: IpAddr::from([192, 0, 2, 1]),
            interface: 0,
        };
        let sender = Sender::shared("192.0.2.9:1234".parse().unwrap(), local, 1468, true);
        let control = &sender.control;
        // CMSG_SPACE of 12 and of 2 bytes.
        assert_eq!(control.address, nix::cmsg_space!(libc::in_pktinfo).len());
        assert_eq!(control.all - control.address, nix::cmsg_space!(u16).len());
        // Behind the header; the last four bytes pad it to a word.
        assert_eq!(
            &control.bytes[16..control.address],
            &[0, 0, 0, 0, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        let v6 = Sender::shared(
            "[::1]:1".parse().unwrap(),
            Local {
                address: Ipv6Addr::LOCALHOST.into(),
                interface: 0,
            },
            512,
            true,
        )
        .control;
        assert_eq!(v6.address, nix::cmsg_space!(libc::in6_pktinfo).len());
        assert!(v6.all <= v6.bytes.len());
    }
}
