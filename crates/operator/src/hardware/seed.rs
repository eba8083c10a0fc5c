//! Sealed seeds: where they are stored, and what is known of them.
//!
//! The Secret `seed-<hardware>` stands in netboot's namespace and holds ciphertext only, for a key that lived in the memory of one boot of the agent. What this process stored is
//! remembered, so that a decision costs no request; what it does not know (after a restart) is read once, by `get`, and only where it matters. It goes with the claim.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use agent_protocol::seed::SealedSeed;
use api::{BareMetalHardware, HardwarePhase};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};

use crate::{
    error::{Error, Result},
    secrets,
    world::World,
};

/// Key of the ciphertext.
const SEALED: &str = "sealed.json";

/// Name of the Secret of a machine.
pub(crate) fn secret_name(hardware: &str) -> String {
    format!("seed-{hardware}")
}

/// What a stored seed was sealed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedFor {
    /// The order.
    pub order_id: String,
    /// The session's keys.
    pub thumbprint: String,
    /// The instance.
    pub instance_uid: String,
}

impl SealedFor {
    /// As the decision wants it.
    pub(crate) fn into_facts(self) -> lifecycle::hardware::SealedFor {
        lifecycle::hardware::SealedFor {
            order_id: self.order_id,
            thumbprint: self.thumbprint,
        }
    }
}

impl From<&SealedSeed> for SealedFor {
    fn from(seed: &SealedSeed) -> Self {
        Self {
            order_id: seed.order_id.clone(),
            thumbprint: seed.thumbprint.clone(),
            instance_uid: seed.instance_uid.clone(),
        }
    }
}

/// What is known of the stored seeds, by hardware.
#[derive(Debug, Default)]
pub struct Seeds {
    known: Mutex<HashMap<String, Option<SealedFor>>>,
}

impl Seeds {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<SealedFor>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, hardware: &str, state: Option<SealedFor>) {
        self.lock().insert(hardware.to_owned(), state);
    }

    /// A free machine was claimed just now: nothing can have been sealed for that claim. (What an interrupted end of an earlier one left is replaced.)
    pub(crate) fn none_yet(&self, hardware: &str) {
        self.note(hardware, None);
    }

    /// Forgets what is known: the next decision reads.
    pub(crate) fn forget(&self, hardware: &str) {
        self.lock().remove(hardware);
    }
}

fn request<T>(world: &World, verb: &'static str, name: &str, result: kube::Result<T>) -> Result<T> {
    let outcome = if result.is_ok() { "ok" } else { "error" };
    world.metrics.requested("Secret", verb, outcome);
    result.map_err(|source| Error::Api {
        verb,
        kind: "Secret".to_owned(),
        name: format!("{}/{name}", world.config.netboot_namespace),
        source: Box::new(source),
    })
}

fn api(world: &World) -> Api<Secret> {
    Api::namespaced(world.config.client.clone(), &world.config.netboot_namespace)
}

/// For what the machine's stored seed was sealed. Reads only when this process does not know and a seed is possible.
pub(crate) async fn state(world: &World, hardware: &BareMetalHardware) -> Result<Option<SealedFor>> {
    let name = hardware.name_any();
    if let Some(known) = world.seeds.lock().get(&name) {
        return Ok(known.clone());
    }
    // A seed is only made for a claim; without one there is at most an old one, which the claim's end deleted before the claim went.
    if hardware.spec.claim_ref.is_none() {
        return Ok(None);
    }
    // Nothing is sealed for an installed system, and what was is deleted with its release.
    let phase = hardware.status.as_ref().map(|s| s.phase);
    if phase == Some(HardwarePhase::InUse) {
        return Ok(None);
    }
    let found = secrets::read(&world.config.client, &world.config.netboot_namespace, &secret_name(&name)).await;
    world.metrics.requested("Secret", "get", if found.is_ok() { "ok" } else { "error" });
    let state = found?.and_then(|contents| {
        let sealed: SealedSeed = serde_json::from_slice(contents.get(SEALED)?).ok()?;
        Some(SealedFor::from(&sealed))
    });
    world.seeds.note(&name, state.clone());
    Ok(state)
}

/// Stores a sealed seed, in the place of any earlier one.
pub(crate) async fn store(world: &World, hardware: &BareMetalHardware, sealed: &SealedSeed) -> Result<()> {
    let machine = hardware.name_any();
    let name = secret_name(&machine);
    let json = serde_json::to_vec(sealed).map_err(|e| Error::Seal {
        instance: sealed.instance_uid.clone(),
        source: agent_protocol::seed::SeedError::Content(e.to_string()),
    })?;
    let there = world.seeds.lock().get(&machine).is_some_and(Option::is_some);
    // Until the write is answered nothing is known: a lost answer must not leave a wrong memory.
    world.seeds.forget(&machine);
    let written = if there {
        replace(world, &name, &json).await
    } else {
        create(world, hardware, &name, &json).await
    };
    let written = match written {
        Err(error) if error.is_already_exists() => replace(world, &name, &json).await,
        Err(error) if there && error.is_not_found() => create(world, hardware, &name, &json).await,
        other => other,
    };
    written?;
    world.seeds.note(&machine, Some(SealedFor::from(sealed)));
    Ok(())
}

async fn create(world: &World, hardware: &BareMetalHardware, name: &str, json: &[u8]) -> Result<()> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(world.config.netboot_namespace.clone()),
            labels: Some(BTreeMap::from([(api::LABEL_SEED.to_owned(), "true".to_owned())])),
            owner_references: hardware.owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some("kube-baremetal.io/sealed-seed".to_owned()),
        data: Some(BTreeMap::from([(SEALED.to_owned(), ByteString(json.to_vec()))])),
        ..Secret::default()
    };
    let result = api(world).create(&PostParams::default(), &secret).await;
    request(world, "create", name, result).map(drop)
}

async fn replace(world: &World, name: &str, json: &[u8]) -> Result<()> {
    let patch = Patch::Merge(serde_json::json!({
        "metadata": { "labels": { (api::LABEL_SEED): "true" } },
        "data": { SEALED: ByteString(json.to_vec()) }
    }));
    let result = api(world).patch(name, &PatchParams::default(), &patch).await;
    request(world, "patch", name, result).map(drop)
}

/// Deletes the machine's seed. One that is not there is fine.
pub(crate) async fn delete(world: &World, hardware: &str) -> Result<()> {
    let name = secret_name(hardware);
    world.seeds.forget(hardware);
    let result = api(world).delete(&name, &DeleteParams::default()).await;
    match request(world, "delete", &name, result) {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    world.seeds.note(hardware, None);
    Ok(())
}
