//! The targets of the power drivers, as their own tests have them.

#[path = "../../tests/ipmi/bmc.rs"]
pub mod bmc;
#[path = "../../tests/hostile/targets.rs"]
pub mod targets;
