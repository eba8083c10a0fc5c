//! The object store: one redb file, one global revision, group commit, and everything current in memory.
//!
//! Purpose: keep JSON objects under `resource / namespace / name`, give each write a revision that never repeats, and let any
//! number of readers list and watch without touching the disk.
//!
//! Invariants:
//! * A write becomes visible (to readers, to watchers, to its own caller) only after the redb transaction that holds it was
//!   committed durably. What is not durable is known to the writer thread alone (its overlay).
//! * Revisions grow by one per write. The last one is stored in the same transaction as the writes, so after a crash the
//!   next revision is larger than every revision anybody ever saw.
//! * Memory held for watchers is the event rings and nothing else: a watcher is a position in a ring. One that falls behind
//!   the ring gets [`StoreError::Expired`] and must list again.
//! * The store keeps objects without `apiVersion` and `kind`; those depend on the version an object is served in.
//!
//! It does not know schemas, namespaces' life, finalizers or owner references beyond an index of owner uids; those live in
//! `server`.

pub mod backend;
mod disk;
mod draft;
mod read;
mod ring;
mod writer;

#[cfg(test)]
mod tests;

pub use draft::Draft;
pub use read::{Listing, Page};
pub use ring::{Event, EventKind};

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use redb::StorageBackend;
use ring::Ring;
use tokio::sync::{oneshot, watch};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or is not ours.
    #[error("cannot open the object store: {0}; check that no other process uses it and that the disk is writable")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored record cannot be read back.
    #[error("the object store holds a damaged record at {key}: {reason}; restore the data directory from a backup")]
    Damaged {
        /// Which record.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A commit failed; the store takes no further writes, because what reached the disk is unknown.
    #[error("the object store could not commit ({0}); it takes no more writes until it is opened again")]
    Failed(String),
    /// The store is shutting down.
    #[error("the object store is closed")]
    Closed,
    /// The object that the write depends on does not exist.
    #[error("the object does not exist")]
    NotFound,
    /// The object exists already.
    #[error("the object exists already")]
    Exists,
    /// The object is at another revision than the write was decided on.
    #[error("the object was changed meanwhile")]
    Conflict,
    /// The object that the write requires (its namespace) is gone or being deleted.
    #[error("the namespace does not exist or is being deleted")]
    RequirementGone,
    /// The wanted revision is older than what the store remembers.
    #[error("revision {wanted} is too old, the oldest known is {oldest}")]
    Expired {
        /// The revision asked for.
        wanted: u64,
        /// The oldest revision that can still be answered.
        oldest: u64,
    },
    /// The wanted revision lies in the future.
    #[error("revision {wanted} is not reached yet, the current one is {current}")]
    Future {
        /// The revision asked for.
        wanted: u64,
        /// The newest revision.
        current: u64,
    },
}

/// Where an object lives: `group/plural` and `namespace/name` (or `name` when cluster scoped).
///
/// The path is one string because its byte order is the order in which Kubernetes lists objects.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    /// `group/plural`, the group being empty for the core group.
    pub resource: Arc<str>,
    /// `namespace/name` or `name`.
    pub path: Arc<str>,
}

impl Key {
    /// The key of an object; an empty namespace means cluster scoped.
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Key {
        let path = if namespace.is_empty() {
            Arc::from(name)
        } else {
            Arc::from(format!("{namespace}/{name}"))
        };
        Key {
            resource: resource.clone(),
            path,
        }
    }

    /// The namespace, empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.path.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.path.split_once('/').map_or(&self.path, |(_, name)| name)
    }
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRef {
    /// `group/version` of the owner.
    pub api_version: Box<str>,
    /// Kind of the owner.
    pub kind: Box<str>,
    /// Name of the owner.
    pub name: Box<str>,
    /// Uid of the owner.
    pub uid: Box<str>,
    /// Whether a foreground deletion of the owner waits for this object.
    pub block_owner_deletion: bool,
}

/// What the store and the controllers need to know of an object without parsing it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`, sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `metadata.ownerReferences`.
    pub owners: Box<[OwnerRef]>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The finalizer `foregroundDeletion` is present.
    pub foreground: bool,
    /// The finalizer `orphan` is present.
    pub orphan: bool,
}

/// One committed version of an object. Immutable.
#[derive(Debug)]
pub struct Object {
    /// Where it lives.
    pub key: Key,
    /// The revision that wrote it (its resourceVersion).
    pub revision: u64,
    /// The JSON without `apiVersion` and `kind`, resourceVersion included.
    pub json: Bytes,
    /// Index data.
    pub meta: Meta,
    pub(crate) rv_at: u32,
}

impl Object {
    /// The parsed object, without `apiVersion` and `kind`.
    pub fn value(&self) -> serde_json::Value {
        // The bytes were serialised by this process or checked when the file was opened.
        serde_json::from_slice(&self.json).unwrap_or(serde_json::Value::Null)
    }
}

/// What a write expects of the object it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is none.
    Absent,
    /// It is at this revision.
    Revision(u64),
}

/// A write.
#[derive(Debug)]
pub enum Write {
    /// Create or replace.
    Put {
        /// Where.
        key: Key,
        /// What it expects to replace.
        expect: Expect,
        /// The new object.
        draft: Draft,
        /// An object that must exist and not be in deletion (the namespace of a new object).
        require: Option<Key>,
    },
    /// Remove.
    Delete {
        /// Where.
        key: Key,
        /// The revision it was decided on.
        revision: u64,
    },
}

/// Bounds of the store.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Events remembered per resource.
    pub ring_events: usize,
    /// Bytes of events remembered per resource.
    pub ring_bytes: usize,
    /// Writes waiting for the writer thread; more wait in their callers.
    pub queue: usize,
    /// Writes in one transaction.
    pub group: usize,
    /// redb's page cache. Objects are read from memory, so it serves writes only.
    pub cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ring_events: 16_384,
            ring_bytes: 16 << 20,
            queue: 4096,
            group: 1024,
            cache_bytes: 4 << 20,
        }
    }
}

/// Everything current about one resource.
pub(crate) struct ResourceState {
    pub(crate) objects: BTreeMap<Arc<str>, Arc<Object>>,
    pub(crate) ring: Ring,
    /// Woken at each publication; carries the revision.
    pub(crate) wake: watch::Sender<u64>,
}

/// The published state: consistent at `revision`, guarded by one lock that is held only for short copies.
pub(crate) struct State {
    pub(crate) revision: u64,
    pub(crate) resources: HashMap<Arc<str>, ResourceState>,
    /// Owner uid to the keys that name it.
    pub(crate) dependents: HashMap<Box<str>, HashSet<Key>>,
    /// The revision at opening: nothing older can be watched.
    pub(crate) floor: u64,
}

/// Hook that is called with every published event, in order, outside the state lock.
pub type Observer = Box<dyn Fn(&[Arc<Event>]) + Send + Sync>;

/// Where in a commit a probe is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of the transaction was given to the file yet.
    Before,
    /// It is durable; nobody was told.
    After,
}

/// Hook that is called on the writer thread around every commit, with what it holds: the seam for crash tests.
pub type CommitProbe = Box<dyn Fn(Moment, &[Arc<Event>]) + Send + Sync>;

pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    pub(crate) limits: Limits,
    pub(crate) failed: AtomicBool,
    pub(crate) commits: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) observer: std::sync::OnceLock<Observer>,
    pub(crate) probe: std::sync::OnceLock<CommitProbe>,
}

impl Shared {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    queue: tokio::sync::mpsc::Sender<writer::Job>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens (or creates) a store on a file.
    pub fn open(path: &std::path::Path, limits: Limits) -> Result<Store, StoreError> {
        Store::open_on(backend::open_file(path)?, limits)
    }

    /// Opens a store on any [`StorageBackend`]: the seam that lets tests cut the power below it.
    pub fn open_on(backend: impl StorageBackend, limits: Limits) -> Result<Store, StoreError> {
        let (disk, loaded) = disk::Disk::open(backend, limits.cache_bytes)?;
        let mut state = State {
            revision: loaded.revision,
            resources: HashMap::new(),
            dependents: HashMap::new(),
            floor: loaded.revision,
        };
        for object in loaded.objects {
            let object = Arc::new(object);
            index_owners(&mut state.dependents, None, Some(&object));
            resource_mut(&mut state, &object.key.resource)
                .objects
                .insert(object.key.path.clone(), object);
        }
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            limits: limits.clone(),
            failed: AtomicBool::new(false),
            commits: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            observer: std::sync::OnceLock::new(),
            probe: std::sync::OnceLock::new(),
        });
        let (queue, jobs) = tokio::sync::mpsc::channel(limits.queue);
        let thread = writer::spawn(shared.clone(), disk, jobs).map_err(|error| StoreError::Open(error.into()))?;
        Ok(Store {
            shared,
            queue,
            thread: Arc::new(Mutex::new(Some(thread))),
        })
    }

    /// Sets the one observer of published events (the garbage collector). It runs on the writer thread and must be quick.
    pub fn observe(&self, observer: Observer) -> bool {
        self.shared.observer.set(observer).is_ok()
    }

    /// Sets the one probe of commits; false when there is one already. With [`Limits::group`] of 1 every write is a commit of its own.
    pub fn probe_commits(&self, probe: CommitProbe) -> bool {
        self.shared.probe.set(probe).is_ok()
    }

    /// The newest published revision.
    pub fn revision(&self) -> u64 {
        self.shared.read().revision
    }

    /// Whether the store still takes writes.
    pub fn healthy(&self) -> bool {
        !self.shared.failed.load(Ordering::Relaxed) && !self.queue.is_closed()
    }

    /// Durable transactions and writes so far.
    pub fn counters(&self) -> (u64, u64) {
        (
            self.shared.commits.load(Ordering::Relaxed),
            self.shared.writes.load(Ordering::Relaxed),
        )
    }

    /// Hands a write to the writer thread and waits until it is durable and published.
    ///
    /// The answer is the committed object; for a deletion the last version with the revision of the deletion. Dropping the
    /// future does not take the write back.
    pub async fn commit(&self, write: Write) -> Result<Arc<Object>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.queue
            .send(writer::Job::Write { write, reply })
            .await
            .map_err(|_| self.gone())?;
        answer.await.map_err(|_| self.gone())?
    }

    fn gone(&self) -> StoreError {
        if self.shared.failed.load(Ordering::Relaxed) {
            StoreError::Failed("an earlier commit failed".to_owned())
        } else {
            StoreError::Closed
        }
    }

    /// Commits what is queued, closes the file and waits for the writer thread.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(writer::Job::Close { reply }).await.is_ok() {
            // An error means that the thread ended already, which is what is wanted.
            answer.await.unwrap_or(());
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            tracing::error!("the store's writer thread could not be joined");
        }
    }
}

pub(crate) fn resource_mut<'a>(state: &'a mut State, resource: &Arc<str>) -> &'a mut ResourceState {
    let (floor, revision) = (state.floor, state.revision);
    state.resources.entry(resource.clone()).or_insert_with(|| ResourceState {
        objects: BTreeMap::new(),
        ring: Ring::new(floor),
        wake: watch::Sender::new(revision),
    })
}

/// The same object as of another revision: how the last version that a watch selected is shown.
pub fn at_revision(object: &Object, revision: u64) -> Object {
    draft::reseal(object, revision)
}

/// Moves one object's entries in the index of owners.
pub(crate) fn index_owners(index: &mut HashMap<Box<str>, HashSet<Key>>, old: Option<&Object>, new: Option<&Object>) {
    if let (Some(old), Some(new)) = (old, new)
        && old.meta.owners == new.meta.owners
    {
        return;
    }
    if let Some(old) = old {
        for owner in &old.meta.owners {
            if let Some(keys) = index.get_mut(&owner.uid) {
                keys.remove(&old.key);
                if keys.is_empty() {
                    index.remove(&owner.uid);
                }
            }
        }
    }
    if let Some(new) = new {
        for owner in &new.meta.owners {
            index.entry(owner.uid.clone()).or_default().insert(new.key.clone());
        }
    }
}
