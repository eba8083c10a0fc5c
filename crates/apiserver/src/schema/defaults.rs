//! Defaulting: absent fields take the schema's default, and nulls where null is not allowed are dropped or
//! replaced, as the server does when it decodes a request or reads a stored object.

use super::structural::{Additional, Node, Structural};
use serde_json::Value;

impl Structural {
    /// Applies the schema's defaults to `obj`, after dropping nulls that are neither allowed nor have a default.
    pub fn default(&self, obj: &mut Value) {
        drop_nulls(obj, Some(&self.root));
        self.fill(obj);
    }

    /// Applies the schema's defaults and leaves other nulls as they are, as for an applied configuration.
    pub fn fill(&self, obj: &mut Value) {
        if self.root.has_defaults {
            apply(obj, &self.root);
        }
    }
}

/// Drops null values of fields that are not nullable and have no default.
fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(map) => {
            let Some(node) = node else { return };
            map.retain(|key, child| {
                let schema = node.child(key);
                if child.is_null() && schema.is_some_and(|s| !s.nullable && s.default.is_none()) {
                    return false;
                }
                drop_nulls(child, schema);
                true
            });
        }
        Value::Array(items) => {
            let Some(schema) = node.and_then(|n| n.items.as_deref()) else {
                return;
            };
            for item in items {
                drop_nulls(item, Some(schema));
            }
        }
        _ => {}
    }
}

fn apply(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => {
            for (name, property) in &node.properties {
                if !property.has_defaults {
                    continue;
                }
                if let Some(default) = &property.default {
                    let absent = map.get(name).is_none_or(|v| v.is_null() && !property.nullable);
                    if absent {
                        map.insert(name.clone(), default.clone());
                    }
                }
                if let Some(child) = map.get_mut(name) {
                    apply(child, property);
                }
            }
            if let Some(Additional::Schema(schema)) = &node.additional
                && schema.has_defaults
            {
                for (key, child) in map.iter_mut() {
                    if node.properties.contains_key(key) {
                        continue;
                    }
                    replace_null(child, schema);
                    apply(child, schema);
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = node.items.as_deref().filter(|s| s.has_defaults) else {
                return;
            };
            for item in items {
                replace_null(item, schema);
                apply(item, schema);
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, schema: &Node) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
}
