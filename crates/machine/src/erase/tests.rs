//! Erases on disk doubles: honest ones, lying ones, and ones whose power is cut.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicUsize},
};

use image::device::sim::{Faults, SimDisk};

use super::*;
use crate::marker::tests::example;

static GO: AtomicBool = AtomicBool::new(false);

fn request(method: EraseMethod, marker: &DiskMarker) -> EraseRequest<'_> {
    EraseRequest {
        marker,
        method,
        discards: true,
        cancel: &GO,
    }
}

/// A disk in memory with a switch for each way to lie.
struct Liar {
    medium: Mutex<Vec<u8>>,
    discard_works: bool,
    command_works: bool,
    writes_work: bool,
    flushed_markers: AtomicUsize,
}

impl Liar {
    fn full(size: usize) -> Self {
        let medium = (0..size).map(|n| (n % 251) as u8 + 1).collect();
        Self {
            medium: Mutex::new(medium),
            discard_works: true,
            command_works: true,
            writes_work: true,
            flushed_markers: AtomicUsize::new(0),
        }
    }

    fn zero(&self, offset: u64, length: u64) {
        self.medium.lock().unwrap()[offset as usize..(offset + length) as usize].fill(0);
    }
}

impl BlockDevice for Liar {
    fn name(&self) -> &str {
        "liar"
    }
    fn size(&self) -> u64 {
        self.medium.lock().unwrap().len() as u64
    }
    fn sector_size(&self) -> u32 {
        512
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.copy_from_slice(&self.medium.lock().unwrap()[offset as usize..offset as usize + buffer.len()]);
        Ok(())
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.writes_work || data.len() != 4096 {
            self.medium.lock().unwrap()[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        }
        Ok(())
    }
    fn zero_range(&self, offset: u64, length: u64, method: ZeroMethod) -> io::Result<()> {
        if self.command_works || method == ZeroMethod::Write {
            self.zero(offset, length);
        }
        Ok(())
    }
    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        if self.discard_works {
            self.zero(offset, length);
        }
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        if image::marker::decode(&self.medium.lock().unwrap()[..512]).is_some() {
            self.flushed_markers.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[test]
fn an_honest_discard_is_named_a_discard() {
    let disk = Liar::full(12 << 20);
    let erased = erase(&disk, request(EraseMethod::Quick, &example()), &mut |_| {}).unwrap();
    assert_eq!(
        (erased.strength, erased.method.as_str()),
        (EraseStrength::Discarded, "BLKDISCARD + zeroed ends")
    );
    assert!(erased.canaries == 32 && erased.sampled_blocks > 256, "{erased:?}");
    assert_eq!(contents::probe(&disk).state, ContentsState::Blank);
}

#[test]
fn a_device_that_only_says_it_discards_is_caught_and_overwritten() {
    let mut disk = Liar::full(12 << 20);
    disk.discard_works = false;
    let erased = erase(&disk, request(EraseMethod::Quick, &example()), &mut |_| {}).unwrap();
    assert_eq!(erased.method, "BLKZEROOUT + zeroed ends");

    let mut disk = Liar::full(12 << 20);
    (disk.discard_works, disk.command_works) = (false, false);
    let erased = erase(&disk, request(EraseMethod::Quick, &example()), &mut |_| {}).unwrap();
    assert_eq!(
        (erased.strength, erased.method.as_str()),
        (EraseStrength::Overwritten, "write zeros")
    );
    assert!(disk.medium.lock().unwrap().iter().all(|b| *b == 0), "every byte");
}

#[test]
fn a_device_that_loses_writes_is_found_by_its_canaries() {
    let mut disk = Liar::full(12 << 20);
    disk.writes_work = false;
    let error = erase(&disk, request(EraseMethod::Quick, &example()), &mut |_| {}).unwrap_err();
    assert!(matches!(error, EraseError::CanaryLost { .. }), "{error}");
    assert_eq!(error.reason(), FaultReason::DiskIO);
}

#[test]
fn a_block_that_stays_is_never_called_clean() {
    // One byte in the middle that reads back changed, whatever is written: only a place that held data before finds it for sure.
    let size = 12 << 20;
    let byte = spread_block(100, size) * 4096 + 7;
    let mut medium = vec![0; size as usize];
    medium[byte as usize] = 0;
    let disk = SimDisk::new(
        medium,
        512,
        Faults {
            corrupt_byte: Some(byte),
            ..Faults::default()
        },
    );
    let error = erase(&disk, request(EraseMethod::Overwrite, &example()), &mut |_| {}).unwrap_err();
    assert_eq!(error.reason(), FaultReason::EraseNotProven, "{error}");
    assert_eq!(contents::probe(&disk).state, ContentsState::Interrupted, "and stays marked");
}

fn spread_block(n: u64, size: u64) -> u64 {
    n * (size / 4096 - 1) / 255
}

#[test]
fn overwrite_means_plain_writes_alone() {
    let mut disk = Liar::full(9 << 20);
    (disk.discard_works, disk.command_works) = (false, false);
    let erased = erase(&disk, request(EraseMethod::Overwrite, &example()), &mut |_| {}).unwrap();
    assert_eq!(erased.strength, EraseStrength::Overwritten);
    assert!(
        disk.flushed_markers.load(Ordering::Relaxed) >= 2,
        "the marker was durable before and during the erase"
    );
}

#[test]
fn a_power_cut_at_any_write_leaves_old_contents_or_a_marker_or_a_blank_disk() {
    let marker = example();
    let size = 5 << 20;
    let original: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8 + 1).collect();
    let whole = SimDisk::new(original.clone(), 512, Faults::default());
    erase(&whole, request(EraseMethod::Quick, &marker), &mut |_| {}).unwrap();
    let operations = whole.operations();
    for cut in 0..operations {
        let disk = SimDisk::new(
            original.clone(),
            512,
            Faults {
                cut_before: Some(cut),
                ..Faults::default()
            },
        );
        erase(&disk, request(EraseMethod::Quick, &marker), &mut |_| {}).unwrap_err();
        for survives in [false, true] {
            let medium = disk.after_cut(|write, sector| survives || (write + sector) % 3 == 1);
            let after = contents::probe(&SimDisk::new(medium.clone(), 512, Faults::default()));
            match after.state {
                ContentsState::Interrupted => assert_eq!(after.marker.as_ref(), Some(&marker)),
                // Nothing but the marker itself may be pending before it is durable.
                ContentsState::Foreign => assert_eq!(&medium[512..], &original[512..], "cut {cut}: changed without a marker"),
                ContentsState::Blank => assert!(medium.iter().all(|b| *b == 0), "cut {cut}"),
                other => panic!("cut {cut}: {other:?}"),
            }
        }
    }
}

#[test]
fn cancelling_leaves_the_marker() {
    let disk = Liar::full(8 << 20);
    let cancel = AtomicBool::new(false);
    let marker = example();
    let request = EraseRequest {
        marker: &marker,
        method: EraseMethod::Overwrite,
        discards: false,
        cancel: &cancel,
    };
    let error = erase(&disk, request, &mut |p| cancel.store(p.done_bytes > 0, Ordering::Relaxed)).unwrap_err();
    assert!(matches!(error, EraseError::Cancelled));
    assert_eq!(contents::probe(&disk).marker, Some(marker));
}
