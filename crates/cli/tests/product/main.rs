//! The life of the product itself, through the program and against simulated machines: moving, restoring, new keys, upgrades, and a time without an API server.

#[path = "../cluster/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod cluster;
mod gate;
mod herd;
mod images;
mod moving;
mod outage;
mod restore;
mod rotation;
mod upgrade;
