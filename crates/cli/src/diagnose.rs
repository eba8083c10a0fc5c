//! `kube-baremetal timeline`, `netboot doctor` and `netboot options`: why does a machine not boot, and what to write into a DHCP server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    process::ExitCode,
    time::Duration,
};

use agent_protocol::identity::MacAddress;
use anyhow::{Context, Result};
use api::{BareMetalDiscovery, BareMetalNetwork, timeline::BootTimeline};
use dhcp::arch::Loaders;
use doctor::{
    judge::{self, Expected, Finding, Verdict},
    probe::{self, link},
    recipes::{Format, Plan},
    timeline,
};
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::roles::Cluster;

/// Nothing could be looked at.
const COULD_NOT_LOOK: u8 = 2;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print what to write into a DHCP server so that its network boots from here, where our own DHCP and ProxyDHCP are off.
    Options(OptionsArguments),
    /// Find out why machines do not boot from a network: plays the machine on an interface, tries the boot server, looks at boot timelines. Changes nothing. Needs root. Exit code 0: no
    /// problem, 1: problems were found, 2: it could not look.
    Doctor(DoctorArguments),
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum UefiLoader {
    /// Shim and the signed GRUB: start whether Secure Boot is on or off.
    Signed,
    /// iPXE, which Secure Boot refuses.
    Ipxe,
}

impl UefiLoader {
    fn loaders(self) -> Loaders {
        match self {
            Self::Signed => Loaders::SecureBoot,
            Self::Ipxe => Loaders::Ipxe,
        }
    }
}

/// Text, or JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("boot_server").required(true).args(["server", "interface", "network"])))]
pub struct OptionsArguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Address of the boot server. One of IPv6: what a DHCPv6 server is to be told.
    #[arg(long)]
    server: Option<IpAddr>,
    /// The boot server is this host, by its address on this interface.
    #[arg(long)]
    interface: Option<String>,
    /// The boot server is this host, by its address in this BareMetalNetwork.
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The DHCP server that is to be told.
    #[arg(long, value_parser = parse_format)]
    format: Format,
    /// Port of scripts and boot media.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// What machines with UEFI load.
    #[arg(long, value_enum, default_value_t = UefiLoader::Ipxe)]
    uefi_loader: UefiLoader,
    /// Also what UEFI HTTP boot asks for. The boot server has to serve its loaders over HTTP.
    #[arg(long)]
    http_boot: bool,
}

#[derive(Debug, clap::Args)]
pub struct DoctorArguments {
    #[command(flatten)]
    cluster: Cluster,
    /// The interface on which machines boot.
    #[arg(long)]
    interface: String,
    /// Address of the boot server. Default: this host's, on the interface. What a firewall does is only seen from another host.
    #[arg(long)]
    server: Option<Ipv4Addr>,
    /// Its port of scripts and boot media.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Its port of agents.
    #[arg(long, default_value_t = 8443)]
    tls_port: u16,
    /// What machines with UEFI are to load.
    #[arg(long, value_enum, default_value_t = UefiLoader::Ipxe)]
    uefi_loader: UefiLoader,
    /// Seconds for which DHCP servers are listened to.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=120))]
    patience: u64,
    /// How findings are printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub struct TimelineArguments {
    #[command(flatten)]
    cluster: Cluster,
    /// Name of the BareMetalDiscovery, or a MAC address that booted.
    name: String,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

fn parse_format(text: &str) -> Result<Format, String> {
    let names = || Format::ALL.map(Format::name).join(", ");
    let found = Format::ALL.into_iter().find(|format| format.name() == text);
    found.ok_or_else(|| format!("is one of {}", names()))
}

/// `kube-baremetal netboot options` and `doctor`.
pub async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Options(arguments) => options(arguments).await.map(|()| ExitCode::SUCCESS),
        Command::Doctor(arguments) => match examine(arguments).await {
            Ok(Verdict::Problem) => Ok(ExitCode::FAILURE),
            Ok(Verdict::Good | Verdict::Unknown | Verdict::Warning) => Ok(ExitCode::SUCCESS),
            Err(error) => {
                eprintln!("kube-baremetal: {error:#}");
                Ok(ExitCode::from(COULD_NOT_LOOK))
            }
        },
    }
}

async fn options(arguments: OptionsArguments) -> Result<()> {
    let own = match (&arguments.interface, &arguments.network) {
        (Some(interface), _) => {
            let link = link::read(interface).context("--interface")?;
            let first = link.addresses.first().copied();
            Some(first.with_context(|| format!("--interface: {interface} has no IPv4 address"))?)
        }
        (None, Some(network)) => Some(own_address_in(&arguments.cluster, network).await?),
        (None, None) => None,
    };
    let server = arguments.server.or(own.map(|own| own.address.into()));
    let server = server.context("name the boot server with --server, --interface or --network")?;
    let mut plan = Plan::new(server, arguments.http_port, arguments.uefi_loader.loaders(), arguments.http_boot)?;
    if let Some(own) = own {
        plan = plan.with_scope(own.network());
    }
    print!("{}", plan.recipe(arguments.format)?);
    Ok(())
}

/// This host's address in the prefix of a BareMetalNetwork.
async fn own_address_in(cluster: &Cluster, name: &str) -> Result<link::Address> {
    let networks: Api<BareMetalNetwork> = Api::all(cluster.client().await?);
    let network = networks
        .get(name)
        .await
        .with_context(|| format!("--network: reading BareMetalNetwork {name}"))?;
    let plan = network
        .spec
        .ipv4
        .with_context(|| format!("--network: BareMetalNetwork {name} has no ipv4"))?;
    let prefix =
        ipv4_prefix(&plan.prefix).with_context(|| format!("--network: {:?} of BareMetalNetwork {name} is no IPv4 prefix", plan.prefix))?;
    let own = link::own_addresses().context("--network: reading this host's addresses")?;
    own.into_iter().find(|own| prefix.holds(own.address)).with_context(|| {
        format!(
            "--network: this host has no address in {} of BareMetalNetwork {name}; name the boot server with --server",
            plan.prefix
        )
    })
}

fn ipv4_prefix(text: &str) -> Option<link::Address> {
    let (address, length) = text.split_once('/')?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    Some(link::Address {
        address: address.parse().ok()?,
        netmask: Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - length).unwrap_or(0)),
    })
}

async fn examine(arguments: DoctorArguments) -> Result<Verdict> {
    let settings = probe::Settings {
        interface: arguments.interface,
        server: arguments.server,
        http_port: arguments.http_port,
        tls_port: arguments.tls_port,
        patience: Duration::from_secs(arguments.patience),
    };
    let (machines, networks) = match arguments.cluster.is_named() {
        true => (Some(machines(&arguments.cluster).await?), networks(&arguments.cluster).await),
        false => (None, Ok(Vec::new())),
    };
    let facts = tokio::task::spawn_blocking(move || probe::look(&settings))
        .await
        .context("looking")??;
    let server = facts.boot_server.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |server| server.address);
    let plan = Plan::new(server.into(), arguments.http_port, arguments.uefi_loader.loaders(), false)?;
    let here = facts
        .link
        .addresses
        .iter()
        .map(|own| own.address)
        .chain([server])
        .collect::<Vec<_>>();
    let known = networks.as_deref().unwrap_or_default();
    let expected = Expected {
        table: plan.table(),
        replicas: &replicas(known, &here, Timestamp::now()),
        reserved_only: false,
    };
    let mut findings = judge::judge(&facts, expected, machines.as_deref());
    if let Err(error) = &networks {
        findings.push(Finding {
            check: "replicas",
            verdict: Verdict::Warning,
            seen: format!("other replicas of the boot server are not known, and seem to be strangers: {error:#}"),
            remedy: "give a kubeconfig that may list baremetalnetworks".to_owned(),
        });
    }
    let worst = judge::worst(&findings);
    match arguments.output {
        Output::Text => print!("{}", judge::render(&findings)),
        Output::Json => println!("{:#}", json!({ "verdict": worst, "findings": findings, "facts": facts })),
    }
    Ok(worst)
}

fn boots(discovery: &BareMetalDiscovery) -> &[BootTimeline] {
    discovery.status.as_ref().map_or(&[], |status| status.timelines.as_slice())
}

async fn machines(cluster: &Cluster) -> Result<Vec<judge::Machine>> {
    let discoveries: Api<BareMetalDiscovery> = Api::all(cluster.client().await?);
    let all = discoveries
        .list(&Default::default())
        .await
        .context("listing BareMetalDiscoveries")?;
    Ok(all.items.iter().map(|d| (d.name_any(), boots(d).to_vec())).collect())
}

async fn networks(cluster: &Cluster) -> Result<Vec<BareMetalNetwork>> {
    let networks: Api<BareMetalNetwork> = Api::all(cluster.client().await?);
    let all = networks.list(&Default::default()).await.context("listing BareMetalNetworks")?;
    Ok(all.items)
}

/// Addresses of netboot's replicas, as they report them now, on those networks that hold one of these addresses.
fn replicas(networks: &[BareMetalNetwork], here: &[Ipv4Addr], now: Timestamp) -> BTreeSet<Ipv4Addr> {
    let is_here = |network: &&BareMetalNetwork| {
        let prefix = network.spec.ipv4.as_ref().and_then(|plan| ipv4_prefix(&plan.prefix));
        prefix.is_some_and(|prefix| here.iter().any(|address| prefix.holds(*address)))
    };
    let statuses = networks.iter().filter(is_here).filter_map(|network| network.status.as_ref());
    let reports = statuses.flat_map(|status| status.fresh_reports(now));
    reports.filter_map(|report| report.address.parse().ok()).collect()
}

/// `kube-baremetal timeline`.
pub async fn timeline(arguments: TimelineArguments) -> Result<()> {
    let discoveries: Api<BareMetalDiscovery> = Api::all(arguments.cluster.client().await?);
    let name = &arguments.name;
    let found = match name.parse::<MacAddress>() {
        Ok(mac) => {
            let all = discoveries
                .list(&Default::default())
                .await
                .context("listing BareMetalDiscoveries")?;
            let booted = |d: &BareMetalDiscovery| boots(d).iter().any(|boot| boot.mac == mac);
            let found = all.items.into_iter().find(booted);
            found.with_context(|| {
                format!(
                    "no boot of {mac} was seen, or it is going on: a boot is written down when it ends, or half a minute after it stopped"
                )
            })?
        }
        Err(_) => discoveries
            .get(name)
            .await
            .with_context(|| format!("reading BareMetalDiscovery {name} (kubectl get bmd lists them)"))?,
    };
    match arguments.output {
        Output::Text => print!("{}", timeline::render(&found.name_any(), boots(&found), Timestamp::now())),
        Output::Json => {
            let stop = timeline::stop(boots(&found))
                .map(|stop| json!({ "reason": stop.reason, "seen": stop.seen, "usually": stop.usually, "remedy": stop.remedy }));
            println!(
                "{:#}",
                json!({ "name": found.name_any(), "timelines": boots(&found), "stopped": stop })
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_those_that_report_now_on_networks_that_are_here() {
        let network = |name: &str, prefix: &str, address: &str, time: &str| -> BareMetalNetwork {
            serde_json::from_value(json!({
                "apiVersion": "kube-baremetal.io/v1alpha1", "kind": "BareMetalNetwork", "metadata": { "name": name },
                "spec": { "ipv4": { "prefix": prefix } },
                "status": { "netboot": [{ "replica": "a", "interface": "eth0", "address": address, "time": time }] },
            }))
            .unwrap()
        };
        let networks = [
            network("lan", "10.0.0.0/24", "10.0.0.2", "2026-01-02T00:00:00Z"),
            network("old", "10.0.0.0/16", "10.0.0.3", "2026-01-01T00:00:00Z"),
            network("other", "10.9.0.0/24", "10.9.0.2", "2026-01-02T00:00:00Z"),
        ];
        let now = "2026-01-02T01:00:00Z".parse().unwrap();
        let found = replicas(&networks, &[Ipv4Addr::new(10, 0, 0, 77)], now);
        assert_eq!(found, BTreeSet::from([Ipv4Addr::new(10, 0, 0, 2)]));
    }
}
