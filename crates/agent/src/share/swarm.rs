//! What the threads and tasks of one order's sharing have in common.
//!
//! [`Swarm::fetch`] is the life of a thread that fetches: what [`Chooser`] says, from whom it says, checks each frame's digest, keeps it for others and
//! hands it to the writer. A frame that has not its digest costs a neighbour its place, and a server a few more tries.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use agent_protocol::order::ProgressSource;
use bytes::Bytes;
use image::{
    ImageError,
    pack::{ChunkSource, HttpChunks, Manifest},
};
use sharing::{Chooser, ChooserSettings, Failure, Fetch, Next, PeerId, Source, Time};
use tokio::sync::Notify;

use super::{frames::Frames, peer::Peers};

/// Bytes that may wait for the writer; beyond it nothing more is fetched.
const MOST_WAITING: usize = 16 << 20;
/// How often a server may give damaged frames in a row.
const MOST_DAMAGED: u32 = 3;

/// Stored bytes that came, by where from.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From servers.
    pub server: AtomicU64,
    /// From other machines.
    pub peers: AtomicU64,
}

impl Traffic {
    /// Where most of it came from.
    pub fn mostly(&self) -> ProgressSource {
        if self.peers.load(Ordering::Relaxed) > self.server.load(Ordering::Relaxed) {
            ProgressSource::Peers
        } else {
            ProgressSource::Server
        }
    }
}

pub(super) struct State {
    pub chooser: Chooser,
    /// Frames that the writer has not taken yet.
    ready: VecDeque<(usize, Bytes)>,
    ready_bytes: usize,
    /// Nothing is missing any more.
    done: bool,
    stopped: bool,
    failure: Option<ImageError>,
    damaged: u32,
}

/// See the module.
pub struct Swarm {
    pub(super) manifest: Manifest,
    pub(super) server: HttpChunks,
    pub(super) peers: Peers,
    pub(super) frames: Arc<Frames>,
    traffic: Arc<Traffic>,
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the task that talks to the tracker.
    pub(super) news: Notify,
    began: Instant,
}

impl Swarm {
    pub(super) fn new(
        manifest: Manifest,
        server: HttpChunks,
        peers: Peers,
        frames: Arc<Frames>,
        traffic: Arc<Traffic>,
        chooser: Chooser,
    ) -> Self {
        Self {
            manifest,
            server,
            peers,
            frames,
            traffic,
            state: Mutex::new(State {
                chooser,
                ready: VecDeque::new(),
                ready_bytes: 0,
                done: false,
                stopped: false,
                failure: None,
                damaged: 0,
            }),
            changed: Condvar::new(),
            news: Notify::new(),
            began: Instant::now(),
        }
    }

    /// How many threads it takes.
    pub(super) fn threads() -> usize {
        ChooserSettings::default().fetches
    }

    pub(super) fn now(&self) -> Time {
        self.began.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the chooser for something that changes nothing for the threads that fetch.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&mut Chooser, Time) -> T) -> T {
        ask(&mut self.state().chooser, self.now())
    }

    /// Tells the chooser something, and everybody that it was told.
    pub(super) fn tell<T>(&self, tell: impl FnOnce(&mut Chooser, Time) -> T) -> T {
        let told = tell(&mut self.state().chooser, self.now());
        self.changed.notify_all();
        told
    }

    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
        self.news.notify_one();
    }

    pub(super) fn broken(&self, reason: &str) -> ImageError {
        ImageError::Unreachable {
            source_name: self.server.name().to_owned(),
            reason: reason.to_owned(),
        }
    }

    pub(super) fn fail(&self, error: ImageError) {
        self.state().failure.get_or_insert(error);
        self.changed.notify_all();
    }

    /// The next frame for the writer, waiting for it. `None` when there is none left, or when it was stopped.
    pub(super) fn take(&self) -> Result<Option<(usize, Bytes)>, ImageError> {
        let mut state = self.state();
        loop {
            if let Some(failure) = state.failure.take() {
                state.stopped = true;
                return Err(failure);
            }
            if state.stopped {
                return Ok(None);
            }
            if let Some((place, frame)) = state.ready.pop_front() {
                state.ready_bytes -= frame.len();
                self.changed.notify_all();
                return Ok(Some((place, frame)));
            }
            if state.done {
                return Ok(None);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fetches until nothing is missing, or it is stopped.
    pub(super) fn fetch(&self) {
        while let Some(fetch) = self.choose() {
            let result = self.carry_out(&fetch);
            let wrong = result == Err(Failure::WrongBytes);
            self.tell(|chooser, now| chooser.ended(now, fetch.id, result));
            if let (true, Source::Peer(id, address)) = (wrong, fetch.source) {
                complain(id, address);
            }
            self.news.notify_one();
        }
    }

    fn choose(&self) -> Option<Fetch> {
        let mut state = self.state();
        let mut said = false;
        loop {
            if state.stopped || state.failure.is_some() {
                return None;
            }
            let mut wait = Duration::from_secs(1);
            if state.ready_bytes < MOST_WAITING {
                let now = self.now();
                match state.chooser.next(now) {
                    Next::Fetch(fetch) => return Some(fetch),
                    Next::Done => {
                        state.done = true;
                        self.changed.notify_all();
                        return None;
                    }
                    Next::Wait(until) => wait = until.saturating_sub(now),
                }
                // It may have nothing to do now, and say so; once, or this thread and the one that talks would wake each other for ever.
                if !said {
                    said = true;
                    self.news.notify_one();
                }
            }
            let (after, _) = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = after;
        }
    }

    fn carry_out(&self, fetch: &Fetch) -> Result<(), Failure> {
        let pieces = fetch.pieces.start as usize..fetch.pieces.end as usize;
        let (Some(first), Some(last)) = (self.manifest.chunks().get(pieces.start), self.manifest.chunks().get(pieces.end - 1)) else {
            return Err(Failure::NotThere);
        };
        let length = last.offset + u64::from(last.length) - first.offset;
        let mut buffer = vec![0; usize::try_from(length).unwrap_or_default()];
        match fetch.source {
            Source::Server => {
                if let Err(error) = self.server.read(first.offset, &mut buffer) {
                    self.fail(error);
                    return Err(Failure::Unreachable);
                }
                self.traffic.server.fetch_add(length, Ordering::Relaxed);
            }
            Source::Peer(id, address) => {
                let left = fetch.give_up.map_or(Duration::from_secs(60), |at| at.saturating_sub(self.now()));
                let go_on = || {
                    let state = self.state();
                    !state.stopped && state.chooser.needs(fetch.id)
                };
                let (result, held) = self.peers.frames(address, first.offset, &mut buffer, Instant::now() + left, go_on);
                if let Some(held) = held {
                    self.tell(|chooser, now| chooser.peer_has(now, id, held));
                }
                result?;
            }
        }
        self.receive(fetch.source, pieces, Bytes::from(buffer))
    }

    /// Checks what came, frame by frame, and keeps what is right.
    fn receive(&self, source: Source, pieces: Range<usize>, bytes: Bytes) -> Result<(), Failure> {
        let mut at = 0;
        for place in pieces {
            let chunk = &self.manifest.chunks()[place];
            let frame = bytes.slice(at..at + chunk.length as usize);
            at += chunk.length as usize;
            let digest = blake3::hash(&frame);
            if digest != chunk.stored {
                if source == Source::Server {
                    self.damaged(place, digest);
                }
                return Err(Failure::WrongBytes);
            }
            if matches!(source, Source::Peer(..)) {
                self.traffic.peers.fetch_add(chunk.length.into(), Ordering::Relaxed);
            }
            let changed = self.frames.keep(chunk.offset, frame.clone());
            let piece = u32::try_from(place).unwrap_or(u32::MAX);
            let mut state = self.state();
            if source == Source::Server {
                state.damaged = 0;
            }
            changed.here.into_iter().for_each(|piece| state.chooser.share(piece, true));
            changed.gone.into_iter().for_each(|piece| state.chooser.share(piece, false));
            if state.chooser.have(piece) {
                state.ready_bytes += frame.len();
                state.ready.push_back((place, frame));
            }
            drop(state);
            self.changed.notify_all();
        }
        Ok(())
    }

    fn damaged(&self, place: usize, digest: blake3::Hash) {
        let error = ImageError::DigestMismatch {
            source_name: format!(
                "chunk {} (stored bytes) of {}",
                self.manifest.chunks()[place].index,
                self.server.name()
            ),
            expected: format!("blake3:{}", self.manifest.chunks()[place].stored),
            actual: format!("blake3:{digest}"),
        };
        let damaged = {
            let mut state = self.state();
            state.damaged += 1;
            state.damaged
        };
        if damaged > MOST_DAMAGED {
            self.fail(error);
        } else {
            tracing::warn!(%error, "a chunk came damaged and is fetched again");
        }
    }
}

fn complain(id: PeerId, address: SocketAddr) {
    tracing::warn!(peer = id.0, %address, "another machine gave wrong bytes of the image: it is not asked again, and the server is told");
}
