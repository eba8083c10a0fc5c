//! A DHCPv4 client (RFC 2131) as the agent needs it: one lease, renewed in time.
//!
//! Messages are made and read by pure functions; [`Client`] sends them as broadcasts from a socket bound to one interface. The client identifier
//! is `01` and the MAC, as iPXE sends it: a server then gives the address from which the boot script was asked for, which the boot token is
//! bound to. The broadcast flag is set, because an interface without an address cannot receive unicast.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use agent_protocol::identity::MacAddress;
use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v4::{self, DhcpOption, Flags, Message, MessageType, Opcode, OptionCode},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

/// Longest packet that is looked at.
const MAX_PACKET: usize = 2048;
/// Leases shorter than this are renewed as if they had this length: a server must not be able to make us spin.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// The kernel refused a socket.
    #[error("no socket for DHCP on {interface}")]
    Socket {
        /// Which interface.
        interface: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answered in time.
    #[error("no DHCP server answered on {0}: check the cable, and that the port is in a network with DHCP")]
    Silence(String),
    /// The server took its offer back.
    #[error("the DHCP server refused the address on {0}")]
    Refused(String),
}

/// What a server granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Bits of its network.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Who granted it.
    pub server: Option<Ipv4Addr>,
    /// How long it lasts.
    pub lasts: Duration,
    /// When to renew it.
    pub renew_after: Duration,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Discover,
    Request { address: Ipv4Addr, server: Option<Ipv4Addr> },
    Renew { address: Ipv4Addr },
}

fn message(ask: Ask, mac: MacAddress, xid: u32, seconds: u16) -> Result<Vec<u8>, String> {
    let mut message = Message::default();
    message
        .set_opcode(Opcode::BootRequest)
        .set_xid(xid)
        .set_secs(seconds)
        .set_flags(Flags::default().set_broadcast())
        .set_chaddr(&mac.0);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientIdentifier([&[1], &mac.0[..]].concat()));
    options.insert(DhcpOption::ClassIdentifier(b"kube-baremetal-agent".to_vec()));
    options.insert(DhcpOption::MaxMessageSize(1472));
    options.insert(DhcpOption::ParameterRequestList(vec![
        OptionCode::SubnetMask,
        OptionCode::Router,
        OptionCode::DomainNameServer,
        OptionCode::AddressLeaseTime,
        OptionCode::Renewal,
        OptionCode::Rebinding,
        OptionCode::ServerIdentifier,
    ]));
    match ask {
        Ask::Discover => {
            options.insert(DhcpOption::MessageType(MessageType::Discover));
        }
        Ask::Request { address, server } => {
            options.insert(DhcpOption::MessageType(MessageType::Request));
            options.insert(DhcpOption::RequestedIpAddress(address));
            if let Some(server) = server {
                options.insert(DhcpOption::ServerIdentifier(server));
            }
        }
        Ask::Renew { address } => {
            options.insert(DhcpOption::MessageType(MessageType::Request));
            message.set_ciaddr(address);
        }
    }
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// A server's answer to our message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Offer(Lease),
    Ack(Lease),
    Nak,
}

/// Reads a packet; `None` for anything that is not a usable answer to `xid` for `mac`.
fn answer(packet: &[u8], mac: MacAddress, xid: u32) -> Option<Answer> {
    let message = Message::decode(&mut Decoder::new(packet)).ok()?;
    if message.opcode() != Opcode::BootReply || message.xid() != xid || message.chaddr().get(..6) != Some(&mac.0[..]) {
        return None;
    }
    let options = message.opts();
    let kind = options.msg_type()?;
    if kind == MessageType::Nak {
        return Some(Answer::Nak);
    }
    let address = message.yiaddr();
    if address.is_unspecified() || address.is_broadcast() || address.is_multicast() || address.is_loopback() {
        return None;
    }
    let prefix = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => prefix_of(*mask)?,
        _ => 24,
    };
    let seconds = |code| match options.get(code) {
        Some(DhcpOption::AddressLeaseTime(s) | DhcpOption::Renewal(s)) => Some(Duration::from_secs((*s).into())),
        _ => None,
    };
    let lasts = seconds(OptionCode::AddressLeaseTime)
        .unwrap_or(Duration::from_secs(3600))
        .max(SHORTEST_LEASE);
    let lease = Lease {
        address,
        prefix,
        gateway: match options.get(OptionCode::Router) {
            Some(DhcpOption::Router(routers)) => routers.first().copied(),
            _ => None,
        },
        dns: match options.get(OptionCode::DomainNameServer) {
            Some(DhcpOption::DomainNameServer(servers)) => servers.iter().take(3).copied().collect(),
            _ => Vec::new(),
        },
        server: match options.get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
            _ => None,
        },
        lasts,
        renew_after: seconds(OptionCode::Renewal)
            .filter(|t| *t < lasts)
            .unwrap_or(lasts / 2)
            .max(SHORTEST_LEASE / 2),
    };
    match kind {
        MessageType::Offer => Some(Answer::Offer(lease)),
        MessageType::Ack => Some(Answer::Ack(lease)),
        _ => None,
    }
}

/// The number of leading ones of a net mask; `None` for a mask with holes, or of all zeros.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (ones > 0 && bits.count_ones() == ones).then_some(ones as u8)
}

/// One interface's client.
#[derive(Debug)]
pub struct Client {
    interface: String,
    mac: MacAddress,
    socket: UdpSocket,
    started: Instant,
}

impl Client {
    /// Opens a socket on port 68 of an interface that is up.
    ///
    /// # Errors
    /// [`DhcpError::Socket`].
    pub fn open(interface: &str, mac: MacAddress) -> Result<Self, DhcpError> {
        let open = || -> std::io::Result<UdpSocket> {
            let socket = rustix::net::socket_with(
                AddressFamily::INET,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None,
            )?;
            // Several interfaces ask at once, each from port 68.
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::sockopt::set_socket_broadcast(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, v4::CLIENT_PORT))?;
            let socket = UdpSocket::from_std(socket.into())?;
            socket.bind_device(Some(interface.as_bytes()))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| DhcpError::Socket {
            interface: interface.to_owned(),
            source,
        })?;
        Ok(Self {
            interface: interface.to_owned(),
            mac,
            socket,
            started: Instant::now(),
        })
    }

    /// Sends until an answer that `accept` takes arrives, at growing intervals, for `patience` at most.
    async fn exchange<T>(&self, ask: Ask, patience: Duration, accept: impl Fn(Answer) -> Option<T>) -> Result<T, DhcpError> {
        let silence = || DhcpError::Silence(self.interface.clone());
        let end = Instant::now() + patience;
        let xid = u32::from_le_bytes(random());
        let mut wait = Duration::from_millis(700);
        let mut buffer = vec![0; MAX_PACKET];
        while Instant::now() < end {
            let seconds = self.started.elapsed().as_secs().try_into().unwrap_or(u16::MAX);
            let packet = message(ask, self.mac, xid, seconds).map_err(|error| DhcpError::Socket {
                interface: self.interface.clone(),
                source: std::io::Error::other(error),
            })?;
            // A link that is still coming up refuses to send: that is only lost time.
            if let Err(error) = self.socket.send_to(&packet, (Ipv4Addr::BROADCAST, v4::SERVER_PORT)).await {
                tracing::debug!(interface = self.interface, %error, "DHCP not sent");
            }
            let jitter = Duration::from_millis(u64::from(random::<1>()[0]));
            let until = (Instant::now() + wait + jitter).min(end);
            while let Ok(received) = timeout_at(until, self.socket.recv_from(&mut buffer)).await {
                let Ok((length, _)) = received else { break };
                if let Some(taken) = answer(&buffer[..length], self.mac, xid).and_then(&accept) {
                    return Ok(taken);
                }
            }
            tokio::time::sleep_until(until).await;
            wait = (wait * 2).min(Duration::from_secs(8));
        }
        Err(silence())
    }

    /// Gets a lease within `patience`.
    ///
    /// # Errors
    /// [`DhcpError::Silence`] or [`DhcpError::Refused`].
    pub async fn acquire(&self, patience: Duration) -> Result<Lease, DhcpError> {
        let offer = self
            .exchange(Ask::Discover, patience, |a| match a {
                Answer::Offer(lease) => Some(lease),
                _ => None,
            })
            .await?;
        let ask = Ask::Request {
            address: offer.address,
            server: offer.server,
        };
        self.confirm(ask, patience.min(Duration::from_secs(15))).await
    }

    /// Asks for more time for an address.
    ///
    /// # Errors
    /// [`DhcpError::Silence`] or [`DhcpError::Refused`].
    pub async fn renew(&self, address: Ipv4Addr, patience: Duration) -> Result<Lease, DhcpError> {
        self.confirm(Ask::Renew { address }, patience).await
    }

    async fn confirm(&self, ask: Ask, patience: Duration) -> Result<Lease, DhcpError> {
        let answer = self
            .exchange(ask, patience, |a| match a {
                Answer::Ack(lease) => Some(Some(lease)),
                Answer::Nak => Some(None),
                Answer::Offer(_) => None,
            })
            .await?;
        answer.ok_or_else(|| DhcpError::Refused(self.interface.clone()))
    }
}

/// Randomness that need not be secret (transaction ids, jitter).
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::INSECURE).is_err() {
        // Kernels before 5.6, or none yet: the clock tells machines apart well enough for this use.
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| d.subsec_nanos());
        for (byte, clock) in bytes.iter_mut().zip(nanos.to_le_bytes().into_iter().cycle()) {
            *byte = clock;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);

    fn reply(kind: MessageType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::default();
        message.set_opcode(Opcode::BootReply).set_xid(7).set_chaddr(&MAC.0);
        message.set_yiaddr(Ipv4Addr::new(10, 0, 2, 15));
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        options.insert(DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 2, 2)]));
        options.insert(DhcpOption::AddressLeaseTime(86400));
        change(&mut message);
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn an_offer_is_read() {
        let Some(Answer::Offer(lease)) = answer(&reply(MessageType::Offer, |_| {}), MAC, 7) else {
            panic!("no offer");
        };
        assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 0, 2, 15), 24));
        assert_eq!(lease.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!((lease.lasts.as_secs(), lease.renew_after.as_secs()), (86400, 43200));
    }

    #[test]
    fn strangers_and_nonsense_are_ignored() {
        let offer = |change: fn(&mut Message)| answer(&reply(MessageType::Offer, change), MAC, 7);
        assert!(
            offer(|m| {
                m.set_xid(8);
            })
            .is_none()
        );
        assert!(
            offer(|m| {
                m.set_chaddr(&[2, 0, 0, 0, 0, 8]);
            })
            .is_none()
        );
        assert!(
            offer(|m| {
                m.set_yiaddr(Ipv4Addr::UNSPECIFIED);
            })
            .is_none()
        );
        assert!(offer(|m| drop(m.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0))))).is_none());
        assert!(answer(&[0; 300], MAC, 0).is_none());
        assert_eq!(answer(&reply(MessageType::Nak, |_| {}), MAC, 7), Some(Answer::Nak));
        let Some(Answer::Offer(lease)) = offer(|m| drop(m.opts_mut().insert(DhcpOption::AddressLeaseTime(0)))) else {
            panic!("no offer");
        };
        assert!(lease.renew_after >= Duration::from_secs(30), "a short lease does not make us spin");
    }

    #[test]
    fn requests_say_what_is_wanted() {
        let ask = Ask::Request {
            address: Ipv4Addr::new(10, 0, 2, 15),
            server: Some(Ipv4Addr::new(10, 0, 2, 2)),
        };
        let bytes = message(ask, MAC, 9, 3).unwrap();
        let parsed = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert!(parsed.flags().broadcast() && parsed.xid() == 9 && parsed.chaddr() == MAC.0);
        assert_eq!(parsed.opts().msg_type(), Some(MessageType::Request));
        assert_eq!(
            parsed.opts().get(OptionCode::ClientIdentifier),
            Some(&DhcpOption::ClientIdentifier(vec![1, 2, 0, 0, 0, 0, 9])),
            "as iPXE sends it"
        );
    }
}
