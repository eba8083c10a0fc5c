//! Plugs: a machine's life behind each make, and each fault with its error and its bound.

use std::{sync::Arc, time::Duration};

use bmc_simulator::{
    Simulator,
    faults::{Claim, Operation, What},
    profile,
};
use futures::future::join_all;
use power::{
    BootDevice, Driver, Fault, Off, Operation as Call, PowerState,
    plug::{self, Load, Plug, home_assistant::HomeAssistant, shelly::Shelly, tasmota::Tasmota},
};
use tokio::time::Instant;

use crate::world::{self, ANSWERED, PASSWORD, UNANSWERED, boots, once, until};

/// Plugs of this make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Make {
    Shelly,
    Tasmota,
    HomeAssistant,
}

use Make::{HomeAssistant as Home, Shelly as Sh, Tasmota as Ta};

const MAKES: [Make; 3] = [Sh, Ta, Home];
const MEASURED: Load = Load {
    rest: Duration::from_millis(200),
    running_watts: Some(20.0),
};

fn plug(make: Make, simulator: &Simulator, password: &str, load: Load) -> Plug {
    let (url, password) = (simulator.url(0), password.to_owned().into());
    let reached = match make {
        Sh => Shelly::new(&url, None, Some(password), 0).map(plug::Make::Shelly),
        Ta => Tasmota::new(&url, None, Some(password), 1).map(plug::Make::Tasmota),
        Home => {
            let (switch, meter) = ("switch.rack_1".to_owned(), "sensor.rack_1_power".to_owned());
            HomeAssistant::new(&url, None, password, switch, Some(meter)).map(plug::Make::HomeAssistant)
        }
    };
    Plug::new(reached.expect("good settings"), load).expect("good settings")
}

async fn healthy() -> Simulator {
    world::simulator(&profile::named("openbmc").expect("it is there"), 1).await
}

async fn look(make: Make, what: What, operation: Operation, bound: Duration) -> Result<PowerState, Fault> {
    let simulator = world::spoilt("openbmc", what, operation).await;
    world::look(&plug(make, &simulator, PASSWORD, MEASURED), bound).await
}

async fn switch(make: Make, what: What, operation: Operation, bound: Duration) -> (Result<(), Fault>, bool) {
    let simulator = world::spoilt("openbmc", what, operation).await;
    world::switch(&plug(make, &simulator, PASSWORD, MEASURED), &simulator, bound).await
}

const fn status(code: u16) -> What {
    What::Status { code, retry_after: None }
}

#[tokio::test]
async fn plugs_switch_the_mains() {
    join_all(MAKES.map(async |make| {
        let simulator = healthy().await;
        let plug = Arc::new(plug(make, &simulator, PASSWORD, MEASURED));
        let booted = async |count: usize| {
            let what = format!("{make:?}: it has booted {count} times");
            until(&what, async || boots(simulator.bmc(0), 0).len() == count).await;
        };
        assert_eq!(plug.state().await, Ok(PowerState::Off), "{make:?}");
        plug.on().await.expect("on");
        until("it runs", async || plug.state().await == Ok(PowerState::On)).await;
        plug.on().await.expect("it runs");
        plug.cycle().await.expect("cycled");
        booted(2).await;
        // A machine that shut itself down is off, though the relay is on: only mains that goes and comes starts it.
        world::redfish(&simulator, 0, 0).off(Off::Soft).await.expect("taken");
        until("it draws little", async || plug.state().await == Ok(PowerState::Off)).await;
        plug.on().await.expect("off and on");
        booted(3).await;
        plug.off(Off::Hard).await.expect("off");
        until("it is off", async || plug.state().await == Ok(PowerState::Off)).await;
        assert_eq!(plug.off(Off::Soft).await, Err(Fault::Incapable(Call::OffSoft)), "{make:?}");
        let network = plug.boot_once(once(BootDevice::Network)).await;
        assert_eq!(network, Err(Fault::Incapable(Call::BootOnce(BootDevice::Network))), "{make:?}");
        assert_eq!(boots(simulator.bmc(0), 0).len(), 3, "{make:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_plug_that_is_not_said_to_measure_does_not_tell() {
    for make in MAKES {
        let simulator = healthy().await;
        let load = Load {
            running_watts: None,
            ..MEASURED
        };
        let plug = plug(make, &simulator, PASSWORD, load);
        plug.on().await.expect("on");
        assert_eq!(plug.state().await, Ok(PowerState::Unknown), "{make:?}");
        let told = plug.on().await;
        assert!(matches!(told, Err(Fault::Refused(_))), "{make:?}: {told:?}");
        plug.off(Off::Hard).await.expect("off");
        assert_eq!(plug.state().await, Ok(PowerState::Off), "{make:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_switches_nothing() {
    for make in MAKES {
        let simulator = healthy().await;
        let wrong = plug(make, &simulator, "wrong-Pass-1", MEASURED);
        for told in [wrong.state().await.map(drop), wrong.on().await, wrong.off(Off::Hard).await] {
            let Err(fault @ Fault::Credentials(_)) = told else {
                panic!("{make:?}: {told:?}");
            };
            assert!(!fault.to_string().contains("wrong-Pass-1"), "{fault}");
        }
        assert_eq!(simulator.bmc(0).requests(), 0, "{make:?}: nobody was let in");
    }
}

#[tokio::test]
async fn a_look_that_goes_wrong_is_told_for_what_it_is() {
    type Right = fn(Make, &Result<PowerState, Fault>) -> bool;
    let garbled: Right = |_, told| matches!(told, Err(Fault::Garbled(_)));
    let cases: [(What, Right); 12] = [
        (status(401), |_, told| matches!(told, Err(Fault::Credentials(_)))),
        (status(403), |make, told| match make {
            // It has one user, who may all.
            Ta => matches!(told, Err(Fault::Credentials(_))),
            Sh => matches!(told, Err(Fault::Refused(_))),
            Home => matches!(told, Err(Fault::Privilege(_))),
        }),
        (status(500), |make, told| match make {
            // Its errors have this status, whatever they are.
            Sh => matches!(told, Err(Fault::Refused(_))),
            Ta | Home => matches!(told, Err(Fault::Garbled(_))),
        }),
        (status(503), |_, told| matches!(told, Err(Fault::Busy { .. }))),
        (What::Hidden, |_, told| matches!(told, Err(Fault::Refused(_)))),
        (What::NotJson, garbled),
        (What::WrongKinds, garbled),
        (What::Truncated, |_, told| {
            matches!(told, Err(Fault::Unreachable(_) | Fault::Garbled(_)))
        }),
        (What::Closed, |_, told| matches!(told, Err(Fault::Unreachable(_)))),
        (What::Latency { ms: 300 }, |_, told| *told == Ok(PowerState::Off)),
        (What::Lies { power: Claim::On }, |_, told| *told == Ok(PowerState::On)),
        (What::Silent, |_, told| matches!(told, Err(Fault::Unreachable(_)))),
    ];
    join_all(
        cases
            .iter()
            .flat_map(|(what, right)| MAKES.map(|make| (what, right, make)))
            .map(async |(what, right, make)| {
                let bound = if *what == What::Silent { UNANSWERED } else { ANSWERED };
                let told = look(make, *what, Operation::State, bound).await;
                assert!(right(make, &told), "{make:?}, {what:?}: {told:?}");
            }),
    )
    .await;
}

/// What an answer without content comes to: Home Assistant's is judged by its status alone.
fn nothing_said(make: Make, told: &Result<(), Fault>) -> bool {
    match make {
        Sh => matches!(told, Err(Fault::Garbled(_))),
        Ta => matches!(told, Err(Fault::Unanswered(_))),
        Home => told.is_ok(),
    }
}

#[tokio::test]
async fn a_change_that_goes_wrong_is_told_for_what_it_may_have_done() {
    type Right = fn(Make, &Result<(), Fault>) -> bool;
    let unanswered: Right = |_, told| matches!(told, Err(Fault::Unanswered(_)));
    let cases: [(What, Right, bool); 8] = [
        (status(400), |_, told| matches!(told, Err(Fault::Refused(_))), false),
        (status(500), unanswered, false),
        (status(503), |_, told| matches!(told, Err(Fault::Busy { .. })), false),
        (What::LostAnswer, unanswered, true),
        (What::NotJson, nothing_said, true),
        // Sometimes not even its head arrives.
        (
            What::Truncated,
            |make, told| matches!(told, Err(Fault::Unanswered(_))) || nothing_said(make, told),
            true,
        ),
        (What::CommandIgnored, |_, told| told.is_ok(), false),
        (What::Silent, unanswered, false),
    ];
    join_all(
        cases
            .iter()
            .flat_map(|(what, right, booted)| MAKES.map(|make| (what, right, booted, make)))
            .map(async |(what, right, booted, make)| {
                let bound = if *what == What::Silent { UNANSWERED } else { ANSWERED };
                let (told, has) = switch(make, *what, Operation::Reset, bound).await;
                assert!(right(make, &told) && has == *booted, "{make:?}, {what:?}: {told:?}, booted: {has}");
            }),
    )
    .await;
}

#[tokio::test]
async fn a_relay_that_sticks_and_power_that_takes_a_minute_are_seen_by_what_is_drawn() {
    for make in MAKES {
        let told = switch(make, What::Lies { power: Claim::On }, Operation::State, ANSWERED).await;
        assert_eq!(told, (Ok(()), false), "{make:?}: what is said to run is not switched on");
        for what in [What::CommandIgnored, What::SlowPower { ms: 60_000 }] {
            let simulator = world::spoilt("openbmc", what, Operation::Any).await;
            let plug = plug(make, &simulator, PASSWORD, MEASURED);
            let began = Instant::now();
            plug.on().await.expect("taken");
            assert!(began.elapsed() < ANSWERED, "{make:?}");
            assert_eq!(plug.state().await, Ok(PowerState::Off), "{make:?}, {what:?}: nothing is drawn");
            assert!(boots(simulator.bmc(0), 0).is_empty(), "{make:?}, {what:?}");
        }
    }
}
