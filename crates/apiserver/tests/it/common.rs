//! What the tests of the server share: a server in a directory of its own, raw requests, small definitions.
#![allow(dead_code, missing_docs)]

use std::time::Duration;

use apiserver::{ApiServer, Config, Identity};
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Everything that is waited for must happen in this time.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub api: ApiServer,
    pub directory: tempfile::TempDir,
}

pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        self.body
    }

    pub fn warnings(&self) -> Vec<String> {
        self.headers
            .get_all(header::WARNING)
            .iter()
            .map(|value| value.to_str().expect("text").to_owned())
            .collect()
    }
}

impl Server {
    pub async fn start() -> Server {
        let directory = tempfile::tempdir().expect("a directory");
        let api = ApiServer::open(Config::new(directory.path().join("data")))
            .await
            .expect("the server opens");
        Server { api, directory }
    }

    /// A server with the test definitions installed and established.
    pub async fn with_definitions() -> Server {
        let server = Server::start().await;
        for definition in [widgets(), gadgets()] {
            server.install(&definition).await;
        }
        server
    }

    pub async fn install(&self, definition: &Value) {
        self.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
            .await
            .expect(201);
        let name = definition["metadata"]["name"].as_str().expect("a name");
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        eventually("the definition is established", async || {
            let found = self.get(&path).await.expect(200);
            found["status"]["conditions"].as_array().is_some_and(|list| {
                list.iter()
                    .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
            })
        })
        .await;
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.api.router(Identity::admin()), "default")
    }

    pub async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.api
            .router(Identity::admin())
            .oneshot(request)
            .await
            .expect("the router cannot fail")
    }

    pub async fn request(&self, method: Method, path: &str, content_type: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "tester/1.0")
            .body(body.into())
            .expect("a request");
        answer(self.send(request).await).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, "", Body::empty()).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, accept)
            .body(Body::empty())
            .expect("a request");
        answer(self.send(request).await).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PATCH, path, "application/merge-patch+json", body.to_string())
            .await
    }

    pub async fn apply(&self, path: &str, manager: &str, body: &Value) -> Answer {
        let joint = if path.contains('?') { '&' } else { '?' };
        self.request(
            Method::PATCH,
            &format!("{path}{joint}fieldManager={manager}"),
            "application/apply-patch+yaml",
            body.to_string(),
        )
        .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path, "", Body::empty()).await
    }

    pub async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.request(Method::DELETE, path, "application/json", options.to_string()).await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .expect("a request");
        let response = self.send(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Watch::new(response.into_body())
    }

    /// A listener on loopback that serves TLS; its address and how to end it.
    pub async fn listen(
        &self,
    ) -> (
        String,
        tokio_util::sync::CancellationToken,
        tokio::task::JoinHandle<apiserver::Result<()>>,
    ) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let cancel = tokio_util::sync::CancellationToken::new();
        let task = tokio::spawn(self.api.serve_tls(listener, cancel.clone()));
        (url, cancel, task)
    }
}

pub async fn answer(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = tokio::time::timeout(PATIENCE, body.collect())
        .await
        .expect("an answer in time")
        .expect("a body")
        .to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body,
        text,
    }
}

pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    pub fn new(body: Body) -> Watch {
        Watch { body, rest: Vec::new() }
    }

    /// The next event, or `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let mut value: Value = serde_json::from_slice(&line).expect("a line of JSON");
                return Some((value["type"].as_str().expect("a type").to_owned(), value["object"].take()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            if let Ok(data) = frame.expect("a frame").into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> String {
        match self.next().await {
            Some((kind, object)) => format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default()),
            None => "END".to_owned(),
        }
    }
}

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Namespaced, with status, scale, columns, rules, two fields for selectors.
pub fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"] },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": {
                    "status": {},
                    "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector" },
                },
                "selectableFields": [{ "jsonPath": ".spec.color" }],
                "additionalPrinterColumns": [
                    { "name": "Color", "type": "string", "jsonPath": ".spec.color" },
                    { "name": "Size", "type": "integer", "jsonPath": ".spec.size" },
                    { "name": "Ready", "type": "boolean", "jsonPath": ".status.ready" },
                    { "name": "Phase", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status" },
                    { "name": "Ratio", "type": "number", "jsonPath": ".spec.ratio", "priority": 1 },
                    { "name": "Tags", "type": "string", "jsonPath": ".spec.tags", "priority": 1 },
                    { "name": "Seen", "type": "date", "jsonPath": ".status.seenAt" },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "description": "A widget of the tests.",
                    "required": ["spec"],
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["size"],
                            "x-kubernetes-validations": [
                                { "rule": "self.size <= self.maxSize", "message": "size may not exceed maxSize" },
                                { "rule": "!has(oldSelf.color) || self.color == oldSelf.color", "message": "color cannot change", "fieldPath": ".color" },
                            ],
                            "properties": {
                                "size": { "type": "integer", "minimum": 0, "maximum": 1000, "description": "How big it is." },
                                "maxSize": { "type": "integer", "default": 100 },
                                "color": { "type": "string", "enum": ["red", "green", "blue"], "default": "red" },
                                "ratio": { "type": "number" },
                                "replicas": { "type": "integer", "minimum": 0 },
                                "tags": { "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "set" },
                                "parts": {
                                    "type": "array",
                                    "x-kubernetes-list-type": "map",
                                    "x-kubernetes-list-map-keys": ["name"],
                                    "items": {
                                        "type": "object",
                                        "required": ["name"],
                                        "properties": { "name": { "type": "string" }, "weight": { "type": "integer", "default": 1 } },
                                    },
                                },
                                "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                            },
                        },
                        "status": {
                            "type": "object",
                            "properties": {
                                "ready": { "type": "boolean" },
                                "replicas": { "type": "integer" },
                                "selector": { "type": "string" },
                                "seenAt": { "type": "string", "format": "date-time" },
                                "conditions": {
                                    "type": "array",
                                    "items": { "type": "object", "properties": { "type": { "type": "string" }, "status": { "type": "string" } } },
                                },
                            },
                        },
                    },
                } },
            }],
        },
    })
}

/// Cluster scoped, two versions, no status.
pub fn gadgets() -> Value {
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage,
            "schema": { "openAPIV3Schema": {
                "type": "object",
                "properties": { "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }, "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            } },
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "gadgets.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Cluster",
            "names": { "plural": "gadgets", "kind": "Gadget", "singular": "gadget", "listKind": "GadgetList" },
            "versions": [version("v1", true), version("v2", false)],
        },
    })
}

pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
pub const GADGETS: &str = "/apis/example.com/v1/gadgets";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub fn widget(name: &str, size: i64) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": name }, "spec": { "size": size } })
}

pub fn gadget(name: &str) -> Value {
    json!({ "apiVersion": "example.com/v1", "kind": "Gadget", "metadata": { "name": name }, "spec": {} })
}

pub fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "key": "value" } })
}

impl Server {
    /// How many watches are open.
    pub fn open_watches(&self) -> i64 {
        self.api.open_watches()
    }
}
