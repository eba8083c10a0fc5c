//! Values of rules. Parts of the object are borrowed: only what a rule computes is built.

use super::super::structural::{Additional, JsonType, ListType, Node};
use super::super::{formats, gofmt};
use super::quantity::Quantity;
use serde_json::Value as Json;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Cow<'a, str>),
    Bytes(Rc<Vec<u8>>),
    List(Rc<Vec<Val<'a>>>),
    Map(Rc<Vec<(Val<'a>, Val<'a>)>>),
    /// A list or object of the object under validation.
    Json(&'a Json, Option<&'a Node>),
    Duration(i128),
    Timestamp(jiff::Timestamp),
    Quantity(Rc<Quantity>),
    Url(Rc<Url>),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Format(&'static str),
    Semver([u64; 3]),
    Opt(Option<Box<Val<'a>>>),
    Type(&'static str),
}

/// A parsed URL.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Url {
    pub scheme: String,
    pub host: String,
    pub path: String,
    pub query: String,
    pub text: String,
}

impl<'a> Val<'a> {
    /// A part of the object, by its schema.
    pub(super) fn of(value: &'a Json, node: Option<&'a Node>) -> Self {
        match value {
            Json::Null => Self::Null,
            Json::Bool(b) => Self::Bool(*b),
            Json::Number(n) => match (gofmt::Num::of(n), node.map(|n| n.typ)) {
                (number, Some(JsonType::Number)) => Self::Double(number.as_f64()),
                (gofmt::Num::Int(i), _) => Self::Int(i),
                #[allow(clippy::cast_possible_truncation)]
                (gofmt::Num::Float(f), Some(JsonType::Integer)) => Self::Int(f as i64),
                (gofmt::Num::Float(f), _) => Self::Double(f),
            },
            Json::String(s) => Self::of_string(s, node),
            Json::Array(_) | Json::Object(_) => Self::Json(value, node),
        }
    }

    fn of_string(text: &'a str, node: Option<&'a Node>) -> Self {
        let format = node.filter(|n| !n.int_or_string).and_then(|n| n.validation.format.as_deref());
        match format {
            Some("duration") => formats::parse_duration(text).map_or(Self::Str(Cow::Borrowed(text)), |d| Self::Duration(i128::from(d))),
            Some("date-time" | "datetime") => text.parse().map_or(Self::Str(Cow::Borrowed(text)), Self::Timestamp),
            Some("date") => format!("{text}T00:00:00Z")
                .parse()
                .map_or(Self::Str(Cow::Borrowed(text)), Self::Timestamp),
            Some("byte") => {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .map_or(Self::Str(Cow::Borrowed(text)), |b| Self::Bytes(Rc::new(b)))
            }
            _ => Self::Str(Cow::Borrowed(text)),
        }
    }

    pub(super) fn str(text: impl Into<String>) -> Self {
        Self::Str(Cow::Owned(text.into()))
    }

    pub(super) fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(Rc::new(items))
    }

    /// Name of the value's type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Str(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) | Self::Json(Json::Array(_), _) => "list",
            Self::Map(_) | Self::Json(..) => "map",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Opt(_) => "optional_type",
            Self::Type(_) => "type",
        }
    }

    /// Number of entries of a list or map.
    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Self::List(items) => Some(items.len()),
            Self::Map(entries) => Some(entries.len()),
            Self::Json(Json::Array(items), _) => Some(items.len()),
            Self::Json(Json::Object(map), _) => Some(map.len()),
            _ => None,
        }
    }

    /// The entries of a list.
    pub(super) fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Self::List(items) => Some(items.as_ref().clone()),
            Self::Json(Json::Array(items), node) => {
                let schema = node.and_then(|n| n.items.as_deref());
                Some(items.iter().map(|i| Val::of(i, schema)).collect())
            }
            _ => None,
        }
    }

    /// What a loop runs over: entries of a list, keys of a map; the second is the value under the key.
    pub(super) fn range(&self) -> Option<Vec<(Val<'a>, Val<'a>)>> {
        match self {
            Self::Map(entries) => Some(entries.as_ref().clone()),
            Self::Json(Json::Object(map), node) => Some(
                map.iter()
                    .map(|(k, v)| (Val::Str(Cow::Borrowed(k.as_str())), Val::of(v, node.and_then(|n| n.child(k)))))
                    .collect(),
            ),
            other => {
                let items = other.items()?;
                #[allow(clippy::cast_possible_wrap)]
                Some(items.into_iter().enumerate().map(|(i, v)| (Val::Int(i as i64), v)).collect())
            }
        }
    }

    /// A list entry or the value of a key.
    pub(super) fn get(&self, key: &Val<'a>) -> Option<Val<'a>> {
        match self {
            Self::List(items) => items.get(key.index()?).cloned(),
            Self::Json(Json::Array(items), node) => items.get(key.index()?).map(|i| Val::of(i, node.and_then(|n| n.items.as_deref()))),
            Self::Map(entries) => entries.iter().find(|(k, _)| k.equal(key)).map(|(_, v)| v.clone()),
            Self::Json(Json::Object(map), node) => match key {
                Val::Str(name) => self.field_of(map, *node, name),
                _ => None,
            },
            _ => None,
        }
    }

    fn field_of(&self, map: &'a serde_json::Map<String, Json>, node: Option<&'a Node>, name: &str) -> Option<Val<'a>> {
        let value = map.get(name)?;
        Some(Val::of(value, node.and_then(|n| n.child(name))))
    }

    /// A field of an object, by the name the object uses.
    pub(super) fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Json(Json::Object(map), node) => self.field_of(map, *node, name),
            Self::Map(entries) => entries
                .iter()
                .find(|(k, _)| matches!(k, Val::Str(s) if s == name))
                .map(|(_, v)| v.clone()),
            _ => None,
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn index(&self) -> Option<usize> {
        match self {
            Self::Int(i) => usize::try_from(*i).ok(),
            Self::Uint(u) => usize::try_from(*u).ok(),
            Self::Double(f) if f.fract() == 0.0 && *f >= 0.0 => Some(*f as usize),
            _ => None,
        }
    }

    fn list_type(&self) -> Option<&'a Node> {
        match self {
            Self::Json(Json::Array(_), Some(node)) if matches!(node.list_type, ListType::Set | ListType::Map) => Some(node),
            _ => None,
        }
    }

    /// Equality; sets and maps of the schema do not depend on order.
    pub(super) fn equal(&self, other: &Self) -> bool {
        if let Some(order) = self.numeric_cmp(other) {
            return order == Some(Ordering::Equal);
        }
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Str(a), Self::Str(b)) => a == b,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::Timestamp(a), Self::Timestamp(b)) => a == b,
            (Self::Quantity(a), Self::Quantity(b)) => a.cmp(b) == Ordering::Equal,
            (Self::Url(a), Self::Url(b)) => a == b,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, x), Self::Cidr(b, y)) => a == b && x == y,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            (Self::Format(a), Self::Format(b)) | (Self::Type(a), Self::Type(b)) => a == b,
            (Self::Opt(a), Self::Opt(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.equal(b),
                _ => false,
            },
            (Self::Json(a, _), Self::Json(b, _)) if self.list_type().is_none() && std::ptr::eq(*a, *b) => true,
            _ => self.equal_collections(other),
        }
    }

    fn equal_collections(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.items(), other.items()) {
            if a.len() != b.len() {
                return false;
            }
            return match self.list_type().or(other.list_type()) {
                Some(node) if node.list_type == ListType::Set => a.iter().all(|x| b.iter().any(|y| x.equal(y))),
                Some(node) => a.iter().all(|x| b.iter().any(|y| same_keys(x, y, &node.list_keys) && x.equal(y))),
                None => a.iter().zip(&b).all(|(x, y)| x.equal(y)),
            };
        }
        if matches!(self.type_name(), "map") && matches!(other.type_name(), "map") && self.len() == other.len() {
            return self
                .range()
                .unwrap_or_default()
                .iter()
                .all(|(k, v)| other.get(k).is_some_and(|w| v.equal(&w)));
        }
        false
    }

    /// Order of two numbers of any kind; the outer `None` when one is no number.
    #[allow(clippy::cast_precision_loss)]
    fn numeric_cmp(&self, other: &Self) -> Option<Option<Ordering>> {
        Some(match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Uint(a), Self::Uint(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Uint(a), Self::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Self::Int(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Self::Uint(a), Self::Double(b)) => (*a as f64).partial_cmp(b),
            (Self::Double(a), Self::Uint(b)) => a.partial_cmp(&(*b as f64)),
            _ => return None,
        })
    }

    /// Order of two values; `None` when they have none.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        if let Some(order) = self.numeric_cmp(other) {
            return order;
        }
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Str(a), Self::Str(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Duration(a), Self::Duration(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// How much work reading the whole value is.
    pub(super) fn weight(&self) -> u64 {
        match self {
            Self::Str(s) => s.len() as u64 / 10 + 1,
            Self::Bytes(b) => b.len() as u64 / 10 + 1,
            Self::List(_) | Self::Map(_) => self.len().unwrap_or(0) as u64 + 1,
            Self::Json(json, _) => json_weight(json),
            _ => 1,
        }
    }
}

fn json_weight(json: &Json) -> u64 {
    match json {
        Json::Array(items) => 1 + items.iter().map(json_weight).sum::<u64>(),
        Json::Object(map) => 1 + map.values().map(json_weight).sum::<u64>(),
        Json::String(s) => s.len() as u64 / 10 + 1,
        _ => 1,
    }
}

pub(super) fn same_keys(a: &Val<'_>, b: &Val<'_>, keys: &[String]) -> bool {
    keys.iter().all(|k| match (a.field(k), b.field(k)) {
        (Some(x), Some(y)) => x.equal(&y),
        (None, None) => true,
        _ => false,
    })
}

/// Whether a schema declares any value for additional keys.
pub(super) fn additional(node: &Node) -> Option<&Node> {
    match &node.additional {
        Some(Additional::Schema(schema)) => Some(schema),
        _ => None,
    }
}
