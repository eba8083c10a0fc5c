//! What hostile bytes are given to: the tests of this folder do so with seeded ones, `fuzz/` guided by coverage.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    sync::LazyLock,
};

use dhcp::{
    State, Time,
    arch::{BootTable, Loaders, Tables},
    ra::Solicitation,
    v4::{
        self, Destination, frame,
        proxy::{self, Buffers, Policy, Site, UefiStyle},
        server as server4,
        wire::{Encoder, Head, MessageType, PXE_PORT, Packet, PxeVendor, SERVER_PORT, code::option},
    },
    v6::{
        self, server as server6,
        wire::{Datagram, MessageType as MessageType6, mac_of, option as option6},
    },
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The range of the servers below has ten addresses from here.
const RANGE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
const RANGE_LENGTH: u8 = 10;
const RESERVED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
/// For whom that is.
const OWNER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const NETWORK6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0);
const RANGE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const RESERVED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);
const DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0xff, 0xff, 1];
/// An option 82 of so many bytes is echoed in any answer, and more than relay agents send.
const LONGEST_RELAY: usize = 128;
/// Longest offer, lease or quarantine that the servers below give, and more.
const LONG: Time = Time::from_secs(100_000);
const START: Time = Time::from_secs(1_800_000_000);

static TABLE: LazyLock<BootTable> = LazyLock::new(|| {
    BootTable::built_in(Loaders::SecureBoot, "http://10.0.0.1:8080/l", "http://10.0.0.1:8080/boot/ipxe").expect("a good table")
});

fn tables() -> Tables<'static> {
    Tables {
        hardware: None,
        network: None,
        built_in: &TABLE,
    }
}

fn take(input: &mut &[u8]) -> u8 {
    let Some((first, rest)) = input.split_first() else { return 0 };
    *input = rest;
    *first
}

fn flag(input: &mut &[u8]) -> bool {
    take(input) & 1 == 0
}

/// So many bytes as its first two say.
fn piece<'i>(input: &mut &'i [u8]) -> &'i [u8] {
    let length = usize::from(u16::from_be_bytes([take(input), take(input)])).min(input.len());
    let (piece, rest) = input.split_at(length);
    *input = rest;
    piece
}

/// A DHCPv4 packet: parsed or refused, and whatever is asked about it is answered out of its own bytes.
pub fn v4_wire(input: &[u8]) {
    let Ok(packet) = Packet::parse(input) else { return };
    let client = v4::Client::of(&packet);
    assert!(client.firmware.is_none() || client.class.is_some());
    let mut all = 0;
    for (code, value) in packet.options() {
        assert_eq!(packet.option(code), Some(value), "an option is there once");
        all += value.len();
    }
    assert!(all <= input.len());
    assert!(packet.file().len() <= 128 && packet.server_name().len() <= 64);
    assert!(packet.user_classes().map(<[u8]>::len).sum::<usize>() <= input.len());
    assert!(packet.architectures().count() <= input.len() / 2);
    if let Some(relay) = packet.relay() {
        let parts = [relay.circuit_id(), relay.remote_id()];
        assert!(parts.iter().flatten().map(|part| part.len()).sum::<usize>() <= relay.value().len());
    }
    let vendor = packet.pxe_vendor();
    let mut written = Vec::new();
    vendor.write(&mut written);
    assert_eq!(PxeVendor::parse(&written), vendor, "what was understood is said the same way");
    // A reply to it is a packet to us.
    let mut reply = Vec::new();
    let mut encoder = Encoder::reply(&packet, &Head::default(), MessageType::Offer, &mut reply);
    encoder.put(option::SERVER_ID, &SERVER.octets());
    encoder.finish(&packet);
    let again = Packet::parse(&reply).expect("our own reply");
    assert_eq!((again.xid(), again.server_id()), (packet.xid(), Some(SERVER)));
    match (packet.relay(), again.relay()) {
        (None, echoed) => assert_eq!(echoed, None),
        // It would leave no room for an answer (RFC 3046, 2.2).
        (Some(relay), None) => assert!(relay.value().len() > LONGEST_RELAY, "option 82 is left out"),
        (Some(relay), Some(echoed)) => assert_eq!(echoed.value(), relay.value(), "option 82 goes back as it came"),
    }
}

/// Options with any code and of any length: what was put in can be read, and what did not fit is not there.
pub fn v4_options(mut input: &[u8]) {
    let mut request = vec![0; 240];
    request[..3].copy_from_slice(&[1, 1, 6]);
    request[236..].copy_from_slice(&[99, 130, 83, 99]);
    request.extend_from_slice(&[53, 1, 1]);
    let input = &mut input;
    if flag(input) {
        request.extend_from_slice(&[option::MAX_SIZE, 2, take(input), take(input)]);
    }
    request.push(255);
    let request = Packet::parse(&request).expect("a request");
    let mut reply = Vec::new();
    let mut encoder = Encoder::reply(&request, &Head::default(), MessageType::Ack, &mut reply);
    let mut put: BTreeMap<u8, &[u8]> = BTreeMap::new();
    while !input.is_empty() {
        let code = take(input);
        let value = piece(input);
        // Those that the encoder writes by itself, and padding and end, which have no value.
        if matches!(code, option::END | 0 | 52 | 53 | 82) || value.is_empty() || put.contains_key(&code) {
            continue;
        }
        if encoder.put(code, value) {
            put.insert(code, value);
        }
    }
    encoder.finish(&request);
    let limit = request.max_size().map_or(1500, usize::from).clamp(576, 1500);
    assert!(reply.len() <= limit, "{} bytes where {limit} are allowed", reply.len());
    let reply = Packet::parse(&reply).expect("our own reply");
    for (code, value) in put {
        assert_eq!(reply.option(code), Some(value), "option {code}");
    }
}

/// A packet that comes to a proxy: it is never given an address, and is told nothing but what the table has.
pub fn v4_proxy(mut input: &[u8]) {
    let input = &mut input;
    let arrival = arrival4(input);
    let uefi = if flag(input) { UefiStyle::AskAgain } else { UefiStyle::Direct };
    let Ok(packet) = Packet::parse(input) else { return };
    let site = Site {
        tftp: SERVER,
        tables: tables(),
        uefi,
        policy: Policy::Answer,
    };
    let mut buffers = Buffers::default();
    let Ok(reply) = proxy::answer(&packet, &v4::Client::of(&packet), &arrival, &site, &mut buffers) else {
        return;
    };
    let sent = Packet::parse(&buffers.reply).expect("our own reply");
    assert_eq!((sent.message_type(), sent.yiaddr()), (Some(reply.kind), Ipv4Addr::UNSPECIFIED));
    assert!(!sent.is_request());
    assert_eq!(sent.server_id(), Some(arrival.local));
    is_from_the_table(sent.option(option::BOOT_FILE).unwrap_or_else(|| sent.file()));
}

/// A file that a client is told is one of ours.
fn is_from_the_table(file: &[u8]) {
    use dhcp::arch::file::{GRUB_ARM64, GRUB_X64, IPXE_ARM64, IPXE_BIOS, IPXE_IA32, IPXE_X64, SHIM_ARM64, SHIM_IA32, SHIM_X64};
    let names = [
        IPXE_BIOS, IPXE_X64, IPXE_IA32, IPXE_ARM64, SHIM_X64, SHIM_IA32, SHIM_ARM64, GRUB_X64, GRUB_ARM64,
    ];
    let is_ours = |file: &str| {
        let name = ["http://10.0.0.1:8080/l/", "tftp://[2001:db8::1]/"]
            .iter()
            .find_map(|base| file.strip_prefix(base));
        // A Raspberry Pi is told the server alone.
        name.unwrap_or(file).is_empty() || file == "http://10.0.0.1:8080/boot/ipxe" || names.contains(&name.unwrap_or(file))
    };
    assert!(std::str::from_utf8(file).is_ok_and(is_ours), "{file:?}");
}

fn arrival4(input: &mut &[u8]) -> v4::Arrival {
    let kind = take(input);
    v4::Arrival {
        local: SERVER,
        port: if kind & 1 == 0 { SERVER_PORT } else { PXE_PORT },
        source: if kind & 2 == 0 {
            SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68)
        } else {
            SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, take(input)), 68)
        },
        broadcast: kind & 4 == 0,
    }
}

fn subnet4(probe: bool) -> server4::Subnet {
    let last = Ipv4Addr::from(u32::from(RANGE) + u32::from(RANGE_LENGTH) - 1);
    let mut subnet = server4::Subnet::new(Ipv4Addr::new(10, 0, 0, 0), 24);
    subnet.ranges = vec![(RANGE, last)];
    subnet.reservations = vec![server4::Reservation {
        who: server4::Who::Mac(OWNER),
        address: RESERVED,
    }];
    subnet.probe = probe;
    subnet
}

/// Any packets at any time to a full server: addresses are those that it may give, each leased to one client at a time, the reserved one to its owner, and in the end all are free.
pub fn v4_server(mut input: &[u8]) {
    let input = &mut input;
    let probe = flag(input);
    let mut server = server4::Server::new(server4::Settings::default(), vec![subnet4(probe)]).expect("a good network");
    let (mut now, mut out) = (START, Vec::new());
    // Who holds each address, by type and hardware address, and until when it was told so.
    let mut leased: BTreeMap<Ipv4Addr, ((u8, Vec<u8>), Time)> = BTreeMap::new();
    let ours = |address: Ipv4Addr| address == RESERVED || (u32::from(address).wrapping_sub(u32::from(RANGE))) < u32::from(RANGE_LENGTH);
    while !input.is_empty() {
        match take(input) % 8 {
            0 => now += Time::from_secs(u64::from(take(input)) * 16),
            1 => server.expire(now),
            2 => server.probed(Ipv4Addr::new(10, 0, 0, take(input)), flag(input), now),
            3 => {
                let records: Vec<_> = server.records().collect();
                server = server4::Server::new(server4::Settings::default(), vec![subnet4(probe)]).expect("a good network");
                records.iter().for_each(|record| server.load(record, now));
            }
            _ => {
                let arrival = arrival4(input);
                let Ok(packet) = Packet::parse(piece(input)) else { continue };
                let client = v4::Client::of(&packet);
                let site = server4::BootSite {
                    tftp: SERVER,
                    tables: tables(),
                };
                let outcome = server.handle(&packet, &client, &arrival, Some(&site), now, &mut out);
                if let Ok(server4::Outcome::Send(reply)) = outcome {
                    let sent = Packet::parse(&out).expect("our own reply");
                    assert_eq!(
                        (sent.message_type(), sent.yiaddr(), sent.xid()),
                        (Some(reply.kind), reply.address, packet.xid())
                    );
                    let is_given = !reply.address.is_unspecified();
                    assert!(!is_given || ours(reply.address), "{}", reply.address);
                    // Where somebody else was found on its address the owner gets another one.
                    let is_free = server.record(RESERVED).is_some_and(|record| record.state != State::Quarantined);
                    let is_right = match (client.mac == Some(OWNER), reply.address == RESERVED) {
                        (true, true) | (false, false) => true,
                        (true, false) => !is_free,
                        (false, true) => false,
                    };
                    assert!(!is_given || is_right, "{:?} is given {}", client.mac, reply.address);
                    assert!(is_given || reply.kind != MessageType::Offer);
                    if is_given && reply.kind == MessageType::Ack {
                        let who = (packet.hardware_type(), packet.hardware_address().to_vec());
                        if let Some((holder, until)) = leased.get(&reply.address).filter(|(_, until)| *until > now) {
                            assert_eq!(&who, holder, "{} is somebody else's until {until:?}", reply.address);
                        }
                        let lease = Time::from_secs(sent.lease_time().expect("for how long").into());
                        // Who takes another address has left the one before.
                        leased.retain(|_, (holder, _)| *holder != who);
                        leased.insert(reply.address, (who, now + lease));
                    }
                    assert!(!matches!(reply.destination, Destination::Unicast(to) if to.ip().is_unspecified()));
                    is_from_the_table(sent.option(option::BOOT_FILE).unwrap_or_else(|| sent.file()));
                }
                if let Ok(server4::Outcome::Probe(address)) = outcome {
                    assert!(probe && ours(address));
                }
                if let Ok(server4::Outcome::Released(address) | server4::Outcome::Declined(address)) = outcome {
                    leased.remove(&address);
                }
            }
        }
        assert!(server.records().all(|record| ours(record.address)));
    }
    server.take_changes();
    while let Some(deadline) = server.next_deadline() {
        assert!(deadline <= now + LONG, "a deadline in {:?}", deadline - now);
        server.expire(deadline.max(now));
        assert_ne!(server.next_deadline(), Some(deadline), "what ran out is over");
    }
    let counts = server.counts();
    assert_eq!((counts.free, counts.bound, counts.quarantined), (u32::from(RANGE_LENGTH), 0, 0));
    assert!(server.records().all(|record| record.state == State::Free));
}

/// A DHCPv6 message, with its relay agents: parsed or refused.
pub fn v6_wire(input: &[u8]) {
    let Ok(datagram) = Datagram::parse(input) else { return };
    let source = Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 0, 0, 1]);
    let client = v6::Client::of(&datagram, source);
    assert!(client.mac.is_some() || !datagram.relays.is_empty(), "the link-local address has it");
    assert!(mac_of(source).is_some());
    let message = &datagram.message;
    assert!(
        message
            .associations()
            .map(|association| association.addresses().count())
            .sum::<usize>()
            <= input.len() / 16
    );
    assert!(message.user_classes().map(<[u8]>::len).sum::<usize>() <= input.len());
    assert!(message.vendor_classes().map(|(_, class)| class.len()).sum::<usize>() <= input.len());
    assert!(message.architectures().count() <= input.len() / 2);
    let holds = |bytes: &[u8]| input.windows(bytes.len()).any(|window| window == bytes);
    // One that says nothing of what it wants would like all.
    let says = message.options.get(option6::REQUEST).is_some();
    assert!(!says || !message.wants(option6::BOOT_FILE_URL) || holds(&option6::BOOT_FILE_URL.to_be_bytes()));
    assert!(message.seconds() <= u16::MAX / 100);
    assert!(message.duid_uuid().is_none_or(|uuid| holds(&uuid)));
    assert!(message.server_id().is_none_or(|server| server.is_empty() || holds(server)));
}

/// Any messages at any time to a DHCPv6 server, as for [`v4_server`].
pub fn v6_server(mut input: &[u8]) {
    let input = &mut input;
    let rapid_commit = flag(input);
    let new = || {
        let mut subnet = server6::Subnet::new(NETWORK6, 64);
        subnet.range = Some((RANGE6, RANGE_LENGTH.into()));
        subnet.reservations = vec![server6::Reservation {
            who: server6::Who::Mac(OWNER),
            address: RESERVED6,
        }];
        subnet.rapid_commit = rapid_commit;
        let settings = server6::Settings {
            duid: DUID.to_vec(),
            peers: Vec::new(),
        };
        server6::Server::new(settings, vec![subnet]).expect("a good network")
    };
    let ours = |address: Ipv6Addr| address == RESERVED6 || u128::from(address).wrapping_sub(RANGE6.into()) < RANGE_LENGTH.into();
    let mut server = new();
    let (mut now, mut out) = (START, Vec::new());
    while !input.is_empty() {
        match take(input) % 8 {
            0 => now += Time::from_secs(u64::from(take(input)) * 16),
            1 => server.expire(now),
            2 => {
                let records: Vec<_> = server.records().collect();
                server = new();
                records.iter().for_each(|record| server.load(record, now));
            }
            _ => {
                let from = take(input);
                let source = SocketAddrV6::new(
                    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 0, 0, from].into(),
                    546,
                    0,
                    3,
                );
                let arrival = v6::Arrival {
                    link: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
                    source,
                    multicast: take(input) & 3 != 0,
                };
                let Ok(datagram) = Datagram::parse(piece(input)) else { continue };
                let client = v6::Client::of(&datagram, *source.ip());
                let site = server6::BootSite {
                    tftp: arrival.link,
                    tables: tables(),
                };
                let Ok(reply) = server.handle(&datagram, &client, &arrival, Some(&site), now, &mut out) else {
                    continue;
                };
                let (unwrapped, relays) = unwrapped(&out);
                let sent = Datagram::parse(unwrapped).expect("our own reply");
                assert_eq!((sent.message.kind, sent.message.xid), (reply.kind, datagram.message.xid));
                assert!(matches!(reply.kind, MessageType6::Advertise | MessageType6::Reply));
                assert_eq!(sent.message.server_id(), Some(&DUID[..]));
                assert_eq!(relays, datagram.relays.len(), "it goes back the way it came");
                for address in given(unwrapped) {
                    assert!(ours(address), "{address} is given");
                    assert!(
                        address != RESERVED6 || client.mac == Some(OWNER),
                        "{:?} is given {address}",
                        client.mac
                    );
                }
                if let Some(url) = sent.message.options.get(59) {
                    is_from_the_table(url);
                }
            }
        }
        let records: Vec<_> = server.records().collect();
        let addresses: BTreeSet<_> = records.iter().map(|record| record.address).collect();
        assert!(addresses.len() == records.len() && addresses.iter().all(|address| ours(*address)));
    }
    while let Some(deadline) = server.next_deadline() {
        assert!(deadline <= now + LONG, "a deadline in {:?}", deadline - now);
        server.expire(deadline.max(now));
        assert_ne!(server.next_deadline(), Some(deadline), "what ran out is over");
    }
    assert!(server.records().all(|record| record.state == State::Free));
}

/// Options of DHCPv6 behind each other.
fn options6(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    while let [a, b, c, d, rest @ ..] = bytes {
        let (value, rest) = rest.split_at(usize::from(u16::from_be_bytes([*c, *d])));
        options.push((u16::from_be_bytes([*a, *b]), value));
        bytes = rest;
    }
    options
}

fn of_code<'o>(options: &[(u16, &'o [u8])], code: u16) -> impl Iterator<Item = &'o [u8]> {
    options.iter().filter(move |(c, _)| *c == code).map(|(_, value)| *value)
}

/// The message in relay agents' envelopes (RFC 8415, 9.2), and how many those are.
fn unwrapped(bytes: &[u8]) -> (&[u8], usize) {
    const RELAY_REPLY: u8 = 13;
    const RELAY_MESSAGE: u16 = 9;
    if bytes[0] != RELAY_REPLY {
        return (bytes, 0);
    }
    let inner = of_code(&options6(&bytes[34..]), RELAY_MESSAGE)
        .next()
        .expect("a message in the envelope");
    let (message, relays) = unwrapped(inner);
    (message, relays + 1)
}

/// The addresses in a reply that are given: the others go back with a valid lifetime of 0 (RFC 8415, 18.3.4).
fn given(reply: &[u8]) -> Vec<Ipv6Addr> {
    let mut addresses = Vec::new();
    for association in of_code(&options6(&reply[4..]), 3) {
        for value in of_code(&options6(&association[12..]), 5) {
            let (address, lifetimes) = value.split_first_chunk::<16>().expect("an address");
            if lifetimes[4..8] != [0; 4] {
                addresses.push(Ipv6Addr::from(*address));
            }
        }
    }
    addresses
}

/// Frames and messages around DHCP: what is taken out of one lies within it.
pub fn frame(input: &[u8]) {
    if let Some((_, payload)) = frame::datagram(input, 68) {
        assert!(payload.len() + 28 <= input.len());
    }
    if let Some((address, mac)) = frame::arp_sender(input) {
        let found = |part: &[u8]| input.windows(part.len()).any(|window| window == part);
        assert!(found(&address.octets()) && found(&mac));
    }
    if frame::is_echo_reply(input, 7) {
        assert!(input.len() >= 8);
    }
    if let Some(Solicitation { source: Some(mac) }) = Solicitation::parse(input) {
        assert!(input.windows(6).any(|window| window == mac));
    }
}
