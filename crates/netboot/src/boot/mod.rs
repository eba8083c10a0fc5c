//! What a machine that boots is given, over plain HTTP: an iPXE script or a GRUB configuration, then kernel and initramfs ([`media`]); or all of it on a medium ([`medium`]).
//!
//! `GET /boot/ipxe` and `GET /boot/grub` without parameters answer a script that asks again with what only the machine knows. With parameters they are parsed
//! into types, the machine is matched against the cache, and `lifecycle` decides: agent or own disk. Nothing that a machine or a person
//! wrote reaches a script except as such a type; how, is the crate `boot-script`'s.
//!
//! An unknown machine causes no object here; that happens when its agent opens a session, or when its boot stopped before that ([`crate::timeline`]). A script holds no secret but the boot token,
//! and that is good only from the address it was given to.

pub(crate) mod media;
pub(crate) mod medium;

use std::{net::IpAddr, sync::Arc, time::Instant};

use agent_protocol::{architecture::Architecture, token::BootClaims};
use api::{
    BareMetalDiscoveryStatus,
    discovery::{BootAnswer, BootRecord},
    timeline::BootStepKind,
};
use axum::{
    Extension,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use boot_script::{Loader, command_line::AgentBoot, host::Host, query::BootRequest};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use lifecycle::{
    boot::{BootDecision, BootFacts, NO_BOOT_MEDIA},
    boot_network::{self, Told},
    identity::Match,
};

use crate::{
    metrics::Route,
    objects::store::Change,
    reply::{Refusal, Reply},
    server::{LastAnswer, Peer},
    state::Shared,
    timeline::{Moment, Seen},
};

/// Boots that are remembered per machine.
const MAX_BOOTS: usize = 8;

/// What the boot timeline says of the first question.
fn first_step(loader: Loader) -> &'static str {
    match loader {
        Loader::Ipxe => "iPXE fetched the first script",
        Loader::Grub => "GRUB fetched the first configuration",
    }
}

/// `GET /boot/ipxe`.
pub(crate) async fn ipxe(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    respond(Loader::Ipxe, &shared, &peer, query.as_deref(), &headers).await
}

/// `GET /boot/grub`, and `GET /grub/grub.cfg`, where a GRUB that came over HTTP looks first.
pub(crate) async fn grub(
    State(shared): State<Arc<Shared>>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut response = respond(Loader::Grub, &shared, &peer, query.as_deref(), &headers).await;
    response.extensions_mut().insert(LastAnswer);
    response
}

async fn respond(loader: Loader, shared: &Shared, peer: &Peer, query: Option<&str>, headers: &HeaderMap) -> Response {
    if let Err(wait) = shared.boots.take(peer.address, Instant::now()) {
        shared.metrics.rate_limited.inc();
        shared.metrics.count(Route::Boot, StatusCode::SERVICE_UNAVAILABLE);
        return Refusal::overloaded("too many boot requests from this address", wait).into_response();
    }
    let script = match query {
        None | Some("") => {
            let seen = Seen::new(BootStepKind::Loader, first_step(loader));
            shared.timelines.seen_from(peer.address, seen, Moment::now());
            loader.ask()
        }
        Some(query) => match BootRequest::parse(query) {
            Ok(request) => answer(loader, shared, peer, &request, headers).await,
            Err(error) => {
                tracing::debug!(address = %peer.address, %error, "a boot request is malformed; answered with the local disk");
                loader.local_disk(None)
            }
        },
    };
    shared.metrics.count(Route::Boot, StatusCode::OK);
    let mut response = script.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=us-ascii"));
    // A token must not come out of anybody's cache.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn answer(loader: Loader, shared: &Shared, peer: &Peer, request: &BootRequest, headers: &HeaderMap) -> String {
    let local = || loader.local_disk(Some(request));
    let began = Instant::now();
    let decided = decide(shared, peer, request, began).await;
    let decision = match decided {
        Ok(Some(decision)) => decision,
        // Nothing is known, or the API does not answer: the machine's own disk.
        Ok(None) | Err(_) => {
            note(
                shared,
                peer,
                request,
                began,
                BootAnswer::LocalDisk,
                "nothing is known here at the moment",
            );
            return local();
        }
    };
    tracing::info!(mac = %request.mac, address = %peer.address, ?loader, answer = ?decision.answer, reason = decision.reason, "boot");
    match decision.answer {
        BootAnswer::LocalDisk => {
            if decision.reason == NO_BOOT_MEDIA {
                warn_of_missing_media(shared, request);
            }
            local()
        }
        BootAnswer::Agent => agent(loader, shared, peer, request, headers).unwrap_or_else(local),
    }
}

/// The machine is to come to the agent and cannot: somebody has to do something.
fn warn_of_missing_media(shared: &Shared, request: &BootRequest) {
    match (request.architecture(), &shared.config.media_dir) {
        (Some(architecture), Some(folder)) => tracing::warn!(
            mac = %request.mac, %architecture,
            "there are no boot media for this machine, which boots its own disk instead of the agent: `kube-baremetal bootmedia build --architecture {architecture}` puts them into {}; then start the machine again",
            folder.join(architecture.name()).display()
        ),
        _ => tracing::warn!(
            mac = %request.mac, buildarch = request.buildarch.as_str(),
            "boot media are built for amd64 and arm64 only, and this machine said that it is neither: it boots its own disk instead of the agent"
        ),
    }
}

/// Into the boot's timeline.
fn note(shared: &Shared, peer: &Peer, request: &BootRequest, began: Instant, answer: BootAnswer, reason: &str) {
    let missing = reason == NO_BOOT_MEDIA;
    let architecture = request.architecture().map_or(request.buildarch.as_str(), Architecture::name);
    let detail = match missing {
        true => format!("{answer:?}: {reason} for {architecture}"),
        false => format!("{answer:?}: {reason}"),
    };
    let mut seen = Seen::new(BootStepKind::Script, detail);
    seen.took = began.elapsed();
    // Without media it did not come where it should, and that is written down.
    seen.ends = answer == BootAnswer::LocalDisk && !missing;
    let moment = Moment::now();
    shared.timelines.seen(request.mac, request.uuid, &seen, moment);
    shared.timelines.learn(request.mac, peer.address, false, moment);
}

/// `None` while this replica knows too little to send a machine anywhere but to its own disk.
async fn decide(shared: &Shared, peer: &Peer, request: &BootRequest, began: Instant) -> Reply<Option<BootDecision>> {
    if !shared.is_ready() || !shared.store.is_reachable() {
        return Ok(None);
    }
    let matched = shared.cache.match_boot(request.uuid, request.mac);
    let conflict_known = match &matched {
        Match::Unclear { names, .. } => shared.cache.conflict_known(names),
        Match::New | Match::Known(_) => false,
    };
    let discovery = match &matched {
        Match::Known(name) => shared.cache.discovery(name),
        Match::New | Match::Unclear { .. } => None,
    };
    let hardware = match &matched {
        Match::Known(name) => shared.cache.hardware_of(name),
        Match::New | Match::Unclear { .. } => None,
    };
    let has_media = shared.media.has(request.architecture()).await;
    let judge = |discovery: Option<&api::BareMetalDiscovery>| {
        lifecycle::boot::decide(&BootFacts {
            matched: &matched,
            discovery,
            hardware: hardware.as_deref(),
            conflict_known,
            has_media,
            config: &shared.config.decisions,
            now: Timestamp::now(),
        })
    };
    let decision = judge(discovery.as_deref());
    note(shared, peer, request, began, decision.answer, decision.reason);
    let (true, Some(discovery)) = (decision.record, discovery) else {
        return Ok(Some(decision));
    };
    let timeline = shared.timelines.mine(request.mac);
    // Evidence is stored before the answer is given.
    let decision = shared
        .store
        .update(discovery, |current| {
            let decision = judge(Some(current));
            if !decision.record {
                return Ok(Change::Keep(decision));
            }
            let mut new = current.clone();
            let status = new.status.get_or_insert_default();
            let now = Time(Timestamp::now());
            let time = match decision.answer {
                BootAnswer::LocalDisk => later_than_session(status, now.clone()),
                BootAnswer::Agent => now.clone(),
            };
            remember(&mut status.boots, &decision, time);
            status.last_boot = Some(now);
            if let Some(timeline) = &timeline {
                timeline.merge_into(status);
            }
            Ok(Change::Write(Box::new(new), decision))
        })
        .await?;
    if let Some(timeline) = timeline.filter(|_| decision.record) {
        shared.timelines.written(&timeline);
    }
    Ok(Some(decision))
}

fn remember(boots: &mut Vec<BootRecord>, decision: &BootDecision, time: Time) {
    boots.push(BootRecord {
        time,
        answer: decision.answer,
        reason: decision.reason.to_owned(),
        instance_uid: decision.instance_uid.clone(),
    });
    if boots.len() > MAX_BOOTS {
        boots.drain(..boots.len() - MAX_BOOTS);
    }
}

/// The record of a boot into the agent: written together with the session.
pub(crate) fn remember_agent(boots: &mut Vec<BootRecord>, time: Time) {
    remember(
        boots,
        &BootDecision {
            answer: BootAnswer::Agent,
            reason: "SessionOpened",
            instance_uid: String::new(),
            record: true,
        },
        time,
    );
}

/// Stored times have whole seconds, and only a boot into the disk that is later than the session says that the session is over.
fn later_than_session(status: &BareMetalDiscoveryStatus, time: Time) -> Time {
    let since = status.session.as_ref().map(|s| s.opened_at.0);
    let after = since.and_then(|s| s.checked_add(jiff::SignedDuration::from_secs(1)).ok());
    Time(after.map_or(time.0, |after| time.0.max(after)))
}

/// The record that an installed system runs which no boot answer led to: firmware went there by itself. Written together with what the system reports.
pub(crate) fn remember_system(status: &mut BareMetalDiscoveryStatus, instance_uid: &str, time: Time) {
    let since = status.session.as_ref().map(|s| s.opened_at.0);
    let time = later_than_session(status, time);
    let known = status
        .boots
        .iter()
        .any(|b| b.answer == BootAnswer::LocalDisk && since.is_none_or(|since| b.time.0 > since));
    if !known {
        remember(
            &mut status.boots,
            &BootDecision {
                answer: BootAnswer::LocalDisk,
                reason: "SystemReported",
                instance_uid: instance_uid.to_owned(),
                record: true,
            },
            time,
        );
    }
}

/// What an agent is told of its network, on a machine whose firmware booted from this address.
pub(crate) fn told(shared: &Shared, discovery: Option<&str>, address: IpAddr) -> Told {
    let hardware = discovery.and_then(|name| shared.cache.hardware_of(name));
    let booted_from = shared.networks.containing(address);
    boot_network::told(hardware.as_deref(), booted_from.as_deref(), |name| shared.networks.named(name))
}

fn agent(loader: Loader, shared: &Shared, peer: &Peer, request: &BootRequest, headers: &HeaderMap) -> Option<String> {
    let keys = shared.keys()?;
    let architecture = request.architecture()?;
    let known = match shared.cache.match_boot(request.uuid, request.mac) {
        Match::Known(name) => Some(name),
        Match::New | Match::Unclear { .. } => None,
    };
    let told = told(shared, known.as_deref(), peer.address);
    let claims = BootClaims {
        uuid: request.uuid,
        mac: request.mac,
        address: peer.address,
        elsewhere: told.elsewhere,
        nonce: nonce()?,
        issued_at: issue_time(shared, known.as_deref()),
    };
    let host = host(shared, peer, headers)?;
    Some(loader.agent(&AgentBoot {
        host: &host,
        tls_port: shared.config.advertise_tls_port.unwrap_or(shared.tls_port),
        advertise: &shared.config.advertise,
        servers: &shared.config.servers,
        pin: keys.pin(),
        token: &keys.issue_boot(&claims),
        request,
        architecture,
        link: &told.link,
        arguments: &shared.config.kernel_arguments,
    }))
}

/// A new token must be newer than the one the machine redeemed last, also when the clock was set back a little or another replica's is ahead.
fn issue_time(shared: &Shared, known: Option<&str>) -> i64 {
    let now = Timestamp::now().as_millisecond();
    let last = known
        .and_then(|name| shared.cache.discovery(name))
        .and_then(|d| Some(d.status.as_ref()?.session.as_ref()?.token_issued_at));
    match last {
        Some(last) if last >= now && last - now < 30_000 => last + 1,
        _ => now,
    }
}

pub(crate) fn nonce() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex::encode(bytes))
}

/// Where the machine reaches us: as it said in its `Host` header, if that is an address or one of the configured names; else as it is configured for its family.
fn host(shared: &Shared, peer: &Peer, headers: &HeaderMap) -> Option<Host> {
    let asked = headers
        .get(header::HOST)
        .and_then(|h| h.to_str().ok())
        .and_then(Host::parse_with_port)
        .filter(|host| match host {
            Host::Address(address) => !address.is_unspecified() && !address.is_multicast(),
            // Whole names only, never a part of one.
            Host::Name(name) => shared.config.advertise.iter().any(|a| a.eq_ignore_ascii_case(name)),
        });
    // Who came over IPv6 may have nothing else.
    let same_family = |host: &Host| match host {
        Host::Address(address) => address.is_ipv4() == peer.local.ip().is_ipv4(),
        Host::Name(_) => true,
    };
    let configured = || shared.config.advertise.iter().filter_map(|h| Host::parse(h)).find(same_family);
    let local = || Some(Host::Address(peer.local.ip())).filter(|_| !peer.local.ip().is_unspecified());
    asked.or_else(configured).or_else(local)
}
