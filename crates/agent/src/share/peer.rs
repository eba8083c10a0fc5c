//! Asking a neighbour: for frames, and for what it has. Nothing that it answers is believed here; its bounds are.

use std::{
    io::Read,
    net::SocketAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use agent_protocol::{session::decode_up_to, share::MAX_HELD};
use image::{Client, ImageError, RequestError, Response};
use reqwest::{
    StatusCode,
    header::{CONTENT_RANGE, RANGE},
};
use sharing::{Failure, PieceSet, pieces::MAX_SET_BYTES};

use super::serve::{HEADER_COME_BACK, HEADER_HELD};

/// Longest time without a byte, and for a connection.
const STALL: Duration = Duration::from_secs(3);
/// Read at a time; between two it is asked whether the rest is still wanted.
const PIECE: usize = 128 << 10;
/// How long somebody is left alone who is busy and does not say how long.
const COME_BACK: Duration = Duration::from_millis(200);

/// Asks neighbours.
#[derive(Clone)]
pub struct Peers {
    client: Client,
    /// `/images/<hex>`.
    folder: String,
    stored_bytes: u64,
}

impl Peers {
    /// For the image below this path. `tls` is not used: neighbours speak plain HTTP, and digests say whether they speak the truth.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(tls: rustls::ClientConfig, folder: &str, stored_bytes: u64) -> Result<Self, ImageError> {
        Ok(Self {
            client: Client::new(STALL, |builder| builder.tls_backend_preconfigured(tls))?,
            folder: folder.to_owned(),
            stored_bytes,
        })
    }

    /// Fills `buffer` from this place of the file of chunks, or says why not: [`Failure::Dropped`] when `go_on` says so. Second: what the neighbour has,
    /// if it said so.
    pub fn frames(
        &self,
        peer: SocketAddr,
        offset: u64,
        buffer: &mut [u8],
        give_up: Instant,
        go_on: impl Fn() -> bool,
    ) -> (Result<(), Failure>, Option<PieceSet>) {
        let last = (offset + buffer.len() as u64).saturating_sub(1);
        let request = self.client.get(format!("http://{peer}{}/chunks", self.folder));
        let request = request.header(RANGE, format!("bytes={offset}-{last}"));
        let response = self.client.send(request, None);
        let mut response = match response {
            Ok(response) => response,
            Err(RequestError::Stalled) => return (Err(Failure::Slow), None),
            Err(_) => return (Err(Failure::Unreachable), None),
        };
        let held = response.headers().get(HEADER_HELD).and_then(|value| value.to_str().ok());
        let held = held.and_then(|text| PieceSet::from_bytes(&decode_up_to(text, MAX_HELD)?).ok());
        (self.body(&mut response, offset..=last, buffer, give_up, go_on), held)
    }

    fn body(
        &self,
        response: &mut Response,
        range: RangeInclusive<u64>,
        buffer: &mut [u8],
        give_up: Instant,
        go_on: impl Fn() -> bool,
    ) -> Result<(), Failure> {
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::SERVICE_UNAVAILABLE => return Err(Failure::Busy(come_back(response))),
            _ => return Err(Failure::NotThere),
        }
        let answered = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        if answered != Some(format!("bytes {}-{}/{}", range.start(), range.end(), self.stored_bytes).as_str()) {
            return Err(Failure::NotThere);
        }
        let mut filled = 0;
        while filled < buffer.len() {
            if Instant::now() >= give_up {
                return Err(Failure::Slow);
            }
            if !go_on() {
                return Err(Failure::Dropped);
            }
            let end = buffer.len().min(filled + PIECE);
            match response.read(&mut buffer[filled..end]) {
                Ok(0) | Err(_) => return Err(Failure::Unreachable),
                Ok(count) => filled += count,
            }
        }
        // Only a body that was read to its end leaves the connection free for the next one.
        match response.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) | Err(_) => Err(Failure::Unreachable),
        }
    }

    /// What a neighbour has; nothing when it does not say so in time.
    pub fn held(&self, peer: SocketAddr) -> Option<PieceSet> {
        let request = self.client.get(format!("http://{peer}{}/held", self.folder));
        let response = self.client.send(request, None).ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let mut bytes = Vec::new();
        response.take(MAX_SET_BYTES as u64 + 1).read_to_end(&mut bytes).ok()?;
        PieceSet::from_bytes(&bytes).ok()
    }
}

fn come_back(response: &Response) -> Duration {
    let said = response
        .headers()
        .get(HEADER_COME_BACK)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    said.map_or(COME_BACK, Duration::from_millis)
}
