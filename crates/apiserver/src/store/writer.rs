//! The writer thread: collects writes, checks them in order, commits them together, then publishes and answers.
//!
//! Invariants: preconditions of a write are checked against the published state plus the earlier writes of the same group
//! (the overlay). Nobody else sees the overlay. When a commit fails nothing is published, every waiting caller gets the
//! error, and the thread ends: what reached the disk is unknown until the file is opened again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::disk::{Change, Disk};
use super::{Event, EventKind, Expect, Key, Moment, Object, Shared, StoreError, Write, draft, index_owners, resource_mut};

type Reply = oneshot::Sender<Result<Arc<Object>, StoreError>>;

pub(super) enum Job {
    Write { write: Write, reply: Reply },
    Close { reply: oneshot::Sender<()> },
}

pub(super) fn spawn(shared: Arc<Shared>, disk: Disk, jobs: mpsc::Receiver<Job>) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || run(&shared, disk, jobs))
}

fn run(shared: &Shared, disk: Disk, mut jobs: mpsc::Receiver<Job>) {
    let mut closing = None;
    while closing.is_none() {
        let Some(first) = jobs.blocking_recv() else { break };
        let mut group = Group::new(shared);
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Write { write, reply } => group.admit(write, reply),
                Job::Close { reply } => {
                    closing = Some(reply);
                    break;
                }
            }
            if group.accepted.len() + group.refused.len() < shared.limits.group {
                next = jobs.try_recv().ok();
            }
        }
        if !group.finish(&disk) {
            break;
        }
    }
    // Close the file before anybody is told that it is closed.
    drop(disk);
    jobs.close();
    while let Ok(job) = jobs.try_recv() {
        if let Job::Write { reply, .. } = job {
            answer(reply, Err(StoreError::Closed));
        }
    }
    if let Some(reply) = closing {
        // The caller may have gone; closing is done either way.
        reply.send(()).unwrap_or(());
    }
}

/// A caller that went away does not need its answer.
fn answer(reply: Reply, result: Result<Arc<Object>, StoreError>) {
    drop(reply.send(result));
}

struct Group<'a> {
    shared: &'a Shared,
    revision: u64,
    /// Objects as the accepted writes of this group leave them; `None` is deleted.
    overlay: HashMap<Key, Option<Arc<Object>>>,
    accepted: Vec<(Arc<Event>, Reply)>,
    /// Refusals wait for the commit too: one may rest on a write of this group, which nobody may know of yet.
    refused: Vec<(StoreError, Reply)>,
}

impl<'a> Group<'a> {
    fn new(shared: &'a Shared) -> Group<'a> {
        Group {
            shared,
            revision: shared.read().revision,
            overlay: HashMap::new(),
            accepted: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn current(&self, key: &Key) -> Option<Arc<Object>> {
        if let Some(object) = self.overlay.get(key) {
            return object.clone();
        }
        let state = self.shared.read();
        state.resources.get(&key.resource)?.objects.get(&key.path).cloned()
    }

    fn admit(&mut self, write: Write, reply: Reply) {
        match self.check(write) {
            Ok(event) => {
                self.revision = event.revision;
                let left = (event.kind == EventKind::Put).then(|| event.object.clone());
                self.overlay.insert(event.object.key.clone(), left);
                self.accepted.push((Arc::new(event), reply));
            }
            Err(error) => self.refused.push((error, reply)),
        }
    }

    fn check(&self, write: Write) -> Result<Event, StoreError> {
        let revision = self.revision + 1;
        match write {
            Write::Put {
                key,
                expect,
                draft,
                require,
            } => {
                let previous = self.current(&key);
                match (expect, &previous) {
                    (Expect::Absent, None) => {}
                    (Expect::Absent, Some(_)) => return Err(StoreError::Exists),
                    (Expect::Revision(_), None) => return Err(StoreError::NotFound),
                    (Expect::Revision(wanted), Some(object)) if object.revision == wanted => {}
                    (Expect::Revision(_), Some(_)) => return Err(StoreError::Conflict),
                }
                if let Some(require) = require
                    && self.current(&require).is_none_or(|object| object.meta.deleting)
                {
                    return Err(StoreError::RequirementGone);
                }
                let object = Arc::new(draft.seal(key, revision));
                Ok(Event {
                    revision,
                    kind: EventKind::Put,
                    object,
                    previous,
                })
            }
            Write::Delete { key, revision: wanted } => {
                let previous = self.current(&key).ok_or(StoreError::NotFound)?;
                if previous.revision != wanted {
                    return Err(StoreError::Conflict);
                }
                let object = Arc::new(draft::reseal(&previous, revision));
                Ok(Event {
                    revision,
                    kind: EventKind::Delete,
                    object,
                    previous: Some(previous),
                })
            }
        }
    }

    fn probe(&self, moment: Moment) {
        if let Some(probe) = self.shared.probe.get() {
            let events: Vec<Arc<Event>> = self.accepted.iter().map(|(event, _)| event.clone()).collect();
            probe(moment, &events);
        }
    }

    /// Commits, publishes, answers. False when the commit failed.
    fn finish(self, disk: &Disk) -> bool {
        if self.accepted.is_empty() {
            for (error, reply) in self.refused {
                answer(reply, Err(error));
            }
            return true;
        }
        self.probe(Moment::Before);
        let changes = self.overlay.iter().map(|(key, object)| match object {
            Some(object) => Change::Put(object),
            None => Change::Delete(key),
        });
        if let Err(error) = disk.commit(self.revision, changes) {
            tracing::error!(%error, "the object store could not commit; it takes no more writes");
            // Before anybody is told: whoever hears of the failure must find the store unhealthy.
            self.shared.failed.store(true, Ordering::SeqCst);
            for reply in self
                .accepted
                .into_iter()
                .map(|(_, reply)| reply)
                .chain(self.refused.into_iter().map(|(_, reply)| reply))
            {
                answer(reply, Err(StoreError::Failed(error.to_string())));
            }
            return false;
        }
        self.probe(Moment::After);
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        self.shared.writes.fetch_add(self.accepted.len() as u64, Ordering::Relaxed);
        publish(self.shared, self.revision, &self.accepted);
        if let Some(observer) = self.shared.observer.get() {
            let events: Vec<Arc<Event>> = self.accepted.iter().map(|(event, _)| event.clone()).collect();
            observer(&events);
        }
        for (event, reply) in self.accepted {
            answer(reply, Ok(event.object.clone()));
        }
        for (error, reply) in self.refused {
            answer(reply, Err(error));
        }
        true
    }
}

fn publish(shared: &Shared, revision: u64, accepted: &[(Arc<Event>, Reply)]) {
    let mut state = shared.write();
    let mut touched: Vec<Arc<str>> = Vec::new();
    for (event, _) in accepted {
        let object = &event.object;
        let replaced = event.previous.as_deref();
        let left = (event.kind == EventKind::Put).then_some(object.as_ref());
        index_owners(&mut state.dependents, replaced, left);
        let resource = resource_mut(&mut state, &object.key.resource);
        match event.kind {
            EventKind::Put => {
                resource.objects.insert(object.key.path.clone(), object.clone());
            }
            EventKind::Delete => {
                resource.objects.remove(&object.key.path);
            }
        }
        resource
            .ring
            .push(event.clone(), shared.limits.ring_events, shared.limits.ring_bytes);
        if !touched.contains(&object.key.resource) {
            touched.push(object.key.resource.clone());
        }
    }
    state.revision = revision;
    for resource in touched {
        if let Some(resource) = state.resources.get(&resource) {
            resource.wake.send_replace(revision);
        }
    }
}
