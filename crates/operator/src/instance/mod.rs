//! Instances: gather what is known of one, let `lifecycle::instance` decide, carry it out; and keep its endpoints.
//!
//! Progress is a hint: a status that differs from the stored one in nothing else is written at most every two seconds per instance, and within a budget for all. A step that is passed
//! within a second of the last write is not written at all.

pub(crate) mod endpoints;
pub(crate) mod scheduler;

use std::{collections::hash_map::Entry, sync::Arc, time::Duration};

use api::{BareMetalEndpoint, BareMetalHardware, BareMetalInstance, BareMetalInstanceStatus, FINALIZER_RELEASE, InstancePhase, conditions};
use kube::ResourceExt;
use lifecycle::{
    instance::{InstanceChange, InstanceFacts, decide},
    scheduler::Placement,
};
use serde_json::json;

use crate::{
    cache::Key,
    error::Result,
    events::Notice,
    queue::Next,
    world::{World, index, jittered, reference},
};

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(instance) = world.instances.get(&key) else {
        return Ok(Next::Rest);
    };
    let hardware = instance.spec.hardware_name.as_deref().and_then(|name| world.hardware.by_name(name));
    if let Some(hardware) = hardware.as_ref().filter(|h| wants_endpoints(&instance, h)) {
        endpoints::ensure(&world, &instance, hardware).await?;
    }
    let discovery = hardware.as_ref().and_then(|h| world.discoveries.by_name(&h.spec.discovery_name));
    let endpoints: Vec<BareMetalEndpoint> = endpoints::present(&world, &instance).iter().map(|e| e.as_ref().clone()).collect();
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let placement = match &instance.spec.hardware_name {
        Some(_) => None,
        // The instance's half of the binding was lost: the machine that it has is the only one it can get.
        None => match claimed_by(&world, uid) {
            Some(machine) => Some(Placement::Machine(machine)),
            None => world.scheduler.verdict(uid),
        },
    };
    if instance.spec.hardware_name.is_none() && placement.is_none() && instance.metadata.deletion_timestamp.is_none() {
        // The scheduler has it in hand, and wakes us with its answer.
        return Ok(Next::Rest);
    }
    let facts = InstanceFacts {
        instance: &instance,
        hardware: hardware.as_deref(),
        discovery: discovery.as_deref(),
        endpoints: &endpoints,
        placement: placement.as_ref(),
        // Controllers start only when every cache holds a complete list.
        synced: true,
        config: &world.config.lifecycle,
        now: jiff::Timestamp::now(),
    };
    let decision = world.timed("BareMetalInstance", || decide(&facts));
    let mut after = decision.requeue_after.and_then(|d| Duration::try_from(d).ok());
    let mut written = false;
    if let Some(change) = decision.change {
        world.patch(instance.as_ref(), patch(&instance, change)).await?;
        written = true;
    } else if let Some(status) = decision.status {
        match world.pacer.judge(&world, &instance, &status) {
            Ok(()) => {
                world
                    .replace_status(&BareMetalInstance {
                        status: Some(status),
                        ..instance.as_ref().clone()
                    })
                    .await?;
                written = true;
            }
            Err(wait) => {
                world.metrics.progress_deferred();
                after = Some(after.map_or(wait, |a| a.min(wait)));
            }
        }
    }
    if written {
        for event in decision.events {
            world.events.tell(Notice {
                regarding: reference(instance.as_ref()),
                related: hardware.as_ref().map(|h| reference(h.as_ref())),
                warning: event.warning,
                reason: event.reason.to_owned(),
                action: "Decided".to_owned(),
                note: event.message,
            });
        }
    }
    Ok(after.map_or(Next::Rest, |after| Next::After(jittered(after))))
}

/// The machine whose claim names the instance.
pub(crate) fn claimed_by(world: &World, uid: &str) -> Option<String> {
    world.hardware.keys_by(index::CLAIM_UID, uid).into_iter().next().map(|key| key.name)
}

/// Whether endpoints are (still) made to follow the specs: from the claim to the installation.
fn wants_endpoints(instance: &BareMetalInstance, hardware: &BareMetalHardware) -> bool {
    let uid = instance.metadata.uid.as_deref();
    let claimed = hardware.spec.claim_ref.as_ref().is_some_and(|c| Some(c.uid.as_str()) == uid);
    let installed = hardware
        .status
        .as_ref()
        .and_then(|s| s.installed.as_ref())
        .is_some_and(|i| Some(i.claim_uid.as_str()) == uid);
    claimed && !installed && instance.metadata.deletion_timestamp.is_none()
}

fn patch(instance: &BareMetalInstance, change: InstanceChange) -> serde_json::Value {
    let mut finalizers: Vec<String> = instance.finalizers().iter().filter(|f| *f != FINALIZER_RELEASE).cloned().collect();
    match change {
        InstanceChange::Bind(hardware) => {
            finalizers.push(FINALIZER_RELEASE.to_owned());
            json!({ "metadata": { "finalizers": finalizers }, "spec": { "hardwareName": hardware } })
        }
        InstanceChange::RemoveFinalizer => json!({ "metadata": { "finalizers": finalizers } }),
    }
}

/// Holds back status writes that can wait: those that say nothing but how far an order is, and steps that are passed within a moment anyway.
#[derive(Debug, Default)]
pub struct Pacer {
    /// When an instance's status was written last, by uid.
    written: std::sync::Mutex<std::collections::HashMap<String, tokio::time::Instant>>,
}

/// The status without what is only a hint.
fn essence(status: &BareMetalInstanceStatus) -> BareMetalInstanceStatus {
    BareMetalInstanceStatus {
        progress: None,
        progress_text: None,
        ..status.clone()
    }
}

/// How soon a status has to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// At once: others wait for it, or a person has to see it.
    Now,
    /// Soon: a step on the way, which the next one may overtake.
    Soon,
    /// When there is time: progress only.
    Hint,
}

fn urgency(old: Option<&BareMetalInstanceStatus>, new: &BareMetalInstanceStatus) -> Urgency {
    let Some(old) = old else {
        return Urgency::Now;
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
    let faults = |status: &BareMetalInstanceStatus| -> Vec<String> {
        let kinds = [conditions::ORDER_FAILED, conditions::FOREIGN_DATA, conditions::POWER_CYCLE_NEEDED];
        let shown = status
            .conditions
            .iter()
            .filter(|c| c.status == "True" && kinds.contains(&c.type_.as_str()));
        shown.map(|c| format!("{} {}", c.type_, c.reason)).collect()
    };
    let moving = step(old.phase) && step(new.phase);
    if moving && old.claimed == new.claimed && faults(old) == faults(new) {
        Urgency::Soon
    } else {
        Urgency::Now
    }
}

impl Pacer {
    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, tokio::time::Instant>> {
        self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the status may be written now; else after what time.
    fn judge(&self, world: &World, instance: &BareMetalInstance, status: &BareMetalInstanceStatus) -> Result<(), Duration> {
        let urgency = urgency(instance.status.as_ref(), status);
        let uid = instance.uid().unwrap_or_default();
        let interval = match urgency {
            Urgency::Now => Duration::ZERO,
            Urgency::Soon => world.config.step_interval,
            Urgency::Hint => world.config.progress_interval,
        };
        let since = match self.lock().entry(uid.clone()) {
            Entry::Occupied(last) => last.get().elapsed(),
            // Nothing was written lately: the pace counts from here.
            Entry::Vacant(entry) if urgency == Urgency::Soon => {
                entry.insert(tokio::time::Instant::now());
                Duration::ZERO
            }
            Entry::Vacant(_) => interval,
        };
        if since < interval {
            return Err(interval.saturating_sub(since));
        }
        if urgency == Urgency::Hint {
            world.progress.take()?;
            world.metrics.progress_written();
        }
        let mut written = self.lock();
        // What is settled needs no pace any more.
        if matches!(
            status.phase,
            InstancePhase::Pending | InstancePhase::Running | InstancePhase::Stopped
        ) {
            written.remove(&uid);
        } else {
            written.insert(uid, tokio::time::Instant::now());
        }
        Ok(())
    }

    /// The instance is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
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

    #[test]
    fn only_what_can_wait_waits() {
        let imaging = status(InstancePhase::Imaging);
        let further = BareMetalInstanceStatus {
            progress: Some(Progress {
                step: Step::Writing,
                done_bytes: 1,
                total_bytes: 2,
            }),
            ..imaging.clone()
        };
        assert_eq!(urgency(Some(&imaging), &further), Urgency::Hint);
        assert_eq!(urgency(Some(&imaging), &status(InstancePhase::Booting)), Urgency::Soon);
        assert_eq!(urgency(Some(&imaging), &status(InstancePhase::Running)), Urgency::Now);
        assert_eq!(urgency(None, &imaging), Urgency::Now);
        let seen = BareMetalInstanceStatus {
            observed_generation: Some(2),
            ..imaging.clone()
        };
        assert_eq!(urgency(Some(&imaging), &seen), Urgency::Soon, "a generation alone is no news");
        let claimed = BareMetalInstanceStatus {
            claimed: true,
            ..imaging.clone()
        };
        assert_eq!(urgency(Some(&imaging), &claimed), Urgency::Now, "the order waits for it");
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
        assert_eq!(urgency(Some(&imaging), &failed), Urgency::Now, "a person has to see it");
    }
}
