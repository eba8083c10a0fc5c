//! What runs Tasmota: its HTTP commands, `GET /cm?cmnd=Power1 ON`, with user and password beside the command where one is set.
//!
//! Tasmota's documents: "Commands" (with web requests), "JSON Status Responses". The password is in the URL, because there is no other place for it: so no URL is ever in
//! an error here, and the network between must be trusted. A device with one relay calls it `POWER`, one with several `POWER1` and so on.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Shown;
use crate::{
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// The only user there is.
const USER: &str = "admin";
/// Where commands go.
const PATH: &str = "/cm";
/// The most relays of a device.
const RELAYS: u8 = 32;

/// One relay of a device.
#[derive(Debug)]
pub struct Tasmota {
    endpoint: Endpoint,
    password: Option<SecretString>,
    relay: u8,
}

impl Tasmota {
    /// The relay with this number (the first is 1) of the device at this URL (scheme, name and port). Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(url: &str, trust: Option<&Trust>, password: Option<SecretString>, relay: u8) -> Result<Self, Fault> {
        let wrong = |field, problem: String| Err(Fault::Settings { field, problem });
        let mut endpoint = Endpoint::new(url, trust)?;
        if !matches!(endpoint.url.path(), "" | "/") || endpoint.url.query().is_some() || endpoint.url.fragment().is_some() {
            return wrong("url", "write scheme, name and port only".to_owned());
        }
        if !(1..=RELAYS).contains(&relay) {
            return wrong("relay", format!("it must be 1 to {RELAYS}"));
        }
        if password.as_ref().is_some_and(|password| password.expose_secret().is_empty()) {
            return wrong("password", "it is empty".to_owned());
        }
        endpoint.url.set_path(PATH);
        Ok(Self { endpoint, password, relay })
    }

    pub(super) fn controller(&self) -> String {
        self.endpoint.authority()
    }

    pub(super) async fn set(&self, on: bool) -> Result<(), Fault> {
        // A device switches its first relay where it is told a number that it does not have.
        let relay = format!("Power{}", self.relay);
        self.power(&self.call(&Method::GET, &relay).await?)?;
        let command = format!("{relay} {}", if on { "ON" } else { "OFF" });
        let answer = self.call(&Method::POST, &command).await?;
        match self.power(&answer) {
            Ok(shown) if shown == on => Ok(()),
            Ok(_) => Err(Fault::NotTaken("the relay shows the other state".to_owned())),
            Err(fault) => Err(fault),
        }
    }

    pub(super) async fn look(&self) -> Result<Shown, Fault> {
        let on = self.power(&self.call(&Method::GET, &format!("Power{}", self.relay)).await?)?;
        let sensors = self.call(&Method::GET, "Status 8").await?;
        let drawn = sensors
            .get("StatusSNS")
            .and_then(|all| all.get("ENERGY"))
            .and_then(|energy| energy.get("Power"));
        let watts = match drawn {
            // One for each relay.
            Some(Value::Array(each)) => each.get(usize::from(self.relay) - 1).and_then(Value::as_f64),
            Some(one) => one.as_f64(),
            None => None,
        };
        Ok(Shown { on, watts })
    }

    /// What an answer says of the relay.
    fn power(&self, answer: &Value) -> Result<bool, Fault> {
        let numbered = answer.get(format!("POWER{}", self.relay));
        // A device with one relay gives it no number.
        let only = || answer.get("POWER").filter(|_| self.relay == 1);
        match numbered.or_else(only) {
            Some(Value::String(word)) if word.eq_ignore_ascii_case("on") => Ok(true),
            Some(Value::String(word)) if word.eq_ignore_ascii_case("off") => Ok(false),
            Some(other) => Err(Fault::Garbled(format!(
                "the relay's state is {}: set StateText1 to OFF and StateText2 to ON",
                self.without_secrets(&other.to_string())
            ))),
            None => Err(Fault::Settings {
                field: "relay",
                problem: format!(
                    "the device has no relay {}; it says {}",
                    self.relay,
                    self.without_secrets(&answer.to_string())
                ),
            }),
        }
    }

    fn without_secrets(&self, text: &str) -> String {
        quoted(text, &[self.password.as_ref().map_or("", |password| password.expose_secret())])
    }

    /// Gives a command. `kind` says whether it changes something.
    async fn call(&self, kind: &Method, command: &str) -> Result<Value, Fault> {
        let mut url = self.endpoint.url.clone();
        if let Some(password) = &self.password {
            url.query_pairs_mut()
                .append_pair("user", USER)
                .append_pair("password", password.expose_secret());
        }
        url.query_pairs_mut().append_pair("cmnd", command);
        // As the documents write a space; a plus of the password's own is %2B here.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        let response = self
            .endpoint
            .client()?
            .get(url)
            .send()
            .await
            .map_err(|error| web::lost(kind, error))?;
        let status = response.status();
        let answer = web::content(kind, response).await?;
        // Older ones say so with status 200.
        let warning = answer.get("WARNING").and_then(Value::as_str);
        let detail = format!(
            "{command}: {status}, {}",
            self.without_secrets(warning.unwrap_or("no reason given"))
        );
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Fault::Credentials(detail)),
            _ if warning.is_some_and(|warning| warning.contains("Need user")) => Err(Fault::Credentials(detail)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Err(Fault::Busy { detail, after: None }),
            status if status.is_server_error() && *kind != Method::GET => Err(Fault::Unanswered(detail)),
            status if status.is_server_error() => Err(Fault::Garbled(detail)),
            status if !status.is_success() || warning.is_some() => Err(Fault::Refused(detail)),
            _ if answer.is_object() => Ok(answer),
            // A command that may have been carried out.
            _ if *kind != Method::GET => Err(Fault::Unanswered(format!("{command}: the answer is no JSON object"))),
            _ => Err(Fault::Garbled(format!("{command}: the answer is no JSON object"))),
        }
    }
}
