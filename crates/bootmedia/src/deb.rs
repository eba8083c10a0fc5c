//! Reads Debian packages (`deb(5)`): an `ar` archive of `control.tar.*` and `data.tar.*`. Nothing is written to disk and no script is run.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use sha2::{Digest, Sha256};

/// Largest file that is taken out of a package.
const MAX_FILE: u64 = 256 << 20;
/// Largest control file.
const MAX_CONTROL: u64 = 1 << 20;

/// What names a package in the manifest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageId {
    /// `linux-image-6.1.0-56-amd64`.
    pub name: String,
    /// `6.1.192-2`.
    pub version: String,
    /// SHA-256 of the package file, lower-case hexadecimal.
    pub sha256: String,
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// Positions `file` at the member whose name starts with `prefix`; its full name and a reader of exactly its bytes.
fn member(file: &mut File, prefix: &str) -> io::Result<(String, io::Take<BufReader<File>>)> {
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    if &magic != b"!<arch>\n" {
        return Err(invalid("not a Debian package (no ar archive)"));
    }
    loop {
        let mut header = [0; 60];
        file.read_exact(&mut header)
            .map_err(|_| invalid(format!("the package has no {prefix}* member")))?;
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim).unwrap_or_default().to_owned();
        let name = text(0..16).trim_end_matches('/').to_owned();
        let size: u64 = text(48..58)
            .parse()
            .map_err(|_| invalid("an ar header of the package is damaged"))?;
        if header[58..] != *b"`\n" {
            return Err(invalid("an ar header of the package is damaged"));
        }
        if name.starts_with(prefix) {
            return Ok((name, BufReader::with_capacity(1 << 18, file.try_clone()?).take(size)));
        }
        let skip = i64::try_from(size + size % 2).map_err(|_| invalid("an ar header of the package is damaged"))?;
        file.seek(SeekFrom::Current(skip))?;
    }
}

fn decompressed(name: &str, reader: io::Take<BufReader<File>>) -> io::Result<Box<dyn Read>> {
    match name.rsplit('.').next() {
        Some("tar") => Ok(Box::new(reader)),
        Some("xz") => Ok(Box::new(liblzma::read::XzDecoder::new_parallel(reader))),
        Some("zst") => Ok(Box::new(zstd::stream::read::Decoder::new(reader)?)),
        _ => Err(invalid(format!(
            "{name}: compressed by a method this builder does not read; it reads xz and zst"
        ))),
    }
}

/// The package's name, version and digest.
///
/// # Errors
/// Those of reading, or [`io::ErrorKind::InvalidData`] for a file that is not a package.
pub fn identify(path: &Path) -> io::Result<PackageId> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    io::copy(&mut file, &mut DigestWriter(&mut digest))?;
    let (name, reader) = member(&mut file, "control.tar")?;
    let mut archive = tar::Archive::new(decompressed(&name, reader)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if entry.path()?.file_name().is_none_or(|n| n != "control") {
            continue;
        }
        let mut control = String::new();
        entry.by_ref().take(MAX_CONTROL).read_to_string(&mut control)?;
        let field = |key: &str| {
            control
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .map(|v| v.trim().to_owned())
                .ok_or_else(|| invalid(format!("the package's control file has no {key} field")))
        };
        return Ok(PackageId {
            name: field("Package:")?,
            version: field("Version:")?,
            sha256: hex::encode(digest.finalize()),
        });
    }
    Err(invalid("the package has no control file"))
}

struct DigestWriter<'a>(&'a mut Sha256);

impl io::Write for DigestWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One regular file or link of a package.
#[derive(Debug)]
pub enum Content {
    /// A file's bytes.
    File(Vec<u8>),
    /// Where a symbolic link points.
    Link(String),
}

/// Gives every file and link whose path (without leading `./` or `/`) `wanted` asks for to `take`.
///
/// # Errors
/// Those of reading, and of `take`.
pub fn files(path: &Path, wanted: impl Fn(&str) -> bool, mut take: impl FnMut(String, Content) -> io::Result<()>) -> io::Result<()> {
    let mut file = File::open(path)?;
    let (name, reader) = member(&mut file, "data.tar")?;
    let mut archive = tar::Archive::new(decompressed(&name, reader)?);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let inside = entry
            .path()?
            .to_string_lossy()
            .trim_start_matches("./")
            .trim_start_matches('/')
            .to_owned();
        if !wanted(&inside) {
            continue;
        }
        match entry.header().entry_type() {
            tar::EntryType::Regular => {
                let size = entry.size();
                if size > MAX_FILE {
                    return Err(invalid(format!("{inside} has {size} bytes, more than {MAX_FILE}")));
                }
                let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
                entry.read_to_end(&mut data)?;
                take(inside, Content::File(data))?;
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name()?.map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
                take(inside, Content::Link(target))?;
            }
            _ => {}
        }
    }
    Ok(())
}
