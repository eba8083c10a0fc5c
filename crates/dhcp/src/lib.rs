//! DHCP for machines that boot from the network: what is answered, to whom, and where the answer goes.
//!
//! | part | does |
//! |---|---|
//! | [`arch`] | which firmware asks, and what it is given to boot |
//! | [`v4::wire`] | DHCPv4 packets |
//! | [`v4::proxy`] | boot parameters beside somebody else's DHCP server |
//! | [`v4::server`] | addresses too: leases, reservations, relay agents |
//! | [`v6`] | DHCPv6, with and without addresses |
//! | [`ra`] | router advertisements, which lead to DHCPv6 |
//! | [`Replicas`] | one answer per client where several replicas hear it |
//!
//! Bytes and facts come in, bytes and decisions go out. There is no socket, no clock, no thread and no randomness in here; the caller says what time it is
//! (a [`Time`] that never runs backwards), keeps the records, and sends. Packets are anybody's: every parser takes any bytes without a panic, in time
//! linear to their number. Nothing that came in a packet is ever put into a text.

pub mod arch;
mod book;
mod hash;
pub mod ra;
mod replicas;
pub mod v4;
pub mod v6;

pub use book::{Counts, Record, State};
pub use replicas::Replicas;

/// A moment: the time since the Unix epoch, because leases outlive processes.
pub type Time = std::time::Duration;
