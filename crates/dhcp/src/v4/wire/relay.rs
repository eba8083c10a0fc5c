//! Option 82, as a relay agent added it (RFC 3046). What a server understands of it; the answer carries it back byte for byte.

use std::net::Ipv4Addr;

/// Relay agent information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayInfo<'p> {
    value: &'p [u8],
}

impl<'p> RelayInfo<'p> {
    pub(super) fn new(value: &'p [u8]) -> Self {
        Self { value }
    }

    /// The option's value, to be echoed unchanged.
    pub fn value(&self) -> &'p [u8] {
        self.value
    }

    fn suboption(&self, wanted: u8) -> Option<&'p [u8]> {
        Suboptions { rest: self.value }
            .find(|(code, _)| *code == wanted)
            .map(|(_, value)| value)
    }

    fn address(&self, wanted: u8) -> Option<Ipv4Addr> {
        self.suboption(wanted)?.first_chunk::<4>().map(|a| Ipv4Addr::from(*a))
    }

    /// Suboption 1: the port or circuit on which the client is.
    pub fn circuit_id(&self) -> Option<&'p [u8]> {
        self.suboption(1)
    }

    /// Suboption 2: the relay, or the client as the relay knows it.
    pub fn remote_id(&self) -> Option<&'p [u8]> {
        self.suboption(2)
    }

    /// Suboption 5: an address of the client's link, where the relay agent's own is not (RFC 3527).
    pub fn link_selection(&self) -> Option<Ipv4Addr> {
        self.address(5)
    }

    /// Suboption 11: what the client shall take for its server, so that it renews through the relay agent (RFC 5107).
    pub fn server_id_override(&self) -> Option<Ipv4Addr> {
        self.address(11)
    }
}

/// Codes and values behind each other, each value behind its length: the inside of options 43 and 82. Ends at the first that is cut off.
#[derive(Debug, Clone)]
pub(super) struct Suboptions<'p> {
    pub(super) rest: &'p [u8],
}

impl<'p> Iterator for Suboptions<'p> {
    type Item = (u8, &'p [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [code, length, rest @ ..] = self.rest else { return None };
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        self.rest = rest;
        Some((*code, value))
    }
}
