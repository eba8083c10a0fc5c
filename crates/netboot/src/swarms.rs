//! Machines that write the same packed image on the same network: who they are and who has what, in this replica's memory.
//!
//! What is decided, the crate `sharing` decides; here are the clock, the images' layouts and the words for people. Machines that ask different replicas
//! do not know of each other: nothing of this is worth a write. Only images of this replica's own store are shared: the store is what
//! sharing relieves, and the layout is its manifest's.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use image::pack::Manifest;
use sharing::{Answer, GROUP_BYTES, Layout, News, Standing, SwarmKey, Tracker, TrackerSettings};

use crate::{
    image_store::shelf::{Pack, Shelf},
    metrics::Metrics,
};

/// Most layouts that are kept; a large image's is half a megabyte.
const MOST_LAYOUTS: usize = 64;

/// Most machines that are remembered as expelled; it only keeps them from being told of twice.
const MOST_EXPELLED: usize = 4096;

/// See the module.
pub(crate) struct Swarms {
    shelf: Option<Arc<Shelf>>,
    metrics: Arc<Metrics>,
    tracker: Mutex<Tracker>,
    layouts: Mutex<HashMap<String, Arc<Layout>>>,
    /// Those with members.
    known: Mutex<BTreeSet<SwarmKey>>,
    /// Machines of which it was told that they are out.
    expelled: Mutex<BTreeSet<(SwarmKey, String)>>,
    began: Instant,
}

impl Swarms {
    /// Nobody shares yet.
    pub(crate) fn new(shelf: Option<Arc<Shelf>>, metrics: Arc<Metrics>) -> Self {
        let mut seed = [0; 8];
        // It spreads machines, and hides nothing: where there is no randomness, any other number will do.
        if getrandom::fill(&mut seed).is_err() {
            seed = u64::from(std::process::id()).to_le_bytes();
        }
        Self {
            shelf,
            metrics,
            tracker: Mutex::new(Tracker::new(TrackerSettings::default(), u64::from_le_bytes(seed))),
            layouts: Mutex::default(),
            known: Mutex::default(),
            expelled: Mutex::default(),
            began: Instant::now(),
        }
    }

    fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the pieces of an image of our store lie. `None`: it is not here.
    pub(crate) async fn layout(&self, hex: &str) -> Option<Arc<Layout>> {
        let pack = self.shelf.as_ref()?.get(hex)?;
        let known = self.layouts.lock().unwrap_or_else(PoisonError::into_inner).get(hex).cloned();
        if known.is_some() {
            return known;
        }
        let read = tokio::task::spawn_blocking(move || layout_of(&pack)).await;
        let layout = match read {
            Ok(Ok(layout)) => Arc::new(layout),
            Ok(Err(problem)) => {
                tracing::warn!(image = hex, problem, "an image's manifest cannot be read, so nobody shares it");
                return None;
            }
            Err(_) => return None,
        };
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        if layouts.len() >= MOST_LAYOUTS {
            layouts.clear();
        }
        layouts.insert(hex.to_owned(), layout.clone());
        Some(layout)
    }

    /// What a machine says, and what it is told.
    pub(crate) fn announce(&self, key: &SwarmKey, layout: &Layout, machine: &str, address: SocketAddr, news: News) -> Answer {
        let now = self.began.elapsed();
        let (answer, standings) = self.tracker().announce(now, key, layout, machine, address, news);
        self.count(key);
        for standing in standings {
            self.tell(key, &standing);
        }
        answer
    }

    fn tell(&self, key: &SwarmKey, standing: &Standing) {
        let Standing {
            machine,
            address,
            accusers,
            expelled,
        } = standing;
        self.metrics.sharing_wrong_bytes.inc();
        let is_new = || {
            let mut told = self.expelled.lock().unwrap_or_else(PoisonError::into_inner);
            if told.len() >= MOST_EXPELLED {
                told.clear();
            }
            told.insert((key.clone(), machine.clone()))
        };
        if *expelled && is_new() {
            self.metrics.sharing_expelled.inc();
            tracing::warn!(discovery = %machine, %address, said_by = ?accusers, "a machine gives others wrong bytes of their image: it is taken out of sharing; look at its memory and at who runs it");
        } else if !*expelled {
            tracing::warn!(discovery = %machine, %address, said_by = ?accusers, "a machine is said to give wrong bytes of an image; its accusers do not ask it again");
        }
    }

    /// A machine serves no longer.
    pub(crate) fn leave(&self, key: &SwarmKey, machine: &str) {
        self.tracker().leave(key, machine);
        self.count(key);
    }

    /// Machines that fell silent go from the count when anybody says something.
    fn count(&self, key: &SwarmKey) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(key) {
            known.insert(key.clone());
        }
        let tracker = self.tracker();
        known.retain(|key| tracker.members(key) > 0);
        let machines: usize = known.iter().map(|key| tracker.members(key)).sum();
        self.metrics.sharing_members.set(i64::try_from(machines).unwrap_or(i64::MAX));
    }

    /// When a machine that is told nothing in particular asks again.
    pub(crate) fn patience() -> Duration {
        TrackerSettings::default().longest_interval
    }
}

fn layout_of(pack: &Pack) -> Result<Layout, String> {
    let mut bytes = vec![0; usize::try_from(pack.manifest_bytes).unwrap_or_default()];
    pack.manifest.read_exact_at(&mut bytes, 0).map_err(|error| error.to_string())?;
    let manifest = Manifest::parse(&bytes).map_err(|error| error.to_string())?;
    Ok(Layout::new(
        manifest.chunks().iter().map(|chunk| (chunk.offset, chunk.length)),
        GROUP_BYTES,
    ))
}
