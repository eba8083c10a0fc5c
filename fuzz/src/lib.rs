//! The targets of the embedded API, as its own tests have them.

#![recursion_limit = "256"]

#[path = "../../crates/apiserver/tests/hostile/targets/mod.rs"]
pub mod targets;
