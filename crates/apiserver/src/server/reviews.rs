//! Reviews: questions about identity and rights that are answered and not stored.
//!
//! They are answered by the evaluator that decides requests, so that what is told and what is done cannot differ.

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};

use super::access::rules::{Attempt, Rule};
use super::access::{Decision, joined};
use super::body;
use super::core::Core;
use super::identity::Identity;
use super::identity::tokens::ISSUER;
use super::metadata::now_text;
use super::output;
use super::request::{ResourcePath, Verb};
use super::status::{ApiError, ApiResult};
use crate::schema::FieldError;

/// A kind of review.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// May I?
    SelfAccess,
    /// May they?
    Access,
    /// May they, in this namespace?
    LocalAccess,
    /// What may I?
    SelfRules,
    /// Who am I?
    SelfSubject,
    /// Whose is this token?
    Token,
}

const ALL: [Review; 6] = [
    Review::SelfAccess,
    Review::Access,
    Review::LocalAccess,
    Review::SelfRules,
    Review::SelfSubject,
    Review::Token,
];

impl Review {
    /// The reviews of a group's version `v1`.
    pub fn of(group: &str) -> impl Iterator<Item = Review> {
        ALL.into_iter().filter(move |review| review.group() == group)
    }

    /// Its API group.
    pub fn group(self) -> &'static str {
        match self {
            Review::SelfSubject | Review::Token => "authentication.k8s.io",
            _ => "authorization.k8s.io",
        }
    }

    /// Its kind.
    pub fn kind(self) -> &'static str {
        match self {
            Review::SelfAccess => "SelfSubjectAccessReview",
            Review::Access => "SubjectAccessReview",
            Review::LocalAccess => "LocalSubjectAccessReview",
            Review::SelfRules => "SelfSubjectRulesReview",
            Review::SelfSubject => "SelfSubjectReview",
            Review::Token => "TokenReview",
        }
    }

    /// Its plural name.
    pub fn resource(self) -> String {
        format!("{}s", self.kind().to_lowercase())
    }

    /// Whether it is asked in a namespace.
    pub fn namespaced(self) -> bool {
        self == Review::LocalAccess
    }
}

/// The review at a path, if any. It is created and nothing else: there is no object to read, change or delete.
pub fn route(path: &ResourcePath, verb: Verb) -> Option<ApiResult<Review>> {
    if path.version != "v1" || !path.name.is_empty() {
        return None;
    }
    let mut reviews = Review::of(&path.group);
    let review = reviews.find(|review| review.resource() == path.resource && review.namespaced() != path.namespace.is_empty())?;
    Some(match verb {
        Verb::Create => Ok(review),
        _ => Err(ApiError::no_method()),
    })
}

fn word<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let list = value.get(field).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What an access review asks about: exactly one of a resource and a path.
fn attempt(spec: &Value) -> Option<Attempt<'_>> {
    let object = |field: &str| spec.get(field).filter(|value| value.is_object());
    if let Some(resource) = object("resourceAttributes") {
        return Some(Attempt::Resource {
            verb: word(resource, "verb"),
            group: word(resource, "group"),
            resource: word(resource, "resource"),
            subresource: word(resource, "subresource"),
            namespace: word(resource, "namespace"),
            name: word(resource, "name"),
        });
    }
    object("nonResourceAttributes").map(|path| Attempt::Path {
        verb: word(path, "verb"),
        path: word(path, "path"),
    })
}

/// What is wrong with an access review.
fn faults(review: Review, namespace: &str, value: &Value, spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = |field: &str| spec.get(field).is_some_and(Value::is_object);
    let shown = |field: &str| spec.get(field).cloned().unwrap_or(Value::Null);
    match (given("resourceAttributes"), given("nonResourceAttributes")) {
        (true, true) => errors.push(FieldError::invalid(
            "spec.nonResourceAttributes",
            &shown("nonResourceAttributes"),
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => errors.push(FieldError::invalid(
            "spec.resourceAttributes",
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => {}
    }
    if review == Review::SelfAccess {
        return errors;
    }
    if word(spec, "user").is_empty() && texts(spec, "groups").is_empty() {
        errors.push(FieldError::invalid(
            "spec.user",
            &json!(""),
            "at least one of user or group must be specified",
        ));
    }
    if review == Review::LocalAccess {
        let own = value
            .pointer("/spec/resourceAttributes/namespace")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if given("resourceAttributes") && own != namespace {
            errors.push(FieldError::invalid(
                "spec.resourceAttributes.namespace",
                &json!(own),
                "must match metadata.namespace",
            ));
        }
        if given("nonResourceAttributes") {
            errors.push(FieldError::invalid(
                "spec.nonResourceAttributes",
                &shown("nonResourceAttributes"),
                "disallowed on this kind of request",
            ));
        }
    }
    errors
}

fn rules_of(core: &Core, identity: &Identity, namespace: &str) -> Value {
    let (rules, errors) = core.access.index().rules_for(identity, namespace);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in rules {
        if !rule.resources.is_empty() {
            resources.push(json!(Rule {
                non_resource_urls: Vec::new(),
                ..rule.clone()
            }));
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
        }
    }
    let mut status = json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false });
    if !errors.is_empty() {
        status["evaluationError"] = json!(joined(&errors));
    }
    status
}

fn token_status(core: &Core, spec: &Value) -> ApiResult<Value> {
    let token = word(spec, "token");
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = texts(spec, "audiences");
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    Ok(
        match core.tokens.authenticate(&core.store, token, &audiences, jiff::Timestamp::now()) {
            Ok((identity, audiences)) => json!({ "authenticated": true, "user": identity.info(), "audiences": audiences }),
            Err(why) if why == "invalid bearer token" => json!({ "user": {}, "error": why }),
            // The real server asks several authenticators, the last of which knows no token at all.
            Err(why) => json!({ "user": {}, "error": joined(&["invalid bearer token".to_owned(), why]) }),
        },
    )
}

/// Answers a review.
pub async fn answer(core: &Core, identity: &Identity, review: Review, namespace: &str, request: Request) -> ApiResult<Response> {
    let (parts, content) = request.into_parts();
    let bytes = body::read(content).await?;
    let mut value = body::decode(&parts.headers, &bytes, true)?.value;
    if !value.is_object() {
        return Err(ApiError::bad_request("the body of a review must be an object"));
    }
    let kind = word(&value, "kind");
    if !kind.is_empty() && kind != review.kind() {
        return Err(ApiError::bad_request(format!("the kind {kind} is not served at this path")));
    }
    value["kind"] = json!(review.kind());
    value["apiVersion"] = json!(format!("{}/v1", review.group()));
    if !value["metadata"].is_object() {
        value["metadata"] = json!({});
    }
    if review.namespaced() {
        value["metadata"]["namespace"] = json!(namespace);
    }
    let spec = value.get("spec").cloned().unwrap_or_else(|| json!({}));
    value["status"] = match review {
        Review::SelfAccess | Review::Access | Review::LocalAccess => {
            let errors = faults(review, namespace, &value, &spec);
            let Some(attempt) = attempt(&spec).filter(|_| errors.is_empty()) else {
                // The real server leaves the kind out.
                return Err(ApiError::invalid(review.group(), "", "", &errors));
            };
            let other = Identity::new(word(&spec, "user"), texts(&spec, "groups"));
            let who = if review == Review::SelfAccess { identity } else { &other };
            let (allowed, reason) = match core.access.decide(who, &attempt) {
                Decision::Allowed(by) => (true, by),
                Decision::Denied(why) => (false, why),
            };
            let mut status = json!({ "allowed": allowed });
            if !reason.is_empty() {
                status["reason"] = json!(reason);
            }
            status
        }
        Review::SelfRules => {
            let namespace = word(&spec, "namespace");
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            value["spec"] = json!({});
            rules_of(core, identity, namespace)
        }
        Review::SelfSubject => {
            value["metadata"] = json!({ "creationTimestamp": now_text() });
            json!({ "userInfo": identity.info() })
        }
        Review::Token => token_status(core, &spec)?,
    };
    Ok(output::respond_value(201, &value, false, &[]))
}
