//! The functions rules may call: CEL's standard library and its string, list, set and optional extensions. Those of
//! the Kubernetes libraries are in [`super::kubernetes`].

use super::super::structural::ListType;
use super::super::{formats, gofmt};
use super::eval::{Evaluator, Fault};
use super::kubernetes::{
    cidr_call, format_complaints, format_name, ip_call, parse_cidr, parse_ip, parse_semver, parse_semver_loose, parse_url, quantity_call,
    semver_call, url_call,
};
use super::quantity::Quantity;
use super::value::{Val, same_keys};
use cel::common::ast::operators as op;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::rc::Rc;

type Out<'a> = Result<Val<'a>, Fault>;

/// The type that a name denotes.
pub(super) fn type_value(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 16] = [
        "int",
        "uint",
        "double",
        "bool",
        "string",
        "bytes",
        "list",
        "map",
        "null_type",
        "type",
        "google.protobuf.Duration",
        "google.protobuf.Timestamp",
        "kubernetes.Quantity",
        "kubernetes.URL",
        "net.IP",
        "net.CIDR",
    ];
    TYPES.iter().find(|t| **t == name).copied()
}

fn from_len<'a>(n: usize) -> Val<'a> {
    Val::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Calls a function by name; the first argument is the receiver when `member`.
pub(super) fn call<'a>(ev: &mut Evaluator<'a>, name: &str, member: bool, args: &[Val<'a>]) -> Out<'a> {
    match (name, args) {
        (op::LOGICAL_NOT, [Val::Bool(b)]) => Ok(Val::Bool(!b)),
        (op::EQUALS | op::NOT_EQUALS, [a, b]) => {
            ev.charge(a.weight().min(b.weight()))?;
            Ok(Val::Bool(a.equal(b) == (name == op::EQUALS)))
        }
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            ev.charge(a.weight().min(b.weight()))?;
            match a.compare(b) {
                None => Fault::overload(),
                Some(order) => Ok(Val::Bool(match name {
                    op::LESS => order == Ordering::Less,
                    op::LESS_EQUALS => order != Ordering::Greater,
                    op::GREATER => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })),
            }
        }
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => arithmetic(ev, name, a, b),
        (op::NEGATE, [Val::Int(i)]) => i.checked_neg().map_or_else(|| Fault::new("integer overflow"), |i| Ok(Val::Int(i))),
        (op::NEGATE, [Val::Double(d)]) => Ok(Val::Double(-d)),
        (op::INDEX, [Val::Opt(inner), key]) => Ok(Val::Opt(inner.as_ref().and_then(|v| v.get(key)).map(Box::new))),
        (op::INDEX, [list, key]) => match (list.get(key), list.type_name()) {
            (Some(value), _) => Ok(value),
            (None, "list") => match key {
                Val::Int(i) => Fault::new(format!("index out of bounds: {i}")),
                _ => Fault::overload(),
            },
            (None, "map") => Fault::new(format!("no such key: {}", show(key))),
            _ => Fault::overload(),
        },
        (op::IN, [item, list]) => contains(ev, item, list),
        _ if member => member_call(ev, name, args),
        _ => global(ev, name, args),
    }
}

fn contains<'a>(ev: &mut Evaluator<'a>, item: &Val<'a>, list: &Val<'a>) -> Out<'a> {
    if list.type_name() == "map" {
        return Ok(Val::Bool(list.get(item).is_some()));
    }
    let Some(items) = list.items() else { return Fault::overload() };
    ev.charge(items.len() as u64)?;
    Ok(Val::Bool(items.iter().any(|i| i.equal(item))))
}

fn arithmetic<'a>(ev: &mut Evaluator<'a>, name: &str, a: &Val<'a>, b: &Val<'a>) -> Out<'a> {
    let int = |v: Option<i64>| v.map_or_else(|| Fault::new("integer overflow"), |v| Ok(Val::Int(v)));
    let uint = |v: Option<u64>| v.map_or_else(|| Fault::new("unsigned integer overflow"), |v| Ok(Val::Uint(v)));
    match (name, a, b) {
        (op::DIVIDE, Val::Int(_), Val::Int(0)) | (op::DIVIDE, Val::Uint(_), Val::Uint(0)) => Fault::new("division by zero"),
        (op::MODULO, Val::Int(_), Val::Int(0)) | (op::MODULO, Val::Uint(_), Val::Uint(0)) => Fault::new("modulus by zero"),
        (_, Val::Int(x), Val::Int(y)) => int(match name {
            op::ADD => x.checked_add(*y),
            op::SUBSTRACT => x.checked_sub(*y),
            op::MULTIPLY => x.checked_mul(*y),
            op::DIVIDE => x.checked_div(*y),
            _ => x.checked_rem(*y),
        }),
        (_, Val::Uint(x), Val::Uint(y)) => uint(match name {
            op::ADD => x.checked_add(*y),
            op::SUBSTRACT => x.checked_sub(*y),
            op::MULTIPLY => x.checked_mul(*y),
            op::DIVIDE => x.checked_div(*y),
            _ => x.checked_rem(*y),
        }),
        (_, Val::Double(x), Val::Double(y)) => match name {
            op::ADD => Ok(Val::Double(x + y)),
            op::SUBSTRACT => Ok(Val::Double(x - y)),
            op::MULTIPLY => Ok(Val::Double(x * y)),
            op::DIVIDE => Ok(Val::Double(x / y)),
            _ => Fault::overload(),
        },
        (op::ADD, Val::Str(x), Val::Str(y)) => {
            ev.charge((x.len() + y.len()) as u64 / 10)?;
            Ok(Val::str(format!("{x}{y}")))
        }
        (op::ADD, Val::Bytes(x), Val::Bytes(y)) => {
            ev.charge((x.len() + y.len()) as u64 / 10)?;
            Ok(Val::Bytes(Rc::new([x.as_slice(), y.as_slice()].concat())))
        }
        (op::ADD, Val::Duration(x), Val::Duration(y)) => Ok(Val::Duration(x + y)),
        (op::SUBSTRACT, Val::Duration(x), Val::Duration(y)) => Ok(Val::Duration(x - y)),
        (op::SUBSTRACT, Val::Timestamp(x), Val::Timestamp(y)) => Ok(Val::Duration(x.as_nanosecond() - y.as_nanosecond())),
        (op::ADD, Val::Timestamp(t), Val::Duration(d)) | (op::ADD, Val::Duration(d), Val::Timestamp(t)) => shift(*t, *d),
        (op::SUBSTRACT, Val::Timestamp(t), Val::Duration(d)) => shift(*t, -d),
        (op::ADD, x, y) => add_lists(ev, x, y),
        _ => Fault::overload(),
    }
}

fn shift<'a>(time: jiff::Timestamp, by: i128) -> Out<'a> {
    match time.as_nanosecond().checked_add(by).map(jiff::Timestamp::from_nanosecond) {
        Some(Ok(time)) => Ok(Val::Timestamp(time)),
        _ => Fault::new("timestamp overflow"),
    }
}

/// Lists add by appending; sets and maps of the schema by union.
fn add_lists<'a>(ev: &mut Evaluator<'a>, a: &Val<'a>, b: &Val<'a>) -> Out<'a> {
    let (Some(mut x), Some(y)) = (a.items(), b.items()) else {
        return Fault::overload();
    };
    ev.charge((x.len() + y.len()) as u64)?;
    let node = match a {
        Val::Json(_, Some(node)) if matches!(node.list_type, ListType::Set | ListType::Map) => Some(*node),
        _ => None,
    };
    match node {
        None => x.extend(y),
        Some(node) => {
            ev.charge(x.len() as u64 * y.len() as u64)?;
            for item in y {
                let same = |other: &Val<'a>| {
                    if node.list_type == ListType::Set {
                        other.equal(&item)
                    } else {
                        same_keys(other, &item, &node.list_keys)
                    }
                };
                match x.iter().position(same) {
                    Some(at) => x[at] = item,
                    None => x.push(item),
                }
            }
        }
    }
    Ok(Val::list(x))
}

fn global<'a>(ev: &mut Evaluator<'a>, name: &str, args: &[Val<'a>]) -> Out<'a> {
    match (name, args) {
        ("size", [value]) => size(value),
        ("type", [value]) => Ok(Val::Type(value.type_name())),
        ("dyn", [value]) => Ok(value.clone()),
        ("int" | "uint" | "double" | "string" | "bytes" | "bool" | "duration" | "timestamp", [value]) => convert(name, value),
        ("matches", [Val::Str(_), Val::Str(_)]) => member_call(ev, name, args),
        ("quantity", [Val::Str(s)]) => match Quantity::parse(s) {
            Some(q) => Ok(Val::Quantity(Rc::new(q))),
            None => Fault::new("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        },
        ("isQuantity", [Val::Str(s)]) => Ok(Val::Bool(Quantity::parse(s).is_some())),
        ("url", [Val::Str(s)]) => match parse_url(s) {
            Some(url) => Ok(Val::Url(Rc::new(url))),
            None => Fault::new(format!(
                "URL parse error during conversion from string: parse {}: invalid URI for request",
                gofmt::quote(s)
            )),
        },
        ("isURL", [Val::Str(s)]) => Ok(Val::Bool(parse_url(s).is_some())),
        ("ip", [Val::Str(s)]) => parse_ip(s).map(Val::Ip),
        ("isIP", [Val::Str(s)]) => Ok(Val::Bool(parse_ip(s).is_ok())),
        ("cidr", [Val::Str(s)]) => parse_cidr(s).map(|(a, n)| Val::Cidr(a, n)),
        ("isCIDR", [Val::Str(s)]) => Ok(Val::Bool(parse_cidr(s).is_ok())),
        ("semver", [Val::Str(s)]) => {
            parse_semver(s).map_or_else(|| Fault::new("No Major.Minor.Patch elements found"), |v| Ok(Val::Semver(v)))
        }
        ("semver", [Val::Str(s), Val::Bool(loose)]) => {
            parse_semver_loose(s, *loose).map_or_else(|| Fault::new("No Major.Minor.Patch elements found"), |v| Ok(Val::Semver(v)))
        }
        ("isSemver", [Val::Str(s)]) => Ok(Val::Bool(parse_semver(s).is_some())),
        ("isSemver", [Val::Str(s), Val::Bool(loose)]) => Ok(Val::Bool(parse_semver_loose(s, *loose).is_some())),
        _ => Fault::overload(),
    }
}

/// Functions in a namespace.
pub(super) fn namespaced<'a>(ev: &mut Evaluator<'a>, space: &str, name: &str, args: &[Val<'a>]) -> Out<'a> {
    match (space, name, args) {
        ("ip", "isCanonical", [Val::Str(s)]) => parse_ip(s).map(|ip| Val::Bool(ip.to_string() == **s)),
        ("optional", "of", [value]) => Ok(Val::Opt(Some(Box::new(value.clone())))),
        ("optional", "none", []) => Ok(Val::Opt(None)),
        ("optional", "ofNonZeroValue", [value]) => {
            let zero = match value {
                Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) => true,
                Val::Double(d) => *d == 0.0,
                Val::Str(s) => s.is_empty(),
                Val::Bytes(b) => b.is_empty(),
                other => other.len() == Some(0),
            };
            Ok(Val::Opt((!zero).then(|| Box::new(value.clone()))))
        }
        ("sets", op, [a, b]) => {
            let (Some(a), Some(b)) = (a.items(), b.items()) else {
                return Fault::overload();
            };
            ev.charge(a.len() as u64 * b.len() as u64)?;
            let within = |x: &[Val<'a>], y: &[Val<'a>]| x.iter().all(|v| y.iter().any(|w| v.equal(w)));
            Ok(Val::Bool(match op {
                "contains" => within(&b, &a),
                "equivalent" => within(&a, &b) && within(&b, &a),
                "intersects" => a.iter().any(|v| b.iter().any(|w| v.equal(w))),
                _ => return Fault::overload(),
            }))
        }
        ("strings", "quote", [Val::Str(s)]) => Ok(Val::str(gofmt::quote(s))),
        ("format", "named", [Val::Str(s)]) => Ok(Val::Opt(format_name(s).map(|f| Box::new(Val::Format(f))))),
        ("format", name, []) => format_name(name).map_or_else(Fault::overload, |f| Ok(Val::Format(f))),
        _ => Fault::overload(),
    }
}

fn member_call<'a>(ev: &mut Evaluator<'a>, name: &str, args: &[Val<'a>]) -> Out<'a> {
    let Some((target, rest)) = args.split_first() else {
        return Fault::overload();
    };
    match target {
        Val::Str(text) => string_call(ev, name, text, rest),
        Val::Quantity(q) => quantity_call(name, q, rest),
        Val::Url(url) => url_call(name, url, rest),
        Val::Ip(ip) => ip_call(name, *ip, rest),
        Val::Cidr(address, bits) => cidr_call(name, *address, *bits, rest),
        Val::Semver(version) => semver_call(name, *version, rest),
        Val::Timestamp(time) => time_call(name, *time, rest),
        Val::Duration(nanos) => duration_call(name, *nanos, rest),
        Val::Opt(inner) => optional_call(name, inner.as_deref(), rest),
        Val::Format(format) => match (name, rest) {
            ("validate", [Val::Str(s)]) => {
                let complaints = format_complaints(format, s);
                Ok(Val::Opt(
                    (!complaints.is_empty()).then(|| Box::new(Val::list(complaints.into_iter().map(Val::str).collect()))),
                ))
            }
            _ => Fault::overload(),
        },
        _ if name == "size" && rest.is_empty() => size(target),
        other => match other.items() {
            Some(items) => list_call(ev, name, &items, rest),
            None => Fault::overload(),
        },
    }
}

fn size<'a>(value: &Val<'a>) -> Out<'a> {
    match value {
        Val::Str(s) => Ok(from_len(s.chars().count())),
        Val::Bytes(b) => Ok(from_len(b.len())),
        other => other.len().map_or_else(Fault::overload, |n| Ok(from_len(n))),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn convert<'a>(to: &str, value: &Val<'a>) -> Out<'a> {
    let bad = |typ: &str| Fault::new(format!("type conversion error from '{}' to '{typ}'", value.type_name()));
    match (to, value) {
        ("int", Val::Int(_)) | ("uint", Val::Uint(_)) | ("double", Val::Double(_)) | ("bool", Val::Bool(_)) => Ok(value.clone()),
        ("string", Val::Str(_)) | ("bytes", Val::Bytes(_)) | ("duration", Val::Duration(_)) | ("timestamp", Val::Timestamp(_)) => {
            Ok(value.clone())
        }
        ("int", Val::Uint(u)) => i64::try_from(*u).map_or_else(|_| Fault::new("integer overflow"), |i| Ok(Val::Int(i))),
        ("int", Val::Double(d)) if d.abs() < 9.2e18 => Ok(Val::Int(*d as i64)),
        ("int", Val::Double(_)) => Fault::new("integer overflow"),
        ("int", Val::Str(s)) => s.parse().map_or_else(|_| bad("int"), |i| Ok(Val::Int(i))),
        ("int", Val::Timestamp(t)) => Ok(Val::Int(t.as_second())),
        ("uint", Val::Int(i)) => u64::try_from(*i).map_or_else(|_| Fault::new("unsigned integer overflow"), |u| Ok(Val::Uint(u))),
        ("uint", Val::Double(d)) if (0.0..1.8e19).contains(d) => Ok(Val::Uint(*d as u64)),
        ("uint", Val::Double(_)) => Fault::new("unsigned integer overflow"),
        ("uint", Val::Str(s)) => s.parse().map_or_else(|_| bad("uint"), |u| Ok(Val::Uint(u))),
        ("double", Val::Int(i)) => Ok(Val::Double(*i as f64)),
        ("double", Val::Uint(u)) => Ok(Val::Double(*u as f64)),
        ("double", Val::Str(s)) => s.parse().map_or_else(|_| bad("double"), |d| Ok(Val::Double(d))),
        ("bytes", Val::Str(s)) => Ok(Val::Bytes(Rc::new(s.as_bytes().to_vec()))),
        ("bool", Val::Str(s)) => match s.as_ref() {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            _ => bad("bool"),
        },
        ("duration", Val::Str(s)) => formats::parse_duration(s).map_or_else(
            || Fault::new(format!("time: invalid duration {}", gofmt::quote(s))),
            |d| Ok(Val::Duration(i128::from(d))),
        ),
        ("duration", Val::Int(i)) => Ok(Val::Duration(i128::from(*i))),
        ("timestamp", Val::Str(s)) => s.parse().map_or_else(
            |_| {
                Fault::new(format!(
                    "parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse",
                    gofmt::quote(s)
                ))
            },
            |t| Ok(Val::Timestamp(t)),
        ),
        ("timestamp", Val::Int(i)) => {
            jiff::Timestamp::from_second(*i).map_or_else(|_| Fault::new("timestamp overflow"), |t| Ok(Val::Timestamp(t)))
        }
        ("string", Val::Bytes(b)) => std::str::from_utf8(b).map_or_else(
            |_| Fault::new("invalid UTF-8 in bytes, cannot convert to string"),
            |s| Ok(Val::str(s)),
        ),
        (
            "string",
            Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Timestamp(_) | Val::Duration(_) | Val::Ip(_) | Val::Cidr(..),
        ) => Ok(Val::str(show(value))),
        _ => Fault::overload(),
    }
}

/// A value as text.
#[allow(clippy::cast_precision_loss)]
fn show(value: &Val<'_>) -> String {
    match value {
        Val::Null => "null".into(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => gofmt::float(*d),
        Val::Str(s) => s.to_string(),
        Val::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Val::Duration(d) => format!("{}s", gofmt::float(*d as f64 / 1e9)),
        Val::Timestamp(t) => t.to_string(),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(ip, bits) => format!("{ip}/{bits}"),
        Val::Url(url) => url.text.clone(),
        Val::Type(name) | Val::Format(name) => (*name).to_string(),
        Val::Semver([a, b, c]) => format!("{a}.{b}.{c}"),
        Val::Quantity(q) => gofmt::float(q.as_float()),
        Val::Opt(inner) => inner
            .as_ref()
            .map_or_else(|| "optional.none()".into(), |v| format!("optional({})", show(v))),
        Val::List(_) | Val::Map(_) | Val::Json(..) => match value.items() {
            Some(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            None => {
                let mut entries: Vec<String> = value
                    .range()
                    .unwrap_or_default()
                    .iter()
                    .map(|(k, v)| format!("{}: {}", show(k), show(v)))
                    .collect();
                entries.sort();
                format!("{{{}}}", entries.join(", "))
            }
        },
    }
}

fn string_call<'a>(ev: &mut Evaluator<'a>, name: &str, text: &str, args: &[Val<'a>]) -> Out<'a> {
    ev.charge(text.len() as u64 / 10)?;
    let chars = || text.chars().collect::<Vec<char>>();
    let position = |i: i64, max: usize| usize::try_from(i).ok().filter(|i| *i <= max);
    match (name, args) {
        ("size", []) => Ok(from_len(text.chars().count())),
        ("contains", [Val::Str(s)]) => {
            ev.charge((text.len() as u64 / 10 + 1) * (s.len() as u64 / 10 + 1))?;
            Ok(Val::Bool(text.contains(s.as_ref())))
        }
        ("startsWith", [Val::Str(s)]) => Ok(Val::Bool(text.starts_with(s.as_ref()))),
        ("endsWith", [Val::Str(s)]) => Ok(Val::Bool(text.ends_with(s.as_ref()))),
        ("matches", [Val::Str(pattern)]) => {
            ev.charge((text.len() as u64 / 10 + 1) * (pattern.len() as u64 / 4 + 1))?;
            Ok(Val::Bool(ev.regex(pattern)?.is_match(text)))
        }
        ("find", [Val::Str(pattern)]) => {
            ev.charge((text.len() as u64 / 10 + 1) * (pattern.len() as u64 / 4 + 1))?;
            Ok(Val::str(ev.regex(pattern)?.inner().find(text).map_or("", |m| m.as_str())))
        }
        ("findAll", [Val::Str(pattern)] | [Val::Str(pattern), Val::Int(_)]) => {
            ev.charge((text.len() as u64 / 10 + 1) * (pattern.len() as u64 / 4 + 1))?;
            let limit = match args.get(1) {
                Some(Val::Int(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let regex = ev.regex(pattern)?;
            Ok(Val::list(
                regex.inner().find_iter(text).take(limit).map(|m| Val::str(m.as_str())).collect(),
            ))
        }
        ("lowerAscii", []) => Ok(Val::str(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::str(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::str(text.trim())),
        ("reverse", []) => Ok(Val::str(text.chars().rev().collect::<String>())),
        ("charAt", [Val::Int(i)]) => {
            let chars = chars();
            match position(*i, chars.len()) {
                Some(i) => Ok(Val::str(chars.get(i).map(char::to_string).unwrap_or_default())),
                None => Fault::new(format!("index out of range: {i}")),
            }
        }
        ("indexOf" | "lastIndexOf", [Val::Str(s)] | [Val::Str(s), Val::Int(_)]) => {
            ev.charge((text.len() as u64 / 10 + 1) * (s.len() as u64 / 10 + 1))?;
            let (chars, wanted) = (chars(), s.chars().collect::<Vec<char>>());
            let offset = match args.get(1) {
                Some(Val::Int(i)) => match position(*i, chars.len()) {
                    Some(i) => Some(i),
                    None => return Fault::new(format!("index out of range: {i}")),
                },
                _ => None,
            };
            let fits = |at: &usize| chars.get(*at..*at + wanted.len()) == Some(wanted.as_slice());
            let last = chars.len().saturating_sub(wanted.len());
            let found = if wanted.len() > chars.len() {
                None
            } else if name == "indexOf" {
                (offset.unwrap_or(0)..=last).find(fits)
            } else {
                (0..=offset.unwrap_or(last).min(last)).rev().find(fits)
            };
            Ok(found.map_or(Val::Int(-1), from_len))
        }
        ("replace", [Val::Str(from), Val::Str(to)] | [Val::Str(from), Val::Str(to), Val::Int(_)]) => {
            let growth = (text.len() as u64 + 1) * (to.len() as u64 + 1);
            ev.charge(growth / 10)?;
            Ok(Val::str(match args.get(2) {
                Some(Val::Int(n)) if *n >= 0 => text.replacen(from.as_ref(), to, usize::try_from(*n).unwrap_or(usize::MAX)),
                _ => text.replace(from.as_ref(), to),
            }))
        }
        ("split", [Val::Str(by)] | [Val::Str(by), Val::Int(_)]) => {
            let limit = match args.get(1) {
                Some(Val::Int(n)) => *n,
                _ => -1,
            };
            let parts: Vec<String> = if by.is_empty() {
                text.chars().map(|c| c.to_string()).collect()
            } else {
                text.split(by.as_ref()).map(str::to_string).collect()
            };
            ev.charge(parts.len() as u64)?;
            Ok(Val::list(match usize::try_from(limit) {
                Ok(0) => Vec::new(),
                Ok(n) if n < parts.len() => {
                    let (head, tail) = parts.split_at(n - 1);
                    head.iter().cloned().chain([tail.join(by)]).map(Val::str).collect()
                }
                _ => parts.into_iter().map(Val::str).collect(),
            }))
        }
        ("substring", [Val::Int(from)] | [Val::Int(from), Val::Int(_)]) => {
            let chars = chars();
            let end = match args.get(1) {
                Some(Val::Int(end)) => position(*end, chars.len()),
                _ => Some(chars.len()),
            };
            match (position(*from, chars.len()), end) {
                (Some(from), Some(end)) if from <= end => Ok(Val::str(chars[from..end].iter().collect::<String>())),
                (Some(_), Some(_)) => Fault::new("invalid substring range"),
                _ => Fault::new("index out of range"),
            }
        }
        ("format", [list]) => match list.items() {
            Some(items) => format_text(ev, text, &items),
            None => Fault::overload(),
        },
        _ => Fault::overload(),
    }
}

/// `'%s is %d'.format([..])`.
fn format_text<'a>(ev: &mut Evaluator<'a>, template: &str, args: &[Val<'a>]) -> Out<'a> {
    let mut out = String::new();
    let mut next = args.iter();
    let mut chars = template.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        if chars.peek() == Some(&'.') {
            chars.next();
            let mut digits = String::new();
            while let Some(d) = chars.peek().filter(|d| d.is_ascii_digit()) {
                digits.push(*d);
                chars.next();
            }
            precision = digits.parse::<usize>().ok().filter(|p| *p <= 100);
        }
        let verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let Some(arg) = next.next() else {
            return Fault::new("index out of range: not enough arguments");
        };
        ev.charge(arg.weight())?;
        let number = match arg {
            Val::Double(d) => Some(*d),
            #[allow(clippy::cast_precision_loss)]
            Val::Int(i) => Some(*i as f64),
            _ => None,
        };
        out.push_str(&match (verb, arg) {
            (Some('s'), value) => show(value),
            (Some('d'), Val::Int(_) | Val::Uint(_)) => show(arg),
            (Some('f'), _) if number.is_some() => format!("{:.*}", precision.unwrap_or(6), number.unwrap_or_default()),
            (Some('e'), _) if number.is_some() => format!("{:.*e}", precision.unwrap_or(6), number.unwrap_or_default()),
            (Some('b'), Val::Int(i)) => format!("{}{:b}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('b'), Val::Bool(b)) => u8::from(*b).to_string(),
            (Some('o'), Val::Int(i)) => format!("{}{:o}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('x'), Val::Int(i)) => format!("{}{:x}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('X'), Val::Int(i)) => format!("{}{:X}", if *i < 0 { "-" } else { "" }, i.unsigned_abs()),
            (Some('x'), Val::Str(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
            (Some('X'), Val::Str(s)) => s.bytes().map(|b| format!("{b:02X}")).collect(),
            _ => return Fault::new("could not parse formatting clause: unrecognized formatting clause"),
        });
    }
    Ok(Val::str(out))
}

fn list_call<'a>(ev: &mut Evaluator<'a>, name: &str, items: &[Val<'a>], args: &[Val<'a>]) -> Out<'a> {
    ev.charge(items.len() as u64)?;
    match (name, args) {
        ("size", []) => Ok(from_len(items.len())),
        ("isSorted", []) => Ok(Val::Bool(
            items
                .windows(2)
                .all(|w| w[0].compare(&w[1]).is_some_and(|o| o != Ordering::Greater)),
        )),
        ("sum", []) => {
            let mut total = match items.first() {
                None | Some(Val::Int(_)) => Val::Int(0),
                Some(Val::Double(_)) => Val::Double(0.0),
                Some(Val::Uint(_)) => Val::Uint(0),
                Some(Val::Duration(_)) => Val::Duration(0),
                Some(_) => return Fault::overload(),
            };
            for item in items {
                total = arithmetic(ev, op::ADD, &total, item)?;
            }
            Ok(total)
        }
        ("min" | "max", []) => {
            let Some(mut best) = items.first() else {
                return Fault::new(format!("{name} called on empty list"));
            };
            let better = if name == "min" { Ordering::Less } else { Ordering::Greater };
            for item in items {
                match item.compare(best) {
                    Some(order) if order == better => best = item,
                    Some(_) => {}
                    None => return Fault::overload(),
                }
            }
            Ok(best.clone())
        }
        ("indexOf", [wanted]) => Ok(items.iter().position(|i| i.equal(wanted)).map_or(Val::Int(-1), from_len)),
        ("lastIndexOf", [wanted]) => Ok(items.iter().rposition(|i| i.equal(wanted)).map_or(Val::Int(-1), from_len)),
        ("includes", [wanted]) => Ok(Val::Bool(items.iter().any(|i| i.equal(wanted)))),
        ("join", [] | [Val::Str(_)]) => {
            let separator = match args.first() {
                Some(Val::Str(s)) => s.clone(),
                _ => Cow::Borrowed(""),
            };
            let mut out = String::new();
            for (i, item) in items.iter().enumerate() {
                let Val::Str(text) = item else { return Fault::overload() };
                if i > 0 {
                    out.push_str(&separator);
                }
                out.push_str(text);
            }
            ev.charge(out.len() as u64 / 10)?;
            Ok(Val::str(out))
        }
        ("slice", [Val::Int(from), Val::Int(to)]) => match (usize::try_from(*from), usize::try_from(*to)) {
            (Ok(from), Ok(to)) if from <= to && to <= items.len() => Ok(Val::list(items[from..to].to_vec())),
            _ => Fault::new(format!("cannot slice({from}, {to}), list is length {}", items.len())),
        },
        ("reverse", []) => Ok(Val::list(items.iter().rev().cloned().collect())),
        ("distinct", []) => {
            ev.charge(items.len() as u64 * items.len() as u64)?;
            let mut out: Vec<Val<'a>> = Vec::new();
            for item in items {
                if !out.iter().any(|o| o.equal(item)) {
                    out.push(item.clone());
                }
            }
            Ok(Val::list(out))
        }
        ("sort", []) => {
            let mut out = items.to_vec();
            let mut comparable = true;
            out.sort_by(|a, b| {
                a.compare(b).unwrap_or_else(|| {
                    comparable = false;
                    Ordering::Equal
                })
            });
            if comparable { Ok(Val::list(out)) } else { Fault::overload() }
        }
        ("flatten", [] | [Val::Int(_)]) => {
            let depth = match args.first() {
                Some(Val::Int(n)) if *n < 0 => return Fault::new("level must be non-negative"),
                Some(Val::Int(n)) => *n,
                _ => 1,
            };
            let mut out = Vec::new();
            flatten(ev, items, depth.min(100), &mut out)?;
            Ok(Val::list(out))
        }
        _ => Fault::overload(),
    }
}

fn flatten<'a>(ev: &mut Evaluator<'a>, items: &[Val<'a>], depth: i64, out: &mut Vec<Val<'a>>) -> Result<(), Fault> {
    ev.charge(items.len() as u64)?;
    for item in items {
        match item.items() {
            Some(inner) if depth > 0 => flatten(ev, &inner, depth - 1, out)?,
            _ => out.push(item.clone()),
        }
    }
    Ok(())
}

fn time_call<'a>(name: &str, time: jiff::Timestamp, args: &[Val<'a>]) -> Out<'a> {
    let zone = match args {
        [] => jiff::tz::TimeZone::UTC,
        [Val::Str(zone)] if zone.as_ref() == "UTC" => jiff::tz::TimeZone::UTC,
        [Val::Str(zone)] => match jiff::tz::TimeZone::get(zone) {
            Ok(zone) => zone,
            Err(_) => return Fault::new(format!("unknown time zone {zone}")),
        },
        _ => return Fault::overload(),
    };
    let local = time.to_zoned(zone);
    Ok(Val::Int(match name {
        "getFullYear" => i64::from(local.year()),
        "getMonth" => i64::from(local.month()) - 1,
        "getDayOfYear" => i64::from(local.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(local.day()) - 1,
        "getDate" => i64::from(local.day()),
        "getDayOfWeek" => i64::from(local.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(local.hour()),
        "getMinutes" => i64::from(local.minute()),
        "getSeconds" => i64::from(local.second()),
        "getMilliseconds" => i64::from(local.millisecond()),
        _ => return Fault::overload(),
    }))
}

fn duration_call<'a>(name: &str, nanos: i128, args: &[Val<'a>]) -> Out<'a> {
    if !args.is_empty() {
        return Fault::overload();
    }
    let whole = |per: i128| i64::try_from(nanos / per).map_or_else(|_| Fault::new("integer overflow"), |i| Ok(Val::Int(i)));
    match name {
        "getHours" => whole(3_600_000_000_000),
        "getMinutes" => whole(60_000_000_000),
        "getSeconds" => whole(1_000_000_000),
        "getMilliseconds" => whole(1_000_000),
        _ => Fault::overload(),
    }
}

fn optional_call<'a>(name: &str, inner: Option<&Val<'a>>, args: &[Val<'a>]) -> Out<'a> {
    match (name, args, inner) {
        ("hasValue", [], inner) => Ok(Val::Bool(inner.is_some())),
        ("value", [], Some(value)) => Ok(value.clone()),
        ("value", [], None) => Fault::new("optional.none() dereference"),
        ("orValue", [_], Some(value)) => Ok(value.clone()),
        ("orValue", [other], None) => Ok(other.clone()),
        ("or", [_], Some(value)) => Ok(Val::Opt(Some(Box::new(value.clone())))),
        ("or", [other @ Val::Opt(_)], None) => Ok(other.clone()),
        _ => Fault::overload(),
    }
}
