//! Puts what one replica saw into what all replicas wrote. Pure; doing it again changes nothing.
//!
//! A replica replaces its own steps and leaves those of others alone. Whether two timelines are of one boot is told by the replica's own first step, where the stored one has a step of it; else
//! they are of one boot when they overlap.

use std::time::Duration;

use api::timeline::{BootTimeline, MAX_BOOTS, MAX_STEPS};

/// How far apart what two replicas saw of one boot may lie: their clocks, and the time between two steps of which each saw one. A machine takes longer to come from one boot to the next.
const APART: Duration = Duration::from_secs(10);

/// Whether that changed anything.
pub(super) fn merge<'a>(stored: &mut Vec<BootTimeline>, mine: impl Iterator<Item = &'a BootTimeline>, replica: &str) -> bool {
    let before = stored.clone();
    for boot in mine.filter(|boot| !boot.steps.is_empty()) {
        match stored.iter_mut().find(|known| is_same(known, boot, replica)) {
            Some(known) => {
                known.steps.retain(|step| step.replica != replica);
                known.steps.extend(boot.steps.iter().cloned());
                known.started_at = known.started_at.clone().min(boot.started_at.clone());
                known.address = boot.address.clone().or(known.address.take());
            }
            None => stored.push(boot.clone()),
        }
    }
    for boot in stored.iter_mut() {
        // Steps of two replicas may have begun at the same moment; their order must not depend on who wrote last.
        boot.steps
            .sort_by(|a, b| (a.at.0, a.step, &a.replica).cmp(&(b.at.0, b.step, &b.replica)));
        boot.steps.truncate(MAX_STEPS);
    }
    stored.sort_by_key(|boot| boot.started_at.0);
    let surplus = stored.len().saturating_sub(MAX_BOOTS);
    stored.drain(..surplus);
    *stored != before
}

fn is_same(stored: &BootTimeline, mine: &BootTimeline, replica: &str) -> bool {
    if stored.mac != mine.mac {
        return false;
    }
    let first = |boot: &BootTimeline| boot.steps.iter().filter(|step| step.replica == replica).map(|step| step.at.0).min();
    match first(stored) {
        Some(own) => first(mine) == Some(own),
        None => {
            let later = |a: jiff::Timestamp, b: jiff::Timestamp| a.checked_add(APART).is_ok_and(|limit| b > limit);
            !later(stored.ended_at(), mine.started_at.0) && !later(mine.ended_at(), stored.started_at.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use agent_protocol::identity::MacAddress;
    use api::timeline::{BootStep, BootStepKind};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
    use proptest::prelude::*;

    use super::*;

    fn boot(replica: &str, steps: &[(BootStepKind, i64)]) -> BootTimeline {
        let at = |second: i64| MicroTime(Timestamp::from_second(1_700_000_000 + second).unwrap());
        BootTimeline {
            started_at: at(steps[0].1),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            address: None,
            steps: steps
                .iter()
                .map(|(step, second)| BootStep {
                    step: *step,
                    replica: replica.to_owned(),
                    at: at(*second),
                    duration_ms: 500,
                    count: 1,
                    failed: 0,
                    bytes: 0,
                    resent: 0,
                    detail: String::new(),
                })
                .collect(),
        }
    }

    use BootStepKind::{Offer, Script, Session, Tftp};

    #[test]
    fn two_replicas_see_one_boot() {
        let mut stored = Vec::new();
        let (a, b) = (boot("a", &[(Offer, 0), (Tftp, 3)]), boot("b", &[(Offer, 0), (Script, 9)]));
        assert!(merge(&mut stored, [&a].into_iter(), "a"));
        assert!(merge(&mut stored, [&b].into_iter(), "b"));
        assert!(!merge(&mut stored, [&a].into_iter(), "a"), "once more changes nothing");
        assert_eq!(stored.len(), 1);
        let kinds: Vec<_> = stored[0].steps.iter().map(|s| (s.step, s.replica.as_str())).collect();
        assert_eq!(kinds, [(Offer, "a"), (Offer, "b"), (Tftp, "a"), (Script, "b")]);
        // The first one saw more meanwhile, and the machine was rebooted.
        let (longer, next) = (boot("a", &[(Offer, 0), (Tftp, 3), (Session, 40)]), boot("a", &[(Offer, 45)]));
        assert!(merge(&mut stored, [&longer, &next].into_iter(), "a"));
        assert_eq!(stored.iter().map(|b| b.steps.len()).collect::<Vec<_>>(), [5, 1]);
        let late = boot("b", &[(Script, 200)]);
        assert!(merge(&mut stored, [&late].into_iter(), "b"));
        assert_eq!(stored.len(), 3, "another boot");
    }

    fn boots() -> impl Strategy<Value = Vec<(bool, Vec<i64>)>> {
        prop::collection::vec((any::<bool>(), prop::collection::vec(0..2000i64, 1..6)), 1..12)
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_settles(boots in boots()) {
            let mut stored = Vec::new();
            for (first, seconds) in &boots {
                let replica = if *first { "a" } else { "b" };
                let mut seconds = seconds.clone();
                seconds.sort_unstable();
                let steps: Vec<_> = seconds.iter().map(|s| (Tftp, *s)).collect();
                let mine = boot(replica, &steps);
                merge(&mut stored, [&mine].into_iter(), replica);
                prop_assert!(stored.len() <= MAX_BOOTS && stored.iter().all(|b| b.steps.len() <= MAX_STEPS));
                prop_assert!(stored.is_sorted_by_key(|b| b.started_at.0));
                if stored.iter().any(|b| b.steps.iter().any(|s| s.replica == replica && s.at == mine.steps[0].at)) {
                    prop_assert!(!merge(&mut stored, [&mine].into_iter(), replica), "a second time changes nothing");
                }
            }
        }
    }
}
