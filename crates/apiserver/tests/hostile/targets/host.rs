//! A server in memory with a few objects, one for each thread, on a clock that skips waiting.

use std::cell::OnceCell;
use std::time::Duration;

use apiserver::store::{Limits, Store};
use apiserver::{ApiServer, Config, Identity};
use axum::Router;
use axum::body::Body;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// Where custom resources are.
pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
/// One that has everything.
pub const WIDGET: &str = "/apis/example.com/v1/namespaces/default/widgets/a";
/// A core kind with field selectors of its own.
pub const EVENTS: &str = "/api/v1/namespaces/default/events";
/// Objects of core kinds.
pub const TYPED: [&str; 4] = [
    "/api/v1/namespaces/default/serviceaccounts/a",
    "/api/v1/namespaces/default/configmaps/a",
    "/apis/coordination.k8s.io/v1/namespaces/default/leases/a",
    "/api/v1/namespaces/default",
];

/// See the module's comment.
pub struct Host {
    runtime: Runtime,
    api: ApiServer,
    router: Router,
    /// Every object, as it was made.
    revision: u64,
}

thread_local! {
    static HOST: OnceCell<Host> = const { OnceCell::new() };
}

/// Runs with this thread's server.
pub fn with(run: impl FnOnce(&Host)) {
    HOST.with(|host| run(host.get_or_init(Host::start)));
}

/// Bytes as a part of a query.
pub fn escape(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {
                    "status": {},
                    "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector" },
                },
                "selectableFields": [{ "jsonPath": ".spec.color" }],
                "additionalPrinterColumns": [
                    { "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status" },
                    { "name": "Tags", "type": "string", "jsonPath": ".spec.tags" },
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "x-kubernetes-validations": [
                                { "rule": "!has(self.size) || self.size <= self.maxSize", "message": "too large" },
                                { "rule": "!has(oldSelf.color) || self.color == oldSelf.color", "message": "color cannot change", "fieldPath": ".color" },
                            ],
                            "properties": {
                                "size": { "type": "integer", "minimum": 0, "maximum": 1000 },
                                "maxSize": { "type": "integer", "default": 100 },
                                "color": { "type": "string", "enum": ["red", "green"], "default": "red" },
                                "ratio": { "type": "number", "multipleOf": 0.5 },
                                "replicas": { "type": "integer", "minimum": 0 },
                                "when": { "type": "string", "format": "date-time" },
                                "code": { "type": "string", "pattern": "^(a|b)*c$", "maxLength": 20 },
                                "either": { "x-kubernetes-int-or-string": true },
                                "tags": { "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "set" },
                                "atoms": { "type": "array", "items": { "type": "integer" }, "x-kubernetes-list-type": "atomic" },
                                "parts": {
                                    "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
                                    "items": {
                                        "type": "object", "required": ["name"],
                                        "properties": { "name": { "type": "string" }, "port": { "type": "integer", "default": 1 }, "weight": { "type": "integer" } },
                                    },
                                },
                                "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                                "inner": { "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true },
                            },
                        },
                        "status": {
                            "type": "object",
                            "properties": {
                                "replicas": { "type": "integer" }, "selector": { "type": "string" },
                                "conditions": { "type": "array", "items": { "type": "object", "properties": { "type": { "type": "string" }, "status": { "type": "string" } } } },
                            },
                        },
                    },
                } },
            }],
        },
    })
}

impl Host {
    fn start() -> Host {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let (api, router) = runtime.block_on(async {
            let store = Store::open_on(redb::backends::InMemoryBackend::new(), Limits::default()).expect("a store");
            let api = ApiServer::open_on(store, Config::new(directory.path())).await.expect("a server");
            let router = api.router(Identity::admin());
            (api, router)
        });
        let mut host = Host {
            runtime,
            api,
            router,
            revision: 0,
        };
        host.fill();
        host.revision = host.api.store().revision();
        // On a paused clock a wait is over as soon as nothing else can run.
        host.runtime.block_on(async { tokio::time::pause() });
        host
    }

    fn fill(&self) {
        let post = |path: &str, object: Value| {
            let (code, answer) = self.ask(Method::POST, path, "application/json", object.to_string().as_bytes());
            assert_eq!(code, 201, "{answer}");
            let made: Value = serde_json::from_str(&answer).expect("an object");
            made["metadata"]["uid"].clone()
        };
        post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition());
        for _ in 0..500 {
            if self.ask(Method::GET, WIDGETS, "", b"").0 == 200 {
                break;
            }
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
        }
        for (name, color) in [("a", "red"), ("b", "green"), ("c", "red")] {
            post(
                WIDGETS,
                json!({
                    "apiVersion": "example.com/v1", "kind": "Widget", "metadata": { "name": name, "labels": { "a": name, "example.com/n": "7" } },
                    "spec": {
                        "size": 3, "color": color, "ratio": 1.5, "replicas": 2, "code": "abc", "either": "10%", "tags": ["x", "y"], "atoms": [1, 2],
                        "parts": [{ "name": "p", "weight": 1 }, { "name": "q", "port": 2 }], "free": { "deep": [{ "a": [1, { "b": null }] }] },
                    },
                }),
            );
        }
        let owner = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "owner" } });
        let uid = post("/api/v1/namespaces/default/configmaps", owner);
        let owner = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid });
        let metadata = json!({ "name": "a", "labels": { "x": "y" }, "finalizers": ["example.com/f"], "ownerReferences": [owner] });
        post(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({
                "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "secrets": [{ "name": "a" }, { "name": "b" }],
                "imagePullSecrets": [{ "name": "c" }],
            }),
        );
        post(
            "/api/v1/namespaces/default/configmaps",
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "k": "v" }, "binaryData": { "b": "AAAA" } }),
        );
        post(
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "a" }, "spec": { "holderIdentity": "me", "leaseDurationSeconds": 15 } }),
        );
        // Let the controllers look at all of it; from here on nothing may change.
        self.runtime
            .block_on(async { tokio::time::sleep(Duration::from_millis(200)).await });
    }

    fn ask(&self, method: Method, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "hostile/1.0")
            .body(Body::from(body.to_vec()));
        // What is no request never reaches the server: a URI may be too long.
        let Ok(request) = request else { return (0, String::new()) };
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.expect("the router cannot fail");
            let code = answer.status().as_u16();
            let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
            (code, String::from_utf8(bytes.to_vec()).expect("an answer in UTF-8"))
        })
    }

    /// Panics unless the answer is one.
    fn check(&self, path: &str, code: u16, answer: &str) {
        assert_eq!(self.api.panics(), 0, "the server panicked at {path}");
        assert!(self.api.healthy(), "the store failed at {path}");
        assert_eq!(
            self.api.store().revision(),
            self.revision,
            "a dry run or a read changed something at {path}"
        );
        if code == 0 {
            return;
        }
        let value: Value =
            serde_json::from_str(answer).unwrap_or_else(|error| panic!("{path}: {code} is answered with no JSON: {error}: {answer}"));
        match code {
            200 | 201 => assert_ne!(value["kind"], "Status", "{path}: {answer}"),
            // 504 is the answer to a revision of the future.
            400..=422 | 504 => assert_eq!(
                (&value["kind"], &value["status"], &value["code"]),
                (&json!("Status"), &json!("Failure"), &json!(code)),
                "{path}: {answer}"
            ),
            // An apply that does not fit the schema, as the real server says it.
            500 => assert!(value["reason"] != "InternalError", "{path}: {answer}"),
            _ => panic!("{path}: {code} {answer}"),
        }
    }

    /// Patches an object in a dry run.
    pub fn patch(&self, path: &str, kind: &str, body: &[u8]) {
        self.patched(path, "?dryRun=All", kind, body);
    }

    /// Applies to an object in a dry run.
    pub fn apply(&self, path: &str, more: &str, body: &[u8]) {
        self.patched(
            path,
            &format!("?dryRun=All&fieldManager=hostile{more}"),
            "application/apply-patch+yaml",
            body,
        );
    }

    fn patched(&self, path: &str, query: &str, kind: &str, body: &[u8]) {
        let (code, answer) = self.ask(Method::PATCH, &format!("{path}{query}"), kind, body);
        self.check(path, code, &answer);
        if code == 200 && !path.ends_with("/scale") {
            let name = path.trim_end_matches("/status").rsplit('/').next();
            let object: Value = serde_json::from_str(&answer).expect("checked above");
            assert_eq!(object["metadata"]["name"].as_str(), name, "{answer}");
            assert!(object["metadata"]["uid"].is_string(), "{answer}");
        }
    }

    /// Reads something.
    pub fn get(&self, path: &str) {
        let (code, answer) = self.ask(Method::GET, path, "", b"");
        self.check(path, code, &answer);
    }

    /// Opens a watch and reads what it says without waiting for changes.
    pub fn watch(&self, path: &str) {
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, "application/json")
            .body(Body::empty());
        let Ok(request) = request else { return };
        let (code, said) = self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.expect("the router cannot fail");
            let code = answer.status().as_u16();
            let mut body = answer.into_body();
            let mut said = Vec::new();
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(Duration::from_millis(1), body.frame()).await {
                said.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
            (code, String::from_utf8(said).expect("an answer in UTF-8"))
        });
        assert_eq!(self.api.panics(), 0, "the server panicked at {path}");
        if code != 200 {
            return self.check(path, code, &said);
        }
        assert_eq!(self.api.store().revision(), self.revision, "a watch changed something at {path}");
        for line in said.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{path}: a line that is no JSON: {error}: {line}"));
            assert!(
                line["type"].is_string() && line["object"].is_object() || line["items"].is_array(),
                "{path}: {line}"
            );
        }
    }
}
