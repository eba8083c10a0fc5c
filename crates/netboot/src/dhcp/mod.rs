//! DHCP for machines that boot: ProxyDHCP beside whoever gives out addresses on the network, by default the router of the house.
//!
//! One task per interface listens at ports 67 and 4011. What is answered is decided by the crate `dhcp`, from the packet and a table of what each
//! firmware boots; here are the sockets, and the table with this replica's own addresses in it. A machine that asks for an address alone hears
//! nothing from here, and no answer from here ever has one.
//!
//! Everything that is offered leads to this replica, at the address by which the machine's packet came: it is known to be reachable, whatever else the
//! host is connected to.

mod socket;

use std::{collections::HashMap, io, net::Ipv4Addr, sync::Arc};

use agent_protocol::identity::MacAddress;
use dhcp::{
    arch::{BootTable, Firmware, Loaders, Tables},
    v4::{
        Client, Ignored,
        proxy::{self, Buffers, Policy, Site, UefiStyle},
        wire::{MessageType, PXE_PORT, Packet, SERVER_PORT},
    },
};
use tokio_util::sync::CancellationToken;

use self::socket::Socket;
use crate::{
    config::LanPorts,
    metrics::{DhcpAnswer, Metrics},
    timeline::{Moment, Timelines},
};

/// Local addresses whose tables are kept; a host with more of them on one interface makes them anew.
const MOST_TABLES: usize = 64;
/// Longest datagram that is looked at: an Ethernet frame's worth, as no DHCP client sends more.
const LONGEST: usize = 1500;

/// One interface on which this replica is a proxy.
pub(crate) struct Proxy {
    interface: String,
    sockets: [Socket; 2],
    tables: TableMaker,
    metrics: Arc<Metrics>,
    timelines: Arc<Timelines>,
}

/// Makes the table of what is booted, with the address that a machine reaches us by.
struct TableMaker {
    http_port: u16,
    /// Firmware for which there is a loader, and which.
    offers: Vec<(Firmware, Loaders)>,
    made: HashMap<Ipv4Addr, BootTable>,
}

impl TableMaker {
    fn table(&mut self, local: Ipv4Addr) -> &BootTable {
        if self.made.len() >= MOST_TABLES && !self.made.contains_key(&local) {
            self.made.clear();
        }
        let (port, offers) = (self.http_port, &self.offers);
        self.made.entry(local).or_insert_with(|| make_table(local, port, offers))
    }
}

/// Rows for which there is no loader say nothing, so that firmware goes on to what else it can boot.
fn make_table(local: Ipv4Addr, http_port: u16, offers: &[(Firmware, Loaders)]) -> BootTable {
    let root = format!("http://{local}:{http_port}/boot");
    let built_in = |loaders| {
        BootTable::built_in(loaders, &format!("{root}/loaders"), &format!("{root}/ipxe")).unwrap_or_else(|error| {
            tracing::error!(%local, %error, "the built-in boot table is refused; machines that reach us by this address get nothing to boot");
            BootTable::default()
        })
    };
    let (ipxe, signed) = (built_in(Loaders::Ipxe), built_in(Loaders::SecureBoot));
    let mut table = BootTable::default();
    for (firmware, loaders) in offers {
        let built_in = match loaders {
            Loaders::Ipxe => &ipxe,
            Loaders::SecureBoot => &signed,
        };
        if let Some(boot) = built_in.get(*firmware)
            && let Err(error) = table.set(*firmware, boot.clone())
        {
            tracing::warn!(%firmware, %error, "a row of the built-in boot table is refused");
        }
    }
    table
}

impl Proxy {
    /// Opens both ports on an interface.
    pub(crate) fn open(
        interface: &str,
        ports: LanPorts,
        http_port: u16,
        mut offers: Vec<(Firmware, Loaders)>,
        metrics: Arc<Metrics>,
        timelines: Arc<Timelines>,
    ) -> io::Result<Self> {
        offers.push((Firmware::Ipxe, Loaders::Ipxe));
        Ok(Self {
            interface: interface.to_owned(),
            sockets: [
                Socket::open(interface, ports.dhcp, SERVER_PORT)?,
                Socket::open(interface, ports.pxe, PXE_PORT)?,
            ],
            tables: TableMaker {
                http_port,
                offers,
                made: HashMap::new(),
            },
            metrics,
            timelines,
        })
    }

    /// Answers until the token is cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut buffers = Buffers::default();
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
                    tracing::error!(interface = %self.interface, %error, "the DHCP sockets do not work any more; machines of this interface get no boot parameters");
                    return;
                }
            };
            while let Some((length, arrival)) = self.sockets[ready].receive(&mut datagram) {
                let answer = answer(&datagram[..length], &arrival, &mut self.tables, &self.timelines, &mut buffers);
                self.metrics.count_dhcp(match &answer {
                    Ok((MessageType::Offer, _)) => DhcpAnswer::Offer,
                    Ok(_) => DhcpAnswer::Ack,
                    Err(_) => DhcpAnswer::None,
                });
                let Ok((kind, destination)) = answer else { continue };
                if let Err(error) = self.sockets[ready].send(&buffers.reply, destination) {
                    tracing::warn!(interface = %self.interface, ?kind, ?destination, %error, "a DHCP answer could not be sent");
                }
            }
        }
    }
}

fn answer(
    datagram: &[u8],
    arrival: &dhcp::v4::Arrival,
    tables: &mut TableMaker,
    timelines: &Timelines,
    buffers: &mut Buffers,
) -> Result<(MessageType, dhcp::v4::Destination), Option<Ignored>> {
    let packet = Packet::parse(datagram).map_err(|error| {
        tracing::trace!(source = %arrival.source, %error, "no DHCP packet");
        None
    })?;
    let client = Client::of(&packet);
    let site = Site {
        tftp: arrival.local,
        tables: Tables {
            hardware: None,
            network: None,
            built_in: tables.table(arrival.local),
        },
        uefi: UefiStyle::default(),
        // Who is to boot its own disk is told so by its script.
        policy: Policy::Answer,
    };
    let answered = proxy::answer(&packet, &client, arrival, &site, buffers);
    timelines.dhcp(&packet, &client, arrival, answered.as_ref().map(|reply| reply.kind), Moment::now());
    let reply = answered.map_err(|ignored| {
        if client.class.is_some() {
            tracing::debug!(mac = mac(&client), firmware = ?client.firmware, %ignored, "a machine that boots from the network is not answered");
        }
        Some(ignored)
    })?;
    tracing::info!(mac = mac(&client), firmware = ?client.firmware, kind = ?reply.kind, port = arrival.port, "DHCP boot parameters");
    Ok((reply.kind, reply.destination))
}

/// As logs have it.
fn mac(client: &Client) -> String {
    client.mac.map(|mac| MacAddress(mac).to_string()).unwrap_or_default()
}
