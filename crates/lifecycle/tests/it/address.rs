//! Addresses: wishes, ranges, exhaustion, names.

use std::{collections::BTreeSet, net::IpAddr};

use agent_protocol::identity::MacAddress;
use api::{
    BareMetalEndpoint, BareMetalEndpointSpec, BareMetalNetwork, BareMetalNetworkSpec,
    common::NetworkRef,
    network::{AddressPlan, AddressRange},
};
use lifecycle::address::{AddressError, Prefix, allocate, object, object_name};
use proptest::prelude::*;

fn plan(prefix: &str, ranges: &[(&str, &str)], gateway: &str) -> AddressPlan {
    AddressPlan {
        prefix: prefix.to_owned(),
        ranges: ranges
            .iter()
            .map(|(first, last)| AddressRange {
                first: (*first).to_owned(),
                last: (*last).to_owned(),
            })
            .collect(),
        gateway: Some(gateway.to_owned()),
        dns: vec![gateway.to_owned()],
        ..AddressPlan::default()
    }
}

fn network() -> BareMetalNetwork {
    BareMetalNetwork::new(
        "lan",
        BareMetalNetworkSpec {
            ipv4: Some(plan(
                "192.0.2.0/28",
                &[("192.0.2.1", "192.0.2.3"), ("192.0.2.14", "192.0.2.15")],
                "192.0.2.1",
            )),
            ipv6: Some(plan("2001:db8::/64", &[("2001:db8::10", "2001:db8::ffff")], "2001:db8::1")),
            ..BareMetalNetworkSpec::default()
        },
    )
}

fn texts(found: &[api::endpoint::EndpointAddress]) -> Vec<&str> {
    found.iter().map(|a| a.address.as_str()).collect()
}

#[test]
fn the_lowest_free_of_each_family_until_there_is_none() {
    let (network, mut taken) = (network(), BTreeSet::new());
    for expected in ["192.0.2.2", "192.0.2.3", "192.0.2.14"] {
        let found = allocate(&network, &taken, &[], &[]).unwrap();
        assert_eq!(found[0].address, expected, "gateway and broadcast are passed over");
        assert_eq!((found[0].prefix_length, found[1].prefix_length), (28, 64));
        taken.extend(found.iter().map(|a| object_name("lan", a.address.parse().unwrap())));
    }
    let fault = allocate(&network, &taken, &[], &[]).unwrap_err();
    assert_eq!(fault.reason(), "AddressesExhausted");
    assert!(
        fault.to_string().contains("192.0.2.14 to 192.0.2.15") && fault.to_string().contains("spec.ipv4.ranges"),
        "{fault}"
    );
}

#[test]
fn wishes_are_granted_or_refused_with_the_reason() {
    let (network, none) = (network(), BTreeSet::new());
    let wish = |text: &str| allocate(&network, &none, &[], &[text.to_owned()]);
    assert_eq!(texts(&wish("192.0.2.9").unwrap()), ["192.0.2.9", "2001:db8::10"]);
    assert_eq!(texts(&wish("2001:0db8::0:42").unwrap()), ["2001:db8::42", "192.0.2.2"]);
    for bad in ["192.0.2.1", "192.0.2.0", "192.0.2.15", "198.51.100.1", "nonsense"] {
        assert_eq!(wish(bad).unwrap_err().reason(), "AddressInvalid", "{bad}");
    }
    let taken = BTreeSet::from([object_name("lan", "192.0.2.9".parse().unwrap())]);
    assert!(matches!(
        allocate(&network, &taken, &[], &["192.0.2.9".to_owned()]),
        Err(AddressError::Taken { .. })
    ));
}

#[test]
fn what_was_created_before_a_crash_is_used_again() {
    let own: Vec<IpAddr> = vec!["192.0.2.3".parse().unwrap(), "2001:db8::77".parse().unwrap()];
    let found = allocate(&network(), &BTreeSet::new(), &own, &[]).unwrap();
    assert_eq!(texts(&found), ["192.0.2.3", "2001:db8::77"]);
}

#[test]
fn a_broken_network_names_its_field() {
    let mut network = network();
    network.spec.ipv4.as_mut().unwrap().ranges[0].first = "10.0.0.1".to_owned();
    let fault = allocate(&network, &BTreeSet::new(), &[], &[]).unwrap_err().to_string();
    assert!(
        fault.contains("lan") && fault.contains("ranges[].first") && fault.contains("10.0.0.1"),
        "{fault}"
    );
}

#[test]
fn the_object_names_who_has_the_address() {
    let network = network();
    let mut endpoint = BareMetalEndpoint::new(
        "web-0",
        BareMetalEndpointSpec {
            instance_name: "web".to_owned(),
            hardware_name: "m-a".to_owned(),
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            network_ref: NetworkRef::network("lan"),
            addresses: Vec::new(),
        },
    );
    endpoint.metadata.namespace = Some("default".to_owned());
    let found = allocate(&network, &BTreeSet::new(), &[], &[]).unwrap();
    let made = object(&network, &found[0], &endpoint, "uid-1").unwrap();
    assert_eq!(made.metadata.name.as_deref(), Some("lan.c0000202"));
    assert_eq!(
        (made.spec.instance.as_str(), made.spec.hardware_name.as_str()),
        ("default/web", "m-a")
    );
    let six = object(&network, &found[1], &endpoint, "uid-1").unwrap();
    assert_eq!(six.metadata.name.as_deref(), Some("lan.20010db8000000000000000000000010"));
}

proptest! {
    #[test]
    fn names_and_addresses_are_one_to_one(a: u32, b: u32, c: u128, d: u128) {
        let v4 = |n: u32| IpAddr::from(n.to_be_bytes());
        let v6 = |n: u128| IpAddr::from(n.to_be_bytes());
        prop_assert_eq!(object_name("n", v4(a)) == object_name("n", v4(b)), a == b);
        prop_assert_eq!(object_name("n", v6(c)) == object_name("n", v6(d)), c == d);
        prop_assert_ne!(object_name("n", v4(a)), object_name("n", v6(c)));
    }

    #[test]
    fn a_prefix_contains_what_shares_its_bits(base: u32, other: u32, length in 0u8..=32) {
        let text = format!("{}/{length}", std::net::Ipv4Addr::from(base));
        let prefix = Prefix::parse(&text).unwrap();
        let shares = length == 0 || base >> (32 - u32::from(length)) == other >> (32 - u32::from(length));
        prop_assert_eq!(prefix.contains(IpAddr::from(other.to_be_bytes())), shares);
    }

    #[test]
    fn nobody_gets_what_is_taken(rounds in 1usize..30) {
        let mut network = network();
        network.spec.ipv4.as_mut().unwrap().prefix = "192.0.2.0/24".to_owned();
        network.spec.ipv4.as_mut().unwrap().ranges = vec![AddressRange { first: "192.0.2.10".to_owned(), last: "192.0.2.200".to_owned() }];
        let mut taken = BTreeSet::new();
        for _ in 0..rounds {
            for address in allocate(&network, &taken, &[], &[]).unwrap() {
                prop_assert!(taken.insert(object_name("lan", address.address.parse().unwrap())));
            }
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,40}") {
        Prefix::parse(&text);
        allocate(&network(), &BTreeSet::new(), &[], &[text]).ok();
    }
}
