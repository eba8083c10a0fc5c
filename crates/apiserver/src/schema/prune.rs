//! Pruning: what the schema does not name is dropped before anything is stored.
//!
//! Pruning never looks at values and never fails; `prune ∘ prune = prune`. Unknown fields inside `metadata` are
//! not this module's: they are dropped when the metadata is decoded ([`super::metadata`]).

use super::structural::{Additional, Node, Structural};
use serde_json::Value;

/// How [`Structural::prune`] works.
#[derive(Debug, Clone, Copy)]
pub struct PruneOptions {
    /// Whether the paths of dropped fields are returned (field validation `Strict` and `Warn`).
    pub report: bool,
    /// Whether the value is a whole object: `apiVersion`, `kind` and `metadata` are then kept.
    pub resource_root: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            report: true,
            resource_root: true,
        }
    }
}

struct Pruner {
    report: bool,
    path: Vec<Step>,
    dropped: Vec<String>,
}

enum Step {
    Key(String),
    Index(usize),
}

const META_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

impl Structural {
    /// Drops every field of `obj` that the schema does not name and returns the dropped paths, sorted.
    pub fn prune(&self, obj: &mut Value, opts: PruneOptions) -> Vec<String> {
        let mut pruner = Pruner {
            report: opts.report,
            path: Vec::new(),
            dropped: Vec::new(),
        };
        pruner.prune(obj, Some(&self.root), opts.resource_root);
        pruner.dropped.sort();
        pruner.dropped
    }
}

impl Pruner {
    fn under<R>(&mut self, step: impl FnOnce() -> Step, f: impl FnOnce(&mut Self) -> R) -> R {
        if self.report {
            self.path.push(step());
        }
        let result = f(self);
        if self.report {
            self.path.pop();
        }
        result
    }

    fn record(&mut self, key: &str) {
        if !self.report {
            return;
        }
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(k) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(k);
                }
                Step::Index(i) => {
                    text.push_str(&format!("[{i}]"));
                }
            }
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(key);
        self.dropped.push(text);
    }

    fn prune(&mut self, value: &mut Value, node: Option<&Node>, root: bool) {
        let embedded = root || node.is_some_and(|n| n.embedded_resource);
        if let Some(node) = node
            && node.preserve_unknown
        {
            return self.keep_unknown(value, node, embedded);
        }
        match value {
            Value::Object(map) => {
                let mut unknown: Vec<String> = Vec::new();
                for (key, child) in map.iter_mut() {
                    let Some(node) = node else {
                        unknown.push(key.clone());
                        continue;
                    };
                    if embedded && META_FIELDS.contains(&key.as_str()) {
                        continue;
                    }
                    if let Some(schema) = node.properties.get(key) {
                        self.under(|| Step::Key(key.clone()), |p| p.prune(child, Some(schema), false));
                        continue;
                    }
                    match &node.additional {
                        Some(Additional::Schema(schema)) => self.under(|| Step::Key(key.clone()), |p| p.prune(child, Some(schema), false)),
                        Some(Additional::Any) => self.under(|| Step::Key(key.clone()), |p| p.prune(child, None, false)),
                        Some(Additional::None) | None => unknown.push(key.clone()),
                    }
                }
                for key in unknown {
                    self.record(&key);
                    map.remove(&key);
                }
            }
            Value::Array(items) => {
                let schema = node.and_then(|n| n.items.as_deref());
                for (i, item) in items.iter_mut().enumerate() {
                    self.under(|| Step::Index(i), |p| p.prune(item, schema, false));
                }
            }
            _ => {}
        }
    }

    /// Below `x-kubernetes-preserve-unknown-fields` only what the schema does name is pruned.
    fn keep_unknown(&mut self, value: &mut Value, node: &Node, embedded: bool) {
        match value {
            Value::Object(map) => {
                if node.properties.is_empty() && node.additional.is_none() {
                    return;
                }
                for (key, child) in map.iter_mut() {
                    if embedded && META_FIELDS.contains(&key.as_str()) {
                        continue;
                    }
                    if let Some(schema) = node.properties.get(key) {
                        self.under(|| Step::Key(key.clone()), |p| p.prune(child, Some(schema), false));
                    } else if let Some(additional) = &node.additional {
                        let schema = match additional {
                            Additional::Schema(schema) => Some(&**schema),
                            _ => None,
                        };
                        self.under(|| Step::Key(key.clone()), |p| p.prune(child, schema, false));
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = node.items.as_deref() {
                    for (i, item) in items.iter_mut().enumerate() {
                        self.under(|| Step::Index(i), |p| p.keep_unknown(item, schema, schema.embedded_resource));
                    }
                }
            }
            _ => {}
        }
    }
}

/// Prunes a value by one node of a schema; returns what was dropped.
pub(crate) fn prune_node(value: &mut Value, node: &Node) -> Vec<String> {
    let mut pruner = Pruner {
        report: true,
        path: Vec::new(),
        dropped: Vec::new(),
    };
    pruner.prune(value, Some(node), false);
    pruner.dropped
}
