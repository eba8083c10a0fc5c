//! The protocol, request by request, through the router.

use http::{Method, header};
use serde_json::{Value, json};

use crate::common::*;

#[tokio::test]
async fn objects_are_created_read_replaced_and_deleted() {
    let server = Server::with_definitions().await;
    let made = server.post(WIDGETS, &widget("a", 3)).await.expect(201);
    assert_eq!(made["kind"], "Widget");
    assert_eq!(made["apiVersion"], "example.com/v1");
    assert_eq!(
        made["spec"],
        json!({ "size": 3, "maxSize": 100, "color": "red" }),
        "defaults are filled in"
    );
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "tester");
    let path = format!("{WIDGETS}/a");
    assert_eq!(server.get(&path).await.expect(200), made);

    let mut changed = made.clone();
    changed["spec"]["size"] = json!(4);
    let replaced = server.put(&path, &changed).await.expect(200);
    assert_eq!(replaced["metadata"]["generation"], 2);
    assert_ne!(replaced["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let again = server.put(&path, &replaced).await.expect(200);
    assert_eq!(again, replaced, "an update that changes nothing stores nothing");

    let refused = server.put(&path, &changed).await.expect(409);
    assert_eq!(refused["reason"], "Conflict");
    assert_eq!(
        refused["message"],
        "Operation cannot be fulfilled on widgets.example.com \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    assert_eq!(
        refused["details"],
        json!({ "name": "a", "group": "example.com", "kind": "widgets" })
    );

    let gone = server.delete(&path).await.expect(200);
    assert_eq!(gone["status"], "Success");
    assert_eq!(
        gone["details"],
        json!({ "name": "a", "group": "example.com", "kind": "widgets", "uid": made["metadata"]["uid"] })
    );
    let missing = server.get(&path).await.expect(404);
    assert_eq!(missing["message"], "widgets.example.com \"a\" not found");
    assert_eq!(missing["reason"], "NotFound");
}

#[tokio::test]
async fn refusals_name_their_reason() {
    let server = Server::with_definitions().await;
    server.post(WIDGETS, &widget("a", 3)).await.expect(201);
    let exists = server.post(WIDGETS, &widget("a", 3)).await.expect(409);
    assert_eq!(
        (exists["reason"].as_str(), exists["message"].as_str()),
        (Some("AlreadyExists"), Some("widgets.example.com \"a\" already exists"))
    );

    let invalid = server.post(WIDGETS, &widget("b", 2000)).await.expect(422);
    assert_eq!(invalid["reason"], "Invalid");
    assert_eq!(invalid["details"]["kind"], "Widget");
    assert_eq!(invalid["details"]["causes"][0]["field"], "spec.size");

    let mut wrong = widget("Bad_Name", 1);
    let invalid = server.post(WIDGETS, &wrong).await.expect(422);
    assert_eq!(invalid["details"]["causes"][0]["field"], "metadata.name");
    wrong["metadata"] = json!({});
    let unnamed = server.post(WIDGETS, &wrong).await.expect(422);
    assert!(
        unnamed["message"]
            .as_str()
            .is_some_and(|text| text.contains("name or generateName is required")),
        "{unnamed}"
    );

    let rules = server
        .post(
            WIDGETS,
            &json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "c" }, "spec": { "size": 9, "maxSize": 5 } }),
        )
        .await;
    assert!(
        rules.expect(422)["message"]
            .as_str()
            .is_some_and(|text| text.contains("size may not exceed maxSize"))
    );
    let transition = server
        .merge(&format!("{WIDGETS}/a"), &json!({ "spec": { "color": "blue" } }))
        .await
        .expect(422);
    assert_eq!(transition["details"]["causes"][0]["field"], "spec.color");

    let nowhere = server
        .post("/apis/example.com/v1/namespaces/nowhere/widgets", &widget("a", 1))
        .await
        .expect(404);
    assert_eq!(nowhere["message"], "namespaces \"nowhere\" not found");
    let mismatch = server.post("/apis/example.com/v1/namespaces/kube-system/widgets", &json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "x", "namespace": "default" }, "spec": { "size": 1 } })).await;
    mismatch.expect(400);
    let version = server
        .post(
            WIDGETS,
            &json!({ "apiVersion": "example.com/v9", "kind": "Widget", "metadata": { "name": "x" }, "spec": { "size": 1 } }),
        )
        .await
        .expect(400);
    assert_eq!(
        version["message"],
        "the API version in the data (example.com/v9) does not match the expected API version (example.com/v1)"
    );

    let unconditional = server.put(&format!("{WIDGETS}/a"), &widget("a", 5)).await.expect(422);
    assert!(
        unconditional["message"]
            .as_str()
            .is_some_and(|text| text.contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update"))
    );

    assert_eq!(server.get("/apis/example.com/v1/nothings").await.code, 404);
    assert_eq!(server.get("/apis/example.com/v7/widgets").await.text, "404 page not found\n");
    assert_eq!(server.request(Method::POST, WIDGETS, "text/plain", "x").await.code, 415);
    assert_eq!(
        server
            .request(Method::POST, WIDGETS, "application/vnd.kubernetes.protobuf", "x")
            .await
            .code,
        415
    );
    assert_eq!(server.get_as(WIDGETS, "application/vnd.kubernetes.protobuf").await.code, 406);
    assert_eq!(server.request(Method::POST, WIDGETS, "application/json", "{").await.code, 400);
    assert_eq!(
        server
            .request(
                Method::PATCH,
                &format!("{WIDGETS}/a"),
                "application/strategic-merge-patch+json",
                "{}"
            )
            .await
            .code,
        415
    );
}

#[tokio::test]
async fn hostile_bodies_are_refused() {
    let server = Server::with_definitions().await;
    let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    for kind in ["application/json", "application/yaml"] {
        assert_eq!(server.request(Method::POST, WIDGETS, kind, deep.clone()).await.code, 400, "{kind}");
    }
    for kind in [
        "application/merge-patch+json",
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ] {
        let path = format!("{WIDGETS}/a?fieldManager=x");
        assert_eq!(server.request(Method::PATCH, &path, kind, deep.clone()).await.code, 400, "{kind}");
    }
    let large = server.request(Method::POST, WIDGETS, "application/json", vec![b' '; 4 << 20]).await;
    assert_eq!(large.expect(413)["reason"], "RequestEntityTooLarge");
    assert_eq!(server.get(&format!("{WIDGETS}?continue={}", "A".repeat(6000))).await.code, 400);
    assert_eq!(server.get(&format!("{WIDGETS}?labelSelector=%ff")).await.code, 400);
    assert_eq!(server.get(&format!("{WIDGETS}/%2e%2e%2fsecrets")).await.code, 404);
    assert_eq!(server.api.panics(), 0);
}

#[tokio::test]
async fn nobody_enters_without_an_identity() {
    let server = Server::with_definitions().await;
    let (url, cancel, task) = server.listen().await;
    // Another test may have installed the same provider before.
    drop(rustls::crypto::ring::default_provider().install_default());
    let authority = reqwest::Certificate::from_pem(server.api.ca_pem().as_bytes()).expect("a certificate");
    let http = reqwest::Client::builder().tls_certs_only([authority]).build().expect("a client");
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(
            http.get(format!("{url}{path}")).send().await.expect("an answer").status(),
            200,
            "{path}"
        );
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/api/v1",
        "/api/v1/namespaces",
        "/api/v1/secrets",
        "/openapi/v2",
        "/openapi/v3",
        "/apis/example.com/v1/widgets",
        "/nothing",
        "/healthzz",
        "/version/x",
    ] {
        let response = http.get(format!("{url}{path}")).send().await.expect("an answer");
        assert_eq!(response.status(), 401, "{path}");
    }
    cancel.cancel();
    task.await.expect("the listener ends").expect("without an error");
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let server = Server::with_definitions().await;
    let mut first = widget("a", 3);
    first["status"] = json!({ "ready": true });
    let made = server.post(WIDGETS, &first).await.expect(201);
    assert!(made.get("status").is_none(), "a new object has no status");
    let path = format!("{WIDGETS}/a");
    let status = server
        .merge(
            &format!("{path}/status"),
            &json!({ "status": { "ready": true }, "spec": { "size": 9 }, "metadata": { "labels": { "x": "y" } } }),
        )
        .await
        .expect(200);
    assert_eq!(status["status"]["ready"], true);
    assert_eq!(status["spec"]["size"], 3);
    assert!(status["metadata"].get("labels").is_none());
    assert_eq!(status["metadata"]["generation"], 1);
    let main = server
        .merge(
            &path,
            &json!({ "status": { "ready": false }, "metadata": { "labels": { "x": "y" } } }),
        )
        .await
        .expect(200);
    assert_eq!(main["status"]["ready"], true);
    assert_eq!(main["metadata"]["labels"]["x"], "y");
    assert_eq!(main["metadata"]["generation"], 1, "labels are not a new generation");
    let subresources: Vec<&str> = main["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .iter()
        .filter_map(|entry| entry["subresource"].as_str())
        .collect();
    assert_eq!(subresources, ["status"]);
    // Without the subresource the status is an ordinary field.
    let mut plain = gadget("g");
    plain["status"] = json!({ "phase": "x" });
    assert_eq!(server.post(GADGETS, &plain).await.expect(201)["status"]["phase"], "x");
    assert_eq!(server.get(&format!("{GADGETS}/g/status")).await.code, 404);
}

#[tokio::test]
async fn scale_reads_and_writes_the_replica_count() {
    let server = Server::with_definitions().await;
    server.post(WIDGETS, &widget("a", 3)).await.expect(201);
    let path = format!("{WIDGETS}/a/scale");
    // As in the real server: without a count there is no Scale.
    server.get(&path).await.expect(500);
    server
        .merge(&format!("{WIDGETS}/a"), &json!({ "spec": { "replicas": 1 } }))
        .await
        .expect(200);
    let mut scale = server.get(&path).await.expect(200);
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"].clone()),
        (Some("Scale"), json!({ "replicas": 1 }))
    );
    scale["spec"]["replicas"] = json!(5);
    let scaled = server.put(&path, &scale).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["replicas"], 5);
    assert_eq!(
        server.merge(&path, &json!({ "spec": { "replicas": 2 } })).await.expect(200)["spec"]["replicas"],
        2
    );
    server.merge(&path, &json!({ "spec": { "replicas": -1 } })).await.expect(422);
    scale["spec"]["replicas"] = json!(7);
    server.put(&path, &scale).await.expect(409);
}

#[tokio::test]
async fn patches_of_every_kind() {
    let server = Server::with_definitions().await;
    server.post(WIDGETS, &widget("a", 3)).await.expect(201);
    let path = format!("{WIDGETS}/a");
    let json_patch = |operations: Value| server.request(Method::PATCH, &path, "application/json-patch+json", operations.to_string());
    let patched =
        json_patch(json!([{ "op": "test", "path": "/spec/size", "value": 3 }, { "op": "replace", "path": "/spec/size", "value": 4 }]))
            .await;
    assert_eq!(patched.expect(200)["spec"]["size"], 4);
    json_patch(json!([{ "op": "test", "path": "/spec/size", "value": 3 }]))
        .await
        .expect(422);
    json_patch(json!({ "not": "a list" })).await.expect(400);
    let merged = server
        .merge(&path, &json!({ "spec": { "tags": ["x"], "maxSize": null } }))
        .await
        .expect(200);
    assert_eq!(merged["spec"]["tags"], json!(["x"]));
    assert_eq!(merged["spec"]["maxSize"], 100, "removed and defaulted again");
    server
        .merge(&path, &json!({ "metadata": { "resourceVersion": "1" } }))
        .await
        .expect(409);
    server.merge(&path, &json!({ "metadata": { "name": "b" } })).await.expect(400);
    server.merge(&format!("{WIDGETS}/missing"), &json!({})).await.expect(404);

    server.post(CONFIG_MAPS, &config_map("c")).await.expect(201);
    let strategic = server
        .request(
            Method::PATCH,
            &format!("{CONFIG_MAPS}/c"),
            "application/strategic-merge-patch+json",
            json!({ "data": { "more": "x" }, "metadata": { "finalizers": ["a/b"] } }).to_string(),
        )
        .await
        .expect(200);
    assert_eq!(strategic["data"], json!({ "key": "value", "more": "x" }));
    let strategic = server
        .request(
            Method::PATCH,
            &format!("{CONFIG_MAPS}/c"),
            "application/strategic-merge-patch+json",
            json!({ "metadata": { "finalizers": ["c/d"] } }).to_string(),
        )
        .await
        .expect(200);
    let mut finalizers: Vec<&str> = strategic["metadata"]["finalizers"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    finalizers.sort_unstable();
    assert_eq!(finalizers, ["a/b", "c/d"], "finalizers merge");
}

#[tokio::test]
async fn server_side_apply_owns_conflicts_and_forces() {
    let server = Server::with_definitions().await;
    let path = format!("{WIDGETS}/a");
    let config = |spec: Value| json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "a" }, "spec": spec });
    let made = server
        .apply(&path, "one", &config(json!({ "size": 1, "parts": [{ "name": "x", "weight": 2 }] })))
        .await
        .expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = server
        .apply(&path, "one", &config(json!({ "size": 1, "parts": [{ "name": "x", "weight": 2 }] })))
        .await
        .expect(200);
    assert_eq!(
        again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "nothing changed"
    );
    let other = server
        .apply(&path, "two", &config(json!({ "size": 1, "parts": [{ "name": "y" }] })))
        .await
        .expect(200);
    assert_eq!(other["spec"]["parts"].as_array().map(Vec::len), Some(2), "list maps merge by key");
    let conflict = server.apply(&path, "two", &config(json!({ "size": 2 }))).await.expect(409);
    assert_eq!(conflict["reason"], "Conflict");
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(conflict["details"]["causes"][0]["field"], ".spec.size");
    let forced = server
        .apply(&format!("{path}?force=true"), "two", &config(json!({ "size": 2 })))
        .await
        .expect(200);
    assert_eq!(forced["spec"]["size"], 2);
    let names: Vec<&str> = forced["spec"]["parts"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|part| part["name"].as_str())
        .collect();
    assert_eq!(names, ["x"], "what the manager no longer applies goes");
    let unnamed = server
        .request(
            Method::PATCH,
            &path,
            "application/apply-patch+yaml",
            config(json!({ "size": 2 })).to_string(),
        )
        .await
        .expect(422);
    assert!(
        unnamed["message"]
            .as_str()
            .is_some_and(|text| text.contains("fieldManager: Required value"))
    );
    let yaml = "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: from-yaml\nspec:\n  size: 5\n";
    let applied = server
        .request(
            Method::PATCH,
            &format!("{WIDGETS}/from-yaml?fieldManager=z"),
            "application/apply-patch+yaml",
            yaml,
        )
        .await
        .expect(201);
    assert_eq!(applied["spec"]["size"], 5);
}

#[tokio::test]
async fn unknown_and_duplicate_fields_follow_the_field_validation() {
    let server = Server::with_definitions().await;
    let body = r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"size":1,"size":2,"bogus":3}}"#;
    let server = &server;
    let post = |query: &str| {
        let path = format!("{WIDGETS}?{query}");
        async move { server.request(Method::POST, &path, "application/json", body).await }
    };
    let strict = post("fieldValidation=Strict").await.expect(400);
    assert_eq!(
        strict["message"],
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: duplicate field \"spec.size\", unknown field \"spec.bogus\""
    );
    let warned = post("fieldValidation=Warn&dryRun=All").await;
    assert_eq!(
        warned.warnings(),
        [
            "299 - \"duplicate field \\\"spec.size\\\"\"",
            "299 - \"unknown field \\\"spec.bogus\\\"\""
        ]
    );
    let made = warned.expect(201);
    assert!(made["spec"].get("bogus").is_none());
    let silent = post("fieldValidation=Ignore").await;
    assert!(silent.warnings().is_empty());
    silent.expect(201);
    post("fieldValidation=Maybe").await.expect(422);
    // What the schema keeps is no unknown field.
    let free = json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": "b" }, "spec": { "size": 1, "free": { "any": { "thing": 1 } } } });
    assert_eq!(
        server.post(&format!("{WIDGETS}?fieldValidation=Strict"), &free).await.expect(201)["spec"]["free"]["any"]["thing"],
        1
    );
}

#[tokio::test]
async fn dry_runs_and_generated_names() {
    let server = Server::with_definitions().await;
    let before = server.api.store().revision();
    server.post(&format!("{WIDGETS}?dryRun=All"), &widget("a", 1)).await.expect(201);
    server.get(&format!("{WIDGETS}/a")).await.expect(404);
    server.post(&format!("{WIDGETS}?dryRun=Some"), &widget("a", 1)).await.expect(422);
    assert_eq!(server.api.store().revision(), before);
    server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    server
        .merge(&format!("{WIDGETS}/a?dryRun=All"), &json!({ "spec": { "size": 2 } }))
        .await
        .expect(200);
    server.delete(&format!("{WIDGETS}/a?dryRun=All")).await.expect(200);
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.expect(200)["spec"]["size"], 1);

    let mut generated = widget("", 1);
    generated["metadata"] = json!({ "generateName": "gen-" });
    let one = server.post(WIDGETS, &generated).await.expect(201);
    let two = server.post(WIDGETS, &generated).await.expect(201);
    let name = one["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("gen-") && name.len() == 9, "{name}");
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
}

#[tokio::test]
async fn core_kinds_have_their_own_rules() {
    let server = Server::start().await;
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "k": "hello" } });
    let made = server.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    assert_eq!(
        (made["data"]["k"].as_str(), made["type"].as_str()),
        (Some("aGVsbG8="), Some("Opaque"))
    );
    assert!(made.get("stringData").is_none());
    let path = "/api/v1/namespaces/default/secrets/s";
    server.merge(path, &json!({ "type": "other" })).await.expect(422);
    server.merge(path, &json!({ "immutable": true })).await.expect(200);
    server.merge(path, &json!({ "data": { "k": "Zm9v" } })).await.expect(422);
    let unconditional = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "data": { "a": "b" } });
    server.post(CONFIG_MAPS, &config_map("c")).await.expect(201);
    assert_eq!(
        server.put(&format!("{CONFIG_MAPS}/c"), &unconditional).await.expect(200)["data"],
        json!({ "a": "b" })
    );
    server
        .post(
            CONFIG_MAPS,
            &json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": { "name": "d" }, "data": { "a": 1 } }),
        )
        .await
        .expect(400);

    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "l" }, "spec": { "holderIdentity": "me", "leaseDurationSeconds": 15 } });
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    server.put(&format!("{leases}/l"), &lease).await.expect(201);
    server
        .merge(&format!("{leases}/l"), &json!({ "spec": { "leaseDurationSeconds": 0 } }))
        .await
        .expect(422);

    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "e" }, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "example.com/c", "reportingInstance": "i", "action": "Act", "reason": "Because", "type": "Normal",
        "note": "hello", "regarding": { "kind": "Widget", "name": "a", "namespace": "default" },
    });
    server
        .post("/apis/events.k8s.io/v1/namespaces/default/events", &event)
        .await
        .expect(201);
    let core = server.get("/api/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(
        (
            core["message"].as_str(),
            core["involvedObject"]["name"].as_str(),
            core["apiVersion"].as_str()
        ),
        (Some("hello"), Some("a"), Some("v1"))
    );
    let new = server.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.expect(200);
    assert_eq!(
        (new["note"].as_str(), new["regarding"]["name"].as_str()),
        (Some("hello"), Some("a"))
    );
    let found = server
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Da,type%3DNormal")
        .await
        .expect(200);
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
    let none = server
        .get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Db")
        .await
        .expect(200);
    assert_eq!(none["items"].as_array().map(Vec::len), Some(0));
    server
        .get("/api/v1/namespaces/default/events?fieldSelector=nonsense%3Db")
        .await
        .expect(400);
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "sa" } });
    server
        .post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await
        .expect(201);
    assert_eq!(
        server.delete("/api/v1/namespaces/default/serviceaccounts/sa").await.expect(200)["kind"],
        "ServiceAccount"
    );
}

#[tokio::test]
async fn discovery_openapi_and_reviews() {
    let server = Server::with_definitions().await;
    assert_eq!(server.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = server.get("/apis").await.expect(200);
    let names: Vec<&str> = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .filter_map(|group| group["name"].as_str())
        .collect();
    assert!(
        names.contains(&"example.com") && names.contains(&"apiextensions.k8s.io"),
        "{names:?}"
    );
    let resources = server.get("/apis/example.com/v1").await.expect(200);
    let names: Vec<&str> = resources["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|entry| entry["name"].as_str())
        .collect();
    assert_eq!(names, ["gadgets", "widgets", "widgets/status", "widgets/scale"]);
    let aggregated = server
        .get_as(
            "/apis",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
        )
        .await;
    assert_eq!(
        aggregated.headers[header::CONTENT_TYPE],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let aggregated = aggregated.expect(200);
    let item = aggregated["items"]
        .as_array()
        .expect("items")
        .iter()
        .find(|item| item["metadata"]["name"] == "example.com")
        .expect("our group");
    assert_eq!(item["versions"][0]["version"], "v2", "the preferred version is first");
    let index = server.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"]
        .as_str()
        .expect("a path with a hash")
        .to_owned();
    let document = server.get(&url).await.expect(200);
    assert!(document.to_string().contains("How big it is."), "descriptions are in the document");
    let v2 = server.get("/openapi/v2").await.expect(200);
    assert!(v2["definitions"].to_string().contains("How big it is."));
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": { "resourceAttributes": { "verb": "create", "resource": "secrets" } } });
    assert_eq!(
        server
            .post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review)
            .await
            .expect(201)["status"]["allowed"],
        true
    );
}

#[tokio::test]
async fn tables_and_partial_metadata() {
    let server = Server::with_definitions().await;
    server.post(WIDGETS, &widget("a", 3)).await.expect(201);
    let status = json!({ "status": { "ready": true, "conditions": [{ "type": "Ready", "status": "True" }] } });
    server.merge(&format!("{WIDGETS}/a/status"), &status).await.expect(200);
    let table = server
        .get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .await
        .expect(200);
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .expect("columns")
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    assert_eq!(names, ["Name", "Color", "Size", "Ready", "Phase", "Ratio", "Tags", "Seen", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().expect("cells");
    assert_eq!(&cells[..5], &[json!("a"), json!("red"), json!(3), json!(true), json!("True")]);
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let full = server
        .get_as(
            &format!("{WIDGETS}/a?includeObject=Object"),
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        )
        .await
        .expect(200);
    assert_eq!(full["rows"][0]["object"]["kind"], "Widget");
    let partial = server
        .get_as(WIDGETS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        .await
        .expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("spec").is_none());
    let core = server
        .get_as("/api/v1/namespaces", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await
        .expect(200);
    assert_eq!(core["rows"].as_array().map(Vec::len), Some(4));
    assert_eq!(core["rows"][0]["cells"][1], "Active");
}

#[tokio::test]
async fn versions_of_one_definition_share_their_objects() {
    let server = Server::with_definitions().await;
    server.post(GADGETS, &gadget("g")).await.expect(201);
    let seen = server.get("/apis/example.com/v2/gadgets/g").await.expect(200);
    assert_eq!(seen["apiVersion"], "example.com/v2");
    let list = server.get("/apis/example.com/v2/gadgets").await.expect(200);
    assert_eq!(list["items"][0]["apiVersion"], "example.com/v2");
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.example.com";
    // A change of the definition takes effect at run time.
    let mut definition = server.get(crd).await.expect(200);
    definition["spec"]["versions"][1]["served"] = json!(false);
    server.put(crd, &definition).await.expect(200);
    eventually("v2 is no longer served", async || {
        server.get("/apis/example.com/v2/gadgets/g").await.code == 404
    })
    .await;
    server.get(&format!("{GADGETS}/g")).await.expect(200);
    server.delete(crd).await.expect(200);
    eventually("the definition and its objects are gone", async || {
        server.get(crd).await.code == 404
    })
    .await;
    eventually("the resource is no longer served", async || {
        server.get(GADGETS).await.text == "404 page not found\n"
    })
    .await;
    server.install(&gadgets()).await;
    assert_eq!(server.get(GADGETS).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_definition_with_taken_names_is_not_served() {
    let server = Server::with_definitions().await;
    let mut clash = gadgets();
    clash["metadata"]["name"] = json!("gizmos.example.com");
    clash["spec"]["names"] = json!({ "plural": "gizmos", "kind": "Widget", "singular": "gizmo", "listKind": "GizmoList" });
    server
        .post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &clash)
        .await
        .expect(201);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gizmos.example.com";
    eventually("the conflict is told", async || {
        let found = server.get(path).await.expect(200);
        found["status"]["conditions"].as_array().is_some_and(|list| {
            list.iter().any(|condition| {
                condition["type"] == "NamesAccepted" && condition["status"] == "False" && condition["reason"] == "KindConflict"
            })
        })
    })
    .await;
    assert_eq!(server.get("/apis/example.com/v1/gizmos").await.code, 404);
    server
        .delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.com")
        .await
        .expect(200);
    eventually("the names are free", async || {
        server.get("/apis/example.com/v1/gizmos").await.code == 200
    })
    .await;
}
