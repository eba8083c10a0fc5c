//! Redfish against a real peer (sushy-tools), against a service of the tests' own for what that peer does not do, and against whole services of vendors' kinds whose documents
//! are changed on their way.

mod lenient;
#[path = "../support/served.rs"]
mod served;
mod service;
mod sushy;
mod trees;
mod vendors;
