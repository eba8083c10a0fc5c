//! An embedded Kubernetes API server for a single machine, stored in one file

pub mod apply;
pub mod patch;
pub mod schema;
