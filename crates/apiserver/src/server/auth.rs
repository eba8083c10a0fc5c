//! Who asks, and whether they may.
//!
//! The authoriser is a seam: until roles exist, everybody who is authenticated may do everything, and nobody else anything
//! but the few paths of [`is_public`].

use super::request::Verb;

/// Members may do everything.
pub const MASTERS: &str = "system:masters";

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// A user with groups.
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Identity {
        Identity {
            user: user.into(),
            groups: groups.into_iter().map(Into::into).collect(),
        }
    }

    /// The administrator.
    pub fn admin() -> Identity {
        Identity::new("kubernetes-admin", [MASTERS, "system:authenticated"])
    }
}

/// What somebody wants to do.
#[derive(Clone, Debug)]
pub enum Attempt<'a> {
    /// A verb on a resource.
    Resource {
        /// The verb.
        verb: Verb,
        /// API group.
        group: &'a str,
        /// Plural name.
        resource: &'a str,
        /// Subresource, empty for none.
        subresource: &'a str,
        /// Namespace, empty for none.
        namespace: &'a str,
        /// Name, empty for none.
        name: &'a str,
    },
    /// Any other path.
    Path {
        /// Lower-case HTTP method.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// Decides whether an attempt is allowed.
pub trait Authorizer: Send + Sync {
    /// Allowed, or why not.
    fn authorize(&self, identity: &Identity, attempt: &Attempt<'_>) -> Result<(), String>;
}

/// Allows everything to everybody who is authenticated.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, _identity: &Identity, _attempt: &Attempt<'_>) -> Result<(), String> {
        Ok(())
    }
}

/// Paths that need no identity.
pub fn is_public(path: &str) -> bool {
    let below = |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    path == "/version" || below("/healthz") || below("/livez") || below("/readyz")
}
