//! The crate from outside: packets in, packets out.

mod clients;
mod v4_boot;
mod v4_replicas;
mod v4_server;
mod v4_swarm;
mod v4_wire;
mod v6;
