//! DHCPv4: packets ([`wire`]), boot parameters beside another server ([`proxy`]), a server of our own ([`server`]), questions to servers ([`probe`]), and
//! what surrounds them on the wire ([`frame`]).

mod boot;
mod client;
mod destination;
pub mod frame;
pub mod probe;
pub mod proxy;
pub mod server;
pub mod wire;

use std::net::Ipv4Addr;

pub use self::{
    client::Client,
    destination::{Arrival, Destination},
};
use crate::arch::Firmware;

/// Why a packet is not answered: no fault of anybody, but what somebody who wonders wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Ignored {
    /// It is a reply.
    #[error("it is another server's reply")]
    NotARequest,
    /// A message that this service has no answer to.
    #[error("this service has no answer to it")]
    NotForUs,
    /// The client does not boot from the network.
    #[error("the client does not boot from the network")]
    DoesNotBoot,
    /// Addressed to another server.
    #[error("it is meant for another server")]
    OtherServer,
    /// The policy says so.
    #[error("this machine is left alone by policy")]
    Policy,
    /// No table has a row for it, or the row says nothing.
    #[error("there is nothing to boot for {0}")]
    NothingToBoot(Firmware),
    /// Relayed, or come in, from a network that we do not serve.
    #[error("no network that is served here holds {0}")]
    NoNetwork(Ipv4Addr),
    /// All addresses are taken.
    #[error("all addresses are taken")]
    NothingFree,
    /// A lease that we know nothing of, and are not the only ones to know.
    #[error("nothing is known here of a lease of {0}")]
    UnknownLease(Ipv4Addr),
    /// Another replica answers.
    #[error("another replica answers it")]
    OtherReplicasTurn,
    /// Leases are not known yet, or could not be kept.
    #[error("its lease could not be kept at the moment")]
    NotKept,
    /// Neither hardware address nor client identifier.
    #[error("the client says neither its hardware address nor an identifier")]
    Nameless,
}
