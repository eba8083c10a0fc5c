//! The judge: reads the API's watch streams and what really happened on the machines, and says whether anything happened that must never happen.
//!
//! It trusts no condition, event or log of the operator. From the watch streams it keeps, of every version of every object it was sent, the few fields that decide; the rules are pure
//! functions over that record ([`judge`]), so that a planted double bind is seen to be found.
//!
//! Where a watch was interrupted (the server was killed), versions may be missing: a record says so, and a rule that needs neighbouring versions does not look across the gap.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::order::OrderKind;
use api::{BareMetalDiscovery, BareMetalHardware, BareMetalInstance, HardwarePhase, InstancePhase, instance::RunningEvidence};
use futures::StreamExt;
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::Notify, task::JoinSet};

use super::{driver::Entry, machine::Fact};

/// So much later than the server the judge may hear of something.
const LATE: Duration = Duration::from_secs(2);

/// One version of one object, or its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Since the swarm began.
    pub at: Duration,
    /// Its resourceVersion.
    pub version: u64,
    /// Name, with the namespace for namespaced kinds.
    pub name: String,
    /// It is the first of its name after a gap: versions before it may be missing.
    pub gap: bool,
    /// What it says.
    pub seen: Seen,
}

/// What a version says, as far as it decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    /// A BareMetalDiscovery.
    Discovery {
        /// MAC of its session.
        mac: Option<[u8; 6]>,
    },
    /// A BareMetalHardware.
    Hardware {
        /// `status.phase`.
        phase: HardwarePhase,
        /// `spec.claimRef.uid`.
        claim: Option<String>,
        /// `status.order` where it is destructive: id, kind, claim.
        order: Option<(String, OrderKind, String)>,
        /// Claim of `status.lastErase`.
        erased: Option<String>,
        /// Claim of `status.installed`.
        installed: Option<String>,
        /// `status.reason`.
        reason: String,
    },
    /// A BareMetalInstance.
    Instance {
        /// Its uid.
        uid: String,
        /// `spec.hardwareName`.
        hardware: Option<String>,
        /// `status.phase`.
        phase: InstancePhase,
        /// `status.evidence`.
        evidence: Option<RunningEvidence>,
        /// It is being deleted.
        deleting: bool,
        /// `status.reason`.
        reason: String,
    },
    /// Gone.
    Gone {
        /// Which kind.
        kind: Kind,
    },
}

/// A watched kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// BareMetalDiscovery.
    Discovery,
    /// BareMetalHardware.
    Hardware,
    /// BareMetalInstance.
    Instance,
}

impl Seen {
    /// Of which kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Discovery { .. } => Kind::Discovery,
            Self::Hardware { .. } => Kind::Hardware,
            Self::Instance { .. } => Kind::Instance,
            Self::Gone { kind } => *kind,
        }
    }
}

trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static {
    const KIND: Kind;
    fn seen(&self) -> Seen;
}

impl Watched for BareMetalDiscovery {
    const KIND: Kind = Kind::Discovery;
    fn seen(&self) -> Seen {
        Seen::Discovery {
            mac: self.status.as_ref().and_then(|s| Some(s.session.as_ref()?.boot_mac.0)),
        }
    }
}

impl Watched for BareMetalHardware {
    const KIND: Kind = Kind::Hardware;
    fn seen(&self) -> Seen {
        let status = self.status.clone().unwrap_or_default();
        let order = status.order.filter(|o| o.kind.is_destructive());
        Seen::Hardware {
            phase: status.phase,
            claim: self.spec.claim_ref.as_ref().map(|c| c.uid.clone()),
            order: order.map(|o| (o.id, o.kind, o.claim.map(|c| c.uid).unwrap_or_default())),
            erased: status.last_erase.map(|e| e.claim_uid),
            installed: status.installed.map(|i| i.claim_uid),
            reason: status.reason,
        }
    }
}

impl Watched for BareMetalInstance {
    const KIND: Kind = Kind::Instance;
    fn seen(&self) -> Seen {
        let status = self.status.clone().unwrap_or_default();
        Seen::Instance {
            uid: self.uid().unwrap_or_default(),
            hardware: self.spec.hardware_name.clone(),
            phase: status.phase,
            evidence: status.evidence,
            deleting: self.metadata.deletion_timestamp.is_some(),
            reason: status.reason,
        }
    }
}

/// What is so at present, for whoever waits.
#[derive(Debug, Default)]
pub struct Present {
    /// The latest version of everything.
    pub objects: HashMap<(Kind, String), Record>,
    log: Vec<Record>,
    /// Interrupted watches.
    pub gaps: u64,
}

impl Present {
    /// Hardware in a phase.
    pub fn hardware_in(&self, wanted: HardwarePhase) -> usize {
        self.objects
            .values()
            .filter(|r| matches!(&r.seen, Seen::Hardware { phase, .. } if *phase == wanted))
            .count()
    }

    /// Hardware that is free and was switched off, because nobody needs it.
    pub fn asleep(&self) -> usize {
        let off = |r: &&Record| matches!(&r.seen, Seen::Hardware { phase: HardwarePhase::Ready, claim: None, reason, .. } if reason == "PoweredOff");
        self.objects.values().filter(off).count()
    }

    /// MAC of the session of the machine whose objects have this name.
    pub fn mac(&self, name: &str) -> Option<[u8; 6]> {
        match self.objects.get(&(Kind::Discovery, name.to_owned()))?.seen {
            Seen::Discovery { mac } => mac,
            _ => None,
        }
    }

    /// Hardware that is free, erased for a claim.
    pub fn erased(&self) -> usize {
        let free = |r: &&Record| matches!(&r.seen, Seen::Hardware { phase: HardwarePhase::Ready, claim: None, erased: Some(uid), .. } if !uid.is_empty());
        self.objects.values().filter(free).count()
    }

    /// Instances that run by their own system's word.
    pub fn running(&self) -> usize {
        let runs = |r: &&Record| {
            matches!(
                &r.seen,
                Seen::Instance {
                    phase: InstancePhase::Running,
                    evidence: Some(RunningEvidence::GuestReported),
                    ..
                }
            )
        };
        self.objects.values().filter(runs).count()
    }

    /// Instances there are.
    pub fn instances(&self) -> usize {
        self.objects.keys().filter(|(kind, _)| *kind == Kind::Instance).count()
    }

    /// Counts of phases, and the objects that are neither free nor running, at most `most`.
    pub fn waiting(&self, most: usize) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let mut lines = Vec::new();
        for ((_, name), record) in &self.objects {
            let (text, settled) = match &record.seen {
                Seen::Hardware { phase, reason, claim, .. } => (
                    format!("hardware {phase:?} {reason}"),
                    claim.is_none() && *phase == HardwarePhase::Ready || *phase == HardwarePhase::InUse,
                ),
                Seen::Instance { phase, reason, .. } => (format!("instance {phase:?} {reason}"), *phase == InstancePhase::Running),
                Seen::Discovery { .. } | Seen::Gone { .. } => continue,
            };
            if !settled {
                lines.push(format!("  {name}: {text}"));
            }
            *counts.entry(text).or_default() += 1;
        }
        lines.sort();
        lines.truncate(most);
        let counts: Vec<String> = counts.iter().map(|(text, count)| format!("{count} {text}")).collect();
        format!("{}\n{}", counts.join(", "), lines.join("\n"))
    }
}

/// A server that was killed is back within a second; a judge that looks away for longer misses what it does first.
struct Soon;

impl Iterator for Soon {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(100))
    }
}

impl Backoff for Soon {
    fn reset(&mut self) {}
}

/// Watches.
pub struct Judge {
    present: Arc<Mutex<Present>>,
    changed: Arc<Notify>,
    tasks: JoinSet<()>,
}

fn lock(present: &Mutex<Present>) -> MutexGuard<'_, Present> {
    present.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judge {
    /// Starts the watches; time counts from `start`.
    pub fn start(client: &Client, start: Instant) -> Self {
        let mut judge = Self {
            present: Arc::default(),
            changed: Arc::default(),
            tasks: JoinSet::new(),
        };
        judge.follow::<BareMetalDiscovery>(Api::all(client.clone()), start);
        judge.follow::<BareMetalHardware>(Api::all(client.clone()), start);
        judge.follow::<BareMetalInstance>(Api::all(client.clone()), start);
        judge
    }

    fn follow<K: Watched>(&mut self, api: Api<K>, start: Instant) {
        let (present, changed) = (self.present.clone(), self.changed.clone());
        self.tasks.spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).backoff(Soon).boxed();
            let mut first_list = true;
            let mut listed: BTreeSet<String> = BTreeSet::new();
            while let Some(event) = events.next().await {
                let mut present = lock(&present);
                let at = start.elapsed();
                let mut note = |object: &K, gap: bool, gone: bool| {
                    let name = match object.namespace() {
                        Some(namespace) => format!("{namespace}/{}", object.name_any()),
                        None => object.name_any(),
                    };
                    let version = object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0);
                    let seen = if gone { Seen::Gone { kind: K::KIND } } else { object.seen() };
                    present.take(Record {
                        at,
                        version,
                        name: name.clone(),
                        gap,
                        seen,
                    });
                    name
                };
                match event {
                    Ok(Event::Apply(object)) => drop(note(&object, false, false)),
                    Ok(Event::Delete(object)) => drop(note(&object, false, true)),
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(object)) => {
                        let name = note(&object, !first_list, false);
                        listed.insert(name);
                    }
                    Ok(Event::InitDone) => {
                        let gone: Vec<String> = present
                            .objects
                            .keys()
                            .filter(|(kind, name)| *kind == K::KIND && !listed.contains(name))
                            .map(|(_, name)| name.clone())
                            .collect();
                        for name in gone {
                            let seen = Seen::Gone { kind: K::KIND };
                            let version = present.objects.get(&(K::KIND, name.clone())).map_or(0, |r| r.version);
                            present.take(Record {
                                at,
                                version,
                                name,
                                gap: true,
                                seen,
                            });
                        }
                        if !first_list {
                            present.gaps += 1;
                        }
                        first_list = false;
                    }
                    // The watcher starts again by itself.
                    Err(error) => tracing::debug!(%error, "watch interrupted"),
                }
                drop(present);
                changed.notify_waiters();
            }
        });
    }

    /// Looks at what is so now.
    pub fn look<T>(&self, look: impl FnOnce(&Present) -> T) -> T {
        look(&lock(&self.present))
    }

    /// Waits until something is so, at most until `deadline`. Whether it became so.
    pub async fn until(&self, deadline: tokio::time::Instant, is_so: impl Fn(&Present) -> bool) -> bool {
        let waiting = async {
            loop {
                // Registered before looking, so that no change falls in between.
                let change = self.changed.notified();
                if is_so(&lock(&self.present)) {
                    return;
                }
                change.await;
                // Changes come by the thousand a second; looking at every one of them costs more than it tells.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout_at(deadline, waiting).await.is_ok()
    }

    /// Everything that was sent, in the order of its versions.
    pub fn records(&self) -> Vec<Record> {
        let mut records = lock(&self.present).log.clone();
        records.sort_by_key(|r| r.version);
        records
    }

    /// Ends the watches.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }
}

impl Present {
    fn take(&mut self, record: Record) {
        let key = (record.seen.kind(), record.name.clone());
        if let Some(known) = self.objects.get(&key)
            && known.version == record.version
            && known.seen == record.seen
        {
            // Listed again, unchanged.
            return;
        }
        if matches!(record.seen, Seen::Gone { .. }) {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, record.clone());
        }
        self.log.push(record);
    }
}

/// The rules, over everything that was sent and everything that happened. An empty list is an acquittal.
pub fn judge(records: &[Record], entries: &[Entry]) -> Vec<String> {
    let mut found = Vec::new();
    bindings(records, &mut found);
    claims(records, &mut found);
    orders(records, entries, &mut found);
    systems(entries, &mut found);
    switches(records, entries, &mut found);
    found.extend(entries.iter().filter_map(|e| match &e.fact {
        Fact::Wrong { what } => Some(format!("machine {}: {what}", e.machine)),
        _ => None,
    }));
    found
}

/// An instance never gets a second machine, a machine never a second instance: by `spec.hardwareName`.
fn bindings(records: &[Record], found: &mut Vec<String>) {
    let mut of_instance: HashMap<&str, &str> = HashMap::new();
    let mut of_machine: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut living: HashMap<&str, (&str, Option<&str>)> = HashMap::new();
    for record in records {
        match &record.seen {
            Seen::Instance { uid, hardware, .. } => {
                living.insert(&record.name, (uid, hardware.as_deref()));
                let Some(hardware) = hardware else { continue };
                if let Some(before) = of_instance.insert(uid, hardware)
                    && before != hardware
                {
                    found.push(format!(
                        "{} was moved from {before} to {hardware} at version {}",
                        record.name, record.version
                    ));
                }
                if let Some((other, other_name)) = of_machine.insert(hardware, (uid, &record.name))
                    && other != uid
                    && living.get(other_name).is_some_and(|(living, _)| *living == other)
                {
                    found.push(format!(
                        "{hardware} is bound to {} while {other_name} has it (version {})",
                        record.name, record.version
                    ));
                }
            }
            Seen::Gone { kind: Kind::Instance } => {
                if let Some((uid, Some(hardware))) = living.remove(record.name.as_str())
                    && of_machine.get(hardware).is_some_and(|(has, _)| *has == uid)
                {
                    of_machine.remove(hardware);
                }
            }
            _ => {}
        }
    }
}

/// A claim never changes hands without the erase of the one before, and no two machines have the same claim.
fn claims(records: &[Record], found: &mut Vec<String>) {
    let mut claim_of: HashMap<&str, Option<&str>> = HashMap::new();
    let mut holder: HashMap<&str, &str> = HashMap::new();
    for record in records {
        let Seen::Hardware { claim, erased, .. } = &record.seen else {
            continue;
        };
        let (claim, erased) = (claim.as_deref(), erased.as_deref());
        let before = claim_of.insert(&record.name, claim).flatten();
        if let Some(before) = before
            && claim != Some(before)
        {
            holder.remove(before);
            if erased != Some(before) {
                found.push(format!(
                    "{} lost the claim {before} without evidence that its disk was erased (version {})",
                    record.name, record.version
                ));
            }
            if let (Some(claim), false) = (claim, record.gap) {
                found.push(format!(
                    "{} went from the claim {before} to {claim} at once (version {})",
                    record.name, record.version
                ));
            }
        }
        if let Some(claim) = claim
            && let Some(other) = holder.insert(claim, &record.name)
            && other != record.name
        {
            found.push(format!(
                "the claim {claim} is on {other} and on {} (version {})",
                record.name, record.version
            ));
        }
    }
}

/// Everything that a machine did to its disk was ordered, for a claim that the machine had; and Running was true.
fn orders(records: &[Record], entries: &[Entry], found: &mut Vec<String>) {
    let gaps = records.iter().any(|r| r.gap);
    let mut ordered: HashMap<&str, (OrderKind, &str)> = HashMap::new();
    for record in records {
        if let Seen::Hardware {
            order: Some((id, kind, claim)),
            claim: holder,
            ..
        } = &record.seen
        {
            if !claim.is_empty() && holder.as_deref() != Some(claim) {
                found.push(format!(
                    "{}: order {id} serves {claim}, which does not have the machine (version {})",
                    record.name, record.version
                ));
            }
            ordered.insert(id, (*kind, claim));
        }
    }
    for entry in entries {
        let Fact::Begun {
            order, kind, claim, held, ..
        } = &entry.fact
        else {
            continue;
        };
        match ordered.get(order.as_str()) {
            Some((ordered, whose)) if ordered == kind && whose == claim => {}
            Some(_) => found.push(format!(
                "machine {}: order {order} is not what stands in its hardware",
                entry.machine
            )),
            None if gaps => {}
            None => found.push(format!("machine {}: order {order} never stood in any hardware", entry.machine)),
        }
        if !held.is_empty() && held != claim {
            found.push(format!(
                "machine {}: order {order} for {claim} destroyed the installation of {held}",
                entry.machine
            ));
        }
    }
    // The first word that an instance runs, against the first time its system did.
    let mut ran: HashMap<&str, Duration> = HashMap::new();
    for entry in entries {
        if let Fact::Runs { instance } = &entry.fact {
            ran.entry(instance).or_insert(entry.at);
        }
    }
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for record in records {
        if let Seen::Instance {
            uid,
            phase: InstancePhase::Running,
            evidence,
            ..
        } = &record.seen
            && told.insert(uid)
            && ran.get(uid.as_str()).is_none_or(|at| *at > record.at)
        {
            found.push(format!(
                "{} is said to run ({evidence:?}) before any machine ran it (version {})",
                record.name, record.version
            ));
        }
    }
}

/// No instance's system ever ran on two machines at once.
fn systems(entries: &[Entry], found: &mut Vec<String>) {
    let mut runs_on: HashMap<&str, BTreeSet<usize>> = HashMap::new();
    for entry in entries {
        match &entry.fact {
            Fact::Runs { instance } => {
                let machines = runs_on.entry(instance).or_default();
                machines.insert(entry.machine);
                if machines.len() > 1 {
                    found.push(format!("{instance} runs on machines {machines:?} at once"));
                }
            }
            Fact::Ends { instance } => {
                runs_on.entry(instance).or_default().remove(&entry.machine);
            }
            _ => {}
        }
    }
}

/// A BMC takes no system from an instance that is said to run and was not given back. Before that, a machine may be booted anew: one whose power failed before its agent
/// could say that all is written.
fn switches(records: &[Record], entries: &[Entry], found: &mut Vec<String>) {
    let (mut runs, mut given_back): (HashMap<&str, Duration>, HashMap<&str, Duration>) = Default::default();
    for record in records {
        if let Seen::Instance { uid, phase, deleting, .. } = &record.seen {
            if *phase == InstancePhase::Running {
                runs.entry(uid).or_insert(record.at);
            }
            if *deleting {
                given_back.entry(uid).or_insert(record.at);
            }
        }
    }
    for entry in entries {
        let Fact::Switched { instance } = &entry.fact else { continue };
        let runs = runs.get(instance.as_str()).is_some_and(|at| *at <= entry.at);
        if runs && given_back.get(instance.as_str()).is_none_or(|at| *at > entry.at + LATE) {
            found.push(format!(
                "machine {}: its BMC switched it while it ran {instance}, which nobody had given back",
                entry.machine
            ));
        }
    }
}

/// Whether all are there at the end: each machine known once, free, and erased for the instance that it had; nothing else left.
pub fn complete(records: &[Record], machines: &[[u8; 6]]) -> Vec<String> {
    let mut last: BTreeMap<(u8, &str), &Record> = BTreeMap::new();
    let mut last_claim: HashMap<&str, &str> = HashMap::new();
    for record in records {
        let kind = match record.seen.kind() {
            Kind::Discovery => 0,
            Kind::Hardware => 1,
            Kind::Instance => 2,
        };
        last.insert((kind, &record.name), record);
        if let Seen::Hardware { claim: Some(claim), .. } = &record.seen {
            last_claim.insert(&record.name, claim);
        }
    }
    let mut found = Vec::new();
    let mut macs: HashMap<[u8; 6], &str> = HashMap::new();
    let (mut discoveries, mut hardware) = (BTreeSet::new(), BTreeSet::new());
    for ((_, name), record) in last {
        match &record.seen {
            Seen::Discovery { mac } => {
                discoveries.insert(name);
                let known = mac.map(|mac| (machines.contains(&mac), macs.insert(mac, name)));
                match known {
                    Some((true, None)) => {}
                    Some((true, Some(other))) => found.push(format!("one machine is two discoveries: {name} and {other}")),
                    _ => found.push(format!("discovery {name} is no machine of the swarm")),
                }
            }
            Seen::Hardware {
                phase,
                claim,
                erased,
                reason,
                ..
            } => {
                hardware.insert(name);
                if *phase != HardwarePhase::Ready || claim.is_some() {
                    found.push(format!("hardware {name} is {phase:?} {reason}, claimed by {claim:?}"));
                }
                if erased.as_deref() != last_claim.get(name).copied() {
                    found.push(format!(
                        "hardware {name} was last erased for {erased:?}, its last claim is {:?}",
                        last_claim.get(name)
                    ));
                }
            }
            Seen::Instance { phase, reason, .. } => found.push(format!("instance {name} is still there: {phase:?} {reason}")),
            Seen::Gone { .. } => {}
        }
    }
    if discoveries != hardware {
        found.push(format!(
            "discoveries without hardware, or the other way round: {:?}",
            discoveries.symmetric_difference(&hardware)
        ));
    }
    let lost = machines.iter().filter(|mac| !macs.contains_key(*mac)).count();
    if lost > 0 {
        found.push(format!("{lost} machines are lost: no discovery is theirs"));
    }
    found
}

#[cfg(test)]
mod tests;
