//! `kube-baremetal operator`.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::{BmcEvents, Cluster, Decisions, NETBOOT_NAMESPACE, OPERATOR_NAMESPACE, Starts, host_name, signalled};
use crate::monitor;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace with the Lease.
    #[arg(long, env = "KBM_OPERATOR_NAMESPACE", default_value = OPERATOR_NAMESPACE)]
    namespace: String,
    /// Namespace with netboot's keys and the sealed seeds.
    #[arg(long, env = "KBM_NETBOOT_NAMESPACE", default_value = NETBOOT_NAMESPACE)]
    netboot_namespace: String,
    /// URLs (`https://host:port`) by which machines reach the replicas of netboot; may be given more than once.
    #[arg(long = "server", env = "KBM_SERVERS", value_delimiter = ',', required = true)]
    servers: Vec<String>,
    /// Name of the Lease by which replicas take turns.
    #[arg(long, default_value = "kube-baremetal-operator")]
    lease: String,
    /// Name of this replica. Default: the name of the host, which is that of the pod.
    #[arg(long, env = "KBM_REPLICA")]
    replica: Option<String>,
    /// Where health and metrics are served (plain HTTP).
    #[arg(long, env = "KBM_MONITOR_LISTEN", default_value = "0.0.0.0:9090")]
    monitor_listen: SocketAddr,
    /// Give seeds and images to machines whose identity is only asserted (UUID and MAC, which anybody on their network can forge). Each use is told in an event.
    #[arg(long, env = "KBM_ALLOW_ASSERTED_IDENTITY")]
    allow_asserted_identity: bool,
    /// Netboot has an image store: images go through it unless they say otherwise.
    #[arg(long, env = "KBM_WITH_IMAGE_STORE")]
    with_image_store: bool,
    #[command(flatten)]
    decisions: Decisions,
    #[command(flatten)]
    starts: Starts,
    #[command(flatten)]
    bmc_events: BmcEvents,
}

/// Runs until SIGINT or SIGTERM, or until its turn is lost.
pub async fn run(arguments: Arguments) -> Result<()> {
    for url in &arguments.servers {
        ensure!(
            url.starts_with("https://") && url.len() > "https://".len(),
            "--server: {url:?} is not https://host:port"
        );
    }
    let client = arguments.cluster.client().await?;
    let replica = arguments.replica.unwrap_or_else(host_name);
    let mut config = operator::Config::new(client, arguments.servers);
    config.operator_namespace = arguments.namespace;
    config.netboot_namespace = arguments.netboot_namespace;
    config.lifecycle = arguments.decisions.config(arguments.allow_asserted_identity);
    config.lifecycle.starts = arguments.starts.limits();
    config.lifecycle.image_store = arguments.with_image_store;
    config.bmc_events = arguments.bmc_events.config()?;
    config.leader_election = Some(operator::LeaderElection {
        lease: arguments.lease,
        // A replica that was restarted is another candidate: what the one before it had in flight must not be taken for its own.
        identity: format!(
            "{replica}_{:08x}",
            jiff::Timestamp::now().as_nanosecond() as u32 ^ std::process::id()
        ),
        times: operator::lease::Times::default(),
    });
    config.replica = replica;
    let mut registry = Registry::default();
    config.metrics.register(&mut registry);
    let health = Arc::clone(&config.health);

    let stop = CancellationToken::new();
    let figures = move || monitor::encode(&registry);
    let monitor = monitor::start(arguments.monitor_listen, move || health.is_ready(), figures, stop.child_token()).await?;
    tracing::info!(monitor = %monitor.address, "operator starts");
    let operator = operator::Operator::run(config, stop.child_token());
    let mut operator = std::pin::pin!(operator);
    let outcome = tokio::select! {
        outcome = &mut operator => outcome.context("running the operator"),
        signal = signalled() => {
            stop.cancel();
            // What is being written ends, and the Lease is given back.
            signal.and(operator.await.context("stopping the operator"))
        }
    };
    stop.cancel();
    monitor.ended().await;
    outcome
}
