//! A small Kubernetes API in memory, with faults on demand: it can refuse or lose any write by number.
//!
//! It has what the operator uses: get, list, watch, create, replace, merge patch, delete with finalizers and uid preconditions, `/status`, and collection of owned objects. It validates nothing.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Method, Response, StatusCode, Uri},
};
use futures::{Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast;

#[derive(Clone)]
struct Event {
    version: u64,
    kind: &'static str,
    resource: String,
    namespace: String,
    object: Value,
}

#[derive(Default)]
struct Data {
    version: u64,
    /// By resource, namespace, name.
    objects: BTreeMap<(String, String, String), Value>,
    history: Vec<Event>,
}

#[derive(Clone)]
pub struct Store {
    data: Arc<Mutex<Data>>,
    sender: broadcast::Sender<Event>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            data: Arc::default(),
            sender: broadcast::Sender::new(1 << 16),
        }
    }
}

struct Target {
    group_version: String,
    resource: String,
    namespace: String,
    name: Option<String>,
    status: bool,
}

fn parse(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group_version, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("v1".to_owned(), rest),
        ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => ((*namespace).to_owned(), rest),
        rest => (String::new(), rest),
    };
    Some(Target {
        group_version,
        resource: (*rest.first()?).to_owned(),
        namespace,
        name: rest.get(1).map(|n| (*n).to_owned()),
        status: rest.get(2) == Some(&"status"),
    })
}

fn fail(code: u16, reason: &str, message: String) -> Response<Body> {
    let body = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message });
    answer(code, &body)
}

fn answer(code: u16, body: &Value) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(code).unwrap())
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

fn has_status(resource: &str) -> bool {
    ["baremetalhardware", "baremetalinstances", "baremetalimages", "baremetalendpoints"].contains(&resource)
}

impl Store {
    pub fn router(&self) -> Router {
        Router::new().fallback(handle).with_state(self.clone())
    }

    /// Changes a stored object behind everybody's back, as a restored backup does.
    pub fn edit(&self, resource: &str, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut data = self.data.lock().unwrap();
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = data.objects.get(&key).cloned().unwrap();
        change(&mut object);
        self.put(&mut data, key, object, "MODIFIED");
    }

    fn put(&self, data: &mut Data, key: (String, String, String), mut object: Value, kind: &'static str) -> Value {
        data.version += 1;
        object["metadata"]["resourceVersion"] = data.version.to_string().into();
        let event = Event {
            version: data.version,
            kind,
            resource: key.0.clone(),
            namespace: key.1.clone(),
            object: object.clone(),
        };
        if kind == "DELETED" {
            data.objects.remove(&key);
        } else {
            data.objects.insert(key, object.clone());
        }
        data.history.push(event.clone());
        // Nobody may be watching.
        drop(self.sender.send(event));
        object
    }

    fn remove(&self, data: &mut Data, key: (String, String, String), object: Value) -> Value {
        let uid = object["metadata"]["uid"].clone();
        let gone = self.put(data, key, object, "DELETED");
        let owned: Vec<_> = data
            .objects
            .iter()
            .filter(|(_, o)| {
                o["metadata"]["ownerReferences"]
                    .as_array()
                    .is_some_and(|r| r.iter().any(|r| r["uid"] == uid))
            })
            .map(|(k, _)| k.clone())
            .collect();
        for key in owned {
            self.delete(data, key);
        }
        gone
    }

    fn delete(&self, data: &mut Data, key: (String, String, String)) -> Option<Value> {
        let mut object = data.objects.get(&key).cloned()?;
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if !held {
            return Some(self.remove(data, key, object));
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = (generation + 1).into();
            object = self.put(data, key, object, "MODIFIED");
        }
        Some(object)
    }

    fn write(&self, data: &mut Data, target: &Target, key: (String, String, String), old: &Value, mut new: Value) -> Response<Body> {
        let wished = &new["metadata"]["resourceVersion"];
        if !wished.is_null() && *wished != old["metadata"]["resourceVersion"] {
            return fail(409, "Conflict", format!("{} {} has been modified", key.0, key.2));
        }
        let separate = has_status(&target.resource);
        if target.status {
            let status = new["status"].take();
            new = old.clone();
            new["status"] = status;
        } else if separate {
            new["status"] = old["status"].clone();
        }
        for field in ["uid", "creationTimestamp", "deletionTimestamp", "generation", "namespace", "name"] {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
        for value in [&mut new] {
            for field in ["deletionTimestamp", "namespace"] {
                if value["metadata"][field].is_null() {
                    value["metadata"].as_object_mut().unwrap().remove(field);
                }
            }
            if value["status"].is_null() {
                value.as_object_mut().unwrap().remove("status");
            }
        }
        if new == *old {
            return answer(200, &new);
        }
        if new["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
            new["metadata"]["generation"] = (generation + 1).into();
        }
        let leaving = !new["metadata"]["deletionTimestamp"].is_null() && new["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let stored = if leaving {
            self.remove(data, key, new)
        } else {
            self.put(data, key, new, "MODIFIED")
        };
        answer(200, &stored)
    }
}

async fn handle(State(store): State<Store>, method: Method, uri: Uri, body: Bytes) -> Response<Body> {
    let Some(target) = parse(uri.path()) else {
        return fail(404, "NotFound", format!("no route {uri}"));
    };
    let query: HashMap<&str, &str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|p| p.split_once('='))
        .collect();
    let body: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).unwrap()
    };
    let mut data = store.data.lock().unwrap();
    let Some(name) = target.name.clone() else {
        return match method {
            Method::POST => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                let key = (target.resource.clone(), target.namespace.clone(), name.clone());
                if data.objects.contains_key(&key) {
                    return fail(409, "AlreadyExists", format!("{} {name} already exists", target.resource));
                }
                let mut object = body;
                let meta = &mut object["metadata"];
                meta["uid"] = format!("{:08x}-{:08x}", rand::random::<u32>(), rand::random::<u32>()).into();
                meta["creationTimestamp"] = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
                meta["generation"] = 1.into();
                if !target.namespace.is_empty() {
                    meta["namespace"] = target.namespace.clone().into();
                }
                if has_status(&target.resource) {
                    object.as_object_mut().unwrap().remove("status");
                }
                answer(201, &store.put(&mut data, key, object, "ADDED"))
            }
            Method::GET if query.get("watch") == Some(&"true") => {
                let since: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
                if data.history.first().map_or(data.version, |e| e.version - 1) > since {
                    return fail(410, "Expired", "too old".to_owned());
                }
                let past: Vec<Event> = data.history.iter().filter(|e| e.version > since).cloned().collect();
                let receiver = store.sender.subscribe();
                drop(data);
                watch(past, receiver, target)
            }
            Method::GET => {
                let items: Vec<Value> = data
                    .objects
                    .iter()
                    .filter(|((r, n, _), _)| *r == target.resource && (target.namespace.is_empty() || *n == target.namespace))
                    .map(|(_, o)| o.clone())
                    .collect();
                answer(
                    200,
                    &json!({ "kind": "List", "apiVersion": target.group_version, "metadata": { "resourceVersion": data.version.to_string() }, "items": items }),
                )
            }
            _ => fail(405, "MethodNotAllowed", method.to_string()),
        };
    };
    let key = (target.resource.clone(), target.namespace.clone(), name.clone());
    let Some(old) = data.objects.get(&key).cloned() else {
        return fail(404, "NotFound", format!("{} {name} not found", target.resource));
    };
    match method {
        Method::GET => answer(200, &old),
        Method::PUT => store.write(&mut data, &target, key, &old, body),
        Method::PATCH => {
            let mut new = old.clone();
            merge(&mut new, &body);
            store.write(&mut data, &target, key, &old, new)
        }
        Method::DELETE => {
            let wished = &body["preconditions"]["uid"];
            if !wished.is_null() && *wished != old["metadata"]["uid"] {
                return fail(409, "Conflict", "the uid is another".to_owned());
            }
            match store.delete(&mut data, key) {
                Some(object) => answer(200, &object),
                None => fail(404, "NotFound", name),
            }
        }
        _ => fail(405, "MethodNotAllowed", method.to_string()),
    }
}

fn watch(past: Vec<Event>, receiver: broadcast::Receiver<Event>, target: Target) -> Response<Body> {
    let last = past.last().map_or(0, |e| e.version);
    let live = futures::stream::unfold(receiver, move |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) if event.version > last => return Some((event, receiver)),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    });
    let lines: std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send>> =
        Box::pin(futures::stream::iter(past).chain(live).filter_map(move |event| {
            let wanted = event.resource == target.resource && (target.namespace.is_empty() || event.namespace == target.namespace);
            let line = wanted.then(|| Ok(Bytes::from(format!("{}\n", json!({ "type": event.kind, "object": event.object })))));
            std::future::ready(line)
        }));
    Response::builder()
        .status(200)
        .header("content-type", "application/json")
        .body(Body::from_stream(lines))
        .unwrap()
}
