//! BareMetalImages as their watch brought them. There are few, and all of them are looked at together.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use api::BareMetalImage;
use kube::ResourceExt;
use tokio::sync::watch;

use super::cache::is_newer;

/// See the module.
pub(crate) struct Images {
    table: RwLock<HashMap<String, Arc<BareMetalImage>>>,
    listed: AtomicBool,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            table: RwLock::default(),
            listed: AtomicBool::new(false),
            changes: watch::channel(0).0,
        }
    }
}

impl Images {
    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<BareMetalImage>>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a whole list was seen.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Acquire)
    }

    pub(crate) fn listed(&self) {
        self.listed.store(true, Ordering::Release);
        self.nudge();
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<BareMetalImage>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<BareMetalImage>> {
        self.table
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The packs that images name, by their hexadecimal digits.
    pub(crate) fn packs(&self) -> Vec<String> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let packed = table.values().filter_map(|i| i.status.as_ref()?.packed.as_ref());
        packed.map(|p| p.digest.trim_start_matches("blake3:").to_owned()).collect()
    }

    /// Takes an object, and returns the newest of it.
    pub(crate) fn apply(&self, new: BareMetalImage) -> Arc<BareMetalImage> {
        let kept = {
            let mut table = self.write();
            let name = new.name_any();
            match table.get(&name) {
                Some(old) if !is_newer(old.as_ref(), &new) => old.clone(),
                _ => {
                    let new = Arc::new(new);
                    table.insert(name, new.clone());
                    new
                }
            }
        };
        self.nudge();
        kept
    }

    pub(crate) fn remove(&self, name: &str) {
        self.write().remove(name);
        self.nudge();
    }

    /// Forgets what a new list does not name.
    pub(crate) fn retain(&self, names: &HashSet<String>) {
        self.write().retain(|name, _| names.contains(name));
        self.nudge();
    }

    /// Has everything looked at again.
    pub(crate) fn nudge(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Says when something changed since.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until another revision of an object than this one is known, or for that time.
    pub(crate) async fn newer_than(&self, known: &BareMetalImage, time: Duration) {
        let mut changes = self.changes.subscribe();
        let newer = async {
            while self
                .get(&known.name_any())
                .is_some_and(|now| now.metadata.resource_version == known.metadata.resource_version)
            {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever waited looks again in either case.
        tokio::time::timeout(time, newer).await.ok();
    }
}
