//! A policy that sets machines up from the BMCs that their agents find: Secret, sealed wish, `spec.power`.

use agent_protocol::bmc::{Bmc, BmcChannel};
use api::{
    BareMetalHardware, HardwarePhase,
    bmc::{FromBmc, PolicyPower},
    conditions,
    power::CipherSuite,
};
use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};

use crate::support::{bench, machine::Machine, phase_is, until};

const SYSTEM: &str = "kube-baremetal-system";

fn bmc() -> Bmc {
    Bmc {
        interface: "ipmi".to_owned(),
        channels: vec![BmcChannel {
            number: 3,
            address: Some("127.0.0.1/8".to_owned()),
            ipv6: vec!["2001:db8::5/64".to_owned()],
            cipher_suites: vec![3],
            ..BmcChannel::default()
        }],
        ..Bmc::default()
    }
}

fn condition(hardware: &BareMetalHardware) -> Option<(String, String)> {
    let conditions = &hardware.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == conditions::BMC_USER)?;
    Some((found.status.clone(), found.reason.clone()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_gives_machines_a_power_driver_with_a_user_of_its_own() {
    let bench = bench().await;
    bench
        .policy(|p| {
            p.power = Some(PolicyPower {
                from_bmc: FromBmc::default(),
            });
        })
        .await;
    let mut machine = Machine::new(&bench.client, "m-found", 1);
    machine.bmc = Some(bmc());
    machine.open_session().await;
    let user = until("the agent is asked", async || machine.bmc_user().await).await;
    assert_eq!((user.name.as_str(), user.channel, user.password.len()), ("kube-baremetal", 3, 16));

    // It could not: that is said, and asked for again in its next boot, with another password: that session may have been somebody else's.
    machine.answer_about_bmc_user("the BMC has no place for it").await;
    until("a person is told", async || {
        let told = machine.hardware().await.as_ref().and_then(condition)?;
        (told == ("False".to_owned(), "Refused".to_owned())).then_some(())
    })
    .await;
    machine.open_session().await;
    let again = until("the agent is asked again", async || machine.bmc_user().await).await;
    assert_eq!((&again.name, again.channel), (&user.name, user.channel));
    assert_ne!(again.password, user.password);
    let (first, user) = (user, again);
    machine.answer_about_bmc_user("").await;
    let hardware = until("its power driver is set", async || {
        machine
            .hardware()
            .await
            .filter(|h| h.spec.power.is_some() && h.status.as_ref().is_some_and(|s| s.bmc_user.is_none()))
    })
    .await;
    let ipmi = hardware.spec.power.clone().and_then(|p| p.ipmi).expect("by IPMI");
    assert_eq!(
        (ipmi.host.as_str(), ipmi.cipher_suite),
        ("2001:db8::5", CipherSuite::Suite3),
        "not the loopback"
    );
    assert_eq!(condition(&hardware), Some(("True".to_owned(), "Made".to_owned())));
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;

    let secret: Secret = Api::namespaced(bench.client.clone(), SYSTEM)
        .get(&ipmi.credentials.name)
        .await
        .unwrap();
    let part = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
    assert_eq!((part("username"), part("password")), (user.name.clone(), user.password.clone()));
    assert_eq!(
        secret.metadata.owner_references.as_ref().map(Vec::len),
        Some(1),
        "it goes with its machine"
    );

    // Whoever may read machines and events reads no password.
    let events: Api<Event> = Api::all(bench.client.clone());
    let told = |events: &[Event]| events.iter().any(|e| e.reason.as_deref() == Some("BmcUserNotMade"));
    let events = until("an event says what failed", async || {
        let all = events.list(&ListParams::default()).await.unwrap();
        told(&all.items).then_some(all)
    })
    .await;
    let shown = format!(
        "{}{}{}",
        serde_json::to_string(&hardware).unwrap(),
        serde_json::to_string(&machine.discovery().await).unwrap(),
        serde_json::to_string(&events.items).unwrap()
    );
    assert!(!shown.contains(&user.password) && !shown.contains(&first.password));
    bench.end().await;
}
