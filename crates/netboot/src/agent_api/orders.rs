//! `GET /agent/v1/order`: what a machine shall do.
//!
//! The cache says whether there is anything new; waiting costs nothing. Something destructive is handed out only in these steps: both objects read freshly,
//! decided by `lifecycle` on them; noted as accepted by compare and swap; the hardware read once more, because whoever takes an order back looks for that note; then
//! handed out. Any doubt on the way, and the agent is told to wait.

use std::{sync::Arc, time::Duration};

use agent_protocol::{
    order::{Order, OrderKind},
    session::OrderResponse,
};
use api::{BareMetalDiscovery, BareMetalHardware};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::Request;
use jiff::Timestamp;
use kube::ResourceExt;
use lifecycle::agent::{Instruction, SessionFacts, instruction};
use tokio::time::{Instant, timeout_at};

use super::auth::{self, Caller};
use crate::{
    metrics::Route,
    objects::store::Change,
    reply::{Refusal, Reply},
    server::Peer,
    state::{Shared, planted},
};

/// The handler.
pub(crate) async fn order(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let response = async {
        let (caller, _) = auth::caller(&shared, peer, &parts, body).await?;
        let after = after(parts.uri.query());
        wait_for_order(&shared, caller, after).await
    }
    .await;
    let response = match response {
        Ok(order) => Json(order).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::Order, response.status());
    response
}

/// The `after` parameter. Order ids are plain, so nothing is decoded; what does not look like one equals none.
fn after(query: Option<&str>) -> &str {
    query
        .into_iter()
        .flat_map(|q| q.split('&'))
        .find_map(|pair| pair.strip_prefix("after="))
        .unwrap_or_default()
}

fn decide(shared: &Shared, discovery: &BareMetalDiscovery, hardware: Option<&BareMetalHardware>, session: &str) -> Instruction {
    instruction(&SessionFacts {
        discovery,
        hardware,
        session,
        config: &shared.config.decisions,
        now: Timestamp::now(),
    })
}

async fn wait_for_order(shared: &Arc<Shared>, caller: Caller, after: &str) -> Reply<OrderResponse> {
    let deadline = Instant::now() + shared.config.poll;
    let waiter = shared.wakes.wait_for(&caller.name);
    let _polling = shared.presence.polling(&caller.name, &caller.session.id);
    let session = caller.session.id.as_str();
    if caller.session.replica != shared.config.replica {
        crate::lost::moved(shared, &caller.discovery, session).await;
    }
    let mut stale_reads = 0u32;
    loop {
        let news = waiter.next();
        let Some(discovery) = shared.cache.discovery(&caller.name) else {
            return Err(Refusal::gone());
        };
        let present = discovery.status.as_ref().and_then(|s| s.session.as_ref()).map(|s| s.id.as_str());
        if present != Some(session) {
            return Err(Refusal::gone());
        }
        let hardware = shared.cache.hardware_of(&caller.name);
        let told = decide(shared, &discovery, hardware.as_deref(), session);
        let is_news = told.order.kind != OrderKind::Wait && told.order.id != after;
        let mut note = told.note;
        if is_news {
            if !told.order.kind.is_destructive() {
                shared.presence.leaves(&caller.name);
                return Ok(OrderResponse { order: told.order, note });
            }
            match hand_out(shared, &caller, &discovery, hardware.as_deref()).await? {
                Some(fresh) if fresh.order.kind.is_destructive() => {
                    shared.metrics.orders.inc();
                    tracing::info!(discovery = %caller.name, order = %fresh.order.id, kind = ?fresh.order.kind, "order handed out");
                    return Ok(OrderResponse {
                        order: fresh.order,
                        note: fresh.note,
                    });
                }
                other => {
                    // The cache is behind. Its next event wakes us; if none comes, the agent asks again.
                    shared.metrics.stale_orders.inc();
                    stale_reads += 1;
                    note = other.map_or(note, |i| i.note);
                }
            }
        }
        let wait = OrderResponse {
            order: Order::wait(),
            note,
        };
        if stale_reads > 3 || timeout_at(deadline, news).await.is_err() {
            return Ok(wait);
        }
        if stale_reads > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The steps of the module's comment. `None`: another decision came of the fresh objects.
async fn hand_out(
    shared: &Shared,
    caller: &Caller,
    cached: &Arc<BareMetalDiscovery>,
    cached_hardware: Option<&BareMetalHardware>,
) -> Reply<Option<Instruction>> {
    let session = caller.session.id.as_str();
    let Some(hardware_name) = cached_hardware.map(ResourceExt::name_any) else {
        return Ok(None);
    };
    if planted!(shared, no_fresh_read) {
        return Ok(Some(decide(shared, cached, cached_hardware, session)));
    }
    if !shared.store.is_reachable() {
        return Err(Refusal::unavailable());
    }
    let fresh = shared.store.hardware(&hardware_name).await?;
    // Writing the note by compare and swap proves that the discovery is fresh; where there is nothing to write, it is read.
    let noted = shared
        .store
        .update(cached.clone(), |current| {
            let present = current.status.as_ref().and_then(|s| s.session.as_ref());
            if present.is_none_or(|s| s.id != session) {
                return Err(Refusal::gone());
            }
            let told = decide(shared, current, fresh.as_ref(), session);
            match &told.accept {
                Some(accept) => {
                    let mut new = current.clone();
                    let status = new.status.get_or_insert_default();
                    status.accepted_order = Some(accept.clone());
                    status.progress = None;
                    Ok(Change::Write(Box::new(new), (told, true)))
                }
                None => Ok(Change::Keep((told, false))),
            }
        })
        .await?;
    let (told, written) = noted;
    if !told.order.kind.is_destructive() {
        return Ok(Some(told));
    }
    let discovery = if written {
        shared.cache.discovery(&caller.name)
    } else {
        Some(Arc::new(shared.store.discovery(&caller.name).await?))
    };
    let Some(discovery) = discovery else { return Ok(None) };
    let again = shared.store.hardware(&hardware_name).await?;
    let confirmed = decide(shared, &discovery, again.as_ref(), session);
    Ok((confirmed.order == told.order && confirmed.accept.is_none()).then_some(confirmed))
}
