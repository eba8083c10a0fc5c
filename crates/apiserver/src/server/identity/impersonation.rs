//! Acting for somebody else: the headers `Impersonate-User`, `-Group`, `-Uid` and `-Extra-*`.
//!
//! Each thing that is claimed is asked of the roles as the verb `impersonate` on it. Whoever may do nothing of the kind learns that before anything
//! else of the request is looked at.

use http::HeaderMap;

use super::{AUTHENTICATED, Identity, SERVICE_ACCOUNTS};
use crate::schema::names;
use crate::server::access::Access;
use crate::server::access::rules::Attempt;
use crate::server::request::percent_decode;
use crate::server::status::{ApiError, ApiResult};

const PREFIX: &str = "impersonate-";
const EXTRA: &str = "impersonate-extra-";
const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Namespace and name of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (names::dns1123_label(namespace).is_empty() && names::dns1123_subdomain(name).is_empty()).then_some((namespace, name))
}

/// Who the request acts as: the requestor, or whom it may impersonate.
pub fn resolve(access: &Access, requestor: Identity, headers: &HeaderMap) -> ApiResult<Identity> {
    if !headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
        return Ok(requestor);
    }
    let values = |name: &str| -> ApiResult<Vec<String>> {
        let mut texts = Vec::new();
        for value in headers.get_all(name) {
            let text = value
                .to_str()
                .map_err(|_| ApiError::bad_request(format!("the header {name} is not text")))?;
            texts.push(text.to_owned());
        }
        Ok(texts)
    };
    let first = |name: &str| -> ApiResult<String> { Ok(values(name)?.into_iter().next().unwrap_or_default()) };
    let user = first("impersonate-user")?;
    let groups = values("impersonate-group")?;
    let uid = first("impersonate-uid")?;
    let mut extra: Vec<(String, String)> = Vec::new();
    for name in headers.keys().filter_map(|name| name.as_str().strip_prefix(EXTRA)) {
        let key = percent_decode(name).unwrap_or_else(|| name.to_owned());
        extra.extend(values(&format!("{EXTRA}{name}"))?.into_iter().map(|value| (key.clone(), value)));
    }
    if user.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(requestor);
        }
        return Err(ApiError::bad_request("requested groups, uid or extra without impersonating a user"));
    }

    let may = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        access.authorize(
            &requestor,
            &Attempt::Resource {
                verb: "impersonate",
                group,
                resource,
                subresource,
                namespace,
                name,
            },
        )
    };
    let mut acting = Identity::new(user.clone(), groups.clone());
    match service_account(&user) {
        Some((namespace, name)) => {
            may("", "serviceaccounts", "", namespace, name)?;
            if groups.is_empty() {
                acting.groups = vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}")];
            }
        }
        None => may("", "users", "", "", &user)?,
    }
    for group in &groups {
        may("", "groups", "", "", group)?;
    }
    for (key, value) in extra {
        may("authentication.k8s.io", "userextras", &key, "", &value)?;
        acting.extra.entry(key).or_default().push(value);
    }
    if !uid.is_empty() {
        may("authentication.k8s.io", "uids", "", "", &uid)?;
        acting.uid = uid;
    }
    let implied = if user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    let told = |group: &String| group == implied || group == UNAUTHENTICATED;
    if !acting.groups.iter().any(told) {
        acting.groups.push(implied.to_owned());
    }
    Ok(acting)
}
