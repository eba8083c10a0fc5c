//! What SOURCE and IMAGE stand for: a file, a URL, standard input, or a packed image as a folder, an OCI layout (`oci:FOLDER`) or the URL of
//! its manifest.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::pack::{ChunkSource, DirSource, HttpChunks, MANIFEST_FILE, Manifest, PackDigest, fetch_manifest, oci};
use image::{Digest, FallbackSource, FileSource, Format, HttpLimits, ImageError, STALL, Source};
use indicatif::ProgressBar;

/// A packed image that is open.
pub struct Opened {
    /// Its manifest.
    pub manifest: Manifest,
    /// Its chunks.
    pub chunks: Box<dyn ChunkSource>,
}

/// Whether a text on the command line means a packed image.
pub fn is_packed(text: &str) -> bool {
    if is_url(text) {
        return text.split(['?', '#']).next().is_some_and(|path| path.ends_with(MANIFEST_FILE));
    }
    text.starts_with("oci:") || folder(text).is_some()
}

/// The folder of a packed image, by its own name or by that of its manifest.
fn folder(text: &str) -> Option<&Path> {
    let path = Path::new(text);
    if path.is_dir() {
        return Some(path);
    }
    let folder = path
        .parent()
        .filter(|_| path.file_name().is_some_and(|name| name == MANIFEST_FILE))?;
    // Without its chunks it may be any file of that name.
    folder.join(image::pack::CHUNKS_FILE).is_file().then_some(folder)
}

/// Whether a text on the command line means a URL.
pub fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Mirrors are of a URL, and are URLs.
fn check_mirrors(text: &str, mirrors: &[String]) -> Result<()> {
    if mirrors.is_empty() {
        return Ok(());
    }
    ensure!(is_url(text), "--mirror names another URL of an image at a URL, which {text} is not");
    if let Some(odd) = mirrors
        .iter()
        .find(|mirror| !is_url(mirror) || is_packed(mirror) != is_packed(text))
    {
        bail!(
            "--mirror {odd} is no URL of the same bytes as {text}: it begins with http:// or https://, and of a packed image it ends in /{MANIFEST_FILE}"
        );
    }
    Ok(())
}

/// Opens a packed image. A digest given for it is that of its manifest.
pub fn open_packed(text: &str, mirrors: &[String], digest: Option<&str>) -> Result<Opened> {
    check_mirrors(text, mirrors)?;
    let expected = digest.map(str::parse::<PackDigest>).transpose().map_err(anyhow::Error::msg)?;
    let opened = if is_url(text) {
        if text.starts_with("http:") && expected.is_none() {
            tracing::warn!("without --digest blake3:... nothing says that {text} is the image that was meant");
        }
        let urls: Vec<&str> = std::iter::once(text).chain(mirrors.iter().map(String::as_str)).collect();
        return open_urls(&urls, expected);
    } else if let Some(layout) = text.strip_prefix("oci:") {
        oci::open_layout(Path::new(layout))
    } else if let Some(folder) = folder(text) {
        DirSource::open(folder)
    } else {
        bail!("{text} is no packed image: give its folder, oci:FOLDER, or the URL of its {MANIFEST_FILE}; `image pack` makes one");
    };
    let (manifest, chunks) = opened?;
    if let Some(expected) = expected.filter(|expected| *expected != manifest.digest()) {
        bail!(ImageError::DigestMismatch {
            source_name: text.to_owned(),
            expected: expected.to_string(),
            actual: manifest.digest().to_string(),
        });
    }
    Ok(Opened {
        manifest,
        chunks: Box::new(chunks),
    })
}

/// Where the chunks lie that belong to the manifest at a URL.
fn chunks_of(url: &str) -> Result<String> {
    let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
    let base = path
        .strip_suffix(MANIFEST_FILE)
        .with_context(|| format!("a packed image's URL ends in /{MANIFEST_FILE}"))?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("{base}{}{query}", image::pack::CHUNKS_FILE))
}

fn open_urls(urls: &[&str], expected: Option<PackDigest>) -> Result<Opened> {
    let client = client()?;
    let limits = HttpLimits::default();
    let manifests: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
    let chunks: Vec<String> = urls.iter().map(|url| chunks_of(url)).collect::<Result<_>>()?;
    let manifest = fetch_manifest(&client, &manifests, expected, &limits)?;
    let chunks = HttpChunks::new(&client, &chunks, manifest.stored_bytes(), limits)?;
    Ok(Opened {
        manifest,
        chunks: Box::new(chunks),
    })
}

/// A client for them.
pub fn client() -> Result<image::Client> {
    // One provider of TLS for every part; a second command in this process finds it there.
    if rustls::crypto::CryptoProvider::get_default().is_none() && rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("another thread installed the TLS provider");
    }
    Ok(image::Client::new(STALL, |builder| builder)?)
}

/// An image that is no pack, with the digest that it must have.
pub struct Stored {
    /// Its bytes.
    pub source: Box<dyn Source>,
    /// Its digest.
    pub digest: Digest,
}

/// Opens an image that is no pack. The digest of a file that nobody told is computed first, so that what is written is what was read then;
/// of anything that comes over a network or a pipe it must be told: nothing else tells a cut-off download from a whole one.
pub fn open_stored(text: &str, mirrors: &[String], digest: Option<&str>, bar: &ProgressBar) -> Result<Stored> {
    check_mirrors(text, mirrors)?;
    let told = digest.map(Digest::parse).transpose()?;
    let need = |what: &str| {
        format!(
            "{what} needs --digest sha256:... or --checksums SHA256SUMS: nothing else tells a damaged or cut-off image from a whole one"
        )
    };
    if is_url(text) {
        let digest = told.with_context(|| need("an image at a URL"))?;
        let client = client()?;
        let urls = std::iter::once(text).chain(mirrors.iter().map(String::as_str));
        let places = urls.map(|url| (client.clone(), url)).collect();
        let source = Box::new(FallbackSource::of_urls(places, &HttpLimits::default())?);
        return Ok(Stored { source, digest });
    }
    if text == "-" {
        let digest = told.with_context(|| need("an image from standard input"))?;
        let source = Box::new(StandardInput { taken: false });
        return Ok(Stored { source, digest });
    }
    let path = PathBuf::from(text);
    let source = FileSource::open(&path)?;
    let digest = match told {
        Some(digest) => digest,
        None => hash(&path, bar).with_context(|| format!("reading {text}"))?,
    };
    Ok(Stored {
        source: Box::new(source),
        digest,
    })
}

fn hash(path: &Path, bar: &ProgressBar) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    bar.set_message("digest");
    bar.set_length(file.metadata()?.len());
    let mut hasher = Digest::sha256_of(b"").hasher();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            bar.reset();
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
        bar.inc(count as u64);
    }
}

/// Standard input, which can be read once.
struct StandardInput {
    taken: bool,
}

const STANDARD_INPUT: &str = "standard input";

impl StandardInput {
    fn refused(reason: &str) -> ImageError {
        ImageError::Unsupported {
            source_name: STANDARD_INPUT.to_owned(),
            reason: reason.to_owned(),
            remedy: "put the image into a file".to_owned(),
        }
    }
}

impl Source for StandardInput {
    fn name(&self) -> &str {
        STANDARD_INPUT
    }

    fn size(&mut self) -> Result<Option<u64>, ImageError> {
        Ok(None)
    }

    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError> {
        if std::mem::replace(&mut self.taken, true) {
            return Err(Self::refused("it can be read once only"));
        }
        Ok(Box::new(io::stdin()))
    }

    fn read_range(&mut self, _offset: u64, _buffer: &mut [u8]) -> Result<usize, ImageError> {
        Err(Self::refused(&format!("{} needs ranges of it", Format::Qcow2)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_images_are_told_from_others() {
        let home = tempfile::tempdir().unwrap();
        assert!(is_packed(home.path().to_str().unwrap()));
        assert!(is_packed("oci:layout") && is_packed("https://h/a/manifest.json") && is_packed("http://h/manifest.json?key=1"));
        assert!(!is_packed("https://h/debian.raw.zst") && !is_packed("debian.raw") && !is_packed("-"));
        // Its manifest by its path: written to a disk as it is, it would be no system.
        let manifest = home.path().join("manifest.json");
        std::fs::write(&manifest, "{}").unwrap();
        assert!(!is_packed(manifest.to_str().unwrap()), "any file may have that name");
        std::fs::write(home.path().join("chunks"), "").unwrap();
        assert!(is_packed(manifest.to_str().unwrap()));
    }

    #[test]
    fn what_travels_needs_a_digest() {
        let bar = ProgressBar::hidden();
        for text in ["-", "https://h/image"] {
            let error = open_stored(text, &[], None, &bar).err().unwrap().to_string();
            assert!(error.contains("--digest"), "{error}");
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        std::fs::write(&path, "abc").unwrap();
        let stored = open_stored(path.to_str().unwrap(), &[], None, &bar).unwrap();
        assert_eq!(stored.digest, Digest::sha256_of(b"abc"));
    }
}
