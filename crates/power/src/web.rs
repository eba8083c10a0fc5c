//! What drivers that speak HTTP share: where requests may go, bounds on each, and what it means when no answer comes.

use std::{error::Error, time::Duration};

use reqwest::{Client, ClientBuilder, Method, Response, Url, redirect};
use rustls::ClientConfig;
use serde_json::Value;

use crate::{
    fault::{Fault, quoted},
    tls::{self, Trust},
};

/// The longest time until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest time of one request. BMCs think for seconds over a document.
const REQUEST: Duration = Duration::from_secs(12);
/// Of a connection over which nothing comes for long: how often, and how often in a row in vain, the other side is asked whether it is there.
const ALIVE: Duration = Duration::from_secs(30);
const ALIVE_TRIES: u32 = 3;
/// The largest document that is read. Whole systems of the largest servers are below 100 KiB.
const LARGEST: usize = 2 << 20;

/// A URL, and whom to believe there.
pub(crate) struct Endpoint {
    /// The URL.
    pub url: Url,
    tls: ClientConfig,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.url.as_str()).finish()
    }
}

impl Endpoint {
    /// Reads a URL. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong: no URL, credentials in it, `https` without somebody to believe, `http` with.
    pub fn new(url: &str, trust: Option<&Trust>) -> Result<Self, Fault> {
        let wrong = |problem: &str| {
            Err(Fault::Settings {
                field: "url",
                problem: problem.to_owned(),
            })
        };
        let Ok(url) = Url::parse(url) else {
            return wrong("it is no URL: write it as https://bmc.example");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return wrong("credentials belong into the Secret, not into a URL");
        }
        let tls = match (url.scheme(), trust) {
            ("https", Some(trust)) => trust.config()?,
            ("https", None) => return wrong("an https URL wants a fingerprint or an authority (ca)"),
            // Nobody is believed, should anything come to TLS after all; and the library would look for the host's authorities.
            ("http", None) => Trust::Authorities(Vec::new()).config()?,
            ("http", Some(_)) => return wrong("an http URL has no certificate to compare with a fingerprint or an authority"),
            _ => return wrong("its scheme must be https, or http where the network is trusted"),
        };
        if !url.has_host() {
            return wrong("it names no host");
        }
        Ok(Self { url, tls })
    }

    /// Host and port, for people.
    pub fn authority(&self) -> String {
        authority(&self.url)
    }

    /// A client for one conversation: its connections are closed with it. It takes no proxies out of the environment and follows no redirects.
    ///
    /// # Errors
    /// The HTTP library cannot be set up.
    pub fn client(&self) -> Result<Client, Fault> {
        Self::built(self.builder().timeout(REQUEST))
    }

    /// A client for one answer that goes on for as long as both sides live. That the other side is gone is noticed by the kernel.
    ///
    /// # Errors
    /// The HTTP library cannot be set up.
    pub fn lasting_client(&self) -> Result<Client, Fault> {
        let builder = self.builder().tcp_keepalive(ALIVE).tcp_keepalive_interval(ALIVE);
        Self::built(builder.tcp_keepalive_retries(ALIVE_TRIES))
    }

    fn built(builder: ClientBuilder) -> Result<Client, Fault> {
        builder
            .build()
            .map_err(|error| Fault::Unreachable(format!("no HTTP client: {error}")))
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .http1_only()
            .connect_timeout(CONNECT)
            .user_agent(concat!("kube-baremetal/", env!("CARGO_PKG_VERSION")))
    }
}

/// Host and port of a URL.
pub(crate) fn authority(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

/// The content of an answer, if it is JSON; else null, and the answer is judged by its status.
///
/// # Errors
/// Where something was read and not changed: it is too large, or it was cut off.
pub(crate) async fn content(method: &Method, response: Response) -> Result<Value, Fault> {
    let bytes = body(method, response).await?;
    Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// The bytes of an answer. Of a change's they may be cut off.
///
/// # Errors
/// Where something was read and not changed: it is too large, or it was cut off.
pub(crate) async fn body(method: &Method, mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= LARGEST => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            // The head says already how a change went.
            Ok(Some(_)) | Err(_) if *method != Method::GET => break,
            Ok(Some(_)) => return Err(Fault::Garbled(format!("an answer of more than {LARGEST} bytes"))),
            Err(error) => return Err(lost(method, error)),
        }
    }
    Ok(bytes)
}

/// What it means that no answer came.
pub(crate) fn lost(method: &Method, error: reqwest::Error) -> Fault {
    let connecting = error.is_connect();
    let slow = error.is_timeout();
    let error = error.without_url();
    if let Some(why) = tls::distrust(&error) {
        return Fault::Untrusted(why);
    }
    let mut detail = String::new();
    let mut next: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = next {
        detail = error.to_string();
        next = error.source();
    }
    if slow && !connecting {
        detail = format!("nothing for {} s", REQUEST.as_secs());
    }
    let detail = quoted(&detail, &[]);
    // Who was not connected to, and who was only asked, has done nothing.
    if connecting || *method == Method::GET {
        Fault::Unreachable(detail)
    } else {
        Fault::Unanswered(detail)
    }
}
