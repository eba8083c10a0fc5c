//! The targets of the DHCP servers, as its own tests have them.

#[path = "../../tests/hostile/targets.rs"]
pub mod targets;
