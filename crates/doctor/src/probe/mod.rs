//! Looks: at an interface, at who answers DHCP on it, and at a boot server, by the packets that firmware sends. What is found are facts; [`crate::judge`] says what they mean.
//!
//! It needs root, or CAP_NET_RAW and CAP_NET_BIND_SERVICE: DHCP answers come to port 68, and a local firewall must not hide them.

mod boot_server;
mod dhcp;
pub mod link;

use std::{io, net::Ipv4Addr, time::Duration};

use ::dhcp::arch::Firmware;
use serde::Serialize;

pub use self::link::{Address, Link};

/// How to look.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The interface on which machines boot.
    pub interface: String,
    /// The boot server; left out: this host, by its address on the interface.
    pub server: Option<Ipv4Addr>,
    /// Its port of scripts and boot media.
    pub http_port: u16,
    /// Its port of agents.
    pub tls_port: u16,
    /// How long DHCP servers may take to answer; some look first whether an address is in use.
    pub patience: Duration,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The interface cannot be read.
    #[error("{interface}: there is no such network interface, or it cannot be read")]
    Interface {
        /// Its name.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket was refused.
    #[error("{what} on {interface}: run as root, or with CAP_NET_RAW and CAP_NET_BIND_SERVICE")]
    Socket {
        /// What for.
        what: &'static str,
        /// On which interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Which kind of machine was played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Asker {
    /// A system that wants an address and nothing else.
    System,
    /// BIOS with PXE.
    Bios,
    /// UEFI x86-64 with PXE.
    UefiX64,
    /// iPXE.
    Ipxe,
}

impl Asker {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::System, Self::Bios, Self::UefiX64, Self::Ipxe];

    /// As the table of boot files has it.
    pub fn firmware(self) -> Option<Firmware> {
        match self {
            Self::System => None,
            Self::Bios => Some(Firmware::Bios),
            Self::UefiX64 => Some(Firmware::UefiX64),
            Self::Ipxe => Some(Firmware::Ipxe),
        }
    }
}

/// An answer to a DHCPDISCOVER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offer {
    /// Who was answered.
    pub asker: Asker,
    /// Where the datagram came from.
    pub from: Ipv4Addr,
    /// MAC address of its sender: the server, or the router or relay agent that it came by.
    pub mac: Option<String>,
    /// As the server calls itself (option 54).
    pub server_id: Option<Ipv4Addr>,
    /// The address that is offered.
    pub address: Option<Ipv4Addr>,
    /// Where the boot file is (siaddr).
    pub next_server: Option<Ipv4Addr>,
    /// The boot file, by header or option 67.
    pub boot_file: String,
    /// The class that it answers (option 60).
    pub class: String,
    /// MTU that it tells (option 26).
    pub mtu: Option<u16>,
}

impl Offer {
    /// By what a server is known.
    pub fn server(&self) -> Ipv4Addr {
        self.server_id.unwrap_or(self.from)
    }

    /// Whether it says anything about booting.
    pub fn boots(&self) -> bool {
        !self.boot_file.is_empty() || self.class == "PXEClient" || self.class == "HTTPClient"
    }
}

/// How something ended that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Tried {
    /// It worked.
    Worked {
        /// How long it took.
        milliseconds: u64,
        /// What came.
        what: String,
        /// Timers that ran out on the way.
        retries: u32,
    },
    /// It did not.
    Failed {
        /// Why, for people.
        why: String,
    },
    /// It was not tried.
    NotTried {
        /// Why not.
        why: String,
    },
}

impl Tried {
    /// Whether it worked.
    pub fn worked(&self) -> bool {
        matches!(self, Self::Worked { .. })
    }
}

/// What a boot server did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootServer {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether that is this host.
    pub is_here: bool,
    /// Whether it is on the interface's own network.
    pub on_link: bool,
    /// Port 4011, asked as UEFI firmware does.
    pub proxy: Tried,
    /// The loader that it named there and has itself.
    pub loader: Option<String>,
    /// That loader over TFTP in blocks of 512 bytes, which fit everywhere.
    pub tftp_small: Tried,
    /// The same in blocks that fill a frame of 1500 bytes.
    pub tftp_full: Tried,
    /// The same in blocks that fill a frame of the interface's own MTU, where that is larger.
    pub tftp_jumbo: Tried,
    /// The script over HTTP.
    pub http: Tried,
    /// The agent's kernel over HTTP, of whichever architectures there are.
    pub media: Tried,
    /// The port for agents.
    pub tls: Tried,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The interface.
    pub link: Link,
    /// Who answered DHCPDISCOVER.
    pub offers: Vec<Offer>,
    /// The boot server; `None` where its address is not known.
    pub boot_server: Option<BootServer>,
}

/// Looks. Takes some seconds, in the calling thread.
///
/// # Errors
/// When there is no such interface, or the rights are missing.
pub fn look(settings: &Settings) -> Result<Facts, ProbeError> {
    let link = link::read(&settings.interface)?;
    let offers = dhcp::discover(settings)?;
    let address = settings.server.or_else(|| link.addresses.first().map(|a| a.address));
    let boot_server = address.map(|address| boot_server::try_all(settings, &link, address));
    Ok(Facts { link, offers, boot_server })
}
