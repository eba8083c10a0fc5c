//! DHCP for machines that boot, in one of three modes on each network: nothing, boot parameters beside whoever gives out addresses there (ProxyDHCP), or addresses too.
//!
//! | part | does |
//! |---|---|
//! | this one | DHCPv4: one task per interface listens at ports 67 and 4011, and finds the network and its mode for each packet |
//! | [`v6`] | the same for DHCPv6, at ports 547 and 4011, and router advertisements |
//! | [`full`] | addresses of both families: servers, leases, what may be answered when |
//! | [`served`] | one network in one family |
//! | [`ledger`] | which leases are written, and how; pure |
//! | [`plan`] | what a BareMetalNetwork means to the crate `dhcp`; pure |
//! | [`writer`] | leases written, networks looked at again |
//! | [`peers`] | which other replicas are there |
//! | [`wire`] | frames: whether an address is in use, what other servers say |
//! | [`others`] | DHCP servers that are none of ours |
//! | [`tables`] | what each firmware boots |
//!
//! What is answered is decided by the crate `dhcp`. Everything that is offered leads to this replica, at the address by which the machine's packet came: it is known to be reachable, whatever else
//! the host is connected to, unless a BareMetalNetwork or BareMetalHardware names another loader (`spec.bootLoaders`).
//!
//! An address is only ever given out on a network whose object says `Full`, whatever an interface was started with.

mod full;
mod ledger;
pub(crate) mod others;
mod peers;
mod plan;
mod served;
mod socket;
pub(crate) mod tables;
pub(crate) mod v6;
mod wire;
pub(crate) mod writer;

use std::{
    collections::HashMap,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use agent_protocol::identity::MacAddress;
use api::{BareMetalHardware, BareMetalNetwork, BootLoader, DhcpMode};
use dhcp::{
    arch::{Firmware, Loaders},
    v4::{
        Arrival, Client, Destination, Ignored,
        proxy::{self, Buffers, Policy, Site, UefiStyle},
        server::{BootSite, link_address},
        wire::{MessageType, PXE_PORT, Packet, SERVER_PORT},
    },
};
use lifecycle::identity::Match;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use self::{full::Full, wire::frames};
use self::{
    full::{Question, Step},
    others::Others,
    socket::Socket,
    tables::TableMaker,
    wire::Prober,
};
use crate::{
    config::{LanInterface, LanPorts},
    metrics::{DhcpAnswer, DhcpMessage, Metrics},
    objects::{cache::Cache, networks::Networks},
    timeline::{Moment, Timelines},
};

/// Longest datagram that is looked at: an Ethernet frame's worth, as no DHCP client sends more.
const LONGEST: usize = 1500;
/// Addresses that are asked for at once, on one interface. Who comes beyond that asks again.
const MOST_PROBES: usize = 2048;

/// What giving out addresses needs.
#[derive(Clone)]
pub(crate) struct Giving {
    pub(crate) full: Arc<Full>,
    pub(crate) others: Arc<Others>,
}

/// One interface on which this replica answers.
pub(crate) struct Service {
    interface: LanInterface,
    sockets: [Arc<Socket>; 2],
    ports: LanPorts,
    tables: TableMaker,
    known: Known,
    /// `None`: no address is given out here, whatever a network says.
    giving: Option<Giver>,
    metrics: Arc<Metrics>,
    timelines: Arc<Timelines>,
}

/// What giving out addresses on one interface needs.
struct Giver {
    giving: Giving,
    prober: Arc<Prober>,
    listener: Option<wire::Listener>,
    probes: Arc<Probes>,
}

/// A packet that waits until it is known whether somebody uses an address.
struct Waiting {
    datagram: Vec<u8>,
    arrival: Arrival,
}

/// Addresses that are being asked for, each with the latest packet that waits for it.
struct Probes {
    asked: Mutex<HashMap<Ipv4Addr, Waiting>>,
    /// Packets that come again.
    again: mpsc::Sender<Waiting>,
}

/// How a packet was answered.
enum Answered {
    /// With what is in the buffer.
    Now(MessageType, Destination),
    /// The same, and it confirms or refuses a lease.
    Lease(MessageType, Destination),
    /// It will be.
    Later,
    /// Nothing is to be sent.
    Nothing,
}

/// What objects say of networks and machines.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) networks: Arc<Networks>,
    pub(crate) machines: Arc<Cache>,
}

impl Known {
    /// What was said about the machine with this MAC address, and about the network, if it wants to boot; nothing about others.
    fn about(&self, mac: Option<[u8; 6]>, boots: bool, network: Option<&str>) -> Said {
        let mac = mac.map(MacAddress).filter(|_| boots);
        // By the MAC address alone: firmware and loaders do not agree how a UUID is sent.
        let machine = mac.and_then(|mac| match self.machines.match_boot(None, mac) {
            Match::Known(name) => self.machines.hardware_of(&name),
            Match::New | Match::Unclear { .. } => None,
        });
        Said {
            machine,
            network: network.filter(|_| boots).and_then(|name| self.networks.named(name)),
        }
    }
}

/// What was said about what a machine boots.
struct Said {
    machine: Option<Arc<BareMetalHardware>>,
    network: Option<Arc<BareMetalNetwork>>,
}

impl Said {
    fn of_machine(&self) -> &[BootLoader] {
        self.machine.as_ref().map_or(&[], |hardware| &hardware.spec.boot_loaders)
    }

    fn of_network(&self) -> &[BootLoader] {
        self.network.as_ref().map_or(&[], |network| &network.spec.boot_loaders)
    }
}

/// What a listener shares with other parts of the replica.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) ports: LanPorts,
    pub(crate) http_port: u16,
    pub(crate) offers: Vec<(Firmware, Loaders)>,
    pub(crate) available: Vec<(Firmware, Loaders)>,
    pub(crate) known: Known,
    pub(crate) giving: Option<Giving>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) timelines: Arc<Timelines>,
}

impl Service {
    /// Opens both ports on an interface; and where addresses may be given out, what asks for conflicts and listens for other servers.
    pub(crate) fn open(interface: LanInterface, parts: Parts) -> io::Result<(Self, Again)> {
        let name = interface.name.as_str();
        let may_give = interface.may_give();
        let (sender, again) = mpsc::channel(MOST_PROBES);
        let giving = parts.giving.filter(|_| may_give).map(|giving| Giver {
            giving,
            prober: Arc::new(Prober::open(name)),
            listener: wire::Listener::open(name, parts.ports.client)
                .inspect_err(|error| tracing::warn!(interface = name, %error, "other DHCP servers cannot be listened for"))
                .ok(),
            probes: Arc::new(Probes {
                asked: Mutex::default(),
                again: sender,
            }),
        });
        let open = |port, role| Socket::open(name, port, role, parts.ports).map(Arc::new);
        let sockets = [open(parts.ports.dhcp, SERVER_PORT)?, open(parts.ports.pxe, PXE_PORT)?];
        let service = Self {
            sockets,
            ports: parts.ports,
            tables: TableMaker::new(parts.http_port, parts.offers, parts.available),
            known: parts.known,
            giving,
            metrics: parts.metrics,
            timelines: parts.timelines,
            interface,
        };
        Ok((service, Again(again)))
    }

    /// Answers until the token is cancelled.
    pub(crate) async fn run(mut self, mut again: Again, tasks: TaskTracker, stop: CancellationToken) {
        if let Some(giver) = &mut self.giving {
            tasks.spawn(giver.prober.clone().run(stop.clone()));
            if let Some(listener) = giver.listener.take() {
                let (others, socket) = (giver.giving.others.clone(), self.sockets[0].clone());
                let (name, stop) = (self.interface.name.clone(), stop.clone());
                tasks.spawn(async move { others.listen(&name, listener, &socket, stop).await });
            }
        }
        let mut buffers = Buffers::default();
        let mut datagram = [0; LONGEST];
        loop {
            let ready = {
                let [server, pxe] = &self.sockets;
                tokio::select! {
                    () = stop.cancelled() => return,
                    ready = server.readable() => ready.map(|()| 0),
                    ready = pxe.readable() => ready.map(|()| 1),
                    Some(waiting) = again.0.recv() => {
                        self.take(0, &waiting.datagram, &waiting.arrival, &mut buffers);
                        continue;
                    }
                }
            };
            let ready = match ready {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(interface = self.interface.name, %error, "the DHCP sockets do not work any more; machines of this interface get no answer");
                    return;
                }
            };
            while let Some((length, arrival)) = self.sockets[ready].receive(&mut datagram) {
                self.take(ready, &datagram[..length], &arrival, &mut buffers);
            }
        }
    }

    /// One packet.
    fn take(&mut self, socket: usize, datagram: &[u8], arrival: &Arrival, buffers: &mut Buffers) {
        let packet = match Packet::parse(datagram) {
            Ok(packet) => packet,
            Err(error) => {
                tracing::trace!(source = %arrival.source, %error, "no DHCP packet");
                self.metrics.count_dhcp(DhcpMessage::Other, DhcpAnswer::None);
                return;
            }
        };
        // Servers ask from their own port who else is there; see `others`.
        if arrival.source.port() == self.ports.dhcp && packet.giaddr().is_unspecified() {
            return;
        }
        let client = Client::of(&packet);
        let answered = self.answer(socket, &packet, &client, arrival, buffers);
        let step = match &answered {
            Ok(Answered::Now(kind, _)) => Ok(*kind),
            // A lease is no step of a boot; the offer before it was.
            Ok(Answered::Lease(..) | Answered::Later | Answered::Nothing) => Err(&Ignored::NotForUs),
            Err(ignored) => Err(ignored),
        };
        self.timelines.dhcp(&packet, &client, arrival, step, Moment::now());
        self.metrics.count_dhcp(
            message(&packet),
            match &answered {
                Ok(Answered::Now(MessageType::Offer, _)) => DhcpAnswer::Offer,
                Ok(Answered::Now(MessageType::Nak, _) | Answered::Lease(MessageType::Nak, _)) => DhcpAnswer::Nak,
                Ok(Answered::Now(..) | Answered::Lease(..) | Answered::Later) => DhcpAnswer::Ack,
                Ok(Answered::Nothing) | Err(_) => DhcpAnswer::None,
            },
        );
        match answered {
            Ok(Answered::Now(kind, destination) | Answered::Lease(kind, destination)) => {
                if client.class.is_some() {
                    tracing::info!(mac = mac_text(client.mac), firmware = ?client.firmware, ?kind, port = arrival.port, "DHCP boot parameters");
                }
                if let Err(error) = self.sockets[socket].send(&buffers.reply, destination) {
                    tracing::warn!(interface = self.interface.name, ?kind, ?destination, %error, "a DHCP answer could not be sent");
                }
            }
            Ok(Answered::Later | Answered::Nothing) => {}
            Err(ignored) if client.class.is_some() => {
                tracing::debug!(mac = mac_text(client.mac), firmware = ?client.firmware, %ignored, "a machine that boots from the network is not answered");
            }
            Err(ignored) => tracing::trace!(mac = mac_text(client.mac), %ignored, "a DHCP packet is not answered"),
        }
    }

    fn answer(
        &mut self,
        socket: usize,
        packet: &Packet<'_>,
        client: &Client,
        arrival: &Arrival,
        buffers: &mut Buffers,
    ) -> Result<Answered, Ignored> {
        let network = self.known.networks.dhcp(link_address(packet, arrival, false).into());
        let said = network.as_ref().map_or(DhcpMode::default(), |(_, mode)| *mode);
        match (self.interface.mode(said), network) {
            (DhcpMode::Off, _) => Err(Ignored::Policy),
            (DhcpMode::Full, Some((name, DhcpMode::Full))) if arrival.port != PXE_PORT => {
                self.give(socket, &name, packet, client, arrival, buffers)
            }
            (DhcpMode::Full | DhcpMode::Proxy, network) => {
                let about = self
                    .known
                    .about(client.mac, client.firmware.is_some(), network.as_ref().map(|(name, _)| &**name));
                let site = Site {
                    tftp: arrival.local,
                    tables: self.tables.tables(arrival.local.into(), about.of_machine(), about.of_network()),
                    uefi: UefiStyle::default(),
                    // Who is to boot its own disk is told so by its script.
                    policy: Policy::Answer,
                };
                let reply = proxy::answer(packet, client, arrival, &site, buffers)?;
                Ok(Answered::Now(reply.kind, reply.destination))
            }
        }
    }

    /// An address, perhaps.
    fn give(
        &mut self,
        socket: usize,
        network: &Arc<str>,
        packet: &Packet<'_>,
        client: &Client,
        arrival: &Arrival,
        buffers: &mut Buffers,
    ) -> Result<Answered, Ignored> {
        let giver = self.giving.as_ref().ok_or(Ignored::Policy)?;
        let about = self.known.about(client.mac, client.firmware.is_some(), Some(network));
        let site = BootSite {
            tftp: arrival.local,
            tables: self.tables.tables(arrival.local.into(), about.of_machine(), about.of_network()),
        };
        let question = Question {
            packet,
            client,
            arrival,
            site: &site,
        };
        let step = giver
            .giving
            .full
            .handle(network, &question, &self.sockets[socket], &mut buffers.reply);
        if let (Err(Ignored::OtherServer), Some(server), true) = (&step, packet.server_id(), arrival.broadcast) {
            giver.giving.others.seen(network, server, None);
        }
        match step? {
            Step::Send(reply) if reply.kind == MessageType::Offer => Ok(Answered::Now(reply.kind, reply.destination)),
            Step::Send(reply) => Ok(Answered::Lease(reply.kind, reply.destination)),
            Step::Held => Ok(Answered::Later),
            Step::Done => Ok(Answered::Nothing),
            Step::Probe(address) => {
                giver.probe(network, address, packet, client, arrival);
                Ok(Answered::Nothing)
            }
        }
    }
}

/// Packets that come again after an address was asked for.
pub(crate) struct Again(mpsc::Receiver<Waiting>);

impl Giver {
    /// Asks whether somebody uses an address; then the packet comes again.
    fn probe(&self, network: &Arc<str>, address: Ipv4Addr, packet: &Packet<'_>, client: &Client, arrival: &Arrival) {
        let waiting = Waiting {
            datagram: packet.bytes().to_vec(),
            arrival: *arrival,
        };
        let mut asked = self.probes.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = !asked.contains_key(&address);
        if is_first && asked.len() >= MOST_PROBES {
            return;
        }
        // A client that asks again meanwhile may have given up on its first question.
        asked.insert(address, waiting);
        drop(asked);
        if !is_first {
            return;
        }
        let (prober, probes, full) = (self.prober.clone(), self.probes.clone(), self.giving.full.clone());
        let (network, mac, relayed) = (network.clone(), client.mac, !packet.giaddr().is_unspecified());
        tokio::spawn(async move {
            let in_use = if relayed {
                prober.far_away(address).await
            } else {
                prober.on_link(address, mac).await
            };
            full.probed(&network, address, in_use);
            let waiting = probes.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
            if let Some(waiting) = waiting {
                // At the end of the process nobody takes it any more.
                probes.again.send(waiting).await.ok();
            }
        });
    }
}

fn message(packet: &Packet<'_>) -> DhcpMessage {
    match packet.message_type() {
        Some(MessageType::Discover) => DhcpMessage::Discover,
        Some(MessageType::Request) => DhcpMessage::Request,
        Some(MessageType::Decline) => DhcpMessage::Decline,
        Some(MessageType::Release) => DhcpMessage::Release,
        Some(MessageType::Inform) => DhcpMessage::Inform,
        Some(MessageType::Offer | MessageType::Ack | MessageType::Nak) | None => DhcpMessage::Other,
    }
}

/// As logs have it.
fn mac_text(mac: Option<[u8; 6]>) -> String {
    mac.map(|mac| MacAddress(mac).to_string()).unwrap_or_default()
}
