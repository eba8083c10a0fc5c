//! Intel AMT: a machine's life, and each fault with its error and its bound.

use std::time::Duration;

use bmc_simulator::{
    Simulator,
    faults::{Claim, Operation, What},
    machine::Source,
    profile,
};
use power::{
    BootDevice, Driver, Fault, Media, Off, Operation as Call, PowerState,
    amt::{Amt, Settings},
};
use tokio::time::{Instant, sleep};

use crate::world::{self, ANSWERED, PASSWORD, UNANSWERED, boots, once, until};

fn amt(simulator: &Simulator, password: &str) -> Amt {
    Amt::new(Settings {
        url: simulator.url(0),
        trust: None,
        user: "admin".to_owned(),
        password: password.to_owned().into(),
    })
    .expect("good settings")
}

async fn look(what: What, operation: Operation, bound: Duration) -> Result<PowerState, Fault> {
    let simulator = world::spoilt("openbmc", what, operation).await;
    world::look(&amt(&simulator, PASSWORD), bound).await
}

async fn switch(what: What, operation: Operation, bound: Duration) -> (Result<(), Fault>, bool) {
    let simulator = world::spoilt("openbmc", what, operation).await;
    world::switch(&amt(&simulator, PASSWORD), &simulator, bound).await
}

const fn status(code: u16) -> What {
    What::Status { code, retry_after: None }
}

#[tokio::test]
async fn a_machine_lives_with_all_that_the_driver_declares() {
    let profile = profile::named("openbmc").expect("it is there");
    let simulator = world::simulator(&profile, 1).await;
    let (bmc, driver) = (simulator.bmc(0), amt(&simulator, PASSWORD));
    let is = async |wanted: PowerState| until(&format!("it is {wanted:?}"), async || driver.state().await == Ok(wanted)).await;
    let booted = async |count: usize| until(&format!("it has booted {count} times"), async || boots(bmc, 0).len() == count).await;

    assert_eq!(driver.state().await, Ok(PowerState::Off));
    driver.off(Off::Hard).await.expect("it is off");
    driver.boot_once(once(BootDevice::Network)).await.expect("set");
    // What is off is switched on by a cycle.
    driver.cycle().await.expect("on");
    is(PowerState::On).await;
    driver.on().await.expect("it is on");
    driver.cycle().await.expect("cycled");
    booted(2).await;
    driver.boot_once(once(BootDevice::Disk)).await.expect("set");
    driver.cycle().await.expect("cycled");
    booted(3).await;
    bmc.hosts[0].set_image(Some("the CD in its drive".to_owned()));
    driver.boot_once(once(BootDevice::Media)).await.expect("set");
    driver.cycle().await.expect("cycled");
    booted(4).await;
    assert_eq!(boots(bmc, 0), [Source::Network, Source::Usual, Source::Disk, Source::Media]);
    // The same machine by another protocol.
    assert_eq!(world::redfish(&simulator, 0, 0).state().await, Ok(PowerState::On));

    driver.off(Off::Soft).await.expect("taken");
    is(PowerState::Off).await;
    driver.on().await.expect("on");
    is(PowerState::On).await;
    driver.off(Off::Hard).await.expect("off");
    is(PowerState::Off).await;
    // A graceful one is offered to a system that runs.
    driver.off(Off::Soft).await.expect("it is off");

    let media = Media {
        url: "https://192.0.2.1/agent.iso".to_owned(),
    };
    for (told, call) in [
        (driver.boot_once(once(BootDevice::Http)).await, Call::BootOnce(BootDevice::Http)),
        (driver.boot_once(once(BootDevice::Setup)).await, Call::BootOnce(BootDevice::Setup)),
        (driver.attach(&media).await, Call::Attach),
        (driver.detach(&media).await, Call::Detach),
    ] {
        assert_eq!(told, Err(Fault::Incapable(call)));
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_switches_nothing() {
    let profile = profile::named("openbmc").expect("it is there");
    let simulator = world::simulator(&profile, 1).await;
    let wrong = amt(&simulator, "wrong-Pass-1");
    for told in [
        wrong.state().await.map(drop),
        wrong.on().await,
        wrong.boot_once(once(BootDevice::Network)).await,
    ] {
        let Err(fault @ Fault::Credentials(_)) = told else {
            panic!("{told:?}");
        };
        assert!(!fault.to_string().contains("wrong-Pass-1"), "{fault}");
    }
    assert_eq!(simulator.bmc(0).requests(), 0, "nobody was let in");
    assert!(boots(simulator.bmc(0), 0).is_empty());
}

#[tokio::test]
async fn a_look_that_goes_wrong_is_told_for_what_it_is() {
    for (what, right) in [
        (
            status(403),
            (|told| matches!(told, Err(Fault::Privilege(_)))) as fn(&Result<PowerState, Fault>) -> bool,
        ),
        (status(401), |told| matches!(told, Err(Fault::Credentials(_)))),
        (status(500), |told| matches!(told, Err(Fault::Garbled(_)))),
        (status(503), |told| matches!(told, Err(Fault::Busy { .. }))),
        (What::Hidden, |told| matches!(told, Err(Fault::Refused(_)))),
        (What::NotJson, |told| matches!(told, Err(Fault::Garbled(_)))),
        (What::WrongKinds, |told| matches!(told, Err(Fault::Garbled(_)))),
        (What::Truncated, |told| {
            matches!(told, Err(Fault::Unreachable(_) | Fault::Garbled(_)))
        }),
        (What::Closed, |told| matches!(told, Err(Fault::Unreachable(_)))),
        (What::Latency { ms: 300 }, |told| *told == Ok(PowerState::Off)),
        (What::Lies { power: Claim::On }, |told| *told == Ok(PowerState::On)),
    ] {
        let told = look(what, Operation::State, ANSWERED).await;
        assert!(right(&told), "{what:?}: {told:?}");
    }
    let told = look(What::Silent, Operation::State, UNANSWERED).await;
    assert!(matches!(told, Err(Fault::Unreachable(_))), "{told:?}");
}

#[tokio::test]
async fn a_change_that_goes_wrong_is_told_for_what_it_may_have_done() {
    let unanswered: fn(&Result<(), Fault>) -> bool = |told| matches!(told, Err(Fault::Unanswered(_)));
    for (what, right, booted) in [
        (
            status(400),
            (|told| matches!(told, Err(Fault::Refused(_)))) as fn(&Result<(), Fault>) -> bool,
            false,
        ),
        (status(500), unanswered, false),
        (status(503), |told| matches!(told, Err(Fault::Busy { .. })), false),
        // Carried out: nobody may repeat it blindly.
        (What::LostAnswer, unanswered, true),
        (What::NotJson, unanswered, true),
        (What::WrongKinds, unanswered, true),
        (What::Truncated, unanswered, true),
        // A yes that is none, and a no that is not asked for.
        (What::CommandIgnored, Result::is_ok, false),
    ] {
        let (told, has) = switch(what, Operation::Reset, ANSWERED).await;
        assert!(right(&told) && has == booted, "{what:?}: {told:?}, booted: {has}");
    }
    let (told, has) = switch(What::Lies { power: Claim::On }, Operation::State, ANSWERED).await;
    assert!(told.is_ok() && !has, "{told:?}");
    let (told, has) = switch(What::Silent, Operation::Reset, UNANSWERED).await;
    assert!(unanswered(&told) && !has, "{told:?}");
}

#[tokio::test]
async fn a_boot_that_cannot_be_chosen_is_told_and_one_that_is_not_followed_is_not() {
    for what in [status(500), What::NotJson, What::WrongKinds, What::LostAnswer] {
        let simulator = world::spoilt("openbmc", what, Operation::Boot).await;
        let told = amt(&simulator, PASSWORD).boot_once(once(BootDevice::Network)).await;
        assert!(matches!(told, Err(Fault::Unanswered(_))), "{what:?}: {told:?}");
    }
    let simulator = world::spoilt("openbmc", What::BootIgnored, Operation::Any).await;
    let driver = amt(&simulator, PASSWORD);
    driver.boot_once(once(BootDevice::Network)).await.expect("taken");
    driver.on().await.expect("on");
    until("it has booted", async || boots(simulator.bmc(0), 0) == [Source::Usual]).await;
}

#[tokio::test]
async fn power_that_takes_a_minute_and_a_system_that_does_not_listen() {
    let simulator = world::spoilt("openbmc", What::SlowPower { ms: 60_000 }, Operation::Any).await;
    let driver = amt(&simulator, PASSWORD);
    let began = Instant::now();
    driver.on().await.expect("taken");
    assert!(began.elapsed() < ANSWERED);
    assert_eq!(driver.state().await, Ok(PowerState::Off), "not yet");

    let simulator = world::spoilt("openbmc", What::ShutdownIgnored, Operation::Any).await;
    let driver = amt(&simulator, PASSWORD);
    driver.on().await.expect("on");
    until("it is on", async || driver.state().await == Ok(PowerState::On)).await;
    driver.off(Off::Soft).await.expect("taken");
    sleep(Duration::from_millis(300)).await;
    assert_eq!(driver.state().await, Ok(PowerState::On), "it did not listen");
    driver.off(Off::Hard).await.expect("taken");
    until("it is off", async || driver.state().await == Ok(PowerState::Off)).await;
}
