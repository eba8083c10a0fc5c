//! Core kinds: ConfigMap, Secret, Event in both APIs, Lease, ServiceAccount.

use serde_json::{Value, json};

use crate::{
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
};

fn secret(name: &str, fields: &Value) -> Value {
    let mut value = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name } });
    for (key, field) in fields.as_object().expect("fields") {
        value[key] = field.clone();
    }
    value
}

fn leases(t: &Case) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", t.namespace)
}

fn lease(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name }, "spec": spec })
}

fn new_events(t: &Case) -> String {
    format!("/apis/events.k8s.io/v1/namespaces/{}/events", t.namespace)
}

fn core_event(t: &Case, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": name }, "type": "Normal", "reason": "Tested", "message": "as it should",
        "involvedObject": { "apiVersion": "conformance.example.com/v1", "kind": "Widget", "name": "a", "namespace": t.namespace },
        "source": { "component": "tester", "host": "h" }, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z", "count": 2,
    })
}

fn new_event(t: &Case, name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": name }, "type": "Normal", "reason": "Tested", "action": "Test", "note": "as it should",
        "regarding": { "apiVersion": "conformance.example.com/v1", "kind": "Widget", "name": "a", "namespace": t.namespace },
        "reportingController": "example.com/tester", "reportingInstance": "tester-0", "eventTime": "2026-01-01T00:00:00.000000Z",
    })
}

/// What `refused_objects.yaml` says.
fn refused_by_table() -> Vec<Behaviour> {
    let rows: Vec<Value> = serde_saphyr::from_str(include_str!("refused_objects.yaml")).expect("a list");
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| {
            let (what, path, message) = (text(row, "what"), text(row, "path"), text(row, "message"));
            let body = row["body"].clone();
            let causes: Vec<(String, String)> = serde_json::from_value(row["causes"].clone()).unwrap_or_default();
            behaviour(format!("core objects: {what}"), async move |t| {
                let at_home = |text: &str| text.replace("NS", &t.namespace);
                let body: Value = serde_json::from_str(&at_home(&body.to_string())).expect("JSON");
                let answer = t.post(&format!("{}?dryRun=All", at_home(&path)), &body).await;
                if message.is_empty() {
                    let causes: Vec<(&str, &str)> = causes.iter().map(|(reason, field)| (&**reason, &**field)).collect();
                    answer.refused(422, "Invalid").causes(&causes);
                } else {
                    answer.refused(400, "BadRequest").message(&message);
                }
            })
        })
        .collect()
}

/// What `accepted_objects.yaml` says.
fn accepted_by_table() -> Vec<Behaviour> {
    let rows: Vec<Value> = serde_saphyr::from_str(include_str!("accepted_objects.yaml")).expect("a list");
    rows.into_iter()
        .map(|row| {
            let what = row["what"].as_str().expect("a name").to_owned();
            behaviour(format!("core objects: {what} comes back as it should"), async move |t| {
                let row: Value = serde_json::from_str(&row.to_string().replace("NS", &t.namespace)).expect("JSON");
                let path = row["path"].as_str().expect("a path");
                let mut made = t.post(&format!("{path}?dryRun=All&fieldManager=m"), &row["body"]).await.ok(201);
                assert_eq!(made["metadata"]["managedFields"][0]["fieldsV1"], row["fields"], "{}", made.0);
                let metadata = made["metadata"].as_object_mut().expect("metadata");
                for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
                    metadata.remove(field);
                }
                assert_eq!(made.0, row["made"]);
            })
        })
        .collect()
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = data();
    list.extend(refused_by_table());
    list.extend(accepted_by_table());
    list.extend(events());
    list.extend(leases_and_accounts());
    list
}

fn data() -> Vec<Behaviour> {
    vec![
        behaviour("ConfigMap: text and binary data", async |t| {
            let mut sent = config_map("c");
            sent["binaryData"] = json!({ "raw": "AAEC" });
            t.post(&t.config_maps(), &sent)
                .await
                .ok(201)
                .has(json!({ "data": { "key": "value" }, "binaryData": { "raw": "AAEC" } }));
        }),
        behaviour("ConfigMap: a key in both is refused", async |t| {
            let mut sent = config_map("c");
            sent["binaryData"] = json!({ "key": "AAEC" });
            t.post(&t.config_maps(), &sent)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "data[key]")]);
        }),
        behaviour("ConfigMap: a bad key", async |t| {
            let mut sent = config_map("c");
            sent["data"] = json!({ "a b": "x" });
            t.post(&t.config_maps(), &sent)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "data[a b]")]);
        }),
        behaviour("ConfigMap: over a mebibyte", async |t| {
            let mut sent = config_map("c");
            sent["data"] = json!({ "big": "x".repeat(1024 * 1024 + 1) });
            t.post(&t.config_maps(), &sent).await.refused(422, "Invalid").says("Too long");
        }),
        behaviour("ConfigMap: a number is no text", async |t| {
            let mut sent = config_map("c");
            sent["data"] = json!({ "n": 1 });
            let refused = t.post(&t.config_maps(), &sent).await.refused(400, "BadRequest");
            refused.says("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string");
        }),
        behaviour("ConfigMap: a patch to a number is no text either", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let refused = t
                .merge(&t.config_map("c"), &json!({ "data": { "key": 1 } }))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "patch")]);
        }),
        behaviour("ConfigMap: null is an empty text", async |t| {
            let mut sent = config_map("c");
            sent["data"] = json!({ "n": null });
            let made = t.post(&t.config_maps(), &sent).await.ok(201);
            assert_eq!(made["data"], json!({ "n": "" }));
        }),
        behaviour("ConfigMap: bytes that are no base64", async |t| {
            let mut sent = config_map("c");
            sent["binaryData"] = json!({ "raw": "!" });
            t.post(&t.config_maps(), &sent).await.refused(400, "BadRequest");
        }),
        behaviour("ConfigMap: an immutable one keeps its data", async |t| {
            let mut sent = config_map("c");
            sent["immutable"] = json!(true);
            t.post(&t.config_maps(), &sent).await.ok(201);
            t.merge(&t.config_map("c"), &json!({ "data": { "key": "x" } }))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueForbidden", "data")]);
            t.merge(&t.config_map("c"), &json!({ "immutable": false }))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueForbidden", "immutable")]);
            t.merge(&t.config_map("c"), &json!({ "metadata": { "labels": { "x": "y" } } }))
                .await
                .ok(200);
        }),
        behaviour("ConfigMap: apiVersion and kind may be left out", async |t| {
            let sent = json!({ "metadata": { "name": "c" }, "data": { "a": "b" } });
            t.post(&t.config_maps(), &sent)
                .await
                .ok(201)
                .has(json!({ "apiVersion": "v1", "kind": "ConfigMap" }));
        }),
        behaviour("ConfigMap: has no generation", async |t| {
            t.post(&t.config_maps(), &config_map("c"))
                .await
                .ok(201)
                .lacks("/metadata/generation");
        }),
        behaviour("Secret: the type is defaulted", async |t| {
            t.post(&t.core("secrets"), &secret("s", &json!({ "data": { "a": "Yg==" } })))
                .await
                .ok(201)
                .has(json!({ "type": "Opaque", "data": { "a": "Yg==" } }));
        }),
        behaviour("Secret: stringData goes into data", async |t| {
            let made = t
                .post(
                    &t.core("secrets"),
                    &secret("s", &json!({ "data": { "a": "Yg==" }, "stringData": { "a": "c", "d": "e" } })),
                )
                .await
                .ok(201);
            assert_eq!(made["data"], json!({ "a": "Yw==", "d": "ZQ==" }));
            made.lacks("/stringData");
        }),
        behaviour("Secret: the type cannot change", async |t| {
            t.post(&t.core("secrets"), &secret("s", &json!({}))).await.ok(201);
            let path = format!("{}/s", t.core("secrets"));
            t.merge(&path, &json!({ "type": "example.com/x" }))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "type")]);
        }),
        behaviour("Secret: TLS needs its keys", async |t| {
            let refused = t
                .post(
                    &t.core("secrets"),
                    &secret("s", &json!({ "type": "kubernetes.io/tls", "data": {} })),
                )
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueRequired", "data[tls.crt]"), ("FieldValueRequired", "data[tls.key]")]);
        }),
        behaviour("Secret: an immutable one keeps its data", async |t| {
            t.post(
                &t.core("secrets"),
                &secret("s", &json!({ "immutable": true, "data": { "a": "Yg==" } })),
            )
            .await
            .ok(201);
            let path = format!("{}/s", t.core("secrets"));
            t.merge(&path, &json!({ "data": { "a": "Yw==" } }))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueForbidden", "data")]);
        }),
        behaviour("Secret: data that is no base64", async |t| {
            t.post(&t.core("secrets"), &secret("s", &json!({ "data": { "a": "!" } })))
                .await
                .refused(400, "BadRequest")
                .says("illegal base64 data at input byte 0");
        }),
    ]
}

fn events() -> Vec<Behaviour> {
    vec![
        behaviour("Event: made in core, seen in events.k8s.io", async |t| {
            t.post(&t.core("events"), &core_event(t, "e")).await.ok(201);
            let seen = t.get(&format!("{}/e", new_events(t))).await.ok(200);
            seen.has(json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event", "note": "as it should", "reason": "Tested", "regarding": { "name": "a" },
                "deprecatedSource": { "component": "tester", "host": "h" }, "deprecatedFirstTimestamp": "2026-01-01T00:00:00Z", "deprecatedLastTimestamp": "2026-01-01T00:00:01Z", "deprecatedCount": 2,
            }));
        }),
        behaviour("Event: made in events.k8s.io, seen in core", async |t| {
            t.post(&new_events(t), &new_event(t, "e")).await.ok(201);
            let seen = t.get(&format!("{}/e", t.core("events"))).await.ok(200);
            seen.has(json!({
                "apiVersion": "v1", "kind": "Event", "message": "as it should", "action": "Test", "involvedObject": { "name": "a" }, "reportingComponent": "example.com/tester",
                "reportingInstance": "tester-0", "eventTime": "2026-01-01T00:00:00.000000Z", "firstTimestamp": null, "lastTimestamp": null, "source": {},
            }));
        }),
        behaviour("Event: a core one keeps its form", async |t| {
            let made = t.post(&t.core("events"), &core_event(t, "e")).await.ok(201);
            made.has(json!({ "count": 2, "eventTime": null, "reportingComponent": "", "reportingInstance": "" }));
        }),
        behaviour("Event: seconds have no fraction", async |t| {
            let mut sent = core_event(t, "e");
            sent["firstTimestamp"] = json!("2026-01-01T02:00:00.5+02:00");
            t.post(&t.core("events"), &sent)
                .await
                .ok(201)
                .has(json!({ "firstTimestamp": "2026-01-01T00:00:00Z" }));
        }),
        behaviour("Event: nobody owns what was not set", async |t| {
            let mut sent = core_event(t, "e");
            for field in ["source", "firstTimestamp", "lastTimestamp"] {
                sent.as_object_mut().expect("an object").remove(field);
            }
            let made = t.post(&t.core("events"), &sent).await.ok(201);
            let owned = made.manager("conformance", "Update", "");
            assert_eq!(
                owned["fieldsV1"],
                json!({ "f:count": {}, "f:involvedObject": {}, "f:message": {}, "f:reason": {}, "f:type": {} })
            );
        }),
        behaviour("Event: about another namespace is refused", async |t| {
            let mut sent = core_event(t, "e");
            sent["involvedObject"]["namespace"] = json!("default");
            t.post(&t.core("events"), &sent)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "involvedObject.namespace")]);
        }),
        behaviour("Event: a new one needs action, reason and controller", async |t| {
            let mut sent = new_event(t, "e");
            for field in ["action", "reason", "reportingController", "reportingInstance"] {
                sent.as_object_mut().expect("an object").remove(field);
            }
            let refused = t.post(&new_events(t), &sent).await.refused(422, "Invalid");
            refused.causes(&[
                ("FieldValueRequired", "action"),
                ("FieldValueRequired", "reason"),
                ("FieldValueRequired", "reportingController"),
                ("FieldValueInvalid", "reportingController"),
                ("FieldValueInvalid", "reportingController"),
                ("FieldValueRequired", "reportingInstance"),
            ]);
        }),
        behaviour("Event: a new one needs its time", async |t| {
            let mut sent = new_event(t, "e");
            sent.as_object_mut().expect("an object").remove("eventTime");
            t.post(&new_events(t), &sent)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueRequired", "eventTime")]);
        }),
        behaviour("Event: a series is counted by a patch", async |t| {
            t.post(&new_events(t), &new_event(t, "e")).await.ok(201);
            let change = json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:02.000000Z" } });
            let after = t.merge(&format!("{}/e", new_events(t)), &change).await.ok(200);
            after.has(json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:02.000000Z" } }));
        }),
        behaviour("Event: a new one's reason cannot change", async |t| {
            t.post(&new_events(t), &new_event(t, "e")).await.ok(201);
            // Told twice, as the real server asks twice.
            t.merge(&format!("{}/e", new_events(t)), &json!({ "reason": "Other" }))
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "reason"), ("FieldValueInvalid", "reason")]);
        }),
        behaviour("Event: selected by what it regards", async |t| {
            t.post(&new_events(t), &new_event(t, "e")).await.ok(201);
            let list = t.get(&format!("{}?fieldSelector=regarding.name%3Da", new_events(t))).await.ok(200);
            assert_eq!(list.names(), ["e"]);
        }),
        behaviour("Event: a watch of one API sees the other's", async |t| {
            let mut watch = t.watch(&format!("{}?watch=1", new_events(t))).await;
            t.post(&t.core("events"), &core_event(t, "e")).await.ok(201);
            let (kind, object) = watch.next().await.expect("an event");
            assert_eq!(kind, "ADDED");
            object.has(json!({ "apiVersion": "events.k8s.io/v1", "note": "as it should" }));
        }),
    ]
}

fn leases_and_accounts() -> Vec<Behaviour> {
    vec![
        behaviour("Lease: made and taken over", async |t| {
            let made = t
                .post(
                    &leases(t),
                    &lease(
                        "l",
                        &json!({ "holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z" }),
                    ),
                )
                .await
                .ok(201);
            let mut taken = made.clone();
            taken["spec"]["holderIdentity"] = json!("two");
            t.put(&format!("{}/l", leases(t)), &taken)
                .await
                .ok(200)
                .has(json!({ "spec": { "holderIdentity": "two" } }));
            t.put(&format!("{}/l", leases(t)), &taken).await.refused(409, "Conflict");
        }),
        behaviour("Lease: times need their microseconds", async |t| {
            let refused = t
                .post(&leases(t), &lease("l", &json!({ "renewTime": "2026-01-01T00:00:00Z" })))
                .await
                .refused(400, "BadRequest");
            refused.says("Lease in version \"v1\" cannot be handled as a Lease: parsing time");
        }),
        behaviour("Lease: times are written in UTC", async |t| {
            let made = t
                .post(&leases(t), &lease("l", &json!({ "renewTime": "2026-01-01T02:00:00.123456+02:00" })))
                .await
                .ok(201);
            made.has(json!({ "spec": { "renewTime": "2026-01-01T00:00:00.123456Z" } }));
        }),
        behaviour("Lease: a whole number has no fraction", async |t| {
            let refused = t
                .post(&leases(t), &lease("l", &json!({ "leaseDurationSeconds": 1.5 })))
                .await
                .refused(400, "BadRequest");
            refused.says("json: cannot unmarshal number 1.5 into Go struct field LeaseSpec.spec.leaseDurationSeconds of type int32");
        }),
        behaviour("Lease: a duration of zero", async |t| {
            let refused = t
                .post(&leases(t), &lease("l", &json!({ "leaseDurationSeconds": 0 })))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "spec.leaseDurationSeconds")]);
        }),
        behaviour("Lease: a PUT may create", async |t| {
            t.put(&format!("{}/l", leases(t)), &lease("l", &json!({ "holderIdentity": "one" })))
                .await
                .ok(201);
        }),
        behaviour("Lease: negative transitions", async |t| {
            let refused = t
                .post(&leases(t), &lease("l", &json!({ "leaseTransitions": -1 })))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "spec.leaseTransitions")]);
        }),
        behaviour("ServiceAccount: made", async |t| {
            let body =
                json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "s" }, "automountServiceAccountToken": false });
            t.post(&t.core("serviceaccounts"), &body)
                .await
                .ok(201)
                .has(json!({ "automountServiceAccountToken": false }));
        }),
        behaviour("ServiceAccount: a bad name", async |t| {
            let body = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "Bad" } });
            t.post(&t.core("serviceaccounts"), &body)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "metadata.name")]);
        }),
    ]
}
