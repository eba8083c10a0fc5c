//! How an agent gets onto its network: VLAN, MTU and bond. As API fields, as words of a kernel command line and back, and as what came of it.
//!
//! The words are Linux' own (`802.3ad`, `layer3+4`), which switches, netplan and cloud-init use too. A [`Link`] prints letters, digits and `-.,:=+` only.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::identity::MacAddress;

/// Most NICs of one bond.
pub const MAX_MEMBERS: usize = 8;
/// The VLAN ids that frames may have (IEEE 802.1Q: 0 and 4095 are reserved).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;
/// The MTUs that may be told: from what IPv6 needs to the largest that is common.
const MTUS: std::ops::RangeInclusive<u16> = 1280..=9216;

macro_rules! words {
    ($type:ty: $($variant:ident = $word:literal),+) => {
        impl $type {
            /// Linux' word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
        impl FromStr for $type {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(()),
                }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// How a bond uses its NICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BondMode {
    /// All at once, as agreed with the switch by LACP (IEEE 802.1AX, formerly 802.3ad).
    #[serde(rename = "802.3ad")]
    Lacp,
    /// One at a time; the switch knows nothing of it.
    #[serde(rename = "active-backup")]
    ActiveBackup,
}

words!(BondMode: Lacp = "802.3ad", ActiveBackup = "active-backup");

/// How often the switch is asked to send LACP packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LacpRate {
    /// Every 30 seconds: a silent link is noticed after 90.
    #[serde(rename = "slow")]
    Slow,
    /// Every second: a silent link is noticed after 3.
    #[serde(rename = "fast")]
    Fast,
}

words!(LacpRate: Slow = "slow", Fast = "fast");

/// By what a connection is assigned to a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TransmitHash {
    /// MAC addresses.
    #[serde(rename = "layer2")]
    Layer2,
    /// MAC and IP addresses.
    #[serde(rename = "layer2+3")]
    Layer2And3,
    /// IP addresses and ports.
    #[serde(rename = "layer3+4")]
    Layer3And4,
}

words!(TransmitHash: Layer2 = "layer2", Layer2And3 = "layer2+3", Layer3And4 = "layer3+4");

/// Several NICs as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bond {
    /// How its NICs are used.
    pub mode: BondMode,
    /// Permanent MACs of its NICs. Left out: the NIC that firmware booted from and every other Ethernet NIC that has a link.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_MEMBERS), extend("x-kubernetes-list-type" = "set"))]
    pub members: Vec<MacAddress>,
    /// How often the switch is asked to send LACP packets, for the mode 802.3ad. Left out: slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacp_rate: Option<LacpRate>,
    /// By what a connection is assigned to a NIC, for the mode 802.3ad. Left out: layer2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit_hash: Option<TransmitHash>,
}

/// What an agent is told of its network. Nothing of it: DHCP on the NIC that firmware booted from, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// VLAN id of tagged frames.
    pub vlan: Option<u16>,
    /// MTU in bytes.
    pub mtu: Option<u16>,
    /// Several NICs as one.
    pub bond: Option<Bond>,
}

/// A word that is not of its form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} is wrong: {allowed}")]
pub struct LinkError {
    /// The parameter.
    pub name: &'static str,
    /// The beginning of its value.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

impl Link {
    /// Whether the NIC that firmware booted from does as it is.
    pub fn is_plain(&self) -> bool {
        self.vlan.is_none() && self.bond.is_none()
    }

    /// As words of a kernel command line.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        words.extend(self.vlan.map(|vlan| format!("kbm.vlan={vlan}")));
        words.extend(self.mtu.map(|mtu| format!("kbm.mtu={mtu}")));
        if let Some(bond) = &self.bond {
            words.push(format!("kbm.bond={}", bond.mode));
            if !bond.members.is_empty() {
                let members: Vec<String> = bond.members.iter().take(MAX_MEMBERS).map(MacAddress::to_string).collect();
                words.push(format!("kbm.bond-members={}", members.join(",")));
            }
            words.extend(bond.lacp_rate.map(|rate| format!("kbm.bond-lacp-rate={rate}")));
            words.extend(bond.transmit_hash.map(|hash| format!("kbm.bond-hash={hash}")));
        }
        words
    }

    /// Reads what [`Link::words`] wrote; `value` looks a parameter up by its name.
    ///
    /// # Errors
    /// [`LinkError`] that names the parameter, and those of `value`.
    pub fn parse<'a, E: From<LinkError>>(value: impl Fn(&'static str) -> Result<Option<&'a str>, E>) -> Result<Self, E> {
        fn read<T, E: From<LinkError>>(
            name: &'static str,
            value: Option<&str>,
            allowed: &'static str,
            parse: impl Fn(&str) -> Option<T>,
        ) -> Result<Option<T>, E> {
            let wrong = |value: &str| {
                E::from(LinkError {
                    name,
                    value: value.chars().take(80).collect(),
                    allowed,
                })
            };
            value.map(|value| parse(value).ok_or_else(|| wrong(value))).transpose()
        }
        let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let vlan = |text: &str| number(text).filter(|vlan| VLANS.contains(vlan));
        let mtu = |text: &str| number(text).filter(|mtu| MTUS.contains(mtu));
        let (name, all) = ("kbm.bond-members", "one to eight MAC addresses, separated by commas, each once");
        let members = read(name, value(name)?, all, |text| {
            let members: Option<Vec<MacAddress>> = text.split(',').map(|mac| mac.parse().ok()).collect();
            let sound = |m: &Vec<MacAddress>| {
                m.len() <= MAX_MEMBERS && m.iter().enumerate().all(|(i, mac)| mac.is_usable() && !m[..i].contains(mac))
            };
            members.filter(sound)
        })?;
        let name = "kbm.bond-lacp-rate";
        let lacp_rate = read(name, value(name)?, "slow or fast", |text| text.parse().ok())?;
        let name = "kbm.bond-hash";
        let transmit_hash = read(name, value(name)?, "layer2, layer2+3 or layer3+4", |text| text.parse().ok())?;
        let name = "kbm.bond";
        let mode = read(name, value(name)?, "802.3ad or active-backup", |text| text.parse().ok())?;
        Ok(Self {
            vlan: read("kbm.vlan", value("kbm.vlan")?, "a number from 1 to 4094", vlan)?,
            mtu: read("kbm.mtu", value("kbm.mtu")?, "a number from 1280 to 9216", mtu)?,
            bond: mode.map(|mode| Bond {
                mode,
                members: members.unwrap_or_default(),
                lacp_rate,
                transmit_hash,
            }),
        })
    }
}

/// For people: `VLAN 42 over an 802.3ad bond`.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.vlan, &self.bond) {
            (Some(vlan), Some(bond)) => write!(f, "VLAN {vlan} over a bond ({})", bond.mode),
            (Some(vlan), None) => write!(f, "VLAN {vlan}"),
            (None, Some(bond)) => write!(f, "a bond ({})", bond.mode),
            (None, None) => f.write_str("the NIC as it is"),
        }
    }
}

/// How an agent is connected to its server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The kernel's name of the interface that has the address.
    pub interface: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// VLAN id of its tagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The bond that it is or lies on, with the NICs that are in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
    /// Why it is not what the agent was told, with the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(line: &str) -> Result<Link, LinkError> {
        let words: Vec<&str> = line.split(' ').collect();
        Link::parse(|name| {
            Ok(words
                .iter()
                .filter_map(|w| w.split_once('='))
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v))
        })
    }

    #[test]
    fn a_word_of_another_form_is_refused_by_name() {
        for line in [
            "kbm.vlan=0",
            "kbm.vlan=4095",
            "kbm.vlan=+4",
            "kbm.vlan=",
            "kbm.mtu=576",
            "kbm.mtu=65536",
            "kbm.bond=balance-rr",
            "kbm.bond-members=",
            "kbm.bond-members=01:00:5e:00:00:01",
            "kbm.bond-members=02:00:00:00:00:01,02:00:00:00:00:01",
            "kbm.bond-lacp-rate=1",
            "kbm.bond-hash=layer4",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(Some(error.name), line.split('=').next(), "{line}");
        }
        assert_eq!(parse("quiet").unwrap(), Link::default());
        assert!(parse("kbm.mtu=9000").unwrap().is_plain() && !parse("kbm.vlan=9").unwrap().is_plain());
    }

    fn links() -> impl Strategy<Value = Link> {
        let mode = prop_oneof![Just(BondMode::Lacp), Just(BondMode::ActiveBackup)];
        let members = proptest::collection::btree_set(any::<[u8; 5]>(), 0..=MAX_MEMBERS);
        let rate = proptest::option::of(prop_oneof![Just(LacpRate::Slow), Just(LacpRate::Fast)]);
        let hash = prop_oneof![
            Just(TransmitHash::Layer2),
            Just(TransmitHash::Layer2And3),
            Just(TransmitHash::Layer3And4)
        ];
        let bond = (mode, members, rate, proptest::option::of(hash)).prop_map(|(mode, members, lacp_rate, transmit_hash)| Bond {
            mode,
            members: members.into_iter().map(|[a, b, c, d, e]| MacAddress([2, a, b, c, d, e])).collect(),
            lacp_rate,
            transmit_hash,
        });
        (proptest::option::of(VLANS), proptest::option::of(MTUS), proptest::option::of(bond)).prop_map(|(vlan, mtu, bond)| Link {
            vlan,
            mtu,
            bond,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_has_harmless_letters_only(link in links()) {
            let line = link.words().join(" ");
            prop_assert!(line.chars().all(|c| c.is_ascii_alphanumeric() || "-.,:=+ ".contains(c)), "{}", line);
            prop_assert_eq!(parse(&line).unwrap(), link);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(kbm.(vlan|mtu|bond|bond-members|bond-hash)=\\PC{0,20} ){0,4}") {
            parse(&text).ok();
        }
    }
}
