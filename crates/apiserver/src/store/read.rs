//! Reading: get, list (now or at an older revision, in pages), and the raw material of a watch.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Event, Key, Object, Store, StoreError, resource_mut};

/// Which part of a resource a list wants.
#[derive(Clone, Debug, Default)]
pub struct Page<'a> {
    /// Only this namespace; empty for all.
    pub namespace: &'a str,
    /// Start after this path (exclusive).
    pub after: Option<&'a str>,
    /// The state at this revision; `None` for now.
    pub revision: Option<u64>,
}

/// A consistent list.
#[derive(Debug)]
pub struct Listing {
    /// The revision it is consistent at.
    pub revision: u64,
    /// The objects in path order.
    pub objects: Vec<Arc<Object>>,
}

impl Store {
    /// The current version of an object.
    pub fn get(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.read().resources.get(&key.resource)?.objects.get(&key.path).cloned()
    }

    /// All objects of a part of a resource.
    pub fn list(&self, resource: &Arc<str>, page: &Page<'_>) -> Result<Listing, StoreError> {
        let state = self.shared.read();
        let current = state.revision;
        if let Some(wanted) = page.revision
            && wanted > current
        {
            return Err(StoreError::Future { wanted, current });
        }
        let Some(resource) = state.resources.get(resource) else {
            return match page.revision {
                Some(wanted) if wanted < state.floor => Err(StoreError::Expired {
                    wanted,
                    oldest: state.floor,
                }),
                wanted => Ok(Listing {
                    revision: wanted.unwrap_or(current),
                    objects: Vec::new(),
                }),
            };
        };
        let matches = |path: &str| {
            (page.namespace.is_empty() || path.strip_prefix(page.namespace).is_some_and(|rest| rest.starts_with('/')))
                && page.after.is_none_or(|after| path > after)
        };
        let mut from = if page.namespace.is_empty() {
            String::new()
        } else {
            format!("{}/", page.namespace)
        };
        if let Some(after) = page.after
            && after > from.as_str()
        {
            from = after.to_owned();
        }
        let range = resource.objects.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded));
        let now: Vec<Arc<Object>> = range
            .skip_while(|(path, _)| !matches(path))
            .take_while(|(path, _)| page.namespace.is_empty() || matches(path))
            .map(|(_, object)| object.clone())
            .collect();
        let Some(wanted) = page.revision.filter(|wanted| *wanted < current) else {
            return Ok(Listing {
                revision: current,
                objects: now,
            });
        };
        if wanted < resource.ring.floor() {
            return Err(StoreError::Expired {
                wanted,
                oldest: resource.ring.floor(),
            });
        }
        // Undo what happened since, newest first.
        let later: Vec<Arc<Event>> = resource
            .ring
            .after(wanted)
            .filter(|event| matches(&event.object.key.path))
            .cloned()
            .collect();
        drop(state);
        if later.is_empty() {
            return Ok(Listing {
                revision: wanted,
                objects: now,
            });
        }
        let mut then: BTreeMap<Arc<str>, Arc<Object>> = now.into_iter().map(|object| (object.key.path.clone(), object)).collect();
        for event in later.iter().rev() {
            match &event.previous {
                Some(previous) => then.insert(previous.key.path.clone(), previous.clone()),
                None => then.remove(&event.object.key.path),
            };
        }
        Ok(Listing {
            revision: wanted,
            objects: then.into_values().collect(),
        })
    }

    /// Keys of the objects that name an owner with this uid.
    pub fn dependents(&self, uid: &str) -> Vec<Key> {
        self.shared
            .read()
            .dependents
            .get(uid)
            .map(|keys| keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether any object names an owner with this uid.
    pub fn has_dependents(&self, uid: &str) -> bool {
        self.shared.read().dependents.contains_key(uid)
    }

    /// Every object of every resource that satisfies a predicate (used once at start).
    pub fn scan(&self, mut wanted: impl FnMut(&Object) -> bool) -> Vec<Arc<Object>> {
        let state = self.shared.read();
        state
            .resources
            .values()
            .flat_map(|resource| resource.objects.values())
            .filter(|object| wanted(object))
            .cloned()
            .collect()
    }

    /// Objects of a resource in a namespace, over all resources (a namespace's contents).
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<Object>> {
        let from = format!("{namespace}/");
        let state = self.shared.read();
        state
            .resources
            .values()
            .flat_map(|resource| {
                resource
                    .objects
                    .range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded))
                    .take_while(|(path, _)| path.starts_with(&from))
            })
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many objects each resource has.
    pub fn counts(&self) -> Vec<(Arc<str>, usize)> {
        self.shared
            .read()
            .resources
            .iter()
            .map(|(resource, state)| (resource.clone(), state.objects.len()))
            .collect()
    }

    /// A receiver that is woken by every publication that touches a resource.
    pub fn subscribe(&self, resource: &Arc<str>) -> watch::Receiver<u64> {
        if let Some(state) = self.shared.read().resources.get(resource) {
            return state.wake.subscribe();
        }
        resource_mut(&mut self.shared.write(), resource).wake.subscribe()
    }

    /// At most `limit` events of a resource after a revision, and the revision up to which the answer is complete.
    pub fn events_after(&self, resource: &Arc<str>, revision: u64, limit: usize) -> Result<(Vec<Arc<Event>>, u64), StoreError> {
        let state = self.shared.read();
        let Some(resource) = state.resources.get(resource) else {
            return if revision < state.floor {
                Err(StoreError::Expired {
                    wanted: revision,
                    oldest: state.floor,
                })
            } else {
                Ok((Vec::new(), state.revision))
            };
        };
        if revision < resource.ring.floor() {
            return Err(StoreError::Expired {
                wanted: revision,
                oldest: resource.ring.floor(),
            });
        }
        let after = resource.ring.after(revision);
        let complete = after.len() <= limit;
        let events: Vec<Arc<Event>> = after.take(limit).cloned().collect();
        let upto = if complete {
            state.revision
        } else {
            events.last().map_or(revision, |event| event.revision)
        };
        Ok((events, upto))
    }
}
