//! Whether the way to the server carries packets of a size, both ways: by ICMP echoes that nobody on the way may cut into pieces.
//!
//! A switch that does not know jumbo frames drops them without a word, and a download over such a way hangs after its first packets: that is noticed here, before it begins. Sizes that are usual are
//! asked for at once, so that a small answer is not longer in coming than a large one is missed.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket as StdSocket},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{Interface, dhcp::random};

/// MTUs of ways that are met with.
const USUAL: [u16; 8] = [9000, 8000, 4000, 2000, 1500, 1492, 1400, 1280];
/// The MTU that every Ethernet carries.
const ETHERNET: u16 = 1500;
/// Bytes of an IPv4 header, and of an ICMP echo's.
const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
/// How often a size is asked for, and how long an answer may take.
const ROUNDS: u32 = 3;
const ROUND: Duration = Duration::from_millis(700);

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    /// At least this, which is less than what was asked for where something was lost.
    UpTo(u16),
    /// No echo of any size came back.
    Silence,
}

/// The MTU that will do where `wanted` was told, and what to say of it where that is another one.
pub(super) async fn usable(server: SocketAddr, interface: &Interface, wanted: u16) -> (u16, Option<String>) {
    let carried = match server.ip() {
        IpAddr::V4(v4) => ask(v4, &interface.name, wanted).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the MTU of the way could not be asked for");
            Carried::Silence
        }),
        IpAddr::V6(_) => Carried::Silence,
    };
    judge(carried, wanted, server.ip())
}

fn judge(carried: Carried, wanted: u16, server: IpAddr) -> (u16, Option<String>) {
    match carried {
        Carried::UpTo(mtu) if mtu >= wanted => (wanted, None),
        Carried::UpTo(mtu) => (
            mtu,
            Some(format!(
                "the way to {server} carries packets of {mtu} bytes and not of {wanted}, which is the network's MTU: {mtu} is used; give every switch port and interface on the way the larger MTU, or the BareMetalNetwork the smaller one"
            )),
        ),
        Carried::Silence if wanted <= ETHERNET => (wanted, None),
        Carried::Silence => (
            ETHERNET,
            Some(format!(
                "{server} answers no ICMP echo, so nobody knows whether the way carries the network's MTU of {wanted}: {ETHERNET} is used; let ICMP echoes through"
            )),
        ),
    }
}

/// The sizes to ask for, the largest first.
fn sizes(wanted: u16) -> Vec<u16> {
    std::iter::once(wanted)
        .chain(USUAL.into_iter().filter(|size| *size < wanted))
        .collect()
}

async fn ask(server: Ipv4Addr, interface: &str, wanted: u16) -> std::io::Result<Carried> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(ipproto::ICMP),
    )?;
    // Never in pieces, whatever the kernel believes of the way.
    sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::PROBE)?;
    // Sending and receiving datagrams is all that is done with it.
    let socket = UdpSocket::from_std(StdSocket::from(socket))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    let sizes = sizes(wanted);
    let identifier = u16::from_le_bytes(random());
    let mut buffer = vec![0; usize::from(wanted).max(2048)];
    let mut best: Option<usize> = None;
    for _ in 0..ROUNDS {
        for (sequence, size) in sizes.iter().enumerate().take(best.unwrap_or(sizes.len())) {
            let packet = echo(identifier, sequence as u16, usize::from(*size) - IP_HEADER);
            // A packet that this host cannot send is one that does not come back.
            if let Err(error) = socket.send_to(&packet, (server, 0)).await {
                tracing::debug!(size, %error, "echo not sent");
            }
        }
        let until = Instant::now() + ROUND;
        while let Ok(Ok((length, from))) = timeout_at(until, socket.recv_from(&mut buffer)).await {
            let Some(sequence) = answered(&buffer[..length], identifier).filter(|_| from.ip() == IpAddr::V4(server)) else {
                continue;
            };
            let at = usize::from(sequence);
            if at < sizes.len() && best.is_none_or(|best| at < best) {
                best = Some(at);
            }
            if best == Some(0) {
                return Ok(Carried::UpTo(wanted));
            }
        }
    }
    Ok(best
        .and_then(|at| sizes.get(at))
        .map_or(Carried::Silence, |size| Carried::UpTo(*size)))
}

/// An echo request of this length, ICMP header included.
fn echo(identifier: u16, sequence: u16, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length.max(ICMP_HEADER)];
    packet[0] = 8;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sequence number of an answer to us; the packet begins with its IP header.
fn answered(packet: &[u8], identifier: u16) -> Option<u16> {
    let header = usize::from(*packet.first()? & 0x0f) * 4;
    let icmp = packet.get(header..)?;
    let word = |at: usize| Some(u16::from_be_bytes(icmp.get(at..at + 2)?.try_into().ok()?));
    (icmp.first() == Some(&0) && word(4)? == identifier).then(|| word(6)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_known_when_it_comes_back() {
        let mut packet = echo(7, 3, 1480);
        assert_eq!((packet.len(), checksum(&packet)), (1480, 0));
        packet[0] = 0;
        let mut received = vec![0x45; IP_HEADER];
        received.extend(packet);
        assert_eq!(answered(&received, 7), Some(3));
        assert_eq!(answered(&received, 8), None);
        received[IP_HEADER] = 8;
        assert_eq!(answered(&received, 7), None, "our own question");
        for length in 0..28 {
            answered(&received[..length], 7);
        }
    }

    #[test]
    fn the_largest_that_comes_back_is_used_and_the_rest_is_told() {
        let server = IpAddr::V4(Ipv4Addr::new(10, 42, 0, 2));
        assert_eq!(sizes(9000), [9000, 8000, 4000, 2000, 1500, 1492, 1400, 1280]);
        assert_eq!(sizes(1500), [1500, 1492, 1400, 1280]);
        assert_eq!(judge(Carried::UpTo(9000), 9000, server), (9000, None));
        let (mtu, problem) = judge(Carried::UpTo(1500), 9000, server);
        assert!(
            mtu == 1500
                && problem
                    .as_deref()
                    .is_some_and(|p| p.contains("10.42.0.2") && p.contains("1500") && p.contains("9000"))
        );
        let (mtu, problem) = judge(Carried::Silence, 9000, server);
        assert!(mtu == 1500 && problem.is_some());
        assert_eq!(
            judge(Carried::Silence, 1400, server),
            (1400, None),
            "nobody asked for more than Ethernet carries"
        );
    }
}
