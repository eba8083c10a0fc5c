//! Where BMCs send their events: `POST /bmc-events/TOKEN`, on a listener of the operator's own, in every replica.
//!
//! A token that is known is answered with 204, everything else with 404. Nothing of a request is kept or logged.
//!
//! Bounds: connections in all and of one source, and of each connection its time, its head, and how much of a body is read to be thrown away. A connection carries one request.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::events::{PATH, posted};
use crate::{
    BmcEvents,
    error::{Error, Result},
    world::World,
};

/// Connections at once: sockets, of the two hundred that are promised. More wait to be accepted.
const AT_ONCE: usize = 24;
/// Of these, connections of one source.
const OF_ONE: usize = 12;
/// The longest life of a connection.
const LIFE: Duration = Duration::from_secs(8);
const MOST_HEADERS: usize = 64;
const LONGEST_HEAD: usize = 16 * 1024;
/// So much of a body is read, so that the sender sees the answer and no reset.
const READ: usize = 256 * 1024;

/// A listener for events.
pub(crate) struct Receiver {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// How many connections a source has.
type Sources = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A connection of a source, until it is dropped.
struct Counted(Sources, IpAddr);

impl Counted {
    fn new(sources: &Sources, source: IpAddr) -> Option<Self> {
        let mut counts = sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(sources), source))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

impl Receiver {
    /// Opens the listener.
    ///
    /// # Errors
    /// [`Error::BmcEvents`]: the address cannot be had, or certificate and key cannot be used.
    pub(crate) fn open(settings: &BmcEvents) -> Result<Self> {
        let address = settings.listen;
        let wrong = |problem: String| Error::BmcEvents { address, problem };
        let tls = if settings.url.starts_with("https://") {
            Some(acceptor(settings).map_err(wrong)?)
        } else {
            None
        };
        let listener = listen(address).map_err(|error| wrong(format!("{error}; name another address (--bmc-events-listen)")))?;
        Ok(Self { listener, tls })
    }

    /// Answers until told to stop.
    pub(crate) async fn run(self, world: Arc<World>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let sources = Sources::default();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let next = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, self.listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                next = next => next,
            };
            let Ok((stream, source)) = accepted else {
                // Mostly too many open files: some will be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Some(counted) = Counted::new(&sources, source.ip().to_canonical()) else {
                continue;
            };
            let (world, tls) = (Arc::clone(&world), self.tls.clone());
            connections.spawn(async move {
                // Who is slow, or goes away, is not worth a word.
                drop(timeout(LIFE, serve(stream, tls, &world)).await);
                drop((slot, counted));
            });
        }
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, world: &Arc<World>) {
    match tls {
        None => converse(stream, world).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                converse(stream, world).await;
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, world: &Arc<World>) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(LIFE)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LONGEST_HEAD)
        .keep_alive(false);
    let service = service_fn(|request| answer(world, request));
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(world: &Arc<World>, request: Request<Incoming>) -> std::result::Result<Response<Empty<Bytes>>, Infallible> {
    let (parts, mut body) = request.into_parts();
    let mut left = READ;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(1, Bytes::len)) else {
            break;
        };
        left = rest;
    }
    // Whatever path a proxy puts before it.
    let token = parts.uri.path().rsplit_once(PATH).map(|(_, token)| token);
    let known = match token.filter(|_| parts.method == Method::POST) {
        Some(token) => posted(world, token).await,
        None => false,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = if known { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
    Ok(response)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let everywhere = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let listener = match std::net::TcpListener::bind(address) {
        // Without IPv6 everywhere is all of IPv4.
        Err(error) if everywhere && error.kind() != std::io::ErrorKind::AddrInUse => {
            std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))?
        }
        other => other?,
    };
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn acceptor(settings: &BmcEvents) -> std::result::Result<TlsAcceptor, String> {
    let (chain, key) = match &settings.identity {
        Some((certificate, key)) => {
            let chain: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
            let chain = chain.map_err(|error| format!("--bmc-events-certificate is no certificate in PEM: {error}"))?;
            let key =
                PrivateKeyDer::from_pem_slice(key.expose_secret()).map_err(|_| "--bmc-events-key is no private key in PEM".to_owned())?;
            (chain, key)
        }
        None => {
            let host = settings.url.trim_start_matches("https://").split('/').next().unwrap_or_default();
            let host = host
                .rsplit_once(':')
                .filter(|(_, port)| !port.ends_with(']'))
                .map_or(host, |(host, _)| host);
            let name = host.trim_matches(['[', ']']).to_owned();
            let made = rcgen::generate_simple_self_signed(vec![name]).map_err(|error| error.to_string())?;
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
            (vec![made.cert.der().clone()], key)
        }
    };
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| format!("certificate and key cannot be used: {error}"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
