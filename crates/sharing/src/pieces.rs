//! Pieces: the chunks of a packed image by their place in the manifest's list, and sets of them.
//!
//! A set has one spelling in bytes, which is the shorter of a bitmap and a list of runs; anything else is refused. So what a machine says
//! costs at most [`MAX_SET_BYTES`], and mostly far less: nothing or everything is 4 bytes.

use std::ops::Range;

/// Most pieces of an image: as many chunks as a packed image may have.
pub const MAX_PIECES: u32 = 65_536;
/// Most bytes of a set.
pub const MAX_SET_BYTES: usize = MAX_PIECES as usize / 8 + 4;

/// First byte of a set that is spelled as a bitmap.
const BITMAP: u8 = 0;
/// First byte of a set that is spelled as lengths of runs: absent ones, present ones, absent ones and so on.
const RUNS: u8 = 1;

/// Why bytes are no set of pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PieceSetError {
    /// Too short, too long, or numbers that do not end.
    #[error("a set of pieces is cut short or goes on after its end")]
    Length,
    /// A count of pieces that no image has.
    #[error("a set of pieces speaks of {0} pieces, and no image has more than {MAX_PIECES}")]
    Count(u64),
    /// Not the spelling that [`PieceSet::to_bytes`] gives.
    #[error("a set of pieces is not spelled in the one way that is valid")]
    Spelling,
}

/// A set of the pieces `0..count` of an image.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceSet {
    count: u32,
    held: u32,
    words: Vec<u64>,
}

impl std::fmt::Debug for PieceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} pieces", self.held, self.count)
    }
}

impl PieceSet {
    /// None of `count` pieces; more than [`MAX_PIECES`] are not kept.
    pub fn none(count: u32) -> Self {
        let count = count.min(MAX_PIECES);
        Self {
            count,
            held: 0,
            words: vec![0; count.div_ceil(64) as usize],
        }
    }

    /// All of `count` pieces; more than [`MAX_PIECES`] are not kept.
    pub fn all(count: u32) -> Self {
        let mut set = Self::none(count);
        set.insert_range(0..set.count);
        set
    }

    /// How many pieces the image has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many of them are in the set.
    pub fn len(&self) -> u32 {
        self.held
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Whether all are.
    pub fn is_full(&self) -> bool {
        self.held == self.count
    }

    /// Whether this one is.
    pub fn contains(&self, piece: u32) -> bool {
        piece < self.count && self.words[(piece / 64) as usize] >> (piece % 64) & 1 == 1
    }

    /// Adds a piece; whether it is new. A piece that the image does not have changes nothing.
    pub fn insert(&mut self, piece: u32) -> bool {
        let new = piece < self.count && !self.contains(piece);
        if new {
            self.words[(piece / 64) as usize] |= 1 << (piece % 64);
            self.held += 1;
        }
        new
    }

    /// Adds those of a range.
    pub fn insert_range(&mut self, pieces: Range<u32>) {
        for piece in pieces {
            self.insert(piece);
        }
    }

    /// Takes a piece away; whether it was there.
    pub fn remove(&mut self, piece: u32) -> bool {
        let there = self.contains(piece);
        if there {
            self.words[(piece / 64) as usize] &= !(1 << (piece % 64));
            self.held -= 1;
        }
        there
    }

    /// Adds those of another set of the same image.
    pub fn add(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        self.held = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// The pieces in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| bits(at, word))
    }

    /// The pieces that are in this set and in the other, in ascending order.
    pub fn both<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        self.words
            .iter()
            .zip(&other.words)
            .enumerate()
            .flat_map(|(at, (&a, &b))| bits(at, a & b))
    }

    /// The pieces that are in this set and not in the other, in ascending order.
    pub fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let beyond = std::iter::repeat_n(&0, self.words.len().saturating_sub(other.words.len()));
        self.words
            .iter()
            .zip(other.words.iter().chain(beyond))
            .enumerate()
            .flat_map(|(at, (&a, &b))| bits(at, a & !b))
    }

    /// Whether a piece is in both.
    pub fn meets(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(a, b)| a & b != 0)
    }

    /// The runs of neighbours, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = (at..self.count).find(|&piece| self.contains(piece))?;
            let end = (start..self.count).find(|&piece| !self.contains(piece)).unwrap_or(self.count);
            at = end;
            Some(start..end)
        })
    }

    /// Its one spelling in bytes, at most [`MAX_SET_BYTES`].
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bitmap = vec![BITMAP];
        put(&mut bitmap, self.count);
        let mut runs = vec![RUNS];
        put(&mut runs, self.count);
        bitmap.extend(
            self.words
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .take(self.count.div_ceil(8) as usize),
        );
        let mut end = 0;
        for run in self.runs() {
            put(&mut runs, run.start - end);
            put(&mut runs, run.end - run.start);
            end = run.end;
            if runs.len() >= bitmap.len() {
                return bitmap;
            }
        }
        if runs.len() < bitmap.len() { runs } else { bitmap }
    }

    /// Reads what [`PieceSet::to_bytes`] wrote. The caller compares [`PieceSet::count`] with the image's.
    ///
    /// # Errors
    /// Everything else is refused, other spellings of a set too.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PieceSetError> {
        if bytes.len() > MAX_SET_BYTES {
            return Err(PieceSetError::Length);
        }
        let (&kind, mut rest) = bytes.split_first().ok_or(PieceSetError::Length)?;
        let count = take(&mut rest)?;
        if count > MAX_PIECES.into() {
            return Err(PieceSetError::Count(count));
        }
        let mut set = Self::none(count as u32);
        match kind {
            BITMAP => {
                if rest.len() != set.count.div_ceil(8) as usize {
                    return Err(PieceSetError::Length);
                }
                for (at, &byte) in rest.iter().enumerate() {
                    set.words[at / 8] |= u64::from(byte) << (at % 8 * 8);
                }
                set.held = set.words.iter().map(|word| word.count_ones()).sum();
                let last = set.words.last().map_or(0, |word| 64 - word.leading_zeros());
                if last > 0 && (set.words.len() as u32 - 1) * 64 + last > set.count {
                    return Err(PieceSetError::Spelling);
                }
            }
            RUNS => {
                let mut at = 0;
                while !rest.is_empty() {
                    let start = at + take(&mut rest)?;
                    let end = start + take(&mut rest)?;
                    if end > count {
                        return Err(PieceSetError::Spelling);
                    }
                    set.insert_range(start as u32..end as u32);
                    at = end;
                }
            }
            _ => return Err(PieceSetError::Spelling),
        }
        if set.to_bytes() == bytes {
            Ok(set)
        } else {
            Err(PieceSetError::Spelling)
        }
    }
}

fn bits(at: usize, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        if bit == 64 {
            return None;
        }
        word &= word - 1;
        Some(at as u32 * 64 + bit)
    })
}

/// LEB128, which of 65,536 takes three bytes.
fn put(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Result<u64, PieceSetError> {
    let mut number = 0;
    for place in 0..3 {
        let (&byte, rest) = bytes.split_first().ok_or(PieceSetError::Length)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (place * 7);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(PieceSetError::Length)
}

/// Where the pieces of an image lie, and which are fetched together.
///
/// Pieces are cut into groups of neighbours of about the same size, in the same way by everybody. What is fetched at once never goes beyond
/// a group, so that machines do not end up with odd rests of each other's runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    lengths: Vec<u32>,
    /// Where each group begins, and the end of the last.
    groups: Vec<u32>,
    /// The group of each piece.
    group_of: Vec<u32>,
}

impl Layout {
    /// From each piece's place and length in bytes in the file of chunks, in order. A group has at most `group_bytes`, unless one piece alone has more,
    /// and its pieces lie one behind the other. Pieces beyond [`MAX_PIECES`] are left out: no valid image has them.
    pub fn new(pieces: impl IntoIterator<Item = (u64, u32)>, group_bytes: u64) -> Self {
        let mut layout = Self {
            lengths: Vec::new(),
            groups: vec![0],
            group_of: Vec::new(),
        };
        let (mut bytes, mut end) = (0, None);
        for (offset, length) in pieces.into_iter().take(MAX_PIECES as usize) {
            let place = layout.lengths.len() as u32;
            if place > 0 && (end != Some(offset) || bytes + u64::from(length) > group_bytes) {
                layout.groups.push(place);
                bytes = 0;
            }
            bytes += u64::from(length);
            end = offset.checked_add(length.into());
            layout.group_of.push(layout.groups.len() as u32 - 1);
            layout.lengths.push(length);
        }
        layout.groups.push(layout.lengths.len() as u32);
        layout
    }

    /// How many pieces there are.
    pub fn count(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// How many groups.
    pub fn group_count(&self) -> u32 {
        self.groups.len() as u32 - 1
    }

    /// The pieces of a group.
    pub fn group(&self, group: u32) -> Range<u32> {
        self.groups[group as usize]..self.groups[group as usize + 1]
    }

    /// The group of a piece.
    pub fn group_of(&self, piece: u32) -> u32 {
        self.group_of[piece as usize]
    }

    /// Bytes of some neighbours.
    pub fn bytes(&self, pieces: Range<u32>) -> u64 {
        self.lengths[pieces.start as usize..pieces.end as usize]
            .iter()
            .map(|&length| u64::from(length))
            .sum()
    }

    /// The longest run around a piece within its group in which every piece is one that `fits`.
    pub(crate) fn run_around(&self, piece: u32, fits: impl Fn(u32) -> bool) -> Range<u32> {
        let group = self.group(self.group_of(piece));
        let start = (group.start..piece).rev().take_while(|&piece| fits(piece)).last().unwrap_or(piece);
        let end = (piece + 1..group.end).take_while(|&piece| fits(piece)).last().unwrap_or(piece) + 1;
        start..end
    }
}
