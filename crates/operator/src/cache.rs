//! What the operator knows of one kind: every object, kept current by a watch, with indexes.
//!
//! Invariants:
//! * An object never goes back to an older resourceVersion, but by a complete list. What this process wrote itself is taken in at once ([`Cache::absorb`]), so that the
//!   next decision does not start from what the watch has not yet delivered: that is what keeps refused writes (409) rare.
//! * Every change calls the listener exactly once with the old and the new object, after both are visible to readers.
//!
//! It does not decide freshness: a reader that must be sure writes with the resourceVersion it saw, and is refused when it was behind.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::{self, Debug},
    hash::Hash,
    sync::{Arc, OnceLock, RwLock},
};

use futures::{Stream, StreamExt};
use kube::{Resource, ResourceExt, runtime::watcher::Event};
use tokio::sync::watch;

/// Names one object of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// A namespaced object.
    pub fn namespaced(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// A cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::namespaced(String::new(), name)
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self::namespaced(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Under which values an object can be found, by the name of the index.
pub type IndexFn<K> = fn(&K) -> Vec<(&'static str, String)>;
/// Called with the old and the new object.
pub type Listener<K> = Box<dyn Fn(Option<&Arc<K>>, Option<&Arc<K>>) + Send + Sync>;

struct Inner<K> {
    objects: HashMap<Key, Arc<K>>,
    index: HashMap<(&'static str, String), BTreeSet<Key>>,
    /// Greatest resourceVersion of a deletion seen: an absorbed object that is absent and not newer than it may be a ghost.
    deleted: u64,
    /// While a list runs: what it, or this process, named.
    listing: Option<HashSet<Key>>,
}

/// Every object of one kind.
pub struct Cache<K> {
    inner: RwLock<Inner<K>>,
    index_of: IndexFn<K>,
    listener: OnceLock<Listener<K>>,
    ready: watch::Sender<bool>,
}

/// Where an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    List,
    Watch,
    Own,
}

fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl<K> Cache<K>
where
    K: Resource + Clone + Debug + Send + Sync + 'static,
{
    /// An empty cache.
    pub fn new(index_of: IndexFn<K>) -> Self {
        Self {
            inner: RwLock::new(Inner {
                objects: HashMap::new(),
                index: HashMap::new(),
                deleted: 0,
                listing: None,
            }),
            index_of,
            listener: OnceLock::new(),
            ready: watch::Sender::new(false),
        }
    }

    /// Sets who hears of changes; only the first call counts.
    pub fn listen(&self, listener: Listener<K>) {
        self.listener.get_or_init(|| listener);
    }

    // A poisoned lock means that an index function panicked; the maps are consistent enough to read on, and the next list rebuilds them.
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner<K>> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner<K>> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// One cluster-scoped object.
    pub fn by_name(&self, name: &str) -> Option<Arc<K>> {
        self.get(&Key::cluster(name))
    }

    /// Every object under one value of an index, in the order of their keys.
    pub fn by(&self, index: &'static str, value: &str) -> Vec<Arc<K>> {
        let inner = self.read();
        let keys = inner.index.get(&(index, value.to_owned()));
        keys.into_iter().flatten().filter_map(|k| inner.objects.get(k).cloned()).collect()
    }

    /// Keys under one value of an index.
    pub fn keys_by(&self, index: &'static str, value: &str) -> Vec<Key> {
        let inner = self.read();
        inner.index.get(&(index, value.to_owned())).into_iter().flatten().cloned().collect()
    }

    /// How many objects are under one value of an index.
    pub fn count_by(&self, index: &'static str, value: &str) -> usize {
        self.read().index.get(&(index, value.to_owned())).map_or(0, BTreeSet::len)
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Every key.
    pub fn keys(&self) -> Vec<Key> {
        self.read().objects.keys().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until the first list is complete.
    pub async fn wait_ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives in `self`: the channel cannot close while we wait.
        drop(ready.wait_for(|r| *r).await);
    }

    /// Takes in an object that this process just wrote, without its managedFields: they are most of its bytes, and nobody looks at them here. A write without
    /// them leaves them as they are on the server.
    pub fn absorb(&self, mut object: K) -> Arc<K> {
        object.meta_mut().managed_fields = None;
        let object = Arc::new(object);
        self.insert(Arc::clone(&object), Source::Own);
        object
    }

    /// Forgets an object that the API server says is gone.
    pub fn forget(&self, key: &Key) {
        self.remove(key, 0);
    }

    fn insert(&self, new: Arc<K>, source: Source) {
        let key = Key::of(new.as_ref());
        let old = {
            let mut inner = self.write();
            // Whether this listing, or a write of ours since it began, named the object already.
            let named = inner.listing.as_mut().is_some_and(|seen| !seen.insert(key.clone()));
            let old = inner.objects.get(&key).cloned();
            if let Some(old) = &old {
                let (was, is) = (version(old.as_ref()), version(new.as_ref()));
                // The same version twice (a list after a watch, or our own write seen again) is no change.
                let stale = match source {
                    // A complete list is the truth even where numbers went back, as after a restored backup of the API server's store.
                    Source::List => is == was || (is < was && named),
                    Source::Watch | Source::Own => is <= was,
                };
                if stale {
                    return;
                }
            } else if source == Source::Own && version(new.as_ref()) <= inner.deleted {
                return;
            }
            if let Some(old) = &old {
                unindex(&mut inner, self.index_of, &key, old);
            }
            for (name, value) in (self.index_of)(&new) {
                inner.index.entry((name, value)).or_default().insert(key.clone());
            }
            inner.objects.insert(key, Arc::clone(&new));
            old
        };
        self.tell(old.as_ref(), Some(&new));
    }

    fn remove(&self, key: &Key, at: u64) {
        let old = {
            let mut inner = self.write();
            inner.deleted = inner.deleted.max(at);
            let old = inner.objects.remove(key);
            if let Some(old) = &old {
                unindex(&mut inner, self.index_of, key, old);
            }
            old
        };
        if let Some(old) = old {
            self.tell(Some(&old), None);
        }
    }

    fn tell(&self, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        if let Some(listener) = self.listener.get() {
            listener(old, new);
        }
    }

    /// Takes in one watch event.
    pub fn apply(&self, event: Event<K>) {
        match event {
            Event::Init => self.write().listing = Some(HashSet::new()),
            Event::InitApply(object) => self.insert(Arc::new(object), Source::List),
            Event::Apply(object) => self.insert(Arc::new(object), Source::Watch),
            Event::Delete(object) => {
                let key = Key::of(&object);
                // A deletion of an older object with this name says nothing about the present one.
                if self.get(&key).is_none_or(|present| present.meta().uid == object.meta().uid) {
                    self.remove(&key, version(&object));
                }
            }
            Event::InitDone => {
                let gone: Vec<Key> = {
                    let mut inner = self.write();
                    let seen = inner.listing.take().unwrap_or_default();
                    inner.objects.keys().filter(|k| !seen.contains(k)).cloned().collect()
                };
                for key in gone {
                    self.remove(&key, 0);
                }
                self.ready.send_replace(true);
            }
        }
    }

    /// Follows a watch until it ends. Errors are told to `on_error`; the stream itself retries.
    pub async fn follow<S, E>(&self, stream: S, mut on_error: impl FnMut(E))
    where
        S: Stream<Item = Result<Event<K>, E>>,
    {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => self.apply(event),
                Err(error) => on_error(error),
            }
        }
    }
}

fn unindex<K>(inner: &mut Inner<K>, index_of: IndexFn<K>, key: &Key, object: &K) {
    for entry in index_of(object) {
        if let Some(keys) = inner.index.get_mut(&entry) {
            keys.remove(key);
            if keys.is_empty() {
                inner.index.remove(&entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str, version: u64, color: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("a".to_owned());
        object.metadata.uid = Some(uid.to_owned());
        object.metadata.resource_version = Some(version.to_string());
        object.data = Some([("color".to_owned(), color.to_owned())].into());
        object
    }

    fn cache() -> Cache<ConfigMap> {
        Cache::new(|c| {
            let color = c.data.as_ref().and_then(|d| d.get("color")).cloned();
            color.map(|c| ("color", c)).into_iter().collect()
        })
    }

    #[test]
    fn an_object_never_goes_back_to_an_older_version() {
        let cache = cache();
        cache.apply(Event::Apply(object("x", "1", 5, "red")));
        cache.absorb(object("x", "1", 7, "blue"));
        cache.apply(Event::Apply(object("x", "1", 6, "green")));
        assert_eq!(cache.count_by("color", "blue"), 1);
        assert_eq!(cache.count_by("color", "red") + cache.count_by("color", "green"), 0);
        cache.apply(Event::Apply(object("x", "2", 8, "green")));
        cache.apply(Event::Apply(object("x", "1", 7, "blue")));
        assert_eq!(cache.count_by("color", "green"), 1, "a late word of a predecessor is not heard");
    }

    #[test]
    fn a_list_is_believed_even_where_numbers_went_back() {
        let cache = cache();
        cache.apply(Event::Apply(object("x", "1", 50, "red")));
        cache.apply(Event::Init);
        cache.apply(Event::InitApply(object("x", "1", 20, "blue")));
        cache.apply(Event::InitDone);
        assert_eq!(cache.count_by("color", "blue"), 1);
        // But not against what was written while it was on its way.
        cache.apply(Event::Init);
        cache.absorb(object("x", "1", 22, "green"));
        cache.apply(Event::InitApply(object("x", "1", 21, "blue")));
        cache.apply(Event::InitDone);
        assert_eq!(cache.count_by("color", "green"), 1);
    }

    #[test]
    fn an_answer_that_arrives_after_the_deletion_raises_no_ghost() {
        let cache = cache();
        cache.apply(Event::Apply(object("x", "1", 5, "red")));
        cache.apply(Event::Delete(object("x", "1", 9, "red")));
        cache.absorb(object("x", "1", 8, "blue"));
        assert!(cache.is_empty());
        cache.absorb(object("x", "2", 10, "blue"));
        assert_eq!(cache.len(), 1);
        cache.apply(Event::Delete(object("x", "1", 9, "red")));
        assert_eq!(cache.len(), 1, "an old deletion does not remove its successor");
    }

    #[test]
    fn a_new_list_drops_what_is_gone_and_keeps_what_was_written_meanwhile() {
        let cache = cache();
        cache.apply(Event::Apply(object("gone", "1", 1, "red")));
        cache.apply(Event::Apply(object("kept", "2", 2, "red")));
        cache.apply(Event::Init);
        cache.apply(Event::InitApply(object("kept", "2", 2, "red")));
        cache.absorb(object("own", "3", 4, "red"));
        cache.apply(Event::InitDone);
        let names: Vec<_> = cache.by("color", "red").iter().map(|o| o.name_any()).collect();
        assert_eq!(names, ["kept", "own"]);
    }

    #[test]
    fn the_listener_hears_each_change_once() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let cache = cache();
        let log = Arc::clone(&heard);
        cache.listen(Box::new(move |old, new| {
            log.lock()
                .unwrap()
                .push((old.map(|o| version(o.as_ref())), new.map(|o| version(o.as_ref()))))
        }));
        cache.absorb(object("x", "1", 5, "red"));
        cache.apply(Event::Apply(object("x", "1", 5, "red")));
        cache.apply(Event::Apply(object("x", "1", 6, "red")));
        cache.apply(Event::Delete(object("x", "1", 7, "red")));
        assert_eq!(*heard.lock().unwrap(), [(None, Some(5)), (Some(5), Some(6)), (Some(6), None)]);
    }
}
