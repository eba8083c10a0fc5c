//! Lists in pages and at revisions, and watches.

use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};

use crate::common::*;

fn names(list: &Value) -> Vec<String> {
    list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn version(value: &Value) -> String {
    value["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

#[tokio::test]
async fn pages_are_consistent_at_the_revision_of_the_first() {
    let server = Server::with_definitions().await;
    for n in 0..7 {
        server.post(WIDGETS, &widget(&format!("w{n}"), n)).await.expect(201);
    }
    let first = server.get(&format!("{WIDGETS}?limit=3")).await.expect(200);
    assert_eq!(names(&first), ["w0", "w1", "w2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    // Changes between the pages do not show.
    server.delete(&format!("{WIDGETS}/w4")).await.expect(200);
    server.post(WIDGETS, &widget("w31", 1)).await.expect(201);
    server
        .merge(&format!("{WIDGETS}/w5"), &json!({ "spec": { "size": 50 } }))
        .await
        .expect(200);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    let second = server.get(&format!("{WIDGETS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["w3", "w4", "w5"]);
    assert_eq!(second["items"][2]["spec"]["size"], 5);
    assert_eq!(version(&second), version(&first));
    let token = second["metadata"]["continue"].as_str().expect("a token").to_owned();
    let last = server.get(&format!("{WIDGETS}?limit=3&continue={token}")).await.expect(200);
    assert_eq!(names(&last), ["w6"]);
    assert_eq!(last["metadata"]["continue"], "");
    assert_eq!(
        names(&server.get(WIDGETS).await.expect(200)),
        ["w0", "w1", "w2", "w3", "w31", "w5", "w6"]
    );
    // Nothing follows the last one.
    let selected = server
        .get(&format!("{WIDGETS}?limit=1&fieldSelector=metadata.name%3Dw6"))
        .await
        .expect(200);
    assert_eq!(selected["metadata"]["continue"], "");
    for bad in ["nonsense", "e30", "AAAA"] {
        server.get(&format!("{WIDGETS}?continue={bad}")).await.expect(400);
    }
    let old = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"default/w0\u0000"}"#);
    let expired = server.get(&format!("{WIDGETS}?continue={old}")).await;
    // Revision 1 is where an empty store begins: still known here, so the page is empty and consistent.
    assert!(names(&expired.expect(200)).is_empty());
}

#[tokio::test]
async fn lists_obey_resource_version_and_match() {
    let server = Server::with_definitions().await;
    let a = server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    server.post(WIDGETS, &widget("b", 1)).await.expect(201);
    let exact = server
        .get(&format!("{WIDGETS}?resourceVersion={}&resourceVersionMatch=Exact", version(&a)))
        .await
        .expect(200);
    assert_eq!((names(&exact), version(&exact)), (vec!["a".to_owned()], version(&a)));
    let newer = server
        .get(&format!(
            "{WIDGETS}?resourceVersion={}&resourceVersionMatch=NotOlderThan",
            version(&a)
        ))
        .await
        .expect(200);
    assert_eq!(names(&newer), ["a", "b"]);
    let any = server.get(&format!("{WIDGETS}?resourceVersion=0")).await.expect(200);
    assert_eq!(names(&any), ["a", "b"]);
    let ahead = server.get(&format!("{WIDGETS}?resourceVersion=999999")).await.expect(504);
    assert_eq!(ahead["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    server.get(&format!("{WIDGETS}?resourceVersion=abc")).await.expect(400);
    server.get(&format!("{WIDGETS}?resourceVersionMatch=Exact")).await.expect(422);
    server
        .get(&format!("{WIDGETS}?resourceVersion=0&resourceVersionMatch=Exact"))
        .await
        .expect(422);
    server
        .get(&format!("{WIDGETS}?resourceVersion=5&resourceVersionMatch=Sometimes"))
        .await
        .expect(422);
}

#[tokio::test]
async fn selectors_narrow_lists() {
    let server = Server::with_definitions().await;
    for (name, color, team) in [("a", "red", "x"), ("b", "blue", "x"), ("c", "blue", "y")] {
        let object = json!({
            "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": name, "labels": { "team": team } },
            "spec": { "size": 1, "color": color },
        });
        server.post(WIDGETS, &object).await.expect(201);
    }
    for (query, expected) in [
        ("labelSelector=team%3Dx", vec!["a", "b"]),
        ("labelSelector=team%20notin%20(x)", vec!["c"]),
        ("fieldSelector=spec.color%3Dblue", vec!["b", "c"]),
        ("fieldSelector=spec.color!%3Dblue", vec!["a"]),
        ("labelSelector=team%3Dx&fieldSelector=spec.color%3Dblue", vec!["b"]),
        ("fieldSelector=metadata.namespace%3Ddefault,metadata.name%3Da", vec!["a"]),
    ] {
        assert_eq!(
            names(&server.get(&format!("/apis/example.com/v1/widgets?{query}")).await.expect(200)),
            expected,
            "{query}"
        );
    }
    assert_eq!(
        server.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await.expect(400)["message"],
        "field label not supported: spec.size"
    );
    server.get(&format!("{WIDGETS}?labelSelector=a%20b")).await.expect(400);
}

#[tokio::test]
async fn a_watch_tells_every_change_from_its_revision() {
    let server = Server::with_definitions().await;
    let a = server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    let mut from_now = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion={}", version(&a))).await;
    let mut from_start = server.watch(&format!("{WIDGETS}?watch=true")).await;
    assert_eq!(from_start.brief().await, "ADDED a");
    server
        .merge(&format!("{WIDGETS}/a"), &json!({ "spec": { "size": 2 } }))
        .await
        .expect(200);
    server.post(WIDGETS, &widget("b", 1)).await.expect(201);
    server
        .post("/apis/example.com/v1/namespaces/kube-system/widgets", &widget("other", 1))
        .await
        .expect(201);
    let gone = server.delete(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(gone["status"], "Success");
    for watch in [&mut from_now, &mut from_start] {
        assert_eq!(watch.brief().await, "MODIFIED a");
        let (kind, object) = watch.next().await.expect("an event");
        assert_eq!(
            (kind.as_str(), object["metadata"]["name"].as_str(), object["kind"].as_str()),
            ("ADDED", Some("b"), Some("Widget"))
        );
        let (kind, last) = watch.next().await.expect("an event");
        assert_eq!((kind.as_str(), last["spec"]["size"].clone()), ("DELETED", json!(2)));
        let (deleted, created): (u64, u64) = (
            version(&last).parse().expect("a number"),
            version(&object).parse().expect("a number"),
        );
        assert!(deleted > created, "a deletion has a revision of its own");
    }
    let mut one = server.watch(&format!("{WIDGETS}?watch=1&fieldSelector=metadata.name%3Db")).await;
    assert_eq!(one.brief().await, "ADDED b");
}

#[tokio::test]
async fn what_leaves_a_selection_is_deleted_for_its_watcher() {
    let server = Server::with_definitions().await;
    let list = server.get(WIDGETS).await.expect(200);
    let mut watch = server
        .watch(&format!(
            "{WIDGETS}?watch=1&labelSelector=on%3Dyes&resourceVersion={}",
            version(&list)
        ))
        .await;
    server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    let label = async |value: Value| {
        server
            .merge(&format!("{WIDGETS}/a"), &json!({ "metadata": { "labels": { "on": value } } }))
            .await
            .expect(200)
    };
    label(json!("yes")).await;
    server
        .merge(&format!("{WIDGETS}/a"), &json!({ "spec": { "size": 7 } }))
        .await
        .expect(200);
    let left = label(json!("no")).await;
    label(json!("yes")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    assert_eq!(watch.brief().await, "MODIFIED a");
    let (kind, object) = watch.next().await.expect("an event");
    assert_eq!(kind, "DELETED");
    assert_eq!(object["metadata"]["labels"]["on"], "yes", "the last version that was selected");
    assert_eq!(version(&object), version(&left), "at the revision of the change");
    assert_eq!(watch.brief().await, "ADDED a");
}

#[tokio::test]
async fn bookmarks_initial_events_and_timeouts() {
    let server = Server::with_definitions().await;
    server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3";
    let mut watch = server.watch(&format!("{WIDGETS}?{query}")).await;
    assert_eq!(watch.brief().await, "ADDED a");
    let (kind, object) = watch.next().await.expect("a bookmark");
    assert_eq!(
        (
            kind.as_str(),
            object["metadata"]["annotations"]["k8s.io/initial-events-end"].as_str()
        ),
        ("BOOKMARK", Some("true"))
    );
    assert_eq!(object["kind"], "Widget");
    // Another resource moves the revision; the bookmark before the end says how far this watch is.
    let other = server.post(CONFIG_MAPS, &config_map("c")).await.expect(201);
    let (kind, object) = watch.next().await.expect("a bookmark before the end");
    assert_eq!((kind.as_str(), version(&object)), ("BOOKMARK", version(&other)));
    assert!(watch.next().await.is_none(), "the time is over");
    server.get(&format!("{WIDGETS}?sendInitialEvents=true")).await.expect(422);
    server.get(&format!("{WIDGETS}?watch=1&sendInitialEvents=true")).await.expect(422);
    server
        .get(&format!("{WIDGETS}?watch=1&resourceVersionMatch=Exact&resourceVersion=1"))
        .await
        .expect(422);
}

#[tokio::test]
async fn a_watch_of_the_forgotten_past_is_told_to_list_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let limits = apiserver::store::Limits {
        ring_events: 8,
        ..Default::default()
    };
    let api = apiserver::ApiServer::open(apiserver::Config {
        limits,
        ..apiserver::Config::new(directory.path().join("d"))
    })
    .await
    .expect("opens");
    let server = Server { api, directory };
    let start = server.get(CONFIG_MAPS).await.expect(200);
    let mut slow = server
        .watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", version(&start)))
        .await;
    for n in 0..20 {
        server.post(CONFIG_MAPS, &config_map(&format!("c{n}"))).await.expect(201);
    }
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", version(&start));
    for mut watch in [server.watch(&path).await, std::mem::replace(&mut slow, server.watch(&path).await)] {
        let (kind, status) = watch.next().await.expect("an error");
        assert_eq!(
            (kind.as_str(), status["code"].as_u64(), status["reason"].as_str()),
            ("ERROR", Some(410), Some("Expired"))
        );
        assert!(
            status["message"]
                .as_str()
                .is_some_and(|text| text.starts_with("too old resource version: "))
        );
        assert!(watch.next().await.is_none());
    }
    let token = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(
        json!({ "v": "meta.k8s.io/v1", "rv": version(&start).parse::<u64>().expect("a number"), "start": "default/c0\u{0}" }).to_string(),
    );
    let expired = server.get(&format!("{CONFIG_MAPS}?continue={token}&limit=2")).await.expect(410);
    assert_eq!(expired["reason"], "Expired");
    let next = expired["metadata"]["continue"].as_str().expect("how to go on").to_owned();
    assert_eq!(
        server.get(&format!("{CONFIG_MAPS}?continue={next}")).await.expect(200)["items"]
            .as_array()
            .map(Vec::len),
        Some(19)
    );
    server
        .get(&format!(
            "{CONFIG_MAPS}?resourceVersion={}&resourceVersionMatch=Exact",
            version(&start)
        ))
        .await
        .expect(410);
    server.api.shutdown().await;
}

#[tokio::test]
async fn many_watchers_see_the_same_story() {
    let server = Server::with_definitions().await;
    let mut watchers = Vec::new();
    for _ in 0..50 {
        watchers.push(server.watch(&format!("{WIDGETS}?watch=1")).await);
    }
    for n in 0..20 {
        server.post(WIDGETS, &widget(&format!("w{n:02}"), n)).await.expect(201);
    }
    for watch in &mut watchers {
        for n in 0..20 {
            assert_eq!(watch.brief().await, format!("ADDED w{n:02}"));
        }
    }
    drop(watchers);
}

#[tokio::test]
async fn watches_as_table_carry_the_columns_once() {
    let server = Server::with_definitions().await;
    let request = http::Request::builder()
        .uri(format!("{WIDGETS}?watch=1"))
        .header(http::header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(axum::body::Body::empty())
        .expect("a request");
    let mut watch = Watch::new(server.send(request).await.into_body());
    server.post(WIDGETS, &widget("a", 1)).await.expect(201);
    server.post(WIDGETS, &widget("b", 1)).await.expect(201);
    let (_, first) = watch.next().await.expect("an event");
    assert_eq!(
        (first["kind"].as_str(), first["columnDefinitions"].as_array().map(Vec::len)),
        (Some("Table"), Some(9))
    );
    let (_, second) = watch.next().await.expect("an event");
    assert_eq!(
        (
            second["rows"][0]["cells"][0].as_str(),
            second["columnDefinitions"].as_array().map(Vec::len)
        ),
        (Some("b"), Some(0))
    );
}

#[tokio::test]
async fn watches_end_with_the_server_and_with_their_resource() {
    let server = Server::with_definitions().await;
    let mut watch = server.watch("/apis/example.com/v1/gadgets?watch=1").await;
    server
        .delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.example.com")
        .await
        .expect(200);
    assert!(watch.next().await.is_none(), "the resource is served no more");
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1")).await;
    tokio::time::timeout(Duration::from_secs(10), server.api.shutdown())
        .await
        .expect("the server ends");
    assert!(watch.next().await.is_none());
}
