//! A read-only TFTP server for a fixed set of assets, as firmware needs it to fetch its boot loader.
//!
//! | part | does |
//! |---|---|
//! | [`wire`] | packets and options as bytes, and back; bounded, never panics |
//! | [`assets`] | which name is which bytes; nothing is ever looked up in a file system |
//! | [`transfer`] | one transfer as the server sees it: packet or timer in, packets and next deadline out; no socket, no clock |
//! | [`client`] | the other side of it, for whoever checks that a server can be reached, and for tests and benchmarks |
//! | [`server`] | sockets, limits, counters and events around transfers |
//!
//! Standards: RFC 1350 (revision 2), RFC 1123 section 4.2 (no Sorcerer's Apprentice), RFC 2347 (options), RFC 2348 (`blksize`), RFC 2349 (`timeout`,
//! `tsize`), RFC 7440 (`windowsize`). Block numbers roll over to 0, so files may have more than 65,535 blocks.
//!
//! What it does not do: writing, directories, multicast, converting to netascii, and answers that differ by machine (those come over HTTP).

pub mod assets;
pub mod client;
pub mod server;
pub mod transfer;
pub mod wire;

pub use assets::{AssetError, AssetId, Assets};
pub use server::{Counters, Event, Limits, PortMode, Server, Snapshot};

/// A moment: the time since a beginning that the caller chose, which never runs backwards.
pub type Time = std::time::Duration;
