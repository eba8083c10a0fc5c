//! OpenAPI documents of what is served, made when somebody asks and kept until the registry changes.

use axum::response::Response;
use http::HeaderMap;

use super::registry::Registry;
use super::status::{ApiError, ApiResult};

/// The documents made so far.
#[derive(Default)]
pub struct Documents {}

impl Documents {
    /// Answers a path below `/openapi`.
    pub fn serve(&self, _registry: &Registry, _path: &[&str], _headers: &HeaderMap) -> ApiResult<Response> {
        Err(ApiError::no_route())
    }
}
