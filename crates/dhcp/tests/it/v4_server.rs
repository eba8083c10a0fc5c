//! The full server, one client at a time.

use std::net::Ipv4Addr;

use dhcp::{
    Counts, State, Time,
    arch::{BootTable, Loaders},
    v4::{
        Arrival, Client, Destination, Ignored,
        server::{BootSite, Identity, Options, Outcome, Reply, Reservation, Route, Server, Settings, Subnet, Who},
        wire::MessageType,
    },
};

use crate::clients::{
    Ask, DECLINE, DISCOVER, INFORM, RELEASE, REQUEST, SERVER, at_67, ipxe, mac, parse, raspberry_pi, uefi, uefi_http, unicast,
};

pub fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// 10.0.0.0/24 with the range 100 to 109, without probing.
pub fn subnet() -> Subnet {
    let mut subnet = Subnet::new(ip(0), 24);
    subnet.ranges = vec![(ip(100), ip(109))];
    subnet.probe = false;
    subnet.options = Options {
        routers: vec![ip(254)],
        dns: vec![ip(53)],
        domain: Some("lab.example".to_owned()),
        mtu: Some(9000),
        ..Options::default()
    };
    subnet
}

/// A server and the moment.
pub struct Lan {
    pub server: Server,
    pub now: Time,
    pub table: BootTable,
    pub reply: Vec<u8>,
}

impl Lan {
    pub fn new(subnets: Vec<Subnet>) -> Self {
        Self::with(Settings::default(), subnets)
    }

    pub fn with(settings: Settings, subnets: Vec<Subnet>) -> Self {
        let table = BootTable::built_in(Loaders::SecureBoot, "http://10.0.0.1:8080/l", "http://10.0.0.1:8080/boot/ipxe").unwrap();
        Self {
            server: Server::new(settings, subnets).unwrap(),
            now: Time::from_secs(1_800_000_000),
            table,
            reply: Vec::new(),
        }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += Time::from_secs(seconds);
    }

    pub fn hand(&mut self, request: &[u8], arrival: &Arrival) -> Result<Outcome, Ignored> {
        let packet = parse(request);
        let site = BootSite {
            tftp: SERVER,
            hardware: None,
            built_in: &self.table,
        };
        let outcome = self
            .server
            .handle(&packet, &Client::of(&packet), arrival, Some(&site), self.now, &mut self.reply);
        if let Ok(Outcome::Send(reply)) = &outcome {
            let sent = parse(&self.reply);
            assert_eq!((sent.message_type(), sent.yiaddr()), (Some(reply.kind), reply.address));
            assert_eq!(sent.xid(), packet.xid());
            assert_eq!(sent.hardware_address(), packet.hardware_address());
        }
        outcome
    }

    pub fn send(&mut self, request: Ask) -> Result<Reply, Ignored> {
        match self.hand(&request.build(), &at_67())? {
            Outcome::Send(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub fn offer(&mut self, mac: [u8; 6]) -> Result<Ipv4Addr, Ignored> {
        let reply = self.send(Ask::new(DISCOVER, mac))?;
        assert_eq!(reply.kind, MessageType::Offer);
        Ok(reply.address)
    }

    pub fn take(&mut self, mac: [u8; 6], address: Ipv4Addr) -> MessageType {
        self.send(Ask::new(REQUEST, mac).server(SERVER).wants(address)).unwrap().kind
    }

    /// The four-way exchange.
    pub fn bind(&mut self, mac: [u8; 6]) -> Ipv4Addr {
        let address = self.offer(mac).unwrap();
        assert_eq!(self.take(mac, address), MessageType::Ack);
        address
    }

    pub fn renew(&mut self, mac: [u8; 6], address: Ipv4Addr) -> Result<MessageType, Ignored> {
        match self.hand(&Ask::new(REQUEST, mac).ciaddr(address).build(), &unicast(&format!("{address}:68")))? {
            Outcome::Send(reply) => Ok(reply.kind),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn discover_offer_request_ack() {
    let mut lan = Lan::new(vec![subnet()]);
    let wanted = [1, 3, 6, 15, 26, 51];
    let reply = lan
        .send(Ask::new(DISCOVER, mac(1)).option(55, &wanted).option(61, b"\xffabcd"))
        .unwrap();
    assert_eq!(reply.kind, MessageType::Offer);
    assert!((100..110).contains(&reply.address.octets()[3]));
    let to = Destination::Link {
        mac: mac(1),
        address: format!("{}:68", reply.address).parse().unwrap(),
    };
    assert_eq!(reply.destination, to, "it did not ask for a broadcast");
    let ack = lan
        .send(
            Ask::new(REQUEST, mac(1))
                .broadcast()
                .server(SERVER)
                .wants(reply.address)
                .option(55, &wanted)
                .option(61, b"\xffabcd"),
        )
        .unwrap();
    assert_eq!(
        (ack.kind, ack.address, ack.destination),
        (MessageType::Ack, reply.address, Destination::Broadcast(68))
    );
    let sent = parse(&lan.reply);
    assert!(sent.wants_broadcast());
    assert_eq!(sent.server_id(), Some(SERVER));
    assert_eq!(sent.option(1), Some(&[255, 255, 255, 0][..]));
    assert_eq!(sent.option(3), Some(&[10, 0, 0, 254][..]));
    assert_eq!(sent.option(6), Some(&[10, 0, 0, 53][..]));
    assert_eq!(sent.option(15), Some(&b"lab.example"[..]));
    assert_eq!(sent.option(26), Some(&9000u16.to_be_bytes()[..]));
    let times = [51, 58, 59].map(|code| u32::from_be_bytes(sent.option(code).unwrap().try_into().unwrap()));
    assert_eq!(times, [3600, 1800, 3150], "RFC 2131, 4.4.5: T1 is a half, T2 seven eighths");
    assert_eq!(sent.option(61), Some(&b"\xffabcd"[..]), "RFC 6842");
    assert_eq!(
        (sent.siaddr(), sent.option(67)),
        (Ipv4Addr::UNSPECIFIED, None),
        "it did not come to boot"
    );
}

#[test]
fn only_what_was_asked_for_is_told() {
    let mut described = subnet();
    described.options.routes = vec![Route {
        network: Ipv4Addr::new(10, 5, 0, 0),
        prefix: 16,
        via: ip(2),
    }];
    described.options.more = vec![(150, vec![1])];
    let mut lan = Lan::new(vec![described]);
    lan.send(Ask::new(DISCOVER, mac(1)).option(55, &[121])).unwrap();
    let codes = |lan: &Lan| parse(&lan.reply).options().map(|(c, _)| c).collect::<Vec<_>>();
    assert_eq!(codes(&lan), [1, 3, 51, 53, 54, 58, 59, 121]);
    lan.send(Ask::new(DISCOVER, mac(1))).unwrap();
    assert_eq!(
        codes(&lan),
        [1, 3, 6, 15, 26, 51, 53, 54, 58, 59, 121, 150],
        "who does not say gets all"
    );
}

#[test]
fn a_lease_is_renewed_runs_out_and_comes_back() {
    let mut lan = Lan::new(vec![subnet()]);
    let address = lan.bind(mac(1));
    lan.pass(1800);
    assert_eq!(lan.renew(mac(1), address), Ok(MessageType::Ack));
    let sent = parse(&lan.reply);
    assert_eq!((sent.ciaddr(), sent.yiaddr()), (address, address));
    lan.pass(3500);
    lan.server.expire(lan.now);
    assert_eq!(
        lan.server.counts(),
        Counts {
            free: 9,
            bound: 1,
            quarantined: 0
        }
    );
    lan.pass(100);
    lan.server.expire(lan.now);
    assert_eq!(
        lan.server.counts(),
        Counts {
            free: 10,
            bound: 0,
            quarantined: 0
        }
    );
    for other in 2..11 {
        assert_ne!(lan.bind(mac(other)), address, "it is remembered while there are others");
    }
    assert_eq!(lan.bind(mac(1)), address);
    assert_eq!(lan.offer(mac(99)), Err(Ignored::NothingFree));
    lan.hand(
        &Ask::new(RELEASE, mac(1)).ciaddr(address).server(SERVER).build(),
        &unicast("10.0.0.1:68"),
    )
    .unwrap();
    assert_eq!(lan.bind(mac(99)), address, "a released address is given to whoever needs it");
    assert_eq!(lan.renew(mac(1), address), Ok(MessageType::Nak));
}

#[test]
fn an_offer_is_kept_for_a_minute() {
    let mut lan = Lan::new(vec![subnet()]);
    let offers: std::collections::HashSet<_> = (0..10).map(|i| lan.offer(mac(i)).unwrap()).collect();
    assert_eq!(offers.len(), 10, "each one its own");
    assert_eq!(lan.offer(mac(11)), Err(Ignored::NothingFree));
    lan.pass(60);
    let late = lan.offer(mac(11)).unwrap();
    // Who takes an offer too late gets it all the same, if nobody else has it.
    let free = offers.iter().find(|a| **a != late).unwrap();
    let first = (0..10).find(|i| lan.take(mac(*i), *free) == MessageType::Ack).unwrap();
    assert_eq!(lan.take(mac(first + 20), *free), MessageType::Nak);
    assert_eq!(lan.take(mac(1), late), MessageType::Nak);
}

#[test]
fn who_takes_another_servers_offer_frees_ours() {
    let mut lan = Lan::new(vec![subnet()]);
    lan.offer(mac(1)).unwrap();
    assert_eq!(lan.server.counts().free, 9);
    let elsewhere = Ask::new(REQUEST, mac(1)).server(ip(200)).wants(ip(50));
    assert_eq!(lan.send(elsewhere), Err(Ignored::OtherServer));
    assert_eq!(lan.server.counts().free, 10);
    assert!(lan.server.take_changes().is_empty());
}

#[test]
fn a_client_that_was_here_before_asks_whether_it_still_is() {
    let mut lan = Lan::new(vec![subnet()]);
    let address = lan.bind(mac(1));
    let reboot = |mac, address| Ask::new(REQUEST, mac).wants(address);
    assert_eq!(lan.send(reboot(mac(1), address)).unwrap().kind, MessageType::Ack);
    // Moved here from another network.
    let moved = lan.send(reboot(mac(1), Ipv4Addr::new(192, 168, 1, 5))).unwrap();
    assert_eq!((moved.kind, moved.destination), (MessageType::Nak, Destination::Broadcast(68)));
    assert!(parse(&lan.reply).option(56).is_some_and(|text| text.starts_with(b"the address")));
    assert_eq!(lan.send(reboot(mac(2), address)).unwrap().kind, MessageType::Nak, "another one's");
    assert_eq!(
        lan.send(reboot(mac(2), ip(200))).unwrap().kind,
        MessageType::Nak,
        "not ours to give"
    );
    // Known before leases were lost.
    let free = (100..110).map(ip).find(|a| *a != address).unwrap();
    assert_eq!(lan.send(reboot(mac(2), free)).unwrap().kind, MessageType::Ack);
    // One server among others keeps silent about what it does not know.
    let mut modest = subnet();
    modest.authoritative = false;
    let mut lan = Lan::new(vec![modest]);
    assert_eq!(lan.send(reboot(mac(2), ip(100))), Err(Ignored::UnknownLease(ip(100))));
    assert_eq!(lan.send(reboot(mac(2), ip(200))), Err(Ignored::UnknownLease(ip(200))));
    assert_eq!(lan.renew(mac(2), ip(100)), Err(Ignored::UnknownLease(ip(100))));
}

#[test]
fn a_declined_address_rests() {
    let mut lan = Lan::new(vec![subnet()]);
    let address = lan.bind(mac(1));
    let decline = |mac| Ask::new(DECLINE, mac).server(SERVER).wants(address).build();
    assert_eq!(
        lan.hand(&decline(mac(2)), &at_67()),
        Err(Ignored::UnknownLease(address)),
        "nobody else may"
    );
    assert_eq!(lan.hand(&decline(mac(1)), &at_67()), Ok(Outcome::Declined(address)));
    assert_eq!(
        lan.server.counts(),
        Counts {
            free: 9,
            bound: 0,
            quarantined: 1
        }
    );
    assert_ne!(lan.bind(mac(1)), address);
    assert_eq!(lan.send(Ask::new(REQUEST, mac(5)).wants(address)).unwrap().kind, MessageType::Nak);
    lan.pass(601);
    lan.server.expire(lan.now);
    assert_eq!(
        lan.server.counts(),
        Counts {
            free: 9,
            bound: 1,
            quarantined: 0
        }
    );
}

#[test]
fn an_address_is_probed_before_its_first_offer() {
    let mut described = subnet();
    described.probe = true;
    let mut lan = Lan::new(vec![described]);
    let discover = Ask::new(DISCOVER, mac(1)).build();
    let Ok(Outcome::Probe(first)) = lan.hand(&discover, &at_67()) else {
        panic!("not probed")
    };
    assert_eq!(lan.hand(&discover, &at_67()), Ok(Outcome::Probe(first)), "as long as nobody said");
    lan.server.probed(first, true, lan.now);
    let Ok(Outcome::Probe(second)) = lan.hand(&discover, &at_67()) else {
        panic!("not probed")
    };
    assert_ne!(first, second);
    assert_eq!(lan.server.counts().quarantined, 1);
    lan.server.probed(second, false, lan.now);
    assert_eq!(lan.offer(mac(1)), Ok(second));
    assert_eq!(lan.take(mac(1), second), MessageType::Ack);
    // The client itself answers from it now, and a late answer to a probe must not take it away.
    lan.server.probed(second, true, lan.now);
    assert_eq!(lan.offer(mac(1)), Ok(second));
    lan.pass(4000);
    assert_eq!(lan.offer(mac(1)), Ok(second), "its own address from before: no probe");
}

#[test]
fn an_address_may_be_wished_for() {
    let mut lan = Lan::new(vec![subnet()]);
    assert_eq!(lan.send(Ask::new(DISCOVER, mac(1)).wants(ip(107))).unwrap().address, ip(107));
    assert_ne!(lan.send(Ask::new(DISCOVER, mac(2)).wants(ip(107))).unwrap().address, ip(107));
    assert_ne!(lan.send(Ask::new(DISCOVER, mac(3)).wants(ip(5))).unwrap().address, ip(5));
}

#[test]
fn a_lease_time_is_granted_within_bounds() {
    let mut lan = Lan::new(vec![subnet()]);
    for (wish, granted) in [(60u32, 300u32), (7200, 7200), (u32::MAX, 86_400)] {
        lan.send(Ask::new(DISCOVER, mac(1)).option(51, &wish.to_be_bytes())).unwrap();
        assert_eq!(parse(&lan.reply).lease_time(), Some(granted));
    }
}

#[test]
fn reservations_hold_for_every_identifier_of_a_machine() {
    let mut described = subnet();
    described.reservations = vec![
        Reservation {
            who: Who::Mac(mac(1)),
            address: ip(10),
        },
        Reservation {
            who: Who::ClientId(b"\x00the-other".to_vec()),
            address: ip(105),
        },
    ];
    described.identity = Identity::ClientId;
    described.probe = true;
    let mut lan = Lan::new(vec![described]);
    for id in [&b"\x01abcdef"[..], b"\xffsomething", b"\x00a-uuid"] {
        let reply = lan.send(Ask::new(DISCOVER, mac(1)).option(61, id)).unwrap();
        assert_eq!((reply.kind, reply.address), (MessageType::Offer, ip(10)));
        let ack = lan
            .send(Ask::new(REQUEST, mac(1)).option(61, id).server(SERVER).wants(ip(10)))
            .unwrap();
        assert_eq!(ack.kind, MessageType::Ack);
    }
    assert_eq!(
        lan.send(Ask::new(DISCOVER, mac(7)).option(61, b"\x00the-other")).unwrap().address,
        ip(105)
    );
    assert_eq!(
        lan.send(Ask::new(REQUEST, mac(3)).wants(ip(10))).unwrap().kind,
        MessageType::Nak,
        "for nobody else"
    );
    assert_eq!(
        lan.send(Ask::new(REQUEST, mac(1)).wants(ip(101))).unwrap().kind,
        MessageType::Nak,
        "it shall take its own"
    );
    // Somebody sits on the reserved address: the machine shall boot all the same.
    lan.hand(&Ask::new(DECLINE, mac(1)).wants(ip(10)).build(), &at_67()).unwrap();
    let Ok(Outcome::Probe(other)) = lan.hand(&Ask::new(DISCOVER, mac(1)).build(), &at_67()) else {
        panic!("not probed")
    };
    lan.server.probed(other, false, lan.now);
    assert_eq!(lan.bind(mac(1)), other);
    assert_eq!(lan.renew(mac(1), other), Ok(MessageType::Ack));
    lan.pass(700);
    assert_eq!(lan.renew(mac(1), other), Ok(MessageType::Nak), "its own is free again");
    assert_eq!(lan.bind(mac(1)), ip(10));
}

#[test]
fn a_discover_ends_no_lease() {
    let mut lan = Lan::new(vec![subnet()]);
    let old = lan.bind(mac(1));
    let mut changed = subnet();
    changed.reservations = vec![Reservation {
        who: Who::Mac(mac(1)),
        address: ip(10),
    }];
    lan.server.reconfigure(Settings::default(), vec![changed.clone()], lan.now).unwrap();
    assert_eq!(lan.offer(mac(1)), Ok(ip(10)));
    assert_ne!(lan.offer(mac(2)), Ok(old), "the machine still uses it");
    // The same with the machine known all along, and its address in quarantine when it came first.
    let mut lan = Lan::new(vec![changed]);
    assert_eq!(lan.bind(mac(1)), ip(10));
    lan.hand(&Ask::new(DECLINE, mac(1)).wants(ip(10)).build(), &at_67()).unwrap();
    let old = lan.bind(mac(1));
    lan.pass(601);
    assert_eq!(lan.offer(mac(1)), Ok(ip(10)));
    assert_ne!(lan.send(Ask::new(DISCOVER, mac(2)).wants(old)).unwrap().address, old);
    assert_eq!(lan.take(mac(1), ip(10)), MessageType::Ack);
    assert_eq!(
        lan.send(Ask::new(DISCOVER, mac(3)).wants(old)).unwrap().address,
        old,
        "now it is free"
    );
}

#[test]
fn identity_is_the_machine_or_the_identifier() {
    for (identity, same) in [(Identity::HardwareAddress, true), (Identity::ClientId, false)] {
        let mut described = subnet();
        described.identity = identity;
        let mut lan = Lan::new(vec![described]);
        let first = lan.send(Ask::new(DISCOVER, mac(1)).option(61, b"\x00firmware")).unwrap().address;
        let second = lan.send(Ask::new(DISCOVER, mac(1)).option(61, b"\xffsystem")).unwrap().address;
        assert_eq!(first == second, same, "{identity:?}");
    }
    let mut lan = Lan::new(vec![subnet()]);
    assert_eq!(lan.send(Ask::new(DISCOVER, [0; 6])), Err(Ignored::Nameless));
}

#[test]
fn relay_agents_lead_to_networks_and_get_their_option_back() {
    let mut far = Subnet::new(Ipv4Addr::new(10, 9, 0, 0), 16);
    far.ranges = vec![(Ipv4Addr::new(10, 9, 1, 0), Ipv4Addr::new(10, 9, 1, 255))];
    far.probe = false;
    let mut lan = Lan::new(vec![far, subnet()]);
    let relay = Ipv4Addr::new(10, 9, 0, 1);
    let reply = lan
        .send(Ask::new(DISCOVER, mac(1)).giaddr(relay).option(82, &[1, 2, 7, 7]))
        .unwrap();
    assert!(reply.address.octets().starts_with(&[10, 9, 1]));
    assert_eq!(reply.destination, Destination::Unicast("10.9.0.1:67".parse().unwrap()));
    assert_eq!(parse(&lan.reply).relay().unwrap().value(), [1, 2, 7, 7]);
    assert!(lan.reply.ends_with(&[82, 4, 1, 2, 7, 7, 255]) || lan.reply.windows(7).any(|w| w == [82, 4, 1, 2, 7, 7, 255]));
    // RFC 3527: the link is another one than the relay agent's address says. RFC 5107: the client shall renew through the relay agent.
    let asks = Ask::new(DISCOVER, mac(2))
        .giaddr(ip(3))
        .option(82, &[5, 4, 10, 9, 0, 0, 11, 4, 10, 9, 0, 1]);
    let reply = lan.send(asks).unwrap();
    assert!(reply.address.octets().starts_with(&[10, 9, 1]));
    assert_eq!(parse(&lan.reply).server_id(), Some(relay));
    let takes = Ask::new(REQUEST, mac(2))
        .giaddr(ip(3))
        .option(82, &[5, 4, 10, 9, 0, 0, 11, 4, 10, 9, 0, 1])
        .server(relay)
        .wants(reply.address);
    assert_eq!(lan.send(takes).unwrap().kind, MessageType::Ack);
    // A refusal through a relay agent has to be broadcast by it (RFC 2131, 4.3.2).
    let refused = lan.send(Ask::new(REQUEST, mac(3)).giaddr(relay).wants(ip(100))).unwrap();
    assert_eq!(
        (refused.kind, refused.destination),
        (MessageType::Nak, Destination::Unicast("10.9.0.1:67".parse().unwrap()))
    );
    assert!(parse(&lan.reply).wants_broadcast());
    // Renewing, routed to us from afar.
    assert_eq!(lan.renew(mac(2), reply.address), Ok(MessageType::Ack));
    let unknown = Ask::new(DISCOVER, mac(4)).giaddr(Ipv4Addr::new(172, 16, 0, 1));
    assert_eq!(lan.send(unknown), Err(Ignored::NoNetwork(Ipv4Addr::new(172, 16, 0, 1))));
}

#[test]
fn a_network_is_chosen_by_the_client_only_where_that_is_wanted() {
    let mut far = Subnet::new(Ipv4Addr::new(10, 9, 0, 0), 16);
    far.ranges = vec![(Ipv4Addr::new(10, 9, 1, 0), Ipv4Addr::new(10, 9, 1, 255))];
    far.probe = false;
    for (subnet_selection, first) in [(false, 0), (true, 9)] {
        let mut lan = Lan::with(
            Settings {
                subnet_selection,
                ..Settings::default()
            },
            vec![far.clone(), subnet()],
        );
        let reply = lan.send(Ask::new(DISCOVER, mac(1)).option(118, &[10, 9, 0, 0])).unwrap();
        assert_eq!(reply.address.octets()[1], first);
        assert_eq!(parse(&lan.reply).subnet_selection(), Some(Ipv4Addr::new(10, 9, 0, 0)));
    }
}

#[test]
fn parameters_alone_are_told_without_a_lease() {
    let mut lan = Lan::new(vec![subnet()]);
    let request = Ask::new(INFORM, mac(1)).ciaddr(ip(20)).option(55, &[6]).build();
    let Ok(Outcome::Send(reply)) = lan.hand(&request, &unicast("10.0.0.20:68")) else {
        panic!("not answered")
    };
    assert_eq!((reply.kind, reply.address), (MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert_eq!(reply.destination, Destination::Unicast("10.0.0.20:68".parse().unwrap()));
    let sent = parse(&lan.reply);
    assert_eq!(
        (sent.option(51), sent.option(6)),
        (None, Some(&[10, 0, 0, 53][..])),
        "RFC 2131, 4.3.5: no lease time"
    );
    assert_eq!(lan.server.counts().bound, 0);
}

#[test]
fn machines_that_boot_are_told_what() {
    let mut lan = Lan::new(vec![subnet()]);
    lan.send(uefi(DISCOVER, mac(1))).unwrap();
    let sent = parse(&lan.reply);
    assert_eq!((sent.siaddr(), sent.file()), (SERVER, &b"bootx64.efi"[..]));
    assert_eq!(
        (sent.vendor_class(), sent.option(43)),
        (None, None),
        "the class would send EDK2 to port 4011"
    );
    lan.send(uefi_http(DISCOVER, mac(2))).unwrap();
    let sent = parse(&lan.reply);
    assert_eq!(sent.vendor_class(), Some(&b"HTTPClient"[..]));
    assert_eq!(sent.option(67), Some(&b"http://10.0.0.1:8080/l/bootx64.efi"[..]));
    lan.send(ipxe(DISCOVER, mac(3))).unwrap();
    assert_eq!(parse(&lan.reply).file(), b"http://10.0.0.1:8080/boot/ipxe");
    lan.send(raspberry_pi(DISCOVER, mac(4))).unwrap();
    let sent = parse(&lan.reply);
    assert_eq!(
        (sent.vendor_class(), sent.pxe_vendor().boot_menu.is_some()),
        (Some(&b"PXEClient"[..]), true)
    );
}

#[test]
fn changes_are_told_once_and_bring_a_new_process_up_to_date() {
    let mut lan = Lan::new(vec![subnet()]);
    lan.offer(mac(9)).unwrap();
    let (one, two) = (lan.bind(mac(1)), lan.bind(mac(2)));
    lan.renew(mac(1), one).unwrap();
    lan.hand(&Ask::new(DECLINE, mac(2)).wants(two).build(), &at_67()).unwrap();
    let changes = lan.server.take_changes();
    let told: Vec<_> = changes.iter().map(|c| (c.address, c.state, c.mac)).collect();
    assert_eq!(told, [(one, State::Bound, Some(mac(1))), (two, State::Quarantined, None)]);
    assert!(lan.server.take_changes().is_empty());
    let mut next = Lan::new(vec![subnet()]);
    for record in &changes {
        next.server.load(record, next.now);
    }
    assert_eq!(
        next.server.counts(),
        Counts {
            free: 8,
            bound: 1,
            quarantined: 1
        }
    );
    assert!(next.server.take_changes().is_empty(), "what was loaded is known");
    assert_eq!(next.renew(mac(1), one), Ok(MessageType::Ack));
    assert_eq!(next.send(Ask::new(REQUEST, mac(2)).wants(two)).unwrap().kind, MessageType::Nak);
    let mut all: Vec<_> = next.server.records().map(|r| r.address).collect();
    all.sort();
    let mut want = vec![one, two];
    want.sort();
    assert_eq!(all, want);
}

#[test]
fn leases_outlive_a_change_of_the_network() {
    let mut lan = Lan::new(vec![subnet()]);
    let kept = lan.bind(mac(1));
    let mut changed = subnet();
    changed.ranges = vec![(kept, kept), (ip(120), ip(129))];
    changed.reservations = vec![Reservation {
        who: Who::Mac(mac(2)),
        address: ip(7),
    }];
    lan.server.reconfigure(Settings::default(), vec![changed], lan.now).unwrap();
    assert_eq!(lan.server.take_changes().len(), 1, "what was not fetched yet is not lost");
    assert_eq!(lan.renew(mac(1), kept), Ok(MessageType::Ack));
    assert_eq!(lan.bind(mac(2)), ip(7));
}
