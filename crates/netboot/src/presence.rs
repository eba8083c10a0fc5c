//! Who is here right now, in this replica's memory: presence costs no writes.
//!
//! A machine that should ask and has been silent for too long gets one write (`AgentConnected=False`), and one more when it is heard again. A machine that was
//! told to reboot or to switch off is expected to be silent. After a restart the machines whose sessions this replica opened have
//! the whole time again; those of a replica that is gone are watched by whichever replica they ask next.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use crate::limits::source_of;

/// Which sequence numbers were used: the highest one, and which of the 63 before it. Two requests that overtake each other on the way are both
/// taken; none is taken twice.
#[derive(Debug, Default, Clone, Copy)]
struct Window {
    highest: u64,
    used: u64,
}

impl Window {
    fn take(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let step = sequence - self.highest;
            self.used = if step < 64 { self.used << step | 1 } else { 1 };
            self.highest = sequence;
            return true;
        }
        let back = self.highest - sequence;
        if sequence == 0 || back >= 64 || self.used >> back & 1 == 1 {
            return false;
        }
        self.used |= 1 << back;
        true
    }
}

#[derive(Debug)]
struct Seen {
    session: String,
    source: Option<IpAddr>,
    at: Instant,
    polling: usize,
    sequence: Window,
    /// Whether it should be asking.
    expected: bool,
    /// Whether its loss was written down.
    lost: bool,
    /// Since when it should be on its way to its own disk.
    departed: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    machines: Mutex<HashMap<String, Seen>>,
}

/// A held long poll; it ends when dropped.
pub(crate) struct Polling {
    presence: Arc<Presence>,
    machine: String,
    session: String,
}

impl Presence {
    fn machines(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.machines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A session was opened, or (after a restart, without `source`) is known from its object.
    pub(crate) fn opened(&self, machine: &str, session: &str, source: Option<IpAddr>, now: Instant) {
        let mut machines = self.machines();
        if let Some(seen) = machines.get_mut(machine)
            && seen.session == session
        {
            // The same session once more: its sequence goes on.
            seen.at = now;
            seen.source = source.or(seen.source);
            return;
        }
        machines.insert(
            machine.to_owned(),
            Seen {
                session: session.to_owned(),
                source,
                at: now,
                polling: 0,
                sequence: Window::default(),
                expected: true,
                lost: false,
                departed: None,
            },
        );
    }

    /// A signed request came in. `None`: its sequence number is not new, so it is a repetition by somebody who listened.
    /// `Some(true)`: the machine had been written down as lost.
    pub(crate) fn heard(&self, machine: &str, session: &str, source: IpAddr, sequence: u64, now: Instant) -> Option<bool> {
        let mut machines = self.machines();
        let seen = machines.entry(machine.to_owned()).or_insert_with(|| Seen {
            session: session.to_owned(),
            source: None,
            at: now,
            polling: 0,
            sequence: Window::default(),
            expected: true,
            lost: false,
            departed: None,
        });
        if seen.session != session {
            // Another replica opened this one.
            *seen = Seen {
                session: session.to_owned(),
                source: None,
                at: now,
                polling: 0,
                sequence: Window::default(),
                expected: true,
                lost: false,
                departed: None,
            };
        }
        if !seen.sequence.take(sequence) {
            return None;
        }
        seen.source = Some(source_of(source));
        seen.at = now;
        seen.expected = true;
        seen.departed = None;
        Some(std::mem::take(&mut seen.lost))
    }

    /// Holds a poll.
    pub(crate) fn polling(self: &Arc<Self>, machine: &str, session: &str) -> Polling {
        if let Some(seen) = self.machines().get_mut(machine)
            && seen.session == session
        {
            seen.polling += 1;
        }
        Polling {
            presence: self.clone(),
            machine: machine.to_owned(),
            session: session.to_owned(),
        }
    }

    /// The machine was told to go, or is known to be elsewhere: silence is what is expected of it.
    pub(crate) fn leaves(&self, machine: &str) {
        if let Some(seen) = self.machines().get_mut(machine) {
            seen.expected = false;
        }
    }

    /// The machine was told to boot its own disk: silence is expected of it, but not for ever ([`Self::overdue`]).
    pub(crate) fn departs(&self, machine: &str, now: Instant) {
        if let Some(seen) = self.machines().get_mut(machine) {
            seen.expected = false;
            seen.departed = Some(now);
        }
    }

    /// Machines that were told to boot their own disk `after` ago or longer, each with its session: each is named once. Whether something was heard of them elsewhere is for the caller to
    /// find out.
    pub(crate) fn overdue(&self, after: Duration, now: Instant) -> Vec<(String, String)> {
        let mut machines = self.machines();
        let late = |seen: &Seen| seen.departed.is_some_and(|d| now.saturating_duration_since(d) >= after);
        machines
            .extract_if(|_, seen| !seen.expected && late(seen))
            .map(|(name, seen)| (name, seen.session))
            .collect()
    }

    pub(crate) fn forget(&self, machine: &str) {
        self.machines().remove(machine);
    }

    /// Whether the machine's session was heard within `window`, or waits right now, from another address than `source`.
    pub(crate) fn is_live_elsewhere(&self, machine: &str, source: IpAddr, window: Duration, now: Instant) -> bool {
        self.machines().get(machine).is_some_and(|seen| {
            let live = seen.expected && (seen.polling > 0 || now.saturating_duration_since(seen.at) < window);
            live && seen.source.is_some_and(|s| source_of(s) != source_of(source))
        })
    }

    /// Machines that should ask, and were silent for `after`: each is named once.
    pub(crate) fn newly_lost(&self, after: Duration, now: Instant) -> Vec<(String, String)> {
        let mut machines = self.machines();
        let mut lost = Vec::new();
        machines.retain(|name, seen| {
            let silent = seen.polling == 0 && now.saturating_duration_since(seen.at) >= after;
            if silent && seen.expected && !seen.lost {
                seen.lost = true;
                lost.push((name.clone(), seen.session.clone()));
            }
            // Those that left, and those lost long ago, need no memory.
            !(silent && ((!seen.expected && seen.departed.is_none()) || now.saturating_duration_since(seen.at) >= after * 40))
        });
        lost
    }

    /// How many machines are here.
    pub(crate) fn len(&self) -> usize {
        self.machines().values().filter(|s| s.expected && !s.lost).count()
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if let Some(seen) = self.presence.machines().get_mut(&self.machine)
            && seen.session == self.session
        {
            seen.polling = seen.polling.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const WINDOW: Duration = Duration::from_secs(30);

    #[test]
    fn a_repeated_request_is_not_heard() {
        let presence = Presence::default();
        let now = Instant::now();
        presence.opened("m", "s", Some(HERE), now);
        assert_eq!(presence.heard("m", "s", HERE, 1, now), Some(false));
        assert_eq!(presence.heard("m", "s", HERE, 1, now), None);
        assert_eq!(presence.heard("m", "s", HERE, 7, now), Some(false));
        assert_eq!(presence.heard("m", "s", HERE, 3, now), Some(false), "overtaken on the way");
        assert_eq!(presence.heard("m", "s", HERE, 3, now), None);
        assert_eq!(presence.heard("m", "s", HERE, 1000, now), Some(false));
        assert_eq!(presence.heard("m", "s", HERE, 900, now), None, "too old to know");
        assert_eq!(presence.heard("m", "s", HERE, 0, now), None);
        assert_eq!(presence.heard("m", "next", HERE, 1, now), Some(false), "a new session counts anew");
    }

    #[test]
    fn a_machine_that_waits_is_live_and_one_that_was_sent_away_is_not() {
        let presence = Arc::new(Presence::default());
        let now = Instant::now();
        presence.opened("m", "s", Some(HERE), now);
        presence.heard("m", "s", HERE, 1, now);
        let later = now + Duration::from_secs(60);
        assert!(!presence.is_live_elsewhere("m", THERE, WINDOW, later), "silent for too long");
        let poll = presence.polling("m", "s");
        assert!(presence.is_live_elsewhere("m", THERE, WINDOW, later));
        assert!(!presence.is_live_elsewhere("m", HERE, WINDOW, later), "itself");
        presence.leaves("m");
        assert!(!presence.is_live_elsewhere("m", THERE, WINDOW, later));
        drop(poll);
        assert!(
            presence
                .newly_lost(Duration::from_secs(90), now + Duration::from_secs(600))
                .is_empty()
        );
    }

    #[test]
    fn a_machine_that_was_sent_to_its_disk_is_asked_for_after_a_while() {
        let presence = Presence::default();
        let (now, after) = (Instant::now(), Duration::from_secs(300));
        presence.opened("m", "s", Some(HERE), now);
        presence.departs("m", now);
        assert!(
            presence
                .newly_lost(Duration::from_secs(90), now + Duration::from_secs(200))
                .is_empty()
        );
        assert!(presence.overdue(after, now + Duration::from_secs(299)).is_empty());
        assert_eq!(presence.overdue(after, now + after), [("m".to_owned(), "s".to_owned())]);
        assert!(presence.overdue(after, now + after).is_empty(), "once");
        presence.opened("m", "t", Some(HERE), now);
        presence.departs("m", now);
        presence.heard("m", "t", HERE, 1, now);
        assert!(presence.overdue(after, now + after).is_empty(), "it asked again");
    }

    #[test]
    fn a_loss_is_told_once_and_so_is_the_return() {
        let presence = Presence::default();
        let now = Instant::now();
        presence.opened("m", "s", Some(HERE), now);
        let after = Duration::from_secs(90);
        assert!(presence.newly_lost(after, now + Duration::from_secs(89)).is_empty());
        assert_eq!(presence.newly_lost(after, now + after), [("m".to_owned(), "s".to_owned())]);
        assert!(presence.newly_lost(after, now + after).is_empty());
        assert_eq!(presence.heard("m", "s", HERE, 5, now + after), Some(true));
        assert_eq!(presence.heard("m", "s", HERE, 6, now + after), Some(false));
    }
}
