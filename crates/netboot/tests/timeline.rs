//! Boot timelines: real DHCP, TFTP and HTTP sockets on the loopback interface, and what stands in the BareMetalDiscovery afterwards.

mod common;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ::api::{
    BareMetalDiscovery,
    timeline::{BootStep, BootStepKind, BootTimeline},
};
use agent_protocol::{identity::MacAddress, inventory::FirmwareMode};
use common::{
    HONEST, Rig, lan_ports,
    machine::{Machine, connect_plain, get, send},
    until,
};
use dhcp::{
    arch::BootClass,
    v4::{
        probe::Probe,
        wire::{MessageType, Packet},
    },
};
use http::StatusCode;
use kube::{Api, ResourceExt};
use netboot::{LanConfig, LanInterface, LanPorts};
use tftp::{client::fetch, wire::Options};

const STOPPED_AFTER: Duration = Duration::from_millis(400);
const LOADER: &[u8] = &[0x4d; 100_000];

/// A replica with boot loaders and boot media that listens on the loopback interface.
struct Lan {
    rig: Rig,
    ports: LanPorts,
    files: tempfile::TempDir,
}

impl Lan {
    async fn start() -> Self {
        Self::beside(common::api::Api::new(), "replica-0", |_| {}).await
    }

    async fn beside(api: Arc<common::api::Api>, replica: &str, change: impl FnOnce(&mut netboot::Config)) -> Self {
        let files = tempfile::tempdir().unwrap();
        for name in ["undionly.kpxe", "snponly.efi"] {
            std::fs::write(files.path().join(name), LOADER).unwrap();
        }
        std::fs::create_dir(files.path().join("amd64")).unwrap();
        for name in ["vmlinuz", "initramfs.zst"] {
            std::fs::write(files.path().join("amd64").join(name), vec![7; 300_000]).unwrap();
        }
        let ports = lan_ports();
        let rig = Rig::beside(api, replica, |config| {
            config.boot_stopped_after = STOPPED_AFTER;
            config.media_dir = Some(files.path().to_owned());
            config.loaders = vec![files.path().to_owned()];
            config.lan = Some(LanConfig {
                interfaces: vec![LanInterface {
                    name: "lo".to_owned(),
                    dhcp: None,
                }],
                tftp_single_port: false,
                ports,
            });
            change(config);
        })
        .await;
        Self { rig, ports, files }
    }

    fn local(port: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, port).into()
    }

    /// A step was noted so often: packets of several sockets overtake each other, unlike those of a machine, which waits for answers.
    async fn noted(&self, step: &str, times: u32) {
        let line = format!("kube_baremetal_netboot_boot_steps_total{{step=\"{step}\"}} {times}");
        until(&line, || async { self.rig.netboot.metrics().encode().lines().any(|l| l == line) }).await;
    }

    fn discover(&self, mac: MacAddress, architecture: u16) {
        let probe = Probe {
            boot: Some((BootClass::Pxe, architecture)),
            ..Probe::discover(7, mac.0)
        };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.send_to(&probe.bytes(), Self::local(self.ports.dhcp)).unwrap();
    }

    /// Asks at port 4011 as UEFI does; the answer names the file.
    fn boot_server(&self, mac: MacAddress) -> String {
        let probe = Probe {
            kind: MessageType::Request,
            boot: Some((BootClass::Pxe, 7)),
            ciaddr: Ipv4Addr::LOCALHOST,
            ..Probe::discover(8, mac.0)
        };
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(&probe.bytes(), Self::local(self.ports.pxe)).unwrap();
        let mut buffer = [0; 1500];
        let length = socket.recv(&mut buffer).expect("the boot server answers");
        let packet = Packet::parse(&buffer[..length]).unwrap();
        assert_eq!(packet.message_type(), Some(MessageType::Ack));
        String::from_utf8(packet.file().to_vec()).unwrap()
    }

    async fn load(&self, name: &str) -> bool {
        let (server, name) = (Self::local(self.ports.tftp), name.to_owned());
        let fetched = tokio::task::spawn_blocking(move || fetch(server, &name, Options::default(), Duration::from_secs(10), |_| {}));
        fetched.await.unwrap().is_ok_and(|f| f.bytes == LOADER.len() as u64)
    }

    async fn media(&self, name: &str) {
        let mut connection = connect_plain(HONEST, self.rig.netboot.addresses().http).await.unwrap();
        let (status, body) = send(&mut connection, get(&format!("/boot/media/amd64/{name}"))).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 300_000));
    }

    async fn all(&self) -> Vec<BareMetalDiscovery> {
        let discoveries: Api<BareMetalDiscovery> = self.rig.discoveries();
        discoveries.list(&Default::default()).await.unwrap().items
    }

    /// The boots of the only machine that there is, once this holds of them.
    async fn boots(&self, what: &str, holds: impl Fn(&[BootTimeline]) -> bool) -> Vec<BootTimeline> {
        let of = |all: &[BareMetalDiscovery]| all.first().and_then(|d| d.status.clone()).unwrap_or_default().timelines;
        until(what, || async { holds(&of(&self.all().await)) }).await;
        of(&self.all().await)
    }
}

fn step(boot: &BootTimeline, kind: BootStepKind) -> &BootStep {
    boot.of_kind(kind).next().unwrap_or_else(|| panic!("no {kind:?} in {boot:#?}"))
}

fn kinds(boot: &BootTimeline) -> Vec<BootStepKind> {
    boot.steps.iter().map(|s| s.step).collect()
}

fn uefi(lan: &Lan) -> Machine {
    let mut machine = lan.rig.machine(HONEST);
    machine.inventory.firmware.mode = FirmwareMode::UEFI;
    machine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_media_for_its_architecture_boots_its_own_disk_and_that_is_written_down() {
    use BootStepKind::Script;
    let lan = Lan::start().await;
    let path = uefi(&lan)
        .boot_path()
        .replace("platform=pcbios&buildarch=x86_64", "platform=efi&buildarch=arm64");
    let told = || async {
        let mut connection = connect_plain(HONEST, lan.rig.netboot.addresses().http).await.unwrap();
        let (status, body) = send(&mut connection, get(&path)).await;
        assert_eq!(status, StatusCode::OK);
        String::from_utf8(body.to_vec()).unwrap()
    };
    let script = told().await;
    assert!(script.contains("sanboot") && !script.contains("/boot/media/"), "{script}");
    let boots = lan.boots("it is written down", |boots| !boots.is_empty()).await;
    assert_eq!(step(&boots[0], Script).detail, "LocalDisk: NoBootMedia for arm64");
    assert_eq!(doctor::timeline::stop(&boots).map(|stop| stop.reason), Some("NoBootMedia"));

    // They are found without a restart.
    let media = lan.files.path().join("arm64");
    std::fs::create_dir(&media).unwrap();
    for name in ["vmlinuz", "initramfs.zst"] {
        std::fs::write(media.join(name), "for arm64").unwrap();
    }
    until("the agent's kernel for arm64", || async {
        told().await.contains("kernel /boot/media/arm64/vmlinuz ")
    })
    .await;
    let mut connection = connect_plain(HONEST, lan.rig.netboot.addresses().http).await.unwrap();
    let (status, body) = send(&mut connection, get("/boot/media/arm64/initramfs")).await;
    assert_eq!((status, body.as_ref()), (StatusCode::OK, &b"for arm64"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_into_the_agent_is_told_step_by_step_and_costs_no_write_of_its_own() {
    use BootStepKind::{BootServer, Initramfs, Kernel, Loader, Offer, Script, Session, Tftp};
    let lan = Lan::start().await;
    let mut machine = uefi(&lan);
    lan.discover(machine.mac, 7);
    lan.noted("Offer", 1).await;
    let file = lan.boot_server(machine.mac);
    assert!(lan.load(&file).await, "{file}");
    lan.noted("Tftp", 1).await;
    let mut connection = connect_plain(HONEST, lan.rig.netboot.addresses().http).await.unwrap();
    send(&mut connection, get("/boot/ipxe")).await;
    let booted = machine.boot().await.expect("the agent");
    lan.media("vmlinuz").await;
    lan.media("initramfs").await;
    lan.noted("Initramfs", 1).await;
    let writes = lan.rig.api.writes.load(Ordering::SeqCst);
    machine.connect(&booted.pin).await;
    machine.open(&booted).await.expect("a session");
    assert_eq!(
        lan.rig.api.writes.load(Ordering::SeqCst),
        writes + 1,
        "the session's write has it all"
    );
    let boots = lan.boots("the session is there", |boots| !boots.is_empty()).await;
    let [boot] = boots.as_slice() else { panic!("one boot: {boots:#?}") };
    assert_eq!(kinds(boot), [Offer, BootServer, Tftp, Loader, Script, Kernel, Initramfs, Session]);
    assert_eq!((boot.mac, boot.address.as_deref()), (machine.mac, Some("127.0.0.1")));
    assert_eq!(step(boot, Offer).detail, "UEFI x86-64");
    let loader = step(boot, Tftp);
    assert_eq!((loader.bytes, loader.count, loader.failed), (LOADER.len() as u64, 1, 0));
    assert_eq!(loader.detail, "ipxe-x64.efi");
    assert!(step(boot, Script).detail.starts_with("Agent: "), "{boot:#?}");
    let kernel = step(boot, Kernel);
    assert_eq!((kernel.bytes, kernel.failed, kernel.detail.as_str()), (300_000, 0, ""));
    assert!(boot.steps.iter().all(|s| s.replica == "replica-0"));
    // It ended where it should: nothing is written behind.
    tokio::time::sleep(STOPPED_AFTER * 4).await;
    assert_eq!(lan.rig.api.writes.load(Ordering::SeqCst), writes + 1);
    let figures = lan.rig.netboot.metrics().encode();
    for line in [
        "kube_baremetal_netboot_boot_steps_total{step=\"Tftp\"} 1",
        "kube_baremetal_netboot_boot_step_seconds_count{step=\"Initramfs\"} 1",
        "kube_baremetal_netboot_boot_seconds_count 1",
    ] {
        assert!(figures.lines().any(|l| l == line), "{line} is not in\n{figures}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_never_reaches_the_agent_is_seen_and_its_session_takes_the_object_over() {
    use BootStepKind::{BootServer, Offer, Session, Tftp, TftpRefused};
    let lan = Lan::start().await;
    let mut machine = uefi(&lan);
    // As firmware with Secure Boot on does: it loads the loader, refuses it, and starts over.
    for times in 1..=2 {
        lan.discover(machine.mac, 7);
        lan.noted("Offer", times).await;
        let file = lan.boot_server(machine.mac);
        assert!(lan.load(&file).await);
        lan.noted("Tftp", times).await;
    }
    assert!(!lan.load("pxelinux.0").await);
    let boots = lan
        .boots("two boots that stopped", |boots| {
            boots.len() == 2 && boots[1].steps.iter().any(|s| s.step == TftpRefused)
        })
        .await;
    assert_eq!(kinds(&boots[0]), [Offer, BootServer, Tftp]);
    assert_eq!(kinds(&boots[1]), [Offer, BootServer, Tftp, TftpRefused]);
    assert!(boots[1].steps[3].detail.starts_with("pxelinux.0: "));
    let name = lan.all().await[0].name_any();
    assert!(lan.all().await[0].status.as_ref().unwrap().inventory.is_none());
    // Secure Boot was switched off.
    let opened = machine.power_on().await.expect("a session");
    assert_eq!(opened.discovery, name, "no second object for one machine");
    let boots = lan
        .boots("the session", |boots| boots.last().is_some_and(|b| b.of_kind(Session).count() == 1))
        .await;
    assert!(boots.len() <= 3 && lan.all().await.len() == 1);
    assert!(lan.all().await[0].status.as_ref().unwrap().inventory.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_write_one_boot_and_one_object() {
    use BootStepKind::{Offer, Script};
    let api = common::api::Api::new();
    let first = Lan::beside(api.clone(), "a", |_| {}).await;
    let second = Lan::beside(api, "b", |_| {}).await;
    let machine = uefi(&first);
    for lan in [&first, &second] {
        lan.discover(machine.mac, 7);
        lan.noted("Offer", 1).await;
    }
    // The script comes from the second one; then nothing more is heard.
    let mut connection = connect_plain(HONEST, second.rig.netboot.addresses().http).await.unwrap();
    send(&mut connection, get(&machine.boot_path())).await;
    let boots = first
        .boots("both have written", |boots| boots.first().is_some_and(|b| b.steps.len() == 3))
        .await;
    assert_eq!(boots.len(), 1, "{boots:#?}");
    let seen: Vec<_> = boots[0].steps.iter().map(|s| (s.step, s.replica.as_str())).collect();
    assert_eq!(seen[2], (Script, "b"));
    assert!(seen[..2].contains(&(Offer, "a")) && seen[..2].contains(&(Offer, "b")), "{seen:?}");
    assert_eq!(first.all().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_forged_machines_makes_few_objects_and_leaves_room_for_real_ones() {
    let lan = Lan::beside(common::api::Api::new(), "replica-0", |config| {
        config.quotas.unfinished = 5;
        config.quotas.creations_per_minute = 1_000;
    })
    .await;
    let writes = lan.rig.api.writes.load(Ordering::SeqCst);
    for n in 0..5_000u32 {
        let [_, b, c, d] = n.to_be_bytes();
        lan.discover(MacAddress([2, 0xf0, 0, b, c, d]), 7);
        if n % 100 == 0 {
            // The socket's buffer must not be what bounds it.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    until("some were written", || async { lan.all().await.len() == 5 }).await;
    tokio::time::sleep(STOPPED_AFTER * 5).await;
    assert_eq!(lan.all().await.len(), 5);
    assert_eq!(lan.rig.api.writes.load(Ordering::SeqCst), writes + 5);
    let mut machine = uefi(&lan);
    machine.power_on().await.expect("a real machine is taken in");
    assert_eq!(lan.all().await.len(), 6);
}
