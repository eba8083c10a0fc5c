//! Times and choices that the decisions depend on. Every one has a default that fits a small installation.

use jiff::SignedDuration;

use crate::pacing::Limits;

/// What becomes of a machine that nobody accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum UnacceptedPolicy {
    /// It boots its own disk at once; nothing is recorded.
    Ignore,
    /// It is inventoried, waits for [`Config::unaccepted_hold`], and boots its own disk at this and later boots.
    #[default]
    Inventory,
    /// It waits in the agent until somebody decides.
    Hold,
}

/// Times and choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What becomes of machines that nobody accepted.
    pub unaccepted: UnacceptedPolicy,
    /// How long an unaccepted machine waits in the agent.
    pub unaccepted_hold: SignedDuration,
    /// Whether a session whose identity is only asserted may receive a seed and an image.
    pub allow_asserted_identity: bool,
    /// How long a machine may stay away before a person is asked to switch it off and on.
    pub power_cycle_after: SignedDuration,
    /// How long a machine may be missing in the agent before its driver boots it into it.
    pub power_act_after: SignedDuration,
    /// Within which a machine that was switched into the agent has to open a session.
    pub power_boot_within: SignedDuration,
    /// Within which a driver has to show that the machine is on or off, after it was told so.
    pub power_state_within: SignedDuration,
    /// Within which a system that was asked to shut down has to be off; then the power is taken away.
    pub power_shut_down_within: SignedDuration,
    /// Starts of machines that are switched on.
    pub starts: Limits,
    /// How long a machine that was told to boot its disk must not ask again to count as running.
    pub local_boot_confirmed_after: SignedDuration,
    /// When a machine of which nothing is heard after imaging is called running without evidence.
    pub running_unconfirmed_after: SignedDuration,
    /// Delay before the first retry of a failed order; doubles with each failure.
    pub retry_base: SignedDuration,
    /// Longest delay between retries.
    pub retry_limit: SignedDuration,
    /// After so many erases that could not be proven, a machine is quarantined.
    pub erase_attempts: u32,
    /// How long a claim without its instance, or a deleted instance without its machine, is left alone before it is judged (caches differ by that much at most).
    pub missing_claimant_grace: SignedDuration,
    /// Whether netboot has an image store.
    pub image_store: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unaccepted: UnacceptedPolicy::default(),
            unaccepted_hold: SignedDuration::from_mins(10),
            allow_asserted_identity: false,
            power_cycle_after: SignedDuration::from_mins(2),
            power_act_after: SignedDuration::from_secs(10),
            power_boot_within: SignedDuration::from_mins(10),
            power_state_within: SignedDuration::from_mins(1),
            power_shut_down_within: SignedDuration::from_mins(3),
            starts: Limits::default(),
            local_boot_confirmed_after: SignedDuration::from_mins(3),
            running_unconfirmed_after: SignedDuration::from_mins(20),
            retry_base: SignedDuration::from_secs(10),
            retry_limit: SignedDuration::from_mins(15),
            erase_attempts: 3,
            missing_claimant_grace: SignedDuration::from_mins(1),
            image_store: false,
        }
    }
}

impl Config {
    /// Delay before the next try after `failures` failures (at least one).
    pub fn backoff(&self, failures: u32) -> SignedDuration {
        let factor = 1i32.checked_shl(failures.saturating_sub(1).min(20)).unwrap_or(i32::MAX);
        self.retry_base
            .checked_mul(factor)
            .map_or(self.retry_limit, |d| d.min(self.retry_limit))
    }
}
