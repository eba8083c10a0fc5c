//! Disk images: formats, download, verification and writing. Synchronous, `std::io`, bounded in memory.
//!
//! An image takes one way: a [`Source`](source::Source) gives stored bytes, [`decode::open`] turns them into extents of a disk and
//! checks their digest on the way, [`write_image`] puts the extents on a [`BlockDevice`](device::BlockDevice) in an order that never
//! leaves a half-written disk bootable, and returns [`Evidence`].
//!
//! ```no_run
//! # fn main() -> Result<(), image::ImageError> {
//! use std::ops::ControlFlow;
//! use image::{Digest, Disk, FileSource, WriteRequest};
//!
//! let disk = Disk::open("/dev/vdb".as_ref())?;
//! let source = FileSource::open("debian.qcow2".as_ref())?;
//! let digest = Digest::parse("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")?;
//! let image = image::open(Box::new(source), &digest, None, &image::limit_of(&disk))?;
//! let evidence = image::write_image(image, &disk, &WriteRequest::default(), &mut |_| ControlFlow::Continue(()))?;
//! println!("{} MiB/s", evidence.mebibytes_per_second);
//! # Ok(())
//! # }
//! ```
//!
//! Invariants of the crate: no digest, no write that could boot; the declared format equals the sniffed one; nothing outside of the
//! named source is ever opened, whatever an image says; no input makes it panic or use unbounded memory; errors say what failed and
//! what to do ([`ImageError`]) and carry a stable [`FaultKind`]. It knows nothing of Kubernetes, of config drive contents, or of who
//! may write to which disk.
//!
//! Reading, decoding, writing and reading back go on at the same time: a reader pushes extents into a [`decode::ExtentSink`], in any
//! order and from any thread, in blocks out of a bounded pool ([`Block`]), and the writer's threads take them from there.

mod block;
pub mod decode;
pub mod device;
mod digest;
mod error;
mod format;
pub mod marker;
pub mod pack;
pub mod source;
pub mod table;
mod write;

pub use block::{BLOCK_BYTES, Block, Pool};
pub use decode::{Limit, open, open_with_any_window};
pub use device::{BlockDevice, Disk};
pub use digest::{Digest, DigestHasher};
pub use error::{DiskOperation, FaultKind, ImageError};
pub use format::{Format, SNIFF_BYTES, Sniffed, sniff};
pub use source::{Client, FallbackSource, FileSource, HttpLimits, HttpSource, MemorySource, RequestError, Response, STALL, Source, Stop};
pub use write::{
    ConfigDrive, ConfigDrivePlace, Evidence, OwnPart, OwnRange, Progress, ProgressCallback, Step, StepDuration, Tuning, WriteRequest,
    limit_of, write_image, write_packed,
};
