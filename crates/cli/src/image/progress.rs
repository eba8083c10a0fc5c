//! The bar on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for bytes; hidden when nobody looks.
pub fn bar(show: bool) -> ProgressBar {
    if !show {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    let template = "{msg:>13} [{bar:32}] {percent:>3} %  {bytes} of {total_bytes}  {binary_bytes_per_sec}  {eta} left";
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.set_style(style.progress_chars("=> ")),
        Err(error) => tracing::debug!(%error, "the bar keeps its plain look"),
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
