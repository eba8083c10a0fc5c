//! A layer: files as a tar, compressed with gzip, which every reader of images knows.
//!
//! Times and names of owners are left out, so that a layer's digest changes with its files only; a registry then stores an unchanged layer once.

use std::io::Write;

use flate2::{Compression, GzBuilder, write::GzEncoder};
use sha2::{Digest, Sha256};

use crate::Error;

/// One thing in a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path from the root, without a slash in front.
    pub path: String,
    /// Contents of a file; `None` for a folder.
    pub contents: Option<Vec<u8>>,
    /// Permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: u32,
}

impl Entry {
    /// A folder of root's.
    pub fn folder(path: &str) -> Self {
        Self {
            path: format!("{path}/"),
            contents: None,
            mode: 0o755,
            owner: 0,
        }
    }

    /// A file of root's that everybody may read.
    pub fn file(path: &str, contents: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.to_owned(),
            contents: Some(contents.into()),
            mode: 0o644,
            owner: 0,
        }
    }

    /// With other permissions.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// With another owner.
    pub fn owner(mut self, owner: u32) -> Self {
        self.owner = owner;
        self
    }
}

/// A packed layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What it holds, for the image's history.
    pub summary: &'static str,
    /// The compressed tar.
    pub blob: Vec<u8>,
    /// Digest of the plain tar, by which a root filesystem is named.
    pub diff_id: String,
}

impl Layer {
    /// Packs entries in the order given: folders before what lies in them.
    ///
    /// # Errors
    /// [`Error::Pack`] for a path that a tar cannot hold.
    pub fn pack(summary: &'static str, entries: &[Entry]) -> Result<Self, Error> {
        let failed = |source| Error::Pack { what: summary, source };
        let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        let mut tar = tar::Builder::new(Hashed {
            digest: Sha256::new(),
            gzip,
        });
        for entry in entries {
            let contents = entry.contents.as_deref().unwrap_or_default();
            let mut header = header(entry.contents.is_some(), contents.len() as u64, entry.mode);
            header.set_uid(entry.owner.into());
            header.set_gid(entry.owner.into());
            tar.append_data(&mut header, &entry.path, contents).map_err(failed)?;
        }
        let Hashed { digest, gzip } = tar.into_inner().map_err(failed)?;
        Ok(Self {
            summary,
            blob: gzip.finish().map_err(failed)?,
            diff_id: named(&digest.finalize()),
        })
    }
}

/// A tar header without time, owner or names.
pub(crate) fn header(file: bool, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(if file { tar::EntryType::Regular } else { tar::EntryType::Directory });
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The digest of bytes as OCI writes it.
pub fn digest(bytes: &[u8]) -> String {
    named(&Sha256::digest(bytes))
}

fn named(digest: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest))
}

/// Hashes what passes on its way to be compressed.
struct Hashed {
    digest: Sha256,
    gzip: GzEncoder<Vec<u8>>,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let taken = self.gzip.write(bytes)?;
        self.digest.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.gzip.flush()
    }
}
