//! Firmware's boot order: what an order asks the agent to set, and how a machine that does not keep to it is noticed.
//!
//! A boot order is a wish. Under UEFI the agent can write it; under BIOS a person sets it in the firmware's setup. Some firmware forgets it or puts its own entry first, and then a machine
//! that was told to boot into the agent starts its own system. That is known for sure from the system's guest helper: it remembers in which boot it was told to leave, and a system that was
//! started after a driver's power cycle has begun after it.
//!
//! Not here: setting anything (the crate `machine`), and what is done about the machine ([`hardware`](crate::hardware) goes on waiting as ever).

use agent_protocol::{inventory::FirmwareMode, order::BootOrder};
use api::{
    BareMetalDiscovery, BareMetalDiscoveryStatus,
    power::{PowerActKind, PowerStatus},
};
use jiff::{SignedDuration, Timestamp};

use crate::view;

/// How long a system runs that came instead of the agent again and again, before it is told to leave once more: time for a person to log in, and for the machine not to start over and over.
const REST: SignedDuration = SignedDuration::from_mins(10);
/// So often in a row. Once or twice it may have been the server that was not there.
const AGAIN_AND_AGAIN: u32 = 3;

/// What an order says, and why it is not what the spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// For the order.
    pub order: Option<BootOrder>,
    /// CamelCase word, and a sentence with the remedy.
    pub problem: Option<(&'static str, &'static str)>,
}

/// Decides what is asked of a machine. `guest_helper`: whether its system has, or will have, the helper.
pub fn asked(wanted: Option<BootOrder>, discovery: Option<&BareMetalDiscovery>, guest_helper: bool) -> Asked {
    let firmware = view::seen(discovery).and_then(|s| s.inventory.as_ref()).map(|i| i.firmware.mode);
    let (order, problem) = match (wanted, firmware) {
        (None, _) | (_, None) => (None, None),
        (Some(BootOrder::NetworkFirst), Some(FirmwareMode::BIOS)) => (
            None,
            Some((
                "SetByHand",
                "Nothing but its setup can set the boot order of a machine that starts by BIOS: put the network first there, and the disk second",
            )),
        ),
        (Some(BootOrder::DiskFirst), Some(FirmwareMode::BIOS)) => (
            None,
            Some((
                "SetByHand",
                "Nothing but its setup can set the boot order of a machine that starts by BIOS, nor send it to the network for one boot without a power driver: \
                 leave the network first there, or set the disk first by hand and give the machine a power driver in spec.power",
            )),
        ),
        // The helper is what sends the machine to the network, and what says that the system runs: the server is not asked by one that starts from its disk.
        (Some(BootOrder::DiskFirst), Some(FirmwareMode::UEFI)) if !guest_helper => (
            Some(BootOrder::NetworkFirst),
            Some((
                "NoGuestHelper",
                "The network stays first: without the guest helper nothing says that the system runs and nothing brings the machine back. Set spec.guestHelper of the instance to true",
            )),
        ),
        (Some(order), Some(FirmwareMode::UEFI)) => (Some(order), None),
    };
    Asked { order, problem }
}

/// Whether a system that registers came although the boot before it was told to leave for the agent. `told`: that boot, as the system remembers it.
pub fn came_instead(seen: &BareMetalDiscoveryStatus, told: Option<&str>, boot_id: &str) -> bool {
    let Some(before) = &seen.guest else { return false };
    let obeyed = seen.session.as_ref().is_some_and(|s| s.opened_at.0 > before.registered_at.0);
    let remembered = told == Some(before.boot_id.as_str()) && boot_id != before.boot_id;
    // The same boot registers again when its addresses change.
    !obeyed && (remembered || before.came_instead && boot_id == before.boot_id)
}

/// How many boots in a row came instead of the agent, with this one.
pub fn times_instead(seen: &BareMetalDiscoveryStatus, came_instead: bool, boot_id: &str) -> u32 {
    let Some(before) = seen.guest.as_ref().filter(|_| came_instead) else {
        return 0;
    };
    before.times_instead + u32::from(before.boot_id != boot_id)
}

/// Whether the system that came instead of the agent is left alone for now.
pub fn is_to_rest(discovery: Option<&BareMetalDiscovery>, now: Timestamp) -> bool {
    let guest = view::seen(discovery).and_then(|seen| seen.guest.as_ref());
    guest.is_some_and(|guest| {
        guest.times_instead >= AGAIN_AND_AGAIN && now < guest.registered_at.0.saturating_add(REST).unwrap_or(Timestamp::MAX)
    })
}

/// By whom a machine was told to boot into the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// By the guest helper of its system.
    Helper,
    /// By its power driver.
    Driver,
}

/// Whether the machine's own system is what came after it was told to boot into the agent, and who told it. Nothing when it has been in the agent since.
pub fn ignored(discovery: Option<&BareMetalDiscovery>, power: Option<&PowerStatus>) -> Option<Told> {
    let guest = view::seen(discovery)?.guest.as_ref()?;
    if view::session_since(discovery, guest.registered_at.0) {
        return None;
    }
    if guest.came_instead {
        return Some(Told::Helper);
    }
    let power = power?;
    let act = power.done.as_ref().filter(|act| act.kind == PowerActKind::BootAgent)?;
    let (done, began) = (power.done_at.as_ref()?, guest.booted_at.as_ref()?);
    // A system that was started before the act was wanted, and only registers again, says nothing; nor does one that was running until the machine was switched.
    let after = began.0 > act.since.0 && guest.registered_at.0 > done.0 && !view::session_since(discovery, act.since.0);
    after.then_some(Told::Driver)
}
