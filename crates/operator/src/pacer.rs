//! Holds back status writes that can wait: those that say nothing but how far an order is, and steps on the way that are passed within a moment anyway.
//!
//! One budget for all such writes bounds what a thousand machines at once cost the API: with few machines every step is seen, with very many most are overtaken by the next one before their
//! turn comes. What others wait for, and what a person has to see, is never held back. Losing what is held here loses nothing: the same decision is made again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{BareMetalHardwareStatus, BareMetalInstanceStatus, HardwarePhase, InstancePhase, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tokio::time::Instant;

use crate::{Config, bucket::Bucket, metrics::Metrics};

/// How soon a status has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// At once: others wait for it, or a person has to see it.
    Now,
    /// Soon: a step on the way, which the next one may overtake.
    Soon,
    /// When there is time: progress only.
    Hint,
}

/// See the module.
#[derive(Debug)]
pub struct Pacer {
    /// When statuses were written last, or first held back, by the objects' uids.
    since: Mutex<HashMap<String, Instant>>,
    step_interval: Duration,
    hint_interval: Duration,
    budget: Bucket,
}

impl Pacer {
    /// As the configuration says it.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            since: Mutex::default(),
            step_interval: config.step_interval,
            hint_interval: config.progress_interval,
            budget: Bucket::new(config.progress_per_second, config.progress_per_second),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the status of the object may be written now; else after what time to ask again.
    pub(crate) fn judge(&self, metrics: &Metrics, uid: &str, urgency: Urgency) -> Result<(), Duration> {
        let judged = self.may_write(uid, urgency);
        match judged {
            Ok(()) if urgency != Urgency::Now => metrics.progress_written(),
            Ok(()) => {}
            Err(_) => metrics.progress_deferred(),
        }
        judged
    }

    fn may_write(&self, uid: &str, urgency: Urgency) -> Result<(), Duration> {
        let interval = match urgency {
            Urgency::Now => {
                self.lock().insert(uid.to_owned(), Instant::now());
                return Ok(());
            }
            Urgency::Soon => self.step_interval,
            Urgency::Hint => self.hint_interval,
        };
        let elapsed = self.lock().entry(uid.to_owned()).or_insert_with(Instant::now).elapsed();
        if elapsed < interval {
            return Err(interval.saturating_sub(elapsed));
        }
        // Not sooner than that, however soon there is a token: others want it too.
        self.budget.take().map_err(|wait| wait.max(interval))?;
        self.lock().insert(uid.to_owned(), Instant::now());
        Ok(())
    }

    /// The object is gone, or has come to rest.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

/// What a person has to see of these kinds, in short.
fn faults(list: &[Condition], kinds: &[&str]) -> Vec<String> {
    let shown = list.iter().filter(|c| c.status == "True" && kinds.contains(&c.type_.as_str()));
    shown.map(|c| format!("{} {}", c.type_, c.reason)).collect()
}

/// How soon an instance's status has to be written.
pub(crate) fn of_instance(old: Option<&BareMetalInstanceStatus>, new: &BareMetalInstanceStatus) -> Urgency {
    let Some(old) = old else {
        return Urgency::Now;
    };
    let essence = |status: &BareMetalInstanceStatus| BareMetalInstanceStatus {
        progress: None,
        progress_text: None,
        ..status.clone()
    };
    if new.progress.is_some() && essence(old) == essence(new) {
        return Urgency::Hint;
    }
    let unchanged = BareMetalInstanceStatus {
        observed_generation: old.observed_generation,
        ..new.clone()
    };
    if unchanged == *old {
        return Urgency::Soon;
    }
    let step = |phase| {
        matches!(
            phase,
            InstancePhase::Provisioning
                | InstancePhase::Imaging
                | InstancePhase::Booting
                | InstancePhase::Terminating
                | InstancePhase::Cleaning
        )
    };
    let kinds = [conditions::ORDER_FAILED, conditions::FOREIGN_DATA, conditions::POWER_CYCLE_NEEDED];
    let leaves = matches!(old.phase, InstancePhase::Running | InstancePhase::Stopped) && step(new.phase);
    let moving = (step(old.phase) || leaves) && step(new.phase);
    if moving && old.claimed == new.claimed && faults(&old.conditions, &kinds) == faults(&new.conditions, &kinds) {
        Urgency::Soon
    } else {
        Urgency::Now
    }
}

/// How soon a machine's status has to be written. Only the wait between claim and order is a step: everything else is read by others, or by a person.
pub(crate) fn of_hardware(old: Option<&BareMetalHardwareStatus>, new: &BareMetalHardwareStatus) -> Urgency {
    let Some(old) = old else {
        return Urgency::Now;
    };
    let waits = |phase| matches!(phase, HardwarePhase::Ready | HardwarePhase::Reserved);
    let kinds = [conditions::ORDER_FAILED, conditions::FOREIGN_DATA, conditions::POWER_CYCLE_NEEDED];
    let same_faults = faults(&old.conditions, &kinds) == faults(&new.conditions, &kinds);
    let nothing_ordered = old.order.is_none() && new.order.is_none() && !old.written && !new.written;
    let settled = old.released_claims == new.released_claims && old.installed == new.installed && old.root_disk == new.root_disk;
    if waits(old.phase) && new.phase == HardwarePhase::Reserved && nothing_ordered && settled && same_faults {
        Urgency::Soon
    } else {
        Urgency::Now
    }
}

#[cfg(test)]
mod tests {
    use agent_protocol::order::{Progress, Step};

    use super::*;

    fn status(phase: InstancePhase) -> BareMetalInstanceStatus {
        BareMetalInstanceStatus {
            phase,
            ..BareMetalInstanceStatus::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_wait_their_time_and_share_one_budget_and_what_is_urgent_does_neither() {
        let pacer = Pacer {
            since: Mutex::default(),
            step_interval: Duration::from_secs(1),
            hint_interval: Duration::from_secs(2),
            budget: Bucket::new(1.0, 1.0),
        };
        assert_eq!(
            pacer.may_write("a", Urgency::Soon),
            Err(Duration::from_secs(1)),
            "the next step may overtake it"
        );
        assert_eq!(pacer.may_write("b", Urgency::Soon), Err(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pacer.may_write("a", Urgency::Soon), Ok(()));
        assert_eq!(pacer.may_write("b", Urgency::Soon), Err(Duration::from_secs(1)), "a took the token");
        for _ in 0..5 {
            assert_eq!(pacer.may_write("b", Urgency::Now), Ok(()));
        }
        // Every write counts: b's hint waits from its last one.
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pacer.may_write("b", Urgency::Hint), Err(Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pacer.may_write("b", Urgency::Hint), Ok(()));
    }

    #[test]
    fn of_an_instance_only_what_can_wait_waits() {
        let imaging = status(InstancePhase::Imaging);
        let further = BareMetalInstanceStatus {
            progress: Some(Progress::of(Step::Writing, 1, 2)),
            ..imaging.clone()
        };
        assert_eq!(of_instance(Some(&imaging), &further), Urgency::Hint);
        assert_eq!(of_instance(Some(&imaging), &status(InstancePhase::Booting)), Urgency::Soon);
        assert_eq!(of_instance(Some(&imaging), &status(InstancePhase::Running)), Urgency::Now);
        assert_eq!(
            of_instance(Some(&status(InstancePhase::Running)), &status(InstancePhase::Terminating)),
            Urgency::Soon
        );
        assert_eq!(of_instance(None, &imaging), Urgency::Now);
        let seen = BareMetalInstanceStatus {
            observed_generation: Some(2),
            ..imaging.clone()
        };
        assert_eq!(of_instance(Some(&imaging), &seen), Urgency::Soon, "a generation alone is no news");
        let claimed = BareMetalInstanceStatus {
            claimed: true,
            ..imaging.clone()
        };
        assert_eq!(of_instance(Some(&imaging), &claimed), Urgency::Now, "the order waits for it");
        let mut failed = imaging.clone();
        conditions::set(
            &mut failed.conditions,
            conditions::ORDER_FAILED,
            true,
            "DiskIO",
            "m",
            None,
            &crate::world::now(),
        );
        assert_eq!(of_instance(Some(&imaging), &failed), Urgency::Now, "a person has to see it");
    }

    #[test]
    fn of_a_machine_only_the_wait_for_its_order_waits() {
        let in_phase = |phase| BareMetalHardwareStatus {
            phase,
            ..BareMetalHardwareStatus::default()
        };
        let ready = in_phase(HardwarePhase::Ready);
        assert_eq!(of_hardware(Some(&ready), &in_phase(HardwarePhase::Reserved)), Urgency::Soon);
        assert_eq!(of_hardware(None, &ready), Urgency::Now);
        assert_eq!(
            of_hardware(Some(&ready), &in_phase(HardwarePhase::Releasing)),
            Urgency::Now,
            "the guest is told by it"
        );
        let ordered = BareMetalHardwareStatus {
            order: Some(agent_protocol::order::Order::wait()),
            ..in_phase(HardwarePhase::Reserved)
        };
        assert_eq!(of_hardware(Some(&ready), &ordered), Urgency::Now, "the agent waits for it");
        let released = BareMetalHardwareStatus {
            released_claims: vec!["uid".to_owned()],
            ..in_phase(HardwarePhase::Reserved)
        };
        assert_eq!(of_hardware(Some(&ready), &released), Urgency::Now);
    }
}
