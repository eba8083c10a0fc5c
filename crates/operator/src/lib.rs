//! The operator: it gathers facts, calls `lifecycle` to decide, and carries out what that returned.
//!
//! | module | does |
//! |---|---|
//! | [`cache`] | what is known of each kind, from watches and from our own writes |
//! | [`wiring`](self) | which change wakes whom |
//! | [`queue`] | keyed work: bounded, serialised per key, retried, panics caught |
//! | [`world`] | the verbs with which anything is written: compare and swap |
//! | `discovery`, `hardware`, `instance`, `image`, `endpoint`, `address` | one controller each: gather, decide, act |
//! | [`secrets`], [`keys`] | the only places where Secrets are read |
//! | [`events`], [`metrics`] | what it tells people and monitors |
//!
//! Invariants:
//! * It keeps nothing that is not in an object, but for caches that may be lost at any time. It may be killed between any two requests.
//! * It decides nothing about a machine's life: no phase, order or claim is made up here.
//! * Two operators at once are safe (every deciding write is a compare and swap); leader election only avoids wasted work.
//!
//! It does not talk to machines (netboot does), links no disk code, and lists or watches no Secret.

use std::{future::Future, sync::Arc, time::Duration};

use kube::Client;
use kube_lease_manager::{LeaseCreateMode, LeaseManagerBuilder};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod address;
mod bucket;
pub mod cache;
mod discovery;
mod endpoint;
mod error;
pub mod events;
mod hardware;
mod image;
mod instance;
pub mod keys;
pub mod metrics;
pub mod queue;
pub mod secrets;
mod wiring;
pub mod world;

use cache::Key;
pub use error::{Error, Result};
use metrics::Metrics;
use queue::{Next, Queue};
use world::{Queues, World};

/// Taking turns with other operators.
#[derive(Debug, Clone)]
pub struct LeaderElection {
    /// Name of the Lease in the operator's namespace.
    pub lease: String,
    /// Who we are; must differ between replicas.
    pub identity: String,
}

/// How to run.
#[derive(Clone)]
pub struct Config {
    /// The API server.
    pub client: Client,
    /// Where cluster-scoped kinds' Secrets, and the Lease, are.
    pub operator_namespace: String,
    /// Where netboot's keys and the sealed seeds are.
    pub netboot_namespace: String,
    /// Base URLs at which agents and guest helpers reach netboot over TLS, `https://...`; written into guest configurations.
    pub servers: Vec<String>,
    /// Times and choices of the decisions, asserted identity among them.
    pub lifecycle: lifecycle::config::Config,
    /// `None`: this is the only operator (`up`).
    pub leader_election: Option<LeaderElection>,
    /// So many objects of one kind are worked on at once.
    pub concurrency: usize,
    /// So many progress writes a second, in all.
    pub progress_per_second: f64,
    /// At most one progress write per instance in this time.
    pub progress_interval: Duration,
    /// A step on an instance's way that is passed within this time of its last status write is not written.
    pub step_interval: Duration,
    /// A normal event that is followed by another one about the same object within this time is not written.
    pub event_hold: Duration,
    /// Name of this replica, for events.
    pub replica: String,
    /// Where figures are counted; register it where they are to be shown.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("operator_namespace", &self.operator_namespace)
            .field("netboot_namespace", &self.netboot_namespace)
            .field("servers", &self.servers)
            .field("lifecycle", &self.lifecycle)
            .field("leader_election", &self.leader_election)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The defaults of one operator without leader election.
    pub fn new(client: Client, servers: Vec<String>) -> Self {
        Self {
            client,
            operator_namespace: "kube-baremetal-system".to_owned(),
            netboot_namespace: "kube-baremetal-netboot".to_owned(),
            servers,
            lifecycle: lifecycle::config::Config::default(),
            leader_election: None,
            concurrency: 64,
            progress_per_second: 20.0,
            progress_interval: Duration::from_secs(2),
            step_interval: Duration::from_secs(1),
            event_hold: Duration::from_secs(1),
            replica: "kube-baremetal".to_owned(),
            metrics: Arc::new(Metrics::new()),
        }
    }
}

/// The operator.
#[derive(Debug)]
pub struct Operator;

impl Operator {
    /// Runs until `stop`, then lets what is being written end.
    ///
    /// # Errors
    /// [`Error::Lease`] when leader election fails for good, [`Error::Ended`] when a part of the operator ended by itself.
    pub async fn run(config: Config, stop: CancellationToken) -> Result<()> {
        let (world, notices) = World::new(config);
        wiring::listen(&world);

        let mut parts: JoinSet<String> = JoinSet::new();
        // Watches and events outlive the controllers by a moment: what those write while they end is still told.
        let background = CancellationToken::new();
        for (name, watch) in wiring::watches(&world) {
            let background = background.clone();
            parts.spawn(async move {
                tokio::select! {
                    () = background.cancelled() => {}
                    () = watch => {}
                }
                name.to_owned()
            });
        }
        {
            let (client, replica, metrics) = (
                world.config.client.clone(),
                world.config.replica.clone(),
                Arc::clone(&world.metrics),
            );
            let hold = world.config.event_hold;
            let background = background.clone();
            parts.spawn(async move {
                events::write(client, notices, replica, hold, metrics, background).await;
                "event writer".to_owned()
            });
        }
        let outcome = tokio::select! {
            outcome = lead(&world, &stop) => outcome,
            ended = parts.join_next() => Err(Error::Ended(match ended {
                Some(Ok(name)) => name,
                Some(Err(error)) => error.to_string(),
                None => "background".to_owned(),
            })),
        };
        background.cancel();
        while parts.join_next().await.is_some() {}
        outcome
    }
}

/// Waits for complete caches, then works whenever this replica leads.
async fn lead(world: &Arc<World>, stop: &CancellationToken) -> Result<()> {
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = wiring::wait_ready(world) => {}
    }
    let Some(election) = world.config.leader_election.clone() else {
        return work(world, stop.clone()).await;
    };
    let lease_error = |source| Error::Lease {
        name: format!("{}/{}", world.config.operator_namespace, election.lease),
        source: Box::new(source),
    };
    let manager = LeaseManagerBuilder::new(world.config.client.clone(), election.lease.clone())
        .with_namespace(world.config.operator_namespace.clone())
        .with_identity(election.identity.clone())
        .with_create_mode(LeaseCreateMode::AutoCreate)
        // Takeover within 20 s after a leader died.
        .with_duration(15)
        .with_grace(5)
        .build()
        .await
        .map_err(lease_error)?;
    let (mut leading, manager) = manager.watch().await;
    let outcome = loop {
        let elected = tokio::select! {
            () = stop.cancelled() => break Ok(()),
            elected = leading.wait_for(|l| *l) => elected.is_ok(),
        };
        if !elected {
            break Err(Error::Ended("leader election".to_owned()));
        }
        tracing::info!(lease = election.lease, identity = election.identity, "leading");
        let term = stop.child_token();
        let working = work(world, term.clone());
        let mut working = std::pin::pin!(working);
        let outcome = tokio::select! {
            outcome = &mut working => outcome,
            // Only whether the channel still lives is kept: its guard must not be held across an await.
            lost = async { leading.wait_for(|l| !*l).await.map(drop) } => {
                tracing::warn!(lease = election.lease, "no longer leading");
                term.cancel();
                let outcome = working.await;
                if lost.is_err() { Err(Error::Ended("leader election".to_owned())) } else { outcome }
            }
        };
        if stop.is_cancelled() || outcome.is_err() {
            break outcome;
        }
    };
    // Dropping the channel makes the manager release the Lease, so that the next leader need not wait for its end.
    drop(leading);
    match tokio::time::timeout(Duration::from_secs(3), manager).await {
        Ok(Ok(Ok(_))) => {}
        other => {
            tracing::warn!(outcome = ?other.map(|r| r.map(|r| r.map(|_| ()))), "the Lease was not released; the next leader waits until it expires")
        }
    }
    outcome
}

fn spawn<F, R>(
    parts: &mut JoinSet<&'static str>,
    world: &Arc<World>,
    kind: &'static str,
    queue: &Arc<Queue<Key>>,
    stop: &CancellationToken,
    reconcile: F,
) where
    F: Fn(Arc<World>, Key) -> R + Send + 'static,
    R: Future<Output = Result<Next>> + Send + 'static,
{
    let (world, queue, stop) = (Arc::clone(world), Arc::clone(queue), stop.clone());
    let (concurrency, metrics) = (world.config.concurrency, Arc::clone(&world.metrics));
    parts.spawn(async move {
        queue::run(kind, queue, concurrency, metrics, stop, move |key| {
            reconcile(Arc::clone(&world), key)
        })
        .await;
        kind
    });
}

/// One term of work.
async fn work(world: &Arc<World>, stop: CancellationToken) -> Result<()> {
    let Queues {
        discovery,
        hardware,
        instance,
        image,
        endpoint,
        address,
    } = &world.queues;
    // Whatever another leader, or an earlier run, left behind: look at everything once.
    let cluster = |names: Vec<Key>, queue: &Queue<Key>| names.into_iter().for_each(|key| queue.add(key));
    cluster(world.images.keys(), image);
    cluster(world.discoveries.keys(), discovery);
    cluster(world.hardware.keys(), hardware);
    cluster(world.instances.keys(), instance);
    cluster(world.endpoints.keys(), endpoint);
    cluster(world.addresses.keys(), address);
    world.scheduler.wake();

    let mut parts = JoinSet::new();
    spawn(&mut parts, world, "BareMetalDiscovery", discovery, &stop, discovery::reconcile);
    spawn(&mut parts, world, "BareMetalHardware", hardware, &stop, hardware::reconcile);
    spawn(&mut parts, world, "BareMetalInstance", instance, &stop, instance::reconcile);
    spawn(&mut parts, world, "BareMetalImage", image, &stop, image::reconcile);
    spawn(&mut parts, world, "BareMetalEndpoint", endpoint, &stop, endpoint::reconcile);
    spawn(&mut parts, world, "BareMetalAddress", address, &stop, address::reconcile);
    {
        let (world, stop) = (Arc::clone(world), stop.clone());
        parts.spawn(async move {
            instance::scheduler::run(&world, stop).await;
            "scheduler"
        });
    }
    {
        let (world, stop) = (Arc::clone(world), stop.clone());
        parts.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(5));
            loop {
                tokio::select! {
                    () = stop.cancelled() => break "measurement",
                    _ = tick.tick() => wiring::measure(&world),
                }
            }
        });
    }
    let ended = parts.join_next().await;
    let asked = stop.is_cancelled();
    stop.cancel();
    while parts.join_next().await.is_some() {}
    match ended {
        _ if asked => Ok(()),
        Some(Ok(name)) => Err(Error::Ended(name.to_owned())),
        Some(Err(error)) => Err(Error::Ended(error.to_string())),
        None => Ok(()),
    }
}
