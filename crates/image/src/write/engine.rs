//! The threads between extents and the medium: several writes in flight, and reading back while writing still goes on.
//!
//! Every range that was written leaves a [`Receipt`]: what must be read there. Receipts are *fresh* until a flush that began after their
//! write has succeeded, then *durable*; only durable ones are read back and compared. A flush comes after each
//! [`Tuning::segment_bytes`], so that a power cut costs little and reading back can begin early; while one is under way, less than another
//! segment of a packed image is written behind it, however long the disk takes. [`Engine::finish`] returns once everything was written, flushed, read back
//! and compared, or with the first fault.
//!
//! It does not know formats, and it writes nothing at the first bytes of the disk, which it only collects for their turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::chunks::{Chunks, Scratch};
use super::plan::FIRST_BYTES;
use crate::block::{Block, Pool};
use crate::device::{AlignedBuffer, Checked, ZeroMethod, is_zero};
use crate::error::{DiskOperation, ImageError};

/// Bytes read back at once.
const READ_BACK: usize = 1 << 20;
/// Shorter runs of zeros are written as data: a command costs more.
pub(crate) const LEAST_ZERO_RUN: usize = 64 * 1024;
/// Zeros are told from data in pieces of at least this.
const ZERO_UNIT: usize = 4096;
/// Longest range that one thread zeroes, or reads back, at once.
const ZERO_PIECE: u64 = 16 << 20;
/// Runs of zeros that may wait for their neighbours.
const MOST_ZERO_RUNS: usize = 1024;
/// Receipts that may wait; more force a flush and their reading back.
const MOST_RECEIPTS: usize = 1 << 17;

/// How hard the writer tries. What is left out is chosen by the machine and the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning {
    /// Threads that write and read back.
    pub workers: Option<usize>,
    /// Bytes after which what was written is made durable.
    pub segment_bytes: Option<u64>,
    /// Whether reading back may begin before everything is written. Not where a head has to move.
    pub overlap: Option<bool>,
}

/// What must be read at a range.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    Zeros,
    /// The first half of the BLAKE3 digest.
    Bytes([u8; 16]),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) content: Content,
}

/// The part of a digest that a receipt keeps: it guards against a disk that loses, swaps or damages writes, not against an adversary.
fn short_digest(bytes: &[u8]) -> [u8; 16] {
    short_of(&blake3::hash(bytes))
}

/// The same part of a digest that is known.
pub(crate) fn short_of(digest: &blake3::Hash) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&digest.as_bytes()[..16]);
    short
}

/// One value over all ranges of data, whatever the order they are taken in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(u128);

impl Sum {
    fn add(&mut self, offset: u64, digest: [u8; 16]) {
        // Odd and made of the place, so that swapped ranges do not cancel out.
        let place = u128::from(offset) * 2 + 1;
        self.0 = self.0.wrapping_add(u128::from_le_bytes(digest).wrapping_mul(place));
    }

    pub(crate) fn text(self) -> String {
        format!("blake3-sum:{:032x}", self.0)
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) written: u64,
    pub(crate) zeroed: u64,
    pub(crate) verified: u64,
    /// Ranges that held the right bytes already.
    pub(crate) reused: u64,
    /// Bytes of the image taken care of.
    pub(crate) covered: u64,
    pub(crate) written_sum: Sum,
    pub(crate) read_sum: Sum,
}

enum Input {
    Block(u64, Block),
    Zero(Range<u64>),
    /// Chunks of the packed image to be compared with the disk.
    Span(Range<usize>),
    /// A frame of the packed image, with its place in the manifest's list.
    Frame(usize, Bytes),
}

enum Task {
    Input(Input),
    Flush(Vec<Receipt>),
    Verify(Receipt),
}

#[derive(Default)]
struct State {
    inputs: VecDeque<Input>,
    /// Frames of the packed image. They go before the inputs: behind them waits the wire.
    frames: VecDeque<(usize, Bytes)>,
    frame_bytes: usize,
    /// Whether more inputs may come.
    open: bool,
    /// Zeros that wait for their neighbours: start to end.
    zeros: BTreeMap<u64, u64>,
    writing: usize,
    fresh: Vec<Receipt>,
    fresh_bytes: u64,
    flushing: bool,
    durable: VecDeque<Receipt>,
    verifying: usize,
    unflushed: bool,
    finished: bool,
    failure: Option<ImageError>,
    totals: Totals,
    head: Vec<u8>,
}

impl State {
    fn is_written(&self) -> bool {
        !self.open && self.frames.is_empty() && self.inputs.is_empty() && self.writing == 0
    }

    fn take_input(&mut self) -> Option<Input> {
        match self.frames.pop_front() {
            Some((place, frame)) => {
                self.frame_bytes -= frame.len();
                Some(Input::Frame(place, frame))
            }
            None => self.inputs.pop_front(),
        }
    }
}

pub(crate) struct Settings {
    pub(crate) zero_method: ZeroMethod,
    /// Part of the image that is not written: its own backup table.
    pub(crate) left_out: Option<Range<u64>>,
    /// Bytes that are going to be written, where that is known.
    pub(crate) expected: Option<u64>,
    pub(crate) tuning: Tuning,
}

pub(crate) struct Engine<'a> {
    disk: Checked<'a>,
    sector: usize,
    zero_method: ZeroMethod,
    left_out: Range<u64>,
    segment: u64,
    overlap: bool,
    pub(crate) workers: usize,
    pub(crate) pool: Pool,
    chunks: Option<Chunks<'a>>,
    /// Bytes of frames that may wait; beyond it whoever brings them does.
    most_waiting: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A flush makes this part of the image durable, one in so many. A cut at any moment may cost one segment, and what was written while it
/// was being flushed: 3 % in all.
const SEGMENT_PART: u64 = 64;
/// Bytes between two flushes at most, ...
const MOST_SEGMENT: u64 = 512 << 20;
/// ... at least where a cut costs the whole anyway, ...
const LEAST_SEGMENT: u64 = 16 << 20;
/// ... and at least where what is durable need not be fetched again: small images have as many flushes as large ones.
const LEAST_SEGMENT_RESUMED: u64 = 2 << 20;

impl<'a> Engine<'a> {
    pub(crate) fn new(disk: Checked<'a>, settings: Settings, chunks: Option<Chunks<'a>>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let part = settings.expected.unwrap_or(256 << 20) / SEGMENT_PART;
        let least = if chunks.is_some() { LEAST_SEGMENT_RESUMED } else { LEAST_SEGMENT };
        let mut workers = settings.tuning.workers.unwrap_or((2 * cores).clamp(4, 16)).max(1);
        if let Some(chunks) = &chunks {
            workers = workers.min(chunks.most_workers());
        }
        let state = State {
            open: true,
            unflushed: true,
            head: vec![0; FIRST_BYTES],
            ..State::default()
        };
        Self {
            disk,
            sector: disk.0.sector_size() as usize,
            zero_method: settings.zero_method,
            left_out: settings.left_out.unwrap_or(0..0),
            segment: settings.tuning.segment_bytes.unwrap_or(part.clamp(least, MOST_SEGMENT)),
            overlap: settings.tuning.overlap.unwrap_or(!disk.0.is_rotational()),
            workers,
            pool: Pool::new(16 + workers),
            most_waiting: chunks.as_ref().map_or(0, Chunks::most_waiting),
            chunks,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stored bytes of a packed image that came.
    pub(crate) fn fetched(&self) -> u64 {
        self.chunks.as_ref().map_or(0, Chunks::fetched)
    }

    pub(crate) fn disk(&self) -> Checked<'a> {
        self.disk
    }

    /// Bytes to be written at an offset.
    pub(crate) fn put(&self, offset: u64, block: Block) -> Result<(), ImageError> {
        self.input(Input::Block(offset, block))
    }

    /// Chunks of the packed image, to be compared with the disk.
    pub(crate) fn put_span(&self, span: Range<usize>) -> Result<(), ImageError> {
        self.input(Input::Span(span))
    }

    /// A frame to be decoded and written, waiting while many do.
    pub(crate) fn put_frame(&self, place: usize, frame: Bytes) -> Result<(), ImageError> {
        let crowded = |state: &mut State| state.failure.is_none() && state.frame_bytes >= self.most_waiting;
        let waited = self.changed.wait_while(self.state(), crowded);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_some() {
            return Err(ImageError::Cancelled);
        }
        state.frame_bytes += frame.len();
        state.frames.push_back((place, frame));
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    fn input(&self, input: Input) -> Result<(), ImageError> {
        let mut state = self.state();
        if state.failure.is_some() {
            return Err(ImageError::Cancelled);
        }
        state.inputs.push_back(input);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// A range that must read as zeros.
    pub(crate) fn zero(&self, offset: u64, length: u64) -> Result<(), ImageError> {
        let start = offset.max(FIRST_BYTES as u64);
        let end = (offset + length).next_multiple_of(self.sector as u64);
        if start >= end {
            return Ok(());
        }
        let mut state = self.state();
        if state.failure.is_some() {
            return Err(ImageError::Cancelled);
        }
        let (mut from, mut to) = (start, end);
        if let Some((&before, &before_end)) = state.zeros.range(..=from).next_back()
            && before_end >= from
        {
            state.zeros.remove(&before);
            (from, to) = (before, to.max(before_end));
        }
        if let Some(after_end) = state.zeros.remove(&to) {
            to = after_end;
        }
        // Ranges begin and end on the same grid, so that neighbours that come later still join.
        while to - from >= 2 * ZERO_PIECE {
            state.inputs.push_back(Input::Zero(from..from + ZERO_PIECE));
            from += ZERO_PIECE;
        }
        state.zeros.insert(from, to);
        if state.zeros.len() > MOST_ZERO_RUNS {
            release_zeros(&mut state);
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Adds to what of the image is taken care of.
    pub(crate) fn covered(&self, bytes: u64) {
        self.state().totals.covered += bytes;
    }

    /// No more inputs come.
    pub(crate) fn close(&self) {
        self.state().open = false;
        self.changed.notify_all();
    }

    /// The first fault counts; everybody stops.
    pub(crate) fn fail(&self, error: ImageError) {
        self.state().failure.get_or_insert(error);
        self.pool.close();
        self.changed.notify_all();
    }

    pub(crate) fn totals(&self) -> Totals {
        self.state().totals
    }

    /// Whether all inputs were written, so that only reading back is left.
    pub(crate) fn is_written(&self) -> bool {
        let state = self.state();
        state.is_written()
    }

    /// Waits for a while, or until everything is done or failed, and says whether it is.
    pub(crate) fn wait(&self, longest: Duration) -> bool {
        let ended = |state: &mut State| !state.finished && state.failure.is_none();
        let (state, _) = self
            .changed
            .wait_timeout_while(self.state(), longest, ended)
            .unwrap_or_else(PoisonError::into_inner);
        state.finished || state.failure.is_some()
    }

    /// What came of it, with the first bytes of the image.
    pub(crate) fn finish(self) -> Result<(Totals, Vec<u8>), ImageError> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failure {
            Some(failure) => Err(failure),
            None => Ok((state.totals, state.head)),
        }
    }

    /// Works until everything is done or somebody failed.
    pub(crate) fn work(&self) {
        let _alarm = Alarm(self);
        let mut scratch = Scratch::default();
        let mut buffer = AlignedBuffer::zeroed(READ_BACK);
        while let Some(task) = self.next() {
            let was_input = matches!(task, Task::Input(_));
            let was_verify = matches!(task, Task::Verify(_));
            let done = match task {
                Task::Input(Input::Block(offset, mut block)) => self.write_block(offset, &mut block),
                Task::Input(Input::Zero(range)) => self.write_zeros(range),
                Task::Input(Input::Span(span)) => self.compare_span(span, &mut scratch),
                Task::Input(Input::Frame(place, frame)) => self.write_frame(place, &frame, &mut scratch),
                Task::Flush(receipts) => self.flush(receipts),
                Task::Verify(receipt) => self.verify(receipt, &mut buffer),
            };
            {
                let mut state = self.state();
                state.writing -= usize::from(was_input);
                state.verifying -= usize::from(was_verify);
            }
            if let Err(error) = done {
                self.fail(error);
            }
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.state();
        loop {
            if state.finished || state.failure.is_some() {
                return None;
            }
            let crowded = state.fresh.len() + state.durable.len() >= MOST_RECEIPTS;
            if !state.flushing && (state.fresh_bytes >= self.segment || (crowded && !state.fresh.is_empty())) {
                return Some(begin_flush(&mut state));
            }
            let written = state.is_written();
            // Reading back has its share of the threads from the start: of a packed image half of them; of a stream, whose decoder waits for its blocks to be
            // written, one, unless receipts pile up.
            let share = if self.chunks.is_some() { self.workers.div_ceil(2) } else { 1 };
            let its_turn = crowded || (self.overlap && state.verifying < share);
            if its_turn && let Some(receipt) = state.durable.pop_front() {
                state.verifying += 1;
                return Some(Task::Verify(receipt));
            }
            // Of a stream a cut costs the whole anyway.
            let ahead_of_the_flush = self.chunks.is_some() && state.flushing && state.fresh_bytes >= self.segment - self.segment / 8;
            if !ahead_of_the_flush && let Some(input) = state.take_input() {
                state.writing += 1;
                if matches!(input, Input::Frame(..)) {
                    self.changed.notify_all();
                }
                return Some(Task::Input(input));
            }
            if (self.overlap || written)
                && let Some(receipt) = state.durable.pop_front()
            {
                state.verifying += 1;
                return Some(Task::Verify(receipt));
            }
            if written && !state.zeros.is_empty() {
                release_zeros(&mut state);
                continue;
            }
            if written && !state.flushing {
                if state.unflushed || !state.fresh.is_empty() {
                    return Some(begin_flush(&mut state));
                }
                if state.durable.is_empty() && state.verifying == 0 {
                    state.finished = true;
                    self.changed.notify_all();
                    return None;
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn flush(&self, receipts: Vec<Receipt>) -> Result<(), ImageError> {
        let done = self.disk.flush();
        let mut state = self.state();
        state.flushing = false;
        done?;
        state.durable.extend(receipts);
        Ok(())
    }

    /// Remembers what must be read back.
    pub(crate) fn receipt(&self, receipt: Receipt) {
        let mut state = self.state();
        state.fresh.push(receipt);
        state.unflushed = true;
        match receipt.content {
            // Zeros that are lost in a power cut cost no fetching again.
            Content::Zeros => state.totals.zeroed += receipt.length,
            Content::Bytes(digest) => {
                state.fresh_bytes += receipt.length;
                state.totals.written += receipt.length;
                state.totals.written_sum.add(receipt.offset, digest);
            }
        }
    }

    /// A range that was read and found to hold what it must. Nothing is to be written there.
    pub(crate) fn reused(&self, offset: u64, length: u64, digest: [u8; 16]) {
        let mut state = self.state();
        state.totals.reused += length;
        state.totals.verified += length;
        state.totals.written_sum.add(offset, digest);
        state.totals.read_sum.add(offset, digest);
    }

    pub(crate) fn verified(&self, bytes: u64) {
        self.state().totals.verified += bytes;
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<(), ImageError> {
        let length = range.end - range.start;
        if self.chunks.as_ref().is_some_and(Chunks::compares) && self.reads_as_zeros(&range)? {
            self.verified(length);
            return Ok(());
        }
        let method = if length < LEAST_ZERO_RUN as u64 {
            ZeroMethod::Write
        } else {
            self.zero_method
        };
        self.disk.zero(range.start, length, method)?;
        self.receipt(Receipt {
            offset: range.start,
            length,
            content: Content::Zeros,
        });
        Ok(())
    }

    fn reads_as_zeros(&self, range: &Range<u64>) -> Result<bool, ImageError> {
        let length = range.end - range.start;
        crate::device::reads_as_zeros(self.disk.0, range.start, length).map_err(self.disk.fault(DiskOperation::Read, range.start))
    }

    fn write_block(&self, offset: u64, block: &mut Block) -> Result<(), ImageError> {
        let length = block.len();
        let padded = length.next_multiple_of(self.sector);
        // Only the end of an image is no whole sector; what follows it in that sector is nobody's.
        block.room()[length..padded].fill(0);
        block.set_len(padded);
        self.write_bytes(offset, block, None)?;
        self.covered(length as u64);
        Ok(())
    }

    /// Whether [`Self::write_bytes`] writes all of this, and in one piece.
    pub(crate) fn writes_in_one_piece(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        if offset < FIRST_BYTES as u64 || (self.left_out.start < end && offset < self.left_out.end) {
            return false;
        }
        let (mut zeros, mut data) = (0, false);
        let short = bytes.chunks(ZERO_UNIT.max(self.sector)).all(|part| {
            zeros = if is_zero(part) { zeros + part.len() } else { 0 };
            data |= zeros == 0;
            zeros < LEAST_ZERO_RUN
        });
        short && data
    }

    /// Writes whole sectors, without the first bytes of the disk and what is left out, and with longer runs of zeros as such. `whole` is
    /// the digest of all the bytes, if it is known: what is written in one piece need not be digested again.
    pub(crate) fn write_bytes(&self, offset: u64, bytes: &mut [u8], whole: Option<[u8; 16]>) -> Result<(), ImageError> {
        let length = bytes.len();
        let mut changed = false;
        let end = offset + bytes.len() as u64;
        let mut from = 0;
        if offset < FIRST_BYTES as u64 {
            let start = offset as usize;
            from = bytes.len().min(FIRST_BYTES - start);
            self.state().head[start..start + from].copy_from_slice(&bytes[..from]);
        }
        if self.left_out.start < end && offset < self.left_out.end {
            let hole = self.left_out.start.saturating_sub(offset) as usize..(self.left_out.end.min(end) - offset) as usize;
            bytes[hole].fill(0);
            changed = true;
        }
        let known = |run: &Range<usize>| whole.filter(|_| !changed && *run == (0..length));
        let unit = ZERO_UNIT.max(self.sector);
        // Start of the run of data, and of the run of zeros that may follow it.
        let (mut data_from, mut zeros_from) = (from, None);
        let mut at = from;
        while at <= bytes.len() {
            let next = bytes.len().min(at + unit);
            if at < bytes.len() && is_zero(&bytes[at..next]) {
                zeros_from.get_or_insert(at);
            } else if let Some(zeros) = zeros_from.take()
                && (at - zeros >= LEAST_ZERO_RUN || (at - zeros) == bytes.len() - from)
            {
                self.write_run(offset, bytes, data_from..zeros, known(&(data_from..zeros)))?;
                self.zero(offset + zeros as u64, (at - zeros) as u64)?;
                data_from = at;
            }
            if at == bytes.len() {
                break;
            }
            at = next;
        }
        self.write_run(offset, bytes, data_from..length, known(&(data_from..length)))
    }

    /// Writes a part of `bytes`, which belong at `offset`.
    fn write_run(&self, offset: u64, bytes: &[u8], part: Range<usize>, known: Option<[u8; 16]>) -> Result<(), ImageError> {
        let at = offset + part.start as u64;
        let bytes = &bytes[part];
        if bytes.is_empty() {
            return Ok(());
        }
        self.disk.write(at, bytes)?;
        self.receipt(Receipt {
            offset: at,
            length: bytes.len() as u64,
            content: Content::Bytes(known.unwrap_or_else(|| short_digest(bytes))),
        });
        Ok(())
    }

    fn compare_span(&self, span: Range<usize>, scratch: &mut Scratch) -> Result<(), ImageError> {
        match &self.chunks {
            Some(chunks) => chunks.compare_span(self, span, scratch),
            None => Ok(()),
        }
    }

    fn write_frame(&self, place: usize, frame: &[u8], scratch: &mut Scratch) -> Result<(), ImageError> {
        match &self.chunks {
            Some(chunks) => chunks.write_frame(self, place, frame, scratch),
            None => Ok(()),
        }
    }

    fn verify(&self, receipt: Receipt, buffer: &mut AlignedBuffer) -> Result<(), ImageError> {
        let end = receipt.offset + receipt.length;
        let mut hasher = blake3::Hasher::new();
        let mut at = receipt.offset;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(READ_BACK);
            let read = &mut buffer[..count];
            self.disk.read(at, read)?;
            match receipt.content {
                Content::Zeros if !is_zero(read) => return Err(self.mismatch(at, at + count as u64, "a range of zeros")),
                Content::Zeros => {}
                Content::Bytes(_) => {
                    hasher.update(read);
                }
            }
            at += count as u64;
            self.verified(count as u64);
        }
        if let Content::Bytes(expected) = receipt.content {
            let found = short_of(&hasher.finalize());
            if found != expected {
                if let Some(chunks) = &self.chunks {
                    chunks.judge(receipt.offset)?;
                }
                return Err(self.mismatch(receipt.offset, end, "image data"));
            }
            self.state().totals.read_sum.add(receipt.offset, found);
        }
        Ok(())
    }

    pub(crate) fn mismatch(&self, offset: u64, end: u64, what: &'static str) -> ImageError {
        ImageError::VerifyMismatch {
            disk: self.disk.0.name().to_owned(),
            offset,
            end,
            what,
        }
    }
}

/// A thread that panics must not leave the others waiting for it.
pub(crate) struct Alarm<'e, 'a>(pub(crate) &'e Engine<'a>);

impl Drop for Alarm<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(ImageError::Cancelled);
        }
    }
}

fn release_zeros(state: &mut State) {
    for (from, to) in std::mem::take(&mut state.zeros) {
        let mut at = from;
        while at < to {
            let end = to.min(at + ZERO_PIECE);
            state.inputs.push_back(Input::Zero(at..end));
            at = end;
        }
    }
}

fn begin_flush(state: &mut State) -> Task {
    state.flushing = true;
    state.unflushed = false;
    state.fresh_bytes = 0;
    Task::Flush(std::mem::take(&mut state.fresh))
}
