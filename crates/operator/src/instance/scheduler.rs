//! Gives machines to instances, one at a time: a single task chooses, so that two instances never get one machine from it.
//!
//! A choice is *assumed* until the instance's spec names the machine (the write is the instance controller's), the machine is taken by somebody else, or the instance goes away. That two
//! operators choose the same machine is not prevented here: the machine's `claimRef` is written by compare and swap, and decides.
//!
//! Machines that do not differ in what a choice looks at are tried as one, so that a pass over a thousand equal machines costs one look.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{BareMetalHardware, BareMetalInstance};
use kube::ResourceExt;
use lifecycle::scheduler::{Placement, schedule};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Key,
    queue::panic_text,
    world::{World, index},
};

/// Pause between two passes: changes come in bursts.
const PAUSE: Duration = Duration::from_millis(20);
/// Counts of "why pending" are told anew at most this often per instance.
const TELL_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Verdict {
    placement: Placement,
    since: Instant,
}

/// What the scheduler said of the instances that wait.
#[derive(Debug, Default)]
pub struct Scheduler {
    wake: Notify,
    /// By uid.
    verdicts: Mutex<HashMap<String, Verdict>>,
}

impl Scheduler {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Verdict>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a pass.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// What was chosen for an instance, or why nothing was.
    pub(crate) fn verdict(&self, uid: &str) -> Option<Placement> {
        self.lock().get(uid).map(|v| v.placement.clone())
    }

    /// The instance is gone.
    pub(crate) fn forget(&self, instance: &BareMetalInstance) {
        self.lock().remove(instance.metadata.uid.as_deref().unwrap_or_default());
    }
}

/// Everything of a free machine that a choice looks at, but for its name.
fn likeness(hardware: &BareMetalHardware) -> String {
    let status = hardware.status.as_ref();
    let connected = status.and_then(|s| {
        s.conditions
            .iter()
            .find(|c| c.type_ == api::conditions::AGENT_CONNECTED)
            .map(|c| &c.status)
    });
    let parts = (
        &hardware.metadata.labels,
        &hardware.spec.class,
        &hardware.spec.taints,
        status.map(|s| &s.capacity),
        connected,
        lifecycle::idle::distance(hardware),
    );
    // None of these can fail to be JSON; should one, machines of unknown likeness are merely not told apart by it.
    serde_json::to_string(&parts).unwrap_or_default()
}

/// Everything of an instance that a choice looks at.
fn wish(instance: &BareMetalInstance) -> String {
    let spec = &instance.spec;
    serde_json::to_string(&(&spec.requests, &spec.hardware_selector, &spec.class, &spec.tolerations)).unwrap_or_default()
}

/// Free machines by likeness; of each, the lowest name last.
struct Free {
    groups: Vec<Vec<Arc<BareMetalHardware>>>,
    group_of: HashMap<String, usize>,
}

impl Free {
    fn new(machines: Vec<Arc<BareMetalHardware>>) -> Self {
        let mut by_likeness: HashMap<String, usize> = HashMap::new();
        let mut free = Self {
            groups: Vec::new(),
            group_of: HashMap::new(),
        };
        for machine in machines {
            let next = free.groups.len();
            let group = *by_likeness.entry(likeness(&machine)).or_insert(next);
            if group == next {
                free.groups.push(Vec::new());
            }
            free.group_of.insert(machine.name_any(), group);
            free.groups[group].push(machine);
        }
        for group in &mut free.groups {
            group.sort_by_key(|m| std::cmp::Reverse(m.name_any()));
        }
        free
    }

    fn choose(&mut self, instance: &BareMetalInstance) -> Option<String> {
        let candidates = self.groups.iter().filter_map(|g| g.last()).map(AsRef::as_ref);
        match schedule(instance, candidates, &BTreeSet::new()) {
            Placement::Machine(name) => {
                let group = self.group_of.get(&name)?;
                self.groups[*group].retain(|m| m.name_any() != name);
                Some(name)
            }
            Placement::Pending { .. } => None,
        }
    }
}

/// One pass over everything that waits; the keys of the instances whose verdict changed.
fn pass(world: &World) -> Vec<Key> {
    let mut waiting = world.instances.by(index::WAITING, "");
    // Whoever has a machine already gets that one back, never a second.
    waiting.retain(|i| super::claimed_by(world, i.metadata.uid.as_deref().unwrap_or_default()).is_none());
    let uids: HashSet<String> = waiting.iter().filter_map(|i| i.uid()).collect();
    let mut verdicts = world.scheduler.lock();
    // An assumption ends when its instance has its machine, or its machine is not free any more.
    verdicts.retain(|uid, verdict| {
        uids.contains(uid)
            && match &verdict.placement {
                Placement::Machine(name) => world.hardware.by_name(name).is_some_and(|h| lifecycle::hardware::is_free(&h)),
                Placement::Pending { .. } => true,
            }
    });
    if waiting.is_empty() {
        return Vec::new();
    }
    let assumed: HashSet<String> = verdicts
        .values()
        .filter_map(|v| match &v.placement {
            Placement::Machine(name) => Some(name.clone()),
            Placement::Pending { .. } => None,
        })
        .collect();
    let machines = world
        .hardware
        .by(index::FREE, "")
        .into_iter()
        .filter(|m| {
            let name = m.name_any();
            !assumed.contains(&name) && world.instances.count_by(index::HARDWARE, &name) == 0
        })
        .collect();
    let mut free = Free::new(machines);
    waiting.sort_by_key(|i| (i.creation_timestamp(), i.namespace(), i.name_any()));
    let mut changed = Vec::new();
    let mut unplaced = Vec::new();
    let now = Instant::now();
    for instance in waiting {
        let uid = instance.uid().unwrap_or_default();
        let present = verdicts.get(&uid).map(|v| &v.placement);
        if matches!(present, Some(Placement::Machine(_))) {
            continue;
        }
        match free.choose(&instance) {
            Some(name) => {
                let verdict = Verdict {
                    placement: Placement::Machine(name),
                    since: now,
                };
                verdicts.insert(uid, verdict);
                changed.push(Key::of(instance.as_ref()));
            }
            None => unplaced.push((uid, instance)),
        }
    }
    unplaced.retain(|(uid, _)| verdicts.get(uid).is_none_or(|v| now.duration_since(v.since) >= TELL_AGAIN));
    if unplaced.is_empty() {
        return changed;
    }
    // Why not: every machine is looked at, once for each distinct wish.
    let all = world.hardware.all();
    let mut spoken_for: BTreeSet<String> = verdicts
        .values()
        .filter_map(|v| match &v.placement {
            Placement::Machine(name) => Some(name.clone()),
            Placement::Pending { .. } => None,
        })
        .collect();
    spoken_for.extend(
        all.iter()
            .map(|m| m.name_any())
            .filter(|n| world.instances.count_by(index::HARDWARE, n) > 0),
    );
    let mut answers: HashMap<String, Placement> = HashMap::new();
    for (uid, instance) in unplaced {
        let placement = answers
            .entry(wish(&instance))
            .or_insert_with(|| schedule(&instance, all.iter().map(AsRef::as_ref), &spoken_for))
            .clone();
        if matches!(placement, Placement::Machine(_)) {
            // It became free while this pass ran: the next one gives it away.
            world.scheduler.wake();
            continue;
        }
        let news = verdicts.get(&uid).is_none_or(|v| v.placement != placement);
        verdicts.insert(uid, Verdict { placement, since: now });
        if news {
            changed.push(Key::of(instance.as_ref()));
        }
    }
    changed
}

/// Passes until `stop`.
pub(crate) async fn run(world: &Arc<World>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = world.scheduler.wake.notified() => {}
            // Counts that were not worth telling at once.
            () = tokio::time::sleep(TELL_AGAIN) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let started = Instant::now();
        let task = Arc::clone(world);
        // A long pass must not hold up the runtime's other tasks.
        match tokio::task::spawn_blocking(move || pass(&task)).await {
            Ok(changed) => {
                world.metrics.decided("Scheduler", started.elapsed());
                for key in changed {
                    world.queues.instance.add(key);
                }
            }
            // The runtime is being shut down.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                world.metrics.reconciled("Scheduler", "panic", started.elapsed());
                let panic = error.try_into_panic().map(|p| panic_text(p.as_ref())).unwrap_or_default();
                tracing::error!(panic, "a scheduling pass panicked");
                tokio::time::sleep(Duration::from_secs(1)).await;
                world.scheduler.wake();
            }
        }
    }
}
