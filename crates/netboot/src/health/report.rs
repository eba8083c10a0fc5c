//! A replica's report, and what all of them together mean. Pure.

use std::net::Ipv4Addr;

use api::{
    BareMetalNetwork, BareMetalNetworkStatus, conditions,
    network::{NetbootFinding, NetbootReport, NetbootVerdict},
};
use doctor::judge::{Finding, Verdict};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// How often a replica gives a sign of life.
const RENEW: SignedDuration = SignedDuration::from_hours(6);
/// A report without one for so long is nobody's any more.
const SILENT: SignedDuration = SignedDuration::from_hours(13);
/// Findings of one replica that are written: the first ones, in the order in which a boot would meet them.
const MOST_FINDINGS: usize = 8;
/// Longest message of a condition, in bytes (Kubernetes: 32768).
const MAX_MESSAGE: usize = 4096;

/// What a replica found on one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looked {
    replica: String,
    interface: String,
    address: Ipv4Addr,
    findings: Vec<NetbootFinding>,
}

impl Looked {
    /// Only what is wrong or odd: what is good, or cannot be seen from here, is no news.
    pub(super) fn new(replica: &str, interface: &str, address: Ipv4Addr, findings: &[Finding]) -> Self {
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
            replica: replica.to_owned(),
            interface: interface.to_owned(),
            address,
            findings: told.take(MOST_FINDINGS).collect(),
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

/// Reports that count.
pub(super) fn fresh(status: &BareMetalNetworkStatus, now: Timestamp) -> impl Iterator<Item = &NetbootReport> {
    status
        .netboot
        .iter()
        .filter(move |report| now.duration_since(report.time.0) < SILENT)
}

/// Other replicas whose reports nobody renews.
pub(super) fn silent(network: &BareMetalNetwork, replica: &str, now: Timestamp) -> Vec<String> {
    let status = network.status.as_ref();
    let reports = status.map_or(&[][..], |status| &status.netboot).iter();
    let silent = reports.filter(|report| report.replica != replica && now.duration_since(report.time.0) >= SILENT);
    silent.map(|report| report.replica.clone()).collect()
}

/// What this replica is to apply: its report, and the condition over all reports. `None`: it is there already.
pub(super) fn wanted(network: &BareMetalNetwork, looked: &Looked, now: Timestamp) -> Option<BareMetalNetworkStatus> {
    let nothing = BareMetalNetworkStatus::default();
    let status = network.status.as_ref().unwrap_or(&nothing);
    let stored = status.netboot.iter().find(|report| report.replica == looked.replica);
    let mut report = NetbootReport {
        replica: looked.replica.clone(),
        interface: looked.interface.clone(),
        address: looked.address.to_string(),
        time: whole_seconds(now),
        findings: looked.findings.clone(),
    };
    let mut same = false;
    if let Some(stored) = stored.filter(|stored| now.duration_since(stored.time.0) < RENEW) {
        let time = std::mem::replace(&mut report.time, stored.time.clone());
        same = report == *stored;
        if !same {
            report.time = time;
        }
    }
    let mut reports: Vec<&NetbootReport> = fresh(status, now).filter(|other| other.replica != looked.replica).collect();
    reports.push(&report);
    reports.sort_by(|a, b| a.replica.cmp(&b.replica));
    let (condition, before) = condition(network, &reports, &report.time);
    if same && before.as_ref() == Some(&condition) {
        return None;
    }
    Some(BareMetalNetworkStatus {
        conditions: vec![condition],
        netboot: vec![report],
    })
}

/// What is to be applied for a replica that says nothing more: no report, and the condition over those of the others.
///
/// The condition stays, since the API gives each of its fields to those who wrote the present value: one of them that lets go takes some fields away and leaves others, which is no condition.
pub(super) fn withdrawn(network: &BareMetalNetwork, replica: &str, now: Timestamp) -> BareMetalNetworkStatus {
    let nothing = BareMetalNetworkStatus::default();
    let status = network.status.as_ref().unwrap_or(&nothing);
    let mut reports: Vec<&NetbootReport> = fresh(status, now).filter(|other| other.replica != replica).collect();
    reports.sort_by(|a, b| a.replica.cmp(&b.replica));
    BareMetalNetworkStatus {
        conditions: vec![condition(network, &reports, &whole_seconds(now)).0],
        netboot: Vec::new(),
    }
}

/// As times are stored.
fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The condition over these reports, in the order of their replicas; and the one that is there.
fn condition(network: &BareMetalNetwork, reports: &[&NetbootReport], now: &Time) -> (Condition, Option<Condition>) {
    let stored = network.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let mut conditions: Vec<Condition> = stored.iter().filter(|c| c.type_ == conditions::NETBOOT_HEALTHY).cloned().collect();
    let before = conditions.first().cloned();
    let (healthy, reason, message) = verdict(reports);
    let (kind, generation) = (conditions::NETBOOT_HEALTHY, network.metadata.generation);
    conditions::set_or_unknown(&mut conditions, kind, healthy, &reason, &message, generation, now);
    (conditions.swap_remove(0), before)
}

/// Status, reason and message of the condition.
fn verdict(reports: &[&NetbootReport]) -> (Option<bool>, String, String) {
    if reports.is_empty() {
        let message = "No replica of netboot serves machines on this network".to_owned();
        return (None, "NobodyLooks".to_owned(), message);
    }
    let findings = || {
        reports
            .iter()
            .flat_map(|report| report.findings.iter().map(move |finding| (*report, finding)))
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

    fn looked(replica: &str, findings: &[Finding]) -> Looked {
        Looked::new(replica, "eth0", OWN, findings)
    }

    /// As the API merges what one replica applies.
    fn apply(network: &mut BareMetalNetwork, applied: BareMetalNetworkStatus) {
        let status = network.status.get_or_insert_default();
        for report in applied.netboot {
            status.netboot.retain(|old| old.replica != report.replica);
            status.netboot.push(report);
        }
        for condition in applied.conditions {
            status.conditions.retain(|old| old.type_ != condition.type_);
            status.conditions.push(condition);
        }
    }

    fn told(network: &BareMetalNetwork) -> (&str, &str, &str) {
        let status = network.status.as_ref().unwrap();
        let condition = status.conditions.iter().find(|c| c.type_ == "NetbootHealthy").unwrap();
        (&condition.status, &condition.reason, &condition.message)
    }

    #[test]
    fn what_is_there_is_not_written_again_but_for_a_sign_of_life() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let after = |hours| start + SignedDuration::from_hours(hours);
        let mut network = BareMetalNetwork::new("lan", Default::default());
        let good = looked("a", &[finding("link", Verdict::Good), finding("firewall", Verdict::Unknown)]);
        let first = wanted(&network, &good, start).unwrap();
        assert!(first.netboot[0].findings.is_empty(), "what is good or unknown is no news");
        apply(&mut network, first);
        assert_eq!((told(&network).0, told(&network).1), ("True", "NothingFound"));
        assert_eq!(wanted(&network, &good, after(5)), None);
        let sign = wanted(&network, &good, after(6)).expect("a sign of life");
        assert_eq!(sign.netboot[0].time.0, after(6));
        assert_eq!(sign.conditions[0].last_transition_time.0, start, "nothing changed");
        let bad = looked("a", &[finding("port4011", Verdict::Problem)]);
        let changed = wanted(&network, &bad, after(1)).unwrap();
        apply(&mut network, changed);
        assert_eq!((told(&network).0, told(&network).1), ("False", "Port4011"));
        assert_eq!(told(&network).2, "a (eth0): port4011 was seen: do something");
        assert_eq!(network.status.as_ref().unwrap().conditions[0].last_transition_time.0, after(1));
        network.metadata.generation = Some(7);
        assert!(wanted(&network, &bad, after(2)).is_some(), "it is about another spec");
    }

    #[test]
    fn replicas_agree_whoever_writes() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut network = BareMetalNetwork::new("lan", Default::default());
        let (a, b) = (
            looked("a", &[finding("dhcpServer", Verdict::Warning)]),
            looked("b", &[finding("http", Verdict::Problem)]),
        );
        let of_a = wanted(&network, &a, now).unwrap();
        apply(&mut network, of_a);
        assert_eq!((told(&network).0, told(&network).1), ("True", "Warnings"));
        let of_b = wanted(&network, &b, now).unwrap();
        assert_eq!(of_b.netboot.len(), 1, "a replica says nothing for another one");
        apply(&mut network, of_b);
        assert_eq!((told(&network).0, told(&network).1), ("False", "Http"));
        assert_eq!(
            told(&network).2.lines().collect::<Vec<_>>(),
            [
                "a (eth0): dhcpServer was seen: do something",
                "b (eth0): http was seen: do something"
            ]
        );
        assert_eq!((wanted(&network, &a, now), wanted(&network, &b, now)), (None, None));

        // One of them is gone for good.
        let later = now + SILENT;
        assert_eq!(silent(&network, "a", later), ["b"]);
        let of_a = wanted(&network, &a, later).unwrap();
        apply(&mut network, of_a);
        assert_eq!((told(&network).0, told(&network).1), ("True", "Warnings"));
        assert!(silent(&network, "b", later).is_empty(), "a gave a sign of life");
    }

    #[test]
    fn who_ends_leaves_the_word_to_the_others() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut network = BareMetalNetwork::new("lan", Default::default());
        for looked in [looked("a", &[]), looked("b", &[finding("http", Verdict::Problem)])] {
            let wanted = wanted(&network, &looked, now).unwrap();
            apply(&mut network, wanted);
        }
        let end = |network: &mut BareMetalNetwork, replica: &str| {
            let left = withdrawn(network, replica, now);
            assert!(left.netboot.is_empty(), "its report goes");
            network.status.as_mut().unwrap().netboot.retain(|report| report.replica != replica);
            apply(network, left);
        };
        end(&mut network, "b");
        assert_eq!((told(&network).0, told(&network).1), ("True", "NothingFound"));
        assert_eq!(wanted(&network, &looked("a", &[]), now), None, "they agree");
        end(&mut network, "a");
        assert_eq!((told(&network).0, told(&network).1), ("Unknown", "NobodyLooks"));
    }

    #[test]
    fn a_message_is_bounded() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut long = finding("mtu", Verdict::Problem);
        long.seen = "x".repeat(3000);
        let status = wanted(
            &BareMetalNetwork::new("lan", Default::default()),
            &looked("a", &vec![long; 20]),
            now,
        )
        .unwrap();
        assert_eq!(status.netboot[0].findings.len(), MOST_FINDINGS);
        let message = &status.conditions[0].message;
        assert!(message.len() <= MAX_MESSAGE + 4 && message.ends_with("\n..."), "{}", message.len());
    }
}
