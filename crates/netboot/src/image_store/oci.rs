//! Artifacts in OCI registries: the distribution API as far as a disk image needs it.
//!
//! A small client of our own on the HTTP library that is in the tree anyway. The client crate for registries is asynchronous and pulls whole blobs through one stream; what is needed here is
//! where a blob lies, so that the crate `image` can read it in ranges, resume it and bound it like any other file.
//!
//! Rules: credentials go to the host that the Secret names, whole and with its port, and to the token service that this host names over https; never along a redirect. Everything a registry
//! says is bounded. Plain http only for a registry on the loopback, as all such clients do.

use std::{collections::BTreeMap, io::Read};

use base64::Engine;
use image::{
    Client, RequestError, Response, STALL, Stop,
    pack::{CHUNKS_FILE, MANIFEST_FILE},
};
use reqwest::{
    RequestBuilder, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, WWW_AUTHENTICATE},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Largest manifest.
const MAX_MANIFEST: u64 = 4 << 20;
/// Largest answer of a token service.
const MAX_TOKEN: u64 = 64 << 10;
/// Manifests of one artifact.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
/// Layers that other tools made carry the name of their file here.
const TITLE: &str = "org.opencontainers.image.title";
/// Media type of the layer that is a packed image's manifest.
const MANIFEST_TYPE: &str = "application/vnd.kube-baremetal.packed-image.manifest.v1+json";
/// Media type of the layer that is its chunks.
const CHUNKS_TYPE: &str = "application/vnd.kube-baremetal.packed-image.chunks.v1";

/// Why an artifact could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// `spec.url`.
    #[error("{url} is not a reference: write oci://registry/repository:tag or oci://registry/repository@sha256:digest")]
    Reference { url: String },
    /// The Secret.
    #[error("the Secret {secret} in netboot's namespace cannot be used: {problem}. Create it with `kubectl create secret docker-registry`")]
    Secret { secret: String, problem: String },
    /// The registry wants other credentials, or any.
    #[error(
        "{registry} refuses access to {repository} ({status}): name a Secret with credentials for {registry} in spec.pullSecretRef, or correct those that it holds"
    )]
    Unauthorized { registry: String, repository: String, status: u16 },
    /// There is no such thing.
    #[error("{registry} has no {what}: correct spec.url")]
    NotFound { registry: String, what: String },
    /// It is there, and it is not what is wanted.
    #[error("the artifact {url} {problem}")]
    Artifact { url: String, problem: String },
    /// It was told to stop while it waited.
    #[error("reading the registry was stopped")]
    Stopped,
    /// It does not answer as a registry does.
    #[error("the registry {registry} cannot be used: {problem}; it is tried again")]
    Unreachable { registry: String, problem: String },
}

/// User name and password for one registry.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// The credentials for `registry` in the contents of a Secret of the type kubernetes.io/dockerconfigjson. Hosts are compared whole.
pub(crate) fn credentials(json: &[u8], registry: &str) -> Result<Credentials, String> {
    let config: DockerConfig = serde_json::from_slice(json).map_err(|_| "its key .dockerconfigjson is not of that form".to_owned())?;
    let host = |key: &str| {
        let key = key.strip_prefix("https://").unwrap_or(key);
        key.split('/').next().unwrap_or_default().to_ascii_lowercase()
    };
    let wanted: &[&str] = if registry == "docker.io" {
        &["docker.io", "index.docker.io"]
    } else {
        &[registry]
    };
    let found = config.auths.iter().find(|(key, _)| wanted.contains(&host(key).as_str()));
    let Some((_, auth)) = found else {
        return Err(format!("it holds no credentials for {registry}"));
    };
    if let (Some(user), Some(password)) = (&auth.username, &auth.password) {
        return Ok(Credentials {
            user: user.clone(),
            password: password.clone(),
        });
    }
    let decoded = auth
        .auth
        .as_ref()
        .and_then(|a| base64::engine::general_purpose::STANDARD.decode(a).ok())
        .and_then(|b| String::from_utf8(b).ok());
    match decoded.as_deref().and_then(|d| d.split_once(':')) {
        Some((user, password)) => Ok(Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        }),
        None => Err(format!("its entry for {registry} holds neither auth nor username and password")),
    }
}

/// An `oci://` URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// As it was written.
    url: String,
    /// Host with port.
    pub registry: String,
    repository: String,
    /// A tag, or `sha256:` and a digest.
    selector: String,
}

impl Reference {
    pub(crate) fn parse(url: &str) -> Result<Self, RegistryError> {
        let wrong = || RegistryError::Reference { url: url.to_owned() };
        let (registry, rest) = url.strip_prefix("oci://").and_then(|r| r.split_once('/')).ok_or_else(wrong)?;
        let (repository, selector) = match rest.split_once('@') {
            Some(parts) => parts,
            None => rest.rsplit_once(':').ok_or_else(wrong)?,
        };
        let word = |text: &str, more: &[u8]| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b));
        let digest = selector.strip_prefix("sha256:");
        let selects = match digest {
            Some(hex) => hex.len() == 64 && word(hex, b""),
            None => word(selector, b"._-"),
        };
        if !selects || !word(registry, b".:-") || !word(repository, b"._-/") || repository.contains("..") {
            return Err(wrong());
        }
        Ok(Self {
            url: url.to_owned(),
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            selector: selector.to_owned(),
        })
    }

    /// Base URL of the registry's API.
    fn base(&self) -> String {
        let host = self.registry.split(':').next().unwrap_or_default();
        let scheme = if host == "localhost" || host == "127.0.0.1" {
            "http"
        } else {
            "https"
        };
        match (self.registry.as_str(), self.repository.contains('/')) {
            ("docker.io", true) => format!("https://registry-1.docker.io/v2/{}", self.repository),
            ("docker.io", false) => format!("https://registry-1.docker.io/v2/library/{}", self.repository),
            _ => format!("{scheme}://{}/v2/{}", self.registry, self.repository),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
    #[serde(default)]
    manifests: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// An artifact whose manifest was read.
pub(crate) struct Artifact {
    reference: Reference,
    client: Client,
    authorization: Option<HeaderValue>,
    layers: Vec<Layer>,
    stop: Stop,
}

/// A blob that can be fetched.
pub(crate) struct Blob {
    pub client: Client,
    pub url: String,
    /// Whether redirects may be followed: not with credentials.
    pub redirects: bool,
}

impl Artifact {
    /// Reads the manifest. `stop` ends the waiting for a registry that does not answer.
    pub(crate) fn open(reference: Reference, credentials: Option<&Credentials>, stop: &Stop) -> Result<Self, RegistryError> {
        let mut artifact = Self {
            client: client(&reference, HeaderMap::new())?,
            reference,
            authorization: None,
            layers: Vec::new(),
            stop: Stop::clone(stop),
        };
        let url = format!("{}/manifests/{}", artifact.reference.base(), artifact.reference.selector);
        let mut response = artifact.get(&url, MANIFESTS)?;
        if response.status() == StatusCode::UNAUTHORIZED {
            artifact.authorization = Some(artifact.authorize(&response, credentials)?);
            response = artifact.get(&url, MANIFESTS)?;
        }
        let what = format!("{}:{}", artifact.reference.repository, artifact.reference.selector);
        let response = artifact.judged(response, &what)?;
        let bytes = artifact.bounded(response, MAX_MANIFEST)?;
        artifact.layers = artifact.read(&bytes)?;
        Ok(artifact)
    }

    fn problem(&self, problem: String) -> RegistryError {
        RegistryError::Artifact {
            url: self.reference.url.clone(),
            problem,
        }
    }

    fn unreachable(&self, problem: String) -> RegistryError {
        RegistryError::Unreachable {
            registry: self.reference.registry.clone(),
            problem,
        }
    }

    fn get(&self, url: &str, accept: &str) -> Result<Response, RegistryError> {
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        self.send(request)
    }

    fn send(&self, request: RequestBuilder) -> Result<Response, RegistryError> {
        self.client.send(request, Some(&self.stop)).map_err(|error| match error {
            RequestError::Stopped => RegistryError::Stopped,
            other => self.unreachable(other.to_string()),
        })
    }

    fn judged(&self, response: Response, what: &str) -> Result<Response, RegistryError> {
        match response.status() {
            status if status.is_success() => Ok(response),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(RegistryError::Unauthorized {
                registry: self.reference.registry.clone(),
                repository: self.reference.repository.clone(),
                status: status.as_u16(),
            }),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound {
                registry: self.reference.registry.clone(),
                what: what.to_owned(),
            }),
            status => Err(self.unreachable(format!("it answers {status}"))),
        }
    }

    fn bounded(&self, response: Response, most: u64) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let read = response.take(most + 1).read_to_end(&mut bytes);
        read.map_err(|e| self.unreachable(format!("its answer ended early ({e})")))?;
        if bytes.len() as u64 > most {
            return Err(self.unreachable(format!("its answer has more than {most} bytes")));
        }
        Ok(bytes)
    }

    fn read(&self, bytes: &[u8]) -> Result<Vec<Layer>, RegistryError> {
        if let Some(hex) = self.reference.selector.strip_prefix("sha256:") {
            let actual = hex::encode(Sha256::digest(bytes));
            if actual != hex {
                return Err(self.problem(format!("came with other bytes than its digest names (sha256:{actual})")));
            }
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|e| self.problem(format!("has a manifest that cannot be read ({e})")))?;
        if !manifest.manifests.is_empty() {
            return Err(self.problem("is an index of several: name one of them by its digest in spec.url".to_owned()));
        }
        Ok(manifest.layers)
    }

    /// What to show the registry from now on: a token of the service that it names, or the credentials themselves.
    fn authorize(&self, response: &Response, credentials: Option<&Credentials>) -> Result<HeaderValue, RegistryError> {
        let refused = || RegistryError::Unauthorized {
            registry: self.reference.registry.clone(),
            repository: self.reference.repository.clone(),
            status: 401,
        };
        let challenge = response
            .headers()
            .get(WWW_AUTHENTICATE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        let value = match challenge.split_once(' ') {
            Some((scheme, parameters)) if scheme.eq_ignore_ascii_case("bearer") => {
                format!("Bearer {}", self.token(&parameters_of(parameters), credentials)?)
            }
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("basic") => basic(credentials.ok_or_else(refused)?),
            _ => return Err(refused()),
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| refused())?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn token(&self, parameters: &BTreeMap<String, String>, credentials: Option<&Credentials>) -> Result<String, RegistryError> {
        let realm = parameters.get("realm").and_then(|r| Url::parse(r).ok());
        let mut realm = realm.ok_or_else(|| self.unreachable("it names no token service".to_owned()))?;
        let is_safe =
            realm.scheme() == "https" || (realm.scheme() == "http" && matches!(realm.host_str(), Some("localhost" | "127.0.0.1")));
        if !is_safe {
            return Err(self.unreachable("its token service is not reached by https".to_owned()));
        }
        for name in ["service", "scope"] {
            if let Some(value) = parameters.get(name) {
                realm.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut request = self.client.get(realm);
        if let Some(credentials) = credentials {
            request = request.header(AUTHORIZATION, basic(credentials));
        }
        let response = self.send(request)?;
        let response = self.judged(response, "such token service")?;
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Option<Token> = serde_json::from_slice(&self.bounded(response, MAX_TOKEN)?).ok();
        token
            .and_then(|t| t.token.or(t.access_token))
            .ok_or_else(|| self.unreachable("its token service answers without a token".to_owned()))
    }

    /// The layer with this digest.
    pub(crate) fn by_digest(&self, digest: &str) -> Result<Blob, RegistryError> {
        if !self.layers.iter().any(|l| l.digest == digest) {
            let found: Vec<&str> = self.layers.iter().take(4).map(|l| l.digest.as_str()).collect();
            return Err(self.problem(format!(
                "has no layer with the digest {digest} (it has {}): correct spec.digest",
                found.join(", ")
            )));
        }
        self.blob(digest)
    }

    /// The layer that is a packed image's file of this name: by its type, or by its title, which is what other tools write.
    fn part(&self, media_type: &str, file: &str) -> Result<Blob, RegistryError> {
        let is_it = |l: &&Layer| l.media_type == media_type || l.annotations.get(TITLE).is_some_and(|t| t == file);
        let Some(layer) = self.layers.iter().find(is_it) else {
            return Err(self.problem(format!(
                "has no layer that is the {file} of a packed image: correct spec.url or spec.format"
            )));
        };
        self.blob(&layer.digest)
    }

    /// A packed image's manifest.
    pub(crate) fn packed_manifest(&self) -> Result<Blob, RegistryError> {
        self.part(MANIFEST_TYPE, MANIFEST_FILE)
    }

    /// A packed image's chunks.
    pub(crate) fn packed_chunks(&self) -> Result<Blob, RegistryError> {
        self.part(CHUNKS_TYPE, CHUNKS_FILE)
    }

    /// Finds out where a blob lies. A redirect is followed here and without the credentials, which are the registry's alone.
    fn blob(&self, digest: &str) -> Result<Blob, RegistryError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b':';
        if !digest.bytes().all(plain) {
            return Err(self.problem("has a layer with a malformed digest".to_owned()));
        }
        let url = format!("{}/blobs/{digest}", self.reference.base());
        let mut request = self.client.get(&url).header(RANGE, "bytes=0-0");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = self.send(request)?;
        if response.status().is_redirection() {
            let target = response.headers().get(LOCATION).and_then(|l| l.to_str().ok());
            let target = target.and_then(|l| response.url().join(l).ok());
            let target = target.filter(|t| t.scheme() == "https" || t.scheme() == response.url().scheme());
            let target = target.ok_or_else(|| self.unreachable("it redirects to a place that cannot be used".to_owned()))?;
            return Ok(Blob {
                client: self.client.clone(),
                url: target.into(),
                redirects: true,
            });
        }
        self.judged(response, digest)?;
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(Blob {
            client: client(&self.reference, headers)?,
            url,
            redirects: self.authorization.is_none(),
        })
    }
}

/// A client for the registry, which shows it these headers.
fn client(reference: &Reference, headers: HeaderMap) -> Result<Client, RegistryError> {
    Client::new(STALL, |builder| builder.default_headers(headers)).map_err(|error| RegistryError::Unreachable {
        registry: reference.registry.clone(),
        problem: error.to_string(),
    })
}

fn basic(credentials: &Credentials) -> String {
    let pair = format!("{}:{}", credentials.user, credentials.password);
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// `a="b",c="d"`, as a challenge has them.
fn parameters_of(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim();
    while let Some((name, after)) = rest.split_once("=\"") {
        let Some((value, next)) = after.split_once('"') else { break };
        found.insert(name.trim_matches([',', ' ']).to_ascii_lowercase(), value.to_owned());
        rest = next;
    }
    found
}

impl RegistryError {
    /// A word for the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "InvalidURL",
            Self::Secret { .. } => "PullSecretUnusable",
            Self::Unauthorized { .. } => "RegistryRefuses",
            Self::NotFound { .. } => "NotFound",
            Self::Artifact { .. } => "UnsupportedImage",
            Self::Unreachable { .. } | Self::Stopped => "Unreachable",
        }
    }

    /// Whether it may pass by itself soon.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart_and_nothing_else_is_one() {
        let reference = Reference::parse("oci://registry.example:5000/team/debian:13").unwrap();
        assert_eq!(reference.base(), "https://registry.example:5000/v2/team/debian");
        assert_eq!(reference.selector, "13");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(Reference::parse(&format!("oci://r.example/x@{digest}")).unwrap().selector, digest);
        assert_eq!(
            Reference::parse("oci://127.0.0.1:5000/x:1").unwrap().base(),
            "http://127.0.0.1:5000/v2/x"
        );
        assert_eq!(
            Reference::parse("oci://docker.io/x:1").unwrap().base(),
            "https://registry-1.docker.io/v2/library/x"
        );
        for wrong in [
            "",
            "oci://",
            "oci://r/x",
            "oci://r/x@sha256:00",
            "https://r/x:1",
            "oci://u:p@r/x:1",
            "oci://r/../x:1",
            "oci://r/x:a/b",
            "oci://r/x:a?b",
        ] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_for_the_whole_host_and_are_not_printed() {
        let json = br#"{"auths":{"registry.example":{"auth":"dTpwOnE="},"https://other.example/v1/":{"username":"a","password":"b"}}}"#;
        let found = credentials(json, "registry.example").unwrap();
        assert_eq!((found.user.as_str(), found.password.as_str()), ("u", "p:q"));
        assert!(!format!("{found:?}").contains("p:q"));
        assert_eq!(credentials(json, "other.example").unwrap().user, "a");
        for stranger in [
            "evil-registry.example",
            "registry.example.evil",
            "registry.example:5000",
            "egistry.example",
            "",
        ] {
            assert!(credentials(json, stranger).unwrap_err().contains("no credentials"), "{stranger}");
        }
        assert!(credentials(b"{", "registry.example").is_err());
    }

    #[test]
    fn a_challenge_is_read() {
        let found = parameters_of(r#"realm="https://auth.example/token",service="registry.example",scope="repository:x:pull""#);
        assert_eq!(found["realm"], "https://auth.example/token");
        assert_eq!(found["scope"], "repository:x:pull");
    }
}
