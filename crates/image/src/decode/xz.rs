//! xz streams whose blocks tell their sizes, as `xz -T` writes them, decoded block by block on several threads.
//!
//! Each block is given to a decoder of the library as a stream of its own that ends early: the stream's header, then the block. The
//! library checks the block's header, its data and its checksum; what surrounds blocks (stream headers, indexes, footers) is checked here.
//! Memory is counted by what blocks declare, and waited for. A block that is too large to wait in memory is decoded while it arrives, and
//! so are whole streams whose first block does not tell its sizes.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use liblzma::bufread::XzDecoder;
use liblzma::stream::Stream;

use super::feed::{Fault, Input};
use super::stream::decoder_error;
use super::stretch::{Edges, copy_part};
use super::{ExtentSink, Limit, Windows, workers};
use crate::error::ImageError;
use crate::format::Format;

/// Memory for blocks in work: their compressed bytes and their dictionaries. Three blocks of `xz -6 -T0` fit, whose dictionary has 8 MiB.
const BUDGET: u64 = 50 << 20;
/// Compressed bytes of a block that waits in memory as a whole, and its dictionary, together.
const MOST_FOR_ONE: u64 = 33 << 20;

const STREAM_HEADER: usize = 12;
const LZMA2: u64 = 0x21;

/// Memory that is taken before it is used. Somebody who needs more than there is gets it when nobody else has any.
#[derive(Default)]
struct Budget {
    used: Mutex<u64>,
    returned: Condvar,
}

struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    fn take(self: &Arc<Self>, bytes: u64) -> Share {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && *used + bytes > BUDGET {
            used = self.returned.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += bytes;
        Share {
            budget: Arc::clone(self),
            bytes,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.budget.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.budget.returned.notify_all();
    }
}

/// What the header of a block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHeader {
    length: u64,
    compressed: u64,
    plain: u64,
    dictionary: u64,
}

impl BlockHeader {
    /// `None` if it is damaged, or does not tell both sizes. The library judges what else is in there.
    fn parse(header: &[u8]) -> Option<Self> {
        let (checked, crc) = header.split_last_chunk::<4>()?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
            return None;
        }
        let flags = *checked.get(1)?;
        if flags & 0xc0 != 0xc0 {
            return None;
        }
        let mut rest = checked.get(2..)?;
        let compressed = vli(&mut rest)?;
        let plain = vli(&mut rest)?;
        let mut dictionary = 0;
        for _ in 0..=flags & 3 {
            let (id, length) = (vli(&mut rest)?, vli(&mut rest)?);
            let (properties, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            if id == LZMA2 {
                let bits = u32::from(*properties.first()?).min(40);
                dictionary = u64::from(2 | (bits & 1)) << (bits / 2 + 11);
            }
        }
        Some(Self {
            length: header.len() as u64,
            compressed,
            plain,
            dictionary,
        })
    }

    /// Bytes behind the header: data, padding and checksum.
    fn body(&self, check: u64) -> Option<u64> {
        self.compressed.checked_next_multiple_of(4)?.checked_add(check)
    }
}

/// A number of up to nine bytes, seven bits in each.
fn vli(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in 0..9 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte & 0x80 == 0 {
            return (shift == 0 || byte != 0).then_some(value);
        }
    }
    None
}

/// Whether the first block of an image that begins like this tells its sizes.
pub(super) fn tells_sizes(head: &[u8]) -> bool {
    let Some(rest) = head.get(STREAM_HEADER..) else {
        return false;
    };
    let length = rest.first().map_or(0, |&units| (usize::from(units) + 1) * 4);
    rest.get(..length).and_then(BlockHeader::parse).is_some()
}

/// A block on its way to a worker.
struct Job {
    stream_header: [u8; STREAM_HEADER],
    header: BlockHeader,
    /// The block from its first byte to its last.
    stored: Vec<u8>,
    offset: u64,
    _share: Share,
}

struct Scanner<'a> {
    name: &'a str,
    limit: &'a Limit,
    windows: Windows,
    sink: &'a dyn ExtentSink,
    edges: &'a Edges,
    input: Input,
    budget: Arc<Budget>,
    position: u64,
}

fn corrupt(name: &str, what: &str) -> Fault {
    Fault::Image(ImageError::Corrupt {
        source_name: name.to_owned(),
        reason: format!("its xz stream is not valid: {what}"),
    })
}

/// Decodes everything and says how long the disk is.
pub(super) fn copy(name: &str, limit: &Limit, windows: Windows, input: Input, sink: &dyn ExtentSink) -> Result<u64, Fault> {
    let (edges, fault) = (Edges::default(), Mutex::new(None));
    let result = thread::scope(|scope| {
        let threads = workers();
        let (jobs, queue) = mpsc::sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let (queue, fault, edges) = (Arc::clone(&queue), &fault, &edges);
            scope.spawn(move || {
                if let Err(error) = work(name, windows, &queue, edges, sink) {
                    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            });
        }
        // Only the workers hold it: when all of them have failed, nobody waits for them.
        drop(queue);
        let scanner = Scanner {
            name,
            limit,
            windows,
            sink,
            edges: &edges,
            input,
            budget: Arc::default(),
            position: 0,
        };
        scanner.run(|job| jobs.send(job).is_ok() && fault.lock().unwrap_or_else(PoisonError::into_inner).is_none())
    });
    if let Some(fault) = fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(fault);
    }
    let length = result?;
    edges.finish(sink)?;
    Ok(length)
}

impl Scanner<'_> {
    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), Fault> {
        self.input.read_exact(buffer).map_err(|_| {
            Fault::Image(ImageError::IncompleteStream {
                source_name: self.name.to_owned(),
                format: Format::Xz,
            })
        })
    }

    /// Stream after stream. `give` takes a job, and says false once it is of no use to go on.
    fn run(mut self, mut give: impl FnMut(Job) -> bool) -> Result<u64, Fault> {
        let mut first = true;
        loop {
            // Between streams there may be zeros, four at a time.
            let mut start = [0; 4];
            loop {
                if self.input.fill_buf().map_or(true, <[u8]>::is_empty) && !first {
                    return Ok(self.position);
                }
                self.exact(&mut start)?;
                if first || start != [0; 4] {
                    break;
                }
            }
            first = false;
            let mut header = [0; STREAM_HEADER];
            header[..4].copy_from_slice(&start);
            self.exact(&mut header[4..])?;
            if header[..6] != *b"\xfd7zXZ\0"
                || crc32fast::hash(&header[6..8]).to_le_bytes() != header[8..]
                || header[6] != 0
                || header[7] > 15
            {
                return Err(corrupt(self.name, "what follows is no xz stream"));
            }
            if !self.stream(header, &mut give)? {
                return Ok(self.position);
            }
        }
    }

    /// One stream behind its header. Says false once it is of no use to go on.
    fn stream(&mut self, stream_header: [u8; STREAM_HEADER], give: &mut impl FnMut(Job) -> bool) -> Result<bool, Fault> {
        const CHECKS: [u64; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];
        let check = CHECKS[usize::from(stream_header[7])];
        let (mut sum, mut blocks) = (blake3::Hasher::new(), 0u64);
        loop {
            let mut units = [0];
            self.exact(&mut units)?;
            if units == [0] {
                self.index(&stream_header, blocks, sum)?;
                return Ok(true);
            }
            let mut header = vec![0; (usize::from(units[0]) + 1) * 4];
            header[0] = units[0];
            self.exact(&mut header[1..])?;
            let Some(parsed) = BlockHeader::parse(&header) else {
                if blocks == 0 {
                    self.whole_stream(&stream_header, &header)?;
                    return Ok(true);
                }
                return Err(corrupt(
                    self.name,
                    "a block's header is damaged, or tells no sizes as the first one does",
                ));
            };
            let body = parsed
                .body(check)
                .ok_or_else(|| corrupt(self.name, "a block has an impossible size"))?;
            let end = self.position.saturating_add(parsed.plain);
            self.limit.check(self.name, end).map_err(Fault::Image)?;
            if parsed.dictionary > self.windows.xz_memory {
                return Err(Fault::Image(decoder_error(
                    self.name,
                    Format::Xz,
                    liblzma::stream::Error::MemLimit.into(),
                )));
            }
            // The index counts header, data and checksum, but no padding.
            add_record(&mut sum, parsed.length + parsed.compressed + check, parsed.plain);
            blocks += 1;
            let memory = parsed.dictionary.saturating_add(body).saturating_add(parsed.length);
            if memory > MOST_FOR_ONE {
                let _share = self.budget.take(parsed.dictionary);
                let mut body = (&mut self.input).take(body);
                let chained = stream_header.chain(&header[..]).chain(&mut body);
                let result = decode_block(self.name, self.windows, chained, &parsed, self.position, self.edges, self.sink);
                let cut_short = body.limit() > 0 && self.input.fill_buf().map_or(true, <[u8]>::is_empty);
                match result {
                    Err(Fault::Image(_)) if cut_short => {
                        self.exact(&mut [0])?;
                    }
                    other => other?,
                }
            } else {
                let share = self.budget.take(memory);
                // Not above MOST_FOR_ONE.
                let mut stored = header;
                let from = stored.len();
                stored.resize(from + body as usize, 0);
                self.exact(&mut stored[from..])?;
                let job = Job {
                    stream_header,
                    header: parsed,
                    stored,
                    offset: self.position,
                    _share: share,
                };
                if !give(job) {
                    return Ok(false);
                }
            }
            self.position = end;
        }
    }

    /// A stream whose first block does not tell its sizes: the library does all of it, and stops behind the footer.
    fn whole_stream(&mut self, stream_header: &[u8], block_header: &[u8]) -> Result<(), Fault> {
        let (name, limit) = (self.name, self.limit);
        let memory = self.windows.xz_memory;
        let _share = self.budget.take(memory);
        let failed = |error| Fault::Image(decoder_error(name, Format::Xz, error));
        let stream = Stream::new_stream_decoder(memory, 0).map_err(|error| failed(error.into()))?;
        let mut decoder = XzDecoder::new_stream(stream_header.chain(block_header).chain(&mut self.input), stream);
        let mut position = self.position;
        let end = copy_part(self.position, self.edges, self.sink, |buffer| {
            let count = fill(&mut decoder, buffer).map_err(failed)?;
            position += count as u64;
            limit.check(name, position).map_err(Fault::Image)?;
            Ok(count)
        })?;
        self.position = end;
        Ok(())
    }

    /// The index, behind its first byte, and the footer.
    fn index(&mut self, stream_header: &[u8; STREAM_HEADER], blocks: u64, sum: blake3::Hasher) -> Result<(), Fault> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[0]);
        let mut length = 1u64;
        let wrong = corrupt(self.name, "its index tells of other blocks");
        let mut found = blake3::Hasher::new();
        if self.index_number(&mut crc, &mut length)? != blocks {
            return Err(wrong);
        }
        for _ in 0..blocks {
            let stored = self.index_number(&mut crc, &mut length)?;
            let plain = self.index_number(&mut crc, &mut length)?;
            add_record(&mut found, stored, plain);
        }
        if found.finalize() != sum.finalize() {
            return Err(wrong);
        }
        while !length.is_multiple_of(4) {
            let mut padding = [0];
            self.exact(&mut padding)?;
            crc.update(&padding);
            length += 1;
        }
        let (mut sum, mut footer) = ([0; 4], [0; 12]);
        self.exact(&mut sum)?;
        self.exact(&mut footer)?;
        let backward = u64::from(u32::from_le_bytes([footer[4], footer[5], footer[6], footer[7]])) * 4 + 4;
        let good = u32::from_le_bytes(sum) == crc.finalize()
            && crc32fast::hash(&footer[4..10]).to_le_bytes() == footer[..4]
            && backward == length + 4
            && footer[8..10] == stream_header[6..8]
            && footer[10..] == *b"YZ";
        if good {
            Ok(())
        } else {
            Err(corrupt(self.name, "its index or footer is damaged"))
        }
    }

    fn index_number(&mut self, crc: &mut crc32fast::Hasher, length: &mut u64) -> Result<u64, Fault> {
        let mut bytes = Vec::with_capacity(9);
        loop {
            let mut byte = [0];
            self.exact(&mut byte)?;
            crc.update(&byte);
            *length += 1;
            bytes.push(byte[0]);
            if byte[0] & 0x80 == 0 || bytes.len() == 9 {
                break;
            }
        }
        vli(&mut &bytes[..]).ok_or_else(|| corrupt(self.name, "its index is damaged"))
    }
}

fn add_record(sum: &mut blake3::Hasher, stored: u64, plain: u64) {
    sum.update(&stored.to_le_bytes());
    sum.update(&plain.to_le_bytes());
}

fn fill(decoder: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match decoder.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn work(name: &str, windows: Windows, queue: &Mutex<Receiver<Job>>, edges: &Edges, sink: &dyn ExtentSink) -> Result<(), Fault> {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else {
            return Ok(());
        };
        let stored = job.stream_header.chain(&job.stored[..]);
        decode_block(name, windows, stored, &job.header, job.offset, edges, sink)?;
    }
}

/// Decodes a block out of a stream's header and the block itself, with nothing behind it.
fn decode_block(
    name: &str,
    windows: Windows,
    stored: impl BufRead,
    header: &BlockHeader,
    offset: u64,
    edges: &Edges,
    sink: &dyn ExtentSink,
) -> Result<(), Fault> {
    let failed = |error| Fault::Image(decoder_error(name, Format::Xz, error));
    let sizes_lie = || corrupt(name, "a block is not as long as its header says");
    let stream = Stream::new_stream_decoder(windows.xz_memory, 0).map_err(|error| failed(error.into()))?;
    let mut decoder = XzDecoder::new_stream(stored, stream);
    let mut left = header.plain;
    copy_part(offset, edges, sink, |buffer| {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = fill(&mut decoder, &mut buffer[..want]).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => sizes_lie(),
            _ => failed(error),
        })?;
        left -= count as u64;
        if count < want { Err(sizes_lie()) } else { Ok(count) }
    })?;
    // The checksum comes behind the data; then the decoder finds that no index follows.
    match decoder.read(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(sizes_lie()),
    }
}
