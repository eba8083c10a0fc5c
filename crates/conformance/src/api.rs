//! A thin client: status codes, headers, exact bodies and watch streams are seen as they are sent.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::found::Found;

/// So often a read is repeated.
const REPEATS: u32 = 5;

/// Everything that is waited for must happen in this time. Two busy cores need a generous one; `$KBM_PATIENCE` says other seconds.
pub static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("KBM_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
});

/// Content types of the four kinds of patches.
pub mod patch {
    /// RFC 6902.
    pub const JSON: &str = "application/json-patch+json";
    /// RFC 7386.
    pub const MERGE: &str = "application/merge-patch+json";
    /// Kubernetes' own, for core kinds.
    pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
    /// Server-side apply.
    pub const APPLY: &str = "application/apply-patch+yaml";
}

/// One server, as a member of system:masters or with a token. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    http: reqwest::Client,
    /// Without a client certificate.
    bare: reqwest::Client,
    url: Arc<str>,
}

/// A request in the making.
#[derive(Debug)]
pub struct Call {
    api: Api,
    request: reqwest::RequestBuilder,
    shown: String,
}

impl Call {
    /// What the answer may be; JSON when nothing is said.
    #[must_use]
    pub fn accept(mut self, kind: &str) -> Call {
        self.request = self.request.header(header::ACCEPT, kind);
        self
    }

    /// Any header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Call {
        self.request = self.request.header(name, value);
        self
    }

    /// The body and its content type.
    #[must_use]
    pub fn body(mut self, kind: &str, body: impl Into<reqwest::Body>) -> Call {
        self.request = self.request.header(header::CONTENT_TYPE, kind).body(body);
        self
    }

    /// Method, path and body in words.
    pub fn told(&self) -> String {
        let request = self.request.try_clone().and_then(|request| request.build().ok());
        let body = request.as_ref().and_then(|request| request.body()).and_then(|body| body.as_bytes());
        format!("{} {}", self.shown, String::from_utf8_lossy(body.unwrap_or_default()))
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Panics
    /// When the server does not answer in time.
    pub async fn send(self) -> Answer {
        let Call { api, mut request, shown } = self;
        // The real server breaks off what it is asked of a definition while that changes, or asks for patience while it opens the definition's storage. A read may be repeated, and every
        // client of Kubernetes does so where `Retry-After` says it.
        let mut repeats = if shown.starts_with("GET ") { REPEATS } else { 0 };
        let sent = loop {
            let again = request.try_clone().filter(|_| repeats > 0);
            let sent = tokio::time::timeout(*PATIENCE, request.send()).await;
            let Some(again) = again else { break sent };
            let wait = match &sent {
                Ok(Err(_)) => Duration::ZERO,
                Ok(Ok(response)) if matches!(response.status().as_u16(), 429 | 503) => match retry_after(response.headers()) {
                    Some(wait) => wait,
                    None => break sent,
                },
                _ => break sent,
            };
            tokio::time::sleep(wait).await;
            repeats -= 1;
            request = again;
        };
        let response = sent
            .unwrap_or_else(|_| panic!("{shown}: no answer from {}", api.url))
            .unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        let (code, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = tokio::time::timeout(*PATIENCE, response.bytes())
            .await
            .unwrap_or_else(|_| panic!("{shown}: the answer does not end"))
            .unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        Answer {
            shown,
            code,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// Sends it and reads the answer as a stream of events.
    ///
    /// # Panics
    /// When the server does not answer in time, or not with 200.
    pub async fn watch(self) -> Watch {
        let Call { request, shown, .. } = self;
        let response = tokio::time::timeout(*PATIENCE, request.send())
            .await
            .unwrap_or_else(|_| panic!("{shown}: no answer"))
            .unwrap_or_else(|error| panic!("{shown}: {error:?}"));
        assert_eq!(response.status(), 200, "{shown}");
        Watch {
            shown,
            response,
            rest: Vec::new(),
        }
    }
}

/// What `Retry-After` says, in whole seconds (RFC 9110, section 10.2.3); a date, which no Kubernetes server sends, counts as none.
fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    shown: String,
    /// HTTP status.
    pub code: u16,
    /// Headers.
    pub headers: header::HeaderMap,
    /// The body as JSON; null when it is none.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// Expects a status code and gives the body.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn ok(self, code: u16) -> Found {
        assert_eq!(self.code, code, "{}: {}", self.shown, self.text);
        Found(self.body)
    }

    /// Expects a refusal: a complete `Status` object with this code and reason.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> Found {
        assert_eq!(self.code, code, "{}: {}", self.shown, self.text);
        let found = Found(self.body);
        found.has(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code }));
        assert_eq!(
            found["reason"].as_str().unwrap_or_default(),
            reason,
            "{}: {}",
            self.shown,
            self.text
        );
        found
    }

    /// The value of a header, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The texts of the Warning headers, without code and agent.
    pub fn warnings(&self) -> Vec<String> {
        let values = self.headers.get_all(header::WARNING).iter();
        values
            .filter_map(|value| value.to_str().ok())
            .map(|value| {
                let text = value.strip_prefix("299 - ").unwrap_or(value);
                let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
                text.replace("\\\"", "\"")
            })
            .collect()
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Watch {
    shown: String,
    response: reqwest::Response,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event, or `None` at the end of the stream.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub async fn next(&mut self) -> Option<(String, Found)> {
        let shown = self.shown.clone();
        self.within(*PATIENCE).await.unwrap_or_else(|| panic!("{shown}: no event in time"))
    }

    /// The next event within a time (`None`: nothing came), or the end of the stream (`Some(None)`).
    ///
    /// # Panics
    /// When the stream breaks.
    pub async fn within(&mut self, time: Duration) -> Option<Option<(String, Found)>> {
        let deadline = tokio::time::Instant::now() + time;
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let mut value: Value = serde_json::from_slice(&line)
                    .unwrap_or_else(|error| panic!("{}: {error}: {}", self.shown, String::from_utf8_lossy(&line)));
                let kind = value["type"].as_str().unwrap_or_default().to_owned();
                return Some(Some((kind, Found(value["object"].take()))));
            }
            let chunk = tokio::time::timeout_at(deadline, self.response.chunk()).await.ok()?;
            match chunk.unwrap_or_else(|error| panic!("{}: {error:?}", self.shown)) {
                Some(data) => self.rest.extend_from_slice(&data),
                None => return Some(None),
            }
        }
    }

    /// The next event as `TYPE name`, or `END`.
    pub async fn brief(&mut self) -> String {
        match self.next().await {
            Some((kind, object)) => format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default()),
            None => "END".to_owned(),
        }
    }
}

impl Api {
    /// A client for a kubeconfig with a client certificate in it.
    ///
    /// # Errors
    /// When the file cannot be read or lacks something.
    pub fn from_kubeconfig(path: &Path) -> Result<Api> {
        // Another part of the same process may have been first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let file: Value = serde_saphyr::from_str(&text)?;
        let field = |pointer: &str| {
            file.pointer(pointer)
                .and_then(Value::as_str)
                .with_context(|| format!("no {pointer} in {}", path.display()))
        };
        let decode = |pointer: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(field(pointer)?)?) };
        let authority = decode("/clusters/0/cluster/certificate-authority-data")?;
        let mut identity = decode("/users/0/user/client-certificate-data")?;
        identity.extend(decode("/users/0/user/client-key-data")?);
        let authority = reqwest::Certificate::from_pem(&authority)?;
        let client = || {
            reqwest::Client::builder()
                .tls_certs_only([authority.clone()])
                .user_agent("conformance/1.0")
        };
        let http = client().identity(reqwest::Identity::from_pem(&identity)?).build()?;
        let url = field("/clusters/0/cluster/server")?.into();
        Ok(Api {
            http,
            bare: client().build()?,
            url,
        })
    }

    /// The same server for somebody without any credentials.
    #[must_use]
    pub fn nobody(&self) -> Api {
        Api {
            http: self.bare.clone(),
            ..self.clone()
        }
    }

    /// Begins a request. `path` begins with a slash and may carry a query.
    pub fn call(&self, method: Method, path: &str) -> Call {
        Call {
            api: self.clone(),
            request: self.http.request(method.clone(), format!("{}{path}", self.url)),
            shown: format!("{method} {path}"),
        }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).accept("application/json").send().await
    }

    /// GET in another form.
    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.call(Method::GET, path).accept(accept).send().await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path)
            .body("application/json", body.to_string())
            .send()
            .await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path).body("application/json", body.to_string()).send().await
    }

    /// PATCH of any kind (see [`patch`]).
    pub async fn patch(&self, kind: &str, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path).body(kind, body.to_string()).send().await
    }

    /// PATCH by merge.
    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.patch(patch::MERGE, path, body).await
    }

    /// Server-side apply by a manager.
    pub async fn apply(&self, path: &str, manager: &str, body: &Value) -> Answer {
        let joint = if path.contains('?') { '&' } else { '?' };
        self.patch(patch::APPLY, &format!("{path}{joint}fieldManager={manager}"), body)
            .await
    }

    /// Server-side apply that takes fields from others.
    pub async fn force(&self, path: &str, manager: &str, body: &Value) -> Answer {
        self.patch(patch::APPLY, &format!("{path}?fieldManager={manager}&force=true"), body)
            .await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).send().await
    }

    /// DELETE with options.
    pub async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.call(Method::DELETE, path)
            .body("application/json", options.to_string())
            .send()
            .await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        self.call(Method::GET, path).accept("application/json").watch().await
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When it does not in time.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + *PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
