//! JSON patch (RFC 6902), as the real server's library (evanphx/json-patch 4) applies it.
//!
//! That library is more lenient than the RFC, and clients depend on it: `replace` adds a field that is not there, `copy` of an absent field
//! adds null, `test` finds an absent field equal to null, and negative indices count from the end of a list.

use serde::Deserialize;
use serde_json::Value;

use super::{MAX_COPIED_BYTES, MAX_JSON_PATCH_OPERATIONS, PatchError, approximate_size};

/// One operation.
#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    op: String,
    path: Option<String>,
    from: Option<String>,
    #[serde(default)]
    value: Value,
}

/// Applies a JSON patch.
pub fn json_patch(doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: Vec<Operation> =
        serde::Deserialize::deserialize(patch).map_err(|error| PatchError::Malformed(format!("error decoding patch: {error}")))?;
    if operations.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut out = doc.clone();
    let mut copied = 0;
    for operation in operations {
        // The document is dropped on failure, so that operations may leave it half changed.
        operation.apply(&mut out, &mut copied)?;
    }
    Ok(out)
}

impl Operation {
    fn apply(self, doc: &mut Value, copied: &mut usize) -> Result<(), PatchError> {
        let op = self.op.as_str();
        if !matches!(op, "add" | "remove" | "replace" | "move" | "test" | "copy") {
            return Err(failed(format!("Unexpected kind: {}", if op.is_empty() { "unknown" } else { op })));
        }
        let from = || {
            let from = self.from.as_deref();
            from.ok_or_else(|| {
                failed(format!(
                    "{op} operation failed to decode from: operation, missing from field: missing value"
                ))
            })
        };
        let path = self.path.as_deref();
        let path = path.ok_or_else(|| failed(format!("{op} operation failed to decode path: missing value")))?;
        if path.is_empty() && matches!(op, "replace" | "test") {
            return self.whole(doc);
        }
        match op {
            "add" => add(find(doc, path, op)?, path, self.value),
            "remove" => remove(find(doc, path, op)?, path),
            "replace" => {
                let (place, key) = find(doc, path, op)?;
                let missing = || {
                    failed(format!(
                        "replace operation does not apply: doc is missing key: {path}: missing value"
                    ))
                };
                match place {
                    Value::Array(list) => {
                        let at = index(&key, list.len()).ok_or_else(missing)?;
                        list[at] = self.value;
                    }
                    place => place[&key] = self.value,
                }
                Ok(())
            }
            "test" => {
                let (place, key) = find(doc, path, op)?;
                if get(place, &key, op)? == self.value {
                    Ok(())
                } else {
                    Err(failed(format!("testing value {path} failed: test failed")))
                }
            }
            "move" => {
                let from = from()?;
                let (place, key) = find(doc, from, op)?;
                let value = get(place, &key, op)?;
                remove((place, key), from)?;
                add(find(doc, path, op)?, path, value)
            }
            _ => {
                let (place, key) = find(doc, from()?, op)?;
                let value = get(place, &key, op)?;
                // A copy of a copy of a copy grows without bound.
                *copied = copied.saturating_add(approximate_size(&value));
                if *copied > MAX_COPIED_BYTES {
                    return Err(PatchError::TooLarge(format!(
                        "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED_BYTES}"
                    )));
                }
                add(find(doc, path, op)?, path, value)
            }
        }
    }

    /// Replaces or tests the whole document.
    fn whole(self, doc: &mut Value) -> Result<(), PatchError> {
        if self.op == "test" {
            return if *doc == self.value {
                Ok(())
            } else {
                Err(failed("testing value  failed: test failed".into()))
            };
        }
        if !matches!(self.value, Value::Object(_) | Value::Array(_)) {
            return Err(failed("replace operation value must be object or array".into()));
        }
        *doc = self.value;
        Ok(())
    }
}

fn failed(text: String) -> PatchError {
    PatchError::Unprocessable(text)
}

fn unescape(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

/// Index of an existing entry.
fn index(key: &str, length: usize) -> Option<usize> {
    let at: i64 = key.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    let at = if at < 0 { at + length } else { at };
    usize::try_from(at).ok().filter(|_| at < length)
}

/// The object or list that holds the last part of a path, and that part.
fn find<'a>(doc: &'a mut Value, path: &str, op: &str) -> Result<(&'a mut Value, String), PatchError> {
    let missing = || {
        failed(format!(
            "{op} operation does not apply: doc is missing path: \"{path}\": missing value"
        ))
    };
    let mut parts: Vec<&str> = path.split('/').skip(1).collect();
    let key = unescape(parts.pop().ok_or_else(missing)?);
    let mut place = doc;
    for part in parts {
        let part = unescape(part);
        place = match place {
            Value::Object(map) => map.get_mut(&part),
            Value::Array(list) => index(&part, list.len()).and_then(|at| list.get_mut(at)),
            _ => None,
        }
        .ok_or_else(missing)?;
    }
    if !matches!(place, Value::Object(_) | Value::Array(_)) {
        return Err(missing());
    }
    Ok((place, key))
}

/// A field, null when it is absent, or an entry of a list, which must be there.
fn get(place: &Value, key: &str, op: &str) -> Result<Value, PatchError> {
    match place {
        Value::Array(list) => index(key, list.len())
            .map(|at| list[at].clone())
            .ok_or_else(|| failed(format!("error in {op} for path: '{key}': invalid index referenced"))),
        place => Ok(place.get(key).cloned().unwrap_or_default()),
    }
}

fn add((place, key): (&mut Value, String), path: &str, value: Value) -> Result<(), PatchError> {
    let Value::Array(list) = place else {
        place[&key] = value;
        return Ok(());
    };
    if key == "-" {
        list.push(value);
        return Ok(());
    }
    let at = index(&key, list.len() + 1);
    let at = at.ok_or_else(|| failed(format!("error in add for path: '{path}': invalid index referenced")))?;
    list.insert(at, value);
    Ok(())
}

fn remove((place, key): (&mut Value, String), path: &str) -> Result<(), PatchError> {
    let gone = match place {
        Value::Array(list) => index(&key, list.len()).map(|at| list.remove(at)),
        Value::Object(map) => map.remove(&key),
        _ => None,
    };
    gone.map(|_| ()).ok_or_else(|| {
        failed(format!(
            "error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value"
        ))
    })
}
