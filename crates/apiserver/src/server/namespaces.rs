//! The life of namespaces: the ones that always exist, and the emptying of deleted ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::core::Core;
use super::delete::DeleteOptions;
use super::registry::{NAMESPACES, ResourceInfo};
use super::request::WriteOptions;
use super::status::{ApiError, ApiResult};
use crate::store::{Key, Object};

/// The namespaces that exist from the start.
pub const INITIAL: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

fn info(core: &Core) -> ApiResult<Arc<ResourceInfo>> {
    core.registry()
        .get("", "v1", "namespaces")
        .ok_or_else(|| ApiError::internal("namespaces are not served"))
}

/// Creates the initial namespaces that are missing.
pub async fn ensure(core: &Core) -> ApiResult<()> {
    let info = info(core)?;
    let options = WriteOptions::internal("kube-apiserver");
    for name in INITIAL {
        if core.store.get(&core.key(&info, "", name)).is_none() {
            match core
                .create(
                    &info,
                    "",
                    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
                    &[],
                    &options,
                    &mut Vec::new(),
                )
                .await
            {
                Ok(_) => {}
                Err(error) if error.reason == "AlreadyExists" => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The controller; it ends with the server.
pub async fn run(core: Arc<Core>) {
    loop {
        let key = tokio::select! {
            key = core.namespaces.next() => key,
            () = core.stop.cancelled() => return,
        };
        if let Err(error) = empty(&core, &key).await {
            tracing::warn!(
                namespace = key.name(),
                error = error.message,
                "a deleted namespace could not be emptied"
            );
        }
    }
}

/// Deletes what a deleted namespace holds; lets it go when nothing is left. Each object that goes queues it again.
async fn empty(core: &Core, key: &Key) -> ApiResult<()> {
    let Some(namespace) = core
        .store
        .get(key)
        .filter(|namespace| namespace.meta.deleting && *key.resource == *NAMESPACES)
    else {
        return Ok(());
    };
    let info = info(core)?;
    for object in core.store.in_namespace(key.name()) {
        if object.meta.deleting {
            continue;
        }
        let Some(info) = core.registry().by_storage(&object.key.resource) else {
            continue;
        };
        let options = DeleteOptions {
            uid: Some(object.meta.uid.to_string()),
            ..DeleteOptions::default()
        };
        match core.delete(&info, key.name(), object.key.name(), &options).await {
            Ok(_) => {}
            Err(error) if error.code == 404 || error.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    let left = core.store.in_namespace(key.name());
    core.amend(&info, &namespace, |value| {
        if left.is_empty() {
            if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
                let others: Vec<Value> = spec
                    .get("finalizers")
                    .and_then(Value::as_array)
                    .map(|list| list.iter().filter(|name| **name != json!("kubernetes")).cloned().collect())
                    .unwrap_or_default();
                if others.is_empty() {
                    spec.remove("finalizers");
                } else {
                    spec.insert("finalizers".to_owned(), json!(others));
                }
            }
            return;
        }
        tell(value, &left);
    })
    .await?;
    Ok(())
}

/// Says in the conditions of a namespace what its deletion waits for, in the words of the real controller.
fn tell(namespace: &mut Value, left: &[Arc<Object>]) {
    let mut resources: BTreeMap<String, usize> = BTreeMap::new();
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    for object in left {
        let (group, resource) = object.key.resource.split_once('/').unwrap_or_default();
        *resources.entry(format!("{resource}.{group}")).or_default() += 1;
        for name in super::metadata::finalizers(&object.value()) {
            *finalizers.entry(name).or_default() += 1;
        }
    }
    let joined = |counts: &BTreeMap<String, usize>, word: &str| {
        let texts = counts
            .iter()
            .map(|(name, count)| format!("{name} {word} {count} resource instances"));
        texts.collect::<Vec<_>>().join(", ")
    };
    let resources = joined(&resources, "has");
    let finalizers = joined(&finalizers, "in");
    let remaining = |what: &str, names: &str| (!names.is_empty()).then(|| format!("{what}: {names}"));
    let told = [
        (
            "NamespaceDeletionDiscoveryFailure",
            None,
            "",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            None,
            "",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            remaining("Some resources are remaining", &resources),
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            remaining("Some content in the namespace has finalizers remaining", &finalizers),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let before = namespace.pointer("/status/conditions").cloned().unwrap_or_default();
    let known = |kind: &str| before.as_array().into_iter().flatten().find(|condition| condition["type"] == kind);
    let conditions: Vec<Value> = told
        .into_iter()
        .map(|(kind, waits, why, fine, all_well)| {
            let (status, reason) = if waits.is_some() { ("True", why) } else { ("False", fine) };
            let message = waits.unwrap_or_else(|| all_well.to_owned());
            let since = known(kind)
                .filter(|old| old["status"] == status)
                .map(|old| old["lastTransitionTime"].clone());
            let since = since.unwrap_or_else(|| json!(super::metadata::now_text()));
            json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since })
        })
        .collect();
    namespace["status"]["conditions"] = json!(conditions);
}
