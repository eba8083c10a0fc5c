//! The garbage collector: objects whose owners are gone are removed; foreground and orphaning deletions are carried out.
//!
//! It is driven by the store's events, never by polling. The store keeps the index from an owner's uid to its dependents.
//! Looking at a key is idempotent: it reads the present state and does what that asks for.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::core::Core;
use super::delete::{DeleteOptions, Propagation};
use super::metadata::{finalizers, set_finalizers};
use super::registry::{NAMESPACES, ResourceInfo};
use crate::store::{Event, EventKind, Key, Object, OwnerRef};

/// Tells the controllers which objects to look at after a publication. Runs on the store's writer thread.
pub fn observe(core: &Core, events: &[Arc<Event>]) {
    for event in events {
        let object = &event.object;
        let in_namespace = !object.key.namespace().is_empty();
        match event.kind {
            EventKind::Delete => {
                for dependent in core.store.dependents(&object.meta.uid) {
                    core.garbage.push(dependent);
                }
                // An owner in foreground deletion may have waited for this one.
                for owner in &object.meta.owners {
                    push_owner(core, object, owner);
                }
                if in_namespace {
                    push_namespace(core, object.key.namespace());
                }
            }
            EventKind::Put => {
                let previous = event.previous.as_ref().map(|previous| &previous.meta);
                let meta = &object.meta;
                let owners_changed = previous.map_or(!meta.owners.is_empty(), |previous| previous.owners != meta.owners);
                let deletion_began = meta.deleting && previous.is_none_or(|previous| !previous.deleting);
                if owners_changed || (meta.deleting && (meta.foreground || meta.orphan)) {
                    core.garbage.push(object.key.clone());
                }
                if let Some(previous) = previous.filter(|_| owners_changed) {
                    for owner in &previous.owners {
                        push_owner(core, object, owner);
                    }
                }
                if deletion_began && meta.foreground {
                    for dependent in core.store.dependents(&meta.uid) {
                        core.garbage.push(dependent);
                    }
                }
                if meta.deleting && *object.key.resource == *NAMESPACES {
                    core.namespaces.push(object.key.clone());
                }
            }
        }
    }
}

fn push_namespace(core: &Core, name: &str) {
    let key = Key::new(&Arc::from(NAMESPACES), "", name);
    if core.store.get(&key).is_some_and(|namespace| namespace.meta.deleting) {
        core.namespaces.push(key);
    }
}

/// Queues an owner that is in foreground deletion.
fn push_owner(core: &Core, dependent: &Object, owner: &OwnerRef) {
    if let Resolved::Found(owner) = resolve(core, dependent, owner)
        && owner.meta.deleting
        && (owner.meta.foreground || owner.meta.orphan)
    {
        core.garbage.push(owner.key.clone());
    }
}

/// Everything that may need care when the server starts.
pub fn seed(core: &Core) {
    let wanted =
        |object: &Object| !object.meta.owners.is_empty() || (object.meta.deleting && (object.meta.foreground || object.meta.orphan));
    for object in core.store.scan(wanted) {
        core.garbage.push(object.key.clone());
    }
    for object in core
        .store
        .scan(|object| object.meta.deleting && *object.key.resource == *NAMESPACES)
    {
        core.namespaces.push(object.key.clone());
    }
}

enum Resolved {
    Found(Arc<Object>),
    Absent,
    /// The owner's kind is not known (yet), or the reference cannot be followed: nothing is decided on it.
    Unknown,
}

fn resolve(core: &Core, dependent: &Object, owner: &OwnerRef) -> Resolved {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(info) = core.registry().by_kind(group, &owner.kind) else {
        return Resolved::Unknown;
    };
    let namespace = dependent.key.namespace();
    if info.namespaced && namespace.is_empty() {
        // A cluster-scoped object cannot have an owner in a namespace.
        return Resolved::Unknown;
    }
    match core
        .store
        .get(&core.key(&info, namespace, &owner.name))
        .filter(|object| *object.meta.uid == *owner.uid)
    {
        Some(object) => Resolved::Found(object),
        None => Resolved::Absent,
    }
}

/// The collector; it ends with the server.
pub async fn run(core: Arc<Core>) {
    let mut parked: HashSet<Key> = HashSet::new();
    let mut registry = core.registry_changed.subscribe();
    loop {
        tokio::select! {
            key = core.garbage.next() => {
                if !look(&core, &key).await {
                    parked.insert(key);
                }
            }
            changed = registry.changed() => {
                if changed.is_err() { return; }
                // A kind may be known now that was not.
                for key in parked.drain() {
                    core.garbage.push(key);
                }
            }
            () = core.stop.cancelled() => return,
        }
    }
}

/// Looks at one object. False when it names an owner of an unknown kind and must be looked at again.
async fn look(core: &Core, key: &Key) -> bool {
    let Some(object) = core.store.get(key) else { return true };
    let Some(info) = core.registry().by_storage(&key.resource) else {
        return false;
    };
    if object.meta.deleting && object.meta.orphan {
        orphan(core, &info, &object).await;
        return true;
    }
    if object.meta.deleting && object.meta.foreground {
        foreground(core, &info, &object).await;
        return true;
    }
    if object.meta.deleting || object.meta.owners.is_empty() {
        return true;
    }
    let (mut solid, mut waiting, mut gone) = (0, Vec::new(), Vec::new());
    for owner in &object.meta.owners {
        match resolve(core, &object, owner) {
            Resolved::Unknown => return false,
            Resolved::Absent => gone.push(owner.uid.clone()),
            Resolved::Found(found) if owner.block_owner_deletion && found.meta.deleting && found.meta.foreground => {
                waiting.push(owner.uid.clone())
            }
            Resolved::Found(_) => solid += 1,
        }
    }
    if gone.is_empty() && waiting.is_empty() {
        return true;
    }
    if solid > 0 {
        gone.extend(waiting);
        drop_owners(core, &info, &object, &gone).await;
        return true;
    }
    let propagation = if !waiting.is_empty() && core.store.has_dependents(&object.meta.uid) {
        Some(Propagation::Foreground)
    } else {
        // What its own finalizers ask for.
        None
    };
    let options = DeleteOptions {
        uid: Some(object.meta.uid.to_string()),
        resource_version: Some(object.revision.to_string()),
        propagation: propagation.or(if object.meta.orphan || object.meta.foreground {
            None
        } else {
            Some(Propagation::Background)
        }),
        ..DeleteOptions::default()
    };
    match core.delete(&info, key.namespace(), key.name(), &options).await {
        Ok(_) => {
            core.metrics.collected.inc();
        }
        Err(error) if error.code == 404 => {}
        // It changed meanwhile: the change may have been to its owners, and did not queue it if not.
        Err(error) if error.code == 409 => core.garbage.push(key.clone()),
        Err(error) => tracing::warn!(object = %key.path, resource = %key.resource, error = error.message, "garbage could not be removed"),
    }
    true
}

async fn drop_owners(core: &Core, info: &ResourceInfo, object: &Object, uids: &[Box<str>]) {
    let result = core
        .amend(info, object, |value| {
            let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
                return;
            };
            let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) else {
                return;
            };
            owners.retain(|owner| !uids.iter().any(|uid| owner.get("uid") == Some(&json!(uid))));
            if owners.is_empty() {
                metadata.remove("ownerReferences");
            }
        })
        .await;
    if let Err(error) = result {
        tracing::warn!(object = %object.key.path, error = error.message, "owner references could not be removed");
    }
}

async fn drop_finalizer(core: &Core, info: &ResourceInfo, object: &Object, name: &str) {
    let result = core
        .amend(info, object, |value| {
            let left: Vec<String> = finalizers(value).into_iter().filter(|finalizer| finalizer != name).collect();
            set_finalizers(value, &left);
        })
        .await;
    if let Err(error) = result {
        tracing::warn!(object = %object.key.path, error = error.message, finalizer = name, "a finalizer could not be removed");
    }
}

async fn orphan(core: &Core, info: &ResourceInfo, owner: &Object) {
    for key in core.store.dependents(&owner.meta.uid) {
        if let (Some(dependent), Some(info)) = (core.store.get(&key), core.registry().by_storage(&key.resource)) {
            drop_owners(core, &info, &dependent, std::slice::from_ref(&owner.meta.uid)).await;
        }
    }
    drop_finalizer(core, info, owner, "orphan").await;
}

async fn foreground(core: &Core, info: &ResourceInfo, owner: &Object) {
    let mut blocked = false;
    for key in core.store.dependents(&owner.meta.uid) {
        let Some(dependent) = core.store.get(&key) else { continue };
        blocked |= dependent
            .meta
            .owners
            .iter()
            .any(|reference| reference.uid == owner.meta.uid && reference.block_owner_deletion);
        core.garbage.push(key);
    }
    if !blocked {
        drop_finalizer(core, info, owner, "foregroundDeletion").await;
    }
}
