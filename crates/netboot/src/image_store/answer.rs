//! The head of an answer with a file or a part of it (RFC 9110, sections 13 and 14).

use axum::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, StatusCode, header, response::Builder};

use super::range::{self, Wanted};

/// What to answer.
pub(crate) enum Head {
    /// All of it: there is no body.
    Whole(Response),
    /// Bytes are to follow (unless it is HEAD that asked).
    Part { response: Builder, start: u64, length: u64 },
}

/// Judges the request's conditions and range for a file of `size` bytes. `etag` is quoted.
pub(crate) fn head(size: u64, etag: &str, headers: &HeaderMap) -> Head {
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let response = http::Response::builder()
        .header(header::ETAG, etag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "application/octet-stream");
    if text(header::IF_NONE_MATCH).is_some_and(|wanted| range::etag_matches(wanted, etag)) {
        return whole(response.status(StatusCode::NOT_MODIFIED));
    }
    let same = text(header::IF_RANGE).is_none_or(|wanted| wanted == etag);
    match text(header::RANGE).filter(|_| same).map_or(Wanted::All, |r| range::parse(r, size)) {
        Wanted::All => Head::Part {
            response: response.header(header::CONTENT_LENGTH, size),
            start: 0,
            length: size,
        },
        Wanted::Part { start, length } => Head::Part {
            response: response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + length - 1))
                .header(header::CONTENT_LENGTH, length),
            start,
            length,
        },
        Wanted::Nothing => whole(
            response
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, format!("bytes */{size}")),
        ),
    }
}

fn whole(response: Builder) -> Head {
    // Fails only for a header that is none; every one above is made of digits and quoted tags.
    Head::Whole(response.body(Body::empty()).unwrap_or_default())
}
