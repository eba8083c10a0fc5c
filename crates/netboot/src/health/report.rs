//! A replica's report, and what all of them together mean. Pure.

use std::net::Ipv4Addr;

use api::{
    BareMetalNetwork, BareMetalNetworkStatus, DhcpMode, conditions,
    network::{NetbootFinding, NetbootReport, NetbootVerdict},
};
use doctor::judge::{Finding, Verdict};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How often a replica gives a sign of life.
const RENEW: SignedDuration = SignedDuration::from_hours(6);
/// Findings of one replica that are written: the first ones, in the order in which a boot would meet them.
const MOST_FINDINGS: usize = 8;
/// Longest message of a condition, in bytes (Kubernetes: 32768).
const MAX_MESSAGE: usize = 4096;

/// What a replica found on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looked {
    interface: String,
    address: Ipv4Addr,
    findings: Vec<NetbootFinding>,
}

impl Looked {
    /// Only what is wrong or odd: what is good, or cannot be seen from here, is no news.
    pub(super) fn new(interface: &str, address: Ipv4Addr, findings: &[Finding]) -> Self {
        let told = findings.iter().filter_map(|finding| {
            let verdict = match finding.verdict {
                Verdict::Good | Verdict::Unknown => return None,
                Verdict::Warning => NetbootVerdict::Warning,
                Verdict::Problem => NetbootVerdict::Problem,
            };
            Some(NetbootFinding {
                check: finding.check.to_owned(),
                verdict,
                message: match finding.remedy.as_str() {
                    "" => finding.seen.clone(),
                    remedy => format!("{}: {remedy}", finding.seen),
                },
            })
        });
        Self {
            interface: interface.to_owned(),
            address,
            findings: told.take(MOST_FINDINGS).collect(),
        }
    }

    /// As a report. Its time is that of the `stored` one while that says the same and needs no renewal.
    fn report(&self, replica: &str, stored: Option<&NetbootReport>, now: Timestamp) -> NetbootReport {
        let report = NetbootReport {
            replica: replica.to_owned(),
            interface: self.interface.clone(),
            address: self.address.to_string(),
            time: whole_seconds(now),
            findings: self.findings.clone(),
        };
        let says_the_same = |stored: &&NetbootReport| {
            let with_its_time = NetbootReport {
                time: stored.time.clone(),
                ..report.clone()
            };
            with_its_time == **stored && now.duration_since(stored.time.0) < RENEW
        };
        match stored.filter(says_the_same) {
            Some(stored) => stored.clone(),
            None => report,
        }
    }

    /// Into the log, what is new.
    pub(super) fn tell(&self, before: Option<&Self>) {
        let old = before.map_or(&[][..], |before| &before.findings);
        for finding in self.findings.iter().filter(|finding| !old.contains(finding)) {
            tracing::warn!(interface = self.interface, check = finding.check, verdict = ?finding.verdict, "{}", finding.message);
        }
        if self.findings.is_empty() && !old.is_empty() {
            tracing::info!(
                interface = self.interface,
                "machines on this interface get all they need from here again"
            );
        }
    }
}

/// Other replicas whose reports nobody renews.
pub(super) fn silent(network: &BareMetalNetwork, replica: &str, now: Timestamp) -> Vec<String> {
    let Some(status) = &network.status else { return Vec::new() };
    let is_fresh = |report: &NetbootReport| status.fresh_reports(now).any(|fresh| fresh.replica == report.replica);
    let silent = status
        .netboot
        .iter()
        .filter(|report| report.replica != replica && !is_fresh(report));
    silent.map(|report| report.replica.clone()).collect()
}

/// The status as it should be: with what this replica found, or (`None`) without a report of it; without those of replicas that fell silent; and with the condition over all that are left.
/// `None`: it is so already.
pub(super) fn wanted(network: &BareMetalNetwork, replica: &str, looked: Option<&Looked>, now: Timestamp) -> Option<BareMetalNetworkStatus> {
    let before = network.status.clone().unwrap_or_default();
    let stored = before.netboot.iter().find(|report| report.replica == replica);
    let mut reports: Vec<NetbootReport> = before
        .fresh_reports(now)
        .filter(|other| other.replica != replica)
        .cloned()
        .collect();
    reports.extend(looked.map(|looked| looked.report(replica, stored, now)));
    reports.sort_by(|a, b| a.replica.cmp(&b.replica));
    let nobody_is_to_be_there = reports.is_empty() && network.spec.dhcp == DhcpMode::Off;
    if looked.is_none() && reports == before.netboot && !nobody_is_to_be_there {
        // The condition is for those to keep whose reports it is about.
        return None;
    }
    let mut conditions = before.conditions.clone();
    let kind = conditions::NETBOOT_HEALTHY;
    if nobody_is_to_be_there {
        conditions::clear(&mut conditions, kind);
    } else if !reports.is_empty() || conditions.iter().any(|c| c.type_ == kind) {
        let (healthy, reason, message) = verdict(&reports);
        let generation = network.metadata.generation;
        conditions::set_or_unknown(&mut conditions, kind, healthy, &reason, &message, generation, &whole_seconds(now));
    }
    let after = BareMetalNetworkStatus {
        conditions,
        netboot: reports,
    };
    (after != before).then_some(after)
}

/// As times are stored.
fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// Status, reason and message of the condition.
fn verdict(reports: &[NetbootReport]) -> (Option<bool>, String, String) {
    if reports.is_empty() {
        let message = "No replica of netboot serves machines on this network".to_owned();
        return (None, "NobodyLooks".to_owned(), message);
    }
    let findings = || {
        reports
            .iter()
            .flat_map(|report| report.findings.iter().map(move |finding| (report, finding)))
    };
    let problem = findings().find(|(_, finding)| finding.verdict == NetbootVerdict::Problem);
    let reason = match problem {
        Some((_, finding)) => capitalised(&finding.check),
        None if findings().next().is_some() => "Warnings".to_owned(),
        None => "NothingFound".to_owned(),
    };
    let names: Vec<&str> = reports.iter().map(|report| report.replica.as_str()).collect();
    let mut lines: Vec<String> = Vec::new();
    for (report, finding) in findings() {
        let line = format!("{} ({}): {}", report.replica, report.interface, finding.message);
        if lines.iter().map(|line| line.len() + 1).sum::<usize>() + line.len() > MAX_MESSAGE {
            lines.push("...".to_owned());
            break;
        }
        lines.push(line);
    }
    let message = match lines.is_empty() {
        true => format!(
            "Machines get all they need from {}, as far as can be seen from there; from another host `kube-baremetal netboot doctor` also sees firewalls",
            names.join(", ")
        ),
        false => lines.join("\n"),
    };
    (Some(problem.is_none()), reason, message)
}

/// A check's name as a reason.
fn capitalised(check: &str) -> String {
    let mut letters = check.chars();
    letters
        .next()
        .map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    fn finding(check: &'static str, verdict: Verdict) -> Finding {
        Finding {
            check,
            verdict,
            seen: format!("{check} was seen"),
            remedy: "do something".to_owned(),
        }
    }

    fn looked(findings: &[Finding]) -> Looked {
        Looked::new("eth0", OWN, findings)
    }

    fn lan() -> BareMetalNetwork {
        BareMetalNetwork::new("lan", Default::default())
    }

    /// What a replica writes; whether it wrote anything.
    fn write(network: &mut BareMetalNetwork, replica: &str, looked: Option<&Looked>, now: Timestamp) -> bool {
        let wanted = wanted(network, replica, looked, now);
        let writes = wanted.is_some();
        if writes {
            network.status = wanted;
        }
        writes
    }

    fn condition(network: &BareMetalNetwork) -> Option<&Condition> {
        let status = network.status.as_ref().unwrap();
        status.conditions.iter().find(|c| c.type_ == "NetbootHealthy")
    }

    fn told(network: &BareMetalNetwork) -> (&str, &str, &str) {
        let condition = condition(network).unwrap();
        (&condition.status, &condition.reason, &condition.message)
    }

    fn replicas(network: &BareMetalNetwork) -> Vec<&str> {
        let reports = network.status.iter().flat_map(|status| &status.netboot);
        reports.map(|report| report.replica.as_str()).collect()
    }

    #[test]
    fn what_is_there_is_not_written_again_but_for_a_sign_of_life() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |hours| start + SignedDuration::from_hours(hours);
        let mut network = lan();
        let good = looked(&[finding("link", Verdict::Good), finding("firewall", Verdict::Unknown)]);
        assert!(write(&mut network, "a", Some(&good), start));
        let report = |network: &BareMetalNetwork| network.status.as_ref().unwrap().netboot[0].clone();
        assert!(report(&network).findings.is_empty(), "what is good or unknown is no news");
        assert_eq!((told(&network).0, told(&network).1), ("True", "NothingFound"));
        assert!(!write(&mut network, "a", Some(&good), after(5)));
        assert!(write(&mut network, "a", Some(&good), after(6)), "a sign of life");
        assert_eq!(report(&network).time.0, after(6));
        assert_eq!(condition(&network).unwrap().last_transition_time.0, start, "nothing changed");
        let bad = looked(&[finding("port4011", Verdict::Problem)]);
        assert!(write(&mut network, "a", Some(&bad), after(7)));
        assert_eq!((told(&network).0, told(&network).1), ("False", "Port4011"));
        assert_eq!(told(&network).2, "a (eth0): port4011 was seen: do something");
        assert_eq!(condition(&network).unwrap().last_transition_time.0, after(7));
        network.metadata.generation = Some(7);
        assert!(write(&mut network, "a", Some(&bad), after(8)), "it is about another spec");
        assert_eq!(report(&network).time.0, after(7), "and no sign of life");
    }

    #[test]
    fn replicas_agree_whoever_writes() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut network = lan();
        conditions::set(
            &mut network.status.get_or_insert_default().conditions,
            conditions::OTHER_DHCP_SERVER,
            true,
            "Seen",
            "",
            None,
            &Time(now),
        );
        let (a, b) = (
            looked(&[finding("dhcpServer", Verdict::Warning)]),
            looked(&[finding("http", Verdict::Problem)]),
        );
        assert!(write(&mut network, "b", Some(&b), now));
        assert!(write(&mut network, "a", Some(&a), now));
        assert_eq!(replicas(&network), ["a", "b"]);
        assert_eq!((told(&network).0, told(&network).1), ("False", "Http"));
        assert_eq!(
            told(&network).2.lines().collect::<Vec<_>>(),
            [
                "a (eth0): dhcpServer was seen: do something",
                "b (eth0): http was seen: do something"
            ]
        );
        assert!(!write(&mut network, "a", Some(&a), now) && !write(&mut network, "b", Some(&b), now));

        // One of them is gone for good. Whoever looks at the network takes its report away, whether it reports there itself or not.
        let later = now + NetbootReport::LIFE;
        network.status.as_mut().unwrap().netboot[0].time = whole_seconds(later);
        assert_eq!(silent(&network, "a", later), ["b"]);
        let mut of_another = network.clone();
        assert!(write(&mut of_another, "c", None, later));
        assert_eq!(replicas(&of_another), ["a"]);
        assert!(write(&mut network, "a", Some(&a), later));
        assert_eq!(network, of_another, "they agree");
        assert_eq!((told(&network).0, told(&network).1), ("True", "Warnings"));
        assert!(silent(&network, "b", later).is_empty(), "a gave a sign of life");
        let conditions = &network.status.as_ref().unwrap().conditions;
        assert!(conditions::is_true(conditions, "OtherDHCPServer"), "what others say stays");
    }

    #[test]
    fn who_ends_leaves_the_word_to_the_others() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut network = lan();
        assert!(!write(&mut network, "a", None, now), "who has nothing to say writes nothing");
        assert!(write(&mut network, "a", Some(&looked(&[])), now));
        assert!(write(&mut network, "b", Some(&looked(&[finding("http", Verdict::Problem)])), now));
        assert!(write(&mut network, "b", None, now));
        assert_eq!(replicas(&network), ["a"]);
        assert_eq!((told(&network).0, told(&network).1), ("True", "NothingFound"));
        assert!(!write(&mut network, "a", Some(&looked(&[])), now), "they agree");
        let mut off = network.clone();
        assert!(write(&mut network, "a", None, now));
        assert_eq!((told(&network).0, told(&network).1), ("Unknown", "NobodyLooks"));
        assert!(!write(&mut network, "a", None, now));
        off.spec.dhcp = DhcpMode::Off;
        assert!(write(&mut off, "a", None, now));
        assert!(
            condition(&off).is_none() && !write(&mut off, "a", None, now),
            "nobody is to be there"
        );
    }

    #[test]
    fn a_message_is_bounded() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut long = finding("mtu", Verdict::Problem);
        long.seen = "x".repeat(3000);
        let status = wanted(&lan(), "a", Some(&looked(&vec![long; 20])), now).unwrap();
        assert_eq!(status.netboot[0].findings.len(), MOST_FINDINGS);
        let message = &status.conditions[0].message;
        assert!(message.len() <= MAX_MESSAGE + 4 && message.ends_with("\n..."), "{}", message.len());
    }
}
