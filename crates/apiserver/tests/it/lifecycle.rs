//! Finalizers, owners, namespaces: what ends when.

use serde_json::{Value, json};

use crate::common::*;

fn owned(name: &str, owner: &Value, block: bool) -> Value {
    let mut value = config_map(name);
    value["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": block,
    }]);
    value
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_one_goes() {
    let server = Server::with_definitions().await;
    let mut object = widget("a", 1);
    object["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    server.post(WIDGETS, &object).await.expect(201);
    let path = format!("{WIDGETS}/a");
    let marked = server.delete(&path).await.expect(200);
    assert_eq!(marked["kind"], "Widget");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(marked["metadata"]["generation"], 2);
    assert_eq!(server.delete(&path).await.expect(200), marked, "a second deletion changes nothing");
    let more = server
        .merge(
            &path,
            &json!({ "metadata": { "finalizers": ["example.com/one", "example.com/three"] } }),
        )
        .await
        .expect(422);
    assert!(
        more["message"]
            .as_str()
            .is_some_and(|text| text.contains("no new finalizers can be added if the object is being deleted"))
    );
    let back = server
        .merge(&path, &json!({ "metadata": { "deletionTimestamp": null } }))
        .await
        .expect(200);
    assert_eq!(
        back["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"],
        "a deletion is not taken back"
    );
    server
        .merge(&path, &json!({ "metadata": { "finalizers": ["example.com/two"] } }))
        .await
        .expect(200);
    server
        .merge(&path, &json!({ "metadata": { "finalizers": null } }))
        .await
        .expect(200);
    server.get(&path).await.expect(404);
}

#[tokio::test]
async fn deletions_with_preconditions_hit_only_what_they_mean() {
    let server = Server::with_definitions().await;
    let made = server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    let path = format!("{WIDGETS}/a");
    let wrong = server
        .delete_with(&path, &json!({ "preconditions": { "uid": "other" } }))
        .await
        .expect(409);
    assert!(
        wrong["message"]
            .as_str()
            .is_some_and(|text| text.contains("the UID in the precondition (other) does not match"))
    );
    server
        .delete_with(&path, &json!({ "preconditions": { "resourceVersion": "1" } }))
        .await
        .expect(409);
    let right = json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"] } });
    server.delete_with(&path, &right).await.expect(200);
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let server = Server::with_definitions().await;
    for (name, team) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = widget(name, 1);
        object["metadata"]["labels"] = json!({ "team": team });
        server.post(WIDGETS, &object).await.expect(201);
    }
    let deleted = server.delete(&format!("{WIDGETS}?labelSelector=team%3Dx")).await.expect(200);
    assert_eq!(
        (deleted["kind"].as_str(), deleted["items"].as_array().map(Vec::len)),
        (Some("WidgetList"), Some(2))
    );
    let left = server.get(WIDGETS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn dependents_follow_their_owner() {
    let server = Server::with_definitions().await;
    let owner = server.post(WIDGETS, &widget("owner", 1)).await.expect(201);
    let child = server.post(CONFIG_MAPS, &owned("child", &owner, false)).await.expect(201);
    let mut grandchild = owned("grandchild", &child, false);
    grandchild["metadata"]["ownerReferences"][0]["apiVersion"] = json!("v1");
    server.post(CONFIG_MAPS, &grandchild).await.expect(201);
    // Two owners: the other one stays.
    let other = server.post(WIDGETS, &widget("other", 1)).await.expect(201);
    let mut shared = owned("shared", &owner, false);
    shared["metadata"]["ownerReferences"]
        .as_array_mut()
        .expect("a list")
        .push(owned("x", &other, false)["metadata"]["ownerReferences"][0].clone());
    server.post(CONFIG_MAPS, &shared).await.expect(201);
    server.delete(&format!("{WIDGETS}/owner")).await.expect(200);
    for name in ["child", "grandchild"] {
        eventually("dependents are removed", async || {
            server.get(&format!("{CONFIG_MAPS}/{name}")).await.code == 404
        })
        .await;
    }
    eventually("the reference to the missing owner is removed", async || {
        let shared = server.get(&format!("{CONFIG_MAPS}/shared")).await.expect(200);
        shared["metadata"]["ownerReferences"]
            .as_array()
            .is_some_and(|list| list.len() == 1 && list[0]["name"] == "other")
    })
    .await;
}

#[tokio::test]
async fn an_owner_that_never_was_or_is_another_one_now_owns_nothing() {
    let server = Server::with_definitions().await;
    let real = server.post(WIDGETS, &widget("owner", 1)).await.expect(201);
    let mut wrong_uid = owned("wrong-uid", &real, false);
    wrong_uid["metadata"]["ownerReferences"][0]["uid"] = json!("11111111-1111-1111-1111-111111111111");
    let mut missing = owned("missing", &real, false);
    missing["metadata"]["ownerReferences"][0]["name"] = json!("nobody");
    let mut unknown = owned("unknown-kind", &real, false);
    unknown["metadata"]["ownerReferences"][0]["kind"] = json!("Unheard");
    for object in [&wrong_uid, &missing, &unknown, &owned("right", &real, false)] {
        server.post(CONFIG_MAPS, object).await.expect(201);
    }
    for name in ["wrong-uid", "missing"] {
        eventually("it is collected", async || {
            server.get(&format!("{CONFIG_MAPS}/{name}")).await.code == 404
        })
        .await;
    }
    for name in ["right", "unknown-kind"] {
        server.get(&format!("{CONFIG_MAPS}/{name}")).await.expect(200);
    }
    // In another namespace the owner's name means another object.
    let mut elsewhere = owned("elsewhere", &real, false);
    elsewhere["metadata"]["namespace"] = json!("kube-public");
    server
        .post("/api/v1/namespaces/kube-public/configmaps", &elsewhere)
        .await
        .expect(201);
    eventually("it is collected", async || {
        server.get("/api/v1/namespaces/kube-public/configmaps/elsewhere").await.code == 404
    })
    .await;
}

#[tokio::test]
async fn foreground_deletion_waits_for_the_dependents_that_block() {
    let server = Server::with_definitions().await;
    let owner = server.post(WIDGETS, &widget("owner", 1)).await.expect(201);
    let mut child = owned("child", &owner, true);
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.post(CONFIG_MAPS, &child).await.expect(201);
    let marked = server
        .delete_with(&format!("{WIDGETS}/owner"), &json!({ "propagationPolicy": "Foreground" }))
        .await
        .expect(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let path = format!("{CONFIG_MAPS}/child");
    eventually("the child is being deleted", async || {
        server.get(&path).await.expect(200)["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    server.get(&format!("{WIDGETS}/owner")).await.expect(200);
    server
        .merge(&path, &json!({ "metadata": { "finalizers": null } }))
        .await
        .expect(200);
    eventually("the owner goes after the child", async || {
        server.get(&format!("{WIDGETS}/owner")).await.code == 404
    })
    .await;
    // Without dependents it simply goes.
    server.post(WIDGETS, &widget("alone", 1)).await.expect(201);
    server
        .delete_with(&format!("{WIDGETS}/alone"), &json!({ "propagationPolicy": "Foreground" }))
        .await
        .expect(200);
    eventually("it goes", async || server.get(&format!("{WIDGETS}/alone")).await.code == 404).await;
}

#[tokio::test]
async fn orphaning_deletion_leaves_the_dependents() {
    let server = Server::with_definitions().await;
    let owner = server.post(WIDGETS, &widget("owner", 1)).await.expect(201);
    server.post(CONFIG_MAPS, &owned("child", &owner, false)).await.expect(201);
    server
        .delete_with(&format!("{WIDGETS}/owner"), &json!({ "propagationPolicy": "Orphan" }))
        .await
        .expect(200);
    eventually("the owner is gone", async || {
        server.get(&format!("{WIDGETS}/owner")).await.code == 404
    })
    .await;
    let child = server.get(&format!("{CONFIG_MAPS}/child")).await.expect(200);
    assert!(child["metadata"].get("ownerReferences").is_none(), "{child}");
    server
        .delete_with(
            &format!("{CONFIG_MAPS}/child"),
            &json!({ "propagationPolicy": "Orphan", "orphanDependents": true }),
        )
        .await
        .expect(422);
}

#[tokio::test]
async fn a_deleted_namespace_is_emptied_and_takes_nothing_new() {
    let server = Server::with_definitions().await;
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } });
    let made = server.post("/api/v1/namespaces", &namespace).await.expect(201);
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["status"]["phase"], "Active");
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    let mut held = widget("held", 1);
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let widgets = "/apis/example.com/v1/namespaces/team/widgets";
    server.post(widgets, &held).await.expect(201);
    server
        .post("/api/v1/namespaces/team/configmaps", &config_map("c"))
        .await
        .expect(201);
    let marked = server.delete("/api/v1/namespaces/team").await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    eventually("what can go is gone", async || {
        server.get("/api/v1/namespaces/team/configmaps/c").await.code == 404
    })
    .await;
    let refused = server.post(widgets, &widget("late", 1)).await.expect(403);
    assert_eq!(
        refused["message"],
        "widgets.example.com \"late\" is forbidden: unable to create new content in namespace team because it is being terminated"
    );
    assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    server.get("/api/v1/namespaces/team").await.expect(200);
    server
        .merge(&format!("{widgets}/held"), &json!({ "metadata": { "finalizers": null } }))
        .await
        .expect(200);
    eventually("the namespace is gone", async || {
        server.get("/api/v1/namespaces/team").await.code == 404
    })
    .await;
    server.post("/api/v1/namespaces", &namespace).await.expect(201);
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        server.get(&format!("/api/v1/namespaces/{name}")).await.expect(200);
    }
}

#[tokio::test]
async fn unfinished_deletions_are_finished_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data");
    let api = apiserver::ApiServer::open(apiserver::Config::new(&path)).await.expect("opens");
    let server = Server {
        api,
        directory: tempfile::tempdir().expect("a directory"),
    };
    server.install(&widgets()).await;
    let owner = server.post(WIDGETS, &widget("owner", 1)).await.expect(201);
    server.post(CONFIG_MAPS, &owned("child", &owner, true)).await.expect(201);
    server.api.shutdown().await;
    // The owner goes while nobody collects.
    let store = apiserver::store::Store::open(&path.join("objects.redb"), apiserver::store::Limits::default()).expect("opens");
    let key = apiserver::store::Key::new(&std::sync::Arc::from("example.com/widgets"), "default", "owner");
    let stored = store.get(&key).expect("stored");
    store
        .commit(apiserver::store::Write::Delete {
            key,
            revision: stored.revision,
        })
        .await
        .expect("deleted");
    store.close().await;
    let api = apiserver::ApiServer::open(apiserver::Config::new(&path))
        .await
        .expect("opens again");
    let server = Server { api, directory };
    eventually("the child is collected", async || {
        server.get(&format!("{CONFIG_MAPS}/child")).await.code == 404
    })
    .await;
    server.api.shutdown().await;
}
