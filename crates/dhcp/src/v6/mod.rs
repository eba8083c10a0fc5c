//! DHCPv6 (RFC 8415): messages ([`wire`]), a server ([`server`]) with addresses or, where a network has none to give away, with parameters only, and boot files beside somebody else's
//! server ([`proxy`]).

mod boot;
mod client;
pub mod proxy;
pub mod server;
pub mod wire;

use std::net::{Ipv6Addr, SocketAddrV6};

pub use self::client::Client;
use crate::arch::Firmware;

/// How a datagram reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// An address of ours that is not link-local, on the interface it came by: tells the network of whoever is on the link.
    pub link: Ipv6Addr,
    /// Sender of the datagram.
    pub source: SocketAddrV6,
    /// Whether it was sent to everybody.
    pub multicast: bool,
}

/// Why a message is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    /// It is a server's message.
    #[error("it is another server's message")]
    NotARequest,
    /// Against the rules of RFC 8415, 16, or sent to us alone where everybody must hear it.
    #[error("the message is not valid: an identifier is missing, or one is there that must not be")]
    Invalid,
    /// Addressed to another server.
    #[error("it is meant for another server")]
    OtherServer,
    /// Come from a network that we do not serve.
    #[error("no network that is served here holds {0}")]
    NoNetwork(Ipv6Addr),
    /// Another replica answers.
    #[error("another replica answers it")]
    OtherReplicasTurn,
    /// A message that this service has no answer to.
    #[error("this service has no answer to it")]
    NotForUs,
    /// The client does not boot from the network.
    #[error("the client does not boot from the network")]
    DoesNotBoot,
    /// No table has a row for it, or the row says nothing.
    #[error("there is nothing to boot for {0}")]
    NothingToBoot(Firmware),
    /// The network's mode says so.
    #[error("this network is left alone by policy")]
    Policy,
    /// Leases are not known yet, or could not be kept.
    #[error("its lease could not be kept at the moment")]
    NotKept,
}
