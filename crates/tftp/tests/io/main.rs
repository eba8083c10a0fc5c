//! The server over real sockets on loopback: with clients of ours, and with those of others.

mod real_clients;
mod running;
mod sockets;
