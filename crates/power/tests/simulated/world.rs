//! A simulator, drivers for what it has, and waiting.

use std::{sync::Arc, time::Duration};

use bmc_simulator::{
    Options, Simulator,
    bmc::Bmc,
    faults::{Fault as Set, Operation, What},
    host::Timing,
    machine::Source,
    profile::{self, Profile},
};
use power::{
    BootDevice, BootOnce, Driver, Fault, Firmware, PowerState,
    calls::{Calls, Limits, Machine},
    redfish::{Redfish, Settings},
};
use tokio::time::{Instant, sleep};

pub const PASSWORD: &str = "simulated-Pass-1";

/// The longest time of a call that asks once and is not answered: one request (12 s), and what goes before it.
pub const UNANSWERED: Duration = Duration::from_secs(16);
/// The longest time of a call that is answered.
pub const ANSWERED: Duration = Duration::from_secs(8);

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

/// A controller of this kind, with a fault.
pub async fn spoilt(kind: &str, what: What, operation: Operation) -> Simulator {
    let profile = profile::named(kind).expect("it is there");
    let simulator = simulator(&profile, 1).await;
    let fault = Set {
        operation,
        ..Set::new("fault", what)
    };
    simulator.fleet().faults().set(fault).expect("a good fault");
    simulator
}

/// What a look at the state comes to, within a bound.
pub async fn look(driver: &dyn Driver, bound: Duration) -> Result<PowerState, Fault> {
    let began = Instant::now();
    let seen = driver.state().await;
    assert!(
        began.elapsed() < bound,
        "{}: {seen:?} after {:?}",
        driver.kind().name,
        began.elapsed()
    );
    seen
}

/// What switching on comes to, within a bound, and whether the first controller's machine has booted.
pub async fn switch(driver: &dyn Driver, simulator: &Simulator, bound: Duration) -> (Result<(), Fault>, bool) {
    let began = Instant::now();
    let done = driver.on().await;
    assert!(
        began.elapsed() < bound,
        "{}: {done:?} after {:?}",
        driver.kind().name,
        began.elapsed()
    );
    sleep(Duration::from_millis(300)).await;
    (done, !boots(simulator.bmc(0), 0).is_empty())
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
