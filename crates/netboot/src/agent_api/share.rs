//! `POST /agent/v1/share`: who else writes the same packed image on this machine's network.
//!
//! For machines whose accepted order names that image, and as long as the order is not done. Which network it is, and the address that others
//! are told, follow from where the request came from. Images that need credentials at their registry are shared like others: in
//! the store, too, whoever knows the digest may read them, and the digest is all that neighbours ask each other for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use agent_protocol::{
    limits,
    session::{ErrorCode, decode_up_to},
    share::{MAX_HELD, ShareMode, SharePeer, ShareRequest, ShareResponse},
};
use api::ImageSharing;
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::Request;
use sharing::{Member, News, PeerId, PieceSet, SwarmKey};

use super::{
    auth::{self, Caller},
    reports,
};
use crate::{
    metrics::Route,
    objects::networks::Neighbourhood,
    reply::{Refusal, Reply},
    server::Peer,
    state::Shared,
    swarms::Swarms,
};

/// The handler.
pub(crate) async fn share(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let answered = async {
        let (caller, body) = auth::caller(&shared, peer, &parts, body).await?;
        let request: ShareRequest = limits::parse(&body)?;
        answer(&shared, &caller, peer, request).await
    }
    .await;
    let response = match answered {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.into_response(),
    };
    shared.metrics.count(Route::Share, response.status());
    response
}

/// The hexadecimal digits of the packed image that this machine's accepted order names.
fn packed(shared: &Shared, caller: &Caller, order_id: &str) -> Reply<Option<String>> {
    let known = shared.cache.discovery(&caller.name).unwrap_or_else(|| caller.discovery.clone());
    let status = known.status.as_ref().ok_or_else(Refusal::gone)?;
    reports::check(status, &caller.session.id, order_id)?;
    if status.result.as_ref().is_some_and(|r| r.order_id == order_id) {
        return Err(reports::stale());
    }
    let hardware = shared.cache.hardware_of(&caller.name);
    let order = hardware.as_ref().and_then(|h| h.status.as_ref()?.order.as_ref());
    let order = order.filter(|order| order.id == order_id).ok_or_else(reports::stale)?;
    let packed = order.image.as_ref().and_then(|image| image.packed.as_ref());
    Ok(packed.and_then(|packed| packed.hex()).map(str::to_owned))
}

fn off(note: String) -> ShareResponse {
    ShareResponse {
        mode: ShareMode::Off,
        note,
        again_ms: milliseconds(Swarms::patience()),
        peers: None,
        fetch: Vec::new(),
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn set(field: &str, text: &str, count: u32) -> Reply<PieceSet> {
    let malformed = |problem: String| Refusal::new(ErrorCode::Malformed, format!("{field}: {problem}"));
    let bytes = decode_up_to(text, MAX_HELD).ok_or_else(|| malformed("is not base64".to_owned()))?;
    let set = PieceSet::from_bytes(&bytes).map_err(|error| malformed(error.to_string()))?;
    if set.count() != count {
        return Err(malformed(format!("speaks of {} chunks, and the image has {count}", set.count())));
    }
    Ok(set)
}

async fn answer(shared: &Shared, caller: &Caller, peer: Peer, request: ShareRequest) -> Reply<ShareResponse> {
    let Some(hex) = packed(shared, caller, &request.order_id)? else {
        return Ok(off("the order names no packed image".to_owned()));
    };
    let (neighbourhood, wanted) = shared.networks.of(peer.address);
    let network = match &neighbourhood {
        Neighbourhood::Network(name) => name.clone(),
        Neighbourhood::Around(address) => format!("around {address}"),
    };
    if wanted == ImageSharing::Disabled {
        return Ok(off(format!("not wanted on the network {network}")));
    }
    let Some(layout) = shared.swarms.layout(&hex).await else {
        return Ok(off("this server's image store does not hold the image".to_owned()));
    };
    let mut image = [0; 32];
    if hex::decode_to_slice(&hex, &mut image).is_err() {
        return Ok(off("the order names no packed image".to_owned()));
    }
    let key = SwarmKey { image, network };
    let address = SocketAddr::new(peer.address, request.port.unwrap_or_default());
    if request.leaves {
        if !request.wrong.is_empty() {
            let last = News {
                shares: PieceSet::none(layout.count()),
                wants: PieceSet::none(layout.count()),
                room: 0,
                hungry: false,
                wrong: request.wrong.into_iter().map(PeerId).collect(),
            };
            shared.swarms.announce(&key, &layout, &caller.name, address, last);
        }
        shared.swarms.leave(&key, &caller.name);
        return Ok(off(String::new()));
    }
    if request.pieces != layout.count() {
        let message = format!("pieces: is {}, and the image has {}", request.pieces, layout.count());
        return Err(Refusal::new(ErrorCode::Malformed, message));
    }
    let news = News {
        // Who does not listen gives nothing.
        shares: match request.port {
            Some(_) => set("held", &request.held, layout.count())?,
            None => PieceSet::none(layout.count()),
        },
        wants: set("wanted", &request.wanted, layout.count())?,
        room: request.room,
        hungry: request.hungry,
        wrong: request.wrong.into_iter().map(PeerId).collect(),
    };
    let told = shared.swarms.announce(&key, &layout, &caller.name, address, news);
    let peer = |member: &Member| SharePeer {
        id: member.id.0,
        address: member.address,
    };
    let listens = |member: &&Member| member.address.port() != 0;
    Ok(ShareResponse {
        mode: if told.together { ShareMode::Together } else { ShareMode::Alone },
        note: String::new(),
        again_ms: milliseconds(told.again),
        peers: told.members.map(|members| members.iter().filter(listens).map(peer).collect()),
        fetch: told.granted.into_iter().map(|run| (run.start, run.end)).collect(),
    })
}
