//! The config drive's files.

use agent_protocol::{
    guest::GuestConfig,
    identity::MacAddress,
    link::{Bond, BondMode, LacpRate},
};
use api::endpoint::EndpointAddress;
use lifecycle::seed::{GUEST_CONFIG_PATH, NetworkSeed, RenderError, SeedFacts, hostname, render};
use serde_json::Value;

use crate::world::instance;

fn guest() -> GuestConfig {
    GuestConfig {
        servers: vec!["https://192.0.2.1:7443".to_owned()],
        ca: "ab".repeat(32),
        instance_uid: "uid-1".to_owned(),
        token: "kbm1.x.y".to_owned(),
        order_key: "a2V5".to_owned(),
    }
}

const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0, 0, 1]);

fn address(text: &str, prefix_length: u8, gateway: &str) -> EndpointAddress {
    EndpointAddress {
        address: text.to_owned(),
        prefix_length,
        gateway: Some(gateway.to_owned()),
        dns: vec!["9.9.9.9".to_owned()],
    }
}

fn json(seed: &agent_protocol::seed::Seed, path: &str) -> Value {
    serde_json::from_str(&seed.files[path]).unwrap()
}

#[test]
fn meta_data_names_the_instance_and_its_keys() {
    let mut web = instance("web.example", "uid-1");
    web.spec.ssh_keys = vec!["ssh-ed25519 AAAA a@b".to_owned()];
    let guest = guest();
    let facts = SeedFacts {
        instance: &web,
        user_data: Some("#cloud-config\nruncmd: [\"echo ${x}\"]\n"),
        networks: &[],
        boot_mac: MAC,
        bond: None,
        guest: Some(&guest),
    };
    let seed = render(&facts).unwrap();
    let meta = json(&seed, "openstack/latest/meta_data.json");
    assert_eq!(meta["uuid"], "uid-1");
    assert_eq!(meta["hostname"], "web");
    assert_eq!(meta["public_keys"]["key-0"], "ssh-ed25519 AAAA a@b");
    assert_eq!(
        seed.files["openstack/latest/user_data"], "#cloud-config\nruncmd: [\"echo ${x}\"]\n",
        "handed over as it is"
    );
    assert_eq!(json(&seed, GUEST_CONFIG_PATH)["token"], "kbm1.x.y");
    assert!(seed.guest_helper);
    // By DHCP on the NIC it booted from.
    let network = json(&seed, "openstack/latest/network_data.json");
    assert_eq!(network["links"][0]["ethernet_mac_address"], "52:54:00:00:00:01");
    assert_eq!(network["networks"][0]["type"], "ipv4_dhcp");
}

#[test]
fn vendor_data_is_one_fixed_script_whatever_the_tenant_says() {
    let guest = guest();
    let vendor = |name: &str, user_data: Option<&str>| {
        let mut web = instance(name, "uid-1");
        web.spec.hostname = Some("evil".to_owned());
        web.spec.ssh_keys = vec!["ssh-ed25519 $(reboot) `id`".to_owned()];
        let facts = SeedFacts {
            instance: &web,
            user_data,
            networks: &[],
            boot_mac: MAC,
            bond: None,
            guest: Some(&guest),
        };
        let seed = render(&facts).unwrap();
        json(&seed, "openstack/latest/vendor_data.json")["cloud-init"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let part = vendor("web", None);
    assert_eq!(part, vendor("x", Some("#!/bin/sh\nrm -rf /")));
    assert!(part.starts_with("Content-Type: multipart/mixed;"));
    assert!(part.contains("Content-Type: text/x-shellscript") && part.contains("\n#!/bin/sh\n"));
    assert!(part.is_ascii(), "7bit, as its header says");
    for needed in [
        "LABEL=config-2",
        "chmod 0600 /etc/kube-baremetal/guest.json",
        "guest-helper guest",
        "kube-baremetal-guest.service",
    ] {
        assert!(part.contains(needed), "{needed}");
    }
}

#[test]
fn the_script_is_a_valid_shell_script() {
    let script = include_str!("../../src/guest-install.sh");
    let mut shell = std::process::Command::new("sh")
        .args(["-n", "-c", script])
        .spawn()
        .expect("a POSIX shell is part of every test machine");
    assert!(shell.wait().unwrap().success());
}

#[test]
fn without_the_helper_nothing_of_it_is_on_the_drive() {
    let mut web = instance("web", "uid-1");
    web.spec.guest_helper = false;
    let guest = guest();
    let seed = render(&SeedFacts {
        instance: &web,
        user_data: None,
        networks: &[],
        boot_mac: MAC,
        bond: None,
        guest: Some(&guest),
    })
    .unwrap();
    let paths: Vec<_> = seed.files.keys().map(String::as_str).collect();
    assert_eq!(paths, ["openstack/latest/meta_data.json", "openstack/latest/network_data.json"]);
    assert!(!seed.guest_helper);
}

#[test]
fn the_bond_that_the_agent_came_over_carries_the_networks_of_its_nics() {
    let web = instance("web", "uid-1");
    let mac = |n| MacAddress([0x52, 0x54, 0, 0, 0, n]);
    let network = |n, vlan| NetworkSeed {
        mac: mac(n),
        addresses: Vec::new(),
        mtu: Some(9000),
        vlan,
    };
    let bond = Bond {
        mode: BondMode::Lacp,
        members: vec![MAC, mac(2)],
        lacp_rate: Some(LacpRate::Fast),
        transmit_hash: None,
    };
    let networks = [network(1, Some(42)), network(2, Some(43)), network(3, None)];
    let links_with = |networks: &[NetworkSeed]| {
        let facts = SeedFacts {
            instance: &web,
            user_data: None,
            networks,
            boot_mac: MAC,
            bond: Some(&bond),
            guest: None,
        };
        let data = json(&render(&facts).unwrap(), "openstack/latest/network_data.json");
        (data["links"].as_array().unwrap().clone(), data["networks"][0]["link"].clone())
    };
    let (links, first) = links_with(&networks);
    let ids: Vec<_> = links.iter().map(|l| l["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["bond0-nic0", "bond0-nic1", "bond0", "bond0.42", "bond0.43", "nic2"]);
    let whole = &links[2];
    assert_eq!(
        (&whole["bond_links"][1], &whole["bond_mode"], &whole["bond_lacp_rate"]),
        (&ids[1].into(), &"802.3ad".into(), &"fast".into())
    );
    assert_eq!((&links[3]["vlan_link"], first), (&"bond0".into(), "bond0.42".into()));
    let (links, first) = links_with(&[]);
    assert_eq!((links.len(), first), (3, "bond0".into()), "DHCP over the bond");
}

#[test]
fn static_addresses_vlans_mtu_and_dns_are_described() {
    let web = instance("web", "uid-1");
    let networks = [
        NetworkSeed {
            mac: MAC,
            addresses: vec![address("192.0.2.9", 20, "192.0.2.1"), address("2001:db8::9", 64, "fe80::1")],
            mtu: Some(9000),
            vlan: Some(7),
        },
        NetworkSeed {
            mac: MacAddress([0x52, 0x54, 0, 0, 0, 2]),
            addresses: Vec::new(),
            mtu: None,
            vlan: None,
        },
    ];
    let facts = SeedFacts {
        instance: &web,
        user_data: None,
        networks: &networks,
        boot_mac: MAC,
        bond: None,
        guest: None,
    };
    let data = json(&render(&facts).unwrap(), "openstack/latest/network_data.json");
    let links = data["links"].as_array().unwrap();
    assert_eq!(links.len(), 3);
    assert_eq!((&links[0]["type"], &links[0]["mtu"]), (&"phy".into(), &9000.into()));
    assert_eq!(
        (&links[1]["type"], &links[1]["vlan_link"], &links[1]["vlan_id"]),
        (&"vlan".into(), &links[0]["id"], &7.into())
    );
    let four = &data["networks"][0];
    assert_eq!((&four["type"], &four["link"]), (&"ipv4".into(), &links[1]["id"]));
    assert_eq!(
        (&four["ip_address"], &four["netmask"]),
        (&"192.0.2.9".into(), &"255.255.240.0".into())
    );
    assert_eq!(four["routes"][0]["gateway"], "192.0.2.1");
    let six = &data["networks"][1];
    assert_eq!(
        (&six["type"], &six["netmask"], &six["routes"][0]["network"]),
        (&"ipv6".into(), &"64".into(), &"::".into())
    );
    assert_eq!(data["networks"][2]["type"], "ipv4_dhcp");
    assert_eq!(data["services"].as_array().unwrap().len(), 1, "one name server, named once");
}

#[test]
fn what_cannot_be_rendered_is_named() {
    let web = instance("web", "uid-1");
    let networks = [NetworkSeed {
        mac: MAC,
        addresses: vec![address("nonsense", 24, "192.0.2.1")],
        mtu: None,
        vlan: None,
    }];
    let facts = SeedFacts {
        instance: &web,
        user_data: None,
        networks: &networks,
        boot_mac: MAC,
        bond: None,
        guest: None,
    };
    assert_eq!(render(&facts), Err(RenderError::BadAddress("nonsense".to_owned())));
    let mut never_stored = web.clone();
    never_stored.metadata.uid = None;
    let facts = SeedFacts {
        instance: &never_stored,
        networks: &[],
        ..facts
    };
    assert_eq!(render(&facts).unwrap_err(), RenderError::NoUid);
    assert_eq!(hostname(&instance("-a.b", "u")), "a");
}
