//! A host as it may stand in a URL: an IP address or a DNS name, nothing else.

use std::{fmt, net::IpAddr};

/// A parsed host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A DNS name, in lower case.
    Name(String),
}

impl Host {
    /// Without port; an IPv6 address with or without brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = inner.parse::<IpAddr>() {
            return Some(Self::Address(address));
        }
        let label = |l: &str| {
            !l.is_empty()
                && l.len() <= 63
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        let name = text.len() <= 253 && text.split('.').all(label);
        // The last label of a name is never a number; 1.2.3 or 0x7f.1 are old spellings of addresses.
        let last_is_word = text
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()));
        (name && last_is_word).then(|| Self::Name(text.to_ascii_lowercase()))
    }

    /// As in a `Host` header: with an optional port, which is not looked at further.
    pub fn parse_with_port(text: &str) -> Option<Self> {
        let is_port = |p: &str| p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit());
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let port = port.strip_prefix(':').unwrap_or(port);
            return is_port(port).then(|| address.parse().ok().map(Self::Address)).flatten();
        }
        match text.split_once(':') {
            Some((host, port)) => is_port(port).then(|| Self::parse(host)).flatten(),
            None => Self::parse(text),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_as_machines_send_them() {
        for (text, want) in [
            ("10.0.2.2:8080", Some("10.0.2.2")),
            ("10.0.2.2", Some("10.0.2.2")),
            ("[2001:db8::1]:80", Some("[2001:db8::1]")),
            ("boot.example.com:80", Some("boot.example.com")),
            ("Boot", Some("boot")),
            ("", None),
            ("a b", None),
            ("evil.example/x", None),
            ("a:b", None),
            ("a${uuid}", None),
            ("-a", None),
            ("1.2.3", None),
            ("user@host", None),
            ("[::1", None),
        ] {
            assert_eq!(Host::parse_with_port(text).map(|h| h.to_string()).as_deref(), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_harmless(text in "\\PC{0,60}") {
            if let Some(host) = Host::parse_with_port(&text) {
                let printed = host.to_string();
                prop_assert!(printed.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b)), "{printed}");
            }
        }
    }
}
