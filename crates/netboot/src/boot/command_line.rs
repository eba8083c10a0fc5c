//! The kernel command line of the agent, the same for every loader: words of types that print harmlessly, of constants, and of what was checked at start.

use super::{host::Host, query::BootRequest};

/// What an answer that loads the agent is made of.
pub(crate) struct AgentBoot<'a> {
    pub host: &'a Host,
    pub tls_port: u16,
    /// URLs of all replicas. Checked when the configuration was read.
    pub servers: &'a [String],
    /// 64 hexadecimal digits, made by us.
    pub pin: &'a str,
    /// Base64url and dots, made by us.
    pub token: &'a str,
    pub request: &'a BootRequest,
    /// Checked when the configuration was read.
    pub arguments: &'a [String],
}

impl AgentBoot<'_> {
    /// The words, of letters, digits and `-_.,:=/@+[]` only.
    pub(crate) fn words(&self) -> Vec<String> {
        let own = format!("https://{}:{}", self.host, self.tls_port);
        let others = self.servers.iter().filter(|s| **s != own).map(|s| plain(s));
        let servers: Vec<String> = std::iter::once(own.clone()).chain(others).collect();
        let mac = self.request.mac.to_string().replace(':', "-");
        let mut words = vec![
            format!("kbm.server={}", servers.join(",")),
            format!("kbm.ca={}", plain(self.pin)),
            format!("kbm.token={}", plain(self.token)),
            format!("BOOTIF=01-{mac}"),
            "console=tty0".to_owned(),
            "console=ttyS0,115200".to_owned(),
            "quiet".to_owned(),
        ];
        words.extend(self.arguments.iter().map(|argument| plain(argument)));
        words
    }
}

/// The last line of defence for values that were made or checked elsewhere: whatever is not plain is left out.
fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.,:=/@+[]".contains(*c))
        .collect()
}
