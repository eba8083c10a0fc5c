//! `metadata` of every object: decoding, and validation on create and update, with the server's texts.

use super::error::FieldError;
use super::gofmt;
use super::gotime::{self, Precision};
use super::names;
use serde_json::{Map, Value, json};

/// All annotations of an object together: keys and values.
pub const ANNOTATIONS_MAX: usize = 256 * 1024;

/// How names of a kind must look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// Anything that can stand in a URL path (Event).
    PathSegment,
    /// RFC 1123 subdomain (custom resources, Secret, ConfigMap, Lease, ServiceAccount).
    Subdomain,
    /// RFC 1123 label (Namespace).
    Label,
}

impl NameRule {
    fn complaints(self, name: &str, prefix: bool) -> Vec<String> {
        match self {
            Self::PathSegment => names::path_segment(name, prefix),
            Self::Subdomain if prefix => names::dns1123_subdomain(&mask_trailing_dash(name)),
            Self::Subdomain => names::dns1123_subdomain(name),
            Self::Label if prefix => names::dns1123_label(&mask_trailing_dash(name)),
            Self::Label => names::dns1123_label(name),
        }
    }
}

/// A `generateName` may end in a dash, for a suffix follows.
fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() && rest.is_char_boundary(rest.len() - 1) => format!("{}a", &rest[..rest.len() - 1]),
        _ => name.to_string(),
    }
}

/// Validates the metadata of `new`: as a create without `old`, as an update of it otherwise.
pub fn validate(new: &Value, old: Option<&Value>, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let empty = Map::new();
    let meta = new.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut errors = Vec::new();
    match old {
        None => create(meta, namespaced, rule, "metadata", &mut errors),
        Some(old) => update(
            meta,
            old.get("metadata").and_then(Value::as_object).unwrap_or(&empty),
            "metadata",
            &mut errors,
        ),
    }
    errors
}

fn create(meta: &Map<String, Value>, namespaced: bool, rule: NameRule, path: &str, errors: &mut Vec<FieldError>) {
    let generate = text(meta, "generateName");
    if !generate.is_empty() {
        for complaint in rule.complaints(generate, true) {
            errors.push(FieldError::invalid_str(format!("{path}.generateName"), generate, &complaint));
        }
    }
    let name = text(meta, "name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), "name or generateName is required"));
    } else {
        for complaint in rule.complaints(name, false) {
            errors.push(FieldError::invalid_str(format!("{path}.name"), name, &complaint));
        }
    }
    let namespace = text(meta, "namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required(format!("{path}.namespace"), ""));
        } else {
            for complaint in names::dns1123_label(namespace) {
                errors.push(FieldError::invalid_str(format!("{path}.namespace"), namespace, &complaint));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden(format!("{path}.namespace"), "not allowed on this type"));
    }
    non_negative(meta, path, errors);
    common(meta, path, errors);
    finalizers(meta, path, errors);
    managed_fields(meta, path, errors);
}

fn update(meta: &Map<String, Value>, old: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let before = texts(old, "finalizers");
        let mut added: Vec<&str> = texts(meta, "finalizers").into_iter().filter(|f| !before.contains(f)).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| gofmt::quote(f)).collect();
            errors.push(FieldError::forbidden(
                format!("{path}.finalizers"),
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    list.join(", ")
                ),
            ));
        }
    }
    if text(meta, "resourceVersion").is_empty() {
        errors.push(FieldError::invalid_str(
            format!("{path}.resourceVersion"),
            "",
            "must be specified for an update",
        ));
    }
    non_negative(meta, path, errors);
    let generation = |m: &Map<String, Value>| m.get("generation").and_then(Value::as_i64).unwrap_or(0);
    if generation(meta) < generation(old) {
        errors.push(FieldError::invalid(
            format!("{path}.generation"),
            &json!(generation(meta)),
            "must not be decremented",
        ));
    }
    for name in ["name", "namespace", "uid"] {
        if text(meta, name) != text(old, name) {
            errors.push(FieldError::invalid_str(
                format!("{path}.{name}"),
                text(meta, name),
                "field is immutable",
            ));
        }
    }
    for name in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let of = |m: &Map<String, Value>| m.get(name).cloned().unwrap_or(Value::Null);
        if of(meta) != of(old) {
            errors.push(FieldError::invalid(format!("{path}.{name}"), &of(meta), "field is immutable"));
        }
    }
    common(meta, path, errors);
    managed_fields(meta, path, errors);
}

fn non_negative(meta: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64)
        && generation < 0
    {
        errors.push(FieldError::invalid(
            format!("{path}.generation"),
            &json!(generation),
            "must be greater than or equal to 0",
        ));
    }
}

fn common(meta: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    labels(meta.get("labels"), &format!("{path}.labels"), errors);
    annotations(meta, path, errors);
    owner_references(meta, path, errors);
}

/// Validates a map of labels.
pub fn labels(labels: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(labels) = labels.and_then(Value::as_object) else { return };
    for (key, value) in labels {
        for complaint in names::qualified_name(key) {
            errors.push(FieldError::invalid_str(path, key, &complaint));
        }
        let value = value.as_str().unwrap_or_default();
        for complaint in names::label_value(value) {
            errors.push(FieldError::invalid_str(path, value, &complaint));
        }
    }
}

fn annotations(meta: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(annotations) = meta.get("annotations").and_then(Value::as_object) else {
        return;
    };
    let mut size = 0;
    for (key, value) in annotations {
        for complaint in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid_str(format!("{path}.annotations"), key, &complaint));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.push(FieldError::too_long(
            format!("{path}.annotations"),
            i64::try_from(ANNOTATIONS_MAX).unwrap_or(i64::MAX),
        ));
    }
}

fn owner_references(meta: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(owners) = meta.get("ownerReferences").and_then(Value::as_array) else {
        return;
    };
    // The real server names the list, not the entry.
    let here = format!("{path}.ownerReferences");
    let mut controller: Option<String> = None;
    for owner in owners {
        let get = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or_default();
        let api_version = get("apiVersion");
        // As Go splits it: more than one slash is no version at all.
        let parts: Vec<&str> = api_version.split('/').collect();
        if parts.len() > 2 || parts.last().is_none_or(|version| version.is_empty()) {
            errors.push(FieldError::invalid_str(
                format!("{here}.apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for name in ["kind", "name", "uid"] {
            if get(name).is_empty() {
                errors.push(FieldError::invalid_str(format!("{here}.{name}"), "", "must not be empty"));
            }
        }
        if api_version == "v1" && get("kind") == "Event" {
            errors.push(FieldError::invalid(
                here.clone(),
                owner,
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", get("kind"), get("name"));
            match &controller {
                Some(first) => errors.push(FieldError::invalid(
                    here.clone(),
                    &Value::Array(owners.clone()),
                    &format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                )),
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(meta: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let list = texts(meta, "finalizers");
    let here = format!("{path}.finalizers");
    for finalizer in &list {
        for complaint in names::qualified_name(finalizer) {
            errors.push(FieldError::invalid_str(here.clone(), finalizer, &complaint));
        }
    }
    if list.contains(&"orphan") && list.contains(&"foregroundDeletion") {
        errors.push(FieldError::invalid(
            here,
            &json!(list),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
}

fn managed_fields(meta: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let Some(entries) = meta.get("managedFields").and_then(Value::as_array) else {
        return;
    };
    for (i, entry) in entries.iter().enumerate() {
        let here = format!("{path}.managedFields[{i}]");
        let get = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        match get("operation") {
            "" => errors.push(FieldError::required(format!("{here}.operation"), "must not be empty")),
            "Apply" | "Update" => {}
            other => errors.push(FieldError::not_supported(
                format!("{here}.operation"),
                &json!(other),
                &["Apply", "Update"],
            )),
        }
        let fields_type = get("fieldsType");
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.push(FieldError::invalid_str(
                format!("{here}.fieldsType"),
                fields_type,
                "must be `FieldsV1`",
            ));
        }
        field_manager(get("manager"), &format!("{here}.manager"), errors);
        if get("subresource").len() > 256 {
            errors.push(FieldError::too_long(format!("{here}.subresource"), 256));
        }
    }
}

/// Validates the name of a field manager.
pub fn field_manager(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    if name.len() > 128 {
        errors.push(FieldError::too_long(path, 128));
    }
    for (i, c) in name.char_indices() {
        if c.is_control() {
            errors.push(FieldError::invalid_str(
                path,
                name,
                &format!("invalid character U+{:04X} (at position {i})", c as u32),
            ));
        }
    }
}

/// The warnings about finalizers that `new` adds: names without a domain are likely to collide.
pub fn finalizer_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let list = |v: Option<&Value>| -> Vec<String> {
        v.and_then(|v| v.pointer("/metadata/finalizers"))
            .and_then(Value::as_array)
            .map(|l| l.iter().filter_map(Value::as_str).map(str::to_string).collect())
            .unwrap_or_default()
    };
    let before = list(old);
    let mut added: Vec<String> = list(Some(new)).into_iter().filter(|f| !before.contains(f)).collect();
    added.sort();
    added.dedup();
    let mut warnings = Vec::new();
    for finalizer in added {
        for complaint in names::qualified_name(&finalizer) {
            warnings.push(format!("metadata.finalizers: {}: {complaint}", gofmt::quote(&finalizer)));
        }
        if !finalizer.contains('/') && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes") {
            let including = if finalizer.contains('.') { " including a path (/)" } else { "" };
            warnings.push(format!(
                "metadata.finalizers: {}: prefer a domain-qualified finalizer name{including} to avoid accidental conflicts with other finalizer writers",
                gofmt::quote(&finalizer)
            ));
        }
    }
    warnings
}

/// Validates `apiVersion`, `kind` and `metadata` of an embedded resource.
pub(crate) fn validate_embedded(map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    for name in ["apiVersion", "kind"] {
        if !map.contains_key(name) {
            errors.push(FieldError::required(format!("{path}.{name}"), ""));
        }
    }
    if let Some(value) = map.get("apiVersion") {
        let at = format!("{path}.apiVersion");
        match value.as_str() {
            None => errors.push(FieldError::invalid(at, value, "must be a string")),
            Some("") => errors.push(FieldError::invalid(at, value, "must not be empty")),
            Some(v) if v.matches('/').count() > 1 => {
                errors.push(FieldError::invalid(at, value, &format!("unexpected GroupVersion string: {v}")));
            }
            Some(_) => {}
        }
    }
    if let Some(value) = map.get("kind") {
        let at = format!("{path}.kind");
        match value.as_str() {
            None => errors.push(FieldError::invalid(at, value, "must be a string")),
            Some("") => errors.push(FieldError::invalid(at, value, "must not be empty")),
            Some(kind) => {
                let complaints = names::dns1035_label(&kind.to_lowercase());
                if !complaints.is_empty() {
                    errors.push(FieldError::invalid(
                        at,
                        value,
                        &format!("may have mixed case, but should otherwise match: {}", complaints.join(",")),
                    ));
                }
            }
        }
    }
    if let Some(value) = map.get("metadata") {
        let at = format!("{path}.metadata");
        match value.as_object() {
            None => errors.push(FieldError::invalid(at, value, "must be an object")),
            Some(meta) => {
                let namespaced = !text(meta, "namespace").is_empty();
                if text(meta, "name").is_empty() {
                    let mut named = meta.clone();
                    named.insert("name".into(), json!("fakename"));
                    create(&named, namespaced, NameRule::PathSegment, &at, errors);
                } else {
                    create(meta, namespaced, NameRule::PathSegment, &at, errors);
                }
            }
        }
    }
}

const STRING_FIELDS: [&str; 7] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "clusterName",
];
const TIME_FIELDS: [&str; 2] = ["creationTimestamp", "deletionTimestamp"];
const NUMBER_FIELDS: [&str; 2] = ["generation", "deletionGracePeriodSeconds"];

/// Decodes `metadata` as the server does: unknown fields are dropped (and returned as paths), empty values vanish,
/// and a value of the wrong type is an error whose text goes into a 400.
pub fn coerce(obj: &mut Value) -> Result<Vec<String>, String> {
    let Some(meta) = obj.get_mut("metadata") else {
        return Ok(Vec::new());
    };
    if meta.is_null() {
        *meta = Value::Object(Map::new());
    }
    let Some(map) = meta.as_object_mut() else {
        return Err(format!(
            "json: cannot unmarshal {} into Go struct field .metadata of type v1.ObjectMeta",
            go_kind(meta)
        ));
    };
    let mut unknown = Vec::new();
    let mut failure = None;
    // A null in a map of texts is decoded as an empty one.
    for texts in ["labels", "annotations"] {
        for text in map
            .get_mut(texts)
            .and_then(Value::as_object_mut)
            .into_iter()
            .flat_map(Map::values_mut)
        {
            if text.is_null() {
                *text = json!("");
            }
        }
    }
    map.retain(|key, value| {
        if failure.is_some() {
            return true;
        }
        match field(key, value) {
            Field::Keep => true,
            Field::Drop => false,
            Field::Unknown => {
                unknown.push(format!("metadata.{key}"));
                false
            }
            Field::Wrong(text) => {
                failure = Some(text);
                true
            }
        }
    });
    match failure {
        Some(text) => Err(text),
        None => {
            list_of_known(map, "ownerReferences", "OwnerReference", &OWNER_FIELDS, &mut unknown)?;
            list_of_known(map, "managedFields", "ManagedFieldsEntry", &ENTRY_FIELDS, &mut unknown)?;
            unknown.sort();
            Ok(unknown)
        }
    }
}

/// Fields of an owner reference and their Go types.
const OWNER_FIELDS: [(&str, &str); 6] = [
    ("apiVersion", "string"),
    ("kind", "string"),
    ("name", "string"),
    ("uid", "types.UID"),
    ("controller", "bool"),
    ("blockOwnerDeletion", "bool"),
];
/// Fields of an entry of managed fields and their Go types.
const ENTRY_FIELDS: [(&str, &str); 7] = [
    ("manager", "string"),
    ("operation", "v1.ManagedFieldsOperationType"),
    ("apiVersion", "string"),
    ("time", "v1.Time"),
    ("fieldsType", "string"),
    ("fieldsV1", "v1.FieldsV1"),
    ("subresource", "string"),
];

/// Drops unknown fields of the entries of a list; a known one must have its type.
fn list_of_known(
    map: &mut Map<String, Value>,
    name: &str,
    holder: &str,
    known: &[(&str, &str)],
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let Some(list) = map.get_mut(name).and_then(Value::as_array_mut) else {
        return Ok(());
    };
    for (i, entry) in list.iter_mut().enumerate() {
        let Some(entry) = entry.as_object_mut() else { continue };
        entry.retain(|key, _| {
            let keep = known.iter().any(|(field, _)| field == key);
            if !keep {
                unknown.push(format!("metadata.{name}[{i}].{key}"));
            }
            keep
        });
        for (field, value) in entry.iter() {
            let typ = known.iter().find(|(known, _)| known == field).map_or("string", |(_, typ)| typ);
            let fits = match typ {
                "bool" => value.is_boolean(),
                "v1.FieldsV1" => true,
                _ => value.is_string(),
            };
            if !fits && !value.is_null() {
                let typ = if typ == "v1.Time" { "string" } else { typ };
                return Err(format!(
                    "json: cannot unmarshal {} into Go struct field {holder}.metadata.{name}.{field} of type {typ}",
                    go_kind(value)
                ));
            }
            if let ("v1.Time", Value::String(text)) = (typ, value) {
                gotime::canonical(text, Precision::Seconds)?;
            }
        }
    }
    Ok(())
}

enum Field {
    Keep,
    Drop,
    Unknown,
    Wrong(String),
}

fn field(key: &str, value: &Value) -> Field {
    let wrong = |typ: &str| {
        Field::Wrong(format!(
            "json: cannot unmarshal {} into Go struct field ObjectMeta.metadata.{key} of type {typ}",
            go_kind(value)
        ))
    };
    let entries = |list: &[Value], typ: &str| match list.iter().find(|entry| !entry.is_object() && !entry.is_null()) {
        Some(bad) => Field::Wrong(format!(
            "json: cannot unmarshal {} into Go struct field ObjectMeta.metadata.{key} of type {typ}",
            go_kind(bad)
        )),
        None => Field::Keep,
    };
    if STRING_FIELDS.contains(&key) {
        return match value {
            Value::Null => Field::Drop,
            Value::String(s) if s.is_empty() => Field::Drop,
            Value::String(_) => Field::Keep,
            _ => wrong("string"),
        };
    }
    if TIME_FIELDS.contains(&key) {
        return match value {
            Value::Null => Field::Drop,
            Value::String(s) => match gotime::canonical(s, Precision::Seconds) {
                Ok(_) => Field::Keep,
                Err(why) => Field::Wrong(why),
            },
            _ => wrong("string"),
        };
    }
    if NUMBER_FIELDS.contains(&key) {
        return match value {
            Value::Null => Field::Drop,
            Value::Number(n) if n.as_i64().is_some() => {
                if n.as_i64() == Some(0) && key == "generation" {
                    Field::Drop
                } else {
                    Field::Keep
                }
            }
            _ => wrong("int64"),
        };
    }
    match key {
        "labels" | "annotations" => match value {
            Value::Null => Field::Drop,
            Value::Object(map) if map.is_empty() => Field::Drop,
            Value::Object(map) => match map.values().find(|v| !v.is_string()) {
                Some(bad) => Field::Wrong(format!(
                    "json: cannot unmarshal {} into Go struct field ObjectMeta.metadata.{key} of type string",
                    go_kind(bad)
                )),
                None => Field::Keep,
            },
            _ => wrong("map[string]string"),
        },
        "finalizers" => match value {
            Value::Null => Field::Drop,
            Value::Array(list) if list.is_empty() => Field::Drop,
            Value::Array(list) => match list.iter().find(|v| !v.is_string()) {
                Some(bad) => Field::Wrong(format!(
                    "json: cannot unmarshal {} into Go struct field ObjectMeta.metadata.{key} of type string",
                    go_kind(bad)
                )),
                None => Field::Keep,
            },
            _ => wrong("[]string"),
        },
        "ownerReferences" => match value {
            Value::Null => Field::Drop,
            Value::Array(list) if list.is_empty() => Field::Drop,
            Value::Array(list) => entries(list, "v1.OwnerReference"),
            _ => wrong("[]v1.OwnerReference"),
        },
        // An empty list is kept: it resets field management.
        "managedFields" => match value {
            Value::Null => Field::Drop,
            Value::Array(list) => entries(list, "v1.ManagedFieldsEntry"),
            _ => wrong("[]v1.ManagedFieldsEntry"),
        },
        _ => Field::Unknown,
    }
}

/// What Go's decoder calls the kind of a JSON value.
pub(super) fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> &'a str {
    map.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn texts<'a>(map: &'a Map<String, Value>, name: &str) -> Vec<&'a str> {
    map.get(name)
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_create_needs_a_name_and_the_right_namespace() {
        let fields = |v: &Value, namespaced| -> Vec<String> {
            validate(v, None, namespaced, NameRule::Subdomain)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            fields(&json!({}), false),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(
            fields(&json!({"metadata": {"name": "a"}}), true),
            ["metadata.namespace: Required value"]
        );
        assert_eq!(
            fields(&json!({"metadata": {"name": "a", "namespace": "b"}}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        assert!(fields(&json!({"metadata": {"name": "a-x1y2z", "generateName": "a-"}}), false).is_empty());
        let annotations = json!({"metadata": {"name": "a", "annotations": {"k": "v".repeat(ANNOTATIONS_MAX)}}});
        assert_eq!(
            fields(&annotations, false),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
    }

    #[test]
    fn an_update_keeps_identity_and_adds_no_finalizer_to_the_dying() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "5", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let new = json!({"metadata": {"name": "b", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}});
        let errors: Vec<String> = validate(&new, Some(&old), false, NameRule::Subdomain)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/y\"}",
                "metadata.resourceVersion: Invalid value: \"\": must be specified for an update",
                "metadata.name: Invalid value: \"b\": field is immutable",
            ]
        );
    }

    #[test]
    fn decoding_drops_what_it_does_not_know() {
        let mut obj = json!({"metadata": {"name": "a", "creationTimestamp": null, "colour": "red", "labels": {}, "ownerReferences": [{"name": "x", "z": 1}]}});
        assert_eq!(
            coerce(&mut obj),
            Ok(vec!["metadata.colour".to_string(), "metadata.ownerReferences[0].z".to_string()])
        );
        assert_eq!(obj, json!({"metadata": {"name": "a", "ownerReferences": [{"name": "x"}]}}));
        assert!(coerce(&mut json!({"metadata": {"labels": {"a": 1}}})).is_err());
    }
}
