//! `POST /agent/v1/bmc-user`: what became of the user that an agent was asked to make in its machine's BMC. Stored before it is answered.
//!
//! What is asked for is ciphertext in the hardware's status, for one session; it goes with the answer to `GET /agent/v1/order`.

use std::sync::Arc;

use agent_protocol::{
    bmc_user::{BmcUserReport, SealedBmcUser},
    limits,
};
use api::{BareMetalHardware, bmc::BmcUserResult, discovery::AgentSession};
use axum::{Extension, body::Body, extract::State, response::Response};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::auth::{self, Caller};
use crate::{
    metrics::Route,
    objects::store::Change,
    reply::{Refusal, Reply},
    server::Peer,
    state::Shared,
};

/// The user that a session is asked to make, unless it has seen to it.
pub(super) fn wanted(hardware: Option<&BareMetalHardware>, session: &AgentSession, seen: &str) -> Option<SealedBmcUser> {
    let hardware = hardware.filter(|h| !h.spec.paused)?;
    let sealed = &hardware.status.as_ref()?.bmc_user.as_ref()?.sealed;
    (sealed.thumbprint == session.thumbprint && sealed.id != seen).then(|| sealed.clone())
}

/// The handler.
pub(crate) async fn report(State(shared): State<Arc<Shared>>, Extension(peer): Extension<Peer>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let taken = async {
        let (caller, body) = auth::caller(&shared, peer, &parts, body).await?;
        let report: BmcUserReport = limits::parse(&body)?;
        take(&shared, &caller, report).await
    }
    .await;
    super::reports::answer(&shared, Route::BmcUser, taken)
}

async fn take(shared: &Shared, caller: &Caller, report: BmcUserReport) -> Reply<()> {
    // Only what was asked of this session is answered for.
    let hardware = shared.cache.hardware_of(&caller.name);
    wanted(hardware.as_deref(), &caller.session, "")
        .filter(|sealed| sealed.id == report.id)
        .ok_or_else(super::reports::stale)?;
    let start = shared.cache.discovery(&caller.name).unwrap_or_else(|| caller.discovery.clone());
    shared
        .store
        .update(start, |current| {
            let status = current.status.as_ref().ok_or_else(Refusal::gone)?;
            if status.session.as_ref().is_none_or(|s| s.id != caller.session.id) {
                return Err(Refusal::gone());
            }
            if status.bmc_user.as_ref().is_some_and(|r| r.id == report.id) {
                // Stored already; its answer was lost. The first word stands.
                return Ok(Change::Keep(()));
            }
            let mut new = current.clone();
            new.status.get_or_insert_default().bmc_user = Some(BmcUserResult {
                id: report.id.clone(),
                at: Time(Timestamp::now()),
                fault: report.fault.clone().unwrap_or_default(),
            });
            Ok(Change::Write(Box::new(new), ()))
        })
        .await?;
    tracing::info!(discovery = %caller.name, id = %report.id, fault = report.fault, "answer about a BMC user stored");
    Ok(())
}
