//! The v2 document in binary: protobuf messages of gnostic's `openapi.v2`, the only form in which client-go asks for it (kubectl does to validate kinds that it has no v3 schema of).
//!
//! It carries what the document made here holds, and leaves out what that never does.

use serde_json::{Map, Value};

/// Media type of the answer.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A message in the making. Empty values are left out, as proto3 does.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits, and that more follow.
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn message(mut self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0);
        self
    }

    fn text(mut self, field: u64, value: Option<&Value>) -> Self {
        if let Some(text) = value.and_then(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    fn texts(mut self, field: u64, value: Option<&Value>) -> Self {
        for text in list(value).filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
        self
    }

    fn whole(mut self, field: u64, value: Option<&Value>) -> Self {
        let number = value.and_then(|v| v.as_u64().or_else(|| v.as_bool().map(u64::from)));
        if let Some(number) = number.filter(|n| *n > 0) {
            self.varint(field << 3);
            self.varint(number);
        }
        self
    }

    fn real(mut self, field: u64, value: Option<&Value>) -> Self {
        if let Some(number) = value.and_then(Value::as_f64).filter(|n| *n != 0.0) {
            self.varint(field << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
        self
    }

    fn each(self, field: u64, values: impl IntoIterator<Item = Message>) -> Self {
        values.into_iter().fold(self, |out, value| out.message(field, value))
    }
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn fields(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

/// Any value, as YAML; JSON is.
fn any(value: &Value) -> Message {
    let mut out = Message::default();
    out.bytes(2, value.to_string().as_bytes());
    out
}

fn named(name: &str, value: Message) -> Message {
    let mut out = Message::default();
    out.bytes(1, name.as_bytes());
    out.message(2, value)
}

fn extensions(object: &Map<String, Value>) -> impl Iterator<Item = Message> {
    object
        .iter()
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| named(name, any(value)))
}

fn of(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn schema(value: &Value) -> Message {
    let object = of(value);
    let get = |name: &str| object.get(name);
    let mut out = Message::default()
        .text(1, get("$ref"))
        .text(2, get("format"))
        .text(3, get("title"))
        .text(4, get("description"))
        .each(5, get("default").map(any))
        .real(6, get("multipleOf"))
        .real(7, get("maximum"))
        .whole(8, get("exclusiveMaximum"))
        .real(9, get("minimum"))
        .whole(10, get("exclusiveMinimum"))
        .whole(11, get("maxLength"))
        .whole(12, get("minLength"))
        .text(13, get("pattern"))
        .whole(14, get("maxItems"))
        .whole(15, get("minItems"))
        .whole(16, get("uniqueItems"))
        .whole(17, get("maxProperties"))
        .whole(18, get("minProperties"))
        .texts(19, get("required"))
        .each(20, list(get("enum")).map(any));
    out = match get("additionalProperties") {
        Some(allowed @ Value::Bool(_)) => out.message(21, Message::default().whole(2, Some(allowed))),
        Some(of_values) => out.message(21, Message::default().message(1, schema(of_values))),
        None => out,
    };
    out.each(22, get("type").map(|kind| Message::default().text(1, Some(kind))))
        .each(23, get("items").map(|items| Message::default().message(1, schema(items))))
        .each(25, get("properties").map(|_| schemas(get("properties"))))
        .each(31, extensions(&object))
}

fn schemas(value: Option<&Value>) -> Message {
    Message::default().each(1, fields(value).map(|(name, value)| named(name, schema(value))))
}

fn parameter(value: &Value) -> Message {
    let get = |name: &str| value.get(name);
    let place = get("in").and_then(Value::as_str).unwrap_or_default();
    let made = if place == "body" {
        let body = Message::default()
            .text(1, get("description"))
            .text(2, get("name"))
            .text(3, get("in"))
            .whole(4, get("required"))
            .each(5, get("schema").map(schema));
        Message::default().message(1, body)
    } else {
        // A query parameter has one field more than one of the path, which moves what follows.
        let (kind, more) = if place == "query" { (3, 1) } else { (4, 0) };
        let simple = Message::default()
            .whole(1, get("required"))
            .text(2, get("in"))
            .text(3, get("description"))
            .text(4, get("name"))
            .text(5 + more, get("type"))
            .whole(19 + more, get("uniqueItems"));
        Message::default().message(2, Message::default().message(kind, simple))
    };
    Message::default().message(1, made)
}

fn operation(value: &Value) -> Message {
    let object = of(value);
    let answers = fields(object.get("responses")).map(|(code, answer)| {
        let shown = answer.get("schema").map(|s| Message::default().message(1, schema(s)));
        let response = Message::default().text(1, answer.get("description")).each(2, shown);
        named(code, Message::default().message(1, response))
    });
    Message::default()
        .texts(6, object.get("produces"))
        .texts(7, object.get("consumes"))
        .each(8, list(object.get("parameters")).map(parameter))
        .message(9, Message::default().each(1, answers))
        .each(13, extensions(&object))
}

fn path(value: &Value) -> Message {
    let verbs = [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")];
    let out = verbs.into_iter().fold(Message::default(), |out, (field, verb)| {
        out.each(field, value.get(verb).map(operation))
    });
    out.each(9, list(value.get("parameters")).map(parameter))
}

/// The document.
pub fn document(value: &Value) -> Vec<u8> {
    let info = value.get("info");
    let about = Message::default()
        .text(1, info.and_then(|i| i.get("title")))
        .text(2, info.and_then(|i| i.get("version")));
    let paths = fields(value.get("paths")).map(|(name, value)| named(name, path(value)));
    Message::default()
        .text(1, value.get("swagger"))
        .message(2, about)
        .message(8, Message::default().each(2, paths))
        .message(9, schemas(value.get("definitions")))
        .0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_has_the_fields_of_gnostic() {
        // Numbers and wire types written out by hand from gnostic's OpenAPIv2.proto.
        let made = schema(&json!({"description": "d", "type": "object", "properties": {"a": {"$ref": "#/x"}}, "x-y": [1]}));
        let mut expected = b"\x22\x01d".to_vec();
        expected.extend(b"\xb2\x01\x08\x0a\x06object");
        expected.extend(b"\xca\x01\x0c\x0a\x0a\x0a\x01a\x12\x05\x0a\x03#/x");
        expected.extend(b"\xfa\x01\x0c\x0a\x03x-y\x12\x05\x12\x03[1]");
        assert_eq!(made.0, expected);
    }

    #[test]
    fn long_values_have_long_lengths() {
        let made = schema(&json!({"pattern": "a".repeat(300), "maxLength": 300, "minimum": 1.5}));
        assert_eq!(made.0[..10], [0x49, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x58]);
        assert_eq!(made.0[10..15], [0xac, 0x02, 0x6a, 0xac, 0x02]);
    }
}
