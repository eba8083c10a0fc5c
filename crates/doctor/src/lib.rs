//! Why does a machine not boot from this network? Three answers, for people:
//!
//! | room | what |
//! |---|---|
//! | [`timeline`] | how far a machine came, from its BareMetalDiscovery, and what it usually means when a boot stops there |
//! | [`probe`] | questions to the network's servers: the same packets that firmware sends |
//! | [`judge`] | findings out of facts, each with a remedy; pure |
//! | [`recipes`] | what to write into a DHCP server that is not ours |
//!
//! Invariants:
//! * Nothing is changed: no lease is taken, no setting written. A DHCPDISCOVER from a made-up MAC address is all that others see.
//! * A finding says what was seen; what could not be looked at is named as such, never as good.
//! * Whatever others send is bounded and printed harmlessly.

pub mod judge;
pub mod probe;
pub mod recipes;
pub mod timeline;

/// Text from somebody else, for people's terminals: printable ASCII, at most so many characters.
pub(crate) fn printable(bytes: &[u8], most: usize) -> String {
    let plain = |byte: &u8| match *byte {
        byte if byte.is_ascii_graphic() || byte == b' ' => char::from(byte),
        _ => '?',
    };
    bytes.iter().take(most).map(plain).collect()
}
