//! What was asked of the simulator, and how many connections it has and had at most.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Serialize;

use crate::faults::{Operation, Protocol};

/// Counters of all controllers together.
#[derive(Debug, Default)]
pub struct Counters {
    open: AtomicU64,
    most: AtomicU64,
    accepted: AtomicU64,
    requests: Mutex<BTreeMap<(Protocol, Operation), u64>>,
}

/// Counters at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Connections that are open.
    pub open: u64,
    /// The most that were open at the same time, since this was last begun anew.
    pub most_open: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Requests, by protocol and operation.
    pub requests: BTreeMap<String, u64>,
}

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub struct Open<'a>(&'a Counters);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Counters {
    /// Counts a connection.
    pub fn accept(&self) -> Open<'_> {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        let now = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Open(self)
    }

    /// Counts a request.
    pub fn request(&self, protocol: Protocol, operation: Operation) {
        *self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((protocol, operation))
            .or_default() += 1;
    }

    /// How they stand.
    #[must_use]
    pub fn now(&self) -> Counted {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        Counted {
            open: self.open.load(Ordering::SeqCst),
            most_open: self.most.load(Ordering::SeqCst),
            accepted: self.accepted.load(Ordering::SeqCst),
            requests: requests
                .iter()
                .map(|((protocol, operation), count)| (format!("{}.{}", protocol.word(), operation.word()), *count))
                .collect(),
        }
    }

    /// Begins anew. Connections that are open stay counted.
    pub fn reset(&self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.accepted.store(0, Ordering::SeqCst);
        self.most.store(self.open.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}
