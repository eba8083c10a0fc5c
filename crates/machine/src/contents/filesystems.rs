//! File systems and swap, by their superblocks.

use agent_protocol::disk::Signature;

use super::reader::Container;
use crate::text::{clean_bytes, uuid};

/// Everything recognised in one container, in no particular order.
pub(super) fn find(c: &Container) -> Vec<Signature> {
    let parsers: [fn(&Container) -> Option<Found>; 10] = [ext, xfs, btrfs, fat, exfat, ntfs, swap, f2fs, iso9660, hfs];
    let mut found: Vec<Found> = parsers.iter().filter_map(|parse| parse(c)).collect();
    found.extend(
        MAGICS
            .iter()
            .filter(|(offset, magic, _)| c.is(*offset, magic))
            .map(|(_, _, kind)| Found::new(kind)),
    );
    found.into_iter().map(|f| f.at(c.start)).collect()
}

/// What a parser saw.
pub(super) struct Found {
    kind: &'static str,
    uuid: Option<String>,
    label: Option<String>,
}

impl Found {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            kind,
            uuid: None,
            label: None,
        }
    }

    pub(super) fn uuid(self, uuid: Option<String>) -> Self {
        Self { uuid, ..self }
    }

    pub(super) fn label(self, label: Option<&[u8]>) -> Self {
        Self {
            label: label.and_then(clean_bytes),
            ..self
        }
    }

    pub(super) fn at(self, offset: u64) -> Signature {
        Signature {
            kind: self.kind.to_owned(),
            offset,
            uuid: self.uuid,
            label: self.label,
        }
    }
}

/// Formats that are known by their magic alone.
const MAGICS: &[(u64, &[u8], &str)] = &[
    (0, b"hsqs", "squashfs"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    (65_536 + 52, b"ReIsEr", "reiserfs"),
    (32_768, b"JFS1", "jfs"),
    (32, b"NXSB", "apfs"),
    (8192 + 0x55c, &[0x19, 0x01, 0x54, 0x19], "ufs"),
    (65_536 + 0x55c, &[0x19, 0x01, 0x54, 0x19], "ufs"),
    (0, b"ReFS", "refs"),
    (3, b"ReFS", "refs"),
    (
        4096 + 24,
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef,
        ],
        "bcachefs",
    ),
    (0, b"-FVE-FS-", "bitlocker"),
    (3, b"-FVE-FS-", "bitlocker"),
    (32, b"ORCLDISK", "oracleasm"),
    (0, b"bluestore block device", "ceph-bluestore"),
    (0, b"dmvdo001", "vdo"),
    (516, b"!Stra0tis\x86\xff\x02^\x41rh", "stratis"),
    (1024, &[0x40, 0xeb, 0x01, 0x00], "minix"),
];

fn ext(c: &Container) -> Option<Found> {
    const SUPER: u64 = 1024;
    if c.le16(SUPER + 0x38)? != 0xef53 {
        return None;
    }
    let (compat, incompat, read_only) = (c.le32(SUPER + 0x5c)?, c.le32(SUPER + 0x60)?, c.le32(SUPER + 0x64)?);
    let kind = if incompat & 0x8 != 0 {
        "ext-journal"
    } else if incompat & (0x40 | 0x80 | 0x200) != 0 || read_only & (0x8 | 0x10 | 0x20 | 0x40 | 0x400) != 0 {
        "ext4"
    } else if compat & 0x4 != 0 {
        "ext3"
    } else {
        "ext2"
    };
    Some(
        Found::new(kind)
            .uuid(c.at(SUPER + 0x68, 16).and_then(uuid))
            .label(c.at(SUPER + 0x78, 16)),
    )
}

fn xfs(c: &Container) -> Option<Found> {
    c.is(0, b"XFSB")
        .then(|| Found::new("xfs").uuid(c.at(32, 16).and_then(uuid)).label(c.at(108, 12)))
}

fn btrfs(c: &Container) -> Option<Found> {
    const SUPER: u64 = 65_536;
    c.is(SUPER + 0x40, b"_BHRfS_M").then(|| {
        Found::new("btrfs")
            .uuid(c.at(SUPER + 0x20, 16).and_then(uuid))
            .label(c.at(SUPER + 0x12b, 256))
    })
}

/// FAT12, 16 and 32, told from a boot sector with a partition table by a plausible parameter block.
fn fat(c: &Container) -> Option<Found> {
    if !c.is(510, &[0x55, 0xaa]) || c.is(3, b"NTFS    ") || c.is(3, b"EXFAT   ") {
        return None;
    }
    let jump = c.at(0, 3)?;
    if !(jump[0] == 0xeb && jump[2] == 0x90 || jump[0] == 0xe9) {
        return None;
    }
    let (bytes_per_sector, reserved, root_entries) = (c.le16(11)?, c.le16(14)?, c.le16(17)?);
    let (per_cluster, fats, media) = (c.at(13, 1)?[0], c.at(16, 1)?[0], c.at(21, 1)?[0]);
    let plausible = matches!(bytes_per_sector, 512 | 1024 | 2048 | 4096)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&fats)
        && (media == 0xf0 || media >= 0xf8);
    if !plausible {
        return None;
    }
    let (id, label) = if c.le16(22)? == 0 && root_entries == 0 {
        (67, 71)
    } else {
        (39, 43)
    };
    let id = c.le32(id)?;
    let label = c.at(label, 11).filter(|l| *l != b"NO NAME    ");
    Some(
        Found::new("vfat")
            .uuid((id != 0).then(|| format!("{:04X}-{:04X}", id >> 16, id & 0xffff)))
            .label(label),
    )
}

fn exfat(c: &Container) -> Option<Found> {
    c.is(3, b"EXFAT   ").then(|| {
        let id = c.le32(100).map(|id| format!("{:04X}-{:04X}", id >> 16, id & 0xffff));
        Found::new("exfat").uuid(id)
    })
}

fn ntfs(c: &Container) -> Option<Found> {
    c.is(3, b"NTFS    ").then(|| {
        let id = c
            .at(72, 8)
            .and_then(|b| b.try_into().ok())
            .map(|b| format!("{:016X}", u64::from_le_bytes(b)));
        Found::new("ntfs").uuid(id)
    })
}

fn swap(c: &Container) -> Option<Found> {
    [4096u64, 8192, 16_384, 65_536]
        .iter()
        .any(|page| c.is(page - 10, b"SWAPSPACE2") || c.is(page - 10, b"SWAP-SPACE"))
        .then(|| Found::new("swap").uuid(c.at(1036, 16).and_then(uuid)).label(c.at(1052, 16)))
}

fn f2fs(c: &Container) -> Option<Found> {
    c.is(1024, &[0x10, 0x20, 0xf5, 0xf2])
        .then(|| Found::new("f2fs").uuid(c.at(1024 + 108, 16).and_then(uuid)))
}

fn iso9660(c: &Container) -> Option<Found> {
    (c.is(0x8001, b"CD001") || c.is(0x8001, b"BEA01")).then(|| {
        let kind = if c.is(0x8001, b"CD001") { "iso9660" } else { "udf" };
        Found::new(kind).label(c.at(0x8028, 32))
    })
}

fn hfs(c: &Container) -> Option<Found> {
    let version = c.at(1024, 4)?;
    matches!(version, [b'H', b'+', 0, 4] | [b'H', b'X', 0, 5]).then(|| Found::new("hfsplus"))
}
