//! The server side of network boot: boot scripts and boot media, the agent's and the guest helper's API, and a store of images.
//!
//! | room | what |
//! |---|---|
//! | [`boot`] | iPXE scripts and GRUB configurations over plain HTTP |
//! | [`lan`], [`dhcp`] | DHCP (ProxyDHCP, or addresses too) and TFTP, for firmware that does not speak HTTP yet |
//! | [`loaders`] | iPXE, shim and GRUB, over TFTP and plain HTTP |
//! | [`agent_api`] | sessions, orders, reports, seeds, sharing, over TLS |
//! | [`guest_api`] | the helper in an installed system, over TLS |
//! | [`image_store`] | files over plain HTTP, with ranges |
//! | [`objects`] | what the watches brought; writes by compare and swap |
//! | [`keys`] | the Secret `netboot-keys` and the replica's certificate |
//! | [`limits`], [`presence`], [`progress`], [`lost`] | quotas, who is here, hints within a budget, who fell silent |
//! | [`timeline`] | how far machines came that boot, step by step |
//! | [`swarms`] | who writes the same image as his neighbours, in memory |
//!
//! Invariants:
//! * Replicas are equal; all that must last stands in Kubernetes objects. Any replica answers any machine.
//! * Decisions are made in `lifecycle`; here facts are gathered and the answer is carried out.
//! * A destructive order is handed out only after fresh reads, and after its acceptance was written by compare and swap.
//! * A replica that does not reach the API tells machines to boot their own disk, and nothing else.
//! * Everything a stranger can send is bounded: size, depth, time, rate, number.
//!
//! Without [`lan`] any DHCP server that hands out the URL of `/boot/ipxe` will do.

mod agent_api;
mod body;
mod boot;
mod config;
mod dhcp;
mod error;
mod guest_api;
mod health;
mod image_store;
pub mod keys;
mod lan;
pub mod limits;
mod loaders;
mod lost;
pub mod metrics;
mod netboot;
mod objects;
mod presence;
mod progress;
mod reply;
pub mod rotation;
mod server;
mod state;
mod swarms;
mod timeline;
mod wake;
mod wake_on_lan;

#[cfg(feature = "planted-holes")]
#[doc(hidden)]
pub use config::PlantedHoles;
pub use config::{Config, LanConfig, LanInterface, LanPorts, Quotas, StoreConfig, UefiLoader};
pub use error::Error;
pub use image_store::upload;
pub use netboot::{Addresses, Netboot, Route, routes};
pub use objects::seeds::{SEALED, secret_name};
