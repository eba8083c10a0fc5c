//! Several places for the same content: when one fails, the next goes on where it stopped.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Client, HttpLimits, HttpSource, Source, source_error};
use crate::error::{FaultKind, ImageError};

/// Sources of the same stored bytes, in order of preference. Each has its own retries; one that has failed is not asked again. That they
/// hold the same bytes is not taken on trust: the image's digest is over what came, from wherever.
pub struct FallbackSource {
    name: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// Those that have not failed, the present one last.
    left: Mutex<Vec<Box<dyn Source>>>,
}

impl Shared {
    fn left(&self) -> MutexGuard<'_, Vec<Box<dyn Source>>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the present source, and the next one whenever that fails. The last one's fault is the one that is told.
    fn ask<T>(&self, mut ask: impl FnMut(&mut dyn Source) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let mut left = self.left();
        loop {
            let Some(source) = left.last_mut() else {
                return Err(Self::nothing_left());
            };
            match ask(source.as_mut()) {
                Ok(value) => return Ok(value),
                Err(error) => Self::give_up(&mut left, error)?,
            }
        }
    }

    fn give_up(left: &mut Vec<Box<dyn Source>>, error: ImageError) -> Result<(), ImageError> {
        // To stop is no fault of the source.
        if left.len() < 2 || error.kind() == FaultKind::Cancelled {
            return Err(error);
        }
        left.pop();
        let next = left.last().map_or("", |source| source.name());
        tracing::warn!(%error, next, "image source failed, going on with another one");
        Ok(())
    }

    fn nothing_left() -> ImageError {
        ImageError::Unreachable {
            source_name: "the image".to_owned(),
            reason: "no source was given".to_owned(),
        }
    }
}

/// How often one of several servers is tried again in a row before the next one is asked.
const PATIENCE: u32 = 1;

impl FallbackSource {
    /// The same file at several URLs, each reached by its client. While there are others, a server is given up sooner than `limits` say; the last one has all the patience that they give.
    pub fn of_urls(places: Vec<(Client, &str)>, limits: &HttpLimits) -> Result<Self, ImageError> {
        let last = places.len().saturating_sub(1);
        let sources = places.into_iter().enumerate().map(|(number, (client, url))| {
            let limits = HttpLimits {
                max_retries: if number == last {
                    limits.max_retries
                } else {
                    PATIENCE.min(limits.max_retries)
                },
                ..limits.clone()
            };
            HttpSource::new(client, url, limits).map(|source| Box::new(source) as Box<dyn Source>)
        });
        Self::new(sources.collect::<Result<_, _>>()?)
    }

    /// The first is asked first.
    pub fn new(sources: Vec<Box<dyn Source>>) -> Result<Self, ImageError> {
        let name = sources.first().ok_or_else(Shared::nothing_left)?.name().to_owned();
        let left = sources.into_iter().rev().collect();
        Ok(Self {
            name,
            shared: Arc::new(Shared { left: Mutex::new(left) }),
        })
    }
}

impl Source for FallbackSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&mut self) -> Result<Option<u64>, ImageError> {
        self.shared.ask(|source| source.size())
    }

    fn stream(&mut self) -> Result<Box<dyn Read + Send>, ImageError> {
        self.stream_from(0)
    }

    fn stream_from(&mut self, position: u64) -> Result<Box<dyn Read + Send>, ImageError> {
        let present = self.shared.ask(|source| source.stream_from(position))?;
        Ok(Box::new(FallbackStream {
            name: self.name.clone(),
            shared: Arc::clone(&self.shared),
            present,
            position,
        }))
    }

    fn read_range(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, ImageError> {
        self.shared.ask(|source| source.read_range(offset, buffer))
    }
}

struct FallbackStream {
    name: String,
    shared: Arc<Shared>,
    present: Box<dyn Read + Send>,
    position: u64,
}

impl Read for FallbackStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let error = match self.present.read(buffer) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => source_error(&self.name, error),
            };
            Shared::give_up(&mut self.shared.left(), error).map_err(ImageError::into_io)?;
            let next = self.shared.ask(|source| source.stream_from(self.position));
            self.present = next.map_err(ImageError::into_io)?;
        }
    }
}
