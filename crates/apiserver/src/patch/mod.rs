//! The patch types of the Kubernetes API except apply: JSON patch, JSON merge patch, strategic merge patch.
//!
//! Pure functions on JSON. Each bounds what a request can cost: the number of operations, and the size of what
//! copying operations build up.

mod operations;
mod strategic;

pub use operations::json_patch;
pub use strategic::{MergeInfo, strategic_merge};

use serde_json::{Map, Value};

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
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(
            "error decoding patch: a JSON merge patch must be an object".into(),
        ));
    };
    let mut out = doc.clone();
    merge_into(&mut out, patch);
    Ok(out)
}

fn merge_into(target: &mut Value, patch: &Map<String, Value>) {
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (_, Value::Null) => _ = target.remove(key),
            (Some(current @ Value::Object(_)), Value::Object(inner)) => merge_into(current, inner),
            (Some(current @ Value::Object(_)), other) => *current = other.clone(),
            _ => {
                let mut value = value.clone();
                drop_nulls(&mut value);
                target.insert(key.clone(), value);
            }
        }
    }
}

/// A new value carries no nulls in its objects, also in those within lists.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
