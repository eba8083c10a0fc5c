//! The agent's side of the server (TLS): sessions, orders, reports, seeds, sharing.
//!
//! Every request but the first is signed by the key of the machine's present session; [`auth`] is the only way to a handler. What a stranger
//! is told is always the same, whatever exists.

pub(crate) mod auth;
pub(crate) mod bmc_user;
pub(crate) mod orders;
pub(crate) mod redeem;
pub(crate) mod reports;
pub(crate) mod seed;
pub(crate) mod sessions;
pub(crate) mod share;
