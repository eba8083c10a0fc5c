//! Stored bytes on their way from a source to a decoder: one thread reads, one hashes, and the decoder works on the calling thread.
//!
//! Reader, hasher and decoder share the chunks that were read; bounded queues between them are all the memory there is. Which fault is
//! told follows one order: the source's own, then a digest that does not match, then what the decoder found wrong; for a damaged stream
//! is mostly a stream that was cut short, or another file. A fault of the sink ends everything at once, without reading the rest. No thread
//! outlives the call that started it.

use std::io::{self, BufRead, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use super::{ExtentSink, Limit};
use crate::block::{BLOCK_BYTES, Block};
use crate::digest::{Digest, DigestHasher};
use crate::error::ImageError;
use crate::source::source_error;

/// Bytes read at once. Large enough that a queue costs nothing, small enough to stay in a cache until hashed.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait for the decoder, and for the hasher. Stretches that hardly compress leave a decoder faster than they come; so many are fetched while it is busy with others.
const QUEUE: usize = 24;
/// Blocks of a raw image that wait for the hasher.
const RAW_QUEUE: usize = 4;

/// The stored bytes of an image, with those that were looked at already.
pub(crate) struct Stored {
    name: String,
    inner: Box<dyn Read + Send>,
    prefix: Vec<u8>,
    passed: Arc<AtomicU64>,
}

impl Stored {
    pub(crate) fn new(name: &str, inner: Box<dyn Read + Send>) -> Self {
        Self {
            name: name.to_owned(),
            inner,
            prefix: Vec::new(),
            passed: Arc::default(),
        }
    }

    /// Counts the bytes that have come from the source.
    pub(crate) fn passed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.passed)
    }

    /// What was looked at so far.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The first bytes, at least `count` of them if there are so many. They stay to be read.
    pub(crate) fn peek(&mut self, count: usize) -> Result<&[u8], ImageError> {
        while self.prefix.len() < count {
            if self.look_further(count - self.prefix.len())? == 0 {
                break;
            }
        }
        Ok(&self.prefix)
    }

    /// Reads up to `most` bytes behind the prefix into it.
    fn look_further(&mut self, most: usize) -> Result<usize, ImageError> {
        let old = self.prefix.len();
        self.prefix.resize(old + most, 0);
        let result = read_once(&self.name, self.inner.as_mut(), &self.passed, &mut self.prefix[old..]);
        self.prefix.truncate(old + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Reads everything and compares the digest. Says how many bytes there were.
    pub(crate) fn check(mut self, expected: &Digest) -> Result<u64, ImageError> {
        let mut hasher = expected.hasher();
        hasher.update(&self.prefix);
        let mut scratch = vec![0; CHUNK];
        loop {
            match read_once(&self.name, self.inner.as_mut(), &self.passed, &mut scratch)? {
                0 => break,
                count => hasher.update(&scratch[..count]),
            }
        }
        compare(self.name, self.passed.load(Ordering::Relaxed), hasher, expected)
    }

    /// The error of a decoder that failed while it looked ahead. A damaged image is usually just another file than the digest names: reads
    /// the rest, so that the message can say so.
    pub(crate) fn settle(self, error: ImageError, expected: &Digest) -> ImageError {
        if !is_damage(&error) {
            return error;
        }
        self.check(expected).err().unwrap_or(error)
    }
}

/// Whether the digest can tell more about what is wrong.
fn is_damage(error: &ImageError) -> bool {
    matches!(error, ImageError::Corrupt { .. } | ImageError::IncompleteStream { .. })
}

fn read_once(name: &str, source: &mut dyn Read, passed: &AtomicU64, buffer: &mut [u8]) -> Result<usize, ImageError> {
    loop {
        match source.read(buffer) {
            Ok(count) => {
                passed.fetch_add(count as u64, Ordering::Relaxed);
                return Ok(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(source_error(name, error)),
        }
    }
}

fn compare(source_name: String, stored_bytes: u64, hasher: DigestHasher, expected: &Digest) -> Result<u64, ImageError> {
    let actual = hasher.finish();
    if actual == *expected {
        return Ok(stored_bytes);
    }
    Err(ImageError::DigestMismatch {
        source_name,
        expected: expected.to_string(),
        actual: actual.to_string(),
    })
}

/// Reads from the start without taking anything away: what is read stays in the prefix. For decoding the head of an image.
pub(crate) struct Ahead<'a> {
    pub(crate) stored: &'a mut Stored,
    at: usize,
}

impl<'a> Ahead<'a> {
    /// A stream may begin with members or frames that hold nothing, but not for ever.
    const MOST: usize = 16 << 20;
    const STEP: usize = 64 * 1024;

    pub(crate) fn new(stored: &'a mut Stored) -> Self {
        Self { stored, at: 0 }
    }
}

impl Read for Ahead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.stored.prefix.len() {
            if self.at >= Self::MOST {
                let error = ImageError::Unsupported {
                    source_name: self.stored.name.clone(),
                    reason: format!("its first {} MiB decompress to less than the start of a disk", Self::MOST >> 20),
                    remedy: "compress the disk image again".to_owned(),
                };
                return Err(error.into_io());
            }
            self.stored.look_further(Self::STEP).map_err(ImageError::into_io)?;
        }
        let rest = &self.stored.prefix[self.at..];
        let count = buffer.len().min(rest.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// A stretch of stored bytes. Its memory is used again once nobody looks at it any more.
pub(crate) struct Chunk {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl std::ops::Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // Nobody takes it back once everything was read: then it is freed.
        self.home.send(std::mem::take(&mut self.bytes)).ok();
    }
}

/// What a decoder reads from. It ends where the source ends, also when that was by a fault: whoever started the feed knows which.
pub(crate) struct Input {
    chunks: Receiver<Arc<Chunk>>,
    current: Option<Arc<Chunk>>,
    at: usize,
}

impl Input {
    /// The next stretch as it was read. Not to be mixed with reading.
    pub(crate) fn chunk(&mut self) -> Option<Arc<Chunk>> {
        self.chunks.recv().ok()
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.as_ref().is_none_or(|chunk| self.at == chunk.len()) {
            self.at = 0;
            self.current = self.chunks.recv().ok();
            if self.current.is_none() {
                return Ok(&[]);
            }
        }
        Ok(self.current.as_deref().map_or(&[], |chunk| &chunk[self.at..]))
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.consume(count);
        Ok(count)
    }
}

/// Why a decoder stopped.
pub(crate) enum Fault {
    /// The sink takes no more.
    Sink(ImageError),
    /// The image is not as it should be.
    Image(ImageError),
}

/// Feeds the stored bytes to `decode`, and gives its result and the number of stored bytes once all of them have come and their digest is
/// the expected one.
pub(crate) fn feed<T>(stored: Stored, expected: &Digest, decode: impl FnOnce(Input) -> Result<T, Fault>) -> Result<(T, u64), ImageError> {
    let name = stored.name.clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (to_decoder, chunks) = mpsc::sync_channel(QUEUE);
        let (to_hasher, hashed) = mpsc::sync_channel::<Arc<Chunk>>(QUEUE);
        let hasher = scope.spawn(|| {
            let mut hasher = expected.hasher();
            for chunk in hashed {
                hasher.update(&chunk);
            }
            hasher
        });
        let reader = scope.spawn(|| read_all(stored, to_decoder, to_hasher, &stop));
        let input = Input {
            chunks,
            current: None,
            at: 0,
        };
        // The input is dropped by the decoder: from then on the reader feeds the hasher alone.
        let result = decode(input);
        let rest_matters = match &result {
            Ok(_) => true,
            Err(Fault::Sink(_)) => false,
            Err(Fault::Image(error)) => is_damage(error),
        };
        if !rest_matters {
            stop.store(true, Ordering::Relaxed);
        }
        let (source, hasher) = (joined(reader), joined(hasher));
        match result {
            Err(Fault::Sink(error)) => Err(error),
            Err(Fault::Image(error)) if !rest_matters => Err(source.err().unwrap_or(error)),
            Err(Fault::Image(error)) => Err(compare(name, source?, hasher, expected).err().unwrap_or(error)),
            Ok(value) => Ok((value, compare(name, source?, hasher, expected)?)),
        }
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Reads until the source ends, or nobody wants more. Says how many bytes have come.
fn read_all(
    mut stored: Stored,
    to_decoder: SyncSender<Arc<Chunk>>,
    to_hasher: SyncSender<Arc<Chunk>>,
    stop: &AtomicBool,
) -> Result<u64, ImageError> {
    let (home, returned) = mpsc::channel::<Vec<u8>>();
    let mut to_decoder = Some(to_decoder);
    let mut send = |bytes: Vec<u8>| {
        let chunk = Arc::new(Chunk { bytes, home: home.clone() });
        // The hasher takes everything until this end of its queue is dropped.
        to_hasher.send(Arc::clone(&chunk)).ok();
        if to_decoder.as_ref().is_some_and(|decoder| decoder.send(chunk).is_err()) {
            to_decoder = None;
        }
    };
    let prefix = std::mem::take(&mut stored.prefix);
    if !prefix.is_empty() {
        send(prefix);
    }
    while !stop.load(Ordering::Relaxed) {
        // The prefix may have been much larger than a chunk.
        let mut bytes = returned
            .try_recv()
            .ok()
            .filter(|bytes| bytes.capacity() <= 2 * CHUNK)
            .unwrap_or_default();
        bytes.resize(CHUNK, 0);
        let mut filled = 0;
        let mut ended = false;
        while filled < CHUNK && !ended && !stop.load(Ordering::Relaxed) {
            let count = read_once(&stored.name, stored.inner.as_mut(), &stored.passed, &mut bytes[filled..])?;
            filled += count;
            ended = count == 0;
        }
        bytes.truncate(filled);
        send(bytes);
        if ended {
            break;
        }
    }
    Ok(stored.passed.load(Ordering::Relaxed))
}

/// Moves a raw image: what is read goes straight into the sink's blocks, is hashed there by another thread, and handed on.
pub(crate) fn copy_raw(mut stored: Stored, expected: &Digest, limit: &Limit, sink: &dyn ExtentSink) -> Result<(u64, u64), ImageError> {
    let name = stored.name.clone();
    let handed_on: Mutex<Option<ImageError>> = Mutex::new(None);
    thread::scope(|scope| {
        let (to_hasher, blocks) = mpsc::sync_channel::<(u64, Block)>(RAW_QUEUE);
        let refused = &handed_on;
        let hasher = scope.spawn(move || {
            let mut hasher = expected.hasher();
            for (offset, block) in blocks {
                hasher.update(&block);
                if let Err(error) = sink.data(offset, block) {
                    *refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    break;
                }
            }
            hasher
        });
        let position = fill_blocks(&mut stored, limit, sink, to_hasher);
        let hasher = joined(hasher);
        if let Some(error) = handed_on.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        let position = position?;
        Ok((position, compare(name, position, hasher, expected)?))
    })
}

/// Reads everything into blocks and sends them on. Ends without an error when nobody takes them any more.
fn fill_blocks(stored: &mut Stored, limit: &Limit, sink: &dyn ExtentSink, blocks: SyncSender<(u64, Block)>) -> Result<u64, ImageError> {
    let prefix = std::mem::take(&mut stored.prefix);
    let mut ahead = &prefix[..];
    let mut position = 0u64;
    loop {
        let mut block = sink.block()?;
        ahead = &ahead[block.append(ahead)..];
        let mut filled = block.len();
        let mut ended = false;
        while filled < BLOCK_BYTES && !ended {
            let count = read_once(&stored.name, stored.inner.as_mut(), &stored.passed, &mut block.room()[filled..])?;
            filled += count;
            ended = count == 0;
        }
        limit.check(&stored.name, position + filled as u64)?;
        block.set_len(filled);
        if filled > 0 && blocks.send((position, block)).is_err() {
            break;
        }
        position += filled as u64;
        if ended {
            break;
        }
    }
    Ok(position)
}
