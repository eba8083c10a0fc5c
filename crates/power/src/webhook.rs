//! Signed requests to a service of anybody's own, for whatever no driver here knows. The contract is in `docs/reference/power.md`; it is version 1.
//!
//! Requests are signed as [Standard Webhooks] say (symmetric, `v1`), for which there are libraries in most languages: an HMAC-SHA256 over identity, time and body, with a
//! key that both sides have. The identity is new with each try, so a receiver that remembers it refuses what somebody recorded.
//!
//! What a service does not do is said in the settings, not found out by asking: capabilities are what admission and scheduling go by.
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

use std::time::{Duration, SystemTime};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretSlice};
use serde::Serialize;
use serde_json::Value;
use sha2::Sha256;

use crate::{
    driver::{Act, BootDevice, BootDevices, BootOnce, Capabilities, Driver, Firmware, Kind, Media, Off, Operation, PowerState},
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// What is the same for all machines behind a webhook.
pub static KIND: Kind = Kind {
    name: "webhook",
    title: "Signed requests to a service of yours; which of these it does, its settings say",
    capabilities: Capabilities {
        events: false,
        on: true,
        off_soft: true,
        off_hard: true,
        cycle: true,
        state: true,
        boot_once: BootDevices::of(&BootDevice::ALL),
        media: true,
        inventory: false,
    },
    evidence: "a service of the tests' own; the signature against the example that its specification's reference libraries share",
};

/// The version of the contract, in each request.
const VERSION: &str = "power.kube-baremetal.io/v1";
/// What a key begins with, as people copy it.
const KEY_PREFIX: &str = "whsec_";
/// Bytes of a key (Standard Webhooks: 24 to 64).
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// How a service is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where requests go.
    pub url: String,
    /// Whom to believe; none with `http`.
    pub trust: Option<Trust>,
    /// The key that both sides have: 24 to 64 bytes.
    pub key: SecretSlice<u8>,
    /// What the service calls the machine.
    pub machine: String,
    /// What the service does.
    pub capabilities: Capabilities,
}

impl Settings {
    /// The bytes of a key as it is written: base64, with `whsec_` before it or not.
    ///
    /// # Errors
    /// [`Fault::Settings`] for `key`.
    pub fn key(text: &str) -> Result<SecretSlice<u8>, Fault> {
        let text = text.trim();
        let bytes = BASE64.decode(text.strip_prefix(KEY_PREFIX).unwrap_or(text));
        bytes.map(SecretSlice::from).map_err(|_| Fault::Settings {
            field: "key",
            problem: "it is not base64".to_owned(),
        })
    }
}

/// A machine behind a webhook.
#[derive(Debug)]
pub struct Webhook {
    endpoint: Endpoint,
    controller: String,
    key: SecretSlice<u8>,
    machine: String,
    capabilities: Capabilities,
}

/// What is asked for.
#[derive(Debug, Serialize)]
#[serde(tag = "call", rename_all = "camelCase")]
enum Call<'a> {
    On,
    Off { soft: bool },
    Cycle,
    State,
    BootOnce { device: &'static str, firmware: &'static str },
    Attach { url: &'a str },
    Detach { url: &'a str },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    api_version: &'static str,
    machine: &'a str,
    #[serde(flatten)]
    call: Call<'a>,
}

/// The signature of a request: the value of the header `webhook-signature`.
#[must_use]
pub fn signature(key: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = <Hmac<Sha256> as KeyInit>::new_from_slice(key) else {
        unreachable!("HMAC refused a key of {} bytes", key.len())
    };
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
}

impl Webhook {
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
        if settings.machine.is_empty() {
            return wrong("machine", "it is empty: write what the service calls the machine");
        }
        if !KEY_LENGTHS.contains(&settings.key.expose_secret().len()) {
            return wrong("key", "it must have 24 to 64 bytes: make one with `openssl rand -base64 32`");
        }
        Ok(Self {
            controller: endpoint.authority(),
            endpoint,
            key: settings.key,
            machine: settings.machine,
            capabilities: settings.capabilities,
        })
    }

    async fn ask(&self, operation: Operation, call: Call<'_>) -> Result<Value, Fault> {
        if !self.capabilities.allow(operation) {
            return Err(Fault::Incapable(operation));
        }
        let request = Request {
            api_version: VERSION,
            machine: &self.machine,
            call,
        };
        let body = serde_json::to_vec(&request).map_err(|error| Fault::Garbled(format!("a request that cannot be written: {error}")))?;
        let id = format!("msg_{:032x}", rand::random::<u128>());
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        // A question changes nothing, though it is asked by POST too, so that it is signed alike.
        let kind = if operation == Operation::State { Method::GET } else { Method::POST };
        let sent = self
            .endpoint
            .client()?
            .post(self.endpoint.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature(self.key.expose_secret(), &id, now, &body))
            .body(body)
            .send()
            .await;
        let response = sent.map_err(|error| web::lost(&kind, error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = web::content(&kind, response).await?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
        let detail = format!("{status}, {}", quoted(said, &[]));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Credentials(format!("it refuses the signature: {detail}")),
            StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Fault::Busy {
                detail,
                after: headers
                    .get(header::RETRY_AFTER)
                    .and_then(|after| after.to_str().ok()?.parse().ok())
                    .map(Duration::from_secs),
            },
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::NOT_IMPLEMENTED => Fault::NotOffered {
                wanted: format!("to {operation}"),
                offered: detail,
            },
            status if status.is_server_error() && kind == Method::POST => Fault::Unanswered(detail),
            status if status.is_server_error() => Fault::Garbled(detail),
            _ => Fault::Refused(detail),
        })
    }

    async fn tell(&self, operation: Operation, call: Call<'_>) -> Result<(), Fault> {
        self.ask(operation, call).await.map(|_| ())
    }

    async fn power(&self) -> Result<PowerState, Fault> {
        let answer = self.ask(Operation::State, Call::State).await?;
        match answer.get("state").and_then(Value::as_str) {
            Some("on") => Ok(PowerState::On),
            Some("off") => Ok(PowerState::Off),
            Some("unknown") => Ok(PowerState::Unknown),
            other => Err(Fault::Garbled(format!(
                "a state of {:?}, not on, off or unknown",
                quoted(other.unwrap_or_default(), &[])
            ))),
        }
    }
}

const fn device_name(device: BootDevice) -> &'static str {
    match device {
        BootDevice::Network => "network",
        BootDevice::Http => "http",
        BootDevice::Disk => "disk",
        BootDevice::Media => "media",
        BootDevice::Setup => "setup",
    }
}

impl Driver for Webhook {
    fn kind(&self) -> &'static Kind {
        &KIND
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn controller(&self) -> &str {
        &self.controller
    }

    fn on(&self) -> Act<'_, ()> {
        Box::pin(self.tell(Operation::On, Call::On))
    }

    fn off(&self, how: Off) -> Act<'_, ()> {
        Box::pin(match how {
            Off::Soft => self.tell(Operation::OffSoft, Call::Off { soft: true }),
            Off::Hard => self.tell(Operation::OffHard, Call::Off { soft: false }),
        })
    }

    fn cycle(&self) -> Act<'_, ()> {
        Box::pin(self.tell(Operation::Cycle, Call::Cycle))
    }

    fn state(&self) -> Act<'_, PowerState> {
        Box::pin(self.power())
    }

    fn boot_once(&self, boot: BootOnce) -> Act<'_, ()> {
        let call = Call::BootOnce {
            device: device_name(boot.device),
            firmware: match boot.firmware {
                Firmware::Bios => "bios",
                Firmware::Uefi => "uefi",
            },
        };
        Box::pin(self.tell(Operation::BootOnce(boot.device), call))
    }

    fn attach<'a>(&'a self, media: &'a Media) -> Act<'a, ()> {
        Box::pin(self.tell(Operation::Attach, Call::Attach { url: &media.url }))
    }

    fn detach<'a>(&'a self, media: &'a Media) -> Act<'a, ()> {
        Box::pin(self.tell(Operation::Detach, Call::Detach { url: &media.url }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_the_reference_libraries() {
        let key = Settings::key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let signed = signature(
            key.expose_secret(),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_short_key_and_no_machine_are_refused_by_their_field() {
        let settings = |key: usize, machine: &str| Settings {
            url: "http://192.0.2.1/power".to_owned(),
            trust: None,
            key: vec![7; key].into(),
            machine: machine.to_owned(),
            capabilities: KIND.capabilities,
        };
        assert!(matches!(
            Webhook::new(settings(23, "m-1")),
            Err(Fault::Settings { field: "key", .. })
        ));
        assert!(matches!(
            Webhook::new(settings(32, "")),
            Err(Fault::Settings { field: "machine", .. })
        ));
        let driver = Webhook::new(settings(32, "m-1")).expect("good settings");
        assert!(!format!("{driver:?}").contains("7, 7"), "{driver:?}");
        assert!(matches!(Settings::key("not base64!"), Err(Fault::Settings { field: "key", .. })));
    }
}
