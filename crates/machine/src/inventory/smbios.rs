//! SMBIOS tables (DMTF DSP0134): types 0 to 4, 17, 38 and 42.
//!
//! Firmware writes nonsense into them. This parser takes each structure by itself and skips what is damaged, where a stricter one would give
//! up the rest; it reads at most [`MOST_STRUCTURES`] and never outside of the bytes it was given. Texts that only hold a place
//! ("To Be Filled By O.E.M.") are left out.

use agent_protocol::{
    bmc::RedfishHostInterface,
    identity::SystemUuid,
    inventory::{Dimm, SystemIdentity, is_placeholder},
    limits::MAX_LIST,
};

use super::{
    management::{self, SystemInterface},
    tree::Tree,
};
use crate::text::{clean, clean_bytes};

const MOST_STRUCTURES: usize = 4096;
/// No machine has a module larger than this; more is a damaged table.
const LARGEST_DIMM: u64 = 8 << 40;

/// What the tables say.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    pub(super) system: SystemIdentity,
    pub(super) processor: Option<String>,
    pub(super) populated_sockets: usize,
    pub(super) dimms: Vec<Dimm>,
    pub(super) ipmi: Option<SystemInterface>,
    pub(super) redfish: Option<RedfishHostInterface>,
}

/// Reads the tables, else what the kernel makes of them.
pub(super) fn read(tree: &Tree) -> Tables {
    let entry = tree.bytes("sys/firmware/dmi/tables/smbios_entry_point").unwrap_or_default();
    match tree.bytes("sys/firmware/dmi/tables/DMI") {
        Some(table) if !table.is_empty() => parse(&table, version(&entry)),
        _ => Tables {
            system: from_kernel(tree),
            ..Tables::default()
        },
    }
}

/// Major and minor version from an entry point of either kind. 2.6 when it cannot be told: later ones agree with it here.
fn version(entry: &[u8]) -> (u8, u8) {
    let at = |n: usize| entry.get(n).copied();
    let version = if entry.starts_with(b"_SM3_") {
        at(7).zip(at(8))
    } else if entry.starts_with(b"_SM_") {
        at(6).zip(at(7))
    } else {
        None
    };
    version.unwrap_or((2, 6))
}

/// One structure: its formatted part and its strings.
pub(super) struct Structure<'a> {
    kind: u8,
    pub(super) body: &'a [u8],
    strings: &'a [u8],
}

impl Structure<'_> {
    pub(super) fn byte(&self, at: usize) -> Option<u8> {
        self.body.get(at).copied()
    }

    fn le16(&self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.body.get(at..at + 2)?.try_into().ok()?))
    }

    fn le32(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.body.get(at..at + 4)?.try_into().ok()?))
    }

    /// The string whose number stands at `at`, unless it only holds a place.
    fn string(&self, at: usize) -> Option<String> {
        let number = usize::from(self.byte(at)?).checked_sub(1)?;
        said(self.strings.split(|b| *b == 0).nth(number)?)
    }
}

/// Cuts a table into structures. A damaged length ends it: nothing behind it can be trusted to begin where it seems to.
fn structures(mut table: &[u8]) -> impl Iterator<Item = Structure<'_>> {
    std::iter::from_fn(move || {
        let [kind, length, ..] = *table else { return None };
        let length = usize::from(length);
        if length < 4 || length > table.len() {
            return None;
        }
        let (body, rest) = table.split_at(length);
        let end = rest.windows(2).position(|w| w == [0, 0])?;
        table = &rest[end + 2..];
        Some(Structure {
            kind,
            body,
            strings: &rest[..end],
        })
    })
    .take(MOST_STRUCTURES)
}

/// Parses a table of that version.
pub(super) fn parse(table: &[u8], version: (u8, u8)) -> Tables {
    let mut tables = Tables::default();
    for s in structures(table) {
        match s.kind {
            0 if tables.system.bios.is_none() => {
                tables.system.bios = bios([s.string(4), s.string(5), s.string(8)]);
            }
            1 => {
                // The first one counts: some blades carry a second for their enclosure.
                let system = &mut tables.system;
                system.vendor = system.vendor.take().or_else(|| s.string(4));
                system.product = system.product.take().or_else(|| s.string(5));
                system.serial = system.serial.take().or_else(|| s.string(7));
                system.uuid = system.uuid.or_else(|| uuid(s.body.get(8..24)?, version));
            }
            2 => tables.system.board_serial = tables.system.board_serial.take().or_else(|| s.string(7)),
            3 => tables.system.asset_tag = tables.system.asset_tag.take().or_else(|| s.string(8)),
            // A central processor (3) in a populated socket (bit 6).
            4 if s.byte(5).is_none_or(|kind| kind == 3) && s.byte(0x18).is_none_or(|status| status & 0x40 != 0) => {
                tables.populated_sockets += 1;
                tables.processor = tables.processor.take().or_else(|| s.string(0x10));
            }
            17 => tables.dimms.extend(dimm(&s).filter(|_| tables.dimms.len() < MAX_LIST)),
            38 => tables.ipmi = tables.ipmi.take().or_else(|| management::ipmi(&s)),
            42 => tables.redfish = tables.redfish.take().or_else(|| management::redfish(&s)),
            127 => break,
            _ => {}
        }
    }
    tables
}

fn bios(parts: [Option<String>; 3]) -> Option<String> {
    let words: Vec<String> = parts.into_iter().flatten().collect();
    clean(&words.join(" "))
}

/// The first three fields are little-endian since 2.6, and were not defined to be before.
fn uuid(bytes: &[u8], version: (u8, u8)) -> Option<SystemUuid> {
    let raw = SystemUuid(bytes.try_into().ok()?);
    Some(if version >= (2, 6) { raw.swapped() } else { raw })
}

fn dimm(s: &Structure<'_>) -> Option<Dimm> {
    let bytes = match s.le16(0x0c)? {
        0 | 0xffff => return None,
        0x7fff => u64::from(s.le32(0x1c)? & 0x7fff_ffff) << 20,
        size if size & 0x8000 != 0 => u64::from(size & 0x7fff) << 10,
        size => u64::from(size) << 20,
    };
    if bytes == 0 || bytes > LARGEST_DIMM {
        return None;
    }
    let speed = [0x20, 0x15]
        .into_iter()
        .filter_map(|at| s.le16(at))
        .find(|speed| !matches!(speed, 0 | 0xffff));
    Some(Dimm {
        locator: s.string(0x10).unwrap_or_else(|| "unnamed slot".to_owned()),
        bytes,
        kind: s.byte(0x12).and_then(memory_type).map(str::to_owned),
        mega_transfers: speed.map(u32::from),
        serial: s.string(0x18),
    })
}

fn memory_type(code: u8) -> Option<&'static str> {
    Some(match code {
        0x0f => "SDRAM",
        0x12 => "DDR",
        0x13 => "DDR2",
        0x14 => "DDR2 FB-DIMM",
        0x18 => "DDR3",
        0x1a => "DDR4",
        0x1b => "LPDDR",
        0x1c => "LPDDR2",
        0x1d => "LPDDR3",
        0x1e => "LPDDR4",
        0x20 => "HBM",
        0x21 => "HBM2",
        0x22 => "DDR5",
        0x23 => "LPDDR5",
        0x24 => "HBM3",
        _ => return None,
    })
}

fn from_kernel(tree: &Tree) -> SystemIdentity {
    let read = |what: &str| tree.line(format!("sys/class/dmi/id/{what}")).filter(|text| !is_placeholder(text));
    SystemIdentity {
        uuid: tree.text("sys/class/dmi/id/product_uuid").and_then(|text| text.parse().ok()),
        vendor: read("sys_vendor"),
        product: read("product_name"),
        serial: read("product_serial"),
        board_serial: read("board_serial"),
        asset_tag: read("chassis_asset_tag"),
        bios: bios([read("bios_vendor"), read("bios_version"), read("bios_date")]),
    }
}

fn said(bytes: &[u8]) -> Option<String> {
    clean_bytes(bytes).filter(|text| !is_placeholder(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uuids_are_read_in_the_order_of_their_version() {
        let mut table = vec![1, 27, 0, 1, 0, 0, 0, 0];
        table.extend((0u8..16).map(|n| n + 0x10));
        table.extend([0, 0, 0, 0, 0]);
        let shown = |version| parse(&table, version).system.uuid.unwrap().to_string();
        assert_eq!(shown((2, 8)), "13121110-1514-1716-1819-1a1b1c1d1e1f");
        assert_eq!(shown((2, 4)), "10111213-1415-1617-1819-1a1b1c1d1e1f");
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(table: Vec<u8>, major: u8, minor: u8) {
            parse(&table, (major, minor));
        }

        #[test]
        fn no_structure_makes_it_panic(structures in proptest::collection::vec((prop_oneof![0u8..5, Just(17), Just(38), Just(42)], 4u8..90, any::<[u8; 90]>(), "[ -~]{0,20}"), 0..12)) {
            let mut table = Vec::new();
            for (kind, length, body, text) in structures {
                table.extend([kind, length]);
                table.extend(&body[..usize::from(length) - 2]);
                table.extend(text.as_bytes());
                table.extend([0, 0]);
            }
            let tables = parse(&table, (3, 3));
            prop_assert!(tables.dimms.iter().all(|d| d.bytes > 0 && d.bytes <= LARGEST_DIMM));
        }
    }
}
