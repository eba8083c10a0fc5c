//! CEL rules.
use super::error::FieldError;
use super::structural::{Node, SchemaError};
use serde_json::Value;

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub source: String,
}

impl Rule {
    pub(crate) fn parse(rule: &Value) -> Self {
        Self { source: rule.get("rule").and_then(Value::as_str).unwrap_or_default().to_string() }
    }
}

pub(crate) fn compile_rules(_root: &mut Node, _errors: &mut Vec<SchemaError>) {}
pub(crate) fn validate_rules(_root: &Node, _new: &Value, _old: Option<&Value>, _errors: &mut Vec<FieldError>) {}
pub(crate) fn validate_rules_at(_node: &Node, _value: &Value, _prefix: &str, _errors: &mut Vec<FieldError>) {}
