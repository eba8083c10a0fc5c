//! OpenAPI documents of what is served, made when somebody asks and kept until the registry changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::response::Response;
use http::{HeaderMap, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::api::tagged;
use super::registry::Registry;
use super::status::{ApiError, ApiResult};
use crate::schema::{
    openapi::{self, ApiResource},
    openapi_binary,
};

/// How clients ask for the binary form of v2; the second is the older way to write it.
const BINARY: [&str; 2] = [
    openapi_binary::CONTENT_TYPE,
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// The documents of one registry.
#[derive(Default)]
struct Made {
    serial: u64,
    texts: HashMap<String, Arc<[u8]>>,
}

/// Every served resource, core kinds first.
fn resources(registry: &Registry) -> Vec<ApiResource> {
    let mut resources = ApiResource::builtins();
    for definition in &registry.definitions {
        let versions = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
        resources.extend(versions.filter_map(|version| ApiResource::from_crd(definition, version.get("name")?.as_str()?)));
    }
    resources
}

/// The documents made so far.
#[derive(Default)]
pub struct Documents(Mutex<Made>);

impl Documents {
    /// Answers a path below `/openapi`.
    pub fn serve(&self, registry: &Registry, path: &[&str], headers: &HeaderMap) -> ApiResult<Response> {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let ranges = || accept.split(',').filter_map(|range| range.split(';').next()).map(str::trim);
        let json = accept.is_empty() || ranges().any(|range| matches!(range, "application/json" | "*/*" | "application/*"));
        if !json && path == ["v2"] && ranges().any(|range| BINARY.contains(&range)) {
            let bytes = self.text(registry, "v2 in binary", || {
                openapi_binary::document(&openapi::v2(&resources(registry)))
            });
            return Ok(tagged(headers, bytes.to_vec(), openapi_binary::CONTENT_TYPE));
        }
        if !json {
            return Err(ApiError::new(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json",
            ));
        }
        let text = match path {
            ["v2"] => self.text(registry, "v2", || openapi::v2(&resources(registry)).to_string()),
            ["v3"] => self.text(registry, "v3", || self.index(registry).to_string()),
            ["v3", "api", version] => self.group(registry, "", version)?,
            ["v3", "apis", group, version] => self.group(registry, group, version)?,
            _ => return Err(ApiError::no_route()),
        };
        Ok(tagged(headers, text.to_vec(), "application/json"))
    }

    fn group(&self, registry: &Registry, group: &str, version: &str) -> ApiResult<Arc<[u8]>> {
        if !registry
            .groups
            .get(group)
            .is_some_and(|versions| versions.iter().any(|(name, _)| name == version))
        {
            return Err(ApiError::no_route());
        }
        Ok(self.text(registry, &format!("v3/{group}/{version}"), || {
            openapi::v3(group, version, &resources(registry)).to_string()
        }))
    }

    fn index(&self, registry: &Registry) -> Value {
        let mut paths = Map::new();
        for (group, versions) in &registry.groups {
            for (version, _) in versions {
                let path = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                let Ok(text) = self.group(registry, group, version) else { continue };
                let hash = hex::encode_upper(Sha256::digest(&text));
                paths.insert(
                    path.clone(),
                    json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}") }),
                );
            }
        }
        json!({ "paths": paths })
    }

    /// A document, made at most once per registry. Two that ask at once may both make it; the text is the same.
    fn text<M: Into<Vec<u8>>>(&self, registry: &Registry, name: &str, make: impl FnOnce() -> M) -> Arc<[u8]> {
        {
            let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if made.serial == registry.serial
                && let Some(text) = made.texts.get(name)
            {
                return text.clone();
            }
        }
        let text: Arc<[u8]> = Arc::from(make().into());
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if made.serial != registry.serial {
            *made = Made {
                serial: registry.serial,
                texts: HashMap::new(),
            };
        }
        made.texts.insert(name.to_owned(), text.clone());
        text
    }
}
