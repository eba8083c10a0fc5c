//! Boot media: what is served for whom and when, and what their tokens are good for.

mod common;

use std::net::IpAddr;

use agent_protocol::{
    identity::MacAddress,
    session::ErrorCode,
    token::{BootClaims, MediumClaims, TokenKey},
};
use api::{
    BareMetalHardware, BareMetalHardwareSpec, BareMetalHardwareStatus,
    power::{PowerAct, PowerActKind, PowerStatus},
};
use boot_script::medium::{SECTOR, SLOT_BYTES, empty_slot};
use common::{
    HONEST, Rig, STRANGER,
    machine::{Booted, Machine, connect_plain, get, read_script, send},
    until,
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;

const NAME: &str = "rack1-u12";
const DISCOVERY: &str = "the-machine";
const SLOT_AT: usize = 3 * SECTOR as usize;

fn act(id: &str, kind: PowerActKind) -> PowerAct {
    PowerAct {
        id: id.to_owned(),
        kind,
        since: Time("2026-01-02T03:04:05Z".parse().unwrap()),
        macs: Vec::new(),
    }
}

fn hardware(mac: MacAddress) -> BareMetalHardware {
    let power = serde_json::json!({"redfish": {
        "address": "https://192.0.2.7", "credentials": {"name": "bmc"},
        "virtualMedia": {"server": "http://10.77.0.2:8080", "mac": mac, "address": "10.77.0.50/24", "gateway": "10.77.0.1"},
    }});
    let mut hardware = BareMetalHardware::new(
        NAME,
        BareMetalHardwareSpec {
            discovery_name: DISCOVERY.to_owned(),
            power: serde_json::from_value(power).unwrap(),
            ..BareMetalHardwareSpec::default()
        },
    );
    hardware.status = Some(BareMetalHardwareStatus {
        power: Some(PowerStatus {
            act: Some(act("1-0a", PowerActKind::BootAgent)),
            ..PowerStatus::default()
        }),
        ..BareMetalHardwareStatus::default()
    });
    hardware
}

/// A media folder with an image that is no more than what netboot looks at.
fn media() -> (tempfile::TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let mut image: Vec<u8> = (0..SLOT_AT).map(|n| n as u8).collect();
    image.extend(empty_slot());
    image.extend((0..700_000).map(|n: usize| (n / 7) as u8));
    std::fs::create_dir(folder.path().join("amd64")).unwrap();
    std::fs::write(folder.path().join("amd64/boot.iso"), &image).unwrap();
    (folder, image)
}

async fn fetch(rig: &Rig, method: Method, path: &str, range: &str) -> (StatusCode, http::HeaderMap, Vec<u8>) {
    let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
    let mut request = Request::builder().method(method).uri(path).header("host", "203.0.113.9");
    if !range.is_empty() {
        request = request.header("range", range);
    }
    plain.ready().await.unwrap();
    let response = plain.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn status(rig: &Rig, path: &str) -> StatusCode {
    let mut plain = connect_plain(HONEST, rig.netboot.addresses().http).await.unwrap();
    send(&mut plain, get(path)).await.0
}

fn path(act: &str) -> String {
    format!("/boot/iso/{NAME}/{act}.iso")
}

async fn is_written_down(rig: &Rig, mac: MacAddress) {
    rig.hardware().create(&PostParams::default(), &hardware(mac)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_has_its_own_words_on_the_one_image_whoever_asks_whichever_replica() {
    let (folder, image) = media();
    let with = |config: &mut netboot::Config| {
        config.media_dir = Some(folder.path().to_owned());
        config.advertise_tls_port = Some(8443);
        config.servers = vec!["https://192.0.2.8:8443".to_owned()];
    };
    let rig = Rig::with(with).await;
    let other = Rig::beside(rig.api.clone(), "replica-1", with).await;
    let mac = MacAddress([2, 0, 0, 0, 0, 9]);
    is_written_down(&rig, mac).await;
    let (code, headers, whole) = fetch(&rig, Method::GET, &path("1-0a"), "").await;
    assert_eq!((code, whole.len()), (StatusCode::OK, image.len()));
    assert_eq!(headers["cache-control"], "no-store");
    let end = SLOT_AT + SLOT_BYTES;
    assert!(
        whole[..SLOT_AT] == image[..SLOT_AT] && whole[end..] == image[end..],
        "all but the slot is as it was built"
    );
    let slot = String::from_utf8(whole[SLOT_AT..end].to_vec()).unwrap();
    assert!(
        slot.contains("'kbm.server=https://10.77.0.2:8443,https://192.0.2.8:8443'"),
        "{slot}"
    );
    assert!(
        slot.contains("'BOOTIF=01-02-00-00-00-00-09'") && slot.contains("'kbm.address=10.77.0.50/24' 'kbm.gateway=10.77.0.1'"),
        "{slot}"
    );

    let (code, same, rest) = fetch(&other, Method::GET, &path("1-0a"), "").await;
    assert!(code == StatusCode::OK && rest == whole, "another replica answers the same");
    assert_eq!(same["etag"], headers["etag"]);
    let (code, head, body) = fetch(&rig, Method::HEAD, &path("1-0a"), "").await;
    assert_eq!(
        (code, body.len(), head["content-length"].to_str().unwrap()),
        (StatusCode::OK, 0, whole.len().to_string().as_str())
    );
    for (first, last) in [
        (0, 0),
        (SLOT_AT - 5, SLOT_AT + 5),
        (SLOT_AT + 10, SLOT_AT + 20),
        (end - 1, end),
        (SLOT_AT - 9, whole.len() - 1),
    ] {
        let (code, _, part) = fetch(&other, Method::GET, &path("1-0a"), &format!("bytes={first}-{last}")).await;
        assert_eq!(code, StatusCode::PARTIAL_CONTENT);
        assert!(part == whole[first..=last], "{first}-{last}");
    }

    // The token is the act's, and names everything that it is bound to.
    let token = read_script(&slot.replace('\'', "")).unwrap().token;
    let claims = token_key(&rig).await.check_medium(&token).unwrap();
    assert_eq!(
        (claims.hardware.as_str(), claims.act.as_str(), claims.boot.mac),
        (NAME, "1-0a", mac)
    );
    assert_eq!(claims.boot.address, "10.77.0.50".parse::<IpAddr>().unwrap());
    assert_eq!(
        claims.boot.issued_at,
        "2026-01-02T03:04:05Z".parse::<Timestamp>().unwrap().as_millisecond()
    );
    // A medium that was built anew is looked into anew.
    std::fs::write(folder.path().join("amd64/boot.iso"), b"something else").unwrap();
    assert_eq!(status(&rig, &path("1-0a")).await, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_a_medium_for_the_act_that_boots_from_it_and_for_nothing_else() {
    let (folder, _) = media();
    let rig = Rig::with(|config| config.media_dir = Some(folder.path().to_owned())).await;
    is_written_down(&rig, MacAddress([2, 0, 0, 0, 0, 9])).await;
    assert_eq!(status(&rig, &path("1-0a")).await, StatusCode::OK);
    for wrong in [
        "/boot/iso/rack1-u13/1-0a.iso".to_owned(),
        path("1-0b"),
        path(""),
        format!("/boot/iso/{NAME}/1-0a"),
        "/boot/iso/..%2f..%2fsecrets/1-0a.iso".to_owned(),
        format!("/boot/iso/{NAME}/..%2f1-0a.iso"),
    ] {
        assert_eq!(status(&rig, &wrong).await, StatusCode::NOT_FOUND, "{wrong}");
    }
    let power = async |change: fn(&mut PowerStatus)| {
        rig.change(NAME, |hardware| {
            change(hardware.status.get_or_insert_default().power.get_or_insert_default())
        })
        .await;
    };
    power(|power| {
        power.done = power.act.take();
        power.done_at = Some(Time(Timestamp::now()));
    })
    .await;
    assert_eq!(status(&rig, &path("1-0a")).await, StatusCode::OK, "it boots");
    // What another act makes of it is known a moment later, by the watch.
    let gone = async |id: &'static str| {
        until("the medium is gone", || async {
            status(&rig, &path(id)).await == StatusCode::NOT_FOUND
        })
        .await;
    };
    power(|power| power.act = Some(act("2-0b", PowerActKind::Off))).await;
    gone("1-0a").await;
    assert_eq!(status(&rig, &path("2-0b")).await, StatusCode::NOT_FOUND, "nothing boots by it");
    power(|power| power.act = Some(act("3-0c", PowerActKind::BootAgent))).await;
    assert_eq!(status(&rig, &path("3-0c")).await, StatusCode::OK);
    assert_eq!(status(&rig, &path("1-0a")).await, StatusCode::NOT_FOUND);
    rig.change(NAME, |hardware| hardware.spec.power = None).await;
    gone("3-0c").await;
}

async fn token_key(rig: &Rig) -> TokenKey {
    let secret = rig.secrets().get("netboot-keys").await.unwrap();
    TokenKey::new(&secret.data.unwrap()["token.key"].0).unwrap()
}

/// What a medium for this machine says, but that these machines are on the loopback.
async fn booted(rig: &Rig, machine: &Machine, id: &str) -> Booted {
    let token = token_key(rig).await.issue_medium(&MediumClaims {
        hardware: NAME.to_owned(),
        act: id.to_owned(),
        boot: BootClaims {
            uuid: None,
            mac: machine.mac,
            address: HONEST,
            elsewhere: Vec::new(),
            nonce: format!("nonce of {id}"),
            issued_at: act(id, PowerActKind::BootAgent).since.0.as_millisecond(),
        },
    });
    Booted {
        server: String::new(),
        pin: rig.pin(),
        token,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_boots_from_a_medium_is_the_machine_that_it_was_made_for() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    is_written_down(&rig, machine.mac).await;
    let told = booted(&rig, &machine, "1-0a").await;
    // From another address, or on another machine, it is worth nothing.
    let mut stranger = rig.machine(STRANGER);
    (stranger.mac, stranger.inventory) = (machine.mac, machine.inventory.clone());
    assert_eq!(stranger.open(&told).await.unwrap_err().1, ErrorCode::TokenRefused);
    let mut other_mac = rig.machine(HONEST);
    assert_eq!(other_mac.open(&told).await.unwrap_err().1, ErrorCode::TokenRefused);

    let opened = machine.open(&told).await.unwrap();
    assert_eq!((opened.discovery.as_str(), opened.hardware.as_deref()), (DISCOVERY, Some(NAME)));
    assert!(rig.discovery(DISCOVERY).await.status.unwrap().inventory.is_some());
    machine.session.clear();
    machine.sequence = 0;
    assert_eq!(
        machine.open(&told).await.unwrap().session,
        opened.session,
        "its answer was lost: it asks again"
    );
    machine.reboot();
    assert_eq!(
        machine.open(&told).await.unwrap_err().1,
        ErrorCode::TokenRefused,
        "another boot from the same medium"
    );

    // The next act is a new boot of the machine, by another token.
    rig.change(NAME, |hardware| {
        let power = hardware.status.get_or_insert_default().power.get_or_insert_default();
        let mut next = act("2-0b", PowerActKind::BootAgent);
        next.since = Time(next.since.0 + SignedDuration::from_secs(60));
        (power.done, power.done_at, power.act) = (power.act.take(), Some(Time(Timestamp::now())), Some(next));
    })
    .await;
    machine.reboot();
    let mut again = booted(&rig, &machine, "2-0b").await;
    assert_eq!(
        machine.open(&again).await.unwrap_err().1,
        ErrorCode::TokenRefused,
        "made before the session that there is"
    );
    machine.reboot();
    again.token = later(&rig, &machine).await;
    assert_eq!(machine.open(&again).await.unwrap().discovery, DISCOVERY);
}

/// The token of the second act, whose time is a minute later.
async fn later(rig: &Rig, machine: &Machine) -> String {
    let key = token_key(rig).await;
    let mut claims = key.check_medium(&booted(rig, machine, "2-0b").await.token).unwrap();
    claims.boot.issued_at += 60_000;
    key.issue_medium(&claims)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_act_and_some_minutes_after_it_was_carried_out() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    is_written_down(&rig, machine.mac).await;
    let told = booted(&rig, &machine, "1-0a").await;
    let done = async |ago: i64| {
        rig.change(NAME, |hardware| {
            let power = hardware.status.get_or_insert_default().power.get_or_insert_default();
            power.act = None;
            power.done = Some(act("1-0a", PowerActKind::BootAgent));
            power.done_at = Some(Time(Timestamp::now() - SignedDuration::from_mins(ago)));
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    };
    done(11).await;
    assert_eq!(machine.open(&told).await.unwrap_err().1, ErrorCode::TokenRefused);
    let never = booted(&rig, &machine, "9-0f").await;
    assert_eq!(
        machine.open(&never).await.unwrap_err().1,
        ErrorCode::TokenRefused,
        "there was no such act"
    );
    done(5).await;
    machine.reboot();
    assert!(
        machine.open(&told).await.is_ok(),
        "an act that waited for its turn for months is as good as any"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_known_by_another_name_is_not_taken_for_this_one() {
    let rig = Rig::start().await;
    let mut machine = rig.machine(HONEST);
    let known = machine.power_on().await.unwrap().discovery;
    is_written_down(&rig, machine.mac).await;
    machine.reboot();
    let told = booted(&rig, &machine, "1-0a").await;
    assert_eq!(machine.open(&told).await.unwrap_err().1, ErrorCode::IdentityConflict);
    assert_eq!(rig.api.all("baremetaldiscoveries").len(), 1, "{known} alone");
}
