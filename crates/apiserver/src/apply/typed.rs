//! Objects seen through their schema: which parts are values of their own, which lists have keyed entries.
//!
//! This is the structured-merge-diff view of an object. Three operations need it: comparing two objects, merging
//! an applied configuration into a live object, and removing owned fields. All follow the schema where it speaks and
//! deduce from the value where it does not (maps are granular, lists are atomic).

use super::fieldset::{FieldSet, field_element, key_element, value_element};
use crate::schema::builtin;
use crate::schema::gofmt;
use crate::schema::structural::{Additional, JsonType, ListType, Node};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// What is known about the type of a value.
#[derive(Clone, Copy)]
pub(crate) enum Type<'a> {
    /// The whole object.
    Root(&'a Node),
    /// A part of the schema; `preserve` is inherited from nodes above.
    Node(&'a Node, bool),
    /// Nothing: maps are granular, lists atomic.
    Deduced,
    /// One value, whatever it is.
    Atomic,
}

enum Shape<'a> {
    Leaf,
    Map,
    Set,
    Keyed(&'a Node, &'a Node),
}

impl<'a> Type<'a> {
    fn shape(self, value: &Value) -> Shape<'a> {
        match (self, value) {
            (Type::Atomic, _) => Shape::Leaf,
            (_, Value::Object(_)) => match self {
                Type::Node(node, _) if node.atomic_map => Shape::Leaf,
                Type::Node(node, _)
                    if matches!(
                        node.typ,
                        JsonType::String | JsonType::Integer | JsonType::Number | JsonType::Boolean
                    ) =>
                {
                    Shape::Leaf
                }
                _ => Shape::Map,
            },
            (Type::Node(node, _), Value::Array(_)) => match (node.list_type, &node.items) {
                (ListType::Set, Some(_)) => Shape::Set,
                (ListType::Map, Some(items)) => Shape::Keyed(node, items),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    /// The type of a field; `None` when the schema does not declare it. The second value says whether the field is
    /// named by the schema (and not one of many keys).
    fn field(self, key: &str) -> Option<(Type<'a>, bool)> {
        match self {
            Type::Atomic => Some((Type::Atomic, false)),
            Type::Deduced => Some((Type::Deduced, false)),
            Type::Root(node) => match key {
                "metadata" => Some((Type::Node(builtin::object_meta(), false), true)),
                "apiVersion" | "kind" => Some((Type::Atomic, true)),
                _ => node_field(node, node.preserve_unknown, key),
            },
            Type::Node(node, preserve) => {
                let preserve = preserve || node.preserve_unknown;
                if node.embedded_resource {
                    match key {
                        "metadata" => return Some((Type::Node(builtin::object_meta(), false), true)),
                        "apiVersion" | "kind" => return Some((Type::Atomic, true)),
                        _ => {}
                    }
                }
                node_field(node, preserve, key)
            }
        }
    }

    /// Whether a value of this type can hold lists or maps at all.
    fn may_hold_atoms(self) -> bool {
        match self {
            Type::Node(node, preserve) => {
                preserve
                    || node.preserve_unknown
                    || node.additional.is_some()
                    || node.items.is_some()
                    || node.properties.is_empty()
                    || node
                        .properties
                        .values()
                        .any(|p| matches!(p.typ, JsonType::Object | JsonType::Array | JsonType::Any))
            }
            _ => true,
        }
    }

    fn item(self) -> Type<'a> {
        match self {
            Type::Node(node, preserve) => match &node.items {
                Some(items) => Type::Node(items, preserve || node.preserve_unknown),
                None => Type::Atomic,
            },
            _ => Type::Atomic,
        }
    }
}

fn node_field<'a>(node: &'a Node, preserve: bool, key: &str) -> Option<(Type<'a>, bool)> {
    if let Some(child) = node.properties.get(key) {
        return Some((Type::Node(child, preserve), true));
    }
    match &node.additional {
        Some(Additional::Schema(child)) => Some((Type::Node(child, preserve), false)),
        Some(Additional::Any) => Some((Type::Deduced, false)),
        Some(Additional::None) => None,
        None if preserve || node.properties.is_empty() => Some((Type::Deduced, false)),
        None => None,
    }
}

/// The path element of an entry of a keyed list or set.
fn element(list: Type<'_>, shape: &Shape<'_>, item: &Value) -> Result<String, String> {
    match shape {
        Shape::Set => match item {
            Value::Object(_) => match list.item().shape(item) {
                Shape::Leaf => Ok(value_element(item)),
                _ => Err("associative list without keys has an element that's a map type".into()),
            },
            Value::Array(_) => Ok(value_element(item)),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(value_element(scalar)),
        },
        Shape::Keyed(node, items) => {
            let Value::Object(map) = item else {
                return Err(if item.is_null() {
                    "associative list with keys may not have a null element".into()
                } else {
                    "associative list with keys may not have non-map elements".into()
                });
            };
            let keys: Vec<(&str, &Value)> = node
                .list_keys
                .iter()
                .filter_map(|k| {
                    map.get(k)
                        .or_else(|| items.properties.get(k).and_then(|p| p.default.as_ref()))
                        .map(|v| (k.as_str(), v))
                })
                .collect();
            if keys.is_empty() {
                let names: Vec<String> = node.list_keys.iter().map(|k| gofmt::quote(k)).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    names.join(" ")
                ));
            }
            Ok(key_element(&keys))
        }
        Shape::Leaf | Shape::Map => Err("invalid indexing of non-associative list".into()),
    }
}

/// Checks an applied configuration: declared fields only, scalars where scalars belong, no duplicate entries unless they are allowed.
pub(crate) fn check(value: &Value, typ: Type<'_>, duplicates: bool) -> Result<(), String> {
    let mut path = String::new();
    check_at(value, typ, duplicates, &mut path)
}

fn check_at(value: &Value, typ: Type<'_>, duplicates: bool, path: &mut String) -> Result<(), String> {
    if let Type::Node(node, _) = typ {
        kind_matches(value, node).map_err(|e| if path.is_empty() { e } else { format!("{path}: {e}") })?;
    }
    let shape = typ.shape(value);
    let length = path.len();
    match (value, &shape) {
        (Value::Object(map), Shape::Map) => {
            for (key, child) in map {
                path.push('.');
                path.push_str(key);
                match typ.field(key) {
                    Some((t, _)) => check_at(child, t, duplicates, path)?,
                    None => return Err(format!("{path}: field not declared in schema")),
                }
                path.truncate(length);
            }
        }
        (Value::Array(items), Shape::Set | Shape::Keyed(..)) => {
            let mut seen = HashSet::new();
            for (i, item) in items.iter().enumerate() {
                let element = match element(typ, &shape, item) {
                    Ok(element) => element,
                    Err(e) => return Err(format!("{path}: element {i}: {e}")),
                };
                let shown = super::fieldset::display(&[&element]);
                if !seen.insert(element) && !duplicates {
                    return Err(format!("{path}: duplicate entries for key {shown}"));
                }
                path.push_str(&shown);
                check_at(item, typ.item(), duplicates, path)?;
                path.truncate(length);
            }
        }
        _ => {}
    }
    Ok(())
}

fn kind_matches(value: &Value, node: &Node) -> Result<(), String> {
    let shown = || gofmt::sorted_json(value);
    match (node.typ, value) {
        (_, Value::Null) => Ok(()),
        (JsonType::Object, v) if !v.is_object() => Err(format!("expected map, got {}", shown_kind(v))),
        (JsonType::Array, v) if !v.is_array() => Err(format!("expected list, got {}", shown_kind(v))),
        (JsonType::Integer | JsonType::Number, v) if !v.is_number() => {
            Err(format!("expected numeric (int or float), got {}", shown_kind(v)))
        }
        (JsonType::Boolean, v) if !v.is_boolean() => Err(format!("expected boolean, got {}", shown_kind(v))),
        (JsonType::String, v) if !v.is_string() && node.validation.format.is_none() => Err(format!("expected string, got {}", shown())),
        _ => Ok(()),
    }
}

fn shown_kind(value: &Value) -> String {
    format!("&{{{}}}", gofmt::sorted_json(value))
}

/// The fields an applied configuration speaks about.
pub(crate) fn field_set(value: &Value, typ: Type<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    collect(value, typ, &mut set);
    set
}

/// Collects into `set` what is below a value; returns whether the value is one field of its own.
fn collect(value: &Value, typ: Type<'_>, set: &mut FieldSet) -> bool {
    let shape = typ.shape(value);
    match (value, &shape) {
        (Value::Object(map), Shape::Map) => {
            for (key, child) in map {
                let (child_type, named) = typ.field(key).unwrap_or((Type::Deduced, false));
                let entry = set.entries.entry(field_element(key)).or_default();
                let own = collect(child, child_type, &mut entry.children);
                let empty = child.is_null() || matches!(child, Value::Object(m) if m.is_empty());
                entry.member |= own || empty || !named;
                if !entry.member && entry.children.entries.is_empty() {
                    set.entries.remove(&field_element(key));
                }
            }
            false
        }
        (Value::Array(items), Shape::Set | Shape::Keyed(..)) => {
            for item in items {
                if let Ok(element) = element(typ, &shape, item) {
                    let entry = set.entries.entry(element).or_default();
                    collect(item, typ.item(), &mut entry.children);
                    entry.member = true;
                }
            }
            false
        }
        _ => true,
    }
}

/// What changed between two objects.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub added: FieldSet,
    pub modified: FieldSet,
    pub removed: FieldSet,
}

impl Comparison {
    pub(crate) fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

struct Comparer {
    path: Vec<String>,
    out: Comparison,
}

/// Compares two objects; `metadata.managedFields` is never part of it.
pub(crate) fn compare(old: Option<&Value>, new: &Value, typ: Type<'_>) -> Comparison {
    let mut comparer = Comparer {
        path: Vec::new(),
        out: Comparison::default(),
    };
    comparer.compare(old, Some(new), typ);
    comparer.out
}

impl Comparer {
    fn under(&mut self, element: String, old: Option<&Value>, new: Option<&Value>, typ: Type<'_>) {
        self.path.push(element);
        self.compare(old, new, typ);
        self.path.pop();
    }

    fn compare(&mut self, old: Option<&Value>, new: Option<&Value>, typ: Type<'_>) {
        let Some(probe) = new.or(old) else { return };
        // Most of an object is unchanged, and looking costs less than naming every entry.
        if let (Some(o), Some(n)) = (old, new)
            && !self.path.is_empty()
            && self.path[0] != "f:metadata"
            && gofmt::same(o, n)
        {
            return;
        }
        let leaf = match (old, new) {
            // A change between kinds of values: each side is walked on its own.
            (Some(o), Some(n)) if kind(o) != kind(n) => {
                if o.is_null() || n.is_null() {
                    let empty = |v: &Value| match v {
                        Value::Null => true,
                        Value::Array(a) => a.is_empty(),
                        Value::Object(m) => m.is_empty(),
                        _ => false,
                    };
                    let side = if o.is_null() { n } else { o };
                    if empty(o) && empty(n)
                        || matches!(typ.shape(side), Shape::Leaf)
                        || !matches!(
                            (o, n),
                            (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_))
                        )
                    {
                        true
                    } else {
                        return self.children(Some(o).filter(|v| !v.is_null()), Some(n).filter(|v| !v.is_null()), side, typ);
                    }
                } else {
                    true
                }
            }
            _ => false,
        };
        let leaf = leaf || matches!(typ.shape(probe), Shape::Leaf) || both_empty(old, new);
        if leaf {
            match (old, new) {
                (None, _) => self.out.added.insert(&self.path),
                (_, None) => self.out.removed.insert(&self.path),
                (Some(o), Some(n)) => {
                    if !gofmt::same(o, n) {
                        self.out.modified.insert(&self.path);
                    }
                }
            }
            return;
        }
        self.children(old, new, probe, typ);
        match (old, new) {
            (None, Some(_)) => self.out.added.insert(&self.path),
            (Some(_), None) => self.out.removed.insert(&self.path),
            _ => {}
        }
    }

    fn children(&mut self, old: Option<&Value>, new: Option<&Value>, probe: &Value, typ: Type<'_>) {
        let shape = typ.shape(probe);
        match shape {
            Shape::Map => {
                let empty = Map::new();
                let o = old.and_then(Value::as_object).unwrap_or(&empty);
                let n = new.and_then(Value::as_object).unwrap_or(&empty);
                let managed = self.path.len() == 1 && self.path[0] == "f:metadata";
                for (key, value) in n {
                    if managed && key == "managedFields" {
                        continue;
                    }
                    let before = o.get(key);
                    if before.is_some_and(|b| scalar_same(b, value)) {
                        continue;
                    }
                    let (t, _) = typ.field(key).unwrap_or((Type::Deduced, false));
                    self.under(field_element(key), before, Some(value), t);
                }
                for (key, value) in o {
                    if n.contains_key(key) || (managed && key == "managedFields") {
                        continue;
                    }
                    let (t, _) = typ.field(key).unwrap_or((Type::Deduced, false));
                    self.under(field_element(key), Some(value), None, t);
                }
            }
            Shape::Set | Shape::Keyed(..) => self.entries(old, new, typ, &shape),
            Shape::Leaf => {}
        }
    }

    fn entries(&mut self, old: Option<&Value>, new: Option<&Value>, typ: Type<'_>, shape: &Shape<'_>) {
        if let (Some(Value::Array(o)), Some(Value::Array(n)), Shape::Keyed(node, _)) = (old, new, shape)
            && o.len() == n.len()
            && o.iter().zip(n).all(|(a, b)| {
                node.list_keys
                    .iter()
                    .all(|k| a.get(k).is_some_and(|x| b.get(k).is_some_and(|y| scalar_same(x, y))))
            })
        {
            // The same entries in the same order: only those that changed need a name.
            for (a, b) in o.iter().zip(n) {
                if !gofmt::same(a, b)
                    && let Ok(element) = element(typ, shape, b)
                {
                    self.under(element, Some(a), Some(b), typ.item());
                }
            }
            return;
        }
        let index = |list: Option<&Value>| -> Vec<(String, Vec<usize>)> {
            let mut order: Vec<(String, Vec<usize>)> = Vec::new();
            let mut at: HashMap<String, usize> = HashMap::new();
            for (i, item) in list.and_then(Value::as_array).into_iter().flatten().enumerate() {
                if let Ok(element) = element(typ, shape, item) {
                    match at.get(&element) {
                        Some(&pos) => order[pos].1.push(i),
                        None => {
                            at.insert(element.clone(), order.len());
                            order.push((element, vec![i]));
                        }
                    }
                }
            }
            order
        };
        let nothing: &[Value] = &[];
        let o_items = old.and_then(Value::as_array).map_or(nothing, Vec::as_slice);
        let n_items = new.and_then(Value::as_array).map_or(nothing, Vec::as_slice);
        let before = index(old);
        let after = index(new);
        let known: HashMap<&str, &Vec<usize>> = before.iter().map(|(e, i)| (e.as_str(), i)).collect();
        let still: HashSet<&str> = after.iter().map(|(e, _)| e.as_str()).collect();
        for (element, positions) in &after {
            let old_positions = known.get(element.as_str()).copied();
            if positions.len() > 1 || old_positions.is_some_and(|p| p.len() > 1) {
                let same = old_positions.is_some_and(|p| {
                    p.len() == positions.len() && p.iter().zip(positions).all(|(a, b)| gofmt::same(&o_items[*a], &n_items[*b]))
                });
                if !same {
                    let mut path = self.path.clone();
                    path.push(element.clone());
                    if old_positions.is_some() {
                        self.out.modified.insert(&path);
                    } else {
                        self.out.added.insert(&path);
                    }
                }
                continue;
            }
            let old_item = old_positions.and_then(|p| p.first()).map(|i| &o_items[*i]);
            self.under(element.clone(), old_item, positions.first().map(|i| &n_items[*i]), typ.item());
        }
        for (element, positions) in &before {
            if !still.contains(element.as_str()) {
                self.under(element.clone(), positions.first().map(|i| &o_items[*i]), None, typ.item());
            }
        }
    }
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Object(_) => 1,
        Value::Array(_) => 2,
        Value::Null => 3,
        _ => 0,
    }
}

fn scalar_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(x), Value::String(y)) => x == y,
        (Value::Bool(x), Value::Bool(y)) => x == y,
        (Value::Number(_), Value::Number(_)) => gofmt::same(a, b),
        (Value::Null, Value::Null) => true,
        _ => false,
    }
}

/// Two sides that are absent, null or empty collections differ as one value: the difference between them is kept.
fn both_empty(old: Option<&Value>, new: Option<&Value>) -> bool {
    let empty = |v: Option<&Value>| match v {
        None | Some(Value::Null) => true,
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(m)) => m.is_empty(),
        _ => false,
    };
    empty(old) && empty(new)
}

/// Merges an applied configuration into a live value.
pub(crate) fn merge(live: Option<&Value>, applied: &Value, typ: Type<'_>) -> Result<Value, String> {
    let shape = typ.shape(applied);
    match (&shape, live, applied) {
        // An applied null says nothing about the entries that are there.
        (_, Some(there @ (Value::Object(_) | Value::Array(_))), Value::Null)
            if !both_empty(None, Some(there)) && !matches!(typ.shape(there), Shape::Leaf) =>
        {
            Ok(there.clone())
        }
        (Shape::Map, live, Value::Object(applied)) => {
            let empty = Map::new();
            let base = live.and_then(Value::as_object).unwrap_or(&empty);
            let mut out = base.clone();
            for (key, value) in applied {
                let (t, _) = typ.field(key).unwrap_or((Type::Deduced, false));
                let merged = merge(base.get(key), value, t)?;
                out.insert(key.clone(), merged);
            }
            Ok(Value::Object(out))
        }
        (Shape::Set | Shape::Keyed(..), live, Value::Array(applied)) => {
            let nothing = Vec::new();
            let base = live.and_then(Value::as_array).unwrap_or(&nothing);
            merge_lists(base, applied, typ, &shape).map(Value::Array)
        }
        _ => Ok(applied.clone()),
    }
}

/// Interleaves two keyed lists: shared entries in the applied order, the others where they stood.
fn merge_lists(live: &[Value], applied: &[Value], typ: Type<'_>, shape: &Shape<'_>) -> Result<Vec<Value>, String> {
    let live_keys: Vec<String> = live.iter().map(|i| element(typ, shape, i)).collect::<Result<_, _>>()?;
    let applied_keys: Vec<String> = applied.iter().map(|i| element(typ, shape, i)).collect::<Result<_, _>>()?;
    let in_live: HashMap<&str, usize> = live_keys.iter().enumerate().rev().map(|(i, k)| (k.as_str(), i)).collect();
    let in_applied: HashMap<&str, usize> = applied_keys.iter().enumerate().rev().map(|(i, k)| (k.as_str(), i)).collect();
    let mut shared = applied_keys.iter().filter(|k| in_live.contains_key(k.as_str()));
    let mut next_shared = shared.next();
    let mut merged: HashSet<&str> = HashSet::new();
    let mut out = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < live.len() || r < applied.len() {
        if l < live.len() && r < applied.len() {
            let key = &live_keys[l];
            if *key == applied_keys[r] {
                merged.insert(key);
                out.push(merge(Some(&live[l]), &applied[r], typ.item())?);
                l += 1;
                r += 1;
                next_shared = shared.next();
                continue;
            }
            if in_applied.contains_key(key.as_str()) && next_shared.is_some_and(|n| n != key) {
                // Shared, but not the one this round waits for.
                l += 1;
                continue;
            }
        }
        if l < live.len() {
            let key = &live_keys[l];
            if !in_applied.contains_key(key.as_str()) {
                out.push(live[l].clone());
                l += 1;
                continue;
            } else if merged.contains(key.as_str()) {
                l += 1;
            }
        }
        if r < applied.len() {
            let key = &applied_keys[r];
            merged.insert(key);
            let live_item = in_live.get(key.as_str()).map(|i| &live[*i]);
            out.push(merge(live_item, &applied[r], typ.item())?);
            r += 1;
            if next_shared.is_some_and(|n| n == key) {
                next_shared = shared.next();
            }
        }
    }
    Ok(out)
}

/// Removes the fields and entries of `set` from a value; `None` when nothing is left of it.
pub(crate) fn remove(value: &Value, set: &FieldSet, typ: Type<'_>) -> Option<Value> {
    let shape = typ.shape(value);
    match (value, &shape) {
        (Value::Object(map), Shape::Map) => {
            if map.is_empty() {
                return None;
            }
            let mut out = Map::new();
            for (key, child) in map {
                match set.entries.get(&field_element(key)) {
                    Some(entry) if entry.member => {}
                    Some(entry) if !entry.children.entries.is_empty() => {
                        let (t, _) = typ.field(key).unwrap_or((Type::Deduced, false));
                        let left = remove(child, &entry.children, t).unwrap_or(Value::Null);
                        out.insert(key.clone(), left);
                    }
                    _ => {
                        out.insert(key.clone(), child.clone());
                    }
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        (Value::Array(items), Shape::Set | Shape::Keyed(..)) => {
            let mut out = Vec::new();
            for item in items {
                match element(typ, &shape, item).ok().and_then(|e| set.entries.get(&e)) {
                    Some(entry) if entry.member => {}
                    Some(entry) if !entry.children.entries.is_empty() => {
                        out.push(remove(item, &entry.children, typ.item()).unwrap_or(Value::Null));
                    }
                    _ => out.push(item.clone()),
                }
            }
            (!out.is_empty()).then_some(Value::Array(out))
        }
        // An atomic value whose inside is to be removed is gone as a whole.
        (Value::Object(_) | Value::Array(_), Shape::Leaf) => None,
        (other, _) => Some(other.clone()),
    }
}

/// Makes named fields on the way to a path members themselves: removal then takes whole structures.
pub(crate) fn ensure_named(set: &FieldSet, typ: Type<'_>) -> FieldSet {
    let mut out = FieldSet::default();
    for (key, entry) in &set.entries {
        let (child_type, named) = match key.split_once(':') {
            Some(("f", name)) => typ.field(name).unwrap_or((Type::Deduced, false)),
            Some(("k", _)) => (typ.item(), false),
            _ => (Type::Deduced, false),
        };
        let has_children = !entry.children.entries.is_empty();
        let copy = super::fieldset::Entry {
            member: entry.member || (named && has_children),
            children: ensure_named(&entry.children, child_type),
        };
        out.entries.insert(key.clone(), copy);
    }
    out
}

/// Adapts recorded ownership to a schema that changed since: what became atomic is owned as one value. What became
/// granular is left as it is, as in the real server.
pub(crate) fn reconcile(set: &mut FieldSet, value: &Value, typ: Type<'_>) {
    if let Value::Array(items) = value {
        // Entries are looked up once for all, and only when there is anything below them that could be atomic now.
        if !typ.item().may_hold_atoms() {
            return;
        }
        let shape = typ.shape(value);
        let by_key: HashMap<String, &Value> = items.iter().filter_map(|i| element(typ, &shape, i).ok().map(|e| (e, i))).collect();
        for (key, entry) in &mut set.entries {
            if let Some(item) = by_key.get(key) {
                reconcile_entry(entry, item, typ.item());
            }
        }
        return;
    }
    for (key, entry) in &mut set.entries {
        if let Some((child, child_type)) = step(value, typ, key) {
            reconcile_entry(entry, child, child_type);
        }
    }
}

fn reconcile_entry(entry: &mut super::fieldset::Entry, child: &Value, child_type: Type<'_>) {
    if entry.children.entries.is_empty() {
        return;
    }
    match child_type.shape(child) {
        Shape::Leaf => {
            if matches!(child, Value::Object(_) | Value::Array(_)) {
                entry.children = FieldSet::default();
                entry.member = true;
            }
        }
        _ => reconcile(&mut entry.children, child, child_type),
    }
}

fn step<'v, 'a>(value: &'v Value, typ: Type<'a>, key: &str) -> Option<(&'v Value, Type<'a>)> {
    match key.split_once(':')? {
        ("f", name) => {
            let child = value.as_object()?.get(name)?;
            Some((child, typ.field(name)?.0))
        }
        _ => None,
    }
}
