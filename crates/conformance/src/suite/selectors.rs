//! Label and field selectors, in lists.

use serde_json::{Value, json};

use crate::{
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
    found::encoded,
};

/// Three widgets to choose from.
async fn three(t: &Case) {
    let rows = [
        ("a", json!({ "app": "web", "tier": "3" }), "red", 1),
        ("b", json!({ "app": "db" }), "green", 2),
        ("c", json!({}), "blue", 3),
    ];
    for (name, labels, color, size) in rows {
        let mut value = labelled(name, labels);
        value["spec"] = json!({ "size": size, "color": color });
        t.post(&t.widgets(), &value).await.ok(201);
    }
}

const LABELS: &[(&str, &[&str])] = &[
    ("app=web", &["a"]),
    ("app==web", &["a"]),
    ("app!=web", &["b", "c"]),
    ("app in (web,db)", &["a", "b"]),
    ("app in (web, none)", &["a"]),
    ("app notin (web)", &["b", "c"]),
    ("app", &["a", "b"]),
    ("!app", &["c"]),
    ("app=web,tier=3", &["a"]),
    ("app=db,tier", &[]),
    ("tier>2", &["a"]),
    ("tier<3", &[]),
    ("app=", &[]),
    ("", &["a", "b", "c"]),
];

const BAD_LABELS: &[&str] = &[
    "app in web",
    "=x",
    "app=web,",
    "app in (a",
    "a b",
    "tier>x",
    "-bad=1",
    "app=white space",
    "a=b=c",
];

const FIELDS: &[(&str, &[&str])] = &[
    ("metadata.name=a", &["a"]),
    ("metadata.name!=a", &["b", "c"]),
    ("metadata.name==b", &["b"]),
    ("metadata.name=a,metadata.name=b", &[]),
    ("spec.color=green", &["b"]),
    ("spec.color!=green", &["a", "c"]),
    ("spec.size=3", &["c"]),
    ("spec.color=red,spec.size=1", &["a"]),
    ("spec.color=", &[]),
    ("metadata.namespace!=nowhere", &["a", "b", "c"]),
];

const BAD_FIELDS: &[(&str, &str)] = &[
    ("spec.note=x", "field label not supported: spec.note"),
    ("nonsense", "invalid selector: 'nonsense'; can't understand 'nonsense'"),
    ("metadata.uid=1", "field label not supported: metadata.uid"),
];

pub(super) fn all() -> Vec<Behaviour> {
    let labels = LABELS.iter().map(|(selector, names)| {
        behaviour(format!("label selector: {selector:?}"), async move |t| {
            three(t).await;
            let list = t.get(&format!("{}?labelSelector={}", t.widgets(), encoded(selector))).await.ok(200);
            assert_eq!(list.names(), *names);
        })
    });
    let bad_labels = BAD_LABELS.iter().map(|selector| {
        behaviour(format!("label selector: {selector:?} is refused"), async move |t| {
            t.get(&format!("{}?labelSelector={}", t.widgets(), encoded(selector)))
                .await
                .refused(400, "BadRequest");
        })
    });
    let fields = FIELDS.iter().map(|(selector, names)| {
        behaviour(format!("field selector: {selector:?}"), async move |t| {
            three(t).await;
            let list = t.get(&format!("{}?fieldSelector={}", t.widgets(), encoded(selector))).await.ok(200);
            assert_eq!(list.names(), *names);
        })
    });
    let bad_fields = BAD_FIELDS.iter().map(|(selector, message)| {
        behaviour(format!("field selector: {selector:?} is refused"), async move |t| {
            let refused = t
                .get(&format!("{}?fieldSelector={}", t.widgets(), encoded(selector)))
                .await
                .refused(400, "BadRequest");
            refused.says(message);
        })
    });
    let rest = vec![
        behaviour("selectors: labels and fields together", async |t| {
            three(t).await;
            let list = t
                .get(&format!("{}?labelSelector=app&fieldSelector=spec.color%3Dgreen", t.widgets()))
                .await
                .ok(200);
            assert_eq!(list.names(), ["b"]);
        }),
        behaviour("field selector: a Secret's type", async |t| {
            for (name, kind) in [("one", "Opaque"), ("two", "example.com/other")] {
                let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "type": kind });
                t.post(&t.core("secrets"), &body).await.ok(201);
            }
            let list = t
                .get(&format!("{}?fieldSelector=type%3Dexample.com%2Fother", t.core("secrets")))
                .await
                .ok(200);
            assert_eq!(list.names(), ["two"]);
        }),
        behaviour("field selector: a namespace's phase", async |t| {
            let path = format!(
                "/api/v1/namespaces?fieldSelector=status.phase%3DActive,metadata.name%3D{}",
                t.namespace
            );
            assert_eq!(t.get(&path).await.ok(200).names(), [t.namespace.as_str()]);
        }),
        behaviour("field selector: what an Event is about", async |t| {
            for (name, about) in [("one", "x"), ("two", "y")] {
                let body: Value = json!({
                    "apiVersion": "v1", "kind": "Event", "metadata": { "name": name }, "reason": "Tested",
                    "involvedObject": { "kind": "Widget", "name": about, "namespace": t.namespace },
                });
                t.post(&t.core("events"), &body).await.ok(201);
            }
            let list = t
                .get(&format!(
                    "{}?fieldSelector=involvedObject.name%3Dy,reason%3DTested",
                    t.core("events")
                ))
                .await
                .ok(200);
            assert_eq!(list.names(), ["two"]);
        }),
        behaviour("field selector: a ConfigMap has no others", async |t| {
            t.get(&format!("{}?fieldSelector=data.key%3Dx", t.config_maps()))
                .await
                .refused(400, "BadRequest");
        }),
    ];
    labels.chain(bad_labels).chain(fields).chain(bad_fields).chain(rest).collect()
}
