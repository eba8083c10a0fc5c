//! The table of what each kind of driver can do, as the documentation shows it: `docs/reference/power.md` holds it between two marks, and a test compares.

use crate::{
    KINDS,
    driver::{BootDevice, Kind},
};

/// Where the table begins and ends in the document.
pub const MARKS: (&str, &str) = ("<!-- drivers: begin -->\n", "<!-- drivers: end -->\n");

fn row(kind: &Kind) -> String {
    let yes = |can: bool| if can { "yes" } else { "no" };
    let able = kind.capabilities;
    let devices: Vec<_> = able
        .boot_once
        .iter()
        .map(|device| match device {
            BootDevice::Network => "PXE",
            BootDevice::Http => "HTTP",
            BootDevice::Disk => "disk",
            BootDevice::Media => "medium",
            BootDevice::Setup => "setup",
        })
        .collect();
    let boot = if devices.is_empty() { "no".to_owned() } else { devices.join(", ") };
    format!(
        "| `{}` | {} | {} | {} | {} | {} | {} | {} | {boot} | {} | {} |\n",
        kind.name,
        kind.title,
        yes(able.on),
        yes(able.off_soft),
        yes(able.off_hard),
        yes(able.cycle),
        yes(able.state),
        yes(able.events),
        yes(able.media),
        yes(able.inventory),
    )
}

/// The table of all kinds, and what each was seen to work against. Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut out =
        "| driver | what | on | shut down | off, hard | cycle | state | events | next boot | media | inventory |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    out.extend(KINDS.iter().map(|kind| row(kind)));
    out.push_str("\n| driver | seen |\n|---|---|\n");
    out.extend(KINDS.iter().map(|kind| format!("| `{}` | {} |\n", kind.name, kind.evidence)));
    out
}
