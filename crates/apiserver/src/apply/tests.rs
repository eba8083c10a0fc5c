use super::*;
use proptest::prelude::*;

fn schema() -> Structural {
    Structural::parse(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "string"}, "b": {"type": "integer"},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "integer"}},
            "one": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"x": {"type": "string"}, "y": {"type": "string"}}},
            "free": {"type": "object", "additionalProperties": {"type": "string"}}
        }},
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}}
    }}))
    .unwrap()
}

fn params(manager: &str) -> ApplyParams {
    ApplyParams {
        manager: manager.into(),
        force: false,
        subresource: String::new(),
        now: "2026-11-22T10:00:00.5Z".parse().unwrap(),
        api_version: "example.com/v1".into(),
        reset: ResetFields::None,
        unowned: json!({}),
        untypable: false,
    }
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "x", "namespace": "n"}, "spec": spec})
}

fn entry<'v>(obj: &'v Value, manager: &str) -> Option<&'v Value> {
    obj["metadata"]["managedFields"]
        .as_array()?
        .iter()
        .find(|e| e["manager"] == manager)
}

#[test]
fn a_create_owns_what_it_wrote() {
    let mut obj = object(json!({"a": "1", "list": [{"name": "p", "v": 1}], "set": ["s"], "plain": [1], "one": {"x": "1"}}));
    obj["metadata"]["labels"] = json!({"l": "1"});
    track_update(&schema(), None, &mut obj, &params("me"));
    assert_eq!(
        obj["metadata"]["managedFields"],
        json!([{
            "apiVersion": "example.com/v1", "fieldsType": "FieldsV1", "manager": "me", "operation": "Update", "time": "2026-11-22T10:00:00Z",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:l": {}}},
                "f:spec": {
                    ".": {}, "f:a": {}, "f:one": {}, "f:plain": {},
                    "f:list": {".": {}, "k:{\"name\":\"p\"}": {".": {}, "f:name": {}, "f:v": {}}},
                    "f:set": {".": {}, "v:\"s\"": {}}
                }
            }
        }])
    );
}

#[test]
fn an_update_takes_fields_from_others_and_keeps_times_when_nothing_changed() {
    let schema = schema();
    let mut first = object(json!({"a": "1", "b": 1}));
    track_update(&schema, None, &mut first, &params("one"));
    let mut second = first.clone();
    second["spec"]["a"] = json!("2");
    track_update(&schema, Some(&first), &mut second, &params("two"));
    assert_eq!(entry(&second, "one").unwrap()["fieldsV1"], json!({"f:spec": {".": {}, "f:b": {}}}));
    assert_eq!(entry(&second, "two").unwrap()["fieldsV1"], json!({"f:spec": {"f:a": {}}}));
    let mut same = second.clone();
    let mut later = params("three");
    later.now = "2027-01-01T00:00:00Z".parse().unwrap();
    track_update(&schema, Some(&second), &mut same, &later);
    assert_eq!(same, second);
    // A client that drops managedFields does not drop ownership; an explicit reset does.
    let mut forgetful = second.clone();
    forgetful["metadata"].as_object_mut().unwrap().remove("managedFields");
    track_update(&schema, Some(&second), &mut forgetful, &later);
    assert_eq!(forgetful, second);
    let mut reset = second.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    track_update(&schema, Some(&second), &mut reset, &later);
    assert!(reset["metadata"].get("managedFields").is_none());
}

#[test]
fn at_most_ten_updaters_are_kept() {
    let schema = schema();
    let mut obj = object(json!({}));
    track_update(&schema, None, &mut obj, &params("m0"));
    for i in 0..14i64 {
        let mut next = obj.clone();
        next["spec"][format!("k{i}")] = json!(1);
        next["spec"]["free"][format!("k{i}")] = json!("v");
        let mut who = params(&format!("m{i}"));
        who.now = jiff::Timestamp::from_second(1_800_000_000 + i).unwrap();
        track_update(&schema, Some(&obj), &mut next, &who);
        obj = next;
    }
    let list = obj["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list.len(), 10);
    assert!(entry(&obj, "ancient-changes").is_some());
}

#[test]
fn status_writes_own_status_alone() {
    let schema = schema();
    let mut old = object(json!({"a": "1"}));
    let mut main = params("user");
    main.reset = ResetFields::Status;
    track_update(&schema, None, &mut old, &main);
    let mut new = old.clone();
    new["status"] = json!({"phase": "Ready"});
    let mut status = params("controller");
    status.subresource = "status".into();
    status.reset = ResetFields::AllButStatus;
    track_update(&schema, Some(&old), &mut new, &status);
    let mine = entry(&new, "controller").unwrap();
    assert_eq!(mine["subresource"], "status");
    assert_eq!(mine["fieldsV1"], json!({"f:status": {".": {}, "f:phase": {}}}));
}

#[test]
fn apply_merges_owns_and_removes() {
    let schema = schema();
    let first = server_side_apply(
        &schema,
        None,
        &object(json!({"a": "1", "list": [{"name": "p", "v": 1}, {"name": "q"}]})),
        &params("me"),
    )
    .unwrap();
    assert_eq!(entry(&first, "me").unwrap()["operation"], "Apply");
    assert_eq!(
        entry(&first, "me").unwrap()["fieldsV1"]["f:spec"],
        json!({"f:a": {}, "f:list": {"k:{\"name\":\"p\"}": {".": {}, "f:name": {}, "f:v": {}}, "k:{\"name\":\"q\"}": {".": {}, "f:name": {}}}})
    );
    // Another manager adds an entry; what I no longer apply goes, what they own stays.
    let second = server_side_apply(
        &schema,
        Some(&first),
        &object(json!({"b": 5, "list": [{"name": "r"}]})),
        &params("them"),
    )
    .unwrap();
    let third = server_side_apply(&schema, Some(&second), &object(json!({"list": [{"name": "q"}]})), &params("me")).unwrap();
    assert_eq!(third["spec"], json!({"b": 5, "list": [{"name": "q"}, {"name": "r"}]}));
    // Applying nothing of spec removes what is left of mine, and only that.
    let mut none = object(json!({}));
    none.as_object_mut().unwrap().remove("spec");
    let fourth = server_side_apply(&schema, Some(&third), &none, &params("me")).unwrap();
    assert_eq!(fourth["spec"], json!({"b": 5, "list": [{"name": "r"}]}));
}

#[test]
fn conflicts_are_named_and_force_takes_over() {
    let schema = schema();
    let mut live = object(json!({"a": "1", "list": [{"name": "p", "v": 1}]}));
    track_update(&schema, None, &mut live, &params("kubectl-client-side-apply"));
    let applied = object(json!({"a": "2"}));
    let error = server_side_apply(&schema, Some(&live), &applied, &params("me")).unwrap_err();
    let ApplyError::Conflict { message, causes } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using example.com/v1: .spec.a"
    );
    assert_eq!(
        causes[0].to_cause(),
        json!({"reason": "FieldManagerConflict", "field": ".spec.a", "message": "conflict with \"kubectl-client-side-apply\" using example.com/v1"})
    );
    let both = object(json!({"a": "2", "list": [{"name": "p", "v": 2}]}));
    let error = server_side_apply(&schema, Some(&live), &both, &params("me")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using example.com/v1:\n- .spec.a\n- .spec.list[name=\"p\"].v"
    );
    let mut force = params("me");
    force.force = true;
    let new = server_side_apply(&schema, Some(&live), &applied, &force).unwrap();
    assert_eq!(new["spec"]["a"], "2");
    assert!(
        entry(&new, "kubectl-client-side-apply").unwrap()["fieldsV1"]["f:spec"]
            .get("f:a")
            .is_none()
    );
    // The same value is no conflict: both own it.
    let shared = server_side_apply(&schema, Some(&live), &object(json!({"a": "1"})), &params("me")).unwrap();
    assert!(
        entry(&shared, "me").is_some()
            && entry(&shared, "kubectl-client-side-apply").unwrap()["fieldsV1"]["f:spec"]
                .get("f:a")
                .is_some()
    );
}

#[test]
fn kubectl_may_take_over_what_it_applied_on_the_client() {
    let schema = schema();
    let mut live = object(json!({"a": "1"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: object(json!({"a": "1"})).to_string()});
    track_update(&schema, None, &mut live, &params("kubectl-client-side-apply"));
    let new = server_side_apply(&schema, Some(&live), &object(json!({"a": "2"})), &params("kubectl")).unwrap();
    assert_eq!(new["spec"]["a"], "2");
    assert!(
        new["metadata"]["annotations"][LAST_APPLIED]
            .as_str()
            .unwrap()
            .contains("\"a\":\"2\"")
    );
    assert!(server_side_apply(&schema, Some(&live), &object(json!({"a": "2"})), &params("other")).is_err());
}

#[test]
fn wrong_configurations_are_refused() {
    let schema = schema();
    let refuse = |applied: Value| server_side_apply(&schema, None, &applied, &params("me")).unwrap_err();
    assert!(
        refuse(object(json!({"nope": 1})))
            .to_string()
            .ends_with(".spec.nope: field not declared in schema")
    );
    assert!(
        refuse(object(json!({"list": [{"name": "p"}, {"name": "p"}]})))
            .to_string()
            .contains("duplicate entries for key [name=\"p\"]")
    );
    let mut version = object(json!({}));
    version["apiVersion"] = json!("example.com/v2");
    assert!(matches!(refuse(version), ApplyError::BadRequest(_)));
    let mut managed = object(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(refuse(managed), ApplyError::BadRequest("metadata.managedFields must be nil".into()));
}

#[test]
fn tracking_a_large_object_is_fast() {
    let schema = schema();
    let entries: Vec<Value> = (0..250).map(|i| json!({"name": format!("entry-{i:04}"), "v": i})).collect();
    let free: Map<String, Value> = (0..250).map(|i| (format!("key-{i}"), json!("value of some length"))).collect();
    let mut old = object(json!({"list": entries, "free": free}));
    track_update(&schema, None, &mut old, &params("one"));
    let mut new = old.clone();
    new["spec"]["list"][17]["v"] = json!(-1);
    let start = std::time::Instant::now();
    let rounds = 20u32;
    for _ in 0..rounds {
        let mut copy = new.clone();
        let dropped = schema.prune(
            &mut copy,
            crate::schema::PruneOptions {
                report: false,
                resource_root: true,
            },
        );
        schema.default(&mut copy);
        assert!(dropped.is_empty() && schema.validate(&copy, Some(&old)).is_empty());
        track_update(&schema, Some(&old), &mut copy, &params("two"));
    }
    let each = start.elapsed() / rounds;
    println!("{} bytes: {each:?} per write", new.to_string().len());
    // Far above what it takes, for machines that are busy: a quadratic step would exceed even this.
    assert!(each < std::time::Duration::from_millis(500), "{each:?}");
}

fn arb_spec() -> impl Strategy<Value = Value> {
    let list = proptest::collection::btree_map("[a-d]", any::<i8>(), 0..4)
        .prop_map(|m| m.into_iter().map(|(k, v)| json!({"name": k, "v": v})).collect::<Vec<_>>())
        .prop_shuffle();
    let set = proptest::collection::btree_set("[a-d]", 0..4);
    let free = proptest::collection::btree_map("[a-d]", "[xy]", 0..4);
    (
        proptest::option::of("[xy]"),
        proptest::option::of(any::<i8>()),
        proptest::option::of(list),
        proptest::option::of(set),
        proptest::option::of(free),
    )
        .prop_map(|(a, b, list, set, free)| {
            let mut spec = Map::new();
            let mut put = |k: &str, v: Option<Value>| {
                if let Some(v) = v {
                    spec.insert(k.into(), v);
                }
            };
            put("a", a.map(Value::from));
            put("b", b.map(Value::from));
            put("list", list.map(Value::from));
            put("set", set.map(|s| json!(s)));
            put("free", free.map(|f| json!(f)));
            Value::Object(spec)
        })
}

proptest! {
    #[test]
    fn applying_twice_changes_nothing(live in arb_spec(), applied in arb_spec()) {
        let schema = schema();
        let mut live = object(live);
        track_update(&schema, None, &mut live, &params("one"));
        let mut force = params("me");
        force.force = true;
        let once = server_side_apply(&schema, Some(&live), &object(applied.clone()), &force).unwrap();
        let mut later = force.clone();
        later.now = "2027-01-01T00:00:00Z".parse().unwrap();
        let twice = server_side_apply(&schema, Some(&once), &object(applied), &later).unwrap();
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn an_applier_alone_gets_what_it_last_applied(first in arb_spec(), second in arb_spec()) {
        let schema = schema();
        let one = server_side_apply(&schema, None, &object(first), &params("me")).unwrap();
        let two = server_side_apply(&schema, Some(&one), &object(second.clone()), &params("me")).unwrap();
        let direct = server_side_apply(&schema, None, &object(second), &params("me")).unwrap();
        for key in ["a", "b"] {
            prop_assert_eq!(two["spec"].get(key), direct["spec"].get(key));
        }
        prop_assert_eq!(two["spec"]["free"].as_object().map_or(0, Map::len), direct["spec"]["free"].as_object().map_or(0, Map::len));
    }

    #[test]
    fn every_field_of_a_new_object_has_an_owner(spec in arb_spec()) {
        let schema = schema();
        let mut obj = object(spec.clone());
        track_update(&schema, None, &mut obj, &params("me"));
        let owned = FieldSet::from_fields_v1(&entry(&obj, "me").unwrap()["fieldsV1"]).unwrap();
        for key in spec.as_object().unwrap().keys() {
            let path = ["f:spec".to_string(), format!("f:{key}")];
            prop_assert!(owned.has(&path));
        }
    }
}
