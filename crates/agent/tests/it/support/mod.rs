//! Servers for tests.

#![allow(dead_code, reason = "the boot test of the media uses another part than the tests here")]

pub mod image_server;
pub mod machine_server;
pub mod tls_server;
