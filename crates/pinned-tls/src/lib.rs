//! TLS for a client that knows one thing: the SHA-256 of its CA's public key (`kbm.ca=` on the kernel command line).
//!
//! What is checked, and all of it must hold:
//! * the server sends its own certificate and the CA's; the SHA-256 of the CA's SubjectPublicKeyInfo (DER) equals the pin;
//! * the server's certificate chains to that CA and is meant for server authentication (rustls-webpki);
//! * the server's certificate carries the DNS name [`SERVER_NAME`];
//! * the handshake is signed by the certificate's key.
//!
//! What is deliberately not checked:
//! * **Time.** A machine with an empty CMOS battery believes it is 1970 or 2099. Validity is judged at the certificate's own `notBefore`, so
//!   that a wrong clock is no obstacle.
//! * **The address.** A machine reaches the server under addresses that the server cannot know (NAT, port forwarding, QEMU's 10.0.2.2).
//!   Whoever holds a certificate of the pinned CA for [`SERVER_NAME`] is the server; the name in the URL says only where to connect.
//!
//! Revocation does not exist here: a lost key means a new CA and so a new pin, which each boot brings anew.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The DNS name (subject alternative name) that the server's certificate must carry.
pub const SERVER_NAME: &str = "kube-baremetal-netboot";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The pin is not a SHA-256.
    #[error("the CA pin {0:?} is not a SHA-256: write 64 hexadecimal digits")]
    Form(String),
    /// The TLS library refused its own defaults.
    #[error("the TLS library has no usable protocol version")]
    Tls(#[source] TlsError),
}

/// Lower-case hexadecimal SHA-256 of a certificate's SubjectPublicKeyInfo: what belongs into `kbm.ca=`.
///
/// # Errors
/// The TLS library's error when `certificate` is not an X.509 certificate.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Result<String, TlsError> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(hex::encode(Sha256::digest(parsed.subject_public_key_info().as_ref())))
}

/// A client configuration that trusts the CA with this pin and nobody else. No ALPN is set: HTTP/1.1, unless the caller adds protocols.
///
/// # Errors
/// [`PinError::Form`] when `pin` is not 64 hexadecimal digits.
pub fn client_config(pin: &str) -> Result<ClientConfig, PinError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(pin, &mut bytes).map_err(|_| PinError::Form(pin.chars().take(80).collect()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = PinnedCa {
        pin: bytes,
        algorithms: provider.signature_verification_algorithms,
    };
    let config = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .map_err(PinError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

#[derive(Debug)]
struct PinnedCa {
    pin: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

/// The moment at which validity is judged: when the leaf began to be valid.
fn not_before(leaf: &CertificateDer<'_>) -> Result<UnixTime, TlsError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
    let seconds = parsed.validity().not_before.timestamp();
    let seconds = u64::try_from(seconds).map_err(|_| TlsError::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let pinned = intermediates.iter().find(|certificate| {
            ParsedCertificate::try_from(*certificate)
                .is_ok_and(|parsed| Sha256::digest(parsed.subject_public_key_info().as_ref()).as_slice() == self.pin)
        });
        let Some(ca) = pinned else {
            return Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let leaf = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, not_before(end_entity)?, self.algorithms.all)?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|_| TlsError::InvalidCertificate(CertificateError::NotValidForName))?;
        verify_server_name(&leaf, &name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
