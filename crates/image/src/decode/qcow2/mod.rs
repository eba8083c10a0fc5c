//! qcow2 images, versions 2 and 3: our own bounded reader.
//!
//! Two passes, whatever the order of tables and data in the file. First the tables are read by ranges into a map (bounded).
//! Then the whole file is streamed once, from its start: that computes the digest, and hands out the clusters in the order in
//! which they are in the file. The tables pass by in that stream too and must be the bytes that the map was built from, so the
//! digest covers everything that was believed. Nothing outside of the image file is ever opened.

mod header;
mod map;

use std::io::Read;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use self::header::Compression;
use self::map::{Kind, Map, Piece, table_digest};
use super::{Copied, ExtentSink, HEAD_BYTES, ImageReader, Limit, settle};
use crate::block::BLOCK_BYTES;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::format::Format;
use crate::source::{HashingReader, Source, source_error};

/// Bytes read from the stream at once.
const READ: usize = 256 * 1024;

pub(crate) struct Qcow2Reader {
    name: String,
    digest: Digest,
    source: Box<dyn Source>,
    map: Map,
    head: Vec<u8>,
}

impl Qcow2Reader {
    pub(crate) fn open(mut source: Box<dyn Source>, digest: &Digest, limit: &Limit) -> Result<Self, ImageError> {
        let name = source.name().to_owned();
        match Self::read_map(&name, source.as_mut(), limit) {
            Ok((map, head)) => Ok(Self {
                name,
                digest: digest.clone(),
                source,
                map,
                head,
            }),
            Err(error) => {
                let stream = source.stream()?;
                Err(settle(error, HashingReader::new(&name, stream, digest), digest))
            }
        }
    }

    fn read_map(name: &str, source: &mut dyn Source, limit: &Limit) -> Result<(Map, Vec<u8>), ImageError> {
        let map = Map::build(name, source, limit)?;
        let head = read_head(name, source, &map)?;
        Ok((map, head))
    }
}

/// The first bytes of the disk, by ranged reads. They come again in the stream, where the digest covers them.
fn read_head(name: &str, source: &mut dyn Source, map: &Map) -> Result<Vec<u8>, ImageError> {
    let length = map.header.size.min(HEAD_BYTES as u64);
    let mut head = vec![0; length as usize];
    let mut clusters = Clusters::new(name, map)?;
    for piece in &map.pieces {
        if piece.kind == Kind::Table || piece.to >= length {
            continue;
        }
        let mut stored = vec![0; piece.length as usize];
        let count = source.read_range(piece.host, &mut stored)?;
        let plain = clusters.plain(piece, &stored[..count])?;
        let start = piece.to as usize;
        let count = plain.len().min(head.len() - start);
        head[start..start + count].copy_from_slice(&plain[..count]);
    }
    Ok(head)
}

/// Turns stored pieces into clusters.
struct Clusters<'a> {
    name: &'a str,
    size: u64,
    compression: Compression,
    inflate: Decompress,
    zstd: ZstdDecoder<'static>,
    cluster: Vec<u8>,
}

impl<'a> Clusters<'a> {
    fn new(name: &'a str, map: &Map) -> Result<Self, ImageError> {
        let broken = |error: std::io::Error| ImageError::Corrupt {
            source_name: name.to_owned(),
            reason: error.to_string(),
        };
        let mut zstd = ZstdDecoder::new().map_err(broken)?;
        // A cluster is at most 2 MiB: no larger window makes sense.
        zstd.set_parameter(DParameter::WindowLogMax(23)).map_err(broken)?;
        Ok(Self {
            name,
            size: map.header.size,
            compression: map.header.compression,
            inflate: Decompress::new(false),
            zstd,
            cluster: vec![0; map.header.cluster_size() as usize],
        })
    }

    fn corrupt(&self, guest: u64, what: &str) -> ImageError {
        ImageError::Corrupt {
            source_name: self.name.to_owned(),
            reason: format!("the cluster of guest offset {guest} {what}"),
        }
    }

    /// The plain bytes of a piece, cut at the end of the disk.
    fn plain<'b>(&'b mut self, piece: &Piece, stored: &'b [u8]) -> Result<&'b [u8], ImageError> {
        let left = usize::try_from(self.size - piece.to).unwrap_or(usize::MAX);
        match piece.kind {
            Kind::Table => Ok(&[]),
            Kind::Data => {
                let want = (piece.length as usize).min(left);
                if stored.len() >= want {
                    return Ok(&stored[..want]);
                }
                if stored.is_empty() {
                    return Err(self.corrupt(piece.to, "lies behind the end of the file"));
                }
                // A file may end inside of its last cluster; the rest of that one is zeros.
                self.cluster.clear();
                self.cluster.extend_from_slice(stored);
                self.cluster.resize(want.max(self.cluster.len()), 0);
                Ok(&self.cluster[..want])
            }
            Kind::Compressed => {
                let done = match self.compression {
                    Compression::Deflate => self.inflate(stored),
                    Compression::Zstd => self.unzstd(stored),
                };
                if !done {
                    return Err(self.corrupt(piece.to, "does not decompress"));
                }
                Ok(&self.cluster[..self.cluster.len().min(left)])
            }
        }
    }

    fn inflate(&mut self, stored: &[u8]) -> bool {
        self.inflate.reset(false);
        let status = self.inflate.decompress(stored, &mut self.cluster, FlushDecompress::Finish);
        let complete = self.inflate.total_out() == self.cluster.len() as u64;
        // With the output full, the end marker may not have been reached: that is no error (the length field is rounded up).
        complete && matches!(status, Ok(Status::StreamEnd | Status::BufError | Status::Ok))
    }

    fn unzstd(&mut self, stored: &[u8]) -> bool {
        if self.zstd.reinit().is_err() {
            return false;
        }
        let mut input = InBuffer::around(stored);
        let mut output = OutBuffer::around(self.cluster.as_mut_slice());
        loop {
            let before = (input.pos(), output.pos());
            if self.zstd.run(&mut input, &mut output).is_err() {
                return false;
            }
            if output.pos() == output.capacity() {
                return true;
            }
            if before == (input.pos(), output.pos()) {
                return false;
            }
        }
    }
}

/// A stretch of the stream that can be looked at more than once: pieces may overlap (compressed clusters share sectors).
struct Window {
    reader: HashingReader,
    name: String,
    buffer: Vec<u8>,
    /// Where the first byte still wanted is in the buffer.
    head: usize,
    /// Its offset in the file.
    offset: u64,
    ended: bool,
}

impl Window {
    fn more(&mut self, want: usize) -> Result<usize, ImageError> {
        if self.ended {
            return Ok(0);
        }
        let old = self.buffer.len();
        self.buffer.resize(old + want, 0);
        let result = self.reader.read(&mut self.buffer[old..]);
        let count = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(old + count);
        match result {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(error) => return Err(source_error(&self.name, error)),
        }
        Ok(count)
    }

    /// Forgets everything before `offset`, which never goes back.
    fn advance(&mut self, offset: u64) -> Result<(), ImageError> {
        loop {
            let have = (self.buffer.len() - self.head) as u64;
            let step = offset.saturating_sub(self.offset);
            if step <= have {
                self.head += step as usize;
                self.offset += step;
                break;
            }
            self.offset += have;
            self.buffer.clear();
            self.head = 0;
            if self.more(READ)? == 0 {
                break;
            }
        }
        if self.head > 2 * READ {
            self.buffer.drain(..self.head);
            self.head = 0;
        }
        Ok(())
    }

    /// `length` bytes from the present offset, fewer at the end of the file.
    fn view(&mut self, length: usize) -> Result<&[u8], ImageError> {
        while self.buffer.len() - self.head < length {
            let missing = length - (self.buffer.len() - self.head);
            if self.more(missing.max(READ))? == 0 {
                break;
            }
        }
        let end = self.buffer.len().min(self.head + length);
        Ok(&self.buffer[self.head..end])
    }
}

impl Qcow2Reader {
    fn copy_pieces(&self, window: &mut Window, sink: &dyn ExtentSink) -> Result<(), ImageError> {
        for &(offset, length) in &self.map.zeros {
            sink.zero(offset, length)?;
        }
        let mut clusters = Clusters::new(&self.name, &self.map)?;
        for piece in &self.map.pieces {
            window.advance(piece.host)?;
            if window.offset != piece.host {
                return Err(clusters.corrupt(piece.to, "lies behind the end of the file"));
            }
            let stored = window.view(piece.length as usize)?;
            if piece.kind == Kind::Table {
                if self.map.tables.get(piece.to as usize) != Some(&table_digest(stored)) {
                    let reason = format!("its tables at offset {} were other bytes before", piece.host);
                    return Err(ImageError::SourceChanged {
                        source_name: self.name.clone(),
                        reason,
                    });
                }
                continue;
            }
            let plain = clusters.plain(piece, stored)?;
            let mut at = piece.to;
            for part in plain.chunks(BLOCK_BYTES) {
                let mut block = sink.block()?;
                block.append(part);
                sink.data(at, block)?;
                at += part.len() as u64;
            }
        }
        Ok(())
    }
}

impl ImageReader for Qcow2Reader {
    fn source_name(&self) -> &str {
        &self.name
    }

    fn format(&self) -> Format {
        Format::Qcow2
    }

    fn digest(&self) -> &Digest {
        &self.digest
    }

    fn image_bytes(&self) -> Option<u64> {
        Some(self.map.header.size)
    }

    fn granule(&self) -> u32 {
        self.map.header.cluster_size().min(4096) as u32
    }

    fn head(&self) -> &[u8] {
        &self.head
    }

    fn copy_to(mut self: Box<Self>, sink: &dyn ExtentSink) -> Result<Copied, ImageError> {
        let stream = self.source.stream()?;
        let reader = HashingReader::new(&self.name, stream, &self.digest);
        let mut window = Window {
            reader,
            name: self.name.clone(),
            buffer: Vec::new(),
            head: 0,
            offset: 0,
            ended: false,
        };
        match self.copy_pieces(&mut window, sink) {
            Ok(()) => {
                let stored_bytes = window.reader.finish(&self.digest)?;
                Ok(Copied {
                    image_bytes: self.map.header.size,
                    stored_bytes,
                })
            }
            Err(error) => Err(settle(error, window.reader, &self.digest)),
        }
    }
}
