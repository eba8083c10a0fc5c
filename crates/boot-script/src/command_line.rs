//! The kernel command line of the agent, the same for every loader: words of types that print harmlessly, of constants, and of what was checked at start.

use agent_protocol::{architecture::Architecture, link::Link};

use super::{host::Host, query::BootRequest};

/// As many servers as an agent takes.
const MAX_SERVERS: usize = 16;

/// What an answer that loads the agent is made of.
pub struct AgentBoot<'a> {
    /// By which the machine reached this replica.
    pub host: &'a Host,
    /// Where agents are served, over HTTPS.
    pub tls_port: u16,
    /// By what machines reach this replica, also in networks other than the one that asks. Checked when the configuration was read.
    pub advertise: &'a [String],
    /// URLs of all replicas. Checked when the configuration was read.
    pub servers: &'a [String],
    /// 64 hexadecimal digits, made by us.
    pub pin: &'a str,
    /// Base64url and dots, made by us.
    pub token: &'a str,
    /// What the machine asked.
    pub request: &'a BootRequest,
    /// Of the media that are loaded.
    pub architecture: Architecture,
    /// How the agent goes on from the network that firmware booted from.
    pub link: &'a Link,
    /// Checked when the configuration was read.
    pub arguments: &'a [String],
}

impl AgentBoot<'_> {
    /// The words, of letters, digits and `-_.,:=/@+[]` only.
    pub fn words(&self) -> Vec<String> {
        // In another VLAN this replica may have another address.
        let advertised = self
            .advertise
            .iter()
            .filter(|_| self.link.vlan.is_some())
            .filter_map(|h| Host::parse(h));
        let hosts = std::iter::once(self.host.clone()).chain(advertised);
        let own = hosts.map(|host| format!("https://{host}:{}", self.tls_port));
        let mut servers: Vec<String> = Vec::new();
        for server in own.chain(self.servers.iter().map(|s| plain(s))) {
            if !servers.contains(&server) && servers.len() < MAX_SERVERS {
                servers.push(server);
            }
        }
        let mac = self.request.mac.to_string().replace(':', "-");
        let mut words = vec![
            format!("kbm.server={}", servers.join(",")),
            format!("kbm.ca={}", plain(self.pin)),
            format!("kbm.token={}", plain(self.token)),
            format!("BOOTIF=01-{mac}"),
        ];
        words.extend(self.link.words());
        words.extend(consoles(self.architecture).iter().map(|word| (*word).to_owned()));
        words.push("quiet".to_owned());
        words.extend(self.arguments.iter().map(|argument| plain(argument)));
        words
    }
}

/// The screen, and the serial port that servers have: a 16550 on x86; on arm64 that, or the PL011 that Arm's Server Base System Architecture asks for. One that is not there is
/// passed over; the last one is where PID 1 begins to write.
const fn consoles(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::Amd64 => &["console=tty0", "console=ttyS0,115200"],
        Architecture::Arm64 => &["console=tty0", "console=ttyS0,115200", "console=ttyAMA0,115200"],
    }
}

/// The last line of defence for values that were made or checked elsewhere: whatever is not plain is left out.
fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.,:=/@+[]".contains(*c))
        .collect()
}

/// An answer that loads the agent, told as much as a network or a hardware object can say, for the tests of both loaders.
#[cfg(test)]
pub(crate) fn agent_with(loader: crate::Loader, request: &BootRequest, host: &Host, server: &str, arguments: &[String]) -> String {
    use agent_protocol::{
        identity::MacAddress,
        link::{Bond, BondMode, LacpRate, TransmitHash},
    };
    let link = Link {
        vlan: Some(42),
        mtu: Some(9000),
        bond: Some(Bond {
            mode: BondMode::Lacp,
            members: vec![MacAddress([2, 0, 0, 0, 0, 1]), MacAddress([2, 0, 0, 0, 0, 2])],
            lacp_rate: Some(LacpRate::Fast),
            transmit_hash: Some(TransmitHash::Layer3And4),
        }),
    };
    loader.agent(&AgentBoot {
        host,
        tls_port: 8443,
        advertise: &["192.0.2.8".to_owned()],
        servers: &[format!("https://{host}:8443"), server.to_owned()],
        pin: "00",
        token: "kbm1.a.b",
        request,
        architecture: request.architecture().unwrap_or(Architecture::Amd64),
        link: &link,
        arguments,
    })
}
