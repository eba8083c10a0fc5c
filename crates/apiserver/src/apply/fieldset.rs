//! Sets of field paths, as `managedFields` stores them (FieldsV1).
//!
//! A path element is kept as the key FieldsV1 writes: `f:name` for a field, `k:{...}` for a list entry by its keys,
//! `v:value` for an entry of a set, `i:0` for a position. The JSON inside a key is canonical (sorted, compact), so
//! that comparing elements is comparing text.

use crate::schema::gofmt;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Deeper sets are cut off: objects are not nested deeper either.
const MAX_DEPTH: usize = 200;

/// A set of field paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub(crate) entries: BTreeMap<String, Entry>,
}

/// One path element: whether the path up to here is in the set, and which longer paths are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub member: bool,
    pub children: FieldSet,
}

impl FieldSet {
    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.entries.values().all(|e| !e.member && e.children.is_empty())
    }

    /// Reads FieldsV1. Anything that is no field path is an error.
    pub fn from_fields_v1(fields: &Value) -> Result<Self, String> {
        Self::read(fields, 0)
    }

    fn read(fields: &Value, depth: usize) -> Result<Self, String> {
        let Value::Object(map) = fields else {
            return Err("fieldsV1 must be an object".into());
        };
        if depth > MAX_DEPTH {
            return Err(format!("fieldsV1 is nested deeper than {MAX_DEPTH} levels"));
        }
        let mut set = Self::default();
        for (key, child) in map {
            if key == "." {
                continue;
            }
            let element = canonical(key)?;
            let children = Self::read(child, depth + 1)?;
            let empty = matches!(child, Value::Object(m) if m.is_empty());
            let member = empty || child.get(".").is_some();
            let entry = set.entries.entry(element).or_default();
            entry.member |= member;
            entry.children.union_with(&children);
        }
        Ok(set)
    }

    /// Writes FieldsV1.
    pub fn to_fields_v1(&self) -> Value {
        let mut map = Map::new();
        for (key, entry) in &self.entries {
            let mut child = match entry.children.to_fields_v1() {
                Value::Object(child) => child,
                _ => Map::new(),
            };
            if child.is_empty() {
                if entry.member {
                    map.insert(key.clone(), Value::Object(child));
                }
                continue;
            }
            if entry.member {
                // "." comes first where the map keeps its order.
                let mut first = Map::new();
                first.insert(".".into(), Value::Object(Map::new()));
                first.append(&mut child);
                child = first;
            }
            map.insert(key.clone(), Value::Object(child));
        }
        Value::Object(map)
    }

    /// Puts one path into the set. The empty path is the object itself, which nobody owns.
    pub fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        let entry = self.entries.entry(first.clone()).or_default();
        if rest.is_empty() {
            entry.member = true;
        } else {
            entry.children.insert(rest);
        }
    }

    /// Whether exactly this path is in the set.
    pub fn has(&self, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        match self.entries.get(first) {
            Some(entry) if rest.is_empty() => entry.member,
            Some(entry) => entry.children.has(rest),
            None => false,
        }
    }

    /// Adds every path of `other`.
    pub fn union_with(&mut self, other: &Self) {
        for (key, entry) in &other.entries {
            match self.entries.get_mut(key) {
                Some(mine) => {
                    mine.member |= entry.member;
                    mine.children.union_with(&entry.children);
                }
                None => {
                    self.entries.insert(key.clone(), entry.clone());
                }
            }
        }
    }

    /// The paths that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        for (key, entry) in &self.entries {
            if let Some(theirs) = other.entries.get(key) {
                let merged = Entry {
                    member: entry.member && theirs.member,
                    children: entry.children.intersection(&theirs.children),
                };
                if merged.member || !merged.children.entries.is_empty() {
                    out.entries.insert(key.clone(), merged);
                }
            }
        }
        out
    }

    /// Removes every path of `other`; longer paths stay.
    pub fn subtract(&mut self, other: &Self) {
        for (key, theirs) in &other.entries {
            let gone = match self.entries.get_mut(key) {
                Some(mine) => {
                    if theirs.member {
                        mine.member = false;
                    }
                    mine.children.subtract(&theirs.children);
                    !mine.member && mine.children.entries.is_empty()
                }
                None => false,
            };
            if gone {
                self.entries.remove(key);
            }
        }
    }

    /// Removes a top-level field with everything below it.
    pub fn remove_top(&mut self, field: &str) {
        self.entries.remove(&field_element(field));
    }

    /// Keeps only a top-level field and what is below it.
    pub fn keep_top(&mut self, field: &str) {
        let keep = field_element(field);
        self.entries.retain(|key, _| *key == keep);
    }

    /// Visits every path, in order.
    pub fn for_each(&self, f: &mut impl FnMut(&[&str])) {
        let mut path = Vec::new();
        self.walk(&mut path, f);
    }

    fn walk<'a>(&'a self, path: &mut Vec<&'a str>, f: &mut impl FnMut(&[&str])) {
        // The set itself lists members before children of the same level.
        for (key, entry) in &self.entries {
            if entry.member {
                path.push(key);
                f(path);
                path.pop();
            }
        }
        for (key, entry) in &self.entries {
            if !entry.children.entries.is_empty() {
                path.push(key);
                entry.children.walk(path, f);
                path.pop();
            }
        }
    }
}

/// `f:name`.
pub(crate) fn field_element(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    out.push_str("f:");
    out.push_str(name);
    out
}

/// `v:value`.
pub(crate) fn value_element(value: &Value) -> String {
    format!("v:{}", gofmt::sorted_json(value))
}

/// `k:{keys}`.
pub(crate) fn key_element(keys: &[(&str, &Value)]) -> String {
    let mut sorted: Vec<_> = keys.to_vec();
    sorted.sort_by_key(|(name, _)| *name);
    let mut out = String::from("k:{");
    for (i, (name, value)) in sorted.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&gofmt::json_string(name));
        out.push(':');
        out.push_str(&gofmt::sorted_json(value));
    }
    out.push('}');
    out
}

fn canonical(key: &str) -> Result<String, String> {
    let Some((kind, rest)) = key.split_once(':') else {
        return Err(format!(
            "{} is no field path: it must start with f:, k:, v: or i:",
            gofmt::quote(key)
        ));
    };
    match kind {
        "f" => Ok(key.to_string()),
        "i" => rest
            .parse::<i64>()
            .map(|i| format!("i:{i}"))
            .map_err(|e| format!("{}: {e}", gofmt::quote(key))),
        "v" | "k" if plain(kind, rest) => Ok(key.to_string()),
        "v" | "k" => {
            let value: Value = serde_json::from_str(rest).map_err(|e| format!("{}: {e}", gofmt::quote(key)))?;
            if kind == "k" && !value.is_object() {
                return Err(format!("{}: keys must be an object", gofmt::quote(key)));
            }
            Ok(format!("{kind}:{}", gofmt::sorted_json(&value)))
        }
        _ => Err(format!(
            "{} is no field path: it must start with f:, k:, v: or i:",
            gofmt::quote(key)
        )),
    }
}

/// Whether the JSON of an element is canonical at a glance: one text, or one key with a text, without escapes.
fn plain(kind: &str, rest: &str) -> bool {
    let (quotes, shape) = match kind {
        "v" => (2, rest.len() >= 2 && rest.starts_with('"') && rest.ends_with('"')),
        _ => (4, rest.starts_with("{\"") && rest.ends_with("\"}") && rest.contains("\":\"")),
    };
    shape && rest.bytes().filter(|b| *b == b'"').count() == quotes && rest.bytes().all(|b| b.is_ascii_graphic() && !b"\\<>&".contains(&b))
}

/// A path as error texts print it: `.spec.list[name="x"].field`.
pub(crate) fn display(path: &[&str]) -> String {
    let mut out = String::new();
    for element in path {
        match element.split_once(':') {
            Some(("f", name)) => {
                out.push('.');
                out.push_str(name);
            }
            Some(("i", index)) => out.push_str(&format!("[{index}]")),
            Some(("v", value)) => out.push_str(&format!("[={value}]")),
            Some(("k", keys)) => {
                out.push('[');
                if let Ok(Value::Object(map)) = serde_json::from_str::<Value>(keys) {
                    let mut names: Vec<&String> = map.keys().collect();
                    names.sort();
                    let parts: Vec<String> = names
                        .into_iter()
                        .filter_map(|n| map.get(n).map(|v| format!("{n}={}", gofmt::sorted_json(v))))
                        .collect();
                    out.push_str(&parts.join(","));
                }
                out.push(']');
            }
            _ => out.push_str(element),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn path(parts: &[&str]) -> Vec<String> {
        parts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fields_v1_is_read_and_written() {
        let v1 = json!({"f:spec": {".": {}, "f:list": {"k:{\"name\":\"a\"}": {".": {}, "f:x": {}}}, "f:y": {}}, "f:set": {"v:\"z\"": {}}});
        let set = FieldSet::from_fields_v1(&v1).unwrap();
        assert!(set.has(&path(&["f:spec"])));
        assert!(set.has(&path(&["f:spec", "f:list", "k:{\"name\":\"a\"}", "f:x"])));
        assert!(!set.has(&path(&["f:spec", "f:list"])));
        assert_eq!(set.to_fields_v1(), v1);
        assert!(FieldSet::from_fields_v1(&json!({"spec": {}})).is_err());
        assert!(FieldSet::from_fields_v1(&json!({"k:[": {}})).is_err());
    }

    #[test]
    fn keys_are_canonical() {
        let a = FieldSet::from_fields_v1(&json!({"k:{\"b\": 1, \"a\": \"x\"}": {}})).unwrap();
        let mut b = FieldSet::default();
        b.insert(&[key_element(&[("a", &json!("x")), ("b", &json!(1))])]);
        assert_eq!(a, b);
        assert_eq!(
            display(&["f:spec", "k:{\"a\":\"x\",\"b\":1}", "f:y", "v:2"]),
            ".spec[a=\"x\",b=1].y[=2]"
        );
    }

    fn arb_set() -> impl Strategy<Value = FieldSet> {
        proptest::collection::vec(proptest::collection::vec("[a-d]", 1..4), 0..12).prop_map(|paths| {
            let mut set = FieldSet::default();
            for p in paths {
                set.insert(&p.iter().map(|s| field_element(s)).collect::<Vec<_>>());
            }
            set
        })
    }

    proptest! {
        #[test]
        fn round_trip(set in arb_set()) {
            prop_assert_eq!(FieldSet::from_fields_v1(&set.to_fields_v1()).unwrap(), set);
        }

        #[test]
        fn set_laws(a in arb_set(), b in arb_set()) {
            let mut union = a.clone();
            union.union_with(&b);
            let mut minus = union.clone();
            minus.subtract(&b);
            prop_assert!(minus.intersection(&b).is_empty());
            let mut only_a = a.clone();
            only_a.subtract(&b);
            prop_assert_eq!(minus, only_a);
            let mut nothing = a.clone();
            nothing.subtract(&a);
            prop_assert!(nothing.is_empty());
        }
    }
}
