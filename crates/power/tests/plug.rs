//! Plugs against services that keep to the makers' documents: Shelly's RPC with its digest, Tasmota's HTTP commands, Home Assistant's REST API.

#[path = "support/served.rs"]
mod served;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use power::{
    Driver, Fault, Off, Operation, PowerState,
    digest::{Algorithm, Challenge},
    fault::Again,
    plug::{Load, Make, Plug, home_assistant::HomeAssistant, shelly::Shelly, tasmota::Tasmota},
};
use serde_json::{Value, json};
use served::Served;

const PASSWORD: &str = "plug-Pass-5";
/// With what has a meaning in URLs.
const TASMOTA_PASSWORD: &str = "p&s=5 +%20#é";
const CHALLENGE: &str = "Digest qop=\"auth\", realm=\"shellyplugsg3-aabbcc\", nonce=\"60dc2c49\", algorithm=SHA-256";

/// A plug, and what was done to it.
#[derive(Debug, Default)]
struct Device {
    on: bool,
    watts: Option<f64>,
    told: Vec<bool>,
    /// What every change is answered with instead of being done.
    refuses: Option<u16>,
    unavailable: bool,
    /// How many relays a Tasmota has. Without any it is not one.
    relays: usize,
    /// That it answers as releases before 10 did to a wrong password.
    old: bool,
}

type Shared = Arc<Mutex<Device>>;

/// A plug that is reached.
struct Reached {
    served: Served,
    device: Shared,
}

impl Reached {
    async fn start(router: Router<Shared>) -> Self {
        let device = Shared::default();
        Self {
            served: Served::start(router.with_state(Arc::clone(&device))).await,
            device,
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Device) -> T) -> T {
        look(&mut self.device.lock().expect("not poisoned"))
    }
}

impl Device {
    fn set(&mut self, on: bool) -> Option<Response> {
        if let Some(status) = self.refuses {
            let body =
                json!({"id": 1, "error": {"code": -103, "message": format!("no, {PASSWORD}")}, "message": format!("no, {PASSWORD}")});
            return Some((StatusCode::from_u16(status).expect("a status"), Json(body)).into_response());
        }
        self.on = on;
        self.told.push(on);
        None
    }
}

async fn shelly(State(device): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let answer = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let own_nonce = answer
        .split("cnonce=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap_or_default();
    let wanted = Challenge::parse(CHALLENGE, &[Algorithm::Sha256])
        .expect("a challenge")
        .answer("POST", "/rpc", "admin", PASSWORD, own_nonce);
    if own_nonce.len() < 8 || answer != wanted {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", CHALLENGE)]).into_response();
    }
    if (method, uri.path()) != (Method::POST, "/rpc") {
        return StatusCode::NOT_FOUND.into_response();
    }
    let call: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(call["params"]["id"], 2, "{call}");
    let mut device = device.lock().expect("not poisoned");
    match call["method"].as_str() {
        Some("Switch.Set") => {
            let was = device.on;
            let refused = device.set(call["params"]["on"].as_bool().expect("on"));
            refused.unwrap_or_else(|| {
                Json(json!({"id": call["id"], "src": "shellyplugsg3-aabbcc", "result": {"was_on": was}})).into_response()
            })
        }
        Some("Switch.GetStatus") => {
            let mut status = json!({"id": 2, "source": "init", "output": device.on});
            if let Some(watts) = device.watts {
                status["apower"] = json!(watts);
            }
            Json(json!({"id": call["id"], "result": status})).into_response()
        }
        _ => Json(json!({"id": call["id"], "error": {"code": 404, "message": "No handler"}})).into_response(),
    }
}

/// Tasmota's web server: "Commands" and "JSON Status Responses" of its documents. What it does with a relay that it does not have is its `ExecuteCommandPower`'s.
async fn tasmota(State(device): State<Shared>, method: Method, uri: Uri, Query(query): Query<HashMap<String, String>>) -> Response {
    let mut device = device.lock().expect("not poisoned");
    if (method, uri.path()) != (Method::GET, "/cm") {
        return StatusCode::NOT_FOUND.into_response();
    }
    if query.get("user").map(String::as_str) != Some("admin") || query.get("password").map(String::as_str) != Some(TASMOTA_PASSWORD) {
        let status = if device.old { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        return (status, Json(json!({"WARNING": "Need user=<username>&password=<password>"}))).into_response();
    }
    let command = query.get("cmnd").expect("a command");
    if command == "Status 8" {
        let mut sensors = json!({"Time": "2026-01-02T03:04:05"});
        if let Some(watts) = device.watts {
            let power = if device.relays == 1 { json!(watts) } else { json!([3, watts]) };
            sensors["ENERGY"] = json!({"TotalStartTime": "2025-01-02T03:04:05", "Total": 3.185, "Power": power, "Voltage": 230});
        }
        return Json(json!({"StatusSNS": sensors})).into_response();
    }
    let (name, value) = command.split_once(' ').unwrap_or((command, ""));
    let Some(mut relay) = name.strip_prefix("Power").and_then(|number| number.parse::<usize>().ok()) else {
        return Json(json!({"Command": "Unknown"})).into_response();
    };
    if relay > device.relays {
        relay = 1;
    }
    let measured = relay == device.relays;
    if !value.is_empty() {
        assert!(measured, "the other relay is not to be touched: {command}");
        if let Some(refused) = device.set(value == "ON") {
            return refused;
        }
    }
    let key = if device.relays == 1 {
        "POWER".to_owned()
    } else {
        format!("POWER{relay}")
    };
    Json(json!({key: if measured && device.on { "ON" } else { "OFF" }})).into_response()
}

async fn home_assistant(State(device): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if headers.get("authorization").and_then(|value| value.to_str().ok()) != Some("Bearer plug-Pass-5") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut device = device.lock().expect("not poisoned");
    match (method.as_str(), uri.path()) {
        ("POST", "/api/services/switch/turn_on" | "/api/services/switch/turn_off") => {
            let call: Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(call, json!({"entity_id": "switch.rack_3"}));
            device
                .set(uri.path().ends_with("on"))
                .unwrap_or_else(|| Json(json!([])).into_response())
        }
        ("GET", "/api/states/switch.rack_3") => {
            let state = if device.unavailable {
                "unavailable"
            } else if device.on {
                "on"
            } else {
                "off"
            };
            Json(json!({"entity_id": "switch.rack_3", "state": state, "attributes": {}})).into_response()
        }
        ("GET", "/api/states/sensor.rack_3_power") => {
            let state = device.watts.map_or("unknown".to_owned(), |watts| watts.to_string());
            Json(json!({"entity_id": "sensor.rack_3_power", "state": state})).into_response()
        }
        _ => (StatusCode::NOT_FOUND, Json(json!({"message": "Entity not found."}))).into_response(),
    }
}

fn load(running_watts: Option<f64>) -> Load {
    Load {
        rest: Duration::from_millis(300),
        running_watts,
    }
}

fn of_shelly(reached: &Reached, password: Option<&str>, running_watts: Option<f64>) -> Plug {
    let shelly = Shelly::new(&reached.served.url, None, password.map(|password| password.to_owned().into()), 2).expect("good settings");
    Plug::new(Make::Shelly(shelly), load(running_watts)).expect("good settings")
}

fn of_tasmota(reached: &Reached, password: Option<&str>, relay: u8, running_watts: Option<f64>) -> Plug {
    let tasmota = Tasmota::new(
        &reached.served.url,
        None,
        password.map(|password| password.to_owned().into()),
        relay,
    )
    .expect("good settings");
    Plug::new(Make::Tasmota(tasmota), load(running_watts)).expect("good settings")
}

fn of_home_assistant(reached: &Reached, token: &str, running_watts: Option<f64>) -> Plug {
    let home = HomeAssistant::new(
        &reached.served.url,
        None,
        token.to_owned().into(),
        "switch.rack_3".to_owned(),
        Some("sensor.rack_3_power".to_owned()),
    );
    Plug::new(Make::HomeAssistant(home.expect("good settings")), load(running_watts)).expect("good settings")
}

async fn a_plug_is_switched(reached: &Reached, plain: &Plug, measured: &Plug) {
    assert_eq!(plain.state().await, Ok(PowerState::Off));
    plain.on().await.expect("on");
    assert_eq!(
        plain.state().await,
        Ok(PowerState::Unknown),
        "mains is there, of the machine nothing is known"
    );
    let refused = plain.on().await.expect_err("nobody knows whether it runs");
    assert!(matches!(refused, Fault::Refused(_)), "{refused}");

    reached.with(|device| device.watts = Some(60.0));
    assert_eq!(measured.state().await, Ok(PowerState::On));
    measured.on().await.expect("it runs");
    assert_eq!(reached.with(|device| std::mem::take(&mut device.told)), [true]);
    reached.with(|device| device.watts = Some(1.5));
    assert_eq!(measured.state().await, Ok(PowerState::Off));
    measured.on().await.expect("mains goes and comes");
    assert_eq!(reached.with(|device| std::mem::take(&mut device.told)), [false, true]);

    let began = Instant::now();
    plain.cycle().await.expect("cycled");
    assert!(began.elapsed() >= Duration::from_millis(300));
    plain.off(Off::Hard).await.expect("off");
    assert_eq!(reached.with(|device| std::mem::take(&mut device.told)), [false, true, false]);
    assert!(matches!(plain.off(Off::Soft).await, Err(Fault::Incapable(Operation::OffSoft))));

    reached.with(|device| device.refuses = Some(400));
    let fault = plain.off(Off::Hard).await.expect_err("refused");
    assert!(
        matches!(fault, Fault::Refused(_)) && !fault.to_string().contains(PASSWORD),
        "{fault}"
    );
}

#[tokio::test]
async fn a_shelly_is_switched_by_its_rpc() {
    let reached = Reached::start(Router::new().fallback(shelly)).await;
    a_plug_is_switched(
        &reached,
        &of_shelly(&reached, Some(PASSWORD), None),
        &of_shelly(&reached, Some(PASSWORD), Some(10.0)),
    )
    .await;
    for password in [None, Some("wrong-Pass-5")] {
        let plug = of_shelly(&reached, password, None);
        let fault = plug.state().await.expect_err("no password, or a wrong one");
        assert!(
            matches!(fault, Fault::Credentials(_)) && !format!("{fault} {plug:?}").contains("wrong-Pass-5"),
            "{fault} {plug:?}"
        );
    }
}

#[tokio::test]
async fn a_tasmota_is_switched_by_its_commands() {
    for relays in [1, 2] {
        let reached = Reached::start(Router::new().fallback(tasmota)).await;
        reached.with(|device| device.relays = relays.into());
        let of = |watts| of_tasmota(&reached, Some(TASMOTA_PASSWORD), relays, watts);
        a_plug_is_switched(&reached, &of(None), &of(Some(10.0))).await;
    }

    let reached = Reached::start(Router::new().fallback(tasmota)).await;
    reached.with(|device| device.relays = 2);
    for old in [false, true] {
        reached.with(|device| device.old = old);
        for password in [None, Some("wrong-Pass-5")] {
            let plug = of_tasmota(&reached, password, 2, None);
            let fault = plug.on().await.expect_err("no password, or a wrong one");
            assert!(
                matches!(fault, Fault::Credentials(_)) && !format!("{fault} {fault:?} {plug:?}").contains("wrong-Pass-5"),
                "{fault} {plug:?}"
            );
        }
    }
    // A relay that it does not have: it would switch its first.
    let plug = of_tasmota(&reached, Some(TASMOTA_PASSWORD), 3, None);
    for fault in [
        plug.off(Off::Hard).await.expect_err("no relay"),
        plug.state().await.expect_err("no relay"),
    ] {
        assert!(
            matches!(&fault, Fault::Settings { field: "relay", problem } if problem.contains("POWER1")),
            "{fault}"
        );
    }
    assert_eq!(reached.with(|device| device.told.len()), 0);
    for relay in [0, 33] {
        let refused = Tasmota::new(&reached.served.url, None, None, relay).expect_err("no such number");
        assert!(matches!(refused, Fault::Settings { field: "relay", .. }), "{refused}");
    }
}

#[tokio::test]
async fn a_password_in_a_url_is_in_no_error() {
    // Nobody listens; somebody hangs up; somebody has no JSON, and tells what it was asked.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port");
    let hangs_up = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = hangs_up.local_addr().expect("an address").port();
    let server = tokio::spawn(async move { while hangs_up.accept().await.is_ok() {} });
    let tells = Served::start(Router::new().fallback(|uri: Uri| async move { format!("{uri}") })).await;
    let refuses = Served::start(Router::new().fallback(|Query(query): Query<HashMap<String, String>>| async move {
        (StatusCode::BAD_REQUEST, Json(json!({"WARNING": format!("not {query:?}")})))
    }))
    .await;
    for url in [
        format!("http://{closed}"),
        format!("http://127.0.0.1:{port}"),
        tells.url.clone(),
        refuses.url.clone(),
    ] {
        let tasmota = Tasmota::new(&url, None, Some("s3cret-Pass".to_owned().into()), 1).expect("good settings");
        let plug = Plug::new(Make::Tasmota(tasmota), load(None)).expect("good settings");
        for fault in [plug.state().await.expect_err(&url), plug.off(Off::Hard).await.expect_err(&url)] {
            let shown = format!("{fault} {fault:?} {plug:?}");
            assert!(!shown.contains("s3cret-Pass"), "{shown}");
        }
    }
    server.abort();
}

#[tokio::test]
async fn a_switch_of_home_assistant_is_switched_by_its_api() {
    let reached = Reached::start(Router::new().fallback(home_assistant)).await;
    a_plug_is_switched(
        &reached,
        &of_home_assistant(&reached, PASSWORD, None),
        &of_home_assistant(&reached, PASSWORD, Some(10.0)),
    )
    .await;
    reached.with(|device| device.unavailable = true);
    let fault = of_home_assistant(&reached, PASSWORD, None)
        .state()
        .await
        .expect_err("the plug is away");
    assert!(
        matches!(&fault, Fault::Unreachable(detail) if detail.contains("unavailable")),
        "{fault}"
    );
    let fault = of_home_assistant(&reached, "wrong-Pass-5", None)
        .state()
        .await
        .expect_err("a wrong token");
    assert!(matches!(fault, Fault::Credentials(_)), "{fault}");
    let refused = HomeAssistant::new(
        &reached.served.url,
        None,
        PASSWORD.to_owned().into(),
        "light.x/../y".to_owned(),
        None,
    )
    .expect_err("no switch");
    assert!(matches!(refused, Fault::Settings { field: "entity", .. }), "{refused}");
}

#[tokio::test]
async fn mains_that_does_not_come_back_is_said() {
    let reached = Reached::start(Router::new().fallback(home_assistant)).await;
    reached.with(|device| device.on = true);
    let plug = of_home_assistant(&reached, PASSWORD, None);
    let device = Arc::clone(&reached.device);
    let breaks = tokio::spawn(async move {
        while device.lock().expect("not poisoned").told.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        device.lock().expect("not poisoned").refuses = Some(500);
    });
    let fault = plug.cycle().await.expect_err("it stays off");
    breaks.await.expect("no panic");
    assert!(fault.to_string().contains("it was switched off and not on again"), "{fault}");
    assert_eq!(fault.again(Operation::Cycle), Again::No);
    assert_eq!(plug.state().await, Ok(PowerState::Off));
}
