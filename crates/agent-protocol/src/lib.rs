//! The words that an agent and a server exchange, and nothing else: no sockets, no files, no clock.
//!
//! * [`architecture`]: processors that we have programs for.
//! * [`bmc`]: a machine's BMC as the machine itself sees it.
//! * [`bmc_user`]: a user of ours in it.
//! * [`identity`]: MAC addresses and SMBIOS UUIDs as typed values.
//! * [`inventory`] and [`disk`]: what a machine says of itself.
//! * [`link`]: VLAN, MTU and bond of an agent's network.
//! * [`order`]: what a machine is asked to do, and what it answers.
//! * [`session`]: how an agent introduces itself and signs each request.
//! * [`share`]: how machines that write the same image find each other.
//! * [`seed`]: the per-instance configuration, sealed to one agent's key.
//! * [`guest`]: the words of the helper that runs inside an installed system.
//! * [`token`]: boot tokens (HMAC) and one-time guest tokens.
//! * [`limits`]: every bound on what a machine may send; enforced by [`limits::Bounded`].
//!
//! Invariants: all JSON is camelCase; an unknown field is ignored (an agent one version older or newer keeps
//! working); an unknown enum value is an error; every list and string has a bound in [`limits`].
//!
//! Protocol version rule: the server answers agents of [`PROTOCOL_VERSION`] and of the version before it.

pub mod architecture;
pub mod bmc;
pub mod bmc_user;
pub mod disk;
pub mod fixed;
pub mod guest;
pub mod identity;
pub mod inventory;
pub mod limits;
pub mod link;
pub mod order;
pub mod seed;
pub mod session;
pub mod share;
pub mod token;

/// The protocol this crate speaks.
pub const PROTOCOL_VERSION: u32 = 1;
/// The oldest protocol a server of this version still answers.
pub const OLDEST_PROTOCOL_VERSION: u32 = 1;

/// Whether a server of this version can talk to an agent of `version`.
///
/// ```
/// assert!(agent_protocol::is_supported(agent_protocol::PROTOCOL_VERSION));
/// assert!(!agent_protocol::is_supported(agent_protocol::PROTOCOL_VERSION + 1));
/// ```
pub fn is_supported(version: u32) -> bool {
    (OLDEST_PROTOCOL_VERSION..=PROTOCOL_VERSION).contains(&version)
}
