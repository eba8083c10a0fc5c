//! How fast the engines are alone, on one thread, without sockets: `cargo run --release -p dhcp --example dhcp_speed`.
//!
//! A four-way exchange is two packets parsed, decided about and answered. Clients come in an order that no cache likes. Each figure is the best and the
//! median of several rounds.

use std::{
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use dhcp::{
    Time,
    arch::{BootTable, Loaders, Tables},
    v4::{
        Arrival, Client,
        proxy::{self, Buffers, Policy, Site, UefiStyle},
        server::{BootSite, Options, Outcome, Reservation, Server, Settings, Subnet, Who},
        wire::{MessageType, Packet},
    },
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const CLIENTS: u32 = 10_000;
const ROUNDS: usize = 15;

fn mac(i: u32) -> [u8; 6] {
    let [_, a, b, c] = i.to_be_bytes();
    [0x52, 0x54, 0, a, b, c]
}

/// What perfdhcp sends, or a UEFI machine.
fn request(kind: u8, i: u32, boots: bool) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&i.to_be_bytes());
    // Through a relay agent, as perfdhcp plays it.
    bytes[24..28].copy_from_slice(&[10, 0, 0, 2]);
    bytes[28..34].copy_from_slice(&mac(i));
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend_from_slice(&[53, 1, kind]);
    bytes.extend_from_slice(&[55, 7, 1, 28, 2, 3, 15, 6, 12]);
    if boots {
        bytes.extend_from_slice(&[93, 2, 0, 7, 57, 2, 5, 0xb8]);
        bytes.extend_from_slice(&[60, 32]);
        bytes.extend_from_slice(b"PXEClient:Arch:00007:UNDI:003016");
    }
    if kind == 3 {
        bytes.extend_from_slice(&[54, 4, 10, 0, 0, 1, 50, 4, 0, 0, 0, 0]);
    }
    bytes.push(255);
    bytes
}

fn subnet(known: bool) -> Subnet {
    let mut subnet = Subnet::new([10, 0, 0, 0].into(), 15);
    subnet.ranges = vec![([10, 0, 16, 0].into(), [10, 0, 79, 255].into())];
    subnet.probe = false;
    subnet.options = Options {
        routers: vec![SERVER],
        dns: vec![SERVER],
        domain: Some("lab.example".to_owned()),
        ..Options::default()
    };
    if known {
        let address = |i: u32| Ipv4Addr::from(u32::from_be_bytes([10, 1, 0, 1]) + i);
        subnet.reservations = (0..CLIENTS)
            .map(|i| Reservation {
                who: Who::Mac(mac(i)),
                address: address(i),
            })
            .collect();
    }
    subnet
}

fn report(what: &str, count: u32, mut times: Vec<Duration>) {
    times.sort();
    let each = |time: Duration| time.as_secs_f64() / f64::from(count);
    let (best, median) = (each(times[0]), each(times[times.len() / 2]));
    println!(
        "{what:<58} {:>6.2} us (best {:>5.2}), {:>9.0} a second",
        median * 1e6,
        best * 1e6,
        1.0 / median
    );
}

fn exchanges(what: &str, known: bool, boots: bool, again: bool) {
    let table =
        BootTable::built_in(Loaders::SecureBoot, "http://10.0.0.1:8080/l", "http://10.0.0.1:8080/boot/ipxe").expect("the built-in table");
    let site = BootSite {
        tftp: SERVER,
        tables: Tables {
            hardware: None,
            network: None,
            built_in: &table,
        },
    };
    let arrival = Arrival {
        local: SERVER,
        port: 67,
        source: "10.0.0.2:67".parse().expect("an address"),
        broadcast: false,
    };
    let order = || (0..CLIENTS).map(|i| i.wrapping_mul(7919) % CLIENTS);
    let discovers: Vec<_> = order().map(|i| request(1, i, boots)).collect();
    let mut requests: Vec<_> = order().map(|i| request(3, i, boots)).collect();
    let new = || Server::new(Settings::default(), vec![subnet(known)]).expect("a network");
    let (mut server, mut out, mut now) = (new(), Vec::new(), Time::from_secs(1_800_000_000));
    let mut times = Vec::new();
    for round in 0..ROUNDS + 1 {
        if !again {
            server = new();
        }
        now += Time::from_secs(10);
        let start = Instant::now();
        for (discover, request) in discovers.iter().zip(&mut requests) {
            let mut handle = |bytes: &[u8], want| {
                let packet = Packet::parse(bytes).expect("a packet");
                match server.handle(&packet, &Client::of(&packet), &arrival, Some(&site), now, &mut out) {
                    Ok(Outcome::Send(reply)) if reply.kind == want => reply.address,
                    other => panic!("{other:?}"),
                }
            };
            let offered = handle(discover, MessageType::Offer);
            let at = request.len() - 5;
            request[at..at + 4].copy_from_slice(&offered.octets());
            black_box(handle(request, MessageType::Ack));
        }
        let changed = server.take_changes();
        let time = start.elapsed();
        assert_eq!(changed.len(), CLIENTS as usize, "everybody is bound");
        // The first round warms up.
        if round > 0 {
            times.push(time);
        }
    }
    report(what, CLIENTS, times);
}

fn proxies() {
    let table = BootTable::built_in(Loaders::Ipxe, "http://10.0.0.1:8080/l", "http://10.0.0.1:8080/boot/ipxe").expect("the built-in table");
    let site = Site {
        tftp: SERVER,
        tables: Tables {
            hardware: None,
            network: None,
            built_in: &table,
        },
        uefi: UefiStyle::Direct,
        policy: Policy::Answer,
    };
    let arrival = Arrival {
        local: SERVER,
        port: 67,
        source: "0.0.0.0:68".parse().expect("an address"),
        broadcast: true,
    };
    let discovers: Vec<_> = (0..CLIENTS).map(|i| request(1, i, true)).collect();
    let mut buffers = Buffers::default();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for discover in &discovers {
            let packet = Packet::parse(discover).expect("a packet");
            let reply = proxy::answer(&packet, &Client::of(&packet), &arrival, &site, &mut buffers).expect("an answer");
            black_box((reply, &buffers.reply));
        }
        times.push(start.elapsed());
    }
    report("ProxyDHCP, one answer", CLIENTS, times);
}

fn main() {
    exchanges("four-way, unknown machines, no lease yet", false, false, false);
    exchanges("four-way, unknown machines, leases there", false, false, true);
    exchanges("four-way, 10,000 known machines, no lease yet", true, false, false);
    exchanges("four-way, 10,000 known machines that boot, leases there", true, true, true);
    proxies();
}
