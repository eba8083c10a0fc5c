//! Writing a packed image: its chunks fetched, checked and decompressed by the writer's threads themselves, and, where the disk may hold
//! some of them already, compared first, so that only what differs is fetched.
//!
//! The work is cut into spans: chunks whose frames lie one behind the other are fetched by one request. A chunk whose bytes do not have
//! its digest is fetched again a few times, since a source may know more than one server, before it is a fault.
//!
//! A source with a [`Feed`] hands over frames in its own order; here it is only told which of them the disk lacks.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Engine, short_of};
use super::plan::{END_BYTES, FIRST_BYTES};
use crate::device::{AlignedBuffer, Checked};
use crate::error::{FaultKind, ImageError};
use crate::pack::{Chunk, ChunkDecoder, ChunkSource, Feed, Manifest};

/// Stored bytes that one request asks for, unless one chunk alone has more.
const SPAN_BYTES: u64 = 2 << 20;
/// Memory that the buffers of all threads may take together.
const BUFFERS: u64 = 64 << 20;
/// How often a chunk is fetched again that came damaged.
const AGAIN: u32 = 3;
/// Chunks that are looked at to find out whether the disk holds some of the image.
const SAMPLES: usize = 16;

/// What a thread keeps from one span to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    stored: Vec<u8>,
    plain: Option<AlignedBuffer>,
    decoder: Option<ChunkDecoder>,
}

impl Scratch {
    fn parts(&mut self, chunk_bytes: u32) -> Result<(&mut Vec<u8>, &mut AlignedBuffer, &mut ChunkDecoder), ImageError> {
        let decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => ChunkDecoder::new()?,
        };
        let plain = self.plain.get_or_insert_with(|| AlignedBuffer::zeroed(chunk_bytes as usize));
        Ok((&mut self.stored, plain, self.decoder.insert(decoder)))
    }
}

/// The chunks of an image, and where they come from.
pub(crate) struct Chunks<'a> {
    manifest: &'a Manifest,
    source: &'a dyn ChunkSource,
    /// Whether the disk may hold some of them.
    compare: bool,
    fetched: AtomicU64,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(manifest: &'a Manifest, source: &'a dyn ChunkSource) -> Self {
        Self {
            manifest,
            source,
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

    /// The work there is before anything was looked at: all spans. A feed is told of them at once where nothing has to be compared.
    pub(crate) fn work(&self) -> Vec<Range<usize>> {
        let spans = self.spans();
        match self.source.feed().filter(|_| !self.compare) {
            Some(feed) => {
                spans.into_iter().flatten().for_each(|place| feed.settle(place, true));
                Vec::new()
            }
            None => spans,
        }
    }

    /// How many threads may have buffers.
    pub(crate) fn most_workers(&self) -> usize {
        let each = u64::from(self.manifest.chunk_bytes()) * 2 + SPAN_BYTES;
        usize::try_from(BUFFERS / each).unwrap_or(1).max(1)
    }

    /// The first chunk, which the plan is made from; it is empty if it is all zeros.
    pub(crate) fn first(&self) -> Result<Vec<u8>, ImageError> {
        let mut plain = vec![0; self.manifest.plain_length(0)];
        if let Some(chunk) = self.manifest.chunk(0) {
            let mut stored = Vec::new();
            self.fetch(std::slice::from_ref(chunk), &mut stored)?;
            self.decode(&mut ChunkDecoder::new()?, chunk, &mut stored, &mut plain)?;
        }
        Ok(plain)
    }

    /// Everything but the first chunk, as places in the manifest's list.
    fn spans(&self) -> Vec<Range<usize>> {
        let chunks = self.manifest.chunks();
        let mut spans: Vec<Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (place, chunk) in chunks.iter().enumerate().filter(|(_, chunk)| chunk.index > 0) {
            let follows = |span: &Range<usize>| {
                let last = &chunks[span.end - 1];
                last.offset + u64::from(last.length) == chunk.offset
            };
            match spans.last_mut() {
                Some(span) if bytes + u64::from(chunk.length) <= SPAN_BYTES && follows(span) => {
                    span.end = place + 1;
                    bytes += u64::from(chunk.length);
                }
                _ => {
                    spans.push(place..place + 1);
                    bytes = u64::from(chunk.length);
                }
            }
        }
        spans
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
        let mut buffer = AlignedBuffer::zeroed(self.manifest.chunk_bytes() as usize);
        for place in places {
            let length = self.manifest.plain_length(chunks[place].index);
            let read = &mut buffer[..length.next_multiple_of(disk.0.sector_size() as usize)];
            disk.read(self.manifest.disk_offset(chunks[place].index), read)?;
            if blake3::hash(&read[..length]) == chunks[place].plain {
                self.compare = true;
                return Ok(());
            }
        }
        Ok(())
    }

    fn fetch(&self, chunks: &[Chunk], stored: &mut Vec<u8>) -> Result<(), ImageError> {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(());
        };
        let length = last.offset + u64::from(last.length) - first.offset;
        stored.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
        self.source.read(first.offset, stored)?;
        self.fetched.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    fn decode(&self, decoder: &mut ChunkDecoder, chunk: &Chunk, stored: &mut [u8], plain: &mut [u8]) -> Result<(), ImageError> {
        let mut tries = 0;
        loop {
            match decoder.decode(self.source.name(), self.manifest, chunk, stored, plain) {
                Err(error) if error.kind() == FaultKind::DigestMismatch && tries < AGAIN => {
                    tries += 1;
                    tracing::warn!(%error, tries, "a chunk came damaged and is fetched again");
                    self.source.read(chunk.offset, stored)?;
                    self.fetched.fetch_add(chunk.length.into(), Ordering::Relaxed);
                }
                done => return done,
            }
        }
    }

    /// Tells a feed which chunks of a span the disk lacks.
    fn settle(&self, engine: &Engine<'_>, span: Range<usize>, feed: &dyn Feed, plain: &mut AlignedBuffer) -> Result<(), ImageError> {
        for place in span {
            let there = self.is_there(engine, &self.manifest.chunks()[place], plain)?;
            feed.settle(place, !there);
        }
        Ok(())
    }

    /// Brings a frame of a feed onto the disk.
    pub(crate) fn write_frame(&self, engine: &Engine<'_>, place: usize, frame: &[u8], scratch: &mut Scratch) -> Result<(), ImageError> {
        let (_, plain, decoder) = scratch.parts(self.manifest.chunk_bytes())?;
        let chunk = &self.manifest.chunks()[place];
        self.fetched.fetch_add(frame.len() as u64, Ordering::Relaxed);
        decoder.decode(
            self.source.name(),
            self.manifest,
            chunk,
            frame,
            &mut plain[..self.manifest.plain_length(chunk.index)],
        )?;
        self.put(engine, chunk, plain)
    }

    /// Writes a chunk whose plain bytes are at the beginning of `plain`.
    fn put(&self, engine: &Engine<'_>, chunk: &Chunk, plain: &mut AlignedBuffer) -> Result<(), ImageError> {
        let length = self.manifest.plain_length(chunk.index);
        let padded = length.next_multiple_of(engine.disk().0.sector_size() as usize);
        plain[length..padded].fill(0);
        let whole = (length == padded).then(|| short_of(&chunk.plain));
        engine.write_bytes(self.manifest.disk_offset(chunk.index), &mut plain[..padded], whole)?;
        engine.covered(length as u64);
        Ok(())
    }

    /// Brings the chunks of a span onto the disk.
    pub(crate) fn write(&self, engine: &Engine<'_>, span: Range<usize>, scratch: &mut Scratch) -> Result<(), ImageError> {
        let (stored, plain, decoder) = scratch.parts(self.manifest.chunk_bytes())?;
        if let Some(feed) = self.source.feed() {
            return self.settle(engine, span, feed, plain);
        }
        let chunks = &self.manifest.chunks()[span];
        let mut at = 0;
        while at < chunks.len() {
            // The chunks from here on that are to be fetched together.
            let mut end = chunks.len();
            if self.compare {
                end = at;
                while end < chunks.len() && !self.is_there(engine, &chunks[end], plain)? {
                    end += 1;
                }
            }
            let missing = &chunks[at..end];
            self.fetch(missing, stored)?;
            let mut from = 0;
            for chunk in missing {
                let frame = &mut stored[from..from + chunk.length as usize];
                from += chunk.length as usize;
                let length = self.manifest.plain_length(chunk.index);
                self.decode(decoder, chunk, frame, &mut plain[..length])?;
                self.put(engine, chunk, plain)?;
            }
            // The one that ended the run is there.
            at = if self.compare { end + 1 } else { end };
        }
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
