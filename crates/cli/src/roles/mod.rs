//! The roles as processes of their own, beside each other on any Kubernetes API: `kube-baremetal operator` and `kube-baremetal netboot`.
//!
//! What they share they share through the API: objects, and the Secrets in netboot's namespace. Neither knows of the other, but for the URLs by which machines reach netboot.

pub mod netboot;
pub mod operator;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ::netboot::LanInterface;
use anyhow::{Context, Result};
use api::DhcpMode;
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Where the operator's Secrets and its Lease are.
pub const OPERATOR_NAMESPACE: &str = "kube-baremetal-system";
/// Where netboot's keys and the sealed seeds are.
pub const NETBOOT_NAMESPACE: &str = "kube-baremetal-netboot";

/// Which Kubernetes API.
#[derive(Debug, clap::Args)]
pub struct Cluster {
    /// Kubeconfig of the Kubernetes API. Default: $KUBECONFIG, else ~/.kube/config, else the service account of the pod.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

impl Cluster {
    /// Whether somebody said which one.
    pub fn is_named(&self) -> bool {
        self.kubeconfig.is_some() || std::env::var_os("KUBECONFIG").is_some()
    }

    /// A client of it.
    pub async fn client(&self) -> Result<Client> {
        let config = match &self.kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig: reading {}", path.display()))?;
                kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                    .await
                    .with_context(|| format!("--kubeconfig: {} cannot be used", path.display()))?
            }
            None => kube::Config::infer()
                .await
                .context("no Kubernetes API: give --kubeconfig, or run as a pod with a service account")?,
        };
        Client::try_from(config).context("making a client of the Kubernetes API")
    }
}

/// Choices that operator and netboot must agree on.
#[derive(Debug, clap::Args)]
pub struct Decisions {
    /// What a machine that nobody accepted gets.
    #[arg(long, value_enum, env = "KBM_UNACCEPTED", default_value = "inventory")]
    unaccepted: Unaccepted,
    /// Seconds for which a machine that was told to boot its disk must not ask again to count as running, where no guest helper reports.
    #[arg(long, env = "KBM_LOCAL_BOOT_CONFIRMED_AFTER", default_value_t = 180, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    local_boot_confirmed_after: u32,
}

/// How many machines are switched on at once.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Starts {
    /// So many machines are switched on, or off and on, in a minute; the others wait for their turn.
    #[arg(long, env = "KBM_STARTS_PER_MINUTE", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    starts_per_minute: u32,
    /// So many of one rack, which their label kube-baremetal.io/rack names.
    #[arg(long, env = "KBM_STARTS_PER_MINUTE_PER_RACK", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    starts_per_minute_per_rack: u32,
}

impl Starts {
    /// As the decisions take it.
    pub fn limits(self) -> lifecycle::pacing::Limits {
        lifecycle::pacing::Limits {
            per_minute: self.starts_per_minute,
            per_minute_per_rack: self.starts_per_minute_per_rack,
        }
    }
}

/// Where BMCs send their events.
#[derive(Debug, Clone, clap::Args)]
pub struct BmcEvents {
    /// URL by which BMCs reach this operator, so that they can tell when a machine is switched: `https://host:port`; `http://` is taken by few BMCs. Left out: the operator listens to the
    /// events of some BMCs, and asks the others from time to time.
    #[arg(long, env = "KBM_BMC_EVENTS_URL", value_name = "URL", value_parser = events_url)]
    bmc_events_url: Option<String>,
    /// Where events of BMCs are received, by TLS if the URL is one of https.
    #[arg(long, env = "KBM_BMC_EVENTS_LISTEN", default_value = "[::]:9443")]
    bmc_events_listen: SocketAddr,
    /// Certificate (PEM) for that URL. Left out: one is made at each start, and BMCs are told not to check it.
    #[arg(long, env = "KBM_BMC_EVENTS_CERTIFICATE", value_name = "FILE", requires_all = ["bmc_events_key", "bmc_events_url"])]
    bmc_events_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "KBM_BMC_EVENTS_KEY", value_name = "FILE", requires = "bmc_events_certificate")]
    bmc_events_key: Option<PathBuf>,
}

impl BmcEvents {
    /// As the operator takes it.
    pub fn config(&self) -> Result<Option<::operator::BmcEvents>> {
        let Some(url) = &self.bmc_events_url else { return Ok(None) };
        let read = |option: &str, path: &PathBuf| std::fs::read(path).with_context(|| format!("{option}: reading {}", path.display()));
        let identity = match (&self.bmc_events_certificate, &self.bmc_events_key) {
            (Some(certificate), Some(key)) => Some((
                read("--bmc-events-certificate", certificate)?,
                read("--bmc-events-key", key)?.into(),
            )),
            _ => None,
        };
        Ok(Some(::operator::BmcEvents {
            url: url.clone(),
            listen: self.bmc_events_listen,
            identity,
        }))
    }
}

/// `https://host:port`, perhaps with a path.
fn events_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.ok_or_else(|| "it must begin with https:// or http://".to_owned())?;
    if rest.is_empty() || rest.starts_with('/') || rest.contains(['@', '?', '#', ' ']) {
        return Err("write it as https://host:port, without credentials and query".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// What a machine that nobody accepted gets.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Unaccepted {
    /// Its own disk, at once.
    Ignore,
    /// An inventory, some minutes to be accepted, then its own disk.
    Inventory,
    /// The agent, until somebody decides.
    Hold,
}

impl Decisions {
    /// As the decisions take it.
    pub fn config(&self, allow_asserted_identity: bool) -> lifecycle::config::Config {
        lifecycle::config::Config {
            unaccepted: match self.unaccepted {
                Unaccepted::Ignore => lifecycle::config::UnacceptedPolicy::Ignore,
                Unaccepted::Inventory => lifecycle::config::UnacceptedPolicy::Inventory,
                Unaccepted::Hold => lifecycle::config::UnacceptedPolicy::Hold,
            },
            allow_asserted_identity,
            local_boot_confirmed_after: jiff::SignedDuration::from_secs(self.local_boot_confirmed_after.into()),
            ..lifecycle::config::Config::default()
        }
    }
}

/// Network boot on a LAN, beside the DHCP server that is there or as that server.
#[derive(Debug, Clone, clap::Args)]
pub struct Lan {
    /// Answer machines on this interface by DHCP, and serve them a boot loader over TFTP; may be given more than once. `=proxy`: boot parameters beside the DHCP server that is there, never
    /// an address. `=full`: addresses too, on networks whose BareMetalNetwork says Full, and no answer on others. `=off`: no DHCP. Without a mode the BareMetalNetwork of the interface's
    /// address says it, and where there is none it is proxy. Needs root, or CAP_NET_BIND_SERVICE and CAP_NET_RAW.
    #[arg(long, env = "KBM_DHCP", value_name = "INTERFACE[=off|proxy|full]", value_delimiter = ',', value_parser = interface)]
    dhcp: Vec<LanInterface>,
    /// Folders with boot loaders as the packages ipxe, shim-signed and grub-efi-*-signed install them.
    #[arg(
        long,
        env = "KBM_LOADERS",
        value_name = "FOLDER",
        value_delimiter = ',',
        default_value = "/usr/lib/ipxe,/usr/lib/shim,/usr/lib/grub"
    )]
    loaders: Vec<PathBuf>,
    /// What machines with UEFI load: shim and the signed GRUB, which start whether Secure Boot is on or off, or iPXE, which Secure Boot refuses. Where the signed ones are not among
    /// the loaders, it is iPXE.
    #[arg(long, env = "KBM_UEFI_LOADER", value_enum, default_value_t = UefiLoader::Signed)]
    uefi_loader: UefiLoader,
    /// Send all of TFTP from port 69, for firewalls that know nothing of TFTP.
    #[arg(long, env = "KBM_TFTP_SINGLE_PORT")]
    tftp_single_port: bool,
}

/// Names of [`::netboot::UefiLoader`].
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum UefiLoader {
    /// Shim and the signed GRUB.
    Signed,
    /// iPXE.
    Ipxe,
}

impl Lan {
    /// As netboot takes it.
    pub fn configure(&self, netboot: &mut ::netboot::Config) {
        netboot.loaders = self.loaders.clone();
        netboot.uefi_loader = match self.uefi_loader {
            UefiLoader::Signed => ::netboot::UefiLoader::Signed,
            UefiLoader::Ipxe => ::netboot::UefiLoader::Ipxe,
        };
        netboot.lan = (!self.dhcp.is_empty()).then(|| ::netboot::LanConfig {
            interfaces: self.dhcp.clone(),
            tftp_single_port: self.tftp_single_port,
            ports: ::netboot::LanPorts::default(),
        });
    }

    /// Interfaces on which machines are answered by DHCP.
    pub fn interfaces(&self) -> &[LanInterface] {
        &self.dhcp
    }
}

/// `eth0` or `eth0=full`.
fn interface(text: &str) -> Result<LanInterface, String> {
    let (name, mode) = match text.split_once('=') {
        Some((name, mode)) => (name, Some(mode)),
        None => (text, None),
    };
    let dhcp = match mode {
        None => None,
        Some("off") => Some(DhcpMode::Off),
        Some("proxy") => Some(DhcpMode::Proxy),
        Some("full") => Some(DhcpMode::Full),
        Some(other) => return Err(format!("{other:?} is no mode: it is off, proxy or full")),
    };
    Ok(LanInterface {
        name: name.to_owned(),
        dhcp,
    })
}

/// A host as it stands in a URL.
pub fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.to_owned(),
    }
}

/// Waits for SIGINT or SIGTERM.
pub async fn signalled() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.context("listening for SIGINT"),
        _ = terminate.recv() => Ok(()),
    }
}

/// This process among its replicas, where nobody named it: the host's name, which is the pod's.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_for_events_has_no_credentials_and_no_slash_at_its_end() {
        assert_eq!(events_url("https://kbm.example:9443/"), Ok("https://kbm.example:9443".to_owned()));
        assert_eq!(
            events_url("http://[2001:db8::1]:9443/kbm"),
            Ok("http://[2001:db8::1]:9443/kbm".to_owned())
        );
        for wrong in [
            "kbm.example",
            "https://",
            "https:///x",
            "https://u:p@kbm.example",
            "https://kbm.example/?a=b",
        ] {
            assert!(events_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_interface_may_come_with_a_mode() {
        let of = |text| interface(text).map(|i| (i.name, i.dhcp));
        assert_eq!(of("eth0"), Ok(("eth0".to_owned(), None)));
        assert_eq!(of("br-lan=full"), Ok(("br-lan".to_owned(), Some(DhcpMode::Full))));
        assert_eq!(of("eth0=off"), Ok(("eth0".to_owned(), Some(DhcpMode::Off))));
        assert!(of("eth0=both").unwrap_err().contains("off, proxy or full"));
    }
}
