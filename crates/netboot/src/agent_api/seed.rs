//! `GET /agent/v1/seed`: the sealed seed, once, while imaging.
//!
//! Whoever gets it cannot read it without the session's private key; still nobody gets it but the session that accepted the image order, and only until
//! that order has a result. That it was served is written by compare and swap, into the note of the accepted order, before it is. Most agents get it with the order
//! ([`super::orders`]), at no cost of its own; this way is for the others, and for a seed that was sealed later than the order was handed out.

use std::sync::Arc;

use agent_protocol::{order::OrderKind, seed::SealedSeed, session::ErrorCode};
use api::{BareMetalDiscovery, discovery::AcceptedOrder};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Request, header};
use kube::ResourceExt;

use super::auth::{self, Caller};
use crate::{
    metrics::Route,
    objects::{seeds::secret_name, store::Change},
    reply::{Refusal, Reply},
    server::Peer,
    state::{Shared, planted},
};

/// The handler.
pub(crate) async fn seed(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let sealed = async {
        let (caller, _) = auth::caller(&shared, peer, &parts, body).await?;
        serve(&shared, &caller).await
    }
    .await;
    let response = match sealed {
        Ok(sealed) => {
            let mut response = Json(sealed).into_response();
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::Seed, response.status());
    response
}

fn not_yours() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "there is no seed for this session: only an image order in work has one",
    )
}

fn served_before() -> Refusal {
    Refusal::new(
        ErrorCode::Forbidden,
        "the seed was served to this session before: reboot the machine to get another one",
    )
}

fn not_there() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "the seed for this session is not ready: ask again")
}

/// The image order that this session has in work.
fn order_in_work<'a>(discovery: &'a BareMetalDiscovery, session: &str) -> Reply<&'a AcceptedOrder> {
    let status = discovery.status.as_ref().ok_or_else(Refusal::gone)?;
    if status.session.as_ref().is_none_or(|s| s.id != session) {
        return Err(Refusal::gone());
    }
    let accepted = status.accepted_order.as_ref().ok_or_else(not_yours)?;
    let finished = status.result.as_ref().is_some_and(|r| r.order_id == accepted.id);
    if accepted.kind != OrderKind::Image || accepted.session != session || finished {
        return Err(not_yours());
    }
    Ok(accepted)
}

/// What was sealed for this order and these keys. The watch may be behind: then it is read.
async fn find(shared: &Shared, hardware: &str, order_id: &str, thumbprint: &str) -> Reply<Arc<SealedSeed>> {
    if let Some(known) = shared.seeds.get(hardware, order_id, thumbprint) {
        return Ok(known);
    }
    match shared.store.secret(&secret_name(hardware)).await {
        Ok(secret) => drop(shared.seeds.apply(&secret)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    // One of an earlier boot of this machine, or of an earlier order, is none: the operator is about to seal it anew.
    shared.seeds.get(hardware, order_id, thumbprint).ok_or_else(not_there)
}

async fn serve(shared: &Shared, caller: &Caller) -> Reply<SealedSeed> {
    let session = caller.session.id.as_str();
    let start = shared.cache.discovery(&caller.name).unwrap_or_else(|| caller.discovery.clone());
    let order_id = match order_in_work(&start, session) {
        Ok(order) => order.id.clone(),
        // The cache may be behind what another replica handed out.
        Err(_) => order_in_work(&shared.store.discovery(&caller.name).await?, session)?.id.clone(),
    };
    let hardware = shared.cache.hardware_of(&caller.name).ok_or_else(not_yours)?;
    let sealed = find(shared, &hardware.name_any(), &order_id, &caller.session.thumbprint).await?;
    let again = planted!(shared, seed_reuse);
    shared
        .store
        .update(start, |current| {
            let accepted = order_in_work(current, session)?;
            if accepted.id != order_id {
                return Err(not_there());
            }
            if accepted.seed_served {
                return if again { Ok(Change::Keep(())) } else { Err(served_before()) };
            }
            let mut new = current.clone();
            if let Some(accepted) = new.status.as_mut().and_then(|s| s.accepted_order.as_mut()) {
                accepted.seed_served = true;
            }
            Ok(Change::Write(Box::new(new), ()))
        })
        .await?;
    tracing::info!(discovery = %caller.name, order = order_id, "sealed seed served");
    Ok(Arc::unwrap_or_clone(sealed))
}
