//! Packed images: a disk image prepared once, for many readers.
//!
//! A packed image is a folder (or the same two files behind a URL) with `manifest.json` and `chunks`. `chunks` holds Zstandard frames
//! one behind the other, one for each chunk of the disk that is not all zeros; the manifest says where each lies and gives the BLAKE3
//! digests of its stored and of its plain bytes. The BLAKE3 digest of the manifest's own bytes names the image, so whoever has that
//! name can take manifest and chunks from anywhere. The format is described for others in `docs/reference/packed-image.md`.
//!
//! * [`Manifest`]: read and written, checked whole before anything is believed.
//! * [`ChunkSource`]: where stored bytes come from, a folder ([`DirSource`]) or web servers ([`HttpChunks`]); with a [`Feed`] in its own order.
//! * [`ChunkDecoder`]: from stored to plain bytes, held against both digests.
//! * [`pack`] makes one out of any image that can be read; [`unpack`], [`verify`] and [`difference`] are what can be done with it
//!   without a disk; [`compare_disk`] holds a disk against it.
//! * [`oci`]: as an OCI artifact.
//!
//! Nothing here writes to a disk.

mod assemble;
mod chunk;
mod compare;
mod folder;
mod frames;
mod manifest;
pub mod oci;
mod packer;
mod source;
mod unpack;

use std::io;
use std::path::Path;

use crate::error::ImageError;

pub use chunk::ChunkDecoder;
pub(crate) use chunk::check_plain;
pub use compare::{Comparison, compare_disk};
pub use manifest::{
    Chunk, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_DISK_BYTES, MAX_MANIFEST_BYTES, MIN_CHUNK_BYTES, Manifest, ManifestError, Origin, PackDigest,
    Packer,
};
pub use packer::{ChunkSize, DEFAULT_CHUNK_BYTES, DEFAULT_LEVEL, PackOptions, PackProgress, Packed, SectorFit, pack, packing_limit};
pub use source::{ChunkSource, DirSource, Feed, HttpChunks, fetch_manifest};
pub use unpack::{Difference, difference, unpack, verify};

/// Name of the manifest in a folder or below a URL.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Name of the file of frames beside it.
pub const CHUNKS_FILE: &str = "chunks";

/// Where the last frame ends.
pub(crate) fn stored_bytes(chunks: &[Chunk]) -> u64 {
    chunks
        .iter()
        .map(|chunk| chunk.offset.saturating_add(u64::from(chunk.length)))
        .max()
        .unwrap_or(0)
}

/// An output that could not be written.
fn output_error(path: &Path) -> impl Fn(io::Error) -> ImageError + use<> {
    let path = path.display().to_string();
    move |source| ImageError::Output {
        path: path.clone(),
        source,
    }
}
