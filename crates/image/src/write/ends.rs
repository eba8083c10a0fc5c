//! The first and the last writes: the in-progress marker and the zeroed ends before the data, config drive, backup table and first sectors after it. Each is
//! durable, read back and compared before the next begins.

use super::own::end_zone;
use super::plan::{END_BYTES, FIRST_BYTES, Plan};
use super::{ConfigDrive, ConfigDrivePlace};
use crate::device::{AlignedBuffer, Checked, ZeroMethod, is_zero};
use crate::error::ImageError;
use crate::marker::MARKER_BYTES;

/// Bytes read back at once.
const READ_BACK: usize = 1 << 20;

/// Everything on the disk that is not the image's data.
pub(crate) struct Ends<'a> {
    pub(crate) disk: Checked<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) marker: [u8; MARKER_BYTES],
}

impl Ends<'_> {
    fn sector(&self) -> usize {
        self.disk.0.sector_size() as usize
    }

    /// The first sector as it is while the write goes on.
    fn marked_sector(&self) -> Vec<u8> {
        let mut sector = self.marker.to_vec();
        sector.resize(self.sector(), 0);
        sector
    }

    pub(crate) fn mark(&self) -> Result<(), ImageError> {
        self.durable(0, &self.marked_sector(), "in-progress marker")?;
        Ok(())
    }

    /// Zeroes both ends by writing, and finds out whether the disk's own command for zeros does what it says. One flush makes both
    /// durable; what the command did is read back only after that.
    pub(crate) fn clear_ends(&self) -> Result<ZeroMethod, ImageError> {
        let size = self.disk.0.size();
        let first = self.sector() as u64;
        self.disk.zero(first, END_BYTES - first, ZeroMethod::Write)?;
        let end = end_zone(size, first);
        self.disk.zero(end, size - end, ZeroMethod::Write)?;

        let (probe_at, probe_length) = (END_BYTES / 2, 64 * 1024);
        let mut probe = AlignedBuffer::zeroed(probe_length);
        // Nothing that any firmware or kernel takes for a table or a file system.
        probe.fill(0xa5);
        self.disk.write(probe_at, &probe)?;
        self.disk.zero(probe_at, probe_length as u64, ZeroMethod::Offload)?;
        self.disk.flush()?;
        self.disk.read(probe_at, &mut probe)?;
        if is_zero(&probe) {
            return Ok(ZeroMethod::Offload);
        }
        tracing::warn!(
            disk = self.disk.0.name(),
            "the disk's own command for zeros does not make zeros; zeros are written instead"
        );
        self.disk.zero(probe_at, probe_length as u64, ZeroMethod::Write)?;
        // What is compared with the image later must come from the medium.
        self.disk.flush()?;
        Ok(ZeroMethod::Write)
    }

    fn mismatch(&self, offset: u64, end: u64, what: &'static str) -> ImageError {
        ImageError::VerifyMismatch {
            disk: self.disk.0.name().to_owned(),
            offset,
            end,
            what,
        }
    }

    /// The first bytes as they are while the write goes on: the marker, then zeros.
    pub(crate) fn check_marked(&self) -> Result<(), ImageError> {
        let mut buffer = AlignedBuffer::zeroed(FIRST_BYTES.next_multiple_of(self.sector()));
        self.disk.read(0, &mut buffer)?;
        let marked = self.marked_sector();
        let (first, rest) = buffer[..FIRST_BYTES].split_at(marked.len());
        if first != marked || !is_zero(rest) {
            return Err(self.mismatch(0, FIRST_BYTES as u64, "in-progress marker"));
        }
        Ok(())
    }

    /// Writes, flushes, reads back and compares.
    pub(crate) fn durable(&self, offset: u64, bytes: &[u8], what: &'static str) -> Result<u64, ImageError> {
        self.disk.write(offset, bytes)?;
        self.disk.flush()?;
        self.compare(offset, bytes, what)
    }

    fn compare(&self, offset: u64, bytes: &[u8], what: &'static str) -> Result<u64, ImageError> {
        let mut buffer = AlignedBuffer::zeroed(bytes.len().min(READ_BACK));
        let mut at = offset;
        for part in bytes.chunks(READ_BACK) {
            let read = &mut buffer[..part.len()];
            self.disk.read(at, read)?;
            if *read != *part {
                return Err(self.mismatch(at, at + part.len() as u64, what));
            }
            at += part.len() as u64;
        }
        Ok(bytes.len() as u64)
    }

    pub(crate) fn config_drive(&self, place: ConfigDrivePlace, drive: &ConfigDrive) -> Result<u64, ImageError> {
        let whole = drive.bytes.len() / self.sector() * self.sector();
        let (sectors, end) = drive.bytes.split_at(whole);
        self.disk.write(place.offset, sectors)?;
        // The rest of the partition is zeros: what an earlier owner left there is nobody's business.
        let mut last = end.to_vec();
        last.resize(usize::try_from(place.length).unwrap_or(usize::MAX) - whole, 0);
        if !last.is_empty() {
            self.disk.write(place.offset + whole as u64, &last)?;
        }
        self.disk.flush()?;
        self.compare(place.offset, sectors, "config drive")?;
        self.compare(place.offset + whole as u64, &last, "config drive")?;
        Ok(place.length)
    }

    pub(crate) fn first_sectors(&self) -> Result<u64, ImageError> {
        let (first, rest) = self.plan.final_head.split_at(self.sector());
        self.durable(first.len() as u64, rest, "first sectors")?;
        if let Err(fault) = self.durable(0, first, "first sector") {
            // What firmware finds there now is not known. The fault is what counts; a disk that does not take the marker either is one that is gone.
            if let Err(error) = self.mark() {
                tracing::warn!(disk = self.disk.0.name(), %error, "the in-progress marker was not put back");
            }
            return Err(fault);
        }
        Ok(FIRST_BYTES as u64)
    }
}
