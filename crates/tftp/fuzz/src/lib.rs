//! The targets of the TFTP server, as its own tests have them.

#[path = "../../tests/hostile/targets.rs"]
pub mod targets;
