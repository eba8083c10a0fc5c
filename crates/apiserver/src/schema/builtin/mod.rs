//! The kinds that are part of the API itself: their schemas, defaults and validation.
//!
//! Custom resources get all of this from their definition; for these few kinds it is written down here, with the
//! real server's defaults and texts.

mod crd;
mod decode;
mod rbac;
mod rules;
mod schemas;

pub use decode::decode;
pub use rules::{canonicalize, default, name_rule, prepare_create, prepare_update, reset_fields, validate, warnings};

use super::structural::{Node, Structural};
use crate::patch::MergeInfo;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A built-in kind.
#[derive(Debug)]
pub struct Builtin {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Resource name in URLs.
    pub plural: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// Parsed schema.
    pub structural: Structural,
    /// OpenAPI v3 schema, with descriptions.
    pub openapi: Value,
    /// Strategic merge patch knowledge.
    pub merge: MergeInfo,
}

static KINDS: LazyLock<Vec<Builtin>> = LazyLock::new(|| {
    schemas::all()
        .into_iter()
        .map(|k| {
            let structural = Structural::trusted(&k.schema);
            let merge = merge_info(&k.schema);
            Builtin {
                group: k.group,
                version: k.version,
                kind: k.kind,
                plural: k.plural,
                namespaced: k.namespaced,
                status: k.status,
                structural,
                openapi: k.schema,
                merge,
            }
        })
        .collect()
});

static OBJECT_META: LazyLock<Structural> = LazyLock::new(|| Structural::trusted(&schemas::object_meta()));

/// Every built-in kind.
pub fn all() -> &'static [Builtin] {
    &KINDS
}

/// A built-in kind by group, version and kind.
pub fn find(group: &str, version: &str, kind: &str) -> Option<&'static Builtin> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The schema of a built-in kind.
pub fn structural(group: &str, version: &str, kind: &str) -> Option<&'static Structural> {
    find(group, version, kind).map(|k| &k.structural)
}

/// How lists of a built-in kind merge in a strategic merge patch.
pub fn merge_keys(group: &str, version: &str, kind: &str) -> Option<&'static MergeInfo> {
    find(group, version, kind).map(|k| &k.merge)
}

/// The schema of `metadata`.
pub(crate) fn object_meta() -> &'static Node {
    &OBJECT_META.root
}

/// Reads `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key` from a schema.
fn merge_info(schema: &Value) -> MergeInfo {
    let mut info = MergeInfo::default();
    let strategy = schema
        .get("x-kubernetes-patch-strategy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if strategy.split(',').any(|s| s == "merge") {
        match schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str) {
            Some(key) => info.merge_key = Some(key.to_string()),
            None => info.merge_values = true,
        }
    }
    let holder = schema.get("items").unwrap_or(schema);
    let mut fields = BTreeMap::new();
    if let Some(properties) = holder.get("properties").and_then(Value::as_object) {
        for (name, child) in properties {
            let child = merge_info(child);
            if child.merge_key.is_some() || child.merge_values || !child.fields.is_empty() {
                fields.insert(name.clone(), child);
            }
        }
    }
    info.fields = fields;
    info
}

#[cfg(test)]
mod tests;
