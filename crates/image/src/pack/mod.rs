//! Packed images: a disk image prepared once, for many readers.
//!
//! A packed image is a folder (or the same two files behind a URL) with `manifest.json` and `chunks`. `chunks` holds Zstandard frames
//! one behind the other, one for each chunk of the disk that is not all zeros; the manifest says where each lies and gives the BLAKE3
//! digests of its stored and of its plain bytes. The BLAKE3 digest of the manifest's own bytes names the image, so whoever has that
//! name can take manifest and chunks from anywhere. The format is described for others in `docs/reference/packed-image.md`.
//!
//! * [`Manifest`]: read and written, checked whole before anything is believed.
//! * [`ChunkSource`]: where stored bytes come from, a folder ([`DirSource`]) or web servers ([`HttpChunks`]).
//! * [`ChunkDecoder`]: from stored to plain bytes, held against both digests.
//!
//! Nothing here writes to a disk.

mod chunk;
mod manifest;
mod source;

pub use chunk::ChunkDecoder;
pub use manifest::{
    Chunk, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_DISK_BYTES, MAX_MANIFEST_BYTES, MIN_CHUNK_BYTES, Manifest, ManifestError, Origin, PackDigest,
    Packer,
};
pub use source::{ChunkSource, DirSource, HttpChunks, fetch_manifest};

/// Name of the manifest in a folder or below a URL.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Name of the file of frames beside it.
pub const CHUNKS_FILE: &str = "chunks";
