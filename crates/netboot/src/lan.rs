//! Starts what machines need before they speak HTTP, on the interfaces that were named: ProxyDHCP ([`crate::dhcp`]) and a TFTP server with the boot loaders
//! ([`crate::loaders`]). TFTP is served at all addresses of the host: the loaders are anybody's.
//!
//! All sockets are opened before anything else of the replica starts, so that a taken port is told at once and by its number. Ports below 1024 need root or
//! CAP_NET_BIND_SERVICE.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use tftp::{Assets, Event, PortMode, transfer::Outcome};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::LanConfig,
    dhcp::Proxy,
    error::{Error, chain},
    loaders::{self, Loader},
    metrics::Metrics,
};

/// The TFTP server's port.
const TFTP_PORT: u16 = 69;

/// Everything opened, nothing running.
pub(crate) struct Lan {
    proxies: Vec<Proxy>,
    tftp: tftp::Server,
}

impl Lan {
    /// Opens the ports. `http_port` is where scripts are served. Needs a tokio runtime.
    pub(crate) fn open(config: &LanConfig, http_port: u16, metrics: &Arc<Metrics>) -> Result<Self, Error> {
        let refused = |problem: String| Error::Config {
            field: "lan.loaders",
            problem,
        };
        let loaders = loaders::read(&config.loaders).map_err(|error| refused(chain(&error)))?;
        let firmware: Vec<_> = loaders.iter().map(|loader| loader.firmware).collect();
        let proxies = config.interfaces.iter().map(|interface| {
            Proxy::open(interface, http_port, firmware.clone(), metrics.clone()).map_err(|source| Error::Dhcp {
                interface: interface.clone(),
                source,
            })
        });
        let proxies = proxies.collect::<Result<Vec<_>, Error>>()?;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, TFTP_PORT));
        let socket = UdpSocket::bind(address).map_err(|source| Error::Listen { address, source })?;
        let tftp = tftp_server(socket, &loaders, config.tftp_single_port, metrics).map_err(|source| Error::Listen { address, source })?;
        Ok(Self { proxies, tftp })
    }

    /// Serves until the token is cancelled.
    pub(crate) fn start(self, tasks: &TaskTracker, stop: &CancellationToken) {
        for proxy in self.proxies {
            tasks.spawn(proxy.run(stop.clone()));
        }
        let stop = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = self.tftp.run(stop).await {
                tracing::error!(%error, "the TFTP server ended; firmware that boots by TFTP gets no loader from this replica");
            }
        });
    }
}

fn tftp_server(socket: UdpSocket, loaders: &[Loader], single_port: bool, metrics: &Arc<Metrics>) -> io::Result<tftp::Server> {
    let mut assets = Assets::new();
    for loader in loaders {
        // The names are constants, and each is there once.
        let added = assets.add(loader.name, loader.content.clone());
        let asset = added.map_err(io::Error::other)?;
        assets.alias_suffix(loader.name, asset).map_err(io::Error::other)?;
    }
    let metrics = metrics.clone();
    let observer = move |event: &Event| match event {
        Event::Ended {
            outcome, peer, duration, ..
        } => match outcome {
            Outcome::Finished | Outcome::Probed => {
                metrics.tftp_sent.inc();
            }
            Outcome::Failed(failure) => {
                metrics.tftp_failed.inc();
                tracing::warn!(client = %peer.ip(), %failure, seconds = duration.as_secs_f64(), "a boot loader did not arrive over TFTP");
            }
        },
        Event::Refused { peer, name, reason } => {
            tracing::info!(client = %peer.ip(), name, %reason, "a TFTP request was refused");
        }
        Event::Begun { .. } => {}
    };
    let config = tftp::server::Config {
        port_mode: if single_port { PortMode::Single } else { PortMode::PerTransfer },
        observer: Arc::new(observer),
        ..tftp::server::Config::default()
    };
    tftp::Server::new(socket, Arc::new(assets), config)
}
