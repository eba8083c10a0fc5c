//! What is done with a machine that nobody needs, and what was done.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What becomes of a machine that is Ready and that no instance has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IdlePolicy {
    /// It waits in the agent: an instance has it at once.
    #[default]
    Stay,
    /// It is switched off, and switched on when an instance needs it. Only where its power driver can bring it back.
    PowerOff,
}

/// Seconds for which a machine has to be idle before it is switched off, where its class says nothing.
pub const DEFAULT_AFTER_SECONDS: u32 = 900;

/// What becomes of the idle machines of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.policy == 'PowerOff' || self.warm == 0").message("idle.warm is the number of machines that stay on while others are switched off: it needs policy PowerOff"))]
pub struct ClassIdle {
    /// For machines whose own `spec.idlePolicy` says nothing.
    #[serde(default)]
    pub policy: IdlePolicy,
    /// Seconds for which a machine has to be idle before it is switched off.
    #[serde(default = "default_after_seconds")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub after_seconds: u32,
    /// So many Ready machines of the class stay on, or are switched on, so that an instance has one at once.
    #[serde(default)]
    #[schemars(range(max = 100_000))]
    pub warm: u32,
}

impl Default for ClassIdle {
    fn default() -> Self {
        Self {
            policy: IdlePolicy::default(),
            after_seconds: default_after_seconds(),
            warm: 0,
        }
    }
}

fn default_after_seconds() -> u32 {
    DEFAULT_AFTER_SECONDS
}

/// That a machine was switched off because nobody needed it. It goes when the machine is in the agent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdleStatus {
    /// Whether it is to be off. False: it is needed again, and is being switched on.
    pub asleep: bool,
    /// When it was told to be off: a session from before then counts no more.
    pub since: Time,
}
