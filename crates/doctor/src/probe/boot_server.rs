//! A boot server, asked as machines ask it: ProxyDHCP, TFTP, HTTP, and a connection to the port for agents.
//!
//! A server on this very host is reached by the loopback interface, whatever address is dialled. There its TFTP is tried all the same; port 4011 is asked by a broadcast, which comes back in by the
//! interface. What a firewall does to other hosts is not seen so, and the report says that.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use ::dhcp::{
    arch::BootClass,
    v4::{
        probe::{PROBER, Probe},
        wire::{MessageType, PXE_PORT, Packet, code::option},
    },
};
use agent_protocol::architecture::Architecture;
use tftp::{
    client::fetch,
    wire::{OptionKind, Options},
};

use super::{BootServer, Link, Settings, Tried, link};
use crate::printable;

/// TFTP's port.
const TFTP_PORT: u16 = 69;
/// Headers of a block of TFTP in a frame: IPv4, UDP, TFTP.
const TFTP_HEADERS: u32 = 20 + 8 + 4;
/// An Ethernet frame's MTU where nobody changed it.
const USUAL_MTU: u32 = 1500;
/// How long anything may take; firmware is more patient, people are not.
const LIMIT: Duration = Duration::from_secs(5);
/// A loader is about one MiB.
const TFTP_LIMIT: Duration = Duration::from_secs(20);
/// Tries of a datagram.
const TIMES: u32 = 3;
/// Most of an HTTP answer that is read.
const MAX_ANSWER: u64 = 64 << 10;

pub(super) fn try_all(settings: &Settings, link: &Link, address: Ipv4Addr) -> BootServer {
    let is_here = link::is_here(address);
    let (proxy, loader) = proxy(settings, link, address, is_here);
    let not_tried = |why: &str| Tried::NotTried { why: why.to_owned() };
    let tftp = |mtu: Option<u32>| match &loader {
        Ok(name) => tftp(address, name, mtu),
        Err(why) => not_tried(why),
    };
    let tftp_small = tftp(None);
    let large = |mtu: u32| {
        if tftp_small.worked() {
            tftp(Some(mtu))
        } else {
            not_tried("small blocks did not come either")
        }
    };
    let tftp_full = large(link.mtu.min(USUAL_MTU));
    let tftp_jumbo = if link.mtu > USUAL_MTU && !is_here {
        large(link.mtu)
    } else {
        not_tried("frames larger than usual are not in use here")
    };
    let http = SocketAddr::from((address, settings.http_port));
    BootServer {
        address,
        is_here,
        on_link: link.addresses.iter().any(|own| own.holds(address)),
        proxy,
        loader: loader.clone().ok(),
        tftp_small,
        tftp_full,
        tftp_jumbo,
        http: get(http, "GET", "/boot/ipxe", |body| {
            if body.starts_with(b"#!ipxe") {
                Ok("the script".to_owned())
            } else {
                Err("something else than an iPXE script answers: is another server on this port?".to_owned())
            }
        }),
        media: media(http),
        tls: connect(SocketAddr::from((address, settings.tls_port))).map_or_else(
            |error| Tried::Failed { why: explain(&error) },
            |(_, milliseconds)| Tried::Worked {
                milliseconds,
                what: "a connection".to_owned(),
                retries: 0,
            },
        ),
    }
}

/// What port 4011 named.
struct Named {
    milliseconds: u64,
    retries: u32,
    file: String,
    /// Where the file is (siaddr), if that was said.
    next_server: Option<Ipv4Addr>,
}

/// Asks port 4011 as UEFI x86-64 does that has an address; also the loader that is named and is the server's own, or why there is none to ask that server for.
fn proxy(settings: &Settings, link: &Link, server: Ipv4Addr, is_here: bool) -> (Tried, Result<String, String>) {
    let unknown = || Err("no loader is known to ask for: port 4011 named none".to_owned());
    let own = link.addresses.iter().find(|own| own.holds(server)).or(link.addresses.first());
    let Some(own) = own else {
        let why = format!("{} has no address, and port 4011 is asked from one", settings.interface);
        return (Tried::NotTried { why }, unknown());
    };
    // Unicast to an own address would come in by the loopback interface, where nobody answers DHCP.
    let to = SocketAddrV4::new(if is_here { own.broadcast() } else { server }, PXE_PORT);
    match ask(own.address, to, server) {
        Ok(named) => {
            let (file, elsewhere) = (named.file, named.next_server.filter(|next| *next != server));
            let from = elsewhere.map(|next| format!(" from {next}")).unwrap_or_default();
            let worked = Tried::Worked {
                milliseconds: named.milliseconds,
                what: format!("UEFI x86-64 boots {file}{from}"),
                retries: named.retries,
            };
            let loader = match elsewhere {
                Some(next) => Err(format!("the loader that port 4011 names is on another server, {next}")),
                None => Ok(file),
            };
            (worked, loader)
        }
        Err(error) => (Tried::Failed { why: explain(&error) }, unknown()),
    }
}

fn ask(own: Ipv4Addr, to: SocketAddrV4, server: Ipv4Addr) -> io::Result<Named> {
    let mut random = [0; 9];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let [a, b, c, d, e, f, g, h, i] = random;
    let probe = Probe {
        kind: MessageType::Request,
        machine_id: Some(PROBER),
        boot: Some((BootClass::Pxe, 7)),
        ciaddr: own,
        server: Some(server),
        ..Probe::discover(u32::from_be_bytes([f, g, h, i]), [2, a, b, c, d, e])
    };
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_broadcast(true)?;
    let start = Instant::now();
    let mut buffer = [0; 1500];
    for retries in 0..TIMES {
        let sent = Instant::now();
        socket.send_to(&probe.bytes(), to)?;
        while let Some(left) = (LIMIT / TIMES).checked_sub(sent.elapsed()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            let length = match socket.recv_from(&mut buffer) {
                Ok((length, from)) if from.ip() == server => length,
                Ok(_) => continue,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
                // Where a closed port is told by ICMP, it is of use to say so.
                Err(error) => return Err(error),
            };
            let Ok(packet) = Packet::parse(&buffer[..length]) else { continue };
            if packet.xid() != probe.xid || packet.message_type() != Some(MessageType::Ack) {
                continue;
            }
            let file = packet
                .option(option::BOOT_FILE)
                .filter(|file| !file.is_empty())
                .unwrap_or(packet.file());
            let end = file.iter().position(|byte| *byte == 0).unwrap_or(file.len());
            return Ok(Named {
                milliseconds: milliseconds(start),
                retries,
                file: printable(&file[..end], 128),
                next_server: Some(packet.siaddr()).filter(|next| !next.is_unspecified()),
            });
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn tftp(server: Ipv4Addr, name: &str, mtu: Option<u32>) -> Tried {
    let mut options = Options::default();
    if let Some(mtu) = mtu {
        options.push(OptionKind::BlockSize, u64::from(mtu.saturating_sub(TFTP_HEADERS)));
    }
    let start = Instant::now();
    match fetch(SocketAddr::from((server, TFTP_PORT)), name, options, TFTP_LIMIT, |_| {}) {
        Ok(fetched) => Tried::Worked {
            milliseconds: milliseconds(start),
            what: format!("{} bytes", fetched.bytes),
            retries: fetched.timeouts,
        },
        Err(error) => Tried::Failed { why: error.to_string() },
    }
}

fn connect(to: SocketAddr) -> io::Result<(TcpStream, u64)> {
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok((stream, milliseconds(start)))
}

/// One request of HTTP/1.1, judged by its status and then by `judge`.
fn get(to: SocketAddr, method: &str, path: &str, judge: impl FnOnce(&[u8]) -> Result<String, String>) -> Tried {
    let start = Instant::now();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let answered = connect(to).and_then(|(mut stream, _)| {
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(answer)
    });
    let answer = match answered {
        Ok(answer) => answer,
        Err(error) => return Tried::Failed { why: explain(&error) },
    };
    let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let body = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map_or(&[][..], |at| &answer[at + 4..]);
    let judged = match status {
        Some(b"200") => judge(body),
        Some(status) => Err(format!("answered with {}", printable(status, 3))),
        None => Err("what answers there does not speak HTTP".to_owned()),
    };
    match judged {
        Ok(what) => Tried::Worked {
            milliseconds: milliseconds(start),
            what,
            retries: 0,
        },
        Err(why) => Tried::Failed { why },
    }
}

/// The agent's kernel. One architecture's will do: which machines there are, nobody knows here.
fn media(http: SocketAddr) -> Tried {
    let kernel = |architecture: Architecture| {
        let path = format!("/boot/media/{architecture}/vmlinuz");
        get(http, "HEAD", &path, |_| Ok(format!("the agent's kernel for {architecture}")))
    };
    let [amd64, arm64] = [Architecture::Amd64, Architecture::Arm64].map(kernel);
    match (amd64, arm64) {
        (
            Tried::Worked {
                milliseconds,
                what,
                retries,
            },
            Tried::Worked { .. },
        ) => Tried::Worked {
            milliseconds,
            what: format!("{what} and {}", Architecture::Arm64),
            retries,
        },
        (Tried::Failed { .. } | Tried::NotTried { .. }, worked @ Tried::Worked { .. }) => worked,
        (first, _) => first,
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// What an error of a socket says about the way.
fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer: a firewall drops it, or the server is not there".to_owned(),
        io::ErrorKind::ConnectionRefused => "refused: nobody listens there, or a firewall rejects it".to_owned(),
        _ => error.to_string(),
    }
}
