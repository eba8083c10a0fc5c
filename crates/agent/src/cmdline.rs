//! What the server tells the agent through the kernel command line.
//!
//! Strict: a value that is not exactly of its form is an error with the name of its parameter, because a boot with half of what was meant is
//! worse than none. Parameters of others (`console=`, `quiet`) are left alone.

use agent_protocol::{
    fixed::FixedAddress,
    identity::MacAddress,
    link::{Link, LinkError},
    token::MAX_TOKEN_BYTES,
};

/// Most server URLs.
const MAX_SERVERS: usize = 16;
/// Longest server URL.
const MAX_URL: usize = 300;

/// Why the command line cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// A parameter is absent.
    #[error("the kernel command line has no {0}=: the machine was not booted by a Kube BareMetal server")]
    Missing(&'static str),
    /// A parameter is there twice.
    #[error("the kernel command line has {0}= more than once")]
    Repeated(&'static str),
    /// A parameter has a wrong form.
    #[error("kernel command line: {name}={value:?} is wrong: {allowed}")]
    Wrong {
        /// Its name.
        name: &'static str,
        /// The beginning of its value.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl From<LinkError> for CommandLineError {
    fn from(error: LinkError) -> Self {
        Self::Wrong {
            name: error.name,
            value: error.value,
            allowed: error.allowed,
        }
    }
}

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Base URLs of the server, `https://host:port`, to be tried in this order.
    pub servers: Vec<String>,
    /// SHA-256 of the CA's public key.
    pub ca: String,
    /// Boot token.
    pub token: String,
    /// MAC of the NIC that firmware booted from.
    pub boot_mac: Option<MacAddress>,
    /// VLAN, MTU and bond of the network.
    pub link: Link,
    /// Where nobody is to be asked for an address. It is the boot NIC's, so that there is a [`Self::boot_mac`] then.
    pub fixed: Option<FixedAddress>,
}

fn wrong(name: &'static str, value: &str, allowed: &'static str) -> CommandLineError {
    CommandLineError::Wrong {
        name,
        value: value.chars().take(80).collect(),
        allowed,
    }
}

fn single<'a>(words: &[&'a str], name: &'static str) -> Result<Option<&'a str>, CommandLineError> {
    let mut values = words
        .iter()
        .filter_map(|word| word.split_once('='))
        .filter_map(|(key, value)| (key == name).then_some(value));
    let value = values.next();
    if values.next().is_some() {
        return Err(CommandLineError::Repeated(name));
    }
    Ok(value)
}

/// Whether a text is `https://host` or `https://host:port`, and nothing more.
pub fn is_server_url(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("https://") else {
        return false;
    };
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (
                address.parse::<std::net::Ipv6Addr>().is_ok(),
                port.strip_prefix(':').or(port.is_empty().then_some("443")),
            ),
            None => return false,
        },
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
            let name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'));
            (name, Some(port))
        }
    };
    url.len() <= MAX_URL && host && port.is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0))
}

impl CommandLine {
    /// Reads `/proc/cmdline`.
    ///
    /// # Errors
    /// [`CommandLineError`] that names the parameter.
    pub fn parse(text: &str) -> Result<Self, CommandLineError> {
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let list = single(&words, "kbm.server")?.ok_or(CommandLineError::Missing("kbm.server"))?;
        let servers: Vec<String> = list.split(',').map(|s| s.trim_end_matches('/').to_owned()).collect();
        if servers.len() > MAX_SERVERS || !servers.iter().all(|s| is_server_url(s)) {
            return Err(wrong("kbm.server", list, "one or more https://host:port, separated by commas"));
        }
        let ca = single(&words, "kbm.ca")?.ok_or(CommandLineError::Missing("kbm.ca"))?;
        if ca.len() != 64 || !ca.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(wrong("kbm.ca", ca, "64 lower-case hexadecimal digits"));
        }
        let token = single(&words, "kbm.token")?.ok_or(CommandLineError::Missing("kbm.token"))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(plain) {
            return Err(wrong("kbm.token", "...", "a token as the server prints it"));
        }
        let boot_mac = match single(&words, "BOOTIF")? {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|_| wrong("BOOTIF", text, "01- and a MAC address with hyphens"))?,
            ),
        };
        let fixed = FixedAddress::parse(|name| single(&words, name))?;
        if fixed.is_some() && boot_mac.is_none() {
            return Err(CommandLineError::Missing("BOOTIF"));
        }
        Ok(Self {
            servers,
            ca: ca.to_owned(),
            token: token.to_owned(),
            boot_mac,
            link: Link::parse(|name| single(&words, name))?,
            fixed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn line(server: &str, rest: &str) -> Result<CommandLine, CommandLineError> {
        CommandLine::parse(&format!(
            "console=ttyS0 kbm.server={server} kbm.ca={CA} kbm.token=kbm1.a-b.c_d {rest}\n"
        ))
    }

    #[test]
    fn what_the_server_wrote_is_read() {
        let parsed = line(
            "https://10.0.2.2:8443,https://[fd00::1]:1,https://a.example",
            "BOOTIF=01-52-54-00-12-34-56 quiet",
        )
        .unwrap();
        assert_eq!(
            parsed.servers,
            ["https://10.0.2.2:8443", "https://[fd00::1]:1", "https://a.example"]
        );
        assert_eq!(parsed.token, "kbm1.a-b.c_d");
        assert_eq!(parsed.boot_mac, Some(MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56])));
        let plain = line("https://a", "").unwrap();
        assert_eq!((plain.boot_mac, plain.link), (None, Link::default()));
        assert_eq!(line("https://a", "kbm.vlan=42 kbm.mtu=9000").unwrap().link.vlan, Some(42));
        let fixed = line(
            "https://a",
            "BOOTIF=01-52-54-00-12-34-56 kbm.address=10.77.0.50/24 kbm.gateway=10.77.0.1",
        );
        assert_eq!(fixed.unwrap().fixed.unwrap().prefix, 24);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for server in [
            "http://10.0.2.2:80",
            "https://",
            "https://a:0",
            "https://a:99999",
            "https://a:+1",
            "https://a:",
            "https://u@a",
            "https://a/x",
            "https://a?x",
            "https://a,,https://b",
            "https://[::1",
            "https://[x]:1",
        ] {
            let error = line(server, "").unwrap_err();
            assert!(error.to_string().contains("kbm.server"), "{server}: {error}");
        }
        assert_eq!(line("https://a", "kbm.token=x"), Err(CommandLineError::Repeated("kbm.token")));
        assert!(line("https://a", "kbm.vlan=x").unwrap_err().to_string().contains("kbm.vlan"));
        assert_eq!(
            line("https://a", "kbm.mtu=1500 kbm.mtu=1500"),
            Err(CommandLineError::Repeated("kbm.mtu"))
        );
        let nobody = line("https://a", "kbm.address=10.77.0.50/24");
        assert_eq!(nobody, Err(CommandLineError::Missing("BOOTIF")), "nothing says whose address it is");
        let twice = "BOOTIF=01-52-54-00-12-34-56 kbm.address=10.77.0.50/24 kbm.address=10.77.0.51/24";
        assert_eq!(line("https://a", twice), Err(CommandLineError::Repeated("kbm.address")));
        let outside = line(
            "https://a",
            "BOOTIF=01-52-54-00-12-34-56 kbm.address=10.77.0.50/24 kbm.gateway=10.78.0.1",
        );
        assert!(outside.unwrap_err().to_string().contains("kbm.gateway"));
        assert!(line("https://a", "BOOTIF=eth0").unwrap_err().to_string().contains("BOOTIF"));
        assert_eq!(CommandLine::parse("quiet"), Err(CommandLineError::Missing("kbm.server")));
        let error = CommandLine::parse("kbm.server=https://a kbm.ca=12").unwrap_err();
        assert!(error.to_string().contains("kbm.ca"), "{error}");
    }
}
