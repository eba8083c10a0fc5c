//! An HTTP client for threads whose waiting can be ended at any moment.
//!
//! Requests run on a small runtime of the client's own; the calling thread waits for them, and for each piece of a body, no longer than the stall time-out, and looks up meanwhile to see
//! whether it was told to stop. (The blocking client of the library looks up only when its time-out is over.) It knows nothing of images, retries or redirects.

use std::future::Future;
use std::io::{self, Read};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use reqwest::header::HeaderMap;
use reqwest::{ClientBuilder, IntoUrl, RequestBuilder, StatusCode, Url, redirect};
use tokio::runtime::{Builder, Runtime};

use crate::error::ImageError;

/// Longest time without a byte from a server, where nothing asks for another: a silent one is noticed within half a minute.
pub const STALL: Duration = Duration::from_secs(20);
/// How often a waiting thread looks whether it was told to stop.
const LOOK: Duration = Duration::from_millis(250);

/// Tells what reads from servers to stop, from any thread.
pub type Stop = Arc<AtomicBool>;

/// Whether it was told to.
pub(crate) fn is_told(stop: Option<&Stop>) -> bool {
    stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
}

/// Sleeps, but not on when told to stop.
pub(crate) fn sleep(longest: Duration, stop: Option<&Stop>) {
    let end = Instant::now() + longest;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || is_told(stop) {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum RequestError {
    /// The request could not be made, or the connection broke.
    Failed(reqwest::Error),
    /// Nothing came within the stall time-out.
    Stalled,
    /// It was told to stop.
    Stopped,
}

impl std::fmt::Display for RequestError {
    /// Without the URL, whose query may carry signatures and tokens: the innermost cause says what happened.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => {
                let mut cause = std::error::Error::source(error);
                let mut reason = "the request failed".to_owned();
                while let Some(inner) = cause {
                    reason = inner.to_string();
                    cause = inner.source();
                }
                f.write_str(&reason)
            }
            Self::Stalled => f.write_str("no answer within the stall time-out"),
            Self::Stopped => f.write_str("it was told to stop"),
        }
    }
}

/// An HTTP client; clones share its connections. Not for use in asynchronous code: its calls block.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    client: reqwest::Client,
    stall: Duration,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Without waiting: it may happen anywhere.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// A client that takes no proxies out of the environment, follows no redirects by itself, sends no referrer, and gives up what brings no byte for `stall`. `set_up` adds TLS roots, pins or
    /// headers.
    pub fn new(stall: Duration, set_up: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Self, ImageError> {
        let unusable = |reason: String| ImageError::Unreachable {
            source_name: "the network".to_owned(),
            reason: format!("no client could be made: {reason}"),
        };
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(Duration::from_secs(10).min(stall))
            .user_agent(concat!("kube-baremetal/", env!("CARGO_PKG_VERSION")));
        let client = set_up(builder).build().map_err(|error| unusable(error.to_string()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("image-http")
            .enable_all()
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                stall,
                runtime: Some(runtime),
            }),
        })
    }

    /// A GET request to be completed and given to [`Self::send`].
    pub fn get(&self, url: impl IntoUrl) -> RequestBuilder {
        self.shared.client.get(url)
    }

    /// Sends a request and waits for the head of its answer. Whoever reads the body is stopped by `stop`, too.
    pub fn send(&self, request: RequestBuilder, stop: Option<&Stop>) -> Result<Response, RequestError> {
        let Some(runtime) = &self.shared.runtime else {
            return Err(RequestError::Stopped);
        };
        let task = runtime.spawn(request.send());
        let ends = task.abort_handle();
        let answer = match wait(task, self.shared.stall, stop) {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(error))) if error.is_timeout() => return Err(RequestError::Stalled),
            Ok(Ok(Err(error))) => return Err(RequestError::Failed(error)),
            // The task is only ever ended with its runtime.
            Ok(Err(_)) => return Err(RequestError::Stopped),
            Err(error) => {
                ends.abort();
                return Err(error);
            }
        };
        Ok(Response {
            answer,
            rest: Bytes::new(),
            client: self.clone(),
            stop: stop.cloned(),
        })
    }
}

/// An answer, whose body is read as it comes.
pub struct Response {
    answer: reqwest::Response,
    /// What came and was not read yet.
    rest: Bytes,
    client: Client,
    stop: Option<Stop>,
}

impl Response {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// Where it came from.
    pub fn url(&self) -> &Url {
        self.answer.url()
    }

    /// Length of the body, where it was announced.
    pub fn content_length(&self) -> Option<u64> {
        self.answer.content_length()
    }
}

impl Read for Response {
    /// A stall is an error of the kind `TimedOut`; being told to stop is [`ImageError::Cancelled`] inside of one.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() && !buffer.is_empty() {
            // A piece that has not come yet is waited for by the next call: nothing is lost with the future.
            match wait(self.answer.chunk(), self.client.shared.stall, self.stop.as_ref()) {
                Ok(Ok(Some(piece))) => self.rest = piece,
                Ok(Ok(None)) => return Ok(0),
                Ok(Err(error)) => return Err(io::Error::other(error)),
                Err(RequestError::Stopped) => return Err(ImageError::Cancelled.into_io()),
                Err(error) => return Err(io::Error::new(io::ErrorKind::TimedOut, error.to_string())),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Waits in this thread, as long as `stall` allows and nobody says stop.
fn wait<F: Future>(future: F, stall: Duration, stop: Option<&Stop>) -> Result<F::Output, RequestError> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let started = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        if is_told(stop) {
            return Err(RequestError::Stopped);
        }
        let left = stall.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(RequestError::Stalled);
        }
        thread::park_timeout(left.min(LOOK));
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
