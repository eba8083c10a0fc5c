//! `GET /agent/v1/seed`: the sealed seed, once, while imaging.
//!
//! Whoever gets it cannot read it without the session's private key; still nobody gets it but the session that accepted the image order, and only until
//! that order has a result. That it was served is written by compare and swap before it is.

use std::sync::Arc;

use agent_protocol::{order::OrderKind, seed::SealedSeed, session::ErrorCode};
use api::BareMetalDiscovery;
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, Request, header};
use k8s_openapi::ByteString;
use kube::ResourceExt;

use super::auth::{self, Caller};
use crate::{
    metrics::Route,
    reply::{Refusal, Reply},
    server::Peer,
    state::{Shared, planted},
};

/// Key of the sealed seed in its Secret.
pub const SEALED: &str = "sealed.json";
/// Key that says to which session it was served.
pub const SERVED: &str = "served";

/// Name of the Secret with the seed for this hardware.
pub fn secret_name(hardware: &str) -> String {
    format!("seed-{hardware}")
}

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

fn not_there() -> Refusal {
    Refusal::new(ErrorCode::NotFound, "the seed for this session is not ready: ask again")
}

/// The id of the image order that this session has in work.
fn order_in_work<'a>(discovery: &'a BareMetalDiscovery, session: &str) -> Reply<&'a str> {
    let status = discovery.status.as_ref().ok_or_else(Refusal::gone)?;
    if status.session.as_ref().is_none_or(|s| s.id != session) {
        return Err(Refusal::gone());
    }
    let accepted = status.accepted_order.as_ref().ok_or_else(not_yours)?;
    let finished = status.result.as_ref().is_some_and(|r| r.order_id == accepted.id);
    if accepted.kind != OrderKind::Image || accepted.session != session || finished {
        return Err(not_yours());
    }
    Ok(&accepted.id)
}

async fn serve(shared: &Shared, caller: &Caller) -> Reply<SealedSeed> {
    let session = caller.session.id.as_str();
    // Cheap refusal first, then the same on a fresh object.
    order_in_work(&caller.discovery, session).or_else(|refusal| {
        let known = shared.cache.discovery(&caller.name);
        known.map_or(Err(refusal), |d| order_in_work(&d, session).map(|_| ""))
    })?;
    let fresh = shared.store.discovery(&caller.name).await?;
    let order_id = order_in_work(&fresh, session)?;
    let hardware = shared.cache.hardware_of(&caller.name).ok_or_else(not_yours)?;
    let mut secret = match shared.store.secret(&secret_name(&hardware.name_any())).await {
        Ok(secret) => secret,
        Err(error) if error.is_not_found() => return Err(not_there()),
        Err(error) => return Err(error.into()),
    };
    let data = secret.data.get_or_insert_default();
    let sealed: SealedSeed = data
        .get(SEALED)
        .and_then(|bytes| serde_json::from_slice(&bytes.0).ok())
        .ok_or_else(not_there)?;
    if sealed.thumbprint != caller.session.thumbprint || sealed.order_id != order_id {
        // Of an earlier boot of this machine, or an earlier order; the operator is about to seal it anew.
        return Err(not_there());
    }
    let served = data.get(SERVED).is_some_and(|s| s.0 == session.as_bytes());
    if served && !planted!(shared, seed_reuse) {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            "the seed was served to this session before: reboot the machine to get another one",
        ));
    }
    data.insert(SERVED.to_owned(), ByteString(session.as_bytes().to_vec()));
    match shared.store.replace_secret(&secret).await {
        Ok(_) => {}
        // Somebody else was served at this very moment, or the operator seals anew.
        Err(error) if error.is_conflict() || error.is_not_found() => return Err(not_there()),
        Err(error) => return Err(error.into()),
    }
    tracing::info!(discovery = %caller.name, order = order_id, "sealed seed served");
    Ok(sealed)
}
