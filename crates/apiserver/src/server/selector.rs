//! Label and field selectors.
//!
//! The label grammar is that of `k8s.io/apimachinery/pkg/labels`: equality, set and existence requirements joined by commas.

use serde_json::Value;

use super::status::{ApiError, ApiResult};
use crate::store::Object;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// A parsed label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<(String, Op)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Eq,
    NotEq,
    Bang,
    Gt,
    Lt,
    End,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => {}
            ',' => out.push(Token::Comma),
            '(' => out.push(Token::Open),
            ')' => out.push(Token::Close),
            '>' => out.push(Token::Gt),
            '<' => out.push(Token::Lt),
            '=' => {
                chars.next_if_eq(&'=');
                out.push(Token::Eq);
            }
            '!' => out.push(if chars.next_if_eq(&'=').is_some() {
                Token::NotEq
            } else {
                Token::Bang
            }),
            first => {
                let mut word = first.to_string();
                while let Some(next) = chars.next_if(|c| !" \t\r\n,()<>=!".contains(*c)) {
                    word.push(next);
                }
                out.push(Token::Word(word));
            }
        }
    }
    out.push(Token::End);
    out
}

impl LabelSelector {
    /// Parses a selector; the empty text selects everything.
    pub fn parse(text: &str) -> ApiResult<LabelSelector> {
        let fail = |why: String| ApiError::bad_request(format!("unable to parse requirement: {why}"));
        let tokens = tokens(text);
        let mut at = 0;
        let mut requirements = Vec::new();
        if tokens.len() == 1 {
            return Ok(LabelSelector(requirements));
        }
        loop {
            let negated = tokens[at] == Token::Bang;
            if negated {
                at += 1;
            }
            let Token::Word(key) = &tokens[at] else {
                return Err(ApiError::bad_request(format!(
                    "found '{}', expected: !, identifier, or 'end of string'",
                    show(&tokens[at])
                )));
            };
            check_key(key).map_err(&fail)?;
            at += 1;
            let op = match &tokens[at] {
                _ if negated => Op::Absent,
                Token::Comma | Token::End => Op::Exists,
                Token::Eq | Token::NotEq => {
                    let equal = tokens[at] == Token::Eq;
                    at += 1;
                    let value = match &tokens[at] {
                        Token::Word(word) => {
                            at += 1;
                            word.clone()
                        }
                        _ => String::new(),
                    };
                    check_value(key, &value).map_err(&fail)?;
                    if equal { Op::In(vec![value]) } else { Op::NotIn(vec![value]) }
                }
                Token::Gt | Token::Lt => {
                    let greater = tokens[at] == Token::Gt;
                    at += 1;
                    let Token::Word(word) = &tokens[at] else {
                        return Err(fail(format!("found '{}', expected: identifier", show(&tokens[at]))));
                    };
                    let number = word.parse().map_err(|_| {
                        fail(format!(
                            "values[0][{key}]: Invalid value: {word:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                        ))
                    })?;
                    at += 1;
                    if greater { Op::Greater(number) } else { Op::Less(number) }
                }
                Token::Word(word) if word == "in" || word == "notin" => {
                    let inside = word == "in";
                    at += 1;
                    let values = parse_set(&tokens, &mut at).map_err(&fail)?;
                    for value in &values {
                        check_value(key, value).map_err(&fail)?;
                    }
                    if inside { Op::In(values) } else { Op::NotIn(values) }
                }
                other => {
                    return Err(fail(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", show(other))));
                }
            };
            requirements.push((key.clone(), op));
            match &tokens[at] {
                Token::End => break,
                Token::Comma => {
                    at += 1;
                    if tokens[at] == Token::End {
                        return Err(ApiError::bad_request("found '', expected: identifier after ','"));
                    }
                }
                other => {
                    return Err(ApiError::bad_request(format!(
                        "found '{}', expected: ',' or 'end of string'",
                        show(other)
                    )));
                }
            }
        }
        Ok(LabelSelector(requirements))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object's labels match.
    pub fn matches(&self, object: &Object) -> bool {
        self.0.iter().all(|(key, op)| {
            let value = object
                .meta
                .labels
                .iter()
                .find(|(name, _)| **name == **key)
                .map(|(_, value)| &**value);
            match (op, value) {
                (Op::In(values), Some(value)) => values.iter().any(|wanted| wanted == value),
                (Op::NotIn(values), Some(value)) => !values.iter().any(|wanted| wanted == value),
                (Op::NotIn(_) | Op::Absent, None) | (Op::Exists, Some(_)) => true,
                (Op::Greater(bound), Some(value)) => value.parse::<i64>().is_ok_and(|number| number > *bound),
                (Op::Less(bound), Some(value)) => value.parse::<i64>().is_ok_and(|number| number < *bound),
                _ => false,
            }
        })
    }
}

fn show(token: &Token) -> &str {
    match token {
        Token::Word(word) => word,
        Token::Comma => ",",
        Token::Open => "(",
        Token::Close => ")",
        Token::Eq => "=",
        Token::NotEq => "!=",
        Token::Bang => "!",
        Token::Gt => ">",
        Token::Lt => "<",
        Token::End => "",
    }
}

fn parse_set(tokens: &[Token], at: &mut usize) -> Result<Vec<String>, String> {
    if tokens[*at] != Token::Open {
        return Err(format!("found '{}' expected: '('", show(&tokens[*at])));
    }
    *at += 1;
    let mut values = Vec::new();
    let mut want_value = true;
    loop {
        match &tokens[*at] {
            Token::Word(word) if want_value => {
                values.push(word.clone());
                want_value = false;
            }
            Token::Comma => {
                if want_value {
                    values.push(String::new());
                }
                want_value = true;
            }
            Token::Close => {
                if want_value {
                    values.push(String::new());
                }
                *at += 1;
                values.sort();
                values.dedup();
                return Ok(values);
            }
            other => return Err(format!("found '{}', expected: ',', or ')'", show(other))),
        }
        *at += 1;
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match crate::schema::names::qualified_name(key).first() {
        Some(error) => Err(format!("key: Invalid value: {key:?}: {error}")),
        None => Ok(()),
    }
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match crate::schema::names::label_value(value).first() {
        Some(error) => Err(format!("values[0][{key}]: Invalid value: {value:?}: {error}")),
        None => Ok(()),
    }
}

/// A parsed field selector: exact comparisons of a field with a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses a selector of `path=value`, `path==value` and `path!=value`; only the given fields are supported.
    pub fn parse(text: &str, supported: &dyn Fn(&str) -> bool) -> ApiResult<FieldSelector> {
        let mut terms = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let (path, equal, value) =
                split_term(&term).ok_or_else(|| ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            if !supported(path) {
                return Err(ApiError::bad_request(format!("field label not supported: {path}")));
            }
            terms.push((path.to_owned(), equal, unescape(value)));
        }
        Ok(FieldSelector(terms))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name it pins, if any.
    pub fn pinned_name(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|(path, equal, _)| *equal && path == "metadata.name")
            .map(|(_, _, name)| name.as_str())
    }

    /// Whether an object's fields match.
    pub fn matches(&self, object: &Object, fields: &dyn Fn(&Value, &str) -> String) -> bool {
        let mut parsed: Option<Value> = None;
        self.0.iter().all(|(path, equal, wanted)| {
            let is = match path.as_str() {
                "metadata.name" => object.key.name() == wanted,
                "metadata.namespace" => object.key.namespace() == wanted,
                _ => fields(parsed.get_or_insert_with(|| object.value()), path) == *wanted,
            };
            is == *equal
        })
    }
}

fn split_terms(text: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        if c == ',' && !escaped {
            terms.push(String::new());
        } else if let Some(last) = terms.last_mut() {
            last.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        let rest = &term[at..];
        for (op, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(op) {
                return Some((&term[..at], equal, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            other => out.push(other),
        }
    }
    out
}

/// The text of a scalar at a dotted path, empty when absent (Kubernetes compares field selectors as text).
pub fn field_text(object: &Value, path: &str) -> String {
    let mut at = object;
    for part in path.trim_start_matches('.').split('.') {
        match at.get(part) {
            Some(next) => at = next,
            None => return String::new(),
        }
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => at.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Draft, Key};
    use serde_json::json;
    use std::sync::Arc;

    fn object(labels: Value) -> Object {
        let key = Key::new(&Arc::from("g/things"), "default", "a");
        Draft::new(&json!({ "metadata": { "labels": labels }, "spec": { "size": 3, "host": "x" } })).seal(key, 1)
    }

    #[test]
    fn label_requirements_follow_the_kubernetes_grammar() {
        let object = object(json!({ "app": "web", "tier": "3" }));
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=3", true),
            ("app!=web", false),
            ("other!=web", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("other notin (web)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("tier>2", true),
            ("tier<3", false),
            ("app=", false),
        ] {
            assert_eq!(
                LabelSelector::parse(text).map(|s| s.matches(&object)).ok(),
                Some(expected),
                "{text}"
            );
        }
        for bad in [
            "app in web",
            "=x",
            "app=web,",
            "app in (a",
            "a b",
            "tier>x",
            "-bad=1",
            "app=white space",
            "a=b=c",
        ] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_compare_text_and_refuse_unknown_fields() {
        let object = object(json!({}));
        let supported = |path: &str| matches!(path, "metadata.name" | "spec.size" | "spec.host");
        for (text, expected) in [
            ("metadata.name=a", true),
            ("metadata.name!=a", false),
            ("spec.size==3,spec.host=x", true),
            ("spec.host=", false),
        ] {
            let selector = FieldSelector::parse(text, &supported).expect("parses");
            assert_eq!(selector.matches(&object, &field_text), expected, "{text}");
        }
        assert_eq!(FieldSelector::parse("spec.color=x", &supported).expect_err("unsupported").code, 400);
        assert!(FieldSelector::parse("nonsense", &supported).is_err());
    }
}
