//! The sink between a reader and a disk: holds the first bytes back, leaves the image's own backup table out, tells zeros from data,
//! joins small writes to large ones, and keeps the sums of what was written.

use std::ops::Range;

use super::digests::RegionDigests;
use super::plan::FIRST_BYTES;
use super::progress::{Reporter, Step};
use crate::decode::{Download, ExtentSink};
use crate::device::{AlignedBuffer, Checked, ZeroMethod, is_zero};
use crate::error::ImageError;

/// Bytes written at once.
const WRITE: usize = 1 << 20;
/// Shorter runs of zeros are written as data: a command costs more.
const LEAST_ZERO_RUN: usize = 64 * 1024;
/// Longest range zeroed by one call, so that progress is seen.
const ZERO_PIECE: u64 = 256 << 20;

pub(crate) struct DiskSink<'a, 'p> {
    disk: Checked<'a>,
    sector: usize,
    granule: usize,
    zero_method: ZeroMethod,
    left_out: Range<u64>,
    /// The first bytes as they came through the stream.
    pub(crate) head: Vec<u8>,
    pub(crate) digests: RegionDigests,
    buffer: AlignedBuffer,
    buffered: Range<u64>,
    zeros: Range<u64>,
    pub(crate) written: u64,
    pub(crate) zeroed: u64,
    covered: u64,
    download: Option<Download>,
    reporter: &'a mut Reporter<'p>,
}

pub(crate) struct SinkSettings {
    pub(crate) granule: u32,
    pub(crate) zero_method: ZeroMethod,
    pub(crate) left_out: Option<Range<u64>>,
    /// Where the image cannot say how large it is, progress counts what has been downloaded.
    pub(crate) download: Option<Download>,
}

impl<'a, 'p> DiskSink<'a, 'p> {
    pub(crate) fn new(disk: Checked<'a>, settings: SinkSettings, reporter: &'a mut Reporter<'p>) -> Self {
        Self {
            disk,
            sector: disk.0.sector_size() as usize,
            granule: settings.granule as usize,
            zero_method: settings.zero_method,
            left_out: settings.left_out.unwrap_or(0..0),
            head: vec![0; FIRST_BYTES],
            digests: RegionDigests::new(disk.0.size(), settings.granule),
            buffer: AlignedBuffer::zeroed(WRITE),
            buffered: 0..0,
            zeros: 0..0,
            written: 0,
            zeroed: 0,
            covered: 0,
            download: settings.download,
            reporter,
        }
    }

    /// Writes what is still buffered.
    pub(crate) fn finish(&mut self) -> Result<(), ImageError> {
        self.write_buffered()?;
        self.write_zeros()
    }

    fn write_buffered(&mut self) -> Result<(), ImageError> {
        let length = (self.buffered.end - self.buffered.start) as usize;
        if length == 0 {
            return Ok(());
        }
        // Only the end of an image is no whole sector; what follows it in that sector is nobody's.
        let padded = length.next_multiple_of(self.sector);
        self.buffer[length..padded].fill(0);
        self.disk.write(self.buffered.start, &self.buffer[..padded])?;
        self.written += padded as u64;
        self.buffered = 0..0;
        Ok(())
    }

    fn write_zeros(&mut self) -> Result<(), ImageError> {
        let sector = self.sector as u64;
        let (mut at, end) = (self.zeros.start, self.zeros.end.next_multiple_of(sector));
        self.zeros = 0..0;
        while at < end {
            let length = (end - at).min(ZERO_PIECE);
            let method = if length < LEAST_ZERO_RUN as u64 {
                ZeroMethod::Write
            } else {
                self.zero_method
            };
            self.disk.zero(at, length, method)?;
            self.zeroed += length;
            at += length;
            self.reporter.tick()?;
        }
        Ok(())
    }

    fn put_zeros(&mut self, offset: u64, length: u64) -> Result<(), ImageError> {
        let start = offset.max(FIRST_BYTES as u64);
        let end = offset + length;
        if start >= end {
            return Ok(());
        }
        if self.zeros.end != start || self.zeros.is_empty() {
            self.write_zeros()?;
            self.zeros = start..end;
        } else {
            self.zeros.end = end;
        }
        Ok(())
    }

    fn put_bytes(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let used = (self.buffered.end - self.buffered.start) as usize;
            if self.buffered.end != offset || used == WRITE {
                self.write_buffered()?;
                self.buffered = offset..offset;
                continue;
            }
            let count = bytes.len().min(WRITE - used);
            self.buffer[used..used + count].copy_from_slice(&bytes[..count]);
            self.buffered.end += count as u64;
            offset += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Data outside of the first bytes, split into zeros and the rest.
    fn put_data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.digests.add(offset, bytes);
        let unit = self.granule.max(self.sector);
        // Start of the run of data, and of the run of zeros that may follow it.
        let (mut data_from, mut zeros_from) = (0, None);
        let mut at = 0;
        while at <= bytes.len() {
            let end = bytes.len().min(at + unit);
            let zero = at < bytes.len() && is_zero(&bytes[at..end]);
            if zero {
                zeros_from.get_or_insert(at);
            } else if let Some(from) = zeros_from.take()
                && at - from >= LEAST_ZERO_RUN
            {
                self.put_bytes(offset + data_from as u64, &bytes[data_from..from])?;
                self.put_zeros(offset + from as u64, (at - from) as u64)?;
                data_from = at;
            }
            if at == bytes.len() {
                break;
            }
            at = end;
        }
        self.put_bytes(offset + data_from as u64, &bytes[data_from..])
    }

    fn advance(&mut self, length: u64) -> Result<(), ImageError> {
        self.covered += length;
        let done = self.download.as_ref().map_or(self.covered, Download::passed);
        self.reporter.at(Step::Write, done)
    }
}

impl ExtentSink for DiskSink<'_, '_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        let end = offset + bytes.len() as u64;
        let mut rest = (offset, bytes);
        if offset < FIRST_BYTES as u64 {
            let start = offset as usize;
            let count = bytes.len().min(FIRST_BYTES - start);
            self.head[start..start + count].copy_from_slice(&bytes[..count]);
            rest = (offset + count as u64, &bytes[count..]);
        }
        let (offset, bytes) = rest;
        if self.left_out.start < end && offset < self.left_out.end && !bytes.is_empty() {
            let from = self.left_out.start.saturating_sub(offset) as usize;
            let to = (self.left_out.end.min(end) - offset) as usize;
            let mut copy = bytes.to_vec();
            copy[from..to].fill(0);
            self.put_data(offset, &copy)?;
        } else {
            self.put_data(offset, bytes)?;
        }
        self.advance(bytes.len() as u64)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<(), ImageError> {
        self.put_zeros(offset, length)?;
        self.advance(length)
    }
}
