//! Decoders by themselves: every byte of an image comes once, from whichever thread, and what goes wrong is told by its right name.
#![allow(missing_docs)]

mod collect;
mod qcow2;
mod streams;
