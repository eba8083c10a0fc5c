//! What all parts of the server share: the store, the registry, the queues of the controllers, the counters.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::access::Access;
use super::events;
use super::identity::tokens::Tokens;
use super::registry::{Registry, ResourceInfo, Special};
use crate::schema::PruneOptions;
use crate::store::{Key, Object, Store};

/// Work for a controller: a set, so that a key waits once however often it is touched.
#[derive(Default)]
pub struct Queue {
    state: Mutex<(VecDeque<Key>, BTreeSet<Key>)>,
    wake: Notify,
}

impl Queue {
    /// Adds a key unless it waits already.
    pub fn push(&self, key: Key) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.1.insert(key.clone()) {
            state.0.push_back(key);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// The next key, when there is one.
    pub async fn next(&self) -> Key {
        loop {
            {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(key) = state.0.pop_front() {
                    state.1.remove(&key);
                    return key;
                }
            }
            self.wake.notified().await;
        }
    }

    /// How many keys wait.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// See the module's comment.
pub struct Core {
    /// The objects.
    pub store: Store,
    registry: RwLock<Arc<Registry>>,
    /// Told of each new registry.
    pub registry_changed: watch::Sender<u64>,
    /// Objects whose owners or dependents may need care.
    pub garbage: Queue,
    /// Namespaces that may need care.
    pub namespaces: Queue,
    /// The roles in force.
    pub access: Arc<Access>,
    /// Issues and verifies service account tokens.
    pub tokens: Tokens,
    /// Counters.
    pub metrics: super::metrics::Metrics,
    /// Ends every watch and every controller.
    pub stop: tokio_util::sync::CancellationToken,
}

impl Core {
    /// A server's core over a store, serving the core kinds.
    pub fn new(store: Store, tokens: Tokens) -> Core {
        Core {
            store,
            registry: RwLock::new(Arc::new(Registry::new(Vec::new(), Vec::new(), 0))),
            registry_changed: watch::Sender::new(0),
            garbage: Queue::default(),
            namespaces: Queue::default(),
            access: Arc::default(),
            tokens,
            metrics: super::metrics::Metrics::default(),
            stop: tokio_util::sync::CancellationToken::new(),
        }
    }

    /// What is served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves something else from now on.
    pub fn set_registry(&self, registry: Registry) {
        let serial = registry.serial;
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(registry);
        self.registry_changed.send_replace(serial);
    }

    /// The key of an object of a resource.
    pub fn key(&self, info: &ResourceInfo, namespace: &str, name: &str) -> Key {
        Key::new(&info.storage, if info.namespaced { namespace } else { "" }, name)
    }
}

/// Puts `apiVersion` and `kind` on a value.
pub fn stamp(info: &ResourceInfo, value: &mut Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), json!(info.api_version()));
        map.insert("kind".to_owned(), json!(info.kind));
    }
}

/// A stored object as a whole value in the version of a resource.
pub fn view(info: &ResourceInfo, object: &Object) -> Value {
    let mut value = object.value();
    shape(info, &mut value);
    stamp(info, &mut value);
    value
}

/// Turns a stored value into the form of a version.
pub fn shape(info: &ResourceInfo, value: &mut Value) {
    if info.special == Special::Event {
        events::to_events_api(value);
    }
    if info.reshapes {
        let pruning = PruneOptions {
            report: false,
            resource_root: true,
        };
        // As the real server reads: in the form of the version that is stored, with its defaults, and from that into this one, without more.
        if let Some(stored) = &info.stored_schema {
            stored.prune(value, pruning);
            stored.default(value);
        }
        info.schema.prune(value, pruning);
        if info.stored_schema.is_none() {
            info.schema.default(value);
        }
    }
}

/// Whether the stored bytes can be served in this version as they are.
pub fn verbatim(info: &ResourceInfo) -> bool {
    info.special != Special::Event && !info.reshapes
}
