//! A LAN as in a house: a switch, a router from a shop that gives out addresses and says nothing about booting, and ports for machines.
//!
//! It is made in this process's own network namespace (`scripts/namespaces` gives one), and is gone with it. A network that is not empty is refused: it would be
//! somebody's.
//!
//! ```text
//! namespace kbm-router: dnsmasq at 10.77.0.1 --veth-- bridge kbm0, 10.77.0.2: our server, taps of machines
//! ```

use std::{net::Ipv4Addr, path::Path, process::Stdio};

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

/// The interface at which our server is.
pub const BRIDGE: &str = "kbm0";
/// Our server's address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The router's address.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const NAMESPACE: &str = "kbm-router";

/// A running LAN.
#[derive(Debug)]
pub struct Lan {
    /// Killed when it is dropped.
    _router: Child,
    taps: u32,
}

impl Lan {
    /// Makes it; the router's log and leases go into `state`.
    ///
    /// # Errors
    /// When this network namespace has more than a loopback in it, or something cannot be made.
    pub async fn make(state: &Path) -> Result<Self> {
        // Not /sys/class/net, which shows the namespace in which /sys was mounted.
        let interfaces = std::fs::read_to_string("/proc/self/net/dev").context("listing network interfaces")?;
        let others: Vec<&str> = interfaces
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim()))
            .filter(|name| *name != "lo")
            .collect();
        ensure!(
            others.is_empty(),
            "this network has {} in it: a LAN is made in an empty network namespace only (scripts/namespaces gives one)",
            others.join(", ")
        );
        let (server, router) = (format!("{SERVER}/24"), format!("{ROUTER}/24"));
        for line in [
            &["link", "add", BRIDGE, "type", "bridge"][..],
            &["addr", "add", &server, "dev", BRIDGE],
            &["link", "set", BRIDGE, "up"],
            &["netns", "add", NAMESPACE],
            &["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE],
            &["link", "set", "up0", "master", BRIDGE, "up"],
            &["-n", NAMESPACE, "addr", "add", &router, "dev", "eth0"],
            &["-n", NAMESPACE, "link", "set", "eth0", "up"],
        ] {
            ip(line).await?;
        }
        let path = state.join("router.log");
        let log = std::fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let router = command("ip")
            .args([
                "netns",
                "exec",
                NAMESPACE,
                "dnsmasq",
                "--no-daemon",
                "--conf-file=/dev/null",
                "--port=0",
            ])
            .args(["--interface=eth0", "--bind-interfaces", "--log-dhcp"])
            .args(["--dhcp-range=10.77.0.20,10.77.0.99,1h", &format!("--dhcp-option=3,{ROUTER}")])
            .arg(format!("--dhcp-leasefile={}", state.join("router.leases").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("starting the router (dnsmasq)")?;
        Ok(Self { _router: router, taps: 0 })
    }

    /// A free port of the switch; its name is that of a tap device.
    ///
    /// # Errors
    /// When the device cannot be made.
    pub async fn port(&mut self) -> Result<String> {
        let name = format!("tap{}", self.taps);
        self.taps += 1;
        ip(&["tuntap", "add", "dev", &name, "mode", "tap"]).await?;
        ip(&["link", "set", &name, "master", BRIDGE, "up"]).await?;
        Ok(name)
    }
}

/// A program of the system's, which may lie where ordinary users do not look.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
    command
}

async fn ip(words: &[&str]) -> Result<()> {
    let output = command("ip").args(words).output().await.context("running ip")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
