//! DHCPv6: messages of other people's, the server, arbitrary bytes.

use std::{
    hint::black_box,
    net::{Ipv6Addr, SocketAddrV6},
};

use dhcp::{
    Replicas, State, Time,
    arch::{BootTable, Firmware, Loaders, Tables},
    v6::{
        Arrival, Client, Ignored, proxy,
        server::{BootSite, Options, Reply, Reservation, Server, Settings, Subnet, Who},
        wire::{Datagram, Encoder, Message, MessageError, MessageType, PXE_PORT, SERVER_PORT, mac_of, option},
    },
};
use dhcproto::{Decodable, v6 as oracle};
use proptest::prelude::*;

use crate::clients::mac;

fn tables(built_in: &BootTable) -> Tables<'_> {
    Tables {
        hardware: None,
        network: None,
        built_in,
    }
}

const DUID: [u8; 10] = [0, 3, 0, 1, 0x52, 0x54, 0, 0xff, 0xff, 1];

fn ip(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

fn link_local(mac: [u8; 6]) -> SocketAddrV6 {
    let [a, b, c, d, e, f] = mac;
    SocketAddrV6::new([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f].into(), 546, 0, 3)
}

fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

/// A client's message being put together.
#[derive(Clone)]
struct Ask {
    bytes: Vec<u8>,
    mac: [u8; 6],
}

impl Ask {
    fn new(kind: MessageType, i: u32) -> Self {
        let mac = mac(i);
        let ask = Self {
            bytes: vec![kind as u8, 1, mac[4], mac[5]],
            mac,
        };
        ask.option(1, &[&[0, 3, 0, 1][..], &mac].concat())
    }

    fn option(mut self, code: u16, value: &[u8]) -> Self {
        put(&mut self.bytes, code, value);
        self
    }

    fn ours(self) -> Self {
        self.option(2, &DUID)
    }

    fn association(self, id: u8, addresses: &[Ipv6Addr]) -> Self {
        let mut value = vec![0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0, 0];
        for address in addresses {
            put(&mut value, 5, &[&address.octets()[..], &[0; 8]].concat());
        }
        self.option(3, &value)
    }

    /// As a relay agent passes it on.
    fn relayed(mut self, link: Ipv6Addr, interface: &[u8]) -> Self {
        let hops = if self.bytes[0] == 12 { self.bytes[1] + 1 } else { 0 };
        let mut outer = vec![12, hops];
        outer.extend_from_slice(&link.octets());
        outer.extend_from_slice(&link_local(self.mac).ip().octets());
        put(&mut outer, 18, interface);
        put(&mut outer, 9, &self.bytes);
        self.bytes = outer;
        self
    }
}

fn subnet() -> Subnet {
    let mut subnet = Subnet::new(ip(0), 64);
    subnet.range = Some((ip(0x100), 10));
    subnet.options = Options {
        dns: vec![ip(0x53)],
        domains: vec!["lab.example".to_owned()],
        ..Options::default()
    };
    subnet
}

struct Lan {
    server: Server,
    now: Time,
    table: BootTable,
    reply: Vec<u8>,
}

impl Lan {
    fn new(subnet: Subnet) -> Self {
        let settings = Settings {
            duid: DUID.to_vec(),
            peers: vec![vec![0, 3, 9]],
        };
        let table = BootTable::built_in(Loaders::Ipxe, "http://[2001:db8::1]:8080/l", "http://[2001:db8::1]:8080/boot/ipxe").unwrap();
        Self {
            server: Server::new(settings, vec![subnet]).unwrap(),
            now: Time::from_secs(1_800_000_000),
            table,
            reply: Vec::new(),
        }
    }

    fn hand(&mut self, bytes: &[u8], source: SocketAddrV6, multicast: bool) -> Result<Reply, Ignored> {
        let datagram = Datagram::parse(bytes).unwrap();
        let client = Client::of(&datagram, *source.ip());
        let site = BootSite {
            tftp: ip(1),
            tables: tables(&self.table),
        };
        self.server.handle(
            &datagram,
            &client,
            &Arrival {
                link: ip(1),
                source,
                multicast,
            },
            Some(&site),
            self.now,
            &mut self.reply,
        )
    }

    fn send(&mut self, ask: Ask) -> Result<Reply, Ignored> {
        self.hand(&ask.bytes, link_local(ask.mac), true)
    }

    fn message(&self) -> Message<'_> {
        Datagram::parse(&self.reply).unwrap().message
    }

    /// Addresses of the first association of the last reply with their valid lifetimes, and its status.
    fn told(&self) -> (Vec<(Ipv6Addr, u32)>, Option<u16>) {
        let message = oracle::Message::decode(&mut dhcproto::Decoder::new(&self.reply)).unwrap();
        let Some(oracle::DhcpOption::IANA(ia)) = message.opts().get(oracle::OptionCode::IANA) else {
            return (Vec::new(), None);
        };
        let mut addresses = Vec::new();
        for option in ia.opts.iter() {
            if let oracle::DhcpOption::IAAddr(address) = option {
                addresses.push((address.addr, address.valid_life));
            }
        }
        let status = match ia.opts.get(oracle::OptionCode::StatusCode) {
            Some(oracle::DhcpOption::StatusCode(code)) => Some(code.status.into()),
            _ => None,
        };
        (addresses, status)
    }

    fn bind(&mut self, i: u32) -> Ipv6Addr {
        assert_eq!(
            self.send(Ask::new(MessageType::Solicit, i).association(1, &[])).unwrap().kind,
            MessageType::Advertise
        );
        let offered = self.told().0[0].0;
        assert_eq!(
            self.send(Ask::new(MessageType::Request, i).ours().association(1, &[offered]))
                .unwrap()
                .kind,
            MessageType::Reply
        );
        assert_eq!(self.told(), (vec![(offered, 7200)], None));
        offered
    }
}

#[test]
fn a_solicit_of_the_wild() {
    // Wireshark's sample capture dhcpv6.pcap, frame 1; it asks for a prefix.
    let bytes =
        hex::decode("011008740001000e000100011c39cf88080027fe8f9500060004001700180008000200000019000c27fe8f9500000e1000001518").unwrap();
    let datagram = Datagram::parse(&bytes).unwrap();
    let message = datagram.message;
    assert_eq!((message.kind, message.xid), (MessageType::Solicit, [0x10, 0x08, 0x74]));
    assert_eq!(message.duid_mac(), Some([0x08, 0, 0x27, 0xfe, 0x8f, 0x95]));
    assert!(message.wants(option::DNS) && !message.wants(option::SNTP));
    let mut lan = Lan::new(subnet());
    lan.hand(&bytes, "[fe80::a00:27ff:fefe:8f95]:546".parse().unwrap(), true).unwrap();
    let refused = lan.message().options.get(option::IA_PD).unwrap();
    assert_eq!(
        refused[..18],
        hex::decode("27fe8f950000000000000000000d00210006").unwrap(),
        "NoPrefixAvail"
    );
    assert_eq!(lan.message().options.get(option::DNS), Some(&ip(0x53).octets()[..]));
}

#[test]
fn solicit_advertise_request_reply() {
    let mut lan = Lan::new(subnet());
    let reply = lan
        .send(Ask::new(MessageType::Solicit, 1).association(7, &[]).option(6, &[0, 23, 0, 24]))
        .unwrap();
    assert_eq!((reply.kind, reply.destination), (MessageType::Advertise, link_local(mac(1))));
    let message = lan.message();
    assert_eq!(message.xid, [1, mac(1)[4], mac(1)[5]]);
    assert_eq!(message.server_id(), Some(&DUID[..]));
    assert_eq!(message.options.get(option::DOMAINS), Some(&b"\x03lab\x07example\0"[..]));
    let offered = lan.told().0[0].0;
    assert!((0x100..0x10a).contains(&offered.segments()[7]));
    assert!(lan.server.take_changes().is_empty(), "an offer is no lease");
    lan.send(Ask::new(MessageType::Request, 1).ours().association(7, &[offered]))
        .unwrap();
    let ia = lan.message().options.get(option::IA_NA).unwrap();
    assert_eq!(ia[..12], [0, 0, 0, 7, 0, 0, 7, 8, 0, 0, 0xb, 0x40], "IAID, T1 1800, T2 2880");
    let changes = lan.server.take_changes();
    assert_eq!(
        (changes.len(), changes[0].address, changes[0].state, changes[0].mac),
        (1, offered, State::Bound, Some(mac(1)))
    );
}

#[test]
fn a_lease_is_extended_given_back_and_declined() {
    let mut lan = Lan::new(subnet());
    let address = lan.bind(1);
    for (kind, wanted) in [(MessageType::Renew, true), (MessageType::Rebind, false)] {
        lan.now += Time::from_secs(7000);
        let ask = Ask::new(kind, 1).association(1, &[address]);
        lan.send(if wanted { ask.ours() } else { ask }).unwrap();
        assert_eq!(lan.told(), (vec![(address, 7200)], None));
    }
    // Another one's address ends for who believes to have it.
    lan.send(Ask::new(MessageType::Renew, 2).ours().association(1, &[address])).unwrap();
    assert_eq!(lan.told(), (vec![], Some(3)), "NoBinding");
    lan.send(Ask::new(MessageType::Rebind, 2).association(1, &["2001:db8:9::1".parse().unwrap()]))
        .unwrap();
    assert_eq!(lan.told(), (vec![("2001:db8:9::1".parse().unwrap(), 0)], None), "RFC 8415, 18.3.5");
    // Leases were lost, but the address is free.
    let free = (0x100..0x10a).map(ip).find(|a| *a != address).unwrap();
    lan.send(Ask::new(MessageType::Rebind, 2).association(1, &[free])).unwrap();
    assert_eq!(lan.told(), (vec![(free, 7200)], None));

    lan.send(Ask::new(MessageType::Release, 2).ours().association(1, &[address]))
        .unwrap();
    assert_eq!(lan.told().1, Some(3), "nobody else may");
    lan.send(Ask::new(MessageType::Release, 1).ours().association(1, &[address]))
        .unwrap();
    assert_eq!(lan.message().options.get(option::STATUS), Some(&[0, 0][..]));
    assert_eq!(lan.bind(1), address, "it comes back to its client");
    lan.send(Ask::new(MessageType::Decline, 1).ours().association(1, &[address]))
        .unwrap();
    assert_ne!(lan.bind(1), address);
    let quarantined: Vec<_> = lan
        .server
        .records()
        .filter(|r| r.state == State::Quarantined)
        .map(|r| r.address)
        .collect();
    assert_eq!(quarantined, [address]);
    lan.now += Time::from_secs(100_000);
    lan.server.expire(lan.now);
    assert!(lan.server.records().all(|r| r.state == State::Free));
}

#[test]
fn addresses_are_confirmed_or_not() {
    let mut lan = Lan::new(subnet());
    for (address, status) in [(ip(0x9999), 0), ("2001:db8:1::1".parse().unwrap(), 4)] {
        lan.send(Ask::new(MessageType::Confirm, 1).association(1, &[address])).unwrap();
        assert_eq!(lan.message().options.get(option::STATUS).unwrap()[..2], [0, status]);
    }
    assert_eq!(
        lan.send(Ask::new(MessageType::Confirm, 1).association(1, &[])),
        Err(Ignored::Invalid)
    );
}

#[test]
fn two_messages_do_where_both_sides_agree() {
    let mut described = subnet();
    let ask = Ask::new(MessageType::Solicit, 1).association(1, &[]).option(14, &[]);
    assert_eq!(Lan::new(described.clone()).send(ask.clone()).unwrap().kind, MessageType::Advertise);
    described.rapid_commit = true;
    let mut lan = Lan::new(described);
    assert_eq!(lan.send(ask).unwrap().kind, MessageType::Reply);
    assert!(lan.message().options.get(option::RAPID_COMMIT).is_some());
    assert_eq!(lan.server.take_changes().len(), 1);
    assert_eq!(
        lan.send(Ask::new(MessageType::Solicit, 2).association(1, &[])).unwrap().kind,
        MessageType::Advertise
    );
}

#[test]
fn parameters_alone_are_told_without_a_lease() {
    let mut described = subnet();
    described.range = None;
    let mut lan = Lan::new(described);
    let reply = lan
        .send(Ask::new(MessageType::InformationRequest, 1).option(6, &[0, 23, 0, 32]))
        .unwrap();
    assert_eq!(reply.kind, MessageType::Reply);
    assert_eq!(lan.message().options.get(option::DNS), Some(&ip(0x53).octets()[..]));
    assert_eq!(lan.message().options.get(option::REFRESH), Some(&86_400u32.to_be_bytes()[..]));
    lan.send(Ask::new(MessageType::Solicit, 1).association(1, &[])).unwrap();
    assert_eq!(lan.told(), (vec![], Some(2)), "NoAddrsAvail");
    // RFC 8415, 16.12: not with an association.
    assert_eq!(
        lan.send(Ask::new(MessageType::InformationRequest, 1).association(1, &[])),
        Err(Ignored::Invalid)
    );
}

#[test]
fn who_must_be_named_is_and_who_must_not_is_not() {
    let mut lan = Lan::new(subnet());
    let with = |kind, server: &[u8]| Ask::new(kind, 1).option(2, server).association(1, &[ip(0x100)]);
    for kind in [MessageType::Solicit, MessageType::Confirm, MessageType::Rebind] {
        assert_eq!(lan.send(with(kind, &DUID)), Err(Ignored::Invalid), "{kind:?}");
    }
    for kind in [MessageType::Request, MessageType::Renew, MessageType::Release, MessageType::Decline] {
        assert_eq!(lan.send(Ask::new(kind, 1).association(1, &[])), Err(Ignored::Invalid), "{kind:?}");
        assert_eq!(lan.send(with(kind, &[0, 3, 7])), Err(Ignored::OtherServer), "{kind:?}");
        // RFC 8415, 18.4: sent to us alone, which is for nobody to do here.
        let ask = with(kind, &DUID);
        lan.hand(&ask.bytes, link_local(ask.mac), false).unwrap();
        assert_eq!(lan.message().options.get(option::STATUS).unwrap()[..2], [0, 5], "{kind:?}");
    }
    for kind in [MessageType::Advertise, MessageType::Reply, MessageType::Reconfigure] {
        assert_eq!(lan.send(with(kind, &DUID)), Err(Ignored::NotARequest));
    }
    assert!(lan.server.take_changes().is_empty());
}

#[test]
fn relay_agents_get_their_way_back() {
    let mut lan = Lan::new(subnet());
    let ask = Ask::new(MessageType::Solicit, 1)
        .association(1, &[])
        .relayed(ip(0xfe), b"eth7")
        .relayed(Ipv6Addr::UNSPECIFIED, b"trunk");
    let relay: SocketAddrV6 = "[2001:db8:5::1]:547".parse().unwrap();
    let reply = lan.hand(&ask.bytes, relay, false).unwrap();
    assert_eq!(reply.destination, relay);
    // RFC 8415, 19.3: the same nesting, with the interfaces' names.
    let mut inner: &[u8] = &lan.reply;
    for (hops, link, interface) in [(1, Ipv6Addr::UNSPECIFIED, &b"trunk"[..]), (0, ip(0xfe), b"eth7")] {
        assert_eq!(inner[..2], [13, hops]);
        assert_eq!(
            (&inner[2..18], &inner[18..34]),
            (&link.octets()[..], &link_local(mac(1)).ip().octets()[..])
        );
        let [a, b, c, d] = [34, 35, 36, 37].map(|i| inner[i]);
        let length = usize::from(u16::from_be_bytes([c, d]));
        assert_eq!(([a, b], &inner[38..38 + length]), ([0, 18], interface));
        let rest = &inner[38 + length..];
        assert_eq!(
            (&rest[..2], usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            (&[0, 9][..], rest.len() - 4)
        );
        inner = &rest[4..];
    }
    lan.reply = inner.to_vec();
    assert_eq!(lan.message().kind, MessageType::Advertise);
    assert_eq!(lan.told().0.len(), 1);
    let mut deep = Ask::new(MessageType::Solicit, 1);
    for _ in 0..8 {
        deep = deep.relayed(ip(1), b"");
    }
    assert!(Datagram::parse(&deep.bytes).is_ok());
    assert_eq!(Datagram::parse(&deep.relayed(ip(1), b"").bytes), Err(MessageError::Relays));
}

#[test]
fn machines_that_boot_are_told_what() {
    let mut lan = Lan::new(subnet());
    let class = |text: &[u8]| [&[0, 0, 1, 87, 0, text.len() as u8][..], text].concat();
    let url = |lan: &Lan| {
        lan.message()
            .options
            .get(option::BOOT_FILE_URL)
            .map(|u| String::from_utf8(u.to_vec()).unwrap())
    };
    // As EDK2 does it (NetworkPkg/UefiPxeBcDxe/PxeBcDhcp6.c): DUID-UUID, class under Intel's number, architecture.
    let pxe = Ask::new(MessageType::Solicit, 1)
        .association(1, &[])
        .option(61, &[0, 7])
        .option(16, &class(b"PXEClient:Arch:00007:UNDI:003000"));
    lan.send(pxe.clone()).unwrap();
    assert_eq!(url(&lan).as_deref(), Some("tftp://[2001:db8::1]/ipxe-x64.efi"));
    assert_eq!(lan.message().options.get(option::VENDOR_CLASS), None);
    lan.send(pxe.option(15, b"\0\x04iPXE")).unwrap();
    assert_eq!(
        url(&lan).as_deref(),
        Some("http://[2001:db8::1]:8080/boot/ipxe"),
        "never a loader again"
    );
    lan.send(
        Ask::new(MessageType::Solicit, 2)
            .association(1, &[])
            .option(61, &[0, 16])
            .option(16, &class(b"HTTPClient:Arch:00016:UNDI:003000")),
    )
    .unwrap();
    assert_eq!(url(&lan).as_deref(), Some("http://[2001:db8::1]:8080/l/ipxe-x64.efi"));
    assert_eq!(lan.message().options.get(option::VENDOR_CLASS), Some(&class(b"HTTPClient")[..]));
    lan.send(Ask::new(MessageType::Solicit, 3).association(1, &[])).unwrap();
    assert_eq!(url(&lan), None);
}

#[test]
fn beside_another_server_machines_that_boot_get_a_file_and_no_address() {
    let table = BootTable::built_in(
        Loaders::SecureBoot,
        "http://[2001:db8::1]:8080/l",
        "http://[2001:db8::1]:8080/boot/ipxe",
    )
    .unwrap();
    let mut out = Vec::new();
    let mut hand = |ask: &Ask, port, source_port| {
        let datagram = Datagram::parse(&ask.bytes).unwrap();
        let mut source = link_local(ask.mac);
        source.set_port(source_port);
        let arrival = Arrival {
            link: ip(1),
            source,
            multicast: port == SERVER_PORT,
        };
        let site = BootSite {
            tftp: ip(1),
            tables: tables(&table),
        };
        let reply = proxy::answer(
            &datagram,
            &Client::of(&datagram, *source.ip()),
            &arrival,
            port,
            &DUID,
            &site,
            &mut out,
        )?;
        let message = Datagram::parse(&out).unwrap().message;
        assert_eq!((message.kind, message.server_id()), (reply.kind, Some(&DUID[..])));
        assert_eq!(
            (message.options.get(option::IA_NA), reply.granted.addresses().count()),
            (None, 0),
            "never an address"
        );
        let text = |code| message.options.get(code).map(|value| String::from_utf8_lossy(value).into_owned());
        Ok((
            reply.kind,
            reply.destination.port(),
            text(option::BOOT_FILE_URL).unwrap_or_default(),
            text(option::VENDOR_CLASS),
        ))
    };
    let class = |text: &[u8]| [&[0, 0, 1, 87, 0, text.len() as u8][..], text].concat();
    let firmware = |kind, number: u8, name: &[u8]| {
        Ask::new(kind, 1)
            .association(1, &[])
            .option(61, &[0, number])
            .option(16, &class(name))
    };
    // As EDK2 takes it (NetworkPkg/UefiPxeBcDxe/PxeBcDhcp6.c): its class, and a URL that says where to ask again.
    let shim = || "tftp://[2001:db8::1]/bootx64.efi".to_owned();
    let pxe_class = || Some(String::from_utf8(class(b"PXEClient")).unwrap());
    assert_eq!(
        hand(
            &firmware(MessageType::Solicit, 7, b"PXEClient:Arch:00007:UNDI:003000"),
            SERVER_PORT,
            546
        ),
        Ok((MessageType::Advertise, 546, shim(), pxe_class()))
    );
    let again = firmware(MessageType::Request, 7, b"PXEClient:Arch:00007:UNDI:003000").ours();
    assert_eq!(
        hand(&again, PXE_PORT, PXE_PORT),
        Ok((MessageType::Reply, PXE_PORT, shim(), pxe_class()))
    );
    assert_eq!(
        hand(&again, SERVER_PORT, 546),
        Err(Ignored::NotForUs),
        "it is for its DHCPv6 server"
    );
    let http = hand(
        &firmware(MessageType::Solicit, 16, b"HTTPClient:Arch:00016:UNDI:003000"),
        SERVER_PORT,
        546,
    )
    .unwrap();
    assert_eq!(http.2, "http://[2001:db8::1]:8080/l/bootx64.efi");
    assert_eq!(http.3, Some(String::from_utf8(class(b"HTTPClient")).unwrap()));
    // iPXE would take an ADVERTISE without an address for all that there is.
    let ipxe = |kind| Ask::new(kind, 2).option(61, &[0, 7]).option(15, b"\0\x04iPXE");
    assert_eq!(hand(&ipxe(MessageType::Solicit), SERVER_PORT, 546), Err(Ignored::NotForUs));
    let script = hand(&ipxe(MessageType::InformationRequest), SERVER_PORT, 546).unwrap();
    assert_eq!(
        (script.0, script.2.as_str()),
        (MessageType::Reply, "http://[2001:db8::1]:8080/boot/ipxe")
    );
    for kind in [MessageType::Solicit, MessageType::InformationRequest] {
        assert_eq!(hand(&Ask::new(kind, 3), SERVER_PORT, 546), Err(Ignored::DoesNotBoot));
    }
    assert_eq!(
        hand(
            &firmware(MessageType::Solicit, 27, b"PXEClient:Arch:00027:UNDI:003000"),
            SERVER_PORT,
            546
        ),
        Err(Ignored::NothingToBoot(Firmware::Other(27)))
    );
}

#[test]
fn a_machine_is_known_by_its_mac_whatever_its_duid() {
    let mut described = subnet();
    described.reservations = vec![Reservation {
        who: Who::Mac(mac(1)),
        address: ip(5),
    }];
    let mut lan = Lan::new(described);
    // DUID-UUID of the firmware; the MAC address comes from the link-local address, then from the relay agent (RFC 6939).
    let uuid = Ask {
        bytes: vec![1, 0, 0, 1],
        mac: mac(1),
    }
    .option(1, &[&[0, 4][..], &[7; 16]].concat())
    .association(9, &[]);
    let datagram = Datagram::parse(&uuid.bytes).unwrap();
    let client = Client::of(&datagram, *link_local(mac(1)).ip());
    assert_eq!(
        (client.mac, client.machine_id, client.firmware),
        (Some(mac(1)), Some([7; 16]), None)
    );
    lan.send(uuid).unwrap();
    assert_eq!(lan.told().0[0].0, ip(5));
    assert_eq!(lan.bind(1), ip(5), "the system's DUID");
    let mut told = vec![12, 0];
    told.extend_from_slice(&ip(0xfe).octets());
    told.extend_from_slice(&ip(0x77).octets());
    put(&mut told, 79, &[&[0, 1][..], &mac(1)].concat());
    put(&mut told, 9, &Ask::new(MessageType::Solicit, 8).bytes);
    assert_eq!(Client::of(&Datagram::parse(&told).unwrap(), ip(0xfe)).mac, Some(mac(1)));
    assert_eq!(mac_of(ip(1)), None);
}

#[test]
fn replicas_offer_the_same_address_and_take_turns() {
    let mut pair = [0, 1].map(|_| Lan::new(subnet()));
    for i in 0..10 {
        let offers = pair.each_mut().map(|lan| {
            lan.send(Ask::new(MessageType::Solicit, i).association(1, &[])).unwrap();
            lan.told().0[0].0
        });
        assert_eq!(offers[0], offers[1]);
        // Taken at another replica of [0, 3, 9].
        let request = Ask::new(MessageType::Request, i).option(2, &[0, 3, 9]).association(1, &[offers[0]]);
        assert_eq!(pair[0].send(request), Err(Ignored::OtherServer));
    }
    assert_eq!(pair[0].server.records().filter(|r| r.state == State::Bound).count(), 10);
    assert!(pair[0].server.take_changes().is_empty(), "who leased it records it");
    for (me, lan) in pair.iter_mut().enumerate() {
        lan.server.set_replicas(Some(Replicas::new(me as u64, &[0, 1])));
    }
    for i in 20..40 {
        let answered = pair
            .each_mut()
            .map(|lan| lan.send(Ask::new(MessageType::InformationRequest, i)).is_ok());
        assert_ne!(answered[0], answered[1]);
    }
}

#[test]
fn records_bring_a_new_process_up_to_date() {
    let mut lan = Lan::new(subnet());
    let address = lan.bind(1);
    let changes = lan.server.take_changes();
    let mut next = Lan::new(subnet());
    for record in &changes {
        next.server.load(record, next.now);
    }
    assert_eq!(next.bind(1), address);
    let mut changed = subnet();
    changed.range = Some((address, 1));
    next.server
        .reconfigure(
            Settings {
                duid: DUID.to_vec(),
                peers: Vec::new(),
            },
            vec![changed],
            next.now,
        )
        .unwrap();
    assert_eq!(next.server.take_changes().len(), 1, "what was not fetched yet is not lost");
    next.send(Ask::new(MessageType::Renew, 1).ours().association(1, &[address]))
        .unwrap();
    assert_eq!(next.told().0, [(address, 7200)]);
}

#[test]
fn a_thousand_clients_are_all_bound() {
    let mut described = subnet();
    described.range = Some((ip(0x1000), 1000));
    let mut lan = Lan::new(described);
    let addresses: std::collections::HashSet<_> = (0..1000).map(|i| lan.bind(i)).collect();
    assert_eq!(addresses.len(), 1000);
    lan.send(Ask::new(MessageType::Solicit, 5000).association(1, &[])).unwrap();
    assert_eq!(lan.told(), (vec![], Some(2)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_and_answered_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u8..14, relays in 0usize..3, multicast: bool) {
        let mut message = vec![kind, 1, 2, 3];
        put(&mut message, 1, &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1]);
        put(&mut message, 3, &bytes[..bytes.len().min(60)]);
        message.extend_from_slice(&bytes);
        let mut ask = Ask { bytes: message, mac: mac(1) };
        for _ in 0..relays {
            ask = ask.relayed(ip(0xfe), &bytes[..bytes.len().min(9)]);
        }
        if let Ok(datagram) = Datagram::parse(&bytes) {
            prop_assert!(datagram.relays.len() <= 8);
        }
        let Ok(datagram) = Datagram::parse(&ask.bytes) else { return Ok(()) };
        let message = &datagram.message;
        // Whatever they say of such bytes, none of them panics.
        black_box((message.duid_mac(), message.duid_uuid(), message.seconds(), message.architectures().count(), message.user_classes().count()));
        black_box((message.vendor_classes().count(), message.associations().map(|a| a.addresses().count()).sum::<usize>()));
        let (xid, is_relayed) = (message.xid, !datagram.relays.is_empty());
        let mut lan = Lan::new(subnet());
        if let Ok(reply) = lan.hand(&ask.bytes, link_local(mac(1)), multicast) {
            prop_assert_eq!(reply.destination.port(), if is_relayed { 547 } else { 546 });
            if !is_relayed {
                prop_assert_eq!(lan.message().xid, xid);
                prop_assert_eq!(lan.message().server_id(), Some(&DUID[..]));
                prop_assert!(oracle::Message::decode(&mut dhcproto::Decoder::new(&lan.reply)).is_ok());
            }
        }
    }

    #[test]
    fn what_is_written_is_read(values in prop::collection::vec((100u16..200, prop::collection::vec(any::<u8>(), 0..50)), 0..8), relays in 0usize..8) {
        let mut ask = Ask::new(MessageType::Solicit, 1);
        for _ in 0..relays {
            ask = ask.relayed(ip(3), b"port");
        }
        let request = Datagram::parse(&ask.bytes).unwrap();
        prop_assert_eq!(request.relays.len(), relays);
        let mut out = Vec::new();
        let mut encoder = Encoder::reply(&request, MessageType::Reply, &mut out);
        for (code, value) in &values {
            encoder.put(*code, value);
        }
        encoder.finish();
        // A relay agent's reply has the shape of its request but for the type.
        let mut at = 0;
        for _ in 0..relays {
            prop_assert_eq!(out[at], 13);
            out[at] = 12;
            at += 34 + 4 + 4 + 4;
        }
        let read = Datagram::parse(&out).unwrap();
        prop_assert_eq!(&read.relays, &request.relays);
        prop_assert_eq!(read.message.options.map(|(c, v)| (c, v.to_vec())).collect::<Vec<_>>(), values);
    }
}

#[test]
fn an_architecture_may_stand_in_the_class_alone() {
    let ask = Ask::new(MessageType::Solicit, 1).option(16, b"\0\0\x01\x57\0\x20PXEClient:Arch:00011:UNDI:003000");
    let datagram = Datagram::parse(&ask.bytes).unwrap();
    assert_eq!(Client::of(&datagram, Ipv6Addr::UNSPECIFIED).firmware, Some(Firmware::UefiArm64));
}
