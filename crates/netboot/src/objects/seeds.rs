//! Sealed seeds, as their watch brought them, by hardware.
//!
//! What lies here is ciphertext for one session of one machine. It may be older than what is stored, or not here yet: a seed names the order and the keys it was sealed for, and who
//! serves it compares both. What is missing is read from the API.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use agent_protocol::seed::SealedSeed;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

/// Key of the sealed seed in its Secret.
pub const SEALED: &str = "sealed.json";

const PREFIX: &str = "seed-";

/// Name of the Secret with the seed for this hardware.
pub fn secret_name(hardware: &str) -> String {
    format!("{PREFIX}{hardware}")
}

/// The seed in a Secret, if it is one.
pub(crate) fn sealed(secret: &Secret) -> Option<SealedSeed> {
    let bytes = secret.data.as_ref()?.get(SEALED)?;
    serde_json::from_slice(&bytes.0).ok()
}

/// See the module.
#[derive(Default)]
pub(crate) struct Seeds {
    table: RwLock<HashMap<String, Arc<SealedSeed>>>,
}

impl Seeds {
    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<SealedSeed>>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<SealedSeed>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seed for this hardware that was sealed for just this order and these session keys.
    pub(crate) fn get(&self, hardware: &str, order_id: &str, thumbprint: &str) -> Option<Arc<SealedSeed>> {
        let found = self.read().get(hardware).cloned()?;
        (found.order_id == order_id && found.thumbprint == thumbprint).then_some(found)
    }

    /// Returns the name of the hardware.
    pub(crate) fn apply(&self, secret: &Secret) -> Option<String> {
        let hardware = secret.name_any().strip_prefix(PREFIX)?.to_owned();
        match sealed(secret) {
            Some(seed) => self.write().insert(hardware.clone(), Arc::new(seed)),
            None => self.write().remove(&hardware),
        };
        Some(hardware)
    }

    pub(crate) fn remove(&self, secret: &str) {
        if let Some(hardware) = secret.strip_prefix(PREFIX) {
            self.write().remove(hardware);
        }
    }

    /// Forgets what a new list of Secrets does not name.
    pub(crate) fn retain(&self, secrets: &HashSet<String>) {
        self.write().retain(|hardware, _| secrets.contains(&secret_name(hardware)));
    }
}
