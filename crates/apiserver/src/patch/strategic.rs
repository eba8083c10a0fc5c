//! Strategic merge patch: JSON merge patch that knows which lists have keyed entries.
//!
//! Only built-in kinds have it. The knowledge comes from [`MergeInfo`], a small tree of the lists that merge; any
//! list that is not in it is replaced. Directives: `$patch` (merge, replace, delete), `$retainKeys`,
//! `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`.

use super::PatchError;
use crate::schema::gofmt;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// How the fields of a kind merge.
#[derive(Debug, Clone, Default)]
pub struct MergeInfo {
    /// The key that identifies entries of this list, if this is a list of objects that merges.
    pub merge_key: Option<String>,
    /// Whether this is a list of plain values that merges as a set.
    pub merge_values: bool,
    /// Fields of this object, or of the entries of this list.
    pub fields: BTreeMap<String, MergeInfo>,
}

impl MergeInfo {
    fn field(&self, name: &str) -> Option<&MergeInfo> {
        self.fields.get(name)
    }
}

/// Applies a strategic merge patch to `doc`.
pub fn strategic_merge(info: &MergeInfo, doc: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Some(doc), Some(patch)) = (doc.as_object(), patch.as_object()) else {
        return Err(PatchError::Malformed(
            "error decoding patch: a strategic merge patch must be an object".into(),
        ));
    };
    Ok(Value::Object(merge_map(doc.clone(), patch, Some(info))?))
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

fn merge_map(mut doc: Map<String, Value>, patch: &Map<String, Value>, info: Option<&MergeInfo>) -> Result<Map<String, Value>, PatchError> {
    match patch.get(PATCH).map(|d| d.as_str().unwrap_or_default()) {
        Some("replace") => {
            let mut out = patch.clone();
            out.remove(PATCH);
            return Ok(out);
        }
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => {
            return Err(malformed(format!(
                "unknown patch type found: {other}: {PATCH} must be merge, replace or delete"
            )));
        }
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep: Vec<&str> = keep
            .as_array()
            .ok_or_else(|| malformed("invalid patch format of $retainKeys: it must be a list of field names"))?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        for (key, value) in patch {
            if !key.starts_with('$') && !value.is_null() && !keep.contains(&key.as_str()) {
                return Err(malformed(format!(
                    "the patch sets field {key}, which its $retainKeys list does not retain"
                )));
            }
        }
        doc.retain(|key, _| keep.contains(&key.as_str()));
    }
    for (directive, values) in patch {
        if let Some(field) = directive.strip_prefix(DELETE_FROM) {
            let values = values.as_array().ok_or_else(|| malformed(format!("{directive} must be a list")))?;
            if let Some(Value::Array(list)) = doc.get_mut(field) {
                list.retain(|item| !values.iter().any(|v| gofmt::same(v, item)));
            }
        }
    }
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(SET_ORDER) {
            continue;
        }
        let child = info.and_then(|i| i.field(key));
        match value {
            Value::Null => {
                doc.remove(key);
            }
            // There is nothing that a directive could be about.
            Value::Object(changes) if !doc.contains_key(key) && changes.contains_key(PATCH) => {}
            Value::Object(changes) => {
                let current = match doc.remove(key) {
                    Some(Value::Object(current)) => current,
                    _ => Map::new(),
                };
                // What is deleted as a whole is gone, not empty.
                if changes.get(PATCH).and_then(Value::as_str) == Some("delete") {
                    continue;
                }
                doc.insert(key.clone(), Value::Object(merge_map(current, changes, child)?));
            }
            Value::Array(changes) => {
                let current = match doc.remove(key) {
                    Some(Value::Array(current)) => current,
                    _ => Vec::new(),
                };
                let order = patch.get(&format!("{SET_ORDER}{key}")).and_then(Value::as_array);
                let merged = merge_list(current, changes, child, order, key)?;
                doc.insert(key.clone(), Value::Array(merged));
            }
            scalar => {
                doc.insert(key.clone(), scalar.clone());
            }
        }
    }
    // An order without changes still reorders.
    for (directive, order) in patch {
        if let Some(field) = directive.strip_prefix(SET_ORDER)
            && !patch.contains_key(field)
            && let (Some(order), Some(Value::Array(list))) = (order.as_array(), doc.get_mut(field))
        {
            let info = info.and_then(|i| i.field(field));
            let sorted = reorder(std::mem::take(list), order, info.and_then(|i| i.merge_key.as_deref()));
            *list = sorted;
        }
    }
    Ok(doc)
}

fn merge_list(
    current: Vec<Value>,
    changes: &[Value],
    info: Option<&MergeInfo>,
    order: Option<&Vec<Value>>,
    name: &str,
) -> Result<Vec<Value>, PatchError> {
    let Some(info) = info else { return Ok(replacement(changes)) };
    if info.merge_values {
        let mut out = current;
        for change in changes {
            if !out.iter().any(|o| gofmt::same(o, change)) {
                out.push(change.clone());
            }
        }
        return Ok(match order {
            Some(order) => reorder(out, order, None),
            None => out,
        });
    }
    let Some(merge_key) = info.merge_key.as_deref() else {
        return Ok(replacement(changes));
    };
    if changes.iter().any(|c| c.get(PATCH).and_then(Value::as_str) == Some("replace")) {
        return Ok(replacement(changes));
    }
    let mut out = current;
    for change in changes {
        let Some(change) = change.as_object() else {
            return Err(malformed(format!(
                "invalid patch: entries of {name} must be objects with the key {merge_key}"
            )));
        };
        let Some(key) = change.get(merge_key) else {
            return Err(malformed(format!(
                "map: {} does not contain declared merge key: {merge_key}",
                gofmt::sorted_json(&Value::Object(change.clone()))
            )));
        };
        let at = out.iter().position(|o| o.get(merge_key).is_some_and(|k| gofmt::same(k, key)));
        if change.get(PATCH).and_then(Value::as_str) == Some("delete") {
            out.retain(|o| !o.get(merge_key).is_some_and(|k| gofmt::same(k, key)));
            continue;
        }
        match at {
            Some(at) => {
                let entry = match std::mem::take(&mut out[at]) {
                    Value::Object(entry) => entry,
                    _ => Map::new(),
                };
                out[at] = Value::Object(merge_map(entry, change, Some(info))?);
            }
            None => out.push(Value::Object(merge_map(Map::new(), change, Some(info))?)),
        }
    }
    Ok(match order {
        Some(order) => reorder(out, order, Some(merge_key)),
        None => out,
    })
}

/// A list that replaces another: its directives are not part of it.
fn replacement(changes: &[Value]) -> Vec<Value> {
    changes
        .iter()
        .filter(|c| !c.as_object().is_some_and(|m| m.len() == 1 && m.contains_key(PATCH)))
        .filter(|c| c.get(PATCH).and_then(Value::as_str) != Some("delete"))
        .cloned()
        .collect()
}

/// Sorts the entries that `order` names into its order; the others stay where they were relative to them.
fn reorder(list: Vec<Value>, order: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let rank = |item: &Value| {
        let wanted = match merge_key {
            Some(key) => item.get(key),
            None => Some(item),
        }?;
        order.iter().position(|o| {
            let named = match merge_key {
                Some(key) => o.get(key),
                None => Some(o),
            };
            named.is_some_and(|n| gofmt::same(n, wanted))
        })
    };
    let mut named = Vec::new();
    let mut rest = Vec::new();
    for (at, item) in list.into_iter().enumerate() {
        match rank(&item) {
            Some(r) => named.push((r, at, item)),
            None => rest.push((at, item)),
        }
    }
    named.sort_by_key(|(rank, at, _)| (*rank, *at));
    // Entries that only the server knows keep their place before the entry that followed them.
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let mut rest = rest.into_iter().peekable();
    for (_, at, item) in named {
        while rest.peek().is_some_and(|(r, _)| *r < at) {
            if let Some((_, value)) = rest.next() {
                out.push(value);
            }
        }
        out.push(item);
    }
    out.extend(rest.map(|(_, value)| value));
    out
}
