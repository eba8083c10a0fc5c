//! Wakes the requests that wait for news of one machine. An event costs one lookup; a machine nobody waits for costs nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

type Table = HashMap<String, (Arc<Notify>, usize)>;

/// One bell per machine somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    table: Mutex<Table>,
}

/// Somebody who waits; leaves when dropped.
pub(crate) struct Waiter {
    wakes: Arc<Wakes>,
    name: String,
    bell: Arc<Notify>,
}

impl Wakes {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn wait_for(self: &Arc<Self>, name: &str) -> Waiter {
        let mut table = self.table();
        let entry = table.entry(name.to_owned()).or_default();
        entry.1 += 1;
        Waiter {
            wakes: self.clone(),
            name: name.to_owned(),
            bell: entry.0.clone(),
        }
    }

    pub(crate) fn wake(&self, name: &str) {
        if let Some((bell, _)) = self.table().get(name) {
            bell.notify_waiters();
        }
    }
}

impl Waiter {
    /// Enabled at once: a wake-up after this call is not missed, even before it is awaited.
    pub(crate) fn next(&self) -> std::pin::Pin<Box<tokio::sync::futures::Notified<'_>>> {
        let mut notified = Box::pin(self.bell.notified());
        notified.as_mut().enable();
        notified
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut table = self.wakes.table();
        if let Some(entry) = table.get_mut(&self.name) {
            entry.1 -= 1;
            if entry.1 == 0 {
                table.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_up_before_the_await_is_not_missed() {
        let wakes = Arc::new(Wakes::default());
        let waiter = wakes.wait_for("a");
        let next = waiter.next();
        wakes.wake("b");
        wakes.wake("a");
        next.await;
        drop(waiter);
        assert!(wakes.table().is_empty());
    }
}
