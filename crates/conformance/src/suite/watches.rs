//! Watches: order, starting points, bookmarks, initial events, selectors, ends and errors.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    api::Watch,
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
    found::Found,
};

/// Long enough for an event that must not come to be seen on a busy machine.
const SILENCE: Duration = Duration::from_millis(700);

async fn silent(watch: &mut Watch) {
    assert!(watch.within(SILENCE).await.is_none(), "an event that should not come");
}

/// A watch of the behaviour's widgets from now on.
async fn from_now(t: &Case, query: &str) -> Watch {
    let list = t.get(&t.widgets()).await.ok(200);
    t.watch(&format!("{}?watch=1&resourceVersion={}{query}", t.widgets(), list.version()))
        .await
}

fn is_bookmark(event: Option<&(String, Found)>) -> bool {
    event.is_some_and(|(kind, _)| kind == "BOOKMARK")
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = basics();
    list.extend(starts());
    list
}

fn basics() -> Vec<Behaviour> {
    vec![
        behaviour("watch: created, changed and deleted objects in order", async |t| {
            let mut watch = from_now(t, "").await;
            t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            t.delete(&t.widget("a")).await.ok(200);
            for event in ["ADDED a", "MODIFIED a", "DELETED a"] {
                assert_eq!(watch.brief().await, event);
            }
        }),
        behaviour("watch: events carry whole objects", async |t| {
            let mut watch = from_now(t, "").await;
            let made = t.made("a").await;
            assert_eq!(watch.next().await, Some(("ADDED".to_owned(), made)));
        }),
        behaviour("watch: events of core kinds carry kind and version", async |t| {
            let made = t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let path = format!("{}?watch=1&fieldSelector=metadata.name%3Dc", t.config_maps());
            let (_, object) = t.watch(&path).await.next().await.expect("an event");
            assert_eq!(object, made);
        }),
        behaviour("watch: a deletion carries the last state and a new version", async |t| {
            let made = t.made("a").await;
            let mut watch = from_now(t, "").await;
            t.delete(&t.widget("a")).await.ok(200);
            let (kind, last) = watch.next().await.expect("an event");
            assert_eq!(kind, "DELETED");
            last.has(json!({ "spec": { "size": 1 }, "metadata": { "uid": made.uid() } }));
            assert_ne!(last.version(), made.version());
        }),
        behaviour("watch: a deletion that waits for finalizers is a change first", async |t| {
            let mut value = widget("a", 1);
            value["metadata"]["finalizers"] = json!(["example.com/hold"]);
            t.post(&t.widgets(), &value).await.ok(201);
            let mut watch = from_now(t, "").await;
            t.delete(&t.widget("a")).await.ok(200);
            assert_eq!(watch.brief().await, "MODIFIED a");
            t.merge(&t.widget("a"), &json!({ "metadata": { "finalizers": null } }))
                .await
                .ok(200);
            assert_eq!(watch.brief().await, "DELETED a");
        }),
        behaviour("watch: what changes nothing is no event", async |t| {
            let made = t.made("a").await;
            let mut watch = from_now(t, "").await;
            t.put(&t.widget("a"), &made).await.ok(200);
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 1 } })).await.ok(200);
            silent(&mut watch).await;
        }),
        behaviour("watch: other namespaces are not seen", async |t| {
            let mut watch = from_now(t, "").await;
            let other = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("{}-o", t.namespace) } });
            t.post("/api/v1/namespaces", &other).await.ok(201);
            t.post(
                &format!("/apis/conformance.example.com/v1/namespaces/{}-o/widgets", t.namespace),
                &widget("x", 1),
            )
            .await
            .ok(201);
            t.made("a").await;
            assert_eq!(watch.brief().await, "ADDED a");
        }),
        behaviour("watch: over all namespaces, by label", async |t| {
            let path = format!(
                "/apis/conformance.example.com/v1/widgets?watch=1&labelSelector=mine%3D{}",
                t.namespace
            );
            let mut watch = t.watch(&path).await;
            t.made("b").await;
            t.post(&t.widgets(), &labelled("a", json!({ "mine": t.namespace }))).await.ok(201);
            assert_eq!(watch.brief().await, "ADDED a");
        }),
        behaviour(
            "watch: an object that comes into a selection is added, one that leaves deleted",
            async |t| {
                let mut watch = from_now(t, "&labelSelector=x%3Dy").await;
                t.made("a").await;
                t.merge(&t.widget("a"), &json!({ "metadata": { "labels": { "x": "y" } } }))
                    .await
                    .ok(200);
                t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
                t.merge(&t.widget("a"), &json!({ "metadata": { "labels": { "x": "z" } } }))
                    .await
                    .ok(200);
                t.delete(&t.widget("a")).await.ok(200);
                t.post(&t.widgets(), &labelled("b", json!({ "x": "y" }))).await.ok(201);
                for event in ["ADDED a", "MODIFIED a", "DELETED a", "ADDED b"] {
                    assert_eq!(watch.brief().await, event);
                }
            },
        ),
        behaviour(
            "watch: one that leaves a selection is shown as it was, with the new version",
            async |t| {
                t.post(&t.widgets(), &labelled("a", json!({ "x": "y" }))).await.ok(201);
                let mut watch = from_now(t, "&labelSelector=x%3Dy").await;
                let after = t
                    .merge(&t.widget("a"), &json!({ "metadata": { "labels": { "x": "z" } } }))
                    .await
                    .ok(200);
                let (kind, last) = watch.next().await.expect("an event");
                assert_eq!(kind, "DELETED");
                last.has(json!({ "metadata": { "labels": { "x": "y" }, "resourceVersion": after.version() } }));
            },
        ),
        behaviour("watch: of one object by name", async |t| {
            t.made("b").await;
            let mut watch = t.watch(&format!("{}?watch=1&fieldSelector=metadata.name%3Da", t.widgets())).await;
            t.made("a").await;
            assert_eq!(watch.brief().await, "ADDED a");
        }),
        behaviour("watch: by a selectable field", async |t| {
            let mut watch = from_now(t, "&fieldSelector=spec.size%3D2").await;
            t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 3 } })).await.ok(200);
            for event in ["ADDED a", "DELETED a"] {
                assert_eq!(watch.brief().await, event);
            }
        }),
        behaviour("watch: the deprecated /watch/ prefix", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let path = format!("/api/v1/watch/namespaces/{}/configmaps/c", t.namespace);
            assert_eq!(t.watch(&path).await.brief().await, "ADDED c");
        }),
        behaviour("watch: through another version", async |t| {
            let path = format!("/apis/conformance.example.com/v1beta1/namespaces/{}/widgets?watch=1", t.namespace);
            let mut watch = t.watch(&path).await;
            t.made("a").await;
            let (_, object) = watch.next().await.expect("an event");
            object.has(json!({ "apiVersion": "conformance.example.com/v1beta1" }));
        }),
        behaviour("watch: as Table, columns come once", async |t| {
            let call = t
                .call(reqwest::Method::GET, &format!("{}?watch=1", t.widgets()))
                .accept("application/json;as=Table;v=v1;g=meta.k8s.io");
            let mut watch = call.watch().await;
            t.made("a").await;
            t.made("b").await;
            let (_, first) = watch.next().await.expect("an event");
            first.has(json!({ "kind": "Table" }));
            assert_eq!(first["columnDefinitions"].as_array().map(Vec::len), Some(9));
            let (_, second) = watch.next().await.expect("an event");
            assert!(second["columnDefinitions"].as_array().is_none_or(Vec::is_empty));
            assert_eq!(second["rows"][0]["cells"][0], "b");
        }),
        behaviour("watch: as PartialObjectMetadata", async |t| {
            let call = t
                .call(reqwest::Method::GET, &format!("{}?watch=1", t.widgets()))
                .accept("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io");
            let mut watch = call.watch().await;
            t.made("a").await;
            let (_, first) = watch.next().await.expect("an event");
            first
                .has(json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": { "name": "a" } }))
                .lacks("/spec");
        }),
    ]
}

fn starts() -> Vec<Behaviour> {
    vec![
        behaviour("watch: without a version it begins with what is there", async |t| {
            t.made("a").await;
            let mut watch = t.watch(&format!("{}?watch=true", t.widgets())).await;
            t.made("b").await;
            assert_eq!([watch.brief().await, watch.brief().await], ["ADDED a", "ADDED b"]);
        }),
        behaviour("watch: from version 0 it begins with what is there", async |t| {
            t.made("a").await;
            assert_eq!(
                t.watch(&format!("{}?watch=1&resourceVersion=0", t.widgets())).await.brief().await,
                "ADDED a"
            );
        }),
        behaviour("watch: from an older version it tells what happened since", async |t| {
            let made = t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "size": 2 } })).await.ok(200);
            t.delete(&t.widget("a")).await.ok(200);
            let mut watch = t
                .watch(&format!("{}?watch=1&resourceVersion={}", t.widgets(), made.version()))
                .await;
            assert_eq!([watch.brief().await, watch.brief().await], ["MODIFIED a", "DELETED a"]);
        }),
        behaviour("watch: from the version of a list there is no gap and nothing twice", async |t| {
            t.made("a").await;
            let mut watch = from_now(t, "").await;
            t.made("b").await;
            assert_eq!(watch.brief().await, "ADDED b");
            silent(&mut watch).await;
        }),
        behaviour("watch: ends after its time", async |t| {
            let mut watch = from_now(t, "&timeoutSeconds=1").await;
            assert_eq!(watch.brief().await, "END");
        }),
        behaviour("watch: a version that is too old", async |t| {
            // Version 1 is long compacted or out of every window; both servers say so in the stream or as a refusal.
            let answer = t.get(&format!("{}?watch=1&resourceVersion=1&timeoutSeconds=5", t.widgets())).await;
            let status: Value = if answer.code == 200 {
                let event: Value = serde_json::from_str(answer.text.lines().next().unwrap_or("null")).expect("JSON");
                assert_eq!(event["type"], "ERROR");
                event["object"].clone()
            } else {
                answer.body
            };
            assert_eq!(
                (status["code"].as_u64(), status["reason"].as_str()),
                (Some(410), Some("Expired")),
                "{status}"
            );
        }),
        behaviour("watch: a version that is no number", async |t| {
            t.get(&format!("{}?watch=1&resourceVersion=abc", t.widgets()))
                .await
                .refused(500, "");
        }),
        behaviour("watch: initial events end with an annotated bookmark", async |t| {
            t.made("a").await;
            t.made("b").await;
            let path = format!(
                "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                t.widgets()
            );
            let mut watch = t.watch(&path).await;
            assert_eq!([watch.brief().await, watch.brief().await], ["ADDED a", "ADDED b"]);
            let event = watch.next().await;
            assert!(is_bookmark(event.as_ref()), "{event:?}");
            let (_, bookmark) = event.expect("an event");
            bookmark.has(json!({ "kind": "Widget", "metadata": { "annotations": { "k8s.io/initial-events-end": "true" } } }));
            t.made("c").await;
            assert_eq!(watch.brief().await, "ADDED c");
        }),
        behaviour("watch: initial events of nothing are a bookmark", async |t| {
            let path = format!(
                "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                t.widgets()
            );
            assert!(is_bookmark(t.watch(&path).await.next().await.as_ref()));
        }),
        behaviour("watch: initial events by selector", async |t| {
            t.made("a").await;
            t.post(&t.widgets(), &labelled("b", json!({ "x": "y" }))).await.ok(201);
            let path = format!(
                "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=x",
                t.widgets()
            );
            let mut watch = t.watch(&path).await;
            assert_eq!(watch.brief().await, "ADDED b");
            assert!(is_bookmark(watch.next().await.as_ref()));
        }),
        behaviour("watch: without initial events it begins after what is there", async |t| {
            t.made("a").await;
            let path = format!(
                "{}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                t.widgets()
            );
            let mut watch = t.watch(&path).await;
            t.made("b").await;
            loop {
                let (kind, object) = watch.next().await.expect("an event");
                if kind != "BOOKMARK" {
                    assert_eq!((kind.as_str(), object["metadata"]["name"].as_str()), ("ADDED", Some("b")));
                    break;
                }
            }
        }),
        behaviour("watch: sendInitialEvents needs resourceVersionMatch", async |t| {
            let refused = t
                .get(&format!("{}?watch=1&sendInitialEvents=true", t.widgets()))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueForbidden", "resourceVersionMatch")]);
        }),
        behaviour("watch: resourceVersionMatch needs sendInitialEvents", async |t| {
            let refused = t
                .get(&format!(
                    "{}?watch=1&resourceVersion=1&resourceVersionMatch=NotOlderThan",
                    t.widgets()
                ))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueForbidden", "resourceVersionMatch")]);
        }),
        behaviour("watch: sendInitialEvents goes with NotOlderThan only", async |t| {
            let path = format!(
                "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=Exact&resourceVersion=1",
                t.widgets()
            );
            t.get(&path).await.refused(422, "Invalid").causes(&[
                ("FieldValueForbidden", "resourceVersionMatch"),
                ("FieldValueNotSupported", "resourceVersionMatch"),
            ]);
        }),
        behaviour("watch: bookmarks carry a version only", async |t| {
            let path = format!(
                "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                t.widgets()
            );
            let (_, bookmark) = t.watch(&path).await.next().await.expect("an event");
            assert!(!bookmark.version().is_empty());
            bookmark.lacks("/metadata/name");
        }),
        behaviour(
            "watch: goes on from a bookmark without a gap and without telling again",
            async |t| {
                t.made("a").await;
                t.made("b").await;
                let path = format!(
                    "{}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
                    t.widgets()
                );
                let mut first = t.watch(&path).await;
                let bookmark = loop {
                    let (kind, object) = first.next().await.expect("an event");
                    if kind == "BOOKMARK" {
                        break object;
                    }
                };
                t.made("c").await;
                let mut next = t
                    .watch(&format!("{}?watch=1&resourceVersion={}", t.widgets(), bookmark.version()))
                    .await;
                assert_eq!(next.brief().await, "ADDED c");
            },
        ),
        behaviour("watch: twenty watchers see the same", async |t| {
            let mut watches = Vec::new();
            for _ in 0..20 {
                watches.push(from_now(t, "").await);
            }
            for name in ["a", "b", "c"] {
                t.made(name).await;
            }
            for watch in &mut watches {
                assert_eq!(
                    [watch.brief().await, watch.brief().await, watch.brief().await],
                    ["ADDED a", "ADDED b", "ADDED c"]
                );
            }
        }),
    ]
}
