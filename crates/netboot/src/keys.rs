//! The Secret `netboot-keys` and what is made of it.
//!
//! The first replica creates it (creating is atomic), every other one reads it. Its keys:
//!
//! | key | what |
//! |---|---|
//! | `token.key` | 32 random bytes: HMAC key of boot and guest tokens |
//! | `token-previous-1.key`, ... | optional: earlier ones, newest first; tokens made with them are still taken ([`crate::rotation`]) |
//! | `guest-order.key` | 32 bytes: Ed25519 seed that signs guest orders |
//! | `ca.crt`, `ca.key` | PEM: the CA whose public key's SHA-256 is the pin on the kernel command line |
//! | `ca-chain.crt` | optional, PEM: what earlier CAs say of the present one, and their own certificates: for machines that know only an earlier pin ([`crate::rotation`]) |
//!
//! Each replica makes its own leaf certificate and keeps it in memory only. Nothing here is ever printed.

use std::{collections::BTreeMap, sync::Arc};

use agent_protocol::token::{BootClaims, GuestClaims, MediumClaims, TokenError, TokenKey};
use ed25519_dalek::SigningKey;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{ServerConfig, crypto::CryptoProvider, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest, Sha256};

use crate::error::Error;

/// Name of the Secret.
pub const SECRET_NAME: &str = "netboot-keys";

pub(crate) const TOKEN: &str = "token.key";
/// How the names of earlier token keys begin.
pub(crate) const TOKEN_PREVIOUS: &str = "token-previous";
const GUEST: &str = "guest-order.key";
pub(crate) const CA_CERT: &str = "ca.crt";
pub(crate) const CA_KEY: &str = "ca.key";
pub(crate) const CA_CHAIN: &str = "ca-chain.crt";

/// Keys in use by this replica.
pub struct Keys {
    token: TokenKey,
    /// Newest first.
    tokens_previous: Vec<TokenKey>,
    guest: SigningKey,
    /// Marks session ids as ours.
    session: [u8; 32],
    pin: String,
    tls: Arc<ServerConfig>,
    /// What the Secret held, to see when it changes.
    version: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// The pin that the keys in a Secret give, by which machines know netboot.
///
/// # Errors
/// [`Error::Keys`] when one of them is missing or malformed.
pub fn pin_in(secret: &Secret) -> Result<String, Error> {
    Keys::from_secret(secret).map(|keys| keys.pin().to_owned())
}

impl Keys {
    /// SHA-256 of the CA's public key: `kbm.ca=`.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// Base64 Ed25519 public key that signs guest orders.
    pub fn guest_order_key(&self) -> String {
        agent_protocol::session::encode(self.guest.verifying_key().as_bytes())
    }

    pub(crate) fn guest(&self) -> &SigningKey {
        &self.guest
    }

    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.clone()
    }

    pub(crate) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    pub(crate) fn issue_boot(&self, claims: &BootClaims) -> String {
        self.token.issue_boot(claims)
    }

    pub(crate) fn check_boot(&self, token: &str, now: i64, max_age: i64) -> Result<BootClaims, TokenError> {
        self.with_any(|key| key.check_boot(token, now, max_age))
    }

    pub(crate) fn issue_medium(&self, claims: &MediumClaims) -> String {
        self.token.issue_medium(claims)
    }

    pub(crate) fn check_medium(&self, token: &str) -> Result<MediumClaims, TokenError> {
        self.with_any(|key| key.check_medium(token))
    }

    /// The first key's answer that is not "made with another key".
    fn with_any<T>(&self, check: impl Fn(&TokenKey) -> Result<T, TokenError>) -> Result<T, TokenError> {
        let mut answers = std::iter::once(&self.token).chain(&self.tokens_previous).map(check);
        let other_key = |answer: &Result<T, TokenError>| matches!(answer, Err(TokenError::Forged));
        answers.find(|answer| !other_key(answer)).unwrap_or(Err(TokenError::Forged))
    }

    pub(crate) fn check_guest(&self, token: &str) -> Result<GuestClaims, TokenError> {
        self.with_any(|key| key.check_guest(token))
    }

    /// A new session id for this machine: `<name>.<8 random bytes><8 bytes of tag>`. `None` without randomness.
    pub(crate) fn new_session(&self, machine: &str) -> Option<String> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).ok()?;
        let random = hex::encode(random);
        let tag = self.session_tag(machine, &random);
        Some(format!("{machine}.{random}{tag}"))
    }

    /// The machine that a session id of ours names.
    pub(crate) fn session_machine<'a>(&self, session: &'a str) -> Option<&'a str> {
        let (machine, rest) = session.rsplit_once('.')?;
        if machine.is_empty() || rest.len() != 32 || !rest.is_ascii() {
            return None;
        }
        let (random, tag) = rest.split_at(16);
        (self.session_tag(machine, random) == tag).then_some(machine)
    }

    fn session_tag(&self, machine: &str, random: &str) -> String {
        // Fixed lengths around the name, and a truncated digest: nothing can be appended.
        let digest = Sha256::new_with_prefix(self.session)
            .chain_update(random)
            .chain_update(machine)
            .chain_update(self.session)
            .finalize();
        hex::encode(&digest[..8])
    }

    /// Reads the Secret and makes this replica's leaf certificate.
    ///
    /// # Errors
    /// [`Error::Keys`] that names the key which is missing or malformed.
    pub fn from_secret(secret: &Secret) -> Result<Self, Error> {
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        let fault = |key, problem: String| Error::Keys {
            namespace: namespace.clone(),
            name: SECRET_NAME,
            key,
            problem,
        };
        let data = secret.data.as_ref();
        let get = |key: &'static str| {
            data.and_then(|d| d.get(key))
                .map(|b| b.0.as_slice())
                .ok_or_else(|| fault(key, "is missing".to_owned()))
        };
        let token = TokenKey::new(get(TOKEN)?).ok_or_else(|| fault(TOKEN, "must have at least 32 bytes".to_owned()))?;
        let short = || fault(TOKEN_PREVIOUS, "must have at least 32 bytes".to_owned());
        let earlier = previous_tokens(secret)
            .into_iter()
            .map(|bytes| TokenKey::new(bytes).ok_or_else(short));
        let tokens_previous = earlier.collect::<Result<_, _>>()?;
        let guest: [u8; 32] = get(GUEST)?
            .try_into()
            .map_err(|_| fault(GUEST, "must have exactly 32 bytes".to_owned()))?;
        let ca =
            CertificateDer::from_pem_slice(get(CA_CERT)?).map_err(|e| fault(CA_CERT, format!("is not a certificate in PEM ({e:?})")))?;
        let ca_key = std::str::from_utf8(get(CA_KEY)?)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            // Nothing of the parser's message: it may quote the key.
            .ok_or_else(|| fault(CA_KEY, "is not a private key in PEM".to_owned()))?;
        let pin = pinned_tls::pin_of(&ca).map_err(|e| fault(CA_CERT, format!("is not a usable certificate ({e})")))?;
        let chain = data.and_then(|d| d.get(CA_CHAIN)).map(|b| b.0.as_slice()).unwrap_or_default();
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| fault(CA_CHAIN, format!("is not a list of certificates in PEM ({e:?})")))?;
        let tls = server_config(&ca, ca_key, chain)?;
        Ok(Self {
            token,
            tokens_previous,
            guest: SigningKey::from_bytes(&guest),
            session: Sha256::new_with_prefix(b"kube-baremetal session ids\n")
                .chain_update(guest)
                .finalize()
                .into(),
            pin,
            tls: Arc::new(tls),
            version: secret.metadata.resource_version.clone(),
        })
    }
}

/// Earlier token keys, newest first.
pub(crate) fn previous_tokens(secret: &Secret) -> Vec<&[u8]> {
    // Few, and numbered with one digit: their names' order is theirs.
    let earlier = secret.data.iter().flatten().filter(|(key, _)| key.starts_with(TOKEN_PREVIOUS));
    earlier.map(|(_, bytes)| bytes.0.as_slice()).collect()
}

pub(crate) fn random() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Error::Crypto {
        what: "random bytes",
        problem: e.to_string(),
    })?;
    Ok(bytes)
}

pub(crate) fn crypto(what: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |e| Error::Crypto {
        what,
        problem: e.to_string(),
    }
}

/// A Secret with new keys.
///
/// # Errors
/// [`Error::Crypto`] when the kernel gives no randomness.
pub fn new_secret(namespace: &str) -> Result<Secret, Error> {
    let key = KeyPair::generate().map_err(crypto("the CA's key"))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Kube BareMetal netboot CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(crypto("the CA's certificate"))?;
    let data: BTreeMap<String, ByteString> = [
        (TOKEN, random()?.to_vec()),
        (GUEST, random()?.to_vec()),
        (CA_CERT, certificate.pem().into_bytes()),
        (CA_KEY, key.serialize_pem().into_bytes()),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), ByteString(bytes)))
    .collect();
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET_NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kube-baremetal.io/netboot-keys".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

fn server_config(ca: &CertificateDer<'static>, ca_key: KeyPair, earlier: Vec<CertificateDer<'static>>) -> Result<ServerConfig, Error> {
    let issuer = Issuer::from_ca_cert_der(ca, ca_key).map_err(crypto("certificates with this CA"))?;
    let leaf_key = KeyPair::generate().map_err(crypto("the replica's TLS key"))?;
    let mut params = CertificateParams::new(vec![pinned_tls::SERVER_NAME.to_owned()]).map_err(crypto("the replica's certificate"))?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, pinned_tls::SERVER_NAME);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = params.signed_by(&leaf_key, &issuer).map_err(crypto("the replica's certificate"))?;
    let tls = |e: rustls::Error| Error::Crypto {
        what: "the TLS configuration",
        problem: e.to_string(),
    };
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let key = provider.key_provider.load_private_key(key).map_err(tls)?;
    // The CA goes along: an agent knows only its digest. So do the earlier ones, for those who know theirs.
    let chain = [leaf.der().clone(), ca.clone()].into_iter().chain(earlier).collect();
    let certified = CertifiedKey::new(chain, key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    // A machine that reboots has forgotten its tickets; keeping them for it would only cost memory.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_secret_reads_back_and_its_pin_is_that_of_its_ca() {
        let secret = new_secret("ns").unwrap();
        let keys = Keys::from_secret(&secret).unwrap();
        let ca = CertificateDer::from_pem_slice(&secret.data.as_ref().unwrap()[CA_CERT].0).unwrap();
        assert_eq!(keys.pin(), pinned_tls::pin_of(&ca).unwrap());
        assert_ne!(new_secret("ns").unwrap().data.unwrap()[TOKEN], secret.data.unwrap()[TOKEN]);
        assert!(!format!("{keys:?}").contains("SigningKey"));
    }

    #[test]
    fn a_broken_secret_is_refused_by_the_name_of_its_key() {
        for key in [TOKEN, GUEST, CA_CERT, CA_KEY] {
            let mut secret = new_secret("ns").unwrap();
            secret.data.as_mut().unwrap().insert(key.to_owned(), ByteString(b"short".to_vec()));
            let error = Keys::from_secret(&secret).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
            assert!(!error.contains("short"), "{error}");
            secret.data.as_mut().unwrap().remove(key);
            assert!(Keys::from_secret(&secret).unwrap_err().to_string().contains("is missing"));
        }
    }

    #[test]
    fn a_session_id_is_known_by_the_keys_that_made_it() {
        let keys = Keys::from_secret(&new_secret("ns").unwrap()).unwrap();
        let id = keys.new_session("m-abc").unwrap();
        assert_eq!(keys.session_machine(&id), Some("m-abc"));
        assert_eq!(keys.session_machine(&id.replace("m-abc", "m-abd")), None);
        assert_eq!(Keys::from_secret(&new_secret("ns").unwrap()).unwrap().session_machine(&id), None);
        for bad in ["", ".", "m-abc", "m-abc.00", &format!("m-abc.{}", "é".repeat(16))] {
            assert_eq!(keys.session_machine(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_of_the_previous_key_are_still_taken() {
        let mut secret = new_secret("ns").unwrap();
        let claims = BootClaims {
            uuid: None,
            mac: agent_protocol::identity::MacAddress([2, 0, 0, 0, 0, 1]),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            elsewhere: Vec::new(),
            nonce: "n".to_owned(),
            issued_at: 1000,
        };
        let old = Keys::from_secret(&secret).unwrap().issue_boot(&claims);
        let data = secret.data.as_mut().unwrap();
        let previous = data.insert(TOKEN.to_owned(), ByteString(vec![9; 32])).unwrap();
        assert_eq!(
            Keys::from_secret(&secret).unwrap().check_boot(&old, 1000, 10),
            Err(TokenError::Forged)
        );
        secret.data.as_mut().unwrap().insert(format!("{TOKEN_PREVIOUS}-1.key"), previous);
        assert_eq!(Keys::from_secret(&secret).unwrap().check_boot(&old, 1000, 10), Ok(claims));
    }
}
