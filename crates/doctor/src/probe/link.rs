//! An interface as the kernel shows it.

use std::{fs, io, net::Ipv4Addr};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use serde::Serialize;

use super::ProbeError;

/// An IPv4 address with its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The address.
    pub address: Ipv4Addr,
    /// Its network's mask.
    pub netmask: Ipv4Addr,
}

impl Address {
    /// Whether another address is in its network.
    pub fn holds(&self, other: Ipv4Addr) -> bool {
        let mask = self.netmask.to_bits();
        self.address.to_bits() & mask == other.to_bits() & mask
    }

    /// The address of its network.
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.netmask.to_bits())
    }

    /// Everybody in its network.
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.netmask.to_bits())
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Bytes that a frame may carry.
    pub mtu: u32,
    /// Whether it is up and has a link, as far as it says.
    pub up: bool,
    /// Its IPv4 addresses.
    pub addresses: Vec<Address>,
}

/// All IPv4 addresses of this host.
///
/// # Errors
/// When the kernel does not tell them.
pub fn own_addresses() -> io::Result<Vec<Address>> {
    let ipv4 = |address: Option<nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
    let all = getifaddrs()?.filter_map(|entry| {
        Some(Address {
            address: ipv4(entry.address)?,
            netmask: ipv4(entry.netmask)?,
        })
    });
    Ok(all.collect())
}

/// This host's IPv4 addresses in networks with others: of interfaces that are up and not the loopback.
///
/// # Errors
/// When the kernel does not tell them.
pub fn addresses_among_others() -> io::Result<Vec<Ipv4Addr>> {
    let among = |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK);
    let all = getifaddrs()?.filter(|entry| among(entry.flags));
    Ok(all.filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip())).collect())
}

/// Reads it.
///
/// # Errors
/// When there is no such interface.
pub fn read(name: &str) -> Result<Link, ProbeError> {
    let failed = |source| ProbeError::Interface {
        interface: name.to_owned(),
        source,
    };
    // A name with a slash would be another place of the file system.
    if name.is_empty() || name.len() > 15 || name.contains(['/', '\0']) || name.starts_with('.') {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    let fact = |what: &str| fs::read_to_string(format!("/sys/class/net/{name}/{what}")).map(|text| text.trim().to_owned());
    let mtu = fact("mtu").map_err(failed)?;
    let mut addresses = Vec::new();
    for entry in getifaddrs().map_err(|error| failed(error.into()))? {
        let ipv4 = |address: Option<nix::sys::socket::SockaddrStorage>| Some(address?.as_sockaddr_in()?.ip());
        if entry.interface_name == name
            && let (Some(address), Some(netmask)) = (ipv4(entry.address), ipv4(entry.netmask))
        {
            addresses.push(Address { address, netmask });
        }
    }
    // `unknown` is what loopback, taps and bridges without ports say.
    let state = fact("operstate").unwrap_or_default();
    Ok(Link {
        name: name.to_owned(),
        mac: fact("address").unwrap_or_default(),
        mtu: mtu.parse().map_err(|_| failed(io::ErrorKind::InvalidData.into()))?,
        up: state == "up" || state == "unknown",
        addresses,
    })
}

/// Whether an address is this host's.
pub(super) fn is_here(address: Ipv4Addr) -> bool {
    own_addresses().is_ok_and(|all| all.iter().any(|own| own.address == address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        let address = Address {
            address: Ipv4Addr::new(10, 77, 0, 2),
            netmask: Ipv4Addr::new(255, 255, 252, 0),
        };
        assert!(address.holds(Ipv4Addr::new(10, 77, 3, 9)) && !address.holds(Ipv4Addr::new(10, 77, 4, 1)));
        assert_eq!(address.broadcast(), Ipv4Addr::new(10, 77, 3, 255));
        assert_eq!(address.network(), Ipv4Addr::new(10, 77, 0, 0));
    }

    #[test]
    fn the_loopback_interface_is_read_and_odd_names_are_refused() {
        let lo = read("lo").unwrap();
        assert!(lo.addresses.iter().any(|a| a.address == Ipv4Addr::LOCALHOST), "{lo:?}");
        assert!(is_here(Ipv4Addr::LOCALHOST) && !is_here(Ipv4Addr::new(192, 0, 2, 1)));
        for name in ["", "..", "../../etc", "no-such-thing0", "a-name-that-is-too-long"] {
            assert!(matches!(read(name), Err(ProbeError::Interface { .. })), "{name}");
        }
    }
}
