//! Orders and answers.
//!
//! A destructive order (`Erase`, `Image`) exists only where the operator wrote it into `BareMetalHardware.status.order`; it names the disk
//! by identity **and** what the disk may hold. The agent looks first, and refuses when anything differs. Non-destructive orders (`Wait`,
//! `Reboot`, `PowerOff`) may be derived by the server from stored objects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::disk::{ContentsState, DiskContents, DiskIdentity, DiskMarker};

/// What an order asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OrderKind {
    /// Nothing to do; ask again (long poll).
    Wait,
    /// Remove everything from the disk, with evidence.
    Erase,
    /// Write an image, verify it, add the config drive, make the disk bootable.
    Image,
    /// Restart.
    Reboot,
    /// Switch off.
    PowerOff,
}

impl OrderKind {
    /// Whether obeying changes what a disk holds.
    pub fn is_destructive(self) -> bool {
        matches!(self, Self::Erase | Self::Image)
    }
}

/// What the next boot should reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RebootTarget {
    /// The machine's own disk.
    Disk,
    /// The agent again.
    Agent,
}

/// Which of its boot entries firmware is to try first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BootOrder {
    /// The network, then the disk: the machine asks at each boot, and comes back by itself.
    NetworkFirst,
    /// The disk, then the network: the machine starts without the server, and comes back when its guest helper sends it once to the network.
    DiskFirst,
}

/// One order. Flat, so that it can stand in a CRD; which parts are present follows from `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Unique over all time; results and evidence carry it.
    pub id: String,
    /// What to do.
    pub kind: OrderKind,
    /// For whom. Absent for an order without a claim (first cleaning, wait).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Name of the BareMetalHardware.
    #[serde(default)]
    pub hardware: String,
    /// On which disk. Present for destructive orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskTarget>,
    /// Disks that are never changed, whatever this order says of its target: the machine refuses on its own as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub protected: Vec<DiskIdentity>,
    /// For `Image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageParameters>,
    /// For `Erase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<EraseParameters>,
    /// For `Reboot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<RebootTarget>,
    /// For `Image` and `Erase` on a machine with UEFI: the order of boot entries that it leaves behind. Left out: the network first after an image, and nothing is touched after an erase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<BootOrder>,
}

impl Order {
    /// The order that asks for nothing.
    pub fn wait() -> Self {
        Self {
            id: String::new(),
            kind: OrderKind::Wait,
            claim: None,
            hardware: String::new(),
            disk: None,
            protected: Vec::new(),
            image: None,
            erase: None,
            reboot: None,
            boot_order: None,
        }
    }
}

/// Which instance an order serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Namespace of the BareMetalInstance.
    pub namespace: String,
    /// Name of the BareMetalInstance.
    pub name: String,
    /// UID of the BareMetalInstance.
    pub uid: String,
}

/// A disk, and what it may hold when the order starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskTarget {
    /// Which disk.
    pub identity: DiskIdentity,
    /// Its size in bytes; another size is another disk.
    pub size_bytes: u64,
    /// What it may hold, any of these. Beside them, contents that this very order left behind when it was interrupted.
    pub expected: Vec<ExpectedContents>,
}

/// One permitted state of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedContents {
    /// The state.
    pub state: ContentsState,
    /// For `Foreign`: the fingerprint of the contents that somebody gave up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// For `Marked` and `Interrupted`: the instance whose installation it is. Empty string: of an erase without a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_uid: Option<String>,
}

impl ExpectedContents {
    /// Whether `found` is what this entry permits. Unreadable contents are never permitted.
    pub fn permits(&self, found: &DiskContents) -> bool {
        if self.state != found.state {
            return false;
        }
        match self.state {
            ContentsState::Blank => true,
            ContentsState::Foreign => self.fingerprint.as_deref() == Some(found.fingerprint.as_str()),
            ContentsState::Marked | ContentsState::Interrupted => match (&self.instance_uid, &found.marker) {
                (Some(uid), Some(marker)) => *uid == marker.instance_uid,
                _ => false,
            },
            ContentsState::Unreadable => false,
        }
    }
}

impl DiskTarget {
    /// Whether an order `order_id` may act on a disk that holds `found`: permitted by an entry, or left behind by this very order.
    pub fn permits(&self, order_id: &str, found: &DiskContents) -> bool {
        let own = found
            .marker
            .as_ref()
            .is_some_and(|m: &DiskMarker| !order_id.is_empty() && m.order_id == order_id);
        (own && matches!(found.state, ContentsState::Interrupted | ContentsState::Marked)) || self.expected.iter().any(|e| e.permits(found))
    }
}

/// Format of an image as its BareMetalImage declares it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ImageFormat {
    /// Bytes of the disk.
    #[default]
    Raw,
    /// gzip of the bytes of the disk.
    Gzip,
    /// xz of the bytes of the disk.
    Xz,
    /// zstd of the bytes of the disk.
    Zstd,
    /// QEMU copy-on-write version 2 or 3.
    Qcow2,
    /// A packed image: a manifest and its chunks. No order carries it: there [`ImageParameters::packed`] says it, so that an older agent can read the order and refuse it with words.
    Packed,
}

/// What to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageParameters {
    /// Where it comes from: `http://` or `https://`.
    pub url: String,
    /// Further URLs of the same bytes, asked in turn when that one fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub mirrors: Vec<String>,
    /// `sha256:` or `sha512:` and lower-case hexadecimal, over the bytes as served.
    pub digest: String,
    /// Declared format; must equal what the first bytes say.
    pub format: ImageFormat,
    /// Whether to add a config drive, filled from the sealed seed.
    pub config_drive: bool,
    /// The same image packed, in an image store: what an agent that knows packed images writes. One that does not takes the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedSource>,
}

/// A packed image and where it lies. The digest came over the pinned channel; its bytes may come from anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackedSource {
    /// `blake3:` and 64 lower-case hexadecimal digits, over the bytes of `manifest.json`.
    pub digest: String,
    /// Base URLs, each followed by `/manifest.json` and `/chunks`; tried in turn. The agent adds those of its own servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub urls: Vec<String>,
}

impl PackedSource {
    /// The hexadecimal digits of the digest, by which stores name the image.
    pub fn hex(&self) -> Option<&str> {
        let hex = self.digest.strip_prefix("blake3:")?;
        let plain = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then_some(hex)
    }
}

/// How strong an erase has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EraseMethod {
    /// Discard where the device honours it (proven by canaries and samples), else overwrite.
    Quick,
    /// Overwrite every byte with zeros.
    Overwrite,
}

/// What is known of an erase afterwards, never more than was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EraseStrength {
    /// The device was told to discard and reads back without the old data; the medium may still hold it.
    Discarded,
    /// Every addressable byte was overwritten; spare areas may still hold old data.
    Overwritten,
}

/// Parameters of an erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EraseParameters {
    /// How strong.
    pub method: EraseMethod,
}

/// Proof of an erase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EraseEvidence {
    /// Which order.
    pub order_id: String,
    /// UID of the claim it ended; empty for a cleaning without a claim.
    #[serde(default)]
    pub claim_uid: String,
    /// Which disk.
    pub disk: DiskIdentity,
    /// Size of the disk in bytes.
    pub size_bytes: u64,
    /// What was done, in words: `BLKDISCARD + zeroed ends`, `write zeros`.
    pub method: String,
    /// What it is worth.
    pub strength: EraseStrength,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Blocks of 4 KiB that were read back.
    pub sampled_blocks: u32,
    /// Canary blocks that were written before and were gone afterwards.
    pub canaries: u32,
}

/// Proof of a written image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageEvidence {
    /// Which order.
    pub order_id: String,
    /// Which disk.
    pub disk: DiskIdentity,
    /// Digest of the bytes as served; equals the order's.
    pub digest: String,
    /// Bytes written to the disk.
    pub written_bytes: u64,
    /// Bytes read back with direct I/O and compared.
    pub verified_bytes: u64,
    /// Bytes that were fetched for it, where the agent says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_bytes: Option<u64>,
    /// Bytes that the disk held already, from an earlier installation or a write that was interrupted, where the agent says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reused_bytes: Option<u64>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What became of the config drive: `partition 15 at the end (GPT)`, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<String>,
    /// Size of the disk's sectors in bytes, which `ownRanges` counts in.
    #[serde(default)]
    pub sector_bytes: u32,
    /// What of the disk is this machine's own. Two disks written from one image are the same everywhere else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub own_ranges: Vec<OwnRange>,
    /// EFI boot entry, where one was set: `Boot0004 \EFI\debian\shimx64.efi`, followed by `, first` where the boot order was read back with it before all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_entry: Option<String>,
}

/// A part of a disk that is the machine's own, and not the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OwnPart {
    /// Sector 0, where its protective or real master boot record was changed for this disk.
    BootSector,
    /// Sectors of the primary GPT that were changed for this disk.
    PrimaryTable,
    /// The config drive's partition.
    ConfigDrive,
    /// The backup GPT at the end of this disk.
    BackupTable,
    /// Behind the image, where nothing was written: what was there before.
    Unwritten,
}

/// A range of such a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnRange {
    /// What it is.
    pub part: OwnPart,
    /// First sector.
    pub first_lba: u64,
    /// Last sector; it belongs to the range.
    pub last_lba: u64,
}

/// What an agent is doing within an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Step {
    /// Looking at the disk, fetching the seed.
    Preparing,
    /// Making the disk read as zeros, or finding out what of it is right already.
    Discarding,
    /// Downloading and writing.
    Writing,
    /// Reading back.
    Verifying,
    /// Config drive, partition tables, EFI boot entries.
    Configuring,
    /// Erasing.
    Erasing,
    /// Reading samples back after an erase.
    Sampling,
}

/// How far an order has come. A hint: it may be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Which step.
    pub step: Step,
    /// Bytes done in this step.
    pub done_bytes: u64,
    /// Bytes to do in this step, where known; else 0.
    pub total_bytes: u64,
    /// How fast this step goes at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How long this step still takes at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u32>,
    /// Where the image comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ProgressSource>,
}

/// Where the bytes of an image come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ProgressSource {
    /// The URL of the image or an image store.
    Server,
    /// Mostly other machines that write the same image.
    Peers,
}

impl Progress {
    /// At the beginning of a step of which no size is known.
    pub fn begin(step: Step) -> Self {
        Self::of(step, 0, 0)
    }

    /// So far within a step.
    pub fn of(step: Step, done_bytes: u64, total_bytes: u64) -> Self {
        Self {
            step,
            done_bytes,
            total_bytes,
            bytes_per_second: None,
            remaining_seconds: None,
            source: None,
        }
    }
}

/// How an order ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// Done, with evidence.
    Succeeded,
    /// Not begun: something differs from what the order says. Nothing was changed.
    Refused,
    /// Begun and not finished. The disk is not bootable.
    Failed,
}

/// What went wrong, as a closed list; condition reasons are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FaultReason {
    /// No disk has the identity in the order.
    DiskNotFound,
    /// More than one disk has it.
    DiskAmbiguous,
    /// The disk has another size.
    DiskSizeMismatch,
    /// The disk holds something the order does not name.
    UnexpectedContents,
    /// The disk is removable, remote or read-only.
    DiskProtected,
    /// The image's server could not be reached or answered with an error.
    ImageUnreachable,
    /// The download ended early.
    ImageTruncated,
    /// The bytes are not those the digest names.
    ImageDigestMismatch,
    /// The image is of another format than declared.
    ImageFormatMismatch,
    /// The image uses a feature that is refused.
    ImageUnsupported,
    /// Image, config drive and backup table do not fit.
    ImageTooLarge,
    /// Image and disk disagree about the sector size.
    SectorSizeMismatch,
    /// There is no place for a config drive.
    NoRoomForConfigDrive,
    /// The seed could not be had or opened.
    SeedUnavailable,
    /// The disk failed to read or write.
    DiskIO,
    /// What was read back differs from what was written.
    VerifyMismatch,
    /// Samples or canaries were still there after an erase.
    EraseNotProven,
    /// The agent itself failed.
    Internal,
}

/// A fault with its words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Which.
    pub reason: FaultReason,
    /// What failed, on what, and what to do next.
    pub message: String,
}

/// The end of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrderResult {
    /// Which order.
    pub order_id: String,
    /// Which kind it was.
    pub kind: OrderKind,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, unless it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// For a successful `Image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageEvidence>,
    /// For a successful `Erase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erase: Option<EraseEvidence>,
    /// What the disk holds now, where it could be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<DiskContents>,
}

/// `POST /agent/v1/reports`. Exactly one of the two is present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Which order; must be the one this session accepted.
    pub order_id: String,
    /// A hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The end. Answered only when it is stored; repeating it is harmless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<OrderResult>,
}
