//! Starts what machines need before they speak HTTP, on the interfaces that were named and on no other: DHCP ([`crate::dhcp`]) and a TFTP server with the boot loaders
//! ([`crate::loaders`]).
//!
//! Both for IPv4 and IPv6. An interface without IPv6, or a host without it, is served by IPv4 alone, and the log says so.
//!
//! All sockets are bound to their interface, not to an address (SO_BINDTODEVICE): an address may come after the start, change or go, and each datagram is answered from the address that it was
//! sent to.
//!
//! All sockets are opened before anything else of the replica starts, so that a taken port is told at once and by its number. Ports below 1024 need root or
//! CAP_NET_BIND_SERVICE.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use api::timeline::BootStepKind;
use boot_script::grub;
use socket2::{Domain, Protocol, Type};
use tftp::{Assets, Event, PortMode, transfer::Outcome};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::LanConfig,
    dhcp::{Again, Parts, Service, v6},
    error::Error,
    loaders::Loaders,
    metrics::Metrics,
    timeline::{Moment, Seen, Timelines},
};

/// Where this host talks to itself.
const LOOPBACK: &str = "lo";

/// Everything opened, nothing running.
pub(crate) struct Lan {
    services: Vec<(Service, Again)>,
    services_v6: Vec<v6::Service>,
    tftp: Vec<(String, tftp::Server)>,
}

impl Lan {
    /// Opens the ports. `parts`: what DHCP needs; `replica`: this replica's name. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Dhcp`] and [`Error::Listen`] for a port of IPv4 that is not to be had.
    pub(crate) fn open(config: &LanConfig, loaders: &Loaders, replica: &str, parts: &Parts) -> Result<Self, Error> {
        let services = config.interfaces.iter().map(|interface| {
            Service::open(interface.clone(), parts.clone()).map_err(|source| Error::Dhcp {
                interface: interface.name.clone(),
                source,
            })
        });
        let services = services.collect::<Result<Vec<_>, Error>>()?;
        let services_v6 = config.interfaces.iter().filter_map(|interface| {
            v6::Service::open(interface.clone(), replica, parts.clone())
                .inspect_err(|error| {
                    tracing::warn!(interface = interface.name, %error, "DHCPv6 cannot be served on this interface; machines boot from it over IPv4 only");
                })
                .ok()
        });
        let services_v6 = services_v6.collect();
        let (metrics, timelines) = (&parts.metrics, &parts.timelines);
        let address = |ip: IpAddr| SocketAddr::new(ip, config.ports.tftp);
        let (v4, v6) = (address(Ipv4Addr::UNSPECIFIED.into()), address(Ipv6Addr::UNSPECIFIED.into()));
        let listen = |source| Error::Listen { address: v4, source };
        let assets = Arc::new(assets(loaders, parts.http_port).map_err(listen)?);
        let tftp_config = tftp_config(&assets, config.tftp_single_port, metrics, timelines);
        let serve = |interface: &str, address| {
            let socket = on_interface(interface, address)?;
            let server = tftp::Server::new(socket, assets.clone(), tftp_config.clone())?;
            Ok((interface.to_owned(), server))
        };
        let servers = config.interfaces.iter().map(|interface| serve(&interface.name, v4));
        let mut tftp: Vec<_> = servers.collect::<io::Result<_>>().map_err(listen)?;
        for interface in &config.interfaces {
            match serve(&interface.name, v6) {
                Ok(server) => tftp.push(server),
                Err(error) => {
                    tracing::warn!(interface = interface.name, %error, "TFTP cannot be served over IPv6 on this interface; machines load over IPv4 only");
                }
            }
        }
        // This host's own questions to its own addresses come by the loopback interface; `netboot doctor` asks them.
        if config.interfaces.iter().all(|interface| interface.name != LOOPBACK) {
            for address in [v4, v6] {
                match serve(LOOPBACK, address) {
                    Ok(server) => tftp.push(server),
                    Err(error) => tracing::info!(%address, %error, "TFTP is not served to this host itself; machines do not notice"),
                }
            }
        }
        Ok(Self {
            services,
            services_v6,
            tftp,
        })
    }

    /// Serves until the token is cancelled.
    pub(crate) fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        for (service, again) in self.services {
            tasks.spawn(service.run(again, tasks.clone(), stop.clone()));
        }
        for service in self.services_v6 {
            tasks.spawn(service.run(tasks.clone(), stop.clone()));
        }
        for (interface, server) in self.tftp {
            let stop = stop.clone();
            tasks.spawn(async move {
                if let Err(error) = server.run(stop).await {
                    tracing::error!(%interface, %error, "the TFTP server ended; firmware that boots by TFTP gets no loader from this replica");
                }
            });
        }
    }
}

/// A socket for what comes by one interface, to whichever of its addresses. Nobody else may have the port there.
fn on_interface(interface: &str, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // IPv4 has a socket of its own.
        socket.set_only_v6(true)?;
    }
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn assets(loaders: &Loaders, http_port: u16) -> io::Result<Assets> {
    let mut assets = Assets::new();
    let files = loaders.files.iter().map(|loader| (loader.name, loader.content.clone()));
    let first_config = (grub::FIRST_CONFIG, grub::ask_by_tftp(http_port).into());
    for (name, content) in files.chain([first_config]) {
        // The names are constants, and each is there once.
        let asset = assets.add(name, content).map_err(io::Error::other)?;
        assets.alias_suffix(name, asset).map_err(io::Error::other)?;
    }
    Ok(assets)
}

fn tftp_config(assets: &Arc<Assets>, single_port: bool, metrics: &Arc<Metrics>, timelines: &Arc<Timelines>) -> tftp::server::Config {
    let (assets, metrics, timelines) = (assets.clone(), metrics.clone(), timelines.clone());
    let observer = move |event: &Event| match event {
        Event::Ended {
            outcome,
            peer,
            duration,
            asset,
            bytes,
            resent,
            ..
        } => {
            let mut seen = Seen::new(BootStepKind::Tftp, assets.name(*asset).to_string());
            (seen.took, seen.bytes, seen.resent) = (*duration, *bytes, *resent);
            match outcome {
                Outcome::Finished => {
                    metrics.tftp_sent.inc();
                }
                Outcome::Probed => {
                    metrics.tftp_sent.inc();
                    // It asked for the size; the transfer comes next.
                    (seen.counts, seen.took) = (false, Duration::ZERO);
                }
                Outcome::Failed(failure) => {
                    metrics.tftp_failed.inc();
                    seen.failed = true;
                    seen.detail = format!("{}: {failure}", seen.detail);
                    tracing::warn!(client = %peer.ip(), %failure, seconds = duration.as_secs_f64(), "a boot loader did not arrive over TFTP");
                }
            }
            timelines.seen_from(peer.ip(), seen, Moment::now());
        }
        // GRUB asks for a dozen files that nobody has to have before and after its configuration.
        Event::Refused { peer, name, reason } if name.contains("grub/") => {
            tracing::debug!(client = %peer.ip(), name, %reason, "a TFTP request was refused");
        }
        Event::Refused { peer, name, reason } => {
            tracing::info!(client = %peer.ip(), name, %reason, "a TFTP request was refused");
            let mut seen = Seen::new(BootStepKind::TftpRefused, format!("{name}: {reason}"));
            seen.failed = true;
            timelines.seen_from(peer.ip(), seen, Moment::now());
        }
        Event::Begun { .. } => {}
    };
    tftp::server::Config {
        port_mode: if single_port { PortMode::Single } else { PortMode::PerTransfer },
        observer: Arc::new(observer),
        ..tftp::server::Config::default()
    }
}
