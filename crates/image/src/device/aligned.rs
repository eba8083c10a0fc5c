//! Memory aligned as direct I/O wants it, without unsafe code.

use std::ops::{Deref, DerefMut};

/// What every device is content with.
pub(crate) const ALIGNMENT: usize = 4096;

/// A buffer whose first byte is at a multiple of 4096.
pub struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// `length` zero bytes.
    pub fn zeroed(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let address = memory.as_ptr() as usize;
        let start = address.next_multiple_of(ALIGNMENT) - address;
        Self { memory, start, length }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

pub(crate) fn is_aligned(bytes: &[u8]) -> bool {
    (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT)
}
