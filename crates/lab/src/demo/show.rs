//! What a person sees: headlines, one line per change, bars while bytes move, a table at the end. Plain mode has no colours and moves no cursor.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use comfy_table::presets;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The screen. Cheap to clone.
#[derive(Clone)]
pub struct Show {
    start: Instant,
    plain: bool,
    bars: MultiProgress,
    by_machine: Arc<Mutex<BTreeMap<String, Bar>>>,
}

struct Bar {
    step: String,
    bar: ProgressBar,
    /// Last tenth that plain mode printed.
    printed: u64,
}

impl Show {
    /// A screen.
    pub fn new(plain: bool) -> Self {
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            start: Instant::now(),
            plain,
            bars: MultiProgress::with_draw_target(target),
            by_machine: Arc::default(),
        }
    }

    fn stamp(&self) -> String {
        let s = self.start.elapsed().as_secs();
        format!("{:02}:{:02}", s / 60, s % 60)
    }

    /// A new chapter.
    pub fn headline(&self, text: &str) {
        if self.plain {
            self.print(&format!("\n== {text}"))
        } else {
            self.print(&format!("\n\x1b[1m== {text}\x1b[0m"))
        }
    }

    /// One line with the time since the start.
    pub fn line(&self, text: &str) {
        self.print(&format!("{}  {text}", self.stamp()));
    }

    fn print(&self, text: &str) {
        if self.plain {
            println!("{text}");
        } else {
            self.bars.suspend(|| println!("{text}"));
        }
    }

    /// Bytes moved on a machine.
    pub fn progress(&self, machine: &str, step: &str, done: u64, total: u64) {
        let mut bars = self.by_machine.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = bars.get(machine).is_none_or(|b| b.step != step);
        if fresh {
            if let Some(old) = bars.remove(machine) {
                old.bar.finish_and_clear();
            }
            let known = total > 0;
            let bar = self.bars.add(if known {
                ProgressBar::new(total)
            } else {
                ProgressBar::new_spinner()
            });
            let style = ProgressStyle::with_template(if known {
                "       {prefix:<22} [{bar:32}] {bytes:>10}/{total_bytes:<10} {bytes_per_sec}"
            } else {
                "       {prefix:<22} {spinner} {bytes:>10} {bytes_per_sec}"
            });
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.set_prefix(format!("{machine} {step}"));
            bars.insert(
                machine.to_owned(),
                Bar {
                    step: step.to_owned(),
                    bar,
                    printed: 0,
                },
            );
        }
        let Some(entry) = bars.get_mut(machine) else { return };
        let mib = |b: u64| b >> 20;
        if total > 0 {
            entry.bar.set_length(total);
        }
        entry.bar.set_position(done);
        // A stream does not always tell its length: then plain mode counts in steps of 128 MiB.
        let mark = done.saturating_mul(10).checked_div(total).unwrap_or(mib(done) / 128);
        if self.plain && done > 0 && mark > entry.printed {
            entry.printed = mark;
            let of = if total > 0 { format!(" of {}", mib(total)) } else { String::new() };
            println!("{}  {machine}: {step} {}{of} MiB", self.stamp(), mib(done));
        }
    }

    /// No bytes move on that machine any more.
    pub fn done(&self, machine: &str) {
        if let Some(old) = self.by_machine.lock().unwrap_or_else(PoisonError::into_inner).remove(machine) {
            old.bar.finish_and_clear();
        }
    }

    /// Removes all bars.
    pub fn finish(&self) {
        let names: Vec<String> = self
            .by_machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect();
        names.iter().for_each(|n| self.done(n));
    }

    /// The time of each phase of each machine.
    pub fn table(&self, times: &[(String, Vec<(String, Duration)>)]) {
        let mut table = comfy_table::Table::new();
        table.load_style(if self.plain {
            presets::ASCII_MARKDOWN
        } else {
            presets::UTF8_FULL_CONDENSED
        });
        table.set_header(["machine", "phase", "seconds"]);
        for (machine, phases) in times {
            for (phase, time) in phases {
                table.add_row([machine.clone(), phase.clone(), format!("{:.1}", time.as_secs_f64())]);
            }
        }
        self.print(&format!(
            "\n{table}\n\nThe whole life of both machines took {:.0} s.",
            self.start.elapsed().as_secs_f64()
        ));
    }
}
