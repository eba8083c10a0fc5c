//! The bounded memory of recent events of one resource.
//!
//! Watchers are positions in it; nothing is queued per watcher. It also lets a list be answered at an older revision, by
//! undoing the events after it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Object;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or replaced.
    Put,
    /// Removed.
    Delete,
}

/// One committed change.
#[derive(Debug)]
pub struct Event {
    /// Its revision.
    pub revision: u64,
    /// What happened.
    pub kind: EventKind,
    /// The object after the change; for a deletion the last version, with the revision of the deletion.
    pub object: Arc<Object>,
    /// The object before the change.
    pub previous: Option<Arc<Object>>,
}

pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Revision of the newest event that was forgotten, or of the opening.
    floor: u64,
}

impl Ring {
    pub(crate) fn new(floor: u64) -> Ring {
        Ring {
            events: VecDeque::new(),
            bytes: 0,
            floor,
        }
    }

    pub(crate) fn push(&mut self, event: Arc<Event>, max_events: usize, max_bytes: usize) {
        self.bytes += event.object.json.len();
        self.events.push_back(event);
        while self.events.len() > max_events.max(1) || (self.bytes > max_bytes && self.events.len() > 1) {
            if let Some(old) = self.events.pop_front() {
                self.bytes -= old.object.json.len();
                self.floor = old.revision;
            }
        }
    }

    /// The oldest revision after which every event is still known.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Events later than a revision, oldest first.
    pub(crate) fn after(&self, revision: u64) -> impl DoubleEndedIterator<Item = &Arc<Event>> + ExactSizeIterator {
        let start = self.events.partition_point(|event| event.revision <= revision);
        self.events.range(start..)
    }
}
