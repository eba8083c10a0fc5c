//! ProxyDHCP, and what each firmware makes of it.

use std::net::Ipv4Addr;

use dhcp::{
    arch::{Boot, BootTable, Firmware, Loaders, Tables},
    v4::{
        Arrival, Client, Destination, Ignored,
        proxy::{self, Buffers, Policy, Reply, Site, UefiStyle},
        wire::{MessageType, Packet},
    },
};
use proptest::prelude::*;

use crate::clients::{
    Ask, DISCOVER, INFORM, RELEASE, REQUEST, SERVER, at_67, at_4011, bios, ipxe, mac, parse, raspberry_pi, uefi, uefi_http,
};

const TFTP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const SCRIPT: &str = "http://10.0.0.2:8080/boot/ipxe";

fn table() -> BootTable {
    BootTable::built_in(Loaders::Ipxe, "http://10.0.0.2:8080/boot/loaders", SCRIPT).unwrap()
}

fn site(table: &BootTable) -> Site<'_> {
    Site {
        tftp: TFTP,
        tables: Tables {
            hardware: None,
            network: None,
            built_in: table,
        },
        uefi: UefiStyle::AskAgain,
        policy: Policy::Answer,
    }
}

fn ask(request: &[u8], arrival: &Arrival, site: &Site<'_>) -> Result<(Reply, Vec<u8>), Ignored> {
    let packet = parse(request);
    let mut buffers = Buffers::default();
    let reply = proxy::answer(&packet, &Client::of(&packet), arrival, site, &mut buffers)?;
    assert_eq!(parse(&buffers.reply).yiaddr(), Ipv4Addr::UNSPECIFIED, "never an address");
    assert_eq!(parse(&buffers.reply).message_type(), Some(reply.kind));
    Ok((reply, buffers.reply))
}

#[test]
fn bios_is_told_everything_in_the_offer() {
    let table = table();
    let (reply, bytes) = ask(&bios(DISCOVER, mac(1)).build(), &at_67(), &site(&table)).unwrap();
    assert_eq!(
        (reply.kind, reply.destination),
        (MessageType::Offer, Destination::Broadcast(68)),
        "it has no address yet"
    );
    let offer = parse(&bytes);
    assert_eq!((offer.siaddr(), offer.file()), (TFTP, &b"undionly.kpxe"[..]));
    assert_eq!(offer.server_id(), Some(SERVER));
    assert_eq!(offer.vendor_class(), Some(&b"PXEClient"[..]));
    assert_eq!(
        offer.option(43),
        Some(&[6, 1, 8, 255][..]),
        "PXE 2.1, table 2-1: no discovery, load this file"
    );
    assert_eq!(offer.option(97), Some(&[0; 17][..]));
    assert_eq!(offer.option(66), Some(&b"10.0.0.2"[..]));
    assert_eq!(offer.option(67), Some(&b"undionly.kpxe"[..]));
}

#[test]
fn uefi_asks_again_on_port_4011() {
    let table = table();
    let (reply, bytes) = ask(&uefi(DISCOVER, mac(1)).build(), &at_67(), &site(&table)).unwrap();
    let offer = parse(&bytes);
    assert_eq!(reply.kind, MessageType::Offer);
    // Some releases of EDK2 drop the first offer with discovery suboptions; all follow one with the class alone to the server in siaddr.
    assert_eq!((offer.option(43), offer.option(67), offer.file()), (None, None, &b""[..]));
    assert_eq!((offer.siaddr(), offer.vendor_class()), (SERVER, Some(&b"PXEClient"[..])));

    let client = Ipv4Addr::new(10, 0, 0, 77);
    let request = uefi(REQUEST, mac(1)).ciaddr(client).build();
    let (reply, bytes) = ask(&request, &at_4011("10.0.0.77:4011"), &site(&table)).unwrap();
    assert_eq!(reply.kind, MessageType::Ack);
    assert_eq!(
        reply.destination,
        Destination::Unicast("10.0.0.77:4011".parse().unwrap()),
        "where it listens"
    );
    let ack = parse(&bytes);
    assert_eq!((ack.siaddr(), ack.ciaddr()), (TFTP, client));
    assert_eq!((ack.file(), ack.option(67)), (&b"ipxe-x64.efi"[..], Some(&b"ipxe-x64.efi"[..])));
    assert_eq!(ack.option(43), None);
    // EDK2 names the server that it has its address from.
    let request = uefi(REQUEST, mac(1)).ciaddr(client).server([10, 0, 0, 254].into()).build();
    ask(&request, &at_4011("10.0.0.77:68"), &site(&table)).unwrap();
}

#[test]
fn new_uefi_can_be_told_at_once() {
    let table = table();
    let site = Site {
        uefi: UefiStyle::Direct,
        ..site(&table)
    };
    let (_, bytes) = ask(&uefi(DISCOVER, mac(1)).build(), &at_67(), &site).unwrap();
    let offer = parse(&bytes);
    assert_eq!(
        (offer.siaddr(), offer.file(), offer.option(43)),
        (TFTP, &b"ipxe-x64.efi"[..], Some(&[6, 1, 8, 255][..]))
    );
}

#[test]
fn http_boot_gets_its_url_in_the_offer() {
    let table = table();
    let (_, bytes) = ask(&uefi_http(DISCOVER, mac(1)).build(), &at_67(), &site(&table)).unwrap();
    let offer = parse(&bytes);
    assert_eq!(offer.vendor_class(), Some(&b"HTTPClient"[..]));
    assert_eq!(offer.option(67), Some(&b"http://10.0.0.2:8080/boot/loaders/ipxe-x64.efi"[..]));
    assert_eq!(offer.option(43), None);
}

#[test]
fn ipxe_gets_the_script_and_never_a_loader() {
    let table = table();
    for (port, arrival) in [(67, at_67()), (4011, at_4011("10.0.0.77:68"))] {
        let kind = if port == 67 { DISCOVER } else { REQUEST };
        let (_, bytes) = ask(&ipxe(kind, mac(1)).build(), &arrival, &site(&table)).unwrap();
        assert_eq!(parse(&bytes).file(), SCRIPT.as_bytes());
    }
    // iPXE built for UEFI, of which only the user class in the form of RFC 3004 tells.
    let request = uefi(DISCOVER, mac(1)).option(77, b"\x04iPXE").build();
    let (_, bytes) = ask(&request, &at_67(), &site(&table)).unwrap();
    assert_eq!(parse(&bytes).option(67), Some(SCRIPT.as_bytes()));
}

#[test]
fn a_raspberry_pi_finds_its_menu() {
    let table = table();
    let oui = [0xdc, 0xa6, 0x32, 1, 2, 3];
    for request in [raspberry_pi(DISCOVER, mac(1)), bios(DISCOVER, oui)] {
        let (_, bytes) = ask(&request.build(), &at_67(), &site(&table)).unwrap();
        let offer = parse(&bytes);
        let vendor = offer.pxe_vendor();
        assert_eq!(vendor.boot_menu, Some(&b"\0\0\x11Raspberry Pi Boot"[..]));
        assert_eq!(vendor.boot_servers, Some(&[0, 0, 1, 10, 0, 0, 2][..]));
        assert_eq!(offer.option(66), Some(&b"10.0.0.2"[..]));
        assert_eq!((offer.siaddr(), offer.file()), (TFTP, &b""[..]));
    }
}

#[test]
fn boot_server_discovery_is_answered_with_its_item() {
    let table = table();
    // PXE 2.1, table 2-3: suboption 71, type and layer.
    let request = bios(REQUEST, mac(1))
        .ciaddr([10, 0, 0, 9].into())
        .option(43, &[71, 4, 0, 0, 0, 0, 255])
        .build();
    let (reply, bytes) = ask(&request, &at_67(), &site(&table)).unwrap();
    assert_eq!(reply.kind, MessageType::Ack);
    assert_eq!(reply.destination, Destination::Unicast("10.0.0.9:68".parse().unwrap()));
    assert_eq!(parse(&bytes).option(43), Some(&[71, 4, 0, 0, 0, 0, 255][..]));
    assert_eq!(parse(&bytes).file(), b"undionly.kpxe");
}

#[test]
fn what_is_none_of_a_proxys_business_is_left_alone() {
    let table = table();
    let site = site(&table);
    let other = Ipv4Addr::new(10, 0, 0, 254);
    let refused = |request: Ask, arrival: Arrival| ask(&request.build(), &arrival, &site).unwrap_err();
    assert_eq!(refused(bios(REQUEST, mac(1)).server(other), at_67()), Ignored::OtherServer);
    assert_eq!(
        refused(bios(REQUEST, mac(1)), at_67()),
        Ignored::OtherServer,
        "a client that was here before"
    );
    assert_eq!(refused(bios(RELEASE, mac(1)), at_67()), Ignored::NotForUs);
    assert_eq!(refused(bios(INFORM, mac(1)), at_67()), Ignored::NotForUs);
    assert_eq!(refused(bios(DISCOVER, mac(1)), at_4011("10.0.0.9:68")), Ignored::NotForUs);
    assert_eq!(refused(Ask::new(DISCOVER, mac(1)), at_67()), Ignored::DoesNotBoot);
    let itanium = Ask::new(DISCOVER, mac(1))
        .option(93, &[0, 2])
        .option(60, b"PXEClient:Arch:00002:UNDI:003001");
    assert_eq!(refused(itanium, at_67()), Ignored::NothingToBoot(Firmware::Other(2)));
    let mut reply = bios(DISCOVER, mac(1)).build();
    reply[0] = 2;
    assert_eq!(ask(&reply, &at_67(), &site).unwrap_err(), Ignored::NotARequest);
    let ignoring = Site {
        policy: Policy::Ignore,
        ..site
    };
    assert_eq!(
        ask(&bios(DISCOVER, mac(1)).build(), &at_67(), &ignoring).unwrap_err(),
        Ignored::Policy
    );
}

#[test]
fn through_a_relay_agent_and_with_its_option() {
    let table = table();
    let relay = Ipv4Addr::new(10, 9, 0, 1);
    let request = bios(DISCOVER, mac(1)).giaddr(relay).option(82, &[1, 2, 3, 4, 2, 1, 5]).build();
    let (reply, bytes) = ask(&request, &at_67(), &site(&table)).unwrap();
    assert_eq!(reply.destination, Destination::Unicast("10.9.0.1:67".parse().unwrap()));
    let offer = parse(&bytes);
    assert_eq!(offer.giaddr(), relay);
    assert_eq!(offer.relay().unwrap().value(), [1, 2, 3, 4, 2, 1, 5]);
}

#[test]
fn one_machine_may_be_given_something_else() {
    let table = table();
    let mut own = BootTable::default();
    own.set(Firmware::UefiX64, Boot::Tftp("bootx64.efi".into())).unwrap();
    let site = Site {
        tables: Tables {
            hardware: Some(&own),
            network: None,
            built_in: &table,
        },
        ..site(&table)
    };
    let (_, bytes) = ask(&uefi(REQUEST, mac(1)).build(), &at_4011("10.0.0.77:68"), &site).unwrap();
    assert_eq!(parse(&bytes).file(), b"bootx64.efi");

    // A loader of somebody else's: it is still we who are asked at port 4011, and he who sends the file.
    let (elsewhere, mut network) = (Ipv4Addr::new(192, 0, 2, 5), BootTable::default());
    network
        .set(Firmware::UefiX64, Boot::TftpFrom(elsewhere, "a/theirs.efi".into()))
        .unwrap();
    let site = Site {
        tables: Tables {
            hardware: None,
            network: Some(&network),
            built_in: &table,
        },
        ..site
    };
    let (_, bytes) = ask(&uefi(DISCOVER, mac(1)).build(), &at_67(), &site).unwrap();
    assert_ne!(parse(&bytes).siaddr(), elsewhere);
    let (_, bytes) = ask(&uefi(REQUEST, mac(1)).build(), &at_4011("10.0.0.77:68"), &site).unwrap();
    let told = parse(&bytes);
    assert_eq!((told.siaddr(), told.file()), (elsewhere, &b"a/theirs.efi"[..]));
    assert_ne!(told.server_id(), Some(elsewhere));
}

proptest! {
    #[test]
    fn nothing_of_a_strangers_gets_into_what_is_booted(
        class in "(PXEClient|HTTPClient)?(:Arch:[0-9]{0,6})?\\PC{0,20}", arch: [u8; 2], user in prop::collection::vec(any::<u8>(), 0..12), id in prop::collection::vec(any::<u8>(), 0..20),
        vendor in prop::collection::vec(any::<u8>(), 0..30), kind in 0u8..9, port in prop::sample::select(vec![67, 4011]), giaddr: [u8; 4],
    ) {
        let request = Ask::new(kind, mac(5))
            .giaddr(giaddr.into())
            .option(60, &class.as_bytes()[..class.len().min(255)])
            .option(93, &arch)
            .option(77, &user)
            .option(97, &id)
            .option(43, &vendor)
            .build();
        let packet = Packet::parse(&request).unwrap();
        let table = table();
        let arrival = if port == 67 { at_67() } else { at_4011("10.0.0.3:68") };
        let mut buffers = Buffers::default();
        if proxy::answer(&packet, &Client::of(&packet), &arrival, &site(&table), &mut buffers).is_ok() {
            let reply = parse(&buffers.reply);
            prop_assert_eq!(reply.yiaddr(), Ipv4Addr::UNSPECIFIED);
            let known = ["", "undionly.kpxe", "ipxe-x64.efi", "ipxe-ia32.efi", "ipxe-arm64.efi", SCRIPT];
            let text = std::str::from_utf8(reply.file()).unwrap();
            prop_assert!(known.contains(&text) || text.starts_with("http://10.0.0.2:8080/boot/loaders/"), "{text}");
        }
    }
}
