//! How a replica is set up. Plain values: whoever starts netboot (the `cli` crate) parses flags into them.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use api::DhcpMode;

use crate::error::Error;

/// Most URLs that an agent is told besides that of the replica which booted it.
const MAX_SERVERS: usize = 15;

/// Bounds on what strangers can make this replica do.
#[derive(Debug, Clone)]
pub struct Quotas {
    /// Open connections in all, per listener.
    pub connections: usize,
    /// Open connections of one source address, per listener. Machines behind one NAT share it.
    pub connections_per_source: usize,
    /// Requests for a session of one source address per minute, known machine or not.
    pub sessions_per_minute: u32,
    /// Discoveries that one source address may cause to be created per minute.
    pub creations_per_minute: u32,
    /// Boot requests of one source address per minute.
    pub boots_per_minute: u32,
    /// Discoveries without hardware, in all. Beyond it no unknown machine is taken in until some are accepted or deleted.
    pub unaccepted: usize,
    /// Discoveries of machines that began to boot and never reached the agent. They count among the unaccepted, too.
    pub unfinished: usize,
    /// Progress writes per second of this replica.
    pub progress_writes_per_second: u32,
    /// Time for one request's header, and for idle connections.
    pub header_timeout: Duration,
    /// Time for one request's body.
    pub body_timeout: Duration,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_source: 512,
            sessions_per_minute: 600,
            creations_per_minute: 20,
            boots_per_minute: 1_200,
            unaccepted: 2_000,
            unfinished: 64,
            progress_writes_per_second: 20,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(15),
        }
    }
}

impl Quotas {
    /// For a lab in which every machine comes from one address: per-source bounds are wide, the bounds of the whole stay.
    pub fn for_lab(machines: usize) -> Self {
        let machines = u32::try_from(machines.max(1)).unwrap_or(u32::MAX);
        Self {
            connections: (machines as usize).saturating_mul(4).max(1_024),
            connections_per_source: (machines as usize).saturating_mul(4).max(1_024),
            sessions_per_minute: machines.saturating_mul(60).max(6_000),
            creations_per_minute: machines.saturating_mul(60).max(6_000),
            boots_per_minute: machines.saturating_mul(60).max(6_000),
            unaccepted: (machines as usize).saturating_add(2_000),
            ..Self::default()
        }
    }
}

/// What this replica is to machines that cannot speak HTTP yet: DHCP, beside the network's own server or as that server, and TFTP with boot loaders.
#[derive(Debug, Clone)]
pub struct LanConfig {
    /// Interfaces on which machines boot. Not empty.
    pub interfaces: Vec<LanInterface>,
    /// Send all of TFTP from port 69, for firewalls that know nothing of TFTP.
    pub tftp_single_port: bool,
    /// Where machines find all that: never anything but the default, but for tests that have no right to these ports.
    pub ports: LanPorts,
}

/// An interface on which machines boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanInterface {
    /// Its name.
    pub name: String,
    /// Which DHCP service machines get there. Left out: what the BareMetalNetwork of their address says, and `Proxy` where there is none. `Full` is what a network has to say too: on one that
    /// does not, nobody is answered then.
    pub dhcp: Option<DhcpMode>,
}

impl LanInterface {
    /// Which service machines of a network get there, whose object says so.
    pub(crate) fn mode(&self, said: DhcpMode) -> DhcpMode {
        match self.dhcp {
            None => said,
            Some(DhcpMode::Full) if said != DhcpMode::Full => DhcpMode::Off,
            Some(mode) => mode,
        }
    }

    /// Whether addresses may be given out there, if a network says so.
    pub(crate) fn may_give(&self) -> bool {
        matches!(self.dhcp, None | Some(DhcpMode::Full))
    }
}

/// UDP ports that firmware knows by heart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanPorts {
    /// DHCP (RFC 2131, 4.1).
    pub dhcp: u16,
    /// The DHCP client's (RFC 2131, 4.1).
    pub client: u16,
    /// DHCPv6 (RFC 8415, 7.2).
    pub dhcp_v6: u16,
    /// The DHCPv6 client's (RFC 8415, 7.2).
    pub client_v6: u16,
    /// The boot server's (PXE 2.1, 2.4.2).
    pub pxe: u16,
    /// TFTP (RFC 1350).
    pub tftp: u16,
}

impl Default for LanPorts {
    fn default() -> Self {
        Self {
            dhcp: 67,
            client: 68,
            dhcp_v6: 547,
            client_v6: 546,
            pxe: 4011,
            tftp: 69,
        }
    }
}

/// Which boot loader machines with UEFI get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UefiLoader {
    /// Shim and the signed GRUB, where they are among the loaders: they start whether Secure Boot is on or off. Else iPXE.
    #[default]
    Signed,
    /// iPXE, which firmware with Secure Boot on refuses.
    Ipxe,
}

/// How the image store is set up.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Its folder, of this replica alone.
    pub path: PathBuf,
    /// Most bytes in it.
    pub quota: u64,
    /// URL by which machines and other replicas reach the plain HTTP listener of this replica, as in `http://192.0.2.10:8080`. Left out: made of the first advertised host.
    pub url: Option<String>,
    /// How often a preparation's progress is written, which also renews the claim to it.
    pub heartbeat: Duration,
    /// A claim that was not renewed for so long is taken over.
    pub claim_lost_after: Duration,
}

impl StoreConfig {
    /// A store in this folder of at most so many bytes.
    pub fn new(path: impl Into<PathBuf>, quota: u64) -> Self {
        Self {
            path: path.into(),
            quota,
            url: None,
            heartbeat: Duration::from_secs(5),
            claim_lost_after: Duration::from_secs(60),
        }
    }
}

/// Holes on purpose, so that the adversary tests are seen to find them. All closed by default.
#[cfg(feature = "planted-holes")]
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct PlantedHoles {
    /// A boot token may be redeemed again, by any key.
    pub token_reuse: bool,
    /// Destructive orders are handed out from the cache.
    pub no_fresh_read: bool,
    /// The seed is served as often as it is asked for.
    pub seed_reuse: bool,
}

/// Everything a replica needs to know.
#[derive(Clone)]
pub struct Config {
    /// Client of the Kubernetes API.
    pub client: kube::Client,
    /// Namespace with `netboot-keys` and the sealed seeds.
    pub namespace: String,
    /// Name of this replica, stable across restarts; stands in sessions.
    pub replica: String,
    /// Where boot scripts, boot media and images are served over plain HTTP. `[::]` is everywhere, by IPv4 and IPv6; on a host without IPv6, by IPv4. Port 0 chooses one.
    pub http: SocketAddr,
    /// Where agents and guests are served over TLS, as with `http`. Port 0 chooses one.
    pub tls: SocketAddr,
    /// Hosts (names or addresses, without port) by which machines reach this replica. The first one of the request's family is used where its own
    /// `Host` header is neither an IP address nor listed here. Empty: the address the request came in on.
    pub advertise: Vec<String>,
    /// Port that machines dial for TLS, where it is not the one listened on (NAT, load balancer).
    pub advertise_tls_port: Option<u16>,
    /// Base URLs (`https://host:port`) of all replicas. Agents are told of the replica that booted them first and of these after it, to be tried when it fails.
    pub servers: Vec<String>,
    /// Folder with a folder for each architecture (`amd64`, `arm64`), which has `vmlinuz` and `initramfs.zst` (or `initramfs`).
    pub media_dir: Option<PathBuf>,
    /// Folder whose regular files are served as `/images/<name>`.
    pub image_dir: Option<PathBuf>,
    /// The image store. Without it machines fetch images from their URLs.
    pub image_store: Option<StoreConfig>,
    /// Folders with boot loaders as a distribution's packages put them: iPXE (`undionly.kpxe`, `snponly.efi`), shim (`shimx64.efi.signed`) and GRUB
    /// (`x86_64-efi-signed/grubnetx64.efi.signed`).
    pub loaders: Vec<PathBuf>,
    /// Which of them machines with UEFI get.
    pub uefi_loader: UefiLoader,
    /// DHCP and TFTP. Without them somebody else's DHCP server points machines at us.
    pub lan: Option<LanConfig>,
    /// Further words for the kernel command line, checked at start.
    pub kernel_arguments: Vec<String>,
    /// Times and choices of the decisions: what an unaccepted machine gets, whether an asserted identity is enough, ... The same as the operator's.
    pub decisions: lifecycle::config::Config,
    /// How long a boot token is good.
    pub token_life: Duration,
    /// How long `GET /agent/v1/order` is held.
    pub poll: Duration,
    /// How long a machine may be silent before it counts as lost.
    pub lost_after: Duration,
    /// By this time a machine that was told to boot its own disk has asked for that again, or its system has reported.
    pub departed_after: Duration,
    /// A boot of which nothing was seen for so long has stopped, unless it ended in the agent or in the machine's own disk.
    pub boot_stopped_after: Duration,
    /// How often the API is asked whether it is there (and whether the keys changed).
    pub probe: Duration,
    /// Longest wait for one answer of the API.
    pub api_timeout: Duration,
    /// Bounds.
    pub quotas: Quotas,
    /// Holes on purpose.
    #[cfg(feature = "planted-holes")]
    #[doc(hidden)]
    pub holes: PlantedHoles,
}

impl Config {
    /// A configuration with the defaults of `kube-baremetal up`.
    pub fn new(client: kube::Client, replica: impl Into<String>) -> Self {
        Self {
            client,
            namespace: "kube-baremetal-netboot".to_owned(),
            replica: replica.into(),
            http: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8080)),
            tls: SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8443)),
            advertise: Vec::new(),
            advertise_tls_port: None,
            servers: Vec::new(),
            media_dir: None,
            image_dir: None,
            image_store: None,
            loaders: Vec::new(),
            uefi_loader: UefiLoader::default(),
            lan: None,
            kernel_arguments: Vec::new(),
            decisions: lifecycle::config::Config {
                allow_asserted_identity: true,
                ..lifecycle::config::Config::default()
            },
            token_life: Duration::from_secs(600),
            poll: Duration::from_secs(30),
            lost_after: Duration::from_secs(90),
            departed_after: Duration::from_secs(300),
            boot_stopped_after: Duration::from_secs(30),
            probe: Duration::from_secs(5),
            api_timeout: Duration::from_secs(5),
            quotas: Quotas::default(),
            #[cfg(feature = "planted-holes")]
            holes: PlantedHoles::default(),
        }
    }

    /// Where packed images of this replica are, for whoever fetches them.
    pub(crate) fn images_url(&self, store: &StoreConfig, http: SocketAddr) -> String {
        if let Some(url) = &store.url {
            return format!("{}/images", url.trim_end_matches('/'));
        }
        match self.advertise.first().and_then(|h| boot_script::host::Host::parse(h)) {
            Some(host) => format!("http://{host}:{}/images", http.port()),
            None => format!("http://{http}/images"),
        }
    }

    /// The beginnings of URLs under which machines find the files of `image_dir`. They may lead nowhere from here: machines see this host through a NAT, or a lab's user networking.
    pub(crate) fn own_images(&self, http: SocketAddr) -> Vec<String> {
        let hosts = self.advertise.iter().filter_map(|h| boot_script::host::Host::parse(h));
        let advertised = hosts.map(|host| format!("http://{host}:{}/images/", http.port()));
        advertised.chain([format!("http://{http}/images/")]).collect()
    }

    /// Checks what would otherwise end up in a boot script or an object.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |field, problem: String| Err(Error::Config { field, problem });
        for host in &self.advertise {
            if boot_script::host::Host::parse(host).is_none() {
                return refuse(
                    "advertise",
                    format!("{host:?} is neither an IP address nor a DNS name (without port)"),
                );
            }
        }
        for url in &self.servers {
            let authority = url.strip_prefix("https://");
            if authority.and_then(boot_script::host::Host::parse_with_port).is_none() {
                return refuse(
                    "servers",
                    format!("{url:?} is not https://host:port with an IP address or a DNS name"),
                );
            }
        }
        if self.servers.len() > MAX_SERVERS {
            return refuse(
                "servers",
                format!("at most {MAX_SERVERS}: the kernel command line of an agent has no room for more"),
            );
        }
        for word in &self.kernel_arguments {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.,:=/@+".contains(&b);
            if word.is_empty() || word.len() > 256 || !word.bytes().all(plain) || word.starts_with("kbm.") {
                return refuse(
                    "kernelArguments",
                    format!("{word:?} is not allowed: use letters, digits and -_.,:=/@+ only, and no word that begins with kbm."),
                );
            }
        }
        if self.replica.is_empty() || self.replica.len() > 253 {
            return refuse("replica", "give this replica a name of at most 253 bytes".to_owned());
        }
        let quotas = &self.quotas;
        for (field, value) in [
            ("quotas.connections", quotas.connections),
            ("quotas.connectionsPerSource", quotas.connections_per_source),
            ("quotas.sessionsPerMinute", quotas.sessions_per_minute as usize),
            ("quotas.progressWritesPerSecond", quotas.progress_writes_per_second as usize),
        ] {
            if value == 0 {
                return refuse(field, "must be at least 1".to_owned());
            }
        }
        if let Some(store) = &self.image_store {
            let host = |url: &str| url.strip_prefix("http://").and_then(boot_script::host::Host::parse_with_port);
            if let Some(url) = store.url.as_deref().filter(|u| host(u).is_none()) {
                return refuse(
                    "imageStore.url",
                    format!("{url:?} is not http://host:port with an IP address or a DNS name"),
                );
            }
            if store.url.is_none() && self.advertise.is_empty() && self.http.ip().is_unspecified() {
                return refuse(
                    "imageStore.url",
                    "give the URL by which machines reach this replica, or an advertised host: images are fetched from there".to_owned(),
                );
            }
            if store.quota == 0 || store.heartbeat.is_zero() || store.claim_lost_after < store.heartbeat * 2 {
                return refuse(
                    "imageStore",
                    "the quota must be more than nothing, and a claim must outlast two heartbeats".to_owned(),
                );
            }
        }
        if let Some(lan) = &self.lan {
            // IFNAMSIZ of Linux, less its NUL.
            let usable = |name: &String| (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
            if let Some(bad) = lan.interfaces.iter().map(|i| &i.name).find(|name| !usable(name)) {
                return refuse("lan.interfaces", format!("{bad:?} is no name of a network interface"));
            }
            if lan.interfaces.is_empty() {
                return refuse("lan.interfaces", "name the interface on which machines boot".to_owned());
            }
        }
        if self.poll.is_zero() || self.probe.is_zero() || self.api_timeout.is_zero() {
            return refuse("poll, probe, apiTimeout", "must be longer than nothing".to_owned());
        }
        Ok(())
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("namespace", &self.namespace)
            .field("replica", &self.replica)
            .field("http", &self.http)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}
