//! Small types that several kinds share.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A key of a Secret in the same namespace as the object that names it. There is no namespace field anywhere, on purpose: a reference across
/// namespaces would let one tenant read another's Secret through the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalSecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in its data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret that is read as a whole. As with [`LocalSecretKey`] there is no namespace field: it lies where the object lies, or, of a cluster-scoped kind, in the namespace of the role that
/// reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalSecretName {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names whoever answers for a network: by default a BareMetalNetwork, but any group and kind is allowed; another controller then fills the
/// BareMetalEndpoint's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRef {
    /// API group.
    #[serde(default = "default_group")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind.
    #[serde(default = "default_network_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn default_group() -> String {
    crate::GROUP.to_owned()
}

fn default_network_kind() -> String {
    "BareMetalNetwork".to_owned()
}

impl NetworkRef {
    /// A BareMetalNetwork by name.
    pub fn network(name: impl Into<String>) -> Self {
        Self {
            group: default_group(),
            kind: default_network_kind(),
            name: name.into(),
        }
    }

    /// Whether our own operator answers it.
    pub fn is_ours(&self) -> bool {
        self.group == crate::GROUP && self.kind == default_network_kind()
    }
}

/// What happens to an instance that does not tolerate a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// It is not bound to the machine.
    NoSchedule,
    /// It is bound only when no other machine fits.
    PreferNoSchedule,
}

/// Keeps instances away, as on a Node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect.
    pub effect: TaintEffect,
}

/// How a toleration compares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    /// Key and value are equal.
    #[default]
    Equal,
    /// The key is there; without a key: every taint.
    Exists,
}

/// Lets an instance onto a tainted machine, as on a Pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key; may be left out with `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// How to compare.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect; left out: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}
