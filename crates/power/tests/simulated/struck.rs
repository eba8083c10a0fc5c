//! Each fault, the error it makes, and the time within which it makes it.

use std::time::Duration;

use bmc_simulator::{
    Simulator,
    faults::{Claim, Operation, What},
    machine::Source,
};
use power::{BootDevice, Driver, Fault, Off, PowerState, redfish::Redfish};
use tokio::time::Instant;

use crate::world::{self, ANSWERED, UNANSWERED, boots, once, redfish, until};

/// A controller with a fault, and a driver for it that has not asked anything yet.
async fn struck(what: What, operation: Operation) -> (Simulator, Redfish) {
    let simulator = world::spoilt("idrac-9", what, operation).await;
    let driver = redfish(&simulator, 0, 0);
    (simulator, driver)
}

async fn look(what: What, operation: Operation, bound: Duration) -> Result<PowerState, Fault> {
    let (_simulator, driver) = struck(what, operation).await;
    world::look(&driver, bound).await
}

async fn switch(what: What, operation: Operation, bound: Duration) -> (Result<(), Fault>, bool) {
    let (simulator, driver) = struck(what, operation).await;
    world::switch(&driver, &simulator, bound).await
}

const fn status(code: u16) -> What {
    What::Status { code, retry_after: None }
}

#[tokio::test]
async fn a_status_is_told_for_what_it_means() {
    assert!(matches!(
        look(status(403), Operation::State, ANSWERED).await,
        Err(Fault::Privilege(_))
    ));
    assert!(matches!(
        look(status(500), Operation::State, ANSWERED).await,
        Err(Fault::Garbled(_))
    ));
    assert!(matches!(
        look(status(401), Operation::Login, ANSWERED).await,
        Err(Fault::Credentials(_))
    ));
    let busy = What::Status {
        code: 503,
        retry_after: Some(7),
    };
    let told = look(busy, Operation::State, ANSWERED).await;
    assert!(
        matches!(told, Err(Fault::Busy { after: Some(after), .. }) if after == Duration::from_secs(7)),
        "{told:?}"
    );
    for code in [status(400), status(409), status(500)] {
        let (told, booted) = switch(code, Operation::Reset, ANSWERED).await;
        assert!(!booted, "{code:?}");
        match code {
            What::Status { code: 400, .. } => assert!(matches!(told, Err(Fault::Refused(_))), "{told:?}"),
            What::Status { code: 409, .. } => assert!(matches!(told, Err(Fault::Busy { .. })), "{told:?}"),
            _ => assert!(matches!(told, Err(Fault::Unanswered(_))), "{told:?}"),
        }
    }
}

#[tokio::test]
async fn silence_ends_in_time_and_a_lost_answer_is_not_taken_for_a_refusal() {
    let (silent, closed, lost, quiet) = tokio::join!(
        look(What::Silent, Operation::State, UNANSWERED),
        look(What::Closed, Operation::State, ANSWERED),
        switch(What::LostAnswer, Operation::Reset, ANSWERED),
        switch(What::Silent, Operation::Reset, UNANSWERED),
    );
    assert!(matches!(silent, Err(Fault::Unreachable(_))), "{silent:?}");
    assert!(matches!(closed, Err(Fault::Unreachable(_))), "{closed:?}");
    // Carried out, or not: nobody may repeat it blindly.
    assert!(matches!(lost, (Err(Fault::Unanswered(_)), true)), "{lost:?}");
    assert!(matches!(quiet, (Err(Fault::Unanswered(_)), false)), "{quiet:?}");
    assert_eq!(look(What::Latency { ms: 300 }, Operation::Any, ANSWERED).await, Ok(PowerState::Off));
}

#[tokio::test]
async fn content_that_is_none_is_noticed() {
    let told = look(What::NotJson, Operation::State, ANSWERED).await;
    assert!(matches!(told, Err(Fault::Garbled(_))), "{told:?}");
    let told = look(What::Truncated, Operation::State, ANSWERED).await;
    assert!(matches!(told, Err(Fault::Unreachable(_) | Fault::Garbled(_))), "{told:?}");
    let told = look(What::Hidden, Operation::State, ANSWERED).await;
    assert!(matches!(told, Err(Fault::Refused(_))), "{told:?}");
    // A state of another kind is none, and the machine can be switched nevertheless.
    assert_eq!(look(What::WrongKinds, Operation::State, ANSWERED).await, Ok(PowerState::Unknown));
    assert_eq!(switch(What::WrongKinds, Operation::State, ANSWERED).await, (Ok(()), true));
    // An answer to a change is judged by its status.
    assert_eq!(switch(What::NotJson, Operation::Reset, ANSWERED).await, (Ok(()), true));
}

#[tokio::test]
async fn without_sessions_it_goes_by_password_and_lies_are_believed() {
    assert_eq!(look(What::SessionsFull, Operation::Any, ANSWERED).await, Ok(PowerState::Off));
    assert_eq!(
        look(What::Lies { power: Claim::On }, Operation::State, ANSWERED).await,
        Ok(PowerState::On)
    );
    // What is said to be on is not switched on: whoever waits for its boot notices.
    let (told, booted) = switch(What::Lies { power: Claim::On }, Operation::State, ANSWERED).await;
    assert_eq!((told, booted), (Ok(()), false));
}

#[tokio::test]
async fn power_that_takes_a_minute_and_machines_that_do_not_listen() {
    let (simulator, driver) = struck(What::SlowPower { ms: 60_000 }, Operation::Any).await;
    let began = Instant::now();
    driver.on().await.expect("taken");
    assert!(began.elapsed() < ANSWERED);
    assert_eq!(driver.state().await, Ok(PowerState::Off), "not yet");
    assert!(boots(simulator.bmc(0), 0).is_empty());

    assert_eq!(switch(What::CommandIgnored, Operation::Any, ANSWERED).await, (Ok(()), false));

    let (simulator, driver) = struck(What::BootIgnored, Operation::Any).await;
    driver.boot_once(once(BootDevice::Network)).await.expect("taken");
    driver.on().await.expect("on");
    until("it has booted", async || boots(simulator.bmc(0), 0) == [Source::Usual]).await;

    let (simulator, driver) = struck(What::ShutdownIgnored, Operation::Any).await;
    driver.on().await.expect("on");
    until("it has booted", async || boots(simulator.bmc(0), 0).len() == 1).await;
    driver.off(Off::Soft).await.expect("taken");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(driver.state().await, Ok(PowerState::On), "it did not listen");
    driver.off(Off::Hard).await.expect("taken");
    until("it is off", async || driver.state().await == Ok(PowerState::Off)).await;
}
