//! `GET /agent/v1/order`: what a machine shall do.
//!
//! The cache says whether there is anything new; waiting costs nothing. Something destructive is handed out only in these steps: the hardware read freshly; decided by `lifecycle`
//! on it; noted as accepted by compare and swap, which proves that the discovery is fresh too; then handed out. Where that took long, or nothing was to be noted, both are read
//! once more: an order that was taken back meanwhile is not handed out. Any doubt on the way, and the agent is told to wait.
//!
//! The sealed seed goes with the order where the agent takes it so and the watch has brought it: then the note of the acceptance is also the note that it was served.

use std::{sync::Arc, time::Duration};

use agent_protocol::{
    bmc_user::QUERY_BMC_USER,
    order::{Order, OrderKind, RebootTarget},
    seed::SealedSeed,
    session::{OrderResponse, QUERY_SEED},
};
use api::{BareMetalDiscovery, BareMetalHardware, discovery::AcceptedOrder};
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

/// Within this time from its reading to its acceptance an order need not be looked at again.
const STILL_FRESH: Duration = Duration::from_secs(2);
/// So long an order waits for its seed, which was stored before it.
const SEED_FOLLOWS: Duration = Duration::from_millis(500);

/// The handler.
pub(crate) async fn order(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let response = async {
        let (caller, _) = auth::caller(&shared, peer, &parts, body).await?;
        let asked = Asked::read(parts.uri.query());
        wait_for_order(&shared, caller, asked).await
    }
    .await;
    let response = match response {
        Ok(order) => Json(order).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::Order, response.status());
    response
}

/// What an agent says when it asks.
#[derive(Debug, Clone, Copy, Default)]
struct Asked<'a> {
    /// The order it saw last. Order ids are plain, so nothing is decoded; what does not look like one equals none.
    after: &'a str,
    /// It takes the seed with the order.
    seed: bool,
    /// It makes users in its machine's BMC, and has seen to this one last.
    bmc_user: Option<&'a str>,
}

impl<'a> Asked<'a> {
    fn read(query: Option<&'a str>) -> Self {
        let pairs = || query.into_iter().flat_map(|q| q.split('&'));
        Self {
            after: pairs().find_map(|pair| pair.strip_prefix("after=")).unwrap_or_default(),
            seed: pairs().any(|pair| pair == QUERY_SEED),
            bmc_user: pairs().find_map(|pair| pair.strip_prefix(QUERY_BMC_USER)),
        }
    }
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

async fn wait_for_order(shared: &Arc<Shared>, caller: Caller, asked: Asked<'_>) -> Reply<OrderResponse> {
    let deadline = Instant::now() + shared.config.poll;
    let waiter = shared.wakes.wait_for(&caller.name);
    let _polling = shared.presence.polling(&caller.name, &caller.session.id);
    let session = caller.session.id.as_str();
    if caller.session.replica != shared.config.replica {
        crate::lost::moved(shared, &caller.discovery, session).await;
    }
    let mut stale_reads = 0u32;
    let mut seed_until = None;
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
        let is_news = told.order.kind != OrderKind::Wait && told.order.id != asked.after;
        let mut note = told.note;
        if is_news {
            if !told.order.kind.is_destructive() {
                if told.order.reboot == Some(RebootTarget::Disk) {
                    shared.presence.departs(&caller.name, std::time::Instant::now());
                } else {
                    shared.presence.leaves(&caller.name);
                }
                return Ok(OrderResponse {
                    order: told.order,
                    note,
                    seed: None,
                    bmc_user: None,
                });
            }
            // The seed was sealed before the order was written; its watch brings it within moments.
            let name = hardware.as_deref().map(ResourceExt::name_any).unwrap_or_default();
            let lacks_seed = asked.seed
                && told.accept.is_some()
                && told.order.image.as_ref().is_some_and(|i| i.config_drive)
                && wanted_seed(shared, &caller, asked, &told.order, &name).is_none();
            if lacks_seed && Instant::now() < *seed_until.get_or_insert_with(|| Instant::now() + SEED_FOLLOWS) {
                let until = seed_until.unwrap_or(deadline).min(deadline);
                // Woken or not: looked at again.
                let _woken = timeout_at(until, news).await;
                continue;
            }
            match hand_out(shared, &caller, asked, &discovery, hardware.as_deref()).await? {
                Some(HandedOut { told: fresh, seed }) if fresh.order.kind.is_destructive() => {
                    shared.metrics.orders.inc();
                    tracing::info!(discovery = %caller.name, order = %fresh.order.id, kind = ?fresh.order.kind, seed = seed.is_some(), "order handed out");
                    return Ok(OrderResponse {
                        order: fresh.order,
                        note: fresh.note,
                        seed: seed.map(Arc::unwrap_or_clone),
                        bmc_user: None,
                    });
                }
                other => {
                    // The cache is behind. Its next event wakes us; if none comes, the agent asks again.
                    shared.metrics.stale_orders.inc();
                    stale_reads += 1;
                    note = other.map_or(note, |o| o.told.note);
                }
            }
        }
        let bmc_user = asked
            .bmc_user
            .and_then(|seen| super::bmc_user::wanted(hardware.as_deref(), &caller.session, seen));
        let is_wanted = bmc_user.is_some();
        let wait = OrderResponse {
            order: Order::wait(),
            note,
            seed: None,
            bmc_user,
        };
        if is_wanted || stale_reads > 3 || timeout_at(deadline, news).await.is_err() {
            return Ok(wait);
        }
        if stale_reads > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// An order with what belongs to it.
struct HandedOut {
    told: Instruction,
    seed: Option<Arc<SealedSeed>>,
}

/// The steps of the module's comment. `None`: another decision came of the fresh objects.
async fn hand_out(
    shared: &Shared,
    caller: &Caller,
    asked: Asked<'_>,
    cached: &Arc<BareMetalDiscovery>,
    cached_hardware: Option<&BareMetalHardware>,
) -> Reply<Option<HandedOut>> {
    let session = caller.session.id.as_str();
    let Some(hardware_name) = cached_hardware.map(ResourceExt::name_any) else {
        return Ok(None);
    };
    if planted!(shared, no_fresh_read) {
        let told = decide(shared, cached, cached_hardware, session);
        return Ok(Some(HandedOut { told, seed: None }));
    }
    if !shared.store.is_reachable() {
        return Err(Refusal::unavailable());
    }
    let begun = Instant::now();
    let fresh = shared.store.hardware(&hardware_name).await?;
    // Writing the note by compare and swap proves that the discovery is fresh; where there is nothing to write, it is read.
    let (told, written, seed) = shared
        .store
        .update(cached.clone(), |current| {
            let present = current.status.as_ref().and_then(|s| s.session.as_ref());
            if present.is_none_or(|s| s.id != session) {
                return Err(Refusal::gone());
            }
            let told = decide(shared, current, fresh.as_ref(), session);
            let Some(accept) = &told.accept else {
                return Ok(Change::Keep((told, false, None)));
            };
            let seed = wanted_seed(shared, caller, asked, &told.order, &hardware_name);
            let mut new = current.clone();
            let status = new.status.get_or_insert_default();
            status.accepted_order = Some(AcceptedOrder {
                seed_served: seed.is_some(),
                ..accept.clone()
            });
            status.progress = None;
            Ok(Change::Write(Box::new(new), (told, true, seed)))
        })
        .await?;
    if !told.order.kind.is_destructive() || (written && begun.elapsed() < STILL_FRESH) {
        return Ok(Some(HandedOut { told, seed }));
    }
    let discovery = if written {
        shared.cache.discovery(&caller.name)
    } else {
        Some(Arc::new(shared.store.discovery(&caller.name).await?))
    };
    let Some(discovery) = discovery else { return Ok(None) };
    let again = shared.store.hardware(&hardware_name).await?;
    let confirmed = decide(shared, &discovery, again.as_ref(), session);
    let same = confirmed.order == told.order && confirmed.accept.is_none();
    Ok(same.then_some(HandedOut { told: confirmed, seed }))
}

/// The seed that can go with an order.
fn wanted_seed(shared: &Shared, caller: &Caller, asked: Asked<'_>, order: &Order, hardware: &str) -> Option<Arc<SealedSeed>> {
    let seeded = asked.seed && order.image.as_ref().is_some_and(|i| i.config_drive);
    let known = || shared.seeds.get(hardware, &order.id, &caller.session.thumbprint);
    seeded.then(known).flatten()
}
