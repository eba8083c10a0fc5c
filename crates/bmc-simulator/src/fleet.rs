//! All controllers, and which is meant by an address.

use std::{net::Ipv4Addr, sync::Arc};

use crate::{bmc::Bmc, counters::Counters, faults::Faults, redfish::Rewrite};

/// All controllers of a simulator.
pub struct Fleet {
    first: Ipv4Addr,
    all: Vec<Arc<Bmc>>,
    faults: Arc<Faults>,
    counters: Arc<Counters>,
    rewrite: Option<Rewrite>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("first", &self.first)
            .field("controllers", &self.all.len())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    pub(crate) fn new(first: Ipv4Addr, all: Vec<Arc<Bmc>>, faults: Arc<Faults>, counters: Arc<Counters>, rewrite: Option<Rewrite>) -> Self {
        Self {
            first,
            all,
            faults,
            counters,
            rewrite,
        }
    }

    /// The controller at this address.
    #[must_use]
    pub fn at(&self, address: Ipv4Addr) -> Option<Arc<Bmc>> {
        let index = u32::from(address).checked_sub(u32::from(self.first))?;
        self.all.get(usize::try_from(index).ok()?).cloned()
    }

    /// All, in the order of their numbers.
    #[must_use]
    pub fn all(&self) -> &[Arc<Bmc>] {
        &self.all
    }

    /// The controller of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Arc<Bmc>> {
        let index: usize = name.strip_prefix("bmc-")?.parse().ok()?;
        self.all.get(index).filter(|bmc| bmc.name == name)
    }

    /// The faults that are set.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) const fn rewrite(&self) -> Option<&Rewrite> {
        self.rewrite.as_ref()
    }
}
