//! Where the stored bytes of a packed image come from.
//!
//! A [`ChunkSource`] is read by several threads at once, each range by itself. It gives the bytes that were asked for or an error, never
//! fewer; whether they are the right ones is for the digests to say. One that knows better than the writer in which order frames are to be
//! had, because other machines have some of them, has a [`Feed`] as well.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use super::manifest::{MAX_MANIFEST_BYTES, Manifest, PackDigest};
use super::{CHUNKS_FILE, MANIFEST_FILE};
use crate::error::ImageError;
use crate::source::{Client, Failure, HttpLimits, HttpSource, Source, pause, sleep, source_error};

/// The stored bytes of a packed image's chunks.
pub trait ChunkSource: Send + Sync {
    /// Name for messages: a path, or a URL without credentials and query.
    fn name(&self) -> &str;

    /// Fills `buffer` with the stored bytes from `offset`. For several threads at once.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError>;

    /// The feed that the writer takes all chunks but the first from; without one it reads ahead in the order of the disk.
    fn feed(&self) -> Option<&dyn Feed> {
        None
    }
}

/// Frames in an order that their source chooses. Chunks go by their place in [`Manifest::chunks`].
///
/// The writer settles every chunk but the one of index 0, whose frame it reads first, and takes frames until there are none left.
pub trait Feed: Send + Sync {
    /// Whether the disk lacks this chunk, so that its frame is wanted. Called once for each chunk, by several threads, also while frames are
    /// already taken.
    fn settle(&self, place: usize, wanted: bool);

    /// Waits for the next frame. `None` once every chunk is settled and all that are wanted were given or are about to be given to somebody
    /// else who waits here, or when the feed was stopped. A frame whose digest is wrong the writer reads again from the source.
    fn next(&self) -> Result<Option<(usize, Bytes)>, ImageError>;

    /// Nothing more is taken; whoever waits in [`Feed::next`] is let go.
    fn stop(&self);
}

/// A packed image in a folder.
pub struct DirSource {
    name: String,
    chunks: File,
    stored_bytes: u64,
}

impl DirSource {
    /// Opens the packed image in a folder.
    pub fn open(folder: &Path) -> Result<(Manifest, Self), ImageError> {
        let bytes = read_bounded(&folder.join(MANIFEST_FILE), MAX_MANIFEST_BYTES as u64)?;
        let manifest = Manifest::parse(&bytes).map_err(|error| error.of_source(&folder.display().to_string()))?;
        let source = Self::with_chunks(&folder.join(CHUNKS_FILE), &manifest)?;
        Ok((manifest, source))
    }

    /// The chunks of this manifest in a file of any name.
    pub fn with_chunks(path: &Path, manifest: &Manifest) -> Result<Self, ImageError> {
        Self::with_length(path, manifest.stored_bytes())
    }

    pub(crate) fn with_length(path: &Path, expected: u64) -> Result<Self, ImageError> {
        let name = path.display().to_string();
        let chunks = File::open(path).map_err(|error| unreadable(&name, &error))?;
        let actual = chunks.metadata().map_err(|error| unreadable(&name, &error))?.len();
        if actual < expected {
            return Err(ImageError::Truncated {
                source_name: name,
                expected,
                actual,
            });
        }
        if actual > expected {
            let reason = format!("it has {actual} bytes, its manifest says {expected}");
            return Err(ImageError::Corrupt { source_name: name, reason });
        }
        Ok(Self {
            name,
            chunks,
            stored_bytes: expected,
        })
    }
}

/// A small file, whole.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, ImageError> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(most + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(&name, &error))?;
    if bytes.len() as u64 > most {
        return Err(ImageError::SourceTooLarge {
            source_name: name,
            limit: most,
        });
    }
    Ok(bytes)
}

fn unreadable(name: &str, error: &io::Error) -> ImageError {
    ImageError::Unreachable {
        source_name: name.to_owned(),
        reason: error.to_string(),
    }
}

impl ChunkSource for DirSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.chunks.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::Truncated {
                source_name: self.name.clone(),
                expected: self.stored_bytes,
                actual: self.chunks.metadata().map_or(offset, |metadata| metadata.len()),
            },
            _ => unreadable(&self.name, &error),
        })
    }
}

/// The chunks of a packed image on web servers.
///
/// Each thread that reads has a connection, which stays open from one range to the next. All threads ask the same server until it fails;
/// then the next one is asked. A server that gave a wrong answer (another size, another range, the whole file, an error that trying
/// again does not mend) is not asked again. When none answers, all are tried again after a pause, [`HttpLimits::max_retries`] times.
pub struct HttpChunks {
    name: String,
    places: Vec<Place>,
    preferred: AtomicUsize,
    stored_bytes: u64,
    limits: HttpLimits,
}

struct Place {
    source: HttpSource,
    refused: AtomicBool,
}

impl HttpChunks {
    /// The file of chunks at these URLs, in the order in which to ask. Nothing is sent yet. `stored_bytes` is
    /// [`Manifest::stored_bytes`]; `client` is a [`crate::Client`].
    pub fn new(client: &Client, urls: &[String], stored_bytes: u64, limits: HttpLimits) -> Result<Self, ImageError> {
        let places = urls
            .iter()
            .map(|url| {
                let source = HttpSource::new(client.clone(), url, limits.clone())?;
                Ok(Place {
                    source,
                    refused: AtomicBool::new(false),
                })
            })
            .collect::<Result<Vec<_>, ImageError>>()?;
        let Some(first) = places.first() else {
            return Err(ImageError::InvalidUrl {
                url: String::new(),
                reason: "none is given".to_owned(),
            });
        };
        Ok(Self {
            name: first.source.name().to_owned(),
            places,
            preferred: AtomicUsize::new(0),
            stored_bytes,
            limits,
        })
    }

    /// One round over the servers that are not given up: `None` when the bytes are here, else the last failure.
    fn round(&self, offset: u64, buffer: &mut [u8]) -> Option<Failure> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        for step in 0..self.places.len() {
            let at = (preferred + step) % self.places.len();
            let place = &self.places[at];
            if place.refused.load(Ordering::Relaxed) {
                continue;
            }
            let failure = match place.source.try_range(offset, buffer, self.stored_bytes) {
                Ok(()) => {
                    if step > 0 {
                        self.preferred.store(at, Ordering::Relaxed);
                    }
                    return None;
                }
                Err(failure) => failure,
            };
            let (Failure::Final(error) | Failure::Again(error)) = &failure;
            tracing::warn!(%error, offset, "chunks could not be read here");
            if matches!(failure, Failure::Final(_)) {
                place.refused.store(true, Ordering::Relaxed);
            }
            last = Some(failure);
        }
        Some(last.unwrap_or_else(|| {
            Failure::Final(ImageError::Unreachable {
                source_name: self.name.clone(),
                reason: "every server gave a wrong answer before".to_owned(),
            })
        }))
    }

    fn is_given_up(&self) -> bool {
        self.places.iter().all(|place| place.refused.load(Ordering::Relaxed))
    }
}

impl ChunkSource for HttpChunks {
    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
        if buffer.is_empty() {
            return Ok(());
        }
        let mut rounds = 0;
        while let Some(Failure::Final(error) | Failure::Again(error)) = self.round(offset, buffer) {
            rounds += 1;
            if self.is_given_up() || rounds > self.limits.max_retries {
                return Err(error);
            }
            sleep(pause(self.limits.backoff, rounds), self.limits.stop.as_ref());
        }
        Ok(())
    }
}

/// Gets the manifest at the first of these URLs that has it. What it says is held against its name, `expected`, where that is known.
pub fn fetch_manifest(client: &Client, urls: &[String], expected: Option<PackDigest>, limits: &HttpLimits) -> Result<Manifest, ImageError> {
    let limits = HttpLimits {
        max_bytes: limits.max_bytes.min(MAX_MANIFEST_BYTES as u64),
        ..limits.clone()
    };
    let mut last = ImageError::InvalidUrl {
        url: String::new(),
        reason: "none is given".to_owned(),
    };
    for url in urls {
        match fetch_from(client, url, expected, &limits) {
            Ok(manifest) => return Ok(manifest),
            Err(error) => {
                tracing::warn!(%error, "the manifest could not be had here");
                last = error;
            }
        }
    }
    Err(last)
}

fn fetch_from(client: &Client, url: &str, expected: Option<PackDigest>, limits: &HttpLimits) -> Result<Manifest, ImageError> {
    let mut source = HttpSource::new(client.clone(), url, limits.clone())?;
    let name = source.name().to_owned();
    let mut bytes = Vec::new();
    source
        .stream()?
        .read_to_end(&mut bytes)
        .map_err(|error| source_error(&name, error))?;
    let actual = PackDigest::of(&bytes);
    if let Some(expected) = expected.filter(|expected| *expected != actual) {
        return Err(ImageError::DigestMismatch {
            source_name: name,
            expected: expected.to_string(),
            actual: actual.to_string(),
        });
    }
    Manifest::parse(&bytes).map_err(|error| error.of_source(&name))
}
