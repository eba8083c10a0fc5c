//! Whom a driver that speaks TLS believes, and who it is there: a controller whose certificate has a given fingerprint, or one that an authority vouches for.
//!
//! Controllers come with certificates that they signed themselves, for names that nobody uses. So the fingerprint is what most people have: the SHA-256 of the
//! certificate, as browsers and `openssl x509 -fingerprint -sha256` show it. It says more than a name would, so the name is not looked at, nor the time. With an
//! authority everything is looked at. There is no way to believe anybody; the fingerprint that was seen is in the error, for a person to compare and copy.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, OtherError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::fault::{Fault, quoted};

/// Whom a driver believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The one whose certificate has this SHA-256.
    Fingerprint([u8; 32]),
    /// Whoever has a certificate of one of these authorities for the name in the URL.
    Authorities(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// A fingerprint as people write it: 64 hexadecimal digits, with colons or without.
    ///
    /// # Errors
    /// [`Fault::Settings`] for `fingerprint`.
    pub fn fingerprint(text: &str) -> Result<Self, Fault> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.trim().replace(':', ""), &mut bytes).map_err(|_| Fault::Settings {
            field: "fingerprint",
            problem: "it is not the SHA-256 of a certificate: write 64 hexadecimal digits".to_owned(),
        })?;
        Ok(Self::Fingerprint(bytes))
    }

    /// Authorities in PEM, one after another.
    ///
    /// # Errors
    /// [`Fault::Settings`] for `ca`: nothing in it, or something that is no certificate.
    pub fn authorities(pem: &[u8]) -> Result<Self, Fault> {
        let wrong = |problem: String| Fault::Settings { field: "ca", problem };
        let authorities: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(format!("it is not PEM: {error}")))?;
        if authorities.is_empty() {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
        Ok(Self::Authorities(authorities))
    }

    /// TLS that believes so.
    ///
    /// # Errors
    /// [`Fault::Settings`] for an authority that cannot be one.
    pub fn config(&self) -> Result<ClientConfig, Fault> {
        self.config_as(None)
    }

    /// TLS that believes so, and says who we are.
    ///
    /// # Errors
    /// [`Fault::Settings`] for an authority that cannot be one, and for a key that is not the certificate's.
    pub fn config_as(&self, identity: Option<&Identity>) -> Result<ClientConfig, Fault> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::Untrusted(error.to_string()))?;
        let builder = match self {
            Self::Fingerprint(wanted) => builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned {
                wanted: *wanted,
                algorithms,
            })),
            Self::Authorities(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority.clone()).map_err(|error| Fault::Settings {
                        field: "ca",
                        problem: format!("a certificate in it cannot be an authority: {error}"),
                    })?;
                }
                builder.with_root_certificates(roots)
            }
        };
        match identity {
            None => Ok(builder.with_no_client_auth()),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(|error| Fault::Settings {
                    field: "key",
                    problem: format!("it does not go with the certificate: {error}"),
                }),
        }
    }
}

/// Who a driver is: a certificate and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// A certificate, and those between it and its authority, and the key, each in PEM.
    ///
    /// # Errors
    /// [`Fault::Settings`] for `certificate` and `key`: there is none in it.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, Fault> {
        let wrong = |field, problem: String| Fault::Settings { field, problem };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong("certificate", format!("it is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(wrong("certificate", "there is none in it".to_owned()));
        }
        // Of a key not even what is wrong with its bytes is told.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| wrong("key", "there is no private key in PEM in it".to_owned()))?;
        Ok(Self { chain, key })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("certificates", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// Another certificate than the wanted one.
#[derive(Debug, thiserror::Error)]
#[error(
    "its certificate has the fingerprint {}, not {}: if that is what the controller shows on its own page, write it into the spec",
    hex::encode(seen),
    hex::encode(wanted)
)]
struct Other {
    seen: [u8; 32],
    wanted: [u8; 32],
}

#[derive(Debug)]
struct Pinned {
    wanted: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let seen = Sha256::digest(end_entity.as_ref()).into();
        if seen == self.wanted {
            return Ok(ServerCertVerified::assertion());
        }
        let wanted = self.wanted;
        let other = Other { seen, wanted };
        Err(TlsError::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))))
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

/// The SHA-256 of the certificate that the other end of a connection shows. It is only looked at: the handshake ends there, so nobody is believed and nothing said.
///
/// # Errors
/// It is lost, or speaks no TLS that we know.
pub(crate) async fn shown(host: IpAddr, stream: TcpStream) -> Result<[u8; 32], Fault> {
    // No certificate has this fingerprint.
    let config = Trust::Fingerprint([0; 32]).config()?;
    let Err(error) = TlsConnector::from(Arc::new(config))
        .connect(ServerName::IpAddress(host.into()), stream)
        .await
    else {
        return Err(Fault::Garbled("it showed a certificate that cannot be".to_owned()));
    };
    let seen = match of_tls(&error) {
        Some(TlsError::InvalidCertificate(CertificateError::Other(OtherError(other)))) => {
            other.downcast_ref::<Other>().map(|other| other.seen)
        }
        Some(other) => return Err(Fault::Untrusted(other.to_string())),
        None => None,
    };
    seen.ok_or_else(|| Fault::Unreachable(quoted(&error.to_string(), &[])))
}

/// What TLS had against the other side, if that is what an error is about.
#[must_use]
pub(crate) fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    Some(match of_tls(error)? {
        TlsError::InvalidCertificate(CertificateError::Other(OtherError(other))) => other.to_string(),
        TlsError::InvalidCertificate(reason) => format!("its certificate is not valid: {reason}"),
        other => other.to_string(),
    })
}

/// The error of TLS in an error.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error.downcast_ref::<std::io::Error>() {
            // An I/O error shows the source of its content, not its content, which may be another I/O error.
            Some(error) => error.get_ref().map(|content| content as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_people_write_them() {
        let digits = "AB".repeat(32);
        let colons = vec!["ab"; 32].join(":");
        assert_eq!(Trust::fingerprint(&digits), Ok(Trust::Fingerprint([0xab; 32])));
        assert_eq!(Trust::fingerprint(&colons), Ok(Trust::Fingerprint([0xab; 32])));
        assert!(matches!(
            Trust::fingerprint("abcd"),
            Err(Fault::Settings { field: "fingerprint", .. })
        ));
        assert!(matches!(Trust::authorities(b"nothing"), Err(Fault::Settings { field: "ca", .. })));
    }
}
