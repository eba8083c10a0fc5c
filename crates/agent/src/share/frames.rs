//! The frames that this machine gives away: stored bytes as they came, checked against their digests, in memory.
//!
//! They are not on the disk, which holds plain bytes, and to compress those again would not give the same ones. So memory bounds what is given away: a
//! quarter of what was free when the order began. When that is used up the oldest frames go, which by then most others have.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use image::pack::Manifest;
use sharing::PieceSet;

/// One in so many parts of the memory that is free.
const PART: u64 = 4;

/// Bytes that frames may take: a part of what the kernel says is to be had.
pub fn most_bytes() -> u64 {
    available(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()) / PART
}

fn available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

struct State {
    /// By their offset in the file of chunks.
    frames: BTreeMap<u64, Bytes>,
    /// Offsets in the order in which they came.
    order: VecDeque<u64>,
    bytes: u64,
    /// The pieces that these are the frames of.
    held: PieceSet,
}

/// What [`Frames::keep`] changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Pieces that can be had here now.
    pub here: Vec<u32>,
    /// Pieces that cannot be had here any more.
    pub gone: Vec<u32>,
}

/// See the module.
pub struct Frames {
    most: u64,
    /// Offset and number of each piece, by offset: pieces that are alike have one frame.
    pieces: Vec<(u64, u32)>,
    state: Mutex<State>,
}

impl Frames {
    /// Of this image, at most so many bytes.
    pub fn new(manifest: &Manifest, most: u64) -> Self {
        let mut pieces: Vec<(u64, u32)> = manifest.chunks().iter().map(|chunk| chunk.offset).zip(0..).collect();
        pieces.sort_unstable();
        let state = State {
            frames: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            held: PieceSet::none(u32::try_from(pieces.len()).unwrap_or(u32::MAX)),
        };
        Self {
            most,
            pieces,
            state: Mutex::new(state),
        }
    }

    fn at(&self, offset: u64) -> impl Iterator<Item = u32> {
        let from = self.pieces.partition_point(|(at, _)| *at < offset);
        let rest = self.pieces.get(from..).unwrap_or_default();
        rest.iter().take_while(move |(at, _)| *at == offset).map(|(_, piece)| *piece)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a frame whose digest was checked; older ones may go for it.
    pub fn keep(&self, offset: u64, frame: Bytes) -> Changed {
        let mut changed = Changed::default();
        let length = frame.len() as u64;
        if length > self.most {
            return changed;
        }
        let mut state = self.state();
        if state.frames.insert(offset, frame).is_some() {
            return changed;
        }
        changed.here.extend(self.at(offset));
        changed.here.iter().for_each(|&piece| {
            state.held.insert(piece);
        });
        state.bytes += length;
        state.order.push_back(offset);
        while state.bytes > self.most
            && let Some(oldest) = state.order.pop_front()
        {
            state.bytes -= state.frames.remove(&oldest).map_or(0, |frame| frame.len() as u64);
            let before = changed.gone.len();
            changed.gone.extend(self.at(oldest));
            changed.gone[before..].iter().for_each(|&piece| {
                state.held.remove(piece);
            });
        }
        changed
    }

    /// The pieces that can be had here.
    pub fn held(&self) -> PieceSet {
        self.state().held.clone()
    }

    /// The frames that make up this part of the file of chunks, if all of them are here and nothing beside them is asked for.
    pub fn range(&self, start: u64, length: u64) -> Option<VecDeque<Bytes>> {
        let end = start.checked_add(length)?;
        let state = self.state();
        let (mut at, mut found) = (start, VecDeque::new());
        while at < end {
            let frame = state.frames.get(&at)?;
            at += frame.len() as u64;
            found.push_back(frame.clone());
        }
        (at == end && length > 0).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::pack::{Chunk, Origin, Packer};

    fn manifest(places: &[(u64, u32)]) -> Manifest {
        let digest = |offset: u64| blake3_of(offset);
        let chunks = (0..).zip(places).map(|(index, &(offset, length))| Chunk {
            index,
            offset,
            length,
            stored: digest(offset),
            plain: digest(offset + 1),
        });
        let origin = Origin {
            format: image::Format::Raw,
            digest: format!("sha256:{}", "0".repeat(64)),
        };
        let packer = Packer {
            zstd: "1.5.7".to_owned(),
            level: 1,
        };
        Manifest::new((places.len() as u64) << 16, 0, 1 << 16, origin, packer, chunks.collect()).unwrap()
    }

    fn blake3_of(number: u64) -> blake3::Hash {
        blake3::hash(&number.to_le_bytes())
    }

    fn frame(byte: u8, length: usize) -> Bytes {
        vec![byte; length].into()
    }

    #[test]
    fn only_whole_frames_are_given_and_the_oldest_go_first() {
        // The third chunk has the same frame as the first.
        let frames = Frames::new(&manifest(&[(0, 10), (10, 20), (0, 10), (30, 30)]), 50);
        frames.keep(10, frame(2, 20));
        assert_eq!(frames.held().iter().collect::<Vec<_>>(), [1]);
        frames.keep(0, frame(1, 10));
        assert_eq!(frames.held().iter().collect::<Vec<_>>(), [0, 1, 2]);
        let whole = frames.range(0, 30).unwrap();
        assert_eq!(whole.iter().map(Bytes::len).collect::<Vec<_>>(), [10, 20]);
        for (start, length) in [(0, 0), (0, 9), (1, 9), (0, 31), (10, 50), (30, 30), (u64::MAX, 2)] {
            assert_eq!(frames.range(start, length), None, "{start} {length}");
        }
        let changed = frames.keep(30, frame(3, 30));
        assert_eq!((changed.here, changed.gone), (vec![3], vec![1]));
        assert_eq!(
            frames.held().iter().collect::<Vec<_>>(),
            [0, 2, 3],
            "the bound holds, and the first that came went"
        );
        assert_eq!(frames.keep(30, frame(3, 30)), Changed::default(), "again");
        frames.keep(90, frame(9, 60));
        assert_eq!(frames.state().bytes, 40);
    }

    #[test]
    fn the_bound_is_a_part_of_what_is_free() {
        assert_eq!(available("MemTotal: 8 kB\nMemAvailable:    4096 kB\n"), 4 << 20);
        assert_eq!(available("nothing of the kind"), 0);
        assert!(most_bytes() > 0);
    }
}
