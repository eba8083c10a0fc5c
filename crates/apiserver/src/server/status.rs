//! Errors as Kubernetes clients expect them: a `Status` object with a reason, a message and details.
//!
//! The texts are those of the real server, because clients and people match on them.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::schema::FieldError;
use crate::store::StoreError;

/// A failed request.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub code: u16,
    /// `Status.reason`, empty for none.
    pub reason: &'static str,
    /// `Status.message`.
    pub message: String,
    /// `Status.details`.
    pub details: Option<Value>,
    /// `Status.metadata.continue`: how an expired list can go on.
    pub next: Option<String>,
    /// Plain text instead of a `Status`, as for unknown paths.
    pub plain: bool,
}

/// Result of a request.
pub type ApiResult<T> = Result<T, ApiError>;

/// `plural` or `plural.group`.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

fn details(group: &str, kind: &str, name: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            map.insert(key.to_owned(), json!(value));
        }
    }
    map
}

impl ApiError {
    /// An error with a code, a reason and a message.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            code,
            reason,
            message: message.into(),
            details: None,
            next: None,
            plain: false,
        }
    }

    fn with(mut self, details: Map<String, Value>) -> ApiError {
        self.details = Some(Value::Object(details));
        self
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, "BadRequest", message)
    }

    /// 500 with a reason.
    pub fn internal(message: impl std::fmt::Display) -> ApiError {
        ApiError::new(500, "InternalError", format!("Internal error occurred: {message}")).with(
            json!({ "causes": [{ "message": message.to_string() }] })
                .as_object()
                .cloned()
                .unwrap_or_default(),
        )
    }

    /// The path is unknown: plain text, as the real server's mux answers.
    pub fn no_route() -> ApiError {
        ApiError {
            plain: true,
            ..ApiError::new(404, "NotFound", "404 page not found\n")
        }
    }

    /// 404 for a resource that a group of the server itself does not have.
    pub fn no_resource() -> ApiError {
        ApiError::new(404, "NotFound", "the server could not find the requested resource").with(Map::new())
    }

    /// 405 of the router.
    pub fn no_method() -> ApiError {
        ApiError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with(Map::new())
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> ApiError {
        ApiError::new(404, "NotFound", format!("{} \"{name}\" not found", qualified(group, resource))).with(details(group, resource, name))
    }

    /// 409 for a create.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> ApiError {
        ApiError::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", qualified(group, resource)),
        )
        .with(details(group, resource, name))
    }

    /// 409 for an update or a precondition.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", qualified(group, resource));
        ApiError::new(409, "Conflict", message).with(details(group, resource, name))
    }

    /// 409 for an update that was decided on an older version.
    pub fn modified(group: &str, resource: &str, name: &str) -> ApiError {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(group, resource, name, why)
    }

    /// 403.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> ApiError {
        let message = if name.is_empty() && resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{} is forbidden: {why}", qualified(group, resource))
        } else {
            format!("{} \"{name}\" is forbidden: {why}", qualified(group, resource))
        };
        ApiError::new(403, "Forbidden", message).with(details(group, resource, name))
    }

    /// 405.
    pub fn method_not_supported(group: &str, resource: &str, verb: &str) -> ApiError {
        let message = format!("{verb} is not supported on resources of kind \"{}\"", qualified(group, resource));
        ApiError::new(405, "MethodNotAllowed", message).with(details(group, resource, ""))
    }

    /// 422 with one cause per field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> ApiError {
        // The real server lists equal messages once and puts several into brackets.
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = format!("{}: {}", error.field, error.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let joined = if texts.len() == 1 {
            texts.concat()
        } else {
            format!("[{}]", texts.join(", "))
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({ "reason": error.reason.as_str(), "message": error.message, "field": error.field }))
            .collect();
        let mut map = details(group, kind, name);
        map.insert("causes".to_owned(), Value::Array(causes));
        ApiError::new(
            422,
            "Invalid",
            format!("{} \"{name}\" is invalid: {joined}", qualified(group, kind)),
        )
        .with(map)
    }

    /// 410 with the reason `Expired`.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, "Expired", message)
    }

    /// 504: the wanted revision is not reached.
    pub fn too_large_version(wanted: u64, current: u64) -> ApiError {
        let map = json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": 1,
        });
        ApiError::new(
            504,
            "Timeout",
            format!("Timeout: Too large resource version: {wanted}, current: {current}"),
        )
        .with(map.as_object().cloned().unwrap_or_default())
    }

    /// 413.
    pub fn too_large(limit: usize) -> ApiError {
        ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// A store error that no caller has a better word for.
    pub fn from_store(error: &StoreError, group: &str, resource: &str, name: &str) -> ApiError {
        match error {
            StoreError::NotFound => ApiError::not_found(group, resource, name),
            StoreError::Exists => ApiError::already_exists(group, resource, name),
            StoreError::Conflict => ApiError::modified(group, resource, name),
            StoreError::Future { wanted, current } => ApiError::too_large_version(*wanted, *current),
            StoreError::Expired { .. } => ApiError::expired("The resourceVersion for the provided list is too old."),
            other => ApiError::internal(other),
        }
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(next) = &self.next {
            metadata.insert("continue".to_owned(), json!(next));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (kind, body) = if self.plain {
            ("text/plain; charset=utf-8", self.message.clone())
        } else {
            ("application/json", self.status().to_string())
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = code;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if self.code == 504 || self.code == 429 {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
