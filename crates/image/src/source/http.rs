//! An image over http or https.
//!
//! Redirects are followed here and not by the client, so that they are counted and can only go to http or https, never from
//! https down to http. A connection that drops is resumed with `Range` and `If-Range`; a server that cannot do ranges is read
//! again from the start up to where we were (the digest tells whether the bytes were the same). What is received is bounded in
//! size and in time. It does not check digests, and it does not set up TLS: the caller gives the client.
//!
//! A connection that fails is worth another one as long as they bring something: [`HttpLimits::max_retries`] failures in a row, with less than [`WORTHWHILE`] bytes over each connection
//! between them, are the end, so that a server that drips a few bytes into every connection is given up as soon as a silent one.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
};
use reqwest::{StatusCode, Url};

use super::Source;
use super::client::{Client, RequestError, Response, Stop, is_told, sleep};
use crate::error::ImageError;

/// Bounds of a download.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Most stored bytes.
    pub max_bytes: u64,
    /// Longest time for everything, counted from the creation of the source.
    pub deadline: Duration,
    /// Most redirects of one request.
    pub max_redirects: u32,
    /// Most failures in a row without progress that is worth another try.
    pub max_retries: u32,
    /// First pause between two tries; doubled each time, up to five seconds.
    pub backoff: Duration,
    /// Ends everything with [`ImageError::Cancelled`], within a second.
    pub stop: Option<Stop>,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 40,
            deadline: Duration::from_secs(6 * 3600),
            max_redirects: 5,
            max_retries: 5,
            backoff: Duration::from_millis(250),
            stop: None,
        }
    }
}

/// What a connection must bring to count as progress.
const WORTHWHILE: u64 = 1 << 20;

/// An image at an http or https URL.
pub struct HttpSource {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    url: Url,
    name: String,
    limits: HttpLimits,
    deadline: Instant,
    seen: Mutex<Option<Seen>>,
}

/// What the first answer said of the file.
#[derive(Clone)]
struct Seen {
    total: Option<u64>,
    validator: Option<HeaderValue>,
    ranges: bool,
}

/// Why one try failed.
pub(crate) enum Failure {
    /// Trying again cannot help.
    Final(ImageError),
    /// The connection could not be made, broke, or the server has a bad moment.
    Again(ImageError),
}

impl HttpSource {
    /// A source at `url`. Nothing is sent yet.
    pub fn new(client: Client, url: &str, limits: HttpLimits) -> Result<Self, ImageError> {
        let parsed = Url::parse(url).map_err(|error| ImageError::InvalidUrl {
            url: url.chars().take(200).collect(),
            reason: error.to_string(),
        })?;
        let name = redacted(&parsed);
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(ImageError::InvalidUrl {
                url: name,
                reason: format!("scheme {} is not allowed", parsed.scheme()),
            });
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(ImageError::InvalidUrl {
                url: name,
                reason: "it carries credentials".to_owned(),
            });
        }
        let now = Instant::now();
        let deadline = now.checked_add(limits.deadline).unwrap_or(now);
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                url: parsed,
                name,
                limits,
                deadline,
                seen: Mutex::new(None),
            }),
        })
    }

    /// One try at filling `buffer` from a file of `total` bytes: for callers that have other servers to ask when it fails. The
    /// connection stays open for the next one.
    pub(crate) fn try_range(&self, offset: u64, buffer: &mut [u8], total: u64) -> Result<(), Failure> {
        self.shared.whole_range(offset, buffer, total)
    }
}

/// How long to wait after so many failures in a row: doubled each time, up to five seconds.
pub(crate) fn pause(backoff: Duration, failures_in_a_row: u32) -> Duration {
    let factor = 1u32 << failures_in_a_row.saturating_sub(1).min(10);
    backoff.saturating_mul(factor).min(Duration::from_secs(5))
}

/// The URL as it may be shown: queries carry signatures and tokens.
fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both only fail for URLs that cannot have credentials, which then have none to hide.
    if shown.set_username("").is_err() || shown.set_password(None).is_err() {
        return format!("{}:", url.scheme());
    }
    shown.into()
}

impl Source for HttpSource {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn size(&mut self) -> Result<Option<u64>, ImageError> {
        if let Some(seen) = self.shared.seen() {
            return Ok(seen.total);
        }
        let response = self.shared.retrying(|shared| shared.open_at(0))?;
        drop(response);
        Ok(self.shared.seen().and_then(|seen| seen.total))
    }

    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError> {
        self.stream_from(0)
    }

    fn stream_from(&mut self, position: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let response = self.shared.retrying(|shared| shared.open_at(position))?;
        Ok(Box::new(HttpStream {
            shared: Arc::clone(&self.shared),
            response: Some(response),
            position,
            failures: 0,
            counted_at: position,
            dripped: 0,
        }))
    }

    fn read_range(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ImageError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        self.shared.retrying(|shared| shared.range(offset, buffer))
    }
}

impl Shared {
    fn seen(&self) -> Option<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn in_time(&self) -> Result<(), ImageError> {
        if is_told(self.limits.stop.as_ref()) {
            return Err(ImageError::Cancelled);
        }
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let reason = format!("not finished after {} seconds", self.limits.deadline.as_secs());
        Err(ImageError::TooSlow {
            source_name: self.name.clone(),
            reason,
        })
    }

    fn pause(&self, failures_in_a_row: u32) {
        let pause = pause(self.limits.backoff, failures_in_a_row);
        let left = self.deadline.saturating_duration_since(Instant::now());
        sleep(pause.min(left), self.limits.stop.as_ref());
    }

    fn retrying<T>(&self, mut attempt: impl FnMut(&Self) -> Result<T, Failure>) -> Result<T, ImageError> {
        let mut failures = 0;
        loop {
            self.in_time()?;
            match attempt(self) {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => {
                    failures += 1;
                    if failures > self.limits.max_retries {
                        return Err(error);
                    }
                    tracing::warn!(%error, failures, "image source failed, trying again");
                    self.pause(failures);
                }
            }
        }
    }

    fn unanswered(&self, error: RequestError) -> Failure {
        let source_name = self.name.clone();
        let reason = error.to_string();
        match error {
            RequestError::Stopped => Failure::Final(ImageError::Cancelled),
            RequestError::Stalled => Failure::Again(ImageError::TooSlow { source_name, reason }),
            RequestError::Failed(_) => Failure::Again(ImageError::Unreachable { source_name, reason }),
        }
    }

    /// One request with its redirects.
    fn get(&self, headers: &HeaderMap) -> Result<Response, Failure> {
        let mut url = self.url.clone();
        for _ in 0..=self.limits.max_redirects {
            let request = self
                .client
                .get(url.clone())
                .headers(headers.clone())
                .header(ACCEPT_ENCODING, "identity");
            let sent = self.client.send(request, self.limits.stop.as_ref());
            let response = sent.map_err(|error| self.unanswered(error))?;
            // A client that follows redirects by itself must not have led us elsewhere.
            self.allowed(&url, response.url())?;
            let status = response.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| response.url().join(value).ok())
                .ok_or_else(|| self.bad_redirect("its redirect has no usable target".to_owned()))?;
            self.allowed(&url, &target)?;
            url = target;
        }
        Err(self.bad_redirect(format!("more than {} redirects", self.limits.max_redirects)))
    }

    fn bad_redirect(&self, reason: String) -> Failure {
        Failure::Final(ImageError::InvalidUrl {
            url: self.name.clone(),
            reason,
        })
    }

    fn allowed(&self, from: &Url, to: &Url) -> Result<(), Failure> {
        match (from.scheme(), to.scheme()) {
            ("https", "https") | ("http", "http" | "https") => Ok(()),
            (from, to) => Err(self.bad_redirect(format!("it redirects from {from} to {to}"))),
        }
    }

    fn status_failure(&self, status: StatusCode) -> Failure {
        let error = ImageError::HttpStatus {
            source_name: self.name.clone(),
            status: status.as_u16(),
        };
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT {
            Failure::Again(error)
        } else {
            Failure::Final(error)
        }
    }

    fn changed(&self, reason: &str) -> Failure {
        Failure::Final(ImageError::SourceChanged {
            source_name: self.name.clone(),
            reason: reason.to_owned(),
        })
    }

    fn too_large(&self) -> ImageError {
        ImageError::SourceTooLarge {
            source_name: self.name.clone(),
            limit: self.limits.max_bytes,
        }
    }

    /// Holds what an answer says of the whole file against what the first one said.
    fn note(&self, total: Option<u64>, headers: &HeaderMap) -> Result<(), Failure> {
        if total.is_some_and(|total| total > self.limits.max_bytes) {
            return Err(Failure::Final(self.too_large()));
        }
        let etag = headers.get(ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/")).cloned();
        let validator = etag.or_else(|| headers.get(LAST_MODIFIED).cloned());
        let ranges = headers
            .get(ACCEPT_RANGES)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            None => *seen = Some(Seen { total, validator, ranges }),
            Some(first) => {
                if let (Some(before), Some(now)) = (first.total, total)
                    && before != now
                {
                    return Err(self.changed(&format!("its size was {before} and is now {now} bytes")));
                }
                if let (Some(before), Some(now)) = (&first.validator, &validator)
                    && before != now
                {
                    return Err(self.changed("its entity tag or modification time is another one"));
                }
            }
        }
        Ok(())
    }

    fn range_headers(&self, range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(range) {
            headers.insert(RANGE, value);
        }
        if let Some(validator) = self.seen().and_then(|seen| seen.validator) {
            headers.insert(IF_RANGE, validator);
        }
        headers
    }

    /// A response whose body begins at `position`.
    fn open_at(&self, position: u64) -> Result<Response, Failure> {
        let ranged = position > 0 && self.seen().is_none_or(|seen| seen.ranges || seen.validator.is_some());
        let headers = if ranged {
            self.range_headers(&format!("bytes={position}-"))
        } else {
            HeaderMap::new()
        };
        let mut response = self.get(&headers)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if ranged => {
                let (start, total) = content_range(response.headers()).ok_or_else(|| self.changed("its answer to a range is malformed"))?;
                if start != position {
                    return Err(self.changed("it answered another range than was asked for"));
                }
                self.note(total, response.headers())?;
                Ok(response)
            }
            StatusCode::OK => {
                self.note(response.content_length(), response.headers())?;
                self.skip(&mut response, position)?;
                Ok(response)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.changed("it became shorter")),
            status => Err(self.status_failure(status)),
        }
    }

    /// For servers without ranges: reads past what is already here. The digest is over the bytes that were used, so a different
    /// file cannot slip in.
    fn skip(&self, response: &mut Response, mut left: u64) -> Result<(), Failure> {
        let mut scratch = vec![0; 64 * 1024];
        while left > 0 {
            self.in_time().map_err(Failure::Final)?;
            let want = scratch.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match response.read(&mut scratch[..want]) {
                Ok(0) => return Err(Failure::Again(self.truncated(0))),
                Ok(count) => left -= count as u64,
                Err(error) => return Err(self.broken(error, 0)),
            }
        }
        Ok(())
    }

    fn range(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Failure> {
        let last = offset.saturating_add(buffer.len() as u64 - 1);
        let mut response = self.get(&self.range_headers(&format!("bytes={offset}-{last}")))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => return Ok(0),
            StatusCode::OK if self.seen().is_some_and(|seen| seen.ranges) => return Err(self.changed("it answered a range with the whole")),
            StatusCode::OK => {
                return Err(Failure::Final(ImageError::Unsupported {
                    source_name: self.name.clone(),
                    reason: "its server does not answer ranges, which qcow2 needs".to_owned(),
                    remedy: "use a server with range requests, or publish the image as raw compressed with zstd".to_owned(),
                }));
            }
            status => return Err(self.status_failure(status)),
        }
        let (start, total) = content_range(response.headers()).ok_or_else(|| self.changed("its answer to a range is malformed"))?;
        if start != offset {
            return Err(self.changed("it answered another range than was asked for"));
        }
        self.note(total, response.headers())?;
        let end = total.unwrap_or(u64::MAX).min(last.saturating_add(1));
        let want = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let mut filled = 0;
        while filled < want {
            self.in_time().map_err(Failure::Final)?;
            match response.read(&mut buffer[filled..want]) {
                Ok(0) => return Err(Failure::Again(self.truncated(offset + filled as u64))),
                Ok(count) => filled += count,
                Err(error) => return Err(self.broken(error, offset + filled as u64)),
            }
        }
        Ok(filled)
    }

    /// A range of a file of known size that must come whole, and nothing beside it.
    fn whole_range(&self, offset: u64, buffer: &mut [u8], total: u64) -> Result<(), Failure> {
        self.in_time().map_err(Failure::Final)?;
        let end = offset.saturating_add(buffer.len() as u64);
        let mut response = self.get(&self.range_headers(&format!("bytes={offset}-{}", end.saturating_sub(1))))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.changed("it is shorter than its manifest says")),
            StatusCode::OK => {
                return Err(Failure::Final(ImageError::Unsupported {
                    source_name: self.name.clone(),
                    reason: "its server answers a range with the whole, and packed images need ranges".to_owned(),
                    remedy: "use a server with range requests, or publish the image as raw compressed with zstd".to_owned(),
                }));
            }
            status => return Err(self.status_failure(status)),
        }
        let answered = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let wanted = format!("bytes {offset}-{}/", end.saturating_sub(1));
        let of_total = answered.and_then(|answered| answered.strip_prefix(wanted.as_str()));
        match of_total.map(str::parse::<u64>) {
            None => return Err(self.changed("it answered another range than was asked for")),
            Some(Ok(said)) if said != total => {
                return Err(self.changed(&format!("it has {said} bytes, its manifest says {total}")));
            }
            Some(_) => {}
        }
        self.note(Some(total), response.headers())?;
        let mut filled = 0;
        while filled < buffer.len() {
            self.in_time().map_err(Failure::Final)?;
            match response.read(&mut buffer[filled..]) {
                Ok(0) => return Err(Failure::Again(self.truncated(offset + filled as u64))),
                Ok(count) => filled += count,
                Err(error) => return Err(self.broken(error, offset + filled as u64)),
            }
        }
        // Only a body that was read to its end leaves the connection free for the next range.
        match response.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.changed("it answered with more bytes than were asked for")),
            Err(error) => Err(self.broken(error, end)),
        }
    }

    fn truncated(&self, position: u64) -> ImageError {
        match self.seen().and_then(|seen| seen.total) {
            Some(expected) => ImageError::Truncated {
                source_name: self.name.clone(),
                expected,
                actual: position,
            },
            None => ImageError::Unreachable {
                source_name: self.name.clone(),
                reason: format!("the connection broke after {position} bytes"),
            },
        }
    }

    fn broken(&self, error: io::Error, position: u64) -> Failure {
        if error.kind() == io::ErrorKind::TimedOut {
            return Failure::Again(ImageError::TooSlow {
                source_name: self.name.clone(),
                reason: format!("no byte came within the stall time-out, {position} bytes were here"),
            });
        }
        match ImageError::from_io(error) {
            Ok(told) => Failure::Final(told),
            Err(_) => Failure::Again(self.truncated(position)),
        }
    }
}

fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

struct HttpStream {
    shared: Arc<Shared>,
    response: Option<Response>,
    position: u64,
    /// In a row, without progress that is worth it.
    failures: u32,
    /// Where the last failure was.
    counted_at: u64,
    /// What came between those failures.
    dripped: u64,
}

impl HttpStream {
    fn failed(&mut self, error: ImageError) -> Result<(), ImageError> {
        self.response = None;
        let came = self.position - std::mem::replace(&mut self.counted_at, self.position);
        if self.failures == 0 || came >= WORTHWHILE {
            (self.failures, self.dripped) = (1, 0);
        } else {
            self.failures += 1;
            self.dripped += came;
        }
        if self.failures > self.shared.limits.max_retries {
            return Err(match error {
                ImageError::TooSlow { source_name, .. } if self.dripped > 0 => ImageError::TooSlow {
                    source_name,
                    reason: format!(
                        "{} connections in a row fell silent before {} KiB came over any of them, {} bytes are here",
                        self.failures,
                        WORTHWHILE >> 10,
                        self.position
                    ),
                },
                error => error,
            });
        }
        tracing::warn!(%error, position = self.position, "image download broke, resuming");
        self.shared.pause(self.failures);
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let total = self.shared.seen().and_then(|seen| seen.total);
        if buffer.is_empty() || total == Some(self.position) {
            return Ok(0);
        }
        loop {
            self.shared.in_time()?;
            let Some(response) = &mut self.response else {
                match self.shared.open_at(self.position) {
                    Ok(response) => self.response = Some(response),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Again(error)) => self.failed(error)?,
                }
                continue;
            };
            match response.read(buffer) {
                Ok(0) if total.is_none() => return Ok(0),
                Ok(0) => self.failed(self.shared.truncated(self.position))?,
                Ok(count) => {
                    self.position += count as u64;
                    if self.position > self.shared.limits.max_bytes {
                        return Err(self.shared.too_large());
                    }
                    return Ok(count);
                }
                Err(error) => match self.shared.broken(error, self.position) {
                    Failure::Final(error) => return Err(error),
                    Failure::Again(error) => self.failed(error)?,
                },
            }
        }
    }
}

impl Read for HttpStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(ImageError::into_io)
    }
}
