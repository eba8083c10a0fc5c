//! What is carried out: chassis control, state, boot device. IPMI v2.0, chapters 20, 22 and 28.

use crate::{
    bmc::Bmc,
    faults::{Claim, Mishap, Operation, Protocol, What},
    host::{Command, Enabled, Host, Override},
    machine::Source,
};

/// Network functions.
const CHASSIS: u8 = 0x00;
const APP: u8 = 0x06;

/// Completion codes (table 5-2).
const DONE: u8 = 0x00;
const BUSY: u8 = 0xc0;
const UNKNOWN: u8 = 0xc1;
const WRONG_DATA: u8 = 0xcc;
const NOT_NOW: u8 = 0xd5;

/// Function, command and data of a message; it has two heads and a sum.
fn read(message: &[u8]) -> Option<(u8, u8, &[u8])> {
    let [_, function, _, _, _, command, data @ .., _] = message else {
        return None;
    };
    Some((function >> 2, *command, data))
}

/// What a message is for.
pub(super) fn operation(message: &[u8]) -> Operation {
    match read(message) {
        Some((APP, 0x3c, _)) => Operation::Logout,
        Some((CHASSIS, 0x01, _)) => Operation::State,
        Some((CHASSIS, 0x02, _)) => Operation::Reset,
        Some((CHASSIS, 0x08 | 0x09, _)) => Operation::Boot,
        _ => Operation::Any,
    }
}

fn answer(message: &[u8], completion: u8, data: &[u8]) -> Option<Vec<u8>> {
    let (function, command, _) = read(message)?;
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    // To the one who asked, from the controller; the function of an answer is one above its request's.
    let mut out = vec![message[3], (function + 1) << 2];
    out.push(sum(&out));
    out.extend_from_slice(&[message[0], message[4], command, completion]);
    out.extend_from_slice(data);
    out.push(sum(&out[3..]));
    Some(out)
}

/// What may be asked outside of sessions: how sessions are begun (22.13).
pub(super) fn outside(message: &[u8]) -> Option<Vec<u8>> {
    match read(message)? {
        // Channel 1; the extended form; users have names; IPMI 2.0 only.
        (APP, 0x38, _) => answer(message, DONE, &[1, 0x80, 0x04, 0x02, 0, 0, 0, 0]),
        // Suites 3 and 17 of channel 1 (22.15).
        (APP, 0x54, [_, _, list]) if list & 0x3f == 0 => answer(message, DONE, &[1, 0xc0, 3, 0x01, 0x41, 0x81, 0xc0, 17, 0x03, 0x44, 0x81]),
        (APP, 0x54, _) => answer(message, DONE, &[1]),
        _ => None,
    }
}

/// What is asked within a session.
pub(super) fn inside(bmc: &Bmc, message: &[u8], mishap: Mishap) -> Option<Vec<u8>> {
    if let Some(What::Status { .. }) = mishap.what {
        return answer(message, BUSY, &[]);
    }
    let host = bmc.hosts.first()?;
    let (function, command, data) = read(message)?;
    let (completion, data): (u8, Vec<u8>) = match (function, command, data) {
        (APP, 0x01, _) => (DONE, vec![0x20, 1, 1, 0, 0x02, 0x80, 0, 0, 0, 0, 0]),
        (APP, 0x3b, [level]) => (DONE, vec![if *level == 0 { 4 } else { *level }]),
        (APP, 0x3c, _) => (DONE, Vec::new()),
        (APP, 0x38 | 0x54, _) => return outside(message),
        (CHASSIS, 0x01, _) => {
            let on = match mishap.claim {
                Some(claim) => claim == Claim::On,
                None => host.power().is_on(),
            };
            (DONE, vec![u8::from(on), 0, 0])
        }
        (CHASSIS, 0x02, [control]) => (switch(bmc, host, control & 0x0f), Vec::new()),
        (CHASSIS, 0x08, [selector, data @ ..]) => (set_boot(host, selector & 0x7f, data), Vec::new()),
        (CHASSIS, 0x09, [selector, ..]) => boot(host, selector & 0x7f),
        _ => (UNKNOWN, Vec::new()),
    };
    answer(message, completion, &data)
}

/// Chassis control (28.3).
fn switch(bmc: &Bmc, host: &Host, control: u8) -> u8 {
    let on = host.power().is_on();
    let command = match control {
        0 => Command::Off,
        1 => Command::On,
        2 | 3 | 5 if !on => return NOT_NOW,
        2 => Command::Cycle,
        3 => Command::Reset,
        5 => Command::ShutDown,
        _ => return WRONG_DATA,
    };
    host.tell(command, bmc.conduct(Protocol::Ipmi));
    DONE
}

/// Boot flags (table 28-14): the device in bits 5 to 2.
fn source(device: u8) -> Option<Source> {
    match device {
        1 => Some(Source::Network),
        2 => Some(Source::Disk),
        // A CD; a remote CD.
        5 | 8 => Some(Source::Media),
        6 => Some(Source::Setup),
        _ => None,
    }
}

const fn device(source: Option<Source>) -> u8 {
    match source {
        Some(Source::Network | Source::Http) => 1,
        Some(Source::Disk) => 2,
        Some(Source::Media) => 5,
        Some(Source::Setup) => 6,
        Some(Source::Usual) | None => 0,
    }
}

/// Set System Boot Options (28.12).
fn set_boot(host: &Host, selector: u8, data: &[u8]) -> u8 {
    let [flags, device, ..] = data else {
        // Whether it is being set (0), what clears it (3), who has seen it (4): taken, and nothing more.
        return if matches!(selector, 0 | 3 | 4) { DONE } else { WRONG_DATA };
    };
    match selector {
        5 if flags & 0x80 == 0 => host.set_override(Override::default()),
        5 => {
            let source = source((device >> 2) & 0x0f);
            host.set_override(Override {
                enabled: if flags & 0x40 == 0 { Enabled::Once } else { Enabled::Continuous },
                source,
                word: match source {
                    Some(Source::Network) => "Pxe",
                    Some(Source::Disk) => "Hdd",
                    Some(Source::Media) => "Cd",
                    Some(Source::Setup) => "BiosSetup",
                    _ => "",
                }
                .to_owned(),
                uefi: Some(flags & 0x20 != 0),
            });
        }
        0 | 3 | 4 => {}
        // A parameter that is not there (28.12).
        _ => return 0x80,
    }
    DONE
}

/// Get System Boot Options (28.13).
fn boot(host: &Host, selector: u8) -> (u8, Vec<u8>) {
    if selector != 5 {
        return (0x80, Vec::new());
    }
    let boot = host.boot_override();
    let flags = match boot.enabled {
        Enabled::Disabled => 0,
        Enabled::Once => 0x80,
        Enabled::Continuous => 0xc0,
    };
    let efi = if boot.enabled != Enabled::Disabled && boot.uefi == Some(true) {
        0x20
    } else {
        0
    };
    let device = if boot.enabled == Enabled::Disabled {
        0
    } else {
        device(boot.source)
    };
    (DONE, vec![1, 5, flags | efi, device << 2, 0, 0, 0])
}
