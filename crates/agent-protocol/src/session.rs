//! Sessions: how an agent introduces itself, and how every later request proves who sends it.
//!
//! `POST /agent/v1/sessions` redeems the boot token and binds it to two public keys made for this boot: Ed25519 (RFC 8032) for signing
//! requests, X25519 for opening the sealed seed. Every request, this one too, carries the headers [`HEADER_SESSION`], [`HEADER_SEQUENCE`] and
//! [`HEADER_SIGNATURE`]. There is no bearer secret: whoever reads a request cannot make another.
//!
//! The sequence number only has to grow within one session and replica; a replica that sees a session for the first time starts from what it sees.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{bmc_user::SealedBmcUser, identity::MacAddress, inventory::Inventory, order::Order, seed::SealedSeed};

/// Session id (empty while a session is being opened).
pub const HEADER_SESSION: &str = "kbm-session";
/// Decimal sequence number, growing with each request of a session.
pub const HEADER_SEQUENCE: &str = "kbm-sequence";
/// Base64 Ed25519 signature over [`signing_input`].
pub const HEADER_SIGNATURE: &str = "kbm-signature";

/// Opens a session.
pub const PATH_SESSIONS: &str = "/agent/v1/sessions";
/// Asks for the present order, `?after=<order id>` long-polls until it is another one.
pub const PATH_ORDER: &str = "/agent/v1/order";
/// Takes progress and results.
pub const PATH_REPORTS: &str = "/agent/v1/reports";
/// Gives the sealed seed, once, while imaging.
pub const PATH_SEED: &str = "/agent/v1/seed";
/// With this parameter of [`PATH_ORDER`] an agent says that it takes the seed in the same answer as the order ([`OrderResponse::seed`]).
pub const QUERY_SEED: &str = "seed=1";

/// Body of `POST /agent/v1/sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRequest {
    /// [`crate::PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// Version of the agent, for people.
    pub agent_version: String,
    /// The boot token from the kernel command line.
    pub token: String,
    /// MAC of the interface the machine booted from.
    pub boot_mac: MacAddress,
    /// Base64 of the 32-byte Ed25519 public key.
    pub signing_key: String,
    /// Base64 of the 32-byte X25519 public key.
    pub sealing_key: String,
    /// What the machine is.
    pub inventory: Inventory,
}

/// Answer to `POST /agent/v1/sessions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionResponse {
    /// The session's id, for [`HEADER_SESSION`].
    pub session: String,
    /// Name of the BareMetalDiscovery, for the console.
    pub discovery: String,
    /// Name of the BareMetalHardware, where there is one already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Protocol the server will speak with this agent.
    pub protocol: u32,
    /// Seconds for which `GET /agent/v1/order` may be held.
    pub poll_seconds: u32,
}

/// Answer to `GET /agent/v1/order`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderResponse {
    /// What to do.
    pub order: Order,
    /// What the server thinks of this machine, for the console: phase and reason in one line.
    #[serde(default)]
    pub note: String,
    /// The sealed seed of an image order that is handed out for the first time, for an agent that asked with [`QUERY_SEED`]. Without it the agent asks at [`PATH_SEED`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<SealedSeed>,
    /// A user to make in the machine's BMC beside the order, for an agent that asked with [`QUERY_BMC_USER`](crate::bmc_user::QUERY_BMC_USER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc_user: Option<SealedBmcUser>,
}

/// Body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorResponse {
    /// Which error.
    pub code: ErrorCode,
    /// What failed and what to do next.
    pub message: String,
    /// For [`ErrorCode::Overloaded`]: wait at least so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// Errors an agent acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorCode {
    /// 400: the request is malformed; the message names the field.
    Malformed,
    /// 401: token unknown, expired, replayed, or of another machine or address. Remedy for the agent: reboot for a new one.
    TokenRefused,
    /// 401: signature or sequence wrong.
    SignatureRefused,
    /// 410: the session is gone (another boot of this machine opened a newer one). Remedy: reboot.
    SessionGone,
    /// 403: not for this session (a stranger's order or seed).
    Forbidden,
    /// 409: report for an order that is not the accepted one.
    StaleOrder,
    /// 409: the machine's identity conflicts with another's; a person decides. Remedy: boot the own disk.
    IdentityConflict,
    /// 404: nothing there (no seed for this order).
    NotFound,
    /// 413: too large.
    TooLarge,
    /// 429 or 503: try again later.
    Overloaded,
    /// 426: protocol version not served.
    UnsupportedProtocol,
    /// 500.
    Internal,
}

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The key is not base64 of 32 bytes, or not a point on the curve.
    #[error("the public key is not a valid Ed25519 key in base64")]
    Key,
    /// The signature is not base64 of 64 bytes.
    #[error("the signature is not 64 bytes in base64")]
    Form,
    /// It does not verify.
    #[error("the signature does not verify")]
    Mismatch,
}

/// What is signed: method, path with query, session, sequence and body digest, each on its own line.
pub fn signing_input(method: &str, path_and_query: &str, session: &str, sequence: u64, body: &[u8]) -> Vec<u8> {
    let digest = hex::encode(Sha256::digest(body));
    format!("kbm-agent-v1\n{method}\n{path_and_query}\n{session}\n{sequence}\n{digest}\n").into_bytes()
}

/// Signs a request; returns the value of [`HEADER_SIGNATURE`].
pub fn sign(key: &SigningKey, method: &str, path_and_query: &str, session: &str, sequence: u64, body: &[u8]) -> String {
    encode(&key.sign(&signing_input(method, path_and_query, session, sequence, body)).to_bytes())
}

/// Checks a request's signature against the base64 public key of its session.
///
/// # Errors
/// [`SignatureError`] when key or signature are malformed, or do not belong together.
pub fn verify(
    public_key: &str,
    signature: &str,
    method: &str,
    path_and_query: &str,
    session: &str,
    sequence: u64,
    body: &[u8],
) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(&decode::<32>(public_key).ok_or(SignatureError::Key)?).map_err(|_| SignatureError::Key)?;
    let signature = Signature::from_bytes(&decode::<64>(signature).ok_or(SignatureError::Form)?);
    key.verify_strict(&signing_input(method, path_and_query, session, sequence, body), &signature)
        .map_err(|_| SignatureError::Mismatch)
}

/// Lower-case hexadecimal SHA-256 over both public keys: names a session's keys in objects and logs.
pub fn thumbprint(signing_key: &str, sealing_key: &str) -> String {
    hex::encode(Sha256::digest(format!("{signing_key}\n{sealing_key}\n")))
}

/// Base64 (RFC 4648, section 4) as used for keys and signatures.
pub fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Reads base64 of exactly `N` bytes.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    use base64::Engine;
    // Bounded before decoding: 4 characters carry 3 bytes.
    if text.len() > N.div_ceil(3) * 4 {
        return None;
    }
    base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
}

/// Reads base64 of at most `most` characters.
pub fn decode_up_to(text: &str, most: usize) -> Option<Vec<u8>> {
    use base64::Engine;
    let text = Some(text).filter(|text| text.len() <= most)?;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_covers_every_part_of_the_request() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = encode(key.verifying_key().as_bytes());
        let signature = sign(&key, "POST", "/agent/v1/reports", "s1", 4, b"{}");
        let check = |m: &str, p: &str, s: &str, n: u64, b: &[u8]| verify(&public, &signature, m, p, s, n, b);
        assert_eq!(check("POST", "/agent/v1/reports", "s1", 4, b"{}"), Ok(()));
        assert_eq!(check("GET", "/agent/v1/reports", "s1", 4, b"{}"), Err(SignatureError::Mismatch));
        assert_eq!(check("POST", "/agent/v1/seed", "s1", 4, b"{}"), Err(SignatureError::Mismatch));
        assert_eq!(check("POST", "/agent/v1/reports", "s2", 4, b"{}"), Err(SignatureError::Mismatch));
        assert_eq!(check("POST", "/agent/v1/reports", "s1", 5, b"{}"), Err(SignatureError::Mismatch));
        assert_eq!(check("POST", "/agent/v1/reports", "s1", 4, b"{ }"), Err(SignatureError::Mismatch));
        assert_eq!(verify("AAAA", &signature, "POST", "/", "s1", 4, b""), Err(SignatureError::Key));
        assert_eq!(verify(&public, "", "POST", "/", "s1", 4, b""), Err(SignatureError::Form));
    }
}
