//! A simulated machine's power, as its BMC switches it: what stands behind a controller of the simulator, and what the machine's task waits for.
//!
//! The controller tells it when power comes and goes; the task that lives the machine drops whatever the machine was doing, connections included, and begins anew.
//! What the machine does to itself (its agent or its system switches it off) is seen here by the controller.

use bmc_simulator::machine::{Boot, Listens, Machine as Behind, Source};
use tokio::sync::watch;

use super::machine::First;

/// What happened last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Power came, or the machine was reset: it boots.
    Boot,
    /// Its system was asked to shut down.
    ShutDown,
    /// Power went.
    Off,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Now {
    pub told: Told,
    /// Grows with everything that is told.
    pub count: u64,
    /// From what it boots.
    pub first: First,
    /// It did not switch itself off since.
    runs: bool,
    /// It runs a system that listens to its power button.
    listens: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Switch {
    now: watch::Sender<Now>,
    uuid: String,
}

impl Switch {
    /// Of a machine that is off.
    pub fn new(uuid: String) -> Self {
        let now = Now {
            told: Told::Off,
            count: 0,
            first: First::Usual,
            runs: false,
            listens: false,
        };
        Self {
            now: watch::Sender::new(now),
            uuid,
        }
    }

    fn tell(&self, told: Told, first: First) {
        self.now.send_modify(|now| {
            *now = Now {
                told,
                count: now.count + 1,
                first,
                runs: told != Told::Off,
                listens: now.listens && told == Told::ShutDown,
            }
        });
    }

    pub(super) fn follow(&self) -> watch::Receiver<Now> {
        self.now.subscribe()
    }

    /// Whether its system listens by now. Nobody is woken by it.
    pub(super) fn listens(&self, listens: bool) {
        self.now.send_if_modified(|now| {
            now.listens = listens && now.told == Told::Boot;
            false
        });
    }

    /// It switched itself off, and nothing was told since `count`.
    pub(super) fn went_off(&self, count: u64) {
        self.now.send_if_modified(|now| {
            if now.count == count {
                (now.runs, now.listens) = (false, false);
            }
            false
        });
    }
}

fn first(boot: &Boot) -> First {
    match boot.source {
        Source::Network | Source::Http => First::Network,
        Source::Disk => First::Disk,
        // There are no bytes on a medium here: firmware finds nothing to boot on it, and goes on.
        Source::Media | Source::Usual => First::Usual,
        Source::Setup => First::Setup,
    }
}

impl Behind for Switch {
    fn on(&self, boot: &Boot) {
        self.tell(Told::Boot, first(boot));
    }

    fn off(&self) {
        self.tell(Told::Off, First::Usual);
    }

    fn reset(&self, boot: &Boot) {
        self.tell(Told::Boot, first(boot));
    }

    fn shut_down(&self) -> Listens {
        if !self.now.borrow().listens {
            return Listens::No;
        }
        self.tell(Told::ShutDown, First::Usual);
        Listens::ByItself
    }

    fn runs(&self) -> Option<bool> {
        Some(self.now.borrow().runs)
    }

    fn uuid(&self) -> Option<String> {
        Some(self.uuid.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_switched_itself_off_is_off_unless_it_was_switched_on_meanwhile() {
        let (switch, usual) = (
            Switch::new("u".to_owned()),
            Boot {
                source: Source::Usual,
                uefi: true,
                image: None,
            },
        );
        assert_eq!((switch.runs(), switch.shut_down()), (Some(false), Listens::No));
        switch.on(&usual);
        let count = switch.follow().borrow().count;
        switch.went_off(count);
        assert_eq!(switch.runs(), Some(false));
        switch.on(&usual);
        switch.went_off(count);
        assert_eq!(switch.runs(), Some(true), "that was before");
        switch.listens(true);
        assert_eq!(switch.shut_down(), Listens::ByItself);
        assert_eq!(switch.follow().borrow().told, Told::ShutDown);
        switch.off();
        switch.listens(true);
        assert_eq!(switch.shut_down(), Listens::No, "it is off");
    }
}
