//! Brings the network up: the NIC the machine booted from first, then the others; where the server told a VLAN or a bond, over those.
//!
//! All links are taken up as they appear (a link needs seconds, and the inventory tells which have one), but addresses are asked for on the
//! boot NIC alone until it has been silent for a while, or has an address and no way to a server; then on all in parallel ([`plan`]). The first
//! NIC through which a server accepts a connection is the one; until there is one, all that have an address are tried again and again. Its lease is
//! renewed for as long as the agent runs. Only one NIC has an IPv4 address at a time, and answers ARP for it alone, so that several in one LAN do not meet.
//!
//! IPv4 or IPv6 is asked for as the servers' URLs are, both where those leave it open ([`source`]). Where the server told a fixed address, nobody is asked: the boot NIC has it, and no other NIC is tried.
//!
//! A VLAN or bond that leads nowhere is given up after a while for the NICs as they are, and tried again later: [`Network`] tells what came of it.
//!
//! Not here: leaving that NIC later. A server that goes away comes back; a NIC that dies while the agent runs ends in a restart by a person, unless it is one of a bond.

pub mod dhcp;
pub mod dhcp6;
mod links;
mod path;
mod plan;
mod source;

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use agent_protocol::{
    fixed::FixedAddress,
    identity::MacAddress,
    link::{Bond, Connection, Link},
};
use links::Raised;
use plan::{Nic, Way};
use rtnetlink::Handle;
pub use source::Lease;
use source::{Family, Source};
use tokio::{net::TcpSocket, task::JoinSet, time::Instant};

use crate::{cmdline::CommandLine, console::Console};

/// After this long without any NIC, that is told.
const NO_NIC: Duration = Duration::from_secs(15);
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

/// A physical interface, or one that was made of them.
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
    /// The NIC that it is or lies on; of a bond, the one that gives its address.
    pub nic: Interface,
    /// What was granted.
    pub lease: Lease,
    /// How it is connected.
    pub connection: Connection,
}

/// All Ethernet interfaces that belong to a device.
fn nics_in(class: &Path) -> Vec<Nic> {
    let mut found: Vec<Nic> = fs::read_dir(class)
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
            // All NICs of a bond have its address at present.
            let address = read("bonding_slave/perm_hwaddr").or_else(|| read("address"))?;
            Some(Nic {
                interface: Interface {
                    name: entry.file_name().into_string().ok()?,
                    index: read("ifindex")?.parse().ok()?,
                    mac: address.parse().ok()?,
                },
                carrier: read("carrier").as_deref() == Some("1"),
            })
        })
        .collect();
    found.sort_by(|a, b| a.interface.name.cmp(&b.interface.name));
    found
}

type Leased = Result<(Source, Lease), dhcp::DhcpError>;

/// A group of NICs with an address.
struct Candidate {
    nics: Vec<Interface>,
    raised: Raised,
    source: Source,
    lease: Lease,
    since: Instant,
    /// When it is tried next, and how often it was.
    next_try: Instant,
    tries: u32,
}

/// What does not change while the network is brought up.
struct Search<'a> {
    handle: Handle,
    boot_mac: Option<MacAddress>,
    fixed: Option<&'a FixedAddress>,
    servers: &'a [String],
    console: &'a Arc<Console>,
}

/// Brings the network up as the server told, however long it takes, and keeps it up in the background.
///
/// # Errors
/// When the kernel offers no route netlink at all.
pub async fn bring_up(told: &CommandLine, console: &Arc<Console>) -> anyhow::Result<Network> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    // Else every NIC in a LAN answers for the address of the one that has it, and gets its packets.
    for (name, value) in [("arp_ignore", "1"), ("arp_announce", "2")] {
        if let Err(error) = fs::write(format!("/proc/sys/net/ipv4/conf/all/{name}"), value) {
            tracing::warn!(name, %error, "not set");
        }
    }
    let search = Search {
        handle,
        boot_mac: told.boot_mac,
        fixed: told.fixed.as_ref(),
        servers: &told.servers,
        console,
    };
    let ways = plan::ways(&told.link);
    let mut problem = None;
    for way in ways.iter().cycle() {
        let why = match search.attempt(way).await? {
            Ok((candidate, server)) => return Ok(search.settle(way, problem.filter(|_| way.link.is_plain()), candidate, server).await),
            Err(why) => why,
        };
        if way.link.is_plain() {
            continue;
        }
        let text = format!("no way to a server over {}, as this machine was told: {why}", way.link);
        console.say(format!("network: {text}; trying without"));
        problem = Some(format!(
            "{text}. Correct spec.bootNetwork of its BareMetalHardware or BareMetalNetwork, or the switch; it was reached over the NIC as it is"
        ));
    }
    anyhow::bail!("there is no way to try")
}

impl Search<'_> {
    /// Tries one way until a server is reached or its time is over; then why.
    async fn attempt(&self, way: &Way) -> anyhow::Result<Result<(Candidate, SocketAddr), String>> {
        let started = Instant::now();
        let mut up = HashSet::new();
        let families = source::families(self.servers, self.fixed);
        // By the number of a group's first NIC.
        let mut asking: HashSet<(u32, Family)> = HashSet::new();
        let mut raised: Vec<(Vec<Interface>, Raised)> = Vec::new();
        let mut tasks: JoinSet<(Vec<Interface>, Raised, Family, Leased)> = JoinSet::new();
        let mut waiting: Vec<Candidate> = Vec::new();
        let mut told = false;
        let mut why = None;
        while way.patience.is_none_or(|patience| started.elapsed() < patience) {
            let present = nics_in(Path::new("/sys/class/net"));
            for Nic { interface, .. } in &present {
                if up.insert(interface.index) {
                    match links::up(&self.handle, interface).await {
                        Ok(()) => self.console.say(format!("network {} {} up", interface.name, interface.mac)),
                        Err(error) => self.console.say(format!("network: {error}")),
                    }
                }
            }
            let groups = match raised.first() {
                // One bond, and nothing beside it: who appears later stays out.
                Some((nics, _)) if way.link.bond.is_some() => vec![nics.clone()],
                _ => {
                    // Nothing says of another NIC what it is plugged into: a fixed address stays where it belongs.
                    let alone = waiting.is_empty() && self.fixed.is_none();
                    let groups = plan::groups(&way.link, self.boot_mac, &present, started.elapsed(), alone);
                    let belongs =
                        |nics: &Vec<Interface>| self.fixed.is_none() || nics.first().is_some_and(|nic| Some(nic.mac) == self.boot_mac);
                    groups.into_iter().filter(belongs).collect()
                }
            };
            for nics in groups {
                let Some(first) = nics.first().map(|nic| nic.index) else { continue };
                let mut wanted = families.clone();
                wanted.retain(|family| asking.insert((first, *family)));
                if wanted.is_empty() {
                    continue;
                }
                let made = match raised.iter().find(|(of, _)| of[0].index == first) {
                    Some((_, made)) => made.clone(),
                    None => match links::raise(&self.handle, &way.link, &nics).await {
                        Ok(made) => {
                            raised.push((nics.clone(), made.clone()));
                            made
                        }
                        Err(error) => {
                            // It is not tried again before the next way.
                            self.console.say(format!("network: {error}"));
                            why = Some(error.to_string());
                            continue;
                        }
                    },
                };
                if made.top != nics[0] {
                    let names: Vec<&str> = nics.iter().map(|nic| nic.name.as_str()).collect();
                    self.console
                        .say(format!("network {}: {} of {}", made.top.name, way.link, names.join(", ")));
                }
                for family in wanted {
                    let (handle, nics, made, fixed) = (self.handle.clone(), nics.clone(), made.clone(), self.fixed.cloned());
                    tasks.spawn(async move {
                        let leased = match &fixed {
                            Some(fixed) => Ok(Source::fixed(fixed)),
                            None => Source::find(&handle, family, &made.top, ROUND).await,
                        };
                        (nics, made, family, leased)
                    });
                }
            }
            let missing = self
                .fixed
                .and(self.boot_mac)
                .filter(|mac| present.iter().all(|nic| nic.interface.mac != *mac));
            if (present.is_empty() || missing.is_some()) && !told && started.elapsed() > NO_NIC {
                told = true;
                match missing.filter(|_| !present.is_empty()) {
                    Some(mac) => self.console.say(format!(
                        "network: no interface has the address {mac} that the fixed address was told for: correct mac in spec.power of its BareMetalHardware"
                    )),
                    None => self
                        .console
                        .say("network: no Ethernet interface found: the boot media may lack its driver or firmware"),
                }
            }
            let finished = tokio::select! {
                Some(finished) = tasks.join_next() => Some(finished),
                () = tokio::time::sleep(LOOK) => None,
            };
            match finished {
                Some(Ok((nics, raised, _, Ok((source, lease))))) => {
                    let now = Instant::now();
                    waiting.push(Candidate {
                        nics,
                        raised,
                        source,
                        lease,
                        since: now,
                        next_try: now,
                        tries: 0,
                    });
                }
                Some(Ok((nics, _, family, Err(error)))) => {
                    self.console.say(format!("network: {error}"));
                    why = Some(error.to_string());
                    asking.remove(&(nics[0].index, family));
                }
                // A panic in a task: the interface is asked again with the others.
                Some(Err(_)) => asking.clear(),
                None => {}
            }
            // Whose lease is getting old while no server answers asks for a new one.
            waiting.retain(|c| c.since.elapsed() < c.lease.renew_after || !asking.remove(&(c.nics[0].index, Source::family(&c.lease))));
            let Some(at) = waiting.iter().position(|c| c.next_try <= Instant::now()) else {
                continue;
            };
            let mut candidate = waiting.swap_remove(at);
            let top = candidate.raised.top.clone();
            let problem = match self.try_one(&candidate).await? {
                Ok(server) => return Ok(Ok((candidate, server))),
                Err(problem) => problem,
            };
            let text = format!("{} has {} and no way to the server ({problem})", top.name, candidate.lease.address);
            if candidate.tries.is_multiple_of(TELL_AGAIN) {
                self.console.say(format!("network {text}; trying the other interfaces, then again"));
            }
            why = Some(text);
            // Without its address its routes are gone too, and do not stand in the way of another interface.
            candidate.source.remove(&self.handle, &top, &candidate.lease).await;
            candidate.tries += 1;
            candidate.next_try = Instant::now() + TRY_AGAIN;
            waiting.push(candidate);
        }
        tasks.shutdown().await;
        for (_, made) in &raised {
            links::lower(&self.handle, made).await;
        }
        let silent = if raised.is_empty() {
            "none of the NICs that were meant has come up"
        } else {
            "no DHCP server answered"
        };
        Ok(Err(why.unwrap_or_else(|| silent.to_owned())))
    }

    /// Gives an interface its address, and looks for a way to a server from there; or why there is none.
    async fn try_one(&self, candidate: &Candidate) -> anyhow::Result<Result<SocketAddr, String>> {
        let (top, lease) = (&candidate.raised.top, &candidate.lease);
        if let Err(error) = candidate.source.apply(&self.handle, top, lease).await {
            // An IPv4 address that the kernel does not take is a defect, an IPv6 address may be somebody else's.
            return if lease.address.is_ipv4() {
                Err(error)
            } else {
                Ok(Err(error.to_string()))
            };
        }
        name_servers(&lease.dns);
        Ok(reach(self.servers, &top.name, lease.address).await)
    }

    /// The one is found: sees to its MTU, and keeps its lease.
    async fn settle(&self, way: &Way, mut problem: Option<String>, candidate: Candidate, server: SocketAddr) -> Network {
        let top = candidate.raised.top;
        let mut note = |text: String| {
            self.console.say(format!("network {}: {text}", top.name));
            problem = Some(problem.take().map_or(text.clone(), |before| format!("{before}; {text}")));
        };
        let refused = candidate.raised.problem;
        if let (Some(wanted), None) = (way.link.mtu, &refused) {
            let (mtu, smaller) = path::usable(server, &top, wanted).await;
            if let Some(text) = smaller {
                note(text);
                if let Err(error) = links::set_mtu(&self.handle, &top, mtu).await {
                    note(error.to_string());
                }
            }
        }
        refused.into_iter().for_each(note);
        let mtu = links::mtu_of(&self.handle, &top).await.unwrap_or_default();
        if way.link != Link::default() {
            self.console.say(format!("network {} is connected with an MTU of {mtu}", top.name));
        }
        let network = Network {
            connection: Connection {
                interface: top.name.clone(),
                mtu,
                vlan: way.link.vlan,
                bond: way.link.bond.as_ref().map(|bond| Bond {
                    members: candidate.nics.iter().map(|nic| nic.mac).collect(),
                    ..bond.clone()
                }),
                problem,
            },
            interface: top,
            nic: candidate.nics[0].clone(),
            lease: candidate.lease,
        };
        let (handle, console) = (self.handle.clone(), Arc::clone(self.console));
        tokio::spawn(keep(handle, candidate.source, network.clone(), console));
        network
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

/// Where one of the servers accepts a connection from this address. `Err` holds why the last one did not.
///
/// The address is what ties it to the interface: a socket that is bound to an interface takes whatever has no route for a neighbour there, and some neighbours answer.
async fn reach(servers: &[String], interface: &str, own: IpAddr) -> Result<SocketAddr, String> {
    let mut problem = "no server is given".to_owned();
    for server in servers {
        let Some(authority) = authority(server) else { continue };
        let connect = async {
            let mut last = std::io::Error::other(format!("it has no {} address", if own.is_ipv4() { "IPv4" } else { "IPv6" }));
            let found = tokio::net::lookup_host(authority).await?;
            for address in found.filter(|address| address.is_ipv4() == own.is_ipv4()) {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()?
                } else {
                    let socket = TcpSocket::new_v6()?;
                    // Several NICs may have an address that the kernel made of the same advertisement.
                    socket.bind_device(Some(interface.as_bytes()))?;
                    socket
                };
                socket.bind((own, 0).into())?;
                match socket.connect(address).await {
                    Ok(_) => return Ok(address),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        match tokio::time::timeout(CONNECT, connect).await {
            Ok(Ok(address)) => return Ok(address),
            Ok(Err(error)) => problem = format!("{server}: {error}"),
            Err(_) => problem = format!("{server} does not answer within {} s", CONNECT.as_secs()),
        }
    }
    Err(problem)
}

fn name_servers(servers: &[IpAddr]) {
    // Who says none may have no say in it: the kernel made its address.
    if !servers.is_empty()
        && let Err(error) = fs::write("/etc/resolv.conf", resolv_conf(servers))
    {
        tracing::warn!(%error, "no name servers");
    }
}

fn resolv_conf(servers: &[IpAddr]) -> String {
    servers.iter().map(|s| format!("nameserver {s}\n")).collect()
}

/// Renews the lease until the agent ends. An address is kept while nobody answers: an expired lease is better than a machine that
/// falls silent while it writes its disk.
async fn keep(handle: Handle, mut source: Source, mut network: Network, console: Arc<Console>) {
    loop {
        tokio::time::sleep(network.lease.renew_after).await;
        let patience = (network.lease.lasts.saturating_sub(network.lease.renew_after)).max(Duration::from_secs(10));
        let renewed = source.renew(&handle, &network.interface, &network.lease, patience, ROUND).await;
        match renewed {
            Ok(lease) => {
                if lease.address != network.lease.address {
                    console.say(format!("network address changed to {}/{}", lease.address, lease.prefix));
                    console.update(|s| s.address = format!("{}/{}", lease.address, lease.prefix));
                    source.remove(&handle, &network.interface, &network.lease).await;
                }
                network.lease = lease;
                if let Err(error) = source.apply(&handle, &network.interface, &network.lease).await {
                    tracing::warn!(%error, "lease not applied");
                }
                name_servers(&network.lease.dns);
            }
            Err(error) => {
                console.say(format!("network: lease not renewed: {error}"));
                network.lease.renew_after = Duration::from_secs(30);
            }
        }
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
        let in_bond = folder.path().join("eth1/bonding_slave");
        fs::create_dir(&in_bond).unwrap();
        fs::write(in_bond.join("perm_hwaddr"), "52:54:00:12:34:57\n").unwrap();
        fs::write(folder.path().join("eth0/carrier"), "1\n").unwrap();
        let nics: Vec<_> = nics_in(folder.path())
            .into_iter()
            .map(|n| (n.interface.name, n.interface.mac.0[5], n.carrier))
            .collect();
        assert_eq!(nics, [("eth0".to_owned(), 0x56, true), ("eth1".to_owned(), 0x57, false)]);
    }
}
