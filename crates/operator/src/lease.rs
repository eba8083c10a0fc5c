//! Leader election by a Lease (`coordination.k8s.io`).
//!
//! Invariants:
//! * Every write is a compare and swap on the Lease's resourceVersion: of two that want it at once, one gets it.
//! * Clocks of different machines are never compared. A candidate waits [`Times::duration`] from when *it* saw the last change; a leader stops [`Times::deadline`] after it *sent* the last
//!   renewal that was answered. The deadline is shorter, so the old leader has stopped before the next one begins.
//! * The Lease is watched, not polled: a released one is taken within a moment, and a leader hears at once of anybody who takes it away.
//!
//! It needs `create` of Leases, and `list`, `watch` and `update` of the one with its name. It does not decide what a leader does, nor that it must be alone: every deciding write of the
//! operator is a compare and swap as well.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::{WatchStreamExt, utils::Backoff, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// How long things take. Takeover from a leader that died takes [`Times::duration`] and one request; from one that stopped in order, a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Candidates leave a Lease alone for so long after its last change.
    pub duration: Duration,
    /// A leader without an answered renewal for so long stops.
    pub deadline: Duration,
    /// A leader renews so often.
    pub renew: Duration,
    /// After a request without success.
    pub retry: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(12),
            deadline: Duration::from_secs(9),
            renew: Duration::from_secs(4),
            retry: Duration::from_secs(1),
        }
    }
}

/// A watch that broke is opened again after a second, however often it breaks: a candidate that looks away for half a minute takes over too late.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// What the watch and our own writes say.
#[derive(Debug)]
struct Seen {
    /// Whether the watch listed it once: before that nothing is known.
    listed: bool,
    lease: Option<Lease>,
    /// When it changed last, by our clock.
    at: Instant,
}

fn version(lease: &Lease) -> Option<u64> {
    lease.metadata.resource_version.as_deref()?.parse().ok()
}

impl Seen {
    fn hear(&mut self, lease: Lease) {
        if let Some(known) = &self.lease
            && known.metadata.uid == lease.metadata.uid
            && let (Some(known), Some(new)) = (version(known), version(&lease))
            && new <= known
        {
            return;
        }
        self.lease = Some(lease);
        self.at = Instant::now();
    }

    fn holder(&self) -> Option<&str> {
        let holder = self.lease.as_ref()?.spec.as_ref()?.holder_identity.as_deref();
        holder.filter(|h| !h.is_empty())
    }
}

/// One candidate.
pub(crate) struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    times: Times,
}

impl Candidate {
    pub(crate) fn new(client: Client, namespace: &str, name: String, identity: String, times: Times) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name,
            identity,
            times,
        }
    }

    /// Tells through `leading` whether this process leads, until `end`; then gives the Lease back, if it is ours.
    pub(crate) async fn run(self, leading: watch::Sender<bool>, end: CancellationToken) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let mut events = watcher(self.api.clone(), config).backoff(Steady).boxed();
        let mut seen = Seen {
            listed: false,
            lease: None,
            at: Instant::now(),
        };
        // When the last answered renewal was sent.
        let mut held: Option<Instant> = None;
        let mut retry = Instant::now();
        loop {
            if held.is_some_and(|since| since.elapsed() >= self.times.deadline) {
                tracing::warn!(lease = self.name, "the Lease could not be renewed in time");
                held = None;
                leading.send_replace(false);
            }
            tokio::select! {
                biased;
                () = end.cancelled() => break,
                event = events.next() => {
                    match event {
                        Some(Ok(watcher::Event::Init)) => {}
                        Some(Ok(watcher::Event::InitDone)) => seen.listed = true,
                        Some(Ok(watcher::Event::InitApply(lease) | watcher::Event::Apply(lease))) => seen.hear(lease),
                        Some(Ok(watcher::Event::Delete(_))) => (seen.lease, seen.at) = (None, Instant::now()),
                        Some(Err(error)) => tracing::debug!(%error, "the watch of the Lease broke and is opened again"),
                        // A watcher does not end.
                        None => break,
                    }
                    if held.is_some() && seen.holder() != Some(self.identity.as_str()) {
                        tracing::warn!(lease = self.name, holder = seen.holder(), "somebody took the Lease away");
                        held = None;
                        leading.send_replace(false);
                    }
                }
                () = sleep_until(self.due(&seen, held).max(retry)), if seen.listed => match self.write(&seen, held).await {
                    Some((sent, lease)) => {
                        seen.hear(lease);
                        held = Some(sent);
                        leading.send_replace(true);
                    }
                    None => retry = Instant::now() + self.times.retry,
                },
                // The deadline, while requests fail.
                () = sleep_until(held.unwrap_or(seen.at) + self.times.deadline), if held.is_some() => {}
            }
        }
        if held.is_some() {
            self.release(&seen).await;
        }
        leading.send_replace(false);
    }

    /// When the next write is due.
    fn due(&self, seen: &Seen, held: Option<Instant>) -> Instant {
        match (held, seen.holder()) {
            (Some(since), _) => since + self.times.renew,
            // Nobody has it, or it is ours and the answer was lost.
            (None, None) => seen.at,
            (None, Some(holder)) if holder == self.identity => seen.at,
            (None, Some(_)) => seen.at + self.times.duration,
        }
    }

    /// Takes or renews it. Gives when that was sent, and the Lease, if it is ours now.
    async fn write(&self, seen: &Seen, held: Option<Instant>) -> Option<(Instant, Lease)> {
        let sent = Instant::now();
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let mut lease = seen.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        });
        let spec = lease.spec.get_or_insert_default();
        if held.is_none() {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(self.times.duration.as_secs().max(1)).ok();
        let request = async {
            if seen.lease.is_some() {
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            } else {
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        let limit = held.unwrap_or(sent) + self.times.deadline;
        match timeout_at(limit, request).await {
            Ok(Ok(lease)) => Some((sent, lease)),
            // Somebody was faster; the watch tells who.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => None,
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "the Lease could not be written");
                None
            }
            Err(_) => {
                tracing::warn!(lease = self.name, "no answer to the write of the Lease");
                None
            }
        }
    }

    async fn release(&self, seen: &Seen) {
        let Some(mut lease) = seen.lease.clone() else { return };
        let transitions = lease.spec.as_ref().and_then(|s| s.lease_transitions);
        lease.spec = Some(LeaseSpec {
            lease_transitions: transitions,
            ..LeaseSpec::default()
        });
        let limit = Instant::now() + self.times.retry * 2;
        match timeout_at(limit, self.api.replace(&lease.name_any(), &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = self.name, "the Lease was given back"),
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "the Lease was not given back; the next leader waits until it ends")
            }
            Err(_) => tracing::warn!(
                lease = self.name,
                "the Lease was not given back in time; the next leader waits until it ends"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_leader_has_stopped_before_the_next_one_begins() {
        let times = Times::default();
        assert!(times.renew + times.retry < times.deadline && times.deadline + Duration::from_secs(2) < times.duration);
        assert!(
            times.duration + Duration::from_secs(5) < Duration::from_secs(20),
            "takeover within 20 s"
        );
    }

    #[test]
    fn an_older_version_tells_nothing_new() {
        let lease = |version: &str, holder: &str| Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                uid: Some("u".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                ..LeaseSpec::default()
            }),
        };
        let mut seen = Seen {
            listed: true,
            lease: None,
            at: Instant::now(),
        };
        assert_eq!(seen.holder(), None);
        seen.hear(lease("7", "a"));
        seen.hear(lease("6", "b"));
        assert_eq!(seen.holder(), Some("a"));
        seen.hear(lease("8", ""));
        assert_eq!(seen.holder(), None, "an empty holder is none");
    }
}
