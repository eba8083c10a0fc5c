//! A replica with a packed image in its store, and machines that write it with the agent's own sessions and runner, to regular files.
#![allow(dead_code, reason = "the tests and the measurement use their own parts")]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use agent::{
    console::Console,
    runner::Runner,
    session::{Introduction, Session},
    share::Place,
};
use agent_protocol::{
    disk::{ContentsState, Disk, DiskIdentity},
    identity::MacAddress,
    inventory::Inventory,
    order::{DiskTarget, ExpectedContents, ImageFormat, ImageParameters, Order, OrderKind, OrderResult, PackedSource, ProgressSource},
};
use api::{BareMetalDiscovery, BareMetalImage, BareMetalImageSpec, conditions};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use machine::devices::KernelDevices;
use netboot::{Config, StoreConfig};
use sha2::{Digest, Sha256};

use crate::common::{
    Rig,
    api::Api as Objects,
    machine::{inventory, read_script},
};

/// What a disk has beyond the image.
const SPARE: u64 = 8 << 20;
/// How long a preparation or the opening of all sessions may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes that do not compress, the same every time, and in front of them what the writer takes for no partition table.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes[..1024].fill(0);
    bytes
}

/// A machine that writes.
pub struct Receiver<'a> {
    /// URL of the boot script.
    pub boot: String,
    /// Its name.
    pub mac: MacAddress,
    /// Where its disk lies.
    pub folder: &'a Path,
    /// Size of the image.
    pub image_bytes: u64,
    /// Where it shares, if it does.
    pub place: Option<Place>,
}

fn disk_of(mac: MacAddress, image_bytes: u64) -> Inventory {
    let whole = inventory(None, mac);
    let disk = Disk {
        name: "vda".to_owned(),
        size_bytes: image_bytes + SPARE,
        identity: DiskIdentity {
            serial: Some(format!("S{}", mac.compact())),
            ..DiskIdentity::default()
        },
        physical_sector_bytes: 512,
        ..whole.disks[0].clone()
    };
    Inventory {
        disks: vec![disk],
        ..whole
    }
}

impl Receiver<'_> {
    /// Boots and does what it is told, until the future is dropped.
    pub async fn live(self) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let url = format!(
            "{}?mac={}&platform=pcbios&buildarch=x86_64",
            self.boot,
            self.mac.to_string().replace(':', "-")
        );
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let script = http.get(url).send().await.expect("a boot script").text().await.unwrap();
        let booted = read_script(&script).unwrap_or_else(|| panic!("it loads the agent: {script}"));
        let inventory = disk_of(self.mac, self.image_bytes);
        let disk = fs::File::create(self.folder.join("vda")).unwrap();
        disk.set_len(self.image_bytes + SPARE).unwrap();
        let servers = vec![booted.server];
        let runner = Runner {
            disks: inventory.disks.clone(),
            devices: Box::new(KernelDevices::at(self.folder)),
            efi: None,
            guest_helper: None,
            servers: servers.clone(),
            ca: booted.pin.clone(),
            place: self.place,
        };
        let introduction = Introduction {
            servers,
            ca: booted.pin,
            token: booted.token,
            boot_mac: self.mac,
            inventory,
        };
        let console = Arc::new(Console::default());
        match Session::open(&introduction, &console).await.expect("keys") {
            Ok(session) => session.run(Arc::new(runner)).await,
            Err(down) => down,
        };
    }
}

/// See the module.
pub struct Room {
    pub rig: Rig,
    pub plain: Vec<u8>,
    pub digest: String,
    pub stored_bytes: u64,
    base: String,
}

/// How an order ended.
pub struct Ended {
    pub after: Duration,
    pub result: OrderResult,
    /// Where the machine said that most of its image came from, when it was seen writing last.
    pub source: Option<ProgressSource>,
}

impl Room {
    /// Prepares the image `plain`; `folder` takes the store. `host` is where machines find this replica.
    pub async fn open(folder: &Path, plain: Vec<u8>, host: IpAddr, change: impl FnOnce(&mut Config)) -> Self {
        let images = folder.join("images");
        fs::create_dir_all(&images).unwrap();
        fs::write(images.join("noise.raw"), &plain).unwrap();
        let rig = Rig::beside(Objects::new(), "replica-0", |config| {
            config.image_store = Some(StoreConfig::new(folder.join("store"), 4 << 30));
            config.image_dir = Some(images);
            config.http = SocketAddr::new(host, 0);
            config.tls = SocketAddr::new(host, 0);
            config.poll = Duration::from_secs(5);
            change(config);
        })
        .await;
        let http = rig.netboot.addresses().http;
        let spec = BareMetalImageSpec {
            url: format!("http://{http}/images/noise.raw"),
            digest: format!("sha256:{}", hex::encode(Sha256::digest(&plain))),
            format: ImageFormat::Raw,
            ..BareMetalImageSpec::default()
        };
        let objects: Api<BareMetalImage> = Api::all(rig.client.clone());
        objects
            .create(&PostParams::default(), &BareMetalImage::new("noise", spec))
            .await
            .unwrap();
        let until = Instant::now() + PATIENCE;
        let packed = loop {
            let status = objects.get("noise").await.unwrap().status.unwrap_or_default();
            if conditions::is_true(&status.conditions, conditions::PREPARED) {
                break status.packed.expect("a prepared image is packed");
            }
            assert!(Instant::now() < until, "the image is not prepared: {:?}", status.conditions);
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let hex = packed.digest.trim_start_matches("blake3:");
        Self {
            base: format!("http://{http}/images/{hex}"),
            digest: packed.digest,
            stored_bytes: packed.stored_bytes,
            rig,
            plain,
        }
    }

    /// Orders say that the store is there.
    pub fn reach_store_at(&mut self, address: SocketAddr) {
        self.base = format!("http://{address}/images/{}", self.digest.trim_start_matches("blake3:"));
    }

    /// URL of the boot script.
    pub fn boot(&self) -> String {
        format!("http://{}/boot/ipxe", self.rig.netboot.addresses().http)
    }

    pub fn order(&self, discovery: &BareMetalDiscovery) -> Order {
        let disk = &discovery.status.as_ref().unwrap().inventory.as_ref().unwrap().disks[0];
        Order {
            id: format!("{}-1-image", discovery.name_any()),
            kind: OrderKind::Image,
            hardware: discovery.name_any(),
            disk: Some(DiskTarget {
                identity: disk.identity.clone(),
                size_bytes: disk.size_bytes,
                expected: vec![ExpectedContents {
                    state: ContentsState::Blank,
                    fingerprint: None,
                    instance_uid: None,
                }],
            }),
            claim: Some(agent_protocol::order::Claim {
                namespace: "tenant".to_owned(),
                name: "web".to_owned(),
                uid: format!("uid-{}", discovery.name_any()),
            }),
            image: Some(ImageParameters {
                url: format!("http://{}/images/noise.raw", self.rig.netboot.addresses().http),
                mirrors: Vec::new(),
                digest: format!("sha256:{}", hex::encode(Sha256::digest(&self.plain))),
                format: ImageFormat::Raw,
                config_drive: false,
                packed: Some(PackedSource {
                    digest: self.digest.clone(),
                    urls: vec![self.base.clone()],
                }),
            }),
            ..Order::wait()
        }
    }

    /// Gives a machine its order.
    pub async fn accept(&self, discovery: &BareMetalDiscovery) {
        let name = discovery.name_any();
        self.rig
            .accept(&name, Some(&format!("uid-{name}")), Some(self.order(discovery)))
            .await;
    }

    async fn discoveries(&self) -> Vec<BareMetalDiscovery> {
        self.rig.discoveries().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until machines with these MACs are here, and gives all of them their order at once.
    pub async fn begin(&self, macs: &[MacAddress]) -> (Instant, Vec<String>) {
        let until = Instant::now() + PATIENCE;
        let mac = |discovery: &BareMetalDiscovery| discovery.status.as_ref()?.session.as_ref().map(|session| session.boot_mac);
        let here = loop {
            let mut here = self.discoveries().await;
            here.retain(|discovery| mac(discovery).is_some_and(|mac| macs.contains(&mac)));
            if here.len() == macs.len() {
                break here;
            }
            assert!(Instant::now() < until, "{} of {} machines are here", here.len(), macs.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let begun = Instant::now();
        for discovery in &here {
            self.accept(discovery).await;
        }
        // In the order of the MACs.
        let named = |wanted: &MacAddress| {
            here.iter()
                .find(|discovery| mac(discovery) == Some(*wanted))
                .map(ResourceExt::name_any)
        };
        (begun, macs.iter().filter_map(named).collect())
    }

    /// Waits until these machines have reported how their order ended.
    pub async fn ended(&self, begun: Instant, names: &[String], limit: Duration) -> BTreeMap<String, Ended> {
        let mut ended = BTreeMap::new();
        let mut sources = BTreeMap::new();
        while ended.len() < names.len() {
            for discovery in self.discoveries().await {
                let name = discovery.name_any();
                let Some(status) = discovery.status.filter(|_| names.contains(&name)) else {
                    continue;
                };
                if let Some(source) = status.progress.and_then(|progress| progress.source) {
                    sources.insert(name.clone(), source);
                }
                if let Some(result) = status.result
                    && !ended.contains_key(&name)
                {
                    let source = sources.get(&name).copied();
                    let after = begun.elapsed();
                    ended.insert(name, Ended { after, result, source });
                }
            }
            assert!(begun.elapsed() < limit, "{} of {} machines are done", ended.len(), names.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ended
    }

    /// Whether the image is on the disk of a machine.
    pub fn is_on(&self, folder: &Path) -> bool {
        use std::io::Read;
        let mut found = Vec::new();
        let file = fs::File::open(folder.join("vda")).unwrap();
        file.take(self.plain.len() as u64).read_to_end(&mut found).unwrap();
        found == self.plain
    }
}

/// The MAC of a machine of a round.
pub fn mac(round: u8, number: u8) -> MacAddress {
    MacAddress([2, 0x77, 0, 0, round, number])
}
