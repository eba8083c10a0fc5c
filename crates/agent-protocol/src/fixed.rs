//! An address that an agent has without asking anybody: for networks without DHCP. As API texts, as words of a kernel command line and back.
//!
//! Nothing is guessed: an address without its prefix, a gateway outside of it or of the other family, or an address that no host can have is an error that names the word. A
//! [`FixedAddress`] prints digits, lower-case hexadecimal digits and `.:/,` only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::link::LinkError;

/// Most name servers.
pub const MAX_DNS: usize = 3;

const ADDRESS: &str = "kbm.address";
const GATEWAY: &str = "kbm.gateway";
const DNS: &str = "kbm.dns";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network that is on the link.
    pub prefix: u8,
    /// By whom the server is reached where it is in another network; of the same family, on the link.
    pub gateway: Option<IpAddr>,
    /// Name servers, at most [`MAX_DNS`].
    pub dns: Vec<IpAddr>,
}

impl FixedAddress {
    /// Reads an address with its prefix (`10.77.0.50/24`), a gateway and name servers.
    ///
    /// # Errors
    /// [`LinkError`] with the name of the kernel parameter that the wrong text would become.
    pub fn read<'a>(address: &str, gateway: Option<&str>, dns: impl IntoIterator<Item = &'a str>) -> Result<Self, LinkError> {
        let (own, prefix) = with_prefix(address).ok_or_else(|| {
            wrong(
                ADDRESS,
                address,
                "an address of a host with the length of its network's prefix, such as 10.77.0.50/24 or fd00::50/64",
            )
        })?;
        let on_link = |gateway: &IpAddr| is_host(*gateway) && *gateway != own && (is_link_local(*gateway) || shares(own, *gateway, prefix));
        let gateway = gateway
            .map(|text| {
                let parsed = text.parse().ok().filter(on_link);
                parsed.ok_or_else(|| wrong(GATEWAY, text, "another address of the network that kbm.address is in"))
            })
            .transpose()?;
        let dns: Vec<&str> = dns.into_iter().collect();
        let servers: Option<Vec<IpAddr>> = dns.iter().map(|text| text.parse().ok().filter(|a| is_host(*a))).collect();
        let servers = servers.filter(|servers| servers.len() <= MAX_DNS);
        Ok(Self {
            address: own,
            prefix,
            gateway,
            dns: servers.ok_or_else(|| wrong(DNS, &dns.join(","), "one to three addresses, separated by commas"))?,
        })
    }

    /// As words of a kernel command line.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![format!("{ADDRESS}={}/{}", self.address, self.prefix)];
        words.extend(self.gateway.map(|gateway| format!("{GATEWAY}={gateway}")));
        if !self.dns.is_empty() {
            let dns: Vec<String> = self.dns.iter().take(MAX_DNS).map(IpAddr::to_string).collect();
            words.push(format!("{DNS}={}", dns.join(",")));
        }
        words
    }

    /// Reads what [`FixedAddress::words`] wrote, where it is there; `value` looks a parameter up by its name.
    ///
    /// # Errors
    /// [`LinkError`] that names the parameter, also where a gateway or a name server is told without an address; and those of `value`.
    pub fn parse<'a, E: From<LinkError>>(value: impl Fn(&'static str) -> Result<Option<&'a str>, E>) -> Result<Option<Self>, E> {
        let (gateway, dns) = (value(GATEWAY)?, value(DNS)?);
        let Some(address) = value(ADDRESS)? else {
            let alone = [(GATEWAY, gateway), (DNS, dns)]
                .into_iter()
                .find_map(|(name, text)| Some((name, text?)));
            return match alone {
                Some((name, text)) => Err(wrong(name, text, "nothing without kbm.address").into()),
                None => Ok(None),
            };
        };
        let dns = dns.iter().flat_map(|list| list.split(','));
        Ok(Some(Self::read(address, gateway, dns)?))
    }
}

fn wrong(name: &'static str, value: &str, allowed: &'static str) -> LinkError {
    LinkError {
        name,
        value: value.chars().take(80).collect(),
        allowed,
    }
}

/// An address that a host of this network can have.
fn with_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let is_number = (1..=3).contains(&length.len()) && length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = is_number.then(|| length.parse().ok()).flatten()?;
    let fits = match address {
        IpAddr::V4(v4) => {
            let host_bits = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            let host = u32::from(v4) & host_bits;
            // A link of two or one addresses has neither a network's own nor a broadcast address (RFC 3021).
            (1..=32).contains(&length) && (length >= 31 || (host != 0 && host != host_bits))
        }
        IpAddr::V6(_) => (1..=128).contains(&length) && !is_link_local(address),
    };
    (fits && is_host(address)).then_some((address, length))
}

fn is_host(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || mapped || broadcast)
}

/// IPv6 routers are often known by such an address alone.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80)
}

/// Whether two addresses have the first `length` bits in common.
fn shares(one: IpAddr, other: IpAddr, length: u8) -> bool {
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (u32::from(one) ^ u32::from(other)).leading_zeros() >= u32::from(length),
        (IpAddr::V6(one), IpAddr::V6(other)) => (bits(one) ^ bits(other)).leading_zeros() >= u32::from(length),
        _ => false,
    }
}

fn bits(address: Ipv6Addr) -> u128 {
    u128::from(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Option<FixedAddress>, LinkError> {
        FixedAddress::parse(|name| {
            let mut words = line.split(' ').filter_map(|word| word.split_once('='));
            Ok(words.find(|(n, _)| *n == name).map(|(_, v)| v))
        })
    }

    #[test]
    fn what_a_person_writes_is_read() {
        let read = FixedAddress::read("10.77.0.50/24", Some("10.77.0.1"), ["10.77.0.2", "fd00::2"]).unwrap();
        assert_eq!(
            read.words().join(" "),
            "kbm.address=10.77.0.50/24 kbm.gateway=10.77.0.1 kbm.dns=10.77.0.2,fd00::2"
        );
        assert!(FixedAddress::read("10.0.0.0/31", Some("10.0.0.1"), []).is_ok());
        assert!(FixedAddress::read("fd00::50/64", Some("fe80::1"), []).is_ok());
        assert_eq!(parse("quiet kbm.vlan=3").unwrap(), None);
    }

    #[test]
    fn a_word_of_another_form_is_refused_by_name() {
        for line in [
            "kbm.address=10.77.0.50",
            "kbm.address=10.77.0.50/",
            "kbm.address=10.77.0.50/+24",
            "kbm.address=10.77.0.50/0",
            "kbm.address=10.77.0.50/33",
            "kbm.address=10.77.0.50/024x",
            "kbm.address=10.77.0.0/24",
            "kbm.address=10.77.0.255/24",
            "kbm.address=127.0.0.1/8",
            "kbm.address=224.0.0.1/24",
            "kbm.address=fe80::1/64",
            "kbm.address=::ffff:10.0.0.1/96",
            "kbm.gateway=10.77.0.1",
            "kbm.dns=10.77.0.1",
            "kbm.gateway=10.78.0.1 kbm.address=10.77.0.50/24",
            "kbm.gateway=10.77.0.50 kbm.address=10.77.0.50/24",
            "kbm.gateway=fd00::1 kbm.address=10.77.0.50/24",
            "kbm.gateway= kbm.address=10.77.0.50/24",
            "kbm.dns= kbm.address=10.77.0.50/24",
            "kbm.dns=10.0.0.1, kbm.address=10.77.0.50/24",
            "kbm.dns=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4 kbm.address=10.77.0.50/24",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(Some(error.name), line.split('=').next(), "{line}");
        }
    }

    fn hosts() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (1u8..=126, any::<[u8; 2]>(), 1u8..=254).prop_map(|(a, [b, c], d)| IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
            any::<[u8; 12]>().prop_map(|rest| {
                let mut all = [0xfd; 16];
                all[4..].copy_from_slice(&rest);
                IpAddr::V6(Ipv6Addr::from(all))
            }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_has_harmless_letters_only(
            own in hosts(), length in 8u8..=24, last in 1u8..=254, with_gateway: bool, dns in proptest::collection::vec(hosts(), 0..=MAX_DNS)
        ) {
            let gateway = with_gateway.then(|| match own {
                IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from((u32::from(v4) & !255) | u32::from(last))),
                IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from((u128::from(v6) & !255) | u128::from(last))),
            });
            prop_assume!(gateway != Some(own));
            let fixed = FixedAddress { address: own, prefix: length, gateway, dns };
            let line = fixed.words().join(" ");
            prop_assert!(line.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase() || ".,:=/ ".contains(c)), "{}", line);
            prop_assert_eq!(parse(&line).unwrap(), Some(fixed));
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_it_takes_comes_back(text in "(kbm.(address|gateway|dns)=([0-9.:/,a-f]{0,24}|\\PC{0,20}) ){0,3}") {
            if let Ok(Some(fixed)) = parse(&text) {
                let again = parse(&fixed.words().join(" ")).unwrap();
                prop_assert_eq!(again, Some(fixed));
            }
        }
    }
}
