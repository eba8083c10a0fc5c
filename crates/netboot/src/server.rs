//! Listening, TLS and the bounds of a connection. HTTP/1.1 only: a machine makes a request at a time, and the fewer ways there are in the better.
//!
//! Bounds: connections in all and per source, time for the TLS handshake, time and size of a request's header (this also ends idle
//! connections), number of headers. The time and size of a body are bounded where it is read ([`crate::body`]); there is no bound on how long an answer takes, because
//! long polls and images take long, but a client that reads nothing for [`WRITE_STALL`] is dropped.
//!
//! A panic in a handler is caught, counted and logged; the connection gets a 500 and the process serves on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::IntoResponse};
use http::{HeaderValue, header};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{limits::Slots, metrics::Metrics};

/// A client that takes nothing of an answer for this long is dropped.
pub const WRITE_STALL: Duration = Duration::from_secs(60);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an answer after which a connection is reset has to arrive.
const DELIVERY: Duration = Duration::from_secs(1);
/// How long the kernel asks a client for the end of a connection that is ended here.
const GONE: Duration = Duration::from_secs(10);
const MAX_HEADERS: usize = 32;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Who sent a request, and to which of our addresses.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address; IPv4 also when it came mapped into IPv6.
    pub address: IpAddr,
    /// Our address of this connection; IPv4 also when it came mapped into IPv6.
    pub local: SocketAddr,
}

/// What all connections of a listener share.
#[derive(Clone)]
pub(crate) struct Front {
    pub router: Router,
    pub slots: Arc<Slots>,
    pub metrics: Arc<Metrics>,
    pub header_timeout: Duration,
    pub stop: CancellationToken,
    pub tracker: TaskTracker,
}

/// Adds what every route has: panics are caught.
pub(crate) fn guarded(router: Router, metrics: Arc<Metrics>) -> Router {
    router.layer(CatchPanicLayer::custom(move |cause: Box<dyn std::any::Any + Send>| {
        metrics.panics.inc();
        let words = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        tracing::error!(panic = words, "a request handler panicked; this is a bug, please report it");
        crate::reply::Refusal::new(
            agent_protocol::session::ErrorCode::Internal,
            "the server failed on this request; its log says why",
        )
        .into_response()
    }))
}

/// Takes connections until told to stop. `tls` gives the present configuration for each, or nothing while there are no keys.
pub(crate) async fn serve(
    listener: TcpListener,
    front: Front,
    tls: Option<Arc<dyn Fn() -> Option<Arc<rustls::ServerConfig>> + Send + Sync>>,
) {
    loop {
        let (stream, remote) = tokio::select! {
            () = front.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly "too many open files": wait for some to be closed, rather than spin.
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let address = remote.ip().to_canonical();
        let Some(slot) = front.slots.take(address) else {
            front.metrics.connections_refused.inc();
            continue;
        };
        let Ok(mut local) = stream.local_addr() else { continue };
        local.set_ip(local.ip().to_canonical());
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let peer = Peer { address, local };
        let front = front.clone();
        let tls = tls.clone();
        front.tracker.clone().spawn(async move {
            match tls {
                None => {
                    let (stream, last_answer) = connection(stream, front, peer).await;
                    end(stream, last_answer).await;
                }
                Some(config) => {
                    let Some(config) = config() else { return };
                    let acceptor = tokio_rustls::TlsAcceptor::from(config);
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => drop(connection(stream, front, peer).await),
                        Ok(Err(error)) => tracing::debug!(%error, %address, "TLS handshake failed"),
                        Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
                    }
                }
            }
            drop(slot);
        });
    }
}

/// Marks an answer after which a connection is ended without a farewell, for clients that are about to be gone.
///
/// GRUB counts its ports from 21550 at each start, and starts the machine's own disk out of a configuration that it still reads. As long as the kernel here keeps that connection, or
/// asks for its end, the next GRUB's first connection is the same one to it: that GRUB finds that nobody answers. So it is forgotten as soon as the client has the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastAnswer;

/// Ends a plain connection so that nothing of it is left where the client is gone.
async fn end(stream: TcpStream, last_answer: bool) {
    let socket = socket2::SockRef::from(&stream);
    let set = if last_answer {
        // A reset throws away what did not arrive yet.
        tokio::time::sleep(DELIVERY).await;
        socket.set_linger(Some(Duration::ZERO))
    } else {
        socket.set_tcp_user_timeout(Some(GONE))
    };
    if let Err(error) = set {
        tracing::debug!(%error, "an option of a connection was refused");
    }
}

/// Serves it to its end, and gives it back; with whether a [`LastAnswer`] was its last, which leaves it open.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, front: Front, peer: Peer) -> (S, bool) {
    let last_answer = Arc::new(AtomicBool::new(false));
    let noted = last_answer.clone();
    let router = front
        .router
        .clone()
        .map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            request.map(Body::new)
        })
        .map_response(move |mut response: axum::response::Response| {
            if response.extensions().get::<LastAnswer>().is_some() {
                noted.store(true, Ordering::Relaxed);
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(front.header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        // GRUB (2.12 was seen) finds `Content-Length` in no other spelling, and waits half a minute for the connection's end without it.
        .title_case_headers(true);
    let mut served = builder.serve_connection(
        TokioIo::new(Stalling::new(stream, last_answer.clone())),
        TowerToHyperService::new(router),
    );
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = front.stop.cancelled() => {
            Pin::new(&mut served).graceful_shutdown();
            (&mut served).await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, address = %peer.address, "connection ended");
    }
    let stream = served.into_parts().io.into_inner().inner;
    (stream, last_answer.load(Ordering::Relaxed))
}

/// Ends a connection whose other side takes nothing for [`WRITE_STALL`], and says no farewell after a [`LastAnswer`].
struct Stalling<S> {
    inner: S,
    last_answer: Arc<AtomicBool>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Stalling<S> {
    fn new(inner: S, last_answer: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            last_answer,
            deadline: None,
        }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + WRITE_STALL)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last_answer.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, polled)
    }
}

/// Opens a listener.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, crate::error::Error> {
    let everywhere = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let listening = match listen_at(address) {
        // IPv6 was switched off when the kernel started: everywhere is all of IPv4.
        Err(error) if everywhere && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            listen_at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        other => other,
    };
    listening.map_err(|source| crate::error::Error::Listen { address, source })
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` is IPv4, too, whatever the host's own default is.
        socket.set_only_v6(false)?;
    }
    // A restart must not wait for the old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // A whole room of machines switched on at once connects within a second.
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}
