//! `POST /agent/v1/sessions`: a machine introduces itself.
//!
//! In this order: rate limit, size, shape, protocol version, signature by the key in the body, token, agreement of token and inventory; only then
//! whose machine it is. The token of a boot medium says that ([`boot::medium`]): an inventory that is another known machine's is refused. A new machine is created (within quotas), under the name that somebody
//! wrote down for it where its BMC told of it; a known one gets a new session by compare and swap; a conflict is written down for a
//! person and makes no object.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use agent_protocol::{
    identity::SystemUuid,
    limits,
    session::{ErrorCode, SessionRequest, SessionResponse, decode, thumbprint},
    token::{BootClaims, MediumClaims, TokenError},
};
use api::{
    BareMetalDiscovery, BareMetalDiscoverySpec, BareMetalDiscoveryStatus, conditions,
    discovery::{AgentSession, IdentityProof},
    timeline::BootStepKind,
};
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use lifecycle::{
    address::Prefix,
    identity::{Identity, Match, discovery_name},
};

use super::{
    auth::{Signed, content_length},
    redeem::{self, Redemption},
};
use crate::{
    boot,
    metrics::Route,
    objects::store::Change,
    reply::{Refusal, Reply},
    server::Peer,
    state::{Creating, LIVE_WINDOW, Shared, planted},
    timeline::{Mine, Moment, Seen, write::unfinished_name},
};

/// Names that are tried for a new machine when others have taken the first ones.
const SALTS: u32 = 8;

/// A request whose form, signature and token are good.
struct Introduction {
    request: SessionRequest,
    claims: BootClaims,
    /// Where it booted from a medium: for which hardware that was made.
    medium: Option<MediumClaims>,
    thumbprint: String,
    source: IpAddr,
    /// What was seen of this boot: written together with the session.
    timeline: Option<Mine>,
    /// Why the agent did not come the way that is meant for it.
    network_problem: Option<String>,
}

/// The handler.
pub(crate) async fn open(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let response = match respond(&shared, peer, request).await {
        Ok(session) => Json(session).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::Session, response.status());
    response
}

async fn respond(shared: &Shared, peer: Peer, request: Request<Body>) -> Reply<SessionResponse> {
    if let Err(wait) = shared.sessions.take(peer.address, Instant::now()) {
        shared.metrics.rate_limited.inc();
        return Err(Refusal::overloaded("too many sessions are asked for from this address", wait));
    }
    let mut introduction = read(shared, peer, request).await?;
    let (mac, moment) = (introduction.request.boot_mac, Moment::now());
    let step = Seen::new(BootStepKind::Session, format!("agent {}", introduction.request.agent_version));
    shared.timelines.seen(mac, introduction.claims.uuid, &step, moment);
    shared.timelines.learn(mac, peer.address, false, moment);
    introduction.timeline = shared.timelines.mine(mac);
    if !shared.is_ready() || !shared.store.is_reachable() {
        return Err(Refusal::unavailable());
    }
    let identity = Identity::of(&introduction.request.inventory, Some(introduction.request.boot_mac));
    let matched = shared.cache.match_inventory(&identity);
    let known_as = match &matched {
        Match::Known(name) => Some(name.clone()),
        Match::New if introduction.medium.is_none() => told_of(shared, &introduction),
        Match::New | Match::Unclear { .. } => None,
    };
    introduction.network_problem = network_problem(shared, &introduction, known_as.as_deref());
    let discovery = match matched {
        matched if introduction.medium.is_some() => by_medium(shared, &introduction, matched).await?,
        Match::Known(name) => known(shared, &introduction, &name).await?,
        Match::Unclear { names, message } => return Err(conflict(shared, &names, &message).await),
        Match::New => match known_as {
            Some(name) => under(shared, &introduction, &name).await?,
            None => new(shared, &introduction, &identity).await?,
        },
    };
    let (name, session) = discovery;
    if let Some(timeline) = &introduction.timeline {
        shared.timelines.written(timeline);
    }
    shared
        .presence
        .opened(&name, &session, Some(crate::limits::source_of(introduction.source)), Instant::now());
    // The old session's poll learns that it is over.
    shared.wakes.wake(&name);
    tracing::info!(discovery = %name, address = %introduction.source, mac = %introduction.request.boot_mac, "session");
    Ok(SessionResponse {
        hardware: shared.cache.hardware_of(&name).map(|h| h.name_any()),
        session,
        discovery: name,
        protocol: introduction.request.protocol,
        poll_seconds: u32::try_from(shared.config.poll.as_secs().max(1)).unwrap_or(u32::MAX),
    })
}

fn network_problem(shared: &Shared, introduction: &Introduction, known: Option<&str>) -> Option<String> {
    let told = boot::told(shared, known, introduction.claims.address.to_canonical());
    let missing = told.missing.map(|name| {
        format!("bootNetwork.networkName names the BareMetalNetwork {name}, which does not exist: create it, or correct the name")
    });
    let connection = introduction.request.inventory.connection.as_ref();
    missing.or_else(|| connection.and_then(|c| c.problem.clone()))
}

async fn read(shared: &Shared, peer: Peer, request: Request<Body>) -> Reply<Introduction> {
    let (parts, body) = request.into_parts();
    let signed = Signed::read(&parts.headers)?;
    if !signed.session.is_empty() {
        return Err(Refusal::signature());
    }
    let body = crate::body::read(body, content_length(&parts.headers), shared.config.quotas.body_timeout).await?;
    let request: SessionRequest = limits::parse(&body)?;
    if !agent_protocol::is_supported(request.protocol) {
        return Err(Refusal::new(
            ErrorCode::UnsupportedProtocol,
            format!(
                "this server speaks protocol {} to {}: boot the agent it serves",
                agent_protocol::OLDEST_PROTOCOL_VERSION,
                agent_protocol::PROTOCOL_VERSION
            ),
        ));
    }
    signed.verify(&request.signing_key, &parts, &body)?;
    if decode::<32>(&request.sealing_key).is_none() {
        return Err(Refusal::new(ErrorCode::Malformed, "sealingKey: must be base64 of 32 bytes"));
    }
    let keys = shared.keys().ok_or_else(Refusal::unavailable)?;
    let life = i64::try_from(shared.config.token_life.as_millis()).unwrap_or(i64::MAX);
    let (claims, medium) = match keys.check_boot(&request.token, Timestamp::now().as_millisecond(), life) {
        Err(TokenError::Forged) => {
            let medium = keys.check_medium(&request.token)?;
            (medium.boot.clone(), Some(medium))
        }
        checked => (checked?, None),
    };
    let prefixes = || claims.elsewhere.iter().filter_map(|prefix| Prefix::parse(prefix));
    // Firmware, loader and agent of a machine have different IPv6 addresses (other DUIDs, or made by themselves), all of one link.
    let same_source = crate::limits::source_of(claims.address) == crate::limits::source_of(peer.address);
    let from_there = same_source || prefixes().any(|prefix| prefix.contains(peer.address));
    if !from_there || claims.mac != request.boot_mac {
        return Err(Refusal::token());
    }
    let nics = &request.inventory.nics;
    if !nics.is_empty() && nics.iter().all(|n| n.mac != request.boot_mac) {
        return Err(Refusal::token());
    }
    let same = |a: &SystemUuid, b: &SystemUuid| a.same_machine(b);
    if let (Some(said), Some(found)) = (&claims.uuid, &request.inventory.system.uuid)
        && !same(said, found)
    {
        return Err(Refusal::token());
    }
    Ok(Introduction {
        thumbprint: thumbprint(&request.signing_key, &request.sealing_key),
        request,
        claims,
        medium,
        source: peer.address,
        timeline: None,
        network_problem: None,
    })
}

impl Introduction {
    fn session(&self, id: String, replica: &str, now: Time) -> AgentSession {
        AgentSession {
            id,
            nonce: self.claims.nonce.clone(),
            token_issued_at: self.claims.issued_at,
            thumbprint: self.thumbprint.clone(),
            signing_key: self.request.signing_key.clone(),
            sealing_key: self.request.sealing_key.clone(),
            boot_mac: self.request.boot_mac,
            uuid: self.claims.uuid,
            address: self.source.to_string(),
            replica: replica.to_owned(),
            opened_at: now,
            agent_version: self.request.agent_version.clone(),
            // UUID and MAC were said, not proven.
            proof: IdentityProof::Asserted,
        }
    }

    /// Puts the session and what came with it into a status.
    fn apply(&self, status: &mut BareMetalDiscoveryStatus, id: String, replica: &str) {
        let now = Time(Timestamp::now());
        status.inventory = Some(self.request.inventory.clone());
        status.session = Some(self.session(id, replica, now.clone()));
        status.progress = None;
        status.last_boot = Some(now.clone());
        boot::remember_agent(&mut status.boots, now.clone());
        if let Some(timeline) = &self.timeline {
            timeline.merge_into(status);
        }
        conditions::set(
            &mut status.conditions,
            conditions::AGENT_CONNECTED,
            true,
            "SessionOpened",
            "The agent opened a session",
            None,
            &now,
        );
        let connection = self.request.inventory.connection.as_ref();
        let kind = conditions::AGENT_NETWORK;
        match (&self.network_problem, connection) {
            (Some(problem), _) => conditions::set(&mut status.conditions, kind, false, "NotAsTold", problem, None, &now),
            (None, Some(connection)) => {
                let message = format!("The agent came by {} with an MTU of {}", connection.interface, connection.mtu);
                conditions::set(&mut status.conditions, kind, true, "AsTold", &message, None, &now);
            }
            (None, None) => conditions::clear(&mut status.conditions, kind),
        }
        if conditions::is_true(&status.conditions, conditions::SESSION_REFUSED) {
            conditions::set(
                &mut status.conditions,
                conditions::SESSION_REFUSED,
                false,
                "SessionOpened",
                "A newer boot of the machine opened a session",
                None,
                &now,
            );
        }
    }
}

fn session_id(shared: &Shared, name: &str) -> Reply<String> {
    let keys = shared.keys().ok_or_else(Refusal::unavailable)?;
    keys.new_session(name)
        .ok_or_else(|| Refusal::new(ErrorCode::Internal, "the server has no randomness"))
}

/// Under which name somebody wrote a machine down that was never seen, by what its BMC told of it.
fn told_of(shared: &Shared, introduction: &Introduction) -> Option<String> {
    let request = &introduction.request;
    let name = shared
        .cache
        .expected(&Identity::as_bmc_knows(&request.inventory, Some(request.boot_mac)))?;
    tracing::info!(discovery = %name, mac = %request.boot_mac, "a machine that its BMC told of comes for the first time");
    Some(name)
}

/// A machine that was never seen, under a name that somebody wrote down for it. Quotas are for strangers.
async fn under(shared: &Shared, introduction: &Introduction, name: &str) -> Reply<(String, String)> {
    match create_under(shared, introduction, name).await? {
        Some(opened) => Ok(opened),
        // Somebody else came under this name a moment ago; now it is known which machine that is.
        None => Err(Refusal::unavailable()),
    }
}

/// Registers a machine under a name; a discovery of that name that has no inventory, or one that this boot has made by way of another replica, is its own. None: it is another machine's.
async fn create_under(shared: &Shared, introduction: &Introduction, name: &str) -> Reply<Option<(String, String)>> {
    let id = session_id(shared, name)?;
    let mut discovery = BareMetalDiscovery::new(name, BareMetalDiscoverySpec {});
    introduction.apply(discovery.status.get_or_insert_default(), id.clone(), &shared.config.replica);
    match shared.store.create_discovery(&discovery).await {
        Ok(_) => Ok(Some((name.to_owned(), id))),
        Err(error) if error.is_conflict() => {
            let found = shared.store.discovery(name).await?;
            let session = found.status.as_ref().and_then(|s| s.session.as_ref());
            let same_boot = session.is_some_and(|s| s.nonce == introduction.claims.nonce);
            if Identity::of_discovery(&found).is_none() || same_boot {
                known(shared, introduction, name).await.map(Some)
            } else {
                Ok(None)
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// A machine that booted from a medium. Quotas are for strangers, and somebody wrote this one down.
async fn by_medium(shared: &Shared, introduction: &Introduction, matched: Match) -> Reply<(String, String)> {
    let Some(medium) = &introduction.medium else {
        return Err(Refusal::token());
    };
    let name = boot::medium::judge(shared, introduction.source, medium).await?;
    let other = |found: Option<&str>| boot::medium::other_machine(&medium.hardware, &name, found);
    match matched {
        Match::Known(found) if found != name => return Err(other(Some(&found))),
        Match::Known(_) => return known(shared, introduction, &name).await,
        Match::Unclear { names, message } => return Err(conflict(shared, &names, &message).await),
        Match::New => {}
    }
    create_under(shared, introduction, &name).await?.ok_or_else(|| other(None))
}

/// A new machine, within quotas.
async fn new(shared: &Shared, introduction: &Introduction, identity: &Identity) -> Reply<(String, String)> {
    // Its earlier boots stopped before the agent, and have an object already.
    let unfinished = unfinished_name(introduction.request.boot_mac);
    if shared
        .cache
        .discovery(&unfinished)
        .is_some_and(|d| Identity::of_discovery(&d).is_none())
    {
        return known(shared, introduction, &unfinished).await;
    }
    if let Err(wait) = shared.creations.take(introduction.source, Instant::now()) {
        shared.metrics.rate_limited.inc();
        return Err(Refusal::overloaded("too many unknown machines from this address", wait));
    }
    let place = Creating::new(shared).ok_or_else(|| {
        Refusal::overloaded(
            "too many machines wait to be accepted: accept some, or delete their BareMetalDiscovery objects",
            Duration::from_secs(30),
        )
    })?;
    for salt in 0..SALTS {
        let name = discovery_name(identity, salt);
        let id = session_id(shared, &name)?;
        let mut discovery = BareMetalDiscovery::new(&name, BareMetalDiscoverySpec {});
        introduction.apply(discovery.status.get_or_insert_default(), id.clone(), &shared.config.replica);
        match shared.store.create_discovery(&discovery).await {
            Ok(_) => return Ok((name, id)),
            Err(error) if error.is_conflict() => {
                // Somebody has the name: this very machine by way of another replica or a moment ago, or another machine.
                match shared.store.discovery(&name).await {
                    // A restored object without a status, which nothing but its name tells whose it is: the name is made of this machine's marks.
                    Ok(found) if salt == 0 && Identity::of_discovery(&found).is_none() => {
                        drop(place);
                        return known(shared, introduction, &name).await;
                    }
                    Ok(_) => {}
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error.into()),
                }
                match shared.cache.match_inventory(identity) {
                    Match::Known(name) => {
                        drop(place);
                        return known(shared, introduction, &name).await;
                    }
                    Match::Unclear { names, message } => return Err(conflict(shared, &names, &message).await),
                    Match::New => {}
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::unavailable())
}

/// A new session of a known machine.
async fn known(shared: &Shared, introduction: &Introduction, name: &str) -> Reply<(String, String)> {
    let Some(discovery) = shared.cache.discovery(name) else {
        return Err(Refusal::unavailable());
    };
    let id = session_id(shared, name)?;
    let reuse = planted!(shared, token_reuse);
    let opened = shared
        .store
        .update(discovery, |current| {
            let stored = current.status.as_ref().and_then(|s| s.session.as_ref());
            match redeem::judge(stored, &introduction.claims, &introduction.thumbprint) {
                Redemption::Repeat(session) => return Ok(Change::Keep(session)),
                Redemption::OtherKey | Redemption::Old if reuse => {}
                Redemption::OtherKey => return Err(Refusal::token()),
                Redemption::Old => return Err(Refusal::token()),
                Redemption::Fresh => {}
            }
            if shared
                .presence
                .is_live_elsewhere(name, introduction.source, LIVE_WINDOW, Instant::now())
            {
                return Err(Refusal::new(
                    ErrorCode::Forbidden,
                    "this machine has a live session at another address: if the machine was rebooted with a new address, ask again in half a minute",
                ));
            }
            let mut new = current.clone();
            introduction.apply(new.status.get_or_insert_default(), id.clone(), &shared.config.replica);
            Ok(Change::Write(Box::new(new), id.clone()))
        })
        .await;
    match opened {
        Ok(id) => Ok((name.to_owned(), id)),
        Err(refusal) => {
            if matches!(refusal.code(), ErrorCode::TokenRefused | ErrorCode::Forbidden) {
                refused(shared, name, introduction.source).await;
            }
            Err(refusal)
        }
    }
}

/// Writes down that a session was refused: once, until a good one was opened. Never more than one write for any number of attempts.
async fn refused(shared: &Shared, name: &str, source: IpAddr) {
    let message = format!("A session from {source} with a used or old token, or beside a live session, was refused");
    note(shared, name, conditions::SESSION_REFUSED, "TokenRedeemedBefore", &message).await;
}

/// Writes a condition down on every machine that is concerned.
async fn conflict(shared: &Shared, names: &[String], message: &str) -> Refusal {
    for name in names.iter().take(4) {
        note(
            shared,
            name,
            conditions::IDENTITY_CONFLICT,
            "MarksContradict",
            &limits::clip(message, 1024),
        )
        .await;
    }
    Refusal::new(
        ErrorCode::IdentityConflict,
        "this machine cannot be told from another one that is known: a person has to decide; boot the own disk",
    )
}

async fn note(shared: &Shared, name: &str, kind: &'static str, reason: &str, message: &str) {
    let Some(discovery) = shared.cache.discovery(name) else { return };
    let written = shared
        .store
        .update(discovery, |current| {
            let mut new = current.clone();
            let status = new.status.get_or_insert_default();
            if conditions::is_true(&status.conditions, kind) {
                return Ok(Change::Keep(()));
            }
            conditions::set(&mut status.conditions, kind, true, reason, message, None, &Time(Timestamp::now()));
            Ok(Change::Write(Box::new(new), ()))
        })
        .await;
    if let Err(refusal) = written {
        tracing::warn!(discovery = name, condition = kind, ?refusal, "a condition could not be written");
    }
}
