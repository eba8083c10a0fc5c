//! Network namespaces on a bridge, each behind a link that a token bucket holds to 100 Mbit/s both ways. TCP is that of the boot media's kernel: CUBIC, whatever
//! the host prefers.

use std::{io, net::Ipv4Addr, process::Command};

/// Length of their network's prefix.
pub const PREFIX: u8 = 24;
/// Rate and size of the token bucket, and how long packets may wait in it.
const BUCKET: [&str; 7] = ["tbf", "rate", "100mbit", "burst", "128kb", "latency", "50ms"];
/// The default of Debian's kernel.
const CONGESTION_CONTROL: &str = "net.ipv4.tcp_congestion_control=cubic";
const SWITCH: &str = "kbm-share-switch";

/// Namespace of a machine; 0 is the server's.
pub fn namespace(number: u8) -> String {
    format!("kbm-share-{number}")
}

/// Its address there.
pub fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number + 1)
}

/// Removed when dropped.
pub struct Network {
    machines: u8,
}

fn call(program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), words.trim())))
}

impl Network {
    /// For a server and so many machines.
    pub fn make(machines: u8) -> io::Result<Self> {
        let network = Self { machines };
        // What an earlier run left behind that was killed.
        network.remove();
        call("ip", &["netns", "add", SWITCH])?;
        call("ip", &["-n", SWITCH, "link", "add", "br0", "type", "bridge"])?;
        call("ip", &["-n", SWITCH, "link", "set", "br0", "up"])?;
        for number in 0..=machines {
            let (name, port) = (namespace(number), format!("port{number}"));
            call("ip", &["netns", "add", &name])?;
            let pair = [
                "link", "add", "eth0", "netns", &name, "type", "veth", "peer", "name", &port, "netns", SWITCH,
            ];
            call("ip", &pair)?;
            call("ip", &["-n", SWITCH, "link", "set", &port, "master", "br0", "up"])?;
            call("ip", &["netns", "exec", &name, "sysctl", "-q", "-w", CONGESTION_CONTROL])?;
            let network = format!("{}/{PREFIX}", address(number));
            call("ip", &["-n", &name, "address", "add", &network, "dev", "eth0"])?;
            call("ip", &["-n", &name, "link", "set", "lo", "up"])?;
            call("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
            for (at, link) in [(name.as_str(), "eth0"), (SWITCH, port.as_str())] {
                call("tc", &[&["-n", at, "qdisc", "add", "dev", link, "root"], &BUCKET[..]].concat())?;
            }
        }
        Ok(network)
    }

    fn remove(&self) {
        for name in (0..=self.machines).map(namespace).chain([SWITCH.to_owned()]) {
            // One that is not there cannot be removed, and that is well.
            call("ip", &["netns", "delete", &name]).ok();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}
