//! What a person who stands before the machine sees: who it is, whose it is, what it does, how far it is.
//!
//! Each console the kernel uses (`/sys/class/tty/console/active`) is served in its way: a screen that is drawn anew on virtual terminals, plain
//! lines with the prefix `kbm:` on serial ports (no escape sequences: they end up in log files, and tests wait for them).

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use agent_protocol::order::{Progress, Step};

/// Lines of history on the screen.
const HISTORY: usize = 12;
/// Least time between two drawings that only move a bar.
const REDRAW: Duration = Duration::from_millis(500);
/// Width of the bar in characters.
const BAR: usize = 40;

/// What the screen shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Vendor and product.
    pub machine: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// MAC of the boot NIC.
    pub mac: String,
    /// Address.
    pub address: String,
    /// Server in use.
    pub server: String,
    /// Name of the BareMetalDiscovery.
    pub discovery: String,
    /// Name of the BareMetalHardware.
    pub hardware: String,
    /// `namespace/name` of the instance.
    pub instance: String,
    /// What it is doing.
    pub doing: String,
    /// The server's remark.
    pub note: String,
}

#[derive(Debug, Clone, Copy)]
struct Bar {
    progress: Progress,
    since: Instant,
    last_percent: Option<u64>,
}

#[derive(Default)]
struct Inner {
    status: Status,
    history: VecDeque<String>,
    bar: Option<Bar>,
    drawn: Option<Instant>,
    screens: Vec<File>,
    lines: Vec<File>,
}

/// The consoles.
#[derive(Default)]
pub struct Console(Mutex<Inner>);

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

/// Splits the kernel's console list into (screens, serial lines).
fn sort_consoles(active: &str) -> (Vec<&str>, Vec<&str>) {
    let is_screen = |name: &&str| {
        name.strip_prefix("tty")
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    };
    active.split_whitespace().partition(is_screen)
}

impl Console {
    /// Opens all consoles of the kernel; standard output if it has none.
    pub fn open() -> Self {
        let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
        let (screens, lines) = sort_consoles(&active);
        let open = |names: Vec<&str>| -> Vec<File> {
            let open = |name: &&str| OpenOptions::new().write(true).open(format!("/dev/{name}")).ok();
            names.iter().filter_map(open).collect()
        };
        Self(Mutex::new(Inner {
            screens: open(screens),
            lines: open(lines),
            ..Inner::default()
        }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes a line, and keeps it on the screen.
    pub fn say(&self, line: impl AsRef<str>) {
        let line: String = line
            .as_ref()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(300)
            .collect();
        self.with(|inner| {
            inner.write_line(&line);
            inner.history.push_back(line);
            while inner.history.len() > HISTORY {
                inner.history.pop_front();
            }
            inner.draw();
        });
    }

    /// Changes what the screen shows.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        self.with(|inner| {
            let before = inner.status.clone();
            change(&mut inner.status);
            if inner.status != before {
                inner.draw();
            }
        });
    }

    /// Moves the bar of an order. A serial line appears at each tenth.
    pub fn progress(&self, order: &str, progress: Progress) {
        self.with(|inner| {
            let mut bar = match inner.bar {
                Some(bar) if bar.progress.step == progress.step => Bar { progress, ..bar },
                _ => Bar {
                    progress,
                    since: Instant::now(),
                    last_percent: None,
                },
            };
            let percent = percent(progress);
            if percent.map(|p| p / 10) != bar.last_percent.map(|p| p / 10) || (bar.last_percent.is_none() && percent.is_none()) {
                let how_far = percent.map_or_else(|| mebibytes(progress.done_bytes), |p| format!("{p}%"));
                let line = format!("order {order} {} {how_far}", step_word(progress.step));
                inner.write_line(&line);
                bar.last_percent = percent.or(Some(0));
            }
            inner.bar = Some(bar);
            if inner.drawn.is_none_or(|at| at.elapsed() >= REDRAW) {
                inner.draw();
            }
        });
    }

    /// Takes the bar away.
    pub fn clear_progress(&self) {
        self.with(|inner| {
            inner.bar = None;
            inner.draw();
        });
    }
}

fn percent(progress: Progress) -> Option<u64> {
    (progress.total_bytes > 0)
        .then(|| (u128::from(progress.done_bytes.min(progress.total_bytes)) * 100 / u128::from(progress.total_bytes)) as u64)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The word for a step on the console.
pub fn step_word(step: Step) -> &'static str {
    match step {
        Step::Preparing => "preparing",
        Step::Discarding => "discarding",
        Step::Writing => "writing",
        Step::Verifying => "verifying",
        Step::Configuring => "configuring",
        Step::Erasing => "erasing",
        Step::Sampling => "sampling",
    }
}

impl Inner {
    fn write_line(&mut self, line: &str) {
        if self.lines.is_empty() && self.screens.is_empty() {
            println!("kbm: {line}");
        }
        // A console that cannot be written to has nobody who could be told.
        self.lines
            .retain_mut(|console| console.write_all(format!("kbm: {line}\r\n").as_bytes()).is_ok());
    }

    fn draw(&mut self) {
        if self.screens.is_empty() {
            return;
        }
        let text = screen(&self.status, &self.history, self.bar.map(|b| (b.progress, b.since.elapsed())));
        let write = |console: &mut File| -> io::Result<()> { console.write_all(text.as_bytes()) };
        self.screens.retain_mut(|console| write(console).is_ok());
        self.drawn = Some(Instant::now());
    }
}

/// The whole screen, from the upper left corner.
fn screen(status: &Status, history: &VecDeque<String>, bar: Option<(Progress, Duration)>) -> String {
    let mut text = String::from("\x1b[H\x1b[2J\x1b[?25l\r\n  \x1b[1mKube BareMetal\x1b[0m agent ");
    text.push_str(env!("CARGO_PKG_VERSION"));
    text.push_str("\r\n\r\n");
    let rows = [
        ("Machine", &status.machine),
        ("UUID", &status.uuid),
        ("MAC", &status.mac),
        ("Address", &status.address),
        ("Server", &status.server),
        ("Discovery", &status.discovery),
        ("Hardware", &status.hardware),
        ("Instance", &status.instance),
        ("Doing", &status.doing),
        ("", &status.note),
    ];
    for (label, value) in rows {
        if !value.is_empty() {
            let value: String = value.chars().filter(|c| !c.is_control()).take(64).collect();
            writeln!(text, "  {label:<10} {value}\r").unwrap_or_default();
        }
    }
    if let Some((progress, elapsed)) = bar {
        let rate = mebibytes((progress.done_bytes as f64 / elapsed.as_secs_f64().max(0.001)) as u64);
        let (done, total) = (mebibytes(progress.done_bytes), mebibytes(progress.total_bytes));
        let step = step_word(progress.step);
        match percent(progress) {
            Some(percent) => {
                let full = BAR * percent as usize / 100;
                let bar = format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
                writeln!(
                    text,
                    "\r\n  {step:<11}[{bar}] {percent:>3}%\r\n  {:<11}{done} of {total}, {rate}/s\r",
                    ""
                )
                .unwrap_or_default();
            }
            None => writeln!(text, "\r\n  {step:<11}{done}, {rate}/s\r").unwrap_or_default(),
        }
    }
    text.push_str("\r\n");
    for line in history {
        let line: String = line.chars().take(76).collect();
        writeln!(text, "  {line}\r").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_lines_are_told_from_screens() {
        assert_eq!(sort_consoles("tty0 ttyS0\n"), (vec!["tty0"], vec!["ttyS0"]));
        assert_eq!(sort_consoles("hvc0 ttyAMA0"), (vec![], vec!["hvc0", "ttyAMA0"]));
    }

    #[test]
    fn the_screen_says_who_what_and_how_far() {
        let status = Status {
            machine: "Dell\x1b[31m R640".to_owned(),
            doing: "writing the image".to_owned(),
            ..Status::default()
        };
        let progress = Progress::of(Step::Writing, 50 << 20, 200 << 20);
        let text = screen(
            &status,
            &VecDeque::from(["hello".to_owned()]),
            Some((progress, Duration::from_secs(5))),
        );
        assert!(
            text.contains("Dell[31m R640"),
            "control characters of firmware strings are dropped: {text:?}"
        );
        assert!(text.contains("[##########..............................]  25%"), "{text}");
        assert!(text.contains("50 MiB of 200 MiB, 10 MiB/s") && text.contains("hello"));
    }
}
