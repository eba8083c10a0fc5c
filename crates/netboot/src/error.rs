//! What can keep this replica from starting or from storing something. What an agent is told is another matter: see [`crate::reply`].

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: choose another address or stop what listens there")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The DHCP ports of an interface could not be opened.
    #[error(
        "cannot listen for DHCP on interface {interface} (ports 67 and 4011): the interface must be there, this process needs root or CAP_NET_BIND_SERVICE and CAP_NET_RAW, and no DHCP server of this host may keep the ports for itself"
    )]
    Dhcp {
        /// Which interface.
        interface: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A value in the configuration cannot be used.
    #[error("netboot configuration, {field}: {problem}")]
    Config {
        /// Which field.
        field: &'static str,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The image store cannot be used.
    #[error("the image store cannot be opened: {problem}")]
    Store {
        /// What is wrong and what to do.
        problem: String,
    },
    /// The Kubernetes API refused or did not answer.
    #[error("{action} {object}: the Kubernetes API did not do it")]
    Api {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API did not answer in time.
    #[error("{action} {object}: no answer from the Kubernetes API within {seconds} s")]
    ApiTimeout {
        /// What was tried.
        action: &'static str,
        /// On what.
        object: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Others changed an object again and again while we tried to.
    #[error("{object} was changed by others {attempts} times in a row while this replica tried to write it; try again")]
    Conflict {
        /// Which object.
        object: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A key of the Secret is missing or malformed.
    #[error(
        "Secret {namespace}/{name}, key {key}: {problem}; restore it from a backup, or delete the Secret to have new keys made (machines in the agent then reboot)"
    )]
    Keys {
        /// Namespace.
        namespace: String,
        /// Name.
        name: &'static str,
        /// Which key.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make {what}: {problem}")]
    Crypto {
        /// What.
        what: &'static str,
        /// Why.
        problem: String,
    },
}

impl Error {
    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_code(source, 404))
    }

    /// Whether the write came too late: someone else wrote first, or created it first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_code(source, 409))
    }

    /// Whether the right to do it is missing.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_code(source, 403))
    }

    /// Whether the API answered at all. A refusal is an answer.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(source.as_ref(), kube::Error::Api(s) if s.code < 500))
            || matches!(self, Self::Conflict { .. })
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// The causes of an error in one line, for a log that shows one line per event.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
