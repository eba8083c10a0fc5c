//! Power cuts at random points, often several to one write, each followed by a restart on what the cut left. In the end the disk is whole, byte by
//! byte, and before that none of its states would have booted. What a packed image costs twice is bounded.
//!
//! All chance comes from one seed. `POWER_CUTS` says how many cuts there are for each of the two ways of writing; `make test-power-cuts` asks for
//! a thousand of each.

use image::device::sim::{Faults, SimDisk};
use image::{BlockDevice, Evidence, ImageError, Tuning, WriteRequest};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::pack::{CHUNK, Pack};
use crate::common::*;
use crate::state::States;

/// Cuts of each way when nobody asks for more.
const FEW: usize = 40;
/// The chunks in flight of a packed image of this size: requests that are answered, and what waits for a thread. A thread has one chunk more that is not
/// yet written, and one that made a segment longer.
const IN_FLIGHT: u64 = 8 * (256 << 10);
/// Both ends of the disk are zeroed first, so that what an image has there is fetched again.
const ENDS: u64 = 2 * MIB as u64;

fn cuts_wanted() -> usize {
    std::env::var("POWER_CUTS").map_or(FEW, |text| text.parse().expect("POWER_CUTS is a number"))
}

/// An image with holes, with or without a table; the size of its disk, and of the disk's sectors.
struct Case {
    image: Vec<u8>,
    pack: Option<Pack>,
    old: Vec<u8>,
    sector: usize,
    request: WriteRequest,
    lies: bool,
}

impl Case {
    fn random(chance: &mut StdRng, packed: bool) -> Self {
        let sector = if chance.random_range(0..3) == 0 { 4096 } else { 512 };
        // Large enough that 3 % of it are a few chunks.
        let mebibytes = if packed {
            chance.random_range(24..40)
        } else {
            chance.random_range(3..10)
        };
        let mut image = noise(mebibytes * MIB, chance.random());
        image[..24 * 1024].fill(0);
        for _ in 0..chance.random_range(0..6) {
            let start = chance.random_range(0..image.len());
            let end = (start + chance.random_range(1..MIB)).min(image.len());
            image[start..end].fill(0);
        }
        let with_table = chance.random_range(0..4) > 0;
        let sectors = (image.len() / sector) as u64;
        if with_table {
            add_gpt(&mut image, &[(40, sectors - 40)], sector);
        } else {
            put(&mut image, 510, &[0x55, 0xaa]);
            // Not whole sectors.
            image.truncate(image.len() - chance.random_range(0..5000));
        }
        let mut old = noise((mebibytes + chance.random_range(2..6)) * MIB, chance.random());
        let old_sectors = (old.len() / sector) as u64;
        add_gpt(&mut old, &[(64, old_sectors - 64)], sector);
        let tuning = Tuning {
            workers: Some(chance.random_range(1..4)),
            // The part of an image that the writer chooses by itself for large ones.
            segment_bytes: Some(image.len() as u64 / 64),
            overlap: Some(chance.random()),
        };
        let request = WriteRequest {
            tuning,
            ..request(with_table && chance.random())
        };
        Self {
            pack: packed.then(|| Pack::new(&image)),
            image,
            old,
            sector,
            request,
            lies: chance.random_range(0..4) == 0,
        }
    }

    fn write(&self, disk: &dyn BlockDevice) -> Result<Evidence, ImageError> {
        match &self.pack {
            Some(pack) => pack.write(disk, &self.request),
            None => write(&self.image, None, disk, &self.request),
        }
    }

    fn disk(&self, medium: Vec<u8>, cut_before: Option<usize>) -> SimDisk {
        let faults = Faults {
            cut_before,
            zeroing_lies_from: self.lies.then_some(0),
            ..Faults::default()
        };
        SimDisk::new(medium, self.sector as u32, faults)
    }

    fn fetched(&self) -> u64 {
        self.pack.as_ref().map_or(0, Pack::take_fetched)
    }
}

/// What all cuts brought about.
#[derive(Default)]
struct Tally {
    cuts: usize,
    writes: usize,
    most_to_one_write: usize,
    before_the_marker: usize,
    finished_at_the_cut: usize,
    /// Fetched again after one cut, in parts of the image: the sum, and the most without the chunks in flight and the ends.
    again: f64,
    most_again: f64,
    single: usize,
}

/// One image onto one disk, with cuts in between.
fn one_write(chance: &mut StdRng, packed: bool, tally: &mut Tally) {
    let case = Case::random(chance, packed);
    let whole = case.disk(case.old.clone(), None);
    case.write(&whole).unwrap();
    let (finished, operations, total) = (whole.contents(), whole.operations(), case.fetched());
    let workers = case.request.tuning.workers.unwrap_or(1) as u64;
    let wanted = chance.random_range(1..5);
    let (mut medium, mut cuts) = (case.old.clone(), 0);
    loop {
        let cut = (cuts < wanted).then(|| chance.random_range(0..operations));
        let disk = case.disk(std::mem::take(&mut medium), cut);
        let result = case.write(&disk);
        if !disk.is_dead() {
            // A later attempt of a packed image has fewer operations, and the cut may lie behind them.
            result.unwrap();
            assert_eq!(disk.pending_writes(), 0);
            assert!(disk.contents() == finished, "another disk after {cuts} cuts");
            break;
        }
        assert!(result.is_err(), "success on a disk that lost its power before operation {cut:?}");
        cuts += 1;
        let arrives: f64 = [0.0, 0.02, 0.5, 0.98, 1.0][chance.random_range(0..5)];
        medium = disk.after_cut(|_, _| chance.random_bool(arrives));
        let states = States {
            old: &case.old,
            finished: &finished,
            marker: &case.request.marker,
            sector: case.sector,
            restarted: cuts > 1,
        };
        if let Some(violation) = states.violation(&medium) {
            panic!("cut {cuts} of this write, before operation {cut:?} of {operations}, {arrives} of the sectors arrived: {violation}");
        }
        tally.before_the_marker += usize::from(medium == case.old);
        tally.finished_at_the_cut += usize::from(medium == finished);
    }
    let again = case.fetched().saturating_sub(total);
    let in_flight = cuts as u64 * (IN_FLIGHT + workers * 2 * CHUNK as u64 + ENDS);
    let bound = cuts as u64 * (total * 3 / 100) + in_flight;
    assert!(
        again <= bound,
        "{again} of {total} bytes fetched again after {cuts} cuts, more than {bound}"
    );
    if packed && cuts == 1 {
        tally.again += again as f64 / total as f64;
        tally.most_again = tally.most_again.max(again.saturating_sub(in_flight) as f64 / total as f64);
        tally.single += 1;
    }
    tally.cuts += cuts;
    tally.writes += 1;
    tally.most_to_one_write = tally.most_to_one_write.max(cuts);
}

fn run(packed: bool) {
    let mut chance = StdRng::seed_from_u64(20_261_130 + u64::from(packed));
    let (wanted, mut tally) = (cuts_wanted(), Tally::default());
    while tally.cuts < wanted {
        one_write(&mut chance, packed, &mut tally);
    }
    println!(
        "{}: {} cuts of {} writes, at most {} of one; {} left the old disk, {} a finished one, the others a marked one",
        if packed { "packed" } else { "streamed" },
        tally.cuts,
        tally.writes,
        tally.most_to_one_write,
        tally.before_the_marker,
        tally.finished_at_the_cut,
    );
    if packed {
        println!(
            "fetched again after a single cut: {:.1} % of images of 24 to 39 MiB on average; but for chunks in flight and both ends, at most {:.1} %; {} writes",
            100.0 * tally.again / tally.single.max(1) as f64,
            100.0 * tally.most_again,
            tally.single
        );
    }
    assert!(tally.most_to_one_write > 1, "no write was hit twice");
}

#[test]
fn random_cuts_of_streamed_images() {
    run(false);
}

#[test]
fn random_cuts_of_packed_images() {
    run(true);
}
