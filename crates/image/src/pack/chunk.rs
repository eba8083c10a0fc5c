//! From a chunk's stored bytes to its plain ones.

use zstd::bulk::Decompressor;

use super::manifest::{Chunk, Manifest};
use crate::error::ImageError;

/// Decodes chunks, one after the other; each thread has its own.
///
/// The stored bytes are held against their digest before the decoder sees them, the plain ones after: what comes out is what the
/// manifest says, or nothing.
pub struct ChunkDecoder {
    zstd: Decompressor<'static>,
}

impl ChunkDecoder {
    /// A decoder.
    pub fn new() -> Result<Self, ImageError> {
        let zstd = Decompressor::new().map_err(|error| ImageError::Unsupported {
            source_name: "a packed image".to_owned(),
            reason: format!("no Zstandard decoder could be made: {error}"),
            remedy: "free memory and try again".to_owned(),
        })?;
        Ok(Self { zstd })
    }

    /// Decodes `stored`, the frame of `chunk`, into `plain`, which must be of [`Manifest::plain_length`]. `name` is where the bytes
    /// came from.
    pub fn decode(&mut self, name: &str, manifest: &Manifest, chunk: &Chunk, stored: &[u8], plain: &mut [u8]) -> Result<(), ImageError> {
        self.decode_unproven(name, manifest, chunk, stored, plain)?;
        check_plain(name, chunk, plain)
    }

    /// The same, but the plain bytes are not held against their digest: for whoever compares what is read back from where they went.
    pub(crate) fn decode_unproven(
        &mut self,
        name: &str,
        manifest: &Manifest,
        chunk: &Chunk,
        stored: &[u8],
        plain: &mut [u8],
    ) -> Result<(), ImageError> {
        if plain.len() != manifest.plain_length(chunk.index) {
            return Err(damaged(name, chunk, format!("does not belong into {} bytes", plain.len())));
        }
        decompress(self, name, chunk, stored, plain)
    }
}

/// Holds a chunk's plain bytes against their digest.
pub(crate) fn check_plain(name: &str, chunk: &Chunk, plain: &[u8]) -> Result<(), ImageError> {
    check(name, chunk, "plain", plain, &chunk.plain)
}

fn damaged(name: &str, chunk: &Chunk, reason: String) -> ImageError {
    ImageError::Corrupt {
        source_name: name.to_owned(),
        reason: format!("the frame of its chunk {} {reason}", chunk.index),
    }
}

/// Decodes a frame that must fill `plain`.
pub(super) fn decode_frame(
    decoder: &mut ChunkDecoder,
    name: &str,
    chunk: &Chunk,
    stored: &[u8],
    plain: &mut [u8],
) -> Result<(), ImageError> {
    decompress(decoder, name, chunk, stored, plain)?;
    check_plain(name, chunk, plain)
}

fn decompress(decoder: &mut ChunkDecoder, name: &str, chunk: &Chunk, stored: &[u8], plain: &mut [u8]) -> Result<(), ImageError> {
    check(name, chunk, "stored", stored, &chunk.stored)?;
    let count = decoder
        .zstd
        .decompress_to_buffer(stored, plain)
        .map_err(|error| damaged(name, chunk, format!("does not decompress: {error}")))?;
    if count != plain.len() {
        return Err(damaged(name, chunk, format!("holds {count} bytes, not {}", plain.len())));
    }
    Ok(())
}

fn check(name: &str, chunk: &Chunk, what: &str, bytes: &[u8], expected: &blake3::Hash) -> Result<(), ImageError> {
    let actual = blake3::hash(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        source_name: format!("chunk {} ({what} bytes) of {name}", chunk.index),
        expected: format!("blake3:{expected}"),
        actual: format!("blake3:{actual}"),
    })
}
