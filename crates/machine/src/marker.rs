//! What an order of ours leaves on a disk, byte by byte.
//!
//! **Finished**: the last 4 KiB ([`MARKER_BYTES`]) of the config drive partition, behind its FAT file system, which is that much
//! smaller than the partition:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 16 | [`MAGIC`] |
//! | 16 | 4 | length `n` of the JSON, little-endian, at most 4,072 |
//! | 20 | `n` | `agent_protocol::disk::DiskMarker` as JSON |
//! | 20 + `n` | 4 | CRC-32 (IEEE) of everything before it, little-endian |
//! | | | zeros |
//!
//! **In progress**: the `image` crate's marker in sector 0, whose payload is the same JSON (see [`payload`]). It is there before the first
//! byte of a disk changes and goes as the last step, so that a disk is never seen half-written and unmarked.
//!
//! A marker names its instance; it proves nothing: whoever writes disks can write markers. The server compares it with what it knows.

use agent_protocol::disk::DiskMarker;

/// Size of the finished marker's place.
pub const MARKER_BYTES: usize = 4096;
/// First bytes of a finished marker; the last one is the version of the layout.
pub const MAGIC: [u8; 16] = *b"KubeBareMetal\0\0\x01";

const HEADER: usize = 20;
const LARGEST_JSON: usize = MARKER_BYTES - HEADER - 4;

/// Why a marker cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// Names that are too long.
    #[error("the disk's marker needs {0} bytes, {LARGEST_JSON} are there; shorten the names of the instance and its namespace")]
    TooLarge(usize),
    /// JSON failed.
    #[error("the disk's marker cannot be written as JSON: {0}")]
    Json(String),
}

/// The payload of an in-progress marker.
///
/// # Errors
/// [`MarkerError::Json`], which no marker of ours causes.
pub fn payload(marker: &DiskMarker) -> Result<Vec<u8>, MarkerError> {
    serde_json::to_vec(marker).map_err(|e| MarkerError::Json(e.to_string()))
}

/// Reads an in-progress marker's payload back.
pub fn parse_payload(json: &[u8]) -> Option<DiskMarker> {
    let marker: DiskMarker = serde_json::from_slice(json).ok()?;
    is_within_bounds(&marker).then_some(marker)
}

/// The 4 KiB of a finished marker.
///
/// # Errors
/// [`MarkerError::TooLarge`] when it does not fit.
pub fn encode(marker: &DiskMarker) -> Result<Vec<u8>, MarkerError> {
    let json = payload(marker)?;
    if json.len() > LARGEST_JSON {
        return Err(MarkerError::TooLarge(json.len()));
    }
    let mut block = Vec::with_capacity(MARKER_BYTES);
    block.extend_from_slice(&MAGIC);
    // Not above LARGEST_JSON.
    block.extend_from_slice(&(json.len() as u32).to_le_bytes());
    block.extend_from_slice(&json);
    let sum = crc32fast::hash(&block);
    block.extend_from_slice(&sum.to_le_bytes());
    block.resize(MARKER_BYTES, 0);
    Ok(block)
}

/// Reads a finished marker; anything that is not whole is no marker.
pub fn decode(block: &[u8]) -> Option<DiskMarker> {
    let header = block.get(..HEADER)?;
    if header[..16] != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(header[16..20].try_into().ok()?) as usize;
    if length > LARGEST_JSON {
        return None;
    }
    let sum = block.get(HEADER + length..HEADER + length + 4)?;
    if crc32fast::hash(&block[..HEADER + length]).to_le_bytes() != *sum {
        return None;
    }
    parse_payload(&block[HEADER..HEADER + length])
}

/// A marker is sent to the server; one that the protocol would refuse is treated as none.
fn is_within_bounds(marker: &DiskMarker) -> bool {
    [
        &marker.instance_uid,
        &marker.instance,
        &marker.hardware,
        &marker.image_digest,
        &marker.order_id,
    ]
    .iter()
    .all(|text| text.len() <= 512 && !text.chars().any(char::is_control))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn example() -> DiskMarker {
        DiskMarker {
            instance_uid: "6a3b0d1e-1111-4222-8333-444455556666".to_owned(),
            instance: "default/web-1".to_owned(),
            hardware: "bm-1".to_owned(),
            image_digest: format!("sha256:{}", "ab".repeat(32)),
            order_id: "order-1".to_owned(),
        }
    }

    #[test]
    fn a_marker_reads_back_and_any_flipped_bit_unmakes_it() {
        let block = encode(&example()).unwrap();
        assert_eq!(block.len(), MARKER_BYTES);
        assert_eq!(decode(&block), Some(example()));
        let used = HEADER + payload(&example()).unwrap().len() + 4;
        for at in 0..used {
            let mut torn = block.clone();
            torn[at] ^= 1;
            assert_eq!(decode(&torn), None, "byte {at}");
        }
    }

    #[test]
    fn names_that_do_not_fit_are_refused() {
        let marker = DiskMarker {
            instance: "x".repeat(5000),
            ..example()
        };
        assert!(matches!(encode(&marker), Err(MarkerError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes: Vec<u8>) {
            prop_assert_eq!(decode(&bytes), None);
            let keep = bytes.len().min(16);
            bytes[..keep].copy_from_slice(&MAGIC[..keep]);
            decode(&bytes);
        }
    }
}
