//! Boot files beside somebody else's DHCPv6 server. Never an address, and never a word to a client that does not boot from the network.
//!
//! There is no ProxyDHCP in the RFCs of DHCPv6. What there is to go by is what clients do:
//!
//! | message | of whom | answer |
//! |---|---|---|
//! | SOLICIT | UEFI firmware (PXEClient, HTTPClient) | ADVERTISE without address, with its class and a URL |
//! | REQUEST at port 4011 | PXE of UEFI firmware that took such an ADVERTISE | REPLY with the URL |
//! | INFORMATION-REQUEST | whoever boots, iPXE too | REPLY with the URL |
//! | everything else | | none: it is between the client and its DHCPv6 server |
//!
//! PXE of EDK2 takes an ADVERTISE without IA_NA and with the class PXEClient for that of a boot server, as it does with IPv4: once it has an address from a server that says nothing about booting,
//! it sends the REQUEST for that address once more, without the address, from port 4011 to port 4011 of the host that the URL of that ADVERTISE names. Its HTTP boot takes the URL out of the
//! ADVERTISE at once.
//!
//! iPXE takes the first ADVERTISE that comes, so it gets none of these: where addresses come by DHCPv6 (M), iPXE does not find us beside another server. Where they come by router
//! advertisements alone (O), it sends an INFORMATION-REQUEST.

use std::net::SocketAddrV6;

use super::{
    Arrival, Client, Ignored, boot,
    server::{BootSite, Reply},
    wire::{CLIENT_PORT, Datagram, Encoder, MessageType, PXE_PORT, SERVER_PORT, option},
};
use crate::arch::{BootClass, Firmware};

/// Answers a message. `client` is [`Client::of`] it; `port` the one that it came to, [`SERVER_PORT`] or [`PXE_PORT`]; `duid` is ours. A reply is written into `out`.
///
/// # Errors
/// Why it is not answered.
pub fn answer(
    datagram: &Datagram<'_>,
    client: &Client,
    arrival: &Arrival,
    port: u16,
    duid: &[u8],
    site: &BootSite<'_>,
    out: &mut Vec<u8>,
) -> Result<Reply, Ignored> {
    let message = &datagram.message;
    let asks_again = port == PXE_PORT;
    let kind = match message.kind {
        MessageType::Advertise | MessageType::Reply | MessageType::Reconfigure => return Err(Ignored::NotARequest),
        MessageType::Solicit if !asks_again => MessageType::Advertise,
        MessageType::InformationRequest if !asks_again => MessageType::Reply,
        MessageType::Request if asks_again => MessageType::Reply,
        _ => return Err(Ignored::NotForUs),
    };
    let firmware = client.firmware.ok_or(Ignored::DoesNotBoot)?;
    if message.server_id().is_some_and(|server| server != duid) {
        return Err(Ignored::OtherServer);
    }
    let class = client.class.filter(|_| firmware != Firmware::Ipxe);
    if kind == MessageType::Advertise && class.is_none() {
        return Err(Ignored::NotForUs);
    }
    let mut encoder = Encoder::reply(datagram, kind, out);
    encoder.put(option::SERVER_ID, duid);
    if let Some(client) = message.client_id() {
        encoder.put(option::CLIENT_ID, client);
    }
    if !boot::put(&mut encoder, client, &site.tables, site.tftp) {
        return Err(Ignored::NothingToBoot(firmware));
    }
    if let Some((enterprise, class @ BootClass::Pxe)) = class {
        boot::put_class(&mut encoder, enterprise, class);
    }
    encoder.finish();
    let source = &arrival.source;
    let to = match (asks_again, datagram.relays.is_empty()) {
        (true, _) => source.port(),
        (false, true) => CLIENT_PORT,
        (false, false) => SERVER_PORT,
    };
    Ok(Reply {
        kind,
        destination: SocketAddrV6::new(*source.ip(), to, 0, source.scope_id()),
        granted: super::server::Granted::default(),
    })
}
