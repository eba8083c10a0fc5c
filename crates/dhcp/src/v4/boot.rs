//! Boot options of a reply, the same for a proxy and for a full server.

use std::net::Ipv4Addr;

use super::wire::{BootItem, Encoder, PxeVendor, USE_BOOT_FILE, code::option};
use crate::arch::{Boot, BootClass};

/// Menu entry that a Raspberry Pi looks for before it believes that a server is meant for it: type 0, and the text.
const RASPBERRY_PI_MENU: &[u8] = b"\0\0\x11Raspberry Pi Boot";
/// The prompt of that menu: no seconds to wait.
const RASPBERRY_PI_PROMPT: &[u8] = b"\0PXE";

/// Which vendor options go with a file. A Raspberry Pi has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vendor {
    /// None.
    None,
    /// Load the file named here, at once.
    UseBootFile,
    /// This is the boot server of the type that was asked for.
    Item(BootItem),
}

/// Class and file of what `boot` says. `scratch` is room for the suboptions.
pub(super) fn put(encoder: &mut Encoder<'_>, boot: &Boot, class: Option<BootClass>, vendor: Vendor, tftp: Ipv4Addr, scratch: &mut Vec<u8>) {
    scratch.clear();
    let servers = {
        let [a, b, c, d] = tftp.octets();
        [0, 0, 1, a, b, c, d]
    };
    let none = PxeVendor::default();
    let vendor = match (boot, vendor) {
        (Boot::RaspberryPi, _) => PxeVendor {
            discovery_control: Some(USE_BOOT_FILE),
            boot_servers: Some(&servers),
            boot_menu: Some(RASPBERRY_PI_MENU),
            menu_prompt: Some(RASPBERRY_PI_PROMPT),
            ..none
        },
        (_, Vendor::UseBootFile) => PxeVendor {
            discovery_control: Some(USE_BOOT_FILE),
            ..none
        },
        (_, Vendor::Item(item)) => PxeVendor {
            boot_item: Some(item),
            ..none
        },
        (_, Vendor::None) => none,
    };
    if vendor != none {
        vendor.write(scratch);
    }
    if let Some(class) = class {
        encoder.put(option::VENDOR_CLASS, class.name());
    }
    if !scratch.is_empty() {
        encoder.put(option::VENDOR, scratch);
    }
    match boot {
        Boot::Tftp(file) | Boot::TftpFrom(_, file) => {
            put_server(encoder, boot.tftp_server(tftp));
            encoder.boot_file(file.as_bytes(), true);
        }
        Boot::Http(url) | Boot::Script(url) => {
            encoder.boot_file(url.as_bytes(), true);
        }
        Boot::RaspberryPi => put_server(encoder, tftp),
        Boot::Nothing => {}
    }
}

/// Option 66 as text, for those who read it rather than `siaddr`.
fn put_server(encoder: &mut Encoder<'_>, tftp: Ipv4Addr) {
    use std::io::Write;
    let mut text = [0; 15];
    let mut left = &mut text[..];
    if write!(left, "{tftp}").is_ok() {
        let length = 15 - left.len();
        encoder.put(option::TFTP_SERVER, &text[..length]);
    }
}
