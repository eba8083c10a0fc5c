//! Findings out of facts: what is wrong, and what to do. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::Ipv4Addr,
};

use api::timeline::{BootStepKind, BootTimeline};
use dhcp::arch::{Boot, BootTable, Firmware};
use serde::Serialize;

use crate::{
    probe::{Asker, BootServer, Facts, Offer, Tried},
    timeline,
};

/// How good or bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It was not or could not be looked at.
    Unknown,
    /// It may be meant so, and may be the reason.
    Warning,
    /// Machines do not boot like this.
    Problem,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What was looked at, a word for programs.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do; empty where there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check,
            verdict,
            seen: seen.into(),
            remedy: remedy.into(),
        }
    }

    fn good(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Good, seen, "")
    }

    fn problem(check: &'static str, seen: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Verdict::Problem, seen, remedy)
    }
}

/// A machine and its boots.
pub type Machine = (String, Vec<BootTimeline>);

/// What is to be found where all is well.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'e> {
    /// What machines should be given. Firmware without a row, or with [`Boot::Nothing`], is left alone.
    pub table: &'e BootTable,
    /// Addresses of other replicas of the boot server, which answer as it does.
    pub replicas: &'e BTreeSet<Ipv4Addr>,
    /// Addresses are given out there to machines with a reservation alone, so a made-up one gets no offer at all.
    pub reserved_only: bool,
}

impl Expected<'_> {
    /// Whether this firmware is to be given something.
    fn gives(&self, firmware: Firmware) -> bool {
        self.table.get(firmware).is_some_and(|boot| *boot != Boot::Nothing)
    }
}

/// All findings, in the order in which a boot would meet them. `machines` is `None` where no Kubernetes API was asked.
pub fn judge(facts: &Facts, expected: Expected<'_>, machines: Option<&[Machine]>) -> Vec<Finding> {
    let mut findings = vec![link(facts)];
    findings.extend(dhcp(facts, expected));
    if let Some(server) = &facts.boot_server {
        findings.extend(conflicts(facts, server, expected));
        findings.extend(boot_server(facts, server, expected));
    } else {
        findings.push(Finding::new(
            "bootServer",
            Verdict::Unknown,
            "no boot server was tried: this interface has no address, so it is not the boot server itself",
            "name the boot server with --server",
        ));
    }
    findings.extend(self::machines(machines));
    findings
}

/// The worst of them.
pub fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Unknown)
}

fn link(facts: &Facts) -> Finding {
    let link = &facts.link;
    let addresses = link.addresses.iter().map(|a| a.address.to_string()).collect::<Vec<_>>().join(", ");
    if !link.up {
        return Finding::problem(
            "link",
            format!("{} has no link", link.name),
            "plug its cable in, or name another interface",
        );
    }
    if link.addresses.is_empty() {
        return Finding::problem(
            "link",
            format!("{} has no IPv4 address: no DHCP packet that comes by it can be answered", link.name),
            "give it an address of the machines' network",
        );
    }
    Finding::good("link", format!("{} is up with {addresses}, MTU {}", link.name, link.mtu))
}

/// Servers by their identifiers, with all that they offered.
fn servers(facts: &Facts) -> BTreeMap<Ipv4Addr, Vec<&Offer>> {
    let mut servers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for offer in &facts.offers {
        servers.entry(offer.server()).or_default().push(offer);
    }
    servers
}

fn named(server: Ipv4Addr, offers: &[&Offer]) -> String {
    let macs = offers
        .iter()
        .filter_map(|offer| offer.mac.as_deref())
        .collect::<std::collections::BTreeSet<_>>();
    let mut text = server.to_string();
    if !macs.is_empty() {
        write!(text, " ({})", macs.into_iter().collect::<Vec<_>>().join(", ")).unwrap_or_default();
    }
    text
}

fn dhcp(facts: &Facts, expected: Expected<'_>) -> Vec<Finding> {
    let ours = facts.boot_server.as_ref().map(|server| server.address);
    let is_ours = |server: &Ipv4Addr| ours == Some(*server) || expected.replicas.contains(server);
    let mut giving: Vec<_> = servers(facts)
        .into_iter()
        .filter(|(_, offers)| offers.iter().any(|offer| offer.address.is_some()))
        .collect();
    // Replicas share their leases: together they are one server.
    let first = giving.iter().map(|(server, _)| *server).find(is_ours);
    giving.retain(|(server, _)| !is_ours(server) || Some(*server) == first);
    let mut findings = vec![match giving.as_slice() {
        [] if expected.reserved_only => Finding::new(
            "dhcpServer",
            Verdict::Unknown,
            "addresses are given out by reservation only (no spec.ipv4.dynamicRanges), so a made-up machine gets none",
            "",
        ),
        [] => Finding::problem(
            "dhcpServer",
            "no DHCP server gave an address: machines cannot boot from this network",
            "switch the router's DHCP server on, or let netboot give out addresses; on a network that has its DHCP server behind a router, set that router's DHCP relay",
        ),
        [(server, offers)] => Finding::good(
            "dhcpServer",
            format!("one DHCP server gives out addresses: {}", named(*server, offers)),
        ),
        several => {
            let names = several
                .iter()
                .map(|(server, offers)| named(*server, offers))
                .collect::<Vec<_>>()
                .join(" and ");
            Finding::new(
                "dhcpServer",
                Verdict::Warning,
                format!("{} DHCP servers give out addresses: {names}", several.len()),
                "leave one of them, unless they are a pair on purpose: machines take whichever answers first, and with it its boot options. The MAC address says which device it is",
            )
        }
    }];
    let mtus: Vec<_> = facts
        .offers
        .iter()
        .filter_map(|offer| Some((offer.server(), offer.mtu?)))
        .filter(|(server, mtu)| !is_ours(server) && u32::from(*mtu) != facts.link.mtu)
        .collect();
    if let Some((server, mtu)) = mtus.first() {
        findings.push(Finding::new(
            "mtu",
            Verdict::Warning,
            format!(
                "the DHCP server {server} tells machines an MTU of {mtu}; {} has {}",
                facts.link.name, facts.link.mtu
            ),
            "give both the same MTU: the machines' large packets are lost otherwise",
        ));
    }
    findings
}

/// What other servers say about booting, held against what we would say.
fn conflicts(facts: &Facts, ours: &BootServer, expected: Expected<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (server, offers) in servers(facts) {
        if server == ours.address || expected.replicas.contains(&server) {
            continue;
        }
        // Boot options are of no concern to a system that does not ask for them, nor to us for firmware that we leave alone.
        let concerns = |offer: &Offer| offer.boots() && offer.asker.firmware().is_some_and(|firmware| expected.gives(firmware));
        let (by_us, wrong): (Vec<&Offer>, Vec<&Offer>) = offers
            .iter()
            .copied()
            .filter(|offer| concerns(offer))
            .partition(|offer| agrees(offer, ours.address, expected));
        let wrong: Vec<_> = wrong
            .into_iter()
            .map(|offer| {
                let next = offer.next_server.map(|next| format!(" from {next}")).unwrap_or_default();
                format!("{:?} {:?}{next}", offer.asker, offer.boot_file)
            })
            .collect();
        if !wrong.is_empty() {
            findings.push(Finding::problem(
                "bootOptions",
                format!("{} tells machines to boot something else: {}", named(server, &offers), wrong.join(", ")),
                "take the boot options (next server, file, options 43, 60, 66, 67) out of that server, or put ours in: `kube-baremetal netboot options` prints them",
            ));
        } else if !by_us.is_empty() {
            findings.push(Finding::good(
                "bootOptions",
                format!("{} points machines at us", named(server, &offers)),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            "bootOptions",
            "no other server says anything about booting to machines that boot from us",
        ));
    }
    findings
}

/// Whether an offer leads to the boot server, or to a replica of it, with a file of its table.
fn agrees(offer: &Offer, ours: Ipv4Addr, expected: Expected<'_>) -> bool {
    let by_replica = |url: &str, replica: &Ipv4Addr| offer.boot_file == url.replacen(&format!("//{ours}:"), &format!("//{replica}:"), 1);
    match offer.asker.firmware().and_then(|firmware| expected.table.get(firmware)) {
        Some(Boot::Tftp(file)) => {
            let next = offer.next_server;
            offer.boot_file == **file && next.is_some_and(|next| next == ours || expected.replicas.contains(&next))
        }
        Some(Boot::TftpFrom(server, file)) => offer.boot_file == **file && offer.next_server == Some(*server),
        Some(Boot::Http(url) | Boot::Script(url)) => {
            offer.boot_file == **url || expected.replicas.iter().any(|replica| by_replica(url, replica))
        }
        Some(Boot::RaspberryPi | Boot::Nothing) | None => false,
    }
}

/// Who offers boot parameters that lead to the boot server, and to which machines.
fn leading(facts: &Facts, ours: Ipv4Addr, replicas: &BTreeSet<Ipv4Addr>) -> BTreeMap<Ipv4Addr, BTreeSet<String>> {
    let mut leading: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for offer in facts
        .offers
        .iter()
        .filter(|offer| offer.boots() && offer.asker.firmware().is_some())
    {
        let server = offer.server();
        // Of replicas that give out addresses one answers each machine. Beside somebody else's DHCP server each answers all of them, and another one's offer says nothing about ours.
        let in_turn = replicas.contains(&server) && offer.address.is_some();
        if server == ours || offer.next_server == Some(ours) || in_turn {
            leading.entry(server).or_default().insert(format!("{:?}", offer.asker));
        }
    }
    leading
}

fn boot_server(facts: &Facts, server: &BootServer, expected: Expected<'_>) -> Vec<Finding> {
    let name = server.address;
    let mut findings = Vec::new();
    let leading = leading(facts, name, expected.replicas);
    findings.push(if !leading.is_empty() {
        let offers = leading
            .iter()
            .map(|(server, askers)| format!("{server} offers boot parameters to {}", askers.iter().cloned().collect::<Vec<_>>().join(", ")));
        Finding::good("port67", offers.collect::<Vec<_>>().join("; "))
    } else if !server.on_link {
        Finding::problem(
            "relay",
            format!("{name} is not on this network and hears no DHCPDISCOVER from it"),
            format!("set a DHCP relay (`ip helper-address`) to {name} on the router of this network, beside the one to the DHCP server"),
        )
    } else if expected.reserved_only {
        Finding::new(
            "port67",
            Verdict::Unknown,
            format!("{name} answers machines with a reservation only, and a made-up one has none"),
            "",
        )
    } else if !Asker::ALL.into_iter().filter_map(Asker::firmware).any(|firmware| expected.gives(firmware)) {
        Finding::new(
            "port67",
            Verdict::Unknown,
            format!("{name} is to leave all firmware alone that was played here"),
            "",
        )
    } else {
        Finding::problem(
            "port67",
            format!("{name} offers no boot parameters"),
            "start the boot server with --dhcp INTERFACE for this network and open its UDP port 67; on a switch with DHCP snooping, trust its port",
        )
    });
    findings.push(if server.proxy.worked() || expected.gives(Firmware::UefiX64) {
        tried(
            "port4011",
            &server.proxy,
            &format!("{name} answers at UDP port 4011"),
            &format!("{name} does not answer at UDP port 4011, which UEFI firmware asks"),
            "open UDP port 4011 on the boot server's host and on the way; without --dhcp nobody listens there, and the DHCP server has to say it all (`kube-baremetal netboot options`)",
        )
    } else {
        Finding::new(
            "port4011",
            Verdict::Unknown,
            format!("{name} has nothing for UEFI x86-64 to boot, by which UDP port 4011 is tried"),
            "",
        )
    });
    findings.push(tried(
        "tftp",
        &server.tftp_small,
        &format!("{name} sends its loader over TFTP"),
        &format!("{name} does not send its loader over TFTP"),
        "open UDP port 69 on the boot server's host and on the way; TFTP answers from another port, so start the boot server with --tftp-single-port where a firewall knows nothing of that",
    ));
    let mtu = |check, tried: &Tried, size: u32, remedy: &str| match tried {
        Tried::Worked { .. } => Some(Finding::good(check, format!("packets of {size} bytes come from {name}"))),
        Tried::Failed { why } => Some(Finding::problem(
            check,
            format!("small packets come from {name}, packets of {size} bytes do not: {why}"),
            remedy,
        )),
        Tried::NotTried { .. } => None,
    };
    let usual = facts.link.mtu.min(1500);
    findings.extend(mtu(
        "mtu",
        &server.tftp_full,
        usual,
        "something on the way carries smaller packets and says nothing (a tunnel, a VLAN, a switch): give all interfaces of the way one MTU, and let ICMP through",
    ));
    findings.extend(mtu(
        "jumboFrames",
        &server.tftp_jumbo,
        facts.link.mtu,
        "this interface has a larger MTU than the way to the boot server carries: switch jumbo frames on everywhere on the way, or off here",
    ));
    findings.push(tried(
        "http",
        &server.http,
        &format!("{name} answers with the boot script over HTTP"),
        &format!("{name} does not answer with the boot script over HTTP"),
        "open the TCP port that the boot server was given with --http-listen (8080) on its host and on the way; name another one with --http-port",
    ));
    if server.http.worked() {
        findings.push(tried(
            "bootMedia",
            &server.media,
            &format!("{name} has boot media"),
            &format!("{name} has no boot media"),
            "build them with `kube-baremetal bootmedia build`, and start the boot server with --media-dir",
        ));
    }
    findings.push(tried(
        "agentPort",
        &server.tls,
        &format!("{name} takes connections of agents"),
        &format!("{name} takes no connections of agents"),
        "open the TCP port that the boot server was given with --agent-listen (8443) on its host and on the way; name another one with --tls-port",
    ));
    let retries = [&server.proxy, &server.tftp_small, &server.tftp_full, &server.tftp_jumbo];
    let retries: u32 = retries
        .iter()
        .map(|tried| if let Tried::Worked { retries, .. } = tried { *retries } else { 0 })
        .sum();
    if retries > 0 {
        findings.push(Finding::new(
            "loss",
            Verdict::Warning,
            format!("{retries} packets had to be asked for again: some get lost between here and {name}"),
            "look at cables, duplex settings and the load of the switch",
        ));
    }
    if server.is_here {
        findings.push(Finding::new(
            "firewall",
            Verdict::Unknown,
            "the boot server is this host: what its firewall does to other hosts was not seen",
            "run this on another host of the machines' network, with --server",
        ));
    }
    findings
}

fn tried(check: &'static str, tried: &Tried, good: &str, bad: &str, remedy: &str) -> Finding {
    match tried {
        Tried::Worked { milliseconds, what, .. } => Finding::good(check, format!("{good}: {what}, in {milliseconds} ms")),
        Tried::Failed { why } => Finding::problem(check, format!("{bad}: {why}"), remedy),
        Tried::NotTried { why } => Finding::new(check, Verdict::Unknown, format!("not tried: {why}"), ""),
    }
}

/// What the timelines show; a machine that stopped is one finding.
fn machines(machines: Option<&[Machine]>) -> Vec<Finding> {
    let Some(machines) = machines else {
        let remedy = "give --kubeconfig";
        return vec![Finding::new(
            "machines",
            Verdict::Unknown,
            "boot timelines were not looked at: no Kubernetes API was named",
            remedy,
        )];
    };
    let mut findings = Vec::new();
    for (name, boots) in machines {
        let Some(newest) = boots.last() else { continue };
        if let Some(stop) = timeline::stop(boots) {
            findings.push(Finding::problem(
                "machine",
                format!("{name} ({}): {} ({}); usually {}", newest.mac, stop.seen, stop.reason, stop.usually),
                format!("{}; `kube-baremetal timeline {name}` shows each step", stop.remedy),
            ));
        }
        let tftp = || newest.of_kind(BootStepKind::Tftp);
        let (resent, bytes) = (
            tftp().map(|step| step.resent).sum::<u64>(),
            tftp().map(|step| step.bytes).sum::<u64>(),
        );
        // Blocks are 512 bytes at least, so this is one in a hundred or more.
        if resent > 3 && resent * 512 * 100 > bytes {
            findings.push(Finding::new(
                "tftpRetries",
                Verdict::Warning,
                format!("{name} ({}): {resent} packets of its loader were sent again", newest.mac),
                "packets get lost on the way to it: look at its cable and its switch port",
            ));
        }
    }
    if findings.is_empty() {
        let seen = machines.iter().filter(|(_, boots)| !boots.is_empty()).count();
        findings.push(Finding::good(
            "machines",
            format!("no boot of the {seen} machines that were seen booting stopped halfway"),
        ));
    }
    findings
}

/// For people.
pub fn render(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok     ",
            Verdict::Unknown => "?      ",
            Verdict::Warning => "WARNING",
            Verdict::Problem => "PROBLEM",
        };
        writeln!(text, "{mark}  {:<12}  {}", finding.check, finding.seen).unwrap_or_default();
        if !finding.remedy.is_empty() {
            writeln!(text, "{:23}-> {}", "", finding.remedy).unwrap_or_default();
        }
    }
    text
}

#[cfg(test)]
mod tests;
