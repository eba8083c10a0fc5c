//! Virtual machines against a real libvirtd: its test driver, and QEMU's machines without acceleration.

mod host;
mod silent;

use std::time::{Duration, Instant};

use power::{
    BootDevice, BootOnce, Driver, Fault, Firmware, Off, Operation, PowerState,
    libvirt::{Address, Libvirt, Settings},
    tls::{Identity, Trust},
};

use crate::host::{Authority, CLIENT, Host};

const UUID: &str = "3c0f8f6e-6a3e-4a39-9a57-2f6f5d1f0c01";

async fn becomes(driver: &Libvirt, wanted: PowerState) {
    let began = Instant::now();
    loop {
        let state = driver.state().await.expect("a state");
        if state == wanted {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{state:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_machine_of_the_test_driver_is_switched_by_socket_and_by_tls() {
    let host = Host::start();
    let _kept = host.keep_test_driver();
    let by_tls = host.by_tls(Trust::Fingerprint(host.fingerprint), host.authority.client(CLIENT));
    for address in [host.by_socket(), by_tls] {
        for name in [
            "test",
            "6695eb01-f6a4-8304-79aa-97f2502e193f",
            "6695EB01-F6A4-8304-79AA-97F2502E193F",
        ] {
            let driver = host.driver(address.clone(), "test:///default", name);
            becomes(&driver, PowerState::On).await;
            driver.on().await.expect("it is on already");
            driver.off(Off::Soft).await.expect("asked to shut down");
            becomes(&driver, PowerState::Off).await;
            driver.off(Off::Soft).await.expect("it is off already");
            driver.off(Off::Hard).await.expect("it is off already");
            driver.cycle().await.expect("one that is off is switched on");
            becomes(&driver, PowerState::On).await;
            driver.off(Off::Hard).await.expect("off");
            becomes(&driver, PowerState::Off).await;
            driver.on().await.expect("on");
            becomes(&driver, PowerState::On).await;
        }
    }
}

#[tokio::test]
async fn a_machine_of_qemu_is_switched() {
    let host = Host::start();
    host.define("one", UUID);
    for domain in ["one", UUID] {
        let driver = host.driver(host.by_socket(), "qemu:///session", domain);
        assert_eq!(driver.state().await, Ok(PowerState::Off));
        driver.on().await.expect("on");
        assert_eq!(
            (driver.state().await, host.virsh(&["domstate", "one"])),
            (Ok(PowerState::On), "running".to_owned())
        );
        let id = host.virsh(&["domid", "one"]);
        driver.cycle().await.expect("reset");
        assert_eq!(driver.state().await, Ok(PowerState::On));
        assert_eq!(host.virsh(&["domid", "one"]), id, "a reset is not a new start");

        // Somebody paused it.
        host.virsh(&["suspend", "one"]);
        assert_eq!(driver.state().await, Ok(PowerState::Unknown));
        driver.on().await.expect("it goes on");
        assert_eq!(host.virsh(&["domstate", "one"]), "running");
        host.virsh(&["suspend", "one"]);
        driver.cycle().await.expect("reset, and it goes on");
        assert_eq!(host.virsh(&["domstate", "one"]), "running");

        // Firmware hears no button.
        driver.off(Off::Soft).await.expect("asked to shut down");
        driver.off(Off::Hard).await.expect("off");
        assert_eq!(
            (driver.state().await, host.virsh(&["domstate", "one"])),
            (Ok(PowerState::Off), "shut off".to_owned())
        );
        driver.cycle().await.expect("one that is off is switched on");
        assert_ne!(host.virsh(&["domid", "one"]), id);
        driver.off(Off::Hard).await.expect("off");
    }
    let driver = host.driver(host.by_socket(), "qemu:///session", "one");
    let boot = BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Uefi,
    };
    assert_eq!(
        driver.boot_once(boot).await,
        Err(Fault::Incapable(Operation::BootOnce(BootDevice::Network)))
    );
}

#[tokio::test]
async fn who_is_not_believed_and_what_is_not_there_is_told() {
    let host = Host::start();
    let own = || host.authority.client(CLIENT);
    let fails = async |address: Address, uri: &str, domain: &str| {
        let driver = host.driver(address, uri, domain);
        driver.state().await.expect_err("no state")
    };
    let authority = Trust::authorities(host.authority.pem().as_bytes()).expect("an authority");
    let driver = host.driver(host.by_tls(authority, own()), "test:///default", "test");
    assert_eq!(driver.state().await, Ok(PowerState::On), "by its authority");

    let fault = fails(host.by_tls(Trust::Fingerprint([7; 32]), own()), "test:///default", "test").await;
    assert!(
        matches!(&fault, Fault::Untrusted(why) if why.contains(&hex::encode(host.fingerprint))),
        "{fault}"
    );
    let strangers = Authority::new();
    let fault = fails(
        host.by_tls(Trust::authorities(strangers.pem().as_bytes()).expect("an authority"), own()),
        "test:///default",
        "test",
    )
    .await;
    assert!(matches!(fault, Fault::Untrusted(_)), "{fault}");
    // Of another authority, and one that is not on the daemon's list.
    for identity in [strangers.client(CLIENT), host.authority.client("somebody")] {
        let fault = fails(
            host.by_tls(Trust::Fingerprint(host.fingerprint), identity),
            "test:///default",
            "test",
        )
        .await;
        assert!(matches!(fault, Fault::Credentials(_)), "{fault}");
    }

    for domain in ["two", "3c0f8f6e-6a3e-4a39-9a57-2f6f5d1f0c99"] {
        let fault = fails(host.by_socket(), "test:///default", domain).await;
        assert!(matches!(fault, Fault::Settings { field: "domain", .. }), "{fault}");
    }
    let fault = fails(host.by_socket(), "nothing:///system", "test").await;
    assert!(matches!(fault, Fault::Refused(_) | Fault::NotOffered { .. }), "{fault}");
    let fault = fails(Address::Unix("/nonexistent/libvirt-sock".into()), "test:///default", "test").await;
    assert!(
        matches!(&fault, Fault::Unreachable(detail) if detail.contains("/nonexistent/libvirt-sock")),
        "{fault}"
    );
}

#[test]
fn an_identity_is_a_certificate_and_its_key() {
    let wrong = |certificate: &[u8], key: &[u8]| match Identity::new(certificate, key) {
        Err(Fault::Settings { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    let key = rcgen::KeyPair::generate().expect("a key");
    let of = |key: &rcgen::KeyPair| {
        let params = rcgen::CertificateParams::new(vec!["one".to_owned()]).expect("parameters");
        params.self_signed(key).expect("signed").pem()
    };
    let (pem, certificate) = (key.serialize_pem(), of(&key));
    assert_eq!(wrong(b"nothing", pem.as_bytes()), "certificate");
    assert_eq!(wrong(certificate.as_bytes(), b"nothing"), "key");
    let other = of(&rcgen::KeyPair::generate().expect("a key"));
    let mixed = Identity::new(other.as_bytes(), pem.as_bytes()).expect("both are there");
    assert!(!format!("{mixed:?}").contains(&pem[40..60]), "{mixed:?}");
    let refused = Libvirt::new(Settings {
        address: Address::Tls {
            host: "192.0.2.7".to_owned(),
            port: power::libvirt::PORT,
            trust: Trust::Fingerprint([7; 32]),
            identity: mixed,
        },
        uri: "qemu:///system".to_owned(),
        domain: "one".to_owned(),
    })
    .expect_err("two that do not go together");
    assert!(matches!(refused, Fault::Settings { field: "key", .. }), "{refused}");
}
