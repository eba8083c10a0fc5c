//! `kube-baremetal up`: the embedded API, the operator and netboot in one process.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kube::Client;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    account,
    install::{self, NETBOOT, OPERATOR},
    roles::{BmcEvents, Decisions, Lan, NETBOOT_NAMESPACE, OPERATOR_NAMESPACE, Starts, bracketed, signalled},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where everything is kept. Default: $XDG_DATA_HOME/kube-baremetal or ~/.local/share/kube-baremetal.
    #[arg(long, env = "KBM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where the kubeconfig is written. Default: `kubeconfig` in the data folder.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Where the Kubernetes API listens.
    #[arg(long, default_value = "127.0.0.1:6443")]
    api_listen: SocketAddr,
    /// Where boot scripts, boot media and images are served (plain HTTP). `[::]` is everywhere, by IPv4 and IPv6.
    #[arg(long, default_value = "[::]:8080")]
    http_listen: SocketAddr,
    /// Where agents connect (TLS, pinned).
    #[arg(long, default_value = "[::]:8443")]
    agent_listen: SocketAddr,
    /// Address or name by which machines reach this host; may be given more than once. Default: the address of the default route.
    #[arg(long)]
    advertise: Vec<String>,
    /// Folder with the boot media (`kube-baremetal bootmedia build`).
    #[arg(long, env = "KBM_MEDIA_DIR", default_value = "target/bootmedia")]
    media_dir: PathBuf,
    /// Folder whose image files are served below /images/.
    #[arg(long)]
    image_dir: Option<PathBuf>,
    /// Keep an image store in the data folder: images are fetched once, checked and packed, and machines fetch from there what differs on their disks. Off: they fetch whole images from
    /// their URLs.
    #[arg(long)]
    image_store: bool,
    /// Most that the image store keeps, in GiB.
    #[arg(long, value_name = "GIB", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    image_store_size: u64,
    #[command(flatten)]
    lan: Lan,
    /// Serve the Kubernetes API and nothing else: neither operator nor boot server. To import into it, and to look at one that is not to act.
    #[arg(long)]
    api_only: bool,
    #[command(flatten)]
    decisions: Decisions,
    #[command(flatten)]
    starts: Starts,
    #[command(flatten)]
    bmc_events: BmcEvents,
    /// Reckon with so many machines of a lab that all come from one address: wide quotas for one address. Not for a network with strangers.
    #[arg(long, value_name = "MACHINES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    lab_machines: Option<u32>,
    /// For crash tests: end like by `kill -9` before or after the so manieth write of the API, as in `before:17`. Each write is then committed alone.
    #[arg(long, hide = true)]
    die_at: Option<crate::die::At>,
}

/// Runs until SIGINT or SIGTERM, or until a part of the system ends.
pub async fn run(arguments: Arguments) -> Result<()> {
    lab::raise_file_limit();
    let data_dir = arguments.data_dir.clone().map_or_else(default_data_dir, Ok)?;
    std::fs::create_dir_all(&data_dir).with_context(|| format!("--data-dir: creating {}", data_dir.display()))?;
    let stop = CancellationToken::new();
    let mut parts: JoinSet<Result<()>> = JoinSet::new();

    // The API first: everything else is its client.
    let mut config = apiserver::Config::new(&data_dir);
    config.names = vec![arguments.api_listen.ip().to_string()];
    if arguments.die_at.is_some() {
        config.limits.group = 1;
    }
    let api = Arc::new(apiserver::ApiServer::open(config).await.context("opening the embedded API")?);
    if let Some(at) = arguments.die_at {
        crate::die::arm(api.store(), at);
    }
    let listener = TcpListener::bind(arguments.api_listen)
        .await
        .with_context(|| format!("--api-listen: listening on {}", arguments.api_listen))?;
    let api_url = format!("https://{}", listener.local_addr()?);
    let kubeconfig = arguments.kubeconfig.clone().unwrap_or_else(|| data_dir.join("kubeconfig"));
    let serve = api.serve_tls(listener, stop.child_token());
    parts.spawn(async move { serve.await.context("serving the API") });
    let admin = Client::new(api.router(apiserver::Identity::admin()), "default");
    install::everything(&admin).await?;
    if arguments.api_only {
        api.write_kubeconfig(&kubeconfig, &api_url).context("writing the kubeconfig")?;
        println!(
            "Kubernetes API   {api_url}\nkubeconfig       {}\nneither operator nor boot server: --api-only",
            kubeconfig.display()
        );
        let ended = until_the_end(&mut parts).await;
        stop.cancel();
        while parts.join_next().await.is_some() {}
        api.shutdown().await;
        return ended;
    }
    let advertise = advertised(&arguments)?;
    // Each part is its own service account, with the rights that it has in a cluster and no others.
    let netboot_client = account::client(&api, &admin, NETBOOT_NAMESPACE, NETBOOT, &mut parts, stop.child_token()).await?;
    let operator_client = account::client(&api, &admin, OPERATOR_NAMESPACE, OPERATOR, &mut parts, stop.child_token()).await?;

    // One machine, one LAN, no BMC: nobody could prove an identity here. Each use is told in an event.
    let mut decisions = arguments.decisions.config(true);
    decisions.image_store = arguments.image_store;
    decisions.starts = arguments.starts.limits();
    let mut netboot = netboot::Config::new(netboot_client, "up");
    netboot.namespace = NETBOOT_NAMESPACE.to_owned();
    netboot.http = arguments.http_listen;
    netboot.tls = arguments.agent_listen;
    netboot.advertise = advertise.clone();
    netboot.image_dir = arguments.image_dir.clone();
    netboot.image_store = arguments
        .image_store
        .then(|| netboot::StoreConfig::new(data_dir.join("image-store"), arguments.image_store_size << 30));
    arguments.lan.configure(&mut netboot);
    netboot.decisions = decisions.clone();
    if let Some(machines) = arguments.lab_machines {
        netboot.quotas = netboot::Quotas::for_lab(machines as usize);
    }
    // One that is not there yet is an empty one: machines boot their own disks until media are built into it.
    netboot.media_dir = Some(arguments.media_dir.clone());
    let netboot = netboot::Netboot::start(netboot, stop.child_token())
        .await
        .context("starting the boot server")?;
    let addresses = netboot.addresses();
    tokio::time::timeout(Duration::from_secs(30), netboot.ready())
        .await
        .context("the boot server was not ready within 30 s")?;

    let servers = advertise
        .iter()
        .map(|host| format!("https://{}:{}", bracketed(host), addresses.tls.port()))
        .collect();
    let mut operator = operator::Config::new(operator_client, servers);
    operator.operator_namespace = OPERATOR_NAMESPACE.to_owned();
    operator.netboot_namespace = NETBOOT_NAMESPACE.to_owned();
    operator.lifecycle = decisions;
    operator.bmc_events = arguments.bmc_events.config()?;
    let operator = operator::Operator::run(operator, stop.child_token());
    parts.spawn(async move { operator.await.context("running the operator") });

    // Last, so that whoever waits for the file finds everything ready.
    api.write_kubeconfig(&kubeconfig, &api_url).context("writing the kubeconfig")?;
    let boot_url = format!("http://{}:{}/boot/ipxe", bracketed(&advertise[0]), addresses.http.port());
    println!("Kubernetes API   {api_url}");
    println!("kubeconfig       {}", kubeconfig.display());
    println!("boot URL         {boot_url}");
    if !arguments.media_dir.is_dir() {
        println!(
            "no boot media in {}: build them with `kube-baremetal bootmedia build`, then start again",
            arguments.media_dir.display()
        );
    }
    println!("\nWhat to do next:");
    match arguments.lan.interfaces() {
        [] => println!(
            "  1. Start again with --dhcp INTERFACE, or let your DHCP server hand out that URL as boot file (option 67) to iPXE; UEFI and BIOS machines without iPXE get it by TFTP first."
        ),
        interfaces => println!(
            "  1. Let machines boot from the network on {}: your DHCP server stays as it is, unless a BareMetalNetwork says dhcp: Full.",
            interfaces
                .iter()
                .map(|interface| interface.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
    println!(
        "  2. Switch a machine on, then:   export KUBECONFIG={}; kubectl get bmd -w",
        kubeconfig.display()
    );
    println!("  3. Accept machines with a BareMetalDiscoveryPolicy, add a BareMetalImage, create a BareMetalInstance (see examples/).");

    let ended = until_the_end(&mut parts).await;
    stop.cancel();
    netboot.stopped(Duration::from_secs(5)).await;
    while let Some(part) = parts.join_next().await {
        if let Ok(Err(error)) = part {
            tracing::warn!("while stopping: {error:#}");
        }
    }
    api.shutdown().await;
    ended
}

/// Waits for a signal, or for a part that ends.
async fn until_the_end(parts: &mut JoinSet<Result<()>>) -> Result<()> {
    tokio::select! {
        signal = signalled() => signal,
        part = parts.join_next() => match part {
            Some(Ok(Ok(()))) => Err(anyhow::anyhow!("a part of the system ended by itself")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(anyhow::Error::from(error).context("a part of the system failed")),
            None => Ok(()),
        },
    }
}

fn default_data_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_DATA_HOME") {
        Some(path) => PathBuf::from(path),
        None => {
            let home = std::env::var_os("HOME").context("neither --data-dir nor $HOME says where to keep data")?;
            PathBuf::from(home).join(".local/share")
        }
    };
    Ok(base.join("kube-baremetal"))
}

/// The addresses that machines are told.
fn advertised(arguments: &Arguments) -> Result<Vec<String>> {
    if !arguments.advertise.is_empty() {
        return Ok(arguments.advertise.clone());
    }
    if !arguments.http_listen.ip().is_unspecified() {
        return Ok(vec![arguments.http_listen.ip().to_string()]);
    }
    // Connecting a UDP socket sends nothing; it only asks the kernel which of our addresses faces that way.
    let facing = |own, other| {
        let socket = std::net::UdpSocket::bind::<SocketAddr>(own)?;
        socket.connect::<SocketAddr>(other)?;
        socket.local_addr()
    };
    let v4 = facing((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let found = v4.or_else(|_| {
        facing(
            (Ipv6Addr::UNSPECIFIED, 0).into(),
            (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into(),
        )
    });
    let address = found
        .context("--advertise was not given, and this host has no default route: say by which address machines reach it")?
        .ip();
    ensure!(
        !address.is_loopback(),
        "--advertise was not given, and only the loopback was found: say by which address machines reach this host"
    );
    Ok(vec![address.to_string()])
}
