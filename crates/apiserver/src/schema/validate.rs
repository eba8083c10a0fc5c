//! Validation of a value against a structural schema.
//!
//! The order of checks, the texts and the odd corners (a list passes where a formatted string is demanded) follow
//! `kube-openapi`'s validator, which the real server uses. A valid value costs no allocation: paths are rendered
//! and old values compared only once something is wrong.

use super::cel;
use super::error::FieldError;
use super::formats;
use super::gofmt::{self, Num};
use super::metadata;
use super::structural::{Additional, JsonType, ListType, Node, Structural};
use serde_json::{Value, json};
use std::collections::HashSet;

/// A path into the object, as a chain on the stack.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    /// The object itself.
    Root,
    /// A property.
    Child(&'a Path<'a>, &'a str),
    /// A key of a map.
    Key(&'a Path<'a>, &'a str),
    /// An entry of a list.
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn is_root(&self) -> bool {
        matches!(self, Path::Root)
    }

    /// As `field.Path` prints: map keys in brackets, `<nil>` for the object itself.
    pub(crate) fn field(&self) -> String {
        if self.is_root() {
            return "<nil>".to_string();
        }
        let mut out = String::new();
        self.render(&mut out, true);
        out
    }

    /// As the OpenAPI validator prints: map keys like properties.
    fn openapi(&self) -> String {
        let mut out = String::new();
        self.render(&mut out, false);
        out
    }

    fn render(&self, out: &mut String, brackets: bool) {
        match self {
            Path::Root => {}
            Path::Child(parent, name) => {
                parent.render(out, brackets);
                if !parent.is_root() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Path::Key(parent, name) => {
                parent.render(out, brackets);
                if brackets {
                    out.push('[');
                    out.push_str(name);
                    out.push(']');
                } else {
                    out.push('.');
                    out.push_str(name);
                }
            }
            Path::Index(parent, i) => {
                parent.render(out, brackets);
                out.push_str(&format!("[{i}]"));
            }
        }
    }
}

/// What one run of the validator found.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    /// Checks that passed or failed: decides which alternative of an `anyOf` is reported.
    matches: usize,
}

impl Outcome {
    fn add(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Outcome) {
        self.matches += other.matches;
        for error in other.errors {
            self.add(error);
        }
    }
}

/// The old value at the place that is being validated.
#[derive(Clone, Copy)]
enum Old<'a> {
    /// Nothing is forgiven: a create, or a place that cannot be correlated.
    None,
    /// An error below an unchanged value is forgiven.
    Value(&'a Value),
}

impl Structural {
    /// Validates `new`, an update of `old` if given: schema, embedded metadata, unique list entries, CEL rules.
    ///
    /// Errors in values that did not change are forgiven as in the real server. `metadata` itself is validated by
    /// [`super::metadata::validate`].
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.validate_after(&[], new, old)
    }

    /// The same after other errors were found, which may be such that rules are not asked any more.
    pub fn validate_after(&self, found: &[FieldError], new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = check(&self.root, new, Path::Root);
        if !errors.is_empty()
            && let Some(old) = old
        {
            // Only now is the old object looked at: most writes are valid.
            let mut outcome = Outcome::default();
            validate_into(&self.root, new, Path::Root, Old::Value(old), &mut outcome);
            errors = outcome.errors;
        }
        if self.root.has_embedded {
            embedded(&self.root, new, Path::Root, false, &mut errors);
        }
        if self.root.has_keyed_lists {
            let mut found = Vec::new();
            unique_lists(&self.root, new, Path::Root, &mut found);
            if !found.is_empty() {
                let mut before = Vec::new();
                if let Some(old) = old {
                    unique_lists(&self.root, old, Path::Root, &mut before);
                }
                if before.is_empty() {
                    errors.append(&mut found);
                }
            }
        }
        if self.root.has_rules {
            if found.iter().chain(&errors).any(FieldError::blocks_rules) {
                errors.push(FieldError::invalid(
                    "<nil>",
                    &Value::Null,
                    "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
                ));
            } else {
                cel::validate_rules(&self.root, new, old, &mut errors);
            }
        }
        errors
    }
}

/// Validates a value by one node, as if it were an object of its own. Lists may repeat themselves, as the real server lets defaults.
pub(crate) fn validate_node(node: &Node, value: &Value) -> Vec<FieldError> {
    let mut errors = check(node, value, Path::Root);
    if errors.is_empty() && node.has_rules {
        cel::validate_rules_at(node, value, &mut errors);
    }
    errors
}

fn check(node: &Node, value: &Value, path: Path<'_>) -> Vec<FieldError> {
    let mut outcome = Outcome::default();
    validate_into(node, value, path, Old::None, &mut outcome);
    outcome.errors
}

fn validate_into(node: &Node, value: &Value, path: Path<'_>, old: Old<'_>, out: &mut Outcome) {
    let before = out.errors.len();
    validate_value(node, value, path, old, out);
    if out.errors.len() > before
        && let Old::Value(old) = old
        && gofmt::same(old, value)
    {
        out.errors.truncate(before);
    }
}

fn validate_value(node: &Node, value: &Value, path: Path<'_>, old: Old<'_>, out: &mut Outcome) {
    let has_type = node.typ != JsonType::Any || node.int_or_string;
    let format = known_format(node);
    if has_type || format.is_some() {
        check_type(node, format, value, path, out);
    }
    if value.is_null() {
        check_enum(node, value, path, out);
        return;
    }
    let v = &node.validation;
    if !v.any_of.is_empty() || !v.one_of.is_empty() || !v.all_of.is_empty() || v.not.is_some() {
        junctors(node, value, path, old, out);
    }
    match value {
        Value::String(text) => {
            check_string(node, text, path, out);
            if let Some(format) = format
                && formats::check(format, text) == Some(false)
            {
                out.add(type_error(path, format, value, Some(text)));
            }
        }
        Value::Number(n) => check_number(node, Num::of(n), value, path, out),
        Value::Array(items) => check_array(node, items, path, old, out),
        _ => {}
    }
    check_enum(node, value, path, out);
    if let Value::Object(map) = value {
        check_object(node, map, path, old, out);
    }
    out.matches += 1;
}

/// The format, when it is one that is checked for the node's type.
fn known_format(node: &Node) -> Option<&str> {
    let format = node.validation.format.as_deref()?;
    let kept = match node.typ {
        JsonType::Integer => matches!(format, "int32" | "int64"),
        JsonType::Number => matches!(format, "float" | "double"),
        JsonType::String | JsonType::Any => !node.int_or_string && formats::is_known(format),
        _ => false,
    };
    kept.then_some(format)
}

fn type_error(path: Path<'_>, expected: &str, value: &Value, shown: Option<&str>) -> FieldError {
    let actual = shown.map_or_else(|| actual_type(value).0.to_string(), str::to_string);
    let text = format!("{} in body must be of type {expected}: {}", path.openapi(), gofmt::quote(&actual));
    FieldError::type_invalid(openapi_field(path), &Value::String(actual), &text)
}

fn openapi_field(path: Path<'_>) -> String {
    if path.is_root() {
        return "<nil>".to_string();
    }
    let text = path.openapi();
    match text.strip_prefix('.') {
        Some(rest) => rest.to_string(),
        None => text,
    }
}

/// JSON type and Go format of a value.
fn actual_type(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(n) => match Num::of(n) {
            Num::Int(_) => ("integer", "int64"),
            Num::Float(_) => ("number", "float64"),
        },
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn check_type(node: &Node, format: Option<&str>, value: &Value, path: Path<'_>, out: &mut Outcome) {
    out.matches += 1;
    if value.is_null() {
        if (node.typ != JsonType::Any || node.int_or_string) && !node.nullable {
            out.add(type_error(path, node.type_names(), value, None));
        }
        return;
    }
    let (actual, actual_format) = actual_type(value);
    let contains = |name: &str| {
        if node.int_or_string {
            name == "integer" || name == "string"
        } else {
            node.typ.as_str() == name
        }
    };
    let whole_float =
        matches!(value, Value::Number(n) if matches!(Num::of(n), Num::Float(f) if f.fract() == 0.0 && f.abs() < 9.007_199_254_740_992e15));
    let float_as_int = actual == "number" && whole_float && contains("integer");
    let int_as_float = actual == "integer" && contains("number");
    let text_or_list = matches!(value, Value::String(_) | Value::Array(_));
    if let Some(format) = format {
        if !(text_or_list || contains(actual) || actual_format == format || float_as_int || int_as_float) {
            out.add(type_error(path, format, value, Some(actual_format)));
            return;
        }
        if text_or_list && !contains("number") && !contains("integer") {
            return;
        }
    }
    if !(contains(actual) || float_as_int || int_as_float) && (node.typ != JsonType::Any || node.int_or_string || format.is_some()) {
        out.add(type_error(path, node.type_names(), value, None));
    }
}

fn check_enum(node: &Node, value: &Value, path: Path<'_>, out: &mut Outcome) {
    let allowed = &node.validation.enumeration;
    if allowed.is_empty() || (!value.is_null() && allowed.iter().any(|a| equal_enum(a, value))) {
        return;
    }
    let names: Vec<String> = allowed
        .iter()
        .map(|a| match a {
            Value::String(s) => s.clone(),
            other => gofmt::sorted_json(other),
        })
        .collect();
    out.add(FieldError::not_supported(openapi_field(path), value, &names));
}

fn equal_enum(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => Num::of(x).as_f64() == Num::of(y).as_f64(),
        _ => gofmt::same(a, b),
    }
}

fn body_error(path: Path<'_>, value: &Value, text: &str) -> FieldError {
    FieldError::invalid(openapi_field(path), value, &format!("{} in body {text}", path.openapi()))
}

fn check_string(node: &Node, text: &str, path: Path<'_>, out: &mut Outcome) {
    let v = &node.validation;
    if v.max_length.is_some() || v.min_length.is_some() {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = v.max_length
            && length > max
        {
            return out.add(FieldError::too_long(openapi_field(path), max));
        }
        if let Some(min) = v.min_length
            && length < min
        {
            return out.add(body_error(path, &json!(text), &format!("should be at least {min} chars long")));
        }
    }
    if let Some(pattern) = &v.pattern {
        match &pattern.regex {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => out.add(body_error(path, &json!(text), &format!("should match '{}'", pattern.source))),
            Err(error) => {
                out.add(body_error(
                    path,
                    &json!(text),
                    &format!("should match '{}, but pattern is invalid: {error}'", pattern.source),
                ));
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation)]
fn check_number(node: &Node, number: Num, value: &Value, path: Path<'_>, out: &mut Outcome) {
    let v = &node.validation;
    range(node, number, path, out);
    if let Some(factor) = v.multiple_of {
        let (ok, shown) = match number {
            Num::Int(i) => {
                let factor = factor as i64;
                (factor > 0 && i % factor == 0, factor.to_string())
            }
            Num::Float(f) => {
                let quotient = if factor < 1.0 { 1.0 / factor * f } else { f / factor };
                (
                    factor > 0.0 && (quotient - quotient.round()).abs() < 1e-9 * quotient.abs().max(1.0),
                    gofmt::float(factor),
                )
            }
        };
        if !ok {
            out.add(body_error(path, value, &format!("should be a multiple of {shown}")));
        }
    }
    if let Some(min) = v.minimum {
        let (below, equal, shown) = match number {
            Num::Int(i) => (i < min as i64, i == min as i64, (min as i64).to_string()),
            Num::Float(f) => (f < min, f == min, gofmt::float(min)),
        };
        if below || (v.exclusive_minimum && equal) {
            let words = if v.exclusive_minimum {
                "greater than"
            } else {
                "greater than or equal to"
            };
            out.add(body_error(path, value, &format!("should be {words} {shown}")));
        }
    }
    if let Some(max) = v.maximum {
        let (above, equal, shown) = match number {
            Num::Int(i) => (i > max as i64, i == max as i64, (max as i64).to_string()),
            Num::Float(f) => (f > max, f == max, gofmt::float(max)),
        };
        if above || (v.exclusive_maximum && equal) {
            let words = if v.exclusive_maximum {
                "less than"
            } else {
                "less than or equal to"
            };
            out.add(body_error(path, value, &format!("should be {words} {shown}")));
        }
    }
    out.matches += 1;
}

/// The value must fit the type and format.
fn range(node: &Node, number: Num, path: Path<'_>, out: &mut Outcome) {
    let format = known_format(node).unwrap_or("");
    let fits = match (node.typ, format, number) {
        (JsonType::Integer, "int32", Num::Int(i)) => i32::try_from(i).is_ok(),
        (JsonType::Integer, _, Num::Float(f)) => f.fract() == 0.0 && f.abs() < 9.3e18,
        (JsonType::Number, "float", n) => n.as_f64().abs() <= f64::from(f32::MAX),
        _ => true,
    };
    if !fits {
        let typ = node.typ.as_str();
        let text = if format.is_empty() {
            format!("Checked value must be of type {typ} (default format) in {}", path.openapi())
        } else {
            format!("Checked value must be of type {typ} with format {format} in {}", path.openapi())
        };
        out.add(FieldError::invalid("<nil>", &json!(""), &text));
    }
}

fn check_array(node: &Node, items: &[Value], path: Path<'_>, old: Old<'_>, out: &mut Outcome) {
    let v = &node.validation;
    if let Some(schema) = &node.items {
        let correlation = ListCorrelation::of(node, old);
        for (i, item) in items.iter().enumerate() {
            validate_into(schema, item, Path::Index(&path, i), correlation.find(item), out);
        }
    }
    let size = i64::try_from(items.len()).unwrap_or(i64::MAX);
    if let Some(min) = v.min_items
        && size < min
    {
        out.add(body_error(path, &json!(size), &format!("should have at least {min} items")));
    }
    if let Some(max) = v.max_items
        && size > max
    {
        out.add(FieldError::too_many(openapi_field(path), size, max));
    }
    out.matches += 1;
}

fn check_object(node: &Node, map: &serde_json::Map<String, Value>, path: Path<'_>, old: Old<'_>, out: &mut Outcome) {
    let v = &node.validation;
    let size = i64::try_from(map.len()).unwrap_or(i64::MAX);
    if let Some(min) = v.min_properties
        && size < min
    {
        out.add(body_error(path, &json!(size), &format!("should have at least {min} properties")));
    }
    if let Some(max) = v.max_properties
        && size > max
    {
        out.add(FieldError::too_many(openapi_field(path), size, max));
    }
    let old_map = match old {
        Old::Value(Value::Object(old)) => Some(old),
        _ => None,
    };
    let correlated = |key: &str| match old_map.and_then(|o| o.get(key)) {
        // The version of an object is not visible in the old one.
        Some(_) if path.is_root() && matches!(key, "apiVersion" | "kind") => Old::None,
        Some(old) => Old::Value(old),
        None => Old::None,
    };
    if let Some(Additional::Schema(schema)) = &node.additional {
        for (key, value) in map {
            if !node.properties.contains_key(key) {
                validate_into(schema, value, Path::Key(&path, key), correlated(key), out);
            }
        }
    }
    // Walk the smaller side: objects are sparse more often than schemas are.
    for (key, value) in map {
        if let Some(schema) = node.properties.get(key) {
            validate_into(schema, value, Path::Child(&path, key), correlated(key), out);
        }
    }
    for name in &v.required {
        if !map.contains_key(name) {
            out.add(FieldError::required(openapi_field(Path::Child(&path, name)), ""));
        }
    }
    out.matches += 1;
}

fn junctors(node: &Node, value: &Value, path: Path<'_>, old: Old<'_>, out: &mut Outcome) {
    let v = &node.validation;
    let name = || gofmt::quote(&path.openapi());
    let composite = |text: String| FieldError::invalid("<nil>", &json!(""), &text);
    // Fields below a junctor are forgiven one by one, the junctor itself only with its whole value.
    let below = |child: &Node| {
        let mut outcome = Outcome::default();
        validate_value(child, value, path, old, &mut outcome);
        outcome
    };
    if !v.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut passed = false;
        for child in &v.any_of {
            let outcome = below(child);
            if outcome.errors.is_empty() {
                passed = true;
                out.matches += outcome.matches;
                break;
            }
            if best.as_ref().is_none_or(|b| outcome.matches > b.matches) {
                best = Some(outcome);
            }
        }
        if !passed {
            out.add(composite(format!("{} must validate at least one schema (anyOf)", name())));
            if let Some(best) = best {
                out.merge(best);
            }
        }
    }
    if !v.one_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut first_matches = None;
        let mut passed = 0usize;
        for child in &v.one_of {
            let outcome = below(child);
            if outcome.errors.is_empty() {
                passed += 1;
                best = None;
                first_matches.get_or_insert(outcome.matches);
            } else if passed == 0 && best.as_ref().is_none_or(|b| outcome.matches > b.matches) {
                best = Some(outcome);
            }
        }
        if passed == 1 {
            out.matches += first_matches.unwrap_or(0);
        } else {
            let detail = if passed == 0 {
                "Found none valid".to_string()
            } else {
                format!("Found {passed} valid alternatives")
            };
            out.add(composite(format!(
                "{} must validate one and only one schema (oneOf). {detail}",
                name()
            )));
            if let Some(best) = best {
                out.merge(best);
            }
        }
    }
    if !v.all_of.is_empty() {
        let mut passed = 0usize;
        for child in &v.all_of {
            let outcome = below(child);
            if outcome.errors.is_empty() {
                passed += 1;
            }
            out.merge(outcome);
        }
        if passed != v.all_of.len() {
            let detail = if passed == 0 { ". None validated" } else { "" };
            out.add(composite(format!("{} must validate all the schemas (allOf){detail}", name())));
        }
    }
    if let Some(child) = &v.not
        && below(child).errors.is_empty()
    {
        out.add(composite(format!("{} must not validate the schema (not)", name())));
    }
    out.matches += 1;
}

/// Finds the old entry of a list entry: only lists with keys can be correlated.
pub(crate) enum ListCorrelation<'a> {
    /// Entries have no old counterpart.
    None,
    /// Entries are found by their keys.
    Keyed(&'a [String], &'a [Value]),
}

impl<'a> ListCorrelation<'a> {
    fn of(node: &'a Node, old: Old<'a>) -> Self {
        match old {
            Old::Value(Value::Array(items)) if node.list_type == ListType::Map => Self::Keyed(&node.list_keys, items),
            _ => Self::None,
        }
    }

    /// Correlates with a plain old list.
    pub(crate) fn with(node: &'a Node, old: Option<&'a Value>) -> Self {
        match old {
            Some(old) => Self::of(node, Old::Value(old)),
            None => Self::None,
        }
    }

    fn find(&self, item: &Value) -> Old<'a> {
        self.get(item).map_or(Old::None, Old::Value)
    }

    /// The old entry with the same keys.
    pub(crate) fn get(&self, item: &Value) -> Option<&'a Value> {
        match self {
            Self::None => None,
            Self::Keyed(keys, items) => {
                let same_keys = |other: &Value| {
                    keys.iter().all(|k| match (item.get(k), other.get(k)) {
                        (Some(a), Some(b)) => gofmt::same(a, b),
                        (None, None) => true,
                        _ => false,
                    })
                };
                items.iter().find(|other| same_keys(other))
            }
        }
    }
}

/// Entries of set and map lists must be unique.
fn unique_lists(node: &Node, value: &Value, path: Path<'_>, errors: &mut Vec<FieldError>) {
    if !node.has_keyed_lists {
        return;
    }
    match value {
        Value::Array(items) => {
            match node.list_type {
                ListType::Set => {
                    for i in repeated(items.iter().map(gofmt::sorted_json)) {
                        errors.push(FieldError::duplicate(Path::Index(&path, i).field(), &items[i]));
                    }
                }
                ListType::Map => map_keys(node, items, path, errors),
                ListType::Unset | ListType::Atomic => {}
            }
            if let Some(schema) = &node.items {
                for (i, item) in items.iter().enumerate() {
                    unique_lists(schema, item, Path::Index(&path, i), errors);
                }
            }
        }
        Value::Object(map) => {
            for (key, child) in map {
                if let Some(schema) = node.properties.get(key) {
                    unique_lists(schema, child, Path::Child(&path, key), errors);
                } else if let Some(Additional::Schema(schema)) = &node.additional {
                    unique_lists(schema, child, Path::Key(&path, key), errors);
                }
            }
        }
        _ => {}
    }
}

fn map_keys(node: &Node, items: &[Value], path: Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some((i, item)) = items.iter().enumerate().find(|(_, item)| !item.is_object() && !item.is_null()) {
        errors.push(FieldError::invalid(
            Path::Index(&path, i).field(),
            item,
            "must be an object for an array of list-type map",
        ));
        return;
    }
    if items.len() < 2 {
        return;
    }
    if let [key] = node.list_keys.as_slice() {
        // Nearly every such list has one key, a text, and no repetition: nothing is built then.
        let mut seen = HashSet::with_capacity(items.len());
        if items
            .iter()
            .all(|item| item.get(key).and_then(Value::as_str).is_some_and(|k| seen.insert(k)))
        {
            return;
        }
    }
    let keys: Vec<Value> = items
        .iter()
        .map(|item| {
            let present = node.list_keys.iter().filter_map(|k| item.get(k).map(|v| (k.clone(), v.clone())));
            Value::Object(present.collect())
        })
        .collect();
    for i in repeated(keys.iter().map(gofmt::sorted_json)) {
        errors.push(FieldError::duplicate(Path::Index(&path, i).field(), &keys[i]));
    }
}

/// The index of the first repetition of each value.
fn repeated(values: impl Iterator<Item = String>) -> Vec<usize> {
    let mut seen = HashSet::new();
    let mut reported = HashSet::new();
    let mut out = Vec::new();
    for (i, value) in values.enumerate() {
        if seen.contains(&value) {
            if reported.insert(value) {
                out.push(i);
            }
        } else {
            seen.insert(value);
        }
    }
    out
}

/// `apiVersion`, `kind` and `metadata` of embedded resources.
fn embedded(node: &Node, value: &Value, path: Path<'_>, here: bool, errors: &mut Vec<FieldError>) {
    if !node.has_embedded && !here {
        return;
    }
    match value {
        Value::Object(map) => {
            if here {
                metadata::validate_embedded(map, &path.field(), errors);
            }
            for (key, child) in map {
                if let Some(schema) = node.properties.get(key) {
                    embedded(schema, child, Path::Child(&path, key), schema.embedded_resource, errors);
                } else if let Some(Additional::Schema(schema)) = &node.additional {
                    embedded(schema, child, Path::Key(&path, key), schema.embedded_resource, errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &node.items {
                for (i, item) in items.iter().enumerate() {
                    embedded(schema, item, Path::Index(&path, i), schema.embedded_resource, errors);
                }
            }
        }
        _ => {}
    }
}
