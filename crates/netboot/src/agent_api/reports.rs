//! `POST /agent/v1/reports`: progress (a hint) and results (stored before they are answered).

use std::sync::Arc;

use agent_protocol::{
    limits,
    order::{OrderResult, Report},
    session::ErrorCode,
};
use api::BareMetalDiscoveryStatus;
use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Request, StatusCode};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::auth::{self, Caller};
use crate::{
    metrics::Route,
    objects::store::Change,
    progress::Hint,
    reply::{Refusal, Reply},
    server::Peer,
    state::Shared,
};

/// The handler.
pub(crate) async fn report(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let taken = async {
        let (caller, body) = auth::caller(&shared, peer, &parts, body).await?;
        let report: Report = limits::parse(&body)?;
        take(&shared, &caller, report).await
    }
    .await;
    answer(&shared, Route::Report, taken)
}

/// What a machine is told whose report was stored, or not taken.
pub(super) fn answer(shared: &Shared, route: Route, taken: Reply<()>) -> Response {
    let response = match taken {
        Ok(()) => (StatusCode::OK, [(http::header::CONTENT_TYPE, "application/json")], "{}").into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(route, response.status());
    response
}

pub(super) fn stale() -> Refusal {
    Refusal::new(
        ErrorCode::StaleOrder,
        "this order is not the one that this machine accepted last: ask for the present one",
    )
}

/// Whether a report of this order may be taken. The accepting session, or a later one of the same machine that finished what was begun.
pub(super) fn check(status: &BareMetalDiscoveryStatus, session: &str, order_id: &str) -> Reply<()> {
    if status.session.as_ref().is_none_or(|s| s.id != session) {
        return Err(Refusal::gone());
    }
    let accepted = status.accepted_order.as_ref().ok_or_else(stale)?;
    if accepted.id != order_id || order_id.is_empty() {
        return Err(stale());
    }
    Ok(())
}

async fn take(shared: &Shared, caller: &Caller, report: Report) -> Reply<()> {
    let session = caller.session.id.as_str();
    if let Some(progress) = report.progress {
        let known = shared.cache.discovery(&caller.name).unwrap_or_else(|| caller.discovery.clone());
        check(known.status.as_ref().ok_or_else(Refusal::gone)?, session, &report.order_id)?;
        let hint = Hint {
            order_id: report.order_id,
            progress,
        };
        if shared.hints.put(&caller.name, hint) {
            shared.metrics.progress_dropped.inc();
        }
        return Ok(());
    }
    let Some(result) = report.result else { return Ok(()) };
    let start = shared.cache.discovery(&caller.name).unwrap_or_else(|| caller.discovery.clone());
    shared
        .store
        .update(start, |current| {
            let status = current.status.as_ref().ok_or_else(Refusal::gone)?;
            check(status, session, &result.order_id)?;
            consistent(status, &result)?;
            if status.result.as_ref().is_some_and(|r| r.order_id == result.order_id) {
                // Stored already; its answer was lost. The first word stands.
                return Ok(Change::Keep(()));
            }
            let mut new = current.clone();
            let status = new.status.get_or_insert_default();
            status.result = Some(result.clone());
            status.result_time = Some(Time(Timestamp::now()));
            status.progress = None;
            Ok(Change::Write(Box::new(new), ()))
        })
        .await?;
    shared.hints.forget(&caller.name);
    tracing::info!(discovery = %caller.name, order = %result.order_id, outcome = ?result.outcome, "result stored");
    Ok(())
}

/// A result must be of the kind that was ordered, and its evidence of this order.
fn consistent(status: &BareMetalDiscoveryStatus, result: &OrderResult) -> Reply<()> {
    let malformed = |message: &str| Err(Refusal::new(ErrorCode::Malformed, message));
    if status.accepted_order.as_ref().is_some_and(|a| a.kind != result.kind) {
        return malformed("result.kind: is not the kind of the order");
    }
    if result.image.as_ref().is_some_and(|i| i.order_id != result.order_id) {
        return malformed("result.image.orderId: must equal orderId");
    }
    if result.erase.as_ref().is_some_and(|e| e.order_id != result.order_id) {
        return malformed("result.erase.orderId: must equal orderId");
    }
    Ok(())
}
