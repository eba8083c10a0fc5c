//! The server's own part of `metadata`: what it sets on create and carries over on update.
//!
//! Validation of metadata is in `schema::metadata`.

use serde_json::{Value, json};

/// Current time as Kubernetes writes it in metadata: RFC 3339 with whole seconds.
pub fn now_text() -> String {
    time_text(jiff::Timestamp::now())
}

/// A time as Kubernetes writes it in metadata.
pub fn time_text(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A text of metadata, empty when absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Sets a field of metadata.
pub fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        let metadata = map.entry("metadata").or_insert_with(|| json!({}));
        if !metadata.is_object() {
            *metadata = json!({});
        }
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// Removes a field of metadata.
pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .and_then(|metadata| metadata.remove(field))
}

/// The finalizers.
pub fn finalizers(object: &Value) -> Vec<String> {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("finalizers"))
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Replaces the finalizers; an empty list removes the field.
pub fn set_finalizers(object: &mut Value, finalizers: &[String]) {
    if finalizers.is_empty() {
        remove(object, "finalizers");
    } else {
        set(object, "finalizers", json!(finalizers));
    }
}

/// Whether the deletion has begun.
pub fn deleting(object: &Value) -> bool {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("deletionTimestamp"))
        .is_some_and(|at| !at.is_null())
}

/// Takes over from the old object what an update may leave out or may not change.
pub fn carry_over(old: &Value, new: &mut Value) {
    let empty = json!({});
    let was = old.get("metadata").unwrap_or(&empty);
    for field in ["name", "namespace", "uid"] {
        if text(new, field).is_empty()
            && let Some(value) = was.get(field)
        {
            set(new, field, value.clone());
        }
    }
    // A client can neither move the creation nor take back or move the deletion; the generation is the server's.
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(value) = was.get(field) {
            set(new, field, value.clone());
        }
    }
    if let Some(value) = was.get("deletionGracePeriodSeconds")
        && new.pointer("/metadata/deletionGracePeriodSeconds").is_none_or(Value::is_null)
    {
        set(new, "deletionGracePeriodSeconds", value.clone());
    }
    match was.get("generation") {
        Some(value) => set(new, "generation", value.clone()),
        None => {
            remove(new, "generation");
        }
    }
    if let Some(value) = was.get("resourceVersion") {
        set(new, "resourceVersion", value.clone());
    }
}
