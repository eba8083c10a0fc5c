//! What stands behind a simulated controller.
//!
//! The controller keeps power state and boot override; a [`Machine`] is told what happens to it, at the moment when it happens. One that is only simulated is
//! [`InMemory`]; QEMU machines and those of the swarm (crate `lab`) stand behind a controller by being one, too.

use std::{
    fmt::Debug,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

/// From what a machine boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// What firmware is set to: the first disk.
    Usual,
    /// The network (PXE).
    Network,
    /// The network, by UEFI's HTTP boot.
    Http,
    /// The first disk, since it was told so.
    Disk,
    /// The attached medium.
    Media,
    /// Firmware's own settings.
    Setup,
}

/// A boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Boot {
    /// From what.
    pub source: Source,
    /// Whether firmware is UEFI; else it is a BIOS.
    pub uefi: bool,
    /// The URL of the attached medium, if it boots from one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// What a system does when it is asked to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listens {
    /// It goes off in the time that the simulator is set to.
    Yes,
    /// It goes off by itself, and [`Machine::runs`] tells when.
    ByItself,
    /// It does not.
    No,
}

/// What stands behind a controller. Its methods return at once: what takes time is begun by them.
pub trait Machine: Debug + Send + Sync {
    /// The power comes on, and firmware boots.
    fn on(&self, boot: &Boot);

    /// The power is gone.
    fn off(&self);

    /// It begins anew without losing power.
    fn reset(&self, boot: &Boot);

    /// It is asked to shut down.
    fn shut_down(&self) -> Listens {
        Listens::Yes
    }

    /// Whether it runs, as it knows itself, also before it was ever switched by its controller. None: it runs while it has power.
    fn runs(&self) -> Option<bool> {
        None
    }

    /// Its SMBIOS UUID, with hyphens. None: the controller makes one up.
    fn uuid(&self) -> Option<String> {
        None
    }
}

/// What happened to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// [`Machine::on`].
    On(Boot),
    /// [`Machine::off`].
    Off,
    /// [`Machine::reset`].
    Reset(Boot),
    /// [`Machine::shut_down`].
    ShutDown,
}

/// The most events that are kept.
const KEPT: usize = 256;

/// A machine that remembers what happened to it, and is nothing else.
#[derive(Debug, Default)]
pub struct InMemory(Mutex<Vec<Event>>);

impl InMemory {
    fn note(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == KEPT {
            events.remove(0);
        }
        events.push(event);
    }

    /// What happened, the latest last.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Machine for InMemory {
    fn on(&self, boot: &Boot) {
        self.note(Event::On(boot.clone()));
    }

    fn off(&self) {
        self.note(Event::Off);
    }

    fn reset(&self, boot: &Boot) {
        self.note(Event::Reset(boot.clone()));
    }

    fn shut_down(&self) -> Listens {
        self.note(Event::ShutDown);
        Listens::Yes
    }
}
