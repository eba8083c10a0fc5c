//! A DHCPv6 client (RFC 8415) as the agent needs it: one address, renewed in time.
//!
//! Messages are made and read by pure functions; [`Client`] sends them to all servers of one interface's link. The DUID is made of the MAC address, so that a server which keeps
//! addresses for MAC addresses knows the machine.
//!
//! Not here: routers and prefixes. The kernel takes those out of router advertisements.

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    time::Duration,
};

use agent_protocol::identity::MacAddress;
use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v6::{self, DhcpOption, IAAddr, IANA, Message, MessageType, ORO, OptionCode, Status, StatusCode},
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use super::{
    Interface,
    dhcp::{DhcpError, random},
};

/// All_DHCP_Relay_Agents_and_Servers (RFC 8415, 7.1).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Longest packet that is looked at.
const MAX_PACKET: usize = 2048;
/// Leases shorter than this are renewed as if they had this length: a server must not be able to make us spin.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
/// No lease is taken for longer, also where a server says that it never ends.
const LONGEST_LEASE: Duration = Duration::from_secs(30 * 86_400);
/// SOL_TIMEOUT and REQ_TIMEOUT (RFC 8415, 7.6), and what it grows to.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// What a server granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv6Addr,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// The DUID of who granted it.
    pub server: Vec<u8>,
    /// How long it lasts.
    pub lasts: Duration,
    /// When to renew it.
    pub renew_after: Duration,
}

/// What is asked for: anything, what a server offered, or more time for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask<'a> {
    Solicit,
    Request(&'a Lease),
    Renew(&'a Lease),
}

/// DUID-LL (RFC 8415, 11.4).
fn duid(mac: MacAddress) -> Vec<u8> {
    [&[0, 3, 0, 1], &mac.0[..]].concat()
}

/// The number of our only association: the end of the MAC address, which is the same after every start.
fn iaid(mac: MacAddress) -> u32 {
    let [_, _, a, b, c, d] = mac.0;
    u32::from_be_bytes([a, b, c, d])
}

fn message(ask: Ask<'_>, mac: MacAddress, xid: [u8; 3], waited: Duration) -> Result<Vec<u8>, String> {
    let (kind, lease) = match ask {
        Ask::Solicit => (MessageType::Solicit, None),
        Ask::Request(lease) => (MessageType::Request, Some(lease)),
        Ask::Renew(lease) => (MessageType::Renew, Some(lease)),
    };
    let mut association = IANA {
        id: iaid(mac),
        t1: 0,
        t2: 0,
        opts: v6::DhcpOptions::new(),
    };
    let mut message = Message::new_with_id(kind, xid);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientId(duid(mac)));
    if let Some(lease) = lease {
        options.insert(DhcpOption::ServerId(lease.server.clone()));
        association.opts.insert(DhcpOption::IAAddr(IAAddr {
            addr: lease.address,
            preferred_life: 0,
            valid_life: 0,
            opts: v6::DhcpOptions::new(),
        }));
    }
    options.insert(DhcpOption::IANA(association));
    options.insert(DhcpOption::ORO(ORO {
        opts: vec![OptionCode::DomainNameServers],
    }));
    // In hundredths of a second (RFC 8415, 21.9).
    options.insert(DhcpOption::ElapsedTime(u16::try_from(waited.as_millis() / 10).unwrap_or(u16::MAX)));
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// A server's answer to our message.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Advertise(Lease),
    Reply(Lease),
    /// No address, or not this one any more.
    Refused,
}

/// Reads a packet; `None` for anything that is not a usable answer to `xid` for `mac`.
fn answer(packet: &[u8], mac: MacAddress, xid: [u8; 3]) -> Option<Answer> {
    let message = Message::decode(&mut Decoder::new(packet)).ok()?;
    let options = message.opts();
    let is_ours = matches!(options.get(OptionCode::ClientId), Some(DhcpOption::ClientId(id)) if *id == duid(mac));
    if message.xid() != xid || !is_ours {
        return None;
    }
    let Some(DhcpOption::ServerId(server)) = options.get(OptionCode::ServerId) else {
        return None;
    };
    let is_reply = match message.msg_type() {
        MessageType::Advertise => false,
        MessageType::Reply => true,
        _ => return None,
    };
    let failed = |options: &v6::DhcpOptions| {
        let status = options.get(OptionCode::StatusCode);
        matches!(status, Some(DhcpOption::StatusCode(StatusCode { status, .. })) if *status != Status::Success)
    };
    let association = options.iter().find_map(|option| match option {
        DhcpOption::IANA(association) if association.id == iaid(mac) => Some(association),
        _ => None,
    });
    let granted = association
        .filter(|association| !failed(options) && !failed(&association.opts))
        .and_then(|association| {
            association.opts.iter().find_map(|option| match option {
                DhcpOption::IAAddr(granted) if granted.valid_life > 0 && is_usable(granted.addr) => Some((association.t1, granted)),
                _ => None,
            })
        });
    let Some((t1, granted)) = granted else {
        // Who has none to offer is one of several, perhaps.
        return is_reply.then_some(Answer::Refused);
    };
    let lasts = Duration::from_secs(granted.valid_life.into()).clamp(SHORTEST_LEASE, LONGEST_LEASE);
    let lease = Lease {
        address: granted.addr,
        dns: match options.get(OptionCode::DomainNameServers) {
            Some(DhcpOption::DomainNameServers(servers)) => servers.iter().take(3).copied().collect(),
            _ => Vec::new(),
        },
        server: server.clone(),
        lasts,
        renew_after: Some(Duration::from_secs(t1.into()))
            .filter(|t1| !t1.is_zero() && *t1 < lasts)
            .unwrap_or(lasts / 2)
            .max(SHORTEST_LEASE / 2),
    };
    Some(if is_reply { Answer::Reply(lease) } else { Answer::Advertise(lease) })
}

fn is_usable(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !address.is_unicast_link_local()
}

/// One interface's client.
#[derive(Debug)]
pub struct Client {
    interface: Interface,
    socket: UdpSocket,
    started: Instant,
}

impl Client {
    /// Opens a socket on port 546 of an interface that is up.
    ///
    /// # Errors
    /// [`DhcpError::Socket`].
    pub fn open(interface: &Interface) -> Result<Self, DhcpError> {
        let open = || -> std::io::Result<UdpSocket> {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
            // Several interfaces ask at once, each from port 546.
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            rustix::net::bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, v6::CLIENT_PORT, 0, 0))?;
            let socket = UdpSocket::from_std(socket.into())?;
            socket.bind_device(Some(interface.name.as_bytes()))?;
            Ok(socket)
        };
        let socket = open().map_err(|source| DhcpError::Socket {
            interface: interface.name.clone(),
            source,
        })?;
        Ok(Self {
            interface: interface.clone(),
            socket,
            started: Instant::now(),
        })
    }

    /// Sends until an answer that `accept` takes arrives, at growing intervals, for `patience` at most.
    async fn exchange<T>(&self, ask: Ask<'_>, patience: Duration, accept: impl Fn(Answer) -> Option<T>) -> Result<T, DhcpError> {
        let end = Instant::now() + patience;
        let (xid, mac) = (random(), self.interface.mac);
        let to = SocketAddrV6::new(ALL_SERVERS, v6::SERVER_PORT, 0, self.interface.index);
        let mut wait = FIRST_WAIT;
        let mut buffer = vec![0; MAX_PACKET];
        while Instant::now() < end {
            let packet = message(ask, mac, xid, self.started.elapsed()).map_err(|error| DhcpError::Socket {
                interface: self.interface.name.clone(),
                source: std::io::Error::other(error),
            })?;
            let sent = self.socket.send_to(&packet, to).await;
            // Without a link-local address, as in the first second of a link, nothing can be sent: that comes soon.
            let pause = match &sent {
                Ok(_) => wait,
                Err(error) => {
                    tracing::debug!(interface = self.interface.name, %error, "DHCPv6 not sent");
                    FIRST_WAIT / 5
                }
            };
            let jitter = Duration::from_millis(u64::from(random::<1>()[0]) / 2);
            let until = (Instant::now() + pause + jitter).min(end);
            while let Ok(received) = timeout_at(until, self.socket.recv_from(&mut buffer)).await {
                let Ok((length, _)) = received else { break };
                if let Some(taken) = answer(&buffer[..length], mac, xid).and_then(&accept) {
                    return Ok(taken);
                }
            }
            tokio::time::sleep_until(until).await;
            if sent.is_ok() {
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
        Err(DhcpError::Silence(self.interface.name.clone()))
    }

    /// Gets a lease within `patience`.
    ///
    /// # Errors
    /// [`DhcpError::Silence`] or [`DhcpError::Refused`].
    pub async fn acquire(&self, patience: Duration) -> Result<Lease, DhcpError> {
        let offer = self
            .exchange(Ask::Solicit, patience, |a| match a {
                Answer::Advertise(lease) => Some(lease),
                Answer::Reply(_) | Answer::Refused => None,
            })
            .await?;
        self.confirm(Ask::Request(&offer), patience.min(Duration::from_secs(15))).await
    }

    /// Asks for more time for a lease.
    ///
    /// # Errors
    /// [`DhcpError::Silence`] or [`DhcpError::Refused`].
    pub async fn renew(&self, lease: &Lease, patience: Duration) -> Result<Lease, DhcpError> {
        self.confirm(Ask::Renew(lease), patience).await
    }

    async fn confirm(&self, ask: Ask<'_>, patience: Duration) -> Result<Lease, DhcpError> {
        let answer = self
            .exchange(ask, patience, |a| match a {
                Answer::Reply(lease) => Some(Some(lease)),
                Answer::Refused => Some(None),
                Answer::Advertise(_) => None,
            })
            .await?;
        answer.ok_or_else(|| DhcpError::Refused(self.interface.name.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const XID: [u8; 3] = [1, 2, 3];

    fn address() -> Ipv6Addr {
        "2001:db8::9".parse().unwrap()
    }

    fn granted(valid: u32) -> DhcpOption {
        DhcpOption::IAAddr(IAAddr {
            addr: address(),
            preferred_life: valid,
            valid_life: valid,
            opts: v6::DhcpOptions::new(),
        })
    }

    fn reply(kind: MessageType, inside: DhcpOption) -> Vec<u8> {
        let mut message = Message::new_with_id(kind, XID);
        let options = message.opts_mut();
        options.insert(DhcpOption::ClientId(duid(MAC)));
        options.insert(DhcpOption::ServerId(vec![0, 4, 7]));
        let mut association = IANA {
            id: iaid(MAC),
            t1: 1800,
            t2: 2880,
            opts: v6::DhcpOptions::new(),
        };
        association.opts.insert(inside);
        options.insert(DhcpOption::IANA(association));
        options.insert(DhcpOption::DomainNameServers(vec!["2001:db8::53".parse().unwrap()]));
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    #[test]
    fn an_advertise_is_read() {
        let Some(Answer::Advertise(lease)) = answer(&reply(MessageType::Advertise, granted(3600)), MAC, XID) else {
            panic!("no offer");
        };
        assert_eq!((lease.address, lease.server.as_slice()), (address(), &[0, 4, 7][..]));
        assert_eq!((lease.lasts.as_secs(), lease.renew_after.as_secs()), (3600, 1800));
        assert_eq!(lease.dns.len(), 1);
    }

    #[test]
    fn strangers_and_refusals_are_told_apart() {
        let good = reply(MessageType::Reply, granted(3600));
        assert!(matches!(answer(&good, MAC, XID), Some(Answer::Reply(_))));
        assert_eq!(answer(&good, MAC, [9, 9, 9]), None);
        assert_eq!(answer(&good, MacAddress([2; 6]), XID), None);
        assert_eq!(answer(&[0; 300], MAC, XID), None);
        let refused = DhcpOption::StatusCode(StatusCode {
            status: Status::NoAddrsAvail,
            msg: String::new(),
        });
        assert_eq!(answer(&reply(MessageType::Advertise, refused.clone()), MAC, XID), None);
        assert_eq!(answer(&reply(MessageType::Reply, refused), MAC, XID), Some(Answer::Refused));
        assert_eq!(answer(&reply(MessageType::Reply, granted(0)), MAC, XID), Some(Answer::Refused));
        let Some(Answer::Reply(lease)) = answer(&reply(MessageType::Reply, granted(u32::MAX)), MAC, XID) else {
            panic!("no lease");
        };
        assert_eq!(lease.lasts, LONGEST_LEASE);
    }

    #[test]
    fn requests_say_what_is_wanted() {
        let Some(Answer::Advertise(offer)) = answer(&reply(MessageType::Advertise, granted(3600)), MAC, XID) else {
            panic!("no offer");
        };
        let bytes = message(Ask::Request(&offer), MAC, XID, Duration::from_secs(2)).unwrap();
        let parsed = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert_eq!((parsed.msg_type(), parsed.xid()), (MessageType::Request, XID));
        let options = parsed.opts();
        assert_eq!(options.get(OptionCode::ServerId), Some(&DhcpOption::ServerId(vec![0, 4, 7])));
        assert_eq!(options.get(OptionCode::ElapsedTime), Some(&DhcpOption::ElapsedTime(200)));
        let Some(DhcpOption::IANA(association)) = options.get(OptionCode::IANA) else {
            panic!("no association");
        };
        assert!(matches!(association.opts.get(OptionCode::IAAddr), Some(DhcpOption::IAAddr(wanted)) if wanted.addr == address()));
    }
}
