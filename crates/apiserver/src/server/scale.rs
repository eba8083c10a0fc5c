//! The `scale` subresource: one replica count of a custom resource, seen as `autoscaling/v1` Scale.
//!
//! A Scale is made of an object and written back into it. What else a client changes in it is dropped, as in the real server.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::metadata::text;
use super::registry::{ResourceInfo, Scale};
use super::request::{FieldValidation, ResourcePath};
use super::status::{ApiError, ApiResult};
use super::write::Part;
use crate::apply;
use crate::schema::{FieldError, Structural};

/// Stands for a count that is not set, while a Scale is patched.
const UNSET: i64 = i32::MIN as i64;

static SCHEMA: LazyLock<Structural> = LazyLock::new(|| {
    let count = json!({ "type": "integer", "format": "int32" });
    Structural::trusted(&json!({ "type": "object", "properties": {
        "spec": { "type": "object", "properties": { "replicas": count } },
        "status": { "type": "object", "properties": { "replicas": count, "selector": { "type": "string" } } },
    } }))
});

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    parts(path).try_fold(object, |at, part| at.get(part))
}

/// The value at a path, if there is one; an error when something on the way is no object.
fn reach<'a>(object: &'a Value, path: &str) -> Result<Option<&'a Value>, String> {
    let mut at = object;
    for part in parts(path) {
        at = match at {
            Value::Null => return Ok(None),
            Value::Object(map) => match map.get(part) {
                Some(value) => value,
                None => return Ok(None),
            },
            other => return Err(format!("{path} accessor error: {other} is no object")),
        };
    }
    Ok(Some(at))
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for part in parts(path) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = value;
}

/// The count that an object asks for.
pub fn replicas(scale: &Scale, object: &Value) -> Option<i64> {
    get(object, &scale.spec_path).and_then(Value::as_i64)
}

/// Whether the count of an object is a field that somebody owns.
pub fn owned(scale: &Scale, object: &Value) -> bool {
    let pointer: String = parts(&scale.spec_path).map(|part| format!("/f:{part}")).collect();
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    entries.is_some_and(|entries| entries.iter().any(|entry| entry["fieldsV1"].pointer(&pointer).is_some()))
}

/// The Scale of an object.
pub fn of(info: &ResourceInfo, scale: &Scale, object: &Value) -> ApiResult<Value> {
    let number = |path: &str| match get(object, path) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => value
            .as_i64()
            .ok_or_else(|| ApiError::internal(format!("{path} of {} is not a number", info.resource))),
    };
    let mut metadata = json!({ "name": text(object, "name") });
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({ "replicas": number(&scale.status_path)? });
    if let Some(selector) = scale
        .selector_path
        .as_deref()
        .and_then(|path| get(object, path))
        .and_then(Value::as_str)
        .filter(|selector| !selector.is_empty())
    {
        status["selector"] = json!(selector);
    }
    let spec = match number(&scale.spec_path)? {
        0 => json!({}),
        replicas => json!({ "replicas": replicas }),
    };
    Ok(json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status }))
}

/// The Scale that a patch is applied to.
pub fn before(info: &ResourceInfo, scale: &Scale, object: &Value) -> ApiResult<Value> {
    let mut value = of(info, scale, object)?;
    if replicas(scale, object).is_none() {
        value["spec"]["replicas"] = json!(UNSET);
    }
    Ok(value)
}

/// What a client wants.
#[derive(Debug)]
pub struct Wanted {
    replicas: i64,
    version: String,
    /// Set by a PUT only, whose uid is a precondition.
    uid: String,
}

impl Wanted {
    /// Writes it into an object.
    pub fn put(&self, scale: &Scale, object: &Value) -> Value {
        let mut new = object.clone();
        set(&mut new, &scale.spec_path, json!(self.replicas));
        for (field, value) in [("resourceVersion", &self.version), ("uid", &self.uid)] {
            if !value.is_empty() {
                new["metadata"][field] = json!(value);
            }
        }
        new
    }
}

/// Decodes a Scale; with the fields that it does not have.
fn read(value: &Value, path: &ResourcePath) -> Result<(ApiResult<Wanted>, Vec<String>), String> {
    let named = |field: &str, wanted: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .is_none_or(|text| text.is_empty() || text == wanted)
    };
    if !value.is_object() || !named("kind", "Scale") || !named("apiVersion", "autoscaling/v1") {
        return Err("it is no Scale of autoscaling/v1".to_owned());
    }
    let mut metadata = json!({ "metadata": value.get("metadata").cloned().unwrap_or_default() });
    let mut unknown = Vec::new();
    let mut extra = |at: &str, known: &[&str]| -> Result<(), String> {
        let part = if at.is_empty() { Some(value) } else { value.get(at) };
        match part {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Object(map)) => {
                let more = map.keys().filter(|key| !known.contains(&key.as_str()));
                let joint = if at.is_empty() { "" } else { "." };
                unknown.extend(more.map(|key| format!("unknown field \"{at}{joint}{key}\"")));
                Ok(())
            }
            Some(_) => Err(format!("json: cannot unmarshal into Go struct field Scale.{at}")),
        }
    };
    extra("", &["apiVersion", "kind", "metadata", "spec", "status"])?;
    extra("spec", &["replicas"])?;
    extra("status", &["replicas", "selector"])?;
    let of_metadata = crate::schema::metadata::coerce(&mut metadata)?;
    unknown.extend(of_metadata.iter().map(|path| format!("unknown field \"{path}\"")));
    unknown.sort();
    let count = |pointer: &str| match value.pointer(pointer) {
        None | Some(Value::Null) => Ok(0),
        Some(count) => count.as_i64().filter(|count| i32::try_from(*count).is_ok()).ok_or_else(|| {
            format!(
                "json: cannot unmarshal {count} into Go struct field Scale{} of type int32",
                pointer.replace('/', ".")
            )
        }),
    };
    let replicas = count("/spec/replicas")?;
    count("/status/replicas")?;
    if value
        .pointer("/status/selector")
        .is_some_and(|selector| !selector.is_string() && !selector.is_null())
    {
        return Err("json: cannot unmarshal into Go struct field Scale.status.selector of type string".to_owned());
    }
    let (name, namespace) = (text(&metadata, "name"), text(&metadata, "namespace"));
    let wanted = if !namespace.is_empty() && namespace != path.namespace {
        Err(super::write::other_namespace())
    } else if name != path.name {
        Err(super::write::other_name(name, &path.name))
    } else {
        Ok(Wanted {
            replicas,
            version: text(&metadata, "resourceVersion").to_owned(),
            uid: text(&metadata, "uid").to_owned(),
        })
    };
    Ok((wanted, unknown))
}

/// A Scale from the body of a PUT, and warnings.
pub fn sent(value: &Value, path: &ResourcePath, validation: FieldValidation) -> ApiResult<(Wanted, Vec<String>)> {
    let bad = |why: &str| ApiError::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {why}"));
    let (wanted, unknown) = read(value, path).map_err(|why| bad(&why))?;
    match validation {
        FieldValidation::Strict if !unknown.is_empty() => Err(bad(&format!("strict decoding error: {}", unknown.join(", ")))),
        FieldValidation::Warn => Ok((wanted?, unknown)),
        _ => Ok((wanted?, Vec::new())),
    }
}

/// A Scale as a patch left it; warnings are told also where it is refused.
pub fn patched(
    scale: &Scale,
    value: &Value,
    path: &ResourcePath,
    validation: FieldValidation,
    tell: impl Fn(Vec<String>),
) -> ApiResult<Wanted> {
    let bad = |why: &str| ApiError::invalid("", "", "", &[FieldError::invalid("patch", &json!(value.to_string()), why)]);
    let (wanted, unknown) = read(value, path).map_err(|why| bad(&why))?;
    if validation == FieldValidation::Strict && !unknown.is_empty() {
        return Err(bad(&format!("strict decoding error: {}", unknown.join(", "))));
    }
    if validation == FieldValidation::Warn {
        tell(unknown);
    }
    let wanted = Wanted {
        uid: String::new(),
        ..wanted?
    };
    if wanted.replicas == UNSET {
        return Err(ApiError::bad_request(format!(
            "the spec replicas field {:?} cannot be empty",
            scale.spec_path
        )));
    }
    Ok(wanted)
}

/// What is wrong with the counts of an object, beside what its schema says.
pub fn faults(scale: &Scale, object: &Value, part: Part) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let counts = [(&scale.spec_path, part != Part::Status), (&scale.status_path, true)];
    for (path, _) in counts.into_iter().filter(|(_, asked)| *asked) {
        let value = match reach(object, path) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(why) => {
                errors.push(FieldError::invalid(path, &json!(0), &why));
                continue;
            }
        };
        match value.as_i64() {
            None => errors.push(FieldError::invalid(
                path,
                &json!(0),
                &format!("{path} accessor error: {value} is not of the type int64"),
            )),
            Some(count) if count < 0 => errors.push(FieldError::invalid(path, value, "should be a non-negative integer")),
            Some(count) if count > i64::from(i32::MAX) => {
                errors.push(FieldError::invalid(path, value, "should be less than or equal to 2147483647"));
            }
            Some(_) => {}
        }
    }
    if let Some(path) = &scale.selector_path {
        let fault = match reach(object, path) {
            Ok(Some(value)) if !value.is_string() => Some(format!("{path} accessor error: {value} is not of the type string")),
            Ok(_) => None,
            Err(why) => Some(why),
        };
        errors.extend(fault.map(|why| FieldError::invalid(path, &json!(""), &why)));
    }
    errors
}

/// An applied Scale as a configuration of the object itself, so that ownership is that of the object's field.
pub fn configuration(info: &ResourceInfo, scale: &Scale, applied: &Value) -> ApiResult<Value> {
    apply::check(&SCHEMA, applied, "autoscaling/v1").map_err(super::patching::apply_error)?;
    let mut config = json!({ "apiVersion": info.api_version(), "kind": info.kind, "metadata": { "name": text(applied, "name") } });
    if let Some(replicas) = applied.pointer("/spec/replicas") {
        set(&mut config, &scale.spec_path, replicas.clone());
    }
    Ok(config)
}
