//! Discovery: which groups, versions and resources there are, in the old and the aggregated form.

use http::{HeaderMap, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::registry::{Registry, ResourceInfo, Special, Versions};
use super::reviews::Review;

/// The wanted form of `/api` and `/apis`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Group by group.
    Plain,
    /// Everything in one answer, in this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

impl Form {
    /// Reads the Accept header.
    pub fn parse(headers: &HeaderMap) -> Form {
        for value in headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in value.split(',') {
                let parts: Vec<&str> = range.split(';').map(str::trim).collect();
                if !matches!(parts.first(), Some(&"application/json" | &"*/*" | &"application/*")) {
                    continue;
                }
                if parts.contains(&"g=apidiscovery.k8s.io") && parts.contains(&"as=APIGroupDiscoveryList") {
                    if parts.contains(&"v=v2") {
                        return Form::Aggregated("v2");
                    }
                    if parts.contains(&"v=v2beta1") {
                        return Form::Aggregated("v2beta1");
                    }
                } else if parts.len() == 1 {
                    return Form::Plain;
                }
            }
        }
        Form::Plain
    }

    /// The media type of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Form::Plain => "application/json",
            Form::Aggregated("v2") => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Form::Aggregated(_) => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

/// `GET /api`.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": address }],
    })
}

fn group(name: &str, versions: &Versions) -> Value {
    let version = |version: &str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let all: Vec<Value> = versions.iter().map(|(name, _)| version(name)).collect();
    let preferred = all.first().cloned().unwrap_or(Value::Null);
    json!({ "name": name, "versions": all, "preferredVersion": preferred })
}

/// `GET /apis`.
pub fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry
        .groups
        .iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, versions)| group(name, versions))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `GET /apis/GROUP`.
pub fn one_group(registry: &Registry, name: &str) -> Option<Value> {
    let versions = registry.groups.get(name).filter(|_| !name.is_empty())?;
    let mut value = group(name, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

fn storage_hash(info: &ResourceInfo) -> String {
    use base64::Engine as _;
    let digest = Sha256::digest(format!("{}/{}/{}", info.group, info.resource, info.kind).as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `GET /api/v1` and `GET /apis/GROUP/VERSION`.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let (_, infos) = registry.groups.get(group)?.iter().find(|(name, _)| name == version)?;
    let mut list = Vec::new();
    for info in infos {
        let mut main = json!({
            "name": info.resource, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.kind,
            "verbs": info.verbs(), "storageVersionHash": storage_hash(info),
        });
        if !info.short_names.is_empty() {
            main["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            main["categories"] = json!(info.categories);
        }
        list.push(main);
        for (name, kind, outside) in subresources(info) {
            let verbs: &[&str] = if name == "finalize" {
                &["update"]
            } else {
                &["get", "patch", "update"]
            };
            let mut value = json!({
                "name": format!("{}/{name}", info.resource), "singularName": "", "namespaced": info.namespaced, "kind": kind, "verbs": verbs,
            });
            if outside {
                value["group"] = json!("autoscaling");
                value["version"] = json!("v1");
            }
            list.push(value);
        }
    }
    if group.is_empty() {
        list.push(
            json!({ "name": "namespaces/finalize", "singularName": "", "namespaced": false, "kind": "Namespace", "verbs": ["update"] }),
        );
        list.push(json!({
            "name": "serviceaccounts/token", "singularName": "", "namespaced": true, "kind": "TokenRequest", "verbs": ["create"],
            "group": "authentication.k8s.io", "version": "v1",
        }));
    }
    list.extend(Review::of(group).filter(|_| version == "v1").map(|review| {
        json!({
            "name": review.resource(), "singularName": review.kind().to_lowercase(), "namespaced": review.namespaced(),
            "kind": review.kind(), "verbs": ["create"],
        })
    }));
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list }))
}

fn subresources(info: &ResourceInfo) -> Vec<(&'static str, &str, bool)> {
    let mut list = Vec::new();
    if info.status {
        list.push(("status", info.kind.as_str(), false));
    }
    if info.scale.is_some() {
        list.push(("scale", "Scale", true));
    }
    list
}

/// The aggregated form of `/api` (core only) or `/apis` (the others).
pub fn aggregated(registry: &Registry, core: bool, version: &str) -> Value {
    let items: Vec<Value> = registry
        .groups
        .iter()
        .filter(|(name, _)| name.is_empty() == core)
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, infos)| {
                    let reviews = Review::of(name).filter(|_| version == "v1").map(aggregated_review);
                    let resources: Vec<Value> = infos.iter().map(|info| aggregated_resource(info)).chain(reviews).collect();
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            let mut item = json!({ "metadata": { "creationTimestamp": null }, "versions": versions });
            if !name.is_empty() {
                item["metadata"]["name"] = json!(name);
            }
            item
        })
        .collect();
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items })
}

fn aggregated_review(review: Review) -> Value {
    json!({
        "resource": review.resource(),
        "responseKind": { "group": review.group(), "version": "v1", "kind": review.kind() },
        "scope": if review.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": review.kind().to_lowercase(),
        "verbs": ["create"],
    })
}

fn aggregated_resource(info: &ResourceInfo) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({ "group": group, "version": version, "kind": kind });
    let mut value = json!({
        "resource": info.resource,
        "responseKind": kind(&info.group, &info.version, &info.kind),
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular,
        "verbs": info.verbs(),
    });
    if !info.short_names.is_empty() {
        value["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        value["categories"] = json!(info.categories);
    }
    let mut subs: Vec<Value> = subresources(info)
        .into_iter()
        .map(|(name, of, outside)| {
            let response = if outside {
                kind("autoscaling", "v1", of)
            } else {
                kind(&info.group, &info.version, of)
            };
            json!({ "subresource": name, "responseKind": response, "verbs": ["get", "patch", "update"] })
        })
        .collect();
    if info.special == Special::ServiceAccount {
        let response = kind("authentication.k8s.io", "v1", "TokenRequest");
        subs.push(json!({ "subresource": "token", "responseKind": response, "verbs": ["create"] }));
    }
    if info.special == Special::Namespace {
        subs.push(json!({ "subresource": "finalize", "responseKind": kind("", "v1", "Namespace"), "verbs": ["update"] }));
    }
    if !subs.is_empty() {
        value["subresources"] = Value::Array(subs);
    }
    value
}

/// A strong entity tag of an answer.
pub fn etag(body: &[u8]) -> String {
    format!("\"{}\"", hex::encode_upper(Sha256::digest(body)))
}
