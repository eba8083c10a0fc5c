//! Create, read and replace; generated names; optimistic concurrency; dry run.

use serde_json::{Value, json};

use crate::{
    behaviour::{Behaviour, behaviour},
    definitions::*,
};

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = vec![
        behaviour("create: answers 201 with what the server set", async |t| {
            let made = t.post(&t.widgets(), &widget("a", 3)).await.ok(201);
            made.has(json!({ "apiVersion": "conformance.example.com/v1", "kind": "Widget", "metadata": { "name": "a", "namespace": t.namespace, "generation": 1 } }));
            assert!(!made.uid().is_empty() && !made.version().is_empty() && made["metadata"]["creationTimestamp"].is_string());
            made.lacks("/metadata/selfLink");
        }),
        behaviour("create: the answer is what a read gives", async |t| {
            let made = t.made("a").await;
            assert_eq!(t.get(&t.widget("a")).await.ok(200), made);
        }),
        behaviour("create: fields that the server sets are not taken from the client", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111");
            sent["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
            sent["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
            sent["metadata"]["generation"] = json!(7);
            sent["metadata"]["selfLink"] = json!("/x");
            let made = t.post(&t.widgets(), &sent).await.ok(201);
            assert_ne!(made.uid(), "11111111-1111-1111-1111-111111111111");
            assert_ne!(made["metadata"]["creationTimestamp"], "2001-01-01T00:00:00Z");
            made.has(json!({ "metadata": { "generation": 1 } }))
                .lacks("/metadata/deletionTimestamp");
        }),
        behaviour("create: a second object of the same name is refused", async |t| {
            t.made("a").await;
            let refused = t.post(&t.widgets(), &widget("a", 1)).await.refused(409, "AlreadyExists");
            refused.message("widgets.conformance.example.com \"a\" already exists");
            refused.has(json!({ "details": { "name": "a", "group": GROUP, "kind": "widgets" } }));
        }),
        behaviour("create: the namespace is taken from the path", async |t| {
            let made = t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            made.has(json!({ "metadata": { "namespace": t.namespace } }));
        }),
        behaviour("create: another namespace in the body is refused", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"]["namespace"] = json!("default");
            let refused = t.post(&t.widgets(), &sent).await.refused(400, "BadRequest");
            refused.message("the namespace of the provided object does not match the namespace sent on the request");
        }),
        behaviour("create: a resourceVersion is refused", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"]["resourceVersion"] = json!("1");
            t.post(&t.widgets(), &sent)
                .await
                .refused(500, "")
                .message("resourceVersion should not be set on objects to be created");
        }),
        behaviour("create: in a namespace that is not there", async |t| {
            let path = "/apis/conformance.example.com/v1/namespaces/nowhere/widgets";
            let refused = t.post(path, &widget("a", 1)).await.refused(404, "NotFound");
            refused
                .message("namespaces \"nowhere\" not found")
                .has(json!({ "details": { "name": "nowhere", "kind": "namespaces" } }));
        }),
        behaviour("create: without name and generateName", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"] = json!({});
            let refused = t.post(&t.widgets(), &sent).await.refused(422, "Invalid");
            refused
                .says("name or generateName is required")
                .causes(&[("FieldValueRequired", "metadata.name"), ("FieldValueInvalid", "<nil>")]);
        }),
        behaviour("create: cluster-scoped objects have no namespace", async |t| {
            let made = t.post(GADGETS, &gadget(&t.namespace)).await.ok(201);
            made.lacks("/metadata/namespace");
        }),
        behaviour("create: POST to a custom resource's path takes the name of the body", async |t| {
            t.post(&t.widget("other"), &widget("a", 1)).await.ok(201);
            t.get(&t.widget("a")).await.ok(200);
            t.get(&t.widget("other")).await.refused(404, "NotFound");
        }),
        behaviour("create: POST to a core object's path is not allowed", async |t| {
            t.post(&t.config_map("c"), &config_map("c")).await.refused(405, "MethodNotAllowed");
        }),
        behaviour("create: a refusal carries the warnings", async |t| {
            let answer = t.post(&t.widgets(), &of_spec("a", json!({ "size": -1, "bogus": 1 }))).await;
            assert_eq!(answer.warnings(), ["unknown field \"spec.bogus\""]);
            answer.refused(422, "Invalid");
        }),
        behaviour("create: a null label is an empty one", async |t| {
            let made = t.post(&t.widgets(), &labelled("a", json!({ "app": null }))).await.ok(201);
            made.has(json!({ "metadata": { "labels": { "app": "" } } }));
        }),
        behaviour("create: a status of another type leaves the object without managers", async |t| {
            let mut sent = widget("a", 1);
            sent["status"] = json!({ "ready": "yes" });
            t.post(&t.widgets(), &sent)
                .await
                .ok(201)
                .lacks("/metadata/managedFields")
                .lacks("/status");
        }),
        behaviour("create: YAML is read", async |t| {
            let text = "apiVersion: conformance.example.com/v1\nkind: Widget\nmetadata:\n  name: a\nspec:\n  size: 4\n";
            let call = t.call(reqwest::Method::POST, &t.widgets()).body("application/yaml", text);
            call.send().await.ok(201).has(json!({ "spec": { "size": 4 } }));
        }),
        behaviour("create: managedFields name manager, operation and fields", async |t| {
            let made = t.made("a").await;
            let entry = made.manager("conformance", "Update", "");
            entry.has(
                json!({ "apiVersion": "conformance.example.com/v1", "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:size": {} } } }),
            );
        }),
        behaviour("create: the field manager can be named", async |t| {
            let made = t.post(&format!("{}?fieldManager=me", t.widgets()), &widget("a", 1)).await.ok(201);
            made.manager("me", "Update", "");
        }),
        behaviour("create: labels and annotations are kept", async |t| {
            let mut sent = labelled("a", json!({ "x": "y", "example.com/z": "" }));
            sent["metadata"]["annotations"] = json!({ "note": "any text: {}" });
            let made = t.post(&t.widgets(), &sent).await.ok(201);
            made.has(json!({ "metadata": { "labels": { "x": "y", "example.com/z": "" }, "annotations": { "note": "any text: {}" } } }));
        }),
        behaviour("generateName: five characters are added", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"] = json!({ "generateName": "some-" });
            let made = t.post(&t.widgets(), &sent).await.ok(201);
            let name = made["metadata"]["name"].as_str().unwrap_or_default();
            assert!(name.len() == 10 && name.starts_with("some-"), "{name}");
            made.has(json!({ "metadata": { "generateName": "some-" } }));
        }),
        behaviour("generateName: a name wins over it", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"]["generateName"] = json!("some-");
            t.post(&t.widgets(), &sent)
                .await
                .ok(201)
                .has(json!({ "metadata": { "name": "a", "generateName": "some-" } }));
        }),
        behaviour("generateName: each request makes another object", async |t| {
            let mut sent = config_map("c");
            sent["metadata"] = json!({ "generateName": "c-" });
            let (one, two) = (
                t.post(&t.config_maps(), &sent).await.ok(201),
                t.post(&t.config_maps(), &sent).await.ok(201),
            );
            assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
        }),
        behaviour("generateName: a long prefix is cut", async |t| {
            let mut sent = config_map("c");
            sent["metadata"] = json!({ "generateName": "p".repeat(80) });
            let made = t.post(&t.config_maps(), &sent).await.ok(201);
            let name = made["metadata"]["name"].as_str().unwrap_or_default();
            assert_eq!(name.len(), 63, "{name}");
        }),
        behaviour("get: a missing object", async |t| {
            let refused = t.get(&t.widget("nobody")).await.refused(404, "NotFound");
            refused.message("widgets.conformance.example.com \"nobody\" not found");
            assert_eq!(refused["details"], json!({ "name": "nobody", "group": GROUP, "kind": "widgets" }));
        }),
        behaviour("get: a missing core object names no group", async |t| {
            let refused = t.get(&t.config_map("nobody")).await.refused(404, "NotFound");
            assert_eq!(refused["details"], json!({ "name": "nobody", "kind": "configmaps" }));
        }),
        behaviour("get: answers are not to be cached", async |t| {
            t.made("a").await;
            let answer = t.get(&t.widget("a")).await;
            assert_eq!(answer.header("cache-control"), "no-cache, private");
            assert_eq!(answer.header("content-type"), "application/json");
        }),
        behaviour("get: a newer resourceVersion than there is", async |t| {
            t.made("a").await;
            let refused = t
                .get(&format!("{}?resourceVersion=999999999", t.widget("a")))
                .await
                .refused(504, "Timeout");
            refused.says("Too large resource version").has(json!({ "details": { "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }], "retryAfterSeconds": 1 } }));
        }),
        behaviour("get: resourceVersion 0 gives any version", async |t| {
            t.made("a").await;
            // Any version is also one from before it was made: the real server's cache may be a moment behind.
            crate::api::eventually("it is seen", async || {
                t.get(&format!("{}?resourceVersion=0", t.widget("a"))).await.code == 200
            })
            .await;
        }),
        behaviour("update: a changed spec is a new generation and version", async |t| {
            let mut object = t.made("a").await;
            object["spec"]["size"] = json!(2);
            let after = t.put(&t.widget("a"), &object).await.ok(200);
            after.has(json!({ "spec": { "size": 2 }, "metadata": { "generation": 2, "uid": object.uid() } }));
            assert_ne!(after.version(), object.version());
        }),
        behaviour("update: labels alone are no new generation", async |t| {
            let mut object = t.made("a").await;
            object["metadata"]["labels"] = json!({ "x": "y" });
            t.put(&t.widget("a"), &object)
                .await
                .ok(200)
                .has(json!({ "metadata": { "generation": 1, "labels": { "x": "y" } } }));
        }),
        behaviour("update: what changes nothing keeps the version", async |t| {
            let object = t.made("a").await;
            assert_eq!(t.put(&t.widget("a"), &object).await.ok(200), object);
        }),
        behaviour("update: of an older version is refused", async |t| {
            let mut object = t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            object["spec"]["size"] = json!(3);
            let refused = t.put(&t.widget("a"), &object).await.refused(409, "Conflict");
            refused.message("Operation cannot be fulfilled on widgets.conformance.example.com \"a\": the object has been modified; please apply your changes to the latest version and try again");
            assert_eq!(refused["details"], json!({ "name": "a", "group": GROUP, "kind": "widgets" }));
        }),
        behaviour("update: a custom resource needs the resourceVersion", async |t| {
            t.made("a").await;
            let refused = t.put(&t.widget("a"), &widget("a", 2)).await.refused(422, "Invalid");
            refused.says("metadata.resourceVersion: Invalid value: 0: must be specified for an update");
        }),
        behaviour("update: a ConfigMap may be replaced unconditionally", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let mut other = config_map("c");
            other["data"] = json!({ "other": "x" });
            assert_eq!(t.put(&t.config_map("c"), &other).await.ok(200)["data"], json!({ "other": "x" }));
        }),
        behaviour("update: another uid is a conflict", async |t| {
            let mut object = t.made("a").await;
            object["metadata"]["uid"] = json!("11111111-1111-1111-1111-111111111111");
            t.put(&t.widget("a"), &object)
                .await
                .refused(409, "Conflict")
                .says("Precondition failed: UID in precondition");
        }),
        behaviour("update: another name than in the path", async |t| {
            let mut object = t.made("a").await;
            object["metadata"]["name"] = json!("b");
            let refused = t.put(&t.widget("a"), &object).await.refused(400, "BadRequest");
            refused.message("the name of the object (b) does not match the name on the URL (a)");
        }),
        behaviour("update: another namespace than in the path", async |t| {
            let mut object = t.made("a").await;
            object["metadata"]["namespace"] = json!("default");
            let refused = t.put(&t.widget("a"), &object).await.refused(400, "BadRequest");
            refused.message("the namespace of the provided object does not match the namespace sent on the request");
        }),
        behaviour("update: of a missing custom resource", async |t| {
            let mut object = widget("a", 1);
            object["metadata"]["resourceVersion"] = json!("1");
            t.put(&t.widget("a"), &object).await.refused(404, "NotFound");
        }),
        behaviour("update: of a missing ConfigMap", async |t| {
            t.put(&t.config_map("c"), &config_map("c")).await.refused(404, "NotFound");
        }),
        behaviour("update: of a collection misses the name", async |t| {
            let refused = t.put(&t.widgets(), &widget("a", 1)).await.refused(400, "BadRequest");
            refused.message("name must be provided");
            t.put(&t.config_maps(), &config_map("a")).await.refused(405, "MethodNotAllowed");
        }),
        behaviour("update: what the server set stays", async |t| {
            let made = t.made("a").await;
            let mut object = made.clone();
            for field in ["uid", "creationTimestamp", "generation", "managedFields"] {
                object["metadata"].as_object_mut().expect("an object").remove(field);
            }
            object["spec"]["size"] = json!(2);
            let after = t.put(&t.widget("a"), &object).await.ok(200);
            after.has(
                json!({ "metadata": { "uid": made.uid(), "creationTimestamp": made["metadata"]["creationTimestamp"], "generation": 2 } }),
            );
        }),
        behaviour("update: managedFields follow who changed what", async |t| {
            let mut object = t.made("a").await;
            object["spec"]["size"] = json!(2);
            let after = t.put(&format!("{}?fieldManager=other", t.widget("a")), &object).await.ok(200);
            after
                .manager("other", "Update", "")
                .has(json!({ "fieldsV1": { "f:spec": { "f:size": {} } } }));
            after.manager("conformance", "Update", "").lacks("/fieldsV1/f:spec/f:size");
        }),
        behaviour("update: an empty list of managedFields resets them", async |t| {
            t.made("a").await;
            let after = t
                .merge(&t.widget("a"), &json!({ "metadata": { "managedFields": [{}] } }))
                .await
                .ok(200);
            after.lacks("/metadata/managedFields/0");
        }),
        behaviour("concurrency: of ten writers of one version one wins", async |t| {
            let object = t.made("a").await;
            let writes = (0..10).map(|n| {
                let mut object = object.0.clone();
                object["spec"]["size"] = json!(10 + n);
                async move { t.put(&t.widget("a"), &object).await.code }
            });
            let mut codes = futures::future::join_all(writes).await;
            codes.sort_unstable();
            assert_eq!(codes, [200, 409, 409, 409, 409, 409, 409, 409, 409, 409]);
        }),
        behaviour("concurrency: patches without a version all succeed", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let patches = (0..8).map(|n| async move {
                let change = json!({ "data": { format!("k{n}"): "x" } });
                t.merge(&t.config_map("c"), &change).await.code
            });
            assert_eq!(futures::future::join_all(patches).await, [200; 8]);
            let data = t.get(&t.config_map("c")).await.ok(200)["data"].clone();
            assert_eq!(data.as_object().map(serde_json::Map::len), Some(9));
        }),
        behaviour("concurrency: of ten creators of one name one wins", async |t| {
            let creates = (0..10).map(|_| async { t.post(&t.config_maps(), &config_map("c")).await.code });
            let mut codes = futures::future::join_all(creates).await;
            codes.sort_unstable();
            assert_eq!(codes, [201, 409, 409, 409, 409, 409, 409, 409, 409, 409]);
        }),
        behaviour("dry run: a create stores nothing", async |t| {
            let made = t.post(&format!("{}?dryRun=All", t.widgets()), &widget("a", 1)).await.ok(201);
            made.has(json!({ "spec": { "size": 1, "color": "red" }, "metadata": { "name": "a" } }))
                .lacks("/metadata/resourceVersion");
            assert!(!made.uid().is_empty());
            t.get(&t.widget("a")).await.refused(404, "NotFound");
        }),
        behaviour("dry run: a create of what is there is refused", async |t| {
            t.made("a").await;
            t.post(&format!("{}?dryRun=All", t.widgets()), &widget("a", 1))
                .await
                .refused(409, "AlreadyExists");
        }),
        behaviour("dry run: an update stores nothing", async |t| {
            let made = t.made("a").await;
            let mut object = made.clone();
            object["spec"]["size"] = json!(5);
            let after = t.put(&format!("{}?dryRun=All", t.widget("a")), &object).await.ok(200);
            after.has(json!({ "spec": { "size": 5 }, "metadata": { "generation": 2, "resourceVersion": made.version() } }));
            assert_eq!(t.get(&t.widget("a")).await.ok(200), made);
        }),
        behaviour("dry run: a patch stores nothing", async |t| {
            let made = t.made("a").await;
            let after = t
                .merge(&format!("{}?dryRun=All", t.widget("a")), &json!({ "spec": { "size": 5 } }))
                .await
                .ok(200);
            after.has(json!({ "spec": { "size": 5 } }));
            assert_eq!(t.get(&t.widget("a")).await.ok(200), made);
        }),
        behaviour("dry run: an apply stores nothing", async |t| {
            t.apply(&format!("{}?dryRun=All", t.widget("a")), "me", &widget("a", 1))
                .await
                .ok(201);
            t.get(&t.widget("a")).await.refused(404, "NotFound");
        }),
        behaviour("dry run: a deletion removes nothing", async |t| {
            let made = t.made("a").await;
            t.delete(&format!("{}?dryRun=All", t.widget("a"))).await.ok(200);
            t.delete_with(
                &t.widget("a"),
                &json!({ "kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"] }),
            )
            .await
            .ok(200);
            assert_eq!(t.get(&t.widget("a")).await.ok(200), made);
        }),
        behaviour("dry run: a deletion of a collection removes nothing", async |t| {
            t.made("a").await;
            t.delete(&format!("{}?dryRun=All", t.widgets())).await.ok(200);
            t.get(&t.widget("a")).await.ok(200);
        }),
        behaviour("dry run: rules are checked", async |t| {
            t.post(&format!("{}?dryRun=All", t.widgets()), &widget("a", 500))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("dry run: another value is refused", async |t| {
            let refused = t
                .post(&format!("{}?dryRun=Some", t.widgets()), &widget("a", 1))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueNotSupported", "dryRun")]);
        }),
        behaviour("field manager: too long", async |t| {
            let refused = t
                .post(&format!("{}?fieldManager={}", t.widgets(), "m".repeat(129)), &widget("a", 1))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueTooLong", "fieldManager")]);
        }),
    ];
    list.extend(names());
    list
}

/// Which names a custom resource may have, and its labels.
fn names() -> Vec<Behaviour> {
    const NAMES: &[(&str, &str, bool)] = &[
        ("dots and digits", "a.b-1.c", true),
        ("upper case", "Upper", false),
        ("an underscore", "under_score", false),
        ("a leading dash", "-a", false),
        ("a slash", "a/b", false),
        ("254 characters", "", false),
    ];
    const LABELS: &[(&str, &str, &str, bool)] = &[
        ("a prefix", "example.com/a", "b", true),
        ("a bad key", "a b", "c", false),
        ("a bad value", "a", "b c", false),
        ("two slashes", "a/b/c", "d", false),
    ];
    let names = NAMES.iter().map(|(what, name, allowed)| {
        behaviour(format!("names: {what}"), async move |t| {
            let name = if name.is_empty() { "n".repeat(254) } else { (*name).to_owned() };
            let answer = t.post(&t.widgets(), &widget(&name, 1)).await;
            if *allowed {
                answer.ok(201);
            } else {
                answer.refused(422, "Invalid").causes(&[("FieldValueInvalid", "metadata.name")]);
            }
        })
    });
    let labels = LABELS.iter().map(|(what, key, value, allowed)| {
        behaviour(format!("labels: {what}"), async move |t| {
            let answer = t
                .post(
                    &t.widgets(),
                    &labelled("a", Value::Object([((*key).to_owned(), json!(value))].into_iter().collect())),
                )
                .await;
            if *allowed {
                answer.ok(201);
            } else {
                answer.refused(422, "Invalid").causes(&[("FieldValueInvalid", "metadata.labels")]);
            }
        })
    });
    names.chain(labels).collect()
}
