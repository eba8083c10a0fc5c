//! From an order's words to one disk of this machine, or a refusal that says what differs and what to do.
//!
//! [`find`] names the disk by identity, size and protection, from the inventory. [`check_contents`] compares what is on it, and is called
//! with a fresh look right before the first write. Pure: no I/O.

use agent_protocol::{
    disk::{ContentsState, Disk, DiskContents, DiskIdentity},
    order::{DiskTarget, ExpectedContents, FaultReason},
};

use crate::contents::in_words;

/// Why an order is not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No disk has the identity.
    #[error("no disk of this machine is {wanted} (there are: {present}); plug the disk in again, or correct the root disk of the hardware")]
    NotFound {
        /// As ordered.
        wanted: String,
        /// What there is.
        present: String,
    },
    /// Several disks have it.
    #[error(
        "{count} disks of this machine are {wanted} ({names}); name the root disk of the hardware by WWN, serial or path so that one remains"
    )]
    Ambiguous {
        /// As ordered.
        wanted: String,
        /// How many.
        count: usize,
        /// Kernel names.
        names: String,
    },
    /// Another size.
    #[error(
        "disk {disk} has {found} bytes, the order says {expected}: it is not the disk that was accepted; put that disk back, or accept the hardware as it is now"
    )]
    SizeMismatch {
        /// The disk.
        disk: String,
        /// As found.
        found: u64,
        /// As ordered.
        expected: u64,
    },
    /// Not a disk that may be changed.
    #[error("disk {disk} is {why} and is never changed; choose another root disk for the hardware{remedy}")]
    Protected {
        /// The disk.
        disk: String,
        /// Removable, remote, read-only or protected.
        why: &'static str,
        /// What else may help.
        remedy: &'static str,
    },
    /// It holds something else.
    #[error("disk {disk} holds {found}, the order allows {expected}; {remedy}; nothing was changed")]
    UnexpectedContents {
        /// The disk.
        disk: String,
        /// In words.
        found: String,
        /// In words.
        expected: String,
        /// What to do.
        remedy: &'static str,
    },
}

impl Refusal {
    /// The reason under which it is reported.
    pub fn reason(&self) -> FaultReason {
        match self {
            Self::NotFound { .. } => FaultReason::DiskNotFound,
            Self::Ambiguous { .. } => FaultReason::DiskAmbiguous,
            Self::SizeMismatch { .. } => FaultReason::DiskSizeMismatch,
            Self::Protected { .. } => FaultReason::DiskProtected,
            Self::UnexpectedContents { .. } => FaultReason::UnexpectedContents,
        }
    }
}

/// The one disk that the order means.
///
/// # Errors
/// [`Refusal`] when there is none, more than one, one of another size, or one that may not be changed.
pub fn find<'a>(target: &DiskTarget, disks: &'a [Disk], protected: &[DiskIdentity]) -> Result<&'a Disk, Refusal> {
    let wanted = target.identity.label();
    let matching: Vec<&Disk> = disks.iter().filter(|d| is_meant(&target.identity, &d.identity)).collect();
    let disk = match matching.as_slice() {
        [] => {
            let mut present: Vec<String> = disks
                .iter()
                .take(16)
                .map(|d| format!("{} {}", d.name, d.identity.label()))
                .collect();
            if present.is_empty() {
                present.push("none".to_owned());
            }
            return Err(Refusal::NotFound {
                wanted,
                present: present.join(", "),
            });
        }
        [disk] => *disk,
        several => {
            let names: Vec<&str> = several.iter().map(|d| d.name.as_str()).collect();
            return Err(Refusal::Ambiguous {
                wanted,
                count: several.len(),
                names: names.join(", "),
            });
        }
    };
    if disk.size_bytes != target.size_bytes {
        return Err(Refusal::SizeMismatch {
            disk: name(disk),
            found: disk.size_bytes,
            expected: target.size_bytes,
        });
    }
    check_protection(disk, protected)?;
    Ok(disk)
}

/// `same_disk` decides by the strongest name that both have; beyond it, every part that the order names must agree, so that a clone of a
/// WWN in another slot is not the disk.
fn is_meant(wanted: &DiskIdentity, found: &DiskIdentity) -> bool {
    let agrees = |a: &Option<String>, b: &Option<String>| a.is_none() || b.is_none() || a == b;
    wanted.same_disk(found) && agrees(&wanted.serial, &found.serial) && agrees(&wanted.model, &found.model)
}

/// Refuses disks that no order may change.
///
/// # Errors
/// [`Refusal::Protected`].
pub fn check_protection(disk: &Disk, protected: &[DiskIdentity]) -> Result<(), Refusal> {
    let (why, remedy) = if protected.iter().any(|p| p.covers(&disk.identity)) {
        ("on the protect list", ", or take it off that list")
    } else if disk.removable {
        ("removable or on a hot-plug bus", "")
    } else if disk.remote {
        ("remote (it lives in another box)", "")
    } else if disk.read_only {
        ("read-only", ", or remove its write protection")
    } else {
        return Ok(());
    };
    Err(Refusal::Protected {
        disk: name(disk),
        why,
        remedy,
    })
}

/// Compares what is on the disk now with what the order allows.
///
/// # Errors
/// [`Refusal::UnexpectedContents`].
pub fn check_contents(order_id: &str, target: &DiskTarget, disk: &Disk, found: &DiskContents) -> Result<(), Refusal> {
    if target.permits(order_id, found) {
        return Ok(());
    }
    let mut expected: Vec<String> = target.expected.iter().map(expected_in_words).collect();
    if expected.is_empty() {
        expected.push("nothing".to_owned());
    }
    let remedy = match found.state {
        ContentsState::Foreign => "if the data may go, allow it for these contents (give up the fingerprint in the hardware, or by policy)",
        ContentsState::Marked | ContentsState::Interrupted => {
            "delete the instance it belongs to, or give the installation up in the hardware"
        }
        ContentsState::Unreadable => "check cable, controller and the health of the disk, or replace it",
        ContentsState::Blank => "the disk was emptied or exchanged meanwhile: accept the hardware as it is now",
    };
    Err(Refusal::UnexpectedContents {
        disk: name(disk),
        found: in_words(found),
        expected: expected.join(" or "),
        remedy,
    })
}

fn expected_in_words(expected: &ExpectedContents) -> String {
    let of = |uid: &Option<String>| match uid.as_deref() {
        None => "of a named instance".to_owned(),
        Some("") => "without a claim".to_owned(),
        Some(uid) => format!("of the instance with uid {uid}"),
    };
    match expected.state {
        ContentsState::Blank => "a blank disk".to_owned(),
        ContentsState::Foreign => {
            let print = expected.fingerprint.as_deref().unwrap_or("none");
            format!("foreign data with fingerprint {}", crate::text::clip(print, 12))
        }
        ContentsState::Marked => format!("an installation {}", of(&expected.instance_uid)),
        ContentsState::Interrupted => format!("an interrupted write or erase {}", of(&expected.instance_uid)),
        ContentsState::Unreadable => "no readable state".to_owned(),
    }
}

/// A disk for people: kernel name and strongest identity.
pub fn name(disk: &Disk) -> String {
    format!("{} ({})", disk.name, disk.identity.label())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn disk(name: &str, serial: &str, size: u64) -> Disk {
        let identity = DiskIdentity {
            serial: Some(serial.to_owned()),
            model: Some("QEMU HARDDISK".to_owned()),
            by_path: Some(format!("pci-0000:00:04.0-{name}")),
            wwn: None,
        };
        Disk::blank(name, identity, size)
    }

    pub(crate) fn target(disk: &Disk, expected: Vec<ExpectedContents>) -> DiskTarget {
        DiskTarget {
            identity: disk.identity.clone(),
            size_bytes: disk.size_bytes,
            expected,
        }
    }

    #[test]
    fn exactly_one_disk_of_that_name_and_size_is_taken() {
        let disks = [disk("sda", "S1", 100), disk("sdb", "S2", 100)];
        let wanted = target(&disks[1], vec![]);
        assert_eq!(find(&wanted, &disks, &[]).unwrap().name, "sdb");

        let gone = find(&wanted, &disks[..1], &[]).unwrap_err();
        assert_eq!(gone.reason(), FaultReason::DiskNotFound);
        assert!(
            gone.to_string().contains("serial S2") && gone.to_string().contains("sda serial S1"),
            "{gone}"
        );

        let twins = [disk("sda", "S2", 100), disk("sdb", "S2", 100)];
        assert_eq!(find(&wanted, &twins, &[]).unwrap_err().reason(), FaultReason::DiskAmbiguous);

        let smaller = [disk("sda", "S2", 99)];
        assert_eq!(find(&wanted, &smaller, &[]).unwrap_err().reason(), FaultReason::DiskSizeMismatch);
    }

    #[test]
    fn a_cloned_wwn_with_another_serial_is_another_disk() {
        let mut original = disk("sda", "S1", 100);
        original.identity.wwn = Some("0x5000".to_owned());
        let mut clone = disk("sdb", "S9", 100);
        clone.identity.wwn = Some("0x5000".to_owned());
        let wanted = target(&original, vec![]);
        assert_eq!(find(&wanted, &[clone, original], &[]).unwrap().name, "sda");
    }

    #[test]
    fn protected_disks_are_never_taken() {
        let usual = disk("sda", "S1", 100);
        let wanted = target(&usual, vec![]);
        let list = [usual.identity.clone()];
        assert_eq!(
            find(&wanted, std::slice::from_ref(&usual), &list).unwrap_err().reason(),
            FaultReason::DiskProtected
        );
        // An entry may name less than the disk says of itself: its place, or every disk of a model.
        for entry in [
            DiskIdentity {
                by_path: usual.identity.by_path.clone(),
                ..DiskIdentity::default()
            },
            DiskIdentity {
                model: usual.identity.model.clone(),
                ..DiskIdentity::default()
            },
        ] {
            let refusal = find(&wanted, std::slice::from_ref(&usual), &[entry]).unwrap_err();
            assert_eq!(refusal.reason(), FaultReason::DiskProtected);
        }
        let another = DiskIdentity {
            serial: Some("S2".to_owned()),
            ..DiskIdentity::default()
        };
        assert!(find(&wanted, std::slice::from_ref(&usual), &[another, DiskIdentity::default()]).is_ok());
        for change in [
            |d: &mut Disk| d.removable = true,
            |d: &mut Disk| d.remote = true,
            |d: &mut Disk| d.read_only = true,
        ] {
            let mut odd = usual.clone();
            change(&mut odd);
            assert_eq!(find(&wanted, &[odd], &[]).unwrap_err().reason(), FaultReason::DiskProtected);
        }
    }

    #[test]
    fn contents_that_the_order_does_not_name_are_refused_with_both_sides() {
        let sda = disk("sda", "S1", 100);
        let wanted = target(
            &sda,
            vec![ExpectedContents {
                state: ContentsState::Blank,
                fingerprint: None,
                instance_uid: None,
            }],
        );
        assert!(check_contents("o", &wanted, &sda, &DiskContents::blank()).is_ok());
        let foreign = DiskContents {
            state: ContentsState::Foreign,
            ..DiskContents::blank()
        };
        let refusal = check_contents("o", &wanted, &sda, &foreign).unwrap_err();
        assert_eq!(refusal.reason(), FaultReason::UnexpectedContents);
        let text = refusal.to_string();
        assert!(
            text.contains("a blank disk") && text.contains("fingerprint") && text.contains("nothing was changed"),
            "{text}"
        );
    }
}
