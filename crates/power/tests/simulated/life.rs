//! A machine's life with each vendor's manners.

use std::sync::Arc;

use bmc_simulator::{
    machine::{Boot, Source},
    profile::{self, Once, Profile},
};
use futures::future::join_all;
use power::{
    BootDevice, Driver, Fault, Media, Off, PowerState,
    calls::{Calls, Machine},
};

use crate::world::{boots, called, once, redfish, simulator, until};

/// Some controllers fetch by HTTPS only.
const IMAGE: &str = "https://192.0.2.1/agent.iso";

/// Runs something with every profile, all at the same time.
async fn with_each(run: impl AsyncFn(&Arc<Profile>)) {
    assert!(profile::ALL.len() >= 10);
    join_all(profile::ALL.iter().map(|profile| run(profile))).await;
}

async fn becomes(calls: &Calls, machine: &Machine, wanted: PowerState, name: &str) {
    until(&format!("{name} is {wanted:?}"), async || calls.state(machine).await == Ok(wanted)).await;
}

#[tokio::test]
async fn a_machine_is_booted_once_from_the_network_and_then_from_its_disk() {
    with_each(async |profile| {
        let name = &profile.name;
        let simulator = simulator(profile, 1).await;
        let bmc = simulator.bmc(0);
        let (calls, machine) = called(&simulator, 0, 0);
        let done = |what: &str, result: Result<(), power::PowerError>| result.unwrap_or_else(|error| panic!("{name}, {what}: {error}"));

        assert_eq!(calls.state(&machine).await, Ok(PowerState::Off), "{name}");
        done("boot once", calls.boot_once(&machine, once(BootDevice::Network)).await);
        done("cycle", calls.cycle(&machine).await);
        becomes(&calls, &machine, PowerState::On, name).await;
        let network = Boot {
            source: Source::Network,
            uefi: true,
            image: None,
        };
        assert_eq!(bmc.hosts[0].boots(), std::slice::from_ref(&network), "{name}");

        done("cycle again", calls.cycle(&machine).await);
        until(&format!("{name} has booted twice"), async || boots(bmc, 0).len() == 2).await;
        // Where `Once` is not kept, the network it is again: the boot script has to send it to its disk.
        let second = match profile.boot.once {
            Once::Kept => Source::Usual,
            Once::Ignored => Source::Network,
        };
        assert_eq!(boots(bmc, 0)[1], second, "{name}");

        // With the power on, too.
        done("boot once from disk", calls.boot_once(&machine, once(BootDevice::Disk)).await);
        done(
            "boot once from the network",
            calls.boot_once(&machine, once(BootDevice::Network)).await,
        );
        done("cycle", calls.cycle(&machine).await);
        until(&format!("{name} has booted three times"), async || boots(bmc, 0).len() == 3).await;
        assert_eq!(bmc.hosts[0].boots()[2], network, "{name}");

        done("shut down", calls.off(&machine, Off::Soft).await);
        becomes(&calls, &machine, PowerState::Off, name).await;
        done("on", calls.on(&machine).await);
        becomes(&calls, &machine, PowerState::On, name).await;
        done("off", calls.off(&machine, Off::Hard).await);
        becomes(&calls, &machine, PowerState::Off, name).await;
        done("off again", calls.off(&machine, Off::Hard).await);
        done("close", calls.close(&machine).await);
        assert_eq!(bmc.sessions(), 0, "{name}: its session is given back");
    })
    .await;
}

#[tokio::test]
async fn an_attached_medium_is_booted_once() {
    with_each(async |profile| {
        let name = &profile.name;
        let simulator = simulator(profile, 1).await;
        let bmc = simulator.bmc(0);
        let (calls, machine) = called(&simulator, 0, 0);
        let media = Media { url: IMAGE.to_owned() };
        if profile.media.is_none() {
            let error = calls.attach(&machine, &media).await.expect_err("there is no drive");
            assert!(matches!(error.fault, Fault::NotOffered { .. }), "{name}: {error}");
            return;
        }
        let done = |what: &str, result: Result<(), power::PowerError>| result.unwrap_or_else(|error| panic!("{name}, {what}: {error}"));
        let other = Media {
            url: "https://192.0.2.1/other.iso".to_owned(),
        };
        done("attach another", calls.attach(&machine, &other).await);
        done("attach", calls.attach(&machine, &media).await);
        done("attach what is attached", calls.attach(&machine, &media).await);
        done("boot once from it", calls.boot_once(&machine, once(BootDevice::Media)).await);
        done("on", calls.on(&machine).await);
        becomes(&calls, &machine, PowerState::On, name).await;
        let booted = Boot {
            source: Source::Media,
            uefi: true,
            image: Some(IMAGE.to_owned()),
        };
        assert_eq!(bmc.hosts[0].boots(), [booted], "{name}");
        done("detach what is not there", calls.detach(&machine, &other).await);
        assert_eq!(bmc.hosts[0].image().as_deref(), Some(IMAGE), "{name}: somebody else's medium stays");
        done("detach", calls.detach(&machine, &media).await);
        assert_eq!(bmc.hosts[0].image(), None, "{name}");
        done("detach what is empty", calls.detach(&machine, &media).await);
        // Whatever the override says: nothing is in it.
        done("cycle", calls.cycle(&machine).await);
        until(&format!("{name} has booted twice"), async || boots(bmc, 0).len() == 2).await;
        assert_eq!(boots(bmc, 0)[1], Source::Usual, "{name}");
    })
    .await;
}

#[tokio::test]
async fn of_two_machines_behind_one_controller_only_the_one_that_is_meant_is_switched() {
    with_each(async |profile| {
        let name = &profile.name;
        let simulator = simulator(profile, 2).await;
        let bmc = simulator.bmc(0);
        let (calls, second) = called(&simulator, 0, 1);
        calls
            .boot_once(&second, once(BootDevice::Network))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        calls.on(&second).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        becomes(&calls, &second, PowerState::On, name).await;
        let first = calls.machine("first", Arc::new(redfish(&simulator, 0, 0)));
        assert_eq!(calls.state(&first).await, Ok(PowerState::Off), "{name}");
        assert_eq!((boots(bmc, 0), boots(bmc, 1)), (vec![], vec![Source::Network]), "{name}");
    })
    .await;
}

#[tokio::test]
async fn sessions_are_not_leaked() {
    with_each(async |profile| {
        let name = &profile.name;
        let simulator = simulator(profile, 1).await;
        let driver = redfish(&simulator, 0, 0);
        for _ in 0..50 {
            assert_eq!(driver.state().await, Ok(PowerState::Off), "{name}");
        }
        assert!(simulator.bmc(0).sessions() <= 1, "{name}: {}", simulator.bmc(0).sessions());
        // Others that never give theirs back do not lock us out.
        let most = profile.sessions.as_ref().map_or(0, |sessions| sessions.most);
        for _ in 0..most {
            let other = redfish(&simulator, 0, 0);
            assert_eq!(other.state().await, Ok(PowerState::Off), "{name}");
        }
        assert_eq!(simulator.bmc(0).sessions(), most, "{name}");
        let late = redfish(&simulator, 0, 0);
        assert_eq!(late.state().await, Ok(PowerState::Off), "{name}: by user and password");
        assert_eq!(simulator.bmc(0).sessions(), most, "{name}");
    })
    .await;
}
