//! A structural schema: the tree every write is pruned, defaulted and validated by.
//!
//! Parsing happens once, when a CustomResourceDefinition is stored or loaded: regular expressions and CEL rules are
//! compiled here and kept, so that a write never parses a schema. Conditions that make a schema structural are in
//! [`super::structural_rules`].

use super::cel;
use super::error::FieldError;
use super::gofmt::Num;
use super::regexp::GoRegex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The format of bytes in core objects. Decoding judges them, as Go does; the format `byte` of custom resources allows no empty ones.
pub(crate) const GO_BYTES: &str = "go-bytes";

/// A schema problem has the form of a field error; its path points into the schema.
pub type SchemaError = FieldError;

/// Deeper schemas are refused: every function here recurses along the schema.
const MAX_SCHEMA_DEPTH: usize = 100;

/// The JSON type a schema node demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum JsonType {
    /// No type is demanded.
    #[default]
    Any,
    /// A type that there is not; such a schema is refused.
    Unknown,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl JsonType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Any | Self::Unknown => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    /// Not said: the list is one value.
    #[default]
    Unset,
    Atomic,
    Set,
    Map,
}

/// `additionalProperties`.
#[derive(Debug)]
pub(crate) enum Additional {
    /// `true`: any value.
    Any,
    /// `false`.
    None,
    /// A schema for every value.
    Schema(Box<Node>),
}

/// Restrictions on a value that do not say what it is made of.
#[derive(Debug, Default)]
pub(crate) struct ValueValidation {
    pub format: Option<String>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub multiple_of: Option<f64>,
    pub enumeration: Vec<Value>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<String>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Box<Node>>,
}

/// A pattern and its compiled form; one that does not compile is kept with its error.
#[derive(Debug)]
pub(crate) struct Pattern {
    pub source: String,
    pub regex: Result<GoRegex, String>,
}

/// One node of the schema tree.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub typ: JsonType,
    pub title: Option<String>,
    pub description: Option<String>,
    pub nullable: bool,
    pub default: Option<Value>,
    pub int_or_string: bool,
    pub preserve_unknown: bool,
    pub embedded_resource: bool,
    pub list_type: ListType,
    pub list_keys: Vec<String>,
    pub atomic_map: bool,
    /// Whether `x-kubernetes-map-type` was written at all.
    pub has_map_type: bool,
    pub properties: BTreeMap<String, Node>,
    pub additional: Option<Additional>,
    pub items: Option<Box<Node>>,
    pub validation: ValueValidation,
    pub rules: Vec<cel::Rule>,
    /// This node or one below it has a default: defaulting skips every other part.
    pub has_defaults: bool,
    /// This node or one below it has CEL rules: rule evaluation skips every other part.
    pub has_rules: bool,
    /// This node or one below it is a set or map list, whose entries must be unique.
    pub has_keyed_lists: bool,
    /// This node or one below it is an embedded resource.
    pub has_embedded: bool,
}

impl Node {
    /// The schema of a property, or of additional properties when it has none of its own.
    pub(crate) fn child(&self, key: &str) -> Option<&Node> {
        match self.properties.get(key) {
            Some(node) => Some(node),
            None => match &self.additional {
                Some(Additional::Schema(node)) => Some(node),
                _ => None,
            },
        }
    }

    /// The type names an error text lists.
    pub(crate) fn type_names(&self) -> &'static str {
        if self.int_or_string { "integer,string" } else { self.typ.as_str() }
    }

    fn aggregate_flags(&mut self) {
        let mut defaults = self.default.is_some();
        let mut rules = !self.rules.is_empty();
        let mut lists = matches!(self.list_type, ListType::Set | ListType::Map);
        let mut embedded = self.embedded_resource;
        let mut take = |n: &Node| {
            defaults |= n.has_defaults;
            rules |= n.has_rules;
            lists |= n.has_keyed_lists;
            embedded |= n.has_embedded;
        };
        self.properties.values().for_each(&mut take);
        if let Some(items) = &self.items {
            take(items);
        }
        if let Some(Additional::Schema(node)) = &self.additional {
            take(node);
        }
        self.has_defaults = defaults;
        self.has_rules = rules;
        self.has_keyed_lists = lists;
        self.has_embedded = embedded;
    }
}

/// A parsed structural schema.
#[derive(Debug)]
pub struct Structural {
    pub(crate) root: Node,
}

impl Structural {
    /// Parses the `openAPIV3Schema` of one CustomResourceDefinition version and checks that it is structural.
    ///
    /// Error paths start at `openAPIV3Schema`'s own level (e.g. `properties[spec].type`); the caller puts the
    /// path of the version in front with [`prefix_errors`].
    pub fn parse(openapi_v3_schema: &Value) -> Result<Structural, Vec<SchemaError>> {
        let mut errors = Vec::new();
        let mut root = match parse_node(openapi_v3_schema, &SchemaPath::Root, 0, &mut errors) {
            Some(node) => node,
            None => return Err(errors),
        };
        super::structural_rules::check(&root, &mut errors);
        if errors.is_empty() {
            // Rules are judged only where the defaults are right, as in the real server.
            let mut of_rules = Vec::new();
            cel::compile_rules(&mut root, &mut of_rules);
            prepare(&mut root);
            super::structural_rules::check_defaults(&root, &mut errors);
            if errors.is_empty() {
                errors = of_rules;
            }
        }
        if errors.is_empty() { Ok(Structural { root }) } else { Err(errors) }
    }

    /// Parses a schema that is part of this program (built-in kinds); such a schema is right by construction, so
    /// anything wrong in it is skipped rather than reported.
    pub(crate) fn trusted(schema: &Value) -> Structural {
        let mut errors = Vec::new();
        let mut root = parse_node(schema, &SchemaPath::Root, 0, &mut errors).unwrap_or_default();
        as_go_type(&mut root);
        prepare(&mut root);
        debug_assert!(errors.is_empty(), "built-in schema: {errors:?}");
        Structural { root }
    }

    /// The schema that accepts and keeps everything (`x-kubernetes-preserve-unknown-fields` at the root).
    pub fn preserve_everything() -> Structural {
        Structural {
            root: Node {
                typ: JsonType::Object,
                preserve_unknown: true,
                ..Node::default()
            },
        }
    }

    /// Whether any CEL rule is part of the schema.
    pub fn has_rules(&self) -> bool {
        self.root.has_rules
    }
}

/// Puts `prefix` in front of the field of every error.
pub fn prefix_errors(prefix: &str, errors: Vec<SchemaError>) -> Vec<SchemaError> {
    errors
        .into_iter()
        .map(|mut e| {
            e.field = match e.field.as_str() {
                "" | "<nil>" => prefix.to_string(),
                f if f.starts_with('[') => format!("{prefix}{f}"),
                f => format!("{prefix}.{f}"),
            };
            e
        })
        .collect()
}

/// Core objects are Go structs: what was not sent has its zero value, so no field is missing (rules say which may not be empty), and a time or a
/// list may be null.
fn as_go_type(node: &mut Node) {
    node.validation.required.clear();
    if node.validation.format.as_deref() == Some("byte") {
        node.validation.format = Some(GO_BYTES.to_owned());
    }
    node.nullable |= node.typ == JsonType::Array || node.validation.format.as_deref() == Some("date-time");
    node.properties.values_mut().for_each(as_go_type);
    if let Some(items) = &mut node.items {
        as_go_type(items);
    }
    if let Some(Additional::Schema(child)) = &mut node.additional {
        as_go_type(child);
    }
}

fn prepare(node: &mut Node) {
    node.properties.values_mut().for_each(prepare);
    if let Some(items) = &mut node.items {
        prepare(items);
    }
    if let Some(Additional::Schema(child)) = &mut node.additional {
        prepare(child);
    }
    node.aggregate_flags();
}

/// A path into a schema document, rendered only when there is something to report.
pub(crate) enum SchemaPath<'a> {
    Root,
    Child(&'a SchemaPath<'a>, &'a str),
    Key(&'a SchemaPath<'a>, &'a str),
    Index(&'a SchemaPath<'a>, usize),
}

impl SchemaPath<'_> {
    pub(crate) fn child<'b>(&'b self, name: &'b str) -> SchemaPath<'b> {
        SchemaPath::Child(self, name)
    }

    pub(crate) fn key<'b>(&'b self, name: &'b str) -> SchemaPath<'b> {
        SchemaPath::Key(self, name)
    }

    pub(crate) fn index(&self, i: usize) -> SchemaPath<'_> {
        SchemaPath::Index(self, i)
    }
}

impl std::fmt::Display for SchemaPath<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SchemaPath::Root => Ok(()),
            SchemaPath::Child(parent, name) => {
                parent.fmt(f)?;
                if !matches!(parent, SchemaPath::Root) {
                    f.write_str(".")?;
                }
                f.write_str(name)
            }
            SchemaPath::Key(parent, name) => {
                parent.fmt(f)?;
                write!(f, "[{name}]")
            }
            SchemaPath::Index(parent, i) => {
                parent.fmt(f)?;
                write!(f, "[{i}]")
            }
        }
    }
}

fn parse_node(schema: &Value, path: &SchemaPath<'_>, depth: usize, errors: &mut Vec<SchemaError>) -> Option<Node> {
    if depth > MAX_SCHEMA_DEPTH {
        errors.push(FieldError::forbidden(
            path.to_string(),
            &format!("schemas may not be nested deeper than {MAX_SCHEMA_DEPTH} levels"),
        ));
        return None;
    }
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::type_invalid(path.to_string(), schema, "must be an object"));
        return None;
    };
    let mut node = Node {
        title: text(map, "title"),
        description: text(map, "description"),
        nullable: flag(map, "nullable"),
        default: map.get("default").cloned(),
        int_or_string: flag(map, "x-kubernetes-int-or-string"),
        preserve_unknown: flag(map, "x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag(map, "x-kubernetes-embedded-resource"),
        list_keys: texts(map, "x-kubernetes-list-map-keys"),
        ..Node::default()
    };
    // A default of null means no default, as in the Go type.
    if node.default.as_ref().is_some_and(Value::is_null) {
        node.default = None;
    }
    node.typ = match map.get("type").and_then(Value::as_str) {
        None | Some("") => JsonType::Any,
        Some("object") => JsonType::Object,
        Some("array") => JsonType::Array,
        Some("string") => JsonType::String,
        Some("integer") => JsonType::Integer,
        Some("number") => JsonType::Number,
        Some("boolean") => JsonType::Boolean,
        Some(other) => {
            errors.push(FieldError::not_supported(
                path.child("type").to_string(),
                &Value::String(other.to_string()),
                &["array", "boolean", "integer", "number", "object", "string"],
            ));
            if other == "null" {
                errors.push(FieldError::forbidden(
                    path.child("type").to_string(),
                    "type cannot be set to null, use nullable as an alternative",
                ));
            }
            JsonType::Unknown
        }
    };
    node.list_type = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
        None => ListType::Unset,
        Some("atomic") => ListType::Atomic,
        Some("set") => ListType::Set,
        Some("map") => ListType::Map,
        Some(other) => {
            errors.push(FieldError::not_supported(
                path.child("x-kubernetes-list-type").to_string(),
                &Value::String(other.to_string()),
                &["atomic", "map", "set"],
            ));
            ListType::Unset
        }
    };
    match map.get("x-kubernetes-map-type").and_then(Value::as_str) {
        None => {}
        Some("granular") => node.has_map_type = true,
        Some("atomic") => {
            node.has_map_type = true;
            node.atomic_map = true;
        }
        Some(other) => errors.push(FieldError::not_supported(
            path.child("x-kubernetes-map-type").to_string(),
            &Value::String(other.to_string()),
            &["atomic", "granular"],
        )),
    }
    refuse_unsupported(map, path, errors);
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        let here = path.child("properties");
        for (name, child) in properties {
            if let Some(child) = parse_node(child, &here.key(name), depth + 1, errors) {
                node.properties.insert(name.clone(), child);
            }
        }
    }
    match map.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(true)) => node.additional = Some(Additional::Any),
        Some(Value::Bool(false)) => node.additional = Some(Additional::None),
        Some(schema) => {
            if let Some(child) = parse_node(schema, &path.child("additionalProperties"), depth + 1, errors) {
                node.additional = Some(Additional::Schema(Box::new(child)));
            }
        }
    }
    match map.get("items") {
        None | Some(Value::Null) => {}
        Some(Value::Array(_)) => errors.push(FieldError::forbidden(
            path.child("items").to_string(),
            "items must be a schema object and not an array",
        )),
        Some(schema) => {
            if let Some(child) = parse_node(schema, &path.child("items"), depth + 1, errors) {
                node.items = Some(Box::new(child));
            }
        }
    }
    node.validation = parse_validation(map, path, depth, errors);
    if let Some(rules) = map.get("x-kubernetes-validations").and_then(Value::as_array) {
        node.rules = rules.iter().map(cel::Rule::parse).collect();
    }
    Some(node)
}

fn refuse_unsupported(map: &Map<String, Value>, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    for (name, detail) in [
        ("patternProperties", "patternProperties is not supported"),
        ("additionalItems", "additionalItems is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("$ref", "$ref is not supported"),
        ("id", "id is not supported"),
    ] {
        let set = match map.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Object(inner)) => !inner.is_empty(),
            Some(Value::String(inner)) => !inner.is_empty(),
            Some(_) => true,
        };
        if set {
            errors.push(FieldError::forbidden(path.child(name).to_string(), detail));
        }
    }
    if flag(map, "uniqueItems") {
        errors.push(FieldError::forbidden(
            path.child("uniqueItems").to_string(),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if map.get(preserve) == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(
            path.child(preserve).to_string(),
            &Value::Bool(false),
            "must be true or undefined",
        ));
    }
}

fn parse_validation(map: &Map<String, Value>, path: &SchemaPath<'_>, depth: usize, errors: &mut Vec<SchemaError>) -> ValueValidation {
    let mut nested = |name: &str| -> Vec<Node> {
        let here = path.child(name);
        map.get(name)
            .and_then(Value::as_array)
            .map(|list| {
                list.iter()
                    .enumerate()
                    .filter_map(|(i, s)| parse_node(s, &here.index(i), depth + 1, errors))
                    .collect()
            })
            .unwrap_or_default()
    };
    let all_of = nested("allOf");
    let any_of = nested("anyOf");
    let one_of = nested("oneOf");
    let not = map
        .get("not")
        .filter(|v| !v.is_null())
        .and_then(|s| parse_node(s, &path.child("not"), depth + 1, errors))
        .map(Box::new);
    let pattern = text(map, "pattern").filter(|p| !p.is_empty()).map(|source| Pattern {
        regex: GoRegex::new(&source),
        source,
    });
    ValueValidation {
        format: text(map, "format").filter(|f| !f.is_empty()),
        maximum: number(map, "maximum"),
        exclusive_maximum: flag(map, "exclusiveMaximum"),
        minimum: number(map, "minimum"),
        exclusive_minimum: flag(map, "exclusiveMinimum"),
        max_length: whole(map, "maxLength"),
        min_length: whole(map, "minLength"),
        pattern,
        max_items: whole(map, "maxItems"),
        min_items: whole(map, "minItems"),
        multiple_of: number(map, "multipleOf"),
        enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        max_properties: whole(map, "maxProperties"),
        min_properties: whole(map, "minProperties"),
        required: texts(map, "required"),
        all_of,
        any_of,
        one_of,
        not,
    }
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn text(map: &Map<String, Value>, name: &str) -> Option<String> {
    map.get(name).and_then(Value::as_str).map(str::to_string)
}

fn texts(map: &Map<String, Value>, name: &str) -> Vec<String> {
    map.get(name)
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).map(str::to_string).collect())
        .unwrap_or_default()
}

fn number(map: &Map<String, Value>, name: &str) -> Option<f64> {
    match map.get(name) {
        Some(Value::Number(n)) => Some(Num::of(n).as_f64()),
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation)]
fn whole(map: &Map<String, Value>, name: &str) -> Option<i64> {
    match map.get(name) {
        Some(Value::Number(n)) => Some(match Num::of(n) {
            Num::Int(i) => i,
            Num::Float(f) => f as i64,
        }),
        _ => None,
    }
}
