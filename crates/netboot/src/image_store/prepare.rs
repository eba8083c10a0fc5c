//! One preparation, from the source to a whole pack on the shelf. Synchronous: it has a thread of its own.
//!
//! Bytes are held against the declared digest while they come, and packed at the same time; nothing is on the shelf before both came to a good end. Memory is bounded by the packer, whatever
//! the source; disk by the shelf's quota, which is asked before bytes are written.

use std::{
    fs::File,
    io::Write,
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use agent_protocol::order::ImageFormat;
use api::{BareMetalImageSpec, image::PackedImage};
use image::{
    Client, Digest, FallbackSource, FaultKind, FileSource, Format, HttpLimits, HttpSource, ImageError, STALL, Source, Stop,
    pack::{
        CHUNKS_FILE, ChunkSource, HttpChunks, MANIFEST_FILE, Manifest, PackDigest, PackOptions, PackProgress, fetch_manifest, packing_limit,
    },
};
use lifecycle::image::bases;

use super::{
    oci::{Artifact, Credentials, Reference, RegistryError},
    shelf::{Shelf, ShelfError},
};

/// Connections to another store.
const COPIERS: usize = 4;
/// So many bytes may be written until the packer tells again how far it is.
const AHEAD: u64 = 16 << 20;

/// Why there is no pack.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    /// The source, or what it gives.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The shelf.
    #[error("{}", crate::error::chain(.0))]
    Shelf(#[from] ShelfError),
    /// The thread.
    #[error("the preparation ended by a fault of this program; netboot's log says more, and it is tried again")]
    Internal,
}

impl PrepareError {
    /// A word for the condition.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Image(error) => error.kind().as_str(),
            Self::Registry(error) => error.reason(),
            Self::Shelf(ShelfError::Full { .. }) => "StoreFull",
            Self::Shelf(_) => "StoreFailed",
            Self::Internal => "Internal",
        }
    }

    /// Whether it may pass by itself soon.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Image(error) => error.kind().is_transient(),
            Self::Registry(error) => error.is_transient(),
            Self::Shelf(_) | Self::Internal => true,
        }
    }

    /// Whether it was told to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        match self {
            Self::Image(error) => error.kind() == FaultKind::Cancelled,
            Self::Registry(error) => matches!(error, RegistryError::Stopped),
            Self::Shelf(_) | Self::Internal => false,
        }
    }
}

/// How far it is, for others to look at; and how they stop it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub done: AtomicU64,
    pub total: AtomicU64,
    pub cancel: Stop,
}

/// From where.
pub(crate) enum Supply {
    /// What `spec.url` says.
    Url(Option<Credentials>),
    /// A file that was uploaded.
    File(PathBuf),
    /// A folder that was uploaded: a packed image.
    Folder(PathBuf),
    /// Other stores, by their base URLs.
    Stores { digest: String, urls: Vec<String> },
}

fn client() -> Result<Client, ImageError> {
    Client::new(STALL, |builder| builder)
}

/// Puts the image that `spec` declares on the shelf.
pub(crate) fn prepare(shelf: &Arc<Shelf>, spec: &BareMetalImageSpec, from: Supply, watch: &Watch) -> Result<PackedImage, PrepareError> {
    let wanted = match &from {
        Supply::Stores { digest, .. } => Some(digest.clone()),
        _ if spec.format == ImageFormat::Packed => Some(spec.digest.clone()),
        _ => None,
    };
    let known = match &wanted {
        Some(digest) => shelf.facts(digest.trim_start_matches("blake3:")),
        None => shelf.made_of(&spec.digest),
    };
    let facts = match known {
        Some(facts) => facts,
        None => match (from, wanted) {
            (Supply::Folder(folder), _) => {
                let (manifest, chunks) = image::pack::DirSource::open(&folder)?;
                expect(&manifest, &spec.digest, chunks.name())?;
                copy(shelf, &manifest, &chunks, watch)?
            }
            (Supply::Stores { digest, urls }, _) => {
                let hex = digest.trim_start_matches("blake3:").to_owned();
                let urls: Vec<String> = urls.iter().map(|u| format!("{u}/{hex}")).collect();
                copy_http(shelf, &client()?, &digest, &urls, watch)?
            }
            (Supply::Url(credentials), Some(digest)) => match spec.url.starts_with("oci://") {
                true => copy_artifact(shelf, &spec.url, credentials.as_ref(), &digest, watch)?,
                false => copy_http(shelf, &client()?, &digest, &bases(spec), watch)?,
            },
            (Supply::Url(credentials), None) => {
                let source = open(spec, credentials.as_ref(), watch)?;
                pack(shelf, spec, source, watch)?
            }
            (Supply::File(path), _) => pack(shelf, spec, Box::new(FileSource::open(&path)?), watch)?,
        },
    };
    // The name under which the spec knows it: of a packed image its own.
    Ok(PackedImage {
        source_digest: spec.digest.clone(),
        ..facts
    })
}

/// The bytes of a file at a URL or in a registry.
fn open(spec: &BareMetalImageSpec, credentials: Option<&Credentials>, watch: &Watch) -> Result<Box<dyn Source>, PrepareError> {
    if !spec.url.starts_with("oci://") {
        let client = client()?;
        let urls = std::iter::once(&spec.url).chain(&spec.mirrors);
        let places = urls.map(|url| (client.clone(), url.as_str())).collect();
        return Ok(Box::new(FallbackSource::of_urls(places, &limits(true, watch))?));
    }
    let blob = Artifact::open(Reference::parse(&spec.url)?, credentials, &watch.cancel)?.by_digest(&spec.digest)?;
    Ok(Box::new(HttpSource::new(blob.client, &blob.url, limits(blob.redirects, watch))?))
}

fn limits(redirects: bool, watch: &Watch) -> HttpLimits {
    HttpLimits {
        max_redirects: if redirects { HttpLimits::default().max_redirects } else { 0 },
        stop: Some(Stop::clone(&watch.cancel)),
        ..HttpLimits::default()
    }
}

fn named(digest: &str) -> Result<PackDigest, ImageError> {
    digest.parse().map_err(|_| ImageError::InvalidDigest {
        text: digest.to_owned(),
        reason: "a packed image is named by blake3: and 64 hexadecimal digits",
    })
}

fn expect(manifest: &Manifest, digest: &str, name: &str) -> Result<(), ImageError> {
    let actual = manifest.digest().to_string();
    if actual == digest {
        return Ok(());
    }
    Err(ImageError::DigestMismatch {
        source_name: name.to_owned(),
        expected: digest.to_owned(),
        actual,
    })
}

fn copy_http(shelf: &Arc<Shelf>, client: &Client, digest: &str, bases: &[String], watch: &Watch) -> Result<PackedImage, PrepareError> {
    let of = |file: &str| bases.iter().map(|b| format!("{b}/{file}")).collect::<Vec<_>>();
    let manifest = fetch_manifest(client, &of(MANIFEST_FILE), Some(named(digest)?), &limits(true, watch))?;
    let chunks = HttpChunks::new(client, &of(CHUNKS_FILE), manifest.stored_bytes(), limits(true, watch))?;
    copy(shelf, &manifest, &chunks, watch)
}

fn copy_artifact(
    shelf: &Arc<Shelf>,
    url: &str,
    credentials: Option<&Credentials>,
    digest: &str,
    watch: &Watch,
) -> Result<PackedImage, PrepareError> {
    let artifact = Artifact::open(Reference::parse(url)?, credentials, &watch.cancel)?;
    let blob = artifact.packed_manifest()?;
    let manifest = fetch_manifest(&blob.client, &[blob.url], Some(named(digest)?), &limits(blob.redirects, watch))?;
    let blob = artifact.packed_chunks()?;
    let chunks = HttpChunks::new(&blob.client, &[blob.url], manifest.stored_bytes(), limits(blob.redirects, watch))?;
    copy(shelf, &manifest, &chunks, watch)
}

/// Packs what a source gives, while it comes.
fn pack(shelf: &Arc<Shelf>, spec: &BareMetalImageSpec, source: Box<dyn Source>, watch: &Watch) -> Result<PackedImage, PrepareError> {
    let format = match spec.format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Gzip => Format::Gzip,
        ImageFormat::Xz => Format::Xz,
        ImageFormat::Zstd => Format::Zstd,
        ImageFormat::Qcow2 => Format::Qcow2,
        // It is copied, never packed again.
        ImageFormat::Packed => return Err(PrepareError::Internal),
    };
    let image = image::open(source, &Digest::parse(&spec.digest)?, Some(format), &packing_limit())?;
    let mut draft = shelf.begin()?;
    let folder = draft.pack();
    let mut full = None;
    let mut look = |so_far: PackProgress| {
        let (done, total) = so_far.source_bytes.unwrap_or((so_far.disk_bytes, so_far.disk_total.unwrap_or(0)));
        watch.done.store(done, Ordering::Relaxed);
        watch.total.store(total, Ordering::Relaxed);
        if watch.cancel.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        match draft.reserve(so_far.stored_bytes + so_far.scratch_bytes + AHEAD) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                full = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let packed = image::pack::pack(image, &folder, &PackOptions::default(), &mut look);
    if let Some(full) = full {
        return Err(full.into());
    }
    let manifest = packed?.manifest;
    draft.reserve(manifest.stored_bytes() + manifest.to_bytes().len() as u64)?;
    Ok(draft.commit()?)
}

/// Copies a packed image, each frame held against its digest.
fn copy(shelf: &Arc<Shelf>, manifest: &Manifest, chunks: &dyn ChunkSource, watch: &Watch) -> Result<PackedImage, PrepareError> {
    let mut draft = shelf.begin()?;
    let bytes = manifest.to_bytes();
    let total = manifest.stored_bytes();
    draft.reserve(total + bytes.len() as u64)?;
    watch.total.store(total, Ordering::Relaxed);
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| ShelfError::Io {
            action: "writing",
            path,
            source,
        }
    };
    let folder = draft.pack();
    std::fs::create_dir(&folder).map_err(io(&folder))?;
    let path = folder.join(CHUNKS_FILE);
    let file = File::create(&path).map_err(io(&path))?;
    // A frame that several chunks share is copied once.
    let mut frames: Vec<_> = manifest.chunks().iter().collect();
    frames.sort_by_key(|c| c.offset);
    frames.dedup_by_key(|c| c.offset);
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), PrepareError> {
        let mut buffer = Vec::new();
        while let Some(frame) = frames.get(next.fetch_add(1, Ordering::Relaxed)) {
            if watch.cancel.load(Ordering::Relaxed) {
                return Err(ImageError::Cancelled.into());
            }
            buffer.resize(frame.length as usize, 0);
            chunks.read(frame.offset, &mut buffer)?;
            let actual = blake3::hash(&buffer);
            if actual != frame.stored {
                return Err(ImageError::DigestMismatch {
                    source_name: format!("chunk {} of {}", frame.index, chunks.name()),
                    expected: format!("blake3:{}", frame.stored),
                    actual: format!("blake3:{actual}"),
                }
                .into());
            }
            file.write_all_at(&buffer, frame.offset).map_err(io(&path))?;
            watch.done.fetch_add(u64::from(frame.length), Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..COPIERS).map(|_| scope.spawn(work)).collect();
        let mut outcome = Ok(());
        for thread in threads {
            outcome = outcome.and(thread.join().unwrap_or(Err(PrepareError::Internal)));
        }
        outcome
    })?;
    let path = folder.join(MANIFEST_FILE);
    File::create(&path).and_then(|mut f| f.write_all(&bytes)).map_err(io(&path))?;
    Ok(draft.commit()?)
}
