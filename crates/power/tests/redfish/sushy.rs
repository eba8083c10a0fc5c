//! The driver against sushy-tools: its fake driver in the feature sets minimum, vmedia and full, by HTTP and by HTTPS.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use power::{
    BootDevice, BootOnce, Driver, Fault, Firmware, Media, Off, PowerState,
    inventory::{Depth, Survey},
    redfish::{Redfish, Settings},
    tls::Trust,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::served::Served;

const PASSWORD: &str = "correct-horse-9";
const FIRST: &str = "27946b59-9e44-4fa7-8e91-f3527a1ef094";
const SECOND: &str = "8a5f41c4-0001-4b7e-9d50-5d5f6c3b0002";
/// The fake driver takes up to eleven seconds for a change of power.
const CHANGES: Duration = Duration::from_secs(25);

fn peers() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/power-peers");
    assert!(
        folder.join("bin/sushy-emulator").exists(),
        "{} has no sushy-tools: run `scripts/setup --power`, then try again",
        folder.display()
    );
    folder
}

/// Keys of a server: a certificate that an authority signed.
struct Keys {
    authority: String,
    certificate: String,
    fingerprint: [u8; 32],
    key: String,
}

fn keys() -> Keys {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let own = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .expect("parameters")
        .signed_by(&key, &authority)
        .expect("signed");
    Keys {
        authority: authority.pem(),
        certificate: own.pem(),
        fingerprint: Sha256::digest(own.der()).into(),
        key: key.serialize_pem(),
    }
}

/// An emulator. It is gone when this is dropped.
struct Emulator {
    url: String,
    keys: Keys,
    process: Child,
    _folder: TempDir,
}

impl Emulator {
    fn start(features: &str, tls: bool, systems: &[(&str, &str)]) -> Self {
        let peers = peers();
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let keys = keys();
        fs::write(at("certificate.pem"), &keys.certificate).expect("written");
        fs::write(at("key.pem"), &keys.key).expect("written");
        let hash = Command::new(peers.join("bin/python"))
            .args([
                "-c",
                "import bcrypt, sys; print(bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())",
                PASSWORD,
            ])
            .output()
            .expect("python runs");
        assert!(hash.status.success(), "{}", String::from_utf8_lossy(&hash.stderr));
        fs::write(at("users"), format!("admin:{}", String::from_utf8_lossy(&hash.stdout))).expect("written");
        let systems: Vec<String> = systems
            .iter()
            .map(|(uuid, name)| format!("{{'uuid': '{uuid}', 'name': '{name}', 'power_state': 'Off', 'nics': [{{'mac': '00:5c:52:31:3a:9c', 'ip': '192.0.2.1'}}]}}"))
            .collect();
        let config = format!(
            "SUSHY_EMULATOR_AUTH_FILE = '{}'\nSUSHY_EMULATOR_STATE_DIR = '{}'\nSUSHY_EMULATOR_FAKE_SYSTEMS = [{}]\nSUSHY_EMULATOR_VMEDIA_DEVICES = {{'Cd': {{'Name': 'Virtual CD', \
             'MediaTypes': ['CD', 'DVD']}}, 'Floppy': {{'Name': 'Virtual Removable Media', 'MediaTypes': ['Floppy', 'USBStick']}}}}\n",
            at("users").display(),
            folder.path().display(),
            systems.join(", ")
        );
        fs::write(at("config.py"), config).expect("written");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("a port")
            .port();
        let log = fs::File::create(at("log")).expect("a log");
        let mut command = Command::new(peers.join("bin/sushy-emulator"));
        command
            .args([
                "--fake",
                "--interface",
                "127.0.0.1",
                "--feature-set",
                features,
                "--port",
                &port.to_string(),
                "--config",
            ])
            .arg(at("config.py"));
        if tls {
            command
                .arg("--ssl-certificate")
                .arg(at("certificate.pem"))
                .arg("--ssl-key")
                .arg(at("key.pem"));
        }
        let process = command
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("sushy-emulator starts");
        let emulator = Self {
            url: format!("{}://127.0.0.1:{port}", if tls { "https" } else { "http" }),
            keys,
            process,
            _folder: folder,
        };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || fs::read_to_string(emulator._folder.path().join("log")).unwrap_or_default();
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "sushy-emulator does not listen: {}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        emulator
    }

    fn settings(&self) -> Settings {
        Settings {
            trust: self.url.starts_with("https").then_some(Trust::Fingerprint(self.keys.fingerprint)),
            url: self.url.clone(),
            user: "admin".to_owned(),
            password: PASSWORD.to_owned().into(),
            system: None,
        }
    }

    fn driver(&self) -> Redfish {
        Redfish::new(self.settings()).expect("good settings")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _gone = self.process.wait();
    }
}

async fn becomes(driver: &Redfish, wanted: PowerState) {
    let began = Instant::now();
    loop {
        let state = driver.state().await.expect("a state");
        if state == wanted {
            return;
        }
        assert!(began.elapsed() < CHANGES, "{state:?} after {CHANGES:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn a_machine_is_switched(driver: &Redfish) {
    assert_eq!(driver.state().await, Ok(PowerState::Off));
    driver.off(Off::Hard).await.expect("it is off already");
    for firmware in [Firmware::Uefi, Firmware::Bios] {
        for device in [BootDevice::Network, BootDevice::Disk, BootDevice::Media] {
            driver
                .boot_once(BootOnce { device, firmware })
                .await
                .unwrap_or_else(|fault| panic!("{device}, {firmware:?}: {fault}"));
        }
        let refused = driver
            .boot_once(BootOnce {
                device: BootDevice::Setup,
                firmware,
            })
            .await
            .expect_err("not offered");
        assert!(
            refused.to_string().contains("BiosSetup") && refused.to_string().contains("Pxe"),
            "{refused}"
        );
    }
    driver.on().await.expect("on");
    becomes(driver, PowerState::On).await;
    driver.on().await.expect("it is on already");
    driver.cycle().await.expect("cycled");
    becomes(driver, PowerState::On).await;
    driver.off(Off::Soft).await.expect("shut down");
    becomes(driver, PowerState::Off).await;
    driver.cycle().await.expect("one that is off boots too");
    becomes(driver, PowerState::On).await;
    driver.off(Off::Hard).await.expect("off");
    becomes(driver, PowerState::Off).await;
    driver.close().await.expect("nothing to give back");
}

#[tokio::test]
async fn a_machine_is_switched_by_http_with_the_minimum_of_features() {
    let emulator = Emulator::start("minimum", false, &[(FIRST, "one")]);
    let driver = emulator.driver();
    a_machine_is_switched(&driver).await;
    let media = Media {
        url: "http://192.0.2.1/agent.iso".to_owned(),
    };
    let refused = driver.attach(&media).await.expect_err("there is no drive");
    assert!(matches!(refused, Fault::NotOffered { .. }), "{refused}");
}

#[tokio::test]
async fn a_machine_is_switched_by_https_with_all_features() {
    let emulator = Emulator::start("full", true, &[(FIRST, "one")]);
    a_machine_is_switched(&emulator.driver()).await;

    // What was told and not done is noticed: this peer makes PXE out of HTTP boot without a URL.
    let http = BootOnce {
        device: BootDevice::Http,
        firmware: Firmware::Uefi,
    };
    let uefi = BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Uefi,
    };
    let driver = emulator.driver();
    driver.boot_once(uefi).await.expect("back to UEFI");
    let refused = driver.boot_once(http).await.expect_err("it shows another");
    assert!(
        matches!(&refused, Fault::NotTaken(detail) if detail.contains("UefiHttp") && detail.contains("Pxe")),
        "{refused}"
    );

    // By the authority that signed the certificate.
    let trusting = Redfish::new(Settings {
        trust: Some(Trust::authorities(emulator.keys.authority.as_bytes()).expect("PEM")),
        ..emulator.settings()
    });
    assert_eq!(trusting.expect("good settings").state().await, Ok(PowerState::Off));
    // Another authority, and another fingerprint: the one that was seen is told.
    let elsewhere = Redfish::new(Settings {
        trust: Some(Trust::authorities(keys().authority.as_bytes()).expect("PEM")),
        ..emulator.settings()
    });
    let fault = elsewhere.expect("good settings").state().await.expect_err("another authority");
    assert!(matches!(fault, Fault::Untrusted(_)), "{fault}");
    let pinned = Redfish::new(Settings {
        trust: Some(Trust::Fingerprint([7; 32])),
        ..emulator.settings()
    });
    let fault = pinned.expect("good settings").state().await.expect_err("another fingerprint");
    assert!(
        matches!(&fault, Fault::Untrusted(detail) if detail.contains(&hex::encode(emulator.keys.fingerprint))),
        "{fault}"
    );

    let wrong = Redfish::new(Settings {
        password: "wrong-horse-9".to_owned().into(),
        ..emulator.settings()
    });
    let fault = wrong.expect("good settings").state().await.expect_err("the password is wrong");
    assert!(
        matches!(&fault, Fault::Credentials(detail) if !detail.contains("wrong-horse-9")),
        "{fault}"
    );
}

#[tokio::test]
async fn a_medium_is_inserted_replaced_and_ejected() {
    let emulator = Emulator::start("vmedia", false, &[(FIRST, "one")]);
    // The emulator fetches what it is told to insert.
    let images = Served::start(axum::Router::new().fallback(|| async { vec![0_u8; 4096] })).await;
    let shown = || async {
        let url = format!("{}/redfish/v1/Systems/{FIRST}/VirtualMedia/Cd", emulator.url);
        let tls = Trust::Authorities(Vec::new()).config().expect("a configuration");
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().expect("a client");
        let answer = client.get(url).basic_auth("admin", Some(PASSWORD)).send().await.expect("an answer");
        let drive: serde_json::Value = answer.json().await.expect("JSON");
        (drive["Inserted"].as_bool(), drive["Image"].as_str().unwrap_or_default().to_owned())
    };
    let driver = emulator.driver();
    let media = |name: &str| Media {
        url: format!("{}/{name}.iso", images.url),
    };
    driver.attach(&media("agent")).await.expect("inserted");
    assert_eq!(shown().await, (Some(true), media("agent").url));
    driver.attach(&media("agent")).await.expect("it is there already");
    driver.attach(&media("other")).await.expect("replaced");
    assert_eq!(shown().await, (Some(true), media("other").url));
    driver
        .boot_once(BootOnce {
            device: BootDevice::Media,
            firmware: Firmware::Uefi,
        })
        .await
        .expect("from the medium");
    driver.detach(&media("agent")).await.expect("nothing of ours is there");
    assert_eq!(shown().await, (Some(true), media("other").url), "somebody else's medium stays");
    driver.detach(&media("other")).await.expect("ejected");
    assert_eq!(shown().await, (Some(false), String::new()));
    driver.detach(&media("other")).await.expect("it is empty already");
    let secret = Media {
        url: "http://me:secret@192.0.2.1/agent.iso".to_owned(),
    };
    let refused = driver.attach(&secret).await.expect_err("no credentials in a URL");
    assert!(
        matches!(refused, Fault::Settings { field: "media.url", .. }) && !refused.to_string().contains("secret"),
        "{refused}"
    );
}

#[tokio::test]
async fn what_a_machine_is_is_told_with_all_features_and_with_the_least() {
    for features in ["full", "minimum"] {
        let emulator = Emulator::start(features, false, &[(FIRST, "one")]);
        let driver = emulator.driver();
        let found = loop {
            if let Survey::Done(found) = driver.survey(Depth::Everything).await.expect("an inventory") {
                break found;
            }
        };
        println!("{features}: {found:?}");
        assert_eq!(found.uuid.as_deref(), Some(FIRST), "{features}");
        if features == "full" {
            assert_eq!(found.vendor.as_deref(), Some("Sushy Emulator"));
            let macs: Vec<&str> = found.interfaces.iter().map(|interface| interface.mac.as_str()).collect();
            assert_eq!(macs, ["00:5c:52:31:3a:9c"]);
        }
    }
}

#[tokio::test]
async fn one_of_several_machines_is_named() {
    let emulator = Emulator::start("full", false, &[(FIRST, "one"), (SECOND, "two")]);
    let of = |system: Option<&str>| {
        Redfish::new(Settings {
            system: system.map(str::to_owned),
            ..emulator.settings()
        })
        .expect("good settings")
    };
    let fault = of(None).state().await.expect_err("which one?");
    assert!(
        matches!(&fault, Fault::Settings { field: "system", problem } if problem.contains(FIRST) && problem.contains(SECOND)),
        "{fault}"
    );
    let fault = of(Some("three")).on().await.expect_err("there is none");
    assert!(
        matches!(&fault, Fault::Settings { field: "system", problem } if problem.contains("three")),
        "{fault}"
    );
    of(Some("two")).on().await.expect("on");
    becomes(&of(Some(&SECOND.to_uppercase())), PowerState::On).await;
    assert_eq!(of(Some(&format!("/redfish/v1/Systems/{FIRST}"))).state().await, Ok(PowerState::Off));
}
