//! Addresses given out, over the loopback interface and ports that anybody may have: the client is behind a relay agent, so that answers come by unicast.

mod common;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::api::{
    BareMetalAddress, BareMetalAddressSpec, BareMetalNetwork, BareMetalNetworkSpec, DhcpMode,
    network::{AddressPlan, AddressRange},
};
use agent_protocol::identity::MacAddress;
use common::{Rig, lan_ports, until};
use dhcp::v4::{
    probe::Probe,
    wire::{MessageType, Packet, code::option},
};
use kube::{Api, api::PostParams};
use netboot::{LanConfig, LanInterface, LanPorts};
use tokio::net::UdpSocket;

const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// An address of the link behind the relay agent: TEST-NET-2, where nobody answers.
const LINK: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// What an answer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    kind: MessageType,
    address: Ipv4Addr,
    lease: Option<u32>,
}

/// A relay agent with a client behind it.
struct Relay {
    socket: UdpSocket,
    server: SocketAddrV4,
}

impl Relay {
    fn new(ports: LanPorts) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SocketAddrV4::new(RELAY, ports.dhcp).into()).unwrap();
        Self {
            socket: UdpSocket::from_std(socket.into()).unwrap(),
            server: SocketAddrV4::new(SERVER, ports.dhcp),
        }
    }

    async fn ask(&self, probe: &Probe, patience: Duration) -> Option<Told> {
        let mut bytes = probe.bytes();
        bytes[24..28].copy_from_slice(&RELAY.octets());
        let end = bytes.iter().rposition(|byte| *byte == option::END).unwrap();
        // Link selection (RFC 3527).
        let mut relayed = vec![option::RELAY_AGENT, 6, 5, 4];
        relayed.extend_from_slice(&LINK.octets());
        bytes.splice(end..end, relayed);
        self.socket.send_to(&bytes, self.server).await.unwrap();
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 1500];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let length = tokio::time::timeout(left, self.socket.recv(&mut buffer)).await.ok()?.unwrap();
            let packet = Packet::parse(&buffer[..length]).unwrap();
            if packet.xid() == probe.xid {
                return Some(Told {
                    kind: packet.message_type().unwrap(),
                    address: packet.yiaddr(),
                    lease: packet.lease_time(),
                });
            }
        }
    }

    /// The address that is offered, however long it takes until somebody does.
    async fn offer(&self, xid: u32, mac: [u8; 6]) -> Ipv4Addr {
        for _ in 0..20 {
            if let Some(told) = self.ask(&Probe::discover(xid, mac), Duration::from_secs(2)).await {
                assert_eq!(told.kind, MessageType::Offer);
                return told.address;
            }
        }
        panic!("nothing was offered");
    }

    async fn bind(&self, xid: u32, mac: [u8; 6]) -> Ipv4Addr {
        let address = self.offer(xid, mac).await;
        let request = Probe {
            kind: MessageType::Request,
            requested: Some(address),
            server: Some(SERVER),
            ..Probe::discover(xid, mac)
        };
        let told = self.ask(&request, Duration::from_secs(5)).await.expect("it is confirmed");
        assert_eq!((told.kind, told.address, told.lease), (MessageType::Ack, address, Some(600)));
        address
    }
}

fn network() -> BareMetalNetwork {
    let range = |first: u8, last: u8| AddressRange {
        first: Ipv4Addr::new(198, 51, 100, first).to_string(),
        last: Ipv4Addr::new(198, 51, 100, last).to_string(),
    };
    let plan = AddressPlan {
        prefix: "198.51.100.0/24".to_owned(),
        dynamic_ranges: vec![range(100, 200)],
        gateway: Some(LINK.to_string()),
        ..AddressPlan::default()
    };
    let spec = BareMetalNetworkSpec {
        ipv4: Some(plan),
        dhcp: DhcpMode::Full,
        lease_seconds: 600,
        ..BareMetalNetworkSpec::default()
    };
    BareMetalNetwork::new("lab", spec)
}

async fn start(api: Arc<common::api::Api>, ports: LanPorts, loaders: &std::path::Path) -> Rig {
    Rig::beside(api, "replica-0", |config| {
        config.loaders = vec![loaders.to_owned()];
        config.lan = Some(LanConfig {
            interfaces: vec![LanInterface {
                name: "lo".to_owned(),
                dhcp: Some(DhcpMode::Full),
            }],
            tftp_single_port: false,
            ports,
        });
    })
    .await
}

/// The line about an address in a ConfigMap.
fn written(api: &common::api::Api, address: Ipv4Addr) -> Option<serde_json::Value> {
    let maps = api.all("configmaps");
    let line = maps
        .iter()
        .find_map(|map| map["data"][address.to_string()].as_str().map(str::to_owned))?;
    serde_json::from_str(&line).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_written_before_they_are_told_and_outlive_the_replica_and_the_api() {
    let loaders = tempfile::tempdir().unwrap();
    std::fs::write(loaders.path().join("undionly.kpxe"), "this is iPXE").unwrap();
    let ports = lan_ports();
    let api = common::api::Api::new();
    let rig = start(api.clone(), ports, loaders.path()).await;
    let networks: Api<BareMetalNetwork> = Api::all(rig.client.clone());
    networks.create(&PostParams::default(), &network()).await.unwrap();
    let reserved = Ipv4Addr::new(198, 51, 100, 20);
    let addresses: Api<BareMetalAddress> = Api::all(rig.client.clone());
    let spec = BareMetalAddressSpec {
        address: reserved.to_string(),
        network_name: "lab".to_owned(),
        mac: Some(MacAddress([2, 0, 0, 0, 0, 20])),
        hardware_name: String::new(),
        instance: String::new(),
        instance_uid: String::new(),
        endpoint_name: String::new(),
    };
    let name = lifecycle::address::object_name("lab", reserved.into());
    addresses
        .create(&PostParams::default(), &BareMetalAddress::new(&name, spec))
        .await
        .unwrap();

    let relay = Relay::new(ports);
    let mac = [2, 0, 0, 0, 0, 1];
    let address = relay.bind(1, mac).await;
    let line = written(&api, address).expect("an ACK means that it is written");
    assert_eq!(
        (line["state"].as_str(), line["mac"].as_str()),
        (Some("Bound"), Some("02:00:00:00:00:01"))
    );
    until("the reservation is known", || async {
        relay.offer(2, [2, 0, 0, 0, 0, 20]).await == reserved
    })
    .await;
    assert_eq!(relay.bind(3, [2, 0, 0, 0, 0, 20]).await, reserved);
    assert_eq!(written(&api, reserved), None, "its object says it already");

    // What stands there reaches further than what the client was told, so this renewal writes nothing.
    let renewal = |xid| Probe {
        kind: MessageType::Request,
        ciaddr: address,
        ..Probe::discover(xid, mac)
    };
    let told = relay.ask(&renewal(4), Duration::from_secs(5)).await.unwrap();
    assert_eq!((told.kind, told.address), (MessageType::Ack, address));
    assert_eq!(written(&api, address), Some(line), "nothing new was written");

    // Without the API: who has an address keeps it, nobody else gets one.
    api.down.store(true, Ordering::SeqCst);
    until("the replica notices", || async { !rig.netboot.is_ready() }).await;
    let told = relay.ask(&renewal(5), Duration::from_secs(5)).await.expect("from memory");
    assert_eq!((told.kind, told.address), (MessageType::Ack, address));
    let stranger = Probe::discover(6, [2, 0, 0, 0, 0, 6]);
    assert_eq!(relay.ask(&stranger, Duration::from_secs(3)).await, None, "it could not be kept");
    api.down.store(false, Ordering::SeqCst);
    until("the API is back", || async { rig.netboot.is_ready() }).await;
    let other = relay.bind(7, [2, 0, 0, 0, 0, 6]).await;
    assert_ne!(other, address);

    // Another process, which knows nothing but what stands there.
    rig.stop.cancel();
    rig.netboot.stopped(Duration::from_secs(5)).await;
    drop(rig);
    let rig = start(api.clone(), ports, loaders.path()).await;
    let reboot = Probe {
        kind: MessageType::Request,
        requested: Some(address),
        ..Probe::discover(8, mac)
    };
    let mut told = None;
    for _ in 0..20 {
        told = relay.ask(&reboot, Duration::from_secs(1)).await;
        if told.is_some() {
            break;
        }
    }
    assert_eq!(told.map(|told| (told.kind, told.address)), Some((MessageType::Ack, address)));
    let taken = Probe {
        requested: Some(address),
        ..Probe::discover(9, [2, 0, 0, 0, 0, 9])
    };
    let told = relay.ask(&taken, Duration::from_secs(5)).await.unwrap();
    assert_ne!(told.address, address, "it is somebody's");
    drop(rig);
}
