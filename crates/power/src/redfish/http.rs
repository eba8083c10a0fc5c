//! One conversation with a Redfish service: requests, who we are, and what the answers mean. It knows no resource.
//!
//! * **Sessions**: one is opened at the first request that needs it and reused by later conversations of the same driver, until the service does not know it any more or
//!   [`Http::log_out`] ends it. Where the service has no sessions, or none left, requests carry user and password.
//! * **Bounded**: connecting, each request, and the size of each answer.
//! * **Own host only**: a redirect or link is followed as a path ([`Link`]).
//!
//! Connections are closed with the conversation: a BMC has few, and so have we.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::reader::{self, Link};
use crate::{
    fault::{Fault, quoted},
    tls::Trust,
    web::{self, Endpoint},
};

/// Redirects of one request.
const REDIRECTS: usize = 3;
/// Where the service begins (DSP0266, 6.2).
const ROOT: &str = "/redfish/v1/";
/// The kind of content that a stream of events has.
const EVENTS: &str = "text/event-stream";

/// How requests say who we are.
#[derive(Debug, Clone, Default)]
enum Identity {
    /// Nobody has asked yet.
    #[default]
    New,
    /// By the token of a session.
    Session {
        /// The token.
        token: SecretString,
        /// Where the session is ended.
        at: Option<Link>,
    },
    /// By user and password.
    Basic,
}

/// What is known of a service between conversations.
#[derive(Debug)]
pub struct Http {
    endpoint: Endpoint,
    user: String,
    password: SecretString,
    identity: Mutex<Identity>,
}

/// A document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its content. Null where there is none.
    pub body: Value,
    /// Its version, for changes.
    pub etag: Option<String>,
}

/// The answer to a change.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its content. Null where there is none.
    pub body: Value,
    /// Whether the service still works on it.
    pub accepted: bool,
    /// Where to ask how it goes, or what was made.
    pub location: Option<Link>,
    /// When to ask.
    pub after: Option<Duration>,
    /// The token of a new session.
    token: Option<SecretString>,
}

/// What came, whatever it was.
struct Raw {
    status: StatusCode,
    headers: header::HeaderMap,
    body: Value,
}

/// A conversation: its connections.
#[derive(Debug)]
pub struct Conversation<'a> {
    http: &'a Http,
    client: Client,
    /// What is sent in this conversation and must not come back in its errors.
    hidden: Option<&'a str>,
}

impl Http {
    /// A service at this URL. Nothing is sent.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the field that is wrong.
    pub fn new(base: &str, trust: Option<&Trust>, user: String, password: SecretString) -> Result<Self, Fault> {
        let wrong = |field, problem: &str| {
            Err(Fault::Settings {
                field,
                problem: problem.to_owned(),
            })
        };
        let endpoint = Endpoint::new(base, trust)?;
        if !matches!(endpoint.url.path(), "" | "/") || endpoint.url.query().is_some() {
            return wrong("url", "write scheme, name and port only; a machine is named by `system`");
        }
        if user.is_empty() || user.contains(':') {
            return wrong("user", "it is empty or has a colon in it");
        }
        if password.expose_secret().is_empty() {
            return wrong("password", "it is empty");
        }
        Ok(Self {
            endpoint,
            user,
            password,
            identity: Mutex::default(),
        })
    }

    /// Host and port, for people.
    #[must_use]
    pub fn authority(&self) -> String {
        self.endpoint.authority()
    }

    /// Begins a conversation. Nothing is sent yet.
    ///
    /// # Errors
    /// The HTTP library cannot be set up.
    pub fn converse(&self) -> Result<Conversation<'_>, Fault> {
        let client = self.endpoint.client()?;
        let hidden = None;
        Ok(Conversation {
            http: self,
            client,
            hidden,
        })
    }

    /// Begins a conversation in which something is said that is as secret as a password.
    ///
    /// # Errors
    /// The HTTP library cannot be set up.
    pub fn converse_about<'a>(&'a self, secret: &'a str) -> Result<Conversation<'a>, Fault> {
        let hidden = Some(secret);
        Ok(Conversation {
            hidden,
            ..self.converse()?
        })
    }

    /// Ends the session that is kept, if there is one.
    ///
    /// # Errors
    /// The service cannot be reached. The session is forgotten nevertheless.
    pub async fn log_out(&self) -> Result<(), Fault> {
        let identity = std::mem::take(&mut *self.identity.lock().unwrap_or_else(PoisonError::into_inner));
        let Identity::Session { token, at: Some(at) } = identity else {
            return Ok(());
        };
        let conversation = self.converse()?;
        let identity = Identity::Session { token, at: None };
        // Whatever it says: a session that it does not know is over, too.
        conversation.once(Method::DELETE, &at, None, None, &identity).await.map(|_| ())
    }

    fn identity(&self) -> Identity {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn become_known(&self, identity: Identity) -> Identity {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity.clone();
        identity
    }

    /// The service's own words, without what is secret.
    fn said(&self, body: &Value, hidden: Option<&str>) -> String {
        self.plain(&reader::complaint(body), hidden)
    }

    fn plain(&self, text: &str, hidden: Option<&str>) -> String {
        let (password, hidden) = (self.password.expose_secret(), hidden.unwrap_or_default());
        match &*self.identity.lock().unwrap_or_else(PoisonError::into_inner) {
            Identity::Session { token, .. } => quoted(text, &[password, hidden, token.expose_secret()]),
            Identity::New | Identity::Basic => quoted(text, &[password, hidden]),
        }
    }

    fn fault(&self, method: &Method, path: &Link, raw: &Raw, hidden: Option<&str>) -> Fault {
        let said = self.said(&raw.body, hidden);
        let said = if said.is_empty() { "no reason given".to_owned() } else { said };
        let detail = format!("{method} {}: {}, {said}", quoted(path.as_str(), &[]), raw.status);
        match raw.status.as_u16() {
            401 => Fault::Credentials(detail),
            403 => Fault::Privilege(detail),
            409 | 429 | 503 => Fault::Busy {
                detail,
                after: retry_after(&raw.headers),
            },
            // What a reset that crashed half-way has done is not known.
            500..=599 if raw.status != StatusCode::NOT_IMPLEMENTED && *method != Method::GET => Fault::Unanswered(detail),
            500..=599 if raw.status != StatusCode::NOT_IMPLEMENTED => Fault::Garbled(detail),
            _ => Fault::Refused(detail),
        }
    }
}

/// What a service says of itself to anybody, in its first document. Nobody is named, and no credentials are sent.
///
/// # Errors
/// The service cannot be reached, is not trusted, or refuses.
pub(crate) async fn introduction(base: &str, trust: Option<&Trust>) -> Result<Value, Fault> {
    let http = Http {
        endpoint: Endpoint::new(base, trust)?,
        user: String::new(),
        password: SecretString::from(String::new()),
        identity: Mutex::default(),
    };
    let raw = http.converse()?.beginning().await?;
    if raw.status.is_success() {
        return Ok(raw.body);
    }
    Err(http.fault(&Method::GET, &root()?, &raw, None))
}

/// The service's first document. A literal with a path: there is always one.
fn root() -> Result<Link, Fault> {
    Link::parse(ROOT).ok_or_else(|| Fault::Garbled(ROOT.to_owned()))
}

/// Where an answer sends us, if it does.
fn redirected(from: &Link, raw: &Raw) -> Result<Option<Link>, Fault> {
    if !raw.status.is_redirection() {
        return Ok(None);
    }
    let to = header_text(&raw.headers, header::LOCATION).and_then(|to| Link::parse(&to));
    to.map(Some)
        .ok_or_else(|| Fault::Garbled(format!("{} leads nowhere", quoted(from.as_str(), &[]))))
}

fn circles(at: &Link) -> Fault {
    Fault::Garbled(format!("{} leads in circles", quoted(at.as_str(), &[])))
}

fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

fn header_text(headers: &header::HeaderMap, name: impl header::AsHeaderName) -> Option<String> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
}

impl Conversation<'_> {
    /// What the service says somewhere, without what is secret, printable and shortened.
    #[must_use]
    pub fn plain(&self, text: &str) -> String {
        self.http.plain(text, None)
    }

    /// The service's first document, which everybody may read.
    ///
    /// # Errors
    /// The service cannot be reached, or this is no Redfish.
    pub async fn root(&self) -> Result<Document, Fault> {
        self.get(&root()?).await
    }

    /// Reads a document.
    ///
    /// # Errors
    /// The service cannot be reached, or refuses.
    pub async fn get(&self, path: &Link) -> Result<Document, Fault> {
        let mut path = path.clone();
        for _ in 0..=REDIRECTS {
            let raw = self.identified(Method::GET, &path, None, None).await?;
            if let Some(next) = redirected(&path, &raw)? {
                path = next;
                continue;
            }
            if !raw.status.is_success() {
                return Err(self.http.fault(&Method::GET, &path, &raw, self.hidden));
            }
            if !raw.body.is_object() {
                return Err(Fault::Garbled(format!("{} is no JSON object", quoted(path.as_str(), &[]))));
            }
            let etag = header_text(&raw.headers, header::ETAG).or_else(|| reader::text(&raw.body, "@odata.etag"));
            return Ok(Document { body: raw.body, etag });
        }
        Err(circles(&path))
    }

    /// Looks at a task's monitor. None: it is gone, as monitors are when all is done.
    ///
    /// # Errors
    /// The service cannot be reached, or refuses: then it refuses what the task was for (DSP0266, 12.2).
    pub async fn watch(&self, monitor: &Link) -> Result<Option<Reply>, Fault> {
        let raw = self.identified(Method::GET, monitor, None, None).await?;
        if matches!(raw.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Ok(None);
        }
        self.reply(&Method::GET, monitor, raw).map(Some)
    }

    /// Starts an action.
    ///
    /// # Errors
    /// The service cannot be reached, or refuses.
    pub async fn post(&self, path: &Link, body: &Value) -> Result<Reply, Fault> {
        let raw = self.identified(Method::POST, path, Some(body), None).await?;
        self.reply(&Method::POST, path, raw)
    }

    /// Takes something away. What is gone already is no error.
    ///
    /// # Errors
    /// The service cannot be reached, or refuses.
    pub async fn delete(&self, path: &Link) -> Result<(), Fault> {
        let raw = self.identified(Method::DELETE, path, None, None).await?;
        if matches!(raw.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Ok(());
        }
        self.reply(&Method::DELETE, path, raw).map(|_| ())
    }

    /// Opens a stream of events (DSP0266, 13.5): an answer that does not end.
    ///
    /// # Errors
    /// The service cannot be reached, refuses, or answers something else.
    pub async fn stream(&self, path: &Link) -> Result<Response, Fault> {
        let client = self.http.endpoint.lasting_client()?;
        let open = async |identity: &Identity| {
            let request = self.request(&client, Method::GET, path, identity)?;
            let request = request.header(header::ACCEPT, EVENTS);
            request.send().await.map_err(|error| web::lost(&Method::GET, error))
        };
        let kept = self.http.identity();
        let fresh = matches!(kept, Identity::New);
        let identity = if fresh { self.log_in().await? } else { kept };
        let mut response = open(&identity).await?;
        if response.status() == StatusCode::UNAUTHORIZED && !fresh && matches!(identity, Identity::Session { .. }) {
            self.http.become_known(Identity::New);
            response = open(&self.log_in().await?).await?;
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let kind = header_text(&headers, header::CONTENT_TYPE).unwrap_or_default();
        if status.is_success() && kind.to_ascii_lowercase().starts_with(EVENTS) {
            return Ok(response);
        }
        if status.is_success() {
            return Err(Fault::Garbled(format!("{} is no stream of events", quoted(path.as_str(), &[]))));
        }
        let body = web::content(&Method::GET, response).await?;
        Err(self.http.fault(&Method::GET, path, &Raw { status, headers, body }, self.hidden))
    }

    /// Changes a document of the version that was read. Services differ in what they want to hear of versions: it is said as it came; without the mark of a weak one; then
    /// not at all, or, where one must be, for any.
    ///
    /// # Errors
    /// The service cannot be reached, or refuses.
    pub async fn patch(&self, path: &Link, body: &Value, etag: Option<&str>) -> Result<Reply, Fault> {
        let strong = etag.map(|etag| etag.trim_start_matches("W/"));
        let mut versions = vec![etag];
        if strong != etag {
            versions.push(strong);
        }
        versions.push(if etag.is_some() { None } else { Some("*") });
        let mut last = None;
        for version in versions {
            let raw = self.identified(Method::PATCH, path, Some(body), version).await?;
            // 428: one must be said; 412: not this one.
            let about_version = matches!(raw.status, StatusCode::PRECONDITION_FAILED | StatusCode::PRECONDITION_REQUIRED);
            let reply = self.reply(&Method::PATCH, path, raw);
            if !about_version {
                return reply;
            }
            last = reply.err();
        }
        Err(last.unwrap_or_else(|| Fault::Garbled(path.as_str().to_owned())))
    }

    fn reply(&self, method: &Method, path: &Link, raw: Raw) -> Result<Reply, Fault> {
        if !raw.status.is_success() {
            return Err(self.http.fault(method, path, &raw, self.hidden));
        }
        Ok(Reply {
            accepted: raw.status == StatusCode::ACCEPTED,
            location: header_text(&raw.headers, header::LOCATION).and_then(|to| Link::parse(&to)),
            after: retry_after(&raw.headers),
            token: header_text(&raw.headers, "X-Auth-Token").map(SecretString::from),
            body: raw.body,
        })
    }

    /// Makes a request as somebody who is known, and once more if the service has forgotten who that was.
    async fn identified(&self, method: Method, path: &Link, body: Option<&Value>, version: Option<&str>) -> Result<Raw, Fault> {
        let kept = self.http.identity();
        let fresh = matches!(kept, Identity::New);
        let identity = if fresh { self.log_in().await? } else { kept };
        let raw = self.once(method.clone(), path, body, version, &identity).await?;
        if raw.status != StatusCode::UNAUTHORIZED {
            return Ok(raw);
        }
        self.http.become_known(Identity::New);
        // A session ends by itself; a password that was refused is not said twice.
        if fresh || !matches!(identity, Identity::Session { .. }) {
            return Ok(raw);
        }
        let identity = self.log_in().await?;
        self.once(method, path, body, version, &identity).await
    }

    /// What the service says to anybody.
    async fn beginning(&self) -> Result<Raw, Fault> {
        let mut path = root()?;
        for _ in 0..=REDIRECTS {
            let raw = self.once(Method::GET, &path, None, None, &Identity::New).await?;
            match redirected(&path, &raw)? {
                Some(next) => path = next,
                None => return Ok(raw),
            }
        }
        Err(circles(&path))
    }

    async fn log_in(&self) -> Result<Identity, Fault> {
        let first = self.beginning().await?;
        if !first.status.is_success() && !matches!(first.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.http.fault(&Method::GET, &root()?, &first, self.hidden));
        }
        // Some want to know who asks even here; they get it as the standard's last resort.
        let links = reader::member(&first.body, "Links").unwrap_or(&Value::Null);
        let Some(sessions) = reader::link(links, "Sessions") else {
            return Ok(self.http.become_known(Identity::Basic));
        };
        let body = json!({"UserName": self.http.user, "Password": self.http.password.expose_secret()});
        let raw = self.once(Method::POST, &sessions, Some(&body), None, &Identity::New).await?;
        match raw.status.as_u16() {
            200..=299 => {
                let reply = self.reply(&Method::POST, &sessions, raw)?;
                let Some(token) = reply.token else {
                    return Err(Fault::Garbled("a session without a token (X-Auth-Token)".to_owned()));
                };
                let at = reply.location.or_else(|| reader::link_of(&reply.body));
                Ok(self.http.become_known(Identity::Session { token, at }))
            }
            401 | 403 => Err(Fault::Credentials(format!(
                "{}, {}",
                raw.status,
                self.http.said(&raw.body, self.hidden)
            ))),
            // It has no sessions, or none left, or none for this user.
            400 | 404 | 405 | 409 | 429 | 501 | 503 => Ok(self.http.become_known(Identity::Basic)),
            _ => Err(Fault::Garbled(format!(
                "no session: {}, {}",
                raw.status,
                self.http.said(&raw.body, self.hidden)
            ))),
        }
    }

    /// A request as somebody.
    fn request(&self, client: &Client, method: Method, path: &Link, identity: &Identity) -> Result<RequestBuilder, Fault> {
        let url = self
            .http
            .endpoint
            .url
            .join(path.as_str())
            .map_err(|_| Fault::Garbled(format!("{} is no path", quoted(path.as_str(), &[]))))?;
        let request = client.request(method, url).header("OData-Version", "4.0");
        Ok(match identity {
            Identity::New => request,
            Identity::Session { token, .. } => match header::HeaderValue::from_str(token.expose_secret()) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    request.header("X-Auth-Token", value)
                }
                Err(_) => return Err(Fault::Garbled("its token cannot be sent back".to_owned())),
            },
            Identity::Basic => request.basic_auth(&self.http.user, Some(self.http.password.expose_secret())),
        })
    }

    async fn once(
        &self,
        method: Method,
        path: &Link,
        body: Option<&Value>,
        version: Option<&str>,
        identity: &Identity,
    ) -> Result<Raw, Fault> {
        let mut request = self
            .request(&self.client, method.clone(), path, identity)?
            .header(header::ACCEPT, "application/json");
        if let Some(version) = version {
            request = request.header(header::IF_MATCH, version);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| web::lost(&method, error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = web::content(&method, response).await?;
        Ok(Raw { status, headers, body })
    }
}
