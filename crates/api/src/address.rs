//! BareMetalAddress: one allocated IP address.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// One allocated address. Its name is the network's name, a dot, and the address in fixed-width hexadecimal: creating the object **is** the allocation.
///
/// It outlives its endpoint: it is held until the old system is known to be off.
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
    printcolumn = r#"{"name":"Hardware","type":"string","jsonPath":".spec.hardwareName"}"#,
    printcolumn = r#"{"name":"Instance","type":"string","jsonPath":".spec.instance"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = Rule::new("self.spec == oldSelf.spec").message("an address's spec is immutable"),
)]
#[serde(rename_all = "camelCase")]
pub struct BareMetalAddressSpec {
    /// The address, without prefix length.
    #[schemars(length(max = 45))]
    pub address: String,
    /// Name of the BareMetalNetwork.
    #[schemars(length(min = 1, max = 253))]
    pub network_name: String,
    /// The machine that may use it.
    #[schemars(length(min = 1, max = 253))]
    pub hardware_name: String,
    /// Namespace and name of the instance, `namespace/name`.
    #[schemars(length(min = 3, max = 512))]
    pub instance: String,
    /// UID of the instance.
    #[schemars(length(min = 1, max = 64))]
    pub instance_uid: String,
    /// Name of the endpoint, in the instance's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub endpoint_name: String,
}
