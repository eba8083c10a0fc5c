//! The life of the agent from the kernel's hand-over to the restart.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::inventory::Inventory;

use crate::{
    cmdline::CommandLine,
    console::Console,
    modules::{self, Loader},
    net,
    runner::Runner,
    session::{Introduction, Session},
    share::Place,
    system::{self, Down},
};

/// How long an error stays readable before the machine restarts.
const READABLE: Duration = Duration::from_secs(30);
/// How long no device may have appeared before the inventory is taken. The kernel finds the disks of one controller within less.
const QUIET: Duration = Duration::from_millis(800);
/// How long a machine without any disk is given to find one (USB and RAID controllers take their time).
const DISK_PATIENCE: Duration = Duration::from_secs(15);
/// The longest wait for devices.
const SETTLE: Duration = Duration::from_secs(45);

/// Runs as PID 1. Never returns.
pub fn run() -> ! {
    system::mount_all();
    system::quiet_kernel();
    system::gather_randomness();
    let console = Arc::new(Console::open());
    let shown = Arc::clone(&console);
    std::panic::set_hook(Box::new(move |info| shown.say(format!("panic: {info}"))));
    loop {
        let down = match catch_unwind(AssertUnwindSafe(|| live(&console))) {
            Ok(Ok(down)) => down,
            Ok(Err(error)) => {
                console.say(format!("error: {error:#}"));
                wait_readable(&console);
                Down::Restart
            }
            Err(_) => {
                wait_readable(&console);
                Down::Restart
            }
        };
        console.say(match down {
            Down::Restart => "restarting",
            Down::PowerOff => "switching off",
        });
        if let Err(error) = system::go_down(down) {
            console.say(format!("error: the kernel refuses to go down: {error}"));
            std::thread::sleep(READABLE);
        }
    }
}

fn wait_readable(console: &Console) {
    console.say(format!("the machine restarts in {} seconds", READABLE.as_secs()));
    std::thread::sleep(READABLE);
}

/// What has to be known before the network is: order of start-up, and the bounds on waiting for devices.
fn live(console: &Arc<Console>) -> anyhow::Result<Down> {
    let started = Instant::now();
    let uptime = system::uptime().as_secs_f64();
    console.say(format!(
        "agent {} started, {uptime:.1} s after the kernel",
        env!("CARGO_PKG_VERSION")
    ));
    let command_line = CommandLine::parse(&fs::read_to_string("/proc/cmdline")?)?;
    let loader = Loader::open_for_boot()?;
    modules::watch(&loader)?;
    let coldplug = Arc::clone(&loader);
    let coldplug = std::thread::Builder::new()
        .name("coldplug".to_owned())
        .spawn(move || coldplug.coldplug())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::spawn(system::reap());
        console.update(|s| "bringing the network up".clone_into(&mut s.doing));
        let network = net::bring_up(&command_line, console).await?;
        let (name, lease) = (&network.interface.name, &network.lease);
        let address = format!("{}/{}", lease.address, lease.prefix);
        console.say(format!(
            "network {name} has {address}, {:.1} s after the kernel",
            system::uptime().as_secs_f64()
        ));
        let boot_mac = command_line.boot_mac.unwrap_or(network.nic.mac);
        console.update(|s| {
            s.mac = boot_mac.to_string();
            s.address.clone_from(&address);
            "looking at the hardware".clone_into(&mut s.doing);
        });
        settle(&loader, &coldplug, started).await;
        system::mount_efivarfs();
        let mut options = machine::inventory::Options::of_this_machine(Some(boot_mac));
        options.addresses.insert(network.nic.name.clone(), vec![address]);
        let mut inventory = tokio::task::spawn_blocking(move || machine::inventory::collect(&options)).await?;
        inventory.connection = Some(network.connection.clone());
        describe(console, &inventory);
        let place = Place {
            address: lease.address,
            prefix: lease.prefix,
        };
        let runner = Runner::of_this_machine(
            inventory.disks.clone(),
            command_line.servers.clone(),
            command_line.ca.clone(),
            place,
        );
        let introduction = Introduction {
            servers: command_line.servers,
            ca: command_line.ca,
            token: command_line.token,
            boot_mac,
            inventory,
        };
        match Session::open(&introduction, console).await? {
            Ok(session) => Ok(session.run(Arc::new(runner)).await),
            Err(down) => Ok(down),
        }
    })
}

/// Waits until devices have stopped appearing: nothing new for [`QUIET`]; if there is no disk yet, [`DISK_PATIENCE`]; in no case longer
/// than [`SETTLE`].
async fn settle(loader: &Loader, coldplug: &std::thread::JoinHandle<()>, started: Instant) {
    while started.elapsed() < SETTLE {
        let disks = fs::read_dir("/sys/block").is_ok_and(|mut d| d.next().is_some());
        if coldplug.is_finished() && loader.quiet_for() >= QUIET && (disks || started.elapsed() >= DISK_PATIENCE) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn describe(console: &Console, inventory: &Inventory) {
    let system = &inventory.system;
    let machine = [&system.vendor, &system.product, &system.serial]
        .into_iter()
        .flatten()
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    let uuid = system.uuid.map(|u| u.to_string()).unwrap_or_default();
    console.say(format!(
        "machine {machine:?} uuid={uuid} cpus={} memory={}MiB disks={} nics={}",
        inventory.cpu.threads,
        inventory.memory.bytes >> 20,
        inventory.disks.len(),
        inventory.nics.len()
    ));
    if let Some(bmc) = &inventory.bmc {
        let address = bmc.address.as_deref().unwrap_or("none");
        let firmware = bmc.firmware.as_deref().unwrap_or("unknown");
        console.say(format!("bmc {} address={address} firmware={firmware}", bmc.interface));
        if let Some(problem) = &bmc.problem {
            console.say(format!("bmc: {problem}"));
        }
    }
    for disk in &inventory.disks {
        console.say(format!(
            "disk {} {} {} MiB {:?}",
            disk.name,
            disk.identity.label(),
            disk.size_bytes >> 20,
            disk.contents.state
        ));
    }
    console.update(|s| {
        s.machine = machine;
        s.uuid = uuid;
        "opening a session".clone_into(&mut s.doing);
    });
}
