//! CustomResourceDefinitions: installation, change and removal at run time; several versions; refusals.

use serde_json::{Value, json};

use crate::{
    api::eventually,
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
};

fn plain() -> Value {
    json!({ "spec": { "type": "object", "properties": { "x": { "type": "string" } } } })
}

fn things(t: &Case) -> Value {
    definition(&t.group(), "things", "Thing", "Namespaced", &plain())
}

/// With `v1` (storage) and `v2`, which knows one more field.
fn two_versions(t: &Case) -> Value {
    let mut value = things(t);
    let mut second = value["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["y"] = json!({ "type": "string", "default": "new" });
    value["spec"]["versions"].as_array_mut().expect("a list").push(second);
    value
}

fn path(t: &Case) -> String {
    format!("{DEFINITIONS}/things.{}", t.group())
}

/// Reasons and fields of a refusal.
type Causes = &'static [(&'static str, &'static str)];

/// A name, what is changed in a good definition, and the causes.
type Refused = (&'static str, fn(&mut Value), Causes);

fn refused() -> Vec<Refused> {
    vec![
        (
            "two storage versions",
            |d| {
                let mut second = d["spec"]["versions"][0].clone();
                second["name"] = json!("v2");
                d["spec"]["versions"].as_array_mut().expect("a list").push(second);
            },
            &[
                ("FieldValueInvalid", "spec.versions"),
                ("FieldValueInvalid", "status.storedVersions"),
            ],
        ),
        (
            "no storage version",
            |d| d["spec"]["versions"][0]["storage"] = json!(false),
            &[
                ("FieldValueInvalid", "spec.versions"),
                ("FieldValueInvalid", "status.storedVersions"),
            ],
        ),
        (
            "a name that does not fit",
            |d| d["metadata"]["name"] = json!("other.example.com"),
            &[("FieldValueInvalid", "metadata.name")],
        ),
        (
            "an unknown scope",
            |d| d["spec"]["scope"] = json!("Galaxy"),
            &[("FieldValueNotSupported", "spec.scope")],
        ),
        (
            "a kind in lower case letters with a dash",
            |d| d["spec"]["names"]["kind"] = json!("some-thing_"),
            &[("FieldValueInvalid", "spec.names.kind")],
        ),
        (
            "a schema without a type",
            |d| {
                d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
                    .as_object_mut()
                    .expect("an object")
                    .remove("type");
            },
            &[("FieldValueRequired", "spec.validation.openAPIV3Schema.type")],
        ),
        (
            "a property without a type",
            |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"] = json!({}),
            &[(
                "FieldValueRequired",
                "spec.validation.openAPIV3Schema.properties[spec].properties[x].type",
            )],
        ),
        (
            "an unknown type",
            |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"]["type"] = json!("word"),
            &[(
                "FieldValueNotSupported",
                "spec.validation.openAPIV3Schema.properties[spec].properties[x].type",
            )],
        ),
        (
            "a default of another type",
            |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["x"]["default"] = json!(1),
            &[(
                "FieldValueTypeInvalid",
                "spec.validation.openAPIV3Schema.properties[spec].properties[x].default",
            )],
        ),
    ]
}

/// What `refused_definitions.yaml` says.
fn refused_by_table() -> Vec<Behaviour> {
    let rows: Vec<Value> = serde_saphyr::from_str(include_str!("refused_definitions.yaml")).expect("a list");
    let text = |row: &Value, field: &str| row[field].as_str().expect("a text").to_owned();
    rows.iter()
        .map(|row| {
            let (what, at, value) = (text(row, "what"), text(row, "at"), row["value"].clone());
            let causes: Vec<(String, String)> = serde_json::from_value(row["causes"].clone()).expect("causes");
            behaviour(format!("definitions: {what} is refused"), async move |t| {
                let mut sent = things(t);
                let (parent, field) = at.rsplit_once('/').expect("a pointer");
                sent.pointer_mut(parent).expect("a parent")[field] = value.clone();
                let causes: Vec<(&str, &str)> = causes.iter().map(|(reason, field)| (&**reason, &**field)).collect();
                t.post(&format!("{DEFINITIONS}?dryRun=All"), &sent)
                    .await
                    .refused(422, "Invalid")
                    .causes(&causes);
            })
        })
        .collect()
}

pub(super) fn all() -> Vec<Behaviour> {
    let refused = refused().into_iter().map(|(what, change, causes)| {
        behaviour(format!("definitions: {what} is refused"), async move |t| {
            let mut sent = things(t);
            change(&mut sent);
            t.post(DEFINITIONS, &sent).await.refused(422, "Invalid").causes(causes);
        })
    });
    refused.chain(refused_by_table()).chain(life()).chain(versions()).collect()
}

fn life() -> Vec<Behaviour> {
    vec![
        behaviour("definitions: a new one is established and served", async |t| {
            let path = t.install_definition(&things(t)).await;
            t.post(&path, &t.thing("a", json!({ "x": "y" }))).await.ok(201);
        }),
        behaviour("definitions: status tells names, versions and conditions", async |t| {
            t.install_definition(&things(t)).await;
            let found = t.get(&path(t)).await.ok(200);
            found.has(json!({ "status": { "storedVersions": ["v1"], "acceptedNames": { "plural": "things", "kind": "Thing", "listKind": "ThingList", "singular": "thing" } } }));
            assert_eq!(condition(&found, "NamesAccepted"), "True");
        }),
        behaviour("definitions: names are defaulted", async |t| {
            let mut sent = things(t);
            sent["spec"]["names"] = json!({ "plural": "things", "kind": "Thing" });
            t.post(DEFINITIONS, &sent).await.ok(201).has(
                json!({ "spec": { "names": { "singular": "thing", "listKind": "ThingList" }, "conversion": { "strategy": "None" } } }),
            );
        }),
        behaviour("definitions: a new field is served after an update", async |t| {
            let collection = t.install_definition(&things(t)).await;
            let change = json!([{ "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/z", "value": { "type": "integer", "default": 7 } }]);
            t.patch(crate::api::patch::JSON, &path(t), &change)
                .await
                .ok(200)
                .has(json!({ "metadata": { "generation": 2 } }));
            eventually("the new schema is in force", async || {
                // The real server may refuse for a moment, while it changes over to the new schema.
                let made = t.post(&format!("{collection}?dryRun=All"), &t.thing("a", json!({}))).await;
                made.code == 201 && made.body["spec"]["z"] == 7
            })
            .await;
        }),
        behaviour("definitions: what was stored before shows new defaults", async |t| {
            let collection = t.install_definition(&things(t)).await;
            let made = t.post(&collection, &t.thing("a", json!({ "x": "y" }))).await.ok(201);
            let change = json!([{ "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/z", "value": { "type": "integer", "default": 7 } }]);
            t.patch(crate::api::patch::JSON, &path(t), &change).await.ok(200);
            eventually("the default is shown", async || {
                t.get(&format!("{collection}/a")).await.ok(200)["spec"]["z"] == 7
            })
            .await;
            assert_eq!(t.get(&format!("{collection}/a")).await.ok(200).version(), made.version());
        }),
        behaviour("definitions: what a later schema does not know is not shown", async |t| {
            let collection = t.install_definition(&things(t)).await;
            t.post(&collection, &t.thing("a", json!({ "x": "y" }))).await.ok(201);
            let change = json!([
                { "op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/x" },
                { "op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/z", "value": { "type": "string" } },
            ]);
            t.patch(crate::api::patch::JSON, &path(t), &change).await.ok(200);
            eventually("the field is gone", async || {
                t.get(&format!("{collection}/a")).await.ok(200)["spec"] == json!({})
            })
            .await;
            let list = t.get(&collection).await.ok(200);
            assert_eq!(list["items"][0]["spec"], json!({}));
        }),
        behaviour("definitions: an error in one of two schemas names its version", async |t| {
            let mut sent = two_versions(t);
            sent["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["y"] = json!({ "type": "word" });
            let place = "spec.versions[1].schema.openAPIV3Schema.properties[spec].properties[y].type";
            t.post(DEFINITIONS, &sent)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueNotSupported", place)]);
        }),
        behaviour("definitions: a default with an unknown field is refused", async |t| {
            let mut sent = things(t);
            sent["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["default"] = json!({ "nothing": 1 });
            let refused = t.post(DEFINITIONS, &sent).await.refused(422, "Invalid");
            refused
                .causes(&[("FieldValueInvalid", "spec.validation.openAPIV3Schema.properties[spec].default")])
                .says("must not have unknown fields");
        }),
        behaviour("definitions: a removal takes the objects and the path", async |t| {
            let collection = t.install_definition(&things(t)).await;
            t.post(&collection, &t.thing("a", json!({}))).await.ok(201);
            t.delete(&path(t)).await.ok(200);
            eventually("the definition is gone", async || t.get(&path(t)).await.code == 404).await;
            eventually("the path is gone", async || t.get(&collection).await.code == 404).await;
            let again = t.install_definition(&things(t)).await;
            assert!(t.get(&again).await.ok(200).names().is_empty());
        }),
        behaviour("definitions: a removal waits for finalizers of objects", async |t| {
            let collection = t.install_definition(&things(t)).await;
            let mut held = t.thing("a", json!({}));
            held["metadata"]["finalizers"] = json!(["example.com/hold"]);
            t.post(&collection, &held).await.ok(201);
            let marked = t.delete(&path(t)).await.ok(200);
            marked.has(json!({ "metadata": { "finalizers": ["customresourcecleanup.apiextensions.k8s.io"] } }));
            eventually("the object is being deleted", async || {
                t.get(&format!("{collection}/a")).await.ok(200)["metadata"]["deletionTimestamp"].is_string()
            })
            .await;
            t.merge(&format!("{collection}/a"), &json!({ "metadata": { "finalizers": null } }))
                .await
                .ok(200);
            eventually("the definition is gone", async || t.get(&path(t)).await.code == 404).await;
        }),
        behaviour("definitions: a kind that is taken is not established", async |t| {
            t.install_definition(&things(t)).await;
            let other = definition(&t.group(), "others", "Thing", "Namespaced", &plain());
            t.post(DEFINITIONS, &other).await.ok(201);
            let path = format!("{DEFINITIONS}/others.{}", t.group());
            eventually("the conflict is told", async || {
                condition(&t.get(&path).await.ok(200), "NamesAccepted") == "False"
            })
            .await;
            assert_eq!(condition(&t.get(&path).await.ok(200), "Established"), "False");
        }),
        behaviour("definitions: the scope cannot change", async |t| {
            t.install_definition(&things(t)).await;
            let refused = t
                .merge(&path(t), &json!({ "spec": { "scope": "Cluster" } }))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueInvalid", "spec.scope")]).says("field is immutable");
        }),
        behaviour("definitions: the group cannot change", async |t| {
            t.install_definition(&things(t)).await;
            t.merge(&path(t), &json!({ "spec": { "group": "else.example.com" } }))
                .await
                .refused(422, "Invalid");
        }),
        behaviour("definitions: a group of Kubernetes needs approval", async |t| {
            let sent = definition("things.k8s.io", "things", "Thing", "Namespaced", &plain());
            t.post(DEFINITIONS, &sent)
                .await
                .refused(422, "Invalid")
                .says("api-approved.kubernetes.io");
        }),
        behaviour("definitions: applied by server-side apply", async |t| {
            t.apply(&path(t), "me", &things(t)).await.ok(201);
            serves(t.api(), &things(t)).await;
            t.apply(&path(t), "me", &things(t)).await.ok(200);
        }),
        behaviour("definitions: a new subresource is served after an update", async |t| {
            let collection = t.install_definition(&things(t)).await;
            t.post(&collection, &t.thing("a", json!({}))).await.ok(201);
            assert_eq!(t.get(&format!("{collection}/a/status")).await.code, 404);
            let change = json!([{ "op": "add", "path": "/spec/versions/0/subresources", "value": { "status": {} } }]);
            t.patch(crate::api::patch::JSON, &path(t), &change).await.ok(200);
            eventually("status is served", async || {
                t.get(&format!("{collection}/a/status")).await.code == 200
            })
            .await;
        }),
    ]
}

fn versions() -> Vec<Behaviour> {
    async fn other(t: &Case) -> String {
        t.install_definition(&two_versions(t)).await;
        format!("/apis/{}/v2/namespaces/{}/things", t.group(), t.namespace)
    }
    vec![
        behaviour("versions: an object is served in each", async |t| {
            let path = format!("/apis/conformance.example.com/v1beta1/namespaces/{}/widgets", t.namespace);
            let made = t.made("a").await;
            let seen = t.get(&format!("{path}/a")).await.ok(200);
            seen.has(json!({ "apiVersion": "conformance.example.com/v1beta1", "kind": "Widget", "metadata": { "uid": made.uid(), "resourceVersion": made.version() } }));
        }),
        behaviour("versions: a deprecated one warns", async |t| {
            let path = format!("/apis/conformance.example.com/v1beta1/namespaces/{}/widgets", t.namespace);
            assert_eq!(
                t.get(&path).await.warnings(),
                ["conformance.example.com/v1beta1 Widget is old; use v1"]
            );
            assert!(t.get(&t.widgets()).await.warnings().is_empty());
        }),
        behaviour("versions: the body must be of the path's version", async |t| {
            let mut sent = widget("a", 1);
            sent["apiVersion"] = json!("conformance.example.com/v1beta1");
            let refused = t.post(&t.widgets(), &sent).await.refused(400, "BadRequest");
            refused.message("the API version in the data (conformance.example.com/v1beta1) does not match the expected API version (conformance.example.com/v1)");
        }),
        behaviour(
            "versions: fields of the newer one are kept out of what is stored in the older one",
            async |t| {
                let newer = other(t).await;
                let mut sent = t.thing("a", json!({ "x": "1", "y": "2" }));
                sent["apiVersion"] = json!(format!("{}/v2", t.group()));
                t.post(&newer, &sent).await.ok(201).has(json!({ "spec": { "x": "1" } }));
                let older = format!("/apis/{}/v1/namespaces/{}/things/a", t.group(), t.namespace);
                t.get(&older).await.ok(200).lacks("/spec/y");
            },
        ),
        behaviour("versions: one that is no longer served is gone", async |t| {
            let newer = other(t).await;
            let change = json!([{ "op": "replace", "path": "/spec/versions/1/served", "value": false }]);
            t.patch(crate::api::patch::JSON, &path(t), &change).await.ok(200);
            eventually("it is not served", async || t.get(&newer).await.code == 404).await;
        }),
        behaviour("versions: a stored one cannot be removed", async |t| {
            other(t).await;
            let change = json!([
                { "op": "replace", "path": "/spec/versions/1/storage", "value": true },
                { "op": "replace", "path": "/spec/versions/0/storage", "value": false },
            ]);
            t.patch(crate::api::patch::JSON, &path(t), &change)
                .await
                .ok(200)
                .has(json!({ "status": { "storedVersions": ["v1", "v2"] } }));
            let removal = json!([{ "op": "remove", "path": "/spec/versions/0" }]);
            t.patch(crate::api::patch::JSON, &path(t), &removal)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueInvalid", "status.storedVersions[0]")]);
        }),
        behaviour("versions: an apply through one owns fields in that one", async |t| {
            let mut sent = widget("a", 1);
            sent["apiVersion"] = json!("conformance.example.com/v1beta1");
            let path = format!("/apis/conformance.example.com/v1beta1/namespaces/{}/widgets/a", t.namespace);
            t.apply(&path, "me", &sent).await.ok(201);
            let seen = t.get(&t.widget("a")).await.ok(200);
            seen.manager("me", "Apply", "")
                .has(json!({ "apiVersion": "conformance.example.com/v1beta1" }));
        }),
    ]
}
