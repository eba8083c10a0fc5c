//! The in-progress marker: what the first sector of a disk says while an image is being written to it.
//!
//! It takes the place of a boot sector from the first write to the last, so a disk whose imaging was interrupted is recognised
//! and is not bootable: there is no 0x55AA at offset 510, and no protective MBR without which firmware does not believe a GPT.
//! It lies wholly in the first 512 bytes, because one sector is what a disk writes atomically. All integers little-endian:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 14 | `KBM-INPROGRESS` |
//! | 14 | 1 | layout version, 1 |
//! | 15 | 1 | 1 if the payload is compressed with raw deflate, 0 if it is stored |
//! | 16 | 2 | length of the payload as stored |
//! | 18 | 2 | length of the payload when decompressed |
//! | 20 | 4 | CRC-32 of bytes 0 to 19 followed by the stored payload |
//! | 24 | up to 486 | payload (JSON by convention; opaque here) |
//! | 510 | 2 | zero |

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use crate::error::ImageError;

/// What the first sector begins with.
pub const MAGIC: &[u8; 14] = b"KBM-INPROGRESS";
/// Bytes of the marker.
pub const MARKER_BYTES: usize = 512;
/// Longest payload before compression.
pub const MAX_PAYLOAD: usize = 4096;

const VERSION: u8 = 1;
const HEADER: usize = 24;
const ROOM: usize = MARKER_BYTES - 2 - HEADER;

/// Makes the first sector. Payloads that do not fit after compression are refused with both lengths.
pub fn encode(payload: &[u8]) -> Result<[u8; MARKER_BYTES], ImageError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(ImageError::MarkerTooLarge {
            needed: payload.len(),
            available: MAX_PAYLOAD,
        });
    }
    let compressed = if payload.len() > ROOM { deflate(payload) } else { None };
    let stored = compressed.as_deref().unwrap_or(payload);
    if stored.len() > ROOM {
        return Err(ImageError::MarkerTooLarge {
            needed: stored.len(),
            available: ROOM,
        });
    }
    let mut sector = [0; MARKER_BYTES];
    sector[..14].copy_from_slice(MAGIC);
    sector[14] = VERSION;
    sector[15] = u8::from(compressed.is_some());
    // Both are below MAX_PAYLOAD.
    sector[16..18].copy_from_slice(&(stored.len() as u16).to_le_bytes());
    sector[18..20].copy_from_slice(&(payload.len() as u16).to_le_bytes());
    let checksum = checksum(&sector[..20], stored);
    sector[20..24].copy_from_slice(&checksum.to_le_bytes());
    sector[HEADER..HEADER + stored.len()].copy_from_slice(stored);
    Ok(sector)
}

/// The payload, if `sector` (the first 512 bytes of a disk, or more) is a whole marker.
pub fn decode(sector: &[u8]) -> Option<Vec<u8>> {
    let sector = sector.get(..MARKER_BYTES)?;
    if &sector[..14] != MAGIC || sector[14] != VERSION || sector[510..] != [0, 0] {
        return None;
    }
    let stored_length = usize::from(u16::from_le_bytes([sector[16], sector[17]]));
    let length = usize::from(u16::from_le_bytes([sector[18], sector[19]]));
    if stored_length > ROOM || length > MAX_PAYLOAD {
        return None;
    }
    let stored = &sector[HEADER..HEADER + stored_length];
    if checksum(&sector[..20], stored).to_le_bytes() != sector[20..24] {
        return None;
    }
    match sector[15] {
        0 if stored_length == length => Some(stored.to_vec()),
        1 => {
            let mut payload = Vec::with_capacity(length);
            DeflateDecoder::new(stored)
                .take(MAX_PAYLOAD as u64 + 1)
                .read_to_end(&mut payload)
                .ok()?;
            (payload.len() == length).then_some(payload)
        }
        _ => None,
    }
}

fn deflate(payload: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(payload).ok()?;
    encoder.finish().ok()
}

fn checksum(header: &[u8], stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(stored);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_come_back() {
        let long = format!(
            r#"{{"instance":"{}","imageDigest":"sha512:{}"}}"#,
            "tenant-namespace/".repeat(20),
            "ab".repeat(64)
        );
        for payload in [&b""[..], b"{}", &[b'x'; ROOM], long.as_bytes()] {
            let sector = encode(payload).unwrap();
            assert_eq!(decode(&sector).as_deref(), Some(payload));
            assert_eq!(&sector[510..], [0, 0]);
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let sector = encode(br#"{"orderId":"o-1"}"#).unwrap();
        for index in 0..HEADER + 17 {
            let mut changed = sector;
            changed[index] ^= 1;
            assert_eq!(decode(&changed), None, "byte {index}");
        }
        assert_eq!(decode(&[0; 512]), None);
        assert_eq!(decode(b"KBM"), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut noise = Vec::new();
        let mut value = 1u32;
        for _ in 0..600 {
            value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            noise.push((value >> 24) as u8);
        }
        assert!(matches!(encode(&noise), Err(ImageError::MarkerTooLarge { available: ROOM, .. })));
        assert!(matches!(encode(&[0; MAX_PAYLOAD + 1]), Err(ImageError::MarkerTooLarge { .. })));
    }
}
