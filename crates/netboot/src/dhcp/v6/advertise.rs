//! Router advertisements on one interface: what a link's hosts need to know to ask for addresses, where we give them out. Never that we are a router.
//!
//! When they are sent is RFC 4861, 6.2.4 and 6.2.6, in a pure [`Schedule`]: some at the start, one every few minutes, and one to all after a solicitation, no faster than every three
//! seconds. Where no network of the interface says `Full` and has a plan for IPv6, nothing is sent.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};

use api::BareMetalNetwork;
use dhcp::ra::Solicitation;
use nix::libc;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::plan;
use crate::{
    dhcp::{plan::holds, wire},
    metrics::Metrics,
    objects::networks::Networks,
};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Hop limit of neighbour discovery: whoever sees another one knows that a router was in between (RFC 4861, 6.1.2).
const HOPS: u32 = 255;
/// MaxRtrAdvInterval and MinRtrAdvInterval (RFC 4861, 6.2.1).
const LONGEST: Duration = Duration::from_secs(600);
const SHORTEST: Duration = Duration::from_secs(200);
/// MAX_INITIAL_RTR_ADVERT_INTERVAL and MAX_INITIAL_RTR_ADVERTISEMENTS (RFC 4861, 10).
const AT_FIRST: Duration = Duration::from_secs(16);
const FIRST_ONES: u32 = 3;
/// MIN_DELAY_BETWEEN_RAS and MAX_RA_DELAY_TIME (RFC 4861, 10).
const APART: Duration = Duration::from_secs(3);
const DELAY: Duration = Duration::from_millis(500);
/// How often is looked whether there is something else to say.
const LOOK: Duration = Duration::from_secs(1);
/// A solicitation with its options: an Ethernet frame's worth at most.
const MESSAGE: usize = 1500;

/// When to send next.
#[derive(Debug)]
struct Schedule {
    next: Instant,
    last: Option<Instant>,
    sent: u32,
}

impl Schedule {
    /// Something new is to be said.
    fn new(now: Instant) -> Self {
        Self {
            next: now,
            last: None,
            sent: 0,
        }
    }

    /// A solicitation came. `chance`: between 0 and 1.
    fn solicited(&mut self, now: Instant, chance: f64) {
        let earliest = self.last.map_or(now, |last| (last + APART).max(now));
        self.next = self.next.min(earliest + DELAY.mul_f64(chance));
    }

    /// One was sent to all.
    fn sent(&mut self, now: Instant, chance: f64) {
        self.last = Some(now);
        self.sent = self.sent.saturating_add(1);
        let wait = SHORTEST + (LONGEST - SHORTEST).mul_f64(chance);
        self.next = now + if self.sent < FIRST_ONES { wait.min(AT_FIRST) } else { wait };
    }
}

/// See the module.
pub(super) struct Advertiser {
    interface: String,
    index: u32,
    socket: UdpSocket,
    networks: Arc<Networks>,
    metrics: Arc<Metrics>,
}

impl Advertiser {
    /// # Errors
    /// When the kernel refuses the socket: it takes CAP_NET_RAW, and IPv6 on the interface.
    pub(super) fn open(interface: &str, networks: Arc<Networks>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_hops_v6(HOPS)?;
        // What we say is not for this host.
        socket.set_multicast_loop_v6(false)?;
        socket.attach_filter(&solicitations())?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        Ok(Self {
            interface: interface.to_owned(),
            index,
            socket: wire::watched(socket)?,
            networks,
            metrics,
        })
    }

    /// Advertises until the token is cancelled.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut schedule = Schedule::new(Instant::now());
        let mut said = Vec::new();
        let mut buffer = [0; MESSAGE];
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
                length = wire::receive(&self.socket, &mut buffer) => {
                    if Solicitation::parse(&buffer[..length]).is_some() {
                        schedule.solicited(Instant::now(), chance());
                    }
                }
                () = tokio::time::sleep_until(schedule.next.into()), if !said.is_empty() => {
                    let to = SocketAddrV6::new(ALL_NODES, 0, 0, self.index);
                    match self.socket.send_to(&said, to).await {
                        Ok(_) => {
                            self.metrics.router_advertisements.inc();
                        }
                        // As without a link-local address, in the first second of an interface's life.
                        Err(error) => tracing::debug!(interface = self.interface, %error, "a router advertisement could not be sent"),
                    }
                    schedule.sent(Instant::now(), chance());
                }
            }
            let now = self.words();
            if now != said {
                if said.is_empty() != now.is_empty() {
                    tracing::info!(
                        interface = self.interface,
                        "{}",
                        if now.is_empty() {
                            "IPv6 is not advertised on this interface any more"
                        } else {
                            "IPv6 is advertised on this interface"
                        }
                    );
                }
                said = now;
                schedule = Schedule::new(Instant::now());
            }
        }
    }

    /// The message; nothing where there is nothing to say.
    fn words(&self) -> Vec<u8> {
        let addresses = wire::addresses(Some(&self.interface)).unwrap_or_default();
        let here = |network: &Arc<BareMetalNetwork>| {
            let mut own = addresses.iter().filter(|address| super::is_global(address));
            own.any(|address| IpAddr::is_ipv6(address) && holds(network, *address))
        };
        let mut networks = self.networks.full();
        networks.retain(here);
        // The same words in the same order each time.
        networks.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mac = wire::mac_of(&self.interface).ok().map(|(_, mac)| mac);
        let mut message = Vec::new();
        if let Some(advertisement) = plan::advertisement(&networks, mac) {
            advertisement.encode(&mut message);
        }
        message
    }
}

/// Between 0 and 1. Without randomness: in the middle.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// A classic BPF program (bpf(4)) on an ICMPv6 message: router solicitations that no router passed on. Else all of neighbour discovery would come by here.
fn solicitations() -> [SockFilter; 6] {
    const ROUTER_SOLICITATION: u32 = 133;
    /// Where the hop limit stands in the IPv6 header, counted from where the kernel says that this one begins.
    const HOP_LIMIT: u32 = (libc::SKF_NET_OFF + 7) as u32;
    let op = |code: u32, jt, jf, k| SockFilter::new(code as u16, jt, jf, k);
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    [
        op(load, 0, 0, 0),
        op(equal, 0, 3, ROUTER_SOLICITATION),
        op(load, 0, 0, HOP_LIMIT),
        op(equal, 0, 1, HOPS),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_come_soon_and_then_some_minutes_apart() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.next, start);
        schedule.sent(start, 1.0);
        assert_eq!(schedule.next, start + AT_FIRST);
        schedule.sent(schedule.next, 1.0);
        let third = start + AT_FIRST * 2;
        assert_eq!(schedule.next, third);
        schedule.sent(third, 0.0);
        assert_eq!(schedule.next, third + SHORTEST);
        schedule.sent(third, 1.0);
        assert_eq!(schedule.next, third + LONGEST);
    }

    #[test]
    fn whoever_asks_is_answered_soon_and_crowds_once() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.sent(start, 0.5);
        let asked = start + Duration::from_secs(10);
        schedule.solicited(asked, 1.0);
        assert_eq!(schedule.next, asked + DELAY);
        schedule.solicited(asked, 0.0);
        assert_eq!(schedule.next, asked, "the earlier one counts");
        schedule.sent(asked, 0.5);
        schedule.solicited(asked + Duration::from_millis(1), 0.0);
        assert_eq!(schedule.next, asked + APART);
    }
}
