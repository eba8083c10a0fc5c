//! One simulated controller: its machines, sessions, tasks and drives, and whom it lets in.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    counters::Counters,
    faults::{Conduct, Faults, Mishap, Operation, Protocol},
    host::{Command, Host, Power},
    machine::{Boot, Source},
    profile::Profile,
    redfish::eventing::{Listener, Subscribed},
};

/// Who is let in.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("user", &self.user).finish_non_exhaustive()
    }
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub id: u64,
    pub used: Instant,
}

/// Something that takes time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub done: Instant,
}

/// A virtual drive.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded {
    pub image: Option<String>,
    pub inserted: bool,
}

/// What a controller remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub sessions: HashMap<String, Session>,
    pub opened: u64,
    pub tasks: BTreeMap<u64, Task>,
    /// By machine and the drive's name.
    pub drives: HashMap<(usize, String), Loaded>,
    /// By number. Of places that are always there, free ones have nothing in them.
    pub subscriptions: BTreeMap<u64, Option<Subscribed>>,
    pub subscribed: u64,
    pub streams: Vec<Listener>,
    pub told: u64,
    /// From where boots are to go with AMT's configuration, until that is used.
    pub amt_order: Option<Source>,
}

/// A controller.
#[derive(Debug)]
pub struct Bmc {
    /// Its number, from 0.
    pub index: usize,
    /// Its name: `bmc-` and the number.
    pub name: String,
    /// The address at which it is meant.
    pub address: Ipv4Addr,
    /// What kind it is.
    pub profile: Arc<Profile>,
    /// Its machines.
    pub hosts: Vec<Arc<Host>>,
    pub(crate) access: Access,
    pub(crate) faults: Arc<Faults>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ipmi: Mutex<crate::ipmi::Sessions>,
    pub(crate) nonces: crate::digest::Nonces,
    requests: AtomicU64,
    /// Whether the plug before its first machine lets current through.
    relay: AtomicBool,
    memory: Mutex<Memory>,
}

/// A machine, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Its power.
    pub power: Power,
    /// Its boots, the latest last.
    pub boots: Vec<Boot>,
}

/// A controller, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its profile's name.
    pub profile: String,
    /// Sessions of Redfish that are open.
    pub sessions: usize,
    /// Subscriptions to its events.
    pub subscriptions: usize,
    /// Streams of its events that are open.
    pub streams: usize,
    /// Requests of all protocols.
    pub requests: u64,
    /// Its machines, by their names in Redfish.
    pub systems: BTreeMap<String, Seen>,
}

impl Bmc {
    pub(crate) fn new(
        index: usize,
        address: Ipv4Addr,
        profile: Arc<Profile>,
        hosts: Vec<Arc<Host>>,
        access: Access,
        faults: Arc<Faults>,
        counters: Arc<Counters>,
    ) -> Self {
        let bmc = Self {
            index,
            name: format!("bmc-{index}"),
            address,
            profile,
            relay: AtomicBool::new(hosts.first().is_some_and(|host| host.power().is_on())),
            hosts,
            access,
            faults,
            counters,
            ipmi: Mutex::default(),
            nonces: crate::digest::Nonces::default(),
            requests: AtomicU64::new(0),
            memory: Mutex::default(),
        };
        bmc.make_places();
        bmc
    }

    /// It starts anew: sessions, tasks and streams are gone. Subscriptions stay, unless a fault has them lost.
    pub fn restart(&self) {
        let forgets = self.faults.forgets(self.index, &self.name);
        {
            let mut memory = self.memory();
            memory.sessions.clear();
            memory.tasks.clear();
            memory.streams.clear();
            if forgets {
                memory.subscriptions.clear();
            }
        }
        if forgets {
            self.make_places();
        }
    }

    fn make_places(&self) {
        if let Some(events) = self.profile.events.as_ref().filter(|events| events.places.is_some()) {
            self.memory().subscriptions = (1..=events.most as u64).map(|id| (id, None)).collect();
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sessions) = &self.profile.sessions {
            let longest = Duration::from_secs(sessions.timeout_seconds);
            memory.sessions.retain(|_, session| session.used.elapsed() < longest);
        }
        memory
    }

    /// Counts a request, and says what goes wrong with it.
    pub(crate) fn asked(&self, protocol: Protocol, operation: Operation, reads: bool) -> Mishap {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.counters.request(protocol, operation);
        self.faults.mishap(self.index, &self.name, protocol, operation, reads)
    }

    /// How its machines behave now.
    pub(crate) fn conduct(&self, protocol: Protocol) -> Conduct {
        self.faults.conduct(self.index, &self.name, protocol)
    }

    pub(crate) fn relay(&self) -> bool {
        self.relay.load(Ordering::SeqCst)
    }

    pub(crate) fn set_relay(&self, on: bool) {
        self.relay.store(on, Ordering::SeqCst);
    }

    /// A person plugs a machine in and presses its button.
    pub fn press(&self, system: usize) {
        if system == 0 {
            self.set_relay(true);
        }
        if let Some(host) = self.hosts.get(system) {
            host.tell(Command::On, Conduct::default());
        }
    }

    /// The UUID of a machine: its own, or made of numbers that say which it is.
    #[must_use]
    pub fn uuid(&self, system: usize) -> String {
        if let Some(own) = self.hosts.get(system).and_then(|host| host.machine().uuid()) {
            return own;
        }
        format!("6b6d6273-696d-4000-8000-{:08x}{system:04x}", self.index)
    }

    /// The UUID of its Redfish service.
    #[must_use]
    pub fn service_uuid(&self) -> String {
        self.uuid(0xffff)
    }

    fn filled(&self, template: &str, system: usize) -> String {
        let counted = if system == 0 { String::new() } else { (system + 1).to_string() };
        template
            .replace("{n}", &(system + 1).to_string())
            .replace("{0}", &system.to_string())
            .replace("{+}", &counted)
            .replace("{uuid}", &self.uuid(system))
    }

    /// The name of a machine in Redfish.
    #[must_use]
    pub fn system_id(&self, system: usize) -> String {
        self.filled(&self.profile.paths.system, system)
    }

    /// The name of a machine's manager in Redfish.
    #[must_use]
    pub fn manager_id(&self, system: usize) -> String {
        self.filled(&self.profile.paths.manager, system)
    }

    /// Sessions of Redfish that are open.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.memory().sessions.len()
    }

    /// Subscriptions to its events.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.memory().subscriptions.values().flatten().count()
    }

    /// Where its events are sent.
    #[must_use]
    pub fn destinations(&self) -> Vec<String> {
        self.memory()
            .subscriptions
            .values()
            .flatten()
            .map(|one| one.destination.clone())
            .collect()
    }

    /// Streams of its events that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.memory().streams.iter().filter(|stream| !stream.is_closed()).count()
    }

    /// Requests of all protocols.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// How it is.
    #[must_use]
    pub fn shown(&self) -> Shown {
        let seen = |(system, host): (usize, &Arc<Host>)| {
            let seen = Seen {
                power: host.power(),
                boots: host.boots(),
            };
            (self.system_id(system), seen)
        };
        Shown {
            name: self.name.clone(),
            address: self.address,
            profile: self.profile.name.clone(),
            sessions: self.sessions(),
            subscriptions: self.subscriptions(),
            streams: self.streams(),
            requests: self.requests(),
            systems: self.hosts.iter().enumerate().map(seen).collect(),
        }
    }
}
