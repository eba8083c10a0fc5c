//! Request bodies: bounded in size and depth, JSON or YAML, duplicate fields noticed.

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::protobuf;
use super::status::{ApiError, ApiResult};

/// The real server's limit of a request body.
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// How long a body may take to arrive.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Reads a body of at most [`MAX_BODY`] bytes.
pub async fn read(body: Body) -> ApiResult<bytes::Bytes> {
    let Ok(result) = tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await else {
        return Err(ApiError::new(408, "Timeout", "the body of the request did not arrive in time"));
    };
    match result {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => Err(ApiError::too_large(MAX_BODY)),
        Err(error) => Err(ApiError::bad_request(format!("the body of the request could not be read: {error}"))),
    }
}

/// A decoded body with the paths of the fields that were given twice.
#[derive(Debug)]
pub struct Decoded {
    /// The last one of duplicate fields counts.
    pub value: Value,
    /// Paths such as `spec.size`.
    pub duplicates: Vec<String>,
}

/// The bare media type of a request, lower case.
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a body's media type can be decoded; 415 when not. Core kinds may come as protobuf.
pub fn accepts(headers: &HeaderMap, typed: bool) -> ApiResult<()> {
    match media_type(headers).as_str() {
        "" | "application/json" | "application/yaml" => Ok(()),
        protobuf::MEDIA_TYPE if typed => Ok(()),
        _ if typed => Err(unsupported(
            "application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
        _ => Err(unsupported("application/json, application/yaml")),
    }
}

/// Decodes the body of a create, an update or a delete.
pub fn decode(headers: &HeaderMap, bytes: &[u8], typed: bool) -> ApiResult<Decoded> {
    accepts(headers, typed)?;
    match media_type(headers).as_str() {
        "application/yaml" => decode_yaml(bytes),
        protobuf::MEDIA_TYPE => protobuf::decode(bytes)
            .map(|value| Decoded {
                value,
                duplicates: Vec::new(),
            })
            .map_err(ApiError::bad_request),
        _ => decode_json(bytes),
    }
}

/// 415.
pub fn unsupported(accepted: &str) -> ApiError {
    let text = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
    ApiError::new(415, "UnsupportedMediaType", text)
}

/// Decodes JSON; deeper than serde's recursion limit (128) is refused.
pub fn decode_json(bytes: &[u8]) -> ApiResult<Decoded> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let path = Path::Root;
    let value = Tree {
        path: &path,
        duplicates: &mut duplicates,
    }
    .deserialize(&mut deserializer)
    .and_then(|value| deserializer.end().map(|()| value))
    .map_err(|error| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
    Ok(Decoded { value, duplicates })
}

/// Decodes YAML (or JSON, its subset).
pub fn decode_yaml(bytes: &[u8]) -> ApiResult<Decoded> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
        && let Ok(decoded) = decode_json(bytes)
    {
        return Ok(decoded);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ApiError::bad_request("the YAML body is not UTF-8"))?;
    let value: Value =
        serde_saphyr::from_str(text).map_err(|error| ApiError::bad_request(format!("error converting YAML to JSON: {error}")))?;
    Ok(Decoded {
        value,
        duplicates: Vec::new(),
    })
}

/// Where the decoder is; rendered only when there is something to report.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

struct Tree<'a> {
    path: &'a Path<'a>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("the number is not finite"))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        loop {
            let path = Path::Index(self.path, out.len());
            match seq.next_element_seed(Tree {
                path: &path,
                duplicates: &mut *self.duplicates,
            })? {
                Some(value) => out.push(value),
                None => return Ok(Value::Array(out)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Field(self.path, &key);
            let value = map.next_value_seed(Tree {
                path: &path,
                duplicates: &mut *self.duplicates,
            })?;
            if out.contains_key(&key) {
                self.duplicates.push(path.to_string());
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_named_by_path_and_the_last_one_counts() {
        let decoded = decode_json(br#"{"spec":{"a":1,"a":2,"list":[{"b":1,"b":1}]}}"#).expect("decodes");
        assert_eq!(decoded.duplicates, ["spec.a", "spec.list[0].b"]);
        assert_eq!(decoded.value["spec"]["a"], 2);
    }

    #[test]
    fn deep_nesting_is_refused_without_exhausting_the_stack() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(decode_json(deep.as_bytes()).expect_err("refused").code, 400);
        assert_eq!(decode_yaml(deep.as_bytes()).expect_err("refused").code, 400);
        let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert_eq!(decode_yaml(objects.as_bytes()).expect_err("refused").code, 400);
    }

    #[test]
    fn yaml_is_accepted() {
        let decoded = decode_yaml(b"kind: Thing\nspec:\n  size: 3\n  on: true\n").expect("decodes");
        assert_eq!(
            decoded.value,
            serde_json::json!({ "kind": "Thing", "spec": { "size": 3, "on": true } })
        );
    }
}
