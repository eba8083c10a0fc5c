//! Proxmox VE's API against a service that keeps to its documents.

#[path = "support/served.rs"]
mod served;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use hyper::ext::ReasonPhrase;
use power::{
    Driver, Fault, Off, Operation, PowerState,
    fault::Again,
    proxmox::{Proxmox, Settings},
};
use serde_json::{Value, json};
use served::Served;

const TOKEN: &str = "kube-baremetal@pve!power";
const SECRET: &str = "6b7e1f0a-2c9d-4d4e-9a57-0123456789ab";
const MACHINE: &str = "/api2/json/nodes/pve-1/qemu/101/status/";

/// A task: what it does when it ends, how, and after how many looks.
#[derive(Debug, Clone)]
struct Task {
    looks: usize,
    end: &'static str,
}

#[derive(Debug, Default)]
struct Node {
    status: &'static str,
    qmpstatus: Option<&'static str>,
    told: Vec<String>,
    tasks: HashMap<String, Task>,
    /// How the next tasks end.
    end: Option<Task>,
    /// What is answered to every change instead.
    refuses: Option<(u16, Value, Option<&'static str>)>,
}

type Shared = Arc<Mutex<Node>>;

async fn api(State(node): State<Shared>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let authorization = headers.get("authorization").and_then(|value| value.to_str().ok());
    if authorization != Some(&format!("PVEAPIToken={TOKEN}={SECRET}")) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"data": null}))).into_response();
    }
    let mut node = node.lock().expect("not poisoned");
    let path = uri.path().replace("%3A", ":").replace("%21", "!");
    if let Some(task) = path
        .strip_prefix("/api2/json/nodes/pve-1/tasks/")
        .and_then(|rest| rest.strip_suffix("/status"))
    {
        let Some(task) = node.tasks.get_mut(task) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        if task.looks > 0 {
            task.looks -= 1;
            return Json(json!({"data": {"status": "running", "type": "qmstart"}})).into_response();
        }
        return Json(json!({"data": {"status": "stopped", "exitstatus": task.end}})).into_response();
    }
    let Some(what) = path.strip_prefix(MACHINE) else {
        let message = "Configuration file 'nodes/pve-1/qemu-server/999.conf' does not exist\n";
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({"data": null, "message": message}))).into_response();
    };
    if (method.as_str(), what) == ("GET", "current") {
        let mut data = json!({"vmid": 101, "name": "one", "status": node.status, "cpus": 2});
        if let Some(qmpstatus) = node.qmpstatus {
            data["qmpstatus"] = json!(qmpstatus);
        }
        return Json(json!({"data": data})).into_response();
    }
    assert_eq!(method, Method::POST, "{path}");
    if let Some((status, body, phrase)) = node.refuses.clone() {
        let mut response = (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response();
        if let Some(phrase) = phrase {
            response.extensions_mut().insert(ReasonPhrase::from_static(phrase.as_bytes()));
        }
        return response;
    }
    node.told.push(what.to_owned());
    (node.status, node.qmpstatus) = match what {
        "stop" | "shutdown" => ("stopped", None),
        _ => ("running", Some("running")),
    };
    let task = format!("UPID:pve-1:0001ABCD:0{}:6560A1B2:qm{what}:101:{TOKEN}:", node.told.len());
    let end = node.end.clone().unwrap_or(Task { looks: 1, end: "OK" });
    node.tasks.insert(task.clone(), end);
    Json(json!({"data": task})).into_response()
}

struct Reached {
    served: Served,
    node: Shared,
}

impl Reached {
    async fn start() -> Self {
        let node = Shared::default();
        node.lock().expect("not poisoned").status = "stopped";
        Self {
            served: Served::start(Router::new().fallback(api).with_state(Arc::clone(&node))).await,
            node,
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Node) -> T) -> T {
        look(&mut self.node.lock().expect("not poisoned"))
    }

    fn told(&self) -> Vec<String> {
        self.with(|node| std::mem::take(&mut node.told))
    }

    fn settings(&self) -> Settings {
        Settings {
            url: self.served.url.clone(),
            trust: None,
            token: TOKEN.to_owned(),
            secret: SECRET.to_owned().into(),
            node: "pve-1".to_owned(),
            machine: 101,
        }
    }

    fn driver(&self) -> Proxmox {
        Proxmox::new(self.settings()).expect("good settings")
    }
}

#[tokio::test]
async fn a_machine_is_switched() {
    let reached = Reached::start().await;
    let driver = reached.driver();
    assert_eq!(driver.state().await, Ok(PowerState::Off));
    driver.off(Off::Soft).await.expect("it is off already");
    driver.off(Off::Hard).await.expect("it is off already");
    assert_eq!(reached.told(), Vec::<String>::new());
    driver.on().await.expect("on");
    assert_eq!(
        (driver.state().await, reached.told()),
        (Ok(PowerState::On), vec!["start".to_owned()])
    );
    driver.on().await.expect("it is on already");
    driver.cycle().await.expect("reset");
    assert_eq!(reached.told(), ["reset"]);
    driver.off(Off::Soft).await.expect("shut down");
    assert_eq!(
        (driver.state().await, reached.told()),
        (Ok(PowerState::Off), vec!["shutdown".to_owned()])
    );
    driver.cycle().await.expect("one that is off is switched on");
    assert_eq!(reached.told(), ["start"]);
    driver.off(Off::Hard).await.expect("off");
    assert_eq!(reached.told(), ["stop"]);

    reached.with(|node| (node.status, node.qmpstatus) = ("running", Some("paused")));
    assert_eq!(driver.state().await, Ok(PowerState::Unknown));
    driver.on().await.expect("it goes on");
    assert_eq!(reached.told(), ["resume"]);
    reached.with(|node| node.qmpstatus = Some("prelaunch"));
    driver.cycle().await.expect("reset, and it goes on");
    assert_eq!(reached.told(), ["reset", "resume"]);
}

#[tokio::test]
async fn a_task_is_watched_within_bounds() {
    let reached = Reached::start().await;
    let driver = reached.driver();
    let ends = |looks, end| reached.with(|node| node.end = Some(Task { looks, end }));
    ends(1, "start failed: org.freedesktop.systemd1.UnitExists");
    let fault = driver.on().await.expect_err("it failed");
    assert!(matches!(&fault, Fault::Refused(detail) if detail.contains("UnitExists")), "{fault}");
    ends(0, "VM is locked (backup)");
    let fault = driver.off(Off::Hard).await.expect_err("it failed");
    assert!(matches!(fault, Fault::Busy { .. }), "{fault}");
    ends(1, "WARNINGS: 1");
    driver.on().await.expect("with a warning");
    // One that waits for the system's own shutdown is not waited for.
    ends(usize::MAX, "");
    reached.with(|node| node.status = "running");
    let began = Instant::now();
    driver.off(Off::Soft).await.expect("taken");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let began = Instant::now();
    driver.on().await.expect("taken");
    assert!(
        (Duration::from_secs(7)..Duration::from_secs(10)).contains(&began.elapsed()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn refusals_are_told_apart_and_tell_no_secret() {
    let reached = Reached::start().await;
    let driver = reached.driver();
    let null = |message: &str| json!({"data": null, "message": message});
    for (status, body, phrase, wanted, why) in [
        (
            403,
            null("Permission check failed (/vms/101, VM.PowerMgmt)\n"),
            None,
            "Privilege",
            "VM.PowerMgmt",
        ),
        (
            403,
            json!({"data": null}),
            Some("Permission check failed"),
            "Privilege",
            "VM.PowerMgmt",
        ),
        (
            500,
            null(&format!("VM 101 is odd, {SECRET}")),
            None,
            "Refused",
            "VM 101 is odd, ***",
        ),
        (
            500,
            json!({"data": null}),
            Some("can't lock file: got timeout"),
            "Busy",
            "got timeout",
        ),
        (500, json!({"data": null}), None, "Refused", "500"),
        (
            400,
            json!({"data": null, "errors": {"vmid": "type check failed"}}),
            None,
            "Refused",
            "type check",
        ),
        (595, json!({"data": null}), Some("No route to host"), "Unreachable", "595"),
        (596, json!({"data": null}), None, "Unanswered", "596"),
        (503, json!({}), None, "Busy", "503"),
        (200, json!({"data": "done"}), None, "Unanswered", "no task"),
    ] {
        reached.with(|node| node.refuses = Some((status, body.clone(), phrase)));
        let fault = driver.on().await.expect_err("refused");
        let shown = format!("{fault:?} {fault} {driver:?}");
        assert!(
            shown.starts_with(wanted) && shown.contains(why) && !shown.contains(SECRET),
            "{status} {body}: {shown}"
        );
    }
    let wrong = Settings {
        secret: "wrong-7e1f0a".to_owned().into(),
        ..reached.settings()
    };
    let driver = Proxmox::new(wrong).expect("good settings");
    let fault = driver.state().await.expect_err("a wrong secret");
    assert!(
        matches!(fault, Fault::Credentials(_)) && !format!("{fault:?} {driver:?}").contains("wrong-7e1f0a"),
        "{fault}"
    );
    assert_eq!(fault.again(Operation::On), Again::No);
    let missing = Settings {
        machine: 999,
        ..reached.settings()
    };
    let fault = Proxmox::new(missing).expect("good settings").state().await.expect_err("no machine");
    assert!(matches!(fault, Fault::Settings { field: "machine", .. }), "{fault}");
}

#[test]
fn settings_are_looked_at_before_anything_is_sent() {
    let good = || Settings {
        url: "http://192.0.2.7:8006".to_owned(),
        trust: None,
        token: TOKEN.to_owned(),
        secret: SECRET.to_owned().into(),
        node: "pve-1".to_owned(),
        machine: 101,
    };
    assert_eq!(
        Proxmox::new(good()).expect("good settings").controller(),
        "192.0.2.7:8006 pve-1/101"
    );
    let refused = |change: fn(&mut Settings)| {
        let mut settings = good();
        change(&mut settings);
        match Proxmox::new(settings) {
            Err(Fault::Settings { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(|settings| settings.url = "https://192.0.2.7:8006".to_owned()), "url");
    assert_eq!(refused(|settings| settings.url = "http://192.0.2.7:8006/api2".to_owned()), "url");
    assert_eq!(refused(|settings| settings.token = "root@pam".to_owned()), "token");
    assert_eq!(refused(|settings| settings.secret = "a\nb".to_owned().into()), "secret");
    assert_eq!(refused(|settings| settings.node = "../x".to_owned()), "node");
    assert_eq!(refused(|settings| settings.machine = 99), "machine");
}
