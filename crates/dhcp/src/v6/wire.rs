//! DHCPv6 messages (RFC 8415): read where they lie, through up to eight relay agents, and written into a buffer that is used again.
//!
//! Lenient where it harms nobody: an option that is cut off ends the list. What a message means is not decided here.

use std::net::Ipv6Addr;

/// UDP port of servers and relay agents (RFC 8415, 7.2).
pub const SERVER_PORT: u16 = 547;
/// UDP port of clients (RFC 8415, 7.2).
pub const CLIENT_PORT: u16 = 546;
/// UDP port of boot servers, at both ends, in EDK2's PXE over IPv6: the same as with IPv4 (PXE 2.1, 2.4.2). No RFC says so.
pub const PXE_PORT: u16 = 4011;
/// Relay agents that a message may pass (RFC 8415, 7.6: HOP_COUNT_LIMIT).
pub const MAX_RELAYS: usize = 8;
/// Longest DUID, with its type (RFC 8415, 11.1).
pub const MAX_DUID: usize = 130;
/// Longest datagram that is looked at.
pub const MAX_MESSAGE: usize = 9000;
/// Type, hop count, two addresses.
const RELAY_HEADER: usize = 34;

/// Codes of the options that this crate reads or writes.
pub mod option {
    /// The client's DUID (RFC 8415, 21.2).
    pub const CLIENT_ID: u16 = 1;
    /// The server's DUID (RFC 8415, 21.3).
    pub const SERVER_ID: u16 = 2;
    /// Addresses (RFC 8415, 21.4).
    pub const IA_NA: u16 = 3;
    /// Temporary addresses (RFC 8415, 21.5).
    pub const IA_TA: u16 = 4;
    /// One address (RFC 8415, 21.6).
    pub const IA_ADDRESS: u16 = 5;
    /// Options that the client would like to have (RFC 8415, 21.7).
    pub const REQUEST: u16 = 6;
    /// Hundredths of a second for which the client has been trying (RFC 8415, 21.9).
    pub const ELAPSED: u16 = 8;
    /// A message within a relay agent's (RFC 8415, 21.10).
    pub const RELAY_MESSAGE: u16 = 9;
    /// Status (RFC 8415, 21.13).
    pub const STATUS: u16 = 13;
    /// Two messages instead of four (RFC 8415, 21.14).
    pub const RAPID_COMMIT: u16 = 14;
    /// User classes (RFC 8415, 21.15).
    pub const USER_CLASS: u16 = 15;
    /// Vendor classes (RFC 8415, 21.16).
    pub const VENDOR_CLASS: u16 = 16;
    /// The relay agent's interface (RFC 8415, 21.18).
    pub const INTERFACE_ID: u16 = 18;
    /// Name servers (RFC 3646, 3).
    pub const DNS: u16 = 23;
    /// Domains to search (RFC 3646, 4).
    pub const DOMAINS: u16 = 24;
    /// Delegated prefixes (RFC 8415, 21.21).
    pub const IA_PD: u16 = 25;
    /// Time servers (RFC 4075).
    pub const SNTP: u16 = 31;
    /// When to ask for parameters again, in seconds (RFC 8415, 21.23).
    pub const REFRESH: u16 = 32;
    /// URL of the boot file (RFC 5970, 3.1).
    pub const BOOT_FILE_URL: u16 = 59;
    /// Parameters of the boot file (RFC 5970, 3.2).
    pub const BOOT_FILE_PARAMETERS: u16 = 60;
    /// Architectures of the client system (RFC 5970, 3.3).
    pub const ARCHITECTURE: u16 = 61;
    /// The client's hardware address, as the relay agent saw it (RFC 6939).
    pub const CLIENT_LINK_LAYER: u16 = 79;
}

/// Message types (RFC 8415, 7.3), without the relay agents'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// A client looks for servers.
    Solicit = 1,
    /// A server offers addresses.
    Advertise = 2,
    /// A client takes an offer.
    Request = 3,
    /// Are my addresses right on this link?
    Confirm = 4,
    /// A client extends its lease at the server it has it from.
    Renew = 5,
    /// The same at any server.
    Rebind = 6,
    /// The answer.
    Reply = 7,
    /// A client gives addresses back.
    Release = 8,
    /// Addresses are in use already, says the client.
    Decline = 9,
    /// A server wakes a client.
    Reconfigure = 10,
    /// A client asks for parameters only.
    InformationRequest = 11,
}

impl MessageType {
    /// By its number.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Solicit,
            2 => Self::Advertise,
            3 => Self::Request,
            4 => Self::Confirm,
            5 => Self::Renew,
            6 => Self::Rebind,
            7 => Self::Reply,
            8 => Self::Release,
            9 => Self::Decline,
            10 => Self::Reconfigure,
            11 => Self::InformationRequest,
            _ => return None,
        })
    }
}

/// Status codes (RFC 8415, 21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// It is done.
    Success = 0,
    /// No address is left.
    NoAddresses = 2,
    /// The lease is not known.
    NoBinding = 3,
    /// The address does not belong to this link.
    NotOnLink = 4,
    /// Ask everybody, not us alone.
    UseMulticast = 5,
    /// Prefixes are not delegated here.
    NoPrefixes = 6,
}

/// Why bytes are no DHCPv6 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Shorter than a header.
    #[error("the message ends within its header")]
    Short,
    /// Longer than [`MAX_MESSAGE`].
    #[error("{0} bytes are more than the {MAX_MESSAGE} that a message may have")]
    Long(usize),
    /// Not a type of RFC 8415 that a server has to do with.
    #[error("message type {0} is none that is answered here")]
    Type(u8),
    /// A relay agent's message without one inside.
    #[error("a relay agent's message holds none")]
    Empty,
    /// Too many relay agents.
    #[error("the message passed more than {MAX_RELAYS} relay agents")]
    Relays,
}

/// Options behind each other. Ends at the first that is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d, rest @ ..] = self.0 else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*c, *d])))?;
        self.0 = rest;
        Some((u16::from_be_bytes([*a, *b]), value))
    }
}

impl<'a> Options<'a> {
    /// The first option with a code.
    pub fn get(self, code: u16) -> Option<&'a [u8]> {
        self.all(code).next()
    }

    /// All options with a code.
    pub fn all(self, code: u16) -> impl Iterator<Item = &'a [u8]> {
        self.filter(move |(c, _)| *c == code).map(|(_, value)| value)
    }
}

/// A relay agent's share of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay<'a> {
    /// Relay agents before this one.
    pub hops: u8,
    /// An address of the link it heard the message on, or unspecified.
    pub link: Ipv6Addr,
    /// From whom it heard it.
    pub peer: Ipv6Addr,
    /// Its name for the interface, which the answer carries back.
    pub interface_id: Option<&'a [u8]>,
    /// The client's Ethernet address.
    pub client_mac: Option<[u8; 6]>,
}

/// A client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is about.
    pub kind: MessageType,
    /// Transaction number, chosen by the client.
    pub xid: [u8; 3],
    /// The rest.
    pub options: Options<'a>,
}

/// What came in one UDP datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Relay agents that it passed, the one nearest to us first.
    pub relays: Vec<Relay<'a>>,
    /// The client's message.
    pub message: Message<'a>,
}

impl<'a> Datagram<'a> {
    /// Looks at each byte a few times at most.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        const RELAY_FORWARD: u8 = 12;
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::Long(bytes.len()));
        }
        let mut relays = Vec::new();
        let mut left = bytes;
        while let [RELAY_FORWARD, hops, ..] = left {
            if relays.len() == MAX_RELAYS {
                return Err(MessageError::Relays);
            }
            let (header, options) = left.split_at_checked(RELAY_HEADER).ok_or(MessageError::Short)?;
            let options = Options(options);
            let address = |at: usize| {
                header[at..]
                    .first_chunk::<16>()
                    .map_or(Ipv6Addr::UNSPECIFIED, |a| Ipv6Addr::from(*a))
            };
            relays.push(Relay {
                hops: *hops,
                link: address(2),
                peer: address(18),
                interface_id: options.get(option::INTERFACE_ID),
                client_mac: options.get(option::CLIENT_LINK_LAYER).and_then(ethernet),
            });
            left = options.get(option::RELAY_MESSAGE).ok_or(MessageError::Empty)?;
        }
        Message::parse(left).map(|message| Self { relays, message })
    }

    /// An address of the client's link: by the word of the relay agent nearest to the client that says one (RFC 8415, 13.1), else `ours`.
    pub fn link(&self, ours: Ipv6Addr) -> Ipv6Addr {
        let said = self.relays.iter().rev().map(|relay| relay.link).find(|link| !link.is_unspecified());
        said.unwrap_or(ours)
    }
}

/// A hardware type and an address: option 79, and the end of a DUID-LL.
fn ethernet(value: &[u8]) -> Option<[u8; 6]> {
    match value {
        [0, 1, mac @ ..] => mac.try_into().ok(),
        _ => None,
    }
}

/// The MAC address in an interface identifier of EUI-64 form (RFC 4291, appendix A).
pub fn mac_of(address: Ipv6Addr) -> Option<[u8; 6]> {
    let [_, _, _, _, _, _, _, _, a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else {
        return None;
    };
    (address.is_unicast_link_local() && a & 1 == 0).then_some([a ^ 2, b, c, d, e, f])
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let [kind, a, b, c, options @ ..] = bytes else {
            return Err(MessageError::Short);
        };
        let kind = MessageType::from_number(*kind).ok_or(MessageError::Type(*kind))?;
        Ok(Self {
            kind,
            xid: [*a, *b, *c],
            options: Options(options),
        })
    }

    /// The client's DUID. One that is empty or too long identifies nobody.
    pub fn client_id(&self) -> Option<&'a [u8]> {
        self.options
            .get(option::CLIENT_ID)
            .filter(|duid| (3..=MAX_DUID).contains(&duid.len()))
    }

    /// The server that is meant.
    pub fn server_id(&self) -> Option<&'a [u8]> {
        self.options.get(option::SERVER_ID)
    }

    /// The MAC address in a DUID-LLT or DUID-LL (RFC 8415, 11.2, 11.4).
    pub fn duid_mac(&self) -> Option<[u8; 6]> {
        match self.client_id()? {
            // Type, hardware type, time, address.
            [0, 1, 0, 1, _, _, _, _, mac @ ..] => mac.try_into().ok(),
            [0, 3, rest @ ..] => ethernet(rest),
            _ => None,
        }
    }

    /// The machine's UUID in a DUID-UUID (RFC 8415, 11.5), which UEFI firmware sends: in the byte order it was sent in.
    pub fn duid_uuid(&self) -> Option<[u8; 16]> {
        match self.client_id()? {
            [0, 4, uuid @ ..] => uuid.try_into().ok(),
            _ => None,
        }
    }

    /// Whether the client would like to have an option; one that does not say would like all.
    pub fn wants(&self, code: u16) -> bool {
        match self.options.get(option::REQUEST) {
            Some(list) => list.chunks_exact(2).any(|c| u16::from_be_bytes([c[0], c[1]]) == code),
            None => true,
        }
    }

    /// Seconds for which the client has been trying.
    pub fn seconds(&self) -> u16 {
        self.options
            .get(option::ELAPSED)
            .and_then(|v| v.first_chunk())
            .map_or(0, |v| u16::from_be_bytes(*v) / 100)
    }

    /// Architectures in the order in which the client prefers them.
    pub fn architectures(&self) -> impl Iterator<Item = u16> {
        let list = self.options.get(option::ARCHITECTURE).unwrap_or_default();
        list.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]))
    }

    /// Vendor classes, each with its enterprise number.
    pub fn vendor_classes(&self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let split = |value: &'a [u8]| value.split_first_chunk::<4>().map(|(e, classes)| (u32::from_be_bytes(*e), classes));
        self.options
            .all(option::VENDOR_CLASS)
            .filter_map(split)
            .flat_map(|(enterprise, classes)| Texts(classes).map(move |class| (enterprise, class)))
    }

    /// User classes.
    pub fn user_classes(&self) -> impl Iterator<Item = &'a [u8]> {
        self.options.all(option::USER_CLASS).flat_map(Texts)
    }

    /// Identity associations for addresses that are not temporary.
    pub fn associations(&self) -> impl Iterator<Item = Association<'a>> {
        self.options.all(option::IA_NA).filter_map(|value| {
            let (head, options) = value.split_first_chunk::<12>()?;
            Some(Association {
                id: [head[0], head[1], head[2], head[3]],
                options: Options(options),
            })
        })
    }
}

/// Texts behind their lengths of two bytes.
struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.0 = rest;
        Some(text)
    }
}

/// IA_NA as a client sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Association<'a> {
    /// IAID.
    pub id: [u8; 4],
    options: Options<'a>,
}

impl<'a> Association<'a> {
    /// Addresses in it.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> + use<'a> {
        self.options
            .all(option::IA_ADDRESS)
            .filter_map(|value| value.first_chunk::<16>().map(|a| Ipv6Addr::from(*a)))
    }
}

/// A reply being written: relay agents' headers around it, if it has to pass some.
#[derive(Debug)]
pub struct Encoder<'b> {
    out: &'b mut Vec<u8>,
    /// Where the lengths stand that are known at the end only.
    open: Vec<usize>,
}

impl<'b> Encoder<'b> {
    /// Begins a reply to what came.
    pub fn reply(request: &Datagram<'_>, kind: MessageType, out: &'b mut Vec<u8>) -> Self {
        const RELAY_REPLY: u8 = 13;
        out.clear();
        let mut encoder = Self { out, open: Vec::new() };
        for relay in &request.relays {
            encoder.out.extend_from_slice(&[RELAY_REPLY, relay.hops]);
            encoder.out.extend_from_slice(&relay.link.octets());
            encoder.out.extend_from_slice(&relay.peer.octets());
            if let Some(id) = relay.interface_id {
                encoder.put(option::INTERFACE_ID, id);
            }
            encoder.begin(option::RELAY_MESSAGE);
        }
        let [a, b, c] = request.message.xid;
        encoder.out.extend_from_slice(&[kind as u8, a, b, c]);
        encoder
    }

    /// Writes an option.
    pub fn put(&mut self, code: u16, value: &[u8]) {
        self.begin(code);
        self.out.extend_from_slice(value);
        self.end();
    }

    /// Begins an option that others go into.
    pub fn begin(&mut self, code: u16) {
        self.out.extend_from_slice(&code.to_be_bytes());
        self.open.push(self.out.len());
        self.out.extend_from_slice(&[0, 0]);
    }

    /// Ends what was begun last.
    pub fn end(&mut self) {
        if let Some(at) = self.open.pop() {
            // A reply holds a few options and what a datagram of bounded size brought: far below 65,536.
            let length = (self.out.len() - at - 2).min(usize::from(u16::MAX)) as u16;
            self.out[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Writes bytes into what was begun last.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes a status with a text for people.
    pub fn status(&mut self, status: Status, text: &str) {
        self.begin(option::STATUS);
        self.bytes(&(status as u16).to_be_bytes());
        self.bytes(text.as_bytes());
        self.end();
    }

    /// Writes an address with its preferred and valid lifetimes in seconds.
    pub fn address(&mut self, address: Ipv6Addr, preferred: u32, valid: u32) {
        self.begin(option::IA_ADDRESS);
        self.bytes(&address.octets());
        self.bytes(&preferred.to_be_bytes());
        self.bytes(&valid.to_be_bytes());
        self.end();
    }

    /// Ends the reply.
    pub fn finish(mut self) {
        while !self.open.is_empty() {
            self.end();
        }
    }
}
