//! Conformance of the embedded API: the suite, and the list of intended differences.

#![recursion_limit = "256"]

mod differential;
mod suite;
