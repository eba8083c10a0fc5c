//! The definitions that all behaviours share, paths and sample objects, and how a behaviour installs one of its own.

use serde_json::{Value, json};

use crate::{
    api::{Api, eventually},
    behaviour::Case,
};

/// Group of the shared definitions.
pub const GROUP: &str = "conformance.example.com";
/// Where definitions are.
pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// The cluster-scoped kind.
pub const GADGETS: &str = "/apis/conformance.example.com/v1/gadgets";

/// Namespaced, two versions (one deprecated), with status, scale, columns, rules and selectable fields.
pub fn widgets() -> Value {
    let schema = json!({
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
                    { "rule": "!has(self.note) || self.note.size() < 20", "messageExpression": "self.note.size() > 30 ? 'note is much too long' : 'note is too long'", "reason": "FieldValueForbidden" },
                ],
                "properties": {
                    "size": { "type": "integer", "minimum": 0, "maximum": 1000, "description": "How big it is." },
                    "maxSize": { "type": "integer", "default": 100 },
                    "color": { "type": "string", "enum": ["red", "green", "blue"], "default": "red" },
                    "note": { "type": "string", "maxLength": 40 },
                    "ratio": { "type": "number" },
                    "code": { "type": "string", "pattern": "^[a-z]+$" },
                    "replicas": { "type": "integer", "minimum": 0 },
                    "port": { "x-kubernetes-int-or-string": true },
                    "tags": { "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "set", "maxItems": 5 },
                    "steps": { "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "atomic" },
                    "parts": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": { "name": { "type": "string" }, "weight": { "type": "integer", "default": 1 }, "note": { "type": "string" } },
                        },
                    },
                    "limits": { "type": "object", "additionalProperties": { "type": "integer" } },
                    "pair": { "type": "object", "x-kubernetes-map-type": "atomic", "properties": { "a": { "type": "string" }, "b": { "type": "string" } } },
                    "maybe": { "type": "string", "nullable": true },
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
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["type"],
                        "items": { "type": "object", "required": ["type"], "properties": { "type": { "type": "string" }, "status": { "type": "string" } } },
                    },
                },
            },
        },
    });
    let version = |name: &str, storage: bool| {
        json!({
            "name": name,
            "served": true,
            "storage": storage,
            "subresources": {
                "status": {},
                "scale": { "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector" },
            },
            "selectableFields": [{ "jsonPath": ".spec.color" }, { "jsonPath": ".spec.size" }],
            "additionalPrinterColumns": [
                { "name": "Color", "type": "string", "jsonPath": ".spec.color", "description": "What it looks like." },
                { "name": "Size", "type": "integer", "jsonPath": ".spec.size" },
                { "name": "Ready", "type": "boolean", "jsonPath": ".status.ready" },
                { "name": "Phase", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status" },
                { "name": "Ratio", "type": "number", "jsonPath": ".spec.ratio", "priority": 1 },
                { "name": "Tags", "type": "string", "jsonPath": ".spec.tags", "priority": 1 },
                { "name": "Seen", "type": "date", "jsonPath": ".status.seenAt" },
                { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
            ],
            "schema": { "openAPIV3Schema": schema },
        })
    };
    let mut old = version("v1beta1", false);
    old["deprecated"] = json!(true);
    old["deprecationWarning"] = json!("conformance.example.com/v1beta1 Widget is old; use v1");
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.conformance.example.com" },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["conformance"] },
            "versions": [version("v1", true), old],
        },
    })
}

/// Cluster scoped, one version, no subresources, free content.
pub fn gadgets() -> Value {
    let free = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    definition(GROUP, "gadgets", "Gadget", "Cluster", &json!({ "spec": free, "status": free }))
}

/// A definition with one version `v1` and these properties.
pub fn definition(group: &str, plural: &str, kind: &str, scope: &str, properties: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.{group}") },
        "spec": {
            "group": group,
            "scope": scope,
            "names": { "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List") },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "properties": properties } },
            }],
        },
    })
}

/// Installs a definition and waits until it is served.
pub async fn install(api: &Api, definition: &Value) {
    api.post(DEFINITIONS, definition).await.ok(201);
    serves(api, definition).await;
}

/// Waits until a definition is established and each served version can be listed.
pub async fn serves(api: &Api, definition: &Value) {
    let name = definition["metadata"]["name"].as_str().expect("a name");
    eventually("the definition is established", async || {
        let found = api.get(&format!("{DEFINITIONS}/{name}")).await.ok(200);
        condition(&found, "Established") == "True"
    })
    .await;
    let spec = &definition["spec"];
    let (group, plural) = (
        spec["group"].as_str().expect("a group"),
        spec["names"]["plural"].as_str().expect("a plural"),
    );
    for version in spec["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .filter(|version| version["served"] == true)
    {
        let path = format!("/apis/{group}/{}/{plural}", version["name"].as_str().expect("a name"));
        eventually("the resource is served", async || api.get(&path).await.code == 200).await;
    }
}

/// The status of a condition, empty when it is not there.
pub fn condition(object: &Value, kind: &str) -> String {
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|condition| condition["type"] == kind);
    found
        .and_then(|condition| condition["status"].as_str())
        .unwrap_or_default()
        .to_owned()
}

/// Installs what the suite shares.
pub async fn install_all(api: &Api) {
    install(api, &widgets()).await;
    install(api, &gadgets()).await;
}

/// A widget.
pub fn widget(name: &str, size: i64) -> Value {
    of_spec(name, json!({ "size": size }))
}

/// A widget with any spec.
#[allow(clippy::needless_pass_by_value, reason = "called with json!(..)")]
pub fn of_spec(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "conformance.example.com/v1", "kind": "Widget", "metadata": { "name": name }, "spec": spec })
}

/// A widget with labels.
#[allow(clippy::needless_pass_by_value, reason = "called with json!(..)")]
pub fn labelled(name: &str, labels: Value) -> Value {
    let mut value = widget(name, 1);
    value["metadata"]["labels"] = labels;
    value
}

/// A gadget.
pub fn gadget(name: &str) -> Value {
    json!({ "apiVersion": "conformance.example.com/v1", "kind": "Gadget", "metadata": { "name": name }, "spec": {} })
}

/// A ConfigMap with one key.
pub fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "key": "value" } })
}

impl Case {
    /// The collection of widgets in the behaviour's namespace.
    pub fn widgets(&self) -> String {
        format!("/apis/conformance.example.com/v1/namespaces/{}/widgets", self.namespace)
    }

    /// A widget's path.
    pub fn widget(&self, name: &str) -> String {
        format!("{}/{name}", self.widgets())
    }

    /// A collection of core/v1 in the behaviour's namespace.
    pub fn core(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// The collection of ConfigMaps in the behaviour's namespace.
    pub fn config_maps(&self) -> String {
        self.core("configmaps")
    }

    /// A ConfigMap's path.
    pub fn config_map(&self, name: &str) -> String {
        format!("{}/{name}", self.config_maps())
    }

    /// A group of the behaviour's own.
    pub fn group(&self) -> String {
        format!("{}.example.com", self.namespace)
    }

    /// Installs a definition of kind `Thing` in the behaviour's group, with these properties, and gives the path of its collection.
    pub async fn install_things(&self, properties: &Value) -> String {
        let definition = definition(&self.group(), "things", "Thing", "Namespaced", properties);
        self.install_definition(&definition).await
    }

    /// Installs a definition of `things` in the behaviour's group and gives the path of its collection in `v1`.
    pub async fn install_definition(&self, definition: &Value) -> String {
        install(self.api(), definition).await;
        format!("/apis/{}/v1/namespaces/{}/things", self.group(), self.namespace)
    }

    /// A thing with a spec.
    #[allow(clippy::needless_pass_by_value, reason = "called with json!(..)")]
    pub fn thing(&self, name: &str, spec: Value) -> Value {
        json!({ "apiVersion": format!("{}/v1", self.group()), "kind": "Thing", "metadata": { "name": name }, "spec": spec })
    }

    /// Creates a widget and gives it.
    pub async fn made(&self, name: &str) -> crate::found::Found {
        self.post(&self.widgets(), &widget(name, 1)).await.ok(201)
    }
}
