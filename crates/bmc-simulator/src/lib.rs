//! Simulated BMCs, AMT machines and smart plugs: thousands in one process, with vendors' manners and faults as data.
//!
//! | room | what |
//! |---|---|
//! | [`profile`] | vendors' manners, from files |
//! | [`faults`] | what goes wrong, set over HTTP or by code |
//! | [`machine`] | what stands behind a controller |
//! | [`host`] | a machine's power and next boot |
//! | [`bmc`], [`fleet`] | a controller; all of them |
//! | [`redfish`] | Redfish |
//! | [`ipmi`] | IPMI 2.0 over RMCP+ |
//! | [`plug`] | Shelly, Tasmota, Home Assistant |
//! | [`amt`] | Intel AMT |
//! | [`digest`] | digest authentication, the server's side |
//! | [`http`], [`control`] | the listeners |
//! | [`ssdp`] | being found by multicast |
//! | [`datagram`] | a UDP socket for all controllers: which is meant, and answering from there |
//! | [`table`] | the profiles, for the documentation |
//! | [`counters`] | connections and requests |
//!
//! Invariants:
//! * **One socket for all** of a protocol: it is bound to all addresses, and the address at which a request arrives, one of the loopback network, says which controller is
//!   meant. What arrives at another address is dropped, so nothing of it is reachable from outside.
//! * **All protocols are one machine**: what is switched by one is seen by the others.
//! * **A profile is all that differs** between vendors; there is no vendor's name in code.
//! * It shares no code with the drivers that are tried on it: an error in one cannot hide one in the other.
//!
//! What it does not do: sensors, firmware, BIOS settings, users, SOL; of events only those that a machine went on or off. Images of virtual media are named, never fetched. It is for tests: its one password is no
//! secret.

pub mod amt;
pub mod bmc;
pub mod control;
pub mod counters;
mod datagram;
pub mod digest;
pub mod faults;
pub mod fleet;
pub mod host;
pub mod http;
pub mod ipmi;
pub mod machine;
pub mod plug;
pub mod profile;
pub mod redfish;
mod ssdp;
pub mod table;
mod tls;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, task::JoinHandle};

use self::{
    bmc::{Access, Bmc},
    counters::Counters,
    faults::Faults,
    fleet::Fleet,
    host::{Host, Timing},
    machine::{InMemory, Machine},
    profile::Profile,
    redfish::Rewrite,
};

/// The most controllers of one simulator: what fits into the loopback network, with room.
pub const MOST: usize = 100_000;

/// Makes what stands behind a controller: gets the controller's number and the machine's.
pub type Factory = Arc<dyn Fn(usize, usize) -> Arc<dyn Machine> + Send + Sync>;

/// What is simulated, and how.
#[derive(Clone)]
pub struct Options {
    /// How many controllers.
    pub controllers: usize,
    /// Their kinds, by turns.
    pub profiles: Vec<Arc<Profile>>,
    /// Machines behind each.
    pub systems: usize,
    /// The address of the first; the others follow it.
    pub first: Ipv4Addr,
    /// The port of everything that speaks HTTP; 0: any that is free.
    pub port: u16,
    /// HTTPS instead, with a certificate of its own.
    pub tls: bool,
    /// The port of IPMI; 0: any that is free. None: no IPMI.
    pub ipmi_port: Option<u16>,
    /// Where it is found by SSDP: an IPv4 address of the loopback network, or all, where it hears multicasts on the loopback interface; port 0: any that is free. None: nowhere.
    pub ssdp: Option<SocketAddr>,
    /// Where faults are set. None: nowhere.
    pub control: Option<SocketAddr>,
    /// How long things take.
    pub timing: Timing,
    /// Who is let in.
    pub user: String,
    /// The password; also that of plugs, and the token of Home Assistant.
    pub password: String,
    /// What stands behind the controllers.
    pub machines: Factory,
    /// A change to Redfish's documents on their way out.
    pub rewrite: Option<Rewrite>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controllers: 1,
            profiles: profile::ALL.clone(),
            systems: 1,
            first: Ipv4Addr::new(127, 64, 0, 1),
            port: 0,
            tls: false,
            ipmi_port: None,
            ssdp: None,
            control: None,
            timing: Timing::default(),
            user: "admin".to_owned(),
            password: "simulated-Pass-1".to_owned(),
            machines: Arc::new(|_, _| Arc::new(InMemory::default())),
            rewrite: None,
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("controllers", &self.controllers)
            .field("systems", &self.systems)
            .field("first", &self.first)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Why a simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An option cannot be.
    #[error("{field}: {problem}")]
    Option {
        /// Which.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// A socket cannot be had.
    #[error("the listener of {what} cannot be opened at {address}: {source}; name another port")]
    Listen {
        /// Of what.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running simulator. It ends when it is dropped.
#[derive(Debug)]
pub struct Simulator {
    fleet: Arc<Fleet>,
    port: u16,
    ipmi_port: Option<u16>,
    ssdp: Option<SocketAddr>,
    control: Option<SocketAddr>,
    fingerprint: Option<String>,
    servers: Vec<JoinHandle<()>>,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

fn wrong<T>(field: &'static str, problem: impl Into<String>) -> Result<T, StartError> {
    Err(StartError::Option {
        field,
        problem: problem.into(),
    })
}

fn check(options: &Options) -> Result<(), StartError> {
    if options.controllers == 0 || options.controllers > MOST {
        return wrong("controllers", format!("1 to {MOST}"));
    }
    if options.systems == 0 || options.systems > 16 {
        return wrong("systems", "1 to 16");
    }
    if options.profiles.is_empty() {
        return wrong("profiles", "name at least one");
    }
    let last = u32::from(options.first).saturating_add(u32::try_from(options.controllers).unwrap_or(u32::MAX));
    if !options.first.is_loopback() || !Ipv4Addr::from(last).is_loopback() {
        return wrong("first", "it and those that follow it must lie in 127.0.0.0/8");
    }
    if options
        .ssdp
        .is_some_and(|at| !at.is_ipv4() || !(at.ip().is_loopback() || at.ip().is_unspecified()))
    {
        return wrong("ssdp", "an address in 127.0.0.0/8, or 0.0.0.0, and a port");
    }
    if options.user.is_empty() || options.user.contains(':') || options.password.is_empty() {
        return wrong("user", "user and password must not be empty, and a user has no colon");
    }
    Ok(())
}

fn bound<T>(what: &'static str, address: SocketAddr, listener: std::io::Result<T>) -> Result<T, StartError> {
    listener.map_err(|source| StartError::Listen { what, address, source })
}

impl Simulator {
    /// Starts one, in the runtime that this is called in.
    ///
    /// # Errors
    /// [`StartError`] with the option that is wrong, or the address that cannot be had.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        check(&options)?;
        let (faults, counters) = (Arc::new(Faults::default()), Arc::new(Counters::default()));
        let all: Vec<_> = (0..options.controllers)
            .map(|index| {
                let hosts = (0..options.systems)
                    .map(|system| Host::new((options.machines)(index, system), options.timing))
                    .collect();
                let address = Ipv4Addr::from(u32::from(options.first) + u32::try_from(index).unwrap_or_default());
                let profile = Arc::clone(&options.profiles[index % options.profiles.len()]);
                let access = Access {
                    user: options.user.clone(),
                    password: options.password.clone(),
                };
                Arc::new(Bmc::new(
                    index,
                    address,
                    profile,
                    hosts,
                    access,
                    Arc::clone(&faults),
                    Arc::clone(&counters),
                ))
            })
            .collect();
        all.iter().for_each(redfish::eventing::attend);
        let fleet = Arc::new(Fleet::new(options.first, all, faults, counters, options.rewrite));
        let mut servers = Vec::new();

        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, options.port));
        let listener = bound("HTTP", address, http::listen(address))?;
        let port = bound("HTTP", address, listener.local_addr())?.port();
        let tls = match options.tls {
            false => None,
            true => match tls::make() {
                Ok(tls) => Some(tls),
                Err(problem) => return wrong("tls", problem),
            },
        };
        let (acceptor, fingerprint) = tls.map(|tls| (tls.acceptor, tls.fingerprint)).unzip();
        servers.push(tokio::spawn(http::serve(listener, Arc::clone(&fleet), acceptor)));

        let mut ipmi_port = None;
        if let Some(wanted) = options.ipmi_port {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, wanted));
            let socket = bound("IPMI", address, datagram::listen(address))?;
            ipmi_port = Some(bound("IPMI", address, socket.local_addr())?.port());
            servers.push(tokio::spawn(ipmi::serve(socket, Arc::clone(&fleet))));
        }

        let mut ssdp = None;
        if let Some(address) = options.ssdp {
            let socket = bound("SSDP", address, ssdp::listen(address))?;
            ssdp = Some(bound("SSDP", address, socket.local_addr())?);
            let scheme = if options.tls { "https" } else { "http" };
            servers.push(tokio::spawn(ssdp::serve(socket, Arc::clone(&fleet), scheme, port)));
        }

        let mut control = None;
        if let Some(address) = options.control {
            let listener = bound("control", address, TcpListener::bind(address).await)?;
            control = Some(bound("control", address, listener.local_addr())?);
            let router = control::router(Arc::clone(&fleet));
            servers.push(tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!(%error, "the control listener ended");
                }
            }));
        }
        Ok(Self {
            fleet,
            port,
            ipmi_port,
            ssdp,
            control,
            fingerprint,
            servers,
        })
    }

    /// Its controllers.
    #[must_use]
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// A controller.
    ///
    /// # Panics
    /// There is none of this number.
    #[must_use]
    pub fn bmc(&self, index: usize) -> &Arc<Bmc> {
        &self.fleet.all()[index]
    }

    /// The port of everything that speaks HTTP.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The port of IPMI, if it is simulated.
    #[must_use]
    pub const fn ipmi_port(&self) -> Option<u16> {
        self.ipmi_port
    }

    /// Where it is found by SSDP.
    #[must_use]
    pub const fn ssdp(&self) -> Option<SocketAddr> {
        self.ssdp
    }

    /// Where faults are set.
    #[must_use]
    pub const fn control(&self) -> Option<SocketAddr> {
        self.control
    }

    /// SHA-256 of the certificate, in hexadecimal digits, where it speaks HTTPS.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Scheme, address and port of a controller.
    #[must_use]
    pub fn url(&self, index: usize) -> String {
        let scheme = if self.fingerprint.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.bmc(index).address, self.port)
    }
}
