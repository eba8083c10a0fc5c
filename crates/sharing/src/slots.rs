//! How much a machine gives away at once, so that its own work goes on.
//!
//! The number of uploads is bounded, one for each machine that asks, and so is their rate together where the caller states one. Who asks in
//! vain is told when to come back. A slot has an end whatever its user does: one that reads slowly does not keep it.

use std::net::IpAddr;

use crate::Time;

/// Bounds of what is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSettings {
    /// Uploads at the same time.
    pub slots: usize,
    /// Bytes a second of all of them together; `None`: as fast as the network takes them.
    pub rate: Option<u64>,
    /// How long one upload may take.
    pub longest: Time,
}

impl Default for SlotSettings {
    fn default() -> Self {
        Self {
            slots: 6,
            rate: None,
            longest: Time::from_secs(20),
        }
    }
}

/// Bytes that may go at once before the rate holds back.
const BURST: f64 = (256 << 10) as f64;
/// How long somebody waits at least and at most who came in vain.
const COME_BACK: [Time; 2] = [Time::from_millis(10), Time::from_secs(2)];

/// A place among the uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    id: u64,
    /// When the caller ends the upload, finished or not.
    pub ends: Time,
}

/// No slot is free, or the one who asks has one already, or nothing is shared any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// How long to wait before asking again.
    pub come_back: Time,
}

#[derive(Debug)]
struct Upload {
    id: u64,
    to: IpAddr,
    since: Time,
    ends: Time,
}

/// The uploads of a machine.
#[derive(Debug)]
pub struct UploadSlots {
    settings: SlotSettings,
    uploads: Vec<Upload>,
    last_id: u64,
    stopped: bool,
    /// How long an upload takes, smoothed.
    usual: Time,
    /// Bytes that may go now; negative: owed.
    allowance: f64,
    /// When that was reckoned.
    reckoned: Time,
}

impl UploadSlots {
    /// Nothing is given away yet.
    pub fn new(settings: SlotSettings) -> Self {
        Self {
            settings,
            uploads: Vec::with_capacity(settings.slots),
            last_id: 0,
            stopped: false,
            usual: Time::from_millis(100),
            allowance: BURST,
            reckoned: Time::ZERO,
        }
    }

    /// A slot for whoever asks from this address.
    ///
    /// # Errors
    /// [`Busy`], and when to come back.
    pub fn ask(&mut self, now: Time, to: IpAddr) -> Result<Slot, Busy> {
        self.uploads.retain(|upload| upload.ends > now);
        if self.stopped {
            return Err(Busy { come_back: COME_BACK[1] });
        }
        if self.uploads.len() >= self.settings.slots || self.uploads.iter().any(|upload| upload.to == to) {
            // When the oldest upload ends, if it takes as long as usual.
            let oldest = self.uploads.iter().map(|upload| upload.since).min().unwrap_or(now);
            let come_back = (oldest + self.usual).saturating_sub(now).clamp(COME_BACK[0], COME_BACK[1]);
            return Err(Busy { come_back });
        }
        self.last_id += 1;
        let ends = now + self.settings.longest;
        self.uploads.push(Upload {
            id: self.last_id,
            to,
            since: now,
            ends,
        });
        Ok(Slot { id: self.last_id, ends })
    }

    /// How long to wait before these bytes go out. They count as gone.
    pub fn pace(&mut self, now: Time, bytes: usize) -> Time {
        let Some(rate) = self.settings.rate.map(|rate| rate.max(1) as f64) else {
            return Time::ZERO;
        };
        let since = now.saturating_sub(self.reckoned).as_secs_f64();
        self.reckoned = self.reckoned.max(now);
        self.allowance = (self.allowance + since * rate).min(BURST) - bytes as f64;
        Time::from_secs_f64((-self.allowance / rate).clamp(0.0, self.settings.longest.as_secs_f64()))
    }

    /// An upload is over, finished or not.
    pub fn free(&mut self, now: Time, slot: Slot) {
        if let Some(at) = self.uploads.iter().position(|upload| upload.id == slot.id) {
            let upload = self.uploads.swap_remove(at);
            self.usual = (self.usual * 7 + now.saturating_sub(upload.since)) / 8;
        }
    }

    /// How many uploads there are.
    pub fn in_use(&self) -> usize {
        self.uploads.len()
    }

    /// The task is over: nobody gets a slot any more. The caller ends the uploads that there are.
    pub fn stop(&mut self) {
        self.stopped = true;
    }
}
