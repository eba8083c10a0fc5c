//! One side of the comparison: turns steps into requests, and answers into what is compared.

use std::{collections::HashMap, fmt, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    normal,
    steps::{Form, From, Kind, Odd, Part, Patch, Step, Version, sentinel_labels},
};
use crate::{
    api::{Answer, Api, Call, Watch, patch},
    found::encoded,
};

/// What is compared of an answer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request and what was known of its object before, to be told with a difference.
    pub sent: String,
    /// The answer as it came, to be told with a difference.
    pub text: String,
    /// HTTP status.
    pub code: u16,
    /// Warning headers.
    pub warnings: Vec<String>,
    /// Content-Type.
    pub kind: String,
    /// The body, normalised.
    pub body: Value,
}

impl Seen {
    /// `reason` of a refusal, empty for none.
    pub fn reason(&self) -> &str {
        if self.body["kind"] == "Status" {
            self.body["reason"].as_str().unwrap_or_default()
        } else {
            ""
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {}", self.code, self.kind, self.warnings, brief(&self.text, 3_000))
    }
}

/// The beginning of a text that may be long.
fn brief(text: &str, length: usize) -> &str {
    text.char_indices().nth(length).map_or(text, |(end, _)| &text[..end])
}

/// One server and what was seen of it.
pub struct Side {
    api: Api,
    namespace: String,
    /// Objects as last seen, the newest last.
    objects: HashMap<(Kind, String), Vec<Value>>,
    /// Versions in the order they were seen.
    versions: Vec<String>,
    /// Path and token of the last list that goes on.
    next: Option<(String, String)>,
    watches: Vec<(String, Kind, Watch)>,
}

impl Side {
    /// A side that has seen nothing.
    pub fn new(api: &Api, namespace: &str) -> Side {
        Side {
            api: api.clone(),
            namespace: namespace.to_owned(),
            objects: HashMap::new(),
            versions: Vec::new(),
            next: None,
            watches: Vec::new(),
        }
    }

    fn path(&self, kind: Kind, name: &str, part: Part, query: &str) -> String {
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}/{name}{}{mark}{query}", kind.collection(&self.namespace), part.suffix())
    }

    /// A collection's path; the ConfigMap that every namespace of a real cluster has is left out.
    fn collection(&self, kind: Kind, parameters: &[(&str, String)]) -> String {
        let given: Vec<String> = parameters
            .iter()
            .map(|(name, value)| match *name {
                "fieldSelector" if kind == Kind::ConfigMap => {
                    let joint = if value.is_empty() { "" } else { "," };
                    (*name, format!("metadata.name!=kube-root-ca.crt{joint}{value}"))
                }
                _ => (*name, value.clone()),
            })
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", encoded(&value)))
            .collect();
        format!("{}?{}", kind.collection(&self.namespace), given.join("&"))
    }

    fn last(&self, kind: Kind, name: &str, back: usize) -> Option<&Value> {
        let seen = self.objects.get(&(kind, name.to_owned()))?;
        seen.len().checked_sub(back + 1).and_then(|at| seen.get(at))
    }

    fn version(&self, kind: Kind, name: &str, version: Version) -> Option<String> {
        let of = |value: &Value| value["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        match version {
            Version::Unset => None,
            Version::Newest => self.last(kind, name, 0).and_then(of),
            Version::Older => self.last(kind, name, 1).and_then(of).or_else(|| Some("1".to_owned())),
            Version::Foreign => Some("99999999".to_owned()),
        }
    }

    /// Sends a step and remembers what it showed.
    pub async fn perform(&mut self, number: usize, step: &Step) -> Seen {
        if let Step::Watch(kind, labels, fields, back) = step {
            return self.open(*kind, labels, fields, *back).await;
        }
        let Some(call) = self.call(number, step) else {
            return Seen {
                sent: "nothing".to_owned(),
                text: String::new(),
                code: 0,
                warnings: Vec::new(),
                kind: String::new(),
                body: json!("not sent: there is no next page"),
            };
        };
        let before = step.object().and_then(|(kind, name)| self.last(kind, name, 0));
        let before = before.map(|object| format!("\n    before   {object}")).unwrap_or_default();
        let sent = format!("{}{before}", brief(&call.told(), 2_000));
        let answer = call.send().await;
        self.remember(step, &answer);
        if let Step::Delete(kind, name, _, _, "Foreground" | "Orphan") = step {
            self.settle(*kind, name).await;
        }
        Seen {
            sent,
            text: answer.text.clone(),
            code: answer.code,
            warnings: answer.warnings(),
            kind: answer.header("content-type").to_owned(),
            body: normal::body(&answer),
        }
    }

    fn call(&self, number: usize, step: &Step) -> Option<Call> {
        let send = |method: Method, path: &str| self.api.call(method, path).accept("application/json");
        Some(match step {
            Step::Create(kind, body, query) => {
                let mut body = body.clone();
                // Generated names must sort alike on both servers, so each request has a prefix of its own.
                if body["metadata"]["generateName"].is_string() {
                    body["metadata"]["generateName"] = json!(format!("gen{number:03}-"));
                }
                let path = format!("{}?{query}", kind.collection(&self.namespace));
                send(Method::POST, &path).body("application/json", body.to_string())
            }
            Step::Get(kind, name, part, form) => self
                .api
                .call(Method::GET, &self.path(*kind, name, *part, ""))
                .accept(media_type(*form, false)),
            Step::List(kind, labels, fields, limit, from, form) => {
                let path = self.list_path(*kind, labels, fields, *limit, *from);
                self.api.call(Method::GET, &path).accept(media_type(*form, true))
            }
            Step::Next => {
                let (path, token) = self.next.as_ref()?;
                send(Method::GET, &format!("{path}&continue={}", encoded(token)))
            }
            Step::Put(kind, name, part, version, change, query) => {
                let body = match part {
                    Part::Scale => self.scale(*kind, name, *version, change),
                    Part::Main | Part::Status => self.replaced(*kind, name, *version, change),
                };
                send(Method::PUT, &self.path(*kind, name, *part, query)).body("application/json", body.to_string())
            }
            Step::Patch(kind, name, part, change, query) => self.patch(*kind, name, *part, change, query),
            Step::Delete(kind, name, version, uid, more) => {
                let mut options = json!({ "kind": "DeleteOptions", "apiVersion": "v1" });
                if let Some(version) = self.version(*kind, name, *version) {
                    options["preconditions"]["resourceVersion"] = json!(version);
                }
                match uid {
                    Some(true) => {
                        let seen = self.last(*kind, name, 0).map_or(&Value::Null, |object| &object["metadata"]["uid"]);
                        options["preconditions"]["uid"] = if seen.is_null() { json!("nobody") } else { seen.clone() };
                    }
                    Some(false) => options["preconditions"]["uid"] = json!("11111111-1111-1111-1111-111111111111"),
                    None => {}
                }
                if !more.is_empty() {
                    options["propagationPolicy"] = json!(more);
                }
                send(Method::DELETE, &self.path(*kind, name, Part::Main, "")).body("application/json", options.to_string())
            }
            Step::DeleteCollection(kind, labels, query) => {
                let path = self.collection(*kind, &[("labelSelector", (*labels).to_owned()), ("fieldSelector", String::new())]);
                send(Method::DELETE, &format!("{path}&{query}"))
            }
            Step::Odd(odd) => self.odd(*odd),
            Step::Watch(..) => return None,
        })
    }

    fn list_path(&self, kind: Kind, labels: &str, fields: &str, limit: Option<u8>, from: From) -> String {
        let newest = self.versions.last().cloned().unwrap_or_default();
        let older = self.versions.get(self.versions.len() / 2).cloned().unwrap_or_default();
        let (version, how) = match from {
            From::Latest => (String::new(), ""),
            From::NotOlder if newest.is_empty() => (String::new(), ""),
            From::NotOlder => (newest, "NotOlderThan"),
            From::Exact if older.is_empty() => (String::new(), ""),
            From::Exact => (older, "Exact"),
            From::Nonsense => ("abc".to_owned(), ""),
            From::MatchOnly => (String::new(), "Exact"),
        };
        let parameters = [
            ("labelSelector", labels.to_owned()),
            ("fieldSelector", fields.to_owned()),
            ("limit", limit.map(|limit| limit.to_string()).unwrap_or_default()),
            ("resourceVersion", version),
            ("resourceVersionMatch", how.to_owned()),
        ];
        self.collection(kind, &parameters)
    }

    /// The object as last seen with a change merged in, or the change alone under that name.
    fn replaced(&self, kind: Kind, name: &str, version: Version, change: &Value) -> Value {
        let mut body = self.last(kind, name, 0).cloned().unwrap_or_else(|| {
            let mut made = kind.stamp();
            made["metadata"] = json!({ "name": name });
            made
        });
        json_merge(&mut body, change);
        body["metadata"]["name"] = json!(name);
        match self.version(kind, name, version) {
            Some(version) => body["metadata"]["resourceVersion"] = json!(version),
            None => {
                if let Some(metadata) = body["metadata"].as_object_mut() {
                    metadata.remove("resourceVersion");
                }
            }
        }
        body
    }

    /// A Scale with the count of a change.
    fn scale(&self, kind: Kind, name: &str, version: Version, change: &Value) -> Value {
        let replicas = change.pointer("/spec/replicas").cloned().unwrap_or(json!(4));
        let mut body =
            json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": name }, "spec": { "replicas": replicas } });
        if let Some(version) = self.version(kind, name, version) {
            body["metadata"]["resourceVersion"] = json!(version);
        }
        body
    }

    fn patch(&self, kind: Kind, name: &str, part: Part, change: &Patch, query: &str) -> Call {
        let path = self.path(kind, name, part, query);
        let send = |path: &str, kind: &str, body: &Value| {
            self.api
                .call(Method::PATCH, path)
                .accept("application/json")
                .body(kind, body.to_string())
        };
        match change {
            Patch::Merge(body) => send(&path, patch::MERGE, body),
            Patch::Json(body) => send(&path, patch::JSON, body),
            Patch::Strategic(body) => send(&path, patch::STRATEGIC, body),
            Patch::Apply(body, manager, force) => {
                let mut body = body.clone();
                if part == Part::Scale {
                    body =
                        json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": body["metadata"], "spec": { "replicas": 2 } });
                }
                // See the list of intended differences.
                if let Some(labels) = body["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
                    labels.retain(|_, value| !value.is_null());
                }
                // The name in the body is mostly that of the path.
                if body["metadata"]["name"].as_str().is_none_or(|name| name != "Bad_Name") {
                    body["metadata"]["name"] = json!(name);
                }
                let mark = if query.is_empty() { "?" } else { "&" };
                let force = if *force { "&force=true" } else { "" };
                send(&format!("{path}{mark}fieldManager={manager}{force}"), patch::APPLY, &body)
            }
        }
    }

    fn odd(&self, odd: Odd) -> Call {
        let widgets = Kind::Widget.collection(&self.namespace);
        let call = |method: Method, path: &str| self.api.call(method, path).accept("application/json");
        let body =
            json!({ "apiVersion": "conformance.example.com/v1", "kind": "Widget", "metadata": { "name": "odd" }, "spec": { "size": 1 } })
                .to_string();
        let core = Kind::ConfigMap.collection(&self.namespace);
        let core_body = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "odd" } }).to_string();
        match odd {
            Odd::PutCollection => call(Method::PUT, &widgets).body("application/json", body),
            Odd::PutCoreCollection => call(Method::PUT, &core).body("application/json", core_body),
            Odd::PostCoreObject => call(Method::POST, &format!("{core}/a")).body("application/json", core_body),
            Odd::PostObject => call(Method::POST, &format!("{widgets}/a")).body("application/json", body),
            Odd::PatchCollection => call(Method::PATCH, &widgets).body(patch::MERGE, "{}"),
            Odd::MediaType => call(Method::POST, &widgets).body("text/plain", body),
            Odd::Broken => call(Method::POST, &widgets).body("application/json", "{\"a\":"),
            Odd::Large => call(Method::POST, &widgets).body("application/json", " ".repeat(3 * 1024 * 1024 + 1)),
            Odd::PatchType => call(Method::PATCH, &format!("{widgets}/a")).body("application/json", "{}"),
            Odd::Resource => call(Method::GET, "/api/v1/nothings"),
            Odd::DefaultNamespace => call(Method::DELETE, "/api/v1/namespaces/kube-system"),
            Odd::Continue => call(Method::GET, &format!("{widgets}?limit=1&continue=nonsense")),
        }
    }

    fn remember(&mut self, step: &Step, answer: &Answer) {
        let body = &answer.body;
        if answer.code >= 300 {
            return;
        }
        let newest = body["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let dry = matches!(step, Step::Create(_, _, query) | Step::Put(_, _, _, _, _, query) | Step::Patch(_, _, _, _, query) if query.starts_with("dryRun"));
        match step {
            Step::Create(kind, ..)
            | Step::Put(kind, _, Part::Main | Part::Status, ..)
            | Step::Patch(kind, _, Part::Main | Part::Status, ..)
            | Step::Get(kind, _, Part::Main, Form::Object)
                if !dry && body["kind"] == kind.stamp()["kind"] =>
            {
                let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let seen = self.objects.entry((*kind, name)).or_default();
                if seen.last() != Some(body) {
                    seen.push(body.clone());
                }
            }
            Step::List(kind, labels, fields, limit, ..) => {
                let next = body["metadata"]["continue"].as_str().unwrap_or_default();
                if !next.is_empty() {
                    self.next = Some((self.list_path(*kind, labels, fields, *limit, From::Latest), next.to_owned()));
                }
            }
            _ => {}
        }
        // A page that goes on, and an exact list, show an older version than what is there.
        let current = !matches!(step, Step::Next | Step::List(_, _, _, _, From::Exact, _));
        if let Some(newest) = newest.filter(|_| current && !dry) {
            self.versions.push(newest);
        }
    }

    /// Waits until the garbage collector has done its part, which takes another time on each server.
    async fn settle(&self, kind: Kind, name: &str) {
        let path = self.path(kind, name, Part::Main, "");
        for _ in 0..600 {
            let answer = self.api.get(&path).await;
            let text = answer.body["metadata"]["finalizers"].to_string();
            if answer.code == 404 || !(text.contains("foregroundDeletion") || text.contains("\"orphan\"")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn open(&mut self, kind: Kind, labels: &str, fields: &str, back: u8) -> Seen {
        // Without a version the stream begins with what is there, in the order of names.
        let at = self.versions.len().checked_sub(1 + usize::from(back));
        let version = at.map(|at| self.versions[at].clone()).unwrap_or_default();
        let parameters = [
            ("watch", "true".to_owned()),
            ("labelSelector", labels.to_owned()),
            ("fieldSelector", fields.to_owned()),
            ("resourceVersion", version),
        ];
        let path = self.collection(kind, &parameters);
        let watch = self.api.watch(&path).await;
        self.watches
            .push((format!("watch {kind:?} {labels:?} {fields:?} {back} back"), kind, watch));
        Seen {
            sent: path,
            text: String::new(),
            code: 200,
            warnings: Vec::new(),
            kind: String::new(),
            body: json!("open"),
        }
    }

    /// Makes one last object of each kind, which every selector selects, and reads all watches up to it.
    pub async fn streams(&mut self) -> Vec<(String, Vec<String>)> {
        let mut kinds: Vec<Kind> = self.watches.iter().map(|(_, kind, _)| *kind).collect();
        kinds.dedup();
        for kind in kinds {
            let mut body = kind.stamp();
            body["metadata"] = json!({ "name": "z-last", "labels": sentinel_labels() });
            if kind == Kind::Widget {
                body["spec"] = json!({ "size": 1, "color": "red" });
            }
            // It may be there for another watch already.
            self.api.post(&kind.collection(&self.namespace), &body).await;
        }
        let mut streams = Vec::new();
        for (shown, _, mut watch) in self.watches.drain(..) {
            let mut events = Vec::new();
            loop {
                match watch.within(*crate::api::PATIENCE).await {
                    Some(Some((_, object))) if object["metadata"]["name"] == "z-last" => break,
                    Some(Some((kind, object))) => events.push(format!("{kind} {}", normal::object(&object))),
                    Some(None) => {
                        events.push("END".to_owned());
                        break;
                    }
                    None => {
                        events.push("the last object does not come".to_owned());
                        break;
                    }
                }
            }
            streams.push((shown, events));
        }
        streams
    }
}

fn media_type(form: Form, list: bool) -> &'static str {
    match (form, list) {
        (Form::Object, _) => "application/json",
        (Form::Table, _) => "application/json;as=Table;v=v1;g=meta.k8s.io",
        (Form::Partial, false) => "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        (Form::Partial, true) => "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        (Form::Impossible, _) => "text/html",
    }
}

fn json_merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                if value.is_null() {
                    base.remove(key);
                } else {
                    json_merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, change) => *base = change.clone(),
    }
}
