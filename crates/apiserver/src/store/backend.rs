//! What lies below redb: the seam for tests, and the file with its directory made durable.
//!
//! Creating a file is durable only when its directory was synced too; redb syncs the file alone.

use std::fs::{File, OpenOptions};
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::StoreError;

/// Opens or creates the store's file (mode 0600) and makes its directory entry durable.
pub fn open_file(path: &Path) -> Result<impl StorageBackend, StoreError> {
    let open = |error: std::io::Error| StoreError::Open(format!("{}: {error}", path.display()).into());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path).map_err(open)?;
    sync_parent(path).map_err(open)?;
    FileBackend::new(file).map_err(|error| StoreError::Open(Box::new(error)))
}

/// Syncs the directory that holds a path, so that the entry survives a power cut.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
