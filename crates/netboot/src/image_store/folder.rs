//! Serves files of one folder over plain HTTP: images at `/images/<name>`, boot media of an architecture ([`crate::boot::media`]).
//!
//! What can be asked for is a list that this process makes of the folder; a request is looked up in it and never becomes a path. Regular files
//! with plain names only: no links, no subfolders, nothing hidden. Whole files, one range, conditions by ETag, and HEAD.
//!
//! What this does not do: check digests (the reader does, against the pinned channel), or convert anything.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::{Duration, Instant, UNIX_EPOCH},
};

use axum::{
    body::Body,
    extract::{Path as UrlPath, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::answer::{Head, head};

/// Most files of one folder that are served.
const MAX_FILES: usize = 4096;
/// The folder is listed again at most this often, and only when somebody asks for what is not in the list or has changed.
const RELIST: Duration = Duration::from_secs(2);
const CHUNK: usize = 256 * 1024;

/// Longest name.
const MAX_NAME: usize = 128;

/// Whether a file may have this name: letters, digits and `._-`, not beginning with a dot.
fn is_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[derive(Debug, Default)]
struct Listing {
    files: HashMap<String, PathBuf>,
    at: Option<Instant>,
}

/// One folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: Option<PathBuf>,
    /// Name in the URL to names on disk, first one that exists. Empty: every file under its own name.
    aliases: &'static [(&'static str, &'static [&'static str])],
    listing: RwLock<Listing>,
}

/// What boot scripts name, and what the media builder calls it.
const MEDIA: &[(&str, &[&str])] = &[
    ("vmlinuz", &["vmlinuz"]),
    ("initramfs", &["initramfs.zst", "initramfs"]),
    ("medium", &["boot.iso"]),
];

impl Folder {
    pub(crate) fn images(path: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            path,
            aliases: &[],
            listing: RwLock::default(),
        })
    }

    pub(crate) fn media(path: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            path,
            aliases: MEDIA,
            listing: RwLock::default(),
        })
    }

    /// `GET` and `HEAD` of one file.
    pub(crate) async fn serve(self: &Arc<Self>, name: &str, method: &Method, headers: &HeaderMap) -> Response {
        let Some(path) = self.find(name).await else { return not_found() };
        match answer(&path, method, headers).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a file cannot be served");
                not_found()
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<PathBuf> {
        let listing = self.listing.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        listing.files.get(name).cloned()
    }

    fn is_fresh(&self) -> bool {
        let listing = self.listing.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        listing.at.is_some_and(|at| at.elapsed() < RELIST)
    }

    /// A file by its name in the URL.
    pub(crate) async fn find(self: &Arc<Self>, name: &str) -> Option<PathBuf> {
        if !is_file_name(name) {
            return None;
        }
        if let Some(path) = self.lookup(name) {
            return Some(path);
        }
        let folder = self.path.clone()?;
        if self.is_fresh() {
            return None;
        }
        let listed = tokio::task::spawn_blocking(move || list(&folder)).await.ok()?;
        let files = match listed {
            Ok(files) if self.aliases.is_empty() => files,
            Ok(mut files) => self
                .aliases
                .iter()
                .filter_map(|(alias, names)| Some(((*alias).to_owned(), names.iter().find_map(|n| files.remove(*n))?)))
                .collect(),
            // Not every architecture has boot media.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !self.aliases.is_empty() => HashMap::new(),
            Err(error) => {
                tracing::warn!(folder = ?self.path, %error, "the folder cannot be listed");
                HashMap::new()
            }
        };
        {
            let mut listing = self.listing.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            listing.files = files;
            listing.at = Some(Instant::now());
        }
        self.lookup(name)
    }
}

fn list(folder: &Path) -> std::io::Result<HashMap<String, PathBuf>> {
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_file_name(&name) && entry.file_type()?.is_file() && files.len() < MAX_FILES {
            files.insert(name, entry.path());
        }
    }
    Ok(files)
}

pub(crate) fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "there is no such file\n").into_response()
}

/// `GET` and `HEAD` of one image.
pub(crate) async fn serve(
    State(folder): State<Arc<Folder>>,
    UrlPath(name): UrlPath<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    folder.serve(&name, &method, &headers).await
}

/// Opens without following a link that took the file's place.
async fn open(path: &Path) -> std::io::Result<(tokio::fs::File, std::fs::Metadata)> {
    let link = tokio::fs::symlink_metadata(path).await?;
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    if !link.is_file() || !metadata.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    Ok((file, metadata))
}

fn etag(metadata: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt;
    let modified = metadata
        .modified()
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok())
        .unwrap_or_default();
    format!("\"{:x}-{:x}-{:x}\"", metadata.ino(), metadata.len(), modified.as_nanos())
}

async fn answer(path: &Path, method: &Method, headers: &HeaderMap) -> std::io::Result<Response> {
    let (mut file, metadata) = open(path).await?;
    let (response, start, length) = match head(metadata.len(), &etag(&metadata), headers) {
        Head::Whole(response) => return Ok(response),
        Head::Part { response, start, length } => (response, start, length),
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(std::io::SeekFrom::Start(start)).await?;
        Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK))
    };
    response.body(body).map_err(std::io::Error::other)
}
