//! Brings the network up: the NIC the machine booted from first, then the others.
//!
//! All links are taken up as they appear (a link needs seconds, and the inventory tells which have one), but addresses are asked for on the
//! boot NIC alone until it has been silent for [`BOOT_NIC_HEAD_START`], or has an address and no way to a server; then on all in parallel. The first
//! NIC through which a server accepts a connection is the one; until there is one, all that have an address are tried again and again. Its lease is
//! renewed for as long as the agent runs.
//!
//! Not here: leaving that NIC later. A server that goes away comes back; a NIC that dies while the agent runs ends in a restart by a person.

pub mod dhcp;

use std::{collections::HashSet, fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use agent_protocol::identity::MacAddress;
use dhcp::{Client, Lease};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::{net::TcpSocket, task::JoinSet, time::Instant};

use crate::console::Console;

/// How long the boot NIC is asked alone.
const BOOT_NIC_HEAD_START: Duration = Duration::from_secs(15);
/// How often new interfaces are looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long one round of asking lasts on an interface.
const ROUND: Duration = Duration::from_secs(60);
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(4);
/// How long an interface without a way to a server is left alone before it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(3);
/// Every so many fruitless tries are told again.
const TELL_AGAIN: u32 = 20;

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

/// An interface with an address.
struct Candidate {
    interface: Interface,
    client: Client,
    lease: Lease,
    since: Instant,
    /// When it is tried next, and how often it was.
    next_try: Instant,
    tries: u32,
}

/// Brings the network up, however long it takes, and keeps it up in the background.
///
/// # Errors
/// When the kernel offers no route netlink at all.
pub async fn bring_up(boot_mac: Option<MacAddress>, servers: &[String], console: &Arc<Console>) -> anyhow::Result<Network> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let started = Instant::now();
    let mut up = HashSet::new();
    let mut asking: HashSet<u32> = HashSet::new();
    let mut tasks: JoinSet<(Interface, Leased)> = JoinSet::new();
    let mut waiting: Vec<Candidate> = Vec::new();
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
        let alone = boot_mac.is_some() && waiting.is_empty() && started.elapsed() < BOOT_NIC_HEAD_START;
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
            Some(finished) = tasks.join_next() => Some(finished),
            () = tokio::time::sleep(LOOK) => None,
        };
        match finished {
            Some(Ok((interface, Ok((client, lease))))) => {
                let now = Instant::now();
                waiting.push(Candidate {
                    interface,
                    client,
                    lease,
                    since: now,
                    next_try: now,
                    tries: 0,
                });
            }
            Some(Ok((interface, Err(error)))) => {
                console.say(format!("network: {error}"));
                asking.remove(&interface.index);
            }
            // A panic in a task: the interface is asked again with the others.
            Some(Err(_)) => asking.clear(),
            None => {}
        }
        // Whose lease is getting old while no server answers asks for a new one.
        waiting.retain(|c| c.since.elapsed() < c.lease.renew_after || !asking.remove(&c.interface.index));
        let Some(at) = waiting.iter().position(|c| c.next_try <= Instant::now()) else {
            continue;
        };
        let mut candidate = waiting.swap_remove(at);
        apply(&handle, &candidate.interface, &candidate.lease).await?;
        let problem = match reach(servers, &candidate.interface.name).await {
            Ok(()) => {
                tasks.abort_all();
                let network = Network {
                    interface: candidate.interface,
                    lease: candidate.lease,
                };
                tokio::spawn(keep(handle, candidate.client, network.clone(), Arc::clone(console)));
                return Ok(network);
            }
            Err(problem) => problem,
        };
        if candidate.tries.is_multiple_of(TELL_AGAIN) {
            let (name, address) = (&candidate.interface.name, candidate.lease.address);
            console.say(format!(
                "network {name} has {address} and no way to the server ({problem}); trying the other interfaces, then again"
            ));
        }
        // Without its address its routes are gone too, and do not stand in the way of another interface.
        remove(&handle, &candidate.interface, &candidate.lease).await;
        candidate.tries += 1;
        candidate.next_try = Instant::now() + TRY_AGAIN;
        waiting.push(candidate);
    }
}

/// Host and port of a server's base URL, which was checked when the command line was read.
fn authority(server: &str) -> Option<(&str, u16)> {
    let authority = server.strip_prefix("https://")?;
    if let Some((address, rest)) = authority.strip_prefix('[').and_then(|r| r.split_once(']')) {
        return Some((address, rest.strip_prefix(':').map_or(Some(443), |p| p.parse().ok())?));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, 443)),
    }
}

/// Whether any of the servers accepts a connection through this interface. `Err` holds why the last one did not.
async fn reach(servers: &[String], interface: &str) -> Result<(), String> {
    let mut problem = "no server is given".to_owned();
    for server in servers {
        let Some(authority) = authority(server) else { continue };
        let connect = async {
            let mut last = std::io::Error::other("it has no address");
            for address in tokio::net::lookup_host(authority).await? {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()
                } else {
                    TcpSocket::new_v6()
                }?;
                socket.bind_device(Some(interface.as_bytes()))?;
                match socket.connect(address).await {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match tokio::time::timeout(CONNECT, connect).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => problem = format!("{server}: {error}"),
            Err(_) => problem = format!("{server} does not answer within {} s", CONNECT.as_secs()),
        }
    }
    Err(problem)
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
                    remove(&handle, &network.interface, &network.lease).await;
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

async fn remove(handle: &Handle, interface: &Interface, lease: &Lease) {
    let address = rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new()
        .index(interface.index)
        .address(lease.address, lease.prefix)
        .build();
    if let Err(error) = handle.address().del(address).execute().await {
        tracing::warn!(%error, "old address not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_by_their_url() {
        assert_eq!(authority("https://10.0.2.2:8443"), Some(("10.0.2.2", 8443)));
        assert_eq!(authority("https://[fd00::1]:1"), Some(("fd00::1", 1)));
        assert_eq!(authority("https://[fd00::1]"), Some(("fd00::1", 443)));
        assert_eq!(authority("https://kbm.example"), Some(("kbm.example", 443)));
    }

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
