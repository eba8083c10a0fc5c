//! IPMI and HTTPS: one machine by several protocols, and their own faults.

use std::time::Duration;

use bmc_simulator::{
    Options, Simulator,
    faults::{Fault as Set, Protocol, What},
    host::Timing,
    machine::Source,
    profile,
};
use power::{
    BootDevice, Driver, Fault, Off, PowerState,
    ipmi::{Ipmi, Settings, handshake::Privilege, suite::CipherSuite},
    redfish::{self, Redfish},
    tls::Trust,
};
use tokio::time::Instant;

use crate::world::{self, PASSWORD, boots, once, until};

async fn several(controllers: usize) -> Simulator {
    Simulator::start(Options {
        controllers,
        profiles: vec![profile::named("openbmc").expect("it is there")],
        ipmi_port: Some(0),
        timing: Timing::short(),
        ..Options::default()
    })
    .await
    .expect("it starts")
}

fn ipmi(simulator: &Simulator, controller: usize, suite: CipherSuite, password: &str) -> Ipmi {
    Ipmi::new(Settings {
        host: simulator.bmc(controller).address.to_string(),
        port: simulator.ipmi_port().expect("it is on"),
        user: "admin".to_owned(),
        password: password.to_owned().into(),
        own_key: None,
        privilege: Privilege::Operator,
        suite: Some(suite),
    })
    .expect("good settings")
}

#[tokio::test]
async fn ipmi_switches_the_machine_at_its_address_and_redfish_sees_it() {
    for suite in [CipherSuite::Three, CipherSuite::Seventeen] {
        let simulator = several(3).await;
        let bmc = simulator.bmc(2);
        let driver = ipmi(&simulator, 2, suite, PASSWORD);
        assert_eq!(driver.state().await, Ok(PowerState::Off), "{suite:?}");
        driver.boot_once(once(BootDevice::Network)).await.expect("set");
        driver.cycle().await.expect("on");
        until("it is on", async || driver.state().await == Ok(PowerState::On)).await;
        assert_eq!(boots(bmc, 0), [Source::Network], "{suite:?}");
        assert!(bmc.hosts[0].boots()[0].uefi);
        driver.cycle().await.expect("cycled");
        until("it has booted twice", async || boots(bmc, 0).len() == 2).await;
        assert_eq!(boots(bmc, 0)[1], Source::Usual);
        // The same machine by another protocol.
        assert_eq!(world::redfish(&simulator, 2, 0).state().await, Ok(PowerState::On));
        driver.off(Off::Soft).await.expect("taken");
        until("it is off", async || driver.state().await == Ok(PowerState::Off)).await;
        assert!(boots(simulator.bmc(0), 0).is_empty() && boots(simulator.bmc(1), 0).is_empty());
    }
}

#[tokio::test]
async fn ipmi_faults_are_told_in_time() {
    let simulator = several(4).await;
    let wrong = ipmi(&simulator, 0, CipherSuite::Seventeen, "wrong-Pass-1").state().await;
    assert!(matches!(wrong, Err(Fault::Credentials(_))), "{wrong:?}");
    let set = |index: usize, what| {
        let mut fault = Set::new(format!("f-{index}"), what);
        fault.protocol = Some(Protocol::Ipmi);
        fault.machines.from = Some(index);
        fault.machines.to = Some(index);
        simulator.fleet().faults().set(fault).expect("good");
    };
    set(1, What::Silent);
    set(2, What::SessionsFull);
    set(
        3,
        What::Lies {
            power: bmc_simulator::faults::Claim::On,
        },
    );
    let began = Instant::now();
    let silent = ipmi(&simulator, 1, CipherSuite::Three, PASSWORD).state().await;
    assert!(matches!(silent, Err(Fault::Unreachable(_))), "{silent:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let full = ipmi(&simulator, 2, CipherSuite::Three, PASSWORD).state().await;
    assert!(matches!(full, Err(Fault::Busy { .. })), "{full:?}");
    assert_eq!(ipmi(&simulator, 3, CipherSuite::Three, PASSWORD).state().await, Ok(PowerState::On));
}

#[tokio::test]
async fn https_is_believed_by_its_fingerprint() {
    let simulator = Simulator::start(Options {
        tls: true,
        timing: Timing::short(),
        ..Options::default()
    })
    .await
    .expect("it starts");
    let driver = |fingerprint: &str| {
        Redfish::new(redfish::Settings {
            url: simulator.url(0),
            trust: Some(Trust::fingerprint(fingerprint).expect("a fingerprint")),
            user: "admin".to_owned(),
            password: PASSWORD.to_owned().into(),
            system: None,
        })
        .expect("good settings")
    };
    let right = driver(simulator.fingerprint().expect("it has one"));
    assert_eq!(right.state().await, Ok(PowerState::Off));
    let wrong = driver(&"ab".repeat(32)).state().await;
    assert!(matches!(wrong, Err(Fault::Untrusted(_))), "{wrong:?}");
}
