//! Who fetches which part of a packed image from whom, when several machines write the same image at the same time.
//!
//! | part | lives in | does |
//! |---|---|---|
//! | [`pieces`] | both | which chunks of an image somebody has, in few bytes |
//! | [`Chooser`] | each machine that writes | what to fetch next, and from whom |
//! | [`UploadSlots`] | each machine that serves | how much it gives away at once |
//! | [`sim`] | nobody's program | a simulated swarm that these same policies run in |
//! | [`Tracker`] | the server | who takes part, who has what, and who fetches which piece from the server itself |
//!
//! Everything is decided from what the caller says: the time (a [`Time`] since any beginning of the caller's), the news, and a seed for chance. There is
//! no clock, no I/O and no thread in here. Nobody is trusted: a piece counts once its digest was checked, and that is the caller's to do.
//!
//! The rules, and why they are these: `docs/sharing.md`.

mod chooser;
pub mod pieces;
pub mod sim;
mod slots;
mod tracker;

pub use chooser::{Chooser, ChooserSettings, Chore, Failure, Fetch, Next, Source};
pub use pieces::{Layout, PieceSet};
pub use slots::{Busy, Slot, SlotSettings, UploadSlots};
pub use tracker::{Answer, Member, News, Standing, SwarmKey, Tracker, TrackerSettings};

/// A moment: the time since a beginning that the caller chose, which never runs backwards.
pub type Time = std::time::Duration;

/// Stored bytes that are fetched by one request at most, unless one chunk alone has more: what the simulator found to be best.
pub const GROUP_BYTES: u64 = 1 << 20;

/// A machine among those that share: a number that the tracker gave it, which says nothing about the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);
