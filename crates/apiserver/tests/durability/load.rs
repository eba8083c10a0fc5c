//! The clients that write: each owns some objects, has one request under way, and tells the ledger before and after.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Method, Request, header};
use kube::Client;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::ledger::{Found, Id, Kind, Ledger, read};

/// Everything that is waited for must happen in this time.
pub const PATIENCE: Duration = Duration::from_secs(30);

const WRITERS: u64 = 8;
const OBJECTS_EACH: u64 = 4;

/// Why something ended.
#[derive(Debug)]
pub enum End {
    /// The server cannot be reached, or says that it cannot write: what was under way is unknown.
    Gone(String),
    /// The server broke a promise.
    Wrong(String),
}

impl From<String> for End {
    fn from(why: String) -> End {
        End::Wrong(why)
    }
}

/// Who fills the ledger at the same time.
pub type Shared = Arc<Mutex<Ledger>>;

/// The ledger; a panic elsewhere fails the test anyway.
pub fn lock(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request and its answer as JSON.
pub async fn ask(client: &Client, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value, kube::Error> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, kind)
        .body(body)
        .map_err(kube::Error::HttpError)?;
    match tokio::time::timeout(PATIENCE, client.request::<Value>(request)).await {
        Ok(answer) => answer,
        Err(_) => panic!("no answer from {path} in {PATIENCE:?}"),
    }
}

/// What a refusal means: the server's own trouble is an end, anything else a broken promise.
pub fn end_of(what: &str, error: kube::Error) -> End {
    match error {
        kube::Error::Api(status) if status.code < 500 => End::Wrong(format!("{what}: {} {}", status.code, status.message)),
        error => End::Gone(format!("{what}: {error}")),
    }
}

/// Installs the custom resource and waits until it is served.
pub async fn prepare(client: &Client) -> Result<(), End> {
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let name = format!("{DEFINITIONS}/records.durability.test");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "records.durability.test" },
        "spec": {
            "group": "durability.test",
            "scope": "Namespaced",
            "names": { "plural": "records", "kind": "Record" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": { "spec": { "type": "object", "properties": { "number": { "type": "string" }, "fill": { "type": "string" } } } },
                } },
            }],
        },
    });
    match ask(client, Method::GET, &name, "", &Value::Null).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {
            ask(client, Method::POST, DEFINITIONS, "application/json", &definition)
                .await
                .map_err(|error| end_of("installing the definition", error))?;
        }
        Err(error) => return Err(end_of("looking for the definition", error)),
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask(client, Method::GET, Kind::Record.path(), "", &Value::Null).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => return Err(end_of("waiting for the definition", error)),
        }
    }
}

/// Lists a kind; nothing when it is not served.
pub async fn list(client: &Client, kind: Kind) -> Result<Found, End> {
    let answer = match ask(client, Method::GET, kind.path(), "", &Value::Null).await {
        Ok(answer) => answer,
        Err(kube::Error::Api(status)) if status.code == 404 && kind == Kind::Record => return Ok(Found::default()),
        Err(error) => return Err(end_of("a list", error)),
    };
    let mut found = Found {
        revision: revision_of(&answer)?,
        ..Found::default()
    };
    for object in answer["items"].as_array().into_iter().flatten() {
        let (id, number, revision) = read(kind, object)?;
        found.objects.insert(id, (number, revision));
    }
    Ok(found)
}

/// Lists everything. Nobody writes meanwhile but the server's own controllers.
pub async fn list_all(client: &Client) -> Result<Found, End> {
    let mut all = list(client, Kind::Map).await?;
    let records = list(client, Kind::Record).await?;
    all.revision = all.revision.max(records.revision);
    all.objects.extend(records.objects);
    Ok(all)
}

fn revision_of(object: &Value) -> Result<u64, String> {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("an answer without a revision: {object}"))
}

/// Writes an object once.
pub async fn put(client: &Client, ledger: &Shared, id: &Id) -> Result<(), End> {
    let (kind, name) = id;
    let there = lock(ledger).present(id);
    let number = lock(ledger).begin_put(id);
    let object = kind.object(name, number);
    let path = format!("{}/{name}", kind.path());
    let answer = match (there, kind) {
        (false, _) => ask(client, Method::POST, kind.path(), "application/json", &object).await,
        (true, Kind::Map) => ask(client, Method::PUT, &path, "application/json", &object).await,
        (true, Kind::Record) => {
            let patch = json!({ "spec": object["spec"] });
            ask(client, Method::PATCH, &path, "application/merge-patch+json", &patch).await
        }
    };
    let answer = answer.map_err(|error| end_of(&format!("writing {id:?}"), error))?;
    let (_, stored, revision) = read(*kind, &answer)?;
    if stored != number {
        return Err(End::Wrong(format!("write {number} of {id:?} was answered with {stored}")));
    }
    lock(ledger).acknowledge(id, Some(revision))?;
    Ok(())
}

async fn delete(client: &Client, ledger: &Shared, id: &Id) -> Result<(), End> {
    lock(ledger).begin_delete(id);
    let path = format!("{}/{}", id.0.path(), id.1);
    ask(client, Method::DELETE, &path, "", &Value::Null)
        .await
        .map_err(|error| end_of(&format!("deleting {id:?}"), error))?;
    lock(ledger).acknowledge(id, None)?;
    Ok(())
}

/// Writes until the server is gone or `enough` says so.
async fn write(client: Client, ledger: Shared, writer: u64, seed: u64, enough: tokio_util::sync::CancellationToken) -> Result<(), End> {
    let mut chance = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(writer));
    let kind = if writer.is_multiple_of(2) { Kind::Map } else { Kind::Record };
    while !enough.is_cancelled() {
        let id = (kind, format!("w{writer}-{}", chance.random_range(0..OBJECTS_EACH)));
        if lock(&ledger).present(&id) && chance.random_range(0..6) == 0 {
            delete(&client, &ledger, &id).await?;
        } else {
            put(&client, &ledger, &id).await?;
        }
    }
    Ok(())
}

/// Starts all writers.
pub fn start(
    client: &Client,
    ledger: &Shared,
    seed: u64,
    enough: &tokio_util::sync::CancellationToken,
) -> tokio::task::JoinSet<Result<(), End>> {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(client.clone(), ledger.clone(), writer, seed, enough.clone()));
    }
    writers
}

/// Waits for all writers. An error when one of them saw a broken promise.
pub async fn finish(mut writers: tokio::task::JoinSet<Result<(), End>>) -> Result<(), String> {
    let mut wrong = Ok(());
    while let Some(ended) = writers.join_next().await {
        if let Err(End::Wrong(why)) = ended.map_err(|error| error.to_string())? {
            wrong = Err(why);
        }
    }
    wrong
}
