//! The endpoints of an instance: one for each NIC that is on a network.
//!
//! They are made once the machine's claim names the instance, and follow the specs until the image is installed: what stands in the seed then is what the system was told, so
//! later changes of the machine's assignments do not touch it.

use std::sync::Arc;

use api::{BareMetalEndpoint, BareMetalHardware, BareMetalInstance, conditions};
use kube::ResourceExt;
use lifecycle::{hardware::Readiness, instance};

use crate::{
    cache::Key,
    endpoint,
    error::Result,
    world::{World, index},
};

pub(crate) fn waiting(reason: &str, message: impl Into<String>) -> Readiness {
    Readiness::Waiting {
        reason: reason.to_owned(),
        message: message.into(),
    }
}

fn wanted(world: &World, instance: &BareMetalInstance, hardware: &BareMetalHardware) -> Result<Vec<BareMetalEndpoint>, Readiness> {
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name);
    instance::endpoints(instance, hardware, discovery.as_deref()).map_err(|message| waiting("NetworksInvalid", message))
}

/// Whether an endpoint belongs to this very instance, not to a predecessor of its name.
pub(crate) fn owned_by(endpoint: &BareMetalEndpoint, instance: &BareMetalInstance) -> bool {
    endpoint
        .owner_references()
        .iter()
        .any(|o| Some(&o.uid) == instance.metadata.uid.as_ref())
}

/// The instance's endpoints as they are, in the order of their names' numbers.
pub(crate) fn present(world: &World, instance: &BareMetalInstance) -> Vec<Arc<BareMetalEndpoint>> {
    let mut all = world.endpoints.by(index::INSTANCE, &Key::of(instance).to_string());
    all.retain(|e| owned_by(e, instance));
    all.sort_by_key(|e| {
        let name = e.name_any();
        // `<instance>-10` comes after `<instance>-9`.
        (name.len(), name)
    });
    all
}

/// Creates what is missing, and replaces what asks for something else than the specs do now.
pub(crate) async fn ensure(world: &World, instance: &BareMetalInstance, hardware: &BareMetalHardware) -> Result<()> {
    let Ok(wanted) = wanted(world, instance, hardware) else {
        // `readiness` says what is missing.
        return Ok(());
    };
    for endpoint in present(world, instance) {
        let fits = wanted
            .iter()
            .any(|w| w.metadata.name == endpoint.metadata.name && w.spec == endpoint.spec);
        if !fits && endpoint.metadata.deletion_timestamp.is_none() {
            // Its addresses go with it: nothing was installed that uses them.
            crate::address::release_of(world, &endpoint).await?;
            world.delete(endpoint.as_ref()).await?;
        }
    }
    for endpoint in wanted {
        if world.endpoints.get(&Key::of(&endpoint)).is_some() {
            continue;
        }
        match world.create(&endpoint).await {
            Ok(_) => {}
            // A predecessor's of the same name is still being collected; its end wakes us.
            Err(error) if error.is_already_exists() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether every endpoint has its addresses; where not, which one waits for what.
pub(crate) fn readiness(world: &World, instance: &BareMetalInstance, hardware: &BareMetalHardware) -> Readiness {
    let wanted = match wanted(world, instance, hardware) {
        Ok(wanted) => wanted,
        Err(waiting) => return waiting,
    };
    for wanted in wanted {
        let key = Key::of(&wanted);
        let found = world
            .endpoints
            .get(&key)
            .filter(|e| owned_by(e, instance) && e.spec == wanted.spec && e.metadata.deletion_timestamp.is_none());
        let Some(found) = found else {
            return waiting("AwaitingEndpoint", format!("BareMetalEndpoint {key} is being created"));
        };
        if endpoint::is_ready(&found) {
            continue;
        }
        let condition = found
            .status
            .as_ref()
            .and_then(|s| s.conditions.iter().find(|c| c.type_ == conditions::READY));
        return match condition {
            Some(condition) => waiting(&condition.reason, condition.message.clone()),
            None => waiting("AwaitingAddress", instance::unanswered(&found)),
        };
    }
    Readiness::Ready
}
