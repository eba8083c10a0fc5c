//! A sink that holds readers to what they promise.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::decode::ExtentSink;
use image::{BLOCK_BYTES, Block, Digest, Format, ImageError, Limit, MemorySource, Pool, Source};

#[derive(Default)]
struct State {
    disk: Vec<u8>,
    extents: Vec<(u64, u64)>,
}

/// Keeps the disk, and every extent of it.
pub struct Collect {
    pool: Pool,
    granule: u64,
    state: Mutex<State>,
    /// So many extents are taken, then no more.
    left: AtomicUsize,
}

impl Collect {
    pub fn new(granule: u32, most_extents: usize) -> Self {
        Self {
            // As few as a reader can be given: nobody may hold one while waiting for another.
            pool: Pool::new(2),
            granule: u64::from(granule),
            state: Mutex::default(),
            left: AtomicUsize::new(most_extents),
        }
    }

    fn take(&self, offset: u64, length: u64, bytes: Option<&[u8]>) -> Result<(), ImageError> {
        assert!(
            offset.is_multiple_of(self.granule),
            "an extent at {offset} with granules of {}",
            self.granule
        );
        if self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_err()
        {
            return Err(ImageError::Cancelled);
        }
        let mut state = self.state.lock().unwrap();
        let end = (offset + length) as usize;
        if state.disk.len() < end {
            state.disk.resize(end, 0xee);
        }
        match bytes {
            Some(bytes) => state.disk[offset as usize..end].copy_from_slice(bytes),
            None => state.disk[offset as usize..end].fill(0),
        }
        state.extents.push((offset, end as u64));
        Ok(())
    }

    /// The disk, once it is sure that every byte of it came once, and only the last extent ends within a granule.
    pub fn disk(self, image_bytes: u64) -> Vec<u8> {
        let mut state = self.state.into_inner().unwrap();
        state.extents.sort_unstable();
        let mut at = 0;
        for &(start, end) in &state.extents {
            assert_eq!(start, at, "a gap, or something twice");
            assert!(end > start && (end == image_bytes || end.is_multiple_of(self.granule)));
            at = end;
        }
        assert_eq!(at, image_bytes);
        state.disk
    }
}

impl ExtentSink for Collect {
    fn block(&self) -> Result<Block, ImageError> {
        self.pool.take()
    }

    fn data(&self, offset: u64, block: Block) -> Result<(), ImageError> {
        assert!(!block.is_empty() && block.len() <= BLOCK_BYTES);
        self.take(offset, block.len() as u64, Some(&block))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        self.take(offset, length, None)
    }
}

pub fn limit(bytes: u64) -> Limit {
    Limit {
        bytes,
        disk: "disk".to_owned(),
    }
}

pub fn read_from(source: Box<dyn Source>, digest: &Digest, format: Option<Format>) -> Result<Vec<u8>, ImageError> {
    let opened = image::open(source, digest, format, &limit(1 << 30))?;
    let sink = Collect::new(opened.granule(), usize::MAX);
    let copied = opened.copy_to(&sink)?;
    Ok(sink.disk(copied.image_bytes))
}

/// The disk that stored bytes stand for.
pub fn read(stored: &[u8], format: Option<Format>) -> Result<Vec<u8>, ImageError> {
    read_from(Box::new(MemorySource::new("image", stored)), &Digest::sha256_of(stored), format)
}

/// A source that can only be read from its start, by whatever reads.
pub struct Scripted<F>(pub F);

impl<F: Fn() -> Box<dyn Read + Send> + Send> Source for Scripted<F> {
    fn name(&self) -> &str {
        "scripted"
    }

    fn size(&mut self) -> Result<Option<u64>, ImageError> {
        Ok(None)
    }

    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError> {
        Ok((self.0)())
    }

    fn read_range(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut reader = (self.0)().take(offset + buffer.len() as u64);
        std::io::copy(&mut reader.by_ref().take(offset), &mut std::io::sink()).unwrap();
        let mut filled = 0;
        while let count @ 1.. = reader.read(&mut buffer[filled..]).unwrap() {
            filled += count;
        }
        Ok(filled)
    }
}
