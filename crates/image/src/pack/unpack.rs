//! What is done with a packed image without a disk: unpacking it to a file, checking it, comparing two of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::chunk::decode_frame;
use super::manifest::{Chunk, Manifest};
use super::source::ChunkSource;
use super::{ChunkDecoder, output_error};
use crate::block::{BLOCK_BYTES, Block, Pool};
use crate::decode::ExtentSink;
use crate::error::ImageError;

/// Where chunks belong.
pub(crate) struct Layout<'a> {
    pub(crate) disk_bytes: u64,
    pub(crate) chunk_bytes: u32,
    pub(crate) chunks: &'a [Chunk],
}

impl<'a> Layout<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        Self {
            disk_bytes: manifest.disk_bytes(),
            chunk_bytes: manifest.chunk_bytes(),
            chunks: manifest.chunks(),
        }
    }

    fn start(&self, index: u32) -> u64 {
        u64::from(index) * u64::from(self.chunk_bytes)
    }

    fn length(&self, index: u32) -> usize {
        // At most the size of a chunk.
        u64::from(self.chunk_bytes).min(self.disk_bytes.saturating_sub(self.start(index))) as usize
    }
}

/// Pushes a packed image into a sink, on all cores. `each` is told of every chunk that went through.
pub(crate) fn push(
    layout: &Layout<'_>,
    source: &dyn ChunkSource,
    sink: &dyn ExtentSink,
    each: &(dyn Fn(&Chunk) + Sync),
) -> Result<(), ImageError> {
    let mut end = 0;
    for chunk in layout.chunks {
        let start = layout.start(chunk.index);
        if start > end {
            sink.zero(end, start - end)?;
        }
        end = start + layout.length(chunk.index) as u64;
    }
    if layout.disk_bytes > end {
        sink.zero(end, layout.disk_bytes - end)?;
    }
    let workers = std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(layout.chunks.len())
        .min(16);
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                if let Err(error) = push_some(layout, source, sink, each, &next) {
                    next.store(layout.chunks.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn push_some(
    layout: &Layout<'_>,
    source: &dyn ChunkSource,
    sink: &dyn ExtentSink,
    each: &(dyn Fn(&Chunk) + Sync),
    next: &AtomicUsize,
) -> Result<(), ImageError> {
    let mut decoder = ChunkDecoder::new()?;
    let (mut stored, mut plain) = (Vec::new(), Vec::new());
    while let Some(chunk) = layout.chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
        let (start, length) = (layout.start(chunk.index), layout.length(chunk.index));
        stored.resize(chunk.length as usize, 0);
        source.read(chunk.offset, &mut stored)?;
        if length <= BLOCK_BYTES {
            let mut block = sink.block()?;
            decode_frame(&mut decoder, source.name(), chunk, &stored, &mut block.room()[..length])?;
            block.set_len(length);
            sink.data(start, block)?;
        } else {
            plain.resize(length, 0);
            decode_frame(&mut decoder, source.name(), chunk, &stored, &mut plain)?;
            let mut at = start;
            for part in plain.chunks(BLOCK_BYTES) {
                let mut block = sink.block()?;
                block.append(part);
                sink.data(at, block)?;
                at += part.len() as u64;
            }
        }
        each(chunk);
    }
    Ok(())
}

/// Takes everything and keeps nothing, or puts it into a file.
struct FileSink<'a> {
    pool: Pool,
    file: Option<(&'a File, &'a Path)>,
}

impl<'a> FileSink<'a> {
    fn new(file: Option<(&'a File, &'a Path)>) -> Self {
        Self { pool: Pool::new(32), file }
    }
}

impl ExtentSink for FileSink<'_> {
    fn block(&self) -> Result<Block, ImageError> {
        self.pool.take()
    }

    fn data(&self, offset: u64, block: Block) -> Result<(), ImageError> {
        match self.file {
            Some((file, path)) => file.write_all_at(&block, offset).map_err(output_error(path)),
            None => Ok(()),
        }
    }

    fn zero(&self, _offset: u64, _length: u64) -> Result<(), ImageError> {
        // A new file reads as zeros where nothing was written.
        Ok(())
    }
}

/// Reads every chunk and holds it against both of its digests. `each` is told of every chunk that was right.
pub fn verify(manifest: &Manifest, source: &dyn ChunkSource, each: &(dyn Fn(&Chunk) + Sync)) -> Result<(), ImageError> {
    push(&Layout::of(manifest), source, &FileSink::new(None), each)
}

/// Writes the disk image to a new sparse file, durably. `each` is told of every chunk that went there.
pub fn unpack(manifest: &Manifest, source: &dyn ChunkSource, path: &Path, each: &(dyn Fn(&Chunk) + Sync)) -> Result<(), ImageError> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(output_error(path))?;
    let done = file
        .set_len(manifest.disk_bytes())
        .map_err(output_error(path))
        .and_then(|()| push(&Layout::of(manifest), source, &FileSink::new(Some((&file, path))), each))
        .and_then(|()| file.sync_all().map_err(output_error(path)));
    if done.is_err()
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "an unfinished file stays");
    }
    done
}

/// What differs between two packed images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Whether chunks can be compared: both images are cut into chunks of one size.
    pub comparable: bool,
    /// Chunks of the second image's disk that are as in the first, those of zeros counted.
    pub same_chunks: u32,
    /// Chunks with other data than in the first.
    pub changed_chunks: u32,
    /// Chunks that are zeros in the second only.
    pub zeroed_chunks: u32,
    /// Stored bytes of the changed chunks: what a disk that holds the first image fetches to hold the second.
    pub fetch_bytes: u64,
    /// Plain bytes of the changed chunks.
    pub write_bytes: u64,
    /// Of the second image's stored bytes.
    pub fetch_percent: f64,
}

/// Compares by the manifests alone.
pub fn difference(first: &Manifest, second: &Manifest) -> Difference {
    let comparable = first.chunk_bytes() == second.chunk_bytes();
    let mut difference = Difference {
        comparable,
        same_chunks: 0,
        changed_chunks: 0,
        zeroed_chunks: 0,
        fetch_bytes: 0,
        write_bytes: 0,
        fetch_percent: 0.0,
    };
    let mut fetched = std::collections::HashSet::new();
    for index in 0..second.chunk_count() {
        let within = comparable && index < first.chunk_count() && first.plain_length(index) == second.plain_length(index);
        let before = first.chunk(index).filter(|_| within);
        match (second.chunk(index), before) {
            (Some(now), Some(before)) if now.plain == before.plain => difference.same_chunks += 1,
            (Some(now), _) => {
                difference.changed_chunks += 1;
                difference.write_bytes += second.plain_length(index) as u64;
                if fetched.insert(now.offset) {
                    difference.fetch_bytes += u64::from(now.length);
                }
            }
            (None, None) if within => difference.same_chunks += 1,
            (None, _) => difference.zeroed_chunks += 1,
        }
    }
    difference.fetch_percent = 100.0 * difference.fetch_bytes as f64 / second.stored_bytes().max(1) as f64;
    difference
}
