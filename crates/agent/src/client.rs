//! The agent's side of the wire: signed requests over pinned TLS, to whichever server of the list answers.
//!
//! One server is used until it fails; then the next is tried. A request is repeated under a new sequence number and signature, so repeating is
//! always allowed by the protocol. Answers are bounded like requests are.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use agent_protocol::{
    limits::depth,
    session::{ErrorCode, ErrorResponse, HEADER_SEQUENCE, HEADER_SESSION, HEADER_SIGNATURE, encode, sign},
};
use ed25519_dalek::SigningKey;
use serde::de::DeserializeOwned;

use crate::net::dhcp::random;

/// Largest answer: a sealed seed of 512 KiB in base64, and its JSON.
const MAX_ANSWER: usize = 1 << 20;
/// Deepest answer.
const MAX_DEPTH: usize = 32;
/// How long an ordinary request may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server cannot be reached, or broke off.
    #[error("{server} is not reachable: {problem}")]
    Unreachable {
        /// Which server.
        server: String,
        /// The innermost cause.
        problem: String,
    },
    /// The server refuses.
    #[error("{message} ({code:?})")]
    Refused {
        /// Why, for the program.
        code: ErrorCode,
        /// Why, for people.
        message: String,
        /// When to try again at the earliest.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the protocol says.
    #[error("{server} gave an answer that is not of this protocol: {problem}")]
    Answer {
        /// Which server.
        server: String,
        /// What is wrong.
        problem: String,
    },
    /// The client cannot be made.
    #[error("{0}")]
    Setup(String),
}

impl ClientError {
    /// Whether trying again, perhaps with another server, can help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Answer { .. } => true,
            Self::Refused { code, .. } => matches!(code, ErrorCode::Overloaded | ErrorCode::Internal),
            Self::Setup(_) => false,
        }
    }

    /// The server's code, where it refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Refused {
                retry_after: Some(wait), ..
            } => (*wait).min(Duration::from_secs(300)),
            _ => Duration::ZERO,
        }
    }
}

/// Waiting times that double from half a second to half a minute, each with jitter of a half: a thousand machines that lost one server do
/// not come back in step.
#[derive(Debug, Clone, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// The next waiting time.
    pub fn next_wait(&mut self) -> Duration {
        let base = Duration::from_millis(500)
            .saturating_mul(1 << self.0.min(6))
            .min(Duration::from_secs(30));
        self.0 = self.0.saturating_add(1);
        base / 2 + base.mul_f64(f64::from(random::<1>()[0]) / 256.0)
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.0 = 0;
    }

    /// Waits: as long as the error asks for, at least as long as it is due.
    pub async fn wait(&mut self, error: &ClientError) {
        tokio::time::sleep(self.next_wait().max(error.retry_after())).await;
    }
}

/// Signed requests of one key.
pub struct Client {
    http: reqwest::Client,
    servers: Vec<String>,
    current: AtomicUsize,
    key: SigningKey,
    session: Mutex<String>,
    sequence: AtomicU64,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of these servers, all under the CA with this pin.
    ///
    /// # Errors
    /// [`ClientError::Setup`] for a pin that is none, or without any server.
    pub fn new(servers: Vec<String>, pin: &str, key: SigningKey) -> Result<Self, ClientError> {
        let setup = |e: &dyn std::error::Error| ClientError::Setup(e.to_string());
        let tls = pinned_tls::client_config(pin).map_err(|e| setup(&e))?;
        if servers.is_empty() {
            return Err(ClientError::Setup("no server is given".to_owned()));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .tcp_keepalive(Duration::from_secs(15))
            .user_agent(concat!("kube-baremetal-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| setup(&e))?;
        Ok(Self {
            http,
            servers,
            current: AtomicUsize::new(0),
            key,
            session: Mutex::default(),
            sequence: AtomicU64::new(0),
        })
    }

    /// Base64 of the public key.
    pub fn public_key(&self) -> String {
        encode(self.key.verifying_key().as_bytes())
    }

    /// From now on requests belong to this session.
    pub fn set_session(&self, session: &str) {
        session.clone_into(&mut self.session.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sequence numbers continue above this one.
    pub fn start_sequence_at(&self, sequence: u64) {
        self.sequence.store(sequence, Ordering::Relaxed);
    }

    /// The server in use.
    pub fn server(&self) -> &str {
        let at = self.current.load(Ordering::Relaxed) % self.servers.len().max(1);
        self.servers.get(at).map_or("", String::as_str)
    }

    /// One request to the server in use; the next server is in use after a failure.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let server = self.server().to_owned();
        let result = self.send(&server, method, path, body, patience).await;
        if result.as_ref().is_err_and(ClientError::is_passing) {
            self.current.fetch_add(1, Ordering::Relaxed);
        }
        let mut bytes = result?;
        if bytes.is_empty() {
            bytes = b"null".to_vec();
        }
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Answer {
            server,
            problem: e.to_string(),
        })
    }

    async fn send(
        &self,
        server: &str,
        method: reqwest::Method,
        path: &str,
        body: Vec<u8>,
        patience: Duration,
    ) -> Result<Vec<u8>, ClientError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let signature = sign(&self.key, method.as_str(), path, &session, sequence, &body);
        let mut request = self
            .http
            .request(method, format!("{server}{path}"))
            .timeout(patience)
            .header(HEADER_SESSION, session)
            .header(HEADER_SEQUENCE, sequence)
            .header(HEADER_SIGNATURE, signature);
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(body);
        }
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            server: server.to_owned(),
            problem: innermost(&error),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let strange = |problem: String| ClientError::Answer {
            server: server.to_owned(),
            problem,
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > MAX_ANSWER {
                return Err(strange(format!("more than {MAX_ANSWER} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        if depth(&bytes) > MAX_DEPTH {
            return Err(strange("nested too deeply".to_owned()));
        }
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<ErrorResponse>(&bytes) {
            Ok(error) => Err(ClientError::Refused {
                code: error.code,
                message: error.message,
                retry_after: error.retry_after_ms.map(Duration::from_millis),
            }),
            Err(_) => Err(strange(format!("status {status} without a reason"))),
        }
    }
}

/// reqwest's own message only names the URL; the cause below it says what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Encodes a text for a query: what is not a letter, a digit or `-._~` becomes `%XX`.
pub fn query(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(query("a-1.b_c~"), "a-1.b_c~");
        assert_eq!(query("a b&c=\u{e9}"), "a%20b%26c%3D%C3%A9");
    }

    #[test]
    fn waiting_grows_to_a_bound() {
        let mut backoff = Backoff::default();
        let first = backoff.next_wait();
        assert!(first >= Duration::from_millis(250) && first < Duration::from_millis(750));
        for _ in 0..20 {
            assert!(backoff.next_wait() <= Duration::from_secs(45));
        }
        backoff.reset();
        assert!(backoff.next_wait() < Duration::from_millis(750));
    }
}
