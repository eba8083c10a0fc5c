//! Servers for tests.

// Each test program uses its own part.
#![allow(dead_code)]

pub mod machine_server;
pub mod tls_server;
