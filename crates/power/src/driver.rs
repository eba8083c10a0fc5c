//! What every driver is: its kind, what it declares that it can do, and the calls.
//!
//! A driver implements what its kind declares and nothing else; the rest is refused by the trait itself, and by [`crate::calls`] before a driver is asked. One
//! driver is one machine: its settings name the controller, and which machine behind it is meant.

use std::{fmt, future::Future, pin::Pin};

use serde::{Deserialize, Serialize};

use crate::{
    events::{Stream, Subscription},
    fault::Fault,
    inventory::{Depth, Survey},
};

/// How a machine is switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Off {
    /// As if somebody pressed the button: the system shuts itself down, if it listens.
    Soft,
    /// The power goes, now.
    Hard,
}

/// From what a machine can be told to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BootDevice {
    /// Firmware's network boot (PXE).
    Network,
    /// UEFI's HTTP boot.
    Http,
    /// The first disk.
    Disk,
    /// The medium that was attached: a CD.
    Media,
    /// Firmware's own settings.
    Setup,
}

impl BootDevice {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Network, Self::Http, Self::Disk, Self::Media, Self::Setup];
}

impl fmt::Display for BootDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "the network",
            Self::Http => "the network by HTTP",
            Self::Disk => "the disk",
            Self::Media => "the attached medium",
            Self::Setup => "the firmware setup",
        })
    }
}

/// What firmware a machine boots with. Controllers want to know it with a boot device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Firmware {
    /// Legacy BIOS, or UEFI's compatibility module.
    Bios,
    /// UEFI.
    Uefi,
}

/// Where the next boot goes; the one after it goes where firmware is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootOnce {
    /// From what.
    pub device: BootDevice,
    /// With what firmware.
    pub firmware: Firmware,
}

/// A medium for a machine's virtual drive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Media {
    /// Where the controller fetches the image (ISO 9660): an `http` or `https` URL without credentials.
    pub url: String,
}

/// Whether a machine is on, as far as the controller can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// There is no way to know, or it is just changing: ask again later.
    Unknown,
}

/// A call, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Driver::on`].
    On,
    /// [`Driver::off`] with [`Off::Soft`].
    OffSoft,
    /// [`Driver::off`] with [`Off::Hard`].
    OffHard,
    /// [`Driver::cycle`].
    Cycle,
    /// [`Driver::state`].
    State,
    /// [`Driver::boot_once`].
    BootOnce(BootDevice),
    /// [`Driver::attach`].
    Attach,
    /// [`Driver::detach`].
    Detach,
    /// [`Driver::survey`].
    Survey,
    /// [`Driver::close`].
    Close,
    /// [`Driver::subscribe`].
    Subscribe,
    /// [`Driver::unsubscribe`].
    Unsubscribe,
    /// [`Driver::listen`].
    Listen,
}

impl Operation {
    /// Whether doing it twice is as good as once. A machine that was cycled, took its one boot, and is cycled again has lost it.
    #[must_use]
    pub const fn may_be_repeated(self) -> bool {
        !matches!(self, Self::Cycle)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("switch it on"),
            Self::OffSoft => f.write_str("shut it down"),
            Self::OffHard => f.write_str("switch it off"),
            Self::Cycle => f.write_str("power-cycle it"),
            Self::State => f.write_str("tell whether it is on"),
            Self::BootOnce(device) => write!(f, "let it boot once from {device}"),
            Self::Attach => f.write_str("attach a medium"),
            Self::Detach => f.write_str("detach its medium"),
            Self::Survey => f.write_str("tell what the machine is"),
            Self::Close => f.write_str("end the session"),
            Self::Subscribe => f.write_str("have it send events"),
            Self::Unsubscribe => f.write_str("stop it from sending events"),
            Self::Listen => f.write_str("listen to its events"),
        }
    }
}

/// A set of boot devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootDevices(u8);

impl BootDevices {
    /// Each of these.
    #[must_use]
    pub const fn of(devices: &[BootDevice]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < devices.len() {
            bits |= 1 << devices[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Whether one is among them.
    #[must_use]
    pub const fn contain(self, device: BootDevice) -> bool {
        self.0 & (1 << device as u8) != 0
    }

    /// All of them, in the order of [`BootDevice`].
    pub fn iter(self) -> impl Iterator<Item = BootDevice> {
        BootDevice::ALL.into_iter().filter(move |device| self.contain(*device))
    }
}

/// What a kind of driver can do. Of one controller it may be less: then the call says what that one offers ([`Fault::NotOffered`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Tell by itself that something happened.
    pub events: bool,
    /// Switch on.
    pub on: bool,
    /// Ask the system to shut down.
    pub off_soft: bool,
    /// Take the power away.
    pub off_hard: bool,
    /// Off and on, or reset: a boot anew.
    pub cycle: bool,
    /// Tell whether it is on.
    pub state: bool,
    /// Choose the next boot, from one of these.
    pub boot_once: BootDevices,
    /// Attach and detach media.
    pub media: bool,
    /// Tell what the machine is, without booting it.
    pub inventory: bool,
}

impl Capabilities {
    /// Nothing at all.
    pub const NONE: Self = Self {
        events: false,
        on: false,
        off_soft: false,
        off_hard: false,
        cycle: false,
        state: false,
        boot_once: BootDevices::of(&[]),
        media: false,
        inventory: false,
    };

    /// Whether a call is among them.
    #[must_use]
    pub fn allow(&self, operation: Operation) -> bool {
        match operation {
            Operation::On => self.on,
            Operation::OffSoft => self.off_soft,
            Operation::OffHard => self.off_hard,
            Operation::Cycle => self.cycle,
            Operation::State => self.state,
            Operation::BootOnce(device) => self.boot_once.contain(device),
            Operation::Attach | Operation::Detach => self.media,
            Operation::Survey => self.inventory,
            Operation::Close => true,
            Operation::Subscribe | Operation::Unsubscribe | Operation::Listen => self.events,
        }
    }
}

/// A kind of driver: what is the same for all its machines.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in specs.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Against what it was seen to work, and against what not yet.
    pub evidence: &'static str,
}

/// The future of a call.
pub type Act<'a, T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send + 'a>>;

/// The future of a call that the driver does not have.
fn incapable<'a, T: Send + 'a>(operation: Operation) -> Act<'a, T> {
    Box::pin(std::future::ready(Err(Fault::Incapable(operation))))
}

/// One machine's switch. Calls are made through [`crate::calls::Calls`], which bounds them in time and number; a driver tries each once.
pub trait Driver: Send + Sync + fmt::Debug {
    /// Its kind, which declares what it can do at most.
    fn kind(&self) -> &'static Kind;

    /// What this one can do: what its kind can, or less where its settings say so.
    fn capabilities(&self) -> Capabilities {
        self.kind().capabilities
    }

    /// What the machine is switched through, for people and as the key of what must not happen at the same time: the controller's address.
    fn controller(&self) -> &str;

    /// Switches on. A machine that is on stays on.
    fn on(&self) -> Act<'_, ()> {
        incapable(Operation::On)
    }

    /// Switches off. A machine that is off stays off. A soft one returns when the command was taken: the system may take its time, or not listen at all.
    fn off(&self, how: Off) -> Act<'_, ()> {
        incapable(match how {
            Off::Soft => Operation::OffSoft,
            Off::Hard => Operation::OffHard,
        })
    }

    /// Makes the machine boot anew. One that is off is switched on.
    fn cycle(&self) -> Act<'_, ()> {
        incapable(Operation::Cycle)
    }

    /// Whether the machine is on.
    fn state(&self) -> Act<'_, PowerState> {
        incapable(Operation::State)
    }

    /// Sets where the next boot goes, and does not boot.
    fn boot_once(&self, boot: BootOnce) -> Act<'_, ()> {
        incapable(Operation::BootOnce(boot.device))
    }

    /// Puts a medium into the machine's virtual drive, in place of whatever is there.
    fn attach<'a>(&'a self, _media: &'a Media) -> Act<'a, ()> {
        incapable(Operation::Attach)
    }

    /// Takes this medium out of the machine's virtual drive. One that is known to be another, somebody else's, stays.
    fn detach<'a>(&'a self, _media: &'a Media) -> Act<'a, ()> {
        incapable(Operation::Detach)
    }

    /// Reads a part of what the machine is, and remembers how far it came: to be called until it is done. A part takes a few seconds at most, so that whoever wants to switch the machine, or another one
    /// behind the same controller, comes in between.
    fn survey(&self, _depth: Depth) -> Act<'_, Survey> {
        incapable(Operation::Survey)
    }

    /// Gives back what the controller keeps for this driver between calls (a session). The next call gets it anew.
    fn close(&self) -> Act<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Has the controller send its events to a URL, unless it does already. What this installation left behind there before is taken away, what others did never.
    fn subscribe<'a>(&'a self, _subscription: &'a Subscription) -> Act<'a, ()> {
        incapable(Operation::Subscribe)
    }

    /// Takes away what [`Driver::subscribe`] left.
    fn unsubscribe<'a>(&'a self, _subscription: &'a Subscription) -> Act<'a, ()> {
        incapable(Operation::Unsubscribe)
    }

    /// Opens a stream of the controller's events: a connection that stays.
    fn listen(&self) -> Act<'_, Stream> {
        incapable(Operation::Listen)
    }
}
