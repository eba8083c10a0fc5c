//! A simulator, drivers for what it has, and waiting.

use std::{sync::Arc, time::Duration};

use bmc_simulator::{Options, Simulator, bmc::Bmc, host::Timing, machine::Source, profile::Profile};
use power::{
    BootDevice, BootOnce, Firmware,
    calls::{Calls, Limits, Machine},
    redfish::{Redfish, Settings},
};
use tokio::time::{Instant, sleep};

pub const PASSWORD: &str = "simulated-Pass-1";

/// The next boot goes there, by UEFI.
pub const fn once(device: BootDevice) -> BootOnce {
    BootOnce {
        device,
        firmware: Firmware::Uefi,
    }
}

pub fn options(profile: &Arc<Profile>, controllers: usize, systems: usize) -> Options {
    Options {
        controllers,
        systems,
        profiles: vec![Arc::clone(profile)],
        timing: Timing::short(),
        ..Options::default()
    }
}

pub async fn simulator(profile: &Arc<Profile>, systems: usize) -> Simulator {
    Simulator::start(options(profile, 1, systems)).await.expect("it starts")
}

/// A driver of a machine; it is named where the controller shows several.
pub fn redfish(simulator: &Simulator, controller: usize, system: usize) -> Redfish {
    let bmc = simulator.bmc(controller);
    let several = bmc.hosts.len() > 1 || !bmc.profile.paths.besides.is_empty();
    Redfish::new(Settings {
        url: simulator.url(controller),
        trust: None,
        user: "admin".to_owned(),
        password: PASSWORD.to_owned().into(),
        system: several.then(|| bmc.system_id(system)),
    })
    .expect("good settings")
}

/// Calls as the product makes them, and a machine for them.
pub fn called(simulator: &Simulator, controller: usize, system: usize) -> (Calls, Machine) {
    let calls = Calls::new(Limits::default());
    let machine = calls.machine(format!("m-{controller}-{system}"), Arc::new(redfish(simulator, controller, system)));
    (calls, machine)
}

/// Waits until something is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(20), "it never came that {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The sources of a machine's boots.
pub fn boots(bmc: &Bmc, system: usize) -> Vec<Source> {
    bmc.hosts[system].boots().iter().map(|boot| boot.source).collect()
}
