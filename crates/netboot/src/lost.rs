//! Machines that fall silent, that are heard again, and that come over from another replica: one write each time.
//!
//! The session names the replica that its agent asks. A replica says of its own machines only that they fell silent, so that one which was restarted, or cut off, raises no alarm about
//! machines that have long gone over to another one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use api::{BareMetalDiscovery, BareMetalHardware, conditions};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{objects::store::Change, state::Shared};

/// Between two writes of losses: a switch that fails takes a thousand machines with it.
const PACE: Duration = Duration::from_millis(50);

/// Whether the objects still say that the machine is in the agent: in this session, and nothing was heard of its system since.
fn is_still_here(discovery: &BareMetalDiscovery, session: &str) -> bool {
    lifecycle::view::live_session(Some(discovery)).is_some_and(|s| s.id == session)
}

async fn write(shared: &Shared, discovery: Arc<BareMetalDiscovery>, session: &str, connected: bool, reason: &str, message: &str) {
    let written = shared
        .store
        .update(discovery, |current| {
            let mut new = current.clone();
            let status = new.status.get_or_insert_default();
            let same_session = status.session.as_ref().is_some_and(|s| s.id == session);
            let ours = status.session.as_ref().is_some_and(|s| s.replica == shared.config.replica);
            if !same_session || (!connected && !ours) || conditions::is_true(&status.conditions, conditions::AGENT_CONNECTED) == connected {
                return Ok(Change::Keep(()));
            }
            let now = Time(Timestamp::now());
            conditions::set(
                &mut status.conditions,
                conditions::AGENT_CONNECTED,
                connected,
                reason,
                message,
                None,
                &now,
            );
            Ok(Change::Write(Box::new(new), ()))
        })
        .await;
    if let Err(refusal) = written {
        tracing::warn!(?refusal, "AgentConnected could not be written");
    }
}

/// A machine that was lost asks again.
pub(crate) async fn regained(shared: &Shared, discovery: &Arc<BareMetalDiscovery>, session: &str) {
    write(shared, discovery.clone(), session, true, "HeardAgain", "The agent asks again").await;
}

/// An agent that another replica served asks here: that one failed, or cannot be reached.
pub(crate) async fn moved(shared: &Shared, discovery: &Arc<BareMetalDiscovery>, session: &str) {
    let written = shared
        .store
        .update(discovery.clone(), |current| {
            let mut new = current.clone();
            let present = new.status.as_mut().and_then(|s| s.session.as_mut());
            match present.filter(|s| s.id == session && s.replica != shared.config.replica) {
                Some(present) => present.replica.clone_from(&shared.config.replica),
                None => return Ok(Change::Keep(())),
            }
            Ok(Change::Write(Box::new(new), ()))
        })
        .await;
    if let Err(refusal) = written {
        // It is tried again with the agent's next poll.
        tracing::warn!(?refusal, "the move of an agent to this replica could not be written");
    }
}

/// Looks for silent machines until the process ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let (after, departed_after) = (shared.config.lost_after, shared.config.departed_after);
    let mut tick = tokio::time::interval((after / 6).max(Duration::from_millis(50)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        shared
            .metrics
            .machines
            .set(i64::try_from(shared.presence.len()).unwrap_or(i64::MAX));
        if !shared.store.is_reachable() {
            continue;
        }
        for (name, session) in shared.presence.overdue(departed_after, Instant::now()) {
            let Some(discovery) = shared.cache.discovery(&name).filter(|d| is_still_here(d, &session)) else {
                continue;
            };
            tracing::warn!(discovery = %name, "nothing was heard of the machine since it was told to boot its disk");
            let message = format!(
                "Told to boot its own disk {} s ago; nothing was heard of it since",
                departed_after.as_secs()
            );
            write(&shared, discovery, &session, false, "Departed", &message).await;
            tokio::time::sleep(PACE).await;
        }
        for (name, session) in shared.presence.newly_lost(after, Instant::now()) {
            let Some(discovery) = shared.cache.discovery(&name) else {
                shared.presence.forget(&name);
                continue;
            };
            // It was switched off, which is no loss. It is written down all the same: whoever loses the machine's status must not take its last session for one that lives.
            let live = lifecycle::view::live_session(Some(&discovery));
            let sleeps = |h: Arc<BareMetalHardware>| {
                h.status
                    .as_ref()
                    .zip(live)
                    .is_some_and(|(status, session)| status.idle.is_some() && !lifecycle::view::session_counts(status, session))
            };
            if shared.cache.hardware_of(&name).is_some_and(sleeps) {
                let message = "Switched off because nobody needs it";
                write(&shared, discovery.clone(), &session, false, "PoweredOff", message).await;
                shared.presence.forget(&name);
                continue;
            }
            shared.metrics.lost.inc();
            tracing::warn!(discovery = %name, "the agent fell silent");
            let message = format!("Nothing was heard from the agent for {} s", after.as_secs());
            write(&shared, discovery, &session, false, "Silent", &message).await;
            tokio::time::sleep(PACE).await;
        }
    }
}
