//! Parts of an image that are decoded apart from one another, and begin and end where they like: a sink takes whole granules only.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::ExtentSink;
use super::feed::Fault;
use crate::block::BLOCK_BYTES;

/// What a sink's extents are aligned to, for images that are streams.
pub(crate) const GRANULE: usize = 4096;

/// Granules in which one part ends and another begins, until they are whole.
#[derive(Default)]
pub(crate) struct Edges {
    /// By number: the bytes, and how many of them are there.
    granules: Mutex<BTreeMap<u64, (Vec<u8>, usize)>>,
}

impl Edges {
    /// Takes bytes that lie within one granule.
    fn add(&self, offset: u64, bytes: &[u8], sink: &dyn ExtentSink) -> Result<(), Fault> {
        if bytes.is_empty() {
            return Ok(());
        }
        let number = offset / GRANULE as u64;
        let at = (offset % GRANULE as u64) as usize;
        let mut granules = self.granules.lock().unwrap_or_else(PoisonError::into_inner);
        let (granule, filled) = granules.entry(number).or_insert_with(|| (vec![0; GRANULE], 0));
        granule[at..at + bytes.len()].copy_from_slice(bytes);
        *filled += bytes.len();
        if *filled < GRANULE {
            return Ok(());
        }
        let whole = granules.remove(&number);
        drop(granules);
        whole.map_or(Ok(()), |(granule, _)| emit(number, &granule, sink))
    }

    /// The end of the image may lie within a granule.
    pub(crate) fn finish(&self, sink: &dyn ExtentSink) -> Result<(), Fault> {
        let left = std::mem::take(&mut *self.granules.lock().unwrap_or_else(PoisonError::into_inner));
        for (number, (granule, filled)) in left {
            emit(number, &granule[..filled], sink)?;
        }
        Ok(())
    }
}

fn emit(number: u64, bytes: &[u8], sink: &dyn ExtentSink) -> Result<(), Fault> {
    let mut block = sink.block().map_err(Fault::Sink)?;
    block.append(bytes);
    sink.data(number * GRANULE as u64, block).map_err(Fault::Sink)
}

/// Puts a part at `offset`. `fill` fills a buffer, or less at the part's end. Says where it ended.
pub(crate) fn copy_part(
    offset: u64,
    edges: &Edges,
    sink: &dyn ExtentSink,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, Fault>,
) -> Result<u64, Fault> {
    let mut position = offset;
    let inside = (offset % GRANULE as u64) as usize;
    if inside > 0 {
        let mut lead = vec![0; GRANULE - inside];
        let count = fill(&mut lead)?;
        edges.add(position, &lead[..count], sink)?;
        position += count as u64;
        if count < lead.len() {
            return Ok(position);
        }
    }
    loop {
        let mut block = sink.block().map_err(Fault::Sink)?;
        let count = fill(block.room())?;
        let whole = count / GRANULE * GRANULE;
        let tail = block.room()[whole..count].to_vec();
        block.set_len(whole);
        if whole > 0 {
            sink.data(position, block).map_err(Fault::Sink)?;
        } else {
            drop(block);
        }
        edges.add(position + whole as u64, &tail, sink)?;
        position += count as u64;
        if count < BLOCK_BYTES {
            return Ok(position);
        }
    }
}
