//! Who asks: client certificates, service account tokens, and acting for others.
//!
//! Invariants: whoever is not recognised gets no further than [`is_public`]; a token is worth something only while its service account exists with the
//! uid for which it was made; acting for somebody else needs the right to, asked of the roles like any other.

pub mod impersonation;
pub mod request_token;
pub mod tokens;

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::access::MASTERS;

/// The group of everybody who is recognised.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Where an identity's credential is named.
pub const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// An authenticated user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Unique in time, empty where there is none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// More about the user, for those who want to know.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user with groups.
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Identity {
        Identity {
            user: user.into(),
            groups: groups.into_iter().map(Into::into).collect(),
            ..Identity::default()
        }
    }

    /// The administrator.
    pub fn admin() -> Identity {
        Identity::new("kubernetes-admin", [MASTERS, AUTHENTICATED])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Identity {
        Identity {
            uid: uid.to_owned(),
            ..Identity::new(
                format!("system:serviceaccount:{namespace}:{name}"),
                [
                    SERVICE_ACCOUNTS.to_owned(),
                    format!("{SERVICE_ACCOUNTS}:{namespace}"),
                    AUTHENTICATED.to_owned(),
                ],
            )
        }
    }

    /// Whether it may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// As reviews tell it (`UserInfo`).
    pub fn info(&self) -> Value {
        let mut info = json!({ "username": self.user, "groups": self.groups });
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// Paths that need no identity.
pub fn is_public(path: &str) -> bool {
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    path == "/version" || below("/healthz") || below("/livez") || below("/readyz")
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_and_version_are_public() {
        for public in ["/version", "/healthz", "/healthz/etcd", "/livez", "/readyz/x"] {
            assert!(is_public(public), "{public}");
        }
        for private in [
            "/",
            "/api",
            "/versions",
            "/version/x",
            "/healthzz",
            "/apis",
            "/openapi/v2",
            "/api/v1/healthz",
            "",
        ] {
            assert!(!is_public(private), "{private}");
        }
    }

    #[test]
    fn a_bearer_token_is_read_from_its_header_alone() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for nothing in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }
}
