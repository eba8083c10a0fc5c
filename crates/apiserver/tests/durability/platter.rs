//! A disk that forgets, reorders and tears what was not synced when the power is cut.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use rand::rngs::StdRng;
use redb::StorageBackend;

/// What a disk writes as a whole.
const SECTOR: usize = 512;

/// What a disk does when it is told to sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// What it should.
    Honest,
    /// Nothing, and it says that it did.
    Never,
    /// Nothing every second time.
    Sometimes,
}

#[derive(Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug)]
struct State {
    /// What a read sees.
    view: Vec<u8>,
    /// What the last sync made safe.
    durable: Vec<u8>,
    /// What came after it, in order.
    pending: Vec<Pending>,
    operations: u64,
    syncs: u64,
    cut_at: u64,
    cut: bool,
}

/// A disk, or a handle of it.
#[derive(Clone, Debug)]
pub struct Platter {
    state: Arc<Mutex<State>>,
    sync: Sync,
}

fn put(image: &mut Vec<u8>, offset: u64, data: &[u8]) -> io::Result<()> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(data);
    Ok(())
}

impl Platter {
    /// A disk with something on it, whose power is cut at its `cut_at`th write, sync or change of length.
    pub fn new(image: Vec<u8>, cut_at: u64, sync: Sync) -> Platter {
        let state = State {
            view: image.clone(),
            durable: image,
            pending: Vec::new(),
            operations: 0,
            syncs: 0,
            cut_at,
            cut: false,
        };
        Platter {
            state: Arc::new(Mutex::new(state)),
            sync,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power at the `count`th write, sync or change of length from now on, unless it is cut earlier.
    pub fn cut_after(&self, count: u64) {
        let mut state = self.lock();
        state.cut_at = state.cut_at.min(state.operations + count);
    }

    /// Whether the power was cut.
    pub fn is_cut(&self) -> bool {
        self.lock().cut
    }

    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.cut {
            Err(io::Error::other("the power is cut"))
        } else {
            Ok(state)
        }
    }

    /// Counts a change; the one that the power goes away at is under way, and fails.
    fn step(state: &mut State) -> io::Result<()> {
        state.operations += 1;
        if state.operations < state.cut_at {
            return Ok(());
        }
        state.cut = true;
        Err(io::Error::other("the power is cut"))
    }

    /// What is found when the power is back: all that was synced, and of the rest whatever chance says, sector by sector.
    pub fn after_cut(&self, chance: &mut StdRng) -> Vec<u8> {
        let state = self.lock();
        let mut image = state.durable.clone();
        // Sometimes next to nothing arrived, sometimes nearly everything.
        let arrives: f64 = [0.02, 0.3, 0.5, 0.7, 0.98][chance.random_range(0..5)];
        for pending in &state.pending {
            match pending {
                Pending::Length(length) => {
                    if chance.random_bool(arrives) {
                        image.resize(usize::try_from(*length).unwrap_or(usize::MAX), 0);
                    }
                }
                Pending::Write(offset, data) => {
                    let whole = chance.random_bool(0.5);
                    let all = chance.random_bool(arrives);
                    for (at, sector) in data.chunks(SECTOR).enumerate() {
                        let offset = usize::try_from(*offset).unwrap_or(usize::MAX) + at * SECTOR;
                        let kept = if whole { all } else { chance.random_bool(arrives) };
                        // Beyond a length that did not arrive there is nothing to be found.
                        if kept && let Some(place) = image.get_mut(offset..offset + sector.len()) {
                            place.copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        image
    }
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.live()?.view.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.live()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = state.view.get(start..start + out.len());
        out.copy_from_slice(found.ok_or_else(|| io::Error::other("read past the end"))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.live()?;
        state.pending.push(Pending::Length(len));
        state.view.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Platter::step(&mut state)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.live()?;
        state.syncs += 1;
        Platter::step(&mut state)?;
        let does = match self.sync {
            Sync::Honest => true,
            Sync::Never => false,
            Sync::Sometimes => state.syncs.is_multiple_of(2),
        };
        if does {
            for pending in std::mem::take(&mut state.pending) {
                match pending {
                    Pending::Length(length) => state.durable.resize(usize::try_from(length).map_err(io::Error::other)?, 0),
                    Pending::Write(offset, data) => put(&mut state.durable, offset, &data)?,
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.live()?;
        state.pending.push(Pending::Write(offset, data.to_vec()));
        put(&mut state.view, offset, data)?;
        Platter::step(&mut state)
    }
}
