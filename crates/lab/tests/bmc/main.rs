//! A QEMU machine behind a simulated BMC: real firmware goes where drivers tell it to go, once, and power is what it is.
//!
//! What it boots is made here: a disk and a CD of one sector each, which say who they are on the serial console and switch the machine off when its button is
//! pressed. The network is asked for a boot script, which sends firmware on.

mod guest;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bmc_simulator::{Options, Simulator, bmc::Bmc, host::Timing, machine::Source, profile};
use lab::{
    bmc::{Controllers, Way},
    folder::identity,
    qemu::{DiskSpec, Firmware, Machine, MachineSpec, Network, accel::Accelerator, behind::Behind},
};
use power::{
    BootDevice, BootOnce, Driver, Media, Off, PowerState,
    ipmi::{self, Ipmi, handshake::Privilege},
    redfish::{self, Redfish},
};
use tokio::time::{Instant, sleep};

/// Firmware and iPXE, emulated on a busy host.
const LONG: Duration = Duration::from_secs(120);
const DISK: &str = "here is the disk";
const CD: &str = "here is the CD";

/// What the machine asks the network.
struct Served {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Served {
    async fn start() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let script = move || async move {
            counted.fetch_add(1, Ordering::SeqCst);
            // Firmware goes on with its next device.
            "#!ipxe\nexit\n"
        };
        let image = || async { guest::iso(CD) };
        let router = Router::new().route("/boot/ipxe", get(script)).route("/agent.iso", get(image));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A machine whose plug is pulled at the end, also when the test panics.
struct Powered(Machine);

impl Drop for Powered {
    fn drop(&mut self) {
        let pid = self.0.pid().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // It may be gone already.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
        }
    }
}

fn machine(folder: &Path, served: &Served) -> Powered {
    let (mac, uuid) = identity(&folder.display().to_string());
    let spec = MachineSpec {
        name: "bios".to_owned(),
        firmware: Firmware::Bios,
        memory_mib: 64,
        cpus: 1,
        disks: vec![DiskSpec {
            size_bytes: 1 << 20,
            serial: "D0".to_owned(),
            honest_discard: true,
            nbd: None,
        }],
        mac,
        uuid,
        network: Network::BootUrl(format!("http://10.0.2.2:{}/boot/ipxe", served.port)),
    };
    let machine = Machine::create(folder, spec).expect("a machine");
    let mut disk = guest::sector(DISK).to_vec();
    disk.resize(1 << 20, 0);
    std::fs::write(machine.disk_path(0), disk).expect("its disk");
    Powered(machine)
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < LONG, "it never came that {what}");
        sleep(Duration::from_millis(100)).await;
    }
    println!("{what}: after {:.1} s", began.elapsed().as_secs_f64());
}

/// How often this was said on the console.
fn said(machine: &Machine, words: &str) -> usize {
    let log = std::fs::read(machine.console_log()).unwrap_or_default();
    String::from_utf8_lossy(&log).matches(words).count()
}

fn sources(bmc: &Bmc) -> Vec<Source> {
    bmc.hosts[0].boots().iter().map(|boot| boot.source).collect()
}

const fn once(device: BootDevice) -> BootOnce {
    BootOnce {
        device,
        firmware: power::Firmware::Bios,
    }
}

async fn controllers(machine: &Machine) -> (Simulator, Redfish, Ipmi) {
    let controllers = Controllers {
        ways: vec![Way::Redfish, Way::Ipmi],
        simulator: Options {
            profiles: vec![profile::named("sushy-tools").expect("it is there")],
            timing: Timing::short(),
            ..Options::default()
        },
        ..Controllers::default()
    };
    let behind = Behind::new(machine.clone(), Accelerator::Tcg);
    let simulator = controllers.start(vec![behind as _]).await.expect("it starts");
    let Options { user, password, .. } = controllers.simulator;
    let redfish = Redfish::new(redfish::Settings {
        url: simulator.url(0),
        trust: None,
        user: user.clone(),
        password: password.clone().into(),
        system: None,
    });
    let ipmi = Ipmi::new(ipmi::Settings {
        host: simulator.bmc(0).address.to_string(),
        port: simulator.ipmi_port().expect("it is on"),
        user,
        password: password.into(),
        own_key: None,
        privilege: Privilege::Operator,
        suite: None,
    });
    (simulator, redfish.expect("good settings"), ipmi.expect("good settings"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firmware_goes_where_it_is_told_once_and_power_is_what_it_is() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start().await;
    let Powered(machine) = &machine(folder.path(), &served);
    let (simulator, redfish, ipmi) = controllers(machine).await;
    let bmc = simulator.bmc(0);
    assert_eq!(bmc.uuid(0), machine.spec.uuid.to_string());
    assert_eq!(redfish.state().await, Ok(PowerState::Off));

    // Firmware is set up to try the network first.
    ipmi.boot_once(once(BootDevice::Disk)).await.expect("taken");
    ipmi.on().await.expect("taken");
    until("it boots its disk once", async || said(machine, DISK) == 1).await;
    assert_eq!(served.asked(), 0, "nobody asked the network");
    assert_eq!(redfish.state().await, Ok(PowerState::On));

    ipmi.cycle().await.expect("taken");
    until("it asks the network again, and goes on to its disk", async || {
        served.asked() == 1 && said(machine, DISK) == 2
    })
    .await;

    redfish.off(Off::Soft).await.expect("taken");
    until("its system switched it off", async || redfish.state().await == Ok(PowerState::Off)).await;
    assert_eq!(machine.pid(), None, "QEMU ended");

    let media = Media {
        url: format!("http://127.0.0.1:{}/agent.iso", served.port),
    };
    redfish.attach(&media).await.expect("taken");
    ipmi.boot_once(once(BootDevice::Media)).await.expect("taken");
    ipmi.on().await.expect("taken");
    until("it boots the medium", async || said(machine, CD) == 1).await;
    assert_eq!((served.asked(), said(machine, DISK)), (1, 2), "and nothing else");

    // As its own system would.
    machine.reset().await.expect("reset");
    until("a reboot of its own goes where firmware is set up to go", async || {
        served.asked() == 2 && said(machine, DISK) == 3
    })
    .await;
    redfish.detach(&media).await.expect("taken");

    // Of a machine that runs.
    ipmi.boot_once(once(BootDevice::Disk)).await.expect("taken");
    bmc.hosts[0].tell(bmc_simulator::host::Command::Reset, Default::default());
    until("it boots its disk once more", async || said(machine, DISK) == 4).await;
    assert_eq!(served.asked(), 2, "nobody asked the network");
    let process = machine.pid();
    bmc.hosts[0].tell(bmc_simulator::host::Command::Reset, Default::default());
    until("a reset goes where firmware is set up to go", async || {
        served.asked() == 3 && said(machine, DISK) == 5
    })
    .await;
    assert_eq!(machine.pid(), process, "no power was lost");

    redfish.off(Off::Hard).await.expect("taken");
    until("it is off", async || machine.pid().is_none()).await;
    assert_eq!(ipmi.state().await, Ok(PowerState::Off));
    assert_eq!(
        sources(bmc),
        [Source::Disk, Source::Usual, Source::Media, Source::Disk, Source::Usual]
    );

    // It dies: its BMC sees it.
    redfish.on().await.expect("taken");
    until("it boots", async || said(machine, DISK) == 6).await;
    machine.power_off().await.expect("killed");
    until("its BMC sees that it is off", async || redfish.state().await == Ok(PowerState::Off)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_medium_that_is_not_to_be_had_is_an_empty_drive() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::start().await;
    let Powered(machine) = &machine(folder.path(), &served);
    let (_simulator, redfish, ipmi) = controllers(machine).await;
    let media = Media {
        url: format!("http://127.0.0.1:{}/nothing.iso", served.port),
    };
    redfish.attach(&media).await.expect("taken");
    ipmi.boot_once(once(BootDevice::Media)).await.expect("taken");
    ipmi.on().await.expect("taken");
    until("firmware goes on as it is set up", async || {
        served.asked() == 1 && said(machine, DISK) == 1
    })
    .await;
}
