//! Writes a FAT file system whose files are all known beforehand: everything contiguous, every timestamp 1980-01-01.
//!
//! 512-byte sectors give FAT16 with clusters of 2 KiB, 4096-byte sectors FAT12 with clusters of 32 KiB: for 16 to 64 MiB both
//! are far from the cluster counts at which readers disagree about the kind. (fatfs 0.3 writes long names for `.` and `..`, which fsck
//! and firmware take for damage; hence this writer. It serves as the reader that checks it.)

use std::collections::BTreeMap;

/// Largest cluster that is used, for reckoning sizes.
pub(super) const LARGEST_CLUSTER: u64 = 32 << 10;
const ENTRY: usize = 32;
const ROOT_ENTRIES: usize = 512;
/// 1980-01-01.
const DATE: u16 = 0x0021;
const FOLDER: u8 = 0x10;
const FILE: u8 = 0x20;
const VOLUME_LABEL: u8 = 0x08;

/// What stands in the boot sector.
pub(super) struct Volume {
    pub(super) bytes_per_sector: u16,
    pub(super) label: [u8; 11],
    pub(super) id: u32,
}

/// A folder and what is below it. Names were checked by the caller.
#[derive(Default)]
pub(super) struct Folder<'a> {
    folders: BTreeMap<&'a str, Folder<'a>>,
    files: BTreeMap<&'a str, &'a [u8]>,
}

impl<'a> Folder<'a> {
    pub(super) fn add(&mut self, path: &'a str, data: &'a [u8]) {
        match path.split_once('/') {
            Some((folder, rest)) => self.folders.entry(folder).or_default().add(rest, data),
            None => {
                self.files.insert(path, data);
            }
        }
    }

    /// Directory entries: long name pieces and the short entry of each child.
    fn entries(&self) -> usize {
        self.folders
            .keys()
            .chain(self.files.keys())
            .map(|name| name.len().div_ceil(13) + 1)
            .sum()
    }

    /// Bytes that everything below takes with clusters of that size.
    pub(super) fn bytes(&self, cluster: u64) -> u64 {
        let files: u64 = self.files.values().map(|data| (data.len() as u64).next_multiple_of(cluster)).sum();
        let folders: u64 = self
            .folders
            .values()
            .map(|f| (((f.entries() + 2) * ENTRY) as u64).next_multiple_of(cluster) + f.bytes(cluster))
            .sum();
        files + folders
    }
}

/// Where things are.
struct Layout {
    cluster: usize,
    data_at: usize,
    clusters: usize,
    fat16: bool,
}

struct Writer<'v> {
    volume: &'v mut [u8],
    layout: Layout,
    /// Cluster chains; index is the cluster's number.
    table: Vec<u16>,
}

/// Fills `volume` with a file system.
///
/// # Errors
/// What does not fit.
pub(super) fn write(volume: &mut [u8], parameters: &Volume, root: &Folder<'_>) -> Result<(), &'static str> {
    let sector = usize::from(parameters.bytes_per_sector);
    let fat16 = sector == 512;
    let per_cluster = if fat16 { 4 } else { 8 };
    let sectors = volume.len() / sector;
    let entry_bits = if fat16 { 16 } else { 12 };
    let table_sectors = ((sectors / per_cluster + 2) * entry_bits).div_ceil(8).div_ceil(sector);
    let root_at = (1 + 2 * table_sectors) * sector;
    let data_at = root_at + ROOT_ENTRIES * ENTRY;
    let clusters = (sectors * sector).saturating_sub(data_at) / (per_cluster * sector);
    if fat16 && !(4200..65_000).contains(&clusters) || !fat16 && !(16..4000).contains(&clusters) {
        return Err("there is no FAT of that size");
    }
    if root.entries() + 1 > ROOT_ENTRIES {
        return Err("there are too many names in the root folder");
    }
    volume.fill(0);
    boot_sector(volume, parameters, [per_cluster, sectors, table_sectors], fat16);
    let mut writer = Writer {
        volume,
        layout: Layout {
            cluster: per_cluster * sector,
            data_at,
            clusters,
            fat16,
        },
        table: vec![0xfff8, 0xffff],
    };
    let mut entries = short_entry(&parameters.label, VOLUME_LABEL, 0, 0).to_vec();
    writer.children(root, 0, &mut entries)?;
    writer.volume[root_at..root_at + entries.len()].copy_from_slice(&entries);
    writer.tables(sector, table_sectors);
    Ok(())
}

fn boot_sector(volume: &mut [u8], parameters: &Volume, [per_cluster, sectors, table_sectors]: [usize; 3], fat16: bool) {
    let mut put = |at: usize, bytes: &[u8]| volume[at..at + bytes.len()].copy_from_slice(bytes);
    let small = u16::try_from(sectors).unwrap_or(0);
    let large = if small == 0 { sectors as u32 } else { 0 };
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"KUBEBM  ");
    put(11, &parameters.bytes_per_sector.to_le_bytes());
    put(13, &[per_cluster as u8, 1, 0, 2]);
    put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    put(19, &small.to_le_bytes());
    put(21, &[0xf8]);
    // At most 128 sectors: 65,536 entries of two bytes.
    put(22, &(table_sectors as u16).to_le_bytes());
    put(24, &[32, 0, 64, 0]);
    put(32, &large.to_le_bytes());
    put(36, &[0x80, 0, 0x29]);
    put(39, &parameters.id.to_le_bytes());
    put(43, &parameters.label);
    put(54, if fat16 { b"FAT16   " } else { b"FAT12   " });
    put(510, &[0x55, 0xaa]);
}

impl Writer<'_> {
    /// Reserves a chain for `length` bytes and gives its first cluster; zero for nothing.
    fn allocate(&mut self, length: usize) -> Result<usize, &'static str> {
        let count = length.div_ceil(self.layout.cluster);
        let first = self.table.len();
        if first + count > self.layout.clusters + 2 {
            return Err("the drive is too small");
        }
        for n in 1..=count {
            // Cluster numbers are below 65,000.
            self.table.push(if n == count { 0xffff } else { (first + n) as u16 });
        }
        Ok(if count == 0 { 0 } else { first })
    }

    fn put(&mut self, first: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            let at = self.layout.data_at + (first - 2) * self.layout.cluster;
            self.volume[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Writes all children of a folder, and their entries to the end of `entries`.
    fn children(&mut self, folder: &Folder<'_>, own: usize, entries: &mut Vec<u8>) -> Result<(), &'static str> {
        for (number, (name, child)) in folder.folders.iter().enumerate() {
            let length = (child.entries() + 2) * ENTRY;
            let first = self.allocate(length)?;
            let mut inside = short_entry(b".          ", FOLDER, first, 0).to_vec();
            inside.extend(short_entry(b"..         ", FOLDER, own, 0));
            self.children(child, first, &mut inside)?;
            self.put(first, &inside);
            named_entry(entries, name, number, FOLDER, first, 0);
        }
        for (number, (name, data)) in (folder.folders.len()..).zip(&folder.files) {
            let first = self.allocate(data.len())?;
            self.put(first, data);
            named_entry(entries, name, number, FILE, first, data.len());
        }
        Ok(())
    }

    fn tables(&mut self, sector: usize, table_sectors: usize) {
        let packed: Vec<u8> = if self.layout.fat16 {
            self.table.iter().flat_map(|n| n.to_le_bytes()).collect()
        } else {
            // Two entries of twelve bits in three bytes.
            let pairs = self.table.chunks(2).map(|p| (p[0] & 0xfff, p.get(1).copied().unwrap_or(0) & 0xfff));
            pairs
                .flat_map(|(a, b)| [a as u8, (a >> 8) as u8 | (b << 4) as u8, (b >> 4) as u8])
                .collect()
        };
        for copy in 0..2 {
            let at = (1 + copy * table_sectors) * sector;
            self.volume[at..at + packed.len()].copy_from_slice(&packed);
        }
    }
}

fn short_entry(name: &[u8; 11], attributes: u8, first: usize, length: usize) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    for at in [16, 18, 24] {
        entry[at..at + 2].copy_from_slice(&DATE.to_le_bytes());
    }
    // Clusters are below 65,000 and files below 64 MiB.
    entry[26..28].copy_from_slice(&(first as u16).to_le_bytes());
    entry[28..32].copy_from_slice(&(length as u32).to_le_bytes());
    entry
}

/// A name's long pieces, last first, and its short entry.
fn named_entry(entries: &mut Vec<u8>, name: &str, number: usize, attributes: u8, first: usize, length: usize) {
    let short = short_name(name, number);
    let sum = short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b));
    let units: Vec<u16> = name.encode_utf16().collect();
    let pieces = units.len().div_ceil(13);
    for piece in (0..pieces).rev() {
        let mut entry = [0; ENTRY];
        // At most 8 pieces.
        entry[0] = (piece + 1) as u8 | if piece + 1 == pieces { 0x40 } else { 0 };
        entry[11] = 0x0f;
        entry[13] = sum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (n, at) in (piece * 13..).zip(places) {
            let unit = match n {
                n if n < units.len() => units[n],
                n if n == units.len() => 0,
                _ => 0xffff,
            };
            entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries.extend(short_entry(&short, attributes, first, length));
}

/// An 8.3 name that no other child of the folder has: letters of the name, `~`, the child's number.
fn short_name(name: &str, number: usize) -> [u8; 11] {
    let mut short = [b' '; 11];
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let plain = |text: &str, most: usize| -> Vec<u8> {
        text.bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(|b| b.to_ascii_uppercase())
            .take(most)
            .collect()
    };
    let tail = format!("~{:X}", number + 1);
    let mut base = plain(stem, 8 - tail.len());
    base.extend(tail.bytes());
    short[..base.len()].copy_from_slice(&base);
    let extension = plain(extension, 3);
    short[8..8 + extension.len()].copy_from_slice(&extension);
    short
}
