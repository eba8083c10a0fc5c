//! Field validation, pruning, defaulting, and what a schema checks.

use serde_json::{Value, json};

use crate::{
    api::patch,
    behaviour::{Behaviour, Case, behaviour},
    definitions::*,
};

/// Told beside errors that keep the rules from being asked.
const UNCHECKED: (&str, &str) = ("FieldValueInvalid", "<nil>");

fn bogus() -> Value {
    of_spec("a", json!({ "size": 1, "bogus": 1, "parts": [{ "name": "x", "other": 2 }] }))
}

async fn twice(t: &Case, mode: &str) -> crate::api::Answer {
    let text = r#"{"apiVersion":"conformance.example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"size":1,"size":2}}"#;
    let path = format!("{}?fieldValidation={mode}", t.widgets());
    t.call(reqwest::Method::POST, &path).body("application/json", text).send().await
}

/// Reasons and fields of a refusal.
type Causes = Vec<(&'static str, &'static str)>;

/// A spec that the schema refuses, with the causes.
fn refused_specs() -> Vec<(&'static str, Value, Causes)> {
    vec![
        (
            "over the maximum",
            json!({ "size": 2000, "maxSize": 3000 }),
            vec![("FieldValueInvalid", "spec.size")],
        ),
        ("under the minimum", json!({ "size": -1 }), vec![("FieldValueInvalid", "spec.size")]),
        (
            "a text for a number",
            json!({ "size": "1" }),
            vec![("FieldValueTypeInvalid", "spec.size"), UNCHECKED],
        ),
        (
            "a fraction for an integer",
            json!({ "size": 1.5 }),
            vec![("FieldValueTypeInvalid", "spec.size"), UNCHECKED, UNCHECKED],
        ),
        ("a missing field", json!({}), vec![("FieldValueRequired", "spec.size"), UNCHECKED]),
        (
            "not of the enum",
            json!({ "size": 1, "color": "pink" }),
            vec![("FieldValueNotSupported", "spec.color"), UNCHECKED],
        ),
        (
            "too long",
            json!({ "size": 1, "note": "n".repeat(41) }),
            vec![("FieldValueTooLong", "spec.note"), UNCHECKED],
        ),
        (
            "against the pattern",
            json!({ "size": 1, "code": "A1" }),
            vec![("FieldValueInvalid", "spec.code")],
        ),
        (
            "too many items",
            json!({ "size": 1, "tags": ["a", "b", "c", "d", "e", "f"] }),
            vec![("FieldValueTooMany", "spec.tags"), UNCHECKED],
        ),
        (
            "a value twice in a set",
            json!({ "size": 1, "tags": ["a", "a"] }),
            vec![("FieldValueDuplicate", "spec.tags[1]")],
        ),
        (
            "a key twice in a list map",
            json!({ "size": 1, "parts": [{ "name": "x" }, { "name": "x" }] }),
            vec![("FieldValueDuplicate", "spec.parts[1]")],
        ),
        (
            "a missing field of an item",
            json!({ "size": 1, "parts": [{ "weight": 1 }] }),
            vec![("FieldValueRequired", "spec.parts[0].name"), UNCHECKED],
        ),
        (
            "a wrong value of a map",
            json!({ "size": 1, "limits": { "x": "y" } }),
            vec![("FieldValueTypeInvalid", "spec.limits.x"), UNCHECKED],
        ),
        (
            "a map for a list",
            json!({ "size": 1, "tags": {} }),
            vec![("FieldValueTypeInvalid", "spec.tags"), UNCHECKED],
        ),
        (
            "two errors",
            json!({ "size": -1, "code": "A1" }),
            vec![("FieldValueInvalid", "spec.size"), ("FieldValueInvalid", "spec.code")],
        ),
        (
            "null where it may not be",
            json!({ "size": null }),
            vec![("FieldValueRequired", "spec.size"), UNCHECKED],
        ),
    ]
}

pub(super) fn all() -> Vec<Behaviour> {
    let refused = refused_specs().into_iter().map(|(what, spec, causes)| {
        behaviour(format!("schema: {what}"), async move |t| {
            let refused = t.post(&t.widgets(), &of_spec("a", spec.clone())).await.refused(422, "Invalid");
            refused
                .causes(&causes)
                .has(json!({ "details": { "name": "a", "group": GROUP, "kind": "Widget" } }));
            refused.says("Widget.conformance.example.com \"a\" is invalid: ");
        })
    });
    refused.chain(field_validation()).chain(pruning()).collect()
}

fn field_validation() -> Vec<Behaviour> {
    vec![
        behaviour("field validation: Strict refuses unknown fields", async |t| {
            let refused = t
                .post(&format!("{}?fieldValidation=Strict", t.widgets()), &bogus())
                .await
                .refused(400, "BadRequest");
            refused.message("Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.bogus\", unknown field \"spec.parts[0].other\"");
        }),
        behaviour("field validation: Strict refuses duplicate fields", async |t| {
            twice(t, "Strict")
                .await
                .refused(400, "BadRequest")
                .says("strict decoding error: duplicate field \"spec.size\"");
        }),
        behaviour("field validation: Warn warns of unknown fields", async |t| {
            let answer = t.post(&format!("{}?fieldValidation=Warn", t.widgets()), &bogus()).await;
            assert_eq!(
                answer.warnings(),
                ["unknown field \"spec.bogus\"", "unknown field \"spec.parts[0].other\""]
            );
            answer.ok(201).lacks("/spec/bogus");
        }),
        behaviour("field validation: Warn warns of duplicate fields, the last counts", async |t| {
            let answer = twice(t, "Warn").await;
            assert_eq!(answer.warnings(), ["duplicate field \"spec.size\""]);
            answer.ok(201).has(json!({ "spec": { "size": 2 } }));
        }),
        behaviour("field validation: Ignore is silent", async |t| {
            let answer = t.post(&format!("{}?fieldValidation=Ignore", t.widgets()), &bogus()).await;
            assert!(answer.warnings().is_empty());
            answer.ok(201).lacks("/spec/bogus");
        }),
        behaviour("field validation: Warn is what happens when nothing is said", async |t| {
            assert_eq!(t.post(&t.widgets(), &bogus()).await.warnings().len(), 2);
        }),
        behaviour("field validation: another value is refused", async |t| {
            let refused = t
                .post(&format!("{}?fieldValidation=Loose", t.widgets()), &bogus())
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueNotSupported", "fieldValidation")]);
        }),
        behaviour("field validation: of a merge patch", async |t| {
            t.made("a").await;
            let path = format!("{}?fieldValidation=Strict", t.widget("a"));
            t.merge(&path, &json!({ "spec": { "bogus": 1 } }))
                .await
                .refused(422, "Invalid")
                .says("strict decoding error: unknown field \"spec.bogus\"");
        }),
        behaviour("field validation: of a PUT", async |t| {
            let mut object = t.made("a").await;
            object["spec"]["bogus"] = json!(1);
            let path = format!("{}?fieldValidation=Strict", t.widget("a"));
            t.put(&path, &object)
                .await
                .refused(400, "BadRequest")
                .says("unknown field \"spec.bogus\"");
        }),
        behaviour("field validation: of an apply", async |t| {
            let path = format!("{}?fieldValidation=Strict", t.widget("a"));
            let answer = t.apply(&path, "me", &of_spec("a", json!({ "size": 1, "bogus": 1 }))).await;
            assert!(answer.code >= 400, "{}", answer.text);
        }),
        behaviour("field validation: Strict of a core kind", async |t| {
            let mut sent = config_map("c");
            sent["bogus"] = json!(1);
            let refused = t
                .post(&format!("{}?fieldValidation=Strict", t.config_maps()), &sent)
                .await
                .refused(400, "BadRequest");
            refused.message("ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"bogus\"");
        }),
        behaviour("field validation: unknown metadata", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"]["bogus"] = json!(1);
            let answer = t.post(&t.widgets(), &sent).await;
            assert_eq!(answer.warnings(), ["unknown field \"metadata.bogus\""]);
        }),
    ]
}

fn pruning() -> Vec<Behaviour> {
    vec![
        behaviour("pruning: unknown fields are dropped", async |t| {
            let made = t.post(&t.widgets(), &bogus()).await.ok(201);
            made.lacks("/spec/bogus").lacks("/spec/parts/0/other");
        }),
        behaviour("pruning: unknown fields at the top are dropped", async |t| {
            let mut sent = widget("a", 1);
            sent["bogus"] = json!({});
            t.post(&t.widgets(), &sent).await.ok(201).lacks("/bogus");
        }),
        behaviour("pruning: what is to be preserved stays", async |t| {
            let free = json!({ "any": { "thing": [1, "two", { "three": null }] } });
            let made = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "free": free })))
                .await
                .ok(201);
            assert_eq!(made["spec"]["free"], free);
        }),
        behaviour("pruning: of patches", async |t| {
            t.made("a").await;
            t.merge(&t.widget("a"), &json!({ "spec": { "bogus": 1 } }))
                .await
                .ok(200)
                .lacks("/spec/bogus");
        }),
        behaviour("pruning: an integer or a text", async |t| {
            for (name, port) in [("a", json!(80)), ("b", json!("http"))] {
                let made = t
                    .post(&t.widgets(), &of_spec(name, json!({ "size": 1, "port": port })))
                    .await
                    .ok(201);
                assert_eq!(made["spec"]["port"], port);
            }
            let refused = t
                .post(&t.widgets(), &of_spec("c", json!({ "size": 1, "port": true })))
                .await
                .refused(422, "Invalid");
            refused.causes(&[("FieldValueTypeInvalid", "spec.port"), UNCHECKED]);
        }),
        behaviour("defaults: fill absent fields", async |t| {
            t.made("a")
                .await
                .has(json!({ "spec": { "size": 1, "maxSize": 100, "color": "red" } }));
        }),
        behaviour("defaults: do not replace what is there", async |t| {
            let made = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "color": "blue" })))
                .await
                .ok(201);
            made.has(json!({ "spec": { "color": "blue" } }));
        }),
        behaviour("defaults: fill items of lists", async |t| {
            let made = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "parts": [{ "name": "x" }] })))
                .await
                .ok(201);
            assert_eq!(made["spec"]["parts"], json!([{ "name": "x", "weight": 1 }]));
        }),
        behaviour("defaults: null is replaced where null is not allowed", async |t| {
            let made = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "color": null })))
                .await
                .ok(201);
            made.has(json!({ "spec": { "color": "red" } }));
        }),
        behaviour("defaults: an allowed null stays", async |t| {
            let made = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "maybe": null })))
                .await
                .ok(201);
            assert_eq!(made.pointer("/spec/maybe"), Some(&Value::Null));
        }),
        behaviour("defaults: come again after a JSON patch removes them", async |t| {
            t.made("a").await;
            let change = json!([{ "op": "remove", "path": "/spec/color" }]);
            t.patch(patch::JSON, &t.widget("a"), &change)
                .await
                .ok(200)
                .has(json!({ "spec": { "color": "red" } }));
        }),
        behaviour("defaults: belong to nobody's fields when applied", async |t| {
            let made = t.apply(&t.widget("a"), "me", &widget("a", 1)).await.ok(201);
            made.manager("me", "Apply", "").lacks("/fieldsV1/f:spec/f:color");
        }),
        behaviour("validation: of metadata, at once with that of the schema", async |t| {
            let mut sent = of_spec("Bad_Name", json!({ "size": -1 }));
            sent["metadata"]["labels"] = json!({ "a b": "c" });
            let refused = t.post(&t.widgets(), &sent).await.refused(422, "Invalid");
            refused.causes(&[
                ("FieldValueInvalid", "metadata.name"),
                ("FieldValueInvalid", "metadata.labels"),
                ("FieldValueInvalid", "spec.size"),
            ]);
        }),
        behaviour("validation: annotations are bounded", async |t| {
            let mut sent = config_map("c");
            sent["metadata"]["annotations"] = json!({ "big": "x".repeat(256 * 1024) });
            t.post(&t.config_maps(), &sent)
                .await
                .refused(422, "Invalid")
                .causes(&[("FieldValueTooLong", "metadata.annotations")]);
        }),
    ]
}
