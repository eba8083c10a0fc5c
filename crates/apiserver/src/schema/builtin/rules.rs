//! Defaults, preparation and validation of the built-in kinds.
//!
//! The server calls, in this order: [`canonicalize`] and [`default`] when it decodes, [`prepare_create`] or
//! [`prepare_update`] before it stores, and [`validate`].

use super::{crd, rbac};
use crate::apply::ResetFields;
use crate::schema::error::FieldError;
use crate::schema::gofmt;
use crate::schema::metadata::{self, NameRule};
use crate::schema::names;
use base64::Engine as _;
use serde_json::{Map, Value, json};

/// Largest data of a Secret or ConfigMap.
const MAX_DATA: usize = 1024 * 1024;

/// How names of a kind must look.
pub fn name_rule(group: &str, kind: &str) -> NameRule {
    match (group, kind) {
        ("", "Namespace") => NameRule::Label,
        ("", "Event") | (rbac::GROUP, _) => NameRule::PathSegment,
        _ => NameRule::Subdomain,
    }
}

/// What a write through this (sub)resource cannot own.
pub fn reset_fields(group: &str, kind: &str, subresource: &str) -> ResetFields {
    match ((group, kind), subresource) {
        (("", "Namespace") | ("apiextensions.k8s.io", "CustomResourceDefinition"), "") => ResetFields::Status,
        (_, "status") => ResetFields::AllButStatus,
        _ => ResetFields::None,
    }
}

/// Folds write-only fields into the stored ones, as decoding does: a Secret's `stringData` into its `data`.
pub fn canonicalize(group: &str, kind: &str, obj: &mut Value) {
    if (group, kind) == ("", "Secret")
        && let Some(map) = obj.as_object_mut()
        && let Some(Value::Object(plain)) = map.remove("stringData")
        && !plain.is_empty()
    {
        let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if !data.is_object() {
            *data = Value::Object(Map::new());
        }
        if let Some(data) = data.as_object_mut() {
            for (key, value) in plain {
                let text = value.as_str().unwrap_or_default();
                data.insert(key, Value::String(base64::engine::general_purpose::STANDARD.encode(text)));
            }
        }
    }
}

/// Fills in defaults.
pub fn default(group: &str, kind: &str, obj: &mut Value) {
    match (group, kind) {
        ("", "Secret") => {
            if let Some(map) = obj.as_object_mut()
                && map.get("type").and_then(Value::as_str).unwrap_or_default().is_empty()
            {
                map.insert("type".into(), json!("Opaque"));
            }
        }
        ("", "Namespace") => default_namespace(obj),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::default(obj),
        (rbac::GROUP, "RoleBinding" | "ClusterRoleBinding") => rbac::default(obj),
        _ => {}
    }
}

fn default_namespace(obj: &mut Value) {
    let Some(root) = obj.as_object_mut() else { return };
    let name = root
        .get("metadata")
        .and_then(|m| m.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    if !name.is_empty()
        && let Some(meta) = root.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let labels = meta.entry("labels").or_insert_with(|| Value::Object(Map::new()));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".into(), Value::String(name));
        }
    }
    for part in ["spec", "status"] {
        if !root.get(part).is_some_and(Value::is_object) {
            root.insert(part.into(), json!({}));
        }
    }
    if let Some(status) = root.get_mut("status").and_then(Value::as_object_mut)
        && status.get("phase").and_then(Value::as_str).unwrap_or_default().is_empty()
    {
        status.insert("phase".into(), json!("Active"));
    }
}

/// Sets what only the server sets on a new object.
pub fn prepare_create(group: &str, kind: &str, obj: &mut Value) {
    match (group, kind) {
        ("", "Namespace") => {
            if let Some(root) = obj.as_object_mut() {
                root.insert("status".into(), json!({"phase": "Active"}));
                let spec = root.entry("spec").or_insert_with(|| json!({}));
                if let Some(spec) = spec.as_object_mut() {
                    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
                    if let Some(list) = finalizers.as_array_mut()
                        && !list.iter().any(|f| f == "kubernetes")
                    {
                        list.push(json!("kubernetes"));
                    }
                }
            }
        }
        ("", "ServiceAccount") => secrets_by_name(obj),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::prepare_create(obj),
        _ => {}
    }
}

/// Of the references to its Secrets an account keeps the names: they are of its own namespace.
fn secrets_by_name(account: &mut Value) {
    let secrets = account.get_mut("secrets").and_then(Value::as_array_mut);
    for reference in secrets.into_iter().flatten().filter_map(Value::as_object_mut) {
        reference.retain(|field, _| field == "name");
    }
}

/// Keeps what a write of the object itself cannot change; `new` is an update of `old`.
pub fn prepare_update(group: &str, kind: &str, new: &mut Value, old: &Value) {
    match (group, kind) {
        ("", "Namespace") => {
            // Only the finalize subresource changes the finalizers, only the status subresource the status.
            for part in ["spec", "status"] {
                copy_field(new, old, part);
            }
        }
        // A type that was left out is kept.
        ("", "Secret") if text(new, "type").is_empty() => copy_field(new, old, "type"),
        ("", "ServiceAccount") => secrets_by_name(new),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::prepare_update(new, old),
        _ => {}
    }
}

pub(super) fn copy_field(new: &mut Value, old: &Value, name: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(name) {
        Some(value) => {
            map.insert(name.into(), value.clone());
        }
        None => {
            map.remove(name);
        }
    }
}

/// Validates an object of a built-in kind: metadata and content, as a create or as an update of `old`.
pub fn validate(group: &str, kind: &str, new: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
    let namespaced = super::all()
        .iter()
        .find(|k| k.group == group && k.kind == kind)
        .is_some_and(|k| k.namespaced);
    let mut errors = metadata::validate(new, old, namespaced, name_rule(group, kind));
    match (group, kind) {
        ("", "Namespace") => namespace(new, old, subresource, &mut errors),
        ("", "Secret") => secret(new, old, &mut errors),
        ("", "ConfigMap") => config_map(new, old, &mut errors),
        ("coordination.k8s.io", "Lease") => lease(new, &mut errors),
        ("", "Event") => event(new, None, true, &mut errors),
        ("events.k8s.io", "Event") => event(new, old, false, &mut errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") if subresource == "status" => crd::validate_status(new, &mut errors),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::validate(new, old, &mut errors),
        (rbac::GROUP, _) => rbac::validate(kind, new, old, &mut errors),
        _ => {}
    }
    errors
}

/// Warnings about an object that is accepted anyway.
pub fn warnings(group: &str, kind: &str, new: &Value, old: Option<&Value>) -> Vec<String> {
    match (group, kind) {
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::warnings(new, old),
        _ => Vec::new(),
    }
}

fn text<'a>(obj: &'a Value, name: &str) -> &'a str {
    obj.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn entries<'a>(obj: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    obj.get(name).and_then(Value::as_object).into_iter().flatten()
}

/// Length of base64 text once decoded.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|b| *b == b'=').count())
}

fn namespace(new: &Value, old: Option<&Value>, subresource: &str, errors: &mut Vec<FieldError>) {
    if old.is_none() || subresource == "finalize" {
        let list = new.pointer("/spec/finalizers").and_then(Value::as_array);
        for (i, finalizer) in list.into_iter().flatten().enumerate() {
            let name = finalizer.as_str().unwrap_or_default();
            let at = if old.is_none() {
                "spec.finalizers".to_string()
            } else {
                format!("spec.finalizers[{i}]")
            };
            for complaint in names::qualified_name(name) {
                errors.push(FieldError::invalid_str(at.clone(), name, &complaint));
            }
            if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
                errors.push(FieldError::invalid_str(
                    at,
                    name,
                    "name is neither a standard finalizer name nor is it fully qualified",
                ));
            }
        }
    }
    if subresource == "status" {
        let phase = new.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
        let dying = new.pointer("/metadata/deletionTimestamp").is_some();
        if !dying && phase != "Active" {
            errors.push(FieldError::invalid_str(
                "status.Phase",
                phase,
                "may only be 'Active' if `deletionTimestamp` is empty",
            ));
        }
        if dying && phase != "Terminating" {
            errors.push(FieldError::invalid_str(
                "status.Phase",
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            ));
        }
    }
}

const IMMUTABLE: &str = "field is immutable when `immutable` is set";

fn immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut Vec<FieldError>) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.push(FieldError::forbidden("immutable", IMMUTABLE));
    }
    for field in fields {
        let part = |v: &Value| v.get(*field).and_then(Value::as_object).filter(|m| !m.is_empty()).cloned();
        if part(new) != part(old) {
            errors.push(FieldError::forbidden(*field, IMMUTABLE));
        }
    }
}

fn secret(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if let Some(old) = old {
        if text(new, "type") != text(old, "type") {
            errors.push(FieldError::invalid_str("type", text(new, "type"), "field is immutable"));
        }
        immutable(new, old, &["data"], errors);
    }
    let mut size = 0;
    for (key, value) in entries(new, "data") {
        for complaint in names::config_map_key(key) {
            errors.push(FieldError::invalid_str(format!("data[{key}]"), key, &complaint));
        }
        size += decoded_len(value);
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("data", i64::try_from(MAX_DATA).unwrap_or(i64::MAX)));
    }
    let data = new.get("data").and_then(Value::as_object);
    let has = |key: &str| data.is_some_and(|d| d.contains_key(key));
    let mut need = |key: &str| {
        if !has(key) {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(new, "type") {
        "kubernetes.io/service-account-token" => {
            let name = "kubernetes.io/service-account.name";
            let account = new
                .pointer("/metadata/annotations")
                .and_then(|a| a.get(name))
                .and_then(Value::as_str)
                .unwrap_or_default();
            if account.is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{name}]"), ""));
            }
        }
        kind @ ("kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") => {
            let key = if kind.ends_with("json") {
                ".dockerconfigjson"
            } else {
                ".dockercfg"
            };
            match data.and_then(|d| d.get(key)).and_then(Value::as_str) {
                None => need(key),
                Some(encoded) => {
                    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
                    if let Err(error) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
                        errors.push(FieldError::invalid_str(
                            format!("data[{key}]"),
                            "<secret contents redacted>",
                            &error.to_string(),
                        ));
                    }
                }
            }
        }
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" if data.is_none_or(|d| d.get("ssh-privatekey").and_then(Value::as_str).unwrap_or_default().is_empty()) => {
            errors.push(FieldError::required("data[ssh-privatekey]", ""));
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn config_map(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    if let Some(old) = old {
        immutable(new, old, &["data", "binaryData"], errors);
    }
    let mut size = 0;
    let binary = new.get("binaryData").and_then(Value::as_object);
    for (key, value) in entries(new, "data") {
        for complaint in names::config_map_key(key) {
            errors.push(FieldError::invalid_str(format!("data[{key}]"), key, &complaint));
        }
        if binary.is_some_and(|b| b.contains_key(key)) {
            errors.push(FieldError::invalid_str(
                format!("data[{key}]"),
                key,
                "duplicate of key present in binaryData",
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(new, "binaryData") {
        for complaint in names::config_map_key(key) {
            errors.push(FieldError::invalid_str(format!("binaryData[{key}]"), key, &complaint));
        }
        size += decoded_len(value);
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("", i64::try_from(MAX_DATA).unwrap_or(i64::MAX)));
    }
}

fn lease(new: &Value, errors: &mut Vec<FieldError>) {
    let Some(spec) = new.get("spec") else { return };
    if let Some(seconds) = spec.get("leaseDurationSeconds").and_then(Value::as_i64)
        && seconds <= 0
    {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            &json!(seconds),
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec.get("leaseTransitions").and_then(Value::as_i64)
        && count < 0
    {
        errors.push(FieldError::invalid(
            "spec.leaseTransitions",
            &json!(count),
            "must be greater than or equal to 0",
        ));
    }
    let strategy = text(spec, "strategy");
    if !strategy.is_empty() && !strategy.contains('/') && strategy != "OldestEmulationVersion" {
        errors.push(FieldError::not_supported(
            "spec.strategy",
            &json!(strategy),
            &["OldestEmulationVersion"],
        ));
    }
    if !text(spec, "preferredHolder").is_empty() && strategy.is_empty() {
        errors.push(FieldError::forbidden(
            "spec.preferredHolder",
            "may only be specified if `strategy` is defined",
        ));
    }
}

/// Events have two versions with other field names; `core` is the old one, which is checked leniently.
fn event(new: &Value, old: Option<&Value>, core: bool, errors: &mut Vec<FieldError>) {
    let (subject, controller, note) = if core {
        ("involvedObject", "reportingComponent", "message")
    } else {
        ("regarding", "reportingController", "note")
    };
    let namespace = new.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default();
    let about = new.get(subject).map(|s| text(s, "namespace")).unwrap_or_default();
    // Texts name the fields of the stored form, whichever version was written.
    let mismatch = || FieldError::invalid_str("involvedObject.namespace", about, "does not match event.namespace");
    let has_time = new.get("eventTime").is_some_and(|t| t.as_str().is_some_and(|t| !t.is_empty()));
    if has_time {
        if about.is_empty() && namespace != "default" && namespace != "kube-system" {
            errors.push(mismatch());
        }
        let component = text(new, controller);
        if component.is_empty() {
            errors.push(FieldError::required(controller, ""));
        }
        for complaint in names::qualified_name(component) {
            errors.push(FieldError::invalid_str(controller, component, &complaint));
        }
        for (field, required, limit) in [
            ("reportingInstance", true, 128),
            ("action", true, 128),
            ("reason", true, 128),
            (note, false, 1024),
        ] {
            let value = text(new, field);
            let shown = if field == "note" { "message" } else { field };
            if required && value.is_empty() {
                errors.push(FieldError::required(shown, ""));
            }
            if value.len() > limit {
                errors.push(FieldError::invalid_str(shown, "", &format!("can have at most {limit} characters")));
            }
        }
    } else if about.is_empty() {
        if !namespace.is_empty() && namespace != "default" {
            errors.push(mismatch());
        }
    } else if namespace != about {
        errors.push(mismatch());
    }
    if !core {
        event_v1(new, old, has_time, errors);
    }
}

fn event_v1(new: &Value, old: Option<&Value>, has_time: bool, errors: &mut Vec<FieldError>) {
    let series = |errors: &mut Vec<FieldError>| {
        if let Some(series) = new.get("series").filter(|s| !s.is_null()) {
            if series.get("count").and_then(Value::as_i64).unwrap_or(0) < 2 {
                errors.push(FieldError::invalid_str("series.count", "", "should be at least 2"));
            }
            if text(series, "lastObservedTime").is_empty() {
                errors.push(FieldError::required("series.lastObservedTime", ""));
            }
        }
    };
    match old {
        None => {
            series(errors);
            if !has_time {
                errors.push(FieldError::required("eventTime", ""));
            }
            let kind = text(new, "type");
            if kind != "Normal" && kind != "Warning" {
                errors.push(FieldError::invalid_str("type", "", &format!("has invalid value: {kind}")));
            }
            for (field, shown) in [
                ("deprecatedFirstTimestamp", "firstTimestamp"),
                ("deprecatedLastTimestamp", "lastTimestamp"),
                ("deprecatedCount", "count"),
                ("deprecatedSource", "source"),
            ] {
                let set = match new.get(field) {
                    None | Some(Value::Null) => false,
                    Some(Value::Number(n)) => n.as_i64() != Some(0),
                    Some(Value::Object(map)) => map.values().any(|v| v.as_str().is_some_and(|s| !s.is_empty())),
                    Some(_) => true,
                };
                if set {
                    errors.push(FieldError::invalid_str(shown, "", "needs to be unset"));
                }
            }
        }
        Some(old) => {
            if new.get("series") != old.get("series") {
                series(errors);
            }
            for (field, shown) in [
                ("regarding", "involvedObject"),
                ("reason", "reason"),
                // The real server tells it twice.
                ("reason", "reason"),
                ("note", "message"),
                ("deprecatedSource", "source"),
                ("deprecatedFirstTimestamp", "firstTimestamp"),
                ("deprecatedLastTimestamp", "lastTimestamp"),
                ("deprecatedCount", "count"),
                ("type", "type"),
                ("eventTime", "eventTime"),
                ("action", "action"),
                ("related", "related"),
                ("reportingController", "reportingController"),
                ("reportingInstance", "reportingInstance"),
            ] {
                let (a, b) = (new.get(field).unwrap_or(&Value::Null), old.get(field).unwrap_or(&Value::Null));
                if !gofmt::same(a, b) {
                    errors.push(FieldError::invalid(shown, a, "field is immutable"));
                }
            }
        }
    }
}
