//! What is done with an input, for every parser that stored images reach. The fuzz targets in `fuzz/` call the same functions.
//!
//! No input may make one of them panic; memory and time are watched by who calls them.

use std::sync::atomic::{AtomicU64, Ordering};

use image::decode::ExtentSink;
use image::{Block, Digest, Format, ImageError, Limit, MemorySource, Pool};

/// Largest disk: inputs of a few KiB must not become gigabytes.
const DISK: u64 = 16 << 20;

/// Counts what comes.
struct Count {
    pool: Pool,
    came: AtomicU64,
}

impl ExtentSink for Count {
    fn block(&self) -> Result<Block, ImageError> {
        self.pool.take()
    }

    fn data(&self, offset: u64, block: Block) -> Result<(), ImageError> {
        self.zero(offset, block.len() as u64)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        assert!(offset + length <= DISK, "an extent behind the disk's end");
        self.came.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }
}

/// Opens bytes as an image of a format and takes all of it.
fn take(stored: &[u8], format: Format) {
    let limit = Limit {
        bytes: DISK,
        disk: "disk".to_owned(),
    };
    let source = Box::new(MemorySource::new("image", stored));
    let Ok(opened) = image::open(source, &Digest::sha256_of(stored), Some(format), &limit) else {
        return;
    };
    let sink = Count {
        pool: Pool::new(2),
        came: AtomicU64::new(0),
    };
    if let Ok(copied) = opened.copy_to(&sink) {
        assert_eq!(copied.image_bytes, sink.came.into_inner(), "every byte is covered once");
    }
}

fn with_magic(magic: &[u8], input: &[u8], format: Format) {
    if input.starts_with(magic) {
        take(input, format);
    } else {
        take(&[magic, input].concat(), format);
    }
}

/// Bytes of every kind: what they are taken for, and then as that.
pub fn format(input: &[u8]) {
    let sniffed = image::sniff(&input[..input.len().min(image::SNIFF_BYTES)]);
    assert!(!sniffed.to_string().is_empty());
}

/// qcow2 as a whole: tables, clusters, and the pass over the file.
pub fn qcow2(input: &[u8]) {
    with_magic(b"QFI\xfb\0\0\0", input, Format::Qcow2);
}

/// qcow2 up to the first bytes of the disk: header, tables and map, without a thread.
pub fn qcow2_map(input: &[u8]) {
    let stored = if input.starts_with(b"QFI\xfb") {
        input.to_vec()
    } else {
        [b"QFI\xfb\0\0\0", input].concat()
    };
    let limit = Limit {
        bytes: DISK,
        disk: "disk".to_owned(),
    };
    let source = Box::new(MemorySource::new("image", stored));
    if let Ok(opened) = image::open(source, &Digest::sha256_of(b""), None, &limit) {
        assert!(opened.image_bytes().is_some_and(|bytes| bytes <= DISK));
        assert!(opened.head().len() as u64 <= DISK);
    }
}

/// gzip members.
pub fn gz(input: &[u8]) {
    with_magic(b"\x1f\x8b\x08", input, Format::Gzip);
}

/// xz streams, in blocks and not.
pub fn xz(input: &[u8]) {
    with_magic(b"\xfd7zXZ\0", input, Format::Xz);
}

/// Zstandard frames.
pub fn zst(input: &[u8]) {
    with_magic(b"\x28\xb5\x2f\xfd", input, Format::Zstd);
}

/// Partition tables as they are, and with their checksums put right, so that what lies behind those is reached.
pub fn tables(input: &[u8]) {
    table(input);
    let mut repaired = input.to_vec();
    for sector in [512usize, 4096] {
        let number = |at: usize| {
            let bytes = repaired.get(sector + at..sector + at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
        };
        let (Some(length), Some(count), Some(size), Some(_)) = (number(12), number(80), number(84), number(88)) else {
            break;
        };
        let entries_end = count.saturating_mul(size).saturating_add(2 * sector);
        repaired[sector..sector + 8].copy_from_slice(b"EFI PART");
        let entries = repaired.get(2 * sector..entries_end).map_or(0, crc32fast::hash);
        repaired[sector + 88..sector + 92].copy_from_slice(&entries.to_le_bytes());
        repaired[sector + 16..sector + 20].fill(0);
        let header = repaired.get(sector..sector.saturating_add(length)).map_or(0, crc32fast::hash);
        repaired[sector + 16..sector + 20].copy_from_slice(&header.to_le_bytes());
        table(&repaired);
        // Then the other sector size, without the signature of this one.
        repaired[sector] = 0;
    }
}

fn table(head: &[u8]) {
    use image::table::Table;
    let Ok(table) = Table::parse(head) else {
        return;
    };
    table.partitions_end();
    if let Table::Gpt(gpt) = table {
        for disk in [gpt.image_bytes(), 1 << 30, 1 << 44] {
            if let Some(moved) = gpt.relocate(disk, None) {
                assert!(moved.backup_offset + moved.backup.len() as u64 <= disk);
                assert!(gpt.partitions_end() <= moved.backup_offset);
            }
        }
    }
}

/// A packed image's manifest: refused, or the one spelling of figures that fit together.
pub fn manifest(input: &[u8]) {
    let Ok(manifest) = image::pack::Manifest::parse(input) else {
        return;
    };
    assert_eq!(manifest.to_bytes(), input);
    let mut end = 0;
    for chunk in manifest.chunks() {
        let start = manifest.disk_offset(chunk.index);
        assert!(start >= end && manifest.plain_length(chunk.index) > 0);
        end = start + manifest.plain_length(chunk.index) as u64;
        assert!(end <= manifest.disk_bytes() && chunk.offset + u64::from(chunk.length) <= manifest.stored_bytes());
        assert_eq!(manifest.chunk(chunk.index), Some(chunk));
    }
}

/// The in-progress marker as it is, and with what is checked first put right.
pub fn marker(input: &[u8]) {
    image::marker::decode(input);
    let mut sector = input.to_vec();
    sector.resize(image::marker::MARKER_BYTES, 0);
    sector[..14].copy_from_slice(image::marker::MAGIC);
    sector[14] = 1;
    sector[510..].fill(0);
    let end = 24 + usize::from(u16::from_le_bytes([sector[16], sector[17]]));
    let Some(payload) = sector.get(24..end) else {
        return;
    };
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&sector[..20]);
    checksum.update(payload);
    let checksum = checksum.finalize().to_le_bytes();
    sector[20..24].copy_from_slice(&checksum);
    if let Some(payload) = image::marker::decode(&sector) {
        assert!(payload.len() <= image::marker::MAX_PAYLOAD);
    }
}
