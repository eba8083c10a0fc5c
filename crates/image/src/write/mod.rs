//! Writes an image to a disk so that at no moment, whatever fails, the disk boots anything but a whole and verified system.
//!
//! The order, each line made durable (flushed) before the next begins:
//!
//! 1. the in-progress marker takes the place of the first sector;
//! 2. both ends are zeroed, so that no old partition table is left, neither the primary nor the backup that firmware restores
//!    the primary from;
//! 3. the image's data, without its first sectors and without its own backup table; then all of it is read back from the medium
//!    and compared, zeros included; and the digest of the download has matched;
//! 4. the config drive;
//! 5. the backup partition table at the real end of the disk;
//! 6. the first sectors except the very first;
//! 7. the first sector, which takes the marker away.
//!
//! Lines 4 to 7 are read back and compared as well. What can be refused is refused before line 1. A write that was interrupted is
//! simply done again from the start. Nothing of the image is ever executed or mounted here.

mod digests;
mod plan;
mod progress;
mod sink;

use serde::Serialize;

use self::digests::RegionDigests;
use self::plan::{END_BYTES, FIRST_BYTES, Geometry, Plan, cut_off};
use self::progress::Reporter;
pub use self::progress::{Progress, ProgressCallback, Step, StepDuration};
use self::sink::{DiskSink, SinkSettings};
use crate::decode::{ImageReader, Limit};
use crate::device::{AlignedBuffer, BlockDevice, Checked, ZeroMethod, is_zero};
use crate::error::ImageError;
use crate::marker::{self, MARKER_BYTES};

/// Bytes read back at once.
const READ_BACK: usize = 1 << 20;

/// The config drive to be placed at the end of the disk.
#[derive(Clone)]
pub struct ConfigDrive {
    /// The file system, at most 64 MiB. The partition is this rounded up to MiB.
    pub bytes: Vec<u8>,
    /// GUID of its partition as stored on disk, for GPT images.
    pub partition_guid: [u8; 16],
}

impl std::fmt::Debug for ConfigDrive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The content is somebody's secret.
        f.debug_struct("ConfigDrive")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Where the config drive went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigDrivePlace {
    /// Number of the partition, from 1.
    pub partition: usize,
    /// First byte on the disk.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What is to be done besides the image itself.
#[derive(Debug, Clone, Default)]
pub struct WriteRequest {
    /// Payload of the in-progress marker: who writes what for whom. See [`marker`] for what fits.
    pub marker: Vec<u8>,
    /// The config drive, if there shall be one.
    pub config_drive: Option<ConfigDrive>,
}

/// What was done, with the evidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Format of the image.
    pub format: crate::Format,
    /// Digest of the stored bytes, which matched.
    pub image_digest: String,
    /// Stored bytes that were downloaded.
    pub stored_bytes: u64,
    /// Size of the disk that the image describes.
    pub image_bytes: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Bytes of data written.
    pub written_bytes: u64,
    /// Bytes made to read as zeros.
    pub zeroed_bytes: u64,
    /// Bytes read back and compared.
    pub verified_bytes: u64,
    /// Sum over what was written.
    pub written_digest: String,
    /// The same sum over what was read back.
    pub read_back_digest: String,
    /// Whether the disk's own command for zeros was found to work.
    pub zeroing_offloaded: bool,
    /// `gpt`, `mbr` or `none`.
    pub partition_table: &'static str,
    /// Where the config drive is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<ConfigDrivePlace>,
    /// How long each step took.
    pub steps: Vec<StepDuration>,
    /// Seconds in all.
    pub seconds: f64,
    /// Image bytes through seconds in all.
    pub mebibytes_per_second: f64,
}

/// The limit to open an image with when it is meant for this disk.
pub fn limit_of(disk: &dyn BlockDevice) -> Limit {
    Limit {
        bytes: disk.size(),
        disk: disk.name().to_owned(),
    }
}

/// Writes, verifies and makes bootable. On an error after the first write the disk carries the in-progress marker and is not bootable.
pub fn write_image(
    image: Box<dyn ImageReader>,
    disk: &dyn BlockDevice,
    request: &WriteRequest,
    progress: &mut ProgressCallback<'_>,
) -> Result<Evidence, ImageError> {
    // The callback's own lifetime is longer than the reporter's; a closure in between shortens it.
    let mut forward = |update: Progress| progress(update);
    let mut reporter = Reporter::new(&mut forward);
    let started = std::time::Instant::now();
    let geometry = Geometry {
        disk: disk.name(),
        size: disk.size(),
        sector_size: disk.sector_size(),
    };
    let source_name = image.source_name().to_owned();
    let plan = Plan::make(
        &source_name,
        image.head(),
        image.image_bytes(),
        request.config_drive.as_ref(),
        &geometry,
    )?;
    if image.granule() < geometry.sector_size {
        return Err(ImageError::Unsupported {
            source_name,
            reason: format!(
                "its clusters of {} bytes are smaller than the disk's sectors of {}",
                image.granule(),
                geometry.sector_size
            ),
            remedy: "convert it with qemu-img convert -O qcow2 -o cluster_size=64k".to_owned(),
        });
    }
    let marker = marker::encode(&request.marker)?;
    let writer = Writer {
        disk: Checked(disk),
        plan: &plan,
        marker,
    };

    reporter.begin(Step::Mark, None)?;
    writer.mark()?;
    reporter.begin(Step::ClearEnds, Some(2 * END_BYTES))?;
    let zero_method = writer.clear_ends()?;
    reporter.at(Step::ClearEnds, 2 * END_BYTES)?;

    let (format, digest, granule) = (image.format(), image.digest().to_string(), image.granule());
    let download = image.download();
    reporter.begin(Step::Write, download.as_ref().map(|d| d.total).or(image.image_bytes()))?;
    let settings = SinkSettings {
        granule,
        zero_method,
        left_out: plan.left_out.clone(),
        download,
    };
    let mut sink = DiskSink::new(Checked(disk), settings, &mut reporter);
    let copied = image.copy_to(&mut sink)?;
    sink.finish()?;
    if copied.image_bytes < plan.least_image_bytes {
        return Err(cut_off(&source_name, copied.image_bytes, plan.least_image_bytes));
    }
    if sink.head != plan.image_head {
        let reason = "its first bytes were other ones before".to_owned();
        return Err(ImageError::SourceChanged { source_name, reason });
    }
    let (written, zeroed, digests) = (sink.written, sink.zeroed, sink.digests);
    writer.disk.flush()?;

    reporter.begin(Step::Verify, Some(copied.image_bytes))?;
    let read_back = writer.verify(&digests, granule, copied.image_bytes, &mut reporter)?;
    let mut verified = copied.image_bytes;

    if let (Some(place), Some(drive)) = (plan.config_drive, &request.config_drive) {
        reporter.begin(Step::ConfigDrive, Some(place.length))?;
        verified += writer.config_drive(place, drive)?;
        reporter.at(Step::ConfigDrive, place.length)?;
    }
    if let Some((offset, bytes)) = &plan.backup {
        reporter.begin(Step::BackupTable, Some(bytes.len() as u64))?;
        verified += writer.durable(*offset, bytes, "backup partition table")?;
        reporter.at(Step::BackupTable, bytes.len() as u64)?;
    }
    reporter.begin(Step::FirstSectors, Some(FIRST_BYTES as u64))?;
    verified += writer.first_sectors()?;
    reporter.at(Step::FirstSectors, FIRST_BYTES as u64)?;
    reporter.end();
    if let Err(error) = disk.reread_partition_table() {
        tracing::warn!(disk = disk.name(), %error, "the kernel did not read the new partition table; it will at the next boot");
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Evidence {
        format,
        image_digest: digest,
        stored_bytes: copied.stored_bytes,
        image_bytes: copied.image_bytes,
        disk_bytes: geometry.size,
        written_bytes: written,
        zeroed_bytes: zeroed,
        verified_bytes: verified,
        written_digest: digests.summary(),
        read_back_digest: read_back.summary(),
        zeroing_offloaded: zero_method == ZeroMethod::Offload,
        partition_table: plan.table,
        config_drive: plan.config_drive,
        steps: reporter.durations,
        seconds,
        mebibytes_per_second: copied.image_bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9),
    })
}

struct Writer<'a> {
    disk: Checked<'a>,
    plan: &'a Plan,
    marker: [u8; MARKER_BYTES],
}

impl Writer<'_> {
    fn sector(&self) -> usize {
        self.disk.0.sector_size() as usize
    }

    /// The first sector as it is while the write goes on.
    fn marked_sector(&self) -> Vec<u8> {
        let mut sector = self.marker.to_vec();
        sector.resize(self.sector(), 0);
        sector
    }

    fn mark(&self) -> Result<(), ImageError> {
        self.durable(0, &self.marked_sector(), "in-progress marker")?;
        Ok(())
    }

    /// Zeroes both ends by writing, and finds out whether the disk's own command for zeros does what it says. One flush makes both
    /// durable; what the command did is read back only after that.
    fn clear_ends(&self) -> Result<ZeroMethod, ImageError> {
        let size = self.disk.0.size();
        let first = self.sector() as u64;
        self.disk.zero(first, END_BYTES - first, ZeroMethod::Write)?;
        let end = ((size - END_BYTES) / first * first).max(END_BYTES);
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

    /// Reads the whole image back and compares. Where nothing was written, zeros must be.
    fn verify(
        &self,
        written: &RegionDigests,
        granule: u32,
        image_bytes: u64,
        reporter: &mut Reporter<'_>,
    ) -> Result<RegionDigests, ImageError> {
        let mut read_back = RegionDigests::new(self.disk.0.size(), granule);
        let mut buffer = AlignedBuffer::zeroed(READ_BACK);
        let sector = self.sector() as u64;
        let end = image_bytes.next_multiple_of(sector).max(FIRST_BYTES as u64);
        let mut at = 0;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(READ_BACK);
            self.disk.read(at, &mut buffer[..count])?;
            if at == 0 {
                let marked = self.marked_sector();
                let (first, rest) = buffer[..FIRST_BYTES].split_at(marked.len());
                if first != marked || !is_zero(rest) {
                    return Err(self.mismatch(0, FIRST_BYTES as u64, "in-progress marker"));
                }
                buffer[..FIRST_BYTES].fill(0);
            }
            let inside = usize::try_from(image_bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(count);
            read_back.add(at, &buffer[..inside]);
            at += count as u64;
            reporter.at(Step::Verify, at.min(image_bytes))?;
        }
        match written.first_difference(&read_back) {
            None => Ok(read_back),
            Some((from, to)) => Err(self.mismatch(from, to.min(self.disk.0.size()), "image data")),
        }
    }

    /// Writes, flushes, reads back and compares.
    fn durable(&self, offset: u64, bytes: &[u8], what: &'static str) -> Result<u64, ImageError> {
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

    fn config_drive(&self, place: ConfigDrivePlace, drive: &ConfigDrive) -> Result<u64, ImageError> {
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

    fn first_sectors(&self) -> Result<u64, ImageError> {
        let (first, rest) = self.plan.final_head.split_at(self.sector());
        self.durable(first.len() as u64, rest, "first sectors")?;
        self.durable(0, first, "first sector")?;
        Ok(FIRST_BYTES as u64)
    }
}
