//! Which resources are served, and what the server must know about each.
//!
//! A registry is immutable; a change of the CustomResourceDefinitions builds a new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::access::index;
use super::status::qualified;
use crate::schema::metadata::NameRule;
use crate::schema::table::Columns;
use crate::schema::{self, Structural};

/// A schema, built in or of a definition.
#[derive(Clone)]
pub enum Schema {
    /// Of a core kind.
    Builtin(&'static Structural),
    /// Of a definition's version.
    Custom(Arc<Structural>),
}

impl std::ops::Deref for Schema {
    type Target = Structural;
    fn deref(&self) -> &Structural {
        match self {
            Schema::Builtin(schema) => schema,
            Schema::Custom(schema) => schema,
        }
    }
}

/// What is special about a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Nothing: a custom resource.
    Custom,
    /// Namespace.
    Namespace,
    /// CustomResourceDefinition.
    Definition,
    /// Event in core/v1.
    CoreEvent,
    /// Event in events.k8s.io/v1.
    Event,
    /// Secret.
    Secret,
    /// ConfigMap.
    ConfigMap,
    /// Lease.
    Lease,
    /// ServiceAccount.
    ServiceAccount,
    /// Role.
    Role,
    /// ClusterRole.
    ClusterRole,
    /// RoleBinding.
    RoleBinding,
    /// ClusterRoleBinding.
    ClusterRoleBinding,
}

impl Special {
    /// Whether such objects hand out rights.
    pub fn grants(self) -> bool {
        matches!(
            self,
            Special::Role | Special::ClusterRole | Special::RoleBinding | Special::ClusterRoleBinding
        )
    }
}

/// The `scale` subresource of a definition.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Where the wanted count is.
    pub spec_path: String,
    /// Where the present count is.
    pub status_path: String,
    /// Where the selector's text is.
    pub selector_path: Option<String>,
}

/// One resource in one version.
pub struct ResourceInfo {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Singular name.
    pub singular: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// The store's resource; versions of one resource share it.
    pub storage: Arc<str>,
    /// Whether `/status` is served.
    pub status: bool,
    /// Whether `/scale` is served.
    pub scale: Option<Scale>,
    /// The schema.
    pub schema: Schema,
    /// The schema of the version that is stored, where it is another one.
    pub stored_schema: Option<Schema>,
    /// Whether objects may be stored in the form of another schema, so that reads must prune and default.
    pub reshapes: bool,
    /// The store's revision when this server began to serve it.
    pub since: u64,
    /// Printer columns.
    pub columns: Columns,
    /// How names are checked.
    pub name_rule: NameRule,
    /// What is special.
    pub special: Special,
    /// Extra fields for field selectors.
    pub selectable: Vec<String>,
    /// The definition is being deleted: no creates.
    pub terminating: bool,
    /// Deprecation warning of the version.
    pub deprecation: Option<String>,
    /// `{"apiVersion":"...","kind":"...",`: what precedes the stored JSON.
    pub prefix: Bytes,
}

impl ResourceInfo {
    /// `group/version`, or `version` for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `plural.group`.
    pub fn qualified(&self) -> String {
        qualified(&self.group, &self.resource)
    }

    /// Whether it is defined by a CustomResourceDefinition.
    pub fn custom(&self) -> bool {
        self.special == Special::Custom
    }

    /// Whether updates count `metadata.generation`.
    pub fn has_generation(&self) -> bool {
        matches!(self.special, Special::Custom | Special::Definition)
    }

    /// Whether a PUT may leave the resourceVersion out.
    pub fn unconditional_update(&self) -> bool {
        !matches!(self.special, Special::Custom | Special::Definition | Special::Lease)
    }

    /// Whether a PUT may create.
    pub fn create_on_update(&self) -> bool {
        matches!(self.special, Special::Lease | Special::CoreEvent | Special::Event) || self.special.grants()
    }

    /// Whether a field can be selected on.
    pub fn selectable(&self, field: &str) -> bool {
        match field {
            "metadata.name" => true,
            "metadata.namespace" => self.namespaced,
            _ => self.selectable.iter().any(|known| known == field),
        }
    }

    /// The verbs of discovery.
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.special {
            Special::Custom | Special::Definition => &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"],
            Special::Namespace => &["create", "delete", "get", "list", "patch", "update", "watch"],
            _ => &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        }
    }
}

/// The versions of a group, in order of preference, with their resources.
pub type Versions = Vec<(String, Vec<Arc<ResourceInfo>>)>;

/// All resources.
#[derive(Default)]
pub struct Registry {
    resources: HashMap<(String, String, String), Arc<ResourceInfo>>,
    kinds: HashMap<(String, String), Arc<ResourceInfo>>,
    /// Groups, each with its versions in order of preference and their resources.
    pub groups: BTreeMap<String, Versions>,
    /// The served definitions, for OpenAPI.
    pub definitions: Vec<Value>,
    /// Changes with each registry.
    pub serial: u64,
}

impl Registry {
    /// A registry of the core kinds and the given custom resources.
    pub fn new(custom: Vec<ResourceInfo>, definitions: Vec<Value>, serial: u64) -> Registry {
        let mut registry = Registry {
            definitions,
            serial,
            ..Registry::default()
        };
        for info in builtins().into_iter().chain(custom) {
            registry.add(Arc::new(info));
        }
        // Nothing is stored there, but questions are answered.
        for group in ["authentication.k8s.io", "authorization.k8s.io"] {
            let versions = registry.groups.entry(group.to_owned()).or_default();
            if versions.iter().all(|(version, _)| version != "v1") {
                versions.push(("v1".to_owned(), Vec::new()));
            }
        }
        for versions in registry.groups.values_mut() {
            versions.sort_by(|(a, _), (b, _)| version_priority(b).cmp(&version_priority(a)).then_with(|| a.cmp(b)));
            for (_, resources) in versions {
                resources.sort_by(|a, b| a.resource.cmp(&b.resource));
            }
        }
        // A kind is found at its group's preferred version.
        for versions in registry.groups.values() {
            for info in versions.iter().rev().flat_map(|(_, resources)| resources) {
                registry.kinds.insert((info.group.clone(), info.kind.clone()), info.clone());
            }
        }
        registry
    }

    fn add(&mut self, info: Arc<ResourceInfo>) {
        let versions = self.groups.entry(info.group.clone()).or_default();
        match versions.iter_mut().find(|(version, _)| *version == info.version) {
            Some((_, resources)) => resources.push(info.clone()),
            None => versions.push((info.version.clone(), vec![info.clone()])),
        }
        self.resources
            .insert((info.group.clone(), info.version.clone(), info.resource.clone()), info);
    }

    /// A resource.
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<Arc<ResourceInfo>> {
        self.resources
            .get(&(group.to_owned(), version.to_owned(), resource.to_owned()))
            .cloned()
    }

    /// The resource of a kind, in its group's preferred version.
    pub fn by_kind(&self, group: &str, kind: &str) -> Option<Arc<ResourceInfo>> {
        self.kinds.get(&(group.to_owned(), kind.to_owned())).cloned()
    }

    /// The resource that a stored resource is served as (its preferred version).
    pub fn by_storage(&self, storage: &str) -> Option<Arc<ResourceInfo>> {
        let (group, resource) = storage.split_once('/')?;
        self.groups
            .get(group)?
            .iter()
            .flat_map(|(_, resources)| resources)
            .find(|info| info.resource == resource && *info.storage == *storage)
            .cloned()
    }

    /// Every resource.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ResourceInfo>> {
        self.resources.values()
    }
}

/// Kubernetes' order of versions: v10, v2, v1, v11beta2, v10beta3, v3beta1, v12alpha1, then anything else.
pub fn version_priority(version: &str) -> (u8, u64, u64) {
    let parse = || -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, rest) = rest.split_at(digits);
        let major = major.parse().ok()?;
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        let (rank, minor) = if let Some(minor) = rest.strip_prefix("beta") {
            (2, minor)
        } else {
            (1, rest.strip_prefix("alpha")?)
        };
        Some((rank, major, minor.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

/// The bytes that precede the stored JSON of an object.
pub fn prefix(api_version: &str, kind: &str) -> Bytes {
    Bytes::from(format!(
        "{{\"apiVersion\":{},\"kind\":{},",
        Value::from(api_version),
        Value::from(kind)
    ))
}

#[derive(Clone, Copy)]
struct Core {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    resource: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
    storage: &'static str,
    status: bool,
    name_rule: NameRule,
    special: Special,
    selectable: &'static [&'static str],
}

const CORE_EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

fn builtins() -> Vec<ResourceInfo> {
    let base = Core {
        group: "",
        version: "v1",
        kind: "",
        resource: "",
        short: &[],
        namespaced: true,
        storage: "",
        status: false,
        name_rule: NameRule::Subdomain,
        special: Special::ConfigMap,
        selectable: &[],
    };
    let rbac = Core {
        group: "rbac.authorization.k8s.io",
        name_rule: NameRule::PathSegment,
        ..base
    };
    let cores = [
        Core {
            kind: "Namespace",
            resource: "namespaces",
            short: &["ns"],
            namespaced: false,
            storage: "/namespaces",
            status: true,
            name_rule: NameRule::Label,
            special: Special::Namespace,
            selectable: &["status.phase"],
            ..base
        },
        Core {
            kind: "Secret",
            resource: "secrets",
            storage: "/secrets",
            special: Special::Secret,
            selectable: &["type"],
            ..base
        },
        Core {
            kind: "ConfigMap",
            resource: "configmaps",
            short: &["cm"],
            storage: "/configmaps",
            ..base
        },
        Core {
            kind: "ServiceAccount",
            resource: "serviceaccounts",
            short: &["sa"],
            storage: "/serviceaccounts",
            special: Special::ServiceAccount,
            ..base
        },
        Core {
            kind: "Event",
            resource: "events",
            short: &["ev"],
            storage: "/events",
            special: Special::CoreEvent,
            selectable: CORE_EVENT_FIELDS,
            ..base
        },
        Core {
            group: "events.k8s.io",
            kind: "Event",
            resource: "events",
            short: &["ev"],
            storage: "/events",
            special: Special::Event,
            selectable: EVENT_FIELDS,
            ..base
        },
        Core {
            group: "coordination.k8s.io",
            kind: "Lease",
            resource: "leases",
            storage: "coordination.k8s.io/leases",
            special: Special::Lease,
            ..base
        },
        Core {
            kind: "Role",
            resource: "roles",
            storage: index::ROLES,
            special: Special::Role,
            ..rbac
        },
        Core {
            kind: "RoleBinding",
            resource: "rolebindings",
            storage: index::ROLE_BINDINGS,
            special: Special::RoleBinding,
            ..rbac
        },
        Core {
            kind: "ClusterRole",
            resource: "clusterroles",
            namespaced: false,
            storage: index::CLUSTER_ROLES,
            special: Special::ClusterRole,
            ..rbac
        },
        Core {
            kind: "ClusterRoleBinding",
            resource: "clusterrolebindings",
            namespaced: false,
            storage: index::CLUSTER_ROLE_BINDINGS,
            special: Special::ClusterRoleBinding,
            ..rbac
        },
        Core {
            group: "apiextensions.k8s.io",
            kind: "CustomResourceDefinition",
            resource: "customresourcedefinitions",
            short: &["crd", "crds"],
            namespaced: false,
            storage: DEFINITIONS,
            status: true,
            special: Special::Definition,
            ..base
        },
    ];
    let mut infos = Vec::new();
    for core in cores {
        let Some(schema) = schema::builtin::structural(core.group, core.version, core.kind) else {
            // A test asserts that every core kind has a schema.
            tracing::error!(kind = core.kind, "no schema for a core kind; it is not served");
            continue;
        };
        let api_version = if core.group.is_empty() {
            core.version.to_owned()
        } else {
            format!("{}/{}", core.group, core.version)
        };
        infos.push(ResourceInfo {
            group: core.group.to_owned(),
            version: core.version.to_owned(),
            resource: core.resource.to_owned(),
            singular: core.kind.to_lowercase(),
            kind: core.kind.to_owned(),
            list_kind: format!("{}List", core.kind),
            short_names: core.short.iter().map(|name| (*name).to_owned()).collect(),
            categories: if core.special == Special::Definition {
                vec!["api-extensions".to_owned()]
            } else {
                Vec::new()
            },
            namespaced: core.namespaced,
            storage: Arc::from(core.storage),
            status: core.status,
            scale: None,
            schema: Schema::Builtin(schema),
            stored_schema: None,
            reshapes: false,
            since: 0,
            columns: Columns::for_builtin(core.group, core.kind),
            name_rule: core.name_rule,
            special: core.special,
            selectable: core.selectable.iter().map(|name| (*name).to_owned()).collect(),
            terminating: false,
            deprecation: None,
            prefix: prefix(&api_version, core.kind),
        });
    }
    infos
}

/// The store's resource of CustomResourceDefinitions.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// The store's resource of Namespaces.
pub const NAMESPACES: &str = "/namespaces";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_kubernetes_prefers_them() {
        let mut versions = ["foo1", "v1alpha1", "v2", "v11beta2", "v10beta3", "v1", "v3beta1", "v10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta1", "v1alpha1", "foo1"]);
    }

    #[test]
    fn every_core_kind_has_a_schema() {
        assert_eq!(builtins().len(), 12);
    }
}
