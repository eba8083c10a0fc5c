//! The part of Kubernetes' JSONPath that printer columns use: fields, quoted fields, positions, slices, wildcards,
//! recursive descent and filters that compare with a literal.

use super::gofmt;
use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Recursive,
    Filter(Vec<Step>, Comparison, Value),
    Exists(Vec<Step>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// Values a path may lead to; more are cut off.
const MAX_RESULTS: usize = 10_000;

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim().trim_start_matches('$');
        let steps = steps(text)?;
        Ok(Self { steps })
    }

    /// What the path leads to; nothing when something on the way is absent.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        find(&self.steps, value)
    }
}

fn find<'v>(steps: &[Step], value: &'v Value) -> Vec<&'v Value> {
    let mut current = vec![value];
    for step in steps {
        let mut next = Vec::new();
        for value in current {
            apply(step, value, &mut next);
            if next.len() > MAX_RESULTS {
                next.truncate(MAX_RESULTS);
                break;
            }
        }
        current = next;
    }
    current
}

fn apply<'v>(step: &Step, value: &'v Value, out: &mut Vec<&'v Value>) {
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => out.extend(map.get(name).filter(|v| !v.is_null())),
        (Step::Index(i), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let at = if *i < 0 { length + i } else { *i };
            out.extend(usize::try_from(at).ok().and_then(|i| items.get(i)));
        }
        (Step::Slice(from, to), Value::Array(items)) => {
            let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
            let bound = |v: Option<i64>, default: i64| {
                let v = v.unwrap_or(default);
                usize::try_from(if v < 0 { length + v } else { v }.clamp(0, length)).unwrap_or(0)
            };
            let (from, to) = (bound(*from, 0), bound(*to, length));
            if from < to {
                out.extend(&items[from..to]);
            }
        }
        (Step::All, Value::Array(items)) => out.extend(items),
        (Step::All, Value::Object(map)) => out.extend(map.values()),
        (Step::Recursive, value) => descend(value, out),
        (Step::Filter(path, comparison, literal), Value::Array(items)) => {
            out.extend(
                items
                    .iter()
                    .filter(|item| find(path, item).iter().any(|found| compares(found, *comparison, literal))),
            );
        }
        (Step::Exists(path), Value::Array(items)) => out.extend(items.iter().filter(|item| !find(path, item).is_empty())),
        _ => {}
    }
}

fn descend<'v>(value: &'v Value, out: &mut Vec<&'v Value>) {
    if out.len() > MAX_RESULTS {
        return;
    }
    out.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|v| descend(v, out)),
        Value::Object(map) => map.values().for_each(|v| descend(v, out)),
        _ => {}
    }
}

fn compares(found: &Value, comparison: Comparison, literal: &Value) -> bool {
    let order = match (found, literal) {
        (Value::Number(a), Value::Number(b)) => gofmt::Num::of(a).as_f64().partial_cmp(&gofmt::Num::of(b).as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) => {
            return matches!(
                (comparison, gofmt::same(a, b)),
                (Comparison::Equal, true) | (Comparison::NotEqual, false)
            );
        }
    };
    let Some(order) = order else { return false };
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterEqual => order.is_ge(),
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix("..") {
            out.push(Step::Recursive);
            // `..name` descends and then takes the field.
            rest = tail;
            if !rest.starts_with(['.', '[']) && !rest.is_empty() {
                rest = field(rest, &mut out)?;
            }
        } else if let Some(tail) = rest.strip_prefix('.') {
            if tail.is_empty() && out.is_empty() {
                return Ok(out);
            }
            rest = if tail.starts_with('[') { tail } else { field(tail, &mut out)? };
        } else if let Some(tail) = rest.strip_prefix('[') {
            let end = closing(tail).ok_or_else(|| format!("unterminated array in {text}"))?;
            bracket(&tail[..end], &mut out)?;
            rest = &tail[end + 1..];
        } else {
            rest = field(rest, &mut out)?;
        }
    }
    Ok(out)
}

fn field<'t>(text: &'t str, out: &mut Vec<Step>) -> Result<&'t str, String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((i, c)) = chars.next() {
        match c {
            // A dot of a key is written `\.`.
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => {
                end = i;
                break;
            }
            c => name.push(c),
        }
    }
    match name.as_str() {
        "" => return Err(format!("empty field name in {text}")),
        "*" => out.push(Step::All),
        _ => out.push(Step::Field(name)),
    }
    Ok(&text[end..])
}

/// The bracket that ends an expression; brackets inside quotes or parentheses do not.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0i32;
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ')' | ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str, out: &mut Vec<Step>) -> Result<(), String> {
    let inner = inner.trim();
    if inner == "*" {
        out.push(Step::All);
        return Ok(());
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return filter_step(filter.trim(), out);
    }
    for quote in ['\'', '"'] {
        if let Some(name) = inner.strip_prefix(quote).and_then(|n| n.strip_suffix(quote)) {
            out.push(Step::Field(name.replace('\\', "")));
            return Ok(());
        }
    }
    let number = |s: &str| s.trim().parse::<i64>().map_err(|_| format!("invalid array index {inner}"));
    if let Some((from, to)) = inner.split_once(':') {
        let part = |s: &str| if s.trim().is_empty() { Ok(None) } else { number(s).map(Some) };
        out.push(Step::Slice(part(from)?, part(to)?));
    } else {
        out.push(Step::Index(number(inner)?));
    }
    Ok(())
}

fn filter_step(filter: &str, out: &mut Vec<Step>) -> Result<(), String> {
    const OPERATORS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessEqual),
        (">=", Comparison::GreaterEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let at = OPERATORS
        .iter()
        .filter_map(|(text, c)| filter.find(text).map(|i| (i, *text, *c)))
        .min_by_key(|(i, text, _)| (*i, 2 - text.len()));
    let path = |text: &str| steps(text.trim().trim_start_matches('@'));
    match at {
        None => out.push(Step::Exists(path(filter)?)),
        Some((i, operator, comparison)) => {
            let literal = filter[i + operator.len()..].trim();
            let literal = match literal.strip_prefix(['\'', '"']) {
                Some(rest) => Value::String(rest.trim_end_matches(['\'', '"']).to_string()),
                None => serde_json::from_str(literal).map_err(|_| format!("invalid literal {literal} in filter {filter}"))?,
            };
            out.push(Step::Filter(path(&filter[..i])?, comparison, literal));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_they_say() {
        let value = json!({
            "a": {"b.c": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}, {"n": "z"}]},
            "m": {"k": {"deep": true}}
        });
        for (path, want) in [
            (".a['b.c']", json!([1])),
            (r".a.b\.c", json!([1])),
            (".a.list[0].n", json!(["x"])),
            (".a.list[-1].n", json!(["z"])),
            (".a.list[0:2].v", json!([1, 2])),
            (".a.list[*].n", json!(["x", "y", "z"])),
            (".a.list[?(@.n==\"y\")].v", json!([2])),
            (".a.list[?(@.v>1)].n", json!(["y"])),
            (".a.list[?(@.v)].n", json!(["x", "y"])),
            ("..deep", json!([true])),
            (".absent.more", json!([])),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(json!(parsed.find(&value)), want, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a[?(@.n==y)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
