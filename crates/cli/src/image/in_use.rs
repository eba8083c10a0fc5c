//! Why a disk must not be written to: it, or a part of it, is mounted, swapped to, or part of something larger.
//!
//! What the kernel says is gathered in one place and judged by a function without I/O. The exclusive opening of the disk would be refused
//! in most of these cases as well, but without saying by whom.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{major, minor};

/// What the kernel says.
#[derive(Debug, Default)]
struct Facts {
    /// The disk and its partitions: `8:0`, and their names.
    devices: BTreeSet<String>,
    names: BTreeSet<String>,
    /// Name of a part, and who holds it.
    holders: Vec<(String, String)>,
    mounts: String,
    swaps: String,
}

/// Everything that uses the disk; empty for a file, and for a disk that is free.
pub fn users(disk: &Path) -> Result<Vec<String>> {
    let metadata = fs::metadata(disk).with_context(|| {
        format!(
            "{} is not there; name a disk, or a file of the size that the disk shall have",
            disk.display()
        )
    })?;
    if !metadata.file_type().is_block_device() {
        return Ok(Vec::new());
    }
    Ok(judge(&gather(metadata.rdev())?))
}

fn gather(device: u64) -> Result<Facts> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let mut facts = Facts {
        mounts: read("/proc/self/mountinfo")?,
        swaps: match fs::read_to_string("/proc/swaps") {
            // A kernel without swapping.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            swaps => swaps.context("reading /proc/swaps")?,
        },
        ..Facts::default()
    };
    let own = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let own = fs::canonicalize(&own).with_context(|| format!("{} is not there: cannot see whether the disk is in use", own.display()))?;
    let mut parts = vec![own.clone()];
    for entry in fs::read_dir(&own).with_context(|| format!("reading {}", own.display()))? {
        let path = entry?.path();
        if path.join("partition").exists() {
            parts.push(path);
        }
    }
    for part in parts {
        let name = part.file_name().unwrap_or_default().to_string_lossy().into_owned();
        facts.devices.insert(read(&part.join("dev").to_string_lossy())?.trim().to_owned());
        let holders = part.join("holders");
        for holder in fs::read_dir(&holders).with_context(|| format!("reading {}", holders.display()))? {
            let holder = holder?.file_name().to_string_lossy().into_owned();
            facts.holders.push((name.clone(), holder));
        }
        facts.names.insert(name);
    }
    Ok(facts)
}

fn judge(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let is_ours = |path: &str| path.strip_prefix("/dev/").is_some_and(|name| facts.names.contains(name));
    for line in facts.mounts.lines() {
        // proc(5): id, parent, major:minor, root, mount point, options, optional fields, a dash, type, source, super options.
        let fields: Vec<&str> = line.split(' ').collect();
        let source = fields.iter().position(|field| *field == "-").and_then(|dash| fields.get(dash + 2));
        let (Some(device), Some(point)) = (fields.get(2), fields.get(4)) else {
            continue;
        };
        // Some file systems (Btrfs) have device numbers of their own; then the source tells.
        if facts.devices.contains(*device) || source.is_some_and(|source| is_ours(source)) {
            found.push(format!("mounted at {}", unescaped(point)));
        }
    }
    for line in facts.swaps.lines().skip(1) {
        if let Some(path) = line.split_whitespace().next().filter(|path| is_ours(path)) {
            found.push(format!("{path} is swap space in use"));
        }
    }
    for (part, holder) in &facts.holders {
        found.push(format!("/dev/{part} is part of {holder}"));
    }
    found
}

/// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What is known of a disk, to ask about: name, size, model.
pub fn description(disk: &Path, bytes: u64) -> String {
    let size = format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let model = fs::metadata(disk)
        .ok()
        .filter(|metadata| metadata.file_type().is_block_device())
        .and_then(|metadata| {
            let device = metadata.rdev();
            fs::read_to_string(format!("/sys/dev/block/{}:{}/device/model", major(device), minor(device))).ok()
        });
    match model.as_deref().map(str::trim).filter(|model| !model.is_empty()) {
        Some(model) => format!("{} ({model}, {size})", disk.display()),
        None => format!("{} ({size})", disk.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            devices: ["8:0".to_owned(), "8:1".to_owned()].into(),
            names: ["sda".to_owned(), "sda1".to_owned()].into(),
            ..Facts::default()
        }
    }

    #[test]
    fn a_free_disk_has_no_users() {
        let mut facts = facts();
        facts.mounts = "22 1 8:16 / / rw - ext4 /dev/sdb1 rw\n23 22 0:5 / /dev rw shared:2 - devtmpfs udev rw\n".to_owned();
        facts.swaps = "Filename Type Size Used Priority\n/dev/sdb2 partition 1 0 -2\n".to_owned();
        assert_eq!(judge(&facts), Vec::<String>::new());
    }

    #[test]
    fn every_use_is_named() {
        let mut facts = facts();
        facts.mounts =
            "22 1 8:1 / /mnt/my\\040disk rw shared:1 - ext4 /dev/sda1 rw\n23 1 0:40 /@ /home rw - btrfs /dev/sda1 rw\n".to_owned();
        facts.swaps = "Filename Type Size Used Priority\n/dev/sda1 partition 1 0 -2\n".to_owned();
        facts.holders.push(("sda1".to_owned(), "dm-0".to_owned()));
        assert_eq!(
            judge(&facts),
            [
                "mounted at /mnt/my disk",
                "mounted at /home",
                "/dev/sda1 is swap space in use",
                "/dev/sda1 is part of dm-0"
            ]
        );
    }

    #[test]
    fn a_file_has_no_users() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(users(file.path()).unwrap().is_empty());
        assert!(description(file.path(), 3 << 29).ends_with("(1.5 GiB)"));
    }
}
