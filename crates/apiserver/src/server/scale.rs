//! The `scale` subresource: one replica count of a custom resource, seen as `autoscaling/v1` Scale.

use serde_json::{Value, json};

use super::metadata::text;
use super::registry::{ResourceInfo, Scale};
use super::status::{ApiError, ApiResult};
use crate::schema::FieldError;

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('.').split('.')
}

fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    parts(path).try_fold(object, |at, part| at.get(part))
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
    {
        status["selector"] = json!(selector);
    }
    let replicas = number(&scale.spec_path)?;
    let spec = if get(object, &scale.spec_path).is_some() {
        json!({ "replicas": replicas })
    } else {
        json!({})
    };
    Ok(json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status }))
}

/// Writes the count of a Scale into an object.
pub fn apply(info: &ResourceInfo, scale: &Scale, wanted: &Value, object: &Value) -> ApiResult<Value> {
    let name = text(object, "name");
    let own = text(wanted, "name");
    if !own.is_empty() && own != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    if wanted.get("kind").and_then(Value::as_str).is_some_and(|kind| kind != "Scale") {
        return Err(ApiError::bad_request("the body must be an autoscaling/v1 Scale"));
    }
    let replicas = match wanted.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => value
            .as_i64()
            .ok_or_else(|| ApiError::bad_request("spec.replicas must be a number"))?,
    };
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", &json!(replicas), "must be greater than or equal to 0");
        return Err(ApiError::invalid("autoscaling", "Scale", name, &[error]));
    }
    if i32::try_from(replicas).is_err() {
        return Err(ApiError::bad_request(format!(
            "{} spec.replicas is larger than a 32 bit number",
            info.kind
        )));
    }
    let mut new = object.clone();
    set(&mut new, &scale.spec_path, json!(replicas));
    for field in ["resourceVersion", "uid"] {
        if let Some(value) = wanted["metadata"]
            .get(field)
            .filter(|value| value.as_str().is_some_and(|text| !text.is_empty()))
        {
            new["metadata"][field] = value.clone();
        }
    }
    Ok(new)
}
