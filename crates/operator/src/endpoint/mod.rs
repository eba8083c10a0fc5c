//! Endpoints on our own networks: allocate addresses, and answer with what a host needs to use them.
//!
//! Creating a BareMetalAddress is the allocation; losing that race means choosing again. Within this process the [`Book`] keeps concurrent endpoints from choosing the same
//! address at all, so that races are left to two operators. Endpoints of other networks are somebody else's to answer and are not touched.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{
    BareMetalAddress, BareMetalEndpoint, BareMetalEndpointStatus, BareMetalInstance, BareMetalNetwork, conditions,
    endpoint::EndpointAddress,
};
use kube::{ResourceExt, api::ListParams};
use lifecycle::address::{AddressError, allocate, object};

use crate::{
    address::allocated,
    cache::Key,
    error::Result,
    instance::endpoints::owned_by,
    queue::Next,
    world::{Kept, World, jittered, now},
};

/// So often another address is tried when somebody was faster, within one reconcile.
const TRIES: u32 = 16;

/// Names of the addresses that exist or are being created, by network.
#[derive(Debug, Default)]
pub struct Book {
    taken: Mutex<HashMap<String, BTreeSet<String>>>,
}

impl Book {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, BTreeSet<String>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cache saw an address come.
    pub(crate) fn insert(&self, address: &BareMetalAddress) {
        let mut taken = self.lock();
        taken
            .entry(address.spec.network_name.clone())
            .or_default()
            .insert(address.name_any());
    }

    /// The cache saw it go.
    pub(crate) fn remove(&self, address: &BareMetalAddress) {
        self.free(&address.spec.network_name, &address.name_any());
    }

    fn free(&self, network: &str, name: &str) {
        if let Some(names) = self.lock().get_mut(network) {
            names.remove(name);
        }
    }

    /// Chooses addresses and enters them at once.
    fn choose(
        &self,
        network: &BareMetalNetwork,
        own: &[Arc<BareMetalAddress>],
        wishes: &[String],
    ) -> Result<Vec<EndpointAddress>, AddressError> {
        let name = network.name_any();
        let mut book = self.lock();
        let taken = book.entry(name.clone()).or_default();
        // What is ours already is not taken from us.
        for address in own {
            taken.remove(&address.name_any());
        }
        let addresses: Vec<IpAddr> = own.iter().filter_map(|a| a.spec.address.parse().ok()).collect();
        let chosen = allocate(network, taken, &addresses, wishes);
        taken.extend(own.iter().map(|a| a.name_any()));
        if let Ok(chosen) = &chosen {
            taken.extend(chosen.iter().filter_map(|a| object_name(&name, a)));
        }
        chosen
    }
}

fn object_name(network: &str, address: &EndpointAddress) -> Option<String> {
    Some(lifecycle::address::object_name(network, address.address.parse().ok()?))
}

/// Whether whoever answers for the network said that the addresses are there.
pub(crate) fn is_ready(endpoint: &BareMetalEndpoint) -> bool {
    endpoint
        .status
        .as_ref()
        .is_some_and(|s| conditions::is_true(&s.conditions, conditions::READY))
}

/// The instance that the endpoint is for, as long as it may get addresses.
fn entitled(world: &World, endpoint: &BareMetalEndpoint) -> Option<Arc<BareMetalInstance>> {
    let key = Key::namespaced(endpoint.namespace().unwrap_or_default(), endpoint.spec.instance_name.clone());
    let instance = world.instances.get(&key)?;
    // After the deletion no address may be allocated anew: those that are given back must stay free.
    let alive = instance.metadata.deletion_timestamp.is_none() && endpoint.metadata.deletion_timestamp.is_none();
    let hardware = world.hardware.by_name(&endpoint.spec.hardware_name)?;
    let claimed = hardware
        .spec
        .claim_ref
        .as_ref()
        .is_some_and(|c| Some(&c.uid) == instance.metadata.uid.as_ref());
    (alive && claimed && owned_by(endpoint, &instance)).then_some(instance)
}

pub(crate) async fn reconcile(world: Arc<World>, key: Key) -> Result<Next> {
    let Some(endpoint) = world.endpoints.get(&key) else {
        return Ok(Next::Rest);
    };
    if !endpoint.spec.network_ref.is_ours() || world.is_paused(&endpoint.spec.hardware_name) {
        return Ok(Next::Rest);
    }
    let Some(instance) = entitled(&world, &endpoint) else {
        return Ok(Next::Rest);
    };
    let uid = instance.metadata.uid.clone().unwrap_or_default();
    let name = &endpoint.spec.network_ref.name;
    let Some(network) = world.networks.by_name(name) else {
        let message = format!(
            "There is no BareMetalNetwork {name}: create it, or correct the reference in the instance's spec.networks or the machine's spec.nics"
        );
        return answer(&world, &endpoint, Err(("NetworkNotFound", message))).await;
    };
    for _ in 0..TRIES {
        let own = allocated(&world, &endpoint);
        let chosen = match world.book.choose(&network, &own, &endpoint.spec.addresses) {
            Ok(chosen) => chosen,
            Err(error) => return answer(&world, &endpoint, Err((error.reason(), error.to_string()))).await,
        };
        let mut lost = false;
        for address in &chosen {
            let wanted = match object(&network, address, &endpoint, &uid) {
                Ok(wanted) => wanted,
                Err(error) => return answer(&world, &endpoint, Err((error.reason(), error.to_string()))).await,
            };
            if own.iter().any(|a| a.metadata.name == wanted.metadata.name) {
                continue;
            }
            match take(&world, &wanted).await {
                Ok(true) => {}
                Ok(false) => {
                    lost = true;
                    break;
                }
                Err(error) => {
                    // Perhaps it was created and the answer was lost; the watch will tell, and enter it again.
                    world.book.free(name, &wanted.name_any());
                    return Err(error);
                }
            }
        }
        if !lost {
            return answer(&world, &endpoint, Ok((&network, chosen))).await;
        }
    }
    Ok(Next::After(jittered(Duration::from_secs(1))))
}

/// Creates one address; `false` when somebody else has it.
async fn take(world: &World, wanted: &BareMetalAddress) -> Result<bool> {
    let error = match world.create(wanted).await {
        Ok(_) => return Ok(true),
        Err(error) if error.is_already_exists() => error,
        Err(error) => return Err(error),
    };
    // Ours after all: created just before this process started, or by an attempt whose answer was lost.
    // Listed by name, because listing is allowed anyway: a right of its own would serve this rare case only.
    let name = ListParams::default().fields(&format!("metadata.name={}", wanted.name_any()));
    let found = BareMetalAddress::everywhere(world.client()).list(&name).await;
    match found.map(|list| list.items.into_iter().find(|a| a.name_any() == wanted.name_any())) {
        Ok(Some(found)) => {
            let ours = found.spec == wanted.spec && found.metadata.deletion_timestamp.is_none();
            world.addresses.absorb(found);
            Ok(ours)
        }
        Ok(None) => Ok(false),
        Err(_) => Err(error),
    }
}

async fn answer(
    world: &World,
    endpoint: &Arc<BareMetalEndpoint>,
    outcome: Result<(&BareMetalNetwork, Vec<EndpointAddress>), (&'static str, String)>,
) -> Result<Next> {
    let mut status = endpoint.status.clone().unwrap_or_default();
    let mut next = Next::Rest;
    match outcome {
        Ok((network, addresses)) => {
            let text = addresses.iter().map(|a| a.address.as_str()).collect::<Vec<_>>().join(", ");
            let message = if text.is_empty() {
                "The network gives no addresses of its own; the system asks DHCP".to_owned()
            } else {
                format!("Allocated {text}")
            };
            status = BareMetalEndpointStatus {
                addresses,
                mtu: network.spec.mtu,
                vlan: network.spec.vlan,
                conditions: status.conditions,
            };
            conditions::set(&mut status.conditions, conditions::READY, true, "Allocated", &message, None, &now());
        }
        Err((reason, message)) => {
            conditions::set(&mut status.conditions, conditions::READY, false, reason, &message, None, &now());
            // A change of network or addresses wakes us; this is for what nobody tells.
            next = Next::After(jittered(Duration::from_secs(60)));
        }
    }
    if endpoint.status.as_ref() != Some(&status) {
        world
            .replace_status(&BareMetalEndpoint {
                status: Some(status),
                ..endpoint.as_ref().clone()
            })
            .await?;
    }
    Ok(next)
}
