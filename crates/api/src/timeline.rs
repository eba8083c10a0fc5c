//! The boot timeline of a machine: what the boot servers saw of it, step by step. It stands in a BareMetalDiscovery's status, and is how a person finds out where a boot stopped.
//!
//! Several replicas each see a part of one boot (both hear a DHCP broadcast, one of them sends the loader). Each writes only the steps that carry its own name, so that nothing is lost or
//! counted twice whoever writes last.
//!
//! Everything in it was said by whoever sent the packets: it is for people, and nothing is decided by it.

use agent_protocol::identity::MacAddress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Boots that are kept per machine.
pub const MAX_BOOTS: usize = 4;
/// Steps that are kept per boot: every kind of step, from two replicas.
pub const MAX_STEPS: usize = 24;
/// Longest text of a step, in characters.
pub const MAX_DETAIL: usize = 96;

/// One boot, as far as it was seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootTimeline {
    /// When the first step began.
    pub started_at: MicroTime,
    /// MAC address that it boots from.
    pub mac: MacAddress,
    /// The machine's address, where one was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Steps by the time at which they began, at most 24.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<BootStep>,
}

/// What happened, in the order in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum BootStepKind {
    /// Firmware asked for an address and something to boot (DHCPDISCOVER), and was offered boot parameters.
    Offer,
    /// Firmware asked the same and was left without an answer: there is nothing to boot for it.
    NoOffer,
    /// Firmware asked the boot server that it was offered (port 4011, or a DHCPREQUEST to us) and was told its file.
    BootServer,
    /// A loader over TFTP.
    Tftp,
    /// A file over TFTP that does not exist here.
    TftpRefused,
    /// The loader runs: it asked over DHCP for its script, or fetched the script that asks.
    Loader,
    /// The loader asked what to boot, and was told.
    Script,
    /// The agent's kernel over HTTP.
    Kernel,
    /// The agent's initramfs over HTTP.
    Initramfs,
    /// The agent opened a session.
    Session,
}

impl BootStepKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Offer,
        Self::NoOffer,
        Self::BootServer,
        Self::Tftp,
        Self::TftpRefused,
        Self::Loader,
        Self::Script,
        Self::Kernel,
        Self::Initramfs,
        Self::Session,
    ];
}

/// One step, as one replica saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BootStep {
    /// What happened.
    pub step: BootStepKind,
    /// Replica that saw it.
    pub replica: String,
    /// When it began, for the first time in this boot.
    pub at: MicroTime,
    /// Milliseconds from then until it was over, for the last time in this boot.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub duration_ms: u64,
    /// How often it was seen.
    pub count: u32,
    /// How many of those did not end well.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: u32,
    /// Bytes that were sent, the last time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Packets that were sent again, in all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resent: u64,
    /// The firmware, the file, the decision, or what went wrong; printable ASCII, at most 96 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

pub(crate) fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl BootStep {
    /// When it was over, for the last time.
    pub fn ended_at(&self) -> jiff::Timestamp {
        let milliseconds = i64::try_from(self.duration_ms).unwrap_or(i64::MAX);
        let ended = self.at.0.checked_add(jiff::SignedDuration::from_millis(milliseconds));
        ended.unwrap_or(self.at.0)
    }
}

impl BootTimeline {
    /// When the last step that was seen was over.
    pub fn ended_at(&self) -> jiff::Timestamp {
        let ends = self.steps.iter().map(BootStep::ended_at);
        ends.max().unwrap_or(self.started_at.0)
    }

    /// The furthest step of the boot.
    pub fn furthest(&self) -> Option<&BootStep> {
        self.steps.iter().max_by_key(|step| (step.step, step.at.0))
    }

    /// The steps of one kind, whoever saw them.
    pub fn of_kind(&self, kind: BootStepKind) -> impl Iterator<Item = &BootStep> {
        self.steps.iter().filter(move |step| step.step == kind)
    }
}
