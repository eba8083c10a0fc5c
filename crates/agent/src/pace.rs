//! How fast a step goes and how long it still takes, from the progress that it reports.
//!
//! Over the last [`WINDOW`] of the step: a pause shows soon, and a burst does not promise an end that never comes. It keeps no clock of its own.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use agent_protocol::order::{Progress, Step};

/// Over so much time a rate is taken.
const WINDOW: Duration = Duration::from_secs(15);
/// Less than this says nothing.
const LEAST: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub struct Pace {
    step: Option<Step>,
    marks: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// The progress with rate and remaining time, where they are known.
    pub fn of(&mut self, progress: Progress, now: Instant) -> Progress {
        let done = progress.done_bytes;
        if self.step != Some(progress.step) || self.marks.back().is_some_and(|(_, before)| *before > done) {
            self.step = Some(progress.step);
            self.marks.clear();
        }
        self.marks.push_back((now, done));
        // One mark at or before the beginning of the window stays.
        while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.marks.pop_front();
        }
        let (at, before) = self.marks.front().copied().unwrap_or((now, done));
        let passed = now.duration_since(at);
        if passed < LEAST {
            return progress;
        }
        #[allow(clippy::cast_precision_loss)] // a rate for people
        let rate = ((done - before) as f64 / passed.as_secs_f64()) as u64;
        let left = progress.total_bytes.checked_sub(done).filter(|_| progress.total_bytes > 0);
        Progress {
            bytes_per_second: Some(rate),
            remaining_seconds: left
                .and_then(|left| left.checked_div(rate))
                .map(|s| u32::try_from(s).unwrap_or(u32::MAX)),
            ..progress
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_rate_is_that_of_the_last_seconds_of_this_step() {
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        let mut pace = Pace::default();
        let first = pace.of(Progress::of(Step::Writing, 0, 1000 * MIB), at(0));
        assert_eq!(
            (first.bytes_per_second, first.remaining_seconds),
            (None, None),
            "one look says nothing"
        );
        for second in 1..=10 {
            let seen = pace.of(Progress::of(Step::Writing, second * 50 * MIB, 1000 * MIB), at(second));
            assert_eq!(seen.bytes_per_second, Some(50 * MIB));
            assert_eq!(seen.remaining_seconds, Some(u32::try_from(20 - second).unwrap()));
        }
        // It stands still: the rate falls, and no end is promised any more.
        for second in 11..=40 {
            pace.of(Progress::of(Step::Writing, 500 * MIB, 1000 * MIB), at(second));
        }
        let stuck = pace.of(Progress::of(Step::Writing, 500 * MIB, 1000 * MIB), at(41));
        assert_eq!((stuck.bytes_per_second, stuck.remaining_seconds), (Some(0), None));
        let next = pace.of(Progress::of(Step::Verifying, 900 * MIB, 1000 * MIB), at(42));
        assert_eq!(next.bytes_per_second, None, "another step");
    }

    #[test]
    fn without_a_size_there_is_a_rate_and_no_end() {
        let start = Instant::now();
        let mut pace = Pace::default();
        pace.of(Progress::of(Step::Writing, 0, 0), start);
        let seen = pace.of(Progress::of(Step::Writing, 10 * MIB, 0), start + Duration::from_secs(1));
        assert_eq!((seen.bytes_per_second, seen.remaining_seconds), (Some(10 * MIB), None));
    }
}
