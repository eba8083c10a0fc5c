//! Seeds: is everything there to render one, and rendering and sealing it.
//!
//! The tenant's Secret is read (by `get`, through [`crate::secrets`]) when it is first needed and again when the seed is sealed; in between only whether it was there is remembered. A missing one
//! is looked for again with growing pauses, and the condition names it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use agent_protocol::{
    guest::GuestConfig,
    seed::{SealedSeed, SeedError, seal},
    token::GuestClaims,
};
use api::{BareMetalHardware, BareMetalInstance, common::LocalSecretKey};
use kube::ResourceExt;
use lifecycle::{
    hardware::Readiness,
    seed::{NetworkSeed, SeedFacts, render},
};
use tokio::time::Instant;

use crate::{
    cache::Key,
    error::{Error, Result},
    instance::endpoints::{self, waiting},
    secrets,
    world::World,
};

/// How long "it was there" is believed while the order is being prepared.
const BELIEVED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Look {
    secret: Option<LocalSecretKey>,
    outcome: Readiness,
    misses: u32,
    at: Instant,
}

impl Look {
    fn keep(&self) -> Duration {
        match self.outcome {
            Readiness::Ready => BELIEVED,
            Readiness::Waiting { .. } => secrets::retry_after(self.misses),
        }
    }
}

/// What was found when a seed's inputs were last looked at, by the instance's uid.
#[derive(Debug, Default)]
pub struct Inputs {
    looks: Mutex<HashMap<String, Look>>,
}

impl Inputs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, instance: &BareMetalInstance, outcome: Readiness) {
        let uid = instance.uid().unwrap_or_default();
        let mut looks = self.lock();
        let misses = match &outcome {
            Readiness::Ready => 0,
            Readiness::Waiting { .. } => looks.get(&uid).map_or(0, |l| l.misses).saturating_add(1),
        };
        let look = Look {
            secret: instance.spec.user_data.clone(),
            outcome,
            misses,
            at: Instant::now(),
        };
        looks.insert(uid, look);
    }

    /// The instance is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

/// What is rendered from.
struct Input {
    user_data: Option<String>,
    guest: Option<GuestConfig>,
}

/// Reads everything that a seed needs; `Err` inside says what is missing.
async fn gather(world: &World, instance: &BareMetalInstance, hardware: &BareMetalHardware) -> Result<Result<Input, Readiness>> {
    let user_data = match &instance.spec.user_data {
        None => None,
        Some(LocalSecretKey { name, key }) => {
            let namespace = instance.namespace().unwrap_or_default();
            let found = secrets::local(&world.config.client, instance, name).await;
            world.metrics.requested("Secret", "get", if found.is_ok() { "ok" } else { "error" });
            let Some(contents) = found? else {
                return Ok(Err(waiting(
                    "SecretNotFound",
                    format!("There is no Secret {namespace}/{name}, which spec.userData names: create it, or correct spec.userData"),
                )));
            };
            let Some(bytes) = contents.get(key) else {
                return Ok(Err(waiting(
                    "SecretKeyNotFound",
                    format!("Secret {namespace}/{name} has no key {key:?}, which spec.userData names: add it, or correct spec.userData"),
                )));
            };
            let Ok(text) = std::str::from_utf8(bytes) else {
                return Ok(Err(waiting(
                    "UserDataNotText",
                    format!("Key {key:?} of Secret {namespace}/{name} is not UTF-8 text; user data must be"),
                )));
            };
            Some(text.to_owned())
        }
    };
    let guest = if instance.spec.guest_helper {
        let Some(keys) = world.keys.get().await? else {
            return Ok(Err(waiting(
                "NetbootKeysNotFound",
                format!(
                    "There is no Secret {}/{} yet; netboot makes it when it starts",
                    world.config.netboot_namespace,
                    crate::keys::SECRET
                ),
            )));
        };
        let uid = instance.uid().unwrap_or_default();
        let claims = GuestClaims {
            instance_uid: uid.clone(),
            hardware: hardware.name_any(),
            nonce: format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>()),
        };
        Some(GuestConfig {
            servers: in_turn(&world.config.servers, &uid),
            ca: keys.ca_pin.clone(),
            instance_uid: uid,
            token: keys.tokens.issue_guest(&claims),
            order_key: keys.order_key.clone(),
        })
    } else {
        None
    };
    Ok(Ok(Input { user_data, guest }))
}

/// The servers in an order that differs between instances: they are tried in order, and the first must not get all guests.
fn in_turn(servers: &[String], uid: &str) -> Vec<String> {
    let mut servers = servers.to_vec();
    if !servers.is_empty() {
        let spread = uid.bytes().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let first = spread % servers.len();
        servers.rotate_left(first);
    }
    servers
}

/// Whether a seed is wanted at all now.
fn is_wanted(instance: &BareMetalInstance, hardware: &BareMetalHardware) -> bool {
    let installed = hardware.status.as_ref().and_then(|s| s.installed.as_ref());
    let ours = installed.is_some_and(|i| Some(i.claim_uid.as_str()) == instance.metadata.uid.as_deref());
    // One that is asked to be written anew needs another.
    let again = instance.spec.reinstall_token.is_some()
        && hardware.status.as_ref().map(|s| &s.observed_reinstall_token) != Some(&instance.spec.reinstall_token);
    instance.spec.config_drive && (!ours || again) && instance.metadata.deletion_timestamp.is_none()
}

/// Whether the claimant's seed can be rendered.
pub(crate) async fn readiness(world: &World, instance: &BareMetalInstance, hardware: &BareMetalHardware) -> Result<Readiness> {
    if !is_wanted(instance, hardware) {
        return Ok(Readiness::Ready);
    }
    let uid = instance.uid().unwrap_or_default();
    let known = world.inputs.lock().get(&uid).cloned();
    if let Some(look) = known
        && look.secret == instance.spec.user_data
        && look.at.elapsed() < look.keep()
    {
        return Ok(look.outcome);
    }
    let outcome = match gather(world, instance, hardware).await? {
        Ok(_) => Readiness::Ready,
        Err(waiting) => waiting,
    };
    world.inputs.note(instance, outcome.clone());
    Ok(outcome)
}

/// When something that is missing is to be looked for again.
pub(crate) fn retry(world: &World, instance: Option<&BareMetalInstance>, outcome: &Readiness) -> Option<Duration> {
    let uid = instance?.uid()?;
    match outcome {
        Readiness::Ready => None,
        Readiness::Waiting { .. } => world.inputs.lock().get(&uid).map(|l| l.keep().saturating_sub(l.at.elapsed())),
    }
}

/// Renders the seed and seals it to a session. `None` when something is missing after all; the next decision says what.
pub(crate) async fn sealed(
    world: &World,
    instance: &BareMetalInstance,
    hardware: &BareMetalHardware,
    order_id: &str,
    thumbprint: &str,
    sealing_key: &str,
) -> Result<Option<SealedSeed>> {
    let input = match gather(world, instance, hardware).await? {
        Ok(input) => input,
        Err(waiting) => {
            world.inputs.note(instance, waiting);
            return Ok(None);
        }
    };
    let discovery = world.discoveries.by_name(&hardware.spec.discovery_name);
    let session = discovery.as_ref().and_then(|d| d.status.as_ref()).and_then(|s| s.session.as_ref());
    let Some(session) = session.filter(|s| s.thumbprint == thumbprint) else {
        // Another session meanwhile: it is decided anew with that one's key.
        return Ok(None);
    };
    let inventory = discovery.as_ref().and_then(|d| d.status.as_ref()?.inventory.as_ref());
    let connection = inventory.and_then(|i| i.connection.as_ref());
    let networks: Vec<NetworkSeed> = endpoints::present(world, instance)
        .iter()
        .map(|endpoint| {
            let status = endpoint.status.clone().unwrap_or_default();
            NetworkSeed {
                mac: endpoint.spec.mac,
                addresses: status.addresses,
                mtu: status.mtu,
                vlan: status.vlan,
            }
        })
        .collect();
    let rendered = render(&SeedFacts {
        instance,
        user_data: input.user_data.as_deref(),
        networks: &networks,
        boot_mac: session.boot_mac,
        bond: connection.and_then(|c| c.bond.as_ref()),
        guest: input.guest.as_ref(),
    });
    let seed = match rendered {
        Ok(seed) => seed,
        Err(error) => {
            world.inputs.note(instance, waiting("SeedInvalid", error.to_string()));
            return Ok(None);
        }
    };
    let uid = instance.uid().unwrap_or_default();
    match seal(&seed, sealing_key, thumbprint, order_id, &uid) {
        Ok(sealed) => Ok(Some(sealed)),
        Err(error @ SeedError::TooLarge(_)) => {
            world.inputs.note(instance, waiting("SeedTooLarge", error.to_string()));
            Ok(None)
        }
        Err(source) => Err(Error::Seal {
            instance: Key::of(instance).to_string(),
            source,
        }),
    }
}
