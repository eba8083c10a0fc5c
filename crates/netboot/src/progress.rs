//! Progress hints under one write budget. The newest value per machine wins; what is replaced before it was written is dropped. A hint is written by
//! compare and swap once, and dropped when somebody else wrote first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use agent_protocol::order::Progress;

use crate::{
    metrics::Metrics,
    objects::{cache::Cache, store::Store},
};

/// At most one write per machine within this time.
const PER_MACHINE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(250);

/// Writes that can wait, of this replica: so many a second, and as many at once.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: f64,
    credit: Mutex<(f64, Instant)>,
}

impl Budget {
    pub(crate) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            credit: Mutex::new((per_second * TICK.as_secs_f64(), Instant::now())),
        }
    }

    fn credit(&self) -> MutexGuard<'_, (f64, Instant)> {
        let mut credit = self.credit.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let passed = credit.1.elapsed().as_secs_f64();
        *credit = ((credit.0 + passed * self.per_second).min(self.per_second.max(1.0)), Instant::now());
        credit
    }

    /// Takes one write, if there is one.
    pub(crate) fn take(&self) -> bool {
        let mut credit = self.credit();
        let enough = credit.0 >= 1.0;
        if enough {
            credit.0 -= 1.0;
        }
        enough
    }

    /// Takes all that may be written right now.
    fn take_all(&self) -> usize {
        let mut credit = self.credit();
        let whole = credit.0.floor();
        credit.0 -= whole;
        whole as usize
    }

    /// Gives back what was taken and not needed.
    fn give_back(&self, count: usize) {
        self.credit().0 += count as f64;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hint {
    pub order_id: String,
    pub progress: Progress,
}

#[derive(Debug, Default)]
struct Queue {
    newest: HashMap<String, Hint>,
    /// Machines with a hint, in the order in which they are served.
    turn: VecDeque<String>,
    written: HashMap<String, Instant>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hints {
    queue: Mutex<Queue>,
    budget: Arc<Budget>,
}

impl Hints {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Self {
            queue: Mutex::default(),
            budget,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps a hint; true when it replaced one that was never written.
    pub(crate) fn put(&self, machine: &str, hint: Hint) -> bool {
        let mut queue = self.queue();
        let replaced = queue.newest.insert(machine.to_owned(), hint).is_some();
        if !replaced {
            queue.turn.push_back(machine.to_owned());
        }
        replaced
    }

    /// A result makes hints pointless.
    pub(crate) fn forget(&self, machine: &str) {
        self.queue().newest.remove(machine);
    }

    /// Up to `count` hints whose machines may be written again.
    fn take(&self, count: usize, now: Instant) -> Vec<(String, Hint)> {
        let mut queue = self.queue();
        queue.written.retain(|_, at| now.saturating_duration_since(*at) < PER_MACHINE);
        let mut taken = Vec::new();
        for _ in 0..queue.turn.len() {
            if taken.len() == count {
                break;
            }
            let Some(machine) = queue.turn.pop_front() else { break };
            if queue.written.contains_key(&machine) {
                queue.turn.push_back(machine);
                continue;
            }
            let Some(hint) = queue.newest.remove(&machine) else { continue };
            queue.written.insert(machine.clone(), now);
            taken.push((machine, hint));
        }
        taken
    }

    /// Writes hints until the process ends.
    pub(crate) async fn run(self: Arc<Self>, store: Arc<Store>, cache: Arc<Cache>, metrics: Arc<Metrics>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if !store.is_reachable() {
                continue;
            }
            let granted = self.budget.take_all();
            let batch = self.take(granted, Instant::now());
            self.budget.give_back(granted - batch.len());
            for (machine, hint) in batch {
                write(&store, &cache, &metrics, &machine, hint).await;
            }
        }
    }
}

async fn write(store: &Store, cache: &Cache, metrics: &Metrics, machine: &str, hint: Hint) {
    let Some(known) = cache.discovery(machine) else { return };
    let mut new = known.as_ref().clone();
    let Some(status) = new.status.as_mut() else { return };
    let current = status.accepted_order.as_ref().is_some_and(|a| a.id == hint.order_id);
    let finished = status.result.as_ref().is_some_and(|r| r.order_id == hint.order_id);
    if !current || finished || status.progress == Some(hint.progress) {
        return;
    }
    status.progress = Some(hint.progress);
    metrics.progress_written.inc();
    if let Err(error) = store.replace_discovery(&new).await {
        if error.is_conflict() {
            metrics.conflicts.inc();
        }
        tracing::debug!(machine, error = %crate::error::chain(&error), "a progress hint was dropped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::order::Step;

    fn hint(done_bytes: u64) -> Hint {
        Hint {
            order_id: "o".to_owned(),
            progress: Progress::of(Step::Writing, done_bytes, 100),
        }
    }

    #[test]
    fn a_budget_is_given_once_and_comes_back_with_time() {
        let budget = Budget::new(40);
        let granted = budget.take_all();
        assert!((8..=40).contains(&granted), "what a tick brings: {granted}");
        assert!(!budget.take());
        budget.give_back(2);
        assert!(budget.take() && budget.take() && !budget.take());
        std::thread::sleep(Duration::from_millis(60));
        assert!(budget.take(), "40 a second");
    }

    #[test]
    fn the_newest_value_wins_and_every_machine_has_its_turn() {
        let hints = Hints::new(Arc::new(Budget::new(20)));
        let now = Instant::now();
        assert!(!hints.put("a", hint(1)));
        assert!(hints.put("a", hint(2)), "replaced");
        hints.put("b", hint(3));
        hints.put("c", hint(4));
        assert_eq!(hints.take(2, now), [("a".to_owned(), hint(2)), ("b".to_owned(), hint(3))]);
        hints.put("a", hint(5));
        assert_eq!(hints.take(2, now), [("c".to_owned(), hint(4))], "a had its turn within two seconds");
        assert_eq!(hints.take(2, now + PER_MACHINE), [("a".to_owned(), hint(5))]);
        hints.put("a", hint(6));
        hints.forget("a");
        assert!(hints.take(9, now + 2 * PER_MACHINE).is_empty());
    }
}
