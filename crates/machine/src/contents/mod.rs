//! What a disk holds: the question that stands before every destructive act.
//!
//! [`probe`] looks for our in-progress marker, partition tables, and, on the whole disk and in every partition, for file systems, volume
//! managers, RAID members and our finished marker. When nothing is recognised, blocks at both ends and spread over the disk decide between
//! blank and unrecognised data.
//!
//! Invariants: reads only; bounded; no bytes make it panic. A doubt is never `Blank`: an unreadable place makes the disk `Unreadable`, one
//! odd byte makes it `Foreign`. The fingerprint covers tables, UUIDs and labels and no sizes or counters, so that it stays the same when
//! the installed system merely ran (grew its partitions, mounted its file systems).
//! What it does not do: prove that nothing is there. A blank disk is one on which nothing was found where it is looked for.

mod filesystems;
mod reader;
mod tables;
mod volumes;

use agent_protocol::{
    disk::{ContentsState, DiskContents, DiskMarker, Signature},
    limits::MAX_LIST,
};
use image::BlockDevice;
use reader::{Container, Reader};
use sha2::{Digest, Sha256};
pub(crate) use tables::Partition;

use crate::marker::{self, MARKER_BYTES};

/// How much of each end of a disk must be of one byte for it to be blank.
const BLANK_ENDS: u64 = 1 << 20;
/// How many blocks between the ends are looked at.
const BLANK_SAMPLES: u64 = 128;
/// Size of such a block.
const BLANK_BLOCK: u64 = 4096;

/// Looks at a disk.
pub fn probe(device: &dyn BlockDevice) -> DiskContents {
    let mut reader = Reader::new(device);
    let contents = look(&mut reader);
    match reader.error() {
        Some(error) => {
            tracing::warn!(disk = device.name(), %error, "the disk cannot be read");
            describe(ContentsState::Unreadable, Vec::new(), None)
        }
        None => contents,
    }
}

/// The contents of a disk that could not even be opened.
pub fn unreadable() -> DiskContents {
    describe(ContentsState::Unreadable, Vec::new(), None)
}

/// The partitions of a disk, whatever the table.
pub(crate) fn partitions(device: &dyn BlockDevice) -> Vec<Partition> {
    tables::find(&mut Reader::new(device), false).partitions
}

fn look(reader: &mut Reader<'_>) -> DiskContents {
    let sector = reader.sector();
    let first = reader.bytes(0, sector);
    if let Some(found) = image::marker::decode(&first) {
        // A marker whose payload is not ours is still an interrupted write: of nobody that we know.
        let marker = marker::parse_payload(&found);
        let order = marker.as_ref().map(|m| m.order_id.clone());
        let signature = Signature {
            kind: "in-progress".to_owned(),
            offset: 0,
            uuid: order,
            label: None,
        };
        let state = if marker.is_some() {
            ContentsState::Interrupted
        } else {
            ContentsState::Foreign
        };
        return describe(state, vec![signature], marker);
    }

    let whole = Container::read(reader, 0, reader.size());
    let mut signatures = filesystems::find(&whole);
    let tables = tables::find(reader, !signatures.is_empty());
    signatures.extend(volumes::find(&whole, sector));
    signatures.extend(tables.signatures);
    let mut marker = finished_marker(&whole);
    for partition in &tables.partitions {
        let container = Container::read(reader, partition.start, partition.length);
        let before = signatures.len();
        signatures.extend(filesystems::find(&container));
        signatures.extend(volumes::find(&container, sector));
        if signatures.len() == before {
            signatures.push(Signature {
                kind: "partition".to_owned(),
                offset: partition.start,
                uuid: partition.uuid.clone(),
                label: partition.name.clone(),
            });
        }
        marker = marker.or_else(|| finished_marker(&container));
    }
    if let Some(marker) = marker {
        return describe(ContentsState::Marked, signatures, Some(marker));
    }
    if !signatures.is_empty() {
        return describe(ContentsState::Foreign, signatures, None);
    }
    if is_blank(reader) {
        return describe(ContentsState::Blank, Vec::new(), None);
    }
    let data = Signature {
        kind: "data".to_owned(),
        offset: 0,
        uuid: None,
        label: None,
    };
    describe(ContentsState::Foreign, vec![data], None)
}

fn finished_marker(container: &Container) -> Option<DiskMarker> {
    marker::decode(container.before_end(MARKER_BYTES as u64, MARKER_BYTES)?)
}

/// Whether both ends and a spread of blocks are of one repeated byte.
fn is_blank(reader: &mut Reader<'_>) -> bool {
    let size = reader.size();
    if size == 0 {
        return false;
    }
    let mut byte = None;
    let ends = [(0, BLANK_ENDS.min(size)), (size.saturating_sub(BLANK_ENDS), BLANK_ENDS)];
    let blocks = (size / BLANK_BLOCK).max(1);
    let spread = (1..=BLANK_SAMPLES).map(|n| {
        let block = u128::from(n) * u128::from(blocks) / u128::from(BLANK_SAMPLES + 1);
        // Below `blocks`, a u64.
        (block as u64 * BLANK_BLOCK, BLANK_BLOCK)
    });
    for (offset, length) in ends.into_iter().chain(spread) {
        let bytes = reader.bytes(offset, length);
        let Some(first) = bytes.first() else { continue };
        if *byte.get_or_insert(*first) != *first || bytes.iter().any(|b| b != first) {
            return false;
        }
    }
    byte.is_some()
}

/// Sorts, names and clips.
fn describe(state: ContentsState, mut signatures: Vec<Signature>, marker: Option<DiskMarker>) -> DiskContents {
    signatures.sort();
    signatures.dedup();
    let mut hash = Sha256::new();
    for s in &signatures {
        for part in [
            s.kind.as_bytes(),
            s.uuid.as_deref().unwrap_or_default().as_bytes(),
            s.label.as_deref().unwrap_or_default().as_bytes(),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(s.offset.to_le_bytes());
    }
    signatures.truncate(MAX_LIST);
    DiskContents {
        state,
        fingerprint: hex::encode(hash.finalize()),
        signatures,
        marker,
    }
}

/// Contents in words, for refusals: `ext4 "root" and 2 more`, `blank`, `an installation of instance default/web-1`.
pub fn in_words(contents: &DiskContents) -> String {
    let whose = |m: &DiskMarker| {
        if m.instance.is_empty() {
            format!("order {}", m.order_id)
        } else {
            format!("instance {}", m.instance)
        }
    };
    match (contents.state, &contents.marker) {
        (ContentsState::Blank, _) => "nothing".to_owned(),
        (ContentsState::Unreadable, _) => "something that cannot be read".to_owned(),
        (ContentsState::Marked, Some(m)) => format!("an installation of {}", whose(m)),
        (ContentsState::Interrupted, Some(m)) => format!("an interrupted write or erase of {}", whose(m)),
        (ContentsState::Marked | ContentsState::Interrupted | ContentsState::Foreign, _) => {
            let names: Vec<String> = contents
                .signatures
                .iter()
                .take(4)
                .map(|s| {
                    s.label
                        .as_ref()
                        .map_or_else(|| s.kind.clone(), |label| format!("{} {label:?}", s.kind))
                })
                .collect();
            let more = contents.signatures.len().saturating_sub(4);
            let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!(
                "{}{tail} (fingerprint {})",
                names.join(", "),
                contents.fingerprint.get(..12).unwrap_or_default()
            )
        }
    }
}

#[cfg(test)]
mod tests;
