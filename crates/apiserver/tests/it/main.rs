//! Tests of the whole server: through the router, over TLS, with the stock kubectl, and under kill -9.

#![recursion_limit = "256"]

mod client;
mod common;
mod crash;
mod kubectl;
mod lifecycle;
mod rbac;
mod requests;
mod watching;
