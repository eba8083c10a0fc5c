//! Lists: order, limit and continue, resourceVersion and its match.

use serde_json::json;

use crate::{
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
    found::{Found, encoded},
};

async fn five(t: &Case) -> Vec<Found> {
    let mut made = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        made.push(t.made(name).await);
    }
    made
}

pub(super) fn all() -> Vec<Behaviour> {
    vec![
        behaviour("list: items are sorted by name", async |t| {
            for name in ["c", "a", "b"] {
                t.made(name).await;
            }
            let list = t.get(&t.widgets()).await.ok(200);
            list.has(json!({ "kind": "WidgetList", "apiVersion": "conformance.example.com/v1" }));
            assert_eq!(list.names(), ["a", "b", "c"]);
        }),
        behaviour("list: items of custom resources carry their kind", async |t| {
            t.made("a").await;
            let list = t.get(&t.widgets()).await.ok(200);
            assert_eq!(list["items"][0]["kind"], "Widget");
        }),
        behaviour("list: items of core kinds carry none", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let list = t.get(&format!("{}?fieldSelector=metadata.name%3Dc", t.config_maps())).await.ok(200);
            list.has(json!({ "kind": "ConfigMapList", "apiVersion": "v1" }))
                .lacks("/items/0/kind")
                .lacks("/items/0/apiVersion");
        }),
        behaviour("list: an empty one has an empty list of items", async |t| {
            let list = t.get(&t.widgets()).await.ok(200);
            assert_eq!(list["items"], json!([]));
            assert!(!list.version().is_empty());
        }),
        behaviour("list: of a namespace that is not there is empty", async |t| {
            let list = t.get("/apis/conformance.example.com/v1/namespaces/nowhere/widgets").await.ok(200);
            assert_eq!(list["items"], json!([]));
        }),
        behaviour("list: over all namespaces", async |t| {
            t.post(&t.widgets(), &labelled("a", json!({ "mine": t.namespace }))).await.ok(201);
            let list = t
                .get(&format!(
                    "/apis/conformance.example.com/v1/widgets?labelSelector=mine%3D{}",
                    t.namespace
                ))
                .await
                .ok(200);
            assert_eq!(list.names(), ["a"]);
        }),
        behaviour("list: limit cuts and says how many remain", async |t| {
            five(t).await;
            let list = t.get(&format!("{}?limit=2", t.widgets())).await.ok(200);
            assert_eq!(list.names(), ["a", "b"]);
            assert!(!list.next().is_empty());
            list.has(json!({ "metadata": { "remainingItemCount": 3 } }));
        }),
        behaviour("list: continue gives the rest", async |t| {
            five(t).await;
            let mut names = Vec::new();
            let mut next = String::new();
            loop {
                let list = t.get(&format!("{}?limit=2&continue={}", t.widgets(), encoded(&next))).await.ok(200);
                names.extend(list.names());
                next = list.next().to_owned();
                if next.is_empty() {
                    list.lacks("/metadata/remainingItemCount");
                    break;
                }
            }
            assert_eq!(names, ["a", "b", "c", "d", "e"]);
        }),
        behaviour("list: continued pages show one version", async |t| {
            five(t).await;
            let first = t.get(&format!("{}?limit=2", t.widgets())).await.ok(200);
            t.delete(&t.widget("d")).await.ok(200);
            t.made("cc").await;
            let rest = t
                .get(&format!("{}?limit=9&continue={}", t.widgets(), encoded(first.next())))
                .await
                .ok(200);
            assert_eq!(rest.names(), ["c", "d", "e"]);
            assert_eq!(rest.version(), first.version());
        }),
        behaviour("list: limit with a selector says nothing of what remains", async |t| {
            for name in ["a", "b", "c"] {
                t.post(&t.widgets(), &labelled(name, json!({ "x": "y" }))).await.ok(201);
            }
            let list = t.get(&format!("{}?limit=1&labelSelector=x%3Dy", t.widgets())).await.ok(200);
            assert!(!list.next().is_empty());
            list.lacks("/metadata/remainingItemCount");
        }),
        behaviour("list: a limit that is just reached goes on with nothing", async |t| {
            five(t).await;
            // Lists of custom resources say so in an empty token, those of core kinds by none.
            t.get(&format!("{}?limit=5", t.widgets()))
                .await
                .ok(200)
                .has(json!({ "metadata": { "continue": "" } }));
            t.post(&t.config_maps(), &config_map("a")).await.ok(201);
            t.get(&format!("{}?limit=1&fieldSelector=metadata.name%3Da", t.config_maps()))
                .await
                .ok(200)
                .lacks("/metadata/continue");
        }),
        behaviour("list: no metadata is null, not an empty list", async |t| {
            let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
            assert_eq!(t.get_as(&t.widgets(), accept).await.ok(200)["items"], json!(null));
        }),
        behaviour("list: limit 0 is no limit", async |t| {
            five(t).await;
            assert_eq!(t.get(&format!("{}?limit=0", t.widgets())).await.ok(200).names().len(), 5);
        }),
        behaviour("list: limit that is no number", async |t| {
            t.get(&format!("{}?limit=many", t.widgets())).await.refused(400, "BadRequest");
        }),
        behaviour("list: continue that is no token", async |t| {
            let refused = t
                .get(&format!("{}?limit=2&continue=nonsense", t.widgets()))
                .await
                .refused(400, "BadRequest");
            refused.says("continue key is not valid");
        }),
        behaviour("list: continue with a resourceVersion is refused", async |t| {
            five(t).await;
            let first = t.get(&format!("{}?limit=2", t.widgets())).await.ok(200);
            let path = format!(
                "{}?limit=2&continue={}&resourceVersion={}",
                t.widgets(),
                encoded(first.next()),
                first.version()
            );
            t.get(&path)
                .await
                .refused(400, "BadRequest")
                .says("specifying resource version is not allowed when using continue");
        }),
        behaviour("list: a negative limit", async |t| {
            five(t).await;
            assert_eq!(t.get(&format!("{}?limit=-1", t.widgets())).await.ok(200).names().len(), 5);
        }),
        behaviour("list: resourceVersionMatch=Exact shows that version", async |t| {
            let made = five(t).await;
            let path = format!("{}?resourceVersion={}&resourceVersionMatch=Exact", t.widgets(), made[2].version());
            let list = t.get(&path).await.ok(200);
            assert_eq!(list.names(), ["a", "b", "c"]);
            assert_eq!(list.version(), made[2].version());
        }),
        behaviour(
            "list: resourceVersionMatch=NotOlderThan shows that version or a newer one",
            async |t| {
                let made = five(t).await;
                let path = format!(
                    "{}?resourceVersion={}&resourceVersionMatch=NotOlderThan",
                    t.widgets(),
                    made[4].version()
                );
                assert_eq!(t.get(&path).await.ok(200).names().len(), 5);
            },
        ),
        behaviour("list: a limit with an exact version", async |t| {
            let made = five(t).await;
            let path = format!(
                "{}?limit=2&resourceVersion={}&resourceVersionMatch=Exact",
                t.widgets(),
                made[2].version()
            );
            let list = t.get(&path).await.ok(200);
            assert_eq!(list.names(), ["a", "b"]);
            list.has(json!({ "metadata": { "remainingItemCount": 1 } }));
        }),
        behaviour("list: resourceVersionMatch without a version", async |t| {
            let refused = t
                .get(&format!("{}?resourceVersionMatch=Exact", t.widgets()))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueForbidden", "resourceVersionMatch")]);
        }),
        behaviour("list: resourceVersionMatch=Exact of version 0", async |t| {
            let refused = t
                .get(&format!("{}?resourceVersion=0&resourceVersionMatch=Exact", t.widgets()))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueForbidden", "resourceVersionMatch")]);
        }),
        behaviour("list: an unknown resourceVersionMatch", async |t| {
            let refused = t
                .get(&format!("{}?resourceVersion=1&resourceVersionMatch=Roughly", t.widgets()))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueNotSupported", "resourceVersionMatch")]);
        }),
        behaviour("list: a version that is not reached", async |t| {
            let refused = t
                .get(&format!("{}?resourceVersion=999999999", t.widgets()))
                .await
                .refused(504, "Timeout");
            refused.says("Too large resource version: 999999999, current: ");
        }),
        behaviour("list: a version that is no number", async |t| {
            t.get(&format!("{}?resourceVersion=abc", t.widgets()))
                .await
                .refused(400, "BadRequest");
        }),
        behaviour("list: version 0 gives what is at hand", async |t| {
            t.made("a").await;
            t.get(&format!("{}?resourceVersion=0", t.widgets())).await.ok(200);
        }),
        behaviour("list: later lists have later versions", async |t| {
            let before = t.get(&t.widgets()).await.ok(200);
            t.made("a").await;
            let after = t.get(&t.widgets()).await.ok(200);
            let number = |found: &Found| found.version().parse::<u64>().expect("a number");
            assert!(number(&after) > number(&before));
        }),
        behaviour("list: sendInitialEvents is for watches", async |t| {
            let path = format!("{}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan", t.widgets());
            t.get(&path).await.refused(422, "Invalid").causes(&[
                ("FieldValueForbidden", "sendInitialEvents"),
                ("FieldValueForbidden", "resourceVersionMatch"),
            ]);
        }),
        behaviour("list: options are checked before fields that cannot be selected", async |t| {
            let path = format!("{}?resourceVersionMatch=Exact&fieldSelector=spec.note%3Dx", t.widgets());
            t.get(&path).await.refused(422, "Invalid");
        }),
    ]
}
