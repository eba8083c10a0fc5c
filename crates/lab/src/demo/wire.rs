//! What the demo's machines are plugged into.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
};

use anyhow::Result;
use api::network::{AddressPlan, AddressRange};

use crate::{
    lan::{self, Lan},
    ports,
    qemu::{Firmware, Machine, Network},
};

/// Port of SSH in a guest.
const SSH: u16 = 22;

/// The wire.
#[derive(Debug)]
pub enum Wire {
    /// QEMU's user networking, which needs no rights: each machine is alone, and DHCP there hands out our boot URL.
    User,
    /// A LAN with a house router, whose DHCP server knows nothing of us; ours answers beside it.
    Lan(Lan),
}

impl Wire {
    /// Plugs it together.
    pub async fn make(lan: bool, state: &Path) -> Result<Self> {
        Ok(if lan { Self::Lan(Lan::make(state).await?) } else { Self::User })
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::User => {
                "network: QEMU's own for each machine, whose DHCP hands out our boot URL (no DHCP of ours, no Secure Boot)".to_owned()
            }
            Self::Lan(_) => format!(
                "network: a LAN with a house router (dnsmasq, {}) that gives out addresses and says nothing about booting; our ProxyDHCP answers beside it",
                lan::ROUTER
            ),
        }
    }

    /// What the machine with UEFI has. Only our own DHCP offers loaders that are signed, so Secure Boot needs the LAN.
    pub fn uefi(&self) -> Firmware {
        match self {
            Self::User => Firmware::Uefi,
            Self::Lan(_) => Firmware::SecureBoot,
        }
    }

    /// Where our server listens for machines on a LAN.
    pub fn listen(&self) -> Option<Ipv4Addr> {
        matches!(self, Self::Lan(_)).then_some(lan::SERVER)
    }

    /// Arguments of the server.
    pub fn arguments(&self, loaders: &str) -> Vec<String> {
        match self {
            Self::User => Vec::new(),
            Self::Lan(_) => ["--dhcp", lan::BRIDGE, "--loaders", loaders].map(str::to_owned).to_vec(),
        }
    }

    /// From which addresses instances get theirs.
    pub fn plan(&self) -> AddressPlan {
        let (prefix, gateway, dns) = match self {
            Self::User => ("10.0.2", "10.0.2.2".to_owned(), "10.0.2.3".to_owned()),
            Self::Lan(_) => ("10.77.0", lan::ROUTER.to_string(), lan::ROUTER.to_string()),
        };
        AddressPlan {
            prefix: format!("{prefix}.0/24"),
            ranges: vec![AddressRange {
                first: format!("{prefix}.100"),
                last: format!("{prefix}.199"),
            }],
            gateway: Some(gateway),
            dns: vec![dns],
            ..AddressPlan::default()
        }
    }

    /// Where a further machine's NIC is plugged in.
    pub async fn plug(&mut self, boot_url: &str) -> Result<Network> {
        Ok(match self {
            Self::User => Network::BootUrl(boot_url.to_owned()),
            Self::Lan(lan) => Network::Tap(lan.port().await?),
        })
    }

    /// Where the SSH server of a machine with that address is reached.
    pub async fn ssh(&self, machine: &Machine, address: Ipv4Addr) -> Result<SocketAddrV4> {
        let guest = SocketAddrV4::new(address, SSH);
        match self {
            Self::User => {
                let [port] = ports::free(Ipv4Addr::LOCALHOST)?;
                machine.forward(port, guest).await?;
                Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
            }
            Self::Lan(_) => Ok(guest),
        }
    }
}
