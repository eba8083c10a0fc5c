//! The functions rules may call: CEL's standard library, its string, list, set and optional extensions, and the
//! Kubernetes libraries (quantity, URL, IP, CIDR, regex, format, semver).

use super::super::{formats, gofmt, names};
use super::eval::{Evaluator, Fault};
use super::quantity::Quantity;
use super::value::{Url, Val, same_keys};
use super::super::structural::ListType;
use cel::common::ast::operators as op;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

type Out<'a> = Result<Val<'a>, Fault>;

/// The type that a name denotes.
pub(super) fn type_value(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 16] = [
        "int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type", "google.protobuf.Duration",
        "google.protobuf.Timestamp", "kubernetes.Quantity", "kubernetes.URL", "net.IP", "net.CIDR",
    ];
    TYPES.iter().find(|t| **t == name).copied()
}

/// A named format of the format library.
pub(super) fn format_name(name: &str) -> Option<&'static str> {
    const FORMATS: [&str; 15] = [
        "dns1123Label", "dns1123Subdomain", "dns1035Label", "qualifiedName", "dns1123LabelPrefix", "dns1123SubdomainPrefix", "dns1035LabelPrefix",
        "labelValue", "uri", "uuid", "byte", "date", "datetime", "email", "hostname",
    ];
    FORMATS.iter().find(|f| **f == name).copied()
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
    let (Some(mut x), Some(y)) = (a.items(), b.items()) else { return Fault::overload() };
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
                    if node.list_type == ListType::Set { other.equal(&item) } else { same_keys(other, &item, &node.list_keys) }
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
            None => Fault::new(format!("URL parse error during conversion from string: parse {}: invalid URI for request", gofmt::quote(s))),
        },
        ("isURL", [Val::Str(s)]) => Ok(Val::Bool(parse_url(s).is_some())),
        ("ip", [Val::Str(s)]) => parse_ip(s).map(Val::Ip),
        ("isIP", [Val::Str(s)]) => Ok(Val::Bool(parse_ip(s).is_ok())),
        ("cidr", [Val::Str(s)]) => parse_cidr(s).map(|(a, n)| Val::Cidr(a, n)),
        ("isCIDR", [Val::Str(s)]) => Ok(Val::Bool(parse_cidr(s).is_ok())),
        ("semver", [Val::Str(s)]) => parse_semver(s).map_or_else(|| Fault::new("No Major.Minor.Patch elements found"), |v| Ok(Val::Semver(v))),
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
            let (Some(a), Some(b)) = (a.items(), b.items()) else { return Fault::overload() };
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
    let Some((target, rest)) = args.split_first() else { return Fault::overload() };
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
                Ok(Val::Opt((!complaints.is_empty()).then(|| Box::new(Val::list(complaints.into_iter().map(Val::str).collect())))))
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
        ("string", Val::Str(_)) | ("bytes", Val::Bytes(_)) | ("duration", Val::Duration(_)) | ("timestamp", Val::Timestamp(_)) => Ok(value.clone()),
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
        ("duration", Val::Str(s)) => {
            formats::parse_duration(s).map_or_else(|| Fault::new(format!("time: invalid duration {}", gofmt::quote(s))), |d| Ok(Val::Duration(i128::from(d))))
        }
        ("duration", Val::Int(i)) => Ok(Val::Duration(i128::from(*i))),
        ("timestamp", Val::Str(s)) => s.parse().map_or_else(
            |_| Fault::new(format!("parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse", gofmt::quote(s))),
            |t| Ok(Val::Timestamp(t)),
        ),
        ("timestamp", Val::Int(i)) => jiff::Timestamp::from_second(*i).map_or_else(|_| Fault::new("timestamp overflow"), |t| Ok(Val::Timestamp(t))),
        ("string", Val::Bytes(b)) => std::str::from_utf8(b).map_or_else(|_| Fault::new("invalid UTF-8 in bytes, cannot convert to string"), |s| Ok(Val::str(s))),
        ("string", Val::Bool(_) | Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Timestamp(_) | Val::Duration(_) | Val::Ip(_) | Val::Cidr(..)) => {
            Ok(Val::str(show(value)))
        }
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
        Val::Opt(inner) => inner.as_ref().map_or_else(|| "optional.none()".into(), |v| format!("optional({})", show(v))),
        Val::List(_) | Val::Map(_) | Val::Json(..) => match value.items() {
            Some(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            None => {
                let mut entries: Vec<String> = value.range().unwrap_or_default().iter().map(|(k, v)| format!("{}: {}", show(k), show(v))).collect();
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
            Ok(Val::list(regex.inner().find_iter(text).take(limit).map(|m| Val::str(m.as_str())).collect()))
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
        let Some(arg) = next.next() else { return Fault::new("index out of range: not enough arguments") };
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
        ("isSorted", []) => {
            Ok(Val::Bool(items.windows(2).all(|w| w[0].compare(&w[1]).is_some_and(|o| o != Ordering::Greater))))
        }
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
            let Some(mut best) = items.first() else { return Fault::new(format!("{name} called on empty list")) };
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

fn quantity_call<'a>(name: &str, q: &Quantity, args: &[Val<'a>]) -> Out<'a> {
    let made = |q: Quantity| Ok(Val::Quantity(Rc::new(q)));
    match (name, args) {
        ("isGreaterThan", [Val::Quantity(o)]) => Ok(Val::Bool(q.cmp(o) == Ordering::Greater)),
        ("isLessThan", [Val::Quantity(o)]) => Ok(Val::Bool(q.cmp(o) == Ordering::Less)),
        ("compareTo", [Val::Quantity(o)]) => Ok(Val::Int(q.cmp(o) as i64)),
        ("sign", []) => Ok(Val::Int(q.sign())),
        ("isInteger", []) => Ok(Val::Bool(q.as_int().is_some())),
        ("asInteger", []) => q.as_int().map_or_else(|| Fault::new("cannot convert value to integer"), |i| Ok(Val::Int(i))),
        ("asApproximateFloat", []) => Ok(Val::Double(q.as_float())),
        ("add", [Val::Quantity(o)]) => made(q.add(o)),
        ("add", [Val::Int(i)]) => made(q.add(&Quantity::from_int(*i))),
        ("sub", [Val::Quantity(o)]) => made(q.sub(o)),
        ("sub", [Val::Int(i)]) => made(q.sub(&Quantity::from_int(*i))),
        _ => Fault::overload(),
    }
}

fn parse_url(text: &str) -> Option<Url> {
    if formats::check("uri", text) != Some(true) {
        return None;
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None if text.starts_with('/') => {
            let (path, query) = text.split_once('?').unwrap_or((text, ""));
            return Some(Url { scheme: String::new(), host: String::new(), path: path.into(), query: query.into(), text: text.into() });
        }
        None => {
            let (scheme, _) = text.split_once(':')?;
            return Some(Url { scheme: scheme.to_ascii_lowercase(), host: String::new(), path: String::new(), query: String::new(), text: text.into() });
        }
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    Some(Url { scheme, host: host.into(), path: path.into(), query: query.into(), text: text.into() })
}

fn url_call<'a>(name: &str, url: &Url, args: &[Val<'a>]) -> Out<'a> {
    if !args.is_empty() {
        return Fault::overload();
    }
    let port_at = match url.host.rfind(']') {
        Some(end) => url.host[end..].find(':').map(|i| end + i),
        None => url.host.rfind(':'),
    };
    match name {
        "getScheme" => Ok(Val::str(url.scheme.clone())),
        "getHost" => Ok(Val::str(url.host.clone())),
        "getHostname" => Ok(Val::str(port_at.map_or(url.host.as_str(), |i| &url.host[..i]).trim_matches(['[', ']']))),
        "getPort" => Ok(Val::str(port_at.map_or("", |i| &url.host[i + 1..]))),
        "getEscapedPath" => Ok(Val::str(url.path.clone())),
        "getQuery" => {
            let mut out: Vec<(Val<'a>, Vec<Val<'a>>)> = Vec::new();
            for pair in url.query.split('&').filter(|p| !p.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                let (key, value) = (Val::str(unescape_query(key)), Val::str(unescape_query(value)));
                match out.iter_mut().find(|(k, _)| k.equal(&key)) {
                    Some((_, values)) => values.push(value),
                    None => out.push((key, vec![value])),
                }
            }
            Ok(Val::Map(Rc::new(out.into_iter().map(|(k, v)| (k, Val::list(v))).collect())))
        }
        _ => Fault::overload(),
    }
}

fn unescape_query(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 2;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse_ip(text: &str) -> Result<IpAddr, Fault> {
    let quoted = gofmt::quote(text);
    if text.contains('%') {
        return Err(Fault::Error(format!("IP address {quoted} with zone value is not allowed")));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => Err(Fault::Error(format!("IPv4-mapped IPv6 address {quoted} is not allowed"))),
        Ok(ip) => Ok(ip),
        Err(_) => Err(Fault::Error(format!("IP Address {quoted} parse error during conversion from string: ParseAddr({quoted}): unable to parse IP"))),
    }
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), Fault> {
    let bad = || Fault::Error(format!("network address parse error during conversion from string: netip.ParsePrefix({}): no '/'", gofmt::quote(text)));
    let (address, bits) = text.split_once('/').ok_or_else(bad)?;
    let address = parse_ip(address).map_err(|_| bad())?;
    let digits_ok = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
    let bits: u8 = if digits_ok { bits.parse().map_err(|_| bad())? } else { return Err(bad()) };
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(bad());
    }
    Ok((address, bits))
}

fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

fn ip_call<'a>(name: &str, ip: IpAddr, args: &[Val<'a>]) -> Out<'a> {
    if !args.is_empty() {
        return Fault::overload();
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_local_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local),
        "isGlobalUnicast" => Val::Bool(!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast)),
        _ => return Fault::overload(),
    })
}

fn cidr_call<'a>(name: &str, address: IpAddr, bits: u8, args: &[Val<'a>]) -> Out<'a> {
    let within = |ip: IpAddr| ip.is_ipv4() == address.is_ipv4() && mask(ip, bits) == mask(address, bits);
    match (name, args) {
        ("containsIP", [Val::Ip(ip)]) => Ok(Val::Bool(within(*ip))),
        ("containsIP", [Val::Str(s)]) => parse_ip(s).map(|ip| Val::Bool(within(ip))),
        ("containsCIDR", [Val::Cidr(other, n)]) => Ok(Val::Bool(*n >= bits && within(*other))),
        ("containsCIDR", [Val::Str(s)]) => parse_cidr(s).map(|(other, n)| Val::Bool(n >= bits && within(other))),
        ("ip", []) => Ok(Val::Ip(address)),
        ("prefixLength", []) => Ok(Val::Int(i64::from(bits))),
        ("masked", []) => Ok(Val::Cidr(mask(address, bits), bits)),
        _ => Fault::overload(),
    }
}

fn parse_semver(text: &str) -> Option<[u64; 3]> {
    let core = text.split(['-', '+']).next()?;
    let mut parts = core.split('.');
    let mut out = [0; 3];
    for slot in &mut out {
        let part = parts.next()?;
        if part.len() > 1 && part.starts_with('0') || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(out)
}

fn parse_semver_loose(text: &str, loose: bool) -> Option<[u64; 3]> {
    if !loose {
        return parse_semver(text);
    }
    let text = text.strip_prefix('v').unwrap_or(text);
    let core = text.split(['-', '+']).next()?;
    let mut numbers: Vec<String> = core.split('.').map(|p| p.parse::<u64>().ok().map(|n| n.to_string())).collect::<Option<_>>()?;
    while numbers.len() < 3 {
        numbers.push("0".into());
    }
    parse_semver(&numbers.join("."))
}

fn semver_call<'a>(name: &str, v: [u64; 3], args: &[Val<'a>]) -> Out<'a> {
    let part = |n: u64| Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match (name, args) {
        ("isGreaterThan", [Val::Semver(o)]) => Ok(Val::Bool(v > *o)),
        ("isLessThan", [Val::Semver(o)]) => Ok(Val::Bool(v < *o)),
        ("compareTo", [Val::Semver(o)]) => Ok(Val::Int(v.cmp(o) as i64)),
        ("major", []) => part(v[0]),
        ("minor", []) => part(v[1]),
        ("patch", []) => part(v[2]),
        _ => Fault::overload(),
    }
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

fn format_complaints(format: &str, text: &str) -> Vec<String> {
    let prefix = |check: fn(&str) -> Vec<String>| match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => check(&format!("{rest}a")),
        _ => check(text),
    };
    let simple = |name: &str| {
        if formats::check(name, text) == Some(true) { Vec::new() } else { vec![format!("invalid {name}")] }
    };
    match format {
        "dns1123Label" => names::dns1123_label(text),
        "dns1123Subdomain" => names::dns1123_subdomain(text),
        "dns1035Label" => names::dns1035_label(text),
        "dns1123LabelPrefix" => prefix(names::dns1123_label),
        "dns1123SubdomainPrefix" => prefix(names::dns1123_subdomain),
        "dns1035LabelPrefix" => prefix(names::dns1035_label),
        "qualifiedName" => names::qualified_name(text),
        "labelValue" => names::label_value(text),
        "uuid" => {
            if formats::check("uuid", text) == Some(true) {
                Vec::new()
            } else {
                vec!["does not match the UUID format".into()]
            }
        }
        "byte" => {
            if formats::check("byte", text) == Some(true) {
                Vec::new()
            } else {
                vec!["invalid base64".into()]
            }
        }
        other => simple(other),
    }
}
