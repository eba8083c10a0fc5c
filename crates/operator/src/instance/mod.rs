//! Instances: gather what is known of one, let `lifecycle::instance` decide, carry it out; and keep its endpoints.

pub(crate) mod endpoints;
pub(crate) mod scheduler;

use std::{sync::Arc, time::Duration};

use api::{BareMetalEndpoint, BareMetalHardware, BareMetalInstance, FINALIZER_RELEASE, InstancePhase};
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
    pacer,
    queue::Next,
    world::{World, index, jittered, reference},
};

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(instance) = world.instances.get(&key) else {
        return Ok(Next::Rest);
    };
    let hardware = instance.spec.hardware_name.as_deref().and_then(|name| world.hardware.by_name(name));
    if hardware.as_ref().is_some_and(|h| h.spec.paused) {
        return Ok(Next::Rest);
    }
    if let Some(hardware) = hardware.as_ref().filter(|h| wants_endpoints(&instance, h)) {
        endpoints::ensure(&world, &instance, hardware).await?;
    }
    let discovery = hardware.as_ref().and_then(|h| world.discoveries.by_name(&h.spec.discovery_name));
    let endpoints: Vec<BareMetalEndpoint> = endpoints::present(&world, &instance).iter().map(|e| e.as_ref().clone()).collect();
    let image = world.images.by_name(&instance.spec.image);
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
        image: image.as_deref(),
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
        let settled = matches!(
            status.phase,
            InstancePhase::Pending | InstancePhase::Running | InstancePhase::Stopped
        );
        match world
            .pacer
            .judge(&world.metrics, uid, pacer::of_instance(instance.status.as_ref(), &status))
        {
            Ok(()) => {
                world
                    .replace_status(&BareMetalInstance {
                        status: Some(status),
                        ..instance.as_ref().clone()
                    })
                    .await?;
                written = true;
                // What has come to rest needs no pace any more.
                if settled {
                    world.pacer.forget(uid);
                }
            }
            Err(wait) => {
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
