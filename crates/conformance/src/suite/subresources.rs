//! `/status` and `/scale`.

use serde_json::json;

use crate::{
    api::patch,
    behaviour::{Behaviour, behaviour},
    definitions::*,
};

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        behaviour("status: a new object has none", async |t| {
            let mut sent = widget("a", 1);
            sent["status"] = json!({ "ready": true });
            t.post(&t.widgets(), &sent).await.ok(201).lacks("/status");
        }),
        behaviour("status: read", async |t| {
            let made = t.made("a").await;
            assert_eq!(t.get(&format!("{}/status", t.widget("a"))).await.ok(200), made);
        }),
        behaviour("status: a merge patch changes status only", async |t| {
            t.made("a").await;
            let change = json!({ "status": { "ready": true }, "spec": { "size": 9 }, "metadata": { "labels": { "x": "y" } } });
            let after = t.merge(&format!("{}/status", t.widget("a")), &change).await.ok(200);
            after
                .has(json!({ "status": { "ready": true }, "spec": { "size": 1 }, "metadata": { "generation": 1 } }))
                .lacks("/metadata/labels");
        }),
        behaviour("status: a JSON patch", async |t| {
            t.made("a").await;
            let change = json!([{ "op": "add", "path": "/status", "value": { "ready": true } }]);
            t.patch(patch::JSON, &format!("{}/status", t.widget("a")), &change)
                .await
                .ok(200)
                .has(json!({ "status": { "ready": true } }));
        }),
        behaviour("status: a PUT changes status only", async |t| {
            let mut object = t.made("a").await;
            object["status"] = json!({ "ready": true });
            object["spec"]["size"] = json!(9);
            let after = t.put(&format!("{}/status", t.widget("a")), &object).await.ok(200);
            after.has(json!({ "status": { "ready": true }, "spec": { "size": 1 } }));
        }),
        behaviour("status: a PUT of an older version", async |t| {
            let object = t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            t.put(&format!("{}/status", t.widget("a")), &object).await.refused(409, "Conflict");
        }),
        behaviour("status: a write to the object leaves it", async |t| {
            t.made("a").await;
            t.merge(&format!("{}/status", t.widget("a")), &json!({ "status": { "ready": true } }))
                .await
                .ok(200);
            let after = t
                .merge(&t.widget("a"), &json!({ "status": { "ready": false }, "spec": { "size": 2 } }))
                .await
                .ok(200);
            after.has(json!({ "status": { "ready": true }, "spec": { "size": 2 } }));
        }),
        behaviour("status: its schema is checked", async |t| {
            t.made("a").await;
            let change = json!({ "status": { "ready": "yes" } });
            let refused = t.merge(&format!("{}/status", t.widget("a")), &change).await.refused(422, "Invalid");
            refused.causes(&[("FieldValueTypeInvalid", "status.ready"), ("FieldValueInvalid", "<nil>")]);
        }),
        behaviour("status: managedFields name the subresource", async |t| {
            t.made("a").await;
            let after = t
                .merge(&format!("{}/status", t.widget("a")), &json!({ "status": { "ready": true } }))
                .await
                .ok(200);
            after
                .manager("conformance", "Update", "status")
                .has(json!({ "fieldsV1": { "f:status": { ".": {}, "f:ready": {} } } }));
        }),
        behaviour("status: unknown fields are pruned", async |t| {
            t.made("a").await;
            let after = t
                .merge(
                    &format!("{}/status", t.widget("a")),
                    &json!({ "status": { "ready": true, "bogus": 1 } }),
                )
                .await
                .ok(200);
            after.lacks("/status/bogus");
        }),
        behaviour("status: without the subresource it is an ordinary field", async |t| {
            let mut sent = gadget(&t.namespace);
            sent["status"] = json!({ "phase": "x" });
            t.post(GADGETS, &sent).await.ok(201).has(json!({ "status": { "phase": "x" } }));
            assert_eq!(t.get(&format!("{GADGETS}/{}/status", t.namespace)).await.code, 404);
        }),
        behaviour("status: cannot be created or deleted", async |t| {
            t.made("a").await;
            t.delete(&format!("{}/status", t.widget("a")))
                .await
                .refused(405, "MethodNotAllowed");
        }),
        behaviour("status: of a missing object", async |t| {
            t.get(&format!("{}/status", t.widget("nobody"))).await.refused(404, "NotFound");
        }),
        behaviour("scale: reads the count", async |t| {
            t.post(&t.widgets(), &of_spec("a", json!({ "size": 1, "replicas": 3 })))
                .await
                .ok(201);
            let made = t.get(&t.widget("a")).await.ok(200);
            let scale = t.get(&format!("{}/scale", t.widget("a"))).await.ok(200);
            scale.has(json!({ "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": { "name": "a", "namespace": t.namespace, "uid": made.uid(), "resourceVersion": made.version() }, "spec": { "replicas": 3 }, "status": { "replicas": 0 } }));
        }),
        behaviour("scale: shows status and selector", async |t| {
            t.post(&t.widgets(), &of_spec("a", json!({ "size": 1, "replicas": 3 })))
                .await
                .ok(201);
            t.merge(
                &format!("{}/status", t.widget("a")),
                &json!({ "status": { "replicas": 2, "selector": "app=x" } }),
            )
            .await
            .ok(200);
            t.get(&format!("{}/scale", t.widget("a")))
                .await
                .ok(200)
                .has(json!({ "status": { "replicas": 2, "selector": "app=x" } }));
        }),
        behaviour("scale: a count that is not set", async |t| {
            t.made("a").await;
            let refused = t.get(&format!("{}/scale", t.widget("a"))).await.refused(500, "InternalError");
            refused.says("the spec replicas field \".spec.replicas\" does not exist");
            let refused = t
                .merge(
                    &format!("{}/scale", t.widget("a")),
                    &json!({ "metadata": { "labels": { "a": "b" } } }),
                )
                .await
                .refused(400, "BadRequest");
            refused.message("the spec replicas field \".spec.replicas\" cannot be empty");
        }),
        behaviour("scale: PUT writes the count", async |t| {
            t.post(&t.widgets(), &of_spec("a", json!({ "size": 1, "replicas": 1 })))
                .await
                .ok(201);
            let mut scale = t.get(&format!("{}/scale", t.widget("a"))).await.ok(200);
            scale["spec"]["replicas"] = json!(5);
            t.put(&format!("{}/scale", t.widget("a")), &scale)
                .await
                .ok(200)
                .has(json!({ "spec": { "replicas": 5 } }));
            t.get(&t.widget("a"))
                .await
                .ok(200)
                .has(json!({ "spec": { "replicas": 5 }, "metadata": { "generation": 2 } }));
        }),
        behaviour("scale: PUT of an older version", async |t| {
            t.post(&t.widgets(), &of_spec("a", json!({ "size": 1, "replicas": 1 })))
                .await
                .ok(201);
            let mut scale = t.get(&format!("{}/scale", t.widget("a"))).await.ok(200);
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            scale["spec"]["replicas"] = json!(5);
            t.put(&format!("{}/scale", t.widget("a")), &scale).await.refused(409, "Conflict");
        }),
        behaviour("scale: a PUT of another kind", async |t| {
            let made = t.made("a").await;
            t.put(&format!("{}/scale", t.widget("a")), &made).await.refused(400, "BadRequest");
        }),
        behaviour("scale: a merge patch writes the count", async |t| {
            t.made("a").await;
            t.merge(&format!("{}/scale", t.widget("a")), &json!({ "spec": { "replicas": 2 } }))
                .await
                .ok(200)
                .has(json!({ "spec": { "replicas": 2 } }));
        }),
        behaviour("scale: a negative count", async |t| {
            t.made("a").await;
            t.merge(&format!("{}/scale", t.widget("a")), &json!({ "spec": { "replicas": -1 } }))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("scale: owners of the count are told", async |t| {
            t.post(&t.widgets(), &of_spec("a", json!({ "size": 1, "replicas": 3 })))
                .await
                .ok(201);
            t.merge(&format!("{}/scale", t.widget("a")), &json!({ "spec": { "replicas": 2 } }))
                .await
                .ok(200);
            let after = t.get(&t.widget("a")).await.ok(200);
            after
                .manager("conformance", "Update", "scale")
                .has(json!({ "fieldsV1": { "f:spec": { "f:replicas": {} } } }));
        }),
        behaviour("scale: of a missing object", async |t| {
            t.get(&format!("{}/scale", t.widget("nobody"))).await.refused(404, "NotFound");
        }),
        behaviour("scale: of a kind without it", async |t| {
            t.post(GADGETS, &gadget(&t.namespace)).await.ok(201);
            assert_eq!(t.get(&format!("{GADGETS}/{}/scale", t.namespace)).await.code, 404);
        }),
        behaviour("finalize: takes a namespace's finalizers", async |t| {
            let name = format!("{}-f", t.namespace);
            let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            let mut made = t.post("/api/v1/namespaces", &body).await.ok(201);
            made["spec"]["finalizers"] = json!(["kubernetes", "example.com/mine"]);
            let after = t.put(&format!("/api/v1/namespaces/{name}/finalize"), &made).await.ok(200);
            after.has(json!({ "spec": { "finalizers": ["kubernetes", "example.com/mine"] } }));
        }),
    ]
}
