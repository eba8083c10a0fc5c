//! An embedded Kubernetes API server for a single machine, stored in one file.
//!
//! It speaks the real protocol for custom resources and for a few core kinds, so that `kubectl` and `kube::Client` cannot
//! tell it from a cluster's. Objects are stored durably in one file ([`store`]); requests are answered from memory
//! ([`server`]); what objects may look like and how they change are pure functions ([`schema`], [`patch`], [`apply`]).
//!
//! It runs no pods, no webhooks and no aggregated servers.

pub mod apply;
pub mod patch;
pub mod schema;
pub mod server;
pub mod store;

pub use server::identity::Identity;
pub use server::{ApiServer, Bearer, Config};

/// What can go wrong when a server is opened or serves.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// A file of the data directory or a kubeconfig.
    #[error("cannot read or write {}; check that it exists and that this user may", path.display())]
    File {
        /// Which one.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Keys and certificates.
    #[error("cannot {what}; if the data directory was damaged, move ca.crt and ca.key away and clients get a new kubeconfig")]
    Tls {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key that signs service account tokens.
    #[error("cannot read or make sa.key in the data directory; if it was damaged, move it away and every token becomes worthless")]
    TokenKey {
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A client certificate is made with one organisation, so it can name one group.
    #[error("a client certificate for {user} would need {count} groups and can carry one; leave the others out")]
    Groups {
        /// For whom.
        user: String,
        /// How many groups.
        count: usize,
    },
    /// The first steps of the server failed.
    #[error("the API server could not start: {0}")]
    Start(String),
}

/// Result of opening and serving.
pub type Result<T> = std::result::Result<T, Error>;
