//! A switch that Home Assistant knows: its REST API, `POST /api/services/switch/turn_on` and `turn_off`, `GET /api/states/ENTITY`, with a long-lived access token.
//!
//! Home Assistant's documents: "REST API". What measures is an entity of its own there, so its watts are read from a second one if the settings name it.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::Shown;
use crate::{
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// A switch.
#[derive(Debug)]
pub struct HomeAssistant {
    endpoint: Endpoint,
    token: SecretString,
    entity: String,
    meter: Option<String>,
}

/// An entity's identity: a domain, a dot and a name, of lower-case letters, digits and underscores.
fn is_entity(text: &str, domain: &str) -> bool {
    let name = text.strip_prefix(domain).and_then(|rest| rest.strip_prefix('.'));
    name.is_some_and(|name| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    })
}

impl HomeAssistant {
    /// The switch `entity` (`switch.NAME`) of the installation at this URL (scheme, name and port), measured by `meter` (`sensor.NAME`, in watts). Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(url: &str, trust: Option<&Trust>, token: SecretString, entity: String, meter: Option<String>) -> Result<Self, Fault> {
        let wrong = |field, problem: &str| {
            Err(Fault::Settings {
                field,
                problem: problem.to_owned(),
            })
        };
        let endpoint = Endpoint::new(url, trust)?;
        if !matches!(endpoint.url.path(), "" | "/") {
            return wrong("url", "write scheme, name and port only");
        }
        if !is_entity(&entity, "switch") {
            return wrong("entity", "it is no switch: write it as switch.rack_3_7");
        }
        if meter.as_ref().is_some_and(|meter| !is_entity(meter, "sensor")) {
            return wrong("meter", "it is no sensor: write it as sensor.rack_3_7_power");
        }
        Ok(Self {
            endpoint,
            token,
            entity,
            meter,
        })
    }

    /// With the entity: plugs of one installation need not wait for each other.
    pub(super) fn controller(&self) -> String {
        format!("{} {}", self.endpoint.authority(), self.entity)
    }

    pub(super) async fn set(&self, on: bool) -> Result<(), Fault> {
        let path = if on {
            "/api/services/switch/turn_on"
        } else {
            "/api/services/switch/turn_off"
        };
        self.ask(Method::POST, path, Some(json!({"entity_id": self.entity})))
            .await
            .map(|_| ())
    }

    pub(super) async fn look(&self) -> Result<Shown, Fault> {
        let on = match self.state_of(&self.entity).await?.as_str() {
            "on" => true,
            "off" => false,
            // `unavailable` and `unknown`: Home Assistant does not reach the plug itself.
            other => {
                return Err(Fault::Unreachable(format!(
                    "Home Assistant says {} of {}",
                    quoted(other, &[]),
                    self.entity
                )));
            }
        };
        let watts = match &self.meter {
            Some(meter) => self.state_of(meter).await?.parse().ok(),
            None => None,
        };
        Ok(Shown { on, watts })
    }

    async fn state_of(&self, entity: &str) -> Result<String, Fault> {
        let answer = self.ask(Method::GET, &format!("/api/states/{entity}"), None).await?;
        let state = answer.get("state").and_then(Value::as_str).map(str::to_owned);
        state.ok_or_else(|| Fault::Garbled(format!("{entity} without a state")))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Fault> {
        let mut url = self.endpoint.url.clone();
        url.set_path(path);
        let mut request = self
            .endpoint
            .client()?
            .request(method.clone(), url)
            .bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.map_err(|error| web::lost(&method, error))?;
        let status = response.status();
        let answer = web::content(&method, response).await?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = answer.get("message").and_then(Value::as_str).unwrap_or("no reason given");
        let detail = format!("{method} {path}: {status}, {}", quoted(said, &[self.token.expose_secret()]));
        Err(match status {
            StatusCode::UNAUTHORIZED => Fault::Credentials(detail),
            StatusCode::FORBIDDEN => Fault::Privilege(detail),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Fault::Busy { detail, after: None },
            status if status.is_server_error() && method != Method::GET => Fault::Unanswered(detail),
            status if status.is_server_error() => Fault::Garbled(detail),
            _ => Fault::Refused(detail),
        })
    }
}
