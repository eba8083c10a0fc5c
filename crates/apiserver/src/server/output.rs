//! The form in which objects leave the server: themselves, Table rows, or metadata only.
//!
//! Objects in their stored version are copied as bytes; everything else is built as a value.

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::core::{shape, verbatim, view};
use super::registry::ResourceInfo;
use super::request::{Accept, Form, Query};
use super::status::{ApiError, ApiResult};
use crate::store::Object;

/// Which part of an object goes with each row of a Table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

/// How objects are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Show {
    /// The negotiated form.
    pub accept: Accept,
    /// `includeObject` of Tables.
    pub include: Include,
}

impl Show {
    /// Reads `includeObject`.
    pub fn parse(accept: Accept, query: &Query) -> ApiResult<Show> {
        let include = match query.get("includeObject") {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::None,
            "Object" => Include::Object,
            other => {
                let error = crate::schema::FieldError::not_supported("includeObject", &json!(other), &["Metadata", "None", "Object"]);
                return Err(ApiError::invalid("meta.k8s.io", "TableOptions", "", &[error]));
            }
        };
        Ok(Show { accept, include })
    }
}

/// A finished answer.
pub fn respond(code: u16, body: Bytes, yaml: bool, warnings: &[String]) -> Response {
    let (kind, body) = if yaml {
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match serde_saphyr::to_string(&value) {
            Ok(text) => ("application/yaml", Bytes::from(text)),
            Err(_) => ("application/json", body),
        }
    } else {
        ("application/json", body)
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    warn(headers, warnings);
    response
}

/// Adds warnings to an answer, each once.
pub fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            headers.append(header::WARNING, value);
        }
    }
}

/// A value as an answer.
pub fn respond_value(code: u16, value: &Value, yaml: bool, warnings: &[String]) -> Response {
    respond(code, Bytes::from(value.to_string()), yaml, warnings)
}

/// Appends an object with its type.
fn push_object(info: &ResourceInfo, object: &Object, typed: bool, out: &mut BytesMut) {
    if verbatim(info) {
        if typed {
            out.put_slice(&info.prefix);
        } else {
            out.put_u8(b'{');
        }
        out.put_slice(&object.json[1..]);
    } else {
        let mut value = object.value();
        shape(info, &mut value);
        if typed {
            super::core::stamp(info, &mut value);
        }
        out.put_slice(value.to_string().as_bytes());
    }
}

fn partial(value: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value.get("metadata").cloned().unwrap_or_else(|| json!({})) })
}

fn row(info: &ResourceInfo, value: &Value, include: Include) -> Value {
    let mut row = json!({ "cells": info.columns.row(value, jiff::Timestamp::now()) });
    match include {
        Include::None => row["object"] = Value::Null,
        Include::Metadata => row["object"] = partial(value),
        Include::Object => row["object"] = value.clone(),
    }
    row
}

fn table_of(info: &ResourceInfo, rows: Vec<Value>, metadata: Value, with_columns: bool) -> Value {
    let columns = if with_columns { info.columns.definitions() } else { json!([]) };
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows })
}

/// One object as bytes.
pub fn one(info: &ResourceInfo, object: &Object, show: Show) -> Bytes {
    if show.accept.form == Form::Object {
        let mut out = BytesMut::with_capacity(object.json.len() + info.prefix.len());
        push_object(info, object, true, &mut out);
        return out.freeze();
    }
    Bytes::from(one_value(info, &view(info, object), show, true).to_string())
}

/// One value in the wanted form.
pub fn one_value(info: &ResourceInfo, value: &Value, show: Show, with_columns: bool) -> Value {
    match show.accept.form {
        Form::Object => value.clone(),
        Form::Partial => partial(value),
        Form::Table => {
            let version = super::metadata::text(value, "resourceVersion").to_owned();
            table_of(
                info,
                vec![row(info, value, show.include)],
                json!({ "resourceVersion": version }),
                with_columns,
            )
        }
    }
}

/// Metadata of a list.
#[derive(Clone, Debug, Default)]
pub struct ListMeta {
    /// The revision it is consistent at.
    pub revision: u64,
    /// How it goes on.
    pub next: Option<String>,
    /// How many objects follow.
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn value(&self) -> Value {
        let mut map = Map::new();
        map.insert("resourceVersion".to_owned(), json!(self.revision.to_string()));
        if let Some(next) = &self.next {
            map.insert("continue".to_owned(), json!(next));
        }
        if let Some(remaining) = self.remaining {
            map.insert("remainingItemCount".to_owned(), json!(remaining));
        }
        Value::Object(map)
    }
}

/// A list of objects.
pub fn many(info: &ResourceInfo, objects: &[std::sync::Arc<Object>], meta: &ListMeta, show: Show) -> Bytes {
    let metadata = meta.value();
    match show.accept.form {
        Form::Object => {
            let size: usize = objects.iter().map(|object| object.json.len() + info.prefix.len() + 1).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            let mut metadata = metadata;
            if info.custom() && meta.next.is_none() {
                // The real server's untyped lists say so even when nothing follows.
                metadata["continue"] = json!("");
            }
            out.put_slice(
                format!(
                    "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{metadata},\"items\":[",
                    json!(info.list_kind),
                    json!(info.api_version())
                )
                .as_bytes(),
            );
            for (at, object) in objects.iter().enumerate() {
                if at > 0 {
                    out.put_u8(b',');
                }
                // Items of typed lists carry no type of their own.
                push_object(info, object, info.custom(), &mut out);
            }
            out.put_slice(b"]}");
            out.freeze()
        }
        Form::Partial => {
            let items: Vec<Value> = objects.iter().map(|object| partial(&view(info, object))).collect();
            let items = if items.is_empty() { Value::Null } else { Value::Array(items) };
            let list = json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items });
            Bytes::from(list.to_string())
        }
        Form::Table => {
            let rows = objects.iter().map(|object| row(info, &view(info, object), show.include)).collect();
            Bytes::from(table_of(info, rows, metadata, true).to_string())
        }
    }
}

/// Appends one line of a watch.
pub fn watch_line(info: &ResourceInfo, kind: &str, object: &Object, show: Show, with_columns: bool, out: &mut BytesMut) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    if show.accept.form == Form::Object {
        push_object(info, object, true, out);
    } else {
        out.put_slice(one_value(info, &view(info, object), show, with_columns).to_string().as_bytes());
    }
    out.put_slice(b"}\n");
}

/// Appends a bookmark.
pub fn bookmark_line(info: &ResourceInfo, revision: u64, initial_end: bool, show: Show, out: &mut BytesMut) {
    let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
    if initial_end {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    let object = match show.accept.form {
        Form::Object => {
            let mut value = json!({ "kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata });
            if info.custom()
                && let Some(metadata) = value["metadata"].as_object_mut()
            {
                metadata.remove("creationTimestamp");
            }
            value
        }
        Form::Partial => json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata }),
        Form::Table => {
            let row =
                json!({ "cells": [], "object": { "kind": info.kind, "apiVersion": info.api_version(), "metadata": metadata.clone() } });
            let mut value = table_of(info, vec![row], json!({ "resourceVersion": revision.to_string() }), false);
            value["columnDefinitions"] = Value::Null;
            value
        }
    };
    out.put_slice(json!({ "type": "BOOKMARK", "object": object }).to_string().as_bytes());
    out.put_u8(b'\n');
}

/// Appends an error.
pub fn error_line(error: &ApiError, out: &mut BytesMut) {
    out.put_slice(json!({ "type": "ERROR", "object": error.status() }).to_string().as_bytes());
    out.put_u8(b'\n');
}
