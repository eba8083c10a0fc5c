//! Makes a packed image.
//!
//! The reader's extents become chunks ([`super::assemble`]), all cores compress them, and the frames go into one file in the order of
//! the disk ([`super::frames`]). The same image gives the same bytes, whatever the number of cores and the order in which the reader
//! gives its extents. Memory is bounded: a few blocks and a compressor for each core, chunks that are not whole up to 32 MiB, frames that
//! wait for their turn up to 32 MiB.
//!
//! The folder appears under its name when everything is in it and durable. What a crash leaves is a folder beside it,
//! `NAME.partial`, which the next attempt takes away.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zstd::bulk::Compressor;

use super::assemble::{Assembler, Job, Plain, Scratch};
use super::folder::NewFolder;
use super::frames::{Frame, Frames};
use super::manifest::{Chunk, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_DISK_BYTES, Manifest, Origin, Packer};
use super::unpack::{Layout, push};
use super::{CHUNKS_FILE, DirSource, MANIFEST_FILE, output_error};
use crate::block::Pool;
use crate::decode::{Copied, Download, ExtentSink, ImageReader, Limit};
use crate::device::is_zero;
use crate::error::ImageError;
use crate::table::Table;

/// Bytes of a chunk, unless the disk is so large that they would be too many. By measurement: see `docs/benchmarks.md`.
pub const DEFAULT_CHUNK_BYTES: u32 = 1 << 20;

/// Zstandard's level, by measurement as well.
pub const DEFAULT_LEVEL: i32 = 6;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(200);

/// For which disks an image is fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectorFit {
    /// What its partition table says; any, when it has none.
    ByTable,
    /// Disks with sectors of this size: 512 or 4096.
    Only(u32),
    /// Any disk.
    Any,
}

/// How large chunks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkSize {
    /// So many bytes; a disk that would have too many chunks is refused.
    Exactly(u32),
    /// So many, or as many more as a large disk needs.
    AtLeast(u32),
}

/// How to pack.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    /// Zstandard's level.
    pub level: i32,
    /// Bytes of a chunk.
    pub chunk_size: ChunkSize,
    /// For which disks.
    pub fit: SectorFit,
    /// Threads that compress; `None`: one for each core.
    pub workers: Option<usize>,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            level: DEFAULT_LEVEL,
            chunk_size: ChunkSize::AtLeast(DEFAULT_CHUNK_BYTES),
            fit: SectorFit::ByTable,
            workers: None,
        }
    }
}

/// How far packing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackProgress {
    /// Bytes of the disk that have come, zeros counted.
    pub disk_bytes: u64,
    /// Of so many, where that is known.
    pub disk_total: Option<u64>,
    /// Stored bytes of the source that have come, and all of them, where that is known.
    pub source_bytes: Option<(u64, u64)>,
    /// Bytes of frames that were written.
    pub stored_bytes: u64,
    /// Bytes on the disk beside those, which are there, or will be, only while it is packed.
    pub scratch_bytes: u64,
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Its manifest.
    pub manifest: Manifest,
    /// Stored bytes of the source.
    pub source_bytes: u64,
    /// Whether parts of it had to wait in a scratch file, because they came in another order than the disk's.
    pub scratch_used: bool,
}

/// The limit to open an image with that shall be packed.
pub fn packing_limit() -> Limit {
    Limit {
        bytes: MAX_DISK_BYTES,
        disk: "a packed image".to_owned(),
    }
}

/// Packs an image into a new folder. `progress` may end it ([`ImageError::Cancelled`]); then, as after any error, nothing is left.
pub fn pack(
    image: Box<dyn ImageReader>,
    folder: &Path,
    options: &PackOptions,
    progress: &mut dyn FnMut(PackProgress) -> ControlFlow<()>,
) -> Result<Packed, ImageError> {
    let source_name = image.source_name().to_owned();
    let origin = Origin {
        format: image.format(),
        digest: image.digest().to_string(),
    };
    let sector_bytes = sector_bytes(&source_name, image.head(), options.fit)?;
    let disk_total = image.image_bytes();
    packing_limit().check(&source_name, disk_total.unwrap_or(0))?;
    let new = NewFolder::begin(folder)?;
    let chunk_bytes = match options.chunk_size {
        ChunkSize::Exactly(bytes) => bytes,
        ChunkSize::AtLeast(bytes) => fitting(bytes, disk_total.unwrap_or(0)),
    };
    let round = Round {
        source_name: &source_name,
        new: &new,
        chunk_bytes,
        disk_total,
        download: image.download(),
        beside: 0,
        options,
    };
    let (copied, mut chunks, mut scratch_used) = round.run(CHUNKS_FILE, |sink| image.copy_to(sink), progress)?;
    let mut chunk_bytes = chunk_bytes;
    let needed = fitting(chunk_bytes, copied.image_bytes);
    if matches!(options.chunk_size, ChunkSize::AtLeast(_)) && needed != chunk_bytes {
        // A stream did not say how long it is, and turned out too long for chunks of this size.
        let small = "chunks.small";
        new.rename(CHUNKS_FILE, small)?;
        let layout = Layout {
            disk_bytes: copied.image_bytes,
            chunk_bytes,
            chunks: &chunks,
        };
        let source = DirSource::with_length(&new.path(small), super::stored_bytes(&chunks))?;
        chunk_bytes = needed;
        let round = Round {
            chunk_bytes,
            disk_total: Some(copied.image_bytes),
            download: None,
            beside: super::stored_bytes(&chunks),
            ..round
        };
        let again = |sink: &dyn ExtentSink| push(&layout, &source, sink, &|_| {}).map(|()| copied);
        let (_, regrouped, used) = round.run(CHUNKS_FILE, again, progress)?;
        chunks = regrouped;
        scratch_used |= used;
        new.remove(small)?;
    }
    let packer = Packer {
        zstd: zstd_version(),
        level: options.level,
    };
    let manifest = Manifest::new(copied.image_bytes, sector_bytes, chunk_bytes, origin, packer, chunks)
        .map_err(|error| error.of_source(&source_name))?;
    new.write(MANIFEST_FILE, &manifest.to_bytes())?;
    new.finish()?;
    Ok(Packed {
        manifest,
        source_bytes: copied.stored_bytes,
        scratch_used,
    })
}

fn zstd_version() -> String {
    let number = zstd::zstd_safe::version_number();
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

/// The smallest size from `least` on with which a disk has no more chunks than it may.
fn fitting(least: u32, disk_bytes: u64) -> u32 {
    let mut size = least;
    while size < MAX_CHUNK_BYTES && disk_bytes.div_ceil(u64::from(size)) > MAX_CHUNKS {
        size *= 2;
    }
    size
}

fn sector_bytes(source_name: &str, head: &[u8], fit: SectorFit) -> Result<u32, ImageError> {
    match fit {
        SectorFit::Any => Ok(0),
        SectorFit::Only(bytes) => Ok(bytes),
        SectorFit::ByTable => match Table::parse(head) {
            Ok(Table::Gpt(gpt)) => Ok(gpt.sector_size()),
            Ok(Table::Mbr(_)) => Ok(512),
            Ok(Table::None) => Ok(0),
            Err(reason) => Err(ImageError::Corrupt {
                source_name: source_name.to_owned(),
                reason: format!("of its partition table: {reason}"),
            }),
        },
    }
}

/// One time through all of the image.
struct Round<'a> {
    source_name: &'a str,
    new: &'a NewFolder,
    chunk_bytes: u32,
    disk_total: Option<u64>,
    download: Option<Download>,
    /// Bytes of an earlier round's output that stand beside this one's.
    beside: u64,
    options: &'a PackOptions,
}

/// What the threads of a round share.
struct Shared<'a> {
    jobs: Mutex<Receiver<Job>>,
    frames: Mutex<Frames>,
    pool: Pool,
    scratch: &'a Scratch,
    failed: AtomicBool,
    failure: Mutex<Option<ImageError>>,
}

impl Shared<'_> {
    fn fail(&self, error: ImageError) {
        self.failed.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.pool.close();
    }
}

impl Round<'_> {
    fn run(
        &self,
        output: &str,
        feed: impl FnOnce(&dyn ExtentSink) -> Result<Copied, ImageError> + Send,
        progress: &mut dyn FnMut(PackProgress) -> ControlFlow<()>,
    ) -> Result<(Copied, Vec<Chunk>, bool), ImageError> {
        let workers = self
            .options
            .workers
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
            .clamp(1, 64);
        let scratch = Scratch::new(self.new.path("scratch"));
        let path = self.new.path(output);
        let frames_file = self.new.create(output)?;
        let (sender, receiver) = sync_channel(workers);
        let shared = Shared {
            jobs: Mutex::new(receiver),
            frames: Mutex::new(Frames::new(frames_file)),
            // Those in the queue, in the compressors, and in the hands of as many decoders.
            pool: Pool::new(3 * workers + 16),
            scratch: &scratch,
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        let seen = AtomicU64::new(0);
        let assembler = Assembler::new(
            self.source_name,
            &shared.pool,
            self.chunk_bytes,
            self.disk_total,
            &scratch,
            sender,
            &seen,
        );
        let copied = std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| self.work(&shared));
            }
            let (done, ended) = channel::<()>();
            let feeder = scope.spawn(move || {
                // Dropped when everything was fed, and with it the sender, by which the other side knows.
                let _done = done;
                let copied = feed(&assembler)?;
                assembler.finish(copied.image_bytes)?;
                Ok(copied)
            });
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if progress(self.at(&shared, &seen)).is_break() {
                    shared.fail(ImageError::Cancelled);
                }
            }
            feeder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        // The last word before the frames are put in order.
        if copied.is_ok() && progress(self.at(&shared, &seen)).is_break() {
            shared.fail(ImageError::Cancelled);
        }
        // What one of our own threads met is the cause; the reader then only sees that nobody takes its blocks.
        if let Some(error) = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let copied = copied?;
        let scratch_used = scratch.was_used();
        if scratch_used {
            self.new.remove("scratch")?;
        }
        let frames = shared.frames.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (chunks, file) = frames.finish(|| self.new.replace(output)).map_err(output_error(&path))?;
        file.sync_all().map_err(output_error(&path))?;
        Ok((copied, chunks, scratch_used))
    }

    fn at(&self, shared: &Shared<'_>, seen: &AtomicU64) -> PackProgress {
        let (stored_bytes, copy_bytes) = {
            let frames = shared.frames.lock().unwrap_or_else(PoisonError::into_inner);
            (frames.stored_bytes(), frames.copy_bytes())
        };
        PackProgress {
            disk_bytes: seen.load(Ordering::Relaxed),
            disk_total: self.disk_total,
            source_bytes: self.download.as_ref().map(|download| (download.passed(), download.total)),
            stored_bytes,
            scratch_bytes: self.beside + shared.scratch.room() + copy_bytes,
        }
    }

    /// Compresses what comes, until nothing comes any more.
    fn work(&self, shared: &Shared<'_>) {
        let mut compressor = match Compressor::new(self.options.level) {
            Ok(compressor) => compressor,
            Err(error) => return shared.fail(output_error(&self.new.path(CHUNKS_FILE))(error)),
        };
        let mut room = Vec::with_capacity(zstd::zstd_safe::compress_bound(self.chunk_bytes as usize));
        loop {
            let job = shared.jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            // After a failure the queue is still emptied, so that nobody waits for room in it.
            if shared.failed.load(Ordering::Relaxed) {
                continue;
            }
            if let Err(error) = self.compress(shared, job, &mut compressor, &mut room) {
                shared.fail(error);
            }
        }
    }

    fn compress(&self, shared: &Shared<'_>, job: Job, compressor: &mut Compressor<'_>, room: &mut Vec<u8>) -> Result<(), ImageError> {
        let path = self.new.path(CHUNKS_FILE);
        let from_scratch;
        let plain: &[u8] = match &job.plain {
            Plain::Block(block) => block,
            Plain::Buffer(buffer) => buffer,
            Plain::Scratch(length) => {
                from_scratch = shared.scratch.take(u64::from(job.index) * u64::from(self.chunk_bytes), *length)?;
                &from_scratch
            }
            Plain::Zeros => &[],
        };
        let frame = if is_zero(plain) {
            None
        } else {
            room.clear();
            compressor.compress_to_buffer(plain, room).map_err(output_error(&path))?;
            Some(Frame {
                bytes: room.clone(),
                stored: blake3::hash(room),
                plain: blake3::hash(plain),
            })
        };
        let mut frames = shared.frames.lock().unwrap_or_else(PoisonError::into_inner);
        frames.settle(job.index, frame).map_err(output_error(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_disks_get_larger_chunks() {
        assert_eq!(fitting(1 << 20, 0), 1 << 20);
        assert_eq!(fitting(1 << 20, 64 << 30), 1 << 20);
        assert_eq!(fitting(1 << 20, (64 << 30) + 1), 2 << 20);
        assert_eq!(fitting(1 << 20, MAX_DISK_BYTES), 16 << 20);
    }
}
