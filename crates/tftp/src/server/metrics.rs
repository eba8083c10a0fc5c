//! What happened, as numbers that only grow; the caller reads them and puts them where it keeps its metrics.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

/// Counters of one server, shared with its transfers.
#[derive(Debug)]
pub struct Counters {
    pub(super) begun: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) probed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) repeated_requests: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) timeouts: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) not_found: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) malformed: AtomicU64,
    assets: Box<[AssetCounters]>,
}

#[derive(Debug, Default)]
pub(super) struct AssetCounters {
    pub(super) begun: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Transfers that began.
    pub begun: u64,
    /// Transfers whose last block was acknowledged.
    pub finished: u64,
    /// Transfers that ended because the client only asked for the size.
    pub probed: u64,
    /// Transfers that failed.
    pub failed: u64,
    /// Requests that came again while their transfer was running.
    pub repeated_requests: u64,
    /// Packets that were sent again.
    pub resent: u64,
    /// Timers that ran out.
    pub timeouts: u64,
    /// Bytes of content that were acknowledged.
    pub bytes: u64,
    /// Requests for names that are not there.
    pub not_found: u64,
    /// Requests to write, or in another mode than octet.
    pub refused: u64,
    /// Requests that were left unanswered because of a limit.
    pub busy: u64,
    /// Datagrams that are no packets.
    pub malformed: u64,
    /// By [`crate::AssetId::index`].
    pub assets: Vec<AssetSnapshot>,
}

/// The counters of one asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssetSnapshot {
    /// Transfers that began.
    pub begun: u64,
    /// Transfers whose last block was acknowledged.
    pub finished: u64,
    /// Transfers that failed.
    pub failed: u64,
    /// Bytes of content that were acknowledged.
    pub bytes: u64,
}

impl Snapshot {
    /// Transfers that are running.
    pub fn active(&self) -> u64 {
        self.begun.saturating_sub(self.finished + self.probed + self.failed)
    }
}

impl Counters {
    pub(super) fn new(assets: usize) -> Self {
        Self {
            begun: AtomicU64::default(),
            finished: AtomicU64::default(),
            probed: AtomicU64::default(),
            failed: AtomicU64::default(),
            repeated_requests: AtomicU64::default(),
            resent: AtomicU64::default(),
            timeouts: AtomicU64::default(),
            bytes: AtomicU64::default(),
            not_found: AtomicU64::default(),
            refused: AtomicU64::default(),
            busy: AtomicU64::default(),
            malformed: AtomicU64::default(),
            assets: (0..assets).map(|_| AssetCounters::default()).collect(),
        }
    }

    pub(super) fn asset(&self, asset: crate::AssetId) -> &AssetCounters {
        &self.assets[asset.index()]
    }

    /// Reads them all; not one instant, but each is never behind what its transfer's event said.
    pub fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Acquire);
        // The ends first: a transfer may begin and end while this reads, and more may not have ended than began.
        let [finished, probed, failed] = [&self.finished, &self.probed, &self.failed].map(read);
        Snapshot {
            finished,
            probed,
            failed,
            begun: read(&self.begun),
            repeated_requests: read(&self.repeated_requests),
            resent: read(&self.resent),
            timeouts: read(&self.timeouts),
            bytes: read(&self.bytes),
            not_found: read(&self.not_found),
            refused: read(&self.refused),
            busy: read(&self.busy),
            malformed: read(&self.malformed),
            assets: self
                .assets
                .iter()
                .map(|asset| AssetSnapshot {
                    begun: read(&asset.begun),
                    finished: read(&asset.finished),
                    failed: read(&asset.failed),
                    bytes: read(&asset.bytes),
                })
                .collect(),
        }
    }
}

pub(super) fn add(counter: &AtomicU64, amount: u64) {
    // Release: whoever sees the end of a transfer sees what was counted before it.
    counter.fetch_add(amount, Release);
}
