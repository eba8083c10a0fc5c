//! Where an interface's address comes from: DHCPv4, DHCPv6, the kernel, which makes one of a router's advertisement (SLAAC, RFC 4862), or the server that told a fixed one.
//!
//! Which family is asked for follows from the servers' URLs ([`families`]): the machine's loader reached its server over that one. For IPv6 both ways are tried at once and the first
//! address is taken, because whether a link has DHCPv6 (M) is told by advertisements, which the kernel keeps to itself, and whoever answers has an address to give.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use agent_protocol::fixed::FixedAddress;
use futures::TryStreamExt;
use rtnetlink::{
    AddressMessageBuilder, Handle, RouteMessageBuilder,
    packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};
use tokio::time::Instant;

use super::{
    Interface, authority,
    dhcp::{self, DhcpError},
    dhcp6,
};

/// How often the kernel is asked what has become of an address.
const LOOK: Duration = Duration::from_millis(100);
/// Nobody else has said within this time that an IPv6 address is theirs (RFC 4862, 5.4: a second, and up to another one before it).
const DUPLICATES: Duration = Duration::from_secs(4);
/// An address that the kernel made is looked at again after that; the kernel renews it.
const MADE_AGAIN: Duration = Duration::from_secs(60);
/// How long a fixed address lasts: longer than any agent runs.
const FOREVER: Duration = Duration::from_secs(0xffff_ffff);
/// Bits of a link's prefix, which nobody says who gives an IPv6 address alone: the length of every prefix that hosts make addresses of.
const LINK: u8 = 64;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// The families in which these servers may be reached, IPv4 first. A name may stand for both. With a fixed address: its family.
pub(super) fn families(servers: &[String], fixed: Option<&FixedAddress>) -> Vec<Family> {
    if let Some(fixed) = fixed {
        return vec![if fixed.address.is_ipv4() { Family::V4 } else { Family::V6 }];
    }
    let hosts = servers
        .iter()
        .filter_map(|server| Some(authority(server)?.0.parse::<IpAddr>().ok()));
    let (mut v4, mut v6) = (false, false);
    for host in hosts {
        v4 |= host.is_none_or(|address| address.is_ipv4());
        v6 |= host.is_none_or(|address| address.is_ipv6());
    }
    let wanted = [(v4 || !v6, Family::V4), (v6, Family::V6)];
    wanted.into_iter().filter_map(|(is, family)| is.then_some(family)).collect()
}

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: IpAddr,
    /// Bits of its network; of IPv6 those of the link.
    pub prefix: u8,
    /// Default gateway. Those of IPv6 the kernel knows by advertisements, unless a fixed one was told.
    pub gateway: Option<IpAddr>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// How long it lasts.
    pub lasts: Duration,
    /// When to renew it.
    pub renew_after: Duration,
}

impl From<dhcp::Lease> for Lease {
    fn from(lease: dhcp::Lease) -> Self {
        Self {
            address: lease.address.into(),
            prefix: lease.prefix,
            gateway: lease.gateway.map(IpAddr::V4),
            dns: lease.dns.into_iter().map(IpAddr::V4).collect(),
            lasts: lease.lasts,
            renew_after: lease.renew_after,
        }
    }
}

impl From<&dhcp6::Lease> for Lease {
    fn from(lease: &dhcp6::Lease) -> Self {
        Self {
            address: lease.address.into(),
            prefix: LINK,
            gateway: None,
            dns: lease.dns.iter().copied().map(IpAddr::V6).collect(),
            lasts: lease.lasts,
            renew_after: lease.renew_after,
        }
    }
}

/// Who gives an interface its address.
pub(super) enum Source {
    V4(dhcp::Client),
    V6(dhcp6::Client, dhcp6::Lease),
    /// The kernel.
    Advertised,
    /// The server, once and for all.
    Fixed,
}

impl Source {
    /// What the server told.
    pub(super) fn fixed(told: &FixedAddress) -> (Self, Lease) {
        let lease = Lease {
            address: told.address,
            prefix: told.prefix,
            gateway: told.gateway,
            dns: told.dns.clone(),
            lasts: FOREVER,
            renew_after: FOREVER,
        };
        (Self::Fixed, lease)
    }

    /// Gets an address within `patience`.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn find(
        handle: &Handle,
        family: Family,
        interface: &Interface,
        patience: Duration,
    ) -> Result<(Self, Lease), DhcpError> {
        match family {
            Family::V4 => {
                let client = dhcp::Client::open(&interface.name, interface.mac)?;
                let lease = client.acquire(patience).await?;
                Ok((Self::V4(client), lease.into()))
            }
            Family::V6 => {
                let client = dhcp6::Client::open(interface)?;
                let found = tokio::select! {
                    lease = client.acquire(patience) => Ok(lease?),
                    made = made_by_kernel(handle, interface.index) => Err(made),
                };
                Ok(match found {
                    Ok(lease) => {
                        let told = Lease::from(&lease);
                        (Self::V6(client, lease), told)
                    }
                    Err(made) => (Self::Advertised, made),
                })
            }
        }
    }

    /// Asks for more time, and for another address where there is none.
    ///
    /// # Errors
    /// Why there is neither.
    pub(super) async fn renew(
        &mut self,
        handle: &Handle,
        interface: &Interface,
        lease: &Lease,
        patience: Duration,
        round: Duration,
    ) -> Result<Lease, DhcpError> {
        match (self, lease.address) {
            (Self::Fixed, _) => Ok(lease.clone()),
            (Self::V4(client), IpAddr::V4(address)) => match client.renew(address, patience).await {
                Ok(lease) => Ok(lease.into()),
                Err(_) => client.acquire(round).await.map(Lease::from),
            },
            (Self::V6(client, known), _) => {
                *known = match client.renew(known, patience).await {
                    Ok(lease) => lease,
                    Err(_) => client.acquire(round).await?,
                };
                Ok(Lease::from(&*known))
            }
            (Self::Advertised | Self::V4(_), _) => {
                let made = tokio::time::timeout(round, made_by_kernel(handle, interface.index)).await;
                made.map_err(|_| DhcpError::Silence(interface.name.clone()))
            }
        }
    }

    /// Of the address that it gave.
    pub(super) fn family(lease: &Lease) -> Family {
        if lease.address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Bits of an address as the kernel is told it. Which IPv6 addresses are on the link is for advertisements to say (RFC 5942, 4), but where there are none.
    fn bits(&self, lease: &Lease) -> u8 {
        match (self, lease.address) {
            (Self::V6(..), IpAddr::V6(_)) => 128,
            _ => lease.prefix,
        }
    }

    /// Gives an interface its address and the default route.
    ///
    /// # Errors
    /// When the kernel refuses, or somebody else on the link has the address.
    pub(super) async fn apply(&self, handle: &Handle, interface: &Interface, lease: &Lease) -> anyhow::Result<()> {
        match (self, lease.address) {
            (Self::Advertised, _) => {}
            (_, IpAddr::V4(_)) => {
                handle
                    .address()
                    .add(interface.index, lease.address, lease.prefix)
                    .replace()
                    .execute()
                    .await?;
                if let Some(IpAddr::V4(gateway)) = lease.gateway {
                    let route = RouteMessageBuilder::<Ipv4Addr>::new()
                        .gateway(gateway)
                        .output_interface(interface.index)
                        .build();
                    handle.route().add(route).replace().execute().await?;
                }
            }
            (_, IpAddr::V6(address)) => {
                handle
                    .address()
                    .add(interface.index, lease.address, self.bits(lease))
                    .replace()
                    .execute()
                    .await?;
                is_ours_alone(handle, interface, address).await?;
                if let Some(IpAddr::V6(gateway)) = lease.gateway {
                    let route = RouteMessageBuilder::<Ipv6Addr>::new()
                        .gateway(gateway)
                        .output_interface(interface.index)
                        .build();
                    handle.route().add(route).replace().execute().await?;
                }
            }
        }
        Ok(())
    }

    /// Takes the address away again. One that the kernel made is left to it.
    pub(super) async fn remove(&self, handle: &Handle, interface: &Interface, lease: &Lease) {
        let message = match (self, lease.address) {
            (Self::Advertised, _) => return,
            (_, IpAddr::V4(address)) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(interface.index)
                .address(address, lease.prefix)
                .build(),
            (_, IpAddr::V6(address)) => AddressMessageBuilder::<Ipv6Addr>::new()
                .index(interface.index)
                .address(address, self.bits(lease))
                .build(),
        };
        if let Err(error) = handle.address().del(message).execute().await {
            tracing::warn!(%error, "old address not removed");
        }
    }
}

/// An address of an interface as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    address: Ipv6Addr,
    prefix: u8,
    tentative: bool,
    duplicate: bool,
}

fn known(message: &AddressMessage) -> Option<Known> {
    if message.header.scope != AddressScope::Universe {
        return None;
    }
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
        _ => None,
    })?;
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = flags.unwrap_or(AddressFlags::empty());
    Some(Known {
        address,
        prefix: message.header.prefix_len,
        tentative: flags.contains(AddressFlags::Tentative),
        duplicate: flags.contains(AddressFlags::Dadfailed),
    })
}

/// Addresses of an interface that other links may know. None where the kernel does not tell: it is asked again.
async fn addresses(handle: &Handle, index: u32) -> Vec<Known> {
    let stream = handle.address().get().set_link_index_filter(index).execute();
    let messages: Vec<AddressMessage> = stream.try_collect().await.unwrap_or_default();
    messages.iter().filter_map(known).collect()
}

/// Waits for an address that the kernel made of a router's advertisement.
async fn made_by_kernel(handle: &Handle, index: u32) -> Lease {
    loop {
        // One that we gave it has 128 bits.
        let made = addresses(handle, index).await;
        if let Some(made) = made.iter().find(|known| known.prefix < 128 && !known.tentative && !known.duplicate) {
            return Lease {
                address: made.address.into(),
                prefix: made.prefix,
                gateway: None,
                dns: Vec::new(),
                lasts: MADE_AGAIN * 2,
                renew_after: MADE_AGAIN,
            };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the kernel has found nobody else with an address.
async fn is_ours_alone(handle: &Handle, interface: &Interface, address: Ipv6Addr) -> anyhow::Result<()> {
    let end = Instant::now() + DUPLICATES;
    while Instant::now() < end {
        let all = addresses(handle, interface.index).await;
        match all.iter().find(|known| known.address == address) {
            Some(known) if known.duplicate => {
                anyhow::bail!(
                    "somebody else on the link of {} has the address {address} that it was given",
                    interface.name
                )
            }
            Some(known) if !known.tentative => return Ok(()),
            _ => tokio::time::sleep(LOOK).await,
        }
    }
    anyhow::bail!("{address} did not become usable on {}", interface.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_say_which_addresses_are_needed() {
        let of = |servers: &[&str]| families(&servers.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), None);
        assert_eq!(of(&["https://10.0.2.2:8443"]), [Family::V4]);
        assert_eq!(of(&["https://[2001:db8::1]:8443"]), [Family::V6]);
        assert_eq!(of(&["https://[2001:db8::1]:8443", "https://10.0.2.2"]), [Family::V4, Family::V6]);
        assert_eq!(of(&["https://kbm.example:8443"]), [Family::V4, Family::V6]);
        assert_eq!(of(&[]), [Family::V4]);
    }

    #[test]
    fn a_fixed_address_says_which_family_and_asks_nobody_ever() {
        let told = FixedAddress::read("fd00:77::50/64", Some("fe80::1"), ["fd00:77::2"]).unwrap();
        assert_eq!(families(&["https://kbm.example:8443".to_owned()], Some(&told)), [Family::V6]);
        let (source, lease) = Source::fixed(&told);
        assert_eq!((Source::family(&lease), source.bits(&lease)), (Family::V6, 64));
        assert_eq!((lease.gateway, lease.dns.len()), (told.gateway, 1));
        assert_eq!((lease.lasts, lease.renew_after), (FOREVER, FOREVER));
    }
}
