//! What makes a schema structural, and the further conditions a CustomResourceDefinition's schema must meet.
//!
//! The rules and texts are those of apiextensions v1. Checking runs once per definition, over the parsed tree.

use super::error::FieldError;
use super::structural::{Additional, JsonType, ListType, Node, SchemaError, SchemaPath, prefix_errors};
use super::validate;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Appends everything that keeps `root` from being an acceptable structural schema.
pub(crate) fn check(root: &Node, errors: &mut Vec<SchemaError>) {
    let mut found = Vec::new();
    invariants(root, Level::Root, &SchemaPath::Root, &mut found);
    completeness(root, Some(root), &SchemaPath::Root, &SchemaPath::Root, &mut found);
    found.sort_by_key(ToString::to_string);
    errors.append(&mut found);
    if root.nullable {
        errors.push(FieldError::forbidden("nullable", "nullable cannot be true at the root"));
    }
    openapi(root, true, &SchemaPath::Root, false, None, errors);
}

fn invariants(node: &Node, level: Level, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    if node.typ == JsonType::Array && node.items.is_none() {
        errors.push(FieldError::required(path.child("items").to_string(), "must be specified"));
    }
    if let Some(items) = &node.items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, child) in &node.properties {
        invariants(child, Level::Field, &properties.key(name), errors);
    }
    if let Some(additional) = &node.additional {
        if level == Level::Root {
            errors.push(FieldError::forbidden(
                path.child("additionalProperties").to_string(),
                "must not be used at the root",
            ));
        }
        if let Additional::Schema(child) = additional {
            invariants(child, Level::Field, &path.child("additionalProperties"), errors);
        }
    }
    if node.int_or_string && node.preserve_unknown {
        errors.push(FieldError::invalid(
            path.child("x-kubernetes-preserve-unknown-fields").to_string(),
            &json!(true),
            "must be false if x-kubernetes-int-or-string is true",
        ));
    }
    if node.int_or_string && node.embedded_resource {
        errors.push(FieldError::invalid(
            path.child("x-kubernetes-embedded-resource").to_string(),
            &json!(true),
            "must be false if x-kubernetes-int-or-string is true",
        ));
    }
    value_validation(
        node,
        int_or_string_pattern(&node.validation.any_of),
        first_all_of_pattern(node),
        path,
        errors,
    );
    let type_path = || path.child("type").to_string();
    if node.embedded_resource && node.typ != JsonType::Object {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match node.typ {
            JsonType::Any => FieldError::required(type_path(), detail),
            typ => FieldError::invalid_str(type_path(), typ.as_str(), detail),
        });
    } else if node.typ == JsonType::Any && !node.int_or_string && !node.preserve_unknown {
        errors.push(FieldError::required(
            type_path(),
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        ));
    }
    if node.embedded_resource && node.additional.is_some() {
        errors.push(FieldError::forbidden(
            path.child("additionalProperties").to_string(),
            "must not be used if x-kubernetes-embedded-resource is set",
        ));
    }
    if level == Level::Root && !matches!(node.typ, JsonType::Any | JsonType::Unknown | JsonType::Object) {
        errors.push(FieldError::invalid_str(
            type_path(),
            node.typ.as_str(),
            "must be object at the root",
        ));
    }
    let check_metadata = level == Level::Root || node.embedded_resource;
    if check_metadata {
        for name in ["kind", "apiVersion"] {
            if let Some(child) = node.properties.get(name)
                && child.typ != JsonType::String
            {
                errors.push(FieldError::invalid_str(
                    properties.key(name).child("type").to_string(),
                    child.typ.as_str(),
                    "must be string",
                ));
            }
        }
    }
    if let Some(metadata) = node.properties.get("metadata") {
        metadata_invariants(metadata, check_metadata, level, &properties.key("metadata"), errors);
    }
    if node.embedded_resource && !node.preserve_unknown && node.properties.is_empty() {
        errors.push(FieldError::required(
            properties.to_string(),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
}

fn metadata_invariants(node: &Node, check: bool, level: Level, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    if check && node.typ != JsonType::Object {
        errors.push(FieldError::invalid_str(
            path.child("type").to_string(),
            node.typ.as_str(),
            "must be object",
        ));
    }
    if level == Level::Root {
        let only_names = node.properties.keys().all(|k| k == "name" || k == "generateName");
        let plain = only_names
            && node.title.is_none()
            && node.description.is_none()
            && !node.nullable
            && !node.int_or_string
            && !node.preserve_unknown
            && !node.embedded_resource
            && node.additional.is_none()
            && node.items.is_none()
            && node.list_type == ListType::Unset
            && !node.has_map_type
            && node.rules.is_empty()
            && no_validation(node);
        if !plain {
            errors.push(FieldError::forbidden(
                path.to_string(),
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ));
        }
    }
}

fn no_validation(node: &Node) -> bool {
    let v = &node.validation;
    v.format.is_none()
        && v.maximum.is_none()
        && v.minimum.is_none()
        && v.max_length.is_none()
        && v.min_length.is_none()
        && v.pattern.is_none()
        && v.max_items.is_none()
        && v.min_items.is_none()
        && v.multiple_of.is_none()
        && v.enumeration.is_empty()
        && v.max_properties.is_none()
        && v.min_properties.is_none()
        && v.required.is_empty()
        && v.all_of.is_empty()
        && v.any_of.is_empty()
        && v.one_of.is_empty()
        && v.not.is_none()
}

/// `anyOf: [{type: integer}, {type: string}]`, which int-or-string fields may carry.
fn int_or_string_pattern(any_of: &[Node]) -> bool {
    let only =
        |n: &Node, typ: JsonType| n.typ == typ && no_validation(n) && n.properties.is_empty() && n.items.is_none() && n.rules.is_empty();
    matches!(any_of, [a, b] if only(a, JsonType::Integer) && only(b, JsonType::String))
}

fn first_all_of_pattern(node: &Node) -> bool {
    node.validation
        .all_of
        .first()
        .is_some_and(|n| int_or_string_pattern(&n.validation.any_of))
}

fn value_validation(node: &Node, skip_any_of: bool, skip_first_all_of: bool, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    let v = &node.validation;
    if !skip_any_of {
        let here = path.child("anyOf");
        for (i, child) in v.any_of.iter().enumerate() {
            nested(child, false, &here.index(i), errors);
        }
    }
    let here = path.child("allOf");
    for (i, child) in v.all_of.iter().enumerate() {
        nested(child, skip_first_all_of && i == 0, &here.index(i), errors);
    }
    let here = path.child("oneOf");
    for (i, child) in v.one_of.iter().enumerate() {
        nested(child, false, &here.index(i), errors);
    }
    if let Some(child) = &v.not {
        nested(child, false, &path.child("not"), errors);
    }
    if let Some(pattern) = &v.pattern
        && let Err(error) = &pattern.regex
    {
        errors.push(FieldError::invalid_str(
            path.child("pattern").to_string(),
            &pattern.source,
            &format!("must be a valid regular expression, but isn't: {error}"),
        ));
    }
}

fn nested(node: &Node, skip_any_of: bool, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    value_validation(node, skip_any_of, false, path, errors);
    if let Some(items) = &node.items {
        nested(items, false, &path.child("items"), errors);
    }
    let properties = path.child("properties");
    for (name, child) in &node.properties {
        nested(child, false, &properties.key(name), errors);
    }
    let mut forbid = |name: &str, set: bool, detail: &str| {
        if set {
            errors.push(FieldError::forbidden(path.child(name).to_string(), detail));
        }
    };
    forbid("type", node.typ != JsonType::Any, "must be empty to be structural");
    forbid(
        "additionalProperties",
        node.additional.is_some(),
        "must be undefined to be structural",
    );
    forbid("default", node.default.is_some(), "must be undefined to be structural");
    forbid(
        "title",
        node.title.as_ref().is_some_and(|t| !t.is_empty()),
        "must be empty to be structural",
    );
    forbid(
        "description",
        node.description.as_ref().is_some_and(|t| !t.is_empty()),
        "must be empty to be structural",
    );
    forbid("nullable", node.nullable, "must be false to be structural");
    forbid(
        "x-kubernetes-preserve-unknown-fields",
        node.preserve_unknown,
        "must be false to be structural",
    );
    forbid(
        "x-kubernetes-embedded-resource",
        node.embedded_resource,
        "must be false to be structural",
    );
    forbid("x-kubernetes-int-or-string", node.int_or_string, "must be false to be structural");
    forbid(
        "x-kubernetes-list-map-keys",
        !node.list_keys.is_empty(),
        "must be empty to be structural",
    );
    forbid(
        "x-kubernetes-list-type",
        node.list_type != ListType::Unset,
        "must be undefined to be structural",
    );
    forbid("x-kubernetes-map-type", node.has_map_type, "must be undefined to be structural");
    forbid("x-kubernetes-validations", !node.rules.is_empty(), "must be empty to be structural");
    if node.properties.contains_key("metadata") {
        errors.push(FieldError::forbidden(
            properties.key("metadata").to_string(),
            "must not be specified in a nested context",
        ));
    }
}

/// Every field that a junctor restricts must also be part of the structure itself.
fn completeness(v: &Node, s: Option<&Node>, s_path: &SchemaPath<'_>, v_path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    if let Some(child) = &v.validation.not {
        nested_completeness(child, s, s_path, &v_path.child("not"), errors);
    }
    for (name, list) in [
        ("allOf", &v.validation.all_of),
        ("anyOf", &v.validation.any_of),
        ("oneOf", &v.validation.one_of),
    ] {
        let here = v_path.child(name);
        for (i, child) in list.iter().enumerate() {
            nested_completeness(child, s, s_path, &here.index(i), errors);
        }
    }
}

fn nested_completeness(v: &Node, s: Option<&Node>, s_path: &SchemaPath<'_>, v_path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    let Some(structure) = s else {
        errors.push(FieldError::required(
            s_path.to_string(),
            &format!("because it is defined in {v_path}"),
        ));
        return;
    };
    completeness(v, s, s_path, v_path, errors);
    if let Some(items) = &v.items {
        nested_completeness(
            items,
            structure.items.as_deref(),
            &s_path.child("items"),
            &v_path.child("items"),
            errors,
        );
    }
    let s_properties = s_path.child("properties");
    let v_properties = v_path.child("properties");
    for (name, child) in &v.properties {
        let v_here = v_properties.key(name);
        match structure.properties.get(name) {
            Some(found) => nested_completeness(child, Some(found), &s_properties.key(name), &v_here, errors),
            None => {
                errors.push(FieldError::required(
                    s_properties.key(name).to_string(),
                    &format!("because it is defined in {v_here}"),
                ));
            }
        }
    }
}

/// The conditions of apiextensions beyond structurality.
fn openapi(node: &Node, root: bool, path: &SchemaPath<'_>, inside_meta: bool, no_defaults: Option<&str>, errors: &mut Vec<SchemaError>) {
    if node.default.is_some()
        && let Some(reason) = no_defaults
    {
        errors.push(FieldError::forbidden(
            path.child("default").to_string(),
            &format!("must not be set {reason}"),
        ));
    }
    if inside_meta && node.embedded_resource {
        errors.push(FieldError::forbidden(
            path.child("x-kubernetes-embedded-resource").to_string(),
            "must not be used inside of resource meta",
        ));
    }
    if let Some(additional) = &node.additional {
        if !node.properties.is_empty() && !matches!(additional, Additional::Any) {
            errors.push(FieldError::forbidden(
                path.child("additionalProperties").to_string(),
                "additionalProperties and properties are mutual exclusive",
            ));
        }
        if let Additional::Schema(child) = additional {
            let reason = if inside_meta {
                Some("inside additionalProperties applying to object metadata")
            } else {
                no_defaults
            };
            openapi(child, false, &path.child("additionalProperties"), inside_meta, reason, errors);
        }
    }
    let properties = path.child("properties");
    for (name, child) in &node.properties {
        let meta = (root || node.embedded_resource) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
        let reason = format!("in top-level {name}");
        let no_defaults = if meta && root { Some(reason.as_str()) } else { no_defaults };
        openapi(child, false, &properties.key(name), inside_meta || meta, no_defaults, errors);
    }
    for (name, list) in [
        ("allOf", &node.validation.all_of),
        ("oneOf", &node.validation.one_of),
        ("anyOf", &node.validation.any_of),
    ] {
        let here = path.child(name);
        for (i, child) in list.iter().enumerate() {
            openapi(child, false, &here.index(i), inside_meta, no_defaults, errors);
        }
    }
    if let Some(child) = &node.validation.not {
        openapi(child, false, &path.child("not"), inside_meta, no_defaults, errors);
    }
    if let Some(items) = &node.items {
        openapi(items, false, &path.child("items"), inside_meta, no_defaults, errors);
    }
    if node.has_map_type && node.typ != JsonType::Object {
        wrong_type(node, path, "must be object if x-kubernetes-map-type is specified", errors);
    }
    lists(node, path, errors);
}

fn wrong_type(node: &Node, path: &SchemaPath<'_>, detail: &str, errors: &mut Vec<SchemaError>) {
    let at = path.child("type").to_string();
    errors.push(match node.typ {
        JsonType::Any | JsonType::Unknown => FieldError::required(at, detail),
        typ => FieldError::invalid_str(at, typ.as_str(), detail),
    });
}

fn lists(node: &Node, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    let items_path = path.child("items");
    if node.list_type != ListType::Unset && node.typ != JsonType::Array {
        wrong_type(node, path, "must be array if x-kubernetes-list-type is specified", errors);
    } else if node.list_type == ListType::Set
        && let Some(items) = &node.items
    {
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        if items.typ == JsonType::Array && matches!(items.list_type, ListType::Set | ListType::Map) {
            let shown = if items.list_type == ListType::Set { "set" } else { "map" };
            errors.push(FieldError::invalid_str(
                items_path.child("x-kubernetes-list-type").to_string(),
                shown,
                detail,
            ));
        }
        if items.typ == JsonType::Object && !items.atomic_map {
            errors.push(FieldError::invalid(
                items_path.child("x-kubernetes-map-type").to_string(),
                &Value::Null,
                detail,
            ));
        }
    }
    if !node.list_keys.is_empty() && node.list_type != ListType::Map {
        let at = path.child("x-kubernetes-list-type").to_string();
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match node.list_type {
            ListType::Unset => FieldError::required(at, detail),
            ListType::Set => FieldError::invalid_str(at, "set", detail),
            _ => FieldError::invalid_str(at, "atomic", detail),
        });
    }
    if node.list_type == ListType::Map {
        map_list(node, path, errors);
    }
    if let Some(items) = &node.items
        && matches!(node.list_type, ListType::Set | ListType::Map)
        && items.nullable
    {
        let kind = if node.list_type == ListType::Set { "set" } else { "map" };
        errors.push(FieldError::forbidden(
            items_path.child("nullable").to_string(),
            &format!("cannot be nullable when x-kubernetes-list-type is {kind}"),
        ));
    }
}

fn map_list(node: &Node, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    let keys_path = || path.child("x-kubernetes-list-map-keys").to_string();
    if node.list_keys.is_empty() {
        errors.push(FieldError::required(
            keys_path(),
            "must not be empty if x-kubernetes-list-type is map",
        ));
    }
    let items_path = path.child("items");
    let Some(items) = &node.items else {
        errors.push(FieldError::required(
            items_path.to_string(),
            "must have a schema if x-kubernetes-list-type is map",
        ));
        return;
    };
    if items.typ != JsonType::Object {
        errors.push(FieldError::invalid_str(
            items_path.child("type").to_string(),
            items.typ.as_str(),
            "must be object if parent array's x-kubernetes-list-type is map",
        ));
        return;
    }
    let properties = items_path.child("properties");
    for (i, key) in node.list_keys.iter().enumerate() {
        match items.properties.get(key) {
            Some(property) => {
                let here = properties.key(key);
                if matches!(property.typ, JsonType::Array | JsonType::Object) {
                    errors.push(FieldError::invalid_str(
                        here.child("type").to_string(),
                        "object",
                        "must be a scalar type if parent array's x-kubernetes-list-type is map",
                    ));
                }
                if !items.validation.required.contains(key) && property.default.is_none() {
                    errors.push(FieldError::required(
                        here.child("default").to_string(),
                        "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                    ));
                }
                if property.nullable {
                    errors.push(FieldError::forbidden(
                        here.child("nullable").to_string(),
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
                    ));
                }
            }
            None => errors.push(FieldError::invalid(
                keys_path(),
                &json!(node.list_keys),
                "entries must all be names of item properties",
            )),
        }
        if node.list_keys[..i].contains(key) {
            errors.push(FieldError::invalid(
                keys_path(),
                &json!(node.list_keys),
                "must not contain duplicate entries",
            ));
        }
    }
}

/// Checks every default against the schema it stands in; the tree must be prepared and its rules compiled.
pub(crate) fn check_defaults(root: &Node, errors: &mut Vec<SchemaError>) {
    default_of(root, &SchemaPath::Root, errors);
}

fn default_of(node: &Node, path: &SchemaPath<'_>, errors: &mut Vec<SchemaError>) {
    if !node.has_defaults {
        return;
    }
    if let Some(default) = &node.default {
        let at = path.child("default").to_string();
        if !super::prune::prune_node(&mut default.clone(), node).is_empty() {
            errors.push(FieldError::invalid(at.clone(), default, "must not have unknown fields"));
        } else {
            errors.extend(prefix_errors(&at, validate::validate_node(node, default)));
        }
    }
    let properties = path.child("properties");
    for (name, child) in &node.properties {
        default_of(child, &properties.key(name), errors);
    }
    if let Some(Additional::Schema(child)) = &node.additional {
        default_of(child, &path.child("additionalProperties"), errors);
    }
    if let Some(items) = &node.items {
        default_of(items, &path.child("items"), errors);
    }
}
