//! The certificate of all controllers of a simulator: signed by itself, made at each start, for names that nobody uses, as controllers have them.

use std::sync::Arc;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsAcceptor;

/// What HTTPS needs.
pub(crate) struct Tls {
    pub acceptor: TlsAcceptor,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

/// Makes a key and a certificate.
///
/// # Errors
/// The libraries refuse; a sentence says why.
pub(crate) fn make() -> Result<Tls, String> {
    let made = rcgen::generate_simple_self_signed(vec!["bmc.invalid".to_owned()]).map_err(|error| error.to_string())?;
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let fingerprint = Sha256::digest(&certificate).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|error| error.to_string())?;
    Ok(Tls {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        fingerprint,
    })
}
