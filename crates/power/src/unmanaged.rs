//! No BMC, no switch: the guest helper or a person. It never claims to have done anything.

use crate::driver::{Capabilities, Driver, Kind};

/// What is the same for all such machines.
pub static KIND: Kind = Kind {
    name: "manual",
    title: "None: the guest helper, or a person",
    capabilities: Capabilities::NONE,
    evidence: "it does nothing",
};

/// A machine that only the guest helper or a person can switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unmanaged;

impl Driver for Unmanaged {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &'static str {
        "nobody"
    }
}
