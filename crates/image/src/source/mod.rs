//! Where an image's stored bytes come from.
//!
//! A [`Source`] can be read from its start, again and again, and in ranges. It knows nothing of formats or digests; a reader that
//! ends before the source's announced size is an error of the source, never a short image.

mod client;
mod fallback;
mod file;
mod http;

use std::io::{self, Read};

pub(crate) use client::sleep;
pub use client::{Client, RequestError, Response, STALL, Stop};
pub use fallback::FallbackSource;
pub use file::{FileSource, MemorySource};
pub(crate) use http::{Failure, pause};
pub use http::{HttpLimits, HttpSource};

use crate::error::ImageError;

/// Stored bytes of an image.
pub trait Source: Send {
    /// Name for messages: a URL without credentials and query, or a path.
    fn name(&self) -> &str;

    /// Size of the stored bytes, when it is known.
    fn size(&mut self) -> Result<Option<u64>, ImageError>;

    /// The bytes from the start. Errors that come out of the reader carry an [`ImageError`] inside.
    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError>;

    /// The bytes from `position` on. Where a source has no better way, they are read and thrown away up to there.
    fn stream_from(&mut self, position: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let mut stream = self.stream()?;
        let skipped = io::copy(&mut (&mut stream).take(position), &mut io::sink()).map_err(|error| source_error(self.name(), error))?;
        if skipped < position {
            return Err(ImageError::Truncated {
                source_name: self.name().to_owned(),
                expected: position,
                actual: skipped,
            });
        }
        Ok(stream)
    }

    /// Fills `buffer` from `offset` and says how many bytes there were: fewer than asked for only at the end of the source.
    fn read_range(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ImageError>;
}

/// Turns an error that came out of a source's reader into a typed one.
pub(crate) fn source_error(name: &str, error: io::Error) -> ImageError {
    match ImageError::from_io(error) {
        Ok(typed) => typed,
        Err(other) => ImageError::Unreachable {
            source_name: name.to_owned(),
            reason: other.to_string(),
        },
    }
}
