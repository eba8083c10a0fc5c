//! CustomResourceDefinitions: validation, status, and what they make the server serve.
//!
//! The controller reacts to changes of definitions. It first serves what a definition says and then writes that it is
//! established, so that a client who sees the condition can use the resource. A deleted definition first loses its objects,
//! then its finalizer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::core::Core;
use super::delete::{DeleteOptions, mark};
use super::metadata::{self, deleting, finalizers, now_text, set_finalizers, text};
use super::registry::{DEFINITIONS, Registry, ResourceInfo, Scale, Schema, Special, prefix};
use crate::schema::Structural;
use crate::schema::metadata::NameRule;
use crate::schema::table::Columns;
use crate::store::{Object, Page};

const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn string<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn strings(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The first step of a deletion.
pub fn mark_deleted(value: &mut Value) {
    mark(value);
    let mut names = finalizers(value);
    if !names.iter().any(|name| name == CLEANUP) {
        names.push(CLEANUP.to_owned());
        set_finalizers(value, &names);
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(value, "Terminating", true, "InstanceDeletionPending", message);
}

fn set_condition(value: &mut Value, kind: &str, status: bool, reason: &str, message: &str) {
    let status = if status { "True" } else { "False" };
    let Some(map) = value.as_object_mut() else { return };
    let all = map.entry("status").or_insert_with(|| json!({}));
    if !all.is_object() {
        *all = json!({});
    }
    if !all["conditions"].is_array() {
        all["conditions"] = json!([]);
    }
    let Some(conditions) = all["conditions"].as_array_mut() else {
        return;
    };
    let found = conditions.iter_mut().find(|condition| condition["type"] == kind);
    match found {
        Some(condition) => {
            if condition["status"] != status {
                condition["lastTransitionTime"] = json!(now_text());
            }
            condition["status"] = json!(status);
            condition["reason"] = json!(reason);
            condition["message"] = json!(message);
        }
        None => conditions
            .push(json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now_text() })),
    }
}

fn condition(value: &Value, kind: &str) -> bool {
    list(value, "/status/conditions").any(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// The resources of one established definition.
fn resources_of(definition: &Value, since: u64, cache: &mut SchemaCache) -> Vec<ResourceInfo> {
    let group = string(definition, "/spec/group");
    let plural = string(definition, "/spec/names/plural");
    let served: Vec<&Value> = list(definition, "/spec/versions")
        .filter(|version| version["served"] == json!(true))
        .collect();
    let schema_of = |version: &Value| version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or(Value::Null);
    let all: Vec<Value> = list(definition, "/spec/versions").map(schema_of).collect();
    // Versions with schemas of their own share what is stored; and a definition that was ever changed may have had another schema, in the
    // form of which objects are still stored.
    let changed = definition.pointer("/metadata/generation").and_then(Value::as_i64) != Some(1);
    let reshapes = changed || all.windows(2).any(|pair| pair[0] != pair[1]);
    let preserve = definition.pointer("/spec/preserveUnknownFields") == Some(&json!(true));
    let stored = list(definition, "/spec/versions")
        .find(|version| version["storage"] == json!(true))
        .map(schema_of);
    let mut infos = Vec::new();
    for version in served {
        let name = string(version, "/name");
        let Some(schema) = cache.get(&schema_of(version), preserve) else {
            continue;
        };
        let other = stored.as_ref().filter(|stored| **stored != schema_of(version));
        let stored_schema = other.and_then(|stored| cache.get(stored, preserve)).map(Schema::Custom);
        let kind = string(definition, "/spec/names/kind");
        let api_version = format!("{group}/{name}");
        let scale = version
            .pointer("/subresources/scale")
            .filter(|scale| scale.is_object())
            .map(|scale| Scale {
                spec_path: string(scale, "/specReplicasPath").to_owned(),
                status_path: string(scale, "/statusReplicasPath").to_owned(),
                selector_path: Some(string(scale, "/labelSelectorPath").to_owned()).filter(|path| !path.is_empty()),
            });
        let deprecation = (version["deprecated"] == json!(true)).then(|| match version.get("deprecationWarning").and_then(Value::as_str) {
            Some(warning) => warning.to_owned(),
            None => format!("{api_version} {kind} is deprecated"),
        });
        infos.push(ResourceInfo {
            group: group.to_owned(),
            version: name.to_owned(),
            resource: plural.to_owned(),
            singular: string(definition, "/spec/names/singular").to_owned(),
            kind: kind.to_owned(),
            list_kind: string(definition, "/spec/names/listKind").to_owned(),
            short_names: strings(definition, "/spec/names/shortNames"),
            categories: strings(definition, "/spec/names/categories"),
            namespaced: string(definition, "/spec/scope") == "Namespaced",
            storage: Arc::from(format!("{group}/{plural}")),
            status: version.pointer("/subresources/status").is_some_and(|status| !status.is_null()),
            scale,
            schema: Schema::Custom(schema),
            stored_schema,
            reshapes,
            since,
            columns: Columns::from_crd(version),
            name_rule: NameRule::Subdomain,
            special: Special::Custom,
            selectable: list(version, "/selectableFields")
                .map(|field| string(field, "/jsonPath").trim_start_matches('.').to_owned())
                .collect(),
            terminating: deleting(definition),
            deprecation,
            prefix: prefix(&api_version, kind),
        });
    }
    infos
}

/// Compiled schemas by their text: a change of one definition does not compile the others again.
#[derive(Default)]
struct SchemaCache {
    known: HashMap<String, Arc<Structural>>,
    used: Vec<String>,
    /// Uids of deleted definitions whose last objects are waited for.
    waiting: Arc<Mutex<HashSet<Box<str>>>>,
}

impl SchemaCache {
    fn get(&mut self, schema: &Value, preserve: bool) -> Option<Arc<Structural>> {
        if preserve && schema.is_null() {
            return Some(Arc::new(Structural::preserve_everything()));
        }
        let text = schema.to_string();
        self.used.push(text.clone());
        if let Some(found) = self.known.get(&text) {
            return Some(found.clone());
        }
        match Structural::parse(schema) {
            Ok(parsed) => {
                let parsed = Arc::new(parsed);
                self.known.insert(text, parsed.clone());
                Some(parsed)
            }
            Err(errors) => {
                // It was validated when it was stored, by this or an older version.
                tracing::error!(
                    ?errors,
                    "a stored definition has a schema that cannot be used; its version is not served"
                );
                None
            }
        }
    }

    fn forget_unused(&mut self) {
        let used = std::mem::take(&mut self.used);
        self.known.retain(|text, _| used.contains(text));
    }
}

/// Names that are taken in a group: by core kinds and by definitions accepted before.
#[derive(Default)]
struct Taken {
    names: HashMap<(String, String), String>,
    kinds: HashMap<(String, String), String>,
}

impl Taken {
    /// The names of a definition that it may have, and the first conflict.
    fn accept(&self, definition: &Value) -> (Value, Option<(&'static str, String)>) {
        let group = string(definition, "/spec/group").to_owned();
        let owner = text(definition, "name");
        let free =
            |map: &HashMap<(String, String), String>, name: &str| map.get(&(group.clone(), name.to_owned())).is_none_or(|by| by == owner);
        let mut accepted = definition
            .pointer("/status/acceptedNames")
            .cloned()
            .filter(Value::is_object)
            .unwrap_or_else(|| json!({}));
        let wanted = definition.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
        let mut conflict = None;
        let mut refuse = |reason: &'static str, message: String| {
            conflict.get_or_insert((reason, message));
        };
        for (field, map, reason) in [
            ("plural", &self.names, "PluralConflict"),
            ("singular", &self.names, "SingularConflict"),
            ("kind", &self.kinds, "KindConflict"),
            ("listKind", &self.kinds, "ListKindConflict"),
        ] {
            let name = wanted.get(field).and_then(Value::as_str).unwrap_or_default();
            if free(map, name) {
                accepted[field] = json!(name);
            } else {
                refuse(reason, format!("\"{name}\" is already in use"));
            }
        }
        let short = strings(&wanted, "/shortNames");
        let clash: Vec<&String> = short.iter().filter(|name| !free(&self.names, name)).collect();
        if clash.is_empty() {
            match short.is_empty() {
                true => accepted.as_object_mut().and_then(|map| map.remove("shortNames")),
                false => accepted
                    .as_object_mut()
                    .and_then(|map| map.insert("shortNames".to_owned(), json!(short))),
            };
        } else {
            let texts: Vec<String> = clash.iter().map(|name| format!("\"{name}\" is already in use")).collect();
            refuse(
                "ShortNamesConflict",
                if texts.len() == 1 {
                    texts.concat()
                } else {
                    format!("[{}]", texts.join(", "))
                },
            );
        }
        match wanted.get("categories") {
            Some(categories) => accepted["categories"] = categories.clone(),
            None => drop(accepted.as_object_mut().and_then(|map| map.remove("categories"))),
        }
        (accepted, conflict)
    }

    fn take(&mut self, group: &str, owner: &str, names: &Value) {
        let mut words = strings(names, "/shortNames");
        words.extend(["plural", "singular"].map(|field| string(names, &format!("/{field}")).to_owned()));
        for word in words.into_iter().filter(|word| !word.is_empty()) {
            self.names.entry((group.to_owned(), word)).or_insert_with(|| owner.to_owned());
        }
        for kind in ["kind", "listKind"].map(|field| string(names, &format!("/{field}")).to_owned()) {
            if !kind.is_empty() {
                self.kinds.entry((group.to_owned(), kind)).or_insert_with(|| owner.to_owned());
            }
        }
    }
}

/// Serves what the stored definitions say, before the controller runs.
pub async fn start(core: &Arc<Core>) {
    pass(core, &Arc::from(DEFINITIONS), &mut SchemaCache::default()).await;
}

/// The controller; it ends with the server.
pub async fn run(core: Arc<Core>) {
    let storage: Arc<str> = Arc::from(DEFINITIONS);
    let mut wake = core.store.subscribe(&storage);
    let mut cache = SchemaCache::default();
    loop {
        wake.borrow_and_update();
        pass(&core, &storage, &mut cache).await;
        tokio::select! {
            changed = wake.changed() => if changed.is_err() { return },
            () = core.stop.cancelled() => return,
        }
    }
}

/// One look at all definitions.
async fn pass(core: &Arc<Core>, storage: &Arc<str>, cache: &mut SchemaCache) {
    let Ok(listing) = core.store.list(storage, &Page::default()) else {
        return;
    };
    let mut taken = Taken::default();
    for info in core.registry().all().filter(|info| !info.custom()) {
        let names = json!({ "plural": info.resource, "singular": info.singular, "kind": info.kind, "listKind": info.list_kind, "shortNames": info.short_names });
        taken.take(&info.group, "", &names);
    }
    let mut definitions: Vec<(Arc<Object>, Value)> = listing
        .objects
        .into_iter()
        .map(|object| {
            let value = object.value();
            (object, value)
        })
        .collect();
    // Who holds names keeps them; the others are served in the order of their creation.
    definitions.sort_by_key(|(object, value)| {
        (
            !condition(value, "NamesAccepted"),
            text(value, "creationTimestamp").to_owned(),
            object.key.path.clone(),
        )
    });
    for (_, value) in definitions.iter().filter(|(_, value)| condition(value, "NamesAccepted")) {
        taken.take(string(value, "/spec/group"), text(value, "name"), &value["status"]["acceptedNames"]);
    }
    let (mut custom, mut shown, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for (object, value) in &definitions {
        let group = string(value, "/spec/group");
        let (accepted, conflict) = taken.accept(value);
        let mut new = value.clone();
        new["status"]["acceptedNames"] = accepted.clone();
        match &conflict {
            None => {
                set_condition(&mut new, "NamesAccepted", true, "NoConflicts", "no conflicts found");
                set_condition(
                    &mut new,
                    "Established",
                    true,
                    "InitialNamesAccepted",
                    "the initial names have been accepted",
                );
                taken.take(group, text(value, "name"), &accepted);
            }
            Some((reason, message)) => {
                set_condition(&mut new, "NamesAccepted", false, reason, message);
                if !condition(value, "Established") {
                    set_condition(&mut new, "Established", false, "NotAccepted", "not all names are accepted");
                }
            }
        }
        if condition(&new, "Established") {
            let mut as_accepted = new.clone();
            as_accepted["spec"]["names"] = accepted;
            let storage = format!("{group}/{}", string(&as_accepted, "/spec/names/plural"));
            let served = core.registry().by_storage(&storage);
            let since = served.map_or_else(|| core.store.revision(), |info| info.since);
            custom.extend(resources_of(&as_accepted, since, cache));
            shown.push(as_accepted);
        }
        if new["status"] != value["status"] {
            changed.push((object.clone(), new["status"].clone()));
        }
    }
    cache.forget_unused();
    let serial = core.registry().serial + 1;
    core.set_registry(Registry::new(custom, shown, serial));
    let Some(info) = core.registry().get("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
        return;
    };
    for (object, status) in changed {
        let seen = object.revision;
        let result = core
            .amend(&info, &object, |current| {
                // Decided on this version; a newer one wakes this controller again.
                if text(current, "resourceVersion") == seen.to_string() {
                    current["status"] = status.clone();
                }
            })
            .await;
        if let Err(error) = result {
            tracing::error!(
                definition = object.key.name(),
                error = error.message,
                "the status of a definition could not be written"
            );
        }
    }
    for (object, value) in definitions
        .iter()
        .filter(|(_, value)| deleting(value) && finalizers(value).iter().any(|name| name == CLEANUP))
    {
        clean_up(core, &info, object, value, &cache.waiting).await;
    }
}

/// Deletes the objects of a deleted definition, then lets it go.
async fn clean_up(
    core: &Arc<Core>,
    info: &ResourceInfo,
    object: &Arc<Object>,
    definition: &Value,
    waiting: &Arc<Mutex<HashSet<Box<str>>>>,
) {
    let (group, plural) = (
        string(definition, "/spec/group").to_owned(),
        string(definition, "/spec/names/plural").to_owned(),
    );
    let storage: Arc<str> = Arc::from(format!("{group}/{plural}"));
    let established = condition(definition, "Established");
    if established && let Some(resource) = core.registry().by_storage(&storage) {
        let Ok(listing) = core.store.list(&storage, &Page::default()) else {
            return;
        };
        for item in listing.objects.iter().filter(|item| !item.meta.deleting) {
            let options = DeleteOptions {
                uid: Some(item.meta.uid.to_string()),
                ..DeleteOptions::default()
            };
            if let Err(error) = core.delete(&resource, item.key.namespace(), item.key.name(), &options).await
                && error.code != 404
            {
                tracing::warn!(object = %item.key.path, error = error.message, "an object of a deleted definition could not be deleted");
            }
        }
        let left = core
            .store
            .list(&storage, &Page::default())
            .map_or(0, |listing| listing.objects.len());
        if left > 0 {
            // Finalizers of others: wait for the objects to go, then look again.
            let core = core.clone();
            let object = object.clone();
            let info = core.registry().get("apiextensions.k8s.io", "v1", "customresourcedefinitions");
            let Some(info) = info else { return };
            let waiting = waiting.clone();
            let uid = object.meta.uid.clone();
            if !waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone()) {
                return;
            }
            tokio::spawn(async move {
                let noted = core.amend(&info, &object, |value| {
                    set_condition(
                        value,
                        "Terminating",
                        true,
                        "InstanceDeletionInProgress",
                        "CustomResource deletion is in progress",
                    );
                });
                if let Err(error) = noted.await {
                    tracing::debug!(error = error.message, "a definition's progress could not be noted");
                }
                let mut wake = core.store.subscribe(&storage);
                loop {
                    wake.borrow_and_update();
                    if core
                        .store
                        .list(&storage, &Page::default())
                        .is_ok_and(|listing| listing.objects.is_empty())
                    {
                        finish(&core, &info, &object).await;
                        break;
                    }
                    tokio::select! {
                        changed = wake.changed() => if changed.is_err() { break },
                        () = core.stop.cancelled() => break,
                    }
                }
                waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            });
            return;
        }
    }
    finish(core, info, object).await;
}

async fn finish(core: &Arc<Core>, info: &ResourceInfo, object: &Object) {
    let done = core
        .amend(info, object, |value| {
            set_condition(value, "Terminating", false, "InstanceDeletionCompleted", "removed all instances");
            let left: Vec<String> = finalizers(value).into_iter().filter(|name| name != CLEANUP).collect();
            set_finalizers(value, &left);
            metadata::remove(value, "selfLink");
        })
        .await;
    if let Err(error) = done {
        tracing::error!(
            definition = object.key.name(),
            error = error.message,
            "a deleted definition could not be let go"
        );
    }
}
