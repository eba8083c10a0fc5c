//! Ways to switch a machine on and off.
//!
//! | room | what |
//! |---|---|
//! | [`driver`] | the trait of all drivers, what each declares that it can do, and what a machine is told |
//! | [`fault`] | why a call came to nothing, for people, and whether another try makes sense |
//! | [`inventory`] | what a controller says its machine is |
//! | [`calls`] | bounded time, retries, one call at a time per BMC, so many at once overall |
//! | [`ipmi`] | IPMI 2.0 over RMCP+, native |
//! | [`redfish`] | Redfish over HTTPS |
//! | [`amt`] | Intel AMT over HTTP and HTTPS |
//! | [`proxmox`] | virtual machines of Proxmox VE, by its REST API |
//! | [`digest`] | authentication by RFC 7616, which Shelly and AMT want |
//! | [`libvirt`] | virtual machines, by libvirt's own protocol |
//! | [`ssdp`] | finds Redfish services on networks |
//! | [`tls`] | whom drivers that speak TLS believe, and who they are |
//! | [`table`] | what each kind can do, for the documentation |
//! | [`webhook`] | signed requests to a service of anybody's own |
//! | [`plug`] | smart plugs: Shelly, Tasmota, and whatever Home Assistant switches |
//! | [`pdu`] | outlets of rack PDUs, by SNMP |
//! | [`wake`] | Wake-on-LAN: on, and nothing else |
//! | [`unmanaged`] | no BMC: the guest helper, or a person |
//!
//! Invariants:
//! * A driver only switches: whether and when is decided by `lifecycle`, and what a machine did then is seen by netboot.
//! * What a driver does not declare is refused before anything is sent, and what it declares it has code for: the table of `docs/reference/power.md` is printed from
//!   [`KINDS`].
//! * `Ok` says that the controller took the command, not that the machine obeyed.
//! * No password, key or token is in an error, in `Debug` or in a log line.

mod address;
pub mod amt;
pub mod calls;
pub mod digest;
pub mod driver;
pub mod events;
pub mod fault;
pub mod inventory;
pub mod ipmi;
pub mod libvirt;
pub mod pdu;
pub mod plug;
pub mod proxmox;
pub mod redfish;
pub mod ssdp;
pub mod table;
pub mod tls;
pub mod unmanaged;
pub mod wake;
mod web;
pub mod webhook;

pub use driver::{Act, BootDevice, BootDevices, BootOnce, Capabilities, Driver, Firmware, Kind, Media, Off, Operation, PowerState};
pub use fault::{Fault, PowerError};
pub use unmanaged::Unmanaged;

/// All kinds of drivers, in the order of the documentation.
pub static KINDS: [&Kind; 12] = [
    &redfish::KIND,
    &ipmi::KIND,
    &amt::KIND,
    &webhook::KIND,
    &plug::SHELLY,
    &plug::TASMOTA,
    &plug::HOME_ASSISTANT,
    &plug::PDU,
    &libvirt::KIND,
    &proxmox::KIND,
    &wake::KIND,
    &unmanaged::KIND,
];
