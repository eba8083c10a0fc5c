//! An in-memory Kubernetes API for the few resources netboot uses, with faults: it can refuse everything, hang, or freeze its watches (so that a cache stays
//! behind). Conflicts, revisions and watches are real; admission, selectors and pruning are not here.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::Response,
};
use futures::StreamExt;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// One change, in order.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: &'static str,
    pub collection: String,
    pub object: Value,
}

#[derive(Default)]
struct Tables {
    revision: u64,
    objects: BTreeMap<(String, String), Value>,
}

pub struct Api {
    tables: Mutex<Tables>,
    changes: broadcast::Sender<(u64, Change)>,
    pub down: AtomicBool,
    pub hang: AtomicBool,
    pub writes: AtomicUsize,
}

/// One client's view of the API; its watches can be frozen.
#[derive(Clone)]
pub struct View {
    api: Arc<Api>,
    pub frozen: Arc<AtomicBool>,
    pub cut: Arc<AtomicBool>,
}

impl Api {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            tables: Mutex::default(),
            changes: broadcast::channel(16_384).0,
            down: AtomicBool::new(false),
            hang: AtomicBool::new(false),
            writes: AtomicUsize::new(0),
        })
    }

    pub fn view(self: &Arc<Self>) -> View {
        View {
            api: self.clone(),
            frozen: Arc::default(),
            cut: Arc::default(),
        }
    }

    pub fn client(self: &Arc<Self>) -> kube::Client {
        self.view().client()
    }

    /// Every object of a collection whose path ends with `plural`.
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let tables = self.tables.lock().unwrap();
        tables
            .objects
            .iter()
            .filter(|((collection, _), _)| collection.ends_with(&format!("/{plural}")))
            .map(|(_, o)| o.clone())
            .collect()
    }
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    json_response(
        code,
        &json!({"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":reason,"message":message,"code":code.as_u16()}),
    )
}

fn json_response(code: StatusCode, value: &Value) -> Response {
    http::Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(serde_json::to_vec(value).unwrap()))
        .unwrap()
}

/// `/apis/g/v/plural[/name]` or `/api/v1/namespaces/ns/plural[/name]`.
fn split(path: &str) -> Option<(String, Option<String>)> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let collection = match parts.as_slice() {
        ["apis", _, _, "namespaces", _, ..] => 6,
        ["apis", ..] => 4,
        ["api", _, "namespaces", _, ..] => 5,
        ["api", ..] => 3,
        _ => return None,
    };
    if parts.len() < collection || parts.len() > collection + 2 {
        return None;
    }
    Some((
        format!("/{}", parts[..collection].join("/")),
        parts.get(collection).map(|n| (*n).to_owned()),
    ))
}

impl View {
    pub fn client(&self) -> kube::Client {
        let router: Router = Router::new().fallback(handle).with_state(self.clone());
        kube::Client::new(router, "default")
    }
}

async fn handle(State(view): State<View>, request: Request) -> Result<Response, Infallible> {
    let api = view.api.clone();
    if api.hang.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    if api.down.load(Ordering::SeqCst) || view.cut.load(Ordering::SeqCst) {
        return Ok(status(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "down on purpose"));
    }
    let (parts, body) = request.into_parts();
    let Some((collection, name)) = split(parts.uri.path()) else {
        return Ok(status(StatusCode::NOT_FOUND, "NotFound", "no such path"));
    };
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap_or_default();
    Ok(match (&parts.method, name) {
        (&Method::GET, None) if query.contains("watch=true") || query.contains("watch=1") => watch(view, collection, &query),
        (&Method::GET, None) => list(&api, &collection),
        (&Method::GET, Some(name)) => match api.tables.lock().unwrap().objects.get(&(collection, name)) {
            Some(object) => json_response(StatusCode::OK, object),
            None => status(StatusCode::NOT_FOUND, "NotFound", "not there"),
        },
        (&Method::POST, None) => create(&api, collection, &body),
        (&Method::PUT, Some(name)) => replace(&api, collection, name, &body),
        (&Method::DELETE, Some(name)) => delete(&api, collection, name),
        _ => status(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "not here"),
    })
}

fn list(api: &Api, collection: &str) -> Response {
    let tables = api.tables.lock().unwrap();
    let items: Vec<&Value> = tables
        .objects
        .iter()
        .filter(|((c, _), _)| c == collection)
        .map(|(_, o)| o)
        .collect();
    json_response(
        StatusCode::OK,
        &json!({"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":tables.revision.to_string()},"items":items}),
    )
}

fn create(api: &Api, collection: String, body: &Bytes) -> Response {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return status(StatusCode::BAD_REQUEST, "BadRequest", "not JSON");
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut tables = api.tables.lock().unwrap();
    if tables.objects.contains_key(&(collection.clone(), name.clone())) {
        return status(StatusCode::CONFLICT, "AlreadyExists", "it is there");
    }
    tables.revision += 1;
    let revision = tables.revision;
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    object["metadata"]["uid"] = json!(format!("uid-{revision}"));
    object["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    if let Some(namespace) = collection.split('/').skip_while(|p| *p != "namespaces").nth(1) {
        object["metadata"]["namespace"] = json!(namespace);
    }
    tables.objects.insert((collection.clone(), name), object.clone());
    api.announce(revision, "ADDED", collection, object.clone());
    json_response(StatusCode::CREATED, &object)
}

fn replace(api: &Api, collection: String, name: String, body: &Bytes) -> Response {
    let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
        return status(StatusCode::BAD_REQUEST, "BadRequest", "not JSON");
    };
    let mut tables = api.tables.lock().unwrap();
    let key = (collection.clone(), name);
    let Some(old) = tables.objects.get(&key) else {
        return status(StatusCode::NOT_FOUND, "NotFound", "not there");
    };
    let version = &object["metadata"]["resourceVersion"];
    if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
        return status(StatusCode::CONFLICT, "Conflict", "somebody was faster");
    }
    for field in ["uid", "creationTimestamp"] {
        object["metadata"][field] = old["metadata"][field].clone();
    }
    tables.revision += 1;
    let revision = tables.revision;
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    tables.objects.insert(key, object.clone());
    api.announce(revision, "MODIFIED", collection, object.clone());
    json_response(StatusCode::OK, &object)
}

fn delete(api: &Api, collection: String, name: String) -> Response {
    let mut tables = api.tables.lock().unwrap();
    let Some(mut old) = tables.objects.remove(&(collection.clone(), name)) else {
        return status(StatusCode::NOT_FOUND, "NotFound", "not there");
    };
    tables.revision += 1;
    let revision = tables.revision;
    old["metadata"]["resourceVersion"] = json!(revision.to_string());
    api.announce(revision, "DELETED", collection, old.clone());
    json_response(StatusCode::OK, &old)
}

impl Api {
    fn announce(&self, revision: u64, kind: &'static str, collection: String, object: Value) {
        self.writes.fetch_add(1, Ordering::SeqCst);
        // Nobody may be watching.
        self.changes.send((revision, Change { kind, collection, object })).ok();
    }
}

fn watch(view: View, collection: String, query: &str) -> Response {
    let from: u64 = query
        .split('&')
        .find_map(|p| p.strip_prefix("resourceVersion="))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    // The lock keeps changes between the look at the present revision and the subscription out.
    let (receiver, missed) = {
        let tables = view.api.tables.lock().unwrap();
        (view.api.changes.subscribe(), tables.revision > from)
    };
    if missed {
        let gone = json!({"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}});
        let line = format!("{gone}\n");
        return http::Response::new(Body::from(line));
    }
    let stream = futures::stream::unfold((receiver, view, collection), |(mut receiver, view, collection)| async move {
        loop {
            let (_, change) = receiver.recv().await.ok()?;
            // A frozen view sees nothing that happens, and does not notice.
            if view.frozen.load(Ordering::SeqCst) || change.collection != collection {
                continue;
            }
            let line = format!("{}\n", json!({"type": change.kind, "object": change.object}));
            return Some((Ok::<_, Infallible>(Bytes::from(line)), (receiver, view, collection)));
        }
    })
    .boxed();
    http::Response::new(Body::from_stream(stream))
}
