//! Server-side apply: managers, conflicts, force, list-map keys.

use serde_json::{Value, json};

use crate::{
    api::patch,
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
};

fn config(spec: Value) -> Value {
    of_spec("a", spec)
}

async fn applied(t: &Case, manager: &str, spec: Value) -> crate::found::Found {
    let answer = t.apply(&t.widget("a"), manager, &config(spec)).await;
    let code = answer.code;
    assert!(code == 200 || code == 201, "{}", answer.text);
    answer.ok(code)
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = managers();
    list.extend(lists());
    list
}

fn managers() -> Vec<Behaviour> {
    vec![
        behaviour("apply: creates", async |t| {
            let made = t.apply(&t.widget("a"), "me", &config(json!({ "size": 1 }))).await.ok(201);
            let entry = made.manager("me", "Apply", "");
            assert_eq!(entry["fieldsV1"], json!({ "f:spec": { "f:size": {} } }));
        }),
        behaviour("apply: again changes nothing", async |t| {
            let one = applied(t, "me", json!({ "size": 1 })).await;
            assert_eq!(applied(t, "me", json!({ "size": 1 })).await, one);
        }),
        behaviour("apply: a field left out is removed", async |t| {
            applied(t, "me", json!({ "size": 1, "note": "x" })).await;
            applied(t, "me", json!({ "size": 1 })).await.lacks("/spec/note");
        }),
        behaviour("apply: a field left out that another manager applies stays", async |t| {
            applied(t, "me", json!({ "size": 1, "note": "x" })).await;
            applied(t, "you", json!({ "size": 1, "note": "x" })).await;
            let after = applied(t, "me", json!({ "size": 1 })).await;
            after.has(json!({ "spec": { "note": "x" } }));
            after.manager("me", "Apply", "").lacks("/fieldsV1/f:spec/f:note");
        }),
        behaviour("apply: another value is a conflict", async |t| {
            applied(t, "me", json!({ "size": 1 })).await;
            let refused = t
                .apply(&t.widget("a"), "you", &config(json!({ "size": 2 })))
                .await
                .refused(409, "Conflict");
            refused.message("Apply failed with 1 conflict: conflict with \"me\": .spec.size");
            refused.has(json!({ "details": { "causes": [{ "reason": "FieldManagerConflict", "message": "conflict with \"me\"", "field": ".spec.size" }] } }));
        }),
        behaviour("apply: conflicts with writers by update name their version", async |t| {
            t.made("a").await;
            let refused = t
                .apply(&t.widget("a"), "you", &config(json!({ "size": 2 })))
                .await
                .refused(409, "Conflict");
            refused.says("conflict with \"conformance\" using conformance.example.com/v1");
        }),
        behaviour("apply: two conflicts are both told", async |t| {
            applied(t, "me", json!({ "size": 1, "note": "x" })).await;
            let refused = t
                .apply(&t.widget("a"), "you", &config(json!({ "size": 2, "note": "y" })))
                .await
                .refused(409, "Conflict");
            refused.causes(&[("FieldManagerConflict", ".spec.note"), ("FieldManagerConflict", ".spec.size")]);
        }),
        behaviour("apply: force takes the field", async |t| {
            applied(t, "me", json!({ "size": 1, "note": "x" })).await;
            let after = t.force(&t.widget("a"), "you", &config(json!({ "size": 2 }))).await.ok(200);
            after.has(json!({ "spec": { "size": 2, "note": "x" } }));
            after.manager("me", "Apply", "").lacks("/fieldsV1/f:spec/f:size");
            after
                .manager("you", "Apply", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:size": {} } } }));
        }),
        behaviour("apply: the same value is shared", async |t| {
            applied(t, "me", json!({ "size": 1 })).await;
            let after = applied(t, "you", json!({ "size": 1 })).await;
            after
                .manager("me", "Apply", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:size": {} } } }));
            after
                .manager("you", "Apply", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:size": {} } } }));
        }),
        behaviour("apply: an update takes the field without asking", async |t| {
            applied(t, "me", json!({ "size": 1, "note": "x" })).await;
            let after = t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            after.manager("me", "Apply", "").lacks("/fieldsV1/f:spec/f:size");
            after
                .manager("conformance", "Update", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:size": {} } } }));
        }),
        behaviour("apply: labels and annotations have owners", async |t| {
            let mut sent = config(json!({ "size": 1 }));
            sent["metadata"]["labels"] = json!({ "x": "y" });
            let made = t.apply(&t.widget("a"), "me", &sent).await.ok(201);
            made.manager("me", "Apply", "")
                .has(json!({ "fieldsV1": { "f:metadata": { "f:labels": { "f:x": {} } } } }));
        }),
        behaviour("apply: needs a field manager", async |t| {
            let refused = t
                .patch(patch::APPLY, &t.widget("a"), &config(json!({ "size": 1 })))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueRequired", "fieldManager")]);
        }),
        behaviour("apply: managedFields may not be sent", async |t| {
            let mut sent = config(json!({ "size": 1 }));
            sent["metadata"]["managedFields"] =
                json!([{ "manager": "x", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {} }]);
            t.apply(&t.widget("a"), "me", &sent)
                .await
                .refused(400, "BadRequest")
                .says("metadata.managedFields must be nil");
        }),
        behaviour("apply: a version that is not there is a conflict", async |t| {
            let mut sent = config(json!({ "size": 1 }));
            sent["metadata"]["resourceVersion"] = json!("1");
            t.made("a").await;
            t.force(&t.widget("a"), "me", &sent).await.refused(409, "Conflict");
        }),
        behaviour("apply: a uid creates nothing", async |t| {
            let mut sent = config(json!({ "size": 1 }));
            sent["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111");
            t.apply(&t.widget("a"), "me", &sent).await.refused(409, "Conflict");
            t.get(&t.widget("a")).await.refused(404, "NotFound");
        }),
        behaviour("apply: another name than in the path", async |t| {
            t.apply(&t.widget("b"), "me", &config(json!({ "size": 1 })))
                .await
                .refused(400, "BadRequest");
        }),
        behaviour("apply: another kind", async |t| {
            let mut sent = config(json!({ "size": 1 }));
            sent["kind"] = json!("Gadget");
            let answer = t.apply(&t.widget("a"), "me", &sent).await;
            assert!((400..500).contains(&answer.code), "{}", answer.text);
        }),
        behaviour("apply: YAML is read", async |t| {
            let text = "apiVersion: conformance.example.com/v1\nkind: Widget\nmetadata: {name: a}\nspec:\n  size: 4\n";
            let call = t
                .call(reqwest::Method::PATCH, &format!("{}?fieldManager=me", t.widget("a")))
                .body(patch::APPLY, text);
            call.send().await.ok(201).has(json!({ "spec": { "size": 4 } }));
        }),
        behaviour("apply: rules are checked", async |t| {
            t.apply(&t.widget("a"), "me", &config(json!({ "size": 500 })))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("apply: to status owns status", async |t| {
            t.made("a").await;
            let sent = json!({ "apiVersion": "conformance.example.com/v1", "kind": "Widget", "metadata": { "name": "a" }, "status": { "ready": true } });
            let after = t.apply(&format!("{}/status", t.widget("a")), "me", &sent).await.ok(200);
            after.has(json!({ "status": { "ready": true } }));
            after
                .manager("me", "Apply", "status")
                .has(json!({ "fieldsV1": { "f:status": { "f:ready": {} } } }));
        }),
        behaviour("apply: to the object owns no status", async |t| {
            let mut sent = config(json!({ "size": 1 }));
            sent["status"] = json!({ "ready": true });
            let made = t.apply(&t.widget("a"), "me", &sent).await.ok(201);
            made.lacks("/status");
            made.manager("me", "Apply", "").lacks("/fieldsV1/f:status");
        }),
        behaviour("apply: a manager that owns nothing is forgotten", async |t| {
            applied(t, "me", json!({ "size": 1 })).await;
            applied(t, "you", json!({ "size": 1, "note": "x" })).await;
            let after = t
                .apply(
                    &t.widget("a"),
                    "you",
                    &json!({ "apiVersion": "conformance.example.com/v1", "kind": "Widget", "metadata": { "name": "a" } }),
                )
                .await
                .ok(200);
            let managers = after["metadata"]["managedFields"].as_array().expect("a list");
            assert_eq!(managers.len(), 1, "{managers:?}");
        }),
        behaviour("apply: on a ConfigMap", async |t| {
            let made = t.apply(&t.config_map("c"), "me", &config_map("c")).await.ok(201);
            assert_eq!(made.manager("me", "Apply", "")["fieldsV1"], json!({ "f:data": { "f:key": {} } }));
            let mut other = config_map("c");
            other["data"] = json!({ "key": "x" });
            t.apply(&t.config_map("c"), "you", &other)
                .await
                .refused(409, "Conflict")
                .says(".data.key");
        }),
    ]
}

fn lists() -> Vec<Behaviour> {
    vec![
        behaviour("apply: list maps are merged by key", async |t| {
            applied(t, "me", json!({ "size": 1, "parts": [{ "name": "x", "weight": 2 }] })).await;
            let after = applied(t, "you", json!({ "size": 1, "parts": [{ "name": "y" }] })).await;
            assert_eq!(
                after["spec"]["parts"],
                json!([{ "name": "x", "weight": 2 }, { "name": "y", "weight": 1 }])
            );
            after
                .manager("you", "Apply", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:parts": { "k:{\"name\":\"y\"}": { ".": {}, "f:name": {} } } } } }));
        }),
        behaviour("apply: an item left out is removed, those of others stay", async |t| {
            applied(t, "me", json!({ "size": 1, "parts": [{ "name": "x" }] })).await;
            applied(t, "you", json!({ "size": 1, "parts": [{ "name": "y" }, { "name": "z" }] })).await;
            let after = applied(t, "you", json!({ "size": 1, "parts": [{ "name": "z" }] })).await;
            assert_eq!(
                after["spec"]["parts"],
                json!([{ "name": "x", "weight": 1 }, { "name": "z", "weight": 1 }])
            );
        }),
        behaviour("apply: a field of an item conflicts", async |t| {
            applied(t, "me", json!({ "size": 1, "parts": [{ "name": "x", "weight": 2 }] })).await;
            let sent = config(json!({ "size": 1, "parts": [{ "name": "x", "weight": 3 }] }));
            let refused = t.apply(&t.widget("a"), "you", &sent).await.refused(409, "Conflict");
            refused.says(".spec.parts[name=\"x\"].weight");
        }),
        behaviour("apply: a key twice is refused", async |t| {
            let sent = config(json!({ "size": 1, "parts": [{ "name": "x" }, { "name": "x" }] }));
            let answer = t.apply(&t.widget("a"), "me", &sent).await;
            assert!(answer.code >= 400, "{}", answer.text);
        }),
        behaviour("apply: sets are merged by value", async |t| {
            applied(t, "me", json!({ "size": 1, "tags": ["one"] })).await;
            let after = applied(t, "you", json!({ "size": 1, "tags": ["two"] })).await;
            assert_eq!(after["spec"]["tags"], json!(["one", "two"]));
            after
                .manager("me", "Apply", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:tags": { "v:\"one\"": {} } } } }));
        }),
        behaviour("apply: atomic lists are replaced whole", async |t| {
            applied(t, "me", json!({ "size": 1, "steps": ["x", "y"] })).await;
            let refused = t
                .apply(&t.widget("a"), "you", &config(json!({ "size": 1, "steps": ["z"] })))
                .await
                .refused(409, "Conflict");
            refused.says(".spec.steps");
            let after = t
                .force(&t.widget("a"), "you", &config(json!({ "size": 1, "steps": ["z"] })))
                .await
                .ok(200);
            after.has(json!({ "spec": { "steps": ["z"] } }));
        }),
        behaviour("apply: atomic maps are replaced whole", async |t| {
            applied(t, "me", json!({ "size": 1, "pair": { "a": "x", "b": "y" } })).await;
            let after = t
                .force(&t.widget("a"), "you", &config(json!({ "size": 1, "pair": { "a": "z" } })))
                .await
                .ok(200);
            assert_eq!(after["spec"]["pair"], json!({ "a": "z" }));
        }),
        behaviour("apply: free maps are merged by key", async |t| {
            applied(t, "me", json!({ "size": 1, "limits": { "cpu": 1 } })).await;
            let after = applied(t, "you", json!({ "size": 1, "limits": { "disk": 2 } })).await;
            assert_eq!(after["spec"]["limits"], json!({ "cpu": 1, "disk": 2 }));
        }),
        behaviour("apply: content without a schema is owned by field", async |t| {
            let after = applied(t, "me", json!({ "size": 1, "free": { "deep": { "x": 1 } } })).await;
            after
                .manager("me", "Apply", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:free": { "f:deep": { "f:x": {} } } } } }));
        }),
    ]
}
