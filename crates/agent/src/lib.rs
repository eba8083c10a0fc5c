//! PID 1 of the boot media: modules, network, session, order runner, console screen; and the guest helper.
//!
//! One static binary with three names: `/init` of the boot media ([`boot`]), `/sbin/modprobe` there ([`modules::modprobe`]), and the guest
//! helper inside an installed system ([`guest`]).
//!
//! Invariants: nothing that is downloaded is executed; a destructive act needs an order, which `machine` checks against the disk; a result
//! is sent until it is stored before anything else happens; PID 1 never ends: a panic is shown, and the machine restarts.

#![forbid(unsafe_code)]

pub mod bmc;
pub mod boot;
pub mod client;
pub mod cmdline;
pub mod console;
pub mod guest;
pub mod modules;
pub mod net;
pub mod pace;
pub mod runner;
pub mod session;
pub mod share;
pub mod system;
