//! The smallest operating system that can be told apart from a broken one, and the judgement of a disk from outside.
//!
//! The image has a GPT with one partition. Its boot sector prints a line with a version on COM1 and stops. Every block of the partition is made
//! of the version and its own number, but for a range of zeros in the middle, which writers treat in their own way.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use sha2::{Digest, Sha256};

pub const MIB: u64 = 1 << 20;
/// The first bytes, which a writer puts in place last.
pub const HEAD: u64 = 24 * 1024;
const SECTOR: u64 = 512;
const BLOCK: usize = 4096;
/// LBA of the first partition.
const FIRST: u64 = 2048;

/// 16-bit code for 0x7c00: prints the text at offset 64 on COM1, then stops for ever.
const BOOT: [u8; 35] = [
    0xfc, // cld
    0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
    0xbe, 0x40, 0x7c, // mov si, 0x7c40
    0xac, 0x84, 0xc0, 0x74, 0x12, // next: lodsb; test al, al; jz stop
    0x88, 0xc4, 0xba, 0xfd, 0x03, // mov ah, al; mov dx, 0x3fd
    0xec, 0xa8, 0x20, 0x74, 0xfb, // wait: in al, dx; test al, 0x20; jz wait
    0x88, 0xe0, 0xba, 0xf8, 0x03, 0xee, // mov al, ah; mov dx, 0x3f8; out dx, al
    0xeb, 0xe9, // jmp next
    0xfa, 0xf4, 0xeb, 0xfc, // stop: cli; hlt; jmp stop
];

/// An image.
#[derive(Clone)]
pub struct TinyOs {
    version: String,
    pub bytes: Vec<u8>,
}

/// `sha256:` and the digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The digest of a whole file.
pub fn file_digest(path: &Path) -> String {
    let (mut hasher, mut file, mut buffer) = (Sha256::new(), File::open(path).unwrap(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hex::encode(hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

impl TinyOs {
    /// An image of so many MiB.
    pub fn new(version: &str, mebibytes: u64) -> Self {
        let size = mebibytes * MIB;
        let mut bytes = vec![0; usize::try_from(size).unwrap()];
        let zeros = size / 2..size / 2 + MIB;
        for (index, block) in bytes.chunks_exact_mut(BLOCK).enumerate() {
            let at = (index * BLOCK) as u64;
            // The place between table and partition is filled too: boot loaders live there.
            if at >= 5 * BLOCK as u64 && !zeros.contains(&at) {
                fill(block, version, index as u64);
            }
        }
        bytes[..BOOT.len()].copy_from_slice(&BOOT);
        let line = format!("\r\n{}\r\n\0", line(version));
        bytes[64..64 + line.len()].copy_from_slice(line.as_bytes());
        let sectors = size / SECTOR;
        protective(&mut bytes[..512], sectors);
        let mut entries = vec![0; 128 * 128];
        entries[..16].copy_from_slice(&hex::decode("af3dc60f838472478e793d69d8477de4").unwrap());
        entries[16..32].copy_from_slice(&Sha256::digest(version.as_bytes())[..16]);
        entries[32..40].copy_from_slice(&FIRST.to_le_bytes());
        entries[40..48].copy_from_slice(&(sectors - 34).to_le_bytes());
        let (primary, backup) = (header(sectors, true, &entries), header(sectors, false, &entries));
        bytes[512..512 + primary.len()].copy_from_slice(&primary);
        bytes[1024..1024 + entries.len()].copy_from_slice(&entries);
        let end = bytes.len();
        bytes[end - 33 * 512..end - 512].copy_from_slice(&entries);
        bytes[end - 512..].fill(0);
        bytes[end - 512..end - 512 + backup.len()].copy_from_slice(&backup);
        Self {
            version: version.to_owned(),
            bytes,
        }
    }

    /// The same with nothing but zeros where firmware and partition tables live, as images have it that are not made to be told apart: both ends, but for what makes it boot.
    pub fn with_quiet_ends(version: &str, mebibytes: u64) -> Self {
        let mut made = Self::new(version, mebibytes);
        let (head, tail) = (usize::try_from(HEAD).unwrap(), made.bytes.len() - 33 * 512);
        let quiet = usize::try_from(2 * MIB).unwrap();
        made.bytes[head..quiet].fill(0);
        made.bytes[tail - quiet..tail].fill(0);
        made
    }

    /// What it says when it runs.
    pub fn line(&self) -> String {
        line(&self.version)
    }

    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether the data between the first sectors and the image's own backup table stands on the disk.
    pub fn has_data(&self, disk: &Path) -> bool {
        self.has_range(disk, HEAD, self.size() - 33 * SECTOR)
    }

    /// Whether a range of the disk is the image's.
    pub fn has_range(&self, disk: &Path, from: u64, to: u64) -> bool {
        read(disk, from, to - from) == self.bytes[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]
    }

    /// The same, where a range of zeros may still be owed: writers put those off.
    pub fn has_range_but_zeros(&self, disk: &Path, from: u64, to: u64) -> bool {
        let zeros = self.size() / 2..self.size() / 2 + MIB;
        self.has_range(disk, from, to.min(zeros.start)) && (to <= zeros.end || self.has_range(disk, zeros.end, to))
    }

    /// Asserts that the whole disk is as a finished installation leaves it: boot sector, both partition tables for this disk, every byte of the data, and a
    /// config drive that is marked for the instance.
    pub fn assert_installed(&self, disk: &Path, instance_uid: &str) {
        let size = std::fs::metadata(disk).unwrap().len();
        let first = read(disk, 0, SECTOR);
        assert_eq!(first[..446], self.bytes[..446], "the boot sector is not the image's");
        assert!(is_bootable(disk));
        let sectors = size / SECTOR;
        let entries = read(disk, 1024, 128 * 128);
        assert_eq!(entries[..128], self.bytes[1024..1152], "the image's partition entry changed");
        for (lba, primary) in [(1, true), (sectors - 1, false)] {
            let found = read(disk, lba * SECTOR, 92);
            let known = header(sectors, primary, &entries);
            // All but the disk's GUID and the usable range, which is the image's to choose.
            assert_eq!(
                (&found[..8], &found[24..40]),
                (&known[..8], &known[24..40]),
                "GPT header at LBA {lba}"
            );
            assert_eq!(
                found[88..92],
                known[88..92],
                "checksum of the entries in the GPT header at LBA {lba}"
            );
            let mut unsigned = found.clone();
            unsigned[16..20].fill(0);
            assert_eq!(
                found[16..20],
                crc32fast::hash(&unsigned).to_le_bytes(),
                "checksum of the GPT header at LBA {lba}"
            );
        }
        assert_eq!(
            read(disk, (sectors - 33) * SECTOR, 128 * 128),
            entries,
            "the entries of the backup table"
        );
        assert!(self.has_range(disk, 34 * SECTOR, HEAD), "the first sectors behind the table");
        assert!(self.has_data(disk), "the data is not the image's");
        let drive = &entries[128..256];
        let lba = |at: usize| u64::from_le_bytes(drive[at..at + 8].try_into().unwrap());
        let (start, end) = (lba(32) * SECTOR, (lba(40) + 1) * SECTOR);
        assert!(
            start >= self.size() - 33 * SECTOR && end <= size,
            "config drive from {start} to {end}"
        );
        let marker = read(disk, end - 4096, 4096);
        assert!(
            marker.starts_with(b"KubeBareMetal"),
            "the config drive has no marker behind its file system"
        );
        let text = String::from_utf8_lossy(&marker);
        assert!(text.contains(instance_uid) && text.contains(&self.digest()), "marker: {text}");
    }
}

fn line(version: &str) -> String {
    format!("TINY OS {version} runs")
}

fn fill(block: &mut [u8], version: &str, index: u64) {
    let seed = Sha256::new().chain_update(version).chain_update(index.to_le_bytes()).finalize();
    let mut state = u64::from_le_bytes(seed[..8].try_into().unwrap()) | 1;
    for word in block.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

fn protective(sector: &mut [u8], sectors: u64) {
    sector[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    sector[454..458].copy_from_slice(&1u32.to_le_bytes());
    sector[458..462].copy_from_slice(&u32::try_from(sectors - 1).unwrap().to_le_bytes());
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn header(sectors: u64, primary: bool, entries: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 92];
    let (own, other, table) = if primary {
        (1, sectors - 1, 2)
    } else {
        (sectors - 1, 1, sectors - 33)
    };
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    for (at, value) in [(24, own), (32, other), (40, 34), (48, sectors - 34), (72, table)] {
        header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    header[56..72].copy_from_slice(&Sha256::digest(b"a disk's GUID")[..16]);
    header[80..88].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
    header[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    let checksum = crc32fast::hash(&header);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Bytes of a disk, as the disk's file has them now.
pub fn read(disk: &Path, from: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap()];
    let mut file = File::open(disk).unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    bytes
}

/// Writes into a disk that no machine uses.
pub fn write(disk: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(disk).unwrap().write_all_at(bytes, at).unwrap();
}

/// Whether firmware would start what is in the first sector.
pub fn is_bootable(disk: &Path) -> bool {
    read(disk, 510, 2) == [0x55, 0xaa]
}

/// Whether the first sector says that a write or erase is under way.
pub fn is_marked_in_progress(disk: &Path) -> bool {
    read(disk, 0, 14) == b"KBM-INPROGRESS"
}

/// Whether there is a GPT header at the beginning of this sector, counted from the end when negative.
pub fn has_gpt_header(disk: &Path, lba: i64) -> bool {
    let sectors = i64::try_from(std::fs::metadata(disk).unwrap().len() / SECTOR).unwrap();
    let lba = if lba < 0 { sectors + lba } else { lba };
    read(disk, u64::try_from(lba).unwrap() * SECTOR, 8) == b"EFI PART"
}

/// Where a FAT file system begins behind `from`, at a whole MiB: the config drive.
pub fn find_config_drive(disk: &Path, from: u64) -> Option<u64> {
    let size = std::fs::metadata(disk).unwrap().len();
    (from.div_ceil(MIB)..size / MIB).map(|n| n * MIB).find(|at| {
        let sector = read(disk, *at, 512);
        sector[0] == 0xeb && sector[510..] == [0x55, 0xaa]
    })
}

/// Whether the last block of a config drive behind `from` is there: the marker of a finished installation, at the end of a MiB.
pub fn has_config_drive_marker(disk: &Path, from: u64) -> bool {
    let size = std::fs::metadata(disk).unwrap().len();
    (from.div_ceil(MIB) + 1..=size / MIB).any(|n| read(disk, n * MIB - 4096, 13) == b"KubeBareMetal")
}

/// Whether a whole disk reads as zeros.
pub fn is_blank(disk: &Path) -> bool {
    std::fs::read(disk).unwrap().iter().all(|b| *b == 0)
}
