//! Bodies of refusals: code, reason, message and details, class by class.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    behaviour::{Behaviour, behaviour},
    definitions::*,
};

/// What `refused_requests.yaml` says.
fn by_table() -> Vec<Behaviour> {
    let rows: Vec<Value> = serde_saphyr::from_str(include_str!("refused_requests.yaml")).expect("a list");
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| {
            let (what, path, body, reason) = (text(row, "what"), text(row, "path"), text(row, "body"), text(row, "reason"));
            let method = Method::from_bytes(text(row, "method").as_bytes()).expect("a method");
            let code = u16::try_from(row["code"].as_u64().expect("a code")).expect("a code");
            behaviour(format!("refusals: {what}"), async move |t| {
                let kind = if method == Method::PATCH {
                    crate::api::patch::MERGE
                } else {
                    "application/json"
                };
                let call = t.call(method.clone(), &path.replace("NS", &t.namespace)).accept("application/json");
                let call = if body.is_empty() { call } else { call.body(kind, body.clone()) };
                let answer = call.send().await;
                if answer.body.is_null() {
                    assert_eq!((answer.code, reason.as_str()), (code, ""), "{}", answer.text);
                } else {
                    answer.refused(code, &reason);
                }
            })
        })
        .collect()
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = by_table();
    list.extend(classes());
    list
}

fn classes() -> Vec<Behaviour> {
    vec![
        behaviour("refusals: an unknown path is plain text", async |t| {
            let answer = t.get("/nothing").await;
            // The real server lists its paths to who may see them; what counts is that it is 404.
            assert_eq!(answer.code, 404);
        }),
        behaviour("refusals: an unknown group", async |t| {
            let answer = t.get("/apis/nothing.example.com/v1/things").await;
            assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"));
        }),
        behaviour("refusals: an unknown version", async |t| {
            let answer = t.get(&format!("/apis/{GROUP}/v7/widgets")).await;
            assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"));
        }),
        behaviour("refusals: an unknown resource of a custom group", async |t| {
            let answer = t.get(&format!("/apis/{GROUP}/v1/nothings")).await;
            assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"));
        }),
        behaviour("refusals: an unknown resource of core", async |t| {
            t.get("/api/v1/nothings")
                .await
                .refused(404, "NotFound")
                .message("the server could not find the requested resource");
        }),
        behaviour("refusals: an unknown subresource", async |t| {
            t.made("a").await;
            assert_eq!(t.get(&format!("{}/nothing", t.widget("a"))).await.code, 404);
        }),
        behaviour("refusals: a method that is not allowed on a collection", async |t| {
            let refused = t
                .call(Method::PUT, &t.config_maps())
                .body("application/json", "{}")
                .send()
                .await
                .refused(405, "MethodNotAllowed");
            refused.message("the server does not allow this method on the requested resource");
        }),
        behaviour("refusals: no JSON", async |t| {
            t.call(Method::POST, &t.widgets())
                .body("application/json", "{")
                .send()
                .await
                .refused(400, "BadRequest");
        }),
        behaviour("refusals: an empty body", async |t| {
            t.call(Method::POST, &t.widgets())
                .body("application/json", "")
                .send()
                .await
                .refused(400, "BadRequest");
        }),
        behaviour("refusals: a list for an object", async |t| {
            t.post(&t.widgets(), &json!([])).await.refused(400, "BadRequest");
        }),
        behaviour("refusals: an unknown content type", async |t| {
            let refused = t
                .call(Method::POST, &t.widgets())
                .body("text/plain", "x")
                .send()
                .await
                .refused(415, "UnsupportedMediaType");
            refused.says("the body of the request was in an unknown format - accepted media types include: application/json");
        }),
        behaviour("refusals: protobuf is not for custom resources", async |t| {
            // The real server writes the refusal itself in protobuf.
            let answer = t.get_as(&t.widgets(), "application/vnd.kubernetes.protobuf").await;
            assert_eq!(answer.code, 406);
        }),
        behaviour("refusals: another kind in the body", async |t| {
            let mut sent = widget("a", 1);
            sent["kind"] = json!("Gadget");
            t.post(&t.widgets(), &sent).await.refused(422, "Invalid");
        }),
        behaviour("refusals: another core kind in the body", async |t| {
            let mut sent = config_map("c");
            sent["kind"] = json!("Secret");
            t.post(&t.config_maps(), &sent).await.refused(400, "BadRequest");
        }),
        behaviour("refusals: no kind in the body", async |t| {
            let mut sent = widget("a", 1);
            sent.as_object_mut().expect("an object").remove("kind");
            t.post(&t.widgets(), &sent)
                .await
                .refused(400, "BadRequest")
                .says("Object 'Kind' is missing in");
        }),
        behaviour("refusals: a very deep body", async |t| {
            let deep = format!("{}1{}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
            let answer = t.call(Method::POST, &t.widgets()).body("application/json", deep).send().await;
            assert_eq!(answer.code, 400, "{}", &answer.text[..answer.text.len().min(300)]);
        }),
        behaviour("refusals: a body over three mebibytes", async |t| {
            let answer = t
                .call(Method::POST, &t.widgets())
                .body("application/json", vec![b' '; 4 << 20])
                .send()
                .await;
            answer.refused(413, "RequestEntityTooLarge").says("limit is 3145728");
        }),
        behaviour("refusals: a label that is no text", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"]["labels"] = json!({ "n": 1 });
            t.post(&t.widgets(), &sent).await.refused(400, "BadRequest");
        }),
        behaviour("refusals: metadata that is no object", async |t| {
            let mut sent = widget("a", 1);
            sent["metadata"] = json!([]);
            let answer = t.post(&t.widgets(), &sent).await;
            assert!((400..500).contains(&answer.code), "{}", answer.text);
        }),
        behaviour("refusals: one error is told without brackets", async |t| {
            let refused = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": -1 })))
                .await
                .refused(422, "Invalid");
            refused.message("Widget.conformance.example.com \"a\" is invalid: spec.size: Invalid value: -1: spec.size in body should be greater than or equal to 0");
        }),
        behaviour("refusals: several errors are told in brackets", async |t| {
            let refused = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": -1, "code": "1" })))
                .await
                .refused(422, "Invalid");
            refused
                .says("is invalid: [")
                .says("spec.code: Invalid value: \"1\": spec.code in body should match '^[a-z]+$'");
        }),
        behaviour("refusals: a missing field says so", async |t| {
            let refused = t.post(&t.widgets(), &of_spec("a", json!({}))).await.refused(422, "Invalid");
            refused.says("spec.size: Required value");
        }),
        behaviour("refusals: an enum names what is allowed", async |t| {
            let refused = t
                .post(&t.widgets(), &of_spec("a", json!({ "size": 1, "color": "pink" })))
                .await
                .refused(422, "Invalid");
            refused.says("spec.color: Unsupported value: \"pink\": supported values: \"red\", \"green\", \"blue\"");
        }),
    ]
}
