//! Addresses: held until the old system is known to be off, then given back.
//!
//! `lifecycle::hardware` says when a claim's addresses may go ([`release`]). What is left to this controller are addresses that nobody will ever ask for again: their instance is gone,
//! and so is its claim on the machine.

use std::sync::Arc;

use api::{BareMetalAddress, BareMetalEndpoint};
use kube::ResourceExt;
use lifecycle::view;

use crate::{
    cache::Key,
    error::Result,
    queue::Next,
    world::{World, index},
};

/// Gives back every address of an instance.
pub(crate) async fn release(world: &World, instance_uid: &str) -> Result<()> {
    for address in world.addresses.by(index::INSTANCE_UID, instance_uid) {
        world.delete(address.as_ref()).await?;
    }
    Ok(())
}

/// The addresses allocated to an endpoint, for the instance it belongs to.
pub(crate) fn allocated(world: &World, endpoint: &BareMetalEndpoint) -> Vec<Arc<BareMetalAddress>> {
    let owners: Vec<&str> = endpoint.owner_references().iter().map(|o| o.uid.as_str()).collect();
    let mut all = world.addresses.by(index::ENDPOINT, &Key::of(endpoint).to_string());
    all.retain(|a| owners.contains(&a.spec.instance_uid.as_str()));
    all
}

/// Gives back the addresses of one endpoint that is replaced before anything used them.
pub(crate) async fn release_of(world: &World, endpoint: &BareMetalEndpoint) -> Result<()> {
    for address in allocated(world, endpoint) {
        world.delete(address.as_ref()).await?;
    }
    Ok(())
}

/// Whether somebody may still use the address, or come back for it.
fn is_needed(world: &World, address: &BareMetalAddress) -> bool {
    let spec = &address.spec;
    // A person's reservation.
    if spec.instance_uid.is_empty() {
        return true;
    }
    let instance = spec
        .instance
        .split_once('/')
        .and_then(|(namespace, name)| world.instances.get(&Key::namespaced(namespace, name)));
    if instance.is_some_and(|i| i.metadata.uid.as_deref() == Some(spec.instance_uid.as_str())) {
        return true;
    }
    // The claim outlives the instance where objects were lost: the system may still run with this address.
    let hardware = world.hardware.by_name(&spec.hardware_name);
    hardware.is_some_and(|h| h.spec.claim_ref.as_ref().is_some_and(|c| view::Uids::of(c).has(&spec.instance_uid)))
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(address) = world.addresses.get(&key) else {
        return Ok(Next::Rest);
    };
    let left_alone = world.is_paused(&address.spec.hardware_name) || address.metadata.deletion_timestamp.is_some();
    if left_alone || is_needed(&world, &address) {
        return Ok(Next::Rest);
    }
    tracing::info!(
        address = address.spec.address,
        instance = address.spec.instance,
        "giving back an address whose instance is gone"
    );
    world.delete(address.as_ref()).await?;
    Ok(Next::Rest)
}
