//! A folder that appears under its name only when everything is in it and durable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::output_error;
use crate::error::ImageError;

/// The folder while it is filled, as `NAME.partial`. Dropped before [`Self::finish`], it goes away with all that is in it.
pub(crate) struct NewFolder {
    target: PathBuf,
    partial: PathBuf,
    /// Locked, so that two attempts at the same name do not get into each other's way.
    lock: File,
    finished: bool,
}

impl NewFolder {
    pub(crate) fn begin(target: &Path) -> Result<Self, ImageError> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(output_error(target)(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it exists already; name a new one, or remove it first",
            )));
        }
        let Some(name) = target.file_name() else {
            return Err(output_error(target)(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it has no name of its own",
            )));
        };
        let mut partial = name.to_owned();
        partial.push(".partial");
        let partial = target.with_file_name(partial);
        let failed = output_error(&partial);
        let lock = fs::create_dir(&partial)
            .or_else(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(error),
            })
            .and_then(|()| File::open(&partial))
            .map_err(&failed)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => failed(io::Error::new(io::ErrorKind::ResourceBusy, "another process is at it")),
            error => failed(error.into()),
        })?;
        let new = Self {
            target: target.to_owned(),
            partial,
            lock,
            finished: false,
        };
        // What an attempt left that was interrupted.
        for entry in fs::read_dir(&new.partial).map_err(&failed)? {
            let path = entry.map_err(&failed)?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            }
            .map_err(&failed)?;
        }
        Ok(new)
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.partial.join(name)
    }

    pub(crate) fn create(&self, name: impl AsRef<Path>) -> Result<File, ImageError> {
        self.create_file(name.as_ref()).map_err(output_error(&self.path(name)))
    }

    fn create_file(&self, name: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create_new(true).open(self.path(name))
    }

    /// A new file in the place of one that is still open somewhere.
    pub(crate) fn replace(&self, name: &str) -> io::Result<File> {
        fs::remove_file(self.path(name))?;
        self.create_file(name.as_ref())
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), ImageError> {
        fs::rename(self.path(from), self.path(to)).map_err(output_error(&self.path(to)))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), ImageError> {
        fs::remove_file(self.path(name)).map_err(output_error(&self.path(name)))
    }

    /// Writes a file whole and durable.
    pub(crate) fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<(), ImageError> {
        let mut file = self.create(&name)?;
        file.write_all(bytes)
            .and_then(|()| file.sync_all())
            .map_err(output_error(&self.path(name)))
    }

    /// Gives the folder its name, durably.
    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        self.lock
            .sync_all()
            .and_then(|()| fs::rename(&self.partial, &self.target))
            .and_then(|()| {
                self.finished = true;
                let parent = match self.target.parent() {
                    Some(parent) if parent != Path::new("") => parent,
                    _ => Path::new("."),
                };
                File::open(parent)?.sync_all()
            })
            .map_err(output_error(&self.target))
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.partial)
        {
            tracing::warn!(path = %self.partial.display(), %error, "an unfinished folder stays; the next attempt removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_before_the_end() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("image");
        let names = || {
            let mut names: Vec<_> = fs::read_dir(home.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let new = NewFolder::begin(&target).unwrap();
        new.write("a", b"1").unwrap();
        assert_eq!(names(), ["image.partial"]);
        let error = NewFolder::begin(&target).err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(new);
        assert!(names().is_empty());

        // As a crash leaves it.
        fs::create_dir(home.path().join("image.partial")).unwrap();
        fs::write(home.path().join("image.partial/chunks"), "old").unwrap();
        let new = NewFolder::begin(&target).unwrap();
        new.write("a", b"1").unwrap();
        new.finish().unwrap();
        assert_eq!(names(), ["image"]);
        let within: Vec<_> = fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(within, ["a"]);
        let error = NewFolder::begin(&target).err().unwrap().to_string();
        assert!(error.contains("exists already"), "{error}");
    }
}
