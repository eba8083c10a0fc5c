//! Sharing: machines that write the same packed image at the same time give each other parts of it.
//!
//! `POST /agent/v1/share`, signed like a report, again and again while an image order is carried out: a machine says on which port it serves
//! and which chunks it has, and is told who else writes the same image on its network and what they have. A server that does not know the
//! path answers 404, an agent that does not know it never asks; either way each machine fetches everything from a server.
//!
//! Chunks go by their place in the manifest's list, from 0. A set of them is base64 of the spelling that `docs/sharing.md` describes. The server's link is what
//! all machines wait for, so it tells each which chunks to fetch from a server; the others come from peers.
//! Addresses are those that the server saw; what a machine says of its own address counts nowhere. Peers serve
//! `GET http://<address>/images/<hex>/chunks` with one range, as an image store does, and `/images/<hex>/held`, the bytes of their set, to machines of
//! their own network prefix. Nothing of what they give is believed: each chunk is held against its digest in the manifest, whose own digest came with the order.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Says what a machine has and asks who else has some.
pub const PATH_SHARE: &str = "/agent/v1/share";
/// Longest set of chunks in base64: 8 KiB of bitmap for the 65,536 chunks that an image may have, and a little.
pub const MAX_HELD: usize = 10_936;
/// Most peers that a machine is told of, and that it may complain about at once.
pub const MAX_PEERS: usize = 64;

/// Body of `POST /agent/v1/share`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareRequest {
    /// The image order that is being carried out; must be the one this session accepted.
    pub order_id: String,
    /// Chunks in the manifest's list.
    pub pieces: u32,
    /// Where this machine serves. Left out: it takes and gives nothing (its port could not be opened).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The chunks that it serves.
    pub held: String,
    /// The chunks that it needs and does not have yet.
    pub wanted: String,
    /// How many more runs of chunks it can take from a server at once.
    #[serde(default)]
    pub room: u32,
    /// Whether it has nothing to fetch from its peers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hungry: bool,
    /// Peers that gave other bytes than the manifest's digests name, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<u64>,
    /// Its last word: it serves no longer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

/// Whether machines share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareMode {
    /// Not here: the network's administrator does not want it, or this machine may not take part. It need not ask again.
    Off,
    /// Nobody else, or too few: everything comes from a server.
    Alone,
    /// With these peers.
    Together,
}

/// Answer to `POST /agent/v1/share`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShareResponse {
    /// Whether it shares.
    pub mode: ShareMode,
    /// Why, for the console.
    #[serde(default)]
    pub note: String,
    /// When to ask again, in milliseconds.
    pub again_ms: u32,
    /// Who else writes the image: some of them, where they are many. Left out: those that it was told of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<SharePeer>>,
    /// Runs of chunks that it is to fetch from a server, first one and the one after the last: machines that share leave the rest to each other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetch: Vec<(u32, u32)>,
}

/// Another machine that writes the same image. What it has it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharePeer {
    /// Names it as long as it takes part; says nothing about the machine.
    pub id: u64,
    /// Where it serves: the address that the server saw, the port that it said.
    pub address: SocketAddr,
}
