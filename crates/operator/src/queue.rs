//! Keyed work queue: what has to be looked at, when, and never the same thing twice at once.
//!
//! A key is in at most one of three states: due, waiting for its time, or being worked on. Adding a key that is being worked on makes it due again when that ends; adding one
//! that waits moves it to the earlier of the two times. So a burst of changes costs one reconcile, and no change is lost.
//! A reconcile that panics is caught, counted and logged, and its key is tried again like after any error.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    fmt::Display,
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::{sync::Notify, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{error::Result, metrics::Metrics};

/// What a reconcile asks of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: a change will wake the key.
    Rest,
    /// Look again after this time, if no change comes before.
    After(Duration),
    /// The write met a newer object; look again as soon as the watch may have delivered it.
    Conflict,
}

#[derive(Debug)]
struct State<K> {
    due: VecDeque<K>,
    /// Keys in `due`.
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Running keys that were added meanwhile.
    again: HashSet<K>,
    /// When a waiting key becomes due. The heap may hold older entries; this map is right.
    waiting: HashMap<K, Instant>,
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    heap_keys: HashMap<u64, K>,
    counter: u64,
    failures: HashMap<K, u32>,
}

/// The queue.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                due: VecDeque::new(),
                queued: HashSet::new(),
                running: HashSet::new(),
                again: HashSet::new(),
                waiting: HashMap::new(),
                heap: BinaryHeap::new(),
                heap_keys: HashMap::new(),
                counter: 0,
                failures: HashMap::new(),
            }),
            wake: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    // Nothing in here panics while the lock is held; should it, the queue's sets are still usable.
    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a key due now.
    pub fn add(&self, key: K) {
        {
            let mut state = self.lock();
            state.waiting.remove(&key);
            state.make_due(key);
        }
        self.wake.notify_one();
    }

    /// Makes a key due after `delay`, unless it is due earlier anyway.
    pub fn add_after(&self, key: K, delay: Duration) {
        {
            let mut state = self.lock();
            let at = Instant::now() + delay;
            if state.queued.contains(&key) || state.waiting.get(&key).is_some_and(|t| *t <= at) {
                return;
            }
            state.waiting.insert(key.clone(), at);
            let id = state.counter;
            state.counter += 1;
            state.heap.push(Reverse((at, id)));
            state.heap_keys.insert(id, key);
        }
        self.wake.notify_one();
    }

    /// How many keys are due.
    pub fn depth(&self) -> usize {
        self.lock().due.len()
    }

    /// The next due key; it counts as being worked on until [`Queue::done`].
    pub async fn take(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let sleep = {
                let mut state = self.lock();
                let earliest = state.ripen(Instant::now());
                if let Some(key) = state.due.pop_front() {
                    state.queued.remove(&key);
                    state.running.insert(key.clone());
                    if !state.due.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                earliest
            };
            match sleep {
                Some(at) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// Ends the work on a key.
    pub fn done(&self, key: &K) {
        let woken = {
            let mut state = self.lock();
            state.running.remove(key);
            let again = state.again.remove(key);
            if again {
                state.waiting.remove(key);
                state.make_due(key.clone());
            }
            again
        };
        if woken {
            self.wake.notify_one();
        }
    }

    fn failed(&self, key: &K) -> u32 {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        *failures = failures.saturating_add(1);
        *failures
    }

    fn succeeded(&self, key: &K) {
        self.lock().failures.remove(key);
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn make_due(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.due.push_back(key);
        }
    }

    /// Moves what has come of age to `due`; returns when the next does.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((at, id))) = self.heap.peek().copied() {
            let current = self.heap_keys.get(&id).is_some_and(|k| self.waiting.get(k) == Some(&at));
            if current && at > now {
                return Some(at);
            }
            self.heap.pop();
            if let Some(key) = self.heap_keys.remove(&id)
                && current
            {
                self.waiting.remove(&key);
                self.make_due(key);
            }
        }
        None
    }
}

/// Time to wait after the `failures`-th failure in a row: doubled from 100 ms up to a minute, with jitter of half.
pub fn backoff(failures: u32) -> Duration {
    let base = 100u64.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(60_000);
    Duration::from_millis(base / 2 + rand::random::<u64>() % (base / 2 + 1))
}

/// Works on a queue until `stop`; then lets what runs end. At most `concurrency` keys are worked on at once.
pub async fn run<K, F, R>(
    kind: &'static str,
    queue: Arc<Queue<K>>,
    concurrency: usize,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Clone + Eq + Hash + Display + Send + Sync + 'static,
    F: Fn(K) -> R,
    R: Future<Output = Result<Next>> + Send + 'static,
{
    let mut running = JoinSet::new();
    loop {
        while running.len() >= concurrency {
            report_join(kind, running.join_next().await);
        }
        let key = tokio::select! {
            () = stop.cancelled() => break,
            key = queue.take() => key,
            // Only reaps: keeps the set from growing while the queue is quiet.
            ended = running.join_next(), if !running.is_empty() => {
                report_join(kind, ended);
                continue;
            }
        };
        let queue = Arc::clone(&queue);
        let metrics = Arc::clone(&metrics);
        let work = reconcile(key.clone());
        running.spawn(async move {
            let started = Instant::now();
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            let (result, next) = match outcome {
                Ok(Ok(next)) => {
                    queue.succeeded(&key);
                    (if next == Next::Conflict { "conflict" } else { "ok" }, Ok(next))
                }
                Ok(Err(error)) if error.is_conflict() && !error.is_already_exists() => ("conflict", Ok(Next::Conflict)),
                Ok(Err(error)) => {
                    let delay = backoff(queue.failed(&key));
                    tracing::warn!(kind, %key, error = %error.chain(), retry_ms = delay.as_millis() as u64, "reconcile failed");
                    ("error", Err(delay))
                }
                Err(panic) => {
                    let delay = backoff(queue.failed(&key).max(4));
                    tracing::error!(kind, %key, panic = panic_text(panic.as_ref()), retry_ms = delay.as_millis() as u64, "reconcile panicked");
                    ("panic", Err(delay))
                }
            };
            metrics.reconciled(kind, result, started.elapsed());
            match next {
                Ok(Next::Rest) => {}
                Ok(Next::After(delay)) | Err(delay) => queue.add_after(key.clone(), delay),
                Ok(Next::Conflict) => queue.add_after(key.clone(), Duration::from_millis(20 + rand::random::<u64>() % 60)),
            }
            queue.done(&key);
        });
    }
    while let Some(ended) = running.join_next().await {
        report_join(kind, Some(ended));
    }
}

fn report_join(kind: &'static str, ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = ended {
        tracing::error!(kind, %error, "a reconcile task ended abnormally");
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without words".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_is_worked_on_comes_again_once() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.take().await, "a");
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.depth(), 0, "not due while it runs");
        queue.done(&"a");
        assert_eq!(queue.take().await, "a");
        queue.done(&"a");
        assert_eq!(queue.depth(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_time_counts() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(30));
        assert_eq!(queue.take().await, "a");
        assert_eq!(start.elapsed().as_secs(), 5);
        queue.done(&"a");
        let more = tokio::time::timeout(Duration::from_secs(120), queue.take()).await;
        assert!(more.is_err(), "the later times were replaced, not added");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_caught_and_the_others_go_on() {
        let queue = Arc::new(Queue::default());
        let metrics = Arc::new(Metrics::new());
        let stop = CancellationToken::new();
        let (bad, good) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let worker = {
            let (bad, good) = (Arc::clone(&bad), Arc::clone(&good));
            tokio::spawn(run(
                "test",
                Arc::clone(&queue),
                2,
                Arc::clone(&metrics),
                stop.clone(),
                move |key: &'static str| {
                    let (bad, good) = (Arc::clone(&bad), Arc::clone(&good));
                    async move {
                        if key == "bad" {
                            bad.fetch_add(1, Ordering::SeqCst);
                            panic!("planted");
                        }
                        good.fetch_add(1, Ordering::SeqCst);
                        Ok(Next::Rest)
                    }
                },
            ))
        };
        queue.add("bad");
        for _ in 0..20 {
            queue.add("good");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(good.load(Ordering::SeqCst), 20);
        assert!(bad.load(Ordering::SeqCst) > 1, "tried again");
        assert!(bad.load(Ordering::SeqCst) < 20, "with growing pauses");
        assert_eq!(metrics.reconciles("test", "panic"), bad.load(Ordering::SeqCst) as u64);
        stop.cancel();
        worker.await.unwrap();
    }

    #[test]
    fn backoff_grows_and_is_bounded() {
        for failures in 1..40 {
            let delay = backoff(failures).as_millis();
            assert!((50..=60_000).contains(&delay));
        }
        assert!(backoff(30).as_millis() >= 30_000);
    }
}
