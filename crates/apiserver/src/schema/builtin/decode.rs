//! Decoding as into the Go types of the real server: a value of another type is refused in Go's words, and times and bytes get their one form.
//!
//! It comes before defaults and validation. `metadata` is not looked at here ([`crate::schema::metadata`] does), nor is what a schema leaves open.

use serde_json::{Map, Value};

use crate::schema::gotime::{self, Precision};
use crate::schema::metadata::go_kind;
use crate::schema::structural::{Additional, GO_BYTES, JsonType, Node, Structural};

/// Lists that Go writes even when they are empty; all others, and all maps, are then left out.
const KEPT_LISTS: [&str; 5] = ["conditions", "rules", "storedVersions", "verbs", "versions"];

/// Fields that hold microseconds; all other times hold seconds.
const MICROSECONDS: [&str; 4] = ["acquireTime", "eventTime", "lastObservedTime", "renewTime"];

/// Brings an object of a built-in kind into the form its Go type has.
///
/// # Errors
/// In Go's words, when it does not fit the type.
pub fn decode(kind: &str, schema: &Structural, value: &mut Value) -> Result<(), String> {
    let Some(map) = value.as_object_mut() else { return Ok(()) };
    let root = Place {
        kind,
        holder: kind.to_owned(),
        path: String::new(),
    };
    for (name, child) in map.iter_mut() {
        if let Some(node) = schema.root.properties.get(name)
            && !matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
        {
            visit(node, name, child, &root.field(name))?;
        }
    }
    leave_out(kind, &schema.root, map);
    Ok(())
}

/// Takes out what Go does not write: empty lists and maps; and in Events, whose fields are no pointers, empty texts and zero.
fn leave_out(kind: &str, node: &Node, map: &mut Map<String, Value>) {
    map.retain(|name, value| {
        let Some(node) = node.properties.get(name) else { return true };
        match value {
            Value::Array(list) => !list.is_empty() || node.typ != JsonType::Array || KEPT_LISTS.contains(&name.as_str()),
            Value::Object(map) => !map.is_empty() || !matches!(node.additional, Some(Additional::Schema(_))),
            Value::String(text) => !text.is_empty() || kind != "Event",
            Value::Number(number) => number.as_i64() != Some(0) || kind != "Event",
            _ => true,
        }
    });
}

/// Where a value is: the Go type that holds it, and its path.
struct Place<'a> {
    kind: &'a str,
    holder: String,
    path: String,
}

impl Place<'_> {
    fn field(&self, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        Place {
            holder: self.holder.clone(),
            path,
            ..*self
        }
    }

    fn within(&self, name: &str) -> Self {
        Place {
            holder: struct_name(self.kind, name),
            path: self.path.clone(),
            ..*self
        }
    }

    fn refused(&self, found: &str, wanted: &str) -> String {
        format!(
            "json: cannot unmarshal {found} into Go struct field {}.{} of type {wanted}",
            self.holder, self.path
        )
    }
}

fn visit(node: &Node, name: &str, value: &mut Value, place: &Place<'_>) -> Result<(), String> {
    if value.is_null() || node.int_or_string {
        return Ok(());
    }
    match (node.typ, &mut *value) {
        (JsonType::Any | JsonType::Unknown, _) => Ok(()),
        (JsonType::Object, Value::Object(map)) => object(node, name, map, place),
        (JsonType::Array, Value::Array(items)) => match &node.items {
            Some(item) => items.iter_mut().try_for_each(|value| visit(item, name, value, place)),
            None => Ok(()),
        },
        (JsonType::String, Value::String(text)) => match node.validation.format.as_deref() {
            Some(GO_BYTES) => {
                *text = canonical_base64(text)?;
                Ok(())
            }
            Some("date-time") => {
                let precision = if MICROSECONDS.contains(&name) {
                    Precision::Microseconds
                } else {
                    Precision::Seconds
                };
                *value = gotime::canonical(text, precision)?;
                Ok(())
            }
            _ => Ok(()),
        },
        (JsonType::Boolean, Value::Bool(_)) | (JsonType::Number, Value::Number(_)) => Ok(()),
        (JsonType::Integer, Value::Number(number)) => {
            let fits = match node.validation.format.as_deref() {
                Some("int32") => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                _ => number.as_i64().is_some(),
            };
            if fits {
                Ok(())
            } else {
                Err(place.refused(&format!("number {number}"), &go_type(node, place.kind, name)))
            }
        }
        (_, other) => Err(place.refused(go_kind(other), &go_type(node, place.kind, name))),
    }
}

fn object(node: &Node, name: &str, map: &mut Map<String, Value>, place: &Place<'_>) -> Result<(), String> {
    if let Some(Additional::Schema(values)) = &node.additional {
        for value in map.values_mut() {
            // Go's zero text.
            if value.is_null() && values.typ == JsonType::String {
                *value = Value::from("");
            }
            visit(values, name, value, place)?;
        }
        return Ok(());
    }
    let inside = place.within(name);
    for (name, child) in map.iter_mut() {
        if let Some(node) = node.properties.get(name) {
            visit(node, name, child, &inside.field(name))?;
        }
    }
    leave_out(place.kind, node, map);
    Ok(())
}

fn struct_name(kind: &str, field: &str) -> String {
    let known = match field {
        "spec" | "status" => {
            let mut letters = field.chars();
            let head = letters.next().map(|c| c.to_ascii_uppercase());
            return kind.chars().chain(head).chain(letters).collect();
        }
        "involvedObject" | "regarding" | "related" | "secrets" => "ObjectReference",
        "imagePullSecrets" => "LocalObjectReference",
        "source" | "deprecatedSource" => "EventSource",
        "series" => "EventSeries",
        "conditions" => return format!("{kind}Condition"),
        "rules" => "PolicyRule",
        "subjects" => "Subject",
        "roleRef" => "RoleRef",
        "aggregationRule" => "AggregationRule",
        "clusterRoleSelectors" => "LabelSelector",
        "matchExpressions" => "LabelSelectorRequirement",
        "names" | "acceptedNames" => "CustomResourceDefinitionNames",
        "versions" => "CustomResourceDefinitionVersion",
        "conversion" => "CustomResourceConversion",
        "additionalPrinterColumns" => "CustomResourceColumnDefinition",
        "subresources" => "CustomResourceSubresources",
        "scale" => "CustomResourceSubresourceScale",
        "selectableFields" => "SelectableField",
        "schema" => "CustomResourceValidation",
        other => other,
    };
    known.to_owned()
}

fn go_type(node: &Node, kind: &str, field: &str) -> String {
    match node.typ {
        JsonType::String if node.validation.format.as_deref() == Some(GO_BYTES) => "[]uint8".to_owned(),
        JsonType::String if (kind, field) == ("Secret", "type") => "v1.SecretType".to_owned(),
        JsonType::String => "string".to_owned(),
        JsonType::Boolean => "bool".to_owned(),
        JsonType::Number => "float64".to_owned(),
        JsonType::Integer => node.validation.format.clone().unwrap_or_else(|| "int64".to_owned()),
        JsonType::Array => match &node.items {
            Some(item) => format!("[]{}", go_type(item, kind, field)),
            None => "[]interface {}".to_owned(),
        },
        JsonType::Object => match &node.additional {
            Some(Additional::Schema(values)) => format!("map[string]{}", go_type(values, kind, field)),
            _ => format!("v1.{}", struct_name(kind, field)),
        },
        JsonType::Any | JsonType::Unknown => "interface {}".to_owned(),
    }
}

/// Base64 without line breaks; where it is none, the place that Go's decoder stops at.
fn canonical_base64(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let bad = |at: usize| Err(format!("illegal base64 data at input byte {at}"));
    let line_break = |at: usize| matches!(bytes.get(at), Some(b'\n' | b'\r'));
    let mut out = String::with_capacity(text.len());
    let mut quantum = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\n' | b'\r' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {
                out.push(char::from(*byte));
                quantum = (quantum + 1) % 4;
            }
            b'=' if quantum >= 2 => {
                at += 1;
                if quantum == 2 {
                    while line_break(at) {
                        at += 1;
                    }
                    match bytes.get(at) {
                        Some(b'=') => at += 1,
                        Some(_) => return bad(at - 1),
                        None => return bad(at),
                    }
                }
                while line_break(at) {
                    at += 1;
                }
                if at < bytes.len() {
                    return bad(at);
                }
                out.push_str(if quantum == 2 { "==" } else { "=" });
                return Ok(zero_rest(out));
            }
            _ => return bad(at),
        }
        at += 1;
    }
    if quantum == 0 { Ok(out) } else { bad(at - quantum) }
}

/// Bits after the last byte do not count; written again, they are zero.
fn zero_rest(text: String) -> String {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
    let lenient = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical);
    match GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(&text) {
        Ok(bytes) => STANDARD.encode(bytes),
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decoded(group: &str, kind: &str, mut value: Value) -> Result<Value, String> {
        let schema = super::super::structural(group, "v1", kind).expect("a built-in kind");
        decode(kind, schema, &mut value).map(|()| value)
    }

    #[test]
    fn another_type_is_refused_in_the_words_of_go() {
        for (group, kind, value, why) in [
            (
                "",
                "ConfigMap",
                json!({ "data": { "a": 1 } }),
                "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
            ),
            (
                "",
                "ConfigMap",
                json!({ "data": [] }),
                "json: cannot unmarshal array into Go struct field ConfigMap.data of type map[string]string",
            ),
            (
                "",
                "Secret",
                json!({ "data": { "a": 1 } }),
                "json: cannot unmarshal number into Go struct field Secret.data of type []uint8",
            ),
            (
                "",
                "ServiceAccount",
                json!({ "imagePullSecrets": [{ "name": 1 }] }),
                "json: cannot unmarshal number into Go struct field LocalObjectReference.imagePullSecrets.name of type string",
            ),
            (
                "",
                "ServiceAccount",
                json!({ "imagePullSecrets": {} }),
                "json: cannot unmarshal object into Go struct field ServiceAccount.imagePullSecrets of type []v1.LocalObjectReference",
            ),
            (
                "coordination.k8s.io",
                "Lease",
                json!({ "spec": { "leaseDurationSeconds": 1.5 } }),
                "json: cannot unmarshal number 1.5 into Go struct field LeaseSpec.spec.leaseDurationSeconds of type int32",
            ),
            (
                "coordination.k8s.io",
                "Lease",
                json!({ "spec": 5 }),
                "json: cannot unmarshal number into Go struct field Lease.spec of type v1.LeaseSpec",
            ),
            (
                "coordination.k8s.io",
                "Lease",
                json!({ "spec": { "renewTime": "2026-01-01T00:00:00Z" } }),
                "parsing time \"2026-01-01T00:00:00Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\"",
            ),
        ] {
            assert_eq!(decoded(group, kind, value.clone()), Err(why.to_owned()), "{value}");
        }
    }

    #[test]
    fn times_and_bytes_get_one_form() {
        let event = json!({ "firstTimestamp": "2026-01-01T02:00:00.5+02:00", "eventTime": "2026-01-01T00:00:00.000001Z" });
        assert_eq!(
            decoded("", "Event", event),
            Ok(json!({ "firstTimestamp": "2026-01-01T00:00:00Z", "eventTime": "2026-01-01T00:00:00.000001Z" }))
        );
        let secret = json!({ "data": { "a": "YW\nJj", "b": "YR==", "c": "" } });
        assert_eq!(
            decoded("", "Secret", secret),
            Ok(json!({ "data": { "a": "YWJj", "b": "YQ==", "c": "" } }))
        );
        assert_eq!(
            decoded("", "ConfigMap", json!({ "data": { "a": null } })),
            Ok(json!({ "data": { "a": "" } }))
        );
    }

    #[test]
    fn base64_is_judged_as_go_judges_it() {
        for (text, at) in [
            ("!", 0),
            ("YQ", 0),
            ("YWJjYQ", 4),
            ("YQ=", 3),
            ("YQ=x", 2),
            ("YQ==x", 4),
            ("=", 0),
            ("YWJjZ===", 5),
            ("YW!j", 2),
        ] {
            assert_eq!(
                canonical_base64(text),
                Err(format!("illegal base64 data at input byte {at}")),
                "{text}"
            );
        }
    }
}
