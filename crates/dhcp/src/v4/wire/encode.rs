//! Writing a reply into a buffer that is used again and again: after the first packet nothing is allocated.
//!
//! Options are written in the order of their importance, because what does not fit is left out: into the options field first, then into `file` and
//! `sname` where those are free (RFC 2131, 4.1: option overload). An option of more than 255 bytes is split (RFC 3396). The relay agent's option 82
//! comes last, unchanged, and its place is kept free from the beginning.

use std::net::Ipv4Addr;

use super::{
    code::{MessageType, option},
    packet::{COOKIE, OPTIONS_AT, Packet},
};

/// No reply is shorter: some old clients and relay agents drop what is shorter than BOOTP's packets (RFC 1542, 2.1).
const MIN_PACKET: usize = 300;
/// Every client takes IP datagrams of this size (RFC 2131, 2), and what one asks for is believed up to one Ethernet frame.
const DATAGRAM: std::ops::RangeInclusive<u16> = 576..=1500;
const IP_AND_UDP: usize = 28;
const SNAME: (usize, usize) = (44, 64);
const FILE: (usize, usize) = (108, 128);
/// The option that says which fields are overloaded.
const OVERLOAD_BYTES: usize = 3;
/// What the options field must have room for beside option 82: type, server, times, mask, router.
const LEAST_OPTIONS: usize = 64;

/// Fields of a reply's header that the request does not determine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Address that the client has already.
    pub ciaddr: Ipv4Addr,
    /// Address that it gets.
    pub yiaddr: Ipv4Addr,
    /// Server to boot from.
    pub siaddr: Ipv4Addr,
    /// Whether the broadcast flag is set, whatever the client said: a relay agent needs that for a NAK (RFC 2131, 4.3.2).
    pub force_broadcast: bool,
}

impl Default for Head {
    fn default() -> Self {
        let none = Ipv4Addr::UNSPECIFIED;
        Self {
            ciaddr: none,
            yiaddr: none,
            siaddr: none,
            force_broadcast: false,
        }
    }
}

/// A reply being written.
#[derive(Debug)]
pub struct Encoder<'b> {
    out: &'b mut Vec<u8>,
    /// Where the options field ends at the latest, without End, overload and option 82.
    limit: usize,
    /// Bytes used in `file` and `sname` by options.
    in_file: usize,
    in_sname: usize,
    file_is_text: bool,
    /// Whether option 82 has its place.
    echoes_relay: bool,
}

impl<'b> Encoder<'b> {
    /// Begins a reply to `request`: header, cookie, message type.
    pub fn reply(request: &Packet<'_>, head: &Head, kind: MessageType, out: &'b mut Vec<u8>) -> Self {
        let from = request.bytes();
        out.clear();
        out.extend_from_slice(&[2, from[1], from[2], 0]);
        out.extend_from_slice(&from[4..8]);
        let flags = request.flags() | if head.force_broadcast { 0x8000 } else { 0 };
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&flags.to_be_bytes());
        for address in [head.ciaddr, head.yiaddr, head.siaddr, request.giaddr()] {
            out.extend_from_slice(&address.octets());
        }
        out.extend_from_slice(&from[28..44]);
        out.resize(OPTIONS_AT - COOKIE.len(), 0);
        out.extend_from_slice(&COOKIE);
        let datagram = request.max_size().unwrap_or(0).clamp(*DATAGRAM.start(), *DATAGRAM.end());
        let whole = usize::from(datagram) - IP_AND_UDP - OVERLOAD_BYTES - 1;
        let relay = request.relay().map_or(0, |relay| split_len(relay.value().len()));
        // One that leaves no room for an answer is not echoed at all (RFC 3046, 2.2).
        let echoes_relay = relay > 0 && OPTIONS_AT + relay + LEAST_OPTIONS <= whole;
        let limit = if echoes_relay { whole - relay } else { whole };
        let mut encoder = Self {
            out,
            limit,
            in_file: 0,
            in_sname: 0,
            file_is_text: false,
            echoes_relay,
        };
        encoder.put(option::MESSAGE_TYPE, &[kind as u8]);
        encoder
    }

    /// Writes an option. `false`: there was no room left for it.
    pub fn put(&mut self, code: u8, value: &[u8]) -> bool {
        let needed = split_len(value.len());
        if self.out.len() + needed <= self.limit {
            for part in parts(value) {
                self.out.extend_from_slice(&[code, part.len() as u8]);
                self.out.extend_from_slice(part);
            }
            return true;
        }
        // One byte of each field is for its End.
        if !self.file_is_text && self.in_file + needed < FILE.1 {
            self.in_file = write_field(&mut self.out[FILE.0..], self.in_file, code, value);
            return true;
        }
        if self.in_sname + needed < SNAME.1 {
            self.in_sname = write_field(&mut self.out[SNAME.0..], self.in_sname, code, value);
            return true;
        }
        false
    }

    /// Writes an option that holds addresses.
    pub fn put_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) -> bool {
        let mut value = [0; 4 * 16];
        let count = addresses.len().min(16);
        for (place, address) in value.chunks_exact_mut(4).zip(addresses) {
            place.copy_from_slice(&address.octets());
        }
        self.put(code, &value[..4 * count])
    }

    /// Writes the boot file: into the header if it fits there, and as option 67 if `option_too` or if it does not.
    ///
    /// A padding byte follows the option. Some UEFI firmware reads the name up to a NUL, some writes a NUL behind it; both are right with that.
    pub fn boot_file(&mut self, name: &[u8], option_too: bool) -> bool {
        let fits = name.len() < FILE.1 && self.in_file == 0;
        if fits {
            self.out[FILE.0..FILE.0 + name.len()].copy_from_slice(name);
            self.file_is_text = true;
        }
        if fits && !option_too {
            return true;
        }
        let placed = self.put(option::BOOT_FILE, name);
        if self.out.len() < self.limit {
            self.out.push(option::PAD);
        }
        placed || fits
    }

    /// Ends the reply with the request's option 82.
    pub fn finish(self, request: &Packet<'_>) {
        let overload = u8::from(self.in_file > 0) | u8::from(self.in_sname > 0) << 1;
        if self.in_file > 0 {
            self.out[FILE.0 + self.in_file] = option::END;
        }
        if self.in_sname > 0 {
            self.out[SNAME.0 + self.in_sname] = option::END;
        }
        if overload != 0 {
            self.out.extend_from_slice(&[option::OVERLOAD, 1, overload]);
        }
        if let Some(relay) = request.relay().filter(|_| self.echoes_relay) {
            for part in parts(relay.value()) {
                self.out.extend_from_slice(&[option::RELAY_AGENT, part.len() as u8]);
                self.out.extend_from_slice(part);
            }
        }
        self.out.push(option::END);
        if self.out.len() < MIN_PACKET {
            self.out.resize(MIN_PACKET, option::PAD);
        }
    }
}

/// An empty value is one part.
fn parts(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let count = value.len().div_ceil(255).max(1);
    (0..count).map(move |i| &value[i * 255..value.len().min(i * 255 + 255)])
}

fn split_len(value: usize) -> usize {
    value + 2 * value.div_ceil(255).max(1)
}

fn write_field(field: &mut [u8], mut at: usize, code: u8, value: &[u8]) -> usize {
    for part in parts(value) {
        field[at] = code;
        field[at + 1] = part.len() as u8;
        field[at + 2..at + 2 + part.len()].copy_from_slice(part);
        at += 2 + part.len();
    }
    at
}
