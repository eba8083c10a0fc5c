//! Partition tables, read leniently: a table whose checksum is wrong is still somebody's table.
//!
//! Invariants: at most [`MOST_PARTITIONS`] partitions, every one within the disk; chains of extended partitions end.

use agent_protocol::disk::Signature;

use super::reader::Reader;
use crate::text::{clean_utf16, guid};

/// Most partitions that are looked into.
const MOST_PARTITIONS: usize = 128;
/// Most logical partitions that are followed.
const MOST_LOGICAL: usize = 64;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// Partition GUID (GPT).
    pub(crate) uuid: Option<String>,
    /// Name (GPT).
    pub(crate) name: Option<String>,
    /// Whether its type is EFI system partition.
    pub(crate) is_esp: bool,
    /// Number in its table, from one.
    pub(crate) number: u32,
    /// Partition GUID as stored (GPT).
    pub(crate) raw_guid: [u8; 16],
}

/// What stands in the tables of a disk.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) signatures: Vec<Signature>,
    pub(crate) partitions: Vec<Partition>,
}

/// EFI system partition, as stored.
const ESP: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];

/// Reads GPT (either copy) and MBR. `has_file_system` says that a file system begins at byte 0, whose boot sector looks like an MBR.
pub(super) fn find(reader: &mut Reader<'_>, has_file_system: bool) -> Tables {
    let mut tables = gpt(reader);
    let first = reader.bytes(0, 512);
    if tables.partitions.is_empty() || tables.signatures.is_empty() {
        mbr(reader, &first, has_file_system, &mut tables);
    }
    tables
}

/// The primary table, else the backup: with a whole primary the backup says nothing more, and it moves when a disk grows.
fn gpt(reader: &mut Reader<'_>) -> Tables {
    let size = reader.size();
    let mut tables = Tables::default();
    for sector in [512u64, 4096] {
        let places = [
            (sector, true),
            (
                size.checked_div(sector).and_then(|n| n.checked_sub(1)).map_or(0, |n| n * sector),
                false,
            ),
        ];
        for (at, primary) in places {
            if at == 0 {
                continue;
            }
            let header = reader.bytes(at, 512.min(sector));
            if header.get(..8) != Some(b"EFI PART") {
                continue;
            }
            let partitions = gpt_entries(reader, &header, sector);
            tables.signatures.push(Signature {
                kind: "gpt".to_owned(),
                offset: if primary { 0 } else { at },
                uuid: header.get(56..72).and_then(guid),
                label: None,
            });
            if tables.partitions.is_empty() {
                tables.partitions = partitions;
            }
            if primary {
                return tables;
            }
        }
    }
    tables
}

fn le32(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, |b| u64::from(u32::from_le_bytes(b)))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn gpt_entries(reader: &mut Reader<'_>, header: &[u8], sector: u64) -> Vec<Partition> {
    let (count, entry_size) = (le32(header, 80).min(MOST_PARTITIONS as u64), le32(header, 84));
    if !(128..=4096).contains(&entry_size) {
        return Vec::new();
    }
    let Some(at) = le64(header, 72).checked_mul(sector) else {
        return Vec::new();
    };
    let entries = reader.bytes(at, count * entry_size);
    let size = reader.size();
    let mut partitions = Vec::new();
    // Not above 4096.
    for (index, entry) in entries.chunks_exact(entry_size as usize).enumerate() {
        let Some(kind) = entry.get(..16).filter(|kind| *kind != [0; 16]) else {
            continue;
        };
        let (first, last) = (le64(entry, 32), le64(entry, 40));
        let (Some(start), Some(end)) = (first.checked_mul(sector), last.checked_add(1).and_then(|l| l.checked_mul(sector))) else {
            continue;
        };
        if start >= end || start >= size {
            continue;
        }
        let mut raw_guid = [0; 16];
        raw_guid.copy_from_slice(&entry[16..32]);
        partitions.push(Partition {
            start,
            length: end.min(size) - start,
            uuid: guid(&raw_guid),
            name: clean_utf16(&entry[56..128]),
            is_esp: kind == ESP,
            number: index as u32 + 1,
            raw_guid,
        });
    }
    partitions
}

struct MbrEntry {
    kind: u8,
    first: u64,
    count: u64,
}

fn mbr_entries(sector: &[u8]) -> Option<[MbrEntry; 4]> {
    if sector.get(510..512) != Some(&[0x55, 0xaa]) {
        return None;
    }
    let table = sector.get(446..510)?;
    if table.chunks_exact(16).any(|e| !matches!(e[0], 0 | 0x80)) {
        return None;
    }
    let entry = |n: usize| MbrEntry {
        kind: table[n * 16 + 4],
        first: le32(table, n * 16 + 8),
        count: le32(table, n * 16 + 12),
    };
    Some([entry(0), entry(1), entry(2), entry(3)])
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

fn mbr(reader: &mut Reader<'_>, first: &[u8], has_file_system: bool, tables: &mut Tables) {
    let Some(entries) = mbr_entries(first) else { return };
    let used = entries.iter().filter(|e| e.kind != 0 && e.count > 0).count();
    if used == 0 && has_file_system {
        return;
    }
    let id = le32(first, 440);
    tables.signatures.push(Signature {
        kind: "mbr".to_owned(),
        offset: 0,
        uuid: (id != 0).then(|| format!("{id:08x}")),
        label: None,
    });
    let (sector, size) = (reader.sector(), reader.size());
    let mut add = |first: u64, count: u64, kind: u8, number: u32| {
        let start = first.saturating_mul(sector);
        if kind != 0 && count > 0 && start > 0 && start < size && tables.partitions.len() < MOST_PARTITIONS {
            let length = count.saturating_mul(sector).min(size - start);
            let uuid = (id != 0).then(|| format!("{id:08x}-{number:02x}"));
            tables.partitions.push(Partition {
                start,
                length,
                uuid,
                name: None,
                is_esp: kind == 0xef,
                number,
                raw_guid: [0; 16],
            });
        }
    };
    let mut chains = Vec::new();
    for (number, entry) in (1u32..).zip(&entries) {
        if is_extended(entry.kind) {
            chains.push(entry.first);
        } else if entry.kind != 0xee {
            add(entry.first, entry.count, entry.kind, number);
        }
    }
    let mut number = 5;
    for base in chains {
        let mut next = base;
        for _ in 0..MOST_LOGICAL {
            let table = reader.bytes(next.saturating_mul(sector), 512);
            let Some([logical, link, ..]) = mbr_entries(&table) else { break };
            add(next.saturating_add(logical.first), logical.count, logical.kind, number);
            number += 1;
            if !is_extended(link.kind) || link.first == 0 {
                break;
            }
            next = base.saturating_add(link.first);
        }
    }
}
