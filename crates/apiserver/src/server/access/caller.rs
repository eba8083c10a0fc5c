//! What a write must still be asked of whoever sends it: rights that only the object itself shows.
//!
//! Two questions: an update that turns out to create needs the right to create, and a role or a binding may hand out only rights that its writer holds
//! (or the right to `escalate` that role, or to `bind` the role that is referred to).

use std::sync::Arc;

use serde_json::Value;

use super::Access;
use super::index::RoleRef;
use super::rules::{Attempt, Rule};
use crate::server::identity::Identity;
use crate::server::metadata::{self, text};
use crate::server::registry::{ResourceInfo, Special};
use crate::server::status::{ApiError, ApiResult};

/// Who sends a write.
#[derive(Clone, Debug)]
pub struct Caller {
    access: Arc<Access>,
    identity: Arc<Identity>,
    /// The name in the request's path: empty for a create.
    asked: String,
}

impl Caller {
    /// A caller whose request itself is authorised already.
    pub fn new(access: Arc<Access>, identity: Arc<Identity>, asked: &str) -> Caller {
        let asked = asked.to_owned();
        Caller { access, identity, asked }
    }

    /// An update that finds nothing creates, and needs the right to. A create was asked for that already.
    pub fn may_insert(&self, info: &ResourceInfo, namespace: &str) -> ApiResult<()> {
        let name = self.asked.as_str();
        if name.is_empty() {
            return Ok(());
        }
        self.access.authorize(
            &self.identity,
            &Attempt::Resource {
                verb: "create",
                group: &info.group,
                resource: &info.resource,
                subresource: "",
                // A namespace is a request in itself, as far as roles are concerned.
                namespace: if info.special == Special::Namespace { name } else { namespace },
                name,
            },
        )
    }

    /// A role or a binding may not hand out what its writer does not hold.
    pub fn may_grant(&self, info: &ResourceInfo, namespace: &str, new: &Value, old: Option<&Value>) -> ApiResult<()> {
        if self.identity.is_master() || !info.special.grants() {
            return Ok(());
        }
        match info.special {
            _ if old.is_some_and(|old| only_collected(old, new)) => Ok(()),
            Special::Role | Special::ClusterRole => self.may_write_role(info, namespace, new, old),
            Special::RoleBinding | Special::ClusterRoleBinding => self.may_write_binding(info, namespace, new),
            _ => Ok(()),
        }
    }

    fn allowed(&self, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let attempt = Attempt::Resource {
            verb,
            group: "rbac.authorization.k8s.io",
            resource,
            subresource: "",
            namespace,
            name,
        };
        self.access.decide(&self.identity, &attempt).is_allowed()
    }

    fn may_write_role(&self, info: &ResourceInfo, namespace: &str, new: &Value, old: Option<&Value>) -> ApiResult<()> {
        let name = text(new, "name");
        if self.allowed("escalate", &info.resource, namespace, &self.asked) {
            return Ok(());
        }
        let refused = |why: String| ApiError::forbidden(&info.group, &info.resource, name, &why);
        self.access
            .holds(&self.identity, namespace, &Rule::list(new.get("rules")))
            .map_err(refused)?;
        // What a role gathers is not known in advance, so that only who has everything may let it gather.
        let gathers = |role: &Value| {
            role.pointer("/aggregationRule/clusterRoleSelectors")
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty())
        };
        if gathers(new) || old.is_some_and(gathers) {
            self.access
                .holds(&self.identity, namespace, &Rule::everything())
                .map_err(|_| refused("must have cluster-admin privileges to use the aggregationRule".to_owned()))?;
        }
        Ok(())
    }

    fn may_write_binding(&self, info: &ResourceInfo, namespace: &str, new: &Value) -> ApiResult<()> {
        let role = RoleRef::of(new);
        let resource = match &*role.kind {
            "Role" => "roles",
            "ClusterRole" => "clusterroles",
            // Validation refuses it.
            _ => return Ok(()),
        };
        if self.allowed("bind", resource, namespace, &role.name) {
            return Ok(());
        }
        let index = self.access.index();
        let rules = index
            .rules_of(&role, namespace)
            // As the real server says it: it names the kind that was asked for, not the one that is missing.
            .map_err(|_| ApiError::not_found(&info.group, &info.resource, &role.name))?;
        self.access
            .holds(&self.identity, namespace, rules)
            .map_err(|why| ApiError::forbidden(&info.group, &info.resource, text(new, "name"), &why))
    }
}

/// Whether an update changes nothing but what the garbage collector changes.
fn only_collected(old: &Value, new: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        for field in ["ownerReferences", "finalizers", "managedFields", "selfLink"] {
            metadata::remove(&mut value, field);
        }
        value
    };
    strip(old) == strip(new)
}
