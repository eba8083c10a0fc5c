//! Bounded reads for [`super::probe`].
//!
//! Invariants: reads are whole blocks of 4 KiB (or of the sector, when that is larger), never behind the end, and together never more than
//! [`BUDGET`]; the first I/O error is kept, and everything afterwards reads as empty. What it does not do: interpret.

use std::io;

use image::{BlockDevice, device::AlignedBuffer};

/// Most bytes that looking at one disk may read.
const BUDGET: u64 = 512 << 20;
/// How much of the start of a container is looked at.
pub(super) const HEAD: u64 = 288 << 10;
/// How much of the end of a container is looked at.
pub(super) const TAIL: u64 = 768 << 10;

pub(super) struct Reader<'a> {
    device: &'a dyn BlockDevice,
    error: Option<io::Error>,
    left: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(device: &'a dyn BlockDevice) -> Self {
        Self {
            device,
            error: None,
            left: BUDGET,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.device.size()
    }

    pub(super) fn sector(&self) -> u64 {
        u64::from(self.device.sector_size()).max(512)
    }

    /// Whether a read failed.
    pub(super) fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Up to `length` bytes from `offset`: fewer at the end of the disk, none after an error or beyond the budget.
    pub(super) fn bytes(&mut self, offset: u64, length: u64) -> Vec<u8> {
        let size = self.size();
        let end = offset.saturating_add(length).min(size);
        if offset >= end || self.error.is_some() {
            return Vec::new();
        }
        let unit = self.sector();
        let from = offset / unit * unit;
        // A device ends at a whole sector; a file that plays one may not, and its last bytes are not part of the disk.
        let to = end.div_ceil(unit).saturating_mul(unit).min(size / unit * unit);
        if from >= to || to - from > self.left {
            return Vec::new();
        }
        self.left -= to - from;
        // Not above BUDGET.
        let mut buffer = AlignedBuffer::zeroed((to - from) as usize);
        if let Err(error) = self.device.read_at(from, &mut buffer) {
            self.error = Some(error);
            return Vec::new();
        }
        let skip = (offset - from) as usize;
        let wanted = (end.min(to).max(offset) - offset) as usize;
        buffer.get(skip..skip + wanted).map(<[u8]>::to_vec).unwrap_or_default()
    }
}

/// The disk or one partition: where it lies, and its two ends.
pub(super) struct Container {
    pub(super) start: u64,
    pub(super) length: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
    tail_at: u64,
}

impl Container {
    /// Reads both ends. A length that reaches behind the end of the disk is cut.
    pub(super) fn read(reader: &mut Reader<'_>, start: u64, length: u64) -> Self {
        let length = length.min(reader.size().saturating_sub(start));
        let head = reader.bytes(start, HEAD.min(length));
        let tail_at = length.saturating_sub(TAIL);
        let tail = if length <= HEAD {
            head.clone()
        } else {
            reader.bytes(start + tail_at, length - tail_at)
        };
        Self {
            start,
            length,
            head,
            tail,
            tail_at: if length <= HEAD { 0 } else { tail_at },
        }
    }

    /// `count` bytes at `offset`, where those lie within one of the ends.
    pub(super) fn at(&self, offset: u64, count: usize) -> Option<&[u8]> {
        let slice = |bytes: &'_ [u8], at: u64| -> Option<std::ops::Range<usize>> {
            let at = usize::try_from(at).ok()?;
            let end = at.checked_add(count)?;
            (end <= bytes.len()).then_some(at..end)
        };
        if let Some(range) = slice(&self.head, offset) {
            return self.head.get(range);
        }
        let range = slice(&self.tail, offset.checked_sub(self.tail_at)?)?;
        self.tail.get(range)
    }

    /// `count` bytes that begin `back` bytes before the end.
    pub(super) fn before_end(&self, back: u64, count: usize) -> Option<&[u8]> {
        self.at(self.length.checked_sub(back)?, count)
    }

    pub(super) fn is(&self, offset: u64, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    pub(super) fn le16(&self, offset: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.at(offset, 2)?.try_into().ok()?))
    }

    pub(super) fn le32(&self, offset: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.at(offset, 4)?.try_into().ok()?))
    }
}
