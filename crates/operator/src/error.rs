//! The crate's one error type. A variant names the operation that failed; the cause stays in the source chain.

use agent_protocol::seed::SeedError;

/// Why a controller could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused a request, or could not be reached.
    #[error("could not {verb} {kind} {name}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On which kind.
        kind: String,
        /// On which object, `namespace/name`.
        name: String,
        /// What the API server or the connection said.
        #[source]
        source: Box<kube::Error>,
    },
    /// Netboot's keys are there and cannot be used.
    #[error(
        "Secret {namespace}/{name} cannot be used: {problem}; delete it to have netboot make a new one (running instances then lose their guest helper)"
    )]
    Keys {
        /// Netboot's namespace.
        namespace: String,
        /// Name of the Secret.
        name: &'static str,
        /// What is wrong, without a word of the contents.
        problem: String,
    },
    /// The listener for events of BMCs cannot be had.
    #[error("events of BMCs cannot be received at {address}: {problem}")]
    BmcEvents {
        /// Where it was to listen.
        address: std::net::SocketAddr,
        /// Why not, and what to do.
        problem: String,
    },
    /// A seed could not be sealed.
    #[error("could not seal the seed of {instance}")]
    Seal {
        /// `namespace/name`.
        instance: String,
        /// Why.
        #[source]
        source: SeedError,
    },
    /// A user for a machine's BMC could not be sealed.
    #[error("could not seal the BMC user of BareMetalHardware {hardware}")]
    SealBmcUser {
        /// Name of the machine.
        hardware: String,
        /// Why.
        #[source]
        source: SeedError,
    },
    /// An object lacks what every stored object has.
    #[error("{kind} {name} has no {field}: it was not read from an API server")]
    Incomplete {
        /// Kind.
        kind: String,
        /// Name.
        name: String,
        /// Which part of its metadata.
        field: &'static str,
    },
    /// The Lease was lost.
    #[error("the Lease {0} was lost: this process ends, so that nothing it remembers outlives its turn, and must be started again")]
    Deposed(String),
    /// A part of the operator ended although nobody asked it to.
    #[error("the {0} ended unexpectedly; the process must be started again")]
    Ended(String),
}

impl Error {
    /// Whether somebody else changed the object first (409). Nothing is wrong then: the newer object decides.
    pub fn is_conflict(&self) -> bool {
        self.status_code() == Some(409)
    }

    /// Whether the object is gone (404).
    pub fn is_not_found(&self) -> bool {
        self.status_code() == Some(404)
    }

    /// Whether the API server will never accept this very request (400 or 422).
    pub fn is_invalid(&self) -> bool {
        matches!(self.status_code(), Some(400 | 422))
    }

    /// The HTTP status the API server answered with.
    pub fn status_code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The API server's reason (`Conflict`, `AlreadyExists`, ...), which tells two kinds of 409 apart.
    pub fn api_reason(&self) -> Option<&str> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.reason.as_str()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a create found the name taken.
    pub fn is_already_exists(&self) -> bool {
        self.api_reason() == Some("AlreadyExists")
    }

    /// The whole chain in one line, for logs.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let words = cause.to_string();
            if !text.contains(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            source = cause.source();
        }
        text
    }
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
