//! One server process, its API, and machines that end with the test.

use std::{
    fmt::Debug,
    io::{Read, Seek, SeekFrom},
    ops::Deref,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_protocol::order::ImageFormat;
use api::{
    BareMetalDiscovery, BareMetalDiscoveryPolicy, BareMetalDiscoveryPolicySpec, BareMetalHardware, BareMetalHardwareSpec, BareMetalImage,
    BareMetalImageSpec, BareMetalInstance, BareMetalInstanceSpec, HardwarePhase, InstancePhase,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use lab::{
    folder::identity,
    qemu::{DiskSpec, Firmware, Machine, MachineSpec, Network, accel::Accelerator},
    server::{Options, Server},
};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{disk_image::TinyOs, http::ImageServer};

/// A boot into the agent, and whatever follows it, on a small and busy host.
pub const LONG: u64 = 240;
const NAMESPACE: &str = "default";

/// Everything but the machines.
pub struct World {
    pub server: Server,
    pub client: Client,
    pub images: ImageServer,
    folder: tempfile::TempDir,
    accel: Accelerator,
    started: Instant,
}

/// A machine whose plug is pulled at the end, also when the test panics.
pub struct Powered(pub Machine);

impl Deref for Powered {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read(self.console_log()).unwrap_or_default();
            let text = String::from_utf8_lossy(&log);
            let tail: Vec<&str> = text.lines().rev().take(25).collect();
            eprintln!("--- {}: end of its serial console", self.spec.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        kill(&self.0);
    }
}

fn kill(machine: &Machine) {
    if let Some(pid) = machine
        .pid()
        .and_then(|p| i32::try_from(p).ok())
        .and_then(rustix::process::Pid::from_raw)
    {
        // It may be gone already.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
    }
}

fn variable(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(path) => path.into(),
        None => panic!("{name} is not set: `make test-faults` builds everything and sets it"),
    }
}

/// A disk.
pub fn disk(serial: &str, mebibytes: u64) -> DiskSpec {
    DiskSpec {
        size_bytes: mebibytes << 20,
        serial: serial.to_owned(),
        honest_discard: true,
        nbd: None,
    }
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further arguments for the server.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("kbm-faults-").tempdir().unwrap();
        let options = Options {
            program: variable("KBM_PROGRAM"),
            state: folder.path().to_owned(),
            media: variable("KBM_BOOTMEDIA"),
            images: None,
            lan: None,
            // There is no guest helper in a boot sector: its silence is the evidence.
            arguments: [&["--local-boot-confirmed-after", "5"][..], arguments]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect(),
        };
        let mut server = Server::start(options).await.unwrap();
        let client = server.client().await.unwrap();
        let accel = Accelerator::detect().await;
        Self {
            server,
            client,
            images: ImageServer::start(),
            folder,
            accel,
            started: Instant::now(),
        }
    }

    /// Tells how long after the start of the world something was seen.
    pub fn tell(&self, what: &str) {
        println!("{:6.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// A BIOS machine that boots from the network first; still off.
    pub fn machine(&self, name: &str, disks: Vec<DiskSpec>) -> Powered {
        let (mac, uuid) = identity(&format!("faults/{name}"));
        let spec = MachineSpec {
            name: name.to_owned(),
            firmware: Firmware::Bios,
            memory_mib: 512,
            cpus: 1,
            disks,
            mac,
            uuid,
            network: Network::BootUrl(format!("http://10.0.2.2:{}/boot/ipxe", self.server.http_port)),
        };
        Powered(Machine::create(self.folder.path(), spec).unwrap())
    }

    /// A folder for what belongs to this world.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn power_on(&self, machine: &Machine) {
        machine.power_on(self.accel).await.unwrap();
    }

    /// Starts a machine that has nothing but this disk, and says what happened: the line of an operating system, or firmware's "not bootable".
    pub async fn boots_from(&self, disk: &Path, os: &TinyOs) -> bool {
        let (serial, firmware) = (self.folder.path().join("alone.serial"), self.folder.path().join("alone.firmware"));
        for file in [&serial, &firmware] {
            std::fs::write(file, "").unwrap();
        }
        let mut guest = tokio::process::Command::new("qemu-system-x86_64");
        guest.args([
            "-accel",
            "tcg",
            "-machine",
            "q35",
            "-m",
            "64",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ]);
        // What it writes is thrown away: the disk is evidence, and may be another machine's that is on.
        guest.args([
            "-drive",
            &format!(
                "if=none,id=d0,format=raw,snapshot=on,file.locking=off,file.filename={}",
                disk.display()
            ),
        ]);
        guest.args([
            "-device",
            "virtio-blk-pci,drive=d0,bootindex=1",
            "-serial",
            &format!("file:{}", serial.display()),
        ]);
        guest.args([
            "-chardev",
            &format!("file,id=fw,path={}", firmware.display()),
            "-device",
            "isa-debugcon,iobase=0x402,chardev=fw",
        ]);
        let mut guest = guest.kill_on_drop(true).spawn().unwrap();
        let said = |file: &PathBuf| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
        let end = Instant::now() + Duration::from_secs(60);
        let boots = loop {
            if said(&serial).contains(&os.line()) {
                break true;
            }
            let words = said(&firmware);
            if words.contains("No bootable device") {
                assert!(words.contains("Booting from Hard Disk"), "firmware never tried the disk:\n{words}");
                break false;
            }
            assert!(Instant::now() < end, "firmware came to no end within 60 s:\n{words}");
            sleep(Duration::from_millis(20)).await;
        };
        guest.kill().await.unwrap();
        boots
    }

    fn named(name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        }
    }

    /// Accepts every machine.
    pub async fn accept_all(&self) {
        let policy = BareMetalDiscoveryPolicy {
            metadata: Self::named("all"),
            spec: BareMetalDiscoveryPolicySpec {
                when: "true".to_owned(),
                ..BareMetalDiscoveryPolicySpec::default()
            },
        };
        Api::all(self.client.clone()).create(&PostParams::default(), &policy).await.unwrap();
    }

    pub async fn accept(&self, discovery: &str, spec: BareMetalHardwareSpec) {
        let hardware = BareMetalHardware {
            metadata: Self::named(discovery),
            spec: BareMetalHardwareSpec {
                discovery_name: discovery.to_owned(),
                ..spec
            },
            status: None,
        };
        Api::all(self.client.clone())
            .create(&PostParams::default(), &hardware)
            .await
            .unwrap();
    }

    /// An image that machines fetch themselves: its faults are the machine's own to find.
    pub async fn image(&self, name: &str, file: &str, digest: &str, format: ImageFormat) {
        self.delivered_image(name, self.images.url(file), digest, format, api::ImageDelivery::Streamed)
            .await;
    }

    /// An image that the server fetches, packs and hands out.
    pub async fn packed_image(&self, name: &str, file: &str, digest: &str, format: ImageFormat) {
        self.delivered_image(name, self.images.url_from_here(file), digest, format, api::ImageDelivery::Prepared)
            .await;
    }

    async fn delivered_image(&self, name: &str, url: String, digest: &str, format: ImageFormat, delivery: api::ImageDelivery) {
        let spec = BareMetalImageSpec {
            url,
            digest: digest.to_owned(),
            format,
            delivery: Some(delivery),
            ..BareMetalImageSpec::default()
        };
        self.image_of(name, spec).await;
    }

    pub async fn image_of(&self, name: &str, spec: BareMetalImageSpec) {
        let image = BareMetalImage {
            metadata: Self::named(name),
            spec,
            status: None,
        };
        Api::all(self.client.clone()).create(&PostParams::default(), &image).await.unwrap();
    }

    /// An instance on a given machine; its UID.
    pub async fn instance(&self, name: &str, image: &str, hardware: &str) -> String {
        let instance = BareMetalInstance {
            metadata: Self::named(name),
            spec: BareMetalInstanceSpec {
                image: image.to_owned(),
                hardware_name: Some(hardware.to_owned()),
                running: true,
                config_drive: true,
                guest_helper: false,
                ..BareMetalInstanceSpec::default()
            },
            status: None,
        };
        let api: Api<BareMetalInstance> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.create(&PostParams::default(), &instance).await.unwrap().uid().unwrap()
    }

    pub fn instances(&self) -> Api<BareMetalInstance> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn hardware(&self) -> Api<BareMetalHardware> {
        Api::all(self.client.clone())
    }

    pub fn discoveries(&self) -> Api<BareMetalDiscovery> {
        Api::all(self.client.clone())
    }

    pub async fn patch_hardware(&self, name: &str, patch: Value) {
        self.hardware()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub async fn patch_image(&self, name: &str, spec: Value) {
        let api: Api<BareMetalImage> = Api::all(self.client.clone());
        let patch = serde_json::json!({ "spec": spec });
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits until `look` finds something, and gives it. The server may be away meanwhile.
    pub async fn until<T>(&self, what: &str, seconds: u64, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match look().await {
                Ok(found) => {
                    self.tell(what);
                    return found;
                }
                Err(seen) => assert!(Instant::now() < end, "not within {seconds} s: {what}. Last seen: {seen}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The name of the BareMetalDiscovery of a machine, once it has opened a session after `than`.
    pub async fn session_of(&self, machine: &Machine, than: &str) -> (String, String) {
        let what = format!("{}: an agent session", machine.spec.name);
        self.until(&what, LONG, async || {
            let list = self.discoveries().list(&Default::default()).await.map_err(|e| e.to_string())?;
            let found = list.items.into_iter().find_map(|d| {
                let session = d.status.as_ref()?.session.as_ref()?;
                (session.boot_mac == machine.spec.mac && session.id != than).then(|| (d.name_any(), session.id.clone()))
            });
            found.ok_or_else(|| "no such session".to_owned())
        })
        .await
    }

    /// Waits until a machine's hardware object is as wanted.
    pub async fn until_hardware(
        &self,
        name: &str,
        what: &str,
        seconds: u64,
        is_so: impl Fn(&BareMetalHardware) -> bool,
    ) -> BareMetalHardware {
        self.until(&format!("{name}: {what}"), seconds, async || {
            let hardware = self.hardware().get(name).await.map_err(|e| e.to_string())?;
            if is_so(&hardware) {
                return Ok(hardware);
            }
            let status = hardware.status.unwrap_or_default();
            Err(format!("{:?} {} {}", status.phase, status.reason, status.message))
        })
        .await
    }

    pub async fn until_ready(&self, name: &str) -> BareMetalHardware {
        let ready = |h: &BareMetalHardware| h.status.as_ref().is_some_and(|s| s.phase == HardwarePhase::Ready);
        self.until_hardware(name, "Ready", LONG, ready).await
    }

    /// Waits until an instance is as wanted.
    pub async fn until_instance(
        &self,
        name: &str,
        what: &str,
        seconds: u64,
        is_so: impl Fn(&BareMetalInstance) -> bool,
    ) -> BareMetalInstance {
        self.until(&format!("{name}: {what}"), seconds, async || {
            let instance = self.instances().get(name).await.map_err(|e| e.to_string())?;
            if is_so(&instance) {
                return Ok(instance);
            }
            let status = instance.status.unwrap_or_default();
            Err(format!("{:?} {} {}", status.phase, status.reason, status.message))
        })
        .await
    }

    /// Waits until an instance runs, and its system was heard on the serial port.
    pub async fn until_running(&self, name: &str, machine: &Machine, os: &TinyOs) -> BareMetalInstance {
        let running = |i: &BareMetalInstance| i.status.as_ref().is_some_and(|s| s.phase == InstancePhase::Running);
        let instance = self.until_instance(name, "Running", LONG, running).await;
        let said = console(machine, 0);
        assert!(
            said.contains(&os.line()),
            "Running, and nothing was heard on the serial port of {}",
            machine.spec.name
        );
        instance
    }

    /// Waits for something that is seen from outside of the machine, as closely as this host can look.
    pub async fn until_seen<T: Debug>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(LONG);
        loop {
            if let Some(found) = look() {
                self.tell(what);
                return found;
            }
            assert!(Instant::now() < end, "not within {LONG} s: {what}");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// What a machine said on its serial console, from a byte on.
pub fn console(machine: &Machine, from: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(machine.console_log()) {
        file.seek(SeekFrom::Start(from)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How much it has said.
pub fn console_length(machine: &Machine) -> u64 {
    std::fs::metadata(machine.console_log()).map_or(0, |m| m.len())
}
