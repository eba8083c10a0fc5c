//! Whole transfers out of calls that may do less: interrupted ones are made again, short ones are continued.
//!
//! Direct I/O can go on only at a sector. A call that ended inside of one is continued from that sector's beginning; one that moved less than a
//! sector makes no progress, and after a few of those the disk is at fault.

use std::io;

/// Calls in a row that may move nothing.
const IDLE_CALLS: u32 = 16;

/// Makes `step` until `length` bytes were moved. `step` gets how many bytes are done and says how many it moved.
pub(super) fn transfer(length: usize, sector: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let (mut done, mut idle) = (0, 0);
    while done < length {
        let moved = match step(done) {
            Ok(0) => {
                let text = format!("only {done} of {length} bytes could be moved");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            Ok(moved) if done + moved >= length => return Ok(()),
            Ok(moved) => moved / sector * sector,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        done += moved;
        idle = if moved == 0 { idle + 1 } else { 0 };
        if idle > IDLE_CALLS {
            let text = format!("no whole sector moved in {idle} calls, after {done} of {length} bytes");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves as much as the plan says at each call; `None` is an interruption.
    fn run(length: usize, plan: &[Option<usize>]) -> (io::Result<()>, Vec<usize>) {
        let mut calls = Vec::new();
        let done = transfer(length, 512, |done| {
            calls.push(done);
            plan[(calls.len() - 1).min(plan.len() - 1)]
                .map(|most| most.min(length - done))
                .ok_or_else(|| io::ErrorKind::Interrupted.into())
        });
        (done, calls)
    }

    #[test]
    fn short_and_interrupted_calls_are_continued_at_sectors() {
        let (done, calls) = run(4096, &[None, Some(700), Some(100), Some(1024), Some(4096)]);
        done.unwrap();
        assert_eq!(calls, [0, 0, 512, 512, 1536]);
    }

    #[test]
    fn no_progress_is_an_error_and_not_a_loop() {
        assert_eq!(run(4096, &[Some(0)]).0.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (done, calls) = run(4096, &[Some(100)]);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(calls.len() < 20);
        assert!(run(4096, &[None]).0.is_err());
    }
}
