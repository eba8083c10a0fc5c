//! Reading a packet where it lies.
//!
//! Lenient as RFC 2131 and the field ask for: a missing End option, padding anywhere, options in any order, an option cut off at the end (what
//! came before it counts), hardware addresses of wrong length. Strict in one thing only: without a whole header and the magic cookie it is not DHCP.
//!
//! Options that occur several times are one option whose value is all of them in order (RFC 3396); only then is anything copied.

use std::net::Ipv4Addr;

use super::{
    code::{MessageType, option},
    relay::RelayInfo,
};

/// Bytes before the options: header and magic cookie.
pub(super) const OPTIONS_AT: usize = 240;
/// Longest packet that is looked at: what fits into one jumbo frame.
pub const MAX_PACKET: usize = 9000;
/// The four bytes that tell DHCP from BOOTP (RFC 2131, 3).
pub(super) const COOKIE: [u8; 4] = [99, 130, 83, 99];
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// In the index: the value is in `joined`. No offset is that large.
const JOINED: u16 = u16::MAX;

/// Why bytes are no DHCP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than header and cookie.
    #[error("{0} bytes are fewer than the 240 of a DHCP header")]
    Short(usize),
    /// Longer than [`MAX_PACKET`].
    #[error("{0} bytes are more than the {MAX_PACKET} that a packet may have")]
    Long(usize),
    /// BOOTP, or something else.
    #[error("the magic cookie of DHCP is missing")]
    Cookie,
}

/// A parsed DHCPv4 packet.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    /// For each code, where its value begins, 0 if the option is not there. The byte before it is its length.
    index: [u16; 256],
    joined: Vec<(u8, Vec<u8>)>,
    /// Whether the last option was cut off, or fields ended without End.
    truncated: bool,
    overload: u8,
}

impl<'a> Packet<'a> {
    /// Looks at each byte once.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        if bytes.len() < OPTIONS_AT {
            return Err(PacketError::Short(bytes.len()));
        }
        if bytes.len() > MAX_PACKET {
            return Err(PacketError::Long(bytes.len()));
        }
        if bytes[OPTIONS_AT - 4..OPTIONS_AT] != COOKIE {
            return Err(PacketError::Cookie);
        }
        let mut packet = Self {
            bytes,
            index: [0; 256],
            joined: Vec::new(),
            truncated: false,
            overload: 0,
        };
        packet.scan(OPTIONS_AT..bytes.len());
        // Only an overload option among the options proper counts; one within an overloaded field must not lead anywhere (RFC 2131, 4.1).
        packet.overload = packet.fixed::<1>(option::OVERLOAD).map_or(0, |[o]| o);
        if packet.overload & 1 != 0 {
            packet.scan(FILE);
        }
        if packet.overload & 2 != 0 {
            packet.scan(SNAME);
        }
        Ok(packet)
    }

    fn scan(&mut self, range: std::ops::Range<usize>) {
        let mut at = range.start;
        while at < range.end {
            let code = self.bytes[at];
            match code {
                option::PAD => at += 1,
                option::END => return,
                _ => {
                    let Some(&length) = self.bytes[..range.end].get(at + 1) else {
                        self.truncated = true;
                        return;
                    };
                    let end = at + 2 + usize::from(length);
                    if end > range.end {
                        self.truncated = true;
                        return;
                    }
                    self.found(code, at + 2, end);
                    at = end;
                }
            }
        }
    }

    fn found(&mut self, code: u8, start: usize, end: usize) {
        let value = &self.bytes[start..end];
        match self.index[usize::from(code)] {
            // MAX_PACKET is far below what does not fit.
            0 => self.index[usize::from(code)] = start as u16,
            JOINED => {
                if let Some((_, whole)) = self.joined.iter_mut().find(|(c, _)| *c == code) {
                    whole.extend_from_slice(value);
                }
            }
            first => {
                let mut whole = self.at(first).to_vec();
                whole.extend_from_slice(value);
                self.joined.push((code, whole));
                self.index[usize::from(code)] = JOINED;
            }
        }
    }

    fn at(&self, start: u16) -> &'a [u8] {
        let start = usize::from(start);
        &self.bytes[start..start + usize::from(self.bytes[start - 1])]
    }

    /// The value of an option, if it is there.
    pub fn option(&self, code: u8) -> Option<&[u8]> {
        match self.index[usize::from(code)] {
            0 => None,
            JOINED => self.joined.iter().find(|(c, _)| *c == code).map(|(_, whole)| whole.as_slice()),
            start => Some(self.at(start)),
        }
    }

    /// All options in the order of their codes.
    pub fn options(&self) -> impl Iterator<Item = (u8, &[u8])> {
        (1..255u8).filter_map(|code| Some((code, self.option(code)?)))
    }

    /// Of an option of fixed size its first bytes: one that is sent twice is a slip, not a long value.
    fn fixed<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.option(code)?.first_chunk().copied()
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.fixed::<4>(code).map(Ipv4Addr::from)
    }

    fn header<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut value = [0; N];
        value.copy_from_slice(&self.bytes[at..at + N]);
        value
    }

    /// The packet as it came.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether an option was cut off; what stands before it was read.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether this comes from a client: `op` is BOOTREQUEST.
    pub fn is_request(&self) -> bool {
        self.bytes[0] == 1
    }

    /// Hardware type (1 is Ethernet).
    pub fn hardware_type(&self) -> u8 {
        self.bytes[1]
    }

    /// Relay agents on the way.
    pub fn hops(&self) -> u8 {
        self.bytes[3]
    }

    /// Transaction number, chosen by the client.
    pub fn xid(&self) -> u32 {
        u32::from_be_bytes(self.header(4))
    }

    /// Seconds for which the client has been trying. Some firmware swaps its bytes: 256 and its multiples without a rest are read as such.
    pub fn seconds(&self) -> u16 {
        let [high, low]: [u8; 2] = self.header(8);
        if low == 0 {
            u16::from(high)
        } else {
            u16::from_be_bytes([high, low])
        }
    }

    /// All flags.
    pub fn flags(&self) -> u16 {
        u16::from_be_bytes(self.header(10))
    }

    /// Whether the client cannot receive unicast before it has an address (RFC 2131, 4.1).
    pub fn wants_broadcast(&self) -> bool {
        self.flags() & 0x8000 != 0
    }

    /// The client's address, once it may use it.
    pub fn ciaddr(&self) -> Ipv4Addr {
        self.header::<4>(12).into()
    }

    /// "Your" address.
    pub fn yiaddr(&self) -> Ipv4Addr {
        self.header::<4>(16).into()
    }

    /// Server to boot from.
    pub fn siaddr(&self) -> Ipv4Addr {
        self.header::<4>(20).into()
    }

    /// Relay agent.
    pub fn giaddr(&self) -> Ipv4Addr {
        self.header::<4>(24).into()
    }

    /// Hardware address as long as `hlen` says, at most 16 bytes.
    pub fn hardware_address(&self) -> &'a [u8] {
        &self.bytes[28..28 + usize::from(self.bytes[2]).min(16)]
    }

    /// The Ethernet address, if the client has one.
    pub fn mac(&self) -> Option<[u8; 6]> {
        (self.hardware_type() == 1)
            .then(|| self.hardware_address().try_into().ok())
            .flatten()
    }

    /// Boot file of the header, up to its NUL; nothing if the field holds options.
    pub fn file(&self) -> &'a [u8] {
        if self.overload & 1 != 0 {
            &[]
        } else {
            until_nul(&self.bytes[FILE])
        }
    }

    /// Server name of the header, up to its NUL; nothing if the field holds options.
    pub fn server_name(&self) -> &'a [u8] {
        if self.overload & 2 != 0 {
            &[]
        } else {
            until_nul(&self.bytes[SNAME])
        }
    }

    /// Option 53.
    pub fn message_type(&self) -> Option<MessageType> {
        self.fixed::<1>(option::MESSAGE_TYPE).and_then(|[n]| MessageType::from_number(n))
    }

    /// Option 50.
    pub fn requested_address(&self) -> Option<Ipv4Addr> {
        self.address(option::REQUESTED_ADDRESS)
    }

    /// Option 51, in seconds.
    pub fn lease_time(&self) -> Option<u32> {
        self.fixed(option::LEASE_TIME).map(u32::from_be_bytes)
    }

    /// Option 54.
    pub fn server_id(&self) -> Option<Ipv4Addr> {
        self.address(option::SERVER_ID)
    }

    /// Option 55; empty where nothing was asked for.
    pub fn parameter_list(&self) -> &[u8] {
        self.option(option::PARAMETER_LIST).unwrap_or_default()
    }

    /// Option 57, in bytes, with the headers of IP and UDP.
    pub fn max_size(&self) -> Option<u16> {
        self.fixed(option::MAX_SIZE).map(u16::from_be_bytes)
    }

    /// Option 60.
    pub fn vendor_class(&self) -> Option<&[u8]> {
        self.option(option::VENDOR_CLASS)
    }

    /// Option 61: type and identifier. An empty one, or a type alone, identifies nobody (RFC 2132, 9.14).
    pub fn client_id(&self) -> Option<&[u8]> {
        self.option(option::CLIENT_ID).filter(|id| id.len() >= 2)
    }

    /// Option 118.
    pub fn subnet_selection(&self) -> Option<Ipv4Addr> {
        self.address(option::SUBNET_SELECTION)
    }

    /// Option 93: architectures in the order in which the client prefers them.
    pub fn architectures(&self) -> impl Iterator<Item = u16> {
        let list = self.option(option::ARCHITECTURE).unwrap_or_default();
        list.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]))
    }

    /// Option 97: the machine's UUID in the byte order it was sent in, which is SMBIOS' with most firmware and the other one with some.
    pub fn machine_id(&self) -> Option<[u8; 16]> {
        match self.option(option::MACHINE_ID)? {
            [0, uuid @ ..] => uuid.first_chunk().copied(),
            _ => None,
        }
    }

    /// Option 77, both as RFC 3004 has it (each class behind its length) and as one bare text, which is what iPXE and others send.
    pub fn user_classes(&self) -> UserClasses<'_> {
        let value = self.option(option::USER_CLASS).unwrap_or_default();
        UserClasses {
            rest: value,
            bare: !is_class_list(value),
        }
    }

    /// Option 82.
    pub fn relay(&self) -> Option<RelayInfo<'_>> {
        self.option(option::RELAY_AGENT).map(RelayInfo::new)
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn is_class_list(mut value: &[u8]) -> bool {
    while let [length, rest @ ..] = value {
        let length = usize::from(*length);
        if length == 0 || length > rest.len() {
            return false;
        }
        value = &rest[length..];
    }
    true
}

/// The classes of option 77.
#[derive(Debug, Clone)]
pub struct UserClasses<'p> {
    rest: &'p [u8],
    bare: bool,
}

impl<'p> Iterator for UserClasses<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        if self.bare {
            return Some(std::mem::take(&mut self.rest));
        }
        let (length, rest) = self.rest.split_first()?;
        let (class, rest) = rest.split_at_checked(usize::from(*length))?;
        self.rest = rest;
        Some(class)
    }
}
