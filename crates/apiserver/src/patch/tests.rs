use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

fn info() -> MergeInfo {
    let entry = |key: &str| MergeInfo {
        merge_key: Some(key.into()),
        ..MergeInfo::default()
    };
    let owners = entry("uid");
    let meta = MergeInfo {
        fields: BTreeMap::from([
            ("ownerReferences".into(), owners),
            (
                "finalizers".into(),
                MergeInfo {
                    merge_values: true,
                    ..MergeInfo::default()
                },
            ),
        ]),
        ..MergeInfo::default()
    };
    MergeInfo {
        fields: BTreeMap::from([("metadata".into(), meta), ("secrets".into(), entry("name"))]),
        ..MergeInfo::default()
    }
}

#[test]
fn json_patch_applies_in_order_and_refuses_what_does_not_fit() {
    let doc = json!({"a": {"b": [1, 2]}});
    let patch = json!([{"op": "add", "path": "/a/b/-", "value": 3}, {"op": "remove", "path": "/a/b/0"}, {"op": "copy", "from": "/a/b", "path": "/c"}]);
    assert_eq!(json_patch(&doc, &patch).unwrap(), json!({"a": {"b": [2, 3]}, "c": [2, 3]}));
    assert!(matches!(
        json_patch(&doc, &json!([{"op": "test", "path": "/a/b/0", "value": 9}])),
        Err(PatchError::Unprocessable(_))
    ));
    assert!(matches!(
        json_patch(&doc, &json!([{"op": "remove", "path": "/x"}])),
        Err(PatchError::Unprocessable(_))
    ));
    assert!(matches!(json_patch(&doc, &json!({"op": "add"})), Err(PatchError::Malformed(_))));
    assert!(matches!(
        json_patch(&doc, &json!([{"op": "shake", "path": "/a"}])),
        Err(PatchError::Unprocessable(_))
    ));
    assert!(matches!(json_patch(&doc, &json!([5])), Err(PatchError::Malformed(_))));
    assert_eq!(json_patch(&doc, &json!([{"op": "add", "path": "/n"}])).unwrap()["n"], Value::Null);
}

#[test]
fn json_patch_is_as_lenient_as_the_real_servers() {
    let doc = json!({"a": {"b": [1, 2]}, "s": "text"});
    let patched = |patch: Value| json_patch(&doc, &patch);
    assert_eq!(
        patched(json!([{"op": "replace", "path": "/a/c", "value": 3}])).unwrap(),
        json!({"a": {"b": [1, 2], "c": 3}, "s": "text"})
    );
    assert_eq!(
        patched(json!([{"op": "copy", "from": "/x", "path": "/y"}])).unwrap(),
        json!({"a": {"b": [1, 2]}, "s": "text", "y": null})
    );
    assert_eq!(
        patched(json!([{"op": "remove", "path": "/a/b/-1"}])).unwrap(),
        json!({"a": {"b": [1]}, "s": "text"})
    );
    assert_eq!(patched(json!([{"op": "test", "path": "/x", "value": null}])).unwrap(), doc);
    for patch in [
        json!([{"op": "replace", "path": "/a/b/2", "value": 3}]),
        json!([{"op": "replace", "path": "/a/b/-", "value": 3}]),
        json!([{"op": "add", "path": "/s/c", "value": 3}]),
        json!([{"op": "add", "path": "/x/c", "value": 3}]),
        json!([{"op": "move", "from": "/x", "path": "/y"}]),
        json!([{"op": "add", "value": 3}]),
    ] {
        assert!(matches!(patched(patch.clone()), Err(PatchError::Unprocessable(_))), "{patch}");
    }
}

#[test]
fn json_patch_is_bounded() {
    let many: Vec<_> = (0..=MAX_JSON_PATCH_OPERATIONS)
        .map(|_| json!({"op": "test", "path": "/a", "value": 1}))
        .collect();
    assert!(matches!(
        json_patch(&json!({"a": 1}), &Value::Array(many)),
        Err(PatchError::TooLarge(_))
    ));
    // Each copy doubles the document: 40 of them would make a terabyte.
    let bomb: Vec<_> = (0..40).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
    let doc = json!({"a": ["0123456789".repeat(100)]});
    assert!(matches!(json_patch(&doc, &Value::Array(bomb)), Err(PatchError::TooLarge(_))));
}

#[test]
fn merge_patch_follows_the_rfc() {
    for (doc, patch, want) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
    ] {
        assert_eq!(merge_patch(&doc, &patch).unwrap(), want);
    }
    assert!(merge_patch(&json!({}), &json!([1])).is_err());
}

#[test]
fn strategic_merge_knows_keyed_lists() {
    let doc = json!({
        "metadata": {"finalizers": ["a", "b"], "ownerReferences": [{"uid": "1", "name": "x"}, {"uid": "2", "name": "y"}]},
        "secrets": [{"name": "s1", "k": 1}, {"name": "s2"}],
        "plain": [1, 2]
    });
    let apply = |patch: Value| strategic_merge(&info(), &doc, &patch).unwrap();
    assert_eq!(
        apply(json!({"metadata": {"finalizers": ["c"]}}))["metadata"]["finalizers"],
        json!(["a", "b", "c"])
    );
    assert_eq!(
        apply(json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}))["metadata"]["finalizers"],
        json!(["b"])
    );
    assert_eq!(
        apply(json!({"secrets": [{"name": "s1", "z": 2}]}))["secrets"],
        json!([{"name": "s1", "k": 1, "z": 2}, {"name": "s2"}])
    );
    assert_eq!(
        apply(json!({"secrets": [{"name": "s1", "$patch": "delete"}]}))["secrets"],
        json!([{"name": "s2"}])
    );
    assert_eq!(
        apply(json!({"secrets": [{"name": "n"}, {"$patch": "replace"}]}))["secrets"],
        json!([{"name": "n"}])
    );
    assert_eq!(apply(json!({"plain": [3]}))["plain"], json!([3]));
    assert_eq!(
        apply(json!({"$setElementOrder/secrets": [{"name": "s2"}, {"name": "s1"}], "secrets": [{"name": "s1", "k": 2}]}))["secrets"],
        json!([{"name": "s2"}, {"name": "s1", "k": 2}])
    );
    assert_eq!(
        apply(json!({"metadata": {"$patch": "replace", "name": "q"}}))["metadata"],
        json!({"name": "q"})
    );
    assert_eq!(
        apply(json!({"metadata": {"$retainKeys": ["finalizers"]}}))["metadata"],
        json!({"finalizers": ["a", "b"]})
    );
    assert!(strategic_merge(&info(), &doc, &json!({"secrets": [{"k": 1}]})).is_err());
    assert!(strategic_merge(&info(), &doc, &json!({"metadata": {"$patch": "explode"}})).is_err());
}

fn arb_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        "[a-c$]{0,3}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]|\\$patch|secrets|name|metadata|finalizers", inner, 0..4)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn anywhere_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(anywhere_null),
        Value::Object(map) => map.values().any(anywhere_null),
        _ => false,
    }
}

/// The server takes nulls out of a list where what it replaces is no object, and leaves them where it is one: a second merge may see the other case.
fn null_in_a_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(anywhere_null),
        Value::Object(map) => map.values().any(null_in_a_list),
        _ => false,
    }
}

proptest! {
    #[test]
    fn merging_twice_is_merging_once(doc in arb_json(), patch in arb_json()) {
        if !null_in_a_list(&patch) && let Ok(once) = merge_patch(&doc, &patch) {
            prop_assert_eq!(merge_patch(&once, &patch).unwrap(), once);
        }
    }

    #[test]
    fn merging_an_object_into_nothing_gives_the_object(patch in arb_json()) {
        if patch.is_object() && !anywhere_null(&patch) {
            prop_assert_eq!(merge_patch(&json!({}), &patch).unwrap(), patch);
        }
    }

    #[test]
    fn arbitrary_patches_do_not_panic(doc in arb_json(), patch in arb_json()) {
        let outcomes = (json_patch(&doc, &patch).is_ok(), strategic_merge(&info(), &doc, &patch).is_ok());
        // A JSON patch is a list, a strategic merge patch an object: never both.
        prop_assert!(!(outcomes.0 && outcomes.1));
    }
}
