//! Sources at hand: a file, and bytes in memory.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Source;
use crate::error::ImageError;

/// A regular file. For tools and tests: orders name URLs, and a `file:` URL is none that [`super::HttpSource`] takes.
pub struct FileSource {
    name: String,
    path: PathBuf,
    file: Arc<File>,
}

impl FileSource {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
        Ok(Self {
            name,
            path: path.to_owned(),
            file: Arc::new(file),
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn unreadable(name: &str, error: &io::Error) -> ImageError {
    ImageError::Unreachable {
        source_name: name.to_owned(),
        reason: error.to_string(),
    }
}

struct FileStream {
    name: String,
    file: Arc<File>,
    size: u64,
    position: u64,
}

impl Read for FileStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let want = buffer.len().min(usize::try_from(self.size - self.position).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..want], self.position)?;
        if count == 0 {
            let error = ImageError::Truncated {
                source_name: self.name.clone(),
                expected: self.size,
                actual: self.position,
            };
            return Err(error.into_io());
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&mut self) -> Result<Option<u64>, ImageError> {
        let metadata = self.file.metadata().map_err(|error| unreadable(&self.name, &error))?;
        Ok(Some(metadata.len()))
    }

    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError> {
        self.stream_from(0)
    }

    fn stream_from(&mut self, position: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let size = self.size()?.unwrap_or(0);
        Ok(Box::new(FileStream {
            name: self.name.clone(),
            file: Arc::clone(&self.file),
            size,
            position,
        }))
    }

    fn read_range(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(&self.name, &error)),
            }
        }
        Ok(filled)
    }
}

/// Bytes in memory.
#[derive(Clone)]
pub struct MemorySource {
    name: String,
    bytes: Arc<[u8]>,
}

impl MemorySource {
    /// A source named `name` of these bytes.
    pub fn new(name: &str, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self {
            name: name.to_owned(),
            bytes: bytes.into(),
        }
    }
}

impl Source for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&mut self) -> Result<Option<u64>, ImageError> {
        Ok(Some(self.bytes.len() as u64))
    }

    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError> {
        Ok(Box::new(Cursor::new(Arc::clone(&self.bytes))))
    }

    fn read_range(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ImageError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let count = buffer.len().min(self.bytes.len() - start);
        buffer[..count].copy_from_slice(&self.bytes[start..start + count]);
        Ok(count)
    }
}
