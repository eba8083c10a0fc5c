//! The operator: it gathers facts, calls `lifecycle` to decide, and carries out what that returned.
//!
//! | module | does |
//! |---|---|
//! | [`cache`] | what is known of each kind, from watches and from our own writes |
//! | [`wiring`](self) | which change wakes whom |
//! | [`queue`] | keyed work: bounded, serialised per key, retried, panics caught |
//! | [`world`] | the verbs with which anything is written: compare and swap |
//! | `discovery`, `hardware`, `instance`, `image`, `endpoint`, `address` | one controller each: gather, decide, act |
//! | `power` | carries out what was decided about a machine's power, through its driver, one start after another |
//! | `idle` | which machines that nobody needs are on |
//! | [`lease`] | whose turn it is, where there is more than one operator |
//! | [`secrets`], [`keys`] | the only places where Secrets are read |
//! | [`events`], [`metrics`] | what it tells people and monitors |
//!
//! Invariants:
//! * It keeps nothing that is not in an object, but for caches that may be lost at any time. It may be killed between any two requests.
//! * It decides nothing about a machine's life: no phase, order or claim is made up here.
//! * Two operators at once are safe (every deciding write is a compare and swap); leader election only avoids wasted work.
//! * A process leads once. One that lost its turn ends, so that nothing it remembers outlives the turn.
//!
//! It does not talk to machines (netboot does), links no disk code, and lists or watches no Secret.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::Client;
use secrecy::SecretSlice;
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

mod address;
mod bucket;
pub mod cache;
mod discovery;
mod endpoint;
mod error;
pub mod events;
mod hardware;
mod idle;
mod image;
mod instance;
pub mod keys;
pub mod lease;
pub mod metrics;
mod pacer;
mod power;
pub mod queue;
pub mod secrets;
mod wiring;
pub mod world;

use bucket::Bucket;
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
    /// Who we are; must differ between replicas, and between runs of one.
    pub identity: String,
    /// How long things take.
    pub times: lease::Times,
}

/// Where BMCs send their events, and who is there.
#[derive(Clone)]
pub struct BmcEvents {
    /// The URL by which BMCs reach the listener, without a slash at its end: `https://kube-baremetal.example:9443`.
    pub url: String,
    /// Where it listens; by TLS, if the URL is one of HTTPS.
    pub listen: SocketAddr,
    /// Certificate and key, in PEM. `None`: a certificate is made at each start, and BMCs are told not to check it.
    pub identity: Option<(Vec<u8>, SecretSlice<u8>)>,
}

impl std::fmt::Debug for BmcEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BmcEvents")
            .field("url", &self.url)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}

/// What a health check asks.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    leading: AtomicBool,
}

impl Health {
    /// Whether every cache holds a complete list: this replica works, or could at once.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether this replica is the one that works, where they take turns.
    pub fn is_leading(&self) -> bool {
        self.leading.load(Ordering::Acquire)
    }
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
    /// After this time the driver of a machine is asked again whether it is on, where nothing was done to it; up to a tenth later, so that not all are asked at once.
    pub power_check: Duration,
    /// Where BMCs send their events. `None`: nowhere; streams of events are listened to nevertheless.
    pub bmc_events: Option<BmcEvents>,
    /// After this time it is looked whether a BMC still sends its events.
    pub bmc_events_check: Duration,
    /// So many writes a second, in all, of what can wait: progress, and steps that nobody waits for.
    pub progress_per_second: f64,
    /// At most one progress write per instance in this time.
    pub progress_interval: Duration,
    /// A step on the way that is passed within this time of the last status write, or of its beginning, is not written.
    pub step_interval: Duration,
    /// A normal event that is followed by another one about the same object within this time is not written.
    pub event_hold: Duration,
    /// So many normal events a second, in all, are written; of a burst, so many at once. What goes beyond is dropped and counted; warnings never are.
    pub events_per_second: f64,
    /// See `events_per_second`.
    pub event_burst: f64,
    /// Name of this replica, for events.
    pub replica: String,
    /// Where figures are counted; register it where they are to be shown.
    pub metrics: Arc<Metrics>,
    /// What a health check asks.
    pub health: Arc<Health>,
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
            power_check: Duration::from_secs(100),
            bmc_events: None,
            bmc_events_check: Duration::from_secs(900),
            progress_per_second: 20.0,
            progress_interval: Duration::from_secs(2),
            step_interval: Duration::from_secs(1),
            event_hold: Duration::from_secs(1),
            events_per_second: 10.0,
            event_burst: 100.0,
            replica: "kube-baremetal".to_owned(),
            metrics: Arc::new(Metrics::new()),
            health: Arc::default(),
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
    /// [`Error::Deposed`] when its turn ended before it was told to stop, [`Error::Ended`] when a part of the operator ended by itself.
    pub async fn run(config: Config, stop: CancellationToken) -> Result<()> {
        let receiver = match &config.bmc_events {
            Some(settings) => Some(power::receiver::Receiver::open(settings)?),
            None => None,
        };
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
            let writer = events::Writer {
                client: world.config.client.clone(),
                instance: world.config.replica.clone(),
                hold: world.config.event_hold,
                budget: Bucket::new(world.config.events_per_second, world.config.event_burst),
                metrics: Arc::clone(&world.metrics),
            };
            let background = background.clone();
            parts.spawn(async move {
                writer.run(notices, background).await;
                "event writer".to_owned()
            });
        }
        if let Some(receiver) = receiver {
            let (world, background) = (Arc::clone(&world), background.clone());
            parts.spawn(async move {
                receiver.run(world, background).await;
                "receiver of BMCs' events".to_owned()
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
    world.config.health.ready.store(true, Ordering::Release);
    let Some(election) = world.config.leader_election.clone() else {
        return work(world, stop.clone()).await;
    };
    let (sender, mut leading) = watch::channel(false);
    let end = CancellationToken::new();
    let candidate = lease::Candidate::new(
        world.config.client.clone(),
        &world.config.operator_namespace,
        election.lease.clone(),
        election.identity.clone(),
        election.times,
    );
    let candidate = tokio::spawn(candidate.run(sender, end.clone()));
    let outcome = term(world, stop, &election, &mut leading).await;
    world.config.health.leading.store(false, Ordering::Release);
    // Given back only now that nothing of this term is at work any more, so that the next leader need not wait for its end.
    end.cancel();
    if candidate.await.is_err() {
        tracing::warn!(
            lease = election.lease,
            "leader election failed; the next leader waits until the Lease ends"
        );
    }
    outcome
}

/// Waits for its turn, and works until `stop`, or until the turn ends.
async fn term(world: &Arc<World>, stop: &CancellationToken, election: &LeaderElection, leading: &mut watch::Receiver<bool>) -> Result<()> {
    tracing::info!(lease = election.lease, identity = election.identity, "waiting to lead");
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        // Only whether the channel still lives is kept: its guard must not be held across an await.
        elected = async { leading.wait_for(|l| *l).await.map(drop) } => {
            elected.map_err(|_| Error::Ended("leader election".to_owned()))?;
        }
    }
    tracing::info!(lease = election.lease, identity = election.identity, "leading");
    world.config.health.leading.store(true, Ordering::Release);
    world.metrics.set_leading(true);
    let term = stop.child_token();
    let mut working = std::pin::pin!(work(world, term.clone()));
    tokio::select! {
        outcome = &mut working => outcome,
        _ = async { leading.wait_for(|l| !*l).await.map(drop) } => {
            term.cancel();
            // What is being written may end; what hangs is cut off before anybody else may begin.
            let margin = election.times.duration.saturating_sub(election.times.deadline) / 2;
            if tokio::time::timeout(margin, working).await.is_err() {
                tracing::warn!("work was cut off");
            }
            Err(Error::Deposed(election.lease.clone()))
        }
    }
}

fn spawn<F, R>(
    parts: &mut JoinSet<&'static str>,
    world: &Arc<World>,
    kind: &'static str,
    (queue, concurrency): (&Arc<Queue<Key>>, usize),
    stop: &CancellationToken,
    reconcile: F,
) where
    F: Fn(Arc<World>, Key) -> R + Send + 'static,
    R: Future<Output = Result<Next>> + Send + 'static,
{
    let (world, queue, stop) = (Arc::clone(world), Arc::clone(queue), stop.clone());
    let metrics = Arc::clone(&world.metrics);
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
        power: switches,
        inventory,
    } = &world.queues;
    // Whatever another leader, or an earlier run, left behind: look at everything once.
    let cluster = |names: Vec<Key>, queue: &Queue<Key>| names.into_iter().for_each(|key| queue.add(key));
    cluster(world.images.keys(), image);
    cluster(world.discoveries.keys(), discovery);
    cluster(world.hardware.keys(), hardware);
    cluster(world.hardware.keys(), switches);
    cluster(world.instances.keys(), instance);
    cluster(world.endpoints.keys(), endpoint);
    cluster(world.addresses.keys(), address);
    world.scheduler.wake();

    let mut parts = JoinSet::new();
    let usual = world.config.concurrency;
    spawn(
        &mut parts,
        world,
        "BareMetalDiscovery",
        (discovery, usual),
        &stop,
        discovery::reconcile,
    );
    spawn(
        &mut parts,
        world,
        "BareMetalHardware",
        (hardware, usual),
        &stop,
        hardware::reconcile,
    );
    spawn(
        &mut parts,
        world,
        "BareMetalInstance",
        (instance, usual),
        &stop,
        instance::reconcile,
    );
    spawn(&mut parts, world, "BareMetalImage", (image, usual), &stop, image::reconcile);
    spawn(
        &mut parts,
        world,
        "BareMetalEndpoint",
        (endpoint, usual),
        &stop,
        endpoint::reconcile,
    );
    spawn(&mut parts, world, "BareMetalAddress", (address, usual), &stop, address::reconcile);
    // A BMC may take a minute to answer nothing. An act that is cut off is in force, and is carried out by who comes next.
    let ends = stop.clone();
    let switch = move |world, key| {
        let ends = ends.clone();
        async move {
            tokio::select! {
                done = power::reconcile(world, key) => done,
                () = ends.cancelled() => Ok(Next::Rest),
            }
        }
    };
    spawn(&mut parts, world, "Power", (switches, power::AT_ONCE), &stop, switch);
    let ends = stop.clone();
    let read = move |world, key| {
        let ends = ends.clone();
        async move {
            tokio::select! {
                done = power::inventory::reconcile(world, key) => done,
                () = ends.cancelled() => Ok(Next::Rest),
            }
        }
    };
    spawn(&mut parts, world, "Inventory", (inventory, power::inventory::AT_ONCE), &stop, read);
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
            idle::run(&world, stop).await;
            "plan of idle machines"
        });
    }
    {
        let (world, stop) = (Arc::clone(world), stop.clone());
        parts.spawn(async move {
            power::turns::run(&world, stop).await;
            "turns of machines that start"
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
    world.power.events.end();
    match ended {
        _ if asked => Ok(()),
        Some(Ok(name)) => Err(Error::Ended(name.to_owned())),
        Some(Err(error)) => Err(Error::Ended(error.to_string())),
        None => Ok(()),
    }
}
