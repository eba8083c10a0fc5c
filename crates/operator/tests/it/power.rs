//! A machine with a BMC: what the operator has it do, over a Redfish service that is as small as one can be.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use api::{BareMetalHardware, HardwarePhase, InstancePhase, conditions, power::PowerState};
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use jiff::SignedDuration;
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, events::v1::Event},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, ListParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use crate::{
    embedded::embedded,
    support::{Bench, bench_with, create, gone, instance_at, machine::Machine, phase_is, until},
};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A service with one system, which does what it is told.
#[derive(Clone, Default)]
pub(crate) struct Bmc {
    /// What it was told: the path's end and the body.
    told: Arc<Mutex<Vec<(String, Value)>>>,
    is_off: Arc<Mutex<bool>>,
    /// What it was told to boot from.
    boot: Arc<Mutex<Value>>,
}

impl Bmc {
    pub(crate) async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let router = Router::new().fallback(any(answer)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// As it shows it: what it was told over what it is when nobody told it anything.
    fn boot(&self) -> Value {
        let mut shown = json!({
            "BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None", "BootSourceOverrideMode": "Legacy",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Hdd"]
        });
        for (name, value) in self.boot.lock().unwrap().as_object().into_iter().flatten() {
            shown[name] = value.clone();
        }
        shown
    }

    /// The machine went off, or came on, by itself.
    pub(crate) fn is_now(&self, off: bool) {
        *self.is_off.lock().unwrap() = off;
    }

    /// How it was told to switch the machine.
    pub(crate) fn resets(&self) -> Vec<String> {
        let told = self.told().into_iter().filter(|(what, _)| what == "Reset");
        told.filter_map(|(_, how)| how.as_str().map(str::to_owned)).collect()
    }

    fn told(&self) -> Vec<(String, Value)> {
        self.told.lock().unwrap().clone()
    }
}

async fn answer(State(bmc): State<Bmc>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 16).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path().trim_end_matches('/');
    let known = parts.headers.get("x-auth-token").is_some_and(|token| token == "t-1");
    match (parts.method.as_str(), path) {
        ("GET", "/redfish/v1") => Json(json!({
            "@odata.id": "/redfish/v1", "RedfishVersion": "1.6.0", "Systems": {"@odata.id": "/redfish/v1/Systems"},
            "SessionService": {"@odata.id": "/redfish/v1/SessionService"}, "Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}}
        }))
        .into_response(),
        ("POST", "/redfish/v1/SessionService/Sessions") if body["Password"] == PASSWORD => {
            let mut headers = HeaderMap::new();
            headers.insert("x-auth-token", "t-1".parse().unwrap());
            headers.insert(header::LOCATION, "/redfish/v1/SessionService/Sessions/1".parse().unwrap());
            (StatusCode::CREATED, headers, Json(json!({"@odata.id": "/redfish/v1/SessionService/Sessions/1"}))).into_response()
        }
        ("DELETE", "/redfish/v1/SessionService/Sessions/1") if known => StatusCode::NO_CONTENT.into_response(),
        ("GET", "/redfish/v1/Systems") if known => Json(json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]})).into_response(),
        ("GET", "/redfish/v1/Systems/1") if known => Json(json!({
            "@odata.id": "/redfish/v1/Systems/1", "Id": "1", "PowerState": if *bmc.is_off.lock().unwrap() { "Off" } else { "On" },
            "Boot": bmc.boot(),
            "Actions": {"#ComputerSystem.Reset": {
                "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset",
                "ResetType@Redfish.AllowableValues": ["On", "ForceOff", "GracefulShutdown", "ForceRestart"]
            }}
        }))
        .into_response(),
        ("PATCH", "/redfish/v1/Systems/1") if known => {
            *bmc.boot.lock().unwrap() = body["Boot"].clone();
            bmc.told.lock().unwrap().push(("Boot".to_owned(), body["Boot"].clone()));
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset") if known => {
            *bmc.is_off.lock().unwrap() = ["ForceOff", "GracefulShutdown"].iter().any(|off| body["ResetType"] == *off);
            bmc.told.lock().unwrap().push(("Reset".to_owned(), body["ResetType"].clone()));
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

pub(crate) async fn credentials(bench: &Bench, password: &str) {
    let part = |key: &str, value: &str| (key.to_owned(), ByteString(value.as_bytes().to_vec()));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some("bmc".to_owned()),
            namespace: Some("kube-baremetal-system".to_owned()),
            ..ObjectMeta::default()
        },
        data: Some([part("username", "admin"), part("password", password)].into()),
        ..Secret::default()
    };
    create(&Api::namespaced(bench.client.clone(), "kube-baremetal-system"), &secret).await;
}

/// A machine as somebody writes it, right or wrong.
fn object(spec: &Value) -> DynamicObject {
    let kind = ApiResource::erase::<BareMetalHardware>(&());
    DynamicObject::new("m-door", &kind).data(json!({ "spec": spec }))
}

/// An instance runs on a machine with that BMC. Nobody asks its guest helper.
async fn running(bench: &Bench, url: &str) -> Machine {
    bench.policy(|_| {}).await;
    bench.image("debian").await;
    let mut machine = Machine::new(&bench.client, "m-bmc", 1);
    machine.open_session().await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    // Stored times have whole seconds: a boot in the second in which the session began does not end it.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let hardware: Api<BareMetalHardware> = Api::all(bench.client.clone());
    let power = json!({"redfish": {"address": url, "insecure": true, "credentials": {"name": "bmc"}}});
    bench.patch(&hardware, "m-bmc", json!({ "power": power })).await;
    bench.create_instance("web", |_| {}).await;
    instance_at(bench, &mut machine, "web", InstancePhase::Running).await;
    machine
}

async fn power(machine: &Machine) -> Option<api::power::PowerStatus> {
    machine.hardware().await?.status?.power
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_machine_is_booted_into_the_agent_by_its_bmc() {
    let bmc = Bmc::default();
    let bench = bench_with(|c| c.lifecycle.power_act_after = SignedDuration::ZERO).await;
    credentials(&bench, PASSWORD).await;
    let mut machine = running(&bench, &bmc.start().await).await;
    until("it is known to be on", async || {
        power(&machine).await.filter(|p| p.state == PowerState::On)
    })
    .await;
    assert_eq!(bmc.told(), [], "nothing is done to a machine that runs what it is to run");
    bench.delete_instance("web").await;
    let told = until("its BMC is told", async || Some(bmc.told()).filter(|told| told.len() == 2)).await;
    assert_eq!(
        (told[0].0.as_str(), &told[0].1["BootSourceOverrideTarget"]),
        ("Boot", &json!("Pxe"))
    );
    assert_eq!(told[0].1["BootSourceOverrideEnabled"], "Once");
    assert_eq!(told[1], ("Reset".to_owned(), json!("ForceRestart")));
    until("that is on record", async || power(&machine).await.and_then(|p| p.done)).await;
    machine.open_session().await;
    gone(&bench, &mut machine, "web").await;
    machine.live_until(30, "Ready", phase_is(HardwarePhase::Ready)).await;
    assert_eq!(bmc.told().len(), 2, "once");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_instance_is_shut_down_and_started_again_by_its_bmc() {
    let bmc = Bmc::default();
    let bench = bench_with(|_| {}).await;
    credentials(&bench, PASSWORD).await;
    let machine = running(&bench, &bmc.start().await).await;
    until("it is known to be on", async || {
        power(&machine).await.filter(|p| p.state == PowerState::On)
    })
    .await;
    bench.patch(&bench.instances(), "web", json!({"running": false})).await;
    until("it is off", async || power(&machine).await.filter(|p| p.state == PowerState::Off)).await;
    bench.patch(&bench.instances(), "web", json!({"running": true})).await;
    until("it is on again", async || {
        power(&machine).await.filter(|p| p.state == PowerState::On && p.act.is_none())
    })
    .await;
    assert_eq!(
        bmc.told(),
        [("Reset".to_owned(), json!("GracefulShutdown")), ("Reset".to_owned(), json!("On"))]
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_refuses_is_named_a_person_is_asked_and_no_password_is_shown() {
    let bmc = Bmc::default();
    let bench = bench_with(|c| {
        c.lifecycle.power_act_after = SignedDuration::ZERO;
        c.lifecycle.power_cycle_after = SignedDuration::from_millis(200);
        c.lifecycle.retry_base = SignedDuration::from_millis(50);
    })
    .await;
    credentials(&bench, "wrong-password-7").await;
    let machine = running(&bench, &bmc.start().await).await;
    bench.delete_instance("web").await;
    let message = until("a person is asked", async || {
        let status = machine.hardware().await?.status?;
        let asked = status
            .conditions
            .iter()
            .find(|c| c.type_ == conditions::POWER_CYCLE_NEEDED && c.status == "True");
        asked.map(|c| c.message.clone()).filter(|message| message.contains("credentials"))
    })
    .await;
    assert!(
        message.contains("Its power driver cannot") && message.contains("Secret"),
        "{message}"
    );
    let told = until("an event tells it", async || {
        let events: Api<Event> = Api::all(bench.client.clone());
        let text = serde_json::to_string(&events.list(&ListParams::default()).await.unwrap()).unwrap();
        Some(text).filter(|text| text.contains("PowerFailed"))
    })
    .await;
    let hardware = serde_json::to_string(&machine.hardware().await.unwrap()).unwrap();
    let (mut registry, mut metrics) = (prometheus_client::registry::Registry::default(), String::new());
    bench.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut metrics, &registry).unwrap();
    assert!(metrics.contains("BareMetalHardware"), "{metrics}");
    for (what, text) in [("the object", hardware), ("events", told), ("metrics", metrics)] {
        for secret in ["wrong-password-7", "d3JvbmctcGFzc3dvcmQtNw"] {
            assert!(!text.contains(secret), "{what}: {text}");
        }
    }
    assert_eq!(bmc.told(), []);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spec_that_cannot_work_is_refused_at_the_door_with_its_field() {
    let directory = tempfile::tempdir().unwrap();
    let (server, bench) = embedded(&directory).await;
    let hardware: Api<DynamicObject> = Api::all_with(bench.client.clone(), &ApiResource::erase::<BareMetalHardware>(&()));
    let kept = json!({"name": "s"});
    let refused = [
        (json!({}), "exactly one of"),
        (json!({"manual": {}, "wakeOnLan": {}}), "exactly one of"),
        (
            json!({"redfish": {"address": "http://192.0.2.7", "credentials": kept}}),
            "redfish.address must begin with https://",
        ),
        (
            json!({"redfish": {"address": "https://u:p@192.0.2.7", "credentials": kept}}),
            "spec.power.redfish.address",
        ),
        (
            json!({"ipmi": {"host": "192.0.2.7", "port": 0, "credentials": kept}}),
            "spec.power.ipmi.port",
        ),
        (
            json!({"ipmi": {"host": "192.0.2.7", "cipherSuite": "Suite0", "credentials": kept}}),
            "spec.power.ipmi.cipherSuite",
        ),
        (
            json!({"webhook": {"url": "https://p.example", "machine": "m", "calls": [], "credentials": kept}}),
            "spec.power.webhook.calls",
        ),
        (
            json!({"webhook": {"url": "http://p.example", "machine": "m", "calls": ["On"], "credentials": kept, "certificateSha256": "ab".repeat(32)}}),
            "webhook.certificateSha256 wants",
        ),
        (json!({"shelly": {"address": "192.0.2.7"}}), "spec.power.shelly.address"),
        (
            json!({"shelly": {"address": "http://192.0.2.7", "load": {"restSeconds": 60}}}),
            "spec.power.shelly.load.restSeconds",
        ),
        (
            json!({"homeAssistant": {"address": "http://192.0.2.7:8123", "entity": "switch.pc", "credentials": kept}}),
            "homeAssistant.address must begin with https://",
        ),
        (
            json!({"homeAssistant": {"address": "https://ha.example", "entity": "light.pc", "credentials": kept}}),
            "spec.power.homeAssistant.entity",
        ),
        (
            json!({"pdu": {"host": "pdu", "make": "Apc", "outlet": 1, "credentials": kept}}),
            "spec.power.pdu.make",
        ),
        (
            json!({"pdu": {"host": "pdu", "make": "Raritan", "credentials": kept}}),
            "pdu.outlet is the number",
        ),
        (json!({"libvirt": {"domain": "m"}}), "libvirt names a socket"),
        (json!({"libvirt": {"domain": "m", "host": "h"}}), "libvirt.credentials (tls.crt"),
        (
            json!({"amt": {"address": "http://192.0.2.7:16992", "credentials": kept}}),
            "amt.address must begin with https://",
        ),
        (
            json!({"tasmota": {"address": "http://192.0.2.7", "relay": 0}}),
            "spec.power.tasmota.relay",
        ),
        (
            json!({"tasmota": {"address": "http://192.0.2.7", "credentials": kept}}),
            "tasmota.address must begin with https://",
        ),
        (
            json!({"proxmox": {"address": "https://pve:8006", "node": "pve", "machine": 7, "token": "u@pve!t", "credentials": kept}}),
            "spec.power.proxmox.machine",
        ),
        (json!({"wakeOnLan": {"macs": ["52:54:00:12:34"]}}), "spec.power.wakeOnLan.macs"),
        (
            json!({"wakeOnLan": {"credentials": kept}}),
            "wakeOnLan.credentials (a SecureOn password) wants",
        ),
    ];
    for (power, field) in refused {
        let object = object(&json!({"discoveryName": "m", "power": power}));
        let error = hardware
            .create(&PostParams::default(), &object)
            .await
            .expect_err(&power.to_string());
        assert!(error.to_string().contains(field), "{power}: {error}");
    }
    let unpowered = object(&json!({"discoveryName": "m", "idlePolicy": "PowerOff"}));
    let error = hardware
        .create(&PostParams::default(), &unpowered)
        .await
        .expect_err("nothing switches it on again");
    assert!(error.to_string().contains("name it in spec.power"), "{error}");
    let woken = object(&json!({"discoveryName": "m", "idlePolicy": "PowerOff", "power": {"wakeOnLan": {}}}));
    hardware.create(&PostParams::default(), &woken).await.expect("that is enough");
    bench.end().await;
    server.shutdown().await;
}
