//! Typed identities: a MAC address and an SMBIOS system UUID.
//!
//! Both parse strictly and print in one canonical form, so that they may go into a boot script or a kernel
//! command line without further encoding. Neither is proof of anything: anybody on the LAN can claim them.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not six two-digit hexadecimal bytes.
    #[error("{0:?} is not a MAC address: write six hexadecimal bytes such as 52:54:00:12:34:56")]
    Mac(String),
    /// Not a UUID in its 36-character form.
    #[error("{0:?} is not a UUID: write it as 8-4-4-4-12 hexadecimal digits")]
    Uuid(String),
}

/// An Ethernet MAC address (EUI-48). Prints as lower-case bytes with colons.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Whether the address can name one NIC: not zero, not broadcast, not multicast.
    pub fn is_usable(&self) -> bool {
        self.0 != [0; 6] && self.0[0] & 1 == 0
    }

    /// The form without separators, for object names.
    pub fn compact(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl FromStr for MacAddress {
    type Err = IdentityError;

    /// Accepts colons or hyphens between bytes (iPXE's `:hexhyp` form), and an optional leading `01-` as in `BOOTIF`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || IdentityError::Mac(text.chars().take(64).collect());
        let parts: Vec<&str> = text.split([':', '-']).collect();
        let parts = match parts.as_slice() {
            [kind, rest @ ..] if rest.len() == 6 && *kind == "01" => rest,
            all => all,
        };
        if parts.len() != 6 {
            return Err(bad());
        }
        let mut bytes = [0; 6];
        for (byte, part) in bytes.iter_mut().zip(parts) {
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An SMBIOS system UUID (DMTF DSP0134, 7.2.1), in the byte order in which it was said.
///
/// The first three fields are little-endian in SMBIOS 2.6 and later, yet some firmware and DHCP option 97 show them
/// the other way round: compare with [`SystemUuid::same_machine`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemUuid(pub [u8; 16]);

/// UUIDs that board makers shipped on many machines at once.
const BOGUS: [&str; 6] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
    "ffffff00-ffff-ffff-ffff-ffffffffffff",
    "00000000-0000-0000-0000-00000000000f",
];

impl SystemUuid {
    /// The same UUID with its first three fields in the other byte order.
    pub fn swapped(&self) -> Self {
        let b = self.0;
        Self([
            b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
        ])
    }

    /// Whether both name one machine, in either byte order.
    pub fn same_machine(&self, other: &Self) -> bool {
        self == other || self.swapped() == *other
    }

    /// Whether the UUID says something: not zero, not one repeated byte, not on the list of those that were shipped on many machines.
    pub fn is_usable(&self) -> bool {
        if self.0.iter().all(|b| *b == self.0[0]) {
            return false;
        }
        !BOGUS
            .iter()
            .filter_map(|t| t.parse::<Self>().ok())
            .any(|bogus| self.same_machine(&bogus))
    }
}

impl FromStr for SystemUuid {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || IdentityError::Uuid(text.chars().take(64).collect());
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|g| g.len()).ne([8, 4, 4, 4, 12]) {
            return Err(bad());
        }
        let mut bytes = [0; 16];
        hex::decode_to_slice(groups.concat(), &mut bytes).map_err(|_| bad())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for SystemUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let h = hex::encode(self.0);
        write!(f, "{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
    }
}

impl fmt::Debug for SystemUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! text_form {
    ($type:ty, $name:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "maxLength": 36 })
            }
        }
    };
}

text_form!(MacAddress, "MacAddress", "^[0-9a-f]{2}(:[0-9a-f]{2}){5}$");
text_form!(SystemUuid, "SystemUuid", "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mac_accepts_the_forms_firmware_uses() {
        let want = MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        for text in ["52:54:00:12:34:ab", "52-54-00-12-34-AB", "01-52-54-00-12-34-ab"] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:a",
            "52:54:00:12:34:ab\n",
            "+2:54:00:12:34:ab",
            "52:54:00:12:34:${",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn bogus_uuids_are_not_usable_in_either_byte_order() {
        for text in BOGUS
            .iter()
            .chain(&["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
        {
            let uuid: SystemUuid = text.parse().unwrap();
            assert!(!uuid.is_usable(), "{text}");
            assert!(!uuid.swapped().is_usable(), "{text} swapped");
        }
        assert!("4c4c4544-0042-3510-8054-b4c04f4d3132".parse::<SystemUuid>().unwrap().is_usable());
    }

    proptest! {
        #[test]
        fn uuid_round_trips_and_swaps_back(bytes: [u8; 16]) {
            let uuid = SystemUuid(bytes);
            prop_assert_eq!(uuid.to_string().parse::<SystemUuid>().unwrap(), uuid);
            prop_assert_eq!(uuid.swapped().swapped(), uuid);
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,80}") {
            text.parse::<SystemUuid>().ok();
            text.parse::<MacAddress>().ok();
        }
    }
}
