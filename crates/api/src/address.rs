//! BareMetalAddress: one allocated IP address.

use agent_protocol::identity::MacAddress;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// One allocated address. Its name is the network's name, a dot, and the address in fixed-width hexadecimal: creating the object **is** the allocation.
///
/// It outlives its endpoint: it is held until the old system is known to be off.
///
/// One without an instance is a person's: a reservation for the MAC address that it names, and theirs to delete.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalAddress",
    plural = "baremetaladdresses",
    singular = "baremetaladdress",
    shortname = "bma",
    category = "baremetal",
    derive = "PartialEq",
    doc = "One allocated IP address; creating it is the atomic allocation.",
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address"}"#,
    printcolumn = r#"{"name":"Network","type":"string","jsonPath":".spec.networkName"}"#,
    printcolumn = r#"{"name":"MAC","type":"string","jsonPath":".spec.mac"}"#,
    printcolumn = r#"{"name":"Hardware","type":"string","jsonPath":".spec.hardwareName"}"#,
    printcolumn = r#"{"name":"Instance","type":"string","jsonPath":".spec.instance"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.spec == oldSelf.spec").message("an address's spec is immutable"),
    validation = Rule::new("has(self.spec.instanceUid) ? has(self.spec.instance) && has(self.spec.hardwareName) && has(self.spec.endpointName) : has(self.spec.mac) && !has(self.spec.instance) && !has(self.spec.endpointName)")
        .message("an address is an instance's, with hardwareName, instance, instanceUid and endpointName, or a reservation with mac and none of the last three"),
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalAddressSpec {
    /// The address, without prefix length.
    #[schemars(length(max = 45))]
    pub address: String,
    /// Name of the BareMetalNetwork.
    #[schemars(length(min = 1, max = 253))]
    pub network_name: String,
    /// Whom netboot's DHCP gives this address, and nobody else, where the network's `dhcp` is `Full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The machine that may use it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 253))]
    pub hardware_name: String,
    /// Namespace and name of the instance, `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 3, max = 512))]
    pub instance: String,
    /// UID of the instance. Left out: a reservation that a person made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub instance_uid: String,
    /// Name of the endpoint, in the instance's namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 253))]
    pub endpoint_name: String,
}
