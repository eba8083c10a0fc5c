//! From extents in any order to whole chunks.
//!
//! A chunk that is not whole yet is kept in memory, within a bound; beyond it, the one that was touched longest ago goes to a sparse
//! scratch file beside the output. So a stream, which comes in order, never touches the scratch file, and an image whose clusters lie
//! in any order is packed in one pass, in bounded memory, with disk space for the data that had to wait.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

use crate::block::{Block, Pool};
use crate::decode::ExtentSink;
use crate::device::is_zero;
use crate::error::ImageError;

use super::manifest::MAX_DISK_BYTES;

/// Most bytes of chunks that are not whole yet.
const MOST_OPEN: usize = 32 << 20;

/// A whole chunk on its way to be compressed.
pub(crate) struct Job {
    pub(crate) index: u32,
    pub(crate) plain: Plain,
}

/// Where its bytes are.
pub(crate) enum Plain {
    Block(Block),
    Buffer(Vec<u8>),
    /// So many, in the scratch file.
    Scratch(usize),
    /// Nowhere: all zeros.
    Zeros,
}

/// A chunk that is not whole yet.
#[derive(Default)]
struct Open {
    covered: u64,
    buffer: Vec<u8>,
    in_scratch: bool,
    touched: u64,
}

struct State {
    open: BTreeMap<u32, Open>,
    in_memory: usize,
    clock: u64,
}

/// See the module.
pub(crate) struct Assembler<'a> {
    source_name: &'a str,
    pool: &'a Pool,
    chunk_bytes: u32,
    /// Size of the disk, where it is known before the end.
    disk_bytes: Option<u64>,
    scratch: &'a Scratch,
    state: Mutex<State>,
    jobs: SyncSender<Job>,
    /// Bytes that were told of, zeros counted.
    seen: &'a AtomicU64,
}

impl<'a> Assembler<'a> {
    pub(crate) fn new(
        source_name: &'a str,
        pool: &'a Pool,
        chunk_bytes: u32,
        disk_bytes: Option<u64>,
        scratch: &'a Scratch,
        jobs: SyncSender<Job>,
        seen: &'a AtomicU64,
    ) -> Self {
        Self {
            source_name,
            pool,
            chunk_bytes,
            disk_bytes,
            scratch,
            state: Mutex::new(State {
                open: BTreeMap::new(),
                in_memory: 0,
                clock: 0,
            }),
            jobs,
            seen,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn corrupt(&self, reason: String) -> ImageError {
        ImageError::Corrupt {
            source_name: self.source_name.to_owned(),
            reason,
        }
    }

    /// Bytes of chunk `index`.
    fn length(&self, index: u32) -> u64 {
        let start = u64::from(index) * u64::from(self.chunk_bytes);
        let end = self.disk_bytes.unwrap_or(MAX_DISK_BYTES);
        u64::from(self.chunk_bytes).min(end.saturating_sub(start))
    }

    fn send(&self, index: u32, plain: Plain) -> Result<(), ImageError> {
        // Nobody takes jobs any more when the other end gave up.
        self.jobs.send(Job { index, plain }).map_err(|_| ImageError::Cancelled)
    }

    /// The chunks that an extent touches, with the part in each: index, start inside of it, length.
    fn parts(&self, offset: u64, length: u64) -> Result<impl Iterator<Item = (u32, u64, u64)>, ImageError> {
        let end = offset.saturating_add(length);
        if end > self.disk_bytes.unwrap_or(MAX_DISK_BYTES) {
            return Err(self.corrupt(format!(
                "it has data at byte {offset}, behind its own end or behind the largest disk"
            )));
        }
        let size = u64::from(self.chunk_bytes);
        let mut at = offset;
        Ok(std::iter::from_fn(move || {
            let (index, start) = (at / size, at % size);
            let count = (size - start).min(end - at);
            at += count;
            // At most MAX_DISK_BYTES / MIN_CHUNK_BYTES.
            (count > 0).then_some((index as u32, start, count))
        }))
    }

    /// Notes that `count` more bytes of a chunk are known, and gives the chunk when that was all of them.
    fn cover(&self, state: &mut State, index: u32, count: u64) -> Result<Option<Plain>, ImageError> {
        self.seen.fetch_add(count, Ordering::Relaxed);
        let length = self.length(index);
        let open = state.open.entry(index).or_default();
        open.covered += count;
        if open.covered > length {
            return Err(self.corrupt(format!("a part of its chunk {index} comes twice")));
        }
        if open.covered < length {
            return Ok(None);
        }
        let open = state.open.remove(&index).unwrap_or_default();
        Ok(Some(whole(state, open, length as usize)))
    }

    fn add(&self, index: u32, start: u64, bytes: &[u8]) -> Result<Option<Plain>, ImageError> {
        let mut state = self.state();
        if !is_zero(bytes) {
            state.clock += 1;
            let clock = state.clock;
            let fresh = state.open.get(&index).is_none_or(|open| open.buffer.is_empty() && !open.in_scratch);
            if fresh {
                self.make_room(&mut state)?;
                state.in_memory += 1;
            }
            let open = state.open.entry(index).or_default();
            if fresh {
                open.buffer = vec![0; self.chunk_bytes as usize];
            }
            open.touched = clock;
            if open.in_scratch {
                let at = u64::from(index) * u64::from(self.chunk_bytes) + start;
                self.scratch.write(bytes, at)?;
            } else {
                open.buffer[start as usize..start as usize + bytes.len()].copy_from_slice(bytes);
            }
        }
        self.cover(&mut state, index, bytes.len() as u64)
    }

    /// Puts chunks into the scratch file until another one may be in memory.
    fn make_room(&self, state: &mut State) -> Result<(), ImageError> {
        let most = (MOST_OPEN / self.chunk_bytes as usize).max(2);
        while state.in_memory >= most {
            let kept = state.open.iter_mut().filter(|(_, open)| !open.buffer.is_empty());
            let Some((index, open)) = kept.min_by_key(|(_, open)| open.touched) else {
                break;
            };
            self.scratch.write(&open.buffer, u64::from(*index) * u64::from(self.chunk_bytes))?;
            open.buffer = Vec::new();
            open.in_scratch = true;
            state.in_memory -= 1;
        }
        Ok(())
    }

    /// Everything has come, and the disk is this large: what is still open is whole now, or was never told of.
    pub(crate) fn finish(self, disk_bytes: u64) -> Result<(), ImageError> {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let missing = || ImageError::Corrupt {
            source_name: self.source_name.to_owned(),
            reason: "not every part of its disk has come".to_owned(),
        };
        if self.seen.load(Ordering::Relaxed) != disk_bytes {
            return Err(missing());
        }
        while let Some((index, open)) = state.open.pop_first() {
            let start = u64::from(index) * u64::from(self.chunk_bytes);
            let length = u64::from(self.chunk_bytes).min(disk_bytes.saturating_sub(start));
            if open.covered != length {
                return Err(missing());
            }
            let plain = whole(&mut state, open, length as usize);
            self.jobs.send(Job { index, plain }).map_err(|_| ImageError::Cancelled)?;
        }
        Ok(())
    }
}

fn whole(state: &mut State, mut open: Open, length: usize) -> Plain {
    if open.in_scratch {
        return Plain::Scratch(length);
    }
    if open.buffer.is_empty() {
        return Plain::Zeros;
    }
    state.in_memory -= 1;
    open.buffer.truncate(length);
    Plain::Buffer(open.buffer)
}

impl ExtentSink for Assembler<'_> {
    fn block(&self) -> Result<Block, ImageError> {
        self.pool.take()
    }

    fn data(&self, offset: u64, block: Block) -> Result<(), ImageError> {
        let length = block.len() as u64;
        let mut parts = self.parts(offset, length)?.peekable();
        // A block that is one whole chunk needs no copy.
        if let Some(&(index, 0, count)) = parts.peek()
            && count == length
            && count == self.length(index)
        {
            if self.state().open.contains_key(&index) {
                return Err(self.corrupt(format!("a part of its chunk {index} comes twice")));
            }
            self.seen.fetch_add(count, Ordering::Relaxed);
            return self.send(index, Plain::Block(block));
        }
        let mut done = 0;
        for (index, start, count) in parts {
            let bytes = &block[done..done + count as usize];
            done += count as usize;
            if let Some(plain) = self.add(index, start, bytes)? {
                self.send(index, plain)?;
            }
        }
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        for (index, _, count) in self.parts(offset, length)? {
            let plain = self.cover(&mut self.state(), index, count)?;
            if let Some(plain) = plain {
                self.send(index, plain)?;
            }
        }
        Ok(())
    }
}

/// The scratch file, which is there once it is needed.
pub(crate) struct Scratch {
    path: PathBuf,
    file: Mutex<Option<File>>,
    /// Most bytes that it took on the disk.
    most: AtomicU64,
}

impl Scratch {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: Mutex::new(None),
            most: AtomicU64::new(0),
        }
    }

    /// Whether anything had to wait in it.
    pub(crate) fn was_used(&self) -> bool {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Most bytes that it took on the disk so far. Not those of the moment: what became free may be needed again at once.
    pub(crate) fn room(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    fn with<T>(&self, what: impl FnOnce(&File) -> io::Result<T>) -> Result<T, ImageError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let done = match &mut *file {
            Some(file) => what(file),
            None => File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&self.path)
                .and_then(|made| what(file.insert(made))),
        };
        done.map_err(super::output_error(&self.path))
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), ImageError> {
        let taken = self.with(|file| {
            file.write_all_at(bytes, offset)?;
            Ok(file.metadata()?.blocks() * 512)
        })?;
        self.most.fetch_max(taken, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a chunk out again; its room on the disk becomes free.
    pub(crate) fn take(&self, offset: u64, length: usize) -> Result<Vec<u8>, ImageError> {
        let file = self.with(File::try_clone)?;
        let mut plain = vec![0; length];
        let mut done = 0;
        while done < length {
            match file.read_at(&mut plain[done..], offset + done as u64) {
                // The file ends behind its last byte that is not zero.
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(super::output_error(&self.path)(error)),
            }
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = rustix::fs::fallocate(&file, flags, offset, length as u64) {
            tracing::debug!(%error, "the scratch file keeps its size");
        }
        Ok(plain)
    }
}
