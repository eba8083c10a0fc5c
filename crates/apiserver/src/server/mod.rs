//! The server: requests, controllers, TLS.
//!
//! Everything here works on the store's committed objects and on the registry of what is served. Who asks is found out in
//! [`identity`], what they may do in [`access`]. It does not schedule anything, or convert between versions by webhook.

pub mod access;
pub mod api;
pub mod body;
pub mod builtin;
pub mod core;
pub mod definitions;
pub mod delete;
pub mod discovery;
pub mod events;
pub mod gc;
pub mod identity;
pub mod metadata;
pub mod metrics;
pub mod namespaces;
pub mod openapi;
pub mod output;
pub mod patching;
pub mod protobuf;
pub mod registry;
pub mod request;
pub mod reviews;
pub mod scale;
pub mod selector;
pub mod status;
pub mod tls;
pub mod watch;
pub mod write;

use std::any::Any;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tower_http::catch_panic::CatchPanicLayer;

use self::api::Surface;
use self::core::Core;
use self::identity::Identity;
use self::identity::tokens::Tokens;
use crate::store::{Limits, Store};
use crate::{Error, Result};

/// The Kubernetes version whose behaviour is followed.
const VERSION: (&str, &str, &str) = ("1", "33", "v1.33.0+kube-baremetal");

/// `GET /version`.
pub fn version() -> Value {
    json!({
        "major": VERSION.0, "minor": VERSION.1, "gitVersion": VERSION.2, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, if cfg!(target_arch = "x86_64") { "amd64" } else { std::env::consts::ARCH }),
    })
}

/// How a server is opened.
pub struct Config {
    /// Where the store and the certificate authority live. Made when absent (mode 0700).
    pub data_dir: PathBuf,
    /// Names and addresses of the server's certificate, besides loopback.
    pub names: Vec<String>,
    /// Bounds of the store.
    pub limits: Limits,
}

impl Config {
    /// A server for a directory, for loopback.
    pub fn new(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            names: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// A token that can be replaced while clients use it. Clones share it.
#[derive(Clone, Default)]
pub struct Bearer(Arc<Mutex<Option<HeaderValue>>>);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer")
    }
}

impl Bearer {
    /// Uses this token from now on. False, and nothing changes, when it cannot stand in a header.
    pub fn set(&self, token: &str) -> bool {
        let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}")) else {
            return false;
        };
        value.set_sensitive(true);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        true
    }

    fn header(&self) -> Option<HeaderValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An embedded Kubernetes API server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    surface: Arc<Surface>,
    authority: Arc<tls::Authority>,
    names: Vec<String>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("store", &self.surface.core.store)
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Opens (or creates) the data directory and starts the controllers. Must be called inside a tokio runtime.
    pub async fn open(config: Config) -> Result<ApiServer> {
        let directory = &config.data_dir;
        let make = || -> std::io::Result<()> {
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(directory)?;
            crate::store::backend::sync_parent(directory)
        };
        make().map_err(|source| Error::File {
            path: directory.clone(),
            source,
        })?;
        let (path, limits) = (directory.join("objects.redb"), config.limits.clone());
        let store = tokio::task::spawn_blocking(move || Store::open(&path, limits))
            .await
            .map_err(|error| Error::Start(error.to_string()))??;
        ApiServer::open_on(store, config).await
    }

    /// Starts a server on an opened store; the directory of the configuration holds the keys only.
    pub async fn open_on(store: Store, config: Config) -> Result<ApiServer> {
        let authority = Arc::new(tls::Authority::open(&config.data_dir)?);
        let core = Arc::new(Core::new(store, Tokens::open(&config.data_dir)?));
        core.access.load(&core.store);
        let observer = Arc::downgrade(&core);
        core.store.observe(Box::new(move |events| {
            if let Some(core) = observer.upgrade() {
                core.access.observe(events);
                gc::observe(&core, events);
            }
        }));
        // What definitions say is served before the first request.
        definitions::start(&core).await;
        gc::seed(&core);
        let start = async {
            namespaces::ensure(&core).await?;
            access::bootstrap::ensure(&core).await?;
            access::aggregate::gather(&core).await
        };
        start.await.map_err(|error| Error::Start(error.message))?;
        let mut tasks = JoinSet::new();
        supervise(&mut tasks, &core, "definitions", definitions::run);
        supervise(&mut tasks, &core, "garbage collector", gc::run);
        supervise(&mut tasks, &core, "namespaces", namespaces::run);
        supervise(&mut tasks, &core, "aggregated roles", access::aggregate::run);
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        names.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned));
        names.extend(config.names);
        let surface = Arc::new(Surface {
            core,
            openapi: openapi::Documents::default(),
            address: "127.0.0.1:6443".to_owned(),
        });
        Ok(ApiServer {
            surface,
            authority,
            names,
            tasks: Arc::new(Mutex::new(tasks)),
        })
    }

    fn bare_router(&self) -> Router {
        let surface = self.surface.clone();
        let router = Router::new().fallback(move |request: Request| {
            let surface = surface.clone();
            async move { surface.handle(request).await }
        });
        survive_panics(router, self.surface.core.metrics.panics.clone())
    }

    /// A router that acts as an identity: for `kube::Client::new` in the same process.
    pub fn router(&self, identity: Identity) -> Router {
        self.bare_router().layer(axum::Extension(identity))
    }

    /// A router that sends a token with each request and knows nobody otherwise, as over TLS: for `kube::Client::new` in the same process.
    pub fn token_router(&self, bearer: Bearer) -> Router {
        self.bare_router().layer(axum::middleware::map_request(move |mut request: Request| {
            let value = bearer.header();
            async move {
                if let Some(value) = value {
                    request.headers_mut().insert(header::AUTHORIZATION, value);
                }
                request
            }
        }))
    }

    /// Serves TLS on a listener until cancelled. Who a client is comes from its certificate or its token.
    pub fn serve_tls(
        &self,
        listener: tokio::net::TcpListener,
        cancel: tokio_util::sync::CancellationToken,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let (router, authority, names, stop) = (
            self.bare_router(),
            self.authority.clone(),
            self.names.clone(),
            self.surface.core.stop.clone(),
        );
        async move {
            let either = tokio_util::sync::CancellationToken::new();
            let guard = either.clone().drop_guard();
            let (cancel, either_too) = (cancel.clone(), either.clone());
            let link = tokio::spawn(async move {
                tokio::select! {
                    () = cancel.cancelled() => either_too.cancel(),
                    () = stop.cancelled() => either_too.cancel(),
                    () = either_too.cancelled() => {}
                }
            });
            let result = tls::serve(&authority, &names, router, listener, either).await;
            drop(guard);
            link.abort();
            result
        }
    }

    /// Writes a kubeconfig of the administrator (mode 0600).
    pub fn write_kubeconfig(&self, path: &Path, server_url: &str) -> Result<()> {
        self.authority.write_kubeconfig(path, server_url, &Identity::admin())
    }

    /// Writes a kubeconfig of an identity (mode 0600).
    pub fn write_kubeconfig_as(&self, path: &Path, server_url: &str, identity: &Identity) -> Result<()> {
        self.authority.write_kubeconfig(path, server_url, identity)
    }

    /// The certificate authority's certificate as PEM.
    pub fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    /// Registers the server's metrics.
    pub fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.surface.core.metrics.register(registry);
    }

    /// Whether the store still takes writes.
    pub fn healthy(&self) -> bool {
        self.surface.core.store.healthy()
    }

    /// Caught panics so far.
    pub fn panics(&self) -> u64 {
        self.surface.core.metrics.panics.get()
    }

    /// Open watches.
    pub fn open_watches(&self) -> i64 {
        self.surface.core.metrics.watches.get()
    }

    /// The store, for measurements and tests.
    pub fn store(&self) -> &Store {
        &self.surface.core.store
    }

    /// Ends watches and controllers, commits what is queued and closes the file.
    pub async fn shutdown(&self) {
        self.surface.core.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
        self.surface.core.store.close().await;
    }
}

/// Runs a controller; one that panics is counted, logged and started again.
fn supervise<F, Fut>(tasks: &mut JoinSet<()>, core: &Arc<Core>, name: &'static str, run: F)
where
    F: Fn(Arc<Core>) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let core = core.clone();
    tasks.spawn(async move {
        loop {
            match tokio::spawn(run(core.clone())).await {
                Ok(()) => return,
                Err(error) => {
                    core.metrics.panics.inc();
                    tracing::error!(controller = name, %error, "a controller panicked; it is started again");
                    // What it held in hand is found again by looking at everything.
                    gc::seed(&core);
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
            }
        }
    });
}

/// A request that panics is answered, counted and logged, and the server goes on.
fn survive_panics(router: Router, panics: Counter) -> Router {
    router.layer(CatchPanicLayer::custom(move |cause: Box<dyn Any + Send + 'static>| -> Response {
        panics.inc();
        let text = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_else(|| "unknown cause".to_owned());
        tracing::error!(cause = text, "a request panicked; the server goes on");
        let message = "This request caused apiserver to panic. Look in the logs for details.";
        status::ApiError::new(500, "InternalError", message).into_response()
    }))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered_and_counted() {
        let counter = Counter::default();
        let router = Router::new().fallback(|request: Request| async move {
            assert!(request.uri().path() != "/planted", "planted");
            "fine"
        });
        let router = survive_panics(router, counter.clone());
        let ask = async |path: &str| {
            let request = Request::builder().uri(path).body(axum::body::Body::empty()).expect("a request");
            let answer = router.clone().oneshot(request).await.expect("an answer");
            let code = answer.status().as_u16();
            (code, answer.into_body().collect().await.expect("a body").to_bytes())
        };
        let (code, body) = ask("/planted").await;
        let status: Value = serde_json::from_slice(&body).expect("a Status");
        assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
        assert_eq!(counter.get(), 1);
        assert_eq!(ask("/other").await.0, 200);
    }
}
