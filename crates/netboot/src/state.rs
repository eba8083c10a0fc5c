//! What every request handler of this replica shares.

use std::{
    sync::{Arc, RwLock, atomic::Ordering},
    time::Duration,
};

use crate::{
    boot::{media::Media, medium},
    config::Config,
    keys::Keys,
    limits::RateLimit,
    metrics::Metrics,
    objects::{cache::Cache, networks::Networks, seeds::Seeds, store::Store, watch::Synced},
    presence::Presence,
    progress::{Budget, Hints},
    swarms::Swarms,
    timeline::Timelines,
    wake::Wakes,
};

/// How long a machine counts as live after its latest request; a held poll keeps it live.
pub(crate) const LIVE_WINDOW: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Shared {
    pub config: Config,
    /// Port the TLS listener got.
    pub tls_port: u16,
    pub cache: Arc<Cache>,
    pub store: Arc<Store>,
    pub seeds: Arc<Seeds>,
    pub networks: Arc<Networks>,
    pub swarms: Swarms,
    pub wakes: Arc<Wakes>,
    pub presence: Arc<Presence>,
    pub hints: Arc<Hints>,
    /// Writes that can wait: progress, and timelines of boots that stopped.
    pub budget: Arc<Budget>,
    pub timelines: Arc<Timelines>,
    pub media: Arc<Media>,
    pub mediums: medium::Images,
    pub metrics: Arc<Metrics>,
    pub synced: Synced,
    pub keys: Arc<RwLock<Option<Arc<Keys>>>>,
    /// Requests for a session per source.
    pub sessions: RateLimit,
    /// Creations per source.
    pub creations: RateLimit,
    /// Boot requests per source.
    pub boots: RateLimit,
    /// Reads past the cache that a request of an unknown session may cause, per source.
    pub lookups: RateLimit,
    /// Creations in flight: two strangers at once must not both take the last place.
    pub creating: std::sync::atomic::AtomicUsize,
}

impl Shared {
    /// The keys, once they are known.
    pub(crate) fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Whether the keys are there and every kind was listed once.
    pub(crate) fn is_ready(&self) -> bool {
        self.synced.is_synced() && self.keys().is_some()
    }

    /// A hole on purpose, for the tests that must find it. In a product build there is none.
    #[cfg(feature = "planted-holes")]
    pub(crate) fn hole(&self, which: impl Fn(&crate::config::PlantedHoles) -> bool) -> bool {
        which(&self.config.holes)
    }
}

/// A place among the unaccepted, held while the object is being created.
pub(crate) struct Creating<'a>(&'a Shared);

impl<'a> Creating<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Option<Self> {
        let before = shared.creating.fetch_add(1, Ordering::AcqRel);
        let place = Self(shared);
        (shared.cache.unaccepted() + before < shared.config.quotas.unaccepted).then_some(place)
    }
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        self.0.creating.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Expands to whether a hole was planted; to `false` where they cannot be.
macro_rules! planted {
    ($shared:expr, $hole:ident) => {{
        #[cfg(feature = "planted-holes")]
        {
            $shared.hole(|h| h.$hole)
        }
        #[cfg(not(feature = "planted-holes"))]
        {
            false
        }
    }};
}
pub(crate) use planted;
