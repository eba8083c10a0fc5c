//! Bonds and VLANs by route netlink. The kernel loads `bonding` and `8021q` by itself when the first of them is made.

use agent_protocol::link::{Bond, BondMode, LacpRate, Link, TransmitHash};
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkBond, LinkUnspec, LinkVlan,
    packet_route::link::{BondLacpRate, BondMode as KernelMode, BondXmitHashPolicy, LinkAttribute, LinkMessage},
};

use super::Interface;

/// The kernel's names of what is made here. The module makes a `bond0` of its own.
const BOND: &str = "boot-bond";
/// The longest name of an interface (IFNAMSIZ without its zero).
const LONGEST_NAME: usize = 15;
/// How often the bond looks whether its NICs have a link, in milliseconds.
const MONITOR: u32 = 100;

/// Why a link could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{what} {name}: {source}")]
pub(super) struct LinkFailed {
    what: &'static str,
    name: String,
    source: rtnetlink::Error,
}

fn failed<'a>(what: &'static str, name: &'a str) -> impl FnOnce(rtnetlink::Error) -> LinkFailed + 'a {
    move |source| LinkFailed {
        what,
        name: name.to_owned(),
        source,
    }
}

/// What was made of a group of NICs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raised {
    /// What an address is asked for on.
    pub top: Interface,
    /// What lies below it and goes with it, uppermost first.
    made: Vec<u32>,
    /// What the kernel or a driver refused, while the rest does.
    pub problem: Option<String>,
}

async fn set(handle: &Handle, message: LinkMessage) -> Result<(), rtnetlink::Error> {
    handle.link().set(message).execute().await
}

/// Takes an interface up.
pub(super) async fn up(handle: &Handle, interface: &Interface) -> Result<(), LinkFailed> {
    let message = LinkUnspec::new_with_index(interface.index).up().build();
    set(handle, message).await.map_err(failed("cannot take up", &interface.name))
}

/// Sets an MTU.
pub(super) async fn set_mtu(handle: &Handle, interface: &Interface, mtu: u16) -> Result<(), LinkFailed> {
    let message = LinkUnspec::new_with_index(interface.index).mtu(mtu.into()).build();
    set(handle, message).await.map_err(failed("cannot set the MTU of", &interface.name))
}

/// Makes of `ports`, whose first gives its address, what was told. What was made is gone again after an error.
pub(super) async fn raise(handle: &Handle, link: &Link, ports: &[Interface]) -> Result<Raised, LinkFailed> {
    let mut raised = Raised {
        top: ports[0].clone(),
        made: Vec::new(),
        problem: None,
    };
    match build(handle, link, ports, &mut raised).await {
        Ok(()) => Ok(raised),
        Err(error) => {
            lower(handle, &raised).await;
            Err(error)
        }
    }
}

async fn build(handle: &Handle, link: &Link, ports: &[Interface], raised: &mut Raised) -> Result<(), LinkFailed> {
    // From below: what lies above takes the MTU over, and cannot have a larger one.
    if let Some(mtu) = link.mtu {
        for port in ports {
            if let Err(error) = set_mtu(handle, port, mtu).await {
                raised.problem = Some(format!(
                    "{} cannot have the MTU of {mtu} ({}): set a smaller one in the BareMetalNetwork",
                    port.name, error.source
                ));
            }
        }
    }
    if let Some(bond) = &link.bond {
        let mtu = link.mtu.filter(|_| raised.problem.is_none());
        raised.top = make_bond(handle, bond, mtu, ports, &mut raised.made).await?;
    }
    if let Some(vlan) = link.vlan {
        let name = vlan_name(&raised.top, vlan);
        let message = LinkVlan::new(&name, raised.top.index, vlan).up().build();
        handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(failed("cannot make the VLAN interface", &name))?;
        let index = index_of(handle, &name).await?;
        raised.made.insert(0, index);
        raised.top = Interface {
            name,
            index,
            mac: raised.top.mac,
        };
    }
    Ok(())
}

/// As everybody names them, where the kernel has room for it.
fn vlan_name(below: &Interface, vlan: u16) -> String {
    let name = format!("{}.{vlan}", below.name);
    if name.len() <= LONGEST_NAME {
        name
    } else {
        format!("nic{}.{vlan}", below.index)
    }
}

async fn make_bond(
    handle: &Handle,
    bond: &Bond,
    mtu: Option<u16>,
    ports: &[Interface],
    made: &mut Vec<u32>,
) -> Result<Interface, LinkFailed> {
    let mac = ports[0].mac;
    let mut message = LinkBond::new(BOND).address(mac.0.to_vec()).miimon(MONITOR);
    message = match bond.mode {
        BondMode::ActiveBackup => message.mode(KernelMode::ActiveBackup),
        BondMode::Lacp => message
            .mode(KernelMode::Ieee8023Ad)
            .ad_lacp_rate(match bond.lacp_rate {
                Some(LacpRate::Fast) => BondLacpRate::Fast,
                Some(LacpRate::Slow) | None => BondLacpRate::Slow,
            })
            .xmit_hash_policy(match bond.transmit_hash {
                Some(TransmitHash::Layer3And4) => BondXmitHashPolicy::Layer34,
                Some(TransmitHash::Layer2And3) => BondXmitHashPolicy::Layer23,
                Some(TransmitHash::Layer2) | None => BondXmitHashPolicy::Layer2,
            }),
    };
    if let Some(mtu) = mtu {
        message = message.mtu(mtu.into());
    }
    handle
        .link()
        .add(message.build())
        .execute()
        .await
        .map_err(failed("cannot make the bond", BOND))?;
    let top = Interface {
        name: BOND.to_owned(),
        index: index_of(handle, BOND).await?,
        mac,
    };
    made.push(top.index);
    for port in ports {
        // The kernel takes only NICs that are down, and takes them up itself.
        let down = LinkUnspec::new_with_index(port.index).down().build();
        set(handle, down).await.map_err(failed("cannot take down", &port.name))?;
        let join = LinkUnspec::new_with_index(port.index).controller(top.index).build();
        set(handle, join).await.map_err(failed("cannot put into the bond", &port.name))?;
    }
    up(handle, &top).await?;
    Ok(top)
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, LinkFailed> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await.map_err(failed("cannot find", name))? {
        Some(message) => Ok(message.header.index),
        None => Err(failed("cannot find", name)(rtnetlink::Error::RequestFailed)),
    }
}

/// The MTU that an interface has.
pub(super) async fn mtu_of(handle: &Handle, interface: &Interface) -> Option<u32> {
    let mut found = handle.link().get().match_index(interface.index).execute();
    let message = found.try_next().await.ok().flatten()?;
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// Removes what was made; the NICs of a bond are down then.
pub(super) async fn lower(handle: &Handle, raised: &Raised) {
    for index in &raised.made {
        if let Err(error) = handle.link().del(*index).execute().await {
            tracing::warn!(index, %error, "a link was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::identity::MacAddress;

    #[test]
    fn every_name_fits() {
        let name = |below: &str| {
            let interface = Interface {
                name: below.to_owned(),
                index: 70_000,
                mac: MacAddress([2; 6]),
            };
            vlan_name(&interface, 4094)
        };
        assert_eq!((name("eth0").as_str(), name(BOND).as_str()), ("eth0.4094", "boot-bond.4094"));
        assert_eq!(name("enxdeadbeefcafe"), "nic70000.4094");
    }
}
