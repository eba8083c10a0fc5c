//! The patch types of the Kubernetes API except apply: JSON patch, JSON merge patch, strategic merge patch.
//!
//! Pure functions on JSON. Each bounds what a request can cost: the number of operations, and the size of what
//! copying operations build up.

mod strategic;

pub use strategic::{MergeInfo, strategic_merge};

use serde_json::Value;

/// A JSON patch may have this many operations, as in the real server.
pub const MAX_JSON_PATCH_OPERATIONS: usize = 10_000;
/// What `copy` operations of one patch may add up to.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch of its kind: a 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object (a test failed, a path is absent): a 422.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch is larger than allowed: a 413.
    #[error("{0}")]
    TooLarge(String),
}

/// Applies a JSON patch (RFC 6902).
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Some(operations) = patch.as_array() else {
        return Err(PatchError::Malformed(
            "error decoding patch: a JSON patch must be an array of operations".into(),
        ));
    };
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut out = doc.clone();
    let mut copied = 0usize;
    for (i, raw) in operations.iter().enumerate() {
        let operation = operation(i, raw)?;
        if let json_patch::PatchOperation::Copy(copy) = &operation {
            // A copy of a copy of a copy grows without bound; each is counted before it is made.
            let size = copy.from.resolve(&out).map_or(0, approximate_size);
            copied = copied.saturating_add(size);
            if copied > MAX_COPIED_BYTES {
                return Err(PatchError::TooLarge(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                )));
            }
        }
        // Each operation is applied to a whole document or not at all, and `out` is dropped on failure.
        json_patch::patch_unsafe(&mut out, std::slice::from_ref(&operation)).map_err(|e| describe(&e, &operation))?;
    }
    Ok(out)
}

/// Reads one operation. What is no object at all is no patch; an operation that is unknown or lacks its place only fails when its turn comes.
fn operation(index: usize, raw: &Value) -> Result<json_patch::PatchOperation, PatchError> {
    let Value::Object(fields) = raw else {
        return Err(PatchError::Malformed(format!(
            "error decoding patch: operation {index} is no object"
        )));
    };
    let mut fields = fields.clone();
    if matches!(fields.get("op").and_then(Value::as_str), Some("add" | "replace" | "test")) {
        fields.entry("value").or_insert(Value::Null);
    }
    serde_json::from_value(Value::Object(fields)).map_err(|why| PatchError::Unprocessable(format!("operation {index}: {why}")))
}

fn describe(error: &json_patch::PatchError, operation: &json_patch::PatchOperation) -> PatchError {
    let path = operation.path();
    let text = match (operation, &error.kind) {
        (json_patch::PatchOperation::Test(_), _) => format!("testing value {path} failed: test failed"),
        (json_patch::PatchOperation::Remove(_), _) => {
            format!("remove operation does not apply: doc is missing path: {path}: missing value")
        }
        (json_patch::PatchOperation::Replace(_), _) => {
            format!("replace operation does not apply: doc is missing path: {path}: missing value")
        }
        (json_patch::PatchOperation::Add(_), _) => format!("add operation does not apply: doc is missing path: \"{path}\": missing value"),
        (_, kind) => format!("operation on {path} does not apply: {kind}"),
    };
    PatchError::Unprocessable(format!("the server rejected our request due to an error in our request: {text}"))
}

fn approximate_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 8,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => items.iter().map(approximate_size).sum::<usize>() + items.len() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 4 + approximate_size(v)).sum::<usize>() + 2,
    }
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge_patch(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::Malformed(
            "error decoding patch: a JSON merge patch must be an object".into(),
        ));
    }
    let mut out = doc.clone();
    merge_into(&mut out, patch);
    Ok(out)
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(_) => merge_into(target.entry(key.clone()).or_insert(Value::Null), value),
            other => {
                target.insert(key.clone(), other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
