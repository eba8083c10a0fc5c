//! TLS: the server's own certificate authority, client certificates as identities, and the kubeconfig file.
//!
//! The authority lives in the data directory (mode 0600) and is made once; the server's certificate is made at each start
//! and never stored. A client with a certificate is who that says: common name the user, organisations the groups.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use base64::Engine as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::identity::{AUTHENTICATED, CREDENTIAL, Identity};
use crate::{Error, Result};

/// A client that does not finish its handshake or its headers in this time is dropped.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long open requests may go on at the end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);
/// Connections at a time.
const CONNECTIONS: usize = 4096;

/// The certificate authority.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn tls_error(what: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |error| Error::Tls {
        what,
        source: Box::new(error),
    }
}

pub(crate) fn file_error(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    move |source| Error::File {
        path: path.to_owned(),
        source,
    }
}

impl Authority {
    /// Loads the authority of a directory, or makes it.
    pub fn open(directory: &Path) -> Result<Authority> {
        let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !key_path.exists() || !certificate_path.exists() {
            let key = KeyPair::generate().map_err(tls_error("make the key of the certificate authority"))?;
            let mut params = CertificateParams::new(Vec::new()).map_err(tls_error("make the certificate authority"))?;
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            params.distinguished_name = name("kube-baremetal-ca", None);
            validity(&mut params, 3650);
            let certificate = params.self_signed(&key).map_err(tls_error("sign the certificate authority"))?;
            // The key first: a certificate without a key would be kept for ever, a key without a certificate is replaced.
            write_private(&key_path, key.serialize_pem().as_bytes())?;
            write_private(&certificate_path, certificate.pem().as_bytes())?;
        }
        let key_text = fs::read_to_string(&key_path).map_err(file_error(&key_path))?;
        let pem = fs::read_to_string(&certificate_path).map_err(file_error(&certificate_path))?;
        let key = KeyPair::from_pem(&key_text).map_err(tls_error("read ca.key in the data directory"))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| Error::Tls {
            what: "read ca.crt in the data directory",
            source: Box::new(error),
        })?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(tls_error("read ca.crt in the data directory"))?;
        Ok(Authority { certificate, pem, issuer })
    }

    /// The authority's certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        days: i64,
    ) -> Result<(CertificateDer<'static>, String, KeyPair)> {
        let key = KeyPair::generate().map_err(tls_error("make a key"))?;
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        validity(&mut params, days);
        let certificate = params.signed_by(&key, &self.issuer).map_err(tls_error("sign a certificate"))?;
        Ok((certificate.der().clone(), certificate.pem(), key))
    }

    /// A client certificate and its key, as PEM.
    pub fn client(&self, identity: &Identity) -> Result<(String, String)> {
        let mut params = CertificateParams::new(Vec::new()).map_err(tls_error("make a client certificate"))?;
        // `system:authenticated` is given to everybody, not written down.
        let groups: Vec<&str> = identity
            .groups
            .iter()
            .map(String::as_str)
            .filter(|group| *group != AUTHENTICATED)
            .collect();
        if groups.len() > 1 {
            return Err(Error::Groups {
                user: identity.user.clone(),
                count: groups.len(),
            });
        }
        params.distinguished_name = name(&identity.user, groups.first().copied());
        let (_, pem, key) = self.issue(params, ExtendedKeyUsagePurpose::ClientAuth, 365)?;
        Ok((pem, key.serialize_pem()))
    }

    fn server_config(&self, names: &[String]) -> Result<rustls::ServerConfig> {
        let mut params = CertificateParams::new(Vec::new()).map_err(tls_error("make the server's certificate"))?;
        params.distinguished_name = name("kube-apiserver", None);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(tls_error("name the server"))?),
            });
        }
        let (certificate, _, key) = self.issue(params, ExtendedKeyUsagePurpose::ServerAuth, 3650)?;
        let rustls_error = |error: rustls::Error| Error::Tls {
            what: "configure TLS",
            source: Box::new(error),
        };
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).map_err(rustls_error)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| Error::Tls {
                what: "configure client certificates",
                source: Box::new(error),
            })?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(rustls_error)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(rustls_error)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Writes a kubeconfig with a fresh client certificate (mode 0600, replaced as a whole).
    pub fn write_kubeconfig(&self, path: &Path, server: &str, identity: &Identity) -> Result<()> {
        let (certificate, key) = self.client(identity)?;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        // JSON strings are YAML strings, so that no name can break out of its place.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let (server, user) = (quoted(server), quoted(&identity.user));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: kube-baremetal\n\
             clusters:\n- name: kube-baremetal\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
             users:\n- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
             contexts:\n- name: kube-baremetal\n  context:\n    cluster: kube-baremetal\n    user: {user}\n    namespace: default\n",
            encode(&self.pem),
            encode(&certificate),
            encode(&key),
        );
        write_private(path, text.as_bytes())
    }
}

fn name(common: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    if let Some(organisation) = organisation {
        name.push(DnType::OrganizationName, organisation);
    }
    name
}

fn validity(params: &mut CertificateParams, days: i64) {
    // A little in the past, for clients whose clock is behind.
    let now = std::time::SystemTime::now();
    let later = now + Duration::from_secs(u64::try_from(days).unwrap_or(1) * 86_400);
    params.not_before = (now - Duration::from_secs(3600)).into();
    params.not_after = later.into();
}

/// Writes a file that only its owner can read, replacing it as a whole and durably.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = PathBuf::from(path);
    temporary.as_mut_os_string().push(format!(".{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        crate::store::backend::sync_parent(path)
    };
    write().map_err(file_error(path))
}

/// Who a client certificate names.
fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|attribute| attribute.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push(AUTHENTICATED.to_owned());
    let mut identity = Identity::new(user, groups);
    let digest = hex::encode(Sha256::digest(certificate));
    identity.extra.insert(CREDENTIAL.to_owned(), vec![format!("X509SHA256={digest}")]);
    Some(identity)
}

/// Serves a router over TLS until cancelled; then lets open requests end.
pub async fn serve(
    authority: &Authority,
    names: &[String],
    router: Router,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(names)?));
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = cancel.cancelled() => break,
        };
        let Ok(slot) = slot else { break };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or a client that left again: neither may end the server nor spin it.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = cancel.cancelled() => break,
        };
        let watcher = graceful.watcher();
        let (acceptor, router) = (acceptor.clone(), router.clone());
        connections.spawn(async move {
            let _slot = slot;
            connection(acceptor, stream, peer, router, watcher).await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    if tokio::time::timeout(LAST_REQUESTS, graceful.shutdown()).await.is_err() {
        tracing::info!("open requests were cut off at the end");
    }
    connections.shutdown().await;
    Ok(())
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake took too long");
            return;
        }
    };
    let identity = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(identity_of);
    let router = match identity {
        Some(identity) => router.layer(axum::Extension(identity)),
        None => router,
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .keep_alive_interval(Some(Duration::from_secs(30)));
    let serving = builder
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .into_owned();
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
