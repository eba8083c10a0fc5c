//! Tests of the decisions through the crate's public functions.

mod address;
mod bmc;
mod bmc_inventory;
mod boot;
mod boot_order;
mod disks;
mod faults;
mod gates;
mod identity;
mod idle;
mod life;
mod moved;
mod pacing;
mod policy;
mod power;
mod quantity;
mod reinstall;
mod scheduler;
mod seed;
mod withdrawn;
mod world;
