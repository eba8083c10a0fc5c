//! Instances: gather what is known of one, let `lifecycle::instance` decide, carry it out; and keep its endpoints.
//!
//! Progress is a hint: a status that differs from the stored one in nothing else is written at most every two seconds per instance, and within a budget for all.

pub(crate) mod endpoints;
pub(crate) mod scheduler;

use std::{sync::Arc, time::Duration};

use api::{BareMetalEndpoint, BareMetalHardware, BareMetalInstance, BareMetalInstanceStatus, FINALIZER_RELEASE};
use kube::ResourceExt;
use lifecycle::instance::{InstanceChange, InstanceFacts, decide};
use serde_json::json;

use crate::{
    cache::Key,
    error::Result,
    events::Notice,
    queue::Next,
    world::{World, jittered, reference},
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
    let placement = match &instance.spec.hardware_name {
        Some(_) => None,
        None => world.scheduler.verdict(instance.metadata.uid.as_deref().unwrap_or_default()),
    };
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

/// Holds back writes that say nothing but how far an order is.
#[derive(Debug, Default)]
pub struct Pacer {
    /// When an instance's progress was written last, by uid.
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

impl Pacer {
    fn lock(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, tokio::time::Instant>> {
        self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the status may be written now; else after what time.
    fn judge(&self, world: &World, instance: &BareMetalInstance, status: &BareMetalInstanceStatus) -> Result<(), Duration> {
        let old = instance.status.as_ref();
        let only_progress = old.is_some_and(|old| essence(old) == essence(status)) && status.progress.is_some();
        let uid = instance.uid().unwrap_or_default();
        let interval = world.config.progress_interval;
        if only_progress {
            if let Some(last) = self.lock().get(&uid)
                && last.elapsed() < interval
            {
                return Err(interval.saturating_sub(last.elapsed()));
            }
            world.progress.take()?;
        }
        let mut written = self.lock();
        if status.progress.is_some() {
            written.insert(uid, tokio::time::Instant::now());
        } else {
            written.remove(&uid);
        }
        Ok(())
    }

    /// The instance is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}
