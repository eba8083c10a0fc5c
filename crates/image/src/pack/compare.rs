//! Holds a disk against a packed image, without writing.
//!
//! A disk that an image was written to differs from it where it has to: in the first sectors and in the place of the image's own backup
//! table, because the partition table was fitted to the disk. Those ranges are left out, byte by byte. Anything else that differs is told.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::manifest::Manifest;
use super::source::ChunkSource;
use super::{ChunkDecoder, MIN_CHUNK_BYTES};
use crate::device::{AlignedBuffer, BlockDevice, Checked, is_zero};
use crate::error::ImageError;
use crate::table::Table;
use crate::write::FIRST_BYTES;

/// Most differing ranges that are told one by one.
const MOST_TOLD: usize = 100;

/// What the comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Bytes that were read from the disk.
    pub read_bytes: u64,
    /// Chunks that hold other bytes.
    pub differing_chunks: u32,
    /// The first hundred of them, ascending: where each begins on the disk and ends.
    pub differing: Vec<Range<u64>>,
    /// Ranges that were left out.
    pub left_out: Vec<Range<u64>>,
}

/// Compares. `each` is told of so many bytes that were read. `source` is asked for few chunks only: the first, and those that differ.
pub fn compare_disk(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    disk: &dyn BlockDevice,
    each: &(dyn Fn(u64) + Sync),
) -> Result<Comparison, ImageError> {
    crate::limit_of(disk).check(source.name(), manifest.disk_bytes())?;
    let left_out = left_out(manifest, source)?;
    let job = Job {
        manifest,
        source,
        disk: Checked(disk),
        left_out: &left_out,
        each,
        next: AtomicU32::new(0),
        found: Mutex::new(Vec::new()),
        failure: Mutex::new(None),
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                if let Err(error) = job.run() {
                    job.next.store(manifest.chunk_count(), Ordering::Relaxed);
                    job.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = job.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut found = job.found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_unstable();
    let differing_chunks = found.len() as u32;
    found.truncate(MOST_TOLD);
    let ranges = found
        .into_iter()
        .map(|index| manifest.disk_offset(index)..manifest.disk_offset(index) + manifest.plain_length(index) as u64);
    Ok(Comparison {
        read_bytes: manifest.disk_bytes(),
        differing_chunks,
        differing: ranges.collect(),
        left_out,
    })
}

fn left_out(manifest: &Manifest, source: &dyn ChunkSource) -> Result<Vec<Range<u64>>, ImageError> {
    let head = decoded(manifest, source, &mut ChunkDecoder::new()?, 0)?;
    let table = Table::parse(&head[..head.len().min(MIN_CHUNK_BYTES as usize)]).map_err(|reason| ImageError::Corrupt {
        source_name: source.name().to_owned(),
        reason: format!("of its partition table: {reason}"),
    })?;
    let backup = match table {
        Table::Gpt(gpt) => Some(gpt.backup_range()),
        Table::Mbr(_) | Table::None => None,
    };
    let first = 0..FIRST_BYTES as u64;
    Ok(std::iter::once(first).chain(backup).collect())
}

/// The plain bytes of a chunk.
fn decoded(manifest: &Manifest, source: &dyn ChunkSource, decoder: &mut ChunkDecoder, index: u32) -> Result<Vec<u8>, ImageError> {
    let mut plain = vec![0; manifest.plain_length(index)];
    if let Some(chunk) = manifest.chunk(index) {
        let mut stored = vec![0; chunk.length as usize];
        source.read(chunk.offset, &mut stored)?;
        decoder.decode(source.name(), manifest, chunk, &stored, &mut plain)?;
    }
    Ok(plain)
}

struct Job<'a> {
    manifest: &'a Manifest,
    source: &'a dyn ChunkSource,
    disk: Checked<'a>,
    left_out: &'a [Range<u64>],
    each: &'a (dyn Fn(u64) + Sync),
    next: AtomicU32,
    found: Mutex<Vec<u32>>,
    failure: Mutex<Option<ImageError>>,
}

impl Job<'_> {
    fn run(&self) -> Result<(), ImageError> {
        let mut buffer = AlignedBuffer::zeroed(self.manifest.chunk_bytes() as usize);
        let mut decoder = ChunkDecoder::new()?;
        let sector = self.disk.0.sector_size() as usize;
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.manifest.chunk_count() {
                return Ok(());
            }
            let (start, length) = (self.manifest.disk_offset(index), self.manifest.plain_length(index));
            self.disk.read(start, &mut buffer[..length.next_multiple_of(sector)])?;
            let bytes = &buffer[..length];
            let same = match self.manifest.chunk(index) {
                Some(chunk) => blake3::hash(bytes) == chunk.plain,
                None => is_zero(bytes),
            };
            if !same && !self.same_but_for_what_is_left_out(&mut decoder, index, start, bytes)? {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).push(index);
            }
            (self.each)(length as u64);
        }
    }

    fn same_but_for_what_is_left_out(&self, decoder: &mut ChunkDecoder, index: u32, start: u64, bytes: &[u8]) -> Result<bool, ImageError> {
        let end = start + bytes.len() as u64;
        let touching: Vec<_> = self
            .left_out
            .iter()
            .filter(|range| range.start < end && range.end > start)
            .map(|range| (range.start.max(start) - start) as usize..(range.end.min(end) - start) as usize)
            .collect();
        if touching.is_empty() {
            return Ok(false);
        }
        let mut expected = decoded(self.manifest, self.source, decoder, index)?;
        for range in touching {
            expected[range.clone()].copy_from_slice(&bytes[range]);
        }
        Ok(expected == bytes)
    }
}
