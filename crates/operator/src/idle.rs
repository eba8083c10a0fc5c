//! Which machines that nobody needs are on: one task asks `lifecycle::idle` about all of a class together, and each machine's own reconcile is told what is wanted of it.
//!
//! Invariant: nothing is written here. What was planned is kept until the next pass; whoever starts anew knows no plan, and leaves machines as they are until it has one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{BareMetalDiscovery, BareMetalHardware, BareMetalHardwareClass, IdlePolicy};
use jiff::Timestamp;
use kube::ResourceExt;
use lifecycle::idle::{IdleFacts, Member, Rules, Wanted, can_come_back, place, plan};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::Key,
    power::drivers,
    world::{World, index},
};

/// Pause between two passes: changes come in bursts, and nothing of this is urgent.
const PAUSE: Duration = Duration::from_millis(250);
/// A pass is made after this time at the latest.
const AGAIN: Duration = Duration::from_secs(600);

/// What was planned.
#[derive(Debug, Default)]
pub struct Idle {
    wake: Notify,
    /// By the hardware's name.
    wanted: Mutex<HashMap<String, Wanted>>,
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a pass.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Whether what its class says can matter to no machine.
fn says_nothing(class: &BareMetalHardwareClass) -> bool {
    class.spec.idle.as_ref().is_none_or(|idle| idle.policy == IdlePolicy::Stay)
}

/// Whether a machine is to be off while nobody needs it, or is, whatever its class says.
pub(crate) fn concerns(hardware: &BareMetalHardware) -> bool {
    hardware.spec.idle_policy == Some(IdlePolicy::PowerOff) || hardware.status.as_ref().is_some_and(|s| s.idle.is_some())
}

fn rules(world: &World, class: Option<&str>) -> Rules {
    let class = class.and_then(|name| world.classes.by_name(name));
    Rules::of(class.as_deref())
}

/// For the decision about a machine.
pub(crate) fn facts(world: &World, hardware: &BareMetalHardware) -> IdleFacts {
    IdleFacts {
        policy: rules(world, hardware.spec.class.as_deref()).policy_of(hardware),
        wanted: world.idle.lock().get(&hardware.name_any()).copied().unwrap_or_default(),
    }
}

/// A free machine with what was seen of it.
type Seen = (Arc<BareMetalHardware>, Option<Arc<BareMetalDiscovery>>);

/// One pass over everything that is free: the machines of which something else is wanted than before, and when the next pass is due.
fn pass(world: &World, now: Timestamp) -> (Vec<Key>, Option<Timestamp>) {
    let mut classes: BTreeMap<Option<String>, Vec<Seen>> = BTreeMap::new();
    if world.classes.all().iter().any(|c| !says_nothing(c)) || world.hardware.count_by(index::IDLE, "") > 0 {
        for machine in world.hardware.by(index::FREE, "") {
            // One that an instance named is as good as claimed.
            if world.instances.count_by(index::HARDWARE, &machine.name_any()) > 0 {
                continue;
            }
            let discovery = world.discoveries.by_name(&machine.spec.discovery_name);
            classes.entry(machine.spec.class.clone()).or_default().push((machine, discovery));
        }
    }
    let (mut wanted, mut again) = (HashMap::new(), None::<Timestamp>);
    for (class, machines) in classes {
        let rules = rules(world, class.as_deref());
        if rules.policy == IdlePolicy::Stay && !machines.iter().any(|(m, _)| concerns(m)) {
            continue;
        }
        let names: Vec<String> = machines.iter().map(|(m, _)| m.name_any()).collect();
        let members: Vec<Member<'_>> = machines
            .iter()
            .zip(&names)
            .filter_map(|((machine, discovery), name)| {
                Some(Member {
                    name,
                    policy: rules.policy_of(machine),
                    place: place(machine, discovery.as_deref())?,
                    can_come_back: can_come_back(machine.spec.power.as_ref().and_then(drivers::can)),
                })
            })
            .collect();
        let plan = plan(&rules, &members, now);
        wanted.extend(members.iter().zip(plan.wanted).map(|(m, wanted)| (m.name.to_owned(), wanted)));
        again = again.into_iter().chain(plan.again).min();
    }
    let mut known = world.idle.lock();
    let changed = |name: &&String| known.get(*name) != wanted.get(*name);
    let news = wanted.keys().filter(changed).map(|name| Key::cluster(name.clone())).collect();
    *known = wanted;
    (news, again)
}

/// Passes until `stop`.
pub(crate) async fn run(world: &Arc<World>, stop: CancellationToken) {
    // Without its class a machine that sleeps would look as if it were to stay on.
    tokio::select! {
        () = stop.cancelled() => return,
        () = world.classes.wait_ready() => {}
    }
    let mut after = Duration::ZERO;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = world.idle.wake.notified() => {}
            () = tokio::time::sleep(after) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let started = Instant::now();
        let task = Arc::clone(world);
        let now = Timestamp::now();
        // A long pass must not hold up the runtime's other tasks.
        match tokio::task::spawn_blocking(move || pass(&task, now)).await {
            Ok((changed, again)) => {
                world.metrics.decided("Idle", started.elapsed());
                for key in changed {
                    world.queues.hardware.add(key);
                }
                let until = again.and_then(|then| Duration::try_from(then.duration_since(Timestamp::now())).ok());
                after = match again {
                    Some(_) => until.unwrap_or_default().min(AGAIN),
                    None => AGAIN,
                };
            }
            // The runtime is being shut down.
            Err(error) if error.is_cancelled() => return,
            Err(error) => {
                world.metrics.reconciled("Idle", "panic", started.elapsed());
                tracing::error!(%error, "planning which machines are off failed");
                after = AGAIN;
            }
        }
    }
}
