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
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::ObjectMeta};
use serde_json::{Value, json};

use crate::support::{Bench, bench_with, create, gone, instance_at, machine::Machine, phase_is, until};

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
    tokio::time::sleep(Duration::from_millis(200)).await;
    let whole = serde_json::to_string(&machine.hardware().await.unwrap()).unwrap();
    assert!(!whole.contains("wrong-password-7"), "{whole}");
    assert_eq!(bmc.told(), []);
    bench.end().await;
}
