//! An order of kind `Image`, from the target check to the evidence.
//!
//! Order of things: the target is found and protection checked; seed and config drive are made ready; the disk is opened exclusively and looked
//! at; the image is opened (format, size); only then the first write. Whatever can be refused is refused while nothing has changed.
//!
//! After the image writer has put the first sector in place the disk is bootable, and nothing afterwards can fail the order: when firmware
//! refuses a boot entry, that is logged and the evidence has none; the network, which stays first, still leads to the disk.
//!
//! Without a config drive there is no place for the finished marker: the disk then reads as `Foreign` with the fingerprint that stands in
//! the result's contents.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use agent_protocol::{
    disk::{Disk, DiskContents, DiskIdentity},
    inventory::FirmwareMode,
    order::{BootOrder, ImageEvidence, ImageFormat, ImageParameters, Order, OrderKind, OrderResult, OwnPart, OwnRange, Progress, Step},
    seed::Seed,
};
use image::{
    Digest, Evidence, Format, ImageError, ProgressCallback, Source, WriteRequest,
    pack::{ChunkSource, Manifest},
};

use crate::{
    config_drive::{BootFacts, ConfigDrive},
    contents,
    devices::Devices,
    efi::{self, EfiVariables},
    erase::in_progress_payload,
    error::MachineError,
    order::{incomplete, marker, prepare, successful, unsuccessful},
};

/// Where the bytes of an image come from.
pub enum ImageSource {
    /// As one file, which the order names by URL, digest and format.
    Stream(Box<dyn Source>),
    /// As chunks, of which the disk may hold some already. The manifest is the one that the order names.
    Packed(Box<Manifest>, Box<dyn ChunkSource>),
}

/// All that an `Image` order needs.
pub struct ImageJob<'a> {
    /// The order.
    pub order: &'a Order,
    /// The disks of this boot's inventory.
    pub disks: &'a [Disk],
    /// Disks that are never changed, whatever an order says.
    pub protected: &'a [DiskIdentity],
    /// How disks are opened.
    pub devices: &'a dyn Devices,
    /// Where the image comes from.
    pub source: ImageSource,
    /// The opened seed. Needed when the order wants a config drive.
    pub seed: Option<&'a Seed>,
    /// The guest helper's binary. Needed when the seed wants it on the drive.
    pub guest_helper: Option<&'a [u8]>,
    /// Firmware variables; `None` on a BIOS machine.
    pub efi: Option<&'a EfiVariables>,
    /// Set it to stop; the disk then stays marked as in progress.
    pub cancel: &'a AtomicBool,
}

/// Runs the order. Every error becomes a result.
pub fn run_image(job: ImageJob<'_>, progress: &mut dyn FnMut(Progress)) -> OrderResult {
    let order = job.order;
    let mut state = State::default();
    match run(job, progress, &mut state) {
        Ok(result) => result,
        Err(error) => unsuccessful(order, &error, state.began, state.contents),
    }
}

/// What is known when an error comes.
#[derive(Default)]
struct State {
    began: bool,
    contents: Option<DiskContents>,
}

fn run(job: ImageJob<'_>, progress: &mut dyn FnMut(Progress), state: &mut State) -> Result<OrderResult, MachineError> {
    let started = Instant::now();
    let order = job.order;
    if order.kind != OrderKind::Image {
        return Err(incomplete(order, "kind Image"));
    }
    let parameters = order.image.as_ref().ok_or_else(|| incomplete(order, "image"))?;
    progress(Progress::begin(Step::Preparing));
    let ready = prepare(order, job.disks, job.protected, job.devices, &mut state.contents)?;
    let device = ready.device.as_ref();
    let marker = marker(order, &parameters.digest);
    let facts = boot_facts(job.efi);
    let config_drive = match drive_files(parameters, job.seed, job.guest_helper, &facts)? {
        None => None,
        Some(drive) => Some(image::ConfigDrive {
            bytes: drive.build(device.sector_size(), &marker)?,
            partition_guid: uuid::Uuid::new_v4().to_bytes_le(),
        }),
    };
    let request = WriteRequest {
        marker: in_progress_payload(&marker)?,
        config_drive,
        ..WriteRequest::default()
    };
    let mut reported = |update| {
        state.began = true;
        progress(translate(update));
        if job.cancel.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let written = match job.source {
        ImageSource::Stream(source) => {
            let format = format(parameters.format).ok_or_else(|| incomplete(order, "image.packed"))?;
            let image = image::open(source, &Digest::parse(&parameters.digest)?, Some(format), &image::limit_of(device))?;
            image::write_image(image, device, &request, &mut reported)
        }
        ImageSource::Packed(manifest, chunks) => write_packed(parameters, &manifest, chunks.as_ref(), device, &request, &mut reported),
    };
    // In either case: what it holds now is part of the result.
    let found = contents::probe(device);
    state.contents = Some(found.clone());
    let evidence = written?;
    progress(Progress::begin(Step::Configuring));
    let boot_entry = job.efi.and_then(|variables| boot_entry(variables, device, order.boot_order));
    let drive = evidence.config_drive.map(|place| {
        format!(
            "partition {} at byte {}, {} MiB ({})",
            place.partition,
            place.offset,
            place.length >> 20,
            evidence.partition_table
        )
    });
    Ok(OrderResult {
        image: Some(ImageEvidence {
            order_id: order.id.clone(),
            disk: ready.disk.identity.clone(),
            // The image's own name, also where it came packed.
            digest: parameters.digest.clone(),
            written_bytes: evidence.written_bytes,
            verified_bytes: evidence.verified_bytes,
            fetched_bytes: Some(evidence.stored_bytes),
            reused_bytes: Some(evidence.reused_bytes),
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            config_drive: drive,
            sector_bytes: evidence.sector_bytes,
            own_ranges: evidence.own_ranges.iter().map(own_range).collect(),
            boot_entry,
        }),
        ..successful(order, found)
    })
}

fn own_range(range: &image::OwnRange) -> OwnRange {
    let part = match range.part {
        image::OwnPart::BootSector => OwnPart::BootSector,
        image::OwnPart::PrimaryTable => OwnPart::PrimaryTable,
        image::OwnPart::ConfigDrive => OwnPart::ConfigDrive,
        image::OwnPart::BackupTable => OwnPart::BackupTable,
        image::OwnPart::Unwritten => OwnPart::Unwritten,
    };
    OwnRange {
        part,
        first_lba: range.first_lba,
        last_lba: range.last_lba,
    }
}

/// Writes what the manifest says, if it is the one that the order names.
fn write_packed(
    parameters: &ImageParameters,
    manifest: &Manifest,
    chunks: &dyn ChunkSource,
    device: &dyn image::BlockDevice,
    request: &WriteRequest,
    progress: &mut ProgressCallback<'_>,
) -> Result<Evidence, ImageError> {
    let (expected, actual) = (parameters.packed.as_ref().map(|p| p.digest.as_str()), manifest.digest().to_string());
    if expected != Some(actual.as_str()) {
        return Err(ImageError::DigestMismatch {
            source_name: chunks.name().to_owned(),
            expected: expected.unwrap_or("none").to_owned(),
            actual,
        });
    }
    image::write_packed(manifest, chunks, device, request, progress)
}

fn drive_files<'a>(
    parameters: &ImageParameters,
    seed: Option<&'a Seed>,
    guest_helper: Option<&'a [u8]>,
    facts: &'a [u8],
) -> Result<Option<ConfigDrive<'a>>, MachineError> {
    if !parameters.config_drive {
        return Ok(None);
    }
    let seed = seed.ok_or(MachineError::NoSeed("there is no seed"))?;
    if seed.guest_helper && guest_helper.is_none() {
        return Err(MachineError::NoSeed(
            "the seed wants the guest helper and these boot media have none: build them again",
        ));
    }
    let facts = seed.guest_helper.then_some(facts);
    Ok(Some(ConfigDrive::new(seed, guest_helper, facts)?))
}

/// What the guest helper has to know about how this machine boots.
fn boot_facts(efi: Option<&EfiVariables>) -> Vec<u8> {
    let facts = BootFacts {
        firmware: if efi.is_some() { FirmwareMode::UEFI } else { FirmwareMode::BIOS },
        network_boot_entry: efi.and_then(|variables| variables.boot_current().ok().flatten()),
    };
    // Two fields of plain types: this cannot fail, and an empty file would only cost the helper its shortcut.
    serde_json::to_vec(&facts).unwrap_or_default()
}

fn boot_entry(variables: &EfiVariables, device: &dyn image::BlockDevice, order: Option<BootOrder>) -> Option<String> {
    match efi::install(variables, device, order.unwrap_or(BootOrder::NetworkFirst)) {
        Ok(entry) => entry.map(|e| crate::text::clip(&e.to_string(), agent_protocol::limits::MAX_STRING).to_owned()),
        Err(error) => {
            tracing::warn!(%error, "no EFI boot entry was set; the machine reaches its disk through the network's answer");
            None
        }
    }
}

fn translate(update: image::Progress) -> Progress {
    let step = match update.step {
        image::Step::Mark | image::Step::ClearEnds => Step::Preparing,
        image::Step::Write => Step::Writing,
        image::Step::Verify => Step::Verifying,
        image::Step::ConfigDrive | image::Step::BackupTable | image::Step::FirstSectors => Step::Configuring,
    };
    Progress::of(step, update.done, update.total.unwrap_or(0))
}

/// The format of a stream; a packed image is none.
fn format(declared: ImageFormat) -> Option<Format> {
    Some(match declared {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Gzip => Format::Gzip,
        ImageFormat::Xz => Format::Xz,
        ImageFormat::Zstd => Format::Zstd,
        ImageFormat::Qcow2 => Format::Qcow2,
        ImageFormat::Packed => return None,
    })
}

#[cfg(test)]
mod tests;
