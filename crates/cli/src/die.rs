//! `up --die-at`: the process ends like by `kill -9` at a chosen write of the embedded API, so that a test can go through all of them.
//!
//! No hole: whoever may choose this program's arguments may end it anyway.

use std::{
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

use apiserver::store::{Moment, Store};

/// Which write, and on which side of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    moment: Moment,
    write: u64,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not `before:N` or `after:N` with N counted from 1");
        let (moment, write) = text.split_once(':').ok_or_else(wrong)?;
        let moment = match moment {
            "before" => Moment::Before,
            "after" => Moment::After,
            _ => return Err(wrong()),
        };
        let write = write.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
        Ok(Self { moment, write })
    }
}

/// From now on writes are counted.
pub fn arm(store: &Store, at: At) {
    let seen = AtomicU64::new(0);
    let armed = store.probe_commits(Box::new(move |moment, events| {
        if moment != at.moment || seen.fetch_add(1, Ordering::Relaxed) + 1 != at.write {
            return;
        }
        let what: Vec<String> = events
            .iter()
            .map(|e| format!("{} {}", e.object.key.resource, e.object.key.path))
            .collect();
        eprintln!("dying {moment:?} write {}: {}", at.write, what.join(", "));
        if let Err(error) = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL) {
            eprintln!("could not: {error}");
        }
        // The signal may take a moment; nothing may happen after it.
        loop {
            std::thread::park();
        }
    }));
    debug_assert!(armed, "the store is probed once");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_read_or_refused() {
        assert_eq!(
            "before:17".parse(),
            Ok(At {
                moment: Moment::Before,
                write: 17
            })
        );
        assert_eq!(
            "after:1".parse(),
            Ok(At {
                moment: Moment::After,
                write: 1
            })
        );
        for bad in ["", "17", "before", "before:", "before:0", "amid:3", "after:-1"] {
            assert!(bad.parse::<At>().is_err(), "{bad}");
        }
    }
}
