//! Tests of the whole server: through the router, over TLS, and with the stock kubectl.

#![recursion_limit = "256"]

mod client;
mod common;
mod kubectl;
mod lifecycle;
mod rbac;
mod requests;
mod watching;
