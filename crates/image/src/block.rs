//! Buffers that travel from a decoder to the disk without being copied, out of a pool that bounds how many there are.
//!
//! A decoder that is faster than the disk waits in [`Pool::take`], which is all the back-pressure there is. A pool that was closed
//! (the write failed, or was cancelled) gives nothing any more, so that nobody waits for ever.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::device::AlignedBuffer;
use crate::error::ImageError;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 1 << 20;

struct Shared {
    state: Mutex<State>,
    returned: Condvar,
    most: usize,
}

struct State {
    free: Vec<AlignedBuffer>,
    made: usize,
    closed: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At most so many blocks; made when they are first needed.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool of `most` blocks.
    pub fn new(most: usize) -> Self {
        let state = State {
            free: Vec::new(),
            made: 0,
            closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                returned: Condvar::new(),
                most: most.max(1),
            }),
        }
    }

    /// A block of length 0, waiting until there is one. [`ImageError::Cancelled`] once the pool is closed.
    pub fn take(&self) -> Result<Block, ImageError> {
        let mut state = self.shared.state();
        let buffer = loop {
            if state.closed {
                return Err(ImageError::Cancelled);
            }
            if let Some(buffer) = state.free.pop() {
                break buffer;
            }
            if state.made < self.shared.most {
                state.made += 1;
                break AlignedBuffer::zeroed(BLOCK_BYTES);
            }
            state = self.shared.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        Ok(Block {
            buffer: Some(buffer),
            length: 0,
            home: Arc::clone(&self.shared),
        })
    }

    /// Whoever waits, or asks later, is refused.
    pub fn close(&self) {
        self.shared.state().closed = true;
        self.shared.returned.notify_all();
    }
}

/// Up to [`BLOCK_BYTES`] bytes at an address that direct I/O can use. It goes back to its pool when dropped.
pub struct Block {
    /// There until it is dropped.
    buffer: Option<AlignedBuffer>,
    length: usize,
    home: Arc<Shared>,
}

impl Block {
    /// All of its room, whatever its length. What is in it beyond the length is left over from earlier use.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }

    /// How many bytes of its room count; at most [`BLOCK_BYTES`].
    pub fn set_len(&mut self, length: usize) {
        self.length = length.min(BLOCK_BYTES);
    }

    /// Appends as much of `bytes` as there is room for and says how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let at = self.length;
        let count = bytes.len().min(BLOCK_BYTES - at);
        self.room()[at..at + count].copy_from_slice(&bytes[..count]);
        self.length += count;
        count
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().map_or(&[], |buffer| &buffer[..self.length])
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        let length = self.length;
        self.buffer.as_deref_mut().map_or(&mut [], |buffer| &mut buffer[..length])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.home.state().free.push(buffer);
            self.home.returned.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_bounded_and_come_back() {
        let pool = Pool::new(2);
        let (mut one, two) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!(one.append(&[7; 10]), 10);
        assert_eq!(&one[..], [7; 10]);
        std::thread::scope(|scope| {
            let third = scope.spawn(|| pool.take().map(|b| b.len()));
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!third.is_finished(), "there are only two");
            drop(two);
            assert_eq!(third.join().unwrap().unwrap(), 0);
        });
        assert_eq!(one.append(&vec![1; BLOCK_BYTES]), BLOCK_BYTES - 10);
    }

    #[test]
    fn a_closed_pool_lets_nobody_wait() {
        let pool = Pool::new(1);
        let held = pool.take().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.take().err());
            std::thread::sleep(std::time::Duration::from_millis(20));
            pool.close();
            assert!(matches!(waiting.join().unwrap(), Some(ImageError::Cancelled)));
        });
        drop(held);
        assert!(pool.take().is_err());
    }
}
