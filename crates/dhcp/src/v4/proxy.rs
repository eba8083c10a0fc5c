//! ProxyDHCP: boot parameters beside somebody else's DHCP server (PXE 2.1, 2.2; RFC 4578). Never an address.
//!
//! | packet | answer |
//! |---|---|
//! | DISCOVER on port 67 of a client that wants to boot | OFFER without address |
//! | REQUEST on port 4011 | ACK with server and file |
//! | REQUEST on port 67 that asks a boot server (option 43.71) or names us | the same |
//! | every other REQUEST on port 67 | none: it is between the client and its DHCP server |
//!
//! **Who takes what.** iPXE and the PXE of BIOS machines take the file out of the offer when suboption 6 says so, and save a round. UEFI firmware built from
//! EDK2 comes in two kinds: some releases drop the first offer that has discovery suboptions, and all of them ask once more at port 4011 when
//! an offer has the class and no such suboption. So UEFI is offered the class without suboptions ([`UefiStyle::AskAgain`]). Where
//! port 4011 is out of reach, [`UefiStyle::Direct`] serves firmware that is new enough.
//!
//! UEFI HTTP boot takes its URL from the offer and never asks again.
//!
//! Whether a machine is answered at all is decided elsewhere, and is an input.

use std::net::Ipv4Addr;

use super::{
    Ignored,
    boot::{self, Vendor},
    client::Client,
    destination::{Arrival, Destination},
    wire::{Encoder, Head, MessageType, PXE_PORT, Packet, code::option},
};
use crate::arch::{BootClass, Tables};

/// How UEFI firmware is led to its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UefiStyle {
    /// It asks once more, at port 4011. Works with every EDK2.
    #[default]
    AskAgain,
    /// The offer says it all: no port 4011 is needed, but an EDK2 in which that mistake is mended.
    Direct,
}

/// What was decided about a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It gets what the tables say.
    Answer,
    /// It is left alone.
    Ignore,
}

/// What a proxy answers from.
#[derive(Debug, Clone, Copy)]
pub struct Site<'s> {
    /// Where TFTP is served.
    pub tftp: Ipv4Addr,
    /// What there is to boot.
    pub tables: Tables<'s>,
    /// How UEFI firmware is led to its file.
    pub uefi: UefiStyle,
    /// Whether this machine is answered.
    pub policy: Policy,
}

/// A reply; its bytes are in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// OFFER or ACK.
    pub kind: MessageType,
    /// Where it goes.
    pub destination: Destination,
}

/// Buffers that are used again and again.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The reply.
    pub reply: Vec<u8>,
    scratch: Vec<u8>,
}

/// Answers a request. `client` is [`Client::of`] the packet; the caller needs it first, to find the tables and the policy.
pub fn answer(packet: &Packet<'_>, client: &Client, arrival: &Arrival, site: &Site<'_>, buffers: &mut Buffers) -> Result<Reply, Ignored> {
    if !packet.is_request() {
        return Err(Ignored::NotARequest);
    }
    let kind = match packet.message_type() {
        Some(MessageType::Discover) if arrival.port != PXE_PORT => MessageType::Offer,
        Some(MessageType::Request) => MessageType::Ack,
        _ => return Err(Ignored::NotForUs),
    };
    let (Some(class), Some(firmware)) = (client.class, client.firmware) else {
        return Err(Ignored::DoesNotBoot);
    };
    let for_us = match packet.server_id() {
        Some(server) => server == arrival.local,
        None => arrival.port == PXE_PORT || packet.pxe_vendor().boot_item.is_some(),
    };
    // What comes to port 4011 was sent to us alone; some name the DHCP server that gave them their address even there.
    if kind == MessageType::Ack && !for_us && arrival.port != PXE_PORT {
        return Err(Ignored::OtherServer);
    }
    if site.policy == Policy::Ignore {
        return Err(Ignored::Policy);
    }
    let boot = site.tables.choose(firmware).ok_or(Ignored::NothingToBoot(firmware))?;
    let asks_again = firmware.is_uefi_pxe() && site.uefi == UefiStyle::AskAgain;
    let leads_to_4011 = asks_again && kind == MessageType::Offer;
    // A client that is to ask again asks the server named here, and we are the ones who listen at port 4011.
    let siaddr = if leads_to_4011 {
        arrival.local
    } else {
        boot.tftp_server(site.tftp)
    };
    let head = Head {
        ciaddr: packet.ciaddr(),
        siaddr,
        ..Head::default()
    };
    let mut encoder = Encoder::reply(packet, &head, kind, &mut buffers.reply);
    encoder.put(option::SERVER_ID, &arrival.local.octets());
    if let Some(id) = packet.option(option::MACHINE_ID) {
        // Clients take the answer for theirs by it (PXE 2.1, table 2-2).
        encoder.put(option::MACHINE_ID, id);
    }
    if leads_to_4011 {
        encoder.put(option::VENDOR_CLASS, class.name());
    } else {
        let vendor = match (class, packet.pxe_vendor().boot_item) {
            (BootClass::Http, _) => Vendor::None,
            (BootClass::Pxe, Some(item)) => Vendor::Item(item),
            (BootClass::Pxe, None) if asks_again => Vendor::None,
            (BootClass::Pxe, None) => Vendor::UseBootFile,
        };
        boot::put(&mut encoder, boot, Some(class), vendor, site.tftp, &mut buffers.scratch);
    }
    encoder.finish(packet);
    let destination = Destination::of(packet, arrival, kind, Ipv4Addr::UNSPECIFIED);
    Ok(Reply { kind, destination })
}
