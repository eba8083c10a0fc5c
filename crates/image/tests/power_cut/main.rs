//! The order of writes, under power cuts of a disk that loses and reorders what was not flushed ([`image::device::sim`]), for images that are
//! streamed and for packed ones.
//!
//! * [`enumerated`]: the power is cut before every single write and flush, with many choices of what of the unflushed writes survived, and
//!   the disk must be in one of the allowed states every time. Then the same check must find a violation as soon as any one flush is left out.
//! * [`random`]: many cuts at random points of larger images, several to one write, each followed by a restart, until the disk is whole.
#![allow(missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod enumerated;
mod random;
mod state;
