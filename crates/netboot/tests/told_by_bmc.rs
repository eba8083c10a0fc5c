//! Machines that somebody wrote down before they ever booted, and that their BMCs told of: under what name they register, and who does not.

mod common;

use agent_protocol::identity::{MacAddress, SystemUuid};
use api::{BareMetalHardware, BareMetalHardwareSpec, BareMetalHardwareStatus};
use common::{HONEST, Rig, claim_ref, machine::Machine, until};
use kube::api::{ListParams, PostParams};

const NAME: &str = "rack1-u12";
const UUID: &str = "4c4c4544-0042-3510-8054-b4c04f4d3132";
const SERIAL: &str = "ABC1234";
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 7]);

/// What an operator wrote down of the BMC's words.
fn status(uuid: Option<&str>, serial: Option<&str>, macs: &[MacAddress]) -> BareMetalHardwareStatus {
    let nics: Vec<_> = macs.iter().map(|mac| serde_json::json!({"name": "1", "mac": mac})).collect();
    let told = serde_json::json!({
        "source": "Redfish", "address": "https://192.0.2.7", "readAt": "2026-01-02T03:04:05Z",
        "system": {"uuid": uuid, "serial": serial}, "nics": nics,
    });
    BareMetalHardwareStatus {
        bmc_inventory: Some(serde_json::from_value(told).expect("an inventory")),
        ..BareMetalHardwareStatus::default()
    }
}

async fn is_written_down(rig: &Rig, name: &str, status: BareMetalHardwareStatus, claim: Option<&str>) {
    let mut hardware = BareMetalHardware::new(
        name,
        BareMetalHardwareSpec {
            discovery_name: name.to_owned(),
            claim_ref: claim.map(claim_ref),
            power: serde_json::from_value(serde_json::json!({"redfish": {"address": "https://192.0.2.7", "credentials": {"name": "bmc"}}}))
                .expect("a driver"),
            ..BareMetalHardwareSpec::default()
        },
    );
    hardware.status = Some(status);
    rig.hardware()
        .create(&PostParams::default(), &hardware)
        .await
        .expect("written down");
    is_heard(rig, name).await;
}

/// Netboot has heard of the object as it is.
async fn is_heard(rig: &Rig, name: &str) {
    let now = rig.hardware().get(name).await.expect("it is there").metadata.resource_version;
    let heard = || {
        rig.netboot
            .hardware(name)
            .is_some_and(|heard| heard.metadata.resource_version == now)
    };
    until("netboot hears of it", async || heard()).await;
}

/// A machine with numbers of its own.
fn machine(rig: &Rig, uuid: Option<SystemUuid>, serial: Option<&str>, mac: MacAddress) -> Machine {
    let mut machine = Machine::with(HONEST, rig.netboot.addresses(), uuid, mac);
    machine.inventory.system.serial = serial.map(str::to_owned);
    // Boards have other numbers than systems.
    machine.inventory.system.board_serial = serial.map(|serial| format!("..CN{serial}.01"));
    machine
}

async fn names(rig: &Rig) -> Vec<String> {
    let all = rig.discoveries().list(&ListParams::default()).await.expect("a list");
    all.items.iter().map(common::name_of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_registers_under_the_name_that_was_written_down_for_it() {
    let rig = Rig::start().await;
    // As BMCs write it: in the other byte order.
    let uuid: SystemUuid = UUID.parse().expect("a UUID");
    is_written_down(&rig, NAME, status(Some(&uuid.swapped().to_string()), Some(SERIAL), &[MAC]), None).await;
    let mut first = machine(&rig, Some(uuid), Some(SERIAL), MAC);
    let session = first.power_on().await.expect("a session");
    assert_eq!((session.discovery.as_str(), session.hardware.as_deref()), (NAME, Some(NAME)));
    // It is known by what its agent said from now on, and stays the same.
    first.reboot();
    assert_eq!(first.power_on().await.expect("a session").discovery, NAME);
    assert_eq!(names(&rig).await, [NAME]);
    // A stranger is a stranger.
    let mut stranger = rig.machine(HONEST);
    let other = stranger.power_on().await.expect("a session").discovery;
    assert!(other.starts_with("m-"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_marks_are_enough_and_an_interface_where_the_bmc_tells_no_more() {
    let rig = Rig::start().await;
    is_written_down(&rig, "by-serial", status(None, Some(SERIAL), &[MAC]), None).await;
    let other = MacAddress([2, 0, 0, 0, 0, 8]);
    is_written_down(&rig, "by-mac", status(None, None, &[other]), None).await;
    is_written_down(&rig, "by-number", status(None, Some("NUMBER-9"), &[]), None).await;
    let random = || Some(SystemUuid(rand_bytes()));
    let mut serial = machine(&rig, random(), Some(SERIAL), MAC);
    assert_eq!(serial.power_on().await.expect("a session").discovery, "by-serial");
    let mut mac = machine(&rig, random(), None, other);
    assert_eq!(mac.power_on().await.expect("a session").discovery, "by-mac");
    // A serial number alone may be anybody's.
    let mut number = machine(&rig, random(), Some("NUMBER-9"), MacAddress([2, 0, 0, 0, 0, 11]));
    assert_ne!(number.power_on().await.expect("a session").discovery, "by-number");
}

fn rand_bytes() -> [u8; 16] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shares_no_more_than_an_address_does_not_take_the_name() {
    let rig = Rig::start().await;
    is_written_down(&rig, NAME, status(Some(UUID), Some(SERIAL), &[MAC]), None).await;
    // A MAC address is read off a cable; the UUID and the serial number are others.
    let mut thief = machine(&rig, Some(SystemUuid(rand_bytes())), Some("XYZ9999"), MAC);
    let name = thief.power_on().await.expect("a session").discovery;
    assert_ne!(name, NAME);
    // Nor a UUID that is all that agrees.
    let mut half = machine(&rig, UUID.parse().ok(), Some("XYZ8888"), MacAddress([2, 0, 0, 0, 0, 9]));
    assert_ne!(half.power_on().await.expect("a session").discovery, NAME);
    // The machine itself still finds its name, with a card that its BMC did not know.
    let mut own = machine(&rig, UUID.parse().ok(), Some(SERIAL), MacAddress([2, 0, 0, 0, 0, 10]));
    assert_eq!(own.power_on().await.expect("a session").discovery, NAME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_were_told_of_alike_are_left_to_a_person() {
    let rig = Rig::start().await;
    is_written_down(&rig, "one", status(Some(UUID), Some(SERIAL), &[MAC]), None).await;
    is_written_down(&rig, "two", status(Some(UUID), Some(SERIAL), &[MAC]), None).await;
    let mut own = machine(&rig, UUID.parse().ok(), Some(SERIAL), MAC);
    let name = own.power_on().await.expect("a session").discovery;
    assert!(name.starts_with("m-"), "{name}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_has_is_not_given_to_who_says_to_be_it() {
    let rig = Rig::start().await;
    is_written_down(&rig, NAME, status(Some(UUID), Some(SERIAL), &[MAC]), Some("uid-1")).await;
    let mut own = machine(&rig, UUID.parse().ok(), Some(SERIAL), MAC);
    assert_ne!(own.power_on().await.expect("a session").discovery, NAME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_bmc_said_or_a_medium_is_to_say_gives_no_name() {
    let rig = Rig::start().await;
    let come = async || {
        let mut own = machine(&rig, UUID.parse().ok(), Some(SERIAL), MAC);
        own.power_on().await.expect("a session").discovery
    };
    is_written_down(&rig, NAME, status(Some(UUID), Some(SERIAL), &[MAC]), None).await;
    // Somebody saw that it was the wrong one, and corrected it a moment ago.
    let address = |hardware: &mut BareMetalHardware, address: &str| {
        hardware
            .spec
            .power
            .as_mut()
            .and_then(|p| p.redfish.as_mut())
            .expect("a driver")
            .address = address.to_owned();
    };
    rig.change(NAME, |hardware| address(hardware, "https://192.0.2.8")).await;
    is_heard(&rig, NAME).await;
    assert_ne!(come().await, NAME);
    rig.discoveries().delete(&come().await, &Default::default()).await.expect("deleted");
    let medium = serde_json::json!({"server": "http://192.0.2.1:8080", "mac": MAC, "address": "192.0.2.9/24"});
    rig.change(NAME, |hardware| {
        address(hardware, "https://192.0.2.7");
        let redfish = hardware.spec.power.as_mut().and_then(|p| p.redfish.as_mut()).expect("a driver");
        redfish.virtual_media = Some(serde_json::from_value(medium.clone()).expect("a medium"));
    })
    .await;
    is_heard(&rig, NAME).await;
    assert_ne!(come().await, NAME, "its token would say so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_settings_hold_at_its_first_boot() {
    let rig = Rig::start().await;
    is_written_down(&rig, NAME, status(Some(UUID), Some(SERIAL), &[MAC]), None).await;
    let own = machine(&rig, UUID.parse().ok(), Some(SERIAL), MAC);
    until("it is told to boot the agent", || async {
        own.script().await.contains("kbm.token")
    })
    .await;
    rig.change(NAME, |hardware| hardware.spec.maintenance = true).await;
    until("it is out of service, and boots its own disk", || async {
        own.script().await.contains("sanboot")
    })
    .await;
}
