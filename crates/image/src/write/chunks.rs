//! Writing a packed image: its frames come out of a [`Feed`], and are checked and decompressed by the writer's threads. Where the disk may
//! hold some of the chunks already, they are compared first, in spans, and the feed is told which of them the disk lacks.
//!
//! A frame that does not have its digest is read again from its source a few times, since a source may know more than one server, before
//! it is a fault. The plain bytes that come out of it are digested once, when they are read back from the disk, unless they are written in
//! more than one piece; should they be others than the manifest says, the source is asked once more whose fault that is.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::ahead::request_bytes;
use super::engine::{Engine, short_of};
use super::plan::{END_BYTES, FIRST_BYTES};
use crate::device::{AlignedBuffer, Checked};
use crate::error::{FaultKind, ImageError};
use crate::pack::{Chunk, ChunkDecoder, ChunkSource, Feed, Manifest, check_plain};

/// Chunks that are compared one after the other before anybody is told what the disk lacks: about this many bytes of the disk.
const SPAN_BYTES: u64 = 8 << 20;
/// Memory that the buffers of all threads may take together.
const BUFFERS: u64 = 64 << 20;
/// How often a chunk is fetched again that came damaged.
const AGAIN: u32 = 3;
/// Chunks that are looked at to find out whether the disk holds some of the image.
const SAMPLES: usize = 16;
/// Threads that look at them.
const LOOKERS: usize = 4;

/// What a thread keeps from one span to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    plain: Option<AlignedBuffer>,
    decoder: Option<ChunkDecoder>,
}

impl Scratch {
    fn parts(&mut self, chunk_bytes: u32) -> Result<(&mut AlignedBuffer, &mut ChunkDecoder), ImageError> {
        let decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => ChunkDecoder::new()?,
        };
        let plain = self.plain.get_or_insert_with(|| AlignedBuffer::zeroed(chunk_bytes as usize));
        Ok((plain, self.decoder.insert(decoder)))
    }
}

/// The chunks of an image, and where they come from.
pub(crate) struct Chunks<'a> {
    manifest: &'a Manifest,
    source: &'a dyn ChunkSource,
    feed: &'a dyn Feed,
    /// Whether the disk may hold some of them.
    compare: bool,
    fetched: AtomicU64,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(manifest: &'a Manifest, source: &'a dyn ChunkSource, feed: &'a dyn Feed) -> Self {
        Self {
            manifest,
            source,
            feed,
            compare: false,
            fetched: AtomicU64::new(0),
        }
    }

    /// Stored bytes that came from the source.
    pub(crate) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    pub(crate) fn compares(&self) -> bool {
        self.compare
    }

    /// The spans to be compared. Where there is nothing to compare, the feed is told at once that all chunks are wanted.
    pub(crate) fn work(&self) -> Vec<Range<usize>> {
        if self.compare {
            return self.spans();
        }
        for place in self.places() {
            self.feed.settle(place, true);
        }
        Vec::new()
    }

    /// How many threads may have buffers.
    pub(crate) fn most_workers(&self) -> usize {
        // What it decodes into, and the frame that it decodes.
        let each = u64::from(self.manifest.chunk_bytes()) * 2;
        usize::try_from(BUFFERS / each).unwrap_or(1).max(1)
    }

    /// Bytes of frames that may wait for a thread.
    pub(crate) fn most_waiting(&self) -> usize {
        usize::try_from(4 * request_bytes(self.manifest)).unwrap_or(usize::MAX)
    }

    /// The first chunk, which the plan is made from; it is empty if it is all zeros.
    pub(crate) fn first(&self) -> Result<Vec<u8>, ImageError> {
        let mut plain = vec![0; self.manifest.plain_length(0)];
        if let Some(chunk) = self.manifest.chunk(0) {
            let mut stored = vec![0; chunk.length as usize];
            self.source.read(chunk.offset, &mut stored)?;
            self.fetched.fetch_add(chunk.length.into(), Ordering::Relaxed);
            self.decode(&mut ChunkDecoder::new()?, chunk, &stored, &mut plain)?;
            check_plain(self.source.name(), chunk, &plain)?;
        }
        Ok(plain)
    }

    /// Everything but the first chunk, as places in the manifest's list.
    fn places(&self) -> Range<usize> {
        let all = 0..self.manifest.chunks().len();
        match self.manifest.chunk(0) {
            Some(_) => 1..all.end,
            None => all,
        }
    }

    fn spans(&self) -> Vec<Range<usize>> {
        let Range { start, end } = self.places();
        let step = usize::try_from(SPAN_BYTES / u64::from(self.manifest.chunk_bytes()))
            .unwrap_or(1)
            .max(1);
        (start..end).step_by(step).map(|from| from..end.min(from + step)).collect()
    }

    /// The ranges of the disk in which no chunk lies.
    pub(crate) fn holes(&self) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut at = 0;
        for chunk in self.manifest.chunks() {
            let start = self.manifest.disk_offset(chunk.index);
            if at < start {
                holes.push(at..start);
            }
            at = start + self.manifest.plain_length(chunk.index) as u64;
        }
        if at < self.manifest.disk_bytes() {
            holes.push(at..self.manifest.disk_bytes());
        }
        holes
    }

    /// Looks at some chunks, the first ones (an interrupted write begins with them) and others spread over the image: does the disk hold any of them?
    pub(crate) fn look(&mut self, disk: Checked<'_>) -> Result<(), ImageError> {
        // The ends were zeroed already.
        let survives = |chunk: &&Chunk| {
            let start = self.manifest.disk_offset(chunk.index);
            let end = start + self.manifest.plain_length(chunk.index) as u64;
            start >= END_BYTES && end <= disk.0.size().saturating_sub(END_BYTES)
        };
        let chunks: Vec<&Chunk> = self.manifest.chunks().iter().filter(survives).collect();
        let spread = (0..SAMPLES).map(|sample| sample * chunks.len() / SAMPLES);
        let mut places: Vec<usize> = (0..SAMPLES / 2).chain(spread).filter(|&place| place < chunks.len()).collect();
        places.sort_unstable();
        places.dedup();
        // The wire waits meanwhile: several at once.
        let found = AtomicBool::new(false);
        let (this, sampled, told) = (&*self, &chunks, &found);
        let step = places.len().div_ceil(LOOKERS).max(1);
        let looked: Result<(), ImageError> = thread::scope(|scope| {
            let lookers: Vec<_> = places
                .chunks(step)
                .map(|places| scope.spawn(move || this.look_at(disk, places.iter().map(|&place| sampled[place]), told)))
                .collect();
            lookers
                .into_iter()
                .try_for_each(|looker| looker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        looked?;
        self.compare = found.into_inner();
        Ok(())
    }

    /// Looks at these chunks until one is found, by this thread or another.
    fn look_at<'c>(&self, disk: Checked<'_>, chunks: impl Iterator<Item = &'c Chunk>, found: &AtomicBool) -> Result<(), ImageError> {
        let mut buffer = AlignedBuffer::zeroed(self.manifest.chunk_bytes() as usize);
        for chunk in chunks {
            if found.load(Ordering::Relaxed) {
                break;
            }
            let length = self.manifest.plain_length(chunk.index);
            let read = &mut buffer[..length.next_multiple_of(disk.0.sector_size() as usize)];
            disk.read(self.manifest.disk_offset(chunk.index), read)?;
            if blake3::hash(&read[..length]) == chunk.plain {
                found.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn decode(&self, decoder: &mut ChunkDecoder, chunk: &Chunk, stored: &[u8], plain: &mut [u8]) -> Result<(), ImageError> {
        let mut result = decoder.decode_unproven(self.source.name(), self.manifest, chunk, stored, plain);
        let mut again = Vec::new();
        for tries in 1..=AGAIN {
            let Err(error) = &result else { break };
            if error.kind() != FaultKind::DigestMismatch {
                break;
            }
            tracing::warn!(%error, tries, "a chunk came damaged and is fetched again");
            again.resize(chunk.length as usize, 0);
            self.source.read(chunk.offset, &mut again)?;
            self.fetched.fetch_add(chunk.length.into(), Ordering::Relaxed);
            result = decoder.decode_unproven(self.source.name(), self.manifest, chunk, &again, plain);
        }
        result
    }

    /// Compares the chunks of a span with the disk, and tells the feed which it lacks.
    pub(crate) fn compare_span(&self, engine: &Engine<'_>, span: Range<usize>, scratch: &mut Scratch) -> Result<(), ImageError> {
        let (plain, _) = scratch.parts(self.manifest.chunk_bytes())?;
        let there = span
            .clone()
            .map(|place| self.is_there(engine, &self.manifest.chunks()[place], plain));
        let there = there.collect::<Result<Vec<bool>, ImageError>>()?;
        // Only now: neighbours that are wanted can be fetched together.
        for (place, there) in span.zip(there) {
            self.feed.settle(place, !there);
        }
        Ok(())
    }

    /// Brings a frame onto the disk.
    pub(crate) fn write_frame(&self, engine: &Engine<'_>, place: usize, frame: &[u8], scratch: &mut Scratch) -> Result<(), ImageError> {
        let (plain, decoder) = scratch.parts(self.manifest.chunk_bytes())?;
        let chunk = &self.manifest.chunks()[place];
        self.fetched.fetch_add(frame.len() as u64, Ordering::Relaxed);
        self.decode(decoder, chunk, frame, &mut plain[..self.manifest.plain_length(chunk.index)])?;
        self.put(engine, chunk, plain)
    }

    /// What is read at the place of a chunk is not what its digest says: an error if that is because its frame holds something else.
    pub(crate) fn judge(&self, offset: u64) -> Result<(), ImageError> {
        let size = u64::from(self.manifest.chunk_bytes());
        let index = u32::try_from(offset / size).unwrap_or(u32::MAX);
        let Some(chunk) = self.manifest.chunk(index).filter(|_| offset.is_multiple_of(size)) else {
            return Ok(());
        };
        let (mut stored, mut plain) = (vec![0; chunk.length as usize], vec![0; self.manifest.plain_length(index)]);
        let read = self.source.read(chunk.offset, &mut stored);
        if read
            .and_then(|()| self.decode(&mut ChunkDecoder::new()?, chunk, &stored, &mut plain))
            .is_err()
        {
            // That it cannot be had any more says nothing of what was written.
            return Ok(());
        }
        check_plain(self.source.name(), chunk, &plain)
    }

    /// Writes a chunk whose plain bytes are at the beginning of `plain`.
    fn put(&self, engine: &Engine<'_>, chunk: &Chunk, plain: &mut AlignedBuffer) -> Result<(), ImageError> {
        let length = self.manifest.plain_length(chunk.index);
        let padded = length.next_multiple_of(engine.disk().0.sector_size() as usize);
        plain[length..padded].fill(0);
        let offset = self.manifest.disk_offset(chunk.index);
        let whole = (length == padded && engine.writes_in_one_piece(offset, &plain[..padded])).then(|| short_of(&chunk.plain));
        if whole.is_none() {
            check_plain(self.source.name(), chunk, &plain[..length])?;
        }
        engine.write_bytes(offset, &mut plain[..padded], whole)?;
        engine.covered(length as u64);
        Ok(())
    }

    /// Whether the disk holds a chunk; then it counts as read back.
    fn is_there(&self, engine: &Engine<'_>, chunk: &Chunk, buffer: &mut AlignedBuffer) -> Result<bool, ImageError> {
        let length = self.manifest.plain_length(chunk.index);
        let offset = self.manifest.disk_offset(chunk.index);
        let sector = engine.disk().0.sector_size() as usize;
        if !length.is_multiple_of(sector) || offset < FIRST_BYTES as u64 {
            return Ok(false);
        }
        engine.disk().read(offset, &mut buffer[..length])?;
        if blake3::hash(&buffer[..length]) != chunk.plain {
            return Ok(false);
        }
        engine.reused(offset, length as u64, short_of(&chunk.plain));
        engine.covered(length as u64);
        Ok(true)
    }
}
