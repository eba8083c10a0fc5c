//! A difference between two answers: what kind it is, and how it is told to people.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    exchange::Seen,
    steps::{Patch, Step},
};

/// Fields that a kind of difference names at most; more would make each one a kind of its own.
const FIELDS: usize = 4;

/// One difference.
#[derive(Clone, Debug)]
pub struct Difference {
    /// What differs, without names and values: the same for all that are mended together.
    pub sort: String,
    /// Both answers in full.
    pub told: String,
}

impl Difference {
    /// The difference of two answers to a step, if there is one.
    pub fn between(step: &Step, embedded: &Seen, real: &Seen) -> Option<Difference> {
        let what = if embedded.code != real.code || embedded.reason() != real.reason() {
            format!("{} {} for {} {}", embedded.code, embedded.reason(), real.code, real.reason())
        } else if embedded.warnings != real.warnings {
            format!("warnings {:?} for {:?}", embedded.warnings, real.warnings)
        } else if embedded.kind != real.kind {
            format!("{} for {}", embedded.kind, real.kind)
        } else if embedded.body != real.body {
            fields(&embedded.body, &real.body)
        } else {
            return None;
        };
        Some(Difference {
            sort: format!("{}: {what}", label(step)),
            told: format!("{}\n    embedded {embedded}\n    real     {real}", embedded.sent),
        })
    }

    /// The difference of two streams of events, if there is one.
    pub fn of_streams(watch: &str, embedded: &[String], real: &[String]) -> Option<Difference> {
        if embedded == real {
            return None;
        }
        let at = embedded.iter().zip(real).take_while(|(a, b)| a == b).count();
        let of = |events: &[String]| {
            events
                .get(at)
                .and_then(|event| event.split(' ').next())
                .unwrap_or("nothing")
                .to_owned()
        };
        let body = |events: &[String]| -> Value {
            let text = events
                .get(at)
                .and_then(|event| event.split_once(' '))
                .map_or("", |(_, object)| object);
            serde_json::from_str(text).unwrap_or(Value::Null)
        };
        let (one, other) = (of(embedded), of(real));
        let what = if one == other {
            fields(&body(embedded), &body(real))
        } else {
            String::new()
        };
        Some(Difference {
            sort: format!("stream: {one} for {other} {what}"),
            told: format!(
                "{watch}: event {at}\n    embedded {}\n    real     {}",
                embedded.join("\n             "),
                real.join("\n             ")
            ),
        })
    }
}

/// Which kind of request a step is.
fn label(step: &Step) -> String {
    match step {
        Step::Create(kind, ..) => format!("create {kind:?}"),
        Step::Get(kind, _, part, form) => format!("get {kind:?} {part:?} {form:?}"),
        Step::List(kind, _, _, _, from, form) => format!("list {kind:?} {from:?} {form:?}"),
        Step::Next => "next page".to_owned(),
        Step::Watch(kind, ..) => format!("watch {kind:?}"),
        Step::Put(kind, _, part, ..) => format!("put {kind:?} {part:?}"),
        Step::Patch(kind, _, part, patch, _) => {
            let patch = match patch {
                Patch::Merge(_) => "merge",
                Patch::Json(_) => "json",
                Patch::Strategic(_) => "strategic",
                Patch::Apply(..) => "apply",
            };
            format!("patch {patch} {kind:?} {part:?}")
        }
        Step::Delete(kind, ..) => format!("delete {kind:?}"),
        Step::DeleteCollection(kind, ..) => format!("deletecollection {kind:?}"),
        Step::Odd(odd) => format!("odd {odd:?}"),
    }
}

/// The places where two values differ, without the numbers of list entries.
fn fields(one: &Value, other: &Value) -> String {
    let mut found = BTreeSet::new();
    collect(one, other, "", &mut found);
    found.into_iter().take(FIELDS).collect::<Vec<_>>().join(", ")
}

fn collect(one: &Value, other: &Value, path: &str, found: &mut BTreeSet<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                match (a.get(key), b.get(key)) {
                    (Some(a), Some(b)) => collect(a, b, &format!("{path}/{key}"), found),
                    (None, _) => _ = found.insert(format!("-{path}/{key}")),
                    (_, None) => _ = found.insert(format!("+{path}/{key}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (a, b) in a.iter().zip(b) {
                collect(a, b, &format!("{path}/*"), found);
            }
        }
        (a, b) if a != b => _ = found.insert(path.to_owned()),
        _ => {}
    }
}

/// Differences by kind: how often, and the first one.
#[derive(Debug, Default)]
pub struct Differences(pub BTreeMap<String, Found>);

/// A kind of difference that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// How often it was met.
    pub times: usize,
    /// Where: seed, sequence and step.
    pub place: String,
    /// The first one, or what it was shrunk to.
    pub told: String,
}

impl Differences {
    /// Notes one and says whether it is the first of its kind.
    pub fn note(&mut self, place: &str, difference: &Difference) -> bool {
        let found = self.0.entry(difference.sort.clone()).or_insert_with(|| Found {
            times: 0,
            place: place.to_owned(),
            told: difference.told.clone(),
        });
        found.times += 1;
        found.times == 1
    }
}

impl std::fmt::Display for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} kinds of differences", self.0.len())?;
        for (sort, found) in &self.0 {
            write!(f, "\n\n{} times: {sort}\n  first in {}\n  {}", found.times, found.place, found.told)?;
        }
        Ok(())
    }
}
