//! A Redfish service for tests, with manners as data: sessions and their number, tasks, versions that must be named, settings elsewhere, lists of what is allowed here or
//! there, links of odd forms, errors that tell secrets. It does what no peer that can be had here does; that our client also speaks the real thing is shown in `sushy`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use power::redfish::{Redfish, Settings};
use serde_json::{Value, json};

use crate::served::Served;

pub const PASSWORD: &str = "swordfish-77";
pub const SYSTEM: &str = "/redfish/v1/Systems/1";
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

/// What it does when a machine is reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resets {
    /// At once.
    #[default]
    AtOnce,
    /// By a task that needs so many looks.
    Task { looks: u32, fails: bool },
    /// With this status, and nothing done.
    Refused(u16),
    /// It is done and the answer is this status.
    DoneAnd(u16),
}

/// Its manners.
#[derive(Debug, Clone)]
pub struct Manners {
    pub vendor: Option<&'static str>,
    /// Sessions at the same time. None: there is no session service.
    pub sessions: Option<usize>,
    pub resets: Resets,
    /// What the reset action says it takes.
    pub offered: Option<Vec<&'static str>>,
    /// Said by an ActionInfo instead.
    pub by_action_info: bool,
    /// What of these words is really taken.
    pub taken: Vec<&'static str>,
    /// Looks until power that goes off is off.
    pub slow_off: u32,
    /// Changes must name the version.
    pub versions: bool,
    /// Versions are named as weak ones, and wanted as strong ones.
    pub weak: bool,
    /// A boot override can be changed in the settings resource only.
    pub boot_elsewhere: bool,
    /// A mode in a boot override: refused, demanded, or neither.
    pub mode: Option<bool>,
    /// A boot override is taken and forgotten.
    pub forgets_boot: bool,
    /// Links are absolute, with a name that nobody can reach.
    pub absolute: bool,
    /// The root redirects.
    pub redirects: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            vendor: None,
            sessions: Some(4),
            resets: Resets::AtOnce,
            offered: Some(vec!["On", "ForceOff", "GracefulShutdown", "ForceRestart"]),
            by_action_info: false,
            taken: vec![
                "On",
                "ForceOff",
                "GracefulShutdown",
                "ForceRestart",
                "PowerCycle",
                "PushPowerButton",
            ],
            slow_off: 0,
            versions: false,
            weak: false,
            boot_elsewhere: false,
            mode: None,
            forgets_boot: false,
            absolute: false,
            redirects: false,
        }
    }
}

/// The service's memory.
#[derive(Debug)]
pub struct Bmc {
    pub manners: Manners,
    pub power: &'static str,
    pub boot: Value,
    pub pending: Value,
    pub resets: Vec<String>,
    pub tokens: Vec<String>,
    pub log_ins: usize,
    pub requests: Vec<(Method, String)>,
    looks: u32,
    off_looks: u32,
    version: u32,
}

/// A service that runs until this is dropped.
pub struct Service {
    served: Served,
    pub bmc: Arc<Mutex<Bmc>>,
}

impl Service {
    pub async fn start(manners: Manners) -> Self {
        let bmc = Arc::new(Mutex::new(Bmc {
            manners,
            power: "Off",
            boot: json!({"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None", "BootSourceOverrideMode": "UEFI",
                "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "UefiHttp", "Hdd", "UsbCd", "BiosSetup"]}),
            pending: json!({}),
            resets: Vec::new(),
            tokens: Vec::new(),
            log_ins: 0,
            requests: Vec::new(),
            looks: 0,
            off_looks: 0,
            version: 1,
        }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&bmc));
        Self {
            served: Served::start(router).await,
            bmc,
        }
    }

    pub fn driver(&self) -> Redfish {
        self.driver_with(PASSWORD)
    }

    pub fn driver_with(&self, password: &str) -> Redfish {
        Redfish::new(Settings {
            url: self.served.url.clone(),
            trust: None,
            user: "admin".to_owned(),
            password: password.to_owned().into(),
            system: None,
        })
        .expect("good settings")
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Bmc) -> T) -> T {
        look(&mut self.bmc.lock().expect("not poisoned"))
    }
}

type Shared = State<Arc<Mutex<Bmc>>>;

async fn answer(State(bmc): Shared, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut bmc = bmc.lock().expect("not poisoned");
    let path = uri.path().to_owned();
    bmc.requests.push((method.clone(), path.clone()));
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    bmc.answer(&method, &path, &headers, &body)
}

fn refuse(status: u16, message: &str) -> Response {
    // As some do, it repeats what it was told.
    let body = json!({"error": {"code": "Base.1.0.GeneralError", "message": "see the extended information",
        "@Message.ExtendedInfo": [{"MessageId": "Base.1.0.GeneralError", "Message": format!("{message} (your password is {PASSWORD})")}]}});
    (StatusCode::from_u16(status).expect("a status"), axum::Json(body)).into_response()
}

fn document(body: Value) -> Response {
    axum::Json(body).into_response()
}

impl Bmc {
    fn link(&self, path: &str) -> Value {
        let path = if self.manners.absolute {
            format!("https://bmc-7.invalid:8443{path}")
        } else {
            path.to_owned()
        };
        json!({"@odata.id": path})
    }

    fn target(&self, path: &str) -> String {
        self.link(path)["@odata.id"].as_str().unwrap_or_default().to_owned()
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        // "admin:swordfish-77" in base64.
        text("authorization") == "Basic YWRtaW46c3dvcmRmaXNoLTc3" || self.tokens.contains(&text("x-auth-token"))
    }

    fn etag(&self) -> String {
        format!("{}\"{}\"", if self.manners.weak { "W/" } else { "" }, self.version)
    }

    fn answer(&mut self, method: &Method, path: &str, headers: &HeaderMap, body: &Value) -> Response {
        if path == "/redfish/v1/" && self.manners.redirects {
            return (StatusCode::PERMANENT_REDIRECT, [("location", "/redfish/v1")]).into_response();
        }
        match (method.as_str(), path) {
            ("GET", "/redfish/v1/" | "/redfish/v1") => return document(self.root()),
            ("POST", SESSIONS) => return self.log_in(body),
            _ if !self.is_known(headers) => return refuse(401, "who are you?"),
            _ => {}
        }
        match (method.as_str(), path) {
            ("GET", "/redfish/v1/Systems") => document(json!({"Members": [self.link(SYSTEM)], "Members@odata.count": "1"})),
            ("GET", SYSTEM) => {
                let document = self.system();
                ([("etag", self.etag())], axum::Json(document)).into_response()
            }
            ("PATCH", SYSTEM) if self.manners.boot_elsewhere => refuse(400, "The property Boot is a read-only property."),
            ("PATCH", SYSTEM | "/redfish/v1/Systems/1/Settings") => self.change(path, headers, body),
            ("GET", "/redfish/v1/Systems/1/Settings") => {
                ([("etag", self.etag())], axum::Json(json!({"Boot": self.pending}))).into_response()
            }
            ("GET", "/redfish/v1/Systems/1/ResetActionInfo") => document(
                json!({"Parameters": [{"Name": "Other"}, {"Name": "ResetType", "Required": "true", "AllowableValues": self.manners.offered}]}),
            ),
            ("POST", "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset") => self.reset(body["ResetType"].as_str().unwrap_or_default()),
            ("GET", "/redfish/v1/TaskService/TaskMonitors/1") => self.task(),
            ("DELETE", _) if path.starts_with(SESSIONS) => {
                let number = path.trim_start_matches(SESSIONS).trim_start_matches('/');
                self.tokens.retain(|token| token.strip_prefix("token-") != Some(number));
                StatusCode::NO_CONTENT.into_response()
            }
            _ => refuse(404, "no such resource"),
        }
    }

    fn root(&self) -> Value {
        let mut root =
            json!({"RedfishVersion": "1.6.0", "Systems": self.link("/redfish/v1/Systems"), "Vendor": self.manners.vendor, "Links": {}});
        if self.manners.sessions.is_some() {
            root["Links"]["Sessions"] = self.link(SESSIONS);
        }
        root
    }

    fn log_in(&mut self, body: &Value) -> Response {
        self.log_ins += 1;
        let Some(most) = self.manners.sessions else {
            return refuse(404, "no sessions");
        };
        if (body["UserName"].as_str(), body["Password"].as_str()) != (Some("admin"), Some(PASSWORD)) {
            return refuse(401, "wrong user or password");
        }
        if self.tokens.len() >= most {
            return refuse(503, "the session limit is reached");
        }
        let token = format!("token-{}", self.log_ins);
        self.tokens.push(token.clone());
        let headers: HashMap<&str, String> = [
            ("x-auth-token", token.clone()),
            ("location", self.target(&format!("{SESSIONS}/{}", self.log_ins))),
        ]
        .into();
        let mut response = (StatusCode::CREATED, axum::Json(json!({"Id": self.log_ins}))).into_response();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().expect("a header"));
        }
        response
    }

    fn system(&mut self) -> Value {
        if self.power == "PoweringOff" {
            self.off_looks += 1;
            if self.off_looks > self.manners.slow_off {
                self.power = "Off";
            }
        }
        let mut action = json!({"target": self.target(&format!("{SYSTEM}/Actions/ComputerSystem.Reset"))});
        if self.manners.by_action_info {
            action["@Redfish.ActionInfo"] = json!(self.target("/redfish/v1/Systems/1/ResetActionInfo"));
        } else if let Some(offered) = &self.manners.offered {
            action["ResetType@Redfish.AllowableValues"] = json!(offered);
        }
        let mut system = json!({"Id": "1", "PowerState": self.power, "Manufacturer": self.manners.vendor, "Boot": self.boot, "Actions": {"#ComputerSystem.Reset": action}});
        if self.manners.boot_elsewhere {
            system["@Redfish.Settings"] = json!({"SettingsObject": self.link("/redfish/v1/Systems/1/Settings")});
        }
        system
    }

    fn change(&mut self, path: &str, headers: &HeaderMap, body: &Value) -> Response {
        let named = headers.get("if-match").and_then(|value| value.to_str().ok());
        if self.manners.versions {
            let strong = self.etag().trim_start_matches("W/").to_owned();
            match named {
                None => return refuse(428, "name the version"),
                Some(named) if named != strong => return refuse(412, "another version"),
                Some(_) => {}
            }
        }
        let boot = &body["Boot"];
        match self.manners.mode {
            Some(false) if boot.get("BootSourceOverrideMode").is_some() => {
                return refuse(400, "BootSourceOverrideMode is a read-only property.");
            }
            Some(true) if boot.get("BootSourceOverrideMode").is_none() => {
                return refuse(400, "BootSourceOverrideMode is a required property.");
            }
            _ => {}
        }
        self.version += 1;
        let shown = if path == SYSTEM { &mut self.boot } else { &mut self.pending };
        if let (false, Some(members)) = (self.manners.forgets_boot, boot.as_object()) {
            for (name, value) in members {
                shown[name] = value.clone();
            }
        }
        StatusCode::NO_CONTENT.into_response()
    }

    fn reset(&mut self, word: &str) -> Response {
        if !self.manners.taken.contains(&word) {
            return refuse(400, &format!("{word} is not in the list of acceptable values"));
        }
        if let Resets::Refused(status) = self.manners.resets {
            return refuse(status, "not now");
        }
        self.resets.push(word.to_owned());
        if !matches!(self.manners.resets, Resets::Task { fails: true, .. }) {
            self.off_looks = 0;
            self.power = match word {
                "ForceOff" | "GracefulShutdown" | "PushPowerButton" if self.manners.slow_off > 0 => "PoweringOff",
                "ForceOff" | "GracefulShutdown" | "PushPowerButton" => "Off",
                _ => "On",
            };
        }
        match self.manners.resets {
            Resets::Task { .. } => {
                self.looks = 0;
                let monitor = self.target("/redfish/v1/TaskService/TaskMonitors/1");
                (StatusCode::ACCEPTED, [("location", monitor), ("retry-after", "0".to_owned())]).into_response()
            }
            Resets::DoneAnd(status) => refuse(status, "it crashed"),
            Resets::AtOnce | Resets::Refused(_) => StatusCode::NO_CONTENT.into_response(),
        }
    }

    fn task(&mut self) -> Response {
        let Resets::Task { looks, fails } = self.manners.resets else {
            return refuse(404, "no task");
        };
        self.looks += 1;
        if self.looks <= looks {
            return (
                StatusCode::ACCEPTED,
                [("retry-after", "0")],
                axum::Json(json!({"TaskState": "Running"})),
            )
                .into_response();
        }
        if fails {
            return document(json!({"TaskState": "Exception", "Messages": [{"Message": "the power supply is missing"}]}));
        }
        // It is gone when it is done.
        refuse(404, "no such task")
    }
}
