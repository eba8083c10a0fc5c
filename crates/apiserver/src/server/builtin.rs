//! What the server does for core kinds beyond their rules in `schema::builtin`: the forms that decoding into typed objects
//! gives, which part a subresource may change, and when an object in deletion may go.

use serde_json::{Map, Value, json};

use super::registry::{ResourceInfo, Special};
use super::write::Part;
use crate::schema::FieldError;
use crate::schema::builtin as rules;

fn object_entry<'a>(value: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let map = value.as_object_mut()?;
    let entry = map.entry(field).or_insert_with(|| json!({}));
    if entry.is_null() {
        *entry = json!({});
    }
    entry.as_object_mut()
}

/// Brings a sent object into the form that decoding into the Go type and back would give.
pub fn normalize(info: &ResourceInfo, value: &mut Value) {
    if info.custom() {
        return;
    }
    drop_nulls(value);
    rules::canonicalize(&info.group, &info.kind, value);
    let (Some(map), Value::Object(always)) = (value.as_object_mut(), zero(info.special)) else {
        return;
    };
    for field in ["data", "binaryData"] {
        if map.get(field).and_then(Value::as_object).is_some_and(Map::is_empty) {
            map.remove(field);
        }
    }
    for (field, empty) in always {
        map.entry(field).or_insert(empty);
    }
    rules::default(&info.group, &info.kind, value);
}

/// What a new object of a kind has without anybody's doing: nobody owns it.
pub fn unowned(special: Special) -> Value {
    match special {
        Special::Namespace => json!({ "spec": { "finalizers": ["kubernetes"] }, "status": {} }),
        _ => zero(special),
    }
}

/// What a core object is before anything is set: its Go type writes these fields even when they are empty.
fn zero(special: Special) -> Value {
    match special {
        Special::Lease => json!({ "spec": {} }),
        Special::Role | Special::ClusterRole => json!({ "rules": null }),
        Special::RoleBinding | Special::ClusterRoleBinding => json!({ "roleRef": {} }),
        Special::Namespace => json!({ "spec": {}, "status": {} }),
        Special::Definition => json!({ "spec": { "names": {} }, "status": {} }),
        Special::CoreEvent => json!({
            "involvedObject": {}, "source": {}, "firstTimestamp": null, "lastTimestamp": null, "eventTime": null,
            "reportingComponent": "", "reportingInstance": "",
        }),
        Special::Event => json!({
            "regarding": {}, "deprecatedSource": {}, "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null, "eventTime": null,
        }),
        _ => json!({}),
    }
}

/// Typed objects have no nulls but in the times of events, which `normalize` puts back.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            for (field, value) in map.iter_mut() {
                // Schemas of definitions may hold null as data: as a default or an allowed value.
                if !matches!(field.as_str(), "openAPIV3Schema" | "fieldsV1") {
                    drop_nulls(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// What the server sets on a new object.
pub fn prepare_create(info: &ResourceInfo, value: &mut Value) {
    if !info.custom() {
        rules::prepare_create(&info.group, &info.kind, value);
    }
}

/// What the server keeps or sets on an update.
pub fn prepare_update(info: &ResourceInfo, old: &Value, new: &mut Value, part: Part) {
    let keep = |new: &mut Value, field: &str| {
        if let Some(map) = new.as_object_mut() {
            match old.get(field) {
                Some(value) => map.insert(field.to_owned(), value.clone()),
                None => map.remove(field),
            };
        }
    };
    match (info.special, part) {
        (Special::Custom, _) => {}
        (Special::Namespace, Part::Finalize) => {
            let finalizers = new.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
            keep(new, "status");
            keep(new, "spec");
            match (finalizers.as_array().is_some_and(Vec::is_empty), object_entry(new, "spec")) {
                (true, Some(spec)) => {
                    spec.remove("finalizers");
                }
                (false, Some(spec)) => {
                    spec.insert("finalizers".to_owned(), finalizers);
                }
                _ => {}
            }
        }
        (_, Part::Status) => keep(new, "spec"),
        _ => rules::prepare_update(&info.group, &info.kind, new, old),
    }
}

/// Whether an object in deletion without finalizers may go: a namespace also needs an empty `spec.finalizers`.
pub fn may_vanish(special: Special, value: &Value) -> bool {
    special != Special::Namespace
        || value
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
}

/// Rules of metadata, and those of a core kind that its schema cannot say.
pub fn validate(info: &ResourceInfo, new: &Value, old: Option<&Value>, part: Part) -> Vec<FieldError> {
    if info.custom() {
        return crate::schema::metadata::validate(new, old, info.namespaced, info.name_rule);
    }
    let mut errors = rules::validate(&info.group, &info.kind, new, old, part.subresource());
    let mut times = 1;
    if old.is_some() && matches!(info.special, Special::ConfigMap | Special::Secret | Special::ServiceAccount) {
        // Of these kinds the real server validates an update as a new object, too.
        errors.extend(crate::schema::metadata::validate(new, None, info.namespaced, info.name_rule));
        times = 2;
    }
    if info.group.is_empty() || info.special.grants() {
        let finalizers = super::metadata::finalizers(new);
        for (at, finalizer) in finalizers.iter().enumerate() {
            if !finalizer.contains('/') && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes") {
                let detail = "name is neither a standard finalizer name nor is it fully qualified";
                let error = FieldError::invalid_str(format!("metadata.finalizers[{at}]"), finalizer, detail);
                errors.extend(std::iter::repeat_n(error, times));
            }
        }
    }
    errors
}

/// Warnings about an object that is accepted.
pub fn warnings(info: &ResourceInfo, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = crate::schema::metadata::finalizer_warnings(new, old);
    if !info.custom() {
        warnings.extend(rules::warnings(&info.group, &info.kind, new, old));
    }
    warnings
}

/// The value of a field that a selector names, with the fallbacks of the real server.
pub fn field_text(special: Special, object: &Value, path: &str) -> String {
    use super::selector::field_text as plain;
    match (special, path) {
        (Special::CoreEvent, "source") => {
            let component = plain(object, "source.component");
            if component.is_empty() {
                plain(object, "reportingComponent")
            } else {
                component
            }
        }
        (Special::Event, _) => {
            let mut event = object.clone();
            super::events::to_events_api(&mut event);
            plain(&event, path)
        }
        _ => plain(object, path),
    }
}
