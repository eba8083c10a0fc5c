//! Deletion: preconditions, propagation, finalizers, owners, namespaces.

use serde_json::{Value, json};

use crate::{
    api::eventually,
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
    found::Found,
};

/// A ConfigMap with an owner.
fn owned(name: &str, owner: &Value, block: bool) -> Value {
    let mut value = config_map(name);
    value["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": block,
    }]);
    value
}

fn held(name: &str, finalizers: &[&str]) -> Value {
    let mut value = widget(name, 1);
    value["metadata"]["finalizers"] = json!(finalizers);
    value
}

async fn gone(t: &Case, path: &str) {
    eventually(&format!("{path} is gone"), async || t.get(path).await.code == 404).await;
}

/// Waits until the garbage collector has seen everything that was made before: it takes events in their order, and takes away what it sees last, whose owner there never was.
async fn collector_has_seen_all(t: &Case) {
    let nobody =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "nobody", "uid": "00000000-0000-4000-8000-000000000000" } });
    t.post(&t.config_maps(), &owned("last", &nobody, false)).await.ok(201);
    gone(t, &t.config_map("last")).await;
}

async fn namespace(t: &Case, suffix: &str) -> (String, Found) {
    let name = format!("{}-{suffix}", t.namespace);
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    let made = t.post("/api/v1/namespaces", &body).await.ok(201);
    (name, made)
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = single();
    list.extend(owners());
    list.extend(namespaces());
    list
}

fn single() -> Vec<Behaviour> {
    vec![
        behaviour("delete: a custom resource answers with a Status", async |t| {
            let made = t.made("a").await;
            let answer = t.delete(&t.widget("a")).await.ok(200);
            answer.has(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }));
            assert_eq!(
                answer["details"],
                json!({ "name": "a", "group": GROUP, "kind": "widgets", "uid": made.uid() })
            );
            t.get(&t.widget("a")).await.refused(404, "NotFound");
        }),
        behaviour("delete: a ConfigMap answers with a Status", async |t| {
            let made = t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let answer = t.delete(&t.config_map("c")).await.ok(200);
            assert_eq!(answer["details"], json!({ "name": "c", "kind": "configmaps", "uid": made.uid() }));
        }),
        behaviour("delete: a missing object", async |t| {
            t.delete(&t.widget("nobody"))
                .await
                .refused(404, "NotFound")
                .message("widgets.conformance.example.com \"nobody\" not found");
        }),
        behaviour("delete: the name is free again, for another uid", async |t| {
            let one = t.made("a").await;
            t.delete(&t.widget("a")).await.ok(200);
            assert_ne!(t.made("a").await.uid(), one.uid());
        }),
        behaviour("delete: with another uid", async |t| {
            let made = t.made("a").await;
            let refused = t
                .delete_with(&t.widget("a"), &json!({ "preconditions": { "uid": "other" } }))
                .await
                .refused(409, "Conflict");
            // The kind stands where otherwise the resource does.
            refused
                .message(&format!(
                    "Operation cannot be fulfilled on Widget.conformance.example.com \"a\": the UID in the precondition (other) does not match the UID in record ({}). The object might have been deleted and then recreated",
                    made.uid()
                ))
                .has(json!({ "details": { "name": "a", "group": "conformance.example.com", "kind": "Widget" } }));
        }),
        behaviour("delete: with another resourceVersion", async |t| {
            let made = t.made("a").await;
            let refused = t
                .delete_with(&t.widget("a"), &json!({ "preconditions": { "resourceVersion": "1" } }))
                .await
                .refused(409, "Conflict");
            refused.says(&format!(
                "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({}). The object might have been modified",
                made.version()
            ));
        }),
        behaviour("delete: with both preconditions met", async |t| {
            let made = t.made("a").await;
            let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": made.uid(), "resourceVersion": made.version() } });
            t.delete_with(&t.widget("a"), &options).await.ok(200);
            t.get(&t.widget("a")).await.refused(404, "NotFound");
        }),
        behaviour("delete: another uid than the precondition's is a conflict", async |t| {
            let made = t.made("a").await;
            let options =
                json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": "11111111-1111-1111-1111-111111111111" } });
            let refused = t.delete_with(&t.widget("a"), &options).await.refused(409, "Conflict");
            refused.message(&format!(
                "Operation cannot be fulfilled on Widget.conformance.example.com \"a\": the UID in the precondition (11111111-1111-1111-1111-111111111111) does not match the UID in record ({}). The object might have been deleted and then recreated",
                made.uid()
            ));
            t.get(&t.widget("a")).await.ok(200);
        }),
        behaviour("delete: another version than the precondition's is a conflict", async |t| {
            let made = t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            let options = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "resourceVersion": made.version() } });
            let refused = t.delete_with(&t.widget("a"), &options).await.refused(409, "Conflict");
            refused.says(&format!(
                "the ResourceVersion in the precondition ({}) does not match",
                made.version()
            ));
            t.get(&t.widget("a")).await.ok(200);
        }),
        behaviour("delete: options of an unknown kind are refused", async |t| {
            t.made("a").await;
            t.delete_with(&t.widget("a"), &json!({ "kind": "Nonsense", "apiVersion": "v1" }))
                .await
                .refused(400, "BadRequest");
        }),
        behaviour("delete: an unknown propagation policy", async |t| {
            t.made("a").await;
            let refused = t
                .delete_with(&t.widget("a"), &json!({ "propagationPolicy": "Sideways" }))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueNotSupported", "propagationPolicy")]);
        }),
        behaviour("delete: orphanDependents and propagationPolicy exclude each other", async |t| {
            t.made("a").await;
            let options = json!({ "propagationPolicy": "Orphan", "orphanDependents": true });
            t.delete_with(&t.widget("a"), &options)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "propagationPolicy")]);
        }),
        behaviour("delete: options in the query", async |t| {
            t.made("a").await;
            let marked = t.delete(&format!("{}?propagationPolicy=Foreground", t.widget("a"))).await.ok(200);
            marked.has(json!({ "metadata": { "finalizers": ["foregroundDeletion"] } }));
        }),
        behaviour("deletecollection: removes all", async |t| {
            for name in ["a", "b"] {
                t.made(name).await;
            }
            let answer = t.delete(&t.widgets()).await.ok(200);
            answer.has(json!({ "kind": "WidgetList", "apiVersion": "conformance.example.com/v1" }));
            assert_eq!(answer.names(), ["a", "b"]);
            assert!(t.get(&t.widgets()).await.ok(200).names().is_empty());
        }),
        behaviour("deletecollection: by label", async |t| {
            for (name, team) in [("a", "x"), ("b", "x"), ("c", "y")] {
                t.post(&t.widgets(), &labelled(name, json!({ "team": team }))).await.ok(201);
            }
            assert_eq!(
                t.delete(&format!("{}?labelSelector=team%3Dx", t.widgets())).await.ok(200).names(),
                ["a", "b"]
            );
            assert_eq!(t.get(&t.widgets()).await.ok(200).names(), ["c"]);
        }),
        behaviour("deletecollection: by field", async |t| {
            for name in ["a", "b"] {
                t.made(name).await;
            }
            t.delete(&format!("{}?fieldSelector=metadata.name%3Da", t.widgets())).await.ok(200);
            assert_eq!(t.get(&t.widgets()).await.ok(200).names(), ["b"]);
        }),
        behaviour("deletecollection: what has finalizers is marked", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/hold"])).await.ok(201);
            t.delete(&t.widgets()).await.ok(200);
            assert!(t.get(&t.widget("a")).await.ok(200)["metadata"]["deletionTimestamp"].is_string());
        }),
        behaviour("finalizers: deletion marks and waits", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/hold"])).await.ok(201);
            let marked = t.delete(&t.widget("a")).await.ok(200);
            marked.has(json!({ "kind": "Widget", "metadata": { "deletionGracePeriodSeconds": 0, "generation": 2, "finalizers": ["example.com/hold"] } }));
            assert!(marked["metadata"]["deletionTimestamp"].is_string());
        }),
        behaviour("finalizers: the last one gone, the object goes", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/one", "example.com/two"]))
                .await
                .ok(201);
            t.delete(&t.widget("a")).await.ok(200);
            t.merge(&t.widget("a"), &json!({ "metadata": { "finalizers": ["example.com/two"] } }))
                .await
                .ok(200);
            t.get(&t.widget("a")).await.ok(200);
            t.merge(&t.widget("a"), &json!({ "metadata": { "finalizers": null } }))
                .await
                .ok(200);
            t.get(&t.widget("a")).await.refused(404, "NotFound");
        }),
        behaviour("finalizers: a second deletion changes nothing", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/hold"])).await.ok(201);
            let marked = t.delete(&t.widget("a")).await.ok(200);
            assert_eq!(t.delete(&t.widget("a")).await.ok(200), marked);
        }),
        behaviour("finalizers: none can be added during deletion", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/hold"])).await.ok(201);
            t.delete(&t.widget("a")).await.ok(200);
            let change = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/more"] } });
            let refused = t.merge(&t.widget("a"), &change).await.refused(422, "Invalid");
            // Rules of metadata are asked for twice on an update.
            refused
                .says("no new finalizers can be added if the object is being deleted")
                .causes(&[
                    ("FieldValueForbidden", "metadata.finalizers"),
                    ("FieldValueForbidden", "metadata.finalizers"),
                ]);
        }),
        behaviour("finalizers: a deletion is not taken back", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/hold"])).await.ok(201);
            let marked = t.delete(&t.widget("a")).await.ok(200);
            let after = t
                .merge(&t.widget("a"), &json!({ "metadata": { "deletionTimestamp": null } }))
                .await
                .ok(200);
            assert_eq!(after["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
        }),
        behaviour("finalizers: other fields change during deletion", async |t| {
            t.post(&t.widgets(), &held("a", &["example.com/hold"])).await.ok(201);
            t.delete(&t.widget("a")).await.ok(200);
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 7 } }))
                .await
                .ok(200)
                .has(json!({ "spec": { "size": 7 } }));
        }),
        behaviour("finalizers: an unqualified name is refused", async |t| {
            let refused = t.post(&t.widgets(), &held("a", &["un qualified"])).await.refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "metadata.finalizers")]);
        }),
        behaviour("finalizers: a deletion by PUT of the last one", async |t| {
            t.post(&t.config_maps(), &{
                let mut value = config_map("c");
                value["metadata"]["finalizers"] = json!(["example.com/hold"]);
                value
            })
            .await
            .ok(201);
            let mut marked = t.delete(&t.config_map("c")).await.ok(200);
            marked["metadata"].as_object_mut().expect("an object").remove("finalizers");
            t.put(&t.config_map("c"), &marked).await.ok(200);
            t.get(&t.config_map("c")).await.refused(404, "NotFound");
        }),
    ]
}

fn owners() -> Vec<Behaviour> {
    vec![
        behaviour("owners: dependents follow their owner", async |t| {
            let owner = t.made("owner").await;
            let child = t.post(&t.config_maps(), &owned("child", &owner, false)).await.ok(201);
            t.post(&t.config_maps(), &owned("grandchild", &child, false)).await.ok(201);
            t.delete(&t.widget("owner")).await.ok(200);
            gone(t, &t.config_map("child")).await;
            gone(t, &t.config_map("grandchild")).await;
        }),
        behaviour("owners: a dependent with another owner stays, without the reference", async |t| {
            let (owner, other) = (t.made("owner").await, t.made("other").await);
            let mut shared = owned("shared", &owner, false);
            let second = owned("x", &other, false)["metadata"]["ownerReferences"][0].clone();
            shared["metadata"]["ownerReferences"].as_array_mut().expect("a list").push(second);
            t.post(&t.config_maps(), &shared).await.ok(201);
            t.delete(&t.widget("owner")).await.ok(200);
            eventually("the reference goes", async || {
                let list = t.get(&t.config_map("shared")).await.ok(200)["metadata"]["ownerReferences"].clone();
                list.as_array().is_some_and(|list| list.len() == 1 && list[0]["name"] == "other")
            })
            .await;
        }),
        behaviour("owners: one that never was owns nothing", async |t| {
            let mut child = owned("child", &t.made("owner").await.0, false);
            child["metadata"]["ownerReferences"][0]["name"] = json!("nobody");
            t.post(&t.config_maps(), &child).await.ok(201);
            gone(t, &t.config_map("child")).await;
        }),
        behaviour("owners: one with another uid owns nothing", async |t| {
            let mut child = owned("child", &t.made("owner").await.0, false);
            child["metadata"]["ownerReferences"][0]["uid"] = json!("11111111-1111-1111-1111-111111111111");
            t.post(&t.config_maps(), &child).await.ok(201);
            gone(t, &t.config_map("child")).await;
        }),
        behaviour("owners: in another namespace own nothing", async |t| {
            let owner = t.made("owner").await;
            let (other, _) = namespace(t, "x").await;
            let path = format!("/api/v1/namespaces/{other}/configmaps");
            t.post(&path, &owned("child", &owner, false)).await.ok(201);
            gone(t, &format!("{path}/child")).await;
            t.get(&t.widget("owner")).await.ok(200);
        }),
        behaviour("owners: a cluster-scoped owner of a namespaced object", async |t| {
            let owner = t.post(GADGETS, &gadget(&t.namespace)).await.ok(201);
            t.post(&t.config_maps(), &owned("child", &owner, false)).await.ok(201);
            t.delete(&format!("{GADGETS}/{}", t.namespace)).await.ok(200);
            gone(t, &t.config_map("child")).await;
        }),
        behaviour("owners: foreground deletion waits for who blocks", async |t| {
            let owner = t.made("owner").await;
            let mut child = owned("child", &owner, true);
            child["metadata"]["finalizers"] = json!(["example.com/hold"]);
            t.post(&t.config_maps(), &child).await.ok(201);
            let marked = t
                .delete_with(&t.widget("owner"), &json!({ "propagationPolicy": "Foreground" }))
                .await
                .ok(200);
            marked.has(json!({ "kind": "Widget", "metadata": { "finalizers": ["foregroundDeletion"] } }));
            eventually("the child is being deleted", async || {
                t.get(&t.config_map("child")).await.ok(200)["metadata"]["deletionTimestamp"].is_string()
            })
            .await;
            t.get(&t.widget("owner")).await.ok(200);
            t.merge(&t.config_map("child"), &json!({ "metadata": { "finalizers": null } }))
                .await
                .ok(200);
            gone(t, &t.widget("owner")).await;
        }),
        behaviour("owners: foreground deletion without dependents", async |t| {
            t.made("owner").await;
            t.delete_with(&t.widget("owner"), &json!({ "propagationPolicy": "Foreground" }))
                .await
                .ok(200);
            gone(t, &t.widget("owner")).await;
        }),
        behaviour("owners: foreground deletion does not wait for who does not block", async |t| {
            let owner = t.made("owner").await;
            let mut child = owned("child", &owner, false);
            child["metadata"]["finalizers"] = json!(["example.com/hold"]);
            t.post(&t.config_maps(), &child).await.ok(201);
            t.delete_with(&t.widget("owner"), &json!({ "propagationPolicy": "Foreground" }))
                .await
                .ok(200);
            gone(t, &t.widget("owner")).await;
        }),
        behaviour("owners: orphaning deletion leaves the dependents", async |t| {
            let owner = t.made("owner").await;
            t.post(&t.config_maps(), &owned("child", &owner, false)).await.ok(201);
            collector_has_seen_all(t).await;
            let marked = t
                .delete_with(&t.widget("owner"), &json!({ "propagationPolicy": "Orphan" }))
                .await
                .ok(200);
            marked.has(json!({ "metadata": { "finalizers": ["orphan"] } }));
            gone(t, &t.widget("owner")).await;
            t.get(&t.config_map("child")).await.ok(200).lacks("/metadata/ownerReferences");
        }),
        behaviour("owners: orphanDependents as of old", async |t| {
            let owner = t.made("owner").await;
            t.post(&t.config_maps(), &owned("child", &owner, false)).await.ok(201);
            collector_has_seen_all(t).await;
            t.delete_with(&t.widget("owner"), &json!({ "orphanDependents": true }))
                .await
                .ok(200);
            gone(t, &t.widget("owner")).await;
            t.get(&t.config_map("child")).await.ok(200).lacks("/metadata/ownerReferences");
        }),
        behaviour("owners: a reference without a name is refused", async |t| {
            let mut child = owned("child", &t.made("owner").await.0, false);
            child["metadata"]["ownerReferences"][0]["name"] = json!("");
            let refused = t.post(&t.config_maps(), &child).await.refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "metadata.ownerReferences.name")]);
        }),
        behaviour("owners: two controllers are refused", async |t| {
            let (one, two) = (t.made("one").await, t.made("two").await);
            let mut child = owned("child", &one, false);
            child["metadata"]["ownerReferences"]
                .as_array_mut()
                .expect("a list")
                .push(owned("x", &two, false)["metadata"]["ownerReferences"][0].clone());
            for n in 0..2 {
                child["metadata"]["ownerReferences"][n]["controller"] = json!(true);
            }
            let refused = t.post(&t.config_maps(), &child).await.refused(422, "Invalid");
            refused.says("Only one reference can have Controller set to true");
        }),
    ]
}

fn namespaces() -> Vec<Behaviour> {
    vec![
        behaviour("namespaces: a new one is active", async |t| {
            let (name, made) = namespace(t, "x").await;
            made.has(json!({ "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" }, "metadata": { "labels": { "kubernetes.io/metadata.name": name } } }));
        }),
        behaviour("namespaces: the first four are there", async |t| {
            for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                t.get(&format!("/api/v1/namespaces/{name}"))
                    .await
                    .ok(200)
                    .has(json!({ "status": { "phase": "Active" } }));
            }
        }),
        behaviour("namespaces: the default one cannot be deleted", async |t| {
            let refused = t.delete("/api/v1/namespaces/default").await.refused(403, "Forbidden");
            refused.message("namespaces \"default\" is forbidden: this namespace may not be deleted");
        }),
        behaviour("namespaces: a name with dots is refused", async |t| {
            let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "a.b" } });
            t.post("/api/v1/namespaces", &body)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "metadata.name")]);
        }),
        behaviour("namespaces: the name label cannot be taken away", async |t| {
            let (name, _) = namespace(t, "x").await;
            let path = format!("/api/v1/namespaces/{name}");
            let after = t.merge(&path, &json!({ "metadata": { "labels": null } })).await.ok(200);
            after.has(json!({ "metadata": { "labels": { "kubernetes.io/metadata.name": name } } }));
        }),
        behaviour("namespaces: deletion answers with the terminating namespace", async |t| {
            let (name, _) = namespace(t, "x").await;
            let marked = t.delete(&format!("/api/v1/namespaces/{name}")).await.ok(200);
            marked.has(json!({ "kind": "Namespace", "status": { "phase": "Terminating" } }));
            gone(t, &format!("/api/v1/namespaces/{name}")).await;
        }),
        behaviour("namespaces: deletion takes what is inside", async |t| {
            let (name, _) = namespace(t, "x").await;
            let path = format!("/api/v1/namespaces/{name}/configmaps");
            t.post(&path, &config_map("c")).await.ok(201);
            t.delete(&format!("/api/v1/namespaces/{name}")).await.ok(200);
            gone(t, &format!("/api/v1/namespaces/{name}")).await;
            namespace(t, "x").await;
            t.get(&format!("{path}/c")).await.refused(404, "NotFound");
        }),
        behaviour("namespaces: deletion waits for finalizers and takes nothing new", async |t| {
            let (name, _) = namespace(t, "x").await;
            let widgets = format!("/apis/conformance.example.com/v1/namespaces/{name}/widgets");
            t.post(&widgets, &held("held", &["example.com/hold"])).await.ok(201);
            t.delete(&format!("/api/v1/namespaces/{name}")).await.ok(200);
            eventually("the widget is being deleted", async || {
                t.get(&format!("{widgets}/held")).await.ok(200)["metadata"]["deletionTimestamp"].is_string()
            })
            .await;
            let refused = t.post(&widgets, &widget("late", 1)).await.refused(403, "Forbidden");
            refused.message(&format!(
                "widgets.conformance.example.com \"late\" is forbidden: unable to create new content in namespace {name} because it is being terminated"
            ));
            refused.causes(&[("NamespaceTerminating", "metadata.namespace")]);
            t.merge(&format!("{widgets}/held"), &json!({ "metadata": { "finalizers": null } }))
                .await
                .ok(200);
            gone(t, &format!("/api/v1/namespaces/{name}")).await;
        }),
        behaviour("namespaces: what waits is told in conditions", async |t| {
            let (name, _) = namespace(t, "x").await;
            let widgets = format!("/apis/conformance.example.com/v1/namespaces/{name}/widgets");
            t.post(&widgets, &held("held", &["example.com/hold"])).await.ok(201);
            t.delete(&format!("/api/v1/namespaces/{name}")).await.ok(200);
            eventually("the conditions tell", async || {
                let found = t.get(&format!("/api/v1/namespaces/{name}")).await.ok(200);
                condition(&found, "NamespaceFinalizersRemaining") == "True" && condition(&found, "NamespaceContentRemaining") == "True"
            })
            .await;
            t.merge(&format!("{widgets}/held"), &json!({ "metadata": { "finalizers": null } }))
                .await
                .ok(200);
            gone(t, &format!("/api/v1/namespaces/{name}")).await;
        }),
        behaviour("namespaces: deletion of the collection is not allowed", async |t| {
            t.delete("/api/v1/namespaces").await.refused(405, "MethodNotAllowed");
        }),
    ]
}
