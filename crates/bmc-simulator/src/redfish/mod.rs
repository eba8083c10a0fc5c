//! Redfish (DSP0266) as vendors speak it.
//!
//! | room | what |
//! |---|---|
//! | [`documents`] | what is read |
//! | [`changes`] | resets and the next boot |
//! | [`drives`] | virtual media |
//! | [`inventory`] | what the machine is |
//! | [`eventing`] | subscriptions, streams, and what is sent |
//! | [`sessions`] | who is let in |
//! | [`forms`] | how documents are written, and how they are spoilt |
//!
//! What differs between vendors comes from the [`crate::profile::Profile`] alone.

mod changes;
mod documents;
mod drives;
pub(crate) mod eventing;
pub mod forms;
mod inventory;
mod sessions;

use serde_json::{Value, json};

use crate::{
    bmc::Bmc,
    faults::{Mishap, Operation, Protocol, What},
    http::{Answer, Ask, Fate},
    profile::{EjectShown, Etag, Place},
};

/// Where everything is.
pub(crate) const ROOT: &str = "/redfish/v1";

/// A change to documents on their way out, for tests of clients: gets the path that was asked for.
pub type Rewrite = std::sync::Arc<dyn Fn(&str, Value) -> Value + Send + Sync>;

/// A conversation's one request, taken apart.
struct Request<'a> {
    bmc: &'a Bmc,
    ask: &'a Ask,
    segments: Vec<&'a str>,
    mishap: Mishap,
}

/// What a request is for.
fn operation(method: &str, segments: &[&str]) -> Operation {
    match (method, segments) {
        ("POST", [.., "SessionService", "Sessions"]) => Operation::Login,
        ("DELETE", [.., "Sessions", _]) => Operation::Logout,
        ("POST", [.., "ComputerSystem.Reset"]) => Operation::Reset,
        (_, [.., "VirtualMedia"] | [.., "VirtualMedia", _] | [.., "VirtualMedia", _, "Actions", _]) => Operation::Media,
        ("GET", ["Systems", _]) => Operation::State,
        ("PATCH", ["Systems", ..]) => Operation::Boot,
        (_, ["TaskService", ..]) => Operation::Task,
        ("POST" | "PATCH" | "DELETE", ["EventService", "Subscriptions", ..]) => Operation::Subscribe,
        _ => Operation::Any,
    }
}

/// Answers a request.
pub(crate) async fn answer(bmc: &Bmc, ask: &Ask, rewrite: Option<&Rewrite>) -> Fate {
    let path = ask.path.trim_end_matches('/');
    let Some(rest) = path.strip_prefix(ROOT) else {
        return Fate::Answer(match path {
            "/redfish" => Answer::json(200, json!({"v1": "/redfish/v1/"})),
            _ => refusal(404, "ResourceMissingAtURI", "there is nothing at this place", &[]),
        });
    };
    let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
    let streams = eventing::is_stream(bmc, &segments);
    let operation = if streams {
        Operation::Subscribe
    } else {
        operation(&ask.method, &segments)
    };
    let mishap = bmc.asked(Protocol::Redfish, operation, ask.method == "GET");
    if !mishap.delay.is_zero() {
        tokio::time::sleep(mishap.delay).await;
    }
    match mishap.what {
        Some(What::Silent) => return Fate::Silent,
        Some(What::Closed) => return Fate::Closed,
        Some(What::Status { code, retry_after }) => {
            let answer = refusal(code, "GeneralError", "a fault that was set in the simulator", &[]);
            return Fate::Answer(match retry_after {
                Some(seconds) => answer.with("retry-after", seconds.to_string()),
                None => answer,
            });
        }
        Some(What::Hidden) => return Fate::Answer(refusal(404, "ResourceMissingAtURI", "there is nothing at this place", &[])),
        _ => {}
    }
    let request = Request {
        bmc,
        ask,
        segments,
        mishap,
    };
    let mut answer = request.answer();
    if let Some(body) = answer.body.take() {
        let body = forms::dress(&bmc.profile.paths, body);
        answer.body = Some(match rewrite {
            Some(rewrite) => rewrite(path, body),
            None => body,
        });
    }
    forms::spoil(answer, mishap.what)
}

/// A refusal, as the standard has it (DSP0266, 8.6).
fn refusal(status: u16, id: &str, message: &str, related: &[&str]) -> Answer {
    let related: Vec<String> = related.iter().map(|name| format!("#/{name}")).collect();
    Answer::json(
        status,
        json!({"error": {
            "code": format!("Base.1.8.{id}"),
            "message": message,
            "@Message.ExtendedInfo": [{"MessageId": format!("Base.1.8.{id}"), "Message": message, "RelatedProperties": related, "Severity": "Warning"}],
        }}),
    )
}

/// What is taken, by the status that the profile has for it.
fn taken(status: u16) -> Answer {
    if status == 200 || status == 201 {
        return Answer::json(
            status,
            json!({"error": {"code": "Base.1.8.Success", "message": "done", "@Message.ExtendedInfo": [{"MessageId": "Base.1.8.Success", "Message": "done"}]}}),
        );
    }
    Answer::empty(status)
}

fn missing() -> Answer {
    refusal(404, "ResourceMissingAtURI", "there is nothing at this place", &[])
}

impl Request<'_> {
    fn answer(&self) -> Answer {
        match (self.ask.method.as_str(), self.segments.as_slice()) {
            ("GET", []) => return Answer::json(200, self.bmc.root()),
            ("POST", ["SessionService", "Sessions"]) => return self.log_in(),
            _ if !self.is_known() => {
                return refusal(401, "NoValidSession", "there is no valid session", &[]).with("www-authenticate", "Basic");
            }
            _ => {}
        }
        match (self.ask.method.as_str(), self.segments.as_slice()) {
            ("GET", ["SessionService"]) => self.found(self.bmc.session_service()),
            ("GET", ["SessionService", "Sessions"]) => self.found(self.bmc.session_list()),
            ("DELETE", ["SessionService", "Sessions", id]) => self.log_out(id),
            ("GET", ["Systems"]) => Answer::json(200, self.bmc.systems()),
            ("GET", ["Managers"]) => Answer::json(200, self.bmc.managers()),
            ("GET", ["TaskService", kind @ ("Tasks" | "TaskMonitors"), id]) => self.task(kind, id),
            (method, ["EventService", rest @ ..]) if !eventing::is_stream(self.bmc, &self.segments) => self.of_events(method, rest),
            ("GET", segments) if eventing::is_stream(self.bmc, segments) => self.open_stream(),
            (method, ["Systems", id, rest @ ..]) => match self.system(id) {
                Some(system) => self.of_system(method, system, rest),
                None if method == "GET" && rest.is_empty() && self.bmc.profile.paths.besides.iter().any(|own| own == id) => {
                    Answer::json(200, self.bmc.beside(id))
                }
                None => missing(),
            },
            (method, ["Managers", id, rest @ ..]) => match (0..self.bmc.hosts.len()).find(|system| self.bmc.manager_id(*system) == *id) {
                Some(system) => self.of_manager(method, system, rest),
                None => missing(),
            },
            _ => missing(),
        }
    }

    #[expect(clippy::unused_self, reason = "reads as the other answers")]
    fn found(&self, document: Option<Value>) -> Answer {
        document.map_or_else(missing, |document| Answer::json(200, document))
    }

    fn system(&self, id: &str) -> Option<usize> {
        (0..self.bmc.hosts.len()).find(|system| self.bmc.system_id(*system) == id)
    }

    fn of_system(&self, method: &str, system: usize, rest: &[&str]) -> Answer {
        let boot = &self.bmc.profile.boot;
        let settings = boot.settings.as_deref();
        match (method, rest) {
            ("GET", []) => self.versioned(system, self.bmc.system(system, self.mishap.claim)),
            ("PATCH", []) => self.change_boot(system, Place::System),
            ("GET", ["ResetActionInfo"]) => self.found(self.bmc.reset_info(system)),
            ("POST", ["Actions", "ComputerSystem.Reset"]) => self.reset(system),
            ("GET", [name]) if Some(*name) == settings => self.versioned(system, self.bmc.settings(system)),
            ("PATCH", [name]) if Some(*name) == settings => self.change_boot(system, Place::Settings),
            (_, ["VirtualMedia", rest @ ..]) => self.of_drives(method, system, Place::System, rest),
            ("GET", rest) => self.found(self.bmc.part(system, rest, &self.ask.query)),
            _ => missing(),
        }
    }

    fn of_manager(&self, method: &str, system: usize, rest: &[&str]) -> Answer {
        match (method, rest) {
            ("GET", []) => Answer::json(200, self.bmc.manager(system)),
            (_, ["VirtualMedia", rest @ ..]) => self.of_drives(method, system, Place::Nowhere, rest),
            _ => missing(),
        }
    }

    /// A document with its version.
    fn versioned(&self, system: usize, document: Value) -> Answer {
        let answer = Answer::json(200, document);
        match self.bmc.etag(system) {
            Some(etag) => answer.with("etag", etag),
            None => answer,
        }
    }

    /// Refuses a change of another version than the present one.
    fn check_version(&self, system: usize) -> Result<(), Answer> {
        let Some(now) = self.bmc.etag(system) else { return Ok(()) };
        let Some(said) = self.ask.if_match.as_deref() else {
            if self.bmc.profile.boot.etag_demanded {
                return Err(refusal(
                    428,
                    "PreconditionHeaderMissing",
                    "the request did not say which version it changes (If-Match)",
                    &[],
                ));
            }
            return Ok(());
        };
        let strong = |etag: &str| match self.bmc.profile.boot.etag {
            Etag::Weak => etag.trim_start_matches("W/").to_owned(),
            _ => etag.to_owned(),
        };
        if said == "*" || strong(said) == strong(&now) {
            return Ok(());
        }
        Err(refusal(412, "PreconditionFailed", "the document has another version", &[]))
    }

    fn task(&self, kind: &str, id: &str) -> Answer {
        let task = id.parse().ok().and_then(|id: u64| self.bmc.memory().tasks.get(&id).copied());
        let Some(task) = task else { return missing() };
        let done = task.done <= tokio::time::Instant::now();
        let document = self.bmc.task_document(id, done);
        match (kind, done) {
            ("TaskMonitors", false) => Answer::json(202, document).with("retry-after", "1"),
            ("TaskMonitors", true) => Answer::empty(204),
            _ => Answer::json(200, document),
        }
    }
}

impl Bmc {
    /// The version of a machine's documents.
    fn etag(&self, system: usize) -> Option<String> {
        let version = self.hosts.get(system)?.version();
        match self.profile.boot.etag {
            Etag::None => None,
            Etag::Strong => Some(format!("\"{version}\"")),
            Etag::Weak => Some(format!("W/\"{version}\"")),
            Etag::QuotedWeak => Some(format!("\"W/'gen-{version}'\"")),
        }
    }
}

/// Whether the action that empties a drive is there.
const fn eject_is_shown(shown: EjectShown, inserted: bool) -> bool {
    matches!(shown, EjectShown::Always) || inserted
}
