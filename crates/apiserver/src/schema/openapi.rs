//! OpenAPI documents: v3 per group and version, and the v2 swagger, from definitions and the built-in kinds.
//!
//! They carry what clients read: schemas with descriptions (`kubectl explain`), list types and merge keys (client-side
//! apply), `x-kubernetes-group-version-kind`, and the `fieldValidation` and `dryRun` parameters by which kubectl
//! decides who validates. The documents are not complete descriptions of the protocol.

use std::sync::LazyLock;

use super::builtin;
use serde_json::{Map, Value, json};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

/// The models of metadata as Kubernetes publishes them (Apache 2.0), in the edition of v3: what `kubectl explain` shows of every kind.
static META: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    let text = include_str!("meta.json");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("meta.json is a part of this program: {error}"))
});

/// One served resource in one version.
#[derive(Debug, Clone)]
pub struct ApiResource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Name in URLs.
    pub plural: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// Whether there is a scale subresource.
    pub scale: bool,
    /// OpenAPI v3 schema of the objects.
    pub schema: Value,
}

impl ApiResource {
    /// The resource of one version of a CustomResourceDefinition; `None` when it is not served.
    pub fn from_crd(crd: &Value, version: &str) -> Option<Self> {
        let spec = crd.get("spec")?;
        let entry = spec
            .get("versions")?
            .as_array()?
            .iter()
            .find(|v| v.get("name").and_then(Value::as_str) == Some(version))?;
        if entry.get("served") != Some(&Value::Bool(true)) {
            return None;
        }
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        let names = spec.get("names")?;
        let kind = text(names, "kind");
        let list_kind = match text(names, "listKind") {
            l if l.is_empty() => format!("{kind}List"),
            l => l,
        };
        let subresource = |name: &str| entry.get("subresources").and_then(|s| s.get(name)).is_some_and(|s| !s.is_null());
        Some(Self {
            group: text(spec, "group"),
            version: version.to_string(),
            kind,
            list_kind,
            plural: text(names, "plural"),
            namespaced: text(spec, "scope") == "Namespaced",
            status: subresource("status"),
            scale: subresource("scale"),
            schema: entry
                .pointer("/schema/openAPIV3Schema")
                .cloned()
                .unwrap_or_else(|| json!({"type": "object"})),
        })
    }

    /// The built-in resources.
    pub fn builtins() -> Vec<Self> {
        builtin::all()
            .iter()
            .map(|k| Self {
                group: k.group.into(),
                version: k.version.into(),
                kind: k.kind.into(),
                list_kind: format!("{}List", k.kind),
                plural: k.plural.into(),
                namespaced: k.namespaced,
                status: k.status,
                scale: false,
                schema: k.openapi.clone(),
            })
            .collect()
    }

    fn group_version_kind(&self, kind: &str) -> Value {
        json!({"group": self.group, "version": self.version, "kind": kind})
    }

    /// Name of a schema in the documents, e.g. `com.example.v1.Foo`.
    fn model(&self, kind: &str) -> String {
        match self.group.as_str() {
            "" => format!("io.k8s.api.core.{}.{kind}", self.version),
            "events.k8s.io" => format!("io.k8s.api.events.{}.{kind}", self.version),
            "coordination.k8s.io" => format!("io.k8s.api.coordination.{}.{kind}", self.version),
            "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{}.{kind}", self.version),
            group => {
                let reversed: Vec<&str> = group.split('.').rev().collect();
                format!("{}.{}.{kind}", reversed.join("."), self.version)
            }
        }
    }

    fn base_path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }
}

/// Which document a schema goes into.
#[derive(Clone, Copy, PartialEq)]
enum Edition {
    V2,
    V3,
}

impl Edition {
    fn reference(self, model: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{model}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{model}")}),
        }
    }

    /// A reference with a description beside it.
    fn described(self, model: &str, description: &str) -> Value {
        match self {
            Self::V2 => json!({"description": description, "$ref": format!("#/definitions/{model}")}),
            Self::V3 => json!({"description": description, "allOf": [{"$ref": format!("#/components/schemas/{model}")}], "default": {}}),
        }
    }
}

/// The OpenAPI v3 document of one group and version.
pub fn v3(group: &str, version: &str, resources: &[ApiResource]) -> Value {
    let mut paths = Map::new();
    let mut schemas = shared(Edition::V3);
    for resource in resources.iter().filter(|r| r.group == group && r.version == version) {
        add_models(resource, Edition::V3, &mut schemas);
        add_paths(resource, Edition::V3, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "components": {"schemas": schemas}
    })
}

/// The OpenAPI v2 document of everything.
pub fn v2(resources: &[ApiResource]) -> Value {
    let mut paths = Map::new();
    let mut definitions = shared(Edition::V2);
    for resource in resources {
        add_models(resource, Edition::V2, &mut definitions);
        add_paths(resource, Edition::V2, &mut paths);
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths,
        "definitions": definitions
    })
}

fn shared(edition: Edition) -> Map<String, Value> {
    let mut out: Map<String, Value> = META.iter().map(|(name, schema)| (name.clone(), refer(schema, edition))).collect();
    out.insert(
        LIST_META.into(),
        json!({"type": "object", "description": "ListMeta describes metadata that lists have.", "properties": {
            "continue": {"type": "string", "description": "Set when there are more items; used to ask for them."},
            "remainingItemCount": {"type": "integer", "format": "int64", "description": "How many items are left."},
            "resourceVersion": {"type": "string", "description": "Version of the list."},
            "selfLink": {"type": "string", "description": "Deprecated; not set."}
        }}),
    );
    out.insert(
        STATUS.into(),
        json!({
            "type": "object", "description": "Status is what a call returns that returns no object.",
            "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Status"}],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": edition.described(LIST_META, "Standard list metadata."),
                "status": {"type": "string"}, "message": {"type": "string"}, "reason": {"type": "string"},
                "code": {"type": "integer", "format": "int32"}, "details": {"type": "object"}
            }
        }),
    );
    out.insert(
        DELETE_OPTIONS.into(),
        json!({"type": "object", "description": "DeleteOptions may be given when deleting an object.", "properties": {
            "apiVersion": {"type": "string"}, "kind": {"type": "string"},
            "dryRun": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "atomic"},
            "gracePeriodSeconds": {"type": "integer", "format": "int64"},
            "orphanDependents": {"type": "boolean"},
            "preconditions": {"type": "object", "properties": {"resourceVersion": {"type": "string"}, "uid": {"type": "string"}}},
            "propagationPolicy": {"type": "string"}
        }}),
    );
    out.insert(
        SCALE.into(),
        json!({
            "type": "object", "description": "Scale represents a scaling request for a resource.",
            "x-kubernetes-group-version-kind": [{"group": "autoscaling", "version": "v1", "kind": "Scale"}],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": edition.described(OBJECT_META, "Standard object metadata."),
                "spec": {"type": "object", "properties": {"replicas": {"type": "integer", "format": "int32"}}},
                "status": {"type": "object", "required": ["replicas"], "properties": {"replicas": {"type": "integer", "format": "int32"}, "selector": {"type": "string"}}}
            }
        }),
    );
    out
}

/// A published schema of v3 with its references as an edition writes them.
fn refer(schema: &Value, edition: Edition) -> Value {
    match schema {
        Value::Object(map) => {
            let name = |reference: &Value| reference.as_str()?.strip_prefix("#/components/schemas/").map(str::to_owned);
            if let Some(name) = map.get("$ref").and_then(name) {
                return edition.reference(&name);
            }
            let mut out = Map::new();
            for (key, value) in map {
                match (key.as_str(), value.pointer("/0/$ref").and_then(name), edition) {
                    // v2 knows no junctors: the reference stands beside the description.
                    ("allOf", Some(name), Edition::V2) => {
                        out.insert("$ref".to_owned(), json!(format!("#/definitions/{name}")));
                    }
                    ("default", _, Edition::V2) => {}
                    _ => {
                        out.insert(key.clone(), refer(value, edition));
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| refer(item, edition)).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => schema.clone(),
    }
}

fn add_models(resource: &ApiResource, edition: Edition, out: &mut Map<String, Value>) {
    let mut schema = publish(&resource.schema, edition, 0);
    if let Some(map) = schema.as_object_mut() {
        let properties = map.entry("properties").or_insert_with(|| json!({}));
        if let Some(properties) = properties.as_object_mut() {
            properties.insert(
                "apiVersion".into(),
                json!({"type": "string", "description": "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"}),
            );
            properties.insert(
                "kind".into(),
                json!({"type": "string", "description": "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"}),
            );
            properties.insert(
                "metadata".into(),
                edition.described(OBJECT_META, "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"),
            );
        }
        map.insert(
            "x-kubernetes-group-version-kind".into(),
            json!([resource.group_version_kind(&resource.kind)]),
        );
    }
    out.insert(resource.model(&resource.kind), schema);
    out.insert(
        resource.model(&resource.list_kind),
        json!({
            "type": "object", "required": ["items"], "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
            "x-kubernetes-group-version-kind": [resource.group_version_kind(&resource.list_kind)],
            "properties": {
                "apiVersion": {"type": "string"},
                "items": {"type": "array", "description": format!("List of {}.", resource.plural), "items": edition.reference(&resource.model(&resource.kind))},
                "kind": {"type": "string"},
                "metadata": edition.described(LIST_META, "Standard list metadata.")
            }
        }),
    );
}

/// A schema as a document shows it. v2 knows neither junctors nor nullable values; they are left out there.
fn publish(schema: &Value, edition: Edition, depth: usize) -> Value {
    let Some(map) = schema.as_object() else { return schema.clone() };
    if depth > 100 {
        return json!({});
    }
    if edition == Edition::V2 && map.get("nullable") == Some(&Value::Bool(true)) {
        // A value that may be null has no type in v2.
        let kept = map
            .iter()
            .filter(|(k, _)| *k == "description" || k.starts_with("x-kubernetes-"))
            .map(|(k, v)| (k.clone(), v.clone()));
        return Value::Object(kept.filter(|(k, _)| k != "x-kubernetes-validations").collect());
    }
    let mut out = Map::new();
    for (key, value) in map {
        let published = match key.as_str() {
            "anyOf" | "oneOf" | "not" | "allOf" | "nullable" | "x-kubernetes-validations" if edition == Edition::V2 => continue,
            "type" if edition == Edition::V2 && map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) => continue,
            "properties" => match value.as_object() {
                Some(properties) => Value::Object(
                    properties
                        .iter()
                        .map(|(k, v)| (k.clone(), publish(v, edition, depth + 1)))
                        .collect(),
                ),
                None => continue,
            },
            "items" | "additionalProperties" | "not" => publish(value, edition, depth + 1),
            "anyOf" | "oneOf" | "allOf" => match value.as_array() {
                Some(list) => Value::Array(list.iter().map(|v| publish(v, edition, depth + 1)).collect()),
                None => continue,
            },
            _ => value.clone(),
        };
        out.insert(key.clone(), published);
    }
    Value::Object(out)
}

fn parameter(edition: Edition, name: &str, place: &str, kind: &str, description: &str) -> Value {
    let mut out = json!({"name": name, "in": place, "description": description});
    if place == "path" {
        out["required"] = json!(true);
    }
    match edition {
        Edition::V2 => {
            out["type"] = json!(kind);
            if place != "path" {
                out["uniqueItems"] = json!(true);
            }
        }
        Edition::V3 => out["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    out
}

struct Operations<'r> {
    resource: &'r ApiResource,
    edition: Edition,
}

impl Operations<'_> {
    fn operation(&self, action: &str, kind: &Value, model: &str, query: Vec<Value>) -> Value {
        let mut parameters = query;
        let body = match action {
            "post" | "put" => Some((self.edition.reference(model), "application/json")),
            "patch" => Some((json!({"type": "object", "description": "A patch."}), "application/merge-patch+json")),
            "delete" => Some((self.edition.reference(DELETE_OPTIONS), "application/json")),
            _ => None,
        };
        let mut out = json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind});
        let returned = if action == "delete" || action == "deletecollection" {
            STATUS
        } else {
            model
        };
        let response = self.edition.reference(returned);
        match self.edition {
            Edition::V2 => {
                if let Some((schema, _)) = body {
                    parameters.push(json!({"name": "body", "in": "body", "required": action != "delete", "schema": schema}));
                }
                out["consumes"] = json!(["*/*"]);
                out["produces"] = json!(["application/json"]);
                out["responses"] = json!({"200": {"description": "OK", "schema": response}});
            }
            Edition::V3 => {
                if let Some((schema, media)) = body {
                    let types: &[&str] = if action == "patch" {
                        &[
                            "application/apply-patch+yaml",
                            "application/json-patch+json",
                            "application/merge-patch+json",
                        ]
                    } else {
                        &[media]
                    };
                    let content: Map<String, Value> = types.iter().map(|t| ((*t).to_string(), json!({"schema": schema}))).collect();
                    out["requestBody"] = json!({"content": content, "required": action != "delete"});
                }
                out["responses"] = json!({"200": {"description": "OK", "content": {"application/json": {"schema": response}}}});
            }
        }
        out["parameters"] = Value::Array(parameters);
        out
    }

    fn write_parameters(&self, patch: bool) -> Vec<Value> {
        let mut out = vec![
            parameter(
                self.edition,
                "dryRun",
                "query",
                "string",
                "When present, indicates that modifications should not be persisted. An invalid or unrecognized dryRun directive will result in an error response and no further processing of the request. Valid values are: - All: all dry run stages will be processed",
            ),
            parameter(
                self.edition,
                "fieldManager",
                "query",
                "string",
                "fieldManager is a name associated with the actor or entity that is making these changes.",
            ),
            parameter(
                self.edition,
                "fieldValidation",
                "query",
                "string",
                "fieldValidation instructs the server on how to handle objects in the request (POST/PUT/PATCH) containing unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
            ),
        ];
        if patch {
            out.push(parameter(
                self.edition,
                "force",
                "query",
                "boolean",
                "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people.",
            ));
        }
        out
    }

    fn list_parameters(&self) -> Vec<Value> {
        [
            ("allowWatchBookmarks", "boolean", "Asks for watch events of type BOOKMARK."),
            ("continue", "string", "Continues a list where an answer with a limit ended."),
            ("fieldSelector", "string", "Selects objects by fields."),
            ("labelSelector", "string", "Selects objects by labels."),
            ("limit", "integer", "Most items of one answer."),
            ("resourceVersion", "string", "Oldest version the answer may have."),
            ("resourceVersionMatch", "string", "How resourceVersion is applied to lists."),
            (
                "sendInitialEvents",
                "boolean",
                "Starts a watch with synthetic events for existing objects.",
            ),
            ("timeoutSeconds", "integer", "Timeout of the call."),
            ("watch", "boolean", "Watches for changes instead of listing."),
        ]
        .iter()
        .map(|(name, kind, description)| parameter(self.edition, name, "query", kind, description))
        .collect()
    }
}

fn add_paths(resource: &ApiResource, edition: Edition, paths: &mut Map<String, Value>) {
    let base = resource.base_path();
    let collection = if resource.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    let ops = Operations { resource, edition };
    let kind = ops.resource.group_version_kind(&resource.kind);
    let (model, list) = (resource.model(&resource.kind), resource.model(&resource.list_kind));
    let namespace = parameter(
        edition,
        "namespace",
        "path",
        "string",
        "object name and auth scope, such as for teams and projects",
    );
    let name = parameter(edition, "name", "path", "string", &format!("name of the {}", resource.kind));
    let place = |with_name: bool| {
        let mut out = Vec::new();
        if with_name {
            out.push(name.clone());
        }
        if resource.namespaced {
            out.push(namespace.clone());
        }
        Value::Array(out)
    };
    if resource.namespaced {
        paths.insert(
            format!("{base}/{}", resource.plural),
            json!({"get": ops.operation("list", &kind, &list, ops.list_parameters())}),
        );
    }
    paths.insert(
        collection.clone(),
        json!({
            "get": ops.operation("list", &kind, &list, ops.list_parameters()),
            "post": ops.operation("post", &kind, &model, ops.write_parameters(false)),
            "delete": ops.operation("deletecollection", &kind, &model, ops.list_parameters()),
            "parameters": place(false)
        }),
    );
    let item = |kind: &Value, model: &str, delete: bool| {
        let mut out = json!({
            "get": ops.operation("get", kind, model, Vec::new()),
            "put": ops.operation("put", kind, model, ops.write_parameters(false)),
            "patch": ops.operation("patch", kind, model, ops.write_parameters(true)),
            "parameters": place(true)
        });
        if delete {
            out["delete"] = ops.operation("delete", kind, model, ops.write_parameters(false));
        }
        out
    };
    paths.insert(format!("{collection}/{{name}}"), item(&kind, &model, true));
    if resource.status {
        paths.insert(format!("{collection}/{{name}}/status"), item(&kind, &model, false));
    }
    if resource.scale {
        let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        paths.insert(format!("{collection}/{{name}}/scale"), item(&scale, SCALE, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Value {
        json!({"spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "description": "What is wanted.", "properties": {
                    "size": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "maybe": {"type": "string", "nullable": true, "description": "May be null."}
                }}}
            }}}]
        }})
    }

    fn references(value: &Value, out: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_string));
                map.values().for_each(|v| references(v, out));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }

    #[test]
    fn v3_describes_the_resource_and_every_reference_resolves() {
        let resource = ApiResource::from_crd(&crd(), "v1").unwrap();
        let doc = v3("example.com", "v1", &[resource]);
        let model = &doc["components"]["schemas"]["com.example.v1.Foo"];
        assert_eq!(model["properties"]["spec"]["description"], "What is wanted.");
        assert_eq!(
            model["x-kubernetes-group-version-kind"],
            json!([{"group": "example.com", "version": "v1", "kind": "Foo"}])
        );
        let patch = &doc["paths"]["/apis/example.com/v1/namespaces/{namespace}/foos/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-action"], "patch");
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation")
        );
        assert!(doc["paths"]["/apis/example.com/v1/namespaces/{namespace}/foos/{name}/status"].is_object());
        let mut found = Vec::new();
        references(&doc, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(doc.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
    }

    #[test]
    fn v2_has_no_junctors_and_every_reference_resolves() {
        let mut resources = ApiResource::builtins();
        resources.extend(ApiResource::from_crd(&crd(), "v1"));
        let doc = v2(&resources);
        let spec = &doc["definitions"]["com.example.v1.Foo"]["properties"]["spec"]["properties"];
        assert_eq!(spec["size"], json!({"x-kubernetes-int-or-string": true}));
        assert_eq!(spec["maybe"], json!({"description": "May be null."}));
        assert_eq!(
            doc["definitions"]["io.k8s.api.core.v1.ServiceAccount"]["properties"]["secrets"]["x-kubernetes-patch-merge-key"],
            "name"
        );
        let mut found = Vec::new();
        references(&doc, &mut found);
        for reference in found {
            assert!(doc.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        assert!(ApiResource::from_crd(&crd(), "v2").is_none());
    }
}
