//! `kube-baremetal netboot`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use super::{Cluster, Decisions, Lan, NETBOOT_NAMESPACE, host_name, signalled};
use crate::monitor;

/// How long connections may end by themselves when this replica is told to stop.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace with netboot's keys and the sealed seeds.
    #[arg(long, env = "KBM_NETBOOT_NAMESPACE", default_value = NETBOOT_NAMESPACE)]
    namespace: String,
    /// Where boot scripts, boot media and images are served (plain HTTP). `[::]` is everywhere, by IPv4 and IPv6.
    #[arg(long, env = "KBM_HTTP_LISTEN", default_value = "[::]:8080")]
    http_listen: SocketAddr,
    /// Where agents connect (TLS, pinned).
    #[arg(long, env = "KBM_AGENT_LISTEN", default_value = "[::]:8443")]
    agent_listen: SocketAddr,
    /// Address or name by which machines reach this replica; may be given more than once. Default: the address that they asked.
    #[arg(long, env = "KBM_ADVERTISE", value_delimiter = ',')]
    advertise: Vec<String>,
    /// Port by which agents reach this replica, where it is not the one it listens on.
    #[arg(long, env = "KBM_ADVERTISE_PORT")]
    advertise_port: Option<u16>,
    /// URLs (`https://host:port`) of all replicas, which agents try when the one that booted them fails; may be given more than once.
    #[arg(long = "server", env = "KBM_SERVERS", value_delimiter = ',')]
    servers: Vec<String>,
    /// Name of this replica, the same when it is restarted. Default: the name of the host.
    #[arg(long, env = "KBM_REPLICA")]
    replica: Option<String>,
    /// Folder with the boot media (`kube-baremetal bootmedia build`).
    #[arg(long, env = "KBM_MEDIA_DIR")]
    media_dir: Option<PathBuf>,
    /// Folder whose image files are served below /images/.
    #[arg(long, env = "KBM_IMAGE_DIR")]
    image_dir: Option<PathBuf>,
    /// Folder of the image store, of this replica alone: images are fetched once, checked and packed there. Left out: machines fetch images from their URLs.
    #[arg(long, env = "KBM_IMAGE_STORE")]
    image_store: Option<PathBuf>,
    /// Most that the image store keeps, in GiB.
    #[arg(long, env = "KBM_IMAGE_STORE_SIZE", value_name = "GIB", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    image_store_size: u64,
    /// URL (`http://host:port`) by which machines and other replicas fetch from the image store. Default: the first advertised host.
    #[arg(long, env = "KBM_IMAGE_STORE_URL")]
    image_store_url: Option<String>,
    #[command(flatten)]
    lan: Lan,
    /// Where health and metrics are served (plain HTTP).
    #[arg(long, env = "KBM_MONITOR_LISTEN", default_value = "0.0.0.0:9090")]
    monitor_listen: SocketAddr,
    /// Hand out seeds and images to machines whose identity is only asserted. The operator's setting decides; this one must be the same.
    #[arg(long, env = "KBM_ALLOW_ASSERTED_IDENTITY")]
    allow_asserted_identity: bool,
    #[command(flatten)]
    decisions: Decisions,
    /// Reckon with so many machines of a lab that all come from one address: wide quotas for one address. Not for a network with strangers.
    #[arg(long, value_name = "MACHINES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lab_machines: Option<u32>,
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(arguments: Arguments) -> Result<()> {
    lab::raise_file_limit();
    let client = arguments.cluster.client().await?;
    let mut config = netboot::Config::new(client, arguments.replica.unwrap_or_else(host_name));
    config.namespace = arguments.namespace;
    config.http = arguments.http_listen;
    config.tls = arguments.agent_listen;
    config.advertise = arguments.advertise;
    config.advertise_tls_port = arguments.advertise_port;
    config.servers = arguments.servers;
    config.media_dir = arguments.media_dir;
    config.image_dir = arguments.image_dir;
    config.image_store = arguments.image_store.map(|path| netboot::StoreConfig {
        url: arguments.image_store_url,
        ..netboot::StoreConfig::new(path, arguments.image_store_size << 30)
    });
    arguments.lan.configure(&mut config);
    config.decisions = arguments.decisions.config(arguments.allow_asserted_identity);
    if let Some(machines) = arguments.lab_machines {
        config.quotas = netboot::Quotas::for_lab(machines as usize);
    }
    let stop = CancellationToken::new();
    let netboot = netboot::Netboot::start(config, stop.child_token())
        .await
        .context("starting the boot server")?;
    let netboot = Arc::new(netboot);
    let (asked, figures) = (Arc::clone(&netboot), Arc::clone(&netboot));
    let stopping = stop.clone();
    let monitor = monitor::start(
        arguments.monitor_listen,
        move || asked.is_ready() && !stopping.is_cancelled(),
        move || Some(figures.metrics().encode()),
        CancellationToken::new(),
    )
    .await?;
    tracing::info!(monitor = %monitor.address, "netboot starts");
    let outcome = signalled().await;
    stop.cancel();
    netboot.stopped(GRACE).await;
    monitor.stop();
    monitor.ended().await;
    outcome
}
