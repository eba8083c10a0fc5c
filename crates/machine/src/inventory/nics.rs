//! Network interfaces that are hardware: with a device behind them, Ethernet, and no virtual functions.

use agent_protocol::{identity::MacAddress, inventory::Nic, limits::MAX_NICS};

use super::{
    Options, pci,
    tree::{Tree, is_pci_address, parts},
};
use crate::text::clean;

/// `ARPHRD_ETHER`.
const ETHERNET: u64 = 1;

pub(super) fn read(tree: &Tree, options: &Options) -> Vec<Nic> {
    let mut nics: Vec<Nic> = tree
        .list("sys/class/net")
        .into_iter()
        .filter_map(|name| nic(tree, options, &name))
        .collect();
    // When there are more than a session may tell, the one the machine booted from is among those that are told.
    nics.sort_by(|a, b| (!a.boot, &a.name).cmp(&(!b.boot, &b.name)));
    nics.truncate(MAX_NICS);
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    nics
}

fn nic(tree: &Tree, options: &Options, name: &str) -> Option<Nic> {
    let at = |what: &str| format!("sys/class/net/{name}/{what}");
    let device = tree.resolve(at("device"))?;
    if tree.number(at("type")) != Some(ETHERNET) || tree.exists(at("device/physfn")) {
        return None;
    }
    let present: MacAddress = tree.text(at("address"))?.parse().ok()?;
    let permanent = options
        .ask_kernel
        .then(|| permanent_address(name))
        .flatten()
        .filter(MacAddress::is_usable);
    let address = parts(&device)
        .into_iter()
        .rev()
        .find(|part| is_pci_address(part))
        .map(str::to_owned);
    let pci = address.and_then(|address| Some(format!("{address} {}", pci::ids(tree, &address)?)));
    let mac = permanent.unwrap_or(present);
    Some(Nic {
        name: clean(name)?,
        mac,
        driver: tree.link_name(at("device/driver")),
        // -1 where the link is down or does not tell.
        speed_mbps: tree
            .text(at("speed"))
            .and_then(|s| s.parse::<u32>().ok())
            .filter(|s| *s > 0 && *s < 10_000_000),
        link: tree.flag(at("carrier")),
        // All NICs of a bond have its address at present.
        boot: options
            .boot_mac
            .is_some_and(|boot| boot == mac || boot == present && !tree.exists(at("bonding_slave"))),
        pci,
        addresses: options
            .addresses
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|a| clean(a))
            .take(32)
            .collect(),
        switch_port: options.switch_ports.get(name).and_then(|p| clean(p)),
    })
}

/// The address in the card's own memory: a bond or an administrator may have given the interface another one.
fn permanent_address(name: &str) -> Option<MacAddress> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).ok()?;
    ethtool::permanent_address(&socket, name)
}

mod ethtool {
    //! `ETHTOOL_GPERMADDR`, for which no safe wrapper is at hand.

    use std::os::fd::OwnedFd;

    use agent_protocol::identity::MacAddress;
    use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

    const SIOCETHTOOL: Opcode = 0x8946;
    const ETHTOOL_GPERMADDR: u32 = 0x20;
    const ROOM: usize = 32;

    /// `struct ethtool_perm_addr` with room for an address.
    #[repr(C)]
    struct PermanentAddress {
        command: u32,
        size: u32,
        data: [u8; ROOM],
    }

    /// `struct ifreq` as this request uses it: the name, then a pointer, padded to the size of the union.
    #[repr(C)]
    struct InterfaceRequest<'a> {
        name: [u8; 16],
        data: &'a mut PermanentAddress,
        padding: [usize; 2],
    }

    struct Request<'a>(InterfaceRequest<'a>);

    // SAFETY: SIOCETHTOOL takes a pointer to a `struct ifreq`, which `InterfaceRequest` is laid out as (16 bytes of name, a union of at
    // most 24 bytes on 64-bit machines that begins with a pointer). The kernel copies the request in and writes through its pointer at
    // most `size` bytes of address behind the 8 bytes of head; `size` is ROOM, and the exclusive borrow keeps the place alive.
    #[allow(unsafe_code)]
    unsafe impl Ioctl for Request<'_> {
        type Output = ();
        const IS_MUTATING: bool = true;

        fn opcode(&self) -> Opcode {
            SIOCETHTOOL
        }

        fn as_ptr(&mut self) -> *mut core::ffi::c_void {
            std::ptr::from_mut(&mut self.0).cast()
        }

        unsafe fn output_from_ptr(_: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn permanent_address(socket: &OwnedFd, interface: &str) -> Option<MacAddress> {
        let mut name = [0; 16];
        // One byte stays zero.
        name.get_mut(..interface.len().min(15))?
            .copy_from_slice(interface.as_bytes().get(..interface.len().min(15))?);
        let mut answer = PermanentAddress {
            command: ETHTOOL_GPERMADDR,
            size: ROOM as u32,
            data: [0; ROOM],
        };
        let request = Request(InterfaceRequest {
            name,
            data: &mut answer,
            padding: [0; 2],
        });
        // SAFETY: see the implementation of `Ioctl` above; the request lives until the call returns.
        #[allow(unsafe_code)]
        unsafe { rustix::ioctl::ioctl(socket, request) }.ok()?;
        (answer.size == 6)
            .then(|| answer.data.first_chunk().copied().map(MacAddress))
            .flatten()
    }
}
