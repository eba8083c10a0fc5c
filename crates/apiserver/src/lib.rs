//! An embedded Kubernetes API server for a single machine, stored in one file
