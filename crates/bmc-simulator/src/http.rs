//! One listener for all controllers that speak HTTP: the address at which a connection arrives says which is meant, the path says which protocol.
//!
//! A request that is not to be answered is held until its client gives up; one whose connection is to end takes the connection with it. Connections that arrive at an
//! address that no controller has are closed.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;

use crate::{amt, bmc::Bmc, fleet::Fleet, plug, redfish};

/// The largest request that is read, in bytes.
const LARGEST: usize = 1 << 20;
/// How long a request that is not answered is held.
const HELD: Duration = Duration::from_secs(600);
/// Connections that wait to be accepted: thousands of controllers are asked at the same moment.
const WAITING: u32 = 4096;

/// A request.
#[derive(Debug)]
pub(crate) struct Ask {
    pub method: String,
    pub path: String,
    pub query: String,
    pub if_match: Option<String>,
    pub token: Option<String>,
    pub authorization: Option<String>,
    /// Null where it is no JSON.
    pub body: Value,
    pub raw: Bytes,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<Value>,
    /// Content that is no JSON, instead.
    pub text: Option<String>,
    /// Its content ends in the middle.
    pub cut: bool,
    /// Content that comes by and by, instead: server-sent events.
    pub stream: Option<mpsc::Receiver<Bytes>>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Fate {
    Answer(Answer),
    Silent,
    Closed,
}

impl Answer {
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: None,
            text: None,
            cut: false,
            stream: None,
        }
    }

    pub fn json(status: u16, body: Value) -> Self {
        Self {
            body: Some(body),
            ..Self::empty(status)
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The connection ends here.
#[derive(Debug)]
pub(crate) struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection ends, as a fault wants it")
    }
}

impl std::error::Error for Ended {}

/// The content of an answer.
#[derive(Debug)]
pub(crate) enum Content {
    Whole(Option<Bytes>),
    /// So much comes, and then the connection ends.
    Cut(Option<Bytes>),
    /// It goes on until the other side of the channel is gone.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        Poll::Ready(match &mut *self {
            Self::Stream(events) => return events.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Cut(bytes) => Some(bytes.take().map(Frame::data).ok_or(Ended)),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Cut(_) | Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// Opens the listener.
pub(crate) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(WAITING)
}

/// Accepts connections until it is dropped.
pub(crate) async fn serve(listener: TcpListener, fleet: Arc<Fleet>, tls: Option<TlsAcceptor>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptors are left: some connection will end.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(bmc) = meant(&stream, &fleet) else { continue };
        let (fleet, tls) = (Arc::clone(&fleet), tls.clone());
        tokio::spawn(async move {
            let _open = fleet.counters().accept();
            match tls {
                None => converse(stream, bmc, &fleet).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, bmc, &fleet).await;
                    }
                }
            }
        });
    }
}

fn meant(stream: &TcpStream, fleet: &Fleet) -> Option<Arc<Bmc>> {
    match stream.local_addr().ok()?.ip() {
        IpAddr::V4(address) => fleet.at(address),
        IpAddr::V6(_) => None,
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, bmc: Arc<Bmc>, fleet: &Fleet) {
    let service = service_fn(|request| respond(&bmc, fleet, request));
    let done = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    // Clients go away, and faults end connections: neither is worth more.
    if let Err(error) = done {
        tracing::trace!(bmc = bmc.name, %error, "a connection ended");
    }
}

fn header(request: &Request<Incoming>, name: impl header::AsHeaderName) -> Option<String> {
    request.headers().get(name)?.to_str().ok().map(str::to_owned)
}

async fn respond(bmc: &Bmc, fleet: &Fleet, request: Request<Incoming>) -> Result<Response<Content>, Ended> {
    let mut ask = Ask {
        method: request.method().as_str().to_owned(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        if_match: header(&request, header::IF_MATCH),
        token: header(&request, "x-auth-token"),
        authorization: header(&request, header::AUTHORIZATION),
        body: Value::Null,
        raw: Bytes::new(),
    };
    let Ok(read) = Limited::new(request.into_body(), LARGEST).collect().await else {
        return Err(Ended);
    };
    ask.raw = read.to_bytes();
    ask.body = serde_json::from_slice(&ask.raw).unwrap_or(Value::Null);
    let fate = match ask.path.split('/').nth(1).unwrap_or_default() {
        "rpc" | "cm" | "api" => plug::answer(bmc, &ask).await,
        "wsman" => amt::answer(bmc, &ask).await,
        _ => redfish::answer(bmc, &ask, fleet.rewrite()).await,
    };
    match fate {
        Fate::Answer(answer) => Ok(written(answer)),
        Fate::Closed => Err(Ended),
        Fate::Silent => {
            sleep(HELD).await;
            Err(Ended)
        }
    }
}

fn written(answer: Answer) -> Response<Content> {
    let (kind, bytes) = match (answer.text, answer.body) {
        (Some(text), _) if text.starts_with("<?xml") => ("application/soap+xml; charset=UTF-8", Some(Bytes::from(text))),
        (Some(text), _) => ("text/html", Some(Bytes::from(text))),
        (None, Some(body)) => ("application/json", Some(Bytes::from(body.to_string()))),
        (None, None) => ("application/json", None),
    };
    // These have no content (RFC 9110, 15.3.5 and 15.4.5).
    let bytes = bytes.filter(|_| !matches!(answer.status, 204 | 304));
    let length = bytes.as_ref().map_or(0, Bytes::len);
    let content = match bytes {
        _ if answer.stream.is_some() => answer.stream.map_or(Content::Whole(None), Content::Stream),
        Some(bytes) if answer.cut => Content::Cut(Some(bytes.slice(..length / 2))),
        bytes => Content::Whole(bytes),
    };
    let mut builder = Response::builder().status(StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    if length > 0 {
        builder = builder.header(header::CONTENT_TYPE, kind).header(header::CONTENT_LENGTH, length);
    }
    for (name, value) in answer.headers {
        builder = builder.header(name, value);
    }
    builder.body(content).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer of the simulator cannot be written");
        Response::new(Content::Whole(None))
    })
}
