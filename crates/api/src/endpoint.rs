//! BareMetalEndpoint: one NIC of an instance asks a network for addresses.

use agent_protocol::identity::MacAddress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::NetworkRef;

/// One NIC's wish for addresses.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalEndpoint",
    plural = "baremetalendpoints",
    singular = "baremetalendpoint",
    shortname = "bme",
    category = "baremetal",
    namespaced,
    status = "BareMetalEndpointStatus",
    derive = "PartialEq",
    doc = "One NIC of an instance asks a network for addresses. networkRef may name any group and kind: another controller can answer it.",
    printcolumn = r#"{"name":"Instance","type":"string","jsonPath":".spec.instanceName"}"#,
    printcolumn = r#"{"name":"Network","type":"string","jsonPath":".spec.networkRef.name"}"#,
    printcolumn = r#"{"name":"MAC","type":"string","jsonPath":".spec.mac"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".status.addresses[0].address"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.spec == oldSelf.spec").message("an endpoint's spec is immutable"),
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalEndpointSpec {
    /// The instance, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub instance_name: String,
    /// The machine.
    #[schemars(length(min = 1, max = 253))]
    pub hardware_name: String,
    /// The NIC.
    pub mac: MacAddress,
    /// The network.
    pub network_ref: NetworkRef,
    /// Addresses wished for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), inner(length(max = 45)))]
    pub addresses: Vec<String>,
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalEndpointStatus {
    /// Allocated addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub addresses: Vec<EndpointAddress>,
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// VLAN id of tagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One address with what a host needs to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAddress {
    /// The address, without prefix length.
    pub address: String,
    /// Prefix length.
    pub prefix_length: u8,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
}
