//! Kubernetes' protobuf, as far as clients insist on sending it.
//!
//! Typed clients (also inside kubectl: `create namespace`, `create secret`, `auth can-i`) send core kinds as protobuf and do
//! not fall back to JSON. Bodies are decoded by the tables below into the JSON form of the same object; answers are always
//! JSON, which such clients accept. Custom resources have no protobuf form, here as in the real server.
//!
//! The decoder knows every length before it reads, nests only as deep as the tables, and skips fields it does not know.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::metadata::time_text;

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

/// How a field is written and what it means.
enum Is {
    /// Text; the empty text is absent.
    Text,
    /// A number; whether zero is a value (a Go pointer) or absent.
    Number { zero: bool },
    /// A truth value.
    Bool,
    /// Seconds and nanoseconds, shown with whole seconds.
    Time,
    /// The same, shown with microseconds.
    MicroTime,
    /// A message.
    Message(&'static [Field]),
    /// A map of texts.
    Texts,
    /// A map of bytes, base64 in JSON.
    Blobs,
    /// JSON inside a message of one field.
    Raw,
}

struct Field {
    number: u64,
    name: &'static str,
    is: Is,
    many: bool,
}

const fn one(number: u64, name: &'static str, is: Is) -> Field {
    Field {
        number,
        name,
        is,
        many: false,
    }
}

const fn text(number: u64, name: &'static str) -> Field {
    one(number, name, Is::Text)
}

const fn many(number: u64, name: &'static str, is: Is) -> Field {
    Field {
        number,
        name,
        is,
        many: true,
    }
}

const NUMBER: Is = Is::Number { zero: true };
const COUNT: Is = Is::Number { zero: false };

static OWNER: [Field; 6] = [
    text(1, "kind"),
    text(3, "name"),
    text(4, "uid"),
    text(5, "apiVersion"),
    one(6, "controller", Is::Bool),
    one(7, "blockOwnerDeletion", Is::Bool),
];
static MANAGED: [Field; 7] = [
    text(1, "manager"),
    text(2, "operation"),
    text(3, "apiVersion"),
    one(4, "time", Is::Time),
    text(6, "fieldsType"),
    one(7, "fieldsV1", Is::Raw),
    text(8, "subresource"),
];
static META: [Field; 15] = [
    text(1, "name"),
    text(2, "generateName"),
    text(3, "namespace"),
    text(4, "selfLink"),
    text(5, "uid"),
    text(6, "resourceVersion"),
    one(7, "generation", COUNT),
    one(8, "creationTimestamp", Is::Time),
    one(9, "deletionTimestamp", Is::Time),
    one(10, "deletionGracePeriodSeconds", NUMBER),
    one(11, "labels", Is::Texts),
    one(12, "annotations", Is::Texts),
    many(13, "ownerReferences", Is::Message(&OWNER)),
    many(14, "finalizers", Is::Text),
    many(17, "managedFields", Is::Message(&MANAGED)),
];
static REFERENCE: [Field; 7] = [
    text(1, "kind"),
    text(2, "namespace"),
    text(3, "name"),
    text(4, "uid"),
    text(5, "apiVersion"),
    text(6, "resourceVersion"),
    text(7, "fieldPath"),
];
static LOCAL: [Field; 1] = [text(1, "name")];
static NAMESPACE_SPEC: [Field; 1] = [many(1, "finalizers", Is::Text)];
static NAMESPACE_CONDITION: [Field; 5] = [
    text(1, "type"),
    text(2, "status"),
    one(4, "lastTransitionTime", Is::Time),
    text(5, "reason"),
    text(6, "message"),
];
static NAMESPACE_STATUS: [Field; 2] = [text(1, "phase"), many(2, "conditions", Is::Message(&NAMESPACE_CONDITION))];
static NAMESPACE: [Field; 3] = [
    one(1, "metadata", Is::Message(&META)),
    one(2, "spec", Is::Message(&NAMESPACE_SPEC)),
    one(3, "status", Is::Message(&NAMESPACE_STATUS)),
];
static CONFIG_MAP: [Field; 4] = [
    one(1, "metadata", Is::Message(&META)),
    one(2, "data", Is::Texts),
    one(3, "binaryData", Is::Blobs),
    one(4, "immutable", Is::Bool),
];
static SECRET: [Field; 5] = [
    one(1, "metadata", Is::Message(&META)),
    one(2, "data", Is::Blobs),
    text(3, "type"),
    one(4, "stringData", Is::Texts),
    one(5, "immutable", Is::Bool),
];
static SERVICE_ACCOUNT: [Field; 4] = [
    one(1, "metadata", Is::Message(&META)),
    many(2, "secrets", Is::Message(&REFERENCE)),
    many(3, "imagePullSecrets", Is::Message(&LOCAL)),
    one(4, "automountServiceAccountToken", Is::Bool),
];
static SOURCE: [Field; 2] = [text(1, "component"), text(2, "host")];
static SERIES: [Field; 2] = [one(1, "count", COUNT), one(2, "lastObservedTime", Is::MicroTime)];
static CORE_EVENT: [Field; 15] = [
    one(1, "metadata", Is::Message(&META)),
    one(2, "involvedObject", Is::Message(&REFERENCE)),
    text(3, "reason"),
    text(4, "message"),
    one(5, "source", Is::Message(&SOURCE)),
    one(6, "firstTimestamp", Is::Time),
    one(7, "lastTimestamp", Is::Time),
    one(8, "count", COUNT),
    text(9, "type"),
    one(10, "eventTime", Is::MicroTime),
    one(11, "series", Is::Message(&SERIES)),
    text(12, "action"),
    one(13, "related", Is::Message(&REFERENCE)),
    text(14, "reportingComponent"),
    text(15, "reportingInstance"),
];
static EVENT: [Field; 15] = [
    one(1, "metadata", Is::Message(&META)),
    one(2, "eventTime", Is::MicroTime),
    one(3, "series", Is::Message(&SERIES)),
    text(4, "reportingController"),
    text(5, "reportingInstance"),
    text(6, "action"),
    text(7, "reason"),
    one(8, "regarding", Is::Message(&REFERENCE)),
    one(9, "related", Is::Message(&REFERENCE)),
    text(10, "note"),
    text(11, "type"),
    one(12, "deprecatedSource", Is::Message(&SOURCE)),
    one(13, "deprecatedFirstTimestamp", Is::Time),
    one(14, "deprecatedLastTimestamp", Is::Time),
    one(15, "deprecatedCount", COUNT),
];
static LEASE_SPEC: [Field; 7] = [
    text(1, "holderIdentity"),
    one(2, "leaseDurationSeconds", NUMBER),
    one(3, "acquireTime", Is::MicroTime),
    one(4, "renewTime", Is::MicroTime),
    one(5, "leaseTransitions", NUMBER),
    text(6, "strategy"),
    text(7, "preferredHolder"),
];
static LEASE: [Field; 2] = [one(1, "metadata", Is::Message(&META)), one(2, "spec", Is::Message(&LEASE_SPEC))];
static PRECONDITIONS: [Field; 2] = [text(1, "uid"), text(2, "resourceVersion")];
static DELETE_OPTIONS: [Field; 5] = [
    one(1, "gracePeriodSeconds", NUMBER),
    one(2, "preconditions", Is::Message(&PRECONDITIONS)),
    one(3, "orphanDependents", Is::Bool),
    text(4, "propagationPolicy"),
    many(5, "dryRun", Is::Text),
];
static ATTRIBUTES: [Field; 7] = [
    text(1, "namespace"),
    text(2, "verb"),
    text(3, "group"),
    text(4, "version"),
    text(5, "resource"),
    text(6, "subresource"),
    text(7, "name"),
];
static PATH_ATTRIBUTES: [Field; 2] = [text(1, "path"), text(2, "verb")];
static ACCESS_SPEC: [Field; 5] = [
    one(1, "resourceAttributes", Is::Message(&ATTRIBUTES)),
    one(2, "nonResourceAttributes", Is::Message(&PATH_ATTRIBUTES)),
    text(3, "user"),
    many(4, "groups", Is::Text),
    text(6, "uid"),
];
static ACCESS: [Field; 2] = [one(1, "metadata", Is::Message(&META)), one(2, "spec", Is::Message(&ACCESS_SPEC))];
static RULES_SPEC: [Field; 1] = [text(1, "namespace")];
static RULES: [Field; 2] = [one(1, "metadata", Is::Message(&META)), one(2, "spec", Is::Message(&RULES_SPEC))];
static REQUIREMENT: [Field; 3] = [text(1, "key"), text(2, "operator"), many(3, "values", Is::Text)];
static LABEL_SELECTOR: [Field; 2] = [
    one(1, "matchLabels", Is::Texts),
    many(2, "matchExpressions", Is::Message(&REQUIREMENT)),
];
static RULE: [Field; 5] = [
    many(1, "verbs", Is::Text),
    many(2, "apiGroups", Is::Text),
    many(3, "resources", Is::Text),
    many(4, "resourceNames", Is::Text),
    many(5, "nonResourceURLs", Is::Text),
];
static AGGREGATION: [Field; 1] = [many(1, "clusterRoleSelectors", Is::Message(&LABEL_SELECTOR))];
static ROLE: [Field; 3] = [
    one(1, "metadata", Is::Message(&META)),
    many(2, "rules", Is::Message(&RULE)),
    one(3, "aggregationRule", Is::Message(&AGGREGATION)),
];
static SUBJECT: [Field; 4] = [text(1, "kind"), text(2, "apiGroup"), text(3, "name"), text(4, "namespace")];
static ROLE_REF: [Field; 3] = [text(1, "apiGroup"), text(2, "kind"), text(3, "name")];
static BINDING: [Field; 3] = [
    one(1, "metadata", Is::Message(&META)),
    many(2, "subjects", Is::Message(&SUBJECT)),
    one(3, "roleRef", Is::Message(&ROLE_REF)),
];
static BOUND_OBJECT: [Field; 4] = [text(1, "kind"), text(2, "apiVersion"), text(3, "name"), text(4, "uid")];
static TOKEN_SPEC: [Field; 3] = [
    many(1, "audiences", Is::Text),
    one(3, "boundObjectRef", Is::Message(&BOUND_OBJECT)),
    one(4, "expirationSeconds", NUMBER),
];
static TOKEN_REQUEST: [Field; 2] = [one(1, "metadata", Is::Message(&META)), one(2, "spec", Is::Message(&TOKEN_SPEC))];
static TOKEN_REVIEW_SPEC: [Field; 2] = [text(1, "token"), many(2, "audiences", Is::Text)];
static TOKEN_REVIEW: [Field; 2] = [
    one(1, "metadata", Is::Message(&META)),
    one(2, "spec", Is::Message(&TOKEN_REVIEW_SPEC)),
];
static BARE: [Field; 1] = [one(1, "metadata", Is::Message(&META))];
static TYPE: [Field; 2] = [text(1, "apiVersion"), text(2, "kind")];

fn table(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    Some(match (api_version, kind) {
        ("v1", "Namespace") => &NAMESPACE,
        ("v1", "ConfigMap") => &CONFIG_MAP,
        ("v1", "Secret") => &SECRET,
        ("v1", "ServiceAccount") => &SERVICE_ACCOUNT,
        ("v1", "Event") => &CORE_EVENT,
        ("events.k8s.io/v1", "Event") => &EVENT,
        ("coordination.k8s.io/v1", "Lease") => &LEASE,
        (_, "DeleteOptions") => &DELETE_OPTIONS,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview" | "SubjectAccessReview" | "LocalSubjectAccessReview") => &ACCESS,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => &RULES,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => &BARE,
        ("authentication.k8s.io/v1", "TokenRequest") => &TOKEN_REQUEST,
        ("authentication.k8s.io/v1", "TokenReview") => &TOKEN_REVIEW,
        ("rbac.authorization.k8s.io/v1", "Role" | "ClusterRole") => &ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => &BINDING,
        _ => return None,
    })
}

/// Decodes a body into the JSON form of its object.
pub fn decode(bytes: &[u8]) -> Result<Value, String> {
    let mut rest = bytes
        .strip_prefix(MAGIC)
        .ok_or("the body does not begin as Kubernetes protobuf does")?;
    let (mut kind, mut raw) = (Map::new(), None);
    while let Some((number, wire)) = next(&mut rest)? {
        match (number, wire) {
            (1, Wire::Bytes(part)) => kind = message(part, &TYPE)?,
            (2, Wire::Bytes(part)) => raw = Some(part),
            // An inner encoding or media type other than protobuf is not written by any client.
            _ => {}
        }
    }
    let word = |name: &str| kind.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, name) = (word("apiVersion"), word("kind"));
    let table = table(api_version, name).ok_or_else(|| format!("{api_version} {name} is not known in protobuf; send JSON"))?;
    let mut object = message(raw.unwrap_or_default(), table)?;
    object.insert("apiVersion".to_owned(), json!(api_version));
    object.insert("kind".to_owned(), json!(name));
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed,
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or("the protobuf body is cut off")?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number in the protobuf body is too long".to_owned())
}

fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], String> {
    let length = usize::try_from(length).map_err(|_| "a length in the protobuf body is too large")?;
    let (part, tail) = rest.split_at_checked(length).ok_or("the protobuf body is cut off")?;
    *rest = tail;
    Ok(part)
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<Option<(u64, Wire<'a>)>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let tag = varint(rest)?;
    let wire = match tag & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => take(rest, 8).map(|_| Wire::Fixed)?,
        2 => {
            let length = varint(rest)?;
            Wire::Bytes(take(rest, length)?)
        }
        5 => take(rest, 4).map(|_| Wire::Fixed)?,
        other => return Err(format!("wire type {other} is not used in Kubernetes protobuf")),
    };
    Ok(Some((tag >> 3, wire)))
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a text in the protobuf body is not UTF-8".to_owned())
}

fn message(mut rest: &[u8], fields: &[Field]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    while let Some((number, wire)) = next(&mut rest)? {
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        let value = match (&field.is, wire) {
            (Is::Texts, Wire::Bytes(part)) => {
                let (key, value) = entry(part)?;
                insert_entry(&mut object, field.name, key, Value::String(utf8(value)?));
                continue;
            }
            (Is::Blobs, Wire::Bytes(part)) => {
                let (key, value) = entry(part)?;
                insert_entry(
                    &mut object,
                    field.name,
                    key,
                    json!(base64::engine::general_purpose::STANDARD.encode(value)),
                );
                continue;
            }
            (Is::Text, Wire::Bytes(part)) if part.is_empty() && !field.many => continue,
            (Is::Text, Wire::Bytes(part)) => Value::String(utf8(part)?),
            (Is::Number { zero }, Wire::Varint(value)) if value != 0 || *zero => json!(value.cast_signed()),
            (Is::Number { .. }, Wire::Varint(_)) => continue,
            (Is::Bool, Wire::Varint(value)) => json!(value != 0),
            (Is::Time, Wire::Bytes(part)) => match time(part)? {
                Some(at) => json!(time_text(at)),
                None => continue,
            },
            (Is::MicroTime, Wire::Bytes(part)) => match time(part)? {
                Some(at) => json!(at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()),
                None => continue,
            },
            (Is::Raw, Wire::Bytes(mut part)) => match next(&mut part)? {
                Some((1, Wire::Bytes(text))) => serde_json::from_slice(text).map_err(|error| format!("{}: {error}", field.name))?,
                _ => continue,
            },
            (Is::Message(fields), Wire::Bytes(part)) => Value::Object(message(part, fields)?),
            _ => return Err(format!("{} has the wrong wire type", field.name)),
        };
        if field.many {
            let list = object.entry(field.name).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        } else {
            object.insert(field.name.to_owned(), value);
        }
    }
    Ok(object)
}

fn insert_entry(object: &mut Map<String, Value>, name: &str, key: String, value: Value) {
    let map = object.entry(name).or_insert_with(|| json!({}));
    if let Some(map) = map.as_object_mut() {
        map.insert(key, value);
    }
}

fn entry(mut rest: &[u8]) -> Result<(String, &[u8]), String> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while let Some((number, wire)) = next(&mut rest)? {
        match (number, wire) {
            (1, Wire::Bytes(part)) => key = part,
            (2, Wire::Bytes(part)) => value = part,
            _ => return Err("a map entry in the protobuf body is malformed".to_owned()),
        }
    }
    Ok((utf8(key)?, value))
}

/// The zero time is an empty message.
fn time(mut rest: &[u8]) -> Result<Option<jiff::Timestamp>, String> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0i64, 0i64);
    while let Some((number, wire)) = next(&mut rest)? {
        match (number, wire) {
            (1, Wire::Varint(value)) => seconds = value.cast_signed(),
            (2, Wire::Varint(value)) => nanos = value.cast_signed(),
            _ => {}
        }
    }
    let nanos = i32::try_from(nanos).map_err(|_| "a time in the protobuf body is out of range")?;
    jiff::Timestamp::new(seconds, nanos)
        .map(Some)
        .map_err(|_| "a time in the protobuf body is out of range".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, part: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(part.len()).expect("short")];
        out.extend_from_slice(part);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let kind = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &kind), field(2, raw), field(3, b""), field(4, b"")].concat()
    }

    #[test]
    fn a_secret_becomes_its_json_form() {
        let meta = [
            field(1, b"s"),
            field(2, b""),
            field(8, b""),
            vec![7 << 3, 0],
            field(11, &[field(1, b"k"), field(2, b"v")].concat()),
        ]
        .concat();
        let raw = [
            field(1, &meta),
            field(2, &[field(1, b"p"), field(2, b"q")].concat()),
            field(3, b"Opaque"),
            vec![5 << 3, 1],
        ]
        .concat();
        let decoded = decode(&envelope("v1", "Secret", &raw)).expect("decodes");
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s", "labels": { "k": "v" } },
            "data": { "p": "cQ==" }, "type": "Opaque", "immutable": true,
        });
        assert_eq!(decoded, expected);
    }

    #[test]
    fn times_and_zero_numbers_keep_their_meaning() {
        let time = [vec![1 << 3], vec![0x80, 0x92, 0xb8, 0xc3, 0x06], vec![2 << 3, 0x80, 0x89, 0x7a]].concat();
        let spec = [field(1, b"me"), vec![2 << 3, 15], field(3, &time), vec![5 << 3, 0]].concat();
        let decoded = decode(&envelope("coordination.k8s.io/v1", "Lease", &field(2, &spec))).expect("decodes");
        assert_eq!(decoded["spec"]["leaseTransitions"], 0);
        assert_eq!(decoded["spec"]["leaseDurationSeconds"], 15);
        assert_eq!(decoded["spec"]["acquireTime"], "2025-07-09T06:15:28.002000Z");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(decode(b"{}").is_err());
        assert!(decode(&envelope("v1", "Pod", b"")).is_err());
        assert!(decode(&[MAGIC, &[0x0a, 0xff][..]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let raw = [MAGIC.to_vec(), bytes.clone()].concat();
            prop_assert!(decode(&raw).map(|value| value.is_object()).unwrap_or(true));
            let short: Vec<u8> = bytes.into_iter().take(100).collect();
            prop_assert!(decode(&envelope("v1", "Event", &short)).map(|value| value.is_object()).unwrap_or(true));
        }
    }
}
