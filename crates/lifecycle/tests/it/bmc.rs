//! A user of ours in a machine's BMC, from a policy's word to `spec.power`.

use agent_protocol::{
    bmc::{Bmc, BmcChannel},
    bmc_user::SealedBmcUser,
};
use api::{
    bmc::{BmcUserResult, BmcUserStatus, FromBmc, PolicyPower},
    power::{CipherSuite, IpmiPrivilege, PowerSpec},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    bmc::{BmcFacts, Step, decide},
    hardware,
    policy::Acceptance,
};

use crate::world::{NAME, World, inventory};

fn with(channels: Vec<BmcChannel>) -> World {
    let mut world = World::new();
    let acceptance = Acceptance {
        power: Some(PolicyPower {
            from_bmc: FromBmc::default(),
        }),
        ..Acceptance::default()
    };
    world.hardware = hardware::accepted(NAME, &inventory(), &acceptance);
    let mut inventory = inventory();
    inventory.bmc = Some(Bmc {
        interface: "ipmi".to_owned(),
        channels,
        ..Bmc::default()
    });
    world.agent_boots_with(inventory);
    world
}

fn channel(address: &str, cipher_suites: &[u8]) -> BmcChannel {
    BmcChannel {
        number: 1,
        address: Some(address.to_owned()),
        cipher_suites: cipher_suites.to_vec(),
        ..BmcChannel::default()
    }
}

fn step(world: &World) -> Step {
    decide(&BmcFacts {
        hardware: &world.hardware,
        discovery: Some(&world.discovery),
        config: &world.config,
    })
}

fn reason(world: &World) -> &'static str {
    match step(world) {
        Step::Wait { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

/// As the operator stores it.
fn ask(world: &mut World, id: &str) {
    let Step::Ask(wish) = step(world) else {
        panic!("{:?}", step(world))
    };
    world.hardware.status.get_or_insert_default().bmc_user = Some(BmcUserStatus {
        sealed: SealedBmcUser {
            id: id.to_owned(),
            thumbprint: wish.thumbprint,
            encapsulated_key: String::new(),
            ciphertext: String::new(),
        },
        host: wish.host,
        secret: "bmc-machine-1".to_owned(),
        cipher_suite: wish.cipher_suite,
        privilege: wish.from.privilege,
    });
}

fn answer(world: &mut World, id: &str, fault: &str) {
    let at = Time(world.now);
    world.seen().bmc_user = Some(BmcUserResult {
        id: id.to_owned(),
        at,
        fault: fault.to_owned(),
    });
}

#[test]
fn a_machine_is_switched_by_the_bmc_that_its_agent_found() {
    let mut world = with(vec![channel("10.0.8.12/24", &[3, 17])]);
    let Step::Ask(wish) = step(&world) else {
        panic!("{:?}", step(&world))
    };
    assert_eq!(
        (wish.channel, wish.host.as_str(), wish.cipher_suite),
        (1, "10.0.8.12", CipherSuite::Suite17)
    );
    assert_eq!(wish.from.user, "kube-baremetal");
    ask(&mut world, "bmc-1");
    assert_eq!(reason(&world), "Asked", "once per session");
    answer(&mut world, "bmc-0", "");
    assert_eq!(reason(&world), "Asked", "an answer to another wish is none");
    answer(&mut world, "bmc-1", "");
    let Step::Power(power) = step(&world) else {
        panic!("{:?}", step(&world))
    };
    let ipmi = power.ipmi.clone().unwrap();
    assert_eq!(
        (ipmi.host.as_str(), ipmi.port, ipmi.credentials.name.as_str()),
        ("10.0.8.12", 623, "bmc-machine-1")
    );
    assert_eq!(ipmi.privilege, IpmiPrivilege::Operator);
    world.hardware.spec.power = Some(*power);
    assert_eq!(step(&world), Step::Forget);
    world.hardware.status.get_or_insert_default().bmc_user = None;
    assert_eq!(step(&world), Step::Nothing);
}

#[test]
fn what_is_refused_is_said_and_asked_for_again_at_the_next_boot() {
    let mut world = with(vec![channel("10.0.8.12/24", &[3])]);
    ask(&mut world, "bmc-1");
    answer(&mut world, "bmc-1", "the BMC has no place for it");
    assert_eq!(reason(&world), "Refused");
    let inventory = world.seen().inventory.clone().unwrap();
    world.agent_boots_with(inventory);
    let Step::Ask(wish) = step(&world) else {
        panic!("{:?}", step(&world))
    };
    assert_eq!(wish.cipher_suite, CipherSuite::Suite3);
    // An answer that was lost with its session is asked for again too.
    ask(&mut world, "bmc-2");
    let inventory = world.seen().inventory.clone().unwrap();
    world.agent_boots_with(inventory);
    assert!(matches!(step(&world), Step::Ask(_)));
}

#[test]
fn without_an_address_or_a_session_to_trust_nothing_is_asked() {
    assert_eq!(reason(&with(Vec::new())), "NoAddress");
    assert_eq!(reason(&with(vec![channel("169.254.0.17/16", &[])])), "NoAddress");
    let mut second = channel("169.254.0.17/16", &[]);
    second.ipv6 = vec!["fe80::1/64".to_owned(), "2001:db8::5/64".to_owned()];
    let Step::Ask(wish) = step(&with(vec![second])) else {
        panic!("an address is there")
    };
    assert_eq!(wish.host, "2001:db8::5");

    let mut world = with(vec![channel("10.0.8.12/24", &[])]);
    world.config.allow_asserted_identity = false;
    assert_eq!(reason(&world), "IdentityNotProven");
    world.seen().session = None;
    world.config.allow_asserted_identity = true;
    assert_eq!(reason(&world), "AgentNotConnected");
    world.seen().inventory.as_mut().unwrap().bmc = None;
    assert_eq!(reason(&world), "NoBmc");
}

#[test]
fn who_names_a_driver_or_asks_for_none_gets_none() {
    let mut world = with(vec![channel("10.0.8.12/24", &[])]);
    world.hardware.spec.power = Some(PowerSpec::default());
    assert_eq!(step(&world), Step::Nothing);
    world.hardware.spec.power = None;
    world.hardware.spec.power_from_bmc = None;
    assert_eq!(step(&world), Step::Nothing);
}
