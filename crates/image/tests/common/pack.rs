//! A packed image in memory, made here and not by the crate's packer.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use image::pack::{Chunk, ChunkSource, Manifest, Origin, Packer};
use image::{BlockDevice, Evidence, Format, ImageError, WriteRequest};

/// Size of a chunk unless a test wants another.
pub const CHUNK: usize = 64 << 10;

/// Counts what is asked of it, and may flip a byte of its answers a few times.
pub struct Pack {
    pub manifest: Manifest,
    stored: Vec<u8>,
    fetched: AtomicU64,
    pub damaged_answers: AtomicUsize,
}

impl Pack {
    pub fn new(image: &[u8]) -> Self {
        Self::of_chunks(image, CHUNK)
    }

    pub fn of_chunks(image: &[u8], chunk_bytes: usize) -> Self {
        Self::altered(image, chunk_bytes, |_| {})
    }

    /// Each entry of the manifest as `alter` leaves it.
    pub fn altered(image: &[u8], chunk_bytes: usize, alter: impl Fn(&mut Chunk)) -> Self {
        let (mut stored, mut chunks) = (Vec::new(), Vec::<Chunk>::new());
        for (index, plain) in image.chunks(chunk_bytes).enumerate() {
            if plain.iter().all(|&byte| byte == 0) {
                continue;
            }
            let frame = zstd::bulk::compress(plain, 1).unwrap();
            let digest = blake3::hash(&frame);
            let known = chunks.iter().find(|chunk| chunk.stored == digest).map(|chunk| chunk.offset);
            chunks.push(Chunk {
                index: index as u32,
                offset: known.unwrap_or(stored.len() as u64),
                length: frame.len() as u32,
                stored: digest,
                plain: blake3::hash(plain),
            });
            alter(chunks.last_mut().unwrap());
            if known.is_none() {
                stored.extend(frame);
            }
        }
        let origin = Origin {
            format: Format::Raw,
            digest: image::Digest::sha256_of(image).to_string(),
        };
        let packer = Packer {
            zstd: "1.5.7".to_owned(),
            level: 1,
        };
        let manifest = Manifest::new(image.len() as u64, 0, chunk_bytes as u32, origin, packer, chunks).unwrap();
        Self {
            manifest,
            stored,
            fetched: AtomicU64::new(0),
            damaged_answers: AtomicUsize::new(0),
        }
    }

    pub fn write(&self, disk: &dyn BlockDevice, request: &WriteRequest) -> Result<Evidence, ImageError> {
        image::write_packed(&self.manifest, self, disk, request, &mut |_| ControlFlow::Continue(()))
    }

    /// Bytes asked for since the last call.
    pub fn take_fetched(&self) -> u64 {
        self.fetched.swap(0, Ordering::Relaxed)
    }

    /// The longest stored chunk.
    pub fn longest(&self) -> u64 {
        self.manifest
            .chunks()
            .iter()
            .map(|chunk| u64::from(chunk.length))
            .max()
            .unwrap_or(0)
    }
}

impl ChunkSource for Pack {
    fn name(&self) -> &str {
        "a packed image in memory"
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        let start = offset as usize;
        buffer.copy_from_slice(&self.stored[start..start + buffer.len()]);
        self.fetched.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        let damage = |left: usize| left.checked_sub(1);
        if self
            .damaged_answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, damage)
            .is_ok()
        {
            buffer[0] ^= 1;
        }
        Ok(())
    }
}
