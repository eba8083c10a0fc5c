//! Progress of a write: which step, how far, how long each took.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::ImageError;

/// The steps of a write, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Step {
    /// The in-progress marker takes the place of the boot sector.
    Mark,
    /// Both ends of the disk are zeroed.
    ClearEnds,
    /// The image's data is downloaded, converted and written.
    Write,
    /// Everything written is read back and compared.
    Verify,
    /// The config drive is written.
    ConfigDrive,
    /// The backup partition table is written.
    BackupTable,
    /// The first sectors are written.
    FirstSectors,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mark => "mark",
            Self::ClearEnds => "clear ends",
            Self::Write => "write",
            Self::Verify => "verify",
            Self::ConfigDrive => "config drive",
            Self::BackupTable => "backup table",
            Self::FirstSectors => "first sectors",
        })
    }
}

/// How far a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The present step.
    pub step: Step,
    /// Bytes done in this step; of a compressed image, while it is written, stored bytes that have come.
    pub done: u64,
    /// Bytes to be done in this step, when known.
    pub total: Option<u64>,
}

/// Called at each change of step and otherwise at most ten times a second. `Break` stops the write, which leaves the disk marked as in
/// progress.
pub type ProgressCallback<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// How long a step took.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StepDuration {
    /// The step.
    pub step: Step,
    /// Seconds.
    pub seconds: f64,
    /// Bytes that it went over.
    pub bytes: u64,
}

const INTERVAL: Duration = Duration::from_millis(100);

pub(crate) struct Reporter<'a> {
    callback: &'a mut ProgressCallback<'a>,
    present: Option<(Progress, Instant)>,
    reported: Instant,
    pub(crate) durations: Vec<StepDuration>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(callback: &'a mut ProgressCallback<'a>) -> Self {
        Self {
            callback,
            present: None,
            reported: Instant::now(),
            durations: Vec::new(),
        }
    }

    fn report(&mut self) -> Result<(), ImageError> {
        self.reported = Instant::now();
        let Some((progress, _)) = self.present else {
            return Ok(());
        };
        match (self.callback)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(ImageError::Cancelled),
        }
    }

    pub(crate) fn begin(&mut self, step: Step, total: Option<u64>) -> Result<(), ImageError> {
        self.end();
        self.present = Some((Progress { step, done: 0, total }, Instant::now()));
        self.report()
    }

    pub(crate) fn at(&mut self, step: Step, done: u64) -> Result<(), ImageError> {
        if let Some((progress, _)) = &mut self.present
            && progress.step == step
        {
            progress.done = done;
        }
        self.tick()
    }

    pub(crate) fn tick(&mut self) -> Result<(), ImageError> {
        if self.reported.elapsed() >= INTERVAL {
            self.report()
        } else {
            Ok(())
        }
    }

    /// Closes the present step.
    pub(crate) fn end(&mut self) {
        if let Some((progress, since)) = self.present.take() {
            let seconds = since.elapsed().as_secs_f64();
            self.durations.push(StepDuration {
                step: progress.step,
                seconds,
                bytes: progress.done,
            });
        }
    }
}
