//! Forms of answers: Table, partial metadata, YAML; discovery and OpenAPI.

use serde_json::{Value, json};

use crate::{
    api::eventually,
    behaviour::{Behaviour, behaviour},
    definitions::*,
};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn columns(table: &Value) -> Vec<String> {
    let list = table["columnDefinitions"].as_array().cloned().unwrap_or_default();
    list.iter()
        .map(|column| column["name"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// The entry of a resource in a list of discovery.
fn resource<'a>(list: &'a Value, name: &str) -> &'a Value {
    list["resources"]
        .as_array()
        .and_then(|all| all.iter().find(|entry| entry["name"] == name))
        .unwrap_or(&Value::Null)
}

pub(super) fn all() -> Vec<Behaviour> {
    let mut list = tables();
    list.extend(discovery());
    list.extend(openapi());
    list
}

fn tables() -> Vec<Behaviour> {
    vec![
        behaviour("table: columns of the definition", async |t| {
            t.made("a").await;
            let table = t.get_as(&t.widgets(), TABLE).await.ok(200);
            table.has(json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1" }));
            assert_eq!(
                columns(&table),
                ["Name", "Color", "Size", "Ready", "Phase", "Ratio", "Tags", "Seen", "Age"]
            );
            let wide = &table["columnDefinitions"][5];
            assert_eq!((wide["name"].as_str(), wide["priority"].as_i64()), (Some("Ratio"), Some(1)));
            let first = &table["columnDefinitions"][1];
            assert_eq!(
                *first,
                json!({ "name": "Color", "type": "string", "format": "", "description": "What it looks like.", "priority": 0 })
            );
        }),
        behaviour("table: cells", async |t| {
            let spec = json!({ "size": 4, "ratio": 1.5, "tags": ["x", "y"] });
            t.post(&t.widgets(), &of_spec("a", spec)).await.ok(201);
            let status = json!({ "status": { "ready": true, "conditions": [{ "type": "Ready", "status": "True" }] } });
            t.merge(&format!("{}/status", t.widget("a")), &status).await.ok(200);
            let table = t.get_as(&t.widgets(), TABLE).await.ok(200);
            let cells = table["rows"][0]["cells"].as_array().expect("cells").clone();
            assert_eq!(
                cells[..7],
                [
                    json!("a"),
                    json!("red"),
                    json!(4),
                    json!(true),
                    json!("True"),
                    json!(1.5),
                    json!("[\"x\",\"y\"]")
                ],
                "{cells:?}"
            );
        }),
        behaviour("table: cells of absent fields are null", async |t| {
            t.made("a").await;
            let table = t.get_as(&t.widgets(), TABLE).await.ok(200);
            let cells = table["rows"][0]["cells"].as_array().expect("cells").clone();
            assert_eq!(
                cells[3..8],
                [Value::Null, Value::Null, Value::Null, Value::Null, Value::Null],
                "{cells:?}"
            );
        }),
        behaviour("table: rows carry metadata", async |t| {
            let made = t.made("a").await;
            let table = t.get_as(&t.widgets(), TABLE).await.ok(200);
            let object = &table["rows"][0]["object"];
            assert_eq!(
                (object["kind"].as_str(), object["apiVersion"].as_str()),
                (Some("PartialObjectMetadata"), Some("meta.k8s.io/v1"))
            );
            assert_eq!(object["metadata"]["uid"], made["metadata"]["uid"]);
        }),
        behaviour("table: includeObject=None", async |t| {
            t.made("a").await;
            let table = t.get_as(&format!("{}?includeObject=None", t.widgets()), TABLE).await.ok(200);
            assert!(table["rows"][0]["object"].is_null());
        }),
        behaviour("table: includeObject=Object", async |t| {
            let made = t.made("a").await;
            let table = t.get_as(&format!("{}?includeObject=Object", t.widgets()), TABLE).await.ok(200);
            assert_eq!(table["rows"][0]["object"], made.0);
        }),
        behaviour("table: another includeObject is refused", async |t| {
            let answer = t.get_as(&format!("{}?includeObject=Some", t.widgets()), TABLE).await;
            assert!((400..500).contains(&answer.code), "{}", answer.text);
        }),
        behaviour("table: of one object", async |t| {
            let made = t.made("a").await;
            let table = t.get_as(&t.widget("a"), TABLE).await.ok(200);
            table.has(json!({ "kind": "Table", "metadata": { "resourceVersion": made.version() } }));
            assert_eq!(table["rows"].as_array().map(Vec::len), Some(1));
        }),
        behaviour("table: of ConfigMaps", async |t| {
            t.post(&t.config_maps(), &config_map("c")).await.ok(201);
            let table = t.get_as(&t.config_map("c"), TABLE).await.ok(200);
            assert_eq!(columns(&table), ["Name", "Data", "Age"]);
            assert_eq!(table["rows"][0]["cells"].as_array().expect("cells")[..2], [json!("c"), json!(1)]);
        }),
        behaviour("table: of Secrets", async |t| {
            let body = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "a": "b" } });
            t.post(&t.core("secrets"), &body).await.ok(201);
            let table = t.get_as(&format!("{}/s", t.core("secrets")), TABLE).await.ok(200);
            assert_eq!(columns(&table), ["Name", "Type", "Data", "Age"]);
            assert_eq!(
                table["rows"][0]["cells"].as_array().expect("cells")[..3],
                [json!("s"), json!("Opaque"), json!(1)]
            );
        }),
        behaviour("table: of namespaces", async |t| {
            let table = t.get_as(&format!("/api/v1/namespaces/{}", t.namespace), TABLE).await.ok(200);
            assert_eq!(columns(&table), ["Name", "Status", "Age"]);
            assert_eq!(table["rows"][0]["cells"][1], "Active");
        }),
        behaviour("table: a list with limit continues", async |t| {
            for name in ["a", "b"] {
                t.made(name).await;
            }
            let table = t.get_as(&format!("{}?limit=1", t.widgets()), TABLE).await.ok(200);
            assert!(!table.next().is_empty());
            table.has(json!({ "metadata": { "remainingItemCount": 1 } }));
        }),
        behaviour("table: the first form that is possible is taken", async |t| {
            let accept = format!("application/vnd.example;as=Table, {TABLE}, application/json");
            t.get_as(&t.widgets(), &accept).await.ok(200).has(json!({ "kind": "Table" }));
        }),
        behaviour("partial metadata: of one object", async |t| {
            let made = t.made("a").await;
            let partial = t.get_as(&t.widget("a"), PARTIAL).await.ok(200);
            partial
                .has(json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1" }))
                .lacks("/spec");
            assert_eq!(partial["metadata"], made["metadata"]);
        }),
        behaviour("partial metadata: of a list", async |t| {
            t.made("a").await;
            let partial = t.get_as(&t.widgets(), PARTIAL_LIST).await.ok(200);
            partial.has(json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1" }));
            partial.lacks("/items/0/spec");
            assert_eq!(partial.names(), ["a"]);
        }),
        behaviour("partial metadata: of a write", async |t| {
            let call = t
                .call(reqwest::Method::POST, &t.widgets())
                .accept(PARTIAL)
                .body("application/json", widget("a", 1).to_string());
            call.send()
                .await
                .ok(201)
                .has(json!({ "kind": "PartialObjectMetadata", "metadata": { "name": "a" } }))
                .lacks("/spec");
        }),
        behaviour("forms: YAML is written", async |t| {
            t.made("a").await;
            let answer = t.get_as(&t.widget("a"), "application/yaml").await;
            assert_eq!((answer.code, answer.header("content-type")), (200, "application/yaml"));
            assert!(
                answer.text.contains("kind: Widget\n") && answer.text.contains("  size: 1\n"),
                "{}",
                answer.text
            );
        }),
        behaviour("forms: anything is JSON", async |t| {
            t.made("a").await;
            assert_eq!(t.get_as(&t.widget("a"), "*/*").await.header("content-type"), "application/json");
        }),
        behaviour("forms: what cannot be written is refused", async |t| {
            t.made("a").await;
            let refused = t.get_as(&t.widget("a"), "text/html").await.refused(406, "NotAcceptable");
            refused.says("only the following media types are accepted: application/json");
        }),
    ]
}

fn discovery() -> Vec<Behaviour> {
    vec![
        behaviour("discovery: core versions", async |t| {
            t.get("/api")
                .await
                .ok(200)
                .has(json!({ "kind": "APIVersions", "versions": ["v1"] }));
        }),
        behaviour("discovery: groups", async |t| {
            let groups = t.get("/apis").await.ok(200);
            groups.has(json!({ "kind": "APIGroupList", "apiVersion": "v1" }));
            let names: Vec<&str> = groups["groups"]
                .as_array()
                .expect("groups")
                .iter()
                .filter_map(|group| group["name"].as_str())
                .collect();
            for name in [
                "apiextensions.k8s.io",
                "coordination.k8s.io",
                "events.k8s.io",
                "authorization.k8s.io",
                GROUP,
            ] {
                assert!(names.contains(&name), "{name}: {names:?}");
            }
        }),
        behaviour("discovery: a group and its preferred version", async |t| {
            let group = t.get(&format!("/apis/{GROUP}")).await.ok(200);
            let version = |name: &str| json!({ "groupVersion": format!("{GROUP}/{name}"), "version": name });
            assert_eq!(
                group.0,
                json!({ "kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version("v1"), version("v1beta1")], "preferredVersion": version("v1") })
            );
        }),
        behaviour("discovery: an unknown group", async |t| {
            assert_eq!(t.get("/apis/nothing.example.com").await.code, 404);
        }),
        behaviour("discovery: resources of a custom group", async |t| {
            let list = t.get(&format!("/apis/{GROUP}/v1")).await.ok(200);
            list.has(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/v1") }));
            let mut entry = resource(&list, "widgets").clone();
            entry.as_object_mut().expect("an entry").remove("storageVersionHash");
            assert_eq!(
                entry,
                json!({ "name": "widgets", "singularName": "widget", "namespaced": true, "kind": "Widget", "shortNames": ["wd"], "categories": ["conformance"],
                "verbs": ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"] })
            );
            assert_eq!(
                *resource(&list, "widgets/status"),
                json!({ "name": "widgets/status", "singularName": "", "namespaced": true, "kind": "Widget", "verbs": ["get", "patch", "update"] })
            );
            assert_eq!(
                *resource(&list, "widgets/scale"),
                json!({ "name": "widgets/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"] })
            );
        }),
        behaviour("discovery: resources of core/v1", async |t| {
            let list = t.get("/api/v1").await.ok(200);
            list.has(json!({ "kind": "APIResourceList", "groupVersion": "v1" }));
            for (name, kind, namespaced, short) in [
                ("configmaps", "ConfigMap", true, json!(["cm"])),
                ("namespaces", "Namespace", false, json!(["ns"])),
                ("events", "Event", true, json!(["ev"])),
                ("serviceaccounts", "ServiceAccount", true, json!(["sa"])),
            ] {
                let entry = resource(&list, name);
                assert_eq!(
                    (entry["kind"].as_str(), entry["namespaced"].as_bool(), &entry["shortNames"]),
                    (Some(kind), Some(namespaced), &short),
                    "{entry}"
                );
            }
            assert!(resource(&list, "secrets")["shortNames"].is_null());
        }),
        behaviour("discovery: aggregated, of custom groups", async |t| {
            let answer = t.get_as("/apis", AGGREGATED).await;
            assert_eq!(answer.header("content-type"), AGGREGATED);
            let list = answer.ok(200);
            list.has(json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2" }));
            let group = list["items"]
                .as_array()
                .expect("items")
                .iter()
                .find(|item| item["metadata"]["name"] == GROUP)
                .expect("the group")
                .clone();
            assert_eq!(group["versions"][0]["version"], "v1");
            let widgets = group["versions"][0]["resources"]
                .as_array()
                .expect("resources")
                .iter()
                .find(|item| item["resource"] == "widgets")
                .expect("widgets")
                .clone();
            assert_eq!(
                widgets["responseKind"],
                json!({ "group": GROUP, "version": "v1", "kind": "Widget" })
            );
            assert_eq!(
                (widgets["scope"].as_str(), widgets["singularResource"].as_str()),
                (Some("Namespaced"), Some("widget"))
            );
            assert_eq!(widgets["subresources"].as_array().map(Vec::len), Some(2));
            let mut verbs: Vec<String> = serde_json::from_value(widgets["verbs"].clone()).expect("verbs");
            verbs.sort();
            assert_eq!(
                verbs,
                ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            );
        }),
        behaviour("discovery: aggregated, of core", async |t| {
            let list = t.get_as("/api", AGGREGATED).await.ok(200);
            list.has(json!({ "kind": "APIGroupDiscoveryList" }));
            assert_eq!(list["items"][0]["versions"][0]["version"], "v1");
        }),
        behaviour("discovery: aggregated answers are not sent again to who has them", async |t| {
            // Other behaviours install definitions meanwhile: then the tag is another one, and it is tried again.
            eventually("nothing changes for a moment", async || {
                let tag = t.get_as("/apis", AGGREGATED).await.header("etag").to_owned();
                assert!(!tag.is_empty());
                let call = t
                    .call(reqwest::Method::GET, "/apis")
                    .accept(AGGREGATED)
                    .header("if-none-match", &tag);
                call.send().await.code == 304
            })
            .await;
        }),
        behaviour("discovery: a new definition shows up", async |t| {
            t.install_things(&json!({ "spec": { "type": "object" } })).await;
            eventually("the group is listed", async || {
                let groups = t.get("/apis").await.ok(200);
                groups["groups"]
                    .as_array()
                    .expect("groups")
                    .iter()
                    .any(|group| group["name"] == t.group())
            })
            .await;
        }),
        behaviour("discovery: version", async |t| {
            let version = t.get("/version").await.ok(200);
            assert_eq!(version["major"], "1");
            for field in [
                "minor",
                "gitVersion",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            ] {
                assert!(version[field].is_string(), "{field}: {}", version.0);
            }
        }),
        behaviour("discovery: health", async |t| {
            for path in ["/healthz", "/livez", "/readyz"] {
                let answer = t.get(path).await;
                assert_eq!((answer.code, answer.text.as_str()), (200, "ok"), "{path}");
            }
        }),
    ]
}

fn openapi() -> Vec<Behaviour> {
    vec![
        behaviour("OpenAPI v3: its index names each group", async |t| {
            let index = t.get("/openapi/v3").await.ok(200);
            for path in [
                "api/v1",
                "apis/conformance.example.com/v1",
                "apis/apiextensions.k8s.io/v1",
                "apis/coordination.k8s.io/v1",
            ] {
                let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_default();
                assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{path}: {url}");
            }
        }),
        behaviour("OpenAPI v3: a definition's schema", async |t| {
            let document = t.get("/openapi/v3/apis/conformance.example.com/v1").await.ok(200);
            assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
            let schema = &document["components"]["schemas"]["com.example.conformance.v1.Widget"];
            assert_eq!(
                schema["x-kubernetes-group-version-kind"],
                json!([{ "group": GROUP, "version": "v1", "kind": "Widget" }])
            );
            assert_eq!(schema["properties"]["spec"]["properties"]["size"]["description"], "How big it is.");
            assert!(document["paths"]["/apis/conformance.example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"].is_object());
        }),
        behaviour("OpenAPI v3: core", async |t| {
            let document = t.get("/openapi/v3/api/v1").await.ok(200);
            assert!(document["components"]["schemas"]["io.k8s.api.core.v1.ConfigMap"]["properties"]["data"].is_object());
        }),
        behaviour("OpenAPI v3: an unknown group", async |t| {
            assert_eq!(t.get("/openapi/v3/apis/nothing.example.com/v1").await.code, 404);
        }),
        behaviour("OpenAPI v2: a definition's schema", async |t| {
            eventually("the document has the definition", async || {
                let document = t.get("/openapi/v2").await.ok(200);
                document["definitions"]["com.example.conformance.v1.Widget"]["properties"]["spec"]["properties"]["size"]["description"]
                    == "How big it is."
            })
            .await;
        }),
        behaviour("OpenAPI v2: core", async |t| {
            let document = t.get("/openapi/v2").await.ok(200);
            document.has(json!({ "swagger": "2.0" }));
            assert!(document["definitions"]["io.k8s.api.core.v1.ConfigMap"]["properties"]["data"].is_object());
        }),
        behaviour("OpenAPI v3: a new definition shows up", async |t| {
            t.install_things(&json!({ "spec": { "type": "object", "properties": { "x": { "type": "string" } } } }))
                .await;
            let (path, name) = (
                format!("/openapi/v3/apis/{}/v1", t.group()),
                format!("com.example.{}.v1.Thing", t.namespace),
            );
            eventually("the document is there", async || {
                let answer = t.get(&path).await;
                answer.code == 200
                    && answer.body["components"]["schemas"][&name]["properties"]["spec"]["properties"]["x"]["type"] == "string"
            })
            .await;
        }),
    ]
}
