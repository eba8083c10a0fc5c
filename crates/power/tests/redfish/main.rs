//! Redfish against a real peer (sushy-tools) and against a service of the tests' own, for what that peer does not do.

mod lenient;
#[path = "../support/served.rs"]
mod served;
mod service;
mod sushy;
mod vendors;
