//! Packets of other people's, and arbitrary ones.

use std::{hint::black_box, net::Ipv4Addr};

use dhcp::v4::{
    Client,
    wire::{BootItem, Encoder, Head, MessageType, Packet, PacketError, PxeVendor, code::option},
};
use dhcproto::{Decodable, Encodable, v4 as oracle};
use proptest::prelude::*;

use crate::clients::{Ask, DISCOVER, ipxe, mac, parse};

/// Wireshark's sample capture dhcp.pcap, frame 1, from the UDP payload on. `..` is a run of zeros up to the cookie.
const WIRESHARK_DISCOVER: (&str, &str) = (
    "0101060000003d1d0000000000000000000000000000000000000000000b8201fc42",
    "63825363 350101 3d0701000b8201fc42 320400000000 370401030 62a ff 00000000000000",
);
/// The same, frame 2.
const WIRESHARK_OFFER: (&str, &str) = (
    "0201060000003d1d0000000000000000c0a8000ac0a8000100000000000b8201fc42",
    "63825363 350102 0104ffffff00 3a0400000708 3b0400000c4e 330400000e10 3604c0a80001 ff 0000",
);

fn bytes((head, tail): (&str, &str)) -> Vec<u8> {
    let text = |t: &str| hex::decode(t.replace(' ', "")).unwrap();
    let mut bytes = text(head);
    bytes.resize(236, 0);
    bytes.extend(text(tail));
    bytes
}

#[test]
fn a_discover_of_the_wild() {
    let bytes = bytes(WIRESHARK_DISCOVER);
    let packet = parse(&bytes);
    assert!(packet.is_request() && !packet.wants_broadcast());
    assert_eq!(packet.message_type(), Some(MessageType::Discover));
    assert_eq!(packet.xid(), 0x3d1d);
    assert_eq!(packet.mac(), Some([0, 0x0b, 0x82, 1, 0xfc, 0x42]));
    assert_eq!(packet.client_id(), Some(&[1, 0, 0x0b, 0x82, 1, 0xfc, 0x42][..]));
    assert_eq!(packet.parameter_list(), [1, 3, 6, 42]);
    assert_eq!(Client::of(&packet).firmware, None);
}

#[test]
fn an_offer_of_the_wild_can_be_written() {
    let (discover, offer) = (bytes(WIRESHARK_DISCOVER), bytes(WIRESHARK_OFFER));
    let request = parse(&discover);
    let head = Head {
        yiaddr: [192, 168, 0, 10].into(),
        siaddr: [192, 168, 0, 1].into(),
        ..Head::default()
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::reply(&request, &head, MessageType::Offer, &mut out);
    assert!(encoder.put(option::SUBNET_MASK, &[255, 255, 255, 0]));
    assert!(encoder.put(option::RENEWAL, &1800u32.to_be_bytes()));
    assert!(encoder.put(option::REBINDING, &3150u32.to_be_bytes()));
    assert!(encoder.put(option::LEASE_TIME, &3600u32.to_be_bytes()));
    assert!(encoder.put(option::SERVER_ID, &[192, 168, 0, 1]));
    encoder.finish(&request);
    assert_eq!(out[..offer.len()], offer, "byte by byte");
    assert!(out[offer.len()..].iter().all(|b| *b == 0));
    assert_eq!(out.len(), 300);
}

#[test]
fn what_is_no_packet_is_refused() {
    assert_eq!(Packet::parse(&[1; 239]).unwrap_err(), PacketError::Short(239));
    assert_eq!(Packet::parse(&[1; 300]).unwrap_err(), PacketError::Cookie);
    assert_eq!(Packet::parse(&[1; 9001]).unwrap_err(), PacketError::Long(9001));
    assert_eq!(
        PacketError::Short(239).to_string(),
        "239 bytes are fewer than the 240 of a DHCP header"
    );
}

#[test]
fn an_option_that_comes_in_pieces_is_one() {
    // RFC 3396, 7: the pieces are put together in the order in which they come.
    let long = [7; 255];
    let request = Ask::new(DISCOVER, mac(1))
        .option(57, &[5, 0xdc])
        .option(43, &long)
        .option(60, b"PXEClient")
        .option(43, b"end")
        .build();
    let packet = parse(&request);
    let value = packet.option(43).unwrap();
    assert_eq!((value.len(), &value[255..]), (258, &b"end"[..]));
    assert_eq!(packet.vendor_class(), Some(&b"PXEClient"[..]));
    // And is written in pieces.
    let mut out = Vec::new();
    let mut encoder = Encoder::reply(&packet, &Head::default(), MessageType::Offer, &mut out);
    assert!(encoder.put(224, &[9; 300]));
    encoder.finish(&packet);
    assert_eq!(parse(&out).option(224), Some(&[9; 300][..]));
}

#[test]
fn fields_that_hold_options_are_read_after_the_options_file_first() {
    let mut request = Ask::new(DISCOVER, mac(1)).option(52, &[3]).option(43, b"a").build();
    request[44..54].copy_from_slice(&[43, 1, b'c', 12, 1, b'h', 52, 1, 0, 255]);
    request[108..113].copy_from_slice(&[43, 1, b'b', 255, 1]);
    let packet = parse(&request);
    assert_eq!(packet.option(43), Some(&b"abc"[..]));
    assert_eq!(packet.option(12), Some(&b"h"[..]));
    assert_eq!(
        (packet.file(), packet.server_name()),
        (&b""[..], &b""[..]),
        "there is no text in them"
    );
}

#[test]
fn what_does_not_fit_goes_into_free_fields_and_then_nowhere() {
    let request = Ask::new(DISCOVER, mac(1))
        .option(57, &[2, 64])
        .option(82, &[1, 4, 9, 9, 9, 9])
        .build();
    let request = parse(&request);
    let mut out = Vec::new();
    let mut encoder = Encoder::reply(&request, &Head::default(), MessageType::Ack, &mut out);
    let placed: Vec<u8> = (150..200).filter(|code| encoder.put(*code, &[*code; 30])).collect();
    encoder.finish(&request);
    assert!(out.len() <= 576 - 28, "{}", out.len());
    let reply = parse(&out);
    assert_eq!(
        reply.options().filter(|(c, _)| *c >= 150).map(|(c, _)| c).collect::<Vec<_>>(),
        placed
    );
    assert!(placed.iter().all(|code| reply.option(*code) == Some(&[*code; 30][..])));
    assert_eq!(reply.option(52), Some(&[3][..]));
    assert_eq!(reply.relay().map(|r| r.value()), Some(&[1, 4, 9, 9, 9, 9][..]));
    assert_eq!(out[out.len() - 9..], [82, 6, 1, 4, 9, 9, 9, 9, 255], "option 82 is the last one");
    // 3 + 8 + 3 + 1 bytes are taken: 293 remain of 308; 3 options fit into `file`, one into `sname`.
    assert_eq!(placed.len(), 9 + 3 + 1);
}

#[test]
fn relay_agents_talk_in_suboptions() {
    // RFC 3046, 2.0; RFC 3527, 3; RFC 5107, 4.
    let value = [1, 2, 0xaa, 0xbb, 2, 1, 0xcc, 5, 4, 10, 1, 0, 0, 11, 4, 10, 9, 9, 9, 151, 9, 1];
    let request = Ask::new(DISCOVER, mac(1)).option(82, &value).build();
    let packet = parse(&request);
    let relay = packet.relay().unwrap();
    assert_eq!(relay.circuit_id(), Some(&[0xaa, 0xbb][..]));
    assert_eq!(relay.remote_id(), Some(&[0xcc][..]));
    assert_eq!(relay.link_selection(), Some(Ipv4Addr::new(10, 1, 0, 0)));
    assert_eq!(relay.server_id_override(), Some(Ipv4Addr::new(10, 9, 9, 9)));
    assert_eq!(relay.value(), value, "with what is cut off in it");
}

#[test]
fn user_classes_come_in_two_forms() {
    let classes = |value: &[u8]| {
        let request = Ask::new(DISCOVER, mac(1)).option(77, value).build();
        parse(&request).user_classes().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(classes(b"iPXE"), [b"iPXE".to_vec()]);
    assert_eq!(classes(b"\x04iPXE\x02ab"), [b"iPXE".to_vec(), b"ab".to_vec()]);
    assert_eq!(classes(b"\x05iPXE"), [b"\x05iPXE".to_vec()]);
    assert!(classes(b"").is_empty());
}

#[test]
fn pxe_vendor_options_are_read_and_written() {
    // PXE 2.1, table 2-1: control 3 (no broadcast, no multicast), one server of type 0x8000, menu, prompt, item.
    let value =
        hex::decode("060103 0704e0000001 0807800001c0a80001 0906800003424f54 0a0300 4765 470480000001 ff".replace(' ', "")).unwrap();
    let vendor = PxeVendor::parse(&value);
    assert_eq!(vendor.discovery_control, Some(3));
    assert_eq!(vendor.discovery_multicast, Some(Ipv4Addr::new(224, 0, 0, 1)));
    assert_eq!(vendor.boot_item, Some(BootItem { kind: 0x8000, layer: 1 }));
    assert_eq!(vendor.menu_prompt, Some(&[0, b'G', b'e'][..]));
    let mut out = Vec::new();
    vendor.write(&mut out);
    assert_eq!(out, value);
}

#[test]
fn ipxe_says_what_it_can() {
    let request = ipxe(DISCOVER, mac(1)).build();
    assert_eq!(parse(&request).ipxe_has_http(), Some(true));
    let request = Ask::new(DISCOVER, mac(1)).option(175, &[0x11, 1, 1]).build();
    assert_eq!(parse(&request).ipxe_has_http(), Some(false));
    let request = Ask::new(DISCOVER, mac(1)).build();
    assert_eq!(parse(&request).ipxe_has_http(), None);
}

#[test]
fn the_boot_file_is_followed_by_a_nul_that_is_not_part_of_it() {
    let request = Ask::new(DISCOVER, mac(1)).build();
    let request = parse(&request);
    let url = format!("http://10.0.0.1/{}", "x".repeat(150));
    for (name, header) in [("bootx64.efi", true), (url.as_str(), false)] {
        let mut out = Vec::new();
        let mut encoder = Encoder::reply(&request, &Head::default(), MessageType::Offer, &mut out);
        assert!(encoder.boot_file(name.as_bytes(), true));
        encoder.put(12, b"host");
        encoder.finish(&request);
        let reply = parse(&out);
        assert_eq!(reply.option(67), Some(name.as_bytes()));
        assert_eq!(reply.file(), if header { name.as_bytes() } else { b"" });
        assert_eq!(reply.option(12), Some(&b"host"[..]));
        let at = out.windows(name.len()).rposition(|w| w == name.as_bytes()).unwrap();
        assert_eq!(out[at + name.len()], 0);
    }
}

/// Options that mean the same to dhcproto as to us: each code once, for site-specific use.
fn options(shortest: usize) -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    prop::collection::btree_map(224u8..244, prop::collection::vec(any::<u8>(), shortest..40), 0..8).prop_map(|m| m.into_iter().collect())
}

proptest! {
    #[test]
    fn any_bytes_are_read(mut bytes in prop::collection::vec(any::<u8>(), 0..700), cookie: bool, overload in 0u8..5) {
        if cookie && bytes.len() > 243 {
            bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
            bytes[240..243].copy_from_slice(&[52, 1, overload]);
        }
        let Ok(packet) = Packet::parse(&bytes) else { return Ok(()) };
        let client = Client::of(&packet);
        prop_assert_eq!(client.mac, packet.mac());
        let total: usize = packet.options().map(|(_, v)| v.len()).sum();
        prop_assert!(total <= bytes.len());
        // Whatever they say of such bytes, none of them panics.
        black_box((packet.message_type(), packet.requested_address(), packet.lease_time(), packet.server_id(), packet.max_size(), packet.subnet_selection()));
        black_box((packet.architectures().count(), packet.machine_id(), packet.user_classes().count(), packet.pxe_vendor(), packet.ipxe_has_http()));
        black_box((packet.file(), packet.server_name(), packet.seconds(), packet.hardware_address(), packet.is_truncated()));
        black_box(packet.relay().map(|r| (r.circuit_id(), r.remote_id(), r.link_selection(), r.server_id_override())));
        // A reply to anything can be written, and read.
        let mut out = Vec::new();
        let mut encoder = Encoder::reply(&packet, &Head::default(), MessageType::Nak, &mut out);
        encoder.boot_file(&[b'x'; 40], true);
        encoder.finish(&packet);
        let reply = Packet::parse(&out).unwrap();
        prop_assert_eq!(reply.message_type(), Some(MessageType::Nak));
        prop_assert_eq!(reply.xid(), packet.xid());
        if let (Some(echo), Some(relay)) = (reply.relay(), packet.relay()) {
            prop_assert_eq!(echo.value(), relay.value());
        }
    }

    #[test]
    fn what_dhcproto_writes_we_read(options in options(1), xid: u32, ciaddr: [u8; 4], secs in 0u16..255) {
        let mut message = oracle::Message::default();
        message.set_opcode(oracle::Opcode::BootRequest).set_xid(xid).set_secs(secs).set_ciaddr(ciaddr).set_chaddr(&mac(7));
        message.opts_mut().insert(oracle::DhcpOption::MessageType(oracle::MessageType::Request));
        for (code, value) in &options {
            message.opts_mut().insert(oracle::DhcpOption::Unknown(oracle::UnknownOption::new((*code).into(), value.clone())));
        }
        let bytes = message.to_vec().unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        prop_assert_eq!((packet.xid(), packet.ciaddr(), packet.seconds()), (xid, ciaddr.into(), secs));
        prop_assert_eq!(packet.message_type(), Some(MessageType::Request));
        prop_assert_eq!(packet.mac(), Some(mac(7)));
        for (code, value) in &options {
            prop_assert_eq!(packet.option(*code), Some(value.as_slice()));
        }
    }

    #[test]
    fn what_we_write_dhcproto_reads(options in options(0), yiaddr: [u8; 4], relay in prop::collection::vec(any::<u8>(), 0..20), size in 576u16..1500) {
        let relay = [&[151, relay.len() as u8][..], &relay].concat();
        let request = Ask::new(DISCOVER, mac(3)).option(57, &size.to_be_bytes()).option(82, &relay).build();
        let request = Packet::parse(&request).unwrap();
        let head = Head { yiaddr: yiaddr.into(), ..Head::default() };
        let mut out = Vec::new();
        let mut encoder = Encoder::reply(&request, &head, MessageType::Offer, &mut out);
        let mut placed = Vec::new();
        for (code, value) in &options {
            if encoder.put(*code, value) {
                placed.push((*code, value));
            }
        }
        encoder.finish(&request);
        prop_assert!(out.len() <= usize::from(size) - 28);
        let ours = Packet::parse(&out).unwrap();
        for (code, value) in &placed {
            prop_assert_eq!(ours.option(*code), Some(value.as_slice()));
        }
        let theirs = oracle::Message::decode(&mut dhcproto::Decoder::new(&out)).unwrap();
        prop_assert_eq!(theirs.yiaddr(), Ipv4Addr::from(yiaddr));
        prop_assert_eq!(theirs.opts().msg_type(), Some(oracle::MessageType::Offer));
        // dhcproto does not read overloaded fields.
        if ours.option(52).is_none() {
            for (code, value) in placed {
                let Some(oracle::DhcpOption::Unknown(unknown)) = theirs.opts().get(code.into()) else {
                    return Err(TestCaseError::fail(format!("dhcproto does not see option {code}")));
                };
                prop_assert_eq!(unknown.data(), value.as_slice());
            }
        }
    }
}
