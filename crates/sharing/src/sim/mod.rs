//! A simulated swarm: machines that write the same image, over links with a rate, under a policy.
//!
//! [`Chooser`](crate::Chooser), [`Tracker`](crate::Tracker) and [`UploadSlots`](crate::UploadSlots) run in it as they are, beside simpler policies
//! ([`Policy`]). Time is simulated and chance comes from the scenario's seed: the same scenario always ends in the same figures.
//!
//! Not modelled: loss of packets, TCP's start, a network between the links (the switch carries everything), the processor's time but for
//! [`Scenario::write_rate`], and the bytes of requests. The tracker's answers do take their share of the server's link.

mod baseline;
mod links;
mod world;

pub use baseline::{Order, ServerRule};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::{ChooserSettings, GROUP_BYTES, SlotSettings, Time, TrackerSettings};

/// Bytes a second of a link of 1 Mbit/s.
pub const MBIT: f64 = 1e6 / 8.0;

/// How machines decide what to fetch from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everything from the server, in order.
    ServerOnly,
    /// Each by itself.
    Baseline {
        /// Which piece first.
        order: Order,
        /// When the server is asked.
        rule: ServerRule,
        /// How old what they know of each other may be; `None`: never older than 20 ms.
        told_every: Option<Time>,
    },
    /// This crate's.
    Ours,
}

/// What is odd about a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Oddity {
    /// It takes part, and gives wrong bytes.
    WrongBytes,
    /// It says to have everything, and gives wrong bytes.
    Liar,
    /// It says to have everything, takes requests and never answers.
    Silent,
    /// It has grants made out to it, and uses none.
    Hoarder,
    /// It takes part, and says of everybody that they give wrong bytes.
    Slanderer,
    /// Its link sends at this fraction of the others' rate.
    Slow(f64),
    /// It loses its power at this second: no answers any more, not even refusals.
    Cut(f64),
    /// It ends its task at this second and says so.
    Leaves(f64),
}

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How many machines.
    pub machines: usize,
    /// What a machine sends and receives, in bytes a second.
    pub link: f64,
    /// What the server sends.
    pub server: f64,
    /// Seconds from a request to the first byte.
    pub round_trip: f64,
    /// Seconds within which the machines start, at random.
    pub spread: f64,
    /// Seconds for which a machine that has everything goes on sharing: read-back and what comes after.
    pub linger: f64,
    /// Stored bytes of the image.
    pub stored: u64,
    /// Chunks that they are.
    pub chunks: u32,
    /// Stored bytes a second that a machine can decompress and write.
    pub write_rate: f64,
    /// Stored bytes that a machine keeps to share them; the oldest go first.
    pub keep: u64,
    /// Bytes of a group of pieces.
    pub group_bytes: u64,
    /// The policy.
    pub policy: Policy,
    /// Its settings.
    pub chooser: ChooserSettings,
    /// Its settings.
    pub tracker: TrackerSettings,
    /// Uploads of each machine.
    pub slots: SlotSettings,
    /// Which machines are odd.
    pub odd: Vec<(usize, Oddity)>,
    /// Of all chance.
    pub seed: u64,
}

impl Default for Scenario {
    /// Sixteen machines at 100 Mbit/s, as the server is, with an image like Debian's: 350 MB in 1,260 chunks.
    fn default() -> Self {
        Self {
            machines: 16,
            link: 100.0 * MBIT,
            server: 100.0 * MBIT,
            round_trip: 0.005,
            spread: 1.0,
            linger: 3.0,
            stored: 350_000_000,
            chunks: 1260,
            write_rate: 250e6,
            keep: u64::MAX,
            group_bytes: GROUP_BYTES,
            policy: Policy::Ours,
            chooser: ChooserSettings::default(),
            tracker: TrackerSettings::default(),
            slots: SlotSettings::default(),
            odd: Vec::new(),
            seed: 1,
        }
    }
}

impl Scenario {
    /// Where each chunk lies and its length: of very different sizes, as compressed ones are.
    fn image(&self) -> Vec<(u64, u32)> {
        let mut chance = SmallRng::seed_from_u64(self.seed ^ 0x1a9e);
        let weights: Vec<f64> = (0..self.chunks)
            .map(|_| 0.15 + chance.random::<f64>() + chance.random::<f64>().powi(4))
            .collect();
        let sum: f64 = weights.iter().sum();
        let mut offset = 0;
        let chunk = |weight: f64| {
            let length = ((weight / sum * self.stored as f64) as u32).max(1);
            offset += u64::from(length);
            (offset - u64::from(length), length)
        };
        weights.into_iter().map(chunk).collect()
    }

    /// Runs it.
    pub fn run(&self) -> Outcome {
        world::World::new(self).run()
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Seconds that each machine took that was not odd, in ascending order.
    pub took: Vec<f64>,
    /// How many of those did not end within the simulated day.
    pub unfinished: usize,
    /// Stored bytes of the image.
    pub image: f64,
    /// Bytes of chunks that the server sent.
    pub server: f64,
    /// Bytes of chunks that machines sent.
    pub peers: f64,
    /// Bytes that were sent for nothing: wrong, broken off, or there already.
    pub wasted: f64,
    /// Bytes of the tracker's answers.
    pub answers: f64,
    /// How many answers.
    pub messages: u64,
    /// How often a request met no free slot.
    pub busy: u64,
    /// Pairs of machines of which one dropped the other for wrong bytes.
    pub dropped: usize,
    /// Machines that were expelled.
    pub expelled: usize,
}

impl Outcome {
    /// Seconds of the last machine.
    pub fn last(&self) -> f64 {
        self.took.last().copied().unwrap_or(f64::INFINITY)
    }

    /// Seconds of the median machine.
    pub fn median(&self) -> f64 {
        self.took.get(self.took.len() / 2).copied().unwrap_or(f64::INFINITY)
    }

    /// What the server sent, in copies of the image.
    pub fn copies(&self) -> f64 {
        self.server / self.image
    }
}
