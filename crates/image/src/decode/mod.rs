//! From stored bytes to extents of the disk.
//!
//! [`open`] sniffs the format, holds it against the declared one and gives an [`ImageReader`]. A reader pushes the whole image
//! into an [`ExtentSink`] as data and zero extents, computes the digest over the stored bytes while it does so, and fails at the
//! end when the digest is another one: whoever uses the extents before that must not make anything bootable.
//!
//! Invariants: every byte of the image is covered by exactly one extent; memory is bounded whatever the image says (see the
//! constants); an image never decodes to more than the limit given to [`open`].

mod feed;
pub(crate) mod qcow2;
mod stream;
mod stretch;
mod xz;
mod zstd_frame;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::block::Block;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::format::{self, Format, SNIFF_BYTES};
use crate::source::Source;

use self::feed::Stored;

/// How many first bytes of the disk a reader shows ahead of the extents.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Largest Zstandard window that is decoded: 64 MiB.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 26;

/// Most threads that decode.
const MOST_WORKERS: usize = 16;

/// Memory the xz decoder may use; `xz -9` needs 65 MiB.
pub const XZ_MEMORY_LIMIT: u64 = 68 << 20;

/// Takes the extents of an image, in any order, from any thread, each part of the disk once.
pub trait ExtentSink: Sync {
    /// A free block; waits for one. [`ImageError::Cancelled`] once the other end gave up: then the reader ends too, and the other end
    /// knows why.
    fn block(&self) -> Result<Block, ImageError>;

    /// Bytes at `offset`, which is a multiple of the reader's granule. The length is one too, except at the end of the image.
    fn data(&self, offset: u64, block: Block) -> Result<(), ImageError>;

    /// A range that reads as zeros, aligned like data.
    fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError>;
}

/// What came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Size of the disk that the image describes.
    pub image_bytes: u64,
    /// Bytes as stored at the source.
    pub stored_bytes: u64,
}

/// Progress of a download that is decoded on the way.
#[derive(Debug, Clone)]
pub struct Download {
    /// Stored bytes in all.
    pub total: u64,
    passed: Arc<AtomicU64>,
}

impl Download {
    /// Stored bytes that have come so far.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed).min(self.total)
    }
}

/// An opened image.
pub trait ImageReader: Send {
    /// Where it comes from.
    fn source_name(&self) -> &str;

    /// Its format.
    fn format(&self) -> Format;

    /// The digest that it must have.
    fn digest(&self) -> &Digest;

    /// Size of the disk that the image describes, when it is known before everything was decoded.
    fn image_bytes(&self) -> Option<u64>;

    /// How far the download is, where that tells more than the bytes that come out: for compressed images of known length.
    fn download(&self) -> Option<Download> {
        None
    }

    /// Extents are aligned to this many bytes, a power of two from 512 to 4096.
    fn granule(&self) -> u32;

    /// The first [`HEAD_BYTES`] of the disk (fewer if the image is shorter).
    fn head(&self) -> &[u8];

    /// Pushes everything into the sink, then checks the digest.
    fn copy_to(self: Box<Self>, sink: &dyn ExtentSink) -> Result<Copied, ImageError>;
}

/// How large an image may get, and who says so.
#[derive(Debug, Clone)]
pub struct Limit {
    /// Most bytes of the disk image.
    pub bytes: u64,
    /// The disk, for messages.
    pub disk: String,
}

impl Limit {
    pub(crate) fn check(&self, source_name: &str, needed: u64) -> Result<(), ImageError> {
        if needed <= self.bytes {
            return Ok(());
        }
        Err(ImageError::TooLarge {
            source_name: source_name.to_owned(),
            disk: self.disk.clone(),
            needed,
            available: self.bytes,
        })
    }
}

/// How much memory a stream may ask for by what it declares.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Windows {
    zstd_log: u32,
    xz_memory: u64,
}

impl Windows {
    const BOUNDED: Self = Self {
        zstd_log: ZSTD_WINDOW_LOG_MAX,
        xz_memory: XZ_MEMORY_LIMIT,
    };
    /// All that the formats know: windows of 2 GiB, dictionaries of 1.5 GiB.
    const ANY: Self = Self {
        zstd_log: 31,
        xz_memory: 1600 << 20,
    };
}

/// Like [`open`], but with any window or dictionary that the format knows, up to 2 GiB of memory. For packing an image on a machine that has
/// that, so that those that write it need not.
pub fn open_with_any_window(
    source: Box<dyn Source>,
    digest: &Digest,
    declared: Option<Format>,
    limit: &Limit,
) -> Result<Box<dyn ImageReader>, ImageError> {
    open_within(source, digest, declared, limit, Windows::ANY)
}

/// Opens the image behind `source`. `declared` is what the image resource says of the format, if it says anything.
pub fn open(source: Box<dyn Source>, digest: &Digest, declared: Option<Format>, limit: &Limit) -> Result<Box<dyn ImageReader>, ImageError> {
    open_within(source, digest, declared, limit, Windows::BOUNDED)
}

fn open_within(
    mut source: Box<dyn Source>,
    digest: &Digest,
    declared: Option<Format>,
    limit: &Limit,
    windows: Windows,
) -> Result<Box<dyn ImageReader>, ImageError> {
    let name = source.name().to_owned();
    let mut stored = Stored::new(&name, source.stream()?);
    let head = stored.peek(SNIFF_BYTES)?;
    if head.is_empty() {
        let error = ImageError::Corrupt {
            source_name: name,
            reason: "it is empty".to_owned(),
        };
        return Err(stored.settle(error, digest));
    }
    let format = format::check(&name, head, declared)?;
    if format == Format::Qcow2 {
        drop(stored);
        return Ok(Box::new(qcow2::Qcow2Reader::open(source, digest, limit)?));
    }
    let stored_bytes = source.size()?;
    Ok(Box::new(stream::StreamReader::open(
        stored,
        &name,
        format,
        digest,
        stored_bytes,
        limit,
        windows,
    )?))
}

/// Threads that decode: one for each processor this process may use, within a bound that keeps their memory in bounds too.
fn workers() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(MOST_WORKERS)
}
