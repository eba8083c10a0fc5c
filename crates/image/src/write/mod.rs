//! Writes an image to a disk so that at no moment, whatever fails, the disk boots anything but a whole and verified system.
//!
//! The order, each line made durable (flushed) before the next begins:
//!
//! 1. the in-progress marker takes the place of the first sector;
//! 2. both ends are zeroed, so that no old partition table is left, neither the primary nor the backup that firmware restores
//!    the primary from;
//! 3. the image's data, without its first sectors and without its own backup table, by several threads; what was flushed is read back
//!    from the medium and compared, zeros included, while more is written; and the digest of the download has matched;
//! 4. the config drive;
//! 5. the backup partition table at the real end of the disk;
//! 6. the first sectors except the very first;
//! 7. the first sector, which takes the marker away.
//!
//! Lines 4 to 7 are read back and compared as well. What can be refused is refused before line 1. A write that was interrupted is
//! simply done again from the start; of a packed image only what is not on the disk yet is fetched again. Nothing of the image is ever executed or
//! mounted here.

mod ahead;
mod chunks;
mod ends;
mod engine;
mod own;
mod plan;
mod progress;
mod sink;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::ahead::Ahead;
use self::chunks::Chunks;
use self::ends::Ends;
pub use self::engine::Tuning;
use self::engine::{Alarm, Engine, Settings, Totals};
pub use self::own::{OwnPart, OwnRange};
pub(crate) use self::plan::FIRST_BYTES;
use self::plan::{END_BYTES, Geometry, Plan, cut_off};
use self::progress::Reporter;
pub use self::progress::{Progress, ProgressCallback, Step, StepDuration};
use self::sink::DiskSink;
use crate::block::BLOCK_BYTES;
use crate::decode::{Copied, ImageReader, Limit};
use crate::device::{BlockDevice, Checked, ZeroMethod};
use crate::error::ImageError;
use crate::marker;
use crate::pack::{ChunkSource, Feed, Manifest};

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
    /// How hard to try.
    pub tuning: Tuning,
}

/// What was done, with the evidence.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Format of the image: `packed`, or the name of a [`crate::Format`].
    pub format: &'static str,
    /// Digest of the stored bytes, which matched; of a packed image that of its manifest.
    pub image_digest: String,
    /// Stored bytes that were downloaded, without a packed image's manifest.
    pub stored_bytes: u64,
    /// Size of the disk that the image describes.
    pub image_bytes: u64,
    /// Size of the disk.
    pub disk_bytes: u64,
    /// Size of the disk's sectors.
    pub sector_bytes: u32,
    /// Bytes of data written.
    pub written_bytes: u64,
    /// Bytes of data that the disk held already.
    pub reused_bytes: u64,
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
    /// What of the disk is its own and not the image's: another disk written from the same image is the same everywhere else.
    pub own_ranges: Vec<OwnRange>,
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

/// How long the caller's thread sleeps between two looks at how far the others are.
const LOOK: Duration = Duration::from_millis(100);

/// Writes, verifies and makes bootable. On an error after the first write the disk carries the in-progress marker and is not bootable.
pub fn write_image(
    image: Box<dyn ImageReader>,
    disk: &dyn BlockDevice,
    request: &WriteRequest,
    progress: &mut ProgressCallback<'_>,
) -> Result<Evidence, ImageError> {
    let (format, digest, granule) = (image.format(), image.digest().to_string(), image.granule());
    let source_name = image.source_name().to_owned();
    let facts = Facts {
        source_name: &source_name,
        format: format.as_str(),
        digest,
        head: image.head(),
        image_bytes: image.image_bytes(),
    };
    if granule < disk.sector_size() {
        return Err(ImageError::Unsupported {
            source_name,
            reason: format!(
                "its clusters of {granule} bytes are smaller than the disk's sectors of {}",
                disk.sector_size()
            ),
            remedy: "convert it with qemu-img convert -O qcow2 -o cluster_size=64k".to_owned(),
        });
    }
    // The callback's own lifetime is longer than the reporter's; a closure in between shortens it.
    let mut forward = |update: Progress| progress(update);
    let mut job = Job::begin(disk, request, &facts, &mut forward)?;
    let (source_name, format, digest) = (source_name.clone(), facts.format, facts.digest);

    let download = image.download();
    let total = download.as_ref().map(|d| d.total).or(image.image_bytes());
    job.reporter.begin(Step::Write, total)?;
    let engine = Engine::new(Checked(disk), job.settings(image.image_bytes()), None);
    let sink = DiskSink::new(&engine);
    let read = std::thread::scope(|scope| {
        for _ in 0..engine.workers {
            scope.spawn(|| engine.work());
        }
        let reading = scope.spawn(|| read_image(image, &sink, &engine, &source_name));
        let done = || download.as_ref().map_or_else(|| sink.came(), crate::decode::Download::passed);
        job.watch(&engine, done);
        reading.join()
    });
    let copied = match read {
        Ok(Ok(copied)) => copied,
        // Whoever else failed first made the reader stop.
        Ok(Err(ImageError::Cancelled)) | Err(_) => return Err(engine.finish().err().unwrap_or(ImageError::Cancelled)),
        Ok(Err(error)) => return Err(error),
    };
    let (totals, head) = engine.finish()?;
    if copied.image_bytes < job.plan.least_image_bytes {
        return Err(cut_off(&source_name, copied.image_bytes, job.plan.least_image_bytes));
    }
    if head != job.plan.image_head {
        let reason = "its first bytes were other ones before".to_owned();
        return Err(ImageError::SourceChanged { source_name, reason });
    }
    job.conclude(format, digest, copied, &totals)
}

fn read_image(image: Box<dyn ImageReader>, sink: &DiskSink<'_, '_>, engine: &Engine<'_>, source_name: &str) -> Result<Copied, ImageError> {
    let _alarm = Alarm(engine);
    let read = image.copy_to(sink).and_then(|copied| {
        if sink.came() == copied.image_bytes {
            return Ok(copied);
        }
        let reason = format!("{} of its {} bytes came out of it", sink.came(), copied.image_bytes);
        let source_name = source_name.to_owned();
        Err(ImageError::Corrupt { source_name, reason })
    });
    match &read {
        Ok(_) => engine.close(),
        Err(_) => engine.fail(ImageError::Cancelled),
    }
    read
}

/// Writes a packed image. What the disk holds of it already, from an earlier image or from a write that was interrupted, is not fetched again.
/// Otherwise like [`write_image`].
pub fn write_packed(
    manifest: &Manifest,
    source: &dyn ChunkSource,
    disk: &dyn BlockDevice,
    request: &WriteRequest,
    progress: &mut ProgressCallback<'_>,
) -> Result<Evidence, ImageError> {
    if let Some(sector) = manifest.sector_bytes()
        && sector != disk.sector_size()
    {
        return Err(ImageError::SectorSizeMismatch {
            source_name: source.name().to_owned(),
            table: "manifest",
            image: sector,
            disk: disk.name().to_owned(),
            actual: disk.sector_size(),
        });
    }
    limit_of(disk).check(source.name(), manifest.disk_bytes())?;
    let ahead = Ahead::new(manifest, source);
    let (feed, takers) = match source.feed() {
        Some(feed) => (feed, 1),
        None => (&ahead as &dyn Feed, Ahead::connections()),
    };
    let mut chunks = Chunks::new(manifest, source, feed);
    let first = chunks.first()?;
    let facts = Facts {
        source_name: source.name(),
        format: "packed",
        digest: manifest.digest().to_string(),
        head: &first,
        image_bytes: Some(manifest.disk_bytes()),
    };
    let mut forward = |update: Progress| progress(update);
    let mut job = Job::begin(disk, request, &facts, &mut forward)?;
    job.reporter.begin(Step::Write, Some(manifest.data_bytes()))?;
    chunks.look(Checked(disk))?;
    let (spans, holes) = (chunks.work(), chunks.holes());
    let engine = Engine::new(Checked(disk), job.settings(Some(manifest.data_bytes())), Some(chunks));
    for hole in holes {
        engine.zero(hole.start, hole.end - hole.start)?;
    }
    let left = AtomicUsize::new(takers);
    std::thread::scope(|scope| {
        for _ in 0..engine.workers {
            scope.spawn(|| engine.work());
        }
        let _alarm = Alarm(&engine);
        let put = || {
            let parts = first.chunks(BLOCK_BYTES).enumerate();
            for (number, part) in parts.filter(|_| manifest.chunk(0).is_some()) {
                let mut block = engine.pool.take()?;
                block.append(part);
                engine.put((number * BLOCK_BYTES) as u64, block)?;
            }
            spans.iter().try_for_each(|span: &Range<usize>| engine.put_span(span.clone()))
        };
        match put() {
            Ok(()) => {
                for _ in 0..takers {
                    scope.spawn(|| take_frames(feed, &engine, &left));
                }
            }
            Err(error) => engine.fail(error),
        }
        job.watch(&engine, || engine.totals().covered);
        feed.stop();
    });
    let fetched = engine.fetched();
    let (totals, _) = engine.finish()?;
    let copied = Copied {
        image_bytes: manifest.disk_bytes(),
        stored_bytes: fetched,
    };
    job.conclude("packed", facts.digest, copied, &totals)
}

/// One of the threads that bring frames; `left` counts those that still do, and the last one closes the engine.
fn take_frames(feed: &dyn Feed, engine: &Engine<'_>, left: &AtomicUsize) {
    let _alarm = Alarm(engine);
    loop {
        match feed.next() {
            Ok(Some((place, frame))) => {
                if engine.put_frame(place, frame).is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => return engine.fail(error),
        }
    }
    if left.fetch_sub(1, Ordering::AcqRel) == 1 {
        engine.close();
    }
}

/// What has to be known of an image before anything is written.
struct Facts<'a> {
    source_name: &'a str,
    format: &'static str,
    digest: String,
    head: &'a [u8],
    image_bytes: Option<u64>,
}

/// A write under way, from the marker to the first sector.
struct Job<'a, 'p> {
    disk: &'a dyn BlockDevice,
    request: &'a WriteRequest,
    plan: Plan,
    marker: [u8; marker::MARKER_BYTES],
    zero_method: ZeroMethod,
    reporter: Reporter<'p>,
    started: Instant,
}

impl<'a, 'p> Job<'a, 'p> {
    /// Refuses what can be refused, then does lines 1 and 2.
    fn begin(
        disk: &'a dyn BlockDevice,
        request: &'a WriteRequest,
        facts: &Facts<'_>,
        progress: &'p mut ProgressCallback<'p>,
    ) -> Result<Self, ImageError> {
        let geometry = Geometry {
            disk: disk.name(),
            size: disk.size(),
            sector_size: disk.sector_size(),
        };
        let plan = Plan::make(
            facts.source_name,
            facts.head,
            facts.image_bytes,
            request.config_drive.as_ref(),
            &geometry,
        )?;
        let mut job = Self {
            disk,
            request,
            plan,
            marker: marker::encode(&request.marker)?,
            zero_method: ZeroMethod::Write,
            reporter: Reporter::new(progress),
            started: Instant::now(),
        };
        job.reporter.begin(Step::Mark, None)?;
        job.ends().mark()?;
        job.reporter.begin(Step::ClearEnds, Some(2 * END_BYTES))?;
        job.zero_method = job.ends().clear_ends()?;
        job.reporter.at(Step::ClearEnds, 2 * END_BYTES)?;
        Ok(job)
    }

    fn ends(&self) -> Ends<'_> {
        Ends {
            disk: Checked(self.disk),
            plan: &self.plan,
            marker: self.marker,
        }
    }

    fn settings(&self, expected: Option<u64>) -> Settings {
        Settings {
            zero_method: self.zero_method,
            left_out: self.plan.left_out.clone(),
            expected,
            tuning: self.request.tuning,
        }
    }

    /// Tells the caller how far it is until everything is done or failed.
    fn watch(&mut self, engine: &Engine<'_>, written: impl Fn() -> u64) {
        let mut verifying = false;
        loop {
            let ended = engine.wait(LOOK);
            let told = if engine.is_written() && !verifying {
                verifying = true;
                self.reporter
                    .at(Step::Write, written())
                    .and_then(|()| self.reporter.begin(Step::Verify, Some(engine.totals().covered)))
            } else if verifying {
                self.reporter.at(Step::Verify, engine.totals().verified)
            } else {
                self.reporter.at(Step::Write, written())
            };
            if let Err(error) = told {
                engine.fail(error);
            }
            if ended {
                return;
            }
        }
    }

    /// Lines 4 to 7.
    fn conclude(mut self, format: &'static str, image_digest: String, copied: Copied, totals: &Totals) -> Result<Evidence, ImageError> {
        self.ends().check_marked()?;
        let mut verified = totals.verified;
        if let (Some(place), Some(drive)) = (self.plan.config_drive, &self.request.config_drive) {
            self.reporter.begin(Step::ConfigDrive, Some(place.length))?;
            verified += self.ends().config_drive(place, drive)?;
            self.reporter.at(Step::ConfigDrive, place.length)?;
        }
        if let Some((offset, bytes)) = self.plan.backup.clone() {
            self.reporter.begin(Step::BackupTable, Some(bytes.len() as u64))?;
            verified += self.ends().durable(offset, &bytes, "backup partition table")?;
            self.reporter.at(Step::BackupTable, bytes.len() as u64)?;
        }
        self.reporter.begin(Step::FirstSectors, Some(FIRST_BYTES as u64))?;
        verified += self.ends().first_sectors()?;
        self.reporter.at(Step::FirstSectors, FIRST_BYTES as u64)?;
        self.reporter.end();
        if let Err(error) = self.disk.reread_partition_table() {
            tracing::warn!(disk = self.disk.name(), %error, "the kernel did not read the new partition table; it will at the next boot");
        }
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(Evidence {
            format,
            image_digest,
            stored_bytes: copied.stored_bytes,
            image_bytes: copied.image_bytes,
            disk_bytes: self.disk.size(),
            sector_bytes: self.disk.sector_size(),
            written_bytes: totals.written,
            reused_bytes: totals.reused,
            zeroed_bytes: totals.zeroed,
            verified_bytes: verified,
            written_digest: totals.written_sum.text(),
            read_back_digest: totals.read_sum.text(),
            zeroing_offloaded: self.zero_method == ZeroMethod::Offload,
            partition_table: self.plan.table,
            config_drive: self.plan.config_drive,
            own_ranges: own::own_ranges(&self.plan, self.disk.size(), self.disk.sector_size(), copied.image_bytes),
            steps: self.reporter.durations,
            seconds,
            mebibytes_per_second: copied.image_bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9),
        })
    }
}
