//! The targets of the image crate, as its own tests have them.

#[path = "../../tests/hostile/targets.rs"]
pub mod targets;
