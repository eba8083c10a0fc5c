//! Counts what was asked and answered, so that a run can prove that it met everything often enough.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use super::{
    exchange::Seen,
    steps::{Form, Odd, Part, Patch, Step},
};

/// What must be met: verbs, types of patches, kinds of selectors, classes of errors, and parts.
pub const WANTED: &[&str] = &[
    "verb get",
    "verb list",
    "verb watch",
    "verb create",
    "verb update",
    "verb patch",
    "verb delete",
    "verb deletecollection",
    "patch json",
    "patch merge",
    "patch strategic",
    "patch apply",
    "selector =",
    "selector !=",
    "selector in",
    "selector notin",
    "selector exists",
    "selector !exists",
    "selector >",
    "selector <",
    "selector field",
    "limit",
    "continue",
    "dry run",
    "status",
    "scale",
    "table",
    "partial metadata",
    "error BadRequest",
    "error NotFound",
    "error MethodNotAllowed",
    "error NotAcceptable",
    "error AlreadyExists",
    "error Conflict",
    "error Invalid",
    "error UnsupportedMediaType",
    "error RequestEntityTooLarge",
    "error Forbidden",
];

/// The counts.
#[derive(Debug, Default)]
pub struct Tally(Mutex<BTreeMap<String, u64>>);

impl Tally {
    /// Counts a step and the real server's answer.
    pub fn count(&self, step: &Step, real: &Seen) {
        let mut what: Vec<String> = Vec::new();
        let mut add = |text: &str| what.push(text.to_owned());
        if real.code != 0 {
            add("requests");
        }
        match step {
            Step::Create(_, _, query) => {
                add("verb create");
                dry(query, &mut add);
            }
            Step::Get(_, _, part, form) => {
                add("verb get");
                parts(*part, *form, &mut add);
            }
            Step::List(_, labels, fields, limit, _, form) => {
                add("verb list");
                parts(Part::Main, *form, &mut add);
                selectors(labels, fields, &mut add);
                if limit.is_some() {
                    add("limit");
                }
            }
            Step::Next if real.code != 0 => {
                add("verb list");
                add("continue");
            }
            Step::Next => {}
            Step::Watch(_, labels, fields, _) => {
                add("verb watch");
                selectors(labels, fields, &mut add);
            }
            Step::Put(_, _, part, _, _, query) => {
                add("verb update");
                parts(*part, Form::Object, &mut add);
                dry(query, &mut add);
            }
            Step::Patch(_, _, part, patch, query) => {
                add("verb patch");
                parts(*part, Form::Object, &mut add);
                dry(query, &mut add);
                add(match patch {
                    Patch::Merge(_) => "patch merge",
                    Patch::Json(_) => "patch json",
                    Patch::Strategic(_) => "patch strategic",
                    Patch::Apply(..) => "patch apply",
                });
            }
            Step::Delete(..) => add("verb delete"),
            Step::DeleteCollection(_, labels, query) => {
                add("verb deletecollection");
                selectors(labels, "", &mut add);
                dry(query, &mut add);
            }
            Step::Odd(Odd::Continue | Odd::Resource) => add("verb list"),
            Step::Odd(_) => {}
        }
        if real.code >= 400 {
            add(&format!("error {}", real.reason()));
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for what in what {
            *counts.entry(what).or_default() += 1;
        }
    }

    /// How often something was met.
    pub fn of(&self, what: &str) -> u64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(what)
            .copied()
            .unwrap_or_default()
    }

    /// What of [`WANTED`] was met less often than so many times.
    pub fn rarer_than(&self, times: u64) -> Vec<String> {
        WANTED
            .iter()
            .filter(|what| self.of(what) < times)
            .map(|what| format!("{what}: {}", self.of(what)))
            .collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<String> = counts.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        f.write_str(&all.join(", "))
    }
}

fn dry(query: &str, add: &mut impl FnMut(&str)) {
    if query == "dryRun=All" {
        add("dry run");
    }
}

fn parts(part: Part, form: Form, add: &mut impl FnMut(&str)) {
    match part {
        Part::Main => {}
        Part::Status => add("status"),
        Part::Scale => add("scale"),
    }
    match form {
        Form::Table => add("table"),
        Form::Partial => add("partial metadata"),
        Form::Object | Form::Impossible => {}
    }
}

fn selectors(labels: &str, fields: &str, add: &mut impl FnMut(&str)) {
    if !fields.is_empty() {
        add("selector field");
    }
    let kind = match labels {
        "" => return,
        text if text.contains(" notin ") => "selector notin",
        text if text.contains(" in ") => "selector in",
        text if text.contains('>') => "selector >",
        text if text.contains('<') => "selector <",
        text if text.contains("!=") => "selector !=",
        text if text.contains('=') => "selector =",
        text if text.starts_with('!') => "selector !exists",
        _ => "selector exists",
    };
    add(kind);
}
