//! Does the embedded API do what the real one does? One suite of named behaviours and one differential run answer it.
//!
//! Invariants:
//! * Both servers get the same requests over TLS from the same raw client, and the same expectations. The real kube-apiserver is the reference.
//! * A difference is either mended in the embedded API or stands on the written list of intended ones ([`differential::intended`]), with its reason.
//! * A behaviour works in a namespace of its own and in names derived from it, so that all of them run side by side.
//!
//! It says nothing about speed, durability or access rights: those have tests of their own.

pub mod api;
pub mod behaviour;
pub mod definitions;
pub mod differential;
pub mod found;
pub mod servers;
pub mod suite;
