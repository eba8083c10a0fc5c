//! The order of writes: the power is cut before every single write and flush, with many choices of what of the unflushed writes survived,
//! and the disk must be in one of the allowed states every time. Then the same check must find a violation as soon as any one flush is left out.
#![allow(missing_docs)]

mod common;

use common::*;
use image::device::sim::{Faults, SimDisk};
use image::{BlockDevice, WriteRequest, marker};

struct Scenario {
    name: &'static str,
    image: Vec<u8>,
    old: Vec<u8>,
    request: WriteRequest,
    finished: Vec<u8>,
}

impl Scenario {
    fn new(name: &'static str, image: Vec<u8>, with_config_drive: bool) -> Self {
        let old = used_disk(4 * MIB);
        let request = request(with_config_drive);
        let disk = sim(old.clone());
        write(&image, None, &disk, &request).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(disk.pending_writes(), 0, "{name}: something was not flushed at the end");
        assert_eq!(disk.cached_reads(), 0, "{name}: something was verified out of the cache");
        Self {
            name,
            image,
            old,
            request,
            finished: disk.contents(),
        }
    }

    fn all() -> Vec<Self> {
        vec![
            Self::new("GPT with config drive", gpt_image(2 * MIB), true),
            Self::new("GPT alone", gpt_image(2 * MIB), false),
            Self::new("GPT as large as the disk", gpt_image(4 * MIB), false),
            Self::new("MBR with config drive", mbr_image(2 * MIB - 512), true),
            Self::new("no partition table", bare_image(2 * MIB + 1000), false),
        ]
    }

    /// What is wrong with this medium, if anything.
    fn violation(&self, medium: &[u8]) -> Option<String> {
        if medium == self.old || medium == self.finished {
            return None;
        }
        let marked = marker::decode(medium).is_some_and(|payload| payload == self.request.marker);
        if medium[510..512] == [0x55, 0xaa] {
            return Some("a boot sector is valid, but the disk is neither the old nor the finished one".to_owned());
        }
        if !marked {
            return Some("neither the marker, nor the old, nor the finished disk".to_owned());
        }
        // The marker keeps firmware from believing a GPT. Some may not care, so a GPT may be valid only over whole data.
        let last = medium.len() / 512 - 1;
        let backup_at = (last - 32) * 512;
        let body = MIB..medium.len() - MIB;
        let old_is_whole = medium[body.clone()] == self.old[body];
        let new_is_whole = |end: usize| medium[24 * 1024..end] == self.finished[24 * 1024..end];
        if gpt_is_valid(medium, last, 512) && !old_is_whole && !new_is_whole(backup_at) {
            return Some("the backup GPT is valid over data that is neither the old nor the new".to_owned());
        }
        if gpt_is_valid(medium, 1, 512) && !old_is_whole && !new_is_whole(medium.len()) {
            return Some("the primary GPT is valid over a disk that is neither the old nor the new".to_owned());
        }
        None
    }

    /// Cuts the power before every write and flush and hands every medium that may be left to `found`, with whether success was claimed.
    fn enumerate(&self, faults: &Faults, mut found: impl FnMut(usize, &str, bool, Vec<u8>)) {
        for cut in 0.. {
            let disk = SimDisk::new(
                self.old.clone(),
                512,
                Faults {
                    cut_before: Some(cut),
                    ..faults.clone()
                },
            );
            let result = write(&self.image, None, &disk, &self.request);
            let mut show = |what: &str, medium: Vec<u8>| found(cut, what, result.is_ok(), medium);
            show("nothing survived", disk.after_cut(|_, _| false));
            show("everything survived", disk.after_cut(|_, _| true));
            for one in 0..disk.pending_writes() {
                show("one write survived", disk.after_cut(|write, _| write == one));
                show("one write was lost", disk.after_cut(|write, _| write != one));
                show(
                    "the first sector of one write survived",
                    disk.after_cut(|write, sector| write == one && sector == 0),
                );
                show(
                    "the last sectors of one write were lost",
                    disk.after_cut(|write, sector| write != one || sector < 2),
                );
            }
            for seed in 0..4 {
                let bits = noise(4096, 1000 + seed);
                show(
                    "some sectors survived",
                    disk.after_cut(|write, sector| bits[(write * 611 + sector) % 4096] & 1 == 1),
                );
            }
            if result.is_ok() {
                assert_eq!(disk.operations(), cut, "{}: finished before the cut", self.name);
                break;
            }
        }
    }

    fn violations(&self, faults: &Faults) -> Vec<String> {
        let mut violations = Vec::new();
        self.enumerate(faults, |cut, what, claimed, medium| {
            let violation = if claimed && medium != self.finished {
                Some("success was claimed, but the disk is not the finished one".to_owned())
            } else {
                self.violation(&medium)
            };
            if let Some(violation) = violation {
                violations.push(format!("{}: power cut before operation {cut}, {what}: {violation}", self.name));
            }
        });
        violations
    }
}

#[test]
fn the_finished_disk_is_whole() {
    for scenario in Scenario::all() {
        let disk = &scenario.finished;
        let last = disk.len() / 512 - 1;
        assert_eq!(disk[510..512], [0x55, 0xaa], "{}", scenario.name);
        assert_eq!(marker::decode(disk), None);
        let is_gpt = scenario.name.starts_with("GPT");
        assert_eq!(gpt_is_valid(disk, 1, 512), is_gpt, "{}", scenario.name);
        assert_eq!(gpt_is_valid(disk, last, 512), is_gpt, "{}", scenario.name);
        // Everything of the image behind its table is there, up to its own backup table.
        let end = scenario.image.len() - if is_gpt { 33 * 512 } else { 0 };
        assert!(disk[34 * 512..end] == scenario.image[34 * 512..end], "{}", scenario.name);
        assert!(disk[..440] == scenario.image[..440]);
        if scenario.request.config_drive.is_some() {
            let bytes = config_drive().bytes;
            let at = disk
                .windows(64)
                .position(|window| window == &bytes[..64])
                .expect("the config drive is on the disk");
            assert_eq!(at % MIB, 0);
            assert!(disk[at..at + bytes.len()] == bytes);
            assert!(disk[at + bytes.len()..at + MIB].iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn no_power_cut_leaves_a_half_image_bootable() {
    for scenario in Scenario::all() {
        let violations = scenario.violations(&Faults::default());
        assert!(
            violations.is_empty(),
            "{} violations, the first: {}",
            violations.len(),
            violations[0]
        );
    }
}

#[test]
fn no_power_cut_leaves_a_half_image_bootable_on_a_disk_that_lies_about_zeros() {
    let mut scenario = Scenario::new("GPT with config drive", gpt_image(2 * MIB), true);
    let faults = Faults {
        zeroing_lies: true,
        ..Faults::default()
    };
    let disk = SimDisk::new(scenario.old.clone(), 512, faults.clone());
    let evidence = write(&scenario.image, None, &disk, &scenario.request).unwrap();
    assert!(!evidence.zeroing_offloaded);
    assert!(disk.contents() == scenario.finished, "the same disk as with an honest command");
    scenario.finished = disk.contents();
    assert_eq!(scenario.violations(&faults), Vec::<String>::new());
}

#[test]
fn after_any_cut_the_same_write_completes() {
    for scenario in Scenario::all() {
        let mut turn = 0;
        scenario.enumerate(&Faults::default(), |cut, what, _, medium| {
            turn += 1;
            // Each medium would take too long; every third one is still several of each cut.
            if turn % 3 == 0 {
                let disk = sim(medium);
                write(&scenario.image, None, &disk, &scenario.request).unwrap_or_else(|error| panic!("after cut {cut}, {what}: {error}"));
                let contents = disk.contents();
                let written = scenario.image.len().next_multiple_of(512);
                assert!(
                    contents[..written] == scenario.finished[..written],
                    "{}: after cut {cut}, {what}",
                    scenario.name
                );
                let tail = contents.len() - MIB;
                assert!(
                    contents[tail..] == scenario.finished[tail..],
                    "{}: after cut {cut}, {what}",
                    scenario.name
                );
            }
        });
    }
}

/// Numbers of flushes, in the order of the module comment of `write`.
const DATA: usize = 2;
const CONFIG_DRIVE: usize = 3;

#[test]
fn every_flush_is_needed() {
    let mut flushes_seen = 0;
    for scenario in Scenario::all() {
        let honest = sim(scenario.old.clone());
        write(&scenario.image, None, &honest, &scenario.request).unwrap();
        for flush in 0..honest.flushes() {
            flushes_seen += 1;
            let faults = Faults {
                ignored_flush: Some(flush),
                ..Faults::default()
            };
            let disk = SimDisk::new(scenario.old.clone(), 512, faults.clone());
            write(&scenario.image, None, &disk, &scenario.request).unwrap();
            let violations = scenario.violations(&faults);
            // Where the next flush follows before anything that could boot, it covers this one against power cuts; what is lost then
            // is that the verification read the medium and not the cache.
            let covered_by_the_next: &[usize] = match scenario.name {
                "GPT with config drive" => &[DATA],
                "MBR with config drive" => &[DATA, CONFIG_DRIVE],
                "no partition table" => &[DATA],
                _ => &[],
            };
            assert_eq!(
                violations.is_empty(),
                covered_by_the_next.contains(&flush),
                "{}: flush {flush}",
                scenario.name
            );
            assert!(
                !violations.is_empty() || disk.cached_reads() > 0,
                "{}: nothing notices that flush {flush} is missing",
                scenario.name
            );
        }
    }
    assert_eq!(flushes_seen, 7 + 6 + 6 + 6 + 5);
}

#[test]
fn a_vanishing_disk_is_a_typed_error() {
    let scenario = Scenario::new("GPT with config drive", gpt_image(2 * MIB), true);
    for cut in 0..8 {
        let disk = SimDisk::new(
            scenario.old.clone(),
            512,
            Faults {
                cut_before: Some(cut),
                ..Faults::default()
            },
        );
        let error = write(&scenario.image, None, &disk, &scenario.request).unwrap_err();
        assert_eq!(error.kind(), image::FaultKind::DiskIo, "{error}");
        assert!(error.to_string().contains(disk.name()), "{error}");
    }
}

#[test]
fn a_rotten_byte_is_found_wherever_it_is() {
    let scenario = Scenario::new("GPT with config drive", gpt_image(2 * MIB), true);
    let config_drive_at = 2 * MIB as u64;
    let backup = 4 * MIB as u64 - 100;
    for byte in [
        0,
        600,
        20_000,
        30_000,
        MIB as u64 + 5,
        MIB as u64 + 800_000,
        config_drive_at,
        backup,
    ] {
        let disk = SimDisk::new(
            scenario.old.clone(),
            512,
            Faults {
                corrupt_byte: Some(byte),
                ..Faults::default()
            },
        );
        let error = write(&scenario.image, None, &disk, &scenario.request).unwrap_err();
        assert_eq!(error.kind(), image::FaultKind::VerifyMismatch, "byte {byte}: {error}");
        if let image::ImageError::VerifyMismatch { offset, end, .. } = error {
            assert!((offset..end).contains(&byte), "byte {byte} is named as {offset} to {end}");
        }
        assert_eq!(scenario.violation(&disk.contents()), None, "byte {byte}");
    }
}
