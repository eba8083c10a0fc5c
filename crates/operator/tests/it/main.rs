//! The operator against an API server: whole lives, faults, bindings, crashes. One binary, so that everything is linked once.

mod binding;
mod bmc;
mod crashes;
mod embedded;
mod faults;
mod leases;
mod life;
mod power;
mod support;
