//! The one time an agent listens: while it writes a packed image it serves the checked frames of that image to its neighbours.
//!
//! Read-only, at its own address, to clients of its own network prefix; a few at a time, each within a time limit, with small bounds on what is
//! asked. `GET /images/<hex>/chunks` with one range that is a run of whole frames, as an image store answers it, and `GET /images/<hex>/held`, which of them
//! there are; anything else is refused. It holds
//! nothing but frames of the order's image: no seed, no config drive, nothing of this machine can be asked for.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use agent_protocol::session::encode;
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sharing::{Slot, SlotSettings, UploadSlots};
use tokio::{net::TcpListener, sync::Semaphore};

use super::frames::Frames;

/// Connections at a time; more are closed at once.
const MOST_CONNECTIONS: usize = 64;
/// Time for a request's header, which also ends idle connections.
const HEADER: Duration = Duration::from_secs(30);
/// Time in which the other side has to take what was sent to it.
const STALL_MS: u32 = 10_000;
/// Most bytes of one range, unless one frame alone has more.
const MOST_BYTES: u64 = 32 << 20;
/// Header of a refusal: when to come back, in milliseconds.
pub const HEADER_COME_BACK: &str = "kbm-come-back-ms";
/// Header of every answer about chunks: what can be had here, in base64, where that is short enough.
pub const HEADER_HELD: &str = "kbm-held";
/// Longest set of pieces that goes into a header.
const MOST_HEADER: usize = 1 << 10;

/// Where this machine is: what it listens on and whom it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its address on the interface that it booted from.
    pub address: IpAddr,
    /// Length of that network's prefix.
    pub prefix: u8,
}

impl Place {
    /// Whether an address is of the same network.
    pub fn is_neighbour(&self, other: IpAddr) -> bool {
        let differ = |a: u128, b: u128, bits: u32| (a ^ b).checked_shr(bits.saturating_sub(self.prefix.into())).unwrap_or(0) != 0;
        match (self.address.to_canonical(), other.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => !differ(u32::from(a).into(), u32::from(b).into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => !differ(a.into(), b.into(), 128),
            _ => false,
        }
    }
}

/// What is served, and how much at a time.
pub struct Served {
    /// `/images/<hex>/chunks` of the order's image.
    chunks: String,
    /// `/images/<hex>/held`.
    held: String,
    /// Size of the file of chunks.
    stored_bytes: u64,
    frames: Arc<Frames>,
    slots: Mutex<UploadSlots>,
    began: Instant,
}

impl Served {
    /// Nothing of it is asked for yet.
    pub fn new(folder: &str, stored_bytes: u64, frames: Arc<Frames>) -> Self {
        Self {
            chunks: format!("{folder}/chunks"),
            held: format!("{folder}/held"),
            stored_bytes,
            frames,
            slots: Mutex::new(UploadSlots::new(SlotSettings::default())),
            began: Instant::now(),
        }
    }

    fn slots(&self) -> MutexGuard<'_, UploadSlots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn answer(self: &Arc<Self>, request: &Request<Incoming>, to: IpAddr) -> Response<Answer> {
        if request.method() != Method::GET {
            return refusal(StatusCode::METHOD_NOT_ALLOWED);
        }
        let held = self.frames.held().to_bytes();
        if request.uri().path() == self.held {
            return Response::new(Answer {
                left: held.len() as u64,
                frames: [held.into()].into(),
                upload: None,
            });
        }
        if request.uri().path() != self.chunks {
            return refusal(StatusCode::NOT_FOUND);
        }
        let mut response = self.part(request, to);
        if held.len() <= MOST_HEADER
            && let Ok(held) = HeaderValue::from_str(&encode(&held))
        {
            response.headers_mut().insert(HEADER_HELD, held);
        }
        response
    }

    fn part(self: &Arc<Self>, request: &Request<Incoming>, to: IpAddr) -> Response<Answer> {
        let range = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        let Some((start, end)) = range.and_then(|range| whole_range(range, self.stored_bytes)) else {
            return refusal(StatusCode::RANGE_NOT_SATISFIABLE);
        };
        let Some(frames) = self.frames.range(start, end - start) else {
            return refusal(StatusCode::NOT_FOUND);
        };
        if end - start > MOST_BYTES && frames.len() > 1 {
            return refusal(StatusCode::RANGE_NOT_SATISFIABLE);
        }
        let slot = match self.slots().ask(self.now(), to) {
            Ok(slot) => slot,
            Err(busy) => {
                let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE);
                let wait = u64::try_from(busy.come_back.as_millis()).unwrap_or(u64::MAX);
                response.headers_mut().insert(HEADER_COME_BACK, wait.into());
                return response;
            }
        };
        let upload = Upload {
            served: self.clone(),
            slot,
        };
        let response = Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{}", end - 1, self.stored_bytes))
            .body(Answer {
                frames,
                left: end - start,
                upload: Some(upload),
            });
        // Fails only for a header that is none; these are made of digits.
        response.unwrap_or_else(|_| refusal(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

fn refusal(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Answer::default());
    *response.status_mut() = status;
    response
}

/// `bytes=a-b` within a file of `size` bytes, as start and end.
fn whole_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let (first, last) = (digits(first)?, digits(last)?);
    (first <= last && last < size).then_some((first, last + 1))
}

/// A slot that is free again once the answer is gone, sent or not.
struct Upload {
    served: Arc<Served>,
    slot: Slot,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let now = self.served.now();
        self.served.slots().free(now, self.slot);
    }
}

/// Frames one behind the other, without a copy; or nothing.
#[derive(Default)]
struct Answer {
    frames: VecDeque<Bytes>,
    left: u64,
    upload: Option<Upload>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(upload) = &self.upload
            && upload.served.now() >= upload.slot.ends
        {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let next = self.frames.pop_front();
        if let Some(frame) = &next {
            self.left -= frame.len() as u64;
        } else {
            self.upload = None;
        }
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// Opens a port of this machine's address.
///
/// # Errors
/// When the kernel refuses: the address may be another one by now.
pub fn open(place: Place) -> io::Result<(std::net::TcpListener, u16)> {
    let listener = std::net::TcpListener::bind(SocketAddr::new(place.address, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Serves until it is dropped.
///
/// # Errors
/// When the listener cannot be used in this runtime.
pub async fn serve(listener: std::net::TcpListener, place: Place, served: Arc<Served>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a neighbour's connection was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let from = from.ip().to_canonical();
        let Some(permit) = Arc::clone(&places).try_acquire_owned().ok().filter(|_| place.is_neighbour(from)) else {
            continue;
        };
        // Without it a client that reads nothing would keep its frames in memory as long as it likes.
        if rustix::net::sockopt::set_tcp_user_timeout(&stream, STALL_MS).is_err() || stream.set_nodelay(true).is_err() {
            continue;
        }
        let served = served.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let response = served.answer(&request, from);
                std::future::ready(Ok::<_, Infallible>(response))
            });
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER)
                .max_headers(16)
                .max_buf_size(16 << 10);
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                tracing::trace!(%error, "a neighbour's connection ended");
            }
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_whole_range_is_understood() {
        assert_eq!(whole_range("bytes=0-9", 10), Some((0, 10)));
        assert_eq!(whole_range("bytes=9-9", 10), Some((9, 10)));
        for text in [
            "bytes=0-10",
            "bytes=5-4",
            "bytes=-5",
            "bytes=0-",
            "bytes=0-1,3-4",
            "bytes=+0-1",
            "bytes= 0-1",
            "0-1",
            "",
        ] {
            assert_eq!(whole_range(text, 10), None, "{text}");
        }
    }

    #[test]
    fn neighbours_have_the_same_prefix() {
        let place = |address: &str, prefix| Place {
            address: address.parse().unwrap(),
            prefix,
        };
        let is = |place: Place, other: &str| place.is_neighbour(other.parse().unwrap());
        assert!(is(place("192.0.2.1", 24), "192.0.2.255"));
        assert!(is(place("192.0.2.1", 24), "::ffff:192.0.2.9"));
        assert!(!is(place("192.0.2.1", 24), "192.0.3.1"));
        assert!(!is(place("192.0.2.1", 32), "192.0.2.2"));
        assert!(is(place("192.0.2.1", 0), "203.0.113.1"));
        assert!(!is(place("192.0.2.1", 0), "2001:db8::1"), "another family");
        assert!(is(place("2001:db8::1", 64), "2001:db8::ffff:1"));
        assert!(!is(place("2001:db8::1", 64), "2001:db8:0:1::1"));
        assert!(is(place("2001:db8::1", 0), "::1"));
    }
}
