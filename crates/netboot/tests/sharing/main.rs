//! Sharing from end to end: machines that run the agent's own code against a replica with an image store; and what the server's side says to whom.

#[path = "../common/mod.rs"]
mod common;
mod room;
mod slow_link;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use agent::share::Place;
use agent_protocol::{
    order::Outcome,
    session::{ErrorCode, encode},
    share::{PATH_SHARE, ShareMode, SharePeer, ShareRequest, ShareResponse},
};
use api::{BareMetalNetwork, BareMetalNetworkSpec, ImageSharing, network::AddressPlan};
use common::{HONEST, STRANGER, machine::Machine, until};
use http::Method;
use image::pack::Manifest;
use kube::{Api, api::PostParams};
use room::{Receiver, Room, mac, noise};
use sharing::PieceSet;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn four_machines_write_one_image_and_the_server_gives_less_than_four() {
    const MACHINES: u8 = 4;
    let folder = tempfile::tempdir().unwrap();
    let mut room = Room::open(folder.path(), noise(24 * MIB), HONEST, |_| {}).await;
    let link = slow_link::start(room.rig.netboot.addresses().http, 12 << 20).await;
    room.reach_store_at(link);
    let before = room.rig.netboot.metrics().image_bytes_served.get();
    let macs: Vec<_> = (1..=MACHINES).map(|number| mac(1, number)).collect();
    let mut machines = Vec::new();
    for mac in &macs {
        let (home, mac) = (folder.path().join(mac.to_string()), *mac);
        std::fs::create_dir(&home).unwrap();
        let (boot, image_bytes, stop) = (room.boot(), room.plain.len() as u64, room.rig.stop.clone());
        machines.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let receiver = Receiver {
                boot,
                mac,
                folder: &home,
                image_bytes,
                place: Some(Place {
                    address: HONEST,
                    prefix: 8,
                }),
            };
            runtime.block_on(async {
                tokio::select! {
                    () = receiver.live() => {}
                    () = stop.cancelled() => {}
                }
            });
        }));
    }
    let (begun, names) = room.begin(&macs).await;
    let ended = room.ended(begun, &names, Duration::from_secs(120)).await;
    for (name, ended) in &ended {
        assert_eq!(ended.result.outcome, Outcome::Succeeded, "{name}: {:?}", ended.result.fault);
    }
    for mac in &macs {
        assert!(room.is_on(&folder.path().join(mac.to_string())), "{mac}");
    }
    let served = room.rig.netboot.metrics().image_bytes_served.get() - before;
    let times = served as f64 / room.stored_bytes as f64;
    println!("the server gave {times:.2} times the image to {MACHINES} machines");
    assert!(
        times < 0.8 * f64::from(MACHINES),
        "they gave each other next to nothing: {times:.2}"
    );
    // Each says its last word.
    until("nobody shares any more", || async {
        room.rig.netboot.metrics().sharing_members.get() == 0
    })
    .await;
    room.rig.stop.cancel();
    machines.into_iter().for_each(|machine| machine.join().unwrap());
}

/// A machine with an accepted order of the room's image.
async fn writing(room: &Room, from: IpAddr) -> (Machine, String) {
    let mut machine = room.rig.machine(from);
    let name = machine.power_on().await.expect("a session").discovery;
    let discovery = room.rig.discovery(&name).await;
    room.accept(&discovery).await;
    let order = machine.order("").await.expect("an answer").order;
    assert!(order.image.is_some());
    (machine, order.id)
}

async fn say(machine: &mut Machine, request: &ShareRequest) -> Result<ShareResponse, ErrorCode> {
    let body = serde_json::to_vec(request).unwrap();
    machine.call(Method::POST, PATH_SHARE, body).await.map_err(|(_, code)| code)
}

/// Asks until it is told who else there is.
async fn told(machine: &mut Machine, request: &ShareRequest) -> Vec<SharePeer> {
    for _ in 0..500 {
        if let Some(peers) = say(machine, request).await.unwrap().peers {
            return peers;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it was not told of anybody within 10 s");
}

async fn pieces(room: &Room) -> u32 {
    let hex = room.digest.trim_start_matches("blake3:");
    let url = format!("http://{}/images/{hex}/manifest.json", room.rig.netboot.addresses().http);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let bytes = http.get(url).send().await.unwrap().bytes().await.unwrap();
    u32::try_from(Manifest::parse(&bytes).unwrap().chunks().len()).unwrap()
}

fn news(order_id: &str, count: u32, port: u16) -> ShareRequest {
    ShareRequest {
        order_id: order_id.to_owned(),
        pieces: count,
        port: Some(port),
        held: encode(&PieceSet::none(count).to_bytes()),
        wanted: encode(&PieceSet::all(count).to_bytes()),
        room: 2,
        hungry: true,
        ..ShareRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_one_network_are_told_of_each_other_by_the_address_they_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::open(folder.path(), noise(8 * MIB), HONEST, |_| {}).await;
    let count = pieces(&room).await;
    let mut machines = Vec::new();
    for (number, port) in (1..=4_u8).zip(40_001_u16..) {
        let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, number));
        let (mut machine, order) = writing(&room, address).await;
        let answer = say(&mut machine, &news(&order, count, port)).await.unwrap();
        let expected = if number < 4 { ShareMode::Alone } else { ShareMode::Together };
        assert_eq!(answer.mode, expected, "machine {number}");
        machines.push((machine, order, SocketAddr::new(address, port)));
    }
    let (first, order, own) = &mut machines[0];
    let named = told(first, &news(order, count, own.port())).await;
    let mut named: Vec<SocketAddr> = named.iter().map(|peer| peer.address).collect();
    named.sort();
    let others: Vec<SocketAddr> = machines[1..].iter().map(|(_, _, address)| *address).collect();
    assert_eq!(named, others);
    let (second, order, own) = &mut machines[1];
    let answer = say(second, &news(order, count, own.port())).await.unwrap();
    assert!(answer.fetch.iter().all(|(start, end)| start < end && *end <= count));
    assert_eq!(room.rig.netboot.metrics().sharing_members.get(), 4);

    // Three of them say that the first gives wrong bytes: nobody is told of it any more.
    for (machine, order, own) in &mut machines[1..] {
        let port = own.port();
        let accused = told(machine, &news(order, count, port))
            .await
            .iter()
            .find(|peer| peer.address.port() == 40_001)
            .map(|peer| peer.id);
        let complaint = ShareRequest {
            wrong: vec![accused.expect("it is told of the first")],
            ..news(order, count, port)
        };
        say(machine, &complaint).await.unwrap();
        let named = told(machine, &news(order, count, port)).await;
        assert!(
            named.iter().all(|peer| peer.address.port() != 40_001),
            "who complains is not told of it again"
        );
    }
    assert_eq!(room.rig.netboot.metrics().sharing_expelled.get(), 1);
    assert_eq!(room.rig.netboot.metrics().sharing_wrong_bytes.get(), 3);

    // Who leaves is not named any more, and neither is who opened no port.
    let (last, order, own) = &mut machines[3];
    let farewell = ShareRequest {
        leaves: true,
        ..news(order, count, own.port())
    };
    say(last, &farewell).await.unwrap();
    let (third, order, own) = &mut machines[2];
    let silent = ShareRequest {
        port: None,
        ..news(order, count, own.port())
    };
    say(third, &silent).await.unwrap();
    let (second, order, own) = &mut machines[1];
    let named = told(second, &news(order, count, own.port())).await;
    assert!(named.is_empty(), "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_writes_the_image_takes_part_and_only_where_it_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::open(folder.path(), noise(8 * MIB), HONEST, |_| {}).await;
    let count = pieces(&room).await;
    let (mut machine, order) = writing(&room, HONEST).await;
    // Another machine's order, one that is no order, and sets that do not fit.
    let (mut other, _) = writing(&room, STRANGER).await;
    assert_eq!(say(&mut other, &news(&order, count, 40_001)).await, Err(ErrorCode::StaleOrder));
    assert_eq!(
        say(&mut machine, &news("no-such-order", count, 40_001)).await,
        Err(ErrorCode::StaleOrder)
    );
    assert_eq!(say(&mut machine, &news(&order, count + 1, 40_001)).await, Err(ErrorCode::Malformed));
    let odd = ShareRequest {
        held: encode(&PieceSet::none(count + 1).to_bytes()),
        ..news(&order, count, 40_001)
    };
    assert_eq!(say(&mut machine, &odd).await, Err(ErrorCode::Malformed));
    let crooked = ShareRequest {
        wanted: "AAAA*".to_owned(),
        ..news(&order, count, 40_001)
    };
    assert_eq!(say(&mut machine, &crooked).await, Err(ErrorCode::Malformed));
    assert_eq!(
        say(&mut machine, &news(&order, count, 40_001)).await.unwrap().mode,
        ShareMode::Alone
    );
    // The switch.
    let networks: Api<BareMetalNetwork> = Api::all(room.rig.client.clone());
    let spec = BareMetalNetworkSpec {
        ipv4: Some(AddressPlan {
            prefix: "127.0.0.0/24".to_owned(),
            ..AddressPlan::default()
        }),
        image_sharing: ImageSharing::Disabled,
        ..BareMetalNetworkSpec::default()
    };
    networks
        .create(&PostParams::default(), &BareMetalNetwork::new("rack", spec))
        .await
        .unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let note = loop {
        let answer = say(&mut machine, &news(&order, count, 40_001)).await.unwrap();
        if answer.mode == ShareMode::Off {
            break answer.note;
        }
        assert!(tokio::time::Instant::now() < deadline, "the switch has no effect");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(note.contains("rack"), "{note}");
    // A result ends it.
    let name = machine.session.split('.').next().unwrap();
    let discovery = room.rig.discovery(name).await;
    machine.result(machine.succeeded(&room.order(&discovery))).await.unwrap();
    assert_eq!(say(&mut machine, &news(&order, count, 40_001)).await, Err(ErrorCode::StaleOrder));
}
