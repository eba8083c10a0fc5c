//! The roles and bindings that are in force, in the form in which requests are decided.
//!
//! An index is immutable; a change makes a new one that shares what did not change. It is kept by the store's change feed: whoever was told that a role
//! or a binding is stored finds it in force.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::rules::Rule;
use crate::server::identity::Identity;
use crate::store::{Event, EventKind, Object};

/// The store's resource of Roles.
pub const ROLES: &str = "rbac.authorization.k8s.io/roles";
/// The store's resource of ClusterRoles.
pub const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
/// The store's resource of RoleBindings.
pub const ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
/// The store's resource of ClusterRoleBindings.
pub const CLUSTER_ROLE_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

/// A ClusterRole as far as decisions and aggregation need it.
#[derive(Debug, Default)]
pub struct ClusterRole {
    /// What it allows.
    pub rules: Arc<[Rule]>,
    /// Its labels, by which others gather it.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `aggregationRule.clusterRoleSelectors`, when it gathers others.
    pub gathers: Option<Vec<Value>>,
}

/// To whom a binding applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A user by name.
    User(Box<str>),
    /// A group by name.
    Group(Box<str>),
    /// A service account; an empty namespace is the binding's own.
    ServiceAccount {
        /// Its namespace.
        namespace: Box<str>,
        /// Its name.
        name: Box<str>,
    },
}

impl Subject {
    fn applies(&self, identity: &Identity, namespace: &str) -> bool {
        match self {
            Subject::User(name) => *identity.user == **name,
            Subject::Group(name) => identity.groups.iter().any(|group| **group == **name),
            Subject::ServiceAccount { namespace: own, name } => {
                let namespace: &str = if own.is_empty() { namespace } else { own };
                !namespace.is_empty()
                    && identity
                        .user
                        .strip_prefix("system:serviceaccount:")
                        .and_then(|rest| rest.strip_prefix(namespace))
                        .and_then(|rest| rest.strip_prefix(':'))
                        .is_some_and(|rest| *rest == **name)
            }
        }
    }

    fn describe(&self, namespace: &str) -> String {
        match self {
            Subject::User(name) => format!("User {name:?}"),
            Subject::Group(name) => format!("Group {name:?}"),
            Subject::ServiceAccount { namespace: own, name } => {
                let namespace: &str = if own.is_empty() { namespace } else { own };
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

/// A RoleBinding or ClusterRoleBinding.
#[derive(Debug)]
pub struct Binding {
    name: Box<str>,
    /// Empty for ClusterRoleBindings.
    namespace: Box<str>,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// What a binding refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl RoleRef {
    /// The `roleRef` of a binding.
    pub fn of(binding: &Value) -> RoleRef {
        let part = |field: &str| binding["roleRef"][field].as_str().unwrap_or_default().into();
        RoleRef {
            kind: part("kind"),
            name: part("name"),
        }
    }
}

impl Binding {
    fn of(object: &Object, value: &Value) -> Binding {
        let subject = |subject: &Value| {
            let part = |field: &str| -> Box<str> { subject[field].as_str().unwrap_or_default().into() };
            Some(match subject["kind"].as_str()? {
                "User" => Subject::User(part("name")),
                "Group" => Subject::Group(part("name")),
                "ServiceAccount" => Subject::ServiceAccount {
                    namespace: part("namespace"),
                    name: part("name"),
                },
                _ => return None,
            })
        };
        Binding {
            name: object.key.name().into(),
            namespace: object.key.namespace().into(),
            role: RoleRef::of(value),
            subjects: value["subjects"].as_array().into_iter().flatten().filter_map(subject).collect(),
        }
    }

    /// The first subject that is meant by this identity.
    fn subject(&self, identity: &Identity) -> Option<&Subject> {
        self.subjects.iter().find(|subject| subject.applies(identity, &self.namespace))
    }
}

/// By which binding somebody has a right.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    binding: &'a Binding,
    subject: &'a Subject,
}

impl std::fmt::Display for Grant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Grant { binding, subject } = self;
        let (kind, name) = if binding.namespace.is_empty() {
            ("ClusterRoleBinding", binding.name.to_string())
        } else {
            ("RoleBinding", format!("{}/{}", binding.name, binding.namespace))
        };
        let (role, subject) = (&binding.role, subject.describe(&binding.namespace));
        write!(f, "{kind} {name:?} of {} {:?} to {subject}", role.kind, role.name)
    }
}

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub struct Index {
    roles: HashMap<Arc<str>, Arc<[Rule]>>,
    cluster_roles: BTreeMap<Box<str>, Arc<ClusterRole>>,
    /// By namespace, then by name.
    bindings: HashMap<Box<str>, BTreeMap<Box<str>, Arc<Binding>>>,
    cluster_bindings: BTreeMap<Box<str>, Arc<Binding>>,
}

impl Index {
    /// Whether a stored resource matters here.
    pub fn concerns(resource: &str) -> bool {
        matches!(resource, ROLES | CLUSTER_ROLES | ROLE_BINDINGS | CLUSTER_ROLE_BINDINGS)
    }

    /// Takes in what was committed.
    pub fn absorb(&mut self, event: &Event) {
        match event.kind {
            EventKind::Put => self.put(&event.object),
            EventKind::Delete => self.remove(&event.object),
        }
    }

    /// Takes in a stored object.
    pub fn put(&mut self, object: &Object) {
        let value = object.value();
        let rules = || Rule::list(value.get("rules")).into();
        let key = &object.key;
        match &*key.resource {
            ROLES => {
                self.roles.insert(key.path.clone(), rules());
            }
            CLUSTER_ROLES => {
                let role = ClusterRole {
                    rules: rules(),
                    labels: object.meta.labels.clone(),
                    gathers: value
                        .pointer("/aggregationRule/clusterRoleSelectors")
                        .and_then(Value::as_array)
                        .cloned(),
                };
                self.cluster_roles.insert(key.name().into(), Arc::new(role));
            }
            ROLE_BINDINGS => {
                let binding = Arc::new(Binding::of(object, &value));
                self.bindings
                    .entry(key.namespace().into())
                    .or_default()
                    .insert(key.name().into(), binding);
            }
            CLUSTER_ROLE_BINDINGS => {
                self.cluster_bindings
                    .insert(key.name().into(), Arc::new(Binding::of(object, &value)));
            }
            _ => {}
        }
    }

    fn remove(&mut self, object: &Object) {
        let key = &object.key;
        match &*key.resource {
            ROLES => {
                self.roles.remove(&key.path);
            }
            CLUSTER_ROLES => {
                self.cluster_roles.remove(key.name());
            }
            ROLE_BINDINGS => {
                if let Some(bindings) = self.bindings.get_mut(key.namespace()) {
                    bindings.remove(key.name());
                    if bindings.is_empty() {
                        self.bindings.remove(key.namespace());
                    }
                }
            }
            CLUSTER_ROLE_BINDINGS => {
                self.cluster_bindings.remove(key.name());
            }
            _ => {}
        }
    }

    /// All ClusterRoles, by name.
    pub fn cluster_roles(&self) -> &BTreeMap<Box<str>, Arc<ClusterRole>> {
        &self.cluster_roles
    }

    /// The rules of a role that a binding in a namespace refers to, or the text that says why there are none.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Result<&[Rule], String> {
        let missing = |resource: &str| format!("{resource}.rbac.authorization.k8s.io {:?} not found", role.name);
        match &*role.kind {
            "Role" => self
                .roles
                .get(format!("{namespace}/{}", role.name).as_str())
                .map(|rules| &**rules)
                .ok_or_else(|| missing("role")),
            "ClusterRole" => self
                .cluster_roles
                .get(&role.name)
                .map(|role| &*role.rules)
                .ok_or_else(|| missing("clusterrole")),
            other => Err(format!("unsupported role reference kind: {other:?}")),
        }
    }

    /// Visits the rules that apply to an identity in a namespace (empty: at cluster scope) until the visitor has enough. The text of each binding that
    /// refers to nothing is put into `errors`.
    pub fn visit<'a, T>(
        &'a self,
        identity: &Identity,
        namespace: &str,
        errors: &mut Vec<String>,
        mut visitor: impl FnMut(&'a Rule) -> Option<T>,
    ) -> Option<(T, Grant<'a>)> {
        let local = self.bindings.get(namespace).into_iter().flat_map(BTreeMap::values);
        for binding in self.cluster_bindings.values().chain(local) {
            let Some(subject) = binding.subject(identity) else { continue };
            match self.rules_of(&binding.role, &binding.namespace) {
                Ok(rules) => {
                    if let Some(found) = rules.iter().find_map(&mut visitor) {
                        return Some((found, Grant { binding, subject }));
                    }
                }
                Err(why) if !errors.contains(&why) => errors.push(why),
                Err(_) => {}
            }
        }
        None
    }

    /// All rules that apply to an identity in a namespace, and why there may be more.
    pub fn rules_for(&self, identity: &Identity, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.visit(identity, namespace, &mut errors, |rule| {
            rules.push(rule.clone());
            None::<()>
        });
        (rules, errors)
    }
}
