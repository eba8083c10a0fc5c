//! The control listener: faults are set, listed and removed, counters are read, machines are looked at. Plain HTTP without authentication, for a loopback.
//!
//! | request | what |
//! |---|---|
//! | `GET /faults` | all faults, each with how often it struck |
//! | `POST /faults` | sets one; one of the same name is replaced |
//! | `DELETE /faults`, `DELETE /faults/NAME` | removes all, or one |
//! | `GET /counters` | connections and requests |
//! | `DELETE /counters` | begins counting anew |
//! | `GET /machines?from=0&count=100`, `GET /machines/NAME` | controllers with their machines, power and boots |
//! | `POST /machines/NAME/power/WORD?system=0` | somebody at the machine switches it: `on`, `off`, `reset`, `cycle`, `shutDown` |
//! | `POST /machines/NAME/restart` | the controller starts anew |
//! | `GET /profiles` | all profiles |

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    faults::{Conduct, Fault, FaultError},
    fleet::Fleet,
    host::Command,
    profile,
};

/// The most controllers in one answer.
const PAGE: usize = 1_000;

type Shared = State<Arc<Fleet>>;

pub(crate) fn router(fleet: Arc<Fleet>) -> Router {
    Router::new()
        .route("/faults", get(list).post(set).delete(clear))
        .route("/faults/{name}", delete(remove))
        .route("/counters", get(counters).delete(count_anew))
        .route("/machines", get(machines))
        .route("/machines/{name}", get(machine))
        .route("/machines/{name}/power/{word}", post(press))
        .route("/machines/{name}/restart", post(restart))
        .route("/profiles", get(profiles))
        .fallback(|| async { unknown("there is nothing at this path: see /faults, /counters, /machines, /profiles") })
        .with_state(fleet)
}

fn unknown(problem: &str) -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"error": {"problem": problem}}))).into_response()
}

fn refused(error: &FaultError) -> Response {
    let body = json!({"error": {"field": error.field, "problem": error.problem}});
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}

async fn list(State(fleet): Shared) -> Response {
    Json(fleet.faults().list()).into_response()
}

async fn set(State(fleet): Shared, body: Bytes) -> Response {
    let set = Fault::parse(&body).and_then(|fault| {
        fleet.faults().set(fault.clone())?;
        Ok(fault)
    });
    match set {
        Ok(fault) => (StatusCode::CREATED, Json(fault)).into_response(),
        Err(error) => refused(&error),
    }
}

async fn clear(State(fleet): Shared) -> StatusCode {
    fleet.faults().clear();
    StatusCode::NO_CONTENT
}

async fn remove(State(fleet): Shared, Path(name): Path<String>) -> Response {
    if fleet.faults().remove(&name) {
        return StatusCode::NO_CONTENT.into_response();
    }
    unknown("there is no fault of this name")
}

async fn counters(State(fleet): Shared) -> Response {
    Json(fleet.counters().now()).into_response()
}

async fn count_anew(State(fleet): Shared) -> StatusCode {
    fleet.counters().reset();
    StatusCode::NO_CONTENT
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    from: usize,
    #[serde(default = "page")]
    count: usize,
}

fn page() -> usize {
    100
}

async fn machines(State(fleet): Shared, Query(page): Query<Page>) -> Response {
    let shown: Vec<_> = fleet
        .all()
        .iter()
        .skip(page.from)
        .take(page.count.min(PAGE))
        .map(|bmc| bmc.shown())
        .collect();
    Json(json!({"count": fleet.all().len(), "machines": shown})).into_response()
}

async fn machine(State(fleet): Shared, Path(name): Path<String>) -> Response {
    match fleet.named(&name) {
        Some(bmc) => Json(bmc.shown()).into_response(),
        None => unknown("there is no controller of this name: they are called bmc-0, bmc-1, ..."),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    #[serde(default)]
    system: usize,
}

async fn press(State(fleet): Shared, Path((name, word)): Path<(String, String)>, Query(which): Query<Which>) -> Response {
    let command = match word.as_str() {
        "on" => Command::On,
        "off" => Command::Off,
        "reset" => Command::Reset,
        "cycle" => Command::Cycle,
        "shutDown" => Command::ShutDown,
        _ => return unknown("the words are on, off, reset, cycle and shutDown"),
    };
    match fleet.named(&name).and_then(|bmc| bmc.hosts.get(which.system)) {
        Some(host) => {
            host.tell(command, Conduct::default());
            StatusCode::NO_CONTENT.into_response()
        }
        None => unknown("there is no such machine: controllers are called bmc-0, bmc-1, ..., their machines 0, 1, ..."),
    }
}

async fn restart(State(fleet): Shared, Path(name): Path<String>) -> Response {
    match fleet.named(&name) {
        Some(bmc) => {
            bmc.restart();
            StatusCode::NO_CONTENT.into_response()
        }
        None => unknown("there is no controller of this name: they are called bmc-0, bmc-1, ..."),
    }
}

async fn profiles() -> Response {
    Json(profile::ALL.iter().map(|profile| (**profile).clone()).collect::<Vec<_>>()).into_response()
}
