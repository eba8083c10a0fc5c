//! The machine's own BMC, through the kernel's IPMI device: who it is, where it is on the network, and a user of ours in it.
//!
//! Section and table numbers are those of the IPMI specification, version 2.0 revision 1.1 (October 2013, with errata 7).
//!
//! * [`device`]: the kernel's device, `/dev/ipmi0`. The only part that does I/O.
//! * [`identity`]: manufacturer, product, versions, GUID.
//! * [`lan`]: LAN channels with their addresses and cipher suites.
//! * [`user`]: one dedicated user, and remote access for it.
//!
//! Encoding and decoding are pure; all of it is tried without a controller. Invariants: no answer makes it panic; nothing lasts longer than the deadline that it was given, because
//! controllers hang; a controller that is silent once is asked nothing more; [`read`] changes nothing.
//! What it does not do: load modules, wait for the device, or talk over the network.

pub mod device;
pub mod identity;
pub mod lan;
#[cfg(test)]
mod tests;
pub mod user;

use std::{
    io,
    time::{Duration, Instant},
};

use agent_protocol::{bmc::Bmc, identity::SystemUuid};

pub use self::device::KernelInterface;

/// The longest that one command may take. What a healthy controller takes is below a tenth of it.
pub const COMMAND: Duration = Duration::from_secs(1);

/// Network functions (table 5-1), of requests.
pub(crate) const APPLICATION: u8 = 0x06;
pub(crate) const TRANSPORT: u8 = 0x0c;

/// Why the controller did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BmcError {
    /// The kernel has no such device, or does not give it.
    #[error("opening {path} failed: {source}; the machine has no IPMI interface, or its driver found none")]
    Open {
        /// Which.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused to carry a message.
    #[error("the kernel's IPMI driver failed at {command}: {source}")]
    Kernel {
        /// What was asked.
        command: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No answer in time.
    #[error("the BMC did not answer {command} in time; cut its power (unplug the machine) where it stays like that")]
    Silent {
        /// What was asked.
        command: &'static str,
    },
    /// It says no.
    #[error("the BMC refuses {command}: {} (completion code {code:#04x})", completion(*.code))]
    Refused {
        /// What was asked.
        command: &'static str,
        /// Completion code (table 5-2).
        code: u8,
    },
    /// The answer is not what it should be.
    #[error("the BMC's answer to {command} ends too early: {bytes} bytes")]
    Short {
        /// What was asked.
        command: &'static str,
        /// How many bytes it has.
        bytes: usize,
    },
    /// A user cannot be made.
    #[error("{0}")]
    User(String),
}

/// What a completion code says, in words (table 5-2).
fn completion(code: u8) -> &'static str {
    match code {
        0xc0 => "it is busy",
        0xc1 | 0xc2 => "it does not know the command",
        0xc3 => "it ran out of time",
        0xc4 => "it is out of space",
        0xc7 | 0xc8 => "it wants another length",
        0xc9 | 0xcc => "it does not accept the value",
        0xcb => "there is no such thing",
        0xd4 => "privileges do not suffice",
        0xd5 | 0xd6 => "it is switched off or not possible in its present state",
        _ => "it says no more than the code",
    }
}

/// One command.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// For messages to people.
    pub name: &'static str,
    /// Network function, even.
    pub function: u8,
    /// Command.
    pub command: u8,
    /// Its data.
    pub data: Vec<u8>,
}

impl std::fmt::Debug for Request {
    /// Without the data: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Request {
    pub(crate) fn new(name: &'static str, function: u8, command: u8, data: impl Into<Vec<u8>>) -> Self {
        Self {
            name,
            function,
            command,
            data: data.into(),
        }
    }
}

/// Who carries commands to the controller.
pub trait Interface {
    /// Asks, and waits for the answer at most until then.
    ///
    /// Gives the completion code and the data behind it.
    ///
    /// # Errors
    /// [`BmcError::Kernel`] and [`BmcError::Silent`].
    fn exchange(&mut self, request: &Request, until: Instant) -> Result<(u8, Vec<u8>), BmcError>;
}

/// An interface with an end to all patience.
pub(crate) struct Asking<'a> {
    interface: &'a mut dyn Interface,
    deadline: Instant,
}

impl<'a> Asking<'a> {
    pub(crate) fn new(interface: &'a mut dyn Interface, deadline: Instant) -> Self {
        Self { interface, deadline }
    }

    /// The data of a successful answer.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Vec<u8>, BmcError> {
        let now = Instant::now();
        if now >= self.deadline {
            return Err(BmcError::Silent { command: request.name });
        }
        match self.interface.exchange(request, self.deadline.min(now + COMMAND))? {
            (0, data) => Ok(data),
            (code, _) => Err(BmcError::Refused {
                command: request.name,
                code,
            }),
        }
    }

    /// The same; nothing where the controller does not have what was asked for. Only what ends all asking is an error.
    pub(crate) fn ask_if_there(&mut self, request: &Request) -> Result<Option<Vec<u8>>, BmcError> {
        match self.ask(request) {
            Ok(data) => Ok(Some(data)),
            Err(BmcError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The bytes of an answer that must be there.
pub(crate) fn exactly<'a, const N: usize>(command: &'static str, data: &'a [u8]) -> Result<&'a [u8; N], BmcError> {
    data.first_chunk().ok_or(BmcError::Short {
        command,
        bytes: data.len(),
    })
}

/// Reads all that an inventory tells of the controller into `found`, as far as it comes until `deadline`; `system` helps to know the byte order of its GUID.
///
/// # Errors
/// What ended the reading before its end; what was read until then stands in `found`.
pub fn read(interface: &mut dyn Interface, deadline: Instant, system: Option<SystemUuid>, found: &mut Bmc) -> Result<(), BmcError> {
    let mut asking = Asking::new(interface, deadline);
    identity::read(&mut asking, system, found)?;
    lan::read(&mut asking, found)
}
