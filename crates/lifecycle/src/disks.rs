//! Which disk takes the operating system? The one that the hints name, else the smallest that may be touched at all. Two candidates for a hint are an
//! error, never a guess.

use agent_protocol::{
    disk::{Disk, DiskKind},
    inventory::Inventory,
};
use api::{
    BareMetalHardwareSpec,
    hardware::{DiskHint, SelectedDisk},
};

/// Why no disk can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The machine has no disk that may be touched.
    #[error("the machine has no disk that can take an operating system ({0}): add a disk, or take one off spec.protectedDisks")]
    NoneUsable(String),
    /// The hint matches nothing.
    #[error("spec.rootDisk matches no usable disk; the machine has {0}: correct spec.rootDisk")]
    NoMatch(String),
    /// The hint matches several.
    #[error("spec.rootDisk matches {count} disks: {found}. Name one of them by wwn, serial or byPath in spec.rootDisk")]
    Ambiguous {
        /// How many.
        count: usize,
        /// Which.
        found: String,
    },
    /// Two disks say the same WWN or serial: an order could not tell them apart.
    #[error("{0} disks of this machine have the same identity ({1}); an order could not tell them apart: remove or protect one")]
    Indistinct(usize, String),
}

impl DiskError {
    /// The condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoneUsable(_) => "NoUsableDisk",
            Self::NoMatch(_) => "DiskNotFound",
            Self::Ambiguous { .. } => "DiskAmbiguous",
            Self::Indistinct(..) => "DiskIndistinct",
        }
    }
}

/// Bytes for people.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            #[allow(clippy::cast_precision_loss)] // one decimal for people
            return format!("{:.1} {unit}", bytes as f64 / size as f64);
        }
    }
    format!("{bytes} B")
}

fn describe(disks: &[&Disk]) -> String {
    if disks.is_empty() {
        return "no disks".to_owned();
    }
    // A machine with a hundred disks shall not fill the message.
    let shown: Vec<String> = disks
        .iter()
        .take(6)
        .map(|d| format!("{} ({}, {})", d.name, d.identity.label(), bytes_text(d.size_bytes)))
        .collect();
    let more = disks.len().saturating_sub(shown.len());
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(", "))
}

/// Why a disk may not be touched; `None` when it may.
pub fn why_untouchable(disk: &Disk, spec: &BareMetalHardwareSpec) -> Option<&'static str> {
    let named = disk.identity.follows_the_disk() || disk.identity.by_path.is_some();
    let protected = spec.protected_disks.iter().any(|p| p.covers(&disk.identity));
    if protected {
        Some("protected")
    } else if disk.removable {
        Some("removable")
    } else if disk.remote {
        Some("remote")
    } else if disk.read_only {
        Some("read-only")
    } else if !named {
        Some("without an identity")
    } else if disk.size_bytes == 0 {
        Some("empty")
    } else {
        None
    }
}

fn matches(hint: &DiskHint, disk: &Disk) -> bool {
    let text = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
    text(&hint.wwn, &disk.identity.wwn)
        && text(&hint.serial, &disk.identity.serial)
        && text(&hint.model, &disk.identity.model)
        && text(&hint.by_path, &disk.identity.by_path)
        && hint.kind.is_none_or(|k| k == disk.kind)
        && hint.min_size_bytes.is_none_or(|b| disk.size_bytes >= b)
}

fn rank(kind: DiskKind) -> u8 {
    match kind {
        DiskKind::NVMe => 0,
        DiskKind::SSD => 1,
        DiskKind::HDD => 2,
        DiskKind::MMC => 3,
        DiskKind::Other => 4,
    }
}

/// Chooses the root disk.
///
/// # Errors
/// [`DiskError`] as its variants say; the message names the field to correct.
pub fn choose<'a>(spec: &BareMetalHardwareSpec, inventory: &'a Inventory) -> Result<&'a Disk, DiskError> {
    let all: Vec<&Disk> = inventory.disks.iter().collect();
    let usable: Vec<&Disk> = all.iter().copied().filter(|d| why_untouchable(d, spec).is_none()).collect();
    let chosen = if let Some(hint) = &spec.root_disk {
        let found: Vec<&Disk> = usable.iter().copied().filter(|d| matches(hint, d)).collect();
        match found.as_slice() {
            [] => return Err(DiskError::NoMatch(describe(&usable))),
            [one] => *one,
            many => {
                return Err(DiskError::Ambiguous {
                    count: many.len(),
                    found: describe(many),
                });
            }
        }
    } else {
        let key = |d: &&Disk| (d.size_bytes, rank(d.kind), d.identity.clone());
        let reasons = || {
            let why: Vec<String> = all
                .iter()
                .take(6)
                .filter_map(|d| why_untouchable(d, spec).map(|w| format!("{} is {w}", d.name)))
                .collect();
            if why.is_empty() { "no disks".to_owned() } else { why.join(", ") }
        };
        usable
            .iter()
            .copied()
            .min_by_key(key)
            .ok_or_else(|| DiskError::NoneUsable(reasons()))?
    };
    let twins = all.iter().filter(|d| d.identity.same_disk(&chosen.identity)).count();
    if twins > 1 {
        return Err(DiskError::Indistinct(twins, chosen.identity.label()));
    }
    Ok(chosen)
}

/// A disk as the status names it.
pub fn selected(disk: &Disk) -> SelectedDisk {
    SelectedDisk {
        identity: disk.identity.clone(),
        size_bytes: disk.size_bytes,
        logical_sector_bytes: disk.logical_sector_bytes,
    }
}
