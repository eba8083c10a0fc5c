//! Router advertisements (RFC 4861, 4.2) for a link where we are the ones who say how addresses come about: with DHCPv6 (M), with parameters only (O),
//! or by the prefix alone. The lab without a router, and IPv6-only network boot, need them: a client asks for DHCPv6 because an advertisement says so.
//!
//! Encoding only, and whether a solicitation is one. The checksum is left to the kernel, which fills it in on every raw ICMPv6 socket (RFC 3542, 3.1).
//! When to send (unsolicited, or a random moment after a solicitation) is up to the caller; the hop limit of the packet must be 255.

use std::net::Ipv6Addr;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const SOURCE_LINK_LAYER: u8 = 1;
const PREFIX_INFORMATION: u8 = 3;
const MTU: u8 = 5;
const RECURSIVE_DNS: u8 = 25;

/// A prefix of the link (RFC 4861, 4.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub network: Ipv6Addr,
    /// Bits; hosts make addresses of it only where this is 64.
    pub length: u8,
    /// Whether its addresses are reached without a router (L).
    pub on_link: bool,
    /// Whether hosts make addresses of it by themselves (A).
    pub autonomous: bool,
    /// For which it holds, in seconds.
    pub valid: u32,
    /// For which addresses made of it are preferred, in seconds.
    pub preferred: u32,
}

/// An advertisement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Hop limit that hosts use; 0: not said.
    pub hop_limit: u8,
    /// M: addresses come by DHCPv6.
    pub managed: bool,
    /// O: other parameters come by DHCPv6.
    pub other: bool,
    /// For which the sender is a default router, in seconds; 0: it is none.
    pub router_lifetime: u16,
    /// The sender's MAC address.
    pub source: Option<[u8; 6]>,
    /// MTU of the link, in bytes.
    pub mtu: Option<u32>,
    /// Prefixes.
    pub prefixes: Vec<Prefix>,
    /// Name servers (RFC 8106, 5.1).
    pub dns: Vec<Ipv6Addr>,
    /// For which they hold, in seconds.
    pub dns_lifetime: u32,
}

impl Advertisement {
    /// Writes the ICMPv6 message, with a checksum of 0.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        let flags = u8::from(self.managed) << 7 | u8::from(self.other) << 6;
        out.extend_from_slice(&[ROUTER_ADVERTISEMENT, 0, 0, 0, self.hop_limit, flags]);
        out.extend_from_slice(&self.router_lifetime.to_be_bytes());
        // Reachable time and retransmission timer: not said.
        out.extend_from_slice(&[0; 8]);
        if let Some(mac) = self.source {
            out.extend_from_slice(&[SOURCE_LINK_LAYER, 1]);
            out.extend_from_slice(&mac);
        }
        if let Some(mtu) = self.mtu {
            out.extend_from_slice(&[MTU, 1, 0, 0]);
            out.extend_from_slice(&mtu.to_be_bytes());
        }
        for prefix in &self.prefixes {
            let flags = u8::from(prefix.on_link) << 7 | u8::from(prefix.autonomous) << 6;
            out.extend_from_slice(&[PREFIX_INFORMATION, 4, prefix.length.min(128), flags]);
            out.extend_from_slice(&prefix.valid.to_be_bytes());
            out.extend_from_slice(&prefix.preferred.min(prefix.valid).to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            // Bits beyond the prefix are zero (RFC 4861, 4.6.2).
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.length.min(128))).unwrap_or(0);
            out.extend_from_slice(&(u128::from(prefix.network) & mask).to_be_bytes());
        }
        // The length counts eight bytes each and has one byte: 127 servers.
        for servers in self.dns.chunks(127) {
            out.extend_from_slice(&[RECURSIVE_DNS, 1 + 2 * servers.len() as u8, 0, 0]);
            out.extend_from_slice(&self.dns_lifetime.to_be_bytes());
            for server in servers {
                out.extend_from_slice(&server.octets());
            }
        }
    }
}

/// A valid router solicitation (RFC 4861, 6.1.1), as far as its bytes say; that its hop limit was 255 is the caller's to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// The sender's MAC address, if it says it.
    pub source: Option<[u8; 6]>,
}

impl Solicitation {
    /// Reads an ICMPv6 message; `None` if it is something else, or malformed.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let [ROUTER_SOLICITATION, 0, ..] = message else { return None };
        let mut options = message.get(8..)?;
        let mut source = None;
        while !options.is_empty() {
            let [kind, units, ..] = options else { return None };
            let (option, rest) = options.split_at_checked(usize::from(*units) * 8)?;
            if option.is_empty() {
                return None;
            }
            if *kind == SOURCE_LINK_LAYER {
                source = option[2..].first_chunk().copied();
            }
            options = rest;
        }
        Some(Self { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_advertisement_byte_by_byte() {
        let advertisement = Advertisement {
            hop_limit: 64,
            managed: true,
            other: true,
            router_lifetime: 1800,
            source: Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
            mtu: Some(1500),
            prefixes: vec![Prefix {
                network: "2001:db8::1".parse().unwrap(),
                length: 64,
                on_link: true,
                autonomous: false,
                valid: 86_400,
                preferred: 14_400,
            }],
            dns: vec!["2001:db8::53".parse().unwrap()],
            dns_lifetime: 3600,
        };
        let mut out = vec![1, 2, 3];
        advertisement.encode(&mut out);
        let want = concat!(
            "86000000",
            "40c00708",
            "0000000000000000", // RFC 4861, 4.2
            "0101525400123456", // 4.6.1
            "05010000000005dc", // 4.6.4
            "03044080",
            "00015180",
            "00003840",
            "00000000",
            "20010db8000000000000000000000000", // 4.6.2
            "19030000",
            "00000e10",
            "20010db8000000000000000000000053", // RFC 8106, 5.1
        );
        assert_eq!(hex::encode(&out), want);
        assert_eq!(out.len() % 8, 0);
    }

    #[test]
    fn solicitations_are_told_from_the_rest() {
        let parse = |text: &str| Solicitation::parse(&hex::decode(text).unwrap());
        assert_eq!(parse("8500000000000000"), Some(Solicitation { source: None }));
        assert_eq!(
            parse("85000000000000000101525400123456").unwrap().source,
            Some([0x52, 0x54, 0, 0x12, 0x34, 0x56])
        );
        for bad in [
            "",
            "85",
            "8600000000000000",
            "8501000000000000",
            "85000000000000000100",
            "850000000000000001015254001234",
            "85000000000000000100525400123456",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200), length: u8) {
            let mut solicitation = vec![133, 0, 0, 0, 0, 0, 0, 0];
            solicitation.extend_from_slice(&bytes);
            for message in [&bytes, &solicitation] {
                if let Some(Solicitation { source: Some(mac) }) = Solicitation::parse(message) {
                    prop_assert!(message.windows(6).any(|w| w == mac));
                }
            }
            let prefix = Prefix { network: Ipv6Addr::LOCALHOST, length, on_link: true, autonomous: true, valid: 1, preferred: 2 };
            let mut out = Vec::new();
            Advertisement { prefixes: vec![prefix], ..Advertisement::default() }.encode(&mut out);
            prop_assert_eq!(out.len(), 48);
        }
    }
}
