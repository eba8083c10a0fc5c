//! The file of frames while it is written.
//!
//! Frames come in any order and go into the file in the order of the disk, each once. A frame whose predecessors are not settled yet
//! waits in memory, within a bound; beyond it the order of the file is given up, and made good at the end by copying the frames once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::manifest::Chunk;

/// Most bytes of frames that wait for their turn.
const MOST_WAITING: usize = 32 << 20;
/// Bytes copied at once.
const COPY: usize = 1 << 20;

/// A compressed chunk.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) stored: blake3::Hash,
    pub(crate) plain: blake3::Hash,
}

/// See the module.
pub(crate) struct Frames {
    file: File,
    end: u64,
    /// Where each frame is, by its digest.
    places: HashMap<[u8; 32], u64>,
    chunks: BTreeMap<u32, Chunk>,
    /// The first chunk that is not settled, and settled ones after it.
    frontier: u32,
    settled: BTreeSet<u32>,
    waiting: BTreeMap<u32, Frame>,
    waiting_bytes: usize,
    in_order: bool,
}

impl Frames {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            end: 0,
            places: HashMap::new(),
            chunks: BTreeMap::new(),
            frontier: 0,
            settled: BTreeSet::new(),
            waiting: BTreeMap::new(),
            waiting_bytes: 0,
            in_order: true,
        }
    }

    /// Bytes in the file so far.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.end
    }

    /// Bytes that a copy in the right order will take for a while, where one will be needed.
    pub(crate) fn copy_bytes(&self) -> u64 {
        if self.in_order { 0 } else { self.end + self.waiting_bytes as u64 }
    }

    /// Takes chunk `index`; `None`: it is all zeros.
    pub(crate) fn settle(&mut self, index: u32, frame: Option<Frame>) -> io::Result<()> {
        if let Some(frame) = frame {
            self.waiting_bytes += frame.bytes.len();
            self.waiting.insert(index, frame);
        }
        self.settled.insert(index);
        while self.settled.remove(&self.frontier) {
            self.frontier += 1;
        }
        while let Some(entry) = self.waiting.first_entry() {
            if *entry.key() >= self.frontier && self.waiting_bytes <= MOST_WAITING {
                break;
            }
            let (index, frame) = entry.remove_entry();
            self.waiting_bytes -= frame.bytes.len();
            self.write(index, &frame)?;
        }
        Ok(())
    }

    fn write(&mut self, index: u32, frame: &Frame) -> io::Result<()> {
        let length = frame.bytes.len() as u32;
        let offset = match self.places.get(frame.stored.as_bytes()) {
            Some(offset) => *offset,
            None => {
                self.file.write_all_at(&frame.bytes, self.end)?;
                self.places.insert(frame.stored.into(), self.end);
                self.end += u64::from(length);
                self.end - u64::from(length)
            }
        };
        if self.chunks.last_key_value().is_some_and(|(last, _)| *last > index) {
            self.in_order = false;
        }
        let (stored, plain) = (frame.stored, frame.plain);
        let chunk = Chunk {
            index,
            offset,
            length,
            stored,
            plain,
        };
        self.chunks.insert(index, chunk);
        Ok(())
    }

    /// Everything has come. Gives the chunks, and the file they are in: `again` makes a new one where the order had to be given up.
    pub(crate) fn finish(mut self, again: impl FnOnce() -> io::Result<File>) -> io::Result<(Vec<Chunk>, File)> {
        while let Some((index, frame)) = self.waiting.pop_first() {
            self.write(index, &frame)?;
        }
        if self.in_order {
            return Ok((self.chunks.into_values().collect(), self.file));
        }
        let sorted = again()?;
        let (mut end, mut places) = (0, HashMap::new());
        let mut chunks = Vec::with_capacity(self.chunks.len());
        let mut buffer = vec![0; COPY];
        for mut chunk in self.chunks.into_values() {
            if let Some(offset) = places.get(&chunk.offset) {
                chunk.offset = *offset;
            } else {
                let (from, to) = (chunk.offset, end);
                let mut done = 0;
                while done < chunk.length as usize {
                    let count = buffer.len().min(chunk.length as usize - done);
                    self.file.read_exact_at(&mut buffer[..count], from + done as u64)?;
                    sorted.write_all_at(&buffer[..count], to + done as u64)?;
                    done += count;
                }
                places.insert(from, to);
                chunk.offset = to;
                end += u64::from(chunk.length);
            }
            chunks.push(chunk);
        }
        Ok((chunks, sorted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seed: u8, length: usize) -> Frame {
        let bytes = vec![seed; length];
        let stored = blake3::hash(&bytes);
        Frame {
            bytes,
            stored,
            plain: stored,
        }
    }

    /// Settles in this order, and gives the places and the file.
    fn run(order: &[(u32, Option<(u8, usize)>)]) -> (Vec<(u32, u64, u32)>, Vec<u8>, bool) {
        let mut frames = Frames::new(tempfile::tempfile().unwrap());
        for &(index, content) in order {
            frames.settle(index, content.map(|(seed, length)| frame(seed, length))).unwrap();
        }
        let mut copied = false;
        let (chunks, file) = frames
            .finish(|| {
                copied = true;
                tempfile::tempfile()
            })
            .unwrap();
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let places = chunks.iter().map(|chunk| (chunk.index, chunk.offset, chunk.length)).collect();
        (places, bytes, copied)
    }

    #[test]
    fn the_order_of_coming_does_not_show() {
        let in_order = [
            (0, Some((1, 10))),
            (1, None),
            (2, Some((2, 20))),
            (3, Some((1, 10))),
            (4, Some((3, 5))),
        ];
        let expected = run(&in_order);
        assert_eq!(expected.0, [(0, 0, 10), (2, 10, 20), (3, 0, 10), (4, 30, 5)]);
        assert_eq!(expected.1.len(), 35);
        let mut backwards = in_order;
        backwards.reverse();
        assert_eq!(run(&backwards), expected);
    }

    #[test]
    fn beyond_the_bound_the_frames_are_sorted_in_the_end() {
        let big = MOST_WAITING / 2 + 1;
        let order = [
            (3, Some((3, big))),
            (4, Some((4, big))),
            (2, Some((3, big))),
            (1, Some((1, 7))),
            (0, None),
        ];
        let (places, bytes, copied) = run(&order);
        assert!(copied);
        let length = big as u32;
        assert_eq!(
            places,
            [(1, 0, 7), (2, 7, length), (3, 7, length), (4, 7 + u64::from(length), length)]
        );
        assert!(bytes.len() == 7 + 2 * big && bytes[..7] == [1; 7] && bytes[7] == 3 && bytes[7 + big] == 4);
    }
}
