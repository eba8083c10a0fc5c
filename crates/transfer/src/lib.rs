//! Moves everything from one Kubernetes API to another, between the embedded one and a cluster in either direction: pause, export, import, resume.
//!
//! | module | does |
//! |---|---|
//! | [`pause`] | makes operator and netboot stop deciding about machines, and lets them go on |
//! | [`export`] | pauses, waits for machines at work, writes every object to an archive |
//! | [`archive`] | the form of that archive |
//! | [`import`] | makes the objects in another API, paused |
//! | [`uids`] | what has to be changed in an object because the other API gives new uids |
//!
//! Invariants:
//! * Nothing here gives an order, takes a claim or erases anything; it writes objects as they were.
//! * From the pause until the resume nobody decides about a machine that moves, in neither API: every decision is a compare and swap on the machine's object, which the pause
//!   changed, and orders are handed out only after a fresh read.
//! * Whatever ends an export or import halfway, it can be run again.
//! * What is in the archive is complete, or the archive is refused.
//!
//! It does not move what each API has of its own (definitions, rights, service accounts, leases, events), and not the sealed seeds: a seed is rendered anew for the session that needs it.

pub mod archive;
pub mod export;
pub mod import;
mod objects;
pub mod pause;
pub mod uids;

/// Tells a person how far it is, one line at a time.
pub type Say<'a> = &'a (dyn Fn(&str) + Sync);
