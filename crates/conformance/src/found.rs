//! What was found in an answer, and short ways to say what should be there.

use std::ops::{Deref, DerefMut};

use serde_json::Value;

/// JSON from a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Found(pub Value);

impl Deref for Found {
    type Target = Value;
    fn deref(&self) -> &Value {
        &self.0
    }
}

impl DerefMut for Found {
    fn deref_mut(&mut self) -> &mut Value {
        &mut self.0
    }
}

impl Found {
    /// Expects every field of `wanted`, deeply; other fields may be there. Lists are compared whole.
    ///
    /// # Panics
    /// When one is missing or different.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "called with json!(..)")]
    pub fn has(&self, wanted: Value) -> &Found {
        if let Some(path) = missing(&self.0, &wanted, String::new()) {
            panic!("{path} is not as wanted: {wanted}\n  in {}", self.0);
        }
        self
    }

    /// Expects that there is nothing at a JSON pointer.
    ///
    /// # Panics
    /// When there is.
    #[track_caller]
    pub fn lacks(&self, pointer: &str) -> &Found {
        assert!(self.0.pointer(pointer).is_none(), "{pointer} is there: {}", self.0);
        self
    }

    /// Expects a text within `message`.
    ///
    /// # Panics
    /// When it is not there.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Found {
        let message = self.0["message"].as_str().unwrap_or_default();
        assert!(message.contains(text), "the message does not say {text:?}: {}", self.0);
        self
    }

    /// Expects exactly this `message`.
    ///
    /// # Panics
    /// When it is another one.
    #[track_caller]
    pub fn message(&self, text: &str) -> &Found {
        assert_eq!(self.0["message"].as_str().unwrap_or_default(), text, "{}", self.0);
        self
    }

    /// Expects the causes of a refusal as (reason, field), in any order.
    ///
    /// # Panics
    /// When they are others.
    #[track_caller]
    pub fn causes(&self, wanted: &[(&str, &str)]) -> &Found {
        let list = self.0["details"]["causes"].as_array().cloned().unwrap_or_default();
        let of = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
        let mut found: Vec<(String, String)> = list.iter().map(|cause| (of(cause, "reason"), of(cause, "field"))).collect();
        let mut wanted: Vec<(String, String)> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted, "{}", self.0);
        self
    }

    /// The names of a list's items.
    pub fn names(&self) -> Vec<String> {
        let items = self.0["items"].as_array();
        let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        items.map(|list| list.iter().map(name).collect()).unwrap_or_default()
    }

    /// `metadata.resourceVersion`.
    pub fn version(&self) -> &str {
        self.0["metadata"]["resourceVersion"].as_str().unwrap_or_default()
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.0["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// `metadata.continue`.
    pub fn next(&self) -> &str {
        self.0["metadata"]["continue"].as_str().unwrap_or_default()
    }

    /// The entry of a manager in `managedFields`.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn manager(&self, name: &str, operation: &str, subresource: &str) -> Found {
        let entries = self.0["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let wanted = |entry: &&Value| {
            entry["manager"] == name && entry["operation"] == operation && entry["subresource"].as_str().unwrap_or_default() == subresource
        };
        let entry = entries.iter().find(wanted);
        Found(
            entry
                .unwrap_or_else(|| panic!("no manager {name} {operation} {subresource:?}: {}", self.0))
                .clone(),
        )
    }
}

/// The first place where `wanted` is not within `found`.
fn missing(found: &Value, wanted: &Value, path: String) -> Option<String> {
    match (found, wanted) {
        (Value::Object(have), Value::Object(want)) => want.iter().find_map(|(key, value)| {
            let path = format!("{path}/{key}");
            match have.get(key) {
                Some(inner) => missing(inner, value, path),
                None => Some(path),
            }
        }),
        _ => (found != wanted).then_some(path),
    }
}

/// A text for use in a query.
pub fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a String takes everything");
        }
        out
    })
}
