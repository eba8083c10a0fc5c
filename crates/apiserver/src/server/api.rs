//! The HTTP surface: from a request to the operation it names, and back.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Value, json};

use super::access::caller::Caller;
use super::access::rules::Attempt;
use super::body;
use super::core::{Core, view};
use super::delete::{DeleteOptions, Deleted};
use super::discovery;
use super::identity::tokens::ISSUER;
use super::identity::{Identity, bearer, impersonation, is_public, request_token};
use super::metrics::{RequestLabels, VerbLabels};
use super::output::{self, Show};
use super::patching::{self, Patch};
use super::registry::{ResourceInfo, Special};
use super::request::{Accept, Query, ResourcePath, Verb, WriteOptions, percent_decode, verb_of};
use super::scale;
use super::selector::FieldSelector;
use super::status::{ApiError, ApiResult};
use super::watch::Selection;
use super::write::{Change, Outcome, Part};
use crate::schema::names::path_segment;

/// What the surface needs besides the core.
pub struct Surface {
    /// The core.
    pub core: Arc<Core>,
    /// Generated OpenAPI documents.
    pub openapi: super::openapi::Documents,
    /// `host:port` for discovery.
    pub address: String,
}

impl Surface {
    /// Answers a request.
    pub async fn handle(self: Arc<Self>, request: Request) -> Response {
        let started = Instant::now();
        let path = request.uri().path().to_owned();
        let mut labels = ("other", String::new());
        let answer = match self.route(request, &path, &mut labels).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        };
        let (verb, resource) = labels;
        let code = answer.status().as_u16();
        self.core
            .metrics
            .requests
            .get_or_create(&RequestLabels { verb, resource, code })
            .inc();
        if verb != "watch" {
            self.core
                .metrics
                .latency
                .get_or_create(&VerbLabels { verb })
                .observe(started.elapsed().as_secs_f64());
        }
        answer
    }

    async fn route(self: &Arc<Self>, request: Request, path: &str, labels: &mut (&'static str, String)) -> ApiResult<Response> {
        if is_public(path) {
            return self.public(path, request.method());
        }
        let identity = Arc::new(self.identify(&request)?);
        let query = Query::parse(request.uri().query())?;
        let resource = ResourcePath::parse(path).filter(|_| path.starts_with("/api"));
        let Some(resource) = resource else {
            return self.plain(path, request.method(), request.headers(), &identity);
        };
        let Some(verb) = verb_of(request.method(), &resource, &query) else {
            return Err(ApiError::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        };
        labels.0 = verb.as_str();
        let name = asked_name(&resource, verb, &query);
        self.core.access.authorize(&identity, &attempt(&resource, verb, &name))?;
        if let Some(review) = super::reviews::route(&resource, verb) {
            return super::reviews::answer(&self.core, &identity, review?, &resource.namespace, request).await;
        }
        let Some(info) = self.core.registry().get(&resource.group, &resource.version, &resource.resource) else {
            return Err(if resource.group.is_empty() && resource.version == "v1" {
                ApiError::no_resource()
            } else {
                ApiError::no_route()
            });
        };
        labels.1 = info.qualified();
        let caller = Caller::new(self.core.access.clone(), identity, &resource.name);
        self.resource(request, &info, &resource, verb, &query, &caller).await
    }

    /// Who sends a request, and for whom.
    fn identify(&self, request: &Request) -> ApiResult<Identity> {
        let requestor = match request.extensions().get::<Identity>() {
            Some(identity) => identity.clone(),
            None => {
                let unauthorized = || ApiError::new(401, "Unauthorized", "Unauthorized");
                let token = bearer(request.headers()).ok_or_else(unauthorized)?;
                let core = &self.core;
                core.tokens
                    .authenticate(&core.store, token, &[ISSUER.to_owned()], jiff::Timestamp::now())
                    .map_err(|why| {
                        tracing::debug!(why, "a request's token is worth nothing");
                        unauthorized()
                    })?
                    .0
            }
        };
        impersonation::resolve(&self.core.access, requestor, request.headers())
    }

    fn public(&self, path: &str, method: &Method) -> ApiResult<Response> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ApiError::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
        if path == "/version" {
            return Ok(output::respond_value(200, &super::version(), false, &[]));
        }
        if self.core.store.healthy() && !self.core.stop.is_cancelled() {
            return Ok((plain_headers(), "ok").into_response());
        }
        Ok((
            http::StatusCode::INTERNAL_SERVER_ERROR,
            plain_headers(),
            "[-]store failed: it takes no more writes\n",
        )
            .into_response())
    }

    fn plain(&self, path: &str, method: &Method, headers: &HeaderMap, identity: &Identity) -> ApiResult<Response> {
        let verb = method.as_str().to_lowercase();
        let decoded = percent_decode(path).ok_or_else(|| ApiError::bad_request(format!("invalid URL escape in path: {path:?}")))?;
        self.core.access.authorize(
            identity,
            &Attempt::Path {
                verb: &verb,
                path: &decoded,
            },
        )?;
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(ApiError::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            ));
        }
        let registry = self.core.registry();
        let trimmed = path.trim_end_matches('/');
        let parts: Vec<&str> = trimmed.split('/').skip(1).collect();
        let value = match parts.as_slice() {
            ["api"] | ["apis"] => {
                let core = parts == ["api"];
                let form = discovery::Form::parse(headers);
                let value = match (form, core) {
                    (discovery::Form::Aggregated(version), _) => discovery::aggregated(&registry, core, version),
                    (discovery::Form::Plain, true) => discovery::core_versions(&self.address),
                    (discovery::Form::Plain, false) => discovery::groups(&registry),
                };
                return Ok(tagged(headers, value.to_string(), form.content_type()));
            }
            ["api", version] => discovery::resources(&registry, "", version).ok_or_else(ApiError::no_route)?,
            ["apis", group] => discovery::one_group(&registry, group).ok_or_else(ApiError::no_route)?,
            ["apis", group, version] => discovery::resources(&registry, group, version).ok_or_else(ApiError::no_route)?,
            [".well-known", "openid-configuration"] => json!({
                "issuer": ISSUER, "jwks_uri": format!("https://{}/openid/v1/jwks", self.address), "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
            }),
            ["openid", "v1", "jwks"] => {
                return Ok(tagged(headers, self.core.tokens.key_set().to_string(), "application/jwk-set+json"));
            }
            ["openapi", rest @ ..] => return self.openapi.serve(&registry, rest, headers),
            [] | [""] => {
                let mut paths: Vec<String> = [
                    "/.well-known/openid-configuration",
                    "/api",
                    "/api/v1",
                    "/apis",
                    "/healthz",
                    "/livez",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/openid/v1/jwks",
                    "/readyz",
                    "/version",
                ]
                .map(str::to_owned)
                .to_vec();
                for (group, versions) in registry.groups.iter().filter(|(group, _)| !group.is_empty()) {
                    paths.push(format!("/apis/{group}"));
                    paths.extend(versions.iter().map(|(version, _)| format!("/apis/{group}/{version}")));
                }
                paths.sort();
                json!({ "paths": paths })
            }
            _ => return Err(ApiError::no_route()),
        };
        Accept::parse(headers)?;
        Ok(output::respond_value(200, &value, false, &[]))
    }

    async fn resource(
        &self,
        request: Request,
        info: &Arc<ResourceInfo>,
        path: &ResourcePath,
        verb: Verb,
        query: &Query,
        caller: &Caller,
    ) -> ApiResult<Response> {
        let core = &self.core;
        let unsupported = || match info.custom() {
            true => ApiError::method_not_supported(&info.group, &info.resource, verb.as_str()),
            // Core kinds have no handler to refuse it: the real server's router does.
            false => ApiError::no_method(),
        };
        if info.namespaced && path.namespace.is_empty() && !matches!(verb, Verb::List | Verb::Watch) {
            return Err(ApiError::no_route());
        }
        if !info.namespaced && !path.namespace.is_empty() {
            return Err(ApiError::no_route());
        }
        if info.special == Special::ServiceAccount && path.subresource == "token" {
            if verb != Verb::Create {
                return Err(unsupported());
            }
            let options = WriteOptions::parse(query, request.headers(), "CreateOptions")?;
            let wanted = decoded(request, true).await?.value;
            let value = request_token::answer(core, info, &path.namespace, &path.name, wanted, options.dry_run)?;
            return Ok(output::respond_value(201, &value, false, &[]));
        }
        let part = match (path.subresource.as_str(), info.special) {
            ("", _) => Part::Main,
            ("status", _) if info.status => Part::Status,
            ("finalize", Special::Namespace) => Part::Finalize,
            ("scale", _) if info.scale.is_some() => Part::Scale,
            _ => return Err(ApiError::no_route()),
        };
        let show = Show::parse(Accept::parse(request.headers())?, query)?;
        let mut warnings: Vec<String> = info.deprecation.iter().cloned().collect();
        if part != Part::Main && !matches!(verb, Verb::Get | Verb::Update | Verb::Patch) {
            return Err(unsupported());
        }
        if part == Part::Scale {
            return self.scale(request, info, path, verb, query, show, &mut warnings).await;
        }
        match verb {
            Verb::Get => {
                let wanted = query.get("resourceVersion").parse().unwrap_or(0);
                let current = core.store.revision();
                if wanted > current {
                    return Err(ApiError::too_large_version(wanted, current));
                }
                let object = core
                    .store
                    .get(&core.key(info, &path.namespace, &path.name))
                    .ok_or_else(|| ApiError::not_found(&info.group, &info.resource, &path.name))?;
                Ok(output::respond(200, output::one(info, &object, show), show.accept.yaml, &warnings))
            }
            Verb::List => {
                let selection = Selection::parse(info, &path.namespace, query)?;
                let (objects, meta) = core.list(info, &selection, query).await?;
                Ok(output::respond(
                    200,
                    output::many(info, &objects, &meta, show),
                    show.accept.yaml,
                    &warnings,
                ))
            }
            Verb::Watch => {
                let mut selection = Selection::parse(info, &path.namespace, query)?;
                if !path.name.is_empty() {
                    selection = selection.pin(&path.name)?;
                }
                core.watch(info.clone(), selection, query, show).await
            }
            Verb::Create => {
                if !path.name.is_empty() {
                    return Err(unsupported());
                }
                let options = WriteOptions::parse(query, request.headers(), "CreateOptions")?.of(caller);
                let decoded = decoded(request, !info.custom()).await?;
                let outcome = core
                    .create(info, &path.namespace, decoded.value, &decoded.duplicates, &options, &mut warnings)
                    .await?;
                Ok(self.written(info, &outcome, 201, show, &warnings))
            }
            Verb::Update => {
                if path.name.is_empty() {
                    return Err(unsupported());
                }
                let options = WriteOptions::parse(query, request.headers(), "UpdateOptions")?.of(caller);
                let decoded = decoded(request, !info.custom()).await?;
                let change = Change::Replace(&decoded.value, &decoded.duplicates);
                let (outcome, created) = core
                    .update(info, &path.namespace, &path.name, part, &change, &options, &mut warnings)
                    .await?;
                Ok(self.written(info, &outcome, if created { 201 } else { 200 }, show, &warnings))
            }
            Verb::Patch => {
                if path.name.is_empty() || part == Part::Finalize {
                    return Err(unsupported());
                }
                let options = WriteOptions::parse(query, request.headers(), "PatchOptions")?.of(caller);
                let media_type = body::media_type(request.headers());
                // Refuse before reading what cannot be used.
                patching::accepts(info, &media_type)?;
                let bytes = body::read(request.into_body()).await?;
                let patch = patching::parse(info, &media_type, &bytes, &options)?;
                let apply = |old: &Value| patching::apply(info, &patch, old);
                let change = match &patch {
                    Patch::Apply(config, duplicates) => Change::Apply(config, duplicates),
                    _ => Change::Patch(&apply),
                };
                let (outcome, created) = core
                    .update(info, &path.namespace, &path.name, part, &change, &options, &mut warnings)
                    .await?;
                Ok(self.written(info, &outcome, if created { 201 } else { 200 }, show, &warnings))
            }
            Verb::Delete => self.delete(request, info, path, query, show, &warnings).await,
            Verb::DeleteCollection => {
                if info.special == Special::Namespace {
                    return Err(unsupported());
                }
                let selection = Selection::parse(info, &path.namespace, query)?;
                let options = delete_options(request, query, !info.custom()).await?;
                let (objects, meta) = core.list(info, &selection, query).await?;
                let mut deleted = Vec::new();
                for object in objects {
                    let mut options = options.clone();
                    options.uid.get_or_insert_with(|| object.meta.uid.to_string());
                    match core.delete(info, object.key.namespace(), object.key.name(), &options).await {
                        Ok(_) => deleted.push(object),
                        Err(error) if error.code == 404 => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(output::respond(
                    200,
                    output::many(info, &deleted, &meta, show),
                    show.accept.yaml,
                    &warnings,
                ))
            }
        }
    }

    fn written(&self, info: &ResourceInfo, outcome: &Outcome, code: u16, show: Show, warnings: &[String]) -> Response {
        match outcome {
            Outcome::Stored(object) => output::respond(code, output::one(info, object, show), show.accept.yaml, warnings),
            Outcome::Value(value) => output::respond_value(code, &output::one_value(info, value, show, true), show.accept.yaml, warnings),
        }
    }

    async fn delete(
        &self,
        request: Request,
        info: &ResourceInfo,
        path: &ResourcePath,
        query: &Query,
        show: Show,
        warnings: &[String],
    ) -> ApiResult<Response> {
        let options = delete_options(request, query, !info.custom()).await?;
        match self.core.delete(info, &path.namespace, &path.name, &options).await? {
            Deleted::Gone(value) if info.special == Special::ServiceAccount => Ok(output::respond_value(
                200,
                &output::one_value(info, &value, show, true),
                show.accept.yaml,
                warnings,
            )),
            Deleted::Gone(value) => {
                let mut details = json!({ "name": path.name, "kind": info.resource, "uid": super::metadata::text(&value, "uid") });
                if !info.group.is_empty() {
                    details["group"] = json!(info.group);
                }
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
                Ok(output::respond_value(200, &status, show.accept.yaml, warnings))
            }
            Deleted::Marked(outcome) => Ok(self.written(info, &outcome, if options.accepted { 202 } else { 200 }, show, warnings)),
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn scale(
        &self,
        request: Request,
        info: &ResourceInfo,
        path: &ResourcePath,
        verb: Verb,
        query: &Query,
        show: Show,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Response> {
        let Some(paths) = &info.scale else {
            return Err(ApiError::no_route());
        };
        let outcome = match verb {
            Verb::Get => {
                let object = self
                    .core
                    .store
                    .get(&self.core.key(info, &path.namespace, &path.name))
                    .ok_or_else(|| ApiError::not_found(&info.group, &info.resource, &path.name))?;
                Outcome::Stored(object)
            }
            Verb::Update => {
                let options = WriteOptions::parse(query, request.headers(), "UpdateOptions")?;
                let sent = decoded(request, !info.custom()).await?.value;
                let change = |old: &Value| scale::apply(info, paths, &sent, old);
                self.core
                    .update(
                        info,
                        &path.namespace,
                        &path.name,
                        Part::Scale,
                        &Change::Patch(&change),
                        &options,
                        warnings,
                    )
                    .await?
                    .0
            }
            _ => {
                let options = WriteOptions::parse(query, request.headers(), "PatchOptions")?;
                let media_type = body::media_type(request.headers());
                patching::accepts(info, &media_type)?;
                let bytes = body::read(request.into_body()).await?;
                let patch = patching::parse(info, &media_type, &bytes, &options)?;
                let change = |old: &Value| {
                    let now = scale::of(info, paths, old)?;
                    let wanted = match &patch {
                        // The count is the only field that can be applied.
                        Patch::Apply(config, _) => crate::patch::merge_patch(&now, config).map_err(patching::patch_error)?,
                        other => patching::apply(info, other, &now)?,
                    };
                    scale::apply(info, paths, &wanted, old)
                };
                self.core
                    .update(
                        info,
                        &path.namespace,
                        &path.name,
                        Part::Scale,
                        &Change::Patch(&change),
                        &options,
                        warnings,
                    )
                    .await?
                    .0
            }
        };
        let object = match &outcome {
            Outcome::Stored(object) => view(info, object),
            Outcome::Value(value) => value.clone(),
        };
        Ok(output::respond_value(
            200,
            &scale::of(info, paths, &object)?,
            show.accept.yaml,
            warnings,
        ))
    }
}

/// The name that a request is about: a list of one object, chosen by its name, is about that one.
fn asked_name(path: &ResourcePath, verb: Verb, query: &Query) -> String {
    if path.name.is_empty() && !path.watch_prefix && matches!(verb, Verb::List | Verb::Watch) {
        let selector = FieldSelector::parse(query.get("fieldSelector"), &|_| true).unwrap_or_default();
        let name = selector.pinned_name().unwrap_or_default();
        if path_segment(name, false).is_empty() {
            return name.to_owned();
        }
    }
    path.name.clone()
}

/// What a request tries, as roles see it.
fn attempt<'a>(path: &'a ResourcePath, verb: Verb, name: &'a str) -> Attempt<'a> {
    Attempt::Resource {
        verb: verb.as_str(),
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        // A namespace lies in itself: a role in it can allow to read it.
        namespace: if path.resource == "namespaces" && path.namespace.is_empty() {
            &path.name
        } else {
            &path.namespace
        },
        name,
    }
}

fn plain_headers() -> [(header::HeaderName, &'static str); 2] {
    [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ]
}

async fn decoded(request: Request, typed: bool) -> ApiResult<body::Decoded> {
    let (parts, content) = request.into_parts();
    body::accepts(&parts.headers, typed)?;
    let bytes = body::read(content).await?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request("the body of the request is empty; send an object"));
    }
    body::decode(&parts.headers, &bytes, typed)
}

async fn delete_options(request: Request, query: &Query, typed: bool) -> ApiResult<DeleteOptions> {
    let (parts, content) = request.into_parts();
    let bytes = body::read(content).await?;
    if bytes.is_empty() {
        return DeleteOptions::parse(None, query);
    }
    let decoded = body::decode(&parts.headers, &bytes, typed)?;
    DeleteOptions::parse(Some(&decoded.value), query)
}

/// An answer with an entity tag, or 304.
pub fn tagged(headers: &HeaderMap, text: String, content_type: &str) -> Response {
    let tag = discovery::etag(text.as_bytes());
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value == tag);
    let mut response = Response::new(if known { Body::empty() } else { Body::from(text) });
    if known {
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
    }
    for (name, value) in [
        (header::ETAG, tag.as_str()),
        (header::CONTENT_TYPE, content_type),
        (header::VARY, "Accept"),
        (header::CACHE_CONTROL, "public"),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
