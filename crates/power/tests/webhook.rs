//! The webhook against a service that keeps to the contract of `docs/reference/power.md`, with its own check of signatures.

#[path = "support/served.rs"]
mod served;

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use power::{
    BootDevice, BootDevices, BootOnce, Capabilities, Driver, Fault, Firmware, Media, Off, Operation, PowerState,
    fault::Again,
    webhook::{self, Settings, Webhook},
};
use serde_json::{Value, json};
use served::Served;

const KEY: &[u8] = b"thirty-two bytes of a shared key";

/// What came and was genuine, and how it is answered.
#[derive(Debug, Default)]
struct Service {
    calls: Vec<Value>,
    ids: Vec<String>,
    answer: Option<(u16, Value)>,
}

async fn answer(State(service): State<Arc<Mutex<Service>>>, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let wanted = webhook::signature(KEY, &id, timestamp.parse().unwrap_or_default(), &body);
    let mut service = service.lock().expect("not poisoned");
    if header("webhook-signature") != wanted || service.ids.contains(&id) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": "wrong signature"}))).into_response();
    }
    service.ids.push(id);
    service.calls.push(serde_json::from_slice(&body).expect("JSON"));
    let (status, answer) = service.answer.clone().unwrap_or((200, json!({"state": "on"})));
    (StatusCode::from_u16(status).expect("a status"), Json(answer)).into_response()
}

/// A webhook that runs.
struct Hook {
    served: Served,
    service: Arc<Mutex<Service>>,
}

impl Hook {
    async fn start() -> Self {
        let service = Arc::new(Mutex::new(Service::default()));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&service));
        Self {
            served: Served::start(router).await,
            service,
        }
    }

    fn driver(&self, key: &[u8], capabilities: Capabilities) -> Webhook {
        Webhook::new(Settings {
            url: format!("{}/power", self.served.url),
            trust: None,
            key: key.to_vec().into(),
            machine: "rack-3/7".to_owned(),
            capabilities,
        })
        .expect("good settings")
    }

    fn answers(&self, status: u16, body: Value) {
        self.service.lock().expect("not poisoned").answer = Some((status, body));
    }

    fn calls(&self) -> Vec<Value> {
        std::mem::take(&mut self.service.lock().expect("not poisoned").calls)
    }
}

#[tokio::test]
async fn every_call_goes_out_as_the_contract_says() {
    let hook = Hook::start().await;
    let driver = hook.driver(KEY, webhook::KIND.capabilities);
    assert_eq!(driver.state().await, Ok(PowerState::On));
    driver.on().await.expect("on");
    driver.off(Off::Soft).await.expect("shut down");
    driver.off(Off::Hard).await.expect("off");
    driver.cycle().await.expect("cycled");
    let boot = BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Uefi,
    };
    driver.boot_once(boot).await.expect("set");
    let media = Media {
        url: "http://192.0.2.1/agent.iso".to_owned(),
    };
    driver.attach(&media).await.expect("attached");
    driver.detach(&media).await.expect("detached");
    let with = |members: Value| {
        let mut call = json!({"apiVersion": "power.kube-baremetal.io/v1", "machine": "rack-3/7"});
        for (name, value) in members.as_object().expect("an object") {
            call[name] = value.clone();
        }
        call
    };
    let wanted = [
        json!({"call": "state"}),
        json!({"call": "on"}),
        json!({"call": "off", "soft": true}),
        json!({"call": "off", "soft": false}),
        json!({"call": "cycle"}),
        json!({"call": "bootOnce", "device": "network", "firmware": "uefi"}),
        json!({"call": "attach", "url": "http://192.0.2.1/agent.iso"}),
        json!({"call": "detach", "url": "http://192.0.2.1/agent.iso"}),
    ];
    assert_eq!(hook.calls(), wanted.map(with));
}

#[tokio::test]
async fn what_a_service_does_not_do_is_not_asked_of_it() {
    let hook = Hook::start().await;
    let driver = hook.driver(
        KEY,
        Capabilities {
            on: true,
            boot_once: BootDevices::of(&[BootDevice::Disk]),
            ..Capabilities::NONE
        },
    );
    driver.on().await.expect("on");
    assert!(matches!(driver.cycle().await, Err(Fault::Incapable(Operation::Cycle))));
    let boot = BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Bios,
    };
    assert!(matches!(
        driver.boot_once(boot).await,
        Err(Fault::Incapable(Operation::BootOnce(BootDevice::Network)))
    ));
    assert_eq!(hook.calls().len(), 1);
}

#[tokio::test]
async fn its_errors_are_told_apart() {
    let hook = Hook::start().await;
    let driver = hook.driver(KEY, webhook::KIND.capabilities);
    let said = json!({"error": "the breaker is open"});
    for (status, cycle, name) in [
        (400, Again::No, "refused"),
        (404, Again::No, "refused"),
        (422, Again::No, "offers"),
        (500, Again::No, "took the command"),
        (503, Again::After(std::time::Duration::ZERO), "busy"),
    ] {
        hook.answers(status, said.clone());
        let fault = driver.cycle().await.expect_err("an error");
        assert_eq!(fault.again(Operation::Cycle), cycle, "{status}: {fault}");
        assert!(
            fault.to_string().contains(name) && fault.to_string().contains("the breaker is open"),
            "{status}: {fault}"
        );
    }
    hook.answers(200, json!({"state": "sleeping"}));
    let fault = driver.state().await.expect_err("no state");
    assert!(matches!(fault, Fault::Garbled(_)), "{fault}");
    let fault = hook
        .driver(b"another key of thirty-two bytes.", webhook::KIND.capabilities)
        .on()
        .await
        .expect_err("a wrong key");
    assert!(matches!(fault, Fault::Credentials(_)), "{fault}");
}

/// The service of `examples/power-webhook`, over a file that says whether the machine is on. It ends with this.
struct Example {
    process: std::process::Child,
    url: String,
    folder: tempfile::TempDir,
    /// It goes on writing there.
    _output: std::io::BufReader<std::process::ChildStdout>,
}

impl Example {
    fn start(key: &str) -> Self {
        use std::io::BufRead;

        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        std::fs::write(&state, "off").expect("written");
        let writes = |word: &str| json!(["sh", "-c", format!("printf {word} > {}", state.display())]);
        let machines = json!({"bench-1": {
            "on": writes("on"), "off": writes("off"), "state": ["cat", state], "cycle": ["sh", "-c", "echo the relay is stuck >&2; exit 1"],
        }});
        std::fs::write(folder.path().join("machines.json"), machines.to_string()).expect("written");
        let service = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/power-webhook/service.py");
        let mut process = std::process::Command::new("python3")
            .arg(service)
            .args(["--listen", "127.0.0.1:0", "--machines"])
            .arg(folder.path().join("machines.json"))
            .env("POWER_KEY", key)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        let mut output = std::io::BufReader::new(process.stdout.take().expect("its output"));
        output.read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening at ").expect("where it listens");
        Self {
            url: format!("http://{address}/"),
            process,
            folder,
            _output: output,
        }
    }

    fn driver(&self, key: &str, machine: &str) -> Webhook {
        Webhook::new(Settings {
            url: self.url.clone(),
            trust: None,
            key: Settings::key(key).expect("a key"),
            machine: machine.to_owned(),
            capabilities: webhook::KIND.capabilities,
        })
        .expect("good settings")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        self.process.kill().expect("it ran");
        self.process.wait().expect("it ended");
    }
}

#[tokio::test]
async fn the_worked_example_keeps_to_the_contract() {
    let key = "whsec_dGhpcnR5LXR3byBieXRlcyBvZiBhIHNoYXJlZCBrZXk=";
    let example = Example::start(key);
    let driver = example.driver(key, "bench-1");
    assert_eq!(driver.state().await, Ok(PowerState::Off));
    driver.on().await.expect("on");
    assert_eq!(std::fs::read_to_string(example.folder.path().join("state")).expect("read"), "on");
    assert_eq!(driver.state().await, Ok(PowerState::On));
    driver.off(Off::Hard).await.expect("off");
    assert_eq!(driver.state().await, Ok(PowerState::Off));
    let stuck = driver.cycle().await.expect_err("the relay is stuck").to_string();
    assert!(stuck.contains("the relay is stuck"), "{stuck}");
    let boot = BootOnce {
        device: BootDevice::Network,
        firmware: Firmware::Uefi,
    };
    assert!(matches!(driver.boot_once(boot).await, Err(Fault::NotOffered { .. })));
    assert!(matches!(
        example.driver(key, "bench-2").state().await,
        Err(Fault::NotOffered { .. })
    ));
    let stranger = example.driver("c29tZWJvZHkgZWxzZSdzIHRoaXJ0eS10d28gYnl0ZXM=", "bench-1");
    assert!(matches!(stranger.on().await, Err(Fault::Credentials(_))));
    assert_eq!(std::fs::read_to_string(example.folder.path().join("state")).expect("read"), "off");
}
