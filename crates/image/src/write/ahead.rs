//! Fetching ahead: the frames of a packed image come over a few connections while the writer's threads decode, write and read back
//! what came before, so that the wire waits for nobody as long as the disk keeps up.
//!
//! It is the [`Feed`] of a source that has none of its own. What is fetched together is what is wanted and lies one behind the other.
//! How much may be under way is a part of the image, since a power cut costs it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::ImageError;
use crate::pack::{Chunk, ChunkSource, Feed, Manifest};

/// Threads that fetch, each with a connection: enough for one to answer while the next one is asked.
const CONNECTIONS: usize = 3;
/// Stored bytes that one request asks for, unless one chunk alone has more: this part of the image, ...
const REQUEST_PART: u64 = 256;
/// ... within these bounds.
const REQUEST_BYTES: Range<u64> = 256 << 10..2 << 20;
/// Buffers kept for further requests: about as many as are in use, with what waits for the writer's threads.
const SPARE: usize = 8;

pub(crate) struct Ahead<'a> {
    manifest: &'a Manifest,
    source: &'a dyn ChunkSource,
    request: u64,
    state: Mutex<State>,
    changed: Condvar,
    spare: Arc<Spare>,
}

/// Buffers of requests whose frames were all written. Memory that the kernel has to clear first, for each request, would cost a tenth of the fetching.
type Spare = Mutex<Vec<Vec<u8>>>;

/// The answer to one request; its frames share it, and the last of them gives the memory back.
struct Answer {
    bytes: Vec<u8>,
    spare: Arc<Spare>,
}

impl AsRef<[u8]> for Answer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

struct State {
    wanted: BTreeSet<usize>,
    /// Chunks of which it is not known yet whether they are wanted.
    unsettled: usize,
    /// What came and was not taken yet.
    frames: VecDeque<(usize, Bytes)>,
    stopped: bool,
}

impl<'a> Ahead<'a> {
    pub(crate) fn new(manifest: &'a Manifest, source: &'a dyn ChunkSource) -> Self {
        Self {
            manifest,
            source,
            request: request_bytes(manifest),
            state: Mutex::new(State {
                wanted: BTreeSet::new(),
                unsettled: manifest.chunks().iter().filter(|chunk| chunk.index > 0).count(),
                frames: VecDeque::new(),
                stopped: false,
            }),
            changed: Condvar::new(),
            spare: Arc::default(),
        }
    }

    /// How many threads may wait in [`Feed::next`] at once to some use.
    pub(crate) fn connections() -> usize {
        CONNECTIONS
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetch(&self, run: &Range<usize>) -> Result<Bytes, ImageError> {
        let chunks = &self.manifest.chunks()[run.clone()];
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(Bytes::new());
        };
        let length = last.offset + u64::from(last.length) - first.offset;
        let mut bytes = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        bytes.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        self.source.read(first.offset, &mut bytes)?;
        Ok(Bytes::from_owner(Answer {
            bytes,
            spare: Arc::clone(&self.spare),
        }))
    }
}

/// Bytes of one request.
pub(crate) fn request_bytes(manifest: &Manifest) -> u64 {
    (manifest.stored_bytes() / REQUEST_PART).clamp(REQUEST_BYTES.start, REQUEST_BYTES.end)
}

impl Feed for Ahead<'_> {
    fn settle(&self, place: usize, wanted: bool) {
        let mut state = self.state();
        state.unsettled = state.unsettled.saturating_sub(1);
        if wanted {
            state.wanted.insert(place);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn next(&self) -> Result<Option<(usize, Bytes)>, ImageError> {
        let idle = |state: &mut State| !state.stopped && state.frames.is_empty() && state.wanted.is_empty() && state.unsettled > 0;
        let waited = self.changed.wait_while(self.state(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return Ok(None);
        }
        if let Some(frame) = state.frames.pop_front() {
            return Ok(Some(frame));
        }
        let Some(run) = take_run(&mut state.wanted, self.manifest.chunks(), self.request) else {
            return Ok(None);
        };
        drop(state);
        let stored = self.fetch(&run)?;
        let mut at = 0;
        let mut frames = self.manifest.chunks()[run.clone()].iter().zip(run).map(|(chunk, place)| {
            let frame = stored.slice(at..at + chunk.length as usize);
            at += chunk.length as usize;
            (place, frame)
        });
        let first = frames.next();
        self.state().frames.extend(frames);
        self.changed.notify_all();
        Ok(first)
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}

/// Takes the first of the wanted chunks, with those whose frames follow.
fn take_run(wanted: &mut BTreeSet<usize>, chunks: &[Chunk], most: u64) -> Option<Range<usize>> {
    let first = wanted.pop_first()?;
    let (mut end, mut bytes) = (first + 1, u64::from(chunks[first].length));
    while let Some(chunk) = chunks.get(end) {
        let last = &chunks[end - 1];
        let follows = last.offset + u64::from(last.length) == chunk.offset;
        if !follows || bytes + u64::from(chunk.length) > most || !wanted.remove(&end) {
            break;
        }
        bytes += u64::from(chunk.length);
        end += 1;
    }
    Some(first..end)
}
