//! What the tests share: an API, a replica, machines, and an operator's hand.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod api;
pub mod machine;

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use ::api::{BareMetalDiscovery, BareMetalHardware, BareMetalHardwareSpec, BareMetalHardwareStatus, HardwarePhase, hardware::ClaimRef};
use agent_protocol::{
    disk::ContentsState,
    order::{Claim, DiskTarget, ExpectedContents, ImageFormat, ImageParameters, Order, OrderKind},
    seed::{Seed, seal},
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, ResourceExt, api::PostParams};
use netboot::{Config, LanPorts, Netboot, Quotas};
use tokio_util::sync::CancellationToken;

use self::machine::Machine;

pub const NAMESPACE: &str = "kube-baremetal-netboot";
pub const HONEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
pub const STRANGER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 66));

/// Ports below those that the kernel gives to outgoing connections, none twice.
pub fn lan_ports() -> LanPorts {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = || {
        (0..2000)
            .map(|_| 4_100 + (std::process::id() % 5_000) as u16 + NEXT.fetch_add(1, Ordering::Relaxed))
            .find(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .expect("a port is free")
    };
    LanPorts {
        dhcp: free(),
        client: free(),
        dhcp_v6: free(),
        client_v6: free(),
        pxe: free(),
        tftp: free(),
    }
}

pub struct Rig {
    pub api: Arc<api::Api>,
    pub view: api::View,
    pub netboot: Netboot,
    pub client: kube::Client,
    pub stop: CancellationToken,
}

pub fn config(client: kube::Client, replica: &str) -> Config {
    let mut config = Config::new(client, replica);
    config.http = ([127, 0, 0, 1], 0).into();
    config.tls = ([127, 0, 0, 1], 0).into();
    config.poll = Duration::from_secs(2);
    config.probe = Duration::from_millis(100);
    config.api_timeout = Duration::from_secs(2);
    config.quotas = Quotas {
        creations_per_minute: 1_000,
        ..Quotas::default()
    };
    config
}

impl Rig {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::beside(api::Api::new(), "replica-0", change).await
    }

    /// A replica beside others on one API.
    pub async fn beside(api: Arc<api::Api>, replica: &str, change: impl FnOnce(&mut Config)) -> Self {
        // One of TLS providers, for the client that is not used over TLS here.
        rustls::crypto::ring::default_provider().install_default().ok();
        let view = api.view();
        let mut config = config(view.client(), replica);
        change(&mut config);
        let stop = CancellationToken::new();
        let netboot = Netboot::start(config, stop.clone()).await.expect("it starts");
        within(10, netboot.ready()).await;
        Self {
            client: api.client(),
            view,
            api,
            netboot,
            stop,
        }
    }

    pub fn machine(&self, from: IpAddr) -> Machine {
        Machine::new(from, self.netboot.addresses())
    }

    pub fn discoveries(&self) -> Api<BareMetalDiscovery> {
        Api::all(self.client.clone())
    }

    pub fn hardware(&self) -> Api<BareMetalHardware> {
        Api::all(self.client.clone())
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub async fn discovery(&self, name: &str) -> BareMetalDiscovery {
        self.discoveries().get(name).await.expect("the discovery is there")
    }

    pub fn pin(&self) -> String {
        self.netboot.pin().expect("ready")
    }

    /// Accepts a machine, in this phase and with this order.
    pub async fn accept(&self, name: &str, claim: Option<&str>, order: Option<Order>) -> BareMetalHardware {
        let mut hardware = BareMetalHardware::new(
            name,
            BareMetalHardwareSpec {
                discovery_name: name.to_owned(),
                claim_ref: claim.map(claim_ref),
                ..BareMetalHardwareSpec::default()
            },
        );
        hardware.status = Some(BareMetalHardwareStatus {
            phase: if claim.is_some() {
                HardwarePhase::Provisioning
            } else {
                HardwarePhase::Ready
            },
            claim_uid: claim.map(str::to_owned),
            order,
            ..BareMetalHardwareStatus::default()
        });
        self.hardware().create(&PostParams::default(), &hardware).await.expect("accepted")
    }

    /// Changes hardware as the operator would.
    pub async fn change(&self, name: &str, change: impl FnOnce(&mut BareMetalHardware)) {
        let mut hardware = self.hardware().get(name).await.unwrap();
        change(&mut hardware);
        self.hardware().replace(name, &PostParams::default(), &hardware).await.unwrap();
    }

    /// Seals a seed to the machine's present session, as the operator would.
    pub async fn seal(&self, name: &str, order: &Order, secret_text: &str) {
        let discovery = self.discovery(name).await;
        let session = discovery.status.unwrap().session.unwrap();
        let seed = Seed {
            files: [("openstack/latest/user_data".to_owned(), secret_text.to_owned())].into(),
            guest_helper: false,
        };
        let uid = &order.claim.as_ref().unwrap().uid;
        let sealed = seal(&seed, &session.sealing_key, &session.thumbprint, &order.id, uid).unwrap();
        let secret_name = netboot::secret_name(name);
        let mut secret = Secret::default();
        secret.metadata.name = Some(secret_name.clone());
        secret.data = Some([(netboot::SEALED.to_owned(), ByteString(serde_json::to_vec(&sealed).unwrap()))].into());
        if self.secrets().get_opt(&secret_name).await.unwrap().is_some() {
            self.secrets().replace(&secret_name, &PostParams::default(), &secret).await.unwrap();
        } else {
            self.secrets().create(&PostParams::default(), &secret).await.unwrap();
        }
    }

    /// A machine from power-on to an image order in its hands, with its seed sealed.
    pub async fn imaging(&self, claim: &str) -> (Machine, String, Order) {
        let mut machine = self.machine(HONEST);
        let name = machine.power_on().await.expect("a session").discovery;
        let order = image_order(&machine, &name, claim);
        self.accept(&name, Some(claim), Some(order.clone())).await;
        self.seal(&name, &order, SECRET_TEXT).await;
        let got = machine.order("").await.expect("an answer").order;
        assert_eq!(got, order);
        (machine, name, order)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub const SECRET_TEXT: &str = "correct horse battery staple";

pub fn claim_ref(uid: &str) -> ClaimRef {
    ClaimRef {
        namespace: "tenant".to_owned(),
        name: "web".to_owned(),
        uid: uid.to_owned(),
        ..ClaimRef::default()
    }
}

pub fn image_order(machine: &Machine, hardware: &str, claim: &str) -> Order {
    let disk = &machine.inventory.disks[0];
    Order {
        id: format!("{hardware}-1-{claim}"),
        kind: OrderKind::Image,
        claim: Some(Claim {
            namespace: "tenant".to_owned(),
            name: "web".to_owned(),
            uid: claim.to_owned(),
        }),
        hardware: hardware.to_owned(),
        disk: Some(DiskTarget {
            identity: disk.identity.clone(),
            size_bytes: disk.size_bytes,
            expected: vec![ExpectedContents {
                state: ContentsState::Blank,
                fingerprint: None,
                instance_uid: None,
            }],
        }),
        image: Some(ImageParameters {
            url: "http://images.example/debian.raw.zst".to_owned(),
            mirrors: Vec::new(),
            digest: format!("sha256:{}", "0".repeat(64)),
            format: ImageFormat::Zstd,
            config_drive: true,
            packed: None,
        }),
        protected: Vec::new(),
        erase: None,
        reboot: None,
        boot_order: None,
    }
}

/// Waits, with a bound.
pub async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future)
        .await
        .expect("it takes too long")
}

/// Waits until a condition holds, with a bound.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    for _ in 0..500 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: did not come true within 10 s");
}

pub fn condition(discovery: &BareMetalDiscovery, kind: &str) -> Option<bool> {
    let conditions = &discovery.status.as_ref()?.conditions;
    conditions.iter().find(|c| c.type_ == kind).map(|c| c.status == "True")
}

pub fn name_of(discovery: &BareMetalDiscovery) -> String {
    discovery.name_any()
}
