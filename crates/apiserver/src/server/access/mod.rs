//! Who may do what: roles and bindings, decided as the real server decides.
//!
//! Invariants: nothing is allowed that no rule allows, but to members of `system:masters`; every question, be it a request, an access review or the check
//! of a write that would hand out rights, is answered by the same evaluator from the same index. Reading the store is no part of a decision.

pub mod aggregate;
pub mod bootstrap;
pub mod caller;
pub mod index;
pub mod rules;

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

use self::index::{CLUSTER_ROLES, Grant, Index};
use self::rules::{Attempt, Rule};
use super::identity::Identity;
use super::status::ApiError;
use crate::schema::gofmt::quote;
use crate::store::{Event, Store};

/// Members may do everything, whatever the roles say.
pub const MASTERS: &str = "system:masters";

/// An answer of the evaluator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, and by what.
    Allowed(String),
    /// Not allowed, with what went wrong on the way.
    Denied(String),
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed(_))
    }
}

/// As the real server joins the errors of several bindings.
pub fn joined(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// The roles in force. One per server.
#[derive(Debug, Default)]
pub struct Access {
    index: RwLock<Arc<Index>>,
    /// Woken when a ClusterRole changed: others may gather it.
    pub cluster_roles_changed: Notify,
}

impl Access {
    /// What is in force now.
    pub fn index(&self) -> Arc<Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads what is stored, once at the start.
    pub fn load(&self, store: &Store) {
        let objects = store.scan(|object| Index::concerns(&object.key.resource));
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let index = Arc::make_mut(&mut index);
        for object in objects {
            index.put(&object);
        }
    }

    /// Takes in what was committed. Runs on the store's writer thread, before anybody is told of the commit.
    pub fn observe(&self, events: &[Arc<Event>]) {
        let concerning: Vec<&Arc<Event>> = events.iter().filter(|event| Index::concerns(&event.object.key.resource)).collect();
        if concerning.is_empty() {
            return;
        }
        {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            let index = Arc::make_mut(&mut index);
            for event in &concerning {
                index.absorb(event);
            }
        }
        if concerning.iter().any(|event| *event.object.key.resource == *CLUSTER_ROLES) {
            self.cluster_roles_changed.notify_one();
        }
    }

    /// Decides, and says by what.
    pub fn decide(&self, identity: &Identity, attempt: &Attempt<'_>) -> Decision {
        match search(&self.index(), identity, attempt) {
            Ok(Some(by)) => Decision::Allowed(format!("RBAC: allowed by {by}")),
            Ok(None) => Decision::Allowed(String::new()),
            Err(why) => Decision::Denied(why),
        }
    }

    /// Allows a request, or answers 403.
    pub fn authorize(&self, identity: &Identity, attempt: &Attempt<'_>) -> Result<(), ApiError> {
        match search(&self.index(), identity, attempt) {
            Ok(_) => Ok(()),
            Err(why) => Err(forbidden(identity, attempt, &why)),
        }
    }

    /// Whether an identity holds all of some rights; otherwise the text that names the missing ones.
    pub fn holds(&self, identity: &Identity, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
        let (held, errors) = self.index().rules_for(identity, namespace);
        let missing = rules::uncovered(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let groups: Vec<String> = identity.groups.iter().map(|group| quote(group)).collect();
        let mut text = format!(
            "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            quote(&identity.user),
            groups.join(" "),
            rules::describe(&missing).join("\n")
        );
        if !errors.is_empty() {
            text.push_str(&format!("; resolution errors: [{}]", joined(&errors)));
        }
        Err(text)
    }
}

/// What allows an attempt (nothing has to for a master), or what went wrong on the way to a refusal.
fn search<'a>(index: &'a Index, identity: &Identity, attempt: &Attempt<'_>) -> Result<Option<Grant<'a>>, String> {
    if identity.is_master() {
        return Ok(None);
    }
    let mut errors = Vec::new();
    match index.visit(identity, attempt.namespace(), &mut errors, |rule| {
        rule.allows(attempt).then_some(())
    }) {
        Some(((), by)) => Ok(Some(by)),
        None if errors.is_empty() => Err(String::new()),
        None => Err(format!("RBAC: {}", joined(&errors))),
    }
}

/// The 403 of an attempt.
pub fn forbidden(identity: &Identity, attempt: &Attempt<'_>, why: &str) -> ApiError {
    let user = quote(&identity.user);
    let (text, group, resource, name) = match *attempt {
        Attempt::Path { verb, path } => (format!("User {user} cannot {verb} path {}", quote(path)), "", "", ""),
        Attempt::Resource {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
        } => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {}", quote(namespace))
            };
            let what = quote(&format!("{resource}{slash}{subresource}"));
            let text = format!("User {user} cannot {verb} resource {what} in API group {} {scope}", quote(group));
            (text, group, resource, name)
        }
    };
    // Nothing that looks like HTML is sent back.
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let text = if why.is_empty() { text } else { format!("{text}: {why}") };
    ApiError::forbidden(group, resource, name, &text)
}

#[cfg(test)]
mod tests;
