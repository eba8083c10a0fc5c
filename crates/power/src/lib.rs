//! Ways to switch a machine on and off.
//!
//! One trait; one module per way. A driver only switches: whether and when is decided by `lifecycle`, and what a machine did then is seen by netboot.
//! The one way that every machine has is [`Unmanaged`]: no BMC, so the guest helper or a person does it. It never claims to have done anything.

use std::{future::Future, pin::Pin};

use serde::{Deserialize, Serialize};

/// What to do with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerAction {
    /// Switch on.
    On,
    /// Switch off, hard.
    Off,
    /// Switch off and on, so that the machine boots anew.
    Cycle,
}

/// Where the next boot should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NextBoot {
    /// As the firmware is set.
    AsConfigured,
    /// From the network, once.
    Network,
}

/// Whether a machine is on, as far as the driver can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// There is no way to know.
    Unknown,
}

/// Why a machine was not switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PowerError {
    /// Nothing but a person or the guest helper can switch this machine.
    #[error("{machine} has no power driver: the guest helper or a person has to switch it")]
    NotPossible {
        /// Which machine.
        machine: String,
    },
    /// The driver could not reach what switches the machine.
    #[error("{machine} could not be switched: {problem}")]
    Failed {
        /// Which machine.
        machine: String,
        /// What went wrong, and what to do.
        problem: String,
    },
}

/// The future of a driver's act.
pub type Act<'a, T> = Pin<Box<dyn Future<Output = Result<T, PowerError>> + Send + 'a>>;

/// One way to switch machines.
pub trait Power: Send + Sync + std::fmt::Debug {
    /// Whether this driver can bring a machine back by itself. Where it cannot, nobody waits for it: the machine's condition asks a person.
    fn can_switch(&self) -> bool;

    /// Switches a machine. `Ok` means that the command was taken, not that the machine obeyed.
    fn switch<'a>(&'a self, machine: &'a str, action: PowerAction, next: NextBoot) -> Act<'a, ()>;

    /// Whether a machine is on.
    fn state<'a>(&'a self, machine: &'a str) -> Act<'a, PowerState>;
}

/// No BMC, no switch: the guest helper or a person.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unmanaged;

impl Power for Unmanaged {
    fn can_switch(&self) -> bool {
        false
    }

    fn switch<'a>(&'a self, machine: &'a str, _: PowerAction, _: NextBoot) -> Act<'a, ()> {
        Box::pin(std::future::ready(Err(PowerError::NotPossible {
            machine: machine.to_owned(),
        })))
    }

    fn state<'a>(&'a self, _: &'a str) -> Act<'a, PowerState> {
        Box::pin(std::future::ready(Ok(PowerState::Unknown)))
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<T>(mut act: Act<'_, T>) -> Result<T, PowerError> {
        match act.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("an unmanaged machine is never waited for"),
        }
    }

    #[test]
    fn an_unmanaged_machine_is_never_claimed_to_be_switched() {
        assert!(!Unmanaged.can_switch());
        for action in [PowerAction::On, PowerAction::Off, PowerAction::Cycle] {
            let refused = poll(Unmanaged.switch("m-1", action, NextBoot::Network));
            assert_eq!(refused, Err(PowerError::NotPossible { machine: "m-1".to_owned() }));
        }
        assert_eq!(poll(Unmanaged.state("m-1")), Ok(PowerState::Unknown));
    }
}
