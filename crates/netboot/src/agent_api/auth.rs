//! Who sends this request? Session, sequence and signature, checked before anything else is looked at.
//!
//! A session id is `<discovery name>.<random><tag>`: a replica that did not open it finds its object at once, and an id that none of us made is refused
//! without looking anything up. A session that the cache does not know is looked up in the API, within a limit per source: it may have
//! been opened by another replica a moment ago.

use std::{net::IpAddr, sync::Arc, time::Instant};

use agent_protocol::session::{HEADER_SEQUENCE, HEADER_SESSION, HEADER_SIGNATURE, verify};
use api::{BareMetalDiscovery, discovery::AgentSession};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, request::Parts};
use kube::ResourceExt;

use crate::{
    reply::{Refusal, Reply},
    server::Peer,
    state::Shared,
};

/// The three headers of a signed request.
#[derive(Debug)]
pub(crate) struct Signed {
    pub session: String,
    pub sequence: u64,
    pub signature: String,
}

impl Signed {
    pub(crate) fn read(headers: &HeaderMap) -> Reply<Self> {
        let get = |name: &str, max: usize| {
            let mut values = headers.get_all(name).iter();
            let value = values.next().and_then(|v| v.to_str().ok()).filter(|v| v.len() <= max);
            // Two of one header are an attempt to mean two things.
            value.filter(|_| values.next().is_none())
        };
        let sequence = get(HEADER_SEQUENCE, 20)
            .filter(|s| s.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|s| s.parse().ok());
        Ok(Self {
            session: get(HEADER_SESSION, 320).unwrap_or_default().to_owned(),
            sequence: sequence.ok_or_else(Refusal::signature)?,
            signature: get(HEADER_SIGNATURE, 128).ok_or_else(Refusal::signature)?.to_owned(),
        })
    }

    pub(crate) fn verify(&self, key: &str, parts: &Parts, body: &[u8]) -> Reply<()> {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        verify(
            key,
            &self.signature,
            parts.method.as_str(),
            path,
            &self.session,
            self.sequence,
            body,
        )
        .map_err(Refusal::from)
    }
}

/// A request by the machine's present session.
pub(crate) struct Caller {
    pub discovery: Arc<BareMetalDiscovery>,
    pub session: AgentSession,
    pub name: String,
}

fn session_of(discovery: &BareMetalDiscovery) -> Option<&AgentSession> {
    discovery.status.as_ref()?.session.as_ref()
}

/// Reads the body within bounds and finds out who sent it.
pub(crate) async fn caller(shared: &Shared, peer: Peer, parts: &Parts, body: Body) -> Reply<(Caller, Bytes)> {
    let signed = Signed::read(&parts.headers)?;
    let keys = shared.keys().ok_or_else(Refusal::unavailable)?;
    let name = keys.session_machine(&signed.session).ok_or_else(Refusal::signature)?.to_owned();
    let body = crate::body::read(body, content_length(&parts.headers), shared.config.quotas.body_timeout).await?;
    let discovery = find(shared, peer.address, &name, &signed.session).await?;
    let session = session_of(&discovery).ok_or_else(Refusal::signature)?.clone();
    if session.id != signed.session {
        // We made this id, and the machine has another session now.
        return Err(Refusal::gone());
    }
    signed.verify(&session.signing_key, parts, &body)?;
    let name = discovery.name_any();
    let Some(regained) = shared
        .presence
        .heard(&name, &session.id, peer.address, signed.sequence, Instant::now())
    else {
        return Err(Refusal::signature());
    };
    // Lost by this replica's word, or by that of one that is gone.
    let written_lost = discovery.status.as_ref().is_some_and(|s| {
        let connected = s.conditions.iter().find(|c| c.type_ == api::conditions::AGENT_CONNECTED);
        connected.is_some_and(|c| c.status == "False")
    });
    if regained || written_lost {
        crate::lost::regained(shared, &discovery, &session.id).await;
    }
    Ok((Caller { discovery, session, name }, body))
}

/// The cached object if it has this session, else a fresh one.
async fn find(shared: &Shared, source: IpAddr, name: &str, session: &str) -> Reply<Arc<BareMetalDiscovery>> {
    let cached = shared.cache.discovery(name);
    if let Some(found) = &cached
        && session_of(found).is_some_and(|s| s.id == session)
    {
        return Ok(found.clone());
    }
    if let Err(wait) = shared.lookups.take(source, Instant::now()) {
        shared.metrics.rate_limited.inc();
        return Err(Refusal::overloaded("too many requests of unknown sessions from this address", wait));
    }
    match shared.store.discovery(name).await {
        Ok(found) => Ok(Arc::new(found)),
        Err(error) if error.is_not_found() => Err(Refusal::signature()),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
