//! Shelly plugs and relays of the second generation and later: JSON-RPC over HTTP, `Switch.Set` and `Switch.GetStatus`, with digest authentication where a password is set.
//!
//! Shelly's documents: "Gen2+ Device API", RPC Protocol, Authentication, Switch.

use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::Shown;
use crate::{
    digest::{Algorithm, Challenge},
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// The only user there is.
const USER: &str = "admin";
/// Where requests go.
const PATH: &str = "/rpc";

/// One switch of a device.
#[derive(Debug)]
pub struct Shelly {
    endpoint: Endpoint,
    password: Option<SecretString>,
    switch: u8,
}

impl Shelly {
    /// The switch with this number (the first is 0) of the device at this URL (scheme, name and port). Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(url: &str, trust: Option<&Trust>, password: Option<SecretString>, switch: u8) -> Result<Self, Fault> {
        let mut endpoint = Endpoint::new(url, trust)?;
        if !matches!(endpoint.url.path(), "" | "/") {
            return Err(Fault::Settings {
                field: "url",
                problem: "write scheme, name and port only".to_owned(),
            });
        }
        endpoint.url.set_path(PATH);
        Ok(Self {
            endpoint,
            password,
            switch,
        })
    }

    pub(super) fn controller(&self) -> String {
        self.endpoint.authority()
    }

    pub(super) async fn set(&self, on: bool) -> Result<(), Fault> {
        self.call(&Method::POST, "Switch.Set", json!({"id": self.switch, "on": on}))
            .await
            .map(|_| ())
    }

    pub(super) async fn look(&self) -> Result<Shown, Fault> {
        let status = self.call(&Method::GET, "Switch.GetStatus", json!({"id": self.switch})).await?;
        let on = status
            .get("output")
            .and_then(Value::as_bool)
            .ok_or_else(|| Fault::Garbled("a switch without its state (output)".to_owned()))?;
        Ok(Shown {
            on,
            watts: status.get("apower").and_then(Value::as_f64),
        })
    }

    /// Calls a method, all by POST. `kind` says whether it changes something.
    async fn call(&self, kind: &Method, method: &str, parameters: Value) -> Result<Value, Fault> {
        let body = json!({"id": 1, "src": "kube-baremetal", "method": method, "params": parameters});
        let client = self.endpoint.client()?;
        let request = || client.post(self.endpoint.url.clone()).json(&body);
        let mut response = request().send().await.map_err(|error| web::lost(kind, error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let Some(password) = &self.password else {
                return Err(Fault::Credentials("it wants a password, and none is set".to_owned()));
            };
            let challenge = response
                .headers()
                .get(header::WWW_AUTHENTICATE)
                .and_then(|value| Challenge::parse(value.to_str().ok()?, &[Algorithm::Sha256]));
            let challenge = challenge
                .ok_or_else(|| Fault::Garbled("it asks for a password in a way that is not Shelly's (digest with SHA-256)".to_owned()))?;
            let own_nonce = format!("{:032x}", rand::random::<u128>());
            let answer = challenge.answer("POST", PATH, USER, password.expose_secret(), &own_nonce);
            response = request()
                .header(header::AUTHORIZATION, answer)
                .send()
                .await
                .map_err(|error| web::lost(kind, error))?;
        }
        let status = response.status();
        let answer = web::content(kind, response).await?;
        let error = answer.get("error");
        let said = error
            .and_then(|error| error.get("message"))
            .and_then(Value::as_str)
            .unwrap_or("no reason given");
        let detail = format!(
            "{method}: {status}, {}",
            quoted(said, &[self.password.as_ref().map_or("", |password| password.expose_secret())])
        );
        match status {
            StatusCode::UNAUTHORIZED => Err(Fault::Credentials(detail)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Err(Fault::Busy { detail, after: None }),
            status if status.is_server_error() && *kind != Method::GET && error.is_none() => Err(Fault::Unanswered(detail)),
            status if !status.is_success() || error.is_some() => Err(Fault::Refused(detail)),
            _ => answer
                .get("result")
                .cloned()
                .ok_or_else(|| Fault::Garbled(format!("{method} without a result"))),
        }
    }
}
