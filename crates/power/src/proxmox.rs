//! Virtual machines of Proxmox VE, by its REST API with an API token.
//!
//! Proxmox's documents: "Proxmox VE API" (`/nodes/{node}/qemu/{vmid}/status/…`, `/nodes/{node}/tasks/{upid}/status`), and "Proxmox VE API" of its wiki (tokens). What is
//! commanded becomes a task there, which is watched for a while: one that fails is a refusal, one that takes longer was taken.
//!
//! What it does not do: containers; **one boot from somewhere else**: the boot order (`boot`) is part of the machine's configuration and lasts, so machines shall boot from
//! the network first, and netboot tells them to go on with their disk.

use std::time::Duration;

use hyper::ext::ReasonPhrase;
use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    driver::{Act, Capabilities, Driver, Kind, Off, PowerState},
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// How long a task is watched. The call and its state before are well within the rest of a try.
const WATCHED: Duration = Duration::from_secs(8);
/// How long one is watched that lasts until the system has shut down: long enough to fail at once.
const GLANCED_AT: Duration = Duration::from_secs(2);
/// How often it is looked at.
const EACH: Duration = Duration::from_millis(400);
/// The numbers that machines can have.
const NUMBERS: std::ops::RangeInclusive<u32> = 100..=999_999_999;

/// What is the same for all such machines.
pub static KIND: Kind = Kind {
    name: "proxmox",
    title: "Virtual machine of Proxmox VE",
    capabilities: Capabilities {
        events: false,
        on: true,
        off_soft: true,
        off_hard: true,
        cycle: true,
        state: true,
        ..Capabilities::NONE
    },
    evidence: "built from the documents, not yet seen on a real installation",
};

/// How a virtual machine is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Scheme, name and port: `https://192.0.2.7:8006`.
    pub url: String,
    /// Whom to believe, with `https`.
    pub trust: Option<Trust>,
    /// The token's name: `kube-baremetal@pve!power`. It needs `VM.PowerMgmt` and `VM.Audit` on the machine.
    pub token: String,
    /// The token's secret.
    pub secret: SecretString,
    /// The node that the machine is on.
    pub node: String,
    /// The machine's number (VMID): 100 to 999999999.
    pub machine: u32,
}

/// A virtual machine of Proxmox VE.
#[derive(Debug)]
pub struct Proxmox {
    endpoint: Endpoint,
    token: String,
    secret: SecretString,
    node: String,
    machine: u32,
    controller: String,
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Running,
    Paused,
    Nothing,
}

/// `user@realm!name`, of what Proxmox allows in each.
fn is_token(text: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    text.split_once('!')
        .and_then(|(user, name)| user.rsplit_once('@').map(|(user, realm)| (user, realm, name)))
        .is_some_and(|(user, realm, name)| {
            let user_is_one = !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_graphic() && !b":/=!".contains(&byte));
            user_is_one && plain(realm) && plain(name)
        })
}

impl Proxmox {
    /// A driver with these settings. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(settings: Settings) -> Result<Self, Fault> {
        let wrong = |field, problem: &str| {
            Err(Fault::Settings {
                field,
                problem: problem.to_owned(),
            })
        };
        let endpoint = Endpoint::new(&settings.url, settings.trust.as_ref())?;
        if !matches!(endpoint.url.path(), "" | "/") || endpoint.url.query().is_some() {
            return wrong("url", "write scheme, name and port only");
        }
        if !is_token(&settings.token) {
            return wrong("token", "it is no token's name: write it as user@realm!name");
        }
        let secret = settings.secret.expose_secret();
        if secret.is_empty() || !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("secret", "it is empty, or has something in it that no secret has");
        }
        let node = &settings.node;
        if node.is_empty() || !node.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return wrong("node", "it is no node's name: letters, digits and dashes");
        }
        if !NUMBERS.contains(&settings.machine) {
            return wrong("machine", "it is no VMID: 100 to 999999999");
        }
        Ok(Self {
            // With the machine: a node does several things at a time.
            controller: format!("{} {}/{}", endpoint.authority(), settings.node, settings.machine),
            endpoint,
            token: settings.token,
            secret: settings.secret,
            node: settings.node,
            machine: settings.machine,
        })
    }

    async fn doing(&self) -> Result<Doing, Fault> {
        let data = self.ask(Method::GET, &self.of_the_machine("current")).await?;
        match (
            data.get("status").and_then(Value::as_str),
            data.get("qmpstatus").and_then(Value::as_str),
        ) {
            (Some("stopped"), _) => Ok(Doing::Nothing),
            (Some("running"), None | Some("running")) => Ok(Doing::Running),
            (Some("running"), Some(_)) => Ok(Doing::Paused),
            (other, _) => Err(Fault::Garbled(format!(
                "the machine's status is {}",
                quoted(other.unwrap_or("not there"), &[])
            ))),
        }
    }

    async fn tell(&self) -> Result<PowerState, Fault> {
        self.doing().await.map(|doing| match doing {
            Doing::Running => PowerState::On,
            Doing::Paused => PowerState::Unknown,
            Doing::Nothing => PowerState::Off,
        })
    }

    async fn switch_on(&self) -> Result<(), Fault> {
        match self.doing().await? {
            Doing::Running => Ok(()),
            Doing::Paused => self.command("resume", WATCHED).await,
            Doing::Nothing => self.command("start", WATCHED).await,
        }
    }

    async fn switch_off(&self, how: Off) -> Result<(), Fault> {
        match (self.doing().await?, how) {
            (Doing::Nothing, _) => Ok(()),
            (_, Off::Soft) => self.command("shutdown", GLANCED_AT).await,
            (_, Off::Hard) => self.command("stop", WATCHED).await,
        }
    }

    async fn boot_anew(&self) -> Result<(), Fault> {
        match self.doing().await? {
            Doing::Running => self.command("reset", WATCHED).await,
            Doing::Paused => {
                self.command("reset", WATCHED / 2).await?;
                self.command("resume", WATCHED / 2).await
            }
            Doing::Nothing => self.command("start", WATCHED).await,
        }
    }

    fn of_the_machine(&self, what: &str) -> Vec<String> {
        let machine = self.machine.to_string();
        ["nodes", &self.node, "qemu", &machine, "status", what].map(str::to_owned).to_vec()
    }

    async fn command(&self, what: &str, watched: Duration) -> Result<(), Fault> {
        let task = self.ask(Method::POST, &self.of_the_machine(what)).await?;
        let Some(task) = task.as_str().filter(|task| task.starts_with("UPID:") && task.len() < 1024) else {
            return Err(Fault::Unanswered(format!("{what}: the answer names no task")));
        };
        let until = Instant::now() + watched;
        let path = ["nodes", &self.node, "tasks", task, "status"].map(str::to_owned);
        loop {
            // Who may start a task may see it; if it is not seen, it was taken all the same.
            let Ok(status) = self.ask(Method::GET, &path).await else {
                return Ok(());
            };
            if status.get("status").and_then(Value::as_str) == Some("stopped") {
                let end = status.get("exitstatus").and_then(Value::as_str).unwrap_or("no reason given");
                // With warnings it is done, too.
                if end == "OK" || end.starts_with("WARNINGS") {
                    return Ok(());
                }
                return Err(self.refusal(what, end));
            }
            if Instant::now() + EACH > until {
                return Ok(());
            }
            sleep(EACH).await;
        }
    }

    /// What Proxmox's own words mean: they are all there is, for most have the status 500.
    fn refusal(&self, what: &str, said: &str) -> Fault {
        let detail = format!("{what}: {}", quoted(said, &[self.secret.expose_secret()]));
        if said.contains(".conf' does not exist") {
            return Fault::Settings {
                field: "machine",
                problem: format!("{} has no machine {} ({detail})", self.node, self.machine),
            };
        }
        // It waited for the lock of the machine's configuration in vain: nothing was done.
        if said.contains("is locked") || said.contains("can't lock file") {
            return Fault::Busy { detail, after: None };
        }
        // Of QEMU's monitor: the command was there.
        if said.contains("got timeout") {
            return Fault::Unanswered(detail);
        }
        Fault::Refused(detail)
    }

    /// Makes a request below `/api2/json`; what it gives back.
    async fn ask(&self, method: Method, path: &[String]) -> Result<Value, Fault> {
        let mut url = self.endpoint.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["api2", "json"]).extend(path);
        }
        let what = path.last().map_or("", String::as_str);
        let token = format!("PVEAPIToken={}={}", self.token, self.secret.expose_secret());
        let mut authorization =
            header::HeaderValue::from_str(&token).map_err(|_| Fault::Credentials("the token cannot be sent".to_owned()))?;
        authorization.set_sensitive(true);
        let mut request = self
            .endpoint
            .client()?
            .request(method.clone(), url)
            .header(header::AUTHORIZATION, authorization);
        if method == Method::POST {
            // It wants to hear a length.
            request = request.header(header::CONTENT_LENGTH, 0);
        }
        let response = request.send().await.map_err(|error| web::lost(&method, error))?;
        let status = response.status();
        // Older releases tell why in the head's first line alone.
        let phrase = response.extensions().get::<ReasonPhrase>();
        let phrase = phrase.map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
        let answer = web::content(&method, response).await?;
        if status.is_success() {
            return answer
                .get("data")
                .cloned()
                .ok_or_else(|| Fault::Garbled(format!("{what}: an answer without data")));
        }
        let said = answer.get("message").and_then(Value::as_str).or(phrase.as_deref()).map(str::trim);
        let detail = || {
            let errors = answer.get("errors").map(Value::to_string).unwrap_or_default();
            let said = format!("{} {errors}", said.unwrap_or_default());
            format!("{what}: {status} {}", quoted(said.trim(), &[self.secret.expose_secret()]))
        };
        Err(match status {
            StatusCode::UNAUTHORIZED => Fault::Credentials(detail()),
            StatusCode::FORBIDDEN => Fault::Privilege(format!("{} (the token needs VM.PowerMgmt and VM.Audit)", detail())),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Fault::Busy {
                detail: detail(),
                after: None,
            },
            StatusCode::INTERNAL_SERVER_ERROR => match said {
                Some(said) => self.refusal(what, said),
                None => Fault::Refused(detail()),
            },
            // The node that was asked does not reach the machine's: nothing was passed on.
            status if status.as_u16() == 595 => Fault::Unreachable(detail()),
            status if status.is_server_error() && method != Method::GET => Fault::Unanswered(detail()),
            status if status.is_server_error() => Fault::Garbled(detail()),
            _ => Fault::Refused(detail()),
        })
    }
}

impl Driver for Proxmox {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.switch_on())
    }

    fn off(&self, how: Off) -> Act<'_, ()> {
        Box::pin(self.switch_off(how))
    }

    fn cycle(&self) -> Act<'_, ()> {
        Box::pin(self.boot_anew())
    }

    fn state(&self) -> Act<'_, PowerState> {
        Box::pin(self.tell())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_user_a_realm_and_a_name() {
        for good in ["root@pam!power", "kube.bare-metal@pve!p_1", "me@example.org@ad!power"] {
            assert!(is_token(good), "{good}");
        }
        for bad in [
            "",
            "root@pam",
            "root!power",
            "@pam!power",
            "root@pam!",
            "root@pam!a=b",
            "ro ot@pam!power",
            "root@pam!a!b",
        ] {
            assert!(!is_token(bad), "{bad}");
        }
    }
}
