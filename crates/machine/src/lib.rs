//! One machine's own hardware: what it is, what its disk holds, and the two destructive things an order may ask of it.
//!
//! Everything here is synchronous and talks to the kernel only (sysfs, procfs, efivarfs, block devices): no network, no console, no clock
//! beyond durations. The `agent` wires it to both; the guest helper uses [`efi`] alone.
//!
//! * [`bmc`]: the machine's own BMC through the kernel: who and where it is, and a user of ours in it.
//! * [`inventory`]: [`inventory::collect`]`(&Options) -> Inventory`. Never fails: what cannot be read is left out, what is odd is cleaned
//!   and clipped to `agent_protocol::limits`, so that no firmware string can make a server refuse the session.
//! * [`contents`]: [`contents::probe`]`(device) -> DiskContents`. Bounded reads, no panics on any bytes.
//! * [`marker`]: what an order of ours leaves on a disk: finished (last 4 KiB of the config drive partition) or in progress (sector 0).
//! * [`target`]: [`target::find`]`(order, disks, protected) -> &Disk` or a typed refusal.
//! * [`config_drive`]: [`config_drive::ConfigDrive`]: a FAT file system named `config-2` with the seed's files.
//! * [`erase`]: discard or overwrite with evidence. Nothing the device says of itself is believed; only what is read back is.
//! * [`efi`]: boot entries, boot order, `BootNext`.
//! * [`image_order`] and [`erase_order`]: whole orders, from the target check to the evidence. They return an
//!   `agent_protocol::order::OrderResult` in every case: each error is mapped to a fault reason with a message that names the remedy.
//!
//! ```text
//! let inventory = machine::inventory::collect(&machine::inventory::Options::of_this_machine(boot_mac));
//! let result = machine::image_order::run_image(
//!     ImageJob {
//!         order: &order,
//!         disks: &inventory.disks,
//!         protected: &[],
//!         devices: &machine::devices::KernelDevices::default(),
//!         source: Box::new(image_source),     // image::Source, e.g. image::HttpSource
//!         seed: Some(&seed),                  // needed when order.image.configDrive is true
//!         guest_helper: Some(&helper_bytes),  // must be there when seed.guest_helper is true
//!         efi: Some(&machine::efi::EfiVariables::of_this_machine()), // None on a BIOS machine
//!         cancel: &cancel,                    // AtomicBool: stop at the next chunk
//!     },
//!     &mut |progress: agent_protocol::order::Progress| { ... },
//! );
//! let result = machine::erase_order::run_erase(EraseJob { order, disks, protected, devices, efi, cancel }, &mut |progress| { ... });
//! machine::efi::EfiVariables::of_this_machine().set_boot_next(number)?;  // guest helper and agent, before a reboot
//! ```
//!
//! Invariants: a disk is opened exclusively, its contents are probed again right before the first write, and nothing is written unless the
//! order names the disk *and* what was found on it. Nothing read from a disk is ever executed.

pub mod bmc;
pub mod config_drive;
pub mod contents;
pub mod devices;
pub mod efi;
pub mod erase;
pub mod erase_order;
mod error;
pub mod image_order;
pub mod inventory;
pub mod marker;
mod order;
pub mod target;
mod text;

pub use devices::{Devices, KernelDevices};
pub use erase_order::{EraseJob, run_erase};
pub use error::MachineError;
pub use image_order::{ImageJob, ImageSource, run_image};
