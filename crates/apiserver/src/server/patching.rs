//! The four patch types: from a request body to a change.

use serde_json::Value;

use super::body;
use super::registry::ResourceInfo;
use super::request::WriteOptions;
use super::status::{ApiError, ApiResult};
use crate::apply::ApplyError;
use crate::patch::{self, PatchError};
use crate::schema::FieldError;

/// A decoded patch.
#[derive(Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own, for core kinds.
    Strategic(Value),
    /// Server-side apply; with the paths of duplicate fields.
    Apply(Value, Vec<String>),
}

const CUSTOM: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
const TYPED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// Whether a resource takes a patch of a media type; 415 when not.
pub fn accepts(info: &ResourceInfo, media_type: &str) -> ApiResult<()> {
    let accepted = if info.custom() { CUSTOM } else { TYPED };
    if accepted.split(", ").any(|known| known == media_type) {
        Ok(())
    } else {
        Err(body::unsupported(accepted))
    }
}

/// Decodes a patch by its media type and checks the options that belong to it.
pub fn parse(info: &ResourceInfo, media_type: &str, bytes: &[u8], options: &WriteOptions) -> ApiResult<Patch> {
    accepts(info, media_type)?;
    let apply = media_type == "application/apply-patch+yaml";
    let mut errors = Vec::new();
    if apply && !options.manager_given {
        errors.push(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if !apply && options.force.is_some() {
        errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &errors));
    }
    match media_type {
        "application/json-patch+json" => body::decode_json(bytes).map(|decoded| Patch::Json(decoded.value)),
        "application/merge-patch+json" => body::decode_json(bytes).map(|decoded| Patch::Merge(decoded.value)),
        "application/strategic-merge-patch+json" => body::decode_json(bytes).map(|decoded| Patch::Strategic(decoded.value)),
        _ => body::decode_yaml(bytes).map(|decoded| Patch::Apply(decoded.value, decoded.duplicates)),
    }
}

/// Applies a patch that is not an apply.
pub fn apply(info: &ResourceInfo, patch: &Patch, old: &Value) -> ApiResult<Value> {
    let result = match patch {
        Patch::Json(operations) => patch::json_patch(old, operations),
        Patch::Merge(change) => patch::merge_patch(old, change),
        Patch::Strategic(change) => match crate::schema::builtin::merge_keys(&info.group, &info.version, &info.kind) {
            Some(keys) => patch::strategic_merge(keys, old, change),
            None => return Err(body::unsupported("application/json-patch+json, application/merge-patch+json")),
        },
        Patch::Apply(..) => return Err(ApiError::internal("an apply configuration was taken for a patch")),
    };
    result.map_err(patch_error)
}

/// A patch that cannot be applied.
pub fn patch_error(error: patch::PatchError) -> ApiError {
    match error {
        PatchError::Malformed(text) => ApiError::bad_request(text),
        PatchError::Unprocessable(text) => {
            // The real server keeps to itself which operation it was; clients print what they get.
            tracing::debug!(text, "a patch does not apply");
            let mut failed = ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
            failed.details = Some(serde_json::json!({}));
            failed
        }
        PatchError::TooLarge(text) => ApiError::new(413, "RequestEntityTooLarge", text),
    }
}

/// A failed apply: conflicts with other managers, or a configuration that does not fit the schema.
pub fn apply_error(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflict { message, causes } => {
            let causes: Vec<Value> = causes.iter().map(crate::schema::FieldError::to_cause).collect();
            let mut failed = ApiError::new(409, "Conflict", message);
            failed.details = Some(serde_json::json!({ "causes": causes }));
            failed
        }
        ApplyError::BadRequest(text) => ApiError::bad_request(text),
        ApplyError::Schema(text) => ApiError::new(500, "", text),
    }
}
