//! Whose turn it is to be switched on: `lifecycle::pacing` with a clock, and somebody who rings when a turn has come.
//!
//! What waits is in memory only: after a restart everybody asks again.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{BareMetalHardware, LABEL_RACK, power::PowerAct};
use jiff::Timestamp;
use kube::ResourceExt;
use lifecycle::pacing::{ClassLimits, Pace, Start, Turn, starts};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{cache::Key, world::World};

/// Whoever asks within this time of another is looked at together with it.
const GATHER: Duration = Duration::from_millis(20);
/// With nobody waiting.
const REST: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    pace: Mutex<Pace>,
    bell: Notify,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is to be started any more.
    pub(crate) fn withdraw(&self, name: &str) {
        self.lock().withdraw(name);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting()
    }
}

/// Whether an act may be carried out now.
pub(crate) fn ask(world: &World, hardware: &BareMetalHardware, act: &PowerAct) -> Turn {
    if !starts(act.kind) {
        return Turn::Now;
    }
    let class = hardware.spec.class.clone();
    let said = class.as_deref().and_then(|name| world.classes.by_name(name));
    let start = Start {
        act: act.id.clone(),
        urgent: hardware.spec.claim_ref.is_some(),
        since: act.since.0,
        rack: hardware.labels().get(LABEL_RACK).filter(|rack| !rack.is_empty()).cloned(),
        limits: said.map_or_else(ClassLimits::default, |class| ClassLimits {
            per_minute: class.spec.power.starts_per_minute,
            per_minute_per_rack: class.spec.power.starts_per_minute_per_rack,
        }),
        class,
    };
    let turns = &world.power.turns;
    let turn = turns
        .lock()
        .ask(&hardware.name_any(), &start, &world.config.lifecycle.starts, Timestamp::now());
    if turn != Turn::Now {
        turns.bell.notify_one();
    }
    turn
}

/// Rings until `stop`.
pub(crate) async fn run(world: &Arc<World>, stop: CancellationToken) {
    let limits = &world.config.lifecycle.starts;
    let turns = &world.power.turns;
    loop {
        let next = turns.lock().next(limits);
        let wait = next.map_or(REST, |then| {
            Duration::try_from(then.duration_since(Timestamp::now())).unwrap_or_default()
        });
        tokio::select! {
            () = stop.cancelled() => return,
            () = turns.bell.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        let given = turns.lock().grant(limits, Timestamp::now());
        for name in given {
            world.queues.power.add(Key::cluster(name));
        }
    }
}
