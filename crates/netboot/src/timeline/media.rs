//! Steps from downloads of boot media: a body is followed until its last byte was taken, or until the machine gave up.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use api::timeline::BootStepKind;
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::header;
use hyper::body::{Frame, SizeHint};

use super::{Moment, Seen, Timelines};
use crate::server::Peer;

/// Follows a download of the boot media.
pub(crate) async fn follow(
    State(timelines): State<Arc<Timelines>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let kind = match name {
        "vmlinuz" => BootStepKind::Kernel,
        "initramfs" => BootStepKind::Initramfs,
        _ => return next.run(request).await,
    };
    let is_get = request.method() == http::Method::GET;
    let response = next.run(request).await;
    if !is_get {
        return response;
    }
    if !response.status().is_success() {
        let mut seen = Seen::new(kind, format!("answered with {}", response.status().as_u16()));
        seen.failed = true;
        timelines.seen_from(peer.address, seen, Moment::now());
        return response;
    }
    // A file is a stream of unknown size to whoever polls it, and is not polled beyond what was announced.
    let announced = response.headers().get(header::CONTENT_LENGTH);
    let expected = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    response.map(|inner| {
        Body::new(Followed {
            inner,
            expected,
            sent: 0,
            began: Instant::now(),
            kind,
            address: peer.address,
            timelines,
        })
    })
}

struct Followed {
    inner: Body,
    expected: Option<u64>,
    sent: u64,
    began: Instant,
    kind: BootStepKind,
    address: IpAddr,
    timelines: Arc<Timelines>,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
            // The end of a body of unknown size is known now.
            Poll::Ready(None) => self.expected = Some(self.sent),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let whole = self.expected.is_some_and(|expected| self.sent >= expected);
        let detail = match self.expected {
            Some(expected) if !whole => format!("broken off after {} of {expected} bytes", self.sent),
            _ if !whole => format!("broken off after {} bytes", self.sent),
            _ => String::new(),
        };
        let mut seen = Seen::new(self.kind, detail);
        seen.took = self.began.elapsed();
        seen.failed = !whole;
        seen.bytes = self.sent;
        self.timelines.seen_from(self.address, seen, Moment::now());
    }
}
