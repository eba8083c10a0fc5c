//! JSON patch, merge patch, and strategic merge on core kinds.

use serde_json::{Value, json};

use crate::{
    api::{Answer, patch},
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
};

async fn json_patch(t: &Case, operations: Value) -> Answer {
    t.patch(patch::JSON, &t.widget("a"), &operations).await
}

async fn prepared(t: &Case) {
    let spec = json!({ "size": 3, "tags": ["one", "two"], "steps": ["x", "y"], "limits": { "a/b": 1 } });
    t.post(&t.widgets(), &of_spec("a", spec)).await.ok(201);
}

/// One operation list each, and the spec fields that follow.
fn operations() -> Vec<(&'static str, Value, Value)> {
    vec![
        (
            "add a field",
            json!([{ "op": "add", "path": "/spec/note", "value": "n" }]),
            json!({ "note": "n" }),
        ),
        (
            "add to the end of a list",
            json!([{ "op": "add", "path": "/spec/steps/-", "value": "z" }]),
            json!({ "steps": ["x", "y", "z"] }),
        ),
        (
            "insert into a list",
            json!([{ "op": "add", "path": "/spec/steps/1", "value": "z" }]),
            json!({ "steps": ["x", "z", "y"] }),
        ),
        (
            "remove",
            json!([{ "op": "remove", "path": "/spec/steps/0" }]),
            json!({ "steps": ["y"] }),
        ),
        (
            "replace",
            json!([{ "op": "replace", "path": "/spec/size", "value": 9 }]),
            json!({ "size": 9 }),
        ),
        (
            "move",
            json!([{ "op": "move", "from": "/spec/steps/0", "path": "/spec/steps/1" }]),
            json!({ "steps": ["y", "x"] }),
        ),
        (
            "copy",
            json!([{ "op": "copy", "from": "/spec/steps/0", "path": "/spec/note" }]),
            json!({ "note": "x" }),
        ),
        (
            "test that holds",
            json!([{ "op": "test", "path": "/spec/size", "value": 3 }, { "op": "replace", "path": "/spec/size", "value": 4 }]),
            json!({ "size": 4 }),
        ),
        (
            "an escaped slash",
            json!([{ "op": "replace", "path": "/spec/limits/a~1b", "value": 2 }]),
            json!({ "limits": { "a/b": 2 } }),
        ),
        ("nothing", json!([]), json!({ "size": 3 })),
    ]
}

pub(super) fn all() -> Vec<Behaviour> {
    let operations = operations().into_iter().map(|(what, operations, wanted)| {
        behaviour(format!("JSON patch: {what}"), async move |t| {
            prepared(t).await;
            json_patch(t, operations.clone()).await.ok(200).has(json!({ "spec": wanted }));
        })
    });
    operations.chain(json_refusals()).chain(merge()).chain(strategic()).collect()
}

fn json_refusals() -> Vec<Behaviour> {
    vec![
        behaviour("JSON patch: a test that fails", async |t| {
            prepared(t).await;
            json_patch(t, json!([{ "op": "test", "path": "/spec/size", "value": 4 }]))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("JSON patch: removing what is not there", async |t| {
            prepared(t).await;
            json_patch(t, json!([{ "op": "remove", "path": "/spec/nothing" }]))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("JSON patch: replacing what is not there adds it", async |t| {
            prepared(t).await;
            json_patch(t, json!([{ "op": "replace", "path": "/spec/note", "value": "x" }]))
                .await
                .ok(200)
                .has(json!({ "spec": { "note": "x" } }));
        }),
        behaviour("JSON patch: an index out of bounds", async |t| {
            prepared(t).await;
            json_patch(t, json!([{ "op": "add", "path": "/spec/steps/9", "value": "x" }]))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("JSON patch: no list", async |t| {
            prepared(t).await;
            json_patch(t, json!({ "op": "remove" })).await.refused(400, "BadRequest");
        }),
        behaviour("JSON patch: an unknown operation", async |t| {
            prepared(t).await;
            json_patch(t, json!([{ "op": "bend", "path": "/spec" }]))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("JSON patch: all or nothing", async |t| {
            prepared(t).await;
            json_patch(
                t,
                json!([{ "op": "replace", "path": "/spec/size", "value": 9 }, { "op": "test", "path": "/spec/note", "value": "x" }]),
            )
            .await
            .refused(422, "Invalid");
            t.get(&t.widget("a")).await.ok(200).has(json!({ "spec": { "size": 3 } }));
        }),
        behaviour("JSON patch: too many operations", async |t| {
            prepared(t).await;
            let many: Vec<Value> = (0..10_001)
                .map(|_| json!({ "op": "test", "path": "/spec/size", "value": 3 }))
                .collect();
            json_patch(t, json!(many))
                .await
                .refused(413, "RequestEntityTooLarge")
                .says("The allowed maximum operations in a JSON patch is 10000");
        }),
        behaviour("JSON patch: of the version as a precondition", async |t| {
            let made = t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            let change = json!([{ "op": "test", "path": "/metadata/resourceVersion", "value": made.version() }]);
            json_patch(t, change).await.refused(422, "Invalid");
        }),
    ]
}

fn merge() -> Vec<Behaviour> {
    vec![
        behaviour("merge patch: sets and removes", async |t| {
            prepared(t).await;
            let after = t
                .merge(&t.widget("a"), &json!({ "spec": { "size": 4, "tags": null } }))
                .await
                .ok(200);
            after.has(json!({ "spec": { "size": 4, "steps": ["x", "y"] } })).lacks("/spec/tags");
        }),
        behaviour("merge patch: lists are replaced whole", async |t| {
            prepared(t).await;
            t.merge(&t.widget("a"), &json!({ "spec": { "tags": ["three"] } }))
                .await
                .ok(200)
                .has(json!({ "spec": { "tags": ["three"] } }));
        }),
        behaviour("merge patch: removing a field with a default brings the default", async |t| {
            prepared(t).await;
            t.merge(&t.widget("a"), &json!({ "spec": { "maxSize": 50 } }))
                .await
                .ok(200)
                .has(json!({ "spec": { "maxSize": 50 } }));
            t.merge(&t.widget("a"), &json!({ "spec": { "maxSize": null } }))
                .await
                .ok(200)
                .has(json!({ "spec": { "maxSize": 100 } }));
        }),
        behaviour("merge patch: what changes nothing keeps the version", async |t| {
            let made = t.made("a").await;
            assert_eq!(t.merge(&t.widget("a"), &json!({ "spec": { "size": 1 } })).await.ok(200), made);
        }),
        behaviour("merge patch: with another resourceVersion", async |t| {
            t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "metadata": { "resourceVersion": "1" } }))
                .await
                .refused(409, "Conflict");
        }),
        behaviour("merge patch: with the right resourceVersion", async |t| {
            let made = t.made("a").await;
            let change = json!({ "metadata": { "resourceVersion": made.version() }, "spec": { "size": 2 } });
            t.merge(&t.widget("a"), &change).await.ok(200);
        }),
        behaviour("merge patch: the uid cannot change", async |t| {
            t.made("a").await;
            // Rules of metadata are asked for twice on an update.
            t.merge(&t.widget("a"), &json!({ "metadata": { "uid": "x" } }))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "metadata.uid"), ("FieldValueInvalid", "metadata.uid")]);
        }),
        behaviour("merge patch: the name cannot change", async |t| {
            t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "metadata": { "name": "b" } }))
                .await
                .refused(400, "BadRequest");
        }),
        behaviour("merge patch: of a missing object", async |t| {
            t.merge(&t.widget("nobody"), &json!({})).await.refused(404, "NotFound");
        }),
        behaviour("merge patch: a list is no patch", async |t| {
            t.made("a").await;
            t.merge(&t.widget("a"), &json!([])).await.refused(400, "BadRequest");
        }),
        behaviour("merge patch: a result that breaks a rule", async |t| {
            t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 500 } }))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("merge patch: on a core kind", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let after = t
                .merge(&t.config_map("c"), &json!({ "data": { "key": null, "other": "x" } }))
                .await
                .ok(200);
            assert_eq!(after["data"], json!({ "other": "x" }));
        }),
        behaviour("patch: an unknown content type", async |t| {
            t.made("a").await;
            t.patch("application/json", &t.widget("a"), &json!({}))
                .await
                .refused(415, "UnsupportedMediaType");
        }),
        behaviour("patch: of a collection misses the name", async |t| {
            let refused = t.merge(&t.widgets(), &json!({})).await.refused(400, "BadRequest");
            refused.message("name must be provided");
            t.merge(&t.config_maps(), &json!({})).await.refused(405, "MethodNotAllowed");
        }),
        behaviour("patch: force is for apply", async |t| {
            t.made("a").await;
            t.merge(&format!("{}?force=true", t.widget("a")), &json!({}))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueForbidden", "force")]);
        }),
    ]
}

fn strategic() -> Vec<Behaviour> {
    async fn account(t: &Case) -> String {
        let body = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "s" }, "secrets": [{ "name": "one" }] });
        t.post(&t.core("serviceaccounts"), &body).await.ok(201);
        format!("{}/s", t.core("serviceaccounts"))
    }
    async fn held(t: &Case, change: Value) -> Answer {
        let mut body = config_map("c");
        body["metadata"]["finalizers"] = json!(["example.com/a"]);
        t.post(&t.config_maps(), &body).await.ok(201);
        t.patch(patch::STRATEGIC, &t.config_map("c"), &change).await
    }
    vec![
        behaviour("strategic merge: maps are merged", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let after = t
                .patch(patch::STRATEGIC, &t.config_map("c"), &json!({ "data": { "more": "x" } }))
                .await
                .ok(200);
            assert_eq!(after["data"], json!({ "key": "value", "more": "x" }));
        }),
        behaviour("strategic merge: null removes", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            t.patch(patch::STRATEGIC, &t.config_map("c"), &json!({ "data": { "key": null } }))
                .await
                .ok(200)
                .lacks("/data/key");
        }),
        behaviour("strategic merge: $patch replace", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let after = t
                .patch(
                    patch::STRATEGIC,
                    &t.config_map("c"),
                    &json!({ "data": { "$patch": "replace", "only": "x" } }),
                )
                .await
                .ok(200);
            assert_eq!(after["data"], json!({ "only": "x" }));
        }),
        behaviour("strategic merge: $patch delete", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            t.patch(patch::STRATEGIC, &t.config_map("c"), &json!({ "data": { "$patch": "delete" } }))
                .await
                .ok(200)
                .lacks("/data/key");
        }),
        behaviour("strategic merge: finalizers are merged as a set", async |t| {
            let after = held(t, json!({ "metadata": { "finalizers": ["example.com/b"] } })).await.ok(200);
            let mut list: Vec<&str> = after["metadata"]["finalizers"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(Value::as_str)
                .collect();
            list.sort_unstable();
            assert_eq!(list, ["example.com/a", "example.com/b"]);
        }),
        behaviour("strategic merge: one finalizer is taken out", async |t| {
            held(
                t,
                json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["example.com/a"] } }),
            )
            .await
            .ok(200)
            .lacks("/metadata/finalizers");
        }),
        behaviour("strategic merge: lists of objects are merged by key", async |t| {
            let path = account(t).await;
            let after = t
                .patch(patch::STRATEGIC, &path, &json!({ "secrets": [{ "name": "two" }] }))
                .await
                .ok(200);
            let mut names: Vec<&str> = after["secrets"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|item| item["name"].as_str())
                .collect();
            names.sort_unstable();
            assert_eq!(names, ["one", "two"]);
        }),
        behaviour("strategic merge: an object of a list is deleted by key", async |t| {
            let path = account(t).await;
            t.patch(
                patch::STRATEGIC,
                &path,
                &json!({ "secrets": [{ "name": "one", "$patch": "delete" }] }),
            )
            .await
            .ok(200)
            .lacks("/secrets/0");
        }),
        behaviour("strategic merge: owner references are merged by uid", async |t| {
            let owner = t.post(&t.config_maps(), &config_map("o")).await.ok(201);
            let reference = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": owner.uid() });
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            for _ in 0..2 {
                let change = json!({ "metadata": { "ownerReferences": [reference.clone()] } });
                let after = t.patch(patch::STRATEGIC, &t.config_map("c"), &change).await.ok(200);
                assert_eq!(after["metadata"]["ownerReferences"], json!([reference]));
            }
        }),
        behaviour("strategic merge: an unknown directive", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let answer = t
                .patch(patch::STRATEGIC, &t.config_map("c"), &json!({ "data": { "$patch": "bend" } }))
                .await;
            assert!((400..=599).contains(&answer.code), "{}", answer.text);
        }),
        behaviour("strategic merge: not for custom resources", async |t| {
            t.made("a").await;
            let refused = t
                .patch(patch::STRATEGIC, &t.widget("a"), &json!({}))
                .await
                .refused(415, "UnsupportedMediaType");
            refused.says("the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml");
        }),
    ]
}
