//! Random images on disks with random faults, streamed and packed: the disk is right, or there is an error and it does not boot.
//!
//! The faults: short and interrupted calls, `EIO` and `ENOSPC` of writes, flushes and reads, slow writes, writes that are lost or arrive damaged, a
//! medium that rots, a command for zeros that lies from the start or later, and loss of power; alone and together.
#![allow(missing_docs)]

mod common;

use std::time::Duration;

use common::pack::Pack;
use common::*;
use image::device::sim::{Faults, SimDisk};
use image::{BlockDevice, Evidence, FaultKind, ImageError, WriteRequest, marker};
use proptest::prelude::*;

const DISK: usize = 6 * MIB;
/// More operations than any of these writes has.
const OPERATIONS: usize = 90;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What may be wrong with a disk: mostly one thing or two.
fn faults() -> impl Strategy<Value = Faults> {
    let rarely = |some: BoxedStrategy<usize>| prop::option::weighted(0.15, some);
    let operation = || (0..OPERATIONS).boxed();
    (
        prop::option::weighted(0.3, any::<u64>()),
        prop::option::weighted(0.15, (operation(), prop_oneof![Just(EIO), Just(ENOSPC)])),
        prop::option::weighted(0.15, (operation(), Just(EIO))),
        rarely(operation()),
        rarely(operation()),
        prop::option::weighted(0.15, 0..DISK as u64),
        rarely(operation()),
        rarely((0..4usize).boxed()),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(short_calls, failing, failing_read, lost, damaged, corrupt_byte, cut_before, zeroing_lies_from, slow)| Faults {
                short_calls,
                failing,
                failing_read,
                lost,
                damaged,
                corrupt_byte,
                cut_before,
                zeroing_lies_from,
                slow: if slow { Duration::from_micros(300) } else { Duration::ZERO },
                ..Faults::default()
            },
        )
}

/// Whether a disk with these faults can be written all the same.
fn can_be_borne(faults: &Faults) -> bool {
    let Faults {
        cut_before: None,
        ignored_flush: None,
        corrupt_byte: None,
        failing: None,
        failing_read: None,
        lost: None,
        damaged: None,
        zeroing_lies_from: None | Some(0),
        short_calls: _,
        slow: _,
    } = faults
    else {
        return false;
    };
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Gpt,
    Mbr,
    None,
}

/// An image, the disk that it goes to, and how.
#[derive(Debug, Clone)]
struct Job {
    length: usize,
    holes: Vec<(usize, usize)>,
    seed: u64,
    workers: usize,
    packed: bool,
    sector: usize,
    table: Table,
    config_drive: bool,
    /// The disk holds a part of the image already.
    begun: bool,
}

fn job() -> impl Strategy<Value = Job> {
    (
        1_200_000..3_500_000usize,
        prop::collection::vec((0..3_500_000usize, 1..700_000usize), 0..8),
        any::<u64>(),
        1..5usize,
        any::<bool>(),
        prop_oneof![
            Just((512, Table::Gpt)),
            Just((4096, Table::Gpt)),
            Just((512, Table::Mbr)),
            Just((512, Table::None)),
            Just((4096, Table::None))
        ],
        any::<bool>(),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(length, holes, seed, workers, packed, (sector, table), drive, begun)| Job {
            length: if table == Table::None { length } else { length / sector * sector },
            holes,
            seed,
            workers,
            packed,
            sector,
            table,
            config_drive: drive && table != Table::None,
            begun,
        })
}

impl Job {
    fn image(&self) -> Vec<u8> {
        let mut image = noise(self.length, self.seed | 1);
        image[..24 * 1024].fill(0);
        for &(start, size) in &self.holes {
            let start = start.min(self.length);
            image[start..(start + size).min(self.length)].fill(0);
        }
        let sectors = (self.length / self.sector) as u64;
        match self.table {
            Table::Gpt => add_gpt(&mut image, &[(40, sectors - 40)], self.sector),
            Table::Mbr => {
                put(&mut image, 446, &[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 63, 0, 0, 0]);
                put(&mut image, 458, &(sectors as u32 - 63).to_le_bytes());
                put(&mut image, 510, &[0x55, 0xaa]);
            }
            Table::None => put(&mut image, 510, &[0x55, 0xaa]),
        }
        image
    }

    fn old(&self, image: &[u8]) -> Vec<u8> {
        let mut old = noise(DISK, self.seed ^ 5);
        if self.begun {
            let end = self.length / 2 / 4096 * 4096;
            old[24 * 1024..end].copy_from_slice(&image[24 * 1024..end]);
        }
        old
    }

    fn write(&self, image: &[u8], disk: &dyn BlockDevice) -> Result<Evidence, ImageError> {
        let mut request: WriteRequest = busy(self.config_drive);
        request.tuning.workers = Some(self.workers);
        if self.packed {
            Pack::new(image).write(disk, &request)
        } else {
            write(image, None, disk, &request)
        }
    }

    /// What of the image is not on a medium, if anything. Its tables are the disk's own.
    fn missing(&self, image: &[u8], medium: &[u8]) -> Option<&'static str> {
        let (from, to) = match self.table {
            Table::Gpt => (24 * 1024, self.length - 16 * 1024 - self.sector),
            Table::Mbr => (512, self.length),
            Table::None => (0, self.length),
        };
        if medium[from..to] != image[from..to] || medium[..440] != image[..440] || medium[510..512] != [0x55, 0xaa] {
            return Some("data");
        }
        let last = medium.len() / self.sector - 1;
        let tables = [1, last].map(|lba| gpt_is_valid(medium, lba, self.sector));
        (self.table == Table::Gpt && tables != [true, true]).then_some("a partition table")
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn right_or_unbootable(job in job(), faults in faults()) {
        let image = job.image();
        let old = job.old(&image);
        let disk = SimDisk::new(old.clone(), job.sector as u32, faults.clone());
        let result = job.write(&image, &disk);
        if can_be_borne(&faults) {
            prop_assert!(result.is_ok(), "{:?}", result.err());
        }
        match result {
            Ok(evidence) => {
                // A medium that shows other bytes than it holds is right in what it holds; and all of it must be durable.
                let medium = disk.after_cut(|_, _| false);
                prop_assert_eq!(job.missing(&image, &medium), None, "success, but the disk is another one");
                prop_assert_eq!(disk.cached_reads(), 0);
                prop_assert_eq!(evidence.written_digest, evidence.read_back_digest);
                prop_assert!(faults.zeroing_lies_from != Some(0) || !evidence.zeroing_offloaded);
            }
            Err(error) => {
                prop_assert!(matches!(error.kind(), FaultKind::DiskIo | FaultKind::VerifyMismatch), "{error}");
                for arrived in [false, true] {
                    let medium = disk.after_cut(|_, _| arrived);
                    let (bootable, marked) = (medium[510..512] == [0x55, 0xaa], marker::decode(&medium).is_some());
                    // Of a disk that lost its power after the last write nothing is missing.
                    let whole = disk.is_dead() && job.missing(&image, &medium).is_none();
                    prop_assert!(!bootable || medium == old || whole, "{error}: bootable, and neither untouched nor whole");
                    prop_assert!(marked || medium == old || whole || faults.damaged.is_some(), "{error}: not marked");
                }
            }
        }
    }
}

/// A disk with an image of which only the data was written, and what its holes read as is up to the disk.
#[test]
fn holes_that_keep_old_data_are_found() {
    for packed in [false, true] {
        for from in [0, 1] {
            let faults = Faults {
                zeroing_lies_from: Some(from),
                ..Faults::default()
            };
            let image = gpt_image(3 * MIB);
            let disk = SimDisk::new(used_disk(6 * MIB), 512, faults);
            let result = if packed {
                Pack::new(&image).write(&disk, &busy(false))
            } else {
                write(&image, None, &disk, &busy(false))
            };
            if from == 0 {
                assert!(!result.unwrap().zeroing_offloaded, "the lie was not seen when it was tried");
                assert!(disk.contents()[24 * 1024..2 * MIB] == image[24 * 1024..2 * MIB]);
                continue;
            }
            let error = result.unwrap_err();
            assert_eq!(error.kind(), FaultKind::VerifyMismatch, "{error}");
            assert!(error.to_string().contains("zeros"), "{error}");
            assert!(marker::decode(&disk.contents()).is_some());
        }
    }
}
