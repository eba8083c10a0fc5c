//! Files below a root, read within bounds. Errors are absence.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Largest file that is read.
const LARGEST: u64 = 1 << 20;
/// Most entries of a folder.
const MOST_ENTRIES: usize = 8192;

#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn at(root: &Path) -> Self {
        // Links in sysfs are resolved against the root's true name.
        Self {
            root: root.canonicalize().unwrap_or_else(|_| root.to_owned()),
        }
    }

    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.path(path).exists()
    }

    pub(super) fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path(path)).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The text of a file, trimmed; nothing when it is empty.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let bytes = self.bytes(path)?;
        let text = String::from_utf8_lossy(&bytes)
            .trim_matches(|c: char| c.is_whitespace() || c == '\0')
            .to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// The text of a file as one clean line.
    pub(super) fn line(&self, path: impl AsRef<Path>) -> Option<String> {
        crate::text::clean(&self.text(path)?)
    }

    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    pub(super) fn flag(&self, path: impl AsRef<Path>) -> bool {
        self.number(path) == Some(1)
    }

    /// Names in a folder, sorted.
    pub(super) fn list(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(path)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(MOST_ENTRIES)
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Where a path really is, below the root.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let real = self.path(path).canonicalize().ok()?;
        real.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// The last part of where a link points.
    pub(super) fn link_name(&self, path: impl AsRef<Path>) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        crate::text::clean(target.file_name()?.to_str()?)
    }
}

/// `0000:00:1f.2`.
pub(super) fn is_pci_address(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(at, b)| match at {
            4 | 7 => *b == b':',
            10 => *b == b'.',
            _ => b.is_ascii_hexdigit(),
        })
}

/// The parts of a path as text.
pub(super) fn parts(path: &Path) -> Vec<&str> {
    path.components().filter_map(|c| c.as_os_str().to_str()).collect()
}
