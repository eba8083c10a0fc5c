//! DHCPv6 and router advertisements for machines that boot, in the same three modes as DHCPv4: nothing, a boot file beside somebody else's server, or addresses too.
//!
//! | part | does |
//! |---|---|
//! | this one | one task per interface listens at ports 547 and 4011, and finds the network and its mode for each message |
//! | [`plan`] | what a BareMetalNetwork means for IPv6; pure |
//! | [`advertise`] | router advertisements, where addresses are given out |
//! | [`socket`] | UDP on an interface |
//!
//! What is answered is decided by the crate `dhcp`: by its server on a network that says `Full`, by its [`proxy`] elsewhere; that module says what firmware makes of a proxy with IPv6. Whoever
//! boots is led to this replica at an address of the interface: one of the network in which addresses are given out, where there is one.
//!
//! An interface without IPv6, or without an address that is more than link-local, answers nobody; IPv4 goes on.
//!
//! Not here: asking whether somebody uses an address (IPv6 clients do that themselves), and other DHCPv6 servers.

mod advertise;
pub(super) mod plan;
mod socket;

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};

use api::DhcpMode;
use dhcp::v6::{
    Arrival, Client, Ignored, proxy,
    server::{BootSite, Reply},
    wire::{Datagram, MessageType, PXE_PORT, SERVER_PORT},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::advertise::Advertiser;
pub(super) use self::socket::Socket;
use super::{Giving, Known, Parts, full::QuestionV6, peers, tables::TableMaker, wire};
use crate::{
    config::LanInterface,
    metrics::{Dhcpv6Answer, Dhcpv6Message, Metrics},
    timeline::{Moment, Timelines},
};

/// Longest datagram that is looked at: an Ethernet frame's worth, as no DHCPv6 client sends more.
const LONGEST: usize = 1500;
/// For so long the interface's addresses are taken for what they were.
const FRESH: Duration = Duration::from_secs(1);

/// One interface on which this replica answers.
pub(crate) struct Service {
    interface: LanInterface,
    sockets: [Arc<Socket>; 2],
    advertiser: Option<Advertiser>,
    tables: TableMaker,
    known: Known,
    /// `None`: no address is given out here, whatever a network says.
    giving: Option<Giving>,
    duid: [u8; 18],
    /// Addresses of the interface, and since when.
    own: Option<(Instant, Vec<Ipv6Addr>)>,
    metrics: Arc<Metrics>,
    timelines: Arc<Timelines>,
}

/// Whether hosts of other links may know an address: no link-local one, no loopback.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

impl Service {
    /// Opens both ports on an interface. `replica`: its name.
    ///
    /// # Errors
    /// When the kernel refuses: without IPv6, or where the interface has none.
    pub(crate) fn open(interface: LanInterface, replica: &str, parts: Parts) -> io::Result<Self> {
        let name = interface.name.as_str();
        let open = |port| Socket::open(name, port, parts.ports).map(Arc::new);
        let sockets = [open(parts.ports.dhcp_v6)?, open(parts.ports.pxe)?];
        let giving = parts.giving.filter(|_| interface.may_give());
        let advertiser = giving.as_ref().and_then(|_| {
            Advertiser::open(name, parts.known.networks.clone(), parts.metrics.clone())
                .inspect_err(|error| {
                    tracing::warn!(
                        interface = name, %error,
                        "IPv6 cannot be advertised here, so machines do not ask for addresses by DHCPv6; it needs CAP_NET_RAW"
                    );
                })
                .ok()
        });
        Ok(Self {
            sockets,
            advertiser,
            tables: TableMaker::new(parts.http_port, parts.offers, parts.available),
            known: parts.known,
            giving,
            duid: peers::duid(&peers::map_name(replica)),
            own: None,
            metrics: parts.metrics,
            timelines: parts.timelines,
            interface,
        })
    }

    /// Answers until the token is cancelled.
    pub(crate) async fn run(mut self, tasks: TaskTracker, stop: CancellationToken) {
        if let Some(advertiser) = self.advertiser.take() {
            tasks.spawn(advertiser.run(stop.clone()));
        }
        let mut reply = Vec::new();
        let mut datagram = [0; LONGEST];
        loop {
            let ready = {
                let [server, pxe] = &self.sockets;
                tokio::select! {
                    () = stop.cancelled() => return,
                    ready = server.readable() => ready.map(|()| 0),
                    ready = pxe.readable() => ready.map(|()| 1),
                }
            };
            let ready = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(interface = self.interface.name, %error, "the DHCPv6 sockets do not work any more; machines of this interface get no answer by IPv6");
                    return;
                }
            };
            while let Some((length, source, asked)) = self.sockets[ready].receive(&mut datagram) {
                self.take(ready, &datagram[..length], source, asked, &mut reply);
            }
        }
    }

    /// One message.
    fn take(&mut self, socket: usize, bytes: &[u8], source: SocketAddrV6, asked: Ipv6Addr, out: &mut Vec<u8>) {
        let datagram = match Datagram::parse(bytes) {
            Ok(datagram) => datagram,
            Err(error) => {
                tracing::trace!(%source, %error, "no DHCPv6 message");
                self.metrics.count_dhcp_v6(Dhcpv6Message::Other, Dhcpv6Answer::None);
                return;
            }
        };
        let client = Client::of(&datagram, *source.ip());
        let kind = datagram.message.kind;
        let answered = self.answer(socket, &datagram, &client, source, asked, out);
        self.timelines.dhcp_v6(kind, &client, &answered, Moment::now());
        self.metrics.count_dhcp_v6(
            message(kind),
            match &answered {
                Ok(Some(reply)) if reply.kind == MessageType::Advertise => Dhcpv6Answer::Advertise,
                Ok(_) => Dhcpv6Answer::Reply,
                Err(_) => Dhcpv6Answer::None,
            },
        );
        match answered {
            Ok(Some(reply)) => {
                if client.firmware.is_some() {
                    tracing::info!(mac = super::mac_text(client.mac), firmware = ?client.firmware, message = ?kind, "DHCPv6 boot parameters");
                }
                if let Err(error) = self.sockets[socket].send(out, reply.destination) {
                    tracing::warn!(interface = self.interface.name, kind = ?reply.kind, to = %reply.destination, %error, "a DHCPv6 answer could not be sent");
                }
            }
            Ok(None) => {}
            Err(ignored) if client.firmware.is_some() => {
                tracing::debug!(mac = super::mac_text(client.mac), firmware = ?client.firmware, message = ?kind, %ignored, "a machine that boots from the network is not answered by DHCPv6");
            }
            Err(ignored) => tracing::trace!(mac = super::mac_text(client.mac), %ignored, "a DHCPv6 message is not answered"),
        }
    }

    /// `Ok(None)`: the answer follows.
    fn answer(
        &mut self,
        socket: usize,
        datagram: &Datagram<'_>,
        client: &Client,
        source: SocketAddrV6,
        asked: Ipv6Addr,
        out: &mut Vec<u8>,
    ) -> Result<Option<Reply>, Ignored> {
        // What was sent to us alone names the address by which we are reached.
        let named = Some(asked).filter(|asked| !asked.is_multicast() && !asked.is_unicast_link_local());
        let link = named.or_else(|| self.link()).ok_or(Ignored::NoNetwork(asked))?;
        let arrival = Arrival {
            link,
            source,
            multicast: asked.is_multicast(),
        };
        let of_client = datagram.link(link);
        let network = self.known.networks.dhcp(of_client.into());
        let said = network.as_ref().map_or(DhcpMode::default(), |(_, mode)| *mode);
        let about = self
            .known
            .about(client.mac, client.firmware.is_some(), network.as_ref().map(|(name, _)| &**name));
        let site = BootSite {
            tftp: link,
            tables: self.tables.tables(link.into(), about.of_machine(), about.of_network()),
        };
        match (self.interface.mode(said), network) {
            (DhcpMode::Off, _) => Err(Ignored::Policy),
            (DhcpMode::Full, Some((name, DhcpMode::Full))) if socket == 0 => {
                let giving = self.giving.as_ref().ok_or(Ignored::Policy)?;
                let question = QuestionV6 {
                    datagram,
                    client,
                    arrival: &arrival,
                    site: &site,
                };
                giving.full.handle_v6(&name, &question, &self.sockets[socket], out)
            }
            (DhcpMode::Full | DhcpMode::Proxy, _) => {
                let port = if socket == 0 { SERVER_PORT } else { PXE_PORT };
                proxy::answer(datagram, client, &arrival, port, &self.duid, &site, out).map(Some)
            }
        }
    }

    /// Our address by which machines of this interface reach us: in a network in which we give out addresses, else in one that somebody described, else any that is not link-local.
    fn link(&mut self) -> Option<Ipv6Addr> {
        let stale = self.own.as_ref().is_none_or(|(since, _)| since.elapsed() >= FRESH);
        if stale {
            let found = wire::addresses(Some(&self.interface.name)).unwrap_or_default();
            let usable = found.into_iter().filter(is_global).filter_map(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            });
            self.own = Some((Instant::now(), usable.collect()));
        }
        let (_, addresses) = self.own.as_ref()?;
        addresses
            .iter()
            .copied()
            .min_by_key(|address| match self.known.networks.dhcp((*address).into()) {
                Some((_, DhcpMode::Full)) => 0,
                Some(_) => 1,
                None => 2,
            })
    }
}

fn message(kind: MessageType) -> Dhcpv6Message {
    match kind {
        MessageType::Solicit => Dhcpv6Message::Solicit,
        MessageType::Request => Dhcpv6Message::Request,
        MessageType::Confirm => Dhcpv6Message::Confirm,
        MessageType::Renew => Dhcpv6Message::Renew,
        MessageType::Rebind => Dhcpv6Message::Rebind,
        MessageType::Release => Dhcpv6Message::Release,
        MessageType::Decline => Dhcpv6Message::Decline,
        MessageType::InformationRequest => Dhcpv6Message::InformationRequest,
        MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => Dhcpv6Message::Other,
    }
}
