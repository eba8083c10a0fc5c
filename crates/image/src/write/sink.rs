//! What a reader's extents go into: the writer's threads, with the reader's progress counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::Engine;
use crate::block::Block;
use crate::decode::ExtentSink;
use crate::error::ImageError;

pub(crate) struct DiskSink<'a, 'e> {
    engine: &'e Engine<'a>,
    came: AtomicU64,
}

impl<'a, 'e> DiskSink<'a, 'e> {
    pub(crate) fn new(engine: &'e Engine<'a>) -> Self {
        Self {
            engine,
            came: AtomicU64::new(0),
        }
    }

    /// Bytes of the image that came.
    pub(crate) fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }
}

impl ExtentSink for DiskSink<'_, '_> {
    fn block(&self) -> Result<Block, ImageError> {
        self.engine.pool.take()
    }

    fn data(&self, offset: u64, block: Block) -> Result<(), ImageError> {
        self.came.fetch_add(block.len() as u64, Ordering::Relaxed);
        self.engine.put(offset, block)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        self.came.fetch_add(length, Ordering::Relaxed);
        self.engine.zero(offset, length)
    }
}
