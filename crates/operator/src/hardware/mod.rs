//! Accepted machines: gather what is known of one, let `lifecycle::hardware` decide, carry it out.
//!
//! The decision's parts are carried out in its order (seed, addresses, status, spec, events), each write on the version it was decided on. Being
//! interrupted between any two leaves a state from which the next decision goes on. What is done about its BMC comes before all of it, in writes of its own.

pub(crate) mod bmc;
pub(crate) mod render;
pub(crate) mod seed;

use std::{sync::Arc, time::Duration};

use api::{BareMetalHardware, BareMetalInstance, FINALIZER_CLAIM, HardwarePhase};
use kube::ResourceExt;
use lifecycle::hardware::{EventNote, HardwareDecision, HardwareFacts, Readiness, SeedAction, SpecChange, choose_claimant, decide};
use serde_json::json;

use crate::{
    address,
    cache::Key,
    error::Result,
    events::Notice,
    idle, instance, pacer, power,
    queue::Next,
    world::{World, index, jittered, reference},
};

/// The instance that has, or is to have, a machine.
pub(crate) fn claimant(world: &World, hardware: &BareMetalHardware) -> Option<Arc<BareMetalInstance>> {
    if let Some(claim) = &hardware.spec.claim_ref {
        return world.instances.get(&Key::namespaced(claim.namespace.clone(), claim.name.clone()));
    }
    let candidates = world.instances.by(index::HARDWARE, &hardware.name_any());
    let chosen = Key::of(choose_claimant(candidates.iter().map(AsRef::as_ref))?);
    candidates.into_iter().find(|i| Key::of(i.as_ref()) == chosen)
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(hardware) = world.hardware.get(&key) else {
        world.seeds.forget(&key.name);
        return Ok(Next::Rest);
    };
    if hardware.spec.paused {
        return Ok(Next::Rest);
    }
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name);
    if bmc::step(&world, &hardware, discovery.as_deref()).await? {
        // It is looked at anew as it was written.
        return Ok(Next::Rest);
    }
    if power::inventory::step(&world, &hardware, discovery.as_deref()).await? {
        return Ok(Next::Rest);
    }
    let claimant = claimant(&world, &hardware);
    let image = claimant.as_ref().and_then(|i| world.images.by_name(&i.spec.image));
    let sealed = seed::state(&world, &hardware).await?.map(|s| s.into_facts());
    let (endpoints, seed_input) = match &claimant {
        Some(instance) if is_claim(&hardware, instance) => (
            instance::endpoints::readiness(&world, instance, &hardware),
            render::readiness(&world, instance, &hardware).await?,
        ),
        _ => (Readiness::Ready, Readiness::Ready),
    };
    let power = world.power.facts(&hardware, discovery.as_deref());
    let facts = HardwareFacts {
        hardware: &hardware,
        discovery: discovery.as_deref(),
        claimant: claimant.as_deref(),
        image: image.as_deref(),
        endpoints: &endpoints,
        seed_input: &seed_input,
        sealed: sealed.as_ref(),
        power: power.as_ref(),
        idle: idle::facts(&world, &hardware),
        salt: rand::random(),
        config: &world.config.lifecycle,
        now: jiff::Timestamp::now(),
    };
    let decision = world.timed("BareMetalHardware", || decide(&facts));
    let retry = render::retry(&world, claimant.as_deref(), &seed_input);
    let after = decision
        .requeue_after
        .and_then(|d| Duration::try_from(d).ok())
        .into_iter()
        .chain(retry)
        .min();
    let wait = act(&world, &hardware, claimant.as_deref(), decision).await?;
    let after = after.into_iter().chain(wait).min();
    Ok(after.map_or(Next::Rest, |after| Next::After(jittered(after))))
}

fn is_claim(hardware: &BareMetalHardware, instance: &BareMetalInstance) -> bool {
    hardware
        .spec
        .claim_ref
        .as_ref()
        .is_some_and(|c| Some(c.uid.as_str()) == instance.metadata.uid.as_deref())
}

/// Carries the decision out. Returns after what time to look again, when the status is held back.
async fn act(
    world: &World,
    hardware: &Arc<BareMetalHardware>,
    claimant: Option<&BareMetalInstance>,
    decision: HardwareDecision,
) -> Result<Option<Duration>> {
    let name = hardware.name_any();
    match decision.seed {
        SeedAction::Keep => {}
        SeedAction::Delete => seed::delete(world, &name).await?,
        SeedAction::SealFor {
            order_id,
            instance_uid,
            thumbprint,
            sealing_key,
        } => {
            // The decision saw the claimant; without it there is nothing to render, and its return decides anew.
            if let Some(instance) = claimant.filter(|i| i.metadata.uid.as_deref() == Some(instance_uid.as_str()))
                && let Some(sealed) = render::sealed(world, instance, hardware, &order_id, &thumbprint, &sealing_key).await?
            {
                seed::store(world, hardware, &sealed).await?;
            }
        }
    }
    if decision.release_addresses {
        let claim = hardware.spec.claim_ref.as_ref().map(|c| c.uid.as_str());
        let ended = hardware.status.as_ref().and_then(|s| s.claim_uid.as_deref());
        // Restored objects may still carry the uid that the instance had before.
        let earlier = hardware.spec.claim_ref.as_ref().and_then(|c| c.installation_uid.as_deref());
        for uid in claim.or(ended).into_iter().chain(earlier) {
            address::release(world, uid).await?;
        }
    }
    let mut written = false;
    if let Some(status) = decision.status {
        let (uid, urgency) = (
            hardware.uid().unwrap_or_default(),
            pacer::of_hardware(hardware.status.as_ref(), &status),
        );
        if let Err(wait) = world.pacer.judge(&world.metrics, &uid, urgency) {
            return Ok(Some(wait));
        }
        if matches!(status.phase, HardwarePhase::Ready | HardwarePhase::InUse) {
            world.pacer.forget(&uid);
        }
        tracing::debug!(
            hardware = name,
            before = ?hardware.status.as_ref().map(|s| (s.phase, s.reason.as_str(), s.order.as_ref().map(|o| o.id.as_str()))),
            after = ?(status.phase, status.reason.as_str(), status.order.as_ref().map(|o| o.id.as_str())),
            "status"
        );
        world
            .replace_status(&BareMetalHardware {
                status: Some(status),
                ..hardware.as_ref().clone()
            })
            .await?;
        written = true;
    } else if let Some(change) = decision.spec {
        let fresh = matches!(change, SpecChange::SetClaim(_)) && hardware.status.as_ref().is_some_and(|s| s.phase == HardwarePhase::Ready);
        world.patch(hardware.as_ref(), spec_patch(hardware, change)).await?;
        if fresh {
            world.seeds.none_yet(&name);
        }
        written = true;
    }
    // Nothing written, nothing happened: the same decision will come again, and must not tell twice.
    if written {
        tell(world, hardware, decision.events);
    }
    Ok(None)
}

fn spec_patch(hardware: &BareMetalHardware, change: SpecChange) -> serde_json::Value {
    let mut finalizers: Vec<String> = hardware.finalizers().iter().filter(|f| *f != FINALIZER_CLAIM).cloned().collect();
    let claim = match change {
        SpecChange::SetClaim(claim) => {
            finalizers.push(FINALIZER_CLAIM.to_owned());
            json!(claim)
        }
        SpecChange::ClearClaim => serde_json::Value::Null,
    };
    json!({ "metadata": { "finalizers": finalizers }, "spec": { "claimRef": claim } })
}

fn tell(world: &World, hardware: &BareMetalHardware, events: Vec<EventNote>) {
    for event in events {
        world.events.tell(Notice {
            regarding: reference(hardware),
            related: hardware.spec.claim_ref.as_ref().map(api::hardware::ClaimRef::object_reference),
            warning: event.warning,
            reason: event.reason.to_owned(),
            action: "Decided".to_owned(),
            note: event.message,
        });
    }
}
