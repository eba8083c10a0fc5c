use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn errors(schema: &Value, value: &Value) -> Vec<String> {
    Structural::parse(schema)
        .unwrap_or_else(|e| panic!("{}", e[0]))
        .validate(value, None)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn spec(node: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": node}}}})
}

#[test]
fn texts_are_those_of_the_server() {
    for (node, value, want) in [
        (
            json!({"type": "string"}),
            json!(1),
            "spec.x: Invalid value: \"integer\": spec.x in body must be of type string: \"integer\"",
        ),
        (
            json!({"type": "integer"}),
            json!("a"),
            "spec.x: Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec.x: Invalid value: \"boolean\": spec.x in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "spec.x: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            "spec.x: Invalid value: \"b\": spec.x in body should match '^a$'",
        ),
        (
            json!({"type": "string", "maxLength": 1}),
            json!("ab"),
            "spec.x: Too long: may not be more than 1 byte",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            "spec.x: Invalid value: \"a\": spec.x in body should be at least 2 chars long",
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "spec.x: Invalid value: 0: spec.x in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 5, "exclusiveMaximum": true}),
            json!(5),
            "spec.x: Invalid value: 5: spec.x in body should be less than 5",
        ),
        (
            json!({"type": "integer", "multipleOf": 4}),
            json!(6),
            "spec.x: Invalid value: 6: spec.x in body should be a multiple of 4",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "spec.x: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            "spec.x: Invalid value: 0: spec.x in body should have at least 1 items",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 1]),
            "spec.x[1]: Invalid value: \"integer\": spec.x[1] in body must be of type string: \"integer\"",
        ),
        (
            json!({"type": "object", "properties": {"y": {"type": "string"}}, "required": ["y"]}),
            json!({}),
            "spec.x.y: Required value",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            json!({"k": "v"}),
            "spec.x.k: Invalid value: \"string\": spec.x.k in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("nope"),
            "spec.x: Invalid value: \"nope\": spec.x in body must be of type ipv4: \"nope\"",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
            json!(["a", "a"]),
            "spec.x[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"type": "string"}),
            Value::Null,
            "spec.x: Invalid value: \"null\": spec.x in body must be of type string: \"null\"",
        ),
    ] {
        assert_eq!(errors(&spec(node.clone()), &json!({"spec": {"x": value}})), [want], "{node}");
    }
    // The server says of a fraction what its own type is, and, in a second complaint, that the format does not fit.
    let fraction = errors(&spec(json!({"type": "integer"})), &json!({"spec": {"x": 1.5}}));
    assert_eq!(
        fraction,
        [
            "spec.x: Invalid value: \"number\": spec.x in body must be of type integer: \"number\"",
            "<nil>: Invalid value: \"\": Checked value must be of type integer (default format) in spec.x"
        ]
    );
    assert!(errors(&spec(json!({"type": "string", "nullable": true})), &json!({"spec": {"x": null}})).is_empty());
    assert!(errors(&spec(json!({"type": "number"})), &json!({"spec": {"x": 3}})).is_empty());
    assert!(errors(&spec(json!({"type": "integer"})), &json!({"spec": {"x": 3.0}})).is_empty());
}

#[test]
fn junctors_report_as_the_server_does() {
    let node = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
    assert!(errors(&spec(node.clone()), &json!({"spec": {"x": {"a": "1"}}})).is_empty());
    let none = errors(&spec(node.clone()), &json!({"spec": {"x": {}}}));
    assert_eq!(
        none[0],
        "<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found none valid"
    );
    assert_eq!(none[1], "spec.x.a: Required value");
    let both = errors(&spec(node), &json!({"spec": {"x": {"a": "1", "b": "2"}}}));
    assert_eq!(
        both,
        ["<nil>: Invalid value: \"\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives"]
    );
    let not = json!({"type": "string", "not": {"enum": ["bad"]}});
    assert_eq!(
        errors(&spec(not), &json!({"spec": {"x": "bad"}})),
        ["<nil>: Invalid value: \"\": \"spec.x\" must not validate the schema (not)"]
    );
}

#[test]
fn unchanged_errors_are_forgiven() {
    let schema = Structural::parse(&spec(
        json!({"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1}}}),
    ))
    .unwrap();
    let at = |a: &str, b: &str| json!({"spec": {"x": {"a": a, "b": b}}});
    assert!(schema.validate(&at("long", "2"), Some(&at("long", "1"))).is_empty());
    assert_eq!(schema.validate(&at("long", "long"), Some(&at("long", "1"))).len(), 1);
    assert_eq!(schema.validate(&at("long", "1"), None).len(), 1);
}

#[test]
fn pruning_and_defaulting_follow_the_schema() {
    let schema = Structural::parse(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {}, "properties": {
            "a": {"type": "string", "default": "x"},
            "keep": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"known": {"type": "object", "properties": {"z": {"type": "string"}}}}},
            "emb": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string"}, "d": {"type": "integer", "default": 3}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"q": {"type": "string"}}}}
        }}
    }}))
    .unwrap();
    let mut obj = json!({
        "apiVersion": "v1", "kind": "K", "metadata": {"name": "n", "odd": 1}, "top": 1,
        "spec": {"b": 1, "keep": {"free": 1, "known": {"z": "1", "y": 2}}, "list": [{"n": "a", "u": 1}], "map": {"k": {"q": "1", "r": 2}}}
    });
    assert_eq!(
        schema.prune(&mut obj, PruneOptions::default()),
        ["spec.b", "spec.keep.known.y", "spec.list[0].u", "spec.map.k.r", "top"]
    );
    schema.default(&mut obj);
    assert_eq!(obj["spec"]["a"], "x");
    assert_eq!(obj["spec"]["list"], json!([{"n": "a", "d": 3}]));
    assert_eq!(obj["spec"]["keep"]["free"], 1);
    assert_eq!(obj["metadata"]["odd"], 1);
    let mut empty = json!({"spec": {"a": null, "list": null}});
    schema.default(&mut empty);
    assert_eq!(empty, json!({"spec": {"a": "x"}}));
    let mut bare = json!({});
    schema.default(&mut bare);
    assert_eq!(bare, json!({"spec": {"a": "x"}}));
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    for (schema, want) in [
        (
            json!({"type": "string"}),
            "type: Invalid value: \"string\": must be object at the root",
        ),
        (
            spec(json!({"type": "array"})),
            "properties[spec].properties[x].items: Required value: must be specified",
        ),
        (
            spec(json!({"type": "string", "anyOf": [{"type": "string"}]})),
            "properties[spec].properties[x].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            spec(json!({"type": "string", "pattern": "("})),
            "properties[spec].properties[x].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
        ),
        (
            spec(json!({"type": "blob"})),
            "properties[spec].properties[x].type: Unsupported value: \"blob\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
        (
            spec(json!({"type": "string", "default": 1})),
            "properties[spec].properties[x].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
        ),
        (
            spec(json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}})),
            "properties[spec].properties[x].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "additionalProperties: Forbidden: must not be used at the root",
        ),
    ] {
        let found: Vec<String> = Structural::parse(&schema)
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(found.iter().any(|e| e == want), "{schema}: {found:?}");
    }
    let mut deep = json!({"type": "string"});
    for _ in 0..150 {
        deep = json!({"type": "object", "properties": {"d": deep}});
    }
    assert!(Structural::parse(&deep).is_err());
}

fn arb_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<f32>().prop_map(|f| json!(f)),
        "[a-c]{0,3}".prop_map(Value::from)
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(
                "spec|a|b|list|map|metadata|name|labels|kind|type|properties|items|data|x-kubernetes-validations|rule",
                inner,
                0..5
            )
            .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn pruning_twice_is_pruning_once_and_nothing_panics(obj in arb_json(), old in arb_json()) {
        let schema = Structural::parse(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string", "default": "x", "pattern": "^[a-z]*$"},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}}
        }, "x-kubernetes-validations": [{"rule": "!has(self.list) || self.list.all(e, size(e.name) < 3)"}]}}})).unwrap();
        let mut once = obj.clone();
        schema.prune(&mut once, PruneOptions::default());
        let mut twice = once.clone();
        prop_assert!(schema.prune(&mut twice, PruneOptions::default()).is_empty());
        prop_assert_eq!(&twice, &once);
        schema.default(&mut once);
        let mut again = once.clone();
        schema.default(&mut again);
        prop_assert_eq!(&again, &once);
        let fresh = schema.validate(&once, None);
        let updated = schema.validate(&once, Some(&old));
        prop_assert!(updated.len() <= fresh.len().max(1) + 1);
        let mut coerced = obj.clone();
        if metadata::coerce(&mut coerced).is_ok() {
            let mut stable = coerced.clone();
            prop_assert_eq!(metadata::coerce(&mut stable), Ok(Vec::new()));
        }
    }

    #[test]
    fn any_document_is_parsed_or_refused(schema in arb_json(), obj in arb_json()) {
        if let Ok(parsed) = Structural::parse(&schema) {
            let mut obj = obj;
            parsed.prune(&mut obj, PruneOptions::default());
            parsed.default(&mut obj);
            parsed.validate(&obj, None);
        }
        for kind in builtin::all() {
            builtin::validate(kind.group, kind.kind, &schema, None, "");
        }
    }
}
