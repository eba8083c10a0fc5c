//! Reviews: questions about identity and rights that are answered and not stored.

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Value, json};

use super::auth::{Attempt, Authorizer, Identity};
use super::body;
use super::output;
use super::request::{ResourcePath, Verb};
use super::status::ApiResult;

/// The kinds of review that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// May I?
    SelfAccess,
    /// May they?
    Access,
    /// What may I?
    SelfRules,
    /// Who am I?
    SelfSubject,
}

/// The review that a request asks for, if any.
pub fn route(path: &ResourcePath, verb: Verb) -> Option<Review> {
    if verb != Verb::Create || path.version != "v1" || !path.name.is_empty() {
        return None;
    }
    match (path.group.as_str(), path.resource.as_str()) {
        ("authorization.k8s.io", "selfsubjectaccessreviews") => Some(Review::SelfAccess),
        ("authorization.k8s.io", "subjectaccessreviews") => Some(Review::Access),
        ("authorization.k8s.io", "localsubjectaccessreviews") if !path.namespace.is_empty() => Some(Review::Access),
        ("authorization.k8s.io", "selfsubjectrulesreviews") => Some(Review::SelfRules),
        ("authentication.k8s.io", "selfsubjectreviews") => Some(Review::SelfSubject),
        _ => None,
    }
}

fn verb_named(name: &str) -> Option<Verb> {
    [
        Verb::Get,
        Verb::List,
        Verb::Watch,
        Verb::Create,
        Verb::Update,
        Verb::Patch,
        Verb::Delete,
        Verb::DeleteCollection,
    ]
    .into_iter()
    .find(|verb| verb.as_str() == name)
}

fn check(authorizer: &dyn Authorizer, identity: &Identity, spec: &Value) -> Result<(), String> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(resource) = spec.get("resourceAttributes").filter(|value| value.is_object()) {
        let fields = ["group", "resource", "subresource", "namespace", "name"].map(|field| text(resource, field));
        // `*` asks for every verb; one that would be refused refuses all.
        let wanted = text(resource, "verb");
        let verbs: Vec<Verb> = match wanted.as_str() {
            "*" => vec![
                Verb::Get,
                Verb::List,
                Verb::Watch,
                Verb::Create,
                Verb::Update,
                Verb::Patch,
                Verb::Delete,
                Verb::DeleteCollection,
            ],
            name => verb_named(name).into_iter().collect(),
        };
        if verbs.is_empty() {
            return authorizer.authorize(identity, &Attempt::Path { verb: &wanted, path: "" });
        }
        return verbs.into_iter().try_for_each(|verb| {
            authorizer.authorize(
                identity,
                &Attempt::Resource {
                    verb,
                    group: &fields[0],
                    resource: &fields[1],
                    subresource: &fields[2],
                    namespace: &fields[3],
                    name: &fields[4],
                },
            )
        });
    }
    let attributes = spec.get("nonResourceAttributes").cloned().unwrap_or(Value::Null);
    authorizer.authorize(
        identity,
        &Attempt::Path {
            verb: &text(&attributes, "verb"),
            path: &text(&attributes, "path"),
        },
    )
}

/// Answers a review.
pub async fn answer(authorizer: &dyn Authorizer, identity: &Identity, review: Review, request: Request) -> ApiResult<Response> {
    let (parts, content) = request.into_parts();
    let bytes = body::read(content).await?;
    let mut value = body::decode(&parts.headers, &bytes, true)?.value;
    if !value.is_object() {
        return Err(super::status::ApiError::bad_request("the body of a review must be an object"));
    }
    let spec = value.get("spec").cloned().unwrap_or_else(|| json!({}));
    let (kind, group) = match review {
        Review::SelfAccess => ("SelfSubjectAccessReview", "authorization.k8s.io/v1"),
        Review::Access => ("SubjectAccessReview", "authorization.k8s.io/v1"),
        Review::SelfRules => ("SelfSubjectRulesReview", "authorization.k8s.io/v1"),
        Review::SelfSubject => ("SelfSubjectReview", "authentication.k8s.io/v1"),
    };
    if value.get("kind").is_none() {
        value["kind"] = json!(kind);
    }
    value["apiVersion"] = json!(group);
    if !value["metadata"].is_object() {
        value["metadata"] = json!({ "creationTimestamp": null });
    }
    value["status"] = match review {
        Review::SelfAccess | Review::Access => {
            let other;
            let who = if review == Review::Access {
                let groups: Vec<String> = spec
                    .get("groups")
                    .and_then(Value::as_array)
                    .map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                    .unwrap_or_default();
                other = Identity::new(spec.get("user").and_then(Value::as_str).unwrap_or_default(), groups);
                &other
            } else {
                identity
            };
            match check(authorizer, who, &spec) {
                Ok(()) => json!({ "allowed": true }),
                Err(why) => json!({ "allowed": false, "reason": why }),
            }
        }
        Review::SelfRules => {
            let everything = authorizer
                .authorize(
                    identity,
                    &Attempt::Resource {
                        verb: Verb::Get,
                        group: "*",
                        resource: "*",
                        subresource: "",
                        namespace: "",
                        name: "",
                    },
                )
                .is_ok();
            let (resource, other) = if everything {
                (
                    json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }]),
                    json!([{ "verbs": ["*"], "nonResourceURLs": ["*"] }]),
                )
            } else {
                (json!([]), json!([]))
            };
            json!({ "resourceRules": resource, "nonResourceRules": other, "incomplete": !everything })
        }
        Review::SelfSubject => json!({ "userInfo": { "username": identity.user, "groups": identity.groups } }),
    };
    Ok(output::respond_value(201, &value, false, &[]))
}
