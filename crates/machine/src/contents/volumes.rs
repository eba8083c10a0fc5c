//! Members of volume managers: LVM, LUKS, software and firmware RAID, ZFS, bcache. Many keep their data at the end.

use agent_protocol::disk::Signature;

use super::{filesystems::Found, reader::Container};
use crate::text::{clean_bytes, uuid};

/// Everything recognised in one container. `sector` is the disk's logical sector size.
pub(super) fn find(c: &Container, sector: u64) -> Vec<Signature> {
    let mut found: Vec<Found> = [lvm2, luks, bcache, zfs].iter().filter_map(|parse| parse(c)).collect();
    found.extend(mdraid(c));
    found.extend(firmware_raid(c, sector));
    found.into_iter().map(|f| f.at(c.start)).collect()
}

fn lvm2(c: &Container) -> Option<Found> {
    (0..4u64)
        .map(|n| n * 512)
        .find(|at| c.is(*at, b"LABELONE") && c.is(at + 24, b"LVM2 001"))
        .map(|at| {
            let data = c.le32(at + 20).map_or(32, u64::from);
            let id = c
                .at(at + data, 32)
                .and_then(clean_bytes)
                .filter(|t| t.len() == 32 && t.bytes().all(|b| b.is_ascii_alphanumeric()));
            Found::new("lvm2").uuid(id)
        })
}

fn luks(c: &Container) -> Option<Found> {
    // The second header of LUKS2 lies at one of these places, and is enough for cryptsetup to open the volume.
    let second = [0x4000u64, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000];
    let at = if c.is(0, b"LUKS\xba\xbe") {
        0
    } else {
        second.into_iter().find(|at| c.is(*at, b"SKUL\xba\xbe"))?
    };
    let version_2 = c.at(at + 6, 2) == Some(&[0, 2]);
    let found = Found::new(if version_2 { "luks2" } else { "luks" }).uuid(c.at(at + 168, 40).and_then(clean_bytes));
    Some(if version_2 { found.label(c.at(at + 24, 48)) } else { found })
}

fn bcache(c: &Container) -> Option<Found> {
    const MAGIC: [u8; 16] = [
        0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
    ];
    c.is(4096 + 24, &MAGIC)
        .then(|| Found::new("bcache").uuid(c.at(4096 + 40, 16).and_then(uuid)))
}

/// Linux software RAID: 0.90 near the end, 1.0 at the end, 1.1 at the start, 1.2 after 4 KiB.
fn mdraid(c: &Container) -> Vec<Found> {
    const MAGIC: u32 = 0xa92b_4efc;
    let mut found = Vec::new();
    let sectors = c.length / 512;
    let one_dot_zero = sectors.checked_sub(16).map(|s| (s & !7) * 512);
    for at in [Some(0), Some(4096), one_dot_zero].into_iter().flatten() {
        if c.le32(at) == Some(MAGIC) && c.le32(at + 4) == Some(1) {
            found.push(Found::new("mdraid").uuid(c.at(at + 16, 16).and_then(uuid)).label(c.at(at + 32, 32)));
        }
    }
    if let Some(at) = (c.length & !0xffff).checked_sub(0x1_0000)
        && let Some(magic) = c.at(at, 4)
        && (magic == MAGIC.to_le_bytes() || magic == MAGIC.to_be_bytes())
    {
        let id: Vec<u8> = [(20, 4), (52, 12)]
            .iter()
            .filter_map(|(o, n)| c.at(at + o, *n))
            .flatten()
            .copied()
            .collect();
        found.push(Found::new("mdraid").uuid(uuid(&id)));
    }
    found
}

/// RAID metadata that firmware and controllers keep in the last sectors.
fn firmware_raid(c: &Container, sector: u64) -> Vec<Found> {
    let mut found = Vec::new();
    if [1024, 2 * sector]
        .iter()
        .any(|back| c.before_end(*back, 24) == Some(b"Intel Raid ISM Cfg Sig. "))
    {
        found.push(Found::new("imsm"));
    }
    let ddf = [0xde, 0x11, 0xde, 0x11];
    if let Some(at) = [512, sector, 257 * 512, 257 * sector]
        .into_iter()
        .find(|back| c.before_end(*back, 4) == Some(&ddf))
    {
        found.push(Found::new("ddf").label(c.before_end(at, 32).and_then(|b| b.get(8..32))));
    }
    for (back, magic, kind) in [
        (1024u64, b"NVIDIA  ".as_slice(), "nvraid"),
        (512, b"$XIDE$".as_slice(), "lsiraid"),
        (512, b"0123456789\0".as_slice(), "adaptecraid"),
    ] {
        if c.before_end(back, magic.len()) == Some(magic) {
            found.push(Found::new(kind));
        }
    }
    found
}

/// ZFS: any of the four labels, by its packed list (which names the pool) or by an uberblock.
fn zfs(c: &Container) -> Option<Found> {
    const LABEL: u64 = 256 << 10;
    const UBERBLOCK: u64 = 0x00ba_b10c;
    let usable = c.length / LABEL * LABEL;
    let labels = [Some(0), Some(LABEL), usable.checked_sub(2 * LABEL), usable.checked_sub(LABEL)];
    for at in labels.into_iter().flatten() {
        if let Some(list) = c.at(at + (16 << 10), 8192)
            && contains(list, b"pool_guid")
            && contains(list, b"vdev_tree")
        {
            return Some(
                Found::new("zfs")
                    .uuid(number_after(list, b"pool_guid"))
                    .label(text_after(list, b"\0\0\0\x04name")),
            );
        }
        let uberblock = (0..128u64).any(|n| {
            let magic = c.at(at + (128 << 10) + n * 1024, 8);
            magic == Some(&UBERBLOCK.to_le_bytes()) || magic == Some(&UBERBLOCK.to_be_bytes())
        });
        if uberblock {
            return Some(Found::new("zfs"));
        }
    }
    None
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    position(haystack, needle).is_some()
}

/// The 64-bit number of a name-value pair in XDR: the name padded to four bytes, type, count, value.
fn number_after(list: &[u8], name: &[u8]) -> Option<String> {
    let at = position(list, name)? + name.len().next_multiple_of(4) + 8;
    Some(u64::from_be_bytes(list.get(at..at + 8)?.try_into().ok()?).to_string())
}

/// The text of a name-value pair in XDR.
fn text_after<'a>(list: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let at = position(list, name)? + name.len() + 8;
    let length = u32::from_be_bytes(list.get(at..at + 4)?.try_into().ok()?) as usize;
    list.get(at + 4..(at + 4).checked_add(length)?)
}
