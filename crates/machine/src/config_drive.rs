//! The config drive: a FAT file system named `config-2` with one instance's files, built in memory.
//!
//! Layout of the partition: the FAT file system, then the finished marker in the last 4 KiB ([`crate::marker`]).
//! Size: [`ConfigDrive::size_for`], a multiple of 4 MiB and at least 16 MiB; the same seed always gives the same size, so that the image
//! writer can refuse a disk without room before it changes anything.
//!
//! Invariants: the same input gives the same bytes (timestamps are 1980-01-01, the volume id comes from the contents); paths are relative,
//! without `.` or `..`, of characters that FAT and cloud-init both take; what was built is read back by another implementation before it is used.
//! What it does not do: write to a disk (the image writer does), or understand the files.

mod fat_writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Cursor, Read},
};

use agent_protocol::{disk::DiskMarker, seed::Seed};

use self::fat_writer::{Folder, LARGEST_CLUSTER, Volume};
use crate::marker::{self, MARKER_BYTES, MarkerError};

/// Where the guest helper lies on the drive.
pub const GUEST_HELPER_PATH: &str = "kube-baremetal/guest-helper";
/// Where the facts lie that only the machine knows ([`BootFacts`]).
pub const BOOT_FACTS_PATH: &str = "kube-baremetal/boot.json";
/// Volume label and partition name.
pub const LABEL: &str = "config-2";

const FAT_LABEL: [u8; 11] = *b"config-2   ";
const UNIT: u64 = 4 << 20;
const SMALLEST: u64 = 16 << 20;
/// What the image writer takes.
const LARGEST: u64 = 64 << 20;
/// Room for the file system's own tables.
const OVERHEAD: u64 = 1 << 20;
const MOST_FILES: usize = 512;

/// Why a seed cannot become a config drive.
#[derive(Debug, thiserror::Error)]
pub enum ConfigDriveError {
    /// A path that leaves the drive, or that file systems would read differently.
    #[error("seed file {path:?} is refused: {reason}; use a relative path of letters, digits, '.', '_' and '-'")]
    Path {
        /// As given.
        path: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Too much.
    #[error("the config drive would need {needed} bytes, at most {LARGEST} are allowed; make the user data smaller")]
    TooLarge {
        /// Bytes.
        needed: u64,
    },
    /// Too many.
    #[error("the seed has {0} files, at most {MOST_FILES} are allowed")]
    TooMany(usize),
    /// Sector size that FAT has not.
    #[error("disks with {0}-byte sectors cannot hold a FAT config drive; use a disk with 512 or 4096-byte sectors")]
    SectorSize(u32),
    /// The file system cannot hold the files.
    #[error("the files do not fit on a config drive: {reason}; use fewer or smaller files")]
    Build {
        /// Why.
        reason: &'static str,
    },
    /// What was built reads back differently.
    #[error("the config drive that was built does not hold {0} as given; this is a defect of the agent")]
    ReadBack(String),
    /// The marker does not fit.
    #[error(transparent)]
    Marker(#[from] MarkerError),
}

/// What only the machine knows about its booting, for the guest helper: JSON at [`BOOT_FACTS_PATH`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootFacts {
    /// `BIOS` or `UEFI`.
    pub firmware: agent_protocol::inventory::FirmwareMode,
    /// Number of the EFI boot entry that led to the agent (`BootCurrent`): what `BootNext` has to be to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_boot_entry: Option<u16>,
}

/// Files of one config drive, checked.
#[derive(Clone)]
pub struct ConfigDrive<'a> {
    files: BTreeMap<String, &'a [u8]>,
}

impl std::fmt::Debug for ConfigDrive<'_> {
    /// Names only: contents are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigDrive")
            .field("files", &self.files.keys())
            .finish_non_exhaustive()
    }
}

impl<'a> ConfigDrive<'a> {
    /// Checks a seed's files, and adds the guest helper when the seed asks for it, and the boot facts.
    ///
    /// # Errors
    /// [`ConfigDriveError::Path`], [`ConfigDriveError::TooMany`], [`ConfigDriveError::TooLarge`].
    pub fn new(seed: &'a Seed, guest_helper: Option<&'a [u8]>, boot_facts: Option<&'a [u8]>) -> Result<Self, ConfigDriveError> {
        let mut files: BTreeMap<String, &[u8]> = seed.files.iter().map(|(path, text)| (path.clone(), text.as_bytes())).collect();
        if seed.guest_helper
            && let Some(helper) = guest_helper
        {
            files.insert(GUEST_HELPER_PATH.to_owned(), helper);
        }
        if let Some(facts) = boot_facts {
            files.insert(BOOT_FACTS_PATH.to_owned(), facts);
        }
        if files.len() > MOST_FILES {
            return Err(ConfigDriveError::TooMany(files.len()));
        }
        check_paths(files.keys())?;
        let drive = Self { files };
        match drive.size_for() {
            needed if needed > LARGEST => Err(ConfigDriveError::TooLarge { needed }),
            _ => Ok(drive),
        }
    }

    /// Bytes of the partition, marker included.
    pub fn size_for(&self) -> u64 {
        (self.tree().bytes(LARGEST_CLUSTER) + OVERHEAD + MARKER_BYTES as u64)
            .next_multiple_of(UNIT)
            .max(SMALLEST)
    }

    /// The whole partition: file system and finished marker.
    ///
    /// # Errors
    /// [`ConfigDriveError`] when it cannot be built or does not read back.
    pub fn build(&self, sector_size: u32, marker: &DiskMarker) -> Result<Vec<u8>, ConfigDriveError> {
        let bytes_per_sector = u16::try_from(sector_size)
            .ok()
            .filter(|s| matches!(s, 512 | 4096))
            .ok_or(ConfigDriveError::SectorSize(sector_size))?;
        let marker = marker::encode(marker)?;
        let whole = usize::try_from(self.size_for()).map_err(|_| ConfigDriveError::TooLarge { needed: self.size_for() })?;
        let mut partition = vec![0; whole];
        let (file_system, tail) = partition.split_at_mut(whole - MARKER_BYTES);
        let mut sum = crc32fast::Hasher::new();
        for (path, data) in &self.files {
            sum.update(path.as_bytes());
            sum.update(data);
        }
        let volume = Volume {
            bytes_per_sector,
            label: FAT_LABEL,
            id: sum.finalize() | 1,
        };
        fat_writer::write(file_system, &volume, &self.tree()).map_err(|reason| ConfigDriveError::Build { reason })?;
        self.read_back(file_system)?;
        tail.copy_from_slice(&marker);
        Ok(partition)
    }

    fn tree(&self) -> Folder<'_> {
        let mut root = Folder::default();
        for (path, data) in &self.files {
            root.add(path, data);
        }
        root
    }

    fn read_back(&self, file_system: &mut [u8]) -> Result<(), ConfigDriveError> {
        let different = |path: &str| ConfigDriveError::ReadBack(path.to_owned());
        let options = fatfs::FsOptions::new().update_accessed_date(false);
        let fs = fatfs::FileSystem::new(Cursor::new(file_system), options).map_err(|_| different("its file system"))?;
        for (path, data) in &self.files {
            let mut found = Vec::with_capacity(data.len());
            fs.root_dir()
                .open_file(path)
                .and_then(|mut f| f.read_to_end(&mut found))
                .map_err(|_| different(path))?;
            if found != *data {
                return Err(different(path));
            }
        }
        Ok(())
    }
}

/// Refuses what would leave the drive, what FAT cannot name, and two paths that are one to FAT or of which one is a folder of the other.
fn check_paths<'p>(paths: impl Iterator<Item = &'p String>) -> Result<(), ConfigDriveError> {
    let mut files = BTreeSet::new();
    let mut folders = BTreeMap::new();
    for path in paths {
        let refuse = |reason| {
            Err(ConfigDriveError::Path {
                path: path.chars().take(200).collect(),
                reason,
            })
        };
        if path.is_empty() || path.len() > 200 {
            return refuse("it must have 1 to 200 characters");
        }
        if path.starts_with('/') {
            return refuse("it is absolute");
        }
        if !path
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        {
            return refuse("it has other characters");
        }
        for part in path.split('/') {
            if part.is_empty() || part == "." || part == ".." {
                return refuse("it has an empty part, '.' or '..'");
            }
            if part.ends_with('.') || part.len() > 100 {
                return refuse("a part of it ends in '.' or has more than 100 characters");
            }
        }
        let folded = path.to_ascii_lowercase();
        for (at, _) in folded.match_indices('/') {
            if folders
                .insert(folded[..at].to_owned(), &path[..at])
                .is_some_and(|other| other != &path[..at])
            {
                return refuse("another folder differs from its only in the case of letters");
            }
        }
        if !files.insert(folded) {
            return refuse("another path differs from it only in the case of letters");
        }
    }
    match files.iter().find(|path| folders.contains_key(*path)) {
        Some(path) => Err(ConfigDriveError::Path {
            path: path.clone(),
            reason: "it is both a file and a folder",
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;
    use crate::marker::tests::example;

    fn seed(files: &[(&str, &str)]) -> Seed {
        Seed {
            files: files.iter().map(|(p, t)| ((*p).to_owned(), (*t).to_owned())).collect(),
            guest_helper: true,
        }
    }

    fn usual() -> Seed {
        seed(&[
            ("openstack/latest/meta_data.json", r#"{"uuid":"1"}"#),
            ("openstack/latest/user_data", "#cloud-config\nhostname: web-1\n"),
            ("openstack/latest/network_data.json", "{}"),
        ])
    }

    /// mtools is an independent reader of FAT; `apt-get install mtools`.
    fn mtools(arguments: &[&str]) -> String {
        let output = Command::new(arguments[0])
            .args(&arguments[1..])
            .env("MTOOLS_SKIP_CHECK", "1")
            .output()
            .expect("mtools is installed");
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn another_reader_finds_label_and_files() {
        let helper = vec![0xa5; 5 << 20];
        let seed = usual();
        let drive = ConfigDrive::new(&seed, Some(&helper), None).unwrap();
        for sector in [512, 4096] {
            let partition = drive.build(sector, &example()).unwrap();
            assert_eq!(partition.len() as u64, drive.size_for());
            assert_eq!(partition.len() % (4 << 20), 0);
            assert_eq!(marker::decode(&partition[partition.len() - MARKER_BYTES..]), Some(example()));
            assert_eq!(partition, drive.build(sector, &example()).unwrap(), "deterministic");
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &partition).unwrap();
            let image = file.path().to_str().unwrap();
            let user_data = mtools(&["mtype", "-i", image, "::openstack/latest/user_data"]);
            assert_eq!(user_data, "#cloud-config\nhostname: web-1\n");
            assert!(mtools(&["mlabel", "-s", "-i", image, "::"]).contains("config-2"));
            let listing = mtools(&["mdir", "-/", "-i", image, "::"]);
            assert!(
                listing.contains("guest-helper") && listing.contains("5242880") && listing.contains("1980-01-01"),
                "{listing}"
            );
            let check = Command::new("/usr/sbin/fsck.vfat")
                .args(["-n", image])
                .output()
                .expect("dosfstools are installed");
            assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        }
    }

    #[test]
    fn small_seeds_take_sixteen_mebibytes_and_the_helper_only_when_asked_for() {
        let mut seed = usual();
        seed.guest_helper = false;
        let helper = vec![1; 20 << 20];
        assert_eq!(ConfigDrive::new(&seed, Some(&helper), None).unwrap().size_for(), 16 << 20);
        seed.guest_helper = true;
        assert_eq!(ConfigDrive::new(&seed, Some(&helper), None).unwrap().size_for(), 24 << 20);
    }

    #[test]
    fn paths_that_leave_the_drive_are_refused_by_name() {
        for path in [
            "../etc/passwd",
            "/etc/passwd",
            "a/../b",
            "a//b",
            "a/./b",
            "",
            "a b",
            "a\\b",
            "a\nb",
            "C:x",
            "x/",
            "ü",
            "a.",
            "a/b./c",
        ] {
            let error = ConfigDrive::new(&seed(&[(path, "x")]), None, None).unwrap_err();
            assert!(matches!(error, ConfigDriveError::Path { .. }), "{path:?}: {error}");
        }
        assert!(ConfigDrive::new(&seed(&[("a", "x"), ("A", "y")]), None, None).is_err());
        assert!(ConfigDrive::new(&seed(&[("a", "x"), ("a/b", "y")]), None, None).is_err());
        assert!(ConfigDrive::new(&seed(&[("a/c", "x"), ("A/b", "y")]), None, None).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whatever_is_accepted_is_built(files in proptest::collection::btree_map("[a-zA-Z0-9._-]{1,20}(/[a-z0-9._-]{1,40}){0,3}", "\\PC{0,2000}", 0..40)) {
            let seed = Seed { files, guest_helper: false };
            if let Ok(drive) = ConfigDrive::new(&seed, None, None) {
                drive.build(512, &example()).unwrap();
            }
        }

        #[test]
        fn no_path_makes_it_panic(path in "\\PC{0,300}") {
            let seed = Seed { files: [(path, String::new())].into(), guest_helper: false };
            ConfigDrive::new(&seed, None, None).ok();
        }
    }
}
