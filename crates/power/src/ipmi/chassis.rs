//! The commands that switch: chassis status and control, boot options. Bytes and their meaning.
//!
//! IPMI v2.0 revision 1.1: sections 28.2 (status), 28.3 (control), 28.12 and 28.13 (boot options), table 28-14 (their parameters), table 5-2 (completion codes).

use super::wire::Request;
use crate::{
    driver::{BootDevice, BootOnce, Firmware},
    fault::Fault,
};

const CHASSIS: u8 = 0x00;
/// Boot option parameter 3: when the BMC forgets the flags.
const FORGETTING: u8 = 3;
/// Boot option parameter 5: the boot flags.
const FLAGS: u8 = 5;
const VALID: u8 = 0x80;
const UEFI: u8 = 0x20;

/// What chassis control does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Off, now.
    Down,
    /// On.
    Up,
    /// Off, for at least a second, and on.
    Cycle,
    /// A reset, with the power on.
    Reset,
    /// As the button does: the system shuts down.
    Soft,
}

/// Get Chassis Status.
#[must_use]
pub fn status() -> Request {
    Request {
        net_fn: CHASSIS,
        command: 0x01,
        data: Vec::new(),
    }
}

/// Whether the machine is on, of the answer's data. None: it is too short.
#[must_use]
pub fn is_on(data: &[u8]) -> Option<bool> {
    data.first().map(|state| state & 1 != 0)
}

/// Chassis Control.
#[must_use]
pub fn control(what: Control) -> Request {
    let number = match what {
        Control::Down => 0,
        Control::Up => 1,
        Control::Cycle => 2,
        Control::Reset => 3,
        Control::Soft => 5,
    };
    Request {
        net_fn: CHASSIS,
        command: 0x02,
        data: vec![number],
    }
}

/// Set System Boot Options: keep the flags for longer than 60 s, in which the machine may still be shutting down. Optional: BMCs may refuse it.
#[must_use]
pub fn remember_flags() -> Request {
    Request {
        net_fn: CHASSIS,
        command: 0x08,
        data: vec![FORGETTING, 0x08],
    }
}

/// The device selector of table 28-14. IPMI knows no HTTP boot.
const fn selector(device: BootDevice) -> Option<u8> {
    match device {
        BootDevice::Network => Some(0b0001),
        BootDevice::Disk => Some(0b0010),
        BootDevice::Media => Some(0b0101),
        BootDevice::Setup => Some(0b0110),
        BootDevice::Http => None,
    }
}

/// The boot flags of one boot: valid, not persistent. None: IPMI does not know this device.
#[must_use]
pub fn flags(boot: BootOnce) -> Option<[u8; 5]> {
    let firmware = match boot.firmware {
        Firmware::Bios => 0,
        Firmware::Uefi => UEFI,
    };
    Some([VALID | firmware, selector(boot.device)? << 2, 0, 0, 0])
}

/// Set System Boot Options with these flags.
#[must_use]
pub fn set_flags(flags: [u8; 5]) -> Request {
    let mut data = vec![FLAGS];
    data.extend_from_slice(&flags);
    Request {
        net_fn: CHASSIS,
        command: 0x08,
        data,
    }
}

/// Get System Boot Options: the flags.
#[must_use]
pub fn get_flags() -> Request {
    Request {
        net_fn: CHASSIS,
        command: 0x09,
        data: vec![FLAGS, 0, 0],
    }
}

/// Whether the answer shows the device of these flags. None: it is no answer about flags. That they are valid, and for which firmware, is not repeated by all.
#[must_use]
pub fn shows(data: &[u8], flags: [u8; 5]) -> Option<bool> {
    let [_version, parameter, _validity, device, ..] = data else {
        return None;
    };
    (parameter & 0x7f == FLAGS).then_some(device & 0x3c == flags[1])
}

/// What a completion code means: None for 0.
#[must_use]
pub fn fault(completion: u8, wanted: &str) -> Option<Fault> {
    let refused = |why: &str| Fault::Refused(format!("{wanted}: {why} (completion code {completion:#04x})"));
    Some(match completion {
        0x00 => return None,
        0xc0 | 0xd2 => Fault::Busy {
            detail: format!("completion code {completion:#04x}"),
            after: None,
        },
        // It lost its own answer; or it knows the request again, and no longer what became of it.
        0xc3 | 0xcf => Fault::Unanswered(format!("{wanted}: completion code {completion:#04x}")),
        0xd4 => Fault::Privilege(wanted.to_owned()),
        0xc1 | 0xc2 | 0xc9 | 0xcc => Fault::NotOffered {
            wanted: wanted.to_owned(),
            offered: format!("other commands (completion code {completion:#04x})"),
        },
        0xd5 => refused("not in the machine's present state"),
        0xd6 => refused("it is disabled"),
        _ => refused("no reason given"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_boot_is_valid_once_and_says_the_firmware() {
        let boot = |device, firmware| flags(BootOnce { device, firmware });
        assert_eq!(boot(BootDevice::Network, Firmware::Bios), Some([0x80, 0x04, 0, 0, 0]));
        assert_eq!(boot(BootDevice::Network, Firmware::Uefi), Some([0xa0, 0x04, 0, 0, 0]));
        assert_eq!(boot(BootDevice::Media, Firmware::Uefi), Some([0xa0, 0x14, 0, 0, 0]));
        assert_eq!(boot(BootDevice::Http, Firmware::Uefi), None);
    }

    #[test]
    fn completion_codes_say_whether_it_may_have_happened() {
        assert_eq!(fault(0, "power up"), None);
        assert!(matches!(fault(0xc0, "power up"), Some(Fault::Busy { .. })));
        assert!(matches!(fault(0xcf, "power up"), Some(Fault::Unanswered(_))));
        assert!(matches!(fault(0xd4, "power up"), Some(Fault::Privilege(_))));
        assert!(matches!(fault(0xc1, "power up"), Some(Fault::NotOffered { .. })));
        assert!(matches!(fault(0xff, "power up"), Some(Fault::Refused(_))));
    }

    #[test]
    fn flags_are_seen_in_an_answer_and_forgotten_ones_missed() {
        let flags = [0xa0, 0x04, 0, 0, 0];
        assert_eq!(shows(&[1, 5, 0xa0, 0x04, 0, 0, 0], flags), Some(true));
        assert_eq!(shows(&[1, 5, 0, 0x04, 0, 0, 0], flags), Some(true));
        assert_eq!(shows(&[1, 5, 0, 0, 0, 0, 0], flags), Some(false));
        assert_eq!(shows(&[1, 5, 0x80, 0x08, 0, 0, 0], flags), Some(false));
        assert_eq!(shows(&[1, 4, 0xa0, 0x04], flags), None);
        assert_eq!(shows(&[1, 5], flags), None);
    }
}
