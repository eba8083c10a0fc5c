//! Brings the network up: the NIC the machine booted from first, then the others.
//!
//! All links are taken up as they appear (a link needs seconds, and the inventory tells which have one), but addresses are asked for on the
//! boot NIC alone until it has been silent for [`BOOT_NIC_HEAD_START`]; then on all in parallel, and the first answer wins. The lease is
//! renewed for as long as the agent runs.

pub mod dhcp;

use std::{collections::HashSet, fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use agent_protocol::identity::MacAddress;
use dhcp::{Client, Lease};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::{task::JoinSet, time::Instant};

use crate::console::Console;

/// How long the boot NIC is asked alone.
const BOOT_NIC_HEAD_START: Duration = Duration::from_secs(15);
/// How often new interfaces are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long one round of asking lasts on an interface.
const ROUND: Duration = Duration::from_secs(60);

/// A physical interface.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Interface {
    /// The kernel's name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// Its address.
    pub mac: MacAddress,
}

/// The network as it came up.
#[derive(Debug, Clone)]
pub struct Network {
    /// The interface that has the address.
    pub interface: Interface,
    /// What was granted.
    pub lease: Lease,
}

/// All Ethernet interfaces that belong to a device.
pub fn interfaces() -> Vec<Interface> {
    interfaces_in(Path::new("/sys/class/net"))
}

fn interfaces_in(class: &Path) -> Vec<Interface> {
    let mut found: Vec<Interface> = fs::read_dir(class)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let read = |name: &str| fs::read_to_string(path.join(name)).ok().map(|t| t.trim().to_owned());
            // 1 is ARPHRD_ETHER; what has no device (lo, bonds, VLANs) is not hardware.
            if read("type")? != "1" || !path.join("device").exists() {
                return None;
            }
            Some(Interface {
                name: entry.file_name().into_string().ok()?,
                index: read("ifindex")?.parse().ok()?,
                mac: read("address")?.parse().ok()?,
            })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

type Leased = Result<(Client, Lease), dhcp::DhcpError>;

/// Brings the network up, however long it takes, and keeps it up in the background.
///
/// # Errors
/// When the kernel offers no route netlink at all.
pub async fn bring_up(boot_mac: Option<MacAddress>, console: &Arc<Console>) -> anyhow::Result<Network> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let started = Instant::now();
    let mut up = HashSet::new();
    let mut asking: HashSet<u32> = HashSet::new();
    let mut tasks: JoinSet<(Interface, Leased)> = JoinSet::new();
    let mut told = false;
    loop {
        let present = interfaces();
        for interface in &present {
            if up.insert(interface.index) {
                let link = LinkUnspec::new_with_index(interface.index).up().build();
                match handle.link().set(link).execute().await {
                    Ok(()) => console.say(format!("network {} {} up", interface.name, interface.mac)),
                    Err(error) => console.say(format!("network {} cannot be taken up: {error}", interface.name)),
                }
            }
        }
        let alone = boot_mac.is_some() && started.elapsed() < BOOT_NIC_HEAD_START;
        for interface in &present {
            if (!alone || Some(interface.mac) == boot_mac) && asking.insert(interface.index) {
                let interface = interface.clone();
                tasks.spawn(async move {
                    let leased = async {
                        let client = Client::open(&interface.name, interface.mac)?;
                        let lease = client.acquire(ROUND).await?;
                        Ok((client, lease))
                    };
                    let leased = leased.await;
                    (interface, leased)
                });
            }
        }
        if present.is_empty() && !told && started.elapsed() > BOOT_NIC_HEAD_START {
            told = true;
            console.say("network: no Ethernet interface found: the boot media may lack its driver or firmware");
        }
        let finished = tokio::select! {
            Some(finished) = tasks.join_next() => finished,
            () = tokio::time::sleep(LOOK) => continue,
        };
        match finished {
            Ok((interface, Ok((client, lease)))) => {
                tasks.abort_all();
                apply(&handle, &interface, &lease).await?;
                let network = Network { interface, lease };
                tokio::spawn(keep(handle, client, network.clone(), Arc::clone(console)));
                return Ok(network);
            }
            Ok((interface, Err(error))) => {
                console.say(format!("network: {error}"));
                asking.remove(&interface.index);
            }
            // A panic in a task: the interface is asked again with the others.
            Err(_) => asking.clear(),
        }
    }
}

/// Gives an interface its address, the default route and the name servers.
async fn apply(handle: &Handle, interface: &Interface, lease: &Lease) -> anyhow::Result<()> {
    handle
        .address()
        .add(interface.index, lease.address.into(), lease.prefix)
        .replace()
        .execute()
        .await?;
    if let Some(gateway) = lease.gateway {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(interface.index)
            .build();
        handle.route().add(route).replace().execute().await?;
    }
    if let Err(error) = fs::write("/etc/resolv.conf", resolv_conf(&lease.dns)) {
        tracing::warn!(%error, "no name servers");
    }
    Ok(())
}

fn resolv_conf(servers: &[Ipv4Addr]) -> String {
    servers.iter().map(|s| format!("nameserver {s}\n")).collect()
}

/// Renews the lease until the agent ends. An address is kept while nobody answers: an expired lease is better than a machine that
/// falls silent while it writes its disk.
async fn keep(handle: Handle, client: Client, mut network: Network, console: Arc<Console>) {
    loop {
        tokio::time::sleep(network.lease.renew_after).await;
        let patience = (network.lease.lasts.saturating_sub(network.lease.renew_after)).max(Duration::from_secs(10));
        let renewed = match client.renew(&network.lease, patience).await {
            Ok(lease) => Ok(lease),
            Err(_) => client.acquire(ROUND).await,
        };
        match renewed {
            Ok(lease) => {
                if lease.address != network.lease.address {
                    console.say(format!("network address changed to {}/{}", lease.address, lease.prefix));
                    console.update(|s| s.address = format!("{}/{}", lease.address, lease.prefix));
                    remove(&handle, &network).await;
                }
                network.lease = lease;
                if let Err(error) = apply(&handle, &network.interface, &network.lease).await {
                    tracing::warn!(%error, "lease not applied");
                }
            }
            Err(error) => {
                console.say(format!("network: lease not renewed: {error}"));
                network.lease.renew_after = Duration::from_secs(30);
            }
        }
    }
}

async fn remove(handle: &Handle, network: &Network) {
    let address = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
        .index(network.interface.index)
        .address(network.lease.address, network.lease.prefix)
        .build();
    if let Err(error) = handle.address().del(address).execute().await {
        tracing::warn!(%error, "old address not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ethernet_hardware_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kind, device) in [
            ("eth1", "1", true),
            ("eth0", "1", true),
            ("lo", "772", false),
            ("bond0", "1", false),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(if device { path.join("device") } else { path.clone() }).unwrap();
            fs::write(path.join("type"), format!("{kind}\n")).unwrap();
            fs::write(path.join("ifindex"), "2\n").unwrap();
            fs::write(path.join("address"), "52:54:00:12:34:56\n").unwrap();
        }
        let names: Vec<_> = interfaces_in(folder.path()).into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["eth0", "eth1"]);
    }
}
