//! `serviceaccounts/NAME/token`: a token for an account, for a while.

use serde_json::{Value, json};

use super::tokens::{Bound, Claims, ISSUER, Ref, SECRETS};
use crate::schema::FieldError;
use crate::server::core::Core;
use crate::server::metadata::{text, time_text};
use crate::server::registry::ResourceInfo;
use crate::server::status::{ApiError, ApiResult};
use crate::store::Key;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
/// A token lives for an hour unless something else is asked for.
const LIFETIME: i64 = 3600;
const SHORTEST: i64 = 600;

/// Makes the token that a TokenRequest asks for; the answer is the request with its status. Nothing is stored.
pub fn answer(core: &Core, info: &ResourceInfo, namespace: &str, name: &str, mut request: Value, dry_run: bool) -> ApiResult<Value> {
    for (field, value, wanted) in [
        ("apiVersion", "authentication.k8s.io/v1", request.get("apiVersion")),
        ("kind", KIND, request.get("kind")),
    ] {
        if wanted.is_some_and(|given| given != value) {
            return Err(ApiError::bad_request(format!("{field} of the body must be {value}")));
        }
    }
    let invalid = |name: &str, error: FieldError| ApiError::invalid(GROUP, KIND, name, &[error]);
    for (field, wanted, what) in [("name", name, "name"), ("namespace", namespace, "namespace")] {
        let given = text(&request, field);
        if !given.is_empty() && given != wanted {
            let why = format!("must match the service account {what} if specified");
            return Err(invalid(name, FieldError::invalid(format!("metadata.{field}"), &json!(given), &why)));
        }
    }
    let account = core
        .store
        .get(&core.key(info, namespace, name))
        .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
    let uid = account.meta.uid.to_string();
    let given = text(&request, "uid");
    if !given.is_empty() && given != uid {
        let why = format!("the UID in the token request ({given}) does not match the UID of the service account ({uid})");
        return Err(ApiError::conflict(GROUP, KIND, name, &why));
    }

    let spec = request.get("spec").cloned().unwrap_or(Value::Null);
    let lifetime = match spec.get("expirationSeconds") {
        None | Some(Value::Null) => LIFETIME,
        Some(value) => value
            .as_i64()
            .ok_or_else(|| ApiError::bad_request("spec.expirationSeconds must be a number"))?,
    };
    let path = "spec.expirationSeconds";
    if lifetime < SHORTEST {
        let why = "may not specify a duration less than 10 minutes";
        return Err(invalid("", FieldError::invalid(path, &json!(lifetime), why)));
    }
    if lifetime > 1 << 32 {
        let why = "may not specify a duration larger than 2^32 seconds";
        return Err(invalid("", FieldError::invalid(path, &json!(lifetime), why)));
    }
    let texts = spec.get("audiences").and_then(Value::as_array).into_iter().flatten();
    let mut audiences: Vec<String> = texts.filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let bound = spec.get("boundObjectRef").filter(|value| value.is_object());
    let secret = bound.map(|bound| bound_secret(core, namespace, bound)).transpose()?;

    let now = jiff::Timestamp::now();
    let seconds = now.as_second();
    let claims = Claims {
        aud: audiences.clone(),
        exp: seconds + lifetime,
        iat: seconds,
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: Bound {
            namespace: namespace.to_owned(),
            secret,
            serviceaccount: Ref {
                name: name.to_owned(),
                uid: uid.clone(),
            },
        },
        nbf: seconds,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let token = if dry_run {
        String::new()
    } else {
        core.tokens
            .issue(&claims)
            .ok_or_else(|| ApiError::internal("failed to generate token: the system gives no random numbers"))?
    };
    let ends = jiff::Timestamp::from_second(seconds + lifetime).map_err(ApiError::internal)?;
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["kind"] = json!(KIND);
    if !request["metadata"].is_object() {
        request["metadata"] = json!({});
    }
    for (field, value) in [
        ("name", name),
        ("namespace", namespace),
        ("uid", uid.as_str()),
        ("creationTimestamp", time_text(now).as_str()),
    ] {
        request["metadata"][field] = json!(value);
    }
    request["spec"] = json!({
        "audiences": audiences, "expirationSeconds": lifetime, "boundObjectRef": bound.cloned().unwrap_or(Value::Null),
    });
    request["status"] = json!({ "token": token, "expirationTimestamp": time_text(ends) });
    Ok(request)
}

/// The Secret whose end is to be the token's end. Tokens of pods and nodes are not made: there are none.
fn bound_secret(core: &Core, namespace: &str, bound: &Value) -> ApiResult<Ref> {
    let part = |field: &str| bound.get(field).and_then(Value::as_str).unwrap_or_default();
    let (name, uid) = (part("name"), part("uid"));
    match (part("apiVersion"), part("kind")) {
        ("v1", "Secret") => {}
        ("v1", "Pod") => return Err(ApiError::not_found("", "pods", name)),
        ("v1", "Node") => return Err(ApiError::not_found("", "nodes", name)),
        (version, kind) => {
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {version}, Kind={kind}"
            )));
        }
    }
    let found = core
        .store
        .get(&Key::new(&std::sync::Arc::from(SECRETS), namespace, name))
        .ok_or_else(|| ApiError::not_found("", "secrets", name))?;
    if !uid.is_empty() && *found.meta.uid != *uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", "Secret", name, &why));
    }
    Ok(Ref {
        name: name.to_owned(),
        uid: found.meta.uid.to_string(),
    })
}
