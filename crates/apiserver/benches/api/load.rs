//! The load: five phases, the same for both servers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::side::Side;

/// What is done, for people.
pub const PLAN: &str = "create 10,000 objects, get 20,000, list 10,000 for 30 times, patch 5,000 statuses, 1,000 changes to 100 watchers";

const OBJECTS: u64 = 10_000;
const GETS: u64 = 20_000;
const LISTS: u64 = 30;
const PATCHES: u64 = 5_000;
const CHANGES: u64 = 1_000;
const WATCHERS: u64 = 100;
/// Clients at a time, and of the phases whose answers are large.
const CLIENTS: u64 = 16;
const FEW: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(120);

const MACHINES: &str = "/apis/bench.test/v1/namespaces/default/machines";

/// What a phase took.
pub struct Figures {
    /// Its name.
    pub phase: String,
    /// CPU seconds of the server.
    pub cpu: f64,
    wall: f64,
    /// Seconds of each operation, sorted.
    latencies: Vec<f64>,
}

impl Figures {
    /// Operations per second.
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.wall
    }

    /// Operations per CPU second of the server; one tick of the kernel's clock at least.
    pub fn per_cpu_second(&self) -> f64 {
        self.latencies.len() as f64 / self.cpu.max(0.01)
    }

    /// Seconds that so many percent of the operations took at most.
    pub fn percentile(&self, percent: usize) -> f64 {
        let at = (self.latencies.len() * percent).div_ceil(100).saturating_sub(1);
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

fn definition() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "machines.bench.test" },
        "spec": {
            "group": "bench.test",
            "scope": "Namespaced",
            "names": { "plural": "machines", "kind": "Machine" },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["serial"],
                            "properties": {
                                "serial": { "type": "string", "minLength": 1, "maxLength": 64 },
                                "rack": text,
                                "disks": { "type": "array", "maxItems": 8, "items": {
                                    "type": "object",
                                    "properties": { "name": text, "bytes": { "type": "integer", "format": "int64", "minimum": 0 }, "wwn": text },
                                } },
                            },
                            "x-kubernetes-validations": [{ "rule": "!has(self.disks) || self.disks.all(d, d.bytes > 0)", "message": "disks have a size" }],
                        },
                        "status": { "type": "object", "properties": { "step": { "type": "integer" }, "phase": text, "conditions": { "type": "array", "items": {
                            "type": "object", "properties": { "type": text, "status": text, "reason": text, "message": text },
                        } } } },
                    },
                } },
            }],
        },
    })
}

/// About 700 bytes, as a server's description may have.
fn machine(n: u64) -> Value {
    let disk = |at: u64| json!({ "name": format!("nvme{at}n1"), "bytes": 960_197_124_096_u64, "wwn": format!("eui.{:032x}", n * 8 + at) });
    json!({
        "apiVersion": "bench.test/v1",
        "kind": "Machine",
        "metadata": { "name": name(n), "labels": { "rack": format!("r{}", n % 40), "class": "bench" } },
        "spec": { "serial": format!("SN{n:012}"), "rack": format!("r{}", n % 40), "disks": (0..4).map(disk).collect::<Vec<_>>() },
    })
}

fn name(n: u64) -> String {
    format!("machine-{n:06}")
}

fn status(step: u64) -> Value {
    json!({ "status": { "step": step, "phase": "Ready", "conditions": [
        { "type": "Ready", "status": "True", "reason": "Seen", "message": format!("seen for the {step}th time") },
    ] } })
}

/// One request; its answer is read to the end and not looked at.
async fn ask(client: &Client, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Result<usize> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, kind)
        .header(header::ACCEPT, "application/json")
        .body(body.into())?;
    let answer = tokio::time::timeout(PATIENCE, client.send(request)).await??;
    let code = answer.status();
    let bytes = tokio::time::timeout(PATIENCE, answer.into_body().collect()).await??.to_bytes();
    if !code.is_success() {
        bail!("{path}: {code} {}", String::from_utf8_lossy(&bytes));
    }
    Ok(bytes.len())
}

async fn patch_status(client: &Client, n: u64, step: u64) -> Result<()> {
    let path = format!("{MACHINES}/{}/status", name(n));
    let body = status(step).to_string().into_bytes();
    ask(client, Method::PATCH, &path, "application/merge-patch+json", body)
        .await
        .map(drop)
}

/// Runs `count` operations by some clients at a time, and measures.
async fn phase<F, Fut>(side: &Side, name: &str, clients: u64, count: u64, operation: F) -> Result<Figures>
where
    F: Fn(Client, u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let client = side.client().await?;
    let (cpu, started) = (side.cpu()?, Instant::now());
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (client, next, operation) = (client.clone(), next.clone(), operation.clone());
        running.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, anyhow::Error>(latencies);
                }
                let sent = Instant::now();
                operation(client.clone(), n).await?;
                latencies.push(sent.elapsed().as_secs_f64());
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(ended) = running.join_next().await {
        latencies.extend(ended??);
    }
    finished(side, name, cpu, started, latencies)
}

fn finished(side: &Side, name: &str, cpu: f64, started: Instant, mut latencies: Vec<f64>) -> Result<Figures> {
    latencies.sort_by(f64::total_cmp);
    let figures = Figures {
        phase: name.to_owned(),
        cpu: side.cpu()? - cpu,
        wall: started.elapsed().as_secs_f64(),
        latencies,
    };
    eprintln!("  {name}: {:.1} s, {:.2} CPU s", figures.wall, figures.cpu);
    Ok(figures)
}

/// Runs the phases whose name contains the filter; the first one always, for the others need its objects.
pub async fn run(side: &Side, filter: &str) -> Result<Vec<Figures>> {
    let client = side.client().await?;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    ask(
        &client,
        Method::POST,
        definitions,
        "application/json",
        definition().to_string().into_bytes(),
    )
    .await?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask(&client, Method::GET, MACHINES, "", Vec::new()).await {
        if Instant::now() > deadline {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The real server serves a new definition everywhere a moment later.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let mut all = Vec::new();
    let create = |client: Client, n: u64| async move {
        let body = machine(n).to_string().into_bytes();
        ask(&client, Method::POST, MACHINES, "application/json", body).await.map(drop)
    };
    all.push(phase(side, "create", CLIENTS, OBJECTS, create).await?);
    if "get".contains(filter) {
        let get = |client: Client, n: u64| async move {
            let path = format!("{MACHINES}/{}", name(n.wrapping_mul(7919) % OBJECTS));
            ask(&client, Method::GET, &path, "", Vec::new()).await.map(drop)
        };
        all.push(phase(side, "get", CLIENTS, GETS, get).await?);
    }
    if "list of 10,000".contains(filter) {
        let list = |client: Client, _| async move {
            let bytes = ask(&client, Method::GET, MACHINES, "", Vec::new()).await?;
            anyhow::ensure!(bytes > 500 * usize::try_from(OBJECTS)?, "the list has {bytes} bytes only");
            Ok(())
        };
        all.push(phase(side, "list of 10,000", FEW, LISTS, list).await?);
    }
    if "patch status".contains(filter) {
        let patch = |client: Client, n: u64| async move { patch_status(&client, n, n).await };
        all.push(phase(side, "patch status", CLIENTS, PATCHES, patch).await?);
    }
    if "event to 100 watchers".contains(filter) {
        all.push(fan_out(side).await?);
    }
    Ok(all)
}

/// When each change was sent.
type Sent = Arc<Mutex<HashMap<u64, Instant>>>;

/// Some clients change objects, many watch. An operation is one event at one watcher, from the moment its change was sent.
async fn fan_out(side: &Side) -> Result<Figures> {
    const FIRST: u64 = 1_000_000;
    let client = side.client().await?;
    let list: Value = client
        .request(Request::get(format!("{MACHINES}?limit=1")).body(Vec::new())?)
        .await?;
    let revision = list["metadata"]["resourceVersion"].as_str().context("a revision")?.to_owned();
    let sent = Sent::default();
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let path = format!("{MACHINES}?watch=true&resourceVersion={revision}");
        let stream = client.request_stream(Request::get(path).body(Vec::new())?).await?;
        let sent = sent.clone();
        watchers.spawn(async move {
            let mut lines = Box::pin(stream.lines());
            let mut latencies = Vec::new();
            while latencies.len() < usize::try_from(CHANGES)? {
                let line = tokio::time::timeout(PATIENCE, lines.next()).await?.context("the watch ended")??;
                let seen = Instant::now();
                let Some(step) = step_of(&line).filter(|step| *step >= FIRST) else {
                    continue;
                };
                let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).get(&step).copied();
                latencies.push((seen - sent.context("an event of a change that was not sent")?).as_secs_f64());
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let (cpu, started) = (side.cpu()?, Instant::now());
    let change = move |client: Client, n: u64| {
        let sent = sent.clone();
        async move {
            sent.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(FIRST + n, Instant::now());
            patch_status(&client, n % OBJECTS, FIRST + n).await
        }
    };
    phase(side, "(their changes)", FEW, CHANGES, change).await?;
    let mut latencies = Vec::new();
    while let Some(ended) = watchers.join_next().await {
        latencies.extend(ended??);
    }
    finished(side, "event to 100 watchers", cpu, started, latencies)
}

/// `status.step` of a watch's line, without decoding it: a hundred watchers share the machine with the server.
fn step_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("\"step\":")?;
    let end = rest.find(|c: char| !c.is_ascii_digit())?;
    rest[..end].parse().ok()
}
