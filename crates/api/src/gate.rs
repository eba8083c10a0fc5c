//! Gates: steps of a machine's way that wait for another controller, as a Pod waits for its readinessGates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Before which step a gate is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GateStep {
    /// Anything is done with a free machine: before its first cleaning, and whenever it would become Ready. The condition stands on the BareMetalHardware.
    Accept,
    /// The image is ordered. The condition stands on the BareMetalInstance.
    Provision,
    /// The written system is booted for the first time. The condition stands on the BareMetalInstance.
    Run,
    /// The disk is erased after the instance's deletion. The condition stands on the BareMetalInstance; `forceRelease` does not ask it.
    Release,
}

/// A step that is taken only when another controller has set a condition to True.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gate {
    /// Type of the condition: a name below a domain of the controller's own, as in `example.com/switch-port`.
    #[schemars(
        length(min = 3, max = 316),
        regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")
    )]
    pub condition_type: String,
    /// Before which step it must be True.
    pub before: GateStep,
}
