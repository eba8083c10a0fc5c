//! A serialised object that waits for its revision.
//!
//! Serialising is done by the caller, so that the single writer thread only splices the decimal revision into the bytes.
//! The place of `metadata.resourceVersion` is remembered; user text is never searched.

use bytes::Bytes;
use serde_json::Value;

use super::{Key, Meta, Object, OwnerRef};

/// See the module's comment.
#[derive(Debug, Clone)]
pub struct Draft {
    bytes: Vec<u8>,
    rv_at: u32,
    meta: Meta,
}

impl Draft {
    /// Serialises an object. `apiVersion`, `kind` and `metadata.resourceVersion` of the value are not taken over.
    pub fn new(object: &Value) -> Draft {
        let mut bytes = Vec::with_capacity(1024);
        let mut rv_at = 0;
        bytes.push(b'{');
        let empty = serde_json::Map::new();
        let map = object.as_object().unwrap_or(&empty);
        for (key, value) in map {
            if key == "apiVersion" || key == "kind" || key == "metadata" {
                continue;
            }
            push_member(&mut bytes, key, value);
        }
        push_key(&mut bytes, "metadata");
        bytes.push(b'{');
        for (key, value) in map.get("metadata").and_then(Value::as_object).unwrap_or(&empty) {
            if key != "resourceVersion" {
                push_member(&mut bytes, key, value);
            }
        }
        push_key(&mut bytes, "resourceVersion");
        bytes.push(b'"');
        rv_at += bytes.len();
        bytes.extend_from_slice(b"\"}}");
        Draft {
            bytes,
            rv_at: u32::try_from(rv_at).unwrap_or(u32::MAX),
            meta: meta_of(object),
        }
    }

    /// Index data of the object.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The object as it would be at a revision.
    pub fn seal(self, key: Key, revision: u64) -> Object {
        let json = splice(&self.bytes, self.rv_at as usize, 0, revision);
        Object {
            key,
            revision,
            json,
            meta: self.meta,
            rv_at: self.rv_at,
        }
    }
}

/// The same object with another revision (a deletion's last version).
pub(super) fn reseal(object: &Object, revision: u64) -> Object {
    let at = object.rv_at as usize;
    let digits = object.json[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    Object {
        key: object.key.clone(),
        revision,
        json: splice(&object.json, at, digits, revision),
        meta: object.meta.clone(),
        rv_at: object.rv_at,
    }
}

fn splice(bytes: &[u8], at: usize, old_digits: usize, revision: u64) -> Bytes {
    let digits = revision.to_string();
    let mut json = Vec::with_capacity(bytes.len() - old_digits + digits.len());
    json.extend_from_slice(&bytes[..at]);
    json.extend_from_slice(digits.as_bytes());
    json.extend_from_slice(&bytes[at + old_digits..]);
    Bytes::from(json)
}

fn push_key(bytes: &mut Vec<u8>, key: &str) {
    if bytes.last() != Some(&b'{') {
        bytes.push(b',');
    }
    // Writing JSON into memory cannot fail: keys are strings.
    serde_json::to_writer(&mut *bytes, key).unwrap_or(());
    bytes.push(b':');
}

fn push_member(bytes: &mut Vec<u8>, key: &str, value: &Value) {
    push_key(bytes, key);
    // As above: a `Value` always has a JSON form.
    serde_json::to_writer(&mut *bytes, value).unwrap_or(());
}

/// Extracts the index data of an object.
pub(super) fn meta_of(object: &Value) -> Meta {
    let text = |value: &Value, field: &str| -> Box<str> { value.get(field).and_then(Value::as_str).unwrap_or_default().into() };
    let Some(metadata) = object.get("metadata") else {
        return Meta::default();
    };
    let labels = metadata
        .get("labels")
        .and_then(Value::as_object)
        .map(|labels| {
            labels
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
                .collect()
        })
        .unwrap_or_default();
    let owners = metadata
        .get("ownerReferences")
        .and_then(Value::as_array)
        .map(|owners| {
            owners
                .iter()
                .map(|owner| OwnerRef {
                    api_version: text(owner, "apiVersion"),
                    kind: text(owner, "kind"),
                    name: text(owner, "name"),
                    uid: text(owner, "uid"),
                    block_owner_deletion: owner.get("blockOwnerDeletion").and_then(Value::as_bool).unwrap_or(false),
                })
                .collect()
        })
        .unwrap_or_default();
    let has_finalizer = |name: &str| {
        metadata
            .get("finalizers")
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|item| item.as_str() == Some(name)))
    };
    Meta {
        uid: text(metadata, "uid"),
        labels,
        owners,
        deleting: metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null()),
        foreground: has_finalizer("foregroundDeletion"),
        orphan: has_finalizer("orphan"),
    }
}
