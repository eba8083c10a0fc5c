//! What to boot, in the words of DHCPv6 (RFC 5970): the same for a server and beside one.

use std::{io::Write, net::Ipv6Addr};

use super::{
    client::Client,
    wire::{Encoder, option},
};
use crate::arch::{Boot, BootClass, Tables};

/// Longest URL that is put together here: `tftp://[...]/` and a file.
const MAX_URL: usize = 256;

/// Writes the boot file of a client, if it wants to boot and there is one. Whether anything was written.
pub(super) fn put(encoder: &mut Encoder<'_>, client: &Client, tables: &Tables<'_>, tftp: Ipv6Addr) -> bool {
    let Some(boot) = client.firmware.and_then(|firmware| tables.choose(firmware)) else {
        return false;
    };
    match boot {
        Boot::Tftp(file) => put_tftp(encoder, tftp, file),
        Boot::RaspberryPi => put_tftp(encoder, tftp, ""),
        Boot::Http(url) | Boot::Script(url) => encoder.put(option::BOOT_FILE_URL, url.as_bytes()),
        // Who boots over IPv6 has no way to an IPv4 address.
        Boot::TftpFrom(..) | Boot::Nothing => return false,
    }
    // EDK2's HTTP boot takes only what carries its class, under the number it asked with.
    if let Some((enterprise, class @ BootClass::Http)) = client.class {
        put_class(encoder, enterprise, class);
    }
    true
}

/// Writes a vendor class.
pub(super) fn put_class(encoder: &mut Encoder<'_>, enterprise: u32, class: BootClass) {
    encoder.begin(option::VENDOR_CLASS);
    encoder.bytes(&enterprise.to_be_bytes());
    // The names of classes have a few letters.
    encoder.bytes(&(class.name().len() as u16).to_be_bytes());
    encoder.bytes(class.name());
    encoder.end();
}

fn put_tftp(encoder: &mut Encoder<'_>, server: Ipv6Addr, file: &str) {
    let mut url = [0; MAX_URL];
    let mut left = &mut url[..];
    // A file has 127 characters at most, and an address 39.
    if write!(left, "tftp://[{server}]/{file}").is_ok() {
        let length = MAX_URL - left.len();
        encoder.put(option::BOOT_FILE_URL, &url[..length]);
    }
}
