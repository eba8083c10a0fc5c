//! The driver against `ipmi_sim`: every call, wrong secrets, too little privilege, a bad network, a BMC that is reset in the middle.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use power::{
    BootDevice, BootOnce, Driver, Fault, Firmware, Off, PowerState,
    calls::{Calls, Limits},
    ipmi::{
        Ipmi, Settings, chassis,
        client::Client,
        handshake::Privilege,
        session::{Account, SessionError},
        suite::CipherSuite,
    },
};

use crate::{
    peer::Sim,
    relay::{Badness, Relay},
};

fn settings(port: u16) -> Settings {
    Settings {
        host: "127.0.0.1".to_owned(),
        port,
        user: "operator".to_owned(),
        password: "0perator-Pass".to_owned().into(),
        own_key: None,
        privilege: Privilege::Operator,
        suite: None,
    }
}

fn driver(settings: Settings) -> Ipmi {
    Ipmi::new(settings).expect("good settings")
}

#[tokio::test]
async fn a_machine_is_switched_and_told_what_to_boot() {
    let sim = Sim::start();
    let bmc = driver(settings(sim.port));
    assert_eq!(bmc.state().await, Ok(PowerState::Off));
    bmc.off(Off::Hard).await.expect("it is off already");
    assert_eq!(sim.told(), Vec::<String>::new(), "nothing is done to a machine that is off");

    for (device, name) in [
        (BootDevice::Network, "pxe"),
        (BootDevice::Disk, "default"),
        (BootDevice::Media, "cdrom"),
        (BootDevice::Setup, "bios"),
    ] {
        for firmware in [Firmware::Bios, Firmware::Uefi] {
            let done = bmc.boot_once(BootOnce { device, firmware }).await;
            assert_eq!((done, sim.told()), (Ok(()), vec![format!("boot {name}")]), "{device} {firmware:?}");
        }
    }

    bmc.on().await.expect("on");
    assert_eq!((bmc.state().await, sim.told()), (Ok(PowerState::On), vec!["power 1".to_owned()]));
    bmc.on().await.expect("it is on already");
    assert_eq!(sim.told(), Vec::<String>::new());
    bmc.cycle().await.expect("cycled");
    // Off at once, and on after some seconds.
    let began = Instant::now();
    while bmc.state().await != Ok(PowerState::On) {
        assert!(began.elapsed() < Duration::from_secs(30), "still off");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(sim.told(), ["power 0", "power 1"]);
    bmc.off(Off::Soft).await.expect("asked to shut down");
    assert_eq!(
        (bmc.state().await, sim.told()),
        (Ok(PowerState::Off), vec!["shutdown 1".to_owned()])
    );
    // One that is off boots too.
    bmc.cycle().await.expect("on");
    assert_eq!((bmc.state().await, sim.told()), (Ok(PowerState::On), vec!["power 1".to_owned()]));
    bmc.off(Off::Hard).await.expect("off");
    assert_eq!((bmc.state().await, sim.told()), (Ok(PowerState::Off), vec!["power 0".to_owned()]));
}

fn account() -> Account {
    Account {
        user: "operator".to_owned(),
        password: "0perator-Pass".to_owned().into(),
        own_key: None,
        privilege: Privilege::Operator,
        suites: &[CipherSuite::Three],
    }
}

#[tokio::test]
async fn a_session_that_is_held_is_kept_alive() {
    let sim = Sim::start();
    let mut client = Client::open("127.0.0.1", sim.port, account()).await.expect("a session");
    // Once is due after 20 s.
    client.pause(Duration::from_secs(21)).await.expect("kept alive");
    assert_eq!(client.ask(chassis::status()).await.map(|answer| answer.completion), Ok(0));
    client.close().await;
}

#[tokio::test]
async fn sessions_are_given_back() {
    let sim = Sim::start();
    let bmc = driver(settings(sim.port));
    // The user may have ten at the same time.
    for turn in 0..40 {
        assert_eq!(bmc.state().await, Ok(PowerState::Off), "turn {turn}");
    }
}

#[tokio::test]
async fn wrong_secrets_and_too_little_privilege_are_said_and_not_retried() {
    let mut sim = Sim::start();
    for (user, password) in [("operator", "mistaken-Pass"), ("stranger", "0perator-Pass")] {
        let bmc = driver(Settings {
            user: user.to_owned(),
            password: password.to_owned().into(),
            ..settings(sim.port)
        });
        let began = Instant::now();
        let fault = bmc.on().await.expect_err(user);
        assert!(matches!(fault, Fault::Credentials(_)), "{user}: {fault}");
        assert!(!fault.to_string().contains(password), "{fault}");
        assert!(began.elapsed() < Duration::from_secs(3), "{user}: {:?}", began.elapsed());
    }
    // Who may look may look, and not switch. The simulator gives every user the privilege that is asked for; how one is refused at login is in `pure`.
    let viewer = driver(Settings {
        user: "viewer".to_owned(),
        password: "v1ewer-Pass".to_owned().into(),
        privilege: Privilege::User,
        ..settings(sim.port)
    });
    assert_eq!(viewer.state().await, Ok(PowerState::Off));
    let fault = viewer.on().await.expect_err("no privilege");
    assert!(matches!(fault, Fault::Privilege(_)), "{fault}");
    assert_eq!(sim.told(), Vec::<String>::new());

    // The simulator has no suite 17, and says so at once.
    let newer = driver(Settings {
        suite: Some(CipherSuite::Seventeen),
        ..settings(sim.port)
    });
    let fault = newer.state().await.expect_err("no such suite");
    assert!(matches!(fault, Fault::NotOffered { .. }), "{fault}");

    sim.power_down();
    let began = Instant::now();
    let fault = driver(settings(sim.port)).state().await.expect_err("nobody is there");
    assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_bad_network_is_outlasted() {
    let sim = Sim::start();
    let badness = Badness {
        lost: 15,
        doubled: 15,
        swapped: 10,
    };
    let relay = Relay::start(sim.port, badness, 7);
    let calls = Calls::new(Limits::default());
    let machine = calls.machine("m-1", Arc::new(driver(settings(relay.port))));
    for turn in 0..4 {
        calls.on(&machine).await.unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        assert_eq!(calls.state(&machine).await, Ok(PowerState::On), "turn {turn}");
        calls
            .off(&machine, Off::Hard)
            .await
            .unwrap_or_else(|error| panic!("turn {turn}: {error}"));
        assert_eq!(calls.state(&machine).await, Ok(PowerState::Off), "turn {turn}");
    }
    let (lost, doubled) = (
        relay.lost.load(std::sync::atomic::Ordering::Relaxed),
        relay.doubled.load(std::sync::atomic::Ordering::Relaxed),
    );
    println!("{lost} datagrams lost, {doubled} doubled");
    assert!(lost > 10 && doubled > 10, "{lost} lost, {doubled} doubled");
}

#[tokio::test]
async fn a_bmc_that_is_reset_in_the_middle_is_asked_again_in_a_new_session() {
    let mut sim = Sim::start();
    let mut client = Client::open("127.0.0.1", sim.port, account()).await.expect("a session");
    assert_eq!(client.ask(chassis::status()).await.map(|answer| answer.completion), Ok(0));
    sim.power_down();
    sim.power_up();
    let began = Instant::now();
    let error = client.ask(chassis::status()).await.expect_err("the session is gone");
    assert!(matches!(error, SessionError::Silent { request: true, .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    client.close().await;
    assert_eq!(driver(settings(sim.port)).state().await, Ok(PowerState::Off));

    // A call goes on while the BMC is away, and comes to its end when it is back.
    sim.power_down();
    let calls = Calls::new(Limits::default());
    let machine = calls.machine("m-1", Arc::new(driver(settings(sim.port))));
    let call = tokio::spawn(async move { calls.state(&machine).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    sim.power_up();
    assert_eq!(call.await.expect("no panic"), Ok(PowerState::Off));
}
