//! The operator against an API server: whole lives, faults, bindings, crashes. One binary, so that everything is linked once.

mod binding;
mod bmc;
mod bmc_events;
mod crashes;
mod embedded;
mod faults;
mod idle;
mod inventory;
mod leases;
mod life;
mod many_bmcs;
mod power;
mod support;
