//! One transfer as the server sees it: a state machine of packets and time, without socket or clock.
//!
//! The caller sends what [`Transfer::packet`] shows, says so with [`Transfer::sent`], hands in what the client sends, and calls [`Transfer::timer`] at
//! [`Transfer::deadline`], until there is an [`Outcome`]. Content is never copied: packets are slices of the asset.
//!
//! Invariants:
//! * Every transfer ends: there is always a deadline, and only an acknowledgement of something new puts off giving up.
//! * A block is sent again only after a timer, or at most twice in a round trip after an acknowledgement that leaves a gap or is repeated; what an earlier
//!   sending again made the client say is told apart from that as far as numbers and time can. With a window of one block a repeated acknowledgement causes nothing at all (RFC 1123
//!   section 4.2.3.1). So copies of packets never multiply.
//! * A client that has not answered yet gets a handful of packets at most, whatever options it sent: the address in a request may be forged.
//! * The window is never smaller than agreed, because a client acknowledges only full ones (RFC 7440 section 4).

use std::time::Duration;

use bytes::Bytes;

use crate::{
    Time,
    wire::{BLOCK_SIZES, DEFAULT_BLOCK_SIZE, ErrorCode, OptionKind, Options},
};

/// How transfers behave; the defaults are for local networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Largest block in bytes that is agreed to.
    pub max_block_size: u16,
    /// Largest window in blocks that is agreed to.
    pub max_window: u16,
    /// Largest window in bytes that is agreed to (but one block always is): more than a receive buffer of the usual size holds only gets lost.
    pub max_window_bytes: usize,
    /// Time to wait for an answer at first, doubled with each try that follows.
    pub timeout: Duration,
    /// Shortest time to wait, whatever round trips were measured.
    pub shortest_timeout: Duration,
    /// Longest time to wait, unless the client asked for another.
    pub longest_timeout: Duration,
    /// Timers that may run out in a row before the first answer.
    pub first_tries: u32,
    /// Timers that may run out in a row afterwards.
    pub tries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_block_size: *BLOCK_SIZES.end(),
            max_window: 64,
            max_window_bytes: 128 << 10,
            timeout: Duration::from_secs(1),
            shortest_timeout: Duration::from_millis(250),
            longest_timeout: Duration::from_secs(8),
            first_tries: 4,
            tries: 8,
        }
    }
}

/// A client that was silent for so long and asks once more has started anew (one that goes on does not ask).
const STARTED_ANEW: Duration = Duration::from_secs(1);

/// Longest message of a client's ERROR that is kept, in bytes.
const MAX_MESSAGE: usize = 128;

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The last block was acknowledged.
    Finished,
    /// The client wanted to know the size only, and said so by an ERROR after the OACK, as EDK2 and PXE ROMs do.
    Probed,
    /// Anything else.
    Failed(Failure),
}

/// Why a transfer failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It never answered our first packet.
    #[error(
        "the client never answered; something between it and us drops packets from our transfer port (try a single port), or its address was forged"
    )]
    NeverAnswered,
    /// It stopped answering.
    #[error("the client stopped answering")]
    Silent,
    /// It sent ERROR.
    #[error("the client gave up: {code}{}", remark(.message))]
    Client {
        /// Its code.
        code: ErrorCode,
        /// Its text, printable and bounded.
        message: String,
    },
    /// Its host says that nobody listens on its port.
    #[error("the client closed its port")]
    Closed,
    /// It asked for something else from the same port.
    #[error("the client started another transfer instead")]
    Superseded,
    /// We stopped.
    #[error("the server stopped")]
    Stopped,
}

fn remark(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// A packet to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outgoing<'a> {
    /// OACK.
    OptionAck(&'a Options),
    /// DATA.
    Data {
        /// Number, modulo 65,536.
        block: u16,
        /// Content.
        data: &'a [u8],
    },
    /// ERROR, the last packet.
    Error {
        /// What kind.
        code: ErrorCode,
        /// For people.
        message: &'static str,
    },
}

/// What was agreed with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Bytes in a block.
    pub block_size: u16,
    /// Blocks in a window.
    pub window: u16,
    /// Time between tries that the client asked for.
    pub timeout: Option<Duration>,
    /// What the OACK says; without options there is none.
    pub answer: Options,
}

impl Terms {
    /// Answers options: what cannot be agreed to is left out of the answer (RFC 2347), block and window may become smaller (RFC 2348, 7440).
    pub fn negotiate(asked: &Options, size: u64, settings: &Settings) -> Self {
        let mut terms = Self {
            block_size: DEFAULT_BLOCK_SIZE,
            window: 1,
            timeout: None,
            answer: Options::default(),
        };
        if let Some(bytes) = asked
            .get(OptionKind::BlockSize)
            .filter(|bytes| *bytes >= u64::from(*BLOCK_SIZES.start()))
        {
            let most = settings.max_block_size.clamp(*BLOCK_SIZES.start(), *BLOCK_SIZES.end());
            terms.block_size = u16::try_from(bytes).map_or(most, |bytes| bytes.min(most));
        }
        let most_blocks =
            (settings.max_window_bytes / usize::from(terms.block_size)).clamp(1, usize::from(settings.max_window.max(1))) as u16;
        for (kind, value) in asked.iter() {
            match kind {
                OptionKind::BlockSize if value >= u64::from(*BLOCK_SIZES.start()) => terms.answer.push(kind, u64::from(terms.block_size)),
                OptionKind::Timeout if (1..=255).contains(&value) => {
                    terms.timeout = Some(Duration::from_secs(value));
                    terms.answer.push(kind, value);
                }
                OptionKind::TransferSize => terms.answer.push(kind, size),
                OptionKind::WindowSize if value >= 1 => {
                    terms.window = u16::try_from(value).map_or(most_blocks, |blocks| blocks.min(most_blocks));
                    terms.answer.push(kind, u64::from(terms.window));
                }
                OptionKind::BlockSize | OptionKind::Timeout | OptionKind::WindowSize => {}
            }
        }
        terms
    }
}

/// One transfer of one asset to one client.
#[derive(Debug)]
pub struct Transfer {
    content: Bytes,
    settings: Settings,
    terms: Terms,
    /// Blocks in all, the last one shorter than the others or empty. Blocks are counted from 1, without rolling over.
    total: u64,
    /// The OACK is not acknowledged yet.
    offering: bool,
    /// It is not to be sent now.
    offered: bool,
    /// Last block that the client has in order.
    acked: u64,
    /// Next block to send.
    next: u64,
    /// Last block that was ever sent.
    highest: u64,
    /// When the client last acknowledged something new.
    heard: Option<Time>,
    tries: u32,
    deadline: Time,
    /// Nothing of the present window was sent twice.
    clean: bool,
    /// A repeated acknowledgement may cause sending again: not twice, and not in the window after one in which it did, or echoes would never end.
    may_go_back: bool,
    /// When blocks were last sent again, and the last block that had been sent before that.
    went_back: Option<(Time, u64)>,
    sent_at: Time,
    /// Smoothed round trip and its variation (RFC 6298), from clean windows only.
    round_trip: Option<(Duration, Duration)>,
    closing: Option<(ErrorCode, &'static str)>,
    outcome: Option<Outcome>,
    resent: u64,
    timeouts: u32,
}

impl Transfer {
    /// Begins a transfer of `content` on a client's request with these options.
    pub fn new(content: Bytes, asked: &Options, settings: Settings, now: Time) -> Self {
        let terms = Terms::negotiate(asked, content.len() as u64, &settings);
        let total = content.len() as u64 / u64::from(terms.block_size) + 1;
        let mut transfer = Self {
            content,
            terms,
            total,
            offering: !terms.answer.is_empty(),
            offered: false,
            acked: 0,
            next: 1,
            highest: 0,
            heard: None,
            tries: 0,
            deadline: now,
            clean: true,
            may_go_back: true,
            went_back: None,
            sent_at: now,
            round_trip: None,
            closing: None,
            outcome: None,
            resent: 0,
            timeouts: 0,
            settings,
        };
        transfer.deadline = now + transfer.patience();
        transfer
    }

    /// What was agreed.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether the client has acknowledged anything, so that somebody is at the address of the request.
    pub fn answered(&self) -> bool {
        self.heard.is_some()
    }

    /// How it ended; there may still be a last packet to send.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Packets that were sent more than once.
    pub fn resent(&self) -> u64 {
        self.resent
    }

    /// Timers that ran out.
    pub fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// Bytes of content that the client has acknowledged.
    pub fn delivered(&self) -> u64 {
        (self.acked * u64::from(self.terms.block_size)).min(self.content.len() as u64)
    }

    /// When [`Self::timer`] wants to be called; `None` once there is an outcome.
    pub fn deadline(&self) -> Option<Time> {
        self.outcome.is_none().then_some(self.deadline)
    }

    /// How many packets are to be sent now.
    pub fn ready(&self) -> usize {
        if self.closing.is_some() {
            1
        } else if self.outcome.is_some() {
            0
        } else if self.offering {
            usize::from(!self.offered)
        } else {
            // At most a window, which is a u16.
            (self.limit() + 1).saturating_sub(self.next) as usize
        }
    }

    /// The packet at `index` of those that are ready.
    pub fn packet(&self, index: usize) -> Option<Outgoing<'_>> {
        if index >= self.ready() {
            return None;
        }
        if let Some((code, message)) = self.closing {
            return Some(Outgoing::Error { code, message });
        }
        if self.offering {
            return Some(Outgoing::OptionAck(&self.terms.answer));
        }
        let block = self.next + index as u64;
        let size = usize::from(self.terms.block_size);
        let start = (block - 1) as usize * size;
        Some(Outgoing::Data {
            block: block as u16,
            data: &self.content[start..self.content.len().min(start + size)],
        })
    }

    /// The first `count` packets that were ready have been sent (or lost on the way out, which is the same).
    pub fn sent(&mut self, count: usize, now: Time) {
        let count = count.min(self.ready());
        if count == 0 {
            return;
        }
        if self.closing.take().is_some() {
            return;
        }
        if self.offering {
            self.offered = true;
        } else {
            let end = self.next + count as u64;
            self.resent += end.min(self.highest + 1).saturating_sub(self.next);
            self.next = end;
            self.highest = self.highest.max(end - 1);
        }
        self.sent_at = now;
        // Before the first answer only the timer counts tries, or a client that asks again and again would never be given up.
        if self.heard.is_some() {
            self.deadline = now + self.patience();
        }
    }

    /// The client acknowledged `block`.
    pub fn acknowledged(&mut self, block: u16, now: Time) {
        if self.outcome.is_some() {
            return;
        }
        if self.offering {
            // Without an OACK that was sent it acknowledges nothing of ours.
            if block == 0 && self.offered {
                self.offering = false;
                self.progress(now, self.clean && self.tries == 0);
                self.clean = true;
            }
            return;
        }
        // Numbers come back modulo 65,536. A window is smaller, so one block at most can be meant; anything else is older than what we know.
        let ahead = u64::from(block.wrapping_sub(self.acked as u16));
        if ahead > self.highest - self.acked {
            return;
        }
        if ahead == 0 {
            self.repeated(now);
            return;
        }
        let acked = self.acked + ahead;
        let whole = acked == self.highest;
        self.acked = acked;
        self.progress(now, whole && self.clean);
        if whole {
            // What was in flight is there.
            self.next = acked + 1;
            self.may_go_back = self.clean;
            self.clean = true;
        } else if self.echo(acked, now) {
            // What is on its way already answers it.
            self.next = self.next.max(acked + 1);
        } else {
            // The client misses what comes next, threw away what came after that, and expects it all again.
            self.go_back(now);
        }
        if acked == self.total {
            self.outcome = Some(Outcome::Finished);
        }
    }

    /// The client sent ERROR.
    pub fn refused(&mut self, code: ErrorCode, message: &[u8]) {
        if self.outcome.is_some() {
            return;
        }
        self.closing = None;
        let size_only = self.offering && self.terms.answer.get(OptionKind::TransferSize).is_some() && code != ErrorCode::OPTIONS;
        self.outcome = Some(if size_only {
            Outcome::Probed
        } else {
            let message = message[..message.len().min(MAX_MESSAGE)].escape_ascii().to_string();
            Outcome::Failed(Failure::Client { code, message })
        });
    }

    /// The client sent the same request once more: our first packet was lost, or is late, or the client was reset.
    pub fn asked_again(&mut self, now: Time) {
        match self.heard {
            _ if self.outcome.is_some() => {}
            None => {
                self.resent += u64::from(self.offered);
                self.offered = false;
                self.next = 1;
                self.clean = false;
            }
            Some(heard) if now.saturating_sub(heard) >= STARTED_ANEW => {
                self.offering = !self.terms.answer.is_empty();
                self.offered = false;
                self.acked = 0;
                self.next = 1;
                self.resent += self.highest;
                self.highest = 0;
                self.heard = None;
                self.tries = 0;
                self.clean = false;
                self.may_go_back = false;
                self.went_back = None;
                self.deadline = now + self.patience();
            }
            Some(_) => {}
        }
    }

    /// Time passed; does nothing before the deadline.
    pub fn timer(&mut self, now: Time) {
        if self.outcome.is_some() || now < self.deadline {
            return;
        }
        self.tries += 1;
        self.timeouts += 1;
        let (tries, failure) = match self.heard {
            None => (self.settings.first_tries, Failure::NeverAnswered),
            Some(_) => (self.settings.tries, Failure::Silent),
        };
        if self.tries > tries {
            self.outcome = Some(Outcome::Failed(failure));
            return;
        }
        if self.offering {
            self.resent += u64::from(self.offered);
            self.offered = false;
        } else {
            self.go_back(now);
        }
        self.deadline = now + self.patience();
    }

    /// Ends it from our side; tells the client where that helps it.
    pub fn end(&mut self, failure: Failure) {
        if self.outcome.is_some() {
            return;
        }
        self.closing = match failure {
            Failure::Stopped => Some((ErrorCode::UNDEFINED, "the server stops; ask again")),
            // Nobody is there, or the client waits for the answer to another request, which an ERROR from here might end.
            _ => None,
        };
        self.outcome = Some(Outcome::Failed(failure));
    }

    fn limit(&self) -> u64 {
        (self.acked + u64::from(self.terms.window)).min(self.total)
    }

    fn repeated(&mut self, now: Time) {
        if self.terms.window == 1 || self.highest == self.acked || self.next == self.acked + 1 || !(self.may_go_back || self.stuck(now)) {
            return;
        }
        // What the client misses may be the first block of the window, and it says so by the only number it has.
        self.go_back(now);
        self.deadline = now + self.patience();
    }

    /// Makes all that is not acknowledged ready again.
    fn go_back(&mut self, now: Time) {
        self.next = self.acked + 1;
        self.clean = false;
        self.may_go_back = false;
        self.went_back = Some((now, self.highest));
    }

    /// Whether an acknowledgement that leaves a gap speaks of what was in flight before blocks were sent again. It does when it comes too soon after that:
    /// within half a round trip, because the average is of whole windows, whose first blocks are answered sooner than their last. It also does when the
    /// client has exactly what had been sent before: then nothing was missing, and each block that came again made it say so.
    fn echo(&self, acked: u64, now: Time) -> bool {
        self.went_back
            .is_some_and(|(at, highest)| acked == highest || now.saturating_sub(at) < self.usual_round_trip() / 2)
    }

    /// Whether a repeated acknowledgement can only come from blocks that the client cannot use: they went out a round trip after it had got on.
    fn stuck(&self, now: Time) -> bool {
        let since = [self.heard, self.went_back.map(|(at, _)| at)].into_iter().flatten().max();
        since.is_some_and(|at| now.saturating_sub(at) >= self.usual_round_trip())
    }

    /// Before one was measured, that of a local network; a window that is never clean may not wait for timers because of that.
    fn usual_round_trip(&self) -> Duration {
        let least = Duration::from_millis(1);
        self.round_trip.map_or(least, |(smooth, _)| smooth.max(least))
    }

    fn progress(&mut self, now: Time, measurable: bool) {
        if measurable {
            let sample = now.saturating_sub(self.sent_at);
            self.round_trip = Some(match self.round_trip {
                None => (sample, sample / 2),
                Some((smooth, variation)) => ((smooth * 7 + sample) / 8, (variation * 3 + smooth.abs_diff(sample)) / 4),
            });
        }
        self.heard = Some(now);
        self.tries = 0;
        self.deadline = now + self.patience();
    }

    /// How long to wait from now on.
    fn patience(&self) -> Duration {
        if let (Some(agreed), Some(_)) = (self.terms.timeout, self.heard) {
            return agreed;
        }
        let base = match self.round_trip {
            Some((smooth, variation)) => (smooth + variation * 4)
                .max(self.settings.shortest_timeout)
                .min(self.settings.timeout),
            None => self.settings.timeout,
        };
        base.saturating_mul(2_u32.saturating_pow(self.tries))
            .min(self.settings.longest_timeout)
    }
}

#[cfg(test)]
mod tests;
