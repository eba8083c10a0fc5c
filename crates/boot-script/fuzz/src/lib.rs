//! The targets of boot scripts, as their own tests have them.

#[path = "../../tests/hostile/targets.rs"]
pub mod targets;
