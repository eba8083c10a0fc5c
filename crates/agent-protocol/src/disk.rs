//! Disks as a machine reports them: a stable identity, a geometry, and what they hold.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What names a disk across reboots and cabling. Every part that is present must agree for two to be the same disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskIdentity {
    /// World Wide Name, NAA or EUI-64, as `0x...`, or an NVMe `eui.`/`uuid.` name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// Serial number as the device says it, trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Model as the device says it, trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Where it is plugged in, in udev's `by-path` form, e.g. `pci-0000:00:04.0-ata-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_path: Option<String>,
}

impl DiskIdentity {
    /// Whether the identity follows the disk itself (WWN or serial), not only the place where it is plugged in.
    pub fn follows_the_disk(&self) -> bool {
        self.wwn.is_some() || self.serial.is_some()
    }

    /// Whether both may be the same disk: the strongest name that both have decides (WWN, then serial with model, then place).
    pub fn same_disk(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (&self.wwn, &other.wwn) {
            return a == b && self.serial_agrees(other);
        }
        if let (Some(a), Some(b)) = (&self.serial, &other.serial) {
            return a == b && self.model == other.model;
        }
        match (&self.by_path, &other.by_path) {
            (Some(a), Some(b)) => a == b && !self.follows_the_disk() && !other.follows_the_disk(),
            _ => false,
        }
    }

    /// Whether this, as an entry of a list of protected disks, covers `disk`: every part that the entry names is the disk's. An entry without parts
    /// covers nothing.
    pub fn covers(&self, disk: &Self) -> bool {
        let agrees = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
        let any = self.wwn.is_some() || self.serial.is_some() || self.model.is_some() || self.by_path.is_some();
        any && agrees(&self.wwn, &disk.wwn)
            && agrees(&self.serial, &disk.serial)
            && agrees(&self.model, &disk.model)
            && agrees(&self.by_path, &disk.by_path)
    }

    fn serial_agrees(&self, other: &Self) -> bool {
        match (&self.serial, &other.serial) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
    }

    /// The strongest name, for people: `wwn 0x5000...`, `serial S3Z...` or `path pci-...`.
    pub fn label(&self) -> String {
        if let Some(wwn) = &self.wwn {
            format!("wwn {wwn}")
        } else if let Some(serial) = &self.serial {
            format!("serial {serial}")
        } else if let Some(path) = &self.by_path {
            format!("path {path}")
        } else {
            "unnamed disk".to_owned()
        }
    }
}

/// How a disk keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DiskKind {
    /// Rotating.
    HDD,
    /// Solid state behind SATA, SAS or virtio.
    SSD,
    /// NVMe namespace.
    NVMe,
    /// eMMC or SD.
    MMC,
    /// Anything else.
    Other,
}

/// One block device that could hold an operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The kernel's name at this boot (`sda`). Not stable: for people only.
    pub name: String,
    /// What names it across boots.
    pub identity: DiskIdentity,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical sector size in bytes.
    pub logical_sector_bytes: u32,
    /// Physical sector size in bytes.
    pub physical_sector_bytes: u32,
    /// How it keeps data.
    pub kind: DiskKind,
    /// Transport in lower case: `sata`, `sas`, `nvme`, `virtio`, `usb`, `iscsi`, `fc`, `mmc`, `scsi`.
    pub transport: String,
    /// Whether the medium can be taken out, or sits on a hot-plug bus such as USB.
    pub removable: bool,
    /// Whether it lives in another box (iSCSI, Fibre Channel, NVMe over Fabrics).
    pub remote: bool,
    /// Whether the kernel refuses writes.
    pub read_only: bool,
    /// Whether the device accepts discard. Says nothing of what is read afterwards.
    pub discard: bool,
    /// What it holds.
    pub contents: DiskContents,
}

impl Disk {
    /// A local SATA SSD with sectors of 512 bytes that can be written, takes discards and holds nothing: what simulated machines and tests begin with.
    pub fn blank(name: &str, identity: DiskIdentity, size_bytes: u64) -> Self {
        Self {
            name: name.to_owned(),
            identity,
            size_bytes,
            logical_sector_bytes: 512,
            physical_sector_bytes: 512,
            kind: DiskKind::SSD,
            transport: "sata".to_owned(),
            removable: false,
            remote: false,
            read_only: false,
            discard: true,
            contents: DiskContents::blank(),
        }
    }
}

/// The answer to "what does this disk hold?"
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ContentsState {
    /// Every place where a partition table, file system, RAID, LVM or LUKS header could be is free of one, and the sampled blocks are zero (or of one repeated byte).
    Blank,
    /// Something that is not ours.
    Foreign,
    /// A finished installation of ours: its marker was found and is whole.
    Marked,
    /// A write or an erase of ours began and did not end.
    Interrupted,
    /// The disk could not be read.
    Unreadable,
}

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskContents {
    /// The answer in one word.
    pub state: ContentsState,
    /// Lower-case hexadecimal SHA-256 over the sorted signatures (kind, offset, UUID, label). Names these contents in a consent and in an order;
    /// stays the same when the installed system merely ran.
    pub fingerprint: String,
    /// What was recognised, for people and for the fingerprint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
    /// Our marker, for `Marked` and `Interrupted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<DiskMarker>,
}

impl DiskContents {
    /// A blank disk.
    pub fn blank() -> Self {
        use sha2::{Digest, Sha256};
        Self {
            state: ContentsState::Blank,
            fingerprint: hex::encode(Sha256::digest(b"")),
            signatures: Vec::new(),
            marker: None,
        }
    }
}

/// One thing found on a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// `gpt`, `mbr`, `ext4`, `xfs`, `btrfs`, `vfat`, `ntfs`, `swap`, `lvm2`, `luks`, `mdraid`, `zfs`, `bcache`, `data`, ...
    pub kind: String,
    /// Byte offset of the container (disk or partition) in which it was found.
    pub offset: u64,
    /// Its UUID or disk id, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Its label or partition name, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// What an order of ours leaves on a disk to say whose the contents are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskMarker {
    /// UID of the BareMetalInstance for which the disk was written. For an erase without a claim: empty.
    #[serde(default)]
    pub instance_uid: String,
    /// Namespace and name of the instance, `namespace/name`.
    #[serde(default)]
    pub instance: String,
    /// Name of the BareMetalHardware.
    pub hardware: String,
    /// Digest of the image, `sha256:...`. Empty for an erase.
    #[serde(default)]
    pub image_digest: String,
    /// The order that wrote it.
    pub order_id: String,
}
