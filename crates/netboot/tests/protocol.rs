//! The recorded wire vectors, and the independent client in Python against a real replica.
//!
//! `KBM_RECORD_VECTORS=1 cargo test -p netboot --test protocol` writes the vectors anew; do that only when the protocol's version changes.

mod common;

use std::{path::PathBuf, process::Stdio};

use agent_protocol::{
    disk::ContentsState,
    identity::MacAddress,
    order::{ExpectedContents, OrderKind},
    seed::{SealedSeed, Seed, open, seal, sealing_key_from},
    session::{self, OrderResponse, SessionRequest, SessionResponse, encode, sign, signing_input, thumbprint, verify},
    share::{self, ShareRequest, ShareResponse},
    token::{BootClaims, GuestClaims, TokenKey},
};
use common::{Rig, image_order, machine::Machine, until};
use ed25519_dalek::SigningKey;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sharing::PieceSet;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/protocol")
}

/// The recorded vector; recorded first when that is asked for.
fn vector(name: &str, make: impl FnOnce() -> Value) -> Value {
    let path = folder().join("vectors").join(name);
    if std::env::var_os("KBM_RECORD_VECTORS").is_some() {
        let mut text = serde_json::to_string_pretty(&make()).unwrap();
        text.push('\n');
        std::fs::write(&path, text).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn bytes<const N: usize>(hex_text: &Value) -> [u8; N] {
    hex::decode(hex_text.as_str().unwrap()).unwrap().try_into().unwrap()
}

/// Reads it into our type and back: nothing is lost, nothing is added.
fn same<T: DeserializeOwned + serde::Serialize>(value: &Value) -> T {
    let typed: T = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), *value);
    typed
}

const IKM: [u8; 32] = [0x42; 32];
const SIGNING: [u8; 32] = [0x17; 32];
const TOKEN: [u8; 32] = [0x23; 32];

#[test]
fn signatures() {
    let key = SigningKey::from_bytes(&SIGNING);
    let body = r#"{"orderId":"m-abcdefghij-1-x","progress":{"step":"Writing","doneBytes":1,"totalBytes":2}}"#;
    let (method, path, id) = ("POST", session::PATH_REPORTS, "m-abcdefghij.00112233445566778899aabbccddeeff");
    let v = vector("signature.json", || {
        json!({
            "privateKey": hex::encode(SIGNING),
            "publicKey": encode(key.verifying_key().as_bytes()),
            "method": method, "path": path, "session": id, "sequence": 7, "body": body,
            "signingInput": String::from_utf8(signing_input(method, path, id, 7, body.as_bytes())).unwrap(),
            "signature": sign(&key, method, path, id, 7, body.as_bytes()),
        })
    });
    let text = |name: &str| v[name].as_str().unwrap();
    let sequence = v["sequence"].as_u64().unwrap();
    let input = signing_input(text("method"), text("path"), text("session"), sequence, text("body").as_bytes());
    assert_eq!(input, text("signingInput").as_bytes());
    let key = SigningKey::from_bytes(&bytes(&v["privateKey"]));
    let signed = sign(
        &key,
        text("method"),
        text("path"),
        text("session"),
        sequence,
        text("body").as_bytes(),
    );
    assert_eq!(signed, text("signature"));
    verify(
        text("publicKey"),
        text("signature"),
        text("method"),
        text("path"),
        text("session"),
        sequence,
        text("body").as_bytes(),
    )
    .unwrap();
}

#[test]
fn tokens() {
    let key = TokenKey::new(&TOKEN).unwrap();
    let boot = BootClaims {
        uuid: "30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05".parse().ok(),
        mac: "52:54:00:12:34:56".parse().unwrap(),
        address: "192.0.2.17".parse().unwrap(),
        elsewhere: Vec::new(),
        nonce: "00112233445566778899aabbccddeeff".to_owned(),
        issued_at: 1_790_000_000_000,
    };
    let guest = GuestClaims {
        instance_uid: "0e9f7c1c-6f65-4d0e-9d0c-1f3c8f3f3a10".to_owned(),
        hardware: "m-abcdefghij".to_owned(),
        nonce: "ffeeddccbbaa99887766554433221100".to_owned(),
    };
    let v = vector("token.json", || {
        json!({
            "key": hex::encode(TOKEN),
            "boot": {"claims": boot, "token": key.issue_boot(&boot)},
            "guest": {"claims": guest, "token": key.issue_guest(&guest)},
        })
    });
    let key = TokenKey::new(&bytes::<32>(&v["key"])).unwrap();
    let token = |kind: &str| v[kind]["token"].as_str().unwrap().to_owned();
    assert_eq!(key.check_boot(&token("boot"), boot.issued_at, 0), Ok(same(&v["boot"]["claims"])));
    assert_eq!(key.check_guest(&token("guest")), Ok(same(&v["guest"]["claims"])));
    assert_eq!(key.issue_boot(&boot), token("boot"));
    assert_eq!(key.issue_guest(&guest), token("guest"));
}

#[test]
fn sessions_and_orders() {
    let mac = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    let (_, sealing_key) = sealing_key_from(&IKM);
    let signing_key = encode(SigningKey::from_bytes(&SIGNING).verifying_key().as_bytes());
    let v = vector("session.json", || {
        let blank = json!({"state": "Blank", "fingerprint": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"});
        let inventory = json!({
            "system": {"uuid": "30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05", "vendor": "Python", "product": "agent_client.py"},
            "cpu": {"architecture": "amd64", "sockets": 1, "cores": 2, "threads": 2},
            "memory": {"bytes": 4u64 << 30},
            "disks": [{
                "name": "sda", "identity": {"serial": "PY525400123456", "model": "Python disk"}, "sizeBytes": 64u64 << 30,
                "logicalSectorBytes": 512, "physicalSectorBytes": 4096, "kind": "SSD", "transport": "sata",
                "removable": false, "remote": false, "readOnly": false, "discard": true, "contents": blank,
            }],
            "nics": [{"name": "eth0", "mac": mac, "link": true, "boot": true}],
            "firmware": {"mode": "BIOS"},
        });
        json!({
            "signingPrivateKey": hex::encode(SIGNING),
            "sealingIkm": hex::encode(IKM),
            "thumbprint": thumbprint(&signing_key, &sealing_key),
            "request": {
                "protocol": 1, "agentVersion": "agent_client.py", "token": "kbm1.x.y", "bootMac": mac,
                "signingKey": signing_key, "sealingKey": sealing_key, "inventory": inventory,
            },
            "response": {"session": "m-abcdefghij.00112233445566778899aabbccddeeff", "discovery": "m-abcdefghij", "protocol": 1, "pollSeconds": 30},
        })
    });
    let request: SessionRequest = same(&v["request"]);
    assert_eq!(request.sealing_key, sealing_key_from(&bytes(&v["sealingIkm"])).1);
    assert_eq!(
        thumbprint(&request.signing_key, &request.sealing_key),
        v["thumbprint"].as_str().unwrap()
    );
    let body = serde_json::to_vec(&v["request"]).unwrap();
    agent_protocol::limits::parse::<SessionRequest>(&body).expect("within all bounds");
    same::<SessionResponse>(&v["response"]);

    let v = vector("order.json", || {
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let mut machine = Machine::with(common::HONEST, netboot::Addresses { http: at, tls: at }, None, mac);
        machine.inventory = request.inventory.clone();
        let mut order = image_order(&machine, "m-abcdefghij", "0e9f7c1c-6f65-4d0e-9d0c-1f3c8f3f3a10");
        order.disk.as_mut().unwrap().expected.push(ExpectedContents {
            state: ContentsState::Interrupted,
            fingerprint: None,
            instance_uid: Some("0e9f7c1c-6f65-4d0e-9d0c-1f3c8f3f3a10".to_owned()),
        });
        json!(OrderResponse {
            order,
            note: "Provisioning".to_owned(),
            seed: None,
            bmc_user: None,
        })
    });
    assert_eq!(same::<OrderResponse>(&v).order.kind, OrderKind::Image);
}

#[test]
fn sharing_messages() {
    // A bitmap, runs, nothing and everything: the shorter spelling of each.
    let sets: [(&str, u32, Vec<u32>); 4] = [
        ("bitmap", 20, vec![0, 2, 4, 6, 8, 11, 13, 19]),
        ("runs", 1000, (100..900).collect()),
        ("none", 70, Vec::new()),
        ("all", 70, (0..70).collect()),
    ];
    let set = |count: u32, pieces: &[u32]| {
        let mut set = PieceSet::none(count);
        pieces.iter().for_each(|&piece| {
            set.insert(piece);
        });
        encode(&set.to_bytes())
    };
    let v = vector("share.json", || {
        let spelled = sets
            .iter()
            .map(|(name, count, pieces)| (*name, json!({"count": count, "pieces": pieces, "base64": set(*count, pieces)})));
        json!({
            "sets": spelled.collect::<std::collections::BTreeMap<_, _>>(),
            "request": {
                "orderId": "m-abcdefghij-1-x", "pieces": 1000, "port": 40123, "held": set(1000, &[0, 1, 2, 500]),
                "wanted": set(1000, &[700, 701, 999]), "room": 2, "hungry": true, "wrong": [1_311_768_467_463_790_320u64],
            },
            "leaving": {"orderId": "m-abcdefghij-1-x", "pieces": 1000, "held": set(1000, &[]), "wanted": set(1000, &[]), "room": 0, "leaves": true},
            "response": {
                "mode": "Together", "note": "", "againMs": 500,
                "peers": [{"id": 1_311_768_467_463_790_320u64, "address": "192.0.2.18:40123"}, {"id": 2, "address": "[2001:db8::12]:40124"}],
                "fetch": [[700, 702], [999, 1000]],
            },
        })
    });
    for (name, count, pieces) in &sets {
        let recorded = &v["sets"][*name];
        assert_eq!(recorded["base64"].as_str().unwrap(), set(*count, pieces), "{name}");
        let bytes = session::decode_up_to(recorded["base64"].as_str().unwrap(), share::MAX_HELD).unwrap();
        let read = PieceSet::from_bytes(&bytes).unwrap();
        assert_eq!((read.count(), read.iter().collect::<Vec<_>>()), (*count, pieces.clone()), "{name}");
    }
    for name in ["request", "leaving"] {
        same::<ShareRequest>(&v[name]);
        let body = serde_json::to_vec(&v[name]).unwrap();
        agent_protocol::limits::parse::<ShareRequest>(&body).expect("within all bounds");
    }
    same::<ShareResponse>(&v["response"]);
    let longest = PieceSet::none(sharing::pieces::MAX_PIECES);
    let mut odd = longest.clone();
    (0..longest.count()).step_by(2).for_each(|piece| {
        odd.insert(piece);
    });
    assert!(encode(&odd.to_bytes()).len() <= share::MAX_HELD, "the longest set there is fits");
}

#[test]
fn seeds() {
    let (private, public) = sealing_key_from(&IKM);
    let seed = Seed {
        files: [
            ("openstack/latest/meta_data.json".to_owned(), "{}".to_owned()),
            ("openstack/latest/user_data".to_owned(), "#cloud-config\n".to_owned()),
        ]
        .into(),
        guest_helper: true,
    };
    let v = vector("seed.json", || {
        let sealed = seal(
            &seed,
            &public,
            "thumbprint",
            "m-abcdefghij-1-x",
            "0e9f7c1c-6f65-4d0e-9d0c-1f3c8f3f3a10",
        )
        .unwrap();
        json!({"sealingIkm": hex::encode(IKM), "sealed": sealed, "seed": seed})
    });
    let sealed: SealedSeed = same(&v["sealed"]);
    assert_eq!(open(&sealed, &private).unwrap(), same::<Seed>(&v["seed"]));
    let mut changed = sealed;
    changed.order_id.push('x');
    assert!(open(&changed, &private).is_err());
}

/// Refuses to go on without python3 and its `cryptography`.
fn needs_python() {
    let found = std::process::Command::new("python3")
        .args(["-c", "import cryptography.hazmat.primitives.asymmetric.ed25519"])
        .status()
        .is_ok_and(|s| s.success());
    assert!(
        found,
        "this test needs python3 with the package cryptography; `make setup` installs python3-cryptography"
    );
}

#[test]
fn the_python_client_reads_the_vectors() {
    needs_python();
    let ran = std::process::Command::new("python3")
        .arg(folder().join("agent_client.py"))
        .arg("vectors")
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_is_served_through_an_installation() {
    needs_python();
    let rig = Rig::start().await;
    let child = tokio::process::Command::new("python3")
        .arg(folder().join("agent_client.py"))
        .args([
            "run",
            "--uuid",
            "30fcb1de-8d1d-4d0e-8d0f-2d8fdb3cbb05",
            "--mac",
            "52:54:00:12:34:56",
        ])
        .arg("--boot")
        .arg(format!("http://{}/boot/ipxe", rig.netboot.addresses().http))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let waiting = tokio::spawn(child.wait_with_output());
    until("its session is open", || async { rig.api.all("baremetaldiscoveries").len() == 1 }).await;
    let discovery = rig
        .discoveries()
        .list(&kube::api::ListParams::default())
        .await
        .unwrap()
        .items
        .remove(0);
    let name = common::name_of(&discovery);
    let mut machine = rig.machine(common::HONEST);
    machine.inventory = discovery.status.unwrap().inventory.unwrap();
    let order = image_order(&machine, &name, "uid-python");
    // Sealed first, so that the seed is there when the order is.
    rig.seal(&name, &order, "from a test").await;
    rig.accept(&name, Some("uid-python"), Some(order.clone())).await;
    let ran = common::within(60, waiting).await.unwrap().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(
        out.contains(&format!("Image {}", order.id)) && out.contains("seed: openstack/latest/user_data"),
        "{out}"
    );
    assert!(out.lines().last().is_some_and(|l| l.starts_with("Reboot")), "{out}");
    assert_eq!(rig.discovery(&name).await.status.unwrap().result.unwrap().order_id, order.id);
}

/// What an older version may not have known: every field that may be missing, taken out. And what a newer one may add.
fn pared_down(mut value: Value, parses: &impl Fn(&Value) -> bool, keep: &[&str]) -> (Value, usize) {
    fn places(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                let at = format!("{at}/{key}");
                places(value, &at, found);
                found.push(at);
            }),
            Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), found)),
            _ => {}
        }
    }
    let (mut all, mut taken) = (Vec::new(), 0);
    places(&value, "", &mut all);
    for at in all {
        let (parent, key) = at.rsplit_once('/').unwrap();
        let mut without = value.clone();
        if let Some(fields) = without.pointer_mut(parent).and_then(Value::as_object_mut) {
            fields.remove(key);
        }
        if !keep.contains(&key) && parses(&without) {
            value = without;
            taken += 1;
        }
    }
    if let Some(fields) = value.as_object_mut() {
        fields.insert("ofANewerVersion".to_owned(), json!({ "deep": [1, { "er": true }] }));
    }
    (value, taken)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_knows_no_newer_field_is_served_through_an_installation() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(common::HONEST);
    let booted = machine.boot().await.expect("the script loads the agent");
    machine.connect(&booted.pin).await;
    let mut introduction = serde_json::to_value(machine.request(&booted.token)).unwrap();
    introduction["protocol"] = json!(agent_protocol::OLDEST_PROTOCOL_VERSION);
    introduction["agentVersion"] = json!("0.0.9-rc1");
    let parses = |v: &Value| serde_json::from_value::<SessionRequest>(v.clone()).is_ok();
    // What names the machine and its disk is needed for any work at all.
    let (body, taken) = pared_down(
        introduction,
        &parses,
        &["uuid", "serial", "wwn", "model", "sizeBytes", "disks", "nics"],
    );
    assert!(taken > 3, "only {taken} fields may be missing: {body}");
    let opened: SessionResponse = machine
        .call(http::Method::POST, session::PATH_SESSIONS, serde_json::to_vec(&body).unwrap())
        .await
        .expect("a session");
    assert_eq!(
        opened.protocol,
        agent_protocol::OLDEST_PROTOCOL_VERSION,
        "the server keeps to the agent's"
    );
    machine.session = opened.session.clone();
    let name = opened.discovery;
    let seen = rig.discovery(&name).await.status.unwrap();
    assert_eq!(seen.session.unwrap().agent_version, "0.0.9-rc1");

    let order = image_order(&machine, &name, "uid-old");
    rig.accept(&name, Some("uid-old"), Some(order.clone())).await;
    rig.seal(&name, &order, "seed").await;
    assert_eq!(machine.order("").await.expect("an answer").order, order);
    machine.seed().await.expect("a seed");
    let report = agent_protocol::order::Report {
        order_id: order.id.clone(),
        progress: None,
        result: Some(machine.succeeded(&order)),
    };
    let parses = |v: &Value| serde_json::from_value::<agent_protocol::order::Report>(v.clone()).is_ok();
    // The evidence itself is what a result is for.
    let (body, _) = pared_down(serde_json::to_value(&report).unwrap(), &parses, &["result", "image"]);
    machine
        .call::<Value>(http::Method::POST, session::PATH_REPORTS, serde_json::to_vec(&body).unwrap())
        .await
        .expect("stored");
    let stored = rig.discovery(&name).await.status.unwrap().result.unwrap();
    assert_eq!((stored.order_id, stored.image.is_some()), (order.id, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_another_protocol_is_told_which_ones_are_spoken() {
    let rig = Rig::start().await;
    for protocol in [
        agent_protocol::OLDEST_PROTOCOL_VERSION.wrapping_sub(1),
        agent_protocol::PROTOCOL_VERSION + 1,
    ] {
        let mut machine = rig.machine(common::HONEST);
        let booted = machine.boot().await.expect("the script loads the agent");
        machine.connect(&booted.pin).await;
        let mut request = machine.request(&booted.token);
        request.protocol = protocol;
        let refused = machine
            .call::<SessionResponse>(http::Method::POST, session::PATH_SESSIONS, serde_json::to_vec(&request).unwrap())
            .await;
        assert_eq!(
            refused.unwrap_err().1,
            session::ErrorCode::UnsupportedProtocol,
            "protocol {protocol}"
        );
    }
}
