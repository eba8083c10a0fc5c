//! Fixtures that several test files share: images made here, with partition tables written independently of the crate.
#![allow(dead_code, missing_docs, reason = "each test file uses its own part")]

pub mod pack;

use std::ops::ControlFlow;

use image::device::sim::SimDisk;
use image::{BlockDevice, ConfigDrive, Digest, Evidence, Format, ImageError, MemorySource, Tuning, WriteRequest};

pub const MIB: usize = 1 << 20;

/// Bytes that do not repeat and do not compress, the same for the same seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn gpt_header(own: u64, other: u64, entries_lba: u64, last: u64, entries: &[u8], sector: usize) -> Vec<u8> {
    let entry_sectors = (entries.len() as u64).div_ceil(sector as u64);
    let mut header = vec![0; sector];
    put(&mut header, 0, b"EFI PART");
    put(&mut header, 8, &0x0001_0000u32.to_le_bytes());
    put(&mut header, 12, &92u32.to_le_bytes());
    put(&mut header, 24, &own.to_le_bytes());
    put(&mut header, 32, &other.to_le_bytes());
    put(&mut header, 40, &(2 + entry_sectors).to_le_bytes());
    put(&mut header, 48, &(last - entry_sectors - 1).to_le_bytes());
    put(&mut header, 56, &[0xd1; 16]);
    put(&mut header, 72, &entries_lba.to_le_bytes());
    put(&mut header, 80, &128u32.to_le_bytes());
    put(&mut header, 84, &128u32.to_le_bytes());
    put(&mut header, 88, &crc32fast::hash(entries).to_le_bytes());
    let checksum = crc32fast::hash(&header[..92]);
    put(&mut header, 16, &checksum.to_le_bytes());
    header
}

/// Puts a GPT with these partitions (first and last LBA) on a disk, primary and backup, with a protective MBR.
pub fn add_gpt(disk: &mut [u8], partitions: &[(u64, u64)], sector: usize) {
    let mut entries = vec![0; 128 * 128];
    for (index, (first, last)) in partitions.iter().enumerate() {
        put(&mut entries, index * 128, &[0x0f + index as u8; 16]);
        put(&mut entries, index * 128 + 16, &[0x77; 16]);
        put(&mut entries, index * 128 + 32, &first.to_le_bytes());
        put(&mut entries, index * 128 + 40, &last.to_le_bytes());
    }
    let last = (disk.len() / sector - 1) as u64;
    let backup_entries = last - (entries.len() / sector) as u64;
    put(disk, sector, &gpt_header(1, last, 2, last, &entries, sector));
    put(disk, 2 * sector, &entries);
    put(disk, backup_entries as usize * sector, &entries);
    put(
        disk,
        last as usize * sector,
        &gpt_header(last, 1, backup_entries, last, &entries, sector),
    );
    let mut slot = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0];
    slot[12..].copy_from_slice(&(last as u32).to_le_bytes());
    put(disk, 446, &[0; 64]);
    put(disk, 446, &slot);
    put(disk, 510, &[0x55, 0xaa]);
}

/// A system image with a GPT: one partition of noise with a hole of zeros in it.
pub fn gpt_image(length: usize) -> Vec<u8> {
    let mut image = noise(length, 7);
    image[..446].fill(0x90);
    image[512..40 * 512].fill(0);
    image[MIB..MIB + 300 * 1024].fill(0);
    let sectors = (length / 512) as u64;
    image[(sectors as usize - 33) * 512..].fill(0);
    add_gpt(&mut image, &[(40, sectors - 40)], 512);
    image
}

/// A system image with an MBR, boot code and a loader in the gap.
pub fn mbr_image(length: usize) -> Vec<u8> {
    let mut image = noise(length, 9);
    put(&mut image, 446, &[0; 64]);
    put(&mut image, 446, &[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 63, 0, 0, 0]);
    put(&mut image, 458, &((length / 512 - 63) as u32).to_le_bytes());
    put(&mut image, 510, &[0x55, 0xaa]);
    image[MIB..MIB + 200 * 1024].fill(0);
    image
}

/// An image of a file system without a partition table.
pub fn bare_image(length: usize) -> Vec<u8> {
    let mut image = noise(length, 11);
    image[..1024].fill(0);
    put(&mut image, 510, &[0x55, 0xaa]);
    image
}

/// A disk that somebody used: a valid GPT, primary and backup, and data everywhere.
pub fn used_disk(length: usize) -> Vec<u8> {
    let mut disk = noise(length, 3);
    let sectors = (length / 512) as u64;
    add_gpt(&mut disk, &[(64, sectors - 64)], 512);
    disk
}

/// Whether the header at this LBA and its array are valid, as firmware would check it.
pub fn gpt_is_valid(disk: &[u8], lba: usize, sector: usize) -> bool {
    let Some(header) = disk.get(lba * sector..lba * sector + 92) else {
        return false;
    };
    if &header[..8] != b"EFI PART" {
        return false;
    }
    let mut plain = header.to_vec();
    plain[16..20].fill(0);
    if crc32fast::hash(&plain).to_le_bytes() != header[16..20] {
        return false;
    }
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    if word(24) != lba as u64 {
        return false;
    }
    let start = word(72) as usize * sector;
    let Some(entries) = disk.get(start..start + (half(80) * half(84)) as usize) else {
        return false;
    };
    crc32fast::hash(entries) == half(88)
}

pub fn config_drive() -> ConfigDrive {
    ConfigDrive {
        bytes: noise(100_000, 21),
        partition_guid: [0xcd; 16],
    }
}

pub fn request(with_config_drive: bool) -> WriteRequest {
    WriteRequest {
        marker: br#"{"orderId":"order-1","instanceUid":"5d2c"}"#.to_vec(),
        config_drive: with_config_drive.then(config_drive),
        // The same operations in the same order every time, so that one of them can be named by its number.
        tuning: Tuning {
            workers: Some(1),
            ..Tuning::default()
        },
    }
}

/// Threads as on a real machine, and durable in small steps.
pub fn busy(config_drive: bool) -> WriteRequest {
    WriteRequest {
        tuning: Tuning {
            workers: Some(4),
            segment_bytes: Some(256 << 10),
            overlap: Some(true),
        },
        ..request(config_drive)
    }
}

/// Writes stored bytes to a device, with the right digest.
pub fn write(stored: &[u8], format: Option<Format>, disk: &dyn BlockDevice, request: &WriteRequest) -> Result<Evidence, ImageError> {
    let digest = Digest::sha256_of(stored);
    let source = MemorySource::new("test image", stored);
    let image = image::open(Box::new(source), &digest, format, &image::limit_of(disk))?;
    image::write_image(image, disk, request, &mut |_| ControlFlow::Continue(()))
}

pub fn sim(bytes: Vec<u8>) -> SimDisk {
    SimDisk::new(bytes, 512, Default::default())
}
