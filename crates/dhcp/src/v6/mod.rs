//! DHCPv6 (RFC 8415): messages ([`wire`]) and a server ([`server`]) with addresses or, where a network has none to give away, with parameters only.

mod client;
pub mod server;
pub mod wire;

use std::net::{Ipv6Addr, SocketAddrV6};

pub use self::client::Client;

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
}
