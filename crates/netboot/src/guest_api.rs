//! The guest helper's side of the server (TLS). It registers once per system with the token from its config drive, then waits to be told to bring the
//! machine back. What it is told is decided by `lifecycle` and signed by the guest-order key.

use std::{sync::Arc, time::Instant};

use agent_protocol::{
    guest::{GuestAction, GuestOrder, GuestRegistration},
    limits,
    session::ErrorCode,
    token::GuestClaims,
};
use api::discovery::GuestReport;
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Request, StatusCode, request::Parts};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::boot_order;
use tokio::time::timeout_at;

use crate::{
    agent_api::auth::{Signed, content_length},
    boot,
    metrics::Route,
    objects::store::Change,
    reply::{Refusal, Reply},
    server::Peer,
    state::Shared,
};

/// `POST /guest/v1/register`.
pub(crate) async fn register(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let response = match redeem(&shared, peer, request).await {
        Ok(()) => (StatusCode::OK, [(http::header::CONTENT_TYPE, "application/json")], "{}").into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::GuestRegister, response.status());
    response
}

async fn redeem(shared: &Shared, peer: Peer, request: Request<Body>) -> Reply<()> {
    if let Err(wait) = shared.sessions.take(peer.address, Instant::now()) {
        shared.metrics.rate_limited.inc();
        return Err(Refusal::overloaded("too many registrations from this address", wait));
    }
    let (parts, body) = request.into_parts();
    let signed = Signed::read(&parts.headers)?;
    let body = crate::body::read(body, content_length(&parts.headers), shared.config.quotas.body_timeout).await?;
    let registration: GuestRegistration = limits::parse(&body)?;
    signed.verify(&registration.signing_key, &parts, &body)?;
    let keys = shared.keys().ok_or_else(Refusal::unavailable)?;
    let claims = keys.check_guest(&registration.token)?;
    // The session header of a guest is its instance's uid, or nothing while it is being opened.
    if !signed.session.is_empty() && signed.session != claims.instance_uid {
        return Err(Refusal::signature());
    }
    if !shared.is_ready() || !shared.store.is_reachable() {
        return Err(Refusal::unavailable());
    }
    let cached = shared.cache.hardware(&claims.hardware);
    // An instance that was moved to another API or restored has another uid now; its system keeps the token of the one that it was installed under.
    let claimed = |h: &api::BareMetalHardware| {
        let claim = h.spec.claim_ref.as_ref();
        claim.is_some_and(|c| lifecycle::view::Uids::of(c).has(&claims.instance_uid))
    };
    let hardware = match cached {
        Some(hardware) if claimed(&hardware) => hardware,
        // The cache may be behind; a token of ours is worth one read.
        _ => match shared.store.hardware(&claims.hardware).await? {
            Some(hardware) if claimed(&hardware) => Arc::new(hardware),
            _ => return Err(Refusal::token()),
        },
    };
    let name = &hardware.spec.discovery_name;
    let discovery = match shared.cache.discovery(name) {
        Some(discovery) => discovery,
        None => Arc::new(shared.store.discovery(name).await?),
    };
    shared
        .store
        .update(discovery, |current| {
            let stored = current.status.as_ref().and_then(|s| s.guest.as_ref());
            match judge(stored, &claims, &registration) {
                Registration::Unchanged => return Ok(Change::Keep(())),
                Registration::OtherKey => return Err(Refusal::token()),
                Registration::Write => {}
            }
            let mut new = current.clone();
            let status = new.status.get_or_insert_default();
            let now = Time(Timestamp::now());
            let came_instead = boot_order::came_instead(status, registration.told_to_leave.as_deref(), &registration.boot_id);
            let times_instead = boot_order::times_instead(status, came_instead, &registration.boot_id);
            let running = registration
                .uptime_seconds
                .and_then(|s| i64::try_from(s).ok())
                .map(SignedDuration::from_secs);
            boot::remember_system(status, &claims.instance_uid, now.clone());
            status.guest = Some(GuestReport {
                instance_uid: claims.instance_uid.clone(),
                nonce: claims.nonce.clone(),
                signing_key: registration.signing_key.clone(),
                hostname: registration.hostname.clone(),
                addresses: registration.addresses.clone(),
                boot_id: registration.boot_id.clone(),
                booted_at: running.and_then(|running| now.0.checked_sub(running).ok()).map(Time),
                registered_at: now,
                came_instead,
                times_instead,
            });
            Ok(Change::Write(Box::new(new), ()))
        })
        .await?;
    // The system runs: whatever agent session there was is over, and its silence is no loss.
    shared.presence.leaves(name);
    tracing::info!(discovery = %name, instance = %claims.instance_uid, address = %peer.address, "guest registered");
    Ok(())
}

enum Registration {
    Write,
    Unchanged,
    OtherKey,
}

/// A token is good for one key. The same key may register again at each boot.
fn judge(stored: Option<&GuestReport>, claims: &GuestClaims, registration: &GuestRegistration) -> Registration {
    let Some(stored) = stored.filter(|s| s.nonce == claims.nonce) else {
        return Registration::Write;
    };
    if stored.signing_key != registration.signing_key {
        Registration::OtherKey
    } else if stored.boot_id == registration.boot_id
        && stored.hostname == registration.hostname
        && stored.addresses == registration.addresses
    {
        Registration::Unchanged
    } else {
        Registration::Write
    }
}

/// `GET /guest/v1/order?boot=<boot id>`.
pub(crate) async fn order(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let response = match wait_for_order(&shared, peer, &parts, body).await {
        Ok(order) => Json(order).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::GuestOrder, response.status());
    response
}

async fn wait_for_order(shared: &Arc<Shared>, peer: Peer, parts: &Parts, body: Body) -> Reply<GuestOrder> {
    let signed = Signed::read(&parts.headers)?;
    let body = crate::body::read(body, content_length(&parts.headers), shared.config.quotas.body_timeout).await?;
    let keys = shared.keys().ok_or_else(Refusal::unavailable)?;
    // A guest that registered at another replica a moment ago is not in the cache yet; it asks again.
    let discovery = shared.cache.guest(&signed.session).ok_or_else(Refusal::signature)?;
    let guest = discovery
        .status
        .as_ref()
        .and_then(|s| s.guest.clone())
        .ok_or_else(Refusal::signature)?;
    signed.verify(&guest.signing_key, parts, &body)?;
    let name = discovery.metadata.name.clone().unwrap_or_default();
    // Sequences of guests are counted beside those of agents: a slash cannot stand in a discovery's name.
    let guest_presence = format!("{name}/guest");
    if shared
        .presence
        .heard(&guest_presence, &guest.instance_uid, peer.address, signed.sequence, Instant::now())
        .is_none()
    {
        return Err(Refusal::signature());
    }
    // A guest that is silent is not a lost agent.
    shared.presence.leaves(&guest_presence);
    let boot = boot_parameter(parts.uri.query()).ok_or_else(|| Refusal::new(ErrorCode::Malformed, "boot: give the boot id"))?;
    let deadline = tokio::time::Instant::now() + shared.config.poll;
    let waiter = shared.wakes.wait_for(&name);
    loop {
        let news = waiter.next();
        let hardware = shared.cache.hardware_of(&name);
        let action = lifecycle::agent::guest_action(
            hardware.as_deref(),
            shared.cache.discovery(&name).as_deref(),
            &guest.instance_uid,
            Timestamp::now(),
        );
        let done = action != GuestAction::Wait || timeout_at(deadline, news).await.is_err();
        if done {
            return Ok(GuestOrder::sign(keys.guest(), &guest.instance_uid, action, boot));
        }
    }
}

fn boot_parameter(query: Option<&str>) -> Option<&str> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
    query?
        .split('&')
        .find_map(|pair| pair.strip_prefix("boot="))
        .filter(|boot| !boot.is_empty() && boot.len() <= 64 && boot.as_bytes().iter().all(plain))
}
