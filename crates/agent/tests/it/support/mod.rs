//! Servers for tests.

// The boot test of the media uses these too (crates/bootmedia/tests/qemu_boot.rs), and another part of them.
#![allow(dead_code)]

pub mod machine_server;
pub mod tls_server;
