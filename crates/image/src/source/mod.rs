//! Where an image's stored bytes come from.
//!
//! A [`Source`] can be read from its start, again and again, and in ranges. It knows nothing of formats or digests; a reader that
//! ends before the source's announced size is an error of the source, never a short image.

mod file;
mod http;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use file::{FileSource, MemorySource};
pub(crate) use http::{Failure, pause};
pub use http::{HttpLimits, HttpSource, client_builder};

use crate::digest::{Digest, DigestHasher};
use crate::error::ImageError;

/// Stored bytes of an image.
pub trait Source: Send {
    /// Name for messages: a URL without credentials and query, or a path.
    fn name(&self) -> &str;

    /// Size of the stored bytes, when it is known.
    fn size(&mut self) -> Result<Option<u64>, ImageError>;

    /// The bytes from the start. Errors that come out of the reader carry an [`ImageError`] inside.
    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError>;

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

/// A reader that hashes what passes through it, and remembers what the source's own fault was: a decoder on top of it sees only
/// an `io::Error`, and the source's fault is the true one.
pub(crate) struct HashingReader {
    name: String,
    inner: Box<dyn Read + Send>,
    hasher: DigestHasher,
    passed: Arc<AtomicU64>,
    peeked: Vec<u8>,
    taken: usize,
}

impl HashingReader {
    pub(crate) fn new(name: &str, inner: Box<dyn Read + Send>, expected: &Digest) -> Self {
        Self {
            name: name.to_owned(),
            inner,
            hasher: expected.hasher(),
            passed: Arc::default(),
            peeked: Vec::new(),
            taken: 0,
        }
    }

    /// The first bytes, which stay to be read. Only before anything was read.
    pub(crate) fn peek(&mut self, count: usize) -> Result<&[u8], ImageError> {
        let mut head = vec![0; count];
        let mut filled = 0;
        while filled < count {
            match self.read(&mut head[filled..]) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) => return Err(source_error(&self.name, error)),
            }
        }
        head.truncate(filled);
        self.peeked = head;
        self.taken = 0;
        Ok(&self.peeked)
    }

    /// Counts the bytes that have come from the source.
    pub(crate) fn passed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.passed)
    }

    /// What was peeked.
    pub(crate) fn peeked(&self) -> &[u8] {
        &self.peeked
    }

    /// Reads what is left and compares the digest.
    pub(crate) fn finish(mut self, expected: &Digest) -> Result<u64, ImageError> {
        let mut scratch = vec![0; 64 * 1024];
        loop {
            match self.read(&mut scratch) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => return Err(source_error(&self.name, error)),
            }
        }
        let actual = self.hasher.finish();
        if actual == *expected {
            Ok(self.passed.load(Ordering::Relaxed))
        } else {
            Err(ImageError::DigestMismatch {
                source_name: self.name,
                expected: expected.to_string(),
                actual: actual.to_string(),
            })
        }
    }
}

impl Read for HashingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken < self.peeked.len() {
            let count = buffer.len().min(self.peeked.len() - self.taken);
            buffer[..count].copy_from_slice(&self.peeked[self.taken..self.taken + count]);
            self.taken += count;
            return Ok(count);
        }
        loop {
            match self.inner.read(buffer) {
                Ok(count) => {
                    self.hasher.update(&buffer[..count]);
                    self.passed.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(source_error(&self.name, error).into_io()),
            }
        }
    }
}
