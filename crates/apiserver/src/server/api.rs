//! The HTTP surface: from a request to the operation it names, and back.

use std::sync::{Arc, Mutex, PoisonError};
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
        let mut warnings = Vec::new();
        let answer = match self.route(request, &path, &mut labels, &mut warnings).await {
            Ok(response) => response,
            Err(error) => {
                let mut response = error.into_response();
                output::warn(response.headers_mut(), &warnings);
                response
            }
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

    /// Answers a request, or refuses it; `warnings` are those that go with a refusal.
    async fn route(
        self: &Arc<Self>,
        request: Request,
        path: &str,
        labels: &mut (&'static str, String),
        warnings: &mut Vec<String>,
    ) -> ApiResult<Response> {
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
        self.resource(request, &info, &resource, verb, &query, &caller, warnings).await
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

    #[allow(clippy::too_many_arguments)]
    async fn resource(
        &self,
        request: Request,
        info: &Arc<ResourceInfo>,
        path: &ResourcePath,
        verb: Verb,
        query: &Query,
        caller: &Caller,
        warnings: &mut Vec<String>,
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
            let (parts, content) = request.into_parts();
            body::accepts(&parts.headers, true)?;
            let wanted = decoded(&parts.headers, &body::read(content).await?, true)?.value;
            let value = request_token::answer(core, info, &path.namespace, &path.name, wanted, options.dry_run)?;
            return Ok(output::respond_value(201, &value, false, &[]));
        }
        let part = match (path.subresource.as_str(), info.special) {
            ("", _) => Part::Main,
            ("status", _) if info.status => Part::Status,
            ("finalize", Special::Namespace) => Part::Finalize,
            ("scale", _) if info.scale.is_some() => Part::Scale,
            // Of a defined kind the object is said to be missing.
            _ if matches!(info.schema, super::registry::Schema::Custom(_)) => {
                return Err(ApiError::not_found(&info.group, &info.resource, &path.name));
            }
            _ => return Err(ApiError::no_route()),
        };
        warnings.extend(info.deprecation.iter().cloned());
        if verb == Verb::Patch {
            // Refuse before anything else what cannot be used.
            patching::accepts(info, &body::media_type(request.headers()))?;
        }
        if matches!(verb, Verb::Update | Verb::Patch) && path.name.is_empty() {
            // Collections of core kinds have no handler at all; those of custom resources have one, which misses the name.
            return Err(if info.custom() {
                ApiError::bad_request("name must be provided")
            } else {
                unsupported()
            });
        }
        let show = Show::parse(Accept::parse(request.headers())?, query)?;
        if part != Part::Main && !matches!(verb, Verb::Get | Verb::Update | Verb::Patch) {
            return Err(unsupported());
        }
        if part == Part::Scale {
            return self.scale(request, info, path, verb, query, show, warnings).await;
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
                Ok(output::respond(200, output::one(info, &object, show), show.accept.yaml, warnings))
            }
            Verb::List => {
                let selection = Selection::parse(info, &path.namespace, query, false)?;
                let (objects, meta) = core.list(info, &selection, query).await?;
                Ok(output::respond(
                    200,
                    output::many(info, &objects, &meta, show),
                    show.accept.yaml,
                    warnings,
                ))
            }
            Verb::Watch => {
                let mut selection = Selection::parse(info, &path.namespace, query, true)?;
                if !path.name.is_empty() {
                    selection = selection.pin(&path.name)?;
                }
                core.watch(info.clone(), selection, query, show).await
            }
            Verb::Create => {
                // A custom resource is created by a POST to any of its paths: the name is that of the body.
                if !path.name.is_empty() && !info.custom() {
                    return Err(unsupported());
                }
                let (parts, content) = request.into_parts();
                body::accepts(&parts.headers, !info.custom())?;
                let bytes = body::read(content).await?;
                let options = WriteOptions::parse(query, &parts.headers, "CreateOptions")?.of(caller);
                let decoded = decoded(&parts.headers, &bytes, !info.custom())?;
                let outcome = core
                    .create(info, &path.namespace, decoded.value, &decoded.duplicates, &options, warnings)
                    .await?;
                Ok(self.written(info, &outcome, 201, show, warnings))
            }
            Verb::Update => {
                let (parts, content) = request.into_parts();
                let bytes = body::read(content).await?;
                let options = WriteOptions::parse(query, &parts.headers, "UpdateOptions")?.of(caller);
                let decoded = decoded(&parts.headers, &bytes, !info.custom())?;
                let change = Change::Replace(&decoded.value, &decoded.duplicates);
                let (outcome, created) = core
                    .update(info, &path.namespace, &path.name, part, &change, &options, warnings)
                    .await?;
                Ok(self.written(info, &outcome, if created { 201 } else { 200 }, show, warnings))
            }
            Verb::Patch => {
                if part == Part::Finalize {
                    return Err(unsupported());
                }
                let media_type = body::media_type(request.headers());
                let (parts, content) = request.into_parts();
                let bytes = body::read(content).await?;
                let options = WriteOptions::parse(query, &parts.headers, "PatchOptions")?.of(caller);
                let patch = patching::parse(info, &media_type, &bytes, &options)?;
                let apply = |old: &Value| patching::apply(info, &patch, old);
                let change = match &patch {
                    Patch::Apply(config, duplicates) => Change::Apply(config, duplicates),
                    _ => Change::Patch(&apply),
                };
                let (outcome, created) = core
                    .update(info, &path.namespace, &path.name, part, &change, &options, warnings)
                    .await?;
                Ok(self.written(info, &outcome, if created { 201 } else { 200 }, show, warnings))
            }
            Verb::Delete => self.delete(request, info, path, query, show, warnings).await,
            Verb::DeleteCollection => {
                if info.special == Special::Namespace {
                    return Err(unsupported());
                }
                let selection = Selection::parse(info, &path.namespace, query, false)?;
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
                    warnings,
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
        if verb == Verb::Get {
            let object = self
                .core
                .store
                .get(&self.core.key(info, &path.namespace, &path.name))
                .ok_or_else(|| ApiError::not_found(&info.group, &info.resource, &path.name))?;
            let object = view(info, &object);
            let missing = || ApiError::internal(format!("the spec replicas field {:?} does not exist", paths.spec_path));
            let value = scale::replicas(paths, &object)
                .ok_or_else(missing)
                .and_then(|_| scale::of(info, paths, &object))?;
            return Ok(output::respond_value(200, &value, show.accept.yaml, warnings));
        }
        let (parts, content) = request.into_parts();
        let bytes = body::read(content).await?;
        let kind = if verb == Verb::Update { "UpdateOptions" } else { "PatchOptions" };
        let options = WriteOptions::parse(query, &parts.headers, kind)?;
        // The change is decided as often as others are faster, so its warnings are those of the last time.
        let told = Mutex::new(Vec::new());
        let tell = |unknown| *told.lock().unwrap_or_else(PoisonError::into_inner) = unknown;
        let update = async |change: Change<'_>, warnings: &mut Vec<String>| {
            self.core
                .update(info, &path.namespace, &path.name, Part::Scale, &change, &options, warnings)
                .await
        };
        let result = if verb == Verb::Update {
            let sent = decoded(&parts.headers, &bytes, true)?.value;
            let wanted = scale::sent(&sent, path, options.field_validation).map(|(wanted, unknown)| {
                tell(unknown);
                wanted
            })?;
            update(Change::Patch(&|old| Ok(wanted.put(paths, old))), warnings).await
        } else {
            match patching::parse(info, &body::media_type(&parts.headers), &bytes, &options)? {
                Patch::Apply(config, duplicates) => {
                    let key = self.core.key(info, &path.namespace, &path.name);
                    if self.core.store.get(&key).is_none() {
                        return Err(ApiError::not_found(&info.group, &info.resource, &path.name));
                    }
                    update(Change::Apply(&scale::configuration(info, paths, &config)?, &duplicates), warnings).await
                }
                patch => {
                    let change = |old: &Value| {
                        let patched = patching::apply(info, &patch, &scale::before(info, paths, old)?)?;
                        let wanted = scale::patched(paths, &patched, path, options.field_validation, tell)?;
                        Ok(wanted.put(paths, old))
                    };
                    update(Change::Patch(&change), warnings).await
                }
            }
        };
        warnings.append(&mut told.lock().unwrap_or_else(PoisonError::into_inner));
        let object = result?.0.value(info);
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

fn decoded(headers: &HeaderMap, bytes: &[u8], typed: bool) -> ApiResult<body::Decoded> {
    body::accepts(headers, typed)?;
    if bytes.is_empty() {
        return Err(ApiError::bad_request("the body of the request is empty; send an object"));
    }
    body::decode(headers, bytes, typed)
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
pub fn tagged(headers: &HeaderMap, body: impl Into<Vec<u8>>, content_type: &str) -> Response {
    let body = body.into();
    let tag = discovery::etag(&body);
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value == tag);
    let mut response = Response::new(if known { Body::empty() } else { Body::from(body) });
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
