//! Every single operation of a write as the point of the cut, for small disks.

use std::ops::ControlFlow;

use image::device::sim::{Faults, SimDisk};
use image::{BlockDevice, Evidence, ImageError, WriteRequest, marker};

use crate::common::pack::Pack;
use crate::common::*;
use crate::state::States;

/// A packed image has few chunks here: each is a point to cut at, with many choices of what survives.
const CHUNK_BYTES: usize = 512 << 10;

struct Scenario {
    name: &'static str,
    image: Vec<u8>,
    /// The same image packed, where it is written so.
    pack: Option<Pack>,
    old: Vec<u8>,
    request: WriteRequest,
    finished: Vec<u8>,
    /// How many flushes make data durable.
    data_flushes: usize,
}

impl Scenario {
    fn new(name: &'static str, image: Vec<u8>, with_config_drive: bool, packed: bool) -> Self {
        Self::over(used_disk(4 * MIB), name, image, request(with_config_drive), packed)
    }

    fn over(old: Vec<u8>, name: &'static str, image: Vec<u8>, request: WriteRequest, packed: bool) -> Self {
        let mut scenario = Self {
            name,
            pack: packed.then(|| Pack::of_chunks(&image, CHUNK_BYTES)),
            image,
            old,
            request,
            finished: Vec::new(),
            data_flushes: 0,
        };
        let disk = sim(scenario.old.clone());
        let evidence = scenario.write(&disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(disk.pending_writes(), 0, "{name}: something was not flushed at the end");
        assert_eq!(disk.cached_reads(), 0, "{name}: something was verified out of the cache");
        scenario.finished = disk.contents();
        let others = [
            true,
            true,
            evidence.config_drive.is_some(),
            evidence.partition_table == "gpt",
            true,
            true,
        ];
        scenario.data_flushes = disk.flushes() - others.iter().filter(|&&flush| flush).count();
        scenario
    }

    fn write(&self, disk: &dyn BlockDevice) -> Result<Evidence, ImageError> {
        match &self.pack {
            Some(pack) => pack.write(disk, &self.request),
            None => write(&self.image, None, disk, &self.request),
        }
    }

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for packed in [false, true] {
            all.push(Self::new("GPT with config drive", gpt_image(2 * MIB), true, packed));
            all.push(Self::new("GPT alone", gpt_image(2 * MIB), false, packed));
            all.push(Self::new("GPT as large as the disk", gpt_image(4 * MIB), false, packed));
            all.push(Self::new("MBR with config drive", mbr_image(2 * MIB - 512), true, packed));
            all.push(Self::new("no partition table", bare_image(2 * MIB + 1000), false, packed));
        }
        all
    }

    /// Images that are made durable in several steps, and a packed one of which the disk holds a part already.
    fn in_steps() -> Vec<Self> {
        let mut steps = request(true);
        // Less than any chunk writes, so that each has its own flush, in whatever order several connections bring them: the operations are counted.
        steps.tuning.segment_bytes = Some(256 << 10);
        let over = |old, name, packed| Self::over(old, name, gpt_image(2 * MIB), steps.clone(), packed);
        let streamed = over(used_disk(4 * MIB), "GPT with config drive, in steps", false);
        let packed = over(used_disk(4 * MIB), "GPT with config drive, in steps", true);
        let mut begun = packed.old.clone();
        begun[MIB..2 * MIB].copy_from_slice(&packed.finished[MIB..2 * MIB]);
        let again = over(begun, "GPT with config drive, in steps, begun", true);
        for scenario in [&streamed, &packed] {
            assert!(scenario.data_flushes > 1, "{} in {} steps", scenario.name, scenario.data_flushes);
        }
        vec![streamed, packed, again]
    }

    fn way(&self) -> &'static str {
        if self.pack.is_some() { "packed" } else { "streamed" }
    }

    fn violation(&self, medium: &[u8]) -> Option<String> {
        let states = States {
            old: &self.old,
            finished: &self.finished,
            marker: &self.request.marker,
            sector: 512,
            restarted: false,
        };
        states.violation(medium)
    }

    /// Cuts the power before every write and flush and hands every medium that may be left to `found`, with whether success was claimed, until `found`
    /// has seen enough.
    fn enumerate(&self, faults: &Faults, mut found: impl FnMut(usize, &str, bool, Vec<u8>) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut cut = 0;
        loop {
            let disk = SimDisk::new(
                self.old.clone(),
                512,
                Faults {
                    cut_before: Some(cut),
                    ..faults.clone()
                },
            );
            let result = self.write(&disk);
            let mut show = |what: &str, medium: Vec<u8>| found(cut, what, result.is_ok(), medium);
            show("nothing survived", disk.after_cut(|_, _| false))?;
            show("everything survived", disk.after_cut(|_, _| true))?;
            for one in 0..disk.pending_writes() {
                show("one write survived", disk.after_cut(|write, _| write == one))?;
                show("one write was lost", disk.after_cut(|write, _| write != one))?;
                show(
                    "the first sector of one write survived",
                    disk.after_cut(|write, sector| write == one && sector == 0),
                )?;
                show(
                    "the last sectors of one write were lost",
                    disk.after_cut(|write, sector| write != one || sector < 2),
                )?;
            }
            for seed in 0..4 {
                let bits = noise(4096, 1000 + seed);
                show(
                    "some sectors survived",
                    disk.after_cut(|write, sector| bits[(write * 611 + sector) % 4096] & 1 == 1),
                )?;
            }
            if result.is_ok() {
                assert_eq!(disk.operations(), cut, "{}: finished before the cut", self.name);
                return ControlFlow::Continue(());
            }
            cut += 1;
        }
    }

    /// The first violation that any cut brings about.
    fn violation_of(&self, faults: &Faults) -> Option<String> {
        let mut violation = None;
        let enough = self.enumerate(faults, |cut, what, claimed, medium| {
            let wrong = if claimed && medium != self.finished {
                Some("success was claimed, but the disk is not the finished one".to_owned())
            } else {
                self.violation(&medium)
            };
            let Some(wrong) = wrong else { return ControlFlow::Continue(()) };
            let (name, way) = (self.name, self.way());
            violation = Some(format!("{name}, {way}: power cut before operation {cut}, {what}: {wrong}"));
            ControlFlow::Break(())
        });
        assert_eq!(enough.is_break(), violation.is_some());
        violation
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
    for scenario in Scenario::all().into_iter().chain(Scenario::in_steps()) {
        assert_eq!(scenario.violation_of(&Faults::default()), None);
    }
}

#[test]
fn no_power_cut_leaves_a_half_image_bootable_on_a_disk_that_lies_about_zeros() {
    for packed in [false, true] {
        let mut scenario = Scenario::new("GPT with config drive", gpt_image(2 * MIB), true, packed);
        let faults = Faults {
            zeroing_lies_from: Some(0),
            ..Faults::default()
        };
        let disk = SimDisk::new(scenario.old.clone(), 512, faults.clone());
        let evidence = scenario.write(&disk).unwrap();
        assert!(!evidence.zeroing_offloaded);
        assert!(disk.contents() == scenario.finished, "the same disk as with an honest command");
        scenario.finished = disk.contents();
        assert_eq!(scenario.violation_of(&faults), None);
    }
}

#[test]
fn after_any_cut_the_same_write_completes() {
    for scenario in Scenario::all() {
        let mut turn = 0;
        let all = scenario.enumerate(&Faults::default(), |cut, what, _, medium| {
            turn += 1;
            // Each medium would take too long; every third one is still several of each cut.
            if turn % 3 == 0 {
                let disk = sim(medium);
                scenario
                    .write(&disk)
                    .unwrap_or_else(|error| panic!("after cut {cut}, {what}: {error}"));
                assert!(disk.contents() == scenario.finished, "{}: after cut {cut}, {what}", scenario.name);
            }
            ControlFlow::Continue(())
        });
        assert!(all.is_continue());
    }
}

#[test]
fn every_flush_is_needed() {
    for scenario in Scenario::all().into_iter().chain(Scenario::in_steps()) {
        let honest = sim(scenario.old.clone());
        scenario.write(&honest).unwrap();
        assert!(
            (5..=16).contains(&honest.flushes()),
            "{}: {} flushes",
            scenario.name,
            honest.flushes()
        );
        for flush in 0..honest.flushes() {
            let faults = Faults {
                ignored_flush: Some(flush),
                ..Faults::default()
            };
            let disk = SimDisk::new(scenario.old.clone(), 512, faults.clone());
            scenario.write(&disk).unwrap();
            let violation = scenario.violation_of(&faults);
            // Numbers of flushes, in the order of the module comment of `write`: marker, ends, data in one or more steps, config drive.
            let (last_data, config_drive) = (1 + scenario.data_flushes, 2 + scenario.data_flushes);
            // Where the next flush follows before anything that could boot, it covers this one against power cuts; what is lost then
            // is that the verification read the medium and not the cache.
            let covered_by_the_next = match scenario.name {
                "GPT alone" | "GPT as large as the disk" => 2..last_data,
                "MBR with config drive" => 2..config_drive + 1,
                _ => 2..last_data + 1,
            };
            // In steps, or with a part of it there, the first data is within what flush 1 covers, and its flush covers that.
            if !scenario.name.contains("in steps") {
                assert_eq!(
                    violation.is_none(),
                    covered_by_the_next.contains(&flush),
                    "{}, {}: flush {flush}",
                    scenario.name,
                    scenario.way()
                );
            }
            // A flush between two steps of a stream is one that the next makes up for, before anything is read back.
            let made_up_for = scenario.pack.is_none() && (2..last_data).contains(&flush);
            assert!(
                made_up_for || violation.is_some() || disk.cached_reads() > 0,
                "{}, {}: nothing notices that flush {flush} is missing",
                scenario.name,
                scenario.way()
            );
        }
    }
}

#[test]
fn a_vanishing_disk_is_a_typed_error() {
    for packed in [false, true] {
        let scenario = Scenario::new("GPT with config drive", gpt_image(2 * MIB), true, packed);
        for cut in 0..8 {
            let disk = SimDisk::new(
                scenario.old.clone(),
                512,
                Faults {
                    cut_before: Some(cut),
                    ..Faults::default()
                },
            );
            let error = scenario.write(&disk).unwrap_err();
            assert_eq!(error.kind(), image::FaultKind::DiskIo, "{error}");
            assert!(error.to_string().contains(disk.name()), "{error}");
        }
    }
}

#[test]
fn a_rotten_byte_is_found_wherever_it_is() {
    for packed in [false, true] {
        let scenario = Scenario::new("GPT with config drive", gpt_image(2 * MIB), true, packed);
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
            let error = scenario.write(&disk).unwrap_err();
            assert_eq!(error.kind(), image::FaultKind::VerifyMismatch, "byte {byte}: {error}");
            if let image::ImageError::VerifyMismatch { offset, end, .. } = error {
                assert!((offset..end).contains(&byte), "byte {byte} is named as {offset} to {end}");
            }
            assert_eq!(scenario.violation(&disk.contents()), None, "byte {byte}");
        }
    }
}
