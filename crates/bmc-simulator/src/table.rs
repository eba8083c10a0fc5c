//! The profiles as a table, for the documentation.

use std::fmt::Write;

use crate::profile::{ALL, Etag, Mode, Once, Place, Profile, ResetsShown, TaskShown};

fn resets(profile: &Profile) -> String {
    let shown = match profile.power.shown {
        ResetsShown::Action => "in the action",
        ResetsShown::ActionInfo => "in an ActionInfo",
        ResetsShown::Both => "in both",
        ResetsShown::Nowhere => "nowhere",
    };
    let task = match profile.power.task {
        None => String::new(),
        Some(TaskShown::Monitor) => ", a monitor".to_owned(),
        Some(TaskShown::Document) => ", a task".to_owned(),
    };
    format!("{}, shown {shown}; {}{task}", profile.power.resets.len(), profile.power.answer)
}

fn boot(profile: &Profile) -> String {
    let boot = &profile.boot;
    let at = match (&boot.at, &boot.settings) {
        (Place::Settings, Some(name)) => format!("in `{name}`"),
        _ => "in the system".to_owned(),
    };
    let mode = match boot.mode {
        Mode::Writable => "mode writable",
        Mode::ReadOnly => "mode read-only",
        Mode::Absent => "no mode",
        Mode::Reverts => "mode goes back when it is not said",
    };
    let once = match boot.once {
        Once::Kept => "",
        Once::Ignored => "; once is for ever",
    };
    let booting = boot
        .while_booting
        .map_or_else(String::new, |status| format!("; {status} while it boots"));
    format!("{at}; {mode}{once}{booting}")
}

fn etag(profile: &Profile) -> String {
    let form = match profile.boot.etag {
        Etag::None => return "none".to_owned(),
        Etag::Strong => "strong",
        Etag::Weak => "weak",
        Etag::QuotedWeak => "strong, looks weak",
    };
    let demanded = if profile.boot.etag_demanded { ", demanded (428)" } else { "" };
    format!("{form}{demanded}")
}

fn media(profile: &Profile) -> String {
    let Some(media) = &profile.media else {
        return "none".to_owned();
    };
    let places: Vec<&str> = [("system", &media.system), ("manager", &media.manager)]
        .iter()
        .filter(|(_, drives)| !drives.is_empty())
        .map(|(place, _)| *place)
        .collect();
    let words: Vec<String> = profile.boot.media.iter().map(|word| format!("`{word}`")).collect();
    format!("below the {}; booted by {}", places.join(" and the "), words.join(", "))
}

fn events(profile: &Profile) -> String {
    let Some(events) = &profile.events else {
        return "none".to_owned();
    };
    let kind = if events.places.is_some() { "places" } else { "subscriptions" };
    let streams = if events.streams > 0 {
        format!("; {} streams", events.streams)
    } else {
        String::new()
    };
    format!(
        "{} {kind}, then {}; by {}{streams}",
        events.most,
        events.full,
        events.schemes.join(", ")
    )
}

/// The table, in Markdown.
#[must_use]
pub fn profiles() -> String {
    let mut out = String::from(
        "| profile | is | resets; answer | next boot | ETag | sessions | media | events | values without a source |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for profile in ALL.iter() {
        let sessions = profile.sessions.as_ref().map_or_else(
            || "none".to_owned(),
            |sessions| format!("{}, then {}", sessions.most, sessions.full),
        );
        let values = profile.values();
        let without = values.iter().filter(|value| profile.source(value).is_none()).count();
        // Writing into a String cannot fail.
        let _written = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {sessions} | {} | {} | {without} of {} |",
            profile.name,
            profile.title,
            resets(profile),
            boot(profile),
            etag(profile),
            media(profile),
            events(profile),
            values.len()
        );
    }
    out
}
