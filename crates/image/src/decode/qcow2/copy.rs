//! The pass over the data: the file streams by once, plain clusters are copied into blocks as they come, and compressed ones go in
//! batches to threads that decompress them into blocks.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::clusters::Decompressor;
use super::header::Header;
use super::map::{Kind, Map, Piece, table_digest};
use crate::block::{BLOCK_BYTES, Block};
use crate::decode::ExtentSink;
use crate::decode::feed::{Chunk, Fault, Input};
use crate::decode::workers;
use crate::error::ImageError;

/// The part of the file that is here now. Pieces may overlap (compressed clusters share sectors), so what a piece needs stays until the
/// next piece begins behind it.
struct Window {
    input: Input,
    chunks: VecDeque<Arc<Chunk>>,
    /// Where the first chunk begins in the file.
    start: u64,
    /// Where the last one ends.
    end: u64,
}

impl Window {
    /// Waits until the file has come up to `to`, or has ended.
    fn reach(&mut self, to: u64) {
        while self.end < to
            && let Some(chunk) = self.input.chunk()
        {
            self.end += chunk.len() as u64;
            self.chunks.push_back(chunk);
        }
    }

    /// Forgets what lies before `offset`, where the next piece begins: never before where the last one did.
    fn advance(&mut self, offset: u64) {
        loop {
            while let Some(first) = self.chunks.front()
                && self.start + first.len() as u64 <= offset
            {
                self.start += first.len() as u64;
                self.chunks.pop_front();
            }
            if !self.chunks.is_empty() {
                break;
            }
            let Some(chunk) = self.input.chunk() else {
                break;
            };
            self.end += chunk.len() as u64;
            self.chunks.push_back(chunk);
        }
    }

    /// Hands `length` bytes from `offset` to `take`, in pieces; fewer where the file ends. Says how many there were.
    fn read(&mut self, offset: u64, length: usize, mut take: impl FnMut(&[u8])) -> usize {
        self.reach(offset + length as u64);
        let (mut at, mut taken) = (self.start, 0);
        for chunk in &self.chunks {
            let skip = usize::try_from((offset + taken as u64).saturating_sub(at)).unwrap_or(usize::MAX);
            if let Some(part) = chunk.get(skip..)
                && taken < length
            {
                let part = &part[..part.len().min(length - taken)];
                take(part);
                taken += part.len();
            }
            at += chunk.len() as u64;
        }
        taken
    }
}

/// Compressed clusters that follow one another on the disk.
#[derive(Default)]
struct Batch {
    guest: u64,
    /// What is stored, one cluster behind the other.
    stored: Vec<u8>,
    /// Where each ends in there.
    ends: Vec<usize>,
}

struct Copy<'a> {
    name: &'a str,
    header: &'a Header,
    sink: &'a dyn ExtentSink,
    /// Plain clusters: where the block begins on the disk, and what is in it so far.
    open: Option<(u64, Block)>,
    batch: Batch,
    jobs: SyncSender<Batch>,
    /// Memory of batches that are done, to be used again.
    spare: Receiver<Vec<u8>>,
}

fn corrupt(name: &str, guest: u64, what: &str) -> Fault {
    Fault::Image(ImageError::Corrupt {
        source_name: name.to_owned(),
        reason: format!("the cluster of guest offset {guest} {what}"),
    })
}

/// Copies all data and zeros of an image whose file comes out of `input`.
pub(super) fn copy(name: &str, map: &Map, input: Input, sink: &dyn ExtentSink) -> Result<(), Fault> {
    for &(offset, length) in &map.zeros {
        sink.zero(offset, length).map_err(Fault::Sink)?;
    }
    let compressed = map.pieces.iter().any(|piece| piece.kind == Kind::Compressed);
    let threads = if compressed { workers() } else { 0 };
    let fault = Mutex::new(None);
    let result = thread::scope(|scope| {
        let (jobs, queue) = mpsc::sync_channel::<Batch>(threads);
        let (done, spare) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let (queue, done) = (Arc::clone(&queue), done.clone());
            let fault = &fault;
            scope.spawn(move || {
                if let Err(error) = decompress(name, &map.header, &queue, &done, sink) {
                    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
        // Only the workers hold it: when all of them have failed, nobody waits for them.
        drop(queue);
        let copy = Copy {
            name,
            header: &map.header,
            sink,
            open: None,
            batch: Batch::default(),
            jobs,
            spare,
        };
        copy.run(map, input, || fault.lock().unwrap_or_else(PoisonError::into_inner).is_some())
    });
    match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(fault) => Err(fault),
        None => result,
    }
}

impl Copy<'_> {
    fn run(mut self, map: &Map, input: Input, failed: impl Fn() -> bool) -> Result<(), Fault> {
        let mut window = Window {
            input,
            chunks: VecDeque::new(),
            start: 0,
            end: 0,
        };
        for piece in &map.pieces {
            window.advance(piece.host);
            match piece.kind {
                Kind::Table => self.table(map, piece, &mut window)?,
                Kind::Data => self.data(piece, &mut window)?,
                Kind::Compressed => self.compressed(piece, &mut window)?,
            }
            if failed() {
                return Ok(());
            }
        }
        self.flush()?;
        self.send();
        Ok(())
    }

    fn table(&self, map: &Map, piece: &Piece, window: &mut Window) -> Result<(), Fault> {
        let mut bytes = Vec::with_capacity(piece.length as usize);
        window.read(piece.host, piece.length as usize, |part| bytes.extend_from_slice(part));
        if map.tables.get(piece.to as usize) == Some(&table_digest(&bytes)) {
            return Ok(());
        }
        Err(Fault::Image(ImageError::SourceChanged {
            source_name: self.name.to_owned(),
            reason: format!("its tables at offset {} were other bytes before", piece.host),
        }))
    }

    fn flush(&mut self) -> Result<(), Fault> {
        match self.open.take() {
            Some((guest, block)) => self.sink.data(guest, block).map_err(Fault::Sink),
            None => Ok(()),
        }
    }

    /// Plain clusters. A file may end inside of its last cluster; the rest of that one is zeros.
    fn data(&mut self, piece: &Piece, window: &mut Window) -> Result<(), Fault> {
        let (mut guest, mut host) = (piece.to, piece.host);
        let mut left = u64::from(piece.length).min(self.header.size - piece.to) as usize;
        while left > 0 {
            let want = left.min(BLOCK_BYTES);
            let follows = |(start, block): &(u64, Block)| start + block.len() as u64 == guest && block.len() + want <= BLOCK_BYTES;
            if !self.open.as_ref().is_some_and(follows) {
                self.flush()?;
            }
            let (_, block) = match &mut self.open {
                Some(open) => open,
                none => none.insert((guest, self.sink.block().map_err(Fault::Sink)?)),
            };
            let before = block.len();
            let came = window.read(host, want, |part| {
                block.append(part);
            });
            if came == 0 && host == piece.host {
                return Err(corrupt(self.name, guest, "lies behind the end of the file"));
            }
            block.room()[before + came..before + want].fill(0);
            block.set_len(before + want);
            guest += want as u64;
            host += want as u64;
            left -= want;
        }
        Ok(())
    }

    fn compressed(&mut self, piece: &Piece, window: &mut Window) -> Result<(), Fault> {
        let cluster = self.header.cluster_size();
        let have = self.batch.ends.len() as u64 * cluster;
        if have > 0 && (self.batch.guest + have != piece.to || have + cluster > BLOCK_BYTES as u64) {
            self.flush()?;
            self.send();
        }
        if self.batch.ends.is_empty() {
            self.batch.guest = piece.to;
        }
        let stored = &mut self.batch.stored;
        if window.read(piece.host, piece.length as usize, |part| stored.extend_from_slice(part)) == 0 {
            return Err(corrupt(self.name, piece.to, "lies behind the end of the file"));
        }
        self.batch.ends.push(stored.len());
        Ok(())
    }

    /// Gives the batch to a worker. If all of them have failed, the caller sees that.
    fn send(&mut self) {
        if self.batch.ends.is_empty() {
            return;
        }
        let mut stored = self.spare.try_recv().unwrap_or_default();
        stored.clear();
        let next = Batch {
            stored,
            ..Batch::default()
        };
        self.jobs.send(std::mem::replace(&mut self.batch, next)).ok();
    }
}

/// Decompresses batches until there are no more.
fn decompress(
    name: &str,
    header: &Header,
    queue: &Mutex<Receiver<Batch>>,
    done: &Sender<Vec<u8>>,
    sink: &dyn ExtentSink,
) -> Result<(), Fault> {
    let mut decompressor = Decompressor::new(name, header).map_err(Fault::Image)?;
    let cluster = header.cluster_size() as usize;
    // A cluster that is larger than a block is decompressed here and copied.
    let mut large = vec![0; if cluster > BLOCK_BYTES { cluster } else { 0 }];
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else {
            return Ok(());
        };
        let length = ((batch.ends.len() * cluster) as u64).min(header.size - batch.guest) as usize;
        if cluster > BLOCK_BYTES {
            if !decompressor.fill(&batch.stored, &mut large) {
                return Err(corrupt(name, batch.guest, "does not decompress"));
            }
            for (index, part) in large[..length].chunks(BLOCK_BYTES).enumerate() {
                let mut block = sink.block().map_err(Fault::Sink)?;
                block.append(part);
                sink.data(batch.guest + (index * BLOCK_BYTES) as u64, block).map_err(Fault::Sink)?;
            }
            continue;
        }
        let mut block = sink.block().map_err(Fault::Sink)?;
        let mut from = 0;
        for (index, (&to, plain)) in batch.ends.iter().zip(block.room().chunks_mut(cluster)).enumerate() {
            if !decompressor.fill(&batch.stored[from..to], plain) {
                return Err(corrupt(name, batch.guest + (index * cluster) as u64, "does not decompress"));
            }
            from = to;
        }
        block.set_len(length);
        // Whoever fills batches may have ended.
        done.send(batch.stored).ok();
        sink.data(batch.guest, block).map_err(Fault::Sink)?;
    }
}
