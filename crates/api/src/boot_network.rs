//! How machines go on after their firmware, which knows neither VLANs nor bonds.

use agent_protocol::link::Bond;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Firmware boots untagged over one NIC: by the port's native VLAN, and by the switch's fallback where the port belongs to a bond. This says how the agent goes on.
///
/// The agent sends what it sends as that network says: with its VLAN id, and with its MTU as far as the way to the server carries it. Where it does not reach a server so, it tries the NIC as it is, and the
/// condition `AgentNetwork` of the BareMetalDiscovery says why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootNetwork {
    /// The BareMetalNetwork in which the agent goes on. Left out: the one that firmware booted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub network_name: Option<String>,
    /// Several NICs as one. What the agent comes over is what the installed system's configuration gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.mode == '802.3ad' || !has(self.lacpRate)").message("bond.lacpRate is for the mode 802.3ad only"))]
    #[x_kube(validation = Rule::new("self.mode == '802.3ad' || !has(self.transmitHash)").message("bond.transmitHash is for the mode 802.3ad only"))]
    pub bond: Option<Bond>,
}
