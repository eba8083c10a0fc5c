//! BareMetalNetwork: one layer-2 network with its address plan.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::boot_network::BootNetwork;

/// One layer-2 network.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kube-baremetal.io",
    version = "v1alpha1",
    kind = "BareMetalNetwork",
    plural = "baremetalnetworks",
    singular = "baremetalnetwork",
    shortname = "bmn",
    category = "baremetal",
    derive = "PartialEq",
    doc = "One layer-2 network: prefixes, ranges for instances, gateway, DNS, VLAN, MTU, and which DHCP service netboot offers there.",
    printcolumn = r#"{"name":"IPv4","type":"string","jsonPath":".spec.ipv4.prefix"}"#,
    printcolumn = r#"{"name":"IPv6","type":"string","jsonPath":".spec.ipv6.prefix"}"#,
    printcolumn = r#"{"name":"VLAN","type":"integer","jsonPath":".spec.vlan","priority":1}"#,
    printcolumn = r#"{"name":"DHCP","type":"string","jsonPath":".spec.dhcp"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.ipv4) || has(self.ipv6)").message("at least one of ipv4 and ipv6 is needed"))]
pub struct BareMetalNetworkSpec {
    /// IPv4 plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.prefix.contains('.')").message("ipv4.prefix must be an IPv4 prefix such as 192.168.1.0/24"))]
    pub ipv4: Option<AddressPlan>,
    /// IPv6 plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.prefix.contains(':')").message("ipv6.prefix must be an IPv6 prefix such as 2001:db8::/64"))]
    pub ipv6: Option<AddressPlan>,
    /// VLAN id of tagged frames; left out: untagged. Installed systems and agents in this network send with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<u16>,
    /// MTU in bytes. An agent uses it as far as the way to its server carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9216))]
    pub mtu: Option<u16>,
    /// How the agent goes on, on machines whose firmware booted from this network. What a BareMetalHardware says outweighs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_network: Option<BootNetwork>,
    /// Which DHCP service netboot offers there.
    #[serde(default)]
    pub dhcp: DhcpMode,
    /// Whether machines that write the same packed image at the same time give each other parts of it.
    #[serde(default)]
    pub image_sharing: ImageSharing,
}

/// Addresses of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPlan {
    /// The network in CIDR form.
    #[schemars(length(min = 4, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]{1,3}$"))]
    pub prefix: String,
    /// From which instances get addresses. Left out: none are given, only addresses wished for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub ranges: Vec<AddressRange>,
    /// Default gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 45)))]
    pub dns: Vec<String>,
}

/// First and last address, both included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressRange {
    /// First.
    #[schemars(length(max = 45))]
    pub first: String,
    /// Last.
    #[schemars(length(max = 45))]
    pub last: String,
}

/// Whether machines of a network share what they write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImageSharing {
    /// They do, while they write the same packed image. A machine listens for that within its own network prefix, and gives away nothing but parts of the image.
    #[default]
    Enabled,
    /// Each machine fetches everything from a server; none listens.
    Disabled,
}

/// Which DHCP service netboot offers on a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DhcpMode {
    /// None: somebody else's DHCP points machines at the boot URL.
    #[default]
    Off,
}
